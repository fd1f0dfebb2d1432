//! One process of a plugin: the task that owns the child, from its launch to its proven end.
//!
//! It polls everything that can bring news of the child, turns each into an event of `model::generation`, and performs what the
//! machine asks for. Whatever happens, the task ends with one `Ended`, which carries back the calls that another generation may have.
//!
//! Invariants: the child lives no longer than the task; a frame is looked at in the same poll in which it was read; a plugin
//! that does not read is not written to without bound, because calls are admitted and data needs credit.

mod end;
mod incoming;
mod perform;
mod poll;

use std::pin::Pin;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use palisade_protocol::{ErrorBody, ErrorCode, Level};
use serde_json::Value;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Sleep;

use self::poll::{Quiet, Wake};
use super::actions::SharedActions;
use super::blueprint::Blueprint;
use super::call::Call;
use super::host_calls::Answer;
use super::inbox::{Inbox, Message, Outlet, inbox};
use super::link::{Link, LinkSettings};
use super::logs::{self, Source, Voice};
use super::network;
use super::pressure::{Met, Watch};
use super::sampler::{Subject, Watched};
use crate::model::generation::{Event, LaunchFailure, Machine, Outlook, Phase, Reason, StopWhy};
use crate::model::ids::Generation;
use crate::model::limits::Kind;
use crate::model::manifest::{Manifest, OnPause};
use crate::model::plugin::Refusal;
use crate::model::sampled;
use crate::model::saturation::{History, Throttled};
use crate::model::status::{Dossier, StderrTail};
use crate::process::look::Whereabouts;
use crate::process::{Child, Control, Failure, Report, Step};
use crate::sandbox::cgroup::Leaf;
use crate::store::Snapshot;
use crate::wire::Reader;

/// Most messages taken from the inbox at once.
const BATCH: usize = 256;

/// So many orders may wait: more than an actor can give in one turn of its task. They have a way of their own, since they have to
/// reach a generation that takes no calls in.
const ORDERS_MAX: usize = 512;

/// So long a process may take to say whether it goes on with another configuration.
pub const CONFIGURE_WITHIN: Duration = Duration::from_secs(10);

/// What a process says of a configuration that it is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offered {
    /// It has it now.
    Accepted,
    /// It cannot change it; another process may have it.
    Declined(Option<String>),
    /// No process of it would work with it.
    Refused(Option<String>),
    /// It knows no such question.
    Unsupported,
    /// It did not say in time.
    Late,
    /// It has ended.
    Gone,
}

/// An offer that is not answered.
#[derive(Debug)]
struct Offer {
    id: u64,
    until: Instant,
    configuration: Arc<Value>,
    reply: oneshot::Sender<Offered>,
}

/// What the actor can want of a generation.
#[derive(Debug)]
pub enum Order {
    /// Stand still.
    Pause,
    /// Go on.
    Resume,
    /// Finish the calls within that time, then stop.
    Drain {
        /// How long it has.
        within: Duration,
        /// Why.
        why: StopWhy,
    },
    /// Stop now; calls end.
    Stop {
        /// Why.
        why: StopWhy,
    },
    /// Say whether it can go on with this configuration.
    Configure {
        /// The whole of it.
        configuration: Arc<Value>,
        /// Who wants to know.
        reply: oneshot::Sender<Offered>,
    },
    /// Die.
    Kill,
    /// Die, because of what it has.
    Exhaust {
        /// More than it may have of this.
        limit: Kind,
        /// A sentence.
        detail: String,
    },
}

/// What a generation tells the actor.
#[derive(Debug)]
pub enum Told {
    /// It said hello.
    Loaded,
    /// It is ready.
    Initialized,
    /// It takes calls, and these are its actions.
    Active(SharedActions),
    /// It stands still.
    Paused,
    /// It could not be frozen.
    PauseFailed,
    /// It goes on.
    Resumed,
    /// It takes no calls any more.
    Stopping,
    /// It does not end cancelled calls.
    AskReplacement {
        /// How many.
        missed: u32,
    },
    /// It has met one of its limits.
    Met(Met),
    /// Calls it did not begin and will not.
    Returned(Vec<Arc<Call>>),
    /// It is gone. The last thing it says.
    Ended(Box<Ended>),
}

/// The end of a generation.
#[derive(Debug)]
pub struct Ended {
    /// Why.
    pub reason: Reason,
    /// For how long it had been active.
    pub stable_for: Duration,
    /// What is known about the end, if nobody asked for it.
    pub dossier: Option<Dossier>,
    /// Calls that another generation may have.
    pub returned: Vec<Arc<Call>>,
    /// It was being asked about a configuration that does not hold yet, or was started with one and did not become active: what it failed
    /// of says nothing of its package.
    pub of_a_proposal: bool,
}

/// What others may read of a running generation at any time.
#[derive(Debug)]
pub struct Gauge {
    /// How many calls the plugin has.
    pub in_flight: AtomicU32,
    /// When the last call ended, in milliseconds since the daemon's start; for the idle clock.
    pub idle_since_ms: AtomicU64,
    /// The age of the oldest call, as its last pong said.
    pub oldest_call_ms: AtomicU64,
    /// Phase and processes.
    pub seen: Mutex<Seen>,
    /// What it was configured with, once it has been.
    pub configuration: Mutex<Option<Arc<Value>>>,
}

/// What changes seldom.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The state of its machine.
    pub phase: Phase,
    /// Since when.
    pub since: SystemTime,
    /// The main process, and pid 1 of its tree, as the host counts.
    pub processes: Option<(u32, u32)>,
    /// What it was built with, as its Hello said.
    pub software: Option<String>,
    /// How long it took from the beginning of its launch to its Hello.
    pub hello_after: Option<Duration>,
    /// Whether its launcher was made before it was needed.
    pub prepared: bool,
}

impl Gauge {
    fn new() -> Self {
        let seen = Seen {
            phase: Phase::Starting,
            since: SystemTime::now(),
            processes: None,
            software: None,
            hello_after: None,
            prepared: false,
        };
        Self {
            in_flight: AtomicU32::new(0),
            idle_since_ms: AtomicU64::new(0),
            oldest_call_ms: AtomicU64::new(0),
            seen: Mutex::new(seen),
            configuration: Mutex::default(),
        }
    }

    /// What it was configured with, once it has been.
    #[must_use]
    pub fn configuration(&self) -> Option<Arc<Value>> {
        self.configuration.lock().expect("nothing panics while it holds a gauge").clone()
    }

    fn configure(&self, configuration: Arc<Value>) {
        *self.configuration.lock().expect("nothing panics while it holds a gauge") = Some(configuration);
    }

    fn change(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.seen.lock().expect("nothing panics while it holds a gauge"));
    }

    /// Phase and processes.
    #[must_use]
    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("nothing panics while it holds a gauge").clone()
    }
}

/// A generation that runs.
#[derive(Debug)]
pub struct Running {
    /// Where calls go.
    pub inbox: Inbox,
    /// Where orders go.
    pub orders: mpsc::Sender<Order>,
    /// What it does at the moment.
    pub gauge: Arc<Gauge>,
    /// The task.
    pub task: JoinHandle<()>,
}

/// Starts a generation. Everything it has to tell goes to `told`, the last of it being `Told::Ended`. It is configured as is `given`, or else as
/// the blueprint has it then.
pub fn start(
    blueprint: Arc<Blueprint>,
    number: Generation,
    given: Option<Arc<Value>>,
    voice: Voice,
    told: mpsc::Sender<(Generation, Told)>,
    started: Instant,
) -> Running {
    let limits = &blueprint.manifest.limits;
    // Room for each admitted call and a poke for each; calls that have ended may take it from others for a moment.
    let room = 2 * (limits.concurrency + limits.queue) as usize + 64;
    let (sender, outlet) = inbox(room);
    let (orders_sender, orders) = mpsc::channel(ORDERS_MAX);
    let gauge = Arc::new(Gauge::new());
    let link = Link::new(
        sender.clone(),
        LinkSettings {
            plugin: blueprint.manifest.id.as_str().into(),
            call_limit: limits.call_timeout,
            calls_max: limits.concurrency + limits.queue,
            cancel_grace: blueprint.manifest.cancel_grace,
        },
    );
    let machine = Machine::new(blueprint.manifest.timing(), Instant::now());
    let task = Task {
        blueprint,
        number,
        is_given: given.is_some(),
        given,
        offer: None,
        voice,
        told,
        started,
        launched: Instant::now(),
        gauge: gauge.clone(),
        machine,
        link,
        inbox: outlet,
        orders,
        own_orders: orders_sender.downgrade(),
        batch: Vec::new(),
        reader: Reader::default(),
        working: JoinSet::new(),
        child: None,
        logs: None,
        pressure: None,
        served: None,
        watched: None,
        history: Arc::default(),
        timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
        armed: None,
        quiet: Quiet::default(),
        heard: None,
        bulk: false,
        paused_at: None,
        actions: None,
        state_schema: None,
        lost: None,
    };
    Running { inbox: sender, orders: orders_sender, gauge, task: tokio::spawn(Box::new(task).run_polled()) }
}

/// The ends of the child that this task holds; each is dropped when it is closed.
struct Held {
    input: Option<pipe::Sender>,
    output: Option<pipe::Receiver>,
    control: Control,
    /// What it runs from, which is not taken out of the store meanwhile.
    _snapshot: Snapshot,
}

/// The task that reads what the process prints.
struct Listening {
    task: JoinHandle<StderrTail>,
    /// Dropped when the process is gone: what is left is read, and the task ends.
    gone: oneshot::Sender<()>,
}

struct Task {
    blueprint: Arc<Blueprint>,
    number: Generation,
    /// What it is to be configured with, if not as its blueprint has it.
    given: Option<Arc<Value>>,
    /// Whether it was configured as somebody has proposed.
    is_given: bool,
    /// The offer that is not answered.
    offer: Option<Offer>,
    voice: Voice,
    told: mpsc::Sender<(Generation, Told)>,
    started: Instant,
    /// When its launch began.
    launched: Instant,
    gauge: Arc<Gauge>,
    machine: Machine,
    link: Link,
    inbox: Outlet,
    orders: mpsc::Receiver<Order>,
    /// For those who find that it has to end.
    own_orders: mpsc::WeakSender<Order>,
    batch: Vec<Message>,
    reader: Reader,
    /// Its host calls that are not answered at once, with their ids; so many as the link lets through.
    working: JoinSet<(u64, Answer)>,
    child: Option<Held>,
    logs: Option<Listening>,
    /// Watches how it meets its limits, where there are any.
    pressure: Option<JoinHandle<()>>,
    /// Serves its way out, where it has one.
    served: Option<network::Serving>,
    /// Looks at what it has, while it runs.
    watched: Option<Watched>,
    /// How often it was throttled, where it can be.
    history: Arc<Mutex<History>>,
    timer: Pin<Box<Sleep>>,
    /// When the timer fires.
    armed: Option<Instant>,
    /// What need not be looked at again in this poll of the task.
    quiet: Quiet,
    /// When the last frame was read, if the machine was not told of it yet.
    heard: Option<Instant>,
    /// Whether the pipes are enlarged.
    bulk: bool,
    paused_at: Option<Instant>,
    actions: Option<SharedActions>,
    /// The form of what it keeps when it was started, if there is anything.
    state_schema: Option<u32>,
    /// Why it lost its calls, once it has.
    lost: Option<Reason>,
}

impl Task {
    // In a box, for a future has room for its arguments twice; and what is awaited once, at the beginning, leaves with its own.
    async fn run(mut self: Box<Self>) {
        let launched = match self.blueprint.gate.is_closed() && !self.wait_at_the_gate().await {
            true => {
                let message = "it was stopped before it was started".to_owned();
                Err(LaunchFailure { message, outlook: Outlook::Passing, code: None })
            }
            false => self.launch().await,
        };
        match launched {
            Ok((Child { input, output, stdout, stderr, control }, snapshot)) => {
                self.logs = Some(self.listen(stdout, stderr));
                self.pressure = self.watch_pressure(&control);
                self.gauge.change(|seen| seen.prepared = control.was_prepared());
                self.child = Some(Held { input: Some(input), output: Some(output), control, _snapshot: snapshot });
            }
            Err(failure) => self.apply(Event::LaunchFailed(failure)).await,
        }
        while self.machine.phase() != Phase::Gone {
            self.arm();
            let wake = self.wait().await;
            self.act_on(wake).await;
        }
        self.end().await;
    }

    /// Waits until starts are let through; says whether they are, or it is to end before.
    async fn wait_at_the_gate(&mut self) -> bool {
        loop {
            let order = tokio::select! {
                () = self.blueprint.gate.passed() => {
                    // What it may take counts from here on.
                    self.machine = Machine::new(self.blueprint.manifest.timing(), Instant::now());
                    return true;
                }
                order = self.orders.recv() => order,
            };
            if let Some(Order::Configure { reply, .. }) = order {
                drop(reply.send(Offered::Unsupported));
                continue;
            }
            let why = match order {
                Some(Order::Drain { why, .. } | Order::Stop { why }) => why,
                Some(Order::Pause | Order::Resume) => continue,
                _ => StopWhy::Shutdown,
            };
            self.apply(Event::StopAsked { why }).await;
            return false;
        }
    }

    /// Starts the process, once nothing speaks against it.
    async fn launch(&mut self) -> Result<(Child, Snapshot), LaunchFailure> {
        self.launched = Instant::now();
        let configured = match self.given.take() {
            Some(given) => Ok(given),
            None => self.blueprint.configured(),
        };
        let ready = match configured {
            Ok(configuration) => {
                self.gauge.configure(configuration);
                self.hold_to_disk().await
            }
            Err(failure) => Err(failure),
        };
        let held = match ready {
            Ok(()) => self.look_at_state().await,
            Err(failure) => Err(failure),
        };
        held?;
        Box::pin(self.blueprint.launch(self.number)).await
    }

    fn who(&self) -> network::Who {
        let manifest = &self.blueprint.manifest;
        network::Who { plugin: manifest.id.clone(), version: manifest.version.to_string(), generation: self.number }
    }

    /// Reads what it prints.
    fn listen(&self, stdout: pipe::Receiver, stderr: pipe::Receiver) -> Listening {
        let (gone, when_gone) = oneshot::channel();
        let blueprint = self.blueprint.clone();
        let bytes_per_second = move || blueprint.limits().log_kib_per_second.value.saturating_mul(1 << 10);
        let (told, number) = (self.told.clone(), self.number);
        // Who does not listen at the moment has it in the log.
        let met = move |met| drop(told.try_send((number, Told::Met(met))));
        let capture = logs::capture(self.voice.clone(), stdout, stderr, bytes_per_second, met, when_gone);
        Listening { task: tokio::spawn(capture), gone }
    }

    fn watch_pressure(&self, control: &Control) -> Option<JoinHandle<()>> {
        let pressure = control.leaf()?.pressure().transpose()?;
        let mut watch = pressure
            .and_then(|pressure| Watch::new(pressure, self.blueprint.clone()))
            .inspect_err(|error| {
                tracing::warn!(plugin = %self.voice.plugin, generation = %self.number, %error, "its limits are not watched");
            })
            .ok()?;
        let (told, number, voice) = (self.told.clone(), self.number, self.voice.clone());
        Some(tokio::spawn(async move {
            // An error says that the cgroup is gone, and the process with it.
            while let Ok(met) = watch.next().await {
                voice.say(Source::Supervisor, Level::Warn, &met.sentence, None, None);
                let _ = told.send((number, Told::Met(met))).await;
            }
        }))
    }

    /// Has it looked at from now on.
    fn sample(&self, init_pid: u32) -> Option<Watched> {
        let host = &self.blueprint.host;
        let leaf = self.child.as_ref()?.control.leaf();
        let controlled = leaf.is_some() && host.facts.offer.controllers;
        Some(host.sampler.watch(Subject {
            blueprint: self.blueprint.clone(),
            number: self.number,
            voice: self.voice.clone(),
            told: self.told.clone(),
            orders: self.own_orders.clone(),
            tree: Whereabouts { init_pid, leaf: leaf.map(Leaf::path), private_root: host.facts.offer.private_root },
            accounts: leaf.and_then(|leaf| leaf.accounts().ok()),
            held: sampled::Held { memory: controlled, pids: controlled, cpu: controlled },
            history: self.history.clone(),
            state: Mutex::default(),
        }))
    }

    async fn act_on(&mut self, wake: Wake) {
        let now = Instant::now();
        if let Some(filled) = wake.filled {
            self.take_filled(filled, now).await;
        }
        if wake.messages {
            let mut batch = std::mem::take(&mut self.batch);
            for message in batch.drain(..) {
                match message {
                    Message::Call(call) => self.take_call(call, now).await,
                    Message::Poke(id) => self.link.poke(id, now),
                }
            }
            if batch.capacity() <= BATCH {
                self.batch = batch;
            }
            if self.inbox.has_missed() {
                self.link.poke_all(now);
            }
            if self.link.outbox.has_bulk() {
                self.widen();
            }
        }
        for (id, answer) in wake.answers {
            self.link.answer(id, answer);
        }
        self.link.catch_up(now);
        // After the calls that came before it.
        if let Some(order) = wake.order {
            self.obey(order, now).await;
        }
        if wake.flush_failed {
            if let Some(child) = &mut self.child {
                child.input = None;
            }
            self.apply(Event::InputClosed).await;
        }
        if let Some(report) = wake.report {
            if matches!(*report, Report::Exited(_)) {
                self.take_last_words(now).await;
            }
            self.take_report(*report).await;
        }
        if wake.timer {
            self.armed = None;
            let paused = self.paused_at.is_some();
            let lapsed = self.link.lapse(now, paused, |since| Self::was_throttled(&self.child, &self.history, since));
            for _ in 0..lapsed.graces_missed {
                self.apply(Event::GraceMissed).await;
            }
            if let Some(offer) = self.offer.take_if(|offer| offer.until <= now) {
                // Nobody waits any more, perhaps.
                let _ = offer.reply.send(Offered::Late);
            }
            if let Some(at) = self.heard.take() {
                self.apply(Event::Heard { at }).await;
            }
            self.apply(Event::Tick).await;
        }
        self.note_calls(now);
    }

    /// Whether it has been waiting for processor time, mostly, since then.
    fn was_throttled(child: &Option<Held>, history: &Mutex<History>, since: Instant) -> bool {
        let leaf = child.as_ref().and_then(|child| child.control.leaf());
        let Some((_, Some(periods))) = leaf.and_then(|leaf| leaf.accounts().ok()?.look().ok()) else { return false };
        let now = Throttled { all: periods.all, throttled: periods.throttled };
        history.lock().expect("nothing panics while it holds the history").mostly_throttled(since, Instant::now(), now)
    }

    /// Keeps the gauge, and gives memory back when nothing is under way.
    fn note_calls(&mut self, now: Instant) {
        let in_flight = u32::try_from(self.link.in_flight()).unwrap_or(u32::MAX);
        let before = self.gauge.in_flight.swap(in_flight, Ordering::Relaxed);
        if before > 0 && in_flight == 0 {
            self.gauge.idle_since_ms.store(self.uptime_ms(now), Ordering::Relaxed);
            if self.bulk && self.link.outbox.is_empty() {
                self.narrow();
            }
        }
    }

    /// How long the daemon has been there, by a clock that nobody sets.
    fn uptime_ms(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    async fn take_call(&mut self, call: Arc<Call>, now: Instant) {
        match self.machine.phase() {
            Phase::Active => self.link.take(call, now),
            Phase::Paused if self.blueprint.manifest.on_pause == OnPause::Refuse => {
                let id = &self.voice.plugin;
                let error = ErrorBody::new(ErrorCode::Unavailable, Refusal::Paused.message(id));
                call.fail(&error.with_hint(Refusal::Paused.hint(id)));
            }
            // It waits unwritten until the plugin goes on.
            Phase::Paused => self.link.take(call, now),
            // The route was withdrawn while the call was on its way here.
            _ => self.tell(Told::Returned(vec![call])).await,
        }
    }

    async fn obey(&mut self, order: Order, now: Instant) {
        let event = match order {
            Order::Pause => Event::PauseAsked,
            Order::Resume => Event::ResumeAsked,
            Order::Drain { within, why } => Event::DrainAsked { until: now + within, why },
            Order::Stop { why } => Event::StopAsked { why },
            Order::Configure { configuration, reply } => return self.offer(configuration, reply, now),
            Order::Kill => Event::KillAsked,
            Order::Exhaust { limit, detail } => Event::Exhausted { limit, detail },
        };
        self.apply(event).await;
    }

    /// Asks whether it can go on with this configuration.
    fn offer(&mut self, configuration: Arc<Value>, reply: oneshot::Sender<Offered>, now: Instant) {
        let active = self.machine.phase() == Phase::Active && self.offer.is_none();
        let id = if active { self.link.configure(&configuration) } else { None };
        match id {
            Some(id) => self.offer = Some(Offer { id, until: now + CONFIGURE_WITHIN, configuration, reply }),
            None => drop(reply.send(Offered::Unsupported)),
        }
    }

    async fn take_report(&mut self, report: Report) {
        let event = match report {
            Report::Denied(denied) => return self.blueprint.denials.note(self.number, denied),
            Report::Started(started) => {
                let listener = self.child.as_mut().and_then(|child| child.control.take_listener());
                self.served = listener.map(|listener| self.blueprint.network.serve(listener, self.who()));
                self.gauge.change(|seen| seen.processes = Some((started.plugin_pid, started.init_pid)));
                self.watched = self.sample(started.init_pid);
                Event::Launched
            }
            Report::Failed(failure) => Event::LaunchFailed(LaunchFailure {
                outlook: outlook(&failure),
                code: failure.step.is_confinement().then_some(ErrorCode::SandboxUnavailable),
                message: failure.message,
            }),
            Report::Exited(exited) => Event::Exited(exited.exit.into()),
        };
        if !matches!(event, Event::Launched) {
            // Nothing further comes from it.
            self.child = None;
            self.watched = None;
        }
        self.apply(event).await;
    }

    /// Which form its state has, which has to be one that its version can know.
    async fn look_at_state(&mut self) -> Result<(), LaunchFailure> {
        let stored = self.blueprint.host_calls.state().stored_schema().await.unwrap_or_else(|error| {
            // It is told whenever it asks for any of it.
            tracing::error!(plugin = %self.voice.plugin, %error, "what it keeps cannot be used");
            None
        });
        let Manifest { id, version, state_schema, .. } = &self.blueprint.manifest;
        if stored > Some(state_schema.unwrap_or(0)) {
            let (stored, known) = (stored.unwrap_or(0), state_schema.unwrap_or(0));
            let way = self.blueprint.needs.way_to_form(id, stored).map(|way| format!(": {way}")).unwrap_or_default();
            let message = format!(
                "its state was brought into schema {stored} by a later version, and {id} {version} knows schema {known}{way}"
            );
            return Err(LaunchFailure { message, outlook: Outlook::Lasting, code: None });
        }
        self.state_schema = stored;
        Ok(())
    }

    /// Where the kernel can, it holds the plugin to its share of the disk before there is a process.
    async fn hold_to_disk(&self) -> Result<(), LaunchFailure> {
        if !self.blueprint.host.facts.quotas {
            return Ok(());
        }
        let blueprint = self.blueprint.clone();
        let held = crate::blocking::run(move || blueprint.hold_to_disk()).await;
        held.unwrap_or_else(|error| {
            let message = format!("disk: its quota could not be set: {error}");
            Err(LaunchFailure { message, outlook: Outlook::Shortage, code: None })
        })
    }
}

/// What another attempt at the same step has to expect.
fn outlook(failure: &Failure) -> Outlook {
    let otherwise =
        if matches!(failure.step, Step::Exec | Step::EntryPoint) { Outlook::Lasting } else { Outlook::Passing };
    Outlook::of_errno(failure.errno, otherwise)
}
