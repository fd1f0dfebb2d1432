//! The supervisor's own operations: calls to the reserved id `palisade`, and the values they answer with.
//!
//! The types here are read tolerantly, as a newer supervisor may say more and an older one less: unknown fields are ignored and
//! absent ones have defaults. Whoever wants all that came calls the operation with `serde_json::Value` as its result.

use std::collections::BTreeMap;
use std::path::Path;

use palisade_protocol::{ActionInfo, Guarantee, GuaranteeState, Level};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{CallError, Client, FromPayload, Items, Request};

/// The supervisor's operations; see [`Client::admin`].
#[derive(Debug, Clone, Copy)]
pub struct Admin<'a> {
    client: &'a Client,
}

/// Which plugin an operation concerns.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Target<'a> {
    /// Its id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<&'a str>,
    /// Which versions; absent: the one that serves, or the highest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a str>,
}

impl<'a> From<&'a str> for Target<'a> {
    fn from(plugin: &'a str) -> Self {
        Self { plugin: Some(plugin), version: None }
    }
}

/// An operation that changes what a plugin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Start it, and keep it running.
    Start,
    /// Let it finish its calls, and stop it.
    Stop,
    /// Stop it without waiting for its calls.
    ForceStop,
    /// Stop and start it.
    Restart,
    /// Freeze it.
    Pause,
    /// Thaw it.
    Resume,
    /// Forget its failures, so that it may be started again.
    Reset,
    /// Let it take calls again.
    Enable,
    /// Stop it, and let it take no calls until it is enabled.
    Disable,
}

impl Change {
    /// The operation's name.
    #[must_use]
    pub const fn operation(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop | Self::ForceStop => "stop",
            Self::Restart => "restart",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Reset => "reset",
            Self::Enable => "enable",
            Self::Disable => "disable",
        }
    }
}

/// Which log lines are wanted.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct LogQuery<'a> {
    /// Of which plugin; absent: of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<&'a str>,
    /// How many of the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// Whether to go on with new ones as they come.
    pub follow: bool,
    /// Only lines that matter so much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
}

#[derive(Serialize)]
struct Force<'a> {
    #[serde(flatten)]
    target: Target<'a>,
    force: bool,
}

#[derive(Serialize)]
struct Describe<'a> {
    #[serde(flatten)]
    target: Target<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    action: Option<&'a str>,
}

#[derive(Serialize)]
struct EventQuery<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    plugin: Option<&'a str>,
}

#[derive(Serialize)]
struct Nothing {}

impl<'a> Admin<'a> {
    pub(crate) fn new(client: &'a Client) -> Self {
        Self { client }
    }

    /// The request for any operation, for a timeout or a result of another type.
    pub fn request(&self, operation: &'a str, params: &impl Serialize) -> Request<'a> {
        self.client.operation(operation, params)
    }

    /// All plugins.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn list(&self) -> Result<Vec<PluginSummary>, CallError> {
        self.listing().await.map(|listing| listing.plugins)
    }

    /// All plugins, and the packages that cannot be used.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn listing(&self) -> Result<Listing, CallError> {
        self.request("list", &Nothing {}).call().await
    }

    /// The daemon itself.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn daemon(&self) -> Result<DaemonStatus, CallError> {
        self.request("status", &Nothing {}).call().await
    }

    /// One plugin.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn status(&self, target: impl Into<Target<'a>>) -> Result<PluginStatus, CallError> {
        self.request("status", &target.into()).call().await
    }

    /// All that is known of one plugin.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn info(&self, target: impl Into<Target<'a>>) -> Result<PluginInfo, CallError> {
        self.request("info", &target.into()).call().await
    }

    /// The actions of a plugin, or one of them, with their schemas. It starts a plugin whose actions are not known yet.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn describe(
        &self,
        target: impl Into<Target<'a>>,
        action: Option<&str>,
    ) -> Result<Vec<ActionInfo>, CallError> {
        #[derive(Deserialize)]
        struct Actions {
            #[serde(default)]
            actions: Vec<ActionInfo>,
        }
        let params = Describe { target: target.into(), action };
        let actions: Actions = self.request("describe", &params).call().await?;
        Ok(actions.actions)
    }

    /// Changes what a plugin does, and returns once it does.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn change(&self, change: Change, target: impl Into<Target<'a>>) -> Result<PluginStatus, CallError> {
        let target = target.into();
        let request = match change {
            Change::ForceStop => self.request(change.operation(), &Force { target, force: true }),
            _ => self.request(change.operation(), &target),
        };
        request.call().await
    }

    /// Installs the package in a folder or in an archive, which is not needed afterwards. The daemon reads it, so the path has to be
    /// absolute; it may be a `file:` URL as well. `force` also where what it depends on is not there.
    ///
    /// # Errors
    /// Any [`CallError`]; nothing is installed then.
    pub async fn install(&self, path: &Path, force: bool) -> Result<Installation, CallError> {
        #[derive(Serialize)]
        struct Install<'a> {
            path: &'a Path,
            force: bool,
        }
        self.request("install", &Install { path, force }).call().await
    }

    /// Removes an installed version, and returns once no process of it is left. `force` also where others depend on it.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn uninstall(&self, target: impl Into<Target<'a>>, force: bool) -> Result<Removal, CallError> {
        self.request("uninstall", &Force { target: target.into(), force }).call().await
    }

    /// The same, and what the plugin leaves goes too: its data, and what is remembered of it. Where other versions are there, that is
    /// theirs and stays.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn purge(&self, target: impl Into<Target<'a>>, force: bool) -> Result<Removal, CallError> {
        #[derive(Serialize)]
        struct Purge<'a> {
            #[serde(flatten)]
            target: Target<'a>,
            force: bool,
            purge: bool,
        }
        self.request("uninstall", &Purge { target: target.into(), force, purge: true }).call().await
    }

    /// Log lines, as they were written. Endless when they are followed.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn logs(&self, query: &LogQuery<'_>) -> Result<Items<LogLine>, CallError> {
        self.logs_as(query).await
    }

    /// Log lines as something else: [`Raw`](crate::Raw), or a type of the caller's.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn logs_as<T: FromPayload>(&self, query: &LogQuery<'_>) -> Result<Items<T>, CallError> {
        self.request("logs", query).items().await
    }

    /// What happens to plugins, from now on. Endless.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn events(&self, plugin: Option<&str>) -> Result<Items<Event>, CallError> {
        self.events_as(plugin).await
    }

    /// Events as something else: [`Raw`](crate::Raw), or a type of the caller's.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn events_as<T: FromPayload>(&self, plugin: Option<&str>) -> Result<Items<T>, CallError> {
        self.request("events", &EventQuery { plugin }).items().await
    }

    /// What this host can and cannot do for plugins.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn doctor(&self) -> Result<Vec<Check>, CallError> {
        #[derive(Deserialize)]
        struct Checks {
            #[serde(default)]
            checks: Vec<Check>,
        }
        let checks: Checks = self.request("doctor", &Nothing {}).call().await?;
        Ok(checks.checks)
    }

    /// Stops every plugin and the daemon.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn shutdown(&self) -> Result<(), CallError> {
        self.request("shutdown", &Nothing {}).call::<crate::Raw>().await.map(|_| ())
    }
}

/// One line of `list`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginSummary {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its name for people.
    pub name: String,
    /// Whether its operator lets it take calls.
    #[serde(default = "by_default")]
    pub enabled: bool,
    /// `discovered`, `loaded`, `initialized`, `active`, `paused`, `stopping`, `stopped`, `failed` or `unloaded`.
    pub state: String,
    /// When it entered the state, in milliseconds since the epoch.
    pub since_unix_ms: u64,
    /// The process that has the route, or is on its way to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Automatic restarts since the daemon knows it.
    pub restarts: u64,
    /// Calls under way.
    pub calls_in_flight: u32,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// One version of one plugin.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginStatus {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its name for people.
    pub name: String,
    /// Whether its operator lets it take calls.
    #[serde(default = "by_default")]
    pub enabled: bool,
    /// As in [`PluginSummary::state`].
    pub state: String,
    /// Why it is in this state, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it entered the state, in milliseconds since the epoch.
    pub since_unix_ms: u64,
    /// The process that has the route, or is on its way to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// Every process there is of it.
    pub generations: Vec<GenerationStatus>,
    /// Automatic restarts since the daemon knows it.
    pub restarts: u64,
    /// When the next one is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart_in_ms: Option<u64>,
    /// Too many restarts: it stays failed until somebody starts or resets it.
    pub quarantined: bool,
    /// Its last end that nobody asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Dossier>,
    /// What it is confined less by than it should, as the operator bears: a sentence for each control.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// The controls that are not enforced on this host.
    pub not_enforced: Vec<NotEnforced>,
    /// Its calls.
    pub calls: CallCounters,
}

impl PluginStatus {
    /// Whether it takes calls.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.state == "active"
    }

    /// The process id of the serving generation, as the host has it.
    #[must_use]
    pub fn process_id(&self) -> Option<u32> {
        let serving = self.generations.iter().find(|one| Some(one.generation) == self.generation);
        serving.and_then(|one| one.process_id)
    }
}

/// What was installed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Installation {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// The digest of its snapshot, in hexadecimal.
    pub digest: String,
    /// Just that was installed already, or lies in a plugin directory, and nothing was done.
    pub was_there: bool,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Removal {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Plugins that depended on it and are without it now, as `id version`.
    pub broken: Vec<String>,
    /// The folder of its data, where that stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The archive of it that is kept, from which it can be installed again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<String>,
    /// Whether everything of the plugin is gone.
    pub purged: bool,
}

/// A plugin is enabled unless somebody has disabled it.
fn by_default() -> bool {
    true
}

/// A control that holds less than it could, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotEnforced {
    /// Which: `memory`, `landlock`, …
    pub control: String,
    /// How far it holds.
    pub state: GuaranteeState,
    /// Why not further.
    pub reason: String,
}

/// One process of a plugin.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GenerationStatus {
    /// Its number, never reused.
    pub generation: u64,
    /// `serving`, `candidate` or `retired`.
    pub role: String,
    /// `starting`, `loaded`, `initialized`, `active`, `paused`, `draining`, `stopping` or `gone`.
    pub phase: String,
    /// When it entered the phase, in milliseconds since the epoch.
    pub since_unix_ms: u64,
    /// Its process id, as the host has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub process_id: Option<u32>,
    /// How long it took from the beginning of its launch to its hello.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hello_after_us: Option<u64>,
    /// Whether its launcher was made before it was needed.
    #[serde(default)]
    pub prepared: bool,
    /// Calls under way.
    pub calls_in_flight: u32,
    /// The age of the oldest call, as the plugin said in its last pong.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_call_ms: Option<u64>,
}

/// The calls of one plugin since the daemon knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CallCounters {
    /// Under way.
    pub in_flight: u32,
    /// Not begun yet.
    pub waiting: u32,
    /// Ended well.
    pub ok: u64,
    /// Ended with an error of the plugin's.
    pub errors: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Too late.
    pub timed_out: u64,
    /// Failed with their process.
    pub crashed: u64,
    /// Turned away at once.
    pub refused: u64,
}

impl CallCounters {
    /// All calls that were taken.
    #[must_use]
    pub fn total(&self) -> u64 {
        let ended = [self.ok, self.errors, self.cancelled, self.timed_out, self.crashed, self.refused];
        ended.iter().fold(u64::from(self.in_flight) + u64::from(self.waiting), |sum, n| sum.saturating_add(*n))
    }

    /// Those that ended otherwise than well, cancelled ones not counted.
    #[must_use]
    pub fn failed(&self) -> u64 {
        [self.errors, self.timed_out, self.crashed, self.refused].iter().fold(0, |sum, n| sum.saturating_add(*n))
    }
}

/// What is known about the end of a process that nobody asked for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Dossier {
    /// Which process.
    pub generation: u64,
    /// When, in milliseconds since the epoch.
    pub at_unix_ms: u64,
    /// A sentence: what happened.
    pub reason: String,
    /// How it ended: `{"code": 1}`, `{"signal": {"number": 11, "core": false}}`, `"launcher_lost"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Value>,
    /// The last lines it wrote to stderr, oldest first.
    pub last_stderr: Vec<String>,
    /// Calls that were under way.
    pub calls_in_flight: u32,
}

/// What `info` knows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PluginInfo {
    /// Its status.
    pub status: PluginStatus,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where the package was found.
    pub source: String,
    /// What is executed.
    pub entry_point: String,
    /// What executes that, if the manifest names it: `name`, `exec` and `sha256`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Value>,
    /// The immutable copy that runs: its digest and path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<Value>,
    /// The bounds it runs within.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<Value>,
    /// Its actions, once they are known.
    pub actions: Vec<ActionInfo>,
    /// The system calls that its process was refused, if they are written down for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub denied: Option<Vec<Refusal>>,
    /// What it may do beyond the default.
    pub permissions: Vec<String>,
    /// What confines it.
    pub guarantees: Vec<Guarantee>,
    /// What the manifest had that this daemon does not know.
    pub warnings: Vec<String>,
}

/// A system call that a plugin was refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Refusal {
    /// Its name, or its number where it has none.
    pub call: String,
    /// The name of the error that it got.
    pub errno: String,
    /// How often.
    pub count: u64,
    /// Its arguments the first time.
    pub arguments: Vec<u64>,
    /// The permission with which it would be allowed, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission: Option<String>,
    /// Why it is refused.
    pub reason: String,
}

/// The daemon itself.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DaemonStatus {
    /// Its version.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// When it started, in milliseconds since the epoch.
    pub started_unix_ms: u64,
    /// For how long it has run, in milliseconds.
    pub uptime_ms: u64,
    /// Where it listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Where it keeps its state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_directory: Option<String>,
    /// How many plugins are in which state.
    pub plugins: BTreeMap<String, u64>,
    /// How many packages cannot be used.
    pub rejected: u64,
}

/// What `list` knows.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Listing {
    /// The plugins.
    pub plugins: Vec<PluginSummary>,
    /// Packages that cannot be used.
    pub rejected: Vec<Rejected>,
}

/// A package that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rejected {
    /// Its folder.
    pub path: String,
    /// Why not.
    pub reason: String,
}

/// One log line.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLine {
    /// When, in milliseconds since the epoch.
    pub time_unix_ms: u64,
    /// Whose; always there but with `missed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// Of which process; always there but with `missed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// `stdout`, `stderr`, `log` or `supervisor`.
    pub stream: String,
    /// How much it matters; always there but with `missed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// The line.
    pub message: String,
    /// More, for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fields: Option<Value>,
    /// The call it belongs to: the id that it has towards the plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
    /// Not a line, but how many were missed here because they came faster than they were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// When, in milliseconds since the epoch.
    pub time_unix_ms: u64,
    /// What: `state_changed`, `generation_failed`, …
    pub kind: String,
    /// To which plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<String>,
    /// In which version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// To which process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u64>,
    /// The state before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// The state after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Not an event, but how many were missed here because they came faster than they were read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub missed: Option<u64>,
    /// What else is said of it.
    #[serde(flatten)]
    pub more: BTreeMap<String, Value>,
}

/// One finding of `doctor`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was looked at.
    pub name: String,
    /// How it is.
    pub state: CheckState,
    /// A sentence.
    #[serde(default)]
    pub summary: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// How a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckState {
    /// As it should be.
    Ok,
    /// It works, with something missing.
    Warn,
    /// It does not work.
    Fail,
}
