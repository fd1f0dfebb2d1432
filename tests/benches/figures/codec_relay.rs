//! The floor for many calls at once: a relay as one would write it with tokio, its codecs and its channels, on one thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use palisade_protocol::{Call, FRAME_BYTES_MAX, Flags, HEADER_BYTES, Header, Kind, check_body};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio_util::codec::{Decoder, Encoder, FramedRead, FramedWrite};

use crate::floor::{Role, announce, plugin_name, start_child};

/// Frames that wait for one writer.
const WAITING_MAX: usize = 1024;

/// A frame with its content.
struct Frame {
    header: Header,
    content: Bytes,
}

/// Cuts a stream of bytes into frames, and back.
struct Codec;

impl Decoder for Codec {
    type Item = Frame;
    type Error = io::Error;

    fn decode(&mut self, bytes: &mut BytesMut) -> io::Result<Option<Frame>> {
        let Some(front) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let header = Header::read(front);
        if header.len > FRAME_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let len = HEADER_BYTES + header.len as usize;
        if bytes.len() < len {
            bytes.reserve(len - bytes.len());
            return Ok(None);
        }
        let content = bytes.split_to(len).freeze().slice(HEADER_BYTES..);
        Ok(Some(Frame { header, content }))
    }
}

/// A head made anew, and a payload as it came.
struct Outgoing {
    kind: Kind,
    id: u64,
    body: Vec<u8>,
    payload: Bytes,
}

impl Encoder<Outgoing> for Codec {
    type Error = io::Error;

    fn encode(&mut self, frame: Outgoing, bytes: &mut BytesMut) -> io::Result<()> {
        let len = u32::try_from(frame.body.len() + frame.payload.len()).map_err(io::Error::other)?;
        let header = Header { len, kind: frame.kind as u8, flags: Flags::NONE, id: frame.id };
        bytes.reserve(HEADER_BYTES + len as usize);
        bytes.extend_from_slice(&header.bytes());
        bytes.extend_from_slice(&frame.body);
        bytes.extend_from_slice(&frame.payload);
        Ok(())
    }
}

type Queue = mpsc::Sender<Outgoing>;

/// A child and the calls it has: the number it was given → who asked, under which number.
struct Plugin {
    queue: Queue,
    calls: RefCell<HashMap<u64, (Queue, u64)>>,
    next_id: std::cell::Cell<u64>,
}

pub(crate) fn run(socket: &Path, children: usize) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().context("starting tokio")?;
    runtime.block_on(tokio::task::LocalSet::new().run_until(async move {
        let mut plugins = HashMap::new();
        for number in 0..children {
            let (input, output) = start_child(Role::FrameChild)?;
            let input = pipe::Sender::from_owned_fd(OwnedFd::from(input)).context("a child's stdin")?;
            let output = pipe::Receiver::from_owned_fd(OwnedFd::from(output)).context("a child's stdout")?;
            let plugin =
                Rc::new(Plugin { queue: writer(input), calls: RefCell::default(), next_id: std::cell::Cell::new(2) });
            tokio::task::spawn_local(from_child(output, Rc::clone(&plugin)));
            plugins.insert(plugin_name(number), plugin);
        }
        let plugins = Rc::new(plugins);
        let listener = tokio::net::UnixListener::bind(socket).context("listening")?;
        announce()?;
        loop {
            let (stream, _) = listener.accept().await.context("accepting")?;
            let (input, output) = stream.into_split();
            tokio::task::spawn_local(from_agent(input, writer(output), Rc::clone(&plugins)));
        }
    }))
}

/// Starts the task that writes to one end, all that waits at once.
fn writer(end: impl AsyncWrite + Unpin + 'static) -> Queue {
    let (queue, mut waiting) = mpsc::channel(WAITING_MAX);
    tokio::task::spawn_local(async move {
        let mut sink = FramedWrite::new(end, Codec);
        let mut batch = Vec::new();
        while waiting.recv_many(&mut batch, WAITING_MAX).await > 0 {
            for frame in batch.drain(..) {
                if sink.feed(frame).await.is_err() {
                    return;
                }
            }
            if sink.flush().await.is_err() {
                return;
            }
        }
    });
    queue
}

async fn from_agent(input: impl AsyncRead + Unpin, agent: Queue, plugins: Rc<HashMap<String, Rc<Plugin>>>) {
    let mut frames = FramedRead::new(input, Codec);
    while let Some(Ok(frame)) = frames.next().await {
        let Ok(body) = check_body(&frame.content) else { return };
        let Ok(call) = rmp_serde::from_slice::<Call<'_>>(&frame.content[..body]) else { return };
        let Some(plugin) = call.plugin.and_then(|name| plugins.get(name)) else { return };
        let Ok(head) = rmp_serde::to_vec_named(&Call { plugin: None, version: None, ..call }) else { return };
        let id = plugin.next_id.replace(plugin.next_id.get() + 2);
        plugin.calls.borrow_mut().insert(id, (agent.clone(), frame.header.id));
        let forwarded = Outgoing { kind: Kind::Call, id, body: head, payload: frame.content.slice(body..) };
        if plugin.queue.send(forwarded).await.is_err() {
            return;
        }
    }
}

async fn from_child(output: impl AsyncRead + Unpin, plugin: Rc<Plugin>) {
    let mut frames = FramedRead::new(output, Codec);
    while let Some(Ok(frame)) = frames.next().await {
        let Ok(body) = check_body(&frame.content) else { return };
        let Some((agent, id)) = plugin.calls.borrow_mut().remove(&frame.header.id) else { return };
        let head = frame.content[..body].to_vec();
        let answer = Outgoing { kind: Kind::Ok, id, body: head, payload: frame.content.slice(body..) };
        // An agent that has gone wants no answer.
        let _ = agent.send(answer).await;
    }
}
