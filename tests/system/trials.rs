//! What is told of a package while it is tried, and what ends its trial.

use std::path::Path;

use palisade_tests::command::{built, command};
use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::Package;
use palisade_tests::wire::Agent;
use serde_json::{Value, json};

use crate::support::{expect_echo, expect_text, follow, hostile};

/// One that says nothing for longer than any test takes, and is waited for.
fn hanging(description: &str) -> Package {
    let limits = json!({"start_timeout_seconds": 600});
    hostile("never-ready").with("limits", limits).with("description", json!(description))
}

fn working(description: &str) -> Package {
    hostile("tame").with("description", json!(description))
}

fn status(daemon: &Daemon) -> Value {
    daemon.operate("status", &json!({"plugin": "hostile"})).expect("it is known")
}

fn digest(daemon: &Daemon) -> Value {
    daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known")["snapshot"]["digest"].clone()
}

/// Has that one be tried, and says what its digest is.
fn begin(daemon: &Daemon, package: &Package) -> Value {
    package.write(&daemon.plugins(), daemon.marker());
    let trial = wait_for("its trial", || Some(status(daemon)["trial"].clone()).filter(Value::is_object));
    assert_eq!(trial["version"], "0.1.0", "{trial}");
    trial["digest"].clone()
}

/// What is told of packages, until one of that kind.
fn told_until(watcher: &mut Agent, events: u64, kind: &str) -> Vec<Value> {
    let mut told: Vec<Value> = Vec::new();
    while told.last().is_none_or(|last| last["kind"] != kind) {
        let event = watcher.next_of(events).value();
        if event["kind"].as_str().is_some_and(|kind| kind.starts_with("package_")) {
            told.push(event);
        }
    }
    told
}

fn run(socket: &Path, arguments: &[&str]) -> String {
    let mut palisade = command(built("palisade"));
    let ran = palisade.arg("--socket").arg(socket).args(arguments).env("NO_COLOR", "1").output();
    String::from_utf8(ran.expect("it can be executed").stdout).expect("it is text")
}

/// Who saves a fix waits for its own trial, and not for what becomes of the one before: that is given up once something else lies in its
/// folder, and nothing is held against it.
#[test]
fn a_trial_is_given_up_once_another_package_lies_in_the_folder() {
    let configuration = "[defaults]\nsettle_seconds = 0.1\n";
    let daemon = Daemon::start(DaemonOptions::with([working("first")]).configuration(configuration));
    expect_echo(&daemon, "hostile");
    let mut watcher = daemon.agent();
    let events = follow(&mut watcher);
    let given_up = |times| {
        let log = wait_for("that it is said to be given up", || {
            let log = daemon.log();
            (log.matches("its changed package is not tried any further").count() == times).then_some(log)
        });
        assert!(!log.contains("did not become ready"), "{log}");
    };
    // A fix.
    let first = begin(&daemon, &hanging("one"));
    working("second").write(&daemon.plugins(), daemon.marker());
    let told = told_until(&mut watcher, events, "package_changed");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((&status(&daemon)["passed_over"], &status(&daemon)["trial"]), (&Value::Null, &Value::Null));
    expect_echo(&daemon, "hostile");
    given_up(1);
    // It is not marked, so it is tried again; what serves is put back.
    let serves = digest(&daemon);
    assert_eq!(begin(&daemon, &hanging("one")), first);
    working("second").write(&daemon.plugins(), daemon.marker());
    wait_for("the end of its trial", || status(&daemon)["trial"].is_null().then_some(()));
    assert_eq!((&digest(&daemon), &status(&daemon)["passed_over"]), (&serves, &Value::Null));
    expect_echo(&daemon, "hostile");
    given_up(2);
    // One that hangs as well is tried in its place.
    let one = begin(&daemon, &hanging("one"));
    hanging("two").write(&daemon.plugins(), daemon.marker());
    wait_for("the trial of the newest", || {
        let trial = status(&daemon)["trial"].clone();
        (trial.is_object() && trial["digest"] != one).then_some(())
    });
    given_up(3);
    // And its folder goes.
    std::fs::remove_dir_all(daemon.plugins().join("hostile")).expect("it is ours");
    let told = told_until(&mut watcher, events, "package_removed");
    assert_eq!(told.len(), 1, "{told:?}");
    wait_for("the end of its trial", || {
        (daemon.log().matches("its changed package is not tried any further").count() == 4).then_some(())
    });
    given_up(4);
    daemon.stop_and_expect_no_orphans();
}

/// Who asks sees what is tried, until when a failure leads back, and what is not used with what to do about it.
#[test]
fn who_asks_sees_what_becomes_of_a_changed_package() {
    let daemon = Daemon::start(DaemonOptions::with([working("first")]).configuration("watch = false\n"));
    expect_echo(&daemon, "hostile");
    let first = digest(&daemon);
    let first = &first.as_str().expect("it is text")[..12];
    let rescan = || daemon.operate("rescan", &json!({})).expect("it looks");
    let show = |arguments: &[&str]| run(&daemon.socket(), arguments);
    assert!(status(&daemon)["probation"].is_null(), "nothing was exchanged");
    std::thread::scope(|scope| {
        hanging("one").write(&daemon.plugins(), daemon.marker());
        let looks = scope.spawn(rescan);
        let trial = wait_for("its trial", || Some(status(&daemon)["trial"].clone()).filter(Value::is_object));
        let tried = &trial["digest"].as_str().expect("it is text")[..12];
        expect_text(&show(&["status", "hostile"]), &format!("a new package (0.1.0 {tried}) is being tried since"));
        working("second").write(&daemon.plugins(), daemon.marker());
        assert_eq!(rescan()["changed"], json!(["hostile 0.1.0"]));
        expect_text(&looks.join().expect("it looks")["kept"].to_string(), "was wanted before this one served");
    });
    let second = digest(&daemon);
    let probation = status(&daemon)["probation"].clone();
    assert_eq!(probation["version"], "0.1.0", "{probation}");
    expect_text(probation["digest"].as_str().expect("it is text"), first);
    expect_text(&show(&["status", "hostile"]), &format!("the package before is 0.1.0 {first}"));
    // Who returns says that nothing leads back.
    daemon.operate("rollback", &json!({"plugin": "hostile"})).expect("there is one");
    assert!(status(&daemon)["probation"].is_null(), "{}", status(&daemon));
    let second = &second.as_str().expect("it is text")[..12];
    let way_back = "palisade reload hostile";
    for arguments in [&["status", "hostile"][..], &["list"], &["doctor"]] {
        let shown = show(arguments).split_whitespace().collect::<Vec<_>>().join(" ");
        expect_text(&shown, second);
        expect_text(&shown, way_back);
        expect_text(&shown, "has returned to 0.1.0");
    }
    daemon.operate("reload", &json!({"plugin": "hostile"})).expect("it is there");
    for arguments in [&["status", "hostile"][..], &["list"], &["doctor"]] {
        assert!(!show(arguments).contains(way_back), "{}", show(arguments));
    }
    daemon.stop_and_expect_no_orphans();
}
