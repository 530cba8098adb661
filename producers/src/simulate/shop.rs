//! The simulated shop: what happens in it, one event after the other. Pure: no clock, no socket, only the seed.
//!
//! A discrete-event simulation: the agenda holds what is due, the earliest is taken, it gives at most one event and
//! notes what follows from it. So an effect never comes before its cause, and times never go back.
//!
//! ```text
//! visit ─→ browse ⇄ add to cart ─→ (register) ─→ order ─→ pay ⇄ (failed) ─→ captured ─→ refund, refund
//!                                                  └→ subscription          └→ notification requested ─→ delivered
//! ```

mod accounts;
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

/// 2026-01-01T00:00:00Z: when the shop opens.
pub const OPENING: Instant = 1_767_225_600 * SECOND;

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
            shop.agenda.note(OPENING + product as i64 * SECOND / 2, Action::List(product));
        }
        let opened = OPENING + PRODUCTS as i64 * SECOND / 2;
        use Action::{ChangeProduct, Erase, OrderByPhone, RegisterByPartner, Visit};
        for first in [Visit, ChangeProduct, RegisterByPartner, OrderByPhone, Erase] {
            shop.agenda.note(opened, first);
        }
        shop
    }

    /// Everything that is held: people and open things.
    pub fn held(&self) -> usize {
        self.people.len() + self.agenda.len()
    }

    fn step(&mut self, now: Instant, action: Action) -> Option<Body> {
        match action {
            Action::List(product) => Some(Body::ProductChanged(self.catalogue.get(product).changed())),
            Action::ChangeProduct => Some(self.change_product(now)),
            Action::Visit => self.visit(now),
            Action::Browse(session) => Some(self.browse(now, session)),
            Action::AddToCart(session, product) => Some(self.add_to_cart(now, session, product)),
            Action::Register(session) => self.register(now, session),
            Action::Order(session) => self.order(now, *session),
            Action::OrderByPhone => self.order_by_phone(now),
            Action::RegisterByPartner => Some(self.register_by_partner(now)),
            Action::Erase => self.erase(now),
            Action::Pay(payment) => Some(self.pay(now, *payment)),
            Action::Refund(refundable) => Some(self.refund(now, refundable)),
            Action::Subscription(subscription) => Some(self.change_subscription(now, subscription)),
            Action::Request(notification) => Some(self.request(now, notification)),
            Action::Deliver(notification) => Some(self.deliver(now, *notification)),
        }
    }

    fn after(&mut self, now: Instant, wait: std::ops::RangeInclusive<i64>, action: Action) {
        let wait = self.dice.between(wait);
        self.agenda.note(now + wait, action);
    }

    /// For what keeps coming: the next is due in `mean`, give or take all of it.
    fn again(&mut self, now: Instant, mean: i64, action: Action) {
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
            if let Some(body) = self.step(now, action) {
                let occurred_at = DateTime::<Utc>::from_timestamp_micros(now)?;
                return Some(SimulatedEvent { id: self.dice.event_id(occurred_at), occurred_at, body });
            }
        }
    }
}
