//! A panic in a handler or hook ends that handler or hook, with its message and place, and nothing else.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Once;

use serde_json::json;

use crate::Error;
use crate::text::truncate;

/// Longest message of a panic that is kept.
const MESSAGE_BYTES_MAX: usize = 2 << 10;

thread_local! {
    /// Whether this thread runs an author's code at the moment.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    /// What the hook saw since.
    static SEEN: RefCell<Option<Panicked>> = const { RefCell::new(None) };
}

/// What is known of a panic.
#[derive(Debug, Clone)]
pub(crate) struct Panicked {
    message: String,
    place: String,
}

impl Panicked {
    fn new(info: &PanicHookInfo<'_>) -> Self {
        let mut message = info.payload_as_str().unwrap_or("a panic without a message").to_owned();
        truncate(&mut message, MESSAGE_BYTES_MAX);
        let place = info.location().map_or_else(|| "an unknown place".to_owned(), ToString::to_string);
        Self { message, place }
    }

    /// The error that the caller gets.
    pub(crate) fn into_error(self, what: &str) -> Error {
        Error::failed(format!("{what} panicked at {}: {}", self.place, self.message))
            .with_details(json!({ "panic": { "message": self.message, "place": self.place } }))
    }
}

/// Makes panics in guarded code quiet and remembered; others go on to the hook that was there. Done once per process.
pub(crate) fn install() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = std::panic::take_hook();
        let with_backtrace = std::env::var_os("RUST_BACKTRACE").is_some_and(|value| value != "0");
        std::panic::set_hook(Box::new(move |info| {
            let guarded = GUARDED.try_with(Cell::get).unwrap_or(false);
            if guarded {
                let _ = SEEN.try_with(|seen| seen.replace(Some(Panicked::new(info))));
            }
            // The caller and the log get message and place; the backtrace, where it is wanted, is for standard error.
            if !guarded || with_backtrace {
                previous(info);
            }
        }));
    });
}

/// Runs an author's code.
pub(crate) fn guard<T>(run: impl FnOnce() -> T) -> Result<T, Panicked> {
    let outer = GUARDED.replace(true);
    // The code's own state is not looked at again after a panic: its future or closure is dropped.
    let result = catch_unwind(AssertUnwindSafe(run));
    GUARDED.set(outer);
    result.map_err(|payload| {
        // Dropping a payload may panic as well.
        let _ = catch_unwind(AssertUnwindSafe(|| drop(payload)));
        SEEN.take().unwrap_or_else(|| Panicked {
            message: "a panic without a message".to_owned(),
            place: "an unknown place".to_owned(),
        })
    })
}
