//! What a hostile end sends, as far as decoding is concerned: each row with its exact outcome.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking, as the test itself does")]

mod support;

use palisade_protocol::{
    BODY_BYTES_MAX, BODY_DEPTH_MAX, BODY_KEYS_MAX, BODY_VALUES_MAX, Decoder, Flags, Frame, FrameError, HEADER_BYTES,
    Kind, SCHEMA_VALUES_MAX, STRING_BYTES_MAX, ValueError, encode_parts, split,
};
use support::{decode, decode_as, only_frame, raw_frame};

const LIMIT: u32 = 1 << 20;

fn header(len: u32) -> Vec<u8> {
    let mut bytes = raw_frame(Kind::Call as u8, 0, 2, &[]);
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    bytes
}

/// The error of the first frame, as a decoder that gets all bytes at once sees it.
fn first(bytes: &[u8]) -> Result<Option<Frame<'_>>, FrameError> {
    split(bytes, LIMIT).map(|found| found.map(|(frame, _)| frame))
}

#[test]
fn lengths_at_and_beyond_the_limits() {
    assert_eq!(first(&header(0)), Err(FrameError::Empty));
    assert_eq!(first(&header(1)), Ok(None));
    assert_eq!(first(&header(LIMIT)), Ok(None), "the largest length waits for its bytes");
    assert_eq!(first(&header(LIMIT + 1)), Err(FrameError::TooLong { len: LIMIT + 1, limit: LIMIT }));
    assert_eq!(first(&header(u32::MAX)), Err(FrameError::TooLong { len: u32::MAX, limit: LIMIT }));
    let mut largest = Vec::new();
    encode_parts(&mut largest, Kind::StreamData, Flags::NONE, 2, &[0x80], &vec![7; LIMIT as usize - 1]);
    let frame = first(&largest).unwrap().unwrap();
    assert_eq!(frame.parts(Kind::StreamData).unwrap().1.len(), LIMIT as usize - 1);
}

#[test]
fn a_length_and_then_the_end_is_a_frame_cut_off() {
    let mut decoder = Decoder::new(LIMIT);
    decoder.push(&header(10));
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.is_mid_frame());
    decoder.push(&[0; 9]);
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.is_mid_frame(), "one byte is missing");
    decoder.push(&[0]);
    assert!(decoder.next_frame().unwrap().is_some());
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(!decoder.is_mid_frame(), "the frame is complete");
}

#[test]
fn one_byte_at_a_time_and_two_frames_glued_are_the_same_frames() {
    let one = raw_frame(Kind::Ping as u8, 0, 2, &[0x80]);
    let two = raw_frame(Kind::Ok as u8, 0, 4, &[0x80, 0xc0]);
    let glued = [one.clone(), two.clone()].concat();
    let mut decoder = Decoder::new(LIMIT);
    decoder.push(&glued);
    assert_eq!(decoder.next_frame().unwrap(), Some(only_frame(&one)));
    assert_eq!(decoder.next_frame().unwrap(), Some(only_frame(&two)));
    assert_eq!(decoder.next_frame().unwrap(), None);
    let (mut decoder, mut seen) = (Decoder::new(LIMIT), Vec::new());
    for byte in &glued {
        decoder.push(&[*byte]);
        while let Some(frame) = decoder.next_frame().unwrap() {
            seen.push((frame.header, frame.content.to_vec()));
        }
    }
    let expected = [only_frame(&one), only_frame(&two)].map(|frame| (frame.header, frame.content.to_vec()));
    assert_eq!(seen, expected);
}

#[test]
fn an_error_stays_and_nothing_more_is_taken_in() {
    let mut decoder = Decoder::new(LIMIT);
    decoder.push(&header(0));
    assert_eq!(decoder.next_frame(), Err(FrameError::Empty));
    decoder.push(&vec![0x55; 1 << 20]);
    decoder.push(&raw_frame(Kind::Ping as u8, 0, 2, &[0x80]));
    assert_eq!(decoder.next_frame(), Err(FrameError::Empty));
    assert!(decoder.is_mid_frame(), "the end of input after an error is no clean end");
    assert_eq!(decoder.held(), 0);
}

#[test]
fn a_limit_that_was_negotiated_holds_for_the_next_frame() {
    let mut decoder = Decoder::default();
    decoder.set_frame_bytes_max(100);
    decoder.push(&header(101));
    assert_eq!(decoder.next_frame(), Err(FrameError::TooLong { len: 101, limit: 100 }));
}

/// A valid frame around each kind of invalid body.
#[test]
fn malformed_bodies_end_with_the_exact_error() {
    let nested = |levels: usize| [&[0x81, 0xa1, b'x'][..], &vec![0x91; levels], &[0xc0]].concat();
    let text = |bytes: usize| {
        let length = u16::try_from(bytes).unwrap().to_be_bytes();
        [&[0x81, 0xa1, b'x', 0xda][..], &length, &vec![b'a'; bytes]].concat()
    };
    let list = |count: usize| {
        let length = u16::try_from(count).unwrap().to_be_bytes();
        [&[0x81, 0xa1, b'x', 0xdc][..], &length, &vec![0x00; count]].concat()
    };
    let table: &[(&str, Vec<u8>, ValueError)] = &[
        ("the byte that MessagePack never uses", vec![0xc1], ValueError::NotAMap),
        ("nil", vec![0xc0], ValueError::NotAMap),
        ("fields by position", vec![0x91, 0xa1, b'a'], ValueError::NotAMap),
        ("a map cut off", vec![0x81], ValueError::Truncated { at: 1 }),
        ("a key cut off", vec![0x81, 0xa4, b'c'], ValueError::Truncated { at: 3 }),
        ("a value cut off", vec![0x81, 0xa1, b'x', 0xce, 0, 0], ValueError::Truncated { at: 6 }),
        ("a length cut off", vec![0xde, 0x00], ValueError::Truncated { at: 2 }),
        ("nesting of 1025", nested(1025), ValueError::TooDeep { at: 3 + BODY_DEPTH_MAX - 1, limit: BODY_DEPTH_MAX }),
        (
            "a body of 2^32 - 1 entries",
            vec![0xdf, 255, 255, 255, 255],
            ValueError::TooMany { at: 0, limit: BODY_KEYS_MAX },
        ),
        (
            "a map of 2^32 - 1 entries",
            vec![0x81, 0xa1, b'x', 0xdf, 255, 255, 255, 255],
            ValueError::Truncated { at: 8 },
        ),
        (
            "a list of 2^32 - 1 entries",
            vec![0x81, 0xa1, b'x', 0xdd, 255, 255, 255, 255],
            ValueError::Truncated { at: 8 },
        ),
        (
            "a text of 2^32 - 1 bytes",
            vec![0x81, 0xa1, b'x', 0xdb, 255, 255, 255, 255],
            ValueError::StringTooLong { at: 3, bytes: 0xffff_ffff, limit: STRING_BYTES_MAX },
        ),
        (
            "a text longer than allowed",
            text(STRING_BYTES_MAX + 1),
            ValueError::StringTooLong { at: 3, bytes: STRING_BYTES_MAX + 1, limit: STRING_BYTES_MAX },
        ),
        ("binary of 2^32 - 1 bytes", vec![0x81, 0xa1, b'x', 0xc6, 255, 255, 255, 255], ValueError::Truncated { at: 8 }),
        (
            "a value of a type not allowed",
            vec![0x81, 0xa1, b'x', 0xc1],
            ValueError::TypeNotAllowed { at: 3, byte: 0xc1 },
        ),
        (
            "an extension of one byte",
            vec![0x81, 0xa1, b'x', 0xd4, 0x01, 0x01],
            ValueError::TypeNotAllowed { at: 3, byte: 0xd4 },
        ),
        (
            "a timestamp",
            vec![0x81, 0xa1, b'x', 0xd6, 0xff, 0, 0, 0, 0],
            ValueError::TypeNotAllowed { at: 3, byte: 0xd6 },
        ),
        (
            "an extension of any length",
            vec![0x81, 0xa1, b'x', 0xc7, 1, 1, 1],
            ValueError::TypeNotAllowed { at: 3, byte: 0xc7 },
        ),
        ("an extension as key", vec![0x81, 0xd4, 0x01, 0x01, 0xc0], ValueError::KeyNotAString { at: 1 }),
        ("a number as key", vec![0x81, 0x01, 0x02], ValueError::KeyNotAString { at: 1 }),
        ("a key twice", vec![0x82, 0xa1, b'x', 0x01, 0xa1, b'x', 0x02], ValueError::KeyTwice { at: 4 }),
        (
            "a key twice with another between",
            vec![0x83, 0xa1, b'x', 0x01, 0xa1, b'y', 0x01, 0xa1, b'x', 0x02],
            ValueError::KeyTwice { at: 7 },
        ),
        (
            "a key twice in another width",
            vec![0x82, 0xa1, b'x', 0x01, 0xd9, 1, b'x', 0x02],
            ValueError::KeyTwice { at: 4 },
        ),
        ("a key that is not UTF-8", vec![0x81, 0xa1, 0xff, 0x01], ValueError::NotUtf8 { at: 1 }),
        ("a text that is not UTF-8", vec![0x81, 0xa1, b'x', 0xa2, 0xc3, 0x28], ValueError::NotUtf8 { at: 3 }),
        ("a surrogate", vec![0x81, 0xa1, b'x', 0xa3, 0xed, 0xa0, 0x80], ValueError::NotUtf8 { at: 3 }),
        (
            "too many values",
            list(BODY_VALUES_MAX),
            ValueError::TooMany { at: 6 + BODY_VALUES_MAX - 3, limit: BODY_VALUES_MAX },
        ),
    ];
    for (name, body, expected) in table {
        for kind in Kind::ALL.iter().filter(|kind| !matches!(kind, Kind::Welcome | Kind::Ready | Kind::Configure)) {
            let bytes = raw_frame(*kind as u8, 0, 2, body);
            let error = decode_as(&only_frame(&bytes), *kind).unwrap_err();
            assert_eq!(error, FrameError::Body { kind: kind.name(), source: *expected }, "{name}");
        }
    }
}

#[test]
fn what_is_just_within_the_limits_passes() {
    let nested = [&[0x81, 0xa1, b'x'][..], &[0x91; BODY_DEPTH_MAX - 1], &[0xc0]].concat();
    // The map, the key, the list, and what is in it.
    let count = BODY_VALUES_MAX - 3;
    let length = u16::try_from(count).unwrap().to_be_bytes();
    let list = [&[0x81, 0xa1, b'x', 0xdc][..], &length, &vec![0x00; count]].concat();
    let text = [&[0x81, 0xa1, b'x', 0xda, 0x80, 0x00][..], &[b'a'; STRING_BYTES_MAX]].concat();
    for body in [nested, list, text] {
        let bytes = raw_frame(Kind::Ping as u8, 0, 2, &body);
        assert!(decode(&only_frame(&bytes)).unwrap().is_some());
    }
}

/// A body of exactly `bytes` bytes with two unknown fields, each of binary, which has no limit of its own.
fn body_of(bytes: usize) -> Vec<u8> {
    let length = u32::try_from(bytes - 8).unwrap().to_be_bytes();
    [&[0x81, 0xa1, b'x', 0xc6][..], &length, &vec![0; bytes - 8]].concat()
}

#[test]
fn a_body_has_a_limit_of_its_own_below_the_frame_limit() {
    let (fits, not) = (body_of(BODY_BYTES_MAX), body_of(BODY_BYTES_MAX + 1));
    for kind in [Kind::Ping, Kind::Ok, Kind::Log] {
        let bytes = raw_frame(kind as u8, 0, 2, &fits);
        assert!(only_frame(&bytes).parts(kind).is_ok());
        let bytes = raw_frame(kind as u8, 0, 2, &not);
        let expected = FrameError::BodyTooLong { kind: kind.name(), bytes: BODY_BYTES_MAX + 1, limit: BODY_BYTES_MAX };
        assert_eq!(only_frame(&bytes).parts(kind), Err(expected));
    }
    for kind in [Kind::Welcome, Kind::Ready] {
        let bytes = raw_frame(kind as u8, 0, 0, &not);
        assert!(only_frame(&bytes).parts(kind).is_ok(), "{} carries schemas", kind.name());
        let count = SCHEMA_VALUES_MAX - 2;
        let list =
            [&[0x81, 0xa1, b'x', 0xdc][..], &u16::try_from(count).unwrap().to_be_bytes(), &vec![0; count]].concat();
        let bytes = raw_frame(kind as u8, 0, 0, &list);
        let expected = ValueError::TooMany { at: 6 + count - 1, limit: SCHEMA_VALUES_MAX };
        assert_eq!(only_frame(&bytes).parts(kind), Err(FrameError::Body { kind: kind.name(), source: expected }));
    }
}

#[test]
fn a_payload_stands_only_where_one_belongs() {
    for kind in Kind::ALL {
        let bytes = raw_frame(*kind as u8, 0, 2, &[0x80, 0x01, 0x02]);
        let parts = only_frame(&bytes).parts(*kind).map(|(_, payload)| payload.to_vec());
        if kind.has_payload() {
            assert_eq!(parts, Ok(vec![0x01, 0x02]));
        } else {
            assert_eq!(parts, Err(FrameError::UnexpectedPayload { kind: kind.name(), bytes: 2 }));
        }
    }
}

/// Bodies that are well-formed maps and not the message: each names what is wrong.
#[test]
fn a_map_that_is_not_the_message_is_refused_by_field() {
    let json = |text: &str| rmp_serde::to_vec(&serde_json::from_str::<serde_json::Value>(text).unwrap()).unwrap();
    let table = [
        (Kind::Hello, "{}", "missing field `protocol`"),
        (Kind::Hello, r#"{"protocol": {"min": 1}}"#, "protocol: missing field `max`"),
        (
            Kind::Hello,
            r#"{"protocol": {"min": -1, "max": 1}}"#,
            "protocol.min: invalid value: integer `-1`, expected u16",
        ),
        (
            Kind::Hello,
            r#"{"protocol": {"min": 1, "max": 65536}}"#,
            "protocol.max: invalid value: integer `65536`, expected u16",
        ),
        (Kind::Welcome, r#"{"protocol": 1}"#, "missing field `features`"),
        (Kind::Ready, r#"{"id": "a", "version": "1.0.0", "actions": []}"#, "missing field `concurrency`"),
        (Kind::Ready, r#"{"id": 7}"#, "id: invalid type: integer `7`, expected a string"),
        (Kind::Refuse, "{}", "missing field `error`"),
        (Kind::Ping, r#"{"health": 1}"#, "health: invalid type: integer `1`, expected a boolean"),
        (Kind::Drain, "{}", "missing field `within_ms`"),
        (Kind::Drain, r#"{"within_ms": 1.5}"#, "within_ms: invalid type: floating point `1.5`, expected u64"),
        (Kind::Log, r#"{"message": "x"}"#, "missing field `level`"),
        (Kind::Call, "{}", "missing field `action`"),
        (Kind::Call, r#"{"action": null}"#, "action: invalid type: unit value, expected a borrowed string"),
        (Kind::Progress, r#"{"percentage": "half"}"#, "percentage: a text does not belong here"),
        (Kind::Err, r#"{"message": "x"}"#, "missing field `code`"),
        (Kind::StreamOpen, r#"{"kind": "sheep"}"#, "kind: unknown variant `sheep`, expected `items` or `bytes`"),
        (Kind::StreamCredit, r#"{"bytes": 4294967296}"#, "bytes: invalid value: integer `4294967296`, expected u32"),
        (Kind::StreamAbort, "{}", "missing field `error`"),
        (
            Kind::StreamAbort,
            r#"{"by": "nobody", "error": {"code": "cancelled"}}"#,
            "by: unknown variant `nobody`, expected `sender` or `receiver`",
        ),
        (Kind::HostCall, "{}", "missing field `op`"),
        (Kind::HostErr, "{}", "missing field `code`"),
    ];
    for (kind, body, expected) in table {
        let bytes = raw_frame(kind as u8, 0, 2, &json(body));
        let error = decode_as(&only_frame(&bytes), kind).unwrap_err();
        assert_eq!(error, FrameError::Message { kind: kind.name(), detail: expected.to_owned() }, "{body}");
    }
}

#[test]
fn binary_is_refused_where_a_free_value_is_expected() {
    let fields: &[&[u8]] = &[&[0x83, 0xa5], b"level", &[0xa4], b"info", &[0xa7], b"message", &[0xa0, 0xa6], b"fields"];
    let body = [&fields.concat()[..], &[0xc4, 1, 0]].concat();
    let bytes = raw_frame(Kind::Log as u8, 0, 0, &body);
    let detail = "fields: invalid type: byte array, expected any valid JSON value".to_owned();
    let expected = FrameError::Message { kind: "Log", detail };
    assert_eq!(decode_as(&only_frame(&bytes), Kind::Log), Err(expected));
}

#[test]
fn every_prefix_of_a_header_waits() {
    let bytes = header(u32::MAX);
    for length in 0..HEADER_BYTES {
        assert_eq!(first(&bytes[..length]), Ok(None));
    }
}
