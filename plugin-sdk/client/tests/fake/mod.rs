//! A supervisor that says exactly what a test wants it to say, over a real socket in a folder of its own.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "helpers of tests, in which it is allowed")]

use std::path::PathBuf;
use std::time::Duration;

use palisade_client::Client;
use palisade_protocol::{Decoder, Flags, Kind, Limits, Welcome, encode};
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// No test waits longer than this for anything; reaching it is a failure.
pub(crate) const BOUND: Duration = Duration::from_secs(20);

pub(crate) struct Fake {
    folder: TempDir,
    listener: UnixListener,
}

/// One agent's connection, as the supervisor sees it.
pub(crate) struct Agent {
    pub(crate) socket: UnixStream,
    decoder: Decoder,
}

/// A frame from the agent.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Got {
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    pub(crate) more: bool,
    pub(crate) body: Value,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn nothing() -> Value {
    serde_json::json!({})
}

pub(crate) fn welcome(limits: Limits) -> Welcome {
    Welcome {
        protocol: 1,
        features: vec!["streams".into(), "continue".into()],
        software: "palisaded/fake".into(),
        limits,
        plugin: None,
    }
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("it should have happened by now")
}

impl Fake {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("palisade.sock")).unwrap();
        Self { folder, listener }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.path().join("palisade.sock")
    }

    /// Stops listening; the socket's file stays, as after a daemon that was killed.
    pub(crate) fn die(self) -> TempDir {
        self.folder
    }

    /// Listens again where a predecessor did.
    pub(crate) fn revive(folder: TempDir) -> Self {
        std::fs::remove_file(folder.path().join("palisade.sock")).unwrap();
        let listener = UnixListener::bind(folder.path().join("palisade.sock")).unwrap();
        Self { folder, listener }
    }

    pub(crate) async fn accept_silently(&self) -> Agent {
        let (socket, _) = within(self.listener.accept()).await.unwrap();
        Agent { socket, decoder: Decoder::new(8 << 20) }
    }

    pub(crate) async fn accept_with(&self, welcome: Welcome) -> Agent {
        let mut agent = self.accept_silently().await;
        let hello = agent.next().await;
        assert_eq!((hello.kind, hello.id), (Kind::Hello, 0));
        agent.send(Kind::Welcome, 0, &welcome, &[]).await;
        agent
    }

    pub(crate) async fn accept(&self) -> Agent {
        self.accept_with(welcome(Limits::default())).await
    }

    /// A client that is connected, and its connection.
    pub(crate) async fn connect(&self) -> (Client, Agent) {
        self.connect_with(welcome(Limits::default())).await
    }

    pub(crate) async fn connect_with(&self, welcome: Welcome) -> (Client, Agent) {
        let (client, agent) = tokio::join!(Client::connect(self.path()), self.accept_with(welcome));
        (client.unwrap(), agent)
    }
}

impl Agent {
    pub(crate) async fn try_next(&mut self) -> Option<Got> {
        let mut buffer = vec![0; 256 << 10];
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                let kind = frame.kind().unwrap().unwrap();
                let (body, payload) = frame.parts(kind).unwrap();
                return Some(Got {
                    kind,
                    id: frame.header.id,
                    more: frame.header.flags.has(Flags::MORE),
                    body: rmp_serde::from_slice(body).unwrap(),
                    payload: payload.to_vec(),
                });
            }
            let count = within(self.socket.read(&mut buffer)).await.unwrap_or(0);
            if count == 0 {
                return None;
            }
            self.decoder.push(&buffer[..count]);
        }
    }

    pub(crate) async fn next(&mut self) -> Got {
        self.try_next().await.expect("the agent closed its connection")
    }

    /// The next frame, which is of that kind.
    pub(crate) async fn expect(&mut self, kind: Kind) -> Got {
        let got = self.next().await;
        assert_eq!(got.kind, kind, "{got:?}");
        got
    }

    pub(crate) async fn send(&mut self, kind: Kind, id: u64, body: &impl Serialize, payload: &[u8]) {
        self.send_flagged(kind, Flags::NONE, id, body, payload).await;
    }

    pub(crate) async fn send_flagged(
        &mut self,
        kind: Kind,
        flags: Flags,
        id: u64,
        body: &impl Serialize,
        payload: &[u8],
    ) {
        let mut bytes = Vec::new();
        encode(&mut bytes, kind, flags, id, body, payload);
        self.write(&bytes).await;
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        within(self.socket.write_all(bytes)).await.unwrap();
    }

    pub(crate) async fn ok(&mut self, id: u64, result: &impl Serialize) {
        self.send(Kind::Ok, id, &nothing(), &rmp_serde::to_vec_named(result).unwrap()).await;
    }
}
