//! One agent's connection: what it may send, in which order, and what follows.

use std::collections::{HashMap, VecDeque};
use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use palisade_protocol::{
    CREDIT_BYTES, Call as CallBody, Cancel, Cancelled, ErrorBody, ErrorCode, FRAME_BYTES_MAX, Fault, Feature, Flags,
    Frame, FrameError, Hello, Kind, Limits, PAYLOAD_BYTES_MAX, PROTOCOL, Ping, Pong, Refuse, SUPERVISOR_ID,
    StreamAbort, StreamCredit, StreamOpen, StreamSide, Welcome, common_features, common_version,
};
use tokio::net::UnixStream;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Sleep;
use zeroize::Zeroizing;

use super::HELLO_WITHIN;
use super::answers::{Entry, Input, Shared, State, Work};
use super::items::StreamItems;
use crate::api::service::{CHANGES, SECRET, Service};
use crate::model::call::LimitedBy;
use crate::plugin::call::{Call, Caller, Ends, NewCall, Params, body, error_body, limit_details};
use crate::plugin::following::Follow;
use crate::router::Target;
use crate::wire::{Filled, Incoming, Outbox, Reader, a_frame};

/// Most calls that one agent may have under way.
pub(super) const CALLS_MAX: u32 = 256;

/// While more than that waits for an agent, nothing further is read from it.
pub(super) const BACKPRESSURE_BYTES: usize = 8 << 20;

/// An agent that reads nothing at all for so long, though something waits for it, is cut off.
pub(super) const STALLED: Duration = Duration::from_secs(60);

/// One agent.
pub(super) struct Agent {
    stream: UnixStream,
    shared: Arc<Shared>,
    service: Arc<Service>,
    caller: Arc<str>,
    /// Whether it may do what concerns others: the daemon and the plugins as a whole.
    is_operator: bool,
    reader: Reader,
    greeted: bool,
    last_id: u64,
    /// Cuts off an agent that says nothing at first, or reads nothing later.
    timer: Pin<Box<Sleep>>,
    /// How much had been written when the timer was set, while something waits: as long as that grows the agent reads.
    waited: Option<u64>,
    operations: JoinSet<()>,
}

/// Why a connection ends.
enum End {
    /// The agent has gone.
    Gone,
    /// It broke the protocol.
    Violation(String),
    /// It was cut off.
    Condemned(&'static str),
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::Violation(error.to_string())
    }
}

impl Agent {
    pub(super) fn new(stream: UnixStream, service: Arc<Service>, uid: u32) -> Self {
        let own = rustix::process::geteuid().as_raw();
        let is_operator = uid == 0 || uid == own || service.config.operators.contains(&uid);
        let state = State {
            outbox: Outbox::default(),
            calls: HashMap::default(),
            merged: VecDeque::new(),
            waker: None,
            condemned: None,
            streams: false,
            continues: false,
        };
        Self {
            stream,
            shared: Arc::new(Shared { state: Mutex::new(state) }),
            service,
            caller: format!("uid:{uid}").into(),
            is_operator,
            reader: Reader::default(),
            greeted: false,
            last_id: 0,
            // A timer that is polled beside the socket, and waited for by nobody.
            timer: Box::pin(tokio::time::sleep(HELLO_WITHIN)),
            waited: None,
            operations: JoinSet::new(),
        }
    }

    pub(super) async fn run(mut self, mut leaving: watch::Receiver<bool>) {
        let told = leaving.clone();
        let end = {
            let mut work = pin!(self.work());
            // An error means that nobody is left who could say so.
            let mut left = pin!(leaving.changed());
            // Polled once, it keeps the waker of this task; from then on a look at what it waits for is enough.
            let mut waits = false;
            poll_fn(|cx| {
                if let Poll::Ready(end) = work.as_mut().poll(cx) {
                    return Poll::Ready(end);
                }
                if !waits || told.has_changed().unwrap_or(true) {
                    waits = true;
                    return left.as_mut().poll(cx).map(|_| End::Condemned("the daemon stops"));
                }
                Poll::Pending
            })
            .await
        };
        self.end(end).await;
    }

    /// Takes in what comes, until there is a reason to end.
    async fn work(&mut self) -> End {
        loop {
            let filled = match poll_fn(|cx| self.poll(cx)).await {
                Ok(filled) => filled,
                Err(end) => return end,
            };
            if filled == Filled::End {
                return End::Gone;
            }
            if let Err(end) = self.take(filled) {
                return end;
            }
        }
    }

    /// Writes what waits, and reads what has come.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, End>> {
        let mut state = self.shared.state();
        if let Some(why) = state.condemned {
            return Poll::Ready(Err(End::Condemned(why)));
        }
        loop {
            match state.outbox.poll_flush(cx, &mut self.stream) {
                Poll::Ready(Ok(())) if state.merged.is_empty() => break,
                Poll::Ready(Ok(())) => state.emit_merged(),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Gone)),
                Poll::Pending => break,
            }
        }
        let (waiting, written) = (state.outbox.bytes(), state.outbox.written());
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        drop(state);
        if let Err(end) = self.watch(cx, waiting, written) {
            return Poll::Ready(Err(end));
        }
        // Operations that have ended are forgotten.
        while !self.operations.is_empty()
            && let Poll::Ready(Some(ended)) = self.operations.poll_join_next(cx)
        {
            if let Err(error) = ended
                && error.is_panic()
            {
                self.panicked(&error);
            }
        }
        if waiting > BACKPRESSURE_BYTES {
            return Poll::Pending;
        }
        match self.reader.poll_fill(cx, &mut self.stream) {
            Poll::Ready(Ok(filled)) => Poll::Ready(Ok(filled)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(End::Gone)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Cuts off an agent that says no hello, or does not read.
    fn watch(&mut self, cx: &mut Context<'_>, waiting: usize, written: u64) -> Result<(), End> {
        if self.greeted {
            match (waiting, self.waited) {
                (0, _) => {
                    self.waited = None;
                    return Ok(());
                }
                (_, Some(before)) if written == before => {}
                _ => {
                    self.waited = Some(written);
                    self.timer.as_mut().reset(tokio::time::Instant::now() + STALLED);
                }
            }
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            return Err(End::Condemned(if self.greeted { "it reads nothing" } else { "it said no hello" }));
        }
        Ok(())
    }

    fn take(&mut self, filled: Filled) -> Result<(), End> {
        let mut reader = std::mem::take(&mut self.reader);
        let taken = reader.frames(filled, |incoming| match self.take_frame(incoming) {
            Ok(()) => ControlFlow::Continue(()),
            Err(end) => ControlFlow::Break(end),
        });
        self.reader = reader;
        match taken? {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(end) => Err(end),
        }
    }

    fn take_frame(&mut self, incoming: Incoming<'_>) -> Result<(), End> {
        match incoming {
            Incoming::Small(frame) => match frame.kind()? {
                Some(Kind::Call) if self.greeted => {
                    let (call, payload) = frame.message::<CallBody<'_>>(Kind::Call)?;
                    self.call(frame.header.id, frame.header.flags, &call, Params::Small(payload.into()))
                }
                Some(kind) => self.other(kind, &frame),
                None => Ok(()),
            },
            Incoming::Large(owned) => {
                let header = owned.header();
                let frame = Frame { header, content: owned.content() };
                match frame.kind()? {
                    Some(Kind::Call) if self.greeted => {
                        let owned = Arc::new(owned);
                        let frame = Frame { header, content: owned.content() };
                        let (call, payload) = frame.message::<CallBody<'_>>(Kind::Call)?;
                        let start = frame.content.len() - payload.len();
                        self.call(header.id, header.flags, &call, Params::Large(owned.clone(), start))
                    }
                    Some(kind @ (Kind::StreamData | Kind::Continue)) => {
                        frame.parts(kind)?;
                        self.follow(kind, header.id, header.flags, Follow::Large(owned))
                    }
                    Some(kind) => self.other(kind, &frame),
                    None => Ok(()),
                }
            }
        }
    }

    fn other(&mut self, kind: Kind, frame: &Frame<'_>) -> Result<(), End> {
        let id = frame.header.id;
        if !self.greeted {
            return match kind {
                Kind::Hello => self.greet(&frame.message(kind)?.0),
                other => Err(End::Violation(format!("{} before Hello", a_frame(other)))),
            };
        }
        match kind {
            Kind::Cancel => {
                let (cancel, _) = frame.message::<Cancel>(kind)?;
                let state = self.shared.state();
                match state.calls.get(&id).map(|entry| &entry.work) {
                    Some(Work::Plugin(call)) => {
                        let call = call.clone();
                        drop(state);
                        call.cancel(cancel.reason);
                    }
                    Some(Work::Operation { task, .. }) => {
                        task.abort();
                        drop(state);
                        let body = body(&Cancelled { message: None });
                        self.shared.frame(id, Kind::Cancelled, Flags::NONE, &body, Ends::Yes);
                    }
                    Some(Work::New) | None => {}
                }
                Ok(())
            }
            Kind::StreamCredit => {
                let (credit, _) = frame.message::<StreamCredit>(kind)?;
                let state = self.shared.state();
                match state.calls.get(&id).map(|entry| &entry.work) {
                    Some(Work::Plugin(call)) => {
                        let call = call.clone();
                        drop(state);
                        call.grant(credit.bytes).map_err(|error| End::Violation(format!("call {id}: {error}")))
                    }
                    Some(Work::Operation { credit: granted, .. }) => {
                        let room = (Semaphore::MAX_PERMITS / 2).saturating_sub(granted.available_permits());
                        granted.add_permits((credit.bytes as usize).min(room));
                        Ok(())
                    }
                    Some(Work::New) | None => Ok(()),
                }
            }
            Kind::StreamOpen => {
                frame.message::<StreamOpen>(kind)?;
                self.follow_small(kind, frame)
            }
            Kind::StreamAbort => {
                let (abort, _) = frame.message::<StreamAbort>(kind)?;
                // Once for each stream: what is said again says nothing, and would have to be kept.
                let news = match (self.shared.state().calls.get_mut(&id), abort.by) {
                    (None, _) => false,
                    (Some(entry), StreamSide::Sender) => {
                        std::mem::replace(&mut entry.input, Input::Ended) == Input::Open
                    }
                    (Some(entry), StreamSide::Receiver) => !std::mem::replace(&mut entry.output_refused, true),
                };
                if news { self.follow_small(kind, frame) } else { Ok(()) }
            }
            Kind::StreamData | Kind::StreamEnd | Kind::Continue => {
                frame.parts(kind)?;
                self.follow_small(kind, frame)
            }
            Kind::Ping => {
                frame.message::<Ping>(kind)?;
                self.begins("a ping", id)?;
                let mut state = self.shared.state();
                let calls = u32::try_from(state.calls.len()).unwrap_or(u32::MAX);
                let pong = Pong { calls, ..Pong::default() };
                state.outbox.message(Kind::Pong, Flags::NONE, id, &pong, &[]);
                Ok(())
            }
            Kind::Refuse => Err(End::Gone),
            Kind::Hello => Err(End::Violation("a second Hello".to_owned())),
            Kind::Welcome
            | Kind::Ready
            | Kind::Pong
            | Kind::Drain
            | Kind::Drained
            | Kind::Extend
            | Kind::Log
            | Kind::Configure
            | Kind::Configured
            | Kind::Call
            | Kind::Progress
            | Kind::Ok
            | Kind::Err
            | Kind::Cancelled
            | Kind::HostCall
            | Kind::HostOk
            | Kind::HostErr => Err(End::Violation(format!("{}, which agents do not send", a_frame(kind)))),
        }
    }

    fn greet(&mut self, hello: &Hello) -> Result<(), End> {
        let Some(version) = common_version(PROTOCOL, hello.protocol) else {
            return Err(End::Violation(format!(
                "you speak protocol versions {} to {}, and this supervisor {} to {}",
                hello.protocol.min, hello.protocol.max, PROTOCOL.min, PROTOCOL.max
            )));
        };
        self.greeted = true;
        let features = common_features(&hello.features);
        let agreed = |feature: Feature| features.iter().any(|name| name == feature.name());
        {
            let mut state = self.shared.state();
            (state.streams, state.continues) = (agreed(Feature::Streams), agreed(Feature::Continue));
        }
        let welcome = Welcome {
            protocol: version,
            features,
            software: concat!("palisaded/", env!("CARGO_PKG_VERSION")).to_owned(),
            limits: Limits { calls_max: CALLS_MAX, ..Limits::default() },
            plugin: None,
        };
        self.shared.state().outbox.message(Kind::Welcome, Flags::NONE, 0, &welcome, &[]);
        Ok(())
    }

    /// Takes note of an id that the agent begins, with a call or a ping. None is used again, whatever it was for: what is answered
    /// under it would have two meanings.
    fn begins(&mut self, what: &str, id: u64) -> Result<(), End> {
        let last = self.last_id;
        if id.is_multiple_of(2) || id <= last {
            return Err(End::Violation(format!(
                "{what} under id {id}; it has to be odd and above the last one, {last}"
            )));
        }
        self.last_id = id;
        Ok(())
    }

    fn call(&mut self, id: u64, flags: Flags, head: &CallBody<'_>, params: Params) -> Result<(), End> {
        if head.plugin != Some(SUPERVISOR_ID) || head.action != SECRET {
            return self.begin_call(id, flags, head, params);
        }
        // Whatever becomes of it, nothing of the frame is left.
        let held = params.clone();
        let begun = self.begin_call(id, flags, head, params);
        held.wipe();
        begun
    }

    fn begin_call(&mut self, id: u64, flags: Flags, head: &CallBody<'_>, params: Params) -> Result<(), End> {
        self.begins("a call", id)?;
        let more = flags.has(Flags::MORE);
        let mut state = self.shared.state();
        let under_way = state.calls.len();
        let entry = Entry {
            work: Work::New,
            in_bulk: false,
            progress: None,
            credit: 0,
            params_continue: more,
            params_bytes: params.bytes().len() as u64,
            input: Input::Unopened,
            output_refused: false,
        };
        state.calls.insert(id, entry);
        drop(state);
        if under_way >= CALLS_MAX as usize {
            let error = ErrorBody::new(
                ErrorCode::Overloaded,
                format!("you have {CALLS_MAX} calls under way, as many as an agent may"),
            );
            self.fail(id, &error.with_retry_after_ms(10));
            return Ok(());
        }
        let Some(plugin) = head.plugin else {
            self.fail(id, &ErrorBody::new(ErrorCode::InvalidParams, "the call does not say which plugin it is for"));
            return Ok(());
        };
        if plugin == SUPERVISOR_ID {
            if more {
                self.fail(id, &ErrorBody::new(ErrorCode::InvalidParams, "operations take no parameters that long"));
            } else {
                self.operate(id, head, &params);
            }
            return Ok(());
        }
        let call = NewCall {
            action: head.action.into(),
            params,
            more,
            caller_limit: head.deadline_ms.map(Duration::from_millis),
            caller: self.caller.clone(),
            reply_to: (self.shared.clone(), id),
        };
        let target = Target { plugin, version: head.version };
        let shared = &self.shared;
        let known = |call: &Arc<Call>| {
            if let Some(entry) = shared.state().calls.get_mut(&id) {
                entry.work = Work::Plugin(call.clone());
            }
        };
        if let Err(error) = self.service.call(target, call, known) {
            self.fail(id, &error);
        }
        Ok(())
    }

    fn fail(&self, id: u64, error: &ErrorBody) {
        self.shared.frame(id, Kind::Err, Flags::NONE, &error_body(error), Ends::Yes);
    }

    fn follow_small(&mut self, kind: Kind, frame: &Frame<'_>) -> Result<(), End> {
        let flags = frame.header.flags;
        self.follow(kind, frame.header.id, flags, Follow::Small(kind, flags, frame.content))
    }

    /// Something that belongs to a call under way. What comes for one that has ended crossed with its end.
    fn follow(&mut self, kind: Kind, id: u64, flags: Flags, follow: Follow<'_>) -> Result<(), End> {
        let violation = |what: &str| Err(End::Violation(format!("call {id}: {} {what}", a_frame(kind))));
        let length = follow.content_bytes();
        let mut state = self.shared.state();
        let Some(entry) = state.calls.get_mut(&id) else { return Ok(()) };
        if entry.params_continue && matches!(kind, Kind::StreamOpen | Kind::StreamData | Kind::StreamEnd) {
            return violation("before the parameters were complete");
        }
        match kind {
            Kind::Continue if !entry.params_continue => return violation("and nothing to continue"),
            Kind::Continue => {
                entry.params_bytes += length as u64;
                entry.params_continue = flags.has(Flags::MORE);
                // Each piece has a byte of body as well; a frame of slack covers them all.
                if entry.params_bytes > PAYLOAD_BYTES_MAX + u64::from(FRAME_BYTES_MAX) {
                    return violation("beyond the largest payload");
                }
            }
            Kind::StreamOpen if entry.input != Input::Unopened => return violation("for a second input stream"),
            Kind::StreamOpen => entry.input = Input::Open,
            Kind::StreamData | Kind::StreamEnd if entry.input != Input::Open => {
                return violation("on a stream that is not open");
            }
            Kind::StreamEnd => entry.input = Input::Ended,
            _ => {}
        }
        let Work::Plugin(call) = &entry.work else { return Ok(()) };
        let call = call.clone();
        drop(state);
        call.follow(follow).map_err(|error| End::Violation(format!("call {id}: {error}")))
    }

    /// Performs an administrative operation in a task of its own.
    fn operate(&mut self, id: u64, head: &CallBody<'_>, params: &Params) {
        let credit = Arc::new(Semaphore::new(CREDIT_BYTES as usize));
        let service = self.service.clone();
        let shared = self.shared.clone();
        let action = head.action.to_owned();
        let caller = self.caller.clone();
        let params = Zeroizing::new(params.bytes().to_vec());
        let limit = head.deadline_ms.map(Duration::from_millis);
        if !self.is_operator && CHANGES.contains(&head.action) {
            let message = format!("{} may call plugins, and not {action} them", self.caller);
            let error = ErrorBody::new(ErrorCode::PermissionDenied, message);
            let hint = "root, the daemon's own user, and `operators` of palisade.toml may";
            return self.fail(id, &error.with_hint(hint));
        }
        let mut items = StreamItems { shared: shared.clone(), id, credit: credit.clone(), open: false };
        let work = async move {
            let operation = service.operate(&caller, &action, &params, &mut items);
            let outcome = match limit {
                Some(limit) => tokio::time::timeout(limit, operation).await.unwrap_or_else(|_| {
                    let message = format!("{action}: no answer within {} ms, the caller's deadline", limit.as_millis());
                    Err(ErrorBody::new(ErrorCode::Timeout, message)
                        .with_details(limit_details(limit, LimitedBy::Caller)))
                }),
                None => operation.await,
            };
            match outcome {
                Ok(value) => items.finish(&value).await,
                Err(error) => shared.frame(id, Kind::Err, Flags::NONE, &error_body(&error), Ends::Yes),
            }
        };
        let task = self.operations.spawn(work);
        // If it has ended already, so has its entry.
        if let Some(entry) = self.shared.state().calls.get_mut(&id) {
            entry.work = Work::Operation { task, credit };
        }
    }

    /// An operation ended by a fault of ours, and its call is still owed an answer.
    fn panicked(&self, error: &JoinError) {
        tracing::error!(caller = %self.caller, %error, "an operation panicked");
        let state = self.shared.state();
        let its = |entry: &Entry| matches!(&entry.work, Work::Operation { task, .. } if task.id() == error.id());
        let call = state.calls.iter().find_map(|(id, entry)| its(entry).then_some(*id));
        drop(state);
        if let Some(id) = call {
            let error = ErrorBody::new(ErrorCode::Internal, "the operation failed by a fault of the daemon's");
            self.fail(id, &error.with_hint("the daemon's log says more"));
        }
    }

    /// Ends the calls of an agent that is gone, and tells one that is not why it is cut off.
    async fn end(mut self, end: End) {
        let calls: Vec<_> = {
            let mut state = self.shared.state();
            state.calls.drain().collect()
        };
        for (_, entry) in calls {
            entry.work.abandon();
        }
        self.operations.shutdown().await;
        let error = match end {
            End::Gone => return,
            End::Violation(detail) => {
                tracing::info!(caller = %self.caller, %detail, "an agent broke the protocol");
                ErrorBody { fault: Fault::Caller, ..ErrorBody::new(ErrorCode::ProtocolViolation, detail) }
            }
            End::Condemned(why) => {
                tracing::info!(caller = %self.caller, why, "an agent was cut off");
                ErrorBody::new(ErrorCode::Unavailable, format!("the connection is closed: {why}"))
            }
        };
        let mut outbox = std::mem::take(&mut self.shared.state().outbox);
        outbox.message(Kind::Refuse, Flags::NONE, 0, &Refuse { error }, &[]);
        // Said if it can be said at once.
        poll_fn(|cx| {
            let _ = outbox.poll_flush(cx, &mut self.stream);
            Poll::Ready(())
        })
        .await;
    }
}
