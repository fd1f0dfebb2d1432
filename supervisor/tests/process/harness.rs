//! Where children are started, what they run, and how they are waited for.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsString},
    fs::File,
    io::Write,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::OpenOptionsExt,
    },
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{
        Arc, OnceLock, RwLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use palisaded::{
    process::{Child, Exit, Exited, Failure, Launch, LauncherImage, Launchers, Prepared, Report, Spec, Started, spawn},
    sandbox::{
        cgroup::{Leaf, Tree},
        probe::Ground,
        user_map,
    },
};
use rustix::{
    fs::{Mode, OFlags},
    process::{Pid, Signal, kill_process},
};
use tokio::io::AsyncReadExt;

/// No single wait of a test takes longer; on an idle machine each takes milliseconds.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// Names the launcher that a test run inside a test run is to use.
pub(crate) const LAUNCHER_VARIABLE: &str = "PALISADE_TEST_LAUNCHER";

/// Says to a test run inside a test run that it is one.
pub(crate) const INNER_VARIABLE: &str = "PALISADE_TEST_INNER";

/// Where a child is started: with leaf cgroups or without.
pub(crate) struct Place {
    pub(crate) tree: Option<Tree>,
    pub(crate) state: Option<Arc<tempfile::TempDir>>,
}

static LEAVES: AtomicU32 = AtomicU32::new(0);

impl Place {
    pub(crate) fn without_leaf() -> Self {
        Self { tree: None, state: None }
    }

    pub(crate) fn with_leaf() -> Option<Self> {
        let state = tempfile::tempdir().unwrap();
        let opened = Tree::open_or_create(state.path()).ok()?;
        assert_eq!(opened.stale_leaves, 0);
        Some(Self { tree: Some(opened.tree), state: Some(Arc::new(state)) })
    }

    /// Through a method, so that a test which only uses the tree keeps the state folder alive as well.
    pub(crate) fn tree(&self) -> &Tree {
        self.tree.as_ref().unwrap()
    }

    pub(crate) fn state(&self) -> &Path {
        self.state.as_ref().unwrap().path()
    }

    pub(crate) fn leaf(&self) -> Option<Leaf> {
        let number = LEAVES.fetch_add(1, Ordering::Relaxed);
        self.tree.as_ref().map(|tree| tree.leaf(&format!("test.{number}"), None).unwrap())
    }

    /// The report with which a child is over.
    pub(crate) async fn last_report(&self, mut child: Child) -> Report {
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
    pub(crate) async fn end(&self, mut child: Child) {
        child.control.kill();
        assert_eq!(self.last_report(child).await, exited(Exit::Killed));
    }
}

/// Tests share this; the few that count what the whole process has take it alone.
static TURN: RwLock<()> = RwLock::new(());

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

pub(crate) fn run(test: impl Future<Output = ()>) {
    let _turn = TURN.read().unwrap_or_else(std::sync::PoisonError::into_inner);
    let runtime = runtime();
    runtime.block_on(test);
}

pub(crate) fn exclusively(test: impl FnOnce()) {
    let _turn = TURN.write().unwrap_or_else(std::sync::PoisonError::into_inner);
    test();
}

/// Runs a test without a leaf, and with one where there can be one.
pub(crate) fn each_enclosure<F: Future<Output = ()>>(test: impl Fn(Place) -> F) {
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
pub(crate) fn with_leaf<F: Future<Output = ()>>(test: impl FnOnce(Place) -> F) {
    run(async {
        match Place::with_leaf() {
            Some(place) => test(place).await,
            None => skipped("a leaf cgroup", "this user may not make cgroups here"),
        }
    });
}

pub(crate) fn can_have_leaf() -> bool {
    Place::with_leaf().is_some()
}

pub(crate) fn skipped(what: &str, why: &str) {
    eprintln!("SKIPPED {what}: {why}");
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

pub(crate) fn launchers() -> &'static Launchers {
    static LAUNCHERS: OnceLock<Launchers> = OnceLock::new();
    LAUNCHERS.get_or_init(|| Launchers::of(LauncherImage::load(&launcher_path()).unwrap()))
}

/// A user of the host that nobody is.
pub(crate) const NOBODY_ELSE: u32 = 1_900_000_000;

pub(crate) fn ground(folder: &Path) -> Ground<'_> {
    Ground { folder, uid: NOBODY_ELSE }
}

/// The launcher as it is shipped, built if need be.
pub(crate) fn launcher_path() -> PathBuf {
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
pub(crate) fn command(program: &Path) -> Command {
    Command::new(program)
}

/// This test program, once more.
pub(crate) fn again(arguments: &[&str]) -> Command {
    let mut again = command(&std::env::current_exe().unwrap());
    again.args(arguments).env(LAUNCHER_VARIABLE, launcher_path());
    again
}

/// What runs one test of this program and no other; see [`assert_one_passed`].
pub(crate) fn one_test(name: &str) -> Vec<OsString> {
    let program = std::env::current_exe().unwrap().into_os_string();
    let arguments = ["--exact", name, "--nocapture"].map(OsString::from);
    [program].into_iter().chain(arguments).collect()
}

/// The test harness is content as well if there is no test of that name.
#[track_caller]
pub(crate) fn assert_one_passed(output: &Output) {
    let [said, complaints] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes));
    assert!(output.status.success() && said.contains("1 passed"), "{}\n{said}\n{complaints}", output.status);
}

pub(crate) fn open(path: impl AsRef<Path>) -> OwnedFd {
    rustix::fs::open(path.as_ref(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap()
}

pub(crate) fn program(arguments: &[&str]) -> Spec {
    let mut spec = Spec::new(c"/".to_owned());
    spec.arguments = arguments.iter().map(|argument| CString::new(*argument).unwrap()).collect();
    spec.environment = vec![c"PATH=/usr/bin:/bin".to_owned()];
    spec.user_namespace = user_map();
    spec
}

pub(crate) fn sh(script: &str) -> Spec {
    program(&["sh", "-c", script])
}

pub(crate) async fn launch(place: &Place, entry: &OwnedFd, interpreter: Option<&OwnedFd>, spec: Spec) -> Child {
    launch_with(None, place, entry, interpreter, spec).await
}

pub(crate) async fn launch_with(
    prepared: Option<Prepared>,
    place: &Place,
    entry: &OwnedFd,
    interpreter: Option<&OwnedFd>,
    spec: Spec,
) -> Child {
    let interpreter = interpreter.map(AsFd::as_fd);
    let launch = Launch { spec, entry: entry.as_fd(), interpreter, leaf: place.leaf(), lent: None };
    spawn(launchers().attend(prepared).await.unwrap(), launch).unwrap()
}

/// Starts a shell and waits until it runs.
pub(crate) async fn start(place: &Place, spec: Spec) -> (Child, Started) {
    let mut child = launch(place, &open("/bin/sh"), None, spec).await;
    match within(child.control.next_report()).await {
        Report::Started(started) => (child, started),
        report => panic!("{report:?}"),
    }
}

/// What a launcher of these bytes is refused with.
pub(crate) async fn failure_of_launcher(bytes: &[u8]) -> Failure {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("palisade-launcher");
    std::fs::write(&path, bytes).unwrap();
    let image = LauncherImage::load(&path).unwrap();
    let entry = open("/bin/sh");
    let launch = Launch { spec: sh("exit 0"), entry: entry.as_fd(), interpreter: None, leaf: None, lent: None };
    failure(
        Place::without_leaf()
            .last_report(spawn(Launchers::of(image).attend(None).await.unwrap(), launch).unwrap())
            .await,
    )
}

pub(crate) fn exited(exit: Exit) -> Report {
    Report::Exited(Exited { exit, usage: palisade_launcher::Usage::default() })
}

pub(crate) fn failure(report: Report) -> Failure {
    match report {
        Report::Failed(failure) => failure,
        report => panic!("{report:?}"),
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("it takes longer than anything here may take")
}

/// Waits for a state of the system that announces itself nowhere.
pub(crate) async fn wait_until(what: &str, state: impl Fn() -> bool) {
    let until = Instant::now() + BOUND;
    while !state() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn block_until(what: &str, state: impl Fn() -> bool) {
    let until = Instant::now() + BOUND;
    while !state() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) async fn all_of(pipe: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut text = String::new();
    within(pipe.read_to_string(&mut text)).await.unwrap();
    text
}

pub(crate) async fn line_of(pipe: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut line = Vec::new();
    loop {
        match within(pipe.read_u8()).await.unwrap() {
            b'\n' => return String::from_utf8(line).unwrap(),
            byte => line.push(byte),
        }
    }
}

pub(crate) fn copy_of_true() -> (PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("true");
    let bytes = std::fs::read("/bin/true").unwrap();
    File::options().create_new(true).write(true).mode(0o755).open(&path).unwrap().write_all(&bytes).unwrap();
    (path, folder)
}

/// A copy of `bytes` in which `from` is `to`, of the same length.
pub(crate) fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
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
pub(crate) struct Marker(pub(crate) String);

static MARKERS: AtomicU32 = AtomicU32::new(0);

impl Marker {
    pub(crate) fn new() -> Self {
        let number = MARKERS.fetch_add(1, Ordering::Relaxed);
        Self(format!("1000.{:07}{number:04}", std::process::id()))
    }

    /// The processes that have it among their arguments.
    pub(crate) fn processes(&self) -> Vec<u32> {
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
    pub(crate) fn assert_gone(&self) {
        let left = self.processes();
        assert!(left.is_empty(), "still alive: {left:?}");
    }

    pub(crate) async fn wait_for(&self, number: usize) {
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
pub(crate) fn stubborn(marker: &Marker) -> String {
    let sleep = format!("exec sleep {marker}");
    format!(
        "trap '' TERM HUP INT; \
         ({sleep}) & \
         setsid sh -c '({sleep}) & wait' & \
         setsid sh -c 'setsid sh -c \"({sleep}) &\" &' & \
         "
    )
}

pub(crate) fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// The letter of a process's state; none if there is no such process.
pub(crate) fn state_of(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(')').next()?.trim().chars().next()
}

pub(crate) fn is_frozen(child: &Child, started: Started) -> bool {
    match child.control.leaf() {
        Some(leaf) => leaf.frozen().unwrap(),
        None => state_of(started.plugin_pid) == Some('T'),
    }
}

pub(crate) fn children_of(pid: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        children.extend(text.split_ascii_whitespace().map(|number| number.parse::<u32>().unwrap()));
    }
    children.sort_unstable();
    children
}

pub(crate) fn link_of(descriptor: i32) -> String {
    std::fs::read_link(format!("/proc/self/fd/{descriptor}")).unwrap().to_string_lossy().into_owned()
}

/// The open descriptors of a process, and what they lead to.
pub(crate) fn descriptors_of(pid: u32) -> BTreeMap<i32, String> {
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

/// The cgroup of a process, from the root that this process sees.
pub(crate) fn cgroup_of(pid: u32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned()
}

/// Whether a process is in that leaf, which lies beneath this process's own cgroup.
pub(crate) fn is_in(leaf: &Path, pid: u32) -> bool {
    let (own, its) = (cgroup_of(std::process::id()), cgroup_of(pid));
    its != own && Path::new(&its).strip_prefix(&own).is_ok_and(|beneath| leaf.ends_with(beneath))
}

/// How many leaves there are, when those are gone that can be.
pub(crate) fn leaves_in(tree: &Tree) -> usize {
    tree.sweep();
    std::fs::read_dir(tree.path()).unwrap().flatten().filter(|entry| entry.path().is_dir()).count()
}
