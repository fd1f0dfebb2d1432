//! The plugin's end of the connection: reads frames, starts handlers, writes what they answer.
//!
//! One task owns it and awaits [`Connection::next`], which returns only what the plugin's life turns on; calls,
//! streams, cancels and pings are dealt with on the way. All frames of one read are handled before anything is written,
//! and all answers go in one write.
//!
//! Invariants: reading never waits for a handler; it stops only while the supervisor leaves more than a bound of small
//! frames unread. Elsewhere: what follows from an event is decided in `lifecycle`.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use palisade_protocol::{Drain, ErrorBody, FRAME_BYTES_MAX, Header, Kind, Welcome};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep};

use crate::dispatch::Dispatch;
use crate::exchange::Arrived;
use crate::reader::{Incoming, Reader};
use crate::wire::Batch;

/// A pipe that grew for a large payload goes back to its first size when none has passed for so long. An ordinary user
/// may have few large pipes.
const LARGE_FOR: Duration = Duration::from_secs(1);
/// Payloads of that size count as large.
const LARGE_BYTES: usize = 64 << 10;

/// Something that frames are read from or written to.
pub(crate) trait Channel {
    /// Makes room for large payloads, or gives it back. Best effort.
    fn resize(&self, large: bool);
}

impl Channel for tokio::io::DuplexStream {
    fn resize(&self, _: bool) {}
}

/// What the plugin's life turns on.
#[derive(Debug)]
pub(crate) enum Event {
    Welcome(Box<Welcome>),
    Drain(Drain),
    /// The supervisor will not go on.
    Refused(Box<ErrorBody>),
    /// The supervisor is gone, or wants the plugin gone.
    End,
    /// Reading or writing failed.
    Broken(io::Error),
    /// The supervisor broke a rule; the sentence says which.
    Violation(String),
}

pub(crate) struct Connection<S, R, W> {
    pub(crate) dispatch: Dispatch<S>,
    source: R,
    sink: W,
    reads: bool,
    writes: bool,
    reader: Reader,
    batch: Batch,
    large: Option<Large>,
}

/// When a large payload last passed.
struct Large {
    last: Instant,
    /// Polled beside the pipes, and never awaited: it only wakes the task to give them back.
    timer: Pin<Box<Sleep>>,
}

impl<S, R, W> Connection<S, R, W>
where
    S: Send + Sync + 'static,
    R: AsyncRead + Channel + Unpin,
    W: AsyncWrite + Channel + Unpin,
{
    pub(crate) fn new(dispatch: Dispatch<S>, source: R, sink: W) -> Self {
        Self {
            dispatch,
            source,
            sink,
            reads: true,
            writes: true,
            reader: Reader::new(FRAME_BYTES_MAX),
            batch: Batch::default(),
            large: None,
        }
    }

    /// What the plugin's life turns on next. Cancel safe: frames are never half handled.
    pub(crate) async fn next(&mut self) -> Event {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// Writes everything there is. Cancel safe.
    pub(crate) async fn flush(&mut self) {
        poll_fn(|context| {
            if !self.writes || (self.poll_write(context).is_ready() && self.dispatch.wire.is_flushed()) {
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }

    /// Takes no more frames.
    pub(crate) fn stop_reading(&mut self) {
        self.reads = false;
    }

    pub(crate) fn set_frame_bytes_max(&mut self, frame_bytes_max: u32) {
        self.reader.set_frame_bytes_max(frame_bytes_max);
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Event> {
        loop {
            match self.handle_frames() {
                Ok(None) => {}
                Ok(Some(event)) => return Poll::Ready(event),
                Err(sentence) => {
                    self.reads = false;
                    return Poll::Ready(Event::Violation(sentence));
                }
            }
            if let Poll::Ready(Err(error)) = self.poll_write(context) {
                self.writes = false;
                // Nobody reads any more, which is as good as the end of input.
                let is_gone = error.kind() == io::ErrorKind::BrokenPipe;
                return Poll::Ready(if is_gone { Event::End } else { Event::Broken(error) });
            }
            self.dispatch.reap();
            self.poll_shrink(context);
            if self.reads && !self.dispatch.wire.is_backlogged() {
                match self.reader.poll_read(context, &mut self.source) {
                    Poll::Ready(Ok(0)) => {
                        self.reads = false;
                        return Poll::Ready(Event::End);
                    }
                    Poll::Ready(Ok(_)) => {
                        self.dispatch.now = Instant::now();
                        continue;
                    }
                    Poll::Ready(Err(error)) => {
                        self.reads = false;
                        return Poll::Ready(Event::Broken(error));
                    }
                    Poll::Pending => {}
                }
            }
            // With a batch under way, the sink wakes this task; otherwise whoever writes a frame does.
            if self.dispatch.wire.park(context.waker()) || !self.batch.is_empty() || !self.writes {
                return Poll::Pending;
            }
        }
    }

    /// Writes as much as the pipe takes; ready when nothing is left.
    fn poll_write(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.writes {
            return Poll::Ready(Ok(()));
        }
        loop {
            if self.batch.is_empty() {
                self.dispatch.wire.fill(&mut self.batch);
                if self.batch.is_empty() {
                    return Poll::Ready(Ok(()));
                }
                if self.batch.tail.len() >= LARGE_BYTES {
                    self.note_large(false);
                }
            }
            let Batch { head, written, tail } = &self.batch;
            let head = &head[*written..];
            let sink = Pin::new(&mut self.sink);
            let polled = if tail.is_empty() {
                sink.poll_write(context, head)
            } else if head.is_empty() {
                sink.poll_write(context, tail)
            } else {
                sink.poll_write_vectored(context, &[IoSlice::new(head), IoSlice::new(tail)])
            };
            match polled {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(written)) => self.batch.advance(written),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn note_large(&mut self, incoming: bool) {
        let now = Instant::now();
        match &mut self.large {
            Some(large) => large.last = now,
            // Polled beside the pipes, and waited for by nobody.
            None => self.large = Some(Large { last: now, timer: Box::pin(tokio::time::sleep(LARGE_FOR)) }),
        }
        // Asking for the size it has already is one cheap system call per large payload.
        if incoming {
            self.source.resize(true);
        } else {
            self.sink.resize(true);
        }
    }

    /// Gives large pipes back when nothing large has passed for a while.
    fn poll_shrink(&mut self, context: &mut Context<'_>) {
        let Some(large) = &mut self.large else { return };
        while large.timer.as_mut().poll(context).is_ready() {
            let due = large.last + LARGE_FOR;
            if due <= Instant::now() {
                self.source.resize(false);
                self.sink.resize(false);
                self.large = None;
                return;
            }
            large.timer.as_mut().reset(due);
        }
    }

    fn handle_frames(&mut self) -> Result<Option<Event>, String> {
        while self.reads && !self.dispatch.wire.is_backlogged() {
            let was_large = self.reader.is_large();
            let wire = &self.dispatch.wire;
            let take = |header: &Header, kind: Kind| match kind {
                Kind::Continue | Kind::StreamData | Kind::HostOk => {
                    wire.find(header.id).map(|exchange| exchange.take_joined(kind)).unwrap_or_default()
                }
                _ => Vec::new(),
            };
            let Some(incoming) = self.reader.next(take).map_err(|error| error.to_string())? else {
                if self.reader.is_large() && !was_large {
                    self.note_large(true);
                }
                return Ok(None);
            };
            let event = match incoming {
                Incoming::Whole(kind, frame) => {
                    let (body, payload) = frame.parts(kind).map_err(|error| error.to_string())?;
                    self.dispatch.frame(kind, frame.header, body, Arrived::Slice(payload))?
                }
                Incoming::Large { kind, header, body, payload } => {
                    self.dispatch.frame(kind, header, &body, Arrived::Joined(payload))?
                }
            };
            if self.dispatch.take_wipe() {
                self.reader.wipe();
            }
            if event.is_some() {
                return Ok(event);
            }
        }
        Ok(None)
    }
}
