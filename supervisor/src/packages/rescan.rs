//! What has changed in the plugin directories while the daemon runs, and what follows.
//!
//! Everything is found as by a daemon that starts now, and compared with what there is: so the registry comes out as that daemon's would,
//! also where the first of two packages of the same id and version goes and the second appears. Packages that are as they were go on.
//!
//! Invariant: a plugin ends when its folder or its record is gone, and not when that can only not be looked at.

use std::collections::BTreeSet;
use std::path::PathBuf;

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;
use serde::Serialize;
use tokio::task::JoinHandle;

use super::departure::Departure;
use super::discovery::{self, Present};
use super::{Gathered, Packages, lock, run};
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

/// What of the plugin directories is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything.
    Everything,
    /// Packages in these folders; the others stay as they are.
    Packages(BTreeSet<PathBuf>),
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
    /// `resource_exhausted` where there is no thread to look with, or the database cannot be read.
    pub async fn rescan(&self, trusting: Trusting) -> Result<Rescanned, ErrorBody> {
        let (rescanned, departures) = self.follow(trusting, &Scope::Everything).await?;
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
            self.sweep(None);
        }
    }

    /// Has the plugins be what lies in the plugin directories, and waits for none to end: those that leave come with what has changed.
    pub(super) async fn follow(
        &self,
        trusting: Trusting,
        scope: &Scope,
    ) -> Result<(Rescanned, Vec<Departure>), ErrorBody> {
        let _one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let Gathered { staged, mut rejected, unseen: partly, switched, kept } =
            self.look_again(trusting, present(scope, &registry)).await?;
        *lock(&self.kept) = kept;
        let unseen: Vec<PathBuf> = rejected.iter().filter(|one| one.unseen).map(|one| one.path.clone()).collect();
        let mut rescanned = Rescanned::default();
        let mut next = Registry::clone(&registry);

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
        let mut other = Vec::new();
        for (found, snapshot) in staged {
            let (id, version) = key(&found);
            let old = registry.versions(&id).find(|(there, _)| **there == version).map(|(_, handle)| handle);
            let is_same = old.is_some_and(|old| is_same(old, &found, &snapshot));
            let not_seen = partly.iter().find(|one| one.path == found.path);
            let goes_on = old.is_some_and(|old| {
                is_same
                    // Of a file that cannot be read nobody knows whether it is another.
                    || not_seen.is_some()
                    // Another one of the same id and version takes its place only when it is known to be gone.
                    || (old.blueprint().source != found.path && cannot_be_seen(old))
                    // What the daemon is short of says nothing of the package.
                    || matches!(&snapshot, Err(failure) if failure.outlook != Outlook::Lasting)
            });
            if !goes_on {
                other.push((found, snapshot));
            } else if !is_same {
                rejected.extend(not_seen.cloned());
            }
        }
        rescanned.rejected.clone_from(&rejected);
        next.set_rejected(rejected);
        // Nothing has changed until everything is there for it.
        let prepared = self.prepare(other).await?;
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
            departures.push(self.leave(handle, task));
        }

        for one in prepared {
            let (id, version) = key(&one.found);
            let old = registry.versions(&id).find(|(there, _)| **there == version).map(|(_, handle)| handle.clone());
            let enabled = switched.get(&(id.clone(), version.clone())).copied();
            let enabled = enabled.unwrap_or(one.found.manifest.default_enabled)
                && !lock(&self.unwritten).contains(&(id.clone(), version.clone()));
            let (kind, list) = match old {
                Some(_) => (EventKind::PackageChanged, &mut rescanned.changed),
                None => (EventKind::PackageAdded, &mut rescanned.added),
            };
            // A daemon that stops would not know of it.
            if !self.around.store.is_open() {
                break;
            }
            if let Err(reason) = &one.snapshot {
                tracing::warn!(plugin = %id, reason = %reason.message, "the package cannot be used");
            }
            let old = old.map(|old| (self.task_of(&old), old));
            let handle = self.make(one);
            handle.set_enabled(enabled);
            list.push(name(&handle));
            next.put(handle.clone());
            // New calls are for this one, while the one before ends those that it has.
            self.live.replace(next.clone());
            departures.extend(old.map(|(task, old)| self.leave(old, task)));
            self.tell(kind, &id, &version, None);
            self.set_off(&handle).await;
        }
        Ok((rescanned, departures))
    }

    /// What runs the plugin, which the caller sees to the end from here on.
    fn task_of(&self, handle: &Handle) -> Option<JoinHandle<()>> {
        lock(&self.tasks).remove(&(handle.id().clone(), handle.version().clone()))
    }

    /// Everything that a daemon finds which starts now; of what is not looked at, that which is there at present.
    async fn look_again(&self, trusting: Trusting, present: Option<Present>) -> Result<Gathered, ErrorBody> {
        let (directories, records) = (self.around.config.plugin_directories.clone(), self.records.clone());
        let (store, host, database) = (self.around.store.clone(), self.around.host.clone(), self.database.clone());
        run(move || {
            // A version that is disabled is not to take calls because that cannot be read; what there is stays as it is.
            let switched = database.switched().map_err(|error| {
                let message = format!("which versions are disabled cannot be read, so nothing is changed: {error}");
                ErrorBody::new(ErrorCode::ResourceExhausted, message)
            })?;
            let mut listing = Listing::default();
            for directory in &directories {
                if let Err(error) = listing.add(directory) {
                    let unseen = !error.is_missing;
                    listing.rejected.push(Rejected { unseen, ..Rejected::new(directory.clone(), error.to_string()) });
                }
            }
            if let Some(present) = &present {
                present.complete(&mut listing, &directories);
            }
            let looked = match trusting {
                _ if present.is_some() => discovery::look_at_some(listing, &store, &host.rules, &database, present),
                Trusting::Stamps => discovery::look_at(listing, &store, &host.rules, &database),
                Trusting::Nothing => discovery::look_anew(listing, &store, &host.rules, &database),
            };
            Ok(Gathered::of(looked, switched, &records, &store, &host.rules))
        })
        .await?
    }
}

/// What there is at present, where not everything is looked at.
fn present(scope: &Scope, registry: &Registry) -> Option<Present> {
    let Scope::Packages(looked_at) = scope else { return None };
    let used = registry.all().map(|handle| {
        let blueprint = handle.blueprint();
        let (manifest, path, warnings) =
            (blueprint.manifest.clone(), blueprint.source.clone(), blueprint.found_warnings.clone());
        (path.clone(), (Found { manifest, path, warnings }, blueprint.snapshot()))
    });
    let rejected = registry.rejected().iter().map(|rejected| (rejected.path.clone(), rejected.clone()));
    Some(Present { looked_at: looked_at.clone(), used: used.collect(), rejected: rejected.collect() })
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
