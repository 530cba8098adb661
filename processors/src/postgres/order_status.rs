//! `order_status`: where each order stands, from `shop.order.v1`, whose key is the order.

use super::body::Body;
use super::money::{Currency, Money};
use super::projection::{Projection, Rows, Sharing, happened_at};
use chrono::{DateTime, Utc};
use millrace_schemas::Envelope;
use millrace_stream::Reject;
use sqlx::{PgConnection, Row as _};
use uuid::Uuid;

pub struct OrderStatus;

#[derive(Debug, Clone)]
pub enum OrderEvent {
    Placed(Placed),
    Captured(Payment),
    Failed(Attempt),
    Refunded(Payment),
}

/// A new order and what it costs.
#[derive(Debug, Clone)]
pub struct Placed {
    order_id: Uuid,
    user_id: Uuid,
    total: Money,
}

/// Money that moved, in or out.
#[derive(Debug, Clone)]
pub struct Payment {
    order_id: Uuid,
    user_id: Uuid,
    money: Money,
}

/// Money that did not move.
#[derive(Debug, Clone)]
pub struct Attempt {
    order_id: Uuid,
    user_id: Uuid,
}

/// A row, column by column.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    /// Whose order it is; as long as it is unknown, the smallest account its payments named.
    user_id: Option<Uuid>,
    status: Status,
    /// The placed order's; as long as it is unknown, the only one its payments named.
    currency: Option<Currency>,
    total: Option<i64>,
    /// `None`, for good, once money came in a second currency. So is `refunded`.
    captured: Option<i64>,
    refunded: Option<i64>,
    placed_at: Option<DateTime<Utc>>,
    updated_at: Option<DateTime<Utc>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Status {
    Placed,
    PaymentFailed,
    PartiallyPaid,
    Paid,
    PartiallyRefunded,
    Refunded,
    MixedCurrencies,
}

impl Projection for OrderStatus {
    const NAME: &'static str = "order_status";
    const READS: &'static [&'static str] = &["order.placed", "payment.captured", "payment.failed", "payment.refunded"];
    const SHARING: Sharing = Sharing::OnePartition;

    type Event = OrderEvent;
    type Row = Order;

    fn decode(event_type: &str, body: &Body) -> Result<Option<OrderEvent>, Reject> {
        Ok(Some(match event_type {
            "order.placed" => OrderEvent::Placed(Placed::read(body)?),
            "payment.captured" => OrderEvent::Captured(Payment::read(body)?),
            "payment.failed" => OrderEvent::Failed(Attempt::read(body)?),
            "payment.refunded" => OrderEvent::Refunded(Payment::read(body)?),
            _ => return Ok(None),
        }))
    }

    fn key(event: &OrderEvent) -> Uuid {
        match event {
            OrderEvent::Placed(placed) => placed.order_id,
            OrderEvent::Captured(payment) | OrderEvent::Refunded(payment) => payment.order_id,
            OrderEvent::Failed(attempt) => attempt.order_id,
        }
    }

    fn fold(order: &mut Order, envelope: &Envelope, event: &OrderEvent) {
        let at = happened_at(envelope);
        let mut failed = order.status == Status::PaymentFailed;
        match event {
            OrderEvent::Placed(placed) => order.place(at, placed),
            OrderEvent::Captured(payment) => order.capture(payment),
            OrderEvent::Failed(attempt) => {
                order.belongs_to(attempt.user_id);
                failed = true;
            }
            OrderEvent::Refunded(payment) => order.refund(payment),
        }
        order.status = order.status(failed);
        order.updated_at = order.updated_at.max(Some(at));
    }

    async fn load(tx: &mut PgConnection, keys: &[Uuid], rows: &mut Rows<Self>) -> Result<(), sqlx::Error> {
        let found = sqlx::query(
            "select order_id, user_id, status, currency, total, captured, refunded, placed_at, updated_at
             from order_status where order_id = any($1)",
        );
        for row in found.bind(keys).fetch_all(tx).await? {
            let order = Order {
                user_id: row.try_get("user_id")?,
                status: Status::parse(row.try_get("status")?)?,
                currency: row.try_get::<Option<&str>, _>("currency")?.and_then(Currency::parse),
                total: row.try_get("total")?,
                captured: row.try_get("captured")?,
                refunded: row.try_get("refunded")?,
                placed_at: row.try_get("placed_at")?,
                updated_at: row.try_get("updated_at")?,
            };
            rows.insert(row.try_get("order_id")?, order);
        }
        Ok(())
    }

    async fn store(tx: &mut PgConnection, rows: &[(Uuid, Order)]) -> Result<(), sqlx::Error> {
        let write = sqlx::query(
            "insert into order_status
                 (order_id, user_id, status, currency, total, captured, refunded, placed_at, updated_at)
             select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::bigint[], $6::bigint[],
                 $7::bigint[], $8::timestamptz[], $9::timestamptz[])
             on conflict (order_id) do update set user_id = excluded.user_id, status = excluded.status,
                 currency = excluded.currency, total = excluded.total, captured = excluded.captured,
                 refunded = excluded.refunded, placed_at = excluded.placed_at, updated_at = excluded.updated_at",
        );
        let currency = |order: &Order| order.currency.map(|currency| currency.to_string());
        write
            .bind(rows.iter().map(|(order_id, _)| *order_id).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, order)| order.user_id).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, order)| order.status.as_str()).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, order)| currency(order)).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, order)| order.total).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, order)| order.captured).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, order)| order.refunded).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, order)| order.placed_at).collect::<Vec<_>>())
            .bind(rows.iter().map(|(_, order)| order.updated_at).collect::<Vec<_>>())
            .execute(tx)
            .await?;
        Ok(())
    }
}

impl Placed {
    fn read(body: &Body) -> Result<Self, Reject> {
        Ok(Self { order_id: body.id("order_id")?, user_id: body.id("user_id")?, total: Money::total(body)? })
    }
}

impl Payment {
    fn read(body: &Body) -> Result<Self, Reject> {
        Ok(Self { order_id: body.id("order_id")?, user_id: body.id("user_id")?, money: Money::amount(body)? })
    }
}

impl Attempt {
    fn read(body: &Body) -> Result<Self, Reject> {
        Ok(Self { order_id: body.id("order_id")?, user_id: body.id("user_id")? })
    }
}

impl Default for Order {
    fn default() -> Self {
        Self {
            user_id: None,
            status: Status::Placed,
            currency: None,
            total: None,
            captured: Some(0),
            refunded: Some(0),
            placed_at: None,
            updated_at: None,
        }
    }
}

impl Order {
    /// Should one order ever be placed twice, the earlier event counts; of two at once, the smaller.
    fn place(&mut self, at: DateTime<Utc>, placed: &Placed) {
        let Money { amount, currency } = placed.total;
        self.meets(currency);
        let known = (self.placed_at, self.user_id, self.currency, self.total);
        let found = (Some(at), Some(placed.user_id), Some(currency), Some(amount));
        if self.placed_at.is_none() || found < known {
            (self.placed_at, self.user_id, self.currency, self.total) = found;
        }
    }

    fn capture(&mut self, payment: &Payment) {
        self.belongs_to(payment.user_id);
        self.meets(payment.money.currency);
        self.captured = plus(self.captured, payment.money);
    }

    fn refund(&mut self, payment: &Payment) {
        self.belongs_to(payment.user_id);
        self.meets(payment.money.currency);
        self.refunded = plus(self.refunded, payment.money);
    }

    fn belongs_to(&mut self, user_id: Uuid) {
        if self.placed_at.is_none() {
            self.user_id = Some(self.user_id.map_or(user_id, |known| known.min(user_id)));
        }
    }

    /// A second currency ends all sums: a number across currencies would mean nothing.
    fn meets(&mut self, currency: Currency) {
        if self.is_mixed() {
            return;
        }
        if *self.currency.get_or_insert(currency) != currency {
            (self.captured, self.refunded) = (None, None);
            if self.placed_at.is_none() {
                self.currency = None;
            }
        }
    }

    fn is_mixed(&self) -> bool {
        self.captured.is_none()
    }

    fn status(&self, failed: bool) -> Status {
        let (Some(captured), Some(refunded)) = (self.captured, self.refunded) else { return Status::MixedCurrencies };
        if refunded > 0 && captured > 0 && refunded >= captured {
            Status::Refunded
        } else if refunded > 0 {
            Status::PartiallyRefunded
        } else if captured > 0 && self.total.is_some_and(|total| captured < total) {
            Status::PartiallyPaid
        } else if captured > 0 {
            Status::Paid
        } else if failed {
            Status::PaymentFailed
        } else {
            Status::Placed
        }
    }
}

/// Amounts are bounded ([`Money`]), so a sum saturates only after millions of the largest.
fn plus(sum: Option<i64>, money: Money) -> Option<i64> {
    sum.map(|sum| sum.saturating_add(money.amount))
}

impl Status {
    fn as_str(self) -> &'static str {
        match self {
            Self::Placed => "placed",
            Self::PaymentFailed => "payment_failed",
            Self::PartiallyPaid => "partially_paid",
            Self::Paid => "paid",
            Self::PartiallyRefunded => "partially_refunded",
            Self::Refunded => "refunded",
            Self::MixedCurrencies => "mixed_currencies",
        }
    }

    fn parse(text: &str) -> Result<Self, sqlx::Error> {
        Ok(match text {
            "placed" => Self::Placed,
            "payment_failed" => Self::PaymentFailed,
            "partially_paid" => Self::PartiallyPaid,
            "paid" => Self::Paid,
            "partially_refunded" => Self::PartiallyRefunded,
            "refunded" => Self::Refunded,
            "mixed_currencies" => Self::MixedCurrencies,
            other => return Err(sqlx::Error::Decode(format!("order_status holds the status `{other}`").into())),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{gives_what_the_model_says, one_of_few};
    use super::*;
    use millrace_stream::Event;
    use rand::RngExt;
    use rand_chacha::ChaCha8Rng;

    /// Mostly one currency, few amounts: partial and full refunds, and now and then a mixture.
    fn money(random: &mut ChaCha8Rng) -> Money {
        let currency = if random.random_ratio(1, 20) { "USD" } else { "EUR" };
        Money::new("amount", random.random_range(1..=4), 1, currency).unwrap()
    }

    fn draw(random: &mut ChaCha8Rng) -> OrderEvent {
        let (order_id, user_id) = (one_of_few(random), one_of_few(random));
        match random.random_range(0..6) {
            0 => OrderEvent::Placed(Placed { order_id, user_id, total: money(random) }),
            1 => OrderEvent::Failed(Attempt { order_id, user_id }),
            2 => OrderEvent::Refunded(Payment { order_id, user_id, money: money(random) }),
            _ => OrderEvent::Captured(Payment { order_id, user_id, money: money(random) }),
        }
    }

    /// Looks at all of an order's events at once, as the column comments describe them.
    fn model(order_id: Uuid, history: &[Event<OrderEvent>]) -> Order {
        let events: Vec<_> = history.iter().filter(|event| OrderStatus::key(&event.body) == order_id).collect();
        let (mut placed, mut users, mut currencies, mut captured, mut refunded, mut failed) =
            (Vec::new(), Vec::new(), Vec::new(), 0, 0, false);
        for event in &events {
            match &event.body {
                OrderEvent::Placed(Placed { user_id, total, .. }) => {
                    placed.push((happened_at(&event.envelope), *user_id, total.currency, total.amount));
                    currencies.push(total.currency);
                }
                OrderEvent::Captured(Payment { user_id, money, .. }) => {
                    users.push(*user_id);
                    currencies.push(money.currency);
                    captured += money.amount;
                }
                OrderEvent::Refunded(Payment { user_id, money, .. }) => {
                    users.push(*user_id);
                    currencies.push(money.currency);
                    refunded += money.amount;
                }
                OrderEvent::Failed(Attempt { user_id, .. }) => {
                    users.push(*user_id);
                    failed = true;
                }
            }
        }
        currencies.sort();
        currencies.dedup();
        let first = placed.into_iter().min();
        let total = first.map(|(_, _, _, total)| total);
        let mixed = currencies.len() > 1;
        let status = match (captured, refunded) {
            _ if mixed => Status::MixedCurrencies,
            (1.., 1..) if refunded >= captured => Status::Refunded,
            (_, 1..) => Status::PartiallyRefunded,
            (1.., 0) if total.is_none_or(|total| captured >= total) => Status::Paid,
            (1.., 0) => Status::PartiallyPaid,
            _ if failed => Status::PaymentFailed,
            _ => Status::Placed,
        };
        Order {
            user_id: first.map(|(_, user_id, _, _)| user_id).or(users.into_iter().min()),
            status,
            currency: first.map(|(_, _, currency, _)| currency).or(currencies.pop().filter(|_| !mixed)),
            total,
            captured: (!mixed).then_some(captured),
            refunded: (!mixed).then_some(refunded),
            placed_at: first.map(|(at, _, _, _)| at),
            updated_at: events.iter().map(|event| happened_at(&event.envelope)).max(),
        }
    }

    #[test]
    fn any_order_and_any_batches_give_the_same_row() {
        gives_what_the_model_says::<OrderStatus>(draw, model);
    }

    #[test]
    fn every_status_is_read_back_as_it_was_written() {
        use Status::{MixedCurrencies, Paid, PartiallyPaid, PartiallyRefunded, PaymentFailed, Placed, Refunded};
        for status in [Placed, PaymentFailed, PartiallyPaid, Paid, PartiallyRefunded, Refunded, MixedCurrencies] {
            assert_eq!(Status::parse(status.as_str()).unwrap(), status);
        }
        assert!(Status::parse("lost").is_err());
    }
}
