//! The daemon's part of the cgroup v2 tree: one folder of its own, and in it one leaf per child.
//!
//! A leaf is killed and frozen as a whole, whatever its processes do; that is all that is asked of it here, and it works
//! without any controller, so on hybrid hosts as well. The folder's name is derived from the daemon's state folder: a
//! later daemon on the same state finds what a dead one left, kills it and removes it.
//!
//! Invariants: children are born in their leaf (`CLONE_INTO_CGROUP`), nothing is ever moved; no controller is enabled in
//! the daemon's own cgroup, so it may have processes and children at once; a leaf whose processes are not gone yet when
//! it is dropped is killed, and removed at a later occasion; the folder is locked for as long as its daemon lives.
//! Elsewhere: limits by controllers come with the isolation of resources.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
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

/// The daemon's folder in the cgroup tree.
#[derive(Clone, Debug)]
pub struct Tree {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    folder: OwnedFd,
    path: PathBuf,
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
        Self::open_beneath(&own, &name_for(state_folder)?)
    }

    fn open_beneath(own: &Path, name: &str) -> Result<Opened, Unavailable> {
        // A state folder may stand where one of another user's daemons stood once, and that daemon may have left its cgroup.
        let second = format!("{name}-{}", rustix::process::geteuid().as_raw());
        for name in [name, &second] {
            if let Some(opened) = Self::open_own(own, name)? {
                return Ok(opened);
            }
        }
        Err(Unavailable::Foreign { path: own.join(second) })
    }

    /// Nothing if there is a folder of another user's.
    fn open_own(own: &Path, name: &str) -> Result<Option<Opened>, Unavailable> {
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
        let tree = Self { inner: Arc::new(Inner { folder, path, retired: Mutex::default() }) };
        let stale_leaves = tree.remove_stale()?;
        Ok(Some(Opened { tree, stale_leaves }))
    }

    /// Makes a leaf for one child. The name is unique among living children, such as an id with a generation.
    pub fn leaf(&self, name: &str) -> Result<Leaf, LeafError> {
        self.sweep();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || NAME_BYTES_MAX < name.len() || !name.bytes().all(allowed) {
            return Err(LeafError::Name(name.to_owned()));
        }
        let name = format!("{LEAF_PREFIX}{name}");
        let refused = |errno: Errno| LeafError::Refused { path: self.inner.path.join(&name), source: errno.into() };
        rustix::fs::mkdirat(&self.inner.folder, &name, Mode::from_raw_mode(0o755)).map_err(refused)?;
        match open_folder(self.inner.folder.as_fd(), OsStr::new(&name)) {
            Ok(folder) => Ok(Leaf { folder, name, tree: Arc::clone(&self.inner) }),
            Err(errno) => {
                let _ = self.inner.remove(&name);
                Err(refused(errno))
            }
        }
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

    /// The controllers that the daemon's own cgroup offers to children; none on a hybrid host.
    pub fn controllers(&self) -> io::Result<Vec<String>> {
        let text = self.inner.read("cgroup.controllers")?;
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
        event(&read(&self.folder, "cgroup.events")?, "populated")
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

    /// Where it is.
    pub fn path(&self) -> PathBuf {
        self.tree.path.join(&self.name)
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

    #[test]
    fn what_another_users_daemon_left_is_not_taken_and_not_in_the_way() {
        let own = tempfile::tempdir().unwrap();
        let opened = Tree::open_beneath(own.path(), "palisade-1-2").unwrap();
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
            match (name, Tree::open_beneath(own.path(), "palisade-1-2")) {
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
