//! The unit that `make install` puts into place: how the service starts, what it offers, and that its end leaves nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use palisade_protocol::SUPERVISOR_ID;
use palisade_tests::command::command;
use palisade_tests::daemon::wait_for;
use palisade_tests::process::{self, Identity};
use palisade_tests::wire::Agent;
use serde_json::{Value, json};

const UNIT: &str = "palisaded.service";

/// There is one service, so one test at a time has it.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The service, running; it is stopped with this.
struct Service {
    _turn: MutexGuard<'static, ()>,
    settings: Option<PathBuf>,
}

impl Service {
    fn start() -> Self {
        Self::start_with(None)
    }

    /// Starts it with further lines for its `[Service]` section.
    fn start_with(settings: Option<&str>) -> Self {
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(std::env::var_os("PALISADE_TEST_GUEST").is_some(), "this is for the guest of tests/vm alone");
        let settings = settings.map(|lines| {
            let folder = PathBuf::from(format!("/run/systemd/system/{UNIT}.d"));
            fs::create_dir_all(&folder).expect("root may");
            fs::write(folder.join("test.conf"), format!("[Service]\n{lines}\n")).expect("root may");
            systemctl(&["daemon-reload"]);
            folder
        });
        let service = Self { _turn: turn, settings };
        systemctl(&["start", UNIT]);
        service
    }

    fn agent(&self) -> Agent {
        Agent::connect(Path::new("/run/palisade/palisade.sock")).expect("a service that has started answers")
    }

    fn expect_echo(&self) {
        assert_eq!(self.agent().call("echo", "echo", &json!("well?")), Ok(json!("well?")));
    }

    /// Kills or stops its main process, and waits for the successor that systemd starts.
    fn expect_successor_after(&self, signal: &str) {
        let before = property("MainPID");
        let left = processes();
        assert!(left.len() > 3, "daemon, launcher, pid 1 and plugin: {left:?}");
        let restarts: u64 = property("NRestarts").parse().expect("a number");
        systemctl(&["kill", "--kill-who=main", &format!("--signal={signal}"), UNIT]);
        wait_for("a new main process that is ready", || {
            let now = property("MainPID");
            (now != before && now != "0" && property("ActiveState") == "active").then_some(())
        });
        assert_eq!(property("NRestarts"), (restarts + 1).to_string());
        wait_for("the end of all that the old one had", || {
            left.iter().all(|old| !process::is_alive(*old)).then_some(())
        });
        // What it left of cgroups is gone as well: the new one has no plugin yet.
        assert_eq!(leaves(), Vec::<PathBuf>::new());
        self.expect_echo();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // What it says is of no interest: a unit that did not fail has nothing to be reset.
        let _ = command("systemctl").args(["stop", UNIT]).output();
        let _ = command("systemctl").args(["reset-failed", UNIT]).output();
        if let Some(folder) = &self.settings {
            let _ = fs::remove_dir_all(folder);
            let _ = command("systemctl").arg("daemon-reload").output();
        }
        if std::thread::panicking() {
            let journal = command("journalctl").args(["--no-pager", "--lines=40", "--unit", UNIT]).output();
            eprintln!(
                "{}",
                journal.map(|journal| String::from_utf8_lossy(&journal.stdout).into_owned()).unwrap_or_default()
            );
        }
    }
}

/// # Panics
/// When it fails, with what it said.
#[track_caller]
fn systemctl(arguments: &[&str]) {
    let done = command("systemctl").args(arguments).output().expect("the guest has systemd");
    assert!(done.status.success(), "systemctl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}

fn property(name: &str) -> String {
    let shown = command("systemctl").args(["show", "--value", "--property", name, UNIT]).output();
    String::from_utf8_lossy(&shown.expect("the guest has systemd").stdout).trim().to_owned()
}

fn cgroup() -> PathBuf {
    PathBuf::from("/sys/fs/cgroup/system.slice").join(UNIT)
}

/// Every folder beneath, that itself included.
fn folders(beneath: &Path) -> Vec<PathBuf> {
    let mut found = vec![beneath.to_owned()];
    for entry in fs::read_dir(beneath).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(folders(&entry.path()));
        }
    }
    found
}

/// Every process of the service.
fn processes() -> Vec<Identity> {
    let texts =
        folders(&cgroup()).into_iter().filter_map(|folder| fs::read_to_string(folder.join("cgroup.procs")).ok());
    let numbers: Vec<u32> = texts
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter_map(|line| line.parse().ok())
        .collect();
    numbers.into_iter().filter_map(process::identity).collect()
}

/// The cgroups of its plugins.
fn leaves() -> Vec<PathBuf> {
    let is_leaf = |folder: &PathBuf| folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("leaf."));
    folders(&cgroup()).into_iter().filter(is_leaf).collect()
}

fn check(report: &Value, name: &str) -> (String, String) {
    let checks = report["checks"].as_array().expect("a list of checks");
    let found = checks.iter().find(|check| check["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}"));
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("state"), text("summary"))
}

/// systemd takes the service for started when it says so, and then it answers.
#[test]
#[ignore = "runs in the guest of tests/vm"]
fn the_service_starts_and_takes_calls() {
    let service = Service::start();
    assert_eq!(property("Type"), "notify");
    assert_eq!((property("ActiveState"), property("SubState")), ("active".into(), "running".into()));
    service.expect_echo();
    let answer = service.agent().call("calculator", "evaluate", &json!({"expression": "sqrt(16) + 38"}));
    assert_eq!(answer, Ok(json!(42)));
    assert_eq!(property("NRestarts"), "0");
}

/// Under systemd the daemon has a delegated cgroup with controllers: the most that a host can offer.
#[test]
#[ignore = "runs in the guest of tests/vm"]
fn a_service_is_of_the_best_tier() {
    let service = Service::start();
    let report = service.agent().call(SUPERVISOR_ID, "doctor", &json!({})).expect("it answers");
    // The unit's own hardening is not in the way of what confines plugins.
    for name in [
        "pid_namespace",
        "user_namespace",
        "private_root",
        "network_namespace",
        "landlock",
        "lent_users",
        "cgroup",
        "controllers",
        "tier",
    ] {
        assert_eq!(check(&report, name).0, "ok", "{name} in {report}");
    }
    assert!(check(&report, "tier").1.starts_with("A: "), "{report}");
    // The command line says the same.
    let shown = command("palisade").args(["doctor", "--json"]).output().expect("it is installed");
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
    assert_eq!(check(&shown, "tier"), check(&report, "tier"));
}

/// Stopping the service ends its plugins first, and leaves neither process nor cgroup.
#[test]
#[ignore = "runs in the guest of tests/vm"]
fn a_stop_leaves_nothing() {
    let service = Service::start();
    service.expect_echo();
    let running = processes();
    assert!(running.len() > 3, "daemon, launcher, pid 1 and plugin: {running:?}");
    assert_eq!(leaves().len(), 1);
    systemctl(&["stop", UNIT]);
    assert_eq!((property("ActiveState"), property("Result")), ("inactive".into(), "success".into()));
    assert!(running.iter().all(|process| !process::is_alive(*process)));
    wait_for("the end of the service's cgroup", || (!cgroup().exists()).then_some(()));
    assert!(!Path::new("/run/palisade").exists());
}

/// systemd starts the next daemon when one is killed, and nothing of its plugins survives.
#[test]
#[ignore = "runs in the guest of tests/vm"]
fn a_killed_daemon_comes_back_without_leftovers() {
    let service = Service::start();
    service.expect_echo();
    service.expect_successor_after("SIGKILL");
}

/// A daemon that hangs does not answer systemd's watchdog, and is replaced.
#[test]
#[ignore = "runs in the guest of tests/vm"]
fn a_daemon_that_hangs_is_replaced() {
    let service = Service::start_with(Some("WatchdogSec=4"));
    service.expect_echo();
    // While it does not hang it is heard, again and again.
    for _ in 0..2 {
        let heard = property("WatchdogTimestampMonotonic");
        wait_for("a sign of life", || (property("WatchdogTimestampMonotonic") != heard).then_some(()));
    }
    assert_eq!(property("NRestarts"), "0");
    service.expect_successor_after("SIGSTOP");
}
