//! Why an event is not in the log, or not known to be.

use serde::Deserialize;
use std::fmt;
use uuid::Uuid;

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Violation {
    /// Where in the event: a JSON pointer (RFC 6901) such as `/data/user_id`.
    pub pointer: String,
    pub expected: String,
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: expected {}, found {}", self.pointer, self.expected, self.found)
    }
}

/// What became of an invalid event that was to be kept: as [`crate::Options::keep_invalid`] asks, or as the gateway
/// does with all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Quarantine {
    /// Under this id, for `millrace quarantine show` and `replay`.
    Kept(String),
    /// Why not.
    NotKept(String),
}

impl fmt::Display for Quarantine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept(id) => write!(f, "kept in quarantine as {id}"),
            Self::NotKept(why) => write!(f, "not kept in quarantine: {why}"),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    #[error("the client's options: {0}")]
    Options(String),
    #[error("could not write the `{event_type}` as JSON: {error}")]
    Unwritable { event_type: &'static str, error: String },
    #[error("the `{event_type}` takes {bytes} bytes as JSON, at most {bytes_max} fit a request (batch_bytes)")]
    TooLarge { event_type: &'static str, bytes: usize, bytes_max: usize },
    /// It will never fit: repair it.
    #[error("event {id} does not fit its contract: {}", listed(.violations, .quarantine.as_ref()))]
    Invalid { id: Uuid, violations: Vec<Violation>, quarantine: Option<Quarantine> },
    #[error("event {id} is in no scope of this service's key or token: ask for publish:<its topic>")]
    Unauthorized { id: Uuid },
    /// The gateway takes no request of this client, such as for want of a good key. Nothing of it is in the log.
    #[error("event {id} was not published, the gateway answered {status}: {detail}")]
    Refused { id: Uuid, status: u16, detail: String },
    /// Its time is over, and no attempt brought it into the log.
    #[error("event {id} was not published in time, nothing of it is in the log after {attempts} attempts: {reason}")]
    NotPublished { id: Uuid, attempts: u32, reason: String },
    /// It may be in the log or not: send it again with the same id.
    #[error("event {id} may be in the log or not after {attempts} attempts; send it again with the same id: {reason}")]
    Unsure { id: Uuid, attempts: u32, reason: String },
}

impl PublishError {
    /// What it is of an event that an earlier attempt may have brought into the log.
    pub(crate) fn unsure(self, attempts: u32) -> Self {
        let (id, reason) = match self {
            Self::Refused { id, status, detail } => (id, format!("the last attempt was answered {status}: {detail}")),
            Self::Invalid { id, violations, quarantine } => {
                (id, format!("the last attempt was `invalid`: {}", listed(&violations, quarantine.as_ref())))
            }
            Self::Unauthorized { id } => {
                (id, "the last attempt was `unauthorized`: ask for publish:<its topic>".into())
            }
            Self::NotPublished { id, reason, .. } => (id, reason),
            other => return other,
        };
        Self::Unsure { id, attempts, reason }
    }
}

fn listed(violations: &[Violation], quarantine: Option<&Quarantine>) -> String {
    let violations = violations.iter().map(ToString::to_string);
    violations.chain(quarantine.map(ToString::to_string)).collect::<Vec<_>>().join("; ")
}
