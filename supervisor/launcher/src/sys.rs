//! The system calls that have no safe form, each behind a function that cannot be misused within this program.
//!
//! Facts that all of it relies on: this process, and each that it makes, has exactly one thread; nothing here shares
//! memory between two processes (`CLONE_VM` is never given), so a child's writes and its exit touch only its own copy.

use rustix::io::Errno;
use std::{
    ffi::{CString, c_char, c_int, c_long, c_uint},
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// `CLONE_INTO_CGROUP` as the kernel defines it; the C library's binding gives 0 on some targets.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// The highest signal number of Linux.
const SIGNAL_MAX: c_int = 64;

/// The bytes of the kernel's signal set (not the C library's, which is larger).
const SIGNAL_SET_BYTES: usize = 8;

fn errno() -> Errno {
    // The kernel sets it on every failed call; 0 cannot follow one.
    let number = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Errno::from_raw_os_error(number)
}

fn checked(result: c_long) -> Result<c_long, Errno> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

/// Gives every signal its default effect and blocks none, whatever this process inherited.
pub(crate) fn reset_signals() {
    // Handler, flags, restorer and mask of the kernel's `sigaction`, all zero: SIG_DFL without flags.
    let default = [0_u64; 4];
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: `default` outlives the call and is as large as the kernel's structure; no old action is asked for.
        // SIGKILL and SIGSTOP are refused with EINVAL, and have their default effect anyway.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u64>(), SIGNAL_SET_BYTES)
        };
    }
    set_blocked(0);
}

/// Blocks SIGCHLD and nothing else, so that a signal descriptor can report it.
pub(crate) fn block_child_signal() {
    set_blocked(1 << (libc::SIGCHLD - 1));
}

/// Blocks no signal.
pub(crate) fn unblock_signals() {
    set_blocked(0);
}

fn set_blocked(mask: u64) {
    // SAFETY: `mask` outlives the call and has the size that is given; no old mask is asked for. The call cannot fail
    // with these arguments.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            ptr::from_ref(&mask),
            ptr::null_mut::<u64>(),
            SIGNAL_SET_BYTES,
        )
    };
}

/// A descriptor that is readable while a SIGCHLD is pending.
pub(crate) fn child_signal_descriptor() -> Result<OwnedFd, Errno> {
    let mask: u64 = 1 << (libc::SIGCHLD - 1);
    // SAFETY: `mask` outlives the call and has the size that is given.
    let made = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            ptr::from_ref(&mask),
            SIGNAL_SET_BYTES,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        )
    };
    let descriptor = checked(made)? as RawFd;
    // SAFETY: the kernel has just made this descriptor, and nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Closes every descriptor from `first` on. Only for a process that owns none of them as an `OwnedFd` it will drop.
pub(crate) fn close_from(first: c_uint) {
    // SAFETY: the callers are the beginning of this program, before it owns a descriptor, and pid 1, which never
    // returns into code that would drop one; so no number is closed twice.
    unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, 0) };
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(crate) fn close_from_on_exec(first: c_uint) -> Result<(), Errno> {
    // SAFETY: this closes nothing in this process; it takes effect in exec, which tears down all that uses them.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Takes over a descriptor that this program was started with.
///
/// # Safety
/// `number` must be open, and nothing else in this process may own it.
pub(crate) unsafe fn take(number: RawFd) -> OwnedFd {
    // SAFETY: the caller vouches for the number.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Makes `number` refer to what `descriptor` refers to, and stay open over exec. Only for a process that is about to
/// exec, or that never returns: the number's old owner, if any, would otherwise close the new descriptor.
pub(crate) fn install(descriptor: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: both callers are children that never return, so an `OwnedFd` of the old number is never dropped.
    checked(c_long::from(unsafe { libc::dup2(descriptor.as_raw_fd(), number) }))?;
    Ok(())
}

/// What `clone3` reads, in the kernel's words.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Which of the two processes this is after `clone`.
pub(crate) enum Cloned {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// What a clone is to be, beside a copy of this process.
#[derive(Clone, Copy)]
pub(crate) enum Kind<'a> {
    /// pid 1 of a new pid namespace, born in this cgroup.
    Init { leaf: Option<BorrowedFd<'a>> },
    /// A process that executes a program at once; the parent sleeps until it has, or is gone.
    Program,
}

/// Makes a copy of this process.
pub(crate) fn clone(kind: Kind<'_>) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArguments {
        flags: libc::CLONE_PIDFD as u64,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArguments::default()
    };
    match kind {
        Kind::Init { leaf } => {
            arguments.flags |= libc::CLONE_NEWPID as u64;
            if let Some(leaf) = leaf {
                arguments.flags |= CLONE_INTO_CGROUP;
                arguments.cgroup = leaf.as_raw_fd() as u64;
            }
        }
        // Without CLONE_VM this shares no memory: it only orders the two, so that what the parent says next is said
        // after whatever the child had to say about its exec.
        Kind::Program => arguments.flags |= libc::CLONE_VFORK as u64,
    }
    // SAFETY: the structure and `pidfd` outlive the call. Without CLONE_VM and with a null stack this is a fork: the
    // child goes on with a copy of this stack. There is one thread, so no other can hold a lock that the copy would
    // wait for.
    let pid = checked(unsafe {
        libc::syscall(libc::SYS_clone3, ptr::from_mut(&mut arguments), size_of::<CloneArguments>())
    })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: CLONE_PIDFD made the kernel store a new descriptor here, in the parent only.
    Ok(Cloned::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// A null-terminated array of pointers to strings, as exec wants it, that lives no longer than the strings.
pub(crate) struct Pointers<'a> {
    pointers: Vec<*const c_char>,
    strings: PhantomData<&'a [CString]>,
}

impl<'a> Pointers<'a> {
    pub(crate) fn to(strings: &'a [CString]) -> Self {
        let mut pointers = Vec::with_capacity(strings.len() + 1);
        pointers.extend(strings.iter().map(|string| string.as_ptr()));
        pointers.push(ptr::null());
        Self { pointers, strings: PhantomData }
    }
}

/// Executes the file behind a descriptor; returns only if that failed.
pub(crate) fn execute(program: BorrowedFd<'_>, arguments: &Pointers<'_>, environment: &Pointers<'_>) -> Errno {
    // SAFETY: both arrays end in a null pointer, and the borrow in their type keeps the strings alive over the call;
    // this process has one thread, so no other can hold a lock or a descriptor that exec would tear down.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    errno()
}

/// Reaps one child that has ended, if there is one.
pub(crate) fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::__WALL) };
    (0 < pid).then_some((pid, status))
}

/// Waits for the child `pid`, which must not have been reaped, and says how it ended and what it used.
pub(crate) fn wait_for(pid: i32) -> Result<(i32, libc::rusage), Errno> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both places outlive the call and have the types that it writes.
        let waited = unsafe { libc::wait4(pid, &mut status, libc::__WALL, usage.as_mut_ptr()) };
        match checked(c_long::from(waited)) {
            // SAFETY: it began as zeros, which are a valid value of this plain structure of numbers.
            Ok(_) => return Ok((status, unsafe { usage.assume_init() })),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Sends a signal to every process of this pid namespace but the caller, which must be its pid 1.
pub(crate) fn signal_everyone(signal: c_int) {
    // SAFETY: the call reads no memory. From pid 1, "everyone" is the namespace that ends with it; nothing outside is
    // visible there, so nothing outside can be hit. That nobody is left to be hit is no failure.
    unsafe { libc::kill(-1, signal) };
}

/// Makes a namespace of the calling process.
pub(crate) fn unshare_user_namespace() -> Result<(), Errno> {
    // SAFETY: this does not unshare the descriptor table, which is what could surprise another thread; there is none.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWUSER) }
}

/// Ends this process at once, running nothing that was registered for its exit.
pub(crate) fn exit(code: c_int) -> ! {
    // SAFETY: it takes no memory and does not return.
    unsafe { libc::_exit(code) }
}

const _: () = assert!(size_of::<CloneArguments>() == 88, "the kernel's structure of Linux 5.7");
