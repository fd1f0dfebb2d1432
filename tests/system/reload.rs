//! What becomes of a plugin whose package is exchanged while it is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use palisade_protocol::ErrorCode;
use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::{Entry, Package};
use palisade_tests::steps::Traced;
use palisade_tests::wire::{BOUND, Next};
use serde_json::{Value, json};

use crate::support::{error, expect_echo, expect_text, hostile, in_the_guest};

/// Calls that each agent has under way at once.
const PIPELINED: usize = 16;

fn counting(description: &str) -> Package {
    // Far less than what comes, so that calls wait for their turn.
    let limits = json!({"concurrency": 2, "queue": 1000, "drain_timeout_seconds": 10});
    Package::hostile("counting", "tame").with("limits", limits).with("description", json!(description))
}

/// Calls without end, and gives back the answers, once it is told to stop.
fn keep_calling(daemon: &Daemon, stop: &AtomicBool) -> Vec<(u64, u64)> {
    let mut agent = daemon.agent();
    let mut answers = Vec::new();
    let call = |agent: &mut palisade_tests::wire::Agent| agent.begin("counting", "count", &json!(null));
    let mut calls: std::collections::VecDeque<u64> = (0..PIPELINED).map(|_| call(&mut agent)).collect();
    while let Some(next) = calls.pop_front() {
        let answer = agent.finish(next).expect("no call fails because the plugin is exchanged");
        let [generation, number] = serde_json::from_value(answer).expect("two numbers");
        answers.push((generation, number));
        if !stop.load(Ordering::Relaxed) {
            calls.push_back(call(&mut agent));
        }
    }
    answers
}

/// Each call is done once, and answered, whenever the plugin is exchanged: what a process has begun it ends, and everything else goes to
/// the next one, wherever it waited.
#[test]
fn no_call_is_lost_or_done_twice_while_a_plugin_is_exchanged() {
    let daemon = Daemon::start(DaemonOptions::with([counting("0")]).configuration("watch = false\n"));
    let stop = AtomicBool::new(false);
    // From here on it has a copy to run from, whatever is in its folder.
    daemon.agent().call("counting", "echo", &json!(null)).expect("it works");
    let answers: Vec<(u64, u64)> = std::thread::scope(|scope| {
        let agents: Vec<_> = (0..8).map(|_| scope.spawn(|| keep_calling(&daemon, &stop))).collect();
        for exchange in 1..=20 {
            counting(&exchange.to_string()).write(&daemon.plugins(), daemon.marker());
            let found = daemon.operate("rescan", &json!({})).expect("it looks");
            assert_eq!(found["changed"], json!(["counting 0.1.0"]), "exchange {exchange}");
        }
        stop.store(true, Ordering::Relaxed);
        agents.into_iter().flat_map(|agent| agent.join().expect("no agent fails")).collect()
    });
    let mut each: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for (generation, number) in &answers {
        assert!(each.entry(*generation).or_default().insert(*number), "{number} of {generation} was answered twice");
    }
    for (generation, numbers) in &each {
        let all: BTreeSet<u64> = (1..=numbers.len() as u64).collect();
        assert_eq!(*numbers, all, "generation {generation} did something that nobody was answered");
    }
    assert!(20 < each.len(), "each package had a process: {:?}", each.keys());
    daemon.stop_and_expect_no_orphans();
}

/// A plugin that is in use, from its copy, whose package is exchanged only when it is looked for.
fn serving(configuration: &str) -> Daemon {
    let configuration = format!("watch = false\n{configuration}");
    let daemon = Daemon::start(DaemonOptions::with([hostile("tame")]).configuration(&configuration));
    expect_echo(&daemon, "hostile");
    daemon
}

fn rescan(daemon: &Daemon) -> Value {
    daemon.operate("rescan", &json!({})).expect("it looks")
}

fn digest(daemon: &Daemon) -> Value {
    daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known")["snapshot"]["digest"].clone()
}

fn passed_over(daemon: &Daemon) -> Value {
    daemon.operate("status", &json!({"plugin": "hostile"})).expect("it is known")["passed_over"].clone()
}

/// What a package that does not come to serve is told with: nothing else has happened, and it is not tried a second time, neither by this
/// daemon nor by the next.
fn expect_kept(bad: &Package, told: &str) {
    let daemon = serving("");
    let (good, before) = (digest(&daemon), daemon.status("hostile"));
    bad.write(&daemon.plugins(), daemon.marker());
    let found = rescan(&daemon);
    assert_eq!((&found["changed"], &found["kept"][0]["plugin"]), (&json!([]), &json!("hostile 0.1.0")), "{found}");
    let reason = found["kept"][0]["reason"].as_str().expect("a sentence").to_owned();
    expect_text(&reason, told);
    let told_over = passed_over(&daemon);
    assert_eq!(told_over["reason"], json!(reason));
    assert_ne!(told_over["digest"], good);
    let now = daemon.status("hostile");
    assert_eq!((now.process_id(), digest(&daemon)), (before.process_id(), good.clone()), "it is what it was");
    expect_echo(&daemon, "hostile");
    // It is not tried again.
    assert_eq!(rescan(&daemon)["kept"], json!([]));
    assert_eq!(daemon.status("hostile").process_id(), before.process_id());
    // The next daemon has what served, and says why.
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    assert_eq!((digest(&daemon), passed_over(&daemon)), (good.clone(), told_over));
    expect_echo(&daemon, "hostile");
    // Whoever asks for it by name has it tried, and hears the same.
    let asked = daemon.operate("reload", &json!({"plugin": "hostile"})).expect("it is there");
    assert_eq!((&asked["reloads"][0]["reloaded"], &asked["reloads"][0]["digest"]), (&json!(false), &good), "{asked}");
    expect_text(asked["reloads"][0]["reason"].as_str().expect("a sentence"), told);
    // What was mended serves.
    hostile("tame").with("description", json!("mended")).write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    assert_eq!(passed_over(&daemon), Value::Null);
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn garbage_does_not_come_to_serve() {
    let garbage = Package::new("hostile", Entry::Bytes(b"\x7fELF and no more".to_vec()));
    expect_kept(&garbage, "could not be started");
}

#[test]
fn what_crashes_at_hello_does_not_come_to_serve() {
    expect_kept(&hostile("abort-at-once"), "SIGABRT");
}

#[test]
fn what_hangs_before_it_is_ready_does_not_come_to_serve() {
    expect_kept(&hostile("never-ready"), "ready");
}

#[test]
fn what_is_not_healthy_does_not_come_to_serve() {
    expect_kept(&hostile("unhealthy"), "healthy");
}

#[test]
fn what_says_it_is_another_plugin_does_not_come_to_serve() {
    expect_kept(&hostile("wrong-id"), "somebody-else");
}

/// A failure soon after the switch leads back: the call that was under way ends with the crash, and the next one is answered by the package
/// before, which the next daemon has as well.
#[test]
fn what_works_for_ten_calls_and_then_crashes_is_taken_back() {
    let daemon = serving("");
    let good = digest(&daemon);
    let mut watcher = daemon.agent();
    let events = watcher.begin("palisade", "events", &json!({"plugin": "hostile"}));
    hostile("tame").with("description", json!("new")).write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    let bad = digest(&daemon);
    assert_ne!(bad, good);
    (0..10).for_each(|_| expect_echo(&daemon, "hostile"));
    let crashed = error(daemon.agent().call("hostile", "abort", &json!(null)), ErrorCode::Crashed);
    expect_text(&crashed.message, "SIGABRT");
    let back = wait_for("the package before", || Some(passed_over(&daemon)).filter(|passed| !passed.is_null()));
    assert_eq!((&back["digest"], digest(&daemon)), (&bad, good.clone()));
    expect_text(back["reason"].as_str().expect("a sentence"), "it failed soon after it began to serve");
    expect_echo(&daemon, "hostile");
    let mut decoded: Vec<Value> = Vec::new();
    while !decoded.iter().any(|event| event["kind"] == "package_rolled_back") {
        let frame = watcher.next_of(events);
        if !frame.payload.is_empty() {
            decoded.push(palisade_tests::wire::decode(&frame.payload));
        }
    }
    assert_eq!(rescan(&daemon)["changed"], json!([]), "it is not tried again");
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    assert_eq!((digest(&daemon), passed_over(&daemon)), (good, back));
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// What served before can be returned to, by number, and what lies in the folder is not used until it changes.
#[test]
fn an_operator_returns_to_what_served_before() {
    let daemon = serving("");
    let first = digest(&daemon);
    for version in ["0.2.0", "0.3.0"] {
        hostile("tame")
            .with("version", json!(version))
            .environment("HOSTILE_VERSION", version)
            .write(&daemon.plugins(), daemon.marker());
        let found = rescan(&daemon);
        assert_eq!(found["added"], json!([format!("hostile {version}")]), "{found}");
    }
    let backups = || daemon.operate("backups", &json!({"plugin": "hostile"})).expect("it is there")["backups"].clone();
    let told = backups();
    let versions: Vec<_> = told.as_array().expect("a list").iter().map(|one| one["version"].clone()).collect();
    assert_eq!(versions, ["0.2.0", "0.1.0"], "{told}");
    assert_eq!(told[1]["digest"], first);
    let plan = daemon.operate("reload", &json!({"plugin": "hostile", "dry_run": true})).expect("it is there");
    assert_eq!(plan["reloads"][0]["steps"], json!(["stage", "start", "switch", "drain", "probation"]), "{plan}");
    assert_eq!(plan["reloads"][0]["reloaded"], json!(false));
    let returned =
        daemon.operate("rollback", &json!({"plugin": "hostile", "to": told[1]["number"]})).expect("it is kept");
    assert_eq!(
        (&returned["reloads"][0]["version"], &returned["reloads"][0]["digest"]),
        (&json!("0.1.0"), &first),
        "{returned}"
    );
    expect_echo(&daemon, "hostile");
    assert_eq!(rescan(&daemon)["added"], json!([]), "what lies in the folder is not used");
    let none = error(daemon.operate("rollback", &json!({"plugin": "hostile", "to": 99})), ErrorCode::InvalidParams);
    expect_text(&none.message, "hostile has no backup 99");
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    assert_eq!(digest(&daemon), first);
    expect_text(passed_over(&daemon)["reason"].as_str().expect("a sentence"), "has returned to 0.1.0");
    // By name it is used again.
    let asked = daemon.operate("reload", &json!({"plugin": "hostile"})).expect("it is there");
    assert_eq!(asked["reloads"][0]["version"], json!("0.3.0"), "{asked}");
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// A package whose calls fail, most of them, although those of the one before did not, is taken back as well.
#[test]
fn what_fails_most_of_its_calls_is_taken_back() {
    let daemon = serving("");
    let good = digest(&daemon);
    hostile("tame").with("description", json!("new")).write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    let mut agent = daemon.agent();
    for _ in 0..20 {
        error(agent.call("hostile", "fail", &json!(null)), ErrorCode::ExecutionFailed);
    }
    let back = wait_for("the package before", || Some(passed_over(&daemon)).filter(|passed| !passed.is_null()));
    assert_eq!(digest(&daemon), good);
    expect_text(back["reason"].as_str().expect("a sentence"), "20 of its first 20 calls failed");
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// A daemon that is killed before any step of a reload, each in turn, is followed by one that serves the old package or the new one, whole; and
/// of a package that fails the new daemon comes to the same end as this one would have.
fn killed_before_each_step(makes: impl Fn(usize) -> Package, expect: impl Fn(&Daemon, &Value, usize)) {
    // Emulated, a daemon takes its time to start.
    let stride = if in_the_guest() { 9 } else { 2 };
    let mut daemon = serving("");
    let good = digest(&daemon);
    // Now it is known to the next daemon what serves.
    rescan(&daemon);
    for step in (0..).step_by(stride) {
        // Its contents are others each time, so that nothing of it is in the store, nor known to be bad.
        makes(step).write(&daemon.plugins(), daemon.marker());
        let mut agent = daemon.agent();
        let traced = match Traced::of(daemon.pid()) {
            Ok(traced) => traced,
            Err(error) => {
                println!("SKIPPED: the daemon cannot be traced here: {error}");
                return;
            }
        };
        let over = AtomicBool::new(false);
        let came_so_far = std::thread::scope(|scope| {
            scope.spawn(|| {
                let id = agent.begin("palisade", "rescan", &json!({}));
                while let Ok(Next::Frame(frame)) = agent.next(BOUND) {
                    if frame.id == id {
                        over.store(true, Ordering::SeqCst);
                    }
                }
            });
            traced.kill_before(step, || over.load(Ordering::SeqCst))
        });
        let folder = daemon.kill_nine();
        daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration("watch = false\n"));
        // Whatever it was in the middle of, calls are answered.
        expect_echo(&daemon, "hostile");
        // What the daemon before was trying is tried.
        rescan(&daemon);
        wait_for("the end of what was being tried", || {
            let passed = passed_over(&daemon);
            (passed.is_null() || passed["reason"] != "it was changed and has not been tried yet").then_some(())
        });
        expect(&daemon, &good, step);
        expect_echo(&daemon, "hostile");
        if !came_so_far {
            break;
        }
        // Back to the beginning.
        hostile("tame").write(&daemon.plugins(), daemon.marker());
        rescan(&daemon);
        expect_echo(&daemon, "hostile");
        assert_eq!(digest(&daemon), good, "step {step}");
    }
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn a_daemon_that_is_killed_before_each_step_of_a_reload() {
    killed_before_each_step(
        |step| hostile("tame").with("description", json!(format!("made at {step}"))),
        |daemon, good, step| {
            assert_ne!(digest(daemon), *good, "step {step}: the new one serves in the end");
            assert_eq!(passed_over(daemon), Value::Null, "step {step}");
        },
    );
}

#[test]
fn a_daemon_that_is_killed_before_each_step_of_a_reload_that_fails() {
    killed_before_each_step(
        |step| hostile("exit-at-once").with("description", json!(format!("made at {step}"))),
        |daemon, good, step| {
            assert_eq!(digest(daemon), *good, "step {step}: the old one serves in the end");
            assert!(passed_over(daemon).is_object(), "step {step}");
        },
    );
}
