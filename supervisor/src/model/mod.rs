//! What the daemon decides, without doing any of it.
//!
//! Everything here is a function of its arguments: time arrives as an `Instant`, randomness as a number, news as an event;
//! what has to be done leaves as an action. That is why the rules of the daemon can be tested by tables and by random
//! sequences of events, in microseconds and without a process.
//!
//! Invariants: no clock is read, no file, task or system call is touched; nothing grows without a named bound.
//! Elsewhere: `plugin` (the actor) performs what `plugin` and `generation` here ask for; `config` reads the daemon's own
//! configuration; `store` finds the bytes that `manifest` reads.

pub mod budget;
pub mod call;
pub mod check;
pub mod configuration;
pub mod dependency;
pub mod drift;
pub mod exit;
pub mod generation;
pub mod guarantee;
pub mod ids;
pub mod limits;
pub mod manifest;
pub mod nearest;
pub mod overdue;
pub mod permission;
pub mod plugin;
pub mod rate;
pub mod reload_plan;
pub mod resolution;
pub mod restart;
pub mod runtime;
pub mod sampled;
pub mod saturation;
pub mod schema;
pub mod search;
pub mod settle;
pub mod specifier;
pub mod status;
pub mod tally;
pub mod trust;
pub mod updates;
pub mod version;
pub mod watchdog;
