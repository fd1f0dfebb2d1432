//! How much a plugin's data folder takes on the disk, where the file system keeps no account of it.
//!
//! Counted is what is allocated, so a hole costs nothing; a file with several names is counted once, in shares, since all of
//! its names lie in the folder. A file that was deleted while a process holds it is not seen.
//!
//! Invariants: nothing outside of the folder is looked at, whatever links the plugin makes meanwhile; entries, depth and time are
//! bounded, and what could not be counted is said.
//! Elsewhere: how often is walked and what follows, in `plugin::disk`.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Deeper than that no honest program nests its folders; one descriptor is held for each.
const DEPTH_MAX: usize = 64;

/// The clock is looked at once in so many files.
const LOOK_AT_CLOCK_EVERY: u64 = 256;

/// Where counting ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// More bytes need not be counted.
    pub bytes: u64,
    /// More files need not be counted, folders among them.
    pub files: u64,
    /// By then it is over.
    pub until: Instant,
}

/// What was counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Allocated.
    pub bytes: u64,
    /// Files and folders.
    pub files: u64,
    /// How it ended.
    pub end: End,
}

/// How counting ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// That is all there is.
    Whole,
    /// There is more than the bounds.
    Beyond,
    /// It is nested too deep.
    Deep,
    /// There is a folder into which the daemon may not look.
    Closed,
    /// There was no time for all of it, or the file system failed.
    Unfinished,
}

/// Counts what lies in a folder. Blocks.
#[must_use]
pub fn measure(folder: &Path, bounds: Bounds) -> Extent {
    let mut walk = Walk { bounds, extent: Extent { bytes: 0, files: 0, end: End::Whole } };
    let opened = rustix::fs::open(folder, FOLDER, Mode::empty());
    let walked = opened.map_err(end_of).and_then(|folder| walk.folder(&folder, 0));
    walk.extent.end = walked.err().unwrap_or(End::Whole);
    walk.extent
}

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

fn end_of(errno: Errno) -> End {
    if matches!(errno, Errno::ACCESS | Errno::PERM) { End::Closed } else { End::Unfinished }
}

/// What was there a moment ago may be gone, or something else.
fn has_gone(errno: Errno) -> bool {
    matches!(errno, Errno::NOENT | Errno::LOOP | Errno::NOTDIR)
}

struct Walk {
    bounds: Bounds,
    extent: Extent,
}

impl Walk {
    fn folder(&mut self, folder: &OwnedFd, depth: usize) -> Result<(), End> {
        if depth == DEPTH_MAX {
            return Err(End::Deep);
        }
        let mut entries = Dir::read_from(folder).map_err(end_of)?;
        while let Some(entry) = entries.read() {
            let entry = entry.map_err(end_of)?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(status) => self.count(&status)?,
                Err(errno) if has_gone(errno) => continue,
                Err(errno) => return Err(end_of(errno)),
            }
            if !matches!(entry.file_type(), FileType::Directory | FileType::Unknown) {
                continue;
            }
            match rustix::fs::openat(folder.as_fd(), name, FOLDER, Mode::empty()) {
                Ok(beneath) => self.folder(&beneath, depth + 1)?,
                Err(errno) if has_gone(errno) => {}
                Err(errno) => return Err(end_of(errno)),
            }
        }
        Ok(())
    }

    #[allow(clippy::useless_conversion, reason = "the number of names is 32 bits wide on some machines")]
    fn count(&mut self, status: &Stat) -> Result<(), End> {
        let allocated = u64::try_from(status.st_blocks).unwrap_or(0).saturating_mul(512);
        let names = match FileType::from_raw_mode(status.st_mode) {
            FileType::Directory => 1,
            _ => u64::from(status.st_nlink).max(1),
        };
        self.extent.bytes = self.extent.bytes.saturating_add(allocated / names);
        self.extent.files += 1;
        if self.bounds.bytes < self.extent.bytes || self.bounds.files < self.extent.files {
            return Err(End::Beyond);
        }
        if self.extent.files.is_multiple_of(LOOK_AT_CLOCK_EVERY) && self.bounds.until <= Instant::now() {
            return Err(End::Unfinished);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::Duration;

    use super::*;

    fn bounds() -> Bounds {
        Bounds { bytes: u64::MAX, files: u64::MAX, until: Instant::now() + Duration::from_secs(60) }
    }

    #[test]
    fn what_is_allocated_in_the_folder_is_counted_and_nothing_else() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (data, mebibyte) = (folder.path(), vec![1_u8; 1 << 20]);
        fs::write(outside.path().join("large"), vec![1_u8; 8 << 20]).unwrap();
        symlink(outside.path(), data.join("out")).unwrap();
        symlink(outside.path().join("large"), data.join("file")).unwrap();
        fs::create_dir_all(data.join("a/b")).unwrap();
        fs::write(data.join("a/b/one"), &mebibyte).unwrap();
        fs::hard_link(data.join("a/b/one"), data.join("another name")).unwrap();
        fs::File::create(data.join("hole")).unwrap().set_len(1 << 40).unwrap();
        let extent = measure(data, bounds());
        assert_eq!((extent.end, extent.files), (End::Whole, 7));
        assert!((1 << 20..(1 << 20) + (64 << 10)).contains(&extent.bytes), "{extent:?}");
    }

    #[test]
    fn counting_ends_at_its_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        for number in 0..600 {
            fs::write(data.join(number.to_string()), b"x").unwrap();
        }
        let beyond = measure(data, Bounds { files: 10, ..bounds() });
        assert_eq!((beyond.end, beyond.files), (End::Beyond, 11));
        assert_eq!(measure(data, Bounds { bytes: 100, ..bounds() }).end, End::Beyond);
        let late = measure(data, Bounds { until: Instant::now(), ..bounds() });
        assert_eq!((late.end, late.files), (End::Unfinished, LOOK_AT_CLOCK_EVERY));
        fs::create_dir_all((0..=DEPTH_MAX).fold(data.to_owned(), |deep, _| deep.join("d"))).unwrap();
        assert_eq!(measure(data, bounds()).end, End::Deep);
        assert_eq!(measure(&data.join("nothing"), bounds()).end, End::Unfinished);
    }

    #[test]
    fn a_closed_folder_is_no_hiding_place() {
        if rustix::process::geteuid().is_root() {
            println!("not shown: nothing is closed to root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let closed = folder.path().join("closed");
        fs::create_dir(&closed).unwrap();
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
        assert_eq!(measure(folder.path(), bounds()).end, End::Closed);
        fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();
    }
}
