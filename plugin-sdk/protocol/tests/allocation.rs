//! What decoding costs in memory, measured by an allocator that counts: bounds that hold whatever the bytes are.
//!
//! Every figure is the most that was held at once, beyond what was held before; a growing buffer counts twice while its bytes
//! move. Counts are per thread, so the tests may run beside each other.

#![expect(unsafe_code, reason = "an allocator cannot be written without it")]
#![expect(clippy::unwrap_used, reason = "a helper of a test fails it by panicking, as the test itself does")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use palisade_protocol::{
    BODY_BYTES_MAX, BODY_VALUES_MAX, Decoder, FRAME_BYTES_MAX, HEADER_BYTES, Kind, SCHEMA_VALUES_MAX, ValueLimits,
    check_body, check_value,
};
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;
use support::{decode_as, only_frame, raw_frame};

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // While a thread ends its counts may be gone; what it frees then is nobody's figure.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + bytes);
        let _ = MOST.try_with(|most| most.set(most.get().max(live.get())));
    });
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: every method hands its arguments on to the system's allocator unchanged and returns what it returned; the counters
// neither allocate nor panic.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: the caller keeps the contract of `dealloc`, and `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Old and new are both there while the bytes move.
        count(signed(size));
        count(-signed(layout.size()));
        // SAFETY: the caller keeps the contract of `realloc`, and `pointer` came from `System`.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// The most that `run` held at once.
fn most_held(run: impl FnOnce()) -> usize {
    let before = LIVE.get();
    MOST.set(before);
    run();
    usize::try_from(MOST.get() - before).expect("the most is no less than the beginning")
}

/// Decoding any body of at most 64 KiB takes no more than this. It is reached by maps of one entry inside each other.
const BODY_MEMORY_MAX: usize = 2 << 20;

/// Decoding any body of a `Welcome` or `Ready` takes no more than this.
const SCHEMA_MEMORY_MAX: usize = 14 << 20;

#[test]
fn the_counter_counts() {
    assert_eq!(most_held(|| drop(Vec::<u8>::with_capacity(1000))), 1000);
    assert_eq!(most_held(|| ()), 0);
}

#[test]
fn an_announced_length_allocates_nothing() {
    let mut bytes = raw_frame(Kind::Call as u8, 0, 2, &[]);
    bytes[..4].copy_from_slice(&FRAME_BYTES_MAX.to_le_bytes());
    let mut decoder = Decoder::default();
    let held = most_held(|| {
        decoder.push(&bytes);
        assert_eq!(decoder.next_frame(), Ok(None));
    });
    assert_eq!(held, HEADER_BYTES, "what arrived, and no more");
}

#[test]
fn a_decoder_holds_no_more_than_one_frame_and_one_push() {
    let frame = raw_frame(Kind::StreamData as u8, 0, 2, &vec![0x80; FRAME_BYTES_MAX as usize]);
    let stream = [&frame[..], &raw_frame(Kind::Ping as u8, 0, 4, &[0x80]), &frame, &frame[..100_000]].concat();
    for push in [1000, 4096, 65_536, 100_003, 1 << 20, stream.len()] {
        let most = HEADER_BYTES + FRAME_BYTES_MAX as usize + push;
        let mut decoder = Decoder::default();
        let held = most_held(|| {
            for piece in stream.chunks(push) {
                decoder.push(piece);
                while decoder.next_frame().unwrap().is_some() {}
                assert!(decoder.held() <= most, "{} held with pushes of {push}", decoder.held());
            }
        });
        assert!(held <= 2 * most, "{held} held for a moment with pushes of {push}");
    }
}

#[test]
fn an_idle_decoder_holds_next_to_nothing() {
    let frame = raw_frame(Kind::StreamData as u8, 0, 2, &vec![0x80; 900_000]);
    let mut decoder = Decoder::default();
    decoder.push(&frame);
    assert!(decoder.next_frame().unwrap().is_some());
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.held() <= 4096, "{} held", decoder.held());
}

#[test]
fn checking_allocates_nothing() {
    let body = [&[0x81, 0xa1, b'x'][..], &[0x91; 20], &[0xdc, 0x01, 0x00], &[0xc0; 256]].concat();
    let held = most_held(|| {
        assert_eq!(check_body(&body), Ok(body.len()));
        assert!(check_value(&body, ValueLimits::PAYLOAD).is_ok());
        assert!(check_body(&body[..40]).is_err());
    });
    assert_eq!(held, 0);
}

/// Bodies that become as large a tree as `values` values can: `{"details": …}` and the like.
fn greedy(field: &str, values: usize, lists: bool) -> Vec<u8> {
    let mut body = [&[0x81, 0xa0 | u8::try_from(field.len()).unwrap()][..], field.as_bytes()].concat();
    // The body's own map and key, and the outer list.
    let mut left = values - 3;
    let mut chains = Vec::new();
    let mut count = 0_u32;
    while left > 0 {
        let mut depth = 0;
        while left > 0 && depth < 29 {
            // A map of one entry is two values, as its key is one; a list of one is one.
            let cost = if lists { 1 } else { 2 };
            if left <= cost {
                break;
            }
            if lists {
                chains.push(0x91)
            } else {
                chains.extend([0x81, 0xa0])
            }
            left -= cost;
            depth += 1;
        }
        chains.push(0xc0);
        left -= 1;
        count += 1;
    }
    body.push(0xdd);
    body.extend(count.to_be_bytes());
    body.extend(chains);
    body
}

fn memory_of(kind: Kind, body: &[u8]) -> usize {
    let bytes = raw_frame(kind as u8, 0, 0, body);
    most_held(|| drop(only_frame(&bytes).message::<Value>(kind).map(drop)))
}

#[test]
fn the_greediest_bodies_stay_within_the_bound() {
    let mut most = 0;
    for lists in [true, false] {
        let body = greedy("details", BODY_VALUES_MAX, lists);
        assert!(check_body(&body).is_ok(), "it uses the limits up and keeps to them");
        most = most.max(memory_of(Kind::Progress, &body));
    }
    assert!(most <= BODY_MEMORY_MAX, "{most}");
    assert!(most >= BODY_MEMORY_MAX / 4, "the bound is far above what can be reached: {most}");
    let mut most = 0;
    for lists in [true, false] {
        most = most.max(memory_of(Kind::Ready, &greedy("actions", SCHEMA_VALUES_MAX, lists)));
    }
    assert!(most <= SCHEMA_MEMORY_MAX, "{most}");
    assert!(most >= SCHEMA_MEMORY_MAX / 4, "the bound is far above what can be reached: {most}");
}

/// Lists of the structs of each message, which reserve by their announced count.
#[test]
fn announced_counts_of_structs_stay_within_the_bound() {
    let list = |prefix: &[u8], count: usize| {
        let count_bytes = u16::try_from(count).unwrap().to_be_bytes();
        [prefix, &[0xdc], &count_bytes, &vec![0xc0; count]].concat()
    };
    for (kind, field) in [(Kind::Hello, &b"features"[..]), (Kind::Ready, b"actions"), (Kind::Welcome, b"features")] {
        let most = if kind == Kind::Hello { BODY_VALUES_MAX - 3 } else { SCHEMA_VALUES_MAX - 3 };
        let prefix = [&[0x81, 0xa0 | u8::try_from(field.len()).unwrap()][..], field].concat();
        let bytes = raw_frame(kind as u8, 0, 0, &list(&prefix, most));
        let held = most_held(|| drop(decode_as(&only_frame(&bytes), kind)));
        assert!(held <= BODY_MEMORY_MAX, "{}: {held}", kind.name());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Any content up to the body limit: tokens of MessagePack in any order, most of them openings.
    #[test]
    fn any_body_stays_within_the_bound(
        field in prop::sample::select(vec!["details", "fields", "error", "message", "features", "protocol", "code"]),
        tokens in vec(prop::sample::select(vec![0x81_u8, 0x91, 0xa0, 0xc0, 0xc2, 0x00, 0xa1, 0x92, 0x82, 0x61]), 1..BODY_BYTES_MAX - 16),
    ) {
        let head = [&[0x81, 0xa0 | u8::try_from(field.len()).unwrap()][..], field.as_bytes()].concat();
        let body = [head, tokens].concat();
        for kind in Kind::ALL.iter().filter(|kind| !matches!(kind, Kind::Welcome | Kind::Ready)) {
            let bytes = raw_frame(*kind as u8, 0, 2, &body);
            // Decoding a second time into JSON, as `decode_as` does, is the test's own; half of the bound is left for it.
            let held = most_held(|| drop(decode_as(&only_frame(&bytes), *kind)));
            prop_assert!(held <= BODY_MEMORY_MAX, "{}: {held}", kind.name());
        }
    }
}
