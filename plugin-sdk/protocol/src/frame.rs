//! Frames: a fixed header, a body, and for some kinds a payload. Bytes to frames and back, without I/O.
//!
//! ```text
//! len u32 | kind u8 | flags u8 | reserved u16 | id u64 | body (MessagePack map) | payload (raw bytes)
//! ```
//!
//! All numbers of the header are little-endian. `len` counts what follows the header. The body tells its own length, as any
//! MessagePack value does, and the payload is the rest. Routing, credit and skipping need the header alone.

use serde::Serialize;

use crate::value::{ValueError, ValueLimits, check_body_within, noun};
use crate::{BODY_BYTES_MAX, FRAME_BYTES_MAX};

/// Length of the header.
pub const HEADER_BYTES: usize = 16;

/// A decoder that is empty gives back what it holds beyond this.
const IDLE_CAPACITY: usize = 4 << 10;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a frame says. The numbers never change; a retired one is not used again.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $name = $number,)*
        }

        impl Kind {
            /// Every kind, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The kind with that number, if this version knows one.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number {
                    $($number => Some(Self::$name),)*
                    _ => None,
                }
            }

            /// The name, as in the documentation.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }
        }
    };
}

kinds! {
    /// First frame of a plugin or an agent: versions and features it speaks.
    Hello = 0x01,
    /// The supervisor's answer: the version and features chosen, limits, and for a plugin what it is given.
    Welcome = 0x02,
    /// A plugin is ready: its identity and its actions.
    Ready = 0x03,
    /// Either end will not go on, and why. The last frame of a connection.
    Refuse = 0x04,
    /// Are you there?
    Ping = 0x05,
    /// Yes, and how busy.
    Pong = 0x06,
    /// Finish what you have; nothing new will come.
    Drain = 0x07,
    /// All is finished.
    Drained = 0x08,
    /// A plugin needs longer for starting.
    Extend = 0x09,
    /// One structured log line.
    Log = 0x0a,
    /// Can the plugin go on with this configuration?
    Configure = 0x0b,
    /// Whether it does.
    Configured = 0x0c,
    /// A call. The payload is its parameters.
    Call = 0x10,
    /// The caller does not want the answer any more.
    Cancel = 0x11,
    /// How far a call has come.
    Progress = 0x12,
    /// A call's good end. The payload is its result.
    Ok = 0x13,
    /// A call's bad end. The body is an `ErrorBody`.
    Err = 0x14,
    /// A call ended because it was cancelled.
    Cancelled = 0x15,
    /// The next piece of a payload whose earlier piece was marked `MORE`.
    Continue = 0x16,
    /// A stream begins, in the direction in which this frame travels.
    StreamOpen = 0x20,
    /// The next bytes of a stream.
    StreamData = 0x21,
    /// The receiver of a stream or of continuations allows that many bytes more.
    StreamCredit = 0x22,
    /// A stream is complete.
    StreamEnd = 0x23,
    /// A stream ends early, and why. From its receiver: no more, please.
    StreamAbort = 0x24,
    /// A plugin asks the supervisor for something. The payload is the parameters.
    HostCall = 0x30,
    /// A host call's good end. The payload is its result.
    HostOk = 0x31,
    /// A host call's bad end. The body is an `ErrorBody`.
    HostErr = 0x32,
}

impl Kind {
    /// Whether bytes after the body belong to this kind.
    #[must_use]
    pub const fn has_payload(self) -> bool {
        matches!(self, Self::Call | Self::Ok | Self::Continue | Self::StreamData | Self::HostCall | Self::HostOk)
    }

    /// Whether this kind's length is counted against the credit of its call and direction.
    #[must_use]
    pub const fn needs_credit(self) -> bool {
        matches!(self, Self::Continue | Self::StreamData)
    }

    /// Whether this kind ends a call.
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Ok | Self::Err | Self::Cancelled)
    }

    /// Whether a frame of this kind may travel from `from` to `to`. One that may not is a violation wherever it arrives.
    #[must_use]
    pub const fn travels(self, from: End, to: End) -> bool {
        use Kind::{
            Call, Cancel, Cancelled, Configure, Configured, Continue, Drain, Drained, Err, Extend, Hello, HostCall,
            HostErr, HostOk, Log, Ok, Ping, Pong, Progress, Ready, Refuse, StreamAbort, StreamCredit, StreamData,
            StreamEnd, StreamOpen, Welcome,
        };
        // What belongs to a call goes either way: its caller is an agent or the supervisor, its callee the supervisor or a plugin.
        let down = matches!((from, to), (End::Supervisor, End::Plugin) | (End::Agent, End::Supervisor));
        let up = matches!((from, to), (End::Plugin, End::Supervisor) | (End::Supervisor, End::Agent));
        match self {
            Continue | StreamOpen | StreamData | StreamCredit | StreamEnd | StreamAbort | Refuse => down || up,
            Call | Cancel => down,
            Progress | Ok | Err | Cancelled => up,
            // A plugin may ask the supervisor as well; nobody asks an agent.
            Ping => down || matches!((from, to), (End::Plugin, End::Supervisor)),
            Pong => up || matches!((from, to), (End::Supervisor, End::Plugin)),
            Hello => matches!((from, to), (End::Plugin | End::Agent, End::Supervisor)),
            Welcome => matches!((from, to), (End::Supervisor, End::Plugin | End::Agent)),
            Ready | Drained | Extend | Log | Configured | HostCall => {
                matches!((from, to), (End::Plugin, End::Supervisor))
            }
            Drain | Configure | HostOk | HostErr => matches!((from, to), (End::Supervisor, End::Plugin)),
        }
    }

    const fn value_limits(self) -> ValueLimits {
        match self {
            Self::Welcome | Self::Ready | Self::Configure => ValueLimits::SCHEMA_BODY,
            _ => ValueLimits::BODY,
        }
    }

    const fn body_bytes_max(self) -> usize {
        match self {
            // These carry schemas and configuration; the frame limit bounds them.
            Self::Welcome | Self::Ready | Self::Configure => usize::MAX,
            _ => BODY_BYTES_MAX,
        }
    }
}

/// One end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// The daemon.
    Supervisor,
    /// A process that serves calls.
    Plugin,
    /// A client that makes them.
    Agent,
}

/// The flags of a frame. Bits without a name are sent as 0 and ignored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flags(pub u8);

impl Flags {
    /// No flag.
    pub const NONE: Self = Self(0);
    /// The payload goes on in a `Continue` frame of the same id; a `StreamData` item goes on in the next `StreamData`.
    pub const MORE: Self = Self(0x01);
    /// A receiver that does not know this kind must end the connection rather than skip the frame.
    pub const MUST_UNDERSTAND: Self = Self(0x02);

    /// Whether all bits of `other` are set.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// A frame's header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How many bytes follow the header.
    pub len: u32,
    /// The kind's number, known or not.
    pub kind: u8,
    /// The flags.
    pub flags: Flags,
    /// Which exchange the frame belongs to; 0 for the connection itself. Even ids are begun by the supervisor, odd ones by
    /// a plugin or an agent.
    pub id: u64,
}

impl Header {
    /// Reads a header. Any sixteen bytes are one; `split` judges the length.
    #[must_use]
    pub fn read(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, l3, kind, flags, _, _, id @ ..] = *bytes;
        Self { len: u32::from_le_bytes([l0, l1, l2, l3]), kind, flags: Flags(flags), id: u64::from_le_bytes(id) }
    }

    /// The header as it travels.
    #[must_use]
    pub fn bytes(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.len.to_le_bytes());
        bytes[4] = self.kind;
        bytes[5] = self.flags.0;
        bytes[8..].copy_from_slice(&self.id.to_le_bytes());
        bytes
    }
}

/// Why bytes are not a frame, or a frame not a message. The connection cannot go on after it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The announced length is beyond the limit.
    #[error("a frame of {len} bytes was announced, more than the limit of {limit}")]
    TooLong {
        /// The announced length.
        len: u32,
        /// The limit in force.
        limit: u32,
    },
    /// A frame without a body.
    #[error("a frame without a body; the shortest body is an empty map")]
    Empty,
    /// The kind is unknown and the sender says that it must be understood.
    #[error("kind 0x{kind:02x} is unknown and marked as one that must be understood")]
    NotUnderstood {
        /// Its number.
        kind: u8,
    },
    /// The body is malformed or beyond the limits.
    #[error("{kind}: {source}")]
    Body {
        /// The kind's name.
        kind: &'static str,
        /// What is wrong with it.
        source: ValueError,
    },
    /// The body is longer than allowed for its kind.
    #[error("{kind}: a body of {bytes} bytes, more than {limit}")]
    BodyTooLong {
        /// The kind's name.
        kind: &'static str,
        /// The body's length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Bytes after the body of a kind that has no payload.
    #[error("{kind}: {bytes} bytes follow the body, and this kind has no payload")]
    UnexpectedPayload {
        /// The kind's name.
        kind: &'static str,
        /// How many.
        bytes: usize,
    },
    /// The body is a map but not this kind's message.
    #[error("{kind}: {detail}")]
    Message {
        /// The kind's name.
        kind: &'static str,
        /// What the decoder said.
        detail: String,
    },
}

/// One frame, borrowed from the buffer it was found in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// Its header.
    pub header: Header,
    /// Body and payload.
    pub content: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame's kind; `None` for one to skip.
    ///
    /// # Errors
    /// [`FrameError::NotUnderstood`] when the kind is unknown and may not be skipped.
    pub fn kind(&self) -> Result<Option<Kind>, FrameError> {
        match Kind::from_number(self.header.kind) {
            None if self.header.flags.has(Flags::MUST_UNDERSTAND) => {
                Err(FrameError::NotUnderstood { kind: self.header.kind })
            }
            kind => Ok(kind),
        }
    }

    /// Splits the content into body and payload, after checking the body.
    ///
    /// # Errors
    /// [`FrameError`] when the body is malformed or too long, or a payload stands where none belongs.
    pub fn parts(&self, kind: Kind) -> Result<(&'a [u8], &'a [u8]), FrameError> {
        let body = check_body_within(self.content, kind.value_limits())
            .map_err(|source| FrameError::Body { kind: kind.name(), source })?;
        if body > kind.body_bytes_max() {
            return Err(FrameError::BodyTooLong { kind: kind.name(), bytes: body, limit: kind.body_bytes_max() });
        }
        let (body, payload) = self.content.split_at(body);
        if !payload.is_empty() && !kind.has_payload() {
            return Err(FrameError::UnexpectedPayload { kind: kind.name(), bytes: payload.len() });
        }
        Ok((body, payload))
    }

    /// Checks and decodes the body, and returns it with the payload. `M` may borrow from the frame.
    ///
    /// # Errors
    /// As [`Frame::parts`], and [`FrameError::Message`] when the map is not an `M`.
    pub fn message<M: serde::Deserialize<'a>>(&self, kind: Kind) -> Result<(M, &'a [u8]), FrameError> {
        let (body, payload) = self.parts(kind)?;
        let message = rmp_serde::from_slice(body)
            .map_err(|_| FrameError::Message { kind: kind.name(), detail: explain::<M>(body) })?;
        Ok((message, payload))
    }
}

/// What is wrong with a body that is not an `M`, and in which field. It decodes once more, as keeping track of the path costs.
#[cold]
fn explain<'a, M: serde::Deserialize<'a>>(body: &'a [u8]) -> String {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(body);
    let Err(error) = serde_path_to_error::deserialize::<_, M>(&mut deserializer) else {
        return "the body does not have the expected form".to_owned();
    };
    let path = error.path().to_string();
    let detail = match error.into_inner() {
        // The decoder's own words for this name a marker, which means nothing to an author.
        rmp_serde::decode::Error::TypeMismatch(marker) => format!("{} does not belong here", noun(marker.to_u8())),
        other => other.to_string(),
    };
    if path == "." { detail } else { format!("{path}: {detail}") }
}

/// Takes the first frame off `bytes`, if it is there whole.
///
/// # Errors
/// [`FrameError::TooLong`] and [`FrameError::Empty`], as soon as the header is there.
pub fn split(bytes: &[u8], frame_bytes_max: u32) -> Result<Option<(Frame<'_>, &[u8])>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let header = Header::read(header);
    if header.len > frame_bytes_max {
        return Err(FrameError::TooLong { len: header.len, limit: frame_bytes_max });
    }
    if header.len == 0 {
        return Err(FrameError::Empty);
    }
    Ok(rest.split_at_checked(header.len as usize).map(|(content, rest)| (Frame { header, content }, rest)))
}

/// Appends one frame to `out`. The body is `message` as a map with named fields.
///
/// # Panics
/// When `message` is not a struct or map that MessagePack can hold, or the frame is longer than a `u32` can say: both are
/// mistakes of the program. Keeping to the frame limit is the caller's business.
pub fn encode<M: Serialize>(out: &mut Vec<u8>, kind: Kind, flags: Flags, id: u64, message: &M, payload: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    // Writing to a vector cannot fail, and our messages are structs of plain fields.
    rmp_serde::encode::write_named(out, message).expect("a message is a struct of plain fields");
    out.extend_from_slice(payload);
    finish(out, start, kind, flags, id);
}

/// Appends one frame whose body is there already, as bytes.
///
/// # Panics
/// As [`encode`].
pub fn encode_parts(out: &mut Vec<u8>, kind: Kind, flags: Flags, id: u64, body: &[u8], payload: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    out.extend_from_slice(body);
    out.extend_from_slice(payload);
    finish(out, start, kind, flags, id);
}

fn finish(out: &mut [u8], start: usize, kind: Kind, flags: Flags, id: u64) {
    let len = u32::try_from(out.len() - start - HEADER_BYTES).expect("a frame is far shorter than 4 GiB");
    let header = Header { len, kind: kind as u8, flags, id };
    out[start..start + HEADER_BYTES].copy_from_slice(&header.bytes());
}

/// Puts frames together from bytes that arrive in any pieces.
///
/// It holds what it was given and not yet taken, and never reserves what a header announces: whoever takes every frame after
/// each push (until `next_frame` says that there is none) makes it hold no more than one longest frame and one push. Empty, it
/// holds next to nothing. After an error it stays in error and takes nothing in.
#[derive(Debug)]
pub struct Decoder {
    bytes: Vec<u8>,
    start: usize,
    frame_bytes_max: u32,
    failed: Option<FrameError>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(FRAME_BYTES_MAX)
    }
}

impl Decoder {
    /// A decoder that refuses longer frames.
    #[must_use]
    pub const fn new(frame_bytes_max: u32) -> Self {
        Self { bytes: Vec::new(), start: 0, frame_bytes_max, failed: None }
    }

    /// Sets another limit for the frames to come, after it was negotiated.
    pub const fn set_frame_bytes_max(&mut self, frame_bytes_max: u32) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Adds bytes that arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.failed.is_some() {
            self.bytes = Vec::new();
            return;
        }
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            // Doubling keeps many small pushes cheap; it stops where the longest frame and this push end.
            let longest = HEADER_BYTES + self.frame_bytes_max as usize + bytes.len();
            let capacity = needed.max(longest.min(2 * self.bytes.capacity()));
            self.bytes.reserve_exact(capacity - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes the next whole frame.
    ///
    /// # Errors
    /// [`FrameError`] when what follows cannot be a frame; the same error from then on.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        if self.start == self.bytes.len() {
            self.start = 0;
            if self.bytes.capacity() > IDLE_CAPACITY {
                self.bytes = Vec::new();
            } else {
                self.bytes.clear();
            }
            return Ok(None);
        }
        match split(&self.bytes[self.start..], self.frame_bytes_max) {
            Ok(None) => Ok(None),
            Ok(Some((frame, _))) => {
                self.start += HEADER_BYTES + frame.content.len();
                Ok(Some(frame))
            }
            Err(error) => {
                self.failed = Some(error.clone());
                Err(error)
            }
        }
    }

    /// Whether the bytes end in the middle of a frame, or in none: at the end of input, something was cut off.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        self.failed.is_some() || self.start < self.bytes.len()
    }

    /// How many bytes of memory are held.
    #[must_use]
    pub fn held(&self) -> usize {
        self.bytes.capacity()
    }
}
