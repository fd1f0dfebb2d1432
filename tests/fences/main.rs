//! The layers of the confinement, taken away: every attempt of the table under all of them, under one alone of those that the table
//! says stop it, and under none of those.
//!
//! The first has to be as under a daemon. The second shows that each fence holds by itself; the third that the attempt can succeed, and
//! that nothing else stops it: so what the table says is neither too little nor too much. What is never taken away is the enclosure:
//! pid namespace, user namespace, and on hosts that are anybody's what the exhausting rows need.
//!
//! Elsewhere: the same attempts in a plugin of a daemon are `isolation`; each step of the launcher is the daemon's test of processes.
#![forbid(unsafe_code)]

use std::ffi::{CStr, CString};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use palisade_launcher::Spec;
use palisade_tests::command::{built, command};
use palisade_tests::daemon::{as_user, other_user};
use palisade_tests::network;
use palisade_tests::rows::{Attempt, Bites, Fence, ROWS, Row};
use palisade_tests::wire::BOUND;
use palisade_tests::world::World;
use palisaded::model::limits::{BUILT_IN, Decided};
use palisaded::model::permission::grants::Grants;
use palisaded::process::{Exit, Launch, LauncherImage, Launchers, Report, spawn};
use palisaded::sandbox::cgroup::Unavailable;
use palisaded::sandbox::probe::{Ground, probe};
use palisaded::sandbox::seccomp::policy::Denials;
use palisaded::sandbox::spec::{self, Identity, Inside, Offer, confine};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

/// A user of the host that nobody is.
const NOBODY_ELSE: u32 = 1_900_000_000;

/// Small enough that the exhausting rows soon meet them.
const TIGHT: Decided = Decided { open_files: 64, file_size_mib: 48, ..BUILT_IN };

/// Where nothing but Palisade can be harmed.
fn in_the_guest() -> bool {
    std::env::var_os("PALISADE_TEST_GUEST").is_some()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs the test as the other user, where there is one: again in a process of that user's. `true` if that was done.
fn done_as_other_user(test: &str) -> bool {
    let Some(user) = other_user() else { return false };
    let folder = tempfile::tempdir().expect("there is room");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let copy = folder.path().join("fences");
    fs::copy(std::env::current_exe().expect("/proc is there"), &copy).expect("there is room");
    let output =
        as_user(user, &copy).args([test, "--exact", "--nocapture"]).current_dir("/").output().expect("it runs");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "as user {user}: {}", output.status);
    true
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("there is room")
}

/// Of their own for whoever asks: a zygote is in the network that it was started in, and each test has another one.
fn launchers() -> Launchers {
    Launchers::of(LauncherImage::load(&built("palisade-launcher")).expect("it was built"))
}

/// What this host has, as the daemon finds out.
fn offer(state: &Path) -> Offer {
    static LANDLOCK: OnceLock<u32> = OnceLock::new();
    let landlock = *LANDLOCK.get_or_init(|| {
        let ground = Ground { folder: state, uid: NOBODY_ELSE };
        runtime().block_on(probe(&launchers(), Err(&Unavailable::NotMounted), ground)).landlock_version
    });
    Offer::whole(landlock)
}

/// A package and data for one child after the other.
struct Ward {
    folder: tempfile::TempDir,
    world: World,
    offer: Offer,
    entry: OwnedFd,
}

impl Ward {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("palisade-ward-").tempdir_in("/var/tmp").expect("there is room");
        let at = |name: &str| folder.path().join(name);
        for name in ["package", "data", "state"] {
            fs::create_dir(at(name)).expect("there is room");
        }
        // As open as can be, so that it is never their owner that keeps somebody out.
        for (name, mode) in [("", 0o755), ("package", 0o777), ("data", 0o777)] {
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).expect("it is ours");
        }
        let main = at("package/main");
        fs::copy(built("palisade-hostile"), &main).expect("there is room");
        fs::set_permissions(&main, fs::Permissions::from_mode(0o755)).expect("it is ours");
        let entry = fs::File::open(&main).expect("it is ours").into();
        let offer = offer(&at("state"));
        Self { folder, world: World::new(), offer, entry }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Whether that fence stands on this host.
    fn stands(&self, fence: Fence) -> bool {
        match fence {
            Fence::Landlock(since) => since <= self.offer.landlock,
            Fence::User => is_root(),
            // What is tried here stands in no leaf.
            Fence::Cgroup => false,
            _ => true,
        }
    }

    /// What an attempt meets without these fences.
    fn met(&self, row: &str, what: &str, without: &[Fence], grants: Grants) -> String {
        let rooted = !without.contains(&Fence::Root);
        let (package, data) = (self.at("package"), self.at("data"));
        let told = if rooted {
            self.world.told(Path::new(spec::PACKAGE), Path::new(spec::DATA), std::process::id(), 1)
        } else {
            self.world.told(&package, &data, std::process::id(), 1)
        };
        let parameters = json!({"row": row, "what": what, "world": told}).to_string();
        let arguments = ["main", "attempt", &parameters].map(|text| CString::new(text).expect("text")).into();
        let mut spec =
            Spec { arguments, limits: spec::limits(&TIGHT, &self.offer, 1024), ..Spec::new(c"/".to_owned()) };
        let identity = if is_root() { Identity::Lent { uid: NOBODY_ELSE } } else { Identity::Own };
        let inside = Inside {
            identity,
            hostname: "plugin",
            package: &package,
            data: &data,
            entry: Some("main"),
            interpreter: None,
            grants: &grants,
            denials: Denials::Answered,
            places: &[],
        };
        confine(&mut spec, &self.offer, &inside);
        for fence in without {
            self.take_away(&mut spec, *fence);
        }
        self.run(spec)
    }

    fn take_away(&self, spec: &mut Spec, fence: Fence) {
        match fence {
            Fence::Filter => {
                spec.seccomp = None;
                spec.exec_once = false;
            }
            Fence::Landlock(_) => spec.landlock = None,
            Fence::Network => spec.namespaces.network = false,
            Fence::Limits => spec.limits.clear(),
            Fence::Cgroup => {}
            Fence::Powers => {
                // All that there is, and only in its own user namespace.
                spec.powerless = false;
                if let Some(map) = &mut spec.user_namespace {
                    (map.inside_uid, map.inside_gid) = (0, 0);
                }
            }
            Fence::NoExec => {
                let mounts = spec.root.iter_mut().flat_map(|root| &mut root.mounts);
                mounts
                    .filter(|mount| mount.target.as_c_str() == c"data")
                    .for_each(|mount| mount.attributes.no_exec = false);
            }
            Fence::Root => {
                spec.root = None;
                spec.namespaces.cgroup = false;
                spec.directory = CString::new(self.at("data").as_os_str().as_bytes()).expect("a path");
                // Landlock's rules go on to hold, for what is elsewhere now.
                for rule in spec.landlock.iter_mut().flat_map(|landlock| &mut landlock.rules) {
                    rule.optional = true;
                    for (inside, outside) in [(c"/plugin", "package"), (c"/data", "data")] {
                        if rule.path.as_c_str() == inside {
                            rule.path = CString::new(self.at(outside).as_os_str().as_bytes()).expect("a path");
                        }
                    }
                }
            }
            other => panic!("{other:?} cannot be taken away"),
        }
    }

    /// What the child prints, or the signal that it dies of.
    fn run(&self, spec: Spec) -> String {
        runtime().block_on(async {
            let launch = Launch { spec, entry: self.entry.as_fd(), interpreter: None, leaf: None, lent: None };
            let launchers = launchers();
            let mut child = spawn(launchers.attend(None).await.expect("a launcher"), launch).expect("it starts");
            let (mut said, mut complaints) = (String::new(), String::new());
            let last = tokio::time::timeout(BOUND + Duration::from_secs(60), async {
                let _ = child.stdout.read_to_string(&mut said).await;
                let _ = child.stderr.read_to_string(&mut complaints).await;
                loop {
                    let report = child.control.next_report().await;
                    if report.is_final() {
                        break report;
                    }
                }
            });
            let last = last.await.expect("no attempt takes so long");
            launchers.close().await;
            match last {
                Report::Exited(exited) => match exited.exit {
                    Exit::Code(0) => said.trim().to_owned(),
                    Exit::Signal { number, .. } => signal_name(number),
                    exit => format!("{exit:?}: {complaints}"),
                },
                report => panic!("it was not started: {report:?}: {complaints}"),
            }
        })
    }
}

fn signal_name(number: i32) -> String {
    nix::sys::signal::Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.as_str().to_owned())
}

/// What is wrong with an attempt of a row.
fn judge(ward: &Ward, row: &Row, attempt: &Attempt) -> Vec<String> {
    let mut wrong = Vec::new();
    let met = |without: &[Fence]| ward.met(row.name, attempt.what, without, Grants::default());
    let here = format!("{}: {}", row.name, attempt.what);
    let with_all = met(&[]);
    if !attempt.met.contains(&with_all.as_str()) {
        wrong.push(format!("{here}: {with_all}, and not {:?}", attempt.met));
    }
    let dangerous = attempt.bites == Bites::WithoutInTheGuest && !in_the_guest();
    if !matches!(attempt.bites, Bites::Without | Bites::WithoutInTheGuest | Bites::Otherwise) || dangerous {
        return wrong;
    }
    let lacking = match (row.name, attempt.what) {
        ("tcp-direct", "an address of a network namespace") if !ward.world.has_another_address() => {
            Some("only root can make a network namespace for it")
        }
        ("keyctl", "a sibling's key" | "a sibling's keyring") if !ward.world.has_keys() => {
            Some("nobody can have keys here")
        }
        _ => None,
    };
    if let Some(reason) = lacking {
        println!("SKIPPED {}: {}: without its fences: {reason}", row.name, attempt.what);
        return wrong;
    }
    let standing: Vec<Fence> = attempt.fences.iter().copied().filter(|fence| ward.stands(*fence)).collect();
    for alone in &standing {
        let others: Vec<Fence> = attempt.fences.iter().copied().filter(|fence| fence != alone).collect();
        let with_one = met(&others);
        if with_one == "ok" {
            wrong.push(format!("{here}: {alone:?} alone does not stop it"));
        }
    }
    let with_none = met(attempt.fences);
    match attempt.bites {
        Bites::Otherwise if with_none == with_all => {
            println!("SKIPPED {}: {}: the kernel says {with_none} to it anyway", row.name, attempt.what);
        }
        Bites::Otherwise => {}
        _ if with_none == "ok" => {}
        _ => wrong.push(format!("{here}: without {:?} it meets {with_none}", attempt.fences)),
    }
    wrong
}

#[test]
fn each_fence_holds_alone_and_nothing_else_does() {
    network::in_one_of_its_own(hold_each_fence);
}

fn hold_each_fence() {
    if done_as_other_user("each_fence_holds_alone_and_nothing_else_does") {
        return;
    }
    let ward = Ward::new();
    let wrong: Vec<String> = ROWS
        .iter()
        .flat_map(|row| row.attempts().iter().flat_map(|attempt| judge(&ward, row, attempt)).collect::<Vec<_>>())
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What is promised of these, whatever single layer is missing.
#[test]
fn without_any_one_layer_the_first_things_hold() {
    if done_as_other_user("without_any_one_layer_the_first_things_hold") {
        return;
    }
    let ward = Ward::new();
    let layers =
        [Fence::Root, Fence::NoExec, Fence::Landlock(1), Fence::Filter, Fence::Powers, Fence::Network, Fence::Limits];
    let held = [
        ("read-shadow", "/etc/shadow"),
        ("read-shadow", "a file for everybody"),
        ("write-outside", "its package"),
        ("write-outside", "/usr"),
        ("cgroup-escape", "one that anybody may write"),
        ("cgroup-escape", "/sys/fs/cgroup/cgroup.procs"),
        ("unix-abstract", "of somebody else"),
        ("sibling-data", "a file for everybody"),
    ];
    for layer in layers {
        if ward.offer.landlock < 6 && layer == Fence::Network {
            println!(
                "SKIPPED unix-abstract without the network namespace: this kernel's Landlock does not know such sockets"
            );
            continue;
        }
        for (row, what) in held {
            let met = ward.met(row, what, &[layer], Grants::default());
            assert!(
                matches!(met.as_str(), "ENOENT" | "EACCES" | "EPERM" | "EROFS" | "ECONNREFUSED"),
                "{row}: {what}, without {layer:?}: {met}"
            );
        }
    }
}

/// Files in memory as well; but not what it wrote into its data, neither by itself nor by the loader.
#[test]
fn with_execute_code_programs_run() {
    if done_as_other_user("with_execute_code_programs_run") {
        return;
    }
    let ward = Ward::new();
    let grants = Grants { execute_code: true, ..Grants::default() };
    assert_eq!(ward.met("memfd-exec", "fexecve", &[], grants.clone()), "ok");
    assert_eq!(ward.met("ld-so-exec", "itself", &[], grants.clone()), "EACCES");
    assert_eq!(ward.met("ld-so-exec", "the loader", &[], grants.clone()), "exit 127");
    assert_eq!(ward.met("ld-so-exec", "the loader", &[Fence::NoExec], grants.clone()), "ok");
}

/// The helper is setuid root, where root makes it.
#[test]
fn a_setuid_program_gives_nothing() {
    if other_user().is_some() || !is_root() {
        println!("SKIPPED setuid-bin: only root can make a program that is setuid root");
        return;
    }
    let ward = Ward::new();
    let helper = ward.at("package/helper");
    fs::copy(built("palisade-hostile"), &helper).expect("there is room");
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o4755)).expect("it is ours");
    assert_eq!(ward.met("setuid-bin", "a helper", &[], Grants { execute_code: true, ..Grants::default() }), "ok");
    if !in_the_guest() {
        println!("SKIPPED setuid-bin without a sandbox: it would be root; shown in the guest");
        return;
    }
    let parameters = json!({"row": "setuid-bin", "what": "a helper", "world": {"package": ward.at("package")}});
    let output =
        as_user(65534, &ward.at("package/main")).args(["attempt", &parameters.to_string()]).output().expect("it runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "EPERM", "it has become root: {output:?}");
}

/// What an attempt meets outside of any confinement.
fn outside(row: &str, what: &str, world: &Value) -> String {
    let parameters = json!({"row": row, "what": what, "world": world}).to_string();
    let output = command(built("palisade-hostile")).args(["attempt", &parameters]).output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The attempt itself is sound: a harmless device, by who may.
#[test]
fn devices_can_be_made_by_the_hosts_root() {
    if !is_root() {
        println!("SKIPPED mknod without a sandbox: only root can make devices");
        return;
    }
    let folder = tempfile::tempdir().expect("there is room");
    assert_eq!(outside("mknod", "character 1:3", &json!({"data": folder.path()})), "ok");
}

/// The attempt itself is sound: it is the file's being executed, or read-only, that stops it.
#[test]
fn a_program_that_does_not_run_can_be_written() {
    let folder = tempfile::tempdir().expect("there is room");
    let copy = folder.path().join("main");
    fs::copy(built("palisade-hostile"), &copy).expect("there is room");
    fs::set_permissions(&copy, fs::Permissions::from_mode(0o777)).expect("it is ours");
    assert_eq!(outside("self-exe-write", &copy.display().to_string(), &json!({})), "ok");
}

/// A name of the launcher's specification is a name of this file's.
#[test]
fn what_is_taken_away_is_there() {
    let ward = Ward::new();
    let mut spec = Spec::new(c"/".to_owned());
    let inside = Inside {
        identity: Identity::Own,
        hostname: "plugin",
        package: &ward.at("package"),
        data: &ward.at("data"),
        entry: Some("main"),
        interpreter: None,
        grants: &Grants::default(),
        denials: Denials::Answered,
        places: &[],
    };
    confine(&mut spec, &ward.offer, &inside);
    let root = spec.root.as_ref().expect("there is a private root");
    let data: &CStr = c"data";
    assert!(root.mounts.iter().any(|mount| mount.target.as_c_str() == data && mount.attributes.no_exec));
    let rules = &spec.landlock.as_ref().expect("there is Landlock").rules;
    assert!([c"/plugin", c"/data"].iter().all(|path| rules.iter().any(|rule| rule.path.as_c_str() == *path)));
    assert!(spec.seccomp.is_some() && spec.exec_once && spec.powerless && spec.namespaces.network);
}
