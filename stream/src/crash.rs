//! Named crash points: `MILLRACE_CRASH_AT=<step>` ends the process there, as abruptly as kill -9 would.
//!
//! Tests use it to die in windows that random kills rarely meet. Unset, a point costs one comparison.

use std::sync::OnceLock;

/// Aborts if the environment names this step.
pub fn crash_at(step: &str) {
    static WANTED: OnceLock<Option<String>> = OnceLock::new();
    let wanted = WANTED.get_or_init(|| std::env::var("MILLRACE_CRASH_AT").ok());
    if wanted.as_deref() == Some(step) {
        tracing::error!("crashing at {step}, as MILLRACE_CRASH_AT asks");
        std::process::abort();
    }
}
