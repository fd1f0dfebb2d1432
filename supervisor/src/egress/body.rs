//! Where the body of an HTTP message ends.
//!
//! Bodies pass as they are; this only counts them off, so that what follows one is never taken for part of it, and a second request in a
//! connection never reaches a server. Sizes of chunks are read by `httparse`, in lines that have been found to be nothing else.
//!
//! Invariants: nothing is kept but one line of a chunk's size.

/// A size of 16 digits and, in responses, an extension, which nobody uses.
const CHUNK_LINE_BYTES_MAX: usize = 256;

/// What a response may say behind its last chunk.
const TRAILER_BYTES_MAX: usize = 8 << 10;

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Empty,
    /// So many bytes.
    Length(u64),
    /// A chunk of no bytes is the last.
    Chunked,
    /// It ends with the connection; responses only.
    UntilClose,
}

/// What may stand beside the sizes and data of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extras {
    /// Neither extensions nor trailers, in which servers have been told different things.
    Refused,
    /// Both, within their bounds.
    Passed,
}

/// Why what came is no body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    #[error("a chunk does not begin with its size in hexadecimal digits on a line of its own")]
    Size,
    #[error("a chunk is followed by something else than the end of a line")]
    ChunkEnd,
    #[error("the body has trailers or chunk extensions that are refused or too long")]
    Extras,
}

/// A body on its way.
#[derive(Debug)]
pub struct Body {
    state: State,
    extras: Extras,
}

#[derive(Debug)]
enum State {
    Ended,
    UntilClose,
    Length { left: u64 },
    ChunkSize { line: Vec<u8> },
    ChunkData { left: u64 },
    ChunkEnd { seen: usize },
    Trailer { line_bytes: usize, before: u8, bytes: usize },
}

impl Body {
    #[must_use]
    pub fn new(framing: Framing, extras: Extras) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => State::Ended,
            Framing::Length(left) => State::Length { left },
            Framing::Chunked => State::ChunkSize { line: Vec::new() },
            Framing::UntilClose => State::UntilClose,
        };
        Self { state, extras }
    }

    /// Whether nothing more belongs to it.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether it may end here if the connection does.
    #[must_use]
    pub fn may_end(&self) -> bool {
        matches!(self.state, State::Ended | State::UntilClose)
    }

    /// How many of these bytes, from the first, belong to it.
    ///
    /// # Errors
    /// [`BodyError`]; none of the bytes may be passed on then.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, BodyError> {
        let mut at = 0;
        while let Some(first) = bytes.get(at).copied() {
            let ahead = bytes.len() - at;
            match &mut self.state {
                State::Ended => break,
                State::UntilClose => at = bytes.len(),
                State::Length { left } => {
                    at += consume(left, ahead);
                    if *left == 0 {
                        self.state = State::Ended;
                    }
                }
                State::ChunkData { left } => {
                    at += consume(left, ahead);
                    if *left == 0 {
                        self.state = State::ChunkEnd { seen: 0 };
                    }
                }
                State::ChunkEnd { seen } => {
                    if b"\r\n".get(*seen) != Some(&first) {
                        return Err(BodyError::ChunkEnd);
                    }
                    at += 1;
                    *seen += 1;
                    if *seen == 2 {
                        self.state = State::ChunkSize { line: Vec::new() };
                    }
                }
                State::ChunkSize { line } => {
                    line.push(first);
                    at += 1;
                    if first == b'\n' {
                        self.state = match chunk_size(line, self.extras)? {
                            0 => State::Trailer { line_bytes: 0, before: 0, bytes: 0 },
                            left => State::ChunkData { left },
                        };
                    } else if line.len() == CHUNK_LINE_BYTES_MAX {
                        return Err(BodyError::Extras);
                    }
                }
                State::Trailer { line_bytes, before, bytes } => {
                    at += 1;
                    *bytes += 1;
                    *line_bytes += 1;
                    let line_end = (*before == b'\r') == (first == b'\n');
                    let refused = self.extras == Extras::Refused && !b"\r\n".contains(&first);
                    if !line_end || refused || TRAILER_BYTES_MAX < *bytes {
                        return Err(BodyError::Extras);
                    }
                    *before = first;
                    if first == b'\n' {
                        if *line_bytes == 2 {
                            self.state = State::Ended;
                        } else {
                            *line_bytes = 0;
                        }
                    }
                }
            }
        }
        Ok(at)
    }
}

/// Takes off as many as there are, and says how many.
fn consume(left: &mut u64, ahead: usize) -> usize {
    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(ahead);
    *left -= taken as u64;
    taken
}

fn chunk_size(line: &[u8], extras: Extras) -> Result<u64, BodyError> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let content = line.strip_suffix(b"\r\n").ok_or(BodyError::Size)?;
    // The parser takes an empty line for a size of nought, and anything at all for an extension.
    if digits == 0 || content.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
        return Err(BodyError::Size);
    }
    if digits < content.len() && extras == Extras::Refused {
        return Err(if content.get(digits) == Some(&b';') { BodyError::Extras } else { BodyError::Size });
    }
    match httparse::parse_chunk_size(line) {
        Ok(httparse::Status::Complete((bytes, size))) if bytes == line.len() => Ok(size),
        _ => Err(BodyError::Size),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// How much belongs to the body, in pieces of a size; and whether it ended.
    fn run(framing: Framing, extras: Extras, bytes: &[u8], piece: usize) -> Result<(usize, bool), BodyError> {
        let mut body = Body::new(framing, extras);
        let mut taken = 0;
        for bytes in bytes.chunks(piece) {
            let belongs = body.take(bytes)?;
            taken += belongs;
            if belongs < bytes.len() {
                assert!(body.has_ended());
                break;
            }
        }
        Ok((taken, body.has_ended()))
    }

    #[test]
    fn bodies_end_where_they_end() {
        for piece in [1, 2, 3, 1000] {
            let run = |framing, bytes: &[u8]| run(framing, Extras::Refused, bytes, piece);
            assert_eq!(run(Framing::Empty, b"x"), Ok((0, true)));
            assert_eq!(run(Framing::Length(0), b"x"), Ok((0, true)));
            assert_eq!(run(Framing::Length(3), b"abcGET"), Ok((3, true)));
            assert_eq!(run(Framing::Length(3), b"ab"), Ok((2, false)));
            assert_eq!(run(Framing::UntilClose, b"abc"), Ok((3, false)));
            assert_eq!(run(Framing::Chunked, b"3\r\nabc\r\n0\r\n\r\nGET"), Ok((13, true)));
            assert_eq!(run(Framing::Chunked, b"A\r\n0123456789\r\n00\r\n\r\n"), Ok((21, true)));
            assert_eq!(run(Framing::Chunked, b"3\r\nabc\r\n0\r\n"), Ok((11, false)));
        }
    }

    #[test]
    fn what_is_ambiguous_in_a_request_is_refused() {
        for piece in [1, 1000] {
            for (bytes, error) in [
                (&b"\r\n"[..], BodyError::Size),
                (b"3\nabc\r\n", BodyError::Size),
                (b"+3\r\nabc\r\n", BodyError::Size),
                (b" 3\r\nabc\r\n", BodyError::Size),
                (b"3 \r\nabc\r\n", BodyError::Size),
                (b"0x3\r\nabc\r\n", BodyError::Size),
                (b"3\r\r\nabc\r\n", BodyError::Size),
                (b"10000000000000000\r\n", BodyError::Size),
                (b"3;a=b\r\nabc\r\n", BodyError::Extras),
                (b"3\r\nabcd\r\n", BodyError::ChunkEnd),
                (b"3\r\nabc\n0\r\n", BodyError::ChunkEnd),
                (b"0\r\nTrailer: x\r\n\r\n", BodyError::Extras),
                (b"0\r\n\n", BodyError::Extras),
                (b"0\r\n\r\r", BodyError::Extras),
            ] {
                let text = String::from_utf8_lossy(bytes);
                assert_eq!(run(Framing::Chunked, Extras::Refused, bytes, piece), Err(error), "{text:?}");
            }
        }
        let long = [b'1'; 300];
        assert_eq!(run(Framing::Chunked, Extras::Refused, &long, 1), Err(BodyError::Extras));
    }

    #[test]
    fn a_response_may_have_extras_within_bounds() {
        let run = |bytes: &[u8]| run(Framing::Chunked, Extras::Passed, bytes, 1);
        let whole = b"3;a=\"b\"\r\nabc\r\n0\r\nExpires: x\r\nB: c\r\n\r\n";
        assert_eq!(run(whole), Ok((whole.len(), true)));
        assert_eq!(run(b"3;a\nb\r\nabc"), Err(BodyError::Size));
        assert_eq!(run(&[&b"0\r\n"[..], &[b'a'; TRAILER_BYTES_MAX + 1]].concat()), Err(BodyError::Extras));
        assert_eq!(run(&[&b"3;"[..], &[b'a'; CHUNK_LINE_BYTES_MAX]].concat()), Err(BodyError::Extras));
    }

    proptest! {
        /// A well-formed body is taken whole and nothing behind it, whatever the pieces.
        #[test]
        fn chunks_are_counted_off(sizes in proptest::collection::vec(1..40_usize, 0..6), piece in 1..50_usize) {
            let mut bytes = Vec::new();
            for size in sizes {
                bytes.extend(format!("{size:x}\r\n").bytes());
                bytes.extend(vec![b'\n'; size]);
                bytes.extend(b"\r\n");
            }
            bytes.extend(b"0\r\n\r\n");
            let body = bytes.len();
            bytes.extend(b"GET / HTTP/1.1\r\n");
            prop_assert_eq!(run(Framing::Chunked, Extras::Refused, &bytes, piece), Ok((body, true)));
        }

        #[test]
        fn pieces_change_nothing(bytes in "[0-9a-f;\r\n x]{0,40}", piece in 1..10_usize, strict in any::<bool>()) {
            let extras = if strict { Extras::Refused } else { Extras::Passed };
            let whole = run(Framing::Chunked, extras, bytes.as_bytes(), 1000);
            prop_assert_eq!(run(Framing::Chunked, extras, bytes.as_bytes(), piece), whole);
        }
    }
}
