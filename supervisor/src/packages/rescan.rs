//! What has changed in the plugin directories while the daemon runs, and what follows.
//!
//! Everything is found as by a daemon that starts now, and compared with what there is: so the registry comes out as that daemon's would,
//! also where the first of two packages of the same id and version goes and the second appears. Packages that are as they were go on.
//!
//! Invariant: a plugin ends when its folder or its record is gone, and not when that can only not be looked at.

use std::collections::BTreeSet;
use std::path::PathBuf;

use palisade_protocol::ErrorBody;
use semver::Version;
use serde::Serialize;
use tokio::task::JoinHandle;

use super::departure::Departure;
use super::discovery;
use super::{Gathered, Packages, lock, run};
use crate::blocking;
use crate::events::EventKind;
use crate::model::generation::{LaunchFailure, Outlook};
use crate::model::ids::PluginId;
use crate::plugin::handle::Handle;
use crate::registry::{Found, Listing, Registry, Rejected};
use crate::store::Snapshot;

/// Whether what was found earlier is believed of packages that are as they were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trusting {
    /// It is: what has changed has left a trace.
    Stamps,
    /// Nothing is; every package is read.
    Nothing,
}

/// What a look into the plugin directories has changed. Plugins are named as `id version`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rescanned {
    /// New ones.
    pub added: Vec<String>,
    /// Those that have other contents, or come from another place.
    pub changed: Vec<String>,
    /// Those whose package is gone.
    pub removed: Vec<String>,
    /// Packages that cannot be used.
    pub rejected: Vec<Rejected>,
}

impl Rescanned {
    /// Whether any plugin is another than before.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        !(self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty())
    }
}

impl Packages {
    /// Looks into the plugin directories, and has the plugins be what lies there. Ends when those have ended that are not.
    ///
    /// Not cancel safe: a plugin may have left the registry, and not be there anew.
    ///
    /// # Errors
    /// `resource_exhausted` where there is no thread to look with.
    pub async fn rescan(&self, trusting: Trusting) -> Result<Rescanned, ErrorBody> {
        let (rescanned, departures) = self.follow(trusting).await?;
        self.settle(&rescanned, departures).await;
        Ok(rescanned)
    }

    /// Waits for the end of the plugins that leave for what has changed, all of which end at once, and takes away what they needed. Others
    /// may change something meanwhile. Cancel safe: they end all the same.
    pub(super) async fn settle(&self, rescanned: &Rescanned, departures: Vec<Departure>) {
        for departure in departures {
            departure.ended().await;
        }
        if rescanned.has_changes() {
            let store = self.around.store.clone();
            // In its own time: what is kept for a return is decided there.
            tokio::spawn(async move {
                if let Err(error) = blocking::run(move || store.sweep()).await {
                    tracing::warn!(%error, "superfluous snapshots stay until the next start");
                }
            });
        }
    }

    /// Has the plugins be what lies in the plugin directories, and waits for none to end: those that leave come with what has changed.
    pub(super) async fn follow(&self, trusting: Trusting) -> Result<(Rescanned, Vec<Departure>), ErrorBody> {
        let _one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let Gathered { staged, rejected, switched, kept } = self.look_again(trusting).await?;
        *lock(&self.kept) = kept;
        let unseen: Vec<PathBuf> = rejected.iter().filter(|one| one.unseen).map(|one| one.path.clone()).collect();
        let mut rescanned = Rescanned { rejected: rejected.clone(), ..Rescanned::default() };
        let mut next = Registry::clone(&registry);
        next.set_rejected(rejected);

        let there: BTreeSet<_> = staged.iter().map(|(found, _)| key(found)).collect();
        // Of what is installed only the record is looked for, or the folder of the records.
        let cannot_be_seen = |handle: &Handle| {
            let source = &handle.blueprint().source;
            let record = self.record_of(handle.id(), handle.version());
            let place = if self.around.store.has_made(source) { &record } else { source };
            unseen.iter().any(|path| place.starts_with(path))
        };
        let gone: Vec<Handle> = registry
            .all()
            .filter(|handle| {
                !there.contains(&(handle.id().clone(), handle.version().clone())) && !cannot_be_seen(handle)
            })
            .cloned()
            .collect();
        for handle in &gone {
            next.take(handle.id(), handle.version());
            rescanned.removed.push(name(handle));
        }
        // From here on no call is for one of those.
        self.live.replace(next.clone());
        let mut departures = Vec::new();
        for handle in gone {
            self.tell(EventKind::PackageRemoved, handle.id(), handle.version(), None);
            let task = self.task_of(&handle);
            departures.push(self.leave(handle, task, None));
        }

        for (found, snapshot) in staged {
            let (id, version) = key(&found);
            let old = registry.versions(&id).find(|(there, _)| **there == version).map(|(_, handle)| handle.clone());
            if old.as_ref().is_some_and(|old| is_same(old, &found, &snapshot)) {
                continue;
            }
            // Another one of the same id and version takes its place only when it is known to be gone.
            if old.as_ref().is_some_and(|old| old.blueprint().source != found.path && cannot_be_seen(old)) {
                continue;
            }
            // What the daemon is short of says nothing of the package.
            if old.is_some() && matches!(&snapshot, Err(failure) if failure.outlook != Outlook::Lasting) {
                continue;
            }
            let enabled = switched.get(&(id.clone(), version.clone())).copied();
            let enabled = enabled.unwrap_or(found.manifest.default_enabled);
            let (kind, list) = match old {
                Some(_) => (EventKind::PackageChanged, &mut rescanned.changed),
                None => (EventKind::PackageAdded, &mut rescanned.added),
            };
            // A daemon that stops would not know of it.
            if !self.around.store.is_open() {
                break;
            }
            if let Err(reason) = &snapshot {
                tracing::warn!(plugin = %id, reason = %reason.message, "the package cannot be used");
            }
            let old = old.map(|old| (self.task_of(&old), old));
            let handle = self.make(found, snapshot);
            handle.set_enabled(enabled);
            list.push(name(&handle));
            next.put(handle.clone());
            // New calls are for this one, while the one before ends those that it has.
            self.live.replace(next.clone());
            departures.extend(old.map(|(task, old)| self.leave(old, task, Some(&handle))));
            self.tell(kind, &id, &version, None);
            self.set_off(&handle).await;
        }
        Ok((rescanned, departures))
    }

    /// What runs the plugin, which the caller sees to the end from here on.
    fn task_of(&self, handle: &Handle) -> Option<JoinHandle<()>> {
        lock(&self.tasks).remove(&(handle.id().clone(), handle.version().clone()))
    }

    /// Everything that a daemon finds which starts now.
    async fn look_again(&self, trusting: Trusting) -> Result<Gathered, ErrorBody> {
        let (directories, records) = (self.around.config.plugin_directories.clone(), self.records.clone());
        let (store, host, database) = (self.around.store.clone(), self.around.host.clone(), self.database.clone());
        run(move || {
            let mut listing = Listing::default();
            for directory in directories {
                if let Err(error) = listing.add(&directory) {
                    let unseen = !error.is_missing;
                    listing.rejected.push(Rejected { path: directory, reason: error.to_string(), unseen });
                }
            }
            let looked = match trusting {
                Trusting::Stamps => discovery::look_at(listing, &store, &host.rules, &database),
                Trusting::Nothing => discovery::look_anew(listing, &store, &host.rules, &database),
            };
            Gathered::of(looked, &records, &store, &host.rules, &database)
        })
        .await
    }
}

fn key(found: &Found) -> (PluginId, Version) {
    (found.manifest.id.clone(), found.manifest.version.clone())
}

fn name(handle: &Handle) -> String {
    format!("{} {}", handle.id(), handle.version())
}

/// Whether the plugin is what a daemon would make of this.
fn is_same(handle: &Handle, found: &Found, snapshot: &Result<Snapshot, LaunchFailure>) -> bool {
    let blueprint = handle.blueprint();
    let same_snapshot = match (blueprint.snapshot(), snapshot) {
        (Ok(old), Ok(new)) => old.digest == new.digest,
        (Err(old), Err(new)) => old.message == new.message,
        _ => false,
    };
    same_snapshot && blueprint.source == found.path && blueprint.manifest == found.manifest
}
