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
//! #[serde(deny_unknown_fields)]
//! struct Greet { name: String }
//!
//! #[derive(Serialize, JsonSchema)]
//! struct Greeting { text: String }
//!
//! fn main() -> Exit {
//!     Plugin::new("greeter", "1.0.0")
//!         .action("greet", "Greets somebody by name.", |_: Call, greet: Greet| async move {
//!             Ok(Greeting { text: format!("Hello, {}!", greet.name) })
//!         })
//!         .run()
//! }
//! ```
//!
//! Its `Cargo.toml` names this crate by its path in a clone of the repository, as it is not published yet, `schemars`,
//! and `serde` with the feature `derive`. Beside the executable stands a `plugin.json` with the same id and version:
//! `{"id": "greeter", "name": "Greeter", "version": "1.0.0", "entry_point": "greeter"}`. The schemas that agents see come
//! from the types; parameters that do not fit never reach the handler. Serde passes over fields that a type does not have;
//! `deny_unknown_fields` refuses them and says so in the schema, so that a mistyped optional parameter is an error.
//!
//! # Actions
//!
//! Parameters are any type with `Deserialize` and `JsonSchema`, results any with `Serialize` and `JsonSchema`; `()`
//! stands for none, and [`Raw`] passes bytes on without looking at them. Values look the same in MessagePack, which
//! travels, and in JSON, which people write: fields by name, enums, addresses and times as serde writes them for
//! people. An action with a stream, a timeout or another property is built with [`Action::new`].
//!
//! * [`Plugin::action`] takes an asynchronous handler. All of them share one thread, so a plugin with a thousand idle
//!   calls costs no more than one; what computes or blocks for more than a millisecond or so belongs into a
//! * [`Plugin::blocking_action`], which runs on one of a bounded number of threads.
//!
//! What is to outlive the process and the version is kept with [`Call::store`]: a write that has returned is on the disk. A version that keeps it in another form
//! says so with [`Plugin::state_schema`], and how to get there with [`Plugin::migration`].
//!
//! The handle of the call, [`Call`], knows caller and deadline, and is the way to tell progress, to log, to read and
//! write streams, and to learn of a cancellation.
//!
//! ```
//! use palisade_sdk::{Action, Call, Error, Plugin, Result, log};
//!
//! // Reads numbers, writes their running sum. `send` waits while the receiver has no room.
//! async fn sums(call: Call, (): ()) -> Result<u64> {
//!     let (mut numbers, mut sums) = (call.input::<u64>()?, call.output::<u64>()?);
//!     let mut sum = 0_u64;
//!     while let Some(number) = numbers.next().await? {
//!         sum = sum.checked_add(number).ok_or_else(|| Error::failed("the sum is too large"))?;
//!         sums.send(sum).await?;
//!     }
//!     log::info!(call, sum = sum; "all read");
//!     Ok(sum)
//! }
//!
//! // Computes; looks now and then whether it is still wanted.
//! fn primes(call: Call, below: u32) -> Result<u32> {
//!     let mut count = 0;
//!     for number in 2..below {
//!         if number % 1000 == 0 {
//!             call.check()?;
//!             call.progress(100.0 * f64::from(number) / f64::from(below), "counting");
//!         }
//!         count += u32::from((2..number).take_while(|d| d * d <= number).all(|d| number % d != 0));
//!     }
//!     Ok(count)
//! }
//!
//! let plugin = Plugin::new("numbers", "1.0.0")
//!     .with(Action::new("sums", "Adds up.").input::<u64>().output::<u64>().handler(sums))
//!     .blocking_action("primes", "Counts primes.", primes);
//! # let _ = plugin;
//! ```
//!
//! # Errors, panics, cancellation
//!
//! Handlers return [`Result`]; `?` turns any standard error into `execution_failed` with its chain of causes, and
//! [`Error`] has a function for each usual code. A panic ends its call with `execution_failed`, message and place, and
//! nothing else (in a program built with `panic = "abort"` it ends the process, which Palisade restarts).
//!
//! A call is cancelled because its caller asked for it or went away, its deadline passed, or the plugin is being
//! drained. A blocking handler has to look at [`Call::is_cancelled`]. The future of an asynchronous one is dropped
//! where it waits, unless it asked for [`Call::cancelled`] or [`Call::is_cancelled`] before: then it ends by itself,
//! soon, usually with [`Error::cancelled`]. Waiting for a stream ends with that error as well.
//!
//! # The life of a plugin
//!
//! | hook | runs | when it fails |
//! |---|---|---|
//! | [`on_load`](Plugin::on_load) | first: the process is confined, the supervisor has greeted it | the plugin ends |
//! | `initialize`, given to [`Plugin::with_state`] | next, with the configuration; makes the state | the plugin ends, and the operator reads why |
//! | [`health`](Plugin::health) | after the start, and whenever the supervisor asks; 5 s | the plugin counts as unwell |
//! | [`self_test`](Plugin::self_test) | after the start of a version that is tried beside the one that serves; 30 s | the version before goes on |
//! | [`configure`](Plugin::configure) | when the configuration was changed; 10 s | another process is started with it, or, for `configuration_invalid`, nothing is changed |
//! | [`drain`](Plugin::drain) | when it is to finish and its last call has ended | it is logged |
//! | [`shutdown`](Plugin::shutdown) | at the orderly end, after calls were cancelled | it is logged |
//! | [`on_unload`](Plugin::on_unload) | last of all, also without a state | it is logged |
//! | [`on_error`](Plugin::on_error) | whenever a handler or hook fails or panics | it is logged |
//!
//! The end of input and SIGTERM both mean: end now. Calls are cancelled, hooks run, and after 5 seconds at most
//! ([`Plugin::shutdown_within`]) the process exits.
//!
//! # Bounds
//!
//! 256 calls at once ([`Plugin::concurrency`]), further ones are answered `overloaded`; 64 MiB per parameters, result
//! or item, in pieces of 128 KiB that never hold up other calls; 1 MiB of credit per stream and direction; 256 KiB of
//! log lines that wait; 64 host calls; messages of errors, logs and progress of a few KiB, longer ones are cut.
//!
//! # Around it
//!
//! Standard output and error are captured as logs; this crate writes nothing on standard output, but
//! for the answers to `--palisade-describe` and `--palisade-manifest`. The connection has
//! descriptors 3 and 4 to itself. [`testing`] has an in-memory supervisor. With the feature `tracing`, `TracingLayer`
//! sends what is logged by way of that crate.
#![deny(unsafe_code)]
#![deny(missing_docs)]

mod action;
mod call;
mod connection;
mod descriptors;
mod dispatch;
mod error;
mod exchange;
mod handler;
mod host;
mod lifecycle;
pub mod log;
mod panic;
mod plugin;
mod reader;
mod secret;
mod skeleton;
mod store;
mod stream;
pub mod testing;
mod text;
#[cfg(feature = "tracing")]
mod tracing_layer;
mod value;
mod wire;

pub use action::{Action, ActionOptions};
pub use bytes::Bytes;
pub use call::Call;
pub use error::{Context, Error, Result};
pub use host::{Host, SelfInfo};
pub use palisade_protocol::{
    CancelReason, Class, ErrorBody, ErrorCode, Fault, Guarantee, GuaranteeState, Level, Proof, ProofSource,
};
pub use plugin::{Configure, Exit, Plugin};
pub use schemars;
pub use secret::Secret;
pub use serde;
pub use store::{Conflict, Entry, Key, Keys, Store, Transaction};
pub use stream::{BytesInput, BytesOutput, Input, Output};
#[cfg(feature = "tracing")]
pub use tracing_layer::TracingLayer;
pub use value::{Params, Raw, Reply};
pub use wire::Failure;
