//! What an exchange sends: its output stream, its large result, its host call; in pieces, as credit allows.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use palisade_protocol::{
    CreditError, ErrorBody, ErrorCode, Flags, Kind, PIECE_BYTES, SendCredit, StreamAbort, StreamKind, StreamOpen,
    StreamSide, encode,
};

use super::{Exchange, State};
use crate::wire::{Batch, EMPTY, Terms, Wire, encode_head, encode_plain};
use crate::{Error, Result};

/// With so many bytes of a stream waiting for credit or for the pipe, its sender waits.
const QUEUED_BYTES_MAX: usize = 256 << 10;
/// Pieces up to this size are copied into the batch; larger ones are written from where they are.
const COPY_BYTES: usize = 8 << 10;

/// What waits to go out.
pub(super) struct Out {
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

impl Out {
    pub(super) fn new(wire: &Wire) -> Box<Self> {
        Box::new(Self {
            queue: VecDeque::new(),
            queued_bytes: 0,
            credit: SendCredit::new(wire.terms().limits.credit_bytes),
            stream: OutStream::Unopened,
            sender: None,
            scheduled: false,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(super) fn is_stream_open(&self) -> bool {
        matches!(self.stream, OutStream::Open(_))
    }

    /// Whether the first piece of the call's result is out, and the rest is not.
    pub(super) fn has_begun_result(&self) -> bool {
        self.queue.iter().any(|entry| matches!(entry, Entry::Payload { kind: Kind::Ok, begun: true, .. }))
    }

    pub(super) fn take_sender(&mut self) -> Option<Waker> {
        self.sender.take()
    }

    fn push(&mut self, entry: Entry) {
        self.queued_bytes += entry.bytes();
        self.queue.push_back(entry);
    }

    /// Queues an encoded small frame.
    pub(super) fn push_frame(&mut self, bytes: Vec<u8>, is_last: bool) {
        self.push(Entry::Frame { bytes, is_last });
    }

    /// Queues a payload that may be continued, if that was agreed on.
    pub(super) fn push_payload(&mut self, kind: Kind, body: Vec<u8>, payload: Bytes, terms: Terms) {
        let cut = if terms.continues { Cut::Marked } else { Cut::Never };
        self.push(Entry::Payload { kind, body, rest: payload, begun: false, cut });
    }

    pub(super) fn clear(&mut self) {
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

impl Exchange {
    pub(super) fn schedule(self: &Arc<Self>, state: &mut State) {
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
        // A handler on another thread writes small frames past the queue, and pieces into it. What it wrote first goes first, though
        // this batch was begun before; with the state locked, nothing comes between.
        self.wire.catch_up(&mut batch.head);
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
        let out = state.out.get_or_insert_with(|| Out::new(&self.wire));
        out.credit.grant(bytes)?;
        self.schedule(&mut state);
        Ok(())
    }

    pub(crate) fn send_host_call(self: &Arc<Self>, body: Vec<u8>, params: Bytes) {
        let mut state = self.state();
        let out = state.out.get_or_insert_with(|| Out::new(&self.wire));
        // The protocol has no pieces of these.
        let cut = Cut::Never;
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
        let out = state.out.get_or_insert_with(|| Out::new(&self.wire));
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
        let out = state.out.get_or_insert_with(|| Out::new(&self.wire));
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
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use palisade_protocol::{Decoder, Kind, Level, Progress, StreamKind};
    use tokio::sync::oneshot;

    use crate::exchange::{Exchange, Outcome};
    use crate::wire::{Batch, Wire};

    /// A handler on another thread opens a stream, sends, tells progress and ends, while the connection is in the middle of a batch: it
    /// has taken the small frames that there were, and goes on to the pieces.
    #[test]
    fn what_was_written_before_a_piece_goes_out_before_it() {
        let wire = Wire::new(Level::Info, None);
        let exchange = Exchange::host_call(2, Arc::clone(&wire), false, oneshot::channel().0);
        wire.enlist(&exchange);
        exchange.open_output(StreamKind::Items).unwrap();
        exchange.push_output(Bytes::from_static(&[1])).unwrap();
        exchange.progress(Progress { percentage: Some(100.0), ..Progress::default() });
        exchange.finish(Outcome::Small(&[2]));
        let (mut batch, mut next) = (Batch::default(), Batch::default());
        // The item, the end of the stream, and the result.
        for _ in 0..3 {
            exchange.cut(&mut batch);
        }
        wire.fill(&mut next);
        let mut decoder = Decoder::default();
        decoder.push(&batch.head);
        decoder.push(&next.head);
        let mut kinds = Vec::new();
        while let Some(frame) = decoder.next_frame().unwrap() {
            kinds.push(frame.kind().unwrap().unwrap());
        }
        assert_eq!(kinds, [Kind::StreamOpen, Kind::Progress, Kind::StreamData, Kind::StreamEnd, Kind::Ok]);
    }
}
