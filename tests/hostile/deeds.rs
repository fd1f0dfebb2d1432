//! What a call makes it do. The name of the action is the name of the row.

use std::collections::HashSet;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use palisade_protocol::{
    ActionInfo, Call, Cancelled, Empty, ErrorBody, ErrorCode, Extend, FRAME_BYTES_MAX, Flags, Header, HostCall, Kind,
    Level, Log, PIECE_BYTES, Ping, Progress, StreamInfo, StreamKind, StreamOpen, encode, encode_parts,
};

use crate::sys;
use crate::wire::Wire;
use crate::{inside, proxy};

/// Every action there is.
const NAMES: &[&str] = &[
    // It keeps to the rules.
    "echo",
    "count",
    "wait",
    "fail",
    "environment",
    "ask",
    "unknown-kind",
    "byte-at-a-time",
    "glued",
    "len-max",
    "sleep-blocking",
    // It breaks the framing or a body.
    "len-zero",
    "len-max-plus-one",
    "len-4g",
    "cut-off",
    "bad-msgpack",
    "deep",
    "map-4g",
    "ext",
    "duplicate-keys",
    "not-utf8",
    "body-not-a-map",
    "body-too-long",
    "unexpected-payload",
    "must-understand",
    "missing-field",
    // It breaks the order of things.
    "unknown-id",
    "odd-id",
    "replayed-id",
    "second-terminal",
    "data-after-end",
    "data-unopened",
    "open-twice",
    "beyond-credit",
    "ok-with-open-stream",
    "continue-nothing",
    "interrupted-result",
    "pong-unasked",
    "hello-again",
    "ready-again",
    "supervisors-frame",
    "even-host-call",
    "drained-unasked",
    "refuse-midway",
    "credit-overflow",
    "endless-result",
    // It answers, but badly.
    "ignore-cancel",
    "answer-after-cancel",
    "deep-payload",
    "bad-payload",
    "huge-error",
    "minimal-error",
    "unknown-code",
    // It dies.
    "abort",
    "segfault",
    "exit-zero",
    "exit-three",
    "kill-self",
    "close-output",
    "close-and-linger",
    // It hangs, or hides.
    "block",
    "stop-self",
    "double-fork",
    "fork-and-die",
    // It takes what it can get. What it is refused at once is in `inside`.
    "cpu-spin",
    // One attempt of one row of the table.
    "attempt",
    // It says what it was told.
    "configuration",
    "generation",
    // It floods.
    "log-flood",
    "log-flood-beside",
    "log-flooded",
    "log-nasty",
    "log-with-fields",
    "log-line",
    "log-frames",
    "progress-flood",
    "host-call-flood",
    "ping-flood",
    "extend-flood",
    "stream-flood",
    // Payloads.
    "swallow",
    "stream-and-crash",
    "bytes-out",
    // Its first process dies of it; the second does it.
    "crash-first",
    "crash-first-idempotent",
];

/// What it says it can do.
pub(crate) fn actions() -> Vec<ActionInfo> {
    NAMES
        .iter()
        .chain(inside::ROWS)
        .chain(proxy::ROWS)
        .map(|name| ActionInfo {
            name: (*name).to_owned(),
            idempotent: *name == "crash-first-idempotent",
            input: (*name == "swallow").then_some(StreamInfo { kind: StreamKind::Bytes, item: None }),
            output: matches!(*name, "bytes-out" | "stream-flood" | "stream-and-crash")
                .then_some(StreamInfo { kind: StreamKind::Bytes, item: None }),
            ..ActionInfo::default()
        })
        .collect()
}

/// What it remembers of its calls.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Waiting for a cancel, to obey it.
    waiting: HashSet<u64>,
    /// Waiting for a cancel, to ignore it and answer well.
    answering: HashSet<u64>,
    /// The last call that was answered.
    last_ended: Option<u64>,
    /// The last number of an exchange of its own.
    last_own: u64,
    /// How many calls it has counted.
    counted: u64,
}

impl Ledger {
    fn own_id(&mut self) -> u64 {
        // Whoever asked before it was ready has used lower ones.
        self.last_own = if self.last_own == 0 { 100_001 } else { self.last_own + 2 };
        self.last_own
    }
}

const NIL: &[u8] = &[0xc0];

fn ok(wire: &mut Wire, id: u64, payload: &[u8]) {
    wire.send(Kind::Ok, Flags::NONE, id, &Empty {}, payload);
}

/// A frame with this body, whatever it is, and no payload.
fn body(kind: Kind, id: u64, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    encode_parts(&mut frame, kind, Flags::NONE, id, body, &[]);
    frame
}

/// Only a header, which promises what does not follow.
fn header(kind: Kind, id: u64, len: u32) -> [u8; palisade_protocol::HEADER_BYTES] {
    Header { len, kind: kind as u8, flags: Flags::NONE, id }.bytes()
}

fn linger() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn open(wire: &mut Wire, id: u64) {
    wire.send(Kind::StreamOpen, Flags::NONE, id, &StreamOpen { kind: StreamKind::Bytes }, &[]);
}

fn data(wire: &mut Wire, id: u64, bytes: usize) {
    wire.send(Kind::StreamData, Flags::NONE, id, &Empty {}, &vec![b'x'; bytes]);
}

/// The caller does not want its answer any more.
pub(crate) fn cancelled(wire: &mut Wire, ledger: &mut Ledger, id: u64) {
    if ledger.waiting.remove(&id) {
        wire.send(Kind::Cancelled, Flags::NONE, id, &Cancelled { message: Some("as you wish".into()) }, &[]);
    }
    if ledger.answering.remove(&id) {
        ok(wire, id, &rmp("finished all the same"));
    }
}

fn rmp(text: &str) -> Vec<u8> {
    rmp_serde::to_vec(text).unwrap_or_else(|error| panic!("a string: {error}"))
}

/// Does what the call is named after.
pub(crate) fn perform(wire: &mut Wire, ledger: &mut Ledger, id: u64, action: &str, payload: &[u8]) {
    let ended = ledger.last_ended;
    match action {
        "echo" => {
            ok(wire, id, if payload.is_empty() { NIL } else { payload });
            ledger.last_ended = Some(id);
        }
        // Which process it was, and the how manieth such call of it.
        "count" => {
            ledger.counted += 1;
            let counted = rmp_serde::to_vec(&[wire.generation, ledger.counted]);
            ok(wire, id, &counted.unwrap_or_else(|error| panic!("two numbers: {error}")));
        }
        "wait" => drop(ledger.waiting.insert(id)),
        "fail" => wire.send(Kind::Err, Flags::NONE, id, &ErrorBody::new(ErrorCode::ExecutionFailed, "on purpose"), &[]),
        "environment" => {
            let all: std::collections::BTreeMap<String, String> = std::env::vars().collect();
            ok(wire, id, &rmp_serde::to_vec(&all).unwrap_or_else(|error| panic!("a map of strings: {error}")));
        }
        "configuration" => {
            let configuration = rmp_serde::to_vec(&wire.configuration).unwrap_or_else(|error| panic!("{error}"));
            ok(wire, id, &configuration);
        }
        "generation" => ok(wire, id, &rmp_serde::to_vec(&wire.generation).unwrap_or_default()),
        "ask" => {
            let asks = rmp_serde::from_slice(payload).unwrap_or_else(|error| panic!("what to ask: {error}"));
            let answers = crate::asking::ask(wire, &asks, || ledger.own_id());
            let answers = rmp_serde::to_vec_named(&answers).unwrap_or_else(|error| panic!("the answers: {error}"));
            ok(wire, id, &answers);
        }
        "sleep-blocking" => {
            std::thread::sleep(Duration::from_millis(300));
            ok(wire, id, NIL);
        }
        "unknown-kind" => {
            let mut frame = body(Kind::Progress, id, &[0x80]);
            frame[4] = 0xee;
            wire.raw(&frame);
            ok(wire, id, NIL);
        }
        "byte-at-a-time" => {
            for byte in &body(Kind::Ok, id, &[0x80]) {
                wire.raw(std::slice::from_ref(byte));
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        "glued" => {
            let mut frames = Vec::new();
            let progress = Progress { percentage: Some(50.0), ..Progress::default() };
            encode(&mut frames, Kind::Progress, Flags::NONE, id, &progress, &[]);
            encode(&mut frames, Kind::Ok, Flags::NONE, id, &Empty {}, &rmp("glued"));
            wire.raw(&frames);
        }
        "len-max" => {
            // One byte of body, five in front of the string.
            let text = "m".repeat(FRAME_BYTES_MAX as usize - 6);
            ok(wire, id, &rmp(&text));
        }

        "len-zero" => wire.raw(&header(Kind::Ok, id, 0)),
        "len-max-plus-one" => {
            wire.raw(&header(Kind::Ok, id, FRAME_BYTES_MAX + 1));
            linger();
        }
        "len-4g" => {
            wire.raw(&header(Kind::Ok, id, u32::MAX));
            linger();
        }
        "cut-off" => {
            wire.raw(&header(Kind::Ok, id, 100));
            wire.raw(&[0x80; 50]);
            std::process::exit(0);
        }
        "bad-msgpack" => wire.raw(&body(Kind::Err, id, &[0x81, 0xa4, b'c', b'o', b'd', b'e', 0xc1])),
        "deep" => wire.raw(&body(Kind::Err, id, &[&[0x81, 0xa1, b'k'][..], &[0x91; 1025], &[0x00]].concat())),
        "map-4g" => wire.raw(&body(Kind::Ok, id, &[0xdf, 0xff, 0xff, 0xff, 0xff])),
        "ext" => wire.raw(&body(Kind::Err, id, &[0x81, 0xa1, b'k', 0xd4, 0x01, 0x01])),
        "duplicate-keys" => wire.raw(&body(Kind::Ok, id, &[0x82, 0xa1, b'k', 0x01, 0xa1, b'k', 0x02])),
        "not-utf8" => wire.raw(&body(Kind::Err, id, &[0x81, 0xa1, b'k', 0xa2, 0xff, 0xfe])),
        "body-not-a-map" => wire.raw(&body(Kind::Ok, id, &[0x90])),
        "body-too-long" => {
            let error = ErrorBody::new(ErrorCode::ExecutionFailed, "short");
            let details = serde_json::json!(vec!["d".repeat(30_000); 3]);
            wire.send(Kind::Err, Flags::NONE, id, &error.with_details(details), &[]);
        }
        "unexpected-payload" => wire.raw(&body(Kind::Cancelled, id, &[0x80, 0xc0])),
        "must-understand" => {
            let mut frame = Vec::new();
            encode_parts(&mut frame, Kind::Progress, Flags::MUST_UNDERSTAND, id, &[0x80], &[]);
            frame[4] = 0xee;
            wire.raw(&frame);
        }
        "missing-field" => wire.raw(&body(Kind::StreamOpen, id, &[0x80])),

        "unknown-id" => ok(wire, id + 1000, NIL),
        "odd-id" => ok(wire, 77, NIL),
        "replayed-id" => {
            if let Some(ended) = ended {
                ok(wire, ended, NIL);
            }
        }
        "second-terminal" => {
            ok(wire, id, NIL);
            ok(wire, id, NIL);
        }
        "data-after-end" => {
            open(wire, id);
            data(wire, id, 10);
            wire.send(Kind::StreamEnd, Flags::NONE, id, &Empty {}, &[]);
            data(wire, id, 10);
        }
        "data-unopened" => data(wire, id, 10),
        "open-twice" => {
            open(wire, id);
            open(wire, id);
        }
        "beyond-credit" => {
            open(wire, id);
            // The caller reads nothing meanwhile, so this is more than anyone allowed.
            for _ in 0..9 {
                data(wire, id, PIECE_BYTES);
            }
            linger();
        }
        "ok-with-open-stream" => {
            open(wire, id);
            ok(wire, id, NIL);
        }
        "continue-nothing" => wire.send(Kind::Continue, Flags::NONE, id, &Empty {}, NIL),
        "interrupted-result" => {
            wire.send(Kind::Ok, Flags::MORE, id, &Empty {}, &rmp("begun"));
            open(wire, id);
        }
        "pong-unasked" => wire.send(Kind::Pong, Flags::NONE, 4242, &palisade_protocol::Pong::default(), &[]),
        "hello-again" => wire.send(Kind::Hello, Flags::NONE, 0, &crate::hello(palisade_protocol::PROTOCOL), &[]),
        "ready-again" => {
            let name = std::env::var("HOSTILE_ID").unwrap_or_default();
            wire.send(Kind::Ready, Flags::NONE, 0, &crate::ready(&name, "0.1.0", actions()), &[]);
        }
        "supervisors-frame" => {
            let call = Call { action: "echo", plugin: Some("echo"), ..Call::default() };
            wire.send(Kind::Call, Flags::NONE, 1, &call, NIL);
        }
        "even-host-call" => wire.send(Kind::HostCall, Flags::NONE, 2, &HostCall { op: "self", call: None }, NIL),
        "drained-unasked" => wire.send(Kind::Drained, Flags::NONE, 0, &Empty {}, &[]),
        "refuse-midway" => {
            let error = ErrorBody::new(ErrorCode::Internal, "I have had enough");
            wire.send(Kind::Refuse, Flags::NONE, 0, &palisade_protocol::Refuse { error }, &[]);
        }
        "credit-overflow" => {
            for _ in 0..3 {
                let credit = palisade_protocol::StreamCredit { bytes: u32::MAX };
                wire.send(Kind::StreamCredit, Flags::NONE, id, &credit, &[]);
            }
        }
        "endless-result" => {
            // Within the credit that the caller gives, for ever.
            wire.send(Kind::Ok, Flags::MORE, id, &Empty {}, &vec![0; PIECE_BYTES]);
            let mut credit = i64::from(palisade_protocol::CREDIT_BYTES);
            let cost = i64::try_from(PIECE_BYTES).unwrap_or(i64::MAX) + 1;
            loop {
                while credit < cost {
                    match wire.read() {
                        Some((Some(Kind::StreamCredit), _, content)) => {
                            let granted: palisade_protocol::StreamCredit =
                                rmp_serde::from_slice(&content).unwrap_or_default();
                            credit += i64::from(granted.bytes);
                        }
                        Some(_) => {}
                        None => std::process::exit(0),
                    }
                }
                credit -= cost;
                wire.send(Kind::Continue, Flags::MORE, id, &Empty {}, &vec![0; PIECE_BYTES]);
            }
        }

        "answer-after-cancel" => drop(ledger.answering.insert(id)),
        "deep-payload" => ok(wire, id, &[&[0x91; 1025][..], &[0x00]].concat()),
        "bad-payload" => ok(wire, id, &[0xc1]),
        "huge-error" => {
            let error = ErrorBody::new(ErrorCode::ExecutionFailed, "e".repeat(30_000));
            wire.send(Kind::Err, Flags::NONE, id, &error, &[]);
        }
        "minimal-error" => {
            let error = serde_json::json!({"code": "resource_not_found", "message": "no such page"});
            wire.send(Kind::Err, Flags::NONE, id, &error, &[]);
        }
        "unknown-code" => {
            let error = serde_json::json!({"code": "teapot", "message": "short and stout"});
            wire.send(Kind::Err, Flags::NONE, id, &error, &[]);
        }

        "abort" => {
            eprintln!("about to abort");
            std::process::abort();
        }
        "segfault" => sys::segfault(),
        "exit-zero" => std::process::exit(0),
        "exit-three" => {
            for line in 0..30 {
                eprintln!("line {line} before the end");
            }
            std::process::exit(3);
        }
        "kill-self" => sys::raise(libc::SIGKILL),
        "crash-first" | "crash-first-idempotent" if wire.generation == 1 => std::process::abort(),
        "crash-first" | "crash-first-idempotent" => ok(wire, id, &rmp("second time lucky")),
        "close-output" => {
            wire.close_output();
            std::process::exit(5);
        }
        "close-and-linger" => {
            sys::ignore(libc::SIGTERM);
            wire.close_output();
            linger();
        }

        "block" => linger(),
        "stop-self" => sys::raise(libc::SIGSTOP),
        "double-fork" => {
            descend();
            ok(wire, id, NIL);
        }
        "fork-and-die" => {
            descend();
            std::process::abort();
        }

        "cpu-spin" => {
            // One for each processor of a small machine, and one more.
            for _ in 0..3 {
                if sys::fork() {
                    loop {
                        std::hint::spin_loop();
                    }
                }
            }
            ok(wire, id, NIL);
        }

        "log-flood" => {
            log_flood();
            ok(wire, id, NIL);
        }
        "log-flood-beside" => {
            std::thread::spawn(|| {
                let block = [&[b'f'; 1023][..], b"\n"].concat();
                while std::io::stderr().write_all(&block).is_ok() {
                    FLOODED.fetch_add(block.len(), Ordering::Relaxed);
                }
            });
            ok(wire, id, NIL);
        }
        "log-flooded" => ok(wire, id, &rmp(&FLOODED.load(Ordering::Relaxed).to_string())),
        "log-line" => {
            eprintln!("one line");
            ok(wire, id, NIL);
        }
        "log-nasty" => {
            log_nasty();
            ok(wire, id, NIL);
        }
        "log-with-fields" => {
            let fields = Some(serde_json::json!({"way": "log"}));
            let log = Log { level: Level::Info, message: "with fields".into(), fields, call: Some(id) };
            wire.send(Kind::Log, Flags::NONE, 0, &log, &[]);
            ok(wire, id, NIL);
        }
        "log-frames" => {
            for number in 0..frames(100_000) {
                let message = format!("frame {number} {}", "l".repeat(100));
                wire.send(
                    Kind::Log,
                    Flags::NONE,
                    0,
                    &Log { level: Level::Info, message, fields: None, call: None },
                    &[],
                );
            }
            ok(wire, id, NIL);
        }
        "progress-flood" => {
            let most = frames(200_000);
            for number in 0..most {
                let percentage = Some(f64::from(number) / f64::from(most) * 100.0);
                wire.send(Kind::Progress, Flags::NONE, id, &Progress { percentage, ..Progress::default() }, &[]);
            }
            ok(wire, id, &rmp("done"));
        }
        "host-call-flood" => {
            for _ in 0..frames(100_000) {
                let own = ledger.own_id();
                wire.send(Kind::HostCall, Flags::NONE, own, &HostCall { op: "self", call: None }, NIL);
            }
            linger();
        }
        "ping-flood" => {
            for _ in 0..frames(100_000) {
                let own = ledger.own_id();
                wire.send(Kind::Ping, Flags::NONE, own, &Ping::default(), &[]);
            }
            linger();
        }
        "extend-flood" => {
            for _ in 0..frames(100_000) {
                wire.send(Kind::Extend, Flags::NONE, 0, &Extend { by_ms: u64::MAX, reason: String::new() }, &[]);
            }
            ok(wire, id, NIL);
        }
        "stream-flood" => {
            open(wire, id);
            for _ in 0..frames(200_000) {
                data(wire, id, 1);
            }
            linger();
        }
        "stream-and-crash" => {
            open(wire, id);
            data(wire, id, 1000);
            std::process::abort();
        }
        "bytes-out" => {
            open(wire, id);
            data(wire, id, 100_000);
            wire.send(Kind::StreamEnd, Flags::NONE, id, &Empty {}, &[]);
            ok(wire, id, NIL);
        }
        // Not answered: `ignore-cancel` for that reason, `swallow` when its stream ends.
        action => {
            let parameters = rmp_serde::from_slice(payload).unwrap_or_default();
            if action == "attempt" {
                ok(wire, id, &rmp(&crate::attempts::make(&parameters)));
            } else if let Some(outcomes) = inside::attempt(action, &parameters) {
                ok(wire, id, &rmp_serde::to_vec(&outcomes).unwrap_or_else(|error| panic!("a map of strings: {error}")));
            }
        }
    }
}

/// Two descendants in sessions of their own that ignore every polite request.
fn descend() {
    for _ in 0..2 {
        if sys::fork() {
            for signal in [libc::SIGTERM, libc::SIGHUP, libc::SIGINT, libc::SIGPIPE] {
                sys::ignore(signal);
            }
            sys::new_session();
            if sys::fork() {
                sys::new_session();
                linger();
            }
            std::process::exit(0);
        }
    }
}

/// How many frames a flood has, at most that many.
fn frames(most: u32) -> u32 {
    let told = std::env::var("HOSTILE_FLOOD_FRAMES").ok().and_then(|text| text.parse::<u32>().ok());
    told.map_or(most, |told| told.min(most))
}

/// How much a flood beside the calls has got rid of.
static FLOODED: AtomicUsize = AtomicUsize::new(0);

/// A gigabyte on stderr in lines, or as much as it is told.
fn log_flood() {
    let mebibytes = std::env::var("HOSTILE_FLOOD_MIB").ok().and_then(|text| text.parse::<usize>().ok()).unwrap_or(1024);
    let line = [&[b'f'; 1023][..], b"\n"].concat();
    let block = line.repeat(64);
    let mut stderr = std::io::stderr().lock();
    for _ in 0..(mebibytes << 20) / block.len() {
        let _ = stderr.write_all(&block);
    }
}

/// What a terminal or a log reader might choke on.
fn log_nasty() {
    let mut stderr = std::io::stderr().lock();
    let _ = stderr.write_all(b"nul\0byte\n");
    let _ = stderr.write_all(b"\x1b[2J\x1b]0;owned\x07cleared\n");
    let _ = stderr.write_all(b"not utf-8 \xff\xfe\xc3\x28\n");
    let _ = stderr.write_all(b"carriage\rreturn\n");
    for _ in 0..10 << 10 {
        let _ = stderr.write_all(&[b'L'; 1 << 10]);
    }
    let _ = stderr.write_all(b"\nlast line\n");
}

/// Bytes that could be frames, on the descriptor that carries none.
pub(crate) fn garbage_on_stdout() {
    let mut stdout = std::io::stdout().lock();
    let mut frame = Vec::new();
    encode(&mut frame, Kind::Hello, Flags::NONE, 0, &crate::hello(palisade_protocol::PROTOCOL), &[]);
    let _ = stdout.write_all(&frame);
    let _ = stdout.write_all(&[0xff; 4096]);
    let _ = stdout.write_all(b"\nPage 1 of 1\n");
    let _ = stdout.flush();
}
