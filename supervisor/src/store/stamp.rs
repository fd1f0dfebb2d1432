//! Whether anything in a package's folder can have changed since it was read, told without reading any of it.
//!
//! A [`Stamp`] has device, inode, size and times of the folder and of all that belongs to the package. What is written, renamed, added or
//! taken away changes one of them: of a file its own, of a name those of the folder that has it. So a stamp that still holds needs one
//! `stat` for each entry, and no folder is listed.
//!
//! Invariant: a stamp that is taken before its package is read, and whose youngest change is older than that moment by more than the
//! clock of the file system is coarse, holds only while the package is what was read. One that is younger is not worth keeping: what is
//! written in the same tick of that clock leaves no trace.
//! Elsewhere: what is remembered with a stamp is `database::cache`'s; nothing runs for the sake of a stamp alone, see `plugin::admission`.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};

use crate::trust::tree::{LEFT_OUT, PACKAGE_FILES_MAX};

/// The kernel's clock for file times moves in steps of at most 10 ms.
const TICK: Duration = Duration::from_millis(20);

/// Where times have no fractions, the file system keeps them by the second, or by two.
const COARSE_TICK: Duration = Duration::from_secs(3);

/// Before each entry's name: its length, then device, inode, size, and the two times.
const FIXED_BYTES: usize = 2 + 3 * 8 + 2 * 16;

/// What changes when anything in a package does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    bytes: Vec<u8>,
}

impl Stamp {
    /// That of the package in this folder, or nothing where it cannot be relied on: something changed too short a while ago, or is no
    /// file and no folder, or cannot be looked at. Blocks.
    #[must_use]
    pub fn take(source: &Path) -> Option<Self> {
        Self::take_at(source, SystemTime::now())
    }

    fn take_at(source: &Path, now: SystemTime) -> Option<Self> {
        let folder = open(source).ok()?;
        let mut taking = Taking { bytes: Vec::new(), entries: 0, youngest: (i64::MIN, 0) };
        let status = rustix::fs::fstat(&folder).ok()?;
        taking.add(OsStr::new(""), &status)?;
        taking.folder(&folder, Path::new(""))?;
        let (seconds, nanoseconds) = taking.youngest;
        let tick = if nanoseconds == 0 { COARSE_TICK } else { TICK };
        let youngest = UNIX_EPOCH + Duration::new(u64::try_from(seconds).ok()?, u32::try_from(nanoseconds).ok()?);
        (youngest + tick < now).then_some(Self { bytes: taking.bytes })
    }

    /// To be kept.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether the package in this folder still has the stamp that these bytes were kept of. Blocks.
    #[must_use]
    pub fn holds(kept: &[u8], source: &Path) -> bool {
        Self::try_holds(kept, source).is_some()
    }

    fn try_holds(kept: &[u8], source: &Path) -> Option<()> {
        let folder = open(source).ok()?;
        let mut rest = kept;
        let mut is_first = true;
        while !rest.is_empty() {
            let (fixed, after) = rest.split_at_checked(FIXED_BYTES)?;
            let length = usize::from(u16::from_le_bytes([fixed[0], fixed[1]]));
            let (name, after) = after.split_at_checked(length)?;
            let status = match name {
                [] if is_first => rustix::fs::fstat(&folder),
                [] => return None,
                name => rustix::fs::statat(&folder, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW),
            };
            (fixed == self::fixed(length, &status.ok()?)?).then_some(())?;
            (is_first, rest) = (false, after);
        }
        // One without entries says nothing.
        (!is_first).then_some(())
    }
}

struct Taking {
    bytes: Vec<u8>,
    entries: usize,
    youngest: (i64, i64),
}

impl Taking {
    fn add(&mut self, name: &OsStr, status: &Stat) -> Option<()> {
        self.bytes.extend(fixed(name.len(), status)?);
        self.bytes.extend(name.as_bytes());
        // Anybody can set the other time to what he likes.
        self.youngest = self.youngest.max((status.st_ctime, status.st_ctime_nsec.try_into().ok()?));
        Some(())
    }

    fn folder(&mut self, folder: &OwnedFd, relative: &Path) -> Option<()> {
        let mut names: Vec<PathBuf> = Vec::new();
        for entry in Dir::read_from(folder).ok()? {
            let entry = entry.ok()?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." || LEFT_OUT.iter().any(|left_out| name == *left_out) {
                continue;
            }
            self.entries += 1;
            if PACKAGE_FILES_MAX < self.entries {
                return None;
            }
            names.push(name.into());
        }
        for name in names {
            let status = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
            let relative = relative.join(&name);
            self.add(relative.as_os_str(), &status)?;
            match FileType::from_raw_mode(status.st_mode) {
                FileType::RegularFile => {}
                FileType::Directory => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let inner = rustix::fs::openat(folder, &name, flags, Mode::empty()).ok()?;
                    self.folder(&inner, &relative)?;
                }
                _ => return None,
            }
        }
        Some(())
    }
}

/// Where the operator's folder leads is the operator's word.
fn open(source: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(source, flags, Mode::empty())?)
}

fn fixed(length: usize, status: &Stat) -> Option<[u8; FIXED_BYTES]> {
    let mut fixed = [0; FIXED_BYTES];
    fixed[..2].copy_from_slice(&u16::try_from(length).ok()?.to_le_bytes());
    // As they come: the same number is the same bytes, and no more is asked of them.
    let numbers = [
        status.st_dev.to_le_bytes(),
        status.st_ino.to_le_bytes(),
        status.st_size.to_le_bytes(),
        status.st_mtime.to_le_bytes(),
        status.st_mtime_nsec.to_le_bytes(),
        status.st_ctime.to_le_bytes(),
        status.st_ctime_nsec.to_le_bytes(),
    ];
    for (place, number) in fixed[2..].chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number);
    }
    Some(fixed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    /// As if all in the package were old by now.
    fn later() -> SystemTime {
        SystemTime::now() + Duration::from_secs(60)
    }

    fn package() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("bin/deep")).unwrap();
        fs::create_dir(folder.path().join("target")).unwrap();
        for name in ["plugin.json", "bin/run", "bin/deep/data"] {
            fs::write(folder.path().join(name), "what it is").unwrap();
        }
        folder
    }

    type Change = (&'static str, fn(&Path));

    /// Whatever is done to a package, its stamp does not hold any more.
    #[test]
    fn every_change_is_noticed() {
        let changes: &[Change] = &[
            ("contents", |at| fs::write(at.join("bin/run"), "what it was").unwrap()),
            ("contents deep inside", |at| fs::write(at.join("bin/deep/data"), "other").unwrap()),
            ("the manifest", |at| fs::write(at.join("plugin.json"), "{}").unwrap()),
            ("a new file", |at| fs::write(at.join("bin/deep/new"), "").unwrap()),
            ("a new folder", |at| fs::create_dir(at.join("new")).unwrap()),
            ("one less", |at| fs::remove_file(at.join("bin/deep/data")).unwrap()),
            ("a name", |at| fs::rename(at.join("bin/run"), at.join("bin/ran")).unwrap()),
            ("a mode", |at| fs::set_permissions(at.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap()),
            ("another in its place, with its times", |at| {
                let (run, beside) = (at.join("bin/run"), at.join("beside"));
                fs::write(&beside, "what it IS").unwrap();
                let times = fs::metadata(&run).unwrap().modified().unwrap();
                fs::File::options().write(true).open(&beside).unwrap().set_modified(times).unwrap();
                fs::rename(&beside, &run).unwrap();
            }),
            ("a link in place of a folder", |at| {
                fs::rename(at.join("bin/deep"), at.join("aside")).unwrap();
                std::os::unix::fs::symlink("../aside", at.join("bin/deep")).unwrap();
            }),
        ];
        for (what, change) in changes {
            let folder = package();
            let stamp = Stamp::take_at(folder.path(), later()).unwrap();
            assert!(Stamp::holds(stamp.bytes(), folder.path()), "before {what}");
            // The clock of file times goes on.
            let before = fs::metadata(folder.path().join("plugin.json")).unwrap().modified().unwrap();
            while fs::File::create(folder.path().join("target/clock")).unwrap().metadata().unwrap().modified().unwrap()
                <= before
            {}
            assert!(Stamp::holds(stamp.bytes(), folder.path()), "what is left out does not matter to {what}");
            change(folder.path());
            assert!(!Stamp::holds(stamp.bytes(), folder.path()), "{what}");
        }
    }

    fn make_old(path: &Path) {
        if path.is_dir() {
            fs::read_dir(path).unwrap().for_each(|entry| make_old(&entry.unwrap().path()));
        }
        fs::File::open(path).unwrap().set_modified(UNIX_EPOCH + Duration::from_secs(1)).unwrap();
    }

    /// What was written a moment ago can be written again without a trace.
    #[test]
    fn what_is_too_young_has_none() {
        let folder = package();
        assert_eq!(Stamp::take_at(folder.path(), SystemTime::now()), None);
        assert!(Stamp::take_at(folder.path(), later()).is_some());
        // However old all of it says it is.
        make_old(folder.path());
        assert_eq!(Stamp::take_at(folder.path(), SystemTime::now()), None);
    }

    #[test]
    fn what_is_no_stamp_never_holds() {
        let folder = package();
        let stamp = Stamp::take_at(folder.path(), later()).unwrap();
        for length in 0..stamp.bytes().len() {
            // One that ends with an entry knows less and is no lie.
            let is_entry = length != 0 && Stamp::holds(&stamp.bytes()[..length], folder.path());
            assert!(!is_entry || stamp.bytes()[length..].len() > FIXED_BYTES, "{length}");
        }
        assert!(!Stamp::holds(&[], folder.path()));
        assert!(!Stamp::holds(&[0xff; 4096], folder.path()));
        assert!(!Stamp::holds(stamp.bytes(), &folder.path().join("bin")));
        assert!(!Stamp::holds(stamp.bytes(), &folder.path().join("gone")));
        std::os::unix::fs::symlink("plugin.json", folder.path().join("link")).unwrap();
        assert_eq!(Stamp::take_at(folder.path(), later()), None);
    }
}
