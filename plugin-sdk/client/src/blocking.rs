//! The client for programs without tokio. It owns a small runtime that runs while a call waits.

use std::future::Future;
use std::io;
use std::path::PathBuf;

use tokio::runtime::{Builder, Runtime};

use crate::payload::{FromPayload, IntoPayload};
use crate::{CallError, Request};

/// A client whose calls block the calling thread. It may be shared between threads, whose calls then go at the same time.
#[derive(Debug)]
pub struct Client {
    client: crate::Client,
    runtime: Runtime,
}

impl Client {
    /// Connects to the supervisor at `path`.
    ///
    /// # Errors
    /// As [`crate::Builder::connect`], and [`CallError::Invalid`] when the system gives no runtime, for want of descriptors.
    pub fn connect(path: impl Into<PathBuf>) -> Result<Self, CallError> {
        Self::build(crate::Client::builder().path(path))
    }

    /// Connects as `builder` says.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub fn build(builder: crate::Builder) -> Result<Self, CallError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error: io::Error| CallError::invalid(format!("no runtime can be had: {error}")))?;
        let client = runtime.block_on(builder.connect())?;
        Ok(Self { client, runtime })
    }

    /// Calls an action and waits for its result.
    ///
    /// # Errors
    /// Any [`CallError`].
    ///
    /// # Panics
    /// Within an asynchronous context, as any blocking call on a runtime does.
    pub fn call<R: FromPayload>(&self, plugin: &str, action: &str, params: impl IntoPayload) -> Result<R, CallError> {
        self.block_on(self.client.call(plugin, action, params))
    }

    /// A call with more to say about it, to be made within [`Client::block_on`].
    pub fn request<'a>(&'a self, plugin: &'a str, action: &'a str) -> Request<'a> {
        self.client.request(plugin, action)
    }

    /// The client beneath, whose futures [`Client::block_on`] runs.
    #[must_use]
    pub fn client(&self) -> &crate::Client {
        &self.client
    }

    /// Waits for a future of this client's.
    ///
    /// # Panics
    /// As [`Client::call`].
    pub fn block_on<F: Future>(&self, future: F) -> F::Output {
        self.runtime.block_on(future)
    }
}
