//! Visits: who comes, what they look at, what they put into the basket.

use super::{Action, Person, Shop};
use crate::simulate::agenda::{DAY, HOUR, Instant, MINUTE, SECOND};
use crate::simulate::catalogue::COUNTRIES;
use crate::simulate::events::*;

/// Mean time between two visits at an average hour. With it a simulated day has about 20,000 events.
const VISIT_EVERY: i64 = 30 * SECOND;
/// How much longer than on average one waits for a visit, in percent, by hour of the day (UTC).
const QUIET: [i64; 24] =
    [160, 210, 280, 330, 330, 260, 180, 130, 105, 95, 90, 85, 80, 85, 90, 90, 85, 80, 70, 65, 62, 68, 85, 115];
/// Visitors who may come back. Whoever is forgotten just stays away.
const PEOPLE_MAX: usize = 20_000;
/// Nobody new comes while this much is open. About 2,500 things are, so this is far from what happens.
const OPEN_MAX: usize = 50_000;
/// Products in a basket.
const BASKET_MAX: usize = 6;
const SOURCES: [(&str, &[&str]); 4] = [
    ("newsletter", &["winter-lighting", "weekly", "back-in-stock"]),
    ("search-ads", &["brand", "lamps", "chairs"]),
    ("social", &["living-room", "giveaway"]),
    ("partner", &["design-blog"]),
];
const REFERRERS: [&str; 3] =
    ["https://search.example.com/", "https://social.example.com/feed", "https://design-blog.example.com/lamps"];

pub(super) struct Session {
    pub session_id: Id,
    pub person: Person,
    /// Where the person was when the session began.
    pub slot: usize,
    views_left: i64,
    first_view: bool,
    pub basket: Vec<(usize, OrderLine)>,
}

impl Shop {
    pub(super) fn visit(&mut self, now: Instant) -> Option<Body> {
        let hour = now.rem_euclid(DAY) / HOUR;
        self.again(now, VISIT_EVERY * QUIET[hour as usize] / 100, Action::Visit);
        if self.agenda.len() >= OPEN_MAX {
            return None;
        }
        let slot = if self.people.is_empty() || self.dice.percent(45) {
            self.welcome_stranger()
        } else {
            self.dice.index(&self.people)
        };
        let person = self.people[slot];
        let session_id = self.dice.id();
        let views_left = self.dice.between(0..=9);
        let session = Session { session_id, person, slot, views_left, first_view: true, basket: Vec::new() };
        self.after(now, SECOND / 5..=3 * SECOND, Action::Browse(Box::new(session)));
        Some(self.session_started(session_id, &person))
    }

    /// Where the new person stands.
    pub(super) fn welcome_stranger(&mut self) -> usize {
        let stranger = self.stranger();
        if self.people.len() < PEOPLE_MAX {
            self.people.push(stranger);
            return self.people.len() - 1;
        }
        let slot = self.dice.index(&self.people);
        self.people[slot] = stranger;
        slot
    }

    pub(super) fn stranger(&mut self) -> Person {
        const DEVICES: [Device; 10] = {
            use Device::{Desktop, Mobile, Tablet, Unknown};
            [Mobile, Mobile, Mobile, Mobile, Mobile, Desktop, Desktop, Desktop, Tablet, Unknown]
        };
        let country = &COUNTRIES[self.dice.index(&COUNTRIES)];
        let device = self.dice.pick(&DEVICES);
        Person { anonymous_id: self.dice.id(), user_id: None, country, device, subscribed: false }
    }

    fn session_started(&mut self, session_id: Id, person: &Person) -> Body {
        let (mut utm_source, mut utm_campaign) = (None, None);
        if self.dice.percent(35) {
            let (source, campaigns) = self.dice.pick(&SOURCES);
            utm_source = Some(source.into());
            utm_campaign = self.dice.percent(90).then(|| self.dice.word(campaigns));
        }
        Body::SessionStarted(SessionStarted {
            session_id,
            anonymous_id: person.anonymous_id,
            user_id: person.user_id,
            utm_source,
            utm_campaign,
            device: person.device,
            country: person.country.code.into(),
        })
    }

    pub(super) fn browse(&mut self, now: Instant, mut session: Box<Session>) -> Body {
        let shown =
            self.dice.percent(60).then(|| self.catalogue.pick(session.person.country.storefront, &mut self.dice));
        let viewed = self.page_viewed(&session, shown);
        session.first_view = false;
        session.views_left -= 1;
        match shown {
            Some(product) if session.basket.len() < BASKET_MAX && self.dice.percent(32) => {
                self.after(now, 2 * SECOND..=60 * SECOND, Action::AddToCart(session, product));
            }
            _ => self.go_on(now, session),
        }
        viewed
    }

    fn page_viewed(&mut self, session: &Session, shown: Option<usize>) -> Body {
        const PAGES: [&str; 8] = [
            "/",
            "/",
            "/search",
            "/categories/lighting",
            "/categories/seating",
            "/categories/kitchen",
            "/cart",
            "/account",
        ];
        let path: Text = match shown {
            Some(product) => self.catalogue.get(product).path.clone().into(),
            None => self.dice.word(&PAGES),
        };
        let referrer = match session.first_view {
            true => self.dice.percent(50).then(|| self.dice.word(&REFERRERS)),
            false => Some(Text::Borrowed("https://shop.example.com/")),
        };
        let slow = if self.dice.percent(3) { self.dice.between(1_000..=6_000) } else { 0 };
        Body::PageViewed(PageViewed {
            session_id: session.session_id,
            anonymous_id: session.person.anonymous_id,
            path,
            product_id: shown.map(|product| self.catalogue.get(product).product_id),
            referrer,
            load_ms: self.dice.between(120..=900) + slow,
        })
    }

    pub(super) fn add_to_cart(&mut self, now: Instant, mut session: Box<Session>, product: usize) -> Body {
        let chosen = self.catalogue.get(product);
        let quantity = if self.dice.percent(75) { 1 } else { self.dice.between(2..=4) as i32 };
        let added = CartItemAdded {
            session_id: session.session_id,
            anonymous_id: session.person.anonymous_id,
            product_id: chosen.product_id,
            quantity,
            unit_price: chosen.price,
            currency: chosen.currency.into(),
        };
        let line = OrderLine { product_id: added.product_id, quantity, unit_price: added.unit_price };
        session.basket.push((product, line));
        self.go_on(now, session);
        Body::CartItemAdded(added)
    }

    /// Another page, or an end: leaving, or ordering what is in the basket.
    fn go_on(&mut self, now: Instant, session: Box<Session>) {
        if session.views_left > 0 {
            return self.after(now, 3 * SECOND..=120 * SECOND, Action::Browse(session));
        }
        let known = session.person.user_id.is_some();
        let orders = !session.basket.is_empty() && self.dice.percent(if known { 45 } else { 16 });
        if orders && known {
            self.after(now, 20 * SECOND..=5 * MINUTE, Action::Order(session));
        } else if orders || (!known && self.dice.percent(4)) {
            self.after(now, 20 * SECOND..=3 * MINUTE, Action::Register(session));
        }
    }
}
