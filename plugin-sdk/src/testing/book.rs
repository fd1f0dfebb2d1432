//! The in-memory supervisor's own side of the connection: what has come, what goes out, who waits.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use palisade_protocol::{
    Cancelled, Configured, Decoder, Empty, Extend, Flags, Frame, Hello, HostCall, Kind, Limits, Log, PIECE_BYTES,
    PROTOCOL, PluginWelcome, Pong, Progress, Ready, ReceiveCredit, Refuse, SendCredit, StreamAbort, StreamCredit,
    StreamKind, StreamOpen, StreamSide, Welcome, encode, encode_value,
};
use serde::Serialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::kept::Kept;
use super::{Outcome, PIPE_BYTES, TestHostBuilder};
use crate::plugin::Exit;
use crate::secret;
use crate::{Error, ErrorBody, ErrorCode, Raw, Result};

/// Most log lines that are kept; later ones are dropped.
const LOGS_MAX: usize = 10_000;

pub(super) struct Shared {
    pub(super) book: Mutex<Book>,
    /// Told whenever the plugin has said something.
    pub(super) changed: Notify,
    /// Told whenever there is something to write.
    pub(super) outgoing: Notify,
    pub(super) patience: Duration,
    pub(super) continues: bool,
    pub(super) life: Mutex<Option<JoinHandle<Exit>>>,
}

#[derive(Default)]
pub(super) struct Book {
    pub(super) outgoing: Vec<u8>,
    /// Nothing more is written: the end of input for the plugin.
    pub(super) closing: bool,
    /// The plugin has closed its end.
    pub(super) closed: bool,
    pub(super) next_id: u64,
    pub(super) limits: Limits,
    pub(super) ready: Option<Ready>,
    pub(super) refusal: Option<ErrorBody>,
    pub(super) calls: HashMap<u64, Entry>,
    pub(super) pongs: HashMap<u64, Pong>,
    /// What the plugin keeps.
    pub(super) kept: Kept,
    /// The secrets that are set.
    pub(super) secrets: BTreeMap<String, String>,
    pub(super) configured: HashMap<u64, Configured>,
    pub(super) drained: bool,
    pub(super) logs: Vec<Log>,
    pub(super) extends: Vec<Extend>,
    pub(super) violations: Vec<String>,
}

pub(super) struct Entry {
    pub(super) progress: Option<Progress>,
    pub(super) send: SendCredit,
    pub(super) receive: ReceiveCredit,
    pub(super) opened: Option<StreamKind>,
    pub(super) items: VecDeque<(Bytes, u64)>,
    pub(super) partial: Vec<u8>,
    pub(super) output_end: Option<Result<(), ErrorBody>>,
    /// The host asked the plugin to stop; what still comes is dropped.
    pub(super) output_stopped: bool,
    pub(super) input_opened: bool,
    pub(super) input_stopped: Option<ErrorBody>,
    pub(super) joined: Option<Vec<u8>>,
    pub(super) outcome: Option<Outcome>,
}

impl Entry {
    pub(super) fn new(credit_bytes: u32) -> Self {
        Self {
            progress: None,
            send: SendCredit::new(credit_bytes),
            receive: ReceiveCredit::new(credit_bytes),
            opened: None,
            items: VecDeque::new(),
            partial: Vec::new(),
            output_end: None,
            output_stopped: false,
            input_opened: false,
            input_stopped: None,
            joined: None,
            outcome: None,
        }
    }
}

impl Book {
    pub(super) fn refused(&self) -> Option<Error> {
        self.refusal.clone().map(Error::from)
    }

    pub(super) fn send<M: Serialize>(&mut self, kind: Kind, flags: Flags, id: u64, message: &M, payload: &[u8]) {
        if !self.closing {
            encode(&mut self.outgoing, kind, flags, id, message, payload);
        }
    }
}

impl Shared {
    pub(super) fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(super) fn send<M: Serialize>(&self, kind: Kind, id: u64, message: &M, payload: &[u8]) {
        self.book().send(kind, Flags::NONE, id, message, payload);
        self.outgoing.notify_one();
    }

    /// Waits until `look` finds something.
    pub(super) async fn wait<T>(&self, what: &str, mut look: impl FnMut(&mut Book) -> Option<T>) -> Result<T> {
        let found = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // Enabled before the look, so that a change between the two is not missed.
                changed.as_mut().enable();
                {
                    let mut book = self.book();
                    if let Some(found) = look(&mut book) {
                        return Ok(found);
                    }
                    if book.closed {
                        let refused = book.refused();
                        return Err(refused
                            .unwrap_or_else(|| Error::unavailable(format!("the plugin ended before {what} came"))));
                    }
                }
                changed.await;
            }
        };
        match tokio::time::timeout(self.patience, found).await {
            Ok(found) => found,
            Err(_) => Err(Error::timeout(format!("{what} did not come within {:?}", self.patience))),
        }
    }
}

/// Sends a payload in pieces as credit allows.
pub(super) async fn send_pieces(shared: &Shared, id: u64, kind: Kind, mut rest: Bytes, marked: bool) -> Result<()> {
    loop {
        let sent = shared
            .wait("credit", |book| {
                let call = book.calls.get_mut(&id)?;
                if call.outcome.is_some() {
                    return Some(Err(Error::cancelled()));
                }
                if let Some(error) = call.input_stopped.clone() {
                    return Some(Err(error.into()));
                }
                let len = call.send.next_len(rest.len().min(PIECE_BYTES) as u64 + 1);
                let piece = usize::try_from(len).ok()?.checked_sub(1)?;
                if piece == 0 && !rest.is_empty() {
                    return None;
                }
                call.send.spend(len);
                let piece = rest.split_to(piece);
                let flags = if marked && !rest.is_empty() { Flags::MORE } else { Flags::NONE };
                book.send(kind, flags, id, &Empty {}, &piece);
                Some(Ok(()))
            })
            .await?;
        shared.outgoing.notify_one();
        sent?;
        if rest.is_empty() {
            return Ok(());
        }
    }
}

pub(super) async fn write_all(shared: Arc<Shared>, mut to_plugin: DuplexStream) {
    loop {
        let outgoing = shared.outgoing.notified();
        let (bytes, closing) = {
            let mut book = shared.book();
            (std::mem::take(&mut book.outgoing), book.closing)
        };
        if !bytes.is_empty() && to_plugin.write_all(&bytes).await.is_err() {
            // The plugin is gone, which the reader notices.
            return;
        }
        if closing {
            return;
        }
        if bytes.is_empty() {
            outgoing.await;
        }
    }
}

pub(super) async fn read_all(
    shared: Arc<Shared>,
    mut from_plugin: DuplexStream,
    builder: TestHostBuilder,
    identity: (String, String),
) {
    let mut welcome = Some((builder, identity));
    let mut decoder = Decoder::default();
    let mut bytes = vec![0; PIPE_BYTES];
    loop {
        match from_plugin.read(&mut bytes).await {
            Ok(0) | Err(_) => break,
            Ok(read) => decoder.push(&bytes[..read]),
        }
        let mut book = shared.book();
        loop {
            match decoder.next_frame() {
                Ok(None) => break,
                Ok(Some(frame)) => {
                    if let Err(violation) = book.frame(&frame, &mut welcome) {
                        book.violations.push(violation);
                    }
                }
                Err(error) => {
                    book.violations.push(error.to_string());
                    break;
                }
            }
        }
        drop(book);
        shared.outgoing.notify_one();
        shared.changed.notify_waiters();
    }
    let mut book = shared.book();
    book.closed = true;
    if decoder.is_mid_frame() {
        book.violations.push("the plugin ended within a frame".to_owned());
    }
    drop(book);
    shared.changed.notify_waiters();
}

impl Book {
    fn frame(
        &mut self,
        frame: &Frame<'_>,
        welcome: &mut Option<(TestHostBuilder, (String, String))>,
    ) -> Result<(), String> {
        let id = frame.header.id;
        let more = frame.header.flags.has(Flags::MORE);
        let Some(kind) = frame.kind().map_err(|error| error.to_string())? else { return Ok(()) };
        let (body, payload) = frame.parts(kind).map_err(|error| error.to_string())?;
        match kind {
            Kind::Hello => {
                let _: Hello = read(body)?;
                let Some((builder, (id, version))) = welcome.take() else { return Err("a second Hello".to_owned()) };
                let welcome = Welcome {
                    protocol: PROTOCOL.max,
                    features: builder.features,
                    software: "palisade-sdk testing".to_owned(),
                    limits: builder.limits,
                    plugin: Some(PluginWelcome {
                        id,
                        version,
                        generation: 1,
                        ready_within_ms: 60_000,
                        configuration: builder.configuration,
                        permissions: builder.permissions,
                        guarantees: builder.guarantees,
                        state_schema: self.kept.stored_schema(),
                    }),
                };
                self.send(Kind::Welcome, Flags::NONE, 0, &welcome, &[]);
            }
            Kind::Ready => self.ready = Some(read(body)?),
            Kind::Refuse => self.refusal = Some(read::<Refuse>(body)?.error),
            Kind::Pong => {
                self.pongs.insert(id, read(body)?);
            }
            Kind::Configured => {
                self.configured.insert(id, read(body)?);
            }
            Kind::Drained => self.drained = true,
            Kind::Extend => self.extends.push(read(body)?),
            Kind::Log => {
                if self.logs.len() < LOGS_MAX {
                    self.logs.push(read(body)?);
                }
            }
            Kind::HostCall => {
                let call: HostCall<'_> = read(body)?;
                if more {
                    return Err(format!("HostCall {id}: its parameters are in one frame"));
                }
                self.answer(id, call.op, payload)?;
            }
            _ => return self.of_call(kind, id, frame.header.len, more, body, payload),
        }
        Ok(())
    }

    /// Answers a host call, as a supervisor does that knows `self`, state and secrets.
    fn answer(&mut self, id: u64, op: &str, params: &[u8]) -> Result<(), String> {
        let answered = match op.strip_prefix("state.") {
            Some(operation) => Some(self.kept.ask(operation, params)),
            None => (op == secret::GET).then(|| self.secret(params)),
        };
        if let Some(answered) = answered {
            match answered {
                Ok(answer) => {
                    let mut payload = Vec::new();
                    encode_value(&mut payload, &answer).map_err(|error| error.to_string())?;
                    self.send(Kind::HostOk, Flags::NONE, id, &Empty {}, &payload);
                }
                Err(error) => self.send(Kind::HostErr, Flags::NONE, id, &error, &[]),
            }
            return Ok(());
        }
        if op == "self" {
            let mut answer = Vec::new();
            let about = serde_json::json!({ "id": "test", "version": "0.0.0", "generation": 1, "uptime_ms": 0 });
            encode_value(&mut answer, &about).map_err(|error| error.to_string())?;
            self.send(Kind::HostOk, Flags::NONE, id, &Empty {}, &answer);
        } else {
            let error = ErrorBody::new(ErrorCode::ActionNotFound, format!("there is no operation `{op}`"));
            self.send(Kind::HostErr, Flags::NONE, id, &error, &[]);
        }
        Ok(())
    }

    fn secret(&self, params: &[u8]) -> std::result::Result<serde_json::Value, ErrorBody> {
        #[derive(serde::Deserialize)]
        struct Named {
            name: String,
        }
        let Named { name } = palisade_protocol::decode_value(params)
            .map_err(|error| ErrorBody::new(ErrorCode::InvalidParams, error.to_string()))?;
        match self.secrets.get(&name) {
            Some(value) => Ok(serde_json::json!({ "value": value })),
            None => {
                Err(ErrorBody::new(ErrorCode::ResourceNotFound, format!("the secret {name} is not set in this test")))
            }
        }
    }

    fn of_call(
        &mut self,
        kind: Kind,
        id: u64,
        len: u32,
        more: bool,
        body: &[u8],
        payload: &[u8],
    ) -> Result<(), String> {
        let said = |what: &dyn fmt::Display| format!("{} {id}: {what}", kind.name());
        let payload_bytes_max = self.limits.payload_bytes_max;
        let Some(call) = self.calls.get_mut(&id) else { return Err(said(&"no such call")) };
        if call.outcome.is_some() {
            return Err(said(&"after the call's end"));
        }
        let mut grant = None;
        match kind {
            Kind::Progress => call.progress = Some(read(body)?),
            Kind::Ok => {
                if call.opened.is_some() && call.output_end.is_none() && !call.output_stopped {
                    return Err(said(&"before the end of its stream"));
                }
                if more {
                    call.joined = Some(payload.to_vec());
                } else {
                    call.outcome = Some(Outcome::Ok(raw(payload.to_vec())?));
                }
            }
            Kind::Continue => {
                call.receive.charge(len).map_err(|error| said(&error))?;
                grant = call.receive.consumed(u64::from(len));
                let Some(joined) = &mut call.joined else { return Err(said(&"nothing to continue")) };
                joined.extend_from_slice(payload);
                if joined.len() as u64 > payload_bytes_max {
                    return Err(said(&"too long"));
                }
                if !more {
                    let whole = call.joined.take().unwrap_or_default();
                    call.outcome = Some(Outcome::Ok(raw(whole)?));
                    grant = None;
                }
            }
            Kind::Err => call.outcome = Some(Outcome::Err(read(body)?)),
            Kind::Cancelled => {
                let _: Cancelled = read(body)?;
                call.outcome = Some(Outcome::Cancelled);
            }
            Kind::StreamOpen => {
                let open: StreamOpen = read(body)?;
                if call.opened.replace(open.kind).is_some() {
                    return Err(said(&"opened twice"));
                }
            }
            Kind::StreamData => {
                if call.opened.is_none() || call.output_end.is_some() {
                    return Err(said(&"the stream is not open"));
                }
                call.receive.charge(len).map_err(|error| said(&error))?;
                if call.output_stopped {
                    return Ok(());
                }
                call.partial.extend_from_slice(payload);
                if more {
                    grant = call.receive.consumed(u64::from(len));
                } else {
                    let whole = std::mem::take(&mut call.partial);
                    call.items.push_back((whole.into(), u64::from(len)));
                }
            }
            Kind::StreamCredit => {
                let credit: StreamCredit = read(body)?;
                call.send.grant(credit.bytes).map_err(|error| said(&error))?;
            }
            Kind::StreamEnd => call.output_end = Some(Ok(())),
            Kind::StreamAbort => {
                let abort: StreamAbort = read(body)?;
                match abort.by {
                    StreamSide::Sender => call.output_end = Some(Err(abort.error)),
                    StreamSide::Receiver => call.input_stopped = Some(abort.error),
                }
            }
            _ => return Err(said(&"makes no sense from a plugin")),
        }
        if let Some(bytes) = grant {
            self.send(Kind::StreamCredit, Flags::NONE, id, &StreamCredit { bytes }, &[]);
        }
        Ok(())
    }
}

fn read<'a, M: serde::Deserialize<'a>>(body: &'a [u8]) -> Result<M, String> {
    rmp_serde::from_slice(body).map_err(|error| error.to_string())
}

fn raw(bytes: Vec<u8>) -> Result<Raw, String> {
    Raw::from_bytes(bytes).map_err(|error| error.to_string())
}
