//! A client: one connection that is made again when it is lost, and the requests that go over it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use palisade_protocol as protocol;
use palisade_protocol::SUPERVISOR_ID;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};

use crate::CallError;
use crate::admin::Admin;
use crate::calls::{Begin, Outcome};
use crate::link::{Connection, Handle};
use crate::payload::{FromPayload, IntoPayload, nil};
use crate::running::{Items, Running};
use crate::socket::find_socket;

/// How often a call is written anew because its connection ended before any byte of it was sent.
const ATTEMPTS_MAX: u32 = 3;

/// The pauses between attempts to connect again, the first and the longest.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// No deadline is further away; a longer one means none at all.
const TIMEOUT_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// A client of one supervisor. Cloning it costs a counter, and all clones share one connection, over which any number of calls
/// go at once.
///
/// It belongs to the tokio runtime in which it connected (with time and I/O enabled): a task there drives the connection. When
/// that runtime ends, the next call connects anew from its own.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    /// Where there would have been another one.
    absent: Vec<PathBuf>,
    settings: Settings,
    /// The latest connection, usable or not.
    current: Mutex<Option<Arc<Connection>>>,
    /// Held by the one who connects; the others wait and share what comes of it.
    gate: tokio::sync::Mutex<Option<CallError>>,
    /// Counts failed attempts, so that who waited for one knows that it failed.
    failures: AtomicU64,
}

#[derive(Debug, Clone, Copy)]
struct Settings {
    connect_within: Duration,
    reconnect_within: Duration,
    grace: Duration,
    keepalive: Option<Duration>,
}

/// How a [`Client`] connects.
#[derive(Debug, Clone)]
pub struct Builder {
    path: Option<PathBuf>,
    settings: Settings,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            path: None,
            settings: Settings {
                connect_within: Duration::ZERO,
                reconnect_within: Duration::from_secs(3),
                grace: Duration::from_secs(5),
                keepalive: Some(Duration::from_secs(30)),
            },
        }
    }
}

impl Builder {
    /// The socket; without one, [`default_socket`](crate::default_socket).
    #[must_use]
    pub fn path(mut self, path: impl Into<PathBuf>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// How long the first connection may be tried for, while the supervisor is not there yet. Zero, the default: one attempt.
    #[must_use]
    pub fn connect_within(mut self, within: Duration) -> Self {
        self.settings.connect_within = within;
        self
    }

    /// How long a call that finds the connection lost tries to connect again, with pauses of 10 ms to 500 ms; the call's own
    /// timeout bounds it as well. Three seconds by default; zero: one attempt.
    #[must_use]
    pub fn reconnect_within(mut self, within: Duration) -> Self {
        self.settings.reconnect_within = within;
        self
    }

    /// How long after its timeout a call still waits for the supervisor to say what became of it. Five seconds by default: the
    /// supervisor gives a plugin two to cancel.
    #[must_use]
    pub fn grace(mut self, grace: Duration) -> Self {
        self.settings.grace = grace;
        self
    }

    /// How long the supervisor may be silent while calls are under way before it is asked for a sign of life; silent for as long
    /// again, the connection is given up. 30 seconds by default; `None`: never.
    #[must_use]
    pub fn keepalive(mut self, keepalive: Option<Duration>) -> Self {
        self.settings.keepalive = keepalive;
        self
    }

    /// The client, without connecting yet: its first call does.
    #[must_use]
    pub fn build(self) -> Client {
        let (path, absent) = self.path.map_or_else(find_socket, |path| (path, Vec::new()));
        Client {
            inner: Arc::new(Inner {
                path,
                absent,
                settings: self.settings,
                current: Mutex::new(None),
                gate: tokio::sync::Mutex::new(None),
                failures: AtomicU64::new(0),
            }),
        }
    }

    /// Connects.
    ///
    /// Cancel safe: nothing is left of a connection that was not completed.
    ///
    /// # Errors
    /// [`CallError::NotReachable`] when nobody answers, [`CallError::Refused`] when the supervisor will not talk to this user,
    /// [`CallError::Lost`] when the handshake fails.
    pub async fn connect(self) -> Result<Client, CallError> {
        let client = self.build();
        client.connection().await?;
        Ok(client)
    }
}

impl Client {
    /// Connects to the supervisor at `path`.
    ///
    /// # Errors
    /// As [`Builder::connect`].
    pub async fn connect(path: impl Into<PathBuf>) -> Result<Self, CallError> {
        Self::builder().path(path).connect().await
    }

    /// For a client with settings of its own.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Where the supervisor listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// Calls an action and waits for its result: parameters are anything that serialises (`()` for none) or [`Raw`](crate::Raw),
    /// and so is the result.
    ///
    /// The call has no timeout but the plugin's own; [`Client::request`] sets one. Dropping the future cancels the call.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn call<R: FromPayload>(
        &self,
        plugin: &str,
        action: &str,
        params: impl IntoPayload,
    ) -> Result<R, CallError> {
        self.request(plugin, action).params(params).call().await
    }

    /// A call with more to say about it: version, timeout, streams, progress.
    pub fn request<'a>(&'a self, plugin: &'a str, action: &'a str) -> Request<'a> {
        Request {
            client: self,
            plugin,
            action,
            version: None,
            timeout: None,
            counted_from: None,
            secret: false,
            params: Ok(nil()),
        }
    }

    /// The supervisor's own operations.
    #[must_use]
    pub fn admin(&self) -> Admin<'_> {
        Admin::new(self)
    }

    /// What the supervisor said it is, once connected: `palisaded/0.1.0`.
    #[must_use]
    pub fn supervisor(&self) -> Option<String> {
        let current = self.inner.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().map(|connection| connection.terms().software.clone())
    }

    /// The connection, made if there is none.
    async fn connection(&self) -> Result<Arc<Connection>, CallError> {
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        let inner = &*self.inner;
        let failures = inner.failures.load(Ordering::Acquire);
        let mut gate = inner.gate.lock().await;
        if let Some(connection) = self.current() {
            return Ok(connection);
        }
        if let (Some(error), true) = (&*gate, inner.failures.load(Ordering::Acquire) != failures) {
            return Err(error.clone());
        }
        let had = inner.current.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let within = if had { inner.settings.reconnect_within } else { inner.settings.connect_within };
        let give_up = Instant::now() + within.min(TIMEOUT_MAX);
        let mut pause = PAUSE_FIRST;
        loop {
            let opened = Connection::open(&inner.path, inner.settings.keepalive).await;
            match opened.map_err(|error| error.nor_at(&inner.absent)) {
                Ok(connection) => {
                    *gate = None;
                    *inner.current.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&connection));
                    return Ok(connection);
                }
                Err(error) => {
                    let may_change = matches!(error, CallError::Lost { .. })
                        || (matches!(error, CallError::NotReachable { .. }) && error.is_retryable());
                    let now = Instant::now();
                    if !may_change || give_up <= now {
                        *gate = Some(error.clone());
                        inner.failures.fetch_add(1, Ordering::Release);
                        return Err(error);
                    }
                    sleep(pause.min(give_up - now)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }

    fn current(&self) -> Option<Arc<Connection>> {
        let current = self.inner.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.as_ref().filter(|connection| connection.is_usable()).map(Arc::clone)
    }
}

/// One call that is being put together.
#[derive(Debug)]
#[must_use = "a request does nothing until it is called or started"]
pub struct Request<'a> {
    client: &'a Client,
    plugin: &'a str,
    action: &'a str,
    version: Option<&'a str>,
    timeout: Option<Duration>,
    counted_from: Option<Instant>,
    secret: bool,
    params: Result<Bytes, CallError>,
}

impl<'a> Request<'a> {
    /// The parameters; nil without them. A value that cannot be encoded fails the call, not this.
    pub fn params(mut self, params: impl IntoPayload) -> Self {
        self.params = params.into_payload();
        self
    }

    /// What the client keeps of the parameters is wiped once they are written. Give them as a [`Raw`](crate::Raw) around bytes whose owner
    /// wipes them.
    pub fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Which versions will do: `^1.2`, `~1.2`, `1.*`, `>=1.2, <2`.
    pub fn version(mut self, specifier: &'a str) -> Self {
        self.version = Some(specifier);
        self
    }

    /// How long the call may take, connecting included. The supervisor ends it then; should it not, the client does after a
    /// grace ([`Builder::grace`]).
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// From when the timeout counts, where the call is one step of something that is to take so long altogether. What is told of
    /// a timeout names the whole of it. Without this it counts from the moment of the call.
    pub fn counted_from(mut self, begun: Instant) -> Self {
        self.counted_from = Some(begun);
        self
    }

    /// Makes the call and waits for its result. An output stream, if the action has one, is refused.
    ///
    /// Dropping the future cancels the call.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn call<R: FromPayload>(self) -> Result<R, CallError> {
        let deadline = self.deadline();
        let params = self.params?;
        let Self { plugin, action, version, secret, .. } = self;
        let call = Prepared { plugin, action, version, params: &params, secret };
        for attempt in 1.. {
            let handle = call.begin(self.client, deadline, WithStreams::No).await?;
            // When sending ends early, the call is over, and its outcome says why.
            let _ = handle.send_rest(&params).await;
            match std::future::poll_fn(|cx| handle.poll_outcome(cx)).await {
                Outcome::Lost { sent: false, .. } if attempt < ATTEMPTS_MAX => {}
                outcome => return R::from_payload(outcome.into_result()?, "result"),
            }
        }
        unreachable!("the last attempt returns")
    }

    /// Makes the call and returns as soon as its parameters are on their way, for streams, progress and cancellation.
    ///
    /// Cancel safe: dropping the future cancels the call.
    ///
    /// # Errors
    /// [`CallError`] when the call cannot be made. What becomes of it later is the business of [`Running`].
    pub async fn start(self) -> Result<Running, CallError> {
        let deadline = self.deadline();
        let params = self.params?;
        let Self { plugin, action, version, secret, .. } = self;
        let call = Prepared { plugin, action, version, params: &params, secret };
        let running = Running::new(call.begin(self.client, deadline, WithStreams::Yes).await?);
        let _ = running.handle().send_rest(&params).await;
        Ok(running)
    }

    /// Makes the call and returns its output stream of items. Dropping that cancels the call.
    ///
    /// # Errors
    /// As [`Request::start`].
    pub async fn items<T: FromPayload>(self) -> Result<Items<T>, CallError> {
        Ok(Items::new(self.start().await?))
    }

    fn deadline(&self) -> Option<Deadline> {
        let timeout = self.timeout.filter(|timeout| *timeout < TIMEOUT_MAX)?;
        let at = self.counted_from.unwrap_or_else(Instant::now) + timeout;
        Some(Deadline { at, given_up_at: at + self.client.inner.settings.grace.min(TIMEOUT_MAX), after: timeout })
    }
}

#[derive(Debug, Clone, Copy)]
struct Deadline {
    at: Instant,
    /// When the client does not wait for the supervisor any more.
    given_up_at: Instant,
    after: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum WithStreams {
    No,
    Yes,
}

struct Prepared<'a> {
    plugin: &'a str,
    action: &'a str,
    version: Option<&'a str>,
    params: &'a Bytes,
    secret: bool,
}

impl Prepared<'_> {
    /// Connects if need be, waits for a place among the calls under way, and writes the call.
    async fn begin(
        &self,
        client: &Client,
        deadline: Option<Deadline>,
        with_streams: WithStreams,
    ) -> Result<Handle, CallError> {
        match deadline {
            None => self.begin_untimed(client, None, with_streams).await,
            // Nothing was sent before this is ready, so there is nobody to wait for beyond the timeout itself.
            Some(given) => timeout_at(given.at, self.begin_untimed(client, deadline, with_streams))
                .await
                .unwrap_or(Err(CallError::TimedOut { after: given.after })),
        }
    }

    async fn begin_untimed(
        &self,
        client: &Client,
        deadline: Option<Deadline>,
        with_streams: WithStreams,
    ) -> Result<Handle, CallError> {
        let mut attempt = 1;
        loop {
            let connection = client.connection().await?;
            let begun = match connection.place().await {
                Ok(place) => connection.begin(
                    place,
                    &Begin {
                        call: protocol::Call {
                            action: self.action,
                            plugin: Some(self.plugin),
                            version: self.version,
                            deadline_ms: deadline.map(|deadline| {
                                let left = deadline.at.saturating_duration_since(Instant::now());
                                u64::try_from(left.as_millis()).unwrap_or(u64::MAX)
                            }),
                            caller: None,
                        },
                        payload: self.params,
                        deadline: deadline.map(|deadline| (deadline.given_up_at, deadline.after)),
                        with_streams: with_streams == WithStreams::Yes,
                        secret: self.secret,
                    },
                ),
                Err(error) => Err(error),
            };
            match begun {
                Err(CallError::Lost { sent: false, .. }) if attempt < ATTEMPTS_MAX => attempt += 1,
                result => return result,
            }
        }
    }
}

impl Client {
    pub(crate) fn operation<'a>(&'a self, name: &'a str, params: &impl Serialize) -> Request<'a> {
        self.request(SUPERVISOR_ID, name).params(params)
    }
}
