//! A contract of two hundred fields: every type in every place, and the extremes of each.

use crate::clients::{judge, python, run};
use crate::commands::temporary;
use crate::platform::{Platform, local_engine};
use serde_json::{Value, json};
use std::process::Command;

const SCRIPT: &str = "every_type.py";

/// Written by fastavro, read by clickhouse-connect: neither knows of Millrace.
#[tokio::test(flavor = "multi_thread")]
async fn what_other_peoples_clients_write_and_read_is_the_same_in_every_type_and_place() {
    let seed = std::env::var("MILLRACE_EVERY_TYPE_SEED")
        .unwrap_or_else(|_| (uuid::Uuid::new_v4().as_u128() as u32).to_string());
    println!("MILLRACE_EVERY_TYPE_SEED={seed} writes the same again");
    let project = temporary();
    let script = format!("{}/tests/it/clients/{SCRIPT}", env!("CARGO_MANIFEST_DIR"));
    run(Command::new(python()).args([&script, "contract"]).arg(project.path()));
    for none in ["processors/analytics", "sinks/rules"] {
        std::fs::create_dir_all(project.path().join(none)).unwrap();
    }
    let platform = Platform::start_with(local_engine(), Some(project.path())).await;
    let mut process = platform.role(&["process", "clickhouse"]);
    let at = platform.addresses();
    let arguments = ["judge", &at.kafka, &at.registry, &at.clickhouse, &seed];
    let judged = tokio::task::block_in_place(|| judge(SCRIPT, &arguments));
    let letters = "select error from millrace.dead_letter limit 5";
    let letters: Vec<String> = sqlx::query_scalar(letters).fetch_all(&platform.postgres().await).await.unwrap();
    let told = format!("{judged:#}\ndead letters: {letters:?}\n{}", process.log());
    assert_eq!(judged["differences"], json!([]), "{told}");
    assert_eq!(
        (&judged["fields"], &judged["rows"], &judged["missing"]),
        (&json!(200), &json!(150), &json!(0)),
        "{told}"
    );
    assert!(letters.is_empty(), "{told}");
    println!("{} columns, {} values", judged["columns"], judged["cells"]);
    assert_ne!(judged["cells"], Value::from(0));
    assert!(process.is_running());
    assert_eq!(process.stop(), 0);
    platform.stop().await;
}
