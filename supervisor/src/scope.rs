//! `palisaded --scope`: has systemd start this program again in a scope of its own, which is delegated to it.
//!
//! A daemon that is started from a shell shares the shell's cgroup, in which it can limit nothing. systemd gives whoever asks a scope: an
//! ordinary user the user's own manager does, root the system's. `systemd-run --scope` asks for one, enters it and becomes the
//! daemon, with the same process number, terminal and environment.
//!
//! It is tried with a program that does nothing first: what is wrong is then an error of ours, and the daemon is not begun.
//!
//! Invariant: nothing has been started or opened before; [`enter`] returns only with an error.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The flag that is not handed on: the program that is started again is in its scope.
const FLAG: &str = "--scope";

/// Most of what `systemd-run` says that is repeated.
const SAID_CHARS_MAX: usize = 1000;

/// Where systemd shows that it runs this host.
const BOOTED: &str = "/run/systemd/system";

/// Why there is no scope.
#[derive(Debug, thiserror::Error)]
pub enum ScopeError {
    /// Another program runs the host's services.
    #[error("no scope can be had: systemd does not run this host ({BOOTED} is not there)")]
    NoSystemd,
    /// This user's manager cannot be reached.
    #[error("no scope can be had: the user's own systemd cannot be reached: {0}")]
    NoManager(String),
    /// The program that asks for it is not there.
    #[error("no scope can be had: {program} cannot be executed: {source}", program = .program.to_string_lossy())]
    NoProgram {
        /// Which.
        program: OsString,
        /// What the system said.
        source: io::Error,
    },
    /// It was asked for and not given.
    #[error("systemd gives no scope: {0}")]
    Refused(String),
    /// This program cannot be started again.
    #[error("this program cannot be started again: {0}")]
    Itself(io::Error),
}

impl ScopeError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoSystemd => "start it without --scope; `palisade doctor` says what holds then",
            Self::NoManager(_) => {
                "log in as this user rather than by su or sudo, or have its manager run: `loginctl enable-linger USER`"
            }
            Self::NoProgram { .. } => "install systemd's own programs, or start it without --scope",
            Self::Refused(_) => "start it without --scope, or as a service with Delegate=yes",
            Self::Itself(_) => "start it without --scope",
        }
    }
}

/// Becomes the same daemon in a scope of its own.
#[must_use]
pub fn enter() -> ScopeError {
    let manager = if rustix::process::geteuid().is_root() {
        Manager::System
    } else {
        Manager::User { runtime: env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) }
    };
    let asked = Asked { booted: Path::new(BOOTED), manager, program: OsStr::new("systemd-run") };
    let arguments = match asked.arguments() {
        Ok(arguments) => arguments,
        Err(error) => return error,
    };
    if let Err(error) = asked.attempt(&arguments) {
        return error;
    }
    let own = match env::current_exe() {
        Ok(own) => own,
        Err(source) => return ScopeError::Itself(source),
    };
    let mut command = command(asked.program);
    command.args(&arguments).arg("--").arg(own).args(handed_on(env::args_os().skip(1)));
    ScopeError::NoProgram { program: asked.program.to_owned(), source: command.exec() }
}

/// Whom to ask.
enum Manager {
    System,
    User {
        /// Where that user's sockets are.
        runtime: Option<PathBuf>,
    },
}

/// How it is asked for.
struct Asked<'a> {
    booted: &'a Path,
    manager: Manager,
    program: &'a OsStr,
}

impl Asked<'_> {
    /// What `systemd-run` is told, if there is anybody to be asked.
    fn arguments(&self) -> Result<Vec<&'static str>, ScopeError> {
        if !self.booted.is_dir() {
            return Err(ScopeError::NoSystemd);
        }
        let mut arguments = vec!["--scope", "--quiet", "--collect", "--property=Delegate=yes"];
        if let Manager::User { runtime } = &self.manager {
            reach(runtime.as_deref()).map_err(ScopeError::NoManager)?;
            arguments.push("--user");
        }
        Ok(arguments)
    }

    /// Whether that gives a scope.
    fn attempt(&self, arguments: &[&str]) -> Result<(), ScopeError> {
        let tried = command(self.program).args(arguments).args(["--", "true"]).stdin(Stdio::null()).output();
        let output = tried.map_err(|source| ScopeError::NoProgram { program: self.program.to_owned(), source })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String =
            said.trim().chars().filter(|character| !character.is_control()).take(SAID_CHARS_MAX).collect();
        let said = if said.is_empty() { output.status.to_string() } else { said };
        Err(ScopeError::Refused(said))
    }
}

/// Whether a user's manager listens.
fn reach(runtime: Option<&Path>) -> Result<(), String> {
    let runtime = runtime.ok_or("XDG_RUNTIME_DIR is not set")?;
    let sockets = [runtime.join("systemd/private"), runtime.join("bus")];
    let mut why = String::new();
    for socket in sockets {
        match UnixStream::connect(&socket) {
            Ok(_) => return Ok(()),
            Err(error) => why = format!("{}: {error}", socket.display()),
        }
    }
    Err(why)
}

/// The arguments of this program without the flag.
fn handed_on(arguments: impl Iterator<Item = OsString>) -> impl Iterator<Item = OsString> {
    arguments.filter(|argument| argument != FLAG)
}

#[expect(clippy::disallowed_methods, reason = "nothing of the daemon is there yet, and this program becomes it")]
fn command(program: &OsStr) -> Command {
    Command::new(program)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_host_without_systemd_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let booted = folder.path().join("no");
        let asked = Asked { booted: &booted, manager: Manager::System, program: OsStr::new("systemd-run") };
        let error = asked.arguments().unwrap_err();
        assert!(matches!(error, ScopeError::NoSystemd), "{error}");
    }

    #[test]
    fn a_user_without_a_manager_is_told_so_and_root_needs_none() {
        let folder = tempfile::tempdir().unwrap();
        let ask = |manager| Asked { booted: folder.path(), manager, program: OsStr::new("systemd-run") }.arguments();
        let error = ask(Manager::User { runtime: None }).unwrap_err().to_string();
        assert!(error.ends_with("XDG_RUNTIME_DIR is not set"), "{error}");
        let runtime = folder.path().to_owned();
        let error = ask(Manager::User { runtime: Some(runtime.clone()) }).unwrap_err().to_string();
        assert!(error.contains("bus: No such file"), "{error}");
        let _listener = UnixListener::bind(runtime.join("bus")).unwrap();
        assert_eq!(ask(Manager::User { runtime: Some(runtime) }).unwrap().last(), Some(&"--user"));
        assert!(!ask(Manager::System).unwrap().contains(&"--user"));
    }

    #[test]
    fn what_systemd_refuses_and_a_program_that_is_missing_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("systemd-run");
        let attempt = |program: &Path| {
            Asked { booted: folder.path(), manager: Manager::System, program: program.as_os_str() }
                .attempt(&["--scope"])
        };
        let error = attempt(&program).unwrap_err();
        assert!(matches!(error, ScopeError::NoProgram { .. }), "{error}");
        for (script, said) in [
            ("echo 'Failed to start: \u{1b}[31mAccess denied' >&2; exit 1", "Failed to start: [31mAccess denied"),
            ("exit 3", "exit status: 3"),
        ] {
            fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
            let error = attempt(&program).unwrap_err();
            assert_eq!(error.to_string(), format!("systemd gives no scope: {said}"));
        }
        fs::write(&program, "#!/bin/sh\ntest \"$1 $2 $3\" = '--scope -- true'\n").unwrap();
        assert!(attempt(&program).is_ok());
    }

    #[test]
    fn every_argument_but_the_flag_is_handed_on() {
        let given = ["--user", "--scope", "--plugins", "scope"].map(OsString::from);
        assert_eq!(handed_on(given.into_iter()).collect::<Vec<_>>(), ["--user", "--plugins", "scope"]);
    }
}
