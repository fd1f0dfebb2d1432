//! Launchers that are made before they are needed.

use std::{path::Path, sync::Arc};

use palisade_launcher::Namespaces;
use palisaded::process::{Child, Exit, Prepared, Report, Spec, Stock, UserMap};
use rustix::process::Signal;
use tokio::io::AsyncReadExt;

use crate::harness::*;
use crate::life::kill_with_its_tree;

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
        async move { stock.run(launchers()).await }
    });
    let mut standing = stock.standing();
    within(standing.wait_for(|now| now.ready == 1)).await.unwrap();
    let one = stock.take().unwrap();
    stock.close().await;
    within(stocking).await.unwrap();
    one
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
        let ordinary = said_by(&place, launch_with(None, &place, &shell, None, enclosed(SURVEY)).await).await;
        let child = launch_with(Some(prepared().await), &place, &shell, None, enclosed(SURVEY)).await;
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
        let mut child = launch_with(Some(prepared().await), &place, &open("/bin/sh"), None, spec).await;
        let Report::Started(started) = within(child.control.next_report()).await else { panic!("it is not started") };
        if let Some(leaf) = child.control.leaf() {
            assert!(is_in(&leaf.path(), started.init_pid) && is_in(&leaf.path(), started.plugin_pid));
        }
        kill_with_its_tree(&place, child, &marker).await;
    });
}

/// What was prepared is more than such a start wants; it does without.
#[test]
fn a_start_that_wants_less_is_made_as_ever() {
    each_enclosure(|place| async move {
        let mut spec = enclosed("readlink /proc/self/ns/net");
        spec.namespaces.network = false;
        let said =
            said_by(&place, launch_with(Some(prepared().await), &place, &open("/bin/sh"), None, spec).await).await;
        assert_eq!(Path::new(said.trim()), std::fs::read_link("/proc/self/ns/net").unwrap());
    });
}

#[test]
fn a_prepared_launcher_that_died_is_replaced_by_an_ordinary_start() {
    each_enclosure(|place| async move {
        let one = prepared().await;
        let number = one.launcher_pid().unwrap();
        signal(number, Signal::KILL);
        // Once it is a zombie its socket is closed.
        wait_until("a dead launcher", || state_of(number) == Some('Z')).await;
        let child = launch_with(Some(one), &place, &open("/bin/sh"), None, enclosed("echo well")).await;
        assert!(!child.control.was_prepared());
        assert_eq!(said_by(&place, child).await, "well\n");
    });
}
