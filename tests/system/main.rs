//! The system tests: a real daemon, real plugins, and what happens when one of them misbehaves.
//!
//! Each test has a daemon of its own and ends by proving that nothing of it is left. Bounds: whatever is waited for has to come
//! about within `palisade_tests::wire::BOUND`; nothing depends on how long anything takes.
#![forbid(unsafe_code)]

mod agents;
mod archives;
mod calls;
mod chaos;
mod charging;
mod cli;
mod configuration;
mod consent;
mod contract;
mod cycles;
mod denials;
mod dependencies;
mod discovery;
mod egress;
mod exhaustion;
mod floods;
mod host_calls;
mod isolation;
mod life;
mod limits;
mod neighbours;
mod operations;
mod packages;
mod permissions;
mod plans;
mod power;
mod python;
mod registry;
mod reload;
mod required;
mod runtimes;
mod said;
mod secrets;
mod starts;
mod state;
mod support;
mod trials;
mod trust;
mod updates;
mod watching;
mod wire;
