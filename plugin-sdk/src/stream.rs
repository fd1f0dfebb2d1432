//! Streams of a call. What flows is bounded by credit in bytes: a sender waits until its receiver has room, and a slow
//! receiver stalls its own stream alone.

use std::fmt;
use std::future::{Future, poll_fn};
use std::marker::PhantomData;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use bytes::Bytes;
use palisade_protocol::decode_value;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::wrong_params;
use crate::exchange::Exchange;
use crate::{Error, Result};

/// A stream of items that comes in with a call.
///
/// Dropping it before its end tells the caller to stop sending.
pub struct Input<T> {
    source: Source,
    items: PhantomData<fn() -> T>,
}

/// A stream of bytes that comes in with a call.
///
/// Dropping it before its end tells the caller to stop sending.
pub struct BytesInput {
    source: Source,
}

/// A stream of items that goes out with a call.
///
/// It ends when the handler returns `Ok`, or earlier by [`Output::finish`]. A handler that fails aborts it.
pub struct Output<T> {
    exchange: Arc<Exchange>,
    items: PhantomData<fn(T)>,
}

/// A stream of bytes that goes out with a call.
///
/// It ends when the handler returns `Ok`, or earlier by [`BytesOutput::finish`]. A handler that fails aborts it.
pub struct BytesOutput {
    exchange: Arc<Exchange>,
}

struct Source(Arc<Exchange>);

impl Source {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        poll_fn(|context| self.0.poll_input(context)).await
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.0.drop_input();
    }
}

impl<T: DeserializeOwned> Input<T> {
    pub(crate) fn new(exchange: Arc<Exchange>) -> Self {
        Self { source: Source(exchange), items: PhantomData }
    }

    /// Waits for the next item; `None` at the stream's end. Cancel safe: no item is lost.
    ///
    /// A caller that never opens its stream makes this wait until the call is cancelled.
    ///
    /// # Errors
    /// `invalid_params` for an item that is not a `T` (the next one can still be read), `cancelled` when the call was
    /// cancelled or has ended, or the error with which the caller aborted the stream.
    pub async fn next(&mut self) -> Result<Option<T>> {
        match self.source.next().await? {
            None => Ok(None),
            Some(bytes) => decode_value(&bytes).map(Some).map_err(|error| wrong_params(&error)),
        }
    }

    /// As [`Input::next`], for handlers on threads of their own. Never to be called in an asynchronous handler.
    ///
    /// # Errors
    /// As [`Input::next`].
    pub fn blocking_next(&mut self) -> Result<Option<T>> {
        block_on(self.next())
    }
}

impl BytesInput {
    pub(crate) fn new(exchange: Arc<Exchange>) -> Self {
        Self { source: Source(exchange) }
    }

    /// Waits for the next bytes, up to 1 MiB of them; `None` at the stream's end. Where they are cut means nothing.
    /// Cancel safe: no bytes are lost.
    ///
    /// # Errors
    /// `cancelled` when the call was cancelled or has ended, or the error with which the caller aborted the stream.
    pub async fn next(&mut self) -> Result<Option<Bytes>> {
        self.source.next().await
    }

    /// As [`BytesInput::next`], for handlers on threads of their own. Never to be called in an asynchronous handler.
    ///
    /// # Errors
    /// As [`BytesInput::next`].
    pub fn blocking_next(&mut self) -> Result<Option<Bytes>> {
        block_on(self.next())
    }
}

impl<T: Serialize> Output<T> {
    pub(crate) fn new(exchange: Arc<Exchange>) -> Self {
        Self { exchange, items: PhantomData }
    }

    /// Waits until there is room (256 KiB wait at most), then hands the item over. Cancel safe: an item is sent whole
    /// or not at all.
    ///
    /// # Errors
    /// `cancelled` when the call was cancelled or has ended, `resource_exhausted` for an item larger than a payload may
    /// be, or the error with which the receiver asked to stop.
    pub async fn send(&mut self, item: T) -> Result<()> {
        poll_fn(|context| self.exchange.poll_room(context)).await?;
        let mut bytes = Vec::new();
        palisade_protocol::encode_value(&mut bytes, &item)?;
        self.exchange.push_output(bytes.into())
    }

    /// As [`Output::send`], for handlers on threads of their own. Never to be called in an asynchronous handler.
    ///
    /// # Errors
    /// As [`Output::send`].
    pub fn blocking_send(&mut self, item: T) -> Result<()> {
        block_on(self.send(item))
    }

    /// Ends the stream before the call ends.
    pub fn finish(self) {
        self.exchange.close_output(Ok(()));
    }

    /// Ends the stream with an error, before the call ends.
    pub fn abort(self, error: Error) {
        self.exchange.close_output(Err(Box::new(error.into_body())));
    }
}

impl BytesOutput {
    pub(crate) fn new(exchange: Arc<Exchange>) -> Self {
        Self { exchange }
    }

    /// Waits until there is room (256 KiB wait at most), then hands the bytes over. Cancel safe: all of the bytes are
    /// sent or none.
    ///
    /// # Errors
    /// `cancelled` when the call was cancelled or has ended, or the error with which the receiver asked to stop.
    pub async fn send(&mut self, bytes: impl Into<Bytes>) -> Result<()> {
        poll_fn(|context| self.exchange.poll_room(context)).await?;
        self.exchange.push_output(bytes.into())
    }

    /// As [`BytesOutput::send`], for handlers on threads of their own. Never to be called in an asynchronous handler.
    ///
    /// # Errors
    /// As [`BytesOutput::send`].
    pub fn blocking_send(&mut self, bytes: impl Into<Bytes>) -> Result<()> {
        block_on(self.send(bytes))
    }

    /// Ends the stream before the call ends.
    pub fn finish(self) {
        self.exchange.close_output(Ok(()));
    }

    /// Ends the stream with an error, before the call ends.
    pub fn abort(self, error: Error) {
        self.exchange.close_output(Err(Box::new(error.into_body())));
    }
}

macro_rules! opaque {
    ($($name:ident $(<$param:ident>)?),*) => {$(
        impl $(<$param>)? fmt::Debug for $name $(<$param>)? {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).finish_non_exhaustive()
            }
        }
    )*};
}

opaque!(Input<T>, BytesInput, Output<T>, BytesOutput);

struct Parked(Thread);

impl Wake for Parked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits on this thread. What is waited for here is woken by the connection or by a cancel, so it needs no runtime.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Parked(std::thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}
