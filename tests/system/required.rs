//! What a host does not have, and what becomes of a start then: refused by name, or made with less as the operator bears, and said in
//! `status`, in the log and by the doctor. Never a weaker sandbox in silence.
//!
//! Each host is made: a layer is taken away around the daemon. What cannot be required at all is tested beside the configuration.

use palisade_protocol::ErrorCode;
use palisade_tests::daemon::{Daemon, DaemonOptions, Lacking, Restriction, other_user};
use palisade_tests::package::Package;
use serde_json::{Value, json};

use crate::support::{can_change_the_host, error, expect_echo, expect_text};

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
    let status = daemon.operate("status", &json!({"plugin": "echo"})).expect("it is known");
    let not_enforced = status["not_enforced"].as_array().expect("a list");
    assert!(not_enforced.contains(&json!({"control": "landlock", "state": "absent", "reason": reason})), "{status:#}");
    expect_text(&daemon.log(), &format!("landlock is absent and not enforced for plugins on this host: {reason}"));
    daemon.stop_and_expect_no_orphans();
}

/// Every start needs the filter, so a host without one is one on which nothing runs, and `doctor` fails.
#[test]
fn a_host_without_filters_refuses() {
    let options = DaemonOptions::with(both(&json!([]))).configuration(TOLERANT);
    let daemon = Daemon::start(options.lacking(Lacking::Filters));
    let reason = "the system call filter could not be installed: Invalid argument (os error 22)";
    expect_told(&daemon, &format!("seccomp: {reason}"), "see `palisade doctor`");
    assert_eq!(check(&daemon, "seccomp"), ("fail".to_owned(), reason.to_owned()));
    daemon.stop_and_expect_no_orphans();
}

/// Where a part of /proc is covered no new one may be mounted, and so there is no private root.
#[test]
fn a_host_with_a_masked_proc_refuses() {
    if !can_change_the_host("with a masked /proc") {
        return;
    }
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

/// Root's plugins are never the host's root, whatever the operator bears; and without user namespaces an ordinary user's daemon could
/// enclose nothing, so it does not start.
fn expect_no_start_without_user_namespaces(lacking: Lacking, reason: &str) {
    let options = DaemonOptions::with(both(&json!([]))).configuration(TOLERANT).lacking(lacking);
    if other_user().is_some() {
        let ended = Daemon::try_start(options).expect_err("it cannot enclose anything");
        assert_eq!(ended.status.code(), Some(8), "{}", ended.log);
        expect_text(&ended.log, reason);
        return;
    }
    let daemon = Daemon::start(options);
    for plugin in ["strict", "tolerant"] {
        let refused = error(daemon.agent().call(plugin, "echo", &json!(1)), ErrorCode::SandboxUnavailable);
        expect_text(&refused.message, reason);
        let status = daemon.operate("status", &json!({"plugin": plugin})).expect("it is known");
        assert_eq!(status["state"], "failed");
        expect_text(status["reason"].as_str().unwrap_or_default(), reason);
    }
    let missed = guarantee(&daemon, "strict", "user_namespace");
    assert_eq!(missed["state"], "absent");
    expect_text(missed["reason"].as_str().unwrap_or_default(), reason);
    let (state, summary) = check(&daemon, "user_namespace");
    assert_eq!(state, "fail");
    expect_text(&summary, reason);
    expect_text(&daemon.log(), reason);
    daemon.stop_and_expect_no_orphans();
}

/// How the doctor finds something.
fn check(daemon: &Daemon, name: &str) -> (String, String) {
    let report = daemon.operate("doctor", &json!({})).expect("it answers");
    let checks = report["checks"].as_array().expect("a list");
    let found = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"));
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("state"), text("summary"))
}

#[test]
fn a_host_without_user_namespaces_refuses() {
    if !can_change_the_host("without user namespaces") {
        return;
    }
    let reason = "this host allows no more user namespaces; raise the sysctl user.max_user_namespaces";
    expect_no_start_without_user_namespaces(Lacking::UserNamespaces, reason);
}

/// The kernel's answer is that of a host where AppArmor keeps user namespaces from whoever has no profile for them.
#[test]
fn a_host_that_restricts_user_namespaces_refuses() {
    if !can_change_the_host("that restricts user namespaces") {
        return;
    }
    let reason = "this host does not let this user make a user namespace (Operation not permitted (os error 1)); see the \
                  sysctls kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns";
    expect_no_start_without_user_namespaces(Lacking::UserNamespacesForEverybody, reason);
}

/// AppArmor can also grant the namespace and take every right in it. A plugin would not even get rid of its bounding set there, so
/// nothing is started, whatever the operator bears.
#[test]
fn a_host_that_gives_no_rights_in_user_namespaces_refuses() {
    if other_user().is_none() {
        println!("SKIPPED: root has its rights in every user namespace; shown as an ordinary user");
        return;
    }
    let granted = "this host lets this user make a user namespace and gives no rights in it (capabilities: Operation not permitted (os error 1)): ";
    for (restriction, reason) in [
        (
            Restriction::Unsaid,
            "that is what AppArmor does where the sysctl kernel.apparmor_restrict_unprivileged_userns is 1",
        ),
        (
            Restriction::Said,
            "AppArmor restricts it, as the sysctl kernel.apparmor_restrict_unprivileged_userns is 1; palisaded needs an AppArmor profile with `userns,`",
        ),
    ] {
        let options = DaemonOptions::with(both(&json!([]))).configuration(TOLERANT);
        let ended = Daemon::try_start(options.lacking(Lacking::RightsInUserNamespaces(restriction)));
        let ended = ended.expect_err("it cannot enclose anything");
        assert_eq!(ended.status.code(), Some(8), "{}", ended.log);
        expect_text(&ended.log, &format!("{granted}{reason}"));
    }
}

/// A step that fails for want of a right is put down to AppArmor where it restricts user namespaces, and to nothing else there.
#[test]
fn a_restriction_of_user_namespaces_is_named_at_whatever_step_it_shows() {
    if other_user().is_none() {
        println!("SKIPPED: root has its rights in every user namespace; shown as an ordinary user");
        return;
    }
    let restriction = Lacking::RightsInUserNamespaces(Restriction::Late);
    let daemon = Daemon::start(DaemonOptions::with(both(&json!([]))).configuration(TOLERANT).lacking(restriction));
    let reason = "this host lets this user make a user namespace and gives no rights in it (bind: Operation not permitted (os error 1)): \
                  AppArmor restricts it";
    let refused = error(daemon.agent().call("strict", "echo", &json!(1)), ErrorCode::SandboxUnavailable);
    expect_text(&refused.message, reason);
    let status = daemon.operate("status", &json!({"plugin": "strict"})).expect("it is known");
    assert_eq!(status["state"], "failed");
    expect_text(status["reason"].as_str().unwrap_or_default(), reason);
    // It bears less, and says so.
    expect_echo(&daemon, "tolerant");
    let status = daemon.operate("status", &json!({"plugin": "tolerant"})).expect("it is known");
    expect_text(&status["degraded"].to_string(), reason);
    let (state, summary) = check(&daemon, "private_root");
    assert_eq!(state, "fail");
    expect_text(&summary, reason);
    expect_text(&daemon.log(), reason);
    daemon.stop_and_expect_no_orphans();
}

/// Without cgroups plugins are killed through their pid namespace and looked at, and whoever requires one is refused.
#[test]
fn a_host_without_cgroup2_refuses_whoever_requires_it() {
    if !can_change_the_host("without cgroup2") {
        return;
    }
    let packages = both(&json!(["cgroup"])).into_iter().chain([Package::echo()]);
    let daemon = Daemon::start(DaemonOptions::with(packages).configuration(TOLERANT).lacking(Lacking::Cgroup2));
    let reason = "no cgroup2 file system is mounted";
    let shortfall = format!("cgroup: plugin.json requires it, and it is absent: {reason}");
    expect_told(&daemon, &shortfall, "or require less");
    expect_echo(&daemon, "echo");
    assert_eq!(check(&daemon, "cgroup"), ("warn".to_owned(), reason.to_owned()));
    expect_text(&check(&daemon, "tier").1, "C: plugins have a pid namespace and no cgroup");
    expect_text(&daemon.log(), "plugins run without a cgroup of their own");
    for (control, state) in [("cgroup", "absent"), ("memory", "monitored"), ("kill_tree", "enforced")] {
        assert_eq!(guarantee(&daemon, "echo", control)["state"], state, "{control}");
    }
    expect_text(guarantee(&daemon, "echo", "memory")["reason"].as_str().unwrap_or_default(), reason);
    daemon.stop_and_expect_no_orphans();
}

/// Plugins reach hosts through a listener in their own network: whether one can be had is tried, and said.
#[test]
fn the_way_out_is_tried() {
    let daemon = Daemon::with([Package::echo()]);
    let reach = ("ok".to_owned(), "plugins that are granted hosts reach the daemon's proxy".to_owned());
    assert_eq!(check(&daemon, "way_out"), reach);
    daemon.stop_and_expect_no_orphans();
    if !can_change_the_host("without network namespaces") {
        return;
    }
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).lacking(Lacking::NetworkNamespaces));
    let (state, summary) = check(&daemon, "way_out");
    assert_eq!(state, "warn");
    expect_text(&summary, "this host allows no further network namespace");
    daemon.stop_and_expect_no_orphans();
}
