//! Orders and their money: placed, tried, collected, given back.

use super::visits::Session;
use super::{Action, Person, Shop};
use crate::simulate::agenda::{DAY, HOUR, Instant, MINUTE, SECOND};
use crate::simulate::catalogue::Country;
use crate::simulate::events::*;

const PHONE_ORDER_EVERY: i64 = 90 * MINUTE;
/// Tries at one payment.
const ATTEMPTS_MAX: i32 = 4;
const COUPONS: [&str; 3] = ["WELCOME10", "SPRING10", "SORRY10"];

#[derive(Clone, Copy)]
pub(super) struct Payment {
    payment_id: Id,
    order_id: Id,
    user_id: Id,
    amount: Minor,
    currency: &'static str,
    method: Method,
    attempt: i32,
}

pub(super) struct Refundable {
    payment: Payment,
    left: Minor,
}

impl Shop {
    pub(super) fn order(&mut self, now: Instant, session: Session) -> Option<Body> {
        let user_id = session.person.user_id?;
        self.people.get(session.slot).filter(|it| it.user_id == Some(user_id))?; // not erased since
        self.perhaps_subscribe(now, session.slot, 12);
        Some(self.place(now, user_id, session.person.country, Some(session.session_id), session.basket))
    }

    pub(super) fn order_by_phone(&mut self, now: Instant) -> Option<Body> {
        self.again(now, PHONE_ORDER_EVERY, Action::OrderByPhone);
        let slot = self.customer()?;
        self.perhaps_subscribe(now, slot, 30);
        let Person { user_id, country, .. } = self.people[slot];
        let index = self.catalogue.pick(country.storefront, &mut self.dice);
        let product = self.catalogue.get(index);
        let line = OrderLine { product_id: product.product_id, quantity: 1, unit_price: product.price };
        Some(self.place(now, user_id?, country, None, vec![(index, line)]))
    }

    /// With an order, a part of those who never did.
    fn perhaps_subscribe(&mut self, now: Instant, slot: usize, percent: u64) {
        let Person { user_id: Some(user_id), subscribed: false, country, .. } = self.people[slot] else { return };
        if self.dice.percent(percent) {
            self.people[slot].subscribed = true;
            self.subscribe(now, user_id, country.currency());
        }
    }

    fn place(
        &mut self,
        now: Instant,
        user_id: Id,
        country: &Country,
        session_id: Option<Id>,
        mut basket: Vec<(usize, OrderLine)>,
    ) -> Body {
        let coupon = self.dice.percent(15).then(|| self.dice.word(&COUPONS));
        for (product, line) in &mut basket {
            self.catalogue.take(*product, line.quantity);
            if coupon.is_some() {
                line.unit_price -= line.unit_price / 10;
            }
        }
        let lines: Vec<OrderLine> = basket.into_iter().map(|(_, line)| line).collect();
        let total = lines.iter().map(|line| line.unit_price * Minor::from(line.quantity)).sum();
        let (order_id, currency) = (self.dice.id(), country.currency());
        self.collect(now, order_id, user_id, total, currency);
        Body::OrderPlaced(OrderPlaced {
            order_id,
            user_id,
            session_id,
            lines,
            total,
            currency: currency.into(),
            coupon,
        })
    }

    fn collect(&mut self, now: Instant, order_id: Id, user_id: Id, amount: Minor, currency: &'static str) {
        const METHODS: [Method; 10] = {
            use Method::{BankTransfer, Card, Paypal, Unknown};
            [Card, Card, Card, Card, Card, Card, Paypal, Paypal, BankTransfer, Unknown]
        };
        let (payment_id, method) = (self.dice.id(), self.dice.pick(&METHODS));
        let payment = Payment { payment_id, order_id, user_id, amount, currency, method, attempt: 1 };
        if self.dice.percent(97) {
            self.after(now, 2 * SECOND..=90 * SECOND, Action::Pay(Box::new(payment)));
        } // the others never come back to pay
    }

    pub(super) fn pay(&mut self, now: Instant, payment: Payment) -> Body {
        if self.dice.percent(84) { self.capture(now, payment) } else { self.fail(now, payment) }
    }

    fn capture(&mut self, now: Instant, payment: Payment) -> Body {
        let Payment { payment_id, order_id, user_id, amount, currency, method, attempt } = payment;
        if self.dice.percent(60) {
            self.notify(now, Some(user_id), "order_confirmed", "email", false);
        }
        if self.dice.percent(10) {
            let refundable = Box::new(Refundable { left: amount, payment });
            let wait = match self.dice.below(100) {
                0..35 => 10 * MINUTE..=4 * HOUR,
                35..80 => DAY..=10 * DAY,
                _ => 35 * DAY..=100 * DAY, // what broke within the warranty
            };
            self.after(now, wait, Action::Refund(refundable));
        }
        let currency = currency.into();
        Body::PaymentCaptured(PaymentCaptured { payment_id, order_id, user_id, amount, currency, method, attempt })
    }

    /// Most are tried again: soon at first, next time a day later.
    fn fail(&mut self, now: Instant, payment: Payment) -> Body {
        const REASONS: [FailureReason; 6] = {
            use FailureReason::{Declined, ExpiredCard, FraudSuspected, InsufficientFunds, Technical, Unknown};
            [InsufficientFunds, Declined, ExpiredCard, FraudSuspected, Technical, Unknown]
        };
        let Payment { payment_id, order_id, user_id, amount, currency, method, attempt } = payment;
        self.notify(now, Some(user_id), "payment_failed", "email", true);
        if attempt < ATTEMPTS_MAX && self.dice.percent(85) {
            let wait = if attempt == 1 { MINUTE..=20 * MINUTE } else { 4 * HOUR..=DAY };
            self.after(now, wait, Action::Pay(Box::new(Payment { attempt: attempt + 1, ..payment })));
        }
        let (reason, currency) = (self.dice.pick(&REASONS), currency.into());
        Body::PaymentFailed(PaymentFailed { payment_id, order_id, user_id, amount, currency, method, attempt, reason })
    }

    /// All that is left, or a part and perhaps another later.
    pub(super) fn refund(&mut self, now: Instant, mut refundable: Box<Refundable>) -> Body {
        const REASONS: [RefundReason; 6] = {
            use RefundReason::{Damaged, Duplicate, Late, Other, Requested, Unknown};
            [Requested, Damaged, Late, Duplicate, Other, Unknown]
        };
        let share = if self.dice.percent(60) { 100 } else { self.dice.between(10..=80) };
        let amount = (refundable.left * share / 100).max(1);
        refundable.left -= amount;
        let Payment { payment_id, order_id, user_id, currency, .. } = refundable.payment;
        if refundable.left > 0 && self.dice.percent(40) {
            self.after(now, HOUR..=5 * DAY, Action::Refund(refundable));
        }
        if self.dice.percent(25) {
            self.notify(now, None, "refund_issued", "webhook", false);
        }
        let (refund_id, reason) = (self.dice.id(), self.dice.pick(&REASONS));
        let currency = currency.into();
        Body::PaymentRefunded(PaymentRefunded { refund_id, payment_id, order_id, user_id, amount, currency, reason })
    }
}
