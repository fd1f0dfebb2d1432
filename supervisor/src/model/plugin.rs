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

use std::collections::BTreeSet;
use std::fmt;
use std::time::{Duration, Instant};

use super::generation::{InitFailure, LaunchFailure, Reason, StopWhy};
use super::ids::{Generation, PluginId};
use super::manifest::{Activation, Manifest, OnPause};
use super::restart::{History, RestartMode, RestartPolicy, SHORTAGES_PATIENT, Verdict};
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
    RestartAsked,
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
            | Self::RestartAsked
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

/// Why calls get no route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Stopped,
    /// The daemon stops.
    Shutdown,
    Unloaded,
    Paused,
    /// It failed, and is not started again by itself, or told us that it cannot work.
    Failed {
        reason: Reason,
    },
    Quarantined {
        reason: Reason,
    },
}

impl Refusal {
    /// The sentence for the caller.
    pub fn message(&self, id: &PluginId) -> String {
        match self {
            Self::Stopped => format!("plugin `{id}` was stopped"),
            Self::Shutdown => "the daemon is stopping".to_owned(),
            Self::Unloaded => format!("plugin `{id}` was unloaded"),
            Self::Paused => format!("plugin `{id}` is paused, and refuses calls meanwhile"),
            Self::Failed { reason } => format!("plugin `{id}` failed: {reason}"),
            Self::Quarantined { reason } => {
                format!("plugin `{id}` failed too often and is quarantined; the last failure: {reason}")
            }
        }
    }

    /// What can be done about it.
    pub fn hint(&self, id: &PluginId) -> String {
        match self {
            Self::Stopped => format!("start it with `palisade start {id}`"),
            Self::Shutdown => "call again once the daemon is back".to_owned(),
            Self::Unloaded => "load it again, or call another version".to_owned(),
            Self::Paused => format!("resume it with `palisade resume {id}`"),
            Self::Failed { reason } if reason.is_shortage() => {
                "it is tried again by itself; `palisade doctor` says what this host has".to_owned()
            }
            Self::Failed { .. } => format!("see `palisade status {id}`, and start it with `palisade start {id}`"),
            Self::Quarantined { .. } => {
                format!("see `palisade status {id}` and `palisade logs {id}`; `palisade start {id}` resets it")
            }
        }
    }
}

/// Why a request does nothing: of an operator, or of whoever asks for candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decline {
    NotActive(PluginState),
    Paused,
    CandidateExists,
    NoSuchCandidate,
    TooManyRetired,
    Unloaded,
}

impl fmt::Display for Decline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotActive(state) => write!(f, "the plugin is {state}, not active"),
            Self::Paused => f.write_str("the plugin is paused; resume it first"),
            Self::CandidateExists => f.write_str("another generation is already on its way to replace the serving one"),
            Self::NoSuchCandidate => f.write_str("there is no such candidate that could take the route"),
            Self::TooManyRetired => {
                write!(f, "{RETIRED_MAX} older generations are still finishing their calls; wait for one of them")
            }
            Self::Unloaded => f.write_str("the plugin is being unloaded"),
        }
    }
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
        let state = step(&mut self.context, &mut actions, state, event, now);
        self.state = settle(&mut self.context, &mut actions, state);
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

/// What follows from `event` in `state`. What lies in `context` is as much part of the result as the state.
fn step(context: &mut Context, actions: &mut Vec<Action>, state: State, event: Event, now: Instant) -> State {
    // What an operator wants as a whole is the same whatever runs.
    match (&state, &event) {
        (State::Unloaded, _) => {}
        (_, Event::UnloadAsked) => {
            context.desired = Desired::Unloaded;
            actions.push(Action::RefuseWaiting(Refusal::Unloaded));
            return stop(context, actions, state, Then::Rest, StopWhy::Unload);
        }
        (_, Event::StartAsked | Event::RestartAsked) if context.desired == Desired::Unloaded => {
            actions.push(Action::Decline(Decline::Unloaded));
            return state;
        }
        (_, Event::StopAsked { why }) => {
            let why = *why;
            if context.desired != Desired::Unloaded {
                context.desired = Desired::Stopped;
                let refusal = if why == StopWhy::Shutdown { Refusal::Shutdown } else { Refusal::Stopped };
                actions.push(Action::RefuseWaiting(refusal));
            }
            return match state {
                // Nothing runs, so nothing has to stop; a restart that was due is not due any more.
                State::Resting { last } => State::Resting { last },
                State::Failed { reason, .. } => State::Resting { last: Some(reason) },
                State::Stopping { .. }
                | State::Starting { .. }
                | State::Serving { .. }
                | State::Ending { .. }
                | State::Unloaded => stop(context, actions, state, Then::Rest, why),
            };
        }
        (_, Event::StartAsked | Event::RestartAsked) => context.desired = wanted(&context.settings),
        (_, Event::ResetAsked) => context.history = History::default(),
        _ => {}
    }
    match state {
        State::Resting { last } => resting(context, actions, last, event, now),
        State::Starting { candidate, from } => starting(context, actions, candidate, from, event, now),
        State::Serving { generation, mode, candidate } => {
            serving(context, actions, Serving { generation, mode, candidate }, event, now)
        }
        State::Ending { generation } => ending(context, actions, generation, event, now),
        State::Stopping { then, why } => stopping(context, actions, then, why, event),
        State::Failed { reason, next } => failed(context, actions, reason, next, event, now),
        State::Unloaded => unloaded(actions, event),
    }
}

fn resting(
    context: &mut Context,
    actions: &mut Vec<Action>,
    last: Option<Reason>,
    event: Event,
    now: Instant,
) -> State {
    let seen = if last.is_some() { PluginState::Stopped } else { PluginState::Discovered };
    match event {
        Event::Begin if context.desired == Desired::Running => start(context, actions, seen),
        Event::StartAsked | Event::RestartAsked => start(context, actions, seen),
        Event::CallWaiting => match (context.desired, last) {
            (Desired::Stopped | Desired::Unloaded, last) => {
                actions.push(Action::RefuseWaiting(Refusal::Stopped));
                State::Resting { last }
            }
            // It left by itself, which is allowed, but not so often that every call becomes a process.
            (Desired::OnDemand | Desired::Running, Some(reason @ Reason::Crashed { .. })) => {
                if context.history.has_room(&context.settings.restart, now) {
                    context.history.note_start(&context.settings.restart, now);
                    start(context, actions, seen)
                } else {
                    quarantine(actions, reason)
                }
            }
            (Desired::OnDemand | Desired::Running, _) => start(context, actions, seen),
        },
        Event::PauseAsked
        | Event::ResumeAsked
        | Event::CandidateAsked { .. }
        | Event::SwitchAsked { .. }
        | Event::CandidateDropAsked => {
            actions.push(Action::Decline(Decline::NotActive(seen)));
            State::Resting { last }
        }
        // How it was stopped stays known; how it failed is forgotten, and nothing is left that a later call would be measured by.
        Event::ResetAsked => State::Resting { last: last.filter(|last| matches!(last, Reason::Stopped { .. })) },
        Event::Begin
        | Event::StopAsked { .. }
        | Event::UnloadAsked
        | Event::ReplaceAsked { .. }
        | Event::Idle
        | Event::GenerationLoaded(_)
        | Event::GenerationInitialized(_)
        | Event::GenerationActive(_)
        | Event::GenerationPaused(_)
        | Event::GenerationPauseFailed(_)
        | Event::GenerationResumed(_)
        | Event::GenerationStopping(_)
        | Event::GenerationGone { .. }
        | Event::Tick => State::Resting { last },
    }
}

fn starting(
    context: &mut Context,
    actions: &mut Vec<Action>,
    mut candidate: Candidate,
    from: PluginState,
    event: Event,
    now: Instant,
) -> State {
    match event {
        Event::RestartAsked => {
            return stop(context, actions, State::Starting { candidate, from }, Then::Start, StopWhy::Restart);
        }
        // A candidate that was being tried is all there is now. Without it, a fresh one is needed.
        Event::CandidateDropAsked if candidate.promote == Promote::WhenAsked => {
            return stop(context, actions, State::Starting { candidate, from }, Then::Start, StopWhy::Dropped);
        }
        Event::SwitchAsked { generation } if candidate.generation == generation => {
            if candidate.progress == Progress::Ready {
                return State::Serving { generation, mode: Mode::Active, candidate: None };
            }
            actions.push(Action::Decline(Decline::NoSuchCandidate));
        }
        Event::SwitchAsked { .. } | Event::CandidateDropAsked => {
            actions.push(Action::Decline(Decline::NoSuchCandidate));
        }
        Event::CandidateAsked { .. } => actions.push(Action::Decline(Decline::CandidateExists)),
        Event::PauseAsked | Event::ResumeAsked => {
            actions.push(Action::Decline(Decline::NotActive(candidate.seen(from))));
        }
        Event::GenerationLoaded(generation) => {
            context.history.shortage_is_over();
            candidate.advance(generation, Progress::Loaded);
        }
        Event::GenerationInitialized(generation) => candidate.advance(generation, Progress::Initialized),
        Event::GenerationStopping(generation) => candidate.advance(generation, Progress::Ending),
        Event::GenerationActive(generation) => {
            candidate.advance(generation, Progress::Ready);
            if candidate.generation == generation && candidate.progress == Progress::Ready {
                if candidate.promote == Promote::AtOnce {
                    return State::Serving { generation, mode: Mode::Active, candidate: None };
                }
                actions.push(Action::CandidateReady(generation));
            }
        }
        Event::GenerationGone { generation, reason, stable_for, jitter } if generation == candidate.generation => {
            return judge(context, actions, End { reason, stable_for, jitter }, now);
        }
        Event::Begin
        | Event::StartAsked
        | Event::StopAsked { .. }
        | Event::UnloadAsked
        | Event::ResetAsked
        | Event::ReplaceAsked { .. }
        | Event::CallWaiting
        | Event::Idle
        | Event::GenerationPaused(_)
        | Event::GenerationPauseFailed(_)
        | Event::GenerationResumed(_)
        | Event::GenerationGone { .. }
        | Event::Tick => {}
    }
    State::Starting { candidate, from }
}

/// What `State::Serving` carries.
struct Serving {
    generation: Generation,
    mode: Mode,
    candidate: Option<Candidate>,
}

impl Serving {
    fn state(self) -> State {
        State::Serving { generation: self.generation, mode: self.mode, candidate: self.candidate }
    }

    /// Gives the route to the candidate if it is ready for it, has not to be asked for, and nobody has paused the plugin:
    /// a pause would be undone by it.
    fn promote(self, context: &mut Context, actions: &mut Vec<Action>) -> State {
        match self.candidate {
            Some(Candidate { generation, progress: Progress::Ready, promote: Promote::AtOnce, why })
                if self.mode == Mode::Active =>
            {
                retire(context, actions, self.generation, why);
                State::Serving { generation, mode: Mode::Active, candidate: None }
            }
            _ => self.state(),
        }
    }

    /// It serves no longer. A candidate on its way is the next to serve.
    fn orphan(candidate: Candidate) -> State {
        match candidate {
            Candidate { generation, progress: Progress::Ready, promote: Promote::AtOnce, .. } => {
                State::Serving { generation, mode: Mode::Active, candidate: None }
            }
            candidate => State::Starting { candidate, from: PluginState::Failed },
        }
    }
}

fn serving(
    context: &mut Context,
    actions: &mut Vec<Action>,
    mut serving: Serving,
    event: Event,
    now: Instant,
) -> State {
    match event {
        Event::StartAsked if serving.mode != Mode::Active => actions.push(Action::Decline(Decline::Paused)),
        Event::RestartAsked => {
            return stop(context, actions, serving.state(), Then::Start, StopWhy::Restart);
        }
        Event::PauseAsked => {
            if serving.mode == Mode::Active {
                serving.mode = Mode::Pausing;
                actions.push(Action::PauseGeneration(serving.generation));
                if context.settings.on_pause == OnPause::Refuse {
                    actions.push(Action::RefuseWaiting(Refusal::Paused));
                }
            }
        }
        Event::ResumeAsked => {
            if serving.mode != Mode::Active {
                actions.push(Action::ResumeGeneration(serving.generation));
            }
        }
        Event::CallWaiting => {
            if serving.mode != Mode::Active && context.settings.on_pause == OnPause::Refuse {
                actions.push(Action::RefuseWaiting(Refusal::Paused));
            }
        }
        Event::ReplaceAsked { generation, missed } => {
            // While a candidate is on its way the wish is being fulfilled; a stale or frozen one is no reason at all.
            let why = StopWhy::Overdue { missed };
            let room = context.retired.len() < RETIRED_MAX;
            if generation == serving.generation && serving.mode == Mode::Active && serving.candidate.is_none() && room {
                let policy = context.settings.restart;
                if policy.mode == RestartMode::Never || !context.history.has_room(&policy, now) {
                    // No successor is allowed. Serving on would be to ignore what the manifest says about overdue calls.
                    actions.push(Action::StopGeneration { generation, why });
                    return State::Ending { generation };
                }
                context.history.note_start(&policy, now);
                serving.candidate = Some(launch(context, actions, Promote::AtOnce, why));
            }
        }
        Event::CandidateAsked { promote } => {
            if serving.candidate.is_some() {
                actions.push(Action::Decline(Decline::CandidateExists));
            } else if serving.mode != Mode::Active {
                actions.push(Action::Decline(Decline::Paused));
            } else if RETIRED_MAX <= context.retired.len() {
                actions.push(Action::Decline(Decline::TooManyRetired));
            } else {
                serving.candidate = Some(launch(context, actions, promote, StopWhy::Replaced));
            }
        }
        Event::SwitchAsked { generation } => match serving.candidate {
            Some(candidate) if candidate.generation == generation && candidate.progress == Progress::Ready => {
                if serving.mode == Mode::Active {
                    retire(context, actions, serving.generation, candidate.why);
                    return State::Serving { generation, mode: Mode::Active, candidate: None };
                }
                actions.push(Action::Decline(Decline::Paused));
            }
            _ => actions.push(Action::Decline(Decline::NoSuchCandidate)),
        },
        Event::CandidateDropAsked => match serving.candidate.take() {
            Some(candidate) => retire(context, actions, candidate.generation, StopWhy::Dropped),
            None => actions.push(Action::Decline(Decline::NoSuchCandidate)),
        },
        Event::Idle => {
            if context.desired == Desired::OnDemand && serving.mode == Mode::Active && serving.candidate.is_none() {
                return stop(context, actions, serving.state(), Then::Rest, StopWhy::Idle);
            }
        }
        Event::GenerationLoaded(generation) => serving.advance(generation, Progress::Loaded),
        Event::GenerationInitialized(generation) => serving.advance(generation, Progress::Initialized),
        Event::GenerationActive(generation) => {
            let before = serving.candidate;
            serving.advance(generation, Progress::Ready);
            if let Some(candidate) = serving.candidate
                && candidate.promote == Promote::WhenAsked
                && candidate.progress == Progress::Ready
                && serving.candidate != before
            {
                actions.push(Action::CandidateReady(generation));
            }
            return serving.promote(context, actions);
        }
        Event::GenerationPaused(generation) => {
            // Late news of a pause that was resumed meanwhile comes before the news of the resumption.
            if generation == serving.generation {
                serving.mode = Mode::Paused;
            }
        }
        Event::GenerationResumed(generation) | Event::GenerationPauseFailed(generation) => {
            if generation == serving.generation {
                serving.mode = Mode::Active;
                return serving.promote(context, actions);
            }
        }
        Event::GenerationStopping(generation) if generation == serving.generation => {
            return match serving.candidate {
                None => State::Ending { generation },
                Some(candidate) => {
                    context.retired.insert(generation);
                    Serving::orphan(candidate)
                }
            };
        }
        Event::GenerationStopping(generation) => serving.advance(generation, Progress::Ending),
        Event::GenerationGone { generation, reason, stable_for, jitter } => {
            let gone = serving.candidate.filter(|candidate| candidate.generation == generation);
            if gone.is_some() {
                serving.candidate = None;
                actions.push(Action::CandidateFailed { generation, reason });
            } else if generation == serving.generation {
                return match serving.candidate {
                    Some(candidate) => Serving::orphan(candidate),
                    None => judge(context, actions, End { reason, stable_for, jitter }, now),
                };
            }
        }
        Event::Begin
        | Event::StartAsked
        | Event::StopAsked { .. }
        | Event::UnloadAsked
        | Event::ResetAsked
        | Event::Tick => {}
    }
    serving.state()
}

impl Serving {
    fn advance(&mut self, generation: Generation, progress: Progress) {
        if let Some(candidate) = &mut self.candidate {
            candidate.advance(generation, progress);
        }
    }
}

impl Candidate {
    /// Notes news of it. What is ending stays ending, and nothing goes backwards.
    fn advance(&mut self, generation: Generation, progress: Progress) {
        if generation == self.generation && (self.progress as u8) < (progress as u8) {
            self.progress = progress;
        }
    }

    fn seen(&self, from: PluginState) -> PluginState {
        match self.progress {
            Progress::Starting => from,
            Progress::Loaded => PluginState::Loaded,
            Progress::Initialized | Progress::Ready => PluginState::Initialized,
            Progress::Ending => PluginState::Stopping,
        }
    }
}

fn ending(context: &mut Context, actions: &mut Vec<Action>, serving: Generation, event: Event, now: Instant) -> State {
    let stay = State::Ending { generation: serving };
    match event {
        // The operator does not wait for the verdict.
        Event::StartAsked | Event::RestartAsked => stop(context, actions, stay, Then::Start, StopWhy::Restart),
        Event::GenerationGone { generation, reason, stable_for, jitter } if generation == serving => {
            judge(context, actions, End { reason, stable_for, jitter }, now)
        }
        Event::PauseAsked
        | Event::ResumeAsked
        | Event::CandidateAsked { .. }
        | Event::SwitchAsked { .. }
        | Event::CandidateDropAsked => {
            actions.push(Action::Decline(Decline::NotActive(PluginState::Stopping)));
            stay
        }
        // A call that comes now waits for the verdict.
        Event::CallWaiting
        | Event::Begin
        | Event::StopAsked { .. }
        | Event::UnloadAsked
        | Event::ResetAsked
        | Event::ReplaceAsked { .. }
        | Event::Idle
        | Event::GenerationLoaded(_)
        | Event::GenerationInitialized(_)
        | Event::GenerationActive(_)
        | Event::GenerationPaused(_)
        | Event::GenerationPauseFailed(_)
        | Event::GenerationResumed(_)
        | Event::GenerationStopping(_)
        | Event::GenerationGone { .. }
        | Event::Tick => stay,
    }
}

fn stopping(context: &mut Context, actions: &mut Vec<Action>, then: Then, why: StopWhy, event: Event) -> State {
    let then = match event {
        Event::StartAsked | Event::RestartAsked => Then::Start,
        Event::CallWaiting => match context.desired {
            Desired::OnDemand | Desired::Running => Then::Start,
            Desired::Stopped => {
                actions.push(Action::RefuseWaiting(Refusal::Stopped));
                then
            }
            Desired::Unloaded => {
                actions.push(Action::RefuseWaiting(Refusal::Unloaded));
                then
            }
        },
        Event::PauseAsked
        | Event::ResumeAsked
        | Event::CandidateAsked { .. }
        | Event::SwitchAsked { .. }
        | Event::CandidateDropAsked => {
            actions.push(Action::Decline(Decline::NotActive(PluginState::Stopping)));
            then
        }
        // Whoever is gone has been taken from the retired already; `settle` looks whether that was the last.
        Event::GenerationGone { .. }
        | Event::Begin
        | Event::StopAsked { .. }
        | Event::UnloadAsked
        | Event::ResetAsked
        | Event::ReplaceAsked { .. }
        | Event::Idle
        | Event::GenerationLoaded(_)
        | Event::GenerationInitialized(_)
        | Event::GenerationActive(_)
        | Event::GenerationPaused(_)
        | Event::GenerationPauseFailed(_)
        | Event::GenerationResumed(_)
        | Event::GenerationStopping(_)
        | Event::Tick => then,
    };
    State::Stopping { then, why }
}

fn failed(
    context: &mut Context,
    actions: &mut Vec<Action>,
    reason: Reason,
    next: Next,
    event: Event,
    now: Instant,
) -> State {
    match event {
        Event::StartAsked | Event::RestartAsked => {
            // An operator who starts it has looked at it, so what it did before is forgiven.
            context.history.reset();
            return start(context, actions, PluginState::Failed);
        }
        Event::ResetAsked => {
            return match context.desired {
                Desired::Running => start(context, actions, PluginState::Failed),
                Desired::OnDemand | Desired::Stopped | Desired::Unloaded => State::Resting { last: None },
            };
        }
        Event::Tick => {
            if let Next::RestartAt(at) = next
                && at <= now
            {
                // What the host had no means for was no start of the plugin's.
                if !reason.is_shortage() {
                    context.history.note_start(&context.settings.restart, now);
                }
                return start(context, actions, PluginState::Failed);
            }
        }
        // With a restart due, a call waits for it within its deadline.
        Event::CallWaiting => match next {
            Next::RestartAt(_) => {}
            Next::Nothing => actions.push(Action::RefuseWaiting(Refusal::Failed { reason: reason.clone() })),
            Next::Quarantined => actions.push(Action::RefuseWaiting(Refusal::Quarantined { reason: reason.clone() })),
        },
        Event::PauseAsked
        | Event::ResumeAsked
        | Event::CandidateAsked { .. }
        | Event::SwitchAsked { .. }
        | Event::CandidateDropAsked => {
            actions.push(Action::Decline(Decline::NotActive(PluginState::Failed)));
        }
        Event::Begin
        | Event::StopAsked { .. }
        | Event::UnloadAsked
        | Event::ReplaceAsked { .. }
        | Event::Idle
        | Event::GenerationLoaded(_)
        | Event::GenerationInitialized(_)
        | Event::GenerationActive(_)
        | Event::GenerationPaused(_)
        | Event::GenerationPauseFailed(_)
        | Event::GenerationResumed(_)
        | Event::GenerationStopping(_)
        | Event::GenerationGone { .. } => {}
    }
    State::Failed { reason, next }
}

fn unloaded(actions: &mut Vec<Action>, event: Event) -> State {
    match event {
        Event::CallWaiting => actions.push(Action::RefuseWaiting(Refusal::Unloaded)),
        Event::StartAsked
        | Event::RestartAsked
        | Event::PauseAsked
        | Event::ResumeAsked
        | Event::ResetAsked
        | Event::CandidateAsked { .. }
        | Event::SwitchAsked { .. }
        | Event::CandidateDropAsked => actions.push(Action::Decline(Decline::Unloaded)),
        Event::Begin
        | Event::StopAsked { .. }
        | Event::UnloadAsked
        | Event::ReplaceAsked { .. }
        | Event::Idle
        | Event::GenerationLoaded(_)
        | Event::GenerationInitialized(_)
        | Event::GenerationActive(_)
        | Event::GenerationPaused(_)
        | Event::GenerationPauseFailed(_)
        | Event::GenerationResumed(_)
        | Event::GenerationStopping(_)
        | Event::GenerationGone { .. }
        | Event::Tick => {}
    }
    State::Unloaded
}

/// Once the last process is gone, stopping is over.
fn settle(context: &mut Context, actions: &mut Vec<Action>, state: State) -> State {
    match state {
        State::Stopping { then, why } if context.retired.is_empty() => match (context.desired, then) {
            (Desired::Unloaded, _) => State::Unloaded,
            (Desired::OnDemand | Desired::Running | Desired::Stopped, Then::Start) => {
                start(context, actions, PluginState::Stopped)
            }
            (Desired::OnDemand | Desired::Running | Desired::Stopped, Then::Rest) => {
                State::Resting { last: Some(Reason::Stopped { why }) }
            }
        },
        state => state,
    }
}

/// How a generation ended that had, or was to have, the route.
struct End {
    reason: Reason,
    stable_for: Duration,
    jitter: f64,
}

/// Decides what follows from it.
fn judge(context: &mut Context, actions: &mut Vec<Action>, end: End, now: Instant) -> State {
    let End { reason, stable_for, jitter } = end;
    if reason == Reason::Unconfirmed {
        // Another process beside one that could not be ended would make two.
        return quarantine(actions, reason);
    }
    if reason.is_shortage() {
        let (at, in_a_row) = context.history.shortage(&context.settings.restart, jitter, now);
        if SHORTAGES_PATIENT <= in_a_row {
            // It lasts. Whoever waits should read why, rather than a timeout later.
            actions.push(Action::RefuseWaiting(Refusal::Failed { reason: reason.clone() }));
        }
        return State::Failed { reason, next: Next::RestartAt(at) };
    }
    if reason.is_lasting() {
        actions.push(Action::RefuseWaiting(Refusal::Failed { reason: reason.clone() }));
        return State::Failed { reason, next: Next::Nothing };
    }
    let failed = reason.is_failure();
    match context.history.judge(&context.settings.restart, failed, stable_for, jitter, now) {
        Verdict::Leave if failed => {
            actions.push(Action::RefuseWaiting(Refusal::Failed { reason: reason.clone() }));
            State::Failed { reason, next: Next::Nothing }
        }
        Verdict::Leave => State::Resting { last: Some(reason) },
        Verdict::Quarantine => quarantine(actions, reason),
        Verdict::RestartAt(at) => {
            if let Reason::InitializationFailed { why: InitFailure::Refused { .. } | InitFailure::Unhealthy { .. } } =
                &reason
            {
                // It said itself why it cannot work. Whoever waited should read that now rather than a timeout later.
                actions.push(Action::RefuseWaiting(Refusal::Failed { reason: reason.clone() }));
            }
            State::Failed { reason, next: Next::RestartAt(at) }
        }
    }
}

fn quarantine(actions: &mut Vec<Action>, reason: Reason) -> State {
    actions.push(Action::RefuseWaiting(Refusal::Quarantined { reason: reason.clone() }));
    State::Failed { reason, next: Next::Quarantined }
}

/// A first generation, with nothing beside it.
fn start(context: &mut Context, actions: &mut Vec<Action>, from: PluginState) -> State {
    State::Starting { candidate: launch(context, actions, Promote::AtOnce, StopWhy::Replaced), from }
}

fn launch(context: &mut Context, actions: &mut Vec<Action>, promote: Promote, why: StopWhy) -> Candidate {
    let generation = context.next;
    context.next = generation.next();
    actions.push(Action::StartGeneration(generation));
    Candidate { generation, progress: Progress::Starting, promote, why }
}

fn retire(context: &mut Context, actions: &mut Vec<Action>, generation: Generation, why: StopWhy) {
    context.retired.insert(generation);
    actions.push(Action::StopGeneration { generation, why });
}

/// Ends whatever runs.
fn stop(context: &mut Context, actions: &mut Vec<Action>, state: State, then: Then, why: StopWhy) -> State {
    let why = match state {
        State::Starting { candidate, .. } => {
            retire(context, actions, candidate.generation, why);
            why
        }
        State::Serving { generation, candidate, .. } => {
            retire(context, actions, generation, why);
            if let Some(candidate) = candidate {
                retire(context, actions, candidate.generation, why);
            }
            why
        }
        State::Ending { generation } => {
            retire(context, actions, generation, why);
            why
        }
        // What began the stop remains the reason, unless more is wanted now.
        State::Stopping { why: first, .. } => match why {
            StopWhy::Unload | StopWhy::Shutdown => why,
            StopWhy::Operator
            | StopWhy::Restart
            | StopWhy::Idle
            | StopWhy::Replaced
            | StopWhy::Overdue { .. }
            | StopWhy::Dropped
            | StopWhy::Dependency => first,
        },
        State::Resting { .. } | State::Failed { .. } | State::Unloaded => why,
    };
    State::Stopping { then, why }
}

fn wanted(settings: &Settings) -> Desired {
    match settings.activation {
        Activation::Eager => Desired::Running,
        Activation::Lazy { .. } => Desired::OnDemand,
    }
}

#[cfg(test)]
mod tests;
