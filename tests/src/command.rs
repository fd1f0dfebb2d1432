//! Starting programs: the one place of this crate that does, and where the built programs are found.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A program to start.
#[expect(clippy::disallowed_methods, reason = "the ban is the daemon's; tests start programs here alone")]
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    Command::new(program)
}

/// The folder that holds the built programs: `PALISADE_BIN_DIR`, or the one of this executable (a test's is `deps/` beneath).
///
/// # Panics
/// When this executable's own path cannot be told.
#[must_use]
pub fn bin_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("PALISADE_BIN_DIR") {
        return dir.into();
    }
    let own = std::env::current_exe().expect("/proc tells an executable its path");
    let dir = own.parent().expect("an executable lies in a folder");
    if dir.ends_with("deps") { dir.parent().expect("deps/ lies in a folder").into() } else { dir.into() }
}

/// The built program of that name.
///
/// # Panics
/// When it was not built, saying how to.
#[must_use]
pub fn built(name: &str) -> PathBuf {
    let path = bin_dir().join(name);
    assert!(
        Path::new(&path).is_file(),
        "{} is missing: run `cargo build --workspace` and `supervisor/launcher/build.sh`, or set PALISADE_BIN_DIR",
        path.display()
    );
    path
}
