use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::model::exit::Exit;
use crate::model::generation::{InitFailure, LaunchFailure, Outlook};
use crate::model::ids::PluginId;
use crate::model::restart::RestartMode;

const G1: Generation = Generation(1);
const G2: Generation = Generation(2);
const G3: Generation = Generation(3);
const LAZY: Activation = Activation::Lazy { idle_stop: None };

fn settings(activation: Activation, mode: RestartMode) -> Settings {
    let restart = RestartPolicy { mode, jitter: 0.0, ..RestartPolicy::default() };
    Settings { activation, restart, on_pause: OnPause::Wait }
}

fn crashed() -> Reason {
    Reason::Crashed { exit: Exit::Signal { number: 11, core: false } }
}

fn shortage() -> Reason {
    let message = "a pipe could not be made".to_owned();
    Reason::LaunchFailed { failure: LaunchFailure { message, outlook: Outlook::Shortage, code: None } }
}

fn gone(generation: Generation, reason: Reason) -> Event {
    Event::GenerationGone { generation, reason, stable_for: Duration::ZERO, jitter: 0.5 }
}

/// A machine under test, at a time of its own.
struct Bench {
    machine: Machine,
    now: Instant,
}

impl Bench {
    fn new(activation: Activation, mode: RestartMode) -> Self {
        Self { machine: Machine::new(settings(activation, mode), Generation::FIRST), now: Instant::now() }
    }

    /// A lazy plugin that restarts after failures, served by generation 1.
    fn serving() -> Self {
        let mut bench = Self::new(LAZY, RestartMode::OnFailure);
        bench.step(Event::CallWaiting);
        bench.step(Event::GenerationActive(G1));
        assert_eq!(bench.machine.route(), Some(G1));
        bench
    }

    /// The actions without the announcements.
    fn step(&mut self, event: Event) -> Vec<Action> {
        let actions = self.machine.step(event, self.now);
        actions.into_iter().filter(|action| !matches!(action, Action::Publish { .. })).collect()
    }

    fn wait(&mut self, millis: u64) {
        self.now += Duration::from_millis(millis);
    }

    fn seen(&self) -> PluginState {
        self.machine.projection()
    }
}

#[test]
fn users_see_the_nine_names_in_their_order() {
    let mut bench = Bench::new(LAZY, RestartMode::OnFailure);
    let mut seen = vec![bench.seen()];
    let stop = Event::StopAsked { why: StopWhy::Operator };
    for event in [
        Event::CallWaiting,
        Event::GenerationLoaded(G1),
        Event::GenerationInitialized(G1),
        Event::GenerationActive(G1),
        Event::PauseAsked,
        Event::GenerationPaused(G1),
        Event::ResumeAsked,
        Event::GenerationResumed(G1),
        stop,
        gone(G1, Reason::Stopped { why: StopWhy::Operator }),
        Event::StartAsked,
        Event::GenerationActive(G2),
        gone(G2, crashed()),
        Event::UnloadAsked,
    ] {
        let before = bench.seen();
        let actions = bench.machine.step(event, bench.now);
        let published = actions.iter().find_map(|action| match action {
            Action::Publish { from, to, .. } => Some((*from, *to)),
            _ => None,
        });
        let after = bench.seen();
        assert_eq!(published, (before != after).then_some((before, after)));
        if before != after {
            seen.push(after);
        }
    }
    use PluginState::*;
    assert_eq!(
        seen,
        [Discovered, Loaded, Initialized, Active, Paused, Active, Stopping, Stopped, Active, Failed, Unloaded]
    );
}

#[test]
fn lazy_plugins_start_with_a_call_and_eager_ones_with_the_daemon() {
    let mut lazy = Bench::new(LAZY, RestartMode::OnFailure);
    assert_eq!(lazy.step(Event::Begin), []);
    assert_eq!(lazy.step(Event::CallWaiting), [Action::StartGeneration(G1)]);
    assert_eq!(lazy.step(Event::CallWaiting), []);
    assert_eq!(lazy.step(Event::GenerationActive(G1)), [Action::SetRoute(Some(G1))]);
    let mut eager = Bench::new(Activation::Eager, RestartMode::OnFailure);
    assert_eq!(eager.step(Event::Begin), [Action::StartGeneration(G1)]);
    assert_eq!(eager.step(Event::Begin), []);
}

#[test]
fn a_stopped_plugin_stays_stopped_until_it_is_started() {
    let mut bench = Bench::serving();
    let why = StopWhy::Operator;
    assert_eq!(
        bench.step(Event::StopAsked { why }),
        [
            Action::SetRoute(None),
            Action::RefuseWaiting(Refusal::Stopped),
            Action::StopGeneration { generation: G1, why }
        ]
    );
    assert_eq!(bench.step(Event::CallWaiting), [Action::RefuseWaiting(Refusal::Stopped)]);
    assert_eq!(bench.step(gone(G1, crashed())), [], "a crash while it stops is no reason to start it");
    assert_eq!(bench.step(Event::CallWaiting), [Action::RefuseWaiting(Refusal::Stopped)]);
    assert_eq!(bench.step(Event::StartAsked), [Action::StartGeneration(G2)]);
}

#[test]
fn a_restart_waits_for_the_old_process_and_counts_for_nothing() {
    let mut bench = Bench::serving();
    for n in 1..20 {
        let why = if n % 2 == 0 { StopWhy::Held } else { StopWhy::Restart };
        let generation = Generation(n);
        assert_eq!(
            bench.step(Event::RestartAsked { why }),
            [Action::SetRoute(None), Action::StopGeneration { generation, why }]
        );
        assert_eq!(bench.step(Event::CallWaiting), [], "calls wait for the next one");
        assert_eq!(bench.step(gone(generation, Reason::Stopped { why })), [Action::StartGeneration(Generation(n + 1))]);
        bench.step(Event::GenerationActive(Generation(n + 1)));
    }
    assert_eq!(bench.machine.restarts(), 0);
}

#[test]
fn a_crash_schedules_a_restart_for_which_calls_wait() {
    let mut bench = Bench::serving();
    assert_eq!(bench.step(gone(G1, crashed())), [Action::SetRoute(None)]);
    assert_eq!(bench.seen(), PluginState::Failed);
    assert_eq!(bench.machine.deadline(), Some(bench.now + Duration::from_millis(200)));
    assert_eq!(bench.step(Event::CallWaiting), []);
    bench.wait(199);
    assert_eq!(bench.step(Event::Tick), []);
    bench.wait(1);
    assert_eq!(bench.step(Event::Tick), [Action::StartGeneration(G2)]);
    assert_eq!(bench.machine.restarts(), 1);
}

#[test]
fn a_plugin_that_keeps_crashing_is_quarantined_until_somebody_starts_it() {
    let mut bench = Bench::serving();
    let mut generation = G1;
    for _ in 0..20 {
        if bench.machine.is_quarantined() {
            break;
        }
        bench.step(gone(generation, crashed()));
        if let Some(at) = bench.machine.deadline() {
            bench.now = at;
            bench.step(Event::Tick);
            generation = generation.next();
            bench.step(Event::GenerationActive(generation));
        }
    }
    assert_eq!((generation, bench.machine.restarts()), (Generation(6), 5));
    assert_eq!(bench.step(Event::CallWaiting), [Action::RefuseWaiting(Refusal::Quarantined { reason: crashed() })]);
    bench.wait(3_600_000);
    assert_eq!(bench.step(Event::Tick), []);
    let mut reset = Bench { machine: bench.machine.clone(), now: bench.now };
    assert_eq!(reset.step(Event::ResetAsked), []);
    assert!(!reset.machine.is_quarantined());
    assert_eq!((reset.seen(), reset.machine.reason(), reset.machine.restarts()), (PluginState::Discovered, None, 0));
    assert_eq!(reset.step(Event::CallWaiting), [Action::StartGeneration(Generation(7))]);
    assert_eq!(bench.step(Event::StartAsked), [Action::StartGeneration(Generation(7))]);
    bench.step(Event::GenerationActive(Generation(7)));
    bench.step(gone(Generation(7), crashed()));
    assert_eq!(bench.machine.deadline(), Some(bench.now + Duration::from_millis(200)), "all is forgiven");
}

#[test]
fn a_reset_forgets_how_it_failed_and_not_that_it_was_stopped() {
    let mut bench = Bench::serving();
    bench.step(gone(G1, crashed()));
    bench.step(Event::StopAsked { why: StopWhy::Operator });
    assert_eq!(bench.machine.reason(), Some(crashed().to_string()));
    bench.step(Event::ResetAsked);
    assert_eq!((bench.seen(), bench.machine.reason()), (PluginState::Stopped, None));
    assert_eq!(bench.step(Event::CallWaiting), [Action::RefuseWaiting(Refusal::Stopped)], "it stays stopped");

    let mut bench = Bench::serving();
    bench.step(Event::StopAsked { why: StopWhy::Operator });
    bench.step(gone(G1, Reason::Stopped { why: StopWhy::Operator }));
    let before = bench.machine.reason();
    assert!(before.is_some());
    bench.step(Event::ResetAsked);
    assert_eq!((bench.seen(), bench.machine.reason()), (PluginState::Stopped, before));
}

#[test]
fn policies_decide_what_follows_an_end() {
    let clean = Reason::Crashed { exit: Exit::Code(0) };
    for (mode, reason, seen, restarts) in [
        (RestartMode::Always, clean.clone(), PluginState::Failed, true),
        (RestartMode::OnFailure, clean.clone(), PluginState::Stopped, false),
        (RestartMode::Never, clean, PluginState::Stopped, false),
        (RestartMode::Always, crashed(), PluginState::Failed, true),
        (RestartMode::Never, crashed(), PluginState::Failed, false),
    ] {
        let mut bench = Bench::new(LAZY, mode);
        bench.step(Event::CallWaiting);
        bench.step(Event::GenerationActive(G1));
        bench.step(gone(G1, reason));
        assert_eq!((bench.seen(), bench.machine.deadline().is_some()), (seen, restarts), "{mode:?}");
    }
}

#[test]
fn failures_that_nobody_can_wait_out_refuse_the_calls_at_once() {
    let failure = LaunchFailure { message: "no such file".into(), outlook: Outlook::Lasting, code: None };
    let refused = InitFailure::Refused { error: "no key".into() };
    let unagreed = InitFailure::Unagreed { error: "new".into() };
    for (mode, reason, restart_due) in [
        (RestartMode::OnFailure, Reason::LaunchFailed { failure }, false),
        (RestartMode::OnFailure, Reason::InitializationFailed { why: refused }, true),
        (RestartMode::OnFailure, Reason::InitializationFailed { why: unagreed }, false),
        (RestartMode::Never, crashed(), false),
    ] {
        let mut bench = Bench::new(LAZY, mode);
        bench.step(Event::CallWaiting);
        let actions = bench.step(gone(G1, reason.clone()));
        assert_eq!(actions, [Action::RefuseWaiting(Refusal::Failed { reason })]);
        assert_eq!(bench.machine.deadline().is_some(), restart_due);
        assert_eq!(bench.step(Event::CallWaiting).is_empty(), restart_due);
    }
}

#[test]
fn a_host_without_means_is_no_failure_of_the_plugins() {
    for mode in [RestartMode::OnFailure, RestartMode::Never] {
        let mut bench = Bench::new(LAZY, mode);
        bench.step(Event::CallWaiting);
        let mut generation = G1;
        let mut waits = Vec::new();
        for attempt in 1..20 {
            let actions = bench.step(gone(generation, shortage()));
            // Calls wait for a while, and are told then; the attempts go on.
            let told = attempt >= 5;
            let refusal = Action::RefuseWaiting(Refusal::Failed { reason: shortage() });
            assert_eq!(actions, if told { vec![refusal] } else { vec![] }, "attempt {attempt}");
            let at = bench.machine.deadline().expect("it is tried again");
            waits.push(at.duration_since(bench.now).as_millis());
            bench.now = at;
            generation = generation.next();
            assert_eq!(bench.step(Event::Tick), [Action::StartGeneration(generation)]);
        }
        assert_eq!(waits[..9], [200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000]);
        assert_eq!((bench.machine.is_quarantined(), bench.machine.restarts()), (false, 0));
        bench.step(Event::GenerationLoaded(generation));
        assert_eq!(bench.step(Event::GenerationActive(generation)), [Action::SetRoute(Some(generation))]);
    }
}

#[test]
fn a_restart_that_the_host_had_no_means_for_is_counted_once() {
    let mut bench = Bench::serving();
    let mut generation = G1;
    for reason in [crashed(), shortage(), shortage()] {
        bench.step(gone(generation, reason));
        bench.now = bench.machine.deadline().unwrap();
        bench.step(Event::Tick);
        generation = generation.next();
    }
    bench.step(Event::GenerationLoaded(generation));
    bench.step(Event::GenerationActive(generation));
    assert_eq!(bench.machine.restarts(), 1);
    bench.step(gone(generation, shortage()));
    assert_eq!(bench.machine.deadline(), Some(bench.now + Duration::from_millis(200)), "the one before is over");
}

#[test]
fn a_process_that_does_not_end_gets_no_second_one_beside_it() {
    let mut bench = Bench::serving();
    bench.step(Event::GenerationStopping(G1));
    bench.step(gone(G1, Reason::Unconfirmed));
    assert!(bench.machine.is_quarantined());
}

#[test]
fn clean_exits_by_themselves_are_allowed_but_not_without_bound() {
    let mut bench = Bench::serving();
    let clean = || Reason::Crashed { exit: Exit::Code(0) };
    let mut generation = G1;
    for _ in 0..5 {
        bench.step(gone(generation, clean()));
        generation = generation.next();
        assert_eq!(bench.step(Event::CallWaiting), [Action::StartGeneration(generation)]);
        bench.step(Event::GenerationActive(generation));
    }
    bench.step(gone(generation, clean()));
    assert_eq!(bench.step(Event::CallWaiting), [Action::RefuseWaiting(Refusal::Quarantined { reason: clean() })]);
}

#[test]
fn idleness_stops_a_lazy_plugin_and_the_next_call_brings_it_back() {
    let mut bench = Bench::serving();
    let why = StopWhy::Idle;
    let stop = Action::StopGeneration { generation: G1, why };
    assert_eq!(bench.step(Event::Idle), [Action::SetRoute(None), stop]);
    assert_eq!(bench.step(Event::CallWaiting), [], "a call that crosses the stop waits for the end of it");
    assert_eq!(bench.step(gone(G1, Reason::Stopped { why })), [Action::StartGeneration(G2)]);
    let mut eager = Bench::new(Activation::Eager, RestartMode::OnFailure);
    eager.step(Event::Begin);
    eager.step(Event::GenerationActive(G1));
    assert_eq!(eager.step(Event::Idle), []);
}

#[test]
fn a_candidate_takes_the_route_at_once_or_when_asked() {
    let mut bench = Bench::serving();
    assert_eq!(bench.step(Event::CandidateAsked { promote: Promote::AtOnce }), [Action::StartGeneration(G2)]);
    assert_eq!(
        bench.step(Event::CandidateAsked { promote: Promote::AtOnce }),
        [Action::Decline(Decline::CandidateExists)]
    );
    let why = StopWhy::Replaced;
    assert_eq!(
        bench.step(Event::GenerationActive(G2)),
        [Action::SetRoute(Some(G2)), Action::StopGeneration { generation: G1, why }]
    );
    assert_eq!(bench.machine.retired().collect::<Vec<_>>(), [G1]);
    bench.step(Event::CandidateAsked { promote: Promote::WhenAsked });
    assert_eq!(
        bench.step(Event::SwitchAsked { generation: G3 }),
        [Action::Decline(Decline::NoSuchCandidate)],
        "it is not active yet"
    );
    assert_eq!(bench.step(Event::GenerationActive(G3)), [Action::CandidateReady(G3)]);
    assert_eq!(bench.step(Event::GenerationActive(G3)), []);
    assert_eq!(
        bench.step(Event::SwitchAsked { generation: G3 }),
        [Action::SetRoute(Some(G3)), Action::StopGeneration { generation: G2, why }]
    );
    assert_eq!(bench.step(gone(G1, crashed())), [], "late news of the retired changes nothing");
    assert_eq!(bench.machine.route(), Some(G3));
}

#[test]
fn candidates_wait_while_too_many_of_their_predecessors_finish_their_calls() {
    let mut bench = Bench::serving();
    let asked = Event::CandidateAsked { promote: Promote::AtOnce };
    for n in 2..2 + RETIRED_MAX as u64 {
        assert_eq!(bench.step(asked.clone()), [Action::StartGeneration(Generation(n))]);
        bench.step(Event::GenerationActive(Generation(n)));
    }
    assert_eq!(bench.step(asked.clone()), [Action::Decline(Decline::TooManyRetired)]);
    bench.step(gone(G1, Reason::Stopped { why: StopWhy::Replaced }));
    assert_eq!(bench.step(asked), [Action::StartGeneration(Generation(6))]);
}

#[test]
fn a_candidate_that_fails_or_is_dropped_leaves_things_as_they_were() {
    let mut bench = Bench::serving();
    bench.step(Event::CandidateAsked { promote: Promote::AtOnce });
    assert_eq!(bench.step(Event::GenerationStopping(G2)), []);
    assert_eq!(bench.step(gone(G2, crashed())), [Action::CandidateFailed { generation: G2, reason: crashed() }]);
    bench.step(Event::CandidateAsked { promote: Promote::WhenAsked });
    let why = StopWhy::Dropped;
    assert_eq!(bench.step(Event::CandidateDropAsked), [Action::StopGeneration { generation: G3, why }]);
    assert_eq!(bench.step(Event::GenerationActive(G3)), [], "it became active a moment too late");
    assert_eq!((bench.machine.route(), bench.seen()), (Some(G1), PluginState::Active));
    assert_eq!(bench.machine.restarts(), 0);
}

#[test]
fn a_candidate_outlives_the_death_of_what_it_was_to_replace() {
    for (promote, route) in [(Promote::AtOnce, Some(G2)), (Promote::WhenAsked, None)] {
        let mut bench = Bench::serving();
        bench.step(Event::CandidateAsked { promote });
        assert_eq!(bench.step(gone(G1, crashed())), [Action::SetRoute(None)]);
        assert_eq!(bench.machine.deadline(), None, "no restart beside the candidate");
        bench.step(Event::GenerationActive(G2));
        assert_eq!(bench.machine.route(), route);
        if route.is_none() {
            assert_eq!(bench.step(Event::SwitchAsked { generation: G2 }), [Action::SetRoute(Some(G2))]);
        }
    }
}

#[test]
fn a_pause_holds_a_candidate_back() {
    let mut bench = Bench::serving();
    bench.step(Event::CandidateAsked { promote: Promote::AtOnce });
    assert_eq!(bench.step(Event::PauseAsked), [Action::PauseGeneration(G1)]);
    assert_eq!(bench.step(Event::GenerationActive(G2)), []);
    bench.step(Event::GenerationPaused(G1));
    assert_eq!(bench.step(Event::CallWaiting), []);
    assert_eq!(bench.step(Event::ResumeAsked), [Action::ResumeGeneration(G1)]);
    let stop = Action::StopGeneration { generation: G1, why: StopWhy::Replaced };
    assert_eq!(bench.step(Event::GenerationResumed(G1)), [Action::SetRoute(Some(G2)), stop]);
}

#[test]
fn a_paused_plugin_refuses_calls_only_if_it_says_so() {
    let mut bench = Bench::serving();
    let settings = Settings { on_pause: OnPause::Refuse, ..bench.machine.settings().clone() };
    bench.machine.reconfigure(settings);
    bench.step(Event::PauseAsked);
    bench.step(Event::GenerationPaused(G1));
    assert_eq!(bench.step(Event::CallWaiting), [Action::RefuseWaiting(Refusal::Paused)]);
}

#[test]
fn an_overdue_generation_is_replaced_without_a_gap_or_ended_where_that_is_not_allowed() {
    let mut bench = Bench::serving();
    let asked = Event::ReplaceAsked { generation: G1, missed: 3 };
    assert_eq!(bench.step(asked.clone()), [Action::StartGeneration(G2)]);
    assert_eq!(bench.step(asked.clone()), [], "it is on its way");
    let why = StopWhy::Overdue { missed: 3 };
    let stop = Action::StopGeneration { generation: G1, why };
    assert_eq!(bench.step(Event::GenerationActive(G2)), [Action::SetRoute(Some(G2)), stop.clone()]);
    assert_eq!(bench.step(asked.clone()), [], "stale");
    assert_eq!(bench.machine.restarts(), 1);

    let mut never = Bench::new(LAZY, RestartMode::Never);
    never.step(Event::CallWaiting);
    never.step(Event::GenerationActive(G1));
    assert_eq!(never.step(asked), [Action::SetRoute(None), stop]);
    never.step(gone(G1, Reason::Overdue { missed: 3 }));
    assert_eq!(never.seen(), PluginState::Failed);
}

#[test]
fn a_hung_generation_is_judged_when_it_is_gone() {
    let mut bench = Bench::serving();
    assert_eq!(bench.step(Event::GenerationStopping(G1)), [Action::SetRoute(None)]);
    assert_eq!(bench.step(Event::CallWaiting), []);
    assert_eq!(bench.seen(), PluginState::Stopping);
    bench.step(gone(G1, Reason::Hung { timeout: Duration::from_secs(15) }));
    assert!(bench.machine.deadline().is_some());
}

#[test]
fn unloading_is_final() {
    let mut bench = Bench::serving();
    bench.step(Event::UnloadAsked);
    assert_eq!(bench.seen(), PluginState::Stopping);
    assert_eq!(bench.step(Event::StartAsked), [Action::Decline(Decline::Unloaded)]);
    bench.step(Event::StopAsked { why: StopWhy::Operator });
    bench.step(gone(G1, crashed()));
    assert_eq!(bench.seen(), PluginState::Unloaded);
    assert_eq!(bench.step(Event::CallWaiting), [Action::RefuseWaiting(Refusal::Unloaded)]);
}

#[test]
fn what_cannot_be_done_is_declined_with_the_reason() {
    let mut bench = Bench::new(LAZY, RestartMode::OnFailure);
    assert_eq!(bench.step(Event::PauseAsked), [Action::Decline(Decline::NotActive(PluginState::Discovered))]);
    let mut bench = Bench::serving();
    bench.step(Event::PauseAsked);
    assert_eq!(bench.step(Event::PauseAsked), []);
    assert_eq!(bench.step(Event::StartAsked), [Action::Decline(Decline::Paused)]);
    assert_eq!(bench.step(Event::CandidateAsked { promote: Promote::AtOnce }), [Action::Decline(Decline::Paused)]);
}

#[test]
fn refusals_say_what_to_do() {
    let id = PluginId::parse("echo").unwrap();
    let refusal = Refusal::Quarantined { reason: crashed() };
    assert_eq!(
        refusal.message(&id),
        "plugin `echo` failed too often and is quarantined; the last failure: killed by SIGSEGV"
    );
    assert!(refusal.hint(&id).contains("palisade start echo"));
}

/// What the processes outside are doing, as far as the machine was told, and everything that must hold of it.
struct World {
    machine: Machine,
    /// Every process that was started and is not gone, and whether it is active.
    alive: BTreeMap<Generation, bool>,
    highest: Generation,
    /// Automatic starts since the last reset.
    automatic: Vec<Instant>,
    stopped: bool,
    route: Option<Generation>,
}

impl World {
    fn step(&mut self, event: Event, now: Instant) {
        let before = self.machine.clone();
        match &event {
            Event::GenerationActive(generation) => {
                if let Some(active) = self.alive.get_mut(generation) {
                    *active = true;
                }
            }
            Event::GenerationGone { generation, .. } => {
                self.alive.remove(generation);
            }
            Event::StopAsked { .. } => self.stopped = true,
            Event::StartAsked | Event::RestartAsked { .. } => self.stopped = false,
            _ => {}
        }
        if before.is_quarantined() && matches!(event, Event::StartAsked | Event::RestartAsked { .. })
            || matches!(event, Event::ResetAsked)
            || matches!(
                (before.state(), &event),
                (State::Failed { .. }, Event::StartAsked | Event::RestartAsked { .. })
            )
        {
            self.automatic.clear();
        }
        let actions = self.machine.step(event.clone(), now);
        let story = format!("{:?}\n  + {event:?} ->\n  {:?}: {actions:?}", before.state(), self.machine.state());
        for action in &actions {
            match action {
                Action::StartGeneration(generation) => {
                    assert!(self.highest < *generation, "numbers only grow: {story}");
                    assert!(!self.stopped, "nobody asked for it: {story}");
                    self.highest = *generation;
                    self.alive.insert(*generation, false);
                }
                Action::SetRoute(route) => {
                    self.route = *route;
                    if let Some(generation) = route {
                        assert_eq!(self.alive.get(generation), Some(&true), "a route to nowhere: {story}");
                    }
                }
                Action::StopGeneration { generation, .. } => {
                    assert_ne!(self.route, Some(*generation), "told to stop with the route in hand: {story}");
                }
                _ => {}
            }
        }
        // A reset begins anew.
        let restarts = self.machine.restarts().saturating_sub(before.restarts());
        self.automatic.extend((0..restarts).map(|_| now));
        let policy = self.machine.settings().restart;
        let recent = self.automatic.iter().filter(|at| now.duration_since(**at) < policy.window).count();
        assert!(recent <= policy.intensity as usize, "intensity exceeded: {story}");
        assert_eq!(self.route, self.machine.route(), "{story}");
        // What lives is known: it serves, is a candidate, is ending or is retired.
        let mut known: BTreeSet<Generation> = self.machine.retired().collect();
        known.extend(self.machine.generation());
        known.extend(self.machine.candidate().map(|candidate| candidate.generation));
        assert_eq!(known, self.alive.keys().copied().collect(), "lost or imagined: {story}");
        assert!(self.alive.len() <= RETIRED_MAX + 2, "too many at once: {story}");
        if let Some(deadline) = self.machine.deadline() {
            let mut ticked = self.machine.clone();
            ticked.step(Event::Tick, deadline.max(now));
            assert_ne!(ticked.state(), self.machine.state(), "a deadline without effect: {story}");
        }
    }
}

fn event(code: u8, which: usize, world: &World) -> Event {
    // Mostly news of processes that live, sometimes of those that never did or no longer do.
    let known: Vec<Generation> = world.alive.keys().copied().collect();
    let generation = known.get(which % (known.len() + 1)).copied().unwrap_or(Generation(which as u64 % 5));
    let reason = match which % 5 {
        0 => Reason::Stopped { why: StopWhy::Operator },
        1 => Reason::Crashed { exit: Exit::Code(0) },
        2 => Reason::InitializationFailed { why: InitFailure::Unhealthy { detail: None } },
        3 => shortage(),
        _ => crashed(),
    };
    match code {
        0 => Event::Begin,
        1 => Event::StartAsked,
        2 => Event::StopAsked { why: StopWhy::Operator },
        3 => Event::RestartAsked { why: StopWhy::Restart },
        4 => Event::PauseAsked,
        5 => Event::ResumeAsked,
        6 => Event::ResetAsked,
        7 => Event::ReplaceAsked { generation, missed: 3 },
        8 => Event::CandidateAsked { promote: Promote::AtOnce },
        9 => Event::CandidateAsked { promote: Promote::WhenAsked },
        10 => Event::SwitchAsked { generation },
        11 => Event::CandidateDropAsked,
        12 | 13 => Event::CallWaiting,
        14 => Event::Idle,
        15 => Event::GenerationLoaded(generation),
        16 => Event::GenerationInitialized(generation),
        17..=20 => match world.alive.contains_key(&generation) {
            true => Event::GenerationActive(generation),
            false => Event::GenerationLoaded(generation),
        },
        21 => Event::GenerationPaused(generation),
        22 => Event::GenerationResumed(generation),
        23 => Event::GenerationPauseFailed(generation),
        24 => Event::GenerationStopping(generation),
        25..=28 => {
            Event::GenerationGone { generation, reason, stable_for: Duration::ZERO, jitter: which as f64 / 1000.0 }
        }
        _ => Event::Tick,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_happens_one_serves_and_nothing_is_lost(
        eager in any::<bool>(),
        mode in prop_oneof![Just(RestartMode::Always), Just(RestartMode::OnFailure), Just(RestartMode::Never)],
        events in prop::collection::vec((0..8_000u64, 0..31u8, 0..1000usize), 0..80),
    ) {
        let mut now = Instant::now();
        let activation = if eager { Activation::Eager } else { LAZY };
        let mut settings = settings(activation, mode);
        settings.restart.intensity = 3;
        let mut world = World {
            machine: Machine::new(settings, Generation::FIRST),
            alive: BTreeMap::new(),
            highest: Generation(0),
            automatic: Vec::new(),
            stopped: false,
            route: None,
        };
        for (after, code, which) in events {
            now += Duration::from_millis(after);
            let event = event(code, which, &world);
            world.step(event, now);
        }
        // Unloaded, and once its processes are gone, it is gone itself and stays so.
        world.step(Event::UnloadAsked, now);
        world.stopped = true;
        let alive: Vec<Generation> = world.alive.keys().copied().collect();
        for generation in alive {
            prop_assert_eq!(world.machine.projection(), PluginState::Stopping);
            world.step(gone(generation, crashed()), now);
        }
        prop_assert_eq!(world.machine.projection(), PluginState::Unloaded);
        for code in (0..31).filter(|code| !matches!(code, 1 | 3)) {
            let event = event(code, 1, &world);
            world.step(event, now);
            prop_assert_eq!(world.machine.state(), &State::Unloaded);
        }
    }
}
