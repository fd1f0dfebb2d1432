//! Builds every part of the daemon, connects them, and takes them down in order.
//!
//! Up: locks, socket, what the host can do, store, plugins, agents. Down: no new agents, plugins in the order of their
//! dependencies, last answers, socket. Whatever ends the daemon, nothing of a plugin outlives it: its launcher hangs on a
//! socket that the kernel closes with us.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use palisade_protocol::GuaranteeState;
use rustix::fs::FlockOperation;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;

use crate::api::service::{LAST_ANSWERS, Service};
use crate::api::unix::{self, ListenError};
use crate::blocking;
use crate::config::{self, Config};
use crate::events::{Bus, Event, EventKind};
use crate::key_file::KeyError;
use crate::model::guarantee::not_enforced;
use crate::model::ids::PluginId;
use crate::model::permission::grants::Grants;
use crate::model::runtime::Runtime;
use crate::model::status::NotEnforced;
use crate::packages::{Packages, Surrounding};
use crate::plugin::blueprint::Host;
use crate::plugin::disk;
use crate::plugin::logs::Hub;
use crate::plugin::sampler::Sampler;
use crate::process::{ImageError, LauncherImage, Launchers, Stock, quota};
use crate::registry::{DirectoryError, Live};
use crate::sandbox::cgroup::Tree;
use crate::sandbox::evidence::Users;
use crate::sandbox::granted::Reserved;
use crate::sandbox::lend::Lender;
use crate::sandbox::probe::{self, Ability, Ground};
use crate::sandbox::runtime::Runtimes;
use crate::sandbox::spec::Layout;
use crate::state::States;
use crate::store::database::{Database, REGISTRY};
use crate::store::{Store, StoreError};
use crate::trust::Rules;
use crate::vault::Vault;

/// Why the daemon cannot run.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// A folder of its own cannot be used.
    #[error("the {what} {path} cannot be used: {problem}", path = .path.display())]
    Folder {
        /// Which.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Another daemon has the state.
    #[error("another palisaded uses the state directory {path}; stop it first, or give this one another --state-dir", path = .path.display())]
    StateInUse {
        /// Where.
        path: PathBuf,
    },
    /// The socket cannot be served.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// A plugin directory cannot be searched.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The store cannot be opened.
    #[error("the store cannot be opened: {0}")]
    Store(#[from] StoreError),
    /// The key of state and secrets cannot be had.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// There is no launcher.
    #[error(transparent)]
    Launcher(#[from] ImageError),
    /// This host cannot run plugins.
    #[error("this host cannot run plugins: {0}")]
    Host(String),
    /// There is no thread to look at the packages.
    #[error("the packages cannot be looked at: {0}")]
    Packages(io::Error),
    /// Nor at the interpreters that are configured.
    #[error("the runtimes cannot be looked at: {0}")]
    Runtimes(io::Error),
    /// Signals cannot be received.
    #[error("signals cannot be received: {0}")]
    Signals(io::Error),
}

impl DaemonError {
    /// Whether something that was given is wrong, in the configuration or on the command line.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Directory(_) | Self::Folder { .. } | Self::Key(_) => true,
            Self::Listen(error) => !matches!(error, ListenError::Served { .. }),
            Self::StateInUse { .. }
            | Self::Store(_)
            | Self::Launcher(_)
            | Self::Host(_)
            | Self::Packages(_)
            | Self::Runtimes(_)
            | Self::Signals(_) => false,
        }
    }

    /// What to do about it, where the error does not say so itself.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Launcher(ImageError::Refused { .. }) => {
                Some("install palisade-launcher and palisaded from the same build")
            }
            Self::Folder { what: STATE, .. } => Some("give another one with --state-dir or `state_directory`"),
            Self::Folder { what: RUNTIME, .. } => Some("give another one with --runtime-dir or `runtime_directory`"),
            _ => None,
        }
    }
}

/// How the two folders are called that can be given.
const STATE: &str = "state directory";
const RUNTIME: &str = "runtime directory";

/// Runs until SIGTERM, SIGINT, SIGHUP or a `shutdown` operation, and then stops everything in order.
///
/// # Errors
/// [`DaemonError`]; whatever was built until then is taken down again.
pub async fn run(config: Config, launcher: &Path) -> Result<(), DaemonError> {
    let started = (Instant::now(), SystemTime::now());
    let mut terminate = signal(SignalKind::terminate()).map_err(DaemonError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(DaemonError::Signals)?;
    // The terminal was closed, which is an end like the others, unless whoever started the daemon ignores it, as `nohup` does.
    let mut hangup =
        if ignores_hangup() { None } else { Some(signal(SignalKind::hangup()).map_err(DaemonError::Signals)?) };
    // What is more than a file may have is an error of who writes it, and no end of the daemon.
    let _too_large =
        signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map_err(DaemonError::Signals)?;
    raise_descriptor_limit();

    own_folder(STATE, &config.state_directory)?;
    own_folder(RUNTIME, &config.runtime_directory)?;
    let state = lock(&config.state_directory)?;
    let listener = unix::listen(&config)?;
    let launchers = Arc::new(Launchers::of(LauncherImage::load(launcher)?));
    let tree = Tree::open_or_create(&config.state_directory).map(|opened| {
        if opened.stale_leaves > 0 {
            tracing::warn!(leaves = opened.stale_leaves, "ended what a daemon that died had left in its cgroups");
        }
        opened.tree
    });
    let data = config.state_directory.join("data");
    own_folder("data directory", &data)?;
    let trial = config.state_directory.join("trial");
    own_folder("trial directory", &trial)?;
    let ground = Ground { folder: &trial, uid: *config.lent_uids.start() };
    let host = probe::probe(&launchers, tree.as_ref(), ground).await;
    if let Ability::No(reason) = host.launcher {
        return Err(ImageError::Refused { path: launcher.to_owned(), reason }.into());
    }
    if let Ability::No(reason) = host.pid_namespaces {
        return Err(DaemonError::Host(reason));
    }
    let cgroups = match tree {
        Ok(tree) => Some(tree),
        Err(reason) if reason.is_usual() => {
            tracing::info!(%reason, "plugins run without a cgroup of their own");
            None
        }
        Err(reason) => {
            tracing::warn!(%reason, "plugins run without a cgroup of their own");
            None
        }
    };
    tracing::info!(cgroup = cgroups.is_some(), controllers = host.controllers.join(" "), "this host");

    let users = match (rustix::process::geteuid().is_root(), host.lent_users.is_yes()) {
        (false, _) => Users::Own,
        (true, true) => Users::Lent,
        (true, false) => Users::Shared { uid: *config.lent_uids.start() },
    };
    let lender = (users == Users::Lent).then(|| Lender::new(config.lent_uids.clone()));
    let facts = host.facts(Layout::of_this_host(), users);
    for missing in facts.missing() {
        tracing::warn!(%missing, "this host cannot confine plugins as every start needs it");
    }
    for NotEnforced { control, state, reason } in not_enforced(facts.guarantees(&Grants::default(), None)) {
        let told = format!("{control} is {} and not enforced for plugins on this host: {reason}", state.as_str());
        // What is looked at is acted on.
        if state == GuaranteeState::Monitored { tracing::info!("{told}") } else { tracing::warn!("{told}") }
    }
    if host.quotas.is_yes() {
        match quota::clear(launchers.image(), &data) {
            Ok(0) => {}
            Ok(folders) => tracing::info!(folders, "the disk quotas of folders that are gone were cleared"),
            Err(error) => tracing::warn!(%error, "disk quotas of folders that are gone were not cleared"),
        }
    }
    let store = Arc::new(Store::open(config.state_directory.join("store"), state)?);
    let sampler = Arc::new(Sampler::default());
    let looks = tokio::spawn(sampler.clone().run());
    let counts = tokio::spawn(disk::run(sampler.clone(), config.disk_reserve_mib.saturating_mul(1 << 20)));
    let runtimes = runtimes(config.runtimes.clone()).await?;
    let reserved = reserved(&config);
    let rules = rules(&config).await?;
    let offer = &facts.offer;
    let can_prepare = offer.user_namespaces && offer.network && offer.ipc;
    let stock = Arc::new(Stock::new(if can_prepare { config.prepared_launchers } else { 0 }));
    let stocking = tokio::spawn({
        let (stock, launchers) = (stock.clone(), launchers.clone());
        async move { stock.run(&launchers).await }
    });
    let plugin_host = Arc::new(Host {
        launchers: launchers.clone(),
        stock: stock.clone(),
        cgroups,
        facts,
        lender,
        data,
        reserved,
        runtimes,
        sampler,
        rules,
    });
    for (what, name) in [("folder of generation numbers", "generations"), ("folder of what is installed", "installed")]
    {
        own_folder(what, &config.state_directory.join(name))?;
    }
    let (config, bus, hub, live) = (Arc::new(config), Bus::default(), Hub::default(), Arc::new(Live::default()));
    let (key, folder) = (config.state_key.clone(), config.state_directory.join("state"));
    let registry = config.state_directory.join(REGISTRY);
    let open = move || {
        let vault = key.as_ref().map(Vault::open).transpose()?;
        // Only of a daemon that was killed in the middle of a reload is there anything to be asked.
        let is_kept = |id: &PluginId, name: &str| {
            let database = Database::open(&registry);
            let (backups, probations) = (database.backups(id), database.probations());
            let probations = probations.unwrap_or_default().into_iter().filter(|one| one.id == *id);
            let backups = backups.unwrap_or_default().into_iter().map(|backup| backup.state);
            backups.chain(probations.map(|one| one.state)).any(|state| state.as_deref() == Some(name))
        };
        Ok::<_, KeyError>(Arc::new(States::open(folder, vault.map(Arc::new), is_kept)))
    };
    let states = blocking::run(open).await.map_err(DaemonError::Packages)??;
    let around = Surrounding {
        states: states.clone(),
        config: config.clone(),
        host: plugin_host,
        store: store.clone(),
        bus: bus.clone(),
        hub: hub.clone(),
        started: started.0,
    };
    let opening = (around, live.clone());
    // The database may have to be mended, or another process may look into it.
    let packages = blocking::run(move || Packages::new(opening.0, opening.1)).await.map_err(DaemonError::Packages)?;
    let packages = Arc::new(packages);
    let service = Arc::new(Service {
        registry: live,
        packages: Some(packages.clone()),
        hub,
        bus,
        config,
        host,
        one_by_one: launchers.one_by_one(),
        prepared: stock.standing(),
        started,
        stop: Notify::new(),
        stopping: false.into(),
        ended: watch::Sender::new(false),
    });

    let alive = tokio::spawn(signs_of_life());

    // What changes from here on is looked at once more.
    let watcher = packages.begin_watching().await;
    // Agents that connect meanwhile wait in the socket's queue, and find every plugin.
    let mut looking = pin!(packages.gather());
    let found = tokio::select! {
        found = &mut looking => Some(found),
        // Large packages take their time, and whoever stops the daemon meanwhile does not want them.
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
        () = hung_up(hangup.as_mut()) => None,
    };
    let Some(found) = found else {
        tracing::info!("asked to stop before the plugins were there: stopping");
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        store.close();
        alive.abort();
        looks.abort();
        counts.abort();
        // It ends with the piece that it has in hand.
        let _ = looking.await;
        stock.close().await;
        let _ = stocking.await;
        tracing::info!("stopped");
        return Ok(());
    };
    let found = found.map_err(DaemonError::Packages)??;
    for id in service.config.plugins.keys().filter(|id| found.ids().all(|there| there != *id)) {
        tracing::warn!(plugin = %id, "the configuration speaks of a plugin that is not there");
    }
    for config::Unusable { path, reason } in &service.config.unusable_directories {
        tracing::warn!(directory = %path.display(), %reason, "a plugin directory is passed over");
    }
    packages.begin(found).await.map_err(DaemonError::Packages)?;
    // Every version has its snapshot in hand by now, and agents need not wait for this.
    let sweeping = tokio::spawn({
        let store = store.clone();
        async move {
            if let Err(error) = blocking::run(move || store.sweep()).await {
                tracing::warn!(%error, "superfluous snapshots stay until the next start");
            }
        }
    });
    let counting = tokio::spawn({
        let packages = packages.clone();
        async move { packages.go_on_writing_statistics().await }
    });
    let recording = tokio::spawn({
        let packages = packages.clone();
        async move { packages.go_on_recording_announced().await }
    });
    let proving = tokio::spawn({
        let packages = packages.clone();
        async move { packages.see_through_probations().await }
    });
    let (stop_watching, watching) = watch::channel(false);
    let watching = watcher.map(|watcher| tokio::spawn(packages.clone().watch(watcher, watching)));
    let (leave, leaving) = watch::channel(false);
    let agents = tokio::spawn({
        let service = service.clone();
        async move {
            unix::serve(&listener, service, leaving).await;
        }
    });
    tracing::info!(socket = %service.config.socket.display(), "ready");
    service.bus.publish(Event::new(EventKind::DaemonStarted));
    // Outside systemd there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    tokio::select! {
        _ = terminate.recv() => tracing::info!("SIGTERM: stopping"),
        _ = interrupt.recv() => tracing::info!("SIGINT: stopping"),
        // A second one is no haste: the kernel and a shell both say it.
        () = hung_up(hangup.as_mut()) => tracing::info!("SIGHUP: stopping"),
        () = service.stop.notified() => tracing::info!("stopping, as was asked"),
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    store.close();
    service.bus.publish(Event::new(EventKind::DaemonStopping));
    service.stopping.store(true, Ordering::Relaxed);
    let _ = stop_watching.send(true);
    stock.close().await;
    {
        let mut stopping = pin!(service.stop_plugins());
        loop {
            tokio::select! {
                () = &mut stopping => break,
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("asked to stop a second time: killing what is left");
            service.kill_plugins().await;
        }
    }
    // Those who follow get what there was to the last, and an end. One that does not read is not waited for.
    service.ended.send_replace(true);
    let _ = tokio::time::timeout(LAST_ANSWERS, service.ended.closed()).await;
    // The connections have the last answers in hand, and say goodbye.
    let _ = leave.send(true);
    let abort = agents.abort_handle();
    if tokio::time::timeout(LAST_ANSWERS, agents).await.is_err() {
        abort.abort();
    }
    // It is done but for one that it may have been making.
    if tokio::time::timeout(LAST_ANSWERS, stocking).await.is_err() {
        tracing::warn!("a launcher that was being prepared did not end in time");
    }
    launchers.close().await;
    if tokio::time::timeout(LAST_ANSWERS, states.finish()).await.is_err() {
        tracing::warn!(
            "the disk did not take in time what plugins were writing to their state, and they were not told that it had"
        );
    }
    proving.abort();
    let _ = proving.await;
    packages.note_serving().await;
    counting.abort();
    // No call is left that could be counted after this.
    packages.write_statistics().await;
    recording.abort();
    let _ = recording.await;
    packages.record_announced().await;
    alive.abort();
    let _ = sweeping.await;
    // It may be in the middle of a look, which changes nothing any more.
    if let Some(watching) = watching {
        let abort = watching.abort_handle();
        if tokio::time::timeout(LAST_ANSWERS, watching).await.is_err() {
            abort.abort();
        }
    }
    looks.abort();
    counts.abort();
    tracing::info!("stopped");
    Ok(())
}

/// Whether SIGHUP is ignored, as a process inherits it. Where that cannot be seen, it is taken for not.
fn ignores_hangup() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    ignored & 1 << (SignalKind::hangup().as_raw_value() - 1) != 0
}

async fn hung_up(hangup: Option<&mut Signal>) {
    match hangup {
        Some(hangup) => drop(hangup.recv().await),
        None => std::future::pending().await,
    }
}

/// Tells systemd's watchdog that the daemon lives, where it wants to hear it. The one thread that does everything says it, so a
/// daemon that hangs is silent and is replaced.
async fn signs_of_life() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    // Late by half of the limit is still in time.
    let mut due = tokio::time::interval(limit / 2);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        due.tick().await;
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

/// Looks at the interpreters that are configured.
async fn runtimes(configured: BTreeMap<String, Runtime>) -> Result<Runtimes, DaemonError> {
    let found = blocking::run(move || Runtimes::look(configured)).await.map_err(DaemonError::Runtimes)?;
    for (name, program) in found.all() {
        match program {
            Ok(sha256) => tracing::info!(runtime = name, sha256, "runtime"),
            Err(reason) => tracing::warn!(runtime = name, reason, "a runtime cannot be used"),
        }
    }
    Ok(found)
}

/// Reads the keys that may sign packages.
async fn rules(config: &Config) -> Result<Rules, DaemonError> {
    let (trust, checks) = (config.trust.clone(), config.checks.clone());
    let opened = blocking::run(move || {
        // One that is there can be installed from, also without a plugin directory in it.
        let look = |source: &PathBuf| fs::metadata(source).err().map(|error| (source.clone(), error));
        let missing: Vec<_> = trust.sources.keys().filter_map(look).collect();
        (Rules::open(trust, checks), missing)
    });
    let (rules, missing) = opened.await.map_err(DaemonError::Packages)?;
    for (source, error) in missing {
        tracing::warn!(source = %source.display(), %error, "trust.sources speaks of a folder that cannot be looked at");
    }
    for (key, reason) in rules.unusable() {
        tracing::warn!(%key, reason, "a trusted key cannot be used, and nothing that it signed either");
    }
    Ok(rules)
}

/// What is the daemon's own: no plugin reads or writes any of it, whatever it is granted.
fn reserved(config: &Config) -> Reserved {
    let mut places = vec![
        ("state directory", config.state_directory.clone()),
        ("runtime directory", config.runtime_directory.clone()),
        ("socket", config.socket.clone()),
    ];
    places.extend(config.file.clone().map(|file| ("configuration", file)));
    places.extend(config.trust.key_files().map(|file| ("key file", file.to_owned())));
    places.extend(config.state_key.as_ref().map(|place| ("key file", place.path().to_owned())));
    places.extend(config.plugin_directories.iter().map(|folder| ("plugin directory", folder.clone())));
    Reserved::new(places)
}

/// Makes a folder that belongs to this user alone, or sees that it does.
fn own_folder(what: &'static str, path: &Path) -> Result<(), DaemonError> {
    let problem = |problem: String| DaemonError::Folder { what, path: path.to_owned(), problem };
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => problem("it is there and is no folder".to_owned()),
        _ => problem(error.to_string()),
    })?;
    let metadata = fs::metadata(path).map_err(|error| problem(error.to_string()))?;
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() != own {
        return Err(problem(format!("it belongs to user {}, and this is user {own}", metadata.uid())));
    }
    if metadata.mode() & 0o022 != 0 {
        return Err(problem("others may write to it; run `chmod go-w` on it".to_owned()));
    }
    Ok(())
}

fn lock(state: &Path) -> Result<File, DaemonError> {
    let problem = |problem: String| DaemonError::Folder { what: STATE, path: state.to_owned(), problem };
    let file = fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(state.join("lock"))
        .map_err(|error| problem(error.to_string()))?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(DaemonError::StateInUse { path: state.to_owned() }),
        Err(errno) => Err(problem(errno.to_string())),
    }
}

/// Each plugin costs several descriptors, and the usual soft limit is 1,024.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = rlimit::Resource::NOFILE.get()
        && soft < hard
        && let Err(error) = rlimit::Resource::NOFILE.set(hard, hard)
    {
        tracing::warn!(%error, soft, hard, "the descriptor limit cannot be raised");
    }
}
