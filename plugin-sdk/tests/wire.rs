//! Frames written by hand: what the plugin does with a supervisor that breaks the rules, and what it does with the odd
//! but allowed.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use palisade_protocol::{
    Call, Cancel, Decoder, Empty, ErrorBody, ErrorCode, Flags, Hello, Kind, Limits, PluginWelcome, Refuse,
    StreamCredit, StreamKind, StreamOpen, VersionRange, Welcome, encode, encode_parts,
};
use palisade_sdk::testing::spawn;
use palisade_sdk::{Action, Exit, Plugin, Raw};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

/// How long the plugin has to say something; with paused time, none of it passes unless nothing can happen any more.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

/// A supervisor that writes what it is told to.
struct Bare {
    to_plugin: Option<DuplexStream>,
    from_plugin: DuplexStream,
    decoder: Decoder,
    life: JoinHandle<Exit>,
}

fn plugin() -> Plugin {
    Plugin::new("bare", "1.0.0")
        .action("echo", "Returns what it gets.", |_: palisade_sdk::Call, raw: Raw| async { Ok(raw) })
        .action("wait", "Never ends.", |_: palisade_sdk::Call, (): ()| async {
            std::future::pending::<()>().await;
            Ok(())
        })
        .with(Action::new("read", "Reads late.").input_bytes().handler(|call: palisade_sdk::Call, (): ()| async move {
            let _input = call.input_bytes()?;
            std::future::pending::<()>().await;
            Ok(())
        }))
}

fn welcome() -> Welcome {
    Welcome {
        protocol: 1,
        features: vec!["streams".into(), "continue".into()],
        software: "bare".into(),
        limits: Limits { credit_bytes: 1000, ..Limits::default() },
        plugin: Some(PluginWelcome {
            id: "bare".into(),
            version: "1.0.0".into(),
            generation: 1,
            ready_within_ms: 1000,
            configuration: serde_json::Value::Null,
            permissions: vec![],
            guarantees: vec![],
            state_schema: None,
        }),
    }
}

impl Bare {
    /// A plugin that has said hello.
    async fn new() -> Self {
        let (to_plugin, from_plugin, life, _) = spawn(plugin());
        let mut bare = Self { to_plugin: Some(to_plugin), from_plugin, decoder: Decoder::default(), life };
        let (kind, _, hello): (_, _, Hello) = bare.frame().await;
        assert_eq!((kind, hello.protocol), (Kind::Hello, VersionRange { min: 1, max: 1 }));
        bare
    }

    /// A plugin that is ready.
    async fn ready() -> Self {
        let mut bare = Self::new().await;
        bare.send(Kind::Welcome, 0, &welcome(), &[]).await;
        assert_eq!(bare.kind().await, (Kind::Ready, 0));
        bare
    }

    async fn write(&mut self, bytes: &[u8]) {
        self.to_plugin.as_mut().unwrap().write_all(bytes).await.unwrap();
    }

    async fn send<M: serde::Serialize>(&mut self, kind: Kind, id: u64, message: &M, payload: &[u8]) {
        self.flagged(kind, Flags::NONE, id, message, payload).await;
    }

    async fn flagged<M: serde::Serialize>(&mut self, kind: Kind, flags: Flags, id: u64, message: &M, payload: &[u8]) {
        let mut out = Vec::new();
        encode(&mut out, kind, flags, id, message, payload);
        self.write(&out).await;
    }

    async fn call(&mut self, id: u64, action: &str) {
        self.send(Kind::Call, id, &Call { action, ..Call::default() }, &[]).await;
    }

    async fn frame<M: for<'a> serde::Deserialize<'a>>(&mut self) -> (Kind, u64, M) {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                let kind = frame.kind().unwrap().unwrap();
                let (message, _) = frame.message(kind).unwrap();
                return (kind, frame.header.id, message);
            }
            let mut bytes = [0; 4096];
            let read = tokio::time::timeout(PATIENCE, self.from_plugin.read(&mut bytes));
            let read = read.await.expect("the plugin says something").unwrap();
            assert!(read > 0, "the plugin ended");
            self.decoder.push(&bytes[..read]);
        }
    }

    async fn kind(&mut self) -> (Kind, u64) {
        let (kind, id, _): (_, _, Empty) = self.frame().await;
        (kind, id)
    }

    async fn err(&mut self, id: u64) -> ErrorBody {
        let (kind, on, error) = self.frame().await;
        assert_eq!((kind, on), (Kind::Err, id));
        error
    }

    /// The plugin says what was wrong, and ends.
    async fn expect_refusal(mut self, sentence: &str) {
        let (kind, _, refuse): (_, _, Refuse) = self.frame().await;
        assert_eq!(kind, Kind::Refuse, "{sentence}");
        assert_eq!((refuse.error.code, &*refuse.error.message), (ErrorCode::ProtocolViolation, sentence));
        assert_eq!(self.life.await.unwrap().status(), 76);
    }
}

#[tokio::test(start_paused = true)]
async fn garbage_is_refused_and_ends_the_plugin() {
    let mut bare = Bare::ready().await;
    bare.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    bare.expect_refusal("a frame of 542393671 bytes was announced, more than the limit of 1048576").await;

    let mut bare = Bare::new().await;
    bare.write(&[0; 16]).await;
    bare.expect_refusal("a frame without a body; the shortest body is an empty map").await;

    let mut bare = Bare::ready().await;
    let mut out = Vec::new();
    encode_parts(&mut out, Kind::Call, Flags::NONE, 2, &[0x81, 0xa1], &[]);
    bare.write(&out).await;
    bare.expect_refusal("Call: the value is cut off at byte 2").await;

    let mut bare = Bare::ready().await;
    bare.send(Kind::Call, 2, &Empty {}, &[]).await;
    bare.expect_refusal("Call: missing field `action`").await;

    let mut bare = Bare::ready().await;
    bare.send(Kind::Cancel, 2, &Empty {}, &[]).await;
    bare.expect_refusal("Cancel for the call 2, which was never begun").await;
}

#[tokio::test(start_paused = true)]
async fn frames_out_of_place_are_refused() {
    for (kind, sentence) in [
        (Kind::Ping, "Ping came before Welcome"),
        (Kind::Call, "Call came before Welcome"),
        (Kind::Drain, "Drain came before Welcome"),
    ] {
        let mut bare = Bare::new().await;
        bare.send(kind, 2, &Empty {}, &[]).await;
        bare.expect_refusal(sentence).await;
    }
    for kind in
        [Kind::Hello, Kind::Welcome, Kind::Ready, Kind::Ok, Kind::Err, Kind::Progress, Kind::Log, Kind::HostCall]
    {
        let mut bare = Bare::ready().await;
        bare.send(kind, 2, &Empty {}, &[]).await;
        bare.expect_refusal(&format!("{} 2 makes no sense here", kind.name())).await;
    }
    let mut bare = Bare::ready().await;
    bare.send(Kind::HostOk, 1, &Empty {}, &[]).await;
    bare.expect_refusal("HostOk for the host call 1, which was never begun").await;
    let mut bare = Bare::ready().await;
    bare.send(Kind::Ping, 3, &Empty {}, &[]).await;
    bare.expect_refusal("Ping with the id 3, which is not one of the supervisor's").await;
}

#[tokio::test(start_paused = true)]
async fn ids_only_rise() {
    for (id, last) in [(4, 4), (2, 4), (5, 4), (0, 4)] {
        let mut bare = Bare::ready().await;
        bare.call(4, "echo").await;
        assert_eq!(bare.kind().await, (Kind::Ok, 4));
        bare.call(id, "echo").await;
        bare.expect_refusal(&format!("Call with the id {id}, which does not follow {last}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_welcome_that_cannot_be_kept_is_refused() {
    type Change = fn(&mut Welcome);
    let cases: [(Change, &str); 4] = [
        (|welcome| welcome.protocol = 2, "Welcome chose protocol version 2, and this plugin speaks 1 to 1"),
        (|welcome| welcome.plugin = None, "Welcome lacks `plugin`: this end was taken for an agent"),
        (|welcome| welcome.limits.frame_bytes_max = 10, "Welcome set limits below the protocol's least ones"),
        (|welcome| welcome.limits.credit_bytes = 1, "Welcome set limits below the protocol's least ones"),
    ];
    for (change, sentence) in cases {
        let mut bare = Bare::new().await;
        let mut welcome = welcome();
        change(&mut welcome);
        bare.send(Kind::Welcome, 0, &welcome, &[]).await;
        bare.expect_refusal(sentence).await;
    }
}

#[tokio::test(start_paused = true)]
async fn credit_that_is_exceeded_is_refused() {
    let mut bare = Bare::ready().await;
    bare.call(2, "read").await;
    bare.send(Kind::StreamOpen, 2, &StreamOpen { kind: StreamKind::Bytes }, &[]).await;
    bare.send(Kind::StreamData, 2, &Empty {}, &[7; 899]).await;
    bare.send(Kind::StreamData, 2, &Empty {}, &[7; 100]).await;
    bare.expect_refusal("StreamData 2: credit exceeded: 101 bytes arrived with a credit of 100").await;

    let mut bare = Bare::ready().await;
    let echo = Call { action: "echo", ..Call::default() };
    bare.flagged(Kind::Call, Flags::MORE, 2, &echo, &[0xc6, 0, 0, 16, 0]).await;
    bare.flagged(Kind::Continue, Flags::MORE, 2, &Empty {}, &[7; 1000]).await;
    bare.expect_refusal("Continue 2: credit exceeded: 1001 bytes arrived with a credit of 1000").await;

    let mut bare = Bare::ready().await;
    bare.call(2, "wait").await;
    bare.send(Kind::StreamCredit, 2, &StreamCredit { bytes: u32::MAX }, &[]).await;
    bare.expect_refusal("StreamCredit 2: a grant of 4294967295 bytes raises the credit above 2147483648").await;
}

#[tokio::test(start_paused = true)]
async fn streams_and_pieces_out_of_order_are_refused() {
    let open = StreamOpen { kind: StreamKind::Bytes };
    let mut bare = Bare::ready().await;
    bare.call(2, "read").await;
    bare.send(Kind::StreamData, 2, &Empty {}, &[1]).await;
    bare.expect_refusal("StreamData 2: the stream is not open").await;

    let mut bare = Bare::ready().await;
    bare.call(2, "read").await;
    bare.send(Kind::StreamOpen, 2, &open, &[]).await;
    bare.send(Kind::StreamOpen, 2, &open, &[]).await;
    bare.expect_refusal("StreamOpen 2: a second StreamOpen for one call").await;

    let mut bare = Bare::ready().await;
    bare.call(2, "read").await;
    bare.send(Kind::StreamOpen, 2, &open, &[]).await;
    bare.send(Kind::StreamEnd, 2, &Empty {}, &[]).await;
    bare.send(Kind::StreamData, 2, &Empty {}, &[1]).await;
    bare.expect_refusal("StreamData 2: the stream is not open").await;

    let mut bare = Bare::ready().await;
    bare.call(2, "wait").await;
    bare.send(Kind::Continue, 2, &Empty {}, &[1]).await;
    bare.expect_refusal("Continue 2: no payload is to be continued").await;
}

#[tokio::test(start_paused = true)]
async fn unknown_kinds_are_skipped_unless_they_must_be_understood() {
    let mut bare = Bare::ready().await;
    for bytes in [1_u32, 100, 1 << 20] {
        let mut out = bytes.to_le_bytes().to_vec();
        out.extend_from_slice(&[0x7f, 0, 0, 0]);
        out.extend_from_slice(&0_u64.to_le_bytes());
        out.resize(out.len() + bytes as usize, 0xc1);
        bare.write(&out).await;
    }
    bare.call(2, "echo").await;
    assert_eq!(bare.kind().await, (Kind::Ok, 2));
    let mut out = 1_u32.to_le_bytes().to_vec();
    out.extend_from_slice(&[0x7f, Flags::MUST_UNDERSTAND.0, 0, 0]);
    out.extend_from_slice(&[0; 9]);
    bare.write(&out).await;
    bare.expect_refusal("kind 0x7f is unknown and marked as one that must be understood").await;
}

#[tokio::test(start_paused = true)]
async fn frames_that_cross_with_the_end_of_their_call_are_skipped() {
    let mut bare = Bare::ready().await;
    bare.call(2, "echo").await;
    assert_eq!(bare.kind().await, (Kind::Ok, 2));
    bare.send(Kind::Cancel, 2, &Cancel::default(), &[]).await;
    bare.send(Kind::StreamOpen, 2, &StreamOpen { kind: StreamKind::Items }, &[]).await;
    bare.send(Kind::StreamData, 2, &Empty {}, &[1]).await;
    bare.send(Kind::StreamCredit, 2, &StreamCredit { bytes: u32::MAX }, &[]).await;
    bare.send(Kind::StreamEnd, 2, &Empty {}, &[]).await;
    bare.send(Kind::Continue, 2, &Empty {}, &[1]).await;
    bare.call(4, "echo").await;
    assert_eq!(bare.kind().await, (Kind::Ok, 4));
    // An action that is not there ends its call before its parameters are complete.
    let none = Call { action: "none", ..Call::default() };
    bare.flagged(Kind::Call, Flags::MORE, 6, &none, &[1]).await;
    assert_eq!(bare.err(6).await.code, ErrorCode::ActionNotFound);
    bare.send(Kind::Continue, 6, &Empty {}, &[1]).await;
    // A call can be cancelled before its parameters are complete.
    let echo = Call { action: "echo", ..Call::default() };
    bare.flagged(Kind::Call, Flags::MORE, 8, &echo, &[1]).await;
    bare.send(Kind::Cancel, 8, &Cancel::default(), &[]).await;
    assert_eq!(bare.kind().await, (Kind::Cancelled, 8));
    bare.send(Kind::Continue, 8, &Empty {}, &[1]).await;
    bare.call(10, "echo").await;
    assert_eq!(bare.kind().await, (Kind::Ok, 10));
}

#[tokio::test(start_paused = true)]
async fn a_result_waits_for_credit_while_other_calls_pass() {
    let mut bare = Bare::ready().await;
    // A value of 300 KiB, which the credit of 1,000 bytes per direction lets through bit by bit.
    let bytes = 300 << 10;
    let mut value = vec![0xc6];
    value.extend_from_slice(&(bytes as u32 - 5).to_be_bytes());
    value.resize(bytes, 7);
    bare.send(Kind::Call, 2, &Call { action: "echo", ..Call::default() }, &value).await;
    assert_eq!(bare.kind().await, (Kind::Ok, 2));
    assert_eq!(bare.kind().await, (Kind::Continue, 2));
    bare.call(4, "echo").await;
    assert_eq!(bare.kind().await, (Kind::Ok, 4));
    bare.send(Kind::Ping, 6, &Empty {}, &[]).await;
    let (kind, _, pong): (_, _, palisade_protocol::Pong) = bare.frame().await;
    assert_eq!((kind, pong.calls), (Kind::Pong, 1), "a call whose result waits is under way");
    bare.send(Kind::StreamCredit, 2, &StreamCredit { bytes: 1 << 20 }, &[]).await;
    assert_eq!(bare.kind().await, (Kind::Continue, 2));
    assert_eq!(bare.kind().await, (Kind::Continue, 2));
    bare.send(Kind::Ping, 8, &Empty {}, &[]).await;
    let (_, _, pong): (_, _, palisade_protocol::Pong) = bare.frame().await;
    assert_eq!(pong.calls, 0);
}

#[tokio::test(start_paused = true)]
async fn any_cut_of_the_bytes_means_the_same() {
    let mut whole = Vec::new();
    let value = [&[0xc6, 0, 0, 0xff, 0][..], &[9; 0xff00]].concat();
    for id in [2, 4] {
        encode(&mut whole, Kind::Call, Flags::NONE, id, &Call { action: "echo", ..Call::default() }, &value);
        encode(&mut whole, Kind::Ping, Flags::NONE, 100 + id, &Empty {}, &[]);
    }
    for cut in [1, 7, 16, 17, 100, 4096, 40_000, 65_536] {
        let mut bare = Bare::ready().await;
        let mut to_plugin = bare.to_plugin.take().unwrap();
        let pieces: Vec<Vec<u8>> = whole.chunks(cut).map(<[u8]>::to_vec).collect();
        let writer = tokio::spawn(async move {
            for piece in pieces {
                to_plugin.write_all(&piece).await.unwrap();
                tokio::task::yield_now().await;
            }
            to_plugin
        });
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(bare.kind().await);
        }
        seen.sort_by_key(|(_, id)| *id);
        assert_eq!(seen, [(Kind::Ok, 2), (Kind::Ok, 4), (Kind::Pong, 102), (Kind::Pong, 104)], "cut {cut}");
        drop(writer.await.unwrap());
        assert_eq!(bare.life.await.unwrap().status(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_takes_nothing_stops_being_read() {
    let mut bare = Bare::ready().await;
    let mut to_plugin = bare.to_plugin.take().unwrap();
    // Two thousand results of 4 KiB, with nobody to take them: the plugin must not gather them all.
    let value = [&[0xc5, 0x0f, 0xfd][..], &[1; 0xffd]].concat();
    let written = std::sync::Arc::new(std::sync::atomic::AtomicU64::new(0));
    let counted = std::sync::Arc::clone(&written);
    let writer = tokio::spawn(async move {
        for call in 1..=2000 {
            let mut out = Vec::new();
            encode(&mut out, Kind::Call, Flags::NONE, 2 * call, &Call { action: "echo", ..Call::default() }, &value);
            to_plugin.write_all(&out).await.unwrap();
            counted.store(call, std::sync::atomic::Ordering::Relaxed);
        }
        to_plugin
    });
    // Paused time moves on only when nothing else can.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let stalled = written.load(std::sync::atomic::Ordering::Relaxed);
    assert!((100..600).contains(&stalled), "{stalled}");
    for call in 1..=2000 {
        assert_eq!(bare.kind().await, (Kind::Ok, 2 * call));
    }
    drop(writer.await.unwrap());
    assert_eq!(bare.life.await.unwrap().status(), 0);
}
