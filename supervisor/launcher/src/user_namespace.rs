//! A user namespace of one user and one group, which is all that an ordinary user may map.

use crate::{failure::Failed, sys};
use palisade_launcher::{Step, UserMap};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
};
use std::ffi::CStr;

/// Moves this process into a user namespace with the given map.
///
/// An ordinary user may write a group map only after giving up `setgroups`, through which a group that denies something
/// could otherwise be dropped.
pub(crate) fn enter(map: UserMap) -> Result<(), Failed> {
    let failed = |errno| Failed::at(Step::UserNamespace, errno);
    sys::unshare_user_namespace().map_err(failed)?;
    write(c"/proc/self/setgroups", b"deny").map_err(failed)?;
    write(c"/proc/self/uid_map", format!("{} {} 1\n", map.inside_uid, map.outside_uid).as_bytes()).map_err(failed)?;
    write(c"/proc/self/gid_map", format!("{} {} 1\n", map.inside_gid, map.outside_gid).as_bytes()).map_err(failed)
}

/// Writes the whole of a kernel file in one call, as a map must be written.
pub(crate) fn write(path: &CStr, contents: &[u8]) -> Result<(), Errno> {
    let file = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    let written = rustix::io::write(file, contents)?;
    if written == contents.len() { Ok(()) } else { Err(Errno::IO) }
}
