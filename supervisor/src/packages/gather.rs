//! What there is when the daemon starts, and how it comes to life.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use semver::Version;

use super::discovery::{self, Looked, shadowed};
use super::prepare::Staged;
use super::record::Loaded;
use super::{INSTALLED_MAX, Packages, lock, record};
use crate::blocking;
use crate::model::ids::PluginId;
use crate::registry::{DirectoryError, Found, Registry, Rejected};
use crate::store::{Snapshot, Store};
use crate::trust::Rules;

/// The versions of which an operator has said whether they take calls.
pub(super) type Switched = BTreeMap<(PluginId, Version), bool>;

/// What was found when the daemon started.
#[derive(Debug, Default)]
pub struct Gathered {
    pub(super) staged: Vec<Staged>,
    pub(super) rejected: Vec<Rejected>,
    /// Of what is staged that which can only not be looked at.
    pub(super) unseen: Vec<Rejected>,
    /// What an operator has said of versions.
    pub(super) switched: Switched,
    /// Snapshots that nobody runs, and that are kept all the same: what is installed can be used again when what is required is otherwise.
    pub(super) kept: Vec<Snapshot>,
}

impl Packages {
    /// Finds all packages and copies them into the store, those of the plugin directories first. Ends early when the store is closed.
    ///
    /// # Errors
    /// [`DirectoryError`] for a plugin directory that cannot be searched; the outer one when there is no thread to be had.
    pub async fn gather(&self) -> io::Result<Result<Gathered, DirectoryError>> {
        let (directories, records) = (self.around.config.plugin_directories.clone(), self.records.clone());
        let (store, host, database) = (self.around.store.clone(), self.around.host.clone(), self.database.clone());
        blocking::run(move || {
            let looked = discovery::look(&directories, &store, &host.rules, &database)?;
            let switched = database.switched().unwrap_or_else(|error| {
                tracing::error!(%error, "which versions are disabled is not known; it is as their manifests say");
                BTreeMap::new()
            });
            Ok(Gathered::of(looked, switched, &records, &store, &host.rules))
        })
        .await
    }

    /// Brings them to life, and those that always run start.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub async fn begin(&self, gathered: Gathered) -> io::Result<()> {
        // Nobody has used anything yet: what cannot be looked at fails, and says so.
        let Gathered { staged, rejected, unseen: _, switched, kept } = gathered;
        *lock(&self.kept) = kept;
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
        self.live.replace(Registry::new(handles, rejected));
        let Some(registry) = self.live.now() else { return Ok(()) };
        self.agree_to_what_is_left(&registry).await;
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

impl Gathered {
    /// What was found in the plugin directories, with what is installed and what an operator has said. Blocks.
    pub(super) fn of(looked: Looked, switched: Switched, records: &Path, store: &Store, rules: &Rules) -> Self {
        let Looked { staged, rejected, unseen } = looked;
        let mut gathered = Self { staged, rejected, unseen, switched, kept: Vec::new() };
        gathered.add_installed(records, store, rules);
        gathered
    }

    /// The ids of all that was found.
    pub fn ids(&self) -> impl Iterator<Item = &PluginId> {
        self.staged.iter().map(|(found, _)| &found.manifest.id)
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
