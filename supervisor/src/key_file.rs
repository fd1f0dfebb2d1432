//! Opens and makes files with keys: who may have one, how long it may be, and what is said of one that will not do.
//!
//! What is in such a file is its reader's matter: a key that seals is `vault`'s, one that signs `trust::keys`'.
//!
//! Invariants: a key is read only from a file that belongs to this user and that nobody else may use, or from where systemd puts
//! credentials; it is written only into a file that was not there before; what was read is wiped when it is dropped.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use zeroize::Zeroizing;

/// No file with a key is longer.
pub const BYTES_MAX: usize = 512;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It cannot be opened or read, or not be made.
    #[error("the key file {path} cannot be used: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others may use it.
    #[error("the key file {path} has the mode {mode:04o}, and others may use it; run `chmod 600` on it", path = .path.display())]
    Open {
        /// Which.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// It is somebody else's.
    #[error("the key file {path} belongs to user {owner}, and this is user {user}", path = .path.display())]
    Foreign {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// It is something else.
    #[error("{path} is no key file: {why}; {kind}", path = .path.display(), kind = .kind.made())]
    Form {
        /// Which.
        path: PathBuf,
        /// What it should have been.
        kind: Kind,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// What is in such a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A key that seals.
    Sealing,
    /// A key that signs.
    Signing,
}

impl Kind {
    fn made(self) -> &'static str {
        match self {
            Self::Sealing => "`head -c 32 /dev/urandom | base64` makes one",
            Self::Signing => "`palisade keygen` makes one",
        }
    }
}

/// Who vouches that nobody else can have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeper {
    /// Its owner and its mode, which are looked at.
    Owner,
    /// systemd: it lies in the folder of credentials of this service, which nobody else can enter, and belongs to whom systemd wants.
    Systemd,
}

/// What is in the file. A link leads to the file that it names, and it is that one which is looked at. Blocks.
///
/// # Errors
/// [`KeyError`]
pub fn read(path: &Path, kind: Kind, keeper: Keeper) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let failed = |source: io::Error| KeyError::File { path: path.to_owned(), source };
    let form = |why| KeyError::Form { path: path.to_owned(), kind, why };
    // Not waiting: it could be a pipe.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file: File = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| failed(error.into()))?.into();
    // Of what is open, so that it is not another file by the time it is read.
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() {
        return Err(form("it is no regular file"));
    }
    if keeper == Keeper::Owner {
        let user = rustix::process::geteuid().as_raw();
        if metadata.uid() != user {
            return Err(KeyError::Foreign { path: path.to_owned(), owner: metadata.uid(), user });
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(KeyError::Open { path: path.to_owned(), mode: metadata.mode() & 0o7777 });
        }
    }
    // Room for all of it at once: a buffer that grows leaves what it had behind, unwiped.
    let mut bytes = Zeroizing::new(Vec::with_capacity(BYTES_MAX + 1));
    file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if BYTES_MAX < bytes.len() {
        return Err(form("it is too long"));
    }
    Ok(bytes)
}

/// Writes a file that nobody else may use, in a folder that is there. A file that is there already stays as it is. Both are on the disk
/// then: what is made with a key may be worth nothing without it. Blocks.
///
/// # Errors
/// [`KeyError::File`]
pub fn create(path: &Path, text: &[u8]) -> Result<(), KeyError> {
    let failed = |source: io::Error| KeyError::File { path: path.to_owned(), source };
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let written = file.write_all(text).and_then(|()| file.sync_all());
    if let Err(error) = written.and_then(|()| File::open(folder)?.sync_all()) {
        // Half a key is none, and would be in the way of the next attempt.
        let _ = fs::remove_file(path);
        return Err(failed(error));
    }
    Ok(())
}

/// Fills it with what nobody can guess.
///
/// # Errors
/// The kernel gives none.
pub fn random(mut buffer: &mut [u8]) -> io::Result<()> {
    while !buffer.is_empty() {
        let filled = rustix::rand::getrandom(&mut *buffer, rustix::rand::GetRandomFlags::empty())?;
        buffer = &mut buffer[filled..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_file_is_read_if_it_is_ours_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        create(&path, b"text").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(read(&path, Kind::Sealing, Keeper::Owner).unwrap().as_slice(), b"text");
        assert!(matches!(create(&path, b"other"), Err(KeyError::File { .. })), "it stays");
        let link = folder.path().join("link");
        symlink(&path, &link).unwrap();
        assert_eq!(read(&link, Kind::Sealing, Keeper::Owner).unwrap().as_slice(), b"text");
        assert!(matches!(create(&link, b"other"), Err(KeyError::File { .. })), "nor through a link");
        for mode in [0o640, 0o604, 0o620, 0o602, 0o610, 0o601] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            for path in [&path, &link] {
                let error = read(path, Kind::Sealing, Keeper::Owner).unwrap_err();
                assert!(matches!(error, KeyError::Open { mode: found, .. } if found == mode), "{error}");
                assert_eq!(read(path, Kind::Signing, Keeper::Systemd).unwrap().as_slice(), b"text");
            }
        }
    }

    #[test]
    fn what_is_no_file_or_too_long_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for length in [0, BYTES_MAX, BYTES_MAX + 1] {
            create(&path, &vec![b'a'; length]).unwrap();
            assert_eq!(read(&path, Kind::Sealing, Keeper::Owner).is_ok(), length <= BYTES_MAX, "{length}");
            fs::remove_file(&path).unwrap();
        }
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, Mode::RWXU).unwrap();
        for path in [folder.path(), &path] {
            assert!(matches!(
                read(path, Kind::Sealing, Keeper::Owner),
                Err(KeyError::Form { why: "it is no regular file", .. })
            ));
        }
        assert!(matches!(read(&folder.path().join("none"), Kind::Sealing, Keeper::Owner), Err(KeyError::File { .. })));
    }

    /// Only root can give a file away; where this is nobody else, there is `/etc/passwd` of root's.
    #[test]
    fn what_belongs_to_somebody_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        create(&path, b"text").unwrap();
        let path = if std::os::unix::fs::chown(&path, Some(65533), None).is_ok() { path } else { "/etc/passwd".into() };
        assert!(matches!(read(&path, Kind::Sealing, Keeper::Owner), Err(KeyError::Foreign { .. })));
    }
}
