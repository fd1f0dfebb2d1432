//! What `status`, `list` and `info` show: plain values, ready to be written as JSON or MessagePack.
//!
//! These are the words of the outside. Times are milliseconds since the epoch, since an `Instant` means nothing elsewhere.
//! Everything that came from a plugin is bounded and escaped before it is kept here.
//!
//! Elsewhere: the machines' own states are in `generation` and `plugin`; the actor fills these in.

use std::collections::VecDeque;
use std::fmt;
use std::path::PathBuf;

use palisade_protocol::GuaranteeState;
use semver::Version;
use serde::{Deserialize, Serialize};

use super::exit::Exit;
use super::ids::{ActionName, Generation, PluginId, SecretName};
use super::updates::{Held, Offer};

/// The nine names that users see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PluginState {
    /// A valid manifest is known; nothing runs.
    Discovered,
    /// A process exists and has said hello.
    Loaded,
    /// It accepted its configuration.
    Initialized,
    /// It takes calls.
    Active,
    /// It is frozen.
    Paused,
    /// It drains, or is being ended.
    Stopping,
    /// No process is left.
    Stopped,
    /// It ended by its own fault, or could not be started.
    Failed,
    /// It is gone from memory.
    Unloaded,
}

impl PluginState {
    pub const ALL: [Self; 9] = [
        Self::Discovered,
        Self::Loaded,
        Self::Initialized,
        Self::Active,
        Self::Paused,
        Self::Stopping,
        Self::Stopped,
        Self::Failed,
        Self::Unloaded,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Discovered => "discovered",
            Self::Loaded => "loaded",
            Self::Initialized => "initialized",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Unloaded => "unloaded",
        }
    }
}

impl fmt::Display for PluginState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// One version of one plugin, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginStatus {
    pub id: PluginId,
    pub version: Version,
    pub name: String,
    /// Whether its operator lets it take calls.
    pub enabled: bool,
    /// Whether it takes none before an operator has said something about what it asks for.
    pub awaits_consent: bool,
    /// What it depends on and cannot have: it is not started meanwhile. A sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
    /// Why no process can have its configuration, if none can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub misconfigured: Option<String>,
    /// Somebody has said that it is better not used any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<Deprecation>,
    /// Why it takes no calls, where that is because it is an update that waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// The newer version that waits for an operator, while this one serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<Offer>,
    /// The package in its folder, where that is another one and is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<PassedOver>,
    /// Another package that is being tried beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// What it is taken back for if it fails, where it was given its package not long ago.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probation: Option<Probation>,
    /// The file with what it kept until another state took its place, the youngest of those; said where just this plugin is asked about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_aside: Option<PathBuf>,
    pub state: PluginState,
    /// Why it is in this state, where that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When it entered the state.
    pub since_unix_ms: u64,
    /// The one that has the route, or is on its way to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// Every process there is of it: serving, candidate, and those that drain.
    pub generations: Vec<GenerationStatus>,
    /// Automatic restarts since the daemon knows it, or since it was reset.
    pub restarts: u64,
    /// When the next one is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_in_ms: Option<u64>,
    /// Too many restarts; it stays failed until somebody starts or resets it.
    pub quarantined: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<Dossier>,
    /// What this host confines it less by than it should, as the operator bears: a sentence for each control.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub degraded: Vec<String>,
    /// Why what it keeps cannot be used, as far as that was noticed: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_trouble: Option<String>,
    /// Secrets that it was granted and cannot do without, and that nobody has set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets_not_set: Vec<SecretName>,
    /// The controls that are not enforced on this host.
    #[serde(default)]
    pub not_enforced: Vec<NotEnforced>,
    pub calls: CallCounters,
}

/// A package that is not used, while the one before serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// The digest of its snapshot.
    pub digest: String,
    /// Its version, where it does not lie in the folder of what serves, but is that of a newer version beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<Version>,
    /// Why: a sentence.
    pub reason: String,
    /// Since when.
    pub at_unix_ms: u64,
}

impl PassedOver {
    /// One in the folder of what serves.
    pub fn new(digest: String, reason: String, at_unix_ms: u64) -> Self {
        Self { digest, version: None, reason, at_unix_ms }
    }

    /// Whether it lies in the folder of what serves.
    pub fn is_in_its_folder(&self) -> bool {
        self.version.is_none()
    }
}

/// A package that is being tried, while the one before serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trial {
    pub version: Version,
    /// The digest of its snapshot.
    pub digest: String,
    pub since_unix_ms: u64,
    #[serde(skip)]
    pub lies: Lies,
}

/// Where a package lies that is being tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Lies {
    /// In the folder of what serves.
    InItsFolder,
    /// Elsewhere: in that of another version, or in the store alone.
    #[default]
    Elsewhere,
}

/// Until when a failure leads back, and to what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probation {
    pub until_unix_ms: u64,
    /// The version before.
    pub version: Version,
    /// And the digest of its snapshot.
    pub digest: String,
    /// The file with what the plugin kept until then, which is returned to as well; nothing where both use the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<PathBuf>,
}

/// That a version is better not used any more: it takes calls, and others are chosen before it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deprecation {
    pub at_unix_ms: u64,
    /// `uid:0`, or whoever else it was.
    pub by: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A control that holds less than it could, or not at all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NotEnforced {
    pub control: String,
    pub state: GuaranteeState,
    pub reason: String,
}

/// One line of `list`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginSummary {
    pub id: PluginId,
    pub version: Version,
    pub name: String,
    /// Whether its operator lets it take calls.
    pub enabled: bool,
    /// Whether it takes none before an operator has said something about what it asks for.
    pub awaits_consent: bool,
    /// What it depends on and cannot have: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
    /// Whether somebody has said that it is better not used any more.
    pub deprecated: bool,
    /// Whether it takes no calls as it is an update that waits.
    pub held: bool,
    /// The newer version that waits for an operator, while this one serves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub update: Option<Version>,
    /// The package in its folder, where that is another one and is not used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<PassedOver>,
    pub state: PluginState,
    /// Why it is in this state or is held, where that is not plain: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    pub since_unix_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    pub restarts: u64,
    pub calls_in_flight: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What `info` shows: the status, and what the plugin says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginInfo {
    pub status: PluginStatus,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Where the package was found.
    pub source: String,
    pub entry_point: String,
    pub actions: Vec<ActionInfo>,
    /// What the manifest had that this daemon does not know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One action, with the schemas that the plugin named when it became ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ActionInfo {
    pub name: ActionName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<serde_json::Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<serde_json::Value>,
    #[serde(default)]
    pub idempotent: bool,
    #[serde(default)]
    pub endless: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What one process is to its plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Serving,
    Candidate,
    Retired,
}

/// The launchers that are made before they are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreparedLaunchers {
    /// How many are wanted.
    pub wanted: usize,
    /// How many wait for a start.
    pub ready: usize,
    /// Why the last one could not be made, or did not stay.
    pub problem: Option<String>,
}

/// One process, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GenerationStatus {
    pub generation: Generation,
    pub role: Role,
    /// The state of its machine: `starting`, `loaded`, `initialized`, `active`, `paused`, `draining`, `stopping`, `gone`.
    pub phase: String,
    pub since_unix_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process_id: Option<u32>,
    /// How long it took from the beginning of its launch to its hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hello_after_us: Option<u64>,
    /// Whether its launcher was made before it was needed.
    pub prepared: bool,
    pub calls_in_flight: u32,
    /// The age of the oldest call, as the plugin itself said in its last pong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oldest_call_ms: Option<u64>,
}

/// The calls of one plugin since the daemon knows it. Every call that was taken is in exactly one of the outcomes or in
/// flight or waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct CallCounters {
    pub in_flight: u32,
    pub waiting: u32,
    pub ok: u64,
    pub errors: u64,
    pub cancelled: u64,
    pub timed_out: u64,
    pub crashed: u64,
    /// Turned away at once: queue full, stopped, quarantined.
    pub refused: u64,
}

/// What is known about the end of a generation that nobody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dossier {
    pub generation: Generation,
    pub at_unix_ms: u64,
    /// A sentence: what happened.
    pub reason: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// The last lines it wrote to stderr, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub last_stderr: Vec<String>,
    pub calls_in_flight: u32,
}

/// A dossier holds so many lines of stderr.
pub const STDERR_LINES_MAX: usize = 20;

/// Of each of them, so many bytes.
pub const STDERR_LINE_BYTES_MAX: usize = 400;

/// The last lines of stderr of a process that runs, for the dossier of its end.
#[derive(Debug, Clone, Default)]
pub struct StderrTail(VecDeque<String>);

impl StderrTail {
    /// Keeps a line, clipped and without control characters, and forgets the oldest.
    pub fn push(&mut self, line: &str) {
        if self.0.len() == STDERR_LINES_MAX {
            self.0.pop_front();
        }
        self.0.push_back(clip(line, STDERR_LINE_BYTES_MAX));
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }
}

/// At most so many bytes of a text that came from outside, with control characters escaped; what is left out is marked.
pub fn clip(text: &str, bytes_max: usize) -> String {
    const MARK: char = '…';
    let mut clipped = String::with_capacity(text.len().min(bytes_max));
    for character in text.chars() {
        let before = clipped.len();
        if character.is_control() && character != '\t' {
            clipped.extend(character.escape_default());
        } else {
            clipped.push(character);
        }
        if bytes_max < clipped.len() {
            clipped.truncate(before);
            while bytes_max < clipped.len() + MARK.len_utf8() && clipped.pop().is_some() {}
            if MARK.len_utf8() <= bytes_max {
                clipped.push(MARK);
            }
            break;
        }
    }
    clipped
}

/// As much is shown of a name that nobody knows.
const NAME_SHOWN_BYTES_MAX: usize = 200;

/// A name from outside as messages have it: in quotes, escaped, and cut where it is longer than a message should be.
pub fn quoted(name: &str) -> String {
    let cut = name.floor_char_boundary(NAME_SHOWN_BYTES_MAX);
    let mark = if cut < name.len() { "…" } else { "" };
    format!("\"{}{mark}\"", name[..cut].escape_debug())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::updates::{By, Kind};
    use super::*;

    #[test]
    fn the_nine_names_are_the_same_in_text_and_in_json() {
        for state in PluginState::ALL {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{state}\""));
        }
    }

    #[test]
    fn the_tail_keeps_the_last_lines_bounded() {
        let mut tail = StderrTail::default();
        for n in 0..100 {
            tail.push(&format!("{n}{}", "x".repeat(1000)));
        }
        let lines = tail.lines();
        assert_eq!(lines.len(), STDERR_LINES_MAX);
        assert!(lines[0].starts_with("80x") && lines[19].starts_with("99x"));
        assert!(lines.iter().all(|line| line.len() <= STDERR_LINE_BYTES_MAX && line.ends_with('…')));
    }

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(clip("a\x1b[31m\tb\n", 100), "a\\u{1b}[31m\tb\\n");
        assert_eq!(clip("abcdef", 6), "abcdef");
        assert_eq!(clip("abcdefg", 6), "abc…");
        assert_eq!(clip("abc", 2), "");
    }

    #[test]
    fn a_name_is_quoted_and_cut() {
        assert_eq!(quoted("ec\"ko\n"), r#""ec\"ko\n""#);
        assert_eq!(quoted(&"x".repeat(200)), format!("{:?}", "x".repeat(200)));
        assert_eq!(quoted(&"x".repeat(32 << 10)), format!("\"{}…\"", "x".repeat(200)));
        assert_eq!(quoted(&format!("x{}", "ä".repeat(100))), format!("\"x{}…\"", "ä".repeat(99)), "whole characters");
    }

    proptest! {
        #[test]
        fn clipping_never_exceeds_its_bound(text in any::<String>(), bytes_max in 0..50usize) {
            prop_assert!(clip(&text, bytes_max).len() <= bytes_max);
        }
    }

    #[test]
    fn a_status_survives_json() {
        let status = PluginStatus {
            id: PluginId::parse("echo").unwrap(),
            version: Version::new(1, 2, 3),
            name: "Echo".into(),
            enabled: true,
            awaits_consent: false,
            lacks: None,
            misconfigured: None,
            deprecated: Some(Deprecation { at_unix_ms: 3, by: "uid:0".into(), reason: None }),
            held: Some(Held { by: By::Major, reason: "it is a new major version".into() }),
            update: Some(Offer { version: Version::new(2, 0, 0), kind: Kind::Major }),
            passed_over: None,
            trial: None,
            probation: None,
            state_aside: None,
            state: PluginState::Failed,
            reason: Some("killed by SIGSEGV".into()),
            since_unix_ms: 1,
            generation: None,
            generations: vec![],
            restarts: 2,
            restart_in_ms: Some(400),
            quarantined: false,
            last_failure: Some(Dossier {
                generation: Generation(3),
                at_unix_ms: 5,
                reason: "killed by SIGSEGV".into(),
                exit: Some(Exit::Signal { number: 11, core: false }),
                last_stderr: vec!["oops".into()],
                calls_in_flight: 1,
            }),
            degraded: vec!["memory: it is degraded".into()],
            state_trouble: Some("it is damaged".into()),
            secrets_not_set: vec![SecretName::parse("api-key").unwrap()],
            not_enforced: vec![NotEnforced {
                control: "memory".into(),
                state: GuaranteeState::Monitored,
                reason: "no controller".into(),
            }],
            calls: CallCounters { ok: 7, ..CallCounters::default() },
        };
        let json = serde_json::to_string(&status).unwrap();
        assert_eq!(serde_json::from_str::<PluginStatus>(&json).unwrap(), status);
    }
}
