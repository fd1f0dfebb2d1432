//! What the plugin says, from its greeting on, and what it is answered.

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use palisade_protocol::{
    ConfigureAnswer, Configured, ErrorBody, ErrorCode, Hello, Kind, Level, Limits, PROTOCOL, PluginWelcome, Pong,
    Ready, Refuse, Welcome, common_features, common_version,
};

use super::super::actions::Actions;
use super::super::host_calls::{Asked, Begun, Payload};
use super::super::link::{LOG_FIELDS_BYTES_MAX, News};
use super::super::logs::Source;
use super::{Offered, Task};
use crate::model::generation::{Event, Phase};
use crate::model::status::clip;
use crate::secrets;
use crate::wire::{Filled, Incoming};

/// Most reads of what an ended process left in its pipe: as much as the largest pipe holds, in the smallest steps.
const LAST_READS_MAX: usize = 256;

/// Longest text of a plugin's own in a reason, after escaping.
const REASON_BYTES_MAX: usize = 2 << 10;

impl Task {
    /// What was read. It lies in a buffer that others use as soon as this task waits, so it is looked at first.
    pub(super) async fn take_filled(&mut self, filled: std::io::Result<Filled>, now: Instant) {
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
                self.link.send(Kind::Refuse, &Refuse { error });
                self.flush_once().await;
            }
            self.apply(event).await;
        }
    }

    /// Reads what the process wrote before it ended, so that an answer is not lost and a frame cut off is seen to be.
    pub(super) async fn take_last_words(&mut self, now: Instant) {
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
            News::Configured(id, configured) => self.take_configured(id, configured),
            News::Log(log) => {
                let fields = log.fields.filter(|fields| fields.to_string().len() <= LOG_FIELDS_BYTES_MAX);
                self.voice.say(Source::Log, log.level, &log.message, fields, log.call);
            }
            News::HostCall(asked) => self.take_host_call(asked, now).await,
        }
    }

    async fn take_hello(&mut self, hello: Hello) {
        let Some(version) = common_version(PROTOCOL, hello.protocol) else {
            let error = format!(
                "the plugin speaks protocol versions {} to {}, and this supervisor {} to {}; rebuild it with another palisade-sdk",
                hello.protocol.min, hello.protocol.max, PROTOCOL.min, PROTOCOL.max
            );
            let refuse = Refuse { error: ErrorBody::new(ErrorCode::InitializationFailed, error.clone()) };
            self.link.send(Kind::Refuse, &refuse);
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
                configuration: self.gauge.configuration().as_deref().cloned().unwrap_or_default(),
                permissions: self.blueprint.grants.names(),
                guarantees: self.blueprint.guarantees(None),
                state_schema: self.state_schema,
            }),
        };
        self.apply_with(Event::Hello, Some(welcome)).await;
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
        if let Err(error) = self.accept_state(ready.state_schema).await {
            return self.apply(Event::Disagreed { error }).await;
        }
        let manifest = &self.blueprint.manifest;
        let actions = match Actions::new(ready.actions, manifest) {
            Ok(actions) => Arc::new(actions),
            Err(error) => return self.apply(Event::Refused { error }).await,
        };
        if let Err(error) = self.blueprint.accept_announced(&actions) {
            return self.apply(Event::Unagreed { error }).await;
        }
        let concurrency = ready.concurrency.min(manifest.limits.concurrency).max(1);
        self.link.open(actions.clone(), concurrency as usize);
        self.actions = Some(actions);
        self.apply(Event::Ready).await;
    }

    /// Whether it reads and writes the form that its manifest says, and what is there has that form by now.
    async fn accept_state(&self, ready: Option<u32>) -> Result<(), String> {
        let Some(wanted) = self.blueprint.manifest.state_schema else { return Ok(()) };
        if let Some(ready) = ready.filter(|ready| *ready != wanted) {
            return Err(format!(
                "the program keeps its state in schema {ready}, and its plugin.json says {wanted}; make them agree"
            ));
        }
        match self.blueprint.host_calls.state().stored_schema().await {
            Ok(Some(stored)) if stored != wanted => Err(format!(
                "its state has schema {stored} and has to be brought into schema {wanted} before it is ready: it has no migration from there"
            )),
            // It is told whenever it asks for any of it.
            Ok(_) | Err(_) => Ok(()),
        }
    }

    async fn take_pong(&mut self, pong: Pong) {
        self.gauge.oldest_call_ms.store(pong.oldest_call_ms, Ordering::Relaxed);
        let oldest = (pong.calls > 0).then(|| Duration::from_millis(pong.oldest_call_ms));
        let healthy = pong.unhealthy.is_none();
        let detail = pong.unhealthy.map(|detail| clip(&detail, REASON_BYTES_MAX));
        self.apply(Event::Pong { healthy, detail, oldest_call: oldest }).await;
    }

    /// It says whether it goes on with what it was offered. An answer that comes late is not waited for any more.
    fn take_configured(&mut self, id: u64, configured: Configured) {
        let Some(offer) = self.offer.take_if(|offer| offer.id == id) else { return };
        let reason = configured.reason.map(|reason| clip(&reason, REASON_BYTES_MAX));
        let offered = match configured.answer {
            ConfigureAnswer::Accepted => {
                self.gauge.configure(offer.configuration);
                Offered::Accepted
            }
            ConfigureAnswer::Declined => Offered::Declined(reason),
            ConfigureAnswer::Refused => Offered::Refused(reason),
        };
        // Nobody waits any more, perhaps.
        let _ = offer.reply.send(offered);
    }

    /// It asks for something. Who is not welcome yet has nothing to ask.
    async fn take_host_call(&mut self, asked: Asked, now: Instant) {
        if self.machine.phase() == Phase::Starting {
            let detail = "a HostCall frame before its Hello".to_owned();
            return self.apply(Event::Violation { detail }).await;
        }
        let id = asked.id;
        let begun = match self.blueprint.host_calls.admit(now) {
            Err(error) => Begun::Done(Err(error)),
            Ok(()) if asked.op == "self" => Begun::Done(Ok(Payload::Plain(self.about_itself(now)))),
            // Something was taken back, and a process of the same version without that follows.
            Ok(()) if asked.op == secrets::GET && self.blueprint.is_withdrawn() => {
                let message = "something was taken back of what this process was granted";
                Begun::Done(Err(ErrorBody::new(ErrorCode::PermissionDenied, message)))
            }
            Ok(()) => self.blueprint.host_calls.begin(asked),
        };
        match begun {
            Begun::Done(answer) => self.link.answer(id, answer),
            Begun::Working(work) => drop(self.working.spawn(async move { (id, work.await) })),
        }
    }

    /// What it is told about itself.
    fn about_itself(&self, now: Instant) -> Vec<u8> {
        let manifest = &self.blueprint.manifest;
        let uptime = self.machine.active_for(now).as_millis();
        super::super::call::body(&serde_json::json!({
            "id": manifest.id.as_str(),
            "version": manifest.version.to_string(),
            "generation": self.number.0,
            "uptime_ms": u64::try_from(uptime).unwrap_or(u64::MAX),
        }))
    }
}

fn with_hint(error: &ErrorBody) -> String {
    let message = clip(&error.message, REASON_BYTES_MAX);
    match &error.hint {
        Some(hint) => format!("{message} ({})", clip(hint, REASON_BYTES_MAX)),
        None => message,
    }
}
