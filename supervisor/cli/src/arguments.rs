//! The arguments of every command.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use palisaded::model::trust::{KeyName, Method, Policy};

use crate::limits;
use crate::params::{Assignment, assignment, setting};
use crate::times::{duration, moment_or_ago};

/// Calls plugins, and looks after them.
#[derive(Debug, Parser)]
#[command(
    name = "palisade",
    version,
    disable_version_flag = false,
    max_term_width = 100,
    after_help = "Exit status: 0 done, 1 the action failed, 2 wrong usage, 3 not found, 4 invalid, 5 denied, 6 timeout, 7 the plugin \
                  broke, 8 unavailable, 9 the daemon is not reachable, 70 internal, 130 interrupted. docs/cli.md has all of them."
)]
pub(crate) struct Arguments {
    // The client reads the variable: were it named here, each line of usage would show this option as if it had to be given.
    /// The daemon's socket [env: PALISADE_SOCKET] [default: this user's own daemon's if there is one, else
    /// /run/palisade/palisade.sock]
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,
    /// Print JSON, errors included; one document a line
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the daemon in the foreground
    Run(Run),
    /// Call an action of a plugin
    Call(Box<Call>),
    /// List the plugins
    #[command(visible_alias = "ls")]
    List,
    /// Show how the daemon is, or a plugin
    Status {
        /// PLUGIN or PLUGIN@VERSION
        plugin: Option<String>,
    },
    /// Show what a plugin is and what it can do, or all about one of its actions
    Info {
        /// PLUGIN or PLUGIN@VERSION
        plugin: String,
        /// This action: its parameters and its result; starts a plugin that has not run yet
        action: Option<String>,
        /// Only what confines it, with the evidence
        #[arg(long, conflicts_with_all = ["action", "denied"])]
        sandbox: bool,
        /// Only the system calls that it was refused, where `trace_denials` has them written down
        #[arg(long, conflicts_with = "action")]
        denied: bool,
    },
    /// Show what plugins write
    Logs(Logs),
    /// Show what happens to plugins, as it happens
    Events {
        /// Of this plugin alone, PLUGIN or PLUGIN@VERSION of a version that is there
        plugin: Option<String>,
        /// Follow; events are always followed
        #[arg(short, long)]
        follow: bool,
    },
    /// Start plugins, and keep them running
    Start(Targets),
    /// Let plugins finish their calls, and stop them
    Stop(Stop),
    /// Stop and start plugins
    Restart(Targets),
    /// Freeze plugins; their calls wait
    Pause(Targets),
    /// Thaw plugins
    Resume(Targets),
    /// Change how much a plugin may have, until the daemon ends
    Limit {
        /// PLUGIN or PLUGIN@VERSION
        plugin: String,
        /// memory=256MiB, cpu=25%, pids=64, disk=1GiB, cpu_over=warn or restart
        #[arg(required = true, value_name = "LIMIT=VALUE", value_parser = limits::change)]
        changes: Vec<limits::Change>,
    },
    /// Forget the failures of plugins, so that they may be started again
    Reset(Targets),
    /// Install the package in a folder or in an archive
    Install {
        /// The folder with plugin.json; or a .tar.zst, .tar.gz or .tar of it; or the URL of either, as in file:///srv/echo.tar.zst
        source: PathBuf,
        /// Grant all that it asks for without being asked
        #[arg(long, short)]
        yes: bool,
        /// Start it as well, and wait until it is ready
        #[arg(long)]
        load: bool,
        /// Also a new major version, which may break whoever uses the plugin, without being asked
        #[arg(long)]
        major: bool,
        /// Also where what it depends on is not there
        #[arg(long)]
        force: bool,
    },
    /// Remove installed versions; an archive of each is kept, and their data stay
    Uninstall {
        #[command(flatten)]
        targets: Targets,
        /// Also where others depend on them
        #[arg(long)]
        force: bool,
        /// Keep no archive, and remove the data too, where no other version has them, and all that is remembered of the plugin
        #[arg(long)]
        purge: bool,
    },
    /// Let versions take calls again
    Enable(Targets),
    /// Stop versions, and let them take no calls until they are enabled
    Disable(Targets),
    /// Have newer versions take calls that wait, or install them from where plugins were installed
    Update {
        /// Which; otherwise all that were installed, or of which a newer version waits
        plugin: Option<String>,
        /// Only show which newer versions there are, and what holds them back
        #[arg(long, conflicts_with_all = ["to", "from", "major", "force", "yes"])]
        check: bool,
        /// Just this version
        #[arg(long, value_name = "VERSION", requires = "plugin")]
        to: Option<String>,
        /// The folder, archive or file: URL that has the newer version
        #[arg(long, value_name = "SOURCE", requires = "plugin")]
        from: Option<PathBuf>,
        /// Also a new major version, which may break whoever uses the plugin, without being asked
        #[arg(long)]
        major: bool,
        /// Also where what it depends on is not there
        #[arg(long)]
        force: bool,
        /// Grant all that it asks for without being asked
        #[arg(long, short)]
        yes: bool,
    },
    /// Show what plugins ask for, and what was decided
    Permissions {
        /// PLUGIN or PLUGIN@VERSION; otherwise all that ask for anything
        plugin: Option<String>,
    },
    /// Show the plugins that wait for your consent
    Pending,
    /// Grant a plugin what it asks for, and let it take calls
    Grant {
        /// PLUGIN or PLUGIN@VERSION
        plugin: String,
        /// execute_code, file_read:/srv/data, network_access:api.example.com; otherwise what it asks for is shown, and you are asked
        permissions: Vec<String>,
        /// Grant all that it asks for, and agree to its actions, without being asked
        #[arg(long, short, conflicts_with = "permissions")]
        yes: bool,
        /// Agree to its actions as they are defined now
        #[arg(long, conflicts_with = "yes")]
        definitions: bool,
    },
    /// Take back or refuse what a plugin asks for; it goes on without
    Revoke {
        /// PLUGIN or PLUGIN@VERSION
        plugin: String,
        /// file_read:/srv/data, or file_read for all of its scopes; otherwise everything
        permissions: Vec<String>,
        /// Leave it stopped
        #[arg(long)]
        stop: bool,
        /// Forget all that was said of it instead, so that it is asked for again
        #[arg(long, conflicts_with_all = ["permissions", "stop"])]
        forget: bool,
    },
    /// Look for plugins: all that is given has to hold
    Search(Search),
    /// Show who can do what, or what a plugin can do
    Capabilities {
        /// PLUGIN or PLUGIN@VERSION
        plugin: Option<String>,
    },
    /// Show how plugins are used: installations, calls, errors, how long they took
    Stats {
        /// PLUGIN or PLUGIN@VERSION
        plugin: Option<String>,
    },
    /// Have others be chosen before a version, and whoever uses it be told
    Deprecate {
        /// PLUGIN@VERSION, or PLUGIN where there is one version
        plugin: String,
        /// Why, for whoever uses it
        #[arg(long, value_name = "TEXT", conflicts_with = "undo")]
        reason: Option<String>,
        /// Take that back
        #[arg(long)]
        undo: bool,
    },
    /// Show what a plugin is configured with, or change it while it runs
    Config(Config),
    /// Set what a plugin is given only if it asks for it, and show which there is
    Secret {
        #[command(subcommand)]
        command: Secret,
    },
    /// Show, save, restore and forget what a plugin keeps
    State {
        #[command(subcommand)]
        command: State,
    },
    /// Look into the plugin directories again, and say what has changed
    Rescan,
    /// Give a plugin the package in its folder, once a process of it is active
    Reload {
        /// PLUGIN or PLUGIN@VERSION
        #[arg(required_unless_present = "all")]
        plugin: Option<String>,
        /// All that take calls, those that others depend on first
        #[arg(long, conflicts_with = "plugin")]
        all: bool,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
    },
    /// Show the packages of a plugin that served before
    Backups {
        /// PLUGIN or PLUGIN@VERSION
        plugin: String,
    },
    /// Return to a package of a plugin that served before
    Rollback {
        /// PLUGIN or PLUGIN@VERSION
        plugin: String,
        /// To that of this number; otherwise to the last
        #[arg(long, value_name = "NUMBER")]
        to: Option<u64>,
        /// Also what the plugin kept then; what it has written since is put aside
        #[arg(long)]
        with_state: bool,
    },
    /// Show what was done with plugins, by whom and why
    Audit(Audit),
    /// Make a key to sign packages with, and print what the configuration has to say of it
    Keygen(Keygen),
    /// Write checksum and signature into a package's plugin.json
    Sign(Sign),
    /// Check a package as the daemon would
    Verify(Verify),
    /// Look for what is wrong, with this host and with the daemon
    Doctor,
    /// Look for everything that is wrong with a package; needs no daemon
    Validate {
        /// The package's folder, with its plugin.json
        folder: PathBuf,
        /// A program that lies elsewhere, as after a build, and belongs into the package by the name of its entry point; nothing else of the
        /// folder is looked at then but the icon
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
        /// Execute the entry point, outside of any sandbox, and compare what actions it has with those of plugin.json
        #[arg(long)]
        run: bool,
    },
    /// Write a package into one file, the same bytes for the same package; needs no daemon
    Pack(Pack),
    /// Write the project of a new plugin in Rust; needs no daemon
    New(New),
    /// Print a completion script for a shell
    Completions {
        /// For which shell
        shell: Shell,
    },
    /// Print the versions of the command line and of the daemon
    Version,
}

#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Arguments for palisaded; `palisaded --help` lists them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    pub(crate) arguments: Vec<std::ffi::OsString>,
}

#[derive(Debug, Args)]
pub(crate) struct Search {
    /// Words that id, name, tags, description or actions have, in whatever case
    pub(crate) text: Vec<String>,
    /// A tag
    #[arg(long)]
    pub(crate) tag: Option<String>,
    /// data_processing, model_inference, agent_skill, integration, visualization, monitoring, security or custom
    #[arg(long)]
    pub(crate) capability: Option<String>,
    /// tool, llm_provider, data_source, ui_extension or workflow
    #[arg(long)]
    pub(crate) kind: Option<String>,
    /// A permission that is asked for, such as file_read
    #[arg(long)]
    pub(crate) permission: Option<String>,
    /// A state, such as active, or disabled, or awaits_consent
    #[arg(long)]
    pub(crate) state: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Config {
    /// PLUGIN or PLUGIN@VERSION, by whose schema values are typed and checked
    pub(crate) plugin: String,
    /// What to set: `interval_ms=500`, `server.port=80`, `/a.b/c=text`; typed by the plugin's schema, and `key:=JSON` is JSON in any case
    #[arg(value_name = "KEY=VALUE", value_parser = setting)]
    pub(crate) assignments: Vec<Assignment>,
    /// Take back what was set there, so that palisade.toml or the default holds again
    #[arg(long, value_name = "KEY")]
    pub(crate) unset: Vec<String>,
    /// Take back the last change; again, the one before it
    #[arg(long, conflicts_with_all = ["assignments", "unset"])]
    pub(crate) undo: bool,
    /// Show how it was changed
    #[arg(long, conflicts_with_all = ["assignments", "unset", "undo"])]
    pub(crate) history: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Secret {
    /// Set a secret that a plugin asks for; it is read from stdin, and from a terminal without showing it
    Set {
        /// PLUGIN, or PLUGIN@VERSION of a version that is there: all have it in common
        plugin: String,
        /// What plugin.json calls the secret
        name: String,
    },
    /// Show which secrets a plugin asks for, and which are set
    List {
        /// PLUGIN, or PLUGIN@VERSION of a version that is there: all have it in common
        plugin: String,
    },
    /// Remove a secret
    Remove {
        /// PLUGIN, or PLUGIN@VERSION of a version that is there: all have it in common
        plugin: String,
        /// Which secret
        name: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum State {
    /// Show which keys there are, or what stands under one
    Show {
        /// PLUGIN, or PLUGIN@VERSION of a version that is there: all have it in common
        plugin: String,
        /// This key, with its value
        key: Option<String>,
        /// Only keys that begin so
        #[arg(long, value_name = "TEXT", default_value = "", conflicts_with = "key")]
        prefix: String,
        /// Only keys behind this one, as where there were more than are shown at once
        #[arg(long, value_name = "KEY", conflicts_with = "key")]
        after: Option<String>,
        /// What it kept once: a copy that `palisade backups` lists, by its name or path
        #[arg(long, value_name = "COPY")]
        from: Option<String>,
    },
    /// Print all of it as JSON
    Export {
        /// PLUGIN, or PLUGIN@VERSION of a version that is there: all have it in common
        plugin: String,
        /// What it kept once: a copy that `palisade backups` lists, by its name or path
        #[arg(long, value_name = "COPY")]
        from: Option<String>,
    },
    /// Have a plugin keep what an export says, and nothing else
    Import {
        /// PLUGIN, or PLUGIN@VERSION of a version that is there: all have it in common
        plugin: String,
        /// The export, which the daemon reads; `-` is stdin
        file: PathBuf,
    },
    /// Have a plugin keep nothing any more
    Reset {
        /// PLUGIN, or PLUGIN@VERSION of a version that is there: all have it in common
        plugin: String,
        /// Without being asked
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Keygen {
    /// What the key is to be called
    #[arg(value_parser = KeyName::parse)]
    pub(crate) name: KeyName,
    /// ed25519: a private key to sign with, a public one for the daemon; hmac-sha256: one key that both have
    #[arg(long, default_value = "ed25519", value_parser = str::parse::<Method>)]
    pub(crate) method: Method,
    /// The file to make, which nobody else may read [default: NAME.key]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Sign {
    /// The package's folder
    pub(crate) folder: PathBuf,
    /// A file that `palisade keygen` made
    #[arg(long, short, value_name = "FILE")]
    pub(crate) key: PathBuf,
    /// What the configuration calls the key, if not as it was called when it was made
    #[arg(long, value_name = "NAME", value_parser = KeyName::parse)]
    pub(crate) key_id: Option<KeyName>,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// The package's folder
    pub(crate) folder: PathBuf,
    /// The daemon's configuration, with the keys that are trusted [default: the usual one of this user's daemon]
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// What has to hold: none, checksum or signature [default: what the configuration requires of that folder]
    #[arg(long, value_parser = str::parse::<Policy>)]
    pub(crate) policy: Option<Policy>,
}

/// The result is printed as JSON, a text as itself; nothing for no result. What an action streams is printed as it comes: items one
/// JSON a line, bytes as they are. Binary values stand in JSON as {"$base64": "…"}.
#[derive(Debug, Args)]
pub(crate) struct Call {
    /// PLUGIN or PLUGIN@VERSION, the version as in `^1.2`
    pub(crate) plugin: String,
    /// Which action
    pub(crate) action: String,
    /// Parameters, typed by the action's schema; `key:=JSON` is JSON in any case
    #[arg(value_name = "KEY=VALUE", value_parser = assignment)]
    pub(crate) assignments: Vec<Assignment>,
    /// All parameters as JSON, from a file (@FILE) or from stdin (-); each KEY=VALUE goes over them
    #[arg(long, short, value_name = "JSON|@FILE|-", allow_hyphen_values = true)]
    pub(crate) params: Option<String>,
    /// How long it may take: 5s, 250ms, 2min [default: what the plugin allows]
    #[arg(long, short, value_name = "TIME", value_parser = duration)]
    pub(crate) timeout: Option<Duration>,
    /// Feed the action's input stream from a file or from stdin (-): bytes as they are, items one JSON a line
    #[arg(long, short, value_name = "FILE|-", allow_hyphen_values = true)]
    pub(crate) input: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct New {
    /// The plugin's id
    pub(crate) name: String,
    /// Where to, a folder that is not there or is empty [default: a folder of that name]
    #[arg(long, value_name = "DIR")]
    pub(crate) path: Option<PathBuf>,
    /// Where the sources of palisade-sdk are [default: ../palisade/plugin-sdk, in a clone beside the project]
    #[arg(long, value_name = "DIR")]
    pub(crate) sdk: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Pack {
    /// The package's folder, with its plugin.json
    #[arg(default_value = ".")]
    pub(crate) folder: PathBuf,
    /// The archive to write [default: ID-VERSION.tar.zst]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    /// The program, where it is built elsewhere: it becomes the entry point, and of the folder only plugin.json and the icon are packed
    #[arg(long, value_name = "FILE")]
    pub(crate) program: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// Of this plugin alone, PLUGIN or PLUGIN@VERSION of a version that is there
    pub(crate) plugin: Option<String>,
    /// Go on with new lines as they come
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// How many of the latest lines
    #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
    pub(crate) lines: u32,
    /// Only lines that matter at least so much
    #[arg(long, value_name = "LEVEL", value_parser = ["trace", "debug", "info", "warn", "error"])]
    pub(crate) level: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Audit {
    /// Of this plugin alone, which need not be there any more
    pub(crate) plugin: Option<String>,
    /// Since then: 2h, 30min, 2026-11-20, or 2026-11-20T19:27:37Z (UTC)
    #[arg(long, value_name = "WHEN", value_parser = moment_or_ago)]
    pub(crate) since: Option<u64>,
    /// Before the entry of this number
    #[arg(long, value_name = "NUMBER")]
    pub(crate) before: Option<u64>,
    /// How many of the latest, at most 1000 [default: 100, and 1000 with --since]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub(crate) limit: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct Targets {
    /// PLUGIN or PLUGIN@VERSION
    #[arg(required = true, value_name = "PLUGIN")]
    pub(crate) plugins: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    pub(crate) targets: Targets,
    /// Do not wait for calls under way
    #[arg(long)]
    pub(crate) force: bool,
}

/// `PLUGIN@VERSION` in its parts.
pub(crate) fn split_target(target: &str) -> (&str, Option<&str>) {
    match target.split_once('@') {
        Some((plugin, version)) => (plugin, Some(version)),
        None => (target, None),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
        assert_eq!(split_target("echo"), ("echo", None));
        assert_eq!(split_target("echo@^1.2"), ("echo", Some("^1.2")));
    }

    #[test]
    fn every_command_is_documented() {
        let page = include_str!("../../../docs/cli.md");
        for command in Arguments::command().get_subcommands() {
            assert!(
                page.contains(&format!("`palisade {}", command.get_name())),
                "{} in docs/cli.md",
                command.get_name()
            );
        }
    }

    #[test]
    fn what_follows_run_is_passed_on() {
        let parse = |line: &str| Arguments::try_parse_from(line.split(' ')).unwrap();
        let Command::Run(run) = parse("palisade run --plugins a --socket b --json").command else { panic!() };
        assert_eq!(run.arguments, ["--plugins", "a", "--socket", "b", "--json"]);
        let arguments = parse("palisade --socket s run --user");
        assert_eq!(arguments.socket.as_deref(), Some("s".as_ref()));
        let Command::Run(run) = arguments.command else { panic!() };
        assert_eq!(run.arguments, ["--user"]);
    }
}
