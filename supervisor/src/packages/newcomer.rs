//! A folder of a plugin directory in which there is another plugin now: the one that was there goes on, from its copy, until the other one was
//! tried beside it, and may take calls without that anybody has to say something first.
//!
//! What takes no calls, cannot be returned to or is `exclusive` gives its folder away at once.
//! Invariants: a plugin does not leave for one that does not become active; what has failed is not tried again before it changes, also by the
//! next daemon, or until an operator has the plugin that goes on reloaded.
//! Elsewhere: what is in the folders is found by `rescan`, which also has the one leave and the other come; what stands in at a start is `gather`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;
use tokio::sync::watch;

use super::prepare::{Prepared, Staged};
use super::reload::{Kept, OURSELVES, UnderWay, Uses, is_of, overtaken, paused};
use super::rescan::{Followed, GoesOn, Rescanned, Scope, Trusting, name};
use super::{Packages, lock};
use crate::events::{EventKind, Refused, unix_ms};
use crate::model::generation::Outlook;
use crate::model::ids::PluginId;
use crate::model::reload_plan::Untried;
use crate::model::specifier::Specifier;
use crate::model::status::{Lies, PassedOver, PluginState};
use crate::plugin::handle::Handle;
use crate::registry::{Found, Registry};
use crate::store::Snapshot;

/// A package that is another plugin than the one in whose folder it lies.
#[derive(Debug)]
pub(super) struct Newcomer {
    pub(super) old: Handle,
    prepared: Prepared,
}

/// What becomes of the plugins in whose folders there are others now.
#[derive(Debug, Default)]
pub(super) struct Newcomers {
    /// Those that go on for now,
    pub(super) staying: BTreeSet<(PluginId, Version)>,
    /// those of them of which it is known why,
    pub(super) kept: Vec<GoesOn>,
    /// those that are to be tried,
    pub(super) wanted: Vec<Newcomer>,
    /// and the plugins in whose place one is being tried already.
    pub(super) under_way: Vec<(PluginId, watch::Receiver<()>)>,
}

/// What becomes of one.
enum Becomes {
    /// It has the folder.
    Present,
    /// Nothing, for now.
    Nothing,
    /// The same, as it is only asked what would be.
    WouldBeTried,
    /// It waits, for this reason.
    Waiting(ErrorBody),
    /// It is being tried.
    UnderWay(watch::Receiver<()>),
    /// It is to be tried.
    Tried(Box<Prepared>),
}

impl Packages {
    /// Takes out of what was found what does not have its folder yet.
    pub(super) async fn hold_newcomers(
        &self,
        registry: &Registry,
        staged: &mut Vec<Staged>,
        is_dry: bool,
    ) -> Result<Newcomers, ErrorBody> {
        let key = |found: &Found| (found.manifest.id.clone(), found.manifest.version.clone());
        let there: BTreeSet<_> = staged.iter().map(|(found, _)| key(found)).collect();
        let gone = registry.all().filter(|one| !there.contains(&(one.id().clone(), one.version().clone())));
        let gone: BTreeMap<&Path, &Handle> = gone.map(|one| (one.blueprint().source.as_path(), one)).collect();
        let mut newcomers = Newcomers::default();
        for (found, snapshot) in mem::take(staged) {
            let (id, version) = key(&found);
            // One that there is already has only moved.
            let is_new = || registry.versions(&id).all(|(there, _)| *there != version);
            let old = gone.get(found.path.as_path()).filter(|old| *old.id() != id && is_new());
            let Some(old) = old.copied() else {
                staged.push((found, snapshot));
                continue;
            };
            let becomes = match &snapshot {
                // What the daemon is short of says nothing of it; what cannot be copied for good had the one before stand in, if that could.
                Err(failure) if failure.outlook == Outlook::Lasting => Becomes::Present,
                Err(_) => Becomes::Nothing,
                Ok(snapshot) => self.becomes(registry, old, (&found, snapshot), is_dry).await?,
            };
            if let Becomes::Present = becomes {
                if is_dry {
                    let reason = format!("its folder has {id} {version} now, and it ends with that");
                    newcomers.kept.push(GoesOn { plugin: name(old), reason });
                } else {
                    lock(&self.awaiting).remove(&id);
                }
                staged.push((found, snapshot));
                continue;
            }
            newcomers.staying.insert((old.id().clone(), old.version().clone()));
            let Ok(snapshot) = snapshot else { continue };
            match becomes {
                Becomes::Present | Becomes::Nothing => {}
                Becomes::WouldBeTried => {
                    let reason = format!("its folder has {id} {version} now, which is tried beside it first");
                    newcomers.kept.push(GoesOn { plugin: name(old), reason });
                }
                Becomes::Waiting(error) => {
                    let waits = self.stay(old, (&found, &snapshot.digest), &error);
                    newcomers.kept.push(waits);
                }
                Becomes::UnderWay(over) => newcomers.under_way.push((old.id().clone(), over)),
                Becomes::Tried(prepared) => {
                    newcomers.wanted.push(Newcomer { old: old.clone(), prepared: *prepared });
                }
            }
        }
        Ok(newcomers)
    }

    async fn becomes(
        &self,
        registry: &Registry,
        old: &Handle,
        (found, snapshot): (&Found, &Snapshot),
        is_dry: bool,
    ) -> Result<Becomes, ErrorBody> {
        let (id, version) = (&found.manifest.id, &found.manifest.version);
        self.hold_copy(old).await;
        let has_copy = old.blueprint().snapshot().is_ok_and(|snapshot| !snapshot.is_presumed);
        let is_used = old.is_in_use() && !old.is_stopped() && old.state() != PluginState::Failed;
        let is_exclusive = old.blueprint().manifest.exclusive || found.manifest.exclusive;
        let was_tried = lock(&self.tried).get(&found.path).is_some_and(|digest| *digest == snapshot.digest);
        if was_tried || !has_copy || !is_used || is_exclusive {
            return Ok(Becomes::Present);
        }
        if is_dry {
            return Ok(Becomes::WouldBeTried);
        }
        if let Some(over) = self.is_being_reloaded(old.id(), &snapshot.digest) {
            return Ok(Becomes::UnderWay(over));
        }
        if old.state() == PluginState::Paused {
            return Ok(Becomes::Waiting(paused(old).error().clone()));
        }
        if let Some(dependant) = depends_on(registry, old) {
            let message = format!("{} {} depends on {}", dependant.id(), dependant.version(), old.id());
            return Ok(Becomes::Waiting(ErrorBody::new(ErrorCode::DependencyUnavailable, message)));
        }
        if let Some(why) = self.would_be_held(registry, id, version) {
            let message =
                format!("{why}; `palisade disable {}` and `palisade rescan` give it the folder all the same", old.id());
            return Ok(Becomes::Waiting(ErrorBody::new(ErrorCode::Unavailable, message)));
        }
        let prepared = self.prepare_one((found.clone(), Ok(snapshot.clone())), None).await?;
        if self.plan(old, &prepared, None).await.untried == Some(Untried::NewIsUnused) {
            let waited = lock(&self.awaiting).get(id).is_some_and(|handle| is_of(handle, &snapshot.digest));
            let error = self.let_wait(prepared, snapshot, old).await;
            if error.code == ErrorCode::ConsentRequired && !waited {
                self.note_awaiting(id, &snapshot.digest, &error.message).await;
            }
            return Ok(Becomes::Waiting(error));
        }
        Ok(Becomes::Tried(Box::new(prepared)))
    }

    /// Has the one before say what is not used in its place, and tells it where that is new.
    fn stay(&self, old: &Handle, (found, digest): (&Found, &str), why: &ErrorBody) -> GoesOn {
        let (id, version) = (&found.manifest.id, &found.manifest.version);
        let reason = not_used(found, &why.message);
        let was = old.blueprint().passed_over();
        if was.is_none_or(|was| was.reason != reason || was.digest != digest) {
            tracing::warn!(plugin = %old.id(), newcomer = %id, %version, %reason, "what served goes on");
            let refused = Refused { version: version.to_string(), digest: digest.to_owned() };
            let at_unix_ms = unix_ms(SystemTime::now());
            let passed = PassedOver::new(digest.to_owned(), reason.clone(), at_unix_ms);
            old.blueprint().pass_over(Some(passed));
            self.tell_refused(EventKind::PackageKept, old, refused, reason.clone());
        }
        GoesOn { plugin: name(old), reason }
    }

    /// Tries a newcomer beside the plugin in whose folder it lies, and has it come and the other one leave if it is good.
    ///
    /// Not cancel safe.
    pub(super) async fn take_newcomer(self: &Arc<Self>, newcomer: Newcomer) -> Result<Rescanned, Kept> {
        let Newcomer { mut old, prepared } = newcomer;
        let Ok(snapshot) = prepared.snapshot.clone() else { return Err(overtaken(&old)) };
        let (found, digest) = (prepared.found.clone(), snapshot.digest.clone());
        let of = old.id().clone();
        let (under_way, over) = watch::channel(());
        let (this, mut given_up) = UnderWay::new(digest.clone(), found.path.clone(), over.clone());
        if let Some(before) = lock(&self.reloading).insert(of.clone(), this) {
            before.give_up();
        }
        let turn = loop {
            let turn = old.blueprint().gate.turn.clone().lock_owned().await;
            match old.successor() {
                Some(successor) => old = successor,
                None => break turn,
            }
        };
        let done = self.try_newcomer(&old, prepared, snapshot, &mut given_up).await;
        let followed = match &done {
            Ok(()) => {
                lock(&self.tried).insert(found.path.clone(), digest.clone());
                let scope = Scope::Packages(BTreeSet::from([found.path.clone()]));
                let followed = self.follow(Trusting::Stamps, &scope, None).await.map_err(Kept::ForNow);
                lock(&self.tried).remove(&found.path);
                followed
            }
            Err(kept) => {
                self.refuse_newcomer(&old, (&found, &digest), kept).await;
                Err(kept.clone())
            }
        };
        drop(turn);
        {
            let mut reloading = lock(&self.reloading);
            if reloading.get(&of).is_some_and(|now| now.is_told_by(&over)) {
                reloading.remove(&of);
            }
        }
        drop(under_way);
        self.stirred.notify_one();
        Ok(self.settle_boxed(followed?).await)
    }

    async fn try_newcomer(
        &self,
        old: &Handle,
        prepared: Prepared,
        snapshot: Snapshot,
        given_up: &mut watch::Receiver<bool>,
    ) -> Result<(), Kept> {
        let snapshot = self.stage(&prepared.found, &snapshot).await?;
        let candidate = self.beside(prepared, &snapshot, old, Uses::Copy).await;
        let done = self.attempt(&candidate, old, Lies::InItsFolder, given_up).await;
        // It was a trial, and what it has written went into a copy.
        candidate.end().await;
        done
    }

    async fn refuse_newcomer(&self, old: &Handle, (found, digest): (&Found, &str), kept: &Kept) {
        let (id, error) = (&found.manifest.id, kept.error());
        if error.code != ErrorCode::ConsentRequired {
            lock(&self.awaiting).remove(id);
        }
        if let Kept::GivenUp(_) = kept {
            tracing::info!(plugin = %id, reason = %error.message, "it is not tried any further");
            return;
        }
        if let (Kept::Bad(_), Ok(instead)) = (kept, old.blueprint().snapshot()) {
            let at_unix_ms = unix_ms(SystemTime::now());
            let reason = not_used(found, &error.message);
            let now = PassedOver::new(digest.to_owned(), reason, at_unix_ms);
            self.note_bad("pass_over", old, &now, (&instead.digest, OURSELVES)).await;
        }
        if error.code == ErrorCode::ConsentRequired {
            self.note_awaiting(id, digest, &error.message).await;
        }
        self.stay(old, (found, digest), error);
    }

    /// The same as [`Packages::settle`], of which this is a part.
    fn settle_boxed(self: &Arc<Self>, followed: Followed) -> Pin<Box<dyn Future<Output = Rescanned> + Send>> {
        let packages = self.clone();
        Box::pin(async move { packages.settle(followed).await })
    }

    /// Looks again at what waits in another plugin's folder; nothing if it is not there.
    pub(super) async fn try_waiting_newcomer(self: &Arc<Self>, folder: PathBuf) -> Result<Rescanned, ErrorBody> {
        let scope = Scope::Packages(BTreeSet::from([folder]));
        let followed = self.follow(Trusting::Stamps, &scope, None).await?;
        Ok(self.settle_boxed(followed).await)
    }
}

/// Why what served goes on: a sentence that begins after its name.
pub(super) fn not_used(found: &Found, why: &str) -> String {
    format!("its folder has {} {} now, which is not used: {why}", found.manifest.id, found.manifest.version)
}

/// A plugin that takes calls and could not without this one.
fn depends_on<'a>(registry: &'a Registry, old: &Handle) -> Option<&'a Handle> {
    let others = |wanted: &Specifier| {
        let mut others =
            registry.versions(old.id()).filter(|(version, other)| *version != old.version() && other.is_in_use());
        others.any(|(version, _)| wanted.matches(version))
    };
    registry.all().filter(|one| one.id() != old.id() && one.is_in_use()).find(|one| {
        let wanted = one.blueprint().manifest.dependencies.get(old.id());
        wanted
            .is_some_and(|wanted| !wanted.optional && wanted.version.matches(old.version()) && !others(&wanted.version))
    })
}
