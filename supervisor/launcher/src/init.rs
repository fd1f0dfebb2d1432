//! pid 1 of the plugin's pid namespace: makes the namespaces' inside and the plugin, reaps orphans, stops and continues everyone, and ends when
//! the plugin's main process does. What that left behind dies with it, for the kernel kills a namespace whose pid 1 is
//! gone.
//!
//! It handles no signal at all: the kernel then delivers to a pid 1 none but those that cannot be refused, and only
//! from outside its namespace, so nothing in the tree can end it.

use crate::{
    Reserved,
    channel::{self, Order, Read, Record},
    confine,
    control::Descriptors,
    denials::Denials,
    failure::Stumble,
    gate,
    plugin::{self, Plan},
    root::{self, Taken},
    sys::{self, Cloned, Kind},
    user_namespace,
};
use palisade_launcher::{BoundBy, Spec, Step};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::Mode,
    io::Errno,
    process::{DumpableBehavior, Gid, Signal, Uid},
    thread::UnshareFlags,
};
use std::{
    ffi::c_int,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// With what mask the private root is made, and what a plugin finds as its own, whatever the daemon's is.
const FILE_MODE_MASK: Mode = Mode::from_raw_mode(0o022);

/// Where pid 1 keeps the channel: the first number above its standard three.
const CHANNEL: c_int = 3;

/// And where the listener on which refusals are asked about, if it is kept.
const LISTENER: c_int = 4;

/// The codes with which pid 1 ends where it cannot say why, so that a launcher that is there after all can.
const LAUNCHER_WAS_GONE: c_int = 2;
const NOT_BEGUN: c_int = 3;
const NO_MORE_ORDERS: c_int = 4;
const NOT_HEARD: c_int = 5;

/// pid 1's life. `outer` is the launcher's end of the channel, of which the clone made a copy that must not stay.
pub(crate) fn run(
    plan: &Plan<'_>,
    descriptors: Descriptors,
    reserved: &Reserved,
    taken: Taken,
    outer: OwnedFd,
    channel: &OwnedFd,
) -> ! {
    let channel = channel.as_fd();
    let stumble = match supervise(plan, descriptors, reserved, taken, outer, channel) {
        Ok(never) => match never {},
        Err(stumble) => stumble,
    };
    sys::exit(if channel::tell(channel, &Record::Failed(stumble), None) { 1 } else { NOT_HEARD })
}

fn supervise(
    plan: &Plan<'_>,
    mut descriptors: Descriptors,
    reserved: &Reserved,
    taken: Taken,
    outer: OwnedFd,
    channel: BorrowedFd<'_>,
) -> Result<std::convert::Infallible, Stumble> {
    let spec = plan.spec();
    let failed = Stumble::at(Step::Init);
    let _ = rustix::thread::set_name(c"palisade-init");
    die_with_the_launcher().map_err(&failed)?;
    drop(outer);
    // A launcher that died before the line above sends no signal any more; but its end of the channel is closed then.
    let mut watched = [PollFd::new(&channel, PollFlags::empty())];
    if poll(&mut watched, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).map_err(&failed)? != 0 {
        sys::exit(LAUNCHER_WAS_GONE);
    }
    // The copy of the control socket must go, or the daemon would not notice the end of the launcher; and the copies of
    // the daemon's stdout and stderr are none of this namespace's business.
    for number in 0..3 {
        sys::install(reserved.null.as_fd(), number).map_err(&failed)?;
    }
    sys::block_child_signal();
    if spec.user_namespace.is_some() && !channel::wait_to_begin(channel) {
        sys::exit(NOT_BEGUN);
    }

    enclose(spec, taken)?;
    if let Some(port) = spec.listener {
        let listener = sys::listen_on_loopback(port).map_err(Stumble::at(Step::Listener))?;
        channel::tell(channel, &Record::Listening, Some(listener.as_fd()));
    }
    // What the plugin executes is found beneath its root; the descriptors with which the daemon named it lead out.
    if let Some(root) = &spec.root {
        if let Some(path) = &root.entry {
            descriptors.entry = root::find_again(path, descriptors.entry.as_fd(), 0)?;
        }
        if let (Some(path), Some(outer)) = (&root.interpreter, &descriptors.interpreter) {
            descriptors.interpreter = Some(root::find_again(path, outer.as_fd(), root::INTERPRETER)?);
        }
    }

    if spec.powerless {
        // Here and not in the plugin, which takes it over: it is a system call for each capability.
        confine::empty_bounding_set().map_err(Stumble::at(Step::Capabilities))?;
    }
    let asks = spec.exec_once || plan.denials().is_some();
    let gate = if asks { Some(gate::pair().map_err(Stumble::at(Step::Seccomp))?) } else { None };
    let (plugin, pidfd) = match sys::clone(Kind::Program { asks }).map_err(Stumble::at(Step::Process))? {
        Cloned::Child => {
            let theirs = gate.map(|(_, theirs)| theirs);
            plugin::run(plan, &descriptors, theirs.as_ref(), reserved.null.as_fd(), channel)
        }
        Cloned::Parent { pid, pidfd } => (pid, pidfd),
    };
    // Until here a child that asks nobody has held this process up until its exec, and one that asks has gone on alone.
    let mut kept = None;
    if let Some((ours, theirs)) = gate {
        // A copy of the child's end would keep the gate open.
        drop(theirs);
        kept = gate::attend(ours, plan.denials().is_some()).map_err(&failed)?;
    }
    channel::tell(channel, &Record::Started, Some(pidfd.as_fd()));
    if spec.powerless {
        // What is left to do needs no right over anything but this namespace's own processes.
        confine::give_up_capabilities().map_err(Stumble::at(Step::Capabilities))?;
        rustix::thread::set_no_new_privs(true).map_err(Stumble::at(Step::NoNewPrivileges))?;
    }

    // Whatever stayed open here would keep a pipe open that the plugin has closed.
    sys::install(channel, CHANNEL).map_err(&failed)?;
    let mut denials = None;
    match (kept, plan.denials()) {
        (Some((listener, question)), Some(plain)) => {
            sys::install(listener.as_fd(), LISTENER).map_err(&failed)?;
            // Its first number is closed with all the others.
            std::mem::forget(listener);
            sys::close_from(LISTENER as u32 + 1);
            // SAFETY: it was just put at this number, which nothing else owns, as for the channel below.
            let mut kept = Denials::new(unsafe { sys::take(LISTENER) }, plain);
            question.into_iter().for_each(|question| kept.answer(question));
            denials = Some(kept);
        }
        _ => sys::close_from(CHANNEL as u32 + 1),
    }
    // SAFETY: the channel was just put at this number, which nothing else owns: what owned it (a descriptor that was
    // only held to reserve the number) lives in a caller that is never returned to.
    let channel = unsafe { BorrowedFd::borrow_raw(CHANNEL) };
    let children = sys::child_signal_descriptor().map_err(&failed)?;
    loop {
        let listener = denials.as_ref().and_then(Denials::listener);
        let mut ready = [
            PollFd::new(&channel, PollFlags::IN),
            PollFd::new(&children, PollFlags::IN),
            // What is not there is replaced by what is watched in any case.
            PollFd::from_borrowed_fd(listener.unwrap_or(channel), PollFlags::IN),
        ];
        let patience = denials.as_ref().and_then(Denials::patience);
        match poll(&mut ready, patience.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(errno)),
        }
        let asked = ready[2].revents();
        let is_asked = listener.is_some();
        if let Some(denials) = denials.as_mut().filter(|_| is_asked) {
            if asked.contains(PollFlags::IN) {
                denials.attend();
            } else if !asked.is_empty() {
                denials.close();
            }
            denials.tell(channel, false);
        }
        reap(&children, plugin, channel, denials.as_mut());
        follow_orders(channel);
    }
}

/// Ends this process when the launcher ends. A change of user undoes it, so it is said again after one.
fn die_with_the_launcher() -> Result<(), Errno> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
}

/// Makes the inside of the namespaces what the plugin is to find, and this process nobody in particular.
fn enclose(spec: &Spec, mut taken: Taken) -> Result<(), Stumble> {
    rustix::process::umask(FILE_MODE_MASK);
    if let Some(root) = &spec.root
        && root.bound_by == BoundBy::Init
    {
        // Still as the daemon's user, to whom the daemon's folders belong.
        taken = root::take(root, None)?;
    }
    if let Some(map) = spec.user_namespace {
        let failed = Stumble::at(Step::Identity);
        let (user, group) = (Uid::from_raw(map.inside_uid), Gid::from_raw(map.inside_gid));
        rustix::thread::set_thread_res_gid(group, group, group).map_err(&failed)?;
        rustix::thread::set_thread_res_uid(user, user, user).map_err(&failed)?;
        die_with_the_launcher().map_err(&failed)?;
    }
    // Nobody looks into pid 1, not even who has the same user.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Stumble::at(Step::Init))?;
    if let Some(name) = &spec.hostname {
        rustix::system::sethostname(name.to_bytes()).map_err(Stumble::at(Step::Hostname))?;
    }
    if let Some(watchers) = spec.watchers {
        // The host's are one number for a user, so one plugin could have them all. Beneath /proc/sys/user it is this namespace's.
        let write = |path, number: u32| user_namespace::write(path, number.to_string().as_bytes());
        write(c"/proc/sys/user/max_inotify_instances", watchers.instances)
            .and_then(|()| write(c"/proc/sys/user/max_inotify_watches", watchers.watches))
            .map_err(Stumble::at(Step::Watchers))?;
    }
    if spec.namespaces.network {
        sys::bring_up_loopback().map_err(Stumble::at(Step::NetworkNamespace))?;
    }
    if spec.namespaces.cgroup {
        sys::unshare(UnshareFlags::NEWCGROUP).map_err(Stumble::at(Step::CgroupNamespace))?;
    }
    match &spec.root {
        Some(root) => root::enter(root, taken),
        None => Ok(()),
    }
}

/// Takes leave of every process that ended; of the plugin's main process, together with this one.
fn reap(children: &OwnedFd, plugin: i32, channel: BorrowedFd<'_>, mut denials: Option<&mut Denials<'_>>) {
    // Taken before reaping: a child that ends afterwards makes the descriptor readable again.
    let mut signal = [0_u8; size_of::<libc::signalfd_siginfo>()];
    let _ = rustix::io::read(children, &mut signal[..]);
    while let Some((pid, status)) = sys::reap() {
        if pid == plugin {
            if let Some(denials) = &mut denials {
                denials.tell(channel, true);
            }
            sys::exit(if channel::tell(channel, &Record::Ended { status }, None) { 0 } else { NOT_HEARD });
        }
    }
}

fn follow_orders(channel: BorrowedFd<'_>) {
    loop {
        match channel::next_order(channel) {
            Read::Message(Order::Begin) => {}
            Read::Message(Order::Stop) => sys::signal_everyone(libc::SIGSTOP),
            Read::Message(Order::Continue) => sys::signal_everyone(libc::SIGCONT),
            Read::Nothing => return,
            Read::Closed => sys::exit(NO_MORE_ORDERS),
        }
    }
}
