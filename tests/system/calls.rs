//! Calls that end otherwise than well, and the bounds they run into.

use std::time::Duration;

use palisade_protocol::{Call, ErrorCode};
use palisade_tests::daemon::Daemon;
use palisade_tests::package::Package;
use palisade_tests::wire::pack;
use serde_json::json;

use crate::support::{daemon_with, error, expect_echo, expect_text, hostile};

/// What does not exist is told apart by what it is that does not.
#[test]
fn unknown_names() {
    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    let plugin = error(agent.call("ecko", "echo", &json!(1)), ErrorCode::PluginNotFound);
    expect_text(&plugin.message, "ecko");
    expect_text(plugin.hint.as_deref().unwrap_or_default(), "echo");
    let action = error(agent.call("echo", "ecko", &json!(1)), ErrorCode::ActionNotFound);
    expect_text(&action.message, "ecko");
    expect_text(action.hint.as_deref().unwrap_or_default(), "echo");
    let call = Call { action: "echo", plugin: Some("echo"), version: Some("^7"), ..Call::default() };
    let id = agent.begin_with(&call, &pack(&json!(1)));
    let version = error(agent.finish(id), ErrorCode::VersionNotFound);
    expect_text(&version.message, "^7");
    expect_text(&format!("{} {}", version.message, version.hint.unwrap_or_default()), "0.1.0");
    let call = Call { action: "echo", plugin: Some("echo"), version: Some("one!2"), ..Call::default() };
    let id = agent.begin_with(&call, &pack(&json!(1)));
    let malformed = agent.finish(id).expect_err("that is no specifier");
    assert!(matches!(malformed.code, ErrorCode::InvalidParams | ErrorCode::VersionNotFound), "{malformed}");
    let operation = error(agent.call("palisade", "fly", &json!({})), ErrorCode::ActionNotFound);
    expect_text(&operation.message, "fly");
    expect_text(operation.hint.as_deref().unwrap_or_default(), "its operations are list, status, ");
    let near = error(agent.call("palisade", "statu", &json!({})), ErrorCode::ActionNotFound);
    expect_text(near.hint.as_deref().unwrap_or_default(), "did you mean \"status\"?");
    // What is wrong is shown, and not sent back whole.
    let long = "x".repeat(32_000);
    for (plugin, action, version) in
        [(&*long, "echo", None), ("echo", &*long, None), ("palisade", &*long, None), ("echo", "echo", Some(&*long))]
    {
        let id =
            agent.begin_with(&Call { action, plugin: Some(plugin), version, ..Call::default() }, &pack(&json!({})));
        let refused = agent.finish(id).expect_err("there is nothing of that name");
        assert!(refused.message.contains("xxx…\""), "{refused}");
        assert!(refused.message.len() + refused.hint.map_or(0, |hint| hint.len()) < 1_000, "{}", refused.message);
    }
    for odd in ["", "../echo", "Echo", "echo\0", "palisade-", &"e".repeat(300)] {
        let odd_plugin = agent.call(odd, "echo", &json!(1)).expect_err("no plugin is called that");
        assert!(
            matches!(odd_plugin.code, ErrorCode::PluginNotFound | ErrorCode::InvalidParams),
            "{odd:?}: {odd_plugin}"
        );
    }
    assert_eq!(daemon.status("hostile").generation, None, "nothing was started for any of this");
    daemon.stop_and_expect_no_orphans();
}

/// Wrong parameters of an operation of the daemon's own.
#[test]
fn operations_check_their_parameters() {
    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    for (operation, parameters) in [
        ("start", json!({})),
        ("start", json!({"plugin": 7})),
        ("start", json!("echo")),
        ("status", json!([])),
        ("logs", json!({"lines": "many"})),
        ("logs", json!({"lines": -1})),
    ] {
        let error = agent.call("palisade", operation, &parameters).expect_err("wrong parameters");
        assert_eq!(error.code, ErrorCode::InvalidParams, "{operation} {parameters}: {error}");
    }
    let unknown = error(agent.call("palisade", "start", &json!({"plugin": "nobody"})), ErrorCode::PluginNotFound);
    expect_text(&unknown.message, "nobody");
    daemon.stop_and_expect_no_orphans();
}

/// The caller's deadline passes: the plugin is asked to cancel, and does.
#[test]
fn a_deadline_passes_and_the_plugin_obeys() {
    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    let late = agent.call_within("hostile", "wait", &json!(null), Duration::from_millis(50));
    let error = error(late, ErrorCode::Timeout);
    assert!(error.retryable);
    assert_eq!(daemon.status("hostile").calls.timed_out, 1);
    expect_echo(&daemon, "hostile");
    assert_eq!(daemon.status("hostile").generation, Some(1), "one slow call kills nobody");
    daemon.stop_and_expect_no_orphans();
}

/// The plugin does not obey. One such call costs nothing; several in a window cost the generation.
#[test]
fn deadlines_pass_and_the_plugin_does_not_obey() {
    let overdue = json!({"missed_graces": 3, "window_seconds": 60});
    let daemon = daemon_with(hostile("tame").with("on_overdue", overdue));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    // It runs before the first deadline begins: a call that is never given to it misses nothing.
    expect_echo(&daemon, "hostile");
    for missed in 1..=3 {
        // Long enough for the plugin to have been given the call by then: what it never sees it owes nothing for.
        let late = agent.call_within("hostile", "ignore-cancel", &json!(null), Duration::from_secs(1));
        error(late, ErrorCode::Timeout);
        if missed < 3 {
            assert_eq!(daemon.status("hostile").generation, Some(1), "after {missed}");
        }
    }
    let status = daemon.wait_until("hostile", "a successor", |now| now.generation == Some(2) && now.is("active"));
    expect_echo(&daemon, "hostile");
    assert_eq!(status.calls.timed_out, 3);
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// Cancelled by the caller, obeyed by the plugin.
#[test]
fn a_call_is_cancelled() {
    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    let id = agent.begin("hostile", "wait", &json!(null));
    daemon.wait_until("hostile", "a call in flight", |now| now.calls.in_flight == 1);
    agent.cancel(id);
    let error = error(agent.finish(id), ErrorCode::Cancelled);
    assert_eq!(error.message, "as you wish");
    assert_eq!(daemon.status("hostile").calls.cancelled, 1);
    daemon.stop_and_expect_no_orphans();
}

/// Cancelled, and answered well all the same: the answer counts.
#[test]
fn an_answer_after_cancel() {
    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    let id = agent.begin("hostile", "answer-after-cancel", &json!(null));
    daemon.wait_until("hostile", "a call in flight", |now| now.calls.in_flight == 1);
    agent.cancel(id);
    assert_eq!(agent.finish(id), Ok(json!("finished all the same")));
    // A cancel that crosses with the answer, and one for a call that never was, mean nothing.
    agent.cancel(id);
    let unused = agent.new_id();
    agent.cancel(unused);
    assert_eq!(agent.call("hostile", "echo", &json!(1)), Ok(json!(1)));
    daemon.stop_and_expect_no_orphans();
}

/// Cancelled before a process was there for it: nothing is called.
#[test]
fn a_call_is_cancelled_while_it_waits() {
    let daemon = daemon_with(hostile("silent"));
    let mut agent = daemon.agent();
    let id = agent.begin("hostile", "echo", &json!(1));
    daemon.wait_until("hostile", "a waiting call", |now| now.calls.waiting == 1);
    agent.cancel(id);
    error(agent.finish(id), ErrorCode::Cancelled);
    daemon.stop_and_expect_no_orphans();
}

/// More calls than a plugin takes wait; more than may wait are turned away at once.
#[test]
fn a_full_queue_refuses() {
    let limits = json!({"concurrency": 2, "queue": 3, "stop_grace_seconds": 1});
    let daemon = daemon_with(hostile("tame").with("limits", limits));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    expect_echo(&daemon, "hostile");
    let taken: Vec<u64> = (0..5).map(|_| agent.begin("hostile", "wait", &json!(null))).collect();
    daemon.wait_until("hostile", "two calls in flight and three waiting", |now| {
        (now.calls.in_flight, now.calls.waiting) == (2, 3)
    });
    let refused = error(agent.call("hostile", "wait", &json!(null)), ErrorCode::Overloaded);
    assert!(refused.retryable && refused.retry_after_ms.is_some(), "{refused:?}");
    assert_eq!(daemon.status("hostile").calls.refused, 1);
    for id in taken {
        agent.cancel(id);
        error(agent.finish(id), ErrorCode::Cancelled);
    }
    expect_echo(&daemon, "hostile");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// Payloads that the daemon forwards as they are: what they hold is the receiver's business.
#[test]
fn payloads_pass_as_they_are() {
    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    let id = agent.begin("hostile", "bad-payload", &json!(null));
    assert_eq!(agent.next_of(id).payload, [0xc1]);
    let id = agent.begin("hostile", "deep-payload", &json!(null));
    assert_eq!(agent.next_of(id).payload.len(), 1026);
    daemon.stop_and_expect_no_orphans();
}

/// Parameters of several megabytes, in pieces, there and back.
#[test]
fn large_payloads_in_both_directions() {
    let daemon = Daemon::with([Package::echo()]);
    let mut agent = daemon.agent();
    for bytes in [100, 70_000, 131_072, 1 << 20, 5 << 20] {
        let text = json!("y".repeat(bytes));
        assert_eq!(agent.call("echo", "echo", &text), Ok(text), "{bytes} bytes");
    }
    daemon.stop_and_expect_no_orphans();
}

/// Many calls at once on one connection, each with its own answer.
#[test]
fn many_calls_at_once() {
    let limits = json!({"concurrency": 64, "queue": 1000});
    let daemon = Daemon::with([Package::echo().with("limits", limits)]);
    let mut agent = daemon.agent();
    let most = usize::try_from(agent.limits.calls_max).expect("it is small");
    for round in 0..5 {
        let ids: Vec<(usize, u64)> = (0..most).map(|n| (n, agent.begin("echo", "echo", &json!([round, n])))).collect();
        for (n, id) in ids.into_iter().rev() {
            assert_eq!(agent.finish(id), Ok(json!([round, n])));
        }
    }
    daemon.stop_and_expect_no_orphans();
}

/// A stream out of a plugin arrives whole.
#[test]
fn a_stream_arrives() {
    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    let id = agent.begin("hostile", "bytes-out", &json!(null));
    let got = agent.collect(id);
    assert_eq!(got.outcome, Ok(json!(null)));
    assert!(got.ended);
    assert_eq!(got.bytes, vec![b'x'; 100_000]);
    daemon.stop_and_expect_no_orphans();
}
