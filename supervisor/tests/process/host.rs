//! What the host can do.

use std::path::Path;

use libc::{EACCES, EINVAL, ENOENT, EPERM, EROFS};
use palisaded::sandbox::{
    cgroup::{Tree, Unavailable},
    probe::{Ability, Tier, probe},
};

use crate::harness::*;

#[test]
fn the_probe_finds_what_the_other_tests_use() {
    run(async {
        let state = tempfile::tempdir().unwrap();
        let tree = Tree::open_or_create(state.path());
        let host = within(probe(launchers(), tree.as_ref().map(|opened| &opened.tree), ground(state.path()))).await;
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
            let host = within(probe(launchers(), Err(&Unavailable::NotMounted), ground(state.path()))).await;
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
        let inner = one_test("host::a_host_without_namespaces_is_told_so");
        let output = command(Path::new("/usr/bin/unshare"))
            .args(["--user", "--map-root-user", "/bin/sh", "-c"])
            .arg(concat!(
                "echo 0 > /proc/sys/user/max_user_namespaces && echo 0 > /proc/sys/user/max_pid_namespaces || exit 77; ",
                "exec \"$@\""
            ))
            .arg("sh")
            .args(inner)
            .env(INNER_VARIABLE, "no namespaces")
            .env(LAUNCHER_VARIABLE, launcher_path())
            .output();
        match output {
            Ok(output) if output.status.code() != Some(77) => assert_one_passed(&output),
            Ok(_) | Err(_) => skipped("a host without namespaces", "one cannot be made here"),
        }
    });
}
