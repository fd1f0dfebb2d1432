//! The numbers of generations: which comes next, and that none is used twice, whichever daemon started it.
//!
//! Each id has a file with its next number. It is written at every start, where it lies, and never waited for, so it is right for
//! as long as the machine runs, and may be old after it lost its power. (Were it replaced by a rename, file systems would write
//! the new one to the disk at once, which takes milliseconds.) Therefore `.reserved` holds a number that is on the disk before any id
//! reaches it: a block ahead, with one wait for a thousand starts. After the machine has started anew every id goes on from there.
//!
//! Elsewhere: who gives them out is `model::plugin`.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::model::ids::Generation;

/// So many numbers are reserved at once.
const BLOCK: u64 = 1000;

/// The digits of the largest number.
const NUMBER_BYTES: usize = 20;

/// No plugin's id begins so.
const RESERVED: &str = ".reserved";

/// Changes when the machine starts.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is reserved for all ids of a daemon.
#[derive(Debug)]
pub struct Reserve {
    folder: PathBuf,
    boot: String,
    /// No id has used a number from here on in an earlier life of the machine.
    first: u64,
    /// No number from here on has been used, whatever the machine forgot.
    end: Mutex<u64>,
}

impl Reserve {
    /// Goes on where the last daemon on that folder ended.
    #[must_use]
    pub fn open(folder: PathBuf) -> Self {
        // Where it cannot be known, it is taken for another one: that costs numbers, of which there are enough.
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        Self::of_boot(folder, boot)
    }

    fn of_boot(folder: PathBuf, boot: String) -> Self {
        let file = folder.join(RESERVED);
        let (end, of) = match fs::read_to_string(&file) {
            Ok(text) => {
                let (end, of) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
                let end = end.parse().unwrap_or_else(|error| {
                    tracing::warn!(file = %file.display(), %error, "what is reserved is not known");
                    1
                });
                (end, of.to_owned())
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(file = %file.display(), %error, "what is reserved is not known");
                }
                (1, String::new())
            }
        };
        let first = if of == boot && !boot.is_empty() { 1 } else { end };
        // Of this life of the machine only once it says so on the disk.
        let reserve = Self { folder, boot, first, end: Mutex::new(end) };
        if 1 < first {
            reserve.raise(first);
        }
        reserve
    }

    /// Sees that `next` can be given out after whatever happens.
    fn raise(&self, next: u64) {
        let mut end = self.end.lock().expect("nothing panics while it holds what is reserved");
        let wanted = next.saturating_add(BLOCK);
        if let Err(error) = self.write(wanted) {
            tracing::warn!(folder = %self.folder.display(), %error, "numbers of generations cannot be reserved");
            return;
        }
        *end = wanted;
    }

    fn has(&self, next: u64) -> bool {
        next <= *self.end.lock().expect("nothing panics while it holds what is reserved")
    }

    fn write(&self, end: u64) -> io::Result<()> {
        let beside = self.folder.join(format!("{RESERVED}.new"));
        let mut file = File::create(&beside)?;
        write!(file, "{end} {}", self.boot)?;
        file.sync_all()?;
        fs::rename(&beside, self.folder.join(RESERVED))?;
        File::open(&self.folder)?.sync_all()
    }
}

/// The number that the next generation of one id will have. Its versions share it, and it is kept before it is used.
#[derive(Debug)]
pub struct Numbers {
    next: Mutex<Generation>,
    file: PathBuf,
    reserve: Arc<Reserve>,
}

impl Numbers {
    /// Those of the id of that name.
    #[must_use]
    pub fn open(reserve: &Arc<Reserve>, id: &str) -> Self {
        let file = reserve.folder.join(id);
        let kept = read(&file);
        let next = kept.unwrap_or(1).max(reserve.first);
        let numbers = Self { next: Mutex::new(Generation(next)), file, reserve: reserve.clone() };
        if kept.is_none() {
            // To make a file takes ten times as long as to write it, and the first start is waited for.
            numbers.write(Generation(next));
        }
        numbers
    }

    /// The next number. Nobody else has it for as long as this is held.
    pub fn next(&self) -> MutexGuard<'_, Generation> {
        self.next.lock().expect("nothing panics while it holds the numbers")
    }

    /// Notes that the numbers below `next` may be used from now on. It is one write of a few bytes, so a crash leaves the old
    /// number or the new one; and before the reserve is at its end, there is more.
    pub fn keep(&self, next: Generation) {
        if !self.reserve.has(next.0) {
            self.reserve.raise(next.0);
        }
        self.write(next);
    }

    fn write(&self, next: Generation) {
        let file = File::options().write(true).create(true).truncate(false).open(&self.file);
        // What stood there before is covered, or behind the end of the line.
        let kept = file.and_then(|file| file.write_all_at(format!("{:<NUMBER_BYTES$}\n", next.0).as_bytes(), 0));
        if let Err(error) = kept {
            tracing::warn!(file = %self.file.display(), %error, "the number of a generation cannot be kept");
        }
    }
}

/// What that file says, if it says anything.
fn read(file: &Path) -> Option<u64> {
    let problem = match fs::read_to_string(file) {
        Ok(text) => match text.lines().next().unwrap_or_default().trim().parse::<u64>() {
            Ok(next) => return Some(next.max(1)),
            Err(error) => error.to_string(),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => error.to_string(),
    };
    tracing::warn!(file = %file.display(), problem, "the numbers of generations begin again, after those that are reserved");
    Some(1)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    /// Gives out a number, as an actor does.
    fn give(numbers: &Numbers) -> u64 {
        let mut next = numbers.next();
        let given = *next;
        *next = given.next();
        numbers.keep(*next);
        given.0
    }

    fn open(folder: &tempfile::TempDir, boot: &str) -> Arc<Reserve> {
        Arc::new(Reserve::of_boot(folder.path().to_owned(), boot.to_owned()))
    }

    fn file(folder: &tempfile::TempDir) -> Option<u64> {
        fs::metadata(folder.path().join(RESERVED)).ok().map(|metadata| metadata.ino())
    }

    #[test]
    fn another_daemon_goes_on_where_the_last_ended() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = open(&folder, "boot");
        let (one, two) = (Numbers::open(&reserve, "one"), Numbers::open(&reserve, "two"));
        assert_eq!([give(&one), give(&one), give(&two), give(&one)], [1, 2, 1, 3]);
        let reserve = open(&folder, "boot");
        assert_eq!(give(&Numbers::open(&reserve, "one")), 4);
        assert_eq!(give(&Numbers::open(&reserve, "two")), 2);
    }

    #[test]
    fn its_file_is_there_before_the_first_start() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = open(&folder, "boot");
        let numbers = Numbers::open(&reserve, "one");
        assert_eq!(read(&folder.path().join("one")), Some(1));
        assert_eq!(give(&numbers), 1);
    }

    /// What was written without waiting may be gone, or be there in part, after the power was; what is reserved is not.
    #[test]
    fn no_number_is_used_again_after_the_power_was_lost() {
        for lost in [None, Some(""), Some("2"), Some("\0\0\0")] {
            let folder = tempfile::tempdir().unwrap();
            let mut highest = 0;
            for boot in ["first", "second", "third"] {
                let reserve = open(&folder, boot);
                let numbers = Numbers::open(&reserve, "one");
                for _ in 0..2500 {
                    let given = give(&numbers);
                    assert!(highest < given, "{given} was used before");
                    highest = given;
                }
                match lost {
                    None => fs::remove_file(folder.path().join("one")).unwrap(),
                    Some(text) => fs::write(folder.path().join("one"), text).unwrap(),
                }
            }
        }
    }

    #[test]
    fn what_stood_in_the_file_before_is_covered() {
        for before in ["7", "7\n", "what is no number is longer than any number\nand has lines"] {
            let folder = tempfile::tempdir().unwrap();
            let reserve = open(&folder, "boot");
            fs::write(folder.path().join("one"), before).unwrap();
            // Held, so that no other file can have its number.
            let file = File::open(folder.path().join("one")).unwrap();
            let given = give(&Numbers::open(&reserve, "one"));
            assert_eq!(give(&Numbers::open(&reserve, "one")), given + 1, "after {before:?}");
            let now = fs::metadata(folder.path().join("one")).unwrap().ino();
            assert_eq!(
                now,
                file.metadata().unwrap().ino(),
                "a file that takes another's place is written to the disk at once"
            );
        }
    }

    #[test]
    fn a_start_in_a_thousand_waits_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = open(&folder, "boot");
        let (one, two) = (Numbers::open(&reserve, "one"), Numbers::open(&reserve, "two"));
        let mut written = 0;
        let mut before = file(&folder);
        for _ in 0..3000 {
            give(&one);
            give(&two);
            let now = file(&folder);
            written += usize::from(now != before);
            before = now;
        }
        assert_eq!(written, 3, "once for a thousand, whoever needs it");
    }
}
