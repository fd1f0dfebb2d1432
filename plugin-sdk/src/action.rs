//! Actions: what a plugin offers, with its schemas derived from the types of its handler.

use std::any::TypeId;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use palisade_protocol::{ActionInfo, PayloadError, StreamInfo, StreamKind, ValueLimits, check_payload, decode_value};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::call::Call;
use crate::error::wrong_params;
use crate::exchange::{Arrived, Exchange, Outcome, SMALL_BYTES};
use crate::panic::{Panicked, guard};
use crate::{Error, Result};

/// Longest name of an action.
const NAME_BYTES_MAX: usize = 64;
/// A scratch buffer larger than this is given back rather than kept.
const SCRATCH_BYTES_MAX: usize = 64 << 10;

/// What the parameters of an action may be: any type with `Deserialize` and `JsonSchema`, `()` for none, or [`Raw`].
///
/// There is nothing to implement: the trait is there for every such type.
pub trait Params: Sized + Send + 'static {
    #[doc(hidden)]
    fn schema() -> Option<Value>;
    #[doc(hidden)]
    fn decode(payload: Payload<'_>) -> Result<Self, PayloadError>;
}

/// What the result of an action may be: any type with `Serialize` and `JsonSchema`, `()` for none, or [`Raw`].
///
/// There is nothing to implement: the trait is there for every such type.
pub trait Reply: Send + 'static {
    #[doc(hidden)]
    fn schema() -> Option<Value>;
    #[doc(hidden)]
    fn encode(self, scratch: &mut Vec<u8>) -> Result<Option<Bytes>>;
}

/// Parameters as they arrived.
#[doc(hidden)]
#[derive(Debug)]
pub struct Payload<'a>(pub(crate) Arrival<'a>);

#[derive(Debug)]
pub(crate) enum Arrival<'a> {
    Slice(&'a [u8]),
    Owned(Vec<u8>),
}

impl<'a> From<Arrived<'a>> for Payload<'a> {
    fn from(arrived: Arrived<'a>) -> Self {
        Self(match arrived {
            Arrived::Slice(slice) => Arrival::Slice(slice),
            Arrived::Joined(bytes) => Arrival::Owned(bytes),
        })
    }
}

impl Payload<'_> {
    fn as_slice(&self) -> &[u8] {
        match &self.0 {
            Arrival::Slice(slice) => slice,
            Arrival::Owned(bytes) => bytes,
        }
    }

    fn into_bytes(self) -> Bytes {
        match self.0 {
            Arrival::Slice(slice) => Bytes::copy_from_slice(slice),
            Arrival::Owned(bytes) => Bytes::from(bytes),
        }
    }
}

/// A payload as it travels: the bytes of one MessagePack value. As parameters or result of an action it skips decoding and
/// encoding; its schema is "anything".
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Raw(Bytes);

impl Raw {
    /// Encodes a value.
    ///
    /// # Errors
    /// When the value's `Serialize` refuses.
    pub fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Self> {
        let mut bytes = Vec::new();
        palisade_protocol::encode_value(&mut bytes, value)?;
        Ok(Self(bytes.into()))
    }

    /// Decodes the value.
    ///
    /// # Errors
    /// `invalid_params` when it is not a `T`, with the path of what does not fit.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T> {
        decode_value(&self.0).map_err(|error| wrong_params(&error))
    }

    /// Takes bytes that are one MessagePack value.
    ///
    /// # Errors
    /// `invalid_params` when they are not.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self> {
        let bytes = bytes.into();
        check_raw(&bytes).map_err(|error| wrong_params(&error))?;
        Ok(Self(bytes))
    }

    /// The bytes. None at all stand for nil.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.0
    }
}

/// Raw payloads are walked, not built, so the number of their values costs no memory.
fn check_raw(bytes: &[u8]) -> Result<(), PayloadError> {
    let limits = ValueLimits { values_max: usize::MAX, ..ValueLimits::PAYLOAD };
    check_payload(bytes, limits).map_err(PayloadError::Malformed)
}

impl<T: DeserializeOwned + JsonSchema + Send + 'static> Params for T {
    fn schema() -> Option<Value> {
        if TypeId::of::<T>() == TypeId::of::<()>() {
            // The two ways to say "none".
            return Some(json!({ "type": ["null", "object"], "maxProperties": 0 }));
        }
        Some(schema_of::<T>(SchemaSettings::draft2020_12().for_deserialize()))
    }

    fn decode(payload: Payload<'_>) -> Result<Self, PayloadError> {
        decode_value(payload.as_slice())
    }
}

impl Params for Raw {
    fn schema() -> Option<Value> {
        None
    }

    fn decode(payload: Payload<'_>) -> Result<Self, PayloadError> {
        check_raw(payload.as_slice())?;
        Ok(Self(payload.into_bytes()))
    }
}

impl<T: Serialize + JsonSchema + Send + 'static> Reply for T {
    fn schema() -> Option<Value> {
        Some(schema_of::<T>(SchemaSettings::draft2020_12().for_serialize()))
    }

    fn encode(self, scratch: &mut Vec<u8>) -> Result<Option<Bytes>> {
        palisade_protocol::encode_value(scratch, &self)?;
        Ok(None)
    }
}

impl Reply for Raw {
    fn schema() -> Option<Value> {
        None
    }

    fn encode(self, _: &mut Vec<u8>) -> Result<Option<Bytes>> {
        Ok(Some(self.0))
    }
}

fn schema_of<T: JsonSchema>(settings: SchemaSettings) -> Value {
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

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
    item: Option<(TypeId, &'static str, fn() -> Value)>,
}

impl Action {
    /// Begins an action. A name has up to 64 letters, digits, `_`, `-` and `.`; the description is for people and agents.
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
    /// The handler is polled in the plugin's event loop and should not compute for long; [`ActionOptions::blocking`] is for that.
    /// When the call is cancelled, the handler's future is dropped at the `.await` where it stands, unless it asked for
    /// [`Call::cancelled`] or [`Call::is_cancelled`] before: then it is left to end by itself.
    pub fn handler<S, H, F, P, R>(self, handler: H) -> Action<S>
    where
        S: Send + Sync + 'static,
        H: Fn(Call<S>, P) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
        P: Params,
        R: Reply,
    {
        Action {
            options: self,
            parameters: P::schema,
            result: R::schema,
            handler: Arc::new(Async { handler, types: PhantomData }),
        }
    }

    /// Completes the action with a handler that blocks or computes. It runs on one of a bounded number of threads, ends early
    /// only by looking at [`Call::is_cancelled`], and may use the `blocking_` functions of streams.
    pub fn blocking<S, H, P, R>(self, handler: H) -> Action<S>
    where
        S: Send + Sync + 'static,
        H: Fn(Call<S>, P) -> Result<R> + Send + Sync + 'static,
        P: Params,
        R: Reply,
    {
        Action {
            options: self,
            parameters: P::schema,
            result: R::schema,
            handler: Arc::new(Blocking { handler: Arc::new(handler), types: PhantomData }),
        }
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
        let item = |stream: Option<Stream>| stream.and_then(|stream| stream.item).map(|(id, name, _)| (id, name));
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
        Self { kind: StreamKind::Items, item: Some((TypeId::of::<T>(), std::any::type_name::<T>(), schema)) }
    }

    fn info(self) -> StreamInfo {
        StreamInfo { kind: self.kind, item: self.item.map(|(_, _, schema)| schema()) }
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

/// The actions of a plugin by name, as the connection uses them.
pub(crate) type Handlers<S> = BTreeMap<String, (Arc<ActionFacts>, Arc<dyn Handler<S>>)>;

/// A handler whose types are known to itself alone.
pub(crate) trait Handler<S>: Send + Sync {
    /// Begins a call. Most calls end in here.
    fn start(&self, call: Call<S>, payload: Payload<'_>) -> Started;
}

/// What is left of a call after its handler was started.
pub(crate) enum Started {
    /// Nothing: it has ended.
    Done,
    /// It waits for something.
    Task(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// It wants a thread.
    Thread(Box<dyn FnOnce() + Send>),
}

struct Async<H, P, R> {
    handler: H,
    types: PhantomData<fn(P) -> R>,
}

impl<S, H, F, P, R> Handler<S> for Async<H, P, R>
where
    S: Send + Sync + 'static,
    H: Fn(Call<S>, P) -> F + Send + Sync,
    F: Future<Output = Result<R>> + Send + 'static,
    P: Params,
    R: Reply,
{
    fn start(&self, call: Call<S>, payload: Payload<'_>) -> Started {
        let exchange = Arc::clone(&call.exchange);
        // `Deserialize` and the part of a handler before its future are an author's code as well.
        let begun = guard(|| P::decode(payload).map(|params| Box::pin((self.handler)(call, params))));
        let future = match begun {
            Ok(Ok(future)) => future,
            Ok(Err(error)) => {
                exchange.finish(Outcome::Failed(Box::new(wrong_params(&error).into_body())));
                return Started::Done;
            }
            Err(panicked) => {
                fail(&exchange, panicked);
                return Started::Done;
            }
        };
        let mut running = Running { future: Some(future), exchange };
        // Most handlers are done at once; a task is made only for the others. Being polled again with another waker is
        // something every future has to put up with.
        match running.poll_once(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(()) => Started::Done,
            Poll::Pending => Started::Task(Box::pin(running)),
        }
    }
}

/// A handler at work.
struct Running<F> {
    future: Option<Pin<Box<F>>>,
    exchange: Arc<Exchange>,
}

impl<F, R> Running<F>
where
    F: Future<Output = Result<R>>,
    R: Reply,
{
    fn poll_once(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let Some(future) = &mut self.future else { return Poll::Ready(()) };
        let exchange = &self.exchange;
        let polled = crate::log::within(exchange, || {
            guard(|| {
                if exchange.cancel_reason().is_some() && !exchange.is_listened_to() {
                    return Poll::Ready(Err(Error::cancelled()));
                }
                future.as_mut().poll(context)
            })
        });
        match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(result)) => {
                self.drop_future();
                finish(&self.exchange, result);
            }
            Err(panicked) => {
                self.drop_future();
                fail(&self.exchange, panicked);
            }
        }
        Poll::Ready(())
    }

    fn drop_future(&mut self) {
        let future = self.future.take();
        if let Err(panicked) = guard(|| drop(future)) {
            fail(&self.exchange, panicked);
        }
    }
}

impl<F, R> Future for Running<F>
where
    F: Future<Output = Result<R>>,
    R: Reply,
{
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        // Before the look at the cancellation, so that one between the two is not missed.
        self.exchange.set_task(context.waker());
        self.poll_once(context)
    }
}

struct Blocking<H, P, R> {
    handler: Arc<H>,
    types: PhantomData<fn(P) -> R>,
}

impl<S, H, P, R> Handler<S> for Blocking<H, P, R>
where
    S: Send + Sync + 'static,
    H: Fn(Call<S>, P) -> Result<R> + Send + Sync + 'static,
    P: Params,
    R: Reply,
{
    fn start(&self, call: Call<S>, payload: Payload<'_>) -> Started {
        let exchange = Arc::clone(&call.exchange);
        match guard(|| P::decode(payload)) {
            Err(panicked) => fail(&exchange, panicked),
            Ok(Err(error)) => exchange.finish(Outcome::Failed(Box::new(wrong_params(&error).into_body()))),
            Ok(Ok(params)) => {
                let handler = Arc::clone(&self.handler);
                return Started::Thread(Box::new(move || {
                    if exchange.cancel_reason().is_some() {
                        exchange.finish(Outcome::Cancelled);
                        return;
                    }
                    match crate::log::within(&exchange, || guard(|| handler(call, params))) {
                        Ok(result) => finish(&exchange, result),
                        Err(panicked) => fail(&exchange, panicked),
                    }
                }));
            }
        }
        Started::Done
    }
}

thread_local! {
    static SCRATCH: std::cell::Cell<Vec<u8>> = const { std::cell::Cell::new(Vec::new()) };
}

/// Ends a call with what its handler returned.
fn finish<R: Reply>(exchange: &Arc<Exchange>, result: Result<R>) {
    let reply = match result {
        Ok(reply) => reply,
        Err(error) => return fail_with(exchange, error),
    };
    let mut scratch = SCRATCH.take();
    scratch.clear();
    match guard(|| reply.encode(&mut scratch)) {
        Ok(Ok(None)) if scratch.len() > SMALL_BYTES => {
            exchange.finish(Outcome::Large(Bytes::from(std::mem::take(&mut scratch))));
        }
        Ok(Ok(None)) => exchange.finish(Outcome::Small(&scratch)),
        Ok(Ok(Some(bytes))) if bytes.len() > SMALL_BYTES => exchange.finish(Outcome::Large(bytes)),
        Ok(Ok(Some(bytes))) => exchange.finish(Outcome::Small(&bytes)),
        Ok(Err(error)) => fail_with(exchange, error),
        Err(panicked) => fail(exchange, panicked),
    }
    if scratch.capacity() <= SCRATCH_BYTES_MAX {
        SCRATCH.set(scratch);
    }
}

fn fail_with(exchange: &Arc<Exchange>, error: Error) {
    // A handler that says `cancelled` without having been cancelled has failed in its own way.
    if error.code() == palisade_protocol::ErrorCode::Cancelled && exchange.cancel_reason().is_some() {
        exchange.finish(Outcome::Cancelled);
        return;
    }
    let body = error.into_body();
    exchange.wire.report(exchange.action.as_deref().map(|action| &*action.name), Some(exchange.id), &body);
    exchange.finish(Outcome::Failed(Box::new(body)));
}

fn fail(exchange: &Arc<Exchange>, panicked: Panicked) {
    let error = panicked.into_error("the handler");
    exchange.wire.log(palisade_protocol::Level::Error, error.message().to_owned(), None, Some(exchange.id));
    fail_with(exchange, error);
}
