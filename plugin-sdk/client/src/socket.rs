//! Where a supervisor listens when nobody says where.

use std::env;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The socket of a daemon that runs as a system service.
pub const SYSTEM_SOCKET: &str = "/run/palisade/palisade.sock";

/// The environment variable that names the socket.
pub const SOCKET_VARIABLE: &str = "PALISADE_SOCKET";

/// The socket: what `PALISADE_SOCKET` names; else this user's own daemon's, if it is there; else the system's.
#[must_use]
pub fn default_socket() -> PathBuf {
    find_socket().0
}

/// The same, and which would have gone before it and is not there.
pub(crate) fn find_socket() -> (PathBuf, Vec<PathBuf>) {
    if let Some(named) = env::var_os(SOCKET_VARIABLE).filter(|named| !named.is_empty()) {
        return (named.into(), Vec::new());
    }
    match user_socket() {
        Some(own) if own.exists() => (own, Vec::new()),
        own => (SYSTEM_SOCKET.into(), own.into_iter().collect()),
    }
}

/// Where this user's own daemon listens: `$XDG_RUNTIME_DIR/palisade/palisade.sock`, or `/tmp/palisade-UID/palisade.sock` where
/// there is no such directory. `None` when somebody else owns the latter, who might be listening there.
#[must_use]
pub fn user_socket() -> Option<PathBuf> {
    if let Some(runtime) = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute()) {
        return Some(runtime.join("palisade/palisade.sock"));
    }
    let uid = rustix::process::geteuid().as_raw();
    let directory = PathBuf::from(format!("/tmp/palisade-{uid}"));
    is_ours_or_absent(&directory, uid).then(|| directory.join("palisade.sock"))
}

fn is_ours_or_absent(directory: &Path, uid: u32) -> bool {
    directory.symlink_metadata().map_or(true, |found| found.is_dir() && found.uid() == uid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_somebody_else_is_not_trusted() {
        let folder = tempfile::tempdir().unwrap();
        let uid = folder.path().metadata().unwrap().uid();
        assert!(is_ours_or_absent(folder.path(), uid));
        assert!(!is_ours_or_absent(folder.path(), uid + 1));
        assert!(is_ours_or_absent(&folder.path().join("absent"), uid));
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path(), &link).unwrap();
        assert!(!is_ours_or_absent(&link, uid), "whoever made the link could point it elsewhere later");
    }
}
