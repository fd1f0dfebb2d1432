//! How a plugin gets another package while it is in use: the new one is started beside the old one and has to become active, then calls go
//! to it, and the old one ends what it has. If it fails before, nothing has happened; if it fails soon after, calls go back.
//!
//! A package that failed so is not tried again before it changes, also by the next daemon, or until an operator asks for it by name. What
//! serves instead runs from its copy in the store.
//!
//! Invariants: a plugin has one turn at a time, and of two that overlap the later wins, and does not wait for what the trial of the other one
//! comes to; nothing is awaited between the look at the registry and its change, but for the note of a state that is exchanged with the
//! package, which is on the disk before the first call goes there; a plugin that is being tried is among the departures until it serves, so
//! that a daemon that stops finds it.
//! Elsewhere: the steps are `model::reload_plan`'s; what has changed is found by `rescan`; what fails soon after is taken back by `probation`, and an
//! operator's return is `rollback`'s.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::SystemTime;

use palisade_protocol::{ErrorBody, ErrorCode, Fault};
use semver::Version;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::alone::Alone;
use super::departure::Departure;
use super::install::Taken;
use super::prepare::Prepared;
use super::rescan::{Only, Scope, Trusting};
use super::{Packages, lock, run};
use crate::events::{EventKind, Refused, unix_ms};
use crate::model::generation::{LaunchFailure, Outlook, StopWhy};
use crate::model::ids::PluginId;
use crate::model::reload_plan::{Fit, Known, Manner, Old, Plan, Step, Undo, Untried};
use crate::model::specifier::Specifier;
use crate::model::status::{self, PassedOver, PluginState};
use crate::plugin::admission;
use crate::plugin::configuration::Configuration;
use crate::plugin::handle::{Command, Handle, Operation, Standing};
use crate::plugin::limiting;
use crate::registry::{Found, Registry};
use crate::state::State;
use crate::store::Snapshot;
use crate::store::database::reloads::{Bad, Return};

/// What is said of a package that was changed while no daemon tried it.
pub(super) const UNTRIED: &str = "it was changed and has not been tried yet";

/// What is said of a package that was changed while its plugin stands still.
const PAUSED: &str = "is paused, and its changed package is tried once it is resumed";

/// Who changes what nobody asked for.
pub(super) const OURSELVES: &str = "palisade";

/// A package that is to take another one's place.
#[derive(Debug)]
pub(super) struct Wanted {
    pub old: Handle,
    pub prepared: Prepared,
    /// The kept copy of the state that it is to have with it, by its name.
    pub state: Option<String>,
    /// Who wants it.
    pub who: String,
    /// Why it is returned to, where it is one that served before.
    pub returns: Option<String>,
}

/// What becomes of the package that served until now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Another one has its place.
    Goes,
    /// It is there beside a newer version, which has the calls of whoever takes both.
    Stays,
}

/// What lies in a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lies<'a> {
    /// A package of this digest; empty where it is none.
    Package(&'a str),
    /// It cannot be looked at.
    Unknown,
    /// The folder is gone, or is another plugin's.
    Nothing,
}

/// Why a package did not come to serve: what was there goes on.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    /// By its own fault: it is not tried again.
    Bad(ErrorBody),
    /// By the host's, or because it changed meanwhile: it is tried again when it is looked at again.
    ForNow(ErrorBody),
    /// It was given up while it was tried, as another one is wanted: nothing is known of it.
    GivenUp(ErrorBody),
}

/// A package that is on its way to serve.
#[derive(Debug)]
pub(super) struct UnderWay {
    digest: String,
    /// Where it lies, or another does that it is returned to instead of.
    folder: PathBuf,
    /// It served before, and is no more in the folder.
    is_return: bool,
    /// What is dropped says that it is over.
    over: watch::Receiver<()>,
    /// Says that it is not wanted any more.
    given_up: watch::Sender<bool>,
}

impl UnderWay {
    /// One that lies in that folder; with it comes what says that it is not wanted any more.
    pub(super) fn new(digest: String, folder: PathBuf, over: watch::Receiver<()>) -> (Self, watch::Receiver<bool>) {
        let (give_up, given_up) = watch::channel(false);
        (Self { digest, folder, is_return: false, over, given_up: give_up }, given_up)
    }

    pub(super) fn is_told_by(&self, over: &watch::Receiver<()>) -> bool {
        self.over.same_channel(over)
    }

    fn is_given_up(&self) -> bool {
        *self.given_up.borrow()
    }

    pub(super) fn give_up(&self) {
        self.given_up.send_replace(true);
    }
}

impl Kept {
    pub(super) fn error(&self) -> &ErrorBody {
        let (Self::Bad(error) | Self::ForNow(error) | Self::GivenUp(error)) = self;
        error
    }
}

/// What has come to serve.
pub(super) struct Switched {
    pub(super) new: Handle,
    /// The end of what served before.
    pub(super) departure: Departure,
    /// Where the state is that another was put in the place of.
    pub(super) aside: Option<PathBuf>,
}

/// A plugin that is being tried.
#[derive(Debug)]
pub(super) struct Candidate {
    handle: Handle,
    task: JoinHandle<()>,
    /// Dropped when it serves, or has ended.
    ending: watch::Sender<()>,
    /// What stands still for it.
    pub(super) alone: Option<Alone>,
}

impl Candidate {
    /// Whether somebody has to consent to it before it takes calls, which shows when it has started at the latest.
    pub(super) fn is_awaiting_consent(&self) -> bool {
        self.handle.awaits_consent()
    }

    /// Has it end, as it is not to serve.
    pub(super) async fn end(self) {
        let Self { handle, task, ending, alone } = self;
        super::end(&handle, Some(task)).await;
        drop(ending);
        if let Some(alone) = alone {
            alone.undo().await;
        }
    }
}

impl Packages {
    /// How that package would come to serve.
    pub(super) async fn plan(&self, old: &Handle, prepared: &Prepared, state: Option<&String>) -> Plan {
        let found = &prepared.found;
        let idle = matches!(old.state(), PluginState::Failed | PluginState::Unloaded);
        let now = if old.state() == PluginState::Paused && old.is_in_use() {
            Old::IsPaused
        } else if idle || old.is_stopped() || !old.is_in_use() {
            Old::IsUnused
        } else {
            Old::Serves
        };
        Plan::of(Known {
            old: now,
            has_copy: self.has_copy(old).await,
            is_usable: !self.decide(&found.manifest, prepared.evidence.clone()).is_awaited()
                && !self.lacks(found)
                && Configuration::new(self.configured(&found.manifest.id)).unfit(&found.manifest).is_none(),
            manner: self.manner(old, found, state).await,
        })
    }

    /// How it is to be tried.
    pub(super) async fn manner(&self, old: &Handle, found: &Found, state: Option<&String>) -> Manner {
        let is_exclusive = old.blueprint().manifest.exclusive || found.manifest.exclusive;
        Manner::new(state.is_some(), self.fit(found).await, is_exclusive)
    }

    /// How the form of what the plugin keeps goes with that package.
    pub(super) async fn fit(&self, found: &Found) -> Fit {
        let of = self.around.states.of(&found.manifest.id);
        let stored = run(move || of.stored_schema()).await;
        // What cannot be read is told to whoever asks for it.
        Fit::new(stored.ok().and_then(Result::ok).flatten(), found.manifest.state_schema)
    }

    /// Whether there is a copy of its package, be it from an earlier daemon.
    async fn has_copy(&self, old: &Handle) -> bool {
        let Ok(snapshot) = old.blueprint().snapshot() else { return false };
        if !snapshot.is_presumed {
            return true;
        }
        let store = self.around.store.clone();
        run(move || store.take(&snapshot.digest).is_ok()).await.unwrap_or(false)
    }

    pub(super) fn lacks(&self, found: &Found) -> bool {
        self.live.now().is_some_and(|registry| registry.lacking(&found.manifest).is_some())
    }

    /// How that package is exchanged at once, if it is: what is there takes no calls, or cannot be returned to.
    pub(super) async fn exchange_at_once(&self, old: &Handle, prepared: &Prepared) -> Option<Plan> {
        self.hold_copy(old).await;
        let plan = self.plan(old, prepared, None).await;
        matches!(plan.untried, Some(Untried::OldIsUnused | Untried::NothingToReturnTo)).then_some(plan)
    }

    /// Whether that package is on its way to serve already.
    pub(super) fn is_being_reloaded(&self, id: &PluginId, digest: &str) -> Option<watch::Receiver<()>> {
        let reloading = lock(&self.reloading);
        let now = reloading.get(id).filter(|now| now.digest == digest && !now.is_given_up());
        now.map(|now| now.over.clone())
    }

    /// Has packages be tried no further that are not what lies in their folders any more: what is there now is tried, and not once somebody has
    /// waited for the end of that.
    pub(super) fn give_up_all_but<'a>(
        &self,
        is_looked_at: impl Fn(&PluginId, &Path) -> bool,
        lies_in: impl Fn(&Path) -> Lies<'a>,
    ) {
        for (id, one) in lock(&self.reloading).iter() {
            if one.is_return || one.is_given_up() || !is_looked_at(id, &one.folder) {
                continue;
            }
            let is_there = match lies_in(&one.folder) {
                Lies::Package(digest) => digest == one.digest,
                Lies::Unknown => true,
                Lies::Nothing => false,
            };
            if !is_there {
                one.give_up();
            }
        }
    }

    /// Gives a plugin another package. Comes back once calls go to it, while the one before may have some still; or once everything is
    /// as it was, and it is known why.
    ///
    /// Not cancel safe.
    pub(super) async fn reload(&self, wanted: Wanted) -> Result<Switched, Kept> {
        let Wanted { mut old, mut prepared, state, who, returns } = wanted;
        let Ok(snapshot) = prepared.snapshot.clone() else { return Err(overtaken(&old)) };
        let (id, digest) = (prepared.found.manifest.id.clone(), snapshot.digest.clone());
        let wanted = Refused { version: prepared.found.manifest.version.to_string(), digest: digest.clone() };
        let (under_way, over) = watch::channel(());
        let (give_up, given_up) = watch::channel(false);
        let this = UnderWay {
            digest: digest.clone(),
            folder: prepared.found.path.clone(),
            is_return: returns.is_some(),
            over: over.clone(),
            given_up: give_up,
        };
        if let Some(before) = lock(&self.reloading).insert(id.clone(), this) {
            before.give_up();
        }
        let waited = lock(&self.awaiting).get(&id).is_some_and(|handle| is_of(handle, &digest));
        // Who came before gives up when it is to switch, as it is not wanted any more; or it is what is to be exchanged now.
        let turn = loop {
            let turn = old.blueprint().gate.turn.clone().lock_owned().await;
            match old.successor() {
                Some(successor) if state.is_none() => old = successor,
                _ => break turn,
            }
        };
        let returned = returns.map(|reason| {
            // Known now, and not before: another may have been on its way into the folder.
            let in_folder = in_folder(&old).filter(|in_folder| *in_folder != digest);
            let at_unix_ms = now_ms();
            let passed_over = in_folder.map(|digest| PassedOver::new(digest, reason.clone(), at_unix_ms));
            prepared.found.passed_over =
                passed_over.clone().or_else(|| old.blueprint().passed_over().filter(|there| there.digest.is_empty()));
            let bad = |now: PassedOver| (now.digest, Bad { at_unix_ms, reason, instead: digest.clone() });
            let instead_of = passed_over.map(bad);
            if let Some((in_folder, bad)) = instead_of.clone() {
                // Nobody who looks meanwhile is to return to what lies in the folder.
                lock(&self.returning).insert((id.clone(), in_folder), bad);
            }
            Return { folder: old.blueprint().source.clone(), digest: digest.clone(), instead_of }
        });
        let done = self.reload_in_turn(&old, prepared, snapshot, state, (&who, returned.as_ref()), given_up).await;
        // Where an operator returns to another one it lies in the folder still, and whoever has the next turn has to know of it.
        let is_left = lock(&self.reloading).get(&id).is_some_and(|now| now.is_return);
        if let Err(Kept::GivenUp(error)) = &done
            && is_left
        {
            let (digest, reason) = (digest.clone(), error.message.clone());
            old.blueprint().pass_over(Some(PassedOver::new(digest, reason, now_ms())));
        }
        drop(turn);
        let is_return = returned.is_some();
        if let Some((in_folder, _)) = returned.and_then(|returned| returned.instead_of) {
            lock(&self.returning).remove(&(id.clone(), in_folder));
        }
        if done.as_ref().is_err_and(|kept| kept.error().code != ErrorCode::ConsentRequired) {
            lock(&self.awaiting).remove(&id);
        }
        let waits = lock(&self.awaiting).get(&id).is_some_and(|handle| is_of(handle, &digest));
        {
            let mut reloading = lock(&self.reloading);
            if reloading.get(&id).is_some_and(|now| now.is_told_by(&over)) {
                reloading.remove(&id);
            }
        }
        // What serves from now on may be noted.
        self.stirred.notify_one();
        if let Err(Kept::GivenUp(error)) = &done {
            tracing::info!(plugin = %id, reason = %error.message, "its changed package is not tried any further");
        } else if let Err(kept) = &done {
            let error = kept.error();
            tracing::warn!(plugin = %id, reason = %error.message, "its changed package does not serve; what served goes on");
            let now = PassedOver::new(digest.clone(), error.message.clone(), now_ms());
            if kept.error().code == ErrorCode::ConsentRequired && !(waited && waits) {
                self.note_awaiting(&id, &digest, &error.message).await;
            }
            // What was to be returned to does not lie in the folder.
            if !is_return {
                if let (Kept::Bad(_), Ok(instead)) = (kept, old.blueprint().snapshot()) {
                    self.note_bad("pass_over", &old, &now, (&instead.digest, &who)).await;
                }
                old.blueprint().pass_over(Some(now));
            }
            // Whoever waits for an answer has asked once.
            if !(waited && waits) {
                self.tell_refused(EventKind::PackageKept, &old, wanted, error.message.clone());
            }
        }
        drop(under_way);
        done
    }

    async fn reload_in_turn(
        &self,
        old: &Handle,
        prepared: Prepared,
        mut snapshot: Snapshot,
        restored: Option<String>,
        (who, returned): (&str, Option<&Return>),
        mut given_up: watch::Receiver<bool>,
    ) -> Result<Switched, Kept> {
        if *given_up.borrow() {
            return Err(given_up_error(old));
        }
        self.hold_copy(old).await;
        let digest = snapshot.digest.clone();
        let plan = self.plan(old, &prepared, restored.as_ref()).await;
        let is_beside = !plan.steps.contains(&Step::Hold);
        let lies = if returned.is_some() { status::Lies::Elsewhere } else { status::Lies::InItsFolder };
        let state = self.around.states.of(old.id());
        // What the state was, and where that is which was written since the package served that is returned to.
        let (mut held, mut aside) = (None, None);
        if plan.untried == Some(Untried::NewIsUnused) {
            return Err(Kept::ForNow(self.let_wait(prepared, &snapshot, old).await));
        }
        if plan.untried == Some(Untried::OldIsPaused) {
            return Err(if returned.is_some() { still_paused(old) } else { paused(old) });
        }
        let mut prepared = Some(prepared);
        let mut copied: Option<Snapshot> = None;
        let mut candidate: Option<Candidate> = None;
        let (mut done, mut kept) = (None, None);
        for (place, step) in plan.steps.iter().enumerate() {
            let result = match step {
                Step::Stage => match &prepared {
                    Some(prepared) => self.copy(&prepared.found, &snapshot).await.map(|copy| copied = Some(copy)),
                    None => Ok(()),
                },
                Step::Verify => match (&prepared, copied.take()) {
                    (Some(prepared), Some(copy)) => {
                        self.verify(&prepared.found, &snapshot, copy).await.map(|checked| snapshot = checked)
                    }
                    _ => Ok(()),
                },
                Step::Rehearse => match &prepared {
                    Some(prepared) => {
                        let rehearsing = self.beside(prepared.clone(), &snapshot, old, Uses::Copy).await;
                        let done = self.attempt(&rehearsing, old, lies, &mut given_up).await;
                        rehearsing.end().await;
                        done
                    }
                    None => Ok(()),
                },
                Step::Hold if plan.untried == Some(Untried::OldIsUnused) => self.hold_unused(old).await,
                Step::Hold => self.hold(old).await,
                Step::Keep => match keep_state(&state, restored.clone()).await {
                    Ok((before, since)) => {
                        (held, aside) = (before, since);
                        Ok(())
                    }
                    Err(error) => Err(Kept::ForNow(error)),
                },
                Step::Start => {
                    if let Some(prepared) = prepared.take() {
                        let uses = if is_beside { Uses::Copy } else { Uses::Live };
                        candidate = Some(self.beside(prepared, &snapshot, old, uses).await);
                    }
                    match &candidate {
                        Some(candidate) => match self.attempt(candidate, old, lies, &mut given_up).await {
                            Ok(()) => self.still_does(old, &candidate.handle, Before::Goes).map_err(Kept::ForNow),
                            Err(kept) => Err(kept),
                        },
                        None => Err(overtaken(old)),
                    }
                }
                Step::Switch => {
                    let made = match prepared.take() {
                        Some(prepared) => Some(self.beside(prepared, &snapshot, old, Uses::Live).await),
                        None => None,
                    };
                    let Some(made) = candidate.take().or(made) else { return Err(overtaken(old)) };
                    match self.switch_to(old, made, &digest, (&mut held, aside.as_ref()), (who, returned)).await {
                        Ok((switched, noted)) => {
                            (done, kept) = (Some(switched), noted);
                            Ok(())
                        }
                        Err((made, kept)) => {
                            candidate = Some(made);
                            Err(kept)
                        }
                    }
                }
                // Its start has waited for them.
                Step::Hello | Step::Initialize | Step::SelfTest => Ok(()),
                // Of what is held, that was waited for. After the switch it goes on by itself, and is waited for by whoever wants to.
                Step::Drain | Step::Stop => Ok(()),
                Step::Probation => {
                    if let Some((new, _)) = &done {
                        if kept.is_none() {
                            self.remember_backup(old, new, (who, returned)).await;
                        }
                        // Which form it has is no question where both have the same.
                        let state = kept.take().filter(|_| plan.steps.contains(&Step::Rehearse));
                        if self.put_on_probation(old, new, state).is_some() {
                            self.forget_probation(old).await;
                        }
                    }
                    Ok(())
                }
            };
            if let Err(kept) = result {
                // A switch is made as a whole or not at all.
                let begun = place + usize::from(*step != Step::Switch);
                let undone = plan.undo(begun);
                if let Some(candidate) = candidate
                    && (undone.contains(&Undo::Drop) || plan.untried.is_some())
                {
                    candidate.end().await;
                }
                if let Some(held) = held.take().filter(|_| undone.contains(&Undo::PutBack)) {
                    put_back(&state, held, aside.take()).await;
                }
                if undone.contains(&Undo::Release) {
                    old.blueprint().gate.open();
                }
                return Err(kept);
            }
        }
        let Some((new, departure)) = done else { return Err(overtaken(old)) };
        lock(&self.awaiting).remove(new.id());
        if !plan.steps.contains(&Step::Probation) && kept.is_none() {
            self.remember_backup(old, &new, (who, returned)).await;
        }
        self.hold_backups().await;
        Ok(Switched { new, departure, aside })
    }

    /// Whether those that depend on the plugin can go on with the new package: it is of a version that they take, and has every action that it had.
    /// Where the package before stays, it is for those that do not take the new one.
    fn still_does(&self, old: &Handle, new: &Handle, there: Before) -> Result<(), ErrorBody> {
        let Ok(registry) = self.registry() else { return Ok(()) };
        let (id, before, after) = (old.id(), old.version(), new.version());
        let others = || registry.versions(id).filter(|(there, handle)| *there != before && handle.is_in_use());
        let names = |handle: &Handle| -> BTreeSet<String> {
            let infos = handle.actions().map(|actions| actions.infos()).unwrap_or_default();
            infos.into_iter().map(|info| info.name).collect()
        };
        let dropped = names(old).difference(&names(new)).next().cloned();
        for dependant in registry.all().filter(|handle| handle.id() != id && handle.is_in_use()) {
            let Some(wanted) = dependant.blueprint().manifest.dependencies.get(id) else { continue };
            let has_another = match there {
                Before::Goes => others().any(|(there, _)| wanted.version.matches(there)),
                Before::Stays => !wanted.version.matches(after),
            };
            if wanted.optional || !wanted.version.matches(before) || has_another {
                continue;
            }
            let who = format!("{} {}", dependant.id(), dependant.version());
            let why = match &dropped {
                _ if !wanted.version.matches(after) => format!("{who} depends on {id}, and not on its version {after}"),
                Some(action) => format!("{id} {after} has no action {action} any more, and {who} depends on {id}"),
                None => continue,
            };
            return Err(ErrorBody::new(ErrorCode::DependencyUnavailable, why)
                .with_hint(format!("update {} first, or disable it", dependant.id())));
        }
        Ok(())
    }

    /// Says why a package cannot be used before somebody has done something about it. If that is to consent, it can be asked about.
    pub(super) async fn let_wait(&self, prepared: Prepared, snapshot: &Snapshot, old: &Handle) -> ErrorBody {
        let handle = self.inspected(Prepared { snapshot: Ok(snapshot.clone()), ..prepared }, old).await;
        if handle.awaits_consent() { self.ask_about(&handle) } else { self.waits_for(&handle, old.id()) }
    }

    /// Makes a plugin of a package, only to look at it.
    pub(super) async fn inspected(&self, prepared: Prepared, old: &Handle) -> Handle {
        let live = self.live_state(&prepared);
        let (handle, task) = self.make_apart(prepared, live);
        handle.carry_over(old);
        super::end(&handle, Some(task)).await;
        handle
    }

    /// Why a plugin takes no calls before somebody has done something about it.
    pub(super) fn waits_for(&self, handle: &Handle, of: &PluginId) -> ErrorBody {
        let (id, blueprint) = (handle.id(), handle.blueprint());
        let lacking = self.live.now().and_then(|registry| registry.lacking(&blueprint.manifest)).unwrap_or_default();
        let again = format!("then `palisade reload {of}` has it tried");
        if handle.awaits_consent() {
            return ErrorBody::new(ErrorCode::ConsentRequired, blueprint.awaits());
        }
        if let Some(unfit) = blueprint.misconfigured() {
            return ErrorBody::new(ErrorCode::ConfigurationInvalid, unfit)
                .with_hint(format!("`palisade config {id}` shows what it has and what it may have; {again}"));
        }
        let message = format!("{id} {} is not started without what it depends on: {lacking}", handle.version());
        ErrorBody::new(ErrorCode::DependencyUnavailable, message)
            .with_hint(format!("install or enable what is missing; {again}"))
    }

    /// Has a candidate started, unless it is given up meanwhile: then its processes are killed, as what they may be doing serves nobody.
    pub(super) async fn attempt(
        &self,
        candidate: &Candidate,
        old: &Handle,
        lies: status::Lies,
        given_up: &mut watch::Receiver<bool>,
    ) -> Result<(), Kept> {
        let digest = candidate.handle.blueprint().snapshot().map(|snapshot| snapshot.digest).unwrap_or_default();
        let _trying = old.tries(candidate.handle.version().clone(), digest, lies);
        tokio::select! {
            done = start(candidate) => done.map_err(|kept| self.asked_about(candidate, kept)),
            () = is_set(given_up) => {
                candidate.handle.tell(Command::Kill).await;
                Err(given_up_error(old))
            }
        }
    }

    /// What is said of a candidate that somebody has to consent to: what it announced can only be seen once it runs.
    fn asked_about(&self, candidate: &Candidate, kept: Kept) -> Kept {
        if candidate.handle.awaits_consent() { Kept::ForNow(self.ask_about(&candidate.handle)) } else { kept }
    }

    /// Has a package that takes no calls be among those that an operator is asked about.
    fn ask_about(&self, handle: &Handle) -> ErrorBody {
        let (id, version, awaits) = (handle.id(), handle.version(), handle.blueprint().awaits());
        let digest = handle.blueprint().snapshot().map(|snapshot| snapshot.digest).unwrap_or_default();
        let before = lock(&self.awaiting).insert(id.clone(), handle.clone());
        if before.is_none_or(|before| !is_of(&before, &digest)) {
            tracing::warn!(plugin = %id, "{awaits}");
            self.tell(EventKind::ConsentRequired, id, version, Some(awaits.clone()));
        }
        ErrorBody::new(ErrorCode::ConsentRequired, awaits).with_details(handle.blueprint().asked()).with_hint(format!(
            "`palisade grant {id}` shows what it asks for, and why, and asks you; until then what served goes on"
        ))
    }

    /// Tries a package about which everything was said, or that is not asked about any more.
    pub(super) async fn try_awaiting(self: &Arc<Self>, id: &PluginId, who: &str) -> Result<(), ErrorBody> {
        let Some(handle) = lock(&self.awaiting).get(id).cloned() else { return Ok(()) };
        let registry = self.registry()?;
        let settled = match registry.find_any(id.as_str(), None) {
            Ok(old) => {
                let only = Only {
                    id: id.clone(),
                    version: old.version().clone(),
                    who: who.to_owned(),
                    is_dry: false,
                    forgives: false,
                };
                let followed = self.follow(Trusting::Stamps, &Scope::Everything, Some(&only)).await?;
                self.settle(followed).await
            }
            // It lies in another plugin's folder.
            Err(_) => self.try_waiting_newcomer(handle.blueprint().source.clone()).await?,
        };
        let kept = settled.kept.into_iter().next();
        let waits = lock(&self.awaiting).contains_key(id);
        match kept {
            Some(kept) if !waits => {
                let message = format!("{id} {} does not serve all the same: {}", handle.version(), kept.reason);
                Err(ErrorBody::new(ErrorCode::InitializationFailed, message))
            }
            _ => Ok(()),
        }
    }

    /// Tries what was changed while the plugin stood still, without being waited for.
    pub fn try_after_pause(self: &Arc<Self>, handle: &Handle) {
        if !handle.blueprint().passed_over().is_some_and(|passed| passed.reason.ends_with(PAUSED)) {
            return;
        }
        let (packages, folder) = (self.clone(), handle.blueprint().source.clone());
        tokio::spawn(async move {
            match packages.follow(Trusting::Stamps, &Scope::Packages(BTreeSet::from([folder])), None).await {
                Ok(followed) => drop(packages.settle(followed).await),
                Err(error) => tracing::warn!(error = error.message, "the changed package cannot be looked at"),
            }
        });
    }

    /// Has the old one run from its copy from now on, whatever is in its folder, if there is one.
    pub(super) async fn hold_copy(&self, old: &Handle) {
        let Ok(presumed) = old.blueprint().snapshot() else { return };
        if !presumed.is_presumed {
            return;
        }
        let store = self.around.store.clone();
        if let Ok(Ok(snapshot)) = run(move || store.take(&presumed.digest)).await {
            old.blueprint().hold(snapshot);
        }
    }

    /// Copies the package, and checks the copy.
    pub(super) async fn stage(&self, found: &Found, snapshot: &Snapshot) -> Result<Snapshot, Kept> {
        let copy = self.copy(found, snapshot).await?;
        self.verify(found, snapshot, copy).await
    }

    /// Copies the package, unless that was done.
    async fn copy(&self, found: &Found, snapshot: &Snapshot) -> Result<Snapshot, Kept> {
        if !snapshot.is_presumed {
            return Ok(snapshot.clone());
        }
        let (store, path) = (self.around.store.clone(), found.path.clone());
        let copied = run(move || admission::copy(&store, &path)).await.map_err(Kept::ForNow)?;
        copied.map_err(|failure| {
            // What was copied of it is needed by nobody.
            self.sweep(None);
            not_admitted(failure)
        })
    }

    /// Checks the copy, unless there was one that was checked.
    async fn verify(&self, found: &Found, snapshot: &Snapshot, copy: Snapshot) -> Result<Snapshot, Kept> {
        if !snapshot.is_presumed {
            return Ok(copy);
        }
        let (host, path, manifest) = (self.around.host.clone(), found.path.clone(), found.manifest.clone());
        let (copy, checked) = run(move || {
            let checked = admission::vouch(&copy, &host.rules, &path, &manifest);
            (copy, checked)
        })
        .await
        .map_err(Kept::ForNow)?;
        checked.map_err(not_admitted)?;
        if copy.digest != snapshot.digest {
            let message = format!("{} changes while it is looked at", found.path.display());
            return Err(Kept::ForNow(ErrorBody::new(ErrorCode::Unavailable, message)));
        }
        Ok(copy)
    }

    /// Makes a plugin of the package, which takes no calls and has no process yet.
    pub(super) async fn beside(&self, prepared: Prepared, snapshot: &Snapshot, old: &Handle, uses: Uses) -> Candidate {
        let mut state = self.live_state(&prepared);
        if uses == Uses::Copy {
            let of = state.state().clone();
            match run(move || of.scratch()).await {
                Ok(Ok(scratch)) => state = scratch.with_schema(prepared.found.manifest.state_schema),
                // It is told so whenever it asks for any of it, as the one before is.
                Ok(Err(error)) => {
                    tracing::warn!(plugin = %old.id(), %error, "there is no copy of its state to try with")
                }
                Err(error) => {
                    tracing::warn!(plugin = %old.id(), error = error.message, "there is no copy of its state to try with")
                }
            }
        }
        let (handle, task) = self.make_apart(Prepared { snapshot: Ok(snapshot.clone()), ..prepared }, state);
        handle.blueprint().on_trial.store(true, Ordering::Relaxed);
        handle.carry_over(old);
        let ending = self.expect(&handle);
        Candidate { handle, task, ending, alone: None }
    }

    /// Has what serves end, and calls wait. Where its operator has stopped it, or does so meanwhile, that is an error.
    pub(super) async fn hold(&self, old: &Handle) -> Result<(), Kept> {
        let gate = &old.blueprint().gate;
        gate.close();
        let restart = old.hold();
        tokio::select! {
            () = gate.reached() => Ok(()),
            done = restart => {
                gate.open();
                Err(done.err().map_or_else(|| overtaken(old), Kept::ForNow))
            }
        }
    }

    /// Has what takes no calls have no process, and whoever starts it wait.
    async fn hold_unused(&self, old: &Handle) -> Result<(), Kept> {
        old.blueprint().gate.close();
        let ended = match old.is_stopped() {
            true => old.operate(Operation::Stop { force: false, why: StopWhy::Operator }).await,
            false => Ok(()),
        };
        let ended = match ended {
            Ok(()) if old.standing().await != Standing::Absent => {
                let message = format!("a process of {} has not ended yet", old.id());
                Err(ErrorBody::new(ErrorCode::Unavailable, message))
            }
            ended => ended,
        };
        ended.map_err(|error| {
            old.blueprint().gate.open();
            Kept::ForNow(error)
        })
    }

    /// Notes what served before, where that is all that has to be known of it.
    async fn remember_backup(&self, old: &Handle, new: &Handle, by: (&str, Option<&Return>)) {
        if let Err(error) = self.note_backup(old, new, None, None, by).await {
            tracing::error!(plugin = %new.id(), error = error.message, "what served before is not remembered");
        }
    }

    /// Has calls go to the new one, and the old one leave. With it comes the name by which the held copy of the state is kept from here on.
    async fn switch_to(
        &self,
        old: &Handle,
        candidate: Candidate,
        digest: &str,
        (held, aside): (&mut Option<PathBuf>, Option<&PathBuf>),
        by: (&str, Option<&Return>),
    ) -> Result<((Handle, Departure), Option<String>), (Candidate, Kept)> {
        let _one_change = self.changing.lock().await;
        let (id, version) = (old.id().clone(), old.version().clone());
        let registry = match self.registry() {
            Ok(registry) if self.around.store.is_open() && self.is_being_reloaded(&id, digest).is_some() => registry,
            _ => return Err((candidate, overtaken(old))),
        };
        let present = registry.versions(&id).find(|(there, _)| **there == version);
        if !present.is_some_and(|(_, present)| present.is(old)) {
            return Err((candidate, overtaken(old)));
        }
        if old.state() == PluginState::Paused {
            return Err((candidate, paused(old)));
        }
        let mut kept = None;
        if held.is_some() {
            // Before the first call: what is acknowledged from then on must not be put back by a daemon that follows one which is killed.
            match self.note_backup(old, &candidate.handle, held.clone(), aside.cloned(), by).await {
                Ok(name) => kept = name,
                Err(error) => return Err((candidate, Kept::ForNow(error))),
            }
            // The registry is as it was, as this is the one change to it. The next daemon has the new one serve where this one ends.
            *held = None;
            if !self.around.store.is_open() {
                return Err((candidate, overtaken(old)));
            }
        }
        let old_task = self.task_of(old);
        // Who changes it in its folder has it serve.
        self.accept_instead(old, candidate.handle.version());
        let new = self.take_in_candidate(candidate);
        let had = new.blueprint().limits();
        new.carry_over(old);
        let are_others = new.blueprint().limits() != had;
        let mut next = Registry::clone(&registry);
        next.take(&id, &version);
        next.put(new.clone());
        self.weigh(&next, &id);
        self.live.replace(next);
        let departure = self.leave(old.clone(), old_task, Some(&new));
        self.tell_changed(old, &new);
        self.tell_state(old.state(), &new);
        self.write_acceptance().await;
        // One that was tried runs already.
        self.set_off(&new).await;
        if are_others {
            limiting::hold(&new).await;
        }
        Ok(((new, departure), kept))
    }

    /// Counts it among those that there are. The caller has it be in the registry, with nothing awaited between the two.
    pub(super) fn take_in_candidate(&self, candidate: Candidate) -> Handle {
        let Candidate { handle, task, ending, alone: _ } = candidate;
        // What it wrote until here is thrown away.
        handle.blueprint().host_calls.state().go_live();
        handle.blueprint().on_trial.store(false, Ordering::Relaxed);
        self.take_in_task(&handle, task);
        self.no_departure(&handle);
        drop(ending);
        handle
    }

    /// Tries a package that is to be installed, if calls would go to it that go to another version now; with it comes that one. It is
    /// nobody's yet: the caller has it serve, or ends it.
    ///
    /// # Errors
    /// What it fails with; then it has ended.
    pub(super) async fn try_first(&self, taken: &Taken, force: bool) -> Result<Option<(Candidate, Handle)>, ErrorBody> {
        let registry = self.registry()?;
        let manifest = &taken.found.manifest;
        let (id, version) = (&manifest.id, &manifest.version);
        let in_use = || registry.versions(id).filter(|(_, handle)| handle.is_in_use());
        let highest = Specifier::any().highest(in_use().map(|(there, _)| there).chain([version]).collect::<Vec<_>>());
        let Some(old) = in_use().last().map(|(_, handle)| handle) else { return Ok(None) };
        let is_new = registry.versions(id).all(|(there, _)| there != version);
        if !taken.enabled || !is_new || highest != Some(version) || (!force && registry.resolve(manifest).is_err()) {
            return Ok(None);
        }
        let staged = (taken.found.clone(), Ok(taken.snapshot.clone()));
        let prepared = self.prepare_one(staged, Some(taken.source.clone())).await?;
        let plan = self.plan(old, &prepared, None).await;
        if matches!(plan.untried, Some(Untried::OldIsUnused | Untried::OldIsPaused | Untried::NewIsUnused)) {
            return Ok(None);
        }
        let manner = self.manner(old, &taken.found, None).await;
        if manner == Manner::Exclusive {
            return self.install_alone(prepared, taken, old, manner).await;
        }
        let candidate = self.beside(prepared.clone(), &taken.snapshot, old, Uses::Copy).await;
        candidate.handle.set_enabled(taken.enabled);
        let _trying = old.tries(version.clone(), taken.snapshot.digest.clone(), status::Lies::Elsewhere);
        match start(&candidate).await {
            // Others take its calls until somebody has said something about it.
            Err(_) if candidate.handle.awaits_consent() => {}
            Err(kept) => {
                candidate.end().await;
                return Err(not_serving(old, version, &kept));
            }
            Ok(()) if force => {}
            Ok(()) => {
                if let Err(error) = self.still_does(old, &candidate.handle, Before::Stays) {
                    candidate.end().await;
                    return Err(error);
                }
            }
        }
        if manner == Manner::Beside || candidate.handle.awaits_consent() {
            return Ok(Some((candidate, old.clone())));
        }
        // It was a rehearsal.
        candidate.end().await;
        self.install_alone(prepared, taken, old, manner).await
    }

    async fn install_alone(
        &self,
        prepared: Prepared,
        taken: &Taken,
        old: &Handle,
        manner: Manner,
    ) -> Result<Option<(Candidate, Handle)>, ErrorBody> {
        let version = prepared.found.manifest.version.clone();
        let candidate = self.run_alone(prepared, &taken.snapshot, old, manner).await;
        let candidate = candidate.map_err(|kept| not_serving(old, &version, &kept))?;
        Ok(candidate.map(|candidate| (candidate, old.clone())))
    }

    /// Notes that a package is not used any more, and what is: before it was, with the word `pass_over`, or since, with `rollback`.
    pub(super) async fn note_bad(&self, what: &str, of: &Handle, now: &PassedOver, (instead, who): (&str, &str)) {
        let entry = self.entry(what, who, of.id(), of.version(), format!("{} is not used: {}", now.digest, now.reason));
        let bad = Bad { at_unix_ms: now.at_unix_ms, reason: now.reason.clone(), instead: instead.to_owned() };
        let (database, digest) = (self.database.clone(), now.digest.clone());
        let noted = run(move || database.note_bad(&digest, &bad, &entry).map_err(|error| error.to_string())).await;
        if let Err(error) = noted.map_err(|error| error.message).flatten() {
            tracing::error!(plugin = %of.id(), %error, "that its package failed is forgotten with the daemon");
        }
    }

    /// Has the trail say that a package does not serve before an operator has said something.
    pub(super) async fn note_awaiting(&self, id: &PluginId, digest: &str, reason: &str) {
        let Some(version) = lock(&self.awaiting).get(id).map(|handle| handle.version().clone()) else { return };
        let entry = self.entry("await_consent", OURSELVES, id, &version, format!("{digest} is not used: {reason}"));
        let database = self.database.clone();
        let noted = run(move || database.note(&entry).map_err(|error| error.to_string())).await;
        if let Err(error) = noted.map_err(|error| error.message).flatten() {
            tracing::error!(plugin = %id, %error, "that its package waits is not in the audit trail");
        }
    }
}

/// Which state a process uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Uses {
    /// The plugin's.
    Live,
    /// A copy that is thrown away.
    Copy,
}

/// The digest of what lies in its folder, if that is a package.
fn in_folder(handle: &Handle) -> Option<String> {
    match handle.blueprint().passed_over().filter(PassedOver::is_in_its_folder) {
        Some(passed_over) => Some(passed_over.digest),
        None => handle.blueprint().snapshot().ok().map(|snapshot| snapshot.digest),
    }
    .filter(|digest| !digest.is_empty())
}

/// Why a package is not used, and neither what served before it came.
pub(super) fn neither(reason: &str, before: &str, why: &str) -> String {
    format!("{reason}; and {}, which served then, is not used either: {why}", short(before))
}

pub(super) fn now_ms() -> u64 {
    unix_ms(SystemTime::now())
}

/// Holds a copy of the state, and puts the one in its place that is to be had again: that copy, and where the store is now that was there.
pub(super) async fn keep_state(
    state: &Arc<State>,
    restored: Option<String>,
) -> Result<(Option<PathBuf>, Option<PathBuf>), ErrorBody> {
    let state = state.clone();
    let kept = run(move || {
        if !state.exists() && restored.is_none() {
            return Ok((None, None));
        }
        let held = state.hold_copy(now_ms())?;
        let aside = match restored {
            Some(name) => state.copy_of_kept(&name).and_then(|copy| state.replace_with(&copy, now_ms())),
            None => Ok(None),
        };
        match aside {
            Ok(aside) => Ok((Some(held), aside)),
            Err(error) => state.put_back(&held, now_ms()).and(Err(error)),
        }
    });
    kept.await?.map_err(|error| crate::state::error_body(&error))
}

/// Has the state be what it was.
pub(super) async fn put_back(state: &Arc<State>, held: PathBuf, aside: Option<PathBuf>) {
    let (of, id) = (state.clone(), state.id().clone());
    let done = run(move || {
        of.put_back(&held, now_ms())?;
        // The same is in its place again.
        aside.map_or(Ok(()), |aside| of.drop_aside(&aside))
    });
    if let Err(error) =
        done.await.map_err(|error| error.message).and_then(|done| done.map_err(|error| error.to_string()))
    {
        tracing::error!(plugin = %id, %error, "its state is in the form of the package that failed until the daemon is started again");
    }
}

/// Has it started, and takes its word on why it cannot be.
pub(super) async fn start(candidate: &Candidate) -> Result<(), Kept> {
    let Err(error) = candidate.handle.operate(Operation::Start).await else { return Ok(()) };
    let by_others = [
        ErrorCode::DependencyUnavailable,
        ErrorCode::SandboxUnavailable,
        ErrorCode::ConsentRequired,
        ErrorCode::ConfigurationInvalid,
    ];
    let not_its_fault = by_others.contains(&error.code)
        || (error.code == ErrorCode::ResourceExhausted && error.fault == Fault::Host)
        || candidate.handle.is_stopped();
    Err(if not_its_fault { Kept::ForNow(error) } else { Kept::Bad(error) })
}

fn not_admitted(failure: LaunchFailure) -> Kept {
    let error = ErrorBody::new(failure.code.unwrap_or(ErrorCode::ResourceExhausted), failure.message);
    if failure.outlook == Outlook::Lasting { Kept::Bad(error) } else { Kept::ForNow(error) }
}

fn not_serving(old: &Handle, version: &Version, kept: &Kept) -> ErrorBody {
    let error = kept.error();
    let message = format!("{} {version} does not serve, and {} goes on: {}", old.id(), old.version(), error.message);
    ErrorBody { message, ..error.clone() }
}

/// Whether a plugin was made of the package of that digest.
pub(super) fn is_of(handle: &Handle, digest: &str) -> bool {
    handle.blueprint().snapshot().is_ok_and(|snapshot| snapshot.digest == digest)
}

/// Something else has become of the plugin meanwhile.
pub(super) fn overtaken(old: &Handle) -> Kept {
    let message = format!("{} was changed otherwise meanwhile", old.id());
    Kept::ForNow(ErrorBody::new(ErrorCode::Unavailable, message))
}

/// It was given up while it was tried.
fn given_up_error(old: &Handle) -> Kept {
    let message = format!("another package of {} was wanted before this one served", old.id());
    Kept::GivenUp(ErrorBody::new(ErrorCode::Unavailable, message))
}

/// Waits until it says so. Cancel safe.
async fn is_set(now: &mut watch::Receiver<bool>) {
    if now.wait_for(|now| *now).await.is_err() {
        // Nobody can say so any more.
        std::future::pending().await
    }
}

/// Its operator has it stand still, so nothing takes its place.
/// The same of what an operator wants to return from.
fn still_paused(old: &Handle) -> Kept {
    let id = old.id();
    let error = ErrorBody::new(ErrorCode::Unavailable, format!("{id} is paused, and keeps the package that it has"));
    Kept::ForNow(ErrorBody { retryable: false, ..error }.with_hint(format!("`palisade resume {id}`, and then again")))
}

pub(super) fn paused(old: &Handle) -> Kept {
    let id = old.id();
    let error = ErrorBody::new(ErrorCode::Unavailable, format!("{id} {PAUSED}"));
    Kept::ForNow(ErrorBody { retryable: false, ..error }.with_hint(format!("`palisade resume {id}`")))
}

/// So much of a digest as people compare.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}
