//! The gate through which a child becomes a plugin: of all programs that it ever executes, only the first one.
//!
//! The filter asks about each exec instead of deciding it. The child hands the listener on which it asks to pid 1, which lets
//! execs through for as long as the child is still this program's own code. The child's end of the gate closes with the exec
//! that succeeds, within the kernel and before the new program runs; so pid 1, which looks at it after each question, knows whose
//! question it is. Once it is closed the listener is closed as well, and from then on the kernel answers ENOSYS by itself.
//!
//! Invariants: a question of the plugin's own is never answered with leave; the gate is open for as long as exec is tried again.
//! Elsewhere: where refusals are written down the listener is kept, and what is asked from then on is `denials`'; the filter is made by the daemon (`sandbox::seccomp`).

use crate::sys::{self, Question};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::{Errno, IoSlice, IoSliceMut},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
    },
};
use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Both ends: pid 1's, then the child's.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Hands the listener to pid 1. The child's own copy of it closes with its exec, as the gate does.
pub(crate) fn hand_over(gate: BorrowedFd<'_>, listener: &OwnedFd) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = [listener.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&descriptors));
    sendmsg(gate, &[IoSlice::new(&[1])], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

/// pid 1's side: lets the child's own execs through until it has become the plugin, or is gone. When this returns the
/// listener is closed, unless `kept`: then it is returned with the plugin's own first question, if there is one already.
pub(crate) fn attend(gate: OwnedFd, kept: bool) -> Result<Option<(OwnedFd, Option<Question>)>, Errno> {
    let mut listener: Option<OwnedFd> = None;
    loop {
        // What is not there yet is replaced by what is watched in any case.
        let questions = listener.as_ref().map_or(gate.as_fd(), AsFd::as_fd);
        let mut ready = [PollFd::new(&gate, PollFlags::IN), PollFd::from_borrowed_fd(questions, PollFlags::IN)];
        match poll(&mut ready, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        if listener.is_none() {
            match receive(gate.as_fd()) {
                Ok(received) => listener = received,
                Err(_) => return Ok(None),
            }
        }
        let Some(open) = &listener else { continue };
        // A question is taken first and the gate looked at afterwards: one that is there while the gate is open was asked
        // by our own code.
        let question = if has(open.as_fd(), PollFlags::IN) { sys::next_question(open.as_fd()).ok() } else { None };
        if has(gate.as_fd(), PollFlags::HUP) {
            // Whoever asked finds the listener gone, which the kernel answers with ENOSYS; or hears it from whoever keeps it.
            return Ok(listener.filter(|_| kept).map(|listener| (listener, question)));
        }
        if let Some(question) = question {
            // A child that was killed meanwhile needs no answer.
            let _ = sys::let_through(open.as_fd(), question);
        }
    }
}

/// Whether one of `flags` holds of a descriptor at this moment.
fn has(descriptor: BorrowedFd<'_>, flags: PollFlags) -> bool {
    let mut watched = [PollFd::new(&descriptor, flags)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    matches!(poll(&mut watched, Some(&now)), Ok(1..)) && watched[0].revents().intersects(flags)
}

/// The listener, once it comes. An error: it will not.
fn receive(gate: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Errno> {
    let mut byte = [0_u8; 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    match recvmsg(gate, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, flags) {
        Ok(received) if received.bytes == 1 => {}
        Ok(_) => return Err(Errno::PIPE),
        Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    let listener = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    listener.map(Some).ok_or(Errno::MFILE)
}
