//! What follows from an event in each state of a process.

use std::time::{Duration, Instant};

use super::reason::{InitFailure, Reason, StopWhy, reason_of};
use super::{Action, Ending, Event, KILLS_MAX, Phase, State, StopStep, Timing};
use crate::model::overdue::Misses;
use crate::model::watchdog::{Due, Watchdog};

/// From this attempt on, the launcher is killed as well: what it leaves behind dies with its lifeline.
const KILLS_BEFORE_LAUNCHER: u32 = 2;

type Next = (State, Vec<Action>);

/// What follows from `event` in `state`, and what the owner has to do about it.
pub(super) fn step(timing: &Timing, state: State, event: Event, now: Instant) -> Next {
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
        | Event::Unagreed { .. }
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
        | Event::Unagreed { .. }
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
        | Event::Unagreed { .. }
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
        Event::Refused { error } | Event::Disagreed { error } | Event::Unagreed { error } => {
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
        Event::Refused { error } | Event::Disagreed { error } | Event::Unagreed { error } => {
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
        Event::Hello | Event::Ready | Event::Refused { .. } | Event::Disagreed { .. } | Event::Unagreed { .. } => {
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
        | Event::Unagreed { .. }
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
        Fault::Event(_, Event::Unagreed { error }) => {
            let reason = Reason::InitializationFailed { why: InitFailure::Unagreed { error } };
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

/// The number comes from the plugin, so it may be anything; the cap is ours.
fn extended(deadline: Instant, by: Duration, cap: Instant, now: Instant) -> Instant {
    now.checked_add(by).map_or(cap, |asked| asked.min(cap)).max(deadline)
}
