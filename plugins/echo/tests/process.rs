//! The built plugin as a process, over real pipes on the descriptors 3 and 4.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use palisade_protocol::{
    Call, Decoder, Drain, Empty, Flags, Kind, Limits, PluginWelcome, Ready, StreamCredit, StreamKind, StreamOpen,
    Welcome, encode,
};
use rustix::process::{Pid, Signal, kill_process};

/// How long a test may take before its plugin is killed, which ends every read with it.
const PATIENCE: Duration = Duration::from_secs(60);

/// The plugin, and its ends of the pipes; killed if a test fails or hangs, so that nothing is left behind.
struct Echo {
    child: Child,
    /// Ends the watch when it is dropped.
    watch: Option<(Sender<()>, JoinHandle<()>)>,
    input: Option<File>,
    output: File,
    decoder: Decoder,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop_watch();
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn command(arguments: &[&str]) -> Command {
    #[expect(clippy::disallowed_methods, reason = "this is not the daemon")]
    let mut command = Command::new("sh");
    command.args(arguments).arg(env!("CARGO_BIN_EXE_echo"));
    command
}

impl Echo {
    /// Starts it, and goes through the handshake.
    fn start() -> Self {
        // The shell moves its own input and output to where a plugin expects the connection.
        let mut child = command(&["-c", "exec \"$0\" 3<&0 4>&1 </dev/null >/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let input = Some(File::from(OwnedFd::from(child.stdin.take().unwrap())));
        let output = File::from(OwnedFd::from(child.stdout.take().unwrap()));
        // The child is reaped only after the watch has ended, so the number cannot have become another's.
        let pid = Pid::from_child(&child);
        let (sender, receiver) = channel();
        let watch = std::thread::spawn(move || {
            if receiver.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
                let _ = kill_process(pid, Signal::KILL);
            }
        });
        let mut echo = Self { child, watch: Some((sender, watch)), input, output, decoder: Decoder::default() };
        assert_eq!(echo.next(|kind, _, _| kind), Kind::Hello);
        let plugin = PluginWelcome {
            id: "echo".into(),
            version: "0.1.0".into(),
            generation: 1,
            ready_within_ms: 10_000,
            configuration: serde_json::Value::Null,
            permissions: vec![],
            guarantees: vec![],
            state_schema: None,
        };
        let welcome = Welcome {
            protocol: 1,
            features: vec!["streams".into(), "continue".into()],
            software: "test".into(),
            limits: Limits::default(),
            plugin: Some(plugin),
        };
        echo.send(Kind::Welcome, Flags::NONE, 0, &welcome, &[]);
        let ready: Ready = echo.next(|kind, body, _| {
            assert_eq!(kind, Kind::Ready);
            rmp_serde::from_slice(body).unwrap()
        });
        let manifest: serde_json::Value = serde_json::from_str(include_str!("../plugin.json")).unwrap();
        assert_eq!((&manifest["id"], &manifest["version"]), (&ready.id.into(), &ready.version.into()));
        echo
    }

    fn send<M: serde::Serialize>(&mut self, kind: Kind, flags: Flags, id: u64, message: &M, payload: &[u8]) {
        let mut out = Vec::new();
        encode(&mut out, kind, flags, id, message, payload);
        self.input.as_mut().unwrap().write_all(&out).unwrap();
    }

    fn call(&mut self, id: u64, action: &str, payload: &[u8]) {
        self.send(Kind::Call, Flags::NONE, id, &Call { action, ..Call::default() }, payload);
    }

    /// Reads the next frame: kind, body, payload.
    fn next<T>(&mut self, look: impl FnOnce(Kind, &[u8], &[u8]) -> T) -> T {
        let mut bytes = vec![0; 64 << 10];
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                let kind = frame.kind().unwrap().unwrap();
                let (body, payload) = frame.parts(kind).unwrap();
                return look(kind, body, payload);
            }
            let read = self.output.read(&mut bytes).unwrap();
            assert!(read > 0, "the plugin ended");
            self.decoder.push(&bytes[..read]);
        }
    }

    fn expect(&mut self, kind: Kind, payload: &[u8]) {
        self.next(|came, body, with| assert_eq!((came, with), (kind, payload), "{body:02x?}"));
    }

    /// Waits for the plugin's end, and returns its exit status.
    fn status(mut self) -> i32 {
        // Its end of the pipe closes with it; what it still says is of no interest.
        let mut rest = Vec::new();
        self.output.read_to_end(&mut rest).unwrap();
        self.stop_watch();
        self.child.wait().unwrap().code().unwrap()
    }

    fn end(mut self) -> i32 {
        self.input = None;
        self.status()
    }

    fn stop_watch(&mut self) {
        if let Some((sender, watch)) = self.watch.take() {
            drop(sender);
            let _ = watch.join();
        }
    }
}

#[test]
fn it_serves_over_pipes_and_ends_with_its_input() {
    let mut echo = Echo::start();
    echo.send(Kind::Ping, Flags::NONE, 2, &Empty {}, &[]);
    echo.expect(Kind::Pong, &[]);
    echo.call(4, "echo", &[0x93, 1, 2, 3]);
    echo.expect(Kind::Ok, &[0x93, 1, 2, 3]);
    echo.call(6, "count", &[0x81, 0xa2, b't', b'o', 2]);
    echo.expect(Kind::StreamOpen, &[]);
    echo.expect(Kind::StreamData, &[1]);
    echo.expect(Kind::StreamData, &[2]);
    echo.expect(Kind::StreamEnd, &[]);
    echo.expect(Kind::Ok, &[0xc0]);
    echo.call(8, "upper", &[]);
    echo.expect(Kind::StreamOpen, &[]);
    echo.send(Kind::StreamOpen, Flags::NONE, 8, &StreamOpen { kind: StreamKind::Bytes }, &[]);
    echo.send(Kind::StreamData, Flags::NONE, 8, &Empty {}, b"loud");
    echo.expect(Kind::StreamData, b"LOUD");
    echo.send(Kind::StreamEnd, Flags::NONE, 8, &Empty {}, &[]);
    echo.expect(Kind::StreamEnd, &[]);
    echo.expect(Kind::Ok, &[0xc0]);
    echo.send(Kind::Drain, Flags::NONE, 0, &Drain { within_ms: 10_000, reason: String::new() }, &[]);
    echo.expect(Kind::Drained, &[]);
    assert_eq!(echo.end(), 0);
}

#[test]
fn a_large_payload_passes_in_pieces() {
    let mut echo = Echo::start();
    let bytes = 3 << 20;
    let mut value = vec![0xc6];
    value.extend_from_slice(&(bytes as u32 - 5).to_be_bytes());
    value.extend((5..bytes).map(|at| (at % 251) as u8));
    // The credit of a direction covers the first mebibyte; the rest is granted as it is joined, while this only writes.
    let mut pieces = value.chunks(128 << 10);
    let head = Call { action: "echo", ..Call::default() };
    echo.send(Kind::Call, Flags::MORE, 2, &head, pieces.next().unwrap());
    let (mut credit, mut pieces) = (1_u64 << 20, pieces.peekable());
    while let Some(piece) = pieces.next() {
        while credit < piece.len() as u64 + 1 {
            credit += echo.next(|kind, body, _| {
                assert_eq!(kind, Kind::StreamCredit);
                u64::from(rmp_serde::from_slice::<StreamCredit>(body).unwrap().bytes)
            });
        }
        credit -= piece.len() as u64 + 1;
        let flags = if pieces.peek().is_some() { Flags::MORE } else { Flags::NONE };
        echo.send(Kind::Continue, flags, 2, &Empty {}, piece);
    }
    let bytes = u32::try_from(value.len()).unwrap();
    echo.send(Kind::StreamCredit, Flags::NONE, 2, &StreamCredit { bytes }, &[]);
    let mut got = Vec::new();
    while got.len() < value.len() {
        echo.next(|kind, _, payload| match kind {
            Kind::StreamCredit => {}
            Kind::Ok | Kind::Continue => got.extend_from_slice(payload),
            other => panic!("{other:?}"),
        });
    }
    assert!(got == value, "the value came back changed");
    assert_eq!(echo.end(), 0);
}

#[test]
fn a_termination_ends_it_within_a_call() {
    let mut echo = Echo::start();
    echo.call(2, "slow", &[0x81, 0xa2, b'm', b's', 0xce, 0x7f, 0, 0, 0]);
    echo.expect(Kind::Progress, &[]);
    kill_process(Pid::from_child(&echo.child), Signal::TERM).unwrap();
    echo.next(|kind, body, _| {
        assert_eq!(kind, Kind::Log);
        let told = String::from_utf8_lossy(body).into_owned();
        assert!(told.contains("cancelled: draining"), "in the protocol's words: {told}");
    });
    echo.expect(Kind::Cancelled, &[]);
    assert_eq!(echo.status(), 0);
}

#[test]
fn garbage_ends_it_with_the_status_for_that() {
    let mut echo = Echo::start();
    echo.input.as_mut().unwrap().write_all(&[0xff; 64]).unwrap();
    echo.expect(Kind::Refuse, &[]);
    assert_eq!(echo.status(), 76);
}

#[test]
fn started_by_hand_it_says_what_it_is() {
    let by_hand = [
        "exec \"$0\" 3<&- 4>&-",
        "exec \"$0\" 3</dev/null 4>/dev/null",
        // Directions the wrong way round.
        "sleep 0 | { exec \"$0\" 3>&1 4<&0; }",
    ];
    for script in by_hand {
        let output = command(&["-c", script]).output().unwrap();
        assert_eq!(output.status.code(), Some(64), "{script}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(
            said, "this is a Palisade plugin; run it with `palisade run`, and call it with `palisade call echo`\n",
            "{script}"
        );
        assert!(output.stdout.is_empty(), "{script}");
    }
}

#[test]
fn it_describes_itself() {
    let output = command(&["-c", "exec \"$0\" --palisade-describe"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let described: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&described["id"], &described["version"]), (&"echo".into(), &"0.1.0".into()));
    let actions: Vec<_> = described["actions"].as_array().unwrap().iter().map(|action| &action["name"]).collect();
    assert_eq!(actions, ["echo", "count", "upper", "cat", "slow", "fail"]);
}
