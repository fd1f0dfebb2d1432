//! The supervisor's own operations: calls to the reserved id `palisade`, and the values they answer with.
//!
//! The types here are read tolerantly, as a newer supervisor may say more and an older one less: unknown fields are ignored and
//! absent ones have defaults. Whoever wants all that came calls the operation with `serde_json::Value` as its result.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use palisade_protocol::{ActionInfo, Guarantee, GuaranteeState, Level, SUPERVISOR_ID, StreamKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{CallError, Client, FromPayload, Items, Raw, Request};

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
    /// A version of it, which has to be there; the plugin in all its versions is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a str>,
    /// How many of the latest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lines: Option<u32>,
    /// Whether to go on with new ones as they come.
    pub follow: bool,
    /// Only lines that matter so much.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
}

/// Which plugins are looked for. What is absent does not matter, all else has to hold.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Search<'a> {
    /// Words that id, name, tags, description or actions have, in whatever case.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<&'a str>,
    /// A tag.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<&'a str>,
    /// A capability, as in `plugin.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capability: Option<&'a str>,
    /// A kind, as in `plugin.json`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'a str>,
    /// A permission that is asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission: Option<&'a str>,
    /// A state, or `disabled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<&'a str>,
}

#[derive(Serialize)]
struct Force<'a> {
    #[serde(flatten)]
    target: Target<'a>,
    force: bool,
}

#[derive(Serialize)]
struct Configure<'a> {
    #[serde(flatten)]
    target: Target<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<&'a BTreeMap<String, Value>>,
    unset: &'a [&'a str],
    undo: bool,
}

#[derive(Serialize)]
struct Deprecate<'a> {
    #[serde(flatten)]
    target: Target<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    undo: bool,
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

    /// The same, also where it is a new major version after the one that serves, which may break whoever uses the plugin.
    ///
    /// # Errors
    /// Any [`CallError`]; nothing is installed then.
    pub async fn install_major(&self, path: &Path, force: bool) -> Result<Installation, CallError> {
        #[derive(Serialize)]
        struct Install<'a> {
            path: &'a Path,
            major: bool,
            force: bool,
        }
        self.request("install", &Install { path, major: true, force }).call().await
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

    /// What plugins ask for and what was decided: of one, or of all that ask for anything.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn permissions(&self, target: impl Into<Target<'a>>) -> Result<Vec<Permissions>, CallError> {
        let listed: PermissionsListed = self.request("permissions", &target.into()).call().await?;
        Ok(listed.plugins)
    }

    /// The plugins that wait for an operator's consent.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn pending(&self) -> Result<Vec<Permissions>, CallError> {
        let listed: PermissionsListed = self.request("pending", &Nothing {}).call().await?;
        Ok(listed.plugins)
    }

    /// Grants a plugin what it asks for, and lets it take calls. Returns what was decided then.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn grant(&self, grant: &Grant<'_>) -> Result<Permissions, CallError> {
        self.request("grant", grant).call().await
    }

    /// Takes back or refuses what a plugin asks for. One that runs is ended, and goes on without it.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn revoke(&self, revocation: &Revocation<'_>) -> Result<Permissions, CallError> {
        self.request("revoke", revocation).call().await
    }

    /// The versions that fit, the best first.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn search(&self, query: &Search<'_>) -> Result<Vec<Hit>, CallError> {
        let found: Found = self.request("search", query).call().await?;
        Ok(found.plugins)
    }

    /// Who has which capability.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn capabilities(&self) -> Result<Vec<Providers>, CallError> {
        let overview: Overview = self.request("capabilities", &Nothing {}).call().await?;
        Ok(overview.capabilities)
    }

    /// What a plugin can do, as far as that is known without starting it.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn abilities(&self, target: impl Into<Target<'a>>) -> Result<Abilities, CallError> {
        let overview: Overview = self.request("capabilities", &target.into()).call().await?;
        Ok(overview.plugin.unwrap_or_default())
    }

    /// How plugins are used: all of them, or those that are meant; also versions that are not there any more.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn stats(&self, target: Target<'a>) -> Result<Vec<VersionUsage>, CallError> {
        let usage: Usage = self.request("stats", &target).call().await?;
        Ok(usage.plugins)
    }

    /// Has others be chosen before a version, and whoever uses it be told.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn deprecate(
        &self,
        target: impl Into<Target<'a>>,
        reason: Option<&str>,
    ) -> Result<PluginStatus, CallError> {
        self.request("deprecate", &Deprecate { target: target.into(), reason, undo: false }).call().await
    }

    /// Takes that back.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn undeprecate(&self, target: impl Into<Target<'a>>) -> Result<PluginStatus, CallError> {
        self.request("deprecate", &Deprecate { target: target.into(), reason: None, undo: true }).call().await
    }

    /// What a plugin is configured with, where each of it comes from, and how it was changed.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn config(&self, target: impl Into<Target<'a>>) -> Result<Configuration, CallError> {
        self.request("config", &target.into()).call().await
    }

    /// Changes what a plugin is configured with while it runs, or nothing: sets values by place, as `server.port` or `/server/port`, and
    /// takes back what was set before.
    ///
    /// # Errors
    /// Any [`CallError`]; `configuration_invalid` for what does not fit.
    pub async fn configure(
        &self,
        target: impl Into<Target<'a>>,
        set: &BTreeMap<String, Value>,
        unset: &[&str],
    ) -> Result<ConfigurationChange, CallError> {
        let target = target.into();
        self.request("configure", &Configure { target, set: Some(set), unset, undo: false }).call().await
    }

    /// Takes back the last change of a plugin's configuration that was not taken back yet.
    ///
    /// # Errors
    /// Any [`CallError`]; `invalid_params` where there is none.
    pub async fn unconfigure(&self, target: impl Into<Target<'a>>) -> Result<ConfigurationChange, CallError> {
        let target = target.into();
        self.request("configure", &Configure { target, set: None, unset: &[], undo: true }).call().await
    }

    /// Which secrets a plugin asks for, and which are set.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn secrets(&self, target: impl Into<Target<'a>>) -> Result<Secrets, CallError> {
        self.request("secret_list", &target.into()).call().await
    }

    /// Sets a secret that a plugin asks for. Of what the client needs to send it nothing is left in memory afterwards.
    ///
    /// # Errors
    /// Any [`CallError`]; `invalid_params` for a name that the plugin does not ask for.
    pub async fn set_secret(
        &self,
        target: impl Into<Target<'a>>,
        name: &str,
        value: &str,
    ) -> Result<SecretChange, CallError> {
        let params = secret_params(target, name, value)?;
        self.client.request(SUPERVISOR_ID, "secret_set").params(params).secret().call().await
    }

    /// Removes a secret of a plugin.
    ///
    /// # Errors
    /// Any [`CallError`]; `resource_not_found` where it is not set.
    pub async fn remove_secret(&self, target: impl Into<Target<'a>>, name: &str) -> Result<SecretChange, CallError> {
        #[derive(Serialize)]
        struct Remove<'a> {
            #[serde(flatten)]
            target: Target<'a>,
            name: &'a str,
        }
        self.request("secret_remove", &Remove { target: target.into(), name }).call().await
    }

    /// What a plugin keeps, in short; with `key` that one with its value, else the keys that begin with `prefix` and come after `after`. With
    /// `from` what it kept once: the name of one of [`Backups::states`].
    ///
    /// # Errors
    /// Any [`CallError`]; `resource_not_found` for a key or a copy that there is not.
    pub async fn state(
        &self,
        target: impl Into<Target<'a>>,
        key: Option<&str>,
        prefix: &str,
        after: Option<&str>,
        from: Option<&str>,
    ) -> Result<State, CallError> {
        #[derive(Serialize)]
        struct Show<'a> {
            #[serde(flatten)]
            target: Target<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            key: Option<&'a str>,
            prefix: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            after: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            from: Option<&'a str>,
        }
        self.request("state_show", &Show { target: target.into(), key, prefix, after, from }).call().await
    }

    /// All that a plugin keeps, pair by pair; or with `from` what it kept once, as of [`Self::state`].
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn export_state(
        &self,
        target: impl Into<Target<'a>>,
        from: Option<&'a str>,
    ) -> Result<Items<StatePair>, CallError> {
        #[derive(Serialize)]
        struct Export<'a> {
            #[serde(flatten)]
            target: Target<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            from: Option<&'a str>,
        }
        self.request("state_export", &Export { target: target.into(), from }).items().await
    }

    /// Has a plugin keep what a file says, and nothing else: an export, which the supervisor reads.
    ///
    /// # Errors
    /// Any [`CallError`]; `invalid_params` for a file that is none, and nothing is changed.
    pub async fn import_state(&self, target: impl Into<Target<'a>>, path: &str) -> Result<StateChange, CallError> {
        #[derive(Serialize)]
        struct Import<'a> {
            #[serde(flatten)]
            target: Target<'a>,
            path: &'a str,
        }
        self.request("state_import", &Import { target: target.into(), path }).call().await
    }

    /// Has a plugin keep nothing any more.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn reset_state(&self, target: impl Into<Target<'a>>) -> Result<StateChange, CallError> {
        self.request("state_reset", &target.into()).call().await
    }

    /// Has a newer version take calls that is there and waits; or installs one of a plugin, or of each that was installed, from where it came or, of one, from elsewhere. Of `plugin` the highest
    /// installed version that is meant counts. `major` also one that may break whoever uses it.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn update(
        &self,
        target: Option<Target<'a>>,
        path: Option<&str>,
        major: bool,
        force: bool,
    ) -> Result<Updates, CallError> {
        #[derive(Serialize)]
        struct Update<'a> {
            #[serde(flatten)]
            target: Option<Target<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            path: Option<&'a str>,
            major: bool,
            force: bool,
        }
        self.request("update", &Update { target, path, major, force }).call().await
    }

    /// Has just that version of a plugin take calls, which is there and waits, or can be had from where the plugin was installed.
    ///
    /// # Errors
    /// Any [`CallError`], as of [`Self::update`].
    pub async fn update_to(&self, plugin: &str, version: &str, major: bool) -> Result<Updates, CallError> {
        #[derive(Serialize)]
        struct Update<'a> {
            plugin: &'a str,
            to_version: &'a str,
            major: bool,
        }
        self.request("update", &Update { plugin, to_version: version, major }).call().await
    }

    /// The newest version of a plugin that can be had; or those of all plugins that have a newer one. Nothing is changed.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn available(&self, plugin: Option<&str>) -> Result<AvailableUpdates, CallError> {
        #[derive(Serialize)]
        struct Check<'a> {
            #[serde(skip_serializing_if = "Option::is_none")]
            plugin: Option<&'a str>,
            check: bool,
        }
        self.request("update", &Check { plugin, check: true }).call().await
    }

    /// What was done with plugins, by whom and why: the youngest of it that is asked for, the oldest first.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn audit(&self, which: &Audit<'_>) -> Result<Trail, CallError> {
        self.request("audit", which).call().await
    }

    /// Has the supervisor look into the plugin directories again, and read everything; returns what that has changed.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn rescan(&self) -> Result<Rescan, CallError> {
        self.request("rescan", &Nothing {}).call().await
    }

    /// Has a plugin be given the package in its folder, or all of them; `dry_run` says only how.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn reload(&self, target: Option<Target<'a>>, dry_run: bool) -> Result<Reloads, CallError> {
        #[derive(Serialize)]
        struct Reload<'a> {
            #[serde(flatten)]
            target: Option<Target<'a>>,
            dry_run: bool,
        }
        self.request("reload", &Reload { target, dry_run }).call().await
    }

    /// The packages of a plugin that served before.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn backups(&self, target: impl Into<Target<'a>>) -> Result<Backups, CallError> {
        self.request("backups", &target.into()).call().await
    }

    /// Returns to one of them: to the last, or to that of this number; if asked for, with what the plugin kept then.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn rollback(
        &self,
        target: impl Into<Target<'a>>,
        to: Option<u64>,
        with_state: bool,
    ) -> Result<Reloads, CallError> {
        #[derive(Serialize)]
        struct Rollback<'a> {
            #[serde(flatten)]
            target: Target<'a>,
            #[serde(skip_serializing_if = "Option::is_none")]
            to: Option<u64>,
            with_state: bool,
        }
        self.request("rollback", &Rollback { target: target.into(), to, with_state }).call().await
    }

    /// Log lines, as they were written. Endless when they are followed.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn logs(&self, query: &LogQuery<'_>) -> Result<Items<LogLine>, CallError> {
        self.logs_as(query).await
    }

    /// Log lines as something else: [`Raw`], or a type of the caller's.
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

    /// Events as something else: [`Raw`], or a type of the caller's.
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
        self.request("shutdown", &Nothing {}).call::<Raw>().await.map(|_| ())
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
    /// Whether it takes none before an operator has said something about what it asks for.
    pub awaits_consent: bool,
    /// What it depends on and cannot have: it is not started meanwhile. A sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
    /// Whether somebody has said that it is better not used any more.
    pub deprecated: bool,
    /// Whether it takes no calls as it is an update that waits.
    pub held: bool,
    /// The newer version that waits for an operator, while this one serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<String>,
    /// The package in its folder, where that is another one and is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<PassedOver>,
    /// `discovered`, `loaded`, `initialized`, `active`, `paused`, `stopping`, `stopped`, `failed` or `unloaded`.
    pub state: String,
    /// Why it is in this state or is held, where that is not plain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
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
    /// Where it was just disabled: plugins that depended on it and are without it now, as `id version`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<String>,
    /// Whether it takes none before an operator has said something about what it asks for.
    pub awaits_consent: bool,
    /// Of what was just said of it: why that ends with the daemon, if it does. A sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_kept: Option<String>,
    /// What it depends on and cannot have: it is not started meanwhile. A sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lacks: Option<String>,
    /// Why no process can have its configuration, if none can: it takes no calls meanwhile. A sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub misconfigured: Option<String>,
    /// Somebody has said that it is better not used any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<Deprecation>,
    /// Why it takes no calls, where that is because it is an update that waits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Held>,
    /// The newer version that waits for an operator, while this one serves.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub update: Option<Offer>,
    /// The package in its folder, where that is another one and is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub passed_over: Option<PassedOver>,
    /// Another package that is being tried beside it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trial: Option<Trial>,
    /// Until when a failure leads back to the package before, where it was given its package not long ago.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probation: Option<Probation>,
    /// The file with what it kept until another state took its place, the youngest of those; only of `status`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_aside: Option<String>,
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
    /// Why what it keeps cannot be used, as far as that was noticed: a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_trouble: Option<String>,
    /// Secrets that it was granted and cannot do without, and that nobody has set.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub secrets_not_set: Vec<String>,
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
    /// The file with what the plugin kept before, where that was brought into another form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Whether it takes no calls before an operator has said something.
    pub awaits_consent: bool,
    /// What it asks for, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asks: Option<Permissions>,
}

/// What an operator grants.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Grant<'a> {
    /// To which plugin.
    #[serde(flatten)]
    pub target: Target<'a>,
    /// Permissions as `file_read:/srv/data`; absent: all that is asked, and every action as it is defined.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<&'a [String]>,
    /// Whether every action is agreed to as it is defined, where permissions are named.
    pub definitions: bool,
    /// The digest of the snapshot that the operator was shown; of another one nothing is granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<&'a str>,
}

/// What an operator takes back, or refuses.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Revocation<'a> {
    /// From which plugin.
    #[serde(flatten)]
    pub target: Target<'a>,
    /// Permissions as `file_read:/srv/data`, or `file_read` for all of its scopes; absent: everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permissions: Option<&'a [String]>,
    /// Whether the plugin is to stay stopped.
    pub stop: bool,
    /// Whether all that was said is forgotten instead, so that it is asked for again.
    pub forget: bool,
}

#[derive(Deserialize)]
struct PermissionsListed {
    #[serde(default)]
    plugins: Vec<Permissions>,
}

/// What one version asks for, and what was decided.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Permissions {
    /// The plugin's id.
    pub plugin: String,
    /// Its version.
    pub version: String,
    /// The digest of its snapshot, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The folder that it lies in, or that it was installed from.
    pub source: String,
    /// The trusted key that signed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Whether it takes no calls before an operator has said something.
    pub awaits_consent: bool,
    /// What it asks for.
    pub permissions: Vec<Permission>,
    /// The actions that an operator has to agree to.
    pub definitions: Vec<Definition>,
    /// Of what was just said of it: why that ends with the daemon, if it does. A sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_kept: Option<String>,
}

/// One thing that a plugin asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Permission {
    /// As `file_read:/srv/data`.
    pub permission: String,
    /// `granted`, `denied` or `asked`.
    pub decision: String,
    /// Who decided: an operator, as `uid:0`, or the place in the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When, where an operator did, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_unix_ms: Option<u64>,
    /// Why the plugin wants it, in its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One action that an operator has to agree to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Definition {
    /// Its name.
    pub action: String,
    /// `new` or `changed`.
    pub change: String,
    /// What it does, in the plugin's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Removal {
    /// Its id.
    pub id: String,
    /// Its version; none where no version was there, and only what it had left was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
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
    /// What that was, beside the version: a few words for each.
    pub gone: Vec<String>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Found {
    /// The best first.
    pub plugins: Vec<Hit>,
}

/// A version that was found.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Hit {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its name for people.
    pub name: String,
    /// What it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its kind.
    pub kind: String,
    /// Its capabilities.
    pub capabilities: Vec<String>,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether its operator lets it take calls.
    #[serde(default = "by_default")]
    pub enabled: bool,
    /// Whether it takes none before an operator has said something about what it asks for.
    pub awaits_consent: bool,
    /// Whether somebody has said that it is better not used any more.
    pub deprecated: bool,
    /// As in [`PluginSummary::state`].
    pub state: String,
    /// Where the text was found: `id`, `name`, `tag`, `description` or `action`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub found_in: Option<String>,
}

/// What `capabilities` answers: of all plugins, or of one.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Overview {
    /// Every capability that there is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Providers>,
    /// What the plugin can do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<Abilities>,
}

/// Who has a capability.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Providers {
    /// Its name.
    pub capability: String,
    /// Who has it, as `id version`.
    pub plugins: Vec<String>,
}

/// What a plugin can do.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Abilities {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Its kind.
    pub kind: String,
    /// Its capabilities.
    pub capabilities: Vec<String>,
    /// Whether its program has said what its actions are, or else only its manifest.
    pub announced: bool,
    /// Its actions, as far as they are known.
    pub actions: Vec<Ability>,
}

/// An action, in short.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Ability {
    /// Its name.
    pub name: String,
    /// What it does.
    pub description: String,
    /// The names of its parameters; those that may be left out end in `?`.
    pub parameters: Vec<String>,
    /// The stream that it reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reads: Option<StreamKind>,
    /// The stream that it writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<StreamKind>,
    /// Whether it says meanwhile how far it is, as its manifest has it.
    pub progress: bool,
    /// Whether doing it twice is as good as once.
    pub idempotent: bool,
    /// Whether it runs until it is cancelled.
    pub endless: bool,
}

/// A plugin that another depends on.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Need {
    /// Its id.
    pub id: String,
    /// Which versions will do.
    pub version: String,
    /// Whether it does without where there is none.
    pub optional: bool,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The version that fits, if one is there and enabled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub met_by: Option<String>,
}

/// How a version came here.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// From where.
    pub source: String,
    /// When, in milliseconds since the epoch.
    pub at_unix_ms: u64,
    /// Who did it: `uid:0`.
    pub by: String,
}

/// How plugins are used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// By id and version.
    pub plugins: Vec<VersionUsage>,
}

/// How a version is used, over all daemons that kept their state in the same folder.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct VersionUsage {
    /// Its id.
    pub id: String,
    /// Its version.
    pub version: String,
    /// Whether there still is that version.
    pub present: bool,
    /// How often it was installed.
    pub installs: u64,
    /// Calls that have ended, however.
    pub calls: u64,
    /// Ended well.
    pub ok: u64,
    /// Ended with an error of the plugin's.
    pub errors: u64,
    /// Too late.
    pub timed_out: u64,
    /// Failed with their process.
    pub crashed: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// Turned away at once.
    pub refused: u64,
    /// When the last call came, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_used_unix_ms: Option<u64>,
    /// How long answers took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency: Option<Latency>,
}

/// How long a plugin's answers took, from when the supervisor let the call in; at most an eighth more than it was.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Latency {
    /// How many answers that is about.
    pub answers: u64,
    /// Half of them took no longer.
    pub p50_us: u64,
    /// Nine of ten.
    pub p90_us: u64,
    /// Ninety-nine of a hundred.
    pub p99_us: u64,
    /// All of them.
    pub max_us: u64,
}

/// That a version is better not used any more: it takes calls, and others are chosen before it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Deprecation {
    /// Since when, in milliseconds since the epoch.
    pub at_unix_ms: u64,
    /// Who said so: `uid:0`.
    pub by: String,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Which newer versions there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AvailableUpdates {
    /// Each plugin.
    pub available: Vec<Available>,
}

/// The newest version of a plugin that can be had.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Available {
    /// The plugin.
    pub id: String,
    /// The version that calls get which name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<String>,
    /// The newest one, if there is a newer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<String>,
    /// How far that is from what serves: `patch`, `minor` or `major`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// What becomes of newer versions: `auto`, `notify` or `manual`.
    pub policy: String,
    /// Which versions may serve, where that was said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// The newest version that these exclude, where one that they admit is newer than what serves as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excluded: Option<String>,
    /// By what the newest one is held back: `pin`, `major`, `policy`, `failed`, `untried`, `trial`, `permission`, `configuration`, `disabled` or
    /// `not_installed`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
    /// A sentence on that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Why a version takes no calls, where that is because it is an update that waits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// `pin`, `major`, `policy`, `failed`, `untried` or `trial`.
    pub by: String,
    /// A sentence.
    pub reason: String,
}

/// A newer version that waits for an operator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Offer {
    /// Which.
    pub version: String,
    /// How far it is from what serves: `patch`, `minor` or `major`.
    pub kind: String,
}

/// What updates came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Updates {
    /// Each plugin.
    pub updates: Vec<Update>,
    /// Those of which no newer version could be had.
    pub failed: Vec<NotUpdated>,
}

/// What an update came to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Update {
    /// The plugin's id.
    pub id: String,
    /// The version that it had.
    pub from: String,
    /// The one that it has now.
    pub version: String,
    /// The digest of its snapshot, in hexadecimal.
    pub digest: String,
    /// Where a newer one was looked for.
    pub source: String,
    /// The version that is there.
    pub found: String,
    /// Whether it has another version now.
    pub updated: bool,
    /// Whether that was installed for it, rather than there already.
    pub installed: bool,
    /// The file with what the plugin kept before, where that was brought into another form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// Whether the version that it has now takes no calls before an operator has said something.
    pub awaits_consent: bool,
    /// What it asks for, if so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub asks: Option<Permissions>,
}

/// Why a plugin was not updated.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NotUpdated {
    /// The plugin's id.
    pub id: String,
    /// The name of the error.
    pub code: String,
    /// What is wrong: a sentence.
    pub message: String,
}

/// What a look into the plugin directories has changed; plugins as `id version`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Rescan {
    /// New ones.
    pub added: Vec<String>,
    /// Those that have other contents, or come from another place; they were begun anew.
    pub changed: Vec<String>,
    /// Those whose package is gone.
    pub removed: Vec<String>,
    /// Those that have changed and go on as they were, as the changed package does not serve.
    pub kept: Vec<Kept>,
    /// Packages that cannot be used.
    pub rejected: Vec<Rejected>,
}

/// A plugin that goes on with the package before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Which, as `id version`.
    pub plugin: String,
    /// Why: a sentence.
    pub reason: String,
}

/// A package that is not used, while the one before serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedOver {
    /// The digest of its snapshot.
    pub digest: String,
    /// Its version, where it does not lie in the folder of what serves, but is that of a newer version beside it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Why: a sentence.
    pub reason: String,
    /// Since when, in milliseconds since the epoch.
    pub at_unix_ms: u64,
}

/// A package that is being tried, while the one before serves.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Trial {
    /// Its version.
    pub version: String,
    /// The digest of its snapshot.
    pub digest: String,
    /// Since when, in milliseconds since the epoch.
    pub since_unix_ms: u64,
}

/// Until when a failure leads back, and to what.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Probation {
    /// Until when, in milliseconds since the epoch.
    pub until_unix_ms: u64,
    /// The version before.
    pub version: String,
    /// The digest of its snapshot.
    pub digest: String,
    /// The file with what the plugin kept until then, which is returned to as well; nothing where both use the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// What reloads came to, or would come to.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloads {
    /// Each plugin, in the order in which they are reloaded.
    pub reloads: Vec<Reloaded>,
}

/// What became of one plugin.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Reloaded {
    /// Its id.
    pub id: String,
    /// The version that serves.
    pub version: String,
    /// The digest of the snapshot that it runs from.
    pub digest: String,
    /// The steps, in their order: `stage`, `verify`, `rehearse`, `hold`, `keep`, `start`, `hello`, `initialize`, `self_test`, `switch`, `drain`,
    /// `stop`, `probation`. None where nothing is done.
    pub steps: Vec<String>,
    /// What takes steps back where a later one fails, by step: `drop`, `release`, `put_back`, `switch_back`.
    pub undo: BTreeMap<String, String>,
    /// Why the package is not tried before it takes calls: `old_is_unused`, `old_is_paused`, `new_is_unused`, `nothing_to_return_to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untried: Option<String>,
    /// Whether the package that was looked at is the plugin's now.
    pub reloaded: bool,
    /// Why the plugin takes no calls, where it takes none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
    /// What became of the plugin's state, where that was exchanged as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<ExchangedState>,
    /// Why the package is not the plugin's, or would not be, where it was to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether that is because an operator has returned from the package in its folder, which is not tried unless somebody names the plugin.
    pub returned: bool,
    /// What else there is to know of a plan: sentences.
    pub notes: Vec<String>,
}

/// A state that was put in the place of another one.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExchangedState {
    /// When it was the plugin's, in ms since the epoch.
    pub at_unix_ms: u64,
    /// The file in which the other one is kept.
    pub aside: String,
}

/// The packages of a plugin that served before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Backups {
    /// The youngest first.
    pub backups: Vec<Backup>,
    /// Copies of what it kept, the youngest first.
    pub states: Vec<KeptState>,
}

/// A copy of what a plugin kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KeptState {
    /// By which `state_show` and `state_export` know it.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// When the plugin had it, in milliseconds since the epoch.
    pub at_unix_ms: u64,
    /// How long the file is.
    pub bytes: u64,
    /// Of which backup it is, by its number; of none where it was put aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<u64>,
}

/// A package that served before.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Backup {
    /// By which `rollback` knows it.
    pub number: u64,
    /// When another took its place, in milliseconds since the epoch.
    pub at_unix_ms: u64,
    /// Its version.
    pub version: String,
    /// The digest of its snapshot.
    pub digest: String,
    /// Why it serves no more: a sentence.
    pub reason: String,
    /// How much its files have.
    pub bytes: u64,
    /// Whether it is what serves now.
    pub serves: bool,
    /// Whether what the plugin kept then is there with it.
    pub with_state: bool,
}

/// Some of what was done with plugins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Trail {
    /// The youngest that were asked for, the oldest of these first.
    pub entries: Vec<TrailEntry>,
    /// Whether there are older ones that were asked for: before the first of these.
    pub more: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TrailEntry {
    /// By which it is named; a later one has a higher number.
    pub number: u64,
    /// When, in milliseconds since the epoch.
    pub at_unix_ms: u64,
    /// By whom: `uid:0`, or `palisade` for the supervisor itself.
    pub who: String,
    /// What: a word.
    pub what: String,
    /// With which plugin.
    pub id: String,
    /// With which version of it; empty where all are meant.
    pub version: String,
    /// The rest: a sentence, or nothing.
    pub detail: String,
}

/// Which of what was done with plugins.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Audit<'a> {
    /// Of this plugin, which need not be there any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plugin: Option<&'a str>,
    /// A version of it, which has to be there; the plugin in all its versions is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<&'a str>,
    /// Since then, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since_unix_ms: Option<u64>,
    /// Before what has that number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<u64>,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
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
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Its licence, an SPDX expression.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license: Option<String>,
    /// Its address on the web.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub homepage: Option<String>,
    /// What kind of plugin it is.
    pub kind: String,
    /// What it can be looked for by.
    pub capabilities: Vec<String>,
    /// The same, in its author's words.
    pub tags: Vec<String>,
    /// What it depends on.
    pub dependencies: Vec<Need>,
    /// Plugins that depend on it, as `id version`.
    pub dependants: Vec<String>,
    /// How it came here, if it was installed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installed: Option<Origin>,
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

/// A package that is not used.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Refused {
    /// Its version.
    pub version: String,
    /// The digest of its snapshot.
    pub digest: String,
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
    /// Of `package_changed`: the version before, where it is another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_version: Option<String>,
    /// Of `package_changed`: the digest of the package that it has now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Of `package_changed`: that of the one before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_digest: Option<String>,
    /// Of `package_kept` and `package_rolled_back`: the package that is not used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refused>,
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

/// What a plugin is configured with.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Configuration {
    /// Which plugin.
    pub id: String,
    /// The version by whose schema.
    pub version: String,
    /// What its processes get that are started now, with the schema's defaults; where that does not fit, what was said.
    pub configuration: Value,
    /// What of it does not fit: then none is started.
    pub unfit: Vec<ConfigurationViolation>,
    /// What `palisade.toml` says.
    pub file: Value,
    /// What an operator has said since, by place.
    pub said: BTreeMap<String, Value>,
    /// What it has to fit, if there is anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// The changes, the first first.
    pub history: Vec<PastConfiguration>,
}

/// The parameters of `secret_set`, in memory that is wiped with their last copy; for a request that is [`Request::secret`].
///
/// # Errors
/// [`CallError::Invalid`]
pub fn secret_params<'a>(target: impl Into<Target<'a>>, name: &str, value: &str) -> Result<Raw, CallError> {
    // Not `flatten`: what is written of it then is copied once more.
    #[derive(Serialize)]
    struct Set<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        plugin: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<&'a str>,
        name: &'a str,
        value: &'a str,
    }
    let Target { plugin, version } = target.into();
    let named = plugin.map_or(0, str::len) + version.map_or(0, str::len) + name.len();
    // Room for the names of four fields and the lengths of four texts, so that it does not grow and leave what it had behind.
    let mut params = Zeroizing::new(Vec::with_capacity(80 + named + value.len()));
    palisade_protocol::encode_value(&mut params, &Set { plugin, version, name, value })
        .map_err(|error| CallError::invalid(error.to_string()))?;
    Ok(Raw::new(Bytes::from_owner(params)))
}

/// The secrets of a plugin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Secrets {
    /// Which plugin.
    pub id: String,
    /// Those that a version of it asks for, and those that are set, by name.
    pub secrets: Vec<SecretStatus>,
}

/// One secret. What it is nobody is told.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct SecretStatus {
    /// What it is called.
    pub name: String,
    /// Whether it is set.
    pub set: bool,
    /// Since when, in milliseconds since the epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_unix_ms: Option<u64>,
    /// By whom it was set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// The version that asks for it, the highest if there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// What was decided of it for that version: `granted`, `denied` or `asked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Whether the plugin does without.
    pub optional: bool,
    /// Why the plugin wants it, in its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What setting or removing a secret came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct SecretChange {
    /// Of which plugin.
    pub id: String,
    /// Which secret.
    pub name: String,
    /// Whether it is set now.
    pub set: bool,
    /// Whether it was set before.
    pub was_set: bool,
}

/// What a plugin keeps, in short.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct State {
    /// Which plugin.
    pub id: String,
    /// How many keys there are.
    pub keys: u64,
    /// What they take on the disk.
    pub bytes: u64,
    /// The number of the last write.
    pub revision: u64,
    /// The version of its form, if anybody has said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<u32>,
    /// Keys in their order.
    pub pairs: Vec<StatePair>,
    /// There are more after the last of these.
    pub more: bool,
}

/// A key of what a plugin keeps.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct StatePair {
    /// The key.
    pub key: String,
    /// The number of the write that made its value.
    pub revision: u64,
    /// How long the value is, encoded; not said in an export.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The value in its JSON form, in an export and of a key that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<Value>,
}

/// What an import or a reset came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct StateChange {
    /// Which plugin.
    pub id: String,
    /// How many keys there were.
    pub before: u64,
    /// How many there are.
    pub keys: u64,
}

/// What of a configuration does not fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct ConfigurationViolation {
    /// Where: a JSON pointer.
    pub at: String,
    /// What is wrong there, and what is allowed.
    pub problem: String,
}

/// A change of a configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct PastConfiguration {
    /// Which of the plugin's, from 1.
    pub number: u64,
    /// When it was made.
    pub at_unix_ms: u64,
    /// By whom.
    pub by: String,
    /// The places that it changed.
    pub places: Vec<String>,
    /// What was said before of those places, without those of which nothing was.
    pub was: BTreeMap<String, Value>,
    /// What was said after it, by place.
    pub said: BTreeMap<String, Value>,
    /// Whether it was taken back.
    pub undone: bool,
}

/// What a change of a configuration came to.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct ConfigurationChange {
    /// Which plugin.
    pub id: String,
    /// The version by whose schema.
    pub version: String,
    /// What its processes get from now on.
    pub configuration: Value,
    /// The places that were changed.
    pub places: Vec<String>,
    /// How: `unchanged`, `nothing_runs`, `accepted` or `restarted`.
    pub applied: String,
    /// What there is to know about it: sentences.
    pub notes: Vec<String>,
}
