//! The trace that the caller is in, as W3C Trace Context writes it.

use opentelemetry::Context;
use opentelemetry::trace::{TraceContextExt, TraceFlags};

/// `traceparent` and `tracestate` of the current OpenTelemetry context. (A `tracing` span whose subscriber has the
/// layer of `tracing-opentelemetry` makes its context the current one.)
pub(crate) fn current() -> (Option<String>, Option<String>) {
    let context = Context::current();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return (None, None);
    }
    let flags = span.trace_flags() & TraceFlags::SAMPLED;
    let traceparent = format!("00-{}-{}-{:02x}", span.trace_id(), span.span_id(), flags.to_u8());
    (Some(traceparent), Some(span.trace_state().header()).filter(|state| !state.is_empty()))
}
