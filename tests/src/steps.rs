//! What a daemon does, step by step, as it is traced: it is killed where it is about to change something on the disk, or it is looked at what
//! its first thread does with files, or all of it changes in a folder.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::Duration;

use libc::c_long;
use nix::errno::Errno;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::daemon::wait_for;
use crate::power::{Change, Recording};

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

/// With a path as the first argument, or as the second behind a folder.
const NAMING: &[(c_long, usize)] = &[
    (libc::SYS_openat, 1),
    (libc::SYS_openat2, 1),
    (libc::SYS_newfstatat, 1),
    (libc::SYS_statx, 1),
    (libc::SYS_faccessat, 1),
    (libc::SYS_faccessat2, 1),
    (libc::SYS_readlinkat, 1),
    (libc::SYS_mkdirat, 1),
    (libc::SYS_unlinkat, 1),
    (libc::SYS_renameat, 1),
    (libc::SYS_renameat2, 1),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_stat, 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_lstat, 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_access, 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_readlink, 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_mkdir, 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rmdir, 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_unlink, 0),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_rename, 0),
];

/// No path is longer.
const PATH_BYTES_MAX: usize = 4096;

/// How often it is looked whether a thread has stopped.
const LOOK: Duration = Duration::from_micros(200);

/// All that this thread traces, and nothing of others: tests that run beside this one in the same process wait for theirs.
const ITS_OWN: WaitPidFlag = WaitPidFlag::__WALL.union(WaitPidFlag::__WNOTHREAD);

/// What becomes of a thread that enters or leaves a system call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Goes,
    /// It goes no further.
    Stands,
    /// Nor does any other.
    Over,
}

/// A traced process, all of its threads. The thread that made this has to be the one that uses it.
#[derive(Debug)]
pub struct Traced {
    process: Pid,
    threads: HashSet<Pid>,
}

impl Traced {
    /// As [`Traced::of`], or nothing where it cannot be traced here: that is printed, and what was to be shown is not shown here.
    #[must_use]
    pub fn unless_skipped(process: u32) -> Option<Self> {
        let skipped = |error| println!("SKIPPED: the daemon cannot be traced here: {error}");
        Self::of(process).map_err(skipped).ok()
    }

    /// Traces the process, which goes on.
    ///
    /// # Errors
    /// Why it cannot be traced.
    pub fn of(process: u32) -> Result<Self, Errno> {
        let mut threads = HashSet::new();
        // Until there is no other one: those that began before whoever began them was traced are not among the first.
        loop {
            let all = fs::read_dir(format!("/proc/{process}/task")).map_err(|_| Errno::ESRCH)?;
            let all = all.filter_map(|thread| thread.ok()?.file_name().to_str()?.parse().ok()).map(Pid::from_raw);
            let others: Vec<_> = all.filter(|thread| !threads.contains(thread)).collect();
            if others.is_empty() {
                break;
            }
            for thread in others {
                let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACECLONE;
                match ptrace::seize(thread, options).and_then(|()| ptrace::interrupt(thread)) {
                    Ok(()) => {
                        threads.insert(thread);
                    }
                    // It began to be traced as it began, or has ended meanwhile, as those do that block.
                    Err(Errno::EPERM | Errno::ESRCH) if !threads.is_empty() => {
                        threads.insert(thread);
                    }
                    Err(error) => return Err(error),
                }
            }
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
        let came_so_far = self.go_on(over, |thread| {
            let is_step = entered(thread).is_some_and(|(number, _)| STEPS.contains(&number));
            let is_it = is_step && steps == step;
            steps += usize::from(is_step);
            if is_it { Then::Over } else { Then::Goes }
        });
        self.kill();
        came_so_far
    }

    /// Has each thread stand still that is about to write to a file of that name, as soon as `from` says so, and everybody else go on, until it is `over`; then it is killed, and not reaped. `held` is told of each.
    ///
    /// # Panics
    /// When it ends by itself.
    pub fn hold_who_writes(mut self, name: &str, from: impl Fn() -> bool, held: impl Fn(), over: impl Fn() -> bool) {
        self.go_on(over, |thread| {
            let writes = |(number, arguments): (c_long, Vec<u64>)| {
                let file = arguments.first().and_then(|file| fs::read_link(format!("/proc/{thread}/fd/{file}")).ok());
                number == libc::SYS_pwrite64 && file.is_some_and(|file| file.ends_with(name))
            };
            if !entered(thread).is_some_and(writes) || !from() {
                return Then::Goes;
            }
            held();
            Then::Stands
        });
        self.kill();
    }

    /// The paths that its first thread names to the kernel until it is `over`; then it is killed, and not reaped.
    ///
    /// # Panics
    /// When it ends by itself.
    pub fn named_by_first(mut self, over: impl Fn() -> bool) -> Vec<PathBuf> {
        let (first, mut named) = (self.process, Vec::new());
        self.go_on(over, |thread| {
            if thread == first
                && let Some((number, arguments)) = entered(thread)
                && let Some((_, place)) = NAMING.iter().find(|(one, _)| *one == number)
                && let Some(address) = arguments.get(*place)
            {
                named.extend(text_at(thread, *address));
            }
            Then::Goes
        });
        self.kill();
        named
    }

    /// Records what it changes until it is `over`; then it is killed, and not reaped. A change is recorded
    /// before whoever made it knows that it is made.
    ///
    /// # Panics
    /// When it ends by itself, or changes something in a way that is not known here.
    pub fn record(mut self, recording: &Recording, over: impl Fn() -> bool) {
        let mut under_way = HashMap::new();
        self.go_on(over, |thread| {
            match entered(thread) {
                Some((number, arguments)) => {
                    drop(under_way.insert(thread, change(thread, number, &arguments, recording)))
                }
                None => {
                    if let Some(change) = under_way.remove(&thread).flatten() {
                        recording.note(change);
                    }
                }
            }
            Then::Goes
        });
        self.kill();
    }

    /// Lets it go on until it is `over`, or until `then` says so of a thread that enters or leaves a system call.
    fn go_on(&mut self, over: impl Fn() -> bool, mut then: impl FnMut(Pid) -> Then) -> bool {
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
                WaitStatus::PtraceSyscall(_) => match then(thread) {
                    Then::Goes => None,
                    Then::Stands => continue,
                    Then::Over => return true,
                },
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

/// The system call that the thread is about to make, and its arguments.
fn entered(thread: Pid) -> Option<(c_long, Vec<u64>)> {
    let enters = ptrace::syscall_info(thread).is_ok_and(|info| info.op == libc::PTRACE_SYSCALL_INFO_ENTRY);
    if !enters {
        return None;
    }
    let said = fs::read_to_string(format!("/proc/{thread}/syscall")).unwrap_or_default();
    let mut words = said.split_whitespace();
    let number = words.next()?.parse().ok()?;
    let arguments = words.filter_map(|word| u64::from_str_radix(word.trim_start_matches("0x"), 16).ok());
    Some((number, arguments.collect()))
}

/// The text that ends with a zero there.
fn text_at(thread: Pid, address: u64) -> Option<PathBuf> {
    let memory = File::open(format!("/proc/{thread}/mem")).ok()?;
    let mut bytes = vec![0; PATH_BYTES_MAX];
    // The memory may end before the most that a path can have.
    let read = memory.read_at(&mut bytes, address).ok()?;
    bytes.truncate(read);
    bytes.truncate(bytes.iter().position(|byte| *byte == 0)?);
    Some(PathBuf::from(OsString::from_vec(bytes)))
}

/// Where in a file that the thread has open is read and written next.
fn position(thread: Pid, descriptor: u64) -> Option<u64> {
    let said = fs::read_to_string(format!("/proc/{thread}/fdinfo/{descriptor}")).ok()?;
    said.lines().find_map(|line| line.strip_prefix("pos:")?.trim().parse().ok())
}

/// What the thread is about to change of what is recorded, if it does.
fn change(thread: Pid, number: c_long, arguments: &[u64], recording: &Recording) -> Option<Change> {
    let argument = |place: usize| arguments.get(place).copied().unwrap_or_default();
    let open = |place: usize| fs::read_link(format!("/proc/{thread}/fd/{}", argument(place))).ok();
    let opened = || open(0).filter(|path| recording.has(path));
    let beside = |folder: Option<PathBuf>, name: Option<PathBuf>| {
        let name = name?;
        Some(if name.is_absolute() { name } else { folder?.join(name) })
    };
    let here = || fs::read_link(format!("/proc/{thread}/cwd")).ok();
    // What is said of a folder is a number that has fewer bits than an argument.
    let at = |place: usize| {
        let is_here = argument(place) as u32 == libc::AT_FDCWD as u32;
        beside(if is_here { here() } else { open(place) }, text_at(thread, argument(place + 1)))
    };
    let named = |place: usize| beside(here(), text_at(thread, argument(place)));
    let below = |path: Option<PathBuf>| path.filter(|path| recording.has(path));
    let both = |from: Option<PathBuf>, to: Option<PathBuf>| {
        let (from, to) = (from?, to?);
        (recording.has(&from) || recording.has(&to)).then_some((from, to))
    };
    let creating = |path: Option<PathBuf>, flags: u64| {
        let has = |flag: i32| flags & u64::from(flag.unsigned_abs()) != 0;
        (has(libc::O_CREAT) || has(libc::O_TRUNC)).then_some(())?;
        Some(Change::Opened { path: below(path)?, empties: has(libc::O_TRUNC) && !has(libc::O_EXCL) })
    };
    match number {
        libc::SYS_pwrite64 => {
            let path = opened()?;
            let mut bytes = vec![0; usize::try_from(argument(2)).ok()?];
            let memory = File::open(format!("/proc/{thread}/mem")).ok()?;
            memory.read_exact_at(&mut bytes, argument(1)).expect("it can be read by the kernel as well");
            Some(Change::Wrote { path, at: argument(3), bytes: bytes.into() })
        }
        libc::SYS_ftruncate => Some(Change::Cut { path: opened()?, length: argument(1) }),
        libc::SYS_fsync | libc::SYS_fdatasync => Some(Change::Synced { path: opened()? }),
        libc::SYS_openat => creating(at(0), argument(2)),
        libc::SYS_mkdirat => Some(Change::Made { folder: below(at(0))? }),
        libc::SYS_unlinkat => Some(Change::Removed { path: below(at(0))? }),
        libc::SYS_renameat | libc::SYS_renameat2 => both(at(0), at(2)).map(|(from, to)| Change::Moved { from, to }),
        libc::SYS_linkat => both(at(0), at(2)).map(|(from, to)| Change::Linked { from, to }),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open => creating(named(0), argument(1)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir => Some(Change::Made { folder: below(named(0))? }),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink | libc::SYS_rmdir => Some(Change::Removed { path: below(named(0))? }),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => both(named(0), named(1)).map(|(from, to)| Change::Moved { from, to }),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_link => both(named(0), named(1)).map(|(from, to)| Change::Linked { from, to }),
        libc::SYS_write | libc::SYS_writev | libc::SYS_pwritev | libc::SYS_pwritev2 | libc::SYS_fallocate => {
            let path = opened()?;
            panic!("{} is written to by the system call {number}, which nobody records", path.display())
        }
        // Both from where they are, to the end of the one or as much as is asked for.
        libc::SYS_copy_file_range if argument(1) == 0 && argument(3) == 0 => {
            let path = below(open(2))?;
            let from = File::open(format!("/proc/{thread}/fd/{}", argument(0))).expect("it is open");
            let (begin, at) = (position(thread, argument(0))?, position(thread, argument(2))?);
            let left = from.metadata().ok()?.len().saturating_sub(begin).min(argument(4));
            let mut bytes = vec![0; usize::try_from(left).ok()?];
            from.read_exact_at(&mut bytes, begin).expect("nobody cuts it meanwhile");
            (!bytes.is_empty()).then(|| Change::Wrote { path, at, bytes: bytes.into() })
        }
        libc::SYS_copy_file_range | libc::SYS_sendfile => {
            let to = if number == libc::SYS_sendfile { open(0) } else { open(2) };
            let path = below(to)?;
            panic!("{} is copied to by the system call {number}, which nobody records", path.display())
        }
        _ => None,
    }
}
