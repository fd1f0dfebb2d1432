//! What one version of one plugin is doing, and what the operator wants of it.
//!
//! A plugin is served by at most one generation. Beside it there may be a candidate, which is to take the route over, and
//! retired ones, which finish their calls. The machine gives out generation numbers, holds the route, and decides what
//! follows from an end: a restart at a time, quarantine, or rest.
//!
//! Invariants: at most one generation serves and at most one is a candidate; the route points to the serving one or to
//! nothing; a number is given out once; what the operator stopped is not started until somebody asks for it; what a
//! generation does that is not the serving one or the candidate changes nothing but the list of the retired.
//!
//! The owner, after `SetRoute(None)` and after a call is given back by a generation that died, says `CallWaiting` again if
//! calls wait: the machine counts no calls.
//!
//! Elsewhere: the life of one process is `generation`; when to restart is `restart`; which version a call goes to is the
//! registry's. Nobody reloads a package yet: candidates that wait for `SwitchAsked` are there for that, and come up in tests alone.

mod refusal;
mod transitions;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

pub use self::refusal::{Decline, Refusal};
use super::generation::{LaunchFailure, Reason, StopWhy};
use super::ids::Generation;
use super::manifest::{Activation, Manifest, OnPause};
use super::restart::{History, RestartPolicy};
use super::status::PluginState;

/// So many old generations may still be finishing their calls when a candidate is asked for.
pub const RETIRED_MAX: usize = 4;

/// What of a manifest this machine depends on.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    pub activation: Activation,
    pub restart: RestartPolicy,
    pub on_pause: OnPause,
}

impl From<&Manifest> for Settings {
    fn from(manifest: &Manifest) -> Self {
        Self { activation: manifest.activation, restart: manifest.restart, on_pause: manifest.on_pause }
    }
}

/// What the operator wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Desired {
    /// A process while there are calls.
    OnDemand,
    /// A process always.
    Running,
    /// No process, whoever calls.
    Stopped,
    /// Not even the memory of it.
    Unloaded,
}

#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// No process, and nothing is wrong. `last` is how the last one ended, if there was one.
    Resting {
        last: Option<Reason>,
    },
    /// Nothing serves; a first generation is on its way. `from` is what users saw before, and see until it says hello.
    Starting {
        candidate: Candidate,
        from: PluginState,
    },
    Serving {
        generation: Generation,
        mode: Mode,
        candidate: Option<Candidate>,
    },
    /// What served is ending by its own fault. Its reason will decide what follows.
    Ending {
        generation: Generation,
    },
    /// Nothing serves, as was asked; the retired generations are on their way out.
    Stopping {
        then: Then,
        why: StopWhy,
    },
    Failed {
        reason: Reason,
        next: Next,
    },
    Unloaded,
}

/// A generation that is to have the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    pub generation: Generation,
    pub progress: Progress,
    pub promote: Promote,
    /// What the one it replaces is told.
    why: StopWhy,
}

/// How far a candidate has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    Starting,
    Loaded,
    Initialized,
    /// It is active, and only waits for the route.
    Ready,
    /// It will not make it.
    Ending,
}

/// When a candidate gets the route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promote {
    /// As soon as it is active.
    AtOnce,
    /// When `SwitchAsked` says so: somebody wants to try it first.
    WhenAsked,
}

/// How a generation serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Active,
    /// It was asked to pause and has not confirmed it.
    Pausing,
    Paused,
}

/// What follows once the last process is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Rest,
    Start,
}

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    RestartAt(Instant),
    /// The policy, or the nature of the failure, leaves it to the operator.
    Nothing,
    /// It failed too often.
    Quarantined,
}

/// What the plugin's owner has heard.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The daemon has found every plugin and now wants those that are to run.
    Begin,
    StartAsked,
    StopAsked {
        why: StopWhy,
    },
    /// Another process, once those that are there are gone, which are told why.
    RestartAsked {
        why: StopWhy,
    },
    PauseAsked,
    ResumeAsked,
    /// Forgive what it did, and forget it.
    ResetAsked,
    UnloadAsked,
    /// The serving generation does not end cancelled calls.
    ReplaceAsked {
        generation: Generation,
        missed: u32,
    },
    /// Start another generation beside the serving one.
    CandidateAsked {
        promote: Promote,
    },
    SwitchAsked {
        generation: Generation,
    },
    /// The candidate is not wanted any more.
    CandidateDropAsked,
    /// A call has come, or has come back, and there is no route for it.
    CallWaiting,
    /// The idle time of a lazy plugin is over.
    Idle,
    GenerationLoaded(Generation),
    GenerationInitialized(Generation),
    GenerationActive(Generation),
    GenerationPaused(Generation),
    GenerationPauseFailed(Generation),
    GenerationResumed(Generation),
    /// It drains or stops, whoever wanted it.
    GenerationStopping(Generation),
    GenerationGone {
        generation: Generation,
        reason: Reason,
        stable_for: Duration,
        /// A random number in 0..1.
        jitter: f64,
    },
    /// `deadline()` has come.
    Tick,
}

impl Event {
    /// The generation that it is news of.
    fn generation(&self) -> Option<Generation> {
        match self {
            Self::GenerationLoaded(generation)
            | Self::GenerationInitialized(generation)
            | Self::GenerationActive(generation)
            | Self::GenerationPaused(generation)
            | Self::GenerationPauseFailed(generation)
            | Self::GenerationResumed(generation)
            | Self::GenerationStopping(generation)
            | Self::GenerationGone { generation, .. }
            | Self::ReplaceAsked { generation, .. }
            | Self::SwitchAsked { generation } => Some(*generation),
            Self::Begin
            | Self::StartAsked
            | Self::StopAsked { .. }
            | Self::RestartAsked { .. }
            | Self::PauseAsked
            | Self::ResumeAsked
            | Self::ResetAsked
            | Self::UnloadAsked
            | Self::CandidateAsked { .. }
            | Self::CandidateDropAsked
            | Self::CallWaiting
            | Self::Idle
            | Self::Tick => None,
        }
    }
}

/// What the plugin's owner has to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Launch a process under this number.
    StartGeneration(Generation),
    PauseGeneration(Generation),
    ResumeGeneration(Generation),
    /// Drain it, then stop it.
    StopGeneration {
        generation: Generation,
        why: StopWhy,
    },
    /// Where calls go from now on.
    SetRoute(Option<Generation>),
    /// Every call that waits for a route ends with this.
    RefuseWaiting(Refusal),
    /// It is active and waits for `SwitchAsked`.
    CandidateReady(Generation),
    /// What serves goes on serving.
    CandidateFailed {
        generation: Generation,
        reason: Reason,
    },
    /// What was asked for cannot be done now; whoever asked is told why.
    Decline(Decline),
    Publish {
        from: PluginState,
        to: PluginState,
        generation: Option<Generation>,
        reason: Option<String>,
    },
}

/// The machine of one version of one plugin.
#[derive(Debug, Clone)]
pub struct Machine {
    context: Context,
    state: State,
}

/// What outlives every state.
#[derive(Debug, Clone)]
struct Context {
    settings: Settings,
    desired: Desired,
    next: Generation,
    retired: BTreeSet<Generation>,
    history: History,
}

impl Machine {
    /// A plugin that was just discovered. `first` is the number of its first generation: one that no generation of the
    /// same id has had, at whatever version.
    pub fn new(settings: Settings, first: Generation) -> Self {
        let desired = wanted(&settings);
        let context = Context { settings, desired, next: first, retired: BTreeSet::new(), history: History::default() };
        Self { context, state: State::Resting { last: None } }
    }

    /// A plugin that was just discovered, and cannot be started as it is.
    pub fn broken(settings: Settings, first: Generation, failure: LaunchFailure) -> Self {
        let machine = Self::new(settings, first);
        Self { state: State::Failed { reason: Reason::LaunchFailed { failure }, next: Next::Nothing }, ..machine }
    }

    /// Numbers below `first` have been given out to other versions of the same id, and will not be given out here.
    pub fn not_before(&mut self, first: Generation) {
        self.context.next = self.context.next.max(first);
    }

    /// What follows from `event`, and what the owner has to do about it, in this order.
    pub fn step(&mut self, event: Event, now: Instant) -> Vec<Action> {
        let (seen, route) = (self.projection(), self.route());
        // Of whose life a change of the state is a part: what the event is about, or else what served or was on its way before.
        let about = event.generation().or_else(|| self.generation());
        if let Event::GenerationGone { generation, .. } = &event {
            self.context.retired.remove(generation);
        }
        // The stand-in is never seen: nothing between here and the assignment can fail.
        let state = std::mem::replace(&mut self.state, State::Unloaded);
        let mut actions = Vec::new();
        let state = transitions::step(&mut self.context, &mut actions, state, event, now);
        self.state = transitions::settle(&mut self.context, &mut actions, state);
        if self.route() != route {
            // First of all, so that nothing new reaches a generation that is told to stop.
            actions.insert(0, Action::SetRoute(self.route()));
        }
        let now_seen = self.projection();
        if now_seen != seen {
            let (generation, reason) = (about.or_else(|| self.generation()), self.reason());
            actions.push(Action::Publish { from: seen, to: now_seen, generation, reason });
        }
        actions
    }

    pub fn state(&self) -> &State {
        &self.state
    }

    pub fn desired(&self) -> Desired {
        self.context.desired
    }

    pub fn settings(&self) -> &Settings {
        &self.context.settings
    }

    /// A new manifest of the same version. It holds from the next decision on.
    pub fn reconfigure(&mut self, settings: Settings) {
        if matches!(self.context.desired, Desired::OnDemand | Desired::Running) {
            self.context.desired = wanted(&settings);
        }
        self.context.settings = settings;
    }

    /// It was stopped before it has had any process: the one in whose place it is had one.
    pub fn be_stopped(&mut self) {
        if self.context.desired == Desired::Stopped && self.state == (State::Resting { last: None }) {
            self.state = State::Resting { last: Some(Reason::Stopped { why: StopWhy::Operator }) };
        }
    }

    /// Where calls go.
    pub fn route(&self) -> Option<Generation> {
        if let State::Serving { generation, .. } = &self.state { Some(*generation) } else { None }
    }

    /// The generation that `status` names first: the one that serves, or is to.
    pub fn generation(&self) -> Option<Generation> {
        match &self.state {
            State::Serving { generation, .. } | State::Ending { generation } => Some(*generation),
            State::Starting { candidate, .. } => Some(candidate.generation),
            State::Resting { .. } | State::Stopping { .. } | State::Failed { .. } | State::Unloaded => None,
        }
    }

    pub fn candidate(&self) -> Option<Candidate> {
        match &self.state {
            State::Starting { candidate, .. } => Some(*candidate),
            State::Serving { candidate, .. } => *candidate,
            State::Resting { .. }
            | State::Ending { .. }
            | State::Stopping { .. }
            | State::Failed { .. }
            | State::Unloaded => None,
        }
    }

    /// Those that finish their calls, oldest first.
    pub fn retired(&self) -> impl Iterator<Item = Generation> + '_ {
        self.context.retired.iter().copied()
    }

    /// The number that the next generation will have.
    pub fn next_generation(&self) -> Generation {
        self.context.next
    }

    /// Automatic restarts so far, since the last reset.
    pub fn restarts(&self) -> u64 {
        self.context.history.total()
    }

    /// When `Event::Tick` is due.
    pub fn deadline(&self) -> Option<Instant> {
        if let State::Failed { next: Next::RestartAt(at), .. } = &self.state { Some(*at) } else { None }
    }

    pub fn is_quarantined(&self) -> bool {
        matches!(self.state, State::Failed { next: Next::Quarantined, .. })
    }

    /// Why it is in its state, where that is not plain.
    pub fn reason(&self) -> Option<String> {
        match &self.state {
            State::Failed { reason, .. } | State::Resting { last: Some(reason) } => Some(reason.to_string()),
            State::Stopping { why, .. } => Some(why.to_string()),
            State::Resting { last: None }
            | State::Starting { .. }
            | State::Serving { .. }
            | State::Ending { .. }
            | State::Unloaded => None,
        }
    }

    /// What users see.
    pub fn projection(&self) -> PluginState {
        match &self.state {
            State::Resting { last } if last.is_some() || self.context.desired == Desired::Stopped => {
                PluginState::Stopped
            }
            State::Resting { .. } => PluginState::Discovered,
            State::Starting { candidate, from } => candidate.seen(*from),
            State::Serving { mode: Mode::Active | Mode::Pausing, .. } => PluginState::Active,
            State::Serving { mode: Mode::Paused, .. } => PluginState::Paused,
            State::Ending { .. } | State::Stopping { .. } => PluginState::Stopping,
            State::Failed { .. } => PluginState::Failed,
            State::Unloaded => PluginState::Unloaded,
        }
    }
}

fn wanted(settings: &Settings) -> Desired {
    match settings.activation {
        Activation::Eager => Desired::Running,
        Activation::Lazy { .. } => Desired::OnDemand,
    }
}

#[cfg(test)]
mod tests;
