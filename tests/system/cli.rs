//! "What bad input gets", through the command line: the message, the hint and the exit status.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Output, Stdio};

use palisade_protocol::ErrorCode;
use palisade_tests::command::{built, command};
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::{Entry, Package};
use serde_json::{Value, json};

use crate::support::{daemon_with, expect_text, hostile};

/// What a run of `palisade` came to.
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

pub(crate) fn palisade(socket: &Path, arguments: &[&str]) -> Ran {
    palisade_with(socket, arguments, Stdio::null())
}

/// The same with that stdin.
pub(crate) fn palisade_with(socket: &Path, arguments: &[&str], stdin: Stdio) -> Ran {
    let mut command = command(built("palisade"));
    command.arg("--socket").arg(socket).args(arguments).stdin(stdin).env("NO_COLOR", "1");
    let Output { status, stdout, stderr } = command.output().expect("it can be executed");
    Ran {
        status: status.code(),
        stdout: String::from_utf8_lossy(&stdout).into_owned(),
        stderr: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

/// Fails with that exit status, says these things to people, and prints no result.
#[track_caller]
fn refused(ran: &Ran, status: i32, sentences: &[&str]) {
    assert_eq!(ran.status, Some(status), "{}{}", ran.stdout, ran.stderr);
    assert_eq!(ran.stdout, "", "what failed prints no result");
    assert!(ran.stderr.starts_with("palisade: error: "), "{}", ran.stderr);
    for sentence in sentences {
        expect_text(&ran.stderr, sentence);
    }
}

/// The same, and with `--json` the same for programs: the code, and the exit status that belongs to it.
#[track_caller]
fn fails(socket: &Path, arguments: &[&str], code: ErrorCode, sentences: &[&str]) {
    let status = i32::from(code.exit_status());
    refused(&palisade(socket, arguments), status, sentences);
    let ran = palisade(socket, &[&["--json"], arguments].concat());
    assert_eq!(ran.status, Some(status), "{}{}", ran.stdout, ran.stderr);
    let error: Value = serde_json::from_str(&ran.stderr).unwrap_or_else(|error| panic!("{error}: {}", ran.stderr));
    assert_eq!((&error["error"]["code"], &error["error"]["exit_status"]), (&json!(code.name()), &json!(status)));
}

#[test]
fn names_that_do_not_exist() {
    let daemon = daemon_with(hostile("tame"));
    let socket = daemon.socket();
    fails(&socket, &["call", "ecko", "echo"], ErrorCode::PluginNotFound, &["ecko", "hint: "]);
    fails(&socket, &["call", "echo", "ecko"], ErrorCode::ActionNotFound, &["ecko", "hint: "]);
    fails(&socket, &["call", "echo@^7", "echo"], ErrorCode::VersionNotFound, &["^7"]);
    fails(&socket, &["start", "ecko"], ErrorCode::PluginNotFound, &["ecko"]);
    fails(&socket, &["status", "ecko"], ErrorCode::PluginNotFound, &["ecko"]);
    fails(&socket, &["info", "ecko"], ErrorCode::PluginNotFound, &["ecko"]);
    assert_eq!(palisade(&socket, &["fly"]).status, Some(2), "a wrong usage");
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn parameters_that_are_wrong() {
    let daemon = Daemon::with([Package::echo(), Package::new("calculator", Entry::File(built("calculator")))]);
    let socket = daemon.socket();
    let evaluate = |arguments: &[&'static str]| [&["call", "calculator", "evaluate"], arguments].concat();
    let five = palisade(&socket, &evaluate(&["expression=sqrt(16) + sin(pi/2)"]));
    assert_eq!((five.status, five.stdout.as_str(), five.stderr.as_str()), (Some(0), "5\n", ""));
    for (arguments, sentences) in [
        (&[][..], &["expression", "hint: "][..]),
        (&["expresion=1"], &["expresion", "expression"]),
        (&["--params", r#"{"expression": 7}"#], &["expression", "string"]),
        (&["--params", "{not json"], &["--params is not JSON", "line 1, column 2"]),
    ] {
        fails(&socket, &evaluate(arguments), ErrorCode::InvalidParams, sentences);
    }
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let file = folder.path().join("params.json");
    std::fs::write(&file, "{\n  \"expression\": 1,,\n}\n").expect("the folder is ours");
    let missing = palisade(&socket, &evaluate(&["--params", "@/nonexistent/params.json"]));
    refused(&missing, 2, &["/nonexistent/params.json", "No such file"]);
    let at_file = format!("@{}", file.display());
    let arguments = ["call", "calculator", "evaluate", "--params", &at_file];
    fails(&socket, &arguments, ErrorCode::InvalidParams, &["params.json", "line 2"]);
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn actions_that_fail() {
    let daemon = daemon_with(hostile("tame"));
    let socket = daemon.socket();
    for (row, code, sentences) in [
        ("fail", ErrorCode::ExecutionFailed, &["on purpose"][..]),
        ("abort", ErrorCode::Crashed, &["killed by SIGABRT", "hint: "]),
        ("len-4g", ErrorCode::ProtocolViolation, &["a frame of 4294967295 bytes was announced", "hint: "]),
        ("minimal-error", ErrorCode::ResourceNotFound, &["no such page"]),
        // The client does not trust a payload either.
        ("bad-payload", ErrorCode::ProtocolViolation, &["0xc1"]),
        ("deep-payload", ErrorCode::ProtocolViolation, &["nesting deeper than 128"]),
    ] {
        fails(&socket, &["call", "hostile", row], code, sentences);
    }
    // Its start is none of the time that is allowed here.
    daemon.operate("start", &json!({"plugin": "hostile"})).expect("it can be started");
    daemon.wait_until("hostile", "its start", |now| now.is("active"));
    let late = ["call", "hostile", "wait", "--timeout", "100ms"];
    fails(&socket, &late, ErrorCode::Timeout, &["no answer within 100 ms, the caller's deadline", "--timeout"]);
    let stopped = palisade(&socket, &["stop", "hostile"]);
    assert_eq!(
        (stopped.status, stopped.stdout.as_str(), stopped.stderr.as_str()),
        (Some(0), "", ""),
        "silent on success"
    );
    fails(&socket, &["call", "hostile", "echo"], ErrorCode::Unavailable, &["palisade start hostile"]);
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn plugins_that_do_not_start() {
    let broken = |id: &str, entry: Entry, mode: u32| Package::new(id, entry).mode(mode).with("restart", json!("never"));
    let script = || Entry::Bytes(b"#!/bin/sh\nexit 0\n".to_vec());
    let foreign = Entry::Bytes(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\xb7\0\x01\0\0\0".to_vec());
    let daemon = Daemon::with([
        Package::echo(),
        broken("missing", Entry::Missing, 0o755),
        broken("not-executable", script(), 0o644),
        broken("foreign", foreign, 0o755),
        broken("exits", script(), 0o755),
    ]);
    let socket = daemon.socket();
    for (id, sentences) in [
        ("missing", &["the entry point main is not in the package", "entry_point", "hint: "][..]),
        ("not-executable", &["main", "executable", "chmod"]),
        ("foreign", &["main", "machine"]),
        ("exits", &["exited with code 0 before it said hello", "hint: "]),
    ] {
        let ran = palisade(&socket, &["call", id, "echo"]);
        let code =
            if ran.status == Some(4) { ErrorCode::ConfigurationInvalid } else { ErrorCode::InitializationFailed };
        fails(&socket, &["call", id, "echo"], code, sentences);
    }
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn no_daemon_is_there() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let missing = folder.path().join("missing.sock");
    refused(&palisade(&missing, &["list"]), 9, &["missing.sock", "hint: "]);
    let stale = folder.path().join("stale.sock");
    drop(UnixListener::bind(&stale).expect("the folder is ours"));
    refused(&palisade(&stale, &["list"]), 9, &["stale.sock", "hint: "]);
    let file = folder.path().join("file");
    std::fs::write(&file, "no socket").expect("the folder is ours");
    refused(&palisade(&file, &["list"]), 9, &["file"]);
}

#[test]
fn what_answers_is_no_daemon() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let socket = folder.path().join("other.sock");
    let listener = UnixListener::bind(&socket).expect("the folder is ours");
    let other = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("the command line connects");
        // As a web server would.
        let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let _ = std::io::Read::read(&mut stream, &mut [0; 1024]);
    });
    let ran = palisade(&socket, &["list"]);
    assert!(matches!(ran.status, Some(7 | 9)), "{:?} {}", ran.status, ran.stderr);
    refused(&ran, ran.status.unwrap_or_default(), &[]);
    other.join().expect("it only writes and reads");
}

/// As `systemctl reset-failed`: nothing of the failure is left to be seen.
#[test]
fn reset_forgets_the_failure() {
    let policy = json!({"policy": "on-failure", "backoff_initial_ms": 1, "backoff_max_ms": 2, "intensity": 2, "window_seconds": 60});
    let daemon = daemon_with(hostile("exit-at-once").with("restart", policy));
    let socket = daemon.socket();
    fails(&socket, &["call", "hostile", "echo"], ErrorCode::InitializationFailed, &["quarantined"]);
    let status = daemon.wait_until("hostile", "quarantine", |now| now.quarantined);
    assert!(status.is("failed") && status.restarts == 2, "{status:?}");
    assert!(status.reason.is_some() && status.last_failure.is_some(), "{status:?}");
    let reset = palisade(&socket, &["reset", "hostile"]);
    assert_eq!((reset.status, reset.stdout.as_str(), reset.stderr.as_str()), (Some(0), "", ""), "silent on success");
    let status = daemon.status("hostile");
    assert!(status.is("discovered") && !status.quarantined, "{status:?}");
    assert_eq!((status.restarts, status.reason, status.last_failure), (0, None, None));
    let shown = palisade(&socket, &["status", "hostile"]).stdout;
    for word in ["quarantine", "failure", "exit", "reason"] {
        assert!(!shown.contains(word), "{word} in {shown}");
    }
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn the_everyday_commands() {
    let daemon = daemon_with(hostile("tame"));
    let socket = daemon.socket();
    let run = |arguments: &[&str]| {
        let ran = palisade(&socket, arguments);
        assert_eq!(ran.status, Some(0), "{arguments:?}: {}", ran.stderr);
        ran.stdout
    };
    let list = run(&["list"]);
    expect_text(&list, "echo");
    expect_text(&list, "discovered");
    // Nothing is claimed of a process that there is not.
    let unstarted = run(&["info", "hostile"]);
    expect_text(&unstarted, "not started yet");
    assert!(!unstarted.contains("launcher: ") && !unstarted.contains("kernel: "), "{unstarted}");
    expect_text(&run(&["call", "hostile", "environment"]), "HOSTILE_MODE");
    let running = run(&["info", "hostile"]);
    expect_text(&running, "launcher: private root");
    assert!(!running.contains("not started yet"), "{running}");
    for command in ["info", "status"] {
        let found = palisade(&socket, &[command, "palisade"]);
        refused(
            &found,
            3,
            &["`palisade` is the daemon itself, and no plugin", "hint: `palisade status` without a name"],
        );
    }
    refused(&palisade(&socket, &["call", "echo@zz", "echo"]), 4, &["the version \"zz\"", "hint: ", "echo@^1.2"]);
    let several = palisade(&socket, &["start", "nothere", "echo"]);
    refused(&several, 3, &["palisade: error: there is no plugin \"nothere\"\n"]);
    for operation in ["start", "pause", "resume", "restart", "stop"] {
        assert_eq!(run(&[operation, "hostile"]), "", "{operation} is silent");
    }
    expect_text(&run(&["status", "hostile"]), "stopped");
    let status: Value = serde_json::from_str(&run(&["--json", "status", "hostile"])).expect("it is JSON");
    assert_eq!(status["state"], "stopped");
    expect_text(&run(&["info", "echo"]), "0.1.0");
    run(&["logs"]);
    run(&["completions", "bash"]);
    daemon.stop_and_expect_no_orphans();
}

/// Whoever is in the socket's group is let in, and nobody else.
#[test]
fn members_of_the_sockets_group_are_let_in() {
    use std::os::unix::fs::PermissionsExt;
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can be somebody else, so what members of `socket_group` get was not shown");
        return;
    }
    // A daemon can give its socket only to a group of its own.
    let group = palisade_tests::daemon::other_user().unwrap_or(60_123);
    let options = DaemonOptions::with([Package::echo()]).configuration(&format!("socket_group = {group}\n"));
    let daemon = Daemon::start(options);
    std::fs::set_permissions(daemon.path(), std::fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    let ask = |group: u32| {
        let mut asking = command("setpriv");
        asking.args(["--reuid=60124", &format!("--regid={group}"), "--clear-groups", "--inh-caps=-all", "--"]);
        asking
            .arg(built("palisade"))
            .arg("--socket")
            .arg(daemon.socket())
            .args(["call", "echo", "echo", "--params", "1"]);
        let output = asking.stdin(Stdio::null()).env("NO_COLOR", "1").output().expect("it can be executed");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let (status, said) = ask(group);
    if status == Some(126) {
        println!("SKIPPED: another user cannot execute the programs where they lie, so `socket_group` was not shown");
        return;
    }
    assert_eq!((status, said.trim()), (Some(0), "1"));
    let (status, said) = ask(60_125);
    assert_ne!(status, Some(0), "{said}");
    expect_text(&said, "palisade: error: this user may not use the socket ");
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn each_mistake_of_a_package_has_a_line() {
    let daemon = Daemon::with([Package::echo()]);
    let odd = Package::hostile("guest", "tame").with("version", json!("none")).with("entry_point", json!("/bin/sh"));
    let folder = odd.write(&daemon.path().join("elsewhere"), daemon.marker()).display().to_string();
    let ran = palisade(&daemon.socket(), &["install", &folder]);
    assert_eq!(ran.status, Some(4), "{}", ran.stderr);
    let lines: Vec<_> = ran.stderr.lines().filter_map(|line| line.strip_prefix("palisade: error: ")).collect();
    assert_eq!(lines.len(), 3, "{}", ran.stderr);
    expect_text(lines[0], "plugin.json has 2 mistakes: in version, entry_point");
    assert!(lines[1].starts_with("`version` is ") && lines[2].starts_with("`entry_point` is "), "{}", ran.stderr);
    daemon.stop_and_expect_no_orphans();
}

/// A package is packed, installed from that file and started, in three commands; what does not start is installed all the same.
#[test]
fn packed_installed_and_loaded() {
    let daemon = Daemon::with([Package::echo()]);
    let socket = daemon.socket();
    let elsewhere = daemon.path().join("elsewhere");
    let pack = |package: &Package, name: &str| {
        let folder = package.write(&elsewhere, daemon.marker());
        let archive = elsewhere.join(name).display().to_string();
        let packed = palisade(&socket, &["--json", "pack", &folder.display().to_string(), "--out", &archive]);
        assert_eq!(packed.status, Some(0), "{}", packed.stderr);
        (archive, serde_json::from_str::<Value>(&packed.stdout).expect("it is JSON"))
    };
    let (archive, packed) = pack(&Package::hostile("guest", "tame"), "guest.tar.zst");
    let installed = palisade(&socket, &["install", "--load", &archive]);
    let digest = packed["digest"].as_str().expect("it is said");
    let said = format!("guest 0.1.0 is installed, sha256 {digest}\nit is active\n");
    assert_eq!((installed.status, installed.stdout.as_str(), installed.stderr.as_str()), (Some(0), said.as_str(), ""));

    let script = Entry::Bytes(b"#!/bin/sh\nexit 3\n".to_vec());
    let (archive, _) = pack(&Package::new("failing", script).with("restart", json!("never")), "failing.tar.zst");
    let installed = palisade(&socket, &["install", "--load", &archive]);
    assert!(installed.stdout.starts_with("failing 0.1.0 is installed, sha256 "), "{}", installed.stdout);
    assert_eq!(installed.status, Some(8), "{}", installed.stderr);
    expect_text(&installed.stderr, "exited with code 3");
    assert_eq!(daemon.status("failing").version, "0.1.0");
    let removed = palisade(&socket, &["uninstall", "--purge", "failing"]);
    let said = "failing 0.1.0 is removed\ngone with it: the numbers of its processes\ngone with it: how it was used\n\
                gone with it: which definitions of its actions were agreed to\nnothing of it stays\n";
    assert_eq!((removed.status, removed.stdout.as_str()), (Some(0), said));
    let again = palisade(&socket, &["uninstall", "--purge", "failing"]);
    assert_eq!(again.status, Some(3), "{}", again.stderr);
    expect_text(&again.stderr, "there is no plugin \"failing\"");
    daemon.stop_and_expect_no_orphans();
}

/// What was done with a plugin is shown also once it is gone, some of it at a time.
#[test]
fn the_audit_trail_is_shown() {
    let daemon = Daemon::with([Package::echo()]);
    let socket = daemon.socket();
    let folder = Package::hostile("guest", "tame").write(&daemon.path().join("elsewhere"), daemon.marker());
    for arguments in [
        &["install", &folder.display().to_string()][..],
        &["disable", "guest"],
        &["deprecate", "guest", "--reason", "it forgets"],
        &["uninstall", "--purge", "guest"],
    ] {
        let ran = palisade(&socket, arguments);
        assert_eq!(ran.status, Some(0), "{arguments:?}: {}", ran.stderr);
    }
    let done = |arguments: &[&str]| -> Value {
        let ran = palisade(&socket, &[&["--json", "audit", "guest"], arguments].concat());
        assert_eq!(ran.status, Some(0), "{}", ran.stderr);
        serde_json::from_str(&ran.stdout).expect("it is JSON")
    };
    let words = |trail: &Value| -> Vec<String> {
        let entries = trail["entries"].as_array().expect("a list").iter();
        entries.filter_map(|entry| entry["what"].as_str().map(str::to_owned)).filter(|what| what != "agree").collect()
    };
    let all = done(&[]);
    assert_eq!(words(&all), ["install", "disable", "deprecate", "uninstall", "purge"], "{all}");
    assert_eq!(all["more"], false);
    let last = done(&["-n", "2"]);
    assert_eq!((words(&last), &last["more"]), (vec!["uninstall".to_owned(), "purge".to_owned()], &json!(true)));
    let number = last["entries"][0]["number"].to_string();
    assert_eq!(words(&done(&["-n", "1", "--before", &number])), ["deprecate"]);
    assert_eq!(words(&done(&["--since", "1h"])), words(&all));
    assert_eq!(done(&["--since", "9999-01-01"]), json!({"entries": [], "more": false}));
    let shown = palisade(&socket, &["audit", "guest", "--limit", "3"]);
    assert!(shown.stdout.starts_with("there are older ones: --before "), "{}", shown.stdout);
    let line = shown.stdout.lines().find(|line| line.contains("deprecate")).expect("it was done");
    assert!(line.contains("  uid:") && line.ends_with("deprecate  guest 0.1.0  it forgets"), "{line}");
    fails(&socket, &["audit", "nobody"], ErrorCode::PluginNotFound, &["nobody"]);
    refused(&palisade(&socket, &["audit", "--since", "yesterday"]), 2, &["2026-11-20T19:27:37Z"]);
    daemon.stop_and_expect_no_orphans();
}

/// Of several plugins each is removed that can be, and the status is that of the first that cannot.
#[test]
fn what_cannot_be_removed_does_not_keep_the_others() {
    let daemon = Daemon::with([Package::echo()]);
    let socket = daemon.socket();
    for id in ["one", "two"] {
        let folder = Package::hostile(id, "tame").write(&daemon.path().join("elsewhere"), daemon.marker());
        daemon.operate("install", &json!({ "path": folder })).expect("it is installed");
    }
    let removed = palisade(&socket, &["uninstall", "one", "nobody", "echo", "two"]);
    assert!(
        removed.stdout.contains("one 0.1.0 is removed") && removed.stdout.contains("two 0.1.0 is removed"),
        "{}",
        removed.stdout
    );
    assert_eq!(removed.status, Some(3), "as for the first that failed: {}", removed.stderr);
    expect_text(&removed.stderr, "there is no plugin \"nobody\"");
    expect_text(&removed.stderr, "echo 0.1.0 was not installed");
    daemon.stop_and_expect_no_orphans();
}
