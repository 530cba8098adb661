//! What the simulated shop promises to those who build on it.

use super::late::LATE_MAX;
use super::{FOUNDING, OPENING, Shop};
use crate::simulate::events::*;
use millrace_schemas::{Contracts, WriterSchema};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// About a simulated day.
const DAY_OF_EVENTS: usize = 20_000;

fn first(seed: u64, count: usize) -> Vec<SimulatedEvent> {
    Shop::open(seed).take(count).collect()
}

#[test]
fn equal_seeds_give_equal_events_and_different_seeds_do_not() {
    assert_eq!(first(7, 5_000), first(7, 5_000));
    assert_ne!(first(7, 300), first(8, 300));
}

/// Whoever continues a stream with a newer release continues the same stream.
#[test]
fn a_seed_means_the_same_events_in_every_release() {
    let events = first(7, DAY_OF_EVENTS);
    let digest = events.iter().fold(0, |digest, event| {
        let body = serde_json::to_vec(&event.body).unwrap();
        let bytes = event.id.as_bytes().iter().chain(&body);
        bytes.fold(digest, |digest: u64, byte| digest.rotate_left(7) ^ u64::from(*byte))
    });
    assert_eq!(
        digest, 4_760_131_967_659_616_003,
        "the simulator changed: that is a new stream for every seed, so say it in the changelog"
    );
}

#[test]
fn a_stream_that_skips_ahead_continues_where_it_would_have_been() {
    let whole = first(3, 12_000);
    let rest: Vec<_> = Shop::open(3).skip(9_000).take(3_000).collect();
    assert_eq!(rest, whole[9_000..]);
}

#[test]
fn every_contract_appears_within_a_simulated_day() {
    for seed in 0..5 {
        let events = first(seed, DAY_OF_EVENTS);
        let seen: BTreeSet<_> = events.iter().map(|event| event.body.event_type()).collect();
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), Body::TYPES, "seed {seed}");
    }
}

#[test]
fn a_simulated_day_has_about_twenty_thousand_events() {
    const DAYS: usize = 10;
    let last = first(1, DAYS * DAY_OF_EVENTS).pop().unwrap();
    let days = (last.occurred_at.timestamp_micros() - OPENING) as f64 / 86_400e6;
    assert!((DAYS as f64 * 0.9..DAYS as f64 * 1.1).contains(&days), "{days} days for {DAYS}");
}

#[test]
fn the_types_are_those_of_the_contracts_and_every_body_fits_and_reads_back() {
    let contracts = Contracts::embedded().unwrap();
    assert_eq!(contracts.iter().map(|contract| contract.event_type.as_str()).collect::<Vec<_>>(), Body::TYPES);
    let schemas: BTreeMap<_, _> = contracts
        .iter()
        .map(|contract| (contract.event_type.as_str(), WriterSchema::parse(1, &contract.newest().text).unwrap()))
        .collect();
    for event in first(5, DAY_OF_EVENTS) {
        let schema = &schemas[event.body.event_type()];
        let (mut written, mut again) = (Vec::new(), Vec::new());
        schema.encode(&event.body, &mut written).unwrap_or_else(|error| panic!("{event:?}: {error}"));
        let read = schema.decode(&written).unwrap_or_else(|error| panic!("{event:?}: {error}"));
        schema.encode_value(&read, &mut again).unwrap();
        assert_eq!(written, again, "{event:?}");
    }
}

#[test]
fn what_is_held_stays_within_bounds_however_long_it_runs() {
    let mut shop = Shop::open(2);
    let mut most = 0;
    for _ in 0..30 {
        shop.by_ref().take(DAY_OF_EVENTS).for_each(drop);
        most = most.max(shop.held());
    }
    assert!(most <= 20_000 + 5_000, "{most} people and open things");
}

/// Without the newest, before which others may still be missing.
fn in_order_of_time(mut events: Vec<SimulatedEvent>) -> Vec<SimulatedEvent> {
    let complete = events.last().unwrap().occurred_at - chrono::TimeDelta::microseconds(LATE_MAX);
    events.retain(|event| event.occurred_at < complete);
    events.sort_by_key(|event| event.occurred_at);
    events
}

#[test]
fn some_events_are_late_but_none_is_by_more_than_three_days() {
    let mut now = 0;
    let mut late = BTreeMap::new();
    for event in first(6, 5 * DAY_OF_EVENTS) {
        let at = event.occurred_at.timestamp_micros();
        assert!(at >= now - LATE_MAX, "{event:?}");
        if at < now {
            *late.entry(event.body.event_type()).or_insert(0) += 1;
        }
        now = now.max(at);
    }
    let types: Vec<&str> = late.keys().copied().collect();
    let expected =
        ["cart.item_added", "notification.delivered", "page.viewed", "session.started", "subscription.changed"];
    assert_eq!(types, expected, "{late:?}");
}

/// Whatever is counted by month has something to count, however short the run.
#[test]
fn the_first_thousand_events_tell_of_the_months_before_the_website() {
    for seed in 0..20 {
        let events = first(seed, 1_500);
        let before: Vec<_> = events.iter().filter(|event| event.occurred_at.timestamp_micros() < OPENING).collect();
        assert!((500..1_300).contains(&before.len()), "seed {seed}: {} events", before.len());
        let has = |wanted: fn(&Body) -> bool| before.iter().any(|event| wanted(&event.body));
        assert!(has(|body| matches!(body, Body::PaymentRefunded(_))), "seed {seed}");
        assert!(has(|body| matches!(body, Body::UserErased(_))), "seed {seed}");
        let cancelled = |body: &Body| matches!(body, Body::SubscriptionChanged(changed) if changed.status == SubscriptionStatus::Cancelled);
        assert!(has(cancelled), "seed {seed}");
    }
}

#[test]
fn some_refunds_come_months_after_the_payment() {
    let mut captured = HashMap::new();
    let mut longest = chrono::TimeDelta::zero();
    for event in first(1, 3 * DAY_OF_EVENTS) {
        match event.body {
            Body::PaymentCaptured(paid) => drop(captured.insert(paid.payment_id, event.occurred_at)),
            Body::PaymentRefunded(refund) => {
                longest = longest.max(event.occurred_at - captured[&refund.payment_id]);
            }
            _ => {}
        }
    }
    assert!(longest.num_days() > 31, "{longest}");
}

/// Reads a stream and objects to whatever could not be.
#[derive(Default)]
struct Witness {
    now: i64,
    ids: HashSet<uuid::Uuid>,
    products: HashMap<Id, (Minor, Text)>,
    sessions: HashMap<Id, Id>,
    users: HashSet<Id>,
    erased: HashSet<Id>,
    orders: HashMap<Id, Money>,
    subscriptions: HashMap<Id, (Option<Text>, Minor)>,
    notifications: HashMap<Id, (i64, i32)>,
}

#[derive(Debug)]
struct Money {
    user_id: Id,
    currency: Text,
    total: Minor,
    attempts: i32,
    payment_id: Option<Id>,
    captured: Minor,
    refunded: Minor,
}

#[test]
fn no_effect_comes_before_its_cause_and_all_sums_agree() {
    for seed in [1, 99] {
        let mut witness = Witness::default();
        for event in in_order_of_time(first(seed, 8 * DAY_OF_EVENTS)) {
            witness.see(&event);
        }
        assert!(witness.orders.values().any(|order| order.attempts > 2), "seed {seed}: no payment was tried thrice");
        assert!(witness.orders.values().any(|order| (1..order.captured).contains(&order.refunded)), "seed {seed}");
        assert!(!witness.erased.is_empty(), "seed {seed}: nobody was erased");
    }
}

impl Witness {
    fn see(&mut self, event: &SimulatedEvent) {
        let now = event.occurred_at.timestamp_micros();
        assert!(now >= self.now.max(FOUNDING), "time went back: {event:?}");
        self.now = now;
        assert!(self.ids.insert(event.id), "an id came twice: {event:?}");
        let (seconds, nanos) = event.id.get_timestamp().unwrap().to_unix();
        assert_eq!(seconds * 1000 + u64::from(nanos) / 1_000_000, (now / 1000) as u64, "the id tells another time");
        assert!(self.believes(&event.body), "{event:?}");
    }

    fn believes(&mut self, body: &Body) -> bool {
        match body {
            Body::UserRegistered(user) => self.users.insert(user.user_id),
            Body::UserErased(user) => self.users.contains(&user.user_id) && self.erased.insert(user.user_id),
            Body::SessionStarted(session) => {
                let known =
                    session.user_id.is_none_or(|user| self.users.contains(&user) && !self.erased.contains(&user));
                known && self.sessions.insert(session.session_id, session.anonymous_id).is_none()
            }
            Body::PageViewed(page) => {
                let of_session = self.sessions.get(&page.session_id) == Some(&page.anonymous_id);
                of_session && page.product_id.is_none_or(|product| self.products.contains_key(&product))
            }
            Body::CartItemAdded(item) => {
                let priced = self.products.get(&item.product_id) == Some(&(item.unit_price, item.currency.clone()));
                priced && item.quantity > 0 && self.sessions.get(&item.session_id) == Some(&item.anonymous_id)
            }
            Body::ProductChanged(product) => {
                self.products.insert(product.product_id, (product.price, product.currency.clone()));
                product.price > 0 && product.stock >= 0
            }
            Body::OrderPlaced(order) => self.believes_order(order),
            Body::PaymentCaptured(paid) => {
                let Some(order) = self.orders.get_mut(&paid.order_id) else { return false };
                order.captured += paid.amount;
                order.captured == order.total
                    && order.tried(paid.payment_id, paid.attempt, paid.user_id, &paid.currency)
            }
            Body::PaymentFailed(failed) => {
                let Some(order) = self.orders.get_mut(&failed.order_id) else { return false };
                order.captured == 0
                    && order.tried(failed.payment_id, failed.attempt, failed.user_id, &failed.currency)
                    && failed.amount == order.total
            }
            Body::PaymentRefunded(refund) => {
                let Some(order) = self.orders.get_mut(&refund.order_id) else { return false };
                order.refunded += refund.amount;
                refund.amount > 0 && order.refunded <= order.captured && order.payment_id == Some(refund.payment_id)
            }
            Body::SubscriptionChanged(change) => self.believes_subscription(change),
            Body::NotificationRequested(request) => {
                let known = request.user_id.is_none_or(|user| self.users.contains(&user));
                known && self.notifications.insert(request.notification_id, (self.now, 0)).is_none()
            }
            Body::NotificationDelivered(delivery) => {
                let Some((requested, attempts)) = self.notifications.get_mut(&delivery.notification_id) else {
                    return false;
                };
                *attempts += 1;
                delivery.attempt == *attempts && delivery.latency_ms == (self.now - *requested) / 1000
            }
        }
    }

    fn believes_order(&mut self, order: &OrderPlaced) -> bool {
        let OrderPlaced { user_id, total, .. } = *order;
        let sum: Minor = order.lines.iter().map(|line| line.unit_price * Minor::from(line.quantity)).sum();
        let sold = |line: &OrderLine| self.products.get(&line.product_id).is_some_and(|it| it.1 == order.currency);
        let money = Money {
            user_id,
            currency: order.currency.clone(),
            total,
            attempts: 0,
            payment_id: None,
            captured: 0,
            refunded: 0,
        };
        self.users.contains(&user_id)
            && !self.erased.contains(&user_id)
            && order.session_id.is_none_or(|session| self.sessions.contains_key(&session))
            && !order.lines.is_empty()
            && order.lines.iter().all(sold)
            && total == sum
            && total > 0
            && self.orders.insert(order.order_id, money).is_none()
    }

    /// Plans follow each other, and the deltas sum up to what the plan brings in: nothing after the end.
    fn believes_subscription(&mut self, change: &SubscriptionChanged) -> bool {
        let (plan, mrr) = self.subscriptions.entry(change.subscription_id).or_default();
        let follows = *plan == change.plan_from && self.users.contains(&change.user_id);
        plan.clone_from(&change.plan_to);
        *mrr += change.mrr_delta;
        let paying = matches!(change.status, SubscriptionStatus::Active | SubscriptionStatus::PastDue);
        follows && (*mrr > 0) == paying && plan.is_none() == (change.status == SubscriptionStatus::Cancelled)
    }
}

impl Money {
    fn tried(&mut self, payment_id: Id, attempt: i32, user_id: Id, currency: &Text) -> bool {
        self.attempts += 1;
        let same_payment = *self.payment_id.get_or_insert(payment_id) == payment_id;
        same_payment && attempt == self.attempts && user_id == self.user_id && *currency == self.currency
    }
}
