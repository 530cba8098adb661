//! `customer_summary` and `customer_spend`: what is known of each customer, from accounts, orders and visits.
//!
//! Those topics are keyed by account, order and visitor, so several partitions meet one customer at once.
//! No personal data is kept here: an erased account is marked, and there is nothing to remove.

use super::body::Body;
use super::money::{Currency, Money};
use super::projection::{Projection, Rows, Sharing, happened_at};
use chrono::{DateTime, Utc};
use millrace_schemas::Envelope;
use millrace_stream::Reject;
use sqlx::{PgConnection, Row as _};
use std::collections::BTreeMap;
use uuid::Uuid;

pub struct CustomerSummary;

/// What happened, and to which account.
#[derive(Debug, Clone)]
pub enum CustomerEvent {
    Registered(Uuid),
    Erased(Uuid),
    Visited(Uuid),
    Ordered(Uuid),
    Captured(Uuid, Money),
    Refunded(Uuid, Money),
}

/// A row of `customer_summary` with its rows of `customer_spend`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Customer {
    registered_at: Option<DateTime<Utc>>,
    orders: i64,
    last_seen_at: Option<DateTime<Utc>>,
    erased_at: Option<DateTime<Utc>>,
    spend: BTreeMap<Currency, Spend>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Spend {
    captured: i64,
    refunded: i64,
}

impl Projection for CustomerSummary {
    const NAME: &'static str = "customer_summary";
    const READS: &'static [&'static str] =
        &["user.registered", "user.erased", "session.started", "order.placed", "payment.captured", "payment.refunded"];
    const SHARING: Sharing = Sharing::ManyPartitions {
        insert_missing: "insert into customer_summary (user_id)
                         select user_id from unnest($1::uuid[]) as missing (user_id) order by user_id
                         on conflict (user_id) do nothing",
    };

    type Event = CustomerEvent;
    type Row = Customer;

    fn decode(event_type: &str, body: &Body) -> Result<Option<CustomerEvent>, Reject> {
        // A session has no account when nobody was signed in: then it is nobody's visit.
        let Some(user_id) = body.optional_id("user_id")? else { return Ok(None) };
        Ok(match event_type {
            "user.registered" => Some(CustomerEvent::Registered(user_id)),
            "user.erased" => Some(CustomerEvent::Erased(user_id)),
            "session.started" => Some(CustomerEvent::Visited(user_id)),
            "order.placed" => Some(CustomerEvent::Ordered(user_id)),
            "payment.captured" => Some(CustomerEvent::Captured(user_id, Money::amount(body)?)),
            "payment.refunded" => Some(CustomerEvent::Refunded(user_id, Money::amount(body)?)),
            _ => None,
        })
    }

    fn key(event: &CustomerEvent) -> Uuid {
        match event {
            CustomerEvent::Registered(user_id)
            | CustomerEvent::Erased(user_id)
            | CustomerEvent::Visited(user_id)
            | CustomerEvent::Ordered(user_id)
            | CustomerEvent::Captured(user_id, _)
            | CustomerEvent::Refunded(user_id, _) => *user_id,
        }
    }

    fn fold(customer: &mut Customer, envelope: &Envelope, event: &CustomerEvent) {
        let at = happened_at(envelope);
        match event {
            CustomerEvent::Registered(_) => {
                customer.registered_at = earlier(customer.registered_at, at);
                customer.seen(at);
            }
            CustomerEvent::Erased(_) => customer.erased_at = earlier(customer.erased_at, at),
            CustomerEvent::Visited(_) => customer.seen(at),
            CustomerEvent::Ordered(_) => {
                customer.orders += 1;
                customer.seen(at);
            }
            CustomerEvent::Captured(_, money) => {
                add(&mut customer.spend_in(*money).captured, *money);
                customer.seen(at);
            }
            // Often the shop's doing, so the customer was not seen.
            CustomerEvent::Refunded(_, money) => add(&mut customer.spend_in(*money).refunded, *money),
        }
    }

    async fn load(tx: &mut PgConnection, keys: &[Uuid], rows: &mut Rows<Self>) -> Result<(), sqlx::Error> {
        let locked = sqlx::query(
            "select user_id, registered_at, orders, last_seen_at, erased_at
             from customer_summary where user_id = any($1) order by user_id for update",
        );
        for row in locked.bind(keys).fetch_all(&mut *tx).await? {
            let customer = Customer {
                registered_at: row.try_get("registered_at")?,
                orders: row.try_get("orders")?,
                last_seen_at: row.try_get("last_seen_at")?,
                erased_at: row.try_get("erased_at")?,
                spend: BTreeMap::new(),
            };
            rows.insert(row.try_get("user_id")?, customer);
        }
        load_spend(tx, keys, rows).await
    }

    async fn store(tx: &mut PgConnection, rows: &[(Uuid, Customer)]) -> Result<(), sqlx::Error> {
        let write = sqlx::query(
            "insert into customer_summary (user_id, registered_at, orders, last_seen_at, erased_at)
             select * from unnest($1::uuid[], $2::timestamptz[], $3::bigint[], $4::timestamptz[], $5::timestamptz[])
             on conflict (user_id) do update set registered_at = excluded.registered_at,
                 orders = excluded.orders, last_seen_at = excluded.last_seen_at, erased_at = excluded.erased_at",
        );
        write
            .bind(rows.iter().map(|(user_id, _)| *user_id).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, customer)| customer.registered_at).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, customer)| customer.orders).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, customer)| customer.last_seen_at).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, customer)| customer.erased_at).collect::<Vec<_>>())
            .execute(&mut *tx)
            .await?;
        store_spend(tx, rows).await
    }
}

impl Customer {
    fn seen(&mut self, at: DateTime<Utc>) {
        self.last_seen_at = self.last_seen_at.max(Some(at));
    }

    fn spend_in(&mut self, money: Money) -> &mut Spend {
        self.spend.entry(money.currency).or_default()
    }
}

fn earlier(known: Option<DateTime<Utc>>, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
    Some(known.map_or(at, |known| known.min(at)))
}

/// Amounts are bounded ([`Money`]), so a sum saturates only after millions of the largest.
fn add(sum: &mut i64, money: Money) {
    *sum = sum.saturating_add(money.amount);
}

/// A statement of its own: only one that starts after the customers were locked sees what their last holder wrote.
async fn load_spend(tx: &mut PgConnection, keys: &[Uuid], rows: &mut Rows<CustomerSummary>) -> Result<(), sqlx::Error> {
    let spend = sqlx::query("select user_id, currency, captured, refunded from customer_spend where user_id = any($1)");
    for row in spend.bind(keys).fetch_all(tx).await? {
        let text: &str = row.try_get("currency")?;
        let unreadable = || sqlx::Error::Decode(format!("customer_spend holds the currency `{text}`").into());
        let currency = Currency::parse(text).ok_or_else(unreadable)?;
        let spend = Spend { captured: row.try_get("captured")?, refunded: row.try_get("refunded")? };
        rows.entry(row.try_get("user_id")?).or_default().spend.insert(currency, spend);
    }
    Ok(())
}

/// Most events move no money: rows that stay as they are cost no new version.
async fn store_spend(tx: &mut PgConnection, rows: &[(Uuid, Customer)]) -> Result<(), sqlx::Error> {
    let each = |(user_id, customer): &(Uuid, Customer)| {
        let user_id = *user_id;
        customer.spend.clone().into_iter().map(move |(currency, spend)| (user_id, currency, spend))
    };
    let spend: Vec<(Uuid, Currency, Spend)> = rows.iter().flat_map(each).collect();
    if spend.is_empty() {
        return Ok(());
    }
    let write = sqlx::query(
        "insert into customer_spend as known (user_id, currency, captured, refunded)
         select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[])
         on conflict (user_id, currency) do update set captured = excluded.captured, refunded = excluded.refunded
         where (known.captured, known.refunded) is distinct from (excluded.captured, excluded.refunded)",
    );
    write
        .bind(spend.iter().map(|(user_id, _, _)| *user_id).collect::<Vec<_>>())
        .bind(spend.iter().map(|(_, currency, _)| currency.as_str()).collect::<Vec<_>>())
        .bind(spend.iter().map(|(_, _, spend)| spend.captured).collect::<Vec<_>>())
        .bind(spend.iter().map(|(_, _, spend)| spend.refunded).collect::<Vec<_>>())
        .execute(tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{gives_what_the_model_says, one_of_few};
    use super::*;
    use CustomerEvent::{Captured, Erased, Ordered, Refunded, Registered, Visited};
    use millrace_stream::Event;
    use rand::RngExt;
    use rand_chacha::ChaCha8Rng;

    fn money(random: &mut ChaCha8Rng) -> Money {
        let currency = ["EUR", "USD"][random.random_range(0..2)];
        Money::new("amount", random.random_range(1..=1_000), 1, currency).unwrap()
    }

    fn draw(random: &mut ChaCha8Rng) -> CustomerEvent {
        let user_id = one_of_few(random);
        match random.random_range(0..6) {
            0 => Registered(user_id),
            1 => Erased(user_id),
            2 => Visited(user_id),
            3 => Ordered(user_id),
            4 => Captured(user_id, money(random)),
            _ => Refunded(user_id, money(random)),
        }
    }

    /// One question after the other, each over all of the customer's events.
    fn model(user_id: Uuid, history: &[Event<CustomerEvent>]) -> Customer {
        let events: Vec<_> = history.iter().filter(|event| CustomerSummary::key(&event.body) == user_id).collect();
        let times = |wanted: fn(&CustomerEvent) -> bool| {
            let times = events.iter().filter(move |event| wanted(&event.body));
            times.map(|event| happened_at(&event.envelope))
        };
        let mut spend = BTreeMap::<Currency, Spend>::new();
        for event in &events {
            match &event.body {
                Captured(_, money) => spend.entry(money.currency).or_default().captured += money.amount,
                Refunded(_, money) => spend.entry(money.currency).or_default().refunded += money.amount,
                _ => {}
            }
        }
        Customer {
            registered_at: times(|event| matches!(event, Registered(_))).min(),
            orders: times(|event| matches!(event, Ordered(_))).count() as i64,
            last_seen_at: times(|event| !matches!(event, Erased(_) | Refunded(..))).max(),
            erased_at: times(|event| matches!(event, Erased(_))).min(),
            spend,
        }
    }

    #[test]
    fn any_interleaving_of_partitions_and_any_batches_give_the_same_row() {
        gives_what_the_model_says::<CustomerSummary>(draw, model);
    }
}
