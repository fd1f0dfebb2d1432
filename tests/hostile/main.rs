//! A plugin that tries to harm whoever runs it: the opponent of the system tests.
//!
//! It speaks raw frames and shares only the protocol crate with the supervisor. `HOSTILE_MODE` in its environment says how it
//! starts and lives, the action of a call what it does then; `HOSTILE_ID` what it calls itself. Modes and actions are the rows of
//! the tests, which say what has to follow. With two arguments, a row of `inside` and its parameters, it makes that attempt alone; with `hold-key` it is somebody who has a key. In mode `tame`, and between misdeeds, it keeps to the rules.

mod asking;
mod attempts;
mod deeds;
mod inside;
mod proxy;
mod sys;
mod wire;

use std::time::Duration;

use palisade_protocol::{
    ActionInfo, Configure, ConfigureAnswer, Configured, Drained, Empty, ErrorBody, ErrorCode, Extend, FEATURES, Flags,
    Frame, Hello, Kind, PROTOCOL, Ping, Pong, Ready, Refuse, VersionRange, Welcome,
};

use wire::Wire;

fn hello(range: VersionRange) -> Hello {
    Hello {
        protocol: range,
        // As an old plugin, unless a test is about that.
        features: FEATURES
            .iter()
            .map(|feature| feature.name().to_owned())
            .filter(|name| name != "configure" || std::env::var_os("HOSTILE_CONFIGURE").is_some())
            .collect(),
        software: "palisade-hostile/0.1.0".into(),
    }
}

fn ready(id: &str, version: &str, actions: Vec<ActionInfo>) -> Ready {
    Ready { id: id.into(), version: version.into(), actions, concurrency: 64, state_schema: None }
}

fn main() {
    // The same attempts from a shell: the proof that they succeed where nothing confines.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [how, program, rest @ ..] = &arguments[..] {
        match how.as_str() {
            "without-landlock" => panic!("{}", sys::execute_without_landlock(program, rest)),
            "without-filters" => panic!("{}", sys::execute_without_filters(program, rest)),
            "without-rights" => panic!("{}", sys::execute_without_rights(false, program, rest)),
            "without-mounts" => panic!("{}", sys::execute_without_rights(true, program, rest)),
            _ => {}
        }
    }
    if arguments == ["hold-key"] {
        let (key, ring) = sys::key_for_everybody().unwrap_or_else(|error| panic!("a key: {error}"));
        println!("{key} {ring}");
        // It is there for as long as somebody listens.
        let _ = std::io::stdin().read_line(&mut String::new());
        return;
    }
    if let [row, parameters] = &arguments[..] {
        let parameters = serde_json::from_str(parameters).unwrap_or_else(|error| panic!("parameters: {error}"));
        if row == "attempt" {
            return println!("{}", attempts::make(&parameters));
        }
        if row == "who" {
            std::process::exit(if sys::is_somebody_else() { 1 } else { sys::RAN });
        }
        match inside::attempt(row, &parameters) {
            Some(outcomes) => println!("{}", serde_json::json!(outcomes)),
            None => std::process::exit(sys::RAN),
        }
        return;
    }
    let mut wire = Wire::new();
    let mode = std::env::var("HOSTILE_MODE").unwrap_or_else(|_| "tame".into());
    let id = std::env::var("HOSTILE_ID").unwrap_or_else(|_| "hostile".into());
    let life = start(&mut wire, &mode, &id);
    live(&mut wire, &mode, life);
}

/// What a mode leaves of the rules after the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    /// All of them.
    Ordinary,
    /// It never says Drained, and the end of its input means nothing to it.
    Stubborn,
    /// After the first health check it answers no ping.
    Mute,
}

/// Everything until Ready. Most modes never come back.
fn start(wire: &mut Wire, mode: &str, id: &str) -> Life {
    let ours = hello(PROTOCOL);
    match mode {
        "exit-at-once" => {
            eprintln!("no reason to live");
            std::process::exit(3);
        }
        "exit-zero-at-once" => std::process::exit(0),
        "abort-at-once" => std::process::abort(),
        "silent" => sleep_for_ever(),
        "garbage-first" => {
            wire.raw(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            sleep_for_ever();
        }
        "ready-first" => {
            wire.send(Kind::Ready, Flags::NONE, 0, &ready(id, "0.1.0", Vec::new()), &[]);
            sleep_for_ever();
        }
        "asks-first" => {
            let call = palisade_protocol::HostCall { op: "self", call: None };
            wire.send(Kind::HostCall, Flags::NONE, 1, &call, &[0xc0]);
            sleep_for_ever();
        }
        "half-a-hello" => {
            wire.raw(&[40, 0, 0, 0, Kind::Hello as u8, 0, 0, 0, 0, 0]);
            std::process::exit(0);
        }
        "other-version" => {
            wire.send(Kind::Hello, Flags::NONE, 0, &hello(VersionRange { min: 900, max: 901 }), &[]);
            if let Some((Some(Kind::Refuse), _, content)) = wire.read() {
                let refuse: Refuse = rmp_serde::from_slice(&content).unwrap_or_else(|error| panic!("{error}"));
                eprintln!("refused: {}", refuse.error);
            }
            std::process::exit(1);
        }
        "fork-and-exit" if sys::fork() => {
            // The one that lives on still has both pipes and goes on as if nothing had happened, as far as the welcome: how far it
            // would come in what is left of its life is not for a test to say.
        }
        "fork-and-exit" => std::process::exit(0),
        "stubborn" => sys::ignore(libc::SIGTERM),
        "stdout-garbage" => deeds::garbage_on_stdout(),
        _ => {}
    }
    wire.send(Kind::Hello, Flags::NONE, 0, &ours, &[]);
    if mode == "hello-twice" {
        wire.send(Kind::Hello, Flags::NONE, 0, &ours, &[]);
    }
    let Some((kind, _, content)) = wire.read() else { std::process::exit(0) };
    assert_eq!(kind, Some(Kind::Welcome), "the answer to a hello");
    let welcome: Welcome = rmp_serde::from_slice(&content).unwrap_or_else(|error| panic!("the welcome: {error}"));
    if let Some(plugin) = welcome.plugin {
        wire.generation = plugin.generation;
        wire.configuration = plugin.configuration;
    }
    if wire.configuration["refuse"] == true {
        let error = ErrorBody::new(ErrorCode::ConfigurationInvalid, "it does not want that");
        wire.send(Kind::Refuse, Flags::NONE, 0, &Refuse { error }, &[]);
        std::process::exit(1);
    }
    if wire.configuration["exit"] == true {
        eprintln!("it cannot bear that");
        std::process::exit(5);
    }
    if mode == "asks-before-ready" {
        let asks = std::env::var("HOSTILE_ASKS").unwrap_or_default();
        let asks = serde_json::from_str(&asks).unwrap_or_else(|error| panic!("HOSTILE_ASKS: {error}"));
        let mut next = 1001;
        let answers = asking::ask(wire, &asks, || {
            next += 2;
            next
        });
        eprintln!("{}", serde_json::json!(answers));
    }
    if std::env::var_os("HOSTILE_ONCE").is_some()
        && let Err(error) = std::fs::File::create_new("/data/once")
    {
        eprintln!("not once more: {error}");
        std::process::exit(6);
    }
    if mode == "ready-once-told" {
        // It says that it is there, and goes on once somebody has said so.
        std::fs::write("/data/waits", "").unwrap_or_else(|error| panic!("{error}"));
        while !std::path::Path::new("/data/told").exists() {
            // A pause before it looks again.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    match mode {
        "never-ready" | "fork-and-exit" => sleep_for_ever(),
        "exit-after-welcome" => std::process::exit(4),
        "refuse" => {
            let error = ErrorBody::new(ErrorCode::ConfigurationInvalid, "no database was named")
                .with_hint("set `database` in the configuration");
            wire.send(Kind::Refuse, Flags::NONE, 0, &Refuse { error }, &[]);
            std::process::exit(1);
        }
        "extend-for-ever" => loop {
            wire.send(Kind::Extend, Flags::NONE, 0, &Extend { by_ms: 1000, reason: "one more second".into() }, &[]);
            std::thread::sleep(Duration::from_millis(100));
        },
        "extend-at-once-for-ever" => loop {
            wire.send(Kind::Extend, Flags::NONE, 0, &Extend { by_ms: u64::MAX, reason: String::new() }, &[]);
        },
        "wrong-id" => wire.send(Kind::Ready, Flags::NONE, 0, &ready("somebody-else", "0.1.0", deeds::actions()), &[]),
        "wrong-version" => wire.send(Kind::Ready, Flags::NONE, 0, &ready(id, "6.6.6", deeds::actions()), &[]),
        "same-action-twice" => {
            let twice = [deeds::actions(), deeds::actions()].concat();
            wire.send(Kind::Ready, Flags::NONE, 0, &ready(id, "0.1.0", twice), &[]);
        }
        "broken-schema" => {
            let parameters =
                Some(serde_json::json!({"type": "no such type", "$ref": "http://127.0.0.1:9/schema.json"}));
            let action = ActionInfo { name: "echo".into(), parameters, ..ActionInfo::default() };
            wire.send(Kind::Ready, Flags::NONE, 0, &ready(id, "0.1.0", vec![action]), &[]);
        }
        _ => {
            let version = std::env::var("HOSTILE_VERSION").unwrap_or_else(|_| "0.1.0".into());
            // What it says of itself instead of the truth, as JSON.
            let actions = std::env::var("HOSTILE_ACTIONS").map_or_else(
                |_| deeds::actions(),
                |told| serde_json::from_str(&told).unwrap_or_else(|error| panic!("HOSTILE_ACTIONS: {error}")),
            );
            wire.send(Kind::Ready, Flags::NONE, 0, &ready(id, &version, actions), &[]);
        }
    }
    if mode == "unhealthy" || mode == "no-pong" {
        let Some((kind, id, content)) = wire.read() else { std::process::exit(0) };
        assert_eq!(kind, Some(Kind::Ping), "the first health check");
        let ping: Ping = rmp_serde::from_slice(&content).unwrap_or_else(|error| panic!("the ping: {error}"));
        assert!(ping.health);
        if mode == "no-pong" {
            sleep_for_ever();
        }
        let pong = Pong { unhealthy: Some("the disk is on fire".into()), ..Pong::default() };
        wire.send(Kind::Pong, Flags::NONE, id, &pong, &[]);
    }
    match mode {
        "mute" => Life::Mute,
        "stubborn" => Life::Stubborn,
        _ => Life::Ordinary,
    }
}

/// Answers what comes, until the input ends.
fn live(wire: &mut Wire, mode: &str, life: Life) {
    let mut pongs = 0_u32;
    let mut ledger = deeds::Ledger::default();
    loop {
        // Only once it is active: the health check has to be answered first.
        match mode {
            "never-reads" if pongs > 0 => sleep_for_ever(),
            "reads-slowly" if pongs > 0 => wire.read_slowly = true,
            _ => {}
        }
        let Some((kind, id, content)) = wire.read() else {
            if life == Life::Stubborn {
                sleep_for_ever();
            }
            std::process::exit(0);
        };
        match kind {
            Some(Kind::Ping) if life == Life::Mute && pongs > 0 => {}
            Some(Kind::Ping) => {
                pongs += 1;
                let ping: Ping = rmp_serde::from_slice(&content).unwrap_or_else(|error| panic!("{error}"));
                let failed = mode == "fails-its-test" && ping.self_test;
                let unhealthy = failed.then(|| "it cannot do its work".to_owned());
                wire.send(Kind::Pong, Flags::NONE, id, &Pong { unhealthy, ..Pong::default() }, &[]);
            }
            Some(Kind::Call) => {
                let header = palisade_protocol::Header { len: 0, kind: Kind::Call as u8, flags: Flags::NONE, id };
                let frame = Frame { header, content: &content };
                let (call, payload) = frame
                    .message::<palisade_protocol::Call<'_>>(Kind::Call)
                    .unwrap_or_else(|error| panic!("the supervisor sends sound calls: {error}"));
                deeds::perform(wire, &mut ledger, id, call.action, payload);
            }
            Some(Kind::Cancel) => deeds::cancelled(wire, &mut ledger, id),
            Some(Kind::Drain) if life != Life::Stubborn => {
                wire.send(Kind::Drained, Flags::NONE, 0, &Drained {}, &[]);
            }
            Some(Kind::Refuse) => {
                let refuse: Refuse = rmp_serde::from_slice(&content).unwrap_or_else(|error| panic!("{error}"));
                eprintln!("refused: {}", refuse.error);
            }
            Some(Kind::Configure) => configure(wire, id, &content),
            Some(Kind::StreamData) => {
                let credit =
                    palisade_protocol::StreamCredit { bytes: u32::try_from(content.len()).unwrap_or(u32::MAX) };
                wire.send(Kind::StreamCredit, Flags::NONE, id, &credit, &[]);
            }
            Some(Kind::StreamEnd) => wire.send(Kind::Ok, Flags::NONE, id, &Empty {}, &[0xc0]),
            _ => {}
        }
    }
}

/// Says what `HOSTILE_CONFIGURE` wants to a configuration that it is offered.
fn configure(wire: &mut Wire, id: u64, content: &[u8]) {
    let offer: Configure = rmp_serde::from_slice(content).unwrap_or_else(|error| panic!("the offer: {error}"));
    let mut answer = |answer, reason: Option<&str>| {
        let configured = Configured { answer, reason: reason.map(str::to_owned) };
        wire.send(Kind::Configured, Flags::NONE, id, &configured, &[]);
    };
    match std::env::var("HOSTILE_CONFIGURE").unwrap_or_default().as_str() {
        "accept" => {
            answer(ConfigureAnswer::Accepted, None);
            wire.configuration = offer.configuration;
        }
        "decline" => answer(ConfigureAnswer::Declined, Some("it is too old for that")),
        "refuse" => answer(ConfigureAnswer::Refused, Some("it never wants that")),
        "twice" => {
            answer(ConfigureAnswer::Accepted, None);
            answer(ConfigureAnswer::Accepted, None);
        }
        "crash" => std::process::abort(),
        // It goes on, and says nothing.
        _ => {}
    }
}

/// Does nothing more, and does not end by itself.
fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}
