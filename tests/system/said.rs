//! What an operator has said of a plugin holds when its package is exchanged, and what is told of an exchange is so.

use palisade_protocol::ErrorCode;
use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::Package;
use palisade_tests::wire::Agent;
use serde_json::{Value, json};

use crate::reload::{keeping_one, kept_state, migrating};
use crate::support::{error, expect_echo, expect_text, follow, hostile};

fn serving(package: &Package) -> Daemon {
    let daemon = Daemon::start(DaemonOptions::with([package.clone()]).configuration("watch = false\n"));
    expect_echo(&daemon, "hostile");
    daemon
}

fn change(daemon: &Daemon, description: &str) {
    hostile("tame").with("description", json!(description)).write(&daemon.plugins(), daemon.marker());
}

fn rescan(daemon: &Daemon) -> Value {
    daemon.operate("rescan", &json!({})).expect("it looks")
}

fn operate(daemon: &Daemon, operation: &str) {
    daemon.operate(operation, &json!({"plugin": "hostile"})).unwrap_or_else(|error| panic!("{operation}: {error}"));
}

fn reload(daemon: &Daemon) -> Value {
    daemon.operate("reload", &json!({"plugin": "hostile"})).expect("it is there")["reloads"][0].clone()
}

fn info(daemon: &Daemon) -> Value {
    daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known")
}

fn status(daemon: &Daemon) -> Value {
    daemon.operate("status", &json!({"plugin": "hostile"})).expect("it is known")
}

/// The events of one plugin until that one, in which `reason` is all that is asked for.
fn events_until(watcher: &mut Agent, events: u64, is_last: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut all: Vec<Value> = Vec::new();
    while !all.last().is_some_and(&is_last) {
        let frame = watcher.next_of(events);
        if !frame.payload.is_empty() {
            all.push(palisade_tests::wire::decode(&frame.payload));
        }
    }
    all
}

/// What is stopped stays so, whatever becomes of its folder.
#[test]
fn what_is_stopped_stays_so_when_its_package_changes() {
    let daemon = serving(&hostile("tame"));
    operate(&daemon, "stop");
    let before = info(&daemon)["snapshot"]["digest"].clone();
    change(&daemon, "new");
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    assert_ne!(info(&daemon)["snapshot"]["digest"], before, "it has the changed package");
    assert!(daemon.status("hostile").is("stopped"));
    error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::Unavailable);
    // Nor does it start because it is reloaded, which says so.
    let done = reload(&daemon);
    assert_eq!((&done["reloaded"], &done["idle"]), (&json!(true), &json!("hostile is stopped")), "{done}");
    assert!(daemon.status("hostile").is("stopped"));
    operate(&daemon, "start");
    expect_echo(&daemon, "hostile");
    // The same of what takes no calls.
    operate(&daemon, "disable");
    let done = reload(&daemon);
    expect_text(done["idle"].as_str().unwrap_or_default(), "disabled");
    operate(&daemon, "enable");
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// Nothing takes the place of what is paused: the changed package is tried once it is resumed.
#[test]
fn what_is_paused_stays_so_when_its_package_changes() {
    let daemon = serving(&hostile("tame"));
    operate(&daemon, "pause");
    let process = daemon.status("hostile").process_id();
    change(&daemon, "new");
    let found = rescan(&daemon);
    assert_eq!(found["changed"], json!([]), "{found}");
    expect_text(found["kept"][0]["reason"].as_str().expect("a sentence"), "paused");
    expect_text(reload(&daemon)["reason"].as_str().expect("a sentence"), "paused");
    let status = daemon.status("hostile");
    assert!(status.is("paused"));
    assert_eq!(status.process_id(), process);
    let mut agent = daemon.agent();
    let waiting = agent.begin("hostile", "echo", &json!("waits"));
    operate(&daemon, "resume");
    assert_eq!(agent.finish(waiting), Ok(json!("waits")));
    wait_for("the changed package", || (info(&daemon)["description"] == "new").then_some(()));
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// No package lifts a limit that an operator has set.
#[test]
fn a_limit_that_an_operator_has_set_holds_for_a_changed_package() {
    let daemon = serving(&hostile("tame"));
    daemon.operate("limit", &json!({"plugin": "hostile", "memory_mib": 200})).expect("it is allowed");
    let told = || info(&daemon)["limits"]["resources"]["memory_mib"].clone();
    assert_eq!((&told()["value"], &told()["by"]), (&json!(200), &json!("operator")));
    change(&daemon, "new");
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    assert_eq!((&told()["value"], &told()["by"]), (&json!(200), &json!("operator")));
    operate(&daemon, "stop");
    change(&daemon, "newer");
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    assert_eq!((&told()["value"], &told()["by"]), (&json!(200), &json!("operator")));
    daemon.stop_and_expect_no_orphans();
}

/// What was said of a plugin holds when what it may do changes, too. A process that stands still has what was granted before: it ends, and
/// nothing starts in its place before its operator says so.
#[test]
fn what_was_said_holds_when_something_is_granted_or_taken_back() {
    let package = Package::hostile("hostile", "tame").asking(&json!(["execute_code", {"file_read": ["/srv"]}]));
    let daemon = Daemon::start(DaemonOptions::with([package]).configuration("watch = false\n[permissions]\n"));
    operate(&daemon, "grant");
    expect_echo(&daemon, "hostile");
    operate(&daemon, "stop");
    daemon.operate("limit", &json!({"plugin": "hostile", "memory_mib": 200})).expect("it is allowed");
    let change = |operation: &str| {
        let named = json!({"plugin": "hostile", "permissions": ["file_read:/srv"]});
        daemon.operate(operation, &named).unwrap_or_else(|error| panic!("{operation}: {error}"));
        let told = info(&daemon)["limits"]["resources"]["memory_mib"].clone();
        assert_eq!((&told["value"], &told["by"]), (&json!(200), &json!("operator")), "after {operation}");
    };
    let expect_stopped = |operation: &str| {
        assert!(daemon.status("hostile").is("stopped"), "after {operation}: {}", status(&daemon));
        let refused = error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::Unavailable);
        expect_text(&refused.message, "stopped");
    };
    for operation in ["revoke", "grant"] {
        change(operation);
        expect_stopped(operation);
    }
    operate(&daemon, "start");
    for operation in ["revoke", "grant"] {
        expect_echo(&daemon, "hostile");
        operate(&daemon, "pause");
        change(operation);
        expect_stopped(operation);
        operate(&daemon, "start");
    }
    // One that serves goes on.
    for operation in ["revoke", "grant"] {
        change(operation);
        daemon.wait_until("hostile", "a process with what it may do now", |now| now.is("active"));
        expect_echo(&daemon, "hostile");
    }
    // And what it may have is not lifted by its being disabled for a while.
    operate(&daemon, "disable");
    operate(&daemon, "enable");
    assert_eq!(info(&daemon)["limits"]["resources"]["memory_mib"]["value"], 200);
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// Who stops a plugin while the package before is returned to has it stopped, and with that package.
#[test]
fn a_stop_that_is_said_while_a_package_is_taken_back_holds() {
    let daemon = keeping_one("");
    let digest = || info(&daemon)["snapshot"]["digest"].clone();
    let before = digest();
    migrating().write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    assert_ne!(digest(), before);
    let mut agent = daemon.agent();
    for _ in 0..19 {
        error(agent.call("hostile", "fail", &json!(null)), ErrorCode::ExecutionFailed);
    }
    // One more is enough; and as long as the other one is under way the process that failed has not ended.
    let last = agent.begin("hostile", "fail", &json!(null));
    let under_way = agent.begin("hostile", "block", &json!(null));
    error(agent.finish(last), ErrorCode::ExecutionFailed);
    daemon.wait_until("hostile", "the end of what failed", |now| now.is("stopping"));
    daemon.operate("stop", &json!({"plugin": "hostile", "force": true})).expect("it is there");
    error(agent.finish(under_way), ErrorCode::Unavailable);
    wait_for("the package before", || (digest() == before).then_some(()));
    assert!(daemon.status("hostile").is("stopped"), "{}", status(&daemon));
    error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::Unavailable);
    operate(&daemon, "start");
    assert_eq!(kept_state(&daemon), "one");
    daemon.stop_and_expect_no_orphans();
}

/// What is no package is not used, which is said to who asks for it.
#[test]
fn a_reload_of_what_is_no_package_says_so() {
    let daemon = serving(&hostile("tame"));
    // What was looked at has served.
    rescan(&daemon);
    std::fs::write(daemon.plugins().join("hostile/plugin.json"), "{").expect("it is ours");
    let process = daemon.status("hostile").process_id();
    let done = reload(&daemon);
    assert_eq!(done["reloaded"], json!(false), "{done}");
    expect_text(done["reason"].as_str().unwrap_or_default(), "plugin.json");
    assert_eq!(daemon.status("hostile").process_id(), process);
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// Nobody has stopped anything when a package takes another one's place, or goes.
#[test]
fn a_call_is_told_that_its_package_was_exchanged_or_is_gone() {
    // It does not listen to anybody who wants its call to end.
    let daemon = serving(&hostile("tame"));
    let mut watcher = daemon.agent();
    let events = watcher.begin("palisade", "events", &json!({"plugin": "hostile"}));
    for (told, what) in [("another package took its place", "new"), ("its package is gone", "")] {
        let mut agent = daemon.agent();
        let call = agent.begin("hostile", "ignore-cancel", &json!(null));
        daemon.wait_until("hostile", "a call in flight", |now| now.calls.in_flight == 1);
        if what.is_empty() {
            std::fs::remove_dir_all(daemon.plugins().join("hostile")).expect("it is ours");
        } else {
            change(&daemon, what);
        }
        rescan(&daemon);
        let ended = error(agent.finish(call), ErrorCode::Unavailable);
        expect_text(&ended.message, told);
        assert!(!ended.hint.clone().unwrap_or_default().contains("palisade start"), "{ended:?}");
        // The plugin is stopped only where nothing has its place.
        let is_last = |event: &Value| match what {
            "" => event["to"] == "stopped",
            _ => event["kind"] == "package_changed",
        };
        let all = events_until(&mut watcher, events, is_last);
        let has_reason = |event: &Value| event["reason"].as_str().is_some_and(|reason| reason.contains(told));
        assert_eq!(all.iter().any(has_reason), what.is_empty(), "{all:?}");
        assert!(!format!("{all:?}").contains("by the operator"), "{all:?}");
    }
    assert!(!daemon.log().contains("stopped by the operator"), "{}", daemon.log());
    daemon.stop_and_expect_no_orphans();
}

/// What a package does while it is tried, and what becomes of the one before, is not told as if the plugin did it: the states of which a
/// follower is told are those of what has the calls, and each follows from the one before. What is not used is named.
#[test]
fn the_states_that_are_told_are_those_of_what_serves() {
    let daemon = serving(&hostile("tame"));
    let mut watcher = daemon.agent();
    let events = follow(&mut watcher);
    let digest = || info(&daemon)["snapshot"]["digest"].clone();
    let mut all = Vec::new();
    let mut until = |kind: &str| {
        let next = events_until(&mut watcher, events, |event| event["kind"] == kind);
        all.extend(next.iter().cloned());
        next
    };
    let kinds = |told: &[Value]| told.iter().map(|event| event["kind"].clone()).collect::<Vec<_>>();
    // It fails while it is tried.
    let bad = hostile("exit-at-once").with("version", json!("0.1.1")).environment("HOSTILE_VERSION", "0.1.1");
    bad.write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["kept"][0]["plugin"], json!("hostile 0.1.0"));
    let told = until("package_kept");
    assert_eq!(kinds(&told), ["package_kept"], "{told:?}");
    let passed_over = status(&daemon)["passed_over"].clone();
    assert_eq!(told[0]["refused"], json!({"version": "0.1.1", "digest": passed_over["digest"]}), "{told:?}");
    let log = daemon.log();
    let failures: Vec<_> = log.lines().filter(|line| line.contains("a generation failed")).collect();
    assert!(!failures.is_empty() && failures.iter().all(|line| line.contains("trial=true")), "{failures:?}");
    assert!(!log.contains("to=failed"), "{log}");
    // One that serves is told of once, also as another version.
    let before = digest();
    change(&daemon, "new");
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    let told = until("package_changed");
    assert_eq!((kinds(&told), &told[0]["from_version"]), (vec![json!("package_changed")], &Value::Null), "{told:?}");
    assert_eq!((&told[0]["from_digest"], &told[0]["digest"]), (&before, &digest()), "{told:?}");
    assert_ne!(told[0]["from_digest"], told[0]["digest"]);
    let next = hostile("tame").with("version", json!("0.2.0")).environment("HOSTILE_VERSION", "0.2.0");
    next.write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["added"], json!(["hostile 0.2.0"]));
    let told = until("package_changed");
    assert_eq!(kinds(&told), ["package_changed"], "{told:?}");
    assert_eq!((&told[0]["from_version"], &told[0]["version"]), (&json!("0.1.0"), &json!("0.2.0")), "{told:?}");
    // It is taken back.
    let taken_back = digest();
    error(daemon.agent().call("hostile", "abort", &json!(null)), ErrorCode::Crashed);
    let told = until("package_rolled_back");
    let rolled_back = told.last().expect("it is among them");
    assert_eq!(rolled_back["refused"], json!({"version": "0.2.0", "digest": taken_back}), "{told:?}");
    expect_echo(&daemon, "hostile");
    for operation in ["disable", "enable"] {
        operate(&daemon, operation);
    }
    expect_echo(&daemon, "hostile");
    operate(&daemon, "stop");
    until("package_enabled");
    let told = events_until(&mut watcher, events, |event| event["to"] == "stopped");
    all.extend(told);
    let states: Vec<_> = all.iter().filter(|event| event["kind"] == "state_changed").collect();
    let mut known = json!("active");
    for event in &states {
        assert_eq!(event["from"], known, "{states:?}");
        known = event["to"].clone();
    }
    let failed: Vec<_> = all.iter().filter(|event| event["kind"] == "generation_failed").collect();
    assert_eq!(failed.len(), 1, "that of what served: {failed:?}");
    daemon.stop_and_expect_no_orphans();
}

/// What ends so that another package can take its place is told so, whatever becomes of that.
#[test]
fn what_ends_for_another_package_is_not_said_to_be_restarted() {
    const WHY: &str = "stopped so that another package can take its place";
    let exclusive = |behaviour: &str| {
        hostile(behaviour).with("exclusive", json!(true)).with("limits", json!({"start_timeout_seconds": 2}))
    };
    let daemon = serving(&exclusive("tame"));
    let mut watcher = daemon.agent();
    let events = follow(&mut watcher);
    for (behaviour, kind) in [("tame", "package_changed"), ("exit-at-once", "package_kept")] {
        exclusive(behaviour).with("description", json!("new")).write(&daemon.plugins(), daemon.marker());
        rescan(&daemon);
        let told = events_until(&mut watcher, events, |event| event["kind"] == kind);
        let stopping: Vec<_> = told.iter().filter(|event| event["to"] == "stopping").collect();
        assert!(!stopping.is_empty() && stopping.iter().all(|event| event["reason"] == WHY), "{told:?}");
        assert!(!format!("{told:?}").contains("restarted"), "{told:?}");
    }
    assert!(!daemon.log().contains("to be restarted"), "{}", daemon.log());
    // An operator's restart is one.
    operate(&daemon, "restart");
    events_until(&mut watcher, events, |event| event["reason"] == "stopped to be restarted");
    daemon.stop_and_expect_no_orphans();
}

/// No two processes of an exclusive plugin run at once, also where one is to have another configuration.
#[test]
fn an_exclusive_plugin_stops_before_it_has_another_configuration() {
    let schema = json!({"type": "object", "properties": {"refuse": {"type": "boolean"}, "name": {"type": "string"}}});
    let daemon = serving(&hostile("tame").with("exclusive", json!(true)).with("configuration_schema", schema));
    let configure = |set: Value| daemon.operate("configure", &json!({"plugin": "hostile", "set": set}));
    let named = || daemon.agent().call("hostile", "configuration", &json!(null)).expect("it answers")["name"].clone();
    let mut watcher = daemon.agent();
    let events = watcher.begin("palisade", "events", &json!({"plugin": "hostile"}));
    assert_eq!(configure(json!({"name": "x"})).expect("it starts with it")["applied"], "restarted");
    let all = events_until(&mut watcher, events, |event| event["kind"] == "configuration_changed");
    assert!(all.iter().any(|event| event["to"] == "stopped"), "the old one has ended first: {all:?}");
    assert_eq!(named(), "x");
    // Where it does not start with it, it starts as it was, and calls wait for that.
    let refused = std::thread::scope(|scope| {
        let refused = scope.spawn(|| configure(json!({"refuse": true})));
        while !refused.is_finished() {
            expect_echo(&daemon, "hostile");
        }
        refused.join().expect("it is answered")
    });
    let refused = error(refused, ErrorCode::ConfigurationInvalid);
    expect_text(&refused.message, "it does not want that");
    assert_eq!(named(), "x");
    daemon.stop_and_expect_no_orphans();
}
