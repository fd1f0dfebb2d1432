//! The private root: what a child finds in place of the host's tree.
//!
//! It is made by pid 1 in a mount namespace of its own: a small file system in memory, in it what was made up and what is
//! mounted, then the exchange of the roots, after which nothing of the old one is left in reach. What is bound is taken
//! as detached trees beforehand: by the launcher where it has the rights of root (only those can map ids, and pid 1
//! could not reach the daemon's folders any more), otherwise by pid 1 itself.
//!
//! Invariants: every attribute is set while a tree is still detached, so nothing is ever visible without it; the new root
//! is read-only before the plugin exists; set-user-id programs and device files have no effect anywhere, but for the few
//! devices that are bound one by one.

use crate::{failure::Stumble, sys, user_namespace::Holder};
use palisade_launcher::{Attributes, IdMap, MadeUp, Mount, Root, Setting, Source, Step};
use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
    },
};
use std::{
    ffi::{CStr, CString},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// `AT_RECURSIVE`, for which `rustix` has no name among the flags of `open_tree`.
const RECURSIVE: OpenTreeFlags = OpenTreeFlags::from_bits_retain(0x8000);

/// Set-user-id programs have no effect in anything that is mounted.
const ALWAYS: MountAttrFlags = MountAttrFlags::MOUNT_ATTR_NOSUID;

/// What is bound, detached, at the index of its mount; nothing where nothing is to be bound.
pub(crate) type Taken = Vec<Option<OwnedFd>>;

/// The detail of a step that concerns the interpreter, not the entry point.
pub(crate) const INTERPRETER: u8 = 1;

/// Takes everything that is to be bound from the tree that this process sees. The first map of ids is written for `holder`, if there is
/// one.
pub(crate) fn take(root: &Root, mut holder: Option<Holder>) -> Result<Taken, Stumble> {
    let mut taken = Vec::with_capacity(root.mounts.len());
    for (index, mount) in root.mounts.iter().enumerate() {
        taken.push(take_one(mount, &mut holder).map_err(Stumble::at_index(Step::Bind, index))?);
    }
    Ok(taken)
}

fn take_one(mount: &Mount, holder: &mut Option<Holder>) -> Result<Option<OwnedFd>, Errno> {
    let (path, idmap) = match &mount.source {
        Source::Bind { path, idmap } => (path, idmap),
        Source::Granted { path, owner } => return take_granted(path, *owner, mount.attributes).map(Some),
        Source::New { .. } => return Ok(None),
    };
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if idmap.is_none() {
        flags |= RECURSIVE;
    }
    let tree = match rustix::mount::open_tree(CWD, path.as_c_str(), flags) {
        Ok(tree) => tree,
        // What this user may not reach is not there for it.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS) if mount.optional => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let attributes = kernel_names(mount.attributes);
    match idmap {
        Some(map) => {
            let namespace = holder.take().map_or_else(Holder::make, Ok)?.for_idmap(*map)?;
            sys::set_mount_attributes(tree.as_fd(), sys::Extent::Single, attributes, Some(namespace.as_fd()))?;
        }
        None => sys::set_mount_attributes(tree.as_fd(), sys::Extent::Recursive, attributes, None)?,
    }
    Ok(Some(tree))
}

/// What is bound is what was opened: a link that stands in the way now, or a moment later, leads nowhere.
fn take_granted(path: &CStr, owner: Option<(u32, u32)>, attributes: Attributes) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let place = rustix::fs::openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    let status = rustix::fs::fstat(&place)?;
    if !matches!(FileType::from_raw_mode(status.st_mode), FileType::Directory | FileType::RegularFile) {
        return Err(Errno::OPNOTSUPP);
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = rustix::mount::open_tree(&place, c"", flags)?;
    let namespace = match owner {
        Some((host_uid, host_gid)) => Some(Holder::make()?.for_idmap(IdMap {
            disk_uid: status.st_uid,
            host_uid,
            disk_gid: status.st_gid,
            host_gid,
        })?),
        None => None,
    };
    let namespace = namespace.as_ref().map(AsFd::as_fd);
    sys::set_mount_attributes(tree.as_fd(), sys::Extent::Single, kernel_names(attributes), namespace)?;
    Ok(tree)
}

fn kernel_names(attributes: Attributes) -> MountAttrFlags {
    let mut flags = ALWAYS;
    for (wanted, flag) in [
        (attributes.read_only, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (attributes.no_exec, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (attributes.no_dev, MountAttrFlags::MOUNT_ATTR_NODEV),
    ] {
        flags.set(flag, wanted);
    }
    flags
}

/// Puts the root together and moves this process into it. The mount namespace must be this process's own.
pub(crate) fn enter(root: &Root, taken: Taken) -> Result<(), Stumble> {
    let private = Stumble::at(Step::PrivateRoot);
    // Without a user namespace what is mounted here would otherwise show on the host.
    rustix::mount::mount_change(c"/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE).map_err(&private)?;
    let base = new_file_system(c"tmpfs", &root.options, ALWAYS | MountAttrFlags::MOUNT_ATTR_NODEV).map_err(&private)?;
    // On top of the old root, from which this process goes on looking: what is in the new one is reached from its
    // folder, which becomes the working directory.
    attach(base.as_fd(), c"/").map_err(&private)?;
    rustix::process::fchdir(&base).map_err(&private)?;
    for folder in &root.folders {
        make_folder(folder).map_err(&private)?;
    }
    for MadeUp { path, contents } in &root.files {
        make_file(path, contents.to_bytes()).map_err(&private)?;
    }
    for MadeUp { path, contents } in &root.links {
        rustix::fs::symlinkat(contents.as_c_str(), CWD, path.as_c_str()).map_err(&private)?;
    }
    for (index, (mount, taken)) in root.mounts.iter().zip(taken).enumerate() {
        mount_one(mount, taken).map_err(Stumble::at_index(Step::Mount, index))?;
    }
    sys::set_mount_attributes(base.as_fd(), sys::Extent::Single, MountAttrFlags::MOUNT_ATTR_RDONLY, None)
        .map_err(&private)?;

    let pivot = Stumble::at(Step::PivotRoot);
    // The old root ends up on top of the new one, and is taken away from there at once.
    rustix::process::pivot_root(c".", c".").map_err(&pivot)?;
    rustix::mount::unmount(c".", UnmountFlags::DETACH).map_err(&pivot)?;
    rustix::process::chdir(c"/").map_err(&pivot)
}

fn mount_one(mount: &Mount, taken: Option<OwnedFd>) -> Result<(), Errno> {
    let tree = match (&mount.source, taken) {
        (Source::New { kind, options }, _) => new_file_system(kind, options, kernel_names(mount.attributes))?,
        (Source::Bind { .. } | Source::Granted { .. }, Some(tree)) => tree,
        (Source::Bind { .. } | Source::Granted { .. }, None) => return Ok(()),
    };
    let status = rustix::fs::fstat(&tree)?;
    let make = || match FileType::from_raw_mode(status.st_mode) {
        FileType::Directory => make_folder(&mount.target),
        _ => make_file(&mount.target, b""),
    };
    let mut made = make();
    if made == Err(Errno::NOENT) && matches!(mount.source, Source::Granted { .. }) {
        make_folders_above(&mount.target)?;
        made = make();
    }
    match made {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    attach(tree.as_fd(), &mount.target)
}

fn new_file_system(kind: &CStr, options: &[Setting], attributes: MountAttrFlags) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for Setting { name, value } in options {
        rustix::mount::fsconfig_set_string(context.as_fd(), name.as_c_str(), value.as_c_str())?;
    }
    rustix::mount::fsconfig_create(context.as_fd())?;
    rustix::mount::fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

fn attach(tree: BorrowedFd<'_>, target: &CStr) -> Result<(), Errno> {
    rustix::mount::move_mount(tree, c"", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

fn make_folder(path: &CStr) -> Result<(), Errno> {
    rustix::fs::mkdirat(CWD, path, Mode::from_raw_mode(0o755))
}

/// The folders that a path lies in. It is done by this process as the plugin's user, within what it was given already.
fn make_folders_above(path: &CStr) -> Result<(), Errno> {
    let bytes = path.to_bytes();
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
        let folder = CString::new(&bytes[..at]).unwrap_or_default();
        match make_folder(&folder) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn make_file(path: &CStr, contents: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
    let file = rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(0o644))?;
    let written = if contents.is_empty() { 0 } else { rustix::io::write(file, contents)? };
    if written == contents.len() { Ok(()) } else { Err(Errno::NOSPC) }
}

/// Opens the entry point, or the interpreter, beneath the new root. It must be the file that `verified` leads to: that
/// one lies on a mount of the host, which may be writable, and is closed for that reason.
pub(crate) fn find_again(path: &CStr, verified: BorrowedFd<'_>, detail: u8) -> Result<OwnedFd, Stumble> {
    let failed = |errno| Stumble { step: Step::EntryPoint, detail, errno };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let found =
        rustix::fs::openat2(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve).map_err(failed)?;
    let identity = |status: Stat| (status.st_dev, status.st_ino);
    let inner = rustix::fs::statat(&found, c"", AtFlags::EMPTY_PATH).map_err(failed)?;
    let outer = rustix::fs::fstat(verified).map_err(failed)?;
    if identity(inner) == identity(outer) { Ok(found) } else { Err(failed(Errno::STALE)) }
}
