//! The life of one process of a plugin, from its launch to its proven end.
//!
//! ```text
//! starting ─Hello─▶ loaded ─Ready─▶ initialized ─healthy─▶ active ⇄ paused
//!     └──────────────┴── fault, stop ──┴────────────────────┤
//!                                            draining ◀─────┤ DrainAsked
//!                                                └─Drained──▶ stopping ─Exited─▶ gone(reason)
//! ```
//!
//! Stopping is a ladder: the input is closed, which every SDK takes for "exit"; SIGTERM; SIGKILL of the tree. Each step has
//! its time, so that whatever a plugin does, its generation ends.
//!
//! Invariants: a route is offered once, in `active`, and withdrawn exactly once on the way out of active or paused; whoever
//! had the route has its calls failed exactly once; `gone` is final; every other state but `paused` has a deadline.
//! The owner calls `step` with `Event::Tick` at `deadline()`, and again as long as the deadline has passed.
//!
//! Elsewhere: whether a successor is started is decided in `plugin`; frames are read and written by `link`; how a process
//! ended is found out by `process`.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::exit::Exit;
use super::limits::Kind;
use super::overdue::{Misses, OnOverdue};
use super::watchdog::{self, Due, Watchdog};

/// How long each part of a life may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From launch to Ready, unless the plugin asks for more.
    pub start_timeout: Duration,
    /// The most it can ask for, counted from the launch.
    pub start_extended_max: Duration,
    /// For the first answer about its health; whatever remains of the start timeout counts as well.
    pub health_timeout: Duration,
    /// Between the closed input and SIGTERM.
    pub close_wait: Duration,
    /// Between SIGTERM and SIGKILL.
    pub stop_grace: Duration,
    /// Between one SIGKILL and the next.
    pub kill_wait: Duration,
    pub watchdog: watchdog::Settings,
    pub on_overdue: OnOverdue,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            start_timeout: Duration::from_secs(10),
            start_extended_max: Duration::from_secs(120),
            health_timeout: Duration::from_secs(5),
            close_wait: Duration::from_secs(1),
            stop_grace: Duration::from_secs(5),
            kill_wait: Duration::from_secs(2),
            watchdog: watchdog::Settings::default(),
            on_overdue: OnOverdue::default(),
        }
    }
}

/// From this attempt on, the launcher is killed as well: what it leaves behind dies with its lifeline.
const KILLS_BEFORE_LAUNCHER: u32 = 2;

/// After so many attempts the machine ends without a proof, and says so. Only a process stuck in the kernel gets here.
pub const KILLS_MAX: u32 = 5;

/// One process of a plugin. Which generation serves is `plugin::State`'s business.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// Being launched, or launched and still silent.
    Starting {
        hello_by: Instant,
        cap: Instant,
    },
    /// It said hello and was welcomed.
    Loaded {
        ready_by: Instant,
        cap: Instant,
    },
    /// It is ready, and was asked how it feels.
    Initialized {
        healthy_by: Instant,
        cap: Instant,
    },
    Active {
        since: Instant,
        watchdog: Watchdog,
        misses: Misses,
    },
    /// Frozen; every clock of it stands still.
    Paused {
        since: Instant,
        paused_at: Instant,
        watchdog: Watchdog,
        misses: Misses,
    },
    /// It takes no new calls and finishes what it has.
    Draining {
        until: Instant,
        why: StopWhy,
    },
    Stopping {
        step: StopStep,
        next_at: Instant,
        ending: Ending,
    },
    /// No process is left, or, for `Reason::Unconfirmed`, none that could be reached.
    Gone {
        reason: Reason,
        exit: Option<Exit>,
    },
}

/// The rungs of the ladder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopStep {
    /// Its input is closed.
    Closing,
    /// It was sent SIGTERM.
    Terminating,
    /// The tree was sent SIGKILL, so many times.
    Killing { attempts: u32 },
}

/// What will have been the reason once the process is gone.
#[derive(Debug, Clone, PartialEq)]
pub enum Ending {
    Decided(Reason),
    /// Its pipes ended in this phase, as they do when a process dies. The exit is waited for, because it is the reason;
    /// unless it had been told to drain and ends cleanly, which is one way to obey.
    Vanished {
        during: Phase,
        why: Option<StopWhy>,
    },
}

/// Why a generation was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopWhy {
    Operator,
    /// An operator's restart.
    Restart,
    Idle,
    /// Its successor has the route.
    Replaced,
    /// Too many cancelled calls did not end.
    Overdue {
        missed: u32,
    },
    /// It was a candidate, and is not wanted.
    Dropped,
    Shutdown,
    Unload,
    Dependency,
}

impl fmt::Display for StopWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("stopped by the operator"),
            Self::Restart => f.write_str("stopped to be restarted"),
            Self::Idle => f.write_str("stopped after being idle"),
            Self::Replaced => f.write_str("replaced by its successor"),
            Self::Overdue { missed } => {
                write!(f, "replaced, as {missed} cancelled calls did not end within their grace")
            }
            Self::Dropped => f.write_str("a candidate that was not wanted any more"),
            Self::Shutdown => f.write_str("stopped with the daemon"),
            Self::Unload => f.write_str("unloaded"),
            Self::Dependency => f.write_str("stopped together with what it depends on"),
        }
    }
}

/// Why a generation is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It was told to stop.
    Stopped {
        why: StopWhy,
    },
    /// It was replaced because it did not end cancelled calls.
    Overdue {
        missed: u32,
    },
    /// It ended by itself, after it had been active. Exit code 0 is such an end too, and still ends its calls.
    Crashed {
        exit: Exit,
    },
    LaunchFailed {
        failure: LaunchFailure,
    },
    InitializationFailed {
        why: InitFailure,
    },
    ProtocolViolation {
        detail: String,
    },
    /// It did not answer the watchdog.
    Hung {
        timeout: Duration,
    },
    /// The daemon ended it, because it took more than it may have and nothing else would have held it.
    Exhausted {
        limit: Kind,
        /// A sentence.
        detail: String,
    },
    /// Killed on request, without being asked to stop first.
    Killed,
    /// SIGKILL was sent again and again, and nobody confirmed the end.
    Unconfirmed,
}

impl Reason {
    /// Whether the host could not start it for want of something, which says nothing about the plugin.
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::LaunchFailed { failure } if failure.outlook == Outlook::Shortage)
    }

    /// Whether it would end the same way again, as long as the package stays as it is.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::LaunchFailed { failure } => failure.outlook == Outlook::Lasting,
            Self::InitializationFailed { why } => matches!(why, InitFailure::Disagreed { .. }),
            // What it has written is still there.
            Self::Exhausted { limit, .. } => *limit == Kind::Disk,
            Self::Stopped { .. }
            | Self::Overdue { .. }
            | Self::Crashed { .. }
            | Self::ProtocolViolation { .. }
            | Self::Hung { .. }
            | Self::Killed
            | Self::Unconfirmed => false,
        }
    }

    /// Whether something went wrong, as opposed to an end that was asked for, or clean.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Stopped { .. } | Self::Killed => false,
            Self::Crashed { exit } => !exit.is_clean(),
            Self::Overdue { .. }
            | Self::LaunchFailed { .. }
            | Self::InitializationFailed { .. }
            | Self::ProtocolViolation { .. }
            | Self::Hung { .. }
            | Self::Exhausted { .. }
            | Self::Unconfirmed => true,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped { why } => why.fmt(f),
            Self::Overdue { missed } => StopWhy::Overdue { missed: *missed }.fmt(f),
            Self::Crashed { exit } => exit.fmt(f),
            Self::LaunchFailed { failure } => write!(f, "could not be started: {}", failure.message),
            Self::InitializationFailed { why } => why.fmt(f),
            Self::ProtocolViolation { detail } => write!(f, "broke the protocol: {detail}"),
            Self::Hung { timeout } => write!(f, "hung: no answer to a ping within {timeout:?}"),
            Self::Exhausted { limit, detail } => write!(f, "{limit}: {detail}"),
            Self::Killed => f.write_str("killed on request"),
            Self::Unconfirmed => {
                f.write_str("does not end although it was killed; a process of it is stuck in the kernel")
            }
        }
    }
}

/// Why there is no process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchFailure {
    /// A sentence about the step that failed.
    pub message: String,
    /// What the next attempt has to expect.
    pub outlook: Outlook,
    /// It is the host that cannot confine the plugin as it must be; the plugin is not to blame.
    #[serde(default)]
    pub sandbox: bool,
}

/// What a failed launch says about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outlook {
    /// As it is it would fail again: the executable is missing, or for another machine.
    Lasting,
    /// It may go better.
    Passing,
    /// The host is short of descriptors, memory, processes or space. That is no fault of the plugin's.
    Shortage,
}

impl Outlook {
    /// What the kernel's error number says, or `otherwise` where that is not a shortage.
    pub fn of_errno(errno: i32, otherwise: Self) -> Self {
        // EAGAIN, ENOMEM, ENFILE, EMFILE, ENOSPC, ENOBUFS and EDQUOT, which have the same numbers on every machine that we run on.
        match errno {
            11 | 12 | 23 | 24 | 28 | 105 | 122 => Self::Shortage,
            _ => otherwise,
        }
    }
}

/// Why a process never became active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitFailure {
    /// It said so itself, with this sentence.
    Refused { error: String },
    /// It is not the program that its manifest speaks of.
    Disagreed { error: String },
    /// It did not get out of this phase in time.
    TimedOut { phase: Phase },
    /// It ended in this phase.
    Exited { phase: Phase, exit: Exit },
    /// It ended in this phase as shells and `env` do that cannot execute a second program, and it may not.
    ExecutedAnother { phase: Phase, exit: Exit },
    /// It was ready, but called itself unhealthy.
    Unhealthy { detail: Option<String> },
}

impl fmt::Display for InitFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { error } => write!(f, "refused to start: {error}"),
            Self::Disagreed { error } => f.write_str(error),
            Self::TimedOut { phase: Phase::Starting } => f.write_str("did not say hello in time"),
            Self::TimedOut { phase: Phase::Loaded } => f.write_str("did not become ready in time"),
            Self::TimedOut { .. } => f.write_str("did not answer the first health check in time"),
            Self::Exited { phase: Phase::Starting, exit } => write!(f, "{exit} before it said hello"),
            Self::Exited { exit, .. } => write!(f, "{exit} before it was active"),
            Self::ExecutedAnother { phase, exit } => write!(
                f,
                "{}, as a shell or env does that cannot execute another program: a plugin may execute one, itself, unless \
                 `execute_code` is asked for in plugin.json and granted; #!/usr/bin/python3 is one, and #!/usr/bin/env \
                 python3 is two",
                Self::Exited { phase: *phase, exit: *exit }
            ),
            Self::Unhealthy { detail: Some(detail) } => write!(f, "reported itself unhealthy at its start: {detail}"),
            Self::Unhealthy { detail: None } => f.write_str("reported itself unhealthy at its start"),
        }
    }
}

/// The state without what it carries: its name in logs, events and `status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    Starting,
    Loaded,
    Initialized,
    Active,
    Paused,
    Draining,
    Stopping,
    Gone,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Loaded => "loaded",
            Self::Initialized => "initialized",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Gone => "gone",
        }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the owner of a process has heard.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The process exists.
    Launched,
    /// There is no process, and there will be none.
    LaunchFailed(LaunchFailure),
    /// Its first frame.
    Hello,
    /// It accepted the welcome.
    Ready,
    /// It cannot work with what the welcome said.
    Refused {
        error: String,
    },
    /// It says of itself what its manifest does not.
    Disagreed {
        error: String,
    },
    /// It needs so much more time to start.
    Extended {
        by: Duration,
    },
    /// The time at which the last frame of any kind was read. Need not be told at every frame: before a tick is enough.
    Heard {
        at: Instant,
    },
    /// It answered a ping or the health check.
    Pong {
        healthy: bool,
        detail: Option<String>,
        oldest_call: Option<Duration>,
    },
    PauseAsked,
    /// The freezer said no; it runs on.
    FreezeFailed,
    ResumeAsked,
    /// Finish the calls, then stop.
    DrainAsked {
        until: Instant,
        why: StopWhy,
    },
    Drained,
    /// Stop without finishing the calls.
    StopAsked {
        why: StopWhy,
    },
    /// Kill at once.
    KillAsked,
    /// It has more than it may have.
    Exhausted {
        limit: Kind,
        detail: String,
    },
    /// It sent what the protocol does not allow.
    Violation {
        detail: String,
    },
    /// Nobody reads any more what is written to it.
    InputClosed,
    /// Nobody writes any more what is read from it.
    OutputClosed,
    /// A cancelled call did not end within its grace.
    GraceMissed,
    /// A watchdog outside this machine judged it hung.
    WatchdogExpired,
    /// The process has ended, and its tree with it.
    Exited(Exit),
    /// `deadline()` has come.
    Tick,
}

/// What the owner of a process has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    SendWelcome,
    /// A ping that asks for health.
    SendHealthCheck,
    /// A ping that asks for a sign of life.
    SendPing,
    SendDrain {
        until: Instant,
    },
    /// New calls may be given to it.
    OfferRoute,
    /// No new call may be given to it.
    WithdrawRoute,
    /// It should be replaced, without losing what it still does; `plugin` decides.
    AskReplacement {
        missed: u32,
    },
    CloseInput,
    /// SIGTERM to the plugin itself.
    Terminate,
    /// SIGKILL to everything in its tree.
    KillTree,
    /// SIGKILL to its launcher, whose lifeline takes the rest along.
    KillLauncher,
    Freeze,
    Thaw,
    /// Every call that it still has ends with this.
    FailCalls {
        reason: Reason,
    },
    /// It answered while it was active.
    ReportHealth {
        healthy: bool,
        detail: Option<String>,
        oldest_call: Option<Duration>,
    },
    Publish {
        from: Phase,
        to: Phase,
    },
}

impl State {
    pub fn phase(&self) -> Phase {
        match self {
            Self::Starting { .. } => Phase::Starting,
            Self::Loaded { .. } => Phase::Loaded,
            Self::Initialized { .. } => Phase::Initialized,
            Self::Active { .. } => Phase::Active,
            Self::Paused { .. } => Phase::Paused,
            Self::Draining { .. } => Phase::Draining,
            Self::Stopping { .. } => Phase::Stopping,
            Self::Gone { .. } => Phase::Gone,
        }
    }

    /// When `Event::Tick` is due. None while nothing can happen by itself.
    pub fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Starting { hello_by: at, .. }
            | Self::Loaded { ready_by: at, .. }
            | Self::Initialized { healthy_by: at, .. }
            | Self::Draining { until: at, .. }
            | Self::Stopping { next_at: at, .. } => Some(*at),
            Self::Active { watchdog, .. } => Some(watchdog.deadline()),
            Self::Paused { .. } | Self::Gone { .. } => None,
        }
    }
}

/// The machine of one process, with the time that it is given.
#[derive(Debug, Clone)]
pub struct Machine {
    timing: Timing,
    state: State,
    /// When it became active, pauses not counted. Asked for after its end, so it is not part of a state.
    active_since: Option<Instant>,
}

impl Machine {
    /// A process that is about to be launched.
    pub fn new(timing: Timing, now: Instant) -> Self {
        let cap = now + timing.start_extended_max.max(timing.start_timeout);
        let state = State::Starting { hello_by: now + timing.start_timeout, cap };
        Self { timing, state, active_since: None }
    }

    /// What follows from `event`, and what the owner has to do about it, in this order.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        // The stand-in is never seen: nothing between here and the assignment can fail.
        let state = std::mem::replace(&mut self.state, State::Gone { reason: Reason::Unconfirmed, exit: None });
        let from = state.phase();
        let paused_at = if let State::Paused { paused_at, .. } = &state { Some(*paused_at) } else { None };
        let (state, mut actions) = step(&self.timing, state, event, now);
        let to = state.phase();
        if let (Some(paused_at), Some(since)) = (paused_at, &mut self.active_since)
            && to != Phase::Paused
        {
            *since += now.saturating_duration_since(paused_at);
        }
        if to == Phase::Active && self.active_since.is_none() {
            self.active_since = Some(now);
        }
        if from != to {
            actions.push(Action::Publish { from, to });
        }
        self.state = state;
        actions
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn phase(&self) -> Phase {
        self.state.phase()
    }

    pub fn deadline(&self) -> Option<Instant> {
        self.state.deadline()
    }

    /// Why it is gone, once it is.
    pub fn reason(&self) -> Option<&Reason> {
        if let State::Gone { reason, .. } = &self.state { Some(reason) } else { None }
    }

    pub fn exit(&self) -> Option<Exit> {
        if let State::Gone { exit, .. } = &self.state { *exit } else { None }
    }

    /// How long it has been, or had been, active: what the restart policy calls a stable run.
    pub fn active_for(&self, now: Instant) -> Duration {
        self.active_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

/// What follows from `event` in `state`, and what the owner has to do about it.
pub fn step(timing: &Timing, state: State, event: Event, now: Instant) -> (State, Vec<Action>) {
    match state {
        State::Starting { hello_by, cap } => starting(timing, hello_by, cap, event, now),
        State::Loaded { ready_by, cap } => loaded(timing, ready_by, cap, event, now),
        State::Initialized { healthy_by, cap } => initialized(timing, healthy_by, cap, event, now),
        State::Active { since, watchdog, misses } => active(timing, since, watchdog, misses, event, now),
        State::Paused { since, paused_at, watchdog, misses } => {
            paused(timing, Frozen { since, paused_at, watchdog, misses }, event, now)
        }
        State::Draining { until, why } => draining(timing, until, why, event, now),
        State::Stopping { step, next_at, ending } => stopping(timing, step, next_at, ending, event, now),
        // News of a process that is gone must not touch its successor, which has a machine of its own.
        gone @ State::Gone { .. } => (gone, vec![]),
    }
}

type Next = (State, Vec<Action>);

fn starting(timing: &Timing, hello_by: Instant, cap: Instant, event: Event, now: Instant) -> Next {
    match event {
        Event::Hello => (State::Loaded { ready_by: hello_by, cap }, vec![Action::SendWelcome]),
        Event::Extended { by } => (State::Starting { hello_by: extended(hello_by, by, cap, now), cap }, vec![]),
        Event::Tick if hello_by <= now => late_start(timing, Phase::Starting, now),
        Event::Tick | Event::Launched => (State::Starting { hello_by, cap }, vec![]),
        Event::Ready => before_active(timing, Fault::Violation("ready before hello"), now),
        Event::Drained => before_active(timing, Fault::Violation("drained without being asked to"), now),
        // What it says about pings, pauses and graces before it is active answers nothing that was asked.
        Event::Heard { .. }
        | Event::Pong { .. }
        | Event::PauseAsked
        | Event::FreezeFailed
        | Event::ResumeAsked
        | Event::GraceMissed
        | Event::WatchdogExpired => (State::Starting { hello_by, cap }, vec![]),
        Event::LaunchFailed(_)
        | Event::Refused { .. }
        | Event::Disagreed { .. }
        | Event::DrainAsked { .. }
        | Event::StopAsked { .. }
        | Event::KillAsked
        | Event::Exhausted { .. }
        | Event::Violation { .. }
        | Event::InputClosed
        | Event::OutputClosed
        | Event::Exited(_) => before_active(timing, Fault::Event(Phase::Starting, event), now),
    }
}

fn loaded(timing: &Timing, ready_by: Instant, cap: Instant, event: Event, now: Instant) -> Next {
    match event {
        Event::Ready => {
            let healthy_by = ready_by.max(now + timing.health_timeout);
            (State::Initialized { healthy_by, cap: cap.max(healthy_by) }, vec![Action::SendHealthCheck])
        }
        Event::Extended { by } => (State::Loaded { ready_by: extended(ready_by, by, cap, now), cap }, vec![]),
        Event::Tick if ready_by <= now => late_start(timing, Phase::Loaded, now),
        Event::Hello => before_active(timing, Fault::Violation("hello a second time"), now),
        Event::Drained => before_active(timing, Fault::Violation("drained without being asked to"), now),
        Event::Tick
        | Event::Launched
        | Event::Heard { .. }
        | Event::Pong { .. }
        | Event::PauseAsked
        | Event::FreezeFailed
        | Event::ResumeAsked
        | Event::GraceMissed
        | Event::WatchdogExpired => (State::Loaded { ready_by, cap }, vec![]),
        Event::LaunchFailed(_)
        | Event::Refused { .. }
        | Event::Disagreed { .. }
        | Event::DrainAsked { .. }
        | Event::StopAsked { .. }
        | Event::KillAsked
        | Event::Exhausted { .. }
        | Event::Violation { .. }
        | Event::InputClosed
        | Event::OutputClosed
        | Event::Exited(_) => before_active(timing, Fault::Event(Phase::Loaded, event), now),
    }
}

fn initialized(timing: &Timing, healthy_by: Instant, cap: Instant, event: Event, now: Instant) -> Next {
    match event {
        Event::Pong { healthy: true, .. } => {
            let watchdog = Watchdog::new(timing.watchdog, now);
            (State::Active { since: now, watchdog, misses: Misses::default() }, vec![Action::OfferRoute])
        }
        Event::Pong { healthy: false, detail, .. } => {
            let reason = Reason::InitializationFailed { why: InitFailure::Unhealthy { detail } };
            (close(timing, Ending::Decided(reason), now), vec![Action::CloseInput])
        }
        Event::Extended { by } => (State::Initialized { healthy_by: extended(healthy_by, by, cap, now), cap }, vec![]),
        Event::Tick if healthy_by <= now => late_start(timing, Phase::Initialized, now),
        Event::Hello => before_active(timing, Fault::Violation("hello a second time"), now),
        Event::Ready => before_active(timing, Fault::Violation("ready a second time"), now),
        Event::Drained => before_active(timing, Fault::Violation("drained without being asked to"), now),
        Event::Tick
        | Event::Launched
        | Event::Heard { .. }
        | Event::PauseAsked
        | Event::FreezeFailed
        | Event::ResumeAsked
        | Event::GraceMissed
        | Event::WatchdogExpired => (State::Initialized { healthy_by, cap }, vec![]),
        Event::LaunchFailed(_)
        | Event::Refused { .. }
        | Event::Disagreed { .. }
        | Event::DrainAsked { .. }
        | Event::StopAsked { .. }
        | Event::KillAsked
        | Event::Exhausted { .. }
        | Event::Violation { .. }
        | Event::InputClosed
        | Event::OutputClosed
        | Event::Exited(_) => before_active(timing, Fault::Event(Phase::Initialized, event), now),
    }
}

fn active(
    timing: &Timing,
    since: Instant,
    mut watchdog: Watchdog,
    mut misses: Misses,
    event: Event,
    now: Instant,
) -> Next {
    let mut actions = Vec::new();
    match event {
        Event::Heard { at } => watchdog.heard(at.min(now)),
        Event::Pong { healthy, detail, oldest_call } => {
            watchdog.pong(now);
            actions.push(Action::ReportHealth { healthy, detail, oldest_call });
        }
        Event::Tick => match watchdog.look(now) {
            Due::Nothing => {}
            Due::Ping => actions.push(Action::SendPing),
            Due::Expired => return hung(timing, now),
        },
        Event::WatchdogExpired => return hung(timing, now),
        Event::GraceMissed => {
            if misses.note(timing.on_overdue, now) {
                actions.push(Action::AskReplacement { missed: timing.on_overdue.missed_graces });
            }
        }
        Event::PauseAsked => {
            return (State::Paused { since, paused_at: now, watchdog, misses }, vec![Action::Freeze]);
        }
        Event::DrainAsked { until, why } => {
            return (State::Draining { until, why }, vec![Action::WithdrawRoute, Action::SendDrain { until }]);
        }
        Event::Hello => return routed(timing, Fault::Violation("hello a second time"), now),
        Event::Ready => return routed(timing, Fault::Violation("ready a second time"), now),
        Event::Refused { error } | Event::Disagreed { error } => {
            return routed(timing, Fault::Event(Phase::Active, gave_up(&error)), now);
        }
        Event::Drained => return routed(timing, Fault::Violation("drained without being asked to"), now),
        Event::Launched | Event::Extended { .. } | Event::FreezeFailed | Event::ResumeAsked => {}
        Event::LaunchFailed(_)
        | Event::StopAsked { .. }
        | Event::KillAsked
        | Event::Exhausted { .. }
        | Event::Violation { .. }
        | Event::InputClosed
        | Event::OutputClosed
        | Event::Exited(_) => return routed(timing, Fault::Event(Phase::Active, event), now),
    }
    (State::Active { since, watchdog, misses }, actions)
}

/// A plugin that ends its connection by its own decision says why, and that is the reason to keep.
fn gave_up(error: &str) -> Event {
    Event::Violation { detail: format!("it gave up while it was active: {error}") }
}

/// What `State::Paused` carries.
struct Frozen {
    since: Instant,
    paused_at: Instant,
    watchdog: Watchdog,
    misses: Misses,
}

impl Frozen {
    fn thaw(mut self, now: Instant) -> State {
        let stood_still = now.saturating_duration_since(self.paused_at);
        self.watchdog.shift(stood_still);
        self.misses.shift(stood_still);
        State::Active { since: self.since, watchdog: self.watchdog, misses: self.misses }
    }

    fn stay(self) -> State {
        let Self { since, paused_at, watchdog, misses } = self;
        State::Paused { since, paused_at, watchdog, misses }
    }
}

fn paused(timing: &Timing, frozen: Frozen, event: Event, now: Instant) -> Next {
    match event {
        Event::ResumeAsked => (frozen.thaw(now), vec![Action::Thaw]),
        Event::FreezeFailed => (frozen.thaw(now), vec![]),
        Event::Pong { healthy, detail, oldest_call } => {
            // It was written before the freeze, and read after it.
            let paused_at = frozen.paused_at;
            let mut frozen = frozen;
            frozen.watchdog.pong(paused_at);
            (frozen.stay(), vec![Action::ReportHealth { healthy, detail, oldest_call }])
        }
        Event::DrainAsked { until, why } => {
            let actions = vec![Action::WithdrawRoute, Action::Thaw, Action::SendDrain { until }];
            (State::Draining { until, why }, actions)
        }
        // A frozen process is judged by none of its clocks, not even by one that had run out before it was told.
        Event::Tick
        | Event::WatchdogExpired
        | Event::GraceMissed
        | Event::Heard { .. }
        | Event::Launched
        | Event::Extended { .. }
        | Event::PauseAsked => (frozen.stay(), vec![]),
        Event::Hello => thawed(routed(timing, Fault::Violation("hello a second time"), now)),
        Event::Ready => thawed(routed(timing, Fault::Violation("ready a second time"), now)),
        Event::Refused { error } | Event::Disagreed { error } => {
            thawed(routed(timing, Fault::Event(Phase::Paused, gave_up(&error)), now))
        }
        Event::Drained => thawed(routed(timing, Fault::Violation("drained without being asked to"), now)),
        Event::LaunchFailed(_)
        | Event::StopAsked { .. }
        | Event::KillAsked
        | Event::Exhausted { .. }
        | Event::Violation { .. }
        | Event::InputClosed
        | Event::OutputClosed
        | Event::Exited(_) => thawed(routed(timing, Fault::Event(Phase::Paused, event), now)),
    }
}

/// A frozen process cannot end by itself, and with some freezers not even by SIGKILL. To be killed it is killed first, so
/// that it does not run again; for anything else it has to run first.
fn thawed((state, mut actions): Next) -> Next {
    if state.phase() == Phase::Gone {
        return (state, actions);
    }
    let place = match actions.iter().position(|action| *action == Action::KillTree) {
        Some(kill) => kill + 1,
        None => actions.iter().position(|action| *action != Action::WithdrawRoute).unwrap_or(actions.len()),
    };
    actions.insert(place, Action::Thaw);
    (state, actions)
}

fn draining(timing: &Timing, until: Instant, why: StopWhy, event: Event, now: Instant) -> Next {
    let stopped = || reason_of(why);
    let close_now = || {
        let reason = stopped();
        let actions = vec![Action::FailCalls { reason: reason.clone() }, Action::CloseInput];
        (close(timing, Ending::Decided(reason), now), actions)
    };
    match event {
        Event::Drained | Event::StopAsked { .. } => close_now(),
        Event::Tick if until <= now => close_now(),
        // Asked again, the earlier end holds, and so does the first reason: it is what began the draining.
        Event::DrainAsked { until: asked, .. } => (State::Draining { until: until.min(asked), why }, vec![]),
        Event::InputClosed | Event::OutputClosed => {
            let ending = Ending::Vanished { during: Phase::Draining, why: Some(why) };
            (close(timing, ending, now), vec![Action::CloseInput])
        }
        Event::Exited(exit) => {
            let crashed = Reason::Crashed { exit };
            let reason = if exit.is_clean() { stopped() } else { crashed.clone() };
            // Calls it had not finished were crashed all the same.
            (State::Gone { reason, exit: Some(exit) }, vec![Action::FailCalls { reason: crashed }])
        }
        Event::KillAsked => kill_and_fail(timing, Reason::Killed, now),
        Event::Exhausted { limit, detail } => kill_and_fail(timing, Reason::Exhausted { limit, detail }, now),
        Event::Violation { detail } => kill_and_fail(timing, Reason::ProtocolViolation { detail }, now),
        Event::Hello | Event::Ready | Event::Refused { .. } | Event::Disagreed { .. } => {
            let detail = "a message of the start-up, long after it".to_owned();
            kill_and_fail(timing, Reason::ProtocolViolation { detail }, now)
        }
        Event::LaunchFailed(failure) => {
            let reason = Reason::LaunchFailed { failure };
            (State::Gone { reason: reason.clone(), exit: None }, vec![Action::FailCalls { reason }])
        }
        // It is on its way out and bounded by `until`: neither the watchdog nor a missed grace has anything to add.
        Event::Tick
        | Event::Launched
        | Event::Extended { .. }
        | Event::Heard { .. }
        | Event::Pong { .. }
        | Event::PauseAsked
        | Event::FreezeFailed
        | Event::ResumeAsked
        | Event::GraceMissed
        | Event::WatchdogExpired => (State::Draining { until, why }, vec![]),
    }
}

fn stopping(timing: &Timing, step: StopStep, next_at: Instant, ending: Ending, event: Event, now: Instant) -> Next {
    match event {
        Event::Exited(exit) => {
            let (reason, actions) = match ending {
                Ending::Decided(reason) => (reason, vec![]),
                Ending::Vanished { during: Phase::Active | Phase::Paused | Phase::Draining, why } => {
                    let crashed = Reason::Crashed { exit };
                    let reason = why.filter(|_| exit.is_clean()).map_or(crashed.clone(), reason_of);
                    (reason, vec![Action::FailCalls { reason: crashed }])
                }
                Ending::Vanished { during: phase, .. } => {
                    (Reason::InitializationFailed { why: InitFailure::Exited { phase, exit } }, vec![])
                }
            };
            (State::Gone { reason, exit: Some(exit) }, actions)
        }
        Event::LaunchFailed(failure) => {
            let (reason, actions) = match ending {
                Ending::Decided(reason) => (reason, vec![]),
                Ending::Vanished { during, .. } => {
                    let reason = Reason::LaunchFailed { failure };
                    let actions = fail_calls(during, &reason);
                    (reason, actions)
                }
            };
            (State::Gone { reason, exit: None }, actions)
        }
        Event::KillAsked => {
            let (reason, mut actions) = match ending {
                // What went wrong remains the reason; an orderly stop that was cut short was a kill.
                Ending::Decided(Reason::Stopped { .. }) => (Reason::Killed, vec![]),
                Ending::Decided(reason) => (reason, vec![]),
                Ending::Vanished { during, .. } => (Reason::Killed, fail_calls(during, &Reason::Killed)),
            };
            if matches!(step, StopStep::Killing { .. }) {
                return (State::Stopping { step, next_at, ending: Ending::Decided(reason) }, actions);
            }
            actions.push(Action::KillTree);
            (kill(timing, reason, now), actions)
        }
        Event::Tick if next_at <= now => climb(timing, step, ending, now),
        // Everything else is news of a life that is over: late messages, pipes that end as they should, requests to
        // stop what is stopping.
        Event::Tick
        | Event::Launched
        | Event::Hello
        | Event::Ready
        | Event::Refused { .. }
        | Event::Disagreed { .. }
        | Event::Extended { .. }
        | Event::Heard { .. }
        | Event::Pong { .. }
        | Event::PauseAsked
        | Event::FreezeFailed
        | Event::ResumeAsked
        | Event::DrainAsked { .. }
        | Event::Drained
        | Event::StopAsked { .. }
        | Event::Exhausted { .. }
        | Event::Violation { .. }
        | Event::InputClosed
        | Event::OutputClosed
        | Event::GraceMissed
        | Event::WatchdogExpired => (State::Stopping { step, next_at, ending }, vec![]),
    }
}

/// The time of a step is over, and the process is not.
fn climb(timing: &Timing, step: StopStep, ending: Ending, now: Instant) -> Next {
    let mut actions = Vec::new();
    let reason = match ending {
        Ending::Decided(reason) => reason,
        Ending::Vanished { during, .. } => {
            let detail = "closed its protocol pipes and went on running".to_owned();
            let reason = Reason::ProtocolViolation { detail };
            actions = fail_calls(during, &reason);
            reason
        }
    };
    match step {
        StopStep::Closing => {
            actions.push(Action::Terminate);
            (terminate(timing, reason, now), actions)
        }
        StopStep::Terminating => {
            actions.push(Action::KillTree);
            (kill(timing, reason, now), actions)
        }
        StopStep::Killing { attempts } if attempts < KILLS_MAX => {
            actions.push(Action::KillTree);
            if KILLS_BEFORE_LAUNCHER <= attempts {
                actions.push(Action::KillLauncher);
            }
            let step = StopStep::Killing { attempts: attempts + 1 };
            (State::Stopping { step, next_at: now + timing.kill_wait, ending: Ending::Decided(reason) }, actions)
        }
        StopStep::Killing { .. } => (State::Gone { reason: Reason::Unconfirmed, exit: None }, actions),
    }
}

/// Why a life is cut short: news from outside in a phase, or a message out of its order.
enum Fault {
    Event(Phase, Event),
    Violation(&'static str),
}

/// The end of a process that never had the route, so that no call has to be failed.
fn before_active(timing: &Timing, fault: Fault, now: Instant) -> Next {
    let gone = |reason, exit| (State::Gone { reason, exit }, vec![]);
    match fault {
        Fault::Event(_, Event::LaunchFailed(failure)) => gone(Reason::LaunchFailed { failure }, None),
        Fault::Event(phase, Event::Exited(exit)) => {
            gone(Reason::InitializationFailed { why: InitFailure::Exited { phase, exit } }, Some(exit))
        }
        Fault::Event(_, Event::Refused { error }) => {
            let reason = Reason::InitializationFailed { why: InitFailure::Refused { error } };
            (close(timing, Ending::Decided(reason), now), vec![Action::CloseInput])
        }
        Fault::Event(_, Event::Disagreed { error }) => {
            let reason = Reason::InitializationFailed { why: InitFailure::Disagreed { error } };
            (close(timing, Ending::Decided(reason), now), vec![Action::CloseInput])
        }
        // There is no call to finish, so draining is stopping.
        Fault::Event(_, Event::DrainAsked { why, .. } | Event::StopAsked { why }) => {
            (close(timing, Ending::Decided(reason_of(why)), now), vec![Action::CloseInput])
        }
        Fault::Event(_, Event::KillAsked) => (kill(timing, Reason::Killed, now), vec![Action::KillTree]),
        Fault::Event(_, Event::Exhausted { limit, detail }) => {
            (kill(timing, Reason::Exhausted { limit, detail }, now), vec![Action::KillTree])
        }
        Fault::Event(_, Event::Violation { detail }) => {
            (kill(timing, Reason::ProtocolViolation { detail }, now), vec![Action::KillTree])
        }
        Fault::Violation(detail) => {
            (kill(timing, Reason::ProtocolViolation { detail: detail.into() }, now), vec![Action::KillTree])
        }
        // The pipes ended: the callers name every other event themselves and never hand it on.
        Fault::Event(during, _) => {
            (close(timing, Ending::Vanished { during, why: None }, now), vec![Action::CloseInput])
        }
    }
}

/// The same for a process that has the route, and perhaps calls.
fn routed(timing: &Timing, fault: Fault, now: Instant) -> Next {
    let failed = |reason: &Reason| vec![Action::WithdrawRoute, Action::FailCalls { reason: reason.clone() }];
    match fault {
        Fault::Event(_, Event::LaunchFailed(failure)) => {
            let reason = Reason::LaunchFailed { failure };
            (State::Gone { reason: reason.clone(), exit: None }, failed(&reason))
        }
        Fault::Event(_, Event::Exited(exit)) => {
            let reason = Reason::Crashed { exit };
            (State::Gone { reason: reason.clone(), exit: Some(exit) }, failed(&reason))
        }
        Fault::Event(_, Event::StopAsked { why }) => {
            let reason = reason_of(why);
            let mut actions = failed(&reason);
            actions.push(Action::CloseInput);
            (close(timing, Ending::Decided(reason), now), actions)
        }
        Fault::Event(_, Event::KillAsked) => withdrawn(kill_and_fail(timing, Reason::Killed, now)),
        Fault::Event(_, Event::Exhausted { limit, detail }) => {
            withdrawn(kill_and_fail(timing, Reason::Exhausted { limit, detail }, now))
        }
        Fault::Event(_, Event::Violation { detail }) => {
            withdrawn(kill_and_fail(timing, Reason::ProtocolViolation { detail }, now))
        }
        Fault::Violation(detail) => {
            withdrawn(kill_and_fail(timing, Reason::ProtocolViolation { detail: detail.into() }, now))
        }
        // The pipes ended, so the process is dying. Its calls are failed when the exit says how.
        Fault::Event(during, _) => {
            let ending = Ending::Vanished { during, why: None };
            (close(timing, ending, now), vec![Action::WithdrawRoute, Action::CloseInput])
        }
    }
}

/// Asking a hung process to drain would be one more thing it does not answer. SIGTERM gives it the chance to leave a trace.
fn hung(timing: &Timing, now: Instant) -> Next {
    let reason = Reason::Hung { timeout: timing.watchdog.timeout };
    let actions = vec![
        Action::WithdrawRoute,
        Action::FailCalls { reason: reason.clone() },
        Action::CloseInput,
        Action::Terminate,
    ];
    (terminate(timing, reason, now), actions)
}

fn late_start(timing: &Timing, phase: Phase, now: Instant) -> Next {
    let reason = Reason::InitializationFailed { why: InitFailure::TimedOut { phase } };
    (terminate(timing, reason, now), vec![Action::CloseInput, Action::Terminate])
}

fn kill_and_fail(timing: &Timing, reason: Reason, now: Instant) -> Next {
    let actions = vec![Action::FailCalls { reason: reason.clone() }, Action::KillTree];
    (kill(timing, reason, now), actions)
}

fn withdrawn((state, mut actions): Next) -> Next {
    actions.insert(0, Action::WithdrawRoute);
    (state, actions)
}

/// Only who had the route has calls.
fn fail_calls(phase: Phase, reason: &Reason) -> Vec<Action> {
    match phase {
        Phase::Active | Phase::Paused | Phase::Draining => vec![Action::FailCalls { reason: reason.clone() }],
        Phase::Starting | Phase::Loaded | Phase::Initialized | Phase::Stopping | Phase::Gone => vec![],
    }
}

fn close(timing: &Timing, ending: Ending, now: Instant) -> State {
    State::Stopping { step: StopStep::Closing, next_at: now + timing.close_wait, ending }
}

fn terminate(timing: &Timing, reason: Reason, now: Instant) -> State {
    let ending = Ending::Decided(reason);
    State::Stopping { step: StopStep::Terminating, next_at: now + timing.stop_grace, ending }
}

fn kill(timing: &Timing, reason: Reason, now: Instant) -> State {
    let ending = Ending::Decided(reason);
    State::Stopping { step: StopStep::Killing { attempts: 1 }, next_at: now + timing.kill_wait, ending }
}

fn reason_of(why: StopWhy) -> Reason {
    match why {
        StopWhy::Overdue { missed } => Reason::Overdue { missed },
        StopWhy::Operator
        | StopWhy::Restart
        | StopWhy::Idle
        | StopWhy::Replaced
        | StopWhy::Dropped
        | StopWhy::Shutdown
        | StopWhy::Unload
        | StopWhy::Dependency => Reason::Stopped { why },
    }
}

/// The number comes from the plugin, so it may be anything; the cap is ours.
fn extended(deadline: Instant, by: Duration, cap: Instant, now: Instant) -> Instant {
    now.checked_add(by).map_or(cap, |asked| asked.min(cap)).max(deadline)
}

#[cfg(test)]
mod tests;
