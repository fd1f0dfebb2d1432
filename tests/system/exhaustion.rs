//! A daemon that runs out of something says so, goes on with what it has, and recovers when there is room again.

use palisade_protocol::{Call, ErrorCode, Fault, Flags, Kind};
use palisade_tests::daemon::{Daemon, DaemonOptions, other_user, wait_for};
use palisade_tests::package::{Entry, Package};
use palisade_tests::process;
use palisade_tests::wire::{Agent, pack};
use serde_json::json;

use crate::support::{expect_echo, expect_text, expect_tried, hostile};

/// As few as a daemon needs to come up and run a plugin or two.
const FEW_DESCRIPTORS: u32 = 64;

/// More connections than there are descriptors: those that got in are served, and when some leave, others get in.
#[test]
fn no_descriptors_for_connections() {
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).descriptors(FEW_DESCRIPTORS));
    let neighbour = daemon.neighbour();
    let crowd: Vec<_> =
        (0..2 * FEW_DESCRIPTORS).filter_map(|_| Agent::connect_silently(&daemon.socket()).ok()).collect();
    assert!(crowd.len() > FEW_DESCRIPTORS as usize / 2, "{} got in", crowd.len());
    // It is full now, and what runs goes on.
    drop(crowd);
    wait_for("room for another agent", || {
        let mut agent = Agent::connect(&daemon.socket()).ok()?;
        agent.call("echo", "echo", &json!("in")).ok().filter(|answer| *answer == json!("in"))
    });
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// A plugin for whose pipes there are no descriptors: its call learns that, those that run go on, and later it starts.
#[test]
fn no_descriptors_for_a_plugin() {
    let daemon = Daemon::start(
        // Launchers that are made beforehand come and go meanwhile, each with two descriptors.
        DaemonOptions::with([Package::echo(), hostile("tame").with("restart", json!("never"))])
            .configuration("prepared_launchers = 0\n")
            .descriptors(FEW_DESCRIPTORS),
    );
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    // How many it has by itself depends on what there is to be watched.
    let quiet = process::descriptors(daemon.pid()).expect("it runs");
    let mut crowd = Vec::new();
    // All but the last few, of which a plugin needs more.
    while process::descriptors(daemon.pid()).expect("it runs") < FEW_DESCRIPTORS as usize - 2 {
        // With its greeting, which shows that it was accepted: the daemon has other descriptors for a moment now and then.
        crowd.push(Agent::connect(&daemon.socket()).expect("there is room"));
    }
    let error = agent.call("hostile", "echo", &json!(1)).expect_err("there are no descriptors for it");
    expect_text(&error.message, "descriptors");
    drop(crowd);
    wait_for("descriptors", || (process::descriptors(daemon.pid()).expect("it runs") <= quiet).then_some(()));
    // It may meet a start that was begun while there was none.
    wait_for("a start with room", || daemon.operate("start", &json!({"plugin": "hostile"})).ok());
    expect_echo(&daemon, "hostile");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// No process can be made for a plugin (EAGAIN): its call learns that, those that run go on, and later it starts. The limit counts all
/// that the user has, so the test has a user of its own; root's is not held to it.
#[test]
fn no_processes_for_a_plugin() {
    if other_user().is_none() {
        println!("SKIPPED: root is not held to a number of processes; shown as an ordinary user");
        return;
    }
    let restart = json!({"policy": "never", "backoff_initial_ms": 10, "backoff_max_ms": 10});
    let package = hostile("tame").with("restart", restart).with("limits", json!({"disk_mib": 2}));
    // A launcher that was made beforehand would have been let make its processes; the zygote is held to the same.
    let options = DaemonOptions::with([Package::echo(), package]).configuration("prepared_launchers = 0\n");
    let daemon = Daemon::start(options);
    let neighbour = daemon.neighbour();
    let before = daemon.limit_processes("1:");
    let error = daemon.agent().call("hostile", "echo", &json!(1)).expect_err("there is no process for it");
    assert_eq!(
        (error.code, error.fault, error.retryable),
        (ErrorCode::ResourceExhausted, Fault::Host, true),
        "{error}"
    );
    // Nor is there a thread for what the daemon has done beside its calls. Whoever wanted it done survives that.
    wait_for("a word about it", || daemon.log().contains("its data could not be counted").then_some(()));
    daemon.limit_processes(&before);
    wait_for("a process", || daemon.agent().call("hostile", "echo", &json!(2)).ok());
    assert!(!daemon.status("hostile").quarantined);
    assert_eq!(daemon.agent().call("hostile", "data-held", &json!(4)), Ok(json!({"/data/held": "ok"})));
    daemon.wait_until("hostile", "an end for too many data", |now| now.last_failure.is_some());
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// A package for whose snapshot the disk is too small is refused with that reason; a small one runs.
#[test]
fn no_room_for_a_snapshot() {
    if other_user().is_some() || !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can mount a small disk");
        return;
    }
    let small = Package::new("small", Entry::Bytes(b"#!/bin/sh\nexit 3\n".to_vec())).with("restart", json!("never"));
    let large = Package::new("large", Entry::Bytes([b"#!/bin/sh\n".to_vec(), vec![b'#'; 4 << 20]].concat()));
    let daemon = Daemon::start(DaemonOptions::with([small, large]).small_disk(2048));
    let error = daemon.agent().call("large", "echo", &json!(1)).expect_err("it does not fit");
    expect_text(&error.message.to_lowercase(), "no space left");
    let error = daemon.agent().call("small", "echo", &json!(1)).expect_err("it exits with 3, which shows that it ran");
    expect_text(&error.message, "exited with code 3");
    daemon.stop_and_expect_no_orphans();
}

/// The system gives the daemon no more memory, and what it has is enough to go on with, also for a start. An allocation that fails all
/// the same is the end of it, of its plugins as well, and of nothing else: the next daemon starts as if nothing had been.
#[test]
fn no_memory_for_the_daemon() {
    let packages = || [Package::echo(), hostile("tame")];
    let daemon = Daemon::with(packages());
    let neighbour = daemon.neighbour();
    daemon.limit_memory(process::size_kib(daemon.pid()).expect("it runs") + 256);
    expect_echo(&daemon, "hostile");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();

    // What this one never reads stays with the daemon: more than the allocator has mapped in advance.
    let patient = json!({"interval_seconds": 300, "timeout_seconds": 300});
    let many = json!({"concurrency": 64, "queue": 1000});
    let package = hostile("never-reads").with("watchdog", patient).with("limits", many);
    let mut daemon = Daemon::with([Package::echo(), package]);
    expect_echo(&daemon, "echo");
    let mut agent = daemon.agent();
    daemon.operate("start", &json!({"plugin": "hostile"})).expect("it can be started");
    daemon.limit_memory(process::size_kib(daemon.pid()).expect("it runs"));
    daemon.remember();
    let parameters = pack(&json!("m".repeat(1000 << 10)));
    let call = Call { action: "echo", plugin: Some("hostile"), ..Call::default() };
    let mut calls = std::iter::repeat_with(|| {
        let id = agent.new_id();
        agent.send(Kind::Call, Flags::NONE, id, &call, &parameters)
    });
    assert!(calls.by_ref().take(250).any(|sent| sent.is_err()), "it has taken everything");
    let folder = daemon.expect_abort();
    let daemon = Daemon::start(DaemonOptions::with(packages()).folder(folder));
    expect_tried(&daemon, "hostile");
    expect_echo(&daemon, "echo");
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}
