//! What a plugin finds when it looks for a way out: every attempt of the table, with the exact outcome of each, as root and as an
//! ordinary user; and what it is, sees and leaves where it is.
//!
//! Elsewhere: that the attempts succeed where nothing is in their way is `fences`; how plugins that break the protocol fare is `wire`, `floods` and `chaos`; each step of the confinement on its own is
//! the daemon's test of processes.

use std::path::Path;

use palisade_protocol::ErrorCode;
use palisade_tests::command::{built, command};
use palisade_tests::daemon::{Daemon, DaemonOptions, other_user};
use palisade_tests::network;
use palisade_tests::package::{Entry, Package};
use palisade_tests::rows::{Attempt, Bites, ROWS, Row};
use palisade_tests::world::World;
use serde_json::{Value, json};

use crate::support::{Outcomes, can_change_the_host, error, expect_echo, expect_text, hostile, inside, outcomes};

#[track_caller]
fn expect(found: &Outcomes, expected: &[(&str, &str)]) {
    for (what, met) in expected {
        assert_eq!(found.get(*what).map(String::as_str), Some(*met), "{what} in {found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

/// Every attempt of a row met this.
#[track_caller]
fn expect_all(found: &Outcomes, met: &str) {
    assert!(!found.is_empty());
    for (what, outcome) in found {
        assert_eq!(outcome, met, "{what} in {found:#?}");
    }
}

fn daemon() -> Daemon {
    Daemon::with([hostile("tame")])
}

/// Whether the launcher of a plugin is made before it is needed. What confines the plugin is the same.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Made {
    Beforehand,
    WhenNeeded,
}

impl Made {
    fn daemon(self, packages: impl IntoIterator<Item = Package>) -> Daemon {
        let options = DaemonOptions::with(packages);
        match self {
            Self::Beforehand => {
                let daemon = Daemon::start(options);
                daemon.wait_for_prepared(2);
                daemon
            }
            Self::WhenNeeded => Daemon::start(options.configuration("prepared_launchers = 0\n")),
        }
    }

    #[track_caller]
    fn expect(self, daemon: &Daemon) {
        let status = daemon.status("hostile");
        let prepared: Vec<_> = status.generations.iter().map(|generation| generation.prepared).collect();
        assert_eq!(prepared, [self == Self::Beforehand], "{status:?}");
    }
}

/// The limits that the exhausting rows meet.
fn tight() -> Value {
    json!({"open_files": 64, "file_size_mib": 48, "start_timeout_seconds": 2, "stop_grace_seconds": 1})
}

/// What an attempt meets in a plugin; that it was killed for it is told by its call.
fn met(daemon: &Daemon, row: &Row, attempt: &Attempt, world: &Value) -> String {
    let parameters = json!({"row": row.name, "what": attempt.what, "world": world});
    match daemon.agent().call("hostile", "attempt", &parameters) {
        Ok(met) => met.as_str().unwrap_or_default().to_owned(),
        Err(error) if error.code == ErrorCode::Crashed => {
            let signal =
                error.message.split_once("killed by ").map(|(_, rest)| rest.split([' ', ',', ';', ':']).next());
            signal.flatten().unwrap_or(&error.message).to_owned()
        }
        Err(error) => error.to_string(),
    }
}

/// Every attempt of every row, in a plugin that was granted nothing.
#[test]
fn every_row_meets_what_the_table_says() {
    network::in_one_of_its_own(|| every_row_meets_it(Made::WhenNeeded));
}

#[test]
fn every_row_meets_the_same_in_a_prepared_start() {
    network::in_one_of_its_own(|| every_row_meets_it(Made::Beforehand));
}

fn every_row_meets_it(made: Made) {
    let world = World::new();
    let daemon = made.daemon([Package::echo(), hostile("tame").with("limits", tight())]);
    expect_echo(&daemon, "hostile");
    made.expect(&daemon);
    let neighbour = daemon.neighbour();
    let told = world.told(Path::new("/plugin"), Path::new("/data"), daemon.pid(), 1);
    let mut wrong = Vec::new();
    for row in ROWS {
        for attempt in row.attempts() {
            let met = met(&daemon, row, attempt, &told);
            if !attempt.met.contains(&met.as_str()) {
                wrong.push(format!("{}: {}: {met}, and not {:?}", row.name, attempt.what, attempt.met));
            }
        }
        // Whatever it did, it is alive, or its successor is.
        expect_echo(&daemon, "hostile");
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(world.datagrams(), 0, "none of them reached the host");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// What only a process outside of all this succeeds at, since the fence cannot be taken away.
#[test]
fn outside_they_succeed() {
    let world = World::new();
    let folder = tempfile::tempdir().expect("a folder");
    let mut decoy = command("sleep").arg("1000").spawn().expect("sleep is everywhere");
    let told = world.told(folder.path(), folder.path(), decoy.id(), decoy.id());
    let mut wrong = Vec::new();
    for row in ROWS {
        for attempt in row.attempts().iter().filter(|attempt| attempt.bites == Bites::Outside) {
            let parameters = json!({"row": row.name, "what": attempt.what, "world": told}).to_string();
            // One descriptor more than a plugin has, for the row that looks for such.
            let script = "exec 9</dev/null; exec \"$0\" attempt \"$1\"";
            let output = command("sh").args(["-c", script]).arg(built("palisade-hostile")).arg(parameters).output();
            let output = output.expect("it runs");
            let met = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if attempt.met.contains(&met.as_str()) || met.is_empty() || (met != "ok" && row.name != "fd-inherit") {
                wrong.push(format!("{}: {}: {met}: {output:?}", row.name, attempt.what));
            }
        }
    }
    decoy.kill().expect("it is ours");
    decoy.wait().expect("it is ours");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What it writes is in its own folders, and on the disk it belongs to the daemon's user, whoever wrote it.
#[test]
fn what_it_writes_is_its_own() {
    use std::os::unix::fs::MetadataExt;
    let daemon = daemon();
    expect_all(&inside(&daemon, "write-inside", &json!(null)), "ok");
    expect(&inside(&daemon, "leave-file", &json!(["/data/left"])), &[("/data/left", "ok")]);
    let file = daemon.path().join("state/data/hostile/left").metadata().expect("it was written");
    let own = other_user().unwrap_or(rustix::process::geteuid().as_raw());
    assert_eq!((file.uid(), file.gid()), (own, own));
    daemon.stop_and_expect_no_orphans();
}

/// With `execute_code` it executes what there is to execute; its own folder is mounted without that right.
#[test]
fn who_may_execute_code_executes_programs_but_not_what_it_wrote() {
    let options = DaemonOptions::with([hostile("tame").asking(&json!(["execute_code"]))]);
    let daemon = Daemon::start(options.configuration("[plugins.hostile]\ngrant = [\"execute_code\"]\n"));
    let attempt = json!({"row": "ld-so-exec", "what": "itself", "world": {"data": "/data"}});
    assert_eq!(daemon.agent().call("hostile", "attempt", &attempt), Ok(json!("EACCES")));
    let info = daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known");
    let guarantees = info["guarantees"].as_array().expect("a list");
    let once = guarantees.iter().find(|guarantee| guarantee["control"] == "exec_once").expect("it is listed");
    assert_eq!((once["state"].as_str(), once["evidence"].as_str()), (Some("absent"), Some("execute_code is granted")));
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn it_has_no_rights() {
    let daemon = daemon();
    let none = "0000000000000000";
    let look = inside(&daemon, "look", &json!(null));
    for (what, value) in [
        ("CapInh", none),
        ("CapPrm", none),
        ("CapEff", none),
        ("CapBnd", none),
        ("CapAmb", none),
        ("NoNewPrivs", "1"),
        ("Uid", "1000 1000 1000 1000"),
        ("Gid", "1000 1000 1000 1000"),
        ("NSpid", "2"),
        ("processes", "1 2"),
        ("hostname", "hostile"),
        ("devices", "lo"),
        ("umask", "22"),
        ("/dev", "fd full null random shm stderr stdin stdout urandom zero"),
    ] {
        assert_eq!(look[what], value, "{what}: {look:#?}");
    }
    // Of cgroup v2 it sees its own as the root.
    assert!(look["cgroup"].lines().any(|line| line == "0::/") || !look["cgroup"].contains("0::"), "{look:#?}");
    let uid = std::fs::read_to_string(format!("/proc/{}/status", daemon.process_of("hostile"))).expect("it runs");
    let uid: u32 =
        uid.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok()).unwrap();
    if rustix::process::geteuid().is_root() && other_user().is_none() {
        assert_eq!(look["Groups"], "", "the groups of the daemon are none of its");
    }
    match other_user() {
        Some(user) => assert_eq!(uid, user),
        None if rustix::process::geteuid().is_root() => assert!((1_900_000_000..1_900_004_096).contains(&uid), "{uid}"),
        None => assert_eq!(uid, rustix::process::geteuid().as_raw()),
    }
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn a_siblings_data_do_not_exist() {
    let sibling = Package::hostile("sibling", "tame");
    let daemon = Daemon::with([hostile("tame"), sibling]);
    expect_all(&outcomes(&daemon.agent().call("sibling", "write-inside", &json!(null)).expect("it writes")), "ok");
    let data = daemon.path().join("state/data/sibling");
    assert!(data.is_dir());
    std::fs::read_dir(&data).expect("outside it can be listed");
    let list = |path: &Path| format!("list {}", path.display());
    let paths = json!([list(&data), "list /data/../sibling", list(&daemon.path().join("state/store"))]);
    expect_all(&inside(&daemon, "files", &paths), "ENOENT");
    daemon.stop_and_expect_no_orphans();
}

/// Names that are paths, files of the kernel's, too long, or none: the package is refused by what is wrong, and nothing is made for it.
#[test]
fn names_that_are_no_names() {
    let long = "x".repeat(300);
    for id in ["cgroup.procs", "../x", &long, "x\0y", "\u{43f}lugin", ".", "", "a/b", "palisade", "Hostile"] {
        // The folder's own name is a decent one; it is the manifest that says otherwise.
        let daemon = Daemon::with([Package::echo(), hostile("tame").with("id", json!(id))]);
        let folder = daemon.path().join("state/data");
        let list = daemon.operate("list", &json!({})).expect("it answers").to_string();
        assert!(list.contains("\"echo\""), "{list}");
        let made: Vec<_> =
            std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        assert!(made.iter().all(|name| name == "echo"), "{id:?}: {made:?}");
        let error = error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::ConfigurationInvalid);
        expect_text(&error.message, "plugin.json: `id` is");
        daemon.stop_and_expect_no_orphans();
    }
}

/// What is said to be enforced is what the kernel shows of the running process.
#[test]
fn the_report_is_true() {
    let ordinary = true_report(Made::WhenNeeded);
    let prepared = true_report(Made::Beforehand);
    assert_eq!(prepared, ordinary, "one start is confined as the other");
}

/// The report, once it is found to be true.
fn true_report(made: Made) -> Value {
    let daemon = made.daemon([hostile("tame")]);
    expect_echo(&daemon, "hostile");
    made.expect(&daemon);
    let _ = daemon.process_of("hostile");
    let info = daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known");
    let state = |control: &str| {
        let guarantees = info["guarantees"].as_array().expect("a list");
        let found = guarantees.iter().find(|guarantee| guarantee["control"] == control);
        let found = found.unwrap_or_else(|| panic!("{control} is not listed"));
        (found["state"].as_str().unwrap_or_default(), found["evidence"].as_str().unwrap_or_default())
    };
    for (control, evidence) in [
        ("private_root", "trial: read-shadow met \"No such file or directory"),
        ("private_root", "kernel: /proc/PID/ns/mnt is not the daemon's"),
        ("user_namespace", "kernel: /proc/PID/ns/user is not the daemon's"),
        ("pid_namespace", "kernel: /proc/PID/ns/pid is not the daemon's"),
        ("network_namespace", "kernel: /proc/PID/ns/net is not the daemon's"),
        ("ipc_namespace", "kernel: /proc/PID/ns/ipc is not the daemon's"),
        ("hostname", "kernel: /proc/PID/ns/uts is not the daemon's"),
        ("cgroup_namespace", "kernel: /proc/PID/ns/cgroup is not the daemon's"),
        ("capabilities", "kernel: CapBnd: 0000000000000000"),
        ("no_new_privs", "kernel: NoNewPrivs: 1"),
    ] {
        let (found, text) = state(control);
        assert_eq!(found, "enforced", "{control}: {text}");
        assert!(text.contains(evidence), "{control}: {evidence:?} in {text:?}");
    }
    let lent = rustix::process::geteuid().is_root() && other_user().is_none();
    assert_eq!(state("own_user").0, if lent { "enforced" } else { "degraded" });
    for (control, evidence) in
        [("seccomp", "kernel: Seccomp: 2"), ("exec_once", "trial: exec-again met \"Function not implemented")]
    {
        let (found, text) = state(control);
        assert_eq!(found, "enforced", "{control}: {text}");
        assert!(text.contains(evidence), "{control}: {evidence:?} in {text:?}");
    }
    let doctor = daemon.operate("doctor", &json!({})).expect("it answers");
    let checks = doctor["checks"].as_array().expect("a list");
    let root = checks.iter().find(|check| check["name"] == "private_root").expect("it is looked at");
    assert_eq!(root["state"], "ok");
    expect_text(root["summary"].as_str().unwrap_or_default(), "write-outside: Read-only file system");
    daemon.stop_and_expect_no_orphans();
    info["guarantees"].clone()
}

/// A script finds its interpreter where the host has it; one that lies elsewhere is named.
#[test]
fn an_interpreter_outside_of_usr_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
    let interpreter = folder.path().join("sh");
    std::fs::copy("/bin/sh", &interpreter).expect("it can be copied");
    let script = format!("#!{}\nexit 0\n", interpreter.display()).into_bytes();
    let daemon = Daemon::with([Package::new("script", Entry::Bytes(script))]);
    let error = error(daemon.agent().call("script", "echo", &json!(1)), ErrorCode::InitializationFailed);
    expect_text(&error.message, "must be installed beneath /usr");
    expect_text(&error.message, &interpreter.display().to_string());
    daemon.stop_and_expect_no_orphans();
}

/// A script that begins with `env`, or a shell that executes something, is two programs; the error says what that takes.
#[test]
fn a_script_that_executes_another_program_is_told_what_that_takes() {
    for script in ["#!/usr/bin/env sh\nexit 0\n", "#!/bin/sh\nexec cat\n"] {
        let package = Package::new("script", Entry::Bytes(script.as_bytes().to_vec())).with("restart", json!("never"));
        let daemon = Daemon::with([package.clone()]);
        let refused = error(daemon.agent().call("script", "echo", &json!(1)), ErrorCode::InitializationFailed);
        expect_text(&refused.message, "`execute_code` is asked for in plugin.json and granted");
        let status = daemon.status("script");
        let dossier = status.last_failure.expect("it failed");
        assert!(dossier.reason.contains("#!/usr/bin/env python3 is two"), "{dossier:?}");
        daemon.stop_and_expect_no_orphans();

        let granted = DaemonOptions::with([package.asking(&json!(["execute_code"]))])
            .configuration("[plugins.script]\ngrant = [\"execute_code\"]\n");
        let daemon = Daemon::start(granted);
        let exited = error(daemon.agent().call("script", "echo", &json!(1)), ErrorCode::InitializationFailed);
        assert!(exited.message.contains("exited with code 0"), "it was executed, and is no plugin: {exited}");
        daemon.stop_and_expect_no_orphans();
    }
}

/// A host that lacks what every start needs: made by a user namespace in which no network namespace may be made.
#[test]
fn a_host_that_cannot_confine_refuses_unless_told_otherwise() {
    if !can_change_the_host("without network namespaces") {
        return;
    }
    let configuration = "[plugins.tolerant]\non_degraded = \"warn\"\n";
    let packages = [hostile("tame"), Package::hostile("tolerant", "tame")];
    let daemon = Daemon::start(DaemonOptions::with(packages).configuration(configuration).without_network_namespaces());
    let refused = error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::SandboxUnavailable);
    expect_text(&refused.message, "network_namespace");
    expect_text(&refused.message, "on_degraded");
    expect_echo(&daemon, "tolerant");
    let look = outcomes(&daemon.agent().call("tolerant", "look", &json!(null)).expect("it runs"));
    assert_eq!(look["NoNewPrivs"], "1");
    assert_eq!(look["CapBnd"], "0000000000000000");
    let info = daemon.operate("info", &json!({"plugin": "tolerant"})).expect("it is known");
    let guarantees = info["guarantees"].as_array().expect("a list");
    let network =
        guarantees.iter().find(|guarantee| guarantee["control"] == "network_namespace").expect("it is listed");
    assert_eq!(network["state"], "absent", "{network}");
    expect_text(&daemon.log(), "confined less than it should be");
    daemon.stop_and_expect_no_orphans();
}
