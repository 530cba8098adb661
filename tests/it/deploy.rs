//! The deployment files fit the tree and the binary. Whether the images can be built, and what Kong makes of its file,
//! is not known here: neither Docker nor Kong.

use crate::clients::python;
use crate::commands::finished;
use crate::platform::{BINARY, Finished};
use millrace_producers::GatewayConfig;
use millrace_producers::gateway::{BODY_DEADLINE, HEADER_DEADLINE};
use serde_json::{Value, json};
use std::process::Command;
use std::time::Duration;

const KONG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/kong");

#[test]
fn the_compose_file_and_the_dockerfile_name_only_what_exists() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tools/check-deploy.py");
    let checked = Finished::of(Command::new(python()).arg(script).arg(BINARY));
    assert_eq!(checked.code(), 0, "{}{}", checked.out, checked.err);
}

#[test]
fn kongs_routes_and_limits_are_the_gateways() {
    let (kong, gateway) = (kong(), GatewayConfig::default());
    let service = &kong["services"][0];
    assert_eq!(routed(service), documented(), "each method of each path has one route, and nothing else has");

    let [connect, write, read] =
        ["connect_timeout", "write_timeout", "read_timeout"].map(|name| Duration::from_millis(number(service, name)));
    let answers = BODY_DEADLINE + Duration::from_millis(gateway.deadline_ms);
    assert!(read > answers, "Kong gives up after {read:?}, before the gateway answers");
    assert!(write > BODY_DEADLINE && connect < write, "{write:?}, {connect:?}");
    let idle = Duration::from_secs(setting("upstream_keepalive_idle_timeout").parse().unwrap());
    assert!(idle < HEADER_DEADLINE, "Kong keeps connections for {idle:?} that the gateway closes before");

    let publish = list(service, "routes").iter().find(|route| route["methods"][0] == "POST").unwrap();
    let size = plugin(publish, "request-size-limiting").unwrap();
    assert_eq!(size["size_unit"], "bytes");
    assert_eq!(size["allowed_payload_size"], gateway.body_bytes);
    assert_eq!(setting("nginx_http_client_max_body_size"), format!("{}m", gateway.body_bytes >> 20));
}

#[test]
fn kong_asks_publishers_for_a_token_tells_them_when_to_come_again_and_logs_none_of_their_secrets() {
    let kong = kong();
    let service = &kong["services"][0];
    for route in list(service, "routes") {
        // Browsers read the catalogue with a password, which is no token.
        let publishes = route["methods"][0] == "POST";
        assert_eq!(plugin(route, "jwt").is_some(), publishes, "{route:#}");
        assert_eq!(route["protocols"], json!(["https"]), "{route:#}");
    }
    assert_eq!(plugin(service, "rate-limiting").unwrap()["hide_client_headers"], false);
    assert_eq!(plugin(service, "file-log").unwrap()["custom_fields_by_lua"]["request.headers"], "return nil");
}

fn kong() -> Value {
    serde_saphyr::from_str(&std::fs::read_to_string(format!("{KONG}/kong.yml")).unwrap()).unwrap()
}

/// Of `kong.conf`.
fn setting(name: &str) -> String {
    let conf = std::fs::read_to_string(format!("{KONG}/kong.conf")).unwrap();
    let found = conf.lines().filter_map(|line| line.split_once(" = ")).find(|(key, _)| *key == name);
    found.map(|(_, value)| value.to_owned()).unwrap_or_else(|| panic!("kong.conf has no {name}"))
}

/// Methods and paths in order; one twice where two routes have it.
fn routed(service: &Value) -> Vec<(String, String)> {
    let mut routed = Vec::new();
    for route in list(service, "routes") {
        assert_eq!(route["strip_path"], false, "{route:#}");
        for method in list(route, "methods") {
            let paths = list(route, "paths").iter();
            routed.extend(paths.map(|path| (text(method), text(path))));
        }
    }
    routed.sort_unstable();
    routed
}

/// What the gateway's own document has, in Kong's words.
fn documented() -> Vec<(String, String)> {
    let printed = finished(&["docs", "openapi", "--json"]);
    assert_eq!(printed.code(), 0, "{}", printed.err);
    let document = printed.json();
    let mut documented = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let methods = item.as_object().unwrap().keys().filter(|key| *key != "parameters");
        documented.extend(methods.map(|method| (method.to_uppercase(), pattern(path))));
    }
    documented.sort_unstable();
    documented
}

/// The whole path as a regular expression, in which a parameter is one segment.
fn pattern(path: &str) -> String {
    let segment =
        |segment: &str| if segment.starts_with('{') { "[^/]+".to_owned() } else { segment.replace('.', r"\.") };
    format!("~{}$", path.split('/').map(segment).collect::<Vec<_>>().join("/"))
}

fn plugin<'a>(of: &'a Value, name: &str) -> Option<&'a Value> {
    let plugins = of["plugins"].as_array()?;
    plugins.iter().find(|plugin| plugin["name"] == name).map(|plugin| &plugin["config"])
}

fn list<'a>(of: &'a Value, name: &str) -> &'a [Value] {
    of[name].as_array().unwrap_or_else(|| panic!("no {name}: {of:#}"))
}

fn number(of: &Value, name: &str) -> u64 {
    of[name].as_u64().unwrap_or_else(|| panic!("no {name}: {of:#}"))
}

fn text(of: &Value) -> String {
    of.as_str().unwrap_or_else(|| panic!("no text: {of:#}")).to_owned()
}
