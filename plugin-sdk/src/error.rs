//! What a handler answers when it cannot do what it was asked for.
//!
//! An error has a code of Palisade's taxonomy, a sentence, and optionally a hint, details and its causes. Any error of
//! the standard kind becomes `execution_failed` by way of `?`, with the chain of its sources kept in `details.causes`.

use std::fmt;
use std::time::Duration;

use palisade_protocol::{BODY_BYTES_MAX, Class, ErrorBody, ErrorCode, Fault, PayloadError, check_body};
use serde::Serialize;
use serde_json::{Value, json};

use crate::text::truncate;

/// Longest message of an error on the wire; the rest is cut off.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// Longest hint.
const HINT_BYTES_MAX: usize = 4 << 10;
/// Longest single cause, and most of them: a chain of sources may be circular.
const CAUSE_BYTES_MAX: usize = 2 << 10;
const CAUSES_MAX: usize = 8;

/// What most functions of this crate, and all handlers, return.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error with a code of the taxonomy.
///
/// It does not implement [`std::error::Error`], because everything that does converts into it.
pub struct Error(Box<Inner>);

struct Inner {
    body: ErrorBody,
    causes: Vec<String>,
}

impl Error {
    /// An error with any code. The usual ones have functions of their own.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { body: ErrorBody::new(code, message), causes: Vec::new() }))
    }

    /// `execution_failed`: the action ran and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ExecutionFailed, message)
    }

    /// `invalid_params`: what the caller gave is wrong in a way that the schema cannot say.
    pub fn invalid_params(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidParams, message)
    }

    /// `resource_not_found`: something that the parameters name does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ResourceNotFound, message)
    }

    /// `permission_denied`: the caller or the plugin may not do this.
    pub fn permission_denied(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::PermissionDenied, message)
    }

    /// `configuration_invalid`: the operator's configuration is wrong.
    pub fn configuration_invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ConfigurationInvalid, message)
    }

    /// `dependency_unavailable`: something that the plugin needs is missing or down; trying again may help.
    pub fn dependency_unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::DependencyUnavailable, message)
    }

    /// `unavailable`: it cannot be done at the moment; trying again may help.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message)
    }

    /// `overloaded`, with the time after which to come back.
    pub fn overloaded(message: impl Into<String>, retry_after: Duration) -> Self {
        Self::new(ErrorCode::Overloaded, message).with_retry_after(retry_after)
    }

    /// `resource_exhausted`: a limit of the plugin was reached.
    pub fn resource_exhausted(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ResourceExhausted, message)
    }

    /// `timeout`: something took too long.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Timeout, message)
    }

    /// `cancelled`: the call ends because its caller does not want it any more. A handler that returns it ends its call
    /// as cancelled rather than failed.
    #[must_use]
    pub fn cancelled() -> Self {
        Self::new(ErrorCode::Cancelled, "the call was cancelled")
    }

    /// Adds what to do about it.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.0.body.hint = Some(hint.into());
        self
    }

    /// Adds more for programs. What cannot be written as JSON is left out. Details that are not a map travel as
    /// `{"value": …}` when there are causes as well.
    #[must_use]
    pub fn with_details(mut self, details: impl Serialize) -> Self {
        self.0.body.details = serde_json::to_value(details).ok();
        self
    }

    /// Adds what caused it, with the chain of its sources.
    #[must_use]
    pub fn with_cause(mut self, cause: impl std::error::Error) -> Self {
        self.add_causes(&cause);
        self
    }

    /// Says when to come back; that makes it retryable.
    #[must_use]
    pub fn with_retry_after(mut self, after: Duration) -> Self {
        self.0.body.retry_after_ms = Some(u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
        self.0.body.retryable = true;
        self
    }

    /// Says whether the same request may succeed later without change, where that differs from the code's table entry.
    #[must_use]
    pub fn retryable(mut self, retryable: bool) -> Self {
        self.0.body.retryable = retryable;
        self
    }

    /// Says whose mistake it is, where that differs from the code's table entry.
    #[must_use]
    pub fn with_fault(mut self, fault: Fault) -> Self {
        self.0.body.fault = fault;
        self
    }

    /// The code.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.0.body.code
    }

    /// The class of the code.
    #[must_use]
    pub fn class(&self) -> Class {
        self.0.body.class
    }

    /// The sentence for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0.body.message
    }

    /// What to do about it, if that was said.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.0.body.hint.as_deref()
    }

    /// What caused it, nearest first.
    #[must_use]
    pub fn causes(&self) -> &[String] {
        &self.0.causes
    }

    /// What it says, without its causes.
    pub(crate) fn body(&self) -> &ErrorBody {
        &self.0.body
    }

    /// As [`Error::into_body`], of a copy.
    pub(crate) fn clone_body(&self) -> ErrorBody {
        Self(Box::new(Inner { body: self.0.body.clone(), causes: self.0.causes.clone() })).into_body()
    }

    /// The error as it travels: causes in `details.causes`, and everything within the limits of a frame's body.
    #[must_use]
    pub fn into_body(self) -> ErrorBody {
        let Inner { mut body, causes } = *self.0;
        if !causes.is_empty() {
            let mut details = match body.details.take() {
                Some(Value::Object(details)) => details,
                None | Some(Value::Null) => serde_json::Map::new(),
                Some(value) => serde_json::Map::from_iter([("value".to_owned(), value)]),
            };
            details.insert("causes".to_owned(), json!(causes));
            body.details = Some(Value::Object(details));
        }
        truncate(&mut body.message, MESSAGE_BYTES_MAX);
        if let Some(hint) = &mut body.hint {
            truncate(hint, HINT_BYTES_MAX);
        }
        if body.details.is_some() && !fits(&body) {
            body.details = Some(json!({ "left_out": "the details were larger or deeper than an error may be" }));
        }
        body
    }

    fn add_causes(&mut self, cause: &dyn std::error::Error) {
        let chain = std::iter::successors(Some(cause), |cause| cause.source());
        for cause in chain.take(CAUSES_MAX.saturating_sub(self.0.causes.len())) {
            let mut text = cause.to_string();
            truncate(&mut text, CAUSE_BYTES_MAX);
            self.0.causes.push(text);
        }
    }
}

/// Whether a body keeps to the limits of a frame.
pub(crate) fn fits<B: Serialize>(body: &B) -> bool {
    let mut bytes = Vec::new();
    palisade_protocol::encode(&mut bytes, palisade_protocol::Kind::Err, palisade_protocol::Flags::NONE, 0, body, &[]);
    let body = &bytes[palisade_protocol::HEADER_BYTES..];
    body.len() <= BODY_BYTES_MAX && check_body(body).is_ok()
}

impl<E: std::error::Error + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        let any: &dyn std::any::Any = &error;
        if let Some(body) = any.downcast_ref::<ErrorBody>() {
            return Self(Box::new(Inner { body: body.clone(), causes: Vec::new() }));
        }
        let mut this = Self::failed(error.to_string());
        if let Some(source) = error.source() {
            this.add_causes(source);
        }
        this
    }
}

impl From<Error> for ErrorBody {
    fn from(error: Error) -> Self {
        error.into_body()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.body, f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.body)?;
        for cause in &self.0.causes {
            write!(f, "\n  because: {cause}")?;
        }
        if let Some(hint) = &self.0.body.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Parameters that do not fit their type, with the path in the message and in `details.path`.
pub(crate) fn wrong_params(error: &PayloadError) -> Error {
    let wrong = Error::invalid_params(error.to_string());
    match error {
        PayloadError::Mismatch { path, .. } if !path.is_empty() => wrong.with_details(json!({ "path": path })),
        _ => wrong,
    }
}

/// Adds a sentence to an error on its way up.
pub trait Context<T> {
    /// Puts `message` first and keeps the error as its cause. A code of the taxonomy is kept.
    ///
    /// # Errors
    /// The error, with `message`.
    fn context(self, message: impl Into<String>) -> Result<T>;

    /// As [`Context::context`], with another code.
    ///
    /// # Errors
    /// The error, with `code` and `message`.
    fn or_code(self, code: ErrorCode, message: impl Into<String>) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context(self, message: impl Into<String>) -> Result<T> {
        self.map_err(|error| {
            let mut error: Error = error.into();
            let cause = std::mem::replace(&mut error.0.body.message, message.into());
            error.0.causes.insert(0, cause);
            error.0.causes.truncate(CAUSES_MAX);
            error
        })
    }

    fn or_code(self, code: ErrorCode, message: impl Into<String>) -> Result<T> {
        self.context(message).map_err(|error| {
            let Inner { body, causes } = *error.0;
            let body = ErrorBody { hint: body.hint, details: body.details, ..ErrorBody::new(code, body.message) };
            Error(Box::new(Inner { body, causes }))
        })
    }
}
