//! The dashboards in `deploy/grafana`: what a panel says is what its metric means, and what it asks has an answer.
//! Whether Grafana draws it is not known here: no Grafana.

use crate::analysts::{analysts_engine, asked};
use crate::engine::life::Own;
use millrace_processors::clickhouse::Analytics;
use millrace_producers::simulate::Shop;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

const GRAFANA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/grafana");

/// The business metrics.
fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(format!("{GRAFANA}/dashboards/business.json")).unwrap()).unwrap()
}

/// Those that show something: rows of panels are only titles.
fn panels(dashboard: &Value) -> Vec<&Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row").collect()
}

fn query(panel: &Value) -> &str {
    let [target] = panel["targets"].as_array().unwrap().as_slice() else { panic!("one query a panel: {panel}") };
    target["rawSql"].as_str().unwrap()
}

fn variables(dashboard: &Value) -> &[Value] {
    dashboard["templating"]["list"].as_array().unwrap()
}

/// `metrics.<name>` in a query.
fn metrics(sql: &str) -> BTreeSet<&str> {
    let names = sql.split("metrics.").skip(1);
    names.map(|rest| rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap()).collect()
}

#[test]
fn every_metric_has_a_panel_that_says_what_it_means() {
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    for metric in Analytics::embedded().unwrap().iter() {
        let showing = || panels.iter().filter(|panel| metrics(query(panel)).contains(metric.name.as_str()));
        assert!(showing().count() > 0, "no panel shows metrics.{}", metric.name);
        let meaning = metric.definition.split("\n\n").next().unwrap();
        for panel in showing() {
            let said = panel["description"].as_str().unwrap();
            assert!(said.starts_with(meaning), "{} does not say what metrics.{} means", panel["title"], metric.name);
        }
    }
}

#[test]
fn every_panel_asks_the_data_source_that_is_provisioned() {
    let provisioned = std::fs::read_to_string(format!("{GRAFANA}/provisioning/datasources/clickhouse.yaml")).unwrap();
    let dashboard = dashboard();
    let panels = panels(&dashboard);
    let targets = panels.iter().map(|panel| &panel["targets"][0]);
    for asking in panels.iter().copied().chain(targets).chain(variables(&dashboard)) {
        for part in ["uid", "type"] {
            let named = asking["datasource"][part].as_str().unwrap();
            assert!(provisioned.contains(&format!("    {part}: {named}\n")), "{named} is not provisioned");
        }
    }
}

#[test]
fn panels_have_ids_of_their_own_and_do_not_overlap() {
    let dashboard = dashboard();
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "two panels have the id {}", panel["id"]);
        let side = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        assert!(side("x") + side("w") <= 24, "{} is wider than the page", panel["title"]);
        for x in side("x")..side("x") + side("w") {
            for y in side("y")..side("y") + side("h") {
                assert!(taken.insert((x, y)), "{} lies on another panel", panel["title"]);
            }
        }
    }
}

/// As the data source plugin and Grafana write it out; there is nothing else of theirs in the queries.
fn written_out(sql: &str, (from, to): (&str, &str), currency: &str) -> String {
    let mut sql = sql.replace("${currency:singlequote}", &format!("'{currency}'"));
    while let Some((before, rest)) = sql.split_once("$__dateFilter(") {
        let (column, after) = rest.split_once(')').unwrap();
        sql = format!("{before}{column} >= toDate('{from}') AND {column} <= toDate('{to}'){after}");
    }
    assert!(!sql.contains('$'), "the test does not know this variable: {sql}");
    sql
}

/// Columns that a panel names: of its axes, its transformations, its exceptions and its series.
fn named_columns(panel: &Value) -> Vec<String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut named: Vec<_> = text(&panel["options"]["xField"]).into_iter().collect();
    for exception in panel["fieldConfig"]["overrides"].as_array().unwrap() {
        assert_eq!(exception["matcher"]["id"], "byName", "the test knows no other way to name a column");
        named.extend(text(&exception["matcher"]["options"]));
    }
    for transformation in panel["transformations"].as_array().into_iter().flatten() {
        let fields = ["rowField", "columnField", "valueField"].map(|field| &transformation["options"][field]);
        named.extend(fields.into_iter().filter_map(text));
    }
    let series = text(&panel["fieldConfig"]["defaults"]["displayName"]).unwrap_or_default();
    named.extend(series.strip_prefix("${__field.labels.").map(|label| label.trim_end_matches('}').to_owned()));
    named
}

/// A series is drawn over its first column, which must be a time.
fn assert_drawn_over_time(panel: &Value, row: &Map<String, Value>) {
    let (column, first) = row.iter().next().unwrap();
    let is_day = first.as_str().is_some_and(|text| text.parse::<chrono::NaiveDate>().is_ok());
    assert!(is_day, "{} is drawn over {column}, which is {first}", panel["title"]);
}

/// Each measure that a panel draws shows something, which a day or a label does in every row.
async fn assert_measures(engine: &Own, panel: &Value, sql: &str, rows: &[Value]) {
    let labels = ["rowField", "columnField"].map(|field| panel["transformations"][0]["options"][field].as_str());
    let mut measures = numbers(engine, sql).await;
    measures.retain(|column| !labels.contains(&Some(column)));
    assert!(!measures.is_empty(), "{} measures nothing: {sql}", panel["title"]);
    for measure in measures {
        let is_shown = rows.iter().any(|row| row[&measure].as_f64().is_some_and(|number| number != 0.0));
        assert!(is_shown, "{measure} of {} is nothing anywhere: {sql}", panel["title"]);
    }
}

/// The columns that are numbers by their type: the others are times and labels.
async fn numbers(engine: &Own, sql: &str) -> Vec<String> {
    let described = rows(engine, &format!("describe ({sql})")).await;
    let is_number = |column: &&Value| {
        let of = column["type"].as_str().unwrap();
        ["Int", "Float", "Decimal"].iter().any(|number| of.contains(number))
    };
    described.iter().filter(is_number).map(|column| column["name"].as_str().unwrap().to_owned()).collect()
}

/// One JSON object a row, as an analyst is answered.
async fn rows(engine: &Own, sql: &str) -> Vec<Value> {
    let (status, _, text) = asked(engine, &format!("{sql}\nformat JSONEachRow")).await;
    assert_eq!(status, 200, "{sql}: {text}");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_and_every_variable_has_an_answer_for_an_analyst_with_the_columns_it_names() {
    let events: Vec<_> = Shop::open(17).take(60_000).collect();
    let engine = analysts_engine(&events).await;
    let days = events.iter().map(|event| event.occurred_at.format("%F").to_string());
    let (from, to) = (days.clone().min().unwrap(), days.max().unwrap());
    let dashboard = dashboard();
    for variable in variables(&dashboard) {
        assert!(rows(&engine, variable["query"]["rawSql"].as_str().unwrap()).await.len() > 1, "{variable}");
    }
    for panel in panels(&dashboard) {
        let sql = written_out(query(panel), (&from, &to), "EUR");
        let rows = rows(&engine, &sql).await;
        let row = rows.first().unwrap_or_else(|| panic!("{} shows nothing: {sql}", panel["title"]));
        let row = row.as_object().unwrap();
        for column in named_columns(panel) {
            assert!(row.contains_key(&column), "{} names {column}, and has {row:?}", panel["title"]);
        }
        if panel["type"] == "timeseries" {
            assert_drawn_over_time(panel, row);
        }
        assert_measures(&engine, panel, &sql, &rows).await;
    }
    std::fs::remove_dir_all(engine.stop().await).unwrap();
}
