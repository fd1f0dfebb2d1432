//! Forbidden acts, tried by the child that the daemon's probe confines like a plugin: what the sandbox refuses is found by
//! doing it. A line of output is `NAME ERRNO`, with 0 for an act that succeeded, or `landlock VERSION`.
//!
//! Every act is harmless where it succeeds, and is one that a plugin would not miss.

use crate::{EXIT_NOT_ENCLOSED, sys};
use palisade_launcher::TRIAL_FILE;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrV4, SocketType},
    process::Uid,
    thread::UnshareFlags,
};
use std::{
    ffi::{CStr, c_int},
    fmt::Write,
    net::Ipv4Addr,
};

/// An address for documentation, to which nothing is ever sent: connecting such a socket only looks for a route.
const NOWHERE: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 9);

/// A name, and what is done.
type Act = (&'static str, fn() -> Result<(), Errno>);

/// Says what can be found without trying anything.
pub(crate) fn look() -> c_int {
    say(&format!("landlock {}\n", sys::landlock_version().unwrap_or(0)))
}

/// Tries everything and says what became of it. Only in a private root, in which the probe has put a certain file: an act
/// that succeeds anywhere else would leave its trace on the host.
pub(crate) fn run() -> c_int {
    if rustix::fs::stat(TRIAL_FILE).is_err() {
        return EXIT_NOT_ENCLOSED;
    }
    let acts: [Act; 7] = [
        ("read-shadow", || read(c"/etc/shadow")),
        ("write-outside", || create(c"/usr/palisade-trial")),
        ("write-data", || create(c"/data/trial")),
        ("mknod", || {
            let device = rustix::fs::makedev(1, 3);
            rustix::fs::mknodat(CWD, c"/tmp/trial", FileType::CharacterDevice, Mode::from_raw_mode(0o600), device)
        }),
        ("setuid0", || rustix::thread::set_thread_uid(Uid::ROOT)),
        ("landlock-read", || read(TRIAL_FILE)),
        ("udp-direct", || {
            let socket = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None)?;
            rustix::net::connect(socket, &NOWHERE)
        }),
    ];
    attempt(&acts)
}

/// Tries what only a system call filter refuses. Both acts leave nothing behind, wherever they succeed.
pub(crate) fn run_filtered() -> c_int {
    let acts: [Act; 2] = [
        ("unshare-user", || sys::unshare(UnshareFlags::NEWUSER)),
        // The file that there is not is looked for only by an exec that is allowed.
        ("exec-again", || match sys::execute_nothing() {
            Errno::NOENT => Ok(()),
            errno => Err(errno),
        }),
    ];
    attempt(&acts)
}

fn attempt(acts: &[Act]) -> c_int {
    let mut lines = String::new();
    for (name, act) in acts {
        let errno = act().err().map_or(0, Errno::raw_os_error);
        let _ = writeln!(lines, "{name} {errno}");
    }
    say(&lines)
}

fn say(lines: &str) -> c_int {
    c_int::from(rustix::io::write(rustix::stdio::stdout(), lines.as_bytes()).is_err())
}

fn read(path: &CStr) -> Result<(), Errno> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map(drop)
}

/// Makes a file, and takes it away again.
fn create(path: &CStr) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::from_raw_mode(0o600))?;
    rustix::fs::unlink(path)
}
