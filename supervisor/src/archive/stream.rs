//! What an archive is uncompressed, counted and bounded.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::GzDecoder;
use ruzstd::decoding::FrameDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};

use super::{ARCHIVE_BYTES_MAX, ArchiveError, WINDOW_BYTES_MAX};

/// With what a file compressed by gzip begins.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// And by Zstandard: a frame, or one that is to be skipped, of which the first byte has sixteen values.
const ZSTANDARD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const SKIPPABLE: [u8; 3] = [0x2a, 0x4d, 0x18];

/// What those who read for each other know together. What went wrong beneath is worth more than what is made of it above.
#[derive(Default)]
struct Shared {
    fault: RefCell<Option<ArchiveError>>,
    /// Somebody wanted more of the file than there is.
    ended: Cell<bool>,
    /// All that was compressed was read, to its proper end.
    over: Cell<bool>,
}

impl Shared {
    /// Notes that something else follows what was compressed.
    fn goes_on(&self) -> io::Error {
        self.fault.borrow_mut().get_or_insert(ArchiveError::Trailing);
        io::Error::other("something else follows")
    }
}

/// Whether these bytes, four at most, are the first of a frame, as far as they go.
fn begins_a_frame(first: &[u8]) -> bool {
    let is_skipped =
        |first: &[u8]| first.split_first().is_some_and(|(one, rest)| one & 0xf0 == 0x50 && SKIPPABLE.starts_with(rest));
    ZSTANDARD.starts_with(first) || is_skipped(first)
}

/// The archive's own bytes.
struct Input<'a> {
    file: io::Take<File>,
    go_on: &'a dyn Fn() -> bool,
    shared: Rc<Shared>,
}

impl Read for Input<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !(self.go_on)() {
            self.shared.fault.replace(Some(ArchiveError::GivenUp));
            return Err(io::Error::other("given up"));
        }
        match self.file.read(buffer) {
            Ok(count) => {
                if count == 0 && !buffer.is_empty() {
                    self.shared.ended.set(true);
                }
                Ok(count)
            }
            Err(error) => {
                self.shared.fault.replace(Some(ArchiveError::Read(io::Error::from(error.kind()))));
                Err(error)
            }
        }
    }
}

/// Bytes of which some can be looked at before they are read.
struct Ahead<R> {
    front: Vec<u8>,
    source: R,
}

impl<R: BufRead> Ahead<R> {
    /// The next so many, or as many as there are.
    fn look(&mut self, count: usize) -> io::Result<&[u8]> {
        while self.front.len() < count {
            let there = self.source.fill_buf()?;
            if there.is_empty() {
                break;
            }
            let some = there.len().min(count - self.front.len());
            self.front.extend_from_slice(&there[..some]);
            self.source.consume(some);
        }
        Ok(&self.front)
    }
}

impl<R: BufRead> Read for Ahead<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Ahead<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.front.is_empty() { self.source.fill_buf() } else { Ok(&self.front) }
    }

    fn consume(&mut self, count: usize) {
        if self.front.is_empty() {
            self.source.consume(count);
        } else {
            self.front.drain(..count);
        }
    }
}

/// Members of gzip, one after the other.
struct Members<R> {
    /// Always there, but while one follows the other.
    member: Option<GzDecoder<Ahead<R>>>,
    shared: Rc<Shared>,
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let count = member.read(buffer)?;
            if 0 < count || buffer.is_empty() {
                return Ok(count);
            }
            let first = member.get_mut().look(GZIP.len())?;
            if first.is_empty() {
                return Ok(0);
            }
            if !GZIP.starts_with(first) {
                return Err(self.shared.goes_on());
            }
            self.member = self.member.take().map(|member| GzDecoder::new(member.into_inner()));
        }
        Ok(0)
    }
}

/// Frames of Zstandard, one after the other, and what is to be skipped between them.
struct Frames<R> {
    source: Ahead<R>,
    decoder: FrameDecoder,
    within: bool,
    shared: Rc<Shared>,
}

impl<R: BufRead> Frames<R> {
    fn new(source: Ahead<R>, shared: Rc<Shared>) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        Self { source, decoder, within: false, shared }
    }

    /// Goes on to the next frame, if there is one.
    fn begin(&mut self) -> io::Result<bool> {
        loop {
            let first = self.source.look(ZSTANDARD.len())?;
            if first.is_empty() {
                return Ok(false);
            }
            if !begins_a_frame(first) {
                return Err(self.shared.goes_on());
            }
            match self.decoder.reset(&mut self.source) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                    let length = u64::from(length);
                    if io::copy(&mut (&mut self.source).take(length), &mut io::sink())? != length {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(FrameDecoderError::WindowSizeTooBig { .. }) => {
                    let most = WINDOW_BYTES_MAX >> 20;
                    return Err(io::Error::other(format!(
                        "it was compressed with a window of more than {most} MiB, which would have to be held in memory"
                    )));
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if !self.within && !self.begin()? {
                return Ok(0);
            }
            self.within = true;
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = ruzstd::decoding::BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.source, one).map_err(io::Error::other)?;
            }
            let count = self.decoder.read(buffer)?;
            if 0 < count || buffer.is_empty() {
                return Ok(count);
            }
            // All of the frame was read, so what was counted is whole.
            if let Some(said) = self.decoder.get_checksum_from_data()
                && self.decoder.get_calculated_checksum() != Some(said)
            {
                return Err(io::Error::other("its checksum is another"));
            }
            self.within = false;
        }
    }
}

/// What comes out, whatever it was compressed by.
pub(super) struct Stream<'a> {
    inner: Box<dyn Read + 'a>,
    /// So many bytes came.
    pub count: u64,
    shared: Rc<Shared>,
}

impl<'a> Stream<'a> {
    /// The archive in this file, which is at its beginning; `go_on` is asked now and then.
    pub(super) fn open(file: File, go_on: &'a dyn Fn() -> bool) -> Result<Self, ArchiveError> {
        let bytes = file.metadata().map_err(ArchiveError::Read)?.len();
        if ARCHIVE_BYTES_MAX < bytes {
            return Err(ArchiveError::TooLarge(format!("{} MiB", ARCHIVE_BYTES_MAX >> 20)));
        }
        let shared = Rc::new(Shared::default());
        let mut input = Input { file: file.take(ARCHIVE_BYTES_MAX), go_on, shared: shared.clone() };
        let mut first = Vec::new();
        let read = (&mut input).take(4).read_to_end(&mut first);
        if let Err(error) = read {
            return Err(shared.fault.take().unwrap_or(ArchiveError::Read(error)));
        }
        shared.ended.set(false);
        let kind = first.clone();
        let whole = BufReader::with_capacity(64 << 10, io::Cursor::new(first).chain(input));
        let ahead = |source| Ahead { front: Vec::new(), source };
        let inner: Box<dyn Read + 'a> = if kind.len() == ZSTANDARD.len() && begins_a_frame(&kind) {
            Box::new(Frames::new(ahead(whole), shared.clone()))
        } else if kind.starts_with(&GZIP) {
            Box::new(Members { member: Some(GzDecoder::new(ahead(whole))), shared: shared.clone() })
        } else {
            Box::new(whole)
        };
        Ok(Self { inner, count: 0, shared })
    }

    /// By which an error is explained while somebody else reads.
    pub(super) fn fault(&self) -> Fault {
        Fault(self.shared.clone())
    }
}

/// What went wrong, if anything did.
pub(super) struct Fault(Rc<Shared>);

impl Fault {
    /// What an error is about that came out of reading.
    pub(super) fn explain(&self, error: &io::Error) -> ArchiveError {
        match self.0.fault.take() {
            Some(fault) => fault,
            None if self.0.over.get() => ArchiveError::Truncated,
            None => ArchiveError::Damaged(error.to_string()),
        }
    }

    /// The same of the very first entry, without which something is no archive.
    pub(super) fn explain_first(&self, error: &io::Error) -> ArchiveError {
        self.0.fault.take().unwrap_or_else(|| {
            tracing::debug!(%error, "no archive");
            ArchiveError::NoArchive
        })
    }
}

impl Read for Stream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer).inspect_err(|error| {
            let mut fault = self.shared.fault.borrow_mut();
            if fault.is_none() {
                let ended = self.shared.ended.get() || error.kind() == io::ErrorKind::UnexpectedEof;
                *fault = Some(if ended { ArchiveError::Truncated } else { ArchiveError::Damaged(error.to_string()) });
            }
        })?;
        if count == 0 && !buffer.is_empty() {
            self.shared.over.set(true);
        }
        self.count += count as u64;
        if ARCHIVE_BYTES_MAX < self.count {
            let most = format!("{} MiB", ARCHIVE_BYTES_MAX >> 20);
            self.shared.fault.replace(Some(ArchiveError::TooLarge(most)));
            return Err(io::Error::other("too much"));
        }
        Ok(count)
    }
}
