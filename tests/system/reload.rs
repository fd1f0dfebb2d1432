//! What becomes of a plugin whose package is exchanged while it is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::Package;
use serde_json::json;

/// Calls that each agent has under way at once.
const PIPELINED: usize = 16;

fn counting(description: &str) -> Package {
    // Far less than what comes, so that calls wait for their turn.
    let limits = json!({"concurrency": 2, "queue": 1000, "drain_timeout_seconds": 10});
    Package::hostile("counting", "tame").with("limits", limits).with("description", json!(description))
}

/// Calls without end, and gives back the answers, once it is told to stop.
fn keep_calling(daemon: &Daemon, stop: &AtomicBool) -> Vec<(u64, u64)> {
    let mut agent = daemon.agent();
    let mut answers = Vec::new();
    let call = |agent: &mut palisade_tests::wire::Agent| agent.begin("counting", "count", &json!(null));
    let mut calls: std::collections::VecDeque<u64> = (0..PIPELINED).map(|_| call(&mut agent)).collect();
    while let Some(next) = calls.pop_front() {
        let answer = agent.finish(next).expect("no call fails because the plugin is exchanged");
        let [generation, number] = serde_json::from_value(answer).expect("two numbers");
        answers.push((generation, number));
        if !stop.load(Ordering::Relaxed) {
            calls.push_back(call(&mut agent));
        }
    }
    answers
}

/// Each call is done once, and answered, whenever the plugin is exchanged: what a process has begun it ends, and everything else goes to
/// the next one, wherever it waited.
#[test]
fn no_call_is_lost_or_done_twice_while_a_plugin_is_exchanged() {
    let daemon = Daemon::start(DaemonOptions::with([counting("0")]).configuration("watch = false\n"));
    let stop = AtomicBool::new(false);
    let answers: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let agents: Vec<_> = (0..8).map(|_| scope.spawn(|| keep_calling(&daemon, &stop))).collect();
        for exchange in 1..=20 {
            // A package that is changed before it was ever copied has nothing to run from.
            daemon.wait_until("counting", "a process", |now| now.is("active"));
            counting(&exchange.to_string()).write(&daemon.plugins(), daemon.marker());
            let found = daemon.operate("rescan", &json!({})).expect("it looks");
            assert_eq!(found["changed"], json!(["counting 0.1.0"]), "exchange {exchange}");
        }
        stop.store(true, Ordering::Relaxed);
        agents.into_iter().flat_map(|agent| agent.join().expect("no agent fails")).collect()
    });
    let mut each: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for (generation, number) in &answers {
        assert!(each.entry(*generation).or_default().insert(*number), "{number} of {generation} was answered twice");
    }
    for (generation, numbers) in &each {
        let all: BTreeSet<u64> = (1..=numbers.len() as u64).collect();
        assert_eq!(*numbers, all, "generation {generation} did something that nobody was answered");
    }
    assert!(20 < each.len(), "each package had a process: {:?}", each.keys());
    daemon.stop_and_expect_no_orphans();
}
