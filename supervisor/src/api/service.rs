//! The operations of the daemon: calls to plugins, and what an operator can ask for.
//!
//! Administrative operations are calls to the reserved plugin id `palisade`. Each is a row of [`ACTIONS`], which is also what
//! `describe` answers for that id, so that the command line types their parameters as it does those of any plugin.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime};

use palisade_protocol::{ActionInfo, ErrorBody, ErrorCode, Level, SUPERVISOR_ID, StreamInfo, StreamKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Notify, broadcast, watch};
use tokio::task::JoinHandle;

use super::package_operations;
use crate::config::Config;
use crate::doctor;
use crate::events::{Bus, Event, EventKind, unix_ms};
use crate::model::generation::StopWhy;
use crate::model::ids::PluginId;
use crate::model::limits::{Allowance, CpuOver};
use crate::model::status::{PluginState, PreparedLaunchers, quoted};
use crate::packages::{Packages, keeping, search};
use crate::plugin::call::{Call, NewCall};
use crate::plugin::handle::{Handle, Operation};
use crate::plugin::limiting;
use crate::plugin::logs::{Hub, Line};
use crate::registry::{Live, Registry};
use crate::router::{self, Target};
use crate::sandbox::probe;

/// Most lines that `logs` returns at once.
const LINES_MAX: usize = 10_000;

/// How many it returns if not told.
const LINES_DEFAULT: usize = 100;

/// Everything that the operations work on.
#[derive(Debug)]
pub struct Service {
    /// The plugins, once they have been found.
    pub registry: Arc<Live>,
    /// What changes them; absent where nothing does.
    pub packages: Option<Arc<Packages>>,
    /// What plugins say.
    pub hub: Hub,
    /// What happens.
    pub bus: Bus,
    /// What was configured.
    pub config: Arc<Config>,
    /// What this host can do.
    pub host: probe::Host,
    /// Why launchers are executed one by one, if they are.
    pub one_by_one: watch::Receiver<Option<String>>,
    /// The launchers that are made before they are needed.
    pub prepared: watch::Receiver<PreparedLaunchers>,
    /// When the daemon started.
    pub started: (Instant, SystemTime),
    /// Rung when somebody asks the daemon to stop.
    pub stop: Notify,
    /// No new calls, and no operation that changes anything: the daemon stops.
    pub stopping: AtomicBool,
    /// Everything has happened that will: whoever follows is done.
    pub ended: watch::Sender<bool>,
}

/// Where an operation that goes on puts its items.
pub trait Items: Send {
    /// Opens the stream, so that its reader knows from when on nothing is missed. Without it the first item does.
    fn open(&mut self);

    /// Sends one item; waits while the reader is slow. An error means that nobody reads any more.
    fn send(&mut self, item: Value) -> impl Future<Output = Result<(), ErrorBody>> + Send;
}

/// An operation's name, description, parameters (name, JSON type, whether required) and whether it streams items.
type Row = (&'static str, &'static str, &'static [(&'static str, &'static str, bool)], bool);

const PLUGIN: (&str, &str, bool) = ("plugin", "string", true);
const PLUGIN_OPTIONAL: (&str, &str, bool) = ("plugin", "string", false);
const VERSION: (&str, &str, bool) = ("version", "string", false);

/// Every administrative operation.
pub const ACTIONS: &[Row] = &[
    ("list", "All plugins, and packages that cannot be used.", &[], false),
    ("status", "The daemon's status, or that of one plugin.", &[PLUGIN_OPTIONAL, VERSION], false),
    ("info", "What a plugin is, what it can do, and what confines it.", &[PLUGIN, VERSION], false),
    (
        "describe",
        "A plugin's actions; starts it if they are not known yet.",
        &[PLUGIN, VERSION, ("action", "string", false)],
        false,
    ),
    ("start", "Starts a plugin and keeps it running.", &[PLUGIN, VERSION], false),
    ("stop", "Stops a plugin until it is started again.", &[PLUGIN, VERSION, ("force", "boolean", false)], false),
    ("restart", "Replaces the process of a plugin.", &[PLUGIN, VERSION], false),
    ("pause", "Freezes a plugin.", &[PLUGIN, VERSION], false),
    ("resume", "Lets a frozen plugin go on.", &[PLUGIN, VERSION], false),
    ("reset", "Forgives a plugin its failures, forgets them, and ends its quarantine.", &[PLUGIN, VERSION], false),
    (
        "limit",
        "Changes how much a plugin may have, until the daemon ends.",
        &[
            PLUGIN,
            VERSION,
            ("memory_mib", "integer", false),
            ("cpu_percent", "integer", false),
            ("pids", "integer", false),
            ("open_files", "integer", false),
            ("file_size_mib", "integer", false),
            ("disk_mib", "integer", false),
            ("log_kib_per_second", "integer", false),
            ("cpu_over", "string", false),
        ],
        false,
    ),
    (
        "logs",
        "What plugins said.",
        &[
            PLUGIN_OPTIONAL,
            VERSION,
            ("lines", "integer", false),
            ("follow", "boolean", false),
            ("level", "string", false),
        ],
        true,
    ),
    ("events", "What happens, from now on.", &[PLUGIN_OPTIONAL, VERSION, ("follow", "boolean", false)], true),
    ("doctor", "What this host can do, and what is wrong.", &[], false),
    ("version", "The daemon's version.", &[], false),
    (
        "install",
        "Installs the package in a folder or an archive.",
        &[("path", "string", true), ("major", "boolean", false), ("force", "boolean", false)],
        false,
    ),
    (
        "uninstall",
        "Removes an installed version; its data stay, unless they are purged.",
        &[PLUGIN, VERSION, ("force", "boolean", false), ("purge", "boolean", false)],
        false,
    ),
    ("enable", "Has a version take calls again.", &[PLUGIN, VERSION], false),
    ("disable", "Stops a version, and has it take no calls, until it is enabled.", &[PLUGIN, VERSION], false),
    ("permissions", "What plugins ask for, and what was decided.", &[PLUGIN_OPTIONAL, VERSION], false),
    ("pending", "The plugins that wait for an operator's consent.", &[], false),
    (
        "grant",
        "Grants a plugin what it asks for, and lets it take calls.",
        &[
            PLUGIN,
            VERSION,
            ("permissions", "array", false),
            ("definitions", "boolean", false),
            ("digest", "string", false),
        ],
        false,
    ),
    (
        "revoke",
        "Takes back or refuses what a plugin asks for; it goes on without.",
        &[PLUGIN, VERSION, ("permissions", "array", false), ("stop", "boolean", false), ("forget", "boolean", false)],
        false,
    ),
    (
        "deprecate",
        "Has others be chosen before a version, and whoever uses it be told.",
        &[PLUGIN, VERSION, ("reason", "string", false), ("undo", "boolean", false)],
        false,
    ),
    ("stats", "How plugins are used: installations, calls, how long they took.", &[PLUGIN_OPTIONAL, VERSION], false),
    (
        "search",
        "Plugins by what they say of themselves, the best first.",
        &[
            ("text", "string", false),
            ("tag", "string", false),
            ("capability", "string", false),
            ("kind", "string", false),
            ("permission", "string", false),
            ("state", "string", false),
        ],
        false,
    ),
    ("capabilities", "Who can do what, or what a plugin can do.", &[PLUGIN_OPTIONAL, VERSION], false),
    (
        "update",
        "Has newer versions take calls, or installs them, from where plugins were installed or from elsewhere; or says which there are.",
        &[
            PLUGIN_OPTIONAL,
            VERSION,
            ("to_version", "string", false),
            ("path", "string", false),
            ("check", "boolean", false),
            ("major", "boolean", false),
            ("force", "boolean", false),
        ],
        false,
    ),
    (
        "config",
        "What a plugin is configured with, where each of it comes from, and how it was changed.",
        &[PLUGIN, VERSION],
        false,
    ),
    (
        "configure",
        "Changes what a plugin is configured with: the process that serves, too, or nothing.",
        &[PLUGIN, VERSION, ("set", "object", false), ("unset", "array", false), ("undo", "boolean", false)],
        false,
    ),
    ("secret_list", "Which secrets a plugin asks for, and which are set.", &[PLUGIN, VERSION], false),
    (
        "secret_set",
        "Sets a secret that a plugin asks for.",
        &[PLUGIN, VERSION, ("name", "string", true), ("value", "string", true)],
        false,
    ),
    ("secret_remove", "Removes a secret of a plugin.", &[PLUGIN, VERSION, ("name", "string", true)], false),
    (
        "state_show",
        "What a plugin keeps, in short, or one key of it.",
        &[
            PLUGIN,
            VERSION,
            ("key", "string", false),
            ("prefix", "string", false),
            ("after", "string", false),
            ("from", "string", false),
        ],
        false,
    ),
    ("state_export", "All that a plugin keeps, or kept.", &[PLUGIN, VERSION, ("from", "string", false)], true),
    (
        "state_import",
        "Has a plugin keep what an export says, and nothing else.",
        &[PLUGIN, VERSION, ("path", "string", true)],
        false,
    ),
    ("state_reset", "Has a plugin keep nothing any more.", &[PLUGIN, VERSION], false),
    ("rescan", "Looks into the plugin directories again, and reads everything.", &[], false),
    (
        "reload",
        "Gives a plugin, or all, the package in its folder, once a process of it is active.",
        &[PLUGIN_OPTIONAL, VERSION, ("dry_run", "boolean", false)],
        false,
    ),
    ("backups", "The packages of a plugin that served before, and copies of what it kept.", &[PLUGIN, VERSION], false),
    (
        "rollback",
        "Returns to a package that served before.",
        &[PLUGIN, VERSION, ("to", "integer", false), ("with_state", "boolean", false)],
        false,
    ),
    (
        "audit",
        "What was done with plugins, by whom and why, the oldest first.",
        &[
            PLUGIN_OPTIONAL,
            VERSION,
            ("since_unix_ms", "integer", false),
            ("before", "integer", false),
            ("limit", "integer", false),
        ],
        false,
    ),
    ("shutdown", "Stops the daemon and all plugins.", &[], false),
];

/// Those of them that are an operator's: what they change, or show, is not only the caller's.
pub const CHANGES: &[&str] = &[
    "start",
    "stop",
    "restart",
    "pause",
    "resume",
    "reset",
    "limit",
    "install",
    "uninstall",
    "enable",
    "disable",
    "grant",
    "revoke",
    "deprecate",
    "rescan",
    "update",
    "config",
    "configure",
    "secret_list",
    "secret_set",
    "secret_remove",
    "state_show",
    "state_export",
    "state_import",
    "state_reset",
    "reload",
    "rollback",
    "audit",
    "shutdown",
];

/// Those of them whose parameters have a secret in them.
pub const SECRET: &str = "secret_set";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    pub plugin: String,
    pub version: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct StatusParams {
    pub plugin: Option<String>,
    pub version: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DescribeParams {
    plugin: String,
    version: Option<String>,
    action: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StopParams {
    pub plugin: String,
    pub version: Option<String>,
    #[serde(default)]
    pub force: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitParams {
    plugin: String,
    version: Option<String>,
    memory_mib: Option<u64>,
    cpu_percent: Option<u64>,
    pids: Option<u64>,
    open_files: Option<u64>,
    file_size_mib: Option<u64>,
    disk_mib: Option<u64>,
    log_kib_per_second: Option<u64>,
    cpu_over: Option<CpuOver>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogsParams {
    plugin: Option<String>,
    version: Option<String>,
    lines: Option<usize>,
    #[serde(default)]
    follow: bool,
    level: Option<Level>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExportParams {
    plugin: String,
    version: Option<String>,
    from: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsParams {
    plugin: Option<String>,
    version: Option<String>,
    /// Accepted for symmetry with `logs`; events that have passed are not kept.
    #[serde(default)]
    #[expect(dead_code, reason = "part of the operation's parameters")]
    follow: bool,
}

impl Service {
    pub(super) fn registry(&self) -> Result<Arc<Registry>, ErrorBody> {
        self.registry.now().ok_or_else(|| {
            ErrorBody::new(ErrorCode::Unavailable, "the daemon is still looking for its plugins")
                .with_retry_after_ms(200)
        })
    }

    pub(super) fn refuse_while_stopping(&self) -> Result<(), ErrorBody> {
        if self.stopping.load(Ordering::Relaxed) {
            let hint = "call again once the daemon is back";
            return Err(ErrorBody::new(ErrorCode::Unavailable, "the daemon is stopping").with_hint(hint));
        }
        Ok(())
    }

    /// Sends a call to a plugin.
    ///
    /// # Errors
    /// Why it was refused; nothing was sent then.
    pub fn call(&self, target: Target<'_>, call: NewCall, known: impl FnOnce(&Arc<Call>)) -> Result<(), ErrorBody> {
        self.refuse_while_stopping()?;
        router::route(&*self.registry()?, target, call, known)
    }

    /// The actions of the reserved id, as `describe` shows them.
    #[must_use]
    pub fn own_actions() -> Vec<ActionInfo> {
        let info = |(name, description, parameters, streams): &Row| {
            let properties: serde_json::Map<_, _> =
                parameters.iter().map(|(name, kind, _)| ((*name).to_owned(), json!({ "type": kind }))).collect();
            let required: Vec<_> =
                parameters.iter().filter(|(_, _, required)| *required).map(|(name, _, _)| *name).collect();
            let schema = json!({
                "type": "object", "properties": properties, "required": required, "additionalProperties": false,
            });
            ActionInfo {
                name: (*name).to_owned(),
                description: (*description).to_owned(),
                parameters: Some(schema),
                output: streams.then_some(StreamInfo { kind: StreamKind::Items, item: None }),
                ..ActionInfo::default()
            }
        };
        ACTIONS.iter().map(info).collect()
    }

    /// Performs an administrative operation. `items` takes what an operation with an output stream sends before its result.
    ///
    /// Cancel safe: what was begun in a plugin goes on.
    ///
    /// # Errors
    /// What went wrong, in the taxonomy's terms.
    pub async fn operate(
        &self,
        who: &str,
        action: &str,
        params: &[u8],
        items: &mut impl Items,
    ) -> Result<Value, ErrorBody> {
        match action {
            #[cfg(test)]
            "panic" => {
                items.open();
                panic!("as the test wants it")
            }
            "list" => {
                parameters::<NoParams>(params)?;
                self.list()
            }
            "status" => {
                let StatusParams { plugin, version } = parameters(params)?;
                match plugin {
                    Some(plugin) => {
                        let handle = self.find(&plugin, version.as_deref())?;
                        let mut status = handle.status().await;
                        if let Some(packages) = &self.packages {
                            status.state_aside = packages.aside_of(handle.id()).await;
                        }
                        value(&status)
                    }
                    None => self.status(),
                }
            }
            "info" => {
                let Which { plugin, version } = parameters(params)?;
                self.info(&self.find(&plugin, version.as_deref())?).await
            }
            "describe" => {
                let DescribeParams { plugin, version, action } = parameters(params)?;
                self.describe(&plugin, version.as_deref(), action.as_deref()).await
            }
            "stop" => {
                let StopParams { plugin, version, force } = parameters(params)?;
                self.act(&plugin, version.as_deref(), Operation::Stop { force, why: StopWhy::Operator }).await
            }
            "start" | "restart" | "pause" | "resume" | "reset" => {
                let Which { plugin, version } = parameters(params)?;
                let operation = match action {
                    "start" => Operation::Start,
                    "restart" => Operation::Restart,
                    "pause" => Operation::Pause,
                    "resume" => Operation::Resume,
                    _ => Operation::Reset,
                };
                let done = self.act(&plugin, version.as_deref(), operation).await;
                if operation == Operation::Resume
                    && done.is_ok()
                    && let Some(packages) = &self.packages
                {
                    packages.try_after_pause(&self.find(&plugin, version.as_deref())?);
                }
                done
            }
            "limit" => self.limit(parameters(params)?).await,
            action if package_operations::NAMES.contains(&action) => self.package_operation(who, action, params).await,
            "state_export" => self.export(parameters(params)?, items).await,
            "logs" => self.logs(parameters(params)?, items).await,
            "events" => self.events(parameters(params)?, items).await,
            "doctor" => {
                parameters::<NoParams>(params)?;
                let registry = self.registry()?;
                let (one_by_one, prepared) = (self.one_by_one.borrow(), self.prepared.borrow());
                let forgets = self.packages.as_ref().and_then(|packages| packages.forgets());
                let unwatched = self.packages.as_ref().and_then(|packages| packages.unwatched());
                let known = doctor::Known {
                    one_by_one: one_by_one.as_deref(),
                    forgets: forgets.as_deref(),
                    unwatched: unwatched.as_deref(),
                    sealed_with: self.packages.as_ref().map(|packages| packages.secrets_sealed_with()),
                };
                value(&doctor::report(&self.host, &self.config, &known, &prepared, &registry))
            }
            "version" => {
                parameters::<NoParams>(params)?;
                Ok(json!({
                    "name": "palisaded",
                    "version": env!("CARGO_PKG_VERSION"),
                    "protocol": palisade_protocol::PROTOCOL,
                    "build": palisade_launcher::BUILD_ID,
                }))
            }
            "shutdown" => {
                parameters::<NoParams>(params)?;
                self.stop.notify_one();
                Ok(json!({}))
            }
            other => Err(no_operation(other)),
        }
    }

    /// One item for each pair.
    async fn export(&self, params: ExportParams, items: &mut impl Items) -> Result<Value, ErrorBody> {
        let ExportParams { plugin, version, from } = params;
        let plugin = self.as_a_whole(Which { plugin, version })?;
        let exported = self.packages()?.export(&plugin, from).await?;
        items.open();
        for pair in &exported.pairs {
            items.send(keeping::pair(pair)).await?;
        }
        let keeping::Exported { id, schema, revision, pairs } = exported;
        let mut end = json!({ "id": id, "keys": pairs.len(), "revision": revision });
        if let Some(schema) = schema {
            end["schema"] = json!(schema);
        }
        Ok(end)
    }

    fn find(&self, plugin: &str, version: Option<&str>) -> Result<Handle, ErrorBody> {
        self.registry()?.find_any(plugin, version).cloned()
    }

    /// One that takes calls.
    fn enabled(&self, plugin: &str, version: Option<&str>) -> Result<Handle, ErrorBody> {
        self.registry()?.find(plugin, version).cloned()
    }

    fn list(&self) -> Result<Value, ErrorBody> {
        let registry = self.registry()?;
        let plugins: Vec<_> = registry.all().map(Handle::summary).collect();
        Ok(json!({ "plugins": value(&plugins)?, "rejected": value(&registry.rejected())? }))
    }

    fn status(&self) -> Result<Value, ErrorBody> {
        let registry = self.registry()?;
        let mut states = serde_json::Map::new();
        for handle in registry.all() {
            let count = states.entry(handle.state().to_string()).or_insert(json!(0));
            *count = json!(count.as_u64().unwrap_or(0) + 1);
        }
        let uptime = self.started.0.elapsed().as_millis();
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "started_unix_ms": unix_ms(self.started.1),
            "uptime_ms": u64::try_from(uptime).unwrap_or(u64::MAX),
            "socket": self.config.socket,
            "state_directory": self.config.state_directory,
            "plugins": states,
            "rejected": registry.rejected().len(),
        }))
    }

    async fn info(&self, handle: &Handle) -> Result<Value, ErrorBody> {
        let info = handle.info().await;
        let process = info.status.generations.iter().find_map(|generation| generation.process_id);
        let has_run = info.status.state != PluginState::Discovered;
        let mut info = value(&info)?;
        let blueprint = handle.blueprint();
        if let Some(map) = info.as_object_mut() {
            if let Some(actions) = handle.actions() {
                map.insert("actions".to_owned(), value(&actions.infos())?);
            }
            if let Ok(snapshot) = blueprint.snapshot() {
                map.insert("snapshot".to_owned(), json!({ "digest": snapshot.digest, "path": snapshot.path }));
            }
            let guarantees = match process {
                Some(process) => {
                    let looked = handle.observed_guarantees(process).await;
                    looked.map_err(|error| {
                        ErrorBody::new(ErrorCode::Internal, format!("looking at what confines it: {error}"))
                    })?
                }
                None => blueprint.intended_guarantees(has_run),
            };
            map.insert("guarantees".to_owned(), value(&guarantees)?);
            let installed = match &self.packages {
                Some(packages) => packages.installation(handle.id(), handle.version()).await?,
                None => None,
            };
            let about = value(&search::about(&*self.registry()?, handle, installed))?;
            map.extend(about.as_object().cloned().unwrap_or_default());
            if blueprint.trace_denials {
                map.insert("denied".to_owned(), value(&handle.refusals(process.is_some()).await)?);
            }
            map.insert("permissions".to_owned(), json!(blueprint.grants.names()));
            if let Ok(Some(runtime)) = blueprint.runtime() {
                let mut told = json!({ "name": blueprint.manifest.runtime, "exec": runtime.exec().as_str() });
                if let Ok(digest) = runtime.digest() {
                    told["sha256"] = json!(digest);
                }
                map.insert("runtime".to_owned(), told);
            }
            let limits = &blueprint.manifest.limits;
            map.insert(
                "limits".to_owned(),
                json!({
                    "resources": blueprint.limits(),
                    "concurrency": limits.concurrency,
                    "queue": limits.queue,
                    "call_timeout_seconds": limits.call_timeout.as_secs_f64(),
                    "start_timeout_seconds": limits.start_timeout.as_secs_f64(),
                    "drain_timeout_seconds": limits.drain_timeout.as_secs_f64(),
                    "stop_grace_seconds": limits.stop_grace.as_secs_f64(),
                }),
            );
        }
        Ok(info)
    }

    async fn describe(&self, plugin: &str, version: Option<&str>, action: Option<&str>) -> Result<Value, ErrorBody> {
        if plugin == SUPERVISOR_ID {
            let mut actions = Self::own_actions();
            if let Some(name) = action {
                actions.retain(|info| info.name == name);
                if actions.is_empty() {
                    return Err(no_operation(name));
                }
            }
            return Ok(json!({ "actions": value(&actions)? }));
        }
        let handle = self.enabled(plugin, version)?;
        let actions = handle.describe().await?;
        let infos = match action {
            Some(name) => vec![actions.get(plugin, name)?.info()],
            None => actions.infos(),
        };
        let mut description = json!({ "actions": value(&infos)? });
        if let Some(warning) = handle.warning() {
            description["deprecated"] = json!(warning);
        }
        Ok(description)
    }

    async fn act(&self, plugin: &str, version: Option<&str>, operation: Operation) -> Result<Value, ErrorBody> {
        self.refuse_while_stopping()?;
        let mut handle = self.find(plugin, version)?;
        if matches!(operation, Operation::Start | Operation::Restart) && !handle.is_in_use() {
            // Which says why it is not.
            handle = self.enabled(plugin, Some(&format!("={}", handle.version())))?;
        }
        handle.operate(operation).await?;
        value(&handle.status().await)
    }

    async fn limit(&self, params: LimitParams) -> Result<Value, ErrorBody> {
        self.refuse_while_stopping()?;
        let LimitParams {
            plugin,
            version,
            memory_mib,
            cpu_percent,
            pids,
            open_files,
            file_size_mib,
            disk_mib,
            log_kib_per_second,
            cpu_over,
        } = params;
        let said = Allowance {
            memory_mib,
            cpu_percent,
            pids,
            open_files,
            file_size_mib,
            disk_mib,
            log_kib_per_second,
            cpu_over,
        };
        let handle = self.find(&plugin, version.as_deref())?;
        let changed = limiting::change(&handle, said).await?;
        let mut event = Event::new(EventKind::LimitsChanged);
        event.plugin = Some(handle.id().clone());
        event.version = Some(handle.version().to_string());
        event.reason = Some(limiting::written(&said));
        self.bus.publish(event);
        value(&changed)
    }

    async fn logs(&self, params: LogsParams, items: &mut impl Items) -> Result<Value, ErrorBody> {
        let plugin = self.known(params.plugin.as_deref(), params.version.as_deref())?;
        let wanted = |line: &Line| {
            plugin.as_ref().is_none_or(|plugin| *plugin == line.plugin)
                && params.level.is_none_or(|level| level <= line.level)
        };
        // Followed before the past is read, so that nothing falls between.
        let mut live = self.hub.follow();
        let mut ended = self.ended.subscribe();
        items.open();
        let most = params.lines.unwrap_or(LINES_DEFAULT).min(LINES_MAX);
        let past = self.hub.last(plugin.as_ref(), LINES_MAX);
        let past: Vec<_> = past.into_iter().filter(|line| wanted(line)).collect();
        for line in &past[past.len().saturating_sub(most)..] {
            items.send(value(&**line)?).await?;
        }
        if !params.follow {
            return Ok(json!({}));
        }
        loop {
            match next(&mut live, &mut ended).await {
                Ok(line) if wanted(&line) && !past.iter().any(|seen| Arc::ptr_eq(seen, &line)) => {
                    items.send(value(&*line)?).await?;
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    items.send(json!({ "missed": missed })).await?;
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(json!({})),
            }
        }
    }

    async fn events(&self, params: EventsParams, items: &mut impl Items) -> Result<Value, ErrorBody> {
        let plugin = self.known(params.plugin.as_deref(), params.version.as_deref())?;
        let mut live = self.bus.subscribe();
        let mut ended = self.ended.subscribe();
        items.open();
        loop {
            match next(&mut live, &mut ended).await {
                Ok(event) if plugin.as_ref().is_none_or(|plugin| event.plugin.as_ref() == Some(plugin)) => {
                    items.send(value(&*event)?).await?;
                }
                Ok(_) => {}
                Err(broadcast::error::RecvError::Lagged(missed)) => {
                    items.send(json!({ "missed": missed })).await?;
                }
                Err(broadcast::error::RecvError::Closed) => return Ok(json!({})),
            }
        }
    }

    /// The id of a plugin that there is, if one was named; if with a version, that is there as well.
    fn known(&self, plugin: Option<&str>, version: Option<&str>) -> Result<Option<PluginId>, ErrorBody> {
        versions_have_a_plugin(plugin, version)?;
        plugin.map(|plugin| self.find(plugin, version).map(|handle| handle.id().clone())).transpose()
    }

    /// What is asked of a plugin that all its versions have in common: one that is named has to be there.
    pub(super) fn as_a_whole(&self, Which { plugin, version }: Which) -> Result<String, ErrorBody> {
        if version.is_some() {
            self.find(&plugin, version.as_deref())?;
        }
        Ok(plugin)
    }

    /// Ends all plugins at once; `stop_plugins` then has nothing left to wait for.
    pub async fn kill_plugins(&self) {
        if let Some(registry) = self.registry.now() {
            for handle in registry.all() {
                handle.tell(crate::plugin::handle::Command::Kill).await;
            }
        }
        for handle in self.departing() {
            handle.tell(crate::plugin::handle::Command::Kill).await;
        }
    }

    /// Plugins that are in the registry no more and have not ended yet.
    fn departing(&self) -> Vec<Handle> {
        self.packages.as_ref().map(|packages| packages.departing()).unwrap_or_default()
    }

    /// Stops all plugins, those that depend on others first. Ends when no process is left.
    pub async fn stop_plugins(&self) {
        // Nothing depends on these any more.
        let departing = stop_all(&self.departing());
        if let Some(registry) = self.registry.now() {
            for group in registry.stop_order() {
                until_stopped(stop_all(&group)).await;
            }
        }
        until_stopped(departing).await;
        let Some(packages) = &self.packages else { return };
        for task in packages.take_tasks() {
            if let Err(error) = task.await {
                tracing::error!(%error, "the actor of a plugin panicked");
            }
        }
        packages.all_departed().await;
    }
}

/// A version by itself names nothing.
pub(super) fn versions_have_a_plugin(plugin: Option<&str>, version: Option<&str>) -> Result<(), ErrorBody> {
    match (plugin, version) {
        (None, Some(_)) => {
            Err(ErrorBody::new(ErrorCode::InvalidParams, "`version` is one of a `plugin`, and none is named"))
        }
        _ => Ok(()),
    }
}

fn stop_all(plugins: &[Handle]) -> Vec<JoinHandle<()>> {
    let stop = |handle: &Handle| {
        let handle = handle.clone();
        tokio::spawn(async move {
            // Its own ladder bounds this.
            let _ = handle.operate(Operation::Stop { force: false, why: StopWhy::Shutdown }).await;
            handle.tell(crate::plugin::handle::Command::Shutdown).await;
        })
    };
    plugins.iter().map(stop).collect()
}

async fn until_stopped(stopping: Vec<JoinHandle<()>>) {
    for stopped in stopping {
        if let Err(error) = stopped.await {
            tracing::error!(%error, "stopping a plugin panicked");
        }
    }
}

fn no_operation(name: &str) -> ErrorBody {
    let error = ErrorBody::new(ErrorCode::ActionNotFound, format!("{SUPERVISOR_ID} has no operation {}", quoted(name)));
    let names = || ACTIONS.iter().map(|row| row.0);
    match crate::model::nearest::nearest(name, names()) {
        Some(near) => error.with_hint(format!("did you mean {near:?}?")),
        None => error.with_hint(format!("its operations are {}", names().collect::<Vec<_>>().join(", "))),
    }
}

/// What comes next, until all that will come has.
async fn next<T: Clone>(
    live: &mut broadcast::Receiver<T>,
    ended: &mut watch::Receiver<bool>,
) -> Result<T, broadcast::error::RecvError> {
    tokio::select! {
        biased;
        item = live.recv() => item,
        _ = ended.wait_for(|ended| *ended) => Err(broadcast::error::RecvError::Closed),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NoParams {}

pub(super) fn parameters<T: DeserializeOwned>(params: &[u8]) -> Result<T, ErrorBody> {
    palisade_protocol::decode_value(params).map_err(|error| ErrorBody::new(ErrorCode::InvalidParams, error.to_string()))
}

pub(super) fn value<T: serde::Serialize + ?Sized>(of: &T) -> Result<Value, ErrorBody> {
    serde_json::to_value(of).map_err(|error| ErrorBody::new(ErrorCode::Internal, format!("cannot be shown: {error}")))
}

/// How long operators' sockets are served after the plugins have stopped, so that the last answers leave.
pub const LAST_ANSWERS: Duration = Duration::from_millis(500);
