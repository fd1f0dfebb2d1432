//! One connection of a plugin, from its first byte to its record.
//!
//! In this order, each step within its time: the head of the request; whether host and port are granted; the addresses; which of them may be
//! used; a connection to the first that answers; for a tunnel the 200, and unless the grant says `tcp` the TLS client hello, whose
//! server name has to be the host. Only then is a byte of the plugin's sent to anybody.
//!
//! Invariants: the address that the policy let through is the one that is connected to; a name is resolved once. Whatever happens, also
//! when this is dropped, the records of `audit` are made.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::audit::{AskedBy, Audit, End, Event, Passage, Record, Target};
use super::client_hello::{Gatherer, HelloError};
use super::head::{Ending, Forward, Request, RequestError, RequestKind};
use super::limits::{ADDRESSES_TRIED_MAX, LINGER, LINGER_BYTES_MAX, Limits};
use super::passage::{Expect, Meter, exchange, tunnel};
use super::refusal::Refusal;
use super::resolver::Resolver;
use crate::model::permission::host::Host;
use crate::model::permission::network::{Policy, Tunnel};

/// What all connections of a plugin have in common.
#[derive(Debug)]
pub(super) struct Shared<A> {
    pub(super) policy: Arc<Policy>,
    pub(super) audit: A,
    pub(super) resolver: Resolver,
    pub(super) limits: Limits,
}

/// What is read at once while a head or a hello is awaited; most fit.
const READ_BYTES: usize = 4 << 10;

/// Fatal alerts of TLS, so that the client can say what was wrong: unrecognized_name, and decode_error.
const ALERT_NAME: &[u8] = &[21, 3, 3, 0, 2, 2, 112];
const ALERT_DECODE: &[u8] = &[21, 3, 3, 0, 2, 2, 50];

/// Records a connection that is one too many; what it may be told.
pub(super) fn one_too_many<A: Audit>(shared: &Shared<A>, number: u64) -> Vec<u8> {
    let refusal = Refusal::Connections { connections_max: shared.limits.connections_max };
    let answer = refusal.answer();
    record(shared, number, None, Event::Refused(refusal));
    answer
}

/// Serves a connection to its end.
///
/// Dropping this breaks it off, and records that.
pub(super) async fn serve<A: Audit>(mut client: TcpStream, number: u64, shared: Arc<Shared<A>>) {
    // Answers are written whole; waiting for more to send would only delay them.
    let _ = client.set_nodelay(true);
    let mut target = None;
    if let Err(refusal) = converse(&mut client, number, &shared, &mut target).await {
        let answer = match &refusal {
            Refusal::Hello(HelloError::NoName { .. } | HelloError::WrongName { .. }) => ALERT_NAME.to_vec(),
            Refusal::Hello(HelloError::Malformed { .. } | HelloError::TooLarge { .. } | HelloError::Records) => {
                ALERT_DECODE.to_vec()
            }
            refusal => refusal.answer(),
        };
        record(&shared, number, target, Event::Refused(refusal));
        say_and_close(&mut client, &answer).await;
    }
}

fn record<A: Audit>(shared: &Shared<A>, connection: u64, target: Option<Target>, event: Event) {
    shared.audit.record(Record { at: SystemTime::now(), connection, target, event });
}

async fn converse<A: Audit>(
    client: &mut TcpStream,
    number: u64,
    shared: &Shared<A>,
    asked: &mut Option<Target>,
) -> Result<(), Refusal> {
    let limits = &shared.limits;
    let Some((request, surplus)) =
        timeout(limits.head_timeout, read_request(client, limits)).await.map_err(|_| RequestError::TimedOut)??
    else {
        return Ok(());
    };
    let Request { host, port, kind } = request;
    let asked_by = match &kind {
        RequestKind::Connect => AskedBy::Connect,
        RequestKind::Http(_) => AskedBy::Http,
    };
    let target = Target { host: host.clone(), port, asked_by };
    *asked = Some(target.clone());

    let granted = shared.policy.host(&host, port)?;
    if let RequestKind::Http(Forward { framing: super::body::Framing::Length(bytes), .. }) = &kind
        && limits.bytes_max < *bytes
    {
        return Err(RequestError::BodyTooLarge { bytes: *bytes, bytes_max: limits.bytes_max }.into());
    }
    let found = shared.resolver.resolve(&host, limits.lookup_timeout).await?;
    let usable = usable(&shared.policy, &host, port, &found)?;
    let (mut server, address) = connect(&host, port, &usable, limits).await?;
    let _ = server.set_nodelay(true);

    match kind {
        RequestKind::Http(forward) => {
            let passing = Passing::allow(shared, number, target, address, Passage::Http);
            let end = exchange(client, &mut server, &forward, surplus, &passing.meter, limits).await;
            let refusal = match &end {
                End::Complete => None,
                _ if passing.meter.is_answered() => None,
                End::RequestBody { detail } => Some(RequestError::Body { detail: detail.clone() }.into()),
                End::Server { detail } | End::Response { detail } => {
                    Some(Refusal::Answer { host, port, detail: detail.clone() })
                }
                End::FirstByte => Some(Refusal::AnswerTimedOut { host, port, within: limits.first_byte_timeout }),
                End::Client { .. } | End::Idle | End::Time | End::Bytes | End::Stopped => None,
            };
            let complete = end == End::Complete;
            passing.end(end);
            match refusal {
                Some(refusal) => say_and_close(client, &refusal.answer()).await,
                None if complete => say_and_close(client, &[]).await,
                None => break_off(client, &server),
            }
        }
        RequestKind::Connect => {
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await.map_err(|_| RequestError::Ended)?;
            let (first, passage, expect) = match granted {
                Tunnel::Tcp => (surplus, Passage::Tcp, Expect::Nothing),
                Tunnel::Tls => {
                    let hello = timeout(limits.hello_timeout, read_hello(client, surplus, &host));
                    (hello.await.map_err(|_| HelloError::TimedOut)??, Passage::Tls, Expect::FirstByte)
                }
            };
            let passing = Passing::allow(shared, number, target, address, passage);
            let end = tunnel(client, &mut server, first, expect, &passing.meter, limits).await;
            if end != End::Complete {
                break_off(client, &server);
            }
            passing.end(end);
        }
    }
    Ok(())
}

/// A connection that was allowed. Its end is recorded when this goes, however it goes.
struct Passing<'a, A: Audit> {
    shared: &'a Shared<A>,
    number: u64,
    target: Target,
    meter: Meter,
    end: End,
}

impl<'a, A: Audit> Passing<'a, A> {
    fn allow(shared: &'a Shared<A>, number: u64, target: Target, address: SocketAddr, passage: Passage) -> Self {
        record(shared, number, Some(target.clone()), Event::Allowed { address, passage });
        Self { shared, number, target, meter: Meter::new(), end: End::Stopped }
    }

    fn end(mut self, end: End) {
        self.end = end;
    }
}

impl<A: Audit> Drop for Passing<'_, A> {
    fn drop(&mut self) {
        let (bytes_up, bytes_down) = (self.meter.bytes_up(), self.meter.bytes_down());
        let event = Event::Ended { bytes_up, bytes_down, duration: self.meter.duration(), end: self.end.clone() };
        record(self.shared, self.number, Some(self.target.clone()), event);
    }
}

/// The request and what came behind its head; None if the client went without a word.
async fn read_request(client: &mut TcpStream, limits: &Limits) -> Result<Option<(Request, Vec<u8>)>, RequestError> {
    let mut arrived = Vec::new();
    let mut ending = Ending::default();
    let mut buffer = [0; READ_BYTES];
    loop {
        // An error says no more than that the client is gone.
        let read = client.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            return if arrived.is_empty() { Ok(None) } else { Err(RequestError::Ended) };
        }
        arrived.extend_from_slice(&buffer[..read]);
        if let Some(length) = ending.find(&arrived, limits.head_bytes_max)? {
            let surplus = arrived.split_off(length);
            return Ok(Some((Request::read(&arrived, limits.headers_max)?, surplus)));
        }
    }
}

/// The client hello, checked, and whatever came with it.
async fn read_hello(client: &mut TcpStream, surplus: Vec<u8>, host: &Host) -> Result<Vec<u8>, HelloError> {
    let mut gatherer = Gatherer::default();
    let mut hello = gatherer.take(&surplus)?;
    let mut buffer = [0; READ_BYTES];
    loop {
        if let Some(hello) = hello {
            hello.check(host)?;
            return Ok(gatherer.into_raw());
        }
        let read = client.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            return Err(HelloError::Ended);
        }
        hello = gatherer.take(&buffer[..read])?;
    }
}

/// Those addresses that the policy lets through. If it is none, the reason is that of the first.
fn usable(policy: &Policy, host: &Host, port: u16, found: &[IpAddr]) -> Result<Vec<IpAddr>, Refusal> {
    let mut usable = Vec::new();
    let mut denied = None;
    for address in found {
        match policy.address(host, port, *address) {
            Ok(()) => usable.push(*address),
            Err(reason) => denied = denied.or(Some(reason)),
        }
    }
    match denied {
        Some(denied) if usable.is_empty() => Err(denied.into()),
        _ => Ok(usable),
    }
}

/// One after the other, each with its share of what is left of the time.
async fn connect(
    host: &Host,
    port: u16,
    addresses: &[IpAddr],
    limits: &Limits,
) -> Result<(TcpStream, SocketAddr), Refusal> {
    let within = limits.connect_timeout;
    let over_at = Instant::now() + within;
    let tried = addresses.len().min(ADDRESSES_TRIED_MAX);
    let mut refusal = Refusal::ConnectTimedOut { host: host.clone(), port, within };
    for (number, address) in addresses.iter().take(tried).enumerate() {
        let now = Instant::now();
        let share = over_at.saturating_duration_since(now) / u32::try_from(tried - number).unwrap_or(u32::MAX);
        let address = SocketAddr::new(*address, port);
        match timeout_at(now + share, TcpStream::connect(address)).await {
            Ok(Ok(server)) => return Ok((server, address)),
            Ok(Err(error)) => {
                refusal = Refusal::Unreachable { host: host.clone(), port, detail: error.to_string() };
            }
            Err(_) => refusal = Refusal::ConnectTimedOut { host: host.clone(), port, within },
        }
    }
    Err(refusal)
}

/// Writes the last words, and waits a little for the client to have read them.
///
/// Dropping this closes the connection at once.
pub(super) async fn say_and_close(client: &mut TcpStream, answer: &[u8]) {
    let farewell = async {
        client.write_all(answer).await?;
        client.shutdown().await?;
        let mut dropped = [0; READ_BYTES];
        let mut left = LINGER_BYTES_MAX;
        while 0 < left {
            match client.read(&mut dropped).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        std::io::Result::Ok(())
    };
    // A client that does not listen misses them.
    let _ = timeout(LINGER, farewell).await;
}

/// Makes the close a reset, for both.
fn break_off(client: &TcpStream, server: &TcpStream) {
    // Where it does not work the connection is closed all the same.
    let _ = client.set_zero_linger();
    let _ = server.set_zero_linger();
}
