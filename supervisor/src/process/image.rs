//! The launcher's program, read once and sealed, so that every start executes the same bytes.
//!
//! An upgrade that replaces the file under a running daemon changes nothing until the daemon restarts; and what was
//! checked at the start of the daemon is what runs later.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{MemfdFlags, Mode, OFlags, SealFlags},
    io::Errno,
};

/// The launcher is about half a mebibyte; what is larger than this is something else.
const LAUNCHER_BYTES_MAX: u64 = 16 << 20;

/// How every program for Linux begins.
const ELF_MAGIC: &[u8] = b"\x7fELF";

/// The launcher's program in memory.
#[derive(Debug)]
pub struct LauncherImage {
    file: OwnedFd,
}

/// Why the launcher cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file is not there, or cannot be read.
    #[error("cannot read the launcher {}: {source}; it is installed beside palisaded, and supervisor/launcher/build.sh builds it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is something else.
    #[error("{} is not the launcher: {reason}; install palisade-launcher from the same build as palisaded", path.display())]
    NotALauncher {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// It is a program, and not the launcher of this build.
    #[error("{} cannot be used as the launcher: {reason}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What became of it.
        reason: String,
    },
    /// This host does not let a program be kept in memory and executed from there.
    #[error(
        "cannot seal the launcher in memory while {doing}: {source}; palisaded needs memory files that may be executed (sysctl vm.memfd_noexec below 2) and /proc"
    )]
    Unsealable {
        /// What was tried.
        doing: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl LauncherImage {
    /// Reads and seals the launcher at `path`.
    pub fn load(path: &Path) -> Result<Self, ImageError> {
        let bytes = read(path)?;
        let unsealable = |doing: &'static str| move |source: io::Error| ImageError::Unsealable { doing, source };

        let mut writable = File::from(make_memory_file().map_err(|errno| unsealable("making the file")(errno.into()))?);
        writable.write_all(&bytes).map_err(unsealable("writing it"))?;
        rustix::fs::fcntl_add_seals(
            &writable,
            SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
        )
        .map_err(|errno| unsealable("sealing it")(errno.into()))?;
        // A descriptor that was opened for writing keeps the file from being executed, seals or not.
        let file = rustix::fs::open(
            format!("/proc/self/fd/{}", writable.as_raw_fd()),
            OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(|errno| unsealable("opening it again through /proc")(errno.into()))?;
        Ok(Self { file })
    }

    /// A path under which this process, and a child between its clone and its exec, can execute the program.
    pub(super) fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.file.as_raw_fd())
    }

    /// The bytes that are executed, for their digest.
    pub fn bytes(&self) -> io::Result<Vec<u8>> {
        let file = File::from(self.file.try_clone()?);
        let mut bytes = vec![0; usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?];
        file.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

impl AsFd for LauncherImage {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, ImageError> {
    let unreadable = |source| ImageError::Unreadable { path: path.to_owned(), source };
    let not_a_launcher = |reason| ImageError::NotALauncher { path: path.to_owned(), reason };
    // Not blocking, in case the path names a pipe that nobody writes to.
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())
        .map_err(|errno| unreadable(errno.into()))?;
    let file = File::from(file);
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(not_a_launcher("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    file.take(LAUNCHER_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if LAUNCHER_BYTES_MAX < bytes.len() as u64 {
        return Err(not_a_launcher("it is larger than 16 MiB"));
    }
    if !bytes.starts_with(ELF_MAGIC) {
        return Err(not_a_launcher("it is not an ELF program"));
    }
    Ok(bytes)
}

fn make_memory_file() -> Result<OwnedFd, Errno> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    match rustix::fs::memfd_create("palisade-launcher", flags | MemfdFlags::EXEC) {
        // Before Linux 6.3 every memory file may be executed and the flag is unknown.
        Err(Errno::INVAL) => rustix::fs::memfd_create("palisade-launcher", flags),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_launcher_is_named_with_what_to_do() {
        let error = LauncherImage::load(Path::new("/nonexistent/palisade-launcher")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/nonexistent/palisade-launcher") && text.contains("build.sh"), "{text}");
    }

    #[test]
    fn what_is_no_program_is_no_launcher() {
        for (path, reason) in [("/etc", "not a regular file"), ("/etc/passwd", "not an ELF program")] {
            let error = LauncherImage::load(Path::new(path)).unwrap_err();
            assert!(matches!(error, ImageError::NotALauncher { .. }), "{error}");
            assert!(error.to_string().contains(reason), "{error}");
        }
    }

    #[test]
    fn a_loaded_image_holds_the_same_bytes_and_cannot_be_written() {
        let path = std::env::current_exe().unwrap();
        let image = match LauncherImage::load(&path) {
            Ok(image) => image,
            // A test program can exceed the bound; any other small program does as well.
            Err(_) => LauncherImage::load(Path::new("/bin/true")).unwrap(),
        };
        assert!(image.bytes().unwrap().starts_with(ELF_MAGIC));
        let reopened = rustix::fs::open(image.path(), OFlags::WRONLY, Mode::empty())
            .and_then(|file| rustix::io::write(&file, b"x"));
        assert_eq!(reopened, Err(Errno::PERM));
    }
}
