//! One launcher, as the process that it is: a child of this one, signalled through its pidfd and waited for.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    runtime::Handle,
};

/// Where the end of a process cannot be watched for want of memory, it is looked at so often.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A launcher, or the zygote.
#[derive(Debug)]
pub(super) struct Launcher {
    pid: u32,
    /// Until it has been waited for.
    pidfd: Option<OwnedFd>,
}

impl Launcher {
    /// The child of this process with that number and pidfd.
    pub(super) fn new(pid: u32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd: Some(pidfd) }
    }

    /// The child of this process with that number, which nobody has waited for.
    pub(super) fn of(pid: u32) -> Result<Self, Errno> {
        let number = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        Ok(Self::new(pid, pidfd_open(number, PidfdFlags::empty())?))
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

    /// Waits until it has ended, and says which signal ended it, if one did. Cancel safe.
    pub(super) async fn wait(&mut self) -> Option<i32> {
        let signal = wait_for(self.pidfd.as_ref()?).await;
        self.pidfd = None;
        signal
    }
}

impl Drop for Launcher {
    /// The kernel keeps a child that nobody waits for. It ends by itself, as its socket goes with whoever had this; unless somebody
    /// has stopped it.
    fn drop(&mut self) {
        self.signal(Signal::CONT);
        if let (Some(pidfd), Ok(runtime)) = (self.pidfd.take(), Handle::try_current()) {
            runtime.spawn(async move { wait_for(&pidfd).await });
        }
    }
}

async fn wait_for(pidfd: &OwnedFd) -> Option<i32> {
    loop {
        let watched = ended(pidfd).await;
        match waitid(WaitId::PidFd(pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => return status.terminating_signal(),
            Err(errno) if errno != Errno::INTR => return None,
            Ok(None) | Err(_) => {}
        }
        if watched.is_err() {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// Waits until the process behind a pidfd has ended; for pid 1 of a namespace, until the namespace is empty.
pub(super) async fn ended(pidfd: &OwnedFd) -> io::Result<()> {
    #[expect(deprecated, reason = "its successor is unsafe, for types that are not I/O-safe; a BorrowedFd is")]
    let watched = AsyncFd::with_interest(pidfd.as_fd(), Interest::READABLE)?;
    watched.readable().await?.retain_ready();
    Ok(())
}
