//! What several of these files need.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

use palisade_protocol::{ErrorBody, ErrorCode, Kind};
use palisade_tests::daemon::{Daemon, wait_for};
use palisade_tests::package::Package;
use palisade_tests::wire::Agent;
use serde_json::{Value, json};

/// Whether to take the time for what is shortened otherwise: `PALISADE_TEST_FULL=1`.
pub(crate) fn full() -> bool {
    std::env::var_os("PALISADE_TEST_FULL").is_some_and(|value| value == "1")
}

/// Whether this user can change what a daemon finds of the host; if not, it is said what was not shown.
pub(crate) fn can_change_the_host(what: &str) -> bool {
    let can = rustix::process::geteuid().is_root();
    if !can {
        println!("SKIPPED: a host {what}: only root can make one");
    }
    can
}

/// In the guest, which is emulated, everything takes ten times as long: less is done there of what is only much.
pub(crate) fn in_the_guest() -> bool {
    std::env::var_os("PALISADE_TEST_GUEST").is_some()
}

/// The hostile plugin with short times, so that no test waits long for what it provokes.
pub(crate) fn hostile(mode: &str) -> Package {
    let start = if in_the_guest() { 10 } else { 2 };
    Package::hostile("hostile", mode)
        .with("limits", json!({"start_timeout_seconds": start, "stop_grace_seconds": 1, "drain_timeout_seconds": 2}))
        .with("cancel_grace_seconds", json!(1))
        .with(
            "restart",
            json!({"policy": "on-failure", "backoff_initial_ms": 10, "backoff_max_ms": 10, "intensity": 50}),
        )
}

/// A daemon with the hostile plugin in that mode, and the neighbour.
pub(crate) fn daemon_with(hostile: Package) -> Daemon {
    Daemon::with([Package::echo(), hostile])
}

/// How often a plugin is asked whether it lives, and how long it has for its answer, where a test is about that.
pub(crate) fn short_watchdog() -> Value {
    json!({"interval_seconds": 1, "timeout_seconds": 1})
}

/// A plugin that does not answer when it is asked that.
pub(crate) fn mute(id: &str) -> Package {
    Package::hostile(id, "mute").with("watchdog", short_watchdog()).with("restart", json!("never"))
}

/// Lets as much time pass as [`short_watchdog`] has patience: until it has judged a [`mute`] plugin that is started now.
pub(crate) fn outwait_watchdog(daemon: &Daemon, mute: &str) {
    daemon.operate("start", &json!({"plugin": mute})).expect("it can be started");
    let status = daemon.wait_until(mute, "the watchdog's verdict", |now| now.last_failure.is_some());
    expect_text(&status.last_failure.expect("it is there").reason, "hung");
}

/// The plugin answers, whatever happened before.
pub(crate) fn expect_echo(daemon: &Daemon, plugin: &str) {
    assert_eq!(daemon.agent().call(plugin, "echo", &json!("well?")), Ok(json!("well?")), "log:\n{}", daemon.log());
}

/// What this call ended with, which is not well.
#[track_caller]
pub(crate) fn error(outcome: Result<Value, ErrorBody>, code: ErrorCode) -> ErrorBody {
    match outcome {
        Err(error) => {
            assert_eq!(error.code, code, "{error}");
            assert_eq!((error.class, error.fault), (code.class(), code.fault()), "{error}");
            error
        }
        Ok(value) => panic!("expected {code}, and the call brought {value}"),
    }
}

/// That the text holds the other one.
#[track_caller]
pub(crate) fn expect_text(text: &str, part: &str) {
    assert!(text.contains(part), "expected {part:?} in {text:?}");
}

/// What a row of the hostile plugin's met: attempt by attempt, `ok` or the error.
pub(crate) type Outcomes = BTreeMap<String, String>;

pub(crate) fn outcomes(value: &Value) -> Outcomes {
    let map = value.as_object().expect("a row answers with a map");
    map.iter().map(|(what, met)| (what.clone(), met.as_str().unwrap_or_default().to_owned())).collect()
}

/// What a row meets in a plugin.
pub(crate) fn inside(daemon: &Daemon, row: &str, parameters: &Value) -> Outcomes {
    let answer = daemon.agent().call("hostile", row, parameters);
    outcomes(&answer.unwrap_or_else(|error| panic!("{row}: {error}; log:\n{}", daemon.log())))
}

/// Follows the events of the hostile plugin.
pub(crate) fn follow(agent: &mut Agent) -> u64 {
    let follow = agent.begin("palisade", "events", &json!({"plugin": "hostile", "follow": true}));
    assert_eq!(agent.next_of(follow).kind, Some(Kind::StreamOpen));
    follow
}

/// The next event of that kind.
pub(crate) fn next_event(agent: &mut Agent, follow: u64, kind: &str) -> Value {
    loop {
        let event = agent.next_of(follow).value();
        if event["kind"] == kind {
            return event;
        }
    }
}

/// Takes the database from under a daemon that runs.
pub(crate) fn break_the_database(daemon: &Daemon) {
    for end in ["", "-wal", "-shm"] {
        let file = daemon.path().join(format!("state/registry.sqlite3{end}"));
        fs::write(file, "this is no database, and never was one").expect("it is ours");
    }
}

/// From here on a daemon that runs can write into no file, nor into its log.
pub(crate) fn let_it_write_nothing(daemon: &Daemon) {
    let process = fs::metadata(format!("/proc/{}", daemon.pid())).expect("it runs");
    // As its user: who is root here need not be allowed to change what others may have.
    let mut prlimit = palisade_tests::command::command("prlimit");
    prlimit.uid(process.uid()).gid(process.gid());
    let ended =
        prlimit.args(["--pid", &daemon.pid().to_string(), "--fsize=0"]).output().expect("it is part of every system");
    assert!(ended.status.success(), "{ended:?}");
}

/// The disk of a daemon's state, of which as much is taken away as a test wants.
pub(crate) struct Disk {
    pub(crate) state: PathBuf,
}

impl Disk {
    /// That of a daemon which has it in a mount namespace of its own.
    pub(crate) fn of(daemon: &Daemon) -> Self {
        let inside = daemon.path().join("state");
        let inside = inside.strip_prefix("/").expect("it is absolute");
        Self { state: PathBuf::from(format!("/proc/{}/root", daemon.pid())).join(inside) }
    }

    fn free(&self) -> u64 {
        let status = rustix::fs::statvfs(&self.state).expect("it is mounted");
        status.f_bfree * status.f_frsize
    }

    /// Leaves so much of it.
    pub(crate) fn leave(&self, bytes: u64) {
        // The daemon may write something meanwhile.
        wait_for("so much to be left", || {
            let _ = fs::remove_file(self.state.join("filler"));
            let taken = self.free().checked_sub(bytes).expect("there is as much");
            let filler = vec![1; usize::try_from(taken).expect("it is small")];
            let filled = fs::write(self.state.join("filler"), filler);
            (filled.is_ok() && self.free() == bytes).then_some(())
        });
    }

    pub(crate) fn empty(&self) {
        fs::remove_file(self.state.join("filler")).expect("it is there");
    }
}

/// Waits until a package that was changed while no daemon ran has been tried: until then the one before serves.
pub(crate) fn expect_tried(daemon: &Daemon, plugin: &str) {
    wait_for("the end of the trial", || {
        let status = daemon.operate("status", &json!({"plugin": plugin})).expect("it is known");
        (status["passed_over"]["reason"] != "it was changed and has not been tried yet").then_some(())
    });
}
