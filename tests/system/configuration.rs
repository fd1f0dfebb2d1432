//! What a plugin is configured with, and how that is changed while it runs.

use palisade_protocol::{ErrorBody, ErrorCode};
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::Package;
use serde_json::{Value, json};

use crate::support::{error, expect_echo, expect_text, hostile};

/// The hostile plugin with a schema that has defaults.
fn configurable(mode: &str) -> Package {
    hostile(mode).with(
        "configuration_schema",
        json!({
            "type": "object",
            "properties": {
                "name": { "type": "string", "default": "nobody" },
                "level": { "enum": ["low", "high"], "default": "low" },
                "server": {
                    "type": "object",
                    "default": {},
                    "properties": { "port": { "type": "integer", "minimum": 1, "maximum": 65535, "default": 80 } },
                },
                "refuse": { "type": "boolean" },
                "exit": { "type": "boolean" },
            },
            "additionalProperties": false,
        }),
    )
}

fn configure(daemon: &Daemon, change: &Value) -> Result<Value, ErrorBody> {
    let mut wanted = json!({"plugin": "hostile"});
    wanted.as_object_mut().expect("a map").extend(change.as_object().expect("a map").clone());
    daemon.operate("configure", &wanted)
}

fn shown(daemon: &Daemon) -> Value {
    daemon.operate("config", &json!({"plugin": "hostile"})).expect("it is known")
}

/// What the process has that serves, which is started for this if need be.
fn told(daemon: &Daemon) -> Value {
    daemon.agent().call("hostile", "configuration", &json!(null)).expect("it answers")
}

fn generation(daemon: &Daemon) -> Value {
    daemon.agent().call("hostile", "generation", &json!(null)).expect("it answers")
}

/// Defaults at every depth, the file over them, an operator over that; each change is checked, kept, and taken back, by whichever daemon.
#[test]
fn what_is_said_goes_over_the_file_and_the_defaults_and_is_kept() {
    let file = "[plugins.hostile.configuration]\nname = \"file\"\n";
    let daemon = Daemon::start(DaemonOptions::with([configurable("tame")]).configuration(file));
    assert_eq!(told(&daemon), json!({"name": "file", "level": "low", "server": {"port": 80}}));
    let first = generation(&daemon);

    for (set, message, at) in [
        (json!({"level": "loud"}), "/level: \"loud\" is not one of \"low\" or \"high\"", "/level"),
        (json!({"server.port": 0}), "/server/port: 0 is less than the minimum of 1", "/server/port"),
        (json!({"/server/port": "80"}), "/server/port: \"80\" is not of type \"integer\"", "/server/port"),
        (json!({"lever": "low"}), "('lever' was unexpected)", ""),
        // All of it, or nothing.
        (json!({"name": "x", "level": 1}), "/level: 1 is not one of", "/level"),
    ] {
        let refused = error(configure(&daemon, &json!({ "set": set })), ErrorCode::ConfigurationInvalid);
        expect_text(&refused.message, message);
        assert_eq!(refused.details.expect("each place is there")["violations"][0]["at"], at);
    }
    for change in [
        json!({}),
        json!({"set": {"name.first": "x"}, "unset": []}),
        json!({"set": {"": 1}}),
        json!({"unset": ["name"]}),
        json!({"undo": true}),
        json!({"undo": true, "unset": ["name"]}),
    ] {
        let refused = configure(&daemon, &change).expect_err("there is nothing to change");
        assert!(matches!(refused.code, ErrorCode::InvalidParams | ErrorCode::ConfigurationInvalid), "{refused}");
    }
    assert_eq!(shown(&daemon)["history"], json!([]));
    assert_eq!(generation(&daemon), first, "nothing was changed, and nothing was started anew");

    let set = |daemon: &Daemon, set: Value| configure(daemon, &json!({ "set": set })).expect("it fits");
    let changed = set(&daemon, json!({"server.port": 81, "level": "high"}));
    assert_eq!((&changed["applied"], &changed["places"]), (&json!("restarted"), &json!(["/level", "/server/port"])));
    let second = json!({"name": "file", "level": "high", "server": {"port": 81}});
    assert_eq!((told(&daemon), &changed["configuration"]), (second.clone(), &second));
    assert_ne!(generation(&daemon), first);
    set(&daemon, json!({"name": "operator"}));
    let unset = configure(&daemon, &json!({"unset": ["level"], "set": {"server.port": 82}})).expect("it was set");
    assert_eq!(unset["configuration"], json!({"name": "operator", "level": "low", "server": {"port": 82}}));
    let history: Vec<_> =
        shown(&daemon)["history"].as_array().expect("a list").iter().map(|one| one["places"].clone()).collect();
    assert_eq!(history, [json!(["/level", "/server/port"]), json!(["/name"]), json!(["/level", "/server/port"])]);

    // The next daemon has it all, and what was taken back.
    let undone = configure(&daemon, &json!({"undo": true})).expect("there is a change");
    assert_eq!(undone["configuration"], json!({"name": "operator", "level": "high", "server": {"port": 81}}));
    let folder = daemon.kill_nine();
    let again = DaemonOptions::default().folder(folder).configuration(file);
    let daemon = Daemon::start(again);
    assert_eq!(told(&daemon), undone["configuration"]);
    let undone = configure(&daemon, &json!({"undo": true})).expect("there is another one");
    assert_eq!(undone["configuration"], second);
    assert_eq!(told(&daemon), second);
    configure(&daemon, &json!({"undo": true})).expect("there is the first");
    let refused = error(configure(&daemon, &json!({"undo": true})), ErrorCode::InvalidParams);
    expect_text(&refused.message, "no change of the configuration of hostile is left");
    assert_eq!(told(&daemon), json!({"name": "file", "level": "low", "server": {"port": 80}}));
    let undone = shown(&daemon);
    let undone: Vec<_> =
        undone["history"].as_array().expect("a list").iter().map(|one| one["undone"] == true).collect();
    assert_eq!(undone, [true; 3]);
    daemon.stop_and_expect_no_orphans();
}

/// A process that does not start with it, or dies of it, is no reason for the one before to go, nor for anything to be kept.
#[test]
fn a_configuration_that_no_process_starts_with_changes_nothing() {
    let daemon = Daemon::with([configurable("tame"), Package::echo()]);
    let first = generation(&daemon);
    for (set, why) in
        [(json!({"refuse": true}), "it does not want that"), (json!({"exit": true}), "it cannot bear that")]
    {
        let refused = error(configure(&daemon, &json!({ "set": set })), ErrorCode::ConfigurationInvalid);
        expect_text(&refused.message, "hostile 0.1.0 does not start with it, and goes on as it was: ");
        expect_text(&refused.message, why);
        assert_eq!((generation(&daemon), shown(&daemon)["said"].clone()), (first.clone(), json!({})));
    }
    // One that stands still cannot be tried.
    daemon.operate("pause", &json!({"plugin": "hostile"})).expect("it runs");
    let refused = error(configure(&daemon, &json!({"set": {"name": "x"}})), ErrorCode::Unavailable);
    expect_text(&refused.hint.unwrap_or_default(), "palisade resume hostile");
    daemon.operate("resume", &json!({"plugin": "hostile"})).expect("it is paused");
    assert_eq!(generation(&daemon), first);

    // What does not run has it with its next start, and nothing is started for it.
    daemon.operate("stop", &json!({"plugin": "hostile"})).expect("it runs");
    let changed = configure(&daemon, &json!({"set": {"name": "x"}})).expect("it fits");
    assert_eq!(changed["applied"], "nothing_runs");
    assert!(daemon.status("hostile").generations.is_empty());
    daemon.operate("start", &json!({"plugin": "hostile"})).expect("it is stopped");
    assert_eq!(told(&daemon)["name"], "x");
    // One that failed for it is tried again.
    configure(&daemon, &json!({"undo": true})).expect("it was changed");
    daemon.operate("stop", &json!({"plugin": "hostile"})).expect("it runs");
    configure(&daemon, &json!({"set": {"exit": true}})).expect("nothing runs that could be asked");
    daemon.operate("start", &json!({"plugin": "hostile"})).expect_err("it exits");
    let changed = configure(&daemon, &json!({"undo": true})).expect("there is a change");
    expect_text(&changed["notes"].to_string(), "had failed, and is tried again");
    assert_eq!(told(&daemon)["name"], "nobody");
    daemon.stop_and_expect_no_orphans();
}

/// Whoever changes it at the same time: one after the other, and nothing is lost.
#[test]
fn changes_at_the_same_time_are_made_one_after_the_other() {
    let daemon = Daemon::with([configurable("tame")]);
    generation(&daemon);
    let places = ["name", "server.port", "level"];
    let values = [json!("x"), json!(81), json!("high")];
    std::thread::scope(|scope| {
        for (place, value) in places.iter().zip(&values) {
            let daemon = &daemon;
            scope.spawn(move || configure(daemon, &json!({"set": { (*place): value }})).expect("it fits"));
        }
    });
    assert_eq!(told(&daemon), json!({"name": "x", "level": "high", "server": {"port": 81}}));
    assert_eq!(shown(&daemon)["history"].as_array().map(Vec::len), Some(3));
    daemon.stop_and_expect_no_orphans();
}

/// An update whose schema the configuration does not fit takes no calls, and takes none away.
#[test]
fn a_version_that_it_does_not_fit_leaves_the_calls_to_the_one_before() {
    let daemon = Daemon::with([Package::echo()]);
    let guest = |version: &str, kind: &str| {
        let schema = json!({"properties": {"depth": {"type": kind}}, "required": ["depth"]});
        let package = Package::hostile("guest", "tame").with("version", json!(version));
        let package = package.environment("HOSTILE_VERSION", version).with("configuration_schema", schema);
        package.write(&daemon.path().join("elsewhere"), daemon.marker())
    };
    let change = |depth: Value| daemon.operate("configure", &json!({"plugin": "guest", "set": {"depth": depth}}));
    let folder = guest("1.0.0", "integer");
    daemon.operate("install", &json!({ "path": folder })).expect("it is installed");
    let refused = error(daemon.agent().call("guest", "echo", &json!(1)), ErrorCode::ConfigurationInvalid);
    expect_text(&refused.message, "guest 1.0.0 takes no calls: ");
    expect_text(&refused.message, "\"depth\" is a required property");
    expect_text(&refused.hint.unwrap_or_default(), "palisade config guest");
    change(json!(1)).expect("it fits");
    expect_echo(&daemon, "guest");

    guest("1.1.0", "string");
    let updated = daemon.operate("update", &json!({"plugin": "guest"})).expect("there is a newer one");
    assert_eq!(updated["updates"][0]["version"], "1.1.0", "{updated}");
    expect_echo(&daemon, "guest");
    let refused = error(
        daemon.operate("start", &json!({"plugin": "guest", "version": "1.1.0"})),
        ErrorCode::ConfigurationInvalid,
    );
    expect_text(&refused.message, "/depth: 1 is not of type \"string\"");
    let status =
        |version: &str| daemon.operate("status", &json!({"plugin": "guest", "version": version})).expect("it is there");
    assert_eq!((&status("1.0.0")["state"], &status("1.0.0")["misconfigured"]), (&json!("active"), &Value::Null));
    expect_text(&status("1.1.0")["misconfigured"].to_string(), "/depth");
    expect_text(&daemon.operate("doctor", &json!({})).expect("it answers").to_string(), "guest 1.1.0 takes no calls");

    // The highest is meant, and the change tells whom it leaves behind.
    let changed = change(json!("deep")).expect("it fits the newest");
    assert_eq!(changed["version"], "1.1.0");
    expect_text(&changed["notes"].to_string(), "guest 1.0.0 takes no calls with it: /depth");
    expect_echo(&daemon, "guest");
    assert_eq!(status("1.1.0")["state"], "active");
    daemon.stop_and_expect_no_orphans();
}
