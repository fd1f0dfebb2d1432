//! Launchers that are made before anybody needs them: they run, with a user, a network and an IPC namespace that nobody is
//! in. Each serves one start, which then takes about two thirds of the time.
//!
//! Invariants: there are never more than `PREPARED_LAUNCHERS_MAX`; each is used once, by one plugin; a start never waits for one, and
//! without one it is made as ever; one that ended, or says anything, is not used; none is made while starts are under way.
//! Elsewhere: what is prepared is `prepared.rs` of the launcher; a start with one is `spawn`.

use std::{
    collections::VecDeque,
    future::poll_fn,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use palisade_launcher::{BUILD_ID, Report, Wanted};
use rustix::{
    net::{RecvFlags, recv},
    process::Signal,
};
use tokio::{
    io::Interest,
    net::UnixDatagram,
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};

use super::{
    Launchers,
    launcher::Launcher,
    launchers::Waiting,
    message::{Received, receive_from},
};
use crate::model::{limits::PREPARED_LAUNCHERS_MAX, status::PreparedLaunchers};

/// Starts have the processor to themselves: after one began, none is made for so long.
const QUIET: Duration = Duration::from_millis(50);

/// A launcher takes a millisecond to prepare; one that takes this long will not be ready.
const READY_WITHIN: Duration = Duration::from_secs(10);

/// After one could not be made, or ended by itself, the next is made so much later; twice as much each time, up to the most.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(64);

/// A launcher that waits for its start.
#[derive(Debug)]
pub struct Prepared {
    pub(super) socket: UnixDatagram,
    pub(super) launcher: Launcher,
}

impl Prepared {
    /// Its process number, for people to read; none once it has been waited for.
    pub fn launcher_pid(&self) -> Option<u32> {
        self.launcher.id()
    }

    /// Makes one and waits until it is ready.
    async fn make(launchers: &Launchers) -> Result<Self, String> {
        let Waiting { socket, launcher, .. } =
            launchers.start(Wanted::Prepared).await.map_err(|error| error.to_string())?;
        let made = Self { socket, launcher };
        match timeout(READY_WITHIN, made.until_ready()).await {
            Ok(Ok(())) => Ok(made),
            Ok(Err(reason)) => {
                made.end().await;
                Err(reason)
            }
            Err(_) => {
                made.end().await;
                Err(format!("the launcher was not ready within {READY_WITHIN:?}"))
            }
        }
    }

    async fn until_ready(&self) -> Result<(), String> {
        let mut known = false;
        loop {
            match self.next().await.map_err(|error| error.to_string())? {
                Received::Message(Report::Hello { build_id, .. }, _) if !known && build_id == BUILD_ID => known = true,
                Received::Message(Report::Prepared, _) if known => return Ok(()),
                Received::Message(Report::Failed(failure), _) if known => return Err(failure.to_string()),
                Received::Closed => return Err("the launcher ended".to_owned()),
                Received::Message(..) | Received::Short(_) | Received::Garbled => {
                    return Err("the launcher is of another build".to_owned());
                }
            }
        }
    }

    async fn next(&self) -> io::Result<Received> {
        self.socket.async_io(Interest::READABLE, || receive_from(&self.socket)).await
    }

    /// Whether it is there, and has said nothing.
    pub(super) fn is_there(&self) -> bool {
        self.peek().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    fn peek(&self) -> io::Result<()> {
        recv(&self.socket, &mut [0_u8; 1][..], RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
        Ok(())
    }

    /// Whether it has ended, or speaks without being asked. The waker stays registered after `Pending`.
    fn poll_spoilt(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.socket.poll_recv_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Ready(Ok(())) => {}
            }
            match self.socket.try_io(Interest::READABLE, || self.peek()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(_) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    /// Ends it, and waits until it is gone.
    async fn end(mut self) {
        self.launcher.signal(Signal::KILL);
        self.launcher.wait().await;
    }
}

/// The prepared launchers of a daemon.
#[derive(Debug)]
pub struct Stock {
    wanted: usize,
    state: Mutex<State>,
    /// Told when one was taken.
    taken: Notify,
    /// Told when there are to be none any more.
    closing: Notify,
    standing: watch::Sender<PreparedLaunchers>,
}

#[derive(Debug)]
struct State {
    ready: VecDeque<Prepared>,
    /// When the last start began.
    last_start: Option<Instant>,
    problem: Option<String>,
    /// How often in a row one could not be made or did not stay.
    failures: u32,
    closed: bool,
}

impl Stock {
    /// A stock that is empty yet, of at most [`PREPARED_LAUNCHERS_MAX`].
    #[must_use]
    pub fn new(wanted: usize) -> Self {
        let wanted = wanted.min(PREPARED_LAUNCHERS_MAX);
        let state = State { ready: VecDeque::new(), last_start: None, problem: None, failures: 0, closed: false };
        Self {
            wanted,
            state: Mutex::new(state),
            taken: Notify::new(),
            closing: Notify::new(),
            standing: watch::Sender::new(PreparedLaunchers { wanted, ready: 0, problem: None }),
        }
    }

    /// One that is ready, for the start that begins now; none is as good.
    pub fn take(&self) -> Option<Prepared> {
        let mut state = self.state();
        state.last_start = Some(Instant::now());
        let taken = state.ready.pop_front();
        if taken.is_some() {
            state.failures = 0;
            state.problem = None;
            self.tell(&state);
            self.taken.notify_one();
        }
        taken
    }

    /// How many there are, at any time.
    #[must_use]
    pub fn standing(&self) -> watch::Receiver<PreparedLaunchers> {
        self.standing.subscribe()
    }

    fn tell(&self, state: &State) {
        self.standing.send_replace(PreparedLaunchers {
            wanted: self.wanted,
            ready: state.ready.len(),
            problem: state.problem.clone(),
        });
    }

    /// Keeps the stock full, until it is closed or this is dropped.
    pub async fn run(&self, launchers: &Launchers) {
        loop {
            while self.is_short() {
                self.quiet().await;
                match Prepared::make(launchers).await {
                    Ok(made) => self.put(made).await,
                    Err(reason) => self.fail(reason).await,
                }
            }
            // Whoever paused meanwhile has heard of it already, and it is told once.
            if self.state().closed {
                return;
            }
            tokio::select! {
                spoilt = self.spoilt() => {
                    spoilt.end().await;
                    self.fail("a prepared launcher ended by itself".to_owned()).await;
                }
                () = self.taken.notified() => {}
                () = self.closing.notified() => return,
            }
        }
    }

    /// Ends all there are; none is made or given out any more.
    pub async fn close(&self) {
        let all = {
            let mut state = self.state();
            state.closed = true;
            let all = std::mem::take(&mut state.ready);
            self.tell(&state);
            all
        };
        self.closing.notify_one();
        for prepared in all {
            prepared.end().await;
        }
    }

    fn is_short(&self) -> bool {
        let state = self.state();
        !state.closed && state.ready.len() < self.wanted
    }

    /// Waits until no start has begun for a while.
    async fn quiet(&self) {
        loop {
            let last = self.state().last_start;
            match last.map(|at| at + QUIET).filter(|due| Instant::now() < *due) {
                Some(due) => sleep_until(due).await,
                None => return,
            }
        }
    }

    async fn put(&self, made: Prepared) {
        let mut over = Some(made);
        {
            let mut state = self.state();
            if !state.closed {
                state.ready.extend(over.take());
                self.tell(&state);
            }
        }
        if let Some(over) = over {
            over.end().await;
        }
    }

    /// Notes that one could not be made or did not stay, and waits before the next is tried.
    async fn fail(&self, reason: String) {
        let failures = {
            let mut state = self.state();
            state.failures = state.failures.saturating_add(1);
            state.problem = Some(reason.clone());
            self.tell(&state);
            state.failures
        };
        // Starts are made without; to say it once is enough.
        if failures == 1 {
            tracing::warn!(%reason, "no launcher is prepared; starts take longer");
        }
        let doublings = failures.saturating_sub(1).min(PAUSE_MAX.as_secs().ilog2());
        let _ = timeout(PAUSE * 2_u32.pow(doublings), self.closing.notified()).await;
    }

    /// One that is of no use any more, once there is one.
    async fn spoilt(&self) -> Prepared {
        poll_fn(|cx| {
            let mut state = self.state();
            let found = state.ready.iter().position(|prepared| prepared.poll_spoilt(cx).is_ready());
            match found.and_then(|at| state.ready.remove(at)) {
                Some(spoilt) => Poll::Ready(spoilt),
                None => Poll::Pending,
            }
        })
        .await
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::LauncherImage, *};

    #[test]
    fn a_stock_is_bounded_and_an_empty_one_has_none_to_give() {
        let stock = Stock::new(1000);
        assert_eq!(
            *stock.standing().borrow(),
            PreparedLaunchers { wanted: PREPARED_LAUNCHERS_MAX, ready: 0, problem: None }
        );
        assert!(stock.take().is_none());
    }

    #[tokio::test]
    async fn it_can_be_closed_while_it_pauses_after_a_failure() {
        let launchers = Launchers::of(LauncherImage::load(Path::new("/bin/true")).unwrap());
        let stock = Stock::new(1);
        let close = async {
            let mut standing = stock.standing();
            standing.wait_for(|standing| standing.problem.is_some()).await.unwrap();
            stock.close().await;
        };
        let both = async { tokio::join!(stock.run(&launchers), close) };
        timeout(Duration::from_secs(60), both).await.expect("it ends");
    }
}
