//! The launcher: starts one child as its specification says, and watches over it until nothing of it is left.
//!
//! It reads a `Spec` and descriptors from the socket on descriptor 0, performs the steps of the specification in one
//! fixed order, and makes pid 1 of a new pid namespace, which makes the plugin. It stays outside that namespace and
//! outside the leaf cgroup itself, so that neither a freeze nor an exhausted memory limit can keep it from noticing that
//! the daemon is gone; then it kills the tree and leaves. A later step of the confinement is one more line in
//! `tree::Tree::start` (before pid 1), in `init` (inside its namespaces) or in `plugin` (before exec).
//!
//! Invariants: one thread; every step either holds or ends the start with its name, errno and a sentence; a final
//! report is sent only after pid 1 has been waited for, which proves the tree empty; memory is touched sparingly, for
//! there is one of these per plugin.
//! Elsewhere: the messages are this package's library; what a child is granted is decided in the daemon.

#![no_main]
#![expect(unsafe_code, reason = "this program is made of system calls that have no safe form")]

mod channel;
mod confine;
mod control;
mod denials;
mod failure;
mod gate;
mod init;
mod plugin;
mod prepared;
mod quota;
mod root;
mod sys;
mod tree;
mod trial;
mod user_namespace;
mod zygote;

use crate::{control::Control, failure::Failed, prepared::Prepared, tree::Tree};
use palisade_launcher::{BUILD_ID, MODE_VARIABLE, MODE_ZYGOTE, Report, Step};
use rustix::fs::{Mode, OFlags};
use std::{
    ffi::{CStr, c_char, c_int},
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

/// Exit code of a launcher that was started by hand.
pub(crate) const EXIT_USAGE: c_int = 64;

/// Exit code of `--probe` and `--trial` in a process that is not the first child of a pid namespace's pid 1.
pub(crate) const EXIT_NOT_ENCLOSED: c_int = 3;

/// Where the program begins; the standard library's own beginning would set up a signal stack and more, which every
/// launcher would keep for as long as its plugin lives.
///
/// # Safety
/// It is the C runtime that calls this, once, with the argument vector that the kernel made.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn main(argc: c_int, argv: *const *const c_char) -> c_int {
    let argument = |index: usize| {
        let there = c_int::try_from(index).is_ok_and(|index| index < argc);
        // SAFETY: the kernel and the C runtime hand over `argc` pointers to strings that end in a null byte and live as
        // long as the process; an index is read only if there is one.
        there.then(|| unsafe { CStr::from_ptr(*argv.add(index)) })
    };
    match argument(1).map(CStr::to_bytes) {
        None if std::env::var_os(MODE_VARIABLE).is_some_and(|mode| mode == MODE_ZYGOTE) => zygote::run(),
        None => launch(false),
        Some(b"--prepare") => launch(true),
        Some(b"--probe") => probe(trial::look),
        Some(b"--trial") => probe(trial::run),
        Some(b"--trial-filter") => trial::run_filtered(),
        Some(b"--quota") => quota::answer(&(2..5).map_while(argument).collect::<Vec<_>>()),
        Some(b"--build-id") => say(BUILD_ID),
        Some(_) => refuse(),
    }
}

/// The launcher's life. One that is to prepare does what it can before it waits, says so, and serves a start or the daemon's end.
pub(crate) fn launch(prepare: bool) -> c_int {
    sys::reset_signals();
    sys::close_from(3);
    let Some(control) = Control::take() else { return refuse() };
    // The daemon's working directory must not stay in use by each of its launchers.
    let _ = rustix::process::chdir(c"/");
    if control.report(&hello(), &[]).is_err() {
        return 0;
    }
    // A group of its own: what a plugin does to its process group reaches nobody else. Not earlier: a copy that ends before it has said who
    // it is is found by the group of the zygote. One that was executed has one already.
    let _ = rustix::process::setpgid(None, None);

    let reserved = match Reserved::open() {
        Ok(reserved) => reserved,
        Err(failed) => return give_up(&control, failed.describe(None)),
    };
    let mut prepared = None;
    if prepare {
        match Prepared::make() {
            Ok(made) => prepared = Some(made),
            Err(failed) => return give_up(&control, failed.describe(None)),
        }
        let _ = rustix::thread::set_name(c"palisade-ready");
        if control.report(&Report::Prepared, &[]).is_err() {
            return 0;
        }
    }
    let (spec, descriptors) = match control.receive_spec() {
        Ok(Some(received)) => received,
        // The daemon was gone before it asked for anything.
        Ok(None) => return 0,
        Err(failed) => return give_up(&control, failed.describe(None)),
    };
    let _ = rustix::thread::set_name(c"palisade-launch");
    match Tree::start(&spec, descriptors, reserved, prepared) {
        Ok(tree) => tree.watch(&control, spec),
        Err(failed) => return give_up(&control, failed.describe(Some(&spec))),
    }
    0
}

/// Who this is.
pub(crate) fn hello() -> Report {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    Report::Hello { build_id: BUILD_ID.to_owned(), pid: pid as u32 }
}

fn give_up(control: &Control, failure: palisade_launcher::Failure) -> c_int {
    // A daemon that is gone needs no report, and nothing was started that would have to be ended.
    let _ = control.report(&Report::Failed(failure), &[]);
    1
}

/// Descriptors 3 and 4, held so that everything received lies above the numbers that the plugin is to see and can be
/// put into place without stepping on a neighbour.
pub(crate) struct Reserved {
    null: OwnedFd,
    _fourth: OwnedFd,
}

impl Reserved {
    fn open() -> Result<Self, Failed> {
        let failed = |errno| Failed::at(Step::Descriptors, errno);
        let null = rustix::fs::open(c"/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        let fourth = rustix::io::fcntl_dupfd_cloexec(null.as_fd(), 4).map_err(failed)?;
        if null.as_raw_fd() != 3 || fourth.as_raw_fd() != 4 {
            return Err(Failed::because(
                Step::Descriptors,
                "the launcher was started without its descriptors 0, 1 and 2".to_owned(),
            ));
        }
        Ok(Self { null, _fourth: fourth })
    }
}

/// What the daemon's probe runs as a plugin: success means that this really is enclosed in a pid namespace. What was
/// found goes to standard output.
fn probe(found: fn() -> c_int) -> c_int {
    let pid = rustix::process::getpid().as_raw_nonzero().get();
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    if parent == Some(1) && pid == 2 { found() } else { EXIT_NOT_ENCLOSED }
}

/// Someone called this from a shell.
pub(crate) fn refuse() -> c_int {
    let _ = rustix::io::write(
        rustix::stdio::stderr(),
        b"palisade-launcher: it is palisaded that starts this program, with a socket as its descriptor 0\n",
    );
    EXIT_USAGE
}

fn say(line: &str) -> c_int {
    let written = rustix::io::write(rustix::stdio::stdout(), format!("{line}\n").as_bytes());
    c_int::from(written.is_err())
}
