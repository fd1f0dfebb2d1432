//! What the kernel holds for a plugin counts as the plugin's memory, wherever it lies: files in memory, named or not, what waits in
//! pipes, and what waits in sockets. Shown by the kernel's counters, where there is a memory controller.

use palisade_protocol::ErrorCode;
use palisade_tests::daemon::{Daemon, wait_for};
use serde_json::json;

use crate::limits::{controlled, counter, leaf};
use crate::support::{error, hostile};

/// So much is held at first, within the limit; then so much that the limit is passed, less than what the kind itself is bounded by.
const HELD_MIB: u64 = 12;
const LIMIT_MIB: u64 = 48;
const BEYOND_MIB: u64 = 44;

/// Holds some of it and looks at the counter, holds too much of it and looks for the kill.
fn is_charged(what: &str, counted_as: &str) {
    let limits = json!({"memory_mib": LIMIT_MIB, "open_files": 2048, "stop_grace_seconds": 1});
    let daemon = Daemon::with([hostile("tame").with("limits", limits).with("restart", json!("never"))]);
    if !controlled(&daemon) {
        println!("SKIPPED: what {what} is charged to: plugins' cgroups have no memory controller on this host");
        return daemon.stop_and_expect_no_orphans();
    }
    let hold = |mib: u64| daemon.agent().call("hostile", "charge", &json!({"what": what, "mib": mib}));
    assert_eq!(hold(0), Ok(json!({"hold": "ok"})));
    let leaf = leaf(&daemon, "hostile");
    let all = leaf.parent().expect("it is a folder").to_owned();
    let bytes = || counter(&leaf, "memory.stat", counted_as);
    let before = bytes();
    assert_eq!(hold(HELD_MIB), Ok(json!({"hold": "ok"})));
    // The kernel adds up each processor's part once that is large enough, and all of them every two seconds.
    wait_for(&format!("{what}: {counted_as}to have grown by {HELD_MIB} MiB"), || {
        (HELD_MIB << 20 <= bytes().saturating_sub(before)).then_some(())
    });
    assert_eq!(counter(&leaf, "memory.events", "oom_kill "), 0);
    // The leaf goes with its last process; what happened in it is counted above as well.
    let killed = counter(&all, "memory.events", "oom_kill ");
    let refused = error(hold(BEYOND_MIB), ErrorCode::ResourceExhausted);
    assert_eq!(refused.details.expect("they say which limit")["limit"], json!("memory"));
    assert!(killed < counter(&all, "memory.events", "oom_kill "), "{what}");
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn tmpfs() {
    is_charged("tmpfs", "shmem ");
}

#[test]
fn memfd() {
    is_charged("memfd", "shmem ");
}

#[test]
fn pipes() {
    is_charged("pipes", "kernel ");
}

#[test]
fn socket_buffers() {
    is_charged("sockets", "kernel ");
}
