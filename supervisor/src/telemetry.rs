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

/// The variable says nothing that can be understood.
#[derive(Debug, thiserror::Error)]
#[error("PALISADE_LOG is {value:?}: {detail}")]
pub struct FilterError {
    value: String,
    detail: String,
}

/// Begins logging. `PALISADE_LOG` filters, in the manner of `RUST_LOG`; `info` by default.
///
/// # Errors
/// [`FilterError`], and nothing is logged then.
pub fn begin(format: LogFormat) -> Result<(), FilterError> {
    let wanted = std::env::var_os("PALISADE_LOG").unwrap_or_default();
    let wanted = wanted.to_string_lossy();
    let wanted = if wanted.is_empty() { "info" } else { &wanted };
    let filter = EnvFilter::builder()
        .parse(wanted)
        .map_err(|error| FilterError { value: wanted.to_owned(), detail: error.to_string() })?;
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Where it cannot be written, on a disk that is full, that is not written there either: it would panic.
    let subscriber = subscriber.log_internal_errors(false);
    match format {
        LogFormat::Text => subscriber.with_ansi(colours).init(),
        LogFormat::Json => subscriber.json().flatten_event(true).init(),
    }
    Ok(())
}
