//! A tunnel through the proxy, until it stands; beside a relay of blocking threads that asks nobody and keeps no record.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Instant;

use anyhow::{Context, anyhow, ensure};
use palisaded::egress::{Limits, Resolver, audit, serve};
use palisaded::model::permission::host::Name;
use palisaded::model::permission::network::Policy;

use crate::measure::{Effort, Place, at, median, quantile};
use crate::table::{Row, Target};

pub(crate) const NAMES: &[&str] = &["egress_connect_p50"];

/// Tunnels of one round.
const TUNNELS: usize = 300;

/// No proxy answers a CONNECT at greater length.
const ANSWER_BYTES_MAX: usize = 1024;

/// So many records may wait to be thrown away.
const RECORDS_MAX: usize = 1024;

pub(crate) fn run(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let (floor, ours) = at(Place::OneCore, || {
        let server = accept_and_wait()?;
        let relay = relay()?;
        let (proxy, end) = proxy(server.port())?;
        let (mut floor, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            for (through, to, p50) in [
                (relay, format!("127.0.0.1:{}", server.port()), &mut floor),
                (proxy, format!("server.test:{}", server.port()), &mut ours),
            ] {
                let request = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n");
                for _ in 0..TUNNELS / 10 {
                    tunnel(through, &request)?;
                }
                let mut took = (0..TUNNELS).map(|_| tunnel(through, &request)).collect::<anyhow::Result<Vec<_>>>()?;
                p50.push(quantile(&mut took, 0.5));
            }
        }
        drop(end);
        Ok((floor, ours))
    })?;
    Ok(vec![Row {
        name: NAMES[0].into(),
        value: median(&ours),
        unit: "µs",
        floor: Some(median(&floor)),
        target: Target::RatioAtMost(1.5),
    }])
}

/// From the connection to the proxy to the answer that the tunnel stands, in µs.
fn tunnel(through: SocketAddr, request: &str) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let mut client = TcpStream::connect(through).context("connecting")?;
    client.write_all(request.as_bytes()).context("asking")?;
    let mut answer = Vec::new();
    read_head(&mut client, &mut answer)?;
    let took = begun.elapsed().as_secs_f64() * 1e6;
    ensure!(answer.starts_with(b"HTTP/1.1 200 "), "the tunnel stands: {}", String::from_utf8_lossy(&answer));
    Ok(took)
}

fn read_head(from: &mut TcpStream, head: &mut Vec<u8>) -> anyhow::Result<()> {
    let mut buffer = [0; ANSWER_BYTES_MAX];
    while !head.ends_with(b"\r\n\r\n") {
        let count = from.read(&mut buffer).context("reading a head")?;
        ensure!(count > 0 && head.len() < ANSWER_BYTES_MAX, "a head of a CONNECT");
        head.extend_from_slice(&buffer[..count]);
    }
    Ok(())
}

/// A server that takes every connection and keeps it until the other side has had enough.
fn accept_and_wait() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
    let address = listener.local_addr().context("listening")?;
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let _ = client.read(&mut [0]);
        }
    });
    Ok(address)
}

/// The floor: a thread for each connection, which reads the head, connects, answers, and copies both ways.
fn relay() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
    let address = listener.local_addr().context("listening")?;
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            std::thread::spawn(move || pass(client));
        }
    });
    Ok(address)
}

fn pass(mut client: TcpStream) -> anyhow::Result<()> {
    let mut head = Vec::new();
    read_head(&mut client, &mut head)?;
    let text = String::from_utf8_lossy(&head);
    let to: SocketAddr = text.split(' ').nth(1).context("a target")?.parse().context("a target")?;
    let mut server = TcpStream::connect(to).context("connecting")?;
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").context("answering")?;
    let (mut from_server, mut to_client) = (server.try_clone()?, client.try_clone()?);
    let down = std::thread::spawn(move || {
        let _ = std::io::copy(&mut from_server, &mut to_client);
    });
    let _ = std::io::copy(&mut client, &mut server);
    let _ = server.shutdown(std::net::Shutdown::Write);
    down.join().map_err(|_| anyhow!("a relay's thread panicked"))
}

/// The proxy on a thread of its own, where that server is granted under a name. It ends when the sender is dropped.
fn proxy(port: u16) -> anyhow::Result<(SocketAddr, tokio::sync::oneshot::Sender<()>)> {
    let (address_to, address) = mpsc::sync_channel(1);
    let (end, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("starting tokio")?;
        let granted = format!("server.test:{port}");
        let policy = Policy::new([granted.as_str()], [], [("server.test", "127.0.0.1")]);
        let policy = policy.map_err(|error| anyhow!("the policy: {error}"))?;
        let name = Name::parse("server.test").map_err(|error| anyhow!("a name: {error}"))?;
        let table = [(name, vec![IpAddr::from(Ipv4Addr::LOCALHOST)])].into();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("listening")?;
        address_to.send(listener.local_addr().context("listening")?).context("a benchmark that waits")?;
        let (writer, mut records) = audit::queue(RECORDS_MAX);
        // How often a plugin may connect is a policy, not a cost.
        let limits = Limits { connections_per_second: 1_000_000, connections_burst: 1_000_000, ..Limits::default() };
        runtime.block_on(async {
            tokio::select! {
                served = serve(listener, Arc::new(policy), writer, Resolver::new(Arc::new(table)), limits) => {
                    served.context("the proxy").map(|never| match never {})
                }
                () = async { while records.next().await.is_some() {} } => Ok(()),
                _ = ended => Ok(()),
            }
        })
    });
    Ok((address.recv().context("the proxy did not come up")?, end))
}
