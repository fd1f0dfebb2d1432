//! `trace_denials`: whoever is refused a system call gets the same errno, whether it is written down or not, and what is written down
//! is exactly what was refused.

use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use serde_json::{Value, json};

use crate::support::{error, expect_echo, expect_text, hostile};
use palisade_protocol::{ErrorBody, ErrorCode};

/// Attempts whose calls the filter refuses, beside some that it does not.
const ATTEMPTS: [(&str, &str); 8] = [
    ("mknod", "character 1:1"),
    ("mknod", "block 8:0"),
    ("unshare", "user"),
    ("unshare", "mount"),
    ("ld-so-exec", "itself"),
    ("setuid0", "setresuid"),
    ("setuid0", "capset"),
    ("landlock-again", "one more"),
];

fn start(configuration: &str) -> Daemon {
    Daemon::start(DaemonOptions::with([hostile("tame")]).configuration(configuration))
}

fn met(daemon: &Daemon) -> Vec<Value> {
    ATTEMPTS.iter().map(|(row, what)| attempt(daemon, row, what).expect("it lives on")).collect()
}

fn attempt(daemon: &Daemon, row: &str, what: &str) -> Result<Value, ErrorBody> {
    daemon.agent().call("hostile", "attempt", &json!({"row": row, "what": what, "world": {"data": "/data"}}))
}

fn info(daemon: &Daemon) -> Value {
    daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known")
}

/// What was refused: call, errno, how often, and what would allow it.
fn refused(daemon: &Daemon) -> Vec<(String, String, u64, Option<String>)> {
    let text = |one: &Value, field: &str| one[field].as_str().map(str::to_owned);
    let info = info(daemon);
    let lines = info["denied"].as_array().expect("it is written down").iter().map(|one| {
        let (call, errno) = (text(one, "call").unwrap_or_default(), text(one, "errno").unwrap_or_default());
        (call, errno, one["count"].as_u64().unwrap_or_default(), text(one, "permission"))
    });
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    lines
}

#[test]
fn what_is_refused_is_refused_alike_and_written_down() {
    for grant in ["", "grant = [\"execute_code\"]\n"] {
        let plain = start(&format!("[plugins.hostile]\n{grant}"));
        let expected = met(&plain);
        assert_eq!(info(&plain).get("denied"), None, "nobody asked for it");
        plain.stop_and_expect_no_orphans();

        let traced = start(&format!("[plugins.hostile]\ntrace_denials = true\n{grant}"));
        expect_echo(&traced, "hostile");
        assert_eq!(refused(&traced), [], "an ordinary life needs nothing that is refused");
        assert_eq!(met(&traced), expected, "with {grant:?}");
        let line = |call: &str, errno: &str, count, permission: Option<&str>| {
            (call.to_owned(), errno.to_owned(), count, permission.map(str::to_owned))
        };
        let mut all = vec![
            line("capset", "EPERM", 1, None),
            line("mknodat", "EPERM", 2, None),
            line("setresuid", "EPERM", 1, None),
            line("unshare", "EPERM", 2, None),
        ];
        if grant.is_empty() {
            all.insert(1, line("execve", "ENOSYS", 1, Some("execute_code")));
        }
        let found = wait_for("everything in the list", || {
            let found = refused(&traced);
            (found.len() >= all.len()).then_some(found)
        });
        assert_eq!(found, all);
        // Whoever asks once more is counted once more, and no others are.
        attempt(&traced, "mknod", "block 8:0").expect("it lives on");
        all.iter_mut().filter(|line| line.0 == "mknodat").for_each(|line| line.2 += 1);
        wait_for("the new counts", || (refused(&traced) == all).then_some(()));
        let device =
            info(&traced)["denied"].as_array().expect("a list").iter().find(|one| one["call"] == "mknodat").cloned();
        let device = device.expect("it is listed");
        // The mode of the first: a character device, with the rights that were asked for.
        assert_eq!(device["arguments"][2], 0o20600, "{device}");
        traced.stop_and_expect_no_orphans();
    }
}

/// What ends the process ends it, traced or not; and its successor begins with an empty list.
#[test]
fn what_is_killed_for_is_killed_for() {
    let daemon = start("[plugins.hostile]\ntrace_denials = true\n");
    attempt(&daemon, "mknod", "character 1:1").expect("it lives on");
    let dead = error(attempt(&daemon, "mount", "mount"), ErrorCode::Crashed);
    expect_text(&dead.message, "SIGSYS");
    expect_echo(&daemon, "hostile");
    attempt(&daemon, "unshare", "user").expect("it lives on");
    wait_for("news of the successor", || {
        let calls: Vec<_> = refused(&daemon).into_iter().map(|(call, ..)| call).collect();
        (calls == ["unshare"]).then_some(())
    });
    daemon.stop_and_expect_no_orphans();
}
