//! What the numbers mean. Histories small enough to check by eye, and simulated months, are put before the engine
//! and before the oracle's naive computation: both must say what stands here, or the same.

use crate::engine::life::Own;
use crate::platform::{ask_clickhouse, directory};
use chrono::{DateTime, Utc};
use millrace_processors::clickhouse::{Analytics, ClickHouseConfig, migrate};
use millrace_producers::oracle::{self, METRICS, Rows};
use millrace_producers::simulate::events::*;
use millrace_producers::simulate::{Body, Shop};
use millrace_schemas::Contracts;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::PathBuf;
use uuid::Uuid;

// ---- an engine that holds these events ----

/// An engine whose tables and metrics are made, and hold what it is told.
pub struct Analyst(Own);

impl Analyst {
    async fn told(events: &[SimulatedEvent]) -> Self {
        Self::told_in(directory(), events).await
    }

    /// With the configuration that lies in the directory, if one does.
    pub async fn told_in(directory: PathBuf, events: &[SimulatedEvent]) -> Self {
        let engine = Own::start(directory).await;
        let config = ClickHouseConfig { url: engine.url.clone(), ..ClickHouseConfig::default() };
        migrate(&config, &Contracts::embedded().unwrap(), &Analytics::embedded().unwrap()).await.unwrap();
        let analyst = Self(engine);
        for (event_type, rows) in rows(events) {
            let table = event_type.replace('.', "_");
            analyst.ask(&format!("insert into events_raw.{table} format JSONEachRow\n{rows}")).await;
        }
        analyst
    }

    pub async fn ask(&self, sql: &str) -> Vec<Value> {
        ask_clickhouse(&self.0.url, sql).await.unwrap_or_else(|error| panic!("{sql:.1000}: {error}"))
    }

    /// All rows of all metrics that the oracle knows.
    async fn metrics(&self) -> BTreeMap<&'static str, Rows> {
        let mut metrics = BTreeMap::new();
        for (metric, keys) in METRICS {
            let sql = format!("select * from metrics.{metric} settings output_format_json_quote_64bit_floats = 1");
            metrics.insert(metric, oracle::keyed(keys, self.ask(&sql).await));
        }
        metrics
    }

    /// The directory in which all of it stays.
    pub async fn stop(self) -> PathBuf {
        self.0.stop().await
    }

    async fn leave(self) {
        std::fs::remove_dir_all(self.stop().await).unwrap();
    }
}

/// One JSON object a line, by event type. The lines of an order are no metric's concern.
fn rows(events: &[SimulatedEvent]) -> BTreeMap<&'static str, String> {
    let mut rows: BTreeMap<_, String> = BTreeMap::new();
    for event in events {
        let mut row = json!(event.body);
        row.as_object_mut().unwrap().remove("lines");
        row["event_id"] = json!(event.id);
        row["occurred_at"] = json!(event.occurred_at.format("%F %T%.6f").to_string());
        *rows.entry(event.body.event_type()).or_default() += &format!("{row}\n");
    }
    rows
}

/// Both say so of these metrics, and agree on all others.
async fn say(events: &[SimulatedEvent], expected: &[(&str, Value)]) {
    let judged = oracle::judge(events).metrics;
    for (metric, rows) in expected {
        assert_eq!(json!(judged[metric]), *rows, "the oracle on {metric}");
    }
    let analyst = Analyst::told(events).await;
    let found = analyst.metrics().await;
    for (metric, _) in METRICS {
        assert_eq!(found[metric], judged[metric], "the engine on {metric}");
    }
    analyst.leave().await;
}

// ---- events that mention only what matters ----

/// In the order in which they are told; their ids count from 1.
fn history<const N: usize>(events: [(&str, Body); N]) -> Vec<SimulatedEvent> {
    let event = |((at, body), number): ((&str, Body), u128)| event(number, at, body);
    events.into_iter().zip(1..).map(event).collect()
}

fn event(id: u128, at: &str, body: Body) -> SimulatedEvent {
    let occurred_at = if at.contains('T') { format!("{at}Z") } else { format!("{at}T12:00:00Z") };
    SimulatedEvent { id: Uuid::from_u128(id), occurred_at: occurred_at.parse().unwrap(), body }
}

fn id(number: u128) -> Id {
    Id(Uuid::from_u128(number))
}

fn registered(user: u128) -> Body {
    Body::UserRegistered(UserRegistered {
        user_id: id(user),
        anonymous_id: None,
        email: "".into(),
        name: "".into(),
        locale: "".into(),
        country: "DE".into(),
        channel: Channel::Organic,
    })
}

fn erased(user: u128) -> Body {
    Body::UserErased(UserErased { user_id: id(user), requested_by: "user".into() })
}

fn session(number: u128, user: Option<u128>) -> Body {
    Body::SessionStarted(SessionStarted {
        session_id: id(number),
        anonymous_id: id(0xa),
        user_id: user.map(id),
        utm_source: None,
        utm_campaign: None,
        device: Device::Mobile,
        country: "DE".into(),
    })
}

fn page(session: u128, path: &'static str, product: Option<u128>, load_ms: i64) -> Body {
    Body::PageViewed(PageViewed {
        session_id: id(session),
        anonymous_id: id(0xa),
        path: path.into(),
        product_id: product.map(id),
        referrer: None,
        load_ms,
    })
}

fn viewed(session: u128) -> Body {
    page(session, "/products/lamp", Some(0x1a), 100)
}

fn added(session: u128) -> Body {
    Body::CartItemAdded(CartItemAdded {
        session_id: id(session),
        anonymous_id: id(0xa),
        product_id: id(0x1a),
        quantity: 1,
        unit_price: 500,
        currency: "EUR".into(),
    })
}

fn order(number: u128, user: u128, session: Option<u128>, total: Minor) -> Body {
    Body::OrderPlaced(OrderPlaced {
        order_id: id(number),
        user_id: id(user),
        session_id: session.map(id),
        lines: vec![],
        total,
        currency: "EUR".into(),
        coupon: None,
    })
}

fn captured(order: u128, user: u128, amount: Minor, method: Method) -> Body {
    let (payment_id, order_id, user_id, currency) = (id(0xb), id(order), id(user), "EUR".into());
    Body::PaymentCaptured(PaymentCaptured { payment_id, order_id, user_id, amount, currency, method, attempt: 1 })
}

fn failed(order: u128, user: u128, amount: Minor, method: Method) -> Body {
    let (payment_id, order_id, user_id, currency) = (id(0xb), id(order), id(user), "EUR".into());
    let (attempt, reason) = (1, FailureReason::Declined);
    Body::PaymentFailed(PaymentFailed { payment_id, order_id, user_id, amount, currency, method, attempt, reason })
}

fn refunded(order: u128, user: u128, amount: Minor) -> Body {
    let (refund_id, payment_id, order_id, user_id, currency) = (id(0xc), id(0xb), id(order), id(user), "EUR".into());
    let reason = RefundReason::Damaged;
    Body::PaymentRefunded(PaymentRefunded { refund_id, payment_id, order_id, user_id, amount, currency, reason })
}

fn subscription(number: u128, mrr_delta: Minor, status: SubscriptionStatus) -> Body {
    let (subscription_id, user_id, currency) = (id(number), id(0x77), "EUR".into());
    let (plan_from, plan_to) = (None, None);
    Body::SubscriptionChanged(SubscriptionChanged {
        subscription_id,
        user_id,
        plan_from,
        plan_to,
        mrr_delta,
        currency,
        status,
    })
}

fn requested(number: u128, channel: &'static str) -> Body {
    Body::NotificationRequested(NotificationRequested {
        notification_id: id(number),
        user_id: None,
        rule: "".into(),
        template: "".into(),
        channel: channel.into(),
        critical: false,
    })
}

fn delivered(number: u128, outcome: Outcome, latency_ms: i64) -> Body {
    let (notification_id, channel, provider) = (id(number), "email".into(), "".into());
    Body::NotificationDelivered(NotificationDelivered {
        notification_id,
        attempt: 1,
        channel,
        provider,
        outcome,
        latency_ms,
    })
}

// ---- the stories ----

const MARTA: u128 = 0x77;
const JONAS: u128 = 0x78;

#[tokio::test(flavor = "multi_thread")]
async fn a_session_counts_on_the_day_it_started_though_it_ordered_on_the_next() {
    let events = history([
        ("2026-03-01T23:59:59.999999", session(1, Some(MARTA))),
        ("2026-03-01T23:00:00", session(2, None)),
        ("2026-03-02T00:00:00", viewed(1)),
        ("2026-03-02T00:01:00", added(1)),
        ("2026-03-02T00:02:00", order(0x10, MARTA, Some(1), 500)),
        ("2026-03-02T00:03:00", order(0x20, JONAS, None, 1000)), // by phone: converts nothing
        ("2026-03-02T00:04:00", captured(0x10, MARTA, 500, Method::Card)),
    ]);
    let funnel = json!({
        "2026-03-01 started": { "position": 1, "sessions": 2 },
        "2026-03-01 viewed": { "position": 2, "sessions": 1 },
        "2026-03-01 added": { "position": 3, "sessions": 1 },
        "2026-03-01 ordered": { "position": 4, "sessions": 1 },
        "2026-03-01 paid": { "position": 5, "sessions": 1 },
    });
    let expected = [
        ("conversion", json!({ "2026-03-01": { "sessions": 2, "converted": 1, "conversion": 0.5 } })),
        ("orders", json!({ "2026-03-02 EUR": { "orders": 2, "gross": 1500, "average": 750.0 } })),
        ("funnel", funnel),
        (
            "active_users",
            json!({
                "2026-03-01": { "daily": 1, "weekly": 1, "monthly": 1 },
                "2026-03-02": { "daily": 2, "weekly": 2, "monthly": 2 },
            }),
        ),
    ];
    say(&events, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refund_months_later_lowers_the_day_it_was_given_on() {
    let events = history([
        ("2026-01-31", captured(0x10, MARTA, 500, Method::Card)),
        ("2026-01-31", captured(0x20, MARTA, 300, Method::Card)),
        ("2026-06-01", refunded(0x10, MARTA, 500)),
    ]);
    let revenue = json!({ "2026-01-31 EUR": { "revenue": 800 }, "2026-06-01 EUR": { "revenue": -500 } });
    say(&events, &[("revenue", revenue)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_event_counts_when_it_happened_and_not_when_it_was_told() {
    use SubscriptionStatus::{Active, Cancelled};
    let on_time = history([
        ("2026-02-10", subscription(1, 900, Active)),
        ("2026-02-20", subscription(1, -900, Cancelled)),
        ("2026-03-02", subscription(2, 500, Active)),
        ("2026-03-03T10:00:00", session(1, Some(MARTA))),
        ("2026-03-03T10:01:00", viewed(1)),
    ]);
    let mut late = on_time.clone();
    late.reverse();
    let metrics = oracle::judge(&on_time).metrics;
    assert_eq!(oracle::judge(&late).metrics, metrics);
    assert_eq!(metrics["mrr"]["2026-02-19 EUR"], json!({ "mrr": 900 }));
    assert_eq!(metrics["mrr"]["2026-02-20 EUR"], json!({ "mrr": 0 }));
    assert_eq!(metrics["mrr"]["2026-03-02 EUR"], json!({ "mrr": 500 }));
    let churn = json!({
        "2026-02-01": { "active": 0, "cancelled": 1, "rate": null },
        "2026-03-01": { "active": 0, "cancelled": 0, "rate": null },
    });
    say(&late, &[("churn", churn)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erased_user_still_counts_for_what_it_did() {
    let events = history([
        ("2026-03-02", registered(MARTA)), // a Monday
        ("2026-03-02", registered(JONAS)),
        ("2026-03-10", session(1, Some(MARTA))),
        ("2026-03-11", erased(MARTA)),
    ]);
    let expected = [
        ("active_users", json!({ "2026-03-10": { "daily": 1, "weekly": 1, "monthly": 1 } })),
        (
            "retention",
            json!({
                "2026-03-02 0": { "users": 2, "active": 0, "share": 0.0 },
                "2026-03-02 1": { "users": 2, "active": 1, "share": 0.5 },
            }),
        ),
    ];
    say(&events, &expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_week_begins_on_monday_at_midnight_utc() {
    let events = history([
        ("2026-03-08T23:59:59.999999", registered(MARTA)), // Sunday: the week of March 2
        ("2026-03-09T00:00:00", registered(JONAS)),        // Monday: the next one
        ("2026-03-09T00:00:00", session(1, Some(MARTA))),
        ("2026-03-15T23:59:59.999999", session(2, Some(JONAS))),
        ("2026-03-23", session(3, None)), // nobody's: no week is active because of it
        ("2026-03-16T00:00:00", order(0x10, JONAS, None, 1)),
    ]);
    let retention = json!({
        "2026-03-02 0": { "users": 1, "active": 0, "share": 0.0 },
        "2026-03-02 1": { "users": 1, "active": 1, "share": 1.0 },
        "2026-03-02 2": { "users": 1, "active": 0, "share": 0.0 },
        "2026-03-09 0": { "users": 1, "active": 1, "share": 1.0 },
        "2026-03-09 1": { "users": 1, "active": 1, "share": 1.0 },
    });
    say(&events, &[("retention", retention)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_active_counts_for_seven_and_for_thirty_days() {
    let events = history([
        ("2026-01-01", session(1, Some(MARTA))),
        ("2026-01-07", captured(0x10, JONAS, 5, Method::Card)),
        ("2026-01-08", order(0x20, JONAS, None, 5)),
        ("2026-03-01", session(2, Some(JONAS))),
    ]);
    let active = &oracle::judge(&events).metrics["active_users"];
    let on = |day: &str| active.get(day).cloned();
    assert_eq!(on("2026-01-07"), Some(json!({ "daily": 1, "weekly": 2, "monthly": 2 })));
    assert_eq!(on("2026-01-08"), Some(json!({ "daily": 1, "weekly": 1, "monthly": 2 })));
    assert_eq!(on("2026-01-30"), Some(json!({ "daily": 0, "weekly": 0, "monthly": 2 })));
    assert_eq!(on("2026-01-31"), Some(json!({ "daily": 0, "weekly": 0, "monthly": 1 })));
    assert_eq!(on("2026-02-06"), Some(json!({ "daily": 0, "weekly": 0, "monthly": 1 })));
    assert_eq!(on("2026-02-07"), None);
    say(&events, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_funnel_takes_its_steps_in_order_and_within_a_day() {
    let (start, last, over) = ("2026-03-01T10:00:00", "2026-03-02T10:00:00", "2026-03-02T10:00:00.000001");
    let events = history([
        // 1: everything at one instant is in order.
        (start, session(1, None)),
        (start, viewed(1)),
        (start, added(1)),
        (start, order(0x10, MARTA, Some(1), 500)),
        (start, captured(0x10, MARTA, 500, Method::Card)),
        // 2: paid at the last instant of its 24 hours; a second capture changes nothing.
        (start, session(2, None)),
        (start, viewed(2)),
        (start, added(2)),
        (start, order(0x20, MARTA, Some(2), 500)),
        (last, captured(0x20, MARTA, 400, Method::Card)),
        (over, captured(0x20, MARTA, 100, Method::Card)),
        // 3: paid a microsecond too late.
        (start, session(3, None)),
        (start, viewed(3)),
        (start, added(3)),
        (start, order(0x30, MARTA, Some(3), 500)),
        (over, captured(0x30, MARTA, 500, Method::Card)),
        // 4: added before anything was viewed, and not again.
        (start, session(4, None)),
        ("2026-03-01T10:01:00", added(4)),
        ("2026-03-01T10:02:00", viewed(4)),
        ("2026-03-01T10:03:00", order(0x40, MARTA, Some(4), 500)),
        // 5: the first order came before the cart, a later one counts.
        (start, session(5, None)),
        ("2026-03-01T10:01:00", order(0x50, MARTA, Some(5), 500)),
        ("2026-03-01T10:02:00", viewed(5)),
        ("2026-03-01T10:03:00", added(5)),
        ("2026-03-01T10:04:00", captured(0x50, MARTA, 500, Method::Card)),
        ("2026-03-01T10:05:00", order(0x51, MARTA, Some(5), 500)),
        // 6: a page that shows no product.
        (start, session(6, None)),
        (start, page(6, "/", None, 100)),
        // 7: never started, as far as is known.
        (start, viewed(7)),
    ]);
    let funnel = json!({
        "2026-03-01 started": { "position": 1, "sessions": 6 },
        "2026-03-01 viewed": { "position": 2, "sessions": 5 },
        "2026-03-01 added": { "position": 3, "sessions": 4 },
        "2026-03-01 ordered": { "position": 4, "sessions": 4 },
        "2026-03-01 paid": { "position": 5, "sessions": 2 },
    });
    say(&events, &[("funnel", funnel)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_subscription_is_what_its_last_change_before_the_month_says() {
    use SubscriptionStatus::{Active, Cancelled, PastDue, Trial};
    let events = history([
        ("2026-01-10", subscription(1, 900, Active)),
        ("2026-01-10", subscription(2, 900, Active)),
        ("2026-01-10", subscription(3, 0, Trial)),
        ("2026-01-10", subscription(4, 900, Active)),
        ("2026-01-20", subscription(4, 0, PastDue)), // not ACTIVE on the first
        ("2026-02-01T00:00:00", subscription(1, -900, Cancelled)), // February's: ACTIVE at its start, and lost in it
        ("2026-02-10", subscription(3, 0, Cancelled)),
        ("2026-02-11", subscription(3, 900, Active)),
        ("2026-02-12", subscription(3, -900, Cancelled)), // a second time in the month: still one
        ("2026-03-05", subscription(3, 0, Cancelled)),    // said again: it did not become so
    ]);
    let churn = json!({
        "2026-01-01": { "active": 0, "cancelled": 0, "rate": null },
        "2026-02-01": { "active": 2, "cancelled": 2, "rate": 1.0 },
        "2026-03-01": { "active": 1, "cancelled": 0, "rate": 0.0 },
    });
    say(&events, &[("churn", churn)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_changes_at_one_instant_the_greater_id_is_the_later() {
    use SubscriptionStatus::{Active, Cancelled};
    // Both orders of telling, and ids that only their first, or only their last digits tell apart.
    let (high, low) = (1 << 100, 1);
    let events = [
        event(2 * low, "2026-01-10", subscription(1, -900, Cancelled)),
        event(low, "2026-01-10", subscription(1, 900, Active)),
        event(high, "2026-01-10", subscription(2, -900, Cancelled)),
        event(3 * low, "2026-01-10", subscription(2, 900, Active)),
        event(high + 1, "2026-01-10", subscription(3, 900, Active)),
        event(4 * low, "2026-01-10", subscription(3, -900, Cancelled)),
        event(5 * low, "2026-02-10", subscription(4, 900, Active)),
    ];
    let churn = json!({
        "2026-01-01": { "active": 0, "cancelled": 3, "rate": null },
        "2026-02-01": { "active": 1, "cancelled": 0, "rate": 0.0 },
    });
    say(&events, &[("churn", churn)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mrr_has_a_row_for_every_day_since_the_first_change() {
    use SubscriptionStatus::{Active, PastDue};
    let events = history([
        ("2026-02-27", subscription(1, 900, Active)),
        ("2026-02-27", subscription(2, 500, Active)),
        ("2026-03-02", subscription(2, -100, PastDue)),
    ]);
    let mrr = json!({
        "2026-02-27 EUR": { "mrr": 1400 },
        "2026-02-28 EUR": { "mrr": 1400 },
        "2026-03-01 EUR": { "mrr": 1400 },
        "2026-03-02 EUR": { "mrr": 1300 },
    });
    say(&events, &[("mrr", mrr)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_attempts_by_method() {
    let events = history([
        ("2026-03-01", failed(0x10, MARTA, 500, Method::Card)),
        ("2026-03-01", failed(0x10, MARTA, 500, Method::Card)),
        ("2026-03-01", captured(0x10, MARTA, 500, Method::Card)),
        ("2026-03-01", failed(0x20, MARTA, 500, Method::Paypal)),
        ("2026-03-02", captured(0x20, MARTA, 500, Method::BankTransfer)),
    ]);
    let failures = json!({
        "2026-03-01 CARD": { "captured": 1, "failed": 2, "rate": 2.0 / 3.0 },
        "2026-03-01 PAYPAL": { "captured": 0, "failed": 1, "rate": 1.0 },
        "2026-03-02 BANK_TRANSFER": { "captured": 1, "failed": 0, "rate": 0.0 },
    });
    say(&events, &[("payment_failures", failures)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quantile_is_a_load_time_that_occurred() {
    let mut events: Vec<_> =
        (1..=100).rev().map(|load| event(load as u128, "2026-03-01", page(1, "/", None, load))).collect();
    events.push(event(101, "2026-03-01", page(1, "/cart", None, 70)));
    events.push(event(102, "2026-03-01", page(1, "/cart", None, 80)));
    let page_speed = json!({
        "2026-03-01 /": { "p50_ms": 51, "p95_ms": 96, "p99_ms": 100, "views": 100 },
        "2026-03-01 /cart": { "p50_ms": 80, "p95_ms": 80, "p99_ms": 80, "views": 2 },
    });
    say(&events, &[("page_speed", page_speed)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notification_is_delivered_once_on_the_day_it_was_requested() {
    let events = history([
        ("2026-03-01T23:59:00", requested(1, "email")),
        ("2026-03-02T00:00:00", delivered(1, Outcome::Failed, 1_000)),
        ("2026-03-02T00:01:00", delivered(1, Outcome::Delivered, 120_000)),
        ("2026-03-02T00:02:00", delivered(1, Outcome::Delivered, 180_000)), // the provider says it twice
        ("2026-03-01T10:00:00", requested(2, "email")),
        ("2026-03-01T10:00:01", delivered(2, Outcome::Unknown, 1_000)),
        ("2026-03-01T10:00:00", requested(3, "webhook")),
        ("2026-03-01T10:00:00", delivered(4, Outcome::Delivered, 5)), // of no request that is known
    ]);
    let notifications = json!({
        "2026-03-01 email": { "requested": 2, "delivered": 1, "share": 0.5, "p95_ms": 120_000 },
        "2026-03-01 webhook": { "requested": 1, "delivered": 0, "share": 0.0, "p95_ms": null },
    });
    say(&events, &[("notifications", notifications)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_number_is_moved_by_an_event_that_was_inserted_twice() {
    let events: Vec<_> = Shop::open(5).take(3_000).collect();
    let twice: Vec<_> = events.iter().chain(&events[1_000..]).cloned().collect();
    let analyst = Analyst::told(&twice).await;
    assert_eq!(analyst.metrics().await, oracle::judge(&events).metrics);
    analyst.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn simulated_months_equal_the_oracle_and_every_example_answers() {
    let seed = u64::from(Uuid::new_v4().as_fields().0);
    println!("seed {seed}");
    let events: Vec<_> = Shop::open(seed).take(60_000).collect();
    let analyst = Analyst::told(&events).await;
    let (found, judged) = (analyst.metrics().await, oracle::judge(&events).metrics);
    for (metric, _) in METRICS {
        for (row, expected) in &judged[metric] {
            assert_eq!(found[metric].get(row), Some(expected), "{metric} {row}");
        }
        assert_eq!(found[metric].len(), judged[metric].len(), "{metric}");
        assert!(!judged[metric].is_empty(), "nothing exercises {metric}");
    }
    for metric in Analytics::embedded().unwrap().iter() {
        let query = &metric.example.as_ref().unwrap().query;
        assert!(!analyst.ask(query).await.is_empty(), "{query}");
    }
    analyst.leave().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn freshness_is_how_old_the_newest_event_is_and_how_long_rows_took() {
    let analyst = Analyst::told(&[]).await;
    assert!(analyst.ask("select * from metrics.freshness").await.is_empty());
    let newest: DateTime<Utc> = "2026-03-01T10:00:03Z".parse().unwrap();
    let mut rows = String::new();
    for (number, occurred_at, inserted_at) in [
        (1, "2026-03-01 10:00:01", "01.250"),
        (2, "2026-03-01 10:00:02", "01.500"),
        (3, "2026-03-01 10:00:03", "13.000"),
        (4, "2105-12-31 23:59:59", "02.000"), // dated ahead: as new as its row
    ] {
        let row = json!({
            "event_id": Uuid::from_u128(number),
            "occurred_at": occurred_at,
            "_inserted_at": format!("2026-03-01 10:00:{inserted_at}"),
        });
        rows += &format!("{row}\n");
    }
    analyst.ask(&format!("insert into events_raw.order_placed format JSONEachRow\n{rows}")).await;
    let before = Utc::now();
    let found = analyst.ask("select *, toString(newest) as newest_text from metrics.freshness").await;
    let after = Utc::now();
    let [row] = found.as_slice() else { panic!("a row for each table that holds something: {found:?}") };
    assert_eq!((&row["table"], &row["newest_text"]), (&json!("order_placed"), &json!("2026-03-01 10:00:03.000000")));
    // 250 ms, 10 s, and -500 ms: clocks differ, and the second was there before it happened.
    assert_eq!((&row["p50_ms"], &row["p99_ms"]), (&json!(250), &json!(10_000)));
    let lag = row["lag_seconds"].as_f64().unwrap();
    let age = |now: DateTime<Utc>| (now - newest).num_milliseconds() as f64 / 1000.0;
    assert!((age(before)..=age(after)).contains(&lag), "{lag}");
    analyst.leave().await;
}
