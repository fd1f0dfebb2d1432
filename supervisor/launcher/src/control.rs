//! The socket to the daemon: the specification comes in, reports go out, and its end is the lifeline.

use crate::{failure::Failed, sys};
use palisade_launcher::{
    BUILD_ID, Command, DESCRIPTORS_MAX, MESSAGE_BYTES_MAX, MessageError, Report, Spec, Step, Wanted,
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, IoSlice, IoSliceMut},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketType, recv, recvmsg, send, sendmsg, sockopt,
    },
};
use serde::Serialize;
use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
};

/// No command comes near this size; a longer datagram is none.
const COMMAND_BYTES_MAX: usize = 64;

/// The size of an instruction of a system call filter.
const INSTRUCTION_BYTES: usize = 8;

/// The first number that the plugin does not see.
const RECEIVED_FROM: i32 = 5;

/// The socket to the daemon.
pub(crate) struct Control {
    socket: OwnedFd,
}

/// What came along with a specification.
pub(crate) struct Descriptors {
    pub(crate) entry: OwnedFd,
    pub(crate) input: OwnedFd,
    pub(crate) output: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
    pub(crate) leaf: Option<OwnedFd>,
    pub(crate) interpreter: Option<OwnedFd>,
}

/// What the daemon wants now.
pub(crate) enum Wish {
    Command(Command),
    /// Nothing more is waiting to be read.
    Nothing,
    /// The daemon is gone, or talks nonsense, which a daemon of this build does not.
    Gone,
}

impl Control {
    /// Takes over descriptor 0, if it is a socket of the right kind.
    pub(crate) fn take() -> Option<Self> {
        let standard_input = rustix::stdio::stdin();
        if sockopt::socket_type(standard_input) != Ok(SocketType::SEQPACKET) {
            return None;
        }
        // SAFETY: the question above was answered, so the number is open; this is called once, and nothing in this
        // program reads its standard input.
        Some(Self { socket: unsafe { sys::take(0) } })
    }

    /// Sends a report, or what a zygote answers. An error means that the daemon is gone, unless it speaks of the descriptors.
    pub(crate) fn report<T: Serialize>(&self, report: &T, descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let bytes = palisade_launcher::encode(report).map_err(|_| Errno::MSGSIZE)?;
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Errno::MSGSIZE);
        }
        loop {
            match sendmsg(&self.socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL) {
                Err(Errno::INTR) => {}
                result => return result.map(drop),
            }
        }
    }

    /// Sends a report that may be lost if the daemon does not read.
    pub(crate) fn mention(&self, report: &Report) {
        if let Ok(bytes) = palisade_launcher::encode(report) {
            let _ = send(&self.socket, &bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
        }
    }

    /// Waits for the specification and its descriptors. `None`: the daemon closed the socket instead.
    pub(crate) fn receive_spec(&self) -> Result<Option<(Spec, Descriptors)>, Failed> {
        // Asked beforehand, so that only as much memory is touched as the message really has.
        let length = loop {
            match recv(&self.socket, &mut [0_u8; 0][..], RecvFlags::PEEK | RecvFlags::TRUNC) {
                Ok((_, length)) => break length,
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(None),
                Err(errno) => return Err(Failed::at(Step::Specification, errno)),
            }
        };
        if length == 0 {
            return Ok(None);
        }
        if MESSAGE_BYTES_MAX < length {
            return Err(malformed(&MessageError::TooLong { bytes: length }));
        }
        let mut bytes = vec![0; length];
        match self.receive(&mut bytes, RecvFlags::DONTWAIT) {
            Ok(Some((received, descriptors))) if received == length => understand(&bytes, descriptors).map(Some),
            Ok(_) => Err(Failed::because(Step::Specification, "the specification arrived incomplete".to_owned())),
            Err(errno) => Err(Failed::at(Step::Specification, errno)),
        }
    }

    /// Waits for what the daemon wants of a zygote, and the socket that comes along. `None`: the daemon is gone, or talks nonsense,
    /// which a daemon of this build does not.
    pub(crate) fn receive_wanted(&self) -> Option<(Wanted, OwnedFd)> {
        let mut bytes = [0_u8; COMMAND_BYTES_MAX];
        loop {
            match self.receive(&mut bytes, RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                Ok(Some((length, descriptors))) => {
                    let wanted = palisade_launcher::decode(bytes.get(..length)?).ok()?;
                    return Some((wanted, descriptors.into_iter().next()?));
                }
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// One whole message: its length and what came along. `None`: it did not fit, or not all of it arrived.
    fn receive(&self, bytes: &mut [u8], flags: RecvFlags) -> Result<Option<(usize, Vec<OwnedFd>)>, Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(&self.socket, &mut [IoSliceMut::new(bytes)], &mut ancillary, flags | RecvFlags::CMSG_CLOEXEC)?;
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Ok(None);
        }
        let mut descriptors = Vec::with_capacity(DESCRIPTORS_MAX);
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                descriptors.extend(rights);
            }
        }
        Ok(Some((received.bytes, descriptors)))
    }

    /// Whether the daemon's end is still open after so long.
    pub(crate) fn stays(&self, patience: &Timespec) -> bool {
        // Nothing is asked for: an end that closes is told in any case.
        let mut closed = [PollFd::new(&self.socket, PollFlags::empty())];
        matches!(poll(&mut closed, Some(patience)), Ok(0))
    }

    /// What the daemon wants, without waiting for it to want something.
    pub(crate) fn next_wish(&self) -> Wish {
        let mut bytes = [0_u8; COMMAND_BYTES_MAX];
        match recv(&self.socket, &mut bytes[..], RecvFlags::DONTWAIT | RecvFlags::TRUNC) {
            Ok((_, 0)) => Wish::Gone,
            Ok((_, length)) => match bytes.get(..length).map(palisade_launcher::decode::<Command>) {
                Some(Ok(command)) => Wish::Command(command),
                _ => Wish::Gone,
            },
            Err(Errno::AGAIN | Errno::INTR) => Wish::Nothing,
            Err(_) => Wish::Gone,
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn malformed(error: &MessageError) -> Failed {
    Failed::because(Step::Specification, format!("the daemon's specification cannot be read ({error})"))
}

/// Checks a specification against its build, and its descriptors against the specification.
fn understand(bytes: &[u8], descriptors: Vec<OwnedFd>) -> Result<(Spec, Descriptors), Failed> {
    let build_id = Spec::build_id_of(bytes).map_err(|error| malformed(&error))?;
    if build_id != BUILD_ID {
        return Err(Failed::because(
            Step::Specification,
            format!(
                "this launcher is of build {BUILD_ID} and the daemon of build {build_id}; install both from the same \
                 build, then restart palisaded"
            ),
        ));
    }
    let spec: Spec = palisade_launcher::decode(bytes).map_err(|error| malformed(&error))?;
    if spec.arguments.is_empty() {
        return Err(Failed::because(Step::Specification, "the specification names no program".to_owned()));
    }
    for filter in [&spec.seccomp, &spec.denials].into_iter().flatten() {
        if !filter.is_empty() && filter.len() % INSTRUCTION_BYTES == 0 {
            continue;
        }
        return Err(Failed::because(
            Step::Specification,
            format!("the system call filter is {} bytes, which is no number of instructions", filter.len()),
        ));
    }
    let (wanted, given) = (spec.descriptors(), descriptors.len());
    if given != wanted || descriptors.iter().any(|descriptor| descriptor.as_raw_fd() < RECEIVED_FROM) {
        return Err(Failed::because(
            Step::Descriptors,
            format!("the specification needs {wanted} descriptors above 4, and {given} arrived"),
        ));
    }
    let mut descriptors = descriptors.into_iter();
    let mut next = || descriptors.next().ok_or_else(|| Failed::at(Step::Descriptors, Errno::BADF));
    let descriptors = Descriptors {
        entry: next()?,
        input: next()?,
        output: next()?,
        stdout: next()?,
        stderr: next()?,
        leaf: if spec.leaf { Some(next()?) } else { None },
        interpreter: if spec.interpreter { Some(next()?) } else { None },
    };
    Ok((spec, descriptors))
}
