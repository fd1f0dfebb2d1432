//! Which versions of a plugin take calls, which newer ones wait, and how one that waits comes to take them.
//!
//! Whenever there are other versions than before, those of an id are [weighed](Packages::weigh): each is let serve, or held, or is to be
//! tried. What is tried is started beside the version that serves; if it becomes active it takes the calls, and is looked at for a while as
//! after a reload. What serves is remembered, so that the next daemon has the same serve.
//!
//! Invariants: a version is held before the registry has it; that one was accepted is on the disk before it takes calls of others.
//! Elsewhere: who may serve is decided by `model::updates`; what an operator asks for is `update`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;

use super::alone::Alone;
use super::reload::{Candidate, Kept, OURSELVES, Uses, overtaken, paused, start};
use super::{Packages, lock, refused, run};
use crate::events::{EventKind, unix_ms};
use crate::model::ids::PluginId;
use crate::model::reload_plan::{Manner, Untried};
use crate::model::specifier::Specifier;
use crate::model::status::{Lies, PassedOver};
use crate::model::updates::{By, Decision, Held, Kind, Offer, Policy, Present, Said, is_next};
use crate::plugin::handle::{Handle, Updating};
use crate::registry::Registry;
use crate::store::database::probations::Probation;
use crate::store::database::updates::{VERSIONS_MAX, Versions, Which};
use crate::store::database::{Database, Entry};

/// So many packages of one plugin that could not be taken are known.
const FAILED_MAX: usize = 50;

/// What is known of versions as updates.
#[derive(Debug, Default)]
pub(super) struct Acceptance {
    /// The versions that may serve,
    accepted: Versions,
    /// and those that were told of.
    told: Versions,
    /// Why packages cannot be taken, by their digests; and whether they can be tried again.
    failed: BTreeMap<(PluginId, String), (By, String)>,
    /// What each version that is there has to do with updates, where it has.
    updating: BTreeMap<(PluginId, Version), Updating>,
    /// Those that are being tried.
    trying: BTreeSet<PluginId>,
    /// What of the first two the database does not have yet.
    unwritten: Unwritten,
}

#[derive(Debug, Default)]
struct Unwritten {
    accepted: Versions,
    told: Vec<(PluginId, Version, String)>,
}

/// What follows when the versions of a plugin were weighed.
#[derive(Debug, Default)]
pub(super) struct Weighed {
    /// The one that is to be tried.
    pub take: Option<Handle>,
    /// Those that were held, and take calls now.
    pub freed: Vec<Handle>,
}

impl Acceptance {
    /// Has a version be accepted, and says whether it was not.
    fn accept(&mut self, id: &PluginId, version: &Version) -> bool {
        let accepted = self.accepted.entry(id.clone()).or_default();
        let is_new = accepted.insert(version.clone());
        if VERSIONS_MAX < accepted.len() {
            accepted.pop_first();
        }
        is_new
    }

    /// The same where that is to be written down.
    fn accept_and_note(&mut self, id: &PluginId, version: &Version) {
        if self.accept(id, version) {
            self.unwritten.accepted.entry(id.clone()).or_default().insert(version.clone());
        }
    }

    fn fail(&mut self, id: &PluginId, digest: String, by: By, reason: String) {
        let of_it: Vec<_> = self.failed.keys().filter(|(of, _)| of == id).cloned().collect();
        if let Some(first) = of_it.first().filter(|_| FAILED_MAX <= of_it.len()) {
            self.failed.remove(first);
        }
        self.failed.insert((id.clone(), digest), (by, reason));
    }

    pub(super) fn read(database: &Database) -> Self {
        let read = || {
            let failed = database.bad()?.into_iter();
            let failed = failed.filter(|(_, bad)| bad.instead.is_empty());
            Ok::<_, crate::store::database::DatabaseError>(Self {
                accepted: database.known_versions(Which::Accepted)?,
                told: database.known_versions(Which::Offered)?,
                failed: failed.map(|(of, bad)| (of, (By::Failed, bad.reason))).collect(),
                ..Self::default()
            })
        };
        read().unwrap_or_else(|error| {
            tracing::error!(%error, "which versions were accepted is not known, and all that are there are taken for accepted");
            Self::default()
        })
    }
}

impl Packages {
    /// What the configuration says of the versions of a plugin.
    pub(super) fn pin_of(&self, id: &PluginId) -> Option<&Specifier> {
        self.around.config.plugins.get(id)?.version.as_ref()
    }

    /// What becomes of newer ones.
    pub(super) fn update_policy_of(&self, id: &PluginId) -> Policy {
        let config = &self.around.config;
        config.plugins.get(id).and_then(|plugin| plugin.update_policy).unwrap_or(config.update_policy)
    }

    /// The versions of a plugin that may serve.
    pub(super) fn accepted_of(&self, id: &PluginId) -> BTreeSet<Version> {
        lock(&self.acceptance).accepted.get(id).cloned().unwrap_or_default()
    }

    /// Decides about every version of a plugin that this registry has, and says so to each. Who changes the registry does that first.
    pub(super) fn weigh(&self, registry: &Registry, id: &PluginId) -> Weighed {
        let mut acceptance = lock(&self.acceptance);
        let acceptance = &mut *acceptance;
        let handles: Vec<&Handle> = registry.versions(id).map(|(_, handle)| handle).collect();
        let there: Vec<_> =
            handles.iter().map(|handle| Present { version: handle.version(), enabled: handle.is_enabled() }).collect();
        if handles.is_empty() {
            acceptance.updating.retain(|(of, _), _| of != id);
            return Weighed::default();
        }
        let (pin, policy) = (self.pin_of(id), self.update_policy_of(id));
        let accepted = acceptance.accepted.entry(id.clone()).or_default().clone();
        let said = Said { accepted: &accepted, pin, policy };
        let before = said.before(&there).cloned();
        let mut weighed = Weighed::default();
        let mut updating: BTreeMap<Version, Updating> = BTreeMap::new();
        let has_another = |version: &Version| {
            there.iter().any(|one| one.enabled && one.version != version && accepted.contains(one.version))
        };
        for handle in &handles {
            let version = handle.version();
            let digest = handle.blueprint().snapshot().map(|snapshot| snapshot.digest).unwrap_or_default();
            let failed = acceptance.failed.get(&(id.clone(), digest)).cloned();
            let held = match (said.decide(version, &there), failed) {
                // That a newer one serves by now makes it no better.
                (Decision::Serves, Some((By::Failed, reason)))
                    if handle.is_enabled() && !accepted.contains(version) && has_another(version) =>
                {
                    Some(Held { by: By::Failed, reason })
                }
                (Decision::Serves, _) => {
                    acceptance.accept_and_note(id, version);
                    None
                }
                // It takes none anyway, and who enables it accepts it.
                (Decision::Take | Decision::Held(By::Policy | By::Major), _) if !handle.is_enabled() => None,
                (Decision::Take, Some((By::Failed, reason))) => Some(Held { by: By::Failed, reason }),
                (Decision::Take, failed) => {
                    // The highest of them is tried first.
                    if !acceptance.trying.contains(id) {
                        weighed.take = Some((*handle).clone());
                    }
                    let (by, reason) =
                        failed.unwrap_or_else(|| (By::Trial, "it is newer, and is tried first".to_owned()));
                    Some(Held { by, reason })
                }
                (Decision::Held(by), _) => Some(Held { by, reason: self.why_held(by, id, before.as_ref(), policy) }),
            };
            updating.insert(version.clone(), Updating { held, offered: None });
        }
        self.offer(acceptance, (id, policy), &handles, &mut updating);
        acceptance.updating.retain(|(of, _), _| of != id);
        for handle in handles {
            let Some(updating) = updating.remove(handle.version()) else { continue };
            if handle.is_held() && updating.held.is_none() {
                weighed.freed.push(handle.clone());
            }
            handle.set_updating(updating.clone());
            if updating != Updating::default() {
                acceptance.updating.insert((id.clone(), handle.version().clone()), updating);
            }
        }
        weighed
    }

    /// Why a version that is not there yet would take no calls before an operator has said something, if that is so.
    pub(super) fn would_be_held(&self, registry: &Registry, id: &PluginId, version: &Version) -> Option<String> {
        let there: Vec<_> = registry.versions(id).map(|(_, handle)| handle).collect();
        let mut there: Vec<_> =
            there.iter().map(|one| Present { version: one.version(), enabled: one.is_enabled() }).collect();
        there.push(Present { version, enabled: true });
        let (accepted, policy) = (self.accepted_of(id), self.update_policy_of(id));
        let said = Said { accepted: &accepted, pin: self.pin_of(id), policy };
        match said.decide(version, &there) {
            Decision::Held(by) => Some(self.why_held(by, id, said.before(&there), policy)),
            Decision::Serves | Decision::Take => None,
        }
    }

    /// Has the version that serves tell of the highest one that waits, and notes those of which nobody was told.
    fn offer(
        &self,
        acceptance: &mut Acceptance,
        (id, policy): (&PluginId, Policy),
        handles: &[&Handle],
        updating: &mut BTreeMap<Version, Updating>,
    ) {
        let serves = |handle: &&&Handle| {
            handle.is_enabled() && updating.get(handle.version()).is_none_or(|updating| updating.held.is_none())
        };
        let serving = handles.iter().filter(serves).map(|handle| handle.version());
        let Some(serving) = Specifier::any().highest(serving.collect::<Vec<_>>()).cloned() else { return };
        if policy == Policy::Manual {
            return;
        }
        let mut offered = None;
        for handle in handles.iter().filter(|handle| handle.is_enabled()) {
            let version = handle.version();
            let by = updating.get(version).and_then(|updating| updating.held.as_ref()).map(|held| held.by);
            if !matches!(by, Some(By::Major | By::Policy | By::Untried)) || !is_next(&serving, version) {
                continue;
            }
            let kind = Kind::of(&serving, version);
            offered = Some(Offer { version: version.clone(), kind });
            let told = acceptance.told.entry(id.clone()).or_default();
            if told.insert(version.clone()) {
                if VERSIONS_MAX < told.len() {
                    told.pop_first();
                }
                let major = if kind == Kind::Major { "--major " } else { "" };
                let reason = format!(
                    "{version} is there, a {} version after {serving}, which serves: `palisade update {major}{id}` takes it",
                    kind.as_str()
                );
                acceptance.unwritten.told.push((id.clone(), version.clone(), reason));
            }
        }
        if let Some(updating) = updating.get_mut(&serving) {
            updating.offered = offered;
        }
    }

    /// Why a version takes no calls: a sentence that goes on after its name.
    pub(super) fn why_held(&self, by: By, id: &PluginId, before: Option<&Version>, policy: Policy) -> String {
        let after = before.map(|before| format!(" after {before}")).unwrap_or_default();
        match by {
            By::Pin => {
                let pin = self.pin_of(id).map(ToString::to_string).unwrap_or_default();
                format!("{id} is pinned to {pin}")
            }
            By::Major => format!("it is a new major version{after}, which is not taken without confirmation"),
            By::Policy | By::Failed | By::Untried | By::Trial => {
                format!("it is newer{after}, and the policy for updates is {policy}")
            }
        }
    }

    /// Weighs the versions of those ids, has those begin that are free now, and writes down what came of it. With it come those that are
    /// to be tried.
    pub(super) async fn weigh_all(&self, registry: &Registry, ids: impl IntoIterator<Item = PluginId>) -> Vec<Handle> {
        let (mut take, mut freed) = (Vec::new(), Vec::new());
        for id in ids {
            let weighed = self.weigh(registry, &id);
            take.extend(weighed.take);
            freed.extend(weighed.freed);
        }
        if !freed.is_empty() {
            self.live.has_changed();
        }
        self.write_acceptance().await;
        for handle in freed {
            self.set_off(&handle).await;
        }
        take
    }

    /// Has what was accepted and told be on the disk, and tells what was not told yet.
    pub(super) async fn write_acceptance(&self) {
        let Unwritten { accepted, told } = std::mem::take(&mut lock(&self.acceptance).unwritten);
        if accepted.is_empty() && told.is_empty() {
            return;
        }
        let mut offered = Versions::new();
        for (id, version, _) in &told {
            offered.entry(id.clone()).or_default().insert(version.clone());
        }
        let database = self.database.clone();
        let noted = run(move || {
            database.note_versions(Which::Accepted, &accepted)?;
            database.note_versions(Which::Offered, &offered)
        });
        match noted.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "which versions may serve is forgotten with the daemon"),
            Err(error) => {
                tracing::error!(error = error.message, "which versions may serve is forgotten with the daemon")
            }
        }
        for (id, version, reason) in told {
            tracing::info!(plugin = %id, %version, "{reason}");
            self.tell(EventKind::UpdateAvailable, &id, &version, Some(reason));
        }
    }

    /// What a version that is made anew has to do with updates.
    pub(super) fn apply_updating(&self, handle: &Handle) {
        let of = (handle.id().clone(), handle.version().clone());
        handle.set_updating(lock(&self.acceptance).updating.get(&of).cloned().unwrap_or_default());
    }

    /// Notes that a version may serve, as somebody wants it, before it does.
    ///
    /// # Errors
    /// `resource_exhausted` where it cannot be noted; then it may not.
    pub(super) async fn accept(
        &self,
        entry: Entry,
        id: &PluginId,
        version: &Version,
        probation: Option<Probation>,
    ) -> Result<(), ErrorBody> {
        let database = self.database.clone();
        let noted = run(move || database.accept(&entry, probation.as_ref())).await?;
        noted.map_err(|error| super::unwritten(&error))?;
        self.has_accepted(id, version);
        Ok(())
    }

    pub(super) fn has_accepted(&self, id: &PluginId, version: &Version) {
        let mut acceptance = lock(&self.acceptance);
        acceptance.accept(id, version);
        acceptance.updating.remove(&(id.clone(), version.clone()));
    }

    /// Has a version be accepted. The caller has what is unwritten written.
    pub(super) fn accept_unwritten(&self, id: &PluginId, version: &Version) {
        let mut acceptance = lock(&self.acceptance);
        acceptance.accept_and_note(id, version);
        acceptance.updating.remove(&(id.clone(), version.clone()));
    }

    /// Has a version be accepted that is the first of its plugin to appear, or appears together with that.
    pub(super) fn accept_first(&self, of: &[(PluginId, Version)]) {
        let mut acceptance = lock(&self.acceptance);
        let is_known =
            |acceptance: &Acceptance, id: &PluginId| acceptance.accepted.get(id).is_some_and(|all| !all.is_empty());
        let new: Vec<_> = of.iter().filter(|(id, _)| !is_known(&acceptance, id)).collect();
        for (id, version) in new {
            acceptance.accept_and_note(id, version);
        }
    }

    /// Has a version that takes the place of another one be accepted as that one was. The caller has what is unwritten written.
    pub(super) fn accept_instead(&self, old: &Handle, version: &Version) {
        let (id, before) = (old.id(), old.version());
        if old.is_held() || before == version {
            return;
        }
        let mut acceptance = lock(&self.acceptance);
        acceptance.accept_and_note(id, version);
        acceptance.updating.remove(&(id.clone(), version.clone()));
    }

    /// Has a version be accepted no more: who wants it again says so.
    pub(super) async fn accept_no_more(&self, id: &PluginId, version: &Version) {
        {
            let mut acceptance = lock(&self.acceptance);
            acceptance.updating.remove(&(id.clone(), version.clone()));
            acceptance.accepted.entry(id.clone()).or_default().remove(version);
        }
        self.forget_accepted(id, vec![version.clone()]).await;
    }

    /// Has no version of a plugin be accepted any more of which an operator has removed the last: what comes then is the first again. While
    /// others are there, one that is removed stays accepted, and can come back.
    pub(super) async fn begin_anew_without(&self, registry: &Registry, id: &PluginId) {
        if registry.versions(id).next().is_some() {
            return;
        }
        let forgotten = {
            let mut acceptance = lock(&self.acceptance);
            acceptance.told.remove(id);
            acceptance.accepted.remove(id).into_iter().flatten().collect()
        };
        self.forget_accepted(id, forgotten).await;
    }

    async fn forget_accepted(&self, id: &PluginId, versions: Vec<Version>) {
        let (database, of) = (self.database.clone(), id.clone());
        let forget = move || versions.iter().try_for_each(|version| database.accept_no_more(&of, version));
        match run(forget).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(plugin = %id, %error, "that a version is accepted no more is forgotten"),
            Err(error) => {
                tracing::error!(plugin = %id, error = error.message, "that a version is accepted no more is forgotten");
            }
        }
    }

    /// Forgets everything of an id; the database has forgotten it.
    pub(super) fn forget_acceptance(&self, id: &PluginId) {
        let mut acceptance = lock(&self.acceptance);
        acceptance.accepted.remove(id);
        acceptance.told.remove(id);
        acceptance.failed.retain(|(of, _), _| of != id);
        acceptance.updating.retain(|(of, _), _| of != id);
    }

    /// Has updates of a plugin that failed be tried again.
    pub(super) fn forgive_updates(&self, id: &PluginId) {
        lock(&self.acceptance).failed.retain(|(of, _), _| of != id);
    }

    /// Whether an update waits for its trial.
    pub(super) fn has_updates_to_try(&self) -> bool {
        let is_one = |updating: &Updating| updating.held.as_ref().is_some_and(|held| held.by == By::Trial);
        lock(&self.acceptance).updating.values().any(is_one)
    }

    /// Tries the update that is to be tried first, and if it does not serve the next, until one does or there is none. Says of each that
    /// was tried what became of it.
    ///
    /// Not cancel safe.
    pub(super) async fn take_updates(self: &Arc<Self>, first: Handle) -> Vec<(Handle, Result<Handle, ErrorBody>)> {
        let id = first.id().clone();
        if !lock(&self.acceptance).trying.insert(id.clone()) {
            return Vec::new();
        }
        let (mut next, mut tried) = (Some(first), Vec::new());
        while let Some(update) = next.take() {
            let done = self.take_update(&update, OURSELVES).await;
            tried.push((update.clone(), done));
            lock(&self.acceptance).trying.remove(&id);
            let Some(registry) = self.live.now() else { break };
            let again = self.weigh_all(&registry, [id.clone()]).await;
            // What could not be tried is tried when it is looked again.
            next = again.into_iter().find(|one| tried.iter().all(|(other, _)| !other.is(one)));
            if next.is_some() && !lock(&self.acceptance).trying.insert(id.clone()) {
                break;
            }
        }
        tried
    }

    /// Has an update that is held take calls, once it was tried beside the version that serves.
    ///
    /// Not cancel safe.
    ///
    /// # Errors
    /// Why it does not: it is held as before then.
    pub(super) async fn take_update(&self, update: &Handle, who: &str) -> Result<Handle, ErrorBody> {
        let (id, version) = (update.id().clone(), update.version().clone());
        let registry = self.registry()?;
        let serving = registry.find(id.as_str(), None).ok().filter(|old| old.version() < &version).cloned();
        let done = match &serving {
            Some(old) => match self.try_update(update, old, who).await {
                Ok(candidate) => self.switch_to_update(update, Some(old), candidate, who).await,
                Err(kept) => Err(kept),
            },
            None => self.switch_to_update(update, None, None, who).await,
        };
        done.map_err(|kept| {
            let error = kept.error().clone();
            tracing::warn!(plugin = %id, %version, reason = %error.message, "the update does not serve; what served goes on");
            self.note_failed_update(update, &kept);
            if let Some(old) = &serving {
                let message = format!("{version} does not serve, and {} goes on: {}", old.version(), error.message);
                self.tell_refused(EventKind::PackageKept, old, refused(update), message.clone());
                return ErrorBody { message: format!("{id} {message}"), ..error };
            }
            error
        })
    }

    fn note_failed_update(&self, update: &Handle, kept: &Kept) {
        let Ok(snapshot) = update.blueprint().snapshot() else { return };
        let by = if let Kept::Bad(_) = kept { By::Failed } else { By::Untried };
        lock(&self.acceptance).fail(update.id(), snapshot.digest, by, kept.error().message.clone());
    }

    /// Starts it beside the one that serves; nothing where that says nothing.
    async fn try_update(&self, update: &Handle, old: &Handle, who: &str) -> Result<Option<Candidate>, Kept> {
        let blueprint = update.blueprint();
        let found = super::consent::found_of(update);
        let mut snapshot = blueprint.snapshot().map_err(|failure| {
            let code = failure.code.unwrap_or(ErrorCode::ConfigurationInvalid);
            Kept::ForNow(ErrorBody::new(code, failure.message))
        })?;
        let installed_from = blueprint.consent.is_installed.then(|| blueprint.consent.source.clone());
        let prepared = self.prepare_one((found, Ok(snapshot.clone())), installed_from).await.map_err(Kept::ForNow)?;
        self.hold_copy(old).await;
        let plan = self.plan(old, &prepared, None).await;
        match plan.untried {
            Some(Untried::OldIsUnused) => return Ok(None),
            Some(Untried::OldIsPaused) => return Err(paused(old)),
            Some(Untried::NewIsUnused) if self.lacks(&prepared.found) => {
                let lacking = self.registry().map_err(Kept::ForNow)?.lacking(&prepared.found.manifest);
                let message = format!("it lacks what it depends on: {}", lacking.unwrap_or_default());
                return Err(Kept::ForNow(ErrorBody::new(ErrorCode::DependencyUnavailable, message)));
            }
            // Others take its calls until somebody has said something about it.
            Some(Untried::NewIsUnused) => return Ok(None),
            Some(Untried::NothingToReturnTo) | None => {}
        }
        // Its trial would say nothing of what becomes of the state, which the one before could not use any more; and where one of them must not
        // run twice, nobody but its operator knows when calls may wait.
        if who == OURSELVES && self.manner(old, &prepared.found, None).await != Manner::Beside {
            let message = "it may not run beside the one that serves, or brings what that keeps into another form";
            let message = format!("{message}: `palisade update {}` takes it", update.id());
            return Err(Kept::ForNow(ErrorBody::new(ErrorCode::Unavailable, message)));
        }
        snapshot = self.stage(&prepared.found, &snapshot).await?;
        let manner = self.manner(old, &prepared.found, None).await;
        let _trying = old.tries(update.version().clone(), snapshot.digest.clone(), Lies::Elsewhere);
        let done = if manner == Manner::Exclusive {
            self.run_alone(prepared, &snapshot, old, manner).await
        } else {
            let candidate = self.beside(prepared.clone(), &snapshot, old, Uses::Copy).await;
            match start(&candidate).await {
                Err(kept) if !candidate.is_awaiting_consent() => {
                    candidate.end().await;
                    Err(kept)
                }
                Ok(()) if manner != Manner::Beside => {
                    // It was a rehearsal.
                    candidate.end().await;
                    self.run_alone(prepared, &snapshot, old, manner).await
                }
                _ => Ok(Some(candidate)),
            }
        };
        if let Err(Kept::Bad(error)) = &done {
            self.note_bad_update("pass_over", update, error.message.clone(), who).await;
        }
        done
    }

    /// Notes that the package of an update is not tried again before it changes.
    pub(super) async fn note_bad_update(&self, what: &str, update: &Handle, reason: String, who: &str) {
        let Ok(snapshot) = update.blueprint().snapshot() else { return };
        let now = PassedOver::new(snapshot.digest.clone(), reason.clone(), unix_ms(SystemTime::now()));
        lock(&self.acceptance).fail(update.id(), snapshot.digest, By::Failed, reason);
        // Nothing has to stand in for it: another version serves.
        self.note_bad(what, update, &now, ("", who)).await;
    }

    /// Has calls go to the update, which was tried or says nothing when it is.
    async fn switch_to_update(
        &self,
        update: &Handle,
        old: Option<&Handle>,
        candidate: Option<Candidate>,
        who: &str,
    ) -> Result<Handle, Kept> {
        let one_change = self.changing.lock().await;
        let (id, version) = (update.id().clone(), update.version().clone());
        let is_there = |registry: &Registry| {
            registry.versions(&id).any(|(there, present)| *there == version && present.is(update))
        };
        let registry = self.registry().ok().filter(|registry| self.around.store.is_open() && is_there(registry));
        let detail = old.map(|old| format!("after {}", old.version())).unwrap_or_default();
        // What leads back is known with it, and which copy of the state then.
        let copied = match (&candidate, old) {
            (None, Some(old)) if registry.is_some() => self.copy_before(old, update).await.map_err(Kept::ForNow)?,
            _ => None,
        };
        let alone = candidate.as_ref().and_then(|candidate| candidate.alone.as_ref());
        let state = alone.map_or_else(|| copied.clone(), Alone::kept_name);
        let kept_in = state.as_ref().map(|state| self.kept_in(&id, state));
        let digest = update.blueprint().snapshot().ok().map(|snapshot| snapshot.digest);
        let probation = old.zip(digest).and_then(|(old, digest)| self.probation_after(old, (&version, digest), state));
        let told = detail.clone() + &kept_in.map(|kept_in| format!("; {kept_in}")).unwrap_or_default();
        let entry = self.entry("update", who, &id, &version, told);
        let accepted = match &registry {
            Some(_) => self.accept(entry, &id, &version, probation).await,
            None => Err(overtaken(update).error().clone()),
        };
        let registry = match (registry, accepted) {
            (Some(registry), Ok(())) => registry,
            (_, accepted) => {
                drop(one_change);
                if let Some(candidate) = candidate {
                    candidate.end().await;
                }
                if let Some(copied) = copied {
                    self.drop_copy(&id, copied).await;
                }
                return Err(accepted.err().map_or_else(|| overtaken(update), Kept::ForNow));
            }
        };
        let mut next = Registry::clone(&registry);
        let (mut before, mut state) = (old.cloned(), copied);
        let new = match candidate {
            Some(mut candidate) => {
                let mut alone = candidate.alone.take();
                if let Some(alone) = &mut alone {
                    // It is accepted, and no call has gone there.
                    state = alone.keep().await;
                }
                let task = self.task_of(update);
                let new = self.take_in_candidate(candidate);
                new.set_enabled(update.is_enabled());
                let stood = alone.map(|alone| self.stand_again(&mut next, alone));
                next.put(new.clone());
                self.weigh(&next, &id);
                self.live.replace(next);
                drop(self.leave(update.clone(), task, Some(&new)));
                if let Some(stood) = stood {
                    before = Some(stood.again.clone());
                    self.go_on_with(&new, stood);
                }
                self.tell_state(update.state(), &new);
                new
            }
            None => {
                self.weigh(&next, &id);
                self.live.has_changed();
                update.clone()
            }
        };
        if let Some(before) = before {
            self.put_on_probation(&before, &new, state);
        }
        self.write_acceptance().await;
        // One that waits for consent, or cannot have its configuration, leaves them to the one before.
        if new.is_in_use() {
            tracing::info!(plugin = %id, %version, "the update takes calls {detail}");
            self.tell(EventKind::PackageUpdated, &id, &version, Some(detail).filter(|detail| !detail.is_empty()));
        }
        self.set_off(&new).await;
        Ok(new)
    }
}
