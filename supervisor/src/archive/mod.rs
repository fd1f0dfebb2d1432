//! Packages in one file: a tar archive, plain or compressed by gzip or Zstandard, which is told by its first bytes.
//!
//! An archive is a stranger's: all that it says is checked before anything is done for it. What is unpacked lands beneath one folder, by
//! names without a way out of it, in files and folders that were not there before. Number, size, depth and names are bounded while it is
//! read, so that a small archive of much is given up in time.
//!
//! Invariants: no link is made and none followed; nobody waits for a pipe; memory is bounded by [`WINDOW_BYTES_MAX`] and the names.
//! Elsewhere: what is unpacked is a package like any other, and is looked at as one by `store` and `registry`; who cleans up is whoever
//! gave the folder.

mod pack;
mod stream;
mod unpack;

use std::io;
use std::path::PathBuf;

use crate::trust::tree::{PACKAGE_BYTES_MAX, PACKAGE_FILES_MAX, not_written};

pub use self::pack::{PackError, Packed, pack};
pub use self::unpack::unpack;

/// Most files and folders in an archive: those of a package, and a folder around them.
pub const ENTRIES_MAX: usize = PACKAGE_FILES_MAX + 1;

/// Most bytes of an archive, and of what it is uncompressed: those of a package, with all that stands around them.
pub const ARCHIVE_BYTES_MAX: u64 = PACKAGE_BYTES_MAX + (64 << 20);

/// Most that the reader of Zstandard looks back, which it holds in memory: as much as its format asks of every reader.
pub const WINDOW_BYTES_MAX: u64 = 8 << 20;

/// Longest path of an entry.
pub const PATH_BYTES_MAX: usize = 1024;

/// Longest name in a path, as file systems have it.
const NAME_BYTES_MAX: usize = 255;

/// Longest description of an entry that precedes it: its long name, attributes that no copy has.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;

/// So many zeros may follow the end, where blocks are written whole.
const PADDING_BYTES_MAX: u64 = 1 << 20;

/// Why an archive was not unpacked. Each is the rest of a sentence that begins with the archive's name.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(io::Error),
    /// It is something else.
    #[error("is no tar archive, plain or compressed by gzip or Zstandard")]
    NoArchive,
    /// There is nothing in it.
    #[error("has nothing in it")]
    Empty,
    /// A part of it is missing.
    #[error("ends early; a part of it is missing")]
    Truncated,
    /// It is not as it was written.
    #[error("is damaged: {0}")]
    Damaged(String),
    /// It goes on after its end.
    #[error("goes on after its end with something else")]
    Trailing,
    /// It is beyond a bound.
    #[error("holds more than {0}")]
    TooLarge(String),
    /// An entry that no package has.
    #[error("has an entry {name} that {what}")]
    Entry {
        /// Its name, quoted.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// There is no manifest where one is looked for.
    #[error("has no plugin.json, neither at its top nor in the one folder that is there")]
    NoManifest,
    /// What is in it cannot be written.
    #[error("cannot be unpacked: {path} cannot be written: {source}{}", not_written(source), path = .path.display())]
    Write {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever wanted it does not any more.
    #[error("is not unpacked to its end: the daemon is stopping")]
    GivenUp,
}

#[cfg(test)]
mod tests;
