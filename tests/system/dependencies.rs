//! What others depend on: without it they do not start, and once it is there they do.

use std::path::PathBuf;

use palisade_protocol::{ErrorBody, ErrorCode};
use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::Package;
use serde_json::{Value, json};

use crate::cli::palisade;
use crate::support::{error, expect_echo, expect_text};

/// A plugin that depends on those.
fn needing(id: &str, others: &Value) -> Package {
    Package::hostile(id, "tame").with("dependencies", json!({ "plugins": others }))
}

fn guest() -> Package {
    Package::hostile("guest", "tame").with("version", json!("1.0.0")).environment("HOSTILE_VERSION", "1.0.0")
}

/// Puts a package where no plugin directory is, and installs it.
fn install(daemon: &Daemon, package: &Package) {
    let folder: PathBuf = package.write(&daemon.path().join("elsewhere"), daemon.marker());
    daemon.operate("install", &json!({ "path": folder, "force": true })).expect("it is installed");
}

fn refused(daemon: &Daemon, plugin: &str) -> ErrorBody {
    error(daemon.agent().call(plugin, "echo", &json!(1)), ErrorCode::DependencyUnavailable)
}

fn status(daemon: &Daemon, plugin: &str) -> Value {
    daemon.operate("status", &json!({ "plugin": plugin })).expect("it is known")
}

/// Calls, starts and questions are told what is missing; what was refused starts once it is there, and nothing is held against it.
#[test]
fn what_lacks_a_dependency_starts_once_it_is_there() {
    let needs = needing("needs", &json!([{"id": "guest", "version": "^1"}]));
    let daemon = Daemon::with([Package::echo(), needs]);
    let missing = "needs =0.1.0 is wanted; needs 0.1.0 needs guest ^1; there is no guest";
    let refusal = refused(&daemon, "needs");
    assert_eq!(refusal.message, format!("needs 0.1.0 does not start without what it depends on: {missing}"));
    expect_text(&refusal.hint.unwrap_or_default(), "`palisade info needs@=0.1.0`");
    for operation in ["start", "restart", "describe"] {
        let refusal = error(daemon.operate(operation, &json!({"plugin": "needs"})), ErrorCode::DependencyUnavailable);
        expect_text(&refusal.message, missing);
    }
    let before = status(&daemon, "needs");
    assert_eq!((&before["lacks"], &before["state"]), (&json!(missing), &json!("discovered")));

    install(&daemon, &guest());
    expect_echo(&daemon, "needs");
    let running = status(&daemon, "needs");
    assert_eq!((running.get("lacks"), &running["restarts"]), (None, &json!(0)));

    // What runs goes on; its next start is refused.
    let disabled = daemon.operate("disable", &json!({"plugin": "guest"})).expect("it is there");
    assert_eq!(disabled["broken"], json!(["needs 0.1.0"]));
    let again = daemon.operate("disable", &json!({"plugin": "guest"})).expect("it is there");
    assert_eq!(again.get("broken"), None, "it was so before");
    expect_echo(&daemon, "needs");
    let refusal = error(daemon.operate("restart", &json!({"plugin": "needs"})), ErrorCode::DependencyUnavailable);
    expect_text(&refusal.message, &format!("{missing}; guest 1.0.0 is disabled"));
    expect_echo(&daemon, "needs");
    daemon.operate("stop", &json!({"plugin": "needs"})).expect("it runs");
    error(daemon.operate("start", &json!({"plugin": "needs"})), ErrorCode::DependencyUnavailable);
    daemon.operate("enable", &json!({"plugin": "guest"})).expect("it is there");
    daemon.operate("start", &json!({"plugin": "needs"})).expect("there is what it needs");
    expect_echo(&daemon, "needs");
    daemon.stop_and_expect_no_orphans();
}

/// One that runs always starts by itself when there is what it needs, however far away that is.
#[test]
fn a_plugin_that_always_runs_waits_for_what_it_depends_on() {
    let near = needing("near", &json!([{"id": "guest", "version": "^1"}]));
    let needs = needing("needs", &json!([{"id": "near", "version": "*"}])).with("activation", json!("eager"));
    let daemon = Daemon::with([Package::echo(), near, needs]);
    expect_echo(&daemon, "echo");
    let lacks = "needs 0.1.0 needs near *; near 0.1.0 needs guest ^1; there is no guest";
    let before = status(&daemon, "needs");
    expect_text(before["lacks"].as_str().unwrap_or_default(), lacks);
    assert_eq!(before["state"], "discovered");
    install(&daemon, &guest());
    wait_for("its start", || (status(&daemon, "needs")["state"] == "active").then_some(()));
    daemon.stop_and_expect_no_orphans();
}

/// Two that want different versions of a third, a circle, and one whose operator has not said yes.
#[test]
fn conflicts_circles_and_what_waits_for_consent_are_no_dependencies() {
    let conflict = needing("both", &json!([{"id": "guest", "version": "^1"}, {"id": "old", "version": "*"}]));
    let old = needing("old", &json!([{"id": "guest", "version": "<1"}]));
    let younger = guest().with("version", json!("0.9.0")).environment("HOSTILE_VERSION", "0.9.0");
    let round = needing("round", &json!([{"id": "about", "version": "*"}]));
    let about = needing("about", &json!([{"id": "round", "version": "*"}]));
    let shy = needing("shy", &json!([{"id": "asking", "version": "*"}]));
    let asking = Package::hostile("asking", "tame").asking(&json!([{"file_read": ["/srv"]}]));
    let does_without = needing("without", &json!([{"id": "nobody", "version": "*", "optional": true}]));
    let rules = "[permissions]\npolicy = \"deny\"\nrules = [{ permission = \"file_read\", scope = [\"/srv\"], decision = \"ask\" }]\n";
    let options = DaemonOptions::with([conflict, old, round, about, shy, does_without]).configuration(rules);
    let daemon = Daemon::start(options);
    install(&daemon, &guest());
    install(&daemon, &younger);
    install(&daemon, &asking);
    expect_text(&refused(&daemon, "both").message, "old 0.1.0 needs guest <1");
    expect_echo(&daemon, "old");
    expect_text(&refused(&daemon, "round").message, "dependency cycle: about -> round -> about");
    expect_text(&refused(&daemon, "shy").message, "asking 0.1.0 waits for its operator's consent");
    daemon.operate("grant", &json!({"plugin": "asking"})).expect("it asks");
    expect_echo(&daemon, "shy");
    expect_echo(&daemon, "without");
    daemon.stop_and_expect_no_orphans();
}

/// Whoever disables something is told who is without it, unless another version that takes calls does as well.
#[test]
fn who_is_without_what_was_disabled_is_said() {
    let daemon = Daemon::with([Package::echo(), needing("needs", &json!([{"id": "guest", "version": "^1"}]))]);
    install(&daemon, &guest());
    install(&daemon, &guest().with("version", json!("1.1.0")).environment("HOSTILE_VERSION", "1.1.0"));
    let disable = |plugin| palisade(&daemon.socket(), &["disable", plugin]);
    let other = disable("guest@1.0.0");
    assert_eq!((other.status, other.stdout.as_str()), (Some(0), ""), "{}", other.stderr);
    let last = disable("guest@1.1.0");
    assert_eq!((last.status, last.stdout.as_str()), (Some(0), "needs 0.1.0 is without guest now\n"), "{}", last.stderr);
    daemon.stop_and_expect_no_orphans();
}

/// What it depends on may turn out to wait for its operator only once it runs.
#[test]
fn what_waits_for_consent_to_what_it_announces_is_lacking() {
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).configuration("[permissions]\n"));
    let announcing = |version: &str, description: &str| {
        let actions = json!([{"name": "echo", "description": description}]).to_string();
        let guest = guest().with("version", json!(version)).environment("HOSTILE_VERSION", version);
        guest.environment("HOSTILE_ACTIONS", &actions).asking(&json!([]))
    };
    install(&daemon, &announcing("1.0.0", "one"));
    install(&daemon, &needing("needs", &json!([{"id": "guest", "version": "^1"}])).asking(&json!([])));
    expect_echo(&daemon, "guest");
    daemon.operate("uninstall", &json!({"plugin": "guest", "force": true})).expect("it is installed");
    install(&daemon, &announcing("1.1.0", "another"));
    assert_eq!(status(&daemon, "needs").get("lacks"), None, "nobody knows yet");
    error(daemon.agent().call("guest", "echo", &json!(1)), ErrorCode::ConsentRequired);
    let now = status(&daemon, "needs");
    expect_text(now["lacks"].as_str().unwrap_or_default(), "guest 1.1.0 waits for its operator's consent");
    daemon.operate("grant", &json!({"plugin": "guest"})).expect("it asks");
    assert_eq!(status(&daemon, "needs").get("lacks"), None);
    expect_echo(&daemon, "needs");
    daemon.stop_and_expect_no_orphans();
}
