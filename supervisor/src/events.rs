//! What happened, for whoever wants to know: each change of a plugin's state, each failure, each decision worth an audit.
//!
//! A bus of bounded length: a subscriber that is too slow is told how many events it missed, and nobody waits for it.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::sync::broadcast;

use crate::model::ids::{Generation, PluginId};
use crate::model::status::PluginState;

/// How many events a subscriber may be behind before it misses some.
const BEHIND_MAX: usize = 256;

/// One event.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// When, in milliseconds since the epoch.
    pub time_unix_ms: u64,
    /// What kind of event.
    pub kind: EventKind,
    /// Which plugin, where it concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<PluginId>,
    /// Which version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Which process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<Generation>,
    /// The state before, for `state_changed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<PluginState>,
    /// The state after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to: Option<PluginState>,
    /// The version before, for `package_changed`, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_version: Option<String>,
    /// The digest of the package that it has now, for `package_changed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// That of the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_digest: Option<String>,
    /// The package that is not used, for `package_kept` and `package_rolled_back`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
    /// Which connection of a plugin's, and what became of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connection: Option<Connection>,
    /// A sentence, where the rest does not say it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A package that is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Its version.
    pub version: String,
    /// The digest of its snapshot.
    pub digest: String,
}

/// The kinds of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A plugin is in another state.
    StateChanged,
    /// A generation ended although nobody asked it to.
    GenerationFailed,
    /// A plugin was restarted too often, and stays down until it is reset.
    Quarantined,
    /// A plugin has met a limit: processes or descriptors that it asked for were refused.
    LimitReached,
    /// A plugin has been waiting for processor time, mostly, for ten seconds.
    CpuSaturated,
    /// A connection of a plugin's was let through.
    ConnectionAllowed,
    /// One was refused.
    ConnectionRefused,
    /// One that was let through is over.
    ConnectionEnded,
    /// More was decided about a plugin's connections than could be recorded.
    ConnectionsUnrecorded,
    /// An operator has changed how much a plugin may have.
    LimitsChanged,
    /// An operator has changed what a plugin is configured with.
    ConfigurationChanged,
    /// An operator has set a secret of a plugin.
    SecretSet,
    /// An operator has removed one.
    SecretRemoved,
    /// An operator has had a plugin keep something else.
    StateImported,
    /// An operator has had it keep nothing any more.
    StateReset,
    /// An operator has granted a plugin something, or taken it back.
    PermissionsChanged,
    /// A version takes no calls before an operator has said something about what it asks for.
    ConsentRequired,
    /// A version was installed.
    PackageInstalled,
    /// A version has appeared in a plugin directory.
    PackageAdded,
    /// A plugin is there with other contents, in another version or in another place, and was begun anew.
    PackageChanged,
    /// A changed package does not serve, and the one before goes on.
    PackageKept,
    /// The package before serves again.
    PackageRolledBack,
    /// A newer version is there, and waits for an operator.
    UpdateAvailable,
    /// A newer version takes the calls that an older one took.
    PackageUpdated,
    /// A version is gone: an installed one was removed, or its folder.
    PackageRemoved,
    /// A version takes calls again.
    PackageEnabled,
    /// A version takes none any more.
    PackageDisabled,
    /// A version is better not used any more.
    PackageDeprecated,
    /// That was taken back.
    PackageUndeprecated,
    /// The daemon takes calls.
    DaemonStarted,
    /// The daemon begins to shut down.
    DaemonStopping,
}

/// A connection through the proxy. Nothing of what was sent is in it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Connection {
    /// Which of this process's, from 1.
    pub number: u64,
    /// The host that was asked for, where that much was understood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// And the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// What was decided: `allowed`, or whose doing the refusal is, `denied`, `malformed`, `limited` or `failed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<&'static str>,
    /// The address that was connected to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// What passes: `tls`, `tcp` or `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passage: Option<&'static str>,
    /// What passed to the server and from it, once it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_up: Option<u64>,
    /// The other direction.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_down: Option<u64>,
    /// For how long.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<u64>,
}

impl Event {
    /// An event of now.
    #[must_use]
    pub fn new(kind: EventKind) -> Self {
        Self {
            time_unix_ms: unix_ms(SystemTime::now()),
            kind,
            plugin: None,
            version: None,
            generation: None,
            from: None,
            to: None,
            from_version: None,
            digest: None,
            from_digest: None,
            refused: None,
            connection: None,
            reason: None,
        }
    }
}

/// Milliseconds since the epoch; 0 for a clock that stands before it.
#[must_use]
pub fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Where events are published and subscribed to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Bus(broadcast::Sender<Arc<Event>>);

impl Default for Bus {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND_MAX))
    }
}

impl Bus {
    /// Tells everybody who listens.
    pub fn publish(&self, event: Event) {
        // An error means that nobody listens.
        let _ = self.0.send(Arc::new(event));
    }

    /// All events from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Event>> {
        self.0.subscribe()
    }
}
