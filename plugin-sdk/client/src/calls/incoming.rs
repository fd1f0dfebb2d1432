//! The frames that the supervisor sends: what each means for its call, and which are out of order.

use std::time::Duration;

use palisade_protocol as protocol;
use palisade_protocol::{
    CancelReason, CreditError, ErrorBody, ErrorCode, Flags, Frame, FrameError, Header, Kind, StreamAbort, StreamKind,
    StreamOpen, StreamSide,
};

use super::{Calls, Content, Extra, Outcome, Output, Unit, Wanted, stop_output};

/// Why the connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Violation {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("it sent {0}, which an agent never gets")]
    Direction(&'static str),
    /// Not a violation: the supervisor says goodbye.
    #[error("{}", .0.message)]
    Refused(Box<ErrorBody>),
}

/// What is wrong with a call's frames, as frames. The other calls need not suffer for it.
#[derive(Debug, thiserror::Error)]
enum Disorder {
    #[error(transparent)]
    Credit(#[from] CreditError),
    #[error("{0}")]
    Rule(&'static str),
}

impl Calls {
    /// Takes in one frame. After an error the connection cannot go on.
    pub(crate) fn frame(&mut self, header: Header, content: Content<'_>) -> Result<(), Violation> {
        self.heard += 1;
        let frame = Frame { header, content: content.bytes() };
        let Some(kind) = frame.kind()? else { return Ok(()) };
        let id = header.id;
        match kind {
            Kind::Ok => {
                let (body, _) = frame.parts(kind)?;
                let start = body.len();
                let Some(entry) = self.entries.get_mut(&id).filter(|entry| !entry.answered) else { return Ok(()) };
                if entry.joining.is_some() {
                    self.disorder(id, &Disorder::Rule("a result began before another value of its call was complete"));
                } else if header.flags.has(Flags::MORE) {
                    // Of a call that nobody waits for, the rest is let pass, so that its end comes.
                    if entry.is_waited_for() {
                        entry.joining = Some(content.bytes()[start..].to_vec());
                    }
                    entry.joining_result = true;
                    // The stream is over; what of it is still to be read must not hold up the rest of the result.
                    let unread = entry.extra.as_deref_mut().map_or(0, |extra| {
                        let queued: u64 = extra.queue.iter_mut().map(|unit| std::mem::take(&mut unit.credit)).sum();
                        queued + std::mem::take(&mut extra.withheld)
                    });
                    let unread = unread + std::mem::take(&mut entry.dropped);
                    entry.consume(&mut self.outbox, id, unread);
                } else {
                    self.answer(id, Outcome::Ok(content.payload(start)));
                }
            }
            Kind::Continue => {
                let (body, _) = frame.parts(kind)?;
                let start = body.len();
                let taken = self.receive(id, header);
                let taken = taken.and_then(|()| self.join(id, &content.bytes()[start..]));
                let taken = taken.and_then(|()| self.joined(id, header));
                self.or_disorder(id, taken);
            }
            Kind::Err => {
                let (mut error, _) = frame.message::<ErrorBody>(kind)?;
                if let Some((_, limit)) = self.entries.get(&id).and_then(|entry| entry.deadline) {
                    name_whole_limit(&mut error, limit);
                }
                self.answer(id, Outcome::Failed(Box::new(error)));
            }
            Kind::Cancelled => {
                let (cancelled, _) = frame.message::<protocol::Cancelled>(kind)?;
                let message = cancelled.message.unwrap_or_else(|| "the call was cancelled".into());
                self.answer(id, Outcome::Failed(Box::new(ErrorBody::new(ErrorCode::Cancelled, message))));
            }
            Kind::Progress => {
                let (progress, _) = frame.message::<protocol::Progress>(kind)?;
                if let Some(extra) = self.extra(id) {
                    extra.progress = Some(progress);
                    let waker = extra.progress_waker.take();
                    self.woken.extend(waker);
                }
            }
            Kind::StreamOpen => {
                let (open, _) = frame.message::<StreamOpen>(kind)?;
                let taken = self.output_opened(id, open.kind);
                self.or_disorder(id, taken);
            }
            Kind::StreamData => {
                let (body, _) = frame.parts(kind)?;
                let start = body.len();
                let taken = self.receive(id, header);
                let taken = taken.and_then(|()| self.output_data(id, header, content, start));
                self.or_disorder(id, taken);
            }
            Kind::StreamEnd => {
                frame.parts(kind)?;
                self.output_over(id, Output::Ended);
            }
            Kind::StreamAbort => {
                let (abort, _) = frame.message::<StreamAbort>(kind)?;
                match abort.by {
                    StreamSide::Sender => self.output_over(id, Output::Aborted(Box::new(abort.error))),
                    StreamSide::Receiver => self.input_refused(id),
                }
            }
            Kind::StreamCredit => {
                let (credit, _) = frame.message::<protocol::StreamCredit>(kind)?;
                if let Some(entry) = self.entries.get_mut(&id) {
                    let granted = entry.send.grant(credit.bytes);
                    self.woken.extend(entry.send_waker.take());
                    self.or_disorder(id, granted.map_err(Disorder::from));
                }
            }
            Kind::Pong => {
                frame.message::<protocol::Pong>(kind)?;
            }
            Kind::Refuse => {
                let (refuse, _) = frame.message::<protocol::Refuse>(kind)?;
                return Err(Violation::Refused(Box::new(refuse.error)));
            }
            Kind::Hello
            | Kind::Welcome
            | Kind::Ready
            | Kind::Ping
            | Kind::Drain
            | Kind::Drained
            | Kind::Extend
            | Kind::Log
            | Kind::Configure
            | Kind::Configured
            | Kind::Call
            | Kind::Cancel
            | Kind::HostCall
            | Kind::HostOk
            | Kind::HostErr => return Err(Violation::Direction(kind.name())),
        }
        Ok(())
    }

    fn or_disorder(&mut self, id: u64, taken: Result<(), Disorder>) {
        if let Err(disorder) = taken {
            self.disorder(id, &disorder);
        }
    }

    /// Fails a call whose frames make no sense, and asks for its end.
    fn disorder(&mut self, id: u64, disorder: &Disorder) {
        let message = format!("the call's frames are out of order: {disorder}");
        let error = ErrorBody::new(ErrorCode::ProtocolViolation, message);
        self.cancel(id, CancelReason::Other);
        self.settle(id, Outcome::Failed(Box::new(error)));
    }

    fn extra(&mut self, id: u64) -> Option<&mut Extra> {
        self.entries.get_mut(&id).filter(|entry| entry.outcome.is_none())?.extra.as_deref_mut()
    }

    /// The terminal frame of a call.
    fn answer(&mut self, id: u64, outcome: Outcome) {
        let Some(entry) = self.entries.get_mut(&id) else { return };
        if entry.answered {
            return;
        }
        entry.answered = true;
        self.unanswered -= 1;
        self.answered += 1;
        if entry.handles == 0 {
            self.entries.remove(&id);
        } else {
            self.outbox.forget_pieces(id, None);
            self.settle(id, outcome);
        }
    }

    /// Counts a frame against the credit that its call was given.
    fn receive(&mut self, id: u64, header: Header) -> Result<(), Disorder> {
        let Some(entry) = self.entries.get_mut(&id) else { return Ok(()) };
        entry.receive.charge(header.len)?;
        Ok(())
    }

    /// Appends to the value that is being joined.
    fn join(&mut self, id: u64, piece: &[u8]) -> Result<(), Disorder> {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| !entry.answered) else { return Ok(()) };
        let is_waited_for = entry.is_waited_for();
        match &mut entry.joining {
            Some(joining) => joining.extend_from_slice(piece),
            None if !is_waited_for => {}
            None => return Err(Disorder::Rule("a payload went on that had not begun")),
        }
        Ok(())
    }

    /// The buffer of the value that is being joined, to receive the next piece in place; see [`Calls::put_back`].
    pub(crate) fn lend_joining(&mut self, header: Header) -> Option<Vec<u8>> {
        let is_data = header.kind == Kind::StreamData as u8;
        if header.kind != Kind::Continue as u8 && !is_data {
            return None;
        }
        let entry = self.entries.get_mut(&header.id)?;
        if entry.joining_result == is_data {
            return None;
        }
        let joining = entry.joining.as_ref()?;
        if joining.len() as u64 + u64::from(header.len) > self.limits.payload_bytes_max + 1 {
            return None;
        }
        entry.joining.take()
    }

    /// Takes a lent buffer back, with the payload of `header`'s frame appended to it. Its body was the empty map.
    pub(crate) fn put_back(&mut self, header: Header, joining: Vec<u8>) {
        self.heard += 1;
        let taken = self.receive(header.id, header).and_then(|()| self.put_back_joining(header, joining));
        self.or_disorder(header.id, taken);
    }

    fn put_back_joining(&mut self, header: Header, joining: Vec<u8>) -> Result<(), Disorder> {
        let Some(entry) = self.entries.get_mut(&header.id) else { return Ok(()) };
        if entry.is_waited_for() && (entry.joining_result || entry.wants_output()) {
            entry.joining = Some(joining);
        }
        if entry.joining_result { self.joined(header.id, header) } else { self.item_joined(header.id, header) }
    }

    /// After a piece of a result: is it complete, too large, or is more to be allowed?
    fn joined(&mut self, id: u64, header: Header) -> Result<(), Disorder> {
        let limit = self.limits.payload_bytes_max;
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| !entry.answered) else { return Ok(()) };
        if entry.joining.as_ref().is_some_and(|joining| joining.len() as u64 > limit) {
            return Err(Disorder::Rule("a result grew beyond the payload limit"));
        }
        if header.flags.has(Flags::MORE) {
            entry.consume(&mut self.outbox, id, u64::from(header.len));
        } else {
            let result = entry.joining.take().unwrap_or_default();
            self.answer(id, Outcome::Ok(result.into()));
        }
        Ok(())
    }

    fn output_opened(&mut self, id: u64, kind: StreamKind) -> Result<(), Disorder> {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.outcome.is_none()) else { return Ok(()) };
        let Some(extra) = entry.extra.as_deref_mut() else {
            // Nobody reads it: a plain call. An abandoned one has been cancelled already.
            if !entry.cancel_sent {
                stop_output(&mut self.outbox, id);
            }
            return Ok(());
        };
        if !matches!(extra.output, Output::Unopened) {
            return Err(Disorder::Rule("a call opened a second output stream"));
        }
        extra.output = Output::Open(kind);
        if extra.wanted == Wanted::No && !entry.cancel_sent {
            stop_output(&mut self.outbox, id);
        }
        Ok(())
    }

    fn output_data(&mut self, id: u64, header: Header, content: Content<'_>, start: usize) -> Result<(), Disorder> {
        let Some(entry) = self.entries.get_mut(&id) else { return Ok(()) };
        let is_waited_for = entry.is_waited_for();
        let Some(extra) = entry.extra.as_deref_mut().filter(|_| is_waited_for) else {
            entry.dropped += u64::from(header.len);
            return Ok(());
        };
        let Output::Open(kind) = extra.output else {
            return Err(Disorder::Rule("it sent stream data outside of a stream"));
        };
        if extra.wanted == Wanted::No {
            entry.dropped += u64::from(header.len);
            return Ok(());
        }
        let more = header.flags.has(Flags::MORE) && kind == StreamKind::Items;
        match (&mut entry.joining, more) {
            (None, false) => {
                let credit = u64::from(header.len);
                extra.queue.push_back(Unit { kind, payload: content.payload(start), credit });
                self.woken.extend(extra.output_waker.take());
                Ok(())
            }
            (None, true) => {
                entry.joining = Some(content.bytes()[start..].to_vec());
                self.item_joined(id, header)
            }
            (Some(joining), _) => {
                joining.extend_from_slice(&content.bytes()[start..]);
                self.item_joined(id, header)
            }
        }
    }

    /// After a piece of an item: is it complete, too large, or is more to be allowed?
    fn item_joined(&mut self, id: u64, header: Header) -> Result<(), Disorder> {
        let limit = self.limits.payload_bytes_max;
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.outcome.is_none()) else { return Ok(()) };
        let Some(extra) = entry.extra.as_deref_mut() else { return Ok(()) };
        if entry.joining.as_ref().is_some_and(|joining| joining.len() as u64 > limit) {
            return Err(Disorder::Rule("a stream item grew beyond the payload limit"));
        }
        if !header.flags.has(Flags::MORE) {
            if let Some(item) = entry.joining.take() {
                let credit = u64::from(header.len);
                extra.queue.push_back(Unit { kind: StreamKind::Items, payload: item.into(), credit });
                self.woken.extend(extra.output_waker.take());
            }
        } else if extra.queue.is_empty() {
            entry.consume(&mut self.outbox, id, u64::from(header.len));
        } else {
            // Joining goes on at the reader's pace, so that large items do not pile up.
            extra.withheld += u64::from(header.len);
        }
        Ok(())
    }

    fn output_over(&mut self, id: u64, how: Output) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.outcome.is_none()) else { return };
        if !entry.joining_result {
            entry.joining = None;
        }
        let Some(extra) = entry.extra.as_deref_mut() else { return };
        if matches!(extra.output, Output::Open(_) | Output::Unopened) {
            extra.output = how;
            self.woken.extend(extra.output_waker.take());
        }
    }

    fn input_refused(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.outcome.is_none()) else { return };
        let waker = entry.send_waker.take();
        let Some(extra) = entry.extra.as_deref_mut() else { return };
        extra.input_refused = true;
        self.woken.extend(waker);
        self.outbox.forget_pieces(id, Some(Kind::StreamData));
    }
}

/// The supervisor knows of the caller's limit only what was left of it when the call was sent. The caller is told what it asked for.
fn name_whole_limit(error: &mut ErrorBody, limit: Duration) {
    let Some(details) = error.details.as_mut().filter(|_| error.code == ErrorCode::Timeout) else { return };
    if details["limited_by"] == "caller"
        && let Some(left_ms) = details["limit_ms"].as_u64()
    {
        let whole_ms = limit.as_millis();
        error.message = error.message.replacen(&format!("within {left_ms} ms"), &format!("within {whole_ms} ms"), 1);
        details["limit_ms"] = u64::try_from(whole_ms).unwrap_or(u64::MAX).into();
    }
}
