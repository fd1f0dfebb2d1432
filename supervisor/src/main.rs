//! `palisaded`: arguments, and `daemon::run`.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use palisaded::config::{Config, ConfigError, Overrides};
use palisaded::daemon::{self, DaemonError};
use palisaded::scope;
use palisaded::telemetry::{self, LogFormat};

/// Runs the tools of AI agents as isolated, supervised child processes.
#[derive(Debug, Parser)]
#[command(name = "palisaded", version, about)]
struct Arguments {
    /// The configuration file [default: /etc/palisade/palisade.toml, or palisade/palisade.toml in the user's configuration folder]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve this user, even as root: state, sockets and plugins in the user's own folders
    #[arg(long)]
    user: bool,
    /// A folder that holds plugin folders; may be given several times, the first has precedence
    #[arg(long, value_name = "DIR")]
    plugins: Vec<PathBuf>,
    /// Where snapshots and the plugins' data are kept
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where the socket is made
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// The agent socket [default: palisade.sock in the runtime folder]
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Ask systemd for a cgroup of its own first, in which plugins have limits: for a daemon that is not started as a service
    #[arg(long)]
    scope: bool,
    /// In which form to log; PALISADE_LOG says how much
    #[arg(long, value_enum, default_value = "text")]
    log: Log,
    /// The launcher [default: palisade-launcher beside this program, or in ../lib/palisade or ../libexec/palisade]
    #[arg(long, value_name = "FILE", hide = true)]
    launcher: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Log {
    Text,
    Json,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let log = telemetry::begin(match arguments.log {
        Log::Text => LogFormat::Text,
        Log::Json => LogFormat::Json,
    });
    if let Err(error) = log {
        return fail(&error, Some("docs/configuration.md says what it may be"), EXIT_CONFIGURATION);
    }
    let overrides = Overrides {
        config: arguments.config,
        user: arguments.user,
        plugins: arguments.plugins,
        state_directory: arguments.state_dir,
        runtime_directory: arguments.runtime_dir,
        socket: arguments.socket,
    };
    let config = match Config::load(overrides, rustix::process::geteuid().as_raw()) {
        Ok(config) => config,
        Err(error) => {
            let hint = match error {
                ConfigError::Wrong { .. } => Some("docs/configuration.md lists every key"),
                ConfigError::Read { .. } => {
                    Some("make it a file that this user can read, or give another one with --config")
                }
                ConfigError::NoPath { .. } | ConfigError::NoHome { .. } => None,
            };
            return fail(&error, hint, EXIT_CONFIGURATION);
        }
    };
    // With a configuration that can be used, and before anything is there.
    if arguments.scope {
        let error = scope::enter();
        return fail(&error, Some(error.hint()), EXIT_UNAVAILABLE);
    }
    let launcher = arguments.launcher.unwrap_or_else(default_launcher);
    // One thread does everything that waits: on the call path another would cost a wake-up and win nothing.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, None, EXIT_INTERNAL),
    };
    match runtime.block_on(daemon::run(config, &launcher)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let status = match &error {
                _ if error.is_configuration() => EXIT_CONFIGURATION,
                DaemonError::StateInUse { .. }
                | DaemonError::Listen(_)
                | DaemonError::Host(_)
                | DaemonError::Packages(_)
                | DaemonError::Runtimes(_) => EXIT_UNAVAILABLE,
                _ => EXIT_INTERNAL,
            };
            fail(&error, error.hint(), status)
        }
    }
}

/// As for the command line: something that was given is wrong.
const EXIT_CONFIGURATION: u8 = 4;
/// The daemon cannot be had at the moment, or on this host.
const EXIT_UNAVAILABLE: u8 = 8;
/// Palisade itself failed.
const EXIT_INTERNAL: u8 = 70;

fn fail(error: &dyn std::fmt::Display, hint: Option<&str>, status: u8) -> ExitCode {
    eprintln!("palisaded: error: {error}");
    if let Some(hint) = hint {
        eprintln!("palisaded: hint: {hint}");
    }
    ExitCode::from(status)
}

/// Beside this program, as a build leaves it, or where a package puts it.
fn default_launcher() -> PathBuf {
    const NAME: &str = "palisade-launcher";
    let folder = std::env::current_exe().ok().and_then(|exe| exe.parent().map(PathBuf::from)).unwrap_or_default();
    let beside = folder.join(NAME);
    let installed = ["../lib/palisade", "../libexec/palisade"].map(|below| folder.join(below).join(NAME));
    installed.into_iter().find(|path| path.is_file() && !beside.is_file()).unwrap_or(beside)
}
