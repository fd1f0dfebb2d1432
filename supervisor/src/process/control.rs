//! What becomes of a child: the launcher's reports, and the ways to end, stop and continue it.
//!
//! The control socket is the lifeline: when the daemon's end closes, by `drop` or because the daemon died, the launcher
//! kills the tree and leaves. Killing never depends on the launcher alone: the leaf cgroup and pid 1's pidfd are here
//! as well, so that a tree ends even while its launcher is stopped.

use std::{
    future::poll_fn,
    io,
    net::TcpListener,
    os::fd::{AsRawFd, OwnedFd},
    task::{Context, Poll, ready},
    time::Duration,
};

use palisade_launcher::{BUILD_ID, Command, Denied, Failure, Step};
use rustix::{
    io::Errno,
    net::SendFlags,
    process::{Signal, pidfd_send_signal},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixDatagram,
};

use super::{
    Exit, Exited,
    launcher::{Launcher, ended},
    message::{Received, receive_from},
};
use crate::sandbox::{cgroup::Leaf, lend::Lent};

/// How long a lost launcher's leaf cgroup is watched for becoming empty, where nothing else proves it.
const LEAF_EMPTY_WITHIN: Duration = Duration::from_secs(5);

/// What the launcher tells about a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The child has executed its program.
    Started(Started),
    /// It was refused a system call, and that is written down.
    Denied(Denied),
    /// It could not be started, and nothing of it is left. Final.
    Failed(Failure),
    /// It ran and is gone with everything it started, or its launcher is (`Exit::LauncherLost`). Final.
    Exited(Exited),
}

impl Report {
    /// Nothing follows this report.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Started(_) | Self::Denied(_) => false,
            Self::Failed(_) | Self::Exited(_) => true,
        }
    }
}

/// The processes of a started child by number, for people to read; a signal never goes by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Started {
    /// pid 1 of the tree, as the host counts.
    pub init_pid: u32,
    /// The plugin's main process, as the host counts.
    pub plugin_pid: u32,
}

/// A child's fate, in the hands of its owner.
#[derive(Debug)]
pub struct Control {
    /// Of the kind `SOCK_SEQPACKET`: datagrams that know of an end. tokio's name for what keeps messages apart.
    socket: UnixDatagram,
    launcher: Launcher,
    leaf: Option<Leaf>,
    /// Held for as long as a process of the tree may run as that user.
    lent: Option<Lent>,
    pidfds: Option<Pidfds>,
    /// Whether a listener comes along when the child has started.
    listens: bool,
    /// It, until somebody takes it.
    listener: Option<TcpListener>,
    started: Option<Started>,
    phase: Phase,
    /// The launcher has said that it is of this build.
    known: bool,
    /// The launcher was made before it was needed.
    prepared: bool,
    /// The daemon has asked for the end, so a missing report of pid 1 is no surprise.
    killed: bool,
}

#[derive(Debug)]
struct Pidfds {
    init: OwnedFd,
    plugin: OwnedFd,
}

#[derive(Debug)]
enum Phase {
    /// The launcher has not said yet who it is.
    Greeting,
    /// It is the right one.
    Known,
    /// It has said its last, and is being waited for.
    Closing(Report),
    /// It ended without a last word; the tree is being waited for.
    Lost,
    /// All is said.
    Ended(Report),
}

/// Whether a launcher has said already who it is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Greeting {
    Awaited,
    Heard,
}

impl Control {
    pub(super) fn new(
        socket: UnixDatagram,
        launcher: Launcher,
        greeting: Greeting,
        leaf: Option<Leaf>,
        lent: Option<Lent>,
        listens: bool,
    ) -> Self {
        Self {
            socket,
            launcher,
            leaf,
            lent,
            pidfds: None,
            listens,
            listener: None,
            started: None,
            phase: match greeting {
                Greeting::Awaited => Phase::Greeting,
                Greeting::Heard => Phase::Known,
            },
            known: matches!(greeting, Greeting::Heard),
            prepared: matches!(greeting, Greeting::Heard),
            killed: false,
        }
    }

    /// Waits for the next report. After a final one it gives that one again.
    ///
    /// Cancel safe: a report is taken from the socket and remembered without an await in between.
    pub async fn next_report(&mut self) -> Report {
        loop {
            match &self.phase {
                Phase::Ended(report) => return report.clone(),
                Phase::Closing(report) => {
                    let report = report.clone();
                    // It has nothing left to do; this only keeps a launcher that was stopped from being waited for.
                    self.launcher.signal(Signal::KILL);
                    self.launcher.wait().await;
                    self.end(report);
                }
                Phase::Lost => {
                    let exit = self.lose_launcher().await;
                    self.end(Report::Exited(Exited { exit, usage: palisade_launcher::Usage::default() }));
                }
                Phase::Greeting | Phase::Known => {
                    if let Some(report) = poll_fn(|cx| self.poll_report(cx)).await {
                        return report;
                    }
                }
            }
        }
    }

    /// Whether the launcher is there and may report; once it is not, only [`Control::next_report`] has news.
    pub fn is_attended(&self) -> bool {
        matches!(self.phase, Phase::Greeting | Phase::Known)
    }

    /// The next report of a launcher that [is attended](Control::is_attended); `None` when it has said its last word.
    ///
    /// The waker stays registered after `Pending` until the socket has something, also if this is not polled again.
    pub fn poll_report(&mut self, cx: &mut Context<'_>) -> Poll<Option<Report>> {
        while self.is_attended() {
            let readable = ready!(self.socket.poll_recv_ready(cx));
            let received =
                readable.and_then(|()| self.socket.try_io(Interest::READABLE, || receive_from(&self.socket)));
            let received = match received {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                // That is how the end of a launcher shows that left something of ours unread. The kernel tells it once, and first, and
                // what the launcher had said lies there still.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => continue,
                Err(_) => Received::Closed,
            };
            if let Some(report) = self.take_in(received) {
                return Poll::Ready(Some(report));
            }
        }
        Poll::Ready(None)
    }

    /// What was reported when the child started, if it has.
    pub fn started(&self) -> Option<Started> {
        self.started
    }

    /// The listener in the child's network namespace, once: if one was asked for and the child has started.
    pub fn take_listener(&mut self) -> Option<TcpListener> {
        self.listener.take()
    }

    /// The child's cgroup, if it was given one and has not ended.
    pub fn leaf(&self) -> Option<&Leaf> {
        self.leaf.as_ref()
    }

    /// Whether the launcher has shown itself to be the one of this build. Until then nothing is known of the host.
    pub fn launcher_is_known(&self) -> bool {
        self.known
    }

    /// Whether the launcher was made before it was needed.
    pub fn was_prepared(&self) -> bool {
        self.prepared
    }

    /// The launcher's process number, for people to read; none once it has been waited for.
    pub fn launcher_pid(&self) -> Option<u32> {
        self.launcher.id()
    }

    /// Asks the plugin's main process to end, with SIGTERM. One that has ended already is no error; one that was not
    /// started yet is.
    pub fn terminate(&self) -> io::Result<()> {
        let Some(pidfds) = &self.pidfds else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the plugin has not started"));
        };
        match pidfd_send_signal(&pidfds.plugin, Signal::TERM) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Kills the whole tree, frozen or not, by every way there is. The end is reported as usual.
    pub fn kill(&mut self) {
        self.killed = true;
        // Each of these suffices; that one of them is missing or late is no failure.
        let _ = self.command(Command::Kill);
        if let Some(leaf) = &self.leaf {
            let _ = leaf.kill();
        }
        if let Some(pidfds) = &self.pidfds {
            let _ = pidfd_send_signal(&pidfds.init, Signal::KILL);
        }
        self.wake_launcher();
    }

    /// Kills the launcher, whose end takes the tree along: for a tree that `kill` did not end.
    pub fn kill_launcher(&mut self) {
        self.killed = true;
        // One that has ended already is as good.
        self.launcher.signal(Signal::KILL);
    }

    /// Stops every process of the tree where it is: by the cgroup freezer, or, without a cgroup, by SIGSTOP from pid 1.
    /// It has been asked for when this returns, and holds a moment later.
    pub fn freeze(&self) -> io::Result<()> {
        match &self.leaf {
            Some(leaf) => leaf.freeze(),
            None => self.command(Command::Freeze),
        }
    }

    /// Lets a frozen tree run on.
    pub fn thaw(&self) -> io::Result<()> {
        match &self.leaf {
            Some(leaf) => leaf.thaw(),
            None => self.command(Command::Thaw),
        }
    }

    /// Lets a launcher run on that somebody has stopped, so that it can report the end.
    fn wake_launcher(&self) {
        self.launcher.signal(Signal::CONT);
    }

    fn command(&self, command: Command) -> io::Result<()> {
        let bytes = palisade_launcher::encode(&command).map_err(io::Error::other)?;
        rustix::net::send(&self.socket, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// What follows from a message: a report to give out at once, or another phase.
    fn take_in(&mut self, received: Received) -> Option<Report> {
        use palisade_launcher::Report as Said;
        match (received, &self.phase) {
            (Received::Message(Said::Hello { build_id, .. }, _), Phase::Greeting) if build_id == BUILD_ID => {
                self.phase = Phase::Known;
                self.known = true;
            }
            (Received::Message(Said::Hello { build_id, .. }, _), Phase::Greeting) => {
                self.refuse(format!(
                    "the launcher is of build {build_id} and this daemon of build {BUILD_ID}; install both from the \
                     same build, then restart palisaded"
                ));
            }
            (Received::Message(..) | Received::Short(_) | Received::Garbled, Phase::Greeting) => {
                self.refuse(format!(
                    "the launcher did not say which build it is; this daemon needs the one of build {BUILD_ID}"
                ));
            }
            (Received::Message(Said::Started, descriptors), Phase::Known) => match arrived(descriptors, self.listens) {
                Ok((pidfds, listener, started)) => {
                    self.listener = listener;
                    self.pidfds = Some(pidfds);
                    self.started = Some(started);
                    if self.killed {
                        // What was asked for before there was anything to kill holds for what there is now.
                        self.kill();
                    }
                    return Some(Report::Started(started));
                }
                Err(error) => self.refuse(format!("the plugin's descriptors did not arrive: {error}")),
            },
            (Received::Message(Said::Denied(denied), _), Phase::Known) => return Some(Report::Denied(denied)),
            (Received::Message(Said::Failed(failure), _), Phase::Known) => {
                self.phase = Phase::Closing(Report::Failed(failure));
            }
            (Received::Message(Said::Exited { end, usage }, _), Phase::Known) => {
                let out_of_memory = self.leaf.as_ref().is_some_and(Leaf::out_of_memory);
                let exit = Exit::of(end, self.killed, out_of_memory);
                self.phase = Phase::Closing(Report::Exited(Exited { exit, usage }));
            }
            // A launcher of this build says hello once, that it is prepared before it has a start, and sends whole messages; one that
            // does not is not trusted to watch over anything.
            (Received::Message(Said::Hello { .. } | Said::Prepared, _) | Received::Short(_) | Received::Garbled, _) => {
                self.kill();
                self.launcher.signal(Signal::KILL);
                self.phase = Phase::Lost;
            }
            (Received::Closed, Phase::Greeting) => self.refuse(format!(
                "the launcher ended before it said which build it is; this daemon needs the one of build {BUILD_ID}"
            )),
            (Received::Closed, _) => self.phase = Phase::Lost,
            (Received::Message(..), Phase::Closing(_) | Phase::Lost | Phase::Ended(_)) => {}
        }
        None
    }

    /// Ends a launcher with which there is nothing to be had.
    fn refuse(&mut self, message: String) {
        self.kill();
        let failure = Failure { step: Step::Specification, errno: 0, message };
        self.phase = Phase::Closing(Report::Failed(failure));
    }

    /// Waits for a launcher that ended without a last word, and for the tree that dies with it.
    async fn lose_launcher(&mut self) -> Exit {
        // pid 1 dies with its launcher by itself; this is in case it could not arrange for that yet.
        self.kill();
        let signal = self.launcher.wait().await;
        let tree_gone = match (&self.pidfds, &self.leaf) {
            (Some(pidfds), _) => ended(&pidfds.init).await.is_ok(),
            (None, Some(leaf)) => empty(leaf).await,
            (None, None) => false,
        };
        Exit::LauncherLost { signal, tree_gone }
    }

    /// Everything is over: the leaf and the lent user go, and the report stays.
    fn end(&mut self, report: Report) {
        self.leaf = None;
        self.lent = None;
        self.pidfds = None;
        self.listener = None;
        self.phase = Phase::Ended(report);
    }
}

/// What comes with `Started`: two pidfds and the numbers behind them, and a listener if one was asked for.
fn arrived(descriptors: Vec<OwnedFd>, listens: bool) -> io::Result<(Pidfds, Option<TcpListener>, Started)> {
    let mut descriptors = descriptors.into_iter();
    let (Some(init), Some(plugin), listener, None) =
        (descriptors.next(), descriptors.next(), descriptors.next(), descriptors.next())
    else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "two or three descriptors were expected"));
    };
    if listener.is_some() != listens {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "a listener comes where one was asked for, and only there",
        ));
    }
    let started = Started { init_pid: pid_of(&init)?, plugin_pid: pid_of(&plugin)? };
    Ok((Pidfds { init, plugin }, listener.map(TcpListener::from), started))
}

/// The number of the process behind a pidfd, as this process counts; 0 if it has been waited for already.
fn pid_of(pidfd: &OwnedFd) -> io::Result<u32> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    let number = text.lines().find_map(|line| line.strip_prefix("Pid:")).map(str::trim);
    match number.and_then(|number| number.parse::<i64>().ok()) {
        // -1 means that the process is gone.
        Some(number) => Ok(u32::try_from(number).unwrap_or(0)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "not a pidfd")),
    }
}

/// Waits, within a bound, until no process is left in a cgroup. The kernel announces each change of its events.
async fn empty(leaf: &Leaf) -> bool {
    let watching = async {
        let events = leaf.events()?;
        #[expect(
            deprecated,
            reason = "its successor is unsafe, for types that are not I/O-safe; this owns a descriptor"
        )]
        let watched = AsyncFd::with_interest(events, Interest::PRIORITY)?;
        // Reading is what the next announcement is counted from, so it comes before each wait.
        while watched.get_ref().populated()? {
            watched.ready(Interest::PRIORITY).await?.clear_ready();
        }
        io::Result::Ok(())
    };
    tokio::time::timeout(LEAF_EMPTY_WITHIN, watching).await.is_ok_and(|watched| watched.is_ok())
}
