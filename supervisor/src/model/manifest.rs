//! `plugin.json`: what a plugin says about itself.
//!
//! Reading it never trusts it: its size, its numbers and its texts are bounded here, and its entry point stays inside the
//! package. Every error is reported, not only the first, each with the path of the field, what stands there and what may.
//! A key that this daemon does not know is a warning with its path, so that a manifest for a later one still loads.
//!
//! Elsewhere: whether the entry point exists is for `store` and `trust`; what a plugin may do is not asked here but
//! granted; whether its program has the actions that are listed here shows when it is ready, in `plugin::actions`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use palisade_protocol::{PROTOCOL, VersionRange};
use semver::Version;

use super::generation::Timing;
use super::guarantee::Control;
use super::ids::{ActionName, Instance, PluginId};
use super::limits::LOG_KIB_PER_SECOND_MIN;
use super::overdue::{MISSED_GRACES_MAX, OnOverdue};
use super::permission::grants::{self, Asked, Extent};
use super::restart::{INTENSITY_MAX, RestartMode, RestartPolicy};
use super::specifier::Specifier;
use super::status::clip;
use super::trust::{Checksum, KeyName, Method, Signature, SignedAt};
use super::{version, watchdog};

mod about;
mod actions;
mod json;
mod needs;
mod read;

pub use about::{About, Capability, Kind};
pub use actions::{ActionSettings, Example, Stream, Streaming};
pub use json::Json;
pub use needs::{Dependency, Events, PermissionRequest, SecretRequest};

use read::{Problems, Table, Text};

/// A manifest is read whole, and into memory.
pub const MANIFEST_BYTES_MAX: usize = 1024 * 1024;

/// All that is wrong is told at once; beyond so many errors something else is wrong.
pub const PROBLEMS_MAX: usize = 64;

/// A plugin with more actions than an agent could be told of is not meant.
pub const ACTIONS_MAX: usize = 1000;

const ARGUMENTS_MAX: usize = 64;

const ARGUMENT_BYTES_MAX: usize = 4096;

/// No time in a manifest is longer than this.
pub const TIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);

/// A manifest whose every field is within its bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    pub id: PluginId,
    /// For people; the id is for everything else.
    pub name: String,
    pub version: Version,
    pub description: Option<String>,
    /// For people, too.
    pub about: About,
    /// The executable, beneath the package's folder.
    pub entry_point: PackagePath,
    /// What the entry point is executed with, after its own name.
    pub args: Vec<String>,
    /// The name of a configured interpreter that runs the entry point.
    pub runtime: Option<String>,
    /// Which versions of the protocol it speaks.
    pub protocol: VersionRange,
    /// What the manifest says about its actions.
    pub actions: BTreeMap<ActionName, ActionSettings>,
    pub limits: Limits,
    pub activation: Activation,
    pub restart: RestartPolicy,
    pub environment: BTreeMap<String, String>,
    pub on_pause: OnPause,
    /// No two processes of it may run at once: one whose package is exchanged stops first.
    pub exclusive: bool,
    pub on_overdue: OnOverdue,
    pub watchdog: watchdog::Settings,
    /// Between the cancellation of a call and giving it up.
    pub cancel_grace: Duration,
    pub dependencies: BTreeMap<PluginId, Dependency>,
    /// Shared libraries that it needs from the host, by the names of their files.
    pub libraries: Vec<String>,
    /// Which versions of this daemon will do.
    pub host: Option<Specifier>,
    /// What it wants beyond the default. What it gets is the operator's decision.
    pub permissions: Asked,
    /// The same as it is shown to whoever decides, secrets included.
    pub permission_requests: Vec<PermissionRequest>,
    /// The secrets among them.
    pub secrets: Vec<SecretRequest>,
    /// What the operator's configuration for it has to fit.
    pub configuration_schema: Option<Json>,
    /// The version of the state that it keeps, if it keeps any.
    pub state_schema: Option<u32>,
    pub events: Events,
    /// Whether it may be used without somebody having enabled it.
    pub default_enabled: bool,
    /// Controls without which it is not to be started.
    pub require: Vec<Control>,
    /// The digest that the rest of the package is to have.
    pub checksum: Option<Checksum>,
    /// Who says so.
    pub signature: Option<Signature>,
}

impl Manifest {
    /// Reads the bytes of a `plugin.json`.
    pub fn parse(bytes: &[u8]) -> Result<(Self, Vec<Warning>), ManifestError> {
        if MANIFEST_BYTES_MAX < bytes.len() {
            return Err(ManifestError::TooLarge);
        }
        let (value, twice) = palisade_protocol::parse_json_noting(bytes).map_err(|error| ManifestError::Syntax {
            line: error.line(),
            column: error.column(),
            why: strip_place(error.to_string()),
        })?;
        let serde_json::Value::Object(fields) = value else {
            return Err(ManifestError::NotAnObject { found: read::kind(&value) });
        };
        let mut problems = Problems::default();
        for path in twice {
            problems.error(FieldError::Twice { path });
        }
        let manifest = read_manifest(Table::root(&fields, &mut problems));
        let Problems { errors, warnings, .. } = problems;
        match manifest {
            Some(manifest) if errors.is_empty() => Ok((manifest, warnings)),
            _ => Err(ManifestError::Fields { errors }),
        }
    }

    pub fn instance(&self) -> Instance {
        Instance { id: self.id.clone(), version: self.version.clone() }
    }

    /// What the manifest says about an action, or what holds for one that it does not mention.
    pub fn action(&self, name: &str) -> ActionSettings {
        self.actions.get(name).cloned().unwrap_or_default()
    }

    /// The times that a generation is given.
    pub fn timing(&self) -> Timing {
        Timing {
            start_timeout: self.limits.start_timeout,
            start_extended_max: START_EXTENDED_MAX.max(self.limits.start_timeout),
            stop_grace: self.limits.stop_grace,
            watchdog: self.watchdog,
            on_overdue: self.on_overdue,
            ..Timing::default()
        }
    }
}

/// A plugin that asks for more time at its start gets at most this, or its start timeout where that is longer.
pub const START_EXTENDED_MAX: Duration = Duration::from_secs(120);

/// A path beneath the package's folder: relative, without `.` and `..`, in the one form there is of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PackagePath(String);

/// As long as Linux allows a path to be.
const PATH_BYTES_MAX: usize = 4095;

impl PackagePath {
    const ALLOWED: &str = "a relative path beneath the package's folder, such as bin/tool, without `.` and `..`";

    pub fn parse(text: &str) -> Option<Self> {
        let parts_are_plain = text.split('/').all(|part| !matches!(part, "" | "." | "..") && part.len() <= 255);
        let fits = text.len() <= PATH_BYTES_MAX && !text.chars().any(char::is_control);
        (parts_are_plain && fits).then(|| Self(text.to_owned()))
    }

    /// The same, with the sentence for what is none.
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| format!("it has to be {}", Self::ALLOWED))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PackagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// How much of everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Calls at once.
    pub concurrency: u32,
    /// Calls that wait for their turn.
    pub queue: u32,
    pub call_timeout: Duration,
    pub start_timeout: Duration,
    pub drain_timeout: Duration,
    /// Between SIGTERM and SIGKILL.
    pub stop_grace: Duration,
    pub resources: Resources,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrency: 16,
            queue: 64,
            call_timeout: Duration::from_secs(30),
            start_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            stop_grace: Duration::from_secs(5),
            resources: Resources::default(),
        }
    }
}

/// What the sandbox holds a plugin to. What is absent has the sandbox's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Resources {
    pub memory_mib: Option<u64>,
    /// Of one core; 200 is two cores.
    pub cpu_percent: Option<u64>,
    pub pids: Option<u64>,
    pub open_files: Option<u64>,
    pub file_size_mib: Option<u64>,
    pub disk_mib: Option<u64>,
    pub log_kib_per_second: Option<u64>,
}

/// When a plugin is started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// With the first call; stopped again after so long without one, if at all.
    Lazy { idle_stop: Option<Duration> },
    /// With the daemon.
    Eager,
}

/// What becomes of calls to a paused plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnPause {
    /// They wait within their deadlines.
    Wait,
    Refuse,
}

/// Something that does no harm now, and is perhaps not meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The place in the manifest, as in `limits.memory_mb`.
    pub path: String,
    pub message: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Why a manifest is not one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// How large it is nobody has read.
    #[error("the manifest has more than 1 MiB, which is the most that is allowed")]
    TooLarge,
    #[error("the manifest is not JSON: line {line}, column {column}: {why}")]
    Syntax { line: usize, column: usize, why: String },
    #[error("the manifest is {found}; it has to be a JSON object")]
    NotAnObject { found: &'static str },
    #[error("{}", join(.errors))]
    Fields { errors: Vec<FieldError> },
}

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldError {
    #[error("`{path}` is missing; it has to be {allowed}")]
    Missing { path: String, allowed: String },
    #[error("`{path}` is {value}; it has to be {allowed}")]
    Wrong { path: String, value: String, allowed: String },
    /// A text that has rules of its own, which know better what is wrong with it.
    #[error("`{path}` is {value}: {why}")]
    Refused { path: String, value: String, why: String },
    /// Which of the two values is meant nobody can tell.
    #[error("`{path}` stands there twice; leave one of them out")]
    Twice { path: String },
    #[error("there are more errors than these {PROBLEMS_MAX}")]
    More,
}

impl FieldError {
    /// The place in the manifest, if it is about one.
    pub fn path(&self) -> Option<&str> {
        match self {
            Self::Missing { path, .. }
            | Self::Wrong { path, .. }
            | Self::Refused { path, .. }
            | Self::Twice { path } => Some(path),
            Self::More => None,
        }
    }
}

fn join(errors: &[FieldError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// The crate ends its messages with the place, which is said already.
fn strip_place(message: String) -> String {
    message.rfind(" at line ").map_or(message.clone(), |place| message[..place].to_owned())
}

/// Reads every field, so that every error is found; None only where one is missing that has no default.
fn read_manifest(mut root: Table<'_, '_>) -> Option<Manifest> {
    root.ignore("$schema");
    let id = root.parsed("id", "a plugin id, such as file-search", PluginId::parse);
    let name = root.text("name", Text::line(128));
    let version = root.parsed("version", "a SemVer version, such as 1.4.0", version::parse);
    let description = root.text_if_any("description", Text::lines(4096));
    let about = about::read(&mut root);
    let entry_point = root.parsed("entry_point", PackagePath::ALLOWED, PackagePath::read);
    let args = read_arguments(&mut root);
    let runtime = root.text_if_any("runtime", Text::line(64));
    let protocol = read_protocol(&mut root);
    let (mut permissions, mut permission_requests) = needs::permissions(&mut root);
    let secrets = needs::secrets(&mut root);
    permissions.secret = Extent::These(secrets.iter().map(|secret| secret.name.clone()).collect());
    permission_requests.extend(secrets.iter().map(|secret| PermissionRequest {
        permission: grants::SECRET,
        scope: Some(vec![secret.name.to_string()]),
        reason: secret.reason.clone(),
    }));
    let asked: BTreeSet<&'static str> = permission_requests.iter().map(|request| request.permission).collect();
    let actions = actions::read(&mut root, &asked);
    let limits = read_limits(&mut root);
    let activation = read_activation(&mut root);
    let restart = read_restart(&mut root);
    let environment = read_environment(&mut root);
    let on_pause =
        root.choice("on_pause", &[("wait", OnPause::Wait), ("refuse", OnPause::Refuse)]).unwrap_or(OnPause::Wait);
    let exclusive = root.boolean("exclusive").unwrap_or(false);
    let on_overdue = read_on_overdue(&mut root);
    let watchdog = read_watchdog(&mut root);
    let cancel_grace = root.seconds("cancel_grace_seconds", SHORT).unwrap_or(Duration::from_secs(2));
    let needs::Dependencies { plugins: dependencies, libraries, host } = needs::dependencies(&mut root);
    let (configuration_schema, _) = actions::schema(&mut root, "configuration_schema");
    let state_schema = read_state(&mut root);
    let events = needs::events(&mut root);
    let default_enabled = root.boolean("default_enabled").unwrap_or(true);
    let require = root.set("require", CONTROLS_MAX, |place| place.parsed("the name of a control", Control::named));
    let checksum = read_checksum(&mut root);
    let signature = read_signature(&mut root);
    root.warn_about_the_rest();
    Some(Manifest {
        id: id?,
        name: name?,
        version: version?,
        description,
        about,
        entry_point: entry_point?,
        args,
        runtime,
        protocol,
        actions,
        limits,
        activation,
        restart,
        environment,
        on_pause,
        exclusive,
        on_overdue,
        watchdog,
        cancel_grace,
        dependencies,
        libraries,
        host,
        permissions,
        permission_requests,
        secrets,
        configuration_schema,
        state_schema,
        events,
        default_enabled,
        require,
        checksum,
        signature,
    })
}

/// Times that stand between an operator and the end of a plugin.
const SHORT: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(600));

/// More controls than there are.
const CONTROLS_MAX: usize = 64;

/// Times that only a plugin's own work depends on.
const LONG: (Duration, Duration) = (Duration::from_millis(1), TIME_MAX);

fn read_arguments(root: &mut Table<'_, '_>) -> Vec<String> {
    let mut arguments = Vec::new();
    root.each("args", "a list of texts", ARGUMENTS_MAX, |place| {
        let Some(argument) = place.text(Text::lines(ARGUMENT_BYTES_MAX).or_empty()) else { return };
        if argument.starts_with("--palisade-") {
            place.refuse(&"arguments that begin with --palisade- ask a program about itself, and are no plugin's own");
        }
        arguments.push(argument);
    });
    arguments
}

fn read_protocol(root: &mut Table<'_, '_>) -> VersionRange {
    let Some(mut table) = root.table("protocol") else { return PROTOCOL };
    let number = |table: &mut Table<'_, '_>, key, default| {
        table.number(key, 1, u64::from(u16::MAX)).and_then(|n| u16::try_from(n).ok()).unwrap_or(default)
    };
    let min = number(&mut table, "min", PROTOCOL.min);
    let max = number(&mut table, "max", min.max(PROTOCOL.max));
    if max < min {
        table.wrong("max", "not below `min`");
    }
    table.warn_about_the_rest();
    VersionRange { min, max }
}

fn read_state(root: &mut Table<'_, '_>) -> Option<u32> {
    let mut table = root.table("state")?;
    let version = table.number("schema_version", 1, u64::from(u32::MAX)).and_then(|n| u32::try_from(n).ok());
    table.warn_about_the_rest();
    version
}

fn read_limits(root: &mut Table<'_, '_>) -> Limits {
    let defaults = Limits::default();
    let Some(mut table) = root.table("limits") else { return defaults };
    let limits = Limits {
        concurrency: table.number("concurrency", 1, 1024).map_or(defaults.concurrency, |n| n as u32),
        queue: table.number("queue", 0, 65_536).map_or(defaults.queue, |n| n as u32),
        call_timeout: table.seconds("call_timeout_seconds", LONG).unwrap_or(defaults.call_timeout),
        start_timeout: table.seconds("start_timeout_seconds", SHORT).unwrap_or(defaults.start_timeout),
        drain_timeout: table.seconds("drain_timeout_seconds", SHORT).unwrap_or(defaults.drain_timeout),
        stop_grace: table.seconds("stop_grace_seconds", SHORT).unwrap_or(defaults.stop_grace),
        resources: Resources {
            memory_mib: table.number("memory_mib", 8, 1 << 24),
            cpu_percent: table.number("cpu_percent", 1, 1 << 20),
            pids: table.number("pids", 1, 1 << 22),
            open_files: table.number("open_files", 16, 1 << 20),
            file_size_mib: table.number("file_size_mib", 1, 1 << 30),
            disk_mib: table.number("disk_mib", 1, 1 << 30),
            log_kib_per_second: table.number("log_kib_per_second", LOG_KIB_PER_SECOND_MIN, 1 << 30),
        },
    };
    table.warn_about_the_rest();
    limits
}

fn read_activation(root: &mut Table<'_, '_>) -> Activation {
    const LAZY: Activation = Activation::Lazy { idle_stop: None };
    const NAMES: [(&str, Activation); 2] = [("lazy", LAZY), ("eager", Activation::Eager)];
    if !root.is_table("activation") {
        return root.choice("activation", &NAMES).unwrap_or(LAZY);
    }
    let Some(mut table) = root.table("activation") else { return LAZY };
    let mode = table.choice("mode", &NAMES).unwrap_or(LAZY);
    let idle_stop = table.seconds("idle_stop_seconds", LONG);
    let activation = match mode {
        Activation::Lazy { .. } => Activation::Lazy { idle_stop },
        Activation::Eager => {
            if idle_stop.is_some() {
                table.warn("idle_stop_seconds", "has no effect on a plugin that is started eagerly");
            }
            Activation::Eager
        }
    };
    table.warn_about_the_rest();
    activation
}

fn read_restart(root: &mut Table<'_, '_>) -> RestartPolicy {
    const NAMES: [(&str, RestartMode); 3] =
        [("always", RestartMode::Always), ("on-failure", RestartMode::OnFailure), ("never", RestartMode::Never)];
    let defaults = RestartPolicy::default();
    if !root.is_table("restart") {
        return RestartPolicy { mode: root.choice("restart", &NAMES).unwrap_or(defaults.mode), ..defaults };
    }
    let Some(mut table) = root.table("restart") else { return defaults };
    let millis = |read: Option<u64>, default| read.map_or(default, Duration::from_millis);
    let initial = table.number("backoff_initial_ms", 1, 3_600_000);
    let maximum = table.number("backoff_max_ms", 1, 3_600_000);
    let policy = RestartPolicy {
        mode: table.choice("policy", &NAMES).unwrap_or(defaults.mode),
        backoff_initial: millis(initial, defaults.backoff_initial),
        backoff_max: millis(maximum, defaults.backoff_max),
        intensity: table.number("intensity", 0, u64::from(INTENSITY_MAX)).map_or(defaults.intensity, |n| n as u32),
        window: table.seconds("window_seconds", LONG).unwrap_or(defaults.window),
        jitter: table.share("jitter").unwrap_or(defaults.jitter),
    };
    if policy.backoff_max < policy.backoff_initial {
        table.wrong(
            if maximum.is_some() { "backoff_max_ms" } else { "backoff_initial_ms" },
            "such that backoff_initial_ms is not above backoff_max_ms (200 and 30000 unless given)",
        );
    }
    table.warn_about_the_rest();
    policy
}

fn read_environment(root: &mut Table<'_, '_>) -> BTreeMap<String, String> {
    /// The kernel takes far more; a plugin's configuration does not belong here.
    const VARIABLES_MAX: usize = 256;
    const RULE: &str = "letters, digits and `_`, not beginning with a digit";
    let mut environment = BTreeMap::new();
    let Some(mut table) = root.table("environment") else { return environment };
    if !table.at_most(VARIABLES_MAX) {
        return environment;
    }
    for key in table.keys() {
        let name = table.key(&key, |name| {
            let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !plain || name.is_empty() || name.as_bytes()[0].is_ascii_digit() || 128 < name.len() {
                return Err(format!("the name of a variable consists of {RULE}"));
            }
            if name.starts_with("PALISADE_") {
                return Err("variables that begin with PALISADE_ are set by the daemon alone".to_owned());
            }
            // What the loader reads from the environment is code that nobody verified.
            if name.starts_with("LD_") || name == "GCONV_PATH" {
                return Err("variables that direct the loader are not allowed".to_owned());
            }
            Ok(name.to_owned())
        });
        let value = table.text(&key, Text::lines(32 * 1024).or_empty());
        if let (Some(name), Some(value)) = (name, value) {
            environment.insert(name, value);
        }
    }
    environment
}

fn read_on_overdue(root: &mut Table<'_, '_>) -> OnOverdue {
    let defaults = OnOverdue::default();
    let Some(mut table) = root.table("on_overdue") else { return defaults };
    let settings = OnOverdue {
        missed_graces: table
            .number("missed_graces", 1, u64::from(MISSED_GRACES_MAX))
            .map_or(defaults.missed_graces, |n| n as u32),
        window: table.seconds("window_seconds", LONG).unwrap_or(defaults.window),
    };
    table.warn_about_the_rest();
    settings
}

fn read_watchdog(root: &mut Table<'_, '_>) -> watchdog::Settings {
    const BOUNDS: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3600));
    let defaults = watchdog::Settings::default();
    let Some(mut table) = root.table("watchdog") else { return defaults };
    let settings = watchdog::Settings {
        interval: table.seconds("interval_seconds", BOUNDS).unwrap_or(defaults.interval),
        timeout: table.seconds("timeout_seconds", BOUNDS).unwrap_or(defaults.timeout),
    };
    table.warn_about_the_rest();
    settings
}

fn read_checksum(root: &mut Table<'_, '_>) -> Option<Checksum> {
    let mut table = root.table("checksum")?;
    let algorithm = table.parsed("algorithm", "\"sha256\"", |name| match name {
        "sha256" => Ok(()),
        _ => Err("it has to be \"sha256\""),
    });
    let value = table.parsed("value", Checksum::ALLOWED, Checksum::parse);
    table.warn_about_the_rest();
    algorithm.and(value)
}

fn read_signature(root: &mut Table<'_, '_>) -> Option<Signature> {
    let mut table = root.table("signature")?;
    let method = table.parsed("method", "\"ed25519\" or \"hmac-sha256\"", str::parse::<Method>);
    let key_id = table.parsed("key_id", KeyName::ALLOWED, KeyName::parse);
    let value = table.parsed("value", Signature::ALLOWED, Signature::parse_value);
    let signed_at = table.parsed("signed_at", SignedAt::ALLOWED, SignedAt::parse);
    table.warn_about_the_rest();
    Some(Signature { method: method?, key_id: key_id?, value: value?, signed_at: signed_at? })
}

#[cfg(test)]
mod tests;
