//! What a sender hears: of each event, or why there was no event to speak of (RFC 9457, problem details).

use super::access::Denied;
use super::body::Held;
use super::jwt::ASK_AGAIN;
use super::quarantine::Quarantined;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_schemas::Violation;
use serde::Serialize;
use serde_json::json;
use std::borrow::Cow;
use std::time::Duration;

/// Seconds until another try makes sense: memory is free again soon, a broker takes a little to come back.
const RETRY_SOON: u64 = 1;
const RETRY_LATER: u64 = 5;

const NO_CREDENTIAL: &str =
    "neither key nor token: send either as `Authorization: Bearer <it>`, a key also as `X-Api-Key`";
/// RFC 6750, section 3.
const INVALID_TOKEN: &str = "Bearer error=\"invalid_token\"";
const EXPIRED: &str = "Bearer error=\"invalid_token\", error_description=\"the token has expired\"";
const INSUFFICIENT_SCOPE: &str = "Bearer error=\"insufficient_scope\"";

/// What became of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    /// All in-sync replicas have it.
    Accepted,
    /// They had it already.
    Duplicate,
    /// The log is away: the gateway's disk has it, and the log will.
    Spooled,
    /// It will never fit: repair it.
    Invalid,
    /// The scopes of the key or token don't cover its topic.
    Unauthorized,
    /// The principal published as much as it may for now. Send it and what follows again with the same ids.
    Throttled,
    /// The log did not answer in time, and it may be there or not; or it refused it. Send it again with the same id.
    Retry,
}

impl Status {
    pub const ALL: [Self; 7] = [
        Self::Accepted,
        Self::Duplicate,
        Self::Spooled,
        Self::Invalid,
        Self::Unauthorized,
        Self::Throttled,
        Self::Retry,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Duplicate => "duplicate",
            Self::Spooled => "spooled",
            Self::Invalid => "invalid",
            Self::Unauthorized => "unauthorized",
            Self::Throttled => "throttled",
            Self::Retry => "retry",
        }
    }

    fn http(self) -> StatusCode {
        match self {
            Self::Accepted | Self::Duplicate | Self::Spooled => StatusCode::ACCEPTED,
            Self::Invalid => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::FORBIDDEN,
            Self::Throttled => StatusCode::TOO_MANY_REQUESTS,
            Self::Retry => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// One event's answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Verdict<'a> {
    /// As it was sent; none where there was none.
    pub id: Option<Cow<'a, str>>,
    pub status: Status,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<Violation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Of an invalid one: whether it is kept all the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Box<Quarantined>>,
    /// The contract's, for the count; none for a type that nobody described.
    #[serde(skip)]
    pub event_type: Option<&'a str>,
    /// The id stands for another event already.
    #[serde(skip)]
    pub conflict: bool,
}

impl<'a> Verdict<'a> {
    pub fn new(id: Option<Cow<'a, str>>, status: Status) -> Self {
        Self { id, status, errors: Vec::new(), message: None, quarantine: None, event_type: None, conflict: false }
    }

    /// What its errors take, as they are and again in the answer.
    pub fn bytes(&self) -> usize {
        let text = |error: &Violation| error.pointer.len() + error.expected.len() + error.found.len();
        self.errors.iter().map(|error| 2 * (size_of::<Violation>() + text(error))).sum()
    }

    fn http(&self) -> StatusCode {
        if self.conflict { StatusCode::CONFLICT } else { self.status.http() }
    }
}

/// The answer to a request that had events.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    /// Seconds.
    retry_after: Option<u64>,
    body: String,
}

/// Of the one event.
pub(super) fn for_one(verdicts: &[Verdict<'_>]) -> Answer {
    answer(verdicts, serde_json::to_string(&verdicts.first()))
}

/// Of each event, in the order of the batch.
pub(super) fn for_batch(verdicts: &[Verdict<'_>]) -> Answer {
    #[derive(Serialize)]
    struct Results<'a> {
        results: &'a [Verdict<'a>],
    }
    answer(verdicts, serde_json::to_string(&Results { results: verdicts }))
}

/// One status for all events is the answer's; else it says that there are several.
fn answer(verdicts: &[Verdict<'_>], body: serde_json::Result<String>) -> Answer {
    let mut statuses = verdicts.iter().map(Verdict::http);
    let first = statuses.next().unwrap_or(StatusCode::ACCEPTED);
    let status = if statuses.all(|other| other == first) { first } else { StatusCode::MULTI_STATUS };
    let retry_after = verdicts.iter().any(|verdict| verdict.status == Status::Retry).then_some(RETRY_LATER);
    Answer { status, retry_after, body: body.unwrap_or_default() } // text and numbers always serialize
}

impl Answer {
    /// Where events were throttled: when the next would pass.
    pub fn not_before(self, wait: Option<Duration>) -> Self {
        let seconds = wait.map(|wait| wait.as_secs_f64().ceil() as u64);
        Self { retry_after: self.retry_after.max(seconds), ..self }
    }

    /// The response, which keeps its part of the memory until it was read: some read slowly.
    pub fn holding(self, mut held: Held) -> Response {
        held.keep(self.body.len());
        let body = Body::from(Bytes::from_owner(Kept { text: self.body, _held: held }));
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/json")], body).into_response();
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::FORBIDDEN {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(INSUFFICIENT_SCOPE));
        }
        response
    }
}

struct Kept {
    text: String,
    _held: Held,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// Why a request as a whole was refused; none of its events is in the log.
#[derive(Debug)]
pub(super) struct Problem {
    status: StatusCode,
    detail: String,
    header: Option<(header::HeaderName, HeaderValue)>,
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self { status, detail: detail.into(), header: None }
    }

    pub fn busy() -> Self {
        let detail = "as much is in hand as fits in memory (gateway.inflight_bytes); nothing was published";
        Self::new(StatusCode::TOO_MANY_REQUESTS, detail).not_before(RETRY_SOON)
    }

    pub fn log_away() -> Self {
        let detail = "the log does not answer, and requests that wait for it fill the memory; nothing was published";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).not_before(RETRY_LATER)
    }

    /// Whoever can't prove who it is hears what to send, and not how near a wrong proof came.
    pub fn denied(denied: Denied) -> Self {
        let (detail, challenge) = match denied {
            Denied::NoCredential => (NO_CREDENTIAL, "Bearer"),
            Denied::UnknownKey => ("the key is not known here", "Bearer"),
            // RFC 6750, section 3.1: who brings one hears that it is wrong.
            Denied::UnknownBearer => ("neither a key that is known here nor a token", INVALID_TOKEN),
            Denied::TokenExpired => ("the token has expired: have its issuer make a new one", EXPIRED),
            Denied::IssuerAway => {
                let detail = "the issuer of tokens does not answer, so nobody can tell whether this one is good";
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).not_before(RETRY_LATER);
            }
            Denied::TokenSignerUnsure => {
                let detail = "the key of the token is not known yet, and its issuer was asked just now: try again";
                return Self::new(StatusCode::SERVICE_UNAVAILABLE, detail).not_before(ASK_AGAIN.as_secs());
            }
            _ => ("the token is not valid here: have its issuer make one for this service", INVALID_TOKEN),
        };
        let header = Some((header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge)));
        Self { header, ..Self::new(StatusCode::UNAUTHORIZED, detail) }
    }

    /// What a browser asks a person for, where it would show the refusal otherwise.
    pub fn ask_for_password(self) -> Self {
        let challenge = HeaderValue::from_static("Basic realm=\"Millrace: any name, a key as password\"");
        match self.status {
            StatusCode::UNAUTHORIZED => Self { header: Some((header::WWW_AUTHENTICATE, challenge)), ..self },
            _ => self,
        }
    }

    fn not_before(self, seconds: u64) -> Self {
        Self { header: Some((header::RETRY_AFTER, seconds.into())), ..self }
    }

    pub fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let title = self.status.canonical_reason().unwrap_or_default();
        let body = json!({ "title": title, "status": self.status.as_u16(), "detail": self.detail }).to_string();
        let mut response = (self.status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        if let Some((name, value)) = self.header {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::body::Inflight;
    use crate::gateway::metrics::GatewayMetrics;

    fn verdict(status: Status) -> Verdict<'static> {
        Verdict::new(None, status)
    }

    #[test]
    fn a_batch_has_the_status_of_its_events_where_they_have_one() {
        use Status::{Accepted, Duplicate, Invalid, Retry, Spooled, Throttled, Unauthorized};
        let cases: [(&[Status], u16, Option<u64>); 8] = [
            (&[], 202, None),
            (&[Accepted, Duplicate], 202, None),
            (&[Accepted, Spooled], 202, None),
            (&[Accepted, Invalid], 207, None),
            (&[Invalid, Invalid], 400, None),
            (&[Unauthorized], 403, None),
            (&[Throttled, Throttled], 429, None),
            (&[Retry, Retry], 503, Some(5)),
        ];
        for (statuses, http, retry_after) in cases {
            let answer = for_batch(&statuses.iter().copied().map(verdict).collect::<Vec<_>>());
            assert_eq!((answer.status.as_u16(), answer.retry_after), (http, retry_after), "{statuses:?}");
        }
        let later = for_one(&[verdict(Throttled)]).not_before(Some(Duration::from_millis(6001)));
        assert_eq!(later.retry_after, Some(7));
        let conflict = Verdict { conflict: true, ..verdict(Invalid) };
        assert_eq!(for_one(&[conflict]).status, StatusCode::CONFLICT);
        assert_eq!(for_one(&[verdict(Accepted)]).body, r#"{"id":null,"status":"accepted"}"#);
    }

    #[test]
    fn whose_token_may_be_good_hears_when_to_come_again_and_not_that_it_is_wrong() {
        for (denied, seconds) in [(Denied::IssuerAway, "5"), (Denied::TokenSignerUnsure, "10")] {
            let response = Problem::denied(denied).into_response();
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
            assert_eq!(response.headers()[header::RETRY_AFTER], seconds, "{denied:?}");
        }
        assert_eq!(Problem::denied(Denied::TokenSigner).status(), StatusCode::UNAUTHORIZED);
    }

    #[tokio::test]
    async fn an_answer_that_nobody_reads_keeps_its_part_of_the_memory() {
        let metrics = GatewayMetrics::default();
        let inflight = Inflight::new(1 << 20, &metrics);
        let mut held = inflight.begin().unwrap();
        held.grow(500_000).unwrap();
        let answer = for_batch(&vec![verdict(Status::Accepted); 1000]);
        let bytes = answer.body.len();
        let response = answer.holding(held);
        assert_eq!(metrics.inflight_bytes.get(), bytes as i64);
        let body = axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        assert_eq!((body.len(), metrics.inflight_bytes.get()), (bytes, bytes as i64), "it is not sent yet");
        drop(body);
        assert_eq!(metrics.inflight_bytes.get(), 0);
    }
}
