//! The supervisor, as a plugin sees it: what it said about the plugin, and what it can be asked for.

use std::sync::Arc;
use std::time::Duration;

use palisade_protocol::{Extend, Guarantee, Kind, Level, PluginWelcome};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::wrong_params;
use crate::log::{Fields, LogTarget};
use crate::secret::{self, Secret};
use crate::store::Store;
use crate::wire::Wire;
use crate::{Error, Result};

/// The supervisor. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Host {
    wire: Arc<Wire>,
    about: Arc<About>,
    call: Option<u64>,
}

/// What the supervisor said about this plugin.
#[derive(Debug)]
pub(crate) struct About {
    id: String,
    version: String,
    generation: u64,
    permissions: Vec<String>,
    guarantees: Vec<Guarantee>,
    state_schema: Option<u32>,
}

impl About {
    /// Keeps what a plugin may ask for later, and hands out the configuration.
    pub(crate) fn new(welcome: PluginWelcome) -> (Self, serde_json::Value) {
        let about = Self {
            id: welcome.id,
            version: welcome.version,
            generation: welcome.generation,
            permissions: welcome.permissions,
            guarantees: welcome.guarantees,
            state_schema: welcome.state_schema,
        };
        (about, welcome.configuration)
    }
}

/// What the supervisor knows about this process: the answer to [`Host::describe_self`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SelfInfo {
    /// The id under which the plugin is installed.
    pub id: String,
    /// Its version.
    pub version: String,
    /// The number of this process.
    pub generation: u64,
    /// For how long it has been running, in milliseconds.
    #[serde(default)]
    pub uptime_ms: u64,
}

impl Host {
    pub(crate) fn new(wire: Arc<Wire>, about: Arc<About>, call: Option<u64>) -> Self {
        Self { wire, about, call }
    }

    /// The id under which the plugin is installed.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.about.id
    }

    /// The plugin's version, as in its manifest.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.about.version
    }

    /// The number of this process; a restarted plugin has another.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.about.generation
    }

    /// The permissions that the operator granted.
    #[must_use]
    pub fn permissions(&self) -> &[String] {
        &self.about.permissions
    }

    /// What confines the plugin on this host.
    #[must_use]
    pub fn guarantees(&self) -> &[Guarantee] {
        &self.about.guarantees
    }

    /// The schema version of the stored state; `None` where there is none.
    #[must_use]
    pub fn state_schema(&self) -> Option<u32> {
        self.about.state_schema
    }

    /// Asks for more time to start or to drain, counted from now. The supervisor grants it up to a cap of its own.
    pub fn extend(&self, by: Duration, reason: impl Into<String>) {
        let mut reason = reason.into();
        crate::text::truncate(&mut reason, 4 << 10);
        let by_ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.wire.send(Kind::Extend, 0, &Extend { by_ms, reason });
    }

    /// Asks the supervisor what it knows about this process.
    ///
    /// # Errors
    /// As [`Host::request`].
    pub async fn describe_self(&self) -> Result<SelfInfo> {
        self.request("self", &()).await
    }

    /// What the plugin keeps: it outlives this process and this version.
    #[must_use]
    pub fn store(&self) -> Store {
        Store::new(self.clone())
    }

    /// A secret that `plugin.json` names in `secrets`, that the operator granted, and that is set.
    ///
    /// # Errors
    /// As [`Host::request`]: `permission_denied` for one that the manifest does not name or that was not granted, `resource_not_found` for
    /// one that is not set.
    pub async fn secret(&self, name: &str) -> Result<Secret> {
        #[derive(Serialize)]
        struct Named<'a> {
            name: &'a str,
        }
        let answered: secret::Answered = self.request(secret::GET, &Named { name }).await?;
        Ok(answered.value)
    }

    /// Makes a host call: any operation that the supervisor offers, by name. At most 64 may be under way.
    ///
    /// Dropping the future stops waiting; the operation may have been done.
    ///
    /// # Errors
    /// What the supervisor answers, `action_not_found` for an operation it does not know; `overloaded` beyond 64;
    /// `resource_exhausted` when the parameters are larger than a frame may be; `unavailable`
    /// when the connection is closed; `execution_failed` when the answer is not an `R`.
    pub async fn request<R: DeserializeOwned>(&self, op: &str, params: &(impl Serialize + ?Sized)) -> Result<R> {
        let mut payload = Vec::new();
        palisade_protocol::encode_value(&mut payload, params)?;
        // One that nobody waits for any more counts as under way until its answer comes, because for the supervisor it
        // is.
        match self.wire.ask(op, self.call, payload)?.await {
            Ok(Ok(bytes)) => palisade_protocol::decode_value(&bytes).map_err(|error| {
                Error::failed(format!("the supervisor's answer to `{op}`: {}", wrong_params(&error).message()))
            }),
            Ok(Err(error)) => Err((*error).into()),
            Err(_) => Err(Error::unavailable("the connection to the supervisor is closed")),
        }
    }
}

impl LogTarget for Host {
    fn is_enabled(&self, level: Level) -> bool {
        level >= self.wire.log_level
    }

    fn log(&self, level: Level, message: String, fields: Fields) {
        self.wire.log(level, message, fields.into_value(), self.call);
    }
}
