//! Bytes that arrive, as frames.
//!
//! Many small frames are taken from one read, where they lie. A large payload is read straight into the buffer that the
//! handler will get, behind the pieces that came before; while such payloads pass, reads between them are short, so
//! that little of them lands in the wrong buffer first.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::BufMut;
use palisade_protocol::{Frame, FrameError, HEADER_BYTES, Header, Kind, ValueError, check_body, split};
use tokio::io::{AsyncRead, AsyncReadExt};
use zeroize::Zeroize;

/// How much is read at once: as much as a pipe holds.
const READ_BYTES: usize = 64 << 10;
/// How much is read at once between large payloads.
const BETWEEN_BYTES: usize = 2 << 10;
/// A payload with so many bytes outstanding is read into its own buffer.
const LARGE_BYTES: usize = 32 << 10;

/// A frame that has arrived.
pub(crate) enum Incoming<'a> {
    /// All of it lies in the read buffer.
    Whole(Kind, Frame<'a>),
    /// Its payload was read behind what `take` handed out.
    Large { kind: Kind, header: Header, body: Vec<u8>, payload: Vec<u8> },
}

pub(crate) struct Reader {
    bytes: Vec<u8>,
    start: usize,
    frame_bytes_max: u32,
    /// What is left of a frame to skip.
    skip: usize,
    large: Option<Large>,
    between: bool,
}

struct Large {
    kind: Kind,
    header: Header,
    body: Vec<u8>,
    payload: Vec<u8>,
    left: usize,
}

impl Reader {
    pub(crate) const fn new(frame_bytes_max: u32) -> Self {
        Self { bytes: Vec::new(), start: 0, frame_bytes_max, skip: 0, large: None, between: false }
    }

    pub(crate) const fn set_frame_bytes_max(&mut self, frame_bytes_max: u32) {
        self.frame_bytes_max = frame_bytes_max;
    }

    /// Whether large payloads pass.
    pub(crate) const fn is_large(&self) -> bool {
        self.large.is_some()
    }

    /// Takes the next frame, if it is there whole. `take` hands out the buffer that a large payload is to be appended
    /// to.
    pub(crate) fn next(&mut self, take: impl Fn(&Header, Kind) -> Vec<u8>) -> Result<Option<Incoming<'_>>, FrameError> {
        if let Some(large) = &self.large {
            if large.left > 0 {
                return Ok(None);
            }
            self.between = true;
            return Ok(self.large.take().map(|Large { kind, header, body, payload, .. }| Incoming::Large {
                kind,
                header,
                body,
                payload,
            }));
        }
        loop {
            let skipped = self.skip.min(self.bytes.len() - self.start);
            self.start += skipped;
            self.skip -= skipped;
            if self.skip > 0 {
                return Ok(None);
            }
            let available = &self.bytes[self.start..];
            let Some(head) = available.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
            let header = Header::read(head);
            let is_whole = split(available, self.frame_bytes_max)?.is_some();
            let length = HEADER_BYTES + header.len as usize;
            // Only the header counts for the kind; the content may not be there yet.
            let Some(kind) = (Frame { header, content: &[] }).kind()? else {
                self.skip = length;
                continue;
            };
            if is_whole {
                self.between = false;
                let content = self.start + HEADER_BYTES..self.start + length;
                self.start += length;
                return Ok(Some(Incoming::Whole(kind, Frame { header, content: &self.bytes[content] })));
            }
            if kind.has_payload() && length - available.len() >= LARGE_BYTES {
                return self.begin_large(kind, header, take).map(|()| None);
            }
            return Ok(None);
        }
    }

    fn begin_large(
        &mut self,
        kind: Kind,
        header: Header,
        take: impl Fn(&Header, Kind) -> Vec<u8>,
    ) -> Result<(), FrameError> {
        let content = &self.bytes[self.start + HEADER_BYTES..];
        let body_bytes = match check_body(content) {
            Ok(body_bytes) => body_bytes,
            // The body is not here whole; the read buffer takes more, up to a whole frame.
            Err(ValueError::Truncated { .. }) => return Ok(()),
            Err(source) => return Err(FrameError::Body { kind: kind.name(), source }),
        };
        let (body, begun) = content.split_at(body_bytes);
        let left = header.len as usize - content.len();
        let mut payload = take(&header, kind);
        payload.reserve(begun.len() + left);
        payload.extend_from_slice(begun);
        self.large = Some(Large { kind, header, body: body.to_vec(), payload, left });
        self.bytes.clear();
        self.start = 0;
        Ok(())
    }

    /// Wipes the frames that were taken, and what else was there before.
    pub(crate) fn wipe(&mut self) {
        self.bytes[..self.start].zeroize();
        // What was moved to the front stands behind as well.
        self.bytes.spare_capacity_mut().zeroize();
    }

    /// Room for so much more. What has arrived of a frame may be of a secret, so no copy of it is left behind.
    fn make_room(&mut self, wanted: usize) {
        if self.bytes.capacity() - self.bytes.len() >= wanted {
            return;
        }
        let mut larger = Vec::with_capacity((self.bytes.len() + wanted).max(2 * self.bytes.capacity()));
        larger.extend_from_slice(&self.bytes);
        self.bytes.zeroize();
        self.bytes = larger;
    }

    /// Reads what is there; 0 at the end of input. To be called when `next` has nothing more. Nothing is lost when the
    /// caller stops polling.
    pub(crate) fn poll_read<R: AsyncRead + Unpin>(
        &mut self,
        context: &mut Context<'_>,
        source: &mut R,
    ) -> Poll<io::Result<usize>> {
        if let Some(large) = &mut self.large
            && large.left > 0
        {
            let mut target = (&mut large.payload).limit(large.left);
            let read = ready!(poll_read_into(context, source, &mut target))?;
            large.left -= read;
            return Poll::Ready(Ok(read));
        }
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        let wanted = if self.between { BETWEEN_BYTES } else { READ_BYTES };
        if self.bytes.is_empty() && self.bytes.capacity() > 2 * READ_BYTES {
            self.bytes = Vec::new();
        }
        self.make_room(wanted);
        let read = ready!(poll_read_into(context, source, &mut (&mut self.bytes).limit(wanted)))?;
        if read < wanted {
            // The pipe is empty, or nearly so: what follows is another batch, of whatever size.
            self.between = false;
        }
        Poll::Ready(Ok(read))
    }
}

fn poll_read_into<R: AsyncRead + Unpin>(
    context: &mut Context<'_>,
    source: &mut R,
    target: &mut (impl BufMut + ?Sized),
) -> Poll<io::Result<usize>> {
    // The future keeps nothing between polls: what was read is in `target`.
    let mut target = target;
    let read = pin!(Pin::new(source).get_mut().read_buf(&mut target));
    read.poll(context)
}
