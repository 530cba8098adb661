//! Subscriptions: started, changed, overdue, ended.

use super::{Action, Shop};
use crate::simulate::agenda::{DAY, Instant, MINUTE};
use crate::simulate::events::*;

/// Plans and what they bring in a month.
const PLANS: [(&str, Minor); 3] = [("basic", 900), ("plus", 1900), ("family", 2900)];

pub(super) struct Subscription {
    subscription_id: Id,
    user_id: Id,
    currency: &'static str,
    /// Index into the plans.
    plan: usize,
    /// None before it starts.
    status: Option<SubscriptionStatus>,
}

impl Shop {
    pub(super) fn subscribe(&mut self, now: Instant, user_id: Id, currency: &'static str) {
        let (subscription_id, plan) = (self.dice.id(), self.dice.index(&PLANS));
        let subscription = Subscription { subscription_id, user_id, currency, plan, status: None };
        self.after(now, MINUTE..=30 * MINUTE, Action::Subscription(Box::new(subscription)));
    }

    pub(super) fn change_subscription(&mut self, now: Instant, mut subscription: Box<Subscription>) -> Body {
        use SubscriptionStatus::{Active, Cancelled, PastDue, Trial};
        let (before, plan_before) = (subscription.status, subscription.plan);
        let luck = self.dice.below(100);
        let after = match before {
            None if luck < 60 => Trial,
            Some(Trial | PastDue) if luck >= 65 => Cancelled,
            Some(Active) if luck < 30 => Cancelled,
            Some(Active) if luck < 55 => PastDue,
            _ => Active,
        };
        if before == Some(Active) && after == Active {
            subscription.plan = (plan_before + 1 + self.dice.index(&PLANS[1..])) % PLANS.len();
        }
        let changed = SubscriptionChanged {
            subscription_id: subscription.subscription_id,
            user_id: subscription.user_id,
            plan_from: before.map(|_| PLANS[plan_before].0.into()),
            plan_to: (after != Cancelled).then(|| PLANS[subscription.plan].0.into()),
            mrr_delta: recurring(Some(after), subscription.plan) - recurring(before, plan_before),
            currency: subscription.currency.into(),
            status: after,
        };
        subscription.status = Some(after);
        if after != Cancelled {
            self.after(now, 5 * DAY..=35 * DAY, Action::Subscription(subscription));
        }
        Body::SubscriptionChanged(changed)
    }
}

/// What a subscription brings in a month: until it is cancelled, an overdue one still counts.
fn recurring(status: Option<SubscriptionStatus>, plan: usize) -> Minor {
    match status {
        Some(SubscriptionStatus::Active | SubscriptionStatus::PastDue) => PLANS[plan].1,
        _ => 0,
    }
}
