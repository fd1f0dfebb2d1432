//! Every bound of the protocol, with its reason. Those that both ends may choose differently travel in `Welcome`.

use serde::{Deserialize, Serialize};

/// Largest frame unless negotiated, in bytes after the header: 1 MiB. Larger payloads continue in further frames.
pub const FRAME_BYTES_MAX: u32 = 1 << 20;

/// The least that a `Welcome` may set `frame_bytes_max` to: a handshake has to fit.
pub const FRAME_BYTES_MIN: u32 = 64 << 10;

/// Largest payload of one call or result with all of its continuations: 64 MiB. Anything larger is a stream.
pub const PAYLOAD_BYTES_MAX: u64 = 64 << 20;

/// Bytes of stream data and continuations that a sender may have under way in one direction of one call before the
/// receiver grants more: 1 MiB, which keeps a pipe of that size busy.
pub const CREDIT_BYTES: u32 = 1 << 20;

/// Most calls under way at once on a connection unless `Welcome` says otherwise.
pub const CALLS_MAX: u32 = 256;

/// Most host calls of one plugin under way at once; one more is answered `overloaded`.
pub const HOST_CALLS_MAX: usize = 64;

/// Into what pieces our own senders cut a large payload: 128 KiB. Small enough that a control frame never waits long behind
/// one and that sender, supervisor and receiver work at the same time; large enough that a piece costs one system call.
pub const PIECE_BYTES: usize = 128 << 10;

/// Largest body (the map, without the payload) of any frame but `Welcome`, `Ready` and `Configure`, which carry schemas and configuration: 64 KiB.
pub const BODY_BYTES_MAX: usize = 64 << 10;

/// Deepest nesting of a body.
pub const BODY_DEPTH_MAX: usize = 32;

/// Most keys in a body's own map. The messages have fewer than sixteen; the rest is room for later versions.
pub const BODY_KEYS_MAX: usize = 64;

/// Deepest nesting of a payload that our own ends decode.
pub const PAYLOAD_DEPTH_MAX: usize = 128;

/// Most values in a body, keys included: it bounds the memory of the tree that free-form fields become, which takes up to
/// some hundred times the bytes of the smallest maps.
pub const BODY_VALUES_MAX: usize = 4_096;

/// Most values in the body of a `Welcome`, `Ready` or `Configure`, which carry configuration and schemas.
pub const SCHEMA_VALUES_MAX: usize = 32_768;

/// Most values in a payload that our own ends decode into a tree; it bounds the tree's memory.
pub const VALUES_MAX: usize = 131_072;

/// Longest single string in a body: 32 KiB.
pub const STRING_BYTES_MAX: usize = 32 << 10;

/// What a `Welcome` tells the other end to keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Largest frame either end may send, in bytes after the header.
    pub frame_bytes_max: u32,
    /// Largest payload of a call or result with its continuations, in bytes.
    pub payload_bytes_max: u64,
    /// Credit with which each direction of each call begins, in bytes.
    pub credit_bytes: u32,
    /// Most calls under way at once on this connection.
    pub calls_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes_max: FRAME_BYTES_MAX,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            credit_bytes: CREDIT_BYTES,
            calls_max: CALLS_MAX,
        }
    }
}
