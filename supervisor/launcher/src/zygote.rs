//! A launcher that has no plugin of its own: it makes copies of itself, which have.
//!
//! A copy takes a part of the time that executing the program again would take, and is a child of the daemon like a launcher that the
//! daemon executes itself. From its first step on it does what that one does.
//!
//! Invariants: of the zygote's descriptors a copy keeps the standard output, which leads nowhere, and the daemon's standard error: the
//! socket that was sent along takes the place of the zygote's own, and every other one is closed. Memory, environment and limits are as
//! they were when the zygote began. The zygote ends with the daemon's end of its socket.

use crate::{
    control::Control,
    hello, launch, refuse,
    sys::{self, Cloned, Kind},
};
use palisade_launcher::{Born, Wanted};
use rustix::io::Errno;
use std::{
    ffi::c_int,
    os::fd::{AsFd, OwnedFd},
};

/// The zygote's life.
pub(crate) fn run() -> c_int {
    sys::reset_signals();
    sys::close_from(3);
    let Some(control) = Control::take() else { return refuse() };
    let _ = rustix::thread::set_name(c"palisade-zygote");
    let _ = rustix::process::chdir(c"/");
    if control.report(&hello(), &[]).is_err() {
        return 0;
    }
    loop {
        // A daemon that is gone, or talks nonsense, needs no copies.
        let Some((wanted, socket)) = control.receive_wanted() else { return 0 };
        let told = match sys::clone(Kind::Launcher) {
            Ok(Cloned::Child) => return serve(control, socket, wanted),
            Ok(Cloned::Parent { pid, pidfd }) => {
                let born = Born::Launcher { pid: pid as u32 };
                match control.report(&born, &[pidfd.as_fd()]) {
                    // Too many descriptors are on their way among processes of this user: the number alone will do.
                    Err(Errno::TOOMANYREFS) => control.report(&born, &[]),
                    told => told,
                }
            }
            Err(errno) => control.report(&Born::Nobody { errno: errno.raw_os_error() }, &[]),
        };
        if told.is_err() {
            return 0;
        }
    }
}

/// A copy's life, which is a launcher's.
fn serve(control: Control, socket: OwnedFd, wanted: Wanted) -> c_int {
    let _ = rustix::thread::set_name(c"palisade-launch");
    let installed = sys::install(socket.as_fd(), 0);
    // The number is that of the copy's own socket now; what lies above the standard three is closed in a moment.
    std::mem::forget((control, socket));
    match installed {
        Ok(()) => launch(wanted == Wanted::Prepared),
        // The daemon finds the other end closed.
        Err(_) => 1,
    }
}
