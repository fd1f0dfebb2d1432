//! What follows once a plugin has another package: it is looked at for a while, and where it fails the one before serves again.
//!
//! A newer version that stands beside the one before is noted as such together with its acceptance, and until nothing leads back any more; so the
//! daemon that follows one which is killed goes on with that. What takes another's place in the same folder is not noted as serving instead.
//!
//! Invariant: what serves is noted only once nothing leads back any more.
//! Elsewhere: how a package comes to serve is `reload`'s; an operator's return is `rollback`'s.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;
use tokio::time::Instant;

use super::asked::{Exchanged, Reloaded, Reloads, returned_to};
use super::reload::{OURSELVES, UNTRIED, neither, now_ms, overtaken};
use super::rescan::{Scope, Trusting};
use super::{Packages, lock, refused, run};
use crate::events::{EventKind, unix_ms};
use crate::model::generation::StopWhy;
use crate::model::ids::PluginId;
use crate::model::reload_plan::{Ends, Manner, Plan, Untried};
use crate::model::status::{self, PassedOver, PluginState};
use crate::plugin::handle::{Handle, Operation};
use crate::registry::{Found, Registry};
use crate::state::State;
use crate::store::Snapshot;
use crate::store::database::probations::Probation as Noted;
use crate::store::database::reloads::Serving;

/// So often it is looked at the calls of plugins that were given another package not long ago.
const LOOK: Duration = Duration::from_secs(1);

/// So long after a plugin began to serve that is noted, with whatever has begun meanwhile: whoever waits for its first answer does not wait for
/// a disk as well.
const NOTE_AFTER: Duration = Duration::from_millis(250);

/// What is said where what has failed goes on.
const NOT_RETURNED: &str = "the package before cannot be returned to";

/// A plugin that was given another package not long ago.
#[derive(Debug)]
pub(super) struct Probation {
    pub(super) new: Handle,
    old: Handle,
    /// The package before, which stays in the store for as long.
    snapshot: Snapshot,
    until: Instant,
    /// So many of its processes had failed before.
    failures: u64,
    /// The kept copy of the state as it was in the form of the package before, where it has another since.
    state: Option<String>,
}

impl Probation {
    /// Why it is taken back, if it is: a sentence.
    fn failed(&self) -> Option<String> {
        if self.failures < self.new.failures() {
            return Some(format!("it failed soon after it began to serve: {}", self.new.last_reason()));
        }
        let now = ends(&self.new);
        now.is_worse_than(ends(&self.old)).then(|| {
            format!(
                "{} of its first {} calls failed, and most of those before did not",
                now.failed,
                now.ok + now.failed
            )
        })
    }
}

fn ends(handle: &Handle) -> Ends {
    let counters = handle.counters();
    // Whoever calls has no say in it: neither by a deadline of its own, nor by parameters that are wrong.
    Ends { ok: counters.snapshot().ok, failed: counters.faults() }
}

impl Packages {
    /// Has an update that failed soon after it was taken take no calls: those before do. One that was installed is disabled, one that lies in a
    /// plugin directory is not taken again before it changes.
    async fn put_aside(
        &self,
        new: &Handle,
        old: &Handle,
        state: Option<String>,
        reason: String,
        who: &str,
    ) -> Result<Option<PathBuf>, ErrorBody> {
        if !self.around.store.is_open() {
            // What ends with the daemon has not failed.
            return Err(overtaken(new).error().clone());
        }
        // Whoever is killed from here on is followed by a daemon that does the same.
        self.end_probation(new, Some((&reason, who))).await;
        let done = self.put_aside_as_it_may(new, old, state, reason, who).await;
        if done.is_ok() {
            self.forget_probation(new).await;
        } else if self.around.store.is_open() {
            self.end_probation(new, None).await;
        }
        done
    }

    async fn put_aside_as_it_may(
        &self,
        new: &Handle,
        old: &Handle,
        state: Option<String>,
        reason: String,
        who: &str,
    ) -> Result<Option<PathBuf>, ErrorBody> {
        if state.is_none() && !new.blueprint().manifest.exclusive && !old.blueprint().manifest.exclusive {
            return self.put_aside_in_turn(new, old, reason, who).await.map(|()| None);
        }
        let _turn = new.blueprint().gate.turn.clone().lock_owned().await;
        if new.successor().is_some() {
            return Err(overtaken(new).error().clone());
        }
        self.hold_or_stop(new).await?;
        let is_restored = state.is_some();
        let done = match self.restore(new, state).await {
            Ok(aside) => {
                let reason = reason + &kept_in(aside.as_deref());
                self.put_aside_in_turn(new, old, reason, who).await.map(|()| aside)
            }
            Err(error) => Err(error),
        };
        if done.is_err() {
            // It goes on, and brings its state over once more where that was exchanged.
            new.blueprint().gate.open();
        } else if is_restored && old.state() == PluginState::Failed {
            // Whoever asked for it by its number meanwhile had it fail for the state that it could not use.
            if let Err(error) = old.operate(Operation::Reset).await {
                tracing::warn!(plugin = %old.id(), error = error.message, "it stays failed");
            }
        }
        done
    }

    /// Puts the copy of the state in its place that the version before can use, if there is one; says where what was written since is.
    async fn restore(&self, new: &Handle, state: Option<String>) -> Result<Option<PathBuf>, ErrorBody> {
        let Some(state) = state else { return Ok(None) };
        let of = self.around.states.of(new.id());
        let replaced = run(move || of.replace_with(&of.copy_of_kept(&state)?, now_ms())).await?;
        replaced.map_err(|error| crate::state::error_body(&error))
    }

    /// Returns from a newer version to the one before, which stands beside it, for as long as a failure would lead back as well; with the state
    /// that that one can use. Nothing where there is no such version.
    ///
    /// # Errors
    /// Why it goes on.
    pub(super) async fn return_from_update(
        &self,
        new: &Handle,
        with_state: bool,
        who: &str,
    ) -> Result<Option<Reloads>, ErrorBody> {
        let before = lock(&self.probations)
            .get(new.id())
            .filter(|one| one.new.is(new))
            .map(|one| (one.old.clone(), one.state.clone()));
        let Some((old, state)) = before.filter(|(old, _)| self.is_beside(old, new)) else { return Ok(None) };
        if with_state && state.is_none() {
            let (id, version) = (new.id(), new.version());
            let message =
                format!("no state was kept when {version} took the place of {}: both use the same", old.version());
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message)
                .with_hint(format!("`palisade rollback {id}` returns to it with what there is now")));
        }
        let at_unix_ms = state.as_deref().and_then(State::moment_of);
        let reason = returned_to(who, &old.version().to_string());
        let aside = self.put_aside(new, &old, state, reason, who).await?;
        lock(&self.probations).remove(new.id());
        let plan = Plan::new(Some(Untried::OldIsUnused), Manner::Beside);
        let state = at_unix_ms.zip(aside).map(|(at_unix_ms, aside)| Exchanged { at_unix_ms, aside });
        Ok(Some(Reloads { reloads: vec![Reloaded { state, ..self.told(&old, plan, true, None) }] }))
    }

    async fn put_aside_in_turn(&self, new: &Handle, old: &Handle, reason: String, who: &str) -> Result<(), ErrorBody> {
        let blueprint = new.blueprint();
        let staged = (super::consent::found_of(new), blueprint.snapshot());
        let is_installed = blueprint.consent.is_installed;
        let installed_from = is_installed.then(|| blueprint.consent.source.clone());
        let prepared = self.prepare_one(staged, installed_from).await?;
        let _one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let (id, version) = (new.id(), new.version());
        let present = registry.versions(id).find(|(there, _)| *there == version);
        if !self.around.store.is_open() || !present.is_some_and(|(_, present)| present.is(new)) {
            return Err(overtaken(new).error().clone());
        }
        if is_installed {
            let entry = self.entry("rollback", who, id, version, reason.clone());
            let database = self.database.clone();
            if let Err(error) = run(move || database.switch(false, &entry)).await? {
                tracing::error!(plugin = %id, %version, %error, "that it takes no calls any more is forgotten with the daemon");
            }
        } else {
            self.note_bad_update("rollback", new, reason.clone(), who).await;
        }
        self.accept_no_more(id, version).await;
        let task = self.task_of(new);
        let anew = self.make(prepared);
        anew.set_enabled(!is_installed && new.is_enabled());
        let mut next = Registry::clone(&registry);
        next.put(anew.clone());
        self.weigh(&next, id);
        self.live.replace(next);
        drop(self.leave(new.clone(), task, Some(old)));
        self.tell_state(new.state(), &anew);
        let digest = blueprint.snapshot().map(|snapshot| snapshot.digest).unwrap_or_default();
        tracing::warn!(plugin = %id, %version, %reason, "it takes no calls any more; the version before does");
        old.blueprint().pass_over(Some(PassedOver {
            version: Some(version.clone()),
            ..PassedOver::new(digest, reason.clone(), now_ms())
        }));
        self.tell_refused(EventKind::PackageRolledBack, old, refused(new), reason);
        Ok(())
    }

    /// Has a plugin be on probation that was given another package, and returns the probation that this one ends.
    pub(super) fn put_on_probation(&self, old: &Handle, new: &Handle, state: Option<String>) -> Option<Probation> {
        let lasts = self.around.config.reload_of(new.id()).probation();
        self.look_at_for(lasts, old, new, state)
    }

    fn look_at_for(&self, lasts: Duration, old: &Handle, new: &Handle, state: Option<String>) -> Option<Probation> {
        let (Ok(snapshot), Ok(now)) = (old.blueprint().snapshot(), new.blueprint().snapshot()) else { return None };
        if snapshot.digest == now.digest {
            // What it is now it was before.
            return None;
        }
        let (failures, until) = (new.failures(), Instant::now() + lasts);
        new.put_on_probation(Some(status::Probation {
            until_unix_ms: unix_ms(SystemTime::now() + lasts),
            version: old.version().clone(),
            digest: snapshot.digest.clone(),
            state: state.as_deref().map(|state| self.around.states.of(new.id()).path_of_kept(state)),
        }));
        let probation = Probation { new: new.clone(), old: old.clone(), snapshot, until, failures, state };
        let before = lock(&self.probations).insert(new.id().clone(), probation);
        if let Some(before) = before.as_ref().filter(|before| !before.new.is(new)) {
            before.new.put_on_probation(None);
        }
        self.stirred.notify_one();
        before
    }

    /// Whether the version before is there still, as the newer one stands beside it rather than in its folder.
    fn is_beside(&self, old: &Handle, new: &Handle) -> bool {
        let is_there = |registry: &Registry| registry.versions(old.id()).any(|(version, _)| version == old.version());
        new.version() != old.version() && self.live.now().is_some_and(|registry| is_there(&registry))
    }

    /// Whether an operator can return from that version to this one.
    pub(super) fn leads_back_to(&self, new: &Handle, version: &Version) -> bool {
        lock(&self.probations).get(new.id()).is_some_and(|one| one.new.is(new) && one.old.version() == version)
    }

    /// Where what a plugin kept before it was given this package is as it was, where it was brought into another form.
    pub(super) fn kept_before(&self, new: &Handle) -> Option<PathBuf> {
        let probations = lock(&self.probations);
        let state = probations.get(new.id()).filter(|one| one.new.is(new))?.state.clone()?;
        Some(self.around.states.of(new.id()).path_of_kept(&state))
    }

    /// What the next daemon is to know of the probation of a newer version, which begins once that is accepted.
    pub(super) fn probation_after(
        &self,
        old: &Handle,
        (version, digest): (&Version, String),
        state: Option<String>,
    ) -> Option<Noted> {
        let lasts = self.around.config.reload_of(old.id()).probation();
        Some(Noted {
            id: old.id().clone(),
            version: version.clone(),
            digest,
            before: (old.version().clone(), old.blueprint().snapshot().ok()?.digest),
            until_unix_ms: unix_ms(SystemTime::now() + lasts),
            state,
            ending: None,
        })
    }

    /// Goes on with the probations of which an earlier daemon has not come to the end, before anything is started; what that was taking back is
    /// taken back then. The registry may be another afterwards.
    pub(super) async fn go_on_with_probations(&self, registry: &Registry) {
        let database = self.database.clone();
        let noted = run(move || database.probations().map_err(|error| error.to_string())).await;
        let noted = noted.map_err(|error| error.message).flatten().unwrap_or_else(|error| {
            tracing::error!(%error, "which newer versions are on probation is not known, and their failure leads back no more");
            Vec::new()
        });
        for Noted { id, version, digest, before, until_unix_ms, state, ending } in noted {
            let there = |version: &Version, digest: &str| {
                let mut there = registry
                    .versions(&id)
                    .filter(|(there, handle)| *there == version && handle.is_enabled() && !handle.is_held());
                let is_it = |handle: &&Handle| handle.blueprint().snapshot().is_ok_and(|one| one.digest == digest);
                there.next().map(|(_, handle)| handle).filter(is_it).cloned()
            };
            // Whatever has become of the clock meanwhile.
            let most = self.around.config.reload_of(&id).probation();
            let lasts = Duration::from_millis(until_unix_ms.saturating_sub(now_ms())).min(most);
            match (there(&before.0, &before.1).zip(there(&version, &digest)), ending) {
                (Some((old, new)), Some((reason, who))) => {
                    if let Err(error) = self.put_aside(&new, &old, state, reason, &who).await {
                        tracing::error!(plugin = %id, error = %error.message, "{NOT_RETURNED}");
                        self.forget_probation(&new).await;
                    }
                }
                (Some((old, new)), None) if !lasts.is_zero() => {
                    tracing::info!(plugin = %id, %version, before = %before.0, "it is still on probation");
                    self.look_at_for(lasts, &old, &new, state);
                }
                _ => self.forget_probation_of(&id, digest).await,
            }
        }
    }

    /// The same with those that have taken the place of another package in its folder and have brought the state over, by when that was; nobody
    /// but the one before could use the copy of the state that was kept with it.
    pub(super) async fn go_on_with_exchanged(&self, registry: &Registry, before: Vec<(Found, Snapshot)>) {
        for (found, snapshot) in before {
            let is_it = |handle: &&Handle| {
                *handle.id() == found.manifest.id && handle.blueprint().source == found.path && handle.is_enabled()
            };
            let Some(new) = registry.all().find(is_it).cloned() else { continue };
            let (database, id, digest) = (self.database.clone(), new.id().clone(), snapshot.digest.clone());
            let backups = run(move || database.backups(&id).map_err(|error| error.to_string())).await;
            let backups = backups.map_err(|error| error.message).flatten().unwrap_or_else(|error| {
                tracing::error!(plugin = %new.id(), %error, "what served before is not known, and a failure does not lead back to it");
                Vec::new()
            });
            let kept = backups.into_iter().find(|one| one.digest == digest);
            let Some((at_unix_ms, state)) = kept.and_then(|one| Some((one.at_unix_ms, one.state?))) else { continue };
            let all = self.around.config.reload_of(new.id()).probation();
            let lasts = all.saturating_sub(Duration::from_millis(now_ms().saturating_sub(at_unix_ms)));
            if lasts.is_zero() {
                continue;
            }
            match self.prepare_one((found, Ok(snapshot)), None).await {
                Ok(prepared) => {
                    let old = self.inspected(prepared, &new).await;
                    tracing::info!(plugin = %new.id(), version = %new.version(), before = %old.version(), "it is still on probation");
                    self.look_at_for(lasts, &old, &new, Some(state));
                }
                Err(error) => {
                    tracing::error!(plugin = %new.id(), error = error.message, "{NOT_RETURNED}, should it fail");
                }
            }
        }
    }

    /// Has the next daemon know that it is being taken back, and why; or that it goes on.
    async fn end_probation(&self, new: &Handle, ending: Option<(&str, &str)>) {
        let Ok(snapshot) = new.blueprint().snapshot() else { return };
        let (database, id) = (self.database.clone(), new.id().clone());
        let ending = ending.map(|(reason, who)| (reason.to_owned(), who.to_owned()));
        let noted = run(move || {
            let ending = ending.as_ref().map(|(reason, who)| (reason.as_str(), who.as_str()));
            database.end_probation(&id, &snapshot.digest, ending).map_err(|error| error.to_string())
        });
        if let Err(error) = noted.await.map_err(|error| error.message).flatten() {
            tracing::warn!(plugin = %new.id(), %error, "a daemon that follows this one may not know that a package is being taken back");
        }
    }

    /// Has the next daemon know nothing of the probation of that package any more.
    pub(super) async fn forget_probation(&self, new: &Handle) {
        if let Ok(snapshot) = new.blueprint().snapshot() {
            self.forget_probation_of(new.id(), snapshot.digest).await;
        }
    }

    async fn forget_probation_of(&self, id: &PluginId, digest: String) {
        let (database, of) = (self.database.clone(), id.clone());
        let forgotten = run(move || database.forget_probation(&of, &digest).map_err(|error| error.to_string())).await;
        if let Err(error) = forgotten.map_err(|error| error.message).flatten() {
            tracing::warn!(plugin = %id, %error, "the next daemon goes on with a probation that is over, for as long as it would have been");
        }
    }

    /// Sees to it that a plugin which fails soon after it was given another package has the one before again. Ends with its task.
    pub async fn see_through_probations(self: Arc<Self>) {
        self.finish_trials().await;
        let mut note_at: Option<Instant> = None;
        loop {
            let next = lock(&self.probations).values().map(|probation| probation.until).min();
            // Their calls are looked at meanwhile, and nothing is while there is none.
            let next = next.map(|next| next.min(Instant::now() + LOOK));
            tokio::select! {
                () = self.stirred.notified() => drop(note_at.get_or_insert_with(|| Instant::now() + NOTE_AFTER)),
                () = until(next.into_iter().chain(note_at).min()) => {}
            }
            let (mut failed, mut over) = (Vec::new(), Vec::new());
            lock(&self.probations).retain(|_, probation| {
                let reason = probation.failed();
                let has_failed = reason.is_some();
                failed.extend(reason.map(|reason| {
                    let Probation { new, old, snapshot, state, .. } = &*probation;
                    (new.clone(), old.clone(), (snapshot.clone(), state.clone()), reason)
                }));
                let goes_on = !has_failed && Instant::now() < probation.until;
                if !goes_on {
                    // What is said of it is what holds: from here on no failure leads back.
                    probation.new.put_on_probation(None);
                }
                if !goes_on && !has_failed {
                    over.push(probation.new.clone());
                }
                goes_on
            });
            let have_ended = !failed.is_empty() || !over.is_empty();
            for new in over {
                self.forget_probation(&new).await;
            }
            if have_ended || note_at.is_some_and(|due| due <= Instant::now()) {
                note_at = None;
                self.note_serving().await;
            }
            for (new, old, snapshot, reason) in failed {
                let done = match new.blueprint().consent.is_installed || self.is_beside(&old, &new) {
                    true => self.put_aside(&new, &old, snapshot.1, reason, OURSELVES).await.map(drop),
                    false => self.return_to(&new, &old, snapshot, reason, OURSELVES).await.map(drop),
                };
                if let Err(error) = done {
                    tracing::error!(plugin = %new.id(), error = %error.message, "{NOT_RETURNED}");
                    // It has failed once, and is not taken back long after; a daemon that is to stop leaves it to the next one.
                    if self.around.store.is_open() {
                        self.forget_probation(&new).await;
                    }
                }
            }
        }
    }

    /// Tries what an earlier daemon has not: until then this one has the packages that served last.
    async fn finish_trials(self: &Arc<Self>) {
        let registry = self.live.now();
        let is_one = |handle: &Handle| handle.blueprint().passed_over().is_some_and(|passed| passed.reason == UNTRIED);
        if !self.has_updates_to_try() && !registry.is_some_and(|registry| registry.all().any(is_one)) {
            return;
        }
        match self.follow(Trusting::Stamps, &Scope::Everything, None).await {
            Ok(followed) => drop(self.settle(followed).await),
            Err(error) => tracing::warn!(error = error.message, "the plugin directories cannot be looked at"),
        }
    }

    /// Notes of the plugins in plugin directories what serves, once a process of it was active and nothing may lead back any more: a daemon
    /// that finds another package has that one first.
    pub async fn note_serving(&self) {
        let Some(registry) = self.live.now() else { return };
        let mut new = Serving::new();
        for handle in registry.all().filter(|handle| handle.has_served()) {
            let source = &handle.blueprint().source;
            // Between the switch and its probation it is neither the one nor the other.
            let on_trial = lock(&self.reloading).contains_key(handle.id())
                || lock(&self.probations).get(handle.id()).is_some_and(|one| one.new.is(handle));
            let Ok(snapshot) = handle.blueprint().snapshot() else { continue };
            if on_trial || self.around.store.has_made(source) {
                continue;
            }
            let place = (handle.id().clone(), source.clone());
            if lock(&self.serving).get(&place) != Some(&snapshot.digest) {
                new.insert(place, snapshot.digest);
            }
        }
        if new.is_empty() {
            return;
        }
        let (database, noting) = (self.database.clone(), new.clone());
        let noted = run(move || database.note_serving(&noting).map_err(|error| error.to_string())).await;
        match noted.map_err(|error| error.message).flatten() {
            Ok(()) => lock(&self.serving).extend(new),
            Err(error) => tracing::error!(%error, "what serves is forgotten with the daemon"),
        }
    }

    /// Has the package before serve again, and notes why the other one does not.
    async fn return_to(
        &self,
        new: &Handle,
        old: &Handle,
        before: (Snapshot, Option<String>),
        reason: String,
        who: &str,
    ) -> Result<Handle, ErrorBody> {
        let _turn = new.blueprint().gate.turn.clone().lock_owned().await;
        if let Some(successor) = new.successor() {
            return Ok(successor);
        }
        let done = self.return_in_turn(new, old, before, reason, who).await;
        if done.is_err() {
            // It goes on, and brings its state over once more where that was exchanged.
            new.blueprint().gate.open();
        }
        done
    }

    /// Has no process use its state. One that its operator has stopped, also just now, stays so.
    async fn hold_or_stop(&self, new: &Handle) -> Result<(), ErrorBody> {
        if !new.is_stopped() {
            match self.hold(new).await {
                Err(kept) if !new.is_stopped() => return Err(kept.error().clone()),
                Err(_) => {}
                Ok(()) => return Ok(()),
            }
        }
        // Who starts it again waits for what takes its place.
        new.blueprint().gate.close();
        new.operate(Operation::Stop { force: false, why: StopWhy::Operator }).await
    }

    async fn return_in_turn(
        &self,
        new: &Handle,
        old: &Handle,
        (snapshot, state): (Snapshot, Option<String>),
        mut reason: String,
        who: &str,
    ) -> Result<Handle, ErrorBody> {
        if state.is_some() {
            self.hold_or_stop(new).await?;
            reason += &kept_in(self.restore(new, state).await?.as_deref());
        }
        let bad = new.blueprint().snapshot().map(|snapshot| snapshot.digest).unwrap_or_default();
        let now = PassedOver::new(bad, reason, now_ms());
        // What lies in its folder may be a third one.
        let passed_over = match new.blueprint().passed_over() {
            Some(there) => PassedOver { reason: neither(&there.reason, &now.digest, &now.reason), ..there },
            None => now.clone(),
        };
        let found = Found { passed_over: Some(passed_over), ..super::consent::found_of(old) };
        let instead = snapshot.digest.clone();
        let prepared = self.prepare_one((found, Ok(snapshot)), None).await?;
        let _one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let present = registry.versions(new.id()).find(|(there, _)| *there == new.version());
        if !self.around.store.is_open() || !present.is_some_and(|(_, present)| present.is(new)) {
            return Err(overtaken(new).error().clone());
        }
        self.note_bad("rollback", new, &now, (&instead, who)).await;
        let task = self.task_of(new);
        let restored = self.make(prepared);
        restored.carry_over(new);
        self.accept_instead(new, restored.version());
        let mut next = Registry::clone(&registry);
        next.take(new.id(), new.version());
        next.put(restored.clone());
        self.weigh(&next, new.id());
        self.live.replace(next);
        drop(self.leave(new.clone(), task, Some(&restored)));
        self.tell_state(new.state(), &restored);
        tracing::warn!(plugin = %new.id(), reason = %now.reason, "the package before serves again");
        self.tell_refused(EventKind::PackageRolledBack, &restored, refused(new), now.reason);
        self.set_off(&restored).await;
        Ok(restored)
    }
}

/// Where what was written since is, as it goes on from a reason.
fn kept_in(aside: Option<&Path>) -> String {
    aside.map(|aside| format!("; what was written since is kept in {}", aside.display())).unwrap_or_default()
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
