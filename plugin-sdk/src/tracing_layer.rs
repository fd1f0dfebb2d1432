//! Events of `tracing` as log lines of the plugin, tied to the call in whose handler they happen.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, Weak};

use palisade_protocol::Level;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::exchange::Exchange;
use crate::wire::Wire;

thread_local! {
    /// The call whose handler runs on this thread.
    static CALL: RefCell<Option<Arc<Exchange>>> = const { RefCell::new(None) };
}

/// The connection, for events outside of any call. A process has one plugin; in tests the newest counts.
static WIRE: OnceLock<RwLock<Weak<Wire>>> = OnceLock::new();

/// Runs a handler's code, so that its events find its call.
pub(crate) fn within<T>(exchange: &Arc<Exchange>, run: impl FnOnce() -> T) -> T {
    let outer = CALL.replace(Some(Arc::clone(exchange)));
    let done = run();
    CALL.set(outer);
    done
}

/// Events outside of any call go to this connection from now on.
pub(crate) fn connect(wire: &Arc<Wire>) {
    let place = WIRE.get_or_init(RwLock::default);
    *place.write().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(wire);
}

/// A layer for `tracing-subscriber` that sends every event as a log line of the plugin. An event in a handler is tied
/// to its call; one outside of any handler is not. What a handler spawns counts as outside.
///
/// The plugin's own level ([`Plugin::log_level`](crate::Plugin::log_level)) holds for these lines as well.
///
/// ```
/// use palisade_sdk::TracingLayer;
/// use tracing_subscriber::layer::SubscriberExt;
///
/// let subscriber = tracing_subscriber::registry().with(TracingLayer::new());
/// # let _ = subscriber;
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct TracingLayer(());

impl TracingLayer {
    /// The layer.
    #[must_use]
    pub const fn new() -> Self {
        Self(())
    }
}

fn level(metadata: &Metadata<'_>) -> Level {
    match *metadata.level() {
        tracing::Level::ERROR => Level::Error,
        tracing::Level::WARN => Level::Warn,
        tracing::Level::INFO => Level::Info,
        tracing::Level::DEBUG => Level::Debug,
        tracing::Level::TRACE => Level::Trace,
    }
}

impl<S: Subscriber> Layer<S> for TracingLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let call = CALL.with_borrow(Clone::clone);
        let (wire, id) = match call {
            Some(call) => (Some(Arc::clone(&call.wire)), Some(call.id)),
            None => {
                let place = WIRE.get().map(|place| place.read().unwrap_or_else(PoisonError::into_inner).upgrade());
                (place.flatten(), None)
            }
        };
        let Some(wire) = wire else { return };
        let level = level(event.metadata());
        if level < wire.log_level {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        line.fields.insert("target".to_owned(), Value::String(event.metadata().target().to_owned()));
        wire.log(level, line.message, Some(Value::Object(line.fields)), id);
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: Map<String, Value>,
}

impl Line {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.fields.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.put(field, format!("{value:?}"));
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.put(field, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }
}
