//! An agent that speaks raw frames over a blocking socket: all that the protocol allows, and whatever else a test wants to send.
//!
//! It is written from the protocol's rules alone and shares no code with the client, so that the daemon is not tested against
//! its own habits. It holds at most what the daemon may send: one frame and the frames of other calls that came first.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use palisade_protocol::{
    Call, Cancel, CancelReason, Decoder, ErrorBody, ErrorCode, FEATURES, Flags, Hello, Kind, Limits, PROTOCOL,
    Progress, Refuse, StreamCredit, StreamKind, StreamOpen, Welcome, encode,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// For how long anything is waited for before a test fails. Nothing takes this long; a loaded machine may be slow.
pub const BOUND: Duration = Duration::from_secs(60);

/// How a call ended.
pub type Outcome = Result<Value, ErrorBody>;

/// One frame, with its bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// `None` for a kind that the protocol crate does not know.
    pub kind: Option<Kind>,
    pub flags: Flags,
    pub id: u64,
    pub body: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Received {
    /// The body as this message.
    ///
    /// # Panics
    /// When it is another one.
    #[must_use]
    pub fn message<M: DeserializeOwned>(&self) -> M {
        rmp_serde::from_slice(&self.body).unwrap_or_else(|error| panic!("the body of {:?}: {error}", self.kind))
    }

    /// The payload as a value; nothing is nil.
    ///
    /// # Panics
    /// When it is not one value.
    #[must_use]
    pub fn value(&self) -> Value {
        decode(&self.payload)
    }
}

/// What came next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    Frame(Received),
    /// The other end closed the connection.
    End,
    /// Nothing came within the time given.
    Silence,
}

/// MessagePack of a value.
///
/// # Panics
/// Never for JSON values.
#[must_use]
pub fn pack<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("writing to a vector cannot fail")
}

/// The value that MessagePack bytes hold; no bytes are nil.
///
/// # Panics
/// When they hold none.
#[must_use]
pub fn decode(payload: &[u8]) -> Value {
    if payload.is_empty() {
        return Value::Null;
    }
    rmp_serde::from_slice(payload).expect("a payload is one MessagePack value that JSON can hold")
}

/// What a stream brought, and how its call ended.
#[derive(Debug)]
pub struct Collected {
    pub kind: Option<StreamKind>,
    pub items: Vec<Value>,
    pub bytes: Vec<u8>,
    pub ended: bool,
    pub progress: Vec<Progress>,
    pub outcome: Outcome,
}

/// One connection to the agent socket.
#[derive(Debug)]
pub struct Agent {
    stream: UnixStream,
    decoder: Decoder,
    stash: VecDeque<Received>,
    next_id: u64,
    /// For how long an answer is waited for before the test fails.
    pub patience: Duration,
    /// What the daemon said in its welcome.
    pub limits: Limits,
    /// The features both may use.
    pub features: Vec<String>,
}

impl Agent {
    /// Connects and says nothing yet.
    ///
    /// # Errors
    /// When nothing listens there.
    pub fn connect_silently(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(BOUND))?;
        Ok(Self {
            stream,
            decoder: Decoder::default(),
            stash: VecDeque::new(),
            next_id: 1,
            patience: BOUND,
            limits: Limits::default(),
            features: Vec::new(),
        })
    }

    /// Connects and shakes hands.
    ///
    /// # Errors
    /// When nothing listens there, or it closes the connection.
    ///
    /// # Panics
    /// When it answers with anything but a welcome.
    pub fn connect(socket: &Path) -> io::Result<Self> {
        let mut agent = Self::connect_silently(socket)?;
        agent.send(Kind::Hello, Flags::NONE, 0, &hello(), &[])?;
        match agent.next(BOUND)? {
            Next::Frame(frame) if frame.kind == Some(Kind::Welcome) => {
                let welcome: Welcome = frame.message();
                agent.decoder.set_frame_bytes_max(welcome.limits.frame_bytes_max);
                agent.limits = welcome.limits;
                agent.features = welcome.features;
                Ok(agent)
            }
            Next::Frame(frame) if frame.kind == Some(Kind::Refuse) => {
                let refuse: Refuse = frame.message();
                Err(io::Error::new(io::ErrorKind::ConnectionRefused, refuse.error.to_string()))
            }
            Next::End => Err(io::ErrorKind::ConnectionReset.into()),
            other => panic!("expected a welcome, got {other:?}"),
        }
    }

    /// The socket itself, for what this type would not do.
    pub fn stream(&mut self) -> &mut UnixStream {
        &mut self.stream
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the connection is gone or the daemon does not read for [`BOUND`].
    pub fn send<M: Serialize>(
        &mut self,
        kind: Kind,
        flags: Flags,
        id: u64,
        message: &M,
        payload: &[u8],
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        encode(&mut bytes, kind, flags, id, message, payload);
        self.stream.write_all(&bytes)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// As [`Agent::send`].
    pub fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// A number for the next call.
    pub fn new_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 2;
        id
    }

    /// The next frame, if it comes within that time. Frames set aside by [`Agent::finish`] come first.
    ///
    /// # Errors
    /// When the socket fails.
    ///
    /// # Panics
    /// When what comes is not a frame.
    pub fn next(&mut self, within: Duration) -> io::Result<Next> {
        if let Some(frame) = self.stash.pop_front() {
            return Ok(Next::Frame(frame));
        }
        self.next_from_socket(within)
    }

    fn next_from_socket(&mut self, within: Duration) -> io::Result<Next> {
        let until = Instant::now() + within;
        let mut buffer = vec![0; 64 << 10];
        loop {
            if let Some(frame) = self.decoder.next_frame().expect("the daemon sends whole frames") {
                let kind = frame.kind().expect("the daemon sends no kind that must be understood and is not known");
                let (body, payload) = match kind {
                    Some(kind) => frame.parts(kind).expect("the daemon sends sound bodies"),
                    None => (frame.content, &[][..]),
                };
                return Ok(Next::Frame(Received {
                    kind,
                    flags: frame.header.flags,
                    id: frame.header.id,
                    body: body.to_vec(),
                    payload: payload.to_vec(),
                }));
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(Next::Silence);
            }
            self.stream.set_read_timeout(Some(left))?;
            match self.stream.read(&mut buffer) {
                Ok(0) => return Ok(Next::End),
                Ok(count) => self.decoder.push(&buffer[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Next::End),
                Err(error) => return Err(error),
            }
        }
    }

    /// Begins a call with these parameters and returns its number.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn begin(&mut self, plugin: &str, action: &str, parameters: &Value) -> u64 {
        self.begin_with(&Call { action, plugin: Some(plugin), ..Call::default() }, &pack(parameters))
    }

    /// Begins a call as given and returns its number. Large parameters go in pieces.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn begin_with(&mut self, call: &Call<'_>, payload: &[u8]) -> u64 {
        let id = self.new_id();
        let mut pieces = payload.chunks(palisade_protocol::PIECE_BYTES).peekable();
        let first = pieces.next().unwrap_or_default();
        let more = |left: bool| if left { Flags::MORE } else { Flags::NONE };
        let flags = more(pieces.peek().is_some());
        self.send(Kind::Call, flags, id, call, first).expect("the daemon reads");
        let mut credit = i64::from(self.limits.credit_bytes);
        while let Some(piece) = pieces.next() {
            let cost = 1 + i64::try_from(piece.len()).expect("a piece is small");
            while credit < cost {
                match self.next_of(id) {
                    frame if frame.kind == Some(Kind::StreamCredit) => {
                        credit += i64::from(frame.message::<StreamCredit>().bytes);
                    }
                    // The call ended before its parameters were complete.
                    frame => {
                        self.stash.push_front(frame);
                        return id;
                    }
                }
            }
            credit -= cost;
            let flags = more(pieces.peek().is_some());
            self.send(Kind::Continue, flags, id, &palisade_protocol::Empty {}, piece).expect("the daemon reads");
        }
        id
    }

    /// The next frame of that call; those of others are set aside.
    ///
    /// # Panics
    /// When none comes within [`BOUND`], or the connection ends.
    pub fn next_of(&mut self, id: u64) -> Received {
        if let Some(position) = self.stash.iter().position(|frame| frame.id == id) {
            return self.stash.remove(position).expect("it is there");
        }
        let until = Instant::now() + self.patience;
        loop {
            match self.next_from_socket(until.saturating_duration_since(Instant::now())).expect("the socket works") {
                Next::Frame(frame) if frame.id == id => return frame,
                Next::Frame(frame) if frame.kind == Some(Kind::Refuse) => {
                    panic!("the daemon refused: {}", frame.message::<Refuse>().error)
                }
                Next::Frame(frame) => self.stash.push_back(frame),
                Next::End => panic!("the daemon closed the connection while call {id} was awaited"),
                Next::Silence => panic!("nothing came for call {id} within {:?}", self.patience),
            }
        }
    }

    /// Waits for the end of a call, and returns all that came before.
    ///
    /// # Panics
    /// As [`Agent::next_of`].
    pub fn collect(&mut self, id: u64) -> Collected {
        self.collect_granting(id, true)
    }

    /// The same, without giving credit for what comes.
    ///
    /// # Panics
    /// As [`Agent::next_of`].
    pub fn collect_without_credit(&mut self, id: u64) -> Collected {
        self.collect_granting(id, false)
    }

    fn collect_granting(&mut self, id: u64, grant: bool) -> Collected {
        let mut got = Collected {
            kind: None,
            items: Vec::new(),
            bytes: Vec::new(),
            ended: false,
            progress: Vec::new(),
            outcome: Ok(Value::Null),
        };
        let (mut joined, mut item) = (Vec::new(), Vec::new());
        loop {
            let frame = self.next_of(id);
            let more = frame.flags.has(Flags::MORE);
            let cost = u32::try_from(frame.body.len() + frame.payload.len()).expect("a frame is small");
            if grant && frame.kind.is_some_and(Kind::needs_credit) {
                // Gone if the call has ended meanwhile; the daemon skips it then.
                let _ = self.send(Kind::StreamCredit, Flags::NONE, id, &StreamCredit { bytes: cost }, &[]);
            }
            match frame.kind {
                Some(Kind::Ok | Kind::Continue) => {
                    joined.extend_from_slice(&frame.payload);
                    if !more {
                        got.outcome = Ok(decode(&joined));
                        return got;
                    }
                }
                Some(Kind::Err) => {
                    got.outcome = Err(frame.message());
                    return got;
                }
                Some(Kind::Cancelled) => {
                    let cancelled: palisade_protocol::Cancelled = frame.message();
                    let message = cancelled.message.unwrap_or_default();
                    got.outcome = Err(ErrorBody::new(ErrorCode::Cancelled, message));
                    return got;
                }
                Some(Kind::Progress) => got.progress.push(frame.message()),
                Some(Kind::StreamOpen) => got.kind = Some(frame.message::<StreamOpen>().kind),
                Some(Kind::StreamData) if got.kind == Some(StreamKind::Items) => {
                    item.extend_from_slice(&frame.payload);
                    if !more {
                        got.items.push(decode(&item));
                        item.clear();
                    }
                }
                Some(Kind::StreamData) => got.bytes.extend_from_slice(&frame.payload),
                Some(Kind::StreamEnd) => got.ended = true,
                _ => {}
            }
        }
    }

    /// Waits for the end of a call.
    ///
    /// # Errors
    /// What the call ended with, if not well.
    ///
    /// # Panics
    /// As [`Agent::next_of`].
    pub fn finish(&mut self, id: u64) -> Outcome {
        self.collect(id).outcome
    }

    /// Calls and waits.
    ///
    /// # Errors
    /// As [`Agent::finish`].
    pub fn call(&mut self, plugin: &str, action: &str, parameters: &Value) -> Outcome {
        let id = self.begin(plugin, action, parameters);
        self.finish(id)
    }

    /// Calls with a deadline and waits.
    ///
    /// # Errors
    /// As [`Agent::finish`].
    pub fn call_within(&mut self, plugin: &str, action: &str, parameters: &Value, deadline: Duration) -> Outcome {
        let deadline_ms = u64::try_from(deadline.as_millis()).ok();
        let call = Call { action, plugin: Some(plugin), deadline_ms, ..Call::default() };
        let id = self.begin_with(&call, &pack(parameters));
        self.finish(id)
    }

    /// Asks for a call to be cancelled.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn cancel(&mut self, id: u64) {
        self.send(Kind::Cancel, Flags::NONE, id, &Cancel { reason: CancelReason::Caller }, &[])
            .expect("the daemon reads");
    }

    /// Expects the daemon to refuse and close, and returns what it said.
    ///
    /// # Panics
    /// When it does anything else, or nothing within [`BOUND`].
    pub fn expect_refusal(&mut self) -> ErrorBody {
        let mut refusal = None;
        loop {
            match self.next(BOUND).expect("the socket works") {
                Next::Frame(frame) if frame.kind == Some(Kind::Refuse) => {
                    refusal = Some(frame.message::<Refuse>().error);
                }
                Next::Frame(_) => assert!(refusal.is_none(), "a refusal is the last frame"),
                Next::End => return refusal.expect("the daemon says why before it closes"),
                Next::Silence => panic!("the daemon neither refused nor closed within {BOUND:?}"),
            }
        }
    }
}

/// The hello of an end that can do everything.
#[must_use]
pub fn hello() -> Hello {
    Hello {
        protocol: PROTOCOL,
        features: FEATURES.iter().map(|feature| feature.name().to_owned()).collect(),
        software: "palisade-tests".into(),
    }
}
