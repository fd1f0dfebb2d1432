//! From bytes to frames.
//!
//! Small frames are read many at a time into a buffer that all readers of a thread share, and looked at where they lie. A large
//! one is read straight into a buffer of its own, so that nothing of it is copied. A reader at rest holds no memory.

use std::cell::{Cell, RefCell};
use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use palisade_protocol::{FRAME_BYTES_MAX, Frame, FrameError, HEADER_BYTES, Header, split};
use tokio::io::{AsyncRead, ReadBuf};
use zeroize::Zeroize;

use super::LARGE_FRAME_BYTES;
use super::pool::OwnedFrame;

/// As much as a pipe holds by default.
const SCRATCH_BYTES: usize = 64 << 10;

/// How much is read while large frames pass: the next header and a short body, so that the rest goes where it belongs.
const PEEK_BYTES: usize = HEADER_BYTES + 16;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice());
    /// Whether what lies there is wiped once the frames in it have been looked at.
    static WIPE: Cell<bool> = const { Cell::new(false) };
}

/// Has everything wiped that was read together with the small frame that is being looked at, as that has a secret in it.
pub fn wipe_what_was_read() {
    WIPE.set(true);
}

/// What one read brought; to be handed to [`Reader::frames`] before anything else is awaited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Filled {
    /// That many bytes in the shared buffer.
    Scratch(usize),
    /// More of the large frame.
    Large(usize),
    /// The other end has closed.
    End,
}

/// A frame, and in which form it is there.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// In a shared buffer: copy what is to be kept.
    Small(Frame<'a>),
    /// In a buffer of its own.
    Large(OwnedFrame),
}

#[derive(Debug)]
struct Large {
    frame: OwnedFrame,
    filled: usize,
}

/// Turns what arrives on one descriptor into frames.
#[derive(Debug)]
pub struct Reader {
    partial: Vec<u8>,
    large: Option<Large>,
    /// Whether the last frame was a large one: then the next probably is.
    bulk: bool,
    frame_bytes_max: u32,
}

impl Default for Reader {
    fn default() -> Self {
        Self { partial: Vec::new(), large: None, bulk: false, frame_bytes_max: FRAME_BYTES_MAX }
    }
}

impl Reader {
    /// Reads once. The answer must go to [`Reader::frames`] in the same poll of the task: the buffer belongs to all readers
    /// of the thread.
    pub fn poll_fill<R: AsyncRead + Unpin>(&mut self, cx: &mut Context<'_>, io: &mut R) -> Poll<io::Result<Filled>> {
        if let Some(large) = &mut self.large {
            let mut room = ReadBuf::new(&mut large.frame.bytes_mut()[large.filled..]);
            ready!(Pin::new(io).poll_read(cx, &mut room))?;
            let filled = room.filled().len();
            return Poll::Ready(Ok(if filled == 0 { Filled::End } else { Filled::Large(filled) }));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let limit = if self.bulk && self.partial.is_empty() { PEEK_BYTES } else { SCRATCH_BYTES };
            let mut room = ReadBuf::new(&mut scratch[..limit]);
            ready!(Pin::new(io).poll_read(cx, &mut room))?;
            let filled = room.filled().len();
            Poll::Ready(Ok(if filled == 0 { Filled::End } else { Filled::Scratch(filled) }))
        })
    }

    /// Hands out the frames that `filled` completed, until `each` breaks.
    ///
    /// # Errors
    /// [`FrameError`] when what came cannot be a frame; the reader is of no use after that.
    pub fn frames<B>(
        &mut self,
        filled: Filled,
        mut each: impl FnMut(Incoming<'_>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, FrameError> {
        match filled {
            Filled::End => Ok(ControlFlow::Continue(())),
            Filled::Large(bytes) => {
                let Some(mut large) = self.large.take() else { return Ok(ControlFlow::Continue(())) };
                large.filled += bytes;
                if large.filled < large.frame.bytes().len() {
                    self.large = Some(large);
                    return Ok(ControlFlow::Continue(()));
                }
                self.bulk = true;
                Ok(each(Incoming::Large(large.frame)))
            }
            Filled::Scratch(bytes) => {
                let taken = SCRATCH.with_borrow(|scratch| self.scratch_frames(&scratch[..bytes], &mut each));
                if WIPE.take() {
                    SCRATCH.with_borrow_mut(|scratch| scratch[..bytes].zeroize());
                }
                taken
            }
        }
    }

    /// Whether the input ended in the middle of a frame.
    #[must_use]
    pub fn is_mid_frame(&self) -> bool {
        !self.partial.is_empty() || self.large.is_some()
    }

    fn scratch_frames<B>(
        &mut self,
        arrived: &[u8],
        each: &mut impl FnMut(Incoming<'_>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, FrameError> {
        if self.partial.is_empty() {
            return self.whole_frames(arrived, each);
        }
        let mut partial = std::mem::take(&mut self.partial);
        let mut joined = [&partial, arrived].concat();
        let taken = self.whole_frames(&joined, each);
        if WIPE.get() {
            partial.zeroize();
            joined.zeroize();
        }
        taken
    }

    fn whole_frames<B>(
        &mut self,
        mut rest: &[u8],
        each: &mut impl FnMut(Incoming<'_>) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, FrameError> {
        while let Some((frame, after)) = split(rest, self.frame_bytes_max)? {
            rest = after;
            self.bulk = false;
            if let ControlFlow::Break(value) = each(Incoming::Small(frame)) {
                return Ok(ControlFlow::Break(value));
            }
        }
        match rest.first_chunk().map(Header::read) {
            Some(header) if header.len as usize >= LARGE_FRAME_BYTES => {
                let mut frame = OwnedFrame::with_header(header);
                frame.bytes_mut()[..rest.len()].copy_from_slice(rest);
                self.large = Some(Large { frame, filled: rest.len() });
            }
            _ => self.partial = rest.to_vec(),
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use palisade_protocol::{Empty, Flags, Kind, encode};
    use tokio::io::AsyncWriteExt;

    use super::*;

    async fn read_all(mut reader: Reader, bytes: Vec<u8>, piece: usize) -> Result<Vec<(u64, usize)>, FrameError> {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        let writer = tokio::spawn(async move {
            for piece in bytes.chunks(piece) {
                near.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut seen = Vec::new();
        loop {
            let filled = poll_fn(|cx| reader.poll_fill(cx, &mut far)).await.unwrap();
            let step = reader.frames(filled, |frame| {
                seen.push(match frame {
                    Incoming::Small(frame) => (frame.header.id, frame.content.len()),
                    Incoming::Large(frame) => (frame.header().id, frame.content().len()),
                });
                ControlFlow::<()>::Continue(())
            });
            if let Err(error) = step {
                writer.abort();
                return Err(error);
            }
            if filled == Filled::End {
                assert!(!reader.is_mid_frame());
                writer.await.unwrap();
                return Ok(seen);
            }
        }
    }

    #[tokio::test]
    async fn frames_of_every_size_come_out_whole_however_they_are_cut() {
        let mut bytes = Vec::new();
        let sizes =
            [0, 1, 100, LARGE_FRAME_BYTES - 2, LARGE_FRAME_BYTES - 1, LARGE_FRAME_BYTES, 131_072, 131_072, 900_000, 3];
        for (id, size) in sizes.iter().enumerate() {
            encode(&mut bytes, Kind::StreamData, Flags::NONE, id as u64, &Empty {}, &vec![7; *size]);
        }
        let expected: Vec<_> = sizes.iter().enumerate().map(|(id, size)| (id as u64, size + 1)).collect();
        for piece in [15, 16, 17, 33, 1_000, 65_536, 1 << 20] {
            assert_eq!(read_all(Reader::default(), bytes.clone(), piece).await.unwrap(), expected, "pieces of {piece}");
        }
    }

    /// Of a frame with a secret nothing is left in the buffer that all readers share, however it was cut.
    #[tokio::test]
    async fn what_was_read_is_wiped_where_that_is_asked_for() {
        let mut bytes = Vec::new();
        for id in 0..3 {
            encode(&mut bytes, Kind::StreamData, Flags::NONE, id, &Empty {}, &[b's'; 1_000]);
        }
        for (piece, wiped) in [(bytes.len(), true), (1_500, true), (bytes.len(), false)] {
            let (mut near, mut far) = tokio::io::duplex(1 << 20);
            let mut reader = Reader::default();
            let mut seen = 0;
            for piece in bytes.chunks(piece) {
                near.write_all(piece).await.unwrap();
                let filled = poll_fn(|cx| reader.poll_fill(cx, &mut far)).await.unwrap();
                let taken = reader.frames(filled, |frame| {
                    let Incoming::Small(frame) = frame else { panic!("they are small") };
                    assert!(frame.content[1..].iter().all(|byte| *byte == b's'));
                    seen += 1;
                    if wiped {
                        wipe_what_was_read();
                    }
                    ControlFlow::<()>::Continue(())
                });
                assert!(taken.unwrap().is_continue());
            }
            assert_eq!(seen, 3);
            assert_eq!(SCRATCH.with_borrow(|scratch| !scratch.contains(&b's')), wiped, "pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn a_length_beyond_the_limit_is_refused_at_the_header() {
        let header = Header { len: FRAME_BYTES_MAX + 1, kind: 0x21, flags: Flags::NONE, id: 1 }.bytes().to_vec();
        let error = read_all(Reader::default(), header, 4).await.unwrap_err();
        assert_eq!(error, FrameError::TooLong { len: FRAME_BYTES_MAX + 1, limit: FRAME_BYTES_MAX });
    }
}
