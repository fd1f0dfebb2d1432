//! Disk quotas of plugins' data folders, set and read by the launcher, which may do what has no safe form.
//!
//! Each question is a launcher of its own, which answers and ends; that takes a millisecond, and longer for a folder with
//! files that is not in its project yet. All of it blocks, within a bound: a launcher that does not answer is killed.
//!
//! Elsewhere: what is done is `quota.rs` of the launcher; whether this host has quotas is found out by `sandbox::probe`.

use std::io;
use std::path::Path;

use palisade_launcher::Quota;
use rustix::fs::{Mode, OFlags};
use serde::de::DeserializeOwned;

use super::{LauncherImage, spawn::ask_launcher};

/// What is asked of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Hold { kib: u64, files: u64 },
    Read,
    Trial,
    Clear,
}

/// Why there was no answer, or not the one that was wanted.
#[derive(Debug, thiserror::Error)]
pub enum QuotaError {
    /// The launcher says why not.
    #[error("{0}")]
    Refused(String),
    /// It could not be asked.
    #[error("the launcher could not be asked for a disk quota: {0}")]
    Unasked(#[from] io::Error),
}

/// Limits a folder with all that is in it, which from then on the kernel holds whoever is not root to.
///
/// # Errors
/// Why it is not limited.
pub fn hold(image: &LauncherImage, folder: &Path, kib: u64, files: u64) -> Result<Quota, QuotaError> {
    let held: Quota = ask(image, folder, Question::Hold { kib, files })?;
    if (held.kib, held.files) == (kib, files) {
        return Ok(held);
    }
    let Quota { kib: has, files: of, .. } = held;
    Err(QuotaError::Refused(format!(
        "{kib} KiB and {files} files were set, and the kernel has {has} KiB and {of} files"
    )))
}

/// What the kernel has for a folder.
///
/// # Errors
/// Why it has nothing.
pub fn read(image: &LauncherImage, folder: &Path) -> Result<Quota, QuotaError> {
    ask(image, folder, Question::Read)
}

/// Whether the file system of a folder, which is empty, refuses what is beyond a quota: tried without any rights.
///
/// # Errors
/// Why not.
pub fn attempt(image: &LauncherImage, folder: &Path) -> Result<(), QuotaError> {
    ask::<Quota>(image, folder, Question::Trial).map(drop)
}

/// Takes away what is left of quotas whose folders are gone, on the file system of this folder, and says how many there were.
///
/// # Errors
/// Why that could not be done.
pub fn clear(image: &LauncherImage, folder: &Path) -> Result<u64, QuotaError> {
    ask(image, folder, Question::Clear)
}

fn ask<T: DeserializeOwned>(image: &LauncherImage, folder: &Path, question: Question) -> Result<T, QuotaError> {
    let words = match question {
        Question::Hold { kib, files } => vec!["hold".to_owned(), kib.to_string(), files.to_string()],
        Question::Read => vec!["read".to_owned()],
        Question::Trial => vec!["trial".to_owned()],
        Question::Clear => vec!["clear".to_owned()],
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(folder, flags, Mode::empty()).map_err(io::Error::from)?;
    let answer = ask_launcher(image, folder, &words)?;
    let answer: Result<T, String> = palisade_launcher::decode(&answer).map_err(io::Error::other)?;
    answer.map_err(QuotaError::Refused)
}
