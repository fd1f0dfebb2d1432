//! From packages to plugins: those that lie in the plugin directories, and those that an operator installed; and what changes of them
//! while the daemon runs.
//!
//! ```text
//! installed/ID@VERSION.json         what is installed: the digest of its snapshot, from where, when, by whom
//! registry.sqlite3                  what is disabled, the audit trail, counts
//! ```
//!
//! What is installed runs from its snapshot alone, so the folder that it came from may go. Its record is a file of its own, which appears
//! by a rename, and after its snapshot is on the disk: a crash leaves a version installed or not, and losing the database loses none.
//! Invariants: one change at a time; a change that fails leaves everything as it was; calls see the registry before a change or after it.
//! Elsewhere: which version a call is for is `registry`'s; copying is `store`'s.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

use crate::blocking;
use crate::config::{self, Config};
use crate::egress::Resolver;
use crate::events::{Bus, Event, EventKind, unix_ms};
use crate::model::generation::{LaunchFailure, StopWhy};
use crate::model::guarantee;
use crate::model::ids::PluginId;
use crate::model::limits::Limits;
use crate::model::manifest::Manifest;
use crate::plugin::actor::{self, Surroundings};
use crate::plugin::admission::{self, Admitted};
use crate::plugin::blueprint::{Blueprint, Host, OnDegraded};
use crate::plugin::handle::{Command, Handle, Operation};
use crate::plugin::logs::Hub;
use crate::plugin::network::Network;
use crate::plugin::numbers::{Numbers, Reserve};
use crate::plugin::refusals::Refusals;
use crate::registry::{self, DirectoryError, Discovery, Found, Live, Registry, Rejected};
use crate::store::database::{Condition, Database, Entry};
use crate::store::{Snapshot, Store, StoreError};
use crate::trust::Rules;

/// Most packages that can be installed.
pub const INSTALLED_MAX: usize = 10_000;

/// No record is longer.
const RECORD_BYTES_MAX: u64 = 64 << 10;

/// One installed version, as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Record {
    /// Of its snapshot, in hexadecimal.
    digest: String,
    /// The folder that it came from.
    source: String,
    installed_unix_ms: u64,
    /// `uid:0`, or whoever else it was.
    installed_by: String,
}

/// What every plugin is made with.
#[derive(Debug)]
pub struct Surrounding {
    /// The operator's.
    pub config: Arc<Config>,
    /// How this host runs plugins.
    pub host: Arc<Host>,
    /// Where copies are kept.
    pub store: Arc<Store>,
    /// Where it is told what happens.
    pub bus: Bus,
    /// And what plugins say.
    pub hub: Hub,
    /// When the daemon started.
    pub started: Instant,
}

/// The packages of a daemon.
#[derive(Debug)]
pub struct Packages {
    around: Surrounding,
    live: Arc<Live>,
    database: Arc<Database>,
    records: PathBuf,
    reserve: Arc<Reserve>,
    numbers: Mutex<HashMap<PluginId, Arc<Numbers>>>,
    tasks: Mutex<HashMap<(PluginId, Version), JoinHandle<()>>>,
    changing: tokio::sync::Mutex<()>,
}

/// What was found when the daemon started.
#[derive(Debug, Default)]
pub struct Gathered {
    staged: Vec<(Found, Result<Snapshot, LaunchFailure>)>,
    rejected: Vec<Rejected>,
    /// What an operator has said of versions.
    switched: BTreeMap<(PluginId, Version), bool>,
}

/// What an installation came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Installed {
    /// The plugin,
    pub id: String,
    /// its version,
    pub version: String,
    /// the digest of the snapshot,
    pub digest: String,
    /// and whether that was installed already.
    pub was_there: bool,
}

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The plugin,
    pub id: String,
    /// its version,
    pub version: String,
    /// plugins that depended on it and are without it now,
    pub broken: Vec<String>,
    /// and the folder of its data, which stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
}

impl Packages {
    /// None yet. The folders `installed` and `generations` of the state have to be there.
    #[must_use]
    pub fn new(around: Surrounding, live: Arc<Live>) -> Self {
        let state = around.config.state_directory.clone();
        let database = Database::open(&state.join("registry.sqlite3"));
        match database.condition() {
            Condition::Good => {}
            Condition::Renewed { aside, reason } => tracing::error!(
                aside = %aside.display(), %reason,
                "the registry's database was damaged and is begun anew; which versions are disabled has to be said again"
            ),
            Condition::Volatile { reason } => tracing::error!(
                %reason, "the registry's database cannot be used; what is changed now is forgotten when the daemon ends"
            ),
        }
        Self {
            around,
            live,
            database: Arc::new(database),
            records: state.join("installed"),
            reserve: Arc::new(Reserve::open(state.join("generations"))),
            numbers: Mutex::default(),
            tasks: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
        }
    }

    /// Why what is changed is not remembered, or what was forgotten, if anything is wrong with the database: a sentence.
    #[must_use]
    pub fn forgets(&self) -> Option<String> {
        match self.database.condition() {
            Condition::Good => None,
            Condition::Renewed { aside, reason } => {
                Some(format!("it was damaged ({reason}) and begun anew; the old one is {}", aside.display()))
            }
            Condition::Volatile { reason } => Some(format!("what is changed is forgotten with the daemon: {reason}")),
        }
    }

    /// Finds all packages and copies them into the store, those of the plugin directories first. Ends early when the store is closed.
    ///
    /// # Errors
    /// [`DirectoryError`] for a plugin directory that cannot be searched; the outer one when there is no thread to be had.
    pub async fn gather(&self) -> io::Result<Result<Gathered, DirectoryError>> {
        let (directories, records) = (self.around.config.plugin_directories.clone(), self.records.clone());
        let (store, host, database) = (self.around.store.clone(), self.around.host.clone(), self.database.clone());
        blocking::run(move || {
            let Discovery { found, rejected } = registry::discover(&directories)?;
            let staged = found
                .into_iter()
                .map(|mut found| {
                    let admitted = admission::admit(&store, &host.rules, &found.path, &found.manifest);
                    let snapshot = admitted.map(|Admitted { snapshot, warnings }| {
                        found.warnings.extend(warnings);
                        snapshot
                    });
                    (found, snapshot)
                })
                .collect();
            let switched = database.switched().unwrap_or_else(|error| {
                tracing::error!(%error, "which versions are disabled is not known; it is as their manifests say");
                BTreeMap::new()
            });
            let mut gathered = Gathered { staged, rejected, switched };
            gathered.add_installed(&records, &store, &host.rules);
            Ok(gathered)
        })
        .await
    }

    /// Brings them to life, and those that always run start.
    pub async fn begin(&self, gathered: Gathered) {
        let Gathered { staged, rejected, switched } = gathered;
        for rejected in &rejected {
            tracing::warn!(package = %rejected.path.display(), reason = %rejected.reason, "package not used");
        }
        let mut handles = Vec::new();
        for (found, snapshot) in staged {
            if let Err(reason) = &snapshot {
                tracing::warn!(plugin = %found.manifest.id, reason = %reason.message, "the package cannot be used");
            }
            let handle = self.make(found, snapshot);
            let said = switched.get(&(handle.id().clone(), handle.version().clone()));
            handle.set_enabled(said.copied().unwrap_or(handle.blueprint().manifest.default_enabled));
            handles.push(handle);
        }
        self.live.replace(Registry::new(handles, rejected));
        let Some(registry) = self.live.now() else { return };
        for handle in registry.all().filter(|handle| handle.is_enabled()) {
            if let Err(unmet) = registry.resolve(&handle.blueprint().manifest) {
                tracing::warn!(plugin = %handle.id(), %unmet, "what it depends on is not here");
            }
        }
        for group in registry.start_order() {
            for handle in group {
                if handle.is_enabled() {
                    handle.tell(Command::Begin).await;
                }
            }
        }
    }

    /// Makes the plugin that a package is, which does not run yet.
    fn make(&self, found: Found, snapshot: Result<Snapshot, LaunchFailure>) -> Handle {
        let Surrounding { config, host, store, bus, hub, started } = &self.around;
        let id = found.manifest.id.clone();
        let configured = config.plugins.get(&id).cloned().unwrap_or_default();
        let limits = Limits::decide(&found.manifest.limits.resources, &configured.limits, &config.defaults.limits);
        let mut warnings = found.warnings;
        warnings.extend(limits.refusals());
        let (grants, unasked) = configured.grant.within(&found.manifest.permissions);
        warnings.extend(unasked);
        for warning in &warnings {
            tracing::warn!(plugin = %id, %warning, "plugin.json");
        }
        let resolver = Resolver::new(Arc::new(config.egress.hosts.clone()));
        let require = guarantee::required(&found.manifest.require, &config.defaults.require, &configured.require);
        let blueprint = Blueprint {
            source: found.path,
            warnings,
            snapshot: Mutex::new(snapshot),
            store: store.clone(),
            host: host.clone(),
            configuration: serde_json::Value::Object(configured.configuration),
            configured_limits: limits,
            said_limits: Mutex::default(),
            network: Network::new(&grants, &config.egress.policy, resolver, config.egress.limits.clone(), bus.clone()),
            trace_denials: configured.trace_denials,
            denials: Refusals::default(),
            require,
            grants,
            on_degraded: match configured.on_degraded {
                config::OnDegraded::Refuse => OnDegraded::Refuse,
                config::OnDegraded::Warn => OnDegraded::Warn,
            },
            manifest: found.manifest,
        };
        let numbers = lock(&self.numbers)
            .entry(id.clone())
            .or_insert_with(|| Arc::new(Numbers::open(&self.reserve, id.as_str())))
            .clone();
        blueprint.make_ready();
        for shortfall in blueprint.shortfalls() {
            tracing::warn!(plugin = %id, %shortfall, "this host cannot confine the plugin as it should be");
        }
        let surroundings = Surroundings { bus: bus.clone(), hub: hub.clone(), started: *started };
        let (handle, task) = actor::start(blueprint, surroundings, numbers);
        lock(&self.tasks).insert((id, handle.version().clone()), task);
        handle
    }

    /// Installs the package in this folder, which is not needed afterwards.
    ///
    /// Not cancel safe: the package may have been copied, or be installed and not started.
    ///
    /// # Errors
    /// `configuration_invalid` for a package that cannot be used, with all that is wrong with it; `invalid_params` where that version is
    /// there already in another form, or the folder is none; `dependency_unavailable` where what it needs is not here, unless `force` is
    /// given; `resource_exhausted` where there is no room.
    pub async fn install(&self, folder: &Path, force: bool, who: &str) -> Result<Installed, ErrorBody> {
        let _one_change = self.changing.lock().await;
        let (store, host, source) = (self.around.store.clone(), self.around.host.clone(), folder.to_owned());
        let (found, snapshot) = run(move || take_in(&store, &host.rules, &source)).await??;
        let (id, version) = (found.manifest.id.clone(), found.manifest.version.clone());
        let mut answer = Installed {
            id: id.to_string(),
            version: version.to_string(),
            digest: snapshot.digest.clone(),
            was_there: false,
        };
        let registry = self.registry()?;
        if let Some((_, there)) = registry.versions(&id).find(|(there, _)| **there == version) {
            if there.blueprint().snapshot().is_ok_and(|there| there.digest == snapshot.digest) {
                answer.was_there = true;
                return Ok(answer);
            }
            let place = there.blueprint().source.display().to_string();
            let message = format!("{id} {version} is there already, from {place}, with other contents");
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message).with_hint(format!(
                "give the package another version, or remove that one: `palisade uninstall {id}@{version}`"
            )));
        }
        if !force && let Err(unmet) = registry.resolve(&found.manifest) {
            let message = format!("{id} {version} cannot be had with what is here: {unmet}");
            return Err(ErrorBody::new(ErrorCode::DependencyUnavailable, message)
                .with_hint("install or enable what is missing first, or use --force"));
        }
        let record = Record {
            digest: snapshot.digest.clone(),
            source: folder.display().to_string(),
            installed_unix_ms: unix_ms(SystemTime::now()),
            installed_by: who.to_owned(),
        };
        let entry = self.entry("install", who, &id, &version, format!("{} from {}", snapshot.digest, record.source));
        let (path, database) = (self.record_of(&id, &version), self.database.clone());
        let records = self.records.clone();
        run(move || {
            let there = fs::read_dir(&records).map_err(|error| no_room(&records, &error))?.count();
            if INSTALLED_MAX <= there {
                let message = format!("{INSTALLED_MAX} versions are installed, and no more can be");
                return Err(ErrorBody::new(ErrorCode::ResourceExhausted, message));
            }
            write_record(&path, &record).map_err(|error| no_room(&path, &error))?;
            database.installed(&entry).map_err(|error| {
                // It is as if it had never been.
                let _ = fs::remove_file(&path);
                ErrorBody::new(ErrorCode::ResourceExhausted, error.to_string())
            })
        })
        .await??;
        let handle = self.make(found, Ok(snapshot));
        handle.set_enabled(handle.blueprint().manifest.default_enabled);
        let mut registry = Registry::clone(&registry);
        registry.put(handle.clone());
        self.live.replace(registry);
        self.tell(EventKind::PackageInstalled, &id, &version, None);
        if handle.is_enabled() {
            handle.tell(Command::Begin).await;
        }
        Ok(answer)
    }

    /// Removes an installed version: its calls end as at a stop, and its data stay.
    ///
    /// Not cancel safe: it may be removed, and not stopped yet.
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found`; `invalid_params` where it lies in a plugin directory, where several fit, or where others
    /// depend on it, unless `force` is given.
    pub async fn uninstall(
        &self,
        plugin: &str,
        version: Option<&str>,
        force: bool,
        who: &str,
    ) -> Result<Removed, ErrorBody> {
        let _one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let handle = the_one(&registry, plugin, version)?;
        let (id, version) = (handle.id().clone(), handle.version().clone());
        let record = self.record_of(&id, &version);
        if !record.exists() {
            let place = handle.blueprint().source.display().to_string();
            let message = format!("{id} {version} was not installed: it lies in {place}");
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message)
                .with_hint(format!("take it out of there, or `palisade disable {id}@{version}`")));
        }
        let broken = dependants(&registry, &id, &version);
        if !broken.is_empty() && !force {
            let message = format!("{} on {id} {version}", depend(&broken));
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message)
                .with_hint("remove those first, or use --force, and they are without it"));
        }
        let entry = self.entry("uninstall", who, &id, &version, String::new());
        let database = self.database.clone();
        run(move || {
            fs::remove_file(&record).and_then(|()| sync_parent(&record)).map_err(|error| no_room(&record, &error))?;
            // The version is gone, whether that was noted or not.
            if let Err(error) = database.removed(&entry) {
                tracing::error!(%error, "that a version was removed is not in the audit trail");
            }
            Ok::<_, ErrorBody>(())
        })
        .await??;
        let mut without = Registry::clone(&registry);
        without.take(&id, &version);
        self.live.replace(without);
        drop(registry);
        self.tell(EventKind::PackageRemoved, &id, &version, None);
        let task = lock(&self.tasks).remove(&(id.clone(), version.clone()));
        self.end(&handle, task).await;
        let data = handle.blueprint().data_folder();
        // Versions share it. One that was made beforehand and never used is nothing to be kept.
        let is_shared = self.registry()?.versions(&id).next().is_some();
        let stays = is_shared
            || run({
                let data = data.clone();
                move || fs::remove_dir(&data).is_err() && data.is_dir()
            })
            .await?;
        drop(handle);
        let store = self.around.store.clone();
        // In its own time: what is kept for a return is decided there.
        tokio::spawn(async move {
            if let Err(error) = blocking::run(move || store.sweep()).await {
                tracing::warn!(%error, "superfluous snapshots stay until the next start");
            }
        });
        Ok(Removed { id: id.to_string(), version: version.to_string(), broken, data: stays.then_some(data) })
    }

    /// Has a version take calls, or take none. One that is disabled is stopped; other versions are as they were.
    ///
    /// Not cancel safe: it may be disabled, and not stopped yet.
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found`, `invalid_params` where several fit; `resource_exhausted` where it cannot be noted.
    pub async fn enable(
        &self,
        plugin: &str,
        version: Option<&str>,
        enabled: bool,
        who: &str,
    ) -> Result<Handle, ErrorBody> {
        let _one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let handle = the_one(&registry, plugin, version)?;
        let (id, version) = (handle.id().clone(), handle.version().clone());
        if handle.is_enabled() == enabled {
            return Ok(handle);
        }
        let what = if enabled { "enable" } else { "disable" };
        let entry = self.entry(what, who, &id, &version, String::new());
        let database = self.database.clone();
        let noted = run(move || database.switch(enabled, &entry)).await?;
        noted.map_err(|error| ErrorBody::new(ErrorCode::ResourceExhausted, error.to_string()))?;
        if !enabled {
            handle.set_enabled(false);
            self.tell(EventKind::PackageDisabled, &id, &version, None);
            handle.operate(Operation::Stop { force: false, why: StopWhy::Operator }).await?;
            return Ok(handle);
        }
        // It begins as a daemon that starts would have it begin, with nothing held against it.
        let (blueprint, snapshot) = (handle.blueprint(), handle.blueprint().snapshot());
        let read = snapshot.as_ref().ok().and_then(|snapshot| registry::read(&snapshot.path).ok());
        let anew = match read {
            Some(found) => {
                let task = lock(&self.tasks).remove(&(id.clone(), version.clone()));
                self.end(&handle, task).await;
                self.make(Found { path: blueprint.source.clone(), ..found }, snapshot)
            }
            None => handle.clone(),
        };
        anew.set_enabled(true);
        let mut changed = Registry::clone(&registry);
        changed.put(anew.clone());
        self.live.replace(changed);
        self.tell(EventKind::PackageEnabled, &id, &version, None);
        anew.tell(Command::Begin).await;
        Ok(anew)
    }

    /// Ends a plugin that nobody is sent to any more.
    async fn end(&self, handle: &Handle, task: Option<JoinHandle<()>>) {
        // Its own ladder bounds this.
        let _ = handle.operate(Operation::Stop { force: false, why: StopWhy::Operator }).await;
        handle.tell(Command::Shutdown).await;
        if let Some(task) = task
            && let Err(error) = task.await
        {
            tracing::error!(plugin = %handle.id(), %error, "the actor of a plugin panicked");
        }
    }

    /// The tasks of all plugins, for whoever has ended them.
    pub fn take_tasks(&self) -> Vec<JoinHandle<()>> {
        lock(&self.tasks).drain().map(|(_, task)| task).collect()
    }

    fn registry(&self) -> Result<Arc<Registry>, ErrorBody> {
        self.live
            .now()
            .ok_or_else(|| ErrorBody::new(ErrorCode::Unavailable, "the daemon is still looking for its plugins"))
    }

    fn record_of(&self, id: &PluginId, version: &Version) -> PathBuf {
        self.records.join(format!("{id}@{version}.json"))
    }

    fn entry(&self, what: &str, who: &str, id: &PluginId, version: &Version, detail: String) -> Entry {
        Entry {
            at_unix_ms: unix_ms(SystemTime::now()),
            who: who.to_owned(),
            what: what.to_owned(),
            id: id.to_string(),
            version: version.to_string(),
            detail,
        }
    }

    fn tell(&self, kind: EventKind, id: &PluginId, version: &Version, reason: Option<String>) {
        let mut event = Event::new(kind);
        event.plugin = Some(id.clone());
        event.version = Some(version.to_string());
        event.reason = reason;
        self.around.bus.publish(event);
    }
}

impl Gathered {
    /// The ids of all that was found.
    pub fn ids(&self) -> impl Iterator<Item = &PluginId> {
        self.staged.iter().map(|(found, _)| &found.manifest.id)
    }

    /// Adds what was installed, unless a plugin directory has that version.
    fn add_installed(&mut self, records: &Path, store: &Store, rules: &Rules) {
        let mut paths: Vec<_> = match fs::read_dir(records) {
            Ok(entries) => entries.flatten().map(|entry| entry.path()).take(INSTALLED_MAX).collect(),
            Err(error) => {
                let reason = format!("what is installed cannot be read: {error}");
                return self.rejected.push(Rejected { path: records.to_owned(), reason });
            }
        };
        paths.sort();
        for path in paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "json")) {
            match load(&path, store, rules) {
                Ok((found, snapshot)) => {
                    let manifest = &found.manifest;
                    let same = |other: &Found| {
                        (&other.manifest.id, &other.manifest.version) == (&manifest.id, &manifest.version)
                    };
                    match self.staged.iter().map(|(found, _)| found).find(|other| same(other)) {
                        Some(earlier) => {
                            let reason = format!(
                                "{} {} is shadowed by {}, which comes first",
                                manifest.id,
                                manifest.version,
                                earlier.path.display()
                            );
                            self.rejected.push(Rejected { path, reason });
                        }
                        None => self.staged.push((found, Ok(snapshot))),
                    }
                }
                Err(reason) => self.rejected.push(Rejected { path, reason }),
            }
        }
    }
}

/// Copies a package into the store, for good, and reads the copy.
fn take_in(store: &Store, rules: &Rules, source: &Path) -> Result<(Found, Snapshot), ErrorBody> {
    let refused = |reason: String| ErrorBody::new(ErrorCode::ConfigurationInvalid, reason);
    if !source.is_absolute() {
        let message = format!("{} is no absolute path, and the daemon's folder is another", source.display());
        return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
    }
    // What is wrong with the manifest is told before anything is copied.
    registry::read(source).map_err(refused)?;
    let snapshot = store.stage_durably(source).map_err(|error| match &error {
        StoreError::Write { .. } => ErrorBody::new(ErrorCode::ResourceExhausted, error.to_string()),
        _ => refused(error.to_string()),
    })?;
    // The copy counts: the folder may have changed since.
    let mut found = registry::read(&snapshot.path).map_err(refused)?;
    let warnings = admission::vouch(&snapshot, rules, source, &found.manifest).map_err(|failure| {
        let code = failure.code.unwrap_or(ErrorCode::ConfigurationInvalid);
        ErrorBody::new(code, failure.message)
    })?;
    found.warnings.extend(warnings);
    Ok((found, snapshot))
}

/// An installed version, whose snapshot is what its record says.
fn load(path: &Path, store: &Store, rules: &Rules) -> Result<(Found, Snapshot), String> {
    let again = "install it again";
    let read = || {
        let mut text = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(File::open(path)?, RECORD_BYTES_MAX), &mut text)?;
        io::Result::Ok(text)
    };
    let text = read().map_err(|error| format!("cannot be read: {error}"))?;
    let record: Record = serde_json::from_slice(&text).map_err(|error| format!("is no record: {error}; {again}"))?;
    let snapshot =
        store.take(&record.digest).map_err(|error| format!("its snapshot cannot be used: {error}; {again}"))?;
    let mut found = registry::read(&snapshot.path)?;
    let vouched = admission::vouch(&snapshot, rules, Path::new(&record.source), &found.manifest);
    found.warnings.extend(vouched.map_err(|failure| failure.message)?);
    let name = format!("{}@{}.json", found.manifest.id, found.manifest.version);
    if path.file_name().is_none_or(|there| there != name.as_str()) {
        return Err(format!("its snapshot is another plugin's, and belongs into {name}"));
    }
    Ok((found, snapshot))
}

/// Writes it so that it is there whole, and for good, or not at all.
fn write_record(path: &Path, record: &Record) -> io::Result<()> {
    let staging = path.with_extension("new");
    let written = || {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&staging)?;
        serde_json::to_writer_pretty(&mut file, record)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&staging, path)?;
        sync_parent(path)
    };
    written().inspect_err(|_| {
        // The first error is the one worth telling.
        let _ = fs::remove_file(&staging);
    })
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

fn no_room(path: &Path, error: &io::Error) -> ErrorBody {
    let message = format!("{} cannot be changed: {error}; is the disk full or read-only?", path.display());
    ErrorBody::new(ErrorCode::ResourceExhausted, message)
}

/// The version that is meant; where there are several, it has to be said which.
fn the_one(registry: &Registry, plugin: &str, version: Option<&str>) -> Result<Handle, ErrorBody> {
    let handle = registry.find_any(plugin, version)?;
    let id = handle.id();
    let there: Vec<_> = registry.versions(id).map(|(version, _)| version.to_string()).collect();
    match there.as_slice() {
        [first, _, ..] if version.is_none() => {
            let message = format!("there are several versions of {id}: {}", there.join(", "));
            let hint = format!("say which, as in {id}@{first}");
            Err(ErrorBody::new(ErrorCode::InvalidParams, message).with_hint(hint))
        }
        _ => Ok(handle.clone()),
    }
}

/// The plugins that no other version of `id` would do for, as `id version` each.
fn dependants(registry: &Registry, id: &PluginId, version: &Version) -> Vec<String> {
    let left: Vec<_> = registry.versions(id).map(|(there, _)| there).filter(|there| *there != version).collect();
    let needs = |manifest: &Manifest| {
        manifest.dependencies.get(id).is_some_and(|wanted| {
            !wanted.optional
                && wanted.version.matches(version)
                && wanted.version.highest(left.iter().copied()).is_none()
        })
    };
    let all = registry.all().filter(|handle| handle.id() != id && needs(&handle.blueprint().manifest));
    all.map(|handle| format!("{} {}", handle.id(), handle.version())).collect()
}

fn depend(broken: &[String]) -> String {
    match broken {
        [one] => format!("{one} depends"),
        several => format!("{} depend", several.join(", ")),
    }
}

async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ErrorBody> {
    blocking::run(work).await.map_err(|error| {
        ErrorBody::new(ErrorCode::ResourceExhausted, format!("there is no thread to be had for it: {error}"))
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("echo@1.0.0.json");
        let record = Record {
            digest: "00".into(),
            source: "/somewhere".into(),
            installed_unix_ms: 7,
            installed_by: "uid:0".into(),
        };
        write_record(&path, &record).unwrap();
        assert_eq!(serde_json::from_slice::<Record>(&fs::read(&path).unwrap()).unwrap(), record);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_record(&folder.path().join("gone/echo@1.0.0.json"), &record).is_err());
        // Where it cannot take its place, nothing of it stays.
        let taken = folder.path().join("taken@1.0.0.json");
        fs::create_dir(&taken).unwrap();
        assert!(write_record(&taken, &record).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }
}
