//! The socket itself: made, locked, taken over from a daemon that died, and removed.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use tokio::net::UnixListener;

use crate::config::Config;

/// Longest path of a socket: 108 bytes in the kernel's structure, the last of which is zero.
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How often the lock is taken anew because whoever had it before removed its file.
const LOCK_TRIES_MAX: u32 = 16;

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("another palisaded serves {path} already; stop it first, or give this one another --socket", path = .path.display())]
    Served {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{path} is there and is not a socket; move it away, or give another --socket", path = .path.display())]
    InTheWay {
        /// What.
        path: PathBuf,
    },
    /// Nothing can be made where there is no folder.
    #[error("the socket {path} cannot be made: the folder {folder} does not exist; create it, or give another --socket", path = .path.display(), folder = .folder.display())]
    NoFolder {
        /// The socket.
        path: PathBuf,
        /// The folder that it should lie in.
        folder: PathBuf,
    },
    /// The kernel has no room for so long a path.
    #[error("the path of the socket {path} has {bytes} bytes, and {SOCKET_PATH_BYTES_MAX} is the most that the kernel takes; give a shorter --socket or `socket`, or set XDG_RUNTIME_DIR to a shorter folder", path = .path.display())]
    TooLong {
        /// The socket.
        path: PathBuf,
        /// What it has.
        bytes: usize,
    },
    /// The system says no.
    #[error("the socket {path} cannot be {what}: {source}", path = .path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket that is listened on. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    pub(super) listener: UnixListener,
    pub(super) path: PathBuf,
    /// Held for as long as the socket is served; its end is what makes a left-over socket recognisable without a race.
    _lock: SocketLock,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Nobody else can have put another one there meanwhile: they would need the lock.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The right to serve a socket: a file beside it, locked. It is removed, while it is still locked, when this is dropped.
#[derive(Debug)]
struct SocketLock {
    _file: std::fs::File,
    path: PathBuf,
}

impl SocketLock {
    fn take(socket: &Path) -> Result<Self, ListenError> {
        let system = |source| ListenError::System { path: socket.to_owned(), what: "locked", source };
        let served = || ListenError::Served { path: socket.to_owned() };
        // Added to the whole name: other sockets in the folder have locks of their own, and no socket is its own lock.
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        for _ in 0..LOCK_TRIES_MAX {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                // Whoever can open it can hold the lock.
                .mode(0o600)
                .open(&path)
                .map_err(|source| match socket.parent() {
                    // The lock is made, so it is the folder that is not found.
                    Some(folder) if source.kind() == io::ErrorKind::NotFound => {
                        ListenError::NoFolder { path: socket.to_owned(), folder: folder.to_owned() }
                    }
                    _ => system(source),
                })?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(served()),
                Err(errno) => return Err(system(errno.into())),
            }
            // It may be the file of one that has ended meanwhile; others lock the one that has the name now.
            let own = file.metadata().map_err(system)?;
            match std::fs::symlink_metadata(&path) {
                Ok(named) if (named.dev(), named.ino()) == (own.dev(), own.ino()) => {
                    return Ok(Self { _file: file, path });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(system(error)),
            }
        }
        Err(served())
    }
}

impl Drop for SocketLock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens on the configured socket. What a dead daemon left there is taken over.
///
/// # Errors
/// [`ListenError`]
pub fn listen(config: &Config) -> Result<Listener, ListenError> {
    let path = config.socket.as_path();
    let system = |what| move |source| ListenError::System { path: path.to_owned(), what, source };
    let bytes = path.as_os_str().len();
    if SOCKET_PATH_BYTES_MAX < bytes {
        return Err(ListenError::TooLong { path: path.to_owned(), bytes });
    }
    let lock = SocketLock::take(path)?;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => {
            if !metadata.file_type().is_socket() {
                return Err(ListenError::InTheWay { path: path.to_owned() });
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ListenError::Served { path: path.to_owned() });
            }
            tracing::info!(socket = %path.display(), "taking over the socket of a daemon that died");
            std::fs::remove_file(path).map_err(system("taken over"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(system("looked at")(error)),
    }
    // From the first moment on, nobody else may connect; who may is checked again for each connection.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = Listener { listener: bound.map_err(system("made"))?, path: path.to_owned(), _lock: lock };
    let mode = match config.socket_group {
        Some(group) => {
            std::os::unix::fs::chown(path, None, Some(group)).map_err(system("given to its group"))?;
            0o660
        }
        // A file has one group, and these have none in common: the kernel lets everybody knock, and we look who it is.
        None if !config.allowed_uids.is_empty() => 0o666,
        None => return Ok(listener),
    };
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(system("opened to others"))?;
    Ok(listener)
}
