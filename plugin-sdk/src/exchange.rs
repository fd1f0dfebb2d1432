//! One call, or one host call: its streams, its queue, its end.
//!
//! The connection and the handler both hold it. Everything that either does to it happens under its own lock, which is
//! never held across author's code or an await.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Waker;

use bytes::Bytes;
use palisade_protocol::{CancelReason, Cancelled, CreditError, ErrorBody, Flags, Kind, Progress, encode};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::Error;
use crate::action::ActionFacts;
use crate::wire::{EMPTY, Wire, encode_plain};

mod inflow;
mod outflow;

use inflow::{Inflow, Joining};
use outflow::Out;

/// Results up to this size go with the small frames; larger ones are pieces.
pub(crate) const SMALL_BYTES: usize = 8 << 10;

/// One call or host call.
pub(crate) struct Exchange {
    pub(crate) id: u64,
    pub(crate) wire: Arc<Wire>,
    pub(crate) started: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) caller: Option<Arc<str>>,
    /// Absent for a host call.
    pub(crate) action: Option<Arc<ActionFacts>>,
    /// 0, or one more than the reason's place in `REASONS`.
    cancelled: AtomicU8,
    /// Whether the handler has shown that it minds cancellation itself.
    listening: AtomicBool,
    pub(crate) cancel_news: Notify,
    /// Its answer is wiped once it has been read.
    secret: bool,
    /// Whether its handler has yet to get a thread.
    queued: AtomicBool,
    state: Mutex<State>,
}

const REASONS: [CancelReason; 4] =
    [CancelReason::Caller, CancelReason::Deadline, CancelReason::Draining, CancelReason::Other];

#[derive(Default)]
struct State {
    /// The terminal frame is written or stands in the queue.
    ended: bool,
    /// Whether the wire's table has it.
    listed: bool,
    progress: Option<Progress>,
    news_told: bool,
    /// The handler's task, to be woken by a cancel.
    task: Option<Waker>,
    out: Option<Box<Out>>,
    input: Option<Box<Inflow>>,
    joining: Option<Box<Joining>>,
    reply: Option<oneshot::Sender<Answer>>,
}

/// What the supervisor answers to a host call.
pub(crate) type Answer = Result<Bytes, Box<ErrorBody>>;

/// How a call ends.
pub(crate) enum Outcome<'a> {
    Small(&'a [u8]),
    Large(Bytes),
    Failed(Box<ErrorBody>),
    Cancelled,
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Exchange {
    pub(crate) fn call(
        id: u64,
        wire: Arc<Wire>,
        action: Arc<ActionFacts>,
        caller: Option<Arc<str>>,
        started: Instant,
        deadline: Option<Instant>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id,
            wire,
            started,
            deadline,
            caller,
            action: Some(action),
            cancelled: AtomicU8::new(0),
            listening: AtomicBool::new(false),
            cancel_news: Notify::new(),
            secret: false,
            queued: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    pub(crate) fn host_call(id: u64, wire: Arc<Wire>, secret: bool, reply: oneshot::Sender<Answer>) -> Arc<Self> {
        Arc::new(Self {
            id,
            wire,
            started: Instant::now(),
            deadline: None,
            caller: None,
            action: None,
            cancelled: AtomicU8::new(0),
            listening: AtomicBool::new(false),
            cancel_news: Notify::new(),
            secret,
            queued: AtomicBool::new(false),
            state: Mutex::new(State { listed: true, reply: Some(reply), ..State::default() }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic half-way runs under this lock.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn is_call(&self) -> bool {
        self.action.is_some()
    }

    /// Whether its answer is wiped once it has been read.
    pub(crate) fn is_secret(&self) -> bool {
        self.secret
    }

    /// Puts the call into the wire's table, unless it has ended with nothing left to send.
    pub(crate) fn enlist(self: &Arc<Self>) {
        let mut state = self.state();
        let is_done = state.ended && state.out.as_ref().is_none_or(|out| out.is_empty());
        if !state.listed && !is_done {
            state.listed = true;
            self.wire.enlist(self);
        }
    }

    // ---- Cancellation ----

    pub(crate) fn cancel_reason(&self) -> Option<CancelReason> {
        match self.cancelled.load(Ordering::Acquire) {
            0 => None,
            place => Some(REASONS[usize::from(place) - 1]),
        }
    }

    /// The handler minds cancellation itself, so its future is not dropped.
    pub(crate) fn listen(&self) {
        self.listening.store(true, Ordering::Release);
    }

    pub(crate) fn is_listened_to(&self) -> bool {
        self.listening.load(Ordering::Acquire)
    }

    /// Its handler waits for a thread, or has got one.
    pub(crate) fn set_queued(&self, queued: bool) {
        self.queued.store(queued, Ordering::Release);
    }

    pub(crate) fn cancel(self: &Arc<Self>, reason: CancelReason) {
        let place = REASONS.iter().position(|known| *known == reason).unwrap_or(REASONS.len() - 1);
        let place = u8::try_from(place + 1).unwrap_or(1);
        // The first reason stands.
        if self.cancelled.compare_exchange(0, place, Ordering::AcqRel, Ordering::Acquire).is_err() {
            return;
        }
        let mut state = self.state();
        if state.ended {
            // Nobody wants what still waits in the queue. A result whose first piece is out has ended the call already.
            if let Some(out) = &mut state.out
                && !out.is_empty()
                && !out.has_begun_result()
            {
                out.clear();
                self.last_frame(&mut state, |out| encode_cancelled(out, self.id));
            }
            return;
        }
        let is_unbegun = state.joining.is_some() || self.queued.load(Ordering::Acquire);
        let wakers = state.wakers();
        drop(state);
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
        self.cancel_news.notify_waiters();
        if is_unbegun {
            // There is no handler that could end it.
            self.finish(Outcome::Cancelled);
        }
    }

    /// Leaves word which task to wake when the call is cancelled.
    pub(crate) fn set_task(&self, waker: &Waker) {
        let mut state = self.state();
        if state.task.as_ref().is_none_or(|task| !task.will_wake(waker)) {
            state.task = Some(waker.clone());
        }
    }

    // ---- The end ----

    /// Ends the call; what comes after the first end is dropped.
    pub(crate) fn finish(self: &Arc<Self>, outcome: Outcome<'_>) {
        let mut state = self.state();
        if state.ended {
            return;
        }
        let outcome = match outcome {
            Outcome::Small(payload) => {
                self.within_limits(payload.len()).map_or(Outcome::Small(payload), Outcome::Failed)
            }
            Outcome::Large(payload) => {
                self.within_limits(payload.len()).map_or(Outcome::Large(payload), Outcome::Failed)
            }
            other => other,
        };
        state.ended = true;
        state.task = None;
        state.joining = None;
        let reader = state.input.take().and_then(|mut input| input.take_reader());
        let mut sender = None;
        let mut ends_stream = false;
        let mut waits = matches!(outcome, Outcome::Large(_));
        if let Some(out) = &mut state.out {
            sender = out.take_sender();
            if matches!(outcome, Outcome::Cancelled) {
                out.clear();
            }
            // A bad end aborts the stream by itself.
            ends_stream = out.is_stream_open() && matches!(outcome, Outcome::Small(_) | Outcome::Large(_));
            waits |= !out.is_empty();
        }
        let id = self.id;
        if waits {
            let progress = state.progress.take();
            if progress.is_some() {
                self.wire.write(|out| encode_progress(out, id, progress));
            }
            let out = state.out.get_or_insert_with(|| Out::new(&self.wire));
            if ends_stream {
                let mut bytes = Vec::new();
                encode_plain(&mut bytes, Kind::StreamEnd, Flags::NONE, id, &[]);
                out.push_frame(bytes, false);
            }
            match outcome {
                Outcome::Large(payload) => out.push_payload(Kind::Ok, EMPTY.to_vec(), payload, self.wire.terms()),
                other => {
                    let mut bytes = Vec::new();
                    encode_outcome(&mut bytes, id, &other);
                    out.push_frame(bytes, true);
                }
            }
            self.schedule(&mut state);
        } else {
            self.last_frame(&mut state, |out| {
                if ends_stream {
                    encode_plain(out, Kind::StreamEnd, Flags::NONE, id, &[]);
                }
                encode_outcome(out, id, &outcome);
            });
        }
        drop(state);
        for waker in [reader, sender].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Writes the terminal frame past an empty queue.
    fn last_frame(&self, state: &mut State, frames: impl FnOnce(&mut Vec<u8>)) {
        let progress = state.progress.take();
        let listed = std::mem::take(&mut state.listed);
        self.wire.end(self, listed, |out| {
            encode_progress(out, self.id, progress);
            frames(out);
        });
    }

    fn within_limits(&self, bytes: usize) -> Option<Box<ErrorBody>> {
        let limit = self.wire.terms().payload_bytes_max(EMPTY.len());
        (bytes as u64 > limit).then(|| {
            let message = format!("the result has {bytes} bytes, more than the limit of {limit}");
            let error = Error::resource_exhausted(message).with_hint("send it as an output stream");
            Box::new(error.into_body())
        })
    }

    /// The connection is gone.
    pub(crate) fn abandon(&self) {
        let gone = u8::try_from(REASONS.len()).unwrap_or(1);
        let _ = self.cancelled.compare_exchange(0, gone, Ordering::AcqRel, Ordering::Acquire);
        let mut state = self.state();
        state.ended = true;
        // Whoever waits for the reply learns it from the sender's end.
        state.reply = None;
        let wakers = state.wakers();
        state.out = None;
        state.input = None;
        drop(state);
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
        self.cancel_news.notify_waiters();
    }

    // ---- Progress ----

    /// Tells progress; the newest replaces one that has not gone out yet.
    pub(crate) fn progress(self: &Arc<Self>, progress: Progress) {
        let mut state = self.state();
        if state.ended {
            return;
        }
        state.progress = Some(progress);
        if !std::mem::replace(&mut state.news_told, true) {
            self.wire.news(self);
        }
    }

    pub(crate) fn write_progress(&self, out: &mut Vec<u8>) {
        let mut state = self.state();
        state.news_told = false;
        encode_progress(out, self.id, state.progress.take());
    }

    /// The answer to a host call.
    pub(crate) fn reply(&self, answer: Answer) {
        let reply = self.state().reply.take();
        self.wire.answered(self.id);
        if let Some(reply) = reply {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(answer);
        }
    }
}

/// The payload of a frame as the connection has it.
#[derive(Debug)]
pub(crate) enum Arrived<'a> {
    /// In the read buffer.
    Slice(&'a [u8]),
    /// Read behind the pieces that came before, all in one buffer.
    Joined(Vec<u8>),
}

/// What joining a piece came to.
pub(crate) enum Joined {
    More,
    Whole(Vec<u8>),
    TooLong { limit: u64 },
    Ended,
}

/// What the supervisor did against the rules within one exchange.
#[derive(Debug)]
pub(crate) enum Violation {
    StreamNotOpen,
    MoreOfBytes,
    EndWithinItem,
    NothingToContinue,
    PayloadTooLong { limit: u64 },
    Credit(CreditError),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StreamNotOpen => f.write_str("the stream is not open"),
            Self::MoreOfBytes => f.write_str("a stream of bytes has no MORE"),
            Self::EndWithinItem => f.write_str("the stream ended within an item"),
            Self::NothingToContinue => f.write_str("no payload is to be continued"),
            Self::PayloadTooLong { limit } => write!(f, "more than {limit} bytes in one payload"),
            Self::Credit(error) => write!(f, "credit exceeded: {error}"),
        }
    }
}

impl State {
    fn wakers(&mut self) -> [Option<Waker>; 3] {
        [
            self.task.take(),
            self.out.as_mut().and_then(|out| out.take_sender()),
            self.input.as_mut().and_then(|input| input.take_reader()),
        ]
    }
}

fn encode_outcome(out: &mut Vec<u8>, id: u64, outcome: &Outcome<'_>) {
    match outcome {
        Outcome::Small(payload) => encode_plain(out, Kind::Ok, Flags::NONE, id, payload),
        Outcome::Large(payload) => encode_plain(out, Kind::Ok, Flags::NONE, id, payload),
        Outcome::Failed(error) => encode(out, Kind::Err, Flags::NONE, id, &**error, &[]),
        Outcome::Cancelled => encode_cancelled(out, id),
    }
}

fn encode_cancelled(out: &mut Vec<u8>, id: u64) {
    encode(out, Kind::Cancelled, Flags::NONE, id, &Cancelled::default(), &[]);
}

fn encode_progress(out: &mut Vec<u8>, id: u64, progress: Option<Progress>) {
    if let Some(progress) = progress {
        encode(out, Kind::Progress, Flags::NONE, id, &progress, &[]);
    }
}
