//! `palisaded --scope`: a daemon that is no service gets a cgroup of its own from systemd, with limits for its plugins.

use std::fs;
use std::path::{Path, PathBuf};

use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::Package;
use palisade_tests::process;
use serde_json::{Value, json};

fn tier(report: &Value) -> String {
    let checks = report["checks"].as_array().expect("a list of checks");
    let tier = checks.iter().find(|check| check["name"] == "tier").expect("it is always there");
    tier["summary"].as_str().unwrap_or_default().to_owned()
}

/// The folder of the scope that a process is in, if it is in one.
fn scope(process: u32) -> Option<PathBuf> {
    let cgroup = process::cgroup(process)?;
    cgroup.ancestors().find(|folder| folder.extension().is_some_and(|kind| kind == "scope")).map(Path::to_owned)
}

#[test]
#[ignore = "runs in the guest of tests/vm"]
fn a_daemon_of_root_gets_a_scope_with_limits() {
    assert!(std::env::var_os("PALISADE_TEST_GUEST").is_some(), "this is for the guest of tests/vm alone");
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).arguments(&["--scope"]));
    assert_eq!(daemon.agent().call("echo", "echo", &json!(1)), Ok(json!(1)));
    let tier = tier(&daemon.operate("doctor", &json!({})).expect("it answers"));
    assert!(tier.starts_with("A: "), "{tier}");
    let scope = scope(daemon.pid()).expect("it was moved into one");
    assert!(scope.starts_with("/sys/fs/cgroup/system.slice"), "{}", scope.display());
    let plugin = process::cgroup(daemon.process_of("echo")).expect("it runs");
    assert!(plugin.starts_with(&scope), "{}", plugin.display());
    assert_eq!(fs::read_to_string(plugin.join("pids.max")).expect("it is limited").trim(), "65");
    daemon.stop_and_expect_no_orphans();
    wait_for("the end of the scope", || (!scope.exists()).then_some(()));
}
