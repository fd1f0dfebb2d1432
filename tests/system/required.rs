//! What a host does not have, and what becomes of a start then: refused by name, or made with less as the operator bears, and said in
//! `status`, in the log and by the doctor. Never a weaker sandbox in silence.
//!
//! Each host is made: a layer is taken away around the daemon. What cannot be required at all is tested beside the configuration.

use palisade_protocol::ErrorCode;
use palisade_tests::daemon::{Daemon, DaemonOptions, Lacking, other_user};
use palisade_tests::package::Package;
use serde_json::{Value, json};

use crate::support::{error, expect_echo, expect_text};

const TOLERANT: &str = "[plugins.tolerant]\non_degraded = \"warn\"\n";

/// One that is refused where it must be, and one for which the operator bears less.
fn both(require: &Value) -> [Package; 2] {
    ["strict", "tolerant"].map(|id| Package::hostile(id, "tame").with("require", require.clone()))
}

fn guarantee(daemon: &Daemon, plugin: &str, control: &str) -> Value {
    let info = daemon.operate("info", &json!({"plugin": plugin})).expect("it is known");
    let guarantees = info["guarantees"].as_array().expect("a list");
    guarantees.iter().find(|guarantee| guarantee["control"] == control).expect("it is reported").clone()
}

/// The one is refused with this sentence and the other runs without, and everybody is told.
fn expect_told(daemon: &Daemon, shortfall: &str, hint: &str) {
    let refused = error(daemon.agent().call("strict", "echo", &json!(1)), ErrorCode::SandboxUnavailable);
    expect_text(&refused.message, shortfall);
    expect_text(&refused.message, hint);
    let status = daemon.operate("status", &json!({"plugin": "strict"})).expect("it is known");
    assert_eq!(status["state"], "failed");
    expect_text(status["reason"].as_str().unwrap_or_default(), shortfall);
    assert_eq!(status.get("degraded"), None, "it does not run with less");

    expect_echo(daemon, "tolerant");
    let status = daemon.operate("status", &json!({"plugin": "tolerant"})).expect("it is known");
    assert_eq!((&status["state"], &status["degraded"]), (&json!("active"), &json!([shortfall])));

    let doctor = daemon.operate("doctor", &json!({})).expect("it answers");
    let summaries: Vec<_> = doctor["checks"]
        .as_array()
        .expect("a list")
        .iter()
        .filter(|check| check["name"] == "plugin")
        .map(|check| check["summary"].as_str().unwrap_or_default().to_owned())
        .collect();
    assert!(summaries.contains(&format!("strict 0.1.0 cannot be started here: {shortfall}")), "{summaries:#?}");
    let borne = format!("tolerant 0.1.0 is confined less than it should be: {shortfall}");
    assert!(summaries.contains(&borne), "{summaries:#?}");
    expect_text(&daemon.log(), "the plugin is confined less than it should be, as configured");
    expect_text(&daemon.log(), shortfall);
}

/// A control that is not there on any host: the operator himself has granted it away.
#[test]
fn what_is_required_and_not_enforced_refuses_the_start() {
    let grant = "grant = [\"execute_code\"]\n";
    let configuration = format!("[plugins.strict]\n{grant}{TOLERANT}{grant}");
    let options = DaemonOptions::with(both(&json!(["seccomp", "exec_once"])));
    let daemon = Daemon::start(options.configuration(&configuration));
    let shortfall = "exec_once: plugin.json requires it, and it is absent: execute_code is granted";
    expect_told(&daemon, shortfall, "see `palisade doctor`, or require less, or set on_degraded = \"warn\"");
    let missed = guarantee(&daemon, "strict", "exec_once");
    assert_eq!(missed["state"], "absent");
    assert_eq!((&missed["required"], &missed["reason"]), (&json!(true), &json!("execute_code is granted")));
    let held = guarantee(&daemon, "tolerant", "seccomp");
    assert_eq!((&held["state"], &held["required"]), (&json!("enforced"), &json!(true)));
    let proofs = held["proofs"].as_array().expect("a list");
    let sources: Vec<_> = proofs.iter().map(|proof| proof["source"].as_str().unwrap_or_default()).collect();
    assert_eq!(sources, ["launcher", "trial", "kernel"], "{held}");
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn what_is_required_and_enforced_is_no_hindrance() {
    let options = DaemonOptions::with(both(&json!(["private_root", "no_new_privs"])));
    let daemon =
        Daemon::start(options.configuration("[defaults]\nrequire = [\"capabilities\", \"network_namespace\"]\n"));
    expect_echo(&daemon, "strict");
    assert_eq!(guarantee(&daemon, "strict", "capabilities")["required"], true);
    let status = daemon.operate("status", &json!({"plugin": "strict"})).expect("it is known");
    assert_eq!(status.get("degraded"), None);
    daemon.stop_and_expect_no_orphans();
}

/// Landlock is a second fence: a start needs it only where it is required.
#[test]
fn a_host_without_landlock_refuses_whoever_requires_it() {
    let packages = both(&json!(["landlock"])).into_iter().chain([Package::echo()]);
    let daemon = Daemon::start(DaemonOptions::with(packages).configuration(TOLERANT).lacking(Lacking::Landlock));
    let reason =
        "this kernel has no Landlock, or has it switched off; see the boot parameter lsm= and CONFIG_SECURITY_LANDLOCK";
    let shortfall = format!("landlock: plugin.json requires it, and it is absent: {reason}");
    expect_told(&daemon, &shortfall, "or require less");
    expect_echo(&daemon, "echo");
    let missed = guarantee(&daemon, "echo", "landlock");
    assert_eq!((&missed["state"], &missed["reason"]), (&json!("absent"), &json!(reason)));
    daemon.stop_and_expect_no_orphans();
}

/// Where a part of /proc is covered no new one may be mounted, and so there is no private root.
#[test]
fn a_host_with_a_masked_proc_refuses() {
    let daemon =
        Daemon::start(DaemonOptions::with(both(&json!([]))).configuration(TOLERANT).lacking(Lacking::WholeProc));
    let refused = error(daemon.agent().call("strict", "echo", &json!(1)), ErrorCode::SandboxUnavailable);
    expect_text(&refused.message, "private_root: ");
    expect_text(&refused.message, "a new /proc may not be mounted");
    expect_text(&refused.message, "ProtectKernelTunables=");
    if other_user().is_some() {
        // An ordinary user's plugin may run as that user; without a root of its own it is no more than that.
        expect_echo(&daemon, "tolerant");
        let status = daemon.operate("status", &json!({"plugin": "tolerant"})).expect("it is known");
        expect_text(&status["degraded"].to_string(), "a new /proc may not be mounted");
    } else {
        let refused = error(daemon.agent().call("tolerant", "echo", &json!(1)), ErrorCode::SandboxUnavailable);
        expect_text(&refused.message, "a new /proc may not be mounted");
    }
    let doctor = daemon.operate("doctor", &json!({})).expect("it answers").to_string();
    expect_text(&doctor, "a new /proc may not be mounted");
    expect_text(&daemon.log(), "a new /proc may not be mounted");
    daemon.stop_and_expect_no_orphans();
}

/// Root's plugins are never the host's root, whatever the operator bears.
#[test]
fn a_host_without_user_namespaces_refuses() {
    if other_user().is_some() {
        println!(
            "SKIPPED: without user namespaces an ordinary user's daemon has no pid namespaces and does not start; as root it does"
        );
        return;
    }
    let daemon =
        Daemon::start(DaemonOptions::with(both(&json!([]))).configuration(TOLERANT).lacking(Lacking::UserNamespaces));
    for plugin in ["strict", "tolerant"] {
        let refused = error(daemon.agent().call(plugin, "echo", &json!(1)), ErrorCode::SandboxUnavailable);
        expect_text(
            &refused.message,
            "this host allows no more user namespaces; raise the sysctl user.max_user_namespaces",
        );
        let status = daemon.operate("status", &json!({"plugin": plugin})).expect("it is known");
        assert_eq!(status["state"], "failed");
    }
    assert_eq!(guarantee(&daemon, "strict", "user_namespace")["state"], "absent");
    daemon.stop_and_expect_no_orphans();
}
