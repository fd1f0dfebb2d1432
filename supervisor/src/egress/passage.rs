//! Bytes between client and server, once a connection is allowed: counted, bounded in number and time.
//!
//! What ends one direction is carried over (half-close); what breaks it off breaks off both, and is passed on as a reset, so that nobody takes half of
//! something for all of it.
//!
//! Invariants: of each direction at most `BUFFER_BYTES` are held; one direction that waits never holds up the other.
//! Elsewhere: what was allowed, and its record, is `connection`'s.

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Instant, sleep_until};

use super::audit::End;
use super::body::{Body, Extras};
use super::head::{Asked, Ending, Forward, HeadError, Response};
use super::limits::{BUFFER_BYTES, INTERIM_RESPONSES_MAX, Limits};

/// What a connection has carried, and when it last did.
#[derive(Debug)]
pub(super) struct Meter {
    began: Instant,
    up: AtomicU64,
    down: AtomicU64,
    /// Microseconds from the beginning to the last byte.
    moved_us: AtomicU64,
    /// Whether the client has been sent anything.
    answered: AtomicBool,
}

#[derive(Debug, Clone, Copy)]
enum Way {
    Up,
    Down,
}

/// Whether a server has to say something first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// Within `first_byte_timeout`.
    FirstByte,
    /// Either side may be silent for `idle_timeout`.
    Nothing,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            began: Instant::now(),
            up: AtomicU64::new(0),
            down: AtomicU64::new(0),
            moved_us: AtomicU64::new(0),
            answered: AtomicBool::new(false),
        }
    }

    pub(super) fn bytes_up(&self) -> u64 {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) fn bytes_down(&self) -> u64 {
        self.down.load(Ordering::Relaxed)
    }

    pub(super) fn duration(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether the client has been sent anything, so that an answer of ours would stand in the middle of another.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Ordering::Relaxed)
    }

    /// Counts bytes that arrived, before they are passed on.
    fn count(&self, way: Way, bytes: usize, limits: &Limits) -> Result<(), End> {
        let counter = match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        };
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        self.touch();
        if limits.bytes_max < self.bytes_up().saturating_add(self.bytes_down()) { Err(End::Bytes) } else { Ok(()) }
    }

    fn touch(&self) {
        let since = u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.moved_us.store(since, Ordering::Relaxed);
    }

    /// Ends when the connection has taken too long for anything.
    async fn watch(&self, limits: &Limits, expect: Expect) -> End {
        loop {
            let first = expect == Expect::FirstByte && self.bytes_down() == 0;
            let (silence, end) =
                if first { (limits.first_byte_timeout, End::FirstByte) } else { (limits.idle_timeout, End::Idle) };
            let silent_at = self.began + Duration::from_micros(self.moved_us.load(Ordering::Relaxed)) + silence;
            let over_at = self.began + limits.time_max;
            if over_at.min(silent_at) <= Instant::now() {
                return if over_at <= silent_at { End::Time } else { end };
            }
            // With what has passed meanwhile, it may be later then.
            sleep_until(over_at.min(silent_at)).await;
        }
    }
}

/// Carries a tunnel until both directions have ended. `first` has come from the client already.
///
/// Dropping this breaks the tunnel off.
pub(super) async fn tunnel(
    client: &mut TcpStream,
    server: &mut TcpStream,
    first: Vec<u8>,
    expect: Expect,
    meter: &Meter,
    limits: &Limits,
) -> End {
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let up = carry(client_read, server_write, first, Way::Up, meter, limits);
    let down = carry(server_read, client_write, Vec::new(), Way::Down, meter, limits);
    let both = async { tokio::try_join!(up, down) };
    tokio::select! {
        ended = both => ended.map_or_else(|end| end, |_| End::Complete),
        end = meter.watch(limits, expect) => end,
    }
}

async fn carry(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    first: Vec<u8>,
    way: Way,
    meter: &Meter,
    limits: &Limits,
) -> Result<(), End> {
    let (read_error, write_error): (Blame, Blame) = match way {
        Way::Up => (client_error, server_error),
        Way::Down => (server_error, client_error),
    };
    let mut buffer = first;
    let mut length = buffer.len();
    buffer.resize(BUFFER_BYTES.max(length), 0);
    loop {
        if 0 < length {
            meter.count(way, length, limits)?;
            to.write_all(&buffer[..length]).await.map_err(write_error)?;
            meter.touch();
        }
        length = from.read(&mut buffer).await.map_err(read_error)?;
        if length == 0 {
            return to.shutdown().await.map_err(write_error);
        }
    }
}

/// Says whose side an error is of.
type Blame = fn(io::Error) -> End;

fn client_error(error: io::Error) -> End {
    End::Client { detail: error.to_string() }
}

fn server_error(error: io::Error) -> End {
    End::Server { detail: error.to_string() }
}

/// Carries one request and its response. `first` is what the client has sent behind the head.
///
/// Dropping this breaks both off.
pub(super) async fn exchange(
    client: &mut TcpStream,
    server: &mut TcpStream,
    forward: &Forward,
    first: Vec<u8>,
    meter: &Meter,
    limits: &Limits,
) -> End {
    let (client_read, client_write) = client.split();
    let (server_read, server_write) = server.split();
    let up = std::pin::pin!(request(client_read, server_write, forward, first, meter, limits));
    let down = std::pin::pin!(response(server_read, client_write, forward.asked, meter, limits));
    let down = until_response(up, down);
    tokio::select! {
        end = down => end.map_or_else(|end| end, |()| End::Complete),
        end = meter.watch(limits, Expect::FirstByte) => end,
    }
}

/// The response is the end, also if it comes before the request has been sent whole: the server wanted no more of it.
async fn until_response(
    mut up: impl Future<Output = Result<(), End>> + Unpin,
    mut down: impl Future<Output = Result<(), End>> + Unpin,
) -> Result<(), End> {
    let sent = tokio::select! {
        sent = &mut up => sent,
        received = &mut down => return received,
    };
    match sent {
        // A server that reads no more may have answered nevertheless.
        Ok(()) | Err(End::Server { .. }) => down.await,
        Err(end) => Err(end),
    }
}

async fn request(
    mut client: ReadHalf<'_>,
    mut server: WriteHalf<'_>,
    forward: &Forward,
    first: Vec<u8>,
    meter: &Meter,
    limits: &Limits,
) -> Result<(), End> {
    meter.count(Way::Up, forward.head.len(), limits)?;
    server.write_all(&forward.head).await.map_err(server_error)?;
    let mut body = Body::new(forward.framing, Extras::Refused);
    let mut buffer = first;
    let mut length = buffer.len();
    if !body.has_ended() {
        buffer.resize(BUFFER_BYTES.max(length), 0);
    }
    loop {
        // What follows the body is not looked at: there is one request in a connection.
        let belongs = body.take(&buffer[..length]).map_err(|error| End::RequestBody { detail: error.to_string() })?;
        if 0 < belongs {
            meter.count(Way::Up, belongs, limits)?;
            server.write_all(&buffer[..belongs]).await.map_err(server_error)?;
            meter.touch();
        }
        if body.has_ended() {
            return Ok(());
        }
        length = client.read(&mut buffer).await.map_err(client_error)?;
        if length == 0 {
            return Err(End::RequestBody { detail: "the connection ended within the body".to_owned() });
        }
    }
}

async fn response(
    mut server: ReadHalf<'_>,
    mut client: WriteHalf<'_>,
    asked: Asked,
    meter: &Meter,
    limits: &Limits,
) -> Result<(), End> {
    let wrong = |detail: String| End::Response { detail };
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut arrived: Vec<u8> = Vec::new();
    let mut interim = 0;
    let mut body = loop {
        let mut ending = Ending::default();
        let length = loop {
            let found = ending.find(&arrived, limits.head_bytes_max);
            if let Some(length) = found.map_err(|error: HeadError| wrong(error.to_string()))? {
                break length;
            }
            match server.read(&mut buffer).await.map_err(server_error)? {
                0 => return Err(wrong("the connection ended within the head".to_owned())),
                read => {
                    meter.count(Way::Down, read, limits)?;
                    arrived.extend_from_slice(&buffer[..read]);
                }
            }
        };
        let response = Response::read(&arrived[..length], limits.headers_max, asked);
        let response = response.map_err(|error| wrong(error.to_string()))?;
        arrived.drain(..length);
        if response.interim {
            interim += 1;
            if INTERIM_RESPONSES_MAX < interim {
                return Err(wrong("there are too many interim responses".to_owned()));
            }
            if asked.minor_version == 0 {
                continue;
            }
        }
        meter.answered.store(true, Ordering::Relaxed);
        client.write_all(&response.head).await.map_err(client_error)?;
        meter.touch();
        if !response.interim {
            break Body::new(response.framing, Extras::Passed);
        }
    };
    // What came with the head; the rest as it comes.
    let mut ahead = arrived;
    loop {
        let belongs = body.take(&ahead).map_err(|error| wrong(error.to_string()))?;
        client.write_all(&ahead[..belongs]).await.map_err(client_error)?;
        meter.touch();
        if body.has_ended() {
            return Ok(());
        }
        let read = server.read(&mut buffer).await.map_err(server_error)?;
        if read == 0 {
            return if body.may_end() { Ok(()) } else { Err(wrong("the connection ended within the body".to_owned())) };
        }
        meter.count(Way::Down, read, limits)?;
        ahead.clear();
        ahead.extend_from_slice(&buffer[..read]);
    }
}
