//! One connection to the supervisor: its socket, the task that drives it, and its calls.
//!
//! Callers put frames into the outbox and wait; one task reads, wakes whom the frames concern, and writes what has gathered, as
//! many frames per system call as there are. A call that is alone writes for itself, so that it does not wait for the task to
//! be scheduled.
//!
//! Invariants: the lock is never held across an await, and nothing is woken under it. When the task ends, for whatever reason,
//! every call has an outcome and every later one is turned away.
//! Elsewhere: what frames mean is in `calls`; when to connect again is in `client`.

use std::io::{self, IoSlice};
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use palisade_protocol as protocol;
use palisade_protocol::{
    CancelReason, ErrorBody, ErrorCode, FEATURES, FRAME_BYTES_MAX, FRAME_BYTES_MIN, Feature, Flags, HEADER_BYTES,
    Header, Hello, Kind, Limits, PAYLOAD_BYTES_MAX, PROTOCOL, Refuse, StreamKind, Welcome, encode, split,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep, sleep, timeout};

use crate::CallError;
use crate::calls::{Begin, Calls, Content, Loss, Outcome, SendingIsOver, Unit, Violation};
use crate::outbox::SLICES_MAX;

/// One read brings at most so much: hundreds of small frames.
const READ_BYTES: usize = 64 << 10;

/// Frames from this size on are received into memory of their own, which then becomes the payload.
const LARGE_BYTES: usize = 32 << 10;

/// What is read after a large frame, as another probably follows: its header, and little of what would have to be copied.
const PEEK_BYTES: usize = 1 << 10;

/// A supervisor that listens but says nothing is given up after this.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// A handshake is read in pieces of this size; most are shorter.
const HANDSHAKE_BYTES: usize = 1 << 10;

/// How often connecting is tried while the supervisor's queue of connections is full, and the pause before the first repetition.
const BUSY_ATTEMPTS: u32 = 8;
const BUSY_PAUSE: Duration = Duration::from_millis(2);

/// Most calls under way at once, whatever the supervisor would take. It bounds what waits to be written: at most a frame of
/// 128 KiB each.
const CALLS_MAX: u32 = 4096;

/// With calls under way and nothing else to wake for, the task looks once an hour; that spares a special case.
const IDLE_ALARM: Duration = Duration::from_secs(3600);

/// Largest frame accepted, whatever was announced: one that holds the largest payload and the largest body.
const FRAME_BYTES_CEILING: u32 = (64 << 20) + (64 << 10);

/// What two ends agreed on.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    pub(crate) software: String,
    pub(crate) limits: Limits,
    pub(crate) streams: bool,
    pub(crate) may_continue: bool,
}

/// The part of a connection that callers and the task share.
#[derive(Debug)]
pub(crate) struct Link {
    shared: Mutex<Shared>,
    socket: OwnedWriteHalf,
    permits: Semaphore,
    usable: AtomicBool,
    pub(crate) terms: Terms,
}

#[derive(Debug)]
struct Shared {
    calls: Calls,
    /// The task, while it sleeps.
    driver: Option<Waker>,
    /// Until when the task sleeps at most; `None`: until something happens.
    alarm: Option<Instant>,
    /// Nobody holds the connection any more.
    released: bool,
    write_failed: Option<io::ErrorKind>,
}

/// What callers hold of a connection; it is closed with the last of them.
#[derive(Debug)]
pub(crate) struct Connection {
    link: Arc<Link>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        let driver = {
            let mut shared = self.link.lock();
            shared.released = true;
            shared.driver.take()
        };
        wake(driver);
    }
}

impl Connection {
    /// Connects, exchanges Hello and Welcome, and starts the task.
    pub(crate) async fn open(path: &Path, keepalive: Option<Duration>) -> Result<Arc<Self>, CallError> {
        let mut stream = connect(path).await.map_err(|error| CallError::not_reachable(path, &error))?;
        let shaken = timeout(HANDSHAKE, shake_hands(&mut stream)).await;
        let (terms, left_over) = shaken.unwrap_or_else(|_| {
            // The system accepts connections for whoever listens, also while nobody takes them.
            Err(lost(format!(
                "the daemon listens and did not answer the handshake within {} s: it is still starting, as while it copies \
                 packages, or it is stopped or hangs; its log says more",
                HANDSHAKE.as_secs()
            )))
        })?;
        let (read, socket) = stream.into_split();
        let link = Arc::new(Link {
            shared: Mutex::new(Shared {
                calls: Calls::new(terms.limits, terms.may_continue),
                driver: None,
                alarm: None,
                released: false,
                write_failed: None,
            }),
            socket,
            permits: Semaphore::new(terms.limits.calls_max.clamp(1, CALLS_MAX) as usize),
            usable: AtomicBool::new(true),
            terms,
        });
        tokio::spawn(drive(Ended(Arc::clone(&link)), Reader::new(read, left_over, &link), keepalive));
        Ok(Arc::new(Self { link }))
    }

    /// Whether calls may be begun on it.
    pub(crate) fn is_usable(&self) -> bool {
        self.link.usable.load(Ordering::Acquire)
    }

    pub(crate) fn terms(&self) -> &Terms {
        &self.link.terms
    }

    /// Waits until one more call may be under way. Cancel safe: a place that was had is given back.
    pub(crate) async fn place(&self) -> Result<Place<'_>, CallError> {
        let permit = match self.link.permits.try_acquire() {
            Ok(permit) => permit,
            Err(_) => match self.link.permits.acquire().await {
                Ok(permit) => permit,
                Err(_) => return Err(self.link.lock().lost(false)),
            },
        };
        Ok(Place { permit })
    }

    /// Writes the call's first frame, or queues it. The returned call is cancelled when it is dropped.
    pub(crate) fn begin(self: &Arc<Self>, place: Place<'_>, begin: &Begin<'_>) -> Result<Handle, CallError> {
        let mut shared = self.link.lock();
        if shared.calls.lost().is_some() {
            return Err(shared.lost(false));
        }
        let alone = shared.calls.unanswered() == 0 && shared.calls.outbox.is_empty();
        let id = shared.calls.begin(begin)?;
        // From here on the terminal frame gives the place back.
        place.permit.forget();
        if alone {
            self.link.flush(&mut shared);
        }
        let alarm_is_late = match (shared.alarm, begin.deadline) {
            (None, _) => true,
            (Some(alarm), Some((at, _))) if at < alarm => {
                shared.alarm = Some(at);
                true
            }
            (Some(_), _) => false,
        };
        let driver = if alarm_is_late || !shared.calls.outbox.is_empty() { shared.driver.take() } else { None };
        drop(shared);
        wake(driver);
        Ok(Handle { connection: Arc::clone(self), id })
    }
}

/// Leave to have one more call under way.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    permit: tokio::sync::SemaphorePermit<'a>,
}

/// One party to a call. With its last handle a call is cancelled, unless it is over.
#[derive(Debug)]
pub(crate) struct Handle {
    connection: Arc<Connection>,
    id: u64,
}

impl Clone for Handle {
    fn clone(&self) -> Self {
        self.change(|calls, id| calls.add_handle(id));
        Self { connection: Arc::clone(&self.connection), id: self.id }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.change(|calls, id| calls.drop_handle(id));
    }
}

impl Handle {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn terms(&self) -> &Terms {
        self.connection.terms()
    }

    /// Changes the call, then wakes whom that concerns.
    fn change<T>(&self, change: impl FnOnce(&mut Calls, u64) -> T) -> T {
        let mut shared = self.connection.link.lock();
        let result = change(&mut shared.calls, self.id);
        let woken = std::mem::take(&mut shared.calls.woken);
        let driver = if shared.calls.outbox.is_empty() { None } else { shared.driver.take() };
        drop(shared);
        woken.into_iter().for_each(Waker::wake);
        wake(driver);
        result
    }

    pub(crate) fn cancel(&self) {
        self.change(|calls, id| calls.cancel(id, CancelReason::Caller));
    }

    pub(crate) fn poll_outcome(&self, cx: &mut Context<'_>) -> Poll<Outcome> {
        self.connection.link.lock().calls.poll_outcome(self.id, cx)
    }

    /// Sends all of `payload` that is left, at the callee's pace. Cancel safe: what was sent is gone from `payload`.
    pub(crate) async fn send(&self, kind: Kind, marked: bool, payload: &mut Bytes) -> Result<(), SendingIsOver> {
        std::future::poll_fn(|cx| self.change(|calls, id| calls.poll_send(id, kind, marked, payload, cx))).await
    }

    /// Sends what of the parameters did not go with the call.
    pub(crate) async fn send_rest(&self, payload: &Bytes) -> Result<(), SendingIsOver> {
        let first = self.connection.link.lock().calls.first_piece(payload);
        if first == payload.len() {
            return Ok(());
        }
        let mut rest = payload.slice(first..);
        self.send(Kind::Continue, true, &mut rest).await
    }

    pub(crate) fn open_input(&self, kind: StreamKind) {
        self.change(|calls, id| calls.open_input(id, kind));
    }

    pub(crate) fn end_input(&self) {
        self.change(|calls, id| calls.end_input(id));
    }

    pub(crate) fn abort_input(&self) {
        self.change(|calls, id| calls.abort_input(id));
    }

    pub(crate) fn want_output(&self) {
        self.change(|calls, id| calls.want_output(id));
    }

    pub(crate) fn refuse_output(&self) {
        self.change(|calls, id| calls.refuse_output(id));
    }

    pub(crate) fn refuse_output_unless_wanted(&self) {
        self.change(|calls, id| calls.refuse_output_unless_wanted(id));
    }

    pub(crate) fn poll_output(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Unit, CallError>>> {
        self.change(|calls, id| calls.poll_output(id, cx))
    }

    pub(crate) fn poll_progress(&self, cx: &mut Context<'_>) -> Poll<Option<protocol::Progress>> {
        self.connection.link.lock().calls.poll_progress(self.id, cx)
    }
}

impl Shared {
    fn lost(&self, sent: bool) -> CallError {
        match self.calls.lost() {
            Some(loss) => loss.error(sent),
            None => lost("it was closed".into()),
        }
    }
}

fn lost(reason: String) -> CallError {
    CallError::Lost { reason, sent: false }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

impl Link {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        // Nothing of ours panics under the lock; were it to happen, the state is no worse than without the panic.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes as much as the socket takes now.
    fn flush(&self, shared: &mut Shared) {
        while shared.write_failed.is_none() && !shared.calls.outbox.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let used = shared.calls.outbox.slices(&mut slices);
            match self.socket.try_write_vectored(&slices[..used]) {
                Ok(count) => shared.calls.outbox.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What the supervisor said last may still be there to read, so the task ends the connection.
                Err(error) => shared.write_failed = Some(error.kind()),
            }
        }
        shared.calls.wake_senders();
    }

    /// Nothing more will be read or written.
    fn end(&self, loss: Loss) {
        self.usable.store(false, Ordering::Release);
        self.permits.close();
        // Clients may hold the link for long after; the supervisor should learn at once that nobody is here.
        let _ = rustix::net::shutdown(self.socket.as_ref(), rustix::net::Shutdown::Both);
        let woken = {
            let mut shared = self.lock();
            shared.calls.lose(loss);
            std::mem::take(&mut shared.calls.woken)
        };
        woken.into_iter().for_each(Waker::wake);
    }
}

/// Ends the link even when the task is dropped with its runtime.
struct Ended(Arc<Link>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.end(Loss::Ended("the runtime that drove it was shut down".into()));
    }
}

async fn drive(ended: Ended, mut reader: Reader, keepalive: Option<Duration>) {
    let link = &ended.0;
    let mut alarm = pin!(sleep(Duration::ZERO));
    let mut watch = Silence { heard: 0, asked: false, due: None, keepalive };
    let loss = std::future::poll_fn(|cx| step(link, &mut reader, alarm.as_mut(), &mut watch, cx)).await;
    if let End::Violation(detail) = &loss {
        let error = ErrorBody::new(ErrorCode::ProtocolViolation, detail.clone());
        let mut farewell = Vec::new();
        encode(&mut farewell, Kind::Refuse, Flags::NONE, 0, &Refuse { error }, &[]);
        // One attempt: whoever breaks the protocol is not waited for. It is no frame if another was cut off, which is as well.
        let _ = link.socket.try_write(&farewell);
    }
    link.end(match loss {
        End::Released => Loss::Ended("it was closed".into()),
        End::Refused(body) => Loss::Refused(body),
        End::Closed => Loss::Ended("the daemon closed it".into()),
        End::Cut => Loss::Ended("the daemon closed it in the middle of a frame".into()),
        End::Io(error) => Loss::Ended(error.to_string()),
        End::Violation(detail) => Loss::Ended(format!("the daemon broke the protocol: {detail}")),
        End::Silent(after) => Loss::Ended(format!("the daemon was silent for {} s", after.as_secs_f64())),
    });
}

/// Why the task ends.
enum End {
    Released,
    Refused(Box<ErrorBody>),
    Closed,
    Cut,
    Io(io::Error),
    Violation(String),
    Silent(Duration),
}

/// Tells a supervisor that is silent from one that has nothing to say.
struct Silence {
    /// How many frames had come when last looked.
    heard: u64,
    /// Whether a ping was sent since.
    asked: bool,
    /// When to look again.
    due: Option<Instant>,
    keepalive: Option<Duration>,
}

fn step(
    link: &Link,
    reader: &mut Reader,
    mut alarm: Pin<&mut Sleep>,
    silence: &mut Silence,
    cx: &mut Context<'_>,
) -> Poll<End> {
    loop {
        match reader.read(link, cx) {
            Poll::Ready(Ok(true)) => {}
            Poll::Ready(Ok(false)) => {
                return Poll::Ready(if reader.is_mid_frame() { End::Cut } else { End::Closed });
            }
            Poll::Ready(Err(end)) => return Poll::Ready(end),
            Poll::Pending => break,
        }
    }
    loop {
        let mut shared = link.lock();
        link.flush(&mut shared);
        if shared.released {
            // Whatever is still under way ends with the connection.
            return Poll::Ready(End::Released);
        }
        if let Some(kind) = shared.write_failed {
            return Poll::Ready(End::Io(kind.into()));
        }
        let blocked = !shared.calls.outbox.is_empty();
        // An alarm is set while there are calls: at their next deadline, or to look for silence.
        if shared.calls.unanswered() == 0 {
            shared.alarm = None;
            silence.due = None;
        } else {
            let now = Instant::now();
            if shared.alarm.is_none_or(|alarm| alarm <= now) {
                let deadline = shared.calls.expire(now);
                if let Some(end) = silence.look(&mut shared.calls, now) {
                    return Poll::Ready(end);
                }
                shared.alarm = deadline.into_iter().chain(silence.due).min().or(Some(now + IDLE_ALARM));
            }
        }
        match &shared.driver {
            Some(waker) if waker.will_wake(cx.waker()) => {}
            _ => shared.driver = Some(cx.waker().clone()),
        }
        let due = shared.alarm;
        let again = !shared.calls.outbox.is_empty() && !blocked;
        let woken = std::mem::take(&mut shared.calls.woken);
        drop(shared);
        woken.into_iter().for_each(Waker::wake);
        if again {
            continue;
        }
        if blocked {
            match link.socket.as_ref().poll_write_ready(cx) {
                Poll::Ready(Ok(())) => continue,
                Poll::Ready(Err(error)) => return Poll::Ready(End::Io(error)),
                Poll::Pending => {}
            }
        }
        if let Some(due) = due {
            if alarm.deadline() != due {
                alarm.as_mut().reset(due);
            }
            if alarm.as_mut().poll(cx).is_ready() {
                continue;
            }
        }
        return Poll::Pending;
    }
}

impl Silence {
    /// Asks a supervisor that said nothing since the last look, and gives it up when it does not answer that either.
    fn look(&mut self, calls: &mut Calls, now: Instant) -> Option<End> {
        let keepalive = self.keepalive?;
        if self.due.is_some_and(|due| now < due) {
            return None;
        }
        let heard = std::mem::replace(&mut self.heard, calls.heard) != calls.heard;
        if heard || self.due.is_none() {
            self.asked = false;
        } else if self.asked {
            return Some(End::Silent(keepalive * 2));
        } else {
            self.asked = true;
            let id = calls.take_id();
            encode(calls.outbox.control(), Kind::Ping, Flags::NONE, id, &protocol::Ping::default(), &[]);
        }
        self.due = Some(now + keepalive);
        None
    }
}

/// Takes frames from the socket.
struct Reader {
    socket: OwnedReadHalf,
    buffer: Vec<u8>,
    start: usize,
    frame_bytes_max: u32,
    large: Option<Large>,
    after_large: bool,
    /// The buffer holds bytes that came with the handshake and were not looked at yet.
    unread: bool,
    /// Empty; kept for its memory.
    woken: Vec<Waker>,
}

/// A large frame of which part is still to come.
struct Large {
    header: Header,
    /// The content so far; or, if it is being appended to a value, that value without the frame's body.
    bytes: Vec<u8>,
    joining: bool,
    left: usize,
}

impl Reader {
    fn new(socket: OwnedReadHalf, left_over: Vec<u8>, link: &Link) -> Self {
        let frame_bytes_max = link.terms.limits.frame_bytes_max;
        let unread = !left_over.is_empty();
        Self {
            socket,
            buffer: left_over,
            start: 0,
            frame_bytes_max,
            large: None,
            after_large: false,
            unread,
            woken: Vec::new(),
        }
    }

    fn is_mid_frame(&self) -> bool {
        self.large.is_some() || self.start < self.buffer.len()
    }

    /// Reads once and takes in every whole frame. False at the end of input.
    fn read(&mut self, link: &Link, cx: &mut Context<'_>) -> Poll<Result<bool, End>> {
        let count = if std::mem::take(&mut self.unread) {
            Ok(self.buffer.len())
        } else if let Some(large) = &mut self.large {
            let mut rest = (&mut large.bytes).limit(large.left);
            let count = match pin!(self.socket.read_buf(&mut rest)).poll(cx) {
                Poll::Ready(result) => result,
                Poll::Pending => return Poll::Pending,
            };
            if let Ok(count) = &count {
                large.left -= count;
            }
            count
        } else {
            self.buffer.drain(..self.start);
            self.start = 0;
            let most = if self.after_large && self.buffer.is_empty() { PEEK_BYTES } else { READ_BYTES };
            // A frame that is not large fits beside what is left of the one before.
            self.buffer.reserve(READ_BYTES);
            match pin!(self.socket.read_buf(&mut (&mut self.buffer).limit(most))).poll(cx) {
                Poll::Ready(result) => result,
                Poll::Pending => return Poll::Pending,
            }
        };
        match count {
            Ok(0) => return Poll::Ready(Ok(false)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Poll::Ready(Ok(true)),
            Err(error) => return Poll::Ready(Err(End::Io(error))),
        }
        let mut shared = link.lock();
        let result = self.take_frames(&mut shared.calls);
        let answered = shared.calls.take_answered();
        std::mem::swap(&mut shared.calls.woken, &mut self.woken);
        drop(shared);
        if answered > 0 {
            link.permits.add_permits(answered);
        }
        self.woken.drain(..).for_each(Waker::wake);
        Poll::Ready(match result {
            Ok(()) => Ok(true),
            Err(Violation::Refused(body)) => Err(End::Refused(body)),
            Err(violation) => Err(End::Violation(violation.to_string())),
        })
    }

    fn take_frames(&mut self, calls: &mut Calls) -> Result<(), Violation> {
        if let Some(large) = self.large.take_if(|large| large.left == 0) {
            self.after_large = true;
            if large.joining {
                calls.put_back(large.header, large.bytes);
            } else {
                calls.frame(large.header, Content::Owned(large.bytes.into()))?;
            }
        }
        while let Some((frame, rest)) = split(&self.buffer[self.start..], self.frame_bytes_max)? {
            let next = self.buffer.len() - rest.len();
            calls.frame(frame.header, Content::Borrowed(frame.content))?;
            self.start = next;
            self.after_large = false;
        }
        self.begin_large(calls);
        Ok(())
    }

    /// When the rest is the beginning of a large frame, the remainder is received where it will stay.
    fn begin_large(&mut self, calls: &mut Calls) {
        let rest = &self.buffer[self.start..];
        let Some((header, content)) = rest.split_first_chunk::<HEADER_BYTES>() else { return };
        let header = Header::read(header);
        let len = header.len as usize;
        if len < LARGE_BYTES || content.is_empty() {
            return;
        }
        let left = len - content.len();
        let lent = if content[0] == 0x80 { calls.lend_joining(header) } else { None };
        let large = match lent {
            Some(mut bytes) => {
                bytes.reserve(len - 1);
                bytes.extend_from_slice(&content[1..]);
                Large { header, bytes, joining: true, left }
            }
            None => {
                let mut bytes = Vec::with_capacity(len);
                bytes.extend_from_slice(content);
                Large { header, bytes, joining: false, left }
            }
        };
        self.large = Some(large);
        self.buffer.clear();
        self.start = 0;
    }
}

/// Connects, and tries again for a moment while the supervisor's queue of connections is full.
async fn connect(path: &Path) -> io::Result<UnixStream> {
    let mut pause = BUSY_PAUSE;
    for _ in 1..BUSY_ATTEMPTS {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                sleep(pause).await;
                pause *= 2;
            }
            result => return result,
        }
    }
    UnixStream::connect(path).await
}

/// Says hello and reads what the supervisor answers. Bytes that followed the answer are returned with it.
async fn shake_hands(stream: &mut UnixStream) -> Result<(Terms, Vec<u8>), CallError> {
    let mut hello = Vec::new();
    let message = Hello {
        protocol: PROTOCOL,
        features: FEATURES.iter().map(|feature| feature.name().to_owned()).collect(),
        software: concat!("palisade-client/", env!("CARGO_PKG_VERSION")).into(),
    };
    encode(&mut hello, Kind::Hello, Flags::NONE, 0, &message, &[]);
    // A supervisor that turns us away does so before it reads, and its reason is there to be read all the same.
    let written = stream.write_all(&hello).await;
    let mut bytes = Vec::new();
    loop {
        let broke = |error: &dyn std::fmt::Display| lost(format!("the daemon broke the protocol: {error}"));
        if let Some((frame, rest)) = split(&bytes, FRAME_BYTES_MAX).map_err(|error| broke(&error))? {
            let rest = rest.to_vec();
            return match frame.kind().map_err(|error| broke(&error))? {
                Some(Kind::Welcome) => {
                    let (welcome, _) = frame.message(Kind::Welcome).map_err(|error| broke(&error))?;
                    Ok((agree(welcome)?, rest))
                }
                Some(Kind::Refuse) => {
                    let (refuse, _) = frame.message::<Refuse>(Kind::Refuse).map_err(|error| broke(&error))?;
                    Err(CallError::Refused(Box::new(refuse.error)))
                }
                None => {
                    bytes = rest;
                    continue;
                }
                Some(kind) => Err(broke(&format_args!("it answered the handshake with {}", kind.name()))),
            };
        }
        bytes.reserve(HANDSHAKE_BYTES);
        let count = match stream.read_buf(&mut bytes).await {
            Ok(count) => count,
            Err(error) => return Err(lost(error.to_string())),
        };
        if count == 0 {
            return Err(match written {
                Err(error) => lost(error.to_string()),
                Ok(()) => lost("the daemon closed it during the handshake".into()),
            });
        }
    }
}

/// Checks what the supervisor set, before anything relies on it.
fn agree(welcome: Welcome) -> Result<Terms, CallError> {
    let Welcome { protocol, features, software, mut limits, plugin: _ } = welcome;
    if !(PROTOCOL.min..=PROTOCOL.max).contains(&protocol) {
        return Err(lost(format!(
            "the daemon ({software}) speaks version {protocol} of the protocol, this client versions {} to {}; use releases \
             that belong together",
            PROTOCOL.min, PROTOCOL.max
        )));
    }
    if limits.frame_bytes_max < FRAME_BYTES_MIN || limits.credit_bytes == 0 || limits.calls_max == 0 {
        return Err(lost("the daemon broke the protocol: its limits leave nothing to work with".into()));
    }
    limits.frame_bytes_max = limits.frame_bytes_max.min(FRAME_BYTES_CEILING);
    limits.payload_bytes_max = limits.payload_bytes_max.min(PAYLOAD_BYTES_MAX);
    let has = |feature: Feature| features.iter().any(|name| name == feature.name());
    Ok(Terms { software, limits, streams: has(Feature::Streams), may_continue: has(Feature::Continue) })
}
