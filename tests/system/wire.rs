//! "On the wire": every way in which a plugin can break the protocol ends its generation with a dossier that says which, fails the
//! call in question alone, and does not disturb its neighbour; the next call meets a successor.

use palisade_protocol::ErrorCode;
use palisade_tests::process;
use palisade_tests::wire::Outcome;
use serde_json::json;

use crate::support::{daemon_with, error, expect_echo, expect_text, hostile};

/// No frame, whatever it announces, makes the daemon take more than this.
const DAEMON_KIB_MAX: u64 = 64 << 10;

/// What the call itself comes to.
enum Call {
    /// It ends with `protocol_violation`.
    Fails,
    /// It had ended well before the plugin broke a rule.
    EndsWell,
}

fn violation(row: &str, call: &Call, sentence: &str) {
    let mut daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    expect_echo(&daemon, "hostile");
    let before = daemon.status("hostile");
    assert!(before.is("active"));

    let id = agent.begin("hostile", row, &json!(null));
    let outcome: Outcome = agent.collect_without_credit(id).outcome;
    match call {
        Call::Fails => {
            let error = error(outcome, ErrorCode::ProtocolViolation);
            expect_text(&error.message, sentence);
            assert!(error.details.is_some(), "the dossier comes with the error");
        }
        Call::EndsWell => drop(outcome.expect("the call had ended before")),
    }
    let after = daemon.wait_until("hostile", "a dossier", |now| now.last_failure.is_some());
    let dossier = after.last_failure.expect("it is there");
    assert_eq!(Some(dossier.generation), before.generation, "the dossier is of the generation that did it");
    expect_text(&dossier.reason, "broke the protocol");
    expect_text(&dossier.reason, sentence);

    // The agent's connection, the plugin's next generation and the neighbour are as before.
    assert_eq!(agent.call("hostile", "echo", &json!("again")), Ok(json!("again")));
    let after = daemon.status("hostile");
    assert!(after.is("active") && before.generation < after.generation, "{after:?}");
    assert!(process::peak_kib(daemon.pid()).expect("it runs") < DAEMON_KIB_MAX);
    neighbour.expect_unharmed(&daemon);
    daemon.remember();
    daemon.stop_and_expect_no_orphans();
}

macro_rules! violations {
    ($($test:ident: $row:literal, $call:ident, $sentence:literal;)*) => {
        $(#[test]
        fn $test() {
            violation($row, &Call::$call, $sentence);
        })*
    };
}

violations! {
    a_frame_of_length_zero: "len-zero", Fails, "a frame without a body";
    a_frame_one_byte_too_long: "len-max-plus-one", Fails, "a frame of 1048577 bytes was announced, more than the limit of 1048576";
    a_frame_of_four_gigabytes: "len-4g", Fails, "a frame of 4294967295 bytes was announced";
    a_frame_cut_off: "cut-off", Fails, "its output ended in the middle of a frame";
    invalid_messagepack: "bad-msgpack", Fails, "the type byte 0xc1";
    nesting_of_1025: "deep", Fails, "nesting deeper than 32";
    a_map_of_two_to_the_32: "map-4g", Fails, "more than 64 values";
    an_extension_type: "ext", Fails, "the type byte 0xd4";
    a_key_twice: "duplicate-keys", Fails, "stands there twice";
    a_string_that_is_not_utf8: "not-utf8", Fails, "is not UTF-8";
    a_body_that_is_no_map: "body-not-a-map", Fails, "the body is not a map";
    a_body_too_long: "body-too-long", Fails, "a body of";
    a_payload_where_none_belongs: "unexpected-payload", Fails, "1 bytes follow the body";
    a_kind_that_must_be_understood: "must-understand", Fails, "kind 0xee is unknown";
    a_field_missing: "missing-field", Fails, "missing field `kind`";
    an_answer_to_no_call: "unknown-id", Fails, "which was never made";
    an_answer_to_an_odd_id: "odd-id", Fails, "for call 77, which was never made";
    an_answer_again_much_later: "replayed-id", Fails, "which has ended";
    a_second_terminal_frame: "second-terminal", EndsWell, "which has ended";
    data_after_the_end_of_a_stream: "data-after-end", Fails, "on a stream that has ended";
    data_without_a_stream: "data-unopened", Fails, "on a stream that was not opened";
    a_stream_opened_twice: "open-twice", Fails, "a second output stream";
    data_beyond_the_credit: "beyond-credit", Fails, "with credit for";
    a_result_with_a_stream_still_open: "ok-with-open-stream", Fails, "while its output stream is open";
    a_continuation_of_nothing: "continue-nothing", Fails, "nothing to continue";
    a_result_interrupted: "interrupted-result", Fails, "in the middle of a result";
    a_pong_that_nobody_asked_for: "pong-unasked", Fails, "a Pong under id 4242";
    hello_twice_in_the_middle: "hello-again", Fails, "hello a second time";
    ready_twice: "ready-again", Fails, "ready a second time";
    a_frame_that_only_the_supervisor_sends: "supervisors-frame", Fails, "which only the supervisor sends";
    a_host_call_under_an_even_id: "even-host-call", Fails, "it has to be odd";
    drained_without_being_asked: "drained-unasked", Fails, "drained without being asked";
    credit_without_end: "credit-overflow", Fails, "credit";
    refusing_midway: "refuse-midway", Fails, "I have had enough";
}

/// A result that never ends costs its call, within the limit for payloads.
#[test]
fn a_result_without_end() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    let id = agent.begin("hostile", "endless-result", &json!(null));
    let error = error(agent.collect(id).outcome, ErrorCode::ProtocolViolation);
    expect_text(&error.message, "67108864");
    expect_echo(&daemon, "hostile");
    assert!(
        process::peak_kib(daemon.pid()).expect("it runs") < DAEMON_KIB_MAX,
        "the daemon passes it on and keeps nothing"
    );
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// What is unusual and still keeps to the rules is served.
#[test]
fn unusual_but_allowed() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    assert_eq!(agent.call("hostile", "unknown-kind", &json!(null)), Ok(json!(null)), "an unknown kind is skipped");
    assert_eq!(agent.call("hostile", "byte-at-a-time", &json!(null)), Ok(json!(null)));
    let id = agent.begin("hostile", "glued", &json!(null));
    let glued = agent.collect(id);
    assert_eq!(glued.outcome, Ok(json!("glued")));
    assert_eq!(glued.progress.len(), 1, "the first of two frames in one write is not lost");
    let largest = agent.call("hostile", "len-max", &json!(null)).expect("a frame of the maximal length is one");
    assert_eq!(largest.as_str().map(str::len), Some((1 << 20) - 6));
    let status = daemon.status("hostile");
    assert_eq!((status.generation, status.last_failure), (Some(1), None));
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// Errors that other languages may send are made whole for the caller.
#[test]
fn errors_are_made_whole() {
    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    let minimal = error(agent.call("hostile", "minimal-error", &json!(null)), ErrorCode::ResourceNotFound);
    assert_eq!(minimal.message, "no such page");
    let unknown = error(agent.call("hostile", "unknown-code", &json!(null)), ErrorCode::ExecutionFailed);
    assert_eq!(unknown.message, "teapot: short and stout");
    let huge = error(agent.call("hostile", "huge-error", &json!(null)), ErrorCode::ExecutionFailed);
    assert_eq!(huge.message.len(), 30_000);
    let on_purpose = error(agent.call("hostile", "fail", &json!(null)), ErrorCode::ExecutionFailed);
    assert_eq!(on_purpose.message, "on purpose");
    assert_eq!(daemon.status("hostile").calls.errors, 4);
    daemon.stop_and_expect_no_orphans();
}

/// Bytes on stdout are log lines, whatever they look like.
#[test]
fn frames_on_stdout_are_text() {
    let daemon = daemon_with(hostile("stdout-garbage"));
    expect_echo(&daemon, "hostile");
    let lines = palisade_tests::daemon::wait_for("the last line on stdout", || {
        let mut agent = daemon.agent();
        let id = agent.begin("palisade", "logs", &json!({"plugin": "hostile"}));
        let got = agent.collect(id);
        got.outcome.expect("logs can be had");
        got.items.iter().any(|line| line["message"] == "Page 1 of 1").then_some(got.items)
    });
    for line in &lines {
        let text = line["message"].as_str().expect("a message is text");
        assert!(!text.chars().any(|character| character.is_control() && character != '\t'), "{text:?}");
    }
    daemon.stop_and_expect_no_orphans();
}
