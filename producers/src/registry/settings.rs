//! What is set for a subject, or for all that say nothing: the compatibility level, and whether it takes versions.

use super::answer::{Answer, Refusal, answer};
use super::store::Store;
use super::{Asked, Body, DEFAULT_LEVEL, Path, bytes, said, valid_subject, wants};
use axum::Router;
use axum::extract::{Query, State};
use axum::routing::get;
use millrace_schemas::compatibility::Mode;
use serde_json::{Value, json};
use sqlx::PgConnection;
use std::fmt;
use std::str::FromStr;

/// The subject that speaks for all.
const EVERY_SUBJECT: &str = "";

/// Confluent calls it the mode. Those for importing from another registry are left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    ReadWrite,
    ReadOnly,
}

impl FromStr for Access {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "READWRITE" => Ok(Self::ReadWrite),
            "READONLY" => Ok(Self::ReadOnly),
            other => Err(format!("`{other}` is no mode here: READWRITE or READONLY")),
        }
    }
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadWrite => "READWRITE",
            Self::ReadOnly => "READONLY",
        })
    }
}

pub(super) trait Setting: FromStr<Err = String> + fmt::Display + Send + Sync + 'static {
    /// What it is called in an answer, and in a request.
    const SHOWN: &'static str;
    const ASKED: &'static str;
    const UNSET: Self;
    /// What Confluent's registry can be asked to keep beside it.
    const NOT_KEPT: &'static [&'static str];
    const SELECT: &'static str;
    const EFFECTIVE: &'static str;
    const UPSERT: &'static str;
    const DELETE: &'static str;

    fn none_of_its_own(subject: &str) -> Refusal;
    fn no_such(value: &str) -> Refusal;
}

impl Setting for Mode {
    const SHOWN: &'static str = "compatibilityLevel";
    const ASKED: &'static str = "compatibility";
    const UNSET: Self = DEFAULT_LEVEL;
    const NOT_KEPT: &'static [&'static str] = &[
        "alias",
        "normalize",
        "validateFields",
        "validateRules",
        "compatibilityGroup",
        "compatibilityPolicy",
        "defaultMetadata",
        "overrideMetadata",
        "defaultRuleSet",
        "overrideRuleSet",
    ];
    const SELECT: &'static str = "select level from millrace.subject_compatibility where subject = $1";
    // The subject's own word comes before everyone's: its name sorts after the empty one.
    const EFFECTIVE: &'static str =
        "select level from millrace.subject_compatibility where subject in ($1, '') order by subject desc limit 1";
    const UPSERT: &'static str = "insert into millrace.subject_compatibility (subject, level) values ($1, $2)
                                  on conflict (subject) do update set level = excluded.level";
    const DELETE: &'static str = "delete from millrace.subject_compatibility where subject = $1 returning level";

    fn none_of_its_own(subject: &str) -> Refusal {
        Refusal::no_level(subject)
    }

    fn no_such(value: &str) -> Refusal {
        Refusal::no_such_level(value)
    }
}

impl Setting for Access {
    const SHOWN: &'static str = "mode";
    const ASKED: &'static str = "mode";
    const UNSET: Self = Self::ReadWrite;
    const NOT_KEPT: &'static [&'static str] = &[];
    const SELECT: &'static str = "select mode from millrace.subject_mode where subject = $1";
    const EFFECTIVE: &'static str =
        "select mode from millrace.subject_mode where subject in ($1, '') order by subject desc limit 1";
    const UPSERT: &'static str = "insert into millrace.subject_mode (subject, mode) values ($1, $2)
                                  on conflict (subject) do update set mode = excluded.mode";
    const DELETE: &'static str = "delete from millrace.subject_mode where subject = $1 returning mode";

    fn none_of_its_own(subject: &str) -> Refusal {
        Refusal::no_mode(subject)
    }

    fn no_such(value: &str) -> Refusal {
        Refusal::no_such_mode(value)
    }
}

/// `/` for all, `/{subject}` for one.
pub(super) fn routes<S: Setting>() -> Router<Store> {
    let of_all = get(show_for_all::<S>).put(set_for_all::<S>).delete(unset_for_all::<S>);
    let of_one = get(show::<S>).put(set::<S>).delete(unset::<S>);
    Router::new().route("/", of_all).route("/{subject}", of_one)
}

async fn show_for_all<S: Setting>(State(store): State<Store>) -> Answer {
    let value: S = effective(&mut *store.0.acquire().await?, EVERY_SUBJECT).await?;
    Ok(answer(&json!({ S::SHOWN: value.to_string() })))
}

async fn show<S: Setting>(
    State(store): State<Store>,
    Path(subject): Path<String>,
    Query(query): Query<Asked>,
) -> Answer {
    let own: Option<String> = sqlx::query_scalar(S::SELECT).bind(&subject).fetch_optional(&store.0).await?;
    match own {
        Some(value) => Ok(answer(&json!({ S::SHOWN: value }))),
        None if wants(&query, "defaultToGlobal") => show_for_all::<S>(State(store)).await,
        None => Err(S::none_of_its_own(&subject)),
    }
}

async fn set_for_all<S: Setting>(State(store): State<Store>, body: Body) -> Answer {
    put::<S>(&store, EVERY_SUBJECT, body).await
}

async fn set<S: Setting>(State(store): State<Store>, Path(subject): Path<String>, body: Body) -> Answer {
    put::<S>(&store, &valid_subject(subject)?, body).await
}

async fn put<S: Setting>(store: &Store, subject: &str, body: Body) -> Answer {
    let body: Value = serde_json::from_slice(&bytes(body)?).map_err(|error| Refusal::not_json(&error))?;
    if let Some(name) = said(&body, S::NOT_KEPT) {
        return Err(Refusal::not_kept(name));
    }
    let asked = body[S::ASKED].as_str().unwrap_or_default();
    let value: S = asked.parse().map_err(|_| S::no_such(asked))?;
    sqlx::query(S::UPSERT).bind(subject).bind(value.to_string()).execute(&store.0).await?;
    Ok(answer(&json!({ S::ASKED: value.to_string() })))
}

async fn unset_for_all<S: Setting>(State(store): State<Store>) -> Answer {
    let was: Option<String> = sqlx::query_scalar(S::DELETE).bind(EVERY_SUBJECT).fetch_optional(&store.0).await?;
    Ok(answer(&json!({ S::SHOWN: was.unwrap_or_else(|| S::UNSET.to_string()) })))
}

async fn unset<S: Setting>(State(store): State<Store>, Path(subject): Path<String>) -> Answer {
    let was: Option<String> = sqlx::query_scalar(S::DELETE).bind(&subject).fetch_optional(&store.0).await?;
    Ok(answer(&json!({ S::SHOWN: was.ok_or_else(|| S::none_of_its_own(&subject))? })))
}

/// What counts for a subject.
pub(super) async fn effective<S: Setting>(on: &mut PgConnection, subject: &str) -> Result<S, Refusal> {
    let value: Option<String> = sqlx::query_scalar(S::EFFECTIVE).bind(subject).fetch_optional(on).await?;
    value.map_or(Ok(S::UNSET), |value| value.parse().map_err(Refusal::damaged))
}

pub(super) async fn refuse_read_only(on: &mut PgConnection, subject: &str) -> Result<(), Refusal> {
    match effective(on, subject).await? {
        Access::ReadWrite => Ok(()),
        Access::ReadOnly => Err(Refusal::read_only(subject)),
    }
}

/// A subject that is deleted begins anew.
pub(super) async fn forget(on: &mut PgConnection, subject: &str) -> Result<(), Refusal> {
    for delete in [Mode::DELETE, Access::DELETE] {
        sqlx::query(delete).bind(subject).execute(&mut *on).await?;
    }
    Ok(())
}
