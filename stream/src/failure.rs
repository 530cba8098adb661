//! Three ways to fail. The code that knows which one it is decides; nobody guesses later.

use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// Why a batch did not take effect.
#[derive(Debug)]
pub enum Failure {
    /// The world is at fault: the same batch may work in a moment.
    Retry(anyhow::Error),
    /// We are at fault, or data is at risk: stop this pipeline and say so.
    Stop(anyhow::Error),
}

impl Failure {
    pub fn retry(error: impl Into<anyhow::Error>) -> Self {
        Self::Retry(error.into())
    }

    pub fn stop(error: impl Into<anyhow::Error>) -> Self {
        Self::Stop(error.into())
    }

    /// Adds what was being done, whichever kind it is.
    #[must_use]
    pub fn context(self, what: impl fmt::Display + Send + Sync + 'static) -> Self {
        match self {
            Self::Retry(error) => Self::Retry(error.context(what)),
            Self::Stop(error) => Self::Stop(error.context(what)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Retry(error) | Self::Stop(error)) = self;
        write!(f, "{error:#}")
    }
}

/// Waits until something that runs says why it had to stop; never returns while it runs. `ended`: what to say of one
/// that is gone without a word.
pub async fn why_it_stopped(failure: &mut watch::Receiver<Option<Arc<Failure>>>, ended: &str) -> Arc<Failure> {
    let said = failure.wait_for(Option::is_some).await.ok().and_then(|failure| failure.clone());
    said.unwrap_or_else(|| Arc::new(Failure::stop(anyhow::anyhow!("{ended}"))))
}

/// Postgres errors: a lost connection, a restart, a deadlock or a full disk heal; a wrong statement does not.
impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        if heals(&error) { Self::Retry(error.into()) } else { Self::Stop(error.into()) }
    }
}

fn heals(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| code_heals(&code)),
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut => true,
        // A server killed in the middle of an answer leaves half a message.
        sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// SQLSTATE classes (PostgreSQL Appendix A): 08 connection, 40 rollback, 53 resources, 55 object state,
/// 57 operator intervention, 58 system. 25006 is a server that is read-only for the moment (failover); 25P03 and
/// 25P04 end a transaction that took too long, as ours do when the network stalls.
fn code_heals(code: &str) -> bool {
    matches!(code.get(..2), Some("08" | "40" | "53" | "55" | "57" | "58"))
        || matches!(code, "25006" | "25P03" | "25P04")
}

/// This record is at fault: it becomes a dead letter and the flow goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    pub reason: Reason,
    pub error: String,
}

impl Reject {
    pub fn new(reason: Reason, error: impl fmt::Display) -> Self {
        Self { reason, error: error.to_string() }
    }
}

/// The kinds of reject: a bounded label for metrics and a way to group dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    TooLarge,
    NoKey,
    NoValue,
    BadHeader,
    BadFraming,
    UnknownSchema,
    UnknownType,
    Undecodable,
    DoesNotFit,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NoKey => "no_key",
            Self::NoValue => "no_value",
            Self::BadHeader => "bad_header",
            Self::BadFraming => "bad_framing",
            Self::UnknownSchema => "unknown_schema",
            Self::UnknownType => "unknown_type",
            Self::Undecodable => "undecodable",
            Self::DoesNotFit => "does_not_fit",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restarting_server_is_retried_and_a_wrong_statement_is_not() {
        for heals in ["08006", "40P01", "53100", "57P01", "57P03", "25006", "25P03", "25P04"] {
            assert!(code_heals(heals), "{heals}");
        }
        for ours in ["42601", "42P01", "23505", "22003"] {
            assert!(!code_heals(ours), "{ours}");
        }
    }
}
