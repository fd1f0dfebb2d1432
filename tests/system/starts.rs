//! Plugins that do not start, each in its own way: the call that wanted them learns why, at once, and nothing is left.

use nix::sys::signal::Signal;
use palisade_protocol::ErrorCode;
use palisade_tests::daemon::{Daemon, DaemonOptions, signal, wait_for};
use palisade_tests::package::{Entry, Package};
use palisade_tests::process;
use serde_json::json;

use crate::support::{daemon_with, error, expect_echo, expect_text, full, hostile};

/// A start that fails for good: nobody tries again, so the call is answered.
fn fails_to_start(mode: &str, code: ErrorCode, sentence: &str, stderr: Option<&str>) {
    let daemon = daemon_with(hostile(mode).with("restart", json!("never")));
    let neighbour = daemon.neighbour();
    let error = error(daemon.agent().call("hostile", "echo", &json!(1)), code);
    expect_text(&error.message, sentence);
    assert!(error.hint.is_some(), "{error}");
    if let Some(line) = stderr.filter(|_| mode == "exit-at-once") {
        expect_text(&error.message, &format!("; its last line on stderr: {line}"));
    }
    // Where it said itself what is wrong, that is not said twice.
    let is_told = matches!(mode, "refuse" | "unhealthy" | "other-version");
    assert!(!is_told || !error.message.contains("its last line"), "{error}");
    let status = daemon.wait_until("hostile", "failed", |now| now.is("failed"));
    assert_eq!(status.process_id(), None);
    let dossier = status.last_failure.expect("a failed start has a dossier");
    expect_text(&dossier.reason, sentence);
    assert_eq!(dossier.generation, 1);
    if let Some(line) = stderr {
        assert!(dossier.last_stderr.iter().any(|said| said.contains(line)), "{:?}", dossier.last_stderr);
    }
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

macro_rules! failures {
    ($($test:ident: $mode:literal, $code:ident, $sentence:literal, $stderr:expr;)*) => {
        $(#[test]
        fn $test() {
            fails_to_start($mode, ErrorCode::$code, $sentence, $stderr);
        })*
    };
}

failures! {
    it_exits_at_once: "exit-at-once", InitializationFailed, "exited with code 3 before it said hello", Some("no reason to live");
    it_exits_well_at_once: "exit-zero-at-once", InitializationFailed, "exited with code 0 before it said hello", None;
    it_aborts_at_once: "abort-at-once", InitializationFailed, "killed by SIGABRT", None;
    it_says_nothing: "silent", InitializationFailed, "did not say hello in time", None;
    it_says_something_else: "garbage-first", ProtocolViolation, "bytes was announced", None;
    it_is_ready_before_hello: "ready-first", ProtocolViolation, "ready before hello", None;
    it_asks_before_hello: "asks-first", ProtocolViolation, "a HostCall frame before its Hello", None;
    it_says_half_a_hello: "half-a-hello", ProtocolViolation, "in the middle of a frame", None;
    it_speaks_another_version: "other-version", InitializationFailed, "protocol versions 900 to 901", Some("rebuild it");
    it_says_hello_twice: "hello-twice", ProtocolViolation, "hello a second time", None;
    it_is_never_ready: "never-ready", InitializationFailed, "did not become ready in time", None;
    it_exits_after_the_welcome: "exit-after-welcome", InitializationFailed, "exited with code 4", None;
    it_refuses_its_configuration: "refuse", InitializationFailed, "no database was named", None;
    it_is_somebody_else: "wrong-id", InitializationFailed, "somebody-else", None;
    it_is_another_version: "wrong-version", InitializationFailed, "6.6.6", None;
    it_has_an_action_twice: "same-action-twice", InitializationFailed, "two actions of the same name", None;
    it_is_unhealthy: "unhealthy", InitializationFailed, "the disk is on fire", None;
    it_does_not_answer_the_health_check: "no-pong", InitializationFailed, "health check", None;
    it_forks_and_exits: "fork-and-exit", InitializationFailed, "exited with code 0", None;
}

/// Asking for more time again and again is cut off at the cap.
#[test]
fn it_extends_for_ever() {
    if !full() {
        println!("SKIPPED: takes the two minutes of the cap; PALISADE_TEST_FULL=1 takes them");
        return;
    }
    let daemon = daemon_with(hostile("extend-for-ever").with("restart", json!("never")));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    agent.patience = std::time::Duration::from_secs(200);
    let start = agent.call("palisade", "start", &json!({"plugin": "hostile"}));
    let error = error(start, ErrorCode::InitializationFailed);
    expect_text(&error.message, "did not become ready in time");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// A flood of `Extend` frames neither stops the clock nor costs the neighbour anything. The cap ends it; here the operator does.
#[test]
fn it_floods_with_extensions() {
    let daemon = daemon_with(hostile("extend-at-once-for-ever"));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    let start = agent.begin("palisade", "start", &json!({"plugin": "hostile"}));
    daemon.wait_until("hostile", "loaded", |now| now.is("loaded"));
    daemon.operate("stop", &json!({"plugin": "hostile", "force": true})).expect("stop works in every state");
    let status = daemon.status("hostile");
    assert!(status.is("stopped"), "{status:?}");
    agent.finish(start).expect_err("it never became active");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// Restarts are tried so often in a window, then the plugin rests until somebody resets it.
#[test]
fn a_plugin_that_never_starts_is_quarantined() {
    let policy = json!({"policy": "on-failure", "backoff_initial_ms": 1, "backoff_max_ms": 2, "intensity": 3, "window_seconds": 60});
    let daemon = daemon_with(hostile("exit-at-once").with("restart", policy).with("activation", json!("eager")));
    let neighbour = daemon.neighbour();
    let status = daemon.wait_until("hostile", "quarantine", |now| now.quarantined);
    assert!(status.is("failed"));
    assert_eq!(status.restarts, 3, "as often as the intensity allows, and no more");
    let error = error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::InitializationFailed);
    expect_text(&error.message, "quarantined");
    expect_text(&error.message, "; its last line on stderr: no reason to live");
    expect_text(error.hint.as_deref().unwrap_or_default(), "palisade start hostile");
    assert!(!error.retryable, "no time lifts it: {error}");
    let before = status.last_failure.expect("there is a dossier").generation;
    // Reset forgets the history; the plugin may fail anew.
    let _ = daemon.operate("reset", &json!({"plugin": "hostile"}));
    let _ = daemon.operate("start", &json!({"plugin": "hostile"})).expect_err("it exits at once, as ever");
    daemon.wait_until("hostile", "another attempt", |now| {
        now.last_failure.as_ref().is_some_and(|dossier| before < dossier.generation)
    });
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// A schema that cannot be used is not fetched from anywhere, and the plugin works without it.
#[test]
fn a_schema_that_cannot_be_used() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback is there");
    listener.set_nonblocking(true).expect("it can be");
    let port = listener.local_addr().expect("it is bound").port().to_string();
    let daemon = daemon_with(hostile("broken-schema").environment("HOSTILE_PORT", &port));
    expect_echo(&daemon, "hostile");
    let nobody = listener.accept().expect_err("nobody fetches a schema");
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
    daemon.stop_and_expect_no_orphans();
}

/// An entry point that cannot be executed is told apart by why, and trying again is left to the operator.
fn cannot_be_executed(package: &Package, sentences: &[&str]) {
    let daemon = Daemon::with([Package::echo(), package.clone()]);
    let neighbour = daemon.neighbour();
    let status = daemon.status("broken");
    assert!(status.is("failed"), "known before anybody calls it: {status:?}");
    let report = daemon.operate("doctor", &json!({})).expect("there is a report").to_string();
    expect_text(&report, "broken 0.1.0 has failed");
    let error = daemon.agent().call("broken", "echo", &json!(1)).expect_err("it cannot be executed");
    let hint = error.hint.clone().unwrap_or_default();
    assert!(matches!(error.code, ErrorCode::InitializationFailed | ErrorCode::ConfigurationInvalid), "{error}");
    assert!(!error.retryable, "{error}");
    for sentence in sentences {
        expect_text(&format!("{} {hint}", error.message), sentence);
        expect_text(&format!("broken: {}", status.reason.as_deref().unwrap_or_default()), sentence);
    }
    expect_echo(&daemon, "echo");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn an_entry_point_that_is_missing() {
    cannot_be_executed(&Package::new("broken", Entry::Missing), &["main", "broken"]);
}

#[test]
fn an_entry_point_without_the_right_to_execute() {
    let package = Package::new("broken", Entry::Bytes(b"#!/bin/sh\nexit 0\n".to_vec())).mode(0o644);
    cannot_be_executed(&package, &["executable", "chmod"]);
}

/// Once a package is mended, whoever starts it need not start the daemon anew.
#[test]
fn a_package_that_is_mended() {
    use std::os::unix::fs::PermissionsExt;
    let daemon = daemon_with(hostile("tame").mode(0o644));
    let entry = daemon.plugins().join("hostile").join("main");
    for operation in ["start", "restart"] {
        daemon.operate(operation, &json!({"plugin": "hostile"})).expect_err("it is as it was");
    }
    std::fs::set_permissions(entry, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    daemon.operate("start", &json!({"plugin": "hostile"})).expect("it is mended");
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// What does not belong into a package is named, from the beginning, and forgotten once it is gone.
#[test]
fn a_link_in_a_package() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let link = folder.path().join("plugins/hostile/link");
    std::fs::create_dir_all(link.parent().expect("it has one")).expect("the folder is ours");
    std::os::unix::fs::symlink("/etc/passwd", &link).expect("the folder is ours");
    let options = DaemonOptions::with([Package::echo(), hostile("tame")]).folder(folder);
    let daemon = Daemon::start(options);
    let status = daemon.status("hostile");
    assert!(status.is("failed"), "{status:?}");
    expect_text(&status.reason.unwrap_or_default(), "link is a symbolic link");
    std::fs::remove_file(daemon.plugins().join("hostile/link")).expect("it is ours");
    daemon.operate("reset", &json!({"plugin": "hostile"})).expect("it is mended");
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// The program and its manifest do not agree: that lasts, so nobody tries again.
#[test]
fn a_disagreement_is_not_tried_again() {
    let daemon = daemon_with(hostile("wrong-id"));
    error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::InitializationFailed);
    let status = daemon.status("hostile");
    assert!(status.is("failed") && status.restart_in_ms.is_none() && !status.quarantined, "{status:?}");
    assert_eq!(status.restarts, 0);
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn an_entry_point_for_another_machine() {
    // The head of an ELF file for 64-bit ARM.
    let mut elf = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    elf.extend_from_slice(&[2, 0, 183, 0, 1, 0, 0, 0]);
    elf.resize(4096, 0);
    cannot_be_executed(&Package::new("broken", Entry::Bytes(elf)), &["machine"]);
}

#[test]
fn an_entry_point_that_is_no_program() {
    cannot_be_executed(&Package::new("broken", Entry::Bytes(b"just some text\n".to_vec())), &["broken"]);
}

#[test]
fn an_entry_point_whose_interpreter_is_missing() {
    let script = b"#!/nonexistent/interpreter\n".to_vec();
    cannot_be_executed(&Package::new("broken", Entry::Bytes(script)), &["/nonexistent/interpreter"]);
}

/// At most two are made beforehand; each serves one start and is made anew afterwards; none is left at the end.
#[test]
fn launchers_are_made_before_they_are_needed() {
    let daemon = Daemon::with([Package::echo(), hostile("tame")]);
    let first = daemon.wait_for_prepared(2);
    assert_eq!(first.len(), 2);
    expect_echo(&daemon, "echo");
    let status = daemon.status("echo");
    assert!(status.generations[0].prepared, "{status:?}");
    let launcher = process::parent(process::parent(daemon.process_of("echo")).expect("it runs")).expect("it runs");
    assert!(first.contains(&launcher), "the launcher is one of those that waited");
    let later = daemon.wait_for_prepared(2);
    assert!(later.len() == 2 && !later.contains(&launcher), "{later:?}");
    daemon.stop_and_expect_no_orphans();
    for pid in first.iter().chain(&later) {
        assert!(process::identity(*pid).is_none(), "{pid} is left");
    }
}

/// The first start and the second, which nothing was prepared for, and those that meet a launcher that somebody killed.
#[test]
fn a_prepared_launcher_that_is_killed_costs_no_start() {
    let daemon = Daemon::with([Package::echo(), hostile("tame")]);
    for pid in daemon.wait_for_prepared(2) {
        signal(pid, Signal::SIGKILL);
    }
    for plugin in ["echo", "hostile"] {
        expect_echo(&daemon, plugin);
    }
    // It is noticed, said, and made good.
    wait_for("a word about it", || daemon.log().contains("a prepared launcher ended by itself").then_some(()));
    let launchers = daemon.wait_for_prepared(2);
    assert!(!launchers.is_empty());
    daemon.stop_and_expect_no_orphans();
}

/// What waits for a start hangs on the daemon's socket like any other launcher.
#[test]
fn prepared_launchers_end_with_a_daemon_that_is_killed() {
    let daemon = Daemon::with([Package::echo()]);
    let launchers: Vec<_> = daemon.wait_for_prepared(2).into_iter().filter_map(process::identity).collect();
    assert_eq!(launchers.len(), 2);
    let folder = daemon.kill_nine();
    wait_for("their end", || launchers.iter().all(|launcher| !process::is_alive(*launcher)).then_some(()));
    // They have no leaf, so it is the next daemon that clears its cgroup away.
    Daemon::start(DaemonOptions::with([Package::echo()]).folder(folder)).stop_and_expect_no_orphans();
}

#[test]
fn nothing_is_prepared_where_nothing_is_wanted() {
    let options = DaemonOptions::with([Package::echo()]).configuration("prepared_launchers = 0\n");
    let daemon = Daemon::start(options);
    expect_echo(&daemon, "echo");
    assert!(!daemon.status("echo").generations[0].prepared);
    assert!(daemon.prepared_launchers().is_empty());
    expect_text(
        &daemon.operate("doctor", &json!({})).expect("it answers").to_string(),
        "none is made before it is needed",
    );
    daemon.stop_and_expect_no_orphans();
}
