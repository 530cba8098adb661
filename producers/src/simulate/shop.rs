//! The simulated shop: what happens in it, one event after the other. Pure: no clock, no socket, only the seed.
//!
//! A discrete-event simulation: the agenda holds what is due, the earliest is taken, it gives at most one event and
//! notes what follows from it. So an effect never happens before its cause. A few events arrive late, as from a phone
//! that was offline: they tell of an earlier time, and come behind events that happened after them.
//!
//! Before its website opened the shop sold by phone: a few hundred events with months of customers, subscriptions and
//! refunds, so that what is counted by month has something to count from the first minute on.
//!
//! ```text
//! visit ─→ browse ⇄ add to cart ─→ (register) ─→ order ─→ pay ⇄ (failed) ─→ captured ─→ refund, refund
//!                                                  └→ subscription          └→ notification requested ─→ delivered
//! ```

mod accounts;
mod late;
mod notifications;
mod orders;
mod subscriptions;
#[cfg(test)]
mod tests;
mod visits;

use super::agenda::{Agenda, Instant, MINUTE, SECOND};
use super::catalogue::{Catalogue, Country, PRODUCTS};
use super::dice::Dice;
use super::events::{Body, Device, Id, SimulatedEvent};
use chrono::{DateTime, Utc};
use notifications::Notification;
use orders::{Payment, Refundable};
use subscriptions::Subscription;
use visits::Session;

/// 2026-01-01T00:00:00Z: when the shop's website opens.
pub const OPENING: Instant = 1_767_225_600 * SECOND;
/// 2025-09-01T00:00:00Z: when it was founded.
pub const FOUNDING: Instant = 1_756_684_800 * SECOND;
/// What keeps coming comes so much less often before the website.
const QUIETER_BEFORE: i64 = 20;

const PRODUCT_CHANGE_EVERY: i64 = 6 * MINUTE;

/// The endless stream of a seed's events.
pub struct Shop {
    dice: Dice,
    catalogue: Catalogue,
    people: Vec<Person>,
    agenda: Agenda<Action>,
}

/// What is due.
enum Action {
    List(usize),
    ChangeProduct,
    Visit,
    Browse(Box<Session>),
    AddToCart(Box<Session>, usize),
    Register(Box<Session>),
    Order(Box<Session>),
    OrderByPhone,
    RegisterByPartner,
    Erase,
    Pay(Box<Payment>),
    Refund(Box<Refundable>),
    Subscription(Box<Subscription>),
    Request(Box<Notification>),
    Deliver(Box<Notification>),
    /// Happened at that time, and is told only now.
    Arrive(Box<(Instant, Body)>),
}

#[derive(Clone, Copy)]
struct Person {
    anonymous_id: Id,
    user_id: Option<Id>,
    country: &'static Country,
    device: Device,
    /// Ever: who subscribes neither subscribes again nor asks to be erased.
    subscribed: bool,
}

impl Shop {
    pub fn open(seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        let catalogue = Catalogue::new(&mut dice);
        let mut shop = Self { dice, catalogue, people: Vec::new(), agenda: Agenda::new() };
        for product in 0..PRODUCTS {
            shop.agenda.note(FOUNDING + product as i64 * SECOND / 2, Action::List(product));
        }
        let listed = FOUNDING + PRODUCTS as i64 * SECOND / 2;
        use Action::{ChangeProduct, Erase, OrderByPhone, RegisterByPartner, Visit};
        for first in [RegisterByPartner, OrderByPhone, Erase] {
            shop.agenda.note(listed, first);
        }
        for first in [Visit, ChangeProduct] {
            shop.agenda.note(OPENING, first);
        }
        shop
    }

    /// Everything that is held: people and open things.
    pub fn held(&self) -> usize {
        self.people.len() + self.agenda.len()
    }

    /// What is told now, if anything is, and when it happened.
    fn step(&mut self, now: Instant, action: Action) -> Option<(Instant, Body)> {
        let body = match action {
            Action::List(product) => Body::ProductChanged(self.catalogue.get(product).changed()),
            Action::ChangeProduct => self.change_product(now),
            Action::Visit => self.visit(now)?,
            Action::Browse(session) => self.browse(now, session),
            Action::AddToCart(session, product) => self.add_to_cart(now, session, product),
            Action::Register(session) => self.register(now, session)?,
            Action::Order(session) => self.order(now, *session)?,
            Action::OrderByPhone => self.order_by_phone(now)?,
            Action::RegisterByPartner => self.register_by_partner(now),
            Action::Erase => self.erase(now)?,
            Action::Pay(payment) => self.pay(now, *payment),
            Action::Refund(refundable) => self.refund(now, refundable),
            Action::Subscription(subscription) => self.change_subscription(now, subscription),
            Action::Request(notification) => self.request(now, notification),
            Action::Deliver(notification) => self.deliver(now, *notification),
            Action::Arrive(late) => return Some(*late),
        };
        self.unless_late(now, body)
    }

    fn after(&mut self, now: Instant, wait: std::ops::RangeInclusive<i64>, action: Action) {
        let wait = self.dice.between(wait);
        self.agenda.note(now + wait, action);
    }

    /// For what keeps coming: the next is due in `mean`, give or take all of it.
    fn again(&mut self, now: Instant, mean: i64, action: Action) {
        let mean = if now < OPENING { mean * QUIETER_BEFORE } else { mean };
        self.after(now, 1..=2 * mean, action);
    }

    fn change_product(&mut self, now: Instant) -> Body {
        self.again(now, PRODUCT_CHANGE_EVERY, Action::ChangeProduct);
        Body::ProductChanged(self.catalogue.change(&mut self.dice))
    }
}

impl Iterator for Shop {
    type Item = SimulatedEvent;

    /// Never `None`: visits keep coming.
    fn next(&mut self) -> Option<SimulatedEvent> {
        loop {
            let (now, action) = self.agenda.next()?;
            if let Some((at, body)) = self.step(now, action) {
                let occurred_at = DateTime::<Utc>::from_timestamp_micros(at)?;
                return Some(SimulatedEvent { id: self.dice.event_id(occurred_at), occurred_at, body });
            }
        }
    }
}
