//! The first message in a tunnel: one server name or none, or a refusal; the same in whatever pieces it arrives.
#![no_main]

// The reader and the model are pure, so they are taken in as they stand, without the daemon around them.
#[allow(dead_code)]
#[path = "../../supervisor/src/model/mod.rs"]
mod model;

#[allow(dead_code)]
#[path = "../../supervisor/src/egress/client_hello.rs"]
mod client_hello;

use client_hello::Gatherer;
use libfuzzer_sys::fuzz_target;
use model::permission::host::Host;

// The first byte says in what pieces the rest arrives.
fuzz_target!(|bytes: &[u8]| {
    let Some((piece, raw)) = bytes.split_first() else { return };
    let whole = Gatherer::default().take(raw);
    let mut gatherer = Gatherer::default();
    let mut in_pieces = Ok(None);
    for piece in raw.chunks(usize::from(*piece).max(1)) {
        in_pieces = gatherer.take(piece);
        if in_pieces != Ok(None) {
            break;
        }
    }
    assert_eq!(in_pieces, whole);
    if let Ok(Some(hello)) = whole {
        assert!(raw.starts_with(&gatherer.into_raw()));
        let other = Host::parse("other.example").expect("it is a name");
        let name = hello.server_name.as_deref();
        assert_eq!(hello.check(&other).is_ok(), name.is_some_and(|name| name.eq_ignore_ascii_case("other.example")));
    }
});
