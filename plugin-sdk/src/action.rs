//! Actions: what a plugin offers, with its schemas derived from the types of its handler.

use std::any::TypeId;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use palisade_protocol::{ActionInfo, StreamInfo, StreamKind};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::call::Call;
use crate::handler::{Async, Blocking, Handler};
use crate::value::{Params, Reply, schema_of};
use crate::{Error, Result};

/// Longest name of an action.
const NAME_BYTES_MAX: usize = 40;

/// What the connection and the handle of a call need to know of an action.
#[derive(Debug)]
pub(crate) struct ActionFacts {
    pub(crate) name: String,
    pub(crate) endless: bool,
    pub(crate) input: Option<StreamKind>,
    pub(crate) output: Option<StreamKind>,
    pub(crate) input_type: Option<(TypeId, &'static str)>,
    pub(crate) output_type: Option<(TypeId, &'static str)>,
}

/// One action: a name, a handler, and what there is to say about it.
///
/// ```
/// use palisade_sdk::{Action, Call, Plugin, Result};
///
/// async fn count(call: Call, to: u64) -> Result<()> {
///     let mut numbers = call.output::<u64>()?;
///     for number in 1..=to {
///         numbers.send(number).await?;
///     }
///     Ok(())
/// }
///
/// let plugin = Plugin::new("counter", "1.0.0")
///     .with(Action::new("count", "Counts to a number.").idempotent().output::<u64>().handler(count));
/// # let _ = plugin;
/// ```
pub struct Action<S = ()> {
    pub(crate) options: ActionOptions,
    pub(crate) parameters: fn() -> Option<Value>,
    pub(crate) result: fn() -> Option<Value>,
    pub(crate) handler: Arc<dyn Handler<S>>,
}

impl<S> fmt::Debug for Action<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Action").field("name", &self.options.name).finish_non_exhaustive()
    }
}

/// An action on its way: everything but its handler.
#[must_use = "an action is complete with its handler"]
#[derive(Debug, Clone)]
pub struct ActionOptions {
    name: String,
    description: String,
    idempotent: bool,
    endless: bool,
    timeout: Option<Duration>,
    input: Option<Stream>,
    output: Option<Stream>,
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    kind: StreamKind,
    item: Option<Item>,
}

/// The type of a stream's items.
#[derive(Debug, Clone, Copy)]
struct Item {
    id: TypeId,
    name: &'static str,
    schema: fn() -> Value,
}

impl Action {
    /// Begins an action. A name has up to 40 letters, digits, `_`, `-` and `.`; the description is for people and
    /// agents.
    #[expect(clippy::new_ret_no_self, reason = "an action without a handler is not one yet")]
    pub fn new(name: impl Into<String>, description: impl Into<String>) -> ActionOptions {
        ActionOptions {
            name: name.into(),
            description: description.into(),
            idempotent: false,
            endless: false,
            timeout: None,
            input: None,
            output: None,
        }
    }
}

impl ActionOptions {
    /// Doing it twice is as good as doing it once. Such a call is repeated when the process that served it dies.
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// It runs until it is cancelled, as a subscription does. It is cancelled as soon as the plugin is drained.
    pub const fn endless(mut self) -> Self {
        self.endless = true;
        self
    }

    /// How long a call may take, if not as long as the plugin's limit says.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// It reads a stream of items: see [`Call::input`].
    pub fn input<T: DeserializeOwned + JsonSchema + 'static>(mut self) -> Self {
        let schema = || schema_of::<T>(SchemaSettings::draft2020_12().for_deserialize());
        self.input = Some(Stream::items::<T>(schema));
        self
    }

    /// It reads a stream of bytes: see [`Call::input_bytes`].
    pub const fn input_bytes(mut self) -> Self {
        self.input = Some(Stream { kind: StreamKind::Bytes, item: None });
        self
    }

    /// It writes a stream of items: see [`Call::output`].
    pub fn output<T: Serialize + JsonSchema + 'static>(mut self) -> Self {
        let schema = || schema_of::<T>(SchemaSettings::draft2020_12().for_serialize());
        self.output = Some(Stream::items::<T>(schema));
        self
    }

    /// It writes a stream of bytes: see [`Call::output_bytes`].
    pub const fn output_bytes(mut self) -> Self {
        self.output = Some(Stream { kind: StreamKind::Bytes, item: None });
        self
    }

    /// Completes the action with an asynchronous handler.
    ///
    /// The handler is polled in the plugin's event loop and should not compute for long; [`ActionOptions::blocking`] is
    /// for that. When the call is cancelled, the handler's future is dropped at the `.await` where it stands,
    /// unless it asked for [`Call::cancelled`] or [`Call::is_cancelled`] before: then it is left to end by itself.
    pub fn handler<S, H, F, P, R>(self, handler: H) -> Action<S>
    where
        S: Send + Sync + 'static,
        H: Fn(Call<S>, P) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
        P: Params,
        R: Reply,
    {
        Action { options: self, parameters: P::schema, result: R::schema, handler: Arc::new(Async::new(handler)) }
    }

    /// Completes the action with a handler that blocks or computes. It runs on one of a bounded number of threads, ends
    /// early only by looking at [`Call::is_cancelled`], and may use the `blocking_` functions of streams.
    pub fn blocking<S, H, P, R>(self, handler: H) -> Action<S>
    where
        S: Send + Sync + 'static,
        H: Fn(Call<S>, P) -> Result<R> + Send + Sync + 'static,
        P: Params,
        R: Reply,
    {
        Action { options: self, parameters: P::schema, result: R::schema, handler: Arc::new(Blocking::new(handler)) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn check(&self) -> Result<()> {
        let is_fine = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
        if self.name.is_empty() || self.name.len() > NAME_BYTES_MAX || !self.name.bytes().all(is_fine) {
            return Err(Error::configuration_invalid(format!(
                "`{}` cannot be an action's name; it takes 1 to {NAME_BYTES_MAX} letters, digits, `_`, `-` and `.`",
                self.name
            )));
        }
        Ok(())
    }

    pub(crate) fn facts(&self) -> ActionFacts {
        let item = |stream: Option<Stream>| stream.and_then(|stream| stream.item).map(|item| (item.id, item.name));
        ActionFacts {
            name: self.name.clone(),
            endless: self.endless,
            input: self.input.map(|stream| stream.kind),
            output: self.output.map(|stream| stream.kind),
            input_type: item(self.input),
            output_type: item(self.output),
        }
    }
}

impl Stream {
    fn items<T: 'static>(schema: fn() -> Value) -> Self {
        Self {
            kind: StreamKind::Items,
            item: Some(Item { id: TypeId::of::<T>(), name: std::any::type_name::<T>(), schema }),
        }
    }

    fn info(self) -> StreamInfo {
        StreamInfo { kind: self.kind, item: self.item.map(|item| (item.schema)()) }
    }
}

impl<S> Action<S> {
    pub(crate) fn info(&self) -> ActionInfo {
        let options = &self.options;
        ActionInfo {
            name: options.name.clone(),
            description: options.description.clone(),
            parameters: (self.parameters)(),
            result: (self.result)(),
            input: options.input.map(Stream::info),
            output: options.output.map(Stream::info),
            idempotent: options.idempotent,
            endless: options.endless,
            timeout_ms: options.timeout.map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}
