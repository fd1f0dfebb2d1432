//! What stays of children, and whose the leaf cgroups are.

use std::{os::unix::process::ExitStatusExt, path::Path};

use palisaded::{
    process::{Exit, Step},
    sandbox::cgroup::{LeafError, Tree, Unavailable},
};

use crate::harness::*;

#[test]
fn two_hundred_starts_leave_nothing() {
    exclusively(|| {
        runtime().block_on(async {
            let mut places = vec![Place::without_leaf()];
            places.extend(Place::with_leaf());
            for place in places {
                let zygote = |pid: &u32| {
                    std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "palisade-zygote\n")
                };
                // What other tests of this process left, whose runtime is gone, nobody waits for any more.
                let others = children_of(std::process::id());
                let children = || {
                    let mut children = children_of(std::process::id());
                    children.retain(|pid| !zygote(pid) && !others.contains(pid));
                    children
                };
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
    let child = launch(place, &open("/bin/sh"), None, spec).await;
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
