//! What follows from an event in each state of a plugin.

use std::time::{Duration, Instant};

use super::{
    Action, Candidate, Context, Decline, Desired, Event, Mode, Next, Progress, Promote, RETIRED_MAX, Refusal, State,
    Then, wanted,
};
use crate::model::generation::{InitFailure, Reason, StopWhy};
use crate::model::ids::Generation;
use crate::model::manifest::OnPause;
use crate::model::restart::{History, RestartMode, SHORTAGES_PATIENT, Verdict};
use crate::model::status::PluginState;

/// What follows from `event` in `state`. What lies in `context` is as much part of the result as the state.
pub(super) fn step(
    context: &mut Context,
    actions: &mut Vec<Action>,
    state: State,
    event: Event,
    now: Instant,
) -> State {
    // What an operator wants as a whole is the same whatever runs.
    match (&state, &event) {
        (State::Unloaded, _) => {}
        (_, Event::UnloadAsked) => {
            context.desired = Desired::Unloaded;
            actions.push(Action::RefuseWaiting(Refusal::Unloaded));
            return stop(context, actions, state, Then::Rest, StopWhy::Unload);
        }
        (_, Event::StartAsked | Event::RestartAsked { .. }) if context.desired == Desired::Unloaded => {
            actions.push(Action::Decline(Decline::Unloaded));
            return state;
        }
        (_, Event::StopAsked { why }) => {
            let why = *why;
            if context.desired != Desired::Unloaded {
                context.desired = Desired::Stopped;
                let refusal = match why {
                    StopWhy::Shutdown => Refusal::Shutdown,
                    StopWhy::Removed => Refusal::Unloaded,
                    _ => Refusal::Stopped,
                };
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
        (_, Event::StartAsked | Event::RestartAsked { .. }) => context.desired = wanted(&context.settings),
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
        Event::StartAsked | Event::RestartAsked { .. } => start(context, actions, seen),
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
        Event::RestartAsked { why } => {
            return stop(context, actions, State::Starting { candidate, from }, Then::Start, why);
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

    fn advance(&mut self, generation: Generation, progress: Progress) {
        if let Some(candidate) = &mut self.candidate {
            candidate.advance(generation, progress);
        }
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
        Event::RestartAsked { why } => {
            return stop(context, actions, serving.state(), Then::Start, why);
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

impl Candidate {
    /// Notes news of it. What is ending stays ending, and nothing goes backwards.
    fn advance(&mut self, generation: Generation, progress: Progress) {
        if generation == self.generation && (self.progress as u8) < (progress as u8) {
            self.progress = progress;
        }
    }

    pub(super) fn seen(&self, from: PluginState) -> PluginState {
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
        Event::StartAsked => stop(context, actions, stay, Then::Start, StopWhy::Restart),
        Event::RestartAsked { why } => stop(context, actions, stay, Then::Start, why),
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
        Event::StartAsked | Event::RestartAsked { .. } => Then::Start,
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
        Event::StartAsked | Event::RestartAsked { .. } => {
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
        | Event::RestartAsked { .. }
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
pub(super) fn settle(context: &mut Context, actions: &mut Vec<Action>, state: State) -> State {
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
            | StopWhy::Withdrawn
            | StopWhy::Restart
            | StopWhy::Held
            | StopWhy::Idle
            | StopWhy::Replaced
            | StopWhy::Exchanged
            | StopWhy::Removed
            | StopWhy::Overdue { .. }
            | StopWhy::Dropped
            | StopWhy::Dependency => first,
        },
        State::Resting { .. } | State::Failed { .. } | State::Unloaded => why,
    };
    State::Stopping { then, why }
}
