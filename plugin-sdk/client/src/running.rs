//! A call that runs: its streams, its progress, its end.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use palisade_protocol::{Kind, PIECE_BYTES, Progress, StreamKind};

use crate::CallError;
use crate::link::Handle;
use crate::payload::{FromPayload, IntoPayload, Raw, nil};

/// A call that runs. Dropping it cancels the call, whoever still holds its input or output.
///
/// Its parts can be used at the same time, from one task or several: an [`Input`], an [`Output`], [`ProgressUpdates`], and the
/// result. An output that is taken has to be read (or dropped) for the call to come to its end.
#[derive(Debug)]
pub struct Running {
    handle: Handle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.cancel();
    }
}

impl Running {
    pub(crate) fn new(handle: Handle) -> Self {
        Self { handle }
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The call's id on its connection, as the supervisor's log has it.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.handle.id()
    }

    /// Asks the action to stop. The call is over when [`Running::result`] says so; it may still end well.
    pub fn cancel(&self) {
        self.handle.cancel();
    }

    /// What can cancel the call while its result is waited for.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        Canceller { handle: self.handle.clone() }
    }

    /// Opens the input stream. A call has one at most.
    ///
    /// # Errors
    /// [`CallError::Invalid`] when the supervisor speaks no streams.
    pub fn input(&self, kind: StreamKind) -> Result<Input, CallError> {
        if !self.handle.terms().streams {
            return Err(CallError::invalid("this daemon does not know streams"));
        }
        self.handle.open_input(kind);
        Ok(Input { handle: self.handle.clone(), kind, state: InputState::Open })
    }

    /// The output stream. Take it before the result is waited for: what nobody takes is refused then. A call has one at most,
    /// and taking it twice divides it.
    #[must_use]
    pub fn output(&self) -> Output {
        self.handle.want_output();
        Output { handle: self.handle.clone(), over: false }
    }

    /// The progress that the action reports.
    #[must_use]
    pub fn progress(&self) -> ProgressUpdates {
        ProgressUpdates { handle: self.handle.clone() }
    }

    /// Waits for the result. An output stream that was not taken is refused; one that was taken has to be read.
    ///
    /// Dropping the future cancels the call.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn result<R: FromPayload>(self) -> Result<R, CallError> {
        self.handle.refuse_output_unless_wanted();
        let outcome = std::future::poll_fn(|cx| self.handle.poll_outcome(cx)).await;
        R::from_payload(outcome.into_result()?, "result")
    }
}

/// Cancels a call from elsewhere; see [`Running::canceller`].
#[derive(Debug, Clone)]
pub struct Canceller {
    handle: Handle,
}

impl Canceller {
    /// As [`Running::cancel`]. Nothing happens when the call is over.
    pub fn cancel(&self) {
        self.handle.cancel();
    }
}

/// Why input is not sent.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum InputError {
    /// The action wants no more, or the call is over; its result says which.
    #[error("the action takes no more input")]
    Closed,
    /// The item cannot be sent as it is.
    #[error(transparent)]
    Invalid(CallError),
}

/// The stream that a call reads. Dropped before [`Input::finish`], it tells the action that the input is incomplete.
#[derive(Debug)]
pub struct Input {
    handle: Handle,
    kind: StreamKind,
    state: InputState,
}

#[derive(Debug, PartialEq, Eq)]
enum InputState {
    Open,
    /// An item is being sent, or was when its future was dropped: another cannot follow it.
    Cut,
    Finished,
}

impl Drop for Input {
    fn drop(&mut self) {
        if self.state != InputState::Finished {
            self.handle.abort_input();
        }
    }
}

impl Input {
    /// Sends one item, at the action's pace.
    ///
    /// Not cancel safe: after a future that was dropped unfinished the stream is aborted, as an item may be cut in two.
    ///
    /// # Errors
    /// [`InputError`]. Of an item on a stream of bytes as well.
    pub async fn send(&mut self, item: impl IntoPayload) -> Result<(), InputError> {
        if self.kind != StreamKind::Items {
            return Err(InputError::Invalid(CallError::invalid("this input is a stream of bytes, not of items")));
        }
        let mut payload = item.into_payload().map_err(InputError::Invalid)?;
        if payload.is_empty() {
            // An empty payload means nil, and an item has to be something that can be sent.
            payload = nil();
        }
        let terms = self.handle.terms();
        let most = if terms.may_continue {
            terms.limits.payload_bytes_max
        } else {
            // Without continuation an item is one piece, and a piece needs credit for all of it.
            u64::from(terms.limits.frame_bytes_max.min(terms.limits.credit_bytes)).min(PIECE_BYTES as u64 + 1) - 1
        };
        if payload.len() as u64 > most {
            let detail = format!("an item has {} bytes, more than {most}", payload.len());
            return Err(InputError::Invalid(CallError::invalid(detail)));
        }
        self.send_all(true, &mut payload).await
    }

    /// Sends bytes, at the action's pace; where they are cut means nothing.
    ///
    /// Not cancel safe, in that it is not told how many were sent.
    ///
    /// # Errors
    /// [`InputError`]. Of bytes on a stream of items as well.
    pub async fn write(&mut self, bytes: impl Into<Bytes>) -> Result<(), InputError> {
        if self.kind != StreamKind::Bytes {
            return Err(InputError::Invalid(CallError::invalid("this input is a stream of items, not of bytes")));
        }
        self.send_all(false, &mut bytes.into()).await
    }

    async fn send_all(&mut self, marked: bool, payload: &mut Bytes) -> Result<(), InputError> {
        if self.state != InputState::Open {
            return Err(InputError::Closed);
        }
        self.state = InputState::Cut;
        self.handle.send(Kind::StreamData, marked, payload).await.map_err(|_| InputError::Closed)?;
        self.state = InputState::Open;
        Ok(())
    }

    /// Says that this was all.
    pub fn finish(mut self) {
        if self.state == InputState::Open {
            self.handle.end_input();
            self.state = InputState::Finished;
        }
    }
}

/// One unit of an output stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// One item.
    Item(Raw),
    /// Some bytes; where they are cut means nothing.
    Bytes(Bytes),
}

/// The stream that a call writes. Reading it lets the action go on; dropping it tells the action to send no more, and leaves the
/// call running.
#[derive(Debug)]
pub struct Output {
    handle: Handle,
    over: bool,
}

impl Drop for Output {
    fn drop(&mut self) {
        if !self.over {
            self.handle.refuse_output();
        }
    }
}

impl Output {
    /// The next unit; `None` at the end, also when the action wrote no stream at all. An error is the last one: the stream was
    /// aborted, or the call failed.
    ///
    /// Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Piece, CallError>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// The next item, decoded. As [`Output::next`]; bytes are an error.
    pub async fn next_item<T: FromPayload>(&mut self) -> Option<Result<T, CallError>> {
        std::future::poll_fn(|cx| self.poll_item(cx)).await
    }

    /// The next bytes. As [`Output::next`]; an item is an error.
    pub async fn next_bytes(&mut self) -> Option<Result<Bytes, CallError>> {
        Some(match self.next().await? {
            Ok(Piece::Bytes(bytes)) => Ok(bytes),
            Ok(Piece::Item(_)) => Err(self.wrong_kind("this output is a stream of items, not of bytes")),
            Err(error) => Err(error),
        })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, CallError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let unit = ready!(self.handle.poll_output(cx));
        self.over = !matches!(unit, Some(Ok(_)));
        Poll::Ready(unit.map(|unit| {
            unit.map(|unit| match unit.kind {
                StreamKind::Items => Piece::Item(Raw::new(unit.payload)),
                StreamKind::Bytes => Piece::Bytes(unit.payload),
            })
        }))
    }

    fn poll_item<T: FromPayload>(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<T, CallError>>> {
        Poll::Ready(match ready!(self.poll(cx)) {
            Some(Ok(Piece::Item(item))) => Some(T::from_payload(item.into_bytes(), "item")),
            Some(Ok(Piece::Bytes(_))) => Some(Err(self.wrong_kind("this output is a stream of bytes, not of items"))),
            Some(Err(error)) => Some(Err(error)),
            None => None,
        })
    }

    fn wrong_kind(&mut self, detail: &str) -> CallError {
        self.over = true;
        self.handle.refuse_output();
        CallError::Decode { what: "stream", detail: detail.into() }
    }
}

/// What an action reports of how far it is. Only the newest report is kept.
#[derive(Debug)]
pub struct ProgressUpdates {
    handle: Handle,
}

impl ProgressUpdates {
    /// The next report; `None` when the call is over. Cancel safe.
    pub async fn next(&mut self) -> Option<Progress> {
        std::future::poll_fn(|cx| self.handle.poll_progress(cx)).await
    }
}

/// The items that a call writes, and the call itself: dropping it cancels the call. A [`Stream`].
#[derive(Debug)]
pub struct Items<T> {
    output: Output,
    running: Running,
    item: PhantomData<fn() -> T>,
}

impl<T: FromPayload> Items<T> {
    pub(crate) fn new(running: Running) -> Self {
        Self { output: running.output(), running, item: PhantomData }
    }

    /// The next item; `None` at the end. An error is the last one if the call failed; one that was not decoded is not. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<T, CallError>> {
        self.output.next_item().await
    }

    /// Waits for the call's result. Items that were not read are dropped, and the action is told to send no more.
    ///
    /// # Errors
    /// Any [`CallError`].
    pub async fn result<R: FromPayload>(self) -> Result<R, CallError> {
        drop(self.output);
        self.running.result().await
    }
}

impl<T: FromPayload> Stream for Items<T> {
    type Item = Result<T, CallError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().output.poll_item(cx)
    }
}
