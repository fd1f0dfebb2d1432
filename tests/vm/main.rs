//! Tests of an installed Palisade as a system service. They run in the guest of `tests/vm`, and nowhere else: each of them is
//! ignored unless asked for, since it starts, stops and kills a service of the machine it runs on.
#![forbid(unsafe_code)]

mod service;
