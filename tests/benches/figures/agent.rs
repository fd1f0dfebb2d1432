//! The agent's side of the figures: blocking sockets, frames made ahead, as little work of its own as possible.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use palisade_protocol::{
    Call, Flags, HEADER_BYTES, Header, Kind, STRING_BYTES_MAX, StreamCredit, StreamKind, StreamOpen, check_body,
    encode, encode_parts,
};
use rustix::event::epoll;

use crate::floor::touch;

/// What the floors' relays put through as well: they never refuse, so silence is the only mistake left to notice.
const PATIENCE: Duration = Duration::from_secs(20);

/// A call of `echo` with parameters of that size, as a frame; the number is patched in for each call.
pub(crate) fn echo_frame(plugin: &str, payload_bytes: usize) -> Vec<u8> {
    assert!(payload_bytes <= STRING_BYTES_MAX, "a string that one frame holds");
    let head = if payload_bytes < 256 { 2 } else { 3 };
    let payload = palisade_tests::wire::pack(&"x".repeat(payload_bytes - head));
    assert_eq!(payload.len(), payload_bytes);
    let mut frame = Vec::new();
    let call = Call { action: "echo", plugin: Some(plugin), ..Call::default() };
    encode(&mut frame, Kind::Call, Flags::NONE, 1, &call, &payload);
    frame
}

/// A call with these parameters, in the same way.
pub(crate) fn call_frame(plugin: &str, action: &str, params: &impl serde::Serialize) -> Vec<u8> {
    let mut frame = Vec::new();
    let call = Call { action, plugin: Some(plugin), ..Call::default() };
    encode(&mut frame, Kind::Call, Flags::NONE, 1, &call, &palisade_tests::wire::pack(params));
    frame
}

/// Gives the frame the next number and returns that.
fn renumber(frame: &mut [u8], next_id: &mut u64) -> u64 {
    let id = *next_id;
    *next_id += 2;
    frame[8..HEADER_BYTES].copy_from_slice(&id.to_le_bytes());
    id
}

/// The header at the front of `bytes`, and how long its frame is, once that is there.
fn header(bytes: &[u8]) -> Option<(Header, usize)> {
    let header = Header::read(bytes.first_chunk::<HEADER_BYTES>()?);
    Some((header, HEADER_BYTES + header.len as usize))
}

/// An answer that is no good end makes the figure worthless. A bytes-only relay sends back the call itself.
fn check(header: Header) -> anyhow::Result<()> {
    ensure!(
        header.kind == Kind::Ok as u8 || header.kind == Kind::Call as u8,
        "the answer to call {} is of kind 0x{:02x}",
        header.id,
        header.kind
    );
    Ok(())
}

/// A connection and the next number on it.
#[derive(Debug)]
pub(crate) struct Line {
    stream: UnixStream,
    next_id: u64,
}

impl Line {
    pub(crate) fn new(stream: UnixStream, next_id: u64) -> anyhow::Result<Self> {
        stream.set_read_timeout(Some(PATIENCE)).context("setting a timeout")?;
        Ok(Self { stream, next_id })
    }

    /// One call after the other; returns how long each took, in µs.
    pub(crate) fn ping_pong(&mut self, frame: &mut [u8], calls: usize) -> anyhow::Result<Vec<f64>> {
        let mut buffer = vec![0; 64 << 10];
        let mut took = Vec::with_capacity(calls);
        for _ in 0..calls {
            let id = renumber(frame, &mut self.next_id);
            let begun = Instant::now();
            self.stream.write_all(frame).context("calling")?;
            let mut have = 0;
            loop {
                have += read(&mut self.stream, &mut buffer[have..])?;
                match header(&buffer[..have]) {
                    Some((header, len)) if len <= have => {
                        took.push(begun.elapsed().as_secs_f64() * 1e6);
                        check(header)?;
                        ensure!(header.id == id && len == have, "an answer to another call");
                        break;
                    }
                    _ => {}
                }
            }
        }
        Ok(took)
    }

    /// Keeps `depth` calls under way for that long; returns how many ended per second.
    pub(crate) fn pipelined(&mut self, frame: &mut [u8], depth: usize, span: Duration) -> anyhow::Result<f64> {
        let mut held = Vec::with_capacity(256 << 10);
        let mut buffer = vec![0; 64 << 10];
        let mut batch = Vec::new();
        let (mut to_send, mut ended) = (depth, 0_u64);
        let begun = Instant::now();
        let mut under_way = 0;
        loop {
            batch.clear();
            for _ in 0..to_send {
                renumber(frame, &mut self.next_id);
                batch.extend_from_slice(frame);
            }
            self.stream.write_all(&batch).context("calling")?;
            under_way += to_send;
            let count = read(&mut self.stream, &mut buffer)?;
            held.extend_from_slice(&buffer[..count]);
            let mut taken = 0;
            let mut answers = 0;
            while let Some((header, len)) = header(&held[taken..]) {
                if held.len() - taken < len {
                    break;
                }
                check(header)?;
                taken += len;
                answers += 1;
            }
            held.drain(..taken);
            under_way -= answers;
            ended += answers as u64;
            to_send = answers;
            if begun.elapsed() >= span {
                let took = begun.elapsed();
                self.settle(&held, under_way)?;
                #[expect(clippy::cast_precision_loss, reason = "a figure")]
                return Ok(ended as f64 / took.as_secs_f64());
            }
        }
    }

    /// Takes the answers still under way, so that the next measurement begins with none.
    fn settle(&mut self, held: &[u8], mut under_way: usize) -> anyhow::Result<()> {
        let mut held = held.to_vec();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let mut taken = 0;
            while let Some((_, len)) = header(&held[taken..]).filter(|(_, len)| taken + len <= held.len()) {
                taken += len;
                under_way -= 1;
            }
            held.drain(..taken);
            if under_way == 0 {
                return Ok(());
            }
            let count = read(&mut self.stream, &mut buffer)?;
            held.extend_from_slice(&buffer[..count]);
        }
    }

    /// Asks a floor's relay for one kind of child.
    pub(crate) fn choose_child(&mut self, which: u8) -> anyhow::Result<()> {
        self.stream.write_all(&[which]).context("choosing a child")
    }

    /// Asks a payload child for that many bytes, touches them, and returns how long it took in ms.
    pub(crate) fn floor_payload(&mut self, bytes: usize) -> anyhow::Result<f64> {
        let mut buffer = vec![0; 256 << 10];
        let begun = Instant::now();
        self.stream.write_all(&(bytes as u64).to_le_bytes()).context("asking")?;
        let mut left = bytes;
        while left > 0 {
            let count = read(&mut self.stream, &mut buffer)?;
            touch(&buffer[..count]);
            left = left.checked_sub(count).context("more than was asked for")?;
        }
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    }

    /// Sends that many bytes to a sink child and waits for its answer; returns how long it took in ms.
    pub(crate) fn floor_sink(&mut self, bytes: usize) -> anyhow::Result<f64> {
        let warm = vec![1; 256 << 10];
        let begun = Instant::now();
        self.stream.write_all(&(bytes as u64).to_le_bytes()).context("announcing")?;
        let mut left = bytes;
        while left > 0 {
            let step = left.min(warm.len());
            self.stream.write_all(&warm[..step]).context("sending")?;
            left -= step;
        }
        read(&mut self.stream, &mut [0])?;
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    }

    /// Calls an action that brings that many bytes, as a result or as a stream; touches them, and returns how long it took in ms.
    pub(crate) fn daemon_payload(&mut self, plugin: &str, action: &str, bytes: usize) -> anyhow::Result<f64> {
        let id = self.next_id;
        self.next_id += 2;
        let mut request = Vec::new();
        let call = Call { action, plugin: Some(plugin), ..Call::default() };
        let parameters = palisade_tests::wire::pack(&serde_json::json!({ "bytes": bytes }));
        encode(&mut request, Kind::Call, Flags::NONE, id, &call, &parameters);
        let mut buffer = vec![0; 256 << 10];
        let mut came = 0;
        let mut frames = Frames::default();
        let mut granting = 0;
        let begun = Instant::now();
        self.stream.write_all(&request).context("calling")?;
        loop {
            let count = read(&mut self.stream, &mut buffer)?;
            touch(&buffer[..count]);
            let mut grant = 0;
            let mut done = false;
            frames.walk(&buffer[..count], |header, body| {
                if header.id != id {
                    return Ok(());
                }
                let kind = Kind::from_number(header.kind).context("an unknown kind")?;
                if kind.has_payload() {
                    came += header.len as usize - body;
                }
                if kind.needs_credit() {
                    grant += header.len;
                }
                match kind {
                    Kind::Err | Kind::Cancelled => bail!("the call failed"),
                    Kind::Ok | Kind::Continue => done = !header.flags.has(Flags::MORE),
                    _ => {}
                }
                Ok(())
            })?;
            if done {
                let took = begun.elapsed().as_secs_f64() * 1e3;
                // A result has a head of its own; a stream has exactly the bytes.
                ensure!((bytes..bytes + 16).contains(&came), "{came} bytes came instead of {bytes}");
                return Ok(took);
            }
            granting += grant;
            if granting >= 256 << 10 {
                let mut credit = Vec::new();
                encode(&mut credit, Kind::StreamCredit, Flags::NONE, id, &StreamCredit { bytes: granting }, &[]);
                granting = 0;
                self.stream.write_all(&credit).context("granting credit")?;
            }
        }
    }

    /// Calls an action that takes a stream of bytes, sends that many, and returns how long it took in ms.
    pub(crate) fn daemon_sink(&mut self, plugin: &str, action: &str, bytes: usize, credit: u32) -> anyhow::Result<f64> {
        let id = self.next_id;
        self.next_id += 2;
        let mut head = Vec::new();
        let call = Call { action, plugin: Some(plugin), ..Call::default() };
        encode(&mut head, Kind::Call, Flags::NONE, id, &call, &[0xc0]);
        encode(&mut head, Kind::StreamOpen, Flags::NONE, id, &StreamOpen { kind: StreamKind::Bytes }, &[]);
        let mut piece = Vec::new();
        encode_parts(&mut piece, Kind::StreamData, Flags::NONE, id, &[0x80], &vec![1; palisade_protocol::PIECE_BYTES]);
        let cost = i64::try_from(piece.len() - HEADER_BYTES).context("a piece")?;
        let pieces = bytes / palisade_protocol::PIECE_BYTES;
        let mut credit = i64::from(credit);
        let mut buffer = vec![0; 64 << 10];
        let mut frames = Frames::default();
        let mut done = false;
        let begun = Instant::now();
        self.stream.write_all(&head).context("calling")?;
        for _ in 0..pieces {
            while credit < cost {
                let count = read(&mut self.stream, &mut buffer)?;
                let before = credit;
                frames.walk_whole(&buffer[..count], |header, content| {
                    if header.id == id {
                        match Kind::from_number(header.kind) {
                            Some(Kind::StreamCredit) => {
                                let granted: StreamCredit = rmp_serde::from_slice(content).context("a credit")?;
                                credit += i64::from(granted.bytes);
                            }
                            other => bail!("{other:?} instead of credit"),
                        }
                    }
                    Ok(())
                })?;
                ensure!(before <= credit, "credit does not shrink");
            }
            credit -= cost;
            self.stream.write_all(&piece).context("sending")?;
        }
        let mut end = Vec::new();
        encode_parts(&mut end, Kind::StreamEnd, Flags::NONE, id, &[0x80], &[]);
        self.stream.write_all(&end).context("ending the stream")?;
        while !done {
            let count = read(&mut self.stream, &mut buffer)?;
            frames.walk_whole(&buffer[..count], |header, _| {
                match Kind::from_number(header.kind) {
                    Some(Kind::Ok) if header.id == id => done = true,
                    Some(Kind::Err | Kind::Cancelled) if header.id == id => bail!("the call failed"),
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(begun.elapsed().as_secs_f64() * 1e3)
    }
}

/// Follows frames through pieces of a stream without keeping their payloads.
#[derive(Debug, Default)]
struct Frames {
    /// The front of a frame that is not there whole: its header and the beginning of its body.
    front: Vec<u8>,
    /// How much of the last frame is still to come.
    skip: usize,
}

/// So much of a frame tells where its body ends, for the kinds that a payload travels in.
const FRONT_BYTES: usize = HEADER_BYTES + 64;

impl Frames {
    /// Calls `seen` with each frame's header and the length of its body, as soon as those are there.
    fn walk(
        &mut self,
        mut bytes: &[u8],
        mut seen: impl FnMut(Header, usize) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            let step = self.skip.min(bytes.len());
            if step > 0 {
                self.skip -= step;
                bytes = &bytes[step..];
                continue;
            }
            let missing = FRONT_BYTES - self.front.len();
            let taken = missing.min(bytes.len());
            self.front.extend_from_slice(&bytes[..taken]);
            let Some((header, len)) = header(&self.front) else { return Ok(()) };
            if self.front.len() < FRONT_BYTES.min(len) {
                return Ok(());
            }
            let content = &self.front[HEADER_BYTES..self.front.len().min(len)];
            let payload_kind = Kind::from_number(header.kind).is_some_and(Kind::has_payload);
            let body = if payload_kind { check_body(content).context("a body")? } else { 0 };
            seen(header, body)?;
            let before = self.front.len() - taken;
            self.front.clear();
            // Of the front, what was taken from `bytes` may reach into the next frame.
            let of_this = (len - before).min(bytes.len());
            self.skip = len - before - of_this;
            bytes = &bytes[of_this..];
        }
        Ok(())
    }

    /// Calls `seen` with each whole frame; for directions in which only small ones travel.
    fn walk_whole(
        &mut self,
        bytes: &[u8],
        mut seen: impl FnMut(Header, &[u8]) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.front.extend_from_slice(bytes);
        let mut taken = 0;
        while let Some((header, len)) = header(&self.front[taken..]).filter(|(_, len)| taken + len <= self.front.len())
        {
            seen(header, &self.front[taken + HEADER_BYTES..taken + len])?;
            taken += len;
        }
        self.front.drain(..taken);
        Ok(())
    }
}

fn read(stream: &mut UnixStream, buffer: &mut [u8]) -> anyhow::Result<usize> {
    loop {
        match stream.read(buffer) {
            Ok(0) => bail!("the connection was closed"),
            Ok(count) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("reading an answer"),
        }
    }
}

/// As many agents as there are lines, each with one call under way, on one thread; returns calls per second.
pub(crate) fn agents(lines: &mut [Line], frames: &mut [Vec<u8>], span: Duration) -> anyhow::Result<f64> {
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
    for (number, line) in lines.iter().enumerate() {
        epoll::add(&poll, &line.stream, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)
            .context("epoll")?;
    }
    let mut events = Vec::with_capacity(lines.len());
    let mut buffer = vec![0; 16 << 10];
    for (line, frame) in lines.iter_mut().zip(frames.iter_mut()) {
        renumber(frame, &mut line.next_id);
        line.stream.write_all(frame).context("calling")?;
    }
    let (mut ended, mut under_way) = (0_u64, lines.len());
    let begun = Instant::now();
    let mut took = None;
    let patience = rustix::event::Timespec::try_from(PATIENCE).context("a timeout")?;
    while under_way > 0 {
        events.clear();
        epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&patience)).context("waiting")?;
        ensure!(!events.is_empty(), "no answer within {PATIENCE:?}");
        for event in &events {
            let number = usize::try_from(event.data.u64()).context("a line's number")?;
            let (line, frame) = (&mut lines[number], &mut frames[number]);
            let count = read(&mut line.stream, &mut buffer)?;
            let (header, len) = header(&buffer[..count]).context("less than a header came")?;
            ensure!(len == count, "an answer came in pieces");
            check(header)?;
            if took.is_none() {
                ended += 1;
                renumber(frame, &mut line.next_id);
                line.stream.write_all(frame).context("calling")?;
            } else {
                under_way -= 1;
            }
        }
        if took.is_none() && begun.elapsed() >= span {
            took = Some(begun.elapsed());
        }
    }
    let took = took.context("the span ends")?;
    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    Ok(ended as f64 / took.as_secs_f64())
}
