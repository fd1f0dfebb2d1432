//! The Palisade daemon: runs each plugin as a confined, supervised child process, and lets agents call them.
//!
//! The map, from what decides to what performs (a test holds the arrows between them):
//!
//! * `model` decides and performs nothing: states, manifests, versions, limits.
//! * `blocking`: work that blocks, on threads.
//! * `wire`, `config`, `events`, `trust`, `store`, `sandbox`: frames over descriptors, what is configured, what happens, whether a package
//!   is what it says, immutable packages, what this host can do. `egress`: a plugin's only way out to the network.
//! * `key_file`, `vault`: files with keys, and what is sealed with one. `state`, `secrets`: what plugins keep, and what is kept for them.
//! * `scope`: how the daemon gets a cgroup of its own from systemd, before there is anything of it.
//! * `process`: one child process. `plugin`: one plugin, its actor, its generations, their frames.
//! * `registry`, `router`: which plugins there are, and which one a call is for.
//! * `api`: the operations, and the socket over which they are asked for.
//! * `daemon`: builds every part, connects them, and takes them down in order.
#![forbid(unsafe_code)]

pub mod api;
pub mod archive;
pub mod blocking;
pub mod config;
pub mod daemon;
pub mod doctor;
pub mod egress;
pub mod events;
pub mod key_file;
pub mod model;
pub mod packages;
pub mod plugin;
pub mod process;
pub mod registry;
pub mod router;
pub mod sandbox;
pub mod scope;
pub mod secrets;
pub mod state;
pub mod store;
pub mod telemetry;
pub mod trust;
pub mod vault;
pub mod wire;
