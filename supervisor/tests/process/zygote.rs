//! The process that launchers are copies of.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use palisaded::process::{Exit, Launch, LauncherImage, Launchers, NoLauncher, Report, SpawnError, spawn};
use rustix::process::{Pid, Signal, getpgid};

use crate::harness::*;

/// Launchers of its own, so that its zygote is nobody else's.
fn own_launchers() -> Launchers {
    Launchers::of(LauncherImage::load(&launcher_path()).unwrap())
}

async fn try_to_start(launchers: &Launchers, script: &str) -> Result<palisaded::process::Child, SpawnError> {
    let entry = open("/bin/sh");
    let launch = Launch { spec: sh(script), entry: entry.as_fd(), interpreter: None, leaf: None, lent: None };
    spawn(within(launchers.attend(None)).await?, launch)
}

async fn expect_a_start(launchers: &Launchers) {
    let child = try_to_start(launchers, "exit 7").await.unwrap();
    assert_eq!(Place::without_leaf().last_report(child).await, exited(Exit::Code(7)));
}

/// The zygote that these launchers have from their next start on, which is their first with it.
async fn zygote_of(launchers: &Launchers) -> u32 {
    let before = zygotes();
    expect_a_start(launchers).await;
    zygotes().into_iter().find(|pid| !before.contains(pid)).expect("there is a new one")
}

/// Children of this process by that name.
fn children_named(name: &str) -> Vec<u32> {
    let of = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|text| text.trim_end() == name);
    children_of(std::process::id()).into_iter().filter(of).collect()
}

fn zygotes() -> Vec<u32> {
    children_named("palisade-zygote")
}

fn group_of(pid: u32) -> Option<i32> {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    getpgid(pid).ok().map(|group| group.as_raw_nonzero().get())
}

#[test]
fn a_launcher_is_a_copy_and_has_nothing_but_its_own() {
    exclusively(|| {
        runtime().block_on(async {
            let launchers = own_launchers();
            let zygote = zygote_of(&launchers).await;
            let mut child = try_to_start(&launchers, "exec sleep 1000").await.unwrap();
            let launcher = child.control.launcher_pid().unwrap();
            within(child.control.next_report()).await;
            assert!(children_of(std::process::id()).contains(&launcher), "it is a child of this process");
            let line = |pid: u32| std::fs::read(format!("/proc/{pid}/cmdline")).unwrap();
            assert_eq!(
                (line(launcher), line(zygote)),
                (b"palisade-launcher\0".to_vec(), b"palisade-launcher\0".to_vec())
            );
            assert_eq!(group_of(launcher), i32::try_from(launcher).ok(), "a signal to its group reaches nobody else");
            assert_eq!(descriptors_of(zygote).len(), 3, "the zygote keeps nothing of a start");
            // Into a launcher only root can look.
            if is_root() {
                let program = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
                assert_eq!(program(launcher), program(zygote));
                let socket = |pid: u32| descriptors_of(pid).remove(&0).unwrap();
                assert_ne!(socket(launcher), socket(zygote), "each hangs on a socket of its own");
            }
            child.control.kill();
            Place::without_leaf().end(child).await;

            launchers.close().await;
            assert!(!zygotes().contains(&zygote), "it was waited for");
        });
    });
}

#[test]
fn a_zygote_that_was_killed_costs_no_start() {
    exclusively(|| {
        runtime().block_on(async {
            let launchers = own_launchers();
            let first = zygote_of(&launchers).await;
            signal(first, Signal::KILL);
            wait_until("its end", || state_of(first).is_none_or(|state| state == 'Z')).await;
            assert_ne!(zygote_of(&launchers).await, first);
            wait_until("the first to be waited for", || state_of(first).is_none()).await;
        });
    });
}

/// One that somebody has stopped answers nothing: that start fails within its bound, the next ones are executed one by one, for which
/// there is a reason, and after a while there is another zygote.
#[test]
fn a_zygote_that_was_stopped_costs_one_start() {
    exclusively(|| {
        runtime().block_on(async {
            let launchers = own_launchers();
            let first = zygote_of(&launchers).await;
            signal(first, Signal::STOP);
            let error = try_to_start(&launchers, "exit 0").await.unwrap_err();
            assert!(matches!(error, SpawnError::Launcher(NoLauncher::Lost(_))), "{error}");
            assert!(error.to_string().contains("did not answer"), "{error}");
            let others = zygotes();
            expect_a_start(&launchers).await;
            assert_eq!(zygotes(), others, "none is made");
            assert_eq!(launchers.one_by_one().borrow().as_deref(), Some("the last one did not answer in time"));
            wait_until("the end of the one that was stopped", || state_of(first).is_none()).await;
            tokio::time::pause();
            tokio::time::advance(Duration::from_secs(60)).await;
            tokio::time::resume();
            zygote_of(&launchers).await;
            assert_eq!(*launchers.one_by_one().borrow(), None);
        });
    });
}

/// Another build's launcher, or another program, is executed and found out as ever.
#[test]
fn a_program_that_is_no_zygote_is_executed() {
    run(async {
        let launchers = Launchers::of(LauncherImage::load(Path::new("/bin/true")).unwrap());
        for _ in 0..2 {
            let child = try_to_start(&launchers, "exit 0").await.unwrap();
            let failed = failure(Place::without_leaf().last_report(child).await);
            assert!(failed.message.contains("before it said which build it is"), "{}", failed.message);
            let reason = launchers.one_by_one().borrow().clone().unwrap_or_default();
            assert!(reason.starts_with("none could be made: "), "{reason}");
        }
    });
}

/// Whenever it is killed, each start is made or fails with that reason, and no child of this process stays behind as a zombie.
#[test]
fn a_zygote_that_is_killed_again_and_again_leaves_nobody() {
    const MANY: usize = 200;
    exclusively(|| {
        runtime().block_on(async {
            let launchers = own_launchers();
            let (others, before) = (zygotes(), children_of(std::process::id()));
            let over = AtomicBool::new(false);
            let killing = async {
                while !over.load(Relaxed) {
                    for pid in zygotes().into_iter().filter(|pid| !others.contains(pid)) {
                        signal(pid, Signal::KILL);
                    }
                    tokio::task::yield_now().await;
                }
            };
            let starting = async {
                let mut made = 0;
                for _ in 0..MANY {
                    match try_to_start(&launchers, "exit 7").await {
                        Ok(child) => match Place::without_leaf().last_report(child).await {
                            // For a moment a copy has the zygote's name, and is killed in its place.
                            Report::Failed(failed) => {
                                assert!(failed.message.contains("before it said which build it is"), "{failed}");
                            }
                            report => {
                                assert_eq!(report, exited(Exit::Code(7)));
                                made += 1;
                            }
                        },
                        Err(error) => assert!(matches!(error, SpawnError::Launcher(NoLauncher::Lost(_))), "{error}"),
                    }
                }
                over.store(true, Relaxed);
                made
            };
            let ((), made) = tokio::join!(killing, starting);
            assert!(0 < made, "some are made");
            launchers.close().await;
            let left = || children_of(std::process::id()).into_iter().filter(|pid| !before.contains(pid)).count();
            wait_until("no children", || left() == 0).await;
        });
    });
}

#[test]
fn many_start_at_once() {
    const MANY: usize = 64;
    run(async {
        let launchers: &'static Launchers = Box::leak(Box::new(own_launchers()));
        let starts: Vec<_> = (0..MANY).map(|_| tokio::spawn(expect_a_start(launchers))).collect();
        for start in starts {
            within(start).await.unwrap();
        }
    });
}
