//! One process of a plugin: the task that owns the child, from its launch to its proven end.
//!
//! It polls everything that can bring news of the child, turns each into an event of `model::generation`, and performs what the
//! machine asks for. Whatever happens, the task ends with one `Ended`, which carries back the calls that another generation may have.
//!
//! Invariants: the child lives no longer than the task; a frame is looked at in the same poll in which it was read; a plugin
//! that does not read is not written to without bound, because calls are admitted and data needs credit.

use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::os::fd::AsFd;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use palisade_protocol::{
    Drain, ErrorBody, ErrorCode, Guarantee, Hello, Level, Limits, PROTOCOL, PluginWelcome, Pong, Ready, Refuse,
    Welcome, common_features, common_version,
};
use rustix::pipe::fcntl_setpipe_size;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Sleep;

use super::actions::{Actions, SharedActions};
use super::blueprint::Blueprint;
use super::call::Call;
use super::inbox::{Inbox, Message, Outlet, inbox};
use super::link::{LOG_FIELDS_BYTES_MAX, Link, LinkSettings, News};
use super::logs::{self, Source, Voice};
use super::network;
use super::pressure::{Met, Watch};
use super::sampler::{Subject, Watched};
use crate::events::unix_ms;
use crate::model::exit::Exit;
use crate::model::generation::{Action, Event, InitFailure, LaunchFailure, Machine, Outlook, Phase, Reason, StopWhy};
use crate::model::ids::Generation;
use crate::model::limits::Kind;
use crate::model::manifest::OnPause;
use crate::model::plugin::Refusal;
use crate::model::sampled;
use crate::model::saturation::{History, Throttled};
use crate::model::status::{Dossier, StderrTail, clip, quoted};
use crate::process::look::Whereabouts;
use crate::process::{Child, Control, Report};
use crate::sandbox::cgroup::Leaf;
use crate::store::Snapshot;
use crate::wire::{Filled, Incoming, Reader};

/// While more than that waits in the small lane, no more calls are taken in: the plugin does not read.
const CONGESTED_BYTES: usize = 256 << 10;

/// A protocol pipe while large payloads pass, and otherwise.
const PIPE_BYTES_BULK: usize = 1 << 20;
const PIPE_BYTES: usize = 64 << 10;

/// Most reads of what an ended process left in its pipe: as much as the largest pipe holds, in the smallest steps.
const LAST_READS_MAX: usize = 256;

/// Most messages taken from the inbox at once.
const BATCH: usize = 256;

/// So many orders may wait: more than an actor can give in one turn of its task. They have a way of their own, since they have to
/// reach a generation that takes no calls in.
const ORDERS_MAX: usize = 512;

/// Longest text of a plugin's own in a reason, after escaping.
const REASON_BYTES_MAX: usize = 2 << 10;

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
        }
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

/// Starts a generation. Everything it has to tell goes to `told`, the last of it being `Told::Ended`.
pub fn start(
    blueprint: Arc<Blueprint>,
    number: Generation,
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
        lost: None,
    };
    Running { inbox: sender, orders: orders_sender, gauge, task: tokio::spawn(task.run_polled()) }
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
    /// Why it lost its calls, once it has.
    lost: Option<Reason>,
}

/// The sources of news that had none when they were polled last. The task's waker stays registered with them, so until the task
/// is polled anew there is no news of them: a turn that was woken by one source asks the others once, not once more for the wait
/// after it.
#[derive(Debug, Default)]
struct Quiet {
    /// Set at the beginning of each poll of the task: somebody may have woken it.
    anew: Arc<AtomicBool>,
    now: Silence,
}

/// Which sources had none.
#[derive(Debug, Default)]
struct Silence {
    output: bool,
    report: bool,
    messages: bool,
    orders: bool,
    timer: bool,
}

impl Quiet {
    /// What is known to have none, as of this poll of the task.
    fn now(&mut self) -> &mut Silence {
        if self.anew.load(Ordering::Relaxed) {
            self.anew.store(false, Ordering::Relaxed);
            self.now = Silence::default();
        }
        &mut self.now
    }
}

/// Whether a source had nothing, noted in `quiet`.
fn note<T>(quiet: &mut bool, polled: Poll<T>) -> Option<T> {
    match polled {
        Poll::Ready(news) => Some(news),
        Poll::Pending => {
            *quiet = true;
            None
        }
    }
}

/// What one poll brought.
#[derive(Default)]
struct Wake {
    filled: Option<std::io::Result<Filled>>,
    flush_failed: bool,
    report: Option<Box<Report>>,
    messages: bool,
    order: Option<Order>,
    timer: bool,
}

impl Task {
    /// Runs, and notes each poll for [`Quiet`].
    fn run_polled(self) -> impl Future<Output = ()> + Send {
        let anew = self.quiet.anew.clone();
        let mut run = Box::pin(self.run());
        poll_fn(move |cx| {
            anew.store(true, Ordering::Relaxed);
            run.as_mut().poll(cx)
        })
    }

    async fn run(mut self) {
        self.launched = Instant::now();
        let launched = match self.hold_to_disk().await {
            Ok(()) => self.blueprint.launch(self.number).await,
            Err(failure) => Err(failure),
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

    /// Sets the timer to whatever is due first.
    fn arm(&mut self) {
        let next = match (self.machine.deadline(), self.link.next_due()) {
            (Some(machine), Some(calls)) => Some(machine.min(calls)),
            (machine, calls) => machine.or(calls),
        };
        match (self.armed, next) {
            // A timer that fires early only looks and finds nothing, so it is moved when something becomes due before it
            // and not for every call that ends.
            (Some(armed), Some(next)) if armed <= next => {}
            (_, Some(next)) => {
                self.timer.as_mut().reset(next.into());
                self.armed = Some(next);
                self.quiet.now.timer = false;
            }
            (_, None) => self.armed = None,
        }
    }

    /// Waits until anything brings news, and takes all that there is by then.
    async fn wait(&mut self) -> Wake {
        let Self { link, inbox, orders, batch, reader, child, timer, armed, quiet, .. } = self;
        let (mut input, mut output, control) = match child {
            // What it says is heard once it is known who it is, so that whoever it answers finds its process in `status`.
            Some(Held { input, output, control, .. }) => {
                let output = if control.started().is_some() { output.as_mut() } else { None };
                (input.as_mut(), output, Some(control))
            }
            None => (None, None, None),
        };
        let (mut attended, left) = match control {
            Some(control) if control.is_attended() => (Some(control), None),
            left => (None, left),
        };
        // One future for as long as is waited: with a new one in each poll nobody would know whom to wake.
        let mut parting = pin!(async {
            match left {
                Some(control) => control.next_report().await,
                None => std::future::pending().await,
            }
        });
        let parts = attended.is_none();
        poll_fn(|cx| {
            let quiet = quiet.now();
            let mut wake = Wake::default();
            let mut ready = false;
            if let Some(input) = &mut input
                && !link.outbox.is_empty()
            {
                match link.outbox.poll_flush(cx, input) {
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                    Poll::Ready(Err(_)) => {
                        wake.flush_failed = true;
                        ready = true;
                    }
                }
            }
            // What callers have sent is taken once there is room for it.
            ready |= link.can_catch_up();
            if let Some(output) = &mut output
                && !quiet.output
                && let Some(filled) = note(&mut quiet.output, reader.poll_fill(cx, output))
            {
                wake.filled = Some(filled);
                ready = true;
            }
            if let Some(control) = &mut attended
                && !quiet.report
                && let Some(reported) = note(&mut quiet.report, control.poll_report(cx))
            {
                wake.report = reported.map(Box::new);
                ready = true;
            }
            if parts && let Poll::Ready(reported) = parting.as_mut().poll(cx) {
                wake.report = Some(Box::new(reported));
                ready = true;
            }
            if !quiet.messages
                && link.outbox.small_bytes() < CONGESTED_BYTES
                && let Some(1..) = note(&mut quiet.messages, inbox.messages.poll_recv_many(cx, batch, BATCH))
            {
                wake.messages = true;
                ready = true;
            }
            if !quiet.orders
                && let Some(Some(order)) = note(&mut quiet.orders, orders.poll_recv(cx))
            {
                wake.order = Some(order);
                ready = true;
            }
            if armed.is_some() && !quiet.timer && note(&mut quiet.timer, timer.as_mut().poll(cx)).is_some() {
                wake.timer = true;
                ready = true;
            }
            if ready { Poll::Ready(wake) } else { Poll::Pending }
        })
        .await
    }

    /// What was read. It lies in a buffer that others use as soon as this task waits, so it is looked at first.
    async fn take_filled(&mut self, filled: std::io::Result<Filled>, now: Instant) {
        let mut news = Vec::new();
        let mut fault = None;
        match filled {
            Ok(Filled::End) => {
                self.close_output();
                let event = if self.reader.is_mid_frame() {
                    Event::Violation { detail: "its output ended in the middle of a frame".to_owned() }
                } else {
                    Event::OutputClosed
                };
                fault = Some(event);
            }
            Ok(filled) => {
                self.heard = Some(now);
                let Self { reader, link, .. } = self;
                let mut large = false;
                let read = reader.frames(filled, |incoming| {
                    large |= matches!(incoming, Incoming::Large(_));
                    match link.heard(incoming, now) {
                        Ok(None) => ControlFlow::Continue(()),
                        Ok(Some(new)) => {
                            news.push(new);
                            ControlFlow::Continue(())
                        }
                        Err(violation) => ControlFlow::Break(violation),
                    }
                });
                match read {
                    Ok(ControlFlow::Continue(())) => {}
                    Ok(ControlFlow::Break(detail)) => fault = Some(Event::Violation { detail }),
                    Err(error) => fault = Some(Event::Violation { detail: error.to_string() }),
                }
                if large {
                    self.widen();
                }
            }
            Err(_) => {
                self.close_output();
                fault = Some(Event::OutputClosed);
            }
        }
        for new in news {
            self.take_news(new, now).await;
        }
        if let Some(event) = fault {
            let event = match event {
                // It may quote what the plugin sent.
                Event::Violation { detail } => Event::Violation { detail: clip(&detail, REASON_BYTES_MAX) },
                other => other,
            };
            if let Event::Violation { detail } = &event {
                let error = ErrorBody::new(ErrorCode::ProtocolViolation, detail.clone());
                self.link.send(palisade_protocol::Kind::Refuse, &Refuse { error });
                self.flush_once().await;
            }
            self.apply(event).await;
        }
    }

    /// Reads what the process wrote before it ended, so that an answer is not lost and a frame cut off is seen to be.
    async fn take_last_words(&mut self, now: Instant) {
        for _ in 0..LAST_READS_MAX {
            let Self { reader, child, .. } = self;
            let Some(output) = child.as_mut().and_then(|child| child.output.as_mut()) else { return };
            // Nobody writes any more, so what is not there now will not come.
            let filled = poll_fn(|cx| {
                Poll::Ready(match reader.poll_fill(cx, output) {
                    Poll::Ready(filled) => Some(filled),
                    Poll::Pending => None,
                })
            });
            // Otherwise a busy task could be told to wait where there is something to read.
            let Some(filled) = tokio::task::unconstrained(filled).await else { return };
            self.take_filled(filled, now).await;
        }
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
            Order::Kill => Event::KillAsked,
            Order::Exhaust { limit, detail } => Event::Exhausted { limit, detail },
        };
        self.apply(event).await;
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
            Report::Failed(failure) => {
                let message = failure.message.clone();
                Event::LaunchFailed(LaunchFailure {
                    message,
                    outlook: outlook(&failure),
                    sandbox: failure.step.is_confinement(),
                })
            }
            Report::Exited(exited) => Event::Exited(exited.exit.into()),
        };
        if !matches!(event, Event::Launched) {
            // Nothing further comes from it.
            self.child = None;
            self.watched = None;
        }
        self.apply(event).await;
    }

    async fn take_news(&mut self, news: News, now: Instant) {
        match news {
            News::Hello(hello) => self.take_hello(hello).await,
            News::Ready(ready) => self.take_ready(*ready).await,
            News::Refused(error) => self.apply(Event::Refused { error: with_hint(&error) }).await,
            News::Pong(pong) => self.take_pong(pong).await,
            News::Drained => self.apply(Event::Drained).await,
            News::Extend(extend) => {
                let by = Duration::from_millis(extend.by_ms);
                if !extend.reason.is_empty() {
                    let message = format!("needs {by:?} more: {}", extend.reason);
                    self.voice.say(Source::Log, Level::Info, &message, None, None);
                }
                self.apply(Event::Extended { by }).await;
            }
            News::Log(log) => {
                let fields = log.fields.filter(|fields| fields.to_string().len() <= LOG_FIELDS_BYTES_MAX);
                self.voice.say(Source::Log, log.level, &log.message, fields, log.call);
            }
            News::HostCall { id, op } => {
                let answer = self.host_call(&op, now);
                self.link.answer(id, answer);
            }
        }
    }

    async fn take_hello(&mut self, hello: Hello) {
        let Some(version) = common_version(PROTOCOL, hello.protocol) else {
            let error = format!(
                "the plugin speaks protocol versions {} to {}, and this supervisor {} to {}; rebuild it with another palisade-sdk",
                hello.protocol.min, hello.protocol.max, PROTOCOL.min, PROTOCOL.max
            );
            let refuse = Refuse { error: ErrorBody::new(ErrorCode::InitializationFailed, error.clone()) };
            self.link.send(palisade_protocol::Kind::Refuse, &refuse);
            self.flush_once().await;
            return self.apply(Event::Refused { error }).await;
        };
        let features = common_features(&hello.features);
        self.link.agree(&features);
        let hello_after = self.launched.elapsed();
        self.gauge.change(|seen| {
            seen.software = Some(hello.software);
            seen.hello_after = Some(hello_after);
        });
        let manifest = &self.blueprint.manifest;
        let ready_within =
            self.machine.deadline().map_or(Duration::ZERO, |by| by.saturating_duration_since(Instant::now()));
        let welcome = Welcome {
            protocol: version,
            features,
            software: concat!("palisaded/", env!("CARGO_PKG_VERSION")).to_owned(),
            limits: Limits { calls_max: manifest.limits.concurrency, ..Limits::default() },
            plugin: Some(PluginWelcome {
                id: manifest.id.to_string(),
                version: manifest.version.to_string(),
                generation: self.number.0,
                ready_within_ms: u64::try_from(ready_within.as_millis()).unwrap_or(u64::MAX),
                configuration: self.blueprint.configuration.clone(),
                permissions: self.blueprint.grants.names(),
                guarantees: self.guarantees(),
                state_schema: None,
            }),
        };
        self.apply_with(Event::Hello, Some(welcome)).await;
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
            Err(LaunchFailure { message, outlook: Outlook::Shortage, sandbox: false })
        })
    }

    fn guarantees(&self) -> Vec<Guarantee> {
        self.blueprint.guarantees(None)
    }

    async fn take_ready(&mut self, ready: Ready) {
        let manifest = &self.blueprint.manifest;
        let (id, version) = (manifest.id.as_str(), manifest.version.to_string());
        if ready.id != id || ready.version != version {
            let error = format!(
                "the program calls itself {} {}, and its plugin.json {id} {version}; make them agree",
                ready.id, ready.version
            );
            return self.apply(Event::Disagreed { error }).await;
        }
        let actions = match Actions::new(ready.actions, manifest) {
            Ok(actions) => Arc::new(actions),
            Err(error) => return self.apply(Event::Refused { error }).await,
        };
        let concurrency = ready.concurrency.min(manifest.limits.concurrency).max(1);
        self.link.open(actions.clone(), concurrency as usize);
        self.actions = Some(actions);
        self.apply(Event::Ready).await;
    }

    async fn take_pong(&mut self, pong: Pong) {
        self.gauge.oldest_call_ms.store(pong.oldest_call_ms, Ordering::Relaxed);
        let oldest = (pong.calls > 0).then(|| Duration::from_millis(pong.oldest_call_ms));
        let healthy = pong.unhealthy.is_none();
        let detail = pong.unhealthy.map(|detail| clip(&detail, REASON_BYTES_MAX));
        self.apply(Event::Pong { healthy, detail, oldest_call: oldest }).await;
    }

    /// What a plugin may ask of the supervisor.
    fn host_call(&self, op: &str, now: Instant) -> Result<Vec<u8>, ErrorBody> {
        match op {
            "self" => {
                let manifest = &self.blueprint.manifest;
                let uptime = self.machine.active_for(now).as_millis();
                Ok(super::call::body(&serde_json::json!({
                    "id": manifest.id.as_str(),
                    "version": manifest.version.to_string(),
                    "generation": self.number.0,
                    "uptime_ms": u64::try_from(uptime).unwrap_or(u64::MAX),
                })))
            }
            other => Err(ErrorBody::new(
                ErrorCode::ActionNotFound,
                format!("this supervisor has no host call {}", quoted(other)),
            )),
        }
    }

    async fn apply(&mut self, event: Event) {
        self.apply_with(event, None).await;
    }

    /// Tells the machine what happened, and does what it asks for.
    async fn apply_with(&mut self, event: Event, mut welcome: Option<Welcome>) {
        let now = Instant::now();
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for action in self.machine.step(event, now) {
                if let Some(further) = self.perform(action, now, &mut welcome).await {
                    events.push(further);
                }
            }
        }
    }

    /// Does one thing that the machine asked for. What follows at once is returned.
    async fn perform(&mut self, action: Action, now: Instant, welcome: &mut Option<Welcome>) -> Option<Event> {
        use palisade_protocol::Kind;
        match action {
            Action::SendWelcome => {
                if let Some(welcome) = welcome.take() {
                    self.link.send(Kind::Welcome, &welcome);
                }
            }
            Action::SendHealthCheck => self.link.ping(true),
            Action::SendPing => self.link.ping(false),
            Action::SendDrain { until } => {
                let within = until.saturating_duration_since(now);
                let reason = "the supervisor stops this generation".to_owned();
                let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                self.link.cancel_endless(now);
                self.link.send(Kind::Drain, &Drain { within_ms, reason });
            }
            Action::OfferRoute => {
                if let Some(actions) = self.actions.clone() {
                    self.tell(Told::Active(actions)).await;
                }
            }
            Action::WithdrawRoute => {
                self.link.close();
                self.tell(Told::Stopping).await;
                let waiting = self.link.take_waiting();
                if !waiting.is_empty() {
                    self.tell(Told::Returned(waiting)).await;
                }
            }
            Action::AskReplacement { missed } => self.tell(Told::AskReplacement { missed }).await,
            Action::CloseInput => {
                self.flush_once().await;
                if let Some(child) = &mut self.child {
                    child.input = None;
                }
            }
            Action::Terminate => {
                if let Some(child) = &self.child
                    && let Err(error) = child.control.terminate()
                {
                    tracing::debug!(plugin = %self.voice.plugin, generation = %self.number, %error, "no SIGTERM");
                }
            }
            Action::KillTree => {
                if let Some(child) = &mut self.child {
                    child.control.kill();
                }
            }
            Action::KillLauncher => {
                if let Some(child) = &mut self.child {
                    child.control.kill_launcher();
                }
            }
            Action::Freeze => {
                let frozen = self.child.as_ref().map(|child| child.control.freeze());
                match frozen {
                    Some(Ok(())) => {
                        self.paused_at = Some(now);
                        self.link.hold();
                        self.tell(Told::Paused).await;
                    }
                    Some(Err(error)) => {
                        tracing::warn!(plugin = %self.voice.plugin, generation = %self.number, %error, "cannot be paused");
                        self.tell(Told::PauseFailed).await;
                        return Some(Event::FreezeFailed);
                    }
                    None => return Some(Event::FreezeFailed),
                }
            }
            Action::Thaw => {
                if let Some(child) = &self.child
                    && let Err(error) = child.control.thaw()
                {
                    tracing::warn!(plugin = %self.voice.plugin, generation = %self.number, %error, "cannot be resumed");
                }
                if self.paused_at.take().is_some() {
                    self.link.go_on(now);
                    self.tell(Told::Resumed).await;
                }
            }
            // Ended below, when it is known how the process ended and what it said last.
            Action::FailCalls { reason } => {
                self.link.lose();
                self.lost.get_or_insert(reason);
            }
            Action::ReportHealth { healthy, detail, .. } => {
                if !healthy {
                    let detail = detail.unwrap_or_else(|| "it did not say why".to_owned());
                    self.voice.say(Source::Supervisor, Level::Warn, &format!("is not healthy: {detail}"), None, None);
                }
            }
            Action::Publish { from, to } => {
                tracing::debug!(plugin = %self.voice.plugin, generation = %self.number, %from, %to, "generation");
                if to == Phase::Active {
                    // The idle clock begins, or begins again after a pause.
                    self.gauge.idle_since_ms.store(self.uptime_ms(now), Ordering::Relaxed);
                }
                self.gauge.change(|seen| {
                    seen.phase = to;
                    seen.since = SystemTime::now();
                });
                match to {
                    Phase::Loaded => self.tell(Told::Loaded).await,
                    Phase::Initialized => self.tell(Told::Initialized).await,
                    Phase::Stopping => self.tell(Told::Stopping).await,
                    Phase::Starting | Phase::Active | Phase::Paused | Phase::Draining | Phase::Gone => {}
                }
            }
        }
        None
    }

    async fn tell(&self, told: Told) {
        // The actor outlives its generations; if it is gone, so is everybody who could want to know.
        let _ = self.told.send((self.number, told)).await;
    }

    /// Writes what waits, as far as the pipe takes it now.
    async fn flush_once(&mut self) {
        if let Some(Held { input: Some(input), .. }) = &mut self.child {
            let outbox = &mut self.link.outbox;
            poll_fn(|cx| {
                let _ = outbox.poll_flush(cx, input);
                Poll::Ready(())
            })
            .await;
        }
    }

    fn close_output(&mut self) {
        if let Some(child) = &mut self.child {
            child.output = None;
        }
    }

    /// Large payloads pass: enlarge the pipes. Where the user's share is used up they stay as they are.
    fn widen(&mut self) {
        if !self.bulk {
            self.bulk = true;
            self.resize(PIPE_BYTES_BULK);
        }
    }

    fn narrow(&mut self) {
        self.bulk = false;
        self.resize(PIPE_BYTES);
    }

    fn resize(&self, bytes: usize) {
        let Some(child) = &self.child else { return };
        let ends = [child.input.as_ref().map(AsFd::as_fd), child.output.as_ref().map(AsFd::as_fd)];
        for end in ends.into_iter().flatten() {
            let _ = fcntl_setpipe_size(end, bytes);
        }
    }

    /// The process is gone: its last words, its dossier, its calls.
    async fn end(mut self) {
        let now = Instant::now();
        self.child = None;
        self.watched = None;
        if let Some(pressure) = self.pressure.take() {
            pressure.abort();
        }
        if let Some(served) = self.served.take() {
            served.end().await;
        }
        let tail = match self.logs.take() {
            Some(Listening { task, gone }) => {
                drop(gone);
                task.await.unwrap_or_default()
            }
            None => StderrTail::default(),
        };
        let reason = self.machine.reason().cloned().unwrap_or(Reason::Unconfirmed);
        let reason = with_what_it_may_not(reason, self.blueprint.grants.execute_code);
        let exit = match &reason {
            // The kernel would have done the same, and called it that.
            Reason::Exhausted { limit: Kind::Memory, .. } => Some(Exit::OutOfMemory),
            _ => self.machine.exit(),
        };
        let in_flight = u32::try_from(self.link.in_flight()).unwrap_or(u32::MAX);
        let dossier = reason.is_failure().then(|| Dossier {
            generation: self.number,
            at_unix_ms: unix_ms(SystemTime::now()),
            reason: reason.to_string(),
            exit,
            last_stderr: tail.lines(),
            calls_in_flight: in_flight,
        });
        self.inbox.messages.close();
        while let Ok(message) = self.inbox.messages.try_recv() {
            if let Message::Call(call) = message {
                self.link.take(call, now);
            }
        }
        let cause = self.lost.take().unwrap_or_else(|| reason.clone());
        let plugin = self.voice.plugin.clone();
        let details = dossier.as_ref().and_then(|dossier| serde_json::to_value(dossier).ok());
        let returned =
            self.link.dissolve(now, |written| call_error(plugin.as_str(), &cause, exit, written, details.clone()));
        if let Some(dossier) = &dossier {
            self.voice.say(Source::Supervisor, Level::Error, &dossier.reason, None, None);
        }
        self.gauge.in_flight.store(0, Ordering::Relaxed);
        let stable_for = self.machine.active_for(now);
        self.tell(Told::Ended(Box::new(Ended { reason, stable_for, dossier, returned }))).await;
    }
}

/// What a caller is told whose call went down with its process.
fn call_error(
    plugin: &str,
    reason: &Reason,
    exit: Option<Exit>,
    written: bool,
    details: Option<serde_json::Value>,
) -> ErrorBody {
    let code = match reason {
        Reason::Stopped { .. } | Reason::Killed => ErrorCode::Unavailable,
        Reason::ProtocolViolation { .. } => ErrorCode::ProtocolViolation,
        Reason::LaunchFailed { failure } if failure.sandbox => ErrorCode::SandboxUnavailable,
        Reason::LaunchFailed { .. } | Reason::InitializationFailed { .. } => ErrorCode::InitializationFailed,
        Reason::Crashed { exit: Exit::OutOfMemory } | Reason::Exhausted { .. } => ErrorCode::ResourceExhausted,
        Reason::Overdue { .. } | Reason::Crashed { .. } | Reason::Hung { .. } | Reason::Unconfirmed => {
            ErrorCode::Crashed
        }
    };
    let what = match (reason, exit) {
        (Reason::Crashed { exit }, _) => exit.to_string(),
        (reason, _) => reason.to_string(),
    };
    let during = if written { "during the call; the work may have been done" } else { "before it read the call" };
    let mut error = ErrorBody::new(code, format!("{plugin}: {what}, {during}"));
    if let Some(mut details) = details {
        if code == ErrorCode::ResourceExhausted
            && let Some(details) = details.as_object_mut()
        {
            let limit = if let Reason::Exhausted { limit, .. } = reason { *limit } else { Kind::Memory };
            details.insert("limit".to_owned(), limit.to_string().into());
        }
        error = error.with_details(details);
    }
    match code {
        ErrorCode::Unavailable => error.with_hint(format!("`palisade start {plugin}` starts it again")),
        _ => error.with_hint(format!("`palisade logs {plugin}` and `palisade status {plugin}` say more")),
    }
}

/// POSIX's exit status for a program that was found and cannot be executed.
const NOT_EXECUTED: Exit = Exit::Code(126);

/// The reason of an end, and where it looks like a second program that may not be executed, that as well.
fn with_what_it_may_not(reason: Reason, may_execute: bool) -> Reason {
    match reason {
        Reason::InitializationFailed { why: InitFailure::Exited { phase, exit: NOT_EXECUTED } } if !may_execute => {
            Reason::InitializationFailed { why: InitFailure::ExecutedAnother { phase, exit: NOT_EXECUTED } }
        }
        reason => reason,
    }
}

fn with_hint(error: &ErrorBody) -> String {
    let message = clip(&error.message, REASON_BYTES_MAX);
    match &error.hint {
        Some(hint) => format!("{message} ({})", clip(hint, REASON_BYTES_MAX)),
        None => message,
    }
}

/// What another attempt at the same step has to expect.
fn outlook(failure: &crate::process::Failure) -> Outlook {
    use crate::process::Step;
    let otherwise =
        if matches!(failure.step, Step::Exec | Step::EntryPoint) { Outlook::Lasting } else { Outlook::Passing };
    Outlook::of_errno(failure.errno, otherwise)
}
