//! Tests of an installed Palisade as a system service, and of what only a machine of one's own can show. They run in the guest of
//! `tests/vm`, and nowhere else: each of them is ignored unless asked for, since it changes the machine it runs on.
#![forbid(unsafe_code)]

mod clock;
mod cores;
mod scope;
mod service;
