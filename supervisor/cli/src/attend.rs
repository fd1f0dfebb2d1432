//! Waiting with somebody at the keyboard: Ctrl-C cancels, and what takes longer than two seconds shows that it goes on.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use palisade_client::{Canceller, Progress, ProgressUpdates};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};

use crate::failure::{BROKEN_PIPE, Failure, INTERRUPTED, TERMINATED};
use crate::output::Reader;
use crate::screen::{Screen, one_line};

/// Nothing is shown of what takes less.
const QUIET: Duration = Duration::from_secs(2);

/// How often what is shown moves.
const TICK: Duration = Duration::from_millis(100);

/// How long an interrupted call may take to end; the daemon gives the plugin two seconds to cancel.
const CANCEL_GRACE: Duration = Duration::from_secs(5);

/// Tells of signals. The first asks the command to end, the second ends the program at once.
#[derive(Debug, Clone)]
pub(crate) struct Interrupts(watch::Receiver<Option<u8>>);

impl Interrupts {
    /// Begins to listen, on a thread of the runtime, so that a second signal works while output is stuck.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            loop {
                let status = tokio::select! {
                    _ = interrupt.recv() => INTERRUPTED,
                    _ = terminate.recv() => TERMINATED,
                };
                if sender.borrow().is_some() {
                    std::process::exit(i32::from(status));
                }
                // Nobody listens any more only when the program is about to end anyway.
                let _ = sender.send(Some(status));
            }
        });
        Ok(Self(receiver))
    }

    #[cfg(test)]
    pub(crate) fn none() -> Self {
        Self(watch::channel(None).1)
    }

    /// Waits for the first signal, and says with which status to exit.
    async fn first(&mut self) -> u8 {
        loop {
            if let Some(status) = *self.0.borrow_and_update() {
                return status;
            }
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Attends to a command while it waits.
pub(crate) struct Attendant {
    interrupts: Interrupts,
    /// What to cancel on an interruption; without it the command just ends.
    pub(crate) canceller: Option<Canceller>,
    pub(crate) progress: Option<ProgressUpdates>,
    /// Who is waited for no longer than they read; without it that is noticed by writing.
    pub(crate) reader: Option<Reader>,
    interrupted: Option<(u8, Instant)>,
    bar: Option<ProgressBar>,
    begun: Instant,
    what: String,
    latest: Option<Progress>,
}

impl Attendant {
    pub(crate) fn new(screen: &Screen, interrupts: &Interrupts, what: impl Into<String>) -> Self {
        let bar = screen.stderr_is_terminal.then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden()));
        Self {
            interrupts: interrupts.clone(),
            canceller: None,
            progress: None,
            reader: None,
            interrupted: None,
            bar,
            begun: Instant::now(),
            what: what.into(),
            latest: None,
        }
    }

    /// The status to exit with when the command was interrupted.
    pub(crate) fn interrupted(&self) -> Option<u8> {
        self.interrupted.map(|(status, _)| status)
    }

    /// Waits for `future`, and calls `idle` once before it really has to wait.
    ///
    /// # Errors
    /// A silent failure when the user interrupts and there is nothing to cancel, or it does not end in time; likewise when nobody
    /// reads any more.
    pub(crate) async fn wait<T>(
        &mut self,
        future: impl Future<Output = T>,
        idle: impl FnOnce() -> Result<(), Failure>,
    ) -> Result<T, Failure> {
        let mut future = pin!(future);
        let mut idle = Some(idle);
        let first = std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await;
        if let Poll::Ready(output) = first {
            return Ok(output);
        }
        if let Some(idle) = idle.take() {
            idle()?;
        }
        let mut tick = interval_at((self.begun + QUIET).max(Instant::now()), TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let give_up = self.interrupted.map(|(_, at)| at);
            tokio::select! {
                biased;
                output = &mut future => return Ok(output),
                status = self.interrupts.first(), if give_up.is_none() => {
                    let Some(canceller) = &self.canceller else { return Err(Failure::silent(status)) };
                    canceller.cancel();
                    self.interrupted = Some((status, Instant::now() + CANCEL_GRACE));
                }
                () = sleep_until(give_up.unwrap_or_else(Instant::now)), if give_up.is_some() => {
                    return Err(Failure::silent(self.interrupted().unwrap_or(INTERRUPTED)));
                }
                () = gone(self.reader.as_ref()), if self.reader.is_some() => return Err(Failure::silent(BROKEN_PIPE)),
                update = next(&mut self.progress), if self.progress.is_some() => match update {
                    Some(update) => self.latest = Some(update),
                    None => self.progress = None,
                },
                _ = tick.tick(), if self.bar.is_some() => self.show(),
            }
        }
    }

    /// Shows how far it is.
    fn show(&mut self) {
        let Some(bar) = &self.bar else { return };
        if bar.is_hidden() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        let message = match (&self.interrupted, &self.latest) {
            (Some(_), _) => "cancelling; Ctrl-C again ends at once".to_owned(),
            (None, Some(Progress { message: Some(message), .. })) => one_line(message),
            (None, _) => self.what.clone(),
        };
        let percentage =
            self.latest.as_ref().and_then(|latest| latest.percentage).filter(|percent| percent.is_finite());
        let template = match percentage {
            Some(_) => "{spinner} {elapsed:>4} {bar:24} {percent:>3} % {wide_msg}",
            None => "{spinner} {elapsed:>4} {wide_msg}",
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        if let Some(percentage) = percentage {
            bar.set_length(100);
            bar.set_position(percentage.clamp(0.0, 100.0) as u64);
        }
        bar.set_message(message);
        bar.tick();
    }

    /// Takes what is shown off the screen, before something else is printed; the next tick brings it back.
    pub(crate) fn hide(&self) {
        if let Some(bar) = self.bar.as_ref().filter(|bar| !bar.is_hidden()) {
            bar.set_draw_target(ProgressDrawTarget::hidden());
            // Changing the target leaves the old line; it is the last one that was drawn.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), b"\r\x1b[2K");
        }
    }
}

impl Drop for Attendant {
    fn drop(&mut self) {
        self.hide();
    }
}

async fn next(progress: &mut Option<ProgressUpdates>) -> Option<Progress> {
    match progress {
        Some(progress) => progress.next().await,
        None => None,
    }
}

async fn gone(reader: Option<&Reader>) {
    match reader {
        Some(reader) => reader.gone().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn idle_is_called_before_waiting_and_only_then() {
        let mut attendant = Attendant::new(&Screen::plain(), &Interrupts::none(), "waiting");
        let mut calls = 0;
        let ready = attendant.wait(async { 1 }, || {
            calls += 1;
            Ok(())
        });
        assert_eq!(ready.await, Ok(1));
        assert_eq!(calls, 0);
        let mut calls = 0;
        let later = attendant.wait(tokio::task::yield_now(), || {
            calls += 1;
            Ok(())
        });
        assert_eq!(later.await, Ok(()));
        assert_eq!(calls, 1);
        let failed = attendant.wait(std::future::pending::<()>(), || Err(Failure::silent(141)));
        assert_eq!(failed.await, Err(Failure::silent(141)));
    }
}
