//! What an exchange receives: its input stream, and payloads that arrive in pieces.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use palisade_protocol::{ErrorBody, ErrorCode, Kind, ReceiveCredit, StreamAbort, StreamKind, StreamSide};

use super::{Arrived, Exchange, Joined, Violation};
use crate::wire::Wire;
use crate::{Error, Result};

/// A stream that comes in.
pub(super) struct Inflow {
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
pub(super) struct Joining {
    bytes: Vec<u8>,
    credit: ReceiveCredit,
}

impl Exchange {
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
    pub(crate) fn input_data(&self, len: u32, more: bool, payload: Arrived<'_>) -> Result<(), Violation> {
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

    pub(super) fn take_reader(&mut self) -> Option<Waker> {
        self.reader.take()
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

fn name(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::Items => "items",
        StreamKind::Bytes => "bytes",
    }
}
