//! What is said of a reload before it is done, of all plugins at once, and by which names a plugin is known to operators.

use std::fs;

use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::Package;
use serde_json::{Value, json};

use crate::cli::palisade;
use crate::reload::{digest, keeping_one, migrating};
use crate::support::{expect_echo, expect_text, hostile};

/// Those of a package that is tried beside the one that serves.
const BESIDE: [&str; 10] =
    ["stage", "verify", "start", "hello", "initialize", "self_test", "switch", "drain", "stop", "probation"];

fn serving(package: Package) -> Daemon {
    let daemon = Daemon::start(DaemonOptions::with([package]).configuration("watch = false\n"));
    expect_echo(&daemon, "hostile");
    daemon
}

fn rescan(daemon: &Daemon) -> Value {
    daemon.operate("rescan", &json!({})).expect("it looks")
}

fn reload(daemon: &Daemon, more: Value) -> Vec<Value> {
    let told = daemon.operate("reload", &more).expect("it is there");
    told["reloads"].as_array().expect("a list").clone()
}

/// The plan for the hostile plugin.
fn plan(daemon: &Daemon) -> Value {
    let plans = reload(daemon, json!({"plugin": "hostile", "dry_run": true}));
    assert_eq!(plans.len(), 1, "{plans:?}");
    plans[0].clone()
}

fn status(daemon: &Daemon) -> Value {
    daemon.operate("status", &json!({"plugin": "hostile"})).expect("it is known")
}

/// What is shown is what is done: also by a daemon that has not run the plugin itself yet, and of what has been tried already.
#[test]
fn what_is_planned_is_what_is_done() {
    let daemon = serving(hostile("tame"));
    // What serves is noted.
    rescan(&daemon);
    let first = digest(&daemon);
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    let same = plan(&daemon);
    assert_eq!((&same["steps"], &same["untried"]), (&json!(BESIDE), &Value::Null), "{same}");
    hostile("tame").with("description", json!("second")).write(&daemon.plugins(), daemon.marker());
    let planned = plan(&daemon);
    assert_eq!((&planned["steps"], &planned["untried"]), (&json!(BESIDE), &Value::Null), "{planned}");
    assert_eq!(planned["undo"], json!({"start": "drop", "switch": "switch_back"}));
    assert_eq!((&planned["reloaded"], digest(&daemon)), (&json!(false), first), "nothing was done");
    let done = reload(&daemon, json!({"plugin": "hostile"})).remove(0);
    for field in ["steps", "undo", "digest", "untried"] {
        assert_eq!(done[field], planned[field], "{field}");
    }
    assert_eq!((&done["reloaded"], digest(&daemon)), (&json!(true), planned["digest"].clone()));
    // What takes no calls is exchanged.
    daemon.operate("stop", &json!({"plugin": "hostile"})).expect("it runs");
    hostile("tame").with("description", json!("third")).write(&daemon.plugins(), daemon.marker());
    let planned = plan(&daemon);
    assert_eq!(
        (&planned["steps"], &planned["untried"]),
        (&json!(["switch", "drain", "stop"]), &json!("old_is_unused"))
    );
    let done = reload(&daemon, json!({"plugin": "hostile"})).remove(0);
    for field in ["steps", "undo", "digest", "untried"] {
        assert_eq!(done[field], planned[field], "{field}");
    }
    assert_eq!(done["reloaded"], json!(true), "{done}");
    daemon.stop_and_expect_no_orphans();
}

/// What is known beforehand to lead to nothing is said beforehand, and nobody is asked about anything.
#[test]
fn a_plan_says_why_nothing_would_come_of_it() {
    let daemon = keeping_one("");
    rescan(&daemon);
    migrating().write(&daemon.plugins(), daemon.marker());
    let planned = plan(&daemon);
    let steps = planned["steps"].as_array().expect("a list");
    assert_eq!(steps[2..7], ["rehearse", "hold", "drain", "stop", "keep"], "{planned}");
    assert_eq!(planned["undo"]["keep"], "put_back", "{planned}");
    expect_text(
        planned["notes"][0].as_str().expect("a sentence"),
        "what it keeps has schema 1, and 0.1.0 is to bring it",
    );
    assert_eq!(planned.get("reason"), None, "{planned}");
    assert_eq!(rescan(&daemon)["changed"], json!(["hostile 0.1.0"]));
    // The one before does not know that form.
    let before = hostile("tame").with("state", json!({"schema_version": 1})).with("description", json!("older"));
    before.write(&daemon.plugins(), daemon.marker());
    let planned = plan(&daemon);
    assert_eq!(planned["steps"], json!(BESIDE), "{planned}");
    expect_text(
        planned["reason"].as_str().expect("a sentence"),
        "what it keeps has schema 2, and 0.1.0 knows schema 1",
    );
    let done = reload(&daemon, json!({"plugin": "hostile"})).remove(0);
    assert_eq!((&done["reloaded"], &done["steps"]), (&json!(false), &planned["steps"]), "{done}");

    daemon.operate("pause", &json!({"plugin": "hostile"})).expect("it runs");
    let planned = plan(&daemon);
    assert_eq!((&planned["steps"], &planned["untried"]), (&json!([]), &json!("old_is_paused")), "{planned}");
    expect_text(planned["reason"].as_str().expect("a sentence"), "is paused");
    daemon.operate("resume", &json!({"plugin": "hostile"})).expect("it is paused");

    // What lies there is no package, or nothing does.
    fs::write(daemon.plugins().join("hostile/plugin.json"), "{").expect("it is ours");
    let planned = plan(&daemon);
    assert_eq!(planned["steps"], json!([]), "{planned}");
    expect_text(planned["reason"].as_str().expect("a sentence"), "plugin.json");
    fs::remove_dir_all(daemon.plugins().join("hostile")).expect("it is ours");
    let planned = plan(&daemon);
    expect_text(planned["reason"].as_str().expect("a sentence"), "its folder is gone");
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// Of what waits for somebody's word it is said that it would, and nobody is asked for that yet.
#[test]
fn a_plan_asks_nobody_for_anything() {
    let asking = |asks: Value| Package::hostile("hostile", "tame").asking(&asks);
    let options = DaemonOptions::with([asking(json!([]))]).configuration("watch = false\n[permissions]\n");
    let daemon = Daemon::start(options);
    expect_echo(&daemon, "hostile");
    asking(json!([{"file_read": ["/srv"]}])).write(&daemon.plugins(), daemon.marker());
    let planned = plan(&daemon);
    assert_eq!((&planned["steps"], &planned["untried"]), (&json!([]), &json!("new_is_unused")), "{planned}");
    expect_text(planned["reason"].as_str().expect("a sentence"), "waits for its operator's consent to file_read:/srv");
    let pending = || daemon.operate("pending", &json!({})).expect("it answers")["plugins"].clone();
    assert_eq!(pending(), json!([]));
    let done = reload(&daemon, json!({"plugin": "hostile"})).remove(0);
    assert_eq!((&done["reason"], &done["steps"]), (&planned["reason"], &json!([])), "{done}");
    assert_eq!(pending()[0]["plugin"], "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// While a package is being tried that is planned as well; and what lay in the folder before it is no more said to lie there.
#[test]
fn what_is_being_tried_is_planned_and_is_what_lies_in_the_folder() {
    let daemon = serving(hostile("tame"));
    let passed_over = || {
        let list = daemon.operate("list", &json!({})).expect("it answers");
        let listed = list["plugins"].as_array().expect("a list").iter().find(|one| one["id"] == "hostile").cloned();
        [status(&daemon)["passed_over"].clone(), listed.expect("it is there")["passed_over"].clone()]
    };
    hostile("exit-at-once").write(&daemon.plugins(), daemon.marker());
    rescan(&daemon);
    let [failed, listed] = passed_over();
    assert!(failed.is_object() && failed == listed, "{failed} {listed}");
    let hanging = hostile("never-ready").with("limits", json!({"start_timeout_seconds": 600}));
    hanging.write(&daemon.plugins(), daemon.marker());
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| rescan(&daemon));
        let trial = wait_for("a trial", || Some(status(&daemon)["trial"].clone()).filter(Value::is_object));
        assert_eq!(passed_over(), [Value::Null, Value::Null]);
        let planned = plan(&daemon);
        assert_eq!((&planned["digest"], &planned["steps"]), (&trial["digest"], &json!(BESIDE)), "{planned}");
        assert_eq!(planned["notes"], json!(["it is being tried already, which is waited for"]));
        assert_eq!(status(&daemon)["trial"], trial, "it goes on");
        hostile("tame").write(&daemon.plugins(), daemon.marker());
        rescan(&daemon);
        looks.join().expect("it is given up");
    });
    assert_eq!(passed_over(), [Value::Null, Value::Null]);
    daemon.stop_and_expect_no_orphans();
}

/// What `--all` would do is what it does: of what has failed neither does anything, and of what an operator has returned from neither is that
/// a failure.
#[test]
fn what_is_planned_of_all_is_what_is_done_of_all() {
    let edition = |id: &str, mode: &str, description: &str| {
        Package::hostile(id, mode).with("description", json!(description)).with("restart", json!("never"))
    };
    let ids = ["changed", "failed", "returned", "same"];
    let packages = ids.map(|id| edition(id, "tame", "first"));
    let daemon = Daemon::start(DaemonOptions::with(packages).configuration("watch = false\n"));
    ids.iter().for_each(|id| expect_echo(&daemon, id));
    edition("failed", "exit-at-once", "second").write(&daemon.plugins(), daemon.marker());
    edition("returned", "tame", "second").write(&daemon.plugins(), daemon.marker());
    rescan(&daemon);
    daemon.operate("rollback", &json!({"plugin": "returned"})).expect("there is one");
    edition("changed", "tame", "second").write(&daemon.plugins(), daemon.marker());
    let planned = reload(&daemon, json!({"dry_run": true}));
    let done = reload(&daemon, json!({}));
    let of = |told: &[Value], field: &str| told.iter().map(|one| one[field].clone()).collect::<Vec<_>>();
    assert_eq!(of(&planned, "id"), ids);
    for field in ["id", "version", "digest", "steps", "untried", "reason", "returned"] {
        assert_eq!(of(&planned, field), of(&done, field), "{field}");
    }
    assert_eq!(of(&planned, "steps"), [json!(BESIDE), json!([]), json!([]), json!(BESIDE)]);
    assert_eq!(of(&done, "reloaded"), [true, false, false, true]);
    assert_eq!(of(&done, "returned"), [false, false, true, false]);

    let (status, shown, told) = run(&daemon, &["reload", "--all"]);
    assert_eq!(status, Some(8), "{told}");
    assert_eq!(told.matches("failed 0.1.0 goes on as it was: ").count(), 1, "{told}");
    expect_text(&told, "hint: `palisade status failed@0.1.0` shows how it is");
    assert!(!shown.contains("failed 0.1.0"), "it is said once: {shown}");
    expect_text(&shown, "returned 0.1.0 is passed over, and goes on as it was: uid:");
    edition("failed", "tame", "third").write(&daemon.plugins(), daemon.marker());
    rescan(&daemon);
    let (status, shown, told) = run(&daemon, &["reload", "--all"]);
    assert_eq!((status, told.as_str()), (Some(0), ""), "{shown}");
    expect_text(&shown, "`palisade reload returned` has it tried");
    // Also of a daemon that knows it from the one before.
    let daemon = Daemon::start(DaemonOptions::with([]).folder(daemon.kill_nine()).configuration("watch = false\n"));
    let (status, shown, told) = run(&daemon, &["reload", "--all"]);
    assert_eq!((status, told.as_str()), (Some(0), ""), "{shown}");
    expect_text(&shown, "returned 0.1.0 is passed over, and goes on as it was: uid:");
    let (status, shown, told) = run(&daemon, &["reload", "returned"]);
    assert_eq!((status, told.as_str()), (Some(0), ""), "{shown}");
    expect_text(&shown, "returned 0.1.0 serves");
    let (_, shown, _) = run(&daemon, &["reload", "returned", "--dry-run"]);
    for text in
        ["returned 0.1.0 would serve, by these steps, sha256 ", "self_test ", "calls go to the one before again"]
    {
        expect_text(&shown, text);
    }
    daemon.stop_and_expect_no_orphans();
}

fn run(daemon: &Daemon, arguments: &[&str]) -> (Option<i32>, String, String) {
    let ran = palisade(&daemon.socket(), arguments);
    (ran.status, ran.stdout, ran.stderr)
}

/// Two versions in the plugin directory, each with a field of its own.
fn versions() -> Daemon {
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).configuration("watch = false\n"));
    for (version, field) in [("1.0.0", "older"), ("1.1.0", "newer")] {
        let schema = json!({"type": "object", "properties": {field: {"type": "integer"}}});
        let package = Package::hostile("guest", "tame").with("version", json!(version));
        let package = package.environment("HOSTILE_VERSION", version).with("configuration_schema", schema);
        let package = package.with("secrets", json!([{"name": "key", "optional": true}]));
        let whole = package.write(&daemon.path().join("staging"), daemon.marker());
        fs::rename(whole, daemon.plugins().join(format!("guest-{version}"))).expect("it is ours");
    }
    rescan(&daemon);
    daemon
}

/// Wherever one plugin is meant, it can be named with a version, which has to be there; just that one, where a version makes a difference.
#[test]
fn a_plugin_can_be_named_with_a_version_that_is_there() {
    let daemon = versions();
    let run = |arguments: &[&str]| run(&daemon, arguments);
    expect_echo(&daemon, "guest");
    let export = daemon.path().join("export.json");
    let (status, exported, _) = run(&["state", "export", "guest@1.0.0"]);
    assert_eq!(status, Some(0));
    expect_text(&exported, "\"plugin\":\"guest\"");
    fs::write(&export, &exported).expect("it is ours");
    let export = export.to_str().expect("it is a text");
    // It is answered with what there is to say of the plugin, or of that version.
    for (command, before, after) in [
        ("status", &["status"][..], &[][..]),
        ("info", &["info"], &[]),
        ("config", &["config"], &[]),
        ("logs", &["logs"], &[]),
        ("audit", &["audit"], &[]),
        ("backups", &["backups"], &[]),
        ("reload", &["reload"], &[]),
        ("plan", &["reload", "--dry-run"], &[]),
        ("show", &["state", "show"], &[]),
        ("export", &["state", "export"], &[]),
        ("import", &["state", "import"], &[export]),
        ("reset", &["state", "reset", "--yes"], &[]),
        ("secrets", &["secret", "list"], &[]),
        ("start", &["start"], &[]),
        ("stop", &["stop"], &[]),
    ] {
        let of = |plugin: &str| run(&[before, &[plugin], after].concat());
        for version in ["guest@1.0.0", "guest@=1.0.0", "guest@~1.0"] {
            let (status, _, told) = of(version);
            assert_eq!(status, Some(0), "{command} {version}: {told}");
        }
        // One that another would stand in for is not there either.
        for version in ["9.0.0", "1.0.5"] {
            let (status, shown, told) = of(&format!("guest@{version}"));
            assert_eq!((status, shown.as_str()), (Some(3), ""), "{command} {version}: {told}");
            expect_text(&told, &format!("there is no version {version} of guest"));
            expect_text(&told, "hint: there is 1.0.0, 1.1.0");
        }
    }
    // What would go on, is not there, or is told otherwise.
    for (arguments, code) in [
        (&["events", "guest@9.0.0"][..], 3),
        (&["rollback", "guest@9.0.0"], 3),
        (&["secret", "remove", "guest@9.0.0", "key"], 3),
        (&["rollback", "guest@1.0.0"], 4),
        (&["audit", "gone@1.0.0"], 3),
    ] {
        let (status, _, told) = run(arguments);
        assert_eq!(status, Some(code), "{arguments:?}: {told}");
        let part = match (code, arguments[1]) {
            (4, _) => "guest has no backup to return to",
            (_, "gone@1.0.0") => "without a version, what was done with plugins that are gone",
            _ => "there is no version 9.0.0 of guest",
        };
        expect_text(&told, part);
    }
    // The version that was named, and no other.
    let reloaded = reload(&daemon, json!({"plugin": "guest", "version": "1.0.0"}));
    assert_eq!((reloaded.len(), &reloaded[0]["version"]), (1, &json!("1.0.0")), "{reloaded:?}");
    for operation in ["reload", "audit", "logs", "events"] {
        let refused = daemon.operate(operation, &json!({"version": "1.0.0"})).expect_err("of which plugin?");
        expect_text(&refused.message, "`version` is one of a `plugin`");
    }
    daemon.stop_and_expect_no_orphans();
}

/// By the schema of the version that is named values are typed and checked, and what is said holds for all.
#[test]
fn a_version_in_a_plugin_directory_is_configured_by_its_own_schema() {
    let daemon = versions();
    let run = |arguments: &[&str]| run(&daemon, arguments);
    let (status, _, told) = run(&["config", "guest@1.0.0", "older=soon"]);
    assert_eq!(status, Some(4), "{told}");
    expect_text(&told, "`older` has to be an integer");
    // The other one knows nothing of it.
    assert_eq!(run(&["config", "guest@1.0.0", "older=1"]).0, Some(0));
    let (status, shown, told) = run(&["config", "--json", "guest@1.1.0"]);
    assert_eq!(status, Some(0), "{told}");
    let shown: Value = serde_json::from_str(&shown).expect("it is JSON");
    assert_eq!((&shown["version"], &shown["said"]), (&json!("1.1.0"), &json!({"/older": 1})), "{shown}");
    assert_eq!(run(&["config", "guest@1.1.0", "older=soon"]).0, Some(0), "for that one it is anything");
    let status = daemon.operate("status", &json!({"plugin": "guest", "version": "1.0.0"})).expect("it is there");
    expect_text(status["misconfigured"].as_str().expect("a sentence"), "/older");
    daemon.stop_and_expect_no_orphans();
}
