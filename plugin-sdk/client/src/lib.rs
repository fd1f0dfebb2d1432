//! Calls the actions of Palisade plugins, over the agent socket of the supervisor.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), palisade_client::CallError> {
//! use palisade_client::Client;
//! use serde::Serialize;
//!
//! #[derive(Serialize)]
//! struct Evaluate<'a> {
//!     expression: &'a str,
//! }
//!
//! let client = Client::builder().connect().await?;
//! let five: f64 = client.call("calculator", "evaluate", Evaluate { expression: "sqrt(16) + sin(pi/2)" }).await?;
//! assert_eq!(five, 5.0);
//! # Ok(())
//! # }
//! ```
//!
//! A [`Client`] is one connection, shared by its clones; any number of calls go over it at once. A call with a version, a timeout
//! or streams is a [`Request`]:
//!
//! ```no_run
//! # async fn example(client: palisade_client::Client) -> Result<(), palisade_client::CallError> {
//! use std::time::Duration;
//!
//! let request = client.request("echo", "count").version("^0.1").timeout(Duration::from_secs(5));
//! let mut numbers = request.params(serde_json::json!({"to": 3})).items::<u64>().await?;
//! while let Some(number) = numbers.next().await {
//!     println!("{}", number?);
//! }
//! let (): () = numbers.result().await?;
//! # Ok(())
//! # }
//! ```
//!
//! What always holds here:
//!
//! * A call ends in exactly one way: its result, or a [`CallError`] that says what can be done about it. Nothing from the supervisor
//!   makes it panic, and everything it keeps is bounded.
//! * Dropping a call's future, a [`Running`] or [`Items`] cancels the call, by a frame that says so.
//! * A lost connection fails the calls that were sent. The next call connects again, and so do those of which nothing had been
//!   sent; no other call is ever repeated.
//!
//! Elsewhere: what the frames are is in `palisade-protocol`; how plugins are written, in `palisade-sdk`.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod admin;
pub mod blocking;
mod calls;
mod client;
mod error;
mod link;
mod outbox;
mod payload;
mod running;
mod socket;

pub use client::{Builder, Client, Request};
pub use error::CallError;
pub use palisade_protocol::{ErrorBody, ErrorCode, Progress, StreamKind};
pub use payload::{FromPayload, IntoPayload, Raw};
pub use running::{Canceller, Input, InputError, Items, Output, Piece, ProgressUpdates, Running};
pub use socket::{SOCKET_VARIABLE, SYSTEM_SOCKET, default_socket, user_socket};
