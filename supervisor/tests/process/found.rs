//! What a child finds.

use std::{
    os::fd::{AsFd, AsRawFd},
    path::Path,
};

use palisaded::process::{Exit, Limit, Report, Resource, proportional_bytes, tree_usage};
use tokio::io::AsyncWriteExt;

use crate::harness::*;

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
        let mut child = launch(&place, &open("/usr/bin/env"), None, spec).await;
        assert_eq!(all_of(&mut child.stdout).await, "ONE=1\nTWO=two words\n");
        assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));

        let mut spec = sh("pwd -P; umask; ulimit -n; cat /proc/self/oom_score_adj; echo \"$0-$1-$#\"");
        spec.arguments.extend([c"name".to_owned(), c"first".to_owned(), c"".to_owned()]);
        spec.directory = c"/usr/bin".to_owned();
        spec.limits = vec![Limit { resource: Resource::Descriptors, soft: Some(123), hard: Some(124) }];
        spec.oom_score_adj = 500;
        let mut child = launch(&place, &open("/bin/sh"), None, spec).await;
        assert_eq!(all_of(&mut child.stdout).await, "/usr/bin\n0022\n123\n500\nname-first-2\n");
        assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));
    });
}

#[test]
fn a_child_leads_a_session_and_has_its_signals_as_new() {
    each_enclosure(|place| async move {
        // Not a shell: that would set its signals as it likes.
        let mut child = launch(&place, &open("/bin/sleep"), None, program(&["sleep", "1000"])).await;
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
        let inner = one_test("found::a_child_leads_a_session_and_has_its_signals_as_new");
        let output = command(Path::new("env"))
            .args(["--ignore-signal=HUP,USR1,QUIT", "--block-signal=USR2,TERM"])
            .args(inner)
            .env(INNER_VARIABLE, "signals")
            .env(LAUNCHER_VARIABLE, launcher_path())
            .output()
            .unwrap();
        assert_one_passed(&output);
    }
}

#[test]
fn the_child_is_born_in_its_leaf_and_the_launcher_is_not() {
    with_leaf(|place| async move {
        let (child, started) = start(&place, sh("exec sleep 1000")).await;
        let leaf = child.control.leaf().unwrap().path();
        assert!(is_in(&leaf, started.init_pid) && is_in(&leaf, started.plugin_pid));
        assert_eq!(cgroup_of(child.control.launcher_pid().unwrap()), cgroup_of(std::process::id()));
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
