//! The disk quota of a plugin's data folder, for a daemon that is root: the folder is a project of its file system, and the
//! project has limits that the kernel holds everybody to who writes there without being root.
//!
//! The daemon starts this program for one such question, with the folder as descriptor 0, and reads one answer. A folder's
//! project is 2^31 and its inode's number, so it stays the same without being written down, and no two folders share one.
//!
//! Invariants: nothing outside of the folder is touched, whatever links lie in it; entries, depth and time are bounded; a
//! folder is in its project only if all that can be in it is; a project that holds anything else is left alone.
//! Elsewhere: what follows from an answer is decided in the daemon.

use crate::{EXIT_USAGE, sys};
use palisade_launcher::Quota;
use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
    process::Uid,
};
use serde::Serialize;
use std::{
    ffi::{CStr, c_int},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

/// What folders of ours have as their project, before the number of the inode is added.
const PROJECT_BASE: u32 = 1 << 31;

/// Deeper than that no honest program nests its folders; one descriptor is held for each.
const DEPTH_MAX: usize = 64;

/// So long a folder may take that is not in its project yet.
const WITHIN: Duration = Duration::from_secs(5);

/// So many projects are looked at when those are cleared that nobody has.
const CLEARED_MAX: u32 = 65_536;

/// A trial's limit, and a multiple of it that is written.
const TRIAL_KIB: u64 = 64;
const TRIAL_FILES: u64 = 16;

/// A user without rights, as which a trial writes.
const NOBODY: u32 = 65534;

/// Answers one question, given as words.
pub(crate) fn answer(words: &[&CStr]) -> c_int {
    let folder = rustix::stdio::stdin();
    let number =
        |at: usize| words.get(at).and_then(|word| word.to_str().ok()).and_then(|word| word.parse::<u64>().ok());
    if words.first().is_some_and(|word| word.to_bytes() == b"clear") {
        return say(&clear(folder));
    }
    let answer = match (words.first().map(|word| word.to_bytes()), number(1), number(2)) {
        (Some(b"hold"), Some(kib), Some(files)) => hold(folder, kib, files),
        (Some(b"read"), ..) => read(folder),
        (Some(b"trial"), ..) => attempt(folder),
        _ => return EXIT_USAGE,
    };
    say(&answer)
}

fn say<T: Serialize>(answer: &Result<T, String>) -> c_int {
    let Ok(bytes) = palisade_launcher::encode(answer) else { return 1 };
    c_int::from(rustix::io::write(rustix::stdio::stdout(), &bytes) != Ok(bytes.len()))
}

/// Puts the folder and all that lies in it into its project, and limits that.
fn hold(folder: BorrowedFd<'_>, kib: u64, files: u64) -> Result<Quota, String> {
    let project = project_of(folder)?;
    let before = match sys::quota(folder, project) {
        // XFS has nothing of a project that never had anything, where ext4 has zeros.
        Err(Errno::NOENT) => sys::Kept::default(),
        before => before.map_err(unavailable)?,
    };
    if !is_in(folder, project).map_err(unavailable)? {
        adopt(folder, project, before.used_files, files)?;
    }
    sys::set_quota(folder, project, kib, files).map_err(unavailable)?;
    read(folder)
}

/// What the kernel has for the folder.
fn read(folder: BorrowedFd<'_>) -> Result<Quota, String> {
    let project = project_of(folder)?;
    if !is_in(folder, project).map_err(unavailable)? {
        return Err("its data folder is in no project of its own".to_owned());
    }
    let kept = sys::quota(folder, project).map_err(unavailable)?;
    Ok(Quota {
        project,
        kib: kept.hard_kib,
        files: kept.hard_files,
        used_bytes: kept.used_bytes,
        used_files: kept.used_files,
    })
}

/// Writes beyond a small limit, without any rights, and finds out whether that is refused.
fn attempt(folder: BorrowedFd<'_>) -> Result<Quota, String> {
    // Without a limit at first: to make a file XFS wants more room than it needs, and more than a trial allows.
    hold(folder, 0, 0)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let failed = |errno: Errno| format!("nothing can be written in a trial: {errno}");
    // One that ended in the middle has left nothing that counts.
    let _ = rustix::fs::unlinkat(folder, c"beyond", AtFlags::empty());
    let file = rustix::fs::openat(folder, c"beyond", flags, Mode::from_raw_mode(0o600)).map_err(failed)?;
    rustix::fs::unlinkat(folder, c"beyond", AtFlags::empty()).map_err(failed)?;
    let held = hold(folder, TRIAL_KIB, TRIAL_FILES)?;
    // Root is not held to any quota.
    rustix::thread::set_thread_uid(Uid::from_raw(NOBODY)).map_err(failed)?;
    for _ in 0..TRIAL_KIB {
        match rustix::io::write(&file, &[1; 4096]) {
            Ok(_) => {}
            Err(Errno::DQUOT | Errno::NOSPC) => return Ok(held),
            Err(errno) => return Err(failed(errno)),
        }
    }
    Err("the file system counts what projects have, and did not refuse more; mount it with the option prjquota"
        .to_owned())
}

/// Takes the limits from projects of folders that are gone, and says from how many.
fn clear(folder: BorrowedFd<'_>) -> Result<u64, String> {
    let (mut next, mut cleared) = (PROJECT_BASE, 0);
    for _ in 0..CLEARED_MAX {
        let (project, kept) = match sys::next_quota(folder, next) {
            Ok(found) => found,
            Err(Errno::NOENT | Errno::SRCH) => break,
            Err(errno) => return Err(unavailable(errno)),
        };
        // A folder that is there counts as a file of its project.
        if PROJECT_BASE <= project && kept.used_files == 0 && (kept.hard_kib, kept.hard_files) != (0, 0) {
            sys::set_quota(folder, project, 0, 0).map_err(unavailable)?;
            cleared += 1;
        }
        let Some(following) = project.checked_add(1) else { break };
        next = following;
    }
    Ok(cleared)
}

fn project_of(folder: BorrowedFd<'_>) -> Result<u32, String> {
    let inode = rustix::fs::fstat(folder).map_err(|errno| format!("the folder cannot be looked at: {errno}"))?.st_ino;
    let number = u32::try_from(inode).ok().filter(|number| *number < PROJECT_BASE);
    number
        .map(|number| PROJECT_BASE | number)
        .ok_or_else(|| format!("the folder's inode has the number {inode}, and only those below 2^31 become projects"))
}

fn is_in(file: BorrowedFd<'_>, project: u32) -> Result<bool, Errno> {
    let attributes = sys::attributes(file)?;
    Ok(attributes.project == project && attributes.flags & sys::INHERITED != 0)
}

/// Puts everything into the project, the folder last: one that is in it is done with. `used` is what the project has
/// already, which must be ours, from when this was interrupted.
fn adopt(folder: BorrowedFd<'_>, project: u32, used: u64, files_max: u64) -> Result<(), String> {
    let mut walk = Walk { files_max, files: 0, until: Instant::now() + WITHIN };
    let mut ours = 0_u64;
    if used != 0 {
        walk.folder(folder, 0, &mut |file| {
            ours += u64::from(sys::attributes(file)?.project == project);
            Ok(())
        })?;
        ours += u64::from(sys::attributes(folder).map_err(unavailable)?.project == project);
    }
    if ours < used {
        return Err(format!(
            "project {project} of this file system, which is the folder's, has files of somebody else"
        ));
    }
    walk.files = 0;
    walk.folder(folder, 0, &mut |file| sys::set_project(file, project))?;
    sys::set_project(folder, project).map_err(unavailable)
}

struct Walk {
    files_max: u64,
    files: u64,
    until: Instant,
}

impl Walk {
    /// Visits each file and folder beneath this one.
    fn folder(
        &mut self,
        folder: BorrowedFd<'_>,
        depth: usize,
        visit: &mut dyn FnMut(BorrowedFd<'_>) -> Result<(), Errno>,
    ) -> Result<(), String> {
        if depth == DEPTH_MAX {
            return Err("its data are nested too deep to be put into a project".to_owned());
        }
        let failed = |errno: Errno| format!("its data cannot be put into a project: {errno}");
        let mut entries = Dir::read_from(folder).map_err(failed)?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            self.files += 1;
            if self.files_max < self.files {
                return Err(format!("its data are more than {} files, which is its limit", self.files_max));
            }
            if self.until <= Instant::now() {
                return Err("its data could not be put into a project in time".to_owned());
            }
            let Some(file) = open(folder, name).map_err(failed)? else { continue };
            if FileType::from_raw_mode(rustix::fs::fstat(&file).map_err(failed)?.st_mode) == FileType::Directory {
                self.folder(file.as_fd(), depth + 1, visit)?;
            }
            visit(file.as_fd()).map_err(failed)?;
        }
        Ok(())
    }
}

/// A file or a folder. Nothing else can be put into a project by itself, and nothing else takes any room.
fn open(folder: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW).and_then(|status| {
        match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory | FileType::RegularFile => {
                rustix::fs::openat(folder, name, flags, Mode::empty()).map(Some)
            }
            _ => Ok(None),
        }
    });
    match opened {
        // What was there a moment ago may be gone, or something else.
        Err(Errno::NOENT | Errno::LOOP) => Ok(None),
        opened => opened,
    }
}

fn unavailable(errno: Errno) -> String {
    match errno {
        Errno::NOSYS | Errno::SRCH | Errno::INVAL | Errno::NOTTY | Errno::OPNOTSUPP => {
            "the file system of the state folder, or this kernel, keeps no project quota; ext4 does with the features \
             `project,quota` and the mount option prjquota, XFS with that option"
                .to_owned()
        }
        Errno::PERM | Errno::ACCESS => format!("the daemon may not set a project quota here ({errno})"),
        errno => format!("a project quota cannot be set: {errno}"),
    }
}
