//! One agent over a socket pair, and a service without plugins.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use palisade_protocol::{
    Call as CallBody, Cancel, CancelReason, Decoder, Empty, FEATURES, Feature, Header, Hello, PROTOCOL, Ping,
    SUPERVISOR_ID, StreamCredit, VersionRange, Welcome, encode,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;

use super::connection::{BACKPRESSURE_BYTES, CALLS_MAX, STALLED};
use super::listener::SOCKET_PATH_BYTES_MAX;
use super::*;
use crate::config::{Config, Mode};
use crate::events::{Bus, Event, EventKind};
use crate::model::status::PreparedLaunchers;
use crate::plugin::logs::Hub;
use crate::registry::Registry;
use crate::sandbox::probe::{self, Ability, Descriptors};
use crate::wire::a_frame;

struct Peer {
    stream: UnixStream,
    decoder: Decoder,
}

fn config() -> Config {
    let nowhere = PathBuf::from("/nonexistent");
    Config {
        mode: Mode::User,
        file: None,
        plugin_directories: Vec::new(),
        unusable_directories: Vec::new(),
        state_directory: nowhere.clone(),
        runtime_directory: nowhere.clone(),
        socket: nowhere,
        allowed_uids: Vec::new(),
        operators: Vec::new(),
        defaults: crate::config::Defaults::default(),
        socket_group: None,
        lent_uids: 1..=1,
        egress: Default::default(),
        disk_reserve_mib: 0,
        watch: false,
        update_policy: crate::model::updates::Policy::default(),
        reload: crate::config::reload::Reload::default(),
        checks: Default::default(),
        permissions: Default::default(),
        trust: Default::default(),
        state_key: None,
        runtimes: BTreeMap::new(),
        prepared_launchers: 0,
        plugins: BTreeMap::new(),
    }
}

fn service() -> Arc<Service> {
    let no = || Ability::No("not tried".to_owned());
    let host = probe::Host {
        quotas: Ability::Yes,
        user_namespaces: no(),
        launcher: no(),
        pid_namespaces: no(),
        private_root: no(),
        network_namespaces: no(),
        way_out: no(),
        ipc_namespaces: no(),
        host_names: no(),
        watchers: no(),
        landlock: no(),
        landlock_version: 0,
        lent_users: no(),
        seccomp: no(),
        trials: Vec::new(),
        cgroup: no(),
        controllers: Vec::new(),
        uncontrolled: None,
        descriptors: Descriptors { soft: None, hard: None },
    };
    let service = Service {
        registry: Arc::default(),
        packages: None,
        hub: Hub::default(),
        bus: Bus::default(),
        config: Arc::new(config()),
        host,
        one_by_one: watch::Sender::new(None).subscribe(),
        prepared: watch::Sender::new(PreparedLaunchers { wanted: 0, ready: 0, problem: None }).subscribe(),
        started: (Instant::now(), SystemTime::now()),
        stop: Notify::new(),
        stopping: false.into(),
        ended: watch::Sender::new(false),
    };
    service.registry.replace(Registry::default());
    Arc::new(service)
}

fn hello(features: &[&str]) -> Hello {
    let features = features.iter().map(|name| (*name).to_owned()).collect();
    Hello { protocol: PROTOCOL, features, software: "test".to_owned() }
}

impl Peer {
    fn connect() -> Self {
        Self::connect_to(service())
    }

    fn connect_to(service: Arc<Service>) -> Self {
        let (near, far) = UnixStream::pair().unwrap();
        let (stays, leaving) = watch::channel(false);
        tokio::spawn(async move {
            receive(far, service, true, leaving).await;
            drop(stays);
        });
        Self { stream: near, decoder: Decoder::default() }
    }

    async fn greeted() -> Self {
        Self::greeted_by(service()).await
    }

    async fn greeted_by(service: Arc<Service>) -> Self {
        let mut peer = Self::connect_to(service);
        peer.send(Kind::Hello, 0, &hello(&FEATURES.map(Feature::name)), &[]).await;
        let (kind, _, content) = peer.next().await.unwrap();
        assert_eq!(kind, Kind::Welcome);
        let welcome: Welcome = rmp_serde::from_slice(&content).unwrap();
        assert_eq!((welcome.limits.calls_max, welcome.plugin), (CALLS_MAX, None));
        peer
    }

    async fn send<M: serde::Serialize>(&mut self, kind: Kind, id: u64, message: &M, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode(&mut bytes, kind, Flags::NONE, id, message, payload);
        self.stream.write_all(&bytes).await.unwrap();
    }

    async fn call(&mut self, id: u64, plugin: &str, action: &str, params: &Value) {
        let mut payload = Vec::new();
        palisade_protocol::encode_value(&mut payload, params).unwrap();
        let head = CallBody { action, plugin: Some(plugin), ..CallBody::default() };
        self.send(Kind::Call, id, &head, &payload).await;
    }

    /// The next frame: kind, id, content. Nothing at the end.
    async fn next(&mut self) -> Option<(Kind, u64, Vec<u8>)> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some((frame.kind().unwrap().unwrap(), frame.header.id, frame.content.to_vec()));
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.decoder.push(&bytes[..count]),
            }
        }
    }

    async fn begin(&mut self, kind: Kind, id: u64) {
        match kind {
            Kind::Ping => self.send(kind, id, &Ping::default(), &[]).await,
            _ => self.call(id, SUPERVISOR_ID, "list", &Value::Null).await,
        }
    }

    async fn error(&mut self, id: u64) -> ErrorBody {
        let (kind, of, content) = self.next().await.unwrap();
        assert_eq!((kind, of), (Kind::Err, id));
        rmp_serde::from_slice(&content).unwrap()
    }

    /// The agent was told why, and nothing follows.
    async fn refused(&mut self) -> ErrorBody {
        let (kind, id, content) = self.next().await.unwrap();
        assert_eq!((kind, id), (Kind::Refuse, 0));
        assert_eq!(self.next().await, None);
        rmp_serde::from_slice::<Refuse>(&content).unwrap().error
    }
}

#[tokio::test]
async fn the_sockets_file_lets_in_whom_the_configuration_does() {
    use std::os::unix::fs::MetadataExt;
    let group = rustix::process::getegid().as_raw();
    for (allowed_uids, socket_group, mode) in
        [(vec![], None, 0o600), (vec![], Some(group), 0o660), (vec![7], None, 0o666)]
    {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("palisade.sock");
        let listener = listen(&Config { socket: socket.clone(), allowed_uids, socket_group, ..config() }).unwrap();
        let seen = std::fs::metadata(&socket).unwrap();
        assert_eq!((seen.mode() & 0o777, seen.gid()), (mode, group));
        assert_eq!(std::fs::metadata(folder.path().join("palisade.sock.lock")).unwrap().mode() & 0o777, 0o600);
        drop(listener);
        assert_eq!(names(folder.path()), [""; 0], "neither is left");
    }
}

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn each_socket_of_a_folder_has_a_lock_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let listen_at = |name: &str| listen(&Config { socket: folder.path().join(name), ..config() });
    let listeners: Vec<_> = ["x.sock", "x.socket", "x.lock"].iter().map(|name| listen_at(name).expect(name)).collect();
    for listener in &listeners {
        assert!(std::os::unix::net::UnixStream::connect(&listener.path).is_ok(), "{listener:?}");
    }
    assert!(matches!(listen_at("x.sock"), Err(ListenError::Served { .. })));
    drop(listeners);
    assert_eq!(names(folder.path()), [""; 0]);
    listen_at("x.sock").expect("it is free again");
}

#[tokio::test]
async fn a_socket_that_cannot_be_made_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let listen_at = |socket: &Path| listen(&Config { socket: socket.to_owned(), ..config() });
    let socket = folder.path().join("x.sock");
    std::fs::write(&socket, "a file").unwrap();
    assert!(matches!(listen_at(&socket), Err(ListenError::InTheWay { .. })));
    assert_eq!(names(folder.path()), ["x.sock"], "no lock");
    // Of somebody who takes no lock, it is not taken away either.
    std::fs::remove_file(&socket).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    assert!(matches!(listen_at(&socket), Err(ListenError::Served { .. })));
    assert_eq!(names(folder.path()), ["x.sock"], "no lock");
    drop(other);
    drop(listen_at(&socket).expect("what is left over is taken over"));
    assert_eq!(names(folder.path()), [""; 0]);
}

#[tokio::test]
async fn a_socket_has_a_path_that_the_kernel_can_hold() {
    let folder = tempfile::tempdir().unwrap();
    let room = SOCKET_PATH_BYTES_MAX - folder.path().as_os_str().len() - 1;
    let listen_at = |length: usize| listen(&Config { socket: folder.path().join("s".repeat(length)), ..config() });
    drop(listen_at(room).expect("it just fits"));
    let error = listen_at(room + 1).unwrap_err().to_string();
    assert!(error.contains("has 108 bytes, and 107 is the most"), "{error}");
    assert!(error.contains("XDG_RUNTIME_DIR") && error.contains("--socket"), "{error}");
    assert_eq!(names(folder.path()), [""; 0]);
}

#[tokio::test]
async fn garbage_is_refused_with_a_sentence() {
    for (bytes, expected) in [
        (Header { len: u32::MAX, kind: 1, flags: Flags::NONE, id: 0 }.bytes().to_vec(), "a frame of 4294967295 bytes"),
        (Header { len: 0, kind: 1, flags: Flags::NONE, id: 0 }.bytes().to_vec(), "a frame without a body"),
        (
            [&Header { len: 1, kind: 0x10, flags: Flags::NONE, id: 1 }.bytes()[..], &[0x80]].concat(),
            "a Call frame before Hello",
        ),
        (
            [&Header { len: 1, kind: 0xee, flags: Flags::MUST_UNDERSTAND, id: 1 }.bytes()[..], &[0x80]].concat(),
            "kind 0xee",
        ),
        ([&Header { len: 1, kind: 1, flags: Flags::NONE, id: 0 }.bytes()[..], &[0xc1]].concat(), "Hello"),
    ] {
        let mut peer = Peer::connect();
        peer.stream.write_all(&bytes).await.unwrap();
        let error = peer.refused().await;
        assert_eq!(error.code, ErrorCode::ProtocolViolation);
        assert!(error.message.contains(expected), "{} / {expected}", error.message);
    }
}

#[tokio::test]
async fn another_version_is_refused() {
    let mut peer = Peer::connect();
    let hello = Hello { protocol: VersionRange { min: 7, max: 9 }, ..hello(&[]) };
    peer.send(Kind::Hello, 0, &hello, &[]).await;
    assert!(peer.refused().await.message.contains("7 to 9"));
}

#[tokio::test(start_paused = true)]
async fn silence_instead_of_hello_is_cut_off() {
    let before = tokio::time::Instant::now();
    let mut peer = Peer::connect();
    assert!(peer.refused().await.message.contains("it said no hello"));
    assert_eq!(before.elapsed().as_secs(), HELLO_WITHIN.as_secs());
}

#[tokio::test]
async fn hello_twice_and_ids_out_of_order_end_the_connection() {
    let mut peer = Peer::greeted().await;
    peer.send(Kind::Hello, 0, &hello(&[]), &[]).await;
    assert_eq!(peer.refused().await.message, "a second Hello");
    for ids in [&[2_u64][..], &[0], &[3, 1], &[5, 5]] {
        let mut peer = Peer::greeted().await;
        let (last, first) = ids.split_last().unwrap();
        for id in first {
            peer.call(*id, "ghost", "act", &Value::Null).await;
            assert_eq!(peer.error(*id).await.code, ErrorCode::PluginNotFound);
        }
        peer.call(*last, "ghost", "act", &Value::Null).await;
        assert!(peer.refused().await.message.starts_with(&format!("a call under id {last}")));
    }
}

#[tokio::test]
async fn kinds_that_agents_do_not_send_end_the_connection() {
    for kind in
        [Kind::Welcome, Kind::Ready, Kind::Pong, Kind::Drain, Kind::Ok, Kind::Err, Kind::Progress, Kind::HostCall]
    {
        let mut peer = Peer::greeted().await;
        peer.send(kind, 1, &Empty {}, &[]).await;
        assert_eq!(peer.refused().await.message, format!("{}, which agents do not send", a_frame(kind)));
    }
}

#[tokio::test]
async fn what_belongs_to_no_call_is_skipped() {
    let mut peer = Peer::greeted().await;
    for kind in [Kind::StreamData, Kind::StreamEnd, Kind::Continue, Kind::Cancel] {
        peer.send(kind, 77, &Empty {}, &[]).await;
    }
    peer.send(Kind::StreamCredit, 77, &StreamCredit { bytes: 5 }, &[]).await;
    peer.send(Kind::Ping, 1, &Ping::default(), &[]).await;
    let (kind, id, _) = peer.next().await.unwrap();
    assert_eq!((kind, id), (Kind::Pong, 1));
}

#[tokio::test]
async fn operations_answer_and_unknown_ones_say_what_was_meant() {
    let mut peer = Peer::greeted().await;
    peer.call(1, SUPERVISOR_ID, "list", &Value::Null).await;
    let (kind, id, content) = peer.next().await.unwrap();
    assert_eq!((kind, id), (Kind::Ok, 1));
    let listed: Value = rmp_serde::from_slice(&content[1..]).unwrap();
    assert_eq!(listed, serde_json::json!({ "plugins": [], "rejected": [] }));
    peer.call(3, SUPERVISOR_ID, "lisst", &Value::Null).await;
    let error = peer.error(3).await;
    assert_eq!((error.code, error.hint.as_deref()), (ErrorCode::ActionNotFound, Some("did you mean \"list\"?")));
    peer.call(5, SUPERVISOR_ID, "list", &serde_json::json!({ "x": 1 })).await;
    assert_eq!(peer.error(5).await.code, ErrorCode::InvalidParams);
    peer.send(Kind::Call, 7, &CallBody { action: "list", ..CallBody::default() }, &[]).await;
    assert_eq!(peer.error(7).await.code, ErrorCode::InvalidParams);
}

#[tokio::test]
async fn a_name_as_long_as_a_frame_does_not_make_an_error_that_cannot_be_read() {
    let mut peer = Peer::greeted().await;
    peer.call(1, &"\u{1}".repeat(30_000), "act", &Value::Null).await;
    let (kind, id, content) = peer.next().await.unwrap();
    assert_eq!((kind, id), (Kind::Err, 1));
    assert_eq!(palisade_protocol::check_body(&content), Ok(content.len()));
    assert!(content.len() <= palisade_protocol::BODY_BYTES_MAX);
}

#[tokio::test]
async fn a_following_operation_is_cancelled_once_and_the_next_call_is_served() {
    let mut peer = Peer::greeted().await;
    peer.call(1, SUPERVISOR_ID, "events", &Value::Null).await;
    let (kind, id, _) = peer.next().await.unwrap();
    assert_eq!((kind, id), (Kind::StreamOpen, 1));
    for _ in 0..2 {
        peer.send(Kind::Cancel, 1, &Cancel { reason: CancelReason::Caller }, &[]).await;
    }
    peer.call(3, SUPERVISOR_ID, "version", &Value::Null).await;
    let ends = [peer.next().await.unwrap(), peer.next().await.unwrap()].map(|(kind, id, _)| (kind, id));
    assert_eq!(ends, [(Kind::Cancelled, 1), (Kind::Ok, 3)]);
}

/// The queue of what happened overflows: whoever follows learns how much passed by, and then goes on.
#[tokio::test]
async fn a_follower_that_is_too_slow_is_told_what_it_missed() {
    let service = service();
    let mut peer = Peer::greeted_by(service.clone()).await;
    peer.call(1, "palisade", "events", &serde_json::json!({"follow": true})).await;
    let (kind, ..) = peer.next().await.unwrap();
    assert_eq!(kind, Kind::StreamOpen);
    // There is one thread, so nobody reads meanwhile.
    for _ in 0..300 {
        service.bus.publish(Event::new(EventKind::DaemonStarted));
    }
    let mut items = Vec::new();
    for _ in 0..257 {
        let (kind, _, content) = peer.next().await.unwrap();
        assert_eq!(kind, Kind::StreamData);
        items.push(rmp_serde::from_slice::<Value>(&content[1..]).unwrap());
    }
    assert_eq!(items[0], serde_json::json!({"missed": 44}));
    assert!(items[1..].iter().all(|item| item["kind"] == "daemon_started"), "{items:?}");
}

#[tokio::test]
async fn an_operation_that_panics_is_answered_and_the_connection_goes_on() {
    let mut peer = Peer::greeted().await;
    peer.call(1, SUPERVISOR_ID, "events", &Value::Null).await;
    peer.call(3, SUPERVISOR_ID, "panic", &Value::Null).await;
    for expected in [(Kind::StreamOpen, 1), (Kind::StreamOpen, 3)] {
        let (kind, id, _) = peer.next().await.unwrap();
        assert_eq!((kind, id), expected);
    }
    let told = tokio::time::timeout(Duration::from_secs(10), peer.error(3)).await;
    assert_eq!(told.expect("it is answered").code, ErrorCode::Internal);
    peer.call(5, SUPERVISOR_ID, "version", &Value::Null).await;
    let (kind, id, _) = peer.next().await.unwrap();
    assert_eq!((kind, id), (Kind::Ok, 5));
}

#[tokio::test]
async fn an_agent_without_streams_is_not_sent_one() {
    let mut peer = Peer::connect();
    peer.send(Kind::Hello, 0, &hello(&[]), &[]).await;
    assert_eq!(peer.next().await.unwrap().0, Kind::Welcome);
    peer.call(1, SUPERVISOR_ID, "events", &Value::Null).await;
    assert_eq!(peer.error(1).await.code, ErrorCode::StreamingNotSupported);
    peer.call(3, SUPERVISOR_ID, "version", &Value::Null).await;
    let (kind, id, _) = peer.next().await.unwrap();
    assert_eq!((kind, id), (Kind::Ok, 3));
}

#[tokio::test]
async fn calls_beyond_the_limit_are_turned_away_and_nothing_else() {
    let mut peer = Peer::greeted().await;
    let last = 2 * u64::from(CALLS_MAX) + 1;
    for id in (1..=last).step_by(2) {
        peer.call(id, SUPERVISOR_ID, "events", &Value::Null).await;
    }
    let mut opened = 0;
    loop {
        let (kind, id, content) = peer.next().await.unwrap();
        match kind {
            Kind::StreamOpen => opened += 1,
            Kind::Err => {
                assert_eq!(id, last);
                assert_eq!(rmp_serde::from_slice::<ErrorBody>(&content).unwrap().code, ErrorCode::Overloaded);
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(opened <= CALLS_MAX);
}

/// So many pings, under the ids that follow those of the `before` first ones.
fn pings(before: u64, count: u64) -> Vec<u8> {
    let mut pings = Vec::new();
    for number in before..before + count {
        encode(&mut pings, Kind::Ping, Flags::NONE, 2 * number + 1, &Ping::default(), &[]);
    }
    pings
}

/// Calls and pings share the ids, which only rise: neither takes one that the other had.
#[tokio::test]
async fn no_id_is_used_again() {
    for (first, second) in [(Kind::Ping, Kind::Call), (Kind::Call, Kind::Ping), (Kind::Ping, Kind::Ping)] {
        let mut peer = Peer::greeted().await;
        for (kind, id) in [(first, 5), (second, 7)] {
            peer.begin(kind, id).await;
            assert_eq!(peer.next().await.unwrap().1, id);
        }
        for id in [7, 5, 8] {
            let mut peer = Peer::greeted().await;
            peer.begin(first, 7).await;
            assert_eq!(peer.next().await.unwrap().1, 7);
            peer.begin(second, id).await;
            let error = peer.refused().await;
            let what = if second == Kind::Ping { "a ping" } else { "a call" };
            assert_eq!(error.message, format!("{what} under id {id}; it has to be odd and above the last one, 7"));
            assert_eq!(error.code, ErrorCode::ProtocolViolation);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_reads_nothing_is_not_read_from_and_then_cut_off() {
    let mut peer = Peer::greeted().await;
    const PINGS: u64 = 1 << 12;
    let mut first = 0;
    let before = tokio::time::Instant::now();
    let mut sent = 0;
    // Backpressure stops us long before this; then only the clock moves on, until the daemon closes the connection.
    loop {
        let pings = pings(first, PINGS);
        if peer.stream.write_all(&pings).await.is_err() {
            break;
        }
        first += PINGS;
        sent += pings.len();
        assert!(sent < 4 * BACKPRESSURE_BYTES, "what is not read is bounded");
    }
    assert!(before.elapsed() >= STALLED && before.elapsed() < 3 * STALLED, "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_reads_slowly_is_left_alone() {
    let mut peer = Peer::greeted().await;
    // Far more answers than the socket takes, so that something waits all the time. The kernel lets us write again only when
    // most of its buffer was read, so the slowest reader that can be told from none takes some kilobytes a second.
    const PINGS: u64 = 40_000;
    let (mut reading, mut writing) = peer.stream.into_split();
    let writer = tokio::spawn(async move {
        writing.write_all(&pings(0, PINGS)).await.unwrap();
        writing
    });
    let started = tokio::time::Instant::now();
    let mut pongs = 0;
    let mut bytes = vec![0; 64 << 10];
    while pongs < PINGS {
        // Of the paused time: so slow is this reader, and nobody is waited for with it.
        tokio::time::sleep(STALLED / 4).await;
        let count = reading.read(&mut bytes).await.unwrap();
        assert_ne!(count, 0, "cut off after {:?} and {pongs} answers", started.elapsed());
        peer.decoder.push(&bytes[..count]);
        while let Some(frame) = peer.decoder.next_frame().unwrap() {
            assert_eq!(frame.kind().unwrap(), Some(Kind::Pong));
            pongs += 1;
        }
    }
    assert!(started.elapsed() > 2 * STALLED, "it took long enough to show something");
    drop(writer.await.unwrap());
}
