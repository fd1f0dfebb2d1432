//! What the system tests and the benchmarks share: a daemon of their own, an agent that speaks raw frames, packages, and what
//! /proc says about processes.
//!
//! Nothing here depends on the daemon's or the client's code, only on the protocol: a mistake that both ends share would show.
//! Everything waits for a state, within a bound; a bound that is passed is a panic that says what was waited for.
#![forbid(unsafe_code)]

pub mod command;
pub mod daemon;
pub mod memory;
pub mod network;
pub mod package;
pub mod power;
pub mod process;
pub mod rows;
// What it asks the kernel is not in the bindings for musl, against which nothing but a plugin of the benchmarks is built.
#[cfg(target_env = "gnu")]
pub mod steps;
pub mod wire;
pub mod world;
