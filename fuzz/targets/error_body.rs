//! The body of an error. `code` alone makes one, and whatever else is wrong with it is refused without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_protocol::{ErrorBody, Flags, Kind, encode, encode_parts, split};

fuzz_target!(|body: &[u8]| {
    let mut bytes = Vec::new();
    encode_parts(&mut bytes, Kind::Err, Flags::NONE, 4, body, &[]);
    let Ok(Some((frame, _))) = split(&bytes, u32::MAX) else { return };
    let Ok((error, _)) = frame.message::<ErrorBody>(Kind::Err) else { return };
    let mut again = Vec::new();
    encode(&mut again, Kind::Err, Flags::NONE, 4, &error, &[]);
    let (frame, _) = split(&again, u32::MAX).expect("a frame").expect("a whole frame");
    // It may have grown beyond the limit, as names of unknown codes move into the message; otherwise it is the same.
    if let Ok((read, _)) = frame.message::<ErrorBody>(Kind::Err) {
        assert_eq!(read, error);
    }
});
