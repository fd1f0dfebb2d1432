//! An in-memory supervisor, so that a plugin can be tested without a daemon and without a process.
//!
//! ```
//! use palisade_sdk::{Call, Plugin, testing::TestHost};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let plugin = Plugin::new("greeter", "1.0.0")
//!     .action("greet", "Greets.", |_: Call, name: String| async move { Ok(format!("Hello, {name}!")) });
//! let host = TestHost::start(plugin).await.unwrap();
//! let greeting: String = host.call("greet", &"Ada").await.unwrap();
//! assert_eq!(greeting, "Hello, Ada!");
//! assert_eq!(host.stop().await.status(), 0);
//! # }
//! ```
//!
//! The frames are the real ones, through the SDK's real connection; only the pipes are in memory. Tokio's paused time
//! works: a deadline of an hour passes at once. Whatever is waited for is waited for 60 seconds at most (see
//! [`TestHostBuilder::patience`]), so that a plugin that hangs fails its test; with paused time that, too, takes no
//! time. (Paused time stands still while a blocking handler runs; a test of one that may hang does without.)
//!
//! Dropping a [`TestHost`] ends its plugin without asking. A test that wants to see an orderly end calls
//! [`TestHost::stop`].

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use palisade_protocol::{
    Call as CallHead, Cancel, Configure as OfferedConfiguration, Drain, Empty, Extend, Flags, Guarantee, Kind, Limits,
    Log, PIECE_BYTES, Ping, Pong, Progress, Ready, StreamAbort, StreamCredit, StreamKind, StreamOpen, StreamSide,
    decode_value, encode_value,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::DuplexStream;
use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, JoinHandle};

use crate::lifecycle::serve;
use crate::plugin::{Exit, Plugin};
use crate::{CancelReason, Error, ErrorBody, ErrorCode, Raw, Result};

pub use palisade_protocol::{ConfigureAnswer, Configured};

mod book;
mod kept;

use book::{Book, Entry, Shared, read_all, send_pieces, write_all};
use kept::Kept;

/// As much as a pipe holds.
const PIPE_BYTES: usize = 64 << 10;
/// How long anything is waited for, unless said otherwise.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a plugin on pipes in memory, for tests that speak frames themselves: what is written to the first stream
/// reaches the plugin, what it writes comes from the second. Dropping the first is the end of input. The last one
/// stands for SIGTERM.
pub fn spawn<S: Send + Sync + 'static>(
    plugin: Plugin<S>,
) -> (DuplexStream, DuplexStream, JoinHandle<Exit>, oneshot::Sender<()>) {
    let (to_plugin, from_host) = tokio::io::duplex(PIPE_BYTES);
    let (to_host, from_plugin) = tokio::io::duplex(PIPE_BYTES);
    let (terminate, terminated) = oneshot::channel();
    let terminated = async move {
        // A sender that is dropped has not sent the signal.
        if terminated.await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    let life = tokio::spawn(serve(plugin, from_host, to_host, terminated));
    (to_plugin, from_plugin, life, terminate)
}

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// Well, with this result.
    Ok(Raw),
    /// With this error.
    Err(ErrorBody),
    /// Because it was cancelled.
    Cancelled,
}

/// What a supervisor says to a plugin and what it allows; begins with [`TestHost::builder`].
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it starts a plugin"]
pub struct TestHostBuilder {
    configuration: Value,
    permissions: Vec<String>,
    guarantees: Vec<Guarantee>,
    limits: Limits,
    features: Vec<String>,
    kept: Kept,
    secrets: BTreeMap<String, String>,
    patience: Duration,
}

impl TestHostBuilder {
    /// The operator's configuration: anything that can be written as JSON.
    ///
    /// # Panics
    /// When it cannot.
    pub fn configuration(mut self, configuration: impl Serialize) -> Self {
        self.configuration =
            serde_json::to_value(configuration).expect("a test's configuration can be written as JSON");
        self
    }

    /// The permissions that were granted.
    pub fn permissions<T: Into<String>>(mut self, permissions: impl IntoIterator<Item = T>) -> Self {
        self.permissions = permissions.into_iter().map(Into::into).collect();
        self
    }

    /// What confines the plugin.
    pub fn guarantees(mut self, guarantees: Vec<Guarantee>) -> Self {
        self.guarantees = guarantees;
        self
    }

    /// The limits that `Welcome` sets.
    pub fn limits(mut self, frame_bytes_max: u32, payload_bytes_max: u64, credit_bytes: u32) -> Self {
        self.limits = Limits { frame_bytes_max, payload_bytes_max, credit_bytes, ..self.limits };
        self
    }

    /// A supervisor that knows only these features of the protocol: `streams`, `continue`, `configure`.
    pub fn features<T: Into<String>>(mut self, features: impl IntoIterator<Item = T>) -> Self {
        self.features = features.into_iter().map(Into::into).collect();
        self
    }

    /// The schema version of the stored state.
    pub fn state_schema(mut self, version: u32) -> Self {
        self.kept.schema = Some(version);
        self
    }

    /// A secret that is set, and that the plugin is given when it asks for it. A secret of any other name is one that is not set.
    pub fn secret(mut self, name: &str, value: &str) -> Self {
        self.secrets.insert(name.to_owned(), value.to_owned());
        self
    }

    /// What the plugin has kept already: a key and its value, anything that can be written as JSON.
    ///
    /// # Panics
    /// When it cannot.
    pub fn kept(mut self, key: &str, value: impl Serialize) -> Self {
        let value = serde_json::to_value(value).expect("what a test has kept can be written as JSON");
        self.kept.put(key, value);
        self
    }

    /// How long anything is waited for.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts the plugin and waits until it is ready and has answered its first ping.
    ///
    /// # Errors
    /// What the plugin refused with, when it did not initialize or its description is wrong; `timeout` beyond the
    /// patience.
    pub async fn start<S: Send + Sync + 'static>(self, plugin: Plugin<S>) -> Result<TestHost> {
        plugin.check()?;
        let identity = (plugin.id.clone(), plugin.version.clone());
        let (to_plugin, from_plugin, life, terminate) = spawn(plugin);
        let book = Arc::new(Shared {
            book: Mutex::new(Book {
                next_id: 2,
                limits: self.limits,
                kept: self.kept.clone(),
                secrets: self.secrets.clone(),
                ..Book::default()
            }),
            changed: Notify::new(),
            outgoing: Notify::new(),
            patience: self.patience,
            continues: self.features.iter().any(|feature| feature == "continue"),
            life: Mutex::new(Some(life)),
        });
        let tasks = vec![
            tokio::spawn(write_all(Arc::clone(&book), to_plugin)).abort_handle(),
            tokio::spawn(read_all(Arc::clone(&book), from_plugin, self, identity)).abort_handle(),
        ];
        let mut host = TestHost { shared: book, tasks, terminate: Some(terminate), ready: None };
        let ready =
            host.shared.wait("Ready", |book| book.ready.take().map(Ok).or_else(|| book.refused().map(Err))).await??;
        host.ready = Some(ready);
        host.ping(true).await?;
        Ok(host)
    }
}

/// A supervisor in memory, with one plugin.
pub struct TestHost {
    shared: Arc<Shared>,
    tasks: Vec<AbortHandle>,
    terminate: Option<oneshot::Sender<()>>,
    ready: Option<Ready>,
}

impl fmt::Debug for TestHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestHost").finish_non_exhaustive()
    }
}

impl TestHost {
    /// Starts the plugin with an empty configuration and the usual limits.
    ///
    /// # Errors
    /// As [`TestHostBuilder::start`].
    pub async fn start<S: Send + Sync + 'static>(plugin: Plugin<S>) -> Result<Self> {
        Self::builder().start(plugin).await
    }

    /// Begins with the usual: no configuration, no permissions, the default limits, all features.
    pub fn builder() -> TestHostBuilder {
        TestHostBuilder {
            configuration: Value::Null,
            permissions: Vec::new(),
            guarantees: Vec::new(),
            limits: Limits::default(),
            features: palisade_protocol::FEATURES.iter().map(|feature| feature.name().to_owned()).collect(),
            kept: Kept::default(),
            secrets: BTreeMap::new(),
            patience: PATIENCE,
        }
    }

    /// What the plugin said about itself: its identity and its actions, with their schemas.
    ///
    /// # Panics
    /// Never: a host that was started has it.
    #[must_use]
    pub fn ready(&self) -> &Ready {
        self.ready.as_ref().expect("a host that was started has seen Ready")
    }

    /// Calls an action and waits for its result.
    ///
    /// # Errors
    /// What the plugin answered; `cancelled` when the call was cancelled; `execution_failed` when the result is not an
    /// `R`.
    pub async fn call<R: DeserializeOwned>(
        &self,
        action: &str,
        params: &(impl Serialize + ?Sized),
    ) -> Result<R, ErrorBody> {
        self.begin(action, params).result().await
    }

    /// Begins a call without a deadline.
    pub fn begin(&self, action: &str, params: &(impl Serialize + ?Sized)) -> TestCall {
        self.begin_with(action, params, None, Some("uid:1000"))
    }

    /// Begins a call that is cancelled, as the supervisor does it, when its deadline passes.
    pub fn begin_within(&self, action: &str, params: &(impl Serialize + ?Sized), within: Duration) -> TestCall {
        self.begin_with(action, params, Some(within), Some("uid:1000"))
    }

    /// Begins a call for a caller of one's own choice.
    ///
    /// # Panics
    /// When the parameters cannot be encoded.
    pub fn begin_with(
        &self,
        action: &str,
        params: &(impl Serialize + ?Sized),
        within: Option<Duration>,
        caller: Option<&str>,
    ) -> TestCall {
        let mut payload = Vec::new();
        encode_value(&mut payload, params).expect("a test's parameters can be encoded");
        self.begin_raw(action, payload.into(), within, caller)
    }

    /// Begins a call with parameters that are encoded already.
    pub fn begin_raw(&self, action: &str, payload: Bytes, within: Option<Duration>, caller: Option<&str>) -> TestCall {
        let deadline_ms = within.map(|within| u64::try_from(within.as_millis()).unwrap_or(u64::MAX));
        let head = CallHead { action, deadline_ms, caller, ..CallHead::default() };
        let mut book = self.shared.book();
        let id = book.next_id;
        book.next_id += 2;
        let credit = book.limits.credit_bytes;
        book.calls.insert(id, Entry::new(credit));
        let is_long = self.shared.continues && payload.len() > PIECE_BYTES;
        let (first, rest) = if is_long { payload.split_at(PIECE_BYTES) } else { (&payload[..], &[][..]) };
        book.send(Kind::Call, if is_long { Flags::MORE } else { Flags::NONE }, id, &head, first);
        drop(book);
        self.shared.outgoing.notify_one();
        let mut tasks = Vec::new();
        if is_long {
            let (shared, rest) = (Arc::clone(&self.shared), payload.slice_ref(rest));
            tasks.push(
                tokio::spawn(async move { send_pieces(&shared, id, Kind::Continue, rest, true).await }).abort_handle(),
            );
        }
        if let Some(within) = within {
            let shared = Arc::clone(&self.shared);
            let at_deadline = async move {
                // This is the caller's deadline itself.
                tokio::time::sleep(within).await;
                if shared.book().calls.get(&id).is_some_and(|call| call.outcome.is_none()) {
                    shared.send(Kind::Cancel, id, &Cancel { reason: CancelReason::Deadline }, &[]);
                }
            };
            tasks.push(tokio::spawn(at_deadline).abort_handle());
        }
        TestCall { shared: Arc::clone(&self.shared), id, tasks }
    }

    /// Pings the plugin, with its health check or without.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn ping(&self, health: bool) -> Result<Pong> {
        self.ping_with(Ping { health, self_test: false }).await
    }

    /// Has the plugin test itself, as a version does that is tried.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn self_test(&self) -> Result<Pong> {
        self.ping_with(Ping { health: true, self_test: true }).await
    }

    async fn ping_with(&self, ping: Ping) -> Result<Pong> {
        let id = {
            let mut book = self.shared.book();
            let id = book.next_id;
            book.next_id += 2;
            id
        };
        self.shared.send(Kind::Ping, id, &ping, &[]);
        self.shared.wait("Pong", |book| book.pongs.remove(&id)).await
    }

    /// Offers the plugin another configuration, and waits for what it says to it.
    ///
    /// # Errors
    /// When it does not answer.
    ///
    /// # Panics
    /// When the configuration cannot be written as JSON.
    pub async fn configure(&self, configuration: impl Serialize) -> Result<Configured> {
        let configuration = serde_json::to_value(configuration).expect("a test's configuration can be written as JSON");
        let id = {
            let mut book = self.shared.book();
            let id = book.next_id;
            book.next_id += 2;
            id
        };
        self.shared.send(Kind::Configure, id, &OfferedConfiguration { configuration }, &[]);
        self.shared.wait("Configured", |book| book.configured.remove(&id)).await
    }

    /// The log lines that have come so far.
    #[must_use]
    pub fn logs(&self) -> Vec<Log> {
        self.shared.book().logs.clone()
    }

    /// Waits for a log line with that message, and returns it.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn log(&self, message: &str) -> Result<Log> {
        self.shared
            .wait(&format!("the log line `{message}`"), |book| {
                book.logs.iter().find(|log| log.message == message).cloned()
            })
            .await
    }

    /// How often, for how long and why the plugin asked for more time.
    #[must_use]
    pub fn extends(&self) -> Vec<Extend> {
        self.shared.book().extends.clone()
    }

    /// What the plugin did against the protocol's rules: nothing, with this SDK.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        self.shared.book().violations.clone()
    }

    /// The value that the plugin keeps under that key.
    #[must_use]
    pub fn kept(&self, key: &str) -> Option<Value> {
        self.shared.book().kept.values.get(key).map(|(value, _)| value.clone())
    }

    /// The schema version of what it keeps.
    #[must_use]
    pub fn kept_schema(&self) -> Option<u32> {
        self.shared.book().kept.stored_schema()
    }

    /// Drains the plugin and waits until it says that all is done.
    ///
    /// # Errors
    /// When it does not.
    pub async fn drain(&self, within: Duration) -> Result<()> {
        self.begin_drain(within);
        self.drained().await
    }

    /// Asks the plugin to drain, without waiting for it.
    pub fn begin_drain(&self, within: Duration) {
        let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
        self.shared.send(Kind::Drain, 0, &Drain { within_ms, reason: "test".to_owned() }, &[]);
    }

    /// Waits until the plugin says that it is drained.
    ///
    /// # Errors
    /// When it does not.
    pub async fn drained(&self) -> Result<()> {
        self.shared.wait("Drained", |book| book.drained.then_some(())).await
    }

    /// Closes the connection, as the supervisor does it to end a plugin, and waits for its end.
    ///
    /// # Panics
    /// When the plugin does not end within the patience.
    pub async fn stop(self) -> Exit {
        self.shared.book().closing = true;
        self.shared.outgoing.notify_one();
        self.ended().await
    }

    /// Does what SIGTERM does, and waits for the plugin's end.
    ///
    /// # Panics
    /// When the plugin does not end within the patience.
    pub async fn terminate(mut self) -> Exit {
        if let Some(terminate) = self.terminate.take() {
            // A plugin that has ended already need not be told.
            let _ = terminate.send(());
        }
        self.ended().await
    }

    async fn ended(self) -> Exit {
        let life = self.shared.life.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        let life = life.expect("a host is ended once, by the call that consumes it");
        let ended = tokio::time::timeout(self.shared.patience, life).await;
        ended.expect("the plugin ends within the patience").expect("the plugin's life does not panic")
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
        let life = self.shared.life.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(life) = life {
            life.abort();
        }
    }
}

/// A call as its caller has it.
pub struct TestCall {
    shared: Arc<Shared>,
    id: u64,
    tasks: Vec<AbortHandle>,
}

impl fmt::Debug for TestCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TestCall").field("id", &self.id).finish_non_exhaustive()
    }
}

impl TestCall {
    /// Its id, as in logs.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Cancels it, on behalf of the caller.
    pub fn cancel(&self) {
        self.cancel_for(CancelReason::Caller);
    }

    /// Cancels it for another reason.
    pub fn cancel_for(&self, reason: CancelReason) {
        self.shared.send(Kind::Cancel, self.id, &Cancel { reason }, &[]);
    }

    /// Waits for progress that was not seen yet; `None` when the call ends without.
    ///
    /// # Errors
    /// When neither comes.
    pub async fn progress(&self) -> Result<Option<Progress>> {
        self.shared
            .wait("progress", |book| {
                let call = book.calls.get_mut(&self.id)?;
                match call.progress.take() {
                    Some(progress) => Some(Some(progress)),
                    None => call.outcome.is_some().then_some(None),
                }
            })
            .await
    }

    /// Sends one item of the input stream, which is opened by the first. Waits for credit.
    ///
    /// # Errors
    /// The error with which the plugin asked to stop; `cancelled` when the call has ended.
    ///
    /// # Panics
    /// When the item cannot be encoded.
    pub async fn send(&self, item: &(impl Serialize + ?Sized)) -> Result<()> {
        let mut payload = Vec::new();
        encode_value(&mut payload, item).expect("a test's item can be encoded");
        self.open_input(StreamKind::Items);
        send_pieces(&self.shared, self.id, Kind::StreamData, payload.into(), true).await
    }

    /// Sends some bytes of the input stream, which is opened by the first. Waits for credit.
    ///
    /// # Errors
    /// As [`TestCall::send`].
    pub async fn send_bytes(&self, bytes: impl Into<Bytes>) -> Result<()> {
        self.open_input(StreamKind::Bytes);
        send_pieces(&self.shared, self.id, Kind::StreamData, bytes.into(), false).await
    }

    /// Opens the input stream, if it is not open yet.
    pub fn open_input(&self, kind: StreamKind) {
        let is_first = match self.shared.book().calls.get_mut(&self.id) {
            Some(call) => !std::mem::replace(&mut call.input_opened, true),
            None => false,
        };
        if is_first {
            self.shared.send(Kind::StreamOpen, self.id, &StreamOpen { kind }, &[]);
        }
    }

    /// Ends the input stream.
    pub fn end_input(&self) {
        self.shared.send(Kind::StreamEnd, self.id, &Empty {}, &[]);
    }

    /// Ends the input stream with an error.
    pub fn abort_input(&self, error: impl Into<ErrorBody>) {
        let abort = StreamAbort { by: StreamSide::Sender, error: error.into() };
        self.shared.send(Kind::StreamAbort, self.id, &abort, &[]);
    }

    /// Asks the plugin to stop its output stream.
    pub fn stop_output(&self, error: impl Into<ErrorBody>) {
        let abort = StreamAbort { by: StreamSide::Receiver, error: error.into() };
        if let Some(call) = self.shared.book().calls.get_mut(&self.id) {
            call.output_stopped = true;
        }
        self.shared.send(Kind::StreamAbort, self.id, &abort, &[]);
    }

    /// Waits for the next item of the output stream; `None` at its end. Credit is granted as items are taken.
    ///
    /// # Errors
    /// The error with which the stream or the call ended; `execution_failed` when the item is not a `T`.
    pub async fn next<T: DeserializeOwned>(&self) -> Result<Option<T>, ErrorBody> {
        match self.next_bytes().await? {
            None => Ok(None),
            Some(bytes) => decode(&bytes).map(Some),
        }
    }

    /// Waits for the next bytes of the output stream, as [`TestCall::next`].
    ///
    /// # Errors
    /// The error with which the stream or the call ended.
    pub async fn next_bytes(&self) -> Result<Option<Bytes>, ErrorBody> {
        let next = self
            .shared
            .wait("the output stream", |book| {
                let call = book.calls.get_mut(&self.id)?;
                if let Some((bytes, charged)) = call.items.pop_front() {
                    let grant = call.receive.consumed(charged);
                    if let Some(bytes) = grant
                        && call.outcome.is_none()
                    {
                        book.send(Kind::StreamCredit, Flags::NONE, self.id, &StreamCredit { bytes }, &[]);
                        self.shared.outgoing.notify_one();
                    }
                    return Some(Ok(Some(bytes)));
                }
                match (&call.output_end, &call.outcome) {
                    (Some(Ok(())), _) => Some(Ok(None)),
                    (Some(Err(error)), _) | (None, Some(Outcome::Err(error))) => Some(Err(error.clone())),
                    (None, Some(Outcome::Cancelled)) => Some(Err(Error::cancelled().into_body())),
                    (None, Some(Outcome::Ok(_))) => Some(Ok(None)),
                    (None, None) => None,
                }
            })
            .await;
        next.map_err(ErrorBody::from)?
    }

    /// Waits for the end of the call.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn outcome(&self) -> Result<Outcome> {
        self.shared.wait("the call's end", |book| book.calls.get(&self.id)?.outcome.clone()).await
    }

    /// How the call ended, if it has.
    #[must_use]
    pub fn ended(&self) -> Option<Outcome> {
        self.shared.book().calls.get(&self.id)?.outcome.clone()
    }

    /// Waits for the result.
    ///
    /// # Errors
    /// As [`TestHost::call`].
    pub async fn result<R: DeserializeOwned>(&self) -> Result<R, ErrorBody> {
        match self.outcome().await.map_err(ErrorBody::from)? {
            Outcome::Ok(result) => decode(result.bytes()),
            Outcome::Err(error) => Err(error),
            Outcome::Cancelled => Err(Error::cancelled().into_body()),
        }
    }
}

impl Drop for TestCall {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ErrorBody> {
    decode_value(bytes)
        .map_err(|error| ErrorBody::new(ErrorCode::ExecutionFailed, format!("not the expected type: {error}")))
}
