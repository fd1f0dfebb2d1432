//! A stream of bytes in pieces of any size: the same frames as in one piece, and never more memory than a frame and a piece.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_protocol::{Decoder, FrameError, HEADER_BYTES, split};

const LIMIT: u32 = 4096;

fuzz_target!(|input: &[u8]| {
    let Some((piece, bytes)) = input.split_first() else { return };
    let piece = usize::from(*piece) + 1;
    let (mut decoder, mut rest) = (Decoder::new(LIMIT), bytes);
    let mut failed: Option<FrameError> = None;
    for pushed in bytes.chunks(piece) {
        decoder.push(pushed);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => {
                    assert_eq!(failed, None, "a frame after an error");
                    let (expected, after) = split(rest, LIMIT).expect("the same frame").expect("a whole frame");
                    assert_eq!(frame, expected);
                    rest = after;
                }
                Ok(None) => break,
                Err(error) => {
                    assert!(failed.as_ref().is_none_or(|before| *before == error), "another error");
                    failed = Some(error);
                    break;
                }
            }
        }
        assert!(decoder.held() <= HEADER_BYTES + LIMIT as usize + piece);
    }
    match failed {
        Some(error) => assert_eq!(split(rest, LIMIT), Err(error)),
        None => {
            assert_eq!(split(rest, LIMIT), Ok(None));
            assert_eq!(decoder.is_mid_frame(), !rest.is_empty());
        }
    }
});
