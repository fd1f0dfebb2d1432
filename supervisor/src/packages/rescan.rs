//! What has changed in the plugin directories while the daemon runs, and what follows.
//!
//! Everything is found as by a daemon that starts now, and compared with what there is: so the registry comes out as that daemon's would,
//! also where the first of two packages of the same id and version goes and the second appears. Packages that are as they were go on. What is
//! in use is not exchanged here: it is found out what is to take its place, and `reload` tries that first.
//!
//! Invariant: a plugin ends when its folder or its record is gone, and not when that can only not be looked at.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use palisade_protocol::ErrorBody;
use semver::Version;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::departure::Departure;
use super::discovery;
use super::gather::When;
use super::reload::{OURSELVES, Wanted};
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
    /// Those that have changed and go on as they were, as the changed package does not serve.
    pub kept: Vec<GoesOn>,
    /// Packages that cannot be used.
    pub rejected: Vec<Rejected>,
}

/// A plugin that goes on with the package before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GoesOn {
    /// Which,
    pub plugin: String,
    /// and why: a sentence.
    pub reason: String,
}

/// A plugin that is looked at alone, and reloaded even if it is as it was.
#[derive(Debug)]
pub(super) struct Only {
    pub id: PluginId,
    pub version: Version,
    /// Who asks for it.
    pub who: String,
    /// Nothing is done, and it is said what would be.
    pub is_dry: bool,
}

/// What a look has led to.
#[derive(Debug)]
pub(super) struct Followed {
    pub rescanned: Rescanned,
    /// Those that are in the registry no more.
    pub departures: Vec<Departure>,
    /// Those that are to be reloaded.
    pub wanted: Vec<Wanted>,
    /// Those that are being reloaded already; what is dropped says that it is over.
    pub under_way: Vec<watch::Receiver<()>>,
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
    pub async fn rescan(self: &Arc<Self>, trusting: Trusting) -> Result<Rescanned, ErrorBody> {
        let followed = self.follow(trusting, None).await?;
        Ok(self.settle(followed).await)
    }

    /// Has those reloaded that are to be, all at once, and waits for the end of the plugins that leave for what has changed; then takes away
    /// what they needed. Others may change something meanwhile. Not cancel safe.
    pub(super) async fn settle(self: &Arc<Self>, followed: Followed) -> Rescanned {
        let Followed { mut rescanned, mut departures, wanted, under_way } = followed;
        let mut reloads = JoinSet::new();
        for wanted in wanted {
            let (packages, before) = (self.clone(), name(&wanted.old));
            reloads.spawn(async move { (before, packages.reload(wanted).await) });
        }
        while let Some(done) = reloads.join_next().await {
            match done {
                Ok((before, Ok((new, departure)))) => {
                    departures.push(departure);
                    let now = name(&new);
                    if now == before {
                        rescanned.changed.push(now);
                    } else {
                        rescanned.removed.push(before);
                        rescanned.added.push(now);
                    }
                }
                Ok((plugin, Err(kept))) => {
                    rescanned.kept.push(GoesOn { plugin, reason: kept.error().message.clone() });
                }
                Err(error) => tracing::error!(%error, "a reload panicked"),
            }
        }
        for list in [&mut rescanned.added, &mut rescanned.changed, &mut rescanned.removed] {
            list.sort();
        }
        rescanned.kept.sort_by(|one, other| one.plugin.cmp(&other.plugin));
        for mut over in under_way {
            while over.changed().await.is_ok() {}
        }
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
        rescanned
    }

    /// Has the plugins be what lies in the plugin directories, but for those that are to be reloaded, and waits for none to end: both come
    /// with what has changed. With `only` nothing is done about other plugins.
    pub(super) async fn follow(&self, trusting: Trusting, only: Option<&Only>) -> Result<Followed, ErrorBody> {
        // What is there now is what there was, to a daemon that starts in the middle of what follows.
        self.note_serving().await;
        let _one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let Gathered { mut staged, rejected, switched, kept } = self.look_again(trusting).await?;
        let is_dry = only.is_some_and(|only| only.is_dry);
        let is_meant = |id: &PluginId| only.is_none_or(|only| only.id == *id);
        staged.retain(|(found, _)| is_meant(&found.manifest.id));
        let unseen: Vec<PathBuf> = rejected.iter().filter(|one| one.unseen).map(|one| one.path.clone()).collect();
        let mut rescanned = Rescanned { rejected: rejected.clone(), ..Rescanned::default() };
        let mut next = Registry::clone(&registry);
        if !is_dry {
            *lock(&self.kept) = kept;
            next.set_rejected(rejected);
        }

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
                is_meant(handle.id())
                    && !there.contains(&(handle.id().clone(), handle.version().clone()))
                    && !cannot_be_seen(handle)
            })
            .cloned()
            .collect();
        // Another version in the same folder takes the place of the one before.
        let before = |found: &Found| {
            let same = |old: &&Handle| *old.id() == found.manifest.id && old.blueprint().source == found.path;
            let is_new = registry.versions(&found.manifest.id).all(|(version, _)| *version != found.manifest.version);
            gone.iter().find(same).filter(|_| is_new)
        };
        let replaced: BTreeSet<_> =
            staged.iter().filter_map(|(found, _)| before(found)).map(|old| old.version().clone()).collect();
        let replaced = |handle: &Handle| {
            replaced.contains(handle.version())
                && staged.iter().any(|(found, _)| before(found).is_some_and(|old| old.is(handle)))
        };
        let (mut departures, mut wanted, mut under_way) = (Vec::new(), Vec::new(), Vec::new());
        if !is_dry {
            let gone: Vec<Handle> = gone.iter().filter(|handle| !replaced(handle)).cloned().collect();
            for handle in &gone {
                next.take(handle.id(), handle.version());
                rescanned.removed.push(name(handle));
            }
            // From here on no call is for one of those.
            self.live.replace(next.clone());
            for handle in gone {
                self.tell(EventKind::PackageRemoved, handle.id(), handle.version(), None);
                let task = self.task_of(&handle);
                departures.push(self.leave(handle, task, None));
            }
        }

        let olds: Vec<Option<Handle>> = staged
            .iter()
            .map(|(found, _)| {
                let (id, version) = key(found);
                let same = registry.versions(&id).find(|(there, _)| **there == version).map(|(_, handle)| handle);
                same.or_else(|| before(found)).cloned()
            })
            .collect();
        for ((found, snapshot), old) in staged.into_iter().zip(olds) {
            let (id, version) = key(&found);
            let same = old.as_ref().filter(|old| is_same(old, &found, &snapshot));
            if let Some(same) = same {
                same.blueprint().pass_over(found.passed_over.clone());
                // What is there is asked for by name.
                if only.is_none_or(|only| only.version != version) {
                    continue;
                }
            }
            // Another one of the same id and version takes its place only when it is known to be gone.
            if old.as_ref().is_some_and(|old| old.blueprint().source != found.path && cannot_be_seen(old)) {
                continue;
            }
            // What the daemon is short of says nothing of the package.
            if old.is_some() && matches!(&snapshot, Err(failure) if failure.outlook != Outlook::Lasting) {
                continue;
            }
            if let (Some(old), Ok(snapshot)) = (&old, &snapshot) {
                if let Some(over) = self.is_being_reloaded(&id, &snapshot.digest) {
                    under_way.push(over);
                    continue;
                }
                let who = only.map_or(OURSELVES, |only| &only.who);
                let (old, snapshot, who) = (old.clone(), snapshot.clone(), who.to_owned());
                if is_dry || same.is_some() || self.is_to_be_tried(&old, &found, &snapshot).await {
                    wanted.push(Wanted { old, found, snapshot, who });
                    continue;
                }
            }
            let enabled = switched.get(&(id.clone(), version.clone())).copied();
            let enabled = enabled.unwrap_or(found.manifest.default_enabled);
            // A daemon that stops would not know of it.
            if is_dry || !self.around.store.is_open() {
                break;
            }
            if let Err(reason) = &snapshot {
                tracing::warn!(plugin = %id, reason = %reason.message, "the package cannot be used");
            }
            let old = old.map(|old| (self.task_of(&old), old));
            let handle = self.make(found, snapshot);
            handle.set_enabled(enabled);
            let mut kind = EventKind::PackageAdded;
            match &old {
                Some((_, old)) if *old.version() == version => {
                    kind = EventKind::PackageChanged;
                    rescanned.changed.push(name(&handle));
                }
                Some((_, old)) => {
                    next.take(old.id(), old.version());
                    rescanned.removed.push(name(old));
                    rescanned.added.push(name(&handle));
                    self.tell(EventKind::PackageRemoved, old.id(), old.version(), None);
                }
                None => rescanned.added.push(name(&handle)),
            }
            next.put(handle.clone());
            // New calls are for this one, while the one before ends those that it has.
            self.live.replace(next.clone());
            departures.extend(old.map(|(task, old)| self.leave(old, task, Some(&handle))));
            self.tell(kind, &id, &version, None);
            self.set_off(&handle).await;
        }
        Ok(Followed { rescanned, departures, wanted, under_way })
    }

    /// What runs the plugin, which the caller sees to the end from here on.
    pub(super) fn task_of(&self, handle: &Handle) -> Option<JoinHandle<()>> {
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
            Gathered::of(looked, &records, &store, &host.rules, &database, When::Running)
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
