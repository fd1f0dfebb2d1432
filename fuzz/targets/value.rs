//! One MessagePack value: the walk that builds nothing agrees with a decoder that reads everything.
#![no_main]

use libfuzzer_sys::fuzz_target;
use palisade_protocol::{ValueError, ValueLimits, check_value};
use serde::Deserialize;
use serde::de::IgnoredAny;

fuzz_target!(|bytes: &[u8]| {
    let mut rest = bytes;
    let read = IgnoredAny::deserialize(&mut rmp_serde::Deserializer::new(&mut rest)).is_ok();
    let read = read.then(|| bytes.len() - rest.len());
    match check_value(bytes, ValueLimits::PAYLOAD) {
        Ok(length) => {
            assert_eq!(read, Some(length));
            // Whatever it is, decoding it into a tree ends, with or without success.
            let _ = rmp_serde::from_slice::<serde_json::Value>(&bytes[..length]);
        }
        Err(ValueError::Truncated { .. }) => assert_eq!(read, None),
        Err(ValueError::TypeNotAllowed { at, byte }) => assert_eq!(bytes[at], byte),
        Err(ValueError::NotUtf8 { .. } | ValueError::TooDeep { .. } | ValueError::TooMany { .. }) => {}
        Err(other) => panic!("{other} is no answer to a value"),
    }
});
