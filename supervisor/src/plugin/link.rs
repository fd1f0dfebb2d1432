//! The frames between the supervisor and one process of a plugin.
//!
//! The link numbers calls, writes them, checks what comes back against what was asked, keeps credit and order, and turns everything
//! else the plugin says into news for its owner. It performs no wait of its own: `generation` polls it, and asks it at its deadline.
//!
//! Invariants: an id is known from its call until its terminal frame, whatever happened to the caller meanwhile, so an
//! answer under an unknown id is always the plugin's fault; every call handed in comes out again, ended or returned.
//! Elsewhere: what follows from a fault is decided in `model::generation`; who gets a returned call, in `actor`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::actions::SharedActions;
use super::call::{CREDIT_OUTSTANDING_MAX, Call, Ends, error_body};
use super::following::Follow;
use super::host_calls::{Answer, Asked, Hidden, Payload, Pending};
use super::inbox::Inbox;
use super::queue::{Queue, overloaded};
use crate::model::call::{AfterEnd, after_end};
use crate::wire::{Incoming, LARGE_FRAME_BYTES, Lane, Outbox, Ticket, a_frame};
use palisade_protocol::{
    CREDIT_BYTES, Call as CallBody, Cancel, CancelReason, Configure, Configured, Empty, ErrorBody, ErrorCode, Extend,
    FRAME_BYTES_MAX, Flags, Frame, FrameError, Hello, HostCall, Kind, Log, PAYLOAD_BYTES_MAX, Ping, Pong, Ready,
    Refuse, StreamAbort, StreamCredit, StreamOpen, StreamSide,
};

/// So many answers to the plugin's own questions may be written before it has read the first of them; with more it does not
/// read at all.
const ANSWERS_UNREAD_MAX: usize = 1024;

/// So many offers may be without an answer: each was given up after its time.
const OFFERS_MAX: usize = 16;

/// What our own fields may add to a `Call` beside the names of action and caller.
const CALL_BODY_BYTES: usize = 64;

/// While fewer calls wait, those among them that have ended are not looked for.
const SWEPT_FROM: usize = 64;

/// While more than that is to be written, what callers send after their calls stays with the calls, where it takes less memory. So
/// much is written at once in any case where it can be, so that nothing is slower for it.
const FOLLOWING_BYTES: usize = 1 << 20;

/// What the link has heard that concerns more than one call.
#[derive(Debug)]
pub enum News {
    /// First frame.
    Hello(Hello),
    /// Second frame.
    Ready(Box<Ready>),
    /// The plugin will not go on.
    Refused(ErrorBody),
    /// The answer to a ping of ours.
    Pong(Pong),
    /// It has finished.
    Drained,
    /// It needs more time.
    Extend(Extend),
    /// The answer to an offer of ours, under its id.
    Configured(u64, Configured),
    /// It says something.
    Log(Log),
    /// It asks for something.
    HostCall(Asked),
}

/// Why the plugin's generation has to end: a sentence.
pub type Violation = String;

/// How far a stream in one direction of one call has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Unopened,
    Open,
    Ended,
}

/// A call that the plugin was given.
#[derive(Debug)]
struct InFlight {
    call: Arc<Call>,
    ticket: Ticket,
    idempotent: bool,
    endless: bool,
    /// When something has to happen to it: its deadline, or the end of its grace.
    due: Instant,
    /// When the plugin was given it.
    written: Instant,
    /// Until its deadline the plugin had to wait for processor time, mostly.
    throttled: bool,
    stage: Stage,
    output: Stream,
    /// The result has begun and goes on in `Continue` frames.
    result_continues: bool,
    result_bytes: u64,
    /// What the plugin may still send.
    credit: u64,
    /// Whether anything of this call waits in the bulk lane, so that what must not overtake it goes there as well.
    in_bulk: bool,
    /// Whether the plugin may be sent nothing more of a stream: it has aborted it.
    input_refused: bool,
    /// Whether the caller has said that it wants no more of the output stream, which then need not be ended.
    output_refused: bool,
    /// It is among the `lagging`.
    lags: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Working,
    /// It was asked to cancel.
    Cancelling(CancelReason),
    /// It was, and did not. The caller has its answer; the plugin still owes one.
    Overdue,
}

/// An action with a limit of its own.
#[derive(Debug)]
struct Limited {
    busy: u32,
    most: u32,
}

/// What one look at the clock brought.
#[derive(Debug, Default, Clone, Copy)]
pub struct Lapsed {
    /// Calls whose grace ended.
    pub graces_missed: usize,
}

/// The frames between the supervisor and one process.
#[derive(Debug)]
pub struct Link {
    /// What waits to be written.
    pub outbox: Outbox,
    inbox: Inbox,
    calls: HashMap<u64, InFlight, RandomState>,
    /// Calls beyond the concurrency, the plugin's or their action's, their agents in turn. While there is room, only those wait
    /// whose action has as many as it may.
    waiting: Queue,
    /// Calls with frames of their callers' that wait until less is to be written, in turn.
    lagging: VecDeque<u64>,
    /// With so many waiting, those that have ended meanwhile are taken out.
    swept_at: usize,
    concurrency: usize,
    /// The actions with a limit of their own.
    limited: HashMap<Box<str>, Limited>,
    /// The plugin stands still: nothing more is written to it.
    held: bool,
    actions: Option<SharedActions>,
    plugin: Arc<str>,
    plugin_limit: Duration,
    calls_max: u32,
    cancel_grace: Duration,
    streams: bool,
    continues: bool,
    /// Whether it can be configured while it runs.
    configures: bool,
    /// It tests itself when it is asked to.
    tests_itself: bool,
    /// The offers that it has not answered.
    offers: VecDeque<u64>,
    /// Its calls are ended from outside: that it cancels them by itself then is no caller's doing.
    lost: bool,
    last_id: u64,
    last_foreign_id: u64,
    pings: VecDeque<u64>,
    host_calls: Pending,
    answers_unread: usize,
    /// The first of those answers.
    first_answer: Option<Ticket>,
    /// Nothing of any call is due before this.
    next_due: Option<Instant>,
}

/// How a call is written and limited.
#[derive(Debug)]
pub struct LinkSettings {
    /// For messages.
    pub plugin: Arc<str>,
    /// The plugin's limit for a call.
    pub call_limit: Duration,
    /// So many calls the plugin may have, under way and waiting.
    pub calls_max: u32,
    /// How long a cancelled call may take to end.
    pub cancel_grace: Duration,
}

impl Link {
    /// A link over which nothing has passed yet.
    #[must_use]
    pub fn new(inbox: Inbox, settings: LinkSettings) -> Self {
        Self {
            outbox: Outbox::default(),
            inbox,
            calls: HashMap::default(),
            waiting: Queue::default(),
            lagging: VecDeque::new(),
            swept_at: SWEPT_FROM,
            concurrency: 0,
            limited: HashMap::new(),
            held: false,
            actions: None,
            plugin: settings.plugin,
            plugin_limit: settings.call_limit,
            calls_max: settings.calls_max,
            cancel_grace: settings.cancel_grace,
            streams: false,
            continues: false,
            configures: false,
            tests_itself: false,
            offers: VecDeque::new(),
            lost: false,
            last_id: 0,
            last_foreign_id: 0,
            pings: VecDeque::new(),
            host_calls: Pending::default(),
            answers_unread: 0,
            first_answer: None,
            next_due: None,
        }
    }

    /// What was agreed in the handshake.
    pub fn agree(&mut self, features: &[String]) {
        self.streams = features.iter().any(|feature| feature == "streams");
        self.continues = features.iter().any(|feature| feature == "continue");
        self.tests_itself = features.iter().any(|feature| feature == "self_test");
        self.configures = features.iter().any(|feature| feature == "configure");
    }

    /// From now on calls may be written.
    pub fn open(&mut self, actions: SharedActions, concurrency: usize) {
        self.limited = actions.limits().map(|(name, most)| (name.into(), Limited { busy: 0, most })).collect();
        self.actions = Some(actions);
        self.concurrency = concurrency;
    }

    /// No further call is written.
    pub fn close(&mut self) {
        self.concurrency = 0;
    }

    /// No new calls, and those under way end with the process.
    pub fn lose(&mut self) {
        self.close();
        self.lost = true;
    }

    /// How many calls the plugin has.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.calls.len()
    }

    /// Until when nothing of any call is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.next_due
    }

    // Towards the plugin.

    /// Takes a call: writes it, or keeps it until another one ends.
    pub fn take(&mut self, call: Arc<Call>, now: Instant) {
        if self.has_room() && !self.is_full(&call.action) {
            self.write(call, now);
        } else {
            // Calls that are cancelled while they wait stay here until somebody looks, and no longer count against admission.
            if self.waiting.len() >= self.swept_at {
                self.waiting.retain(|call| !call.is_done());
                self.swept_at = SWEPT_FROM + 2 * self.waiting.len();
            }
            if call.has_to_displace(self.calls_max) {
                let agent = call.agent();
                let works = self.calls.values().any(|flight| flight.call.agent() == agent);
                let error = overloaded(&self.plugin, self.calls_max);
                match self.waiting.displace(agent, works) {
                    Some(displaced) => displaced.fail(&error),
                    None => return call.fail(&error),
                }
            }
            self.due(call.deadline());
            self.waiting.push(call);
        }
    }

    /// Whether the plugin has as many calls of that action as the manifest allows.
    fn is_full(&self, action: &str) -> bool {
        self.limited.get(action).is_some_and(|limited| limited.busy >= limited.most)
    }

    fn has_room(&self) -> bool {
        self.calls.len() < self.concurrency && !self.held
    }

    /// Writes calls that waited, as far as the concurrency allows.
    fn refill(&mut self, now: Instant) {
        while self.has_room() {
            let limited = &self.limited;
            let may = |call: &Call| limited.get(&call.action).is_none_or(|limited| limited.busy < limited.most);
            let Some(call) = self.waiting.take_next(may) else { return };
            self.write(call, now);
        }
    }

    fn write(&mut self, call: Arc<Call>, now: Instant) {
        let Some(actions) = &self.actions else { return call.fail(&unavailable(&self.plugin)) };
        let action = match actions.get(&self.plugin, &call.action) {
            Ok(action) => action,
            Err(error) => return call.fail(&error),
        };
        let params = call.params.bytes();
        if !self.continues && (call.more || params.len() >= FRAME_BYTES_MAX as usize) {
            let message = format!("{} takes no parameters larger than one frame", self.plugin);
            return call.fail(&ErrorBody::new(ErrorCode::InvalidParams, message));
        }
        // Our body may be longer than the agent's was, and the plugin would have to take the frame for a fault of ours.
        if params.len() + call.action.len() + call.caller.len() + CALL_BODY_BYTES > FRAME_BYTES_MAX as usize {
            let message = format!("{} bytes of parameters in one frame leave no room for the rest of it", params.len());
            let error = ErrorBody::new(ErrorCode::InvalidParams, message);
            return call.fail(&error.with_hint("send them in pieces: the first with MORE, the others as Continue"));
        }
        if !call.more
            && let Err(error) = action.check(params)
        {
            let hint = format!("`palisade info {} {}` shows its schema", self.plugin, call.action);
            return call.fail(&error.with_hint(hint));
        }
        call.limit(action.limit(), self.plugin_limit);
        let (idempotent, endless) = (action.idempotent, action.endless);
        self.last_id += 2;
        let id = self.last_id;
        let Some(begun) = call.begin(&self.inbox, id) else { return };
        let left = begun.deadline.saturating_duration_since(now);
        let message = CallBody {
            action: &call.action,
            plugin: None,
            version: None,
            deadline_ms: Some(u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            caller: Some(&call.caller),
        };
        let flags = if call.more { Flags::MORE } else { Flags::NONE };
        let large = params.len() >= LARGE_FRAME_BYTES;
        let ticket = if large {
            self.outbox.bulk_message(Kind::Call, flags, id, &message, params)
        } else {
            self.outbox.message(Kind::Call, flags, id, &message, params)
        };
        self.due(begun.deadline);
        if let Some(limited) = self.limited.get_mut(&call.action) {
            limited.busy += 1;
        }
        self.calls.insert(
            id,
            InFlight {
                call,
                ticket,
                idempotent,
                endless,
                due: begun.deadline,
                written: now,
                throttled: false,
                stage: Stage::Working,
                output: Stream::Unopened,
                result_continues: false,
                result_bytes: 0,
                credit: u64::from(CREDIT_BYTES),
                in_bulk: large,
                input_refused: false,
                output_refused: false,
                lags: false,
            },
        );
        if begun.followed {
            self.poke(id, now);
        }
    }

    /// The caller of that call sent something.
    pub fn poke(&mut self, id: u64, now: Instant) {
        let Some(flight) = self.calls.get_mut(&id) else { return };
        let followed = flight.call.take_followed(FOLLOWING_BYTES.saturating_sub(self.outbox.bytes()));
        if followed.rest && !flight.lags {
            flight.lags = true;
            self.lagging.push_back(id);
        }
        // What a caller grants beyond what may be outstanding is not passed on: to the plugin it would be our violation.
        let grant = followed.grant.min(CREDIT_OUTSTANDING_MAX.saturating_sub(flight.credit));
        if grant > 0 {
            flight.credit += grant;
            let credit = StreamCredit { bytes: u32::try_from(grant).unwrap_or(u32::MAX) };
            if flight.in_bulk && !self.outbox.has_begun(flight.ticket) {
                // It must not arrive before the call that it is for.
                self.outbox.bulk_message(Kind::StreamCredit, Flags::NONE, id, &credit, &[]);
            } else {
                self.outbox.message(Kind::StreamCredit, Flags::NONE, id, &credit, &[]);
            }
        }
        let mut refused = false;
        let (outbox, streams) = (&mut self.outbox, self.streams);
        followed.frames.for_each_while(|follow| {
            refused = !streams && matches!(&follow, Follow::Small(kind, ..) if *kind != Kind::Continue);
            if !refused {
                forward(outbox, flight, id, follow);
            }
            !refused
        });
        if refused {
            let message = format!("{} reads no streams", self.plugin);
            flight.call.fail(&ErrorBody::new(ErrorCode::StreamingNotSupported, message));
            if flight.stage == Stage::Working {
                cancel(&mut self.outbox, flight, id, CancelReason::Caller, now + self.cancel_grace);
                self.next_due = earlier(self.next_due, flight.due);
            }
            return;
        }
        match (followed.cancel, flight.stage) {
            (Some(reason), Stage::Working) => {
                cancel(&mut self.outbox, flight, id, reason, now + self.cancel_grace);
                self.next_due = earlier(self.next_due, flight.due);
            }
            // The plugin knows already; but it is the caller now who wants no answer, and is not told to come back.
            (Some(reason), Stage::Cancelling(CancelReason::Draining)) => flight.stage = Stage::Cancelling(reason),
            (Some(_), Stage::Cancelling(_) | Stage::Overdue) | (None, _) => {}
        }
    }

    /// Whether callers have sent what waits for room, and there is room now.
    #[must_use]
    pub fn can_catch_up(&self) -> bool {
        !self.lagging.is_empty() && self.outbox.bytes() < FOLLOWING_BYTES / 2
    }

    /// Takes of that as much as there is room for, from one call after the other.
    pub fn catch_up(&mut self, now: Instant) {
        while self.can_catch_up()
            && let Some(id) = self.lagging.pop_front()
        {
            if let Some(flight) = self.calls.get_mut(&id) {
                flight.lags = false;
                self.poke(id, now);
            }
        }
    }

    /// The same for every call, when it is not known which.
    pub fn poke_all(&mut self, now: Instant) {
        let mut ids: Vec<_> = self.calls.keys().copied().collect();
        ids.sort_unstable();
        for id in ids {
            self.poke(id, now);
        }
    }

    /// Sends a ping, with which it is to test itself if it can.
    pub fn ping(&mut self, health: bool, self_test: bool) {
        self.last_id += 2;
        self.pings.push_back(self.last_id);
        let ping = Ping { health, self_test: self_test && self.tests_itself };
        self.outbox.message(Kind::Ping, Flags::NONE, self.last_id, &ping, &[]);
    }

    /// Asks whether it can go on with this configuration, and says under which id. `None` where it knows no such question, or has left too many
    /// without an answer.
    pub fn configure(&mut self, configuration: &serde_json::Value) -> Option<u64> {
        if !self.configures || self.offers.len() == OFFERS_MAX {
            return None;
        }
        self.last_id += 2;
        self.offers.push_back(self.last_id);
        let offer = Configure { configuration: configuration.clone() };
        self.outbox.message(Kind::Configure, Flags::NONE, self.last_id, &offer, &[]);
        Some(self.last_id)
    }

    /// Sends a message of the connection itself.
    pub fn send<M: serde::Serialize>(&mut self, kind: Kind, message: &M) {
        self.outbox.message(kind, Flags::NONE, 0, message, &[]);
    }

    /// Answers a host call.
    pub fn answer(&mut self, id: u64, answer: Answer) {
        let (ticket, length) = match answer {
            Ok(Payload::Secret(Hidden(payload))) => {
                (self.outbox.secret_message(Kind::HostOk, id, &Empty {}, &payload), payload.len())
            }
            Ok(Payload::Plain(payload)) => {
                let ticket = if payload.len() < LARGE_FRAME_BYTES {
                    self.outbox.message(Kind::HostOk, Flags::NONE, id, &Empty {}, &payload)
                } else {
                    self.outbox.bulk_message(Kind::HostOk, Flags::NONE, id, &Empty {}, &payload)
                };
                (ticket, payload.len())
            }
            Err(error) => {
                let body = error_body(&error);
                (self.outbox.content(Lane::Small, Kind::HostErr, Flags::NONE, id, &body), body.len())
            }
        };
        self.host_calls.answered(id, ticket, length);
        self.first_answer.get_or_insert(ticket);
    }

    // The clock.

    fn due(&mut self, at: Instant) {
        self.next_due = earlier(self.next_due, at);
    }

    /// Deals with everything that is due at `now`. While the plugin is paused its graces stand still, but its callers' deadlines do
    /// not.
    ///
    /// `throttled` says whether the plugin has mostly waited for processor time since an instant; it is asked of calls whose time is over.
    pub fn lapse(&mut self, now: Instant, paused: bool, throttled: impl Fn(Instant) -> bool) -> Lapsed {
        let mut lapsed = Lapsed::default();
        let mut next: Option<Instant> = None;
        for (id, flight) in &mut self.calls {
            if flight.due <= now {
                match flight.stage {
                    Stage::Working => {
                        let grace_ends = now + self.cancel_grace;
                        flight.throttled = !paused && throttled(flight.written);
                        cancel(&mut self.outbox, flight, *id, CancelReason::Deadline, grace_ends);
                        if paused {
                            let error = flight.call.timeout_error("no answer from the paused plugin");
                            flight.call.fail(&error.with_hint(format!("`palisade resume {}`", self.plugin)));
                        }
                    }
                    // It cannot answer. Its grace begins when it goes on.
                    Stage::Cancelling(_) if paused => {}
                    Stage::Cancelling(reason) => {
                        lapsed.graces_missed += 1;
                        flight.stage = Stage::Overdue;
                        overdue_answer(flight, reason, &self.plugin);
                    }
                    Stage::Overdue => {}
                }
            }
            match flight.stage {
                Stage::Overdue => {}
                Stage::Cancelling(_) if paused => {}
                Stage::Working | Stage::Cancelling(_) => next = earlier(next, flight.due),
            }
        }
        let plugin = &self.plugin;
        let why = if paused { "is paused" } else { "was busy with other calls" };
        self.waiting.retain(|call| {
            if call.is_done() {
                return false;
            }
            let deadline = call.deadline();
            if deadline <= now {
                call.fail(&call.timeout_error(&format!("{plugin} {why}: not begun")));
                return false;
            }
            next = earlier(next, deadline);
            true
        });
        self.next_due = next;
        lapsed
    }

    /// The plugin stands still: what comes waits.
    pub fn hold(&mut self) {
        self.held = true;
    }

    /// The plugin runs again after standing still; the calls that it was asked to cancel have their whole grace from now on.
    pub fn go_on(&mut self, now: Instant) {
        self.held = false;
        for flight in self.calls.values_mut() {
            if let Stage::Cancelling(_) = flight.stage {
                flight.due = now + self.cancel_grace;
                self.next_due = earlier(self.next_due, flight.due);
            }
        }
        self.refill(now);
    }

    /// The plugin drains: calls that have no end of their own are cancelled at once.
    pub fn cancel_endless(&mut self, now: Instant) {
        for (id, flight) in &mut self.calls {
            if flight.endless && flight.stage == Stage::Working {
                cancel(&mut self.outbox, flight, *id, CancelReason::Draining, now + self.cancel_grace);
                self.next_due = earlier(self.next_due, flight.due);
            }
        }
    }

    // From the plugin.

    /// One frame of the plugin's. `Some` is news for the owner.
    ///
    /// # Errors
    /// A [`Violation`] when the frame is malformed or makes no sense; the generation has to end.
    pub fn heard(&mut self, incoming: Incoming<'_>, now: Instant) -> Result<Option<News>, Violation> {
        match incoming {
            Incoming::Small(frame) => self.heard_small(&frame, now),
            Incoming::Large(owned) => {
                let frame = Frame { header: owned.header(), content: owned.content() };
                let kind = frame.kind().map_err(sentence)?;
                match kind {
                    Some(kind @ (Kind::Ok | Kind::StreamData | Kind::Continue)) => {
                        frame.parts(kind).map_err(sentence)?;
                        let id = frame.header.id;
                        let flags = frame.header.flags;
                        let length = frame.content.len();
                        let Some(flight) = self.answering(kind, id)? else { return Ok(None) };
                        let Verdict { kind, ends } = flight.judge(kind, flags, length)?;
                        flight.call.pass_large(owned.readdressed(kind, flags, id), ends, now);
                        if ends == Ends::Yes {
                            self.ended(id, now);
                        }
                        Ok(None)
                    }
                    _ => self.heard_small(&frame, now),
                }
            }
        }
    }

    fn heard_small(&mut self, frame: &Frame<'_>, now: Instant) -> Result<Option<News>, Violation> {
        let Some(kind) = frame.kind().map_err(sentence)? else { return Ok(None) };
        let id = frame.header.id;
        match kind {
            Kind::Ok | Kind::StreamData | Kind::Continue | Kind::StreamOpen | Kind::StreamEnd => {
                frame.parts(kind).map_err(sentence)?;
                let flags = frame.header.flags;
                let Some(flight) = self.answering(kind, id)? else { return Ok(None) };
                if kind == Kind::StreamOpen {
                    frame.message::<StreamOpen>(kind).map_err(sentence)?;
                }
                let Verdict { kind, ends } = flight.judge(kind, flags, frame.content.len())?;
                match ends {
                    Ends::No => flight.call.pass(kind, flags, frame.content),
                    Ends::Yes => {
                        flight.call.end(kind, flags, frame.content, now);
                        self.ended(id, now);
                    }
                }
                Ok(None)
            }
            Kind::Err => {
                let (error, _) = frame.message::<ErrorBody>(kind).map_err(sentence)?;
                let Some(flight) = self.answering(kind, id)? else { return Ok(None) };
                let cancelled = match flight.stage {
                    Stage::Cancelling(reason) => Some(reason),
                    Stage::Working | Stage::Overdue => None,
                };
                flight.call.end_with_error(&error, cancelled, now);
                self.ended(id, now);
                Ok(None)
            }
            Kind::Cancelled => {
                frame.parts(kind).map_err(sentence)?;
                let (plugin, lost) = (self.plugin.clone(), self.lost);
                let Some(flight) = self.answering(kind, id)? else { return Ok(None) };
                match flight.stage {
                    // Answered with the reason when the process is gone.
                    Stage::Working if lost => return Ok(None),
                    Stage::Cancelling(CancelReason::Deadline) => {
                        flight.call.fail_late(&timed_out(flight, &plugin));
                    }
                    Stage::Cancelling(CancelReason::Draining) => flight.call.fail(&drained(&plugin)),
                    _ => flight.call.end_cancelled(frame.content),
                }
                self.ended(id, now);
                Ok(None)
            }
            Kind::Progress => {
                frame.message::<palisade_protocol::Progress>(kind).map_err(sentence)?;
                let Some(flight) = self.answering(kind, id)? else { return Ok(None) };
                flight.call.pass(kind, Flags::NONE, frame.content);
                Ok(None)
            }
            Kind::StreamCredit => {
                let (credit, _) = frame.message::<StreamCredit>(kind).map_err(sentence)?;
                let Some(flight) = self.answering(kind, id)? else { return Ok(None) };
                flight.call.allow(credit.bytes).map_err(|error| format!("call {id}: {error}"))?;
                flight.call.pass(kind, Flags::NONE, frame.content);
                Ok(None)
            }
            Kind::StreamAbort => {
                let (abort, _) = frame.message::<StreamAbort>(kind).map_err(sentence)?;
                let Some(flight) = self.answering(kind, id)? else { return Ok(None) };
                match abort.by {
                    StreamSide::Sender => flight.output = Stream::Ended,
                    StreamSide::Receiver => flight.input_refused = true,
                }
                flight.call.pass(kind, Flags::NONE, frame.content);
                Ok(None)
            }
            Kind::Hello => Ok(Some(News::Hello(frame.message(kind).map_err(sentence)?.0))),
            Kind::Ready => Ok(Some(News::Ready(Box::new(frame.message(kind).map_err(sentence)?.0)))),
            Kind::Refuse => Ok(Some(News::Refused(frame.message::<Refuse>(kind).map_err(sentence)?.0.error))),
            Kind::Drained => {
                frame.parts(kind).map_err(sentence)?;
                Ok(Some(News::Drained))
            }
            Kind::Extend => Ok(Some(News::Extend(frame.message(kind).map_err(sentence)?.0))),
            Kind::Log => Ok(Some(News::Log(frame.message(kind).map_err(sentence)?.0))),
            Kind::Pong => {
                let (pong, _) = frame.message(kind).map_err(sentence)?;
                match self.pings.iter().position(|ping| *ping == id) {
                    Some(place) => {
                        self.pings.drain(..=place);
                        Ok(Some(News::Pong(pong)))
                    }
                    None => Err(format!("a Pong under id {id}, which no ping has")),
                }
            }
            Kind::Configured => {
                let (configured, _) = frame.message(kind).map_err(sentence)?;
                match self.offers.iter().position(|offer| *offer == id) {
                    Some(place) => {
                        self.offers.remove(place);
                        Ok(Some(News::Configured(id, configured)))
                    }
                    None => Err(format!("a Configured under id {id}, which no offer has")),
                }
            }
            Kind::Ping => {
                frame.message::<Ping>(kind).map_err(sentence)?;
                self.asked(id)?;
                let ticket = self.outbox.message(Kind::Pong, Flags::NONE, id, &Pong::default(), &[]);
                self.first_answer.get_or_insert(ticket);
                Ok(None)
            }
            Kind::HostCall => {
                let (call, params) = frame.message::<HostCall<'_>>(kind).map_err(sentence)?;
                self.asked(id)?;
                if frame.header.flags.has(Flags::MORE) {
                    return Err("a HostCall with MORE; no host call of this version takes that much".to_owned());
                }
                if let Err(error) = self.host_calls.begin(id, params.len(), &self.outbox) {
                    self.answer(id, Err(error));
                    return Ok(None);
                }
                let HostCall { op, call } = call;
                Ok(Some(News::HostCall(Asked { id, op: op.to_owned(), params: params.to_vec(), call })))
            }
            Kind::Welcome
            | Kind::Drain
            | Kind::Configure
            | Kind::Call
            | Kind::Cancel
            | Kind::HostOk
            | Kind::HostErr => Err(format!("{}, which only the supervisor sends", a_frame(kind))),
        }
    }

    /// The plugin begins an exchange of its own.
    fn asked(&mut self, id: u64) -> Result<(), Violation> {
        if id.is_multiple_of(2) || id <= self.last_foreign_id {
            let last = self.last_foreign_id;
            return Err(format!(
                "an exchange of its own under id {id}; it has to be odd and above the last one, {last}"
            ));
        }
        self.last_foreign_id = id;
        self.answers_unread += 1;
        if self.answers_unread > ANSWERS_UNREAD_MAX {
            if self.first_answer.is_some_and(|first| self.outbox.has_begun(first)) {
                self.answers_unread = 1;
                self.first_answer = None;
                return Ok(());
            }
            return Err(format!("asks, and does not read the answers: {ANSWERS_UNREAD_MAX} wait"));
        }
        Ok(())
    }

    /// The call that a frame belongs to.
    fn answering(&mut self, kind: Kind, id: u64) -> Result<Option<&mut InFlight>, Violation> {
        match self.calls.get_mut(&id) {
            Some(flight) => Ok(Some(flight)),
            None if id.is_multiple_of(2) && id > 0 && id <= self.last_id => {
                Err(format!("{} for call {id}, which has ended", a_frame(kind)))
            }
            None => Err(format!("{} for call {id}, which was never made", a_frame(kind))),
        }
    }

    /// The plugin owes nothing more for that call.
    fn ended(&mut self, id: u64, now: Instant) {
        if let Some(flight) = self.calls.remove(&id) {
            if let Some(limited) = self.limited.get_mut(&flight.call.action) {
                limited.busy -= 1;
            }
            if flight.lags {
                self.lagging.retain(|lagging| *lagging != id);
            }
        }
        if !self.waiting.is_empty() {
            self.refill(now);
        }
    }

    // The end.

    /// Takes back the calls that were not written yet, for another generation.
    pub fn take_waiting(&mut self) -> Vec<Arc<Call>> {
        self.waiting.drain()
    }

    /// The process is gone: ends its calls with what `error` says, and returns those that another generation may have.
    #[must_use]
    pub fn dissolve(&mut self, now: Instant, error: impl Fn(bool) -> ErrorBody) -> Vec<Arc<Call>> {
        let mut returned = Vec::new();
        let mut calls: Vec<_> = self.calls.drain().collect();
        calls.sort_by_key(|(id, _)| *id);
        for (_, flight) in calls {
            let written = self.outbox.has_begun(flight.ticket);
            let (progressed, attempts) = flight.call.progressed(written);
            let repeatable = flight.stage == Stage::Working && !flight.call.more;
            let after = after_end(progressed, flight.idempotent, attempts, flight.call.deadline(), now);
            if repeatable && after == AfterEnd::Repeat {
                if flight.call.requeue(written) {
                    returned.push(flight.call);
                }
            } else {
                match flight.stage {
                    Stage::Cancelling(reason) => overdue_answer(&flight, reason, &self.plugin),
                    Stage::Working | Stage::Overdue => flight.call.fail(&error(written)),
                }
            }
        }
        returned.extend(self.waiting.drain());
        returned
    }
}

/// What a frame means for its call.
struct Verdict {
    kind: Kind,
    ends: Ends,
}

impl InFlight {
    /// Checks a frame of the answer against what came before, and keeps the account.
    fn judge(&mut self, kind: Kind, flags: Flags, length: usize) -> Result<Verdict, Violation> {
        let more = flags.has(Flags::MORE);
        if kind.needs_credit() {
            self.credit = self
                .credit
                .checked_sub(length as u64)
                .ok_or_else(|| format!("a {} of {length} bytes with credit for {}", kind.name(), self.credit))?;
        }
        if self.result_continues && !matches!(kind, Kind::Continue) {
            return Err(format!("{} in the middle of a result that continues", a_frame(kind)));
        }
        let ends = match kind {
            Kind::Ok if self.output == Stream::Open && !self.output_refused => {
                return Err("an Ok frame while its output stream is open".to_owned());
            }
            Kind::Ok | Kind::Continue => {
                if kind == Kind::Continue && !self.result_continues {
                    return Err("a Continue frame, and nothing to continue".to_owned());
                }
                self.result_bytes += length as u64;
                // Each piece has a byte of body as well; a frame of slack covers them all.
                if self.result_bytes > PAYLOAD_BYTES_MAX + u64::from(FRAME_BYTES_MAX) {
                    return Err(format!("a result of more than {PAYLOAD_BYTES_MAX} bytes"));
                }
                self.result_continues = more;
                if more { Ends::No } else { Ends::Yes }
            }
            Kind::StreamOpen if self.output != Stream::Unopened => {
                return Err("a second output stream".to_owned());
            }
            Kind::StreamOpen => {
                self.output = Stream::Open;
                Ends::No
            }
            Kind::StreamData | Kind::StreamEnd if self.output != Stream::Open => {
                let state = if self.output == Stream::Ended { "has ended" } else { "was not opened" };
                return Err(format!("{} on a stream that {state}", a_frame(kind)));
            }
            Kind::StreamEnd => {
                self.output = Stream::Ended;
                Ends::No
            }
            _ => Ends::No,
        };
        Ok(Verdict { kind, ends })
    }
}

/// Writes a frame that the caller sent after the call.
fn forward(outbox: &mut Outbox, flight: &mut InFlight, id: u64, follow: Follow<'_>) {
    let aborts = matches!(&follow, Follow::Small(Kind::StreamAbort, ..));
    if flight.input_refused && !aborts {
        return;
    }
    match follow {
        Follow::Small(kind, flags, content) => {
            if aborts && let Ok(StreamAbort { by: StreamSide::Receiver, .. }) = rmp_serde::from_slice(content) {
                flight.output_refused = true;
            }
            let lane = if kind == Kind::StreamOpen && !flight.in_bulk { Lane::Small } else { Lane::Bulk };
            outbox.content(lane, kind, flags, id, content);
            flight.in_bulk |= lane == Lane::Bulk;
        }
        Follow::Large(frame) => {
            let header = frame.header();
            let kind = Kind::from_number(header.kind).unwrap_or(Kind::Continue);
            outbox.frame(frame.readdressed(kind, header.flags, id));
            flight.in_bulk = true;
        }
    }
}

/// Asks the plugin to cancel.
fn cancel(outbox: &mut Outbox, flight: &mut InFlight, id: u64, reason: CancelReason, grace_ends: Instant) {
    // A call must not be overtaken by its own cancellation.
    if flight.in_bulk && !outbox.has_begun(flight.ticket) {
        outbox.bulk_message(Kind::Cancel, Flags::NONE, id, &Cancel { reason }, &[]);
    } else {
        outbox.message(Kind::Cancel, Flags::NONE, id, &Cancel { reason }, &[]);
    }
    flight.stage = Stage::Cancelling(reason);
    flight.due = grace_ends;
}

/// What the caller is told whose call had no answer in time.
fn timed_out(flight: &InFlight, plugin: &str) -> ErrorBody {
    if flight.throttled { flight.call.starved_error(plugin) } else { flight.call.timeout_error("no answer") }
}

/// What the caller is told when a cancelled call does not end, or its process does.
fn overdue_answer(flight: &InFlight, reason: CancelReason, plugin: &str) {
    match reason {
        CancelReason::Deadline => flight.call.fail_late(&timed_out(flight, plugin)),
        CancelReason::Draining => flight.call.fail(&drained(plugin)),
        CancelReason::Caller | CancelReason::Other => {
            let body = super::call::body(&palisade_protocol::Cancelled { message: None });
            flight.call.end_cancelled(&body);
        }
    }
}

fn earlier(so_far: Option<Instant>, at: Instant) -> Option<Instant> {
    Some(so_far.map_or(at, |so_far| so_far.min(at)))
}

fn sentence(error: FrameError) -> Violation {
    error.to_string()
}

fn unavailable(plugin: &str) -> ErrorBody {
    ErrorBody::new(ErrorCode::Unavailable, format!("{plugin} takes no calls at the moment"))
}

/// What the caller of an endless action is told when the process that served it is stopped: nobody of its own cancelled the call.
fn drained(plugin: &str) -> ErrorBody {
    let message = format!("{plugin} ended the call, as this process of it is being stopped");
    ErrorBody::new(ErrorCode::Unavailable, message)
        .with_hint("call again: the process that comes after it takes the call")
}

/// A `Log` frame may hold that much.
pub const LOG_FIELDS_BYTES_MAX: usize = 8 << 10;

#[cfg(test)]
mod tests;
