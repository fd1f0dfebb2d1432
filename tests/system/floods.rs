//! Plugins that say too much: bounded memory, a bounded log, and a neighbour that is answered all the while.

use std::time::Instant;

use palisade_protocol::ErrorCode;
use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::Package;
use palisade_tests::process;
use serde_json::{Value, json};

use crate::support::{daemon_with, error, expect_echo, expect_text, follow, full, hostile, in_the_guest};

/// However much a plugin says, the daemon takes no more than this.
const DAEMON_KIB_MAX: u64 = 64 << 10;

fn expect_bounded(daemon: &Daemon) {
    let peak = process::peak_kib(daemon.pid()).expect("it runs");
    assert!(peak < DAEMON_KIB_MAX, "the daemon took {peak} KiB");
}

fn log_lines(daemon: &Daemon, lines: u32) -> Vec<Value> {
    let mut agent = daemon.agent();
    let id = agent.begin("palisade", "logs", &json!({"plugin": "hostile", "lines": lines}));
    let got = agent.collect(id);
    got.outcome.expect("logs can be had");
    got.items
}

/// The hostile plugin, with as much of a flood as this machine gets through: held to half of one processor, and that emulated,
/// it would not come to an end of the whole.
fn flooding() -> Package {
    let (mebibytes, frames) = match (full(), in_the_guest()) {
        (true, _) => ("1024", "200000"),
        (false, false) => ("64", "200000"),
        (false, true) => ("4", "10000"),
    };
    hostile("tame").environment("HOSTILE_FLOOD_MIB", mebibytes).environment("HOSTILE_FLOOD_FRAMES", frames)
}

/// A flood that ends: the call is answered, and the log says what was dropped.
fn flood(row: &str) -> Daemon {
    // A flood blocks the plugin's only thread, so its watchdog has to be patient.
    let patient = flooding()
        .with("limits", json!({"call_timeout_seconds": 300, "stop_grace_seconds": 1}))
        .with("watchdog", json!({"interval_seconds": 300, "timeout_seconds": 300}));
    // And the floods are to end in this century.
    let options = DaemonOptions::with([Package::echo(), patient])
        .configuration("[plugins.hostile.limits]\nlog_kib_per_second = 1073741824\n");
    let daemon = Daemon::start(options);
    let neighbour = daemon.neighbour();
    let outcome = daemon.agent().call("hostile", row, &json!(null));
    assert!(outcome.is_ok(), "{outcome:?}");
    expect_bounded(&daemon);
    neighbour.expect_unharmed(&daemon);
    daemon
}

#[test]
fn a_gigabyte_of_log() {
    let daemon = flood("log-flood");
    let lines = log_lines(&daemon, 100_000);
    assert!(lines.len() <= 1000, "{} lines were kept", lines.len());
    // The rest was dropped, and that is said as soon as a line is let through again.
    wait_for("a word about what was dropped", || {
        let _ = daemon.agent().call("hostile", "log-line", &json!(null));
        log_lines(&daemon, 1000)
            .iter()
            .any(|line| {
                line["stream"] == "supervisor" && line["message"].as_str().is_some_and(|text| text.contains("dropped"))
            })
            .then_some(())
    });
    daemon.stop_and_expect_no_orphans();
}

/// A plugin that writes more than it may waits when it writes, and for nothing else: its calls go on, and it is named.
#[test]
fn a_flood_is_read_no_faster_than_it_may_be() {
    const KIB_PER_SECOND: u64 = 64;
    let daemon = daemon_with(hostile("tame").with("limits", json!({"log_kib_per_second": KIB_PER_SECOND})));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    expect_echo(&daemon, "hostile");
    let began = Instant::now();
    assert_eq!(daemon.agent().call("hostile", "log-flood-beside", &json!(null)), Ok(json!(null)));
    let met = loop {
        let event = agent.next_of(events).value();
        if event["kind"] == "limit_reached" {
            break event["reason"].as_str().unwrap_or_default().to_owned();
        }
    };
    expect_text(&met, "logs: it writes more than its limit of 64 KiB a second");
    let flooded = || {
        let answer = daemon.agent().call("hostile", "log-flooded", &json!(null)).expect("its calls go on");
        answer.as_str().and_then(|text| text.parse::<u64>().ok()).expect("a number")
    };
    // What a few seconds allow at once, what came since, and what the pipe holds.
    let expect_held = |kib_per_second: u64| {
        let flooded = flooded();
        let most = (4 * kib_per_second + 64) << 10;
        let most = most + (began.elapsed().as_secs_f64() * (kib_per_second << 10) as f64) as u64;
        assert!(flooded <= most, "{flooded} bytes after {:?}", began.elapsed());
        flooded
    };
    let held = expect_held(KIB_PER_SECOND);
    wait_for("more of the flood", || (expect_held(KIB_PER_SECOND) > held).then_some(()));
    let limit = json!({"plugin": "hostile", "log_kib_per_second": 1 << 20});
    let changed = daemon.operate("limit", &limit).expect("it can be changed");
    assert_eq!(changed["limits"]["log_kib_per_second"], json!({"value": 1 << 20, "by": "operator"}));
    let much = if in_the_guest() { 1 << 20 } else { 32 << 20 };
    wait_for("the rest of the flood", || (much < flooded()).then_some(()));
    expect_echo(&daemon, "hostile");
    expect_bounded(&daemon);
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// The last lines of a plugin that dies while nothing of it is read are not lost.
#[test]
fn the_last_lines_of_a_flood_are_kept() {
    let daemon = daemon_with(hostile("tame").with("limits", json!({"log_kib_per_second": 16})));
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    assert_eq!(daemon.agent().call("hostile", "log-flood-beside", &json!(null)), Ok(json!(null)));
    while agent.next_of(events).value()["kind"] != "limit_reached" {}
    error(daemon.agent().call("hostile", "abort", &json!(null)), ErrorCode::Crashed);
    let dossier = daemon.status("hostile").last_failure.expect("it did not end well");
    assert!(dossier.last_stderr.iter().any(|line| line.starts_with("fff")), "{:?}", dossier.last_stderr);
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn nasty_log_lines() {
    let daemon = flood("log-nasty");
    let lines = wait_for("the last line", || {
        let lines = log_lines(&daemon, 100);
        lines.iter().any(|line| line["message"] == "last line").then_some(lines)
    });
    let texts: Vec<&str> = lines.iter().filter_map(|line| line["message"].as_str()).collect();
    for text in &texts {
        assert!(!text.chars().any(|character| character.is_control() && character != '\t'), "{text:?}");
        assert!(text.len() <= 8 << 10, "a line of {} bytes", text.len());
    }
    assert!(texts.iter().any(|text| text.starts_with("nul") && text.ends_with("byte")), "{texts:?}");
    assert!(texts.iter().any(|text| text.ends_with("cleared")), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("not utf-8 \u{fffd}")), "{texts:?}");
    assert!(texts.iter().any(|text| text.starts_with("LLLL")), "ten megabytes without a line end are one line, cut");
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn a_hundred_thousand_log_frames() {
    flood("log-frames").stop_and_expect_no_orphans();
}

#[test]
fn two_hundred_thousand_progress_frames() {
    let daemon = daemon_with(flooding());
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    let id = agent.begin("hostile", "progress-flood", &json!(null));
    let got = agent.collect(id);
    assert_eq!(got.outcome, Ok(json!("done")));
    let percentages: Vec<f64> = got.progress.iter().filter_map(|progress| progress.percentage).collect();
    assert!(percentages.is_sorted(), "older news never follows newer");
    expect_bounded(&daemon);
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// The caller does not read while they come: they are coalesced, not kept.
#[test]
fn progress_for_a_caller_who_does_not_read() {
    let daemon = daemon_with(flooding());
    let neighbour = daemon.neighbour();
    let mut deaf = daemon.agent();
    let id = deaf.begin("hostile", "progress-flood", &json!(null));
    daemon.wait_until("hostile", "the end of the flood", |now| now.calls.ok == 1);
    expect_bounded(&daemon);
    let got = deaf.collect(id);
    assert_eq!(got.outcome, Ok(json!("done")));
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn extensions_while_active() {
    flood("extend-flood").stop_and_expect_no_orphans();
}

/// It asks a hundred thousand times and never reads an answer.
fn asks_without_reading(row: &str) {
    let daemon = daemon_with(flooding());
    let neighbour = daemon.neighbour();
    error(daemon.agent().call("hostile", row, &json!(null)), ErrorCode::ProtocolViolation);
    expect_bounded(&daemon);
    expect_echo(&daemon, "hostile");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn a_hundred_thousand_host_calls() {
    asks_without_reading("host-call-flood");
}

#[test]
fn a_hundred_thousand_pings() {
    asks_without_reading("ping-flood");
}

/// Many tiny pieces of a stream for a caller who reads none of them.
#[test]
fn a_stream_for_a_caller_who_does_not_read() {
    let daemon = daemon_with(flooding());
    let neighbour = daemon.neighbour();
    let mut deaf = daemon.agent();
    let limit = std::time::Duration::from_secs(2);
    let call = palisade_protocol::Call {
        action: "stream-flood",
        plugin: Some("hostile"),
        deadline_ms: u64::try_from(limit.as_millis()).ok(),
        ..palisade_protocol::Call::default()
    };
    let id = deaf.begin_with(&call, &[]);
    daemon.wait_until("hostile", "the end of the call", |now| now.calls.timed_out == 1);
    expect_bounded(&daemon);
    error(deaf.collect(id).outcome, ErrorCode::Timeout);
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}
