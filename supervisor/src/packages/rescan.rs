//! What has changed in the plugin directories while the daemon runs, and what follows.
//!
//! Everything is found as by a daemon that starts now, and compared with what there is: so the registry comes out as that daemon's would,
//! also where the first of two packages of the same id and version goes and the second appears. Packages that are as they were go on. What is
//! in use is not exchanged here: it is found out what is to take its place, and `reload` tries that first.
//!
//! Invariant: a plugin ends when its folder or its record is gone, and not when that can only not be looked at.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;
use serde::Serialize;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::departure::Departure;
use super::discovery::{self, Present};
use super::gather::When;
use super::newcomer::{Newcomer, Newcomers};
use super::prepare::Staged;
use super::reload::{self, Lies, OURSELVES, Wanted, is_of};
use super::{Gathered, Packages, lock, run};
use crate::events::{EventKind, Refused, unix_ms};
use crate::model::generation::{LaunchFailure, Outlook};
use crate::model::ids::PluginId;
use crate::model::reload_plan::Plan;
use crate::model::status::PassedOver;
use crate::model::updates::{By, Policy};
use crate::plugin::handle::Handle;
use crate::registry::{Found, Listing, Registry, Rejected};
use crate::store::Snapshot;
use crate::store::database::Entry;
use crate::store::database::reloads::Serving;

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

impl Scope {
    fn has(&self, folder: &Path) -> bool {
        match self {
            Self::Everything => true,
            Self::Packages(folders) => folders.contains(folder),
        }
    }
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
    /// What failed earlier is looked at as if it had not.
    pub forgives: bool,
}

/// What a look has led to.
#[derive(Debug)]
pub(super) struct Followed {
    pub rescanned: Rescanned,
    /// Those that are in the registry no more.
    pub departures: Vec<Departure>,
    /// Those that are to be reloaded.
    pub wanted: Vec<Wanted>,
    /// Those that were given another package at once, and how.
    pub exchanged: Vec<(Handle, Plan)>,
    /// Those that are newer than what serves, and are to be tried.
    pub updates: Vec<Handle>,
    /// Those that are to be tried in whose folder another plugin is.
    pub newcomers: Vec<Newcomer>,
    /// Those that are being reloaded already; what is dropped says that it is over.
    pub under_way: Vec<(PluginId, watch::Receiver<()>)>,
}

impl Rescanned {
    fn extend(&mut self, more: Self) {
        let Self { added, changed, removed, kept, rejected } = more;
        self.added.extend(added);
        self.changed.extend(changed);
        self.removed.extend(removed);
        self.kept.extend(kept);
        self.rejected.extend(rejected.into_iter().filter(|one| !self.rejected.contains(one)).collect::<Vec<_>>());
    }

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
    pub async fn rescan(self: &Arc<Self>, trusting: Trusting) -> Result<Rescanned, ErrorBody> {
        let followed = self.follow(trusting, &Scope::Everything, None).await?;
        Ok(self.settle(followed).await)
    }

    /// Has those reloaded that are to be, all at once, and waits for the end of the plugins that leave for what has changed; then takes away
    /// what they needed. Others may change something meanwhile. Not cancel safe.
    pub(super) async fn settle(self: &Arc<Self>, followed: Followed) -> Rescanned {
        let Followed { mut rescanned, mut departures, wanted, exchanged: _, updates, newcomers, under_way } = followed;
        let mut comers = JoinSet::new();
        for newcomer in newcomers {
            let (packages, before) = (self.clone(), name(&newcomer.old));
            comers.spawn(async move { (before, packages.take_newcomer(newcomer).await) });
        }
        let mut trials = JoinSet::new();
        for update in updates {
            let packages = self.clone();
            trials.spawn(async move { packages.take_updates(update).await });
        }
        let mut reloads = JoinSet::new();
        for wanted in wanted {
            let (packages, before) = (self.clone(), name(&wanted.old));
            reloads.spawn(async move { (before, packages.reload(wanted).await) });
        }
        while let Some(done) = reloads.join_next().await {
            match done {
                Ok((before, Ok(reload::Switched { new, departure, .. }))) => {
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
        while let Some(tried) = trials.join_next().await {
            match tried {
                Ok(tried) => {
                    let failed = tried.into_iter().filter_map(|(update, done)| Some((update, done.err()?)));
                    rescanned
                        .kept
                        .extend(failed.map(|(update, error)| GoesOn { plugin: name(&update), reason: error.message }));
                }
                Err(error) => tracing::error!(%error, "the trial of an update panicked"),
            }
        }
        while let Some(done) = comers.join_next().await {
            match done {
                Ok((_, Ok(more))) => rescanned.extend(more),
                Ok((plugin, Err(kept))) => {
                    rescanned.kept.push(GoesOn { plugin, reason: kept.error().message.clone() });
                }
                Err(error) => tracing::error!(%error, "the trial of a plugin in another one's folder panicked"),
            }
        }
        for (id, mut over) in under_way {
            while over.changed().await.is_ok() {}
            // What somebody else has brought about is what is told, too.
            let Some(registry) = self.live.now() else { continue };
            let Ok(handle) = registry.find_any(id.as_str(), None) else { continue };
            match handle.blueprint().passed_over() {
                Some(passed) => rescanned.kept.push(GoesOn { plugin: name(handle), reason: passed.reason }),
                None => rescanned.changed.push(name(handle)),
            }
        }
        for list in [&mut rescanned.added, &mut rescanned.changed, &mut rescanned.removed] {
            list.sort();
        }
        rescanned.kept.sort_by(|one, other| one.plugin.cmp(&other.plugin));
        for departure in departures {
            departure.ended().await;
        }
        if rescanned.has_changes() {
            self.sweep(None);
        }
        rescanned
    }

    /// Has the plugins be what lies in the plugin directories, but for those that are to be reloaded, and waits for none to end: both come
    /// with what has changed. With `only` nothing is done about other plugins.
    pub(super) async fn follow(
        &self,
        trusting: Trusting,
        scope: &Scope,
        only: Option<&Only>,
    ) -> Result<Followed, ErrorBody> {
        // What is there now is what there was, to a daemon that starts in the middle of what follows.
        self.note_serving().await;
        let _one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let Gathered { mut staged, mut rejected, unseen: partly, switched, kept, .. } = self
            .look_again(
                trusting,
                present(scope, &registry),
                (serves(&registry), only.filter(|only| only.forgives).map(|only| only.id.clone())),
            )
            .await?;
        let is_dry = only.is_some_and(|only| only.is_dry);
        let is_meant = |id: &PluginId| only.is_none_or(|only| only.id == *id);
        // What lies in the folder of one that is meant is meant as well.
        let is_in_the_place =
            |found: &Found| registry.all().any(|one| is_meant(one.id()) && one.blueprint().source == found.path);
        staged.retain(|(found, _)| is_meant(&found.manifest.id) || is_in_the_place(found));
        if staged
            .iter()
            .any(|(_, snapshot)| snapshot.as_ref().is_err_and(|failure| failure.outlook != Outlook::Lasting))
        {
            // What was copied of it is needed by nobody.
            self.sweep(None);
        }
        // What has left a folder does not come back for one in which there is no package.
        staged.retain(|(found, _)| {
            let is_in_its_place = found.passed_over.as_ref().is_some_and(|passed| passed.digest.is_empty());
            let mut versions = registry.versions(&found.manifest.id);
            !is_in_its_place
                || versions.any(|(version, handle)| {
                    *version == found.manifest.version && handle.blueprint().source == found.path
                })
        });
        // What is not there any more is not asked about any more.
        let is_there = |id: &PluginId, handle: &Handle| {
            let of = |(found, snapshot): &Staged| {
                found.manifest.id == *id && snapshot.as_ref().is_ok_and(|there| is_of(handle, &there.digest))
            };
            !is_meant(id) || !scope.has(&handle.blueprint().source) || staged.iter().any(of)
        };
        lock(&self.awaiting).retain(|id, handle| is_there(id, handle));
        let unseen: Vec<PathBuf> = rejected.iter().filter(|one| one.unseen).map(|one| one.path.clone()).collect();
        if !is_dry {
            self.give_up_all_but(
                |id, folder| is_meant(id) && scope.has(folder),
                |folder| lies_in(folder, &staged, partly.iter().map(|one| &one.path).chain(&unseen)),
            );
        }
        let Newcomers { staying, kept: waiting, wanted: newcomers, mut under_way } =
            self.hold_newcomers(&registry, &mut staged, is_dry).await?;
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
                let version = (handle.id().clone(), handle.version().clone());
                is_meant(handle.id())
                    && !there.contains(&version)
                    && !staying.contains(&version)
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
        // Of a folder that holds another plugin now: which.
        let others: HashMap<PathBuf, String> = staged
            .iter()
            .map(|(found, _)| (found.path.clone(), format!("{} {}", found.manifest.id, found.manifest.version)))
            .collect();
        let (mut other, mut olds) = (Vec::new(), Vec::new());
        let mut rescanned_kept = waiting;
        let mut replaced = BTreeSet::new();
        let mut moved: Vec<Handle> = Vec::new();
        for (found, snapshot) in staged {
            let (id, version) = key(&found);
            let same = registry.versions(&id).find(|(there, _)| **there == version).map(|(_, handle)| handle);
            let old = same.or_else(|| before(&found)).cloned();
            if let Some(old) = old.as_ref().filter(|old| *old.version() != version) {
                replaced.insert((id.clone(), old.version().clone()));
            }
            if let Some(old) = old.as_ref().filter(|old| old.blueprint().source != found.path && !cannot_be_seen(old)) {
                moved.push(old.clone());
            }
            let is_same = old.as_ref().is_some_and(|old| is_same(old, &found, &snapshot));
            if is_same && let Some(old) = &old {
                let was = old.blueprint().passed_over();
                old.blueprint().pass_over(found.passed_over.clone());
                // What could be copied and has failed was told of when it did.
                if let Some(now) = found.passed_over.as_ref().filter(|now| now.digest.is_empty())
                    && was.is_none_or(|was| was.reason != now.reason)
                {
                    tracing::warn!(plugin = %id, reason = %now.reason, "its changed package does not serve; what served goes on");
                    self.tell(EventKind::PackageKept, &id, &version, Some(now.reason.clone()));
                    rescanned_kept.push(GoesOn { plugin: name(old), reason: now.reason.clone() });
                }
            }
            // What is there is asked for by name.
            // What stands in for it is not.
            let is_asked = is_same && found.passed_over.is_none() && only.is_some_and(|only| only.version == version);
            let not_seen = partly.iter().find(|one| one.path == found.path);
            let goes_on = old.as_ref().is_some_and(|old| {
                (is_same && !is_asked)
                    // Of a file that cannot be read nobody knows whether it is another.
                    || not_seen.is_some()
                    // Another one of the same id and version takes its place only when it is known to be gone.
                    || (old.blueprint().source != found.path && cannot_be_seen(old))
                    // What the daemon is short of says nothing of the package.
                    || matches!(&snapshot, Err(failure) if failure.outlook != Outlook::Lasting)
            });
            if goes_on {
                if !is_same {
                    rejected.extend(not_seen.cloned());
                }
                continue;
            }
            if let (Some(old), Ok(now)) = (&old, &snapshot)
                && let Some(kept) = self.keep_to_pin(old, &version, &now.digest, is_dry).await
            {
                rescanned_kept.push(kept);
                continue;
            }
            let being_reloaded = snapshot.as_ref().ok().and_then(|now| self.is_being_reloaded(&id, &now.digest));
            match being_reloaded {
                Some(over) if !is_dry => under_way.push((id, over)),
                Some(_) | None => {
                    other.push((found, snapshot));
                    olds.push((old, is_asked));
                }
            }
        }
        rescanned.rejected.clone_from(&rejected);
        rescanned.kept = rescanned_kept;
        let mut touched: BTreeSet<PluginId> = other.iter().map(|(found, _)| found.manifest.id.clone()).collect();
        if !is_dry {
            self.accept_first(&other.iter().map(|(found, _)| key(found)).collect::<Vec<_>>());
        }
        // Nothing has changed until everything is there for it.
        let prepared = self.prepare(other).await?;
        let (mut departures, mut wanted, mut freed) = (Vec::new(), Vec::new(), Vec::new());
        let mut exchanged = Vec::new();
        if is_dry {
            let stays = |handle: &&Handle| !replaced.contains(&(handle.id().clone(), handle.version().clone()));
            rescanned.removed.extend(gone.iter().filter(stays).map(name));
        } else {
            *lock(&self.kept) = kept;
            next.set_rejected(rejected);
            let is_replaced = |handle: &Handle| replaced.contains(&(handle.id().clone(), handle.version().clone()));
            let gone: Vec<Handle> = gone.iter().filter(|handle| !is_replaced(handle)).cloned().collect();
            for handle in &gone {
                next.take(handle.id(), handle.version());
                rescanned.removed.push(name(handle));
            }
            for id in gone.iter().map(Handle::id) {
                freed.extend(self.weigh(&next, id).freed);
                touched.insert(id.clone());
            }
            for handle in &moved {
                self.note_gone(handle, Gone::Moved).await;
            }
            // From here on no call is for one of those.
            self.live.replace(next.clone());
            let mut left = Vec::new();
            for handle in gone {
                let now = others.get(&handle.blueprint().source).map(|now| format!("its folder has {now} now"));
                self.tell(EventKind::PackageRemoved, handle.id(), handle.version(), now.clone());
                let task = self.task_of(&handle);
                departures.push(self.leave(handle.clone(), task, None));
                left.push((handle, now));
            }
            for (handle, now) in &left {
                self.note_gone(handle, now.as_deref().map_or(Gone::Removed, Gone::Another)).await;
                // What its author puts back there is no update of what was there before.
                if now.is_some() {
                    self.begin_anew_without(&next, handle.id()).await;
                }
            }
        }

        let mut added = Vec::new();
        for (one, (old, is_asked)) in prepared.into_iter().zip(olds) {
            let (id, version) = key(&one.found);
            if let (Some(old), Ok(_)) = (&old, &one.snapshot) {
                let at_once = if is_dry || is_asked { None } else { self.exchange_at_once(old, &one).await };
                let Some(plan) = at_once else {
                    let who = only.map_or(OURSELVES, |only| &only.who).to_owned();
                    wanted.push(Wanted { old: old.clone(), prepared: one, state: None, who, returns: None });
                    continue;
                };
                exchanged.push((old.clone(), plan));
            }
            if is_dry {
                continue;
            }
            let enabled = switched.get(&(id.clone(), version.clone())).copied();
            let enabled = enabled.unwrap_or(one.found.manifest.default_enabled)
                && !lock(&self.unwritten).contains(&(id.clone(), version.clone()));
            // A daemon that stops would not know of it.
            if !self.around.store.is_open() {
                break;
            }
            if let Err(reason) = &one.snapshot {
                tracing::warn!(plugin = %id, reason = %reason.message, "the package cannot be used");
            }
            let old = old.map(|old| (self.task_of(&old), old));
            let handle = self.make(one);
            if let Some((_, old)) = &old {
                handle.carry_over(old);
            }
            handle.set_enabled(enabled);
            match &old {
                Some((_, old)) if *old.version() == version => {
                    rescanned.changed.push(name(&handle));
                }
                Some((_, old)) => {
                    next.take(old.id(), old.version());
                    rescanned.removed.push(name(old));
                    rescanned.added.push(name(&handle));
                }
                None => rescanned.added.push(name(&handle)),
            }
            if let Some((_, old)) = &old {
                self.accept_instead(old, &version);
            }
            next.put(handle.clone());
            freed.extend(self.weigh(&next, &id).freed);
            // New calls are for this one, while the one before ends those that it has.
            self.live.replace(next.clone());
            match old {
                Some((task, old)) => {
                    departures.push(self.leave(old.clone(), task, Some(&handle)));
                    self.tell_changed(&old, &handle);
                    self.tell_state(old.state(), &handle);
                }
                None => {
                    lock(&self.awaiting).remove(&id);
                    self.tell(EventKind::PackageAdded, &id, &version, None);
                    let place = handle.blueprint().source.display().to_string();
                    added.push(self.entry("package_added", OURSELVES, &id, &version, format!("it is in {place}")));
                }
            }
            self.set_off(&handle).await;
        }
        self.note_added(added).await;
        let mut updates = Vec::new();
        if !is_dry {
            // What could not be tried earlier is tried now.
            let waiting = next.all().filter(|handle| handle.is_held() && is_meant(handle.id()));
            touched.extend(waiting.map(|handle| handle.id().clone()));
            updates = self.weigh_all(&next, touched).await;
            for handle in freed.iter().filter(|handle| handle.successor().is_none()) {
                self.set_off(handle).await;
            }
        }
        Ok(Followed { rescanned, departures, wanted, exchanged, updates, newcomers, under_way })
    }

    /// Has what serves go on, where its folder has another version now that the pin excludes: then says so. One that has no copy of itself
    /// cannot go on.
    async fn keep_to_pin(&self, old: &Handle, version: &Version, digest: &str, is_dry: bool) -> Option<GoesOn> {
        let id = old.id();
        let pin = self.pin_of(id)?;
        if pin.admits(version) || !pin.admits(old.version()) {
            return None;
        }
        self.hold_copy(old).await;
        if old.blueprint().snapshot().map_or(true, |snapshot| snapshot.is_presumed) {
            return None;
        }
        let reason = format!("{version} is not taken: {}", self.why_held(By::Pin, id, None, Policy::Auto));
        let is_known =
            old.blueprint().passed_over().is_some_and(|passed| passed.digest == digest && passed.reason == reason);
        if !is_known && !is_dry {
            let at_unix_ms = unix_ms(SystemTime::now());
            old.blueprint().pass_over(Some(PassedOver::new(digest.to_owned(), reason.clone(), at_unix_ms)));
            let refused = Refused { version: version.to_string(), digest: digest.to_owned() };
            self.tell_refused(EventKind::PackageKept, old, refused, reason.clone());
        }
        Some(GoesOn { plugin: name(old), reason })
    }

    /// Has the trail say which plugins have come.
    async fn note_added(&self, entries: Vec<Entry>) {
        if entries.is_empty() {
            return;
        }
        let database = self.database.clone();
        let noted = run(move || database.note_all(&entries).map_err(|error| error.to_string())).await;
        if let Err(error) = noted.map_err(|error| error.message).flatten() {
            tracing::error!(%error, "which plugins have come is not in the audit trail");
        }
    }

    /// Notes that a package is gone from where it was. What served there is not looked for in that folder any more.
    async fn note_gone(&self, handle: &Handle, gone: Gone<'_>) {
        let (id, version) = (handle.id(), handle.version());
        let place = (id.clone(), handle.blueprint().source.clone());
        lock(&self.serving).remove(&place);
        let detail = match gone {
            Gone::Moved => None,
            Gone::Removed => Some(format!("it is not in {} any more", place.1.display())),
            Gone::Another(now) => {
                tracing::warn!(plugin = %id, %version, "the plugin ends: {now}");
                Some(now.to_owned())
            }
        };
        let entry = detail.map(|detail| self.entry("package_removed", OURSELVES, id, version, detail));
        let database = self.database.clone();
        let noted = run(move || database.note_gone(&place, entry.as_ref()).map_err(|error| error.to_string())).await;
        if let Err(error) = noted.map_err(|error| error.message).flatten() {
            tracing::error!(plugin = %id, %error, "that its package is gone is not noted");
        }
    }

    /// What runs the plugin, which the caller sees to the end from here on.
    pub(super) fn task_of(&self, handle: &Handle) -> Option<JoinHandle<()>> {
        lock(&self.tasks).remove(&(handle.id().clone(), handle.version().clone()))
    }

    /// Everything that a daemon finds which starts now; of what is not looked at, that which is there at present.
    async fn look_again(
        &self,
        trusting: Trusting,
        present: Option<Present>,
        (serves, forgiven): (Serving, Option<PluginId>),
    ) -> Result<Gathered, ErrorBody> {
        let when = When::Running { serves, returning: lock(&self.returning).clone(), forgiven };
        let (directories, records) = (self.around.config.plugin_directories.clone(), self.records.clone());
        let (store, host, database) = (self.around.store.clone(), self.around.host.clone(), self.database.clone());
        let states = self.around.states.clone();
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
            let mut gathered = Gathered::of(looked, switched, &records, &store, &host.rules);
            gathered.directories = directories;
            gathered.pass_over(&store, &host.rules, &database, when, &states);
            Ok(gathered)
        })
        .await?
    }
}

/// What became of a package that is gone from where it was.
#[derive(Debug, Clone, Copy)]
enum Gone<'a> {
    /// It is elsewhere.
    Moved,
    /// It is nowhere.
    Removed,
    /// Its folder has another plugin, as this says.
    Another(&'a str),
}

/// What there is at present, where not everything is looked at.
fn present(scope: &Scope, registry: &Registry) -> Option<Present> {
    let Scope::Packages(looked_at) = scope else { return None };
    let used = registry.all().map(|handle| {
        let blueprint = handle.blueprint();
        let (manifest, path, warnings) =
            (blueprint.manifest.clone(), blueprint.source.clone(), blueprint.found_warnings.clone());
        let passed_over = blueprint.passed_over();
        (path.clone(), (Found { manifest, path, warnings, passed_over }, blueprint.snapshot()))
    });
    let rejected = registry.rejected().iter().map(|rejected| (rejected.path.clone(), rejected.clone()));
    Some(Present { looked_at: looked_at.clone(), used: used.collect(), rejected: rejected.collect() })
}

/// What serves, by plugin and folder.
fn serves(registry: &Registry) -> Serving {
    let of = |handle: &Handle| {
        let blueprint = handle.blueprint();
        Some(((handle.id().clone(), blueprint.source.clone()), blueprint.snapshot().ok()?.digest))
    };
    registry.all().filter_map(of).collect()
}

/// What was found in a folder, which may be one of those that could not be looked at, or lie in one.
fn lies_in<'a>(folder: &Path, staged: &'a [Staged], mut unseen: impl Iterator<Item = &'a PathBuf>) -> Lies<'a> {
    if unseen.any(|path| folder.starts_with(path)) {
        return Lies::Unknown;
    }
    match staged.iter().find(|(found, _)| found.path == folder) {
        Some((Found { passed_over: Some(passed_over), .. }, _)) => Lies::Package(&passed_over.digest),
        Some((_, Ok(snapshot))) => Lies::Package(&snapshot.digest),
        Some((_, Err(failure))) if failure.outlook == Outlook::Lasting => Lies::Package(""),
        Some((_, Err(_))) => Lies::Unknown,
        None => Lies::Nothing,
    }
}

fn key(found: &Found) -> (PluginId, Version) {
    (found.manifest.id.clone(), found.manifest.version.clone())
}

pub(super) fn name(handle: &Handle) -> String {
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
