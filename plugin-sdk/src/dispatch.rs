//! What each frame means: begins calls, feeds streams, cancels, answers pings.
//!
//! A frame that makes no sense in its state is a violation, with a sentence that says which; frames of calls that have
//! ended are skipped, as they may have crossed with the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use palisade_protocol::{
    Call as CallHead, Cancel, Configure, Drain, ErrorBody, ErrorCode, Flags, Header, Kind, Ping, Refuse, StreamAbort,
    StreamCredit, StreamOpen, StreamSide, Welcome, encode,
};
use serde::Deserialize;
use tokio::task::JoinSet;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::call::{Call, Shared};
use crate::connection::Event;
use crate::exchange::{Arrived, Exchange, Joined, Outcome};
use crate::handler::{Handler, Handlers, Started};
use crate::value::Payload;
use crate::wire::Wire;

/// How long a self-test may take before it counts as failed.
const SELF_TEST_WITHIN: Duration = Duration::from_secs(30);

/// How long a health check may take before it counts as failed.
const HEALTH_WITHIN: Duration = Duration::from_secs(5);
/// How many names of actions an error lists.
const NAMES_MAX: usize = 20;
/// When to come back to a plugin whose calls are all taken.
const OVERLOADED_RETRY_MS: u64 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Nothing but `Welcome` may come.
    Greeting,
    /// Not ready for calls.
    Starting,
    Serving,
    Draining,
}

pub(crate) struct Dispatch<S> {
    pub(crate) wire: Arc<Wire>,
    pub(crate) phase: Phase,
    /// Set once the plugin is initialized.
    pub(crate) plugin: Option<Arc<Shared<S>>>,
    /// The handlers at work.
    pub(crate) tasks: JoinSet<()>,
    /// When the frames at hand arrived.
    pub(crate) now: Instant,
    handlers: Handlers<S>,
    concurrency: usize,
    last_call: u64,
    last_caller: Option<Arc<str>>,
    checking: Arc<AtomicBool>,
    /// The frame at hand has a secret in it.
    wipe: bool,
}

impl<S: Send + Sync + 'static> Dispatch<S> {
    pub(crate) fn new(wire: Arc<Wire>, handlers: Handlers<S>, concurrency: usize) -> Self {
        Self {
            wire,
            phase: Phase::Greeting,
            plugin: None,
            tasks: JoinSet::new(),
            now: Instant::now(),
            handlers,
            concurrency,
            last_call: 0,
            last_caller: None,
            checking: Arc::default(),
            wipe: false,
        }
    }

    /// Whether what was read since this was asked last has a secret in it.
    pub(crate) fn take_wipe(&mut self) -> bool {
        std::mem::take(&mut self.wipe)
    }

    /// Lets go of tasks that have ended.
    pub(crate) fn reap(&mut self) {
        if !self.tasks.is_empty() {
            while self.tasks.try_join_next().is_some() {}
        }
    }

    /// Handles one frame. The error is a violation.
    pub(crate) fn frame(
        &mut self,
        kind: Kind,
        header: Header,
        body: &[u8],
        payload: Arrived<'_>,
    ) -> Result<Option<Event>, String> {
        match (self.phase, kind) {
            (_, Kind::Refuse) => {
                let refuse: Refuse = read(kind, body)?;
                return Ok(Some(Event::Refused(Box::new(refuse.error))));
            }
            (Phase::Greeting, Kind::Welcome) => {
                let welcome: Welcome = read(kind, body)?;
                return Ok(Some(Event::Welcome(Box::new(welcome))));
            }
            (Phase::Greeting, _) => return Err(format!("{} came before Welcome", kind.name())),
            (_, Kind::Ping) => self.ping(header, read(kind, body)?)?,
            (_, Kind::Drain) => {
                let drain: Drain = read(kind, body)?;
                return Ok(Some(Event::Drain(drain)));
            }
            (_, Kind::HostOk) => self.host_ok(header, payload)?,
            (_, Kind::HostErr) => {
                let error: ErrorBody = read(kind, body)?;
                if let Some(exchange) = self.host_call(kind, header.id)? {
                    exchange.reply(Err(Box::new(error)));
                }
            }
            (_, Kind::Continue) if !header.id.is_multiple_of(2) => self.host_continue(header, payload)?,
            (_, Kind::StreamCredit) if !header.id.is_multiple_of(2) => {
                let credit: StreamCredit = read(kind, body)?;
                if let Some(exchange) = self.host_call(kind, header.id)? {
                    exchange.credit(credit.bytes).map_err(|error| said(kind, header.id, &error))?;
                }
            }
            (Phase::Serving | Phase::Draining, Kind::Configure) => self.configure(header, read(kind, body)?)?,
            (Phase::Starting, Kind::Call) => return Err(format!("Call {} came before Ready", header.id)),
            (Phase::Serving | Phase::Draining, Kind::Call) => self.call(header, body, payload)?,
            (
                Phase::Serving | Phase::Draining,
                Kind::Cancel
                | Kind::Continue
                | Kind::StreamOpen
                | Kind::StreamData
                | Kind::StreamCredit
                | Kind::StreamEnd
                | Kind::StreamAbort,
            ) => self.of_call(kind, header, body, payload)?,
            (
                _,
                Kind::Hello
                | Kind::Welcome
                | Kind::Ready
                | Kind::Pong
                | Kind::Drained
                | Kind::Extend
                | Kind::Log
                | Kind::Configure
                | Kind::Configured
                | Kind::Progress
                | Kind::Ok
                | Kind::Err
                | Kind::Cancelled
                | Kind::HostCall
                | Kind::Cancel
                | Kind::Continue
                | Kind::StreamOpen
                | Kind::StreamData
                | Kind::StreamCredit
                | Kind::StreamEnd
                | Kind::StreamAbort,
            ) => return Err(format!("{} {} makes no sense here", kind.name(), header.id)),
        }
        Ok(None)
    }

    fn ping(&mut self, header: Header, ping: Ping) -> Result<(), String> {
        if header.id == 0 || !header.id.is_multiple_of(2) {
            return Err(format!("Ping with the id {}, which is not one of the supervisor's", header.id));
        }
        let has_to = |plugin: &&Arc<Shared<S>>| {
            (ping.health && plugin.health.is_some()) || (ping.self_test && plugin.self_test.is_some())
        };
        let Some(plugin) = self.plugin.as_ref().filter(has_to) else {
            self.wire.pong(header.id, None);
            return Ok(());
        };
        if self.checking.swap(true, Ordering::AcqRel) {
            self.wire.pong(header.id, Some("the health check before this one is still running".to_owned()));
            return Ok(());
        }
        let (plugin, wire, checking) = (Arc::clone(plugin), Arc::clone(&self.wire), Arc::clone(&self.checking));
        self.tasks.spawn(async move {
            let mut unhealthy = if ping.health { plugin.unhealthy(&wire, HEALTH_WITHIN).await } else { None };
            if ping.self_test && unhealthy.is_none() {
                unhealthy = plugin.unfit(&wire, SELF_TEST_WITHIN).await;
            }
            checking.store(false, Ordering::Release);
            wire.pong(header.id, unhealthy);
        });
        Ok(())
    }

    fn configure(&mut self, header: Header, offer: Configure) -> Result<(), String> {
        let id = header.id;
        if id == 0 || !id.is_multiple_of(2) {
            return Err(format!("Configure with the id {id}, which is not one of the supervisor's"));
        }
        // Offers come only after the phase in which this is set.
        let Some(plugin) = self.plugin.clone() else { return Ok(()) };
        let wire = Arc::clone(&self.wire);
        self.tasks.spawn(async move {
            let configured = plugin.configured(&wire, offer.configuration).await;
            wire.send(Kind::Configured, id, &configured);
        });
        Ok(())
    }

    fn call(&mut self, header: Header, body: &[u8], payload: Arrived<'_>) -> Result<(), String> {
        let id = header.id;
        if !id.is_multiple_of(2) || id <= self.last_call {
            return Err(format!("Call with the id {id}, which does not follow {}", self.last_call));
        }
        self.last_call = id;
        let head: CallHead<'_> = read(Kind::Call, body)?;
        if self.phase == Phase::Draining {
            self.refuse(id, ErrorBody::new(ErrorCode::Unavailable, "the plugin is being drained"));
            return Ok(());
        }
        let Some((facts, handler)) = self.handlers.get(head.action) else {
            let names: Vec<_> = self.handlers.keys().take(NAMES_MAX).map(String::as_str).collect();
            let error = ErrorBody::new(ErrorCode::ActionNotFound, format!("there is no action `{}`", head.action))
                .with_hint(format!("the plugin has: {}", names.join(", ")));
            self.refuse(id, error);
            return Ok(());
        };
        if self.wire.calls_count() >= self.concurrency {
            let message = format!("{} calls are under way, which is the most this plugin takes", self.concurrency);
            let error = ErrorBody::new(ErrorCode::Overloaded, message).with_retry_after_ms(OVERLOADED_RETRY_MS);
            self.refuse(id, error);
            return Ok(());
        }
        let caller = head.caller.map(|caller| match &self.last_caller {
            // Most calls in a row come from one caller.
            Some(last) if **last == *caller => Arc::clone(last),
            _ => Arc::from(caller),
        });
        self.last_caller.clone_from(&caller);
        let deadline = head.deadline_ms.and_then(|ms| self.now.checked_add(Duration::from_millis(ms)));
        let exchange = Exchange::call(id, Arc::clone(&self.wire), Arc::clone(facts), caller, self.now, deadline);
        if header.flags.has(Flags::MORE) {
            if !self.wire.terms().continues {
                return Err(format!("Call {id} is to be continued, which was not agreed on"));
            }
            exchange.begin_joining(match payload {
                Arrived::Slice(slice) => slice.to_vec(),
                Arrived::Joined(bytes) => bytes,
            });
            exchange.enlist();
            return Ok(());
        }
        let handler = Arc::clone(handler);
        self.start(&exchange, &*handler, payload);
        Ok(())
    }

    /// Ends a call that was not begun.
    fn refuse(&self, id: u64, error: ErrorBody) {
        self.wire.write(|out| encode(out, Kind::Err, Flags::NONE, id, &error, &[]));
    }

    fn start(&mut self, exchange: &Arc<Exchange>, handler: &dyn Handler<S>, payload: Arrived<'_>) {
        // Calls come only after the phase in which this is set.
        let Some(plugin) = &self.plugin else { return };
        let call = Call { exchange: Arc::clone(exchange), plugin: Arc::clone(plugin) };
        match handler.start(call, Payload(payload)) {
            // A large result, or the end of a stream, may still have to go out.
            Started::Done => exchange.enlist(),
            Started::Task(task) => {
                exchange.enlist();
                self.tasks.spawn(task);
            }
            Started::Thread(work) => {
                exchange.enlist();
                self.tasks.spawn_blocking(work);
            }
        }
    }

    /// The call of that id; `None` when it has ended.
    fn find(&self, kind: Kind, id: u64) -> Result<Option<Arc<Exchange>>, String> {
        if id == 0 || !id.is_multiple_of(2) || id > self.last_call {
            return Err(format!("{} for the call {id}, which was never begun", kind.name()));
        }
        Ok(self.wire.find(id))
    }

    fn of_call(&mut self, kind: Kind, header: Header, body: &[u8], payload: Arrived<'_>) -> Result<(), String> {
        let id = header.id;
        let Some(exchange) = self.find(kind, id)? else {
            return Ok(());
        };
        let more = header.flags.has(Flags::MORE);
        match kind {
            Kind::Cancel => {
                let cancel: Cancel = read(kind, body)?;
                exchange.cancel(cancel.reason);
            }
            Kind::Continue => match exchange.join(header.len, more, payload).map_err(|error| said(kind, id, &error))? {
                Joined::More | Joined::Ended => {}
                Joined::TooLong { limit } => {
                    let message = format!("the parameters have more than {limit} bytes");
                    let error = ErrorBody::new(ErrorCode::ResourceExhausted, message);
                    exchange.finish(Outcome::Failed(Box::new(error)));
                }
                Joined::Whole(bytes) => {
                    let action = exchange.action.as_deref().map_or("", |action| &action.name);
                    if let Some((_, handler)) = self.handlers.get(action) {
                        let handler = Arc::clone(handler);
                        self.start(&exchange, &*handler, Arrived::Joined(bytes));
                    }
                }
            },
            Kind::StreamOpen => {
                let open: StreamOpen = read(kind, body)?;
                exchange.input_opened(open.kind).map_err(|error| said(kind, id, &error))?;
            }
            Kind::StreamData => {
                if exchange.is_joining() {
                    return Err(said(kind, id, &"the call's parameters are not complete"));
                }
                exchange.input_data(header.len, more, payload).map_err(|error| said(kind, id, &error))?;
            }
            Kind::StreamCredit => {
                let credit: StreamCredit = read(kind, body)?;
                exchange.credit(credit.bytes).map_err(|error| said(kind, id, &error))?;
            }
            Kind::StreamEnd => exchange.input_ended(Ok(())).map_err(|error| said(kind, id, &error))?,
            Kind::StreamAbort => {
                let abort: StreamAbort = read(kind, body)?;
                match abort.by {
                    StreamSide::Sender => {
                        exchange.input_ended(Err(Box::new(abort.error))).map_err(|error| said(kind, id, &error))?;
                    }
                    StreamSide::Receiver => exchange.output_stopped(abort.error),
                }
            }
            // `frame` sends no other kind here.
            _ => {}
        }
        Ok(())
    }

    /// The host call of that id; `None` when nobody waits for it any more.
    fn host_call(&self, kind: Kind, id: u64) -> Result<Option<Arc<Exchange>>, String> {
        if id.is_multiple_of(2) || !self.wire.has_asked(id) {
            return Err(format!("{} for the host call {id}, which was never begun", kind.name()));
        }
        Ok(self.wire.find(id))
    }

    fn host_ok(&mut self, header: Header, payload: Arrived<'_>) -> Result<(), String> {
        let Some(exchange) = self.host_call(Kind::HostOk, header.id)? else { return Ok(()) };
        let bytes = match payload {
            Arrived::Slice(slice) => slice.to_vec(),
            Arrived::Joined(bytes) => bytes,
        };
        if exchange.is_secret() {
            self.wipe = true;
            // A secret is far shorter than a frame.
            exchange.reply(Ok(Bytes::from_owner(Zeroizing::new(bytes))));
        } else if header.flags.has(Flags::MORE) {
            exchange.begin_joining(bytes);
        } else {
            exchange.reply(Ok(Bytes::from(bytes)));
        }
        Ok(())
    }

    fn host_continue(&self, header: Header, payload: Arrived<'_>) -> Result<(), String> {
        let Some(exchange) = self.host_call(Kind::Continue, header.id)? else { return Ok(()) };
        let more = header.flags.has(Flags::MORE);
        match exchange.join(header.len, more, payload).map_err(|error| said(Kind::Continue, header.id, &error))? {
            Joined::More | Joined::Ended => {}
            Joined::TooLong { limit } => {
                return Err(said(Kind::Continue, header.id, &format!("more than {limit} bytes in one payload")));
            }
            Joined::Whole(bytes) => exchange.reply(Ok(Bytes::from(bytes))),
        }
        Ok(())
    }
}

/// Reads a body that was checked before.
fn read<'a, M: Deserialize<'a>>(kind: Kind, body: &'a [u8]) -> Result<M, String> {
    rmp_serde::from_slice(body).map_err(|error| format!("{}: {error}", kind.name()))
}

fn said(kind: Kind, id: u64, error: &dyn std::fmt::Display) -> String {
    format!("{} {id}: {error}", kind.name())
}
