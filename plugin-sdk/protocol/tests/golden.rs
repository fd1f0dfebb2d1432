//! Golden frames: what was valid once stays valid, means the same, and is still what this version writes.

mod support;

use std::collections::HashSet;

use palisade_protocol::{Flags, FrameError, Kind};
use support::{decode, golden, only_frame};

#[test]
fn every_golden_frame_decodes_to_what_it_meant() {
    for golden in golden() {
        let frame = only_frame(&golden.bytes);
        assert_eq!(frame.header.flags, Flags(golden.flags), "{}", golden.name);
        assert_eq!(frame.header.id, golden.id, "{}", golden.name);
        let Some(kind) = golden.kind else { continue };
        let decoded = decode(&frame).unwrap_or_else(|error| panic!("{}: {error}", golden.name));
        let decoded = decoded.unwrap_or_else(|| panic!("{}: the kind is not known any more", golden.name));
        assert_eq!(decoded.kind, kind, "{}", golden.name);
        assert_eq!(Some(decoded.body), golden.body, "{}", golden.name);
        assert_eq!(decoded.payload, golden.payload, "{}", golden.name);
    }
}

#[test]
fn canonical_golden_frames_are_what_this_version_writes() {
    let mut canonical = 0;
    for golden in golden().iter().filter(|golden| golden.canonical && golden.kind.is_some()) {
        let decoded = decode(&only_frame(&golden.bytes)).unwrap().unwrap();
        assert_eq!(decoded.again, golden.bytes, "{}: {:02x?}", golden.name, decoded.again);
        canonical += 1;
    }
    assert!(canonical >= 70, "only {canonical} canonical frames were read");
}

#[test]
fn unknown_kinds_are_skipped_unless_they_must_be_understood() {
    let find = |name: &str| golden().into_iter().find(|golden| golden.name == name).unwrap();
    assert_eq!(decode(&only_frame(&find("unknown_kind").bytes)), Ok(None));
    let must = find("unknown_kind_must_understand");
    assert_eq!(decode(&only_frame(&must.bytes)), Err(FrameError::NotUnderstood { kind: 0x7f }));
}

#[test]
fn every_kind_has_a_golden_frame_and_every_name_is_used_once() {
    let golden = golden();
    let names = golden.iter().map(|golden| golden.name.as_str()).collect::<HashSet<_>>();
    assert_eq!(names.len(), golden.len(), "a name stands there twice");
    for kind in Kind::ALL {
        assert!(golden.iter().any(|golden| golden.kind == Some(*kind) && golden.canonical), "{} has none", kind.name());
    }
}
