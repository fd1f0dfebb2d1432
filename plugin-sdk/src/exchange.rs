//! One call, or one host call: its streams, its queue, its end.
//!
//! The connection and the handler both hold it. Everything that either does to it happens under its own lock, which is never
//! held across author's code or an await.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use palisade_protocol::{
    CancelReason, Cancelled, CreditError, ErrorBody, ErrorCode, Flags, Kind, PIECE_BYTES, Progress, ReceiveCredit,
    SendCredit, StreamAbort, StreamKind, StreamOpen, StreamSide, encode,
};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::action::ActionFacts;
use crate::wire::{Batch, EMPTY, Wire, encode_head, encode_plain, new_out};
use crate::{Error, Result};

/// Results up to this size go with the small frames; larger ones are pieces.
pub(crate) const SMALL_BYTES: usize = 8 << 10;
/// With so many bytes of a stream waiting for credit or for the pipe, its sender waits.
const QUEUED_BYTES_MAX: usize = 256 << 10;
/// Pieces up to this size are copied into the batch; larger ones are written from where they are.
const COPY_BYTES: usize = 8 << 10;

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
    reply: Option<oneshot::Sender<Result<Bytes, Box<ErrorBody>>>>,
}

/// What waits to go out.
pub(crate) struct Out {
    queue: VecDeque<Entry>,
    queued_bytes: usize,
    credit: SendCredit,
    stream: OutStream,
    /// The sender that waits for room.
    sender: Option<Waker>,
    /// Whether the wire's list of ready ones has it.
    scheduled: bool,
}

enum OutStream {
    Unopened,
    Open(StreamKind),
    Ended,
    /// The receiver wants no more.
    Stopped(Box<ErrorBody>),
}

enum Entry {
    /// An encoded small frame.
    Frame { bytes: Vec<u8>, is_last: bool },
    /// A payload, or what is left of it.
    Payload { kind: Kind, body: Vec<u8>, rest: Bytes, begun: bool, cut: Cut },
}

/// How a payload may be cut.
#[derive(Clone, Copy, PartialEq)]
enum Cut {
    /// Into frames that say `MORE`.
    Marked,
    /// Into frames that need no mark.
    Anywhere,
    /// Not at all.
    Never,
}

/// A stream that comes in.
struct Inflow {
    kind: Option<StreamKind>,
    queue: VecDeque<(Bytes, u64)>,
    partial: Option<(Vec<u8>, u64)>,
    credit: ReceiveCredit,
    end: Option<Result<(), Box<ErrorBody>>>,
    /// Why nobody reads it any more; the sender was told.
    stopped: Option<Box<ErrorBody>>,
    taken: bool,
    reader: Option<Waker>,
}

/// A payload that arrives in pieces.
struct Joining {
    bytes: Vec<u8>,
    credit: ReceiveCredit,
}

/// How a call ends.
pub(crate) enum Outcome<'a> {
    Small(&'a [u8]),
    Large(Bytes),
    Failed(Box<ErrorBody>),
    Cancelled,
}

impl Out {
    pub(crate) fn new(credit_bytes: u32) -> Self {
        Self {
            queue: VecDeque::new(),
            queued_bytes: 0,
            credit: SendCredit::new(credit_bytes),
            stream: OutStream::Unopened,
            sender: None,
            scheduled: false,
        }
    }

    fn push(&mut self, entry: Entry) {
        self.queued_bytes += entry.bytes();
        self.queue.push_back(entry);
    }

    fn clear(&mut self) {
        self.queue.clear();
        self.queued_bytes = 0;
    }

    /// How many payload bytes of the first entry may go now; `None` when it has to wait.
    fn allowance(&self) -> Option<usize> {
        match self.queue.front()? {
            Entry::Frame { .. } => Some(0),
            Entry::Payload { kind, rest, begun, cut, .. } => {
                let wanted = if *cut == Cut::Never { rest.len() } else { rest.len().min(PIECE_BYTES) };
                if !(*begun || kind.needs_credit()) {
                    return Some(wanted);
                }
                // The body of a piece is the empty map, one byte.
                let wanted_len = wanted as u64 + 1;
                let len = self.credit.next_len(wanted_len);
                if len < 2 && wanted > 0 || len == 0 || (*cut == Cut::Never && len < wanted_len) {
                    return None;
                }
                usize::try_from(len - 1).ok()
            }
        }
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Frame { bytes, .. } => bytes.len(),
            Self::Payload { rest, .. } => rest.len(),
        }
    }
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
            state: Mutex::default(),
        })
    }

    pub(crate) fn host_call(
        id: u64,
        wire: Arc<Wire>,
        reply: oneshot::Sender<Result<Bytes, Box<ErrorBody>>>,
    ) -> Arc<Self> {
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

    /// Puts the call into the wire's table, unless it has ended with nothing left to send.
    pub(crate) fn enlist(self: &Arc<Self>) {
        let mut state = self.state();
        let is_done = state.ended && state.out.as_ref().is_none_or(|out| out.queue.is_empty());
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
                && !out.queue.is_empty()
                && !out.queue.iter().any(|entry| matches!(entry, Entry::Payload { kind: Kind::Ok, begun: true, .. }))
            {
                out.clear();
                self.last_frame(&mut state, |out| encode_cancelled(out, self.id));
            }
            return;
        }
        let was_joining = state.joining.is_some();
        let wakers = state.wakers();
        drop(state);
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
        self.cancel_news.notify_waiters();
        if was_joining {
            // Its handler has not begun.
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
            Outcome::Small(payload) => self.within_limits(payload.len()).map_or(Outcome::Small(payload), Outcome::Failed),
            Outcome::Large(payload) => self.within_limits(payload.len()).map_or(Outcome::Large(payload), Outcome::Failed),
            other => other,
        };
        state.ended = true;
        state.task = None;
        state.joining = None;
        let reader = state.input.take().and_then(|input| input.reader);
        let sender = state.out.as_mut().and_then(|out| out.sender.take());
        if matches!(outcome, Outcome::Cancelled)
            && let Some(out) = &mut state.out
        {
            out.clear();
        }
        let ends_stream = matches!(outcome, Outcome::Small(_) | Outcome::Large(_))
            && state.out.as_ref().is_some_and(|out| matches!(out.stream, OutStream::Open(_)));
        let id = self.id;
        let waits = state.out.as_ref().is_some_and(|out| !out.queue.is_empty());
        if waits || matches!(outcome, Outcome::Large(_)) {
            let progress = state.progress.take();
            if progress.is_some() {
                self.wire.write(|out| encode_progress(out, id, progress));
            }
            let out = state.out.get_or_insert_with(|| new_out(&self.wire));
            if ends_stream {
                let mut bytes = Vec::new();
                encode_plain(&mut bytes, Kind::StreamEnd, Flags::NONE, id, &[]);
                out.push(Entry::Frame { bytes, is_last: false });
            }
            out.push(match outcome {
                Outcome::Large(payload) => Entry::Payload {
                    kind: Kind::Ok,
                    body: EMPTY.to_vec(),
                    rest: payload,
                    begun: false,
                    cut: if self.wire.terms().continues { Cut::Marked } else { Cut::Never },
                },
                other => {
                    let mut bytes = Vec::new();
                    encode_outcome(&mut bytes, id, &other);
                    Entry::Frame { bytes, is_last: true }
                }
            });
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
        let terms = self.wire.terms();
        let limit = if terms.continues {
            terms.limits.payload_bytes_max
        } else {
            u64::from(terms.limits.frame_bytes_max) - 1
        };
        (bytes as u64 > limit).then(|| {
            let message = format!("the result has {bytes} bytes, more than the limit of {limit}");
            let error = Error::resource_exhausted(message).with_hint("send it as an output stream");
            Box::new(error.into_body())
        })
    }

    /// The connection is gone.
    pub(crate) fn abandon(&self) {
        let mut state = self.state();
        state.ended = true;
        state.out = None;
        // Whoever waits for the reply learns it from the sender's end.
        state.reply = None;
        let wakers = state.wakers();
        state.input = None;
        drop(state);
        for waker in wakers.into_iter().flatten() {
            waker.wake();
        }
        let gone = u8::try_from(REASONS.len()).unwrap_or(1);
        let _ = self.cancelled.compare_exchange(0, gone, Ordering::AcqRel, Ordering::Acquire);
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

    // ---- Out ----

    fn schedule(self: &Arc<Self>, state: &mut State) {
        let Some(out) = &mut state.out else { return };
        if !out.scheduled && out.allowance().is_some() {
            out.scheduled = true;
            self.wire.ready(self);
        }
    }

    /// Moves the next piece from the queue into the batch.
    pub(crate) fn cut(self: &Arc<Self>, batch: &mut Batch) {
        let mut state = self.state();
        let Some(out) = &mut state.out else { return };
        out.scheduled = false;
        let Some(allowed) = out.allowance() else { return };
        let mut is_last = false;
        match out.queue.front_mut() {
            None => return,
            Some(Entry::Frame { bytes, is_last: last }) => {
                batch.head.extend_from_slice(bytes);
                out.queued_bytes -= bytes.len();
                is_last = *last;
                out.queue.pop_front();
            }
            Some(Entry::Payload { kind, body, rest, begun, cut }) => {
                let piece = rest.split_to(allowed);
                let (frame_kind, body) = if *begun {
                    (if *kind == Kind::StreamData { Kind::StreamData } else { Kind::Continue }, EMPTY)
                } else {
                    (*kind, &**body)
                };
                if frame_kind.needs_credit() {
                    out.credit.spend(allowed as u64 + 1);
                }
                let flags = if *cut == Cut::Marked && !rest.is_empty() { Flags::MORE } else { Flags::NONE };
                *begun = true;
                out.queued_bytes -= allowed;
                encode_head(&mut batch.head, frame_kind, flags, self.id, body, piece.len());
                if piece.len() <= COPY_BYTES {
                    batch.head.extend_from_slice(&piece);
                } else {
                    batch.tail = piece;
                }
                if rest.is_empty() {
                    is_last = *kind == Kind::Ok;
                    out.queue.pop_front();
                }
            }
        }
        let sender = if out.queued_bytes < QUEUED_BYTES_MAX { out.sender.take() } else { None };
        self.schedule(&mut state);
        let listed = is_last && std::mem::take(&mut state.listed);
        drop(state);
        if let Some(sender) = sender {
            sender.wake();
        }
        if listed {
            self.wire.forget(self.id);
        }
    }

    pub(crate) fn credit(self: &Arc<Self>, bytes: u32) -> Result<(), CreditError> {
        let mut state = self.state();
        let out = state.out.get_or_insert_with(|| new_out(&self.wire));
        out.credit.grant(bytes)?;
        self.schedule(&mut state);
        Ok(())
    }

    pub(crate) fn send_host_call(self: &Arc<Self>, body: Vec<u8>, params: Bytes) {
        let mut state = self.state();
        let cut = if self.wire.terms().continues { Cut::Marked } else { Cut::Never };
        let out = state.out.get_or_insert_with(|| new_out(&self.wire));
        out.push(Entry::Payload { kind: Kind::HostCall, body, rest: params, begun: false, cut });
        self.schedule(&mut state);
    }

    /// Opens the output stream.
    pub(crate) fn open_output(self: &Arc<Self>, kind: StreamKind) -> Result<()> {
        if !self.wire.terms().streams {
            return Err(Error::new(ErrorCode::StreamingNotSupported, "the supervisor takes no streams"));
        }
        let mut state = self.state();
        if state.ended {
            return Err(Error::cancelled());
        }
        let out = state.out.get_or_insert_with(|| new_out(&self.wire));
        match out.stream {
            OutStream::Unopened => {
                out.stream = OutStream::Open(kind);
                self.wire.send(Kind::StreamOpen, self.id, &StreamOpen { kind });
                Ok(())
            }
            OutStream::Stopped(_) => Ok(()),
            OutStream::Open(_) | OutStream::Ended => Err(Error::failed("the call's output was opened before")),
        }
    }

    /// Waits until the output stream takes more.
    pub(crate) fn poll_room(&self, context: &Context<'_>) -> Poll<Result<()>> {
        let mut state = self.state();
        if state.ended || self.cancel_reason().is_some() {
            return Poll::Ready(Err(Error::cancelled()));
        }
        let Some(out) = &mut state.out else { return Poll::Ready(Err(Error::failed("the output is not open"))) };
        match &out.stream {
            OutStream::Stopped(error) => Poll::Ready(Err((**error).clone().into())),
            OutStream::Open(_) if out.queued_bytes < QUEUED_BYTES_MAX => Poll::Ready(Ok(())),
            OutStream::Open(_) => {
                out.sender = Some(context.waker().clone());
                Poll::Pending
            }
            OutStream::Ended | OutStream::Unopened => Poll::Ready(Err(Error::failed("the output has ended"))),
        }
    }

    /// Queues one item, or some bytes. To be called when `poll_room` has said yes.
    pub(crate) fn push_output(self: &Arc<Self>, payload: Bytes) -> Result<()> {
        let terms = self.wire.terms();
        let mut state = self.state();
        let Some(out) = &mut state.out else { return Err(Error::failed("the output is not open")) };
        let cut = match out.stream {
            OutStream::Open(StreamKind::Bytes) if payload.is_empty() => return Ok(()),
            OutStream::Open(StreamKind::Bytes) => Cut::Anywhere,
            OutStream::Open(StreamKind::Items) if terms.continues => Cut::Marked,
            OutStream::Open(StreamKind::Items) => Cut::Never,
            OutStream::Stopped(ref error) => return Err((**error).clone().into()),
            OutStream::Ended | OutStream::Unopened => return Err(Error::failed("the output has ended")),
        };
        let limit = match cut {
            Cut::Anywhere => u64::MAX,
            Cut::Marked => terms.limits.payload_bytes_max,
            Cut::Never => u64::from(terms.limits.frame_bytes_max.min(terms.limits.credit_bytes)) - 1,
        };
        if payload.len() as u64 > limit {
            let message = format!("an item of {} bytes, more than the limit of {limit}", payload.len());
            return Err(Error::resource_exhausted(message));
        }
        out.push(Entry::Payload { kind: Kind::StreamData, body: EMPTY.to_vec(), rest: payload, begun: false, cut });
        self.schedule(&mut state);
        Ok(())
    }

    /// Ends the output stream: well, or with an error.
    pub(crate) fn close_output(self: &Arc<Self>, end: Result<(), Box<ErrorBody>>) {
        let mut state = self.state();
        let ended = state.ended;
        let Some(out) = &mut state.out else { return };
        if ended || !matches!(out.stream, OutStream::Open(_)) {
            return;
        }
        out.stream = OutStream::Ended;
        let mut bytes = Vec::new();
        match end {
            Ok(()) => encode_plain(&mut bytes, Kind::StreamEnd, Flags::NONE, self.id, &[]),
            Err(error) => {
                let abort = StreamAbort { by: StreamSide::Sender, error: *error };
                encode(&mut bytes, Kind::StreamAbort, Flags::NONE, self.id, &abort, &[]);
            }
        }
        if out.queue.is_empty() {
            self.wire.write(|control| control.extend_from_slice(&bytes));
        } else {
            out.push(Entry::Frame { bytes, is_last: false });
            self.schedule(&mut state);
        }
    }

    /// The receiver of the output wants no more.
    pub(crate) fn output_stopped(self: &Arc<Self>, error: ErrorBody) {
        let mut state = self.state();
        let out = state.out.get_or_insert_with(|| new_out(&self.wire));
        if matches!(out.stream, OutStream::Unopened | OutStream::Open(_)) {
            out.stream = OutStream::Stopped(Box::new(error));
            // Nothing more belongs on the stream, not even its end; what ends the call still goes.
            out.queue.retain(|entry| {
                matches!(entry, Entry::Frame { is_last: true, .. } | Entry::Payload { kind: Kind::Ok, .. })
            });
            out.queued_bytes = out.queue.iter().map(Entry::bytes).sum();
        }
        let sender = out.sender.take();
        self.schedule(&mut state);
        drop(state);
        if let Some(sender) = sender {
            sender.wake();
        }
    }

    // ---- In ----

    /// The caller opens its stream. A stream that the action does not read is refused, which the caller is told.
    pub(crate) fn input_opened(self: &Arc<Self>, kind: StreamKind) -> Result<(), &'static str> {
        let declared = self.action.as_ref().and_then(|action| action.input);
        let mut state = self.state();
        if state.ended {
            return Ok(());
        }
        let input = state.input.get_or_insert_with(|| Inflow::new(&self.wire));
        if input.kind.is_some() {
            return Err("a second StreamOpen for one call");
        }
        input.kind = Some(kind);
        if let Some(error) = &input.stopped {
            // The handler let go of it before it was opened.
            let abort = StreamAbort { by: StreamSide::Receiver, error: (**error).clone() };
            self.wire.send(Kind::StreamAbort, self.id, &abort);
        } else if declared != Some(kind) {
            let action = self.action.as_ref().map_or("", |action| &action.name);
            let message = match declared {
                None => format!("the action `{action}` reads no stream"),
                Some(declared) => {
                    format!("the action `{action}` reads a stream of {}, not of {}", name(declared), name(kind))
                }
            };
            let error = ErrorBody::new(ErrorCode::StreamingNotSupported, message);
            input.stop(&self.wire, self.id, error);
        }
        Ok(())
    }

    /// Stream data arrived. `joined` is the partial item if the connection took it out to read into.
    pub(crate) fn input_data(
        &self,
        len: u32,
        more: bool,
        payload: Arrived<'_>,
    ) -> Result<(), Violation> {
        let terms = self.wire.terms();
        let mut state = self.state();
        if state.ended {
            return Ok(());
        }
        let Some(input) = &mut state.input else { return Err(Violation::StreamNotOpen) };
        let Some(kind) = input.kind else { return Err(Violation::StreamNotOpen) };
        if input.end.is_some() {
            return Err(Violation::StreamNotOpen);
        }
        // What was under way when the sender was told to stop is charged and dropped.
        input.credit.charge(len).map_err(Violation::Credit)?;
        let charged = u64::from(len);
        if input.stopped.is_some() {
            return Ok(());
        }
        if more && kind == StreamKind::Bytes {
            return Err(Violation::MoreOfBytes);
        }
        let (mut bytes, before) = match (input.partial.take(), payload) {
            (partial, Arrived::Joined(bytes)) => (bytes, partial.map_or(0, |(_, charged)| charged)),
            (Some((mut bytes, charged)), Arrived::Slice(slice)) => {
                bytes.extend_from_slice(slice);
                (bytes, charged)
            }
            (None, Arrived::Slice(slice)) => (slice.to_vec(), 0),
        };
        if bytes.len() as u64 > terms.limits.payload_bytes_max && kind == StreamKind::Items {
            return Err(Violation::PayloadTooLong { limit: terms.limits.payload_bytes_max });
        }
        let charged = before + charged;
        let mut grant = None;
        if more {
            let mut charged = charged;
            // With nothing else to read, the only way on is to take the rest of this item.
            if input.queue.is_empty() {
                grant = input.credit.consumed(std::mem::take(&mut charged));
            }
            input.partial = Some((bytes, charged));
        } else {
            bytes.shrink_to(bytes.len() + bytes.len() / 4);
            input.queue.push_back((Bytes::from(bytes), charged));
        }
        let reader = if more { None } else { input.reader.take() };
        if let Some(bytes) = grant {
            self.wire.grant(self.id, bytes);
        }
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(())
    }

    /// Takes out the partial item or payload, for the connection to read the next piece into.
    pub(crate) fn take_joined(&self, kind: Kind) -> Vec<u8> {
        let mut state = self.state();
        match kind {
            Kind::StreamData => state
                .input
                .as_mut()
                .and_then(|input| input.partial.as_mut())
                .map(|(bytes, _)| std::mem::take(bytes))
                .unwrap_or_default(),
            _ => state.joining.as_mut().map(|joining| std::mem::take(&mut joining.bytes)).unwrap_or_default(),
        }
    }

    /// The caller's stream is over: well, or with an error.
    pub(crate) fn input_ended(&self, end: Result<(), Box<ErrorBody>>) -> Result<(), Violation> {
        let mut state = self.state();
        if state.ended {
            return Ok(());
        }
        let Some(input) = &mut state.input else { return Err(Violation::StreamNotOpen) };
        if input.kind.is_none() || input.end.is_some() {
            return Err(Violation::StreamNotOpen);
        }
        if end.is_ok() && input.partial.is_some() {
            return Err(Violation::EndWithinItem);
        }
        input.end = Some(end);
        let reader = input.reader.take();
        drop(state);
        if let Some(reader) = reader {
            reader.wake();
        }
        Ok(())
    }

    /// Hands out the right to read the input, once.
    pub(crate) fn take_input(&self) -> Result<()> {
        let mut state = self.state();
        if state.ended {
            return Err(Error::cancelled());
        }
        let input = state.input.get_or_insert_with(|| Inflow::new(&self.wire));
        if std::mem::replace(&mut input.taken, true) {
            return Err(Error::failed("the call's input was taken before"));
        }
        Ok(())
    }

    pub(crate) fn poll_input(&self, context: &Context<'_>) -> Poll<Result<Option<Bytes>>> {
        let mut state = self.state();
        if state.ended || self.cancel_reason().is_some() {
            return Poll::Ready(Err(Error::cancelled()));
        }
        let Some(input) = &mut state.input else { return Poll::Ready(Err(Error::cancelled())) };
        if let Some((bytes, mut charged)) = input.queue.pop_front() {
            if input.queue.is_empty()
                && let Some((_, partial)) = &mut input.partial
            {
                charged += std::mem::take(partial);
            }
            if let Some(grant) = input.credit.consumed(charged)
                && input.end.is_none()
            {
                self.wire.grant(self.id, grant);
            }
            return Poll::Ready(Ok(Some(bytes)));
        }
        match &input.end {
            Some(Ok(())) => Poll::Ready(Ok(None)),
            Some(Err(error)) => Poll::Ready(Err((**error).clone().into())),
            None => match &input.stopped {
                Some(error) => Poll::Ready(Err((**error).clone().into())),
                None => {
                    input.reader = Some(context.waker().clone());
                    Poll::Pending
                }
            },
        }
    }

    /// The handler wants no more of its input.
    pub(crate) fn drop_input(&self) {
        let mut state = self.state();
        if state.ended {
            return;
        }
        if let Some(input) = &mut state.input
            && input.end.is_none()
            && input.stopped.is_none()
        {
            let error = ErrorBody::new(ErrorCode::Cancelled, "the action reads no further");
            input.stop(&self.wire, self.id, error);
        }
    }

    // ---- Payloads in pieces ----

    /// The payload goes on in further frames.
    pub(crate) fn begin_joining(&self, bytes: Vec<u8>) {
        let credit = ReceiveCredit::new(self.wire.terms().limits.credit_bytes);
        self.state().joining = Some(Box::new(Joining { bytes, credit }));
    }

    /// The next piece of a payload. Returns all of it when it is complete.
    pub(crate) fn join(&self, len: u32, more: bool, payload: Arrived<'_>) -> Result<Joined, Violation> {
        let limit = self.wire.terms().limits.payload_bytes_max;
        let mut state = self.state();
        if state.ended {
            return Ok(Joined::Ended);
        }
        let Some(joining) = &mut state.joining else { return Err(Violation::NothingToContinue) };
        joining.credit.charge(len).map_err(Violation::Credit)?;
        match payload {
            Arrived::Slice(slice) => joining.bytes.extend_from_slice(slice),
            Arrived::Joined(bytes) => joining.bytes = bytes,
        }
        if joining.bytes.len() as u64 > limit {
            return Ok(Joined::TooLong { limit });
        }
        if more {
            if let Some(grant) = joining.credit.consumed(u64::from(len)) {
                self.wire.grant(self.id, grant);
            }
            return Ok(Joined::More);
        }
        let bytes = std::mem::take(&mut joining.bytes);
        state.joining = None;
        Ok(Joined::Whole(bytes))
    }

    pub(crate) fn is_joining(&self) -> bool {
        self.state().joining.is_some()
    }

    /// The answer to a host call.
    pub(crate) fn reply(&self, answer: Result<Bytes, Box<ErrorBody>>) {
        let reply = self.state().reply.take();
        self.wire.answered(self.id);
        if let Some(reply) = reply {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(answer);
        }
    }
}

/// The payload of a frame as the connection has it.
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

impl Inflow {
    fn new(wire: &Wire) -> Box<Self> {
        Box::new(Self {
            kind: None,
            queue: VecDeque::new(),
            partial: None,
            credit: ReceiveCredit::new(wire.terms().limits.credit_bytes),
            end: None,
            stopped: None,
            taken: false,
            reader: None,
        })
    }

    /// Tells the sender to stop, and drops what it still sends.
    fn stop(&mut self, wire: &Wire, id: u64, error: ErrorBody) {
        self.queue.clear();
        self.partial = None;
        if self.kind.is_some() {
            wire.send(Kind::StreamAbort, id, &StreamAbort { by: StreamSide::Receiver, error: error.clone() });
        }
        self.stopped = Some(Box::new(error));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl State {
    fn wakers(&mut self) -> [Option<Waker>; 3] {
        [
            self.task.take(),
            self.out.as_mut().and_then(|out| out.sender.take()),
            self.input.as_mut().and_then(|input| input.reader.take()),
        ]
    }
}

fn name(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Items => "items",
        StreamKind::Bytes => "bytes",
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
