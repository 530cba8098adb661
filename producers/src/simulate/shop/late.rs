//! Late events: what a phone without a network or a partner's retry tells only afterwards. What the shop itself
//! records, its orders and payments above all, is never late.

use super::{Action, Shop};
use crate::simulate::agenda::{DAY, HOUR, Instant, MINUTE};
use crate::simulate::events::Body;

/// Of a hundred events that can be late.
const LATE_PERCENT: u64 = 2;
/// No event is later than this.
pub(super) const LATE_MAX: i64 = 3 * DAY;

impl Shop {
    /// The event, or nothing yet.
    pub(super) fn unless_late(&mut self, now: Instant, body: Body) -> Option<(Instant, Body)> {
        if !can_be_late(&body) || !self.dice.percent(LATE_PERCENT) {
            return Some((now, body));
        }
        let wait = if self.dice.percent(75) { MINUTE..=2 * HOUR } else { 6 * HOUR..=LATE_MAX };
        self.after(now, wait, Action::Arrive(Box::new((now, body))));
        None
    }
}

fn can_be_late(body: &Body) -> bool {
    match body {
        Body::SessionStarted(_)
        | Body::PageViewed(_)
        | Body::CartItemAdded(_)
        | Body::SubscriptionChanged(_)
        | Body::NotificationDelivered(_) => true,
        Body::UserRegistered(_)
        | Body::UserErased(_)
        | Body::ProductChanged(_)
        | Body::OrderPlaced(_)
        | Body::PaymentCaptured(_)
        | Body::PaymentFailed(_)
        | Body::PaymentRefunded(_)
        | Body::NotificationRequested(_) => false,
    }
}
