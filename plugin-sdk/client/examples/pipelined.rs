//! How much a call costs the client: 64-byte calls at several depths against a thread that only turns frames around.
//!
//! `cargo run --release -p palisade-client --example pipelined`. The thread's own work is part of the time per call and no part of
//! the CPU per call, which is that of the client's thread.

use std::error::Error;
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use palisade_client::{Client, Raw};
use palisade_protocol::{Flags, Kind, Limits, Welcome, encode, encode_parts, split};

fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("palisade.sock");
    let listener = UnixListener::bind(&path)?;
    let turn = std::thread::spawn(move || -> std::io::Result<()> {
        let (socket, _) = listener.accept()?;
        turn_around(socket)
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::connect(&path).await?;
        let payload = Raw::encode(&"x".repeat(62))?;
        for (depth, rounds) in [(1_u32, 20_000_u32), (16, 20_000), (128, 5_000)] {
            let cpu = cpu_time();
            let begun = Instant::now();
            let tasks: Vec<_> = (0..depth)
                .map(|_| {
                    let (client, payload) = (client.clone(), payload.clone());
                    tokio::spawn(async move {
                        for _ in 0..rounds {
                            let _: Raw = client.call("echo", "echo", &payload).await?;
                        }
                        Ok::<(), palisade_client::CallError>(())
                    })
                })
                .collect();
            for task in tasks {
                task.await??;
            }
            let calls = f64::from(depth * rounds);
            println!(
                "depth {depth:>3}: {:>9.0} calls/s, {:>6.2} µs CPU of the client per call",
                calls / begun.elapsed().as_secs_f64(),
                (cpu_time() - cpu).as_secs_f64() * 1e6 / calls,
            );
        }
        for size in [1_usize << 20, 16 << 20] {
            let payload = Raw::encode(serde_bytes::Bytes::new(&vec![7; size]))?;
            let begun = Instant::now();
            for _ in 0..20 {
                let result: Raw = client.call("echo", "echo", &payload).await?;
                assert_eq!(result.bytes().len(), payload.bytes().len());
            }
            println!("{size:>9} bytes there and back: {:>6.2} ms", begun.elapsed().as_secs_f64() * 1e3 / 20.0);
        }
        Ok::<(), Box<dyn Error>>(())
    })?;
    drop(runtime);
    turn.join().map_err(|_| "the thread panicked")??;
    Ok(())
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Answers every call with its own payload, as fast as can be.
fn turn_around(mut socket: UnixStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 2 << 20];
    let (mut start, mut end) = (0, 0);
    let mut out = Vec::new();
    loop {
        while let Ok(Some((frame, _))) = split(&buffer[start..end], 2 << 20) {
            start += 16 + frame.content.len();
            let (flags, id) = (frame.header.flags, frame.header.id);
            match frame.kind() {
                Ok(Some(Kind::Hello)) => {
                    let welcome = Welcome {
                        protocol: 1,
                        features: vec!["streams".into(), "continue".into()],
                        software: "turnaround".into(),
                        limits: Limits { credit_bytes: 1 << 30, ..Limits::default() },
                        plugin: None,
                    };
                    encode(&mut out, Kind::Welcome, Flags::NONE, 0, &welcome, &[]);
                }
                Ok(Some(kind @ (Kind::Call | Kind::Continue))) => {
                    let Ok((_, payload)) = frame.parts(kind) else { return Ok(()) };
                    let answer = if kind == Kind::Call { Kind::Ok } else { Kind::Continue };
                    encode_parts(&mut out, answer, flags, id, &[0x80], payload);
                }
                _ => {}
            }
        }
        socket.write_all(&out)?;
        out.clear();
        buffer.copy_within(start..end, 0);
        (start, end) = (0, end - start);
        let count = socket.read(&mut buffer[end..])?;
        if count == 0 {
            return Ok(());
        }
        end += count;
    }
}
