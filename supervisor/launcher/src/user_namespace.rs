//! User namespaces of one user and one group: the plugin's own, and those by which a mount maps its owner.

use crate::{
    failure::Failed,
    sys::{self, Cloned, Kind},
};
use palisade_launcher::{IdMap, Step, UserMap};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Signal, pidfd_send_signal},
    thread::UnshareFlags,
};
use std::{
    ffi::{CStr, CString},
    os::fd::OwnedFd,
};

/// Gives the user namespace that `pid` was born in its map. `pid` must be a child that has not been waited for.
///
/// An ordinary user may write a group map only after giving up `setgroups`, through which a group that denies something
/// could otherwise be dropped.
pub(crate) fn map(pid: i32, map: UserMap) -> Result<(), Failed> {
    write_maps(pid, (map.inside_uid, map.outside_uid), (map.inside_gid, map.outside_gid))
        .map_err(|errno| Failed::at(Step::UserNamespace, errno))
}

/// A process that sleeps in a user namespace which has no map yet. Dropping this ends it, and waits for it, as pid 1 is to be the
/// launcher's only child; a process that only has a copy of this must never return.
pub(crate) struct Holder {
    pid: i32,
    pidfd: OwnedFd,
}

impl Holder {
    pub(crate) fn make() -> Result<Self, Errno> {
        let launcher = rustix::process::getpid();
        match sys::clone(Kind::Holder { namespaces: UnshareFlags::NEWUSER })? {
            Cloned::Child => {
                // With a copy of the launcher's socket it would hide for a moment that the launcher is gone.
                sys::close_from(0);
                sys::sleep_until_killed(launcher)
            }
            Cloned::Parent { pid, pidfd } => Ok(Self { pid, pidfd }),
        }
    }

    /// The same, and it has nothing of the launcher's open any more: for one that is kept.
    pub(crate) fn make_to_keep() -> Result<Self, Errno> {
        let (ended, open) = pipe_with(PipeFlags::CLOEXEC)?;
        let holder = Self::make()?;
        drop(open);
        // It ends with the holder's copy of the other end.
        rustix::io::read(&ended, &mut [0_u8; 1][..])?;
        Ok(holder)
    }

    /// Its namespace, as one by which a mount shows its owner as somebody else. No process is left in it.
    pub(crate) fn for_idmap(self, map: IdMap) -> Result<OwnedFd, Errno> {
        write_maps(self.pid, (map.disk_uid, map.host_uid), (map.disk_gid, map.host_gid))?;
        let path = file_of(self.pid, "ns/user");
        rustix::fs::open(path.as_c_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // It sleeps and nothing else, so this ends it.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = sys::wait_for(self.pid);
    }
}

fn write_maps(pid: i32, user: (u32, u32), group: (u32, u32)) -> Result<(), Errno> {
    write(&file_of(pid, "setgroups"), b"deny")?;
    write(&file_of(pid, "uid_map"), format!("{} {} 1\n", user.0, user.1).as_bytes())?;
    write(&file_of(pid, "gid_map"), format!("{} {} 1\n", group.0, group.1).as_bytes())
}

pub(crate) fn file_of(pid: i32, name: &str) -> CString {
    // A number and a name of ours have no NUL byte; an empty path would be refused by whoever opens it.
    CString::new(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

/// Writes the whole of a kernel file in one call, as a map must be written.
pub(crate) fn write(path: &CStr, contents: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let written = rustix::io::write(file, contents)?;
    if written == contents.len() { Ok(()) } else { Err(Errno::IO) }
}
