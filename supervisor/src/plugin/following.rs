//! What a caller sent after its call and no generation has taken yet: frames, in their order.
//!
//! Small frames stand together in few pieces of memory, each behind four bytes or so that say what it is. A caller may have a
//! mebibyte of data waiting, and may send it a byte at a time: were each of those frames an object of its own, they would take a
//! hundred times what the credit allows.

use std::collections::VecDeque;

use palisade_protocol::{Flags, Kind};

use crate::wire::OwnedFrame;

/// No piece is begun anew while the last one has less than this in it.
const PIECE_BYTES: usize = 64 << 10;

/// Kind, flags, and three bytes of length: no frame is longer than that can say.
const HEAD_BYTES: usize = 5;

/// Something the caller sent after the call itself.
#[derive(Debug)]
pub enum Follow<'a> {
    /// A small frame: its kind, flags, and content.
    Small(Kind, Flags, &'a [u8]),
    /// A large one.
    Large(OwnedFrame),
}

impl Follow<'_> {
    /// What kind of frame it is, if it is one that we know.
    #[must_use]
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Small(kind, ..) => Some(*kind),
            Self::Large(frame) => Kind::from_number(frame.header().kind),
        }
    }

    /// The length of its content.
    #[must_use]
    pub fn content_bytes(&self) -> usize {
        match self {
            Self::Small(_, _, content) => content.len(),
            Self::Large(frame) => frame.content().len(),
        }
    }
}

/// Frames that wait, oldest first.
#[derive(Debug, Default)]
pub struct Following {
    pieces: VecDeque<Piece>,
}

#[derive(Debug)]
enum Piece {
    /// Small frames, one behind the other.
    Small(Vec<u8>),
    Large(OwnedFrame),
}

impl Following {
    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Puts one behind the others.
    pub fn push(&mut self, follow: Follow<'_>) {
        match follow {
            Follow::Large(frame) => self.pieces.push_back(Piece::Large(frame)),
            Follow::Small(kind, flags, content) => {
                let room = match self.pieces.back() {
                    Some(Piece::Small(piece)) if piece.len() < PIECE_BYTES => None,
                    // It does not look as if this were the last.
                    Some(Piece::Small(_)) => Some(PIECE_BYTES + HEAD_BYTES + content.len()),
                    Some(Piece::Large(_)) | None => Some(HEAD_BYTES + content.len()),
                };
                if let Some(room) = room {
                    self.pieces.push_back(Piece::Small(Vec::with_capacity(room)));
                }
                if let Some(Piece::Small(piece)) = self.pieces.back_mut() {
                    let [a, b, c, _] = u32::try_from(content.len()).unwrap_or(u32::MAX).to_le_bytes();
                    piece.extend_from_slice(&[kind as u8, flags.0, a, b, c]);
                    piece.extend_from_slice(content);
                }
            }
        }
    }

    /// Takes the oldest out, about as many bytes as `wanted` or all that there are.
    #[must_use]
    pub fn take(&mut self, wanted: usize) -> Self {
        let (mut count, mut taken) = (0, 0);
        while let Some(piece) = self.pieces.get(count)
            && taken < wanted
        {
            taken += piece.bytes();
            count += 1;
        }
        if count == self.pieces.len() {
            return std::mem::take(self);
        }
        Self { pieces: self.pieces.drain(..count).collect() }
    }

    /// Each of them, oldest first, until `each` wants no more.
    pub fn for_each_while(self, mut each: impl FnMut(Follow<'_>) -> bool) {
        for piece in self.pieces {
            match piece {
                Piece::Large(frame) => {
                    if !each(Follow::Large(frame)) {
                        return;
                    }
                }
                Piece::Small(bytes) => {
                    let mut rest = &bytes[..];
                    while let Some(([kind, flags, a, b, c], after)) = rest.split_first_chunk::<HEAD_BYTES>() {
                        let length = u32::from_le_bytes([*a, *b, *c, 0]) as usize;
                        let (content, after) = after.split_at(length);
                        let kind = Kind::from_number(*kind).expect("it was the number of a kind");
                        if !each(Follow::Small(kind, Flags(*flags), content)) {
                            return;
                        }
                        rest = after;
                    }
                }
            }
        }
    }

    /// How much memory they take.
    #[cfg(test)]
    pub(super) fn memory_bytes(&self) -> usize {
        let pieces = self.pieces.iter().map(|piece| match piece {
            Piece::Small(bytes) => bytes.capacity(),
            Piece::Large(frame) => frame.bytes().len(),
        });
        pieces.sum::<usize>() + self.pieces.capacity() * size_of::<Piece>()
    }
}

impl Piece {
    fn bytes(&self) -> usize {
        match self {
            Self::Small(bytes) => bytes.len(),
            Self::Large(frame) => frame.bytes().len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contents(following: Following) -> Vec<(Kind, Flags, Vec<u8>)> {
        let mut all = Vec::new();
        following.for_each_while(|follow| {
            if let Follow::Small(kind, flags, content) = follow {
                all.push((kind, flags, content.to_vec()));
            }
            true
        });
        all
    }

    #[test]
    fn frames_come_out_as_they_went_in_however_many_are_taken_at_once() {
        let frames: Vec<_> = (0..5_000_usize)
            .map(|n| {
                let kind = [Kind::StreamData, Kind::Continue, Kind::StreamEnd][n % 3];
                let flags = if n % 2 == 0 { Flags::MORE } else { Flags::NONE };
                (kind, flags, vec![n as u8; n * 7 % 300])
            })
            .collect();
        for wanted in [1, 1_000, PIECE_BYTES, PIECE_BYTES + 1, usize::MAX] {
            let mut following = Following::default();
            for (kind, flags, content) in &frames {
                following.push(Follow::Small(*kind, *flags, content));
            }
            let mut all = Vec::new();
            while !following.is_empty() {
                let taken = following.take(wanted);
                assert!(!taken.is_empty());
                all.extend(contents(taken));
            }
            assert!(all == frames, "{wanted}");
        }
        let mut following = Following::default();
        following.push(Follow::Small(Kind::StreamEnd, Flags::NONE, &[0x80]));
        assert!(following.take(0).is_empty() && !following.is_empty());
    }

    #[test]
    fn a_mebibyte_that_comes_a_byte_at_a_time_takes_less_than_seven() {
        let mut following = Following::default();
        for _ in 0..1 << 20 {
            following.push(Follow::Small(Kind::StreamData, Flags::NONE, &[0x80]));
        }
        assert!(following.memory_bytes() <= 7 << 20, "{}", following.memory_bytes());
    }
}
