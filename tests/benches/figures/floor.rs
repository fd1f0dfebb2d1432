//! The floors: relays that do less than a daemon could, and the children behind them.
//!
//! `BytesRelay` moves bytes with two blocking threads and understands nothing: no daemon between an agent and a plugin can be
//! faster without leaving the pipes. `codec_relay` is the floor for many calls at once: one tokio thread, the protocol's framing as
//! a codec, the head of a call decoded, the plugin found by its name and a number of its own given to each call; it has no
//! deadlines, limits, credit or policy. `FrameRelay` does the same without codec and channels, as lean as it can be had: no
//! target is set against it, it shows how much room there is. The children answer at once.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

use anyhow::Context;
use palisade_protocol::{Call, FRAME_BYTES_MAX, Flags, Kind, check_body, encode_parts, split};
use palisade_tests::command::command;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::Notify;

/// What this executable can be beside the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Role {
    /// The relay that moves bytes.
    BytesRelay,
    /// The same with a megabyte in each pipe, for payloads.
    LargeRelay,
    /// The relay that routes frames, made of tokio's parts.
    CodecRelay,
    /// The relay that routes frames, as lean as it can be had.
    FrameRelay,
    /// A child that gives back the bytes it gets.
    BytesChild,
    /// A child that answers a number with so many bytes.
    PayloadChild,
    /// A child that takes so many bytes and then answers with one.
    SinkChild,
    /// A child that answers calls.
    FrameChild,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::BytesRelay => "bytes-relay",
            Self::LargeRelay => "large-relay",
            Self::CodecRelay => "codec-relay",
            Self::FrameRelay => "frame-relay",
            Self::BytesChild => "bytes-child",
            Self::PayloadChild => "payload-child",
            Self::SinkChild => "sink-child",
            Self::FrameChild => "frame-child",
        }
    }
}

/// A relay that runs. Dropping it closes what it lives from.
#[derive(Debug)]
pub(crate) struct Relay {
    process: Child,
    socket: PathBuf,
    _dir: tempfile::TempDir,
}

impl Relay {
    /// Starts one, at the place of the calling thread.
    pub(crate) fn start(role: Role, children: usize) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir().context("a folder for the relay's socket")?;
        let socket = dir.path().join("relay.sock");
        let mut process = own(role)
            .arg("--socket")
            .arg(&socket)
            .args(["--children", &children.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a relay")?;
        // It says a byte when it listens and its children run.
        let mut ready = [0];
        process
            .stdout
            .take()
            .context("the relay's stdout")?
            .read_exact(&mut ready)
            .context("the relay did not start")?;
        Ok(Self { process, socket, _dir: dir })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    pub(crate) fn connect(&self) -> anyhow::Result<UnixStream> {
        UnixStream::connect(&self.socket).context("connecting to the relay")
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        // The end of its input is its end, and that of its children.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

fn own(role: Role) -> std::process::Command {
    let mut own = command(std::env::current_exe().unwrap_or_else(|_| "palisade-bench".into()));
    own.args(["--role", role.name()]);
    own
}

/// Is what `--role` says.
pub(crate) fn play(role: Role, socket: Option<&Path>, children: usize) -> anyhow::Result<()> {
    match role {
        Role::BytesChild => {
            Ok(copy(&mut unbuffered(io::stdin())?, &mut unbuffered(io::stdout())?, &mut vec![0; 64 << 10])?)
        }
        Role::PayloadChild => payload_child(),
        Role::SinkChild => sink_child(),
        Role::FrameChild => frame_child(),
        Role::BytesRelay | Role::LargeRelay => bytes_relay(role, socket.context("--socket is missing")?),
        Role::CodecRelay => super::codec_relay::run(socket.context("--socket is missing")?, children),
        Role::FrameRelay => frame_relay(socket.context("--socket is missing")?, children),
    }
}

/// Moves bytes until there are no more.
fn copy(from: &mut impl Read, to: &mut impl Write, buffer: &mut [u8]) -> io::Result<()> {
    loop {
        match from.read(buffer)? {
            0 => return Ok(()),
            count => to.write_all(&buffer[..count])?,
        }
    }
}

/// How much a payload's sender writes at once and its relay moves at once: with pipes of a megabyte, less or more was slower.
const PAYLOAD_STEP: usize = 256 << 10;

fn unbuffered(handle: impl std::os::fd::AsFd) -> anyhow::Result<std::fs::File> {
    Ok(handle.as_fd().try_clone_to_owned().context("duplicating a descriptor")?.into())
}

fn payload_child() -> anyhow::Result<()> {
    let (mut input, mut output) = (unbuffered(io::stdin())?, unbuffered(io::stdout())?);
    let warm = vec![1; PAYLOAD_STEP];
    let mut request = [0; 8];
    while input.read_exact(&mut request).is_ok() {
        let mut left = usize::try_from(u64::from_le_bytes(request)).context("a length")?;
        while left > 0 {
            let step = left.min(warm.len());
            output.write_all(&warm[..step]).context("sending the payload")?;
            left -= step;
        }
    }
    Ok(())
}

fn sink_child() -> anyhow::Result<()> {
    let (mut input, mut output) = (unbuffered(io::stdin())?, unbuffered(io::stdout())?);
    let mut buffer = vec![0; PAYLOAD_STEP];
    let mut request = [0; 8];
    while input.read_exact(&mut request).is_ok() {
        let mut left = usize::try_from(u64::from_le_bytes(request)).context("a length")?;
        let mut sum = 0;
        while left > 0 {
            let end = left.min(buffer.len());
            let count = input.read(&mut buffer[..end]).context("reading the payload")?;
            anyhow::ensure!(count > 0, "the payload ends early");
            sum ^= touch(&buffer[..count]);
            left -= count;
        }
        output.write_all(&[sum]).context("answering")?;
    }
    Ok(())
}

/// Reads a byte of every cache line, as whoever uses a payload would.
pub(crate) fn touch(bytes: &[u8]) -> u8 {
    std::hint::black_box(bytes.iter().step_by(64).fold(0, |sum, byte| sum ^ byte))
}

/// The children of this relay, for its end.
static CHILDREN: Mutex<Vec<Child>> = Mutex::new(Vec::new());

pub(crate) fn start_child(role: Role) -> anyhow::Result<(ChildStdin, ChildStdout)> {
    let mut child = own(role).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("starting a child")?;
    let input = child.stdin.take().context("the child's stdin")?;
    let output = child.stdout.take().context("the child's stdout")?;
    CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).push(child);
    Ok((input, output))
}

/// Says that it is ready, and from now on ends with the benchmark, whose end closes its stdin.
pub(crate) fn announce() -> anyhow::Result<()> {
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        for child in CHILDREN.lock().unwrap_or_else(PoisonError::into_inner).iter_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        std::process::exit(0);
    });
    let mut stdout = io::stdout().lock();
    stdout.write_all(b".").and_then(|()| stdout.flush()).context("saying that it is ready")
}

fn bytes_relay(role: Role, socket: &Path) -> anyhow::Result<()> {
    let listener = UnixListener::bind(socket).context("listening")?;
    announce()?;
    // Each connection has a child of its own; which kind, its first byte says.
    for agent in listener.incoming() {
        let mut agent = agent.context("accepting")?;
        let mut wanted = [0];
        agent.read_exact(&mut wanted).context("reading which child is wanted")?;
        let child = match wanted[0] {
            0 => Role::BytesChild,
            1 => Role::PayloadChild,
            _ => Role::SinkChild,
        };
        let (mut input, mut output) = start_child(child)?;
        let step = if role == Role::LargeRelay {
            rustix::pipe::fcntl_setpipe_size(&input, 1 << 20).context("growing a pipe")?;
            rustix::pipe::fcntl_setpipe_size(&output, 1 << 20).context("growing a pipe")?;
            PAYLOAD_STEP
        } else {
            64 << 10
        };
        let mut from_agent = agent.try_clone().context("duplicating a socket")?;
        std::thread::spawn(move || {
            let _ = copy(&mut from_agent, &mut input, &mut vec![0; step]);
        });
        std::thread::spawn(move || {
            let _ = copy(&mut output, &mut agent, &mut vec![0; step]);
        });
    }
    Ok(())
}

fn frame_child() -> anyhow::Result<()> {
    let (mut input, mut output) = (unbuffered(io::stdin())?, unbuffered(io::stdout())?);
    let (mut held, mut answers) = (Vec::with_capacity(256 << 10), Vec::with_capacity(256 << 10));
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = input.read(&mut buffer).context("reading calls")?;
        if count == 0 {
            return Ok(());
        }
        held.extend_from_slice(&buffer[..count]);
        let mut rest = held.as_slice();
        while let Some((frame, after)) = split(rest, FRAME_BYTES_MAX)? {
            let body = check_body(frame.content)?;
            encode_parts(&mut answers, Kind::Ok, Flags::NONE, frame.header.id, &[0x80], &frame.content[body..]);
            rest = after;
        }
        let taken = held.len() - rest.len();
        held.drain(..taken);
        output.write_all(&answers).context("answering")?;
        answers.clear();
    }
}

/// Bytes on their way out of one descriptor.
struct Out<W> {
    end: W,
    waiting: RefCell<Vec<u8>>,
    more: Notify,
}

/// What can be written to without waiting.
trait TryWrite {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize>;
    async fn writable(&self) -> io::Result<()>;
}

impl TryWrite for pipe::Sender {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write(bytes)
    }
    async fn writable(&self) -> io::Result<()> {
        self.writable().await
    }
}

impl TryWrite for tokio::net::unix::OwnedWriteHalf {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.try_write(bytes)
    }
    async fn writable(&self) -> io::Result<()> {
        self.writable().await
    }
}

impl<W: TryWrite> Out<W> {
    fn new(end: W) -> Rc<Self> {
        Rc::new(Self { end, waiting: RefCell::new(Vec::new()), more: Notify::new() })
    }

    /// Writes what waits, at once if that can be; `drain` takes care of the rest.
    fn flush(&self) {
        let mut waiting = self.waiting.borrow_mut();
        match self.end.try_write(&waiting) {
            Ok(count) if count == waiting.len() => waiting.clear(),
            Ok(count) => {
                waiting.drain(..count);
                self.more.notify_one();
            }
            Err(_) => self.more.notify_one(),
        }
    }

    async fn drain(self: Rc<Self>) {
        loop {
            self.more.notified().await;
            while !self.waiting.borrow().is_empty() {
                if self.end.writable().await.is_err() {
                    return;
                }
                let mut waiting = self.waiting.borrow_mut();
                match self.end.try_write(&waiting) {
                    Ok(count) => drop(waiting.drain(..count)),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
            }
        }
    }
}

type Agent = Rc<Out<tokio::net::unix::OwnedWriteHalf>>;

/// A child of the frame relay, and the calls it has: the number it was given → who asked, under which number.
struct Plugin {
    out: Rc<Out<pipe::Sender>>,
    calls: RefCell<HashMap<u64, (Agent, u64)>>,
    next_id: std::cell::Cell<u64>,
}

fn frame_relay(socket: &Path, children: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("starting tokio")?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
        let mut plugins = HashMap::new();
        for number in 0..children {
            let (input, output) = start_child(Role::FrameChild)?;
            let plugin = Rc::new(Plugin {
                out: Out::new(pipe::Sender::from_owned_fd(OwnedFd::from(input)).context("a child's stdin")?),
                calls: RefCell::default(),
                next_id: std::cell::Cell::new(2),
            });
            let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output)).context("a child's stdout")?;
            tokio::task::spawn_local(Rc::clone(&plugin.out).drain());
            tokio::task::spawn_local(from_child(output, Rc::clone(&plugin)));
            plugins.insert(plugin_name(number), plugin);
        }
        let plugins = Rc::new(plugins);
        let listener = tokio::net::UnixListener::bind(socket).context("listening")?;
        announce()?;
        loop {
            let (stream, _) = listener.accept().await.context("accepting")?;
            let (input, output) = stream.into_split();
            let out = Out::new(output);
            tokio::task::spawn_local(Rc::clone(&out).drain());
            tokio::task::spawn_local(from_agent(input, out, Rc::clone(&plugins)));
        }
    }))
}

/// What the plugins of the benchmark are called.
pub(crate) fn plugin_name(number: usize) -> String {
    format!("bench-{number}")
}

async fn from_agent(
    mut input: tokio::net::unix::OwnedReadHalf,
    agent: Agent,
    plugins: Rc<HashMap<String, Rc<Plugin>>>,
) {
    let mut held = Vec::with_capacity(64 << 10);
    let mut touched: Vec<Rc<Plugin>> = Vec::new();
    while input.read_buf(&mut held).await.is_ok_and(|count| count > 0) {
        let mut rest = held.as_slice();
        while let Ok(Some((frame, after))) = split(rest, FRAME_BYTES_MAX) {
            rest = after;
            let Ok((call, payload)) = frame.message::<Call<'_>>(Kind::Call) else { return };
            let Some(plugin) = call.plugin.and_then(|name| plugins.get(name)) else { return };
            let id = plugin.next_id.replace(plugin.next_id.get() + 2);
            plugin.calls.borrow_mut().insert(id, (Rc::clone(&agent), frame.header.id));
            let forwarded = Call { plugin: None, version: None, ..call };
            let mut waiting = plugin.out.waiting.borrow_mut();
            palisade_protocol::encode(&mut waiting, Kind::Call, Flags::NONE, id, &forwarded, payload);
            if !touched.iter().any(|seen| Rc::ptr_eq(seen, plugin)) {
                touched.push(Rc::clone(plugin));
            }
        }
        let taken = held.len() - rest.len();
        held.drain(..taken);
        for plugin in touched.drain(..) {
            plugin.out.flush();
        }
    }
}

async fn from_child(mut output: pipe::Receiver, plugin: Rc<Plugin>) {
    let mut held = Vec::with_capacity(64 << 10);
    let mut touched: Vec<Agent> = Vec::new();
    while output.read_buf(&mut held).await.is_ok_and(|count| count > 0) {
        let mut rest = held.as_slice();
        while let Ok(Some((frame, after))) = split(rest, FRAME_BYTES_MAX) {
            rest = after;
            let Some((agent, id)) = plugin.calls.borrow_mut().remove(&frame.header.id) else { return };
            encode_parts(&mut agent.waiting.borrow_mut(), Kind::Ok, Flags::NONE, id, frame.content, &[]);
            if !touched.iter().any(|seen| Rc::ptr_eq(seen, &agent)) {
                touched.push(agent);
            }
        }
        let taken = held.len() - rest.len();
        held.drain(..taken);
        for agent in touched.drain(..) {
            agent.flush();
        }
    }
}
