//! What is on its way out, and which exchanges are under way: the part of the connection that handlers share with it.
//!
//! Two lanes. Small frames stand in `control`, in the order in which they were written; payloads wait in their
//! exchange's own queue, until there is credit for them. The connection takes all of the first and then one piece after
//! another of the second, so that a small frame waits behind one piece at most, and a stream without credit holds up
//! nobody.
//!
//! Invariants: nothing is written under an id after its terminal frame; logs and progress, which a handler can make
//! without waiting, are bounded by dropping, and everything else by waiting. Locks: an exchange's before this one's,
//! never both ways.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::Waker;

use bytes::Bytes;
use palisade_protocol::{
    ErrorBody, ErrorCode, Flags, HostCall, Kind, Level, Limits, Log, Pong, StreamCredit, encode, encode_parts,
};
use serde::Serialize;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::error::fits;
use crate::exchange::{Answer, Exchange};
use crate::panic::guard;
use crate::secret;
use crate::text::truncate;
use crate::{Error, Result};

/// An empty body.
pub(crate) const EMPTY: &[u8] = &[0x80];
/// Most bytes of log lines that wait to be written; lines beyond it are dropped and counted.
const LOG_BYTES_MAX: usize = 256 << 10;
/// Longest message of one log line.
const LOG_MESSAGE_BYTES_MAX: usize = 8 << 10;
/// With so many bytes of small frames waiting, no further frames are read until the supervisor takes some.
const BACKLOG_BYTES_MAX: usize = 1 << 20;
/// How many bytes of small frames and small pieces are written at once.
const BATCH_BYTES: usize = 64 << 10;
/// A control buffer that is empty gives back what it holds beyond this.
const IDLE_CAPACITY: usize = 64 << 10;
/// Most host calls under way at once, as the protocol says.
const HOST_CALLS_MAX: usize = 64;

/// What both ends agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) limits: Limits,
    pub(crate) streams: bool,
    pub(crate) continues: bool,
}

impl Terms {
    /// Largest payload behind a body of that size.
    pub(crate) fn payload_bytes_max(&self, body_bytes: usize) -> u64 {
        if self.continues { self.limits.payload_bytes_max } else { self.frame_payload_bytes_max(body_bytes) }
    }

    /// The same of what goes in one frame.
    pub(crate) fn frame_payload_bytes_max(&self, body_bytes: usize) -> u64 {
        u64::from(self.limits.frame_bytes_max).saturating_sub(body_bytes as u64)
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self { limits: Limits::default(), streams: true, continues: true }
    }
}

/// Ids are handed out in order by the other end, which is trusted; one multiplication spreads them well enough.
#[derive(Debug, Default)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

type Exchanges = HashMap<u64, Arc<Exchange>, BuildHasherDefault<IdHasher>>;

#[derive(Debug, Default)]
struct Lanes {
    control: Vec<u8>,
    log_bytes: usize,
    logs_dropped: u64,
    /// Exchanges whose queue may have a piece to send.
    ready: VecDeque<Arc<Exchange>>,
    /// Exchanges with progress to tell.
    news: VecDeque<Arc<Exchange>>,
    exchanges: Exchanges,
    host_calls: usize,
    next_host_call: u64,
    /// Set while the connection waits.
    driver: Option<Waker>,
    closed: bool,
}

/// The plugin's end of the connection, as handlers see it.
pub(crate) struct Wire {
    lanes: Mutex<Lanes>,
    terms: OnceLock<Terms>,
    /// Told whenever the last call under way ends.
    pub(crate) idle: Notify,
    pub(crate) log_level: Level,
    on_error: Option<Box<ErrorHook>>,
}

/// An author's `on_error`.
pub(crate) type ErrorHook = dyn Fn(&Failure<'_>) + Send + Sync;

/// Something that failed, as `on_error` is told.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Failure<'a> {
    /// The action; absent when a hook failed.
    pub action: Option<&'a str>,
    /// The id of the call, as in logs; absent when a hook failed.
    pub call: Option<u64>,
    /// What the caller, or the supervisor, is told.
    pub error: &'a ErrorBody,
}

/// What is being written at the moment: small frames and the header of the piece whose payload is `tail`.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) head: Vec<u8>,
    pub(crate) written: usize,
    pub(crate) tail: Bytes,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.written == self.head.len() && self.tail.is_empty()
    }

    /// That many bytes more are written.
    pub(crate) fn advance(&mut self, bytes: usize) {
        let of_head = bytes.min(self.head.len() - self.written);
        self.written += of_head;
        let of_tail = bytes - of_head;
        if of_tail > 0 {
            self.tail = self.tail.slice(of_tail..);
        }
        if self.written == self.head.len() {
            self.head.clear();
            self.written = 0;
        }
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire").finish_non_exhaustive()
    }
}

impl Wire {
    pub(crate) fn new(log_level: Level, on_error: Option<Box<ErrorHook>>) -> Arc<Self> {
        Arc::new(Self {
            lanes: Mutex::new(Lanes { next_host_call: 1, ..Lanes::default() }),
            terms: OnceLock::new(),
            idle: Notify::new(),
            log_level,
            on_error,
        })
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        // Nothing that can panic half-way runs under this lock.
        self.lanes.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn agree(&self, terms: Terms) {
        // A second Welcome is a violation and does not come here.
        let _ = self.terms.set(terms);
    }

    pub(crate) fn terms(&self) -> Terms {
        self.terms.get().copied().unwrap_or_default()
    }

    /// Writes small frames.
    pub(crate) fn write(&self, frames: impl FnOnce(&mut Vec<u8>)) {
        let mut lanes = self.lanes();
        if lanes.closed {
            return;
        }
        frames(&mut lanes.control);
        let driver = lanes.driver.take();
        drop(lanes);
        wake(driver);
    }

    pub(crate) fn send<M: Serialize>(&self, kind: Kind, id: u64, message: &M) {
        self.write(|out| encode(out, kind, Flags::NONE, id, message, &[]));
    }

    pub(crate) fn grant(&self, id: u64, bytes: u32) {
        self.send(Kind::StreamCredit, id, &StreamCredit { bytes });
    }

    /// Writes a call's last frame, before which `frames` may put others, and forgets the call.
    pub(crate) fn end(&self, exchange: &Exchange, listed: bool, frames: impl FnOnce(&mut Vec<u8>)) {
        let mut lanes = self.lanes();
        let gone = if listed { lanes.exchanges.remove(&exchange.id) } else { None };
        let idle = gone.is_some() && lanes.is_idle();
        if !lanes.closed {
            frames(&mut lanes.control);
        }
        let driver = lanes.driver.take();
        drop(lanes);
        wake(driver);
        if idle {
            self.idle.notify_waiters();
        }
    }

    /// The exchange's queue may have something to send.
    pub(crate) fn ready(&self, exchange: &Arc<Exchange>) {
        let mut lanes = self.lanes();
        if lanes.closed {
            return;
        }
        lanes.ready.push_back(Arc::clone(exchange));
        let driver = lanes.driver.take();
        drop(lanes);
        wake(driver);
    }

    /// The exchange has progress to tell.
    pub(crate) fn news(&self, exchange: &Arc<Exchange>) {
        let mut lanes = self.lanes();
        if lanes.closed {
            return;
        }
        lanes.news.push_back(Arc::clone(exchange));
        let driver = lanes.driver.take();
        drop(lanes);
        wake(driver);
    }

    pub(crate) fn enlist(&self, exchange: &Arc<Exchange>) {
        self.lanes().exchanges.insert(exchange.id, Arc::clone(exchange));
    }

    pub(crate) fn find(&self, id: u64) -> Option<Arc<Exchange>> {
        self.lanes().exchanges.get(&id).cloned()
    }

    /// Forgets an exchange whose last frame has gone out.
    pub(crate) fn forget(&self, id: u64) {
        let mut lanes = self.lanes();
        let gone = lanes.exchanges.remove(&id);
        let idle = gone.is_some() && lanes.is_idle();
        drop(lanes);
        if idle {
            self.idle.notify_waiters();
        }
    }

    /// Calls under way.
    pub(crate) fn calls(&self) -> Vec<Arc<Exchange>> {
        self.lanes().exchanges.values().filter(|exchange| exchange.is_call()).cloned().collect()
    }

    pub(crate) fn calls_count(&self) -> usize {
        let lanes = self.lanes();
        lanes.exchanges.len() - lanes.host_calls
    }

    /// Waits until no call is under way. Cancel safe.
    pub(crate) async fn until_idle(&self) {
        loop {
            let idle = self.idle.notified();
            tokio::pin!(idle);
            // Enabled before the look, so that an end between the two is not missed.
            idle.as_mut().enable();
            if self.calls_count() == 0 {
                return;
            }
            idle.await;
        }
    }

    pub(crate) fn pong(&self, id: u64, unhealthy: Option<String>) {
        let lanes = self.lanes();
        let calls = lanes.exchanges.values().filter(|exchange| exchange.is_call());
        let (count, oldest) = calls.fold((0_u32, None::<Instant>), |(count, oldest), call| {
            (count + 1, Some(oldest.map_or(call.started, |oldest| oldest.min(call.started))))
        });
        drop(lanes);
        let age = oldest.map_or(0, |started| u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        self.send(Kind::Pong, id, &Pong { calls: count, oldest_call_ms: age, unhealthy });
    }

    /// Writes a log line, or drops it when too many wait.
    pub(crate) fn log(&self, level: Level, mut message: String, fields: Option<serde_json::Value>, call: Option<u64>) {
        if level < self.log_level {
            return;
        }
        truncate(&mut message, LOG_MESSAGE_BYTES_MAX);
        let mut log = Log { level, message, fields, call };
        if log.fields.is_some() && !fits(&log) {
            log.fields =
                Some(serde_json::json!({ "left_out": "the fields were larger or deeper than a log line's may be" }));
        }
        let mut lanes = self.lanes();
        if lanes.closed {
            return;
        }
        if lanes.log_bytes > LOG_BYTES_MAX {
            lanes.logs_dropped += 1;
            return;
        }
        lanes.write_log(&log);
        let driver = lanes.driver.take();
        drop(lanes);
        wake(driver);
    }

    /// Tells the author's `on_error`.
    pub(crate) fn report(&self, action: Option<&str>, call: Option<u64>, error: &ErrorBody) {
        if let Some(hook) = &self.on_error
            && let Err(panicked) = guard(|| hook(&Failure { action, call, error }))
        {
            self.log(Level::Error, panicked.into_error("on_error").message().to_owned(), None, call);
        }
    }

    /// Begins a host call; its reply comes through the receiver.
    pub(crate) fn ask(
        self: &Arc<Self>,
        op: &str,
        call: Option<u64>,
        params: Vec<u8>,
    ) -> Result<oneshot::Receiver<Answer>> {
        let limit = self.terms().frame_payload_bytes_max(params_body_bytes(op));
        if params.len() as u64 > limit {
            let message =
                format!("the parameters of `{op}` have {} bytes, more than the limit of {limit}", params.len());
            return Err(Error::resource_exhausted(message));
        }
        let (reply, receiver) = oneshot::channel();
        let mut lanes = self.lanes();
        if lanes.closed {
            return Err(Error::unavailable("the connection to the supervisor is closed"));
        }
        if lanes.host_calls >= HOST_CALLS_MAX {
            return Err(Error::new(
                ErrorCode::Overloaded,
                format!("{HOST_CALLS_MAX} host calls are under way, which is the most there may be"),
            ));
        }
        let id = lanes.next_host_call;
        lanes.next_host_call += 2;
        lanes.host_calls += 1;
        let exchange = Exchange::host_call(id, Arc::clone(self), op == secret::GET, reply);
        lanes.exchanges.insert(id, Arc::clone(&exchange));
        drop(lanes);
        let mut body = Vec::new();
        encode(&mut body, Kind::HostCall, Flags::NONE, id, &HostCall { op, call }, &[]);
        body.drain(..palisade_protocol::HEADER_BYTES);
        exchange.send_host_call(body, Bytes::from(params));
        Ok(receiver)
    }

    /// A host call has its answer, or nobody waits for it any more.
    pub(crate) fn answered(&self, id: u64) {
        let mut lanes = self.lanes();
        if lanes.exchanges.remove(&id).is_some() {
            lanes.host_calls -= 1;
        }
    }

    /// Whether a host call of that id was ever begun.
    pub(crate) fn has_asked(&self, id: u64) -> bool {
        id < self.lanes().next_host_call
    }

    /// Whether reading should wait until the supervisor has taken what is written.
    pub(crate) fn is_backlogged(&self) -> bool {
        self.lanes().control.len() > BACKLOG_BYTES_MAX
    }

    /// Takes what is to be written next.
    pub(crate) fn fill(&self, batch: &mut Batch) {
        let mut lanes = self.lanes();
        if lanes.logs_dropped > 0 && lanes.log_bytes <= LOG_BYTES_MAX / 2 {
            let dropped = std::mem::take(&mut lanes.logs_dropped);
            let message = format!("{dropped} log lines were dropped: they came faster than the supervisor takes them");
            lanes.write_log(&Log { level: Level::Warn, message, fields: None, call: None });
        }
        std::mem::swap(&mut lanes.control, &mut batch.head);
        if batch.head.is_empty() {
            for buffer in [&mut lanes.control, &mut batch.head] {
                if buffer.capacity() > IDLE_CAPACITY {
                    *buffer = Vec::new();
                }
            }
        }
        lanes.log_bytes = 0;
        let news = std::mem::take(&mut lanes.news);
        let bulk = !lanes.ready.is_empty();
        drop(lanes);
        for exchange in news {
            exchange.write_progress(&mut batch.head);
        }
        while bulk && batch.head.len() < BATCH_BYTES && batch.tail.is_empty() {
            let Some(exchange) = self.next_ready() else { break };
            exchange.cut(batch);
        }
    }

    /// Takes the small frames that were written since the batch was begun.
    pub(crate) fn catch_up(&self, head: &mut Vec<u8>) {
        let mut lanes = self.lanes();
        head.append(&mut lanes.control);
        lanes.log_bytes = 0;
    }

    fn next_ready(&self) -> Option<Arc<Exchange>> {
        self.lanes().ready.pop_front()
    }

    /// Leaves word whom to wake when there is something to write; `false` when there is already.
    pub(crate) fn park(&self, waker: &Waker) -> bool {
        let mut lanes = self.lanes();
        if !(lanes.control.is_empty() && lanes.ready.is_empty() && lanes.news.is_empty()) {
            return false;
        }
        if lanes.driver.as_ref().is_none_or(|driver| !driver.will_wake(waker)) {
            lanes.driver = Some(waker.clone());
        }
        true
    }

    /// Whether everything is handed to the connection.
    pub(crate) fn is_flushed(&self) -> bool {
        let lanes = self.lanes();
        lanes.control.is_empty() && lanes.ready.is_empty() && lanes.news.is_empty()
    }

    /// From here on nothing is written; whoever waits for an answer gets an error.
    pub(crate) fn close(&self) {
        let mut lanes = self.lanes();
        lanes.closed = true;
        lanes.control = Vec::new();
        lanes.ready = VecDeque::new();
        lanes.news = VecDeque::new();
        lanes.host_calls = 0;
        let exchanges = std::mem::take(&mut lanes.exchanges);
        drop(lanes);
        for exchange in exchanges.into_values() {
            exchange.abandon();
        }
        self.idle.notify_waiters();
    }
}

impl Lanes {
    fn is_idle(&self) -> bool {
        self.exchanges.len() == self.host_calls
    }

    fn write_log(&mut self, log: &Log) {
        let before = self.control.len();
        encode(&mut self.control, Kind::Log, Flags::NONE, 0, log, &[]);
        self.log_bytes += self.control.len() - before;
    }
}

fn wake(driver: Option<Waker>) {
    if let Some(driver) = driver {
        driver.wake();
    }
}

/// Encodes a frame whose body is empty.
pub(crate) fn encode_plain(out: &mut Vec<u8>, kind: Kind, flags: Flags, id: u64, payload: &[u8]) {
    encode_parts(out, kind, flags, id, EMPTY, payload);
}

/// At least how long the body of a host call of that name is.
const fn params_body_bytes(op: &str) -> usize {
    op.len() + 64
}

/// Begins a frame whose payload of that many bytes is written separately.
pub(crate) fn encode_head(out: &mut Vec<u8>, kind: Kind, flags: Flags, id: u64, body: &[u8], payload_bytes: usize) {
    // Pieces are far shorter than a frame's limit, which is a `u32`.
    let len = u32::try_from(body.len() + payload_bytes).unwrap_or(u32::MAX);
    out.extend_from_slice(&palisade_protocol::Header { len, kind: kind as u8, flags, id }.bytes());
    out.extend_from_slice(body);
}
