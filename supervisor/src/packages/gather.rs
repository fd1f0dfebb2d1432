//! What there is when the daemon starts, and how it comes to life.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use semver::Version;

use super::discovery::{self, Looked, shadowed};
use super::prepare::Staged;
use super::record::Loaded;
use super::reload::{UNTRIED, neither};
use super::{INSTALLED_MAX, Packages, lock, newcomer, record};
use crate::blocking;
use crate::events::unix_ms;
use crate::model::ids::PluginId;
use crate::model::status::PassedOver;
use crate::plugin::admission;
use crate::registry::{self, DirectoryError, Found, Registry, Rejected};
use crate::state::States;
use crate::store::database::Database;
use crate::store::database::reloads::{Bad, Serving};
use crate::store::{Snapshot, Store};
use crate::trust::Rules;

/// What is said of a folder in which a package was.
const NO_MANIFEST: &str = "there is no plugin.json in it";

/// The versions of which an operator has said whether they take calls.
pub(super) type Switched = BTreeMap<(PluginId, Version), bool>;

/// What was found when the daemon started.
#[derive(Debug, Default)]
pub struct Gathered {
    /// Where packages lie.
    pub(super) directories: Vec<PathBuf>,
    pub(super) staged: Vec<Staged>,
    pub(super) rejected: Vec<Rejected>,
    /// Of what is staged that which can only not be looked at.
    pub(super) unseen: Vec<Rejected>,
    /// What an operator has said of versions.
    pub(super) switched: Switched,
    /// Snapshots that nobody runs, and that are kept all the same: what is installed can be used again when what is required is otherwise.
    pub(super) kept: Vec<Snapshot>,
    /// The packages in whose folders others serve that have brought the state over, and may be on probation still.
    before: Vec<(Found, Snapshot)>,
}

/// When it is looked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum When {
    /// Before there is any plugin: of what was changed meanwhile the package that served last is used, until the changed one was tried.
    Starting,
    /// While there are plugins.
    Running {
        /// What serves: it goes on where the package in its folder is not used.
        serves: Serving,
        /// What somebody returns from just now, which is noted once that is done.
        returning: BTreeMap<(PluginId, String), Bad>,
        /// Of which plugin nothing that failed counts.
        forgiven: Option<PluginId>,
    },
}

impl Packages {
    /// Finds all packages and copies them into the store, those of the plugin directories first. Ends early when the store is closed.
    ///
    /// # Errors
    /// [`DirectoryError`] for a plugin directory that cannot be searched; the outer one when there is no thread to be had.
    pub async fn gather(&self) -> io::Result<Result<Gathered, DirectoryError>> {
        let (directories, records) = (self.around.config.plugin_directories.clone(), self.records.clone());
        let (store, host, database) = (self.around.store.clone(), self.around.host.clone(), self.database.clone());
        let states = self.around.states.clone();
        blocking::run(move || {
            let looked = discovery::look(&directories, &store, &host.rules, &database)?;
            let switched = database.switched().unwrap_or_else(|error| {
                tracing::error!(%error, "which versions are disabled is not known; it is as their manifests say");
                BTreeMap::new()
            });
            let mut gathered = Gathered::of(looked, switched, &records, &store, &host.rules);
            gathered.directories = directories;
            gathered.pass_over(&store, &host.rules, &database, When::Starting, &states);
            Ok(gathered)
        })
        .await
    }

    /// Brings them to life, and those that always run start.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub async fn begin(&self, gathered: Gathered) -> io::Result<()> {
        // Nobody has used anything yet: what cannot be looked at fails, and says so.
        let Gathered { directories: _, staged, rejected, unseen: _, switched, kept, before } = gathered;
        *lock(&self.kept) = kept;
        self.hold_backups().await;
        self.know_serving().await;
        for rejected in &rejected {
            tracing::warn!(package = %rejected.path.display(), reason = %rejected.reason, "package not used");
        }
        let mut handles = Vec::new();
        let prepared = self.prepare(staged).await.map_err(|error| io::Error::other(error.message))?;
        for one in prepared {
            if let Err(reason) = &one.snapshot {
                tracing::warn!(plugin = %one.found.manifest.id, reason = %reason.message, "the package cannot be used");
            }
            let handle = self.make(one);
            let said = switched.get(&(handle.id().clone(), handle.version().clone()));
            handle.set_enabled(said.copied().unwrap_or(handle.blueprint().manifest.default_enabled));
            handles.push(handle);
        }
        let registry = Registry::new(handles, rejected);
        let ids: BTreeSet<_> = registry.all().map(|handle| handle.id().clone()).collect();
        // What is to be tried is, once what serves does.
        self.weigh_all(&registry, ids).await;
        self.live.replace(registry);
        let Some(registry) = self.live.now() else { return Ok(()) };
        self.agree_to_what_is_left(&registry).await;
        self.go_on_with_probations(&registry).await;
        self.go_on_with_exchanged(&registry, before).await;
        let registry = self.live.now().unwrap_or(registry);
        for handle in registry.all().filter(|handle| handle.is_enabled()) {
            if let Some(lacking) = handle.blueprint().lacking() {
                tracing::warn!(plugin = %handle.id(), %lacking, "it is not started without what it depends on");
            }
        }
        for group in registry.start_order() {
            for handle in group {
                self.set_off(&handle).await;
            }
        }
        Ok(())
    }
}

impl Packages {
    /// Reads what served last, so that only what is new is written.
    async fn know_serving(&self) {
        let database = self.database.clone();
        if let Ok(Ok(serving)) = blocking::run(move || database.serving()).await {
            *lock(&self.serving) = serving;
        }
    }
}

impl Gathered {
    /// What was found in the plugin directories, with what is installed and what an operator has said. Blocks.
    pub(super) fn of(looked: Looked, switched: Switched, records: &Path, store: &Store, rules: &Rules) -> Self {
        let Looked { staged, rejected, unseen } = looked;
        let mut gathered = Self { staged, rejected, unseen, switched, ..Self::default() };
        gathered.add_installed(records, store, rules);
        gathered
    }

    /// The ids of all that was found.
    pub fn ids(&self) -> impl Iterator<Item = &PluginId> {
        self.staged.iter().map(|(found, _)| &found.manifest.id)
    }

    /// Puts in the place of packages that have failed what served before, as far as that can still be used.
    pub(super) fn pass_over(&mut self, store: &Store, rules: &Rules, database: &Database, when: When, states: &States) {
        let mut bad = database.bad().unwrap_or_else(|error| {
            tracing::error!(%error, "which packages have failed is not known; each is tried again");
            BTreeMap::new()
        });
        let mut serving = database.serving().unwrap_or_else(|error| {
            tracing::error!(%error, "what served last is not known, and each package is used as it is");
            Serving::new()
        });
        let mut serves = Serving::new();
        let is_start = when == When::Starting;
        if let When::Running { serves: now, returning, forgiven } = when {
            bad.extend(returning);
            bad.retain(|(id, _), _| forgiven.as_ref() != Some(id));
            serves = now;
        }
        if bad.is_empty() && serving.is_empty() && serves.is_empty() {
            return;
        }
        // What serves need not be noted yet.
        let known = serving.iter().chain(&serves).map(|(place, digest)| (place.clone(), digest.clone())).collect();
        self.stand_in(&known, store, rules);
        if is_start {
            serves = std::mem::take(&mut serving);
            for ((id, _), digest) in &mut serves {
                *digest = good(&bad, id, digest);
            }
        }
        let others: BTreeSet<_> = self.staged.iter().map(|(found, _)| version_of(found)).collect();
        // That something cannot be read says nothing of it, and is told by whoever looks.
        let unseen: BTreeSet<_> = self.unseen.iter().map(|one| one.path.clone()).collect();
        let by_folder: BTreeMap<&Path, (&PluginId, &String)> =
            serves.iter().map(|((id, path), digest)| (path.as_path(), (id, digest))).collect();
        for (found, snapshot) in &mut self.staged {
            let id = &found.manifest.id;
            let last = serves.get(&(id.clone(), found.path.clone()));
            // Another plugin was there, and is nowhere now; and this one has not only moved.
            let has_moved = || {
                let mut same = serves.iter().filter(|((other, _), _)| other == id);
                snapshot.as_ref().is_ok_and(|now| same.any(|(_, digest)| *digest == now.digest))
            };
            let before = by_folder.get(found.path.as_path()).filter(|_| last.is_none() && !has_moved());
            if let Some((before, digest)) = before {
                let passed = match &*snapshot {
                    Ok(now) => match bad.get(&((*before).clone(), now.digest.clone())) {
                        Some(one) => Some((now.digest.clone(), one.reason.clone(), one.at_unix_ms)),
                        // What is found while there are plugins is tried by who looks.
                        None => is_start.then(|| (now.digest.clone(), UNTRIED.to_owned(), unix_ms(SystemTime::now()))),
                    },
                    Err(_) if unseen.contains(&found.path) => None,
                    Err(failure) => {
                        let reason = newcomer::not_used(found, &failure.message);
                        Some((String::new(), reason, unix_ms(SystemTime::now())))
                    }
                };
                if let Some((digest_now, reason, at_unix_ms)) = passed
                    && let Ok((there, copy)) = kept(digest, &found.path, store, rules)
                    && there.manifest.id == **before
                    && !others.contains(&version_of(&there))
                {
                    let passed_over = Some(PassedOver::new(digest_now, reason, at_unix_ms));
                    *found = Found { path: found.path.clone(), passed_over, ..there };
                    *snapshot = Ok(copy);
                }
                continue;
            }
            let now = match &*snapshot {
                Ok(now) => now,
                Err(_) if unseen.contains(&found.path) => continue,
                Err(failure) => {
                    // It is no package that could be copied: what served goes on.
                    let Some(Ok((before, copy))) = last.map(|last| kept(last, &found.path, store, rules)) else {
                        continue;
                    };
                    if before.manifest.id == *id
                        && (version_of(&before) == version_of(found) || !others.contains(&version_of(&before)))
                    {
                        let (reason, at_unix_ms) = (failure.message.clone(), unix_ms(SystemTime::now()));
                        let passed_over = Some(PassedOver::new(String::new(), reason, at_unix_ms));
                        *found = Found { path: found.path.clone(), passed_over, ..before };
                        *snapshot = Ok(copy);
                    }
                    continue;
                }
            };
            if last == Some(&now.digest) {
                continue;
            }
            let failed = bad.get(&(id.clone(), now.digest.clone())).filter(|bad| !bad.instead.is_empty());
            let instead = failed.map(|one| good(&bad, id, &one.instead));
            let (reason, at_unix_ms) = match (failed, last) {
                (Some(one), _) => (reason_of(&bad, id, one), one.at_unix_ms),
                // What has changed while there are plugins is tried by who looks.
                (None, Some(_)) if is_start => (UNTRIED.to_owned(), unix_ms(SystemTime::now())),
                _ => continue,
            };
            let kept = last.into_iter().chain(&instead).map(|instead| kept(instead, &found.path, store, rules));
            let Some(kept) = kept.reduce(Result::or) else { continue };
            match kept {
                // It serves already: what the plugin keeps has been brought into its form, and nobody else may use that.
                Ok((before, copy)) if reason == UNTRIED && has_form_of(states, found, &before) => {
                    let (was, is) = (version_of(found), version_of(&before));
                    if was == is || !others.contains(&is) {
                        self.before.push((Found { path: found.path.clone(), ..before }, copy));
                    }
                }
                Ok((before, copy)) if before.manifest.id == found.manifest.id => {
                    let (was, is) = (version_of(found), version_of(&before));
                    if was != is && others.contains(&is) {
                        tracing::warn!(plugin = %is.0, version = %is.1, "it would be there twice, and the failed package is tried again");
                        continue;
                    }
                    let passed_over = PassedOver::new(now.digest.clone(), reason, at_unix_ms);
                    *found = Found { path: found.path.clone(), passed_over: Some(passed_over), ..before };
                    *snapshot = Ok(copy);
                }
                Ok(_) => {
                    tracing::warn!(plugin = %found.manifest.id, "what served before is another plugin; the failed package is tried again")
                }
                Err(reason) => tracing::warn!(
                    plugin = %found.manifest.id, %reason,
                    "what served before cannot be used, and the failed package is tried again"
                ),
            }
        }
    }

    /// Has what served last stand in for what is no package any more, or not yet, in the same folder.
    fn stand_in(&mut self, serving: &Serving, store: &Store, rules: &Rules) {
        let known: HashSet<&Path> = self.staged.iter().map(|(found, _)| found.path.as_path()).collect();
        let others: BTreeSet<_> =
            serving.keys().map(|(_, path)| path).filter(|path| !known.contains(path.as_path())).collect();
        for path in others {
            if self.is_bare(path) {
                self.rejected.push(Rejected::new(path.clone(), NO_MANIFEST.to_owned()));
            }
        }
        for rejected in self.rejected.iter().filter(|rejected| !rejected.unseen) {
            for ((id, _), digest) in serving.iter().filter(|((_, path), _)| *path == rejected.path) {
                let Ok((before, copy)) = kept(digest, &rejected.path, store, rules) else { continue };
                let is = version_of(&before);
                if is.0 != *id || self.staged.iter().any(|(found, _)| version_of(found) == is) {
                    continue;
                }
                let (reason, at_unix_ms) = (rejected.reason.clone(), unix_ms(SystemTime::now()));
                let passed_over = Some(PassedOver::new(String::new(), reason, at_unix_ms));
                self.staged.push((Found { path: rejected.path.clone(), passed_over, ..before }, Ok(copy)));
            }
        }
    }

    /// Whether it is a folder of a plugin directory that has no manifest, and of which nothing else is known. One that is a plugin directory
    /// itself, with packages in it, is not meant to be one any more.
    fn is_bare(&self, path: &Path) -> bool {
        let mut directories = self.directories.iter();
        let is_known = self.rejected.iter().any(|rejected| path.starts_with(&rejected.path))
            || self.staged.iter().any(|(found, _)| found.path.parent() == Some(path));
        directories.any(|directory| path == directory || path.parent() == Some(directory))
            && !is_known
            && path.is_dir()
            && fs::symlink_metadata(path.join("plugin.json"))
                .is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    }

    /// Adds what was installed, unless a plugin directory has that version.
    fn add_installed(&mut self, records: &Path, store: &Store, rules: &Rules) {
        let listed = fs::read_dir(records).and_then(|entries| {
            entries.take(INSTALLED_MAX).map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()
        });
        let mut paths = match listed {
            Ok(paths) => paths,
            Err(error) => {
                let reason = format!("what is installed cannot be read: {error}");
                return self.rejected.push(Rejected::unseen(records.to_owned(), reason));
            }
        };
        paths.sort();
        for path in paths.into_iter().filter(|path| path.extension().is_some_and(|end| end == "json")) {
            match record::load(&path, store, rules) {
                Loaded::Version(found, snapshot, held) => {
                    let manifest = &found.manifest;
                    let same = |other: &Found| {
                        (&other.manifest.id, &other.manifest.version) == (&manifest.id, &manifest.version)
                    };
                    match self.staged.iter().map(|(found, _)| found).find(|other| same(other)) {
                        Some(earlier) => {
                            self.rejected.push(shadowed(path, manifest, &earlier.path));
                            self.kept.push(snapshot);
                        }
                        None => {
                            if held.is_err() {
                                self.kept.push(snapshot.clone());
                            }
                            self.staged.push((*found, held.map(|()| snapshot)));
                        }
                    }
                }
                Loaded::Nothing(reason) => self.rejected.push(Rejected::new(path, reason)),
                Loaded::Unseen(reason, snapshot) => {
                    self.kept.extend(snapshot);
                    self.rejected.push(Rejected::unseen(path, reason));
                }
            }
        }
    }
}

/// What is used instead of a package that is not used, where what served then may not be used any more either.
fn good(bad: &BTreeMap<(PluginId, String), Bad>, id: &PluginId, instead: &str) -> String {
    let mut instead = instead.to_owned();
    // Two may stand for each other.
    for _ in 0..bad.len() {
        match bad.get(&(id.clone(), instead.clone())) {
            Some(next) => instead.clone_from(&next.instead),
            None => break,
        }
    }
    instead
}

/// Why a package is not used, and neither what served when it failed, if that is so.
fn reason_of(bad: &BTreeMap<(PluginId, String), Bad>, id: &PluginId, one: &Bad) -> String {
    match bad.get(&(id.clone(), one.instead.clone())) {
        Some(before) => neither(&one.reason, &one.instead, &before.reason),
        None => one.reason.clone(),
    }
}

/// Whether what the plugin keeps has the form of this package, and no other can read it.
fn has_form_of(states: &States, now: &Found, before: &Found) -> bool {
    // What cannot be read is told to whoever asks for it.
    let stored = states.of(&now.manifest.id).stored_schema().unwrap_or_default();
    stored.is_some() && stored == now.manifest.state_schema && stored > Some(before.manifest.state_schema.unwrap_or(0))
}

/// The copy of this digest that is in the store, of what was in that folder, if it can still be used.
fn kept(digest: &str, folder: &Path, store: &Store, rules: &Rules) -> Result<(Found, Snapshot), String> {
    let copy = store.take(digest).map_err(|error| error.to_string())?;
    let mut before = registry::read(&copy.path)?;
    let warnings = admission::vouch(&copy, rules, folder, &before.manifest);
    before.warnings.extend(warnings.map_err(|failure| failure.message)?);
    Ok((before, copy))
}

fn version_of(found: &Found) -> (PluginId, Version) {
    (found.manifest.id.clone(), found.manifest.version.clone())
}
