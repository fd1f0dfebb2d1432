//! What the machine of a process asks for, done.

use std::future::poll_fn;
use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Instant, SystemTime};

use palisade_protocol::{Drain, Kind, Level, Welcome};
use rustix::pipe::fcntl_setpipe_size;

use super::super::logs::Source;
use super::{Held, Task, Told};
use crate::model::generation::{Action, Event, Phase};

/// A protocol pipe while large payloads pass, and otherwise.
const PIPE_BYTES_BULK: usize = 1 << 20;
const PIPE_BYTES: usize = 64 << 10;

impl Task {
    pub(super) async fn apply(&mut self, event: Event) {
        self.apply_with(event, None).await;
    }

    /// Tells the machine what happened, and does what it asks for.
    pub(super) async fn apply_with(&mut self, event: Event, mut welcome: Option<Welcome>) {
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
        match action {
            Action::SendWelcome => {
                if let Some(welcome) = welcome.take() {
                    self.link.send(Kind::Welcome, &welcome);
                }
            }
            Action::SendHealthCheck => self.link.ping(true, self.blueprint.on_trial.load(Ordering::Relaxed)),
            Action::SendPing => self.link.ping(false, false),
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
            // `end` ends them, when it is known how the process ended and what it said last.
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

    pub(super) async fn tell(&self, told: Told) {
        // The actor outlives its generations; if it is gone, so is everybody who could want to know.
        let _ = self.told.send((self.number, told)).await;
    }

    /// Writes what waits, as far as the pipe takes it now.
    pub(super) async fn flush_once(&mut self) {
        if let Some(Held { input: Some(input), .. }) = &mut self.child {
            let outbox = &mut self.link.outbox;
            poll_fn(|cx| {
                let _ = outbox.poll_flush(cx, input);
                Poll::Ready(())
            })
            .await;
        }
    }

    pub(super) fn close_output(&mut self) {
        if let Some(child) = &mut self.child {
            child.output = None;
        }
    }

    /// Large payloads pass: enlarge the pipes. Where the user's share is used up they stay as they are.
    pub(super) fn widen(&mut self) {
        if !self.bulk {
            self.bulk = true;
            self.resize(PIPE_BYTES_BULK);
        }
    }

    pub(super) fn narrow(&mut self) {
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
}
