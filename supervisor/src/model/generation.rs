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

mod reason;
mod transitions;

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use self::reason::{InitFailure, LaunchFailure, Outlook, Reason, StopWhy};
use super::exit::Exit;
use super::limits::Kind;
use super::overdue::{Misses, OnOverdue};
use super::watchdog::{self, Watchdog};

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
    /// Its actions are not those that were agreed to.
    Unagreed {
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
        let (state, mut actions) = transitions::step(&self.timing, state, event, now);
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

#[cfg(test)]
mod tests;
