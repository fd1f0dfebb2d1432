//! From frames to few large writes, in two lanes.
//!
//! Small frames stand in one piece of memory and go out together; large ones stand in a queue of buffers. At the border of
//! a frame the small lane goes first, so that a cancel or a ping overtakes megabytes. Frames of one call whose order matters are
//! put in the same lane by whoever pushes them.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use palisade_protocol::{BODY_BYTES_MAX, Flags, HEADER_BYTES, Header, Kind, encode, encode_parts};
use serde::Serialize;
use tokio::io::AsyncWrite;
use zeroize::Zeroizing;

use super::LARGE_FRAME_BYTES;
use super::pool::OwnedFrame;

/// What an empty outbox keeps for the next frames at the most; one that has more gives it all back.
const IDLE_CAPACITY: usize = 4 << 10;

/// Frames of the bulk lane stand together in pieces of at most this size. A control frame waits until the piece that is being
/// written has left, so this is less than one of our own pieces of data.
const SHARED_BYTES: usize = 4 << 10;

/// Most pieces of memory in one write.
const SLICES_MAX: usize = 16;

/// Where a frame waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// With the control frames, ahead of bulk data.
    Small,
    /// With the bulk data, in order.
    Bulk,
}

/// Tells later whether a frame had left; see [`Outbox::has_begun`].
#[derive(Debug, Clone, Copy)]
pub struct Ticket {
    lane: Lane,
    start: u64,
}

#[derive(Debug)]
enum Chunk {
    Frame(OwnedFrame),
    Bytes(Vec<u8>),
    /// Wiped once it has left.
    Secret(Zeroizing<Vec<u8>>),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Frame(frame) => frame.bytes(),
            Self::Bytes(bytes) => bytes,
            Self::Secret(bytes) => bytes,
        }
    }
}

/// Frames on their way out of one descriptor.
#[derive(Debug, Default)]
pub struct Outbox {
    small: Vec<u8>,
    small_done: usize,
    small_written: u64,
    bulk: VecDeque<Chunk>,
    /// How much of the first chunk has left; while it is not 0 nothing may come between.
    bulk_done: usize,
    bulk_bytes: usize,
    bulk_written: u64,
}

impl Outbox {
    /// Whether all has left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.small_done == self.small.len() && self.bulk.is_empty()
    }

    /// How many bytes wait in the small lane.
    #[must_use]
    pub fn small_bytes(&self) -> usize {
        self.small.len() - self.small_done
    }

    /// How many bytes wait in all.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.small_bytes() + self.bulk_bytes
    }

    /// How many bytes have left since the beginning.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.small_written + self.bulk_written + self.bulk_done as u64
    }

    /// Whether bulk data waits.
    #[must_use]
    pub fn has_bulk(&self) -> bool {
        !self.bulk.is_empty()
    }

    /// Puts a message in the small lane.
    pub fn message<M: Serialize>(&mut self, kind: Kind, flags: Flags, id: u64, message: &M, payload: &[u8]) -> Ticket {
        self.make_room();
        let ticket = Ticket { lane: Lane::Small, start: self.small_written + self.small_bytes() as u64 };
        encode(&mut self.small, kind, flags, id, message, payload);
        ticket
    }

    /// Puts a message in the bulk lane, behind the data that it must not overtake.
    pub fn bulk_message<M: Serialize>(
        &mut self,
        kind: Kind,
        flags: Flags,
        id: u64,
        message: &M,
        payload: &[u8],
    ) -> Ticket {
        let mut bytes = Vec::new();
        encode(&mut bytes, kind, flags, id, message, payload);
        self.push(Chunk::Bytes(bytes))
    }

    /// Puts a message with a secret in the bulk lane, in memory of its own that is wiped once the frame has left, or with the outbox. What
    /// shares memory with others waits and leaves with them.
    pub fn secret_message<M: Serialize>(&mut self, kind: Kind, id: u64, message: &M, payload: &[u8]) -> Ticket {
        // Larger than any body, so that it does not grow and leave what it had behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(HEADER_BYTES + BODY_BYTES_MAX + payload.len()));
        encode(&mut bytes, kind, Flags::NONE, id, message, payload);
        self.push(Chunk::Secret(bytes))
    }

    /// Puts a frame whose content is there already in `lane`.
    pub fn content(&mut self, lane: Lane, kind: Kind, flags: Flags, id: u64, content: &[u8]) -> Ticket {
        match lane {
            Lane::Small if content.len() < LARGE_FRAME_BYTES => {
                self.make_room();
                let ticket = Ticket { lane, start: self.small_written + self.small_bytes() as u64 };
                encode_parts(&mut self.small, kind, flags, id, content, &[]);
                ticket
            }
            // Tiny ones share their memory, or it would be several times theirs.
            Lane::Small | Lane::Bulk => {
                let room = SHARED_BYTES.saturating_sub(HEADER_BYTES + content.len());
                let ticket = self.bulk_ticket();
                if let Some(Chunk::Bytes(last)) = self.bulk.back_mut()
                    && last.len() <= room
                {
                    let before = last.len();
                    encode_parts(last, kind, flags, id, content, &[]);
                    self.bulk_bytes += last.len() - before;
                    return ticket;
                }
                let mut bytes = Vec::with_capacity(HEADER_BYTES + content.len());
                encode_parts(&mut bytes, kind, flags, id, content, &[]);
                self.push(Chunk::Bytes(bytes))
            }
        }
    }

    /// Puts a whole frame in the bulk lane.
    pub fn frame(&mut self, frame: OwnedFrame) -> Ticket {
        self.push(Chunk::Frame(frame))
    }

    fn push(&mut self, chunk: Chunk) -> Ticket {
        let ticket = self.bulk_ticket();
        debug_assert!(Header::read(chunk.bytes().first_chunk().expect("a frame has a header")).len > 0);
        self.bulk_bytes += chunk.bytes().len();
        self.bulk.push_back(chunk);
        ticket
    }

    fn bulk_ticket(&self) -> Ticket {
        Ticket { lane: Lane::Bulk, start: self.bulk_written + (self.bulk_bytes + self.bulk_done) as u64 }
    }

    /// Whether any byte of that frame may have reached the other end.
    #[must_use]
    pub fn has_begun(&self, ticket: Ticket) -> bool {
        match ticket.lane {
            Lane::Small => ticket.start < self.small_written,
            Lane::Bulk => ticket.start < self.bulk_written + self.bulk_done as u64,
        }
    }

    /// Writes until all has left (`Ready`) or the other end takes no more (`Pending`).
    ///
    /// # Errors
    /// What the descriptor says; nothing further will leave then.
    pub fn poll_flush<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, io: &mut W) -> Poll<io::Result<()>> {
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let mut used = 0;
            let mut chunks = self.bulk.iter();
            if self.bulk_done > 0 {
                let first = chunks.next().expect("a chunk that has begun is still there");
                slices[0] = IoSlice::new(&first.bytes()[self.bulk_done..]);
                used = 1;
            }
            if self.small_bytes() > 0 {
                slices[used] = IoSlice::new(&self.small[self.small_done..]);
                used += 1;
            }
            for chunk in chunks.take(SLICES_MAX - used) {
                slices[used] = IoSlice::new(chunk.bytes());
                used += 1;
            }
            let written = if used == 1 {
                ready!(Pin::new(&mut *io).poll_write(cx, &slices[0]))?
            } else {
                ready!(Pin::new(&mut *io).poll_write_vectored(cx, &slices[..used]))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.advance(written);
        }
        Poll::Ready(Ok(()))
    }

    /// Takes `written` bytes off, in the order in which `poll_flush` offered them.
    fn advance(&mut self, mut written: usize) {
        if self.bulk_done > 0 {
            written -= self.advance_bulk(written);
            if self.bulk_done > 0 {
                return;
            }
        }
        let small = written.min(self.small_bytes());
        self.small_done += small;
        self.small_written += small as u64;
        written -= small;
        if self.small_done == self.small.len() {
            self.small.clear();
            self.small_done = 0;
            if IDLE_CAPACITY < self.small.capacity() {
                self.small = Vec::new();
            }
        }
        while written > 0 {
            written -= self.advance_bulk(written);
        }
    }

    /// Takes at most the first chunk off, and says how much of `written` that was.
    fn advance_bulk(&mut self, written: usize) -> usize {
        let Some(first) = self.bulk.front() else { return written };
        let length = first.bytes().len();
        let taken = written.min(length - self.bulk_done);
        self.bulk_done += taken;
        self.bulk_bytes -= taken;
        if self.bulk_done == length {
            self.bulk.pop_front();
            self.bulk_written += length as u64;
            self.bulk_done = 0;
            if self.bulk.is_empty() {
                self.bulk.shrink_to(SLICES_MAX);
            }
        }
        taken
    }

    /// Moves what is left of the small lane to its beginning once the part that has left is the larger one.
    fn make_room(&mut self) {
        if self.small_done > self.small.len() / 2 {
            self.small.drain(..self.small_done);
            self.small_done = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use palisade_protocol::{Empty, split};
    use tokio::io::AsyncReadExt;

    use super::*;

    /// Reads `bytes` and lists the ids of the frames in them.
    fn ids(mut bytes: &[u8]) -> Vec<u64> {
        let mut ids = Vec::new();
        while let Some((frame, rest)) = split(bytes, 1 << 20).unwrap() {
            ids.push(frame.header.id);
            bytes = rest;
        }
        assert!(bytes.is_empty(), "frames are whole");
        ids
    }

    #[tokio::test]
    async fn a_small_frame_overtakes_bulk_data_but_not_the_frame_under_way() {
        let (mut near, mut far) = tokio::io::duplex(1_000);
        let mut outbox = Outbox::default();
        for id in [2, 4] {
            outbox.content(Lane::Bulk, Kind::StreamData, Flags::NONE, id, &[&[0x80_u8][..], &[0; 3_000]].concat());
        }
        // The first bulk frame has begun when the small one arrives.
        assert!(poll_fn(|cx| Poll::Ready(outbox.poll_flush(cx, &mut near))).await.is_pending());
        let ticket = outbox.message(Kind::Cancel, Flags::NONE, 6, &Empty {}, &[]);
        assert!(!outbox.has_begun(ticket));
        let writer = tokio::spawn(async move {
            poll_fn(|cx| outbox.poll_flush(cx, &mut near)).await.unwrap();
            assert!(outbox.is_empty());
            assert_eq!(outbox.bytes(), 0);
            assert!(outbox.has_begun(ticket));
        });
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.unwrap();
        writer.await.unwrap();
        assert_eq!(ids(&bytes), [2, 6, 4]);
        assert_eq!(bytes.len(), 2 * (HEADER_BYTES + 3_001) + HEADER_BYTES + 1);
    }

    #[tokio::test]
    async fn tiny_bulk_frames_share_their_memory_and_their_order_stays() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut near = near;
        let mut outbox = Outbox::default();
        let tickets: Vec<_> =
            (0..10_000).map(|id| outbox.content(Lane::Bulk, Kind::StreamData, Flags::NONE, id, &[0x80])).collect();
        let frame_bytes = HEADER_BYTES + 1;
        assert_eq!(outbox.bytes(), 10_000 * frame_bytes);
        assert!(outbox.bulk.len() <= 10_000 * frame_bytes / (SHARED_BYTES - frame_bytes) + 1, "{}", outbox.bulk.len());
        assert!(!outbox.has_begun(tickets[0]));
        poll_fn(|cx| outbox.poll_flush(cx, &mut near)).await.unwrap();
        assert!(outbox.has_begun(tickets[9_999]) && outbox.is_empty());
        drop(near);
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(ids(&bytes), (0..10_000).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_secret_has_memory_of_its_own() {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let mut outbox = Outbox::default();
        outbox.content(Lane::Bulk, Kind::StreamData, Flags::NONE, 2, &[0x80]);
        let ticket = outbox.secret_message(Kind::HostOk, 1, &Empty {}, b"\xa3key");
        outbox.content(Lane::Bulk, Kind::StreamData, Flags::NONE, 4, &[0x80]);
        outbox.message(Kind::Ping, Flags::NONE, 6, &Empty {}, &[]);
        assert!(matches!(&outbox.bulk[1], Chunk::Secret(bytes) if bytes.ends_with(b"key")), "{:?}", outbox.bulk);
        assert!(outbox.bulk.len() == 3 && !outbox.has_begun(ticket));
        poll_fn(|cx| outbox.poll_flush(cx, &mut near)).await.unwrap();
        assert!(outbox.has_begun(ticket) && outbox.is_empty());
        drop(near);
        let mut bytes = Vec::new();
        far.read_to_end(&mut bytes).await.unwrap();
        assert_eq!(ids(&bytes), [6, 2, 1, 4]);
    }

    #[tokio::test]
    async fn a_ticket_tells_whether_a_frame_has_begun_in_either_lane() {
        let (mut near, far) = tokio::io::duplex(20);
        let mut outbox = Outbox::default();
        let first = outbox.message(Kind::Ping, Flags::NONE, 2, &Empty {}, &[]);
        let second = outbox.message(Kind::Ping, Flags::NONE, 4, &Empty {}, &[]);
        let third = outbox.message(Kind::Ping, Flags::NONE, 6, &Empty {}, &[]);
        let bulk = outbox.content(Lane::Bulk, Kind::StreamData, Flags::NONE, 8, &[0x80]);
        assert!(![first, second, third, bulk].into_iter().any(|ticket| outbox.has_begun(ticket)));
        assert!(poll_fn(|cx| Poll::Ready(outbox.poll_flush(cx, &mut near))).await.is_pending());
        assert_eq!([first, second, third, bulk].map(|ticket| outbox.has_begun(ticket)), [true, true, false, false]);
        drop(far);
    }
}
