//! Real children through the real launcher: what they find, how they end, and that nothing of them stays.
//!
//! The launcher is built once, the way it is shipped. As root the whole file runs again as an ordinary user; with a
//! cgroup that the daemon may use, what depends on it is shown with a leaf and without one.
//! Elsewhere: the protocol on descriptors 3 and 4, which these children do not speak.

#![expect(clippy::unwrap_used, reason = "a test that finds something unexpected is to fail")]

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs::File,
    io::{BufRead, BufReader, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            process::ExitStatusExt,
        },
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc, OnceLock, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use palisade_launcher::{Attributes, MadeUp, Mount, Namespaces, Source};
use palisaded::model::permission::grants::Grants;
use palisaded::{
    process::{
        Child, Exit, Exited, Failure, ImageError, Launch, LauncherImage, Limit, Prepared, Report, Resource, Spec,
        Started, Step, Stock, UserMap, proportional_bytes, spawn, tree_usage,
    },
    sandbox::{
        cgroup::{Leaf, LeafError, Tree, Unavailable},
        probe::{Ability, Ground, Tier, probe},
        spec::{Identity, Inside, Offer, confine},
        user_map,
    },
};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, getrlimit, kill_process},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// No single wait of a test takes longer; on an idle machine each takes milliseconds.
const BOUND: Duration = Duration::from_secs(30);

/// Names the launcher that a test run inside a test run is to use.
const LAUNCHER_VARIABLE: &str = "PALISADE_TEST_LAUNCHER";

/// Says to a test run inside a test run that it is one.
const INNER_VARIABLE: &str = "PALISADE_TEST_INNER";

/// Errors of the kernel that are part of what is promised.
const ENOENT: i32 = 2;
const ENOEXEC: i32 = 8;
const ENODEV: i32 = 19;
const EROFS: i32 = 30;
const ELOOP: i32 = 40;
const EOPNOTSUPP: i32 = 95;
const ESTALE: i32 = 116;
const EACCES: i32 = 13;
const EPERM: i32 = 1;
const EINVAL: i32 = 22;
const ETXTBSY: i32 = 26;

// ---------------------------------------------------------------------------------------------------------------------
// What a child finds.

#[test]
fn a_child_has_descriptors_0_to_4_and_no_other() {
    each_enclosure(|place| async move {
        let (child, started) = start(&place, sh("exec sleep 1000")).await;
        // Waited for: a program that begins has its libraries open for a moment, and pid 1 tidies up after its report.
        let exactly_five =
            |pid| wait_until("exactly five descriptors", move || descriptors_of(pid).keys().copied().eq(0..5));
        exactly_five(started.plugin_pid).await;
        let fds = descriptors_of(started.plugin_pid);
        assert_eq!(fds[&0], "/dev/null");
        for (number, end) in
            [(1, child.stdout.as_fd()), (2, child.stderr.as_fd()), (3, child.input.as_fd()), (4, child.output.as_fd())]
        {
            // Both ends of a pipe bear its name.
            assert_eq!(fds[&number], link_of(end.as_raw_fd()), "descriptor {number}");
        }
        if is_root() {
            // pid 1 keeps the channel and its signal descriptor; a pipe or the control socket here would outlive its use.
            exactly_five(started.init_pid).await;
            let init = descriptors_of(started.init_pid);
            // A copy of the control socket would hide the end of the launcher from the daemon.
            assert!((0..3).all(|number| init[&number] == "/dev/null"), "{init:?}");
            assert!(init.values().all(|name| !name.starts_with("pipe:")), "{init:?}");
            let launcher = descriptors_of(child.control.launcher_pid().unwrap());
            assert!(!launcher.values().any(|name| name.starts_with("pipe:") && fds.values().any(|fd| fd == name)));
        }
        place.end(child).await;
    });
}

#[test]
fn a_pipe_that_the_child_closes_is_closed() {
    each_enclosure(|place| async move {
        let (mut child, _) = start(&place, sh("exec 1>&- 4>&-; read line <&3; exit 5")).await;
        // The child lives on: these ends can only come from nobody else holding the other side.
        assert_eq!(all_of(&mut child.stdout).await, "");
        assert_eq!(all_of(&mut child.output).await, "");
        child.input.write_all(b"go\n").await.unwrap();
        assert_eq!(place.last_report(child).await, exited(Exit::Code(5)));
    });
}

#[test]
fn a_child_finds_exactly_its_environment_arguments_and_folder() {
    each_enclosure(|place| async move {
        let mut spec = program(&["env"]);
        spec.environment = vec![c"ONE=1".to_owned(), c"TWO=two words".to_owned()];
        let (mut child, _) = launch(&place, &open("/usr/bin/env"), None, spec);
        assert_eq!(all_of(&mut child.stdout).await, "ONE=1\nTWO=two words\n");
        assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));

        let mut spec = sh("pwd -P; umask; ulimit -n; cat /proc/self/oom_score_adj; echo \"$0-$1-$#\"");
        spec.arguments.extend([c"name".to_owned(), c"first".to_owned(), c"".to_owned()]);
        spec.directory = c"/usr/bin".to_owned();
        spec.limits = vec![Limit { resource: Resource::Descriptors, soft: Some(123), hard: Some(124) }];
        spec.oom_score_adj = 500;
        let (mut child, _) = launch(&place, &open("/bin/sh"), None, spec);
        assert_eq!(all_of(&mut child.stdout).await, "/usr/bin\n0022\n123\n500\nname-first-2\n");
        assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));
    });
}

#[test]
fn a_child_leads_a_session_and_has_its_signals_as_new() {
    each_enclosure(|place| async move {
        // Not a shell: that would set its signals as it likes.
        let (mut child, ()) = launch(&place, &open("/bin/sleep"), None, program(&["sleep", "1000"]));
        let Report::Started(started) = within(child.control.next_report()).await else { panic!("not started") };
        let text = std::fs::read_to_string(format!("/proc/{}/status", started.plugin_pid)).unwrap();
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
        for mask in ["SigBlk:", "SigIgn:", "SigCgt:"] {
            assert_eq!(field(mask), "0000000000000000", "{mask}");
        }
        // 2 is the plugin in its own namespace.
        for number in ["NSpid:", "NSsid:", "NSpgid:"] {
            assert_eq!(field(number).split_ascii_whitespace().last(), Some("2"), "{text}");
        }
        place.end(child).await;
    });
    // Once more below a daemon that ignores and blocks what a daemon can.
    if std::env::var_os(INNER_VARIABLE).is_none() {
        let inner = again_command(&["--exact", "a_child_leads_a_session_and_has_its_signals_as_new", "--nocapture"]);
        let status = command(Path::new("env"))
            .args(["--ignore-signal=HUP,USR1,QUIT", "--block-signal=USR2,TERM"])
            .args(inner)
            .env(INNER_VARIABLE, "signals")
            .env(LAUNCHER_VARIABLE, launcher_path())
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
    }
}

#[test]
fn the_child_is_born_in_its_leaf_and_the_launcher_is_not() {
    with_leaf(|place| async move {
        let (child, started) = start(&place, sh("exec sleep 1000")).await;
        let leaf = child.control.leaf().unwrap().path();
        let cgroup = |pid: u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
            text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
        };
        let own = cgroup(std::process::id());
        let beneath = |path: &str| leaf.ends_with(Path::new(path).strip_prefix(&own).unwrap());
        for pid in [started.init_pid, started.plugin_pid] {
            assert!(beneath(&cgroup(pid)) && cgroup(pid) != own, "{} {}", cgroup(pid), leaf.display());
        }
        assert_eq!(cgroup(child.control.launcher_pid().unwrap()), own);
        assert!(child.control.leaf().unwrap().populated().unwrap());
        place.end(child).await;
        wait_until("no leaf", || leaves_in(place.tree()) == 0 && !leaf.exists()).await;
    });
}

#[test]
fn log_pipes_are_small_and_protocol_pipes_are_not() {
    each_enclosure(|place| async move {
        let (child, _) = start(&place, sh("exec sleep 1000")).await;
        let bytes = |fd| rustix::pipe::fcntl_getpipe_size(fd).unwrap();
        let (log, protocol) = (bytes(child.stdout.as_fd()), bytes(child.output.as_fd()));
        assert_eq!((log, bytes(child.stderr.as_fd())), (4096, 4096));
        assert!(log < protocol && protocol == bytes(child.input.as_fd()), "{log} {protocol}");
        place.end(child).await;
    });
}

#[test]
fn status_sees_the_whole_tree() {
    each_enclosure(|place| async move {
        let (mut child, started) = start(&place, sh("sleep 1000 & sleep 1000 & echo ready; wait")).await;
        assert_eq!(line_of(&mut child.stdout).await, "ready");
        // pid 1, the shell, and the two.
        wait_until("two sleeping children", || tree_usage(started.init_pid).is_ok_and(|usage| usage.processes == 4))
            .await;
        let usage = tree_usage(started.init_pid).unwrap();
        assert_eq!(usage.threads, 4);
        assert!(0 < usage.rss_bytes, "{usage:?}");
        if is_root() {
            let share = proportional_bytes(started.init_pid).unwrap().unwrap();
            assert!(0 < share && share <= usage.rss_bytes, "{share} {usage:?}");
        }
        place.end(child).await;
        assert!(tree_usage(started.init_pid).is_err());
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// How a child ends.

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

/// Nothing that a child leaves behind survives it, however hard it tries.
#[test]
fn grandchildren_that_ignore_sigterm_are_gone_after_the_kill() {
    each_enclosure(|place| async move {
        let marker = Marker::new();
        let (mut child, _) = start(&place, sh(&format!("{} wait", stubborn(&marker)))).await;
        marker.wait_for(3).await;
        child.control.kill();
        assert_eq!(place.last_report(child).await, exited(Exit::Killed));
        // Not waited for: the report is the proof.
        marker.assert_gone();
    });
}

#[test]
fn grandchildren_are_gone_when_the_plugin_exits_by_itself() {
    each_enclosure(|place| async move {
        let marker = Marker::new();
        let (mut child, _) = start(&place, sh(&format!("{} read line <&3; exit 4", stubborn(&marker)))).await;
        marker.wait_for(3).await;
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
        let (child, _) = start(&place, sh(&format!("{} wait", stubborn(&marker)))).await;
        marker.wait_for(3).await;
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
        let (child, started) = start(&place, sh(&format!("{} wait", stubborn(&marker)))).await;
        marker.wait_for(3).await;
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
        let (mut child, _) = start(&place, sh(&format!("{} wait", stubborn(&marker)))).await;
        marker.wait_for(3).await;
        let launcher = child.control.launcher_pid().unwrap();
        signal(launcher, Signal::STOP);
        wait_until("a stopped launcher", || state_of(launcher) == Some('T')).await;
        child.control.kill();
        assert_eq!(place.last_report(child).await, exited(Exit::Killed));
        marker.assert_gone();
    });
}

#[test]
fn dropping_the_control_ends_the_tree_frozen_or_not() {
    each_enclosure(|place| async move {
        for frozen in [false, true] {
            let marker = Marker::new();
            let (child, started) = start(&place, sh(&format!("{} wait", stubborn(&marker)))).await;
            marker.wait_for(3).await;
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
        let (mut child, _) = launch(&place, &open("/bin/sh"), None, sh(&format!("exec sleep {marker}")));
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
        let (mut child, _) = launch(&place, &open("/bin/sh"), None, sh("exit 0"));
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
        let mut process = again(&["--ignored", "--exact", "a_daemon_for_another_test", "--nocapture"])
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
        let (child, started) = start(&place, sh(&format!("{} wait", stubborn(&marker)))).await;
        marker.wait_for(3).await;
        if enclosure.ends_with("frozen") {
            child.control.freeze().unwrap();
            wait_until("a frozen tree", || is_frozen(&child, started)).await;
        }
        println!("\nlauncher {}", child.control.launcher_pid().unwrap());
        // Until it is killed, or its standard input ends because the other test failed.
        std::io::stdin().lines().for_each(drop);
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Stopping and continuing.

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
        let (mut child, started) = start(&place, sh(&format!("{} wait", stubborn(&marker)))).await;
        marker.wait_for(3).await;
        child.control.freeze().unwrap();
        wait_until("a frozen tree", || is_frozen(&child, started)).await;
        child.control.kill();
        assert_eq!(place.last_report(child).await, exited(Exit::Killed));
        marker.assert_gone();
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Starts that fail.

#[test]
fn a_file_that_cannot_be_executed_says_why() {
    each_enclosure(|place| async move {
        let folder = tempfile::tempdir().unwrap();
        let program_bytes = std::fs::read("/bin/true").unwrap();
        let make = |name: &str, bytes: &[u8], mode: u32| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            path
        };
        let mut foreign = program_bytes.clone();
        // The machine of an ELF header: one that this is not.
        foreign[18..20].copy_from_slice(&[0xF3, 0x7F]);
        let homeless = replaced(&program_bytes, b"/ld-linux", b"/ld-lunix");

        for (path, errno, hint) in [
            (make("plain", &program_bytes, 0o644), EACCES, "chmod +x"),
            (make("foreign", &foreign, 0o755), ENOEXEC, "no program for this machine"),
            (make("text", b"just some text\n", 0o755), ENOEXEC, "no program for this machine"),
            (make("empty", b"", 0o755), ENOEXEC, "no program for this machine"),
            (make("homeless", &homeless, 0o755), ENOENT, "loader"),
            (make("script", b"#!/nonexistent/interpreter\n", 0o755), ENOENT, "interpreter behind #!"),
        ] {
            let mut spec = sh("");
            spec.arguments = vec![CString::new(path.to_str().unwrap()).unwrap()];
            let (child, _) = launch(&place, &open(&path), None, spec);
            let failure = failure(place.last_report(child).await);
            assert_eq!((failure.step, failure.errno), (Step::Exec, errno), "{failure}");
            let name = path.to_str().unwrap();
            assert!(failure.message.contains(hint) && failure.message.contains(name), "{failure}");
        }
    });
}

#[test]
fn a_folder_that_cannot_be_entered_is_named() {
    each_enclosure(|place| async move {
        let mut spec = sh("exit 0");
        spec.directory = c"/nonexistent/folder".to_owned();
        let (child, _) = launch(&place, &open("/bin/sh"), None, spec);
        let failure = failure(place.last_report(child).await);
        assert_eq!((failure.step, failure.errno), (Step::Directory, ENOENT), "{failure}");
        assert!(failure.message.contains("/nonexistent/folder"), "{failure}");
    });
}

#[test]
fn a_limit_that_cannot_be_set_is_named() {
    each_enclosure(|place| async move {
        let Some(hard) = getrlimit(rustix::process::Resource::Nofile).maximum else {
            return skipped("a limit that cannot be set", "descriptors are unlimited here");
        };
        let mut spec = sh("exit 0");
        // One that holds comes first: it is the second that must be named. Above the host's maximum root fails as well.
        let too_many = if is_root() { u64::from(u32::MAX) } else { hard + 1 };
        spec.limits = vec![
            Limit { resource: Resource::Core, soft: Some(0), hard: Some(0) },
            Limit { resource: Resource::Descriptors, soft: Some(too_many), hard: Some(too_many) },
        ];
        let (child, _) = launch(&place, &open("/bin/sh"), None, spec);
        let failure = failure(place.last_report(child).await);
        assert_eq!((failure.step, failure.errno), (Step::Limits, EPERM), "{failure}");
        assert!(
            failure.message.contains("Descriptors") && failure.message.contains(&too_many.to_string()),
            "{failure}"
        );
    });
}

#[test]
fn an_ordinary_user_without_a_user_namespace_is_told_what_is_missing() {
    if is_root() {
        return skipped("a pid namespace without privilege", "root; the run as an ordinary user shows it");
    }
    run(async {
        let place = Place::without_leaf();
        let mut spec = sh("exit 0");
        spec.user_namespace = None;
        let (child, _) = launch(&place, &open("/bin/sh"), None, spec);
        let failure = failure(place.last_report(child).await);
        assert_eq!((failure.step, failure.errno), (Step::PidNamespace, EPERM), "{failure}");
        assert!(failure.message.contains("needs root, or a user namespace"), "{failure}");
    });
}

#[test]
fn a_script_is_run_by_the_interpreter_that_the_daemon_opened() {
    each_enclosure(|place| async move {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let script = folder.path().join("plugin");
        std::fs::write(&script, "#!/bin/sh -e\necho \"$0 $1\"; exit 3\n").unwrap();
        let mut spec = sh("");
        spec.arguments =
            ["/bin/sh", "-e", script.to_str().unwrap(), "given"].map(|it| CString::new(it).unwrap()).into();
        let (mut child, _) = launch(&place, &open(&script), Some(&open("/bin/sh")), spec);
        assert_eq!(all_of(&mut child.stdout).await, format!("{} given\n", script.display()));
        assert_eq!(place.last_report(child).await, exited(Exit::Code(3)));
    });
}

/// Whoever unpacked a program a moment ago may still have it open for writing.
#[test]
fn a_program_that_is_being_written_is_tried_again_until_it_is_not() {
    // Alone: a process that another test makes at the wrong moment would hold a copy of the writing descriptor.
    exclusively(|| {
        runtime().block_on(async {
            let place = Place::without_leaf();
            let (path, _folder) = copy_of_true();
            let writer = File::options().append(true).open(&path).unwrap();
            let (child, _) = launch(&place, &open(&path), None, program(&["true"]));
            let launcher = child.control.launcher_pid().unwrap();
            // The process that is to become the plugin exists and sleeps, which before its exec it does between two
            // attempts only.
            wait_until("an attempt that failed", || {
                let plugin = children_of(launcher).first().and_then(|init| children_of(*init).first().copied());
                plugin.is_some_and(|plugin| state_of(plugin) == Some('S'))
            })
            .await;
            drop(writer);
            assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));
        });
    });
}

#[test]
fn a_program_that_stays_open_for_writing_is_given_up() {
    run(async {
        let place = Place::without_leaf();
        let (path, _folder) = copy_of_true();
        let _writer = File::options().append(true).open(&path).unwrap();
        let (child, _) = launch(&place, &open(&path), None, program(&["true"]));
        let failure = failure(place.last_report(child).await);
        assert_eq!((failure.step, failure.errno), (Step::Exec, ETXTBSY), "{failure}");
        assert!(failure.message.contains("still being written"), "{failure}");
    });
}

#[test]
fn a_daemon_of_another_build_is_refused() {
    run(async {
        let place = Place::without_leaf();
        let mut spec = sh("exit 0");
        spec.build_id = "0.0.0-another".to_owned();
        let (child, _) = launch(&place, &open("/bin/sh"), None, spec);
        let failure = failure(place.last_report(child).await);
        assert_eq!(failure.step, Step::Specification, "{failure}");
        assert!(failure.message.contains("0.0.0-another"), "{failure}");
        assert!(failure.message.contains(palisade_launcher::BUILD_ID), "{failure}");
    });
}

#[test]
fn a_launcher_of_another_build_is_refused() {
    run(async {
        // The same program, but for the build that it says it is.
        let other = palisade_launcher::BUILD_ID.replace('-', "+");
        let bytes = std::fs::read(launcher_path()).unwrap();
        let bytes = replaced(&bytes, palisade_launcher::BUILD_ID.as_bytes(), other.as_bytes());
        let failure = failure_of_launcher(&bytes).await;
        assert_eq!(failure.step, Step::Specification, "{failure}");
        // In the daemon's words, not in those with which that launcher refuses on its side.
        assert!(failure.message.starts_with("the launcher is of build"), "{failure}");
        assert!(failure.message.contains(&other) && failure.message.contains(palisade_launcher::BUILD_ID), "{failure}");
    });
}

#[test]
fn a_program_that_is_no_launcher_is_refused() {
    run(async {
        let failure = failure_of_launcher(&std::fs::read("/bin/true").unwrap()).await;
        assert_eq!(failure.step, Step::Specification, "{failure}");
        assert!(failure.message.contains("ended before it said which build it is"), "{failure}");
    });
}

#[test]
fn a_launcher_is_not_for_the_shell() {
    let output = command(&launcher_path()).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("palisaded that starts this program"));
    let output = command(&launcher_path()).arg("--build-id").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), palisade_launcher::BUILD_ID);
    // Not enclosed, and so not fooled.
    assert_eq!(command(&launcher_path()).arg("--probe").status().unwrap().code(), Some(3));
}

#[test]
fn a_missing_launcher_is_named() {
    let error = LauncherImage::load(Path::new("/nonexistent/palisade-launcher")).unwrap_err();
    assert!(matches!(error, ImageError::Unreadable { .. }), "{error}");
}

/// A sealed image must not be changed by anybody, the daemon included.
#[test]
fn the_image_holds_the_same_bytes_for_ever() {
    // One that nobody executes meanwhile, so that it is the seal alone that refuses.
    let image = LauncherImage::load(&launcher_path()).unwrap();
    assert_eq!(image.bytes().unwrap(), std::fs::read(launcher_path()).unwrap());
    let path = format!("/proc/self/fd/{}", image.as_fd().as_raw_fd());
    let error = File::options().write(true).open(&path).and_then(|mut file| file.write_all(b"x")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EPERM));
    // And the descriptor that is kept was not opened for writing.
    assert!(rustix::fs::fcntl_getfl(image.as_fd()).unwrap() & OFlags::RWMODE == OFlags::RDONLY);
}

#[test]
fn arguments_that_do_not_fit_into_a_message_are_refused_at_once() {
    run(async {
        let mut spec = sh("exit 0");
        spec.environment = vec![CString::new(vec![b'x'; 200 * 1024]).unwrap()];
        let entry = open("/bin/sh");
        let launch = Launch { spec, entry: entry.as_fd(), interpreter: None, leaf: None, lent: None };
        let error = spawn(image(), None, launch).unwrap_err();
        assert!(error.to_string().contains("exceeds"), "{error}");
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Launchers that are made before they are needed.

/// In a user, network and IPC namespace of its own: what can be prepared.
fn enclosed(script: &str) -> Spec {
    let mut spec = sh(script);
    let outside = if is_root() { NOBODY_ELSE } else { rustix::process::geteuid().as_raw() };
    let group = if is_root() { NOBODY_ELSE } else { rustix::process::getegid().as_raw() };
    spec.user_namespace =
        Some(UserMap { inside_uid: 1000, outside_uid: outside, inside_gid: 1000, outside_gid: group });
    spec.namespaces = Namespaces { network: true, ipc: true, cgroup: false };
    spec
}

async fn prepared() -> Prepared {
    let stock = Arc::new(Stock::new(1));
    let stocking = tokio::spawn({
        let stock = stock.clone();
        async move { stock.run(image()).await }
    });
    let mut standing = stock.standing();
    within(standing.wait_for(|now| now.ready == 1)).await.unwrap();
    let one = stock.take().unwrap();
    stock.close().await;
    within(stocking).await.unwrap();
    one
}

fn launch_with(prepared: Option<Prepared>, place: &Place, entry: &OwnedFd, spec: Spec) -> Child {
    let launch = Launch { spec, entry: entry.as_fd(), interpreter: None, leaf: place.leaf(), lent: None };
    spawn(image(), prepared, launch).unwrap()
}

async fn said_by(place: &Place, mut child: Child) -> String {
    let mut said = String::new();
    within(child.stdout.read_to_string(&mut said)).await.unwrap();
    assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));
    said
}

/// What a child finds, the namespaces on the last lines: those are not the host's.
const SURVEY: &str = "cat /proc/self/uid_map /proc/self/gid_map /proc/net/dev /proc/self/oom_score_adj; ulimit -a; \
     grep -e ^Name -e ^Umask -e Uid -e Gid -e Groups -e ^Sig[BIC] -e ^Cap -e ^NoNew -e ^Seccomp /proc/self/status; \
     ls /proc/self/fd | wc -l; ls /proc/net; \
     for kind in user net ipc pid; do readlink /proc/self/ns/$kind; done";

#[test]
fn a_prepared_start_makes_what_an_ordinary_one_makes() {
    each_enclosure(|place| async move {
        let shell = open("/bin/sh");
        let ordinary = said_by(&place, launch_with(None, &place, &shell, enclosed(SURVEY))).await;
        let child = launch_with(Some(prepared().await), &place, &shell, enclosed(SURVEY));
        assert!(child.control.was_prepared());
        let found = said_by(&place, child).await;
        let split = |text: &str| -> (Vec<String>, Vec<String>) {
            let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
            let namespaces = lines.split_off(lines.len() - 4);
            (lines, namespaces)
        };
        let ((ordinary, _), (found, own)) = (split(&ordinary), split(&found));
        assert_eq!(found, ordinary);
        // Not with those of the other child: it has ended, and the kernel gives their numbers away again.
        for (kind, own) in ["user", "net", "ipc", "pid"].iter().zip(own) {
            let host = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert!(own.starts_with(kind) && own != host.to_string_lossy(), "{own}");
        }
    });
}

/// It is born in its leaf like any other, and ends like any other.
#[test]
fn a_prepared_child_is_killed_with_everything_it_started() {
    each_enclosure(|place| async move {
        let marker = Marker::new();
        let spec = enclosed(&format!("{} wait", stubborn(&marker)));
        let mut child = launch_with(Some(prepared().await), &place, &open("/bin/sh"), spec);
        assert!(matches!(within(child.control.next_report()).await, Report::Started(_)));
        marker.wait_for(3).await;
        child.control.kill();
        assert_eq!(place.last_report(child).await, exited(Exit::Killed));
        marker.assert_gone();
    });
}

/// What was prepared is more than such a start wants; it does without.
#[test]
fn a_start_that_wants_less_is_made_as_ever() {
    each_enclosure(|place| async move {
        let mut spec = enclosed("readlink /proc/self/ns/net");
        spec.namespaces.network = false;
        let said = said_by(&place, launch_with(Some(prepared().await), &place, &open("/bin/sh"), spec)).await;
        assert_eq!(Path::new(said.trim()), std::fs::read_link("/proc/self/ns/net").unwrap());
    });
}

#[test]
fn a_prepared_launcher_that_died_is_replaced_by_an_ordinary_start() {
    each_enclosure(|place| async move {
        let one = prepared().await;
        let number = one.launcher_pid().unwrap();
        kill_process(Pid::from_raw(number.cast_signed()).unwrap(), Signal::KILL).unwrap();
        within(async {
            // Once it is a zombie its socket is closed.
            while !std::fs::read_to_string(format!("/proc/{number}/stat")).unwrap_or_default().contains(") Z ") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let child = launch_with(Some(one), &place, &open("/bin/sh"), enclosed("echo well"));
        assert!(!child.control.was_prepared());
        assert_eq!(said_by(&place, child).await, "well\n");
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// Confinement: each layer with a program that passes and one that fails in exactly the expected way. What a real plugin
// finds under the daemon is shown by the system tests.

#[test]
fn a_confined_child_finds_its_own_tree_and_nothing_else() {
    each_enclosure(|place| async move {
        let ground = Confined::new();
        let script = "id -u; pwd; ls /; cat /etc/passwd | wc -l; touch /data/x /tmp/x && rm /tmp/x; touch /usr/x; ls /root; cat /trial";
        let (mut child, ()) = launch(&place, &open("/bin/sh"), None, ground.spec(script));
        let said = all_of(&mut child.stdout).await;
        let complaints = all_of(&mut child.stderr).await;
        place.last_report(child).await;
        let mut lines = said.lines();
        assert_eq!((lines.next(), lines.next()), (Some("1000"), Some("/data")), "{said}{complaints}");
        let names: Vec<_> = lines.by_ref().take_while(|line| *line != "2").collect();
        assert!(["data", "plugin", "usr", "etc", "tmp"].iter().all(|name| names.contains(name)), "{names:?}");
        assert!(["home", "root", "var", "boot"].iter().all(|name| !names.contains(name)), "{names:?}");
        for complaint in ["/usr/x': Read-only file system", "/root': No such file", "/trial: No such file"] {
            assert!(complaints.contains(complaint), "{complaint} in {complaints}");
        }
        // On the disk it is the daemon's.
        let owner = std::os::unix::fs::MetadataExt::uid(&ground.folder.path().join("data/x").metadata().unwrap());
        assert_eq!(owner, rustix::process::geteuid().as_raw());
    });
}

/// Each of these is taken away, and the attempt that it stopped succeeds: so it was this that stopped it.
#[test]
fn what_a_layer_stops_goes_through_without_it() {
    run(async {
        let place = Place::without_leaf();
        let ground = Confined::new();
        type Without = fn(&mut Spec);
        let read_only: Without = |spec| {
            mount_of(spec, c"plugin").attributes.read_only = false;
            spec.landlock = None;
        };
        let no_exec: Without = |spec| {
            mount_of(spec, c"tmp").attributes.no_exec = false;
            spec.landlock = None;
        };
        let rows: [(&str, &str, Without); 5] = [
            ("touch /plugin/x", "a package that can be written", read_only),
            ("cp /bin/true /tmp/true && /tmp/true", "a program that was written", no_exec),
            ("! grep -q 'CapBnd:.0000000000000000' /proc/self/status", "an empty bounding set", |spec| {
                spec.powerless = false
            }),
            ("grep -q 'NoNewPrivs:.0' /proc/self/status", "no_new_privs", |spec| {
                spec.powerless = false;
                // Without it an ordinary process may not enter a domain.
                spec.landlock = None;
            }),
            ("test \"$(hostname)\" != plugin", "a host name", |spec| spec.hostname = None),
        ];
        for (script, what, without) in rows {
            let mut spec = ground.spec(script);
            let (child, ()) = launch(&place, &open("/bin/sh"), None, spec.clone());
            let with = place.last_report(child).await;
            assert_ne!(with, exited(Exit::Code(0)), "{what}: {script}");
            without(&mut spec);
            let (mut child, ()) = launch(&place, &open("/bin/sh"), None, spec);
            let complaints = all_of(&mut child.stderr).await;
            assert_eq!(place.last_report(child).await, exited(Exit::Code(0)), "without {what}: {script}: {complaints}");
        }
    });
}

#[test]
fn landlock_is_a_fence_of_its_own() {
    run(async {
        let place = Place::without_leaf();
        let ground = Confined::new();
        let mut spec = ground.spec("cat /trial");
        if spec.landlock.is_none() {
            return skipped("Landlock", "this kernel has none");
        }
        let root = spec.root.as_mut().unwrap();
        root.files.push(MadeUp { path: c"trial".to_owned(), contents: c"for nobody".to_owned() });
        let (mut child, ()) = launch(&place, &open("/bin/sh"), None, spec.clone());
        assert!(all_of(&mut child.stderr).await.contains("Permission denied"));
        assert_eq!(place.last_report(child).await, exited(Exit::Code(1)));
        spec.landlock = None;
        let (mut child, ()) = launch(&place, &open("/bin/sh"), None, spec);
        assert_eq!(all_of(&mut child.stdout).await, "for nobody");
        assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));
    });
}

/// One instruction of a system call filter: code, two jumps, operand.
fn instruction(code: u16, yes: u8, no: u8, operand: u32) -> Vec<u8> {
    [&code.to_ne_bytes()[..], &[yes, no], &operand.to_ne_bytes()].concat()
}

#[test]
fn a_system_call_filter_is_installed_last_and_holds() {
    each_enclosure(|place| async move {
        const LOAD_WORD: u16 = 0x20;
        const JUMP_IF_EQUAL: u16 = 0x15;
        const RETURN: u16 = 0x06;
        const ALLOW: u32 = 0x7fff_0000;
        const ERRNO: u32 = 0x0005_0000;
        let forbidden = u32::try_from(libc_numbers::SYS_MKDIR).unwrap();
        let filter = [
            instruction(LOAD_WORD, 0, 0, 0),
            instruction(JUMP_IF_EQUAL, 0, 1, forbidden),
            instruction(RETURN, 0, 0, ERRNO | EPERM.cast_unsigned()),
            instruction(RETURN, 0, 0, ALLOW),
        ]
        .concat();
        let ground = Confined::new();
        let script = "grep Seccomp: /proc/self/status; mkdir /tmp/folder";
        let mut spec = ground.spec(script);
        spec.seccomp = None;
        let (mut child, ()) = launch(&place, &open("/bin/sh"), None, spec.clone());
        assert_eq!(all_of(&mut child.stdout).await, "Seccomp:\t0\n");
        assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));

        spec.seccomp = Some(filter);
        let (mut child, ()) = launch(&place, &open("/bin/sh"), None, spec);
        assert_eq!(all_of(&mut child.stdout).await, "Seccomp:\t2\n");
        assert!(all_of(&mut child.stderr).await.contains("Operation not permitted"));
        assert_eq!(place.last_report(child).await, exited(Exit::Code(1)));

        for (filter, step, errno) in [(vec![0xff; 8], Step::Seccomp, EINVAL), (vec![0; 7], Step::Specification, 0)] {
            let mut spec = ground.spec("exit 0");
            spec.seccomp = Some(filter);
            let (child, ()) = launch(&place, &open("/bin/sh"), None, spec);
            let failure = failure(place.last_report(child).await);
            assert_eq!((failure.step, failure.errno), (step, errno), "{failure}");
        }
    });
}

mod libc_numbers {
    #[cfg(target_arch = "x86_64")]
    pub(super) const SYS_MKDIR: i64 = 83;
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) const SYS_MKDIR: i64 = 34;
}

/// Every step of the confinement that does not hold ends the start, with its name, its error and the thing that it is about.
#[test]
fn a_step_that_does_not_hold_ends_the_start() {
    each_enclosure(|place| async move {
        let ground = Confined::new();
        type Break = fn(&mut Spec);
        let rows: [(Break, Step, i32, &str); 8] = [
            (|spec| mount_of(spec, c"usr").source = bind(c"/nonexistent"), Step::Bind, ENOENT, "/nonexistent"),
            (
                |spec| mount_of(spec, c"tmp").source = Source::New { kind: c"nofs".to_owned(), options: vec![] },
                Step::Mount,
                ENODEV,
                "/tmp could not be mounted",
            ),
            (|spec| mount_of(spec, c"tmp").target = c"missing/tmp".to_owned(), Step::Mount, ENOENT, "/missing/tmp"),
            (
                |spec| spec.root.as_mut().unwrap().folders.push(c"a/b".to_owned()),
                Step::PrivateRoot,
                ENOENT,
                "private root",
            ),
            (|spec| spec.directory = c"/nowhere".to_owned(), Step::Directory, ENOENT, "/nowhere"),
            (
                |spec| spec.root.as_mut().unwrap().entry = Some(c"usr/bin/true".to_owned()),
                Step::EntryPoint,
                ESTALE,
                "not the file that was verified",
            ),
            (
                |spec| spec.root.as_mut().unwrap().entry = Some(c"plugin/main".to_owned()),
                Step::EntryPoint,
                ENOENT,
                "/plugin/main",
            ),
            (|spec| spec.hostname = Some(CString::new("x".repeat(65)).unwrap()), Step::Hostname, EINVAL, "host name"),
        ];
        for (number, (break_it, step, errno, word)) in rows.into_iter().enumerate() {
            let mut spec = ground.spec("exit 0");
            break_it(&mut spec);
            let (child, ()) = launch(&place, &open("/bin/sh"), None, spec);
            let failure = failure(place.last_report(child).await);
            assert_eq!((failure.step, failure.errno), (step, errno), "row {number}: {failure}");
            assert!(failure.message.contains(word), "row {number}: {word:?} in {failure}");
        }
        // What is optional may be missing.
        let mut spec = ground.spec("exit 0");
        let mount = mount_of(&mut spec, c"etc/ld.so.cache");
        (mount.source, mount.optional) = (bind(c"/nonexistent"), true);
        let (child, ()) = launch(&place, &open("/bin/sh"), None, spec);
        assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));
    });
}

/// What the operator granted is opened without following a link, whatever it was when the daemon looked, and is mounted where the
/// folders above it are made first.
#[test]
fn what_is_granted_is_bound_as_it_was_named_or_not_at_all() {
    each_enclosure(|place| async move {
        let ground = Confined::new();
        let at = ground.folder.path().canonicalize().unwrap();
        std::fs::create_dir(at.join("place")).unwrap();
        std::fs::write(at.join("place/file"), "granted").unwrap();
        std::os::unix::fs::symlink("place", at.join("link")).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, at.join("pipe"), rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        let of = |path: &Path| CString::new(path.as_os_str().as_encoded_bytes()).unwrap();
        let spec = |source: &Path, target: &std::ffi::CStr| {
            let mut spec = ground.spec("cat file && ! echo more > file");
            spec.directory = c"/srv/deep/place".to_owned();
            spec.landlock = None;
            let owner = is_root().then_some((NOBODY_ELSE, NOBODY_ELSE));
            let attributes = Attributes { read_only: true, no_exec: true, no_dev: true };
            spec.root.as_mut().unwrap().mounts.push(Mount {
                target: target.to_owned(),
                source: Source::Granted { path: of(source), owner },
                attributes,
                optional: false,
            });
            spec
        };
        let good = spec(&at.join("place"), c"srv/deep/place");
        let (mut child, ()) = launch(&place, &open("/bin/sh"), None, good);
        assert_eq!(all_of(&mut child.stdout).await, "granted");
        assert!(all_of(&mut child.stderr).await.contains("Read-only file system"));
        assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));
        for (source, step, errno, word) in [
            ("link", Step::Bind, ELOOP, "a symbolic link stands in it"),
            ("link/file", Step::Bind, ELOOP, "a symbolic link stands in it"),
            ("gone", Step::Bind, ENOENT, "gone could not be bound"),
            ("pipe", Step::Bind, EOPNOTSUPP, "neither a folder nor a regular file"),
        ] {
            let (child, ()) = launch(&place, &open("/bin/sh"), None, spec(&at.join(source), c"srv/deep/place"));
            let failure = failure(place.last_report(child).await);
            assert_eq!((failure.step, failure.errno), (step, errno), "{source}: {failure}");
            assert!(failure.message.contains(word), "{source}: {word:?} in {failure}");
        }
        // Within what is read-only nothing is made.
        let (child, ()) = launch(&place, &open("/bin/sh"), None, spec(&at.join("place"), c"usr/missing/place"));
        let failure = failure(place.last_report(child).await);
        assert_eq!((failure.step, failure.errno), (Step::Mount, EROFS), "{failure}");
    });
}

/// A program that was exchanged behind the daemon's back is not the one that was verified.
#[test]
fn the_entry_point_is_the_verified_file_or_nothing() {
    each_enclosure(|place| async move {
        let ground = Confined::new();
        let main = ground.folder.path().join("package/main");
        std::fs::copy("/bin/true", &main).unwrap();
        let verified = open(&main);
        let mut spec = ground.spec("");
        spec.root.as_mut().unwrap().entry = Some(c"plugin/main".to_owned());
        let (child, ()) = launch(&place, &verified, None, spec.clone());
        assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));
        std::fs::rename(&main, main.with_extension("old")).unwrap();
        std::fs::copy("/bin/false", &main).unwrap();
        let (child, ()) = launch(&place, &verified, None, spec);
        let failure = failure(place.last_report(child).await);
        assert_eq!((failure.step, failure.errno), (Step::EntryPoint, ESTALE), "{failure}");
    });
}

fn mount_of<'a>(spec: &'a mut Spec, target: &std::ffi::CStr) -> &'a mut Mount {
    let mounts = &mut spec.root.as_mut().unwrap().mounts;
    mounts.iter_mut().find(|mount| mount.target.as_c_str() == target).unwrap()
}

fn bind(path: &std::ffi::CStr) -> Source {
    Source::Bind { path: path.to_owned(), idmap: None }
}

/// Folders for a child that is confined as a plugin is.
struct Confined {
    folder: tempfile::TempDir,
}

impl Confined {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["package", "data"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        // As open as can be, so that it is the mount alone that keeps it from being written.
        std::fs::set_permissions(folder.path().join("package"), PermissionsExt::from_mode(0o777)).unwrap();
        Self { folder }
    }

    /// A shell in a private root, with everything that this host has.
    fn spec(&self, script: &str) -> Spec {
        static VERSION: OnceLock<u32> = OnceLock::new();
        let landlock = *VERSION.get_or_init(|| {
            // The probe needs a runtime of its own beside the one that the test runs in.
            let probed = std::thread::spawn(|| {
                runtime().block_on(async {
                    let state = tempfile::tempdir().unwrap();
                    within(probe(image(), Err(&Unavailable::NotMounted), ground(state.path()))).await.landlock_version
                })
            });
            probed.join().unwrap()
        });
        let offer = Offer::whole(landlock);
        let mut spec = sh(script);
        // It runs a shell with programs of its own.
        let grants = Grants { execute_code: true, ..Grants::default() };
        let identity = if is_root() { Identity::Lent { uid: NOBODY_ELSE } } else { Identity::Own };
        let inside = Inside {
            identity,
            hostname: "plugin",
            package: &self.folder.path().join("package"),
            data: &self.folder.path().join("data"),
            entry: None,
            interpreter: None,
            // It runs a shell with programs of its own.
            denials: palisaded::sandbox::seccomp::policy::Denials::Answered,
            grants: &grants,
            places: &[],
        };
        confine(&mut spec, &offer, &inside);
        spec
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// What stays.

#[test]
fn two_hundred_starts_leave_nothing() {
    exclusively(|| {
        runtime().block_on(async {
            let mut places = vec![Place::without_leaf()];
            places.extend(Place::with_leaf());
            for place in places {
                let children = || children_of(std::process::id());
                let descriptors = || descriptors_of(std::process::id()).len();
                one_of_each_end(&place).await;
                // What other tests of this process left to be reaped is not counted.
                wait_until("no zombies", || children().is_empty()).await;
                let before = descriptors();
                for _ in 0..50 {
                    one_of_each_end(&place).await;
                }
                wait_until("no zombies", || children().is_empty()).await;
                assert_eq!(descriptors(), before);
                if let Some(tree) = &place.tree {
                    wait_until("no leaves", || leaves_in(tree) == 0).await;
                }
            }
        });
    });
}

/// A child that exits, one that is killed, one that cannot start, and one that is dropped.
async fn one_of_each_end(place: &Place) {
    let (child, _) = start(place, sh("exit 0")).await;
    assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));

    let (mut child, _) = start(place, sh("exec sleep 1000")).await;
    child.control.kill();
    assert_eq!(place.last_report(child).await, exited(Exit::Killed));

    let mut spec = sh("exit 0");
    spec.directory = c"/nonexistent".to_owned();
    let (child, _) = launch(place, &open("/bin/sh"), None, spec);
    assert_eq!(failure(place.last_report(child).await).step, Step::Directory);

    let (child, started) = start(place, sh("exec sleep 1000")).await;
    drop(child);
    wait_until("an empty tree", || state_of(started.init_pid).is_none()).await;
}

/// Whatever a dead daemon left alive, by whatever accident.
#[test]
fn a_new_daemon_ends_what_a_dead_one_left_in_its_cgroups() {
    with_leaf(|mut place| async move {
        let path = place.tree().path().to_owned();
        place.tree = None;
        assert!(!path.exists());
        let leaf = path.join("leaf.stale.1");
        std::fs::create_dir_all(&leaf).unwrap();
        let mut process = command(Path::new("sleep")).arg("1000").spawn().unwrap();
        std::fs::write(leaf.join("cgroup.procs"), process.id().to_string()).unwrap();
        std::fs::write(leaf.join("cgroup.freeze"), "1").unwrap();

        let opened = Tree::open_or_create(place.state()).unwrap();
        assert_eq!((opened.tree.path(), opened.stale_leaves), (path.as_path(), 1));
        assert!(!leaf.exists());
        assert_eq!(process.wait().unwrap().signal(), Some(9));
    });
}

#[test]
fn a_living_daemon_keeps_its_cgroups_to_itself() {
    with_leaf(|place| async move {
        let (child, _) = start(&place, sh("exec sleep 1000")).await;
        let error = Tree::open_or_create(place.state()).unwrap_err();
        assert!(matches!(error, Unavailable::InUse { .. }), "{error}");
        assert!(child.control.leaf().unwrap().populated().unwrap());
        place.end(child).await;
    });
}

#[test]
fn a_leaf_has_a_decent_name_and_there_is_one_of_it() {
    with_leaf(|place| async move {
        let tree = place.tree();
        for name in ["", ".", "..", "../x", "a/b", "a\0b", "ü", &"x".repeat(300)] {
            let result = tree.leaf(name, None);
            // A dot or two are harmless behind the prefix that every leaf has.
            let harmless = matches!(name, "." | "..");
            assert_eq!(matches!(result, Err(LeafError::Name(_))), !harmless, "{name:?}");
        }
        let leaf = tree.leaf("cpu.stat", None).unwrap();
        assert!(matches!(tree.leaf("cpu.stat", None), Err(LeafError::Refused { .. })));
        let path = leaf.path();
        assert!(path.is_dir() && !leaf.populated().unwrap());
        drop(leaf);
        assert!(!path.exists());
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// What the host can do.

#[test]
fn the_probe_finds_what_the_other_tests_use() {
    run(async {
        let state = tempfile::tempdir().unwrap();
        let tree = Tree::open_or_create(state.path());
        let host = within(probe(image(), tree.as_ref().map(|opened| &opened.tree), ground(state.path()))).await;
        println!("{host:?}");
        assert_eq!(host.pid_namespaces, Ability::Yes);
        for ability in [
            &host.user_namespaces,
            &host.private_root,
            &host.network_namespaces,
            &host.ipc_namespaces,
            &host.host_names,
            &host.watchers,
        ] {
            assert_eq!(*ability, Ability::Yes);
        }
        assert_eq!(host.landlock.is_yes(), host.landlock_version != 0);
        // Landlock answers before the capability is looked for.
        let mknod = if host.landlock.is_yes() { EACCES } else { EPERM };
        for (act, errno) in [
            ("read-shadow", ENOENT),
            ("write-outside", EROFS),
            ("write-data", 0),
            ("mknod", mknod),
            ("setuid0", EINVAL),
        ] {
            assert_eq!(host.trial(act).map(|trial| trial.errno), Some(errno), "{act}");
        }
        assert_eq!(host.cgroup.is_yes(), tree.is_ok(), "{}", host.cgroup);
        assert_eq!(host.tier() == Tier::C, tree.is_err());
        assert!(host.descriptors.plugins_max(None).is_none_or(|fit| 0 < fit));
        if let Ok(opened) = tree {
            wait_until("no leaves", || leaves_in(&opened.tree) == 0).await;
        }
    });
}

#[test]
fn a_user_who_owns_no_cgroup_is_told_so() {
    if is_root() {
        return skipped("a cgroup that is not delegated", "root; the run as an ordinary user shows it");
    }
    let state = tempfile::tempdir().unwrap();
    match Tree::open_or_create(state.path()) {
        Err(error @ Unavailable::NotDelegated { .. }) => assert!(error.to_string().contains("delegated"), "{error}"),
        Err(error) => panic!("{error}"),
        Ok(_) => skipped("a cgroup that is not delegated", "this user's cgroup is delegated"),
    }
}

/// A host without namespaces, made by a user namespace whose own limits forbid any further one.
#[test]
fn a_host_without_namespaces_is_told_so() {
    if std::env::var_os(INNER_VARIABLE).is_some_and(|inner| inner == "no namespaces") {
        return run(async {
            let state = tempfile::tempdir().unwrap();
            let host = within(probe(image(), Err(&Unavailable::NotMounted), ground(state.path()))).await;
            for (ability, sysctl) in
                [(&host.user_namespaces, "max_user_namespaces"), (&host.pid_namespaces, "max_pid_namespaces")]
            {
                let Ability::No(reason) = ability else { panic!("{host:?}") };
                assert!(reason.contains(sysctl), "{reason}");
            }
            assert_eq!(host.tier(), Tier::None);
        });
    }
    exclusively(|| {
        let inner = again_command(&["--exact", "a_host_without_namespaces_is_told_so", "--nocapture"]);
        let status = command(Path::new("/usr/bin/unshare"))
            .args(["--user", "--map-root-user", "/bin/sh", "-c"])
            .arg(concat!(
                "echo 0 > /proc/sys/user/max_user_namespaces && echo 0 > /proc/sys/user/max_pid_namespaces || exit 77; ",
                "exec \"$@\""
            ))
            .arg("sh")
            .args(inner)
            .env(INNER_VARIABLE, "no namespaces")
            .env(LAUNCHER_VARIABLE, launcher_path())
            .status();
        match status.map(|status| status.code()) {
            Ok(Some(0)) => {}
            Ok(Some(77)) | Err(_) => skipped("a host without namespaces", "one cannot be made here"),
            other => panic!("{other:?}"),
        }
    });
}

/// Everything above, as somebody who is not root.
#[test]
fn everything_again_as_an_ordinary_user() {
    if !is_root() || std::env::var_os(INNER_VARIABLE).is_some() {
        return;
    }
    // Where that user can read it, whatever the folders of the build allow.
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let copy = |from: &Path, name: &str| {
        let to = folder.path().join(name);
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, PermissionsExt::from_mode(0o755)).unwrap();
        to
    };
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let launcher = copy(&launcher_path(), "palisade-launcher");
    // The others of this run wait: what both runs count must not mix.
    exclusively(|| {
        let status = command(Path::new("setpriv"))
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&tests)
            .arg("--nocapture")
            .env(INNER_VARIABLE, "ordinary user")
            .env(LAUNCHER_VARIABLE, &launcher)
            .current_dir("/")
            .status()
            .unwrap();
        assert!(status.success(), "{status}");
    });
}

// ---------------------------------------------------------------------------------------------------------------------
// The harness.

/// Where a child is started: with leaf cgroups or without.
struct Place {
    tree: Option<Tree>,
    state: Option<Arc<tempfile::TempDir>>,
}

static LEAVES: AtomicU32 = AtomicU32::new(0);

impl Place {
    fn without_leaf() -> Self {
        Self { tree: None, state: None }
    }

    fn with_leaf() -> Option<Self> {
        let state = tempfile::tempdir().unwrap();
        let opened = Tree::open_or_create(state.path()).ok()?;
        assert_eq!(opened.stale_leaves, 0);
        Some(Self { tree: Some(opened.tree), state: Some(Arc::new(state)) })
    }

    /// Through a method, so that a test which only uses the tree keeps the state folder alive as well.
    fn tree(&self) -> &Tree {
        self.tree.as_ref().unwrap()
    }

    fn state(&self) -> &Path {
        self.state.as_ref().unwrap().path()
    }

    fn leaf(&self) -> Option<Leaf> {
        let number = LEAVES.fetch_add(1, Ordering::Relaxed);
        self.tree.as_ref().map(|tree| tree.leaf(&format!("test.{number}"), None).unwrap())
    }

    /// The report with which a child is over.
    async fn last_report(&self, mut child: Child) -> Report {
        let last = loop {
            let report = within(child.control.next_report()).await;
            if report.is_final() {
                break report;
            }
        };
        assert!(child.control.leaf().is_none(), "a leaf outlives its child");
        match last {
            // What was used differs from run to run.
            Report::Exited(Exited { exit, .. }) => exited(exit),
            last => last,
        }
    }

    /// Ends a child that has served its purpose.
    async fn end(&self, mut child: Child) {
        child.control.kill();
        assert_eq!(self.last_report(child).await, exited(Exit::Killed));
    }
}

/// Tests share this; the few that count what the whole process has take it alone.
static TURN: RwLock<()> = RwLock::new(());

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn run(test: impl Future<Output = ()>) {
    let _turn = TURN.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = runtime();
    runtime.block_on(test);
}

fn exclusively(test: impl FnOnce()) {
    let _turn = TURN.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    test();
}

/// Runs a test without a leaf, and with one where there can be one.
fn each_enclosure<F: Future<Output = ()>>(test: impl Fn(Place) -> F) {
    run(async {
        test(Place::without_leaf()).await;
        if let Some(place) = Place::with_leaf() {
            let path = place.tree().path().to_owned();
            // Kept for longer than the tree, so that no other test gets a folder of the same identity.
            let _state = place.state.clone();
            test(place).await;
            assert!(!path.exists(), "{} is left behind", path.display());
        }
    });
}

/// Runs a test that makes sense with a leaf only.
fn with_leaf<F: Future<Output = ()>>(test: impl FnOnce(Place) -> F) {
    run(async {
        match Place::with_leaf() {
            Some(place) => test(place).await,
            None => skipped("a leaf cgroup", "this user may not make cgroups here"),
        }
    });
}

fn can_have_leaf() -> bool {
    Place::with_leaf().is_some()
}

fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED {what}: {why}");
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn image() -> &'static LauncherImage {
    static IMAGE: OnceLock<LauncherImage> = OnceLock::new();
    IMAGE.get_or_init(|| LauncherImage::load(&launcher_path()).unwrap())
}

/// A user of the host that nobody is.
const NOBODY_ELSE: u32 = 1_900_000_000;

fn ground(folder: &Path) -> Ground<'_> {
    Ground { folder, uid: NOBODY_ELSE }
}

/// The launcher as it is shipped, built if need be.
fn launcher_path() -> PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os(LAUNCHER_VARIABLE) {
        Some(path) => path.into(),
        None => {
            let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("launcher");
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("launcher/build.sh");
            let status = command(&script).arg("debug").arg(&folder).status().unwrap();
            assert!(status.success(), "{status}");
            folder.join("palisade-launcher")
        }
    })
    .clone()
}

#[expect(clippy::disallowed_methods, reason = "a test is not the daemon")]
fn command(program: &Path) -> Command {
    Command::new(program)
}

/// This test program, once more.
fn again(arguments: &[&str]) -> Command {
    let mut again = command(&std::env::current_exe().unwrap());
    again.args(arguments).env(LAUNCHER_VARIABLE, launcher_path());
    again
}

fn again_command(arguments: &[&str]) -> Vec<std::ffi::OsString> {
    let mut all = vec![std::env::current_exe().unwrap().into_os_string()];
    all.extend(arguments.iter().map(Into::into));
    all
}

fn open(path: impl AsRef<Path>) -> OwnedFd {
    rustix::fs::open(path.as_ref(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

fn program(arguments: &[&str]) -> Spec {
    let mut spec = Spec::new(c"/".to_owned());
    spec.arguments = arguments.iter().map(|argument| CString::new(*argument).unwrap()).collect();
    spec.environment = vec![c"PATH=/usr/bin:/bin".to_owned()];
    spec.user_namespace = user_map();
    spec
}

fn sh(script: &str) -> Spec {
    program(&["sh", "-c", script])
}

fn launch(place: &Place, entry: &OwnedFd, interpreter: Option<&OwnedFd>, spec: Spec) -> (Child, ()) {
    let interpreter = interpreter.map(AsFd::as_fd);
    let launch = Launch { spec, entry: entry.as_fd(), interpreter, leaf: place.leaf(), lent: None };
    (spawn(image(), None, launch).unwrap(), ())
}

/// Starts a shell and waits until it runs.
async fn start(place: &Place, spec: Spec) -> (Child, Started) {
    let (mut child, ()) = launch(place, &open("/bin/sh"), None, spec);
    match within(child.control.next_report()).await {
        Report::Started(started) => (child, started),
        report => panic!("{report:?}"),
    }
}

/// What a launcher of these bytes is refused with.
async fn failure_of_launcher(bytes: &[u8]) -> Failure {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("palisade-launcher");
    std::fs::write(&path, bytes).unwrap();
    let image = LauncherImage::load(&path).unwrap();
    let entry = open("/bin/sh");
    let launch = Launch { spec: sh("exit 0"), entry: entry.as_fd(), interpreter: None, leaf: None, lent: None };
    failure(Place::without_leaf().last_report(spawn(&image, None, launch).unwrap()).await)
}

fn exited(exit: Exit) -> Report {
    Report::Exited(Exited { exit, usage: palisade_launcher::Usage::default() })
}

fn failure(report: Report) -> Failure {
    match report {
        Report::Failed(failure) => failure,
        report => panic!("{report:?}"),
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("it takes longer than anything here may take")
}

/// Waits for a state of the system that announces itself nowhere.
async fn wait_until(what: &str, state: impl Fn() -> bool) {
    let until = Instant::now() + BOUND;
    while !state() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn block_until(what: &str, state: impl Fn() -> bool) {
    let until = Instant::now() + BOUND;
    while !state() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

async fn all_of(pipe: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = String::new();
    within(pipe.read_to_string(&mut text)).await.unwrap();
    text
}

async fn line_of(pipe: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut line = Vec::new();
    loop {
        match within(pipe.read_u8()).await.unwrap() {
            b'\n' => return String::from_utf8(line).unwrap(),
            byte => line.push(byte),
        }
    }
}

fn copy_of_true() -> (PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("true");
    let bytes = std::fs::read("/bin/true").unwrap();
    File::options().create_new(true).write(true).mode(0o755).open(&path).unwrap().write_all(&bytes).unwrap();
    (path, folder)
}

/// A copy of `bytes` in which `from` is `to`, of the same length.
fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = bytes.to_vec();
    let places: Vec<_> = (0..bytes.len() - from.len()).filter(|at| bytes[*at..].starts_with(from)).collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at..at + from.len()].copy_from_slice(to);
    }
    bytes
}

/// A number of seconds to sleep that nobody else sleeps: it names the processes of one test on the whole host.
struct Marker(String);

static MARKERS: AtomicU32 = AtomicU32::new(0);

impl Marker {
    fn new() -> Self {
        let number = MARKERS.fetch_add(1, Ordering::Relaxed);
        Self(format!("1000.{:07}{number:04}", std::process::id()))
    }

    /// The processes that have it among their arguments.
    fn processes(&self) -> Vec<u32> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            // Exactly: the shell that is to start them has it within a longer argument.
            if arguments.split(|byte| *byte == 0).any(|argument| argument == self.0.as_bytes()) {
                found.push(pid);
            }
        }
        found
    }

    /// At this moment, without waiting.
    #[track_caller]
    fn assert_gone(&self) {
        let left = self.processes();
        assert!(left.is_empty(), "still alive: {left:?}");
    }

    async fn wait_for(&self, number: usize) {
        wait_until("the tree's processes", || self.processes().len() == number).await;
    }
}

impl std::fmt::Display for Marker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Shell commands that leave three processes: a plain child, a grandchild in a session of its own, and one below a
/// second session that lost its parents. All ignore what can be ignored.
fn stubborn(marker: &Marker) -> String {
    let sleep = format!("exec sleep {marker}");
    format!(
        "trap '' TERM HUP INT; \
         ({sleep}) & \
         setsid sh -c '({sleep}) & wait' & \
         setsid sh -c 'setsid sh -c \"({sleep}) &\" &' & \
         "
    )
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// The letter of a process's state; none if there is no such process.
fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim().chars().next()
}

fn is_frozen(child: &Child, started: Started) -> bool {
    match child.control.leaf() {
        Some(leaf) => leaf.frozen().unwrap(),
        None => state_of(started.plugin_pid) == Some('T'),
    }
}

fn children_of(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(text.split_ascii_whitespace().map(|number| number.parse::<u32>().unwrap()));
    }
    children.sort_unstable();
    children
}

fn link_of(descriptor: i32) -> String {
    std::fs::read_link(format!("/proc/self/fd/{descriptor}")).unwrap().to_string_lossy().into_owned()
}

/// The open descriptors of a process, and what they lead to.
fn descriptors_of(pid: u32) -> BTreeMap<i32, String> {
    let folder = format!("/proc/{pid}/fd");
    let mut descriptors = BTreeMap::new();
    for entry in std::fs::read_dir(&folder).unwrap().flatten() {
        // The one with which this list is read is gone by the time it is looked at.
        if let Ok(target) = std::fs::read_link(entry.path()) {
            descriptors
                .insert(entry.file_name().to_str().unwrap().parse().unwrap(), target.to_string_lossy().into_owned());
        }
    }
    descriptors
}

/// How many leaves there are, when those are gone that can be.
fn leaves_in(tree: &Tree) -> usize {
    tree.sweep();
    std::fs::read_dir(tree.path()).unwrap().flatten().filter(|entry| entry.path().is_dir()).count()
}
