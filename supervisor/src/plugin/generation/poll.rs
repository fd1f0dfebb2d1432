//! What a generation's task waits for: everything that can bring news, in one poll.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use super::super::host_calls::Answer;
use super::{BATCH, Held, Order, Task};
use crate::process::Report;
use crate::wire::Filled;

/// While more than that waits in the small lane, no more calls are taken in: the plugin does not read.
const CONGESTED_BYTES: usize = 256 << 10;

/// The sources of news that had none when they were polled last. The task's waker stays registered with them, so until the task
/// is polled anew there is no news of them: a turn that was woken by one source asks the others once, not once more for the wait
/// after it.
#[derive(Debug, Default)]
pub(super) struct Quiet {
    /// Set at the beginning of each poll of the task: somebody may have woken it.
    anew: Arc<AtomicBool>,
    now: Silence,
}

/// Which sources had none.
#[derive(Debug, Default)]
struct Silence {
    output: bool,
    report: bool,
    messages: bool,
    answers: bool,
    orders: bool,
    timer: bool,
}

impl Quiet {
    /// What is known to have none, as of this poll of the task.
    fn now(&mut self) -> &mut Silence {
        if self.anew.load(Ordering::Relaxed) {
            self.anew.store(false, Ordering::Relaxed);
            self.now = Silence::default();
        }
        &mut self.now
    }
}

/// Whether a source had nothing, noted in `quiet`.
fn note<T>(quiet: &mut bool, polled: Poll<T>) -> Option<T> {
    match polled {
        Poll::Ready(news) => Some(news),
        Poll::Pending => {
            *quiet = true;
            None
        }
    }
}

/// What one poll brought.
#[derive(Default)]
pub(super) struct Wake {
    pub(super) filled: Option<std::io::Result<Filled>>,
    pub(super) flush_failed: bool,
    pub(super) report: Option<Box<Report>>,
    pub(super) messages: bool,
    /// Answers to host calls.
    pub(super) answers: Vec<(u64, Answer)>,
    pub(super) order: Option<Order>,
    pub(super) timer: bool,
}

impl Task {
    /// Runs, and notes each poll for [`Quiet`].
    pub(super) fn run_polled(self: Box<Self>) -> impl Future<Output = ()> + Send {
        let anew = self.quiet.anew.clone();
        let mut run = Box::pin(self.run());
        poll_fn(move |cx| {
            anew.store(true, Ordering::Relaxed);
            run.as_mut().poll(cx)
        })
    }

    /// Sets the timer to whatever is due first.
    pub(super) fn arm(&mut self) {
        let offer = self.offer.as_ref().map(|offer| offer.until);
        let next = [self.machine.deadline(), self.link.next_due(), offer].into_iter().flatten().min();
        match (self.armed, next) {
            // A timer that fires early only looks and finds nothing, so it is moved when something becomes due before it
            // and not for every call that ends.
            (Some(armed), Some(next)) if armed <= next => {}
            (_, Some(next)) => {
                self.timer.as_mut().reset(next.into());
                self.armed = Some(next);
                self.quiet.now.timer = false;
            }
            (_, None) => self.armed = None,
        }
    }

    /// Waits until anything brings news, and takes all that there is by then.
    pub(super) async fn wait(&mut self) -> Wake {
        let Self { link, inbox, working, orders, batch, reader, child, timer, armed, quiet, .. } = self;
        let (mut input, mut output, control) = match child {
            // What it says is heard once it is known who it is, so that whoever it answers finds its process in `status`.
            Some(Held { input, output, control, .. }) => {
                let output = if control.started().is_some() { output.as_mut() } else { None };
                (input.as_mut(), output, Some(control))
            }
            None => (None, None, None),
        };
        let (mut attended, left) = match control {
            Some(control) if control.is_attended() => (Some(control), None),
            left => (None, left),
        };
        // One future for as long as is waited: with a new one in each poll nobody would know whom to wake.
        let mut parting = pin!(async {
            match left {
                Some(control) => control.next_report().await,
                None => std::future::pending().await,
            }
        });
        let parts = attended.is_none();
        poll_fn(|cx| {
            let quiet = quiet.now();
            let mut wake = Wake::default();
            let mut ready = false;
            if let Some(input) = &mut input
                && !link.outbox.is_empty()
            {
                match link.outbox.poll_flush(cx, input) {
                    Poll::Ready(Ok(())) | Poll::Pending => {}
                    Poll::Ready(Err(_)) => {
                        wake.flush_failed = true;
                        ready = true;
                    }
                }
            }
            // What callers have sent is taken once there is room for it.
            ready |= link.can_catch_up();
            if let Some(output) = &mut output
                && !quiet.output
                && let Some(filled) = note(&mut quiet.output, reader.poll_fill(cx, output))
            {
                wake.filled = Some(filled);
                ready = true;
            }
            if let Some(control) = &mut attended
                && !quiet.report
                && let Some(reported) = note(&mut quiet.report, control.poll_report(cx))
            {
                wake.report = reported.map(Box::new);
                ready = true;
            }
            if parts && let Poll::Ready(reported) = parting.as_mut().poll(cx) {
                wake.report = Some(Box::new(reported));
                ready = true;
            }
            if !quiet.messages
                && link.outbox.small_bytes() < CONGESTED_BYTES
                && let Some(1..) = note(&mut quiet.messages, inbox.messages.poll_recv_many(cx, batch, BATCH))
            {
                wake.messages = true;
                ready = true;
            }
            while !quiet.answers && !working.is_empty() {
                match note(&mut quiet.answers, working.poll_join_next(cx)) {
                    Some(Some(Ok(answer))) => wake.answers.push(answer),
                    // Nobody is told; the plugin waits for that one for as long as it wants to.
                    Some(Some(Err(error))) => tracing::error!(%error, "a host call was not worked off"),
                    Some(None) | None => break,
                }
                ready = true;
            }
            if !quiet.orders
                && let Some(Some(order)) = note(&mut quiet.orders, orders.poll_recv(cx))
            {
                wake.order = Some(order);
                ready = true;
            }
            if armed.is_some() && !quiet.timer && note(&mut quiet.timer, timer.as_mut().poll(cx)).is_some() {
                wake.timer = true;
                ready = true;
            }
            if ready { Poll::Ready(wake) } else { Poll::Pending }
        })
        .await
    }
}
