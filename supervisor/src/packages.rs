//! From packages to plugins: those that lie in the plugin directories, and those that an operator installed; and what changes of them
//! while the daemon runs.
//!
//! ```text
//! installed/ID@VERSION.json         what is installed: the digest of its snapshot, from where, when, by whom
//! registry.sqlite3                  what is disabled, the audit trail, counts
//! archive/ID-VERSION.tar.zst        what was uninstalled last
//! ```
//!
//! What is installed runs from its snapshot alone, so the folder that it came from may go. Its record is a file of its own, which appears
//! by a rename, and after its snapshot is on the disk: a crash leaves a version installed or not, and losing the database loses none.
//! Invariants: one change at a time; a change that fails leaves everything as it was; calls see the registry before a change or after it.
//! Elsewhere: which version a call is for is `registry`'s; copying is `store`'s.

mod accepted;
mod alone;
mod announced;
mod archived;
mod asked;
mod available;
pub mod configure;
pub mod consent;
mod departure;
mod deprecate;
pub mod discovery;
mod gather;
mod install;
pub mod keeping;
mod lost;
mod newcomer;
mod prepare;
mod probation;
mod record;
mod reload;
mod remove;
mod rescan;
mod rollback;
pub mod search;
pub mod secrets;
mod source;
mod statistics;
mod switch;
mod trail;
mod update;
mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Instant, SystemTime};

use palisade_protocol::{ErrorBody, ErrorCode, Fault};
use semver::Version;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use self::accepted::Acceptance;
pub use self::asked::{Reloaded, Reloads};
pub use self::available::Available;
use self::departure::Departures;
use self::deprecate::Deprecations;
pub use self::gather::Gathered;
pub use self::install::Installed;
use self::prepare::Prepared;
use self::probation::Probation;
use self::reload::UnderWay;
pub use self::remove::{Leaving, Removed};
pub use self::rescan::{Rescanned, Trusting};
pub use self::rollback::{Before, KeptState};
use self::statistics::Accounts;
pub use self::statistics::Usage;
pub use self::update::{Leave, Updated, Updates};
pub use self::watch::Watcher;
use crate::blocking;
use crate::config::{self, Config};
use crate::egress::Resolver;
use crate::events::{Bus, Event, EventKind, Refused, unix_ms};
use crate::model::generation::StopWhy;
use crate::model::guarantee;
use crate::model::ids::PluginId;
use crate::model::limits::Limits;
use crate::model::permission::consent::Policy;
use crate::model::status::PluginState;
use crate::plugin::actor::{self, Surroundings};
use crate::plugin::announced::{Agreed, Announced};
use crate::plugin::blueprint::{Blueprint, Host, OnDegraded};
use crate::plugin::configuration::{Configuration, Configured};
use crate::plugin::gate::Gate;
use crate::plugin::handle::{Command, Handle, Operation};
use crate::plugin::host_calls::HostCalls;
use crate::plugin::logs::Hub;
use crate::plugin::needs::{Needs, Offer};
use crate::plugin::network::Network;
use crate::plugin::numbers::{Numbers, Reserve};
use crate::plugin::refusals::Refusals;
use crate::registry::{Live, Registry};
use crate::secrets::{Need, Secrets, SecretsView};
use crate::state::{StateView, States};
use crate::store::database::audit;
use crate::store::database::consents::Consents;
use crate::store::database::reloads::{Bad, Serving};
use crate::store::database::{Condition, Database, DatabaseError, Entry, REGISTRY};
use crate::store::{Snapshot, Store};
use crate::trust::tree;

/// Most packages that can be installed.
pub const INSTALLED_MAX: usize = 10_000;

/// What every plugin is made with.
#[derive(Debug)]
pub struct Surrounding {
    /// The operator's.
    pub config: Arc<Config>,
    /// How this host runs plugins.
    pub host: Arc<Host>,
    /// Where copies are kept.
    pub store: Arc<Store>,
    /// What plugins keep.
    pub states: Arc<States>,
    /// Where it is told what happens.
    pub bus: Bus,
    /// And what plugins say.
    pub hub: Hub,
    /// When the daemon started.
    pub started: Instant,
}

/// A version of which something was said that is to hold on.
#[derive(Debug)]
pub struct Said {
    /// As it is now.
    pub handle: Handle,
    /// Why that ends with the daemon, if it does: a sentence.
    pub not_kept: Option<String>,
    /// Of one that was disabled: plugins that depend on it and are without it now.
    pub broken: Vec<String>,
}

/// The packages of a daemon.
#[derive(Debug)]
pub struct Packages {
    around: Surrounding,
    live: Arc<Live>,
    database: Arc<Database>,
    records: PathBuf,
    archived: PathBuf,
    generations: PathBuf,
    reserve: Arc<Reserve>,
    numbers: Mutex<HashMap<PluginId, Arc<Numbers>>>,
    accounts: Arc<Accounts>,
    deprecations: Deprecations,
    /// What is said of each plugin's configuration.
    configured: Mutex<BTreeMap<PluginId, Arc<Configured>>>,
    /// What plugins are given if they ask for it.
    secrets: Arc<Secrets>,
    tasks: Mutex<HashMap<(PluginId, Version), JoinHandle<()>>>,
    /// Those that are in the registry no more.
    departures: Departures,
    /// The packages that are on their way to serve.
    reloading: Mutex<HashMap<PluginId, UnderWay>>,
    /// Packages that somebody has to consent to before they are tried, while what was there before serves.
    awaiting: Mutex<BTreeMap<PluginId, Handle>>,
    /// What was tried in another plugin's folder and is good, by that folder: the digest of its snapshot.
    tried: Mutex<BTreeMap<PathBuf, String>>,
    /// What somebody returns from just now, by plugin and digest.
    returning: Mutex<BTreeMap<(PluginId, String), Bad>>,
    /// The plugins that were given another package not long ago.
    probations: Mutex<HashMap<PluginId, Probation>>,
    /// Told when a process has become active, or has failed.
    stirred: Arc<Notify>,
    /// What served last in each folder, as the database has it.
    serving: Mutex<Serving>,
    /// What served before stays in the store.
    backups: Mutex<Vec<Snapshot>>,
    /// What was said of each plugin, as the database has it.
    consents: Mutex<BTreeMap<PluginId, Consents>>,
    /// Versions that were disabled and of which that could not be written down.
    unwritten: Mutex<BTreeSet<(PluginId, Version)>>,
    /// What was agreed to of what each announces, where that is compared.
    agreed: Mutex<BTreeMap<PluginId, Arc<Agreed>>>,
    /// Told when there is something new in that which the database does not have.
    announced: Arc<Notify>,
    /// Snapshots that are installed and that nobody runs, so that they are not taken for superfluous.
    kept: Mutex<Vec<Snapshot>>,
    /// Which versions may serve, and which wait.
    acceptance: Mutex<Acceptance>,
    changing: tokio::sync::Mutex<()>,
    /// Held by who says what a plugin may do, which waits for no other change.
    consenting: tokio::sync::Mutex<()>,
    /// The configuration's, with the places that its sources lead to.
    policy: Policy,
    /// Which changes of plugin directories are not noticed, and why.
    unwatched: Mutex<Option<String>>,
}

impl Packages {
    /// None yet. The folders `installed` and `generations` of the state have to be there.
    #[must_use]
    pub fn new(around: Surrounding, live: Arc<Live>) -> Self {
        let state = around.config.state_directory.clone();
        let database = Database::open(&state.join(REGISTRY));
        match database.condition() {
            Condition::Good => {}
            Condition::Renewed { aside, reason, kept } => tracing::error!(
                aside = %aside.display(), %reason, disabled = kept.disabled, denied = kept.denied,
                "the registry's database was damaged and is begun anew; what could not be read of it has to be said again"
            ),
            Condition::Volatile { reason, taken_over } => tracing::error!(
                %reason, taken_over,
                "the registry's database cannot be used; what is changed now is forgotten when the daemon ends"
            ),
        }
        record::clear(&state.join("installed"));
        let consents = database.consents().unwrap_or_else(|error| {
            tracing::error!(%error, "what was granted to plugins is not known, and is asked for again");
            BTreeMap::new()
        });
        let mut policy = around.config.permissions.clone();
        for source in policy.rules.iter_mut().filter_map(|rule| rule.source.as_mut()) {
            *source = prepare::real(source);
        }
        let database = Arc::new(database);
        let secrets = Secrets::open(database.clone(), &state, around.states.vault().cloned());
        let packages = Self {
            around,
            live,
            secrets: Arc::new(secrets),
            consents: Mutex::new(consents),
            unwritten: Mutex::default(),
            agreed: Mutex::default(),
            announced: Arc::default(),
            deprecations: Deprecations::read(&database),
            acceptance: Mutex::new(Acceptance::read(&database)),
            configured: Mutex::default(),
            database,
            records: state.join("installed"),
            archived: state.join("archive"),
            generations: state.join("generations"),
            reserve: Arc::new(Reserve::open(state.join("generations"))),
            numbers: Mutex::default(),
            accounts: Arc::default(),
            tasks: Mutex::default(),
            departures: Departures::default(),
            reloading: Mutex::default(),
            awaiting: Mutex::default(),
            tried: Mutex::default(),
            returning: Mutex::default(),
            probations: Mutex::default(),
            stirred: Arc::default(),
            serving: Mutex::default(),
            backups: Mutex::default(),
            kept: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            consenting: tokio::sync::Mutex::default(),
            policy,
            unwatched: Mutex::default(),
        };
        packages.recall_configured();
        packages
    }

    /// What was said of a version, and whether it is kept.
    fn said(&self, handle: Handle) -> Said {
        let not_kept = match self.database.condition() {
            Condition::Good | Condition::Renewed { .. } => None,
            Condition::Volatile { reason, .. } => {
                Some(format!("the registry's database cannot be used, so this holds until the daemon ends: {reason}"))
            }
        };
        Said { handle, not_kept, broken: Vec::new() }
    }

    /// The same where it could not be written down.
    fn said_and_not_kept(handle: Handle, error: &DatabaseError) -> Said {
        let why = format!("this holds until the daemon ends, as it could not be written down: {error}");
        tracing::error!(plugin = %handle.id(), "{why}");
        Said { handle, not_kept: Some(why), broken: Vec::new() }
    }

    /// Why what is changed is not remembered, or what was forgotten, if anything is wrong with the database: a sentence.
    #[must_use]
    pub fn forgets(&self) -> Option<String> {
        const LOST: &str = "whatever else was granted, agreed to, disabled, deprecated, configured, set as a secret or counted is lost";
        match self.database.condition() {
            Condition::Good => self.database.damaged().map(|aside| {
                let aside = aside.display();
                format!("what is changed is remembered; an earlier one was damaged and is {aside}: {LOST} that was not said again")
            }),
            Condition::Renewed { aside, reason, kept } => {
                let aside = aside.display();
                let (disabled, denied) = (kept.disabled, kept.denied);
                Some(format!(
                    "it was damaged ({reason}) and begun anew; the old one is {aside}. From it come {disabled} disabled versions and {denied} \
                     refused permissions; {LOST}"
                ))
            }
            Condition::Volatile { reason, taken_over: true } => Some(format!(
                "what is changed is forgotten with the daemon: {reason}; what was said before holds"
            )),
            Condition::Volatile { reason, taken_over: false } => {
                Some(format!("what is changed is forgotten with the daemon: {reason}; what was said before is not known"))
            }
        }
    }

    /// Makes the plugin that a package is, which does not run yet.
    fn make(&self, prepared: Prepared) -> Handle {
        let state = self.live_state(&prepared);
        let (handle, task) = self.make_apart(prepared, state);
        self.take_in_task(&handle, task);
        handle
    }

    /// The state of a plugin, as a package of it uses it.
    fn live_state(&self, prepared: &Prepared) -> StateView {
        let manifest = &prepared.found.manifest;
        StateView::live(self.around.states.of(&manifest.id), manifest.state_schema)
    }

    /// Counts a plugin among those that there are.
    fn take_in_task(&self, handle: &Handle, task: JoinHandle<()>) {
        self.accounts.open(handle.id(), handle.version(), handle.counters());
        self.deprecations.apply(handle);
        self.apply_updating(handle);
        lock(&self.tasks).insert((handle.id().clone(), handle.version().clone()), task);
    }

    /// The same as [`Packages::make`], of one that is not among the others yet.
    fn make_apart(&self, prepared: Prepared, state: StateView) -> (Handle, JoinHandle<()>) {
        let Prepared { found, snapshot, executable, evidence, numbers } = prepared;
        let Surrounding { config, host, store, bus, hub, started, states: _ } = &self.around;
        let id = found.manifest.id.clone();
        let configured = config.plugins.get(&id).cloned().unwrap_or_default();
        let limits = Limits::decide(&found.manifest.limits.resources, &configured.limits, &config.defaults.limits);
        let consent = self.decide(&found.manifest, evidence);
        let grants = consent.verdict.grants.clone();
        let announced = Announced::new(consent.asks_about_definitions.then(|| self.agreed(&id)));
        let mut warnings = found.warnings.clone();
        warnings.extend(limits.refusals());
        warnings.extend(consent.verdict.warnings.iter().cloned());
        for warning in &warnings {
            tracing::warn!(plugin = %id, %warning, "plugin.json");
        }
        let resolver = Resolver::new(Arc::new(config.egress.hosts.clone()));
        let require = guarantee::required(&found.manifest.require, &config.defaults.require, &configured.require);
        let named = found
            .manifest
            .secrets
            .iter()
            .map(|secret| (secret.name.clone(), if secret.optional { Need::Optional } else { Need::Required }));
        let secrets = SecretsView::new(self.secrets.clone(), id.clone(), named.collect(), grants.secret.clone());
        let blueprint = Blueprint {
            source: found.path,
            found_warnings: found.warnings,
            warnings,
            snapshot: Mutex::new(snapshot),
            passed_over: Mutex::new(found.passed_over),
            executable,
            store: store.clone(),
            host: host.clone(),
            configuration: Configuration::new(self.configured(&id)),
            configured_limits: limits,
            said_limits: Mutex::default(),
            network: Network::new(&grants, &config.egress.policy, resolver, config.egress.limits.clone(), bus.clone()),
            trace_denials: configured.trace_denials,
            denials: Refusals::default(),
            require,
            consent,
            announced,
            grants,
            withdrawn: AtomicBool::new(false),
            needs: Needs::new(Arc::downgrade(&self.live) as Weak<dyn Offer>),
            host_calls: HostCalls::new(Arc::new(state), Arc::new(secrets), Instant::now()),
            gate: Gate::default(),
            on_trial: AtomicBool::new(false),
            on_degraded: match configured.on_degraded {
                config::OnDegraded::Refuse => OnDegraded::Refuse,
                config::OnDegraded::Warn => OnDegraded::Warn,
            },
            manifest: found.manifest,
        };
        for shortfall in blueprint.shortfalls() {
            tracing::warn!(plugin = %id, %shortfall, "this host cannot confine the plugin as it should be");
        }
        let surroundings =
            Surroundings { bus: bus.clone(), hub: hub.clone(), started: *started, stirred: self.stirred.clone() };
        actor::start(blueprint, surroundings, numbers)
    }

    /// Has a plugin begin, if it takes calls; one that waits for its operator's consent is told of.
    async fn set_off(&self, handle: &Handle) {
        if !handle.is_enabled() || handle.is_held() {
            return;
        }
        if handle.awaits_consent() {
            tracing::warn!(plugin = %handle.id(), "{}", handle.blueprint().awaits());
            self.tell(EventKind::ConsentRequired, handle.id(), handle.version(), Some(handle.blueprint().awaits()));
            return;
        }
        handle.tell(Command::Begin).await;
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
        record::path(&self.records, id, version)
    }

    fn entry(&self, what: &str, who: &str, id: &PluginId, version: &Version, detail: String) -> Entry {
        debug_assert!(audit::WORDS.contains(&what), "{what} is no word of the trail");
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
        self.around.bus.publish(event(kind, id, version, reason));
    }

    /// Tells that a package is not used, which another one is.
    fn tell_refused(&self, kind: EventKind, serves: &Handle, refused: Refused, reason: String) {
        let event = event(kind, serves.id(), serves.version(), Some(reason));
        self.around.bus.publish(Event { refused: Some(refused), ..event });
    }

    /// Tells that a plugin has another package, and which the one before was.
    fn tell_changed(&self, before: &Handle, now: &Handle) {
        let event = event(EventKind::PackageChanged, now.id(), now.version(), None);
        let from_version = (before.version() != now.version()).then(|| before.version().to_string());
        let (digest, from_digest) = (digest_of(now), digest_of(before));
        self.around.bus.publish(Event { from_version, digest, from_digest, ..event });
    }

    /// Tells in which state a plugin is that has come into a place: nothing was told of it until here, and nothing is told from here on of
    /// the one that had the place, whose state was the first. With nothing awaited since it has come.
    fn tell_state(&self, from: PluginState, now: &Handle) {
        let to = now.state();
        if from == to {
            return;
        }
        let event = event(EventKind::StateChanged, now.id(), now.version(), None);
        self.around.bus.publish(Event { from: Some(from), to: Some(to), generation: now.generation(), ..event });
    }
}

fn event(kind: EventKind, id: &PluginId, version: &Version, reason: Option<String>) -> Event {
    let mut event = Event::new(kind);
    event.plugin = Some(id.clone());
    event.version = Some(version.to_string());
    event.reason = reason;
    event
}

/// The digest of the package of a plugin, if there is a copy of it.
fn digest_of(handle: &Handle) -> Option<String> {
    handle.blueprint().snapshot().ok().map(|snapshot| snapshot.digest)
}

/// The package of a plugin, as one that is not used.
fn refused(handle: &Handle) -> Refused {
    Refused { version: handle.version().to_string(), digest: digest_of(handle).unwrap_or_default() }
}

/// Ends a plugin that nobody is sent to any more.
async fn end(handle: &Handle, task: Option<JoinHandle<()>>) {
    let why = match handle.successor() {
        Some(successor) if digest_of(&successor) == digest_of(handle) => StopWhy::Replaced,
        Some(_) => StopWhy::Exchanged,
        None if handle.blueprint().on_trial.load(Ordering::Relaxed) => StopWhy::Dropped,
        None => StopWhy::Removed,
    };
    // Its own ladder bounds this.
    let _ = handle.operate(Operation::Stop { force: false, why }).await;
    handle.tell(Command::Shutdown).await;
    if let Some(task) = task
        && let Err(error) = task.await
    {
        tracing::error!(plugin = %handle.id(), %error, "the actor of a plugin panicked");
    }
}

fn no_room(path: &Path, error: &io::Error) -> ErrorBody {
    let message = format!("{} cannot be changed: {error}{}", path.display(), tree::not_written(error));
    unwritten(&message)
}

/// What could not be written, or for which there is no room: no plugin is at fault, and it may be otherwise later.
fn unwritten(error: &impl ToString) -> ErrorBody {
    let error = ErrorBody::new(ErrorCode::ResourceExhausted, error.to_string());
    ErrorBody { fault: Fault::Host, retryable: true, ..error }
}

/// The version that is meant: where there are several, it has to be said which.
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

async fn run<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ErrorBody> {
    blocking::run(work).await.map_err(|error| {
        ErrorBody::new(ErrorCode::ResourceExhausted, format!("there is no thread to be had for it: {error}"))
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
