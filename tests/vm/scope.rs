//! `palisaded --scope`: a daemon that is no service gets a cgroup of its own from systemd, with limits for its plugins.

use std::fs;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};

use palisade_protocol::SUPERVISOR_ID;
use palisade_tests::command::{built, command};
use palisade_tests::daemon::{Daemon, DaemonOptions, as_user, wait_for};
use palisade_tests::package::Package;
use palisade_tests::process;
use palisade_tests::wire::Agent;
use serde_json::{Value, json};

/// Nobody's, and not the one that plugins are lent.
const USER: u32 = 60_200;

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

/// The manager of an ordinary user, without a session.
struct Manager;

impl Manager {
    const SETTINGS: &str = "/run/systemd/system/user@60200.service.d";

    fn start() -> Self {
        assert!(std::env::var_os("PALISADE_TEST_GUEST").is_some(), "this is for the guest of tests/vm alone");
        fs::create_dir_all(Self::SETTINGS).expect("root may");
        // What a login would set, and without the modules of a login, which the guest does not have.
        fs::write(
            Path::new(Self::SETTINGS).join("test.conf"),
            "[Service]\nPAMName=\nEnvironment=XDG_RUNTIME_DIR=/run/user/%i\n",
        )
        .expect("root may");
        for (file, line) in
            [("/etc/passwd", "scoped:x:60200:60200::/var/tmp:/bin/sh\n"), ("/etc/group", "scoped:x:60200:\n")]
        {
            let text = fs::read_to_string(file).expect("every host has it");
            fs::write(file, text + line).expect("root may");
        }
        for arguments in [["daemon-reload"].as_slice(), &["start", "user@60200.service"]] {
            let done = command("systemctl").args(arguments).output().expect("the guest has systemd");
            assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
        Self
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        let _ = command("systemctl").args(["stop", "user@60200.service"]).output();
        let _ = fs::remove_dir_all(Self::SETTINGS);
        let _ = command("systemctl").arg("daemon-reload").output();
    }
}

#[test]
#[ignore = "runs in the guest of tests/vm"]
fn a_daemon_of_an_ordinary_user_gets_a_scope_with_limits() {
    let manager = Manager::start();
    let folder = tempfile::tempdir_in("/var/tmp").expect("there is room");
    chown(folder.path(), Some(USER), Some(USER)).expect("root may");
    let plugins = folder.path().join("plugins");
    fs::create_dir(&plugins).expect("there is room");
    Package::echo().write(&plugins, "scope");
    let at = |name: &str| folder.path().join(name);
    let log = fs::File::create(at("log")).expect("there is room");
    let mut starting = as_user(USER, &built("palisaded"));
    starting.arg("--scope").arg("--state-dir").arg(at("state")).arg("--runtime-dir").arg(at("run"));
    starting.arg("--socket").arg(at("palisade.sock")).arg("--plugins").arg(&plugins);
    starting.env("XDG_RUNTIME_DIR", format!("/run/user/{USER}")).env("HOME", folder.path());
    let mut daemon = starting.stderr(log).spawn().expect("it can be executed");
    let log = || fs::read_to_string(at("log")).unwrap_or_default();
    let mut agent = wait_for("an answer", || {
        assert_eq!(daemon.try_wait().expect("it is ours"), None, "{}", log());
        let mut agent = Agent::connect(&at("palisade.sock")).ok()?;
        agent.call("echo", "echo", &json!(1)).is_ok().then_some(agent)
    });
    let report = agent.call(SUPERVISOR_ID, "doctor", &json!({})).expect("it answers");
    let tier = tier(&report);
    assert!(tier.starts_with("A: "), "{report}");
    let scope = scope(daemon.id()).expect("it was moved into one");
    assert!(scope.to_string_lossy().contains("user@60200.service"), "{}", scope.display());
    agent.call(SUPERVISOR_ID, "shutdown", &json!({})).expect("it is its user's");
    assert!(daemon.wait().expect("it is ours").success(), "{}", log());
    wait_for("the end of the scope", || (!scope.exists()).then_some(()));
    drop(manager);
}
