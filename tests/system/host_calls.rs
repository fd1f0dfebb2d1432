//! What a plugin may ask of the daemon, and what that may cost.

use palisade_protocol::{ErrorBody, ErrorCode};
use serde_json::{Value, json};

use crate::support::{daemon_with, hostile};

/// The codes of those answers that are errors.
fn codes(answers: &Value) -> Vec<ErrorCode> {
    let answers = answers.as_array().expect("a list");
    let errors = answers.iter().filter_map(|answer| answer.get("error"));
    errors.map(|error| serde_json::from_value::<ErrorBody>(error.clone()).expect("an error").code).collect()
}

#[test]
fn a_plugin_asks_who_it_is_and_for_what_nobody_has() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let asks = json!({"asks": [{"op": "self"}, {"op": "coffee"}, {"op": "self", "params": {"ignored": [1, 2]}}]});
    let answers = daemon.agent().call("hostile", "ask", &asks).expect("it asks");
    for at in [0, 2] {
        assert_eq!(answers[at]["ok"]["id"], "hostile", "{answers}");
        assert_eq!(answers[at]["ok"]["generation"], 1, "{answers}");
    }
    assert_eq!(codes(&answers), [ErrorCode::ActionNotFound]);
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// One that asks without a pause is told to come back, lives on, and costs its neighbour nothing.
#[test]
fn a_plugin_that_asks_too_often_is_told_when_to_come_back() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let asks = json!({"asks": [{"op": "self", "times": 6_000}], "at_once": 32});
    let answers = daemon.agent().call("hostile", "ask", &asks).expect("it asks");
    let refused = answers.as_array().expect("a list").iter().filter_map(|answer| answer.get("error"));
    let refused: Vec<_> = refused.collect();
    // However long it took: so many it may ask at once, and each of the others only with time.
    assert!(!refused.is_empty() && refused.len() <= 4_000, "{}", refused.len());
    for error in refused {
        assert_eq!((&error["code"], &error["retryable"]), (&json!("overloaded"), &json!(true)), "{error}");
        assert!(error["retry_after_ms"].as_u64().is_some_and(|wait| (1..=2).contains(&wait)), "{error}");
    }
    assert_eq!(daemon.status("hostile").last_failure, None);
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn more_than_so_many_at_once_are_refused() {
    let daemon = daemon_with(hostile("tame"));
    let asks = json!({"asks": [{"op": "self", "times": 200}], "at_once": 200});
    let answers = daemon.agent().call("hostile", "ask", &asks).expect("it asks");
    let codes = codes(&answers);
    // How many of them come together is the pipe's affair; those that are answered are right.
    assert!(codes.len() <= 200 - 64 && codes.iter().all(|code| *code == ErrorCode::Overloaded), "{codes:?}");
    assert_eq!(daemon.status("hostile").last_failure, None);
    daemon.stop_and_expect_no_orphans();
}

/// What is stored has to be brought into the form of the new version before that takes calls.
#[test]
fn a_plugin_may_ask_before_it_is_ready() {
    let asks = json!({"asks": [{"op": "self"}]});
    let hostile = hostile("asks-before-ready").environment("HOSTILE_ASKS", &asks.to_string());
    let daemon = daemon_with(hostile);
    daemon.operate("start", &json!({"plugin": "hostile"})).expect("it starts");
    let mut agent = daemon.agent();
    let id = agent.begin("palisade", "logs", &json!({"plugin": "hostile", "lines": 10}));
    let logs = json!(agent.collect(id).items);
    assert!(logs.to_string().contains(r#"{\"ok\":{\"generation\":1"#), "{logs}");
    daemon.stop_and_expect_no_orphans();
}
