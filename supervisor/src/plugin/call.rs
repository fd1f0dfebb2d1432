//! One call under way, shared by the connection it came from and the generation that works on it.
//!
//! Whoever moves the call to `Done` delivers its one terminal frame; everybody else finds that it has ended. What the caller sends
//! after the call (cancel, stream data, credit) waits here until the generation takes it, so it reaches the plugin in order even
//! if the call waited for a process first, or moved to another one.
//!
//! Bounded: at most the credit's worth of stream data waits (`following` says what that takes), and credit given by the caller is kept as a number.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::{Duration, Instant};

use palisade_protocol::{
    BODY_BYTES_MAX, CREDIT_BYTES, CancelReason, Cancelled, ErrorBody, ErrorCode, Fault, Flags, Kind, STRING_BYTES_MAX,
    check_body,
};

use zeroize::Zeroize;

use super::following::{Follow, Following};
use super::inbox::Inbox;
use crate::model::call::LimitedBy;
use crate::model::status::{CallCounters, clip};
use crate::model::tally::{self, Latencies, Tally};
use crate::wire::{OwnedFrame, wipe_what_was_read};

/// The most credit that may be outstanding in one direction of one call.
pub const CREDIT_OUTSTANDING_MAX: u64 = 1 << 31;

/// Where a call came from and its answers go.
pub trait Caller: Send + Sync + fmt::Debug {
    /// A frame for the caller, under the caller's own id of the call. After a terminal kind without `MORE` (or the last
    /// `Continue` of one with it) nothing more comes for that id.
    fn frame(&self, id: u64, kind: Kind, flags: Flags, content: &[u8], ends: Ends);

    /// The same for a large frame, whose header names kind and flags already.
    fn large(&self, id: u64, frame: OwnedFrame, ends: Ends);

    /// How many of its calls are counted by `counters`. Asked only where there is no room for all calls.
    fn calls_counted(&self, counters: &Arc<Counters>) -> usize;
}

/// Whether a frame is the last of its call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ends {
    /// More frames follow.
    No,
    /// The call is over.
    Yes,
}

/// The parameters, as they arrived.
#[derive(Debug, Clone)]
pub enum Params {
    /// One MessagePack value, or the beginning of one that goes on in `Continue` frames.
    Small(Arc<[u8]>),
    /// The same, with the frame it came in: header and body of the caller's before it.
    Large(Arc<OwnedFrame>, usize),
}

impl Params {
    /// The payload's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(frame, start) => &frame.content()[*start..],
        }
    }

    /// Wipes them, and what they were read from; called while the frame they came in is looked at, by whoever has them last.
    pub fn wipe(self) {
        match self {
            Self::Small(mut bytes) => {
                wipe_what_was_read();
                if let Some(bytes) = Arc::get_mut(&mut bytes) {
                    bytes.zeroize();
                }
            }
            Self::Large(frame, _) => frame.wipe_when_dropped(),
        }
    }
}

/// What a call is made of.
#[derive(Debug)]
pub struct NewCall {
    /// The action's name.
    pub action: Box<str>,
    /// The parameters, or their first piece.
    pub params: Params,
    /// Whether more pieces follow.
    pub more: bool,
    /// How long the caller waits at most, if it said so.
    pub caller_limit: Option<Duration>,
    /// Who calls: `uid:1000`.
    pub caller: Arc<str>,
    /// Where the answers go, and the caller's own id of the call.
    pub reply_to: (Arc<dyn Caller>, u64),
}

/// A call under way.
#[derive(Debug)]
pub struct Call {
    /// The action's name.
    pub action: Box<str>,
    /// The parameters, or their first piece.
    pub params: Params,
    /// Whether more pieces follow the first.
    pub more: bool,
    /// When it arrived.
    pub begun: Instant,
    /// How long the caller waits at most, if it said so.
    pub caller_limit: Option<Duration>,
    /// Who calls.
    pub caller: Arc<str>,
    reply_to: (Arc<dyn Caller>, u64),
    /// It was let in although the plugin has all the calls that it may: one of an agent that has more is to go for it, or it is.
    contends: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: Phase,
    /// Those of the plugin that has it.
    counters: Arc<Counters>,
    /// Until when it may take; the plugin's own limit counts once the action is known.
    deadline: Instant,
    limited_by: LimitedBy,
    limit: Duration,
    follow: Following,
    /// Whether anything followed that can not be sent a second time.
    streamed: bool,
    /// Whether the caller has seen a part of the answer.
    answered: bool,
    /// Credit that the caller granted and the plugin was not told of yet.
    grant: u64,
    /// How much the caller may still send.
    allowance: u64,
    cancel: Option<CancelReason>,
    poked: bool,
    /// How many generations it was written to.
    attempts: u32,
}

#[derive(Debug)]
enum Phase {
    /// No generation has it.
    Waiting,
    /// A generation works on it, under that id.
    Running { inbox: Inbox, id: u64 },
    /// Its terminal frame was delivered.
    Done,
}

/// What the caller did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// More data than credit.
    #[error("stream data of {bytes} bytes, and credit for {allowance}")]
    BeyondCredit {
        /// What it sent.
        bytes: u64,
        /// What it had left.
        allowance: u64,
    },
    /// More credit than can be meant.
    #[error("credit for more than 2 GiB outstanding, or for nothing")]
    Credit,
}

/// What waits for a generation to act upon.
#[derive(Debug, Default)]
pub struct Followed {
    /// Frames in order.
    pub frames: Following,
    /// Whether there are more than were wanted.
    pub rest: bool,
    /// Credit for the plugin's direction.
    pub grant: u64,
    /// The caller wants no answer; said again each time.
    pub cancel: Option<CancelReason>,
}

impl Call {
    /// A call that waits. It is counted as waiting from here on, until it ends.
    #[must_use]
    pub fn new(new: NewCall, plugin_limit: Duration, counters: Arc<Counters>) -> Arc<Self> {
        let begun = Instant::now();
        counters.used(begun);
        let deadline = crate::model::call::deadline(begun, new.caller_limit, None, plugin_limit);
        Arc::new(Self {
            action: new.action,
            params: new.params,
            more: new.more,
            begun,
            caller_limit: new.caller_limit,
            caller: new.caller,
            reply_to: new.reply_to,
            contends: AtomicBool::new(false),
            state: Mutex::new(State {
                phase: Phase::Waiting,
                counters,
                deadline: deadline.at,
                limited_by: deadline.by,
                limit: deadline.limit,
                follow: Following::default(),
                streamed: false,
                answered: false,
                grant: 0,
                allowance: u64::from(CREDIT_BYTES),
                cancel: None,
                poked: false,
                attempts: 0,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a call")
    }

    /// Which agent called: a number that no other connection has while this call is there.
    #[must_use]
    pub fn agent(&self) -> usize {
        Arc::as_ptr(&self.reply_to.0).addr()
    }

    /// Whether these count it.
    #[must_use]
    pub fn is_counted_by(&self, counters: &Arc<Counters>) -> bool {
        Arc::ptr_eq(&self.state().counters, counters)
    }

    /// Has others count it: it waits for another plugin from here on. Says whether it waits at all.
    #[must_use]
    pub fn move_to(&self, counters: &Arc<Counters>) -> bool {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Waiting) {
            return false;
        }
        state.counters.waiting.fetch_sub(1, Ordering::Relaxed);
        counters.waiting.fetch_add(1, Ordering::Relaxed);
        counters.used(self.begun);
        state.counters = counters.clone();
        true
    }

    /// Notes that it was let in beyond the limit.
    pub fn contend(&self) {
        self.contends.store(true, Ordering::Relaxed);
    }

    /// Whether it was, and there are still more than `most`; asked once, by whoever lets it wait.
    pub fn has_to_displace(&self, most: u32) -> bool {
        self.contends.load(Ordering::Relaxed)
            && self.contends.swap(false, Ordering::Relaxed)
            && self.state().counters.present() > most
    }

    /// The caller's own id of the call.
    #[cfg(test)]
    pub(super) fn callers_id(&self) -> u64 {
        self.reply_to.1
    }

    /// Until when it may take.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        self.state().deadline
    }

    /// Sets the limit that follows from the action, now that it is known.
    pub fn limit(&self, action: Option<Duration>, plugin: Duration) {
        let deadline = crate::model::call::deadline(self.begun, self.caller_limit, action, plugin);
        let mut state = self.state();
        state.deadline = deadline.at;
        state.limited_by = deadline.by;
        state.limit = deadline.limit;
    }

    /// The error for a deadline that passed.
    #[must_use]
    pub fn timeout_error(&self, what: &str) -> ErrorBody {
        let state = self.state();
        let (whose, hint) = match state.limited_by {
            LimitedBy::Caller => ("the caller's deadline", "allow more time, for example with --timeout"),
            LimitedBy::Action => ("the action's limit", "the action's `timeout_seconds` in plugin.json sets it"),
            LimitedBy::Plugin => ("the plugin's limit", "`limits.call_timeout_seconds` in plugin.json sets it"),
        };
        let (limit, by) = (state.limit.as_millis(), state.limited_by);
        ErrorBody::new(ErrorCode::Timeout, format!("{what} within {limit} ms, {whose}"))
            .with_hint(hint)
            .with_details(limit_details(state.limit, by))
    }

    /// The error for a deadline that passed while the plugin waited for processor time.
    #[must_use]
    pub fn starved_error(&self, plugin: &str) -> ErrorBody {
        let timeout = self.timeout_error("no answer");
        let mut details = timeout.details.unwrap_or_default();
        if let Some(details) = details.as_object_mut() {
            details.insert("limit".to_owned(), "cpu".into());
        }
        let message = format!("{}; {plugin} was waiting for processor time, mostly", timeout.message);
        ErrorBody::new(ErrorCode::ResourceExhausted, message)
            .with_hint(format!("`palisade limit {plugin} cpu=100%` gives it more, `limits.cpu_percent` lastingly"))
            .with_details(details)
    }

    /// Whether its terminal frame was delivered.
    #[must_use]
    pub fn is_done(&self) -> bool {
        matches!(self.state().phase, Phase::Done)
    }

    // What the caller does.

    /// A frame that the caller sent after the call.
    ///
    /// # Errors
    /// [`FollowError::BeyondCredit`]: the caller broke the protocol.
    pub fn follow(&self, follow: Follow<'_>) -> Result<(), FollowError> {
        let mut state = self.state();
        if matches!(state.phase, Phase::Done) {
            return Ok(());
        }
        if follow.kind().is_some_and(Kind::needs_credit) {
            let bytes = follow.content_bytes() as u64;
            let allowance = state.allowance;
            state.allowance = allowance.checked_sub(bytes).ok_or(FollowError::BeyondCredit { bytes, allowance })?;
        }
        state.streamed = true;
        state.follow.push(follow);
        state.poke();
        Ok(())
    }

    /// Credit that the caller grants for the plugin's direction.
    ///
    /// # Errors
    /// [`FollowError::Credit`] for none, or for more than can be meant.
    pub fn grant(&self, bytes: u32) -> Result<(), FollowError> {
        let mut state = self.state();
        state.grant += u64::from(bytes);
        if bytes == 0 || state.grant > CREDIT_OUTSTANDING_MAX {
            return Err(FollowError::Credit);
        }
        state.poke();
        Ok(())
    }

    /// The caller wants no answer any more. A call that waits ends here; one that runs when the plugin says so.
    pub fn cancel(&self, reason: CancelReason) {
        let mut state = self.state();
        match &state.phase {
            Phase::Done => {}
            Phase::Waiting => {
                drop(state);
                self.cancelled_unbegun("cancelled before it reached the plugin");
            }
            Phase::Running { .. } => {
                state.cancel.get_or_insert(reason);
                state.poke();
            }
        }
    }

    // What the generation does.

    /// A generation takes the call under `id`; `None` if it has ended meanwhile.
    #[must_use]
    pub fn begin(&self, inbox: &Inbox, id: u64) -> Option<Begun> {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Waiting) {
            return None;
        }
        state.phase = Phase::Running { inbox: inbox.clone(), id };
        state.attempts += 1;
        let followed = state.has_followed();
        state.counters.waiting.fetch_sub(1, Ordering::Relaxed);
        state.counters.in_flight.fetch_add(1, Ordering::Relaxed);
        Some(Begun { deadline: state.deadline, followed })
    }

    /// Takes what the caller sent since; of frames about as many bytes as are `wanted`.
    #[must_use]
    pub fn take_followed(&self, wanted: usize) -> Followed {
        let mut state = self.state();
        state.poked = false;
        let frames = state.follow.take(wanted);
        Followed {
            frames,
            rest: !state.follow.is_empty(),
            grant: std::mem::take(&mut state.grant),
            cancel: state.cancel,
        }
    }

    /// The plugin granted credit: the caller may send that much more.
    ///
    /// # Errors
    /// [`FollowError::Credit`] for none, or for more than can be meant.
    pub fn allow(&self, bytes: u32) -> Result<(), FollowError> {
        let mut state = self.state();
        state.allowance += u64::from(bytes);
        if bytes == 0 || state.allowance > CREDIT_OUTSTANDING_MAX {
            return Err(FollowError::Credit);
        }
        Ok(())
    }

    /// How far it came, for deciding whether another generation may have it. `written`: whether its frame left.
    #[must_use]
    pub fn progressed(&self, written: bool) -> (crate::model::call::Progressed, u32) {
        use crate::model::call::Progressed;
        let state = self.state();
        let progressed = match (written, state.answered || state.streamed) {
            (false, false) => Progressed::Unwritten,
            (true, false) => Progressed::Written,
            // What followed is gone with the generation that took it.
            (_, true) => Progressed::Answered,
        };
        (progressed, state.attempts)
    }

    /// Back to waiting, for another generation. Says whether it may wait: a call that was cancelled ends instead.
    pub fn requeue(&self, written: bool) -> bool {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Running { .. }) {
            return false;
        }
        state.phase = Phase::Waiting;
        if !written {
            state.attempts -= 1;
        }
        let cancelled = state.cancel.is_some();
        state.counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        state.counters.waiting.fetch_add(1, Ordering::Relaxed);
        drop(state);
        if cancelled {
            self.cancelled_unbegun("cancelled while the plugin was replaced");
        }
        !cancelled
    }

    /// A frame of the plugin's that does not end the call.
    pub fn pass(&self, kind: Kind, flags: Flags, content: &[u8]) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Done) {
            return;
        }
        // Progress alone can be repeated without harm.
        state.answered |= kind != Kind::Progress;
        drop(state);
        self.reply_to.0.frame(self.reply_to.1, kind, flags, content, Ends::No);
    }

    /// A large frame of the plugin's; `ends` when it completes the answer, which came at `now`.
    pub fn pass_large(&self, frame: OwnedFrame, ends: Ends, now: Instant) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Done) {
            return;
        }
        state.answered = true;
        if ends == Ends::Yes {
            leave(&mut state, (|counters| &counters.ok, Blame::None), Some(now.saturating_duration_since(self.begun)));
        }
        drop(state);
        self.reply_to.0.large(self.reply_to.1, frame, ends);
    }

    /// The plugin's answer, which ends the call and came at `now`. Nothing happens if it has ended.
    pub fn end(&self, kind: Kind, flags: Flags, content: &[u8], now: Instant) {
        self.finish((|counters| &counters.ok, Blame::None), Some(now), kind, flags, content);
    }

    /// The plugin's answer that is an error, which ends the call and came at `now`; whether it came after the call was to be `cancelled`, and why.
    pub fn end_with_error(&self, error: &ErrorBody, cancelled: Option<CancelReason>, now: Instant) {
        let blame = match cancelled {
            _ if error.code.fault() == Fault::Caller => Blame::None,
            Some(CancelReason::Deadline) => Blame::UnlessCallersDeadline,
            Some(_) => Blame::None,
            None => Blame::Plugin,
        };
        // The defaults that the plugin left out are filled in here, once for every kind of caller.
        let body = error_body(error);
        self.finish((|counters| &counters.errors, blame), Some(now), Kind::Err, Flags::NONE, &body);
    }

    /// Ends the call as cancelled.
    pub fn end_cancelled(&self, content: &[u8]) {
        self.finish((|counters| &counters.cancelled, Blame::None), None, Kind::Cancelled, Flags::NONE, content);
    }

    /// Ends the call with an error of the host's.
    pub fn fail(&self, error: &ErrorBody) {
        let blame = match error.code {
            ErrorCode::Timeout => Blame::UnlessCallersDeadline,
            code if code.fault() == Fault::Caller => Blame::None,
            _ => Blame::Plugin,
        };
        self.fail_by(error, blame);
    }

    /// Ends the call, whose deadline has passed, with what follows from that.
    pub fn fail_late(&self, error: &ErrorBody) {
        self.fail_by(error, Blame::UnlessCallersDeadline);
    }

    fn fail_by(&self, error: &ErrorBody, blame: Blame) {
        let ending: Ending = match error.code {
            ErrorCode::Timeout => (|counters| &counters.timed_out, blame),
            ErrorCode::Crashed => (|counters| &counters.crashed, blame),
            ErrorCode::Unavailable | ErrorCode::Overloaded | ErrorCode::InvalidParams | ErrorCode::ActionNotFound => {
                (|counters| &counters.refused, Blame::None)
            }
            _ => (|counters| &counters.errors, blame),
        };
        self.finish(ending, None, Kind::Err, Flags::NONE, &error_body(error));
    }

    fn cancelled_unbegun(&self, message: &str) {
        self.end_cancelled(&body(&Cancelled { message: Some(message.to_owned()) }));
    }

    fn finish(&self, ending: Ending, answered: Option<Instant>, kind: Kind, flags: Flags, content: &[u8]) {
        let mut state = self.state();
        if matches!(state.phase, Phase::Done) {
            return;
        }
        leave(&mut state, ending, answered.map(|now| now.saturating_duration_since(self.begun)));
        drop(state);
        self.reply_to.0.frame(self.reply_to.1, kind, flags, content, Ends::Yes);
    }
}

/// One of the counters of how calls end.
type Which = fn(&Counters) -> &AtomicU64;

/// Where a call is counted, and whose fault its end is.
type Ending = (Which, Blame);

/// Whether the end of a call speaks against the plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blame {
    /// It does not: it went well, or the caller has brought it about.
    None,
    /// It does.
    Plugin,
    /// It does, unless the caller allowed less time than the plugin has.
    UnlessCallersDeadline,
}

/// The one way to `Done`; `took`: after which time the plugin's answer came.
fn leave(state: &mut State, (counter, blame): Ending, took: Option<Duration>) {
    let gauge = match state.phase {
        Phase::Waiting => &state.counters.waiting,
        Phase::Running { .. } | Phase::Done => &state.counters.in_flight,
    };
    gauge.fetch_sub(1, Ordering::Relaxed);
    counter(&state.counters).fetch_add(1, Ordering::Relaxed);
    let is_the_plugins = match blame {
        Blame::None => false,
        Blame::Plugin => true,
        Blame::UnlessCallersDeadline => state.limited_by != LimitedBy::Caller,
    };
    if is_the_plugins {
        state.counters.faults.fetch_add(1, Ordering::Relaxed);
    }
    if let Some(took) = took {
        state.counters.answered(took);
    }
    state.phase = Phase::Done;
    state.follow = Following::default();
}

impl State {
    fn has_followed(&self) -> bool {
        !self.follow.is_empty() || self.grant > 0 || self.cancel.is_some()
    }

    /// Tells the generation that there is something to take; once until it did.
    fn poke(&mut self) {
        if let Phase::Running { inbox, id } = &self.phase
            && !self.poked
        {
            self.poked = inbox.poke(*id);
        }
    }
}

/// What a generation needs to know of a call that it takes.
#[derive(Debug, Clone, Copy)]
pub struct Begun {
    /// Until when it may take.
    pub deadline: Instant,
    /// Whether the caller has sent more already.
    pub followed: bool,
}

/// The calls of one plugin version, counted; `waiting` and `in_flight` together are what admission looks at.
#[derive(Debug)]
pub struct Counters {
    /// What `last_used` counts from.
    since: Instant,
    waiting: AtomicU32,
    in_flight: AtomicU32,
    ok: AtomicU64,
    errors: AtomicU64,
    cancelled: AtomicU64,
    timed_out: AtomicU64,
    crashed: AtomicU64,
    refused: AtomicU64,
    /// Of those that did not end well the ones that speak against the plugin: no caller alone can make them many.
    faults: AtomicU64,
    /// When the last call came, in nanoseconds; 0 for never.
    last_used: AtomicU64,
    /// A bucket each of [`tally`]; most versions are never called.
    latencies: OnceLock<Box<[AtomicU64]>>,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            waiting: AtomicU32::default(),
            in_flight: AtomicU32::default(),
            ok: AtomicU64::default(),
            errors: AtomicU64::default(),
            cancelled: AtomicU64::default(),
            timed_out: AtomicU64::default(),
            crashed: AtomicU64::default(),
            refused: AtomicU64::default(),
            faults: AtomicU64::default(),
            last_used: AtomicU64::default(),
            latencies: OnceLock::new(),
        }
    }
}

impl Counters {
    /// Notes when a call came. No increment: of two that come at once either may be the last.
    fn used(&self, at: Instant) {
        let nanoseconds = at.saturating_duration_since(self.since).as_nanos();
        self.last_used.store(u64::try_from(nanoseconds).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    /// Counts how long the plugin took for an answer.
    fn answered(&self, took: Duration) {
        let buckets = self.latencies.get_or_init(|| (0..tally::BUCKETS).map(|_| AtomicU64::default()).collect());
        if let Some(bucket) = buckets.get(tally::bucket(took)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// All that is kept of it; `now` in both clocks.
    #[must_use]
    pub fn tally(&self, now: Instant, now_unix_ms: u64) -> Tally {
        let CallCounters { ok, errors, cancelled, timed_out, crashed, refused, .. } = self.snapshot();
        let counts = self.latencies.get().into_iter().flatten();
        let used = Some(self.last_used.load(Ordering::Relaxed)).filter(|nanoseconds| *nanoseconds > 0);
        let ago =
            |nanoseconds| now.saturating_duration_since(self.since + Duration::from_nanos(nanoseconds)).as_millis();
        let before = |nanoseconds| now_unix_ms.saturating_sub(u64::try_from(ago(nanoseconds)).unwrap_or(u64::MAX));
        Tally {
            ok,
            errors,
            cancelled,
            timed_out,
            crashed,
            refused,
            latencies: Latencies::of(counts.map(|count| count.load(Ordering::Relaxed))),
            last_used_unix_ms: used.map(before),
        }
    }

    /// Counts a call that comes in, unless `max` are there already.
    pub fn admit(&self, max: u32) -> bool {
        let admitted = self.present() < max;
        if admitted {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        admitted
    }

    /// Counts a call that does not come in.
    pub fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// How many calls there are, waiting or in flight.
    #[must_use]
    pub fn present(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed) + self.in_flight.load(Ordering::Relaxed)
    }

    /// How many calls ended in a way that speaks against the plugin.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    /// The numbers for `status`.
    #[must_use]
    pub fn snapshot(&self) -> CallCounters {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CallCounters {
            in_flight: self.in_flight.load(Ordering::Relaxed),
            waiting: self.waiting.load(Ordering::Relaxed),
            ok: count(&self.ok),
            errors: count(&self.errors),
            cancelled: count(&self.cancelled),
            timed_out: count(&self.timed_out),
            crashed: count(&self.crashed),
            refused: count(&self.refused),
        }
    }
}

/// The `details` of a timeout: a caller knows more of its own limit than what was left of it when the call arrived.
#[must_use]
pub fn limit_details(limit: Duration, by: LimitedBy) -> serde_json::Value {
    serde_json::json!({ "limited_by": by, "limit_ms": u64::try_from(limit.as_millis()).unwrap_or(u64::MAX) })
}

/// Longest message, and longest hint, of an error that did not come in a frame of its size.
const ERROR_TEXT_BYTES_MAX: usize = 4 << 10;

/// An error as the body of a frame. What it names may have come from outside and be as long as a frame; the limits of a body hold
/// all the same, or the one who reads it would take it for a fault.
#[must_use]
pub fn error_body(error: &ErrorBody) -> Vec<u8> {
    let whole = body(error);
    let longest = error.message.len().max(error.hint.as_ref().map_or(0, String::len));
    if whole.len() <= BODY_BYTES_MAX && longest <= STRING_BYTES_MAX && check_body(&whole).is_ok() {
        return whole;
    }
    let mut short = error.clone();
    short.message = clip(&error.message, ERROR_TEXT_BYTES_MAX);
    short.hint = error.hint.as_ref().map(|hint| clip(hint, ERROR_TEXT_BYTES_MAX));
    let with_details = body(&short);
    if with_details.len() <= BODY_BYTES_MAX && check_body(&with_details).is_ok() {
        return with_details;
    }
    short.details = None;
    body(&short)
}

/// A message as the body of a frame.
pub fn body<M: serde::Serialize>(message: &M) -> Vec<u8> {
    // Our messages are structs of plain fields, which MessagePack can always hold.
    rmp_serde::to_vec_named(message).expect("a message is a struct of plain fields")
}

#[cfg(test)]
pub(super) mod tests;
