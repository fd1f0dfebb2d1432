//! pid 1 of the plugin's pid namespace: makes the plugin, reaps orphans, stops and continues everyone, and ends when
//! the plugin's main process does. What that left behind dies with it, for the kernel kills a namespace whose pid 1 is
//! gone.
//!
//! It handles no signal at all: the kernel then delivers to a pid 1 none but those that cannot be refused, and only
//! from outside its namespace, so nothing in the tree can end it.

use crate::{
    Reserved,
    channel::{self, Order, Read, Record},
    control::Descriptors,
    plugin::{self, Plan},
    sys::{self, Cloned, Kind},
};
use palisade_launcher::Step;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::Signal,
};
use std::{
    ffi::c_int,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Where pid 1 keeps the channel: the first number above its standard three.
const CHANNEL: c_int = 3;

/// pid 1's life. `outer` is the launcher's end of the channel, of which the clone made a copy that must not stay.
pub(crate) fn run(
    plan: &Plan<'_>,
    descriptors: &Descriptors,
    reserved: &Reserved,
    outer: OwnedFd,
    channel: &OwnedFd,
) -> ! {
    let channel = channel.as_fd();
    let errno = match supervise(plan, descriptors, reserved, outer, channel) {
        Ok(never) => match never {},
        Err(errno) => errno,
    };
    channel::tell(channel, &Record::Failed { step: Step::Init, detail: 0, errno }, None);
    sys::exit(1)
}

fn supervise(
    plan: &Plan<'_>,
    descriptors: &Descriptors,
    reserved: &Reserved,
    outer: OwnedFd,
    channel: BorrowedFd<'_>,
) -> Result<std::convert::Infallible, Errno> {
    let _ = rustix::thread::set_name(c"palisade-init");
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    drop(outer);
    // A launcher that died before the line above sends no signal any more; but its end of the channel is closed then.
    let mut watched = [PollFd::new(&channel, PollFlags::empty())];
    if poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))? != 0 {
        sys::exit(1);
    }
    // The copy of the control socket must go, or the daemon would not notice the end of the launcher; and the copies of
    // the daemon's stdout and stderr are none of this namespace's business.
    for number in 0..3 {
        sys::install(reserved.null.as_fd(), number)?;
    }
    sys::block_child_signal();

    let (plugin, pidfd) = match sys::clone(Kind::Program) {
        Ok(Cloned::Child) => plugin::run(plan, descriptors, reserved.null.as_fd(), channel),
        Ok(Cloned::Parent { pid, pidfd }) => (pid, pidfd),
        Err(errno) => {
            channel::tell(channel, &Record::Failed { step: Step::Process, detail: 0, errno }, None);
            sys::exit(1)
        }
    };
    channel::tell(channel, &Record::Started, Some(pidfd.as_fd()));

    // Whatever stayed open here would keep a pipe open that the plugin has closed.
    sys::install(channel, CHANNEL)?;
    sys::close_from(CHANNEL as u32 + 1);
    // SAFETY: the channel was just put at this number, which nothing else owns: what owned it (a descriptor that was
    // only held to reserve the number) lives in a caller that is never returned to.
    let channel = unsafe { BorrowedFd::borrow_raw(CHANNEL) };
    let children = sys::child_signal_descriptor()?;
    loop {
        let mut ready = [PollFd::new(&channel, PollFlags::IN), PollFd::new(&children, PollFlags::IN)];
        match poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        reap(&children, plugin, channel);
        follow_orders(channel);
    }
}

/// Takes leave of every process that ended; of the plugin's main process, together with this one.
fn reap(children: &OwnedFd, plugin: i32, channel: BorrowedFd<'_>) {
    // Taken before reaping: a child that ends afterwards makes the descriptor readable again.
    let mut signal = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let _ = rustix::io::read(children, &mut signal[..]);
    while let Some((pid, status)) = sys::reap() {
        if pid == plugin {
            channel::tell(channel, &Record::Ended { status }, None);
            sys::exit(0);
        }
    }
}

fn follow_orders(channel: BorrowedFd<'_>) {
    loop {
        match channel::next_order(channel) {
            Read::Message(Order::Stop) => sys::signal_everyone(libc::SIGSTOP),
            Read::Message(Order::Continue) => sys::signal_everyone(libc::SIGCONT),
            Read::Nothing => return,
            Read::Closed => sys::exit(1),
        }
    }
}
