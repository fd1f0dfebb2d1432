//! The proxy that is a plugin's only way out, with real sockets: every row of the hostile list that is its own, its bounds, and real clients.
//!
//! Every server is one that the test started on loopback; names lead there by the override table, and loopback is listed for them as an
//! operator would. Elsewhere: that a plugin has no other way out is shown where plugins are.

#![expect(clippy::unwrap_used, reason = "a test that finds something unexpected is to fail")]

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use palisaded::egress::audit::{self, AskedBy, End, Event, Passage};
use palisaded::egress::{Kind, Limits, Resolver, serve};
use palisaded::model::permission::host::Name;
use palisaded::model::permission::network::Policy;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// No single wait of a test takes longer; on an idle machine each takes milliseconds.
const BOUND: Duration = Duration::from_secs(30);

/// For limits that a test waits for: long enough for everything that is to happen before, short enough to wait for.
const SOON: Duration = Duration::from_millis(300);

async fn bounded<T>(what: impl Future<Output = T>) -> T {
    timeout(BOUND, what).await.expect("this takes milliseconds")
}

struct Proxy {
    address: SocketAddr,
    records: audit::Reader,
    task: JoinHandle<io::Result<Infallible>>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a test grants, and where the names lead.
#[derive(Clone)]
struct Setup<'a> {
    allow: Vec<String>,
    deny: &'a [&'a str],
    addresses: &'a [(&'a str, &'a str)],
    names: &'a [(&'a str, &'a [&'a str])],
    limits: Limits,
}

impl<'a> Setup<'a> {
    /// These entries are granted; `a.test` is this machine, and listed as such.
    fn granting(allow: &[&str]) -> Self {
        Self {
            allow: allow.iter().map(|entry| (*entry).to_owned()).collect(),
            deny: &[],
            addresses: &[("a.test", "127.0.0.1")],
            names: &[("a.test", &["127.0.0.1"])],
            limits: Limits::default(),
        }
    }

    fn start(&self) -> Proxy {
        let allow = self.allow.iter().map(String::as_str);
        let policy = Policy::new(allow, self.deny.iter().copied(), self.addresses.iter().copied()).unwrap();
        let table: BTreeMap<Name, Vec<IpAddr>> = self
            .names
            .iter()
            .map(|(name, addresses)| {
                (Name::parse(name).unwrap(), addresses.iter().map(|address| address.parse().unwrap()).collect())
            })
            .collect();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (writer, records) = audit::queue(1024);
        let resolver = Resolver::new(Arc::new(table));
        let task = tokio::spawn(serve(listener, Arc::new(policy), writer, resolver, self.limits.clone()));
        Proxy { address, records, task }
    }
}

impl Proxy {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends this, and reads what comes until the end. A reset is the end as well.
    async fn ask(&self, request: impl AsRef<[u8]>) -> String {
        let mut client = self.connect().await;
        client.write_all(request.as_ref()).await.unwrap();
        rest(&mut client).await
    }

    /// A connection through a tunnel, its 200 read.
    async fn tunnel(&self, to: &str) -> TcpStream {
        let mut client = self.connect().await;
        client.write_all(format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes()).await.unwrap();
        let expected = b"HTTP/1.1 200 Connection established\r\n\r\n";
        let mut answer = vec![0; expected.len()];
        bounded(client.read_exact(&mut answer)).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), String::from_utf8_lossy(expected));
        client
    }

    async fn record(&mut self) -> Event {
        bounded(self.records.next()).await.unwrap().record.event
    }

    /// The next record has to be a refusal; its kind and sentence.
    async fn refusal(&mut self) -> (Kind, String) {
        match self.record().await {
            Event::Refused(refusal) => (refusal.kind(), refusal.to_string()),
            other => panic!("not a refusal: {other:?}"),
        }
    }

    /// The next two records have to be of a connection that was allowed.
    async fn allowed_and_ended(&mut self) -> (Passage, u64, u64, End) {
        let Event::Allowed { passage, .. } = self.record().await else { panic!("not allowed") };
        match self.record().await {
            Event::Ended { bytes_up, bytes_down, end, .. } => (passage, bytes_up, bytes_down, end),
            other => panic!("not an end: {other:?}"),
        }
    }
}

async fn rest(client: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // What arrived before a reset is kept.
    let _ = bounded(client.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// Reads until the end; an error if the connection was broken off.
async fn whole(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    bounded(stream.read_to_end(&mut all)).await?;
    Ok(all)
}

/// A server: its port, and its connections in order.
struct Server {
    port: u16,
    connections: mpsc::Receiver<TcpStream>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, connections) = mpsc::channel(256);
        let task = tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                sender.send(connection).await.unwrap();
            }
        });
        Self { port, connections, task }
    }

    async fn accept(&mut self) -> TcpStream {
        bounded(self.connections.recv()).await.unwrap()
    }

    fn saw_nobody(&mut self) -> bool {
        self.connections.try_recv().is_err()
    }
}

/// Reads the head of a message.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(bounded(stream.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// A client hello with this server name, in one record.
fn hello(name: Option<&str>) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat();
    let extensions = name.map(|name| {
        let entry = [&[0][..], &sized(name.as_bytes())].concat();
        [&[0, 0][..], &sized(&sized(&entry))].concat()
    });
    let mut body = [&[3, 3][..], &[7; 32], &[0], &sized(&[0x13, 0x01]), &[1, 0]].concat();
    body.extend(sized(&extensions.unwrap_or_default()));
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    [&[22, 3, 1][..], &sized(&message)].concat()
}

// ---------------------------------------------------------------------------------------------------------------------
// Rows of the hostile list.

#[tokio::test]
async fn row_proxy_deny() {
    let mut server = Server::start().await;
    let mut setup = Setup::granting(&["a.test", "*.b.test", &format!("a.test:{}", server.port)]);
    setup.deny = &["secret.b.test"];
    let mut proxy = setup.start();
    let answer = proxy.ask("CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n").await;
    let sentence = "evil.example:443 is not among the hosts that network_access grants";
    let expected = format!(
        "HTTP/1.1 403 Forbidden\r\nProxy-Status: palisade; error=http_request_denied; details=\"{sentence}\"\r\n\
         Content-Type: text/plain; charset=utf-8\r\nContent-Length: 67\r\nConnection: close\r\n\r\n{sentence}\n"
    );
    assert_eq!(answer, expected);
    assert_eq!(proxy.refusal().await, (Kind::Denied, sentence.to_owned()));

    for (request, sentence) in [
        (
            "CONNECT Secret.B.test:443 HTTP/1.1\r\nHost: secret.b.test:443\r\n\r\n",
            "secret.b.test:443 is denied by the entry secret.b.test",
        ),
        (
            "GET http://secret.b.test/ HTTP/1.1\r\nHost: secret.b.test\r\n\r\n",
            "secret.b.test:80 is denied by the entry secret.b.test",
        ),
        (
            "CONNECT a.test:22 HTTP/1.1\r\nHost: a.test:22\r\n\r\n",
            "a.test:22 is not among the hosts that network_access grants",
        ),
        (
            "CONNECT 127.0.0.1:443 HTTP/1.1\r\nHost: 127.0.0.1:443\r\n\r\n",
            "127.0.0.1:443 is not among the hosts that network_access grants",
        ),
        (
            "CONNECT b.test:443 HTTP/1.1\r\nHost: b.test:443\r\n\r\n",
            "b.test:443 is not among the hosts that network_access grants",
        ),
    ] {
        let answer = proxy.ask(request).await;
        assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{answer}");
        assert_eq!(proxy.refusal().await, (Kind::Denied, sentence.to_owned()));
    }
    assert!(server.saw_nobody());
    // The same without the denial is let through.
    let to = format!("a.test:{}", server.port);
    drop(proxy.tunnel(&to).await);
    drop(server.accept().await);
}

#[tokio::test]
async fn row_proxy_rebind() {
    let mut server = Server::start().await;
    let port = server.port;
    let mut setup =
        Setup::granting(&[&format!("*.test:{port}"), &format!("127.0.0.1:{port}"), &format!("[::1]:{port}")]);
    setup.addresses = &[("listed.test", "127.0.0.1"), ("wide.test", "169.254.0.0/16")];
    setup.names = &[
        ("loopback.test", &["127.0.0.1"]),
        ("six.test", &["::1"]),
        ("mapped.test", &["::ffff:127.0.0.1"]),
        ("nat.test", &["64:ff9b::7f00:1"]),
        ("tunnel.test", &["2002:7f00:1::1"]),
        ("meta.test", &["169.254.169.254"]),
        ("wide.test", &["169.254.169.254"]),
        ("meta6.test", &["fd00:ec2::254"]),
        ("ten.test", &["10.1.2.3"]),
        ("b16.test", &["172.16.0.1"]),
        ("c24.test", &["192.168.0.1"]),
        ("carrier.test", &["100.64.0.1"]),
        ("zero.test", &["0.0.0.0"]),
        ("all.test", &["127.0.0.1", "10.1.2.3", "::1"]),
        ("listed.test", &["169.254.169.254", "10.1.2.3", "127.0.0.1"]),
    ];
    let mut proxy = setup.start();
    let refused: Vec<_> = setup.names.iter().map(|(name, _)| *name).filter(|name| *name != "listed.test").collect();
    for host in refused.into_iter().chain(["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"]) {
        for request in [
            format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"),
            format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n"),
        ] {
            let answer = proxy.ask(&request).await;
            assert!(answer.starts_with("HTTP/1.1 403 Forbidden\r\n"), "{request}{answer}");
            assert!(answer.contains("error=destination_ip_prohibited"), "{answer}");
            let (kind, sentence) = proxy.refusal().await;
            assert_eq!(kind, Kind::Denied);
            assert!(sentence.contains("which the operator has not listed in allow_addresses for it"), "{sentence}");
        }
    }
    assert!(server.saw_nobody());
    // Of several addresses only one that was let through is connected to, and it is the one that was checked.
    let client = proxy.tunnel(&format!("listed.test:{port}")).await;
    let accepted = server.accept().await;
    assert_eq!(accepted.local_addr().unwrap(), SocketAddr::from(([127, 0, 0, 1], port)));
    drop((client, accepted));
}

#[tokio::test]
async fn row_proxy_sni() {
    const ALERT_NAME: &str = "\u{15}\u{3}\u{3}\0\u{2}\u{2}p";
    const ALERT_DECODE: &str = "\u{15}\u{3}\u{3}\0\u{2}\u{2}2";
    let mut server = Server::start().await;
    let to = format!("a.test:{}", server.port);
    let mut proxy = Setup::granting(&[&to]).start();
    let doubled = {
        let mut doubled = hello(Some("a.test"));
        // The length of the record is one more than the message's, whatever may stand there.
        doubled[4] += 1;
        doubled.push(0);
        doubled
    };
    for (sent, alert, sentence) in [
        (
            hello(Some("other.test")),
            ALERT_NAME,
            "the TLS client hello names the server \"other.test\", but the tunnel is to a.test",
        ),
        (
            hello(Some("a.test.evil.example")),
            ALERT_NAME,
            "the TLS client hello names the server \"a.test.evil.example\", but the tunnel is to a.test",
        ),
        (hello(None), ALERT_NAME, "the TLS client hello names no server; it has to name a.test"),
        (
            b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n".to_vec(),
            "",
            "what was sent through the tunnel is not TLS, and the grant has no /tcp",
        ),
        (doubled, ALERT_DECODE, "the TLS client hello is malformed: something follows it in its record"),
    ] {
        let mut client = proxy.tunnel(&to).await;
        let mut seen = server.accept().await;
        client.write_all(&sent).await.unwrap();
        assert_eq!(rest(&mut client).await, alert);
        drop(client);
        // The server was connected to, and heard nothing.
        assert_eq!(whole(&mut seen).await.unwrap(), b"");
        assert_eq!(proxy.refusal().await, (Kind::Denied, sentence.to_owned()));
    }
    // The right name passes, in another case and in pieces, together with everything around it.
    let sent = [hello(Some("A.Test")), vec![23, 3, 3, 0, 1, 9]].concat();
    let mut client = proxy.tunnel(&to).await;
    let mut seen = server.accept().await;
    for piece in sent.chunks(11) {
        client.write_all(piece).await.unwrap();
    }
    client.shutdown().await.unwrap();
    assert_eq!(whole(&mut seen).await.unwrap(), sent);
    seen.write_all(b"bye").await.unwrap();
    drop(seen);
    assert_eq!(whole(&mut client).await.unwrap(), b"bye");
    assert_eq!(proxy.allowed_and_ended().await, (Passage::Tls, sent.len() as u64, 3, End::Complete));
}

#[tokio::test]
async fn row_proxy_smuggle() {
    let mut server = Server::start().await;
    let port = server.port;
    let mut proxy = Setup::granting(&[&format!("a.test:{port}"), &format!("b.test:{port}")]).start();
    let huge = "x".repeat(20 << 10);
    let many = "X: y\r\n".repeat(101);
    let url = format!("http://a.test:{port}/");
    let host = format!("Host: a.test:{port}\r\n");
    for (request, status) in [
        (format!("GET {url} HTTP/1.1\r\nHost: b.test:{port}\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\n{host}Host: b.test\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\nHost: a.test:{port}\rX: y\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\n{host}X: a\nHost: b.test\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\n{host}X: a\0b\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\n{host}X: a\r\n b\r\n\r\n"), 400),
        (format!("GET {url} HTTP/1.1\r\n{host}X: {huge}\r\n\r\n"), 431),
        (format!("GET {url} HTTP/1.1\r\n{host}{many}\r\n"), 431),
        (format!("POST {url} HTTP/1.1\r\n{host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST {url} HTTP/1.1\r\n{host}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc"), 400),
        (format!("POST {url} HTTP/1.1\r\n{host}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n"), 400),
        (format!("POST {url} HTTP/1.1\r\n{host}Content-Length: 99999999999\r\n\r\n"), 413),
        (format!("TRACE {url} HTTP/1.1\r\n{host}\r\n"), 405),
        (format!("GET / HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("CONNECT a.test:{port} HTTP/1.1\r\nHost: b.test:{port}\r\n\r\n"), 400),
        (format!("CONNECT a.test.:{port} HTTP/1.1\r\nHost: a.test.:{port}\r\n\r\n"), 400),
        (format!("CONNECT [::1%25lo]:{port} HTTP/1.1\r\nHost: [::1%25lo]:{port}\r\n\r\n"), 400),
        (format!("CONNECT 2130706433:{port} HTTP/1.1\r\nHost: 2130706433:{port}\r\n\r\n"), 400),
        (format!("CONNECT 0x7f000001:{port} HTTP/1.1\r\nHost: 0x7f000001:{port}\r\n\r\n"), 400),
        (format!("CONNECT 0177.0.0.1:{port} HTTP/1.1\r\nHost: 0177.0.0.1:{port}\r\n\r\n"), 400),
        (format!("CONNECT b\u{fc}cher.test:{port} HTTP/1.1\r\nHost: b\u{fc}cher.test:{port}\r\n\r\n"), 400),
        (format!("GET http://x@a.test:{port}/ HTTP/1.1\r\n{host}\r\n"), 400),
        (format!("GET https://a.test:{port}/ HTTP/1.1\r\n{host}\r\n"), 400),
    ] {
        let answer = proxy.ask(&request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:.300}\n{answer}");
        assert!(answer.contains("\r\nProxy-Status: palisade; error=http_request_error; "), "{answer}");
        assert_ne!(proxy.refusal().await.0, Kind::Denied, "{request:.300}");
    }
    assert!(server.saw_nobody());

    // A second request behind the body of the first never leaves, whatever the framing of the first.
    for (framing, body) in [("Content-Length: 3", "abc"), ("Transfer-Encoding: chunked", "3\r\nabc\r\n0\r\n\r\n")] {
        let mut client = proxy.connect().await;
        let request =
            format!("POST {url} HTTP/1.1\r\n{host}{framing}\r\n\r\n{body}GET http://b.test/ HTTP/1.1\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        let mut seen = server.accept().await;
        let expected = format!("POST / HTTP/1.1\r\n{host}{framing}\r\nVia: 1.1 palisade\r\nConnection: close\r\n\r\n");
        assert_eq!(head(&mut seen).await, expected);
        let mut arrived = vec![0; body.len()];
        bounded(seen.read_exact(&mut arrived)).await.unwrap();
        assert_eq!(arrived, body.as_bytes());
        seen.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\n\r\nagain").await.unwrap();
        let answer = rest(&mut client).await;
        assert_eq!(answer, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVia: 1.1 palisade\r\nConnection: close\r\n\r\nok");
        drop(client);
        let (passage, up, _, end) = proxy.allowed_and_ended().await;
        assert_eq!((passage, up, end), (Passage::Http, (expected.len() + body.len()) as u64, End::Complete));
        // What came after: nothing, and then the end or a reset.
        assert_eq!(rest(&mut seen).await, "");
    }
    // A chunk that is none is answered, and the server does not get it.
    let request = format!("POST {url} HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n");
    let answer = proxy.ask(&request).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let mut seen = server.accept().await;
    assert!(head(&mut seen).await.starts_with("POST / "));
    assert_eq!(rest(&mut seen).await, "");
}

// ---------------------------------------------------------------------------------------------------------------------
// What passes, and its ends.

#[tokio::test]
async fn each_half_of_a_tunnel_ends_by_itself() {
    let mut server = Server::start().await;
    let to = format!("a.test:{}", server.port);
    let mut proxy = Setup::granting(&[&format!("{to}/tcp")]).start();
    // The client ends first, the server answers to that; and the other way round.
    let mut client = proxy.tunnel(&to).await;
    let mut seen = server.accept().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(whole(&mut seen).await.unwrap(), b"question");
    seen.write_all(b"the answer").await.unwrap();
    drop(seen);
    assert_eq!(whole(&mut client).await.unwrap(), b"the answer");
    assert_eq!(proxy.allowed_and_ended().await, (Passage::Tcp, 8, 10, End::Complete));

    let mut client = proxy.tunnel(&to).await;
    let mut seen = server.accept().await;
    seen.write_all(b"greeting").await.unwrap();
    seen.shutdown().await.unwrap();
    assert_eq!(whole(&mut client).await.unwrap(), b"greeting");
    client.write_all(b"late").await.unwrap();
    drop(client);
    assert_eq!(whole(&mut seen).await.unwrap(), b"late");
    assert_eq!(proxy.allowed_and_ended().await, (Passage::Tcp, 4, 8, End::Complete));
}

/// More than any buffer holds, both ways at once, through a side that reads late.
#[tokio::test]
async fn a_tunnel_holds_no_more_than_its_buffers_and_loses_nothing() {
    const BYTES: usize = 8 << 20;
    let mut server = Server::start().await;
    let to = format!("a.test:{}", server.port);
    let mut proxy = Setup::granting(&[&format!("{to}/tcp")]).start();
    let client = proxy.tunnel(&to).await;
    let seen = server.accept().await;
    let pattern = |seed: usize| (0..BYTES).map(|at| u8::try_from((at * 31 + seed) % 251).unwrap()).collect::<Vec<u8>>();
    let run = |stream: TcpStream, out: Vec<u8>, expected: Vec<u8>| async move {
        let (mut read, mut write) = stream.into_split();
        let writing = tokio::spawn(async move {
            write.write_all(&out).await.unwrap();
        });
        let mut found = Vec::new();
        read.read_to_end(&mut found).await.unwrap();
        writing.await.unwrap();
        assert!(found == expected, "{} of {} bytes, or other ones", found.len(), expected.len());
    };
    bounded(async { tokio::join!(run(client, pattern(1), pattern(2)), run(seen, pattern(2), pattern(1))) }).await;
    assert_eq!(proxy.allowed_and_ended().await, (Passage::Tcp, BYTES as u64, BYTES as u64, End::Complete));
}

#[tokio::test]
async fn a_broken_connection_is_broken_for_the_other_side_too() {
    let mut server = Server::start().await;
    let to = format!("a.test:{}", server.port);
    let mut proxy = Setup::granting(&[&format!("{to}/tcp")]).start();
    let mut client = proxy.tunnel(&to).await;
    let mut seen = server.accept().await;
    seen.write_all(b"half of").await.unwrap();
    let mut half = [0; 7];
    bounded(client.read_exact(&mut half)).await.unwrap();
    seen.set_zero_linger().unwrap();
    drop(seen);
    let error = whole(&mut client).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let (_, _, down, end) = proxy.allowed_and_ended().await;
    assert_eq!(down, 7);
    assert!(matches!(end, End::Server { .. }), "{end:?}");
}

#[tokio::test]
async fn a_response_is_streamed_and_its_end_is_known() {
    let mut server = Server::start().await;
    let port = server.port;
    let mut proxy = Setup::granting(&[&format!("a.test:{port}")]).start();
    let get = format!("GET http://a.test:{port}/a?b HTTP/1.1\r\nHost: a.test:{port}\r\nConnection: keep-alive\r\n\r\n");
    let end = "Via: 1.1 palisade\r\nConnection: close\r\n\r\n";
    // Streamed: the first part is there before the second is sent; the server keeps the connection, and it ends nevertheless.
    let mut client = proxy.connect().await;
    client.write_all(get.as_bytes()).await.unwrap();
    let mut seen = server.accept().await;
    assert_eq!(head(&mut seen).await, format!("GET /a?b HTTP/1.1\r\nHost: a.test:{port}\r\n{end}"));
    seen.write_all(
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    )
    .await
    .unwrap();
    assert_eq!(head(&mut client).await, "HTTP/1.1 103 Early Hints\r\n\r\n");
    assert_eq!(head(&mut client).await, format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n{end}"));
    let mut chunk = [0; 8];
    bounded(client.read_exact(&mut chunk)).await.unwrap();
    assert_eq!(&chunk, b"3\r\nabc\r\n");
    seen.write_all(b"0\r\n\r\n").await.unwrap();
    assert_eq!(whole(&mut client).await.unwrap(), b"0\r\n\r\n");
    drop(client);
    assert_eq!(proxy.allowed_and_ended().await.3, End::Complete);

    // Until the end of the connection.
    let mut client = proxy.connect().await;
    client.write_all(get.as_bytes()).await.unwrap();
    let mut seen = server.accept().await;
    head(&mut seen).await;
    seen.write_all(b"HTTP/1.0 200 OK\r\n\r\nsome").await.unwrap();
    drop(seen);
    assert!(whole(&mut client).await.unwrap().ends_with(b"\r\n\r\nsome"));
    drop(client);
    assert_eq!(proxy.allowed_and_ended().await.3, End::Complete);

    // Cut off in the middle, it is cut off for the client too.
    let mut client = proxy.connect().await;
    client.write_all(get.as_bytes()).await.unwrap();
    let mut seen = server.accept().await;
    head(&mut seen).await;
    seen.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nsome").await.unwrap();
    head(&mut client).await;
    drop(seen);
    let error = whole(&mut client).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    let expected = End::Response { detail: "the connection ended within the body".to_owned() };
    assert_eq!(proxy.allowed_and_ended().await.3, expected);
}

/// A server that wants no more of a body says so at once, and its answer arrives.
#[tokio::test]
async fn an_answer_before_the_end_of_the_request_arrives() {
    let mut server = Server::start().await;
    let port = server.port;
    let mut proxy = Setup::granting(&[&format!("a.test:{port}")]).start();
    let mut client = proxy.connect().await;
    let head_text =
        format!("POST http://a.test:{port}/ HTTP/1.1\r\nHost: a.test:{port}\r\nContent-Length: 1000000\r\n\r\nabc");
    client.write_all(head_text.as_bytes()).await.unwrap();
    let mut seen = server.accept().await;
    head(&mut seen).await;
    seen.write_all(b"HTTP/1.1 413 Too Much\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    drop(seen);
    assert!(rest(&mut client).await.starts_with("HTTP/1.1 413 Too Much\r\n"));
    drop(client);
    assert_eq!(proxy.allowed_and_ended().await.3, End::Complete);
}

#[tokio::test]
async fn a_server_that_fails_is_answered_for() {
    let mut server = Server::start().await;
    let port = server.port;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let mut setup = Setup::granting(&[&format!("*.test:{port}"), &format!("a.test:{closed}")]);
    setup.names = &[("a.test", &["127.0.0.1"]), ("none.test", &[])];
    setup.limits.first_byte_timeout = SOON;
    let mut proxy = setup.start();

    let answer = proxy.ask(format!("CONNECT a.test:{closed} HTTP/1.1\r\nHost: a.test:{closed}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\nProxy-Status: palisade; error=destination_unavailable; "));
    assert_eq!(proxy.refusal().await.0, Kind::Failed);

    let answer = proxy.ask(format!("CONNECT none.test:{port} HTTP/1.1\r\nHost: none.test:{port}\r\n\r\n")).await;
    assert!(answer.starts_with("HTTP/1.1 502 Bad Gateway\r\nProxy-Status: palisade; error=dns_error; "), "{answer}");
    assert_eq!(proxy.refusal().await, (Kind::Failed, "none.test has no address".to_owned()));

    let get = format!("GET http://a.test:{port}/ HTTP/1.1\r\nHost: a.test:{port}\r\n\r\n");
    for (response, status, error) in [
        (&b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"[..], 502, "http_protocol_error"),
        (b"220 smtp.test ESMTP\r\n", 502, "http_protocol_error"),
        (b"", 502, "http_protocol_error"),
    ] {
        let mut client = proxy.connect().await;
        client.write_all(get.as_bytes()).await.unwrap();
        let mut seen = server.accept().await;
        head(&mut seen).await;
        seen.write_all(response).await.unwrap();
        drop(seen);
        let answer = rest(&mut client).await;
        let expected = format!("HTTP/1.1 {status} Bad Gateway\r\nProxy-Status: palisade; error={error}; ");
        assert!(answer.starts_with(&expected), "{answer}");
        drop(client);
        assert!(matches!(proxy.allowed_and_ended().await.3, End::Response { .. }));
    }
    // One that says nothing.
    let mut client = proxy.connect().await;
    client.write_all(get.as_bytes()).await.unwrap();
    let seen = server.accept().await;
    let answer = rest(&mut client).await;
    assert!(
        answer.starts_with("HTTP/1.1 504 Gateway Timeout\r\nProxy-Status: palisade; error=http_response_timeout; ")
    );
    drop((client, seen));
    assert_eq!(proxy.allowed_and_ended().await.3, End::FirstByte);
}

// ---------------------------------------------------------------------------------------------------------------------
// Bounds.

/// A byte now and then keeps no place for ever: neither in a head, nor in a hello.
#[tokio::test]
async fn slow_clients_are_not_waited_for() {
    let server = Server::start().await;
    let to = format!("a.test:{}", server.port);
    let mut setup = Setup::granting(&[&to]);
    setup.limits.head_timeout = SOON;
    setup.limits.hello_timeout = SOON;
    let mut proxy = setup.start();
    // Bytes are sent for as long as anybody takes them; only the proxy ends this.
    let drip = async |client: TcpStream, bytes: Vec<u8>| {
        let (mut read, mut write) = client.into_split();
        let dripping = tokio::spawn(async move {
            for byte in bytes.iter().cycle() {
                if write.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(SOON / 10).await;
            }
        });
        let mut answer = Vec::new();
        let _ = bounded(read.read_to_end(&mut answer)).await;
        drop(read);
        bounded(dripping).await.unwrap();
        String::from_utf8_lossy(&answer).into_owned()
    };
    let answer = drip(proxy.connect().await, b"GET".to_vec()).await;
    assert!(answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"), "{answer}");
    assert_eq!(proxy.refusal().await, (Kind::Limited, "the head did not arrive in time".to_owned()));
    // A record of which a byte of the message comes now and then.
    let client = proxy.tunnel(&to).await;
    let tiny: Vec<u8> = hello(Some("a.test"));
    assert_eq!(drip(client, tiny).await, "");
    assert_eq!(proxy.refusal().await, (Kind::Denied, "the TLS client hello did not arrive in time".to_owned()));
    // Whoever says nothing at all is closed without a word, and without a record if it goes by itself.
    drop(proxy.connect().await);
    let mut silent = proxy.connect().await;
    assert!(rest(&mut silent).await.starts_with("HTTP/1.1 408 "));
    assert_eq!(proxy.refusal().await.0, Kind::Limited);
}

#[tokio::test]
async fn what_passes_is_bounded_in_bytes_and_time() {
    let mut server = Server::start().await;
    let to = format!("a.test:{}", server.port);
    let mut setup = Setup::granting(&[&format!("{to}/tcp")]);

    setup.limits.bytes_max = 1000;
    let mut proxy = setup.start();
    let mut client = proxy.tunnel(&to).await;
    let mut seen = server.accept().await;
    seen.write_all(&[0; 600]).await.unwrap();
    bounded(client.read_exact(&mut [0; 600])).await.unwrap();
    client.write_all(&[0; 401]).await.unwrap();
    assert_eq!(whole(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(whole(&mut seen).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(proxy.allowed_and_ended().await, (Passage::Tcp, 401, 600, End::Bytes));

    setup.limits = Limits { idle_timeout: SOON, ..Limits::default() };
    let mut proxy = setup.start();
    let mut client = proxy.tunnel(&to).await;
    let seen = server.accept().await;
    assert_eq!(whole(&mut client).await.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    drop(seen);
    assert_eq!(proxy.allowed_and_ended().await, (Passage::Tcp, 0, 0, End::Idle));

    setup.limits = Limits { time_max: SOON, ..Limits::default() };
    let mut proxy = setup.start();
    let client = proxy.tunnel(&to).await;
    let mut seen = server.accept().await;
    // However busy it is.
    let (mut read, mut write) = client.into_split();
    let busy = tokio::spawn(async move { while write.write_all(&[1; 100]).await.is_ok() {} });
    let echo = tokio::spawn(async move { tokio::io::copy(&mut seen, &mut tokio::io::sink()).await });
    let _ = bounded(read.read_to_end(&mut Vec::new())).await;
    bounded(busy).await.unwrap();
    drop(bounded(echo).await.unwrap());
    assert_eq!(proxy.allowed_and_ended().await.3, End::Time);
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_and_the_others_go_on() {
    let mut server = Server::start().await;
    let to = format!("a.test:{}", server.port);
    let mut setup = Setup::granting(&[&format!("{to}/tcp")]);
    setup.limits.connections_max = 2;
    let mut proxy = setup.start();
    let first = proxy.tunnel(&to).await;
    let mut second = proxy.tunnel(&to).await;
    let mut accepted = (server.accept().await, server.accept().await);
    for _ in 0..2 {
        assert!(matches!(proxy.record().await, Event::Allowed { .. }));
    }
    let answer = proxy.ask("").await;
    assert!(
        answer
            .starts_with("HTTP/1.1 503 Service Unavailable\r\nProxy-Status: palisade; error=connection_limit_reached")
    );
    let sentence = "the plugin has 2 connections open, and may have no more".to_owned();
    assert_eq!(proxy.refusal().await, (Kind::Limited, sentence));
    // More than are told so are closed without a word, and recorded all the same.
    let mut more = Vec::new();
    for _ in 0..20 {
        more.push(proxy.connect().await);
    }
    for _ in 0..20 {
        assert_eq!(proxy.refusal().await.0, Kind::Limited);
    }
    let mut told = 0;
    for client in &mut more {
        told += usize::from(rest(client).await.starts_with("HTTP/1.1 503 "));
    }
    assert!((1..=9).contains(&told), "{told} were told");
    drop(more);
    // The others are as they were, and a place that becomes free is free.
    second.write_all(b"x").await.unwrap();
    assert_eq!(bounded(accepted.1.read_u8()).await.unwrap(), b'x');
    drop((first, accepted.0));
    assert!(matches!(proxy.record().await, Event::Ended { end: End::Complete, .. }));
    bounded(async {
        while !proxy.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.starts_with("HTTP/1.1 400 ") {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// By a clock that moves only when everything waits.
#[tokio::test(start_paused = true)]
async fn connections_that_come_too_fast_wait_for_their_turn() {
    let mut setup = Setup::granting(&["a.test"]);
    setup.limits = Limits { connections_per_second: 1, connections_burst: 3, ..Limits::default() };
    let proxy = setup.start();
    let began = tokio::time::Instant::now();
    for _ in 0..60 {
        let mut client = proxy.connect().await;
        client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        let _ = client.read_to_end(&mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&answer));
    }
    assert!(began.elapsed() >= Duration::from_secs(57), "{:?}", began.elapsed());
}

#[tokio::test]
async fn many_connections_at_once() {
    const MANY: usize = 150;
    let mut server = Server::start().await;
    let to = format!("a.test:{}", server.port);
    let mut setup = Setup::granting(&[&format!("{to}/tcp")]);
    setup.limits.connections_max = MANY;
    let mut proxy = setup.start();
    let mut pairs = Vec::new();
    for _ in 0..MANY {
        pairs.push((proxy.tunnel(&to).await, server.accept().await));
    }
    for (number, (client, _)) in pairs.iter_mut().enumerate() {
        client.write_all(&(number as u64).to_be_bytes()).await.unwrap();
    }
    for (number, (_, seen)) in pairs.iter_mut().enumerate() {
        assert_eq!(bounded(seen.read_u64()).await.unwrap(), number as u64);
    }
    drop(pairs);
    let (mut allowed, mut ended) = (0, 0);
    while allowed < MANY || ended < MANY {
        match proxy.record().await {
            Event::Allowed { .. } => allowed += 1,
            Event::Ended { bytes_up: 8, .. } => ended += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((allowed, ended), (MANY, MANY));
}

#[tokio::test]
async fn taken_down_it_breaks_off_everything_and_says_so() {
    let mut server = Server::start().await;
    let to = format!("a.test:{}", server.port);
    let mut proxy = Setup::granting(&[&format!("{to}/tcp")]).start();
    let mut client = proxy.tunnel(&to).await;
    let mut seen = server.accept().await;
    client.write_all(b"x").await.unwrap();
    assert_eq!(bounded(seen.read_u8()).await.unwrap(), b'x');
    proxy.task.abort();
    let _ = whole(&mut client).await;
    let _ = whole(&mut seen).await;
    assert_eq!(proxy.allowed_and_ended().await, (Passage::Tcp, 1, 0, End::Stopped));
    assert_eq!(bounded(proxy.records.next()).await, None);
    assert_eq!(TcpStream::connect(proxy.address).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_record_says_what_was_asked_and_nothing_that_was_sent() {
    let mut server = Server::start().await;
    let port = server.port;
    let mut proxy = Setup::granting(&[&format!("a.test:{port}")]).start();
    let request = format!(
        "GET http://a.test:{port}/secret-path HTTP/1.1\r\nHost: a.test:{port}\r\nCookie: secret-cookie\r\n\r\n"
    );
    let mut client = proxy.connect().await;
    client.write_all(request.as_bytes()).await.unwrap();
    let mut seen = server.accept().await;
    head(&mut seen).await;
    seen.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    rest(&mut client).await;
    drop(client);
    for _ in 0..2 {
        let record = bounded(proxy.records.next()).await.unwrap().record;
        let target = record.target.clone().unwrap();
        assert_eq!((target.host.to_string().as_str(), target.port, target.asked_by), ("a.test", port, AskedBy::Http));
        assert_eq!(record.connection, 1);
        assert!(!format!("{record:?}").contains("secret"), "{record:?}");
        if let Event::Allowed { address, .. } = record.event {
            assert_eq!(address, SocketAddr::from(([127, 0, 0, 1], port)));
        }
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// Real clients.

#[expect(clippy::disallowed_methods, reason = "a test starts what it compares with; the daemon is not in this process")]
fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    // Nothing of the machine's own proxies and settings.
    command.kill_on_drop(true).stdin(Stdio::null()).env_clear();
    for name in ["PATH", "HOME", "LD_LIBRARY_PATH"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// Whether these programs are here; if not, the test says so and shows nothing.
async fn present(test: &str, programs: &[(&str, &str)]) -> bool {
    for (program, flag) in programs {
        let run = command(program).arg(flag).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
        if !run.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED {test}: there is no {program} here");
            return false;
        }
    }
    true
}

/// What the program printed, and its exit status.
async fn output(command: &mut Command) -> (String, String, Option<i32>) {
    let output = bounded(command.output()).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

/// An HTTPS server for `a.test` in the folder, with a certificate of its own.
async fn https_server(folder: &Path) -> (Child, u16) {
    let mut openssl = command("openssl");
    openssl.current_dir(folder).args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    openssl.args(["-keyout", "key.pem", "-out", "certificate.pem", "-days", "2", "-subj", "/CN=a.test"]);
    openssl.args(["-addext", "subjectAltName=DNS:a.test"]);
    let (_, error, status) = output(&mut openssl).await;
    assert_eq!(status, Some(0), "{error}");
    const PROGRAM: &str = include_str!("../../tests/servers/https.py");
    let mut python = command("python3");
    let mut child = python.current_dir(folder).args(["-c", PROGRAM]).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    bounded(BufReader::new(child.stdout.take().unwrap()).read_line(&mut line)).await.unwrap();
    (child, line.trim().parse().unwrap())
}

/// Answers every request with the head that it received.
fn mirror(mut server: Server) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(mut connection) = server.connections.recv().await {
            let head = head(&mut connection).await;
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{head}", head.len());
            connection.write_all(answer.as_bytes()).await.unwrap();
        }
    })
}

#[tokio::test]
async fn curl_goes_through() {
    if !present("curl_goes_through", &[("curl", "--version"), ("openssl", "version"), ("python3", "--version")]).await {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (mut https, secure) = https_server(folder.path()).await;
    let plain = Server::start().await;
    let port = plain.port;
    let mirror = mirror(plain);
    let mut setup =
        Setup::granting(&[&format!("a.test:{secure}"), &format!("a.test:{port}"), &format!("b.test:{secure}")]);
    setup.addresses = &[("*.test", "127.0.0.1")];
    setup.names = &[("a.test", &["127.0.0.1"]), ("b.test", &["127.0.0.1"])];
    let mut proxy = setup.start();
    let curl = || {
        let mut curl = command("curl");
        curl.current_dir(folder.path()).args(["--silent", "--show-error", "--max-time", "20", "--noproxy", ""]);
        curl.args(["--cacert", "certificate.pem", "--proxy", &format!("http://{}", proxy.address)]);
        curl
    };
    let (body, error, status) = output(curl().arg(format!("https://a.test:{secure}/x"))).await;
    assert_eq!((body.as_str(), status), ("hello from /x", Some(0)), "{error}");
    let large = "ab".repeat(500_000);
    std::fs::write(folder.path().join("large"), &large).unwrap();
    let (body, error, status) =
        output(curl().args(["--data-binary", "@large"]).arg(format!("https://a.test:{secure}/"))).await;
    assert_eq!((body == "ba".repeat(500_000), status), (true, Some(0)), "{error}");
    let (body, error, status) = output(curl().arg(format!("http://a.test:{port}/y?z"))).await;
    assert_eq!(status, Some(0), "{error}");
    assert!(body.starts_with(&format!("GET /y?z HTTP/1.1\r\nHost: a.test:{port}\r\n")), "{body}");
    // Denied: the status and the sentence arrive.
    let (body, _, status) =
        output(curl().args(["--write-out", "%{http_code}"]).arg(format!("http://c.test:{port}/"))).await;
    let sentence = format!("c.test:{port} is not among the hosts that network_access grants\n403");
    assert_eq!((body, status), (sentence, Some(0)));
    let (_, error, status) = output(curl().arg(format!("https://c.test:{secure}/"))).await;
    assert_eq!(status, Some(56), "{error}");
    assert!(error.contains("403"), "{error}");
    // The tunnel is to b.test, the server name is a.test.
    let connect_to = format!("a.test:{secure}:b.test:{secure}");
    let (_, error, status) =
        output(curl().args(["--connect-to", &connect_to]).arg(format!("https://a.test:{secure}/"))).await;
    assert_eq!(status, Some(35), "{error}");
    assert!(error.contains("unrecognized name"), "{error}");
    let mut passages = Vec::new();
    let mut refusals = Vec::new();
    while passages.len() < 3 || refusals.len() < 3 {
        match proxy.record().await {
            Event::Allowed { passage, .. } => passages.push(passage),
            Event::Refused(refusal) => refusals.push(refusal.to_string()),
            Event::Ended { .. } => {}
        }
    }
    assert_eq!(passages, [Passage::Tls, Passage::Tls, Passage::Http]);
    let sentence = "the TLS client hello names the server \"a.test\", but the tunnel is to b.test";
    assert_eq!(refusals.last().map(String::as_str), Some(sentence));
    https.kill().await.unwrap();
    mirror.abort();
}

#[tokio::test]
async fn python_goes_through() {
    if !present("python_goes_through", &[("openssl", "version"), ("python3", "--version")]).await {
        return;
    }
    const PROGRAM: &str = r#"
import ssl, sys, urllib.error, urllib.request
context = ssl.create_default_context(cafile="certificate.pem")
opener = urllib.request.build_opener(urllib.request.ProxyHandler(), urllib.request.HTTPSHandler(context=context))
for url in sys.argv[1:]:
    try:
        with opener.open(url, timeout=20) as response:
            print(response.status, response.read().decode().splitlines()[0])
    except urllib.error.HTTPError as error:
        print(error.code, error.read().decode().strip())
    except OSError as error:
        print(error)
"#;
    let folder = tempfile::tempdir().unwrap();
    let (mut https, secure) = https_server(folder.path()).await;
    let plain = Server::start().await;
    let port = plain.port;
    let mirror = mirror(plain);
    let mut proxy = Setup::granting(&[&format!("a.test:{secure}"), &format!("a.test:{port}")]).start();
    let mut python = command("python3");
    python.current_dir(folder.path()).args(["-c", PROGRAM]);
    for name in ["http_proxy", "https_proxy"] {
        python.env(name, format!("http://{}", proxy.address));
    }
    python.args([
        format!("https://a.test:{secure}/x"),
        format!("http://a.test:{port}/y"),
        format!("http://c.test:{port}/"),
        format!("https://c.test:{secure}/"),
    ]);
    let (printed, error, _) = output(&mut python).await;
    let expected = format!(
        "200 hello from /x\n200 GET /y HTTP/1.1\n\
         403 c.test:{port} is not among the hosts that network_access grants\n\
         <urlopen error Tunnel connection failed: 403 Forbidden>\n"
    );
    assert_eq!(printed, expected, "{error}");
    assert_eq!(proxy.allowed_and_ended().await.0, Passage::Tls);
    https.kill().await.unwrap();
    mirror.abort();
}
