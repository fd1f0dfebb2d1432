//! What safe Rust does not offer and a hostile program does: taking over descriptors, forking, dying badly.
//!
//! The rule that unsafe code lives in the launcher and the SDK is about what Palisade ships; this is its opponent.
#![expect(unsafe_code, reason = "see above")]

use std::fs::File;
use std::os::fd::FromRawFd;

/// Descriptor 3, from the supervisor, and 4, to it.
///
/// Called once, at the start.
pub(crate) fn pipes() -> (File, File) {
    // SAFETY: the supervisor starts a plugin with exactly these descriptors open, and nothing else in this process has
    // taken them, as `main` calls this first and once.
    unsafe { (File::from_raw_fd(3), File::from_raw_fd(4)) }
}

/// Makes a second process; `true` in it.
pub(crate) fn fork() -> bool {
    try_fork().unwrap_or_else(|errno| panic!("fork: {}", std::io::Error::from_raw_os_error(errno)))
}

/// Makes a second process, or says with which errno that was refused; `true` in it.
pub(crate) fn try_fork() -> Result<bool, i32> {
    // SAFETY: this program has one thread, so the child finds every lock free.
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error().raw_os_error().unwrap_or_default()),
        child => Ok(child == 0),
    }
}

/// Ignores a signal from now on, as do all processes forked afterwards.
pub(crate) fn ignore(signal: i32) {
    // SAFETY: setting a disposition to `SIG_IGN` runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Sends itself a signal.
pub(crate) fn raise(signal: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::raise(signal) };
}

/// Becomes the leader of a session of its own, out of reach of whoever signals the old one.
pub(crate) fn new_session() {
    // SAFETY: no memory is involved; a leader already is told so by an error, which changes nothing.
    unsafe { libc::setsid() };
}

/// Writes where nothing is.
pub(crate) fn segfault() -> ! {
    // The handler of the runtime would only print; without it the kernel's own verdict stands.
    // SAFETY: the default disposition runs no code of ours.
    unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
    raise(libc::SIGSEGV);
    unreachable!("the signal is not blocked")
}
