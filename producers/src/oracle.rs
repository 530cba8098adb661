//! What ClickHouse, Postgres and the receiver must hold after the first events of a seed: computed naively, all
//! events at hand, from the definitions in the documentation. Shares no code with what it judges.

mod metrics;

pub use metrics::{METRICS, Rows, keyed};

use crate::simulate::events::{Id, OrderPlaced};
use crate::simulate::{Body, Shop, SimulatedEvent};
use chrono::{DateTime, Utc};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Everything there is to compare, keyed as its table or view is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Expected {
    /// By event type; all types are there, also those without an event.
    pub events: BTreeMap<&'static str, Events>,
    /// `metrics.<name>`: every metric but freshness, every column of every row.
    pub metrics: BTreeMap<&'static str, Rows>,
    /// `order_status` by order.
    pub orders: BTreeMap<Uuid, Order>,
    /// `customer_summary` by account.
    pub customers: BTreeMap<Uuid, Customer>,
    /// `customer_spend` by account and currency.
    pub spend: BTreeMap<Uuid, BTreeMap<String, Spend>>,
    /// Ids of the `payment.failed` events, sorted: what a rule on them delivers.
    pub failed_payments: Vec<Uuid>,
}

/// How many events of a type, and which.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Events {
    pub count: u64,
    /// The halves of all their ids, as 64-bit numbers, XORed together. In ClickHouse:
    /// `groupBitXor(bitXor(toUInt64(bitShiftRight(n, 64)), toUInt64(bitAnd(n, 18446744073709551615))))`
    /// with `toUInt128(event_id) as n`.
    pub digest: u64,
}

/// A row of `order_status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Order {
    pub user_id: Uuid,
    pub status: &'static str,
    pub currency: String,
    pub total: i64,
    pub captured: i64,
    pub refunded: i64,
    pub placed_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
}

/// A row of `customer_summary`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Customer {
    pub registered_at: Option<DateTime<Utc>>,
    pub orders: i64,
    pub last_seen_at: Option<DateTime<Utc>>,
    pub erased_at: Option<DateTime<Utc>>,
}

/// A row of `customer_spend`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Spend {
    pub captured: i64,
    pub refunded: i64,
}

/// After the first `count` events of a seed.
pub fn expected(seed: u64, count: u64) -> Expected {
    let events: Vec<SimulatedEvent> = Shop::open(seed).take(count as usize).collect();
    judge(&events)
}

/// After these events, each question answered by going through all of them.
pub fn judge(events: &[SimulatedEvent]) -> Expected {
    Expected {
        events: by_type(events),
        metrics: metrics::judge(events),
        orders: orders(events),
        customers: customers(events),
        spend: spend(events),
        failed_payments: failed_payments(events),
    }
}

fn by_type(events: &[SimulatedEvent]) -> BTreeMap<&'static str, Events> {
    let mut found: BTreeMap<_, _> = Body::TYPES.iter().map(|event_type| (*event_type, Events::default())).collect();
    for event in events {
        let of_type = found.entry(event.body.event_type()).or_default();
        let (high, low) = event.id.as_u64_pair();
        of_type.count += 1;
        of_type.digest ^= high ^ low;
    }
    found
}

/// An order is placed before anything else happens to it: the simulator's promise, which a test holds it to.
fn orders(events: &[SimulatedEvent]) -> BTreeMap<Uuid, Order> {
    let mut orders = BTreeMap::new();
    let mut failed = BTreeSet::new();
    for event in events {
        let at = event.occurred_at;
        let Some(order_id) = order_of(&event.body) else { continue };
        if let Body::OrderPlaced(placed) = &event.body {
            orders.insert(order_id.0, placed_order(placed, at));
        }
        let Some(order) = orders.get_mut(&order_id.0) else { continue };
        match &event.body {
            Body::PaymentCaptured(captured) => order.captured += captured.amount,
            Body::PaymentRefunded(refunded) => order.refunded += refunded.amount,
            Body::PaymentFailed(_) => drop(failed.insert(order_id.0)),
            _ => {}
        }
        order.updated_at = at;
    }
    for (order_id, order) in &mut orders {
        order.status = status(order, failed.contains(order_id));
    }
    orders
}

fn order_of(body: &Body) -> Option<Id> {
    match body {
        Body::OrderPlaced(placed) => Some(placed.order_id),
        Body::PaymentCaptured(captured) => Some(captured.order_id),
        Body::PaymentFailed(failed) => Some(failed.order_id),
        Body::PaymentRefunded(refunded) => Some(refunded.order_id),
        _ => None,
    }
}

fn placed_order(placed: &OrderPlaced, at: DateTime<Utc>) -> Order {
    Order {
        user_id: placed.user_id.0,
        status: "placed",
        currency: placed.currency.to_string(),
        total: placed.total,
        captured: 0,
        refunded: 0,
        placed_at: at,
        updated_at: at,
    }
}

/// As the comment on the column tells it.
fn status(order: &Order, failed: bool) -> &'static str {
    let Order { total, captured, refunded, .. } = *order;
    match () {
        () if refunded > 0 && refunded == captured => "refunded",
        () if refunded > 0 => "partially_refunded",
        () if captured > 0 && captured == total => "paid",
        () if captured > 0 => "partially_paid",
        () if failed => "payment_failed",
        () => "placed",
    }
}

/// A row for every account that registered, visited signed in, ordered, paid, got money back or was erased.
fn customers(events: &[SimulatedEvent]) -> BTreeMap<Uuid, Customer> {
    let mut customers: BTreeMap<Uuid, Customer> = BTreeMap::new();
    for event in events {
        let at = Some(event.occurred_at);
        let (user_id, seen) = match &event.body {
            Body::UserRegistered(registered) => (registered.user_id, true),
            Body::UserErased(erased) => (erased.user_id, false),
            Body::SessionStarted(session) => match session.user_id {
                Some(user_id) => (user_id, true),
                None => continue,
            },
            Body::OrderPlaced(placed) => (placed.user_id, true),
            Body::PaymentCaptured(captured) => (captured.user_id, true),
            Body::PaymentRefunded(refunded) => (refunded.user_id, false),
            _ => continue,
        };
        let customer = customers.entry(user_id.0).or_default();
        match &event.body {
            Body::UserRegistered(_) => customer.registered_at = at,
            Body::UserErased(_) => customer.erased_at = at,
            Body::OrderPlaced(_) => customer.orders += 1,
            _ => {}
        }
        if seen {
            customer.last_seen_at = customer.last_seen_at.max(at); // a visit may be told late
        }
    }
    customers
}

fn spend(events: &[SimulatedEvent]) -> BTreeMap<Uuid, BTreeMap<String, Spend>> {
    let mut spend: BTreeMap<Uuid, BTreeMap<String, Spend>> = BTreeMap::new();
    for event in events {
        let (user_id, currency, captured, refunded) = match &event.body {
            Body::PaymentCaptured(event) => (event.user_id, &event.currency, event.amount, 0),
            Body::PaymentRefunded(event) => (event.user_id, &event.currency, 0, event.amount),
            _ => continue,
        };
        let spend = spend.entry(user_id.0).or_default().entry(currency.to_string()).or_default();
        spend.captured += captured;
        spend.refunded += refunded;
    }
    spend
}

fn failed_payments(events: &[SimulatedEvent]) -> Vec<Uuid> {
    let failed = events.iter().filter(|event| matches!(event.body, Body::PaymentFailed(_)));
    let mut ids: Vec<Uuid> = failed.map(|event| event.id).collect();
    ids.sort_unstable();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::events::*;
    use serde_json::json;

    const MORNING: &str = "2026-01-01T09:00:00Z";
    const NIGHT: &str = "2026-01-01T23:59:59.999999Z";
    const NEXT_DAY: &str = "2026-01-02T00:00:00Z";

    fn id(number: u128) -> Id {
        Id(Uuid::from_u128(number))
    }

    fn at(time: &str, number: u128, body: Body) -> SimulatedEvent {
        SimulatedEvent { id: Uuid::from_u128(number), occurred_at: time.parse().unwrap(), body }
    }

    fn session(number: u128, user_id: Option<Id>) -> Body {
        Body::SessionStarted(SessionStarted {
            session_id: id(number),
            anonymous_id: id(0xa),
            user_id,
            utm_source: None,
            utm_campaign: None,
            device: Device::Mobile,
            country: "DE".into(),
        })
    }

    fn order(number: u128, user_id: Id, session_id: Option<Id>, total: Minor) -> Body {
        let (order_id, currency) = (id(number), "EUR".into());
        Body::OrderPlaced(OrderPlaced { order_id, user_id, session_id, lines: vec![], total, currency, coupon: None })
    }

    fn captured(order: u128, user_id: Id, amount: Minor) -> Body {
        let (payment_id, order_id, currency, method) = (id(0xb), id(order), "EUR".into(), Method::Card);
        Body::PaymentCaptured(PaymentCaptured { payment_id, order_id, user_id, amount, currency, method, attempt: 1 })
    }

    fn failed(order: u128, user_id: Id, amount: Minor) -> Body {
        let (payment_id, order_id, currency, method) = (id(0xb), id(order), "EUR".into(), Method::Card);
        let (attempt, reason) = (1, FailureReason::Declined);
        Body::PaymentFailed(PaymentFailed { payment_id, order_id, user_id, amount, currency, method, attempt, reason })
    }

    fn refunded(order: u128, user_id: Id, amount: Minor) -> Body {
        let (refund_id, payment_id, order_id, currency) = (id(0xc), id(0xb), id(order), "EUR".into());
        let reason = RefundReason::Late;
        Body::PaymentRefunded(PaymentRefunded { refund_id, payment_id, order_id, user_id, amount, currency, reason })
    }

    /// One customer orders twice in one session; the second order is never paid, the first one partly given back.
    fn history() -> Vec<SimulatedEvent> {
        let marta = id(0x77);
        vec![
            at(MORNING, 0x1, session(0x51, None)),
            at(MORNING, 0x2, session(0x52, Some(marta))),
            at(MORNING, 0x3, order(0x10, marta, Some(id(0x52)), 500)),
            at(MORNING, 0x4, failed(0x10, marta, 500)),
            at(NIGHT, 0x5, captured(0x10, marta, 500)),
            at(NIGHT, 0x6, order(0x20, marta, Some(id(0x52)), 900)),
            at(NEXT_DAY, 0x7, failed(0x20, marta, 900)),
            at(NEXT_DAY, 0x8, refunded(0x10, marta, 200)),
            at(NEXT_DAY, 0x9, Body::UserErased(UserErased { user_id: marta, requested_by: "user".into() })),
        ]
    }

    #[test]
    fn a_history_small_enough_to_check_by_eye_is_judged_right() {
        let judged = serde_json::to_value(judge(&history())).unwrap();
        let uuid = |number: u128| Uuid::from_u128(number).to_string();
        let (marta, first, second) = (uuid(0x77), uuid(0x10), uuid(0x20));
        assert_eq!(judged["events"]["session.started"], json!({ "count": 2, "digest": 3 }));
        assert_eq!(judged["events"]["page.viewed"], json!({ "count": 0, "digest": 0 }));
        let revenue = json!({ "2026-01-01 EUR": { "revenue": 500 }, "2026-01-02 EUR": { "revenue": -200 } });
        assert_eq!(judged["metrics"]["revenue"], revenue);
        let conversion = json!({ "2026-01-01": { "sessions": 2, "converted": 1, "conversion": 0.5 } });
        assert_eq!(judged["metrics"]["conversion"], conversion);
        assert_eq!(judged["failed_payments"], json!([uuid(0x4), uuid(0x7)]));
        assert_eq!(judged["spend"], json!({ &marta: { "EUR": { "captured": 500, "refunded": 200 } } }));
        let customer = json!({ "registered_at": null, "orders": 2, "last_seen_at": NIGHT, "erased_at": NEXT_DAY });
        assert_eq!(judged["customers"], json!({ &marta: customer }));
        let order = |total: i64, captured: i64, refunded: i64, status: &str, placed_at: &str| {
            json!({
                "user_id": marta, "status": status, "currency": "EUR", "total": total, "captured": captured,
                "refunded": refunded, "placed_at": placed_at, "updated_at": NEXT_DAY
            })
        };
        assert_eq!(judged["orders"][&first], order(500, 500, 200, "partially_refunded", MORNING));
        assert_eq!(judged["orders"][&second], order(900, 0, 0, "payment_failed", NIGHT));
    }

    #[test]
    fn every_status_is_reached_by_a_simulated_order() {
        let reached: BTreeSet<_> = expected(1, 60_000).orders.values().map(|order| order.status).collect();
        let wanted = ["paid", "partially_refunded", "payment_failed", "placed", "refunded"];
        assert_eq!(reached.into_iter().collect::<Vec<_>>(), wanted);
    }
}
