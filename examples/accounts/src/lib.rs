//! A user service, as small as shows the whole pattern: who calls is known by a token of the issuer, what changes is
//! changed in Postgres, and what happened is written into the outbox **in the same transaction**.
//!
//! ```text
//! request ─→ token ─→ issuer (access.rs) ─→ transaction: account, outbox ─→ commit ─→ answer
//!                                                           └─→ millrace relay ─→ Kafka
//! ```
//!
//! Never speaks to Kafka or to Millrace: while they are away the service goes on, and its events wait in its database.

mod access;

pub use access::Access;

use access::Person;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use std::sync::Arc;
use uuid::Uuid;

/// Made of the contracts beside: build.rs.
pub mod events {
    include!(concat!(env!("OUT_DIR"), "/events.rs"));
}

use events::account_changed::AccountChanged;
use events::account_erased::AccountErased;
use events::account_registered::AccountRegistered;

const SCHEMA: &str = include_str!("../schema.sql");

pub struct Service {
    pub pool: PgPool,
    pub access: Access,
}

/// Makes the tables that are missing. (A larger service has migrations; the outbox's SQL belongs among them.)
///
/// # Errors
/// Postgres' own.
pub async fn migrate(pool: &PgPool) -> sqlx::Result<()> {
    for sql in [SCHEMA, millrace_outbox::SCHEMA] {
        sqlx::raw_sql(sql).execute(pool).await?;
    }
    Ok(())
}

/// `/account` is the account of whoever calls.
pub fn router(service: Service) -> Router {
    let account = post(register).get(show).put(change).delete(erase);
    Router::new().route("/account", account).with_state(Arc::new(service))
}

#[derive(Debug, Serialize, Deserialize)]
struct Profile {
    email: String,
    name: String,
    country: String,
}

#[derive(Serialize)]
struct Account {
    account_id: Uuid,
    #[serde(flatten)]
    profile: Profile,
}

async fn register(
    State(service): State<Arc<Service>>,
    Person(subject): Person,
    headers: HeaderMap,
    Json(profile): Json<Profile>,
) -> Result<Response, Problem> {
    let account = Account { account_id: Uuid::now_v7(), profile };
    let Account { account_id, profile } = &account;
    let mut transaction = service.pool.begin().await?;
    let inserted = sqlx::query(
        "insert into account (account_id, subject, email, name, country) values ($1, $2, $3, $4, $5)
         on conflict (subject) do nothing",
    );
    let inserted = inserted.bind(account_id).bind(subject);
    let inserted = inserted.bind(&profile.email).bind(&profile.name).bind(&profile.country);
    if inserted.execute(&mut *transaction).await?.rows_affected() == 0 {
        return Err(Problem::Exists);
    }
    let Profile { email, name, country } = profile;
    let registered = AccountRegistered {
        account_id: *account_id,
        email: email.clone(),
        name: name.clone(),
        country: country.clone(),
    };
    publish(&mut transaction, &registered, &headers).await?;
    transaction.commit().await?;
    Ok((StatusCode::CREATED, Json(account)).into_response())
}

async fn show(State(service): State<Arc<Service>>, Person(subject): Person) -> Result<Json<Account>, Problem> {
    let found = sqlx::query_as::<_, (Uuid, String, String, String)>(
        "select account_id, email, name, country from account where subject = $1",
    );
    let found = found.bind(subject).fetch_optional(&service.pool).await?;
    let (account_id, email, name, country) = found.ok_or(Problem::Missing)?;
    Ok(Json(Account { account_id, profile: Profile { email, name, country } }))
}

/// The row first, then the event: two changes of one account wait for each other at the row, so their events have the
/// order of the changes.
async fn change(
    State(service): State<Arc<Service>>,
    Person(subject): Person,
    headers: HeaderMap,
    Json(profile): Json<Profile>,
) -> Result<Json<Account>, Problem> {
    let mut transaction = service.pool.begin().await?;
    let changed = sqlx::query_scalar(
        "update account set email = $2, name = $3, country = $4 where subject = $1 returning account_id",
    );
    let changed = changed.bind(subject).bind(&profile.email).bind(&profile.name).bind(&profile.country);
    let account_id: Uuid = changed.fetch_optional(&mut *transaction).await?.ok_or(Problem::Missing)?;
    let Profile { email, name, country } = &profile;
    let (email, name, country) = (email.clone(), name.clone(), country.clone());
    publish(&mut transaction, &AccountChanged { account_id, email, name, country }, &headers).await?;
    transaction.commit().await?;
    Ok(Json(Account { account_id, profile }))
}

/// Forgets the person here. The event, whose contract says `erases`, has Millrace do so everywhere else.
async fn erase(
    State(service): State<Arc<Service>>,
    Person(subject): Person,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let mut transaction = service.pool.begin().await?;
    let erased = sqlx::query_scalar("delete from account where subject = $1 returning account_id").bind(subject);
    let account_id: Uuid = erased.fetch_optional(&mut *transaction).await?.ok_or(Problem::Missing)?;
    publish(&mut transaction, &AccountErased { account_id }, &headers).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Writes the event, in the trace of the request. It is published if, and only if, the transaction commits.
async fn publish<E: millrace_client::Event>(
    transaction: &mut PgConnection,
    event: &E,
    headers: &HeaderMap,
) -> sqlx::Result<()> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let event = millrace_outbox::Event {
        traceparent: text("traceparent"),
        tracestate: text("tracestate"),
        ..millrace_outbox::Event::new(E::TYPE, event)
    };
    millrace_outbox::write(transaction, &event).await
}

/// Why there is no good answer.
enum Problem {
    Exists,
    Missing,
    Broken(sqlx::Error),
}

impl From<sqlx::Error> for Problem {
    fn from(error: sqlx::Error) -> Self {
        Self::Broken(error)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        match self {
            Self::Exists => (StatusCode::CONFLICT, "you have an account already").into_response(),
            Self::Missing => (StatusCode::NOT_FOUND, "you have no account").into_response(),
            Self::Broken(error) => {
                tracing::error!("the database: {error}");
                (StatusCode::SERVICE_UNAVAILABLE, "try again later").into_response()
            }
        }
    }
}
