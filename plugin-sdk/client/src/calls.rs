//! The calls of one connection and what each waits for, without I/O: frames go in, frames to write come out.
//!
//! Every call has one entry, from its first frame until the supervisor answered it and its handles are gone; a call that was
//! dropped keeps a bare entry until the answer, so that no more calls are under way than the supervisor allows. Wakers are
//! collected and woken by the caller, outside the lock.
//!
//! Bounds, per call: what is received but not consumed is at most the credit granted, plus one value that is being joined, of at most
//! `payload_bytes_max`; of progress only the newest is kept.
//! Elsewhere: sockets, tasks and time are in `link`.

mod incoming;

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use palisade_protocol as protocol;
use palisade_protocol::{
    BODY_BYTES_MAX, CancelReason, ErrorBody, ErrorCode, Flags, HEADER_BYTES, Kind, Limits, PIECE_BYTES, ReceiveCredit,
    SendCredit, StreamAbort, StreamKind, StreamOpen, StreamSide, encode,
};
use tokio::time::Instant;

pub(crate) use self::incoming::Violation;
use crate::CallError;
use crate::outbox::Outbox;

/// What of a payload that is cut into pieces goes with the call itself, ahead of all credit. The rest are pieces, which small frames
/// overtake.
const FIRST_PIECE_BYTES: usize = 4 << 10;

/// A call's frame has at most so much beside its names and its payload.
const CALL_BYTES: usize = 256;

/// Why a connection is no more.
#[derive(Debug, Clone)]
pub(crate) enum Loss {
    /// The supervisor said so.
    Refused(Box<ErrorBody>),
    /// It ended: closed, failed, or given up for a reason.
    Ended(String),
}

impl Loss {
    pub(crate) fn error(&self, sent: bool) -> CallError {
        match self {
            Self::Refused(body) => CallError::Refused(body.clone()),
            Self::Ended(reason) => CallError::Lost { reason: reason.clone(), sent },
        }
    }
}

/// How a call ended.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Ok(Bytes),
    Failed(Box<ErrorBody>),
    TimedOut(Duration),
    Lost {
        loss: Arc<Loss>,
        /// Whether the socket took any byte of the call's frame.
        sent: bool,
    },
}

impl Outcome {
    fn error(&self) -> Option<CallError> {
        match self {
            Self::Ok(_) => None,
            Self::Failed(body) => Some(CallError::Remote(body.clone())),
            Self::TimedOut(after) => Some(CallError::TimedOut { after: *after }),
            Self::Lost { loss, sent } => Some(loss.error(*sent)),
        }
    }

    pub(crate) fn into_result(self) -> Result<Bytes, CallError> {
        match self {
            Self::Ok(payload) => Ok(payload),
            other => Err(other.error().expect("all but Ok are errors")),
        }
    }
}

/// The stream that the callee writes.
#[derive(Debug)]
enum Output {
    Unopened,
    Open(StreamKind),
    Ended,
    Aborted(Box<ErrorBody>),
}

/// What the caller wants of the callee's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// Not known yet: it is kept, up to the credit.
    Undecided,
    Yes,
    /// It is aborted as soon as it begins, and what comes of it is dropped.
    No,
}

/// One unit of the callee's stream: a whole item, or some bytes.
#[derive(Debug)]
pub(crate) struct Unit {
    pub(crate) kind: StreamKind,
    pub(crate) payload: Bytes,
    /// What becomes free when it is consumed.
    credit: u64,
}

/// What only a call with streams or progress needs.
#[derive(Debug)]
struct Extra {
    output: Output,
    wanted: Wanted,
    queue: VecDeque<Unit>,
    /// Credit of pieces of the item being joined, which is given back once it is next in the queue.
    withheld: u64,
    output_waker: Option<Waker>,
    progress: Option<protocol::Progress>,
    progress_waker: Option<Waker>,
    /// The callee wants no more input.
    input_refused: bool,
}

#[derive(Debug)]
struct Entry {
    /// Who may still ask: the call itself, its input, output and progress.
    handles: u8,
    outcome: Option<Outcome>,
    /// Whether the supervisor owes no terminal frame any more.
    answered: bool,
    cancel_sent: bool,
    waker: Option<Waker>,
    send_waker: Option<Waker>,
    waits_for_room: bool,
    /// Where its first frame begins in the outbox.
    begins: u64,
    deadline: Option<(Instant, Duration)>,
    /// What may be sent of streams and payload pieces.
    send: SendCredit,
    /// What may be received of them.
    receive: ReceiveCredit,
    /// A value whose last piece is still to come: the result, or an item.
    joining: Option<Vec<u8>>,
    joining_result: bool,
    /// Stream data that was dropped because nobody wants it any more. Its sender was asked to stop, so it gets no credit for that,
    /// unless the result needs it.
    dropped: u64,
    extra: Option<Box<Extra>>,
}

/// Ids are ours, so that a hash that mixes them suffices.
#[derive(Debug, Default, Clone)]
pub(crate) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte) ^ self.0);
        }
    }

    fn write_u64(&mut self, id: u64) {
        // Multiplication spreads the low bits upwards, the shift brings them back to where the table looks.
        let mixed = id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

/// The content of a frame, and whether it may be kept without copying.
pub(crate) enum Content<'a> {
    Borrowed(&'a [u8]),
    Owned(Bytes),
}

impl Content<'_> {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }

    fn payload(self, start: usize) -> Bytes {
        match self {
            Self::Borrowed(bytes) => Bytes::copy_from_slice(&bytes[start..]),
            Self::Owned(bytes) => bytes.slice(start..),
        }
    }
}

/// Why nothing more can be sent on a stream of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SendingIsOver;

/// What a call is begun with.
pub(crate) struct Begin<'a> {
    pub(crate) call: protocol::Call<'a>,
    pub(crate) payload: &'a Bytes,
    pub(crate) deadline: Option<(Instant, Duration)>,
    pub(crate) with_streams: bool,
    /// The payload is wiped from the outbox once it is written.
    pub(crate) secret: bool,
}

/// All calls of one connection.
#[derive(Debug)]
pub(crate) struct Calls {
    pub(crate) outbox: Outbox,
    limits: Limits,
    may_continue: bool,
    entries: HashMap<u64, Entry, BuildHasherDefault<IdHasher>>,
    next_id: u64,
    /// How many entries are owed a terminal frame.
    unanswered: usize,
    /// How many terminal frames came since they were last counted: so many permits are free again.
    answered: usize,
    /// Calls whose next piece waits for room in the outbox.
    waiting_for_room: VecDeque<u64>,
    pub(crate) woken: Vec<Waker>,
    /// Counts frames, so that silence can be told without a clock.
    pub(crate) heard: u64,
    lost: Option<Arc<Loss>>,
}

impl Calls {
    pub(crate) fn new(limits: Limits, may_continue: bool) -> Self {
        Self {
            outbox: Outbox::default(),
            limits,
            may_continue,
            entries: HashMap::default(),
            next_id: 1,
            unanswered: 0,
            answered: 0,
            waiting_for_room: VecDeque::new(),
            woken: Vec::new(),
            heard: 0,
            lost: None,
        }
    }

    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered
    }

    pub(crate) fn take_answered(&mut self) -> usize {
        std::mem::take(&mut self.answered)
    }

    pub(crate) fn lost(&self) -> Option<&Arc<Loss>> {
        self.lost.as_ref()
    }

    /// Takes the next id for something that is not a call.
    pub(crate) fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 2;
        id
    }

    /// How much of a payload goes with the call's first frame; its caller sends the rest in pieces.
    pub(crate) fn first_piece(&self, payload: &Bytes) -> usize {
        if self.may_continue && payload.len() > PIECE_BYTES { FIRST_PIECE_BYTES } else { payload.len() }
    }

    /// Writes the call's first frame, and begins to wait for its answer.
    pub(crate) fn begin(&mut self, begin: &Begin<'_>) -> Result<u64, CallError> {
        let Begin { call, payload, deadline, with_streams, secret } = begin;
        if payload.len() as u64 > self.limits.payload_bytes_max {
            return Err(CallError::invalid(format!(
                "the parameters have {} bytes, more than the {} that a call may carry; send them as a stream",
                payload.len(),
                self.limits.payload_bytes_max
            )));
        }
        let first = self.first_piece(payload);
        let begins = self.outbox.control_end();
        let names = call.action.len() + call.plugin.map_or(0, str::len) + call.version.map_or(0, str::len);
        let room = first + names + CALL_BYTES;
        let lane = if *secret { self.outbox.control_for_secret(room) } else { self.outbox.control_with_room(room) };
        let start = lane.len();
        let flags = if first < payload.len() { Flags::MORE } else { Flags::NONE };
        encode(lane, Kind::Call, flags, self.next_id, call, &payload[..first]);
        let content = lane.len() - start - HEADER_BYTES;
        if content - first > BODY_BYTES_MAX {
            lane.truncate(start);
            return Err(CallError::invalid("the names of plugin, version and action are too long"));
        }
        if content > self.limits.frame_bytes_max as usize {
            lane.truncate(start);
            return Err(CallError::invalid(format!(
                "the parameters have {} bytes, more than the daemon's frame limit of {}",
                payload.len(),
                self.limits.frame_bytes_max
            )));
        }
        let id = self.take_id();
        let extra = with_streams.then(|| {
            Box::new(Extra {
                output: Output::Unopened,
                wanted: Wanted::Undecided,
                queue: VecDeque::new(),
                withheld: 0,
                output_waker: None,
                progress: None,
                progress_waker: None,
                input_refused: false,
            })
        });
        let entry = Entry {
            handles: 1,
            outcome: None,
            answered: false,
            cancel_sent: false,
            waker: None,
            send_waker: None,
            waits_for_room: false,
            begins,
            deadline: *deadline,
            send: SendCredit::new(self.limits.credit_bytes),
            receive: ReceiveCredit::new(self.limits.credit_bytes),
            joining: None,
            joining_result: false,
            dropped: 0,
            extra,
        };
        self.entries.insert(id, entry);
        self.unanswered += 1;
        Ok(id)
    }

    // --- what handles ask for ------------------------------------------------------------------------------------

    pub(crate) fn add_handle(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.handles += 1;
        }
    }

    /// A handle is gone; with the last one the call is forgotten, or cancelled first.
    pub(crate) fn drop_handle(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        entry.handles -= 1;
        if entry.handles == 0 {
            if entry.answered || self.lost.is_some() {
                self.entries.remove(&id);
            } else {
                self.cancel(id, CancelReason::Caller);
                self.reduce(id);
            }
        }
    }

    /// Keeps of a call that nobody waits for only what its terminal frame needs.
    fn reduce(&mut self, id: u64) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.extra = None;
            entry.joining = None;
            entry.deadline = None;
            entry.waker = None;
            entry.send_waker = None;
        }
    }

    /// Asks the callee to stop, once. What has not been written of the call's streams is not sent any more.
    pub(crate) fn cancel(&mut self, id: u64, reason: CancelReason) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.cancel_sent || entry.answered || self.lost.is_some() {
            return;
        }
        entry.cancel_sent = true;
        self.woken.extend(entry.send_waker.take());
        self.outbox.forget_pieces(id, None);
        encode(self.outbox.control(), Kind::Cancel, Flags::NONE, id, &protocol::Cancel { reason }, &[]);
    }

    pub(crate) fn poll_outcome(&mut self, id: u64, cx: &mut Context<'_>) -> Poll<Outcome> {
        let Some(entry) = self.entries.get_mut(&id) else { return Poll::Pending };
        if let Some(outcome) = &mut entry.outcome {
            return Poll::Ready(match outcome {
                // The result is handed out once; its memory is not kept for an output that may still be read.
                Outcome::Ok(payload) => Outcome::Ok(std::mem::take(payload)),
                other => other.clone(),
            });
        }
        keep_waker(&mut entry.waker, cx);
        Poll::Pending
    }

    /// Sends as much of `payload` as credit and room allow now; it is shortened by that.
    pub(crate) fn poll_send(
        &mut self,
        id: u64,
        kind: Kind,
        marked: bool,
        payload: &mut Bytes,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), SendingIsOver>> {
        let Some(entry) = self.entries.get_mut(&id) else { return Poll::Ready(Err(SendingIsOver)) };
        while !payload.is_empty() {
            let refused = kind == Kind::StreamData && entry.extra.as_ref().is_none_or(|extra| extra.input_refused);
            if entry.outcome.is_some() || entry.cancel_sent || refused {
                return Poll::Ready(Err(SendingIsOver));
            }
            if !self.outbox.has_room_for_pieces() {
                if !entry.waits_for_room {
                    entry.waits_for_room = true;
                    self.waiting_for_room.push_back(id);
                }
                keep_waker(&mut entry.send_waker, cx);
                return Poll::Pending;
            }
            let frame_max = u64::from(self.limits.frame_bytes_max).min(PIECE_BYTES as u64 + 1);
            let wanted = (payload.len() as u64 + 1).min(frame_max);
            let len = if marked && !self.may_continue {
                // Without continuation an item is one piece, and goes whole.
                if wanted <= entry.send.left() { wanted } else { 0 }
            } else {
                entry.send.next_len(wanted)
            };
            if len < 2 {
                keep_waker(&mut entry.send_waker, cx);
                return Poll::Pending;
            }
            entry.send.spend(len);
            let piece = payload.split_to(len as usize - 1);
            let flags = if marked && !payload.is_empty() { Flags::MORE } else { Flags::NONE };
            self.outbox.push_piece(kind, flags, id, piece);
        }
        Poll::Ready(Ok(()))
    }

    pub(crate) fn open_input(&mut self, id: u64, kind: StreamKind) {
        let mut frame = Vec::new();
        encode(&mut frame, Kind::StreamOpen, Flags::NONE, id, &StreamOpen { kind }, &[]);
        self.push_if_under_way(id, Kind::StreamOpen, frame);
    }

    pub(crate) fn end_input(&mut self, id: u64) {
        let mut frame = Vec::new();
        encode(&mut frame, Kind::StreamEnd, Flags::NONE, id, &protocol::Empty {}, &[]);
        self.push_if_under_way(id, Kind::StreamEnd, frame);
    }

    pub(crate) fn abort_input(&mut self, id: u64) {
        let mut frame = Vec::new();
        let error = ErrorBody::new(ErrorCode::Cancelled, "the caller gave its input up before the end");
        encode(&mut frame, Kind::StreamAbort, Flags::NONE, id, &StreamAbort { by: StreamSide::Sender, error }, &[]);
        self.outbox.forget_pieces(id, Some(Kind::StreamData));
        self.push_if_under_way(id, Kind::StreamAbort, frame);
    }

    fn push_if_under_way(&mut self, id: u64, kind: Kind, frame: Vec<u8>) {
        let Some(entry) = self.entries.get(&id) else { return };
        let refused = entry.extra.as_ref().is_none_or(|extra| extra.input_refused);
        if entry.outcome.is_none() && !entry.cancel_sent && !refused {
            self.outbox.push_behind_pieces(id, kind, frame);
        }
    }

    /// The caller will read the callee's stream.
    pub(crate) fn want_output(&mut self, id: u64) {
        if let Some(extra) = self.entries.get_mut(&id).and_then(|entry| entry.extra.as_deref_mut()) {
            extra.wanted = Wanted::Yes;
        }
    }

    /// The caller will not read (on in) the callee's stream, unless it said before that it will.
    pub(crate) fn refuse_output_unless_wanted(&mut self, id: u64) {
        let undecided = self
            .entries
            .get(&id)
            .and_then(|entry| entry.extra.as_ref())
            .is_some_and(|extra| extra.wanted == Wanted::Undecided);
        if undecided {
            self.refuse_output(id);
        }
    }

    /// The caller will not read on in the callee's stream.
    pub(crate) fn refuse_output(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        let under_way = entry.outcome.is_none() && !entry.cancel_sent;
        let Some(extra) = entry.extra.as_deref_mut() else { return };
        extra.wanted = Wanted::No;
        let freed: u64 =
            extra.queue.drain(..).map(|unit| unit.credit).sum::<u64>() + std::mem::take(&mut extra.withheld);
        let open = matches!(extra.output, Output::Open(_));
        if !entry.joining_result {
            entry.joining = None;
        }
        entry.dropped += freed;
        if under_way && open {
            stop_output(&mut self.outbox, id);
        }
    }

    pub(crate) fn poll_output(&mut self, id: u64, cx: &mut Context<'_>) -> Poll<Option<Result<Unit, CallError>>> {
        let Some(entry) = self.entries.get_mut(&id) else { return Poll::Ready(None) };
        let Some(extra) = entry.extra.as_deref_mut() else { return Poll::Ready(None) };
        if let Some(unit) = extra.queue.pop_front() {
            let withheld = if extra.queue.is_empty() { std::mem::take(&mut extra.withheld) } else { 0 };
            entry.consume(&mut self.outbox, id, unit.credit + withheld);
            return Poll::Ready(Some(Ok(unit)));
        }
        let end = match (&extra.output, &entry.outcome) {
            (Output::Ended, _) | (Output::Unopened, Some(Outcome::Ok(_))) => None,
            (Output::Aborted(error), _) => Some(CallError::Remote(error.clone())),
            (_, Some(outcome)) => Some(outcome.error().unwrap_or_else(|| {
                let message = "the call ended well, but its output stream was never ended";
                CallError::Remote(Box::new(ErrorBody::new(ErrorCode::ProtocolViolation, message)))
            })),
            (Output::Unopened | Output::Open(_), None) => {
                keep_waker(&mut extra.output_waker, cx);
                return Poll::Pending;
            }
        };
        // Told once; from then on the stream is over.
        extra.output = Output::Ended;
        Poll::Ready(end.map(Err))
    }

    pub(crate) fn poll_progress(&mut self, id: u64, cx: &mut Context<'_>) -> Poll<Option<protocol::Progress>> {
        let Some(entry) = self.entries.get_mut(&id) else { return Poll::Ready(None) };
        let Some(extra) = entry.extra.as_deref_mut() else { return Poll::Ready(None) };
        if let Some(progress) = extra.progress.take() {
            return Poll::Ready(Some(progress));
        }
        if entry.outcome.is_some() {
            return Poll::Ready(None);
        }
        keep_waker(&mut extra.progress_waker, cx);
        Poll::Pending
    }

    // --- time, room and the end ----------------------------------------------------------------------------------

    /// Room was made in the outbox: the senders that wait for it are woken.
    pub(crate) fn wake_senders(&mut self) {
        if !self.outbox.has_room_for_pieces() {
            return;
        }
        while let Some(id) = self.waiting_for_room.pop_front() {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.waits_for_room = false;
                self.woken.extend(entry.send_waker.take());
            }
        }
    }

    /// Whoever waits for anything of this call learns how it ended.
    fn settle(&mut self, id: u64, outcome: Outcome) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.outcome.is_some() {
            return;
        }
        entry.outcome = Some(outcome);
        entry.joining = None;
        self.woken.extend(entry.waker.take());
        self.woken.extend(entry.send_waker.take());
        if let Some(extra) = entry.extra.as_deref_mut() {
            self.woken.extend(extra.output_waker.take());
            self.woken.extend(extra.progress_waker.take());
        }
    }

    /// Ends every call whose time is over, and says when the next one's will be.
    pub(crate) fn expire(&mut self, now: Instant) -> Option<Instant> {
        let mut next: Option<Instant> = None;
        let mut over = Vec::new();
        for (id, entry) in self.entries.iter().filter(|(_, entry)| entry.outcome.is_none()) {
            match entry.deadline {
                Some((at, after)) if at <= now => over.push((*id, after)),
                Some((at, _)) => next = Some(next.map_or(at, |next| next.min(at))),
                None => {}
            }
        }
        for (id, after) in over {
            self.cancel(id, CancelReason::Deadline);
            self.settle(id, Outcome::TimedOut(after));
        }
        next
    }

    /// The connection is over: every call that has no outcome gets this one.
    pub(crate) fn lose(&mut self, loss: Loss) {
        if self.lost.is_some() {
            return;
        }
        let loss = Arc::new(loss);
        self.lost = Some(Arc::clone(&loss));
        let ids: Vec<u64> = self.entries.keys().copied().collect();
        for id in ids {
            let Some(entry) = self.entries.get_mut(&id) else { continue };
            if entry.handles == 0 {
                self.entries.remove(&id);
                continue;
            }
            let sent = self.outbox.has_begun(entry.begins);
            self.settle(id, Outcome::Lost { loss: Arc::clone(&loss), sent });
        }
        self.unanswered = 0;
        self.outbox.clear();
        self.waiting_for_room.clear();
    }
}

impl Entry {
    /// Whether anybody wants to know how it ends, and does not know yet.
    fn is_waited_for(&self) -> bool {
        self.handles > 0 && self.outcome.is_none()
    }

    /// Received bytes were used up; the callee may send as many again, once it is worth saying.
    fn consume(&mut self, outbox: &mut Outbox, id: u64, bytes: u64) {
        if let Some(bytes) = self.receive.consumed(bytes)
            && !self.answered
        {
            encode(outbox.control(), Kind::StreamCredit, Flags::NONE, id, &protocol::StreamCredit { bytes }, &[]);
        }
    }

    fn wants_output(&self) -> bool {
        self.extra.as_ref().is_some_and(|extra| extra.wanted != Wanted::No)
    }
}

fn stop_output(outbox: &mut Outbox, id: u64) {
    let error = ErrorBody::new(ErrorCode::Cancelled, "the caller does not read the output stream");
    let abort = StreamAbort { by: StreamSide::Receiver, error };
    encode(outbox.control(), Kind::StreamAbort, Flags::NONE, id, &abort, &[]);
}

fn keep_waker(slot: &mut Option<Waker>, cx: &Context<'_>) {
    match slot {
        Some(waker) if waker.will_wake(cx.waker()) => {}
        _ => *slot = Some(cx.waker().clone()),
    }
}
