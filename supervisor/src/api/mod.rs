//! What the daemon offers, and the ways to ask for it.
//!
//! `service` has the operations, whatever the transport; `unix` is the agent socket. A transport knows frames or requests and
//! `Service`, and nothing that lies behind it.

mod package_operations;
pub mod service;
pub mod unix;
