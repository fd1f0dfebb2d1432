//! How a child ends, and how it stands still and goes on.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::Stdio,
};

use palisaded::{
    process::{Child, Exit, Exited, Report, Started, tree_usage},
    sandbox::cgroup::Tree,
};
use rustix::process::Signal;
use tokio::io::AsyncWriteExt;

use crate::harness::*;

#[test]
fn an_exit_code_and_a_signal_are_never_confused() {
    each_enclosure(|place| async move {
        for (script, exit) in [
            ("exit 0", Exit::Code(0)),
            ("exit 7", Exit::Code(7)),
            ("exit 127", Exit::Code(127)),
            ("exit 137", Exit::Code(137)),
            ("kill -KILL $$", Exit::Signal { number: 9, core_dumped: false }),
            ("kill -TERM $$", Exit::Signal { number: 15, core_dumped: false }),
            ("kill -HUP $$", Exit::Signal { number: 1, core_dumped: false }),
        ] {
            let (child, _) = start(&place, sh(script)).await;
            assert_eq!(place.last_report(child).await, exited(exit), "{script}");
        }
    });
}

#[test]
fn the_end_comes_with_what_was_used() {
    each_enclosure(|place| async move {
        let (mut child, _) = start(&place, sh("i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done")).await;
        let last = loop {
            match within(child.control.next_report()).await {
                Report::Exited(exited) => break exited,
                report => assert!(!report.is_final(), "{report:?}"),
            }
        };
        assert_eq!(last.exit, Exit::Code(0));
        assert!(0 < last.usage.user_us + last.usage.system_us, "{last:?}");
        assert!(64 * 1024 < last.usage.rss_bytes_max, "{last:?}");
        // The last word can be asked for again.
        assert_eq!(within(child.control.next_report()).await, Report::Exited(last));
    });
}

#[test]
fn sigterm_reaches_the_plugin() {
    each_enclosure(|place| async move {
        let (mut child, _) = start(&place, sh("trap 'exit 6' TERM; echo ready; while :; do read line <&3; done")).await;
        assert_eq!(line_of(&mut child.stdout).await, "ready");
        child.control.terminate().unwrap();
        assert_eq!(place.last_report(child).await, exited(Exit::Code(6)));
    });
}

/// A child with a stubborn tree, all of which runs.
async fn start_stubborn(place: &Place, marker: &Marker) -> (Child, Started) {
    start_stubborn_with(place, marker, "wait").await
}

/// The same, and what it does then.
async fn start_stubborn_with(place: &Place, marker: &Marker, then: &str) -> (Child, Started) {
    let started = start(place, sh(&format!("{} {then}", stubborn(marker)))).await;
    marker.wait_for(3).await;
    started
}

/// Nothing that a child leaves behind survives it, however hard it tries.
#[test]
fn grandchildren_that_ignore_sigterm_are_gone_after_the_kill() {
    each_enclosure(|place| async move {
        let marker = Marker::new();
        let (child, _) = start_stubborn(&place, &marker).await;
        kill_with_its_tree(&place, child, &marker).await;
    });
}

/// Kills a child that has started a stubborn tree.
pub(crate) async fn kill_with_its_tree(place: &Place, mut child: Child, marker: &Marker) {
    marker.wait_for(3).await;
    child.control.kill();
    assert_eq!(place.last_report(child).await, exited(Exit::Killed));
    // Not waited for: the report is the proof.
    marker.assert_gone();
}

#[test]
fn grandchildren_are_gone_when_the_plugin_exits_by_itself() {
    each_enclosure(|place| async move {
        let marker = Marker::new();
        let (mut child, _) = start_stubborn_with(&place, &marker, "read line <&3; exit 4").await;
        child.input.write_all(b"go\n").await.unwrap();
        assert_eq!(place.last_report(child).await, exited(Exit::Code(4)));
        marker.assert_gone();
    });
}

#[test]
fn orphans_are_reaped_while_the_plugin_runs() {
    each_enclosure(|place| async move {
        // Each subshell ends at once and orphans a child, which ends at once as well.
        let script = "for i in 1 2 3 4 5 6 7 8; do (true & ) ; done; echo ready; exec sleep 1000";
        let (mut child, started) = start(&place, sh(script)).await;
        assert_eq!(line_of(&mut child.stdout).await, "ready");
        // pid 1 and the plugin: a zombie would count.
        wait_until("no orphans", || tree_usage(started.init_pid).is_ok_and(|usage| usage.processes == 2)).await;
        place.end(child).await;
    });
}

#[test]
fn a_killed_launcher_takes_the_tree_along() {
    each_enclosure(|place| async move {
        let marker = Marker::new();
        let (child, _) = start_stubborn(&place, &marker).await;
        signal(child.control.launcher_pid().unwrap(), Signal::KILL);
        let lost = exited(Exit::LauncherLost { signal: Some(9), tree_gone: true });
        assert_eq!(place.last_report(child).await, lost);
        marker.assert_gone();
    });
}

#[test]
fn a_killed_pid_1_takes_the_tree_along_and_is_named() {
    each_enclosure(|place| async move {
        let marker = Marker::new();
        let (child, started) = start_stubborn(&place, &marker).await;
        signal(started.init_pid, Signal::KILL);
        assert_eq!(place.last_report(child).await, exited(Exit::InitKilled { signal: 9, code: 0 }));
        marker.assert_gone();
    });
}

/// What pid 1 says last is heard although it leaves an order unread, which the kernel tells the launcher before it.
#[test]
fn an_order_that_comes_too_late_does_not_hide_the_end() {
    run(async {
        let place = Place::without_leaf();
        let (child, started) = start(&place, sh("exec sleep 1000")).await;
        signal(started.init_pid, Signal::STOP);
        wait_until("a stopped pid 1", || state_of(started.init_pid) == Some('T')).await;
        // It wakes the launcher, which sleeps again once it has passed this on.
        child.control.thaw().unwrap();
        let launcher = child.control.launcher_pid().unwrap();
        wait_until("a launcher that has passed the order on", || state_of(launcher) == Some('S')).await;
        signal(started.plugin_pid, Signal::KILL);
        wait_until("the plugin's end", || state_of(started.plugin_pid) == Some('Z')).await;
        // A launcher that is slow: it looks only when pid 1 is gone.
        signal(launcher, Signal::STOP);
        wait_until("a stopped launcher", || state_of(launcher) == Some('T')).await;
        signal(started.init_pid, Signal::CONT);
        wait_until("the end of pid 1", || state_of(started.init_pid) == Some('Z')).await;
        signal(launcher, Signal::CONT);
        assert_eq!(place.last_report(child).await, exited(Exit::Signal { number: 9, core_dumped: false }));
    });
}

/// The same of the launcher and a command of the daemon's.
#[test]
fn a_command_that_comes_too_late_does_not_hide_the_end() {
    with_leaf(|place| async move {
        let (mut child, started) = start(&place, sh("read line <&3; exit 7")).await;
        let launcher = child.control.launcher_pid().unwrap();
        child.input.write_all(b"end\n").await.unwrap();
        // With the wait for pid 1 the launcher begins its report, and asks for no command any more.
        wait_until("the end of the tree", || state_of(started.init_pid).is_none()).await;
        child.control.kill();
        wait_until("the end of the launcher", || state_of(launcher) == Some('Z')).await;
        assert_eq!(place.last_report(child).await, exited(Exit::Code(7)));
    });
}

/// pid 1 takes no signal from its own tree, whoever sends it.
#[test]
fn the_tree_cannot_end_its_pid_1() {
    each_enclosure(|place| async move {
        let script = "for signal in KILL TERM HUP INT STOP SEGV USR1; do kill -$signal 1; done; exit 9";
        let (child, _) = start(&place, sh(script)).await;
        assert_eq!(place.last_report(child).await, exited(Exit::Code(9)));
    });
}

#[test]
fn a_kill_ends_the_tree_even_while_its_launcher_is_stopped() {
    each_enclosure(|place| async move {
        let marker = Marker::new();
        let (child, _) = start_stubborn(&place, &marker).await;
        let launcher = child.control.launcher_pid().unwrap();
        signal(launcher, Signal::STOP);
        wait_until("a stopped launcher", || state_of(launcher) == Some('T')).await;
        kill_with_its_tree(&place, child, &marker).await;
    });
}

#[test]
fn dropping_the_control_ends_the_tree_frozen_or_not() {
    each_enclosure(|place| async move {
        for frozen in [false, true] {
            let marker = Marker::new();
            let (child, started) = start_stubborn(&place, &marker).await;
            if frozen {
                child.control.freeze().unwrap();
                wait_until("a frozen tree", || is_frozen(&child, started)).await;
            }
            let launcher = child.control.launcher_pid().unwrap();
            drop(child);
            wait_until("an empty tree", || marker.processes().is_empty()).await;
            // Reaped as well: not even a zombie is left.
            wait_until("no launcher", || state_of(launcher).is_none()).await;
        }
    });
}

#[test]
fn killing_before_the_start_is_reported_ends_it_all_the_same() {
    each_enclosure(|place| async move {
        let marker = Marker::new();
        let mut child = launch(&place, &open("/bin/sh"), None, sh(&format!("exec sleep {marker}"))).await;
        child.control.kill();
        let last = place.last_report(child).await;
        // When it is hit is up to the kernel; that it ends is not.
        assert!(matches!(last, Report::Exited(Exited { exit: Exit::Killed, .. })), "{last:?}");
        marker.assert_gone();
    });
}

#[test]
fn a_child_cannot_be_terminated_before_it_started() {
    run(async {
        let place = Place::without_leaf();
        let mut child = launch(&place, &open("/bin/sh"), None, sh("exit 0")).await;
        assert_eq!(child.control.terminate().unwrap_err().kind(), std::io::ErrorKind::NotFound);
        child.control.kill();
        place.last_report(child).await;
    });
}

/// The lifeline, with a daemon that really dies.
#[test]
fn a_daemon_that_is_killed_leaves_nothing_behind() {
    for enclosure in ["no leaf", "no leaf, frozen", "leaf", "leaf, frozen"] {
        with_dying_daemon(enclosure, |daemon| {
            daemon.die();
            block_until("an empty tree", || daemon.marker.processes().is_empty());
            // Its new parent may be slow to reap it; that is no affair of ours.
            block_until("no launcher", || matches!(state_of(daemon.launcher), None | Some('Z' | 'X')));
            if enclosure.starts_with("leaf") {
                // The launcher removed its leaf before it left, and nothing is there for the next daemon to end.
                let opened = Tree::open_or_create(daemon.state.path()).unwrap();
                assert_eq!((opened.stale_leaves, leaves_in(&opened.tree)), (0, 0));
            }
        });
    }
}

/// While its daemon cannot do anything about it, and the tree itself neither.
#[test]
fn a_frozen_tree_dies_with_its_launcher_by_itself() {
    for enclosure in ["no leaf, frozen", "leaf, frozen"] {
        with_dying_daemon(enclosure, |daemon| {
            let process = daemon.process.id();
            signal(process, Signal::STOP);
            block_until("a stopped daemon", || state_of(process) == Some('T'));
            signal(daemon.launcher, Signal::KILL);
            block_until("an empty tree", || daemon.marker.processes().is_empty());
            daemon.die();
            if enclosure.starts_with("leaf") {
                assert_eq!(Tree::open_or_create(daemon.state.path()).unwrap().stale_leaves, 1);
            }
        });
    }
}

/// A daemon in a process of its own, with one stubborn tree.
struct DyingDaemon {
    process: std::process::Child,
    marker: Marker,
    launcher: u32,
    state: tempfile::TempDir,
}

impl DyingDaemon {
    fn die(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn with_dying_daemon(enclosure: &str, test: impl FnOnce(&mut DyingDaemon)) {
    exclusively(|| {
        if enclosure.starts_with("leaf") && !can_have_leaf() {
            return skipped("a daemon that dies, with a leaf", "this user may not make cgroups here");
        }
        let marker = Marker::new();
        let state = tempfile::tempdir().unwrap();
        let mut process = again(&["--ignored", "--exact", "life::a_daemon_for_another_test", "--nocapture"])
            .env("PALISADE_TEST_MARKER", marker.to_string())
            .env("PALISADE_TEST_ENCLOSURE", enclosure)
            .env("PALISADE_TEST_STATE", state.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let launcher: u32 =
            lines.find_map(|line| line.unwrap().strip_prefix("launcher ").map(|pid| pid.parse().unwrap())).unwrap();
        assert_eq!(marker.processes().len(), 3);
        test(&mut DyingDaemon { process, marker, launcher, state });
    });
}

/// Not a test of its own: the daemon of the tests above.
#[test]
#[ignore = "another test runs it"]
fn a_daemon_for_another_test() {
    let Ok(marker) = std::env::var("PALISADE_TEST_MARKER") else { return };
    let enclosure = std::env::var("PALISADE_TEST_ENCLOSURE").unwrap();
    let marker = Marker(marker);
    runtime().block_on(async {
        let state = std::env::var("PALISADE_TEST_STATE").unwrap();
        let tree = enclosure.starts_with("leaf").then(|| Tree::open_or_create(Path::new(&state)).unwrap().tree);
        let place = Place { tree, state: None };
        let (child, started) = start_stubborn(&place, &marker).await;
        if enclosure.ends_with("frozen") {
            child.control.freeze().unwrap();
            wait_until("a frozen tree", || is_frozen(&child, started)).await;
        }
        println!("\nlauncher {}", child.control.launcher_pid().unwrap());
        // Until it is killed, or its standard input ends because the other test failed.
        std::io::stdin().lines().for_each(drop);
    });
}

#[test]
fn a_frozen_tree_stands_still_and_runs_on() {
    each_enclosure(|place| async move {
        let script = "while read line <&3; do echo \"$line, indeed\" >&4; done";
        let (mut child, started) = start(&place, sh(script)).await;
        for round in 0..3 {
            child.control.freeze().unwrap();
            wait_until("a frozen tree", || is_frozen(&child, started)).await;
            child.input.write_all(format!("{round}\n").as_bytes()).await.unwrap();
            assert!(is_frozen(&child, started));
            let mut none = [0];
            assert!(child.output.try_read(&mut none).is_err(), "a frozen plugin answered");
            child.control.thaw().unwrap();
            assert_eq!(line_of(&mut child.output).await, format!("{round}, indeed"));
        }
        place.end(child).await;
    });
}

#[test]
fn a_frozen_tree_can_be_killed() {
    each_enclosure(|place| async move {
        let marker = Marker::new();
        let (child, started) = start_stubborn(&place, &marker).await;
        child.control.freeze().unwrap();
        wait_until("a frozen tree", || is_frozen(&child, started)).await;
        kill_with_its_tree(&place, child, &marker).await;
    });
}
