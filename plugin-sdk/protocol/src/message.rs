//! The body of each kind of frame: a map with named fields. Unknown fields are ignored and absent ones have defaults, so that
//! a newer end can say more to an older one.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::ErrorBody;
use crate::limits::Limits;
use crate::negotiate::VersionRange;

fn is_false(value: &bool) -> bool {
    !*value
}

/// A body without fields: `Continue`, `StreamData`, `StreamEnd`, `HostOk`. The bodies of `Err` and `HostErr` are an
/// [`ErrorBody`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}

/// The first frame of a plugin or an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol versions it speaks.
    pub protocol: VersionRange,
    /// The features it can use.
    #[serde(default)]
    pub features: Vec<String>,
    /// What it is built with, for logs: `palisade-sdk/0.1.0`.
    #[serde(default)]
    pub software: String,
}

/// The supervisor's answer to `Hello`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Welcome {
    /// The version both will speak.
    pub protocol: u16,
    /// The features both may use.
    pub features: Vec<String>,
    /// What the supervisor is: `palisaded/0.1.0`.
    pub software: String,
    /// The bounds both keep to.
    pub limits: Limits,
    /// What only a plugin is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginWelcome>,
}

/// What a plugin is told about itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PluginWelcome {
    /// The id under which it is installed.
    pub id: String,
    /// Its version, as in the manifest.
    pub version: String,
    /// The number of this process.
    pub generation: u64,
    /// How long it has until `Ready`, in milliseconds; `Extend` asks for more.
    pub ready_within_ms: u64,
    /// The operator's configuration for it.
    #[serde(default)]
    pub configuration: Value,
    /// The permissions it was granted.
    #[serde(default)]
    pub permissions: Vec<String>,
    /// What confines it on this host.
    #[serde(default)]
    pub guarantees: Vec<Guarantee>,
    /// The schema version of the stored state; absent where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_schema: Option<u32>,
}

/// One isolation control and its state on this host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Guarantee {
    /// Which control: `pid_namespace`, `memory`, …
    pub control: String,
    /// How far it holds.
    pub state: GuaranteeState,
    /// How that is known, in one text for people.
    #[serde(default)]
    pub evidence: String,
    /// What holds it; empty where nothing does.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mechanism: String,
    /// Why it holds less than it could; empty where it is enforced.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// A start depends on it.
    #[serde(default, skip_serializing_if = "core::ops::Not::not")]
    pub required: bool,
    /// What was found, each with whoever found it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proofs: Vec<Proof>,
}

/// One piece of evidence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Whose word it is.
    pub source: ProofSource,
    /// What was found.
    pub found: String,
}

/// Whose word a piece of evidence is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProofSource {
    /// The kernel says it of the running process.
    Kernel,
    /// The step that makes it so has succeeded; one that does not ends the start.
    Launcher,
    /// A child that is confined like a plugin has tried what is forbidden.
    Trial,
    /// The supervisor has made it so before the process was born.
    Daemon,
    /// A source that this version does not know.
    #[serde(other)]
    Unknown,
}

/// How far a guarantee holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuaranteeState {
    /// The kernel holds it.
    Enforced,
    /// A weaker mechanism than asked for holds it.
    Degraded,
    /// It is watched, and acted upon afterwards.
    Monitored,
    /// Nothing holds it; also what a state is read as that this version does not know.
    #[default]
    #[serde(other)]
    Absent,
}

impl GuaranteeState {
    /// As it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforced => "enforced",
            Self::Degraded => "degraded",
            Self::Monitored => "monitored",
            Self::Absent => "absent",
        }
    }
}

/// A plugin's second frame: who it is and what it does.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// The id it was written as; it must be the one it is installed as.
    pub id: String,
    /// Its version; it must be the manifest's.
    pub version: String,
    /// Its actions.
    pub actions: Vec<ActionInfo>,
    /// How many calls it takes at once; the supervisor keeps to the smaller of this and its own limit.
    pub concurrency: u32,
    /// The schema version of the state it reads and writes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_schema: Option<u32>,
}

/// One action, as a plugin describes it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ActionInfo {
    /// Its name, unique in the plugin.
    pub name: String,
    /// What it does, for people and agents.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of the parameters; absent or `true`: anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parameters: Option<Value>,
    /// JSON Schema of the result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// The stream it reads, if it reads one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<StreamInfo>,
    /// The stream it writes, if it writes one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<StreamInfo>,
    /// Whether doing it twice is as good as once; such a call is repeated when its process dies.
    #[serde(default, skip_serializing_if = "is_false")]
    pub idempotent: bool,
    /// Whether it runs until it is cancelled.
    #[serde(default, skip_serializing_if = "is_false")]
    pub endless: bool,
    /// How long a call of it may take, in milliseconds, if not the plugin's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// What a stream carries.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamInfo {
    /// Items or bytes.
    pub kind: StreamKind,
    /// JSON Schema of an item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<Value>,
}

/// What one `StreamData` frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamKind {
    /// Each frame's payload is one MessagePack value; with `MORE`, it goes on in the next frame.
    Items,
    /// The payloads are bytes; where they are cut means nothing.
    Bytes,
}

/// Either end will not go on. The last frame of a connection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Refuse {
    /// Why, and what to do about it.
    pub error: ErrorBody,
}

/// Are you there?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ping {
    /// Whether to run the plugin's own health check before answering.
    #[serde(default, skip_serializing_if = "is_false")]
    pub health: bool,
    /// Whether to run the plugin's own test of itself as well. Only with the feature `self_test`.
    #[serde(default, skip_serializing_if = "is_false")]
    pub self_test: bool,
}

/// The answer to a `Ping`, under its id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Pong {
    /// How many calls are under way.
    #[serde(default)]
    pub calls: u32,
    /// For how long the oldest of them has been, in milliseconds.
    #[serde(default)]
    pub oldest_call_ms: u64,
    /// What is wrong, when a health check or a self-test was asked for and failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unhealthy: Option<String>,
}

/// Finish what you have; nothing new will come.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Drain {
    /// How long there is, in milliseconds.
    pub within_ms: u64,
    /// Why, for logs.
    #[serde(default)]
    pub reason: String,
}

/// All is finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Drained {}

/// A plugin needs longer for starting, counted from now.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Extend {
    /// How much longer, in milliseconds.
    pub by_ms: u64,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// For the author alone.
    Trace,
    /// For finding a fault.
    Debug,
    /// Worth knowing.
    Info,
    /// Something is not as it should be.
    Warn,
    /// Something failed; also what a level is read as that this version does not know.
    #[serde(other)]
    Error,
}

/// One structured log line of a plugin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Log {
    /// How much it matters.
    pub level: Level,
    /// What happened.
    pub message: String,
    /// More, for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fields: Option<Value>,
    /// The id of the call it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
}

/// Can the plugin go on with this configuration? Asked once another answer is not waited for any more.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Configure {
    /// The whole of it, as in `Welcome`.
    #[serde(default)]
    pub configuration: Value,
}

/// The answer to a `Configure`, under its id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Configured {
    /// Whether it does.
    #[serde(default)]
    pub answer: ConfigureAnswer,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Whether a plugin goes on with another configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConfigureAnswer {
    /// It does, from now on.
    Accepted,
    /// No process of it would: it is to stay as it was.
    Refused,
    /// This process does not; another one may. Also what an answer is read as that this version does not know.
    #[default]
    #[serde(other)]
    Declined,
}

/// A call. An agent names plugin and version, the supervisor the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Call<'a> {
    /// Which action.
    pub action: &'a str,
    /// Agent to supervisor: which plugin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub plugin: Option<&'a str>,
    /// Agent to supervisor: which versions will do; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a str>,
    /// How long the caller waits from now, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_ms: Option<u64>,
    /// Supervisor to plugin: who calls, as the supervisor established it: `uid:1000`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller: Option<&'a str>,
}

/// The caller does not want the answer any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cancel {
    /// Why.
    #[serde(default)]
    pub reason: CancelReason,
}

/// Why a call is cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// The caller asked for it, or went away.
    #[default]
    Caller,
    /// Its deadline passed.
    Deadline,
    /// The plugin is being drained.
    Draining,
    /// A reason that this version does not know.
    #[serde(other)]
    Other,
}

impl std::fmt::Display for CancelReason {
    /// As it travels.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Caller => "caller",
            Self::Deadline => "deadline",
            Self::Draining => "draining",
            Self::Other => "other",
        })
    }
}

/// How far a call has come. Progress is news, not data: older ones may be dropped for newer ones.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Progress {
    /// From 0 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub percentage: Option<f64>,
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// For programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Value>,
}

/// A call's good end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ok {}

/// A call ended because it was cancelled.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cancelled {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// A stream begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamOpen {
    /// What it carries.
    pub kind: StreamKind,
}

/// A stream ends early.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StreamAbort {
    /// Which side of the stream says so. A call may have one stream each way, so the frame's direction does not tell.
    #[serde(default, skip_serializing_if = "StreamSide::is_sender")]
    pub by: StreamSide,
    /// Why.
    pub error: ErrorBody,
}

/// A side of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamSide {
    /// The one that sends it: what came so far is all there will be.
    #[default]
    Sender,
    /// The one that receives it: send no more. It needs no answer on the stream.
    Receiver,
}

impl StreamSide {
    fn is_sender(&self) -> bool {
        *self == Self::Sender
    }
}

/// More may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StreamCredit {
    /// How many bytes more.
    pub bytes: u32,
}

/// A plugin asks the supervisor for something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostCall<'a> {
    /// What.
    pub op: &'a str,
    /// The call on whose behalf, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call: Option<u64>,
}
