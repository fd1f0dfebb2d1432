//! Frames over descriptors: reading without copying, writing in two lanes, buffers that are used again.
//!
//! `Reader` turns what arrives into frames, `Outbox` turns frames into few large writes. Both ends of the daemon (the pipes of a
//! plugin, the socket of an agent) are made of these two. What always holds: a length is checked before room is made for it;
//! a small control frame never waits behind bulk data for longer than the frame that is under way; memory is bounded by the
//! frame limit on the way in and, on the way out, by the credit and admission that let frames in here.

use palisade_protocol::Kind;

mod outbox;
mod pool;
mod reader;

pub use outbox::{Lane, Outbox, Ticket};
pub use pool::{Buffer, OwnedFrame};
pub use reader::{Filled, Incoming, Reader, wipe_what_was_read};

/// From this length on a frame takes the path for large ones: read straight into a buffer of its own, forwarded without
/// a copy, written in the bulk lane.
pub const LARGE_FRAME_BYTES: usize = 32 << 10;

/// A frame of that kind, as the beginning of a sentence.
#[must_use]
pub fn a_frame(kind: Kind) -> String {
    let name = kind.name();
    let article = if name.starts_with(['A', 'E', 'I', 'O', 'U']) { "an" } else { "a" };
    format!("{article} {name} frame")
}
