//! What a plugin may be permitted, and what a granted permission allows: one file for each kind.
//!
//! Elsewhere: who grants is the configuration's business; who enforces is the sandbox, and `egress` for the network.

pub mod address;
pub mod consent;
pub mod grants;
pub mod host;
pub mod item;
pub mod network;
pub mod path;
pub mod system;
pub mod traffic;
