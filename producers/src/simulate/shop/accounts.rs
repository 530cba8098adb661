//! Accounts: who registers, and whom the shop must forget.

use super::visits::Session;
use super::{Action, Person, Shop};
use crate::simulate::agenda::{HOUR, Instant, MINUTE, SECOND};
use crate::simulate::catalogue::name_and_email;
use crate::simulate::events::*;

const PARTNER_ACCOUNT_EVERY: i64 = 60 * MINUTE;
const ERASURE_EVERY: i64 = 3 * HOUR;

impl Shop {
    /// Nobody registers twice: who was faster in another tab goes on with that account.
    pub(super) fn register(&mut self, now: Instant, mut session: Box<Session>) -> Option<Body> {
        let person = self.people.get_mut(session.slot).filter(|it| it.anonymous_id == session.person.anonymous_id)?;
        let already = person.user_id;
        let user_id = already.unwrap_or_else(|| self.dice.id());
        person.user_id = Some(user_id);
        session.person = *person;
        let registered = self.registered(user_id, &session.person, true);
        if !session.basket.is_empty() {
            self.after(now, 20 * SECOND..=5 * MINUTE, Action::Order(session));
        }
        already.is_none().then_some(registered)
    }

    pub(super) fn register_by_partner(&mut self, now: Instant) -> Body {
        self.again(now, PARTNER_ACCOUNT_EVERY, Action::RegisterByPartner);
        let user_id = self.dice.id();
        let slot = self.welcome_stranger();
        self.people[slot].user_id = Some(user_id);
        let person = self.people[slot];
        self.registered(user_id, &person, false)
    }

    fn registered(&mut self, user_id: Id, person: &Person, in_the_shop: bool) -> Body {
        const CHANNELS: [Channel; 8] = {
            use Channel::{Organic, Paid, Referral, Unknown};
            [Organic, Organic, Organic, Paid, Paid, Referral, Referral, Unknown]
        };
        let (name, email) = name_and_email(&mut self.dice);
        let channel = self.dice.pick(&CHANNELS);
        Body::UserRegistered(UserRegistered {
            user_id,
            anonymous_id: in_the_shop.then_some(person.anonymous_id),
            email,
            name,
            locale: person.country.locale.into(),
            country: person.country.code.into(),
            channel: if in_the_shop { channel } else { Channel::Partner },
        })
    }

    /// Someone with an account, if a few tries find one.
    pub(super) fn customer(&mut self) -> Option<usize> {
        const TRIES: usize = 32;
        let tries = if self.people.is_empty() { 0 } else { TRIES };
        (0..tries).map(|_| self.dice.index(&self.people)).find(|slot| self.people[*slot].user_id.is_some())
    }

    /// The account is forgotten; who comes next is a stranger.
    pub(super) fn erase(&mut self, now: Instant) -> Option<Body> {
        self.again(now, ERASURE_EVERY, Action::Erase);
        let slot = self.customer().filter(|slot| !self.people[*slot].subscribed)?;
        let user_id = self.people[slot].user_id?;
        self.people[slot] = self.stranger();
        let requested_by = self.dice.word(&["user", "user", "support", "retention"]);
        Some(Body::UserErased(UserErased { user_id, requested_by }))
    }
}
