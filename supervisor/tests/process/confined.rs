//! Confinement: each layer with a program that passes and one that fails in exactly the expected way. What a real plugin
//! finds under the daemon is shown by the system tests.

use std::{
    ffi::{CStr, CString},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::OnceLock,
};

use libc::{EINVAL, ELOOP, ENODEV, ENOENT, EOPNOTSUPP, EPERM, EROFS, ESTALE};
use palisade_launcher::{Attributes, MadeUp, Mount, Source};
use palisaded::model::permission::grants::Grants;
use palisaded::process::{Exit, Spec, Step};
use palisaded::sandbox::{
    cgroup::Unavailable,
    probe::probe,
    seccomp::policy::Denials,
    spec::{Identity, Inside, Offer, confine},
};
use rustix::fs::Mode;

use crate::harness::*;

#[test]
fn a_confined_child_finds_its_own_tree_and_nothing_else() {
    each_enclosure(|place| async move {
        let ground = Confined::new();
        let script = "id -u; pwd; ls /; cat /etc/passwd | wc -l; touch /data/x /tmp/x && rm /tmp/x; touch /usr/x; ls /root; cat /trial";
        let mut child = launch(&place, &open("/bin/sh"), None, ground.spec(script)).await;
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
            let child = launch(&place, &open("/bin/sh"), None, spec.clone()).await;
            let with = place.last_report(child).await;
            assert_ne!(with, exited(Exit::Code(0)), "{what}: {script}");
            without(&mut spec);
            let mut child = launch(&place, &open("/bin/sh"), None, spec).await;
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
        let mut child = launch(&place, &open("/bin/sh"), None, spec.clone()).await;
        assert!(all_of(&mut child.stderr).await.contains("Permission denied"));
        assert_eq!(place.last_report(child).await, exited(Exit::Code(1)));
        spec.landlock = None;
        let mut child = launch(&place, &open("/bin/sh"), None, spec).await;
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
        // What mkdir(1) calls.
        #[cfg(target_arch = "x86_64")]
        const FORBIDDEN: libc::c_long = libc::SYS_mkdir;
        #[cfg(not(target_arch = "x86_64"))]
        const FORBIDDEN: libc::c_long = libc::SYS_mkdirat;
        let forbidden = u32::try_from(FORBIDDEN).unwrap();
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
        let mut child = launch(&place, &open("/bin/sh"), None, spec.clone()).await;
        assert_eq!(all_of(&mut child.stdout).await, "Seccomp:\t0\n");
        assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));

        spec.seccomp = Some(filter);
        let mut child = launch(&place, &open("/bin/sh"), None, spec).await;
        assert_eq!(all_of(&mut child.stdout).await, "Seccomp:\t2\n");
        assert!(all_of(&mut child.stderr).await.contains("Operation not permitted"));
        assert_eq!(place.last_report(child).await, exited(Exit::Code(1)));

        for (filter, step, errno) in [(vec![0xff; 8], Step::Seccomp, EINVAL), (vec![0; 7], Step::Specification, 0)] {
            let mut spec = ground.spec("exit 0");
            spec.seccomp = Some(filter);
            let child = launch(&place, &open("/bin/sh"), None, spec).await;
            let failure = failure(place.last_report(child).await);
            assert_eq!((failure.step, failure.errno), (step, errno), "{failure}");
        }
    });
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
            let child = launch(&place, &open("/bin/sh"), None, spec).await;
            let failure = failure(place.last_report(child).await);
            assert_eq!((failure.step, failure.errno), (step, errno), "row {number}: {failure}");
            assert!(failure.message.contains(word), "row {number}: {word:?} in {failure}");
        }
        // What is optional may be missing.
        let mut spec = ground.spec("exit 0");
        let mount = mount_of(&mut spec, c"etc/ld.so.cache");
        (mount.source, mount.optional) = (bind(c"/nonexistent"), true);
        let child = launch(&place, &open("/bin/sh"), None, spec).await;
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
        let spec = |source: &Path, target: &CStr| {
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
        let mut child = launch(&place, &open("/bin/sh"), None, good).await;
        assert_eq!(all_of(&mut child.stdout).await, "granted");
        assert!(all_of(&mut child.stderr).await.contains("Read-only file system"));
        assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));
        for (source, step, errno, word) in [
            ("link", Step::Bind, ELOOP, "a symbolic link stands in it"),
            ("link/file", Step::Bind, ELOOP, "a symbolic link stands in it"),
            ("gone", Step::Bind, ENOENT, "gone could not be bound"),
            ("pipe", Step::Bind, EOPNOTSUPP, "neither a folder nor a regular file"),
        ] {
            let child = launch(&place, &open("/bin/sh"), None, spec(&at.join(source), c"srv/deep/place")).await;
            let failure = failure(place.last_report(child).await);
            assert_eq!((failure.step, failure.errno), (step, errno), "{source}: {failure}");
            assert!(failure.message.contains(word), "{source}: {word:?} in {failure}");
        }
        // Within what is read-only nothing is made.
        let child = launch(&place, &open("/bin/sh"), None, spec(&at.join("place"), c"usr/missing/place")).await;
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
        let child = launch(&place, &verified, None, spec.clone()).await;
        assert_eq!(place.last_report(child).await, exited(Exit::Code(0)));
        std::fs::rename(&main, main.with_extension("old")).unwrap();
        std::fs::copy("/bin/false", &main).unwrap();
        let child = launch(&place, &verified, None, spec).await;
        let failure = failure(place.last_report(child).await);
        assert_eq!((failure.step, failure.errno), (Step::EntryPoint, ESTALE), "{failure}");
    });
}

fn mount_of<'a>(spec: &'a mut Spec, target: &CStr) -> &'a mut Mount {
    let mounts = &mut spec.root.as_mut().unwrap().mounts;
    mounts.iter_mut().find(|mount| mount.target.as_c_str() == target).unwrap()
}

fn bind(path: &CStr) -> Source {
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
                    within(probe(launchers(), Err(&Unavailable::NotMounted), ground(state.path())))
                        .await
                        .landlock_version
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
            denials: Denials::Answered,
            grants: &grants,
            places: &[],
        };
        confine(&mut spec, &offer, &inside);
        spec
    }
}
