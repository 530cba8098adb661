//! How the registry answers: its media type, and refusals with the error codes that clients of Confluent's know.

use super::store::Version;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_stream::Failure;
use serde::Serialize;
use serde_json::json;
use std::fmt::Display;
use std::time::Duration;

pub(super) type Answer = Result<Response, Refusal>;

const MEDIA_TYPE: &str = "application/vnd.schemaregistry.v1+json";
/// How much of what was asked for an answer repeats.
const QUOTE_CHARS_MAX: usize = 200;

pub(super) fn answer<T: Serialize>(body: &T) -> Response {
    with_status(StatusCode::OK, body)
}

/// A schema as the whole answer: it is JSON already.
pub(super) fn raw(schema: String) -> Response {
    ([(header::CONTENT_TYPE, MEDIA_TYPE)], schema).into_response()
}

fn with_status<T: Serialize>(status: StatusCode, body: &T) -> Response {
    match serde_json::to_string(body) {
        Ok(body) => (status, [(header::CONTENT_TYPE, MEDIA_TYPE)], body).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(), // text and numbers always serialize
    }
}

pub(super) fn not_found() -> Refusal {
    Refusal::new(StatusCode::NOT_FOUND, 404, "no such path here; see the schema registry's API")
}

pub(super) fn too_large(bytes_max: usize) -> Refusal {
    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, 413, format!("the body is larger than {bytes_max} bytes"))
}

/// Why not: the code and the message of the answer.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error_code: i32,
    message: String,
}

impl Refusal {
    pub fn new(status: StatusCode, error_code: i32, message: impl Display) -> Self {
        Self { status, error_code, message: message.to_string() }
    }

    pub fn no_subject(subject: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, 40401, format!("subject `{}` has no versions", quote(subject)))
    }

    pub fn no_version(version: Version) -> Self {
        Self::new(StatusCode::NOT_FOUND, 40402, format!("version {version} does not exist"))
    }

    pub fn no_schema() -> Self {
        Self::new(StatusCode::NOT_FOUND, 40403, "the subject does not have this schema")
    }

    pub fn no_id(id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, 40403, format!("schema {} does not exist", quote(id)))
    }

    pub fn no_level(subject: &str) -> Self {
        let message = format!("subject `{}` has no compatibility level of its own", quote(subject));
        Self::new(StatusCode::NOT_FOUND, 40408, message)
    }

    pub fn no_mode(subject: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, 40409, format!("subject `{}` has no mode of its own", quote(subject)))
    }

    pub fn subject_deleted(subject: &str) -> Self {
        let message = format!("subject `{}` is deleted; permanent=true removes it for good", quote(subject));
        Self::new(StatusCode::NOT_FOUND, 40404, message)
    }

    pub fn subject_not_deleted(subject: &str) -> Self {
        let message = format!("subject `{}` is not deleted: delete it without permanent=true first", quote(subject));
        Self::new(StatusCode::NOT_FOUND, 40405, message)
    }

    pub fn version_deleted(subject: &str, version: i32) -> Self {
        let message = format!("version {version} of `{}` is deleted; permanent=true removes it", quote(subject));
        Self::new(StatusCode::NOT_FOUND, 40406, message)
    }

    pub fn version_not_deleted(subject: &str, version: i32) -> Self {
        let subject = quote(subject);
        let message =
            format!("version {version} of `{subject}` is not deleted: delete it without permanent=true first");
        Self::new(StatusCode::NOT_FOUND, 40407, message)
    }

    pub fn no_such_mode(mode: &str) -> Self {
        let message = format!("`{}` is no mode here: READWRITE or READONLY", quote(mode));
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, 42204, message)
    }

    pub fn read_only(subject: &str) -> Self {
        let message = format!("subject `{}` takes no changes: its mode is READONLY", quote(subject));
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, 42205, message)
    }

    pub fn not_kept(setting: &str) -> Self {
        let message = format!("`{setting}` is not kept here, leave it out; nothing was set");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, 42205, message)
    }

    pub fn referred_to(subject: &str, version: i32, id: i32) -> Self {
        let message =
            format!("version {version} of `{}` is referred to by schema {id}: delete that first", quote(subject));
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, 42206, message)
    }

    pub fn no_reference(subject: &str, version: i32) -> Self {
        Self::invalid_schema(format!("it refers to version {version} of `{}`, which does not exist", quote(subject)))
    }

    pub fn incompatible(subject: &str, reasons: &[String]) -> Self {
        let reasons = reasons.join("; ");
        let message = format!("the schema is incompatible with an earlier one of `{}`: {reasons}", quote(subject));
        Self::new(StatusCode::CONFLICT, 409, message)
    }

    pub fn invalid_schema(why: impl Display) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, 42201, format!("no usable Avro schema: {why}"))
    }

    pub fn invalid_version(version: &str) -> Self {
        let message = format!("`{}` is no version: a number from 1 on, or `latest`", quote(version));
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, 42202, message)
    }

    pub fn no_such_level(level: &str) -> Self {
        let message = format!(
            "`{}` is no compatibility level: NONE, BACKWARD, FORWARD, FULL, or one of these with _TRANSITIVE",
            quote(level)
        );
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, 42203, message)
    }

    pub fn invalid_subject(subject: &str) -> Self {
        let message = format!(
            "`{}` is no subject's name: empty, too long, with control characters, or of a context, of which there are none",
            quote(subject)
        );
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, 42208, message)
    }

    pub fn not_json(error: &serde_json::Error) -> Self {
        Self::new(StatusCode::BAD_REQUEST, 400, format!("the body is not the JSON that was expected: {error}"))
    }

    /// Confluent's "operation timed out". Whether it took effect is not known; asked again it is the same.
    pub fn too_slow(deadline: Duration) -> Self {
        let message =
            format!("no answer within {deadline:?}: the body did not come, or the database is slow; try again");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, 50002, message)
    }

    /// A schema that was accepted once can't be read now.
    pub fn damaged(what: impl Display) -> Self {
        tracing::error!("{what}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, 50001, what)
    }
}

/// Clients try again after 503; the database's own words are for the log.
impl From<sqlx::Error> for Refusal {
    fn from(error: sqlx::Error) -> Self {
        match Failure::from(error) {
            Failure::Retry(error) => {
                tracing::warn!("the registry's database is not available: {error:#}");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, 50003, "the registry's database is not available; try again")
            }
            Failure::Stop(error) => {
                tracing::error!("the registry's database refused a statement: {error:#}");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, 50001, "the registry's database refused a statement")
            }
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        with_status(self.status, &json!({ "error_code": self.error_code, "message": self.message }))
    }
}

fn quote(text: &str) -> String {
    text.chars().take(QUOTE_CHARS_MAX).collect()
}
