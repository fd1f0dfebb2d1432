//! What is known of plugins beside what they do at the moment: how they are used, found and chosen.

use std::path::PathBuf;

use palisade_protocol::{Call, ErrorCode};
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::Package;
use palisade_tests::wire::pack;
use serde_json::{Value, json};

use crate::cli::palisade;
use crate::support::{break_the_database, error, expect_echo, expect_text, hostile};

fn guest(version: &str) -> Package {
    Package::hostile("guest", "tame").with("version", json!(version)).environment("HOSTILE_VERSION", version)
}

/// Installs a package from a folder where no plugin directory is.
fn install(daemon: &Daemon, package: &Package) -> PathBuf {
    let folder = package.write(&daemon.path().join("elsewhere"), daemon.marker());
    daemon.operate("install", &json!({ "path": folder, "major": true })).expect("it is installed");
    folder
}

fn after_a_stop(daemon: Daemon) -> Daemon {
    Daemon::start(DaemonOptions::with([]).folder(daemon.stop()))
}

/// How a version is used.
fn usage(daemon: &Daemon, plugin: &str) -> Value {
    let answer = daemon.operate("stats", &json!({ "plugin": plugin })).expect("it is known");
    answer["plugins"][0].clone()
}

fn ids(answer: &Value) -> Vec<&str> {
    answer["plugins"].as_array().expect("a list").iter().filter_map(|one| one["id"].as_str()).collect()
}

/// What a plugin says of itself finds it, before it runs and after; what it depends on is told with what there is of it.
#[test]
fn plugins_are_found_by_what_they_say_of_themselves() {
    let described = Package::echo().with("description", json!("Repeats")).with("tags", json!(["parrot"]));
    let daemon = Daemon::with([described, hostile("tame")]);
    let needs = json!({"plugins": [{"id": "echo", "version": "^0.1"}, {"id": "guest", "version": "^1"}]});
    let search = |parameters: Value| daemon.operate("search", &parameters).expect("it answers");
    for version in ["1.0.0", "1.1.0"] {
        install(&daemon, &guest(version).with("kind", json!("workflow")));
    }
    install(&daemon, &Package::hostile("needs", "tame").with("dependencies", needs));
    assert_eq!(ids(&search(json!({"text": "Parrot"}))), ["echo"]);
    let guests = search(json!({"kind": "workflow"}));
    let versions: Vec<_> = guests["plugins"].as_array().expect("a list").iter().map(|one| &one["version"]).collect();
    assert_eq!(versions, ["1.1.0", "1.0.0"], "the highest first");
    assert_eq!(ids(&search(json!({"permission": "execute_code", "text": "hostile"}))), ["hostile"]);
    // Only its program knows its actions; that of the newer version was tried when it was installed.
    assert_eq!(ids(&search(json!({"text": "swallow"}))), ["guest"]);
    expect_echo(&daemon, "hostile");
    assert_eq!(ids(&search(json!({"text": "swallow"}))), ["guest", "hostile"]);
    assert_eq!(ids(&search(json!({"state": "active"}))), ["guest", "hostile"]);
    daemon.operate("disable", &json!({"plugin": "guest", "version": "=1.1.0"})).expect("it is there");
    assert_eq!(search(json!({"state": "disabled"}))["plugins"][0]["version"], "1.1.0");
    let refused = error(daemon.operate("search", &json!({"kind": "toool"})), ErrorCode::InvalidParams);
    expect_text(&refused.message, "there are tool, llm_provider");

    let info = |plugin: &str| daemon.operate("info", &json!({ "plugin": plugin })).expect("it is known");
    let met: Vec<_> =
        info("needs")["dependencies"].as_array().expect("a list").iter().map(|one| one["met_by"].clone()).collect();
    assert_eq!(met, ["0.1.0", "1.0.0"], "what is disabled does not count");
    assert_eq!(info("echo")["dependants"], json!(["needs 0.1.0"]));
    assert_eq!((info("echo").get("installed"), info("needs")["installed"]["by"].is_string()), (None, true));
    daemon.operate("disable", &json!({"plugin": "guest", "version": "=1.0.0"})).expect("it is there");
    assert_eq!(info("needs")["dependencies"][1].get("met_by"), None);
    daemon.stop_and_expect_no_orphans();
}

/// Every call is counted once, by its end, whichever daemon it came to and whatever became of the version since.
#[test]
fn what_is_counted_outlives_the_daemon_and_the_version() {
    let daemon = Daemon::with([hostile("tame")]);
    install(&daemon, &guest("1.0.0"));
    let unused = usage(&daemon, "guest");
    assert_eq!((&unused["installs"], &unused["calls"]), (&json!(1), &json!(0)));
    assert_eq!((unused.get("latency"), unused.get("last_used_unix_ms")), (None, None));
    for _ in 0..3 {
        expect_echo(&daemon, "guest");
    }
    error(daemon.agent().call("guest", "no-such-deed", &json!(1)), ErrorCode::ActionNotFound);
    error(daemon.agent().call("guest", "abort", &json!(1)), ErrorCode::Crashed);
    let before = usage(&daemon, "guest");
    assert_eq!((&before["ok"], &before["crashed"], &before["calls"]), (&json!(3), &json!(1), &json!(4)), "{before}");
    assert_eq!(before["latency"]["answers"], 3, "only what was answered took its time: {before}");
    // Made anew, it counts on.
    for operation in ["disable", "enable"] {
        daemon.operate(operation, &json!({"plugin": "guest"})).expect("it is there");
    }
    expect_echo(&daemon, "guest");
    assert_eq!(usage(&daemon, "guest")["ok"], 4);

    let daemon = after_a_stop(daemon);
    let kept = usage(&daemon, "guest");
    assert_eq!(
        (&kept["ok"], &kept["crashed"], &kept["latency"]["answers"]),
        (&json!(4), &json!(1), &json!(4)),
        "{kept}"
    );
    expect_echo(&daemon, "guest");
    let now = usage(&daemon, "guest");
    assert_eq!(now["ok"], 5);
    assert!(kept["last_used_unix_ms"].as_u64() < now["last_used_unix_ms"].as_u64(), "{kept} {now}");
    let quantiles = ["p50_us", "p90_us", "p99_us", "max_us"].map(|name| now["latency"][name].as_u64());
    assert!(quantiles[0] > Some(0) && quantiles.is_sorted(), "{now}");
    daemon.operate("uninstall", &json!({"plugin": "guest"})).expect("it is installed");

    let daemon = after_a_stop(daemon);
    let gone = usage(&daemon, "guest");
    assert_eq!((&gone["present"], &gone["ok"], &gone["installs"]), (&json!(false), &json!(5), &json!(1)));
    let all = daemon.operate("stats", &json!({})).expect("it answers");
    let names: Vec<_> = all["plugins"].as_array().expect("a list").iter().map(|one| &one["id"]).collect();
    assert_eq!(names, ["guest", "hostile"]);
    error(daemon.operate("stats", &json!({"plugin": "guest", "version": "^2"})), ErrorCode::PluginNotFound);
    daemon.stop_and_expect_no_orphans();
}

/// Whoever overwrites its files, and cuts them short, ends no plugin, and no daemon; the next one puts aside what is left.
#[test]
fn a_database_that_is_damaged_meanwhile_costs_statistics_only() {
    let daemon = Daemon::with([Package::echo()]);
    expect_echo(&daemon, "echo");
    // By then it is written what serves: the files are not taken from under a write.
    daemon.operate("rescan", &json!({})).expect("it looks");
    break_the_database(&daemon);
    for operation in ["stats", "status", "disable", "enable", "rescan"] {
        // Some of it is in memory, and some is not.
        let _ = daemon.operate(operation, &json!({"plugin": "echo"}));
    }
    expect_echo(&daemon, "echo");
    let daemon = after_a_stop(daemon);
    expect_text(&daemon.log(), "registry.sqlite3.damaged-1");
    expect_echo(&daemon, "echo");
    assert_eq!(usage(&daemon, "echo")["ok"], 1, "counted since");
    daemon.stop_and_expect_no_orphans();
}

/// The version that a call gets, as the plugin says itself.
fn serves(daemon: &Daemon, version: Option<&str>) -> Result<String, palisade_protocol::ErrorBody> {
    let mut agent = daemon.agent();
    let call = Call { action: "environment", plugin: Some("guest"), version, ..Call::default() };
    let id = agent.begin_with(&call, &pack(&json!(null)));
    agent.finish(id).map(|found| found["HOSTILE_VERSION"].as_str().unwrap_or_default().to_owned())
}

/// It takes calls, and every other that fits goes before it; whoever calls it is told once.
#[test]
fn a_deprecated_version_is_the_last_that_is_chosen() {
    let daemon = Daemon::with([Package::echo()]);
    for version in ["1.0.0", "1.1.0", "2.0.0-rc.1"] {
        install(&daemon, &guest(version));
    }
    let deprecate = |daemon: &Daemon, version: &str, undo: bool| {
        let reason = if undo { json!(null) } else { json!("it forgets") };
        let parameters = json!({"plugin": "guest", "version": version, "reason": reason, "undo": undo});
        daemon.operate("deprecate", &parameters)
    };
    error(daemon.operate("deprecate", &json!({"plugin": "guest"})), ErrorCode::InvalidParams);
    let long = json!({"plugin": "guest", "version": "=1.1.0", "reason": "x".repeat(513)});
    error(daemon.operate("deprecate", &long), ErrorCode::InvalidParams);
    assert_eq!(serves(&daemon, None), Ok("1.1.0".into()));
    deprecate(&daemon, "=1.1.0", false).expect("it is there");
    let expected = |daemon: &Daemon| {
        assert_eq!(serves(daemon, None), Ok("1.0.0".into()));
        assert_eq!(serves(daemon, Some("^1")), Ok("1.0.0".into()));
        assert_eq!(serves(daemon, Some("^1.1")), Ok("1.1.0".into()), "where no other fits");
        assert_eq!(serves(daemon, Some("==1.1.0")), Ok("1.1.0".into()), "of whoever names it");
    };
    expected(&daemon);
    let daemon = after_a_stop(daemon);
    expected(&daemon);
    expect_text(&daemon.log(), "guest 1.1.0 is deprecated: it forgets");
    let described = |version: &str| {
        daemon.operate("describe", &json!({"plugin": "guest", "version": version})).expect("it is known")
    };
    assert_eq!(described("=1.1.0")["deprecated"], "guest 1.1.0 is deprecated: it forgets");
    assert_eq!(described("=1.0.0").get("deprecated"), None);
    let told = palisade(&daemon.socket(), &["call", "guest@^1.1", "echo", "--params", "7"]);
    assert_eq!((told.status, told.stdout.as_str()), (Some(0), "7\n"), "{}", told.stderr);
    assert_eq!(told.stderr, "palisade: warning: guest 1.1.0 is deprecated: it forgets\n");
    let silent = palisade(&daemon.socket(), &["--json", "call", "guest@^1.1", "echo", "--params", "7"]);
    assert_eq!((silent.stdout.as_str(), silent.stderr.as_str()), ("7\n", ""));
    let list = palisade(&daemon.socket(), &["list"]).stdout;
    assert_eq!(list.lines().filter(|line| line.contains(", deprecated")).count(), 1, "{list}");
    // A release that is deprecated goes before a pre-release that nobody asked for.
    deprecate(&daemon, "=1.0.0", false).expect("it is there");
    assert_eq!(serves(&daemon, None), Ok("1.1.0".into()));
    for _ in 0..2 {
        deprecate(&daemon, "=1.1.0", true).expect("it is there");
    }
    assert_eq!(serves(&daemon, Some("^1")), Ok("1.1.0".into()));
    daemon.operate("uninstall", &json!({"plugin": "guest", "version": "=1.0.0"})).expect("it is installed");
    install(&daemon, &guest("1.0.0"));
    let status = daemon.operate("status", &json!({"plugin": "guest", "version": "=1.0.0"})).expect("it is there");
    assert_eq!(status.get("deprecated"), None, "what is removed is forgotten");
    daemon.stop_and_expect_no_orphans();
}

/// Every form that a version can be asked for in, over the socket and by the command line: the same version answers.
#[test]
fn a_call_gets_the_version_that_its_specifier_names() {
    let daemon = Daemon::with([Package::echo()]);
    let there = ["1.1.0", "1.2.0", "1.2.3", "1.3.0-rc.1", "1.9.0", "2.0.0", "2.1.0-beta.1", "3.0.0-rc.1"];
    for version in there {
        install(&daemon, &guest(version));
    }
    for (specifier, version) in [
        (None, "2.0.0"),
        (Some("*"), "2.0.0"),
        (Some("1.2.3"), "1.9.0"),
        (Some("=1.2.3"), "1.2.3"),
        (Some("=1.2"), "1.2.3"),
        (Some("==1.2.3"), "1.2.3"),
        (Some("==1.2"), "1.2.0"),
        (Some("==1.2.*"), "1.2.3"),
        (Some("^1.2"), "1.9.0"),
        (Some("~1.2"), "1.2.3"),
        (Some("~=1.2.1"), "1.2.3"),
        (Some("~=1.2"), "1.9.0"),
        (Some("1.*"), "1.9.0"),
        (Some("1.2.x"), "1.2.3"),
        (Some(">=1.2,<2"), "1.9.0"),
        (Some(">=1.2, <1.9"), "1.2.3"),
        (Some(">1.2.3, <=1.9"), "1.9.0"),
        (Some("!=2.0.0"), "1.9.0"),
        (Some("^1, !=1.9.0"), "1.2.3"),
        // Pre-releases: asked for by name, or where nothing else fits.
        (Some(">=1.3.0-rc.1, <1.9"), "1.3.0-rc.1"),
        (Some("==1.3.0-rc.1"), "1.3.0-rc.1"),
        (Some(">2.1, <3.0.1"), "3.0.0-rc.1"),
        (Some(">2.0.0, <3"), "2.1.0-beta.1"),
    ] {
        assert_eq!(serves(&daemon, specifier), Ok(version.into()), "{specifier:?}");
        let target = specifier.map_or("guest".to_owned(), |specifier| format!("guest@{specifier}"));
        let ran = palisade(&daemon.socket(), &["--json", "call", &target, "environment"]);
        assert_eq!(ran.status, Some(0), "{target}: {}", ran.stderr);
        let environment: Value = serde_json::from_str(&ran.stdout).expect("it is JSON");
        assert_eq!(environment["HOSTILE_VERSION"], version, "{target}");
    }
    for specifier in ["^3", ">2, <2.0.1", "==1.2.4", "~=1.9.1"] {
        let refused = serves(&daemon, Some(specifier)).expect_err("there is none");
        assert_eq!(refused.code, ErrorCode::VersionNotFound, "{specifier}: {refused}");
        assert_eq!(refused.message, format!("no version of guest fits {specifier}"));
        assert_eq!(refused.hint, Some(format!("there is {}", there.join(", "))), "{specifier}");
        let ran = palisade(&daemon.socket(), &["call", &format!("guest@{specifier}"), "environment"]);
        assert_eq!(ran.status, Some(3), "{}", ran.stderr);
        expect_text(&ran.stderr, &there.join(", "));
    }
    for (specifier, what) in
        [("==1!1.0", "has an epoch"), ("~=1", "at least two numbers"), ("1.0.post1", "post-release")]
    {
        let refused = serves(&daemon, Some(specifier)).expect_err("that is none");
        assert_eq!(refused.code, ErrorCode::InvalidParams, "{specifier}: {refused}");
        expect_text(&refused.message, what);
        let ran = palisade(&daemon.socket(), &["call", &format!("guest@{specifier}"), "environment"]);
        assert_eq!(ran.status, Some(4), "{}", ran.stderr);
        expect_text(&ran.stderr, what);
    }
    daemon.stop_and_expect_no_orphans();
}
