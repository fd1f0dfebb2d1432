//! What one plugin takes is not taken from another: each thing that it can have all of, and all of them at once.
//!
//! Elsewhere: what becomes of the plugin that wants too much is `limits`.

use palisade_tests::daemon::{Daemon, runs_as_root, wait_for};
use palisade_tests::package::Package;
use palisade_tests::process;
use serde_json::json;

use crate::limits::{controlled, counter, leaf};
use crate::support::{expect_echo, follow, hostile};

/// Row `mlock, shm, mq, aio, timers, inotify`, and others of that kind: one plugin has all that it can get and keeps it; another gets
/// of the same what it would have got before, and a further process can be started.
#[test]
fn each_resource_is_ones_own() {
    let plugin = |id| Package::hostile(id, "tame").with("limits", json!({"open_files": 512, "stop_grace_seconds": 1}));
    let daemon = Daemon::with([Package::echo(), plugin("hostile"), plugin("sibling")]);
    let neighbour = daemon.neighbour();
    let take = |plugin: &str, what: &str, most: u32| {
        let met = daemon.agent().call(plugin, "take", &json!({"what": what, "most": most}));
        let met = met.unwrap_or_else(|error| panic!("{what}: {error}"));
        (met["taken"].as_str().and_then(|taken| taken.parse::<u32>().ok()).expect("a number"), met["met"].clone())
    };
    for (what, some) in [
        ("locked memory", 4),
        ("descriptors", 100),
        ("timers", 100),
        ("message queues", 1),
        ("watchers", 8),
        ("shared memory", 4),
        ("pipes", 2),
        ("descriptors on their way", 1),
    ] {
        if matches!(what, "pipes" | "descriptors on their way") && !runs_as_root() {
            println!(
                "SKIPPED {what}: plugins of an ordinary user's daemon are one user, and the kernel has one budget for each"
            );
            continue;
        }
        let before = take("sibling", what, some);
        daemon.operate("restart", &json!({"plugin": "sibling"})).expect("it can be");
        let (taken, met) = take("hostile", what, 5000);
        assert!(taken < 5000 && met != "ok", "{what}: there is no end to it: {taken} {met}");
        assert_eq!(take("sibling", what, some), before, "{what}: hostile has {taken}, and met {met}");
        for other in ["sibling", "hostile"] {
            daemon.operate("restart", &json!({"plugin": other})).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// A plugin that spins, forks, floods its log and takes memory, all to its limits and all at once, costs no call of its neighbour. That
/// it does so is what the kernel counts.
#[test]
fn no_call_is_lost_to_one_that_wants_everything() {
    let limits =
        json!({"memory_mib": 64, "cpu_percent": 30, "pids": 12, "log_kib_per_second": 16, "stop_grace_seconds": 1});
    let patient = json!({"interval_seconds": 300, "timeout_seconds": 300});
    let daemon = Daemon::with([Package::echo(), hostile("tame").with("limits", limits).with("watchdog", patient)]);
    if !controlled(&daemon) {
        println!("SKIPPED: a neighbour that wants everything: plugins' cgroups have no controllers on this host");
        return daemon.stop_and_expect_no_orphans();
    }
    expect_echo(&daemon, "hostile");
    let mut watcher = daemon.agent();
    let events = follow(&mut watcher);
    let leaf = leaf(&daemon, "hostile");
    let counters = || {
        [
            counter(&leaf, "cpu.stat", "nr_throttled "),
            counter(&leaf, "memory.events", "max "),
            counter(&leaf, "pids.events", "max "),
        ]
    };
    assert_eq!(counters()[1..], [0, 0]);
    assert_eq!(daemon.agent().call("hostile", "harm", &json!({"memory_mib": 40})), Ok(json!({})));
    wait_for("its limits", || counters().iter().all(|counter| 0 < *counter).then_some(()));
    // From here on every call of the neighbour meets all of that.
    let neighbour = daemon.neighbour();
    let then = counters();
    wait_for("its limits, again and again", || {
        let grown: Vec<u64> = counters().iter().zip(then).map(|(now, then)| now - then).collect();
        grown.iter().all(|grown| 10 < *grown).then_some(())
    });
    let is_flood = |event: &serde_json::Value| event["reason"].as_str().is_some_and(|text| text.starts_with("logs: "));
    while !is_flood(&watcher.next_of(events).value()) {}
    neighbour.expect_unharmed(&daemon);
    assert_eq!(daemon.status("hostile").generation, Some(1), "it was held, and not ended");
    assert!(process::peak_kib(daemon.pid()).expect("it runs") < 64 << 10);
    daemon.stop_and_expect_no_orphans();
}
