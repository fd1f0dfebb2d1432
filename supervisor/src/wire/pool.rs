//! Buffers for large frames. Fresh memory costs a page fault per 4 KiB, which is most of the cost of a large payload; so buffers
//! are kept, within a bound, and used again.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use palisade_protocol::{Flags, HEADER_BYTES, Header, Kind, PIECE_BYTES};
use zeroize::Zeroize;

/// Large enough for one piece as our own senders cut them, with header and body.
const PIECE_CAPACITY: usize = PIECE_BYTES + 256;

/// At most that many buffers are kept: 2 MiB in all.
const KEPT_MAX: usize = 16;

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Initialised memory of a fixed length, given back when dropped.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    /// Wiped before anybody else has it.
    secret: AtomicBool,
}

impl Buffer {
    fn new(len: usize) -> Self {
        if len > PIECE_CAPACITY {
            return Self { bytes: vec![0; len], len, secret: AtomicBool::new(false) };
        }
        let kept = KEPT.lock().expect("nothing panics while it holds the pool").pop();
        let bytes = kept.unwrap_or_else(|| vec![0; PIECE_CAPACITY]);
        Self { bytes, len, secret: AtomicBool::new(false) }
    }

    /// What it holds.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if *self.secret.get_mut() {
            self.bytes[..self.len].zeroize();
        }
        if self.bytes.len() == PIECE_CAPACITY {
            let mut kept = KEPT.lock().expect("nothing panics while it holds the pool");
            if kept.len() < KEPT_MAX {
                kept.push(std::mem::take(&mut self.bytes));
            }
        }
    }
}

/// A whole frame, header included, in a buffer of its own.
#[derive(Debug)]
pub struct OwnedFrame {
    buffer: Buffer,
}

impl OwnedFrame {
    /// Room for the frame that `header` announces. The caller has checked the length.
    pub(super) fn with_header(header: Header) -> Self {
        let mut buffer = Buffer::new(HEADER_BYTES + header.len as usize);
        buffer.bytes_mut()[..HEADER_BYTES].copy_from_slice(&header.bytes());
        Self { buffer }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.buffer.bytes_mut()
    }

    /// Header and content.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.buffer.bytes()
    }

    /// Has it wiped when it is dropped, as there is a secret in it.
    pub fn wipe_when_dropped(&self) {
        self.buffer.secret.store(true, Ordering::Relaxed);
    }

    /// Body and payload.
    #[must_use]
    pub fn content(&self) -> &[u8] {
        &self.bytes()[HEADER_BYTES..]
    }

    /// The header as it stands now.
    #[must_use]
    pub fn header(&self) -> Header {
        let bytes = self.bytes().first_chunk().expect("a frame begins with its header");
        Header::read(bytes)
    }

    /// The same content under another id: what forwarding a frame comes down to.
    #[must_use]
    pub fn readdressed(mut self, kind: Kind, flags: Flags, id: u64) -> Self {
        let header = Header { kind: kind as u8, flags, id, ..self.header() };
        self.bytes_mut()[..HEADER_BYTES].copy_from_slice(&header.bytes());
        self
    }
}
