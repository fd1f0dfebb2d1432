//! Agents that misbehave cost only themselves.

use std::time::Duration;

use nix::sys::signal::Signal;
use palisade_protocol::{
    Call, Empty, ErrorCode, Flags, Header, Hello, Kind, PROTOCOL, StreamKind, StreamOpen, VersionRange, encode,
};
use palisade_tests::daemon::{Daemon, DaemonOptions, signal, wait_for};
use palisade_tests::package::Package;
use palisade_tests::process;
use palisade_tests::wire::{Agent, BOUND, Next, hello, pack};
use serde_json::json;

use crate::support::{daemon_with, error, expect_echo, expect_text, hostile};

const DAEMON_KIB_MAX: u64 = 64 << 10;

fn connect(daemon: &Daemon) -> Agent {
    Agent::connect_silently(&daemon.socket()).expect("it listens")
}

/// What is no frame, or not the frame that is due, is refused with a sentence, and the connection ends.
#[test]
fn wrong_frames() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let header = |kind: u8, id: u64, len: u32| Header { len, kind, flags: Flags::NONE, id }.bytes().to_vec();
    let mut call_first = Vec::new();
    encode(
        &mut call_first,
        Kind::Call,
        Flags::NONE,
        1,
        &Call { action: "echo", plugin: Some("echo"), ..Call::default() },
        &[],
    );
    let mut must_understand = header(0xee, 0, 1);
    must_understand[5] = Flags::MUST_UNDERSTAND.0;
    must_understand.push(0x80);
    let before_hello: Vec<(&str, Vec<u8>, &str)> = vec![
        ("something else entirely", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "announced"),
        ("a frame of length 0", header(Kind::Hello as u8, 0, 0), "without a body"),
        ("a frame of 4 GiB", header(Kind::Hello as u8, 0, u32::MAX), "announced"),
        ("a call before hello", call_first.clone(), "Hello"),
        ("a kind it must understand", must_understand.clone(), "0xee"),
        ("a hello without a version", [header(Kind::Hello as u8, 0, 1), vec![0x80]].concat(), "protocol"),
    ];
    for (what, bytes, sentence) in before_hello {
        let mut agent = connect(&daemon);
        agent.send_bytes(&bytes).expect("it reads");
        let refusal = agent.expect_refusal();
        assert_eq!(refusal.code, ErrorCode::ProtocolViolation, "{what}: {refusal}");
        assert_eq!(refusal.fault, palisade_protocol::Fault::Caller, "{what}: {refusal}");
        expect_text(&refusal.message, sentence);
    }
    let mut again = Vec::new();
    encode(&mut again, Kind::Hello, Flags::NONE, 0, &hello(), &[]);
    let call = |id: u64| {
        let mut bytes = Vec::new();
        encode(
            &mut bytes,
            Kind::Call,
            Flags::NONE,
            id,
            &Call { action: "wait", plugin: Some("hostile"), ..Call::default() },
            &[],
        );
        bytes
    };
    let after_hello: Vec<(&str, Vec<u8>)> = vec![
        ("hello again", again),
        ("an even id", call(2)),
        ("id 0", call(0)),
        ("an id again", [call(1), call(1)].concat()),
        ("an id that goes back", [call(5), call(3)].concat()),
        ("a body that is no map", [header(Kind::Call as u8, 1, 1), vec![0x90]].concat()),
        ("a plugin's frame", [header(Kind::Ready as u8, 0, 1), vec![0x80]].concat()),
        ("a frame of 4 GiB", header(Kind::Call as u8, 1, u32::MAX)),
        ("a kind it must understand", must_understand),
        ("garbage", vec![0xff; 1000]),
    ];
    for (what, bytes) in after_hello {
        let mut agent = daemon.agent();
        agent.send_bytes(&bytes).expect("it reads");
        let refusal = agent.expect_refusal();
        assert_eq!(refusal.code, ErrorCode::ProtocolViolation, "{what}: {refusal}");
    }
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// A call that names no plugin is the call's mistake, or the connection's; either way nobody else's.
#[test]
fn a_call_without_a_plugin() {
    let daemon = Daemon::with([Package::echo()]);
    let mut agent = daemon.agent();
    let id = agent.begin_with(&Call { action: "echo", ..Call::default() }, &[]);
    match agent.next_of(id) {
        frame if frame.kind == Some(Kind::Err) => {
            let error: palisade_protocol::ErrorBody = frame.message();
            assert!(matches!(error.code, ErrorCode::InvalidParams | ErrorCode::PluginNotFound), "{error}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(agent.call("echo", "echo", &json!(1)), Ok(json!(1)));
    daemon.stop_and_expect_no_orphans();
}

/// An agent of a version that the daemon does not speak.
#[test]
fn another_version() {
    let daemon = Daemon::with([Package::echo()]);
    let mut agent = connect(&daemon);
    let old = Hello { protocol: VersionRange { min: 700, max: 701 }, ..hello() };
    agent.send(Kind::Hello, Flags::NONE, 0, &old, &[]).expect("it reads");
    let refusal = agent.expect_refusal();
    expect_text(&refusal.message, "700");
    expect_text(&refusal.message, &PROTOCOL.max.to_string());
    daemon.stop_and_expect_no_orphans();
}

/// Agents that connect and say nothing, or half a frame, neither keep others out nor stay for ever.
#[test]
fn silent_agents() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let mut silent: Vec<Agent> = (0..50).map(|_| connect(&daemon)).collect();
    for agent in silent.iter_mut().skip(25) {
        agent.send_bytes(&[40, 0, 0, 0, Kind::Hello as u8, 0]).expect("it reads");
    }
    expect_echo(&daemon, "hostile");
    for agent in &mut silent {
        loop {
            match agent.next(BOUND).expect("the socket works") {
                Next::End => break,
                Next::Frame(frame) => assert_eq!(frame.kind, Some(Kind::Refuse)),
                Next::Silence => panic!("an agent that says nothing is kept for ever"),
            }
        }
    }
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// An agent that reads nothing: its answers are bounded by what it may have under way, and others are served.
#[test]
fn an_agent_that_does_not_read() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let mut deaf = daemon.agent();
    deaf.stream().set_write_timeout(Some(Duration::from_millis(200))).expect("a timeout can be set");
    let parameters = pack(&json!("z".repeat(60_000)));
    let mut sent = 0_u32;
    // Until the daemon stops reading from it, or two gigabytes: whichever comes first.
    for _ in 0..30_000 {
        let id = deaf.new_id();
        let call = Call { action: "echo", plugin: Some("hostile"), ..Call::default() };
        if deaf.send(Kind::Call, Flags::NONE, id, &call, &parameters).is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < 30_000, "the daemon takes calls without end from an agent that reads no answers");
    let peak = process::peak_kib(daemon.pid()).expect("it runs");
    assert!(peak < DAEMON_KIB_MAX, "the daemon took {peak} KiB");
    expect_echo(&daemon, "echo");
    drop(deaf);
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// More calls at once than a connection may have: those beyond are turned away, the others are answered.
#[test]
fn an_agent_that_floods() {
    let limits = json!({"concurrency": 1024, "queue": 1024, "stop_grace_seconds": 1});
    let daemon = daemon_with(hostile("tame").with("limits", limits));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    let most = usize::try_from(agent.limits.calls_max).expect("it is small");
    let ids: Vec<u64> = (0..most + 50).map(|_| agent.begin("hostile", "wait", &json!(null))).collect();
    for id in &ids[most..] {
        error(agent.finish(*id), ErrorCode::Overloaded);
    }
    for id in &ids[..most] {
        agent.cancel(*id);
        error(agent.finish(*id), ErrorCode::Cancelled);
    }
    assert_eq!(agent.call("hostile", "echo", &json!(1)), Ok(json!(1)), "the connection is as good as before");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// An agent that goes away in the middle of its calls: they are cancelled, and nothing waits for it.
#[test]
fn an_agent_that_vanishes() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    for _ in 0..5 {
        agent.begin("hostile", "wait", &json!(null));
    }
    // One with a stream half sent, too.
    let half = agent.begin("hostile", "swallow", &json!(null));
    agent.send(Kind::StreamOpen, Flags::NONE, half, &StreamOpen { kind: StreamKind::Bytes }, &[]).expect("it reads");
    agent.send(Kind::StreamData, Flags::NONE, half, &Empty {}, &[1; 1000]).expect("it reads");
    daemon.wait_until("hostile", "six calls in flight", |now| now.calls.in_flight == 6);
    drop(agent);
    let status = daemon.wait_until("hostile", "the end of its calls", |now| now.calls.in_flight == 0);
    assert_eq!(status.calls.cancelled, 6, "{status:?}");
    assert_eq!(status.generation, Some(1));
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// An agent that has more calls than its plugin takes, again and again, and another agent of the same plugin: that one's calls are all
/// answered, as what there is of room is shared.
#[test]
fn an_agent_that_floods_the_plugin_of_another() {
    let echo = Package::echo().with("limits", json!({"concurrency": 1, "queue": 8}));
    let daemon = Daemon::with([echo]);
    let (mut flooding, mut other) = (daemon.agent(), daemon.agent());
    let (mut answered, mut turned_away) = (0, 0);
    for round in 0..4 {
        let flood: Vec<_> = (0..60).map(|_| flooding.begin("echo", "slow", &json!({"ms": 5}))).collect();
        let calls: Vec<_> = (0..3).map(|number| (number, other.begin("echo", "echo", &json!(number)))).collect();
        for (number, id) in calls {
            assert_eq!(other.finish(id), Ok(json!(number)), "round {round}");
        }
        for id in flood {
            match flooding.finish(id) {
                Ok(_) => answered += 1,
                Err(error) => {
                    assert_eq!(error.code, ErrorCode::Overloaded, "{error}");
                    turned_away += 1;
                }
            }
        }
    }
    assert!(answered >= 4 && turned_away >= 4, "{answered} answered, {turned_away} turned away");
    let calls = daemon.status("echo").calls;
    assert_eq!((calls.ok, calls.refused, calls.waiting, calls.in_flight), (answered + 12, turned_away, 0, 0));
    daemon.stop_and_expect_no_orphans();
}

/// Stream data, credit and cancels for calls that never were or are long over are skipped.
#[test]
fn frames_for_no_call() {
    let daemon = Daemon::with([Package::echo()]);
    let mut agent = daemon.agent();
    assert_eq!(agent.call("echo", "echo", &json!(1)), Ok(json!(1)));
    for id in [1, 3, 999] {
        agent.send(Kind::StreamData, Flags::NONE, id, &Empty {}, &[1, 2, 3]).expect("it reads");
        agent.send(Kind::StreamEnd, Flags::NONE, id, &Empty {}, &[]).expect("it reads");
        agent.cancel(id);
        let credit = palisade_protocol::StreamCredit { bytes: 10 };
        agent.send(Kind::StreamCredit, Flags::NONE, id, &credit, &[]).expect("it reads");
    }
    let id = agent.begin_with(&Call { action: "echo", plugin: Some("echo"), ..Call::default() }, &pack(&json!(2)));
    assert_eq!(agent.finish(id), Ok(json!(2)));
    daemon.stop_and_expect_no_orphans();
}

/// Data that comes a byte at a time, for a plugin that does not read: it takes some times its credit of memory and not a hundred times,
/// and all of it arrives once the plugin reads.
#[test]
fn an_agent_that_sends_a_byte_at_a_time() {
    const FRAMES: usize = 150_000;
    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    let calls: Vec<_> = (0..4).map(|_| agent.begin("hostile", "swallow", &json!(null))).collect();
    daemon.wait_until("hostile", "four calls in flight", |now| now.calls.in_flight == 4);
    let plugin = daemon.process_of("hostile");
    signal(plugin, Signal::SIGSTOP);
    let before = process::peak_kib(daemon.pid()).expect("it runs");
    for id in &calls {
        agent.send(Kind::StreamOpen, Flags::NONE, *id, &StreamOpen { kind: StreamKind::Bytes }, &[]).expect("it reads");
        let mut frame = Vec::new();
        encode(&mut frame, Kind::StreamData, Flags::NONE, *id, &Empty {}, &[]);
        agent.send_bytes(&frame.repeat(FRAMES)).expect("it reads");
        agent.send(Kind::StreamEnd, Flags::NONE, *id, &Empty {}, &[]).expect("it reads");
    }
    assert_eq!(agent.call("echo", "echo", &json!("all is taken in")), Ok(json!("all is taken in")));
    let grown = process::peak_kib(daemon.pid()).expect("it runs") - before;
    assert!(grown <= 24 << 10, "{grown} KiB for {} bytes of data", 4 * FRAMES);
    signal(plugin, Signal::SIGCONT);
    for id in calls {
        assert_eq!(agent.finish(id), Ok(json!(null)));
    }
    daemon.stop_and_expect_no_orphans();
}

/// More stream data than the credit is refused; the plugin at the other end is asked to cancel and lives on.
#[test]
fn an_agent_beyond_its_credit() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    expect_echo(&daemon, "hostile");
    let id = agent.begin("hostile", "wait", &json!(null));
    agent.send(Kind::StreamOpen, Flags::NONE, id, &StreamOpen { kind: StreamKind::Bytes }, &[]).expect("it reads");
    daemon.wait_until("hostile", "its call in flight", |now| now.calls.in_flight == 1);
    // It gives credit for all that it reads; as it stands still, two mebibytes are too much in any case.
    let plugin = daemon.process_of("hostile");
    signal(plugin, Signal::SIGSTOP);
    for _ in 0..16 {
        if agent.send(Kind::StreamData, Flags::NONE, id, &Empty {}, &[0; 128 << 10]).is_err() {
            break;
        }
    }
    let refusal = agent.expect_refusal();
    assert_eq!(refusal.code, ErrorCode::ProtocolViolation, "{refusal}");
    expect_text(&refusal.message, "credit");
    signal(plugin, Signal::SIGCONT);
    daemon.wait_until("hostile", "the end of its call", |now| now.calls.in_flight == 0);
    expect_echo(&daemon, "hostile");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// A peer with another uid is turned away before anything it says is read: by the socket's mode, and by its credentials where
/// the mode would let it in.
#[test]
fn another_user() {
    let own = palisade_tests::daemon::other_user();
    if own.is_some() || !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can be somebody else, and root itself is always let in");
        return;
    }
    let daemon = Daemon::with([Package::echo()]);
    let cli = palisade_tests::command::built("palisade");
    let as_stranger = || {
        let output = palisade_tests::daemon::as_user(65534, &cli)
            .args(["--socket", &daemon.socket().display().to_string(), "list"])
            .output()
            .expect("it can be executed");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let mode = std::os::unix::fs::PermissionsExt::mode(
        &std::fs::metadata(daemon.socket()).expect("it is there").permissions(),
    );
    assert_eq!(mode & 0o777, 0o600);
    // The folder is the test's own; a stranger has to get as far as the socket.
    open_to_all(daemon.path(), 0o755);
    let (status, stderr) = as_stranger();
    assert_eq!(status, Some(5), "{stderr}");
    open_to_all(&daemon.socket(), 0o666);
    let (status, stderr) = as_stranger();
    assert_eq!(status, Some(5), "{stderr}");
    expect_text(&stderr, "user 65534 may not use this socket");
    expect_echo(&daemon, "echo");
    daemon.stop_and_expect_no_orphans();
}

/// Whoever is let in may call and look, and not decide for everybody.
#[test]
fn another_user_is_no_operator() {
    if palisade_tests::daemon::other_user().is_some() || !rustix::process::geteuid().is_root() {
        println!("SKIPPED: only root can be somebody else");
        return;
    }
    let cli = palisade_tests::command::built("palisade");
    for (configuration, may) in
        [("allowed_uids = [65534]\n", false), ("allowed_uids = [65534]\noperators = [65534]\n", true)]
    {
        let options = DaemonOptions::with([Package::echo()]).configuration(configuration);
        let daemon = Daemon::start(options);
        open_to_all(daemon.path(), 0o755);
        let run = |arguments: &[&str]| {
            let output = palisade_tests::daemon::as_user(65534, &cli)
                .args(["--socket", &daemon.socket().display().to_string()])
                .args(arguments)
                .output()
                .expect("it can be executed");
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        assert_eq!(run(&["list"]).0, Some(0));
        assert_eq!(run(&["limit", "echo", "pids=60"]).0, Some(if may { 0 } else { 5 }));
        let (status, stderr) = run(&["stop", "echo"]);
        if may {
            assert_eq!(status, Some(0), "{stderr}");
        } else {
            assert_eq!(status, Some(5), "{stderr}");
            expect_text(&stderr, "uid:65534 may call plugins, and not stop them");
            expect_echo(&daemon, "echo");
        }
        daemon.stop_and_expect_no_orphans();
    }
}

fn open_to_all(path: &std::path::Path, mode: u32) {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(path, permissions).expect("it is ours");
}

/// Hundreds of connections come and go; nothing of them stays.
#[test]
fn connections_come_and_go() {
    let daemon = Daemon::with([Package::echo()]);
    expect_echo(&daemon, "echo");
    daemon.wait_for_prepared(2);
    let descriptors = wait_for("the first connection to end", || {
        process::descriptors(daemon.pid()).filter(|_| daemon.status("echo").calls.in_flight == 0)
    });
    for round in 0..500 {
        let mut agent = daemon.agent();
        match round % 3 {
            0 => drop(agent.call("echo", "echo", &json!(round)).expect("echo echoes")),
            1 => drop(agent.begin("echo", "slow", &json!({"ms": 60_000}))),
            _ => {}
        }
    }
    daemon.wait_until("echo", "no call in flight", |now| now.calls.in_flight == 0);
    wait_for("as few descriptors as before", || {
        (process::descriptors(daemon.pid()).expect("it runs") <= descriptors).then_some(())
    });
    daemon.stop_and_expect_no_orphans();
}
