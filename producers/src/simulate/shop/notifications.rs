//! Notifications: asked for, and what became of each attempt.

use super::{Action, Shop};
use crate::simulate::agenda::{Instant, MINUTE, SECOND};
use crate::simulate::events::*;

/// Tries at one notification.
const ATTEMPTS_MAX: i32 = 4;

#[derive(Clone, Copy)]
pub(super) struct Notification {
    notification_id: Id,
    user_id: Option<Id>,
    rule: &'static str,
    channel: &'static str,
    critical: bool,
    requested_at: Instant,
    attempt: i32,
}

impl Shop {
    pub(super) fn notify(
        &mut self,
        now: Instant,
        user_id: Option<Id>,
        rule: &'static str,
        channel: &'static str,
        critical: bool,
    ) {
        let notification_id = self.dice.id();
        let requested_at = now + self.dice.between(SECOND / 20..=2 * SECOND);
        let notification = Notification { notification_id, user_id, rule, channel, critical, requested_at, attempt: 1 };
        self.agenda.note(requested_at, Action::Request(Box::new(notification)));
    }

    pub(super) fn request(&mut self, now: Instant, notification: Box<Notification>) -> Body {
        let &Notification { notification_id, user_id, rule, channel, critical, .. } = &*notification;
        self.after(now, SECOND / 12..=5 * SECOND, Action::Deliver(notification));
        let (rule, channel) = (rule.into(), channel.into());
        let template = Text::clone(&rule);
        Body::NotificationRequested(NotificationRequested {
            notification_id,
            user_id,
            rule,
            template,
            channel,
            critical,
        })
    }

    /// What failed is tried again, any other outcome is the last.
    pub(super) fn deliver(&mut self, now: Instant, notification: Notification) -> Body {
        let luck = self.dice.below(100);
        let outcome = match luck {
            0..90 => Outcome::Delivered,
            90..96 => Outcome::Failed,
            96..98 => Outcome::Bounced,
            98 => Outcome::Rejected,
            _ => Outcome::Unknown,
        };
        let Notification { notification_id, channel, attempt, requested_at, .. } = notification;
        if outcome == Outcome::Failed && attempt < ATTEMPTS_MAX {
            let next = Box::new(Notification { attempt: attempt + 1, ..notification });
            self.after(now, 10 * SECOND..=10 * MINUTE, Action::Deliver(next));
        }
        Body::NotificationDelivered(NotificationDelivered {
            notification_id,
            attempt,
            channel: channel.into(),
            provider: if channel == "email" { "mailgate" } else { "direct" }.into(),
            outcome,
            latency_ms: (now - requested_at) / 1000,
        })
    }
}
