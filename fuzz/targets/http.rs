//! What comes to the proxy and from a server: heads that can be read in one way, and are written so; bodies that end where they end.
#![no_main]

// The readers and the model are pure, so they are taken in as they stand, without the daemon around them.
#[allow(dead_code)]
#[path = "../../supervisor/src/model/mod.rs"]
mod model;

#[allow(dead_code)]
#[path = "../../supervisor/src/egress"]
mod egress {
    pub mod body;
    pub mod head;
}

use egress::body::{Body, BodyError, Extras, Framing};
use egress::head::{Asked, Ending, Request, RequestKind, Response};
use libfuzzer_sys::fuzz_target;

const BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 100;

// The first byte says what the rest is, and in what pieces a body arrives.
fuzz_target!(|bytes: &[u8]| {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let piece = usize::from(kind >> 2).max(1);
    match kind & 3 {
        0 => request(rest),
        1 => response(rest, Asked { head_only: kind & 4 != 0, minor_version: kind >> 3 & 1 }),
        2 => body(rest, Extras::Refused, piece),
        _ => body(rest, Extras::Passed, piece),
    }
});

fn request(bytes: &[u8]) {
    let Ok(Some(length)) = Ending::default().find(bytes, BYTES_MAX) else { return };
    let Ok(request) = Request::read(&bytes[..length], HEADERS_MAX) else { return };
    let RequestKind::Http(forward) = request.kind else { return };
    // Asked with what we would send, we would send the same, to the same host.
    let head = forward.head;
    assert_eq!(Ending::default().find(&head, usize::MAX), Ok(Some(head.len())));
    let space = head.iter().position(|byte| *byte == b' ').expect("a method");
    let target = head[space + 1..].strip_prefix(b"*").unwrap_or(&head[space + 1..]);
    let authority = format!(" http://{}:{}", request.host, request.port);
    let absolute = [&head[..space], authority.as_bytes(), target].concat();
    let again = Request::read(&absolute, HEADERS_MAX + 3).expect("what is sent can be read");
    assert_eq!((&again.host, again.port), (&request.host, request.port));
    let RequestKind::Http(second) = again.kind else { panic!("another kind") };
    assert_eq!((second.framing, second.asked), (forward.framing, forward.asked));
}

fn response(bytes: &[u8], asked: Asked) {
    let Ok(Some(length)) = Ending::default().find(bytes, BYTES_MAX) else { return };
    let Ok(response) = Response::read(&bytes[..length], HEADERS_MAX, asked) else { return };
    assert_eq!(Ending::default().find(&response.head, usize::MAX), Ok(Some(response.head.len())));
    let again = Response::read(&response.head, HEADERS_MAX + 2, asked).expect("what is sent can be read");
    assert_eq!((again.framing, again.interim), (response.framing, response.interim));
}

fn body(bytes: &[u8], extras: Extras, piece: usize) {
    let take = |piece: usize| -> Result<(usize, bool), BodyError> {
        let mut body = Body::new(Framing::Chunked, extras);
        let mut taken = 0;
        for piece in bytes.chunks(piece) {
            taken += body.take(piece)?;
            if body.has_ended() {
                break;
            }
        }
        Ok((taken, body.has_ended()))
    };
    assert_eq!(take(piece), take(bytes.len().max(1)));
}
