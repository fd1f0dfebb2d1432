//! What of a start can be done before it is known who is to be started: the launcher runs, and has made a user namespace
//! and, in it, a network with its loopback device and an IPC namespace, which are half the cost of a start; and, where mounts
//! can map ids, a user namespace by which one will.
//!
//! Nobody is in these namespaces until pid 1 is born. It is born by a passage: a process that is born in the leaf cgroup,
//! enters the namespaces, makes pid 1 as a child of the launcher (`CLONE_PARENT`), and ends. From there on nothing differs
//! from a start that was not prepared: pid 1 has the same namespaces with the same owners, waits for its map, and does the rest.
//!
//! Invariants: they serve one start, and only one that wants all of them; a passage that says that it cannot make pid 1
//! has made none; one that says nothing ends the start.

use crate::{
    failure::Failed,
    sys::{self, Birth, Cloned, Kind},
    user_namespace::{Holder, file_of},
};
use palisade_launcher::{Spec, Step};
use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{DumpableBehavior, Pid, PidfdFlags, pidfd_open},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// What is prepared.
const NAMESPACES: UnshareFlags = UnshareFlags::NEWUSER.union(UnshareFlags::NEWNET).union(UnshareFlags::NEWIPC);

/// In the order in which they are entered: the rights to enter the others come with the first.
const LINKS: [(&str, LinkNameSpaceType); 3] = [
    ("ns/user", LinkNameSpaceType::User),
    ("ns/net", LinkNameSpaceType::Network),
    ("ns/ipc", LinkNameSpaceType::InterProcessCommunication),
];

/// Namespaces in which nobody is yet.
pub(crate) struct Prepared {
    namespaces: [OwnedFd; LINKS.len()],
    /// Only root can map the ids of a mount.
    holder: Option<Holder>,
}

/// What became of a birth.
pub(crate) enum Born {
    /// This is pid 1.
    Here,
    /// It exists.
    There { pid: i32, pidfd: OwnedFd },
    /// It could not be made this way, and nothing came of it.
    Not,
}

impl Prepared {
    /// Makes them. No process is left in them.
    pub(crate) fn make() -> Result<Self, Failed> {
        let failed = |errno| Failed::at(Step::UserNamespace, errno);
        let (opened, open) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let pid = match sys::clone(Kind::Holder { namespaces: NAMESPACES }).map_err(failed)? {
            Cloned::Child => {
                drop(open);
                // It is there until they are opened, or until there is nobody who would.
                let _ = rustix::io::read(&opened, &mut [0_u8; 1][..]);
                sys::exit(sys::bring_up_loopback().map_or_else(Errno::raw_os_error, |()| 0))
            }
            Cloned::Parent { pid, .. } => pid,
        };
        let namespaces = LINKS.map(|(name, _)| {
            let path = file_of(pid, name);
            rustix::fs::open(path.as_c_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        });
        drop(open);
        let (status, _) = sys::wait_for(pid).map_err(failed)?;
        if status != 0 {
            let errno = if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { libc::EIO };
            return Err(Failed::at(Step::NetworkNamespace, Errno::from_raw_os_error(errno)));
        }
        let [user, network, ipc] = namespaces;
        let namespaces = [user.map_err(failed)?, network.map_err(failed)?, ipc.map_err(failed)?];
        let holder =
            if rustix::process::geteuid().is_root() { Some(Holder::make_to_keep().map_err(failed)?) } else { None };
        Ok(Self { namespaces, holder })
    }

    /// Takes the process in whose user namespace the ids of a mount can be mapped.
    pub(crate) fn take_holder(&mut self) -> Option<Holder> {
        self.holder.take()
    }

    /// Whether they are what this start wants.
    pub(crate) fn serves(&self, spec: &Spec) -> bool {
        spec.user_namespace.is_some() && spec.namespaces.network && spec.namespaces.ipc
    }

    /// Makes pid 1 in these namespaces and in those of `wanted` that are not prepared, born in this cgroup. An error means
    /// that something may have come of it: whoever waits for the order to begin must be told that there is none.
    pub(crate) fn bear(&self, leaf: Option<BorrowedFd<'_>>, wanted: UnshareFlags) -> Result<Born, Errno> {
        let Ok((answer, say)) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK) else { return Ok(Born::Not) };
        let passage = match sys::clone(Kind::Passage { leaf }) {
            Ok(Cloned::Parent { pid, .. }) => pid,
            Ok(Cloned::Child) => {
                drop(answer);
                let birth = Birth::Sibling { namespaces: wanted.difference(NAMESPACES) };
                let pid = match self.enter().and_then(|()| sys::clone(Kind::Init(birth))) {
                    Ok(Cloned::Child) => return Ok(Born::Here),
                    Ok(Cloned::Parent { pid, .. }) => pid,
                    Err(_) => 0,
                };
                let _ = rustix::io::write(&say, &pid.to_le_bytes());
                sys::exit(0)
            }
            Err(_) => return Ok(Born::Not),
        };
        drop(say);
        // It is waited for first: where it was counted in the leaf, the plugin has its place.
        sys::wait_for(passage)?;
        let mut bytes = [0_u8; size_of::<i32>()];
        match rustix::io::read(&answer, &mut bytes) {
            Ok(length) if length == bytes.len() => {}
            Ok(_) => return Err(Errno::CHILD),
            Err(errno) => return Err(errno),
        }
        match Pid::from_raw(i32::from_le_bytes(bytes)) {
            None => Ok(Born::Not),
            // The number is that of our child, so nobody else has it before it is waited for.
            Some(pid) => {
                let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
                Ok(Born::There { pid: pid.as_raw_nonzero().get(), pidfd })
            }
        }
    }

    fn enter(&self) -> Result<(), Errno> {
        for (namespace, (_, kind)) in self.namespaces.iter().zip(LINKS) {
            move_into_link_name_space(namespace.as_fd(), Some(kind))?;
        }
        // Entering a user namespace hides a process from its own user, who is to write the map of the one that is born.
        rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
    }
}
