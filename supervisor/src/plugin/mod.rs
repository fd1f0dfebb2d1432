//! One plugin at run time.
//!
//! `Handle` is what others hold: it puts a call where the route points. The `actor` owns the route and performs what
//! `model::plugin` decides; a task per process in `generation` owns the child and performs what `model::generation` decides;
//! `link` is its frames. A call in the steady state passes handle → generation → link and never the actor.
//!
//! Elsewhere: which plugin and version a call is for is decided in `registry` and `router`.

pub mod actions;
pub mod actor;
pub mod admission;
pub mod announced;
pub mod blueprint;
pub mod call;
pub mod configuration;
pub mod disk;
pub mod following;
pub mod gate;
pub mod generation;
pub mod handle;
pub mod host_calls;
pub mod inbox;
pub mod limiting;
pub mod link;
pub mod logs;
pub mod needs;
pub mod network;
pub mod numbers;
pub mod pressure;
pub mod queue;
pub mod refusals;
pub mod sampler;
