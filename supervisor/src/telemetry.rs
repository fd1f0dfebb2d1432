//! The daemon's own log: structured lines on stderr, for people or for programs.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// In which form the daemon logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Begins logging. `PALISADE_LOG` filters, in the manner of `RUST_LOG`; `info` by default.
pub fn begin(format: LogFormat) {
    let filter = EnvFilter::try_from_env("PALISADE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    match format {
        LogFormat::Text => subscriber.with_ansi(colours).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
}
