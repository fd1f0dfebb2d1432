//! Again and again: after many starts, stops and reloads descriptors, processes, threads, cgroups, mounts and memory are where they were.

use std::cell::Cell;
use std::time::{Duration, Instant};

use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::Package;
use palisade_tests::process;
use palisade_tests::wire::BOUND;
use serde_json::json;

use crate::support::{daemon_with, expect_echo, full, hostile, in_the_guest};

/// How often.
fn cycles() -> usize {
    match (full(), in_the_guest()) {
        (true, _) => 1000,
        (false, false) => 200,
        (false, true) => 20,
    }
}

/// Before it is measured what a daemon holds, everything that is made once has been made.
const WARM_UP: usize = 20;

/// Allocators keep some of what they were given; a leak of one kibibyte a cycle would show.
fn growth_max_kib(cycles: usize) -> u64 {
    512 + u64::try_from(cycles).unwrap_or(u64::MAX) / 2
}

#[derive(Debug)]
struct Held {
    descriptors: usize,
    zombies: usize,
    processes: usize,
    cgroups: usize,
    mounts: usize,
}

impl Held {
    /// A connection that is about to be closed may have been counted before, so there may be less of anything.
    fn is_within(&self, before: &Self) -> bool {
        self.descriptors <= before.descriptors
            && self.zombies <= before.zombies
            && self.processes <= before.processes
            && self.cgroups <= before.cgroups
            && self.mounts <= before.mounts
    }
}

fn held(daemon: &Daemon) -> Held {
    let pid = daemon.pid();
    let own = process::cgroup(pid);
    Held {
        descriptors: process::descriptors(pid).expect("it runs"),
        zombies: process::zombies(pid),
        processes: process::descendants(pid).len(),
        cgroups: daemon.cgroups().iter().filter(|cgroup| cgroup.exists() && Some(*cgroup) != own.as_ref()).count(),
        mounts: process::mounts(pid).expect("it runs"),
    }
}

fn repeat(mut daemon: Daemon, mut cycle: impl FnMut(&Daemon)) {
    drop(daemon.agent());
    for _ in 0..WARM_UP {
        cycle(&daemon);
        daemon.remember();
    }
    // The launchers that wait for a start are part of what it has.
    daemon.wait_for_prepared(2);
    let before = held(&daemon);
    let memory_before = process::memory(daemon.pid()).expect("it runs").anonymous;
    let cycles = cycles();
    for _ in 0..cycles {
        cycle(&daemon);
    }
    daemon.remember();
    // Connections and ends are noticed a moment after they have happened.
    let until = Instant::now() + BOUND;
    while !held(&daemon).is_within(&before) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(20));
    }
    let after = held(&daemon);
    assert!(after.is_within(&before), "{after:?} is held after {cycles} cycles, and {before:?} was before them");
    // What blocks has a thread for as long as it takes, as when somebody looks at what a plugin has. Between such moments there is one for
    // all calls, and the one that is told of changes in the plugin directories.
    wait_for("a daemon of two threads", || process::threads(daemon.pid()).filter(|threads| *threads <= 2));
    let memory_after = process::memory(daemon.pid()).expect("it runs").anonymous;
    assert!(
        memory_after <= memory_before + growth_max_kib(cycles),
        "the daemon grew from {memory_before} to {memory_after} KiB in {cycles} cycles"
    );
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn starts_and_stops() {
    repeat(Daemon::with([Package::echo()]), |daemon| {
        daemon.operate("start", &json!({"plugin": "echo"})).expect("it can be started");
        expect_echo(daemon, "echo");
        daemon.operate("stop", &json!({"plugin": "echo"})).expect("it can be stopped");
        assert!(daemon.status("echo").is("stopped"));
    });
}

#[test]
fn crashes() {
    let policy = json!({"policy": "on-failure", "backoff_initial_ms": 1, "backoff_max_ms": 2, "intensity": 1000, "window_seconds": 1});
    repeat(daemon_with(hostile("tame").with("restart", policy)), |daemon| {
        expect_echo(daemon, "hostile");
        daemon.agent().call("hostile", "abort", &json!(null)).expect_err("it dies");
        daemon.wait_until("hostile", "a successor", |now| now.is("active"));
    });
}

#[test]
fn starts_that_fail() {
    repeat(daemon_with(hostile("exit-at-once").with("restart", json!("never"))), |daemon| {
        daemon.operate("start", &json!({"plugin": "hostile"})).expect_err("it exits at once");
    });
}

#[test]
fn reloads() {
    repeat(Daemon::start(DaemonOptions::with([Package::echo()]).configuration("watch = false\n")), |daemon| {
        let done = daemon.operate("reload", &json!({"plugin": "echo"})).expect("it can be reloaded");
        assert_eq!(done["reloads"][0]["reloaded"], true, "{done}");
        expect_echo(daemon, "echo");
    });
}

/// Another package each time, of which the last five stay, and the last one is on probation.
#[test]
fn packages_that_are_exchanged() {
    let package = |edition: usize| Package::echo().with("description", json!(format!("edition {edition}")));
    let daemon = Daemon::start(DaemonOptions::with([package(0)]).configuration("watch = false\n"));
    expect_echo(&daemon, "echo");
    let edition = Cell::new(0);
    repeat(daemon, |daemon| {
        edition.set(edition.get() + 1);
        package(edition.get()).write(&daemon.plugins(), daemon.marker());
        let found = daemon.operate("rescan", &json!({})).expect("it looks");
        assert_eq!(found["changed"].as_array().map(Vec::len), Some(1), "{found}");
        expect_echo(daemon, "echo");
    });
}
