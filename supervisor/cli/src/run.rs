//! `palisade run`: becomes the daemon.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use palisade_protocol::ErrorCode;

use crate::failure::Failure;

const DAEMON: &str = "palisaded";

/// The daemon's program: beside this one, as a build or a package leaves it, else the first in PATH.
pub(crate) fn daemon_program() -> Option<PathBuf> {
    let own = std::env::current_exe().ok();
    let beside = own.as_deref().and_then(Path::parent).map(Path::to_owned);
    let path = std::env::var_os("PATH").unwrap_or_default();
    // An empty entry of PATH means the current directory, which is no place to look for a daemon.
    let folders = beside.into_iter().chain(std::env::split_paths(&path).filter(|folder| folder.is_absolute()));
    folders.map(|folder| folder.join(DAEMON)).find(|program| is_program(program))
}

fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Becomes the daemon, with these arguments; returns only when that fails.
pub(crate) fn run(mut arguments: Vec<OsString>, socket: Option<&Path>) -> Failure {
    let Some(program) = daemon_program() else {
        return Failure::code(
            ErrorCode::ResourceNotFound,
            format!("{DAEMON} is neither beside this program nor in PATH"),
        )
        .with_hint("install it, or build it with `make build` and run this program from target/debug");
    };
    if let Some(socket) = socket.filter(|socket| !socket.as_os_str().is_empty())
        && !arguments
            .iter()
            .any(|argument| argument == "--socket" || argument.as_encoded_bytes().starts_with(b"--socket="))
    {
        arguments.extend(["--socket".into(), socket.into()]);
    }
    #[expect(clippy::disallowed_methods, reason = "nothing is started: this process becomes the daemon")]
    let error = Command::new(&program).args(arguments).exec();
    Failure::code(ErrorCode::Internal, format!("{} cannot be executed: {error}", program.display()))
}
