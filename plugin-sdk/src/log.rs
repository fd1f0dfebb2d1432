//! Structured log lines, tied to the call that writes them.
//!
//! The macros take the handle of a call, or of the plugin itself, then fields, then a format string:
//!
//! ```
//! # use palisade_sdk::{Call, Result};
//! # async fn copy(call: Call, table: String) -> Result<()> {
//! # let rows = 3;
//! palisade_sdk::log::info!(call, rows = rows, table = table; "copied {rows} rows");
//! palisade_sdk::log::warn!(call; "that was all");
//! # Ok(())
//! # }
//! ```
//!
//! A field is anything with `Serialize`. Lines below the plugin's level
//! ([`Plugin::log_level`](crate::Plugin::log_level)) cost nothing, not even their formatting. At most 256 KiB of lines
//! wait to be taken by the supervisor; what comes faster is dropped, and a line says how many. What a plugin prints on
//! its standard output and error is captured as well, but is not tied to a call.

use serde::Serialize;
use serde_json::{Map, Value};

pub use palisade_protocol::Level;

/// Something that log lines can be written to: a [`Call`](crate::Call), which they are then tied to, or a
/// [`Host`](crate::Host).
pub trait LogTarget {
    /// Whether lines of that level are kept.
    fn is_enabled(&self, level: Level) -> bool;

    /// Writes one line. The message is cut after 8 KiB.
    fn log(&self, level: Level, message: String, fields: Fields);
}

impl<T: LogTarget + ?Sized> LogTarget for &T {
    fn is_enabled(&self, level: Level) -> bool {
        (**self).is_enabled(level)
    }

    fn log(&self, level: Level, message: String, fields: Fields) {
        (**self).log(level, message, fields);
    }
}

/// The fields of a log line.
#[derive(Debug, Clone, Default)]
pub struct Fields(Map<String, Value>);

impl Fields {
    /// Adds a field. One that cannot be written as JSON says so in its place.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).unwrap_or_else(|error| Value::String(format!("<{error}>")));
        self.0.insert(name.to_owned(), value);
        self
    }

    pub(crate) fn into_value(self) -> Option<Value> {
        if self.0.is_empty() { None } else { Some(Value::Object(self.0)) }
    }
}

/// Writes a line of any level: `event!(target, level, field = value; "format {}", …)`.
#[doc(hidden)]
#[macro_export]
macro_rules! __event {
    ($level:expr, $target:expr $(, $name:ident = $value:expr)* ; $($format:tt)+) => {{
        let target = &$target;
        let level = $level;
        if $crate::log::LogTarget::is_enabled(target, level) {
            let fields = $crate::log::Fields::default()$(.with(stringify!($name), &$value))*;
            $crate::log::LogTarget::log(target, level, format!($($format)+), fields);
        }
    }};
}

/// Writes a line for the author alone: `trace!(call, field = value; "format {}", …)`.
#[doc(hidden)]
#[macro_export]
macro_rules! __trace {
    ($($rest:tt)+) => { $crate::__event!($crate::log::Level::Trace, $($rest)+) };
}

/// Writes a line for finding a fault: `debug!(call, field = value; "format {}", …)`.
#[doc(hidden)]
#[macro_export]
macro_rules! __debug {
    ($($rest:tt)+) => { $crate::__event!($crate::log::Level::Debug, $($rest)+) };
}

/// Writes a line that is worth knowing: `info!(call, field = value; "format {}", …)`.
#[doc(hidden)]
#[macro_export]
macro_rules! __info {
    ($($rest:tt)+) => { $crate::__event!($crate::log::Level::Info, $($rest)+) };
}

/// Writes a line about something that is not as it should be: `warn!(call, field = value; "format {}", …)`.
#[doc(hidden)]
#[macro_export]
macro_rules! __warn {
    ($($rest:tt)+) => { $crate::__event!($crate::log::Level::Warn, $($rest)+) };
}

/// Writes a line about something that failed: `error!(call, field = value; "format {}", …)`.
#[doc(hidden)]
#[macro_export]
macro_rules! __error {
    ($($rest:tt)+) => { $crate::__event!($crate::log::Level::Error, $($rest)+) };
}

#[doc(inline)]
pub use crate::{__debug as debug, __error as error, __info as info, __trace as trace, __warn as warn};

/// Runs a handler's code, so that what it logs by way of `tracing` finds its call.
#[cfg(not(feature = "tracing"))]
pub(crate) fn within<T>(_: &std::sync::Arc<crate::exchange::Exchange>, run: impl FnOnce() -> T) -> T {
    run()
}

#[cfg(feature = "tracing")]
pub(crate) use crate::tracing_layer::within;
