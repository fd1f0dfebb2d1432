//! Measures what the SDK costs per call: starts a plugin on a pair of pipes, keeps a number of 64-byte `echo` calls
//! under way, and divides the plugin's processor time by the calls. Payloads of 1 MiB and idle memory follow.
//!
//! `cargo run --release -p palisade-sdk --example call_cost -- PATH_TO_ECHO`

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use palisade_protocol::{
    Call, Decoder, Empty, Flags, Header, Kind, Limits, PIECE_BYTES, PROTOCOL, PluginWelcome, StreamCredit, Welcome,
    encode,
};

type Failure = Box<dyn std::error::Error>;

struct Plugin {
    child: Child,
    input: File,
    output: File,
    decoder: Decoder,
    bytes: Vec<u8>,
    next_id: u64,
}

impl Plugin {
    fn start(path: &str) -> Result<Self, Failure> {
        // The shell moves its own input and output to where a plugin expects the connection.
        #[expect(clippy::disallowed_methods, reason = "this is not the daemon")]
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" 3<&0 4>&1 </dev/null >/dev/null", path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let input = File::from(OwnedFd::from(child.stdin.take().ok_or("no pipe")?));
        let output = File::from(OwnedFd::from(child.stdout.take().ok_or("no pipe")?));
        let mut plugin =
            Self { child, input, output, decoder: Decoder::default(), bytes: vec![0; 1 << 20], next_id: 2 };
        plugin.frames(|kind, _| kind == Kind::Hello)?;
        let welcome = Welcome {
            protocol: PROTOCOL.max,
            features: vec!["streams".to_owned(), "continue".to_owned()],
            software: "call_cost".to_owned(),
            limits: Limits::default(),
            plugin: Some(PluginWelcome {
                id: "echo".to_owned(),
                version: "0.1.0".to_owned(),
                generation: 1,
                ready_within_ms: 10_000,
                configuration: serde_json::Value::Null,
                permissions: Vec::new(),
                guarantees: Vec::new(),
                state_schema: None,
            }),
        };
        let mut out = Vec::new();
        encode(&mut out, Kind::Welcome, Flags::NONE, 0, &welcome, &[]);
        plugin.input.write_all(&out)?;
        plugin.frames(|kind, _| kind == Kind::Ready)?;
        Ok(plugin)
    }

    /// Reads frames until `last` says so.
    fn frames(&mut self, mut last: impl FnMut(Kind, &Header) -> bool) -> Result<(), Failure> {
        loop {
            let mut found = false;
            while let Some(frame) = self.decoder.next_frame()? {
                let kind = frame.kind()?.ok_or("an unknown kind")?;
                found |= last(kind, &frame.header);
            }
            if found {
                return Ok(());
            }
            let read = self.output.read(&mut self.bytes)?;
            if read == 0 {
                return Err("the plugin ended".into());
            }
            self.decoder.push(&self.bytes[..read]);
        }
    }

    fn processor_time(&self) -> Result<Duration, Failure> {
        // Nanoseconds on a processor, waiting, and how often: see the kernel's sched-stats documentation.
        let text = std::fs::read_to_string(format!("/proc/{}/schedstat", self.child.id()))?;
        Ok(Duration::from_nanos(text.split_whitespace().next().ok_or("schedstat is empty")?.parse()?))
    }

    fn memory(&self) -> Result<String, Failure> {
        let text = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id()))?;
        let wanted = ["Rss:", "Pss:", "Private_Clean:", "Private_Dirty:"];
        let lines = text.lines().filter(|line| wanted.iter().any(|wanted| line.starts_with(wanted)));
        Ok(lines.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join(", "))
    }

    fn small_calls(&mut self, depth: usize, calls: usize) -> Result<(), Failure> {
        let head = Call { action: "echo", caller: Some("uid:1000"), deadline_ms: Some(30_000), ..Call::default() };
        // A binary value of 62 bytes, 64 with its own head.
        let payload = [&[0xc4, 62][..], &[7; 62]].concat();
        let (processor, begun) = (self.processor_time()?, Instant::now());
        let (mut sent, mut done) = (0, 0);
        let mut out = Vec::new();
        while done < calls {
            out.clear();
            while sent < calls && sent - done < depth {
                encode(&mut out, Kind::Call, Flags::NONE, self.next_id, &head, &payload);
                self.next_id += 2;
                sent += 1;
            }
            self.input.write_all(&out)?;
            let mut ended = 0;
            self.frames(|kind, _| {
                ended += usize::from(kind == Kind::Ok);
                ended > 0
            })?;
            done += ended;
        }
        let (spent, wall) = (self.processor_time()? - processor, begun.elapsed());
        let each = |time: Duration| time.as_nanos() / calls as u128;
        println!(
            "echo 64 B, depth {depth:>3}: {:>6} ns of the plugin's processor per call, {:>6} ns of wall time",
            each(spent),
            each(wall)
        );
        Ok(())
    }

    fn large_calls(&mut self, bytes: usize, calls: usize) -> Result<(), Failure> {
        let head = Call { action: "echo", ..Call::default() };
        let mut payload = vec![0xc6];
        payload.extend_from_slice(&u32::try_from(bytes - 5)?.to_be_bytes());
        payload.resize(bytes, 7);
        let (processor, begun) = (self.processor_time()?, Instant::now());
        for _ in 0..calls {
            let id = self.next_id;
            self.next_id += 2;
            let mut input = self.input.try_clone()?;
            let output = std::thread::scope(|scope| -> Result<(), Failure> {
                let payload = &payload;
                let writer = scope.spawn(move || -> std::io::Result<()> {
                    let pieces = payload.chunks(PIECE_BYTES);
                    let last = pieces.len() - 1;
                    for (index, piece) in pieces.enumerate() {
                        let mut out = Vec::with_capacity(piece.len() + 64);
                        let flags = if index < last { Flags::MORE } else { Flags::NONE };
                        match index {
                            0 => encode(&mut out, Kind::Call, flags, id, &head, piece),
                            _ => encode(&mut out, Kind::Continue, flags, id, &Empty {}, piece),
                        }
                        input.write_all(&out)?;
                    }
                    // Enough for the whole result, so that this need not follow the reader.
                    let mut out = Vec::new();
                    let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
                    encode(&mut out, Kind::StreamCredit, Flags::NONE, id, &StreamCredit { bytes }, &[]);
                    input.write_all(&out)
                });
                let mut left = bytes;
                while left > 0 {
                    let read = self.output.read(&mut self.bytes)?;
                    self.decoder.push(&self.bytes[..read]);
                    while let Some(frame) = self.decoder.next_frame()? {
                        if matches!(frame.kind()?, Some(Kind::Ok | Kind::Continue)) {
                            left -= frame.header.len as usize - 1;
                        }
                    }
                }
                writer.join().map_err(|_| "the writer panicked")??;
                Ok(())
            });
            output?;
        }
        let (spent, wall) = (self.processor_time()? - processor, begun.elapsed());
        let each = |time: Duration| time.as_micros() / calls as u128;
        println!(
            "echo {} KiB, one by one: {:>6} us of the plugin's processor per call, {:>6} us of wall time",
            bytes >> 10,
            each(spent),
            each(wall)
        );
        Ok(())
    }
}

fn main() -> Result<(), Failure> {
    let path = std::env::args().nth(1).ok_or("the path of the echo plugin is missing")?;
    let mut plugin = Plugin::start(&path)?;
    println!("idle: {}", plugin.memory()?);
    plugin.small_calls(128, 20_000)?;
    println!("after 20,000 calls: {}", plugin.memory()?);
    for depth in [1, 16, 128] {
        plugin.small_calls(depth, if depth == 1 { 30_000 } else { 500_000 })?;
    }
    plugin.large_calls(1 << 20, 200)?;
    println!("in the end: {}", plugin.memory()?);
    let Plugin { mut child, input, output, .. } = plugin;
    drop((input, output));
    println!("{}", child.wait()?);
    Ok(())
}
