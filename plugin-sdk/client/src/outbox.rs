//! What waits to be written, in two lanes, without I/O.
//!
//! Small frames (calls, cancels, credit, pings) overtake the pieces of streams and long payloads. A frame that the socket took
//! in part is always finished before another begins. Pieces are never copied: they share the caller's memory until they are
//! written.
//!
//! Bounds: the first lane holds at most one call frame per permitted call, and the few small frames that each may have; the second is
//! filled only while it is below [`BULK_BYTES_MAX`].

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::Bytes;
use palisade_protocol::{Flags, HEADER_BYTES, Header, Kind};
use zeroize::Zeroize;

/// Pieces are added while less than this waits: four of them, enough to keep a socket busy while their senders are woken.
pub(crate) const BULK_BYTES_MAX: usize = 512 << 10;

/// So much of the first lane's memory is kept for the next frames.
const CONTROL_BYTES_KEPT: usize = 256 << 10;

/// No frame of the first lane but a call is longer.
const SMALL_BYTES: usize = 4 << 10;

/// So many slices go into one system call.
pub(crate) const SLICES_MAX: usize = 32;

/// One frame of the second lane.
#[derive(Debug)]
struct Piece {
    id: u64,
    kind: Kind,
    /// The header, and the body where it is the empty map.
    head: [u8; HEADER_BYTES + 1],
    head_bytes: usize,
    rest: Bytes,
}

impl Piece {
    fn len(&self) -> usize {
        self.head_bytes + self.rest.len()
    }
}

/// Both lanes.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    control: Vec<u8>,
    control_start: usize,
    /// Something in the first lane is wiped once it has left.
    secret: bool,
    /// How many bytes of the first lane the socket ever took.
    control_taken: u64,
    bulk: VecDeque<Piece>,
    /// How much of the first piece the socket took.
    bulk_start: usize,
    bulk_bytes: usize,
}

impl Outbox {
    /// The first lane, to append whole frames to, each of at most [`SMALL_BYTES`].
    pub(crate) fn control(&mut self) -> &mut Vec<u8> {
        self.control_with_room(SMALL_BYTES)
    }

    /// The first lane, to append a frame of so many bytes at most to.
    pub(crate) fn control_with_room(&mut self, bytes: usize) -> &mut Vec<u8> {
        if self.secret && self.control.capacity() - self.control.len() < bytes {
            // Memory that grows by itself leaves what it had behind.
            let mut larger = Vec::with_capacity((self.control.len() + bytes).max(2 * self.control.capacity()));
            larger.extend_from_slice(&self.control);
            self.control.zeroize();
            self.control = larger;
        }
        &mut self.control
    }

    /// The same for a frame of which nothing is to be left once it has been written.
    pub(crate) fn control_for_secret(&mut self, bytes: usize) -> &mut Vec<u8> {
        self.secret = true;
        self.control_with_room(bytes)
    }

    /// Where the next frame of the first lane begins, counted since the connection began.
    pub(crate) fn control_end(&self) -> u64 {
        self.control_taken + (self.control.len() - self.control_start) as u64
    }

    /// Whether the socket took any of what begins at `position` of the first lane.
    pub(crate) fn has_begun(&self, position: u64) -> bool {
        position < self.control_taken
    }

    /// Appends a piece of a stream or payload to the second lane; its body is the empty map.
    pub(crate) fn push_piece(&mut self, kind: Kind, flags: Flags, id: u64, payload: Bytes) {
        let len = u32::try_from(payload.len() + 1).expect("a piece is shorter than a frame");
        let mut head = [0x80; HEADER_BYTES + 1];
        head[..HEADER_BYTES].copy_from_slice(&Header { len, kind: kind as u8, flags, id }.bytes());
        self.push(Piece { id, kind, head, head_bytes: HEADER_BYTES + 1, rest: payload });
    }

    /// Appends a frame that must not overtake the pieces before it.
    pub(crate) fn push_behind_pieces(&mut self, id: u64, kind: Kind, frame: Vec<u8>) {
        self.push(Piece { id, kind, head: [0; HEADER_BYTES + 1], head_bytes: 0, rest: frame.into() });
    }

    fn push(&mut self, piece: Piece) {
        self.bulk_bytes += piece.len();
        self.bulk.push_back(piece);
    }

    /// Forgets what waits in the second lane for a call, of one kind or of every kind, except a frame that was begun.
    pub(crate) fn forget_pieces(&mut self, id: u64, kind: Option<Kind>) {
        let begun = usize::from(self.bulk_start > 0);
        let mut index = 0;
        let mut forgotten = 0;
        self.bulk.retain(|piece| {
            let keep = index < begun || piece.id != id || kind.is_some_and(|kind| kind != piece.kind);
            index += 1;
            if !keep {
                forgotten += piece.len();
            }
            keep
        });
        self.bulk_bytes -= forgotten;
    }

    pub(crate) fn has_room_for_pieces(&self) -> bool {
        self.bulk_bytes < BULK_BYTES_MAX
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.control.len() == self.control_start && self.bulk.is_empty()
    }

    /// What to write next, in its order; how many of the slices are used.
    pub(crate) fn slices<'a>(&'a self, slices: &mut [IoSlice<'a>; SLICES_MAX]) -> usize {
        let mut used = 0;
        let mut add = |bytes: &'a [u8]| {
            if !bytes.is_empty() && used < SLICES_MAX {
                slices[used] = IoSlice::new(bytes);
                used += 1;
            }
        };
        let mut pieces = self.bulk.iter();
        if self.bulk_start > 0
            && let Some(piece) = pieces.next()
        {
            add(&piece.head[..piece.head_bytes][self.bulk_start.min(piece.head_bytes)..]);
            add(&piece.rest[self.bulk_start.saturating_sub(piece.head_bytes)..]);
        }
        add(&self.control[self.control_start..]);
        for piece in pieces.take(SLICES_MAX / 2) {
            add(&piece.head[..piece.head_bytes]);
            add(&piece.rest);
        }
        used
    }

    /// Notes that the socket took `count` bytes of what [`Outbox::slices`] offered.
    pub(crate) fn advance(&mut self, mut count: usize) {
        if self.bulk_start > 0 {
            count = self.advance_bulk(count);
        }
        let control = count.min(self.control.len() - self.control_start);
        self.control_start += control;
        self.control_taken += control as u64;
        count -= control;
        if self.control_start == self.control.len() {
            self.control_start = 0;
            if std::mem::take(&mut self.secret) {
                self.control.zeroize();
            }
            self.control.clear();
            self.control.shrink_to(CONTROL_BYTES_KEPT);
        }
        while count > 0 && !self.bulk.is_empty() {
            count = self.advance_bulk(count);
        }
    }

    /// Takes bytes off the first piece; what is left belongs to what follows it.
    fn advance_bulk(&mut self, count: usize) -> usize {
        let Some(piece) = self.bulk.front() else { return count };
        let left = piece.len() - self.bulk_start;
        if count < left {
            self.bulk_start += count;
            return 0;
        }
        self.bulk_bytes -= piece.len();
        self.bulk_start = 0;
        self.bulk.pop_front();
        count - left
    }

    /// Gives all memory back; nothing will be written any more.
    pub(crate) fn clear(&mut self) {
        if std::mem::take(&mut self.secret) {
            self.control.zeroize();
        }
        self.control = Vec::new();
        self.control_start = 0;
        self.bulk = VecDeque::new();
        self.bulk_start = 0;
        self.bulk_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use palisade_protocol::{Decoder, Empty, encode};
    use proptest::prelude::*;

    use super::*;

    /// Lets the socket take at most `most` bytes.
    fn write(outbox: &mut Outbox, most: usize) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let used = outbox.slices(&mut slices);
        let mut taken: Vec<u8> = slices[..used].iter().flat_map(|slice| slice.iter().copied()).collect();
        taken.truncate(most);
        outbox.advance(taken.len());
        taken
    }

    #[test]
    fn small_frames_overtake_pieces_but_never_cut_into_one() {
        let mut outbox = Outbox::default();
        outbox.push_piece(Kind::StreamData, Flags::NONE, 1, Bytes::from_static(b"first"));
        outbox.push_piece(Kind::StreamData, Flags::NONE, 1, Bytes::from_static(b"second"));
        let mut wire = write(&mut outbox, 3);
        encode(outbox.control(), Kind::Cancel, Flags::NONE, 3, &Empty {}, &[]);
        while !outbox.is_empty() {
            wire.extend(write(&mut outbox, 4));
        }
        let mut decoder = Decoder::default();
        decoder.push(&wire);
        let mut kinds = vec![];
        while let Some(frame) = decoder.next_frame().unwrap() {
            kinds.push((frame.kind().unwrap().unwrap(), frame.header.id, frame.content[1..].to_vec()));
        }
        assert_eq!(
            kinds,
            [
                (Kind::StreamData, 1, b"first".to_vec()),
                (Kind::Cancel, 3, vec![]),
                (Kind::StreamData, 1, b"second".to_vec())
            ]
        );
    }

    proptest! {
        /// However the socket cuts what it takes, whole frames come out, each lane in its order, and all counts return to nothing.
        #[test]
        fn any_cut_leaves_whole_frames_in_order(steps in prop::collection::vec((0..3_u8, 0..200_usize), 1..60)) {
            let mut outbox = Outbox::default();
            let mut wire = vec![];
            let (mut control, mut bulk) = (0_u64, 0_u64);
            for (step, size) in steps {
                match step {
                    0 => {
                        encode(outbox.control(), Kind::Cancel, Flags::NONE, control * 2, &Empty {}, &[]);
                        control += 1;
                    }
                    1 => {
                        outbox.push_piece(Kind::StreamData, Flags::NONE, bulk * 2 + 1, vec![7; size].into());
                        bulk += 1;
                    }
                    _ => wire.extend(write(&mut outbox, size)),
                }
            }
            while !outbox.is_empty() {
                wire.extend(write(&mut outbox, 37));
            }
            prop_assert_eq!(outbox.bulk_bytes, 0);
            prop_assert_eq!(outbox.control_end(), outbox.control_taken);
            let mut decoder = Decoder::default();
            decoder.push(&wire);
            let (mut next_control, mut next_bulk) = (0, 0);
            while let Some(frame) = decoder.next_frame().unwrap() {
                if frame.kind().unwrap() == Some(Kind::Cancel) {
                    prop_assert_eq!(frame.header.id, next_control * 2);
                    next_control += 1;
                } else {
                    prop_assert_eq!(frame.header.id, next_bulk * 2 + 1);
                    next_bulk += 1;
                }
            }
            prop_assert!(!decoder.is_mid_frame());
            prop_assert_eq!((next_control, next_bulk), (control, bulk));
        }
    }

    #[test]
    fn forgetting_spares_a_piece_that_was_begun() {
        let mut outbox = Outbox::default();
        for id in [1, 3, 1] {
            outbox.push_piece(Kind::StreamData, Flags::NONE, id, Bytes::from_static(b"abc"));
        }
        let mut wire = write(&mut outbox, 5);
        outbox.forget_pieces(1, Some(Kind::Continue));
        assert_eq!(outbox.bulk_bytes, 60);
        outbox.forget_pieces(1, None);
        assert_eq!(outbox.bulk_bytes, 40);
        while !outbox.is_empty() {
            wire.extend(write(&mut outbox, 100));
        }
        let mut decoder = Decoder::default();
        decoder.push(&wire);
        let mut ids = vec![];
        while let Some(frame) = decoder.next_frame().unwrap() {
            ids.push(frame.header.id);
        }
        assert_eq!((ids, decoder.is_mid_frame(), outbox.bulk_bytes), (vec![1, 3], false, 0));
    }
}
