use proptest::prelude::*;

use super::*;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn timing() -> Timing {
    Timing::default()
}

fn healthy() -> Event {
    Event::Pong { healthy: true, detail: None, oldest_call: None }
}

/// A machine that has come as far as `phase`, at `now`.
fn machine(phase: Phase, now: Instant) -> Machine {
    let mut machine = Machine::new(timing(), now);
    let events = match phase {
        Phase::Starting => vec![Event::Launched],
        Phase::Loaded => vec![Event::Launched, Event::Hello],
        Phase::Initialized => vec![Event::Hello, Event::Ready],
        Phase::Active => vec![Event::Hello, Event::Ready, healthy()],
        Phase::Paused => vec![Event::Hello, Event::Ready, healthy(), Event::PauseAsked],
        Phase::Draining => {
            let drain = Event::DrainAsked { until: now + s(30), why: StopWhy::Operator };
            vec![Event::Hello, Event::Ready, healthy(), drain]
        }
        Phase::Stopping => {
            vec![Event::Hello, Event::Ready, healthy(), Event::StopAsked { why: StopWhy::Operator }]
        }
        Phase::Gone => vec![Event::Hello, Event::Ready, healthy(), Event::Exited(Exit::Code(1))],
    };
    for event in events {
        machine.step(event, now);
    }
    assert_eq!(machine.phase(), phase);
    machine
}

/// The actions without the announcement of the new phase.
fn quiet(actions: Vec<Action>) -> Vec<Action> {
    actions.into_iter().filter(|action| !matches!(action, Action::Publish { .. })).collect()
}

#[test]
fn a_good_life_from_launch_to_a_proven_end() {
    let now = Instant::now();
    let mut machine = Machine::new(timing(), now);
    let publish = |from, to| Action::Publish { from, to };
    let until = now + s(30);
    let why = StopWhy::Operator;
    let reason = Reason::Stopped { why };
    for (event, actions) in [
        (Event::Launched, vec![]),
        (Event::Hello, vec![Action::SendWelcome, publish(Phase::Starting, Phase::Loaded)]),
        (Event::Ready, vec![Action::SendHealthCheck, publish(Phase::Loaded, Phase::Initialized)]),
        (healthy(), vec![Action::OfferRoute, publish(Phase::Initialized, Phase::Active)]),
        (Event::PauseAsked, vec![Action::Freeze, publish(Phase::Active, Phase::Paused)]),
        (Event::ResumeAsked, vec![Action::Thaw, publish(Phase::Paused, Phase::Active)]),
        (
            Event::DrainAsked { until, why },
            vec![Action::WithdrawRoute, Action::SendDrain { until }, publish(Phase::Active, Phase::Draining)],
        ),
        (
            Event::Drained,
            vec![
                Action::FailCalls { reason: reason.clone() },
                Action::CloseInput,
                publish(Phase::Draining, Phase::Stopping),
            ],
        ),
        (Event::OutputClosed, vec![]),
        (Event::Exited(Exit::Code(0)), vec![publish(Phase::Stopping, Phase::Gone)]),
    ] {
        let what = format!("{event:?}");
        assert_eq!(machine.step(event, now), actions, "{what}");
    }
    assert_eq!((machine.reason(), machine.exit()), (Some(&reason), Some(Exit::Code(0))));
}

#[test]
fn each_phase_has_its_own_reason_for_an_end() {
    let now = Instant::now();
    let exit = Exit::Signal { number: 11, core: false };
    let init = |why| Reason::InitializationFailed { why };
    let failure = LaunchFailure { message: "no such file".into(), outlook: Outlook::Lasting, code: None };
    for (phase, event, reason) in [
        (Phase::Starting, Event::LaunchFailed(failure.clone()), Reason::LaunchFailed { failure }),
        (Phase::Starting, Event::Exited(exit), init(InitFailure::Exited { phase: Phase::Starting, exit })),
        (Phase::Loaded, Event::Exited(exit), init(InitFailure::Exited { phase: Phase::Loaded, exit })),
        (Phase::Initialized, Event::Exited(exit), init(InitFailure::Exited { phase: Phase::Initialized, exit })),
        (Phase::Active, Event::Exited(exit), Reason::Crashed { exit }),
        (Phase::Paused, Event::Exited(exit), Reason::Crashed { exit }),
        (Phase::Draining, Event::Exited(exit), Reason::Crashed { exit }),
        (Phase::Draining, Event::Exited(Exit::Code(0)), Reason::Stopped { why: StopWhy::Operator }),
        (Phase::Stopping, Event::Exited(exit), Reason::Stopped { why: StopWhy::Operator }),
    ] {
        let mut machine = machine(phase, now);
        machine.step(event, now);
        assert_eq!(machine.reason(), Some(&reason), "{phase}");
    }
    for (phase, event, reason) in [
        (
            Phase::Loaded,
            Event::Refused { error: "no key".into() },
            init(InitFailure::Refused { error: "no key".into() }),
        ),
        (Phase::Loaded, Event::Unagreed { error: "new".into() }, init(InitFailure::Unagreed { error: "new".into() })),
        (
            Phase::Initialized,
            Event::Pong { healthy: false, detail: Some("disk".into()), oldest_call: None },
            init(InitFailure::Unhealthy { detail: Some("disk".into()) }),
        ),
        (Phase::Active, Event::WatchdogExpired, Reason::Hung { timeout: s(15) }),
        (Phase::Active, Event::KillAsked, Reason::Killed),
        (Phase::Starting, too_much(), exhausted()),
        (Phase::Initialized, too_much(), exhausted()),
        (Phase::Active, too_much(), exhausted()),
        (Phase::Paused, too_much(), exhausted()),
        (Phase::Draining, too_much(), exhausted()),
        // It has its end already, and not for long.
        (Phase::Stopping, too_much(), Reason::Stopped { why: StopWhy::Operator }),
        (Phase::Stopping, Event::KillAsked, Reason::Killed),
        (
            Phase::Active,
            Event::DrainAsked { until: now, why: StopWhy::Overdue { missed: 3 } },
            Reason::Overdue { missed: 3 },
        ),
        (
            Phase::Loaded,
            Event::Violation { detail: "frame too long".into() },
            Reason::ProtocolViolation { detail: "frame too long".into() },
        ),
    ] {
        let mut machine = machine(phase, now);
        machine.step(event, now);
        if machine.phase() == Phase::Draining {
            machine.step(Event::Drained, now);
        }
        assert_eq!(machine.phase(), Phase::Stopping);
        machine.step(Event::Exited(Exit::Signal { number: 9, core: false }), now);
        assert_eq!(machine.reason(), Some(&reason), "{phase}");
    }
}

#[test]
fn messages_out_of_their_order_are_violations_and_kill_at_once() {
    let now = Instant::now();
    for (phase, event) in [
        (Phase::Starting, Event::Ready),
        (Phase::Starting, Event::Drained),
        (Phase::Loaded, Event::Hello),
        (Phase::Initialized, Event::Ready),
        (Phase::Active, Event::Hello),
        (Phase::Active, Event::Refused { error: String::new() }),
        (Phase::Active, Event::Drained),
        (Phase::Paused, Event::Ready),
        (Phase::Draining, Event::Hello),
    ] {
        let mut machine = machine(phase, now);
        let actions = machine.step(event, now);
        assert!(actions.contains(&Action::KillTree), "{phase}: {actions:?}");
        let State::Stopping { ending: Ending::Decided(Reason::ProtocolViolation { .. }), .. } = machine.state() else {
            panic!("{phase}: {:?}", machine.state());
        };
    }
}

#[test]
fn the_ladder_is_climbed_to_its_end_and_ends() {
    let start = Instant::now();
    let mut machine = machine(Phase::Stopping, start);
    let mut climbed = Vec::new();
    while let Some(deadline) = machine.deadline() {
        climbed.push((deadline.duration_since(start).as_secs(), quiet(machine.step(Event::Tick, deadline))));
    }
    let kill_both = || vec![Action::KillTree, Action::KillLauncher];
    assert_eq!(
        climbed,
        [
            (1, vec![Action::Terminate]),
            (6, vec![Action::KillTree]),
            (8, vec![Action::KillTree]),
            (10, kill_both()),
            (12, kill_both()),
            (14, kill_both()),
            (16, vec![]),
        ]
    );
    assert_eq!(machine.reason(), Some(&Reason::Unconfirmed));
}

#[test]
fn a_start_has_a_deadline_that_the_plugin_can_extend_up_to_the_cap() {
    let start = Instant::now();
    for phase in [Phase::Starting, Phase::Loaded] {
        let mut late = machine(phase, start);
        assert_eq!(late.deadline(), Some(start + s(10)));
        assert_eq!(quiet(late.step(Event::Tick, start + s(10))), [Action::CloseInput, Action::Terminate]);
        late.step(Event::Exited(Exit::Code(0)), start + s(10));
        assert_eq!(late.reason(), Some(&Reason::InitializationFailed { why: InitFailure::TimedOut { phase } }));

        let mut machine = machine(phase, start);
        machine.step(Event::Extended { by: s(30) }, start + s(5));
        assert_eq!(machine.deadline(), Some(start + s(35)));
        machine.step(Event::Extended { by: s(1) }, start + s(6));
        assert_eq!(machine.deadline(), Some(start + s(35)), "an extension never shortens");
        for by in [s(10_000), Duration::MAX] {
            let mut greedy = machine.clone();
            greedy.step(Event::Extended { by }, start + s(7));
            assert_eq!(greedy.deadline(), Some(start + s(120)));
        }
    }
    let mut machine = machine(Phase::Initialized, start);
    machine.step(Event::Tick, start + s(10));
    machine.step(Event::Exited(Exit::Code(0)), start + s(11));
    let timed_out = InitFailure::TimedOut { phase: Phase::Initialized };
    assert_eq!(machine.reason(), Some(&Reason::InitializationFailed { why: timed_out }));
}

#[test]
fn a_crash_withdraws_the_route_before_it_fails_the_calls() {
    let now = Instant::now();
    let exit = Exit::Signal { number: 6, core: true };
    let reason = Reason::Crashed { exit };
    let actions = machine(Phase::Active, now).step(Event::Exited(exit), now);
    assert_eq!(quiet(actions), [Action::WithdrawRoute, Action::FailCalls { reason }]);
}

#[test]
fn pipes_that_end_wait_for_the_exit_which_is_the_reason() {
    let now = Instant::now();
    for event in [Event::OutputClosed, Event::InputClosed] {
        let mut active = machine(Phase::Active, now);
        assert_eq!(quiet(active.step(event.clone(), now)), [Action::WithdrawRoute, Action::CloseInput]);
        let exit = Exit::Signal { number: 11, core: false };
        let reason = Reason::Crashed { exit };
        assert_eq!(quiet(active.step(Event::Exited(exit), now)), [Action::FailCalls { reason: reason.clone() }]);
        assert_eq!(active.reason(), Some(&reason));

        let mut starting = machine(Phase::Starting, now);
        starting.step(event.clone(), now);
        starting.step(Event::Exited(exit), now);
        let why = InitFailure::Exited { phase: Phase::Starting, exit };
        assert_eq!(starting.reason(), Some(&Reason::InitializationFailed { why }));

        let mut obedient = machine(Phase::Draining, now);
        obedient.step(event.clone(), now);
        obedient.step(Event::Exited(Exit::Code(0)), now);
        assert_eq!(obedient.reason(), Some(&Reason::Stopped { why: StopWhy::Operator }));

        let mut stubborn = machine(Phase::Active, now);
        stubborn.step(event, now);
        let actions = quiet(stubborn.step(Event::Tick, now + s(1)));
        assert!(
            matches!(&actions[..], [Action::FailCalls { reason: Reason::ProtocolViolation { .. } }, Action::Terminate]),
            "{actions:?}"
        );
    }
}

#[test]
fn a_pause_stops_every_clock_and_a_stop_thaws_first() {
    let start = Instant::now();
    let mut machine = machine(Phase::Active, start);
    machine.step(Event::PauseAsked, start + s(10));
    assert_eq!(machine.deadline(), None);
    for event in [Event::Tick, Event::WatchdogExpired, Event::GraceMissed, Event::GraceMissed, Event::GraceMissed] {
        assert_eq!(machine.step(event, start + s(1000)), []);
    }
    let before = machine.clone();
    machine.step(Event::ResumeAsked, start + s(1010));
    assert_eq!(machine.deadline(), Some(start + s(1015)), "5 s of silence were left before the pause");
    assert_eq!(machine.active_for(start + s(1012)), s(12), "a pause is no stable run");

    let why = StopWhy::Operator;
    let reason = Reason::Stopped { why };
    let until = start + s(1100);
    for (event, actions) in [
        (
            Event::StopAsked { why },
            vec![Action::WithdrawRoute, Action::Thaw, Action::FailCalls { reason }, Action::CloseInput],
        ),
        (Event::DrainAsked { until, why }, vec![Action::WithdrawRoute, Action::Thaw, Action::SendDrain { until }]),
        (Event::OutputClosed, vec![Action::WithdrawRoute, Action::Thaw, Action::CloseInput]),
        (
            Event::KillAsked,
            vec![Action::WithdrawRoute, Action::FailCalls { reason: Reason::Killed }, Action::KillTree, Action::Thaw],
        ),
    ] {
        let what = format!("{event:?}");
        assert_eq!(quiet(before.clone().step(event, start + s(1010))), actions, "{what}");
    }
}

#[test]
fn the_watchdog_tells_busy_from_hung() {
    let start = Instant::now();
    let mut machine = machine(Phase::Active, start);
    assert_eq!(machine.step(Event::Tick, start + s(15)), [Action::SendPing]);
    let busy = Event::Pong { healthy: true, detail: None, oldest_call: Some(s(3600)) };
    let report = Action::ReportHealth { healthy: true, detail: None, oldest_call: Some(s(3600)) };
    assert_eq!(machine.step(busy, start + s(20)), [report]);
    assert_eq!(machine.step(Event::Tick, start + s(35)), [Action::SendPing]);
    machine.step(Event::Heard { at: start + s(40) }, start + s(40));
    let reason = Reason::Hung { timeout: s(15) };
    assert_eq!(
        quiet(machine.step(Event::Tick, start + s(50))),
        [Action::WithdrawRoute, Action::FailCalls { reason: reason.clone() }, Action::CloseInput, Action::Terminate]
    );
    assert_eq!(quiet(machine.step(Event::Tick, start + s(55))), [Action::KillTree]);
    machine.step(Event::Exited(Exit::Signal { number: 9, core: false }), start + s(55));
    assert_eq!(machine.reason(), Some(&reason));
}

#[test]
fn missed_graces_ask_for_a_replacement_and_spare_the_other_calls() {
    let now = Instant::now();
    let mut machine = machine(Phase::Active, now);
    let asked: Vec<_> = (0..4).map(|n| machine.step(Event::GraceMissed, now + s(n))).collect();
    assert_eq!(asked, [vec![], vec![], vec![Action::AskReplacement { missed: 3 }], vec![]]);
    assert_eq!(machine.phase(), Phase::Active);
}

#[test]
fn draining_asked_twice_keeps_the_earlier_end_and_the_first_reason() {
    let now = Instant::now();
    let mut machine = machine(Phase::Draining, now);
    machine.step(Event::DrainAsked { until: now + s(60), why: StopWhy::Idle }, now);
    assert_eq!(machine.deadline(), Some(now + s(30)));
    machine.step(Event::DrainAsked { until: now + s(3), why: StopWhy::Idle }, now);
    assert_eq!(machine.deadline(), Some(now + s(3)));
    machine.step(Event::Tick, now + s(3));
    machine.step(Event::Exited(Exit::Code(0)), now + s(3));
    assert_eq!(machine.reason(), Some(&Reason::Stopped { why: StopWhy::Operator }));
}

fn too_much() -> Event {
    Event::Exhausted { limit: Kind::Memory, detail: "too much".into() }
}

fn exhausted() -> Reason {
    Reason::Exhausted { limit: Kind::Memory, detail: "too much".into() }
}

fn any_event() -> impl Strategy<Value = (u64, u8)> {
    (0..20_000u64, 0..27u8)
}

/// The events as numbers, so that sequences shrink well. Times are relative to the moment of the event.
fn event(code: u8, now: Instant) -> Event {
    match code {
        0 => Event::Launched,
        1 => Event::LaunchFailed(LaunchFailure { message: "x".into(), outlook: Outlook::Passing, code: None }),
        2 | 3 => Event::Hello,
        4 | 5 => Event::Ready,
        6 => Event::Refused { error: "x".into() },
        7 => Event::Extended { by: s(20) },
        8 => Event::Heard { at: now },
        9 | 10 => healthy(),
        11 => Event::Pong { healthy: false, detail: None, oldest_call: Some(s(1)) },
        12 => Event::PauseAsked,
        13 => Event::FreezeFailed,
        14 => Event::ResumeAsked,
        15 => Event::DrainAsked { until: now + s(9), why: StopWhy::Idle },
        16 => Event::Drained,
        17 => Event::StopAsked { why: StopWhy::Operator },
        18 => Event::KillAsked,
        19 => Event::Violation { detail: "x".into() },
        20 => Event::InputClosed,
        21 => Event::OutputClosed,
        22 => Event::GraceMissed,
        23 => Event::WatchdogExpired,
        24 => Event::Exited(Exit::Code(0)),
        25 => too_much(),
        _ => Event::Tick,
    }
}

/// Counts what must happen once, over a whole life.
#[derive(Default)]
struct Ledger {
    offered: u32,
    withdrawn: u32,
    failed: u32,
}

impl Ledger {
    /// One step of the machine, checked against everything that always holds.
    fn step(&mut self, machine: &mut Machine, event: Event, now: Instant) {
        let before = machine.clone();
        let frozen_well = event != Event::FreezeFailed;
        let actions = machine.step(event.clone(), now);
        let (from, to) = (before.phase(), machine.phase());
        for action in &actions {
            match action {
                Action::OfferRoute => self.offered += 1,
                Action::WithdrawRoute => self.withdrawn += 1,
                Action::FailCalls { .. } => self.failed += 1,
                _ => {}
            }
        }
        let story = format!("{from} + {event:?} -> {to}: {actions:?}");
        assert!(self.offered <= 1 && self.withdrawn <= self.offered && self.failed <= self.withdrawn, "{story}");
        let has_route = matches!(to, Phase::Active | Phase::Paused);
        assert_eq!(self.offered - self.withdrawn, u32::from(has_route), "{story}");
        if to == Phase::Gone {
            assert_eq!(self.failed, self.offered, "calls of a generation that is gone: {story}");
        }
        if from == Phase::Gone {
            assert_eq!(before.state(), machine.state(), "{story}");
            assert!(actions.is_empty(), "{story}");
        }
        if from == Phase::Paused && !matches!(to, Phase::Paused | Phase::Gone) && frozen_well {
            assert!(actions.contains(&Action::Thaw), "{story}");
        }
        assert_eq!(actions.contains(&Action::Publish { from, to }), from != to, "{story}");
        assert_eq!(machine.deadline().is_none(), matches!(to, Phase::Paused | Phase::Gone), "{story}");
        if let Some(deadline) = machine.deadline() {
            let mut ticked = machine.clone();
            let actions = ticked.step(Event::Tick, deadline.max(now));
            assert!(ticked.state() != machine.state() || !actions.is_empty(), "a deadline without effect: {story}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_happens_the_route_the_calls_and_the_end_are_accounted_for(
        // Half of the lives begin well, or hardly any random one would become active.
        well in any::<bool>(),
        events in prop::collection::vec(any_event(), 0..40),
    ) {
        let mut now = Instant::now();
        let mut machine = Machine::new(timing(), now);
        let mut ledger = Ledger::default();
        if well {
            for event in [Event::Launched, Event::Hello, Event::Ready, healthy()] {
                ledger.step(&mut machine, event, now);
            }
        }
        for (after, code) in events {
            now += Duration::from_millis(after);
            ledger.step(&mut machine, event(code, now), now);
        }
        // Told to stop, and never heard of again, it ends all the same, and in time.
        ledger.step(&mut machine, Event::StopAsked { why: StopWhy::Shutdown }, now);
        let asked = now;
        while let Some(deadline) = machine.deadline() {
            now = now.max(deadline);
            ledger.step(&mut machine, Event::Tick, now);
            prop_assert!(now.duration_since(asked) <= s(16), "{:?}", machine.state());
        }
        prop_assert_eq!(machine.phase(), Phase::Gone);
        // Late news of it changes nothing.
        for code in 0..26 {
            ledger.step(&mut machine, event(code, now), now);
        }
    }
}
