//! Write a Palisade plugin: an executable whose functions AI agents call, and which Palisade confines and supervises.
//!
//! A complete plugin:
//!
//! ```no_run
//! use palisade_sdk::{Call, Exit, Plugin};
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! /// Whom to greet.
//! #[derive(Deserialize, JsonSchema)]
//! struct Greet { name: String }
//!
//! #[derive(Serialize, JsonSchema)]
//! struct Greeting { text: String }
//!
//! fn main() -> Exit {
//!     Plugin::new("greeter", "1.0.0")
//!         .action("greet", "Greets somebody by name.", |_call: Call, greet: Greet| async move {
//!             Ok(Greeting { text: format!("Hello, {}!", greet.name) })
//!         })
//!         .run()
//! }
//! ```
#![deny(unsafe_code)]
#![deny(missing_docs)]

mod action;
mod call;
mod connection;
mod descriptors;
mod dispatch;
mod error;
mod exchange;
mod host;
mod lifecycle;
pub mod log;
mod panic;
mod plugin;
mod reader;
mod stream;
pub mod testing;
mod text;
mod wire;

pub use action::{Action, ActionOptions, Params, Raw, Reply};
pub use bytes::Bytes;
pub use call::Call;
pub use error::{Context, Error, Result};
pub use host::{Host, SelfInfo};
pub use palisade_protocol::{CancelReason, Class, ErrorBody, ErrorCode, Fault, Guarantee, GuaranteeState, Level};
pub use plugin::{Exit, Plugin};
pub use schemars;
pub use serde;
pub use stream::{BytesInput, BytesOutput, Input, Output};
pub use wire::Failure;
