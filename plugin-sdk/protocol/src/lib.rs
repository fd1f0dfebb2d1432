//! The Palisade wire protocol: frames, messages, limits and error codes.
//!
//! Supervisor and plugin speak it over two pipes, agent and supervisor over a Unix socket; the frames are the same. This
//! crate does no input or output and knows neither side: it turns bytes into frames and frames into bytes, and holds the
//! tables that both sides share. `docs/protocol.md` is the contract in prose, for authors in any language.
//!
//! What always holds here: a length is checked before anything is allocated for it; decoding ends with a value or an error,
//! whatever the bytes; nothing recurses over input without a depth limit.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod credit;
mod error;
mod frame;
mod json;
mod limits;
mod message;
mod negotiate;
mod payload;
mod value;

pub use credit::{CREDIT_OUTSTANDING_MAX, CreditError, ReceiveCredit, SendCredit};
pub use error::{Class, ErrorBody, ErrorCode, Fault, McpForm};
pub use frame::{Decoder, End, Flags, Frame, FrameError, HEADER_BYTES, Header, Kind, encode, encode_parts, split};
pub use json::{TWICE_MAX, parse_json, parse_json_noting};
pub use limits::{
    BODY_BYTES_MAX, BODY_DEPTH_MAX, BODY_KEYS_MAX, BODY_VALUES_MAX, CALLS_MAX, CREDIT_BYTES, FRAME_BYTES_MAX,
    FRAME_BYTES_MIN, HOST_CALLS_MAX, Limits, PAYLOAD_BYTES_MAX, PAYLOAD_DEPTH_MAX, PIECE_BYTES, SCHEMA_VALUES_MAX,
    STRING_BYTES_MAX, VALUES_MAX,
};
pub use message::{
    ActionInfo, Call, Cancel, CancelReason, Cancelled, Configure, ConfigureAnswer, Configured, Drain, Drained, Empty,
    Extend, Guarantee, GuaranteeState, Hello, HostCall, Level, Log, Ok, Ping, PluginWelcome, Pong, Progress, Proof,
    ProofSource, Ready, Refuse, StreamAbort, StreamCredit, StreamInfo, StreamKind, StreamOpen, StreamSide, Welcome,
};
pub use negotiate::{FEATURES, Feature, PROTOCOL, VersionRange, common_features, common_version};
pub use payload::{EncodeError, NIL, PayloadError, check_payload, decode_value, encode_value};
pub use value::{ValueError, ValueLimits, check_body, check_value};

/// The reserved plugin id under which the supervisor itself answers administrative calls on the agent socket.
pub const SUPERVISOR_ID: &str = "palisade";
