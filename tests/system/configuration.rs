//! What a plugin is configured with, and how that is changed while it runs.

use palisade_protocol::{Call, ErrorBody, ErrorCode, Kind};
use palisade_tests::command::built;
use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::{Entry, Package};
use palisade_tests::wire::pack;
use serde_json::{Value, json};

use crate::cli::palisade;
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
        (json!({"lever": "low"}), "/lever: there is no property of this name; did you mean `level`?", "/lever"),
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

/// What nobody can check is taken, and that is said.
#[test]
fn a_plugin_without_a_schema_is_configured_with_anything() {
    let daemon = Daemon::with([Package::hostile("hostile", "tame")]);
    let changed = configure(&daemon, &json!({"set": {"anything": 1, "kept": 1}})).expect("nothing speaks against it");
    let told = "hostile 0.1.0 has no `configuration_schema`: whether it reads any of this is not known";
    assert_eq!(changed["notes"], json!([told]), "{changed}");
    configure(&daemon, &json!({"set": {"anything": 2}})).expect("nothing speaks against it");
    let history = shown(&daemon)["history"].clone();
    assert_eq!((&history[0]["was"], &history[1]["was"]), (&json!({}), &json!({"/anything": 1})), "{history}");
    let undone = configure(&daemon, &json!({"undo": true})).expect("there is a change");
    assert_eq!(undone["notes"], json!([]), "{undone}");
    daemon.stop_and_expect_no_orphans();
}

/// The hostile plugin, which says this when it is offered a configuration.
fn saying(what: &str) -> Daemon {
    let daemon = Daemon::with([configurable("tame").environment("HOSTILE_CONFIGURE", what)]);
    assert_eq!(told(&daemon)["name"], "nobody");
    daemon
}

/// What the process that serves says itself comes first.
#[test]
fn a_running_plugin_is_asked_first() {
    let set = json!({"set": {"name": "x"}});
    let daemon = saying("accept");
    let first = generation(&daemon);
    let changed = configure(&daemon, &set).expect("it is accepted");
    assert_eq!((&changed["applied"], &changed["notes"]), (&json!("accepted"), &json!([])));
    assert_eq!((told(&daemon)["name"].clone(), generation(&daemon)), (json!("x"), first.clone()));
    let undone = configure(&daemon, &json!({"undo": true})).expect("there is a change");
    assert_eq!((&undone["applied"], generation(&daemon)), (&json!("accepted"), first));
    // It is asked nothing where nothing changes for it.
    let same = configure(&daemon, &json!({"set": {"name": "nobody"}})).expect("it is the default");
    assert_eq!((&same["applied"], &same["places"]), (&json!("accepted"), &json!(["/name"])), "{same}");
    let same = configure(&daemon, &json!({"set": {"name": "nobody"}})).expect("it was said");
    assert_eq!((&same["applied"], &same["places"]), (&json!("unchanged"), &json!([])), "{same}");
    daemon.stop_and_expect_no_orphans();

    let daemon = saying("refuse");
    let first = generation(&daemon);
    let refused = error(configure(&daemon, &set), ErrorCode::ConfigurationInvalid);
    assert_eq!(refused.message, "hostile 0.1.0 refuses it, and goes on as it was: it never wants that");
    assert_eq!((told(&daemon)["name"].clone(), generation(&daemon)), (json!("nobody"), first));
    assert_eq!(shown(&daemon)["history"], json!([]));
    daemon.stop_and_expect_no_orphans();

    for (what, note) in [
        ("decline", "hostile 0.1.0 is another process now: it is too old for that"),
        ("crash", "hostile 0.1.0 ended when it was offered it, and was started again"),
        ("hang", "hostile 0.1.0 did not answer within 10s, and is another process now"),
    ] {
        let daemon = saying(what);
        let first = generation(&daemon);
        let changed = configure(&daemon, &set).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!((&changed["applied"], &changed["notes"]), (&json!("restarted"), &json!([note])), "{what}");
        assert_eq!(told(&daemon)["name"], "x", "{what}");
        assert_ne!(generation(&daemon), first, "{what}");
        daemon.stop_and_expect_no_orphans();
    }

    // Nobody asked a second time.
    let daemon = saying("twice");
    configure(&daemon, &set).expect("the first answer counts");
    wait_for("the fault of an answer", || daemon.log().contains("which no offer has").then_some(()));
    // One that was started before the change was noted is asked as well, says the same, and ends for it.
    wait_for("a process that has it", || (told(&daemon)["name"] == "x").then_some(()));
    daemon.stop_and_expect_no_orphans();
}

/// What a process does of a configuration that it is asked about, or started with, says nothing of its package: that is not taken back, as
/// others are.
#[test]
fn a_configuration_that_a_package_in_probation_cannot_bear_does_not_take_it_back() {
    let crashing = || configurable("tame").environment("HOSTILE_CONFIGURE", "crash");
    let others = ["first", "second"];
    let other = |id: &str, description: &str| {
        Package::hostile(id, "tame").with("description", json!(description)).with("restart", json!("never"))
    };
    let [first, second] = others.map(|id| other(id, "before"));
    let daemon = Daemon::start(DaemonOptions::with([crashing(), first, second]).configuration("watch = false\n"));
    assert_eq!(told(&daemon)["name"], "nobody");
    others.iter().for_each(|id| expect_echo(&daemon, id));
    crashing().with("description", json!("after")).write(&daemon.plugins(), daemon.marker());
    others.iter().for_each(|id| drop(other(id, "after").write(&daemon.plugins(), daemon.marker())));
    let found = daemon.operate("rescan", &json!({})).expect("it looks");
    assert_eq!(found["changed"], json!(["first 0.1.0", "hostile 0.1.0", "second 0.1.0"]), "{found}");
    let digest =
        || daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known")["snapshot"]["digest"].clone();
    let after = digest();
    let changed = configure(&daemon, &json!({"set": {"name": "x"}})).expect("another process has it");
    expect_text(&changed["notes"].to_string(), "ended when it was offered it, and was started again");
    let refused = error(configure(&daemon, &json!({"set": {"exit": true}})), ErrorCode::ConfigurationInvalid);
    expect_text(&refused.message, "does not start with it, and goes on as it was");
    // Whoever sees that a process of these has failed has seen what there was before, and done what follows from it before the second.
    for id in others {
        error(daemon.agent().call(id, "abort", &json!(null)), ErrorCode::Crashed);
        wait_for("the package before", || {
            let status = daemon.operate("status", &json!({ "plugin": id })).expect("it is known");
            status["passed_over"].is_object().then_some(())
        });
    }
    let status = daemon.operate("status", &json!({"plugin": "hostile"})).expect("it is known");
    assert_eq!((digest(), &status["passed_over"]), (after, &Value::Null), "{status}");
    assert_eq!(told(&daemon)["name"], "x");
    // What it does itself counts as ever.
    error(daemon.agent().call("hostile", "abort", &json!(null)), ErrorCode::Crashed);
    wait_for("the package before", || {
        let status = daemon.operate("status", &json!({"plugin": "hostile"})).expect("it is known");
        status["passed_over"].is_object().then_some(())
    });
    daemon.stop_and_expect_no_orphans();
}

/// Of two versions that run the second refuses: the first gets back what it had.
#[test]
fn what_one_version_accepted_is_taken_back_when_another_refuses() {
    let daemon = Daemon::with([Package::echo()]);
    for (version, says) in [("1.0.0", "accept"), ("2.0.0", "refuse")] {
        let package = Package::hostile("guest", "tame").with("version", json!(version));
        let package = package.environment("HOSTILE_VERSION", version).environment("HOSTILE_CONFIGURE", says);
        let folder = package.write(&daemon.path().join(version), daemon.marker());
        daemon.operate("install", &json!({ "path": folder, "major": true })).expect("it is installed");
        daemon.operate("start", &json!({"plugin": "guest", "version": version})).expect("it starts");
    }
    let first = |action: &str| {
        let mut agent = daemon.agent();
        let call = Call { action, plugin: Some("guest"), version: Some("=1.0.0"), ..Call::default() };
        let id = agent.begin_with(&call, &pack(&json!(null)));
        agent.collect(id).outcome.expect("it answers")
    };
    let before = first("generation");
    let refused = error(
        daemon.operate("configure", &json!({"plugin": "guest", "set": {"name": "x"}})),
        ErrorCode::ConfigurationInvalid,
    );
    expect_text(&refused.message, "guest 2.0.0 refuses it");
    assert_eq!((first("configuration"), first("generation")), (json!({}), before));
    daemon.stop_and_expect_no_orphans();
}

/// The shipped ticker, through the command line: a stream that goes on while its interval is changed.
#[test]
fn the_ticker_ticks_on_while_its_interval_is_changed() {
    let manifest: Value = serde_json::from_str(include_str!("../../plugins/ticker/plugin.json")).expect("it is JSON");
    let mut ticker = Package::new("ticker", Entry::File(built("ticker")));
    for (field, value) in manifest.as_object().expect("it is a map") {
        if !matches!(field.as_str(), "entry_point" | "environment") {
            ticker = ticker.with(field, value.clone());
        }
    }
    let daemon = Daemon::with([ticker]);
    let palisade = |arguments: &[&str]| {
        let ran = palisade(&daemon.socket(), arguments);
        (ran.status, ran.stdout, ran.stderr)
    };
    let silent = (Some(0), String::new(), String::new());
    assert_eq!(palisade(&["config", "ticker", "interval_ms=3600000"]), silent);
    let mut agent = daemon.agent();
    let ticks = agent.begin("ticker", "ticks", &json!(null));
    assert_eq!(agent.next_of(ticks).kind, Some(Kind::StreamOpen));
    let before = daemon.status("ticker").generation;
    // It would wait for an hour.
    assert_eq!(palisade(&["config", "ticker", "interval_ms=10"]), silent);
    for number in 1..=3 {
        let tick = agent.next_of(ticks);
        assert_eq!((tick.kind, &tick.value()["number"]), (Some(Kind::StreamData), &json!(number)));
    }
    assert_eq!(daemon.status("ticker").generation, before);
    agent.cancel(ticks);

    let (status, shown, _) = palisade(&["config", "ticker"]);
    assert_eq!(status, Some(0));
    expect_text(&shown, "/interval_ms");
    expect_text(&shown, "palisade config");
    let (status, _, told) = palisade(&["config", "ticker", "interval_ms"]);
    assert_eq!(status, Some(2), "{told}");
    expect_text(&told, "what is to be set is given as `key=value`");
    let (status, _, told) = palisade(&["config", "ticker", "interval_ms=9"]);
    assert_eq!(status, Some(4));
    expect_text(&told, "/interval_ms: 9 is less than the minimum of 10");
    let (status, _, told) = palisade(&["config", "ticker", "interval_ms=soon"]);
    assert_eq!(status, Some(4));
    expect_text(&told, "`interval_ms` has to be an integer, not `soon`");
    assert_eq!(palisade(&["config", "ticker", "--undo"]), silent);
    assert_eq!(palisade(&["config", "ticker", "--unset", "interval_ms"]), silent);
    let (_, shown, _) = palisade(&["config", "ticker", "--json"]);
    let shown: Value = serde_json::from_str(&shown).expect("it is JSON");
    assert_eq!((&shown["configuration"], &shown["said"]), (&json!({"interval_ms": 1000}), &json!({})));
    let (_, history, _) = palisade(&["config", "ticker", "--history"]);
    expect_text(&history, "taken back");
    daemon.stop_and_expect_no_orphans();
}
