//! What the tests of the wire format share: decoding a frame of whatever kind, and reading the golden frames.
//!
//! The mapping from kinds to messages stands here once. Elsewhere: what each test expects.

#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part")]

use palisade_protocol::{self as protocol, ErrorBody, Frame, FrameError, Kind, encode, split};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What a frame says, whatever its kind.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    pub kind: Kind,
    /// The message as JSON, with the defaults of absent fields.
    pub body: Value,
    pub payload: Vec<u8>,
    /// The message encoded again, as a whole frame.
    pub again: Vec<u8>,
}

/// Decodes a frame of a known kind.
pub fn decode_as(frame: &Frame<'_>, kind: Kind) -> Result<Decoded, FrameError> {
    match kind {
        Kind::Hello => message::<protocol::Hello>(frame, kind),
        Kind::Welcome => message::<protocol::Welcome>(frame, kind),
        Kind::Ready => message::<protocol::Ready>(frame, kind),
        Kind::Refuse => message::<protocol::Refuse>(frame, kind),
        Kind::Ping => message::<protocol::Ping>(frame, kind),
        Kind::Pong => message::<protocol::Pong>(frame, kind),
        Kind::Drain => message::<protocol::Drain>(frame, kind),
        Kind::Drained => message::<protocol::Drained>(frame, kind),
        Kind::Extend => message::<protocol::Extend>(frame, kind),
        Kind::Log => message::<protocol::Log>(frame, kind),
        Kind::Configure => message::<protocol::Configure>(frame, kind),
        Kind::Configured => message::<protocol::Configured>(frame, kind),
        Kind::Call => message::<protocol::Call<'_>>(frame, kind),
        Kind::Cancel => message::<protocol::Cancel>(frame, kind),
        Kind::Progress => message::<protocol::Progress>(frame, kind),
        Kind::Ok => message::<protocol::Ok>(frame, kind),
        Kind::Err | Kind::HostErr => message::<ErrorBody>(frame, kind),
        Kind::Cancelled => message::<protocol::Cancelled>(frame, kind),
        Kind::Continue | Kind::StreamData | Kind::StreamEnd | Kind::HostOk => message::<protocol::Empty>(frame, kind),
        Kind::StreamOpen => message::<protocol::StreamOpen>(frame, kind),
        Kind::StreamCredit => message::<protocol::StreamCredit>(frame, kind),
        Kind::StreamAbort => message::<protocol::StreamAbort>(frame, kind),
        Kind::HostCall => message::<protocol::HostCall<'_>>(frame, kind),
    }
}

fn message<'a, M: Deserialize<'a> + Serialize>(frame: &Frame<'a>, kind: Kind) -> Result<Decoded, FrameError> {
    let (message, payload) = frame.message::<M>(kind)?;
    let mut again = Vec::new();
    encode(&mut again, kind, frame.header.flags, frame.header.id, &message, payload);
    let body = serde_json::to_value(&message).expect("a message is a struct of plain fields");
    Ok(Decoded { kind, body, payload: payload.to_vec(), again })
}

/// Decodes a frame of whatever kind; `None` for one to skip.
pub fn decode(frame: &Frame<'_>) -> Result<Option<Decoded>, FrameError> {
    frame.kind()?.map(|kind| decode_as(frame, kind)).transpose()
}

/// The one frame that `bytes` are.
pub fn only_frame(bytes: &[u8]) -> Frame<'_> {
    let (frame, rest) = split(bytes, u32::MAX).expect("a frame").expect("a whole frame");
    assert!(rest.is_empty(), "nothing follows the frame");
    frame
}

/// A frame with that content, whatever it is.
pub fn raw_frame(kind: u8, flags: u8, id: u64, content: &[u8]) -> Vec<u8> {
    let len = u32::try_from(content.len()).expect("tests make short frames");
    [&len.to_le_bytes()[..], &[kind, flags, 0, 0], &id.to_le_bytes(), content].concat()
}

/// One entry of `golden/frames.txt`.
#[derive(Debug)]
pub struct Golden {
    pub name: String,
    /// `None`: of a kind that nobody knows.
    pub kind: Option<Kind>,
    pub flags: u8,
    pub id: u64,
    pub bytes: Vec<u8>,
    pub body: Option<Value>,
    pub payload: Vec<u8>,
    pub canonical: bool,
}

/// All golden frames.
pub fn golden() -> Vec<Golden> {
    let text = include_str!("../golden/frames.txt");
    let entries = text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>();
    entries.split(|line| line.is_empty()).filter(|lines| !lines.is_empty()).map(entry).collect()
}

fn entry(lines: &[&str]) -> Golden {
    let field = |name: &str| {
        let found = lines.iter().filter_map(|line| line.split_once(' ')).find(|(key, _)| *key == name);
        found.unwrap_or_else(|| panic!("{lines:?} has no {name}")).1
    };
    Golden {
        name: field("name").to_owned(),
        kind: Kind::ALL.iter().copied().find(|kind| kind.name() == field("kind")),
        flags: field("flags").parse().expect("flags are a number"),
        id: field("id").parse().expect("an id is a number"),
        bytes: unhex(field("hex")),
        body: (field("body") != "-").then(|| serde_json::from_str(field("body")).expect("a body is JSON")),
        payload: if field("payload") == "-" { Vec::new() } else { unhex(field("payload")) },
        canonical: match field("canonical") {
            "yes" => true,
            "no" => false,
            other => panic!("canonical is yes or no, not {other}"),
        },
    }
}

/// Bytes from hexadecimal digits; blanks and `|` between them mean nothing.
pub fn unhex(text: &str) -> Vec<u8> {
    let digits = text.chars().filter(|c| !c.is_whitespace() && *c != '|').collect::<Vec<_>>();
    assert!(digits.len().is_multiple_of(2), "an odd number of digits: {text}");
    let byte = |pair: &[char]| pair.iter().fold(0, |sum, c| sum * 16 + c.to_digit(16).expect("a hexadecimal digit"));
    digits.chunks(2).map(|pair| u8::try_from(byte(pair)).expect("two digits are a byte")).collect()
}
