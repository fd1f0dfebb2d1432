//! The daemon's part of the cgroup v2 tree: one folder of its own, and in it one leaf per child.
//!
//! ```text
//! what was delegated      no process; hands on the controllers
//! ├─ palisaded            the daemon itself
//! └─ palisade-DEV-INODE   the daemon's folder, locked; hands on the controllers
//!    ├─ leaf.echo-1.0.0-1     one child and all its descendants, with its limits
//!    └─ leaf…
//! ```
//!
//! A leaf is killed and frozen as a whole, whatever its processes do; that works without any controller, so on hybrid hosts
//! as well. Limits need controllers, and a cgroup that hands them on may hold no process: where the daemon is alone in a
//! cgroup with controllers, it moves itself into one beneath; where it is not alone, there are no limits. The folder's
//! name is derived from the daemon's state folder: a later daemon on the same state finds what a dead one left, kills it
//! and removes it.
//!
//! Invariants: children are born in their leaf (`CLONE_INTO_CGROUP`) with its limits written, and never moved; a leaf has every
//! limit that was asked for, or is not made; a leaf whose processes are not gone yet when it is dropped is killed, and
//! removed at a later occasion; the folder is locked for as long as its daemon lives.
//! Elsewhere: how much a plugin may have is decided in `model::limits`; its news is told by `plugin::pressure`.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd},
        unix::{ffi::OsStrExt, fs::MetadataExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use procfs::{
    FromRead,
    process::{MountInfo, MountInfos},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{AtFlags, FlockOperation, Mode, OFlags},
    io::Errno,
};

/// Leaf folders begin with this, so that no name can be that of a kernel file such as `cpu.stat`.
const LEAF_PREFIX: &str = "leaf.";

/// The longest leaf name; file names end at 255.
const NAME_BYTES_MAX: usize = 200;

/// How long the processes of a dead daemon may take to die once they are killed.
const STALE_GONE_WITHIN: Duration = Duration::from_secs(10);

/// How long the end of a daemon waits for leaves whose processes were killed a moment ago.
const RETIRED_GONE_WITHIN: Duration = Duration::from_secs(2);

/// A removal that the kernel calls busy is tried again this often before it is left to a later occasion.
const REMOVAL_ATTEMPTS: u32 = 3;

/// No control file that is read here is longer.
const FILE_BYTES_MAX: usize = 4096;

/// The cgroup that the daemon moves itself into, or finds itself in, beneath the one that was delegated to it.
const OWN_NAME: &str = "palisaded";

/// What limits are made of. They are handed on all together, or none is.
const CONTROLLERS: [&str; 3] = ["memory", "pids", "cpu"];

/// `cpu.max` counts within periods of so many microseconds, the kernel's own default.
const CPU_PERIOD_USEC: u64 = 100_000;

/// The daemon's folder in the cgroup tree.
#[derive(Clone, Debug)]
pub struct Tree {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: OwnedFd,
    path: PathBuf,
    /// Whether leaves have controllers, or why not.
    controlled: Result<(), Uncontrolled>,
    /// Leaves that were dropped before their processes were gone.
    retired: Mutex<Vec<String>>,
}

/// A tree, and what was found in it.
#[derive(Debug)]
pub struct Opened {
    /// The daemon's folder.
    pub tree: Tree,
    /// How many leaves of a dead daemon were killed and removed.
    pub stale_leaves: usize,
}

/// Why there is no cgroup for children. They run without one; kill and freeze go through pid 1 then.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// No cgroup2 file system is mounted.
    #[error("no cgroup2 file system is mounted")]
    NotMounted,
    /// The daemon's own cgroup lies outside of what is mounted here.
    #[error("the daemon's own cgroup {} is not visible below any cgroup2 mount", path.display())]
    OutOfSight {
        /// The cgroup, as /proc/self/cgroup names it.
        path: PathBuf,
    },
    /// The daemon may not make cgroups beneath its own.
    #[error("cannot make a cgroup in {}: {source}; it is not delegated to this user (systemd: Delegate=yes)", path.display())]
    NotDelegated {
        /// The daemon's own cgroup.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A living daemon uses this folder.
    #[error("{} belongs to another running daemon", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// Another user's daemon left a folder where this one's would be, and in the place of its second choice as well.
    #[error("{} is another user's; whoever may has to remove it (rmdir)", path.display())]
    Foreign {
        /// The folder.
        path: PathBuf,
    },
    /// What a dead daemon left does not go away.
    #[error("cannot remove {}, which a former daemon left: {source}", path.display())]
    Stale {
        /// The leaf.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something could not be read.
    #[error("cannot find the daemon's own cgroup: {0}")]
    Unreadable(String),
}

/// Why leaves have no limits. They are killed and frozen as a whole all the same.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Uncontrolled {
    /// The host keeps them elsewhere, or whoever delegated this cgroup did not hand them on.
    #[error("{} offers no controller for {}", path.display(), missing.join(", "))]
    NotOffered {
        /// What was delegated.
        path: PathBuf,
        /// Which are not there.
        missing: Vec<&'static str>,
    },
    /// A cgroup that hands controllers on may hold no process.
    #[error("{} holds other processes than this daemon, so its controllers cannot be handed on", path.display())]
    NotAlone {
        /// The daemon's cgroup.
        path: PathBuf,
    },
    /// The kernel said no.
    #[error("the controllers of {} cannot be handed on: {problem}", path.display())]
    Refused {
        /// What was delegated.
        path: PathBuf,
        /// What the system said.
        problem: String,
    },
}

/// How much the processes of one leaf may have together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeafLimits {
    /// Memory of every kind that is charged: anonymous, page cache, tmpfs, pipes, sockets. Nothing of it is swapped out.
    pub memory_bytes: u64,
    /// Processes and threads, pid 1 among them.
    pub pids: u64,
    /// Of one processor; 200 is two.
    pub cpu_percent: u64,
}

impl Unavailable {
    /// Whether this is how many hosts are, as opposed to something that went wrong.
    pub fn is_usual(&self) -> bool {
        match self {
            Self::NotMounted | Self::OutOfSight { .. } | Self::NotDelegated { .. } => true,
            Self::InUse { .. } | Self::Foreign { .. } | Self::Stale { .. } | Self::Unreadable(_) => false,
        }
    }
}

/// Why a leaf could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LeafError {
    /// Names are short and of letters, digits, `-`, `_` and `.`.
    #[error("{0:?} cannot be the name of a cgroup")]
    Name(String),
    /// The kernel refused.
    #[error("cannot make the cgroup {}: {source}", path.display())]
    Refused {
        /// The folder that was to be made.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Tree {
    /// Opens the folder of the daemon whose state is in `state_folder`, or makes it, beneath the daemon's own cgroup; and
    /// ends what a dead daemon left there. A living daemon holds a lock on its folder and is left alone.
    ///
    /// Blocks until what was left is gone, within a bound.
    pub fn open_or_create(state_folder: &Path) -> Result<Opened, Unavailable> {
        let own = own_folder()?;
        let delegated = delegated(&own);
        let controlled = hand_on(&own, &delegated);
        Self::open_beneath(&delegated, &name_for(state_folder)?, controlled)
    }

    fn open_beneath(own: &Path, name: &str, controlled: Result<(), Uncontrolled>) -> Result<Opened, Unavailable> {
        // A state folder may stand where one of another user's daemons stood once, and that daemon may have left its cgroup.
        let second = format!("{name}-{}", rustix::process::geteuid().as_raw());
        for name in [name, &second] {
            if let Some(opened) = Self::open_own(own, name, &controlled)? {
                return Ok(opened);
            }
        }
        Err(Unavailable::Foreign { path: own.join(second) })
    }

    /// Nothing if there is a folder of another user's.
    fn open_own(own: &Path, name: &str, controlled: &Result<(), Uncontrolled>) -> Result<Option<Opened>, Unavailable> {
        let path = own.join(name);
        let not_delegated = |errno: Errno| Unavailable::NotDelegated { path: own.to_owned(), source: errno.into() };
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(not_delegated(errno)),
        }
        // Readable, unlike a leaf's, because a descriptor of a mere path cannot be locked.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let owner = rustix::fs::lstat(&path).map_err(not_delegated)?.st_uid;
        if owner != rustix::process::geteuid().as_raw() {
            return Ok(None);
        }
        let folder = rustix::fs::open(&path, flags, Mode::empty()).map_err(not_delegated)?;
        match rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::AGAIN) => return Err(Unavailable::InUse { path }),
            Err(errno) => return Err(not_delegated(errno)),
        }
        let controlled = controlled.clone().and_then(|()| {
            write(&folder, "cgroup.subtree_control", enabling().as_bytes())
                .map_err(|error| Uncontrolled::Refused { path: path.clone(), problem: error.to_string() })
        });
        let tree = Self { inner: Arc::new(Inner { folder, path, controlled, retired: Mutex::default() }) };
        let stale_leaves = tree.remove_stale()?;
        Ok(Some(Opened { tree, stale_leaves }))
    }

    /// Makes a leaf for one child. The name is unique among living children, such as an id with a generation. With limits,
    /// if there are any and the leaves of this tree [have controllers](Tree::controlled).
    pub fn leaf(&self, name: &str, limits: Option<&LeafLimits>) -> Result<Leaf, LeafError> {
        self.sweep();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || NAME_BYTES_MAX < name.len() || !name.bytes().all(allowed) {
            return Err(LeafError::Name(name.to_owned()));
        }
        let name = format!("{LEAF_PREFIX}{name}");
        let refused = |errno: Errno| LeafError::Refused { path: self.inner.path.join(&name), source: errno.into() };
        rustix::fs::mkdirat(&self.inner.folder, &name, Mode::from_raw_mode(0o755)).map_err(refused)?;
        let folder = match open_folder(self.inner.folder.as_fd(), OsStr::new(&name)) {
            Ok(folder) => folder,
            Err(errno) => {
                let _ = self.inner.remove(&name);
                return Err(refused(errno));
            }
        };
        // From here on its removal is the leaf's own affair.
        let leaf = Leaf { folder, name, tree: Arc::clone(&self.inner) };
        if let (Some(limits), Ok(())) = (limits, &self.inner.controlled) {
            leaf.limit(limits).map_err(|source| LeafError::Refused { path: leaf.path(), source })?;
        }
        Ok(leaf)
    }

    /// Changes the limits of a leaf by its name. Blocks while the kernel makes room.
    pub fn limit(&self, name: &str, limits: &LeafLimits) -> io::Result<()> {
        set_limits(&self.open_leaf(name)?, limits)
    }

    /// How much memory a leaf has at the moment, by its name.
    pub fn memory_of(&self, name: &str) -> io::Result<u64> {
        let text = read(&self.open_leaf(name)?, "memory.current")?;
        text.trim().parse().map_err(io::Error::other)
    }

    fn open_leaf(&self, name: &str) -> io::Result<OwnedFd> {
        Ok(open_folder(self.inner.folder.as_fd(), OsStr::new(&format!("{LEAF_PREFIX}{name}")))?)
    }

    /// Whether leaves have the controllers that limits are made of, or why not.
    pub fn controlled(&self) -> Result<(), &Uncontrolled> {
        self.inner.controlled.as_ref().map(|_| ())
    }

    /// Removes leaves that were dropped before their processes were gone, as far as they are now. Every new leaf does
    /// this as well, so that what waits here stays few.
    pub fn sweep(&self) {
        self.inner.sweep();
    }

    /// Where the folder is.
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// The controllers that leaves have; none on a hybrid host.
    pub fn controllers(&self) -> io::Result<Vec<String>> {
        let text = self.inner.read("cgroup.subtree_control")?;
        Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
    }

    /// Kills and removes every leaf that is there, all of them being of a daemon that is gone.
    fn remove_stale(&self) -> Result<usize, Unavailable> {
        let unreadable = |error: io::Error| Unavailable::Unreadable(format!("{}: {error}", self.inner.path.display()));
        let mut stale = Vec::new();
        for entry in std::fs::read_dir(&self.inner.path).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            if entry.file_type().is_ok_and(|kind| kind.is_dir())
                && let Some(name) = entry.file_name().to_str().filter(|name| name.starts_with(LEAF_PREFIX))
            {
                stale.push(name.to_owned());
            }
        }
        // All are killed before any is waited for.
        let folders = stale.iter().map(|name| (name, open_folder(self.inner.folder.as_fd(), OsStr::new(name))));
        let folders: Vec<_> = folders.filter_map(|(name, folder)| Some((name, folder.ok()?))).collect();
        for (_, folder) in &folders {
            let _ = write(folder, "cgroup.kill", b"1");
        }
        let until = Instant::now() + STALE_GONE_WITHIN;
        for (name, folder) in &folders {
            let removed = wait_until_empty(folder, until).and_then(|()| Ok(self.inner.remove(name)?));
            removed.map_err(|source| Unavailable::Stale { path: self.inner.path.join(name), source })?;
        }
        Ok(folders.len())
    }
}

impl Inner {
    fn remove(&self, name: &str) -> Result<(), Errno> {
        let mut attempt = 1;
        loop {
            match rustix::fs::unlinkat(&self.folder, name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                // The last process may have been waited for and yet be on its way out of the cgroup.
                Err(Errno::BUSY) if attempt < REMOVAL_ATTEMPTS => {
                    attempt += 1;
                    std::thread::yield_now();
                }
                Err(errno) => return Err(errno),
            }
        }
    }

    fn sweep(&self) {
        let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
        retired.retain(|name| self.remove(name).is_err());
    }

    fn read(&self, file: &str) -> io::Result<String> {
        read(&self.folder, file)
    }
}

/// Waits, within a bound, for leaves that are on their way out: nobody comes after this who would remove them.
impl Drop for Inner {
    fn drop(&mut self) {
        let until = Instant::now() + RETIRED_GONE_WITHIN;
        let retired = std::mem::take(self.retired.get_mut().unwrap_or_else(PoisonError::into_inner));
        for name in retired {
            if let Ok(folder) = open_folder(self.folder.as_fd(), OsStr::new(&name)) {
                let _ = wait_until_empty(&folder, until);
            }
            let _ = self.remove(&name);
        }
        // Refused while something lives there; the next daemon on this state cleans up then.
        let _ = rustix::fs::rmdir(&self.path);
    }
}

/// A cgroup for one child and all its descendants. Dropping it kills what is left in it and removes it.
#[derive(Debug)]
pub struct Leaf {
    folder: OwnedFd,
    name: String,
    tree: Arc<Inner>,
}

impl Leaf {
    /// Kills every process in it, frozen or not.
    pub fn kill(&self) -> io::Result<()> {
        write(&self.folder, "cgroup.kill", b"1")
    }

    /// Stops every process in it.
    pub fn freeze(&self) -> io::Result<()> {
        write(&self.folder, "cgroup.freeze", b"1")
    }

    /// Lets every process in it run on.
    pub fn thaw(&self) -> io::Result<()> {
        write(&self.folder, "cgroup.freeze", b"0")
    }

    /// Whether a process lives in it.
    pub fn populated(&self) -> io::Result<bool> {
        self.events()?.populated()
    }

    /// The file by which the kernel tells whether a process lives in it. It announces each change by `POLLPRI`, counted from
    /// when it was read last.
    pub fn events(&self) -> io::Result<Events> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Events { file: rustix::fs::openat(&self.folder, "cgroup.events", flags, Mode::empty())? })
    }

    /// Whether every process in it has stopped, after `freeze`.
    pub fn frozen(&self) -> io::Result<bool> {
        event(&read(&self.folder, "cgroup.events")?, "frozen")
    }

    /// The processor time of everything that ever ran in it.
    pub fn cpu_time(&self) -> io::Result<Duration> {
        let text = read(&self.folder, "cpu.stat")?;
        Ok(Duration::from_micros(value(&text, "usage_usec")?))
    }

    /// Whether the kernel has killed its processes because they had reached the memory limit.
    pub fn out_of_memory(&self) -> bool {
        let events = read(&self.folder, "memory.events");
        events.and_then(|events| value(&events, "oom_kill")).is_ok_and(|kills| kills > 0)
    }

    /// Its accounts of processor time, which may be kept longer than the leaf.
    pub fn accounts(&self) -> io::Result<Accounts> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        Ok(Accounts { cpu: rustix::fs::openat(&self.folder, "cpu.stat", flags, Mode::empty())? })
    }

    /// The files by which the kernel tells that a limit was reached; none where there are no limits. They may be kept longer
    /// than the leaf, and say then that it is gone.
    pub fn pressure(&self) -> io::Result<Option<Pressure>> {
        if self.tree.controlled.is_err() {
            return Ok(None);
        }
        let open = |name| rustix::fs::openat(&self.folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Ok(Some(Pressure { pids: open("pids.events")?, cpu: open("cpu.stat")? }))
    }

    fn limit(&self, limits: &LeafLimits) -> io::Result<()> {
        let set = |file, contents: String| write(&self.folder, file, contents.as_bytes());
        set_limits(&self.folder, limits)?;
        match set("memory.swap.max", "0".to_owned()) {
            // A kernel that does not account for swap has none to limit here.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            result => result?,
        }
        // One that loses a part of itself would be worse than one that is gone.
        set("memory.oom.group", "1".to_owned())
    }

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.tree.path.join(&self.name)
    }
}

/// What happens to the processes of a leaf, as the kernel tells it.
#[derive(Debug)]
pub struct Events {
    file: OwnedFd,
}

impl Events {
    /// Whether a process lives in the leaf.
    pub fn populated(&self) -> io::Result<bool> {
        event(&read_from_start(&self.file)?, "populated")
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

/// How often a leaf has met its limits, as the kernel counts. `pids.events` announces its changes by `POLLPRI` until it is read.
#[derive(Debug)]
pub struct Pressure {
    pids: OwnedFd,
    cpu: OwnedFd,
}

/// What the kernel counts of a leaf's processor time.
#[derive(Debug)]
pub struct Accounts {
    cpu: OwnedFd,
}

impl Accounts {
    /// Everything that ever ran in it, and, where it has a controller, its periods.
    pub fn look(&self) -> io::Result<(Duration, Option<Periods>)> {
        let text = read_from_start(&self.cpu)?;
        let used = Duration::from_micros(value(&text, "usage_usec")?);
        let periods =
            value(&text, "nr_periods").and_then(|all| Ok(Periods { all, throttled: value(&text, "nr_throttled")? }));
        Ok((used, periods.ok()))
    }
}

/// The periods of `cpu.max`, since the leaf is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Periods {
    /// In which anything ran.
    pub all: u64,
    /// At the end of which something had to wait.
    pub throttled: u64,
}

/// The file that announces its changes.
impl AsRawFd for Pressure {
    fn as_raw_fd(&self) -> RawFd {
        self.pids.as_raw_fd()
    }
}

impl Pressure {
    /// How often a process or thread was refused.
    pub fn forks_refused(&self) -> io::Result<u64> {
        value(&read_from_start(&self.pids)?, "max")
    }

    /// How often it was throttled.
    pub fn periods(&self) -> io::Result<Periods> {
        let text = read_from_start(&self.cpu)?;
        Ok(Periods { all: value(&text, "nr_periods")?, throttled: value(&text, "nr_throttled")? })
    }
}

impl AsFd for Leaf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

impl Drop for Leaf {
    fn drop(&mut self) {
        if self.tree.remove(&self.name).is_err() {
            let _ = self.kill();
            self.tree.retired.lock().unwrap_or_else(PoisonError::into_inner).push(std::mem::take(&mut self.name));
        }
    }
}

/// The name of the daemon's folder: of its state folder's identity, whatever path leads there.
fn name_for(state_folder: &Path) -> Result<String, Unavailable> {
    let metadata = std::fs::metadata(state_folder)
        .map_err(|error| Unavailable::Unreadable(format!("{}: {error}", state_folder.display())))?;
    Ok(format!("palisade-{:x}-{:x}", metadata.dev(), metadata.ino()))
}

/// The folder of the cgroup that this process is in.
fn own_folder() -> Result<PathBuf, Unavailable> {
    let unreadable = |error: procfs::ProcError| Unavailable::Unreadable(error.to_string());
    let cgroups = std::fs::read("/proc/self/cgroup").map_err(|error| Unavailable::Unreadable(error.to_string()))?;
    let mounts = MountInfos::from_file("/proc/self/mountinfo").map_err(unreadable)?;
    locate(&cgroups, &mounts.0)
}

/// The cgroup that was delegated to this daemon, where it is in `own`: that one, or the one above, if the service manager has
/// put the daemon where it would go itself.
fn delegated(own: &Path) -> PathBuf {
    let above = own.parent().filter(|_| own.file_name().is_some_and(|name| name == OWN_NAME));
    // One that holds processes of its own was not meant for that.
    let empty = |folder: &&Path| std::fs::read(folder.join("cgroup.procs")).is_ok_and(|processes| processes.is_empty());
    above.filter(empty).unwrap_or(own).to_owned()
}

/// Has the cgroup `delegated` hand its controllers on, to which end the daemon leaves it.
fn hand_on(own: &Path, delegated: &Path) -> Result<(), Uncontrolled> {
    let path = || delegated.to_owned();
    let refused = |error: io::Error| Uncontrolled::Refused { path: path(), problem: error.to_string() };
    let offered = std::fs::read_to_string(delegated.join("cgroup.controllers")).map_err(refused)?;
    let offers = |name: &str| offered.split_ascii_whitespace().any(|offered| offered == name);
    let missing: Vec<_> = CONTROLLERS.into_iter().filter(|name| !offers(name)).collect();
    if !missing.is_empty() {
        return Err(Uncontrolled::NotOffered { path: path(), missing });
    }
    let control = delegated.join("cgroup.subtree_control");
    if own != delegated {
        return std::fs::write(&control, enabling()).map_err(refused);
    }
    let processes = std::fs::read_to_string(delegated.join("cgroup.procs")).map_err(refused)?;
    let own_pid = std::process::id().to_string();
    if processes.lines().any(|process| process != own_pid) {
        return Err(Uncontrolled::NotAlone { path: path() });
    }
    let beneath = delegated.join(OWN_NAME);
    match std::fs::create_dir(&beneath) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(refused(error)),
        _ => {}
    }
    let moved = std::fs::write(beneath.join("cgroup.procs"), &own_pid);
    moved.and_then(|()| std::fs::write(&control, enabling())).map_err(|error| {
        // Back to where it was found; failing that, where it is does no harm.
        let _ = std::fs::write(delegated.join("cgroup.procs"), &own_pid);
        let _ = std::fs::remove_dir(&beneath);
        refused(error)
    })
}

/// What is written to have controllers handed on.
fn enabling() -> String {
    CONTROLLERS.map(|name| format!("+{name}")).join(" ")
}

/// Finds a process's cgroup v2 folder from its `cgroup` file and the mounts that it sees.
fn locate(cgroups: &[u8], mounts: &[MountInfo]) -> Result<PathBuf, Unavailable> {
    let own = cgroups.split(|byte| *byte == b'\n').find_map(|line| line.strip_prefix(b"0::")).map(OsStr::from_bytes);
    let mut mounts = mounts.iter().filter(|mount| mount.fs_type == "cgroup2").peekable();
    let (Some(own), Some(_)) = (own.map(Path::new), mounts.peek()) else { return Err(Unavailable::NotMounted) };
    // A mount may show a part of the tree only: the part below its root.
    let visible = mounts.find_map(|mount| {
        let beneath = own.strip_prefix(&mount.root).ok()?;
        let climbs = beneath.components().any(|part| part == std::path::Component::ParentDir);
        (!climbs).then(|| mount.mount_point.join(beneath))
    });
    visible.ok_or_else(|| Unavailable::OutOfSight { path: own.to_owned() })
}

fn open_folder(beneath: BorrowedFd<'_>, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(beneath, name, flags, Mode::empty())
}

/// What can be changed while processes run.
fn set_limits(folder: &OwnedFd, limits: &LeafLimits) -> io::Result<()> {
    let set = |file, contents: String| write(folder, file, contents.as_bytes());
    set("memory.max", limits.memory_bytes.to_string())?;
    set("pids.max", limits.pids.to_string())?;
    set("cpu.max", format!("{} {CPU_PERIOD_USEC}", limits.cpu_percent.saturating_mul(CPU_PERIOD_USEC) / 100))
}

fn write(folder: &OwnedFd, file: &str, contents: &[u8]) -> io::Result<()> {
    let file = rustix::fs::openat(folder, file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::write(&file, contents)?;
    Ok(())
}

fn read(folder: &OwnedFd, file: &str) -> io::Result<String> {
    let file = rustix::fs::openat(folder, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    read_from_start(&file)
}

fn read_from_start(file: &OwnedFd) -> io::Result<String> {
    let mut bytes = [0_u8; FILE_BYTES_MAX];
    let length = rustix::io::pread(file, &mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes[..length]).into_owned())
}

/// The number behind a key in one of the kernel's files of `key number` lines.
fn value(text: &str, key: &str) -> io::Result<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .and_then(|number| number.trim().parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("no number for {key}")))
}

fn event(text: &str, key: &str) -> io::Result<bool> {
    value(text, key).map(|number| number != 0)
}

/// Waits until no process is in a cgroup; the kernel announces each change of its events file.
fn wait_until_empty(folder: &OwnedFd, until: Instant) -> io::Result<()> {
    let events = rustix::fs::openat(folder, "cgroup.events", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    while event(&read_from_start(&events)?, "populated")? {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "its processes do not die"));
        }
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&timeout)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mounts(text: &str) -> Vec<MountInfo> {
        MountInfos::from_read(text.as_bytes()).unwrap().0
    }

    const HYBRID: &str = "\
31 23 0:26 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu
33 31 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
    const PURE: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const CONTAINER: &str = "30 23 0:26 /docker/abc /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw\n";
    const NONE: &str = "21 20 0:19 / /proc rw - proc proc rw\n";

    #[test]
    fn the_own_cgroup_is_found_on_every_kind_of_host() {
        for (cgroups, mountinfo, expected) in [
            ("9:name=systemd:/\n1:cpu:/\n0::/\n", HYBRID, "/sys/fs/cgroup/unified"),
            ("4:memory:/a\n0::/b\n", HYBRID, "/sys/fs/cgroup/unified/b"),
            ("0::/system.slice/palisaded.service\n", PURE, "/sys/fs/cgroup/system.slice/palisaded.service"),
            ("0::/docker/abc\n", CONTAINER, "/sys/fs/cgroup"),
            ("0::/docker/abc/inner\n", CONTAINER, "/sys/fs/cgroup/inner"),
        ] {
            assert_eq!(locate(cgroups.as_bytes(), &mounts(mountinfo)).unwrap(), Path::new(expected), "{cgroups}");
        }
    }

    #[test]
    fn a_host_without_a_usable_cgroup2_says_which_way_it_lacks_it() {
        assert!(matches!(locate(b"0::/\n", &mounts(NONE)), Err(Unavailable::NotMounted)));
        assert!(matches!(locate(b"4:memory:/\n", &mounts(HYBRID)), Err(Unavailable::NotMounted)));
        assert!(matches!(locate(b"0::/elsewhere\n", &mounts(CONTAINER)), Err(Unavailable::OutOfSight { .. })));
        // Outside the cgroup namespace's root.
        assert!(matches!(locate(b"0::/../sibling\n", &mounts(PURE)), Err(Unavailable::OutOfSight { .. })));
    }

    /// Folders with the kernel's names stand in for cgroups: what is decided is decided from what the files say.
    #[test]
    fn a_daemon_hands_controllers_on_only_where_it_is_alone() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path();
        let set = |file: &str, text: &str| std::fs::write(own.join(file), text).unwrap();
        set("cgroup.controllers", "cpu io pids\n");
        let error = hand_on(own, own).unwrap_err();
        assert_eq!(error, Uncontrolled::NotOffered { path: own.to_owned(), missing: vec!["memory"] });

        set("cgroup.controllers", "cpuset cpu io memory pids\n");
        set("cgroup.procs", &format!("1\n{}\n", std::process::id()));
        assert_eq!(hand_on(own, own).unwrap_err(), Uncontrolled::NotAlone { path: own.to_owned() });
        assert!(!own.join(OWN_NAME).exists() && !own.join("cgroup.subtree_control").exists());

        set("cgroup.procs", &format!("{}\n", std::process::id()));
        hand_on(own, own).unwrap();
        let text = |file: &str| std::fs::read_to_string(own.join(file)).unwrap();
        assert_eq!(text("palisaded/cgroup.procs"), std::process::id().to_string());
        assert_eq!(text("cgroup.subtree_control"), "+memory +pids +cpu");
    }

    /// As systemd does it with `DelegateSubgroup=palisaded`.
    #[test]
    fn a_daemon_may_have_been_put_beneath_what_was_delegated() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join(OWN_NAME);
        std::fs::create_dir(&own).unwrap();
        std::fs::write(folder.path().join("cgroup.procs"), "").unwrap();
        assert_eq!(delegated(&own), folder.path());
        std::fs::write(folder.path().join("cgroup.procs"), "1\n").unwrap();
        assert_eq!(delegated(&own), own, "what holds processes was not delegated");
        let other = folder.path().join("session");
        assert_eq!(delegated(&other), other);
    }

    fn offered_none() -> Result<(), Uncontrolled> {
        Err(Uncontrolled::NotOffered { path: PathBuf::new(), missing: CONTROLLERS.to_vec() })
    }

    #[test]
    fn what_another_users_daemon_left_is_not_taken_and_not_in_the_way() {
        let own = tempfile::tempdir().unwrap();
        let opened = Tree::open_beneath(own.path(), "palisade-1-2", offered_none()).unwrap();
        assert_eq!(opened.tree.path(), own.path().join("palisade-1-2"));
        drop(opened);
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: only root can give a folder to another user");
            return;
        }
        for name in ["palisade-1-2", "palisade-1-2-0"] {
            let foreign = own.path().join(name);
            std::fs::create_dir(&foreign).unwrap();
            std::os::unix::fs::chown(&foreign, Some(65534), None).unwrap();
            match (name, Tree::open_beneath(own.path(), "palisade-1-2", offered_none())) {
                ("palisade-1-2", opened) => {
                    assert_eq!(opened.unwrap().tree.path(), own.path().join("palisade-1-2-0"));
                }
                (_, refused) => {
                    let refused = refused.unwrap_err();
                    assert!(matches!(&refused, Unavailable::Foreign { path } if *path == foreign), "{refused}");
                    assert!(!refused.is_usual());
                }
            }
        }
    }

    #[test]
    fn numbers_are_read_by_their_whole_key() {
        let text = "usage_usec 1234\nuser_usec 1000\npopulated 1\nfrozen 0\n";
        assert_eq!(value(text, "usage_usec").unwrap(), 1234);
        assert!(value(text, "usage").is_err());
        assert!(event(text, "populated").unwrap());
        assert!(!event(text, "frozen").unwrap());
        assert!(event("populated x\n", "populated").is_err());
    }

    #[test]
    fn one_state_folder_has_one_name_and_another_has_another() {
        let one = name_for(Path::new("/etc")).unwrap();
        assert_eq!(one, name_for(Path::new("/etc/../etc")).unwrap());
        assert_ne!(one, name_for(Path::new("/usr")).unwrap());
        assert!(name_for(Path::new("/nonexistent")).is_err());
    }
}
