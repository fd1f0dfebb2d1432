//! What the rest of the daemon holds of one version of a plugin.
//!
//! A call goes straight to the generation that the route points to; only where there is no route does it pass the actor. Cheap to
//! clone.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::SystemTime;

use palisade_protocol::{ErrorBody, ErrorCode, Guarantee};
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::actions::SharedActions;
use super::blueprint::Blueprint;
use super::call::{Call, Counters, NewCall};
use super::generation::Offered;
use super::inbox::Inbox;
use super::queue::overloaded;
use super::refusals::Refusal;
use crate::events::unix_ms;
use crate::model::generation::StopWhy;
use crate::model::guarantee::not_enforced;
use crate::model::ids::{Generation, PluginId};
use crate::model::status::{
    Deprecation, Dossier, Lies, PassedOver, PluginInfo, PluginState, PluginStatus, Probation, Trial,
};
use crate::model::updates::{By, Held, Offer};
use crate::process::REFUSALS_TOLD_WITHIN;

/// What the actor is told.
#[derive(Debug)]
pub enum Command {
    /// A call, and no route for it.
    Call(Arc<Call>),
    /// What an operator wants.
    Operate(Operation, oneshot::Sender<Result<(), ErrorBody>>),
    /// A process with this configuration in place of the one that serves, which goes on serving if the other one does not get so far.
    Reconfigure(Arc<Value>, oneshot::Sender<Result<(), ErrorBody>>),
    /// Whether the process that serves can go on with this configuration.
    Offer(Arc<Value>, oneshot::Sender<Offered>),
    /// Whether anything serves, and how it is configured.
    Stand(oneshot::Sender<Standing>),
    /// Another process, whose start waits, so that none is left: unless its operator has stopped it, which is not undone.
    Hold(oneshot::Sender<Result<(), ErrorBody>>),
    /// The daemon has found all plugins: those that run always start now.
    Begin,
    /// Its operator has stopped the plugin in whose place it is: it is stopped as well.
    StayStopped,
    /// The actions are to become known, if need be by starting the plugin.
    Describe(oneshot::Sender<Result<SharedActions, ErrorBody>>),
    /// The processes behind `status`.
    Inspect(oneshot::Sender<Vec<crate::model::status::GenerationStatus>>),
    /// The plugin has a successor, which takes over the calls and questions that wait.
    HandOver,
    /// End everything, then yourself.
    Shutdown,
    /// The same, without waiting for anything: processes are killed.
    Kill,
}

/// What an operator can want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// A process, and always one.
    Start,
    /// No process; `force` does not wait for calls.
    Stop {
        /// Do not wait for calls under way.
        force: bool,
        /// Who wants it.
        why: StopWhy,
    },
    /// Another process.
    Restart,
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
    /// Forgive its failures.
    Reset,
    /// Another process beside the one that serves, which goes on serving if the other one does not get so far.
    Replace,
}

impl Operation {
    /// Whether an operator wants it, of the plugin, whichever package it has.
    pub(super) fn is_an_operators(self) -> bool {
        match self {
            Self::Stop { why, .. } => why == StopWhy::Operator,
            Self::Start | Self::Restart | Self::Pause | Self::Resume | Self::Reset => true,
            Self::Replace => false,
        }
    }
}

/// Whether anything serves.
#[derive(Debug, Clone, PartialEq)]
pub enum Standing {
    /// Nothing, and nothing is on its way.
    Absent,
    /// Not yet.
    Starting,
    /// A process that stands still.
    Paused,
    /// A process that was configured with this.
    Serving(Option<Arc<Value>>),
}

/// What the actor keeps up to date for everybody.
#[derive(Debug)]
pub struct Board {
    /// What users see.
    pub state: PluginState,
    /// Since when.
    pub since: SystemTime,
    /// Why, where that is not plain.
    pub reason: Option<String>,
    /// The one that serves or is to.
    pub generation: Option<Generation>,
    /// Automatic restarts so far.
    pub restarts: u64,
    /// When the next one is due.
    pub restart_at: Option<std::time::Instant>,
    /// Its operator wants no process of it.
    pub stopped: bool,
    /// Failed too often.
    pub quarantined: bool,
    /// How it failed last.
    pub last_failure: Option<Dossier>,
    /// Its actions, as far as they are known.
    pub actions: Option<SharedActions>,
    /// Where calls go.
    pub route: Option<Inbox>,
}

/// What a version has to do with updates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Updating {
    /// Why it takes no calls, where that is because it is one.
    pub held: Option<Held>,
    /// The newer version that waits for an operator, while this one serves.
    pub offered: Option<Offer>,
}

/// What handle and actor share.
#[derive(Debug)]
pub struct Shared {
    /// What its generations are made from.
    pub blueprint: Arc<Blueprint>,
    /// Its calls.
    pub counters: Arc<Counters>,
    /// Whether its operator lets it take calls.
    pub enabled: AtomicBool,
    /// Whether others are to be chosen before it.
    pub deprecated: Mutex<Option<Deprecation>>,
    /// Whether it takes no calls as it is an update that waits.
    pub is_held: AtomicBool,
    /// Why, and which newer version waits beside it.
    pub updating: Mutex<Updating>,
    /// Another package that is being tried beside it.
    pub trial: Mutex<Option<Trial>>,
    /// What it is taken back for if it fails.
    pub probation: Mutex<Option<Probation>>,
    /// The plugin that has taken its place, once one has.
    pub successor: OnceLock<Handle>,
    /// A process of it was active.
    pub has_served: AtomicBool,
    /// So many of its processes have failed.
    pub failures: AtomicU64,
    /// What it is doing.
    pub board: Mutex<Board>,
}

impl Shared {
    /// The board, to read or to change.
    pub fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().expect("nothing panics while it holds the board")
    }
}

/// One version of a plugin, for those who call or operate it.
#[derive(Debug, Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
}

/// That another package is being tried beside a plugin.
#[derive(Debug)]
pub(crate) struct Trying {
    beside: Handle,
    trial: Trial,
}

impl Drop for Trying {
    fn drop(&mut self) {
        let mut now = self.beside.trial();
        if now.as_ref() == Some(&self.trial) {
            *now = None;
        }
    }
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>, commands: mpsc::Sender<Command>) -> Self {
        Self { shared, commands }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &PluginId {
        &self.shared.blueprint.manifest.id
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> &semver::Version {
        &self.shared.blueprint.manifest.version
    }

    /// Whether its operator lets it take calls. Who routes calls asks this; one that is under way goes on.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.shared.enabled.load(Ordering::Relaxed)
    }

    /// Whether an operator has to say something about what it asks for before it takes calls.
    #[must_use]
    pub fn awaits_consent(&self) -> bool {
        self.shared.blueprint.is_awaiting_consent()
    }

    /// Whether it takes calls, as far as that is its operator's decision.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        self.is_enabled() && !self.is_held() && !self.awaits_consent() && self.blueprint().misconfigured().is_none()
    }

    /// Whether it takes no calls as it is an update that waits.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.shared.is_held.load(Ordering::Relaxed)
    }

    /// Why, and which newer version waits beside it.
    #[must_use]
    pub fn updating(&self) -> Updating {
        self.shared.updating.lock().expect("nothing panics while it holds this").clone()
    }

    /// Says what it has to do with updates.
    pub fn set_updating(&self, updating: Updating) {
        let is_held = updating.held.is_some();
        *self.shared.updating.lock().expect("nothing panics while it holds this") = updating;
        self.shared.is_held.store(is_held, Ordering::Relaxed);
    }

    /// What a call is told that it takes none of as it is an update that waits.
    #[must_use]
    pub fn held(&self) -> Option<ErrorBody> {
        let Held { by, reason } = self.updating().held?;
        let (id, version) = (self.id(), self.version());
        let error = ErrorBody::new(ErrorCode::Unavailable, format!("{id} {version} takes no calls: {reason}"));
        let error = error.with_hint(match by {
            By::Pin => format!("`plugins.{id}.version` of palisade.toml says which versions may serve"),
            By::Major => format!("`palisade update --major --to {version} {id}` has it take calls"),
            By::Trial => "it is being tried".to_owned(),
            By::Policy | By::Failed | By::Untried => {
                format!("`palisade update --to {version} {id}` tries it, and has it take calls")
            }
        });
        Some(ErrorBody { retryable: by == By::Trial, ..error })
    }

    /// Why it takes no calls, where it takes none: a sentence.
    pub(crate) fn idle(&self) -> Option<String> {
        if let Some(unused) = self.unused() {
            return Some(unused.message);
        }
        if let Some(misconfigured) = self.blueprint().misconfigured() {
            return Some(misconfigured);
        }
        let (state, id) = (self.state(), self.id());
        match state {
            _ if self.is_stopped() => Some(format!("{id} is stopped")),
            PluginState::Paused => Some(format!("{id} is paused")),
            PluginState::Failed => Some(format!("{id} has failed: {}", self.last_reason())),
            _ => None,
        }
    }

    /// Lets it take calls, or none.
    pub fn set_enabled(&self, enabled: bool) {
        self.shared.enabled.store(enabled, Ordering::Relaxed);
    }

    /// What was said against its use, if anything was. Who chooses among versions asks this.
    #[must_use]
    pub fn deprecated(&self) -> Option<Deprecation> {
        self.shared.deprecated.lock().expect("nothing panics while it holds this").clone()
    }

    /// Says something against its use, or takes that back.
    pub fn set_deprecated(&self, deprecated: Option<Deprecation>) {
        *self.shared.deprecated.lock().expect("nothing panics while it holds this") = deprecated;
    }

    /// A sentence for whoever uses it all the same.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let Deprecation { reason, .. } = self.deprecated()?;
        let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        Some(format!("{} {} is deprecated{why}", self.id(), self.version()))
    }

    /// Its calls, counted.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.shared.counters
    }

    /// What its generations are made from.
    #[must_use]
    pub fn blueprint(&self) -> &Blueprint {
        &self.shared.blueprint
    }

    /// What confines its running process, which is its main one, as the host counts.
    ///
    /// Cancel safe: what was found is dropped.
    ///
    /// # Errors
    /// When there is no thread to be had for it.
    pub async fn observed_guarantees(&self, process: u32) -> std::io::Result<Vec<Guarantee>> {
        let handle = self.clone();
        let look = move || handle.blueprint().guarantees(Some(&handle.blueprint().observe(process)));
        // Only a quota is asked for in a process of its own.
        if self.blueprint().host.facts.quotas { crate::blocking::run(look).await } else { Ok(look()) }
    }

    /// Has it be as its operator said of the one before: how much it may have, whether it takes calls, and whether it is to have no process. One
    /// that was paused is stopped, as it has no process that could stand still.
    pub(crate) fn carry_over(&self, before: &Self) {
        self.blueprint().take_over_limits(before.blueprint());
        self.set_enabled(before.is_enabled());
        // What is disabled is stopped for that, and starts once it is enabled.
        if before.is_enabled() && (before.is_stopped() || before.state() == PluginState::Paused) {
            // An actor that was just made has room for it, and one that has ended has no process.
            let _ = self.commands.try_send(Command::StayStopped);
        }
    }

    /// Has another plugin of the same id and version take its place: its calls that no process has been given go to that one, whenever
    /// they come. Once, and for ever; `Command::HandOver` has it give those that wait already.
    pub(crate) fn succeeded_by(&self, successor: &Handle) {
        let first = self.shared.successor.set(successor.clone()).is_ok();
        debug_assert!(first, "a plugin is replaced once");
    }

    /// The plugin that has taken its place, if one has.
    #[must_use]
    pub fn successor(&self) -> Option<Self> {
        self.shared.successor.get().cloned()
    }

    /// Takes over a call of the plugin before it that waits: it ends here, or as it would if it had come here first.
    pub(super) fn take_over(&self, call: Arc<Call>) {
        let mut last = self.clone();
        while let Some(successor) = last.shared.successor.get() {
            last = successor.clone();
        }
        if !call.move_to(&last.shared.counters) {
            return;
        }
        if let Some(refusal) = last.unused() {
            return call.fail(&refusal);
        }
        let route = last.shared.board().route.clone();
        let unrouted = route.map_or_else(|| Some(call.clone()), |inbox| inbox.call(call.clone()));
        if let Some(call) = unrouted {
            last.command_call(call);
        }
    }

    /// The same of what an operator wants.
    pub(super) fn take_operation(&self, operation: Operation, reply: oneshot::Sender<Result<(), ErrorBody>>) {
        // Where there is no room for it, who wants it is told that the plugin was unloaded.
        let _ = self.commands.try_send(Command::Operate(operation, reply));
    }

    /// The same of a question for its actions.
    pub(super) fn take_question(&self, reply: oneshot::Sender<Result<SharedActions, ErrorBody>>) {
        // Where there is no room for it, its asker is told that the plugin was unloaded.
        let _ = self.commands.try_send(Command::Describe(reply));
    }

    /// Says that another package is being tried beside it, until what is returned is dropped.
    pub(crate) fn tries(&self, version: semver::Version, digest: String, lies: Lies) -> Trying {
        let trial = Trial { version, digest, since_unix_ms: unix_ms(SystemTime::now()), lies };
        *self.trial() = Some(trial.clone());
        Trying { beside: self.clone(), trial }
    }

    fn trial(&self) -> MutexGuard<'_, Option<Trial>> {
        self.shared.trial.lock().expect("nothing panics while it holds this")
    }

    /// The package that is not used. What lay in its folder does not any more where another one from there is being tried.
    fn passed_over(&self) -> Option<PassedOver> {
        let passed_over = self.shared.blueprint.passed_over()?;
        let is_gone = self.trial().as_ref().is_some_and(|trial| {
            trial.lies == Lies::InItsFolder && passed_over.is_in_its_folder() && trial.digest != passed_over.digest
        });
        (!is_gone).then_some(passed_over)
    }

    /// Says what it is taken back for if it fails, or that it is not any more.
    pub(crate) fn put_on_probation(&self, probation: Option<Probation>) {
        *self.shared.probation.lock().expect("nothing panics while it holds this") = probation;
    }

    /// What it is taken back for, while that may be.
    fn probation(&self) -> Option<Probation> {
        self.shared.probation.lock().expect("nothing panics while it holds this").clone()
    }

    /// Why calls that come for it all the same are not taken, where its operator lets it take none.
    fn unused(&self) -> Option<ErrorBody> {
        let (id, version) = (self.id(), self.version());
        if !self.is_enabled() {
            let error = ErrorBody::new(ErrorCode::Unavailable, format!("{id} {version} is disabled"));
            let hint = format!("`palisade enable {id}@{version}` lets it take calls again");
            return Some(ErrorBody { retryable: false, ..error.with_hint(hint) });
        }
        if let Some(held) = self.held() {
            return Some(held);
        }
        self.awaits_consent().then(|| {
            let hint = format!("`palisade grant {id}` shows what it asks for, and why, and asks you");
            ErrorBody::new(ErrorCode::ConsentRequired, self.shared.blueprint.awaits()).with_hint(hint)
        })
    }

    /// Gives a call to the actor, for which there is no route.
    fn command_call(&self, call: Arc<Call>) {
        let Err(error) = self.commands.try_send(Command::Call(call)) else { return };
        let (mpsc::error::TrySendError::Closed(command) | mpsc::error::TrySendError::Full(command)) = error;
        let Command::Call(call) = command else { return };
        let limits = &self.shared.blueprint.manifest.limits;
        call.fail(&overloaded(self.id().as_str(), limits.concurrency + limits.queue));
    }

    /// Admits a call and sends it on its way. `known` gets it before anything can be answered.
    ///
    /// # Errors
    /// `overloaded` when the plugin has all the calls it may have; `action_not_found`.
    pub fn call(&self, new: NewCall, known: impl FnOnce(&Arc<Call>)) -> Result<(), ErrorBody> {
        if self.shared.successor.get().is_some() {
            // Whoever still calls this one looked it up before.
            let limits = &self.shared.blueprint.manifest.limits;
            if !self.shared.counters.admit(limits.concurrency + limits.queue) {
                self.shared.counters.refuse();
                return Err(overloaded(self.id().as_str(), limits.concurrency + limits.queue));
            }
            let call = Call::new(new, limits.call_timeout, self.shared.counters.clone());
            known(&call);
            self.take_over(call);
            return Ok(());
        }
        let limits = &self.shared.blueprint.manifest.limits;
        let most = limits.concurrency + limits.queue;
        let board = self.shared.board();
        if let Some(actions) = &board.actions {
            // What is wrong in any case need not wait for a process.
            actions.get(self.id().as_str(), &new.action)?;
        }
        let counters = &self.shared.counters;
        let admitted = counters.admit(most);
        if !admitted && !self.may_contend(&new, most) {
            counters.refuse();
            return Err(overloaded(self.id().as_str(), most));
        }
        let call = Call::new(new, limits.call_timeout, counters.clone());
        if !admitted {
            call.contend();
        }
        known(&call);
        let unrouted = match &board.route {
            Some(inbox) => inbox.call(call),
            None => Some(call),
        };
        drop(board);
        if let Some(call) = unrouted {
            self.command_call(call);
        }
        Ok(())
    }

    /// Whether a call is let in for which there is no room: that of an agent that has less than half of what there is, so that another
    /// one may have too much. It is decided where the calls wait. Admits the call if so.
    fn may_contend(&self, new: &NewCall, most: u32) -> bool {
        let counters = &self.shared.counters;
        2 * new.reply_to.0.calls_counted(counters) < most as usize && counters.admit(2 * most)
    }

    /// Performs what an operator wants, and waits until it has come about.
    ///
    /// Cancel safe: the plugin goes on to where it was told to go.
    ///
    /// # Errors
    /// Why it did not come about.
    pub async fn operate(&self, operation: Operation) -> Result<(), ErrorBody> {
        if matches!(operation, Operation::Start | Operation::Restart | Operation::Reset)
            && self.state() == PluginState::Failed
        {
            // Perhaps somebody has mended it meanwhile.
            let shared = self.shared.clone();
            let looked = crate::blocking::run(move || shared.blueprint.look_again()).await;
            if let Err(error) = looked {
                tracing::error!(plugin = %self.id(), %error, "the package could not be looked at again");
            }
        }
        self.ask(|reply| Command::Operate(operation, reply)).await?
    }

    /// Has it start another process, unless its operator has stopped it; where its gate is closed that waits, and it has none.
    ///
    /// Cancel safe: the plugin goes on to where it was told to go.
    ///
    /// # Errors
    /// Why there is none.
    pub(crate) async fn hold(&self) -> Result<(), ErrorBody> {
        self.ask(Command::Hold).await?
    }

    /// Replaces the process that serves by one with this configuration, if there is one.
    ///
    /// Cancel safe: the plugin goes on to where it was told to go.
    ///
    /// # Errors
    /// Why the other one does not serve; what served does then.
    pub async fn reconfigure(&self, configuration: Arc<Value>) -> Result<(), ErrorBody> {
        self.ask(|reply| Command::Reconfigure(configuration, reply)).await?
    }

    /// Offers the process that serves another configuration. It has it if it accepts, and else what it had.
    ///
    /// Cancel safe: it may have accepted.
    pub async fn offer(&self, configuration: Arc<Value>) -> Offered {
        self.ask(|reply| Command::Offer(configuration, reply)).await.unwrap_or(Offered::Gone)
    }

    /// Whether anything serves, and how it is configured.
    pub async fn standing(&self) -> Standing {
        self.ask(Command::Stand).await.unwrap_or(Standing::Absent)
    }

    /// Its actions. A plugin that has not run yet is started for this.
    ///
    /// # Errors
    /// Why it could not be started.
    pub async fn describe(&self) -> Result<SharedActions, ErrorBody> {
        if let Some(actions) = self.actions() {
            return Ok(actions);
        }
        self.ask(Command::Describe).await?
    }

    /// Its actions, if it has run.
    #[must_use]
    pub fn actions(&self) -> Option<SharedActions> {
        self.shared.board().actions.clone()
    }

    /// Tells the actor something that is not answered.
    pub(crate) async fn tell(&self, command: Command) {
        // An actor that has ended has nothing left to do.
        let _ = self.commands.send(command).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, ErrorBody> {
        let (reply, answer) = oneshot::channel();
        let gone = || ErrorBody::new(ErrorCode::Unavailable, format!("{} was unloaded", self.id()));
        self.commands.send(command(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    /// What it is doing.
    #[must_use]
    pub fn state(&self) -> PluginState {
        self.shared.board().state
    }

    /// Its process that serves or is to, if there is one.
    #[must_use]
    pub fn generation(&self) -> Option<Generation> {
        self.shared.board().generation
    }

    /// Whether this is that one, and not only one of the same id and version.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Whether a process of it was ever active.
    #[must_use]
    pub fn has_served(&self) -> bool {
        self.shared.has_served.load(Ordering::Relaxed)
    }

    /// How many of its processes have failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }

    /// Whether its operator, or the daemon's end, has stopped it.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.shared.board().stopped
    }

    /// Why it failed last, also where another attempt is under way.
    #[must_use]
    pub fn last_reason(&self) -> String {
        let board = self.shared.board();
        let failure = || board.last_failure.as_ref().map(|failure| failure.reason.clone());
        board.reason.clone().or_else(failure).unwrap_or_else(|| "nothing is known about it".to_owned())
    }

    /// Whether it failed so often that it is not tried again by itself.
    #[must_use]
    pub fn is_quarantined(&self) -> bool {
        self.shared.board().quarantined
    }

    /// What `status` shows.
    pub async fn status(&self) -> PluginStatus {
        let generations = self.ask(Command::Inspect).await.unwrap_or_default();
        let lacks = self.shared.blueprint.lacking();
        let misconfigured = self.shared.blueprint.misconfigured();
        let manifest = &self.shared.blueprint.manifest;
        let Updating { held, offered } = self.updating();
        let board = self.shared.board();
        let restart_in = board.restart_at.map(|at| at.saturating_duration_since(std::time::Instant::now()));
        PluginStatus {
            id: manifest.id.clone(),
            version: manifest.version.clone(),
            name: manifest.name.clone(),
            enabled: self.is_enabled(),
            awaits_consent: self.awaits_consent(),
            lacks,
            misconfigured,
            deprecated: self.deprecated(),
            held,
            update: offered,
            passed_over: self.passed_over(),
            trial: self.trial().clone(),
            probation: self.probation(),
            state_aside: None,
            state: board.state,
            reason: board.reason.clone(),
            since_unix_ms: unix_ms(board.since),
            generation: board.generation,
            generations,
            restarts: board.restarts,
            restart_in_ms: restart_in.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX)),
            quarantined: board.quarantined,
            last_failure: board.last_failure.clone(),
            degraded: self.shared.blueprint.degraded(),
            state_trouble: self.shared.blueprint.host_calls.state().state().trouble(),
            secrets_not_set: self.shared.blueprint.host_calls.secrets().missing(),
            not_enforced: not_enforced(self.shared.blueprint.guarantees(None)),
            calls: self.shared.counters.snapshot(),
        }
    }

    /// What it was refused, as far as that is written down.
    pub async fn refusals(&self, runs: bool) -> Vec<Refusal> {
        if runs {
            // So late its pid 1 tells it, and it is to be all that came before the question.
            tokio::time::sleep(2 * REFUSALS_TOLD_WITHIN).await;
        }
        self.shared.blueprint.denials.list()
    }

    /// One line of `list`.
    #[must_use]
    pub fn summary(&self) -> crate::model::status::PluginSummary {
        let manifest = &self.shared.blueprint.manifest;
        let Updating { held, offered } = self.updating();
        let board = self.shared.board();
        crate::model::status::PluginSummary {
            id: manifest.id.clone(),
            version: manifest.version.clone(),
            name: manifest.name.clone(),
            enabled: self.is_enabled(),
            awaits_consent: self.awaits_consent(),
            lacks: self.shared.blueprint.lacking(),
            deprecated: self.deprecated().is_some(),
            held: self.is_held(),
            update: offered.map(|offer| offer.version),
            passed_over: self.passed_over(),
            state: board.state,
            reason: held.map(|held| held.reason).or_else(|| board.reason.clone()),
            since_unix_ms: unix_ms(board.since),
            generation: board.generation,
            restarts: board.restarts,
            calls_in_flight: self.shared.counters.snapshot().in_flight,
            description: manifest.description.clone(),
        }
    }

    /// What `info` shows, apart from the actions.
    pub async fn info(&self) -> PluginInfo {
        let blueprint = &self.shared.blueprint;
        PluginInfo {
            status: self.status().await,
            description: blueprint.manifest.description.clone(),
            source: blueprint.source.display().to_string(),
            entry_point: blueprint.manifest.entry_point.as_str().to_owned(),
            actions: Vec::new(),
            warnings: blueprint.warnings.clone(),
        }
    }
}
