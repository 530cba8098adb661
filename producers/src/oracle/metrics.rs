//! The business metrics, each by the words of its definition in `processors/analytics/<name>.sql`. Freshness is not
//! among them: it is about the tables and the clock, not about what happened.

use crate::simulate::events::{Id, OrderPlaced, Outcome, SubscriptionChanged, SubscriptionStatus};
use crate::simulate::{Body, SimulatedEvent};
use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, TimeDelta, Utc, Weekday};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;

/// Each metric with the columns that name a row of it. All its other columns are compared.
pub const METRICS: [(&str, &[&str]); 11] = [
    ("active_users", &["day"]),
    ("churn", &["month"]),
    ("conversion", &["day"]),
    ("funnel", &["day", "step"]),
    ("mrr", &["day", "currency"]),
    ("notifications", &["day", "channel"]),
    ("orders", &["day", "currency"]),
    ("page_speed", &["day", "path"]),
    ("payment_failures", &["day", "method"]),
    ("retention", &["cohort_week", "week"]),
    ("revenue", &["day", "currency"]),
];

/// A metric's rows: what names a row, joined by a space, and its other columns by name.
pub type Rows = BTreeMap<String, Value>;

type Time = DateTime<Utc>;

/// All of them, from all events.
pub(super) fn judge(events: &[SimulatedEvent]) -> BTreeMap<&'static str, Rows> {
    BTreeMap::from([
        ("active_users", active_users(events)),
        ("churn", churn(events)),
        ("conversion", conversion(events)),
        ("funnel", funnel(events)),
        ("mrr", mrr(events)),
        ("notifications", notifications(events)),
        ("orders", orders(events)),
        ("page_speed", page_speed(events)),
        ("payment_failures", payment_failures(events)),
        ("retention", retention(events)),
        ("revenue", revenue(events)),
    ])
}

/// What a view answered, in the same shape. Its floats are asked for quoted: read as JSON numbers they could lose
/// their last digit.
pub fn keyed(keys: &[&str], answer: Vec<Value>) -> Rows {
    let mut rows = Rows::new();
    for row in answer {
        let Value::Object(mut columns) = row else { continue };
        let key: Vec<String> = keys.iter().map(|key| word(columns.remove(*key).unwrap_or_default())).collect();
        let mut key = key.join(" ");
        while rows.contains_key(&key) {
            key.push_str(", again"); // one name, two rows: nothing that could be expected
        }
        let columns: Map<String, Value> = columns.into_iter().map(|(name, value)| (name, unquoted(value))).collect();
        rows.insert(key, Value::Object(columns));
    }
    rows
}

fn word(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

fn unquoted(value: Value) -> Value {
    match value.as_str().map(str::parse::<f64>) {
        Some(Ok(float)) => json!(float),
        _ => value,
    }
}

fn day(event: &SimulatedEvent) -> NaiveDate {
    event.occurred_at.date_naive()
}

/// Captured less refunded, each on its own day.
fn revenue(events: &[SimulatedEvent]) -> Rows {
    let mut revenue: BTreeMap<(NaiveDate, &str), i64> = BTreeMap::new();
    for event in events {
        let (currency, change) = match &event.body {
            Body::PaymentCaptured(captured) => (&captured.currency, captured.amount),
            Body::PaymentRefunded(refunded) => (&refunded.currency, -refunded.amount),
            _ => continue,
        };
        *revenue.entry((day(event), currency)).or_default() += change;
    }
    let row = |((day, currency), revenue)| (format!("{day} {currency}"), json!({ "revenue": revenue }));
    revenue.into_iter().map(row).collect()
}

fn orders(events: &[SimulatedEvent]) -> Rows {
    let mut totals: BTreeMap<(NaiveDate, &str), Vec<i64>> = BTreeMap::new();
    for event in events {
        if let Body::OrderPlaced(placed) = &event.body {
            totals.entry((day(event), &placed.currency)).or_default().push(placed.total);
        }
    }
    let row = |((day, currency), totals): ((NaiveDate, &str), Vec<i64>)| {
        let (orders, gross) = (totals.len(), totals.iter().sum::<i64>());
        let average = gross as f64 / orders as f64;
        (format!("{day} {currency}"), json!({ "orders": orders, "gross": gross, "average": average }))
    };
    totals.into_iter().map(row).collect()
}

/// Sessions by the day they started, and those of them in which something was ordered, on whatever day.
fn conversion(events: &[SimulatedEvent]) -> Rows {
    let (mut started, mut ordered): (BTreeMap<_, BTreeSet<Id>>, BTreeSet<Id>) = Default::default();
    for event in events {
        match &event.body {
            Body::SessionStarted(session) => {
                started.entry(day(event)).or_default().insert(session.session_id);
            }
            Body::OrderPlaced(OrderPlaced { session_id: Some(session_id), .. }) => drop(ordered.insert(*session_id)),
            _ => {}
        }
    }
    let row = |(day, sessions): (NaiveDate, BTreeSet<Id>)| {
        let converted = sessions.intersection(&ordered).count();
        let conversion = converted as f64 / sessions.len() as f64;
        let columns = json!({ "sessions": sessions.len(), "converted": converted, "conversion": conversion });
        (day.to_string(), columns)
    };
    started.into_iter().map(row).collect()
}

/// What happened in a session, and when.
#[derive(Default)]
struct Session {
    started: Option<Time>,
    viewed: Vec<Time>,
    added: Vec<Time>,
    /// With the first capture of each.
    ordered: Vec<(Time, Option<Time>)>,
}

fn funnel(events: &[SimulatedEvent]) -> Rows {
    const STEPS: [&str; 5] = ["started", "viewed", "added", "ordered", "paid"];
    let mut furthest: BTreeMap<NaiveDate, Vec<usize>> = BTreeMap::new();
    for session in sessions(events).values() {
        if let Some(started) = session.started {
            furthest.entry(started.date_naive()).or_default().push(steps_reached(session, started));
        }
    }
    let mut rows = Rows::new();
    for (day, reached) in furthest {
        for (step, position) in STEPS.iter().zip(1..) {
            let sessions = reached.iter().filter(|reached| **reached >= position).count();
            rows.insert(format!("{day} {step}"), json!({ "position": position, "sessions": sessions }));
        }
    }
    rows
}

fn sessions(events: &[SimulatedEvent]) -> BTreeMap<Id, Session> {
    let captured = first_captures(events);
    let mut sessions: BTreeMap<Id, Session> = BTreeMap::new();
    for event in events {
        let at = event.occurred_at;
        match &event.body {
            Body::SessionStarted(body) => {
                let session = sessions.entry(body.session_id).or_default();
                session.started = Some(session.started.map_or(at, |earlier| earlier.min(at)));
            }
            Body::PageViewed(body) if body.product_id.is_some() => {
                sessions.entry(body.session_id).or_default().viewed.push(at);
            }
            Body::CartItemAdded(body) => sessions.entry(body.session_id).or_default().added.push(at),
            Body::OrderPlaced(OrderPlaced { order_id, session_id: Some(session_id), .. }) => {
                sessions.entry(*session_id).or_default().ordered.push((at, captured.get(order_id).copied()));
            }
            _ => {}
        }
    }
    sessions
}

fn first_captures(events: &[SimulatedEvent]) -> BTreeMap<Id, Time> {
    let mut first = BTreeMap::new();
    for event in events {
        if let Body::PaymentCaptured(captured) = &event.body {
            let at = first.entry(captured.order_id).or_insert(event.occurred_at);
            *at = event.occurred_at.min(*at);
        }
    }
    first
}

/// Of all ways through the session, how many steps the one has that leads furthest.
fn steps_reached(session: &Session, started: Time) -> usize {
    let until = started + TimeDelta::hours(24);
    let first = |times: &[Time], since: Time| times.iter().copied().filter(|at| (since..=until).contains(at)).min();
    let Some(viewed) = first(&session.viewed, started) else { return 1 };
    let Some(added) = first(&session.added, viewed) else { return 2 };
    let orders: Vec<_> = session.ordered.iter().filter(|(at, _)| (added..=until).contains(at)).collect();
    if orders.is_empty() {
        return 3;
    }
    let paid = |captured: Time, placed: Time| (placed..=until).contains(&captured);
    if orders.iter().any(|(placed, captured)| captured.is_some_and(|captured| paid(captured, *placed))) { 5 } else { 4 }
}

/// Who was active, and when.
fn activity(events: &[SimulatedEvent]) -> impl Iterator<Item = (NaiveDate, Id)> {
    events.iter().filter_map(|event| {
        let user_id = match &event.body {
            Body::SessionStarted(session) => session.user_id,
            Body::OrderPlaced(placed) => Some(placed.user_id),
            Body::PaymentCaptured(captured) => Some(captured.user_id),
            _ => None,
        };
        Some((day(event), user_id?))
    })
}

fn active_users(events: &[SimulatedEvent]) -> Rows {
    let mut active: BTreeMap<NaiveDate, BTreeSet<Id>> = BTreeMap::new();
    for (day, user_id) in activity(events) {
        active.entry(day).or_default().insert(user_id);
    }
    let (Some((first, _)), Some((last, _))) = (active.first_key_value(), active.last_key_value()) else {
        return Rows::new();
    };
    let mut rows = Rows::new();
    for day in first.iter_days().take_while(|day| day <= last) {
        let users = |days: u64| {
            let within = active.range(day - Days::new(days - 1)..=day);
            within.flat_map(|(_, users)| users).collect::<BTreeSet<_>>().len()
        };
        let (daily, weekly, monthly) = (users(1), users(7), users(30));
        if monthly > 0 {
            rows.insert(day.to_string(), json!({ "daily": daily, "weekly": weekly, "monthly": monthly }));
        }
    }
    rows
}

fn retention(events: &[SimulatedEvent]) -> Rows {
    let mut active: BTreeMap<NaiveDate, BTreeSet<Id>> = BTreeMap::new();
    for (day, user_id) in activity(events) {
        active.entry(monday(day)).or_default().insert(user_id);
    }
    let cohorts = cohorts(events);
    let newest = active.keys().chain(cohorts.keys()).max().copied().unwrap_or_default();
    let mut rows = Rows::new();
    for (cohort_week, users) in &cohorts {
        let weeks = cohort_week.iter_weeks().take_while(|week| *week <= newest);
        for (week, number) in weeks.zip(0..) {
            let active = active.get(&week).map_or(0, |active| active.intersection(users).count());
            let (users, key) = (users.len(), format!("{cohort_week} {number}"));
            let share = active as f64 / users as f64;
            rows.insert(key, json!({ "users": users, "active": active, "share": share }));
        }
    }
    rows
}

fn monday(day: NaiveDate) -> NaiveDate {
    day.week(Weekday::Mon).first_day()
}

/// Accounts by the week in which each registered first.
fn cohorts(events: &[SimulatedEvent]) -> BTreeMap<NaiveDate, BTreeSet<Id>> {
    let mut registered: BTreeMap<Id, NaiveDate> = BTreeMap::new();
    for event in events {
        if let Body::UserRegistered(user) = &event.body {
            let first = registered.entry(user.user_id).or_insert(day(event));
            *first = day(event).min(*first);
        }
    }
    let mut cohorts: BTreeMap<NaiveDate, BTreeSet<Id>> = BTreeMap::new();
    for (user_id, day) in registered {
        cohorts.entry(monday(day)).or_default().insert(user_id);
    }
    cohorts
}

fn payment_failures(events: &[SimulatedEvent]) -> Rows {
    let mut outcomes: BTreeMap<(NaiveDate, String), (u64, u64)> = BTreeMap::new();
    for event in events {
        let (method, captured, failed) = match &event.body {
            Body::PaymentCaptured(captured) => (captured.method, 1, 0),
            Body::PaymentFailed(failed) => (failed.method, 0, 1),
            _ => continue,
        };
        let counts = outcomes.entry((day(event), word(json!(method)))).or_default();
        *counts = (counts.0 + captured, counts.1 + failed);
    }
    let row = |((day, method), (captured, failed)): ((NaiveDate, String), (u64, u64))| {
        let rate = failed as f64 / (failed + captured) as f64;
        (format!("{day} {method}"), json!({ "captured": captured, "failed": failed, "rate": rate }))
    };
    outcomes.into_iter().map(row).collect()
}

/// In the order of their times, whenever they arrived.
fn subscription_changes(events: &[SimulatedEvent]) -> Vec<(Time, Uuid, &SubscriptionChanged)> {
    let mut changes = Vec::new();
    for event in events {
        if let Body::SubscriptionChanged(changed) = &event.body {
            changes.push((event.occurred_at, event.id, changed));
        }
    }
    changes.sort_by_key(|(at, id, _)| (*at, *id));
    changes
}

fn mrr(events: &[SimulatedEvent]) -> Rows {
    let changes = subscription_changes(events);
    let newest = changes.last().map(|(at, ..)| at.date_naive()).unwrap_or_default();
    let currencies: BTreeSet<&str> = changes.iter().map(|(_, _, changed)| changed.currency.as_ref()).collect();
    let mut rows = Rows::new();
    for currency in currencies {
        let mut left = changes.iter().filter(|(_, _, changed)| changed.currency == currency).peekable();
        let first = left.peek().map(|(at, ..)| at.date_naive()).unwrap_or_default();
        let mut mrr = 0;
        for day in first.iter_days().take_while(|day| *day <= newest) {
            while let Some((_, _, changed)) = left.next_if(|(at, ..)| at.date_naive() == day) {
                mrr += changed.mrr_delta;
            }
            rows.insert(format!("{day} {currency}"), json!({ "mrr": mrr }));
        }
    }
    rows
}

fn churn(events: &[SimulatedEvent]) -> Rows {
    let changes = subscription_changes(events);
    let (Some((first, ..)), Some((newest, ..))) = (changes.first(), changes.last()) else { return Rows::new() };
    let mut rows = Rows::new();
    let mut month = month_of(*first);
    while month <= month_of(*newest) {
        let active = active_at(month.and_time(NaiveTime::MIN).and_utc(), &changes);
        let changed = changes.iter().any(|(at, ..)| month_of(*at) == month);
        if changed || active > 0 {
            let cancelled = cancelled_in(month, &changes);
            let rate = (active > 0).then(|| cancelled as f64 / active as f64);
            rows.insert(month.to_string(), json!({ "active": active, "cancelled": cancelled, "rate": rate }));
        }
        month = month + Months::new(1);
    }
    rows
}

fn month_of(at: Time) -> NaiveDate {
    let day = at.date_naive();
    day - Days::new(u64::from(day.day0()))
}

fn active_at(start: Time, changes: &[(Time, Uuid, &SubscriptionChanged)]) -> usize {
    let before = changes.iter().filter(|(at, ..)| *at < start);
    let last: BTreeMap<Id, SubscriptionStatus> =
        before.map(|(_, _, changed)| (changed.subscription_id, changed.status)).collect();
    last.values().filter(|status| **status == SubscriptionStatus::Active).count()
}

fn cancelled_in(month: NaiveDate, changes: &[(Time, Uuid, &SubscriptionChanged)]) -> usize {
    let (mut last, mut cancelled) = (BTreeMap::new(), BTreeSet::new());
    for (at, _, SubscriptionChanged { subscription_id, status, .. }) in changes {
        let before = last.insert(*subscription_id, *status);
        let became = *status == SubscriptionStatus::Cancelled && before != Some(SubscriptionStatus::Cancelled);
        if became && month_of(*at) == month {
            cancelled.insert(*subscription_id);
        }
    }
    cancelled.len()
}

fn page_speed(events: &[SimulatedEvent]) -> Rows {
    let mut loads: BTreeMap<(NaiveDate, &str), Vec<i64>> = BTreeMap::new();
    for event in events {
        if let Body::PageViewed(page) = &event.body {
            loads.entry((day(event), &page.path)).or_default().push(page.load_ms);
        }
    }
    let row = |((day, path), loads): ((NaiveDate, &str), Vec<i64>)| {
        let [p50, p95, p99] = [0.5, 0.95, 0.99].map(|q| quantile(q, &loads));
        (format!("{day} {path}"), json!({ "p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "views": loads.len() }))
    };
    loads.into_iter().map(row).collect()
}

/// Of n values in order the one at place floor(q × n), counting from 0.
fn quantile(q: f64, values: &[i64]) -> Option<i64> {
    let mut values = values.to_vec();
    values.sort_unstable();
    values.get((q * values.len() as f64) as usize).copied()
}

fn notifications(events: &[SimulatedEvent]) -> Rows {
    // Of each notification the earliest, by time and id.
    let (mut requests, mut deliveries) = (BTreeMap::new(), BTreeMap::new());
    for event in events {
        let told = (event.occurred_at, event.id);
        match &event.body {
            Body::NotificationRequested(body) => {
                let request = requests.entry(body.notification_id).or_insert((told, &body.channel));
                *request = (told, &body.channel).min(*request);
            }
            Body::NotificationDelivered(body) if body.outcome == Outcome::Delivered => {
                let delivery = deliveries.entry(body.notification_id).or_insert((told, body.latency_ms));
                *delivery = (told, body.latency_ms).min(*delivery);
            }
            _ => {}
        }
    }
    let mut outcomes: BTreeMap<_, (usize, Vec<i64>)> = BTreeMap::new();
    for (notification_id, ((at, _), channel)) in &requests {
        let (requested, latencies) = outcomes.entry((at.date_naive(), *channel)).or_default();
        *requested += 1;
        latencies.extend(deliveries.get(notification_id).map(|(_, latency_ms)| *latency_ms));
    }
    let row = |((day, channel), (requested, latencies)): ((NaiveDate, _), (usize, Vec<i64>))| {
        let (delivered, p95) = (latencies.len(), quantile(0.95, &latencies));
        let share = delivered as f64 / requested as f64;
        let columns = json!({ "requested": requested, "delivered": delivered, "share": share, "p95_ms": p95 });
        (format!("{day} {channel}"), columns)
    };
    outcomes.into_iter().map(row).collect()
}
