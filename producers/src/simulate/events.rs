//! The bodies of the shop's events, field by field as the contracts in `schemas/avro` have them.

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use uuid::Uuid;

/// One event of the simulated shop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimulatedEvent {
    /// UUIDv7 of the simulated time.
    pub id: Uuid,
    pub occurred_at: DateTime<Utc>,
    pub body: Body,
}

/// An aggregate's id: text in Avro, whatever the encoder thinks of UUIDs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Id(pub Uuid);

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Most texts are the simulator's own words.
pub type Text = Cow<'static, str>;

/// Minor units of a currency.
pub type Minor = i64;

/// A body of any of the contracts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Body {
    UserRegistered(UserRegistered),
    UserErased(UserErased),
    SessionStarted(SessionStarted),
    PageViewed(PageViewed),
    CartItemAdded(CartItemAdded),
    ProductChanged(ProductChanged),
    OrderPlaced(OrderPlaced),
    PaymentCaptured(PaymentCaptured),
    PaymentFailed(PaymentFailed),
    PaymentRefunded(PaymentRefunded),
    SubscriptionChanged(SubscriptionChanged),
    NotificationRequested(NotificationRequested),
    NotificationDelivered(NotificationDelivered),
}

impl Body {
    /// Every contract of the reference domain.
    pub const TYPES: [&'static str; 13] = [
        "cart.item_added",
        "notification.delivered",
        "notification.requested",
        "order.placed",
        "page.viewed",
        "payment.captured",
        "payment.failed",
        "payment.refunded",
        "product.changed",
        "session.started",
        "subscription.changed",
        "user.erased",
        "user.registered",
    ];

    /// As its contract is called.
    pub fn event_type(&self) -> &'static str {
        match self {
            Self::UserRegistered(_) => "user.registered",
            Self::UserErased(_) => "user.erased",
            Self::SessionStarted(_) => "session.started",
            Self::PageViewed(_) => "page.viewed",
            Self::CartItemAdded(_) => "cart.item_added",
            Self::ProductChanged(_) => "product.changed",
            Self::OrderPlaced(_) => "order.placed",
            Self::PaymentCaptured(_) => "payment.captured",
            Self::PaymentFailed(_) => "payment.failed",
            Self::PaymentRefunded(_) => "payment.refunded",
            Self::SubscriptionChanged(_) => "subscription.changed",
            Self::NotificationRequested(_) => "notification.requested",
            Self::NotificationDelivered(_) => "notification.delivered",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserRegistered {
    pub user_id: Id,
    pub anonymous_id: Option<Id>,
    pub email: Text,
    pub name: Text,
    pub locale: Text,
    pub country: Text,
    pub channel: Channel,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Channel {
    Organic,
    Paid,
    Referral,
    Partner,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UserErased {
    pub user_id: Id,
    pub requested_by: Text,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SessionStarted {
    pub session_id: Id,
    pub anonymous_id: Id,
    pub user_id: Option<Id>,
    pub utm_source: Option<Text>,
    pub utm_campaign: Option<Text>,
    pub device: Device,
    pub country: Text,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Device {
    Mobile,
    Desktop,
    Tablet,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PageViewed {
    pub session_id: Id,
    pub anonymous_id: Id,
    pub path: Text,
    pub product_id: Option<Id>,
    pub referrer: Option<Text>,
    pub load_ms: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CartItemAdded {
    pub session_id: Id,
    pub anonymous_id: Id,
    pub product_id: Id,
    pub quantity: i32,
    pub unit_price: Minor,
    pub currency: Text,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProductChanged {
    pub product_id: Id,
    pub title: Text,
    pub category: Text,
    pub price: Minor,
    pub currency: Text,
    pub stock: i32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OrderPlaced {
    pub order_id: Id,
    pub user_id: Id,
    pub session_id: Option<Id>,
    pub lines: Vec<OrderLine>,
    pub total: Minor,
    pub currency: Text,
    pub coupon: Option<Text>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OrderLine {
    pub product_id: Id,
    pub quantity: i32,
    pub unit_price: Minor,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PaymentCaptured {
    pub payment_id: Id,
    pub order_id: Id,
    pub user_id: Id,
    pub amount: Minor,
    pub currency: Text,
    pub method: Method,
    pub attempt: i32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Method {
    Card,
    Paypal,
    BankTransfer,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PaymentFailed {
    pub payment_id: Id,
    pub order_id: Id,
    pub user_id: Id,
    pub amount: Minor,
    pub currency: Text,
    pub method: Method,
    pub attempt: i32,
    pub reason: FailureReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FailureReason {
    InsufficientFunds,
    Declined,
    ExpiredCard,
    FraudSuspected,
    Technical,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PaymentRefunded {
    pub refund_id: Id,
    pub payment_id: Id,
    pub order_id: Id,
    pub user_id: Id,
    pub amount: Minor,
    pub currency: Text,
    pub reason: RefundReason,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RefundReason {
    Requested,
    Damaged,
    Late,
    Duplicate,
    Other,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SubscriptionChanged {
    pub subscription_id: Id,
    pub user_id: Id,
    pub plan_from: Option<Text>,
    pub plan_to: Option<Text>,
    pub mrr_delta: Minor,
    pub currency: Text,
    pub status: SubscriptionStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum SubscriptionStatus {
    Trial,
    Active,
    PastDue,
    Cancelled,
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotificationRequested {
    pub notification_id: Id,
    pub user_id: Option<Id>,
    pub rule: Text,
    pub template: Text,
    pub channel: Text,
    pub critical: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NotificationDelivered {
    pub notification_id: Id,
    pub attempt: i32,
    pub channel: Text,
    pub provider: Text,
    pub outcome: Outcome,
    pub latency_ms: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Outcome {
    Delivered,
    Bounced,
    Rejected,
    Failed,
    Unknown,
}
