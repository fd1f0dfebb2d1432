//! A `palisaded` of the test's own, in a folder of its own, and the proof that nothing of it is left.
//!
//! With `PALISADE_TEST_AS=UID` (and root) daemons run as that user, so that one suite shows what root and an ordinary user get.
//! Everything that a daemon starts is recognised twice: by descent from it, noted while it lives, and by a marker in the
//! environment that every test package gives its processes and their descendants.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use palisade_protocol::{ErrorBody, SUPERVISOR_ID};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::command::{built, command};
use crate::package::Package;
use crate::process::{self, Identity};
use crate::wire::{Agent, BOUND};

/// How often a state that is waited for is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// Looks until `state` yields something, within [`BOUND`].
///
/// # Panics
/// When it does not, naming what was waited for.
pub fn wait_for<T>(what: &str, mut state: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + BOUND;
    loop {
        if let Some(found) = state() {
            return found;
        }
        assert!(Instant::now() < until, "{what} did not come about within {BOUND:?}");
        std::thread::sleep(LOOK);
    }
}

/// What a daemon is started with.
#[derive(Debug, Default)]
pub struct DaemonOptions {
    packages: Vec<Package>,
    configuration: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: Option<tempfile::TempDir>,
    quiet: bool,
    relative: bool,
    usual_plugins: bool,
    usual_configuration: bool,
    surroundings: Surroundings,
}

/// What a daemon finds itself in.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
enum Surroundings {
    #[default]
    Ordinary,
    /// It may open so many descriptors.
    Descriptors(u32),
    /// Its state lies on a disk of so many KiB, in a mount namespace of its own.
    SmallDisk(u32),
    /// Its state folder is a disk with project quotas: a copy of this image. Only for root.
    QuotaDisk(QuotaDisk, PathBuf),
    /// Whoever started it ignores hangups.
    Nohup,
    /// Its host has less than there should be.
    Lacking(Lacking),
}

/// A file system that keeps project quotas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuotaDisk {
    Ext4,
    Xfs,
}

impl QuotaDisk {
    /// With what `mount` mounts it.
    #[must_use]
    pub fn options(self) -> &'static str {
        match self {
            Self::Ext4 => "loop,prjquota",
            // Otherwise a second copy of one image is refused.
            Self::Xfs => "loop,prjquota,nouuid",
        }
    }
}

/// The image of a small disk with project quotas: that of `PALISADE_TEST_QUOTA_DISK` or `PALISADE_TEST_QUOTA_DISK_XFS`, or one that is
/// made in this folder.
///
/// # Errors
/// Why there is none, or why it cannot be mounted here.
pub fn quota_disk(kind: QuotaDisk, folder: &Path) -> Result<PathBuf, String> {
    if other_user().is_some() || !rustix::process::geteuid().is_root() {
        return Err("only root can mount a disk and set quotas".to_owned());
    }
    let done = |what: &str, command: &mut std::process::Command| match command.output() {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(format!("{what}: {}", String::from_utf8_lossy(&output.stderr).trim())),
        Err(error) => Err(format!("{what}: {error}")),
    };
    let (variable, program, arguments) = match kind {
        QuotaDisk::Ext4 => (
            "PALISADE_TEST_QUOTA_DISK",
            "mkfs.ext4",
            &["-q", "-F", "-O", "quota,project", "-E", "quotatype=prjquota"][..],
        ),
        QuotaDisk::Xfs => ("PALISADE_TEST_QUOTA_DISK_XFS", "mkfs.xfs", &["-q", "--unsupported"][..]),
    };
    let image = match std::env::var_os(variable) {
        Some(given) => PathBuf::from(given),
        None => {
            let made = folder.join("quota-disk");
            let size = fs::File::create(&made).and_then(|file| file.set_len(QUOTA_DISK_BYTES));
            size.map_err(|error| error.to_string())?;
            done(program, command(program).args(arguments).arg(&made))?;
            made
        }
    };
    let mut apart = command("unshare");
    apart.args(["--mount", "--propagation", "private", "mount", "-o", kind.options()]).arg(&image).arg(folder);
    done("a disk with project quotas cannot be mounted", &mut apart)?;
    Ok(image)
}

const QUOTA_DISK_BYTES: u64 = 64 << 20;

/// What a host may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lacking {
    /// No network namespace can be made. Only for root.
    NetworkNamespaces,
    /// No user namespace can be made: the same.
    UserNamespaces,
    /// Landlock is not there.
    Landlock,
    /// No system call filter can be installed.
    Filters,
    /// A part of `/proc` is covered, as containers do. Only for root.
    WholeProc,
    /// No cgroup2 file system is mounted. Only for root.
    Cgroup2,
    /// The folder `read-only` beside the state cannot be written to by the daemon, as a unit's `ProtectHome=` does it. Only for root.
    WritableFolder,
    /// The kernel refuses this user a user namespace, although there are some: as a restriction by AppArmor does, and every kernel for
    /// a process in a changed root, which is what this is. Only for root.
    UserNamespacesForEverybody,
    /// An ordinary user may make user namespaces and has no rights in them, as AppArmor restricts it. Only for root with another user.
    RightsInUserNamespaces(Restriction),
}

/// How a host looks on which AppArmor restricts user namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restriction {
    /// No right is given, and no sysctl says why.
    Unsaid,
    /// No right is given, and the sysctl says why.
    Said,
    /// The sysctl says that there is a restriction, and nothing can be mounted: as if it had come in the middle of a start.
    Late,
}

impl DaemonOptions {
    /// With these packages in its plugin folder.
    #[must_use]
    pub fn with(packages: impl IntoIterator<Item = Package>) -> Self {
        Self { packages: packages.into_iter().collect(), ..Self::default() }
    }

    /// With this configuration file.
    #[must_use]
    pub fn configuration(mut self, text: &str) -> Self {
        self.configuration = Some(text.to_owned());
        self
    }

    /// With further arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        self
    }

    /// With a variable in the daemon's environment.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In the folder that an earlier daemon left.
    #[must_use]
    pub fn folder(mut self, folder: tempfile::TempDir) -> Self {
        self.folder = Some(folder);
        self
    }

    /// With so few descriptors.
    #[must_use]
    pub fn descriptors(mut self, most: u32) -> Self {
        self.surroundings = Surroundings::Descriptors(most);
        self
    }

    /// With its state on a disk of so many KiB. Only for root, and not together with another user.
    #[must_use]
    pub fn small_disk(mut self, kib: u32) -> Self {
        self.surroundings = Surroundings::SmallDisk(kib);
        self
    }

    /// Its state folder on a disk with project quotas, a copy of that of [`quota_disk`], on which the plugin `hostile` has six
    /// mebibytes of data already, and which has the quota of a folder that is gone. Only for root.
    #[must_use]
    pub fn quota_disk(mut self, kind: QuotaDisk, image: &Path) -> Self {
        self.surroundings = Surroundings::QuotaDisk(kind, image.to_owned());
        self
    }

    /// As `nohup` starts it.
    #[must_use]
    pub fn nohup(mut self) -> Self {
        self.surroundings = Surroundings::Nohup;
        self
    }

    /// On a host that allows no network namespaces: one in a user namespace with that limit.
    #[must_use]
    pub fn without_network_namespaces(self) -> Self {
        self.lacking(Lacking::NetworkNamespaces)
    }

    /// On a host that has less than there should be.
    #[must_use]
    pub fn lacking(mut self, what: Lacking) -> Self {
        self.surroundings = Surroundings::Lacking(what);
        self
    }

    /// Every path given relative to the folder that it is started in.
    #[must_use]
    pub fn relative(mut self) -> Self {
        self.relative = true;
        self
    }

    /// With the plugin folders that are usual for whoever starts it, and none that is named.
    #[must_use]
    pub fn usual_plugins(mut self) -> Self {
        self.usual_plugins = true;
        self
    }

    /// With the configuration that is usual for whoever starts it, if there is one, and none that is named.
    #[must_use]
    pub fn usual_configuration(mut self) -> Self {
        self.usual_configuration = true;
        self
    }

    /// Without a log: for benchmarks.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }
}

/// What `status` says of one plugin. Fields that a test does not need are left out.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Status {
    pub id: String,
    pub version: String,
    pub state: String,
    #[serde(default)]
    pub reason: Option<String>,
    #[serde(default)]
    pub generation: Option<u64>,
    #[serde(default)]
    pub generations: Vec<GenerationStatus>,
    #[serde(default)]
    pub restarts: u64,
    #[serde(default)]
    pub restart_in_ms: Option<u64>,
    #[serde(default)]
    pub quarantined: bool,
    #[serde(default)]
    pub last_failure: Option<Dossier>,
    #[serde(default)]
    pub calls: Calls,
}

/// One process of a plugin.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct GenerationStatus {
    pub generation: u64,
    pub role: String,
    pub phase: String,
    #[serde(default)]
    pub process_id: Option<u32>,
    #[serde(default)]
    pub hello_after_us: Option<u64>,
    pub prepared: bool,
}

/// What is known about an end.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Dossier {
    pub generation: u64,
    pub reason: String,
    #[serde(default)]
    pub exit: Option<Value>,
    #[serde(default)]
    pub last_stderr: Vec<String>,
    #[serde(default)]
    pub calls_in_flight: u32,
}

/// The calls of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Calls {
    pub in_flight: u32,
    pub waiting: u32,
    pub ok: u64,
    pub errors: u64,
    pub cancelled: u64,
    pub timed_out: u64,
    pub crashed: u64,
    pub refused: u64,
}

impl Status {
    #[must_use]
    pub fn is(&self, state: &str) -> bool {
        self.state == state
    }

    /// The host's number of the plugin's serving process.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        self.generations.iter().find(|generation| generation.role == "serving").and_then(|serving| serving.process_id)
    }
}

/// A daemon that did not come up.
#[derive(Debug)]
pub struct NotStarted {
    pub status: ExitStatus,
    pub log: String,
}

/// A daemon that runs.
#[derive(Debug)]
pub struct Daemon {
    process: Child,
    folder: Option<tempfile::TempDir>,
    marker: String,
    seen: HashSet<Identity>,
    cgroups: HashSet<PathBuf>,
    /// Whether it was killed in the middle of something.
    is_cut: AtomicBool,
}

/// The user that daemons run as, if not ours.
#[must_use]
pub fn other_user() -> Option<u32> {
    let asked = std::env::var("PALISADE_TEST_AS").ok()?.parse().ok()?;
    rustix::process::geteuid().is_root().then_some(asked)
}

/// Whether daemons run as root.
#[must_use]
pub fn runs_as_root() -> bool {
    rustix::process::geteuid().is_root() && other_user().is_none()
}

/// The cgroup that a daemon with controllers stands in.
const DAEMONS_OWN: &str = "palisaded";

/// A cgroup with controllers for the daemon in `folder`, where whoever runs the tests has one to give: `PALISADE_TEST_CGROUP`. The
/// next daemon in that folder gets the same.
fn delegated_to(folder: &Path) -> Option<PathBuf> {
    let all = PathBuf::from(std::env::var_os("PALISADE_TEST_CGROUP")?);
    let cgroup = all.join(folder.file_name()?).join(DAEMONS_OWN);
    fs::create_dir_all(&cgroup).expect("the cgroup was delegated to the tests");
    Some(cgroup)
}

/// The same command, in that cgroup from its beginning.
fn born_in(cgroup: &Path, command_there: &std::process::Command) -> std::process::Command {
    let mut wrapped = command("sh");
    wrapped.args(["-c", r#"echo $$ >"$1/cgroup.procs" && shift && exec "$@""#, "sh"]).arg(cgroup);
    wrapped.arg(command_there.get_program()).args(command_there.get_args());
    wrapped
}

/// A command that ends in another one.
fn wrapped(around: &mut std::process::Command, inner: &std::process::Command) -> std::process::Command {
    let mut whole = command(around.get_program());
    whole.args(around.get_args()).arg(inner.get_program()).args(inner.get_args());
    whole
}

/// A command that runs `program` as `uid`, without groups and capabilities. Its process is the program's.
#[must_use]
pub fn as_user(uid: u32, program: &Path) -> std::process::Command {
    let mut command = command("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={uid}"), "--clear-groups", "--inh-caps=-all", "--"]);
    command.arg(program);
    command
}

/// Gives the user namespace that the process is about to make every user of the host, and lets it go on.
fn map_every_user(process: u32, mut go: std::process::ChildStdin) {
    let namespace = |process: &str| fs::read_link(format!("/proc/{process}/ns/user")).ok();
    wait_for("a user namespace", || (namespace(&process.to_string()) != namespace("self")).then_some(()));
    for file in ["uid_map", "gid_map"] {
        fs::write(format!("/proc/{process}/{file}"), "0 0 4294967295").expect("root may");
    }
    std::io::Write::write_all(&mut go, b"go\n").expect("it reads");
}

impl Daemon {
    /// Starts a daemon and waits until its socket answers.
    ///
    /// # Panics
    /// When it does not come up, with its log.
    #[must_use]
    pub fn start(options: DaemonOptions) -> Self {
        match Self::try_start(options) {
            Ok(daemon) => daemon,
            Err(NotStarted { status, log }) => panic!("palisaded did not come up ({status}); its log:\n{log}"),
        }
    }

    /// Starts a daemon with these packages.
    #[must_use]
    pub fn with(packages: impl IntoIterator<Item = Package>) -> Self {
        Self::start(DaemonOptions::with(packages))
    }

    /// Starts a daemon and waits until its socket answers or it ends.
    ///
    /// # Errors
    /// When it ended.
    ///
    /// # Panics
    /// When it does neither within [`BOUND`].
    pub fn try_start(options: DaemonOptions) -> Result<Self, NotStarted> {
        let folder = options.folder.unwrap_or_else(|| {
            tempfile::Builder::new().prefix("palisade-test-").tempdir().expect("the temporary folder is writable")
        });
        let user = other_user();
        if let Some(uid) = user {
            std::os::unix::fs::chown(folder.path(), Some(uid), Some(uid)).expect("root may");
        }
        let plugins = folder.path().join("plugins");
        fs::create_dir_all(&plugins).expect("the folder is ours");
        fs::set_permissions(&plugins, fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        let marker = format!("palisade-marker-{}", folder.path().file_name().unwrap_or_default().display());
        for package in &options.packages {
            package.write(&plugins, &marker);
        }
        let program = built("palisaded");
        let ordinary = || match user {
            Some(uid) => as_user(uid, &program),
            None => command(&program),
        };
        let mut command = match options.surroundings.clone() {
            Surroundings::Ordinary => ordinary(),
            Surroundings::Nohup => wrapped(command("nohup").arg("--"), &ordinary()),
            Surroundings::Lacking(Lacking::Landlock) => {
                wrapped(command(built("palisade-hostile")).arg("without-landlock"), &ordinary())
            }
            Surroundings::Lacking(Lacking::Filters) => {
                wrapped(command(built("palisade-hostile")).arg("without-filters"), &ordinary())
            }
            Surroundings::Lacking(Lacking::WholeProc) => {
                let script = "mount -t tmpfs none /proc/sys/fs && exec \"$@\"";
                let mut apart = command("unshare");
                wrapped(apart.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]), &ordinary())
            }
            Surroundings::Lacking(Lacking::Cgroup2) => {
                let script = "sed -n 's/^[^ ]* [^ ]* [^ ]* [^ ]* \\([^ ]*\\) .* - cgroup2 .*/\\1/p' /proc/self/mountinfo | \
                              while read -r place; do umount -l \"$place\" || exit 1; done && exec \"$@\"";
                let mut apart = command("unshare");
                wrapped(apart.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]), &ordinary())
            }
            Surroundings::Lacking(Lacking::WritableFolder) => {
                let folder = folder.path().join("read-only");
                fs::create_dir_all(&folder).expect("the folder is ours");
                let mut apart = command("unshare");
                let script = "mount --bind -o ro \"$1\" \"$1\" && shift && exec \"$@\"";
                apart.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(folder);
                wrapped(&mut apart, &ordinary())
            }
            Surroundings::Lacking(Lacking::UserNamespacesForEverybody) => {
                let root = folder.path().join("changed-root");
                fs::create_dir_all(&root).expect("the folder is ours");
                let script = "mount --rbind / \"$1\" && exec chroot \"$@\"";
                let mut apart = command("unshare");
                apart.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(root);
                wrapped(&mut apart, &ordinary())
            }
            Surroundings::Lacking(Lacking::RightsInUserNamespaces(restriction)) => {
                let hostile = built("palisade-hostile");
                let mut restricted = as_user(user.expect("a test for an ordinary user"), &hostile);
                restricted.arg(if restriction == Restriction::Late { "without-mounts" } else { "without-rights" });
                restricted.arg(&program);
                // The kernel has no such sysctl, so there is a copy of them all with it.
                let script = "mount -t tmpfs -o mode=755 none \"$1\" && { cp -r /proc/sys/kernel/. \"$1\" 2>&- || true; } && \
                              echo 1 >\"$1/apparmor_restrict_unprivileged_userns\" && mount --bind \"$1\" /proc/sys/kernel && \
                              shift && exec \"$@\"";
                if restriction == Restriction::Unsaid {
                    restricted
                } else {
                    let copy = folder.path().join("sysctls");
                    fs::create_dir_all(&copy).expect("the folder is ours");
                    let mut apart = command("unshare");
                    apart.args(["--mount", "--propagation", "private", "sh", "-c", script, "sh"]).arg(copy);
                    wrapped(&mut apart, &restricted)
                }
            }
            Surroundings::Descriptors(most) => {
                let mut limited = match user {
                    Some(uid) => as_user(uid, Path::new("prlimit")),
                    None => command("prlimit"),
                };
                limited.arg(format!("--nofile={most}:{most}")).arg(program);
                limited
            }
            Surroundings::Lacking(what @ (Lacking::NetworkNamespaces | Lacking::UserNamespaces)) => {
                let limit = if what == Lacking::UserNamespaces { "max_user_namespaces" } else { "max_net_namespaces" };
                // The exec at the end leaves the process that was started the daemon's.
                // Root's rights come with an exec that follows the map.
                let script = format!(
                    "read go; exec /bin/sh -c 'echo 0 > /proc/sys/user/{limit} && exec \"$@\" </dev/null' sh \"$@\""
                );
                let mut apart = command("/usr/bin/unshare");
                apart.args(["--user", "--mount", "--propagation", "unchanged", "/bin/sh", "-c", &script, "sh"]);
                wrapped(&mut apart, &ordinary())
            }
            Surroundings::SmallDisk(kib) => {
                fs::create_dir_all(folder.path().join("state")).expect("the folder is ours");
                let mut apart = command("unshare");
                let script = format!("mount -t tmpfs -o size={kib}k,mode=700 none \"$1\" && shift && exec \"$@\"");
                apart.args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"]);
                apart.arg(folder.path().join("state")).arg(program);
                apart
            }
            Surroundings::QuotaDisk(kind, image) => {
                let (state, disk) = (folder.path().join("state"), folder.path().join("disk"));
                fs::create_dir_all(&state).expect("the folder is ours");
                fs::copy(image, &disk).expect("there is room for a small disk");
                let script = "mount -o \"$0\" \"$1\" \"$2\" && mkdir -m 700 \"$2/data\" \"$2/data/hostile\" \"$2/gone\" && \
                    head -c 6M /dev/zero >\"$2/data/hostile/old\" && \"$3\" --quota hold 1024 16 <\"$2/gone\" >\"$1.said\" && \
                    rmdir \"$2/gone\" && shift 3 && exec \"$@\"";
                let mut apart = command("unshare");
                apart.args(["--mount", "--propagation", "private", "sh", "-c", script, kind.options()]);
                apart.arg(disk).arg(state).arg(built("palisade-launcher")).arg(program);
                apart
            }
        };
        let delegated = delegated_to(folder.path());
        if let Some(cgroup) = &delegated {
            command = born_in(cgroup, &command);
        }
        let path = |name: &str| folder.path().join(name);
        let given = |name: &str| if options.relative { PathBuf::from(name) } else { path(name) };
        command.arg("--state-dir").arg(given("state")).arg("--runtime-dir").arg(given("run"));
        command.arg("--socket").arg(given("palisade.sock"));
        if !options.usual_plugins {
            command.arg("--plugins").arg(given("plugins"));
        }
        if options.relative {
            command.current_dir(folder.path());
        }
        if !options.usual_configuration {
            let mut text = options.configuration.unwrap_or_default();
            if !text.contains("[permissions]") {
                // Nobody is there to be asked, and most plugins of tests ask for everything.
                text += "\n[permissions]\npolicy = \"deny\"\n";
            }
            fs::write(path("palisade.toml"), text).expect("the folder is ours");
            command.arg("--config").arg(given("palisade.toml"));
        }
        let waits =
            matches!(options.surroundings, Surroundings::Lacking(Lacking::NetworkNamespaces | Lacking::UserNamespaces));
        let log = fs::OpenOptions::new().create(true).append(true).open(path("log")).expect("the folder is ours");
        let stderr = if options.quiet { Stdio::null() } else { log.into() };
        command
            .args(&options.arguments)
            .envs(options.environment)
            .env("HOME", folder.path())
            .env("TEST_MARKER", &marker)
            .env_remove("XDG_RUNTIME_DIR")
            .stdin(if waits { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::null())
            .stderr(stderr);
        let mut process = command.spawn().expect("palisaded can be executed");
        if let Some(go) = process.stdin.take() {
            map_every_user(process.id(), go);
        }
        let (seen, cgroups) = (HashSet::new(), HashSet::new());
        let mut daemon = Self { process, folder: Some(folder), marker, seen, cgroups, is_cut: AtomicBool::new(false) };
        let ended = wait_for("an answer on the daemon's socket", || {
            if let Some(status) = daemon.process.try_wait().expect("it is our child") {
                return Some(Some(status));
            }
            // It listens before it has looked at every package.
            let mut agent = Agent::connect(&daemon.socket()).ok()?;
            agent.call(SUPERVISOR_ID, "list", &json!({})).is_ok().then_some(None)
        });
        match ended {
            None => Ok(daemon),
            Some(status) => Err(NotStarted { status, log: daemon.log() }),
        }
    }

    /// The daemon's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its folder.
    ///
    /// # Panics
    /// Never: only an end takes it.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.as_ref().expect("a daemon that runs has its folder").path()
    }

    /// Its plugin folder.
    #[must_use]
    pub fn plugins(&self) -> PathBuf {
        self.path().join("plugins")
    }

    /// Its agent socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path().join("palisade.sock")
    }

    /// What stands in the environment of all that its plugins start.
    #[must_use]
    pub fn marker(&self) -> &str {
        &self.marker
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = fs::read(self.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// A new connection to it.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn agent(&self) -> Agent {
        Agent::connect(&self.socket()).unwrap_or_else(|error| panic!("connecting: {error}; its log:\n{}", self.log()))
    }

    /// An operation of the daemon itself.
    ///
    /// # Errors
    /// What it answered, if not well.
    pub fn operate(&self, operation: &str, parameters: &Value) -> Result<Value, ErrorBody> {
        self.agent().call(SUPERVISOR_ID, operation, parameters)
    }

    /// What it says of a plugin.
    ///
    /// # Panics
    /// When it does not know the plugin.
    #[must_use]
    pub fn status(&self, plugin: &str) -> Status {
        status(&mut self.agent(), plugin)
    }

    /// Waits until what it says of a plugin is as asked.
    ///
    /// # Panics
    /// When that does not come about within [`BOUND`].
    pub fn wait_until(&self, plugin: &str, what: &str, mut state: impl FnMut(&Status) -> bool) -> Status {
        let mut agent = self.agent();
        let mut last = None;
        let until = Instant::now() + BOUND;
        loop {
            let now = status(&mut agent, plugin);
            if state(&now) {
                return now;
            }
            if last.as_ref() != Some(&now) {
                last = Some(now);
            }
            assert!(
                Instant::now() < until,
                "{plugin}: {what} did not come about within {BOUND:?}; last: {last:#?}\n{}",
                self.log()
            );
            std::thread::sleep(LOOK);
        }
    }

    /// Waits until so many launchers are made before they are needed, and returns their process numbers.
    ///
    /// # Panics
    /// When there are not so many within [`BOUND`].
    pub fn wait_for_prepared(&self, count: usize) -> Vec<u32> {
        let wanted = format!("{count} of {count} wait for a start");
        let mut agent = self.agent();
        wait_for("prepared launchers", || {
            let doctor = agent.call(SUPERVISOR_ID, "doctor", &json!({})).expect("the doctor answers");
            let checks = doctor["checks"].as_array().cloned().unwrap_or_default();
            checks
                .iter()
                .any(|check| check["name"] == "prepared_launchers" && check["summary"] == wanted.as_str())
                .then_some(())
        });
        self.prepared_launchers()
    }

    /// The process numbers of the launchers that were made before they are needed.
    #[must_use]
    pub fn prepared_launchers(&self) -> Vec<u32> {
        let waits = |pid: &u32| process::name(*pid).is_some_and(|name| name == "palisade-ready");
        process::children(self.pid()).into_iter().filter(waits).collect()
    }

    /// The host's number of the plugin's serving process. The launcher may report it a moment after the plugin's first answer.
    ///
    /// # Panics
    /// When there is none within [`BOUND`].
    #[must_use]
    pub fn process_of(&self, plugin: &str) -> u32 {
        let status = self.wait_until(plugin, "a serving process", |now| now.process_id().is_some());
        status.process_id().expect("that is what was waited for")
    }

    /// Calls `echo` of the plugin `echo` again and again until told to stop.
    ///
    /// # Panics
    /// When there is no such plugin.
    #[must_use]
    pub fn neighbour(&self) -> Neighbour {
        let mut agent = self.agent();
        // Its first call starts it; what follows measures whether others disturb it.
        assert_eq!(agent.call("echo", "echo", &json!("first")), Ok(json!("first")));
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let generation = self.status("echo").generation;
        let thread = std::thread::spawn(move || {
            let mut calls = 0_u64;
            // At least one more call than the first, however short the test is.
            loop {
                let last = stopped.load(Ordering::Acquire);
                assert_eq!(agent.call("echo", "echo", &json!(calls)), Ok(json!(calls)));
                calls += 1;
                if last {
                    return calls;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Neighbour { stop, thread: Some(thread), generation }
    }

    /// Sets how many descriptors it may have open.
    ///
    /// # Panics
    /// When it cannot be set.
    pub fn limit_descriptors(&self, most: u64) {
        // Its own user may do that; root itself may lack the capability.
        let program = Path::new("prlimit");
        let mut command = other_user().map_or_else(|| command(program), |uid| as_user(uid, program));
        let pid = format!("--pid={}", self.pid());
        let status = command.args([pid, format!("--nofile={most}:")]).status().expect("prlimit is there");
        assert!(status.success(), "prlimit: {status}");
    }

    /// Sets how much memory it may map, in KiB.
    ///
    /// # Panics
    /// When it cannot be set.
    pub fn limit_memory(&self, kib: u64) {
        let program = Path::new("prlimit");
        let mut command = other_user().map_or_else(|| command(program), |uid| as_user(uid, program));
        let pid = format!("--pid={}", self.pid());
        let status = command.args([pid, format!("--as={}:", kib << 10)]).status().expect("prlimit is there");
        assert!(status.success(), "prlimit: {status}");
    }

    /// Sets how many processes its user may have where it makes one, in the form of `prlimit`, and returns what it was.
    ///
    /// # Panics
    /// When it cannot be set.
    pub fn limit_processes(&self, most: &str) -> String {
        let text = fs::read_to_string(format!("/proc/{}/limits", self.pid())).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix("Max processes")).expect("there is such a limit");
        let before = line.split_whitespace().next().unwrap_or("unlimited").to_owned();
        // The zygote, which makes the launchers, took the daemon's limits over when it began.
        let zygotes = process::children(self.pid()).into_iter().filter(|pid| process::is_zygote(*pid));
        for pid in zygotes.chain([self.pid()]) {
            let program = Path::new("prlimit");
            let mut command = other_user().map_or_else(|| command(program), |uid| as_user(uid, program));
            let arguments = [format!("--pid={pid}"), format!("--nproc={most}")];
            let status = command.args(arguments).status().expect("prlimit is there");
            assert!(status.success(), "prlimit: {status}");
        }
        format!("{before}:")
    }

    /// Notes which processes and cgroups belong to it now.
    pub fn remember(&mut self) {
        for process in process::descendants(self.pid()) {
            self.cgroups.extend(process::cgroup(process.pid));
            self.seen.insert(process);
        }
        // The daemon itself carries the marker as well.
        let own = self.pid();
        self.seen.extend(process::with_text(&self.marker).into_iter().filter(|process| process.pid != own));
        if let Some(stands_in) = process::cgroup(self.pid()) {
            // A daemon with controllers stands beneath what was delegated, beside its plugins.
            let above = stands_in.parent().filter(|_| stands_in.ends_with(DAEMONS_OWN));
            let own = above.unwrap_or(&stands_in).to_owned();
            self.cgroups.retain(|cgroup| cgroup.starts_with(&own) && *cgroup != own && *cgroup != stands_in);
            // The folder above the leaves is the daemon's as well.
            let above: Vec<_> = self.cgroups.iter().filter_map(|leaf| leaf.parent()).map(Path::to_owned).collect();
            self.cgroups.extend(above.into_iter().filter(|cgroup| *cgroup != own));
        }
    }

    /// Asks it to end.
    ///
    /// # Panics
    /// When the signal cannot be sent.
    pub fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When the signal cannot be sent.
    pub fn signal(&self, signal: Signal) {
        kill(pid(self.pid()), signal).expect("the daemon is our child and not yet waited for");
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end within [`BOUND`].
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the daemon's end", || self.process.try_wait().expect("it is our child"))
    }

    /// Ends it by SIGTERM, expects exit status 0 and nothing left.
    ///
    /// # Panics
    /// When it ends otherwise or leaves anything.
    pub fn stop_and_expect_no_orphans(mut self) {
        self.remember();
        self.terminate();
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "the daemon ended with {status}; its log:\n{}", self.log());
        assert!(!self.socket().exists(), "the daemon leaves its socket");
        self.expect_nothing_left();
    }

    /// Ends it by SIGTERM, and returns its folder for the next daemon.
    ///
    /// # Panics
    /// When it ends otherwise than well.
    pub fn stop(mut self) -> tempfile::TempDir {
        self.remember();
        self.terminate();
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "the daemon ended with {status}; its log:\n{}", self.log());
        self.expect_no_process_left();
        self.folder.take().expect("a daemon has its folder until its end")
    }

    /// Ends it by SIGKILL, expects that all it started dies with it, and returns its folder for the next daemon.
    ///
    /// # Panics
    /// When anything survives.
    pub fn kill_nine(mut self) -> tempfile::TempDir {
        self.remember();
        self.signal(Signal::SIGKILL);
        self.expect_end_by(Signal::SIGKILL)
    }

    /// Says that it was killed, or is to be, in the middle of something.
    pub fn is_to_be_cut(&self) {
        self.is_cut.store(true, Ordering::Relaxed);
    }

    /// Expects that it aborts, that all it started dies with it, and returns its folder for the next daemon.
    ///
    /// # Panics
    /// When it does not, or anything survives.
    pub fn expect_abort(self) -> tempfile::TempDir {
        self.expect_end_by(Signal::SIGABRT)
    }

    fn expect_end_by(mut self, signal: Signal) -> tempfile::TempDir {
        let status = self.wait();
        assert_eq!(status.signal(), Some(signal as i32));
        self.expect_no_process_left();
        // Its launchers clear away in its place. Where it was to begin one there is none, and the next daemon on the same state does.
        let is_left = |cgroup: &PathBuf| match fs::read_to_string(cgroup.join("cgroup.procs")) {
            Ok(processes) => !self.is_cut.load(Ordering::Relaxed) || !processes.is_empty(),
            Err(_) => cgroup.exists(),
        };
        wait_for("the end of its cgroups", || (!self.cgroups.iter().any(is_left)).then_some(()));
        self.folder.take().expect("a daemon has its folder until its end")
    }

    fn expect_no_process_left(&self) {
        let mut left = Vec::new();
        let gone = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            wait_for("the end of all processes", || {
                left = self.seen.iter().copied().filter(|process| process::is_alive(*process)).collect();
                left.extend(process::with_text(&self.marker));
                left.is_empty().then_some(())
            });
        }));
        if gone.is_err() {
            let lines: Vec<String> = left.iter().map(|process| describe(*process)).collect();
            panic!("processes survived the daemon:\n{}\nits log:\n{}", lines.join("\n"), self.log());
        }
    }

    fn expect_nothing_left(&self) {
        self.expect_no_process_left();
        for cgroup in &self.cgroups {
            assert!(!cgroup.exists(), "the cgroup {} is left", cgroup.display());
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = self.path().display().to_string();
        assert!(!mounts.contains(&own), "a mount is left beneath {own}");
    }

    /// The cgroups that it made, as far as [`Daemon::remember`] saw them.
    #[must_use]
    pub fn cgroups(&self) -> &HashSet<PathBuf> {
        &self.cgroups
    }
}

fn pid(number: u32) -> Pid {
    Pid::from_raw(i32::try_from(number).expect("process numbers are small"))
}

/// Sends a signal to a process that a test's daemon started.
///
/// # Panics
/// When it cannot be sent.
pub fn signal(process: u32, signal: Signal) {
    kill(pid(process), signal).unwrap_or_else(|error| panic!("sending {signal} to {process}: {error}"));
}

fn describe(process: Identity) -> String {
    let arguments = fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
    format!("{} {}", process.pid, String::from_utf8_lossy(&arguments).replace('\0', " "))
}

fn status(agent: &mut Agent, plugin: &str) -> Status {
    let value = agent.call(SUPERVISOR_ID, "status", &json!({ "plugin": plugin })).expect("the plugin is known");
    serde_json::from_value(value.clone()).unwrap_or_else(|error| panic!("{error} in the status {value}"))
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.folder.is_none() {
            return;
        }
        if std::thread::panicking() {
            eprintln!("--- log of the daemon ---\n{}---", self.log());
        }
        self.remember();
        if matches!(self.process.try_wait(), Ok(None)) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        // A test that failed may have found survivors; they carry this test's marker and nobody else's.
        for process in process::with_text(&self.marker) {
            let _ = kill(pid(process.pid), Signal::SIGKILL);
        }
        // A daemon that was killed leaves its cgroups to the next one on its folder, and there will be none. Leaves first; those
        // that are gone or not empty yet are no concern of a test that has failed.
        let mut cgroups: Vec<_> = self.cgroups.iter().collect();
        cgroups.sort_by_key(|cgroup| std::cmp::Reverse(cgroup.components().count()));
        for cgroup in cgroups {
            let _ = fs::remove_dir(cgroup);
        }
        if let Some(own) = delegated_to(self.path()) {
            let _ = fs::remove_dir(&own);
            let _ = own.parent().map(fs::remove_dir);
        }
    }
}

/// A plugin beside the one that is tested, called all the while.
#[derive(Debug)]
pub struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<u64>>,
    generation: Option<u64>,
}

impl Neighbour {
    /// Stops, and expects that every call was answered by one and the same process.
    ///
    /// # Panics
    /// When one was not.
    pub fn expect_unharmed(mut self, daemon: &Daemon) {
        self.stop.store(true, Ordering::Release);
        let thread = self.thread.take().expect("it is joined once");
        let calls = thread.join().unwrap_or_else(|_| panic!("a call of the neighbour failed; log:\n{}", daemon.log()));
        assert!(calls > 0);
        let status = daemon.status("echo");
        assert_eq!((status.generation, status.restarts), (self.generation, 0), "the neighbour was restarted");
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
    }
}
