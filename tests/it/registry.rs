//! The schema registry answers as Confluent's does, keeps one id for one schema, and survives its database's bad days.

use crate::clients::{go_judge, java_judge, judge};
use crate::commands::Frozen;
use crate::gateway::Door;
use crate::outbox::a_relay_publishes;
use crate::platform::{Platform, Role, eventually, shared};
use millrace_local::{FreePorts, Server};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::spawn_blocking;

/// How much a body may have (producers/src/registry.rs).
const BODY_BYTES_MAX: usize = 1 << 20;

/// A registry's URL, and its clients.
struct Registry<'url>(&'url str);

impl Registry<'_> {
    async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = reqwest::Client::new().request(method, format!("{}{path}", self.0));
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, None).await
    }

    /// Registers a schema; its id, if the answer is one.
    async fn register(&self, subject: &str, schema: &Value) -> (u16, Value) {
        let body = json!({ "schema": schema.to_string() });
        self.send("POST", &format!("/subjects/{subject}/versions"), Some(&body)).await
    }

    async fn id(&self, subject: &str, schema: &Value) -> i64 {
        let mut found = (503, Value::Null);
        eventually("it is not too much at once for a busy machine", async || {
            found = self.register(subject, schema).await;
            found.0 != 503
        })
        .await;
        assert_eq!(found.0, 200, "{}", found.1);
        found.1["id"].as_i64().unwrap()
    }
}

/// The registry that all tests share.
fn registry() -> Registry<'static> {
    Registry(&shared().platform.addresses().registry)
}

/// A name that no other test has, for subjects and for records: what is registered stays.
fn name() -> String {
    format!("It{}", uuid::Uuid::new_v4().simple())
}

fn record(name: &str, fields: &[Value]) -> Value {
    let fields = [&[json!({ "name": "id", "type": "string" })], fields].concat();
    json!({ "type": "record", "name": name, "fields": fields })
}

fn optional(field: &str, kind: &str) -> Value {
    json!({ "name": field, "type": ["null", kind], "default": null })
}

/// A registry of one test alone over the shared database.
async fn another(port: u16) -> (Role, String) {
    let (platform, url) = (&shared().platform, format!("http://127.0.0.1:{port}"));
    let mut command = platform.command();
    command.arg("registry").env("MILLRACE_REGISTRY__LISTEN", format!("127.0.0.1:{port}"));
    let role = Role::start(&mut command, &platform.data, "registry");
    eventually("the other registry answers", async || reqwest::get(&url).await.is_ok()).await;
    (role, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_has_one_id_in_every_subject_every_registry_and_every_restart() {
    let (name, mut ports) = (name(), FreePorts::default());
    let schema = record(&name, &[]);
    let id = registry().id(&format!("{name}-one"), &schema).await;
    let port = ports.take().unwrap();
    for _ in 0..2 {
        let (role, url) = another(port).await;
        let other = Registry(&url);
        assert_eq!(other.id(&format!("{name}-two"), &schema).await, id);
        assert_eq!(other.get(&format!("/schemas/ids/{id}")).await, (200, json!({ "schema": schema.to_string() })));
        assert_ne!(other.id(&format!("{name}-three"), &record(&name, &[optional("a", "int")])).await, id);
        assert_eq!(role.stop(), 0);
    }
    let (_, versions) = registry().get(&format!("/schemas/ids/{id}/versions")).await;
    let version = |subject| json!({ "subject": format!("{name}-{subject}"), "version": 1 });
    assert_eq!(versions, json!([version("one"), version("two")]));
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_registrations_at_once_make_forty_versions_without_a_gap() {
    let (name, mut ports) = (name(), FreePorts::default());
    let (role, url) = another(ports.take().unwrap()).await;
    let register = async |number: usize| {
        let registry = if number.is_multiple_of(2) { registry() } else { Registry(&url) };
        let distinct = record(&name, &[optional(&format!("field_{number}"), "long")]);
        let same = record(&format!("{name}Same"), &[]);
        (registry.id(&name, &distinct).await, registry.id(&format!("{name}-{number}"), &same).await)
    };
    let ids = futures_util::future::join_all((0..40).map(register)).await;
    let (mut distinct, mut same): (Vec<_>, Vec<_>) = ids.into_iter().unzip();
    distinct.sort_unstable();
    distinct.dedup();
    same.dedup();
    assert_eq!((distinct.len(), same.len()), (40, 1));
    let versions: Vec<i64> = (1..=40).collect();
    assert_eq!(registry().get(&format!("/subjects/{name}/versions")).await, (200, json!(versions)));
    assert_eq!(role.stop(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incompatible_version_is_refused_by_field_and_rule_until_its_subject_says_otherwise() {
    let name = name();
    registry().id(&name, &record(&name, &[optional("amount", "long")])).await;
    let broken = record(&name, &[json!({ "name": "amount", "type": "string" })]);
    let (status, answer) = registry().register(&name, &broken).await;
    assert_eq!((status, &answer["error_code"]), (409, &json!(409)), "{answer}");
    let message = answer["message"].as_str().unwrap();
    for reason in [
        "$.fields[1].type [type]: can't read what version 1 wrote: long can't become string",
        "$.fields[1].type [union]: version 1 can't read what this one writes: no branch of the union takes string",
    ] {
        assert!(message.contains(reason), "{message}");
    }

    let body = json!({ "schema": broken.to_string() });
    for version in ["", "/1", "/latest"] {
        let path = format!("/compatibility/subjects/{name}/versions{version}?verbose=true");
        let (status, answer) = registry().send("POST", &path, Some(&body)).await;
        assert_eq!((status, &answer["is_compatible"]), (200, &json!(false)));
        let reason = answer["messages"][0].as_str().unwrap();
        assert!(message.contains(reason), "{reason} in {message}");
    }
    assert_eq!(registry().get(&format!("/subjects/{name}/versions")).await, (200, json!([1])));

    let none = json!({ "compatibility": "NONE" });
    assert_eq!(registry().send("PUT", &format!("/config/{name}"), Some(&none)).await, (200, none));
    let level = json!({ "compatibilityLevel": "NONE" });
    assert_eq!(registry().get(&format!("/config/{name}")).await, (200, level));
    registry().id(&name, &broken).await;
    assert_eq!(registry().get(&format!("/subjects/{name}/versions")).await, (200, json!([1, 2])));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_and_what_is_no_schema_have_confluents_codes() {
    let name = name();
    registry().id(&name, &record(&name, &[])).await;
    let refused = async |path: String| {
        let (status, answer) = registry().get(&path).await;
        (status, answer["error_code"].as_i64().unwrap())
    };
    assert_eq!(refused("/subjects/NoSuchSubject/versions".into()).await, (404, 40401));
    assert_eq!(refused("/subjects/NoSuchSubject/versions/1".into()).await, (404, 40401));
    assert_eq!(refused(format!("/subjects/{name}/versions/2")).await, (404, 40402));
    assert_eq!(refused(format!("/subjects/{name}/versions/zero")).await, (422, 42202));
    assert_eq!(refused("/schemas/ids/2147483647".into()).await, (404, 40403));
    assert_eq!(refused("/subjects/%ff/versions".into()).await, (400, 400), "also where the path is no text");
    assert_eq!(refused(format!("/config/{name}")).await, (404, 40408));
    let unknown = json!({ "schema": record(&name, &[optional("a", "int")]).to_string() });
    let (status, answer) = registry().send("POST", &format!("/subjects/{name}"), Some(&unknown)).await;
    assert_eq!((status, &answer["error_code"]), (404, &json!(40403)));

    let (status, answer) = registry().register(&name, &json!({ "type": "record", "name": "NoFields" })).await;
    assert_eq!((status, &answer["error_code"]), (422, &json!(42201)), "{answer}");
    let large = json!({ "type": "string", "doc": "x".repeat(BODY_BYTES_MAX) });
    let (status, answer) = registry().register(&name, &large).await;
    assert_eq!((status, &answer["error_code"]), (413, &json!(413)), "{answer}");
    assert_eq!(registry().get(&format!("/subjects/{name}/versions")).await, (200, json!([1])));
}

/// What an answer says, where it is no refusal.
async fn delete(path: &str) -> Result<Value, i64> {
    let (status, answer) = registry().send("DELETE", path, None).await;
    if status == 200 { Ok(answer) } else { Err(answer["error_code"].as_i64().unwrap()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_deleted_in_two_steps_and_ids_keep_their_meaning() {
    let name = name();
    let (first, second) = (record(&name, &[]), record(&name, &[optional("a", "int")]));
    let id = registry().id(&name, &first).await;
    registry().id(&name, &second).await;
    let (subject, one) = (format!("/subjects/{name}"), format!("/subjects/{name}/versions/1"));
    let listed = async |query: &str| registry().get(&format!("{subject}/versions{query}")).await.1;

    assert_eq!(delete(&format!("{one}?permanent=true")).await, Err(40407));
    assert_eq!(delete(&one).await, Ok(json!(1)));
    assert_eq!(delete(&one).await, Err(40406));
    assert_eq!(registry().get(&one).await.0, 404);
    assert_eq!(registry().get(&format!("{one}?deleted=true")).await.0, 200);
    assert_eq!((listed("").await, listed("?deleted=true").await), (json!([2]), json!([1, 2])));
    assert_eq!(listed("?deletedOnly=true").await, json!([1]));
    assert_eq!(registry().id(&name, &first).await, id, "registered again it is the same schema, and a new version");
    assert_eq!(listed("").await, json!([2, 3]));

    assert_eq!(delete(&format!("{subject}?permanent=true")).await, Err(40405));
    registry().send("PUT", &format!("/config/{name}"), Some(&json!({ "compatibility": "NONE" }))).await;
    assert_eq!(delete(&subject).await, Ok(json!([2, 3])));
    assert_eq!(delete(&subject).await, Err(40404));
    assert_eq!(registry().get(&format!("/config/{name}")).await.1["error_code"], 40408, "its settings went with it");
    let subjects = async |query: &str| registry().get(&format!("/subjects?subjectPrefix={name}{query}")).await.1;
    assert_eq!((subjects("").await, subjects("&deleted=true").await), (json!([]), json!([name])));
    assert_eq!(delete(&format!("{subject}?permanent=true")).await, Ok(json!([1, 2, 3])));
    assert_eq!(delete(&subject).await, Err(40401));
    assert_eq!(subjects("&deleted=true").await, json!([]));
    assert_eq!(registry().get(&format!("/schemas/ids/{id}")).await, (200, json!({ "schema": first.to_string() })));
    assert_eq!(registry().id(&name, &first).await, id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_may_refer_to_others_which_then_stay() {
    let (address, parcel) = (name(), name());
    registry().id(&address, &record(&address, &[])).await;
    let refers = |field: &str| {
        let schema = record(&parcel, &[json!({ "name": field, "type": ["null", address], "default": null })]);
        let reference = json!({ "name": address, "subject": address, "version": 1 });
        json!({ "schema": schema.to_string(), "references": [reference] })
    };
    let versions = format!("/subjects/{parcel}/versions");
    let (status, answer) = registry().send("POST", &versions, Some(&refers("to"))).await;
    assert_eq!(status, 200, "{answer}");
    let id = answer["id"].as_i64().unwrap();
    let (_, found) = registry().get(&format!("/schemas/ids/{id}")).await;
    assert_eq!((&found["schema"], &found["references"]), (&refers("to")["schema"], &refers("to")["references"]));
    let (_, looked_up) = registry().send("POST", &format!("/subjects/{parcel}"), Some(&refers("to"))).await;
    assert_eq!((&looked_up["id"], &looked_up["references"]), (&json!(id), &found["references"]));
    let (_, resolved) = registry().get(&format!("/schemas/ids/{id}?format=resolved")).await;
    assert!(resolved["schema"].as_str().unwrap().contains("\"name\":\"id\""), "{resolved}");
    let read = millrace_schemas::registry::Registry::new(registry().0).unwrap();
    let read = read.by_id(u32::try_from(id).unwrap()).await.unwrap();
    assert_eq!(read.fullname, parcel, "our own client puts the parts together");

    let one = format!("/subjects/{address}/versions/1");
    assert_eq!(registry().get(&format!("{one}/referencedby")).await, (200, json!([id])));
    assert_eq!((delete(&one).await, delete(&format!("/subjects/{address}")).await), (Err(42206), Err(42206)));
    assert_eq!(registry().send("POST", &versions, Some(&refers("from"))).await.0, 200, "compatibility looks into them");
    let mut nowhere = refers("back");
    nowhere["references"][0]["version"] = json!(7);
    assert_eq!(registry().send("POST", &versions, Some(&nowhere)).await.1["error_code"], 42201);
    assert_eq!(delete(&format!("/subjects/{parcel}")).await, Ok(json!([1, 2])));
    assert_eq!(delete(&one).await, Ok(json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subject_has_a_level_and_a_mode_of_its_own_until_they_are_taken_away() {
    let name = name();
    registry().id(&name, &record(&name, &[])).await;
    for (setting, shown, asked, values, wrong) in [
        ("config", "compatibilityLevel", "compatibility", ["FULL_TRANSITIVE", "FORWARD"], 42203),
        ("mode", "mode", "mode", ["READWRITE", "READONLY"], 42204),
    ] {
        let (path, [default, own]) = (format!("/{setting}/{name}"), values);
        let none = if setting == "config" { 40408 } else { 40409 };
        assert_eq!(registry().get(&path).await.1["error_code"], none);
        assert_eq!(registry().get(&format!("{path}?defaultToGlobal=true")).await.1, json!({ shown: default }));
        let set = json!({ asked: own });
        assert_eq!(registry().send("PUT", &path, Some(&set)).await, (200, set));
        assert_eq!(registry().get(&path).await.1, json!({ shown: own }));
        let refused = registry().send("PUT", &path, Some(&json!({ asked: "IMPORT" }))).await;
        assert_eq!((refused.0, refused.1["error_code"].as_i64()), (422, Some(wrong)));
    }
    let more = json!({ "compatibility": "NONE", "normalize": true });
    let refused = registry().send("PUT", &format!("/config/{name}"), Some(&more)).await;
    assert_eq!((refused.0, &refused.1["error_code"]), (422, &json!(42205)), "{refused:?}");
    let ruled = json!({ "schema": "\"string\"", "ruleSet": { "domainRules": [{ "name": "r" }] } });
    let refused = registry().send("POST", &format!("/subjects/{name}/versions"), Some(&ruled)).await;
    assert_eq!((refused.0, &refused.1["error_code"]), (422, &json!(42201)), "{refused:?}");
    let (status, answer) = registry().register(&name, &record(&name, &[optional("a", "int")])).await;
    assert_eq!((status, &answer["error_code"]), (422, &json!(42205)), "{answer}");
    assert_eq!(delete(&format!("/subjects/{name}")).await, Err(42205));
    registry().id(&name, &record(&name, &[])).await; // what it has is no change
    assert_eq!(delete(&format!("/mode/{name}")).await, Ok(json!({ "mode": "READONLY" })));
    assert_eq!(delete(&format!("/config/{name}")).await, Ok(json!({ "compatibilityLevel": "FORWARD" })));
    assert_eq!(delete(&format!("/config/{name}")).await, Err(40408));
    registry().id(&name, &record(&name, &[optional("a", "int")])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_come_by_page_and_schemas_may_be_compared_as_normally_written() {
    let name = name();
    let first = record(&name, &[]);
    let id = registry().id(&name, &first).await;
    registry().id(&name, &record(&name, &[optional("a", "int")])).await;
    let listed = async |query: &str| {
        let (_, listed) = registry().get(&format!("/schemas?subjectPrefix={name}{query}")).await;
        let versions: Vec<_> = listed.as_array().unwrap().iter().map(|one| one["version"].as_i64().unwrap()).collect();
        versions
    };
    assert_eq!((listed("").await, listed("&latestOnly=true").await), (vec![1, 2], vec![2]));
    assert_eq!(
        (listed("&offset=1").await, listed("&limit=1").await, listed("&limit=-1").await),
        (vec![2], vec![1], vec![1, 2])
    );

    let mut other = first.clone();
    other["fields"][0]["type"] = json!({ "type": "string" });
    other["fields"][0]["order"] = json!("ascending");
    let body = json!({ "schema": other.to_string() });
    let (status, _) = registry().send("POST", &format!("/subjects/{name}"), Some(&body)).await;
    assert_eq!(status, 404);
    let (status, found) = registry().send("POST", &format!("/subjects/{name}?normalize=true"), Some(&body)).await;
    assert_eq!((status, &found["id"], &found["version"]), (200, &json!(id), &json!(1)));
    let path = format!("/subjects/{name}/versions?normalize=true");
    assert_eq!(registry().send("POST", &path, Some(&body)).await, (200, json!({ "id": id })));
}

/// A connection of somebody who begins to ask and does not end.
async fn half_a_request(url: &str) -> TcpStream {
    let mut stream = TcpStream::connect(url.split_once("://").unwrap().1).await.unwrap();
    stream.write_all(b"GET /livez HT").await.unwrap();
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn while_it_is_away_roles_start_and_events_flow() {
    let mut platform = Platform::start().await;
    let postgres = platform.postgres().await;
    let orders = async || {
        let counted = sqlx::query_scalar("select count(*) from order_status").fetch_one(&postgres);
        let counted: i64 = counted.await.unwrap();
        counted
    };
    let publish = |platform: &Platform, seed: &str| {
        let published = platform.run(&["simulate", "--seed", seed, "--events", "1000", "--rate", "0"]);
        assert_eq!(published.code(), 0, "{}{}", published.out, published.err);
    };
    let mut process = platform.role(&["process", "order_status"]);
    publish(&platform, "1");
    eventually("the first orders are there", async || orders().await > 0).await;
    let _dawdlers = (half_a_request(&process.ops().await).await, half_a_request(&platform.addresses().registry).await);
    process.signal(Signal::TERM);
    assert_eq!(process.ended().await.code(), Some(0), "whoever dawdles at its ops port keeps it from nothing");
    assert_eq!(platform.stop_registry().await, Some(0), "nor the registry");

    let before = orders().await;
    let process = platform.role(&["process", "order_status"]);
    publish(&platform, "2");
    eventually("orders come in without the registry", async || orders().await > before).await;
    assert!(process.log().contains("comes from the disk"), "{}", process.log());
    assert_eq!(process.stop(), 0);
    let door = Door::open(&platform, &[]).await;
    eventually("a gateway accepts events", async || door.accepts().await).await;
    assert_eq!(door.role.stop(), 0);
    a_relay_publishes(&platform, "outbox_without_registry").await;
    platform.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn confluents_client_registers_writes_reads_and_sees_refusals() {
    let subject = name();
    let found = judge("round_trip.py", &[registry().0, &subject]);
    let id = &found["id"];
    let expected = json!({
        "same": true, "id_in_value": id, "id": id, "looked_up": id, "listed": true,
        "compatible": false, "refused": 409, "level": "NONE", "versions": [1, 2],
        "referring": true, "deleted": 2, "left": [1], "gone": [1], "gone_for_good": [1, 2],
    });
    for (what, value) in expected.as_object().unwrap() {
        assert_eq!(&found[what], value, "{what} in {found}");
    }
}

/// What a client finds who asks for all that there is; the clients of Confluent say so under the same names.
fn all_of_it(subject: &str) -> Value {
    json!({
        "unknown_subject": 40401, "looked_up_nowhere": 40401, "never_registered": 40403, "no_version": 40402,
        "no_id": 40403, "no_schema": 42201,
        "same_id": true, "distinct": true, "versions": [1, 2], "latest": 2, "latest_is_second": true,
        "same_by_version": true, "same_by_id": true, "version_of_first": 1, "id_of_second": true,
        "subjects_of_id": [subject],
        "second_fits": true, "breaking_fits": false, "breaking": 409, "default_level": "FULL_TRANSITIVE",
        "no_level": 40408, "set_level": "NONE", "level": "NONE", "third": 3,
        "referring": true, "looked_up_referring": true, "referred_stays": 42206,
        "not_yet": 40407, "deleted_version": 2, "deleted_again": 40406, "left": [1, 3], "gone_version": 40402,
        "kept_version": 2, "deleted_for_good": 2, "subject_not_yet": 40405, "deleted_subject": [1, 3],
        "deleted_subject_again": 40404, "gone_subject": 40401, "subject_for_good": [1, 3],
        "subject_for_good_again": 40401,
    })
}

fn with(mut all: Value, more: Value) -> Value {
    let more = if let Value::Object(more) = more { more } else { unreachable!("it is one") };
    all.as_object_mut().unwrap().extend(more);
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn confluents_clients_in_java_and_go_find_all_that_they_ask_for() {
    // A path must not be cut at any of this. Letters beyond ASCII the Java client itself writes in Latin-1.
    let asked = |language: &str| format!("{} of {language}/the 50% #1?", name());
    let (javas, gos) = (asked("java"), asked("go"));
    let (by_java, by_go) = (javas.clone(), gos.clone());
    let judging = (
        spawn_blocking(move || java_judge(registry().0, &by_java)),
        spawn_blocking(move || go_judge(registry().0, &by_go)),
    );
    let more = json!({
        "listed": [javas], "all_of_it": 2, "newest_of_it": 1, "breaking_is_explained": true, "no_such_level": 42203,
        "no_level_again": 40408, "default_mode": "READWRITE", "no_mode": 40409, "set_mode": "READONLY",
        "mode": "READONLY", "read_only": 42205, "no_mode_again": 40409, "kept_subject": true,
    });
    assert_eq!(judging.0.await.unwrap(), with(all_of_it(&javas), more));
    assert_eq!(judging.1.await.unwrap(), with(all_of_it(&gos), json!({ "listed": true })));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_postgres_it_says_503_and_with_it_it_goes_on() {
    let platform = Platform::start().await;
    let registry = Registry(&platform.addresses().registry);
    let (name, schema) = (name(), record("It", &[]));
    let id = registry.id(&name, &schema).await;
    let url = format!("{}/subjects/{name}/versions", platform.addresses().registry);
    let asked = tokio::spawn(async move {
        // A moment's absence is waited out, so it is asked until it has seen that this one is longer.
        loop {
            let answer = reqwest::get(&url).await.unwrap();
            let (status, answer) = (answer.status().as_u16(), answer.json::<Value>().await.unwrap());
            // One that froze with a question in hand is slow (50002) before it is away.
            if status != 200 && answer["error_code"] != 50002 {
                break (status, answer);
            }
        }
    });
    let kept_down = Frozen::down(&platform, Server::Postgres).await;
    eventually("the registry does without Postgres no longer", async || asked.is_finished()).await;
    drop(kept_down);
    let (status, answer) = asked.await.unwrap();
    assert_eq!((status, &answer["error_code"]), (503, &json!(50003)), "{answer}");
    platform.stack.wait_ready(Server::Postgres).await.unwrap();
    let again = async || registry.get(&format!("/subjects/{name}/versions")).await == (200, json!([1]));
    eventually("the registry answers again", again).await;
    assert_eq!(registry.id(&name, &schema).await, id);
    platform.stop().await;
}
