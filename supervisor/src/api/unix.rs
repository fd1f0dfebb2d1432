//! The agent socket: the frames of the plugin protocol, from agents.
//!
//! One task per connection reads frames and writes answers; what a plugin answers is put into the connection's outbox by the
//! task of its generation. Who connects is established by the kernel before a frame is read. An agent that is slow, floods, sends
//! garbage or vanishes costs itself alone: its calls are bounded in number, its data by credit, what it does not read by a limit
//! beyond which it is cut off.
//!
//! Elsewhere: what the operations do is `service`; the rules of a call's frames towards the plugin are `plugin::link`.

use std::collections::{HashMap, VecDeque};
use std::fs::Permissions;
use std::future::{Future, poll_fn};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use foldhash::fast::RandomState;
use palisade_protocol::{
    CREDIT_BYTES, Call as CallBody, Cancel, CancelReason, Cancelled, Empty, ErrorBody, ErrorCode, Fault, Feature,
    Flags, Frame, FrameError, Hello, Kind, Limits, PAYLOAD_BYTES_MAX, PIECE_BYTES, PROTOCOL, Ping, Pong, Refuse,
    SUPERVISOR_ID, StreamAbort, StreamCredit, StreamKind, StreamOpen, StreamSide, Welcome, common_features,
    common_version,
};
use rustix::fs::{FlockOperation, Mode};
use serde_json::Value;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};
use tokio::time::Sleep;

use super::service::{CHANGES, Items, Service};
use crate::config::Config;
use crate::model::call::LimitedBy;
use crate::plugin::call::{Call, Caller, Counters, Ends, NewCall, Params, body, error_body, limit_details};
use crate::plugin::following::Follow;
use crate::router::Target;
use crate::wire::{Filled, Incoming, LARGE_FRAME_BYTES, Lane, Outbox, OwnedFrame, Reader, a_frame};

/// Most agents at once.
const AGENTS_MAX: usize = 1024;

/// Most calls that one agent may have under way.
const CALLS_MAX: u32 = 256;

/// While more than that waits for an agent, nothing further is read from it.
const BACKPRESSURE_BYTES: usize = 8 << 20;

/// An agent that leaves more than that unread is cut off.
const UNREAD_BYTES_MAX: usize = 64 << 20;

/// An agent that reads nothing at all for so long, though something waits for it, is cut off.
const STALLED: Duration = Duration::from_secs(60);

/// While more than that waits, news that can be merged (progress, credit) is merged.
const MERGE_BYTES: usize = 64 << 10;

/// How long an agent has for its first frame.
const HELLO_WITHIN: Duration = Duration::from_secs(10);

/// Longest path of a socket: 108 bytes in the kernel's structure, the last of which is zero.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// How often the lock is taken anew because whoever had it before removed its file.
const LOCK_TRIES_MAX: u32 = 16;

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("another palisaded serves {path} already; stop it first, or give this one another --socket", path = .path.display())]
    Served {
        /// The socket.
        path: PathBuf,
    },
    /// Something else is there.
    #[error("{path} is there and is not a socket; move it away, or give another --socket", path = .path.display())]
    InTheWay {
        /// What.
        path: PathBuf,
    },
    /// Nothing can be made where there is no folder.
    #[error("the socket {path} cannot be made: the folder {folder} does not exist; create it, or give another --socket", path = .path.display(), folder = .folder.display())]
    NoFolder {
        /// The socket.
        path: PathBuf,
        /// The folder that it should lie in.
        folder: PathBuf,
    },
    /// The kernel has no room for so long a path.
    #[error("the path of the socket {path} has {bytes} bytes, and {SOCKET_PATH_BYTES_MAX} is the most that the kernel takes; give a shorter --socket or `socket`, or set XDG_RUNTIME_DIR to a shorter folder", path = .path.display())]
    TooLong {
        /// The socket.
        path: PathBuf,
        /// What it has.
        bytes: usize,
    },
    /// The system says no.
    #[error("the socket {path} cannot be {what}: {source}", path = .path.display())]
    System {
        /// The socket.
        path: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

/// A socket that is listened on. Its file is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    /// Held for as long as the socket is served; its end is what makes a left-over socket recognisable without a race.
    _lock: SocketLock,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Nobody else can have put another one there meanwhile: they would need the lock.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The right to serve a socket: a file beside it, locked. It is removed, while it is still locked, when this is dropped.
#[derive(Debug)]
struct SocketLock {
    _file: std::fs::File,
    path: PathBuf,
}

impl SocketLock {
    fn take(socket: &Path) -> Result<Self, ListenError> {
        let system = |source| ListenError::System { path: socket.to_owned(), what: "locked", source };
        let served = || ListenError::Served { path: socket.to_owned() };
        // Added to the whole name: other sockets in the folder have locks of their own, and no socket is its own lock.
        let mut path = socket.as_os_str().to_owned();
        path.push(".lock");
        let path = PathBuf::from(path);
        for _ in 0..LOCK_TRIES_MAX {
            let file = std::fs::OpenOptions::new()
                .create(true)
                .truncate(false)
                .write(true)
                // Whoever can open it can hold the lock.
                .mode(0o600)
                .open(&path)
                .map_err(|source| match socket.parent() {
                    // The lock is made, so it is the folder that is not found.
                    Some(folder) if source.kind() == io::ErrorKind::NotFound => {
                        ListenError::NoFolder { path: socket.to_owned(), folder: folder.to_owned() }
                    }
                    _ => system(source),
                })?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(served()),
                Err(errno) => return Err(system(errno.into())),
            }
            // It may be the file of one that has ended meanwhile; others lock the one that has the name now.
            let own = file.metadata().map_err(system)?;
            match std::fs::symlink_metadata(&path) {
                Ok(named) if (named.dev(), named.ino()) == (own.dev(), own.ino()) => {
                    return Ok(Self { _file: file, path });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(system(error)),
            }
        }
        Err(served())
    }
}

impl Drop for SocketLock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Listens on the configured socket. What a dead daemon left there is taken over.
///
/// # Errors
/// [`ListenError`]
pub fn listen(config: &Config) -> Result<Listener, ListenError> {
    let path = config.socket.as_path();
    let system = |what| move |source| ListenError::System { path: path.to_owned(), what, source };
    let bytes = path.as_os_str().len();
    if SOCKET_PATH_BYTES_MAX < bytes {
        return Err(ListenError::TooLong { path: path.to_owned(), bytes });
    }
    let lock = SocketLock::take(path)?;
    match std::fs::symlink_metadata(path) {
        Ok(metadata) => {
            use std::os::unix::fs::FileTypeExt;
            if !metadata.file_type().is_socket() {
                return Err(ListenError::InTheWay { path: path.to_owned() });
            }
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ListenError::Served { path: path.to_owned() });
            }
            tracing::info!(socket = %path.display(), "taking over the socket of a daemon that died");
            std::fs::remove_file(path).map_err(system("taken over"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(system("looked at")(error)),
    }
    // From the first moment on, nobody else may connect; who may is checked again for each connection.
    let before = rustix::process::umask(Mode::from_raw_mode(0o177));
    let bound = UnixListener::bind(path);
    rustix::process::umask(before);
    let listener = Listener { listener: bound.map_err(system("made"))?, path: path.to_owned(), _lock: lock };
    let mode = match config.socket_group {
        Some(group) => {
            std::os::unix::fs::chown(path, None, Some(group)).map_err(system("given to its group"))?;
            0o660
        }
        // A file has one group, and these have none in common: the kernel lets everybody knock, and we look who it is.
        None if !config.allowed_uids.is_empty() => 0o666,
        None => return Ok(listener),
    };
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(system("opened to others"))?;
    Ok(listener)
}

/// Serves agents until it is told to leave; then each connection writes what it can at once, and ends.
///
/// When it is dropped before, the connections end without a word.
pub async fn serve(listener: &Listener, service: Arc<Service>, mut leaving: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // An error means that nobody is left who could say so.
            _ = leaving.changed() => break,
            accepted = listener.listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended
                    && error.is_panic()
                {
                    tracing::error!(%error, "the task of an agent's connection panicked");
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => {
                let room = connections.len() < AGENTS_MAX;
                connections.spawn(receive(stream, service.clone(), room, leaving.clone()));
            }
            Err(error) => {
                // Out of descriptors, most likely; trying again at once would only spin.
                tracing::error!(%error, "cannot accept an agent");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    while connections.join_next().await.is_some() {}
}

/// One connection, from its first moment to its last.
async fn receive(mut stream: UnixStream, service: Arc<Service>, room: bool, leaving: watch::Receiver<bool>) {
    let allowed = match stream.peer_cred() {
        Ok(peer) => {
            let uid = peer.uid();
            let own = rustix::process::geteuid().as_raw();
            // The socket's mode lets nobody in but the group, if there is one.
            let in_group = service.config.socket_group.is_some();
            if uid == 0 || uid == own || in_group || service.config.allowed_uids.contains(&uid) {
                Ok(uid)
            } else {
                let message = format!("user {uid} may not use this socket");
                let error = ErrorBody::new(ErrorCode::PermissionDenied, message);
                Err(error.with_hint("the daemon's own user, root, and `allowed_uids` of palisade.toml may"))
            }
        }
        Err(error) => {
            Err(ErrorBody::new(ErrorCode::PermissionDenied, format!("who you are cannot be established: {error}")))
        }
    };
    let allowed = if room {
        allowed
    } else {
        let message = format!("{AGENTS_MAX} agents are connected already");
        Err(ErrorBody::new(ErrorCode::Overloaded, message).with_retry_after_ms(1_000))
    };
    match allowed {
        Ok(uid) => Agent::new(stream, service, uid).run(leaving).await,
        Err(error) => {
            tracing::info!(%error, "an agent was refused");
            let mut outbox = Outbox::default();
            outbox.message(Kind::Refuse, Flags::NONE, 0, &Refuse { error }, &[]);
            let _ = tokio::time::timeout(HELLO_WITHIN, poll_fn(|cx| outbox.poll_flush(cx, &mut stream))).await;
        }
    }
}

/// The part of a connection that others reach: where answers go.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    outbox: Outbox,
    calls: HashMap<u64, Entry, RandomState>,
    /// Calls with news that was merged and waits for room.
    merged: VecDeque<u64>,
    waker: Option<Waker>,
    /// Why the agent has to be cut off.
    condemned: Option<&'static str>,
    /// What was agreed: whether it reads streams, and results in pieces.
    streams: bool,
    continues: bool,
}

/// A call of this agent's.
#[derive(Debug)]
struct Entry {
    work: Work,
    /// Whether something of it waits in the bulk lane, so that what must not overtake it goes there as well.
    in_bulk: bool,
    progress: Option<Box<[u8]>>,
    credit: u32,
    /// The parameters go on in `Continue` frames.
    params_continue: bool,
    params_bytes: u64,
    input: Input,
    /// The agent wants nothing more of the output stream.
    output_refused: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Input {
    Unopened,
    Open,
    Ended,
}

#[derive(Debug)]
enum Work {
    /// Not handed over yet.
    New,
    Plugin(Arc<Call>),
    Operation {
        task: AbortHandle,
        credit: Arc<Semaphore>,
    },
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds a connection")
    }
}

impl State {
    fn wake(&mut self) {
        if self.outbox.bytes() > UNREAD_BYTES_MAX {
            self.condemned = Some("it does not read its answers");
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Puts in what was merged, now that there is room.
    fn emit_merged(&mut self) {
        while self.outbox.small_bytes() < MERGE_BYTES
            && let Some(id) = self.merged.pop_front()
        {
            let Some(entry) = self.calls.get_mut(&id) else { continue };
            if let Some(progress) = entry.progress.take() {
                self.outbox.content(Lane::Small, Kind::Progress, Flags::NONE, id, &progress);
            }
            if entry.credit > 0 {
                let credit = StreamCredit { bytes: std::mem::take(&mut entry.credit) };
                self.outbox.message(Kind::StreamCredit, Flags::NONE, id, &credit, &[]);
            }
        }
    }
}

impl Shared {
    /// Ends a call whose answer takes a form that the agent has not agreed to. Says whether it was one.
    fn refuses(&self, id: u64, kind: Kind, flags: Flags) -> bool {
        let mut state = self.state();
        let (code, message) = match kind {
            Kind::StreamOpen | Kind::StreamData | Kind::StreamEnd | Kind::StreamAbort if !state.streams => (
                ErrorCode::StreamingNotSupported,
                "the action answers with a stream, and your Hello did not name `streams`",
            ),
            Kind::Ok | Kind::Continue if flags.has(Flags::MORE) && !state.continues => (
                ErrorCode::ResourceExhausted,
                "the result comes in several frames, and your Hello did not name `continue`",
            ),
            _ => return false,
        };
        let Some(entry) = state.calls.remove(&id) else { return true };
        let lane = if entry.in_bulk { Lane::Bulk } else { Lane::Small };
        state.outbox.content(lane, Kind::Err, Flags::NONE, id, &error_body(&ErrorBody::new(code, message)));
        state.wake();
        drop(state);
        entry.work.abandon();
        true
    }
}

impl Work {
    /// Nobody wants the answer any more.
    fn abandon(self) {
        match self {
            Self::Plugin(call) => call.cancel(CancelReason::Caller),
            Self::Operation { task, .. } => task.abort(),
            Self::New => {}
        }
    }
}

impl Caller for Shared {
    fn frame(&self, id: u64, kind: Kind, flags: Flags, content: &[u8], ends: Ends) {
        if self.refuses(id, kind, flags) {
            return;
        }
        let mut state = self.state();
        let State { outbox, calls, merged, .. } = &mut *state;
        let Some(entry) = calls.get_mut(&id) else { return };
        let crowded = outbox.small_bytes() > MERGE_BYTES;
        match kind {
            Kind::Progress if crowded => {
                if entry.progress.is_none() && entry.credit == 0 {
                    merged.push_back(id);
                }
                entry.progress = Some(content.into());
                return;
            }
            Kind::StreamCredit if crowded => {
                let bytes = rmp_serde::from_slice::<StreamCredit>(content).map_or(0, |credit| credit.bytes);
                if entry.progress.is_none() && entry.credit == 0 {
                    merged.push_back(id);
                }
                entry.credit = entry.credit.saturating_add(bytes);
                return;
            }
            Kind::Progress | Kind::StreamCredit => {
                // A long one goes with the bulk data whatever is said here, and the end must not overtake it.
                entry.in_bulk |= content.len() >= LARGE_FRAME_BYTES;
                outbox.content(Lane::Small, kind, flags, id, content);
            }
            _ => {
                let lane = if entry.in_bulk { Lane::Bulk } else { Lane::Small };
                entry.in_bulk |= content.len() >= LARGE_FRAME_BYTES;
                outbox.content(lane, kind, flags, id, content);
            }
        }
        if ends == Ends::Yes {
            calls.remove(&id);
        }
        state.wake();
    }

    fn large(&self, id: u64, frame: OwnedFrame, ends: Ends) {
        let header = frame.header();
        if Kind::from_number(header.kind).is_some_and(|kind| self.refuses(id, kind, header.flags)) {
            return;
        }
        let mut state = self.state();
        let State { outbox, calls, .. } = &mut *state;
        let Some(entry) = calls.get_mut(&id) else { return };
        entry.in_bulk = true;
        let header = frame.header();
        let kind = Kind::from_number(header.kind).unwrap_or(Kind::Continue);
        outbox.frame(frame.readdressed(kind, header.flags, id));
        if ends == Ends::Yes {
            calls.remove(&id);
        }
        state.wake();
    }

    fn calls_counted(&self, counters: &Arc<Counters>) -> usize {
        let state = self.state();
        let counted = |entry: &&Entry| matches!(&entry.work, Work::Plugin(call) if call.is_counted_by(counters));
        state.calls.values().filter(counted).count()
    }
}

/// One agent.
struct Agent {
    stream: UnixStream,
    shared: Arc<Shared>,
    service: Arc<Service>,
    caller: Arc<str>,
    /// Whether it may do what concerns others: the daemon and the plugins as a whole.
    is_operator: bool,
    reader: Reader,
    greeted: bool,
    last_id: u64,
    /// Cuts off an agent that says nothing at first, or reads nothing later.
    timer: Pin<Box<Sleep>>,
    /// How much had been written when the timer was set, while something waits: as long as that grows the agent reads.
    waited: Option<u64>,
    operations: JoinSet<()>,
}

/// Why a connection ends.
enum End {
    /// The agent has gone.
    Gone,
    /// It broke the protocol.
    Violation(String),
    /// It was cut off.
    Condemned(&'static str),
}

impl From<FrameError> for End {
    fn from(error: FrameError) -> Self {
        Self::Violation(error.to_string())
    }
}

impl Agent {
    fn new(stream: UnixStream, service: Arc<Service>, uid: u32) -> Self {
        let own = rustix::process::geteuid().as_raw();
        let is_operator = uid == 0 || uid == own || service.config.operators.contains(&uid);
        let state = State {
            outbox: Outbox::default(),
            calls: HashMap::default(),
            merged: VecDeque::new(),
            waker: None,
            condemned: None,
            streams: false,
            continues: false,
        };
        Self {
            stream,
            shared: Arc::new(Shared { state: Mutex::new(state) }),
            service,
            caller: format!("uid:{uid}").into(),
            is_operator,
            reader: Reader::default(),
            greeted: false,
            last_id: 0,
            timer: Box::pin(tokio::time::sleep(HELLO_WITHIN)),
            waited: None,
            operations: JoinSet::new(),
        }
    }

    async fn run(mut self, mut leaving: watch::Receiver<bool>) {
        let told = leaving.clone();
        let end = {
            let mut work = pin!(self.work());
            // An error means that nobody is left who could say so.
            let mut left = pin!(leaving.changed());
            // Polled once, it keeps the waker of this task; from then on a look at what it waits for is enough.
            let mut waits = false;
            poll_fn(|cx| {
                if let Poll::Ready(end) = work.as_mut().poll(cx) {
                    return Poll::Ready(end);
                }
                if !waits || told.has_changed().unwrap_or(true) {
                    waits = true;
                    return left.as_mut().poll(cx).map(|_| End::Condemned("the daemon stops"));
                }
                Poll::Pending
            })
            .await
        };
        self.end(end).await;
    }

    /// Takes in what comes, until there is a reason to end.
    async fn work(&mut self) -> End {
        loop {
            let filled = match poll_fn(|cx| self.poll(cx)).await {
                Ok(filled) => filled,
                Err(end) => return end,
            };
            if filled == Filled::End {
                return End::Gone;
            }
            if let Err(end) = self.take(filled) {
                return end;
            }
        }
    }

    /// Writes what waits, and reads what has come.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Filled, End>> {
        let mut state = self.shared.state();
        if let Some(why) = state.condemned {
            return Poll::Ready(Err(End::Condemned(why)));
        }
        loop {
            match state.outbox.poll_flush(cx, &mut self.stream) {
                Poll::Ready(Ok(())) if state.merged.is_empty() => break,
                Poll::Ready(Ok(())) => state.emit_merged(),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Gone)),
                Poll::Pending => break,
            }
        }
        let (waiting, written) = (state.outbox.bytes(), state.outbox.written());
        if !state.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            state.waker = Some(cx.waker().clone());
        }
        drop(state);
        if let Err(end) = self.watch(cx, waiting, written) {
            return Poll::Ready(Err(end));
        }
        // Operations that have ended are forgotten.
        while !self.operations.is_empty()
            && let Poll::Ready(Some(ended)) = self.operations.poll_join_next(cx)
        {
            if let Err(error) = ended
                && error.is_panic()
            {
                self.panicked(&error);
            }
        }
        if waiting > BACKPRESSURE_BYTES {
            return Poll::Pending;
        }
        match self.reader.poll_fill(cx, &mut self.stream) {
            Poll::Ready(Ok(filled)) => Poll::Ready(Ok(filled)),
            Poll::Ready(Err(_)) => Poll::Ready(Err(End::Gone)),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Cuts off an agent that says no hello, or does not read.
    fn watch(&mut self, cx: &mut Context<'_>, waiting: usize, written: u64) -> Result<(), End> {
        if self.greeted {
            match (waiting, self.waited) {
                (0, _) => {
                    self.waited = None;
                    return Ok(());
                }
                (_, Some(before)) if written == before => {}
                _ => {
                    self.waited = Some(written);
                    self.timer.as_mut().reset(tokio::time::Instant::now() + STALLED);
                }
            }
        }
        if self.timer.as_mut().poll(cx).is_ready() {
            return Err(End::Condemned(if self.greeted { "it reads nothing" } else { "it said no hello" }));
        }
        Ok(())
    }

    fn take(&mut self, filled: Filled) -> Result<(), End> {
        let mut reader = std::mem::take(&mut self.reader);
        let taken = reader.frames(filled, |incoming| match self.take_frame(incoming) {
            Ok(()) => ControlFlow::Continue(()),
            Err(end) => ControlFlow::Break(end),
        });
        self.reader = reader;
        match taken? {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(end) => Err(end),
        }
    }

    fn take_frame(&mut self, incoming: Incoming<'_>) -> Result<(), End> {
        match incoming {
            Incoming::Small(frame) => match frame.kind()? {
                Some(Kind::Call) if self.greeted => {
                    let (call, payload) = frame.message::<CallBody<'_>>(Kind::Call)?;
                    self.call(frame.header.id, frame.header.flags, &call, Params::Small(payload.into()))
                }
                Some(kind) => self.other(kind, &frame),
                None => Ok(()),
            },
            Incoming::Large(owned) => {
                let header = owned.header();
                let frame = Frame { header, content: owned.content() };
                match frame.kind()? {
                    Some(Kind::Call) if self.greeted => {
                        let owned = Arc::new(owned);
                        let frame = Frame { header, content: owned.content() };
                        let (call, payload) = frame.message::<CallBody<'_>>(Kind::Call)?;
                        let start = frame.content.len() - payload.len();
                        self.call(header.id, header.flags, &call, Params::Large(owned.clone(), start))
                    }
                    Some(kind @ (Kind::StreamData | Kind::Continue)) => {
                        frame.parts(kind)?;
                        self.follow(kind, header.id, header.flags, Follow::Large(owned))
                    }
                    Some(kind) => self.other(kind, &frame),
                    None => Ok(()),
                }
            }
        }
    }

    fn other(&mut self, kind: Kind, frame: &Frame<'_>) -> Result<(), End> {
        let id = frame.header.id;
        if !self.greeted {
            return match kind {
                Kind::Hello => self.greet(&frame.message(kind)?.0),
                other => Err(End::Violation(format!("{} before Hello", a_frame(other)))),
            };
        }
        match kind {
            Kind::Cancel => {
                let (cancel, _) = frame.message::<Cancel>(kind)?;
                let state = self.shared.state();
                match state.calls.get(&id).map(|entry| &entry.work) {
                    Some(Work::Plugin(call)) => {
                        let call = call.clone();
                        drop(state);
                        call.cancel(cancel.reason);
                    }
                    Some(Work::Operation { task, .. }) => {
                        task.abort();
                        drop(state);
                        let body = body(&Cancelled { message: None });
                        self.shared.frame(id, Kind::Cancelled, Flags::NONE, &body, Ends::Yes);
                    }
                    Some(Work::New) | None => {}
                }
                Ok(())
            }
            Kind::StreamCredit => {
                let (credit, _) = frame.message::<StreamCredit>(kind)?;
                let state = self.shared.state();
                match state.calls.get(&id).map(|entry| &entry.work) {
                    Some(Work::Plugin(call)) => {
                        let call = call.clone();
                        drop(state);
                        call.grant(credit.bytes).map_err(|error| End::Violation(format!("call {id}: {error}")))
                    }
                    Some(Work::Operation { credit: granted, .. }) => {
                        let room = (Semaphore::MAX_PERMITS / 2).saturating_sub(granted.available_permits());
                        granted.add_permits((credit.bytes as usize).min(room));
                        Ok(())
                    }
                    Some(Work::New) | None => Ok(()),
                }
            }
            Kind::StreamOpen => {
                frame.message::<StreamOpen>(kind)?;
                self.follow_small(kind, frame)
            }
            Kind::StreamAbort => {
                let (abort, _) = frame.message::<StreamAbort>(kind)?;
                // Once for each stream: what is said again says nothing, and would have to be kept.
                let news = match (self.shared.state().calls.get_mut(&id), abort.by) {
                    (None, _) => false,
                    (Some(entry), StreamSide::Sender) => {
                        std::mem::replace(&mut entry.input, Input::Ended) == Input::Open
                    }
                    (Some(entry), StreamSide::Receiver) => !std::mem::replace(&mut entry.output_refused, true),
                };
                if news { self.follow_small(kind, frame) } else { Ok(()) }
            }
            Kind::StreamData | Kind::StreamEnd | Kind::Continue => {
                frame.parts(kind)?;
                self.follow_small(kind, frame)
            }
            Kind::Ping => {
                frame.message::<Ping>(kind)?;
                self.begins("a ping", id)?;
                let mut state = self.shared.state();
                let calls = u32::try_from(state.calls.len()).unwrap_or(u32::MAX);
                let pong = Pong { calls, ..Pong::default() };
                state.outbox.message(Kind::Pong, Flags::NONE, id, &pong, &[]);
                Ok(())
            }
            Kind::Refuse => Err(End::Gone),
            Kind::Hello => Err(End::Violation("a second Hello".to_owned())),
            Kind::Welcome
            | Kind::Ready
            | Kind::Pong
            | Kind::Drain
            | Kind::Drained
            | Kind::Extend
            | Kind::Log
            | Kind::Call
            | Kind::Progress
            | Kind::Ok
            | Kind::Err
            | Kind::Cancelled
            | Kind::HostCall
            | Kind::HostOk
            | Kind::HostErr => Err(End::Violation(format!("{}, which agents do not send", a_frame(kind)))),
        }
    }

    fn greet(&mut self, hello: &Hello) -> Result<(), End> {
        let Some(version) = common_version(PROTOCOL, hello.protocol) else {
            return Err(End::Violation(format!(
                "you speak protocol versions {} to {}, and this supervisor {} to {}",
                hello.protocol.min, hello.protocol.max, PROTOCOL.min, PROTOCOL.max
            )));
        };
        self.greeted = true;
        let features = common_features(&hello.features);
        let agreed = |feature: Feature| features.iter().any(|name| name == feature.name());
        {
            let mut state = self.shared.state();
            (state.streams, state.continues) = (agreed(Feature::Streams), agreed(Feature::Continue));
        }
        let welcome = Welcome {
            protocol: version,
            features,
            software: concat!("palisaded/", env!("CARGO_PKG_VERSION")).to_owned(),
            limits: Limits { calls_max: CALLS_MAX, ..Limits::default() },
            plugin: None,
        };
        self.shared.state().outbox.message(Kind::Welcome, Flags::NONE, 0, &welcome, &[]);
        Ok(())
    }

    /// Takes note of an id that the agent begins, with a call or a ping. None is used again, whatever it was for: what is answered
    /// under it would have two meanings.
    fn begins(&mut self, what: &str, id: u64) -> Result<(), End> {
        let last = self.last_id;
        if id.is_multiple_of(2) || id <= last {
            return Err(End::Violation(format!(
                "{what} under id {id}; it has to be odd and above the last one, {last}"
            )));
        }
        self.last_id = id;
        Ok(())
    }

    fn call(&mut self, id: u64, flags: Flags, head: &CallBody<'_>, params: Params) -> Result<(), End> {
        self.begins("a call", id)?;
        let more = flags.has(Flags::MORE);
        let mut state = self.shared.state();
        let under_way = state.calls.len();
        let entry = Entry {
            work: Work::New,
            in_bulk: false,
            progress: None,
            credit: 0,
            params_continue: more,
            params_bytes: params.bytes().len() as u64,
            input: Input::Unopened,
            output_refused: false,
        };
        state.calls.insert(id, entry);
        drop(state);
        if under_way >= CALLS_MAX as usize {
            let error = ErrorBody::new(
                ErrorCode::Overloaded,
                format!("you have {CALLS_MAX} calls under way, as many as an agent may"),
            );
            self.fail(id, &error.with_retry_after_ms(10));
            return Ok(());
        }
        let Some(plugin) = head.plugin else {
            self.fail(id, &ErrorBody::new(ErrorCode::InvalidParams, "the call does not say which plugin it is for"));
            return Ok(());
        };
        if plugin == SUPERVISOR_ID {
            if more {
                self.fail(id, &ErrorBody::new(ErrorCode::InvalidParams, "operations take no parameters that long"));
            } else {
                self.operate(id, head, &params);
            }
            return Ok(());
        }
        let call = NewCall {
            action: head.action.into(),
            params,
            more,
            caller_limit: head.deadline_ms.map(Duration::from_millis),
            caller: self.caller.clone(),
            reply_to: (self.shared.clone(), id),
        };
        let target = Target { plugin, version: head.version };
        let shared = &self.shared;
        let known = |call: &Arc<Call>| {
            if let Some(entry) = shared.state().calls.get_mut(&id) {
                entry.work = Work::Plugin(call.clone());
            }
        };
        if let Err(error) = self.service.call(target, call, known) {
            self.fail(id, &error);
        }
        Ok(())
    }

    fn fail(&self, id: u64, error: &ErrorBody) {
        self.shared.frame(id, Kind::Err, Flags::NONE, &error_body(error), Ends::Yes);
    }

    fn follow_small(&mut self, kind: Kind, frame: &Frame<'_>) -> Result<(), End> {
        let flags = frame.header.flags;
        self.follow(kind, frame.header.id, flags, Follow::Small(kind, flags, frame.content))
    }

    /// Something that belongs to a call under way. What comes for one that has ended crossed with its end.
    fn follow(&mut self, kind: Kind, id: u64, flags: Flags, follow: Follow<'_>) -> Result<(), End> {
        let violation = |what: &str| Err(End::Violation(format!("call {id}: {} {what}", a_frame(kind))));
        let length = follow.content_bytes();
        let mut state = self.shared.state();
        let Some(entry) = state.calls.get_mut(&id) else { return Ok(()) };
        if entry.params_continue && matches!(kind, Kind::StreamOpen | Kind::StreamData | Kind::StreamEnd) {
            return violation("before the parameters were complete");
        }
        match kind {
            Kind::Continue if !entry.params_continue => return violation("and nothing to continue"),
            Kind::Continue => {
                entry.params_bytes += length as u64;
                entry.params_continue = flags.has(Flags::MORE);
                // Each piece has a byte of body as well; a frame of slack covers them all.
                if entry.params_bytes > PAYLOAD_BYTES_MAX + u64::from(palisade_protocol::FRAME_BYTES_MAX) {
                    return violation("beyond the largest payload");
                }
            }
            Kind::StreamOpen if entry.input != Input::Unopened => return violation("for a second input stream"),
            Kind::StreamOpen => entry.input = Input::Open,
            Kind::StreamData | Kind::StreamEnd if entry.input != Input::Open => {
                return violation("on a stream that is not open");
            }
            Kind::StreamEnd => entry.input = Input::Ended,
            _ => {}
        }
        let Work::Plugin(call) = &entry.work else { return Ok(()) };
        let call = call.clone();
        drop(state);
        call.follow(follow).map_err(|error| End::Violation(format!("call {id}: {error}")))
    }

    /// Performs an administrative operation in a task of its own.
    fn operate(&mut self, id: u64, head: &CallBody<'_>, params: &Params) {
        let credit = Arc::new(Semaphore::new(CREDIT_BYTES as usize));
        let service = self.service.clone();
        let shared = self.shared.clone();
        let action = head.action.to_owned();
        let params = params.bytes().to_vec();
        let limit = head.deadline_ms.map(Duration::from_millis);
        if !self.is_operator && CHANGES.contains(&head.action) {
            let message = format!("{} may call plugins, and not {action} them", self.caller);
            let error = ErrorBody::new(ErrorCode::PermissionDenied, message);
            let hint = "root, the daemon's own user, and `operators` of palisade.toml may";
            return self.fail(id, &error.with_hint(hint));
        }
        let mut items = StreamItems { shared: shared.clone(), id, credit: credit.clone(), open: false };
        let work = async move {
            let operation = service.operate(&action, &params, &mut items);
            let outcome = match limit {
                Some(limit) => tokio::time::timeout(limit, operation).await.unwrap_or_else(|_| {
                    let message = format!("{action}: no answer within {} ms, the caller's deadline", limit.as_millis());
                    Err(ErrorBody::new(ErrorCode::Timeout, message)
                        .with_details(limit_details(limit, LimitedBy::Caller)))
                }),
                None => operation.await,
            };
            match outcome {
                Ok(value) => items.finish(&value).await,
                Err(error) => shared.frame(id, Kind::Err, Flags::NONE, &error_body(&error), Ends::Yes),
            }
        };
        let task = self.operations.spawn(work);
        // If it has ended already, so has its entry.
        if let Some(entry) = self.shared.state().calls.get_mut(&id) {
            entry.work = Work::Operation { task, credit };
        }
    }

    /// An operation ended by a fault of ours, and its call is still owed an answer.
    fn panicked(&self, error: &JoinError) {
        tracing::error!(caller = %self.caller, %error, "an operation panicked");
        let state = self.shared.state();
        let its = |entry: &Entry| matches!(&entry.work, Work::Operation { task, .. } if task.id() == error.id());
        let call = state.calls.iter().find_map(|(id, entry)| its(entry).then_some(*id));
        drop(state);
        if let Some(id) = call {
            let error = ErrorBody::new(ErrorCode::Internal, "the operation failed by a fault of the daemon's");
            self.fail(id, &error.with_hint("the daemon's log says more"));
        }
    }

    /// Ends the calls of an agent that is gone, and tells one that is not why it is cut off.
    async fn end(mut self, end: End) {
        let calls: Vec<_> = {
            let mut state = self.shared.state();
            state.calls.drain().collect()
        };
        for (_, entry) in calls {
            entry.work.abandon();
        }
        self.operations.shutdown().await;
        let error = match end {
            End::Gone => return,
            End::Violation(detail) => {
                tracing::info!(caller = %self.caller, %detail, "an agent broke the protocol");
                ErrorBody { fault: Fault::Caller, ..ErrorBody::new(ErrorCode::ProtocolViolation, detail) }
            }
            End::Condemned(why) => {
                tracing::info!(caller = %self.caller, why, "an agent was cut off");
                ErrorBody::new(ErrorCode::Unavailable, format!("the connection is closed: {why}"))
            }
        };
        let mut outbox = std::mem::take(&mut self.shared.state().outbox);
        outbox.message(Kind::Refuse, Flags::NONE, 0, &Refuse { error }, &[]);
        // Said if it can be said at once.
        poll_fn(|cx| {
            let _ = outbox.poll_flush(cx, &mut self.stream);
            Poll::Ready(())
        })
        .await;
    }
}

/// The output stream of an operation.
struct StreamItems {
    shared: Arc<Shared>,
    id: u64,
    credit: Arc<Semaphore>,
    open: bool,
}

impl Items for StreamItems {
    fn open(&mut self) {
        if !self.open {
            self.open = true;
            let open = body(&StreamOpen { kind: StreamKind::Items });
            self.shared.frame(self.id, Kind::StreamOpen, Flags::NONE, &open, Ends::No);
        }
    }

    async fn send(&mut self, item: Value) -> Result<(), ErrorBody> {
        self.open();
        let mut content = body(&Empty {});
        palisade_protocol::encode_value(&mut content, &item)
            .map_err(|error| ErrorBody::new(ErrorCode::Internal, error.to_string()))?;
        let bytes = u32::try_from(content.len()).unwrap_or(u32::MAX);
        match self.credit.acquire_many(bytes).await {
            Ok(spent) => spent.forget(),
            Err(_) => return Err(ErrorBody::new(ErrorCode::Cancelled, "nobody reads any more")),
        }
        self.shared.frame(self.id, Kind::StreamData, Flags::NONE, &content, Ends::No);
        Ok(())
    }
}

impl StreamItems {
    /// The end of the stream, if there was one, and the result: in pieces, if it is long.
    async fn finish(&mut self, value: &Value) {
        if self.open {
            self.shared.frame(self.id, Kind::StreamEnd, Flags::NONE, &body(&Empty {}), Ends::No);
        }
        let mut payload = Vec::new();
        if let Err(error) = palisade_protocol::encode_value(&mut payload, value) {
            let error = ErrorBody::new(ErrorCode::Internal, error.to_string());
            return self.shared.frame(self.id, Kind::Err, Flags::NONE, &body(&error), Ends::Yes);
        }
        let empty = body(&Empty {});
        let continues = self.shared.state().continues;
        // An agent that takes no pieces gets it whole, if that is possible at all.
        let fits = payload.len() + empty.len() <= palisade_protocol::FRAME_BYTES_MAX as usize;
        let piece_bytes = if continues || !fits { PIECE_BYTES } else { payload.len().max(1) };
        let mut pieces = payload.chunks(piece_bytes).peekable();
        let mut kind = Kind::Ok;
        while let Some(piece) = pieces.next() {
            let content = [&empty, piece].concat();
            if kind == Kind::Continue {
                let bytes = u32::try_from(content.len()).unwrap_or(u32::MAX);
                match self.credit.acquire_many(bytes).await {
                    Ok(spent) => spent.forget(),
                    Err(_) => return,
                }
            }
            let (flags, ends) =
                if pieces.peek().is_some() { (Flags::MORE, Ends::No) } else { (Flags::NONE, Ends::Yes) };
            self.shared.frame(self.id, kind, flags, &content, ends);
            kind = Kind::Continue;
        }
    }
}

#[cfg(test)]
mod tests;
