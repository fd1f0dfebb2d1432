//! The entries of a package's folder, and the digests that follow from them. `docs/integrity.md` says the same in words.
//!
//! Invariants: no link is followed beneath the folder and no pipe waited for, whatever changes meanwhile; what is no file and no folder
//! is refused by name; number, size and depth are bounded.
//! Elsewhere: whoever walks decides what becomes of each file: `store` copies it, [`checksum`] only hashes it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use sha2::{Digest, Sha256};

/// Most bytes in one package.
pub const PACKAGE_BYTES_MAX: u64 = 512 << 20;

/// Most files and folders in one package.
pub const PACKAGE_FILES_MAX: usize = 20_000;

/// Deepest folder in one package.
pub const DEPTH_MAX: usize = 32;

/// What does not belong to a package, wherever in it such a folder or file lies.
pub const LEFT_OUT: [&str; 3] = [".git", "target", "node_modules"];

/// What says the checksum cannot be part of it.
const MANIFEST: &str = "plugin.json";

/// With what the digested bytes of a checksum begin, so that they are taken for nothing else.
const CHECKSUM_DOMAIN: &[u8] = b"palisade-tree-1\n";

/// What is said where the daemon has no more of what it reads and writes files with.
const SHORT: &str = "; the daemon is short of descriptors or memory";

/// Whether that is so: EAGAIN, ENOMEM, ENFILE and EMFILE, which have the same numbers on every machine that we run on.
fn is_short(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(11 | 12 | 23 | 24))
}

/// What is added to the error of something that could not be written.
#[must_use]
pub fn not_written(error: &io::Error) -> &'static str {
    if is_short(error) { SHORT } else { "; is the disk full or read-only?" }
}

/// Why a package could not be read. Each names the file in question.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// Reading failed.
    #[error("cannot read {path}: {source}{remedy}", remedy = if is_short(source) { SHORT } else { "" })]
    Read {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Something in a package that does not belong there.
    #[error("{path} is {what}; a package holds files and folders alone")]
    Unusual {
        /// Which.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// The package is beyond a bound.
    #[error("{path} holds more than {limit}; a package's build folders and data do not belong into it")]
    TooLarge {
        /// The package.
        path: PathBuf,
        /// Which bound.
        limit: String,
    },
    /// It changed while it was read.
    #[error("{path} changed while it was read; wait until it is written, then try again")]
    Changed {
        /// Which file.
        path: PathBuf,
    },
}

/// One entry of a package: a folder before what lies in it, and what lies in one folder in the order of the names.
#[derive(Debug)]
pub struct Entry {
    /// Its path beneath the package's folder.
    pub relative: PathBuf,
    /// What it is.
    pub what: What,
}

/// What an entry is.
#[derive(Debug)]
pub enum What {
    /// A folder.
    Folder,
    /// A file.
    File {
        /// The SHA-256 of its contents, in hexadecimal.
        digest: String,
        /// Whether anybody may execute it.
        executable: bool,
    },
}

/// Who walks through a package.
pub trait Visitor {
    /// Why it may stop.
    type Error: From<TreeError>;

    /// Whether to go on.
    ///
    /// # Errors
    /// Why not.
    fn go_on(&self) -> Result<(), Self::Error> {
        Ok(())
    }

    /// Takes a file, and says its digest and whether it is executable.
    ///
    /// # Errors
    /// What is wrong with it.
    fn take(&self, file: File, path: &Path) -> Result<(String, bool), Self::Error>;
}

/// Goes through the package at `source`. Blocks.
///
/// # Errors
/// [`TreeError`], or what the visitor says.
pub fn walk<V: Visitor>(source: &Path, visitor: &V) -> Result<Vec<Entry>, V::Error> {
    // Where the operator's folder leads is the operator's word; from there on no link is followed, whatever changes meanwhile.
    let unreadable = |error: rustix::io::Errno| TreeError::Read { path: source.to_owned(), source: error.into() };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let folder = rustix::fs::open(source, flags, Mode::empty()).map_err(unreadable)?;
    let mut walk = Walk { source, visitor, entries: Vec::new(), bytes: 0 };
    walk.folder(&folder, Path::new(""), 0)?;
    Ok(walk.entries)
}

struct Walk<'a, V> {
    source: &'a Path,
    visitor: &'a V,
    entries: Vec<Entry>,
    bytes: u64,
}

impl<V: Visitor> Walk<'_, V> {
    fn too_large(&self, limit: String) -> TreeError {
        TreeError::TooLarge { path: self.source.to_owned(), limit }
    }

    fn folder(&mut self, folder: &OwnedFd, relative: &Path, depth: usize) -> Result<(), V::Error> {
        if depth > DEPTH_MAX {
            return Err(self.too_large(format!("{DEPTH_MAX} levels of folders")).into());
        }
        let at = self.source.join(relative);
        let read = |error: rustix::io::Errno| TreeError::Read { path: at.clone(), source: error.into() };
        let mut names = Vec::new();
        for entry in Dir::read_from(folder).map_err(read)? {
            let name = OsStr::from_bytes(entry.map_err(read)?.file_name().to_bytes()).to_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
            // Not sorted and kept by the million before the first is looked at.
            if names.len() > PACKAGE_FILES_MAX {
                return Err(self.too_large(format!("{PACKAGE_FILES_MAX} files")).into());
            }
        }
        names.sort();
        for name in names {
            self.visitor.go_on()?;
            if LEFT_OUT.iter().any(|left_out| name == *left_out) {
                continue;
            }
            if self.entries.len() == PACKAGE_FILES_MAX {
                return Err(self.too_large(format!("{PACKAGE_FILES_MAX} files")).into());
            }
            let relative = relative.join(&name);
            let path = self.source.join(&relative);
            let unreadable = |error: rustix::io::Errno| TreeError::Read { path: path.clone(), source: error.into() };
            // What it is now may be something else when it is opened, which follows no link and waits for nobody.
            let open = |flags: OFlags| {
                let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
                rustix::fs::openat(folder, &name, flags, Mode::empty()).map_err(unreadable)
            };
            let status = rustix::fs::statat(folder, &name, AtFlags::SYMLINK_NOFOLLOW).map_err(unreadable)?;
            match FileType::from_raw_mode(status.st_mode) {
                FileType::Directory => {
                    self.entries.push(Entry { relative: relative.clone(), what: What::Folder });
                    self.folder(&open(OFlags::DIRECTORY)?, &relative, depth + 1)?;
                }
                FileType::RegularFile => {
                    self.bytes += u64::try_from(status.st_size).unwrap_or(0);
                    if self.bytes > PACKAGE_BYTES_MAX {
                        return Err(self.too_large(format!("{} MiB", PACKAGE_BYTES_MAX >> 20)).into());
                    }
                    let (digest, executable) = self.visitor.take(open(OFlags::empty())?.into(), &path)?;
                    self.entries.push(Entry { relative, what: What::File { digest, executable } });
                }
                FileType::Symlink => return Err(TreeError::Unusual { path, what: "a symbolic link" }.into()),
                _ => return Err(TreeError::Unusual { path, what: "a device, socket or pipe" }.into()),
            }
        }
        Ok(())
    }
}

/// The digest of everything, which names a snapshot.
#[must_use]
pub fn digest_of_all(entries: &[Entry]) -> String {
    digest(Sha256::new(), entries.iter())
}

/// The digest that a manifest's `checksum` is about: of everything but that manifest.
#[must_use]
pub fn checksum_of(entries: &[Entry]) -> String {
    let pinned = entries.iter().filter(|entry| entry.relative.as_os_str() != MANIFEST);
    digest(Sha256::new_with_prefix(CHECKSUM_DOMAIN), pinned)
}

fn digest<'a>(mut hasher: Sha256, entries: impl Iterator<Item = &'a Entry>) -> String {
    for entry in entries {
        // Names are length-prefixed, so that no name can look like the next field.
        let name = entry.relative.as_os_str().as_encoded_bytes();
        hasher.update((name.len() as u64).to_le_bytes());
        hasher.update(name);
        match &entry.what {
            What::Folder => hasher.update(b"d"),
            What::File { digest, executable } => {
                hasher.update(if *executable { b"x" } else { b"r" });
                hasher.update(digest.as_bytes());
            }
        }
    }
    hex(&hasher.finalize())
}

/// The checksum of the package in that folder. Blocks.
///
/// # Errors
/// [`TreeError`]
pub fn checksum(source: &Path) -> Result<String, TreeError> {
    struct Hashing;

    impl Visitor for Hashing {
        type Error = TreeError;

        fn take(&self, file: File, path: &Path) -> Result<(String, bool), TreeError> {
            take_hashed(file, path, &|| true)
        }
    }

    walk(source, &Hashing).map(|entries| checksum_of(&entries))
}

struct Asking<'a, R>(R, &'a dyn Fn() -> bool);

impl<R: Read> Read for Asking<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if (self.1)() { self.0.read(buffer) } else { Err(io::Error::other("it is not wanted any more")) }
    }
}

/// The digest of a file that stays where it is, and whether it is executable. Ends early with an error where it is not to go on.
///
/// # Errors
/// [`TreeError`]
pub fn take_hashed(file: File, path: &Path, go_on: &dyn Fn() -> bool) -> Result<(String, bool), TreeError> {
    let unreadable = |source| TreeError::Read { path: path.to_owned(), source };
    let metadata = file.metadata().map_err(unreadable)?;
    // One byte more than it had, so that a file that grows is seen to, and need not end.
    let (digest, bytes) = hash(&mut Asking(file.take(metadata.len() + 1), go_on)).map_err(unreadable)?;
    if !metadata.is_file() || bytes != metadata.len() {
        return Err(TreeError::Changed { path: path.to_owned() });
    }
    Ok((digest, metadata.permissions().mode() & 0o111 != 0))
}

/// The SHA-256 of what can be read, and how much that was.
///
/// # Errors
/// What the system said.
pub fn hash(from: &mut impl Read) -> io::Result<(String, u64)> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 128 << 10];
    let mut bytes = 0;
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok((hex(&hasher.finalize()), bytes)),
            count => {
                hasher.update(&buffer[..count]);
                bytes += count as u64;
            }
        }
    }
}

/// In lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the daemon has too few of is not taken for a full disk.
    #[test]
    fn the_hint_fits_the_error() {
        let error = io::Error::from_raw_os_error;
        for (errno, hint) in [
            (rustix::io::Errno::MFILE, SHORT),
            (rustix::io::Errno::NFILE, SHORT),
            (rustix::io::Errno::NOMEM, SHORT),
            (rustix::io::Errno::NOSPC, "; is the disk full or read-only?"),
            (rustix::io::Errno::ROFS, "; is the disk full or read-only?"),
        ] {
            assert_eq!(not_written(&error(errno.raw_os_error())), hint, "{errno}");
        }
        let unreadable = |errno: rustix::io::Errno| {
            TreeError::Read { path: "a".into(), source: error(errno.raw_os_error()) }.to_string()
        };
        assert!(unreadable(rustix::io::Errno::MFILE).ends_with(SHORT));
        assert!(unreadable(rustix::io::Errno::ACCESS).ends_with("(os error 13)"));
    }
}
