//! What becomes of a plugin whose package is exchanged while it is in use.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use palisade_protocol::{ErrorBody, ErrorCode};
use palisade_tests::daemon::{Daemon, DaemonOptions, other_user, wait_for};
use palisade_tests::package::{Entry, Package};
use palisade_tests::process;
use palisade_tests::steps::Traced;
use palisade_tests::wire::{Agent, BOUND, Next, Received, decode};
use serde_json::{Value, json};

use crate::power::Over;
use crate::state::{ask, get, put};
use crate::support::{Disk, error, expect_echo, expect_text, expect_tried, follow, hostile, in_the_guest, next_event};

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
    let call = |agent: &mut Agent| agent.begin("counting", "count", &json!(null));
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

pub(crate) fn digest(daemon: &Daemon) -> Value {
    daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known")["snapshot"]["digest"].clone()
}

fn passed_over(daemon: &Daemon) -> Value {
    daemon.operate("status", &json!({"plugin": "hostile"})).expect("it is known")["passed_over"].clone()
}

/// What the audit trail has of the plugin, the oldest first.
fn trail(daemon: &Daemon) -> Vec<String> {
    let trail = daemon.operate("audit", &json!({"plugin": "hostile"})).expect("it is known");
    let entries = trail["entries"].as_array().expect("a list").iter();
    entries.map(|entry| format!("{} {}", entry["who"], entry["what"]).replace('"', "")).collect()
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
    assert_eq!(trail(&daemon).last().map(String::as_str), Some("palisade pass_over"));
    assert_eq!(daemon.status("hostile").process_id(), before.process_id());
    // The next daemon has what served, and says why.
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    assert_eq!((digest(&daemon), passed_over(&daemon)), (good.clone(), told_over));
    expect_echo(&daemon, "hostile");
    // Whoever asks for it by name has it tried, and hears the same.
    let asked = daemon.operate("reload", &json!({"plugin": "hostile"})).expect("it is there");
    assert_eq!((&asked["reloads"][0]["reloaded"], &asked["reloads"][0]["digest"]), (&json!(false), &good), "{asked}");
    expect_text(asked["reloads"][0]["reason"].as_str().expect("a sentence"), told);
    let last = trail(&daemon).pop().expect("it was done");
    assert!(last.starts_with("uid:") && last.ends_with(" pass_over"), "by whom it was asked for: {last}");
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

/// A program that is written in pieces, each quiet for long enough, begins like the whole one. No half of it serves, and none takes the place of
/// what is kept to return to; the next daemon knows it as well, and the whole one serves.
#[test]
fn a_program_that_is_not_whole_does_not_come_to_serve() {
    let daemon = serving("");
    let (good, process) = (digest(&daemon), daemon.status("hostile").process_id());
    let program = daemon.plugins().join("hostile/main");
    let beside = daemon.plugins().join("hostile/.main.new");
    let whole = std::fs::read(&program).expect("it is there");
    let backups = |daemon: &Daemon| daemon.operate("backups", &json!({"plugin": "hostile"})).expect("it is there");
    let (kept, entries) = (backups(&daemon), trail(&daemon));
    let mut watcher = daemon.agent();
    let events = follow(&mut watcher);
    // As `cp` begins, and goes on.
    for length in [whole.len() / 2, 2 * whole.len() / 3, whole.len() - 100] {
        std::fs::write(&beside, &whole[..length]).expect("it is ours");
        std::fs::set_permissions(&beside, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
        std::fs::rename(&beside, &program).expect("it is ours");
        let found = rescan(&daemon);
        assert_eq!((&found["changed"], &found["removed"]), (&json!([]), &json!([])), "{length}: {found}");
        assert_eq!(found["kept"][0]["plugin"], "hostile 0.1.0", "{length}: {found}");
        let told = format!("main is not whole: its headers say {} bytes, and it has {length};", whole.len());
        let reason = passed_over(&daemon)["reason"].as_str().expect("a sentence").to_owned();
        if length == whole.len() - 100 {
            expect_text(&reason, &told);
        } else {
            expect_text(&reason, "main is not whole: its headers say ");
        }
        assert_eq!(next_event(&mut watcher, events, "package_kept")["reason"], json!(reason));
        assert_eq!(rescan(&daemon)["kept"], json!([]), "{length}: it is told once");
        assert_eq!((digest(&daemon), daemon.status("hostile").process_id()), (good.clone(), process), "{length}");
        expect_echo(&daemon, "hostile");
        assert_eq!((backups(&daemon), trail(&daemon)), (kept.clone(), entries.clone()), "{length}");
    }
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    expect_text(passed_over(&daemon)["reason"].as_str().expect("a sentence"), "is not whole");
    expect_echo(&daemon, "hostile");
    assert_eq!(digest(&daemon), good);
    hostile("tame").with("description", json!("whole")).write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    assert_eq!(passed_over(&daemon), Value::Null);
    assert_ne!(digest(&daemon), good);
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// What is no package any more, or not yet, is none of the reasons to end what serves either.
#[test]
fn a_folder_that_holds_no_package_any_more_does_not_come_to_serve() {
    let daemon = serving("");
    let (good, process) = (digest(&daemon), daemon.status("hostile").process_id());
    let manifest = daemon.plugins().join("hostile/plugin.json");
    let whole = std::fs::read(&manifest).expect("it is there");
    std::fs::write(&manifest, &whole[..whole.len() / 2]).expect("it is ours");
    let found = rescan(&daemon);
    assert_eq!((&found["removed"], &found["changed"]), (&json!([]), &json!([])), "{found}");
    expect_text(found["rejected"][0]["reason"].as_str().expect("a sentence"), "plugin.json");
    expect_text(passed_over(&daemon)["reason"].as_str().expect("a sentence"), "plugin.json");
    expect_echo(&daemon, "hostile");
    assert_eq!((digest(&daemon), daemon.status("hostile").process_id()), (good.clone(), process));
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    expect_text(passed_over(&daemon)["reason"].as_str().expect("a sentence"), "plugin.json");
    assert_eq!(digest(&daemon), good);
    expect_echo(&daemon, "hostile");
    // Another program beside it would not be used either; whole again, it is what it was.
    std::fs::write(&manifest, whole).expect("it is ours");
    assert_eq!(rescan(&daemon)["changed"], json!([]));
    assert_eq!(passed_over(&daemon), Value::Null);
    // Its folder is gone: so is the plugin.
    std::fs::remove_dir_all(daemon.plugins().join("hostile")).expect("it is ours");
    assert_eq!(rescan(&daemon)["removed"], json!(["hostile 0.1.0"]));
    daemon.stop_and_expect_no_orphans();
}

/// Nor is a folder in which there is no manifest, or nothing at all, as while a package is written anew: until the folder itself is gone.
#[test]
fn a_folder_without_a_manifest_ends_nothing() {
    const WHY: &str = "there is no plugin.json in it";
    let daemon = serving("");
    let (good, process) = (digest(&daemon), daemon.status("hostile").process_id());
    let folder = daemon.plugins().join("hostile");
    std::fs::rename(folder.join("plugin.json"), daemon.path().join("aside.json")).expect("it is ours");
    for is_empty in [false, true] {
        if is_empty {
            std::fs::remove_dir_all(&folder).expect("it is ours");
            std::fs::create_dir(&folder).expect("it is ours");
        }
        let found = rescan(&daemon);
        assert_eq!((&found["removed"], &found["changed"]), (&json!([]), &json!([])), "{found}");
        assert_eq!((&found["rejected"][0]["reason"], &passed_over(&daemon)["reason"]), (&json!(WHY), &json!(WHY)));
        expect_echo(&daemon, "hostile");
        assert_eq!((digest(&daemon), daemon.status("hostile").process_id()), (good.clone(), process));
    }
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    assert_eq!((digest(&daemon), &passed_over(&daemon)["reason"]), (good.clone(), &json!(WHY)));
    expect_echo(&daemon, "hostile");
    // The new package is tried like any other.
    hostile("tame").with("description", json!("new")).write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    assert_ne!(digest(&daemon), good);
    assert_eq!(passed_over(&daemon), Value::Null);
    // What has left does not come back for a folder of its name.
    std::fs::remove_dir_all(&folder).expect("it is ours");
    assert_eq!(rescan(&daemon)["removed"], json!(["hostile 0.1.0"]));
    std::fs::create_dir(&folder).expect("it is ours");
    assert_eq!(rescan(&daemon)["added"], json!([]));
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::PluginNotFound);
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn what_is_not_healthy_does_not_come_to_serve() {
    expect_kept(&hostile("unhealthy"), "healthy");
}

#[test]
fn what_fails_its_test_of_itself_does_not_come_to_serve() {
    expect_kept(&hostile("fails-its-test"), "it cannot do its work");
    // It is asked for that while it is tried, and not when it is all there is.
    let daemon = Daemon::with([hostile("fails-its-test")]);
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
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
            decoded.push(decode(&frame.payload));
        }
    }
    assert_eq!(rescan(&daemon)["changed"], json!([]), "it is not tried again");
    assert_eq!(trail(&daemon), ["palisade reload", "palisade rollback"]);
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    assert_eq!((digest(&daemon), passed_over(&daemon)), (good, back));
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// For how long a failure leads back, and how much is kept, is what the operator says of all plugins or of one.
#[test]
fn an_operator_says_how_long_a_failure_leads_back_and_how_much_is_kept() {
    let configuration = "watch = false\n[reload]\nbackups = 2\nprobation_seconds = 86400\n\
                         [plugins.short.reload]\nbackups = 3\nprobation_seconds = 1\n";
    let of = |plugin: &str, edition: usize| {
        Package::hostile(plugin, "tame").with("description", json!(format!("edition {edition}")))
    };
    let plugins = ["short", "long"];
    let daemon = Daemon::start(DaemonOptions::with(plugins.map(|plugin| of(plugin, 0))).configuration(configuration));
    plugins.iter().for_each(|plugin| expect_echo(&daemon, plugin));
    for edition in 1..=4 {
        for plugin in plugins {
            of(plugin, edition).write(&daemon.plugins(), daemon.marker());
        }
        assert_eq!(rescan(&daemon)["changed"], json!(["long 0.1.0", "short 0.1.0"]), "edition {edition}");
    }
    let backups = |plugin: &str| {
        let told = daemon.operate("backups", &json!({ "plugin": plugin })).expect("it is there")["backups"].clone();
        told.as_array().map(Vec::len)
    };
    assert_eq!((backups("short"), backups("long")), (Some(3), Some(2)));
    let digest = |plugin: &str| {
        let told = daemon.operate("info", &json!({ "plugin": plugin })).expect("it is known");
        told["snapshot"]["digest"].as_str().expect("it has one").to_owned()
    };
    let (short, long) = (digest("short"), digest("long"));
    // What served is remembered once nothing leads back any more.
    let is_noted = |plugin: &str, digest: &str| {
        // The daemon has it for itself; a copy that was made in the middle of a write is of no use.
        let copy = tempfile::tempdir().expect("there is room");
        for name in ["registry.sqlite3", "registry.sqlite3-wal"] {
            std::fs::copy(daemon.path().join("state").join(name), copy.path().join(name)).ok()?;
        }
        let registry = rusqlite::Connection::open(copy.path().join("registry.sqlite3"));
        let noted = registry.and_then(|registry| {
            let mut noted = registry.prepare("SELECT 1 FROM serving WHERE id = ?1 AND digest = ?2")?;
            noted.exists([plugin, digest])
        });
        noted.ok()
    };
    wait_for("the end of its probation", || is_noted("short", &short).filter(|noted| *noted));
    assert!(!wait_for("a copy of the database", || is_noted("long", &long)), "it has a day");
    for plugin in plugins {
        error(daemon.agent().call(plugin, "abort", &json!(null)), ErrorCode::Crashed);
    }
    wait_for("the package before", || (digest("long") != long).then_some(()));
    plugins.iter().for_each(|plugin| expect_echo(&daemon, plugin));
    assert_eq!(digest("short"), short);
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
    assert_eq!(
        plan["reloads"][0]["steps"],
        json!(["stage", "verify", "start", "hello", "initialize", "self_test", "switch", "drain", "stop", "probation"]),
        "{plan}"
    );
    assert_eq!(plan["reloads"][0]["reloaded"], json!(false));
    let returned =
        daemon.operate("rollback", &json!({"plugin": "hostile", "to": told[1]["number"]})).expect("it is kept");
    assert_eq!(
        (&returned["reloads"][0]["version"], &returned["reloads"][0]["digest"]),
        (&json!("0.1.0"), &first),
        "{returned}"
    );
    expect_echo(&daemon, "hostile");
    let done = trail(&daemon).pop().expect("it was done");
    assert!(done.starts_with("uid:") && done.ends_with(" rollback"), "{done}");
    assert_eq!(rescan(&daemon)["added"], json!([]), "what lies in the folder is not used");
    let none = error(daemon.operate("rollback", &json!({"plugin": "hostile", "to": 99})), ErrorCode::InvalidParams);
    expect_text(&none.message, "hostile has no backup 99");
    assert_eq!(none.hint.as_deref(), Some("`palisade backups hostile` lists them"));
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
    // No caller has a part in it: neither by its own deadline, nor as it wants no answer any more.
    for _ in 0..30 {
        let late = agent.call_within("hostile", "wait", &json!(null), std::time::Duration::from_millis(1));
        error(late, ErrorCode::Timeout);
    }
    for _ in 0..20 {
        error(agent.call("hostile", "fail", &json!(null)), ErrorCode::ExecutionFailed);
    }
    let back = wait_for("the package before", || Some(passed_over(&daemon)).filter(|passed| !passed.is_null()));
    assert_eq!(digest(&daemon), good);
    expect_text(back["reason"].as_str().expect("a sentence"), "20 of its first 20 calls failed");
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// Kills the daemon before that step of what the agent has it do, and says whether it came so far before a frame says that it is over; nothing
/// where a daemon cannot be traced.
pub(crate) fn kill_while(
    daemon: &Daemon,
    mut agent: Agent,
    step: usize,
    begin: impl FnOnce(&mut Agent) -> u64,
    ends: impl Fn(u64, &Received) -> bool + Sync,
) -> Option<bool> {
    let traced = Traced::unless_skipped(daemon.pid())?;
    daemon.is_to_be_cut();
    // It stands still until its steps are looked at, and what it has done of its own accord before this was said ends none of it.
    let id = begin(&mut agent);
    let over = AtomicBool::new(false);
    Some(std::thread::scope(|scope| {
        scope.spawn(|| {
            while let Ok(Next::Frame(frame)) = agent.next(BOUND) {
                if ends(id, &frame) {
                    over.store(true, Ordering::SeqCst);
                }
            }
        });
        traced.kill_before(step, || over.load(Ordering::SeqCst))
    }))
}

/// Kills it before that step of a look at the plugin directories and of what follows from it.
fn kill_while_it_looks(daemon: &Daemon, step: usize) -> Option<bool> {
    let look = |agent: &mut Agent| agent.begin("palisade", "rescan", &json!({}));
    kill_while(daemon, daemon.agent(), step, look, |look, frame| frame.id == look)
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
        let Some(came_so_far) = kill_while_it_looks(&daemon, step) else { return };
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
            let reason = passed_over(daemon)["reason"].as_str().expect("a sentence").to_owned();
            assert!(reason.contains("exited"), "step {step}: {reason}");
        },
    );
}

/// A package that cannot be used before somebody has done something: what served goes on, with its process, and says why.
#[track_caller]
fn expect_waiting(daemon: &Daemon, told: &str) {
    let (good, process) = (digest(daemon), daemon.status("hostile").process_id());
    let found = rescan(daemon);
    assert_eq!(found["changed"], json!([]), "{found}");
    expect_text(found["kept"][0]["reason"].as_str().expect("a sentence"), told);
    expect_text(passed_over(daemon)["reason"].as_str().expect("a sentence"), told);
    expect_echo(daemon, "hostile");
    assert_eq!((digest(daemon), daemon.status("hostile").process_id()), (good, process));
}

/// Where what is said has another version take the place of the one that it was said of, the answer is about that one.
#[test]
fn a_word_that_lets_another_version_serve_is_answered() {
    for word in ["grant", "revoke"] {
        let asking = |version: &str, asks: &Value| {
            let package = Package::hostile("hostile", "tame").asking(asks).with("version", json!(version));
            package.environment("HOSTILE_VERSION", version)
        };
        let configuration = "watch = false\n[permissions]\n";
        let first = asking("0.1.0", &json!([]));
        let daemon = Daemon::start(DaemonOptions::with([first]).configuration(configuration));
        expect_echo(&daemon, "hostile");
        asking("0.1.1", &json!([{ "file_read": ["/srv"] }])).write(&daemon.plugins(), daemon.marker());
        rescan(&daemon);
        let what = json!({"plugin": "hostile", "permissions": ["file_read:/srv"]});
        let said = daemon.operate(word, &what).unwrap_or_else(|error| panic!("{word}: {error}"));
        assert_eq!((&said["version"], &said["awaits_consent"]), (&json!("0.1.1"), &json!(false)), "{said}");
        expect_echo(&daemon, "hostile");
        daemon.stop_and_expect_no_orphans();
    }
}

/// An update that asks for more takes nothing away: it is asked about while the old package serves, and tried once that is granted.
#[test]
fn what_asks_for_a_new_permission_waits_for_it_beside_what_serves() {
    let asking = |behaviour: &str, paths: &[&str]| {
        let asks = if paths.is_empty() { json!([]) } else { json!([{ "file_read": paths }]) };
        Package::hostile("hostile", behaviour).asking(&asks)
    };
    let configuration = "watch = false\n[permissions]\n";
    let daemon = Daemon::start(DaemonOptions::with([asking("tame", &[])]).configuration(configuration));
    expect_echo(&daemon, "hostile");
    let good = digest(&daemon);
    asking("tame", &["/srv"]).write(&daemon.plugins(), daemon.marker());
    expect_waiting(&daemon, "waits for its operator's consent to file_read:/srv");
    let asked = || {
        let pending = daemon.operate("pending", &json!({})).expect("there is a list")["plugins"].clone();
        let decided: Vec<_> =
            pending.as_array().expect("a list").iter().map(|one| one["permissions"][0].clone()).collect();
        decided.iter().map(|one| format!("{} {}", one["permission"], one["decision"])).collect::<Vec<_>>()
    };
    assert_eq!(asked(), [r#""file_read:/srv" "asked""#]);
    assert_eq!(trail(&daemon), ["palisade await_consent"], "once");
    // It waits in the next daemon, too, and is asked about once.
    let folder = daemon.kill_nine();
    let daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration(configuration));
    expect_tried(&daemon, "hostile");
    expect_echo(&daemon, "hostile");
    expect_waiting(&daemon, "waits for its operator's consent to file_read:/srv");
    // As `palisade grant` names it.
    let waiting = json!({"plugin": "hostile", "version": "=0.1.0"});
    let granted = daemon.operate("grant", &waiting).expect("it is asked about");
    assert_eq!(granted["awaits_consent"], false);
    assert_ne!(digest(&daemon), good, "it was tried at once");
    assert_eq!(passed_over(&daemon), Value::Null);
    expect_echo(&daemon, "hostile");

    // What is refused is not asked about any more, and it is tried without.
    asking("tame", &["/srv", "/opt"]).write(&daemon.plugins(), daemon.marker());
    expect_waiting(&daemon, "waits for its operator's consent to file_read:/opt");
    let before = digest(&daemon);
    daemon
        .operate("revoke", &json!({"plugin": "hostile", "permissions": ["file_read:/opt"]}))
        .expect("it is asked for");
    assert_ne!(digest(&daemon), before, "it was tried at once");

    // One that is granted something and does not serve all the same says so, and changes nothing.
    let broken =
        hostile("exit-at-once").with("permissions_required", json!([{ "permission": "file_read", "scope": ["/mnt"] }]));
    broken.write(&daemon.plugins(), daemon.marker());
    expect_waiting(&daemon, "waits for its operator's consent to file_read:/mnt");
    let refused = error(daemon.operate("grant", &json!({"plugin": "hostile"})), ErrorCode::InitializationFailed);
    expect_text(&refused.message, "hostile 0.1.0 does not serve all the same: ");
    expect_echo(&daemon, "hostile");
    // What is taken back is not asked about any more.
    asking("tame", &["/mnt", "/media"]).write(&daemon.plugins(), daemon.marker());
    expect_waiting(&daemon, "waits for its operator's consent to file_read:/media");
    asking("tame", &["/srv", "/opt"]).write(&daemon.plugins(), daemon.marker());
    rescan(&daemon);
    assert_eq!(daemon.operate("pending", &json!({})).expect("there is a list")["plugins"], json!([]));
    expect_echo(&daemon, "hostile");
    // Of another version than the one that serves, it is that version which is asked about.
    let newer = asking("tame", &["/srv", "/home"]).with("version", json!("0.1.1"));
    newer.environment("HOSTILE_VERSION", "0.1.1").write(&daemon.plugins(), daemon.marker());
    expect_waiting(&daemon, "waits for its operator's consent to file_read:/home");
    let waiting = json!({"plugin": "hostile", "version": "=0.1.1"});
    let granted = daemon.operate("grant", &waiting).expect("it is asked about");
    assert_eq!((&granted["version"], &granted["awaits_consent"]), (&json!("0.1.1"), &json!(false)), "{granted}");
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// So does one that lacks what it depends on, and one that cannot have the configuration that there is.
#[test]
fn what_cannot_be_started_here_waits_beside_what_serves() {
    let daemon = serving("");
    let needs = json!({"plugins": [{"id": "absent", "version": "^1"}]});
    hostile("tame").with("dependencies", needs).write(&daemon.plugins(), daemon.marker());
    expect_waiting(&daemon, "absent");
    let schema = json!({"type": "object", "required": ["depth"], "properties": {"depth": {"type": "integer"}}});
    hostile("tame").with("configuration_schema", schema).write(&daemon.plugins(), daemon.marker());
    expect_waiting(&daemon, "depth");
    // Another one in its place is tried as always.
    hostile("tame").with("description", json!("mended")).write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    assert_eq!(passed_over(&daemon), Value::Null);
    daemon.stop_and_expect_no_orphans();
}

fn edition(version: &str, behaviour: &str) -> Package {
    Package::hostile("guest", behaviour).with("version", json!(version)).environment("HOSTILE_VERSION", version)
}

fn install(daemon: &Daemon, package: &Package) -> Result<Value, ErrorBody> {
    let folder = package.write(&daemon.path().join("elsewhere"), daemon.marker());
    daemon.operate("install", &json!({ "path": folder }))
}

/// The versions of the installed plugin, as `version enabled`.
fn installed(daemon: &Daemon) -> Vec<String> {
    let list = daemon.operate("list", &json!({})).expect("there is a list");
    let plugins = list["plugins"].as_array().expect("a list").iter().filter(|one| one["id"] == "guest");
    plugins.map(|one| format!("{} {}", one["version"].as_str().expect("a text"), one["enabled"])).collect()
}

/// A newer version of an installed plugin is tried beside the one that serves as well: what does not serve is not installed.
#[test]
fn a_newer_version_that_does_not_serve_is_not_installed() {
    let daemon = Daemon::with([Package::echo()]);
    install(&daemon, &edition("1.0.0", "tame")).expect("it can be used");
    expect_echo(&daemon, "guest");
    let process = daemon.process_of("guest");
    let told = "guest 1.1.0 does not serve, and 1.0.0 goes on: ";
    let refused = error(install(&daemon, &edition("1.1.0", "abort-at-once")), ErrorCode::InitializationFailed);
    expect_text(&refused.message, told);
    expect_text(&refused.message, "SIGABRT");
    let folder = edition("1.1.0", "exit-at-once").write(&daemon.path().join("elsewhere"), daemon.marker());
    let update = json!({"plugin": "guest", "path": folder});
    expect_text(&error(daemon.operate("update", &update), ErrorCode::InitializationFailed).message, told);
    assert_eq!((installed(&daemon), daemon.process_of("guest")), (vec!["1.0.0 true".to_owned()], process));
    let records = daemon.path().join("state/installed");
    assert_eq!(std::fs::read_dir(records).expect("it is there").count(), 1, "there is no record of it");
    // One that is not to be used before somebody says so is not tried, nor one after a version that is stopped.
    install(&daemon, &edition("1.2.0", "exit-at-once").with("default_enabled", json!(false))).expect("nobody uses it");
    daemon.operate("stop", &json!({"plugin": "guest", "version": "=1.0.0"})).expect("it runs");
    install(&daemon, &edition("1.3.0", "exit-at-once")).expect("nothing is to go on");
    daemon.operate("uninstall", &json!({"plugin": "guest", "version": "=1.3.0"})).expect("it is there");
    daemon.operate("start", &json!({"plugin": "guest", "version": "=1.0.0"})).expect("it was stopped");
    // A good one serves with the process that was tried.
    install(&daemon, &edition("1.4.0", "tame")).expect("it can be used");
    let status = daemon.operate("status", &json!({"plugin": "guest"})).expect("it is known");
    assert_eq!((&status["version"], &status["state"]), (&json!("1.4.0"), &json!("active")));
    let process = daemon.process_of("guest");
    expect_echo(&daemon, "guest");
    assert_eq!(daemon.process_of("guest"), process);
    // Who wants the one before is told how, where there is no backup.
    let none = error(daemon.operate("rollback", &json!({"plugin": "guest", "to": 99})), ErrorCode::InvalidParams);
    expect_text(&none.hint.expect("there is one"), "`palisade disable guest@1.4.0` returns to the version before");
    daemon.stop_and_expect_no_orphans();
}

/// One that fails soon after it was installed takes no calls any more, also by the next daemon: those before do.
#[test]
fn an_installed_version_that_fails_soon_after_takes_no_calls_any_more() {
    let daemon = Daemon::with([Package::echo()]);
    install(&daemon, &edition("1.0.0", "tame")).expect("it can be used");
    expect_echo(&daemon, "guest");
    install(&daemon, &edition("1.1.0", "tame")).expect("it can be used");
    (0..10).for_each(|_| expect_echo(&daemon, "guest"));
    error(daemon.agent().call("guest", "abort", &json!(null)), ErrorCode::Crashed);
    wait_for("the version before", || (installed(&daemon) == ["1.0.0 true", "1.1.0 false"]).then_some(()));
    expect_echo(&daemon, "guest");
    let status = daemon.operate("status", &json!({"plugin": "guest"})).expect("it is known");
    assert_eq!(status["version"], "1.0.0");
    expect_text(
        status["passed_over"]["reason"].as_str().expect("a sentence"),
        "it failed soon after it began to serve",
    );
    assert_eq!(status["passed_over"]["version"], "1.1.0", "it does not lie in the folder of the one before");
    let report = daemon.operate("doctor", &json!({})).expect("it looks")["checks"].to_string();
    expect_text(&report, "guest 1.0.0 goes on as it was, and 1.1.0 beside it is not used: it failed soon after");
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()));
    assert_eq!(installed(&daemon), ["1.0.0 true", "1.1.0 false"]);
    expect_echo(&daemon, "guest");
    // Whoever enables it has it again.
    daemon.operate("enable", &json!({"plugin": "guest", "version": "=1.1.0"})).expect("it is there");
    let status = daemon.operate("status", &json!({"plugin": "guest"})).expect("it is known");
    assert_eq!(status["version"], "1.1.0");
    expect_echo(&daemon, "guest");
    daemon.stop_and_expect_no_orphans();
}

/// A package whose state has that form, and that asks for these before it is ready.
fn keeping(schema: u32, asks: &[Value], behaviour: &str) -> Package {
    let package = hostile(behaviour).with("state", json!({ "schema_version": schema }));
    if asks.is_empty() { package } else { package.environment("HOSTILE_ASKS", &json!({ "asks": asks }).to_string()) }
}

/// One that brings what is there into the form 2.
pub(crate) fn migrating() -> Package {
    let migrated = json!({"op": "state.migrated", "params": {"schema": 2}});
    keeping(2, &[put("a", &json!("two")), migrated], "asks-before-ready")
}

pub(crate) fn kept_state(daemon: &Daemon) -> Value {
    ask(daemon, "hostile", &[get("a")])[0]["ok"]["value"].clone()
}

/// In the form 1, with a value.
pub(crate) fn keeping_one(configuration: &str) -> Daemon {
    let configuration = format!("watch = false\n{configuration}");
    let daemon = Daemon::start(DaemonOptions::with([keeping(1, &[], "tame")]).configuration(&configuration));
    ask(&daemon, "hostile", &[put("a", &json!("one"))]);
    daemon
}

/// Two processes of a plugin that must not run twice never do: calls wait while none runs, and go to the old package where the new one fails.
#[test]
fn an_exclusive_plugin_stops_before_the_new_one_starts() {
    let exclusive = |behaviour: &str| {
        let limits = json!({"start_timeout_seconds": 2});
        hostile(behaviour).with("exclusive", json!(true)).with("limits", limits)
    };
    let daemon = Daemon::start(DaemonOptions::with([exclusive("tame")]).configuration("watch = false\n"));
    expect_echo(&daemon, "hostile");
    let good = digest(&daemon);
    let plan = daemon.operate("reload", &json!({"plugin": "hostile", "dry_run": true})).expect("it is there");
    let steps = [
        "stage",
        "verify",
        "hold",
        "drain",
        "stop",
        "start",
        "hello",
        "initialize",
        "self_test",
        "switch",
        "probation",
    ];
    assert_eq!(plan["reloads"][0]["steps"], json!(steps), "{plan}");
    let process = process::identity(daemon.process_of("hostile")).expect("it runs");
    exclusive("never-ready").write(&daemon.plugins(), daemon.marker());
    std::thread::scope(|scope| {
        let looking = scope.spawn(|| rescan(&daemon));
        wait_for("the end of the old process", || (!process::is_alive(process)).then_some(()));
        // It waits, and is answered by the old package.
        expect_echo(&daemon, "hostile");
        let found = looking.join().expect("it looks");
        expect_text(found["kept"][0]["reason"].as_str().expect("a sentence"), "ready");
    });
    assert_eq!(digest(&daemon), good);
    let process = process::identity(daemon.process_of("hostile")).expect("it runs again");
    let mut agent = daemon.agent();
    let under_way = agent.begin("hostile", "sleep-blocking", &json!(null));
    exclusive("tame").with("description", json!("new")).write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    agent.finish(under_way).expect("what was under way has ended well");
    assert!(!process::is_alive(process));
    expect_echo(&daemon, "hostile");
    // A failure in probation leads back as always.
    error(daemon.agent().call("hostile", "abort", &json!(null)), ErrorCode::Crashed);
    wait_for("the package before", || (digest(&daemon) == good).then_some(()));
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// Before a package serves it has a copy of what the plugin keeps: nobody is told of what it writes there.
#[test]
fn what_is_tried_writes_to_a_copy_of_the_state() {
    let daemon = keeping_one("");
    keeping(1, &[put("a", &json!("tried"))], "asks-before-ready").write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    assert_eq!(kept_state(&daemon), "one");
    ask(&daemon, "hostile", &[put("a", &json!("served"))]);
    assert_eq!(kept_state(&daemon), "served");
    // What was kept then is there with the package that served, and comes back with it only if that is asked for.
    let backup =
        || daemon.operate("backups", &json!({"plugin": "hostile"})).expect("it is there")["backups"][0].clone();
    assert_eq!(backup()["with_state"], true);
    daemon.operate("rollback", &json!({"plugin": "hostile"})).expect("there is one");
    assert_eq!(kept_state(&daemon), "served");
    daemon.operate("reload", &json!({"plugin": "hostile"})).expect("it is there");
    ask(&daemon, "hostile", &[put("a", &json!("later"))]);
    let older = json!({"plugin": "hostile", "with_state": true});
    daemon.operate("rollback", &older).expect("there is one");
    assert_eq!(kept_state(&daemon), "served", "as it was when the package that returns served last");
    let reason = backup()["reason"].as_str().expect("a sentence").to_owned();
    let aside = reason.split("what it had written is kept in ").nth(1).expect("it is named");
    assert!(std::path::Path::new(aside).exists(), "{reason}");
    daemon.stop_and_expect_no_orphans();
}

/// A migration is rehearsed on a copy: one that cannot be made changes nothing, and what serves does not notice.
#[test]
fn what_cannot_migrate_the_state_does_not_come_to_serve() {
    let daemon = keeping_one("");
    let (good, process) = (digest(&daemon), daemon.process_of("hostile"));
    let interrupted = keeping(2, &[put("a", &json!("half"))], "asks-before-ready");
    let told = "its state has schema 1 and has to be brought into schema 2";
    for bad in [keeping(2, &[], "tame"), interrupted] {
        bad.write(&daemon.plugins(), daemon.marker());
        let found = rescan(&daemon);
        expect_text(found["kept"][0]["reason"].as_str().expect("a sentence"), told);
        assert_eq!(passed_over(&daemon)["reason"], found["kept"][0]["reason"]);
        assert_eq!((digest(&daemon), daemon.process_of("hostile")), (good.clone(), process));
        assert_eq!(kept_state(&daemon), "one");
    }
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    assert_eq!((digest(&daemon), kept_state(&daemon)), (good, json!("one")));
    expect_text(passed_over(&daemon)["reason"].as_str().expect("a sentence"), told);
    daemon.stop_and_expect_no_orphans();
}

/// One that migrates the state and fails soon after is taken back with what was kept before; what was written since is put aside. So it is where
/// a daemon was killed meanwhile, unless the time is over by then.
#[test]
fn what_migrates_the_state_into_nonsense_is_taken_back_with_the_state() {
    let again = |daemon: Daemon, seconds: u32| {
        let configuration = format!("watch = false\n[reload]\nprobation_seconds = {seconds}\n");
        Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration(&configuration))
    };
    let probation = |daemon: &Daemon| {
        let status = daemon.operate("status", &json!({"plugin": "hostile"})).expect("it is known");
        status["probation"].clone()
    };
    for is_killed in [false, true] {
        let mut daemon = keeping_one("");
        let good = digest(&daemon);
        migrating().write(&daemon.plugins(), daemon.marker());
        assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
        assert_eq!(kept_state(&daemon), "two");
        ask(&daemon, "hostile", &[put("a", &json!("nonsense"))]);
        if is_killed {
            let before = probation(&daemon);
            daemon = again(daemon, 300);
            // It brings the state over once more, as it does at every start.
            assert_eq!(kept_state(&daemon), "two");
            let now = wait_for("its probation", || Some(probation(&daemon)).filter(|now| !now.is_null()));
            assert_eq!((&now["digest"], &now["state"]), (&json!(good), &before["state"]), "{now}");
        }
        error(daemon.agent().call("hostile", "abort", &json!(null)), ErrorCode::Crashed);
        let back = wait_for("the package before", || Some(passed_over(&daemon)).filter(|passed| !passed.is_null()));
        assert_eq!((digest(&daemon), kept_state(&daemon)), (good.clone(), json!("one")));
        let reason = back["reason"].as_str().expect("a sentence");
        expect_text(reason, "it failed soon after it began to serve");
        let aside = reason.split("what was written since is kept in ").nth(1).expect("it is named");
        assert!(std::path::Path::new(aside).exists(), "{reason}");
        let daemon = again(daemon, 300);
        assert_eq!((digest(&daemon), kept_state(&daemon)), (good, json!("one")));
        daemon.stop_and_expect_no_orphans();
    }
    let daemon = keeping_one("");
    migrating().write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    let bad = digest(&daemon);
    let daemon = again(daemon, 1);
    assert_eq!(kept_state(&daemon), "two");
    wait_for("the end of its probation", || probation(&daemon).is_null().then_some(()));
    error(daemon.agent().call("hostile", "abort", &json!(null)), ErrorCode::Crashed);
    assert_eq!((kept_state(&daemon), digest(&daemon), passed_over(&daemon)), (json!("two"), bad, Value::Null));
    daemon.stop_and_expect_no_orphans();
}

/// A rollback to a package that cannot read what is kept by now brings back what was kept with it.
#[test]
fn a_rollback_over_a_migration_brings_the_state_back() {
    let daemon = keeping_one("");
    let good = digest(&daemon);
    migrating().write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    let of = json!({"plugin": "hostile"});
    daemon.operate("pause", &of).expect("it runs");
    let refused = error(daemon.operate("rollback", &of), ErrorCode::Unavailable);
    expect_text(&refused.message, "is paused, and keeps the package that it has");
    daemon.operate("resume", &of).expect("it is paused");
    let done = daemon.operate("rollback", &of).expect("there is one");
    assert_eq!(done["reloads"][0]["digest"], good);
    assert_eq!(kept_state(&daemon), "one");
    // By name the migration is made again. So it is of one that takes no calls, which has them again then.
    for (no_more, again) in [("stop", "start"), ("disable", "enable")] {
        let done = daemon.operate("reload", &of).expect("it is there");
        assert_eq!(done["reloads"][0]["reloaded"], true, "{done}");
        assert_eq!(kept_state(&daemon), "two");
        daemon.operate(no_more, &of).expect("it is there");
        let done = daemon.operate("rollback", &of).expect("there is one");
        assert_eq!((&done["reloads"][0]["digest"], &done["reloads"][0]["idle"].is_null()), (&json!(good), &false));
        let aside = done["reloads"][0]["state"]["aside"].as_str().expect("it is named").to_owned();
        assert!(std::path::Path::new(&aside).exists(), "{done}");
        let backups = daemon.operate("backups", &of).expect("it is there")["backups"].clone();
        assert_eq!(backups[0]["with_state"], true, "{no_more}: {backups}");
        daemon.operate(again, &of).expect("it is there");
        assert_eq!(kept_state(&daemon), "one", "{no_more}");
    }
    daemon.stop_and_expect_no_orphans();
}

/// A package that needs twice the memory, which is more than it may have, ends by it and is taken back.
#[test]
fn what_needs_more_memory_than_it_may_have_is_taken_back() {
    let limited = |description: &str| {
        hostile("tame").with("limits", json!({"memory_mib": 64})).with("description", json!(description))
    };
    let daemon = Daemon::start(DaemonOptions::with([limited("old")]).configuration("watch = false\n"));
    expect_echo(&daemon, "hostile");
    let good = digest(&daemon);
    limited("new").write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    let mut caller = daemon.agent();
    let waiting = caller.begin("hostile", "wait", &json!(null));
    let _ = daemon.agent().call("hostile", "mem-tree", &json!({"children": 4, "mib": 24}));
    error(caller.finish(waiting), ErrorCode::ResourceExhausted);
    let back = wait_for("the package before", || Some(passed_over(&daemon)).filter(|passed| !passed.is_null()));
    expect_text(back["reason"].as_str().expect("a sentence"), "memory");
    assert_eq!(digest(&daemon), good);
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// Puts a package into the folder of `hostile`, in place of what is there.
fn put_into_its_folder(daemon: &Daemon, package: &Package) {
    let elsewhere = package.write(&daemon.path().join("elsewhere"), daemon.marker());
    std::fs::remove_dir_all(daemon.plugins().join("hostile")).expect("it is ours");
    std::fs::rename(elsewhere, daemon.plugins().join("hostile")).expect("it is ours");
}

/// What the audit trail has of that plugin, the oldest first, with the details.
fn details(daemon: &Daemon, plugin: &str) -> Vec<String> {
    let trail = daemon.operate("audit", &json!({ "plugin": plugin })).expect("it is known");
    let entries = trail["entries"].as_array().expect("a list").iter();
    entries.map(|entry| format!("{}: {}", entry["what"], entry["detail"]).replace('"', "")).collect()
}

/// A package that is another plugin, and is good, takes the folder's place as that one: the one before is gone with its package. What is put
/// back is that plugin again, whatever its version.
#[test]
fn a_folder_with_another_id_is_another_plugin() {
    let daemon = serving("");
    let mut watcher = daemon.agent();
    let events = follow(&mut watcher);
    put_into_its_folder(&daemon, &Package::hostile("other", "tame"));
    // What would be is said, and is not so yet.
    let would_be = |then: &str| {
        let foretold = daemon.operate("reload", &json!({"plugin": "hostile", "dry_run": true})).expect("it is there");
        let reason = &foretold["reloads"][0]["reason"];
        assert_eq!(*reason, json!(format!("its folder has other 0.1.0 now, {then}")), "{foretold}");
        assert_eq!(foretold["reloads"][0]["reloaded"], json!(false), "{foretold}");
        error(daemon.agent().call("other", "echo", &json!(1)), ErrorCode::PluginNotFound);
    };
    would_be("which is tried beside it first");
    daemon.operate("stop", &json!({"plugin": "hostile"})).expect("it can be stopped");
    would_be("and it ends with that");
    daemon.operate("start", &json!({"plugin": "hostile"})).expect("it is there");
    let found = rescan(&daemon);
    assert_eq!((&found["added"], &found["removed"]), (&json!(["other 0.1.0"]), &json!(["hostile 0.1.0"])), "{found}");
    assert_eq!(found["kept"], json!([]), "{found}");
    let gone = next_event(&mut watcher, events, "package_removed");
    assert_eq!(gone["reason"], json!("its folder has other 0.1.0 now"), "{gone}");
    assert!(daemon.log().contains("the plugin ends: its folder has other 0.1.0 now"));
    let folder = daemon.plugins().join("hostile");
    assert_eq!(details(&daemon, "hostile"), ["package_removed: its folder has other 0.1.0 now"]);
    assert_eq!(details(&daemon, "other"), [format!("package_added: it is in {}", folder.display())]);
    expect_echo(&daemon, "other");
    error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::PluginNotFound);
    // The one before does not come back where the folder has no package.
    std::fs::remove_file(folder.join("plugin.json")).expect("it is ours");
    assert_eq!(rescan(&daemon)["added"], json!([]));
    expect_echo(&daemon, "other");
    // A version that would be a major one of what was there before is the first of what there is now.
    let major = hostile("tame").with("version", json!("7.0.0")).environment("HOSTILE_VERSION", "7.0.0");
    put_into_its_folder(&daemon, &major);
    let found = rescan(&daemon);
    assert_eq!((&found["added"], &found["removed"]), (&json!(["hostile 7.0.0"]), &json!(["other 0.1.0"])), "{found}");
    expect_echo(&daemon, "hostile");
    // What is removed alone is told as well.
    std::fs::remove_dir_all(&folder).expect("it is ours");
    assert_eq!(rescan(&daemon)["removed"], json!(["hostile 7.0.0"]));
    let removed = format!("package_removed: it is not in {} any more", folder.display());
    assert_eq!(details(&daemon, "hostile").last(), Some(&removed));
    daemon.stop_and_expect_no_orphans();
}

/// One that is not good has nothing to do with what serves: not now, and not in the next daemon, which does not try it again; whoever asks for it
/// has it tried, and what was there before is what it was once it is put back.
#[test]
fn a_folder_with_another_id_that_does_not_serve_changes_nothing() {
    let other = |mode: &str| Package::hostile("other", mode);
    // As who has changed the manifest alone: the program is the one before.
    let renamed = other("tame").environment("HOSTILE_ID", "hostile");
    let whole = std::fs::read(palisade_tests::command::built("palisade-hostile")).expect("it is built");
    let half = Package::new("other", Entry::Bytes(whole[..whole.len() / 2].to_vec()));
    for (package, told, is_tried) in [
        (other("abort-at-once"), "SIGABRT", true),
        (renamed, "hostile", true),
        (half, "main is not whole: its headers say", false),
    ] {
        let daemon = serving("");
        let (good, process) = (digest(&daemon), daemon.status("hostile").process_id());
        let mut watcher = daemon.agent();
        let events = follow(&mut watcher);
        put_into_its_folder(&daemon, &package);
        let found = rescan(&daemon);
        assert_eq!((&found["added"], &found["removed"]), (&json!([]), &json!([])), "{told}: {found}");
        expect_text(found["kept"][0]["reason"].as_str().expect("a sentence"), told);
        let passed = passed_over(&daemon);
        let reason = passed["reason"].as_str().expect("a sentence");
        expect_text(reason, "its folder has other 0.1.0 now, which is not used: ");
        expect_text(reason, told);
        assert_eq!(passed["digest"] != "", is_tried, "{passed}");
        assert_eq!(next_event(&mut watcher, events, "package_kept")["reason"], json!(reason));
        assert_eq!((digest(&daemon), daemon.status("hostile").process_id()), (good.clone(), process), "{told}");
        expect_echo(&daemon, "hostile");
        error(daemon.agent().call("other", "echo", &json!(1)), ErrorCode::PluginNotFound);
        assert_eq!(rescan(&daemon)["kept"], json!([]), "{told}: it is told once");
        let words: Vec<_> = trail(&daemon).into_iter().collect();
        assert_eq!(words.last().map(String::as_str), is_tried.then_some("palisade pass_over"), "{words:?}");

        let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
        let now = passed_over(&daemon);
        assert_eq!(
            (digest(&daemon), &now["reason"], &now["digest"]),
            (good.clone(), &passed["reason"], &passed["digest"])
        );
        expect_echo(&daemon, "hostile");
        assert_eq!(rescan(&daemon)["kept"], json!([]), "{told}");
        let asked = daemon.operate("reload", &json!({"plugin": "hostile"})).expect("it is there");
        assert_eq!(
            (&asked["reloads"][0]["reloaded"], &asked["reloads"][0]["digest"]),
            (&json!(false), &good),
            "{asked}"
        );
        expect_text(asked["reloads"][0]["reason"].as_str().expect("a sentence"), told);
        put_into_its_folder(&daemon, &hostile("tame"));
        assert_eq!(rescan(&daemon)["changed"], json!([]), "{told}");
        assert_eq!((digest(&daemon), passed_over(&daemon)), (good, Value::Null), "{told}");
        expect_echo(&daemon, "hostile");
        daemon.stop_and_expect_no_orphans();
    }
}

/// Nor does one about which an operator has to say something first, or without which another plugin would lack what it needs: the one goes and the
/// other comes once that was said, or by whose word the one before is reloaded.
#[test]
fn a_folder_with_another_id_waits_for_what_has_to_be_said() {
    let plain = |id: &str| Package::hostile(id, "tame").asking(&json!([]));
    let needs = plain("needs").with("dependencies", json!({"plugins": [{"id": "hostile", "version": "^0.1"}]}));
    let options = DaemonOptions::with([plain("hostile"), needs]);
    let configuration = "watch = false\n[permissions]\n";
    let mut daemon = Daemon::start(options.configuration(configuration));
    expect_echo(&daemon, "hostile");
    expect_echo(&daemon, "needs");
    let other = Package::hostile("other", "tame").asking(&json!([{ "file_read": ["/srv"] }]));
    put_into_its_folder(&daemon, &other);
    expect_waiting(&daemon, "its folder has other 0.1.0 now, which is not used: needs 0.1.0 depends on hostile");
    daemon.operate("disable", &json!({"plugin": "needs"})).expect("it is there");
    let mut watcher = daemon.agent();
    let events = watcher.begin("palisade", "events", &json!({"follow": true}));
    assert_eq!(watcher.next_of(events).kind, Some(palisade_protocol::Kind::StreamOpen));
    expect_waiting(&daemon, "waits for its operator's consent to file_read:/srv");
    next_event(&mut watcher, events, "consent_required");
    assert_eq!(details(&daemon, "other").len(), 1, "once: {:?}", details(&daemon, "other"));
    expect_text(&details(&daemon, "other")[0], "await_consent: ");
    // It waits in the next daemon as well.
    let folder = daemon.kill_nine();
    daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration(configuration));
    expect_tried(&daemon, "hostile");
    expect_echo(&daemon, "hostile");
    expect_waiting(&daemon, "waits for its operator's consent to file_read:/srv");
    let pending = daemon.operate("pending", &json!({})).expect("there is a list")["plugins"].clone();
    assert_eq!((&pending[0]["plugin"], &pending[0]["version"]), (&json!("other"), &json!("0.1.0")), "{pending}");
    let shown = daemon.operate("permissions", &json!({"plugin": "other"})).expect("it is asked about");
    assert_eq!(shown["plugins"][0]["permissions"][0]["permission"], "file_read:/srv", "{shown}");
    let granted = daemon.operate("grant", &json!({"plugin": "other"})).expect("it is asked about");
    assert_eq!((&granted["plugin"], &granted["awaits_consent"]), (&json!("other"), &json!(false)), "{granted}");
    expect_echo(&daemon, "other");
    error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::PluginNotFound);
    assert_eq!(daemon.operate("pending", &json!({})).expect("there is a list")["plugins"], json!([]));
    expect_text(details(&daemon, "hostile").last().expect("one"), "package_removed: its folder has other 0.1.0 now");
    // What is reloaded may be another one afterwards.
    put_into_its_folder(&daemon, &plain("third"));
    let asked = daemon.operate("reload", &json!({"plugin": "other"})).expect("it is there");
    assert_eq!(
        (&asked["reloads"][0]["id"], &asked["reloads"][0]["reloaded"]),
        (&json!("third"), &json!(true)),
        "{asked}"
    );
    expect_echo(&daemon, "third");
    daemon.stop_and_expect_no_orphans();
}

/// Killed before each step of a change to another plugin: the one or the other serves, and in the end the new one does.
#[test]
fn a_daemon_that_is_killed_before_each_step_of_a_change_to_another_plugin() {
    let stride = if in_the_guest() { 29 } else { 7 };
    let mut daemon = serving("");
    let mut steps = 0;
    for step in (0..).step_by(stride) {
        rescan(&daemon);
        put_into_its_folder(&daemon, &Package::hostile("other", "tame"));
        let Some(came_so_far) = kill_while_it_looks(&daemon, step) else { return };
        daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
        let there = |plugin: &str| daemon.operate("status", &json!({ "plugin": plugin })).is_ok();
        assert!(there("hostile") != there("other"), "step {step}: one of them is there");
        wait_for("the end of what was being tried", || there("other").then_some(()));
        expect_echo(&daemon, "other");
        assert!(!there("hostile"), "step {step}");
        steps += 1;
        if !came_so_far {
            break;
        }
        put_into_its_folder(&daemon, &hostile("tame"));
        assert_eq!(rescan(&daemon)["added"], json!(["hostile 0.1.0"]), "step {step}");
        expect_echo(&daemon, "hostile");
    }
    println!("killed {steps} times");
    assert!(in_the_guest() || 5 < steps, "{steps}");
    daemon.stop_and_expect_no_orphans();
}

/// What others depend on is not exchanged for what they cannot use: a version that they do not take, or one that lacks an action it had.
#[test]
fn what_others_depend_on_keeps_what_they_depend_on() {
    let needs = Package::hostile("needs", "tame");
    let needs = needs.with("dependencies", json!({"plugins": [{"id": "hostile", "version": "^0.1"}]}));
    let told = |actions: &Value| hostile("tame").environment("HOSTILE_ACTIONS", &actions.to_string());
    let (echo, wait) = (json!({"name": "echo"}), json!({"name": "wait"}));
    let options = DaemonOptions::with([told(&json!([echo, wait])), needs]);
    let daemon = Daemon::start(options.configuration("watch = false\n"));
    expect_echo(&daemon, "hostile");
    expect_echo(&daemon, "needs");
    told(&json!([echo])).write(&daemon.plugins(), daemon.marker());
    expect_waiting(&daemon, "hostile 0.1.0 has no action wait any more, and needs 0.1.0 depends on hostile");
    let major = hostile("tame").with("version", json!("1.0.0")).environment("HOSTILE_VERSION", "1.0.0");
    major.write(&daemon.plugins(), daemon.marker());
    expect_waiting(&daemon, "needs 0.1.0 depends on hostile, and not on its version 1.0.0");
    // What it has beyond that does no harm, and nobody is left to mind once it is disabled.
    told(&json!([echo, wait, {"name": "more"}])).write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    daemon.operate("disable", &json!({"plugin": "needs"})).expect("it is there");
    told(&json!([echo])).write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// What holds a link or a pipe, as an editor leaves one, is no package, and nothing to what serves from its copy: now, and in the next daemon.
#[test]
fn what_cannot_be_copied_is_passed_over_until_it_can() {
    let mut daemon = serving("");
    let good = digest(&daemon);
    let folder = daemon.plugins().join("hostile");
    let generation =
        |daemon: &Daemon| daemon.agent().call("hostile", "generation", &json!(null)).expect("it serves as before");
    let first = generation(&daemon);
    let strange = folder.join(".#plugin.json");
    for is_link in [true, false] {
        if is_link {
            std::os::unix::fs::symlink("nowhere", &strange).expect("it is ours");
        } else {
            rustix::fs::mknodat(rustix::fs::CWD, &strange, rustix::fs::FileType::Fifo, 0o600.into(), 0)
                .expect("it is ours");
        }
        rescan(&daemon);
        assert_eq!((digest(&daemon), generation(&daemon)), (good.clone(), first.clone()));
        expect_text(passed_over(&daemon)["reason"].as_str().expect("a sentence"), ".#plugin.json");
        std::fs::remove_file(&strange).expect("it is ours");
        rescan(&daemon);
        assert_eq!((passed_over(&daemon), generation(&daemon)), (Value::Null, first.clone()));
    }
    std::os::unix::fs::symlink("nowhere", &strange).expect("it is ours");
    rescan(&daemon);
    daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    expect_echo(&daemon, "hostile");
    assert_eq!(digest(&daemon), good);
    expect_text(passed_over(&daemon)["reason"].as_str().expect("a sentence"), "symbolic link");
    daemon.stop_and_expect_no_orphans();
}

/// What serves goes on where its folder has no package any more, also while it is on probation, and whether or not it has another version.
#[test]
fn a_manifest_that_breaks_in_probation_changes_nothing() {
    for version in ["0.1.0", "0.2.0"] {
        let daemon = serving("");
        let new = hostile("tame").with("version", json!(version)).environment("HOSTILE_VERSION", version);
        new.with("description", json!("new")).write(&daemon.plugins(), daemon.marker());
        rescan(&daemon);
        let now = digest(&daemon);
        let status = || daemon.operate("status", &json!({"plugin": "hostile"})).expect("it is there");
        assert!(status()["probation"].is_object(), "{}", status());
        std::fs::write(daemon.plugins().join("hostile/plugin.json"), "{ bro").expect("it is ours");
        rescan(&daemon);
        expect_echo(&daemon, "hostile");
        assert_eq!((digest(&daemon), &status()["version"]), (now, &json!(version)));
        expect_text(passed_over(&daemon)["reason"].as_str().expect("a sentence"), "JSON");
        assert!(status()["probation"].is_object(), "{}", status());
        daemon.stop_and_expect_no_orphans();
    }
}

/// A package that is removed while it is in use ends what it has, and then its plugin is gone; one that comes back is a new one.
#[test]
fn a_package_that_is_removed_while_it_is_in_use_ends_its_calls() {
    let daemon = serving("");
    let mut agent = daemon.agent();
    let under_way = agent.begin("hostile", "sleep-blocking", &json!(null));
    std::fs::remove_dir_all(daemon.plugins().join("hostile")).expect("it is ours");
    assert_eq!(rescan(&daemon)["removed"], json!(["hostile 0.1.0"]));
    agent.finish(under_way).expect("what was under way has ended well");
    error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::PluginNotFound);
    hostile("tame").write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["added"], json!(["hostile 0.1.0"]));
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// A package of which no copy can be made, as there is no room, is tried again once there is: it is not its fault.
#[test]
fn a_package_for_which_there_is_no_room_is_tried_again() {
    if other_user().is_some() || !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can mount a small disk");
        return;
    }
    let options = DaemonOptions::with([hostile("tame")]).configuration("watch = false\n").small_disk(131_072);
    let daemon = Daemon::start(options);
    expect_echo(&daemon, "hostile");
    let good = digest(&daemon);
    // What serves is noted while there is room.
    rescan(&daemon);
    let disk = Disk::of(&daemon);
    let new = hostile("tame").with("description", json!("x".repeat(400)));
    let folder = new.write(&daemon.plugins(), daemon.marker());
    for (name, kib) in [("a-part", 512), ("the-rest", 2048)] {
        std::fs::write(folder.join(name), vec![kib as u8 | 1; kib << 10]).expect("it is ours");
    }
    let copied = || std::fs::read_dir(disk.state.join("store/files")).expect("it is there").count();
    let before = copied();
    // That it had failed could be written down.
    disk.leave(1 << 20);
    let found = rescan(&daemon);
    wait_for("the room that was taken for a part of it", || (copied() == before).then_some(()));
    expect_text(found["kept"][0]["reason"].as_str().expect("a sentence"), "No space left on device");
    assert_eq!(passed_over(&daemon)["reason"], found["kept"][0]["reason"]);
    expect_echo(&daemon, "hostile");
    assert_eq!(digest(&daemon), good);
    disk.empty();
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    assert_ne!(digest(&daemon), good);
    assert_eq!(passed_over(&daemon), Value::Null);
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// Killed in the middle of a reload that migrates the state, at each step: the old package has what it kept, or the new one has it in its form.
#[test]
fn a_daemon_that_is_killed_before_each_step_of_a_migration() {
    let stride = if in_the_guest() { 29 } else { 11 };
    let mut daemon = keeping_one("");
    rescan(&daemon);
    let good = digest(&daemon);
    let mut steps = 0;
    for step in (0..).step_by(stride) {
        migrating().with("description", json!(format!("made at {step}"))).write(&daemon.plugins(), daemon.marker());
        let Some(came_so_far) = kill_while_it_looks(&daemon, step) else { return };
        // The new package is not there any more, so that it is seen what the daemon before has left.
        let folder = daemon.kill_nine();
        let kept = folder.path().join("state/state/hostile");
        daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration("watch = false\n"));
        // It is brought to its end, whatever it was in the middle of.
        expect_tried(&daemon, "hostile");
        assert_eq!(kept_state(&daemon), "two", "step {step}");
        assert_ne!(digest(&daemon), good, "step {step}");
        // The copy of the state has the name that is noted of it a moment later.
        wait_for("nothing that would have to be undone", || {
            let mut files = std::fs::read_dir(&kept).expect("it is there").flatten();
            (!files.any(|file| file.file_name().to_string_lossy().starts_with("undo-"))).then_some(())
        });
        steps += 1;
        if !came_so_far {
            break;
        }
        let backups = daemon.operate("backups", &json!({"plugin": "hostile"})).expect("it is there")["backups"].clone();
        let first = backups.as_array().expect("a list").iter().find(|one| one["digest"] == good);
        let first = first.unwrap_or_else(|| panic!("step {step}: it is kept: {backups}"));
        daemon.operate("rollback", &json!({"plugin": "hostile", "to": first["number"]})).expect("it is kept");
        assert_eq!((digest(&daemon), kept_state(&daemon)), (good.clone(), json!("one")), "step {step}");
        keeping(1, &[], "tame").write(&daemon.plugins(), daemon.marker());
        daemon.operate("reload", &json!({"plugin": "hostile"})).expect("it is there");
    }
    println!("killed {steps} times");
    assert!(in_the_guest() || 5 < steps, "{steps}");
    daemon.stop_and_expect_no_orphans();
}

/// Killed while a package that has migrated the state is taken back, at each step: the package before serves with what it kept, and says why; or
/// it is not known yet that the other one failed, which then serves with what it kept.
#[test]
fn a_daemon_that_is_killed_before_each_step_of_what_leads_back() {
    let stride = if in_the_guest() { 17 } else { 5 };
    let mut daemon = keeping_one("");
    rescan(&daemon);
    let good = digest(&daemon);
    let (mut steps, mut returned) = (0, 0);
    for step in (0..).step_by(stride) {
        migrating().with("description", json!(format!("made at {step}"))).write(&daemon.plugins(), daemon.marker());
        assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]), "step {step}");
        ask(&daemon, "hostile", &[put("a", &json!("nonsense"))]);
        let mut agent = daemon.agent();
        let events = follow(&mut agent);
        let crash = |agent: &mut Agent| agent.begin("hostile", "abort", &json!(null));
        let is_back = |_, frame: &Received| {
            let event = (frame.id == events && !frame.payload.is_empty()).then(|| decode(&frame.payload));
            event.is_some_and(|event| event["kind"] == "package_rolled_back")
        };
        let Some(came_so_far) = kill_while(&daemon, agent, step, crash, is_back) else { return };
        daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
        expect_tried(&daemon, "hostile");
        let (passed, state) = (passed_over(&daemon), kept_state(&daemon));
        if digest(&daemon) == good {
            assert_eq!(state, "one", "step {step}");
            expect_text(passed["reason"].as_str().expect("a sentence"), "it failed soon after it began to serve");
            returned += 1;
        } else {
            assert_eq!(passed, Value::Null, "step {step}");
            // It has gone on with what it had, or brought over what was put back already.
            assert!(state == "nonsense" || state == "two", "step {step}: {state}");
            let told = daemon.operate("backups", &json!({"plugin": "hostile"})).expect("it is there");
            let before = told["backups"].as_array().expect("a list").iter().find(|one| one["digest"] == good);
            let before = before.unwrap_or_else(|| panic!("step {step}: it is kept: {told}"));
            daemon.operate("rollback", &json!({"plugin": "hostile", "to": before["number"]})).expect("it is kept");
            assert_eq!((digest(&daemon), kept_state(&daemon)), (good.clone(), json!("one")), "step {step}");
        }
        steps += 1;
        if !came_so_far {
            break;
        }
        keeping(1, &[], "tame").write(&daemon.plugins(), daemon.marker());
        daemon.operate("reload", &json!({"plugin": "hostile"})).expect("it is there");
        assert_eq!((digest(&daemon), kept_state(&daemon)), (good.clone(), json!("one")), "step {step}");
    }
    println!("killed {steps} times, {returned} of which had led back");
    assert!(0 < returned && returned < steps, "{returned} of {steps}");
    daemon.stop_and_expect_no_orphans();
}

/// Killed before it is noted which package serves from now on, with a state of its own: what was acknowledged until then is there.
fn what_is_acknowledged_is_not_put_back(daemon: Daemon, operation: &str, params: &Value) {
    let before = digest(&daemon);
    let process = process::identity(daemon.process_of("hostile")).expect("it runs");
    let (mut operator, mut writer) = (daemon.agent(), daemon.agent());
    let Some(traced) = Traced::unless_skipped(daemon.pid()) else { return };
    let (held, over) = (AtomicBool::new(false), AtomicBool::new(false));
    let is_written = std::thread::scope(|scope| {
        let (daemon, held, over) = (&daemon, &held, &over);
        let writes = scope.spawn(move || {
            let _over = Over(over);
            operator.begin("palisade", operation, params);
            wait_for("a note that is not written", || held.load(Ordering::SeqCst).then_some(()));
            let put = writer.begin("hostile", "ask", &json!({"asks": [put("b", &json!("acknowledged"))]}));
            let serves = digest(daemon) != before;
            serves.then(|| writer.finish(put).expect("it is written"))
        });
        let from = || !process::is_alive(process);
        traced.hold_who_writes(
            "registry.sqlite3-wal",
            from,
            || held.store(true, Ordering::SeqCst),
            || over.load(Ordering::SeqCst),
        );
        writes.join().expect("it writes").is_some()
    });
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    expect_tried(&daemon, "hostile");
    let expected = if is_written { json!("acknowledged") } else { Value::Null };
    let found = || ask(&daemon, "hostile", &[get("b")])[0]["ok"]["value"].clone();
    assert_eq!(found(), expected, "{operation} was under way");
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn what_is_acknowledged_while_a_package_takes_over_is_not_put_back() {
    let daemon = keeping_one("");
    rescan(&daemon);
    migrating().write(&daemon.plugins(), daemon.marker());
    what_is_acknowledged_is_not_put_back(daemon, "rescan", &json!({}));

    let daemon = keeping_one("");
    rescan(&daemon);
    migrating().write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    what_is_acknowledged_is_not_put_back(daemon, "rollback", &json!({"plugin": "hostile"}));
}

/// What is taken back is not returned to when what came after it fails as well: what served before both does, now and after the next look.
#[test]
fn what_was_taken_back_does_not_serve_for_what_lies_in_the_folder() {
    let daemon = serving("");
    let first = digest(&daemon);
    hostile("tame").with("description", json!("second")).write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    let second = digest(&daemon);
    hostile("abort-at-once").with("description", json!("third")).write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["kept"][0]["plugin"], "hostile 0.1.0");
    let third = passed_over(&daemon)["digest"].clone();
    assert_eq!(digest(&daemon), second);
    error(daemon.agent().call("hostile", "abort", &json!(null)), ErrorCode::Crashed);
    wait_for("what served before both", || (digest(&daemon) == first).then_some(()));
    let expect_first = |daemon: &Daemon| {
        let passed = passed_over(daemon);
        assert_eq!((digest(daemon), &passed["digest"]), (first.clone(), &third));
        let reason = passed["reason"].as_str().expect("a sentence");
        expect_text(reason, "SIGABRT");
        expect_text(reason, "is not used either: it failed soon after it began to serve");
        expect_echo(daemon, "hostile");
    };
    expect_first(&daemon);
    for _ in 0..2 {
        assert_eq!(rescan(&daemon)["changed"], json!([]));
        expect_first(&daemon);
    }
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    expect_first(&daemon);
    assert_eq!(rescan(&daemon)["changed"], json!([]));
    expect_first(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// Whoever returns to a package while another is being tried has it serve, whatever becomes of that one.
#[test]
fn an_operator_returns_also_while_a_package_is_tried() {
    let daemon = serving("");
    let first = digest(&daemon);
    hostile("tame").with("description", json!("second")).write(&daemon.plugins(), daemon.marker());
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    let running = || {
        let is_one = |one: &process::Identity| {
            let name = std::fs::read_to_string(format!("/proc/{}/comm", one.pid)).unwrap_or_default();
            !name.is_empty()
                && !["palisade-zygote", "palisade-launch", "palisade-init", "palisade-ready"].contains(&name.trim())
        };
        process::descendants(daemon.pid()).iter().filter(|one| is_one(one)).count()
    };
    hostile("never-ready").with("description", json!("third")).write(&daemon.plugins(), daemon.marker());
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| rescan(&daemon));
        wait_for("a process that is tried", || (running() == 2).then_some(()));
        daemon.operate("rollback", &json!({"plugin": "hostile"})).expect("there is one");
        assert_eq!(looks.join().expect("it looks")["kept"][0]["plugin"], "hostile 0.1.0");
    });
    let expect_first = |daemon: &Daemon| {
        assert_eq!(digest(daemon), first, "{}", passed_over(daemon));
        expect_text(passed_over(daemon)["reason"].as_str().expect("a sentence"), "has returned to 0.1.0");
        expect_echo(daemon, "hostile");
    };
    expect_first(&daemon);
    assert_eq!(rescan(&daemon)["changed"], json!([]));
    expect_first(&daemon);
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    expect_first(&daemon);
    assert_eq!(rescan(&daemon)["changed"], json!([]));
    expect_first(&daemon);
    // What lies in the folder is returned to as what it is.
    hostile("tame").with("description", json!("second")).write(&daemon.plugins(), daemon.marker());
    rescan(&daemon);
    daemon.operate("reload", &json!({"plugin": "hostile"})).expect("it is there");
    hostile("tame").write(&daemon.plugins(), daemon.marker());
    rescan(&daemon);
    assert_eq!((digest(&daemon), passed_over(&daemon)), (first, Value::Null));
    daemon.stop_and_expect_no_orphans();
}

/// Killed while an operator returns to a package, at each step: it serves with what was kept with it, or the other one does with what it has.
#[test]
fn a_daemon_that_is_killed_before_each_step_of_a_rollback() {
    let stride = if in_the_guest() { 29 } else { 7 };
    let mut daemon = keeping_one("");
    rescan(&daemon);
    let good = digest(&daemon);
    let (mut steps, mut returned) = (0, 0);
    let first_of = |daemon: &Daemon| {
        let told = daemon.operate("backups", &json!({"plugin": "hostile"})).expect("it is there");
        let first = told["backups"].as_array().expect("a list").iter().find(|one| one["digest"] == good).cloned();
        first.unwrap_or_else(|| panic!("it is kept: {told}"))["number"].clone()
    };
    for step in (0..).step_by(stride) {
        migrating().with("description", json!(format!("made at {step}"))).write(&daemon.plugins(), daemon.marker());
        assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]), "step {step}");
        ask(&daemon, "hostile", &[put("a", &json!("later"))]);
        let first = first_of(&daemon);
        let returns =
            |agent: &mut Agent| agent.begin("palisade", "rollback", &json!({"plugin": "hostile", "to": first}));
        let Some(came_so_far) =
            kill_while(&daemon, daemon.agent(), step, returns, |returns, frame| frame.id == returns)
        else {
            return;
        };
        daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
        expect_tried(&daemon, "hostile");
        let (passed, state) = (passed_over(&daemon), kept_state(&daemon));
        if digest(&daemon) == good {
            assert_eq!(state, "one", "step {step}");
            expect_text(passed["reason"].as_str().expect("a sentence"), "has returned to 0.1.0");
            returned += 1;
        } else {
            // It writes that whenever it starts.
            assert_eq!((passed, state), (Value::Null, json!("two")), "step {step}");
            daemon.operate("rollback", &json!({"plugin": "hostile", "to": first_of(&daemon)})).expect("it is kept");
            assert_eq!((digest(&daemon), kept_state(&daemon)), (good.clone(), json!("one")), "step {step}");
        }
        steps += 1;
        if !came_so_far {
            break;
        }
        keeping(1, &[], "tame").write(&daemon.plugins(), daemon.marker());
        rescan(&daemon);
        daemon.operate("reload", &json!({"plugin": "hostile"})).expect("it is there");
        assert_eq!((digest(&daemon), kept_state(&daemon)), (good.clone(), json!("one")), "step {step}");
    }
    println!("killed {steps} times, {returned} of which had returned");
    assert!(0 < returned && returned < steps, "{returned} of {steps}");
    daemon.stop_and_expect_no_orphans();
}
