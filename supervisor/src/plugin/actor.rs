//! The owner of one version of a plugin: performs what `model::plugin` decides.
//!
//! It starts and ends generations, sets the route, keeps the calls for which there is none, and answers operators when what they
//! asked for has come about. Calls in the steady state do not come here.
//!
//! Invariants: it waits for all that concerns it at once (its inbox, its generations, room in the one that serves, its timer), so it can
//! always be told something; a call that it keeps is given to a generation, ends by its deadline, or is refused with the reason why.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use palisade_protocol::{ErrorBody, ErrorCode, Fault};
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::actions::SharedActions;
use super::blueprint::Blueprint;
use super::call::{Call, Counters};
use super::generation::{self, Order, Running, Told};
use super::handle::{Board, Command, Handle, Operation, Shared, Standing};
use super::inbox::Inbox;
use super::logs::{Hub, Voice};
use super::needs;
use super::numbers::Numbers;
use super::queue::{Queue, overloaded};
use crate::events::{Bus, Event as BusEvent, EventKind, unix_ms};
use crate::model::generation::{InitFailure, LaunchFailure, Outlook, Reason, StopWhy};
use crate::model::ids::{Generation, PluginId};
use crate::model::limits::Kind;
use crate::model::manifest::Activation;
use crate::model::plugin::{Action, Decline, Desired, Event, Machine, Mode, Next, Promote, Refusal, Settings, State};
use crate::model::status::{GenerationStatus, PluginState, Role};

/// Operators who wait for one plugin at once.
const WAITERS_MAX: usize = 64;

/// So much of a line that a plugin wrote is repeated in an error.
const LAST_WORDS_CHARACTERS_MAX: usize = 200;

/// Where a plugin reports to.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// Everything that happens.
    pub bus: Bus,
    /// Everything that plugins say.
    pub hub: Hub,
    /// When the daemon started, as the origin of its clocks.
    pub started: Instant,
    /// Told when a process has become active, or has failed.
    pub stirred: Arc<Notify>,
}

/// Brings a plugin version to life. The task ends after `Command::Shutdown`.
#[must_use]
pub fn start(blueprint: Blueprint, surroundings: Surroundings, numbers: Arc<Numbers>) -> (Handle, JoinHandle<()>) {
    let blueprint = Arc::new(blueprint);
    let limits = &blueprint.manifest.limits;
    // Every admitted call may be here, as many that contend for their room, and some operators.
    let room = 2 * (limits.concurrency + limits.queue) as usize + WAITERS_MAX;
    let (commands, inbox) = mpsc::channel(room);
    let (told_sender, told) = mpsc::channel(64);
    let settings = Settings::from(&blueprint.manifest);
    let first = Generation(1);
    let machine = match &blueprint.executable {
        Ok(()) => Machine::new(settings, first),
        Err(failure) if failure.outlook == Outlook::Lasting => Machine::broken(settings, first, failure.clone()),
        // The host is short of something at the moment.
        Err(_) => Machine::new(settings, first),
    };
    let board = Board {
        state: machine.projection(),
        since: SystemTime::now(),
        reason: machine.reason(),
        generation: None,
        restarts: 0,
        restart_at: None,
        stopped: false,
        quarantined: false,
        last_failure: None,
        actions: None,
        route: None,
    };
    let shared = Arc::new(Shared {
        blueprint,
        counters: Arc::new(Counters::default()),
        enabled: true.into(),
        deprecated: None.into(),
        is_held: false.into(),
        updating: std::sync::Mutex::default(),
        trial: std::sync::Mutex::default(),
        probation: std::sync::Mutex::default(),
        successor: OnceLock::new(),
        failures: 0.into(),
        has_served: false.into(),
        board: board.into(),
    });
    let actor = Actor {
        shared: shared.clone(),
        surroundings,
        numbers,
        machine,
        running: HashMap::new(),
        waiting: Queue::default(),
        next_due: None,
        waiters: Vec::new(),
        describers: Vec::new(),
        inbox,
        told,
        told_sender,
        withheld: None,
        given: None,
        exchanging: false,
        only_withdrawn: false,
        shutting_down: false,
    };
    (Handle::new(shared, commands), tokio::spawn(Box::new(actor).run()))
}

/// Somebody who wants to hear when a state is reached.
struct Waiter {
    operation: Operation,
    /// For a start or restart: the first generation that counts.
    from: Generation,
    reply: oneshot::Sender<Result<(), ErrorBody>>,
}

struct Actor {
    shared: Arc<Shared>,
    surroundings: Surroundings,
    numbers: Arc<Numbers>,
    machine: Machine,
    running: HashMap<Generation, Running>,
    /// Calls without a route, their agents in turn.
    waiting: Queue,
    /// No waiting call is due before this.
    next_due: Option<Instant>,
    waiters: Vec<Waiter>,
    describers: Vec<oneshot::Sender<Result<SharedActions, ErrorBody>>>,
    inbox: mpsc::Receiver<Command>,
    told: mpsc::Receiver<(Generation, Told)>,
    told_sender: mpsc::Sender<(Generation, Told)>,
    /// A start that is due, and not made before there is what the plugin depends on.
    withheld: Option<Withheld>,
    /// What the generation that is started next is configured with, if not as the blueprint has it.
    given: Option<Arc<Value>>,
    /// What serves is being stopped to be started with that: calls wait, also where it does not start, as what was before starts then.
    exchanging: bool,
    /// It is stopped only as it may not have what it was granted any more: nobody has said that it is to be.
    only_withdrawn: bool,
    shutting_down: bool,
}

/// What is done once there is what the plugin depends on.
struct Withheld {
    /// Whether it has yet to begin; if not, it is a restart that was due.
    begin: bool,
    changes: watch::Receiver<u64>,
}

/// Calls that go to the same place.
enum Wake {
    Command(Command),
    Told(Generation, Told),
    Timer,
    /// The generation that serves takes calls in again.
    Room,
    /// What can be depended on is another.
    Changed,
    /// Nobody can tell it anything any more.
    Orphaned,
}

impl Actor {
    /// In a box, for a future has room for its arguments twice.
    async fn run(mut self: Box<Self>) {
        while !(self.shutting_down && self.running.is_empty()) {
            let due = self.due();
            let full = if self.waiting.is_empty() { None } else { self.shared.board().route.clone() };
            let wake = tokio::select! {
                told = self.told.recv() => match told {
                    Some((generation, told)) => Wake::Told(generation, told),
                    None => Wake::Orphaned,
                },
                command = self.inbox.recv(), if !self.inbox.is_closed() || !self.inbox.is_empty() => match command {
                    Some(command) => Wake::Command(command),
                    None => Wake::Orphaned,
                },
                () = sleep_until(due) => Wake::Timer,
                () = room(full) => Wake::Room,
                () = changed(self.withheld.as_mut()) => Wake::Changed,
            };
            match wake {
                Wake::Command(command) => self.obey(command),
                Wake::Told(generation, told) => self.hear(generation, told).await,
                Wake::Timer => self.tick(),
                Wake::Room => self.forward_waiting(),
                Wake::Changed => self.make_up(),
                Wake::Orphaned => self.obey(Command::Shutdown),
            }
        }
        self.inbox.close();
        while let Ok(command) = self.inbox.try_recv() {
            self.obey(command);
        }
        self.refuse_waiting(&Refusal::Shutdown);
    }

    /// When something is due: a restart, a call that waits, the end of being idle.
    fn due(&self) -> Option<Instant> {
        let restart = if self.withheld.is_some() { None } else { self.machine.deadline() };
        [restart, self.next_due, self.idle_ends()].into_iter().flatten().min()
    }

    fn idle_ends(&self) -> Option<Instant> {
        let Activation::Lazy { idle_stop: Some(idle_stop) } = self.machine.settings().activation else { return None };
        if self.machine.projection() != PluginState::Active {
            return None;
        }
        if self.shared.counters.present() > 0 {
            // Nobody says here when the last of them ends, so it is looked again.
            return Some(Instant::now() + idle_stop);
        }
        let gauge = &self.running.get(&self.machine.route()?)?.gauge;
        let since = gauge.idle_since_ms.load(Ordering::Relaxed);
        Some(self.surroundings.started + Duration::from_millis(since) + idle_stop)
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::HandOver => self.hand_over(),
            // The end has been decided, and nothing may put it off.
            Command::Call(call) if self.shared.successor.get().is_some() => self.take_call(call),
            Command::Describe(reply) if self.shared.successor.get().is_some() => self.describe(reply),
            Command::Operate(operation, reply)
                if operation.is_an_operators() && self.shared.successor.get().is_some() =>
            {
                if let Some(successor) = self.shared.successor.get() {
                    successor.take_operation(operation, reply);
                }
            }
            Command::Call(call) if self.shutting_down => call.fail(&self.stopping()),
            Command::Operate(_, reply) | Command::Reconfigure(_, reply) | Command::Hold(reply)
                if self.shutting_down =>
            {
                let _ = reply.send(Err(self.stopping()));
            }
            Command::Describe(reply) if self.shutting_down => {
                let _ = reply.send(Err(self.stopping()));
            }
            Command::Begin | Command::StayStopped if self.shutting_down => {}
            Command::Call(call) => self.take_call(call),
            Command::Operate(operation, reply) => {
                match operation {
                    Operation::Stop { why: StopWhy::Withdrawn, .. } => {
                        let is_said = self.shared.board().stopped || self.standing() == Standing::Paused;
                        self.only_withdrawn = !is_said;
                    }
                    Operation::Start | Operation::Restart | Operation::Stop { .. } => self.only_withdrawn = false,
                    Operation::Pause | Operation::Resume | Operation::Reset | Operation::Replace => {}
                }
                self.operate(operation, reply);
            }
            Command::Hold(reply) => {
                let is_stopped = self.shared.board().stopped;
                if is_stopped {
                    let message = format!("{} was stopped meanwhile", self.shared.blueprint.manifest.id);
                    let _ = reply.send(Err(ErrorBody::new(ErrorCode::Unavailable, message)));
                } else {
                    self.operate_as(Operation::Restart, StopWhy::Held, reply);
                }
            }
            Command::Reconfigure(configuration, reply) => {
                if self.machine.route().is_none() {
                    let _ = reply.send(Ok(()));
                    return;
                }
                self.given = Some(configuration);
                if self.shared.blueprint.manifest.exclusive {
                    // No two of its processes run at once.
                    self.exchanging = true;
                    self.operate(Operation::Restart, reply);
                    if matches!(self.machine.state(), State::Serving { .. }) {
                        // It was declined.
                        self.keep_configuration();
                    }
                    return;
                }
                self.operate(Operation::Replace, reply);
                self.given = None;
            }
            // Whoever asks is told by the process itself, or that it is gone.
            Command::Offer(configuration, reply) => {
                if let Some(serving) = self.machine.route() {
                    self.order(serving, Order::Configure { configuration, reply });
                }
            }
            Command::Stand(reply) => {
                let _ = reply.send(self.standing());
            }
            Command::Begin => self.step(Event::Begin),
            Command::StayStopped => {
                self.step(Event::StopAsked { why: StopWhy::Operator });
                self.machine.be_stopped();
                let mut board = self.shared.board();
                board.state = self.machine.projection();
                board.reason = self.machine.reason();
            }
            Command::Describe(reply) => self.describe(reply),
            Command::Inspect(reply) => {
                // Nobody waits for it any more, perhaps.
                let _ = reply.send(self.inspect());
            }
            Command::Shutdown => {
                self.shutting_down = true;
                self.keep_configuration();
                self.step(Event::StopAsked { why: StopWhy::Shutdown });
                self.refuse_waiting(&Refusal::Shutdown);
            }
            Command::Kill => {
                self.obey(Command::Shutdown);
                for running in self.running.values() {
                    order(running, Order::Kill);
                }
            }
        }
    }

    /// The next process is configured as the blueprint has it.
    fn keep_configuration(&mut self) {
        self.given = None;
        self.exchanging = false;
    }

    fn stopping(&self) -> ErrorBody {
        self.refused(&Refusal::Shutdown)
    }

    /// Gives all that waits to the plugin that has taken this one's place.
    fn hand_over(&mut self) {
        let Some(successor) = self.shared.successor.get() else { return };
        self.next_due = None;
        for call in self.waiting.drain() {
            successor.take_over(call);
        }
        for reply in self.describers.drain(..) {
            successor.take_question(reply);
        }
    }

    fn take_call(&mut self, call: Arc<Call>) {
        if let Some(successor) = self.shared.successor.get() {
            return successor.take_over(call);
        }
        if let Some(call) = self.forward(call) {
            self.next_due = Some(self.next_due.map_or(call.deadline(), |due| due.min(call.deadline())));
            // Ended calls leave room for those that wait.
            if self.waiting.len() > 2 * self.shared.counters.present() as usize + WAITERS_MAX {
                self.waiting.retain(|call| !call.is_done());
            }
            let limits = &self.shared.blueprint.manifest.limits;
            let most = limits.concurrency + limits.queue;
            if call.has_to_displace(most) {
                let error = overloaded(self.shared.blueprint.manifest.id.as_str(), most);
                match self.waiting.displace(call.agent(), false) {
                    Some(displaced) => displaced.fail(&error),
                    None => return call.fail(&error),
                }
            }
            self.waiting.push(call);
            self.step(Event::CallWaiting);
        }
    }

    /// Gives a call to the generation that has the route; returns it if there is none.
    fn forward(&self, call: Arc<Call>) -> Option<Arc<Call>> {
        let Some(route) = self.machine.route().and_then(|serving| self.running.get(&serving)) else {
            return Some(call);
        };
        route.inbox.call(call)
    }

    /// Gives the calls that wait to the generation that serves, as far as it has room.
    fn forward_waiting(&mut self) {
        self.next_due = None;
        for call in self.waiting.drain() {
            if !call.is_done()
                && let Some(call) = self.forward(call)
            {
                self.next_due = Some(self.next_due.map_or(call.deadline(), |due| due.min(call.deadline())));
                self.waiting.push(call);
            }
        }
    }

    fn operate(&mut self, operation: Operation, reply: oneshot::Sender<Result<(), ErrorBody>>) {
        self.operate_as(operation, StopWhy::Restart, reply);
    }

    /// The same; of a restart, what ends is told that it is for this.
    fn operate_as(&mut self, operation: Operation, restart: StopWhy, reply: oneshot::Sender<Result<(), ErrorBody>>) {
        self.waiters.retain(|waiter| !waiter.reply.is_closed());
        if self.waiters.len() >= WAITERS_MAX {
            let message = format!("{WAITERS_MAX} operations wait for {} already", self.shared.blueprint.manifest.id);
            let _ = reply.send(Err(ErrorBody::new(ErrorCode::Overloaded, message)));
            return;
        }
        let next = self.machine.next_generation();
        let from = match (operation, self.machine.generation()) {
            // A start is fulfilled by what serves or is on its way; a restart only by what comes after.
            (Operation::Start, Some(current)) => current,
            _ => next,
        };
        if matches!(operation, Operation::Stop { .. }) {
            self.keep_configuration();
        }
        self.waiters.push(Waiter { operation, from, reply });
        let event = match operation {
            Operation::Start => Event::StartAsked,
            Operation::Stop { why, .. } => Event::StopAsked { why },
            Operation::Restart => Event::RestartAsked { why: restart },
            Operation::Pause => Event::PauseAsked,
            Operation::Resume => Event::ResumeAsked,
            Operation::Reset => Event::ResetAsked,
            Operation::Replace => Event::CandidateAsked { promote: Promote::AtOnce },
        };
        if operation == Operation::Reset {
            self.shared.board().last_failure = None;
        }
        self.step(event);
        if let Operation::Stop { force: true, why } = operation {
            for running in self.running.values() {
                order(running, Order::Stop { why });
            }
        }
    }

    fn describe(&mut self, reply: oneshot::Sender<Result<SharedActions, ErrorBody>>) {
        if let Some(successor) = self.shared.successor.get() {
            return successor.take_question(reply);
        }
        self.describers.retain(|describer| !describer.is_closed());
        let known = self.shared.board().actions.clone();
        if let Some(actions) = known {
            let _ = reply.send(Ok(actions));
        } else if self.describers.len() < WAITERS_MAX {
            self.describers.push(reply);
            // The same as a call that waits: a lazy plugin starts, a stopped one says so.
            self.step(Event::CallWaiting);
        } else {
            let message = format!("{WAITERS_MAX} questions wait for {} already", self.shared.blueprint.manifest.id);
            let _ = reply.send(Err(ErrorBody::new(ErrorCode::Overloaded, message)));
        }
    }

    fn standing(&self) -> Standing {
        match self.machine.state() {
            State::Starting { .. } => Standing::Starting,
            State::Serving { mode: Mode::Pausing | Mode::Paused, .. } => Standing::Paused,
            State::Serving { generation, .. } => {
                Standing::Serving(self.running.get(generation).and_then(|running| running.gauge.configuration()))
            }
            State::Resting { .. }
            | State::Ending { .. }
            | State::Stopping { .. }
            | State::Failed { .. }
            | State::Unloaded => Standing::Absent,
        }
    }

    fn inspect(&self) -> Vec<GenerationStatus> {
        let mut statuses: Vec<_> = self
            .running
            .iter()
            .map(|(generation, running)| {
                let seen = running.gauge.seen();
                let role = if self.machine.route() == Some(*generation) {
                    Role::Serving
                } else if self.machine.candidate().is_some_and(|candidate| candidate.generation == *generation) {
                    Role::Candidate
                } else {
                    Role::Retired
                };
                let load = Ordering::Relaxed;
                let in_flight = running.gauge.in_flight.load(load);
                GenerationStatus {
                    generation: *generation,
                    role,
                    phase: seen.phase.to_string(),
                    since_unix_ms: unix_ms(seen.since),
                    process_id: seen.processes.map(|(plugin, _)| plugin),
                    hello_after_us: seen.hello_after.map(|after| u64::try_from(after.as_micros()).unwrap_or(u64::MAX)),
                    prepared: seen.prepared,
                    calls_in_flight: in_flight,
                    oldest_call_ms: (in_flight > 0).then(|| running.gauge.oldest_call_ms.load(load)),
                }
            })
            .collect();
        statuses.sort_by_key(|status| status.generation);
        statuses
    }

    async fn hear(&mut self, generation: Generation, told: Told) {
        match told {
            Told::Loaded => self.step(Event::GenerationLoaded(generation)),
            Told::Initialized => self.step(Event::GenerationInitialized(generation)),
            Told::Active(actions) => {
                self.shared.board().actions = Some(actions.clone());
                for reply in self.describers.drain(..) {
                    let _ = reply.send(Ok(actions.clone()));
                }
                self.shared.has_served.store(true, Ordering::Relaxed);
                self.surroundings.stirred.notify_one();
                self.step(Event::GenerationActive(generation));
            }
            Told::Paused => self.step(Event::GenerationPaused(generation)),
            Told::PauseFailed => {
                self.step(Event::GenerationPauseFailed(generation));
                let id = &self.shared.blueprint.manifest.id;
                let error = ErrorBody::new(ErrorCode::Internal, format!("{id} could not be frozen and runs on"));
                let (pauses, others) = self.waiters.drain(..).partition(|waiter| waiter.operation == Operation::Pause);
                self.waiters = others;
                let pauses: Vec<Waiter> = pauses;
                for waiter in pauses {
                    let _ = waiter.reply.send(Err(error.clone()));
                }
            }
            Told::Resumed => self.step(Event::GenerationResumed(generation)),
            Told::Stopping => self.step(Event::GenerationStopping(generation)),
            Told::AskReplacement { missed } => self.step(Event::ReplaceAsked { generation, missed }),
            Told::Met(met) => {
                let kind = if met.limit == Kind::Cpu { EventKind::CpuSaturated } else { EventKind::LimitReached };
                let mut event = self.event(kind);
                event.generation = Some(generation);
                event.reason = Some(met.sentence);
                self.surroundings.bus.publish(event);
            }
            Told::Returned(calls) => {
                for call in calls {
                    self.take_call(call);
                }
            }
            Told::Ended(ended) => {
                if let Some(running) = self.running.remove(&generation) {
                    // It has told its last, so this is immediate.
                    if let Err(error) = running.task.await {
                        tracing::error!(%generation, %error, "the task of a generation panicked");
                    }
                }
                if let Some(dossier) = ended.dossier {
                    let id = &self.shared.blueprint.manifest.id;
                    if self.is_on_trial() {
                        // Whoever tries it says what came of it.
                        tracing::warn!(plugin = %id, %generation, trial = true, reason = %dossier.reason, "a generation failed");
                    } else {
                        let mut event = self.event(EventKind::GenerationFailed);
                        event.generation = Some(generation);
                        event.reason = Some(dossier.reason.clone());
                        self.surroundings.bus.publish(event);
                        tracing::warn!(plugin = %id, %generation, reason = %dossier.reason, calls = dossier.calls_in_flight, "a generation failed");
                    }
                    self.shared.board().last_failure = Some(dossier);
                    if !ended.of_a_proposal {
                        self.shared.failures.fetch_add(1, Ordering::Relaxed);
                    }
                    self.surroundings.stirred.notify_one();
                }
                if let Reason::InitializationFailed { why: InitFailure::Unagreed { error } } = &ended.reason {
                    let mut event = self.event(EventKind::ConsentRequired);
                    event.generation = Some(generation);
                    event.reason = Some(error.clone());
                    self.surroundings.bus.publish(event);
                }
                let jitter = fastrand::f64();
                let (reason, stable_for) = (ended.reason, ended.stable_for);
                self.step(Event::GenerationGone { generation, reason, stable_for, jitter });
                // Those that came first go first.
                let later = self.waiting.drain();
                for call in ended.returned.into_iter().chain(later) {
                    self.take_call(call);
                }
            }
        }
    }

    fn tick(&mut self) {
        let now = Instant::now();
        if self.next_due.is_some_and(|due| due <= now) {
            let mut next: Option<Instant> = None;
            let id = &self.shared.blueprint.manifest.id;
            let what = match self.machine.state() {
                State::Failed { reason, .. } => {
                    format!("{id} took no calls ({})", with_last_words(&self.shared, reason, reason.to_string()))
                }
                _ => format!("{id} took no calls"),
            };
            self.waiting.retain(|call| {
                if call.is_done() {
                    return false;
                }
                let deadline = call.deadline();
                if deadline <= now {
                    call.fail(&call.timeout_error(&what));
                    return false;
                }
                next = Some(next.map_or(deadline, |next| next.min(deadline)));
                true
            });
            self.next_due = next;
        }
        if self.idle_ends().is_some_and(|ends| ends <= now) {
            self.step(Event::Idle);
        }
        if self.machine.deadline().is_some_and(|deadline| deadline <= now) {
            self.step(Event::Tick);
        }
    }

    /// Tells the machine what happened, and does what it asks for.
    fn step(&mut self, event: Event) {
        let mut events = VecDeque::from([event]);
        while let Some(event) = events.pop_front() {
            if self.would_start(&event) && self.withhold(&event) {
                continue;
            }
            let actions = {
                let mut next = self.numbers.next();
                self.machine.not_before(*next);
                let actions = self.machine.step(event, Instant::now());
                if *next != self.machine.next_generation() {
                    *next = self.machine.next_generation();
                    self.numbers.keep(*next);
                }
                actions
            };
            for action in actions {
                let unrouted = action == Action::SetRoute(None);
                self.perform(action);
                if unrouted && !self.waiting.is_empty() {
                    events.push_back(Event::CallWaiting);
                }
            }
        }
        let mut board = self.shared.board();
        board.generation = self.machine.generation();
        board.restarts = self.machine.restarts();
        board.restart_at = self.machine.deadline();
        board.stopped = matches!(self.machine.desired(), Desired::Stopped | Desired::Unloaded) && !self.only_withdrawn;
        board.quarantined = self.machine.is_quarantined();
        board.reason = self.machine.reason();
        drop(board);
        self.answer_waiters();
    }

    /// Whether a process would be started because of it.
    fn would_start(&self, event: &Event) -> bool {
        let state = self.machine.state();
        let is_wanted = matches!(self.machine.desired(), Desired::OnDemand | Desired::Running);
        match event {
            Event::Begin => self.machine.desired() == Desired::Running && matches!(state, State::Resting { .. }),
            Event::Tick => matches!(state, State::Failed { next: Next::RestartAt(_), .. }),
            Event::StartAsked => self.machine.generation().is_none(),
            Event::RestartAsked { .. } => true,
            Event::CallWaiting => {
                let may_start = match state {
                    State::Resting { .. } | State::Stopping { .. } => true,
                    State::Failed { next, .. } => matches!(next, Next::RestartAt(_)),
                    State::Starting { .. } | State::Serving { .. } | State::Ending { .. } | State::Unloaded => false,
                };
                may_start && is_wanted
            }
            _ => false,
        }
    }

    /// Does not let it happen, if the plugin lacks what it depends on: who waits is told so, and what is to happen by itself is made up for.
    fn withhold(&mut self, event: &Event) -> bool {
        let blueprint = self.shared.blueprint.clone();
        // Before it is asked, so that no change is missed.
        let changes = blueprint.needs.changes();
        let Some(lacking) = blueprint.lacking() else { return false };
        match event {
            Event::Begin | Event::Tick => {
                tracing::warn!(plugin = %blueprint.manifest.id, %lacking, "it is not started without what it depends on");
                let begin = *event == Event::Begin || self.withheld.as_ref().is_some_and(|withheld| withheld.begin);
                self.withheld = changes.map(|changes| Withheld { begin, changes });
            }
            Event::StartAsked | Event::RestartAsked { .. } => {
                if let Some(waiter) = self.waiters.pop() {
                    let _ = waiter.reply.send(Err(needs::refusal(&blueprint.manifest, &lacking)));
                }
            }
            _ => self.end_waiting(&needs::refusal(&blueprint.manifest, &lacking)),
        }
        true
    }

    /// Does what was withheld, if nothing is lacking any more.
    fn make_up(&mut self) {
        if self.shared.blueprint.lacking().is_some() {
            return;
        }
        // A restart that was due is due now.
        if let Some(Withheld { begin: true, .. }) = self.withheld.take() {
            self.step(Event::Begin);
        }
    }

    fn perform(&mut self, action: Action) {
        let id = self.shared.blueprint.manifest.id.clone();
        match action {
            Action::StartGeneration(generation) => {
                let voice = Voice { hub: self.surroundings.hub.clone(), plugin: id, generation };
                let blueprint = self.shared.blueprint.clone();
                let told = self.told_sender.clone();
                let given = self.given.take();
                self.exchanging &= given.is_some();
                let running = generation::start(blueprint, generation, given, voice, told, self.surroundings.started);
                self.running.insert(generation, running);
            }
            Action::PauseGeneration(generation) => self.order(generation, Order::Pause),
            Action::ResumeGeneration(generation) => self.order(generation, Order::Resume),
            Action::StopGeneration { generation, why } => {
                let within = self.shared.blueprint.manifest.limits.drain_timeout;
                self.order(generation, Order::Drain { within, why });
            }
            Action::SetRoute(route) => {
                let inbox =
                    route.and_then(|generation| self.running.get(&generation)).map(|running| running.inbox.clone());
                self.shared.board().route = inbox;
                if route.is_some() {
                    self.exchanging = false;
                    self.forward_waiting();
                }
            }
            Action::RefuseWaiting(Refusal::Failed { .. } | Refusal::Quarantined { .. }) if self.exchanging => {}
            Action::RefuseWaiting(refusal) => self.refuse_waiting(&refusal),
            // Nobody asks for one that waits to be asked.
            Action::CandidateReady(generation) => tracing::debug!(plugin = %id, %generation, "a candidate is ready"),
            Action::CandidateFailed { generation, reason } => {
                tracing::warn!(plugin = %id, %generation, %reason, "a candidate failed; what serves goes on serving");
                let why = with_last_words(&self.shared, &reason, format!("{id}: {reason}"));
                let is_of_it = |waiter: &Waiter| waiter.operation == Operation::Replace && waiter.from <= generation;
                let (replaced, others) = self.waiters.drain(..).partition::<Vec<_>, _>(is_of_it);
                self.waiters = others;
                for waiter in replaced {
                    let _ = waiter.reply.send(Err(failure(&reason, why.clone())));
                }
            }
            Action::Decline(decline) => {
                if let Some(waiter) = self.waiters.pop() {
                    let _ = waiter.reply.send(Err(declined(&id, &decline)));
                }
            }
            Action::Publish { from, to, generation, reason } => {
                let mut board = self.shared.board();
                board.state = to;
                board.since = SystemTime::now();
                drop(board);
                let reason = reason.as_deref();
                let version = &self.shared.blueprint.manifest.version;
                if self.is_on_trial() {
                    return tracing::debug!(plugin = %id, %version, trial = true, %from, %to, reason, "state");
                }
                if self.shared.successor.get().is_some() {
                    return tracing::debug!(plugin = %id, %version, leaving = true, %from, %to, reason, "state");
                }
                tracing::info!(plugin = %id, %from, %to, reason, "state");
                let mut event = self.event(EventKind::StateChanged);
                event.generation = generation;
                event.from = Some(from);
                event.to = Some(to);
                event.reason = reason.map(str::to_owned);
                self.surroundings.bus.publish(event);
                if to == PluginState::Failed && self.machine.is_quarantined() {
                    self.surroundings.bus.publish(self.event(EventKind::Quarantined));
                }
            }
        }
    }

    /// Whether another one has the calls: what becomes of this one is not told as if it were the plugin.
    fn is_on_trial(&self) -> bool {
        self.shared.blueprint.on_trial.load(Ordering::Relaxed)
    }

    fn order(&self, generation: Generation, given: Order) {
        if let Some(running) = self.running.get(&generation) {
            order(running, given);
        }
    }

    fn event(&self, kind: EventKind) -> BusEvent {
        let manifest = &self.shared.blueprint.manifest;
        let mut event = BusEvent::new(kind);
        event.plugin = Some(manifest.id.clone());
        event.version = Some(manifest.version.to_string());
        event
    }

    fn refuse_waiting(&mut self, refusal: &Refusal) {
        self.end_waiting(&self.refused(refusal));
    }

    /// Ends all calls that wait, and tells those who ask for its actions.
    fn end_waiting(&mut self, error: &ErrorBody) {
        for call in self.waiting.drain() {
            call.fail(error);
        }
        self.next_due = None;
        for reply in self.describers.drain(..) {
            let _ = reply.send(Err(error.clone()));
        }
    }

    fn refused(&self, refusal: &Refusal) -> ErrorBody {
        let id = &self.shared.blueprint.manifest.id;
        let message = refusal.message(id);
        let error = match refusal {
            Refusal::Stopped | Refusal::Shutdown | Refusal::Unloaded | Refusal::Paused => {
                ErrorBody::new(ErrorCode::Unavailable, message)
            }
            Refusal::Failed { reason } | Refusal::Quarantined { reason } => {
                let error = failure_of(&self.shared, reason, message);
                // Where no restart is due, waiting does not help; somebody has to start it.
                ErrorBody { retryable: error.retryable && self.machine.deadline().is_some(), ..error }
            }
        };
        error.with_hint(refusal.hint(id))
    }

    /// Answers those operators whose wish has been fulfilled, or cannot be.
    fn answer_waiters(&mut self) {
        let id = &self.shared.blueprint.manifest.id;
        let now_it_is = self.machine.projection();
        let meanwhile =
            |what: &str| Some(Err(ErrorBody::new(ErrorCode::Unavailable, format!("{id} was {what} meanwhile"))));
        let mut kept = Vec::new();
        for waiter in self.waiters.drain(..) {
            // By the machine's own states: while a generation is on its way, what users see is still how the last one ended.
            let verdict = match (waiter.operation, self.machine.state()) {
                (Operation::Start | Operation::Restart, state) => match state {
                    State::Serving { generation, .. } if waiter.from <= *generation => Some(Ok(())),
                    State::Failed { reason, .. } => {
                        let why = self.machine.reason().unwrap_or_else(|| reason.to_string());
                        let error = failure_of(&self.shared, reason, format!("{id}: {why}"));
                        Some(Err(error.with_hint(format!("`palisade logs {id}` and `palisade status {id}` say more"))))
                    }
                    State::Unloaded => Some(Err(declined(id, &Decline::Unloaded))),
                    State::Resting { .. } => meanwhile("stopped"),
                    _ if self.machine.desired() == Desired::Stopped => meanwhile("stopped"),
                    State::Starting { .. } | State::Serving { .. } | State::Ending { .. } | State::Stopping { .. } => {
                        None
                    }
                },
                (Operation::Replace, state) => match state {
                    State::Serving { generation, .. } if waiter.from <= *generation => Some(Ok(())),
                    State::Failed { reason, .. } => Some(Err(failure(reason, format!("{id}: {reason}")))),
                    State::Resting { .. } | State::Stopping { .. } | State::Unloaded => meanwhile("stopped"),
                    State::Starting { .. } | State::Serving { .. } | State::Ending { .. } => None,
                },
                (Operation::Stop { .. }, State::Resting { .. } | State::Unloaded) => Some(Ok(())),
                (Operation::Stop { .. }, State::Failed { .. }) if self.running.is_empty() => Some(Ok(())),
                (Operation::Stop { .. }, _)
                    if matches!(self.machine.desired(), Desired::OnDemand | Desired::Running) =>
                {
                    meanwhile("started again")
                }
                (Operation::Stop { .. }, _) => None,
                (Operation::Pause, State::Serving { mode: Mode::Paused, .. }) => Some(Ok(())),
                (Operation::Pause, State::Serving { mode: Mode::Pausing, .. }) => None,
                (Operation::Pause, State::Serving { mode: Mode::Active, .. }) => meanwhile("resumed"),
                (Operation::Resume, State::Serving { mode: Mode::Active, .. }) => Some(Ok(())),
                (Operation::Resume, State::Serving { .. }) => None,
                (Operation::Pause | Operation::Resume, _) => Some(Err(declined(id, &Decline::NotActive(now_it_is)))),
                (Operation::Reset, _) => Some(Ok(())),
            };
            match verdict {
                Some(verdict) => {
                    let _ = waiter.reply.send(verdict);
                }
                None => kept.push(waiter),
            }
        }
        self.waiters = kept;
    }
}

/// A failure, and the last that the process had to say about it, as that mostly is the reason.
fn with_last_words(shared: &Shared, reason: &Reason, message: String) -> String {
    if let Reason::InitializationFailed {
        why: InitFailure::Refused { .. } | InitFailure::Unhealthy { .. } | InitFailure::Unagreed { .. },
    } = reason
    {
        // That it said itself, or it had no part in it.
        return message;
    }
    let board = shared.board();
    let failure = board.last_failure.as_ref().filter(|failure| failure.reason == reason.to_string());
    match failure.and_then(|failure| failure.last_stderr.last()) {
        Some(line) if LAST_WORDS_CHARACTERS_MAX < line.chars().count() => {
            let line: String = line.chars().take(LAST_WORDS_CHARACTERS_MAX).collect();
            format!("{message}; its last line on stderr: {line}…")
        }
        Some(line) => format!("{message}; its last line on stderr: {line}"),
        None => message,
    }
}

fn order(running: &Running, order: Order) {
    if running.orders.try_send(order).is_err() {
        // There is room for every order that it can be given; closed means that it has ended already.
        tracing::debug!("an order came too late");
    }
}

fn declined(id: &PluginId, decline: &Decline) -> ErrorBody {
    let error = ErrorBody::new(ErrorCode::Unavailable, format!("{id}: {decline}"));
    match decline {
        Decline::NotActive(_) => error.with_hint(format!("`palisade start {id}` starts it")),
        Decline::Paused => error.with_hint(format!("`palisade resume {id}` does")),
        Decline::CandidateExists | Decline::NoSuchCandidate | Decline::TooManyRetired | Decline::Unloaded => error,
    }
}

/// How a failure of a plugin is told to somebody whose call it never had.
fn failure(reason: &Reason, message: String) -> ErrorBody {
    let code = match reason {
        Reason::LaunchFailed { failure: LaunchFailure { code: Some(code), .. } } => *code,
        Reason::LaunchFailed { .. } if reason.is_shortage() => {
            let error = ErrorBody::new(ErrorCode::ResourceExhausted, message);
            // It is not the plugin's limit that was reached, and the next attempt may well succeed.
            return ErrorBody { fault: Fault::Host, retryable: true, ..error };
        }
        _ if reason.awaits_consent() => ErrorCode::ConsentRequired,
        Reason::LaunchFailed { .. } | Reason::InitializationFailed { .. } => ErrorCode::InitializationFailed,
        Reason::ProtocolViolation { .. } => ErrorCode::ProtocolViolation,
        Reason::Exhausted { limit, .. } => {
            let details = serde_json::json!({ "limit": limit });
            let error = ErrorBody::new(ErrorCode::ResourceExhausted, message).with_details(details);
            return ErrorBody { retryable: error.retryable && !reason.is_lasting(), ..error };
        }
        Reason::Stopped { .. }
        | Reason::Overdue { .. }
        | Reason::Crashed { .. }
        | Reason::Hung { .. }
        | Reason::Killed
        | Reason::Unconfirmed => ErrorCode::Unavailable,
    };
    let error = ErrorBody::new(code, message);
    // Only another package, or another host, makes a difference.
    ErrorBody { retryable: error.retryable && !reason.is_lasting(), ..error }
}

/// The same, with all that is known of it.
fn failure_of(shared: &Shared, reason: &Reason, message: String) -> ErrorBody {
    let error = failure(reason, with_last_words(shared, reason, message));
    if reason.awaits_consent() { error.with_details(shared.blueprint.asked()) } else { error }
}

/// Waits until there is room in the inbox of the generation that serves, where calls wait for that.
async fn room(inbox: Option<Inbox>) {
    match inbox {
        Some(inbox) => inbox.room().await,
        None => std::future::pending().await,
    }
}

/// Waits for a change of what can be depended on, where anything waits for one.
async fn changed(withheld: Option<&mut Withheld>) {
    let changed = match withheld {
        Some(withheld) => withheld.changes.changed().await.is_ok(),
        None => false,
    };
    // Without a sender the daemon ends, and nothing changes any more.
    if !changed {
        std::future::pending::<()>().await;
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}
