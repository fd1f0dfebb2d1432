//! The tree of one plugin, seen from outside: made, watched, killed, and waited for until it is gone.

use crate::{
    Reserved,
    channel::{self, Order, Read, Record},
    control::{Control, Descriptors, Wish},
    failure::Failed,
    init,
    plugin::Plan,
    prepared::{Born, Prepared},
    root,
    sys::{self, Birth, Cloned, Kind},
    user_namespace,
};
use palisade_launcher::{BoundBy, Command, End, Report, Spec, Step, Usage};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags},
    io::Errno,
    process::{DumpableBehavior, Pid, PidfdFlags, Signal, getppid, pidfd_open, pidfd_send_signal},
    thread::UnshareFlags,
};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// pid 1 and everything beneath it.
pub(crate) struct Tree {
    init: i32,
    init_pidfd: OwnedFd,
    channel: OwnedFd,
    /// `cgroup.kill` of the leaf, opened before it is needed; absent without a leaf, or before Linux 5.14.
    kill_file: Option<OwnedFd>,
    /// The daemon, as long as it is this process's parent.
    daemon: Option<Pid>,
}

/// What pid 1 has said so far.
#[derive(Default)]
struct Heard {
    failure: Option<Failed>,
    /// The wait status of the plugin's main process.
    status: Option<i32>,
    /// What stands in the network namespace for the daemon, until it is handed over.
    listener: Option<OwnedFd>,
    /// pid 1 will say no more.
    closed: bool,
}

impl Tree {
    /// Performs the specification's steps, in their order, up to a running pid 1.
    pub(crate) fn start(
        spec: &Spec,
        mut descriptors: Descriptors,
        reserved: Reserved,
        mut prepared: Option<Prepared>,
    ) -> Result<Self, Failed> {
        let daemon = getppid();
        let leaf = descriptors.leaf.take();
        let kill_file = leaf.as_ref().and_then(|leaf| {
            rustix::fs::openat(leaf, c"cgroup.kill", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()).ok()
        });
        // Groups that the daemon happens to have are none of the plugin's. Only root can leave them; an ordinary user's
        // stay, and lead nowhere in a private root.
        let _ = rustix::thread::set_thread_groups(&[]);
        // Whether it is of use or not, it must be gone before there is a pid 1.
        let holder = prepared.as_mut().and_then(Prepared::take_holder);
        let taken = match &spec.root {
            Some(root) if root.bound_by == BoundBy::Launcher => root::take(root, holder)?,
            _ => {
                drop(holder);
                root::Taken::new()
            }
        };
        let plan = Plan::of(spec);

        let (outer, inner) = channel::pair().map_err(|errno| Failed::at(Step::PidNamespace, errno))?;
        let place = leaf.as_ref().map(AsFd::as_fd);
        let namespaces = namespaces_of(spec);
        let mut born = Born::Not;
        if let Some(prepared) = prepared.filter(|prepared| prepared.serves(spec)) {
            born = match prepared.bear(place, namespaces) {
                Ok(born) => born,
                Err(errno) => {
                    // Should there be a pid 1, it ends when nobody can order it to begin any more.
                    drop((outer, inner));
                    sys::wait_for_all();
                    return Err(Failed::at(Step::PidNamespace, errno));
                }
            };
        }
        if let Born::Not = born {
            let kind = Kind::Init(Birth::Child { leaf: place, namespaces });
            born = match sys::clone(kind).map_err(|errno| blame(spec, errno))? {
                Cloned::Child => Born::Here,
                Cloned::Parent { pid, pidfd } => Born::There { pid, pidfd },
            };
        }
        let tree = match born {
            Born::Here => init::run(&plan, descriptors, &reserved, taken, outer, &inner),
            // The descriptors are dropped here: an end of a pipe that stayed open would hide that the plugin closed it.
            Born::There { pid, pidfd } => Self { init: pid, init_pidfd: pidfd, channel: outer, kill_file, daemon },
            Born::Not => return Err(Failed::at(Step::PidNamespace, Errno::CHILD)),
        };
        tree.begin(spec).inspect_err(|_| {
            tree.kill();
            let _ = sys::wait_for(tree.init);
        })?;
        Ok(tree)
    }

    /// Lets pid 1 begin, which was born as nobody in a user namespace without a map.
    fn begin(&self, spec: &Spec) -> Result<(), Failed> {
        if let Some(map) = spec.user_namespace {
            user_namespace::map(self.init, map)?;
        }
        // Only now: the files of an undumpable process belong to root, the maps among them.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(|errno| Failed::at(Step::UserNamespace, errno))?;
        if spec.user_namespace.is_some() {
            channel::order(self.channel.as_fd(), Order::Begin);
        }
        Ok(())
    }

    /// Watches until the tree is gone, passing news to the daemon and its commands to the tree.
    pub(crate) fn watch(self, control: &Control, spec: Spec) {
        let mut spec = Some(spec);
        let mut heard = Heard::default();
        loop {
            let channel_events = if heard.closed { PollFlags::empty() } else { PollFlags::IN };
            let mut ready = [
                PollFd::new(control, PollFlags::IN),
                PollFd::new(&self.init_pidfd, PollFlags::IN),
                PollFd::new(&self.channel, channel_events),
            ];
            // A closed channel is always ready; it is left out then, or this would spin until pid 1 is gone.
            let watched = if heard.closed { &mut ready[..2] } else { &mut ready[..] };
            match poll(watched, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => self.kill(),
            }
            let init_ended = !ready[1].revents().is_empty();

            if self.obey(control).is_err() {
                // The lifeline is cut: nobody is left to report to.
                self.kill();
                let _ = sys::wait_for(self.init);
                self.clear_away();
                return;
            }
            self.listen(control, &mut spec, &mut heard);
            if init_ended {
                // Once more, for what pid 1 said last may have arrived after the look above.
                self.listen(control, &mut spec, &mut heard);
                let report = self.conclude(heard, spec.as_ref());
                // A daemon that lives ends this process as soon as it has read that. One that was dying, and had closed the plugin's
                // pipes before this socket, never does.
                let told = control.report(&report, &[]).is_ok();
                if self.kill_file.is_some() && !(told && control.stays(&DYING)) {
                    self.clear_away();
                }
                return;
            }
        }
    }

    /// Does what the daemon wants. An error means that the daemon is gone.
    fn obey(&self, control: &Control) -> Result<(), ()> {
        loop {
            match control.next_wish() {
                Wish::Command(Command::Freeze) => channel::order(self.channel.as_fd(), Order::Stop),
                Wish::Command(Command::Thaw) => channel::order(self.channel.as_fd(), Order::Continue),
                Wish::Command(Command::Kill) => self.kill(),
                Wish::Nothing => return Ok(()),
                Wish::Gone => return Err(()),
            }
        }
    }

    /// Takes in what pid 1 has to say.
    fn listen(&self, control: &Control, spec: &mut Option<Spec>, heard: &mut Heard) {
        while !heard.closed {
            match channel::hear(self.channel.as_fd()) {
                Read::Message((Record::Started, Some(pidfd))) => {
                    if heard.failure.is_none() {
                        // Its memory is not needed for the rest of the plugin's life.
                        *spec = None;
                        // A daemon that is gone shows as the end of the socket, in the next round.
                        // Nothing of it stays here: the daemon alone decides for how long it is served.
                        let listener = heard.listener.take();
                        let mut descriptors = vec![self.init_pidfd.as_fd(), pidfd.as_fd()];
                        descriptors.extend(listener.as_ref().map(AsFd::as_fd));
                        let _ = control.report(&Report::Started, &descriptors);
                    }
                }
                Read::Message((Record::Started, None)) => {
                    heard.failure.get_or_insert(Failed::at(Step::Process, Errno::MFILE));
                    self.kill();
                }
                Read::Message((Record::Listening, Some(listener))) => heard.listener = Some(listener),
                Read::Message((Record::Listening, None)) => {
                    heard.failure.get_or_insert(Failed::at(Step::Listener, Errno::MFILE));
                    self.kill();
                }
                Read::Message((Record::Failed(stumble), _)) => {
                    heard.failure.get_or_insert(stumble.into());
                    self.kill();
                }
                Read::Message((Record::Denied(denied), _)) => control.mention(&Report::Denied(denied)),
                Read::Message((Record::Ended { status }, _)) => heard.status = Some(status),
                Read::Nothing => return,
                Read::Closed => heard.closed = true,
            }
        }
    }

    /// Kills everything, frozen or not: the leaf as a whole where there is one, and pid 1, with which its namespace ends.
    fn kill(&self) {
        if let Some(file) = &self.kill_file {
            let _ = rustix::io::write(file, b"1");
        }
        // It fails only if pid 1 is gone already.
        let _ = pidfd_send_signal(&self.init_pidfd, Signal::KILL);
    }

    /// Removes the leaf in place of a daemon that died, and with the last leaf the folder that the daemon had for them. What is not
    /// empty, or not ours to remove, stays; a daemon that lives clears away itself.
    fn clear_away(&self) {
        let Some(file) = &self.kill_file else { return };
        if !has_ended(self.daemon) {
            return;
        }
        let Ok(path) = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) else { return };
        for folder in path.ancestors().skip(1).take(2) {
            if std::fs::remove_dir(folder).is_err() {
                return;
            }
        }
    }

    /// Waits for pid 1, which has ended, and says what became of the plugin. The kernel lets pid 1 be waited for only
    /// after every other process of its namespace is gone.
    fn conclude(&self, heard: Heard, spec: Option<&Spec>) -> Report {
        let (init_status, usage) = match sys::wait_for(self.init) {
            Ok((status, usage)) => (status, usage_of(&usage)),
            Err(_) => (0, Usage::default()),
        };
        match heard {
            Heard { failure: Some(failed), .. } => Report::Failed(failed.describe(spec)),
            Heard { status: Some(status), .. } => Report::Exited { end: end_of(status), usage },
            Heard { .. } => {
                let (signal, code) = match end_of(init_status) {
                    End::Signal { number, .. } => (number, 0),
                    End::Code(code) | End::InitLost { code, .. } => (0, code),
                };
                Report::Exited { end: End::InitLost { signal, code }, usage }
            }
        }
    }
}

/// The namespaces that pid 1 is born in, beside the pid namespace. Its cgroup namespace comes later: it is to have the
/// leaf as its root, where pid 1 is only once it is born.
fn namespaces_of(spec: &Spec) -> UnshareFlags {
    NAMESPACES.iter().filter(|(_, _, wanted)| wanted(spec)).fold(UnshareFlags::empty(), |all, (flag, ..)| all | *flag)
}

/// A namespace, the step that makes it, and whether a specification wants it.
type Namespace = (UnshareFlags, Step, fn(&Spec) -> bool);

const NAMESPACES: [Namespace; 5] = [
    (UnshareFlags::NEWUSER, Step::UserNamespace, |spec| spec.user_namespace.is_some()),
    (UnshareFlags::NEWNS, Step::MountNamespace, |spec| spec.root.is_some()),
    (UnshareFlags::NEWNET, Step::NetworkNamespace, |spec| spec.namespaces.network),
    (UnshareFlags::NEWIPC, Step::IpcNamespace, |spec| spec.namespaces.ipc),
    (UnshareFlags::NEWUTS, Step::Hostname, |spec| spec.hostname.is_some()),
];

/// Which of the namespaces it was that could not be made: the clone only says that one was. They are tried one after the
/// other by this process, which has nothing else left to do.
fn blame(spec: &Spec, errno: Errno) -> Failed {
    let pid = (UnshareFlags::NEWPID, Step::PidNamespace, (|_| true) as fn(&Spec) -> bool);
    let (user, others) = NAMESPACES.split_at(1);
    for (flag, step, wanted) in user.iter().chain([&pid]).chain(others) {
        if wanted(spec)
            && let Err(errno) = sys::unshare(*flag)
        {
            return Failed::at(*step, errno);
        }
    }
    Failed::at(Step::PidNamespace, errno)
}

/// A daemon that dies closes its descriptors a moment before it is gone; one that is still there after this lives on.
const DYING: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

/// Whether the parent that was `daemon` has ended, or does so in a moment.
fn has_ended(daemon: Option<Pid>) -> bool {
    match getppid() {
        Some(parent) if Some(parent) == daemon => {
            // The number is that of our parent, so nobody else has it while it is that.
            let Ok(pidfd) = pidfd_open(parent, PidfdFlags::empty()) else { return getppid() != daemon };
            let mut ended = [PollFd::new(&pidfd, PollFlags::IN)];
            matches!(poll(&mut ended, Some(&DYING)), Ok(1..))
        }
        _ => true,
    }
}

fn end_of(status: i32) -> End {
    if libc::WIFSIGNALED(status) {
        End::Signal { number: libc::WTERMSIG(status), core_dumped: libc::WCOREDUMP(status) }
    } else {
        End::Code(libc::WEXITSTATUS(status))
    }
}

fn usage_of(usage: &libc::rusage) -> Usage {
    let micros =
        |time: libc::timeval| (time.tv_sec as u64).saturating_mul(1_000_000).saturating_add(time.tv_usec as u64);
    Usage {
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        rss_bytes_max: (usage.ru_maxrss as u64).saturating_mul(1024),
    }
}
