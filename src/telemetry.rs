//! Logs: for people on a terminal, JSON lines elsewhere; never a payload, never a secret.

use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Our own at info, the libraries' warnings; `RUST_LOG` overrides.
const DEFAULT_FILTER: &str = "warn,millrace=info,millrace_stream=info,millrace_producers=info,millrace_processors=info,millrace_sinks=info,millrace_local=info";

pub fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let terminal = std::io::stderr().is_terminal();
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if terminal {
        let colours = std::env::var_os("NO_COLOR").is_none();
        logs.with_ansi(colours).with_target(false).compact().init();
    } else {
        logs.json().flatten_event(true).with_current_span(false).with_span_list(false).init();
    }
}
