//! Whole frames of every kind, as an end decodes them. What is taken can be said again, and then means the same.
#![no_main]

#[path = "../../plugin-sdk/protocol/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use palisade_protocol::{FRAME_BYTES_MAX, split};

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    while let Ok(Some((frame, after))) = split(rest, FRAME_BYTES_MAX) {
        rest = after;
        let Ok(Some(decoded)) = support::decode(&frame) else { continue };
        let again = support::only_frame(&decoded.again);
        let again = support::decode(&again).expect("what we write, we read").expect("a kind that we know");
        assert_eq!((again.kind, again.body, again.payload), (decoded.kind, decoded.body, decoded.payload));
    }
});
