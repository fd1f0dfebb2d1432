//! Starts launchers, each of which is a child of this process.
//!
//! One launcher is executed and serves no plugin: it is the zygote, which makes copies of itself when it is asked to. A copy takes a
//! part of the time that executing the program takes, this process does other things meanwhile, and the table of its descriptors,
//! of which every plugin has eleven, is not copied and closed again for each.
//!
//! Invariants: a launcher is waited for, whoever made it; where there is no zygote, launchers are executed, and all else is the same.
//! Elsewhere: the zygote's own side is `zygote.rs` of the launcher; what a launcher is told is `spawn`.

use std::{
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
    time::Duration,
};

use palisade_launcher::{BUILD_ID, Born, MODE_VARIABLE, MODE_ZYGOTE, Report, Wanted};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
    sync::Mutex,
    time::{Instant, timeout},
};

use super::{
    LauncherImage,
    message::{Received, hand_over, receive_from, socket_pair},
};

/// The argument that has a launcher prepare.
const PREPARE: &str = "--prepare";

/// A copy takes a tenth of a millisecond; a zygote that takes this long is stopped, or worse.
const BORN_WITHIN: Duration = Duration::from_secs(5);

/// A program that would not be a zygote is not asked again for so long.
const PAUSE: Duration = Duration::from_secs(60);

/// Starts launchers.
#[derive(Debug)]
pub struct Launchers {
    image: LauncherImage,
    zygote: Mutex<Kept>,
}

#[derive(Debug)]
enum Kept {
    /// There is none yet, or none any more.
    Nothing,
    Zygote(Zygote),
    /// One could not be had, and is not tried for until then.
    Unable(Instant),
}

#[derive(Debug)]
struct Zygote {
    /// Of no runtime in particular, so that it outlives one.
    socket: OwnedFd,
    process: Launcher,
}

impl Drop for Zygote {
    /// It would end with its socket, unless somebody has stopped it.
    fn drop(&mut self) {
        self.process.signal(Signal::KILL);
    }
}

impl Launchers {
    /// Of this program. None is started yet.
    #[must_use]
    pub fn of(image: LauncherImage) -> Self {
        Self { image, zygote: Mutex::new(Kept::Nothing) }
    }

    /// The program.
    #[must_use]
    pub fn image(&self) -> &LauncherImage {
        &self.image
    }

    /// Starts one that has this end of a socket.
    ///
    /// Not cancel safe: a launcher that was on its way finds the other end of its socket closed and ends, and is not waited for.
    pub(super) async fn start(&self, socket: OwnedFd, wanted: Wanted) -> io::Result<Launcher> {
        let mut kept = self.zygote.lock().await;
        loop {
            // Whatever is not put back is done with.
            match std::mem::replace(&mut *kept, Kept::Nothing) {
                Kept::Unable(until) if Instant::now() < until => {
                    *kept = Kept::Unable(until);
                    break;
                }
                Kept::Nothing | Kept::Unable(_) => match Zygote::make(&self.image).await {
                    Ok(zygote) => *kept = Kept::Zygote(zygote),
                    Err(error) => {
                        tracing::debug!(%error, "there is no zygote; launchers are executed, which takes longer");
                        *kept = Kept::Unable(Instant::now() + PAUSE);
                    }
                },
                Kept::Zygote(zygote) => {
                    // One that has ended is found out here, before anything can come of it.
                    if zygote.ask(socket.as_fd(), wanted).is_err() {
                        continue;
                    }
                    let Ok(born) = timeout(BORN_WITHIN, zygote.answer()).await else {
                        return Err(io::Error::new(
                            io::ErrorKind::TimedOut,
                            format!("the process that makes launchers did not answer within {BORN_WITHIN:?}"),
                        ));
                    };
                    let born = born?;
                    *kept = Kept::Zygote(zygote);
                    return born.map_err(io::Error::from);
                }
            }
        }
        execute(&self.image, socket, Mode::Only(wanted))
    }
}

impl Zygote {
    async fn make(image: &LauncherImage) -> io::Result<Self> {
        let (ours, theirs) = socket_pair()?;
        let process = execute(image, theirs, Mode::Zygote)?;
        let zygote = Self { socket: ours, process };
        match timeout(BORN_WITHIN, zygote.next()).await?? {
            Received::Message(Report::Hello { build_id }, _) if build_id == BUILD_ID => Ok(zygote),
            _ => Err(io::Error::other("the launcher is of another build")),
        }
    }

    fn ask(&self, socket: BorrowedFd<'_>, wanted: Wanted) -> io::Result<()> {
        let message = palisade_launcher::encode(&wanted).map_err(io::Error::other)?;
        Ok(hand_over(&self.socket, &message, &[socket])?)
    }

    /// What became of what was asked, or why this is not to be asked again.
    async fn answer(&self) -> io::Result<Result<Launcher, Errno>> {
        let Received::Message(born, pidfds) = self.next().await? else {
            return Err(io::Error::other("the zygote has ended"));
        };
        match born {
            Born::Launcher { pid } => match pidfds.into_iter().next() {
                Some(pidfd) => Ok(Ok(Launcher { pid, pidfd: Some(pidfd) })),
                // There was no descriptor left for it here.
                None => Ok(Launcher::of(pid).inspect_err(|_| wait_by_number(pid))),
            },
            Born::Nobody { errno } => Ok(Err(Errno::from_raw_os_error(errno))),
        }
    }

    async fn next<T: serde::de::DeserializeOwned>(&self) -> io::Result<Received<T>> {
        #[expect(deprecated, reason = "its successor is unsafe, for types that are not I/O-safe; a BorrowedFd is")]
        let watched = AsyncFd::with_interest(self.socket.as_fd(), Interest::READABLE)?;
        watched.async_io(Interest::READABLE, |_| receive_from(&self.socket)).await
    }
}

/// What an executed launcher is to be.
enum Mode {
    Zygote,
    /// One that serves a start itself.
    Only(Wanted),
}

/// Executes the program as a child of this process.
#[expect(clippy::disallowed_methods, reason = "this is the one place where the daemon starts a process")]
fn execute(image: &LauncherImage, socket: OwnedFd, mode: Mode) -> io::Result<Launcher> {
    let mut command = Command::new(image.path());
    command.env_clear();
    match mode {
        Mode::Zygote => {
            command.env(MODE_VARIABLE, MODE_ZYGOTE);
        }
        Mode::Only(Wanted::Launcher) => {}
        Mode::Only(Wanted::Prepared) => {
            command.arg(PREPARE);
        }
    }
    command
        .arg0("palisade-launcher")
        // A signal from the daemon's terminal is the daemon's to act upon; its plugins are drained, not interrupted.
        .process_group(0)
        .stdin(Stdio::from(socket))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit());
    let mut child = command.spawn()?;
    Launcher::of(child.id()).map_err(|errno| {
        // Its socket is closed with the daemon's end, so it ends in any case.
        let _ = child.kill();
        let _ = child.wait();
        errno.into()
    })
}

/// A launcher, or the zygote.
#[derive(Debug)]
pub(super) struct Launcher {
    pid: u32,
    /// Until it has been waited for.
    pidfd: Option<OwnedFd>,
}

impl Launcher {
    /// The child of this process with that number, which nobody has waited for.
    fn of(pid: u32) -> Result<Self, Errno> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        Ok(Self { pid, pidfd: Some(pidfd_open(number, PidfdFlags::empty())?) })
    }

    /// Its number, for people to read; none once it has been waited for.
    pub(super) fn id(&self) -> Option<u32> {
        self.pidfd.as_ref().map(|_| self.pid)
    }

    /// Sends it a signal. One that has ended already is no error.
    pub(super) fn signal(&self, signal: Signal) {
        if let Some(pidfd) = &self.pidfd {
            let _ = pidfd_send_signal(pidfd, signal);
        }
    }

    /// Waits until it has ended, and says which signal ended it, if one did.
    pub(super) async fn wait(&mut self) -> Option<i32> {
        let signal = wait_for(self.pidfd.as_ref()?).await;
        self.pidfd = None;
        signal.ok().flatten()
    }
}

impl Drop for Launcher {
    /// The kernel keeps a child that nobody waits for.
    fn drop(&mut self) {
        if let (Some(pidfd), Ok(runtime)) = (self.pidfd.take(), Handle::try_current()) {
            runtime.spawn(async move { wait_for(&pidfd).await });
        }
    }
}

/// Waits for a launcher that nobody will speak to, and which therefore ends.
fn wait_by_number(pid: u32) {
    if let Some(number) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let waited = crate::blocking::run(move || waitid(WaitId::Pid(number), WaitIdOptions::EXITED));
        tokio::spawn(async move { drop(waited.await) });
    }
}

async fn wait_for(pidfd: &OwnedFd) -> io::Result<Option<i32>> {
    ended(pidfd).await?;
    let status = waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG)?;
    Ok(status.and_then(|status| status.terminating_signal()))
}

/// Waits until the process behind a pidfd has ended; for pid 1 of a namespace, until the namespace is empty.
pub(super) async fn ended(pidfd: &OwnedFd) -> io::Result<()> {
    #[expect(deprecated, reason = "its successor is unsafe, for types that are not I/O-safe; a BorrowedFd is")]
    let watched = AsyncFd::with_interest(pidfd.as_fd(), Interest::READABLE)?;
    watched.readable().await?.retain_ready();
    Ok(())
}
