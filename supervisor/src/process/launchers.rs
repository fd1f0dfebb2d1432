//! Where launchers come from.
//!
//! One launcher is executed and serves no plugin: it is the zygote, which makes copies of itself when it is asked to. A copy takes a
//! part of the time that executing the program takes, this process does other things meanwhile, and the table of its descriptors,
//! of which every plugin has eleven, is not copied and closed again for each.
//!
//! Invariants: nothing has been told to a launcher that is given out, so one that is lost on the way has started nothing, and ends as
//! its socket is closed; it is waited for, whoever made it. A zygote that does not answer is not asked again for a while, and launchers
//! are executed meanwhile, for which `one_by_one` has the reason: whoever waits here does so within a bound.
//! Elsewhere: the zygote's own side is `zygote.rs` of the launcher; what a launcher is told is `spawn`.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Command, Stdio},
    time::Duration,
};

use palisade_launcher::{BUILD_ID, Born, MODE_VARIABLE, MODE_ZYGOTE, Report, Wanted};
use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, waitid},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixDatagram,
    sync::{Mutex, watch},
    time::{Instant, timeout},
};

use super::{
    LauncherImage, Prepared,
    control::Greeting,
    launcher::Launcher,
    message::{Received, hand_over, receive_from, socket_pair},
};

/// The argument that has a launcher prepare.
const PREPARE: &str = "--prepare";

/// A copy takes a tenth of a millisecond; a zygote that takes this long is stopped, or worse.
const BORN_WITHIN: Duration = Duration::from_secs(5);

/// It is looked so often whether one has ended that nobody knows.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A program that would not be a zygote, or did not answer, is not asked again for so long.
const PAUSE: Duration = Duration::from_secs(60);

/// A launcher that waits to be told what it is to start. Dropping this ends it.
#[derive(Debug)]
pub struct Waiting {
    pub(super) socket: UnixDatagram,
    pub(super) launcher: Launcher,
    pub(super) greeting: Greeting,
}

/// Why there is no launcher.
#[derive(Debug, thiserror::Error)]
pub enum NoLauncher {
    /// The system made none.
    #[error("the launcher could not be made: {0}")]
    Refused(#[from] io::Error),
    /// The system would not execute it.
    #[error("the launcher could not be executed: {0}")]
    NotExecuted(io::Error),
    /// The zygote was lost on the way, which says nothing about the next one.
    #[error("the launcher could not be made: the process that it was to be a copy of {0}")]
    Lost(&'static str),
}

impl From<Errno> for NoLauncher {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno.into())
    }
}

/// Starts launchers.
#[derive(Debug)]
pub struct Launchers {
    image: LauncherImage,
    /// Held while a copy is made, as there is one zygote and it makes one at a time.
    zygote: Mutex<Kept>,
    one_by_one: watch::Sender<Option<String>>,
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
    /// Given up where there is no descriptor left for the pidfd of a copy.
    spare: Option<OwnedFd>,
}

/// What became of a question to the zygote.
enum Answer {
    Copy(Launcher),
    /// The system would not make one.
    Refused(Errno),
    /// It had ended before it read the question, so nothing came of it.
    Unheard,
    /// It may or may not have made one.
    Lost(&'static str),
}

/// There is no launcher, or there may be one of which nobody knows.
struct Without {
    error: NoLauncher,
    /// The zygote that may have made one, which has ended.
    lost: Option<u32>,
}

impl From<NoLauncher> for Without {
    fn from(error: NoLauncher) -> Self {
        Self { error, lost: None }
    }
}

impl Launchers {
    /// Of this program. None is started yet.
    #[must_use]
    pub fn of(image: LauncherImage) -> Self {
        Self { image, zygote: Mutex::new(Kept::Nothing), one_by_one: watch::Sender::new(None) }
    }

    /// The program.
    #[must_use]
    pub fn image(&self) -> &LauncherImage {
        &self.image
    }

    /// Why each launcher is executed by itself, at any time; nothing while they are copies.
    #[must_use]
    pub fn one_by_one(&self) -> watch::Receiver<Option<String>> {
        self.one_by_one.subscribe()
    }

    /// Ends the zygote, and waits for it. The next launcher has another one.
    pub async fn close(&self) {
        if let Kept::Zygote(zygote) = std::mem::replace(&mut *self.zygote.lock().await, Kept::Nothing) {
            zygote.end().await;
        }
    }

    /// One that waits: this one, which was prepared, if it is still there, and else a new one.
    ///
    /// Must be called within a tokio runtime whose I/O is enabled. Not cancel safe: a launcher that was on its way ends, and is not
    /// waited for.
    ///
    /// # Errors
    /// When there is none to be had; nothing was started.
    pub async fn attend(&self, prepared: Option<Prepared>) -> Result<Waiting, NoLauncher> {
        match prepared {
            Some(prepared) if prepared.is_there() => {
                let Prepared { socket, launcher } = prepared;
                return Ok(Waiting { socket, launcher, greeting: Greeting::Heard });
            }
            Some(_) => tracing::warn!("a prepared launcher ended by itself; a start is made without it"),
            None => {}
        }
        self.start(Wanted::Launcher).await
    }

    /// Starts one.
    pub(super) async fn start(&self, wanted: Wanted) -> Result<Waiting, NoLauncher> {
        let (ours, theirs) = socket_pair()?;
        match self.with_socket(theirs, wanted).await {
            Ok(launcher) => {
                let socket = UnixDatagram::from_std(ours.into())?;
                Ok(Waiting { socket, launcher, greeting: Greeting::Awaited })
            }
            Err(Without { error, lost }) => {
                if let Some(zygote) = lost {
                    end_what_was_made(ours, zygote).await;
                }
                Err(error)
            }
        }
    }

    async fn with_socket(&self, socket: OwnedFd, wanted: Wanted) -> Result<Launcher, Without> {
        let mut kept = self.zygote.lock().await;
        // The one that is there may have ended; a second one that does so has a reason.
        let mut problem = "two ended, one after the other".to_owned();
        for _ in 0..2 {
            // Whatever is not put back is done with.
            let mut zygote = match std::mem::replace(&mut *kept, Kept::Nothing) {
                Kept::Unable(until) if Instant::now() < until => {
                    *kept = Kept::Unable(until);
                    return Ok(execute(&self.image, socket, Mode::Serving(wanted)).map_err(NoLauncher::NotExecuted)?);
                }
                Kept::Zygote(zygote) => zygote,
                Kept::Nothing | Kept::Unable(_) => match Zygote::make(&self.image).await {
                    Ok(zygote) => {
                        self.one_by_one.send_replace(None);
                        zygote
                    }
                    Err(error) => {
                        problem = format!("none could be made: {error}");
                        break;
                    }
                },
            };
            match zygote.copy(&socket, wanted).await {
                // Without its spare descriptor it is not asked again.
                Answer::Copy(launcher) if zygote.spare.is_none() => return Ok(launcher),
                Answer::Copy(launcher) => {
                    *kept = Kept::Zygote(zygote);
                    return Ok(launcher);
                }
                Answer::Refused(errno) => {
                    *kept = Kept::Zygote(zygote);
                    return Err(NoLauncher::from(errno).into());
                }
                Answer::Unheard => {}
                Answer::Lost(how) => {
                    *kept = self.without(format!("the last one {how}"));
                    let lost = zygote.process.id();
                    zygote.end().await;
                    return Err(Without { error: NoLauncher::Lost(how), lost });
                }
            }
        }
        let launcher = execute(&self.image, socket, Mode::Serving(wanted)).map_err(NoLauncher::NotExecuted)?;
        *kept = self.without(problem);
        Ok(launcher)
    }

    /// Starts are made without a zygote; to say it once in a while is enough.
    fn without(&self, reason: String) -> Kept {
        tracing::warn!(%reason, "launchers are executed one by one for a while, which takes longer");
        self.one_by_one.send_replace(Some(reason));
        Kept::Unable(Instant::now() + PAUSE)
    }
}

impl Zygote {
    async fn make(image: &LauncherImage) -> io::Result<Self> {
        let (ours, theirs) = socket_pair()?;
        let process = execute(image, theirs, Mode::Zygote)?;
        let spare = Some(ours.try_clone()?);
        let zygote = Self { socket: ours, process, spare };
        let problem = match timeout(BORN_WITHIN, zygote.next()).await {
            Ok(Ok(Received::Message(Report::Hello { build_id, .. }, _))) if build_id == BUILD_ID => return Ok(zygote),
            Ok(Ok(_)) => io::Error::other("the launcher is of another build"),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
        zygote.end().await;
        Err(problem)
    }

    /// Has it make a copy that has this socket.
    async fn copy(&mut self, socket: &OwnedFd, wanted: Wanted) -> Answer {
        let Ok(message) = palisade_launcher::encode(&wanted) else { return Answer::Refused(Errno::MSGSIZE) };
        match hand_over(&self.socket, &message, &[socket.as_fd()]) {
            Ok(()) => {}
            Err(Errno::PIPE | Errno::CONNRESET) => return Answer::Unheard,
            Err(errno) => return Answer::Refused(errno),
        }
        match timeout(BORN_WITHIN, self.next::<Born>()).await {
            Ok(Ok(Received::Message(born, pidfds))) => self.copied(born, pidfds.into_iter().next()),
            Ok(Ok(Received::Short(born))) => self.copied(born, None),
            // So the kernel says that the question was still unread.
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => Answer::Unheard,
            Ok(Ok(Received::Closed) | Err(_)) => Answer::Lost("has ended"),
            Ok(Ok(Received::Garbled)) => Answer::Lost("is of another build"),
            Err(_) => Answer::Lost("did not answer in time"),
        }
    }

    fn copied(&mut self, born: Born, pidfd: Option<OwnedFd>) -> Answer {
        match (born, pidfd) {
            (Born::Nobody { errno }, _) => Answer::Refused(Errno::from_raw_os_error(errno)),
            (Born::Launcher { pid }, Some(pidfd)) => Answer::Copy(Launcher::new(pid, pidfd)),
            (Born::Launcher { pid }, None) => {
                self.spare = None;
                Launcher::of(pid).map_or(Answer::Lost("made one that cannot be held"), Answer::Copy)
            }
        }
    }

    async fn next<T: serde::de::DeserializeOwned>(&self) -> io::Result<Received<T>> {
        next(&self.socket).await
    }

    /// Ends it, and waits for that.
    async fn end(mut self) {
        self.process.signal(Signal::KILL);
        self.process.wait().await;
    }
}

async fn next<T: serde::de::DeserializeOwned>(socket: &OwnedFd) -> io::Result<Received<T>> {
    #[expect(deprecated, reason = "its successor is unsafe, for types that are not I/O-safe; a BorrowedFd is")]
    let watched = AsyncFd::with_interest(socket.as_fd(), Interest::READABLE)?;
    watched.async_io(Interest::READABLE, |_| receive_from(socket)).await
}

/// Ends what that zygote may have made and could not say: it says itself who it is, or the other end of its socket is closed.
async fn end_what_was_made(socket: OwnedFd, zygote: u32) {
    if let Ok(Ok(Received::Message(Report::Hello { pid, .. }, _))) = timeout(BORN_WITHIN, next(&socket)).await {
        if let Ok(mut launcher) = Launcher::of(pid) {
            launcher.signal(Signal::KILL);
            launcher.wait().await;
        }
        return;
    }
    // One that was killed before it could say so, or comes so late that it finds the socket closed, is in the zygote's process group still.
    // Of others that are, as they have only just begun, no more than the signal that ended them is lost to whoever waits for them.
    drop(socket);
    let group = i32::try_from(zygote).ok().and_then(Pid::from_raw);
    let until = Instant::now() + BORN_WITHIN;
    while group.is_some() && Instant::now() < until {
        match waitid(WaitId::Pgid(group), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(_)) | Err(Errno::INTR) => {}
            // The pause before another look: the end of one whose number nobody knows is told to nobody.
            Ok(None) => tokio::time::sleep(LOOK_EVERY).await,
            // Nobody is left in it.
            Err(_) => return,
        }
    }
}

impl Drop for Zygote {
    /// It would end with its socket, unless somebody has stopped it.
    fn drop(&mut self) {
        self.process.signal(Signal::KILL);
    }
}

/// What an executed launcher is to be.
enum Mode {
    Zygote,
    /// One that serves a start itself.
    Serving(Wanted),
}

/// Executes the program as a child of this process.
#[expect(clippy::disallowed_methods, reason = "this and `spawn` are where the daemon starts a process")]
fn execute(image: &LauncherImage, socket: OwnedFd, mode: Mode) -> io::Result<Launcher> {
    let mut command = Command::new(image.path());
    command.env_clear();
    match mode {
        Mode::Zygote => {
            command.env(MODE_VARIABLE, MODE_ZYGOTE);
        }
        Mode::Serving(Wanted::Launcher) => {}
        Mode::Serving(Wanted::Prepared) => {
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
