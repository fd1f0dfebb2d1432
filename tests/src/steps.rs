//! Ends a daemon before a certain step of what it does: it is traced, and killed where it is about to change something on the disk.

use std::collections::HashSet;
use std::fs;
use std::time::Duration;

use libc::c_long;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::daemon::wait_for;

/// By which a file system is changed, or what is on the disk is made certain; not what only fills a file.
const STEPS: &[c_long] = &[
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_unlinkat,
    libc::SYS_mkdirat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_ftruncate,
    libc::SYS_pwrite64,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rename,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_link,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chmod,
];

/// How often it is looked whether a thread has stopped.
const LOOK: Duration = Duration::from_micros(200);

/// All that this thread traces, and nothing of others: tests that run beside this one in the same process wait for theirs.
const ITS_OWN: WaitPidFlag = WaitPidFlag::__WALL.union(WaitPidFlag::__WNOTHREAD);

/// A traced process, all of its threads. The thread that made this has to be the one that uses it.
#[derive(Debug)]
pub struct Traced {
    process: Pid,
    threads: HashSet<Pid>,
}

impl Traced {
    /// Traces the process, which goes on.
    ///
    /// # Errors
    /// Why it cannot be traced.
    pub fn of(process: u32) -> Result<Self, Errno> {
        let threads = fs::read_dir(format!("/proc/{process}/task")).map_err(|_| Errno::ESRCH)?;
        let threads: HashSet<Pid> =
            threads.filter_map(|thread| thread.ok()?.file_name().to_str()?.parse().ok()).map(Pid::from_raw).collect();
        for thread in &threads {
            ptrace::seize(*thread, Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE)?;
            ptrace::interrupt(*thread)?;
        }
        let process = Pid::from_raw(i32::try_from(process).map_err(|_| Errno::ESRCH)?);
        Ok(Self { process, threads })
    }

    /// Kills it before the step of that number, counted from 0, and says whether it came so far before it was `over`. It is not reaped.
    ///
    /// # Panics
    /// When it ends by itself.
    pub fn kill_before(mut self, step: usize, over: impl Fn() -> bool) -> bool {
        let mut steps = 0;
        while !over() {
            let status = match waitpid(None, Some(ITS_OWN | WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::StillAlive) => {
                    std::thread::sleep(LOOK);
                    continue;
                }
                status => status.expect("it is traced"),
            };
            let thread = status.pid().expect("it is somebody's");
            let signal = match status {
                WaitStatus::PtraceSyscall(_) => {
                    if is_step(thread) {
                        if steps == step {
                            self.kill();
                            return true;
                        }
                        steps += 1;
                    }
                    None
                }
                // The first stop of one that has just begun, too.
                WaitStatus::PtraceEvent(..) => {
                    self.threads.insert(thread);
                    None
                }
                WaitStatus::Stopped(_, signal) => Some(signal),
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => {
                    assert!(thread != self.process, "it ended: {status:?}");
                    self.threads.remove(&thread);
                    continue;
                }
                _ => None,
            };
            // A thread may have ended meanwhile, with the process.
            let _ = ptrace::syscall(thread, signal);
        }
        self.kill();
        false
    }

    /// The process can be reaped only once nobody has anything to say about its threads.
    fn kill(self) {
        kill(self.process, Signal::SIGKILL).expect("it is ours");
        // One that has only just begun is not among those that are known.
        wait_for("the end of its threads", || {
            let all = fs::read_dir(format!("/proc/{}/task", self.process)).into_iter().flatten().flatten();
            let others = all.filter_map(|thread| thread.file_name().to_str()?.parse().ok().map(Pid::from_raw));
            let others: Vec<_> = others.filter(|thread| *thread != self.process).collect();
            for thread in &others {
                let _ = waitpid(*thread, Some(ITS_OWN | WaitPidFlag::WNOHANG));
            }
            others.is_empty().then_some(())
        });
    }
}

/// Whether the thread is about to do one.
fn is_step(thread: Pid) -> bool {
    let enters = ptrace::syscall_info(thread).is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
    enters && {
        let said = fs::read_to_string(format!("/proc/{thread}/syscall")).unwrap_or_default();
        let number = said.split(' ').next().and_then(|number| number.parse().ok());
        number.is_some_and(|number: c_long| STEPS.contains(&number))
    }
}
