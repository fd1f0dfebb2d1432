//! Messages to and from launchers, with the descriptors that travel with them.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use palisade_launcher::{DESCRIPTORS_MAX, Report};
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    },
};
use serde::de::DeserializeOwned;

/// No message of a launcher is larger: its longest part is a sentence with two paths.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;

/// What came.
pub(super) enum Received<T = Report> {
    Message(T, Vec<OwnedFd>),
    /// One whose descriptors did not all find room in this process.
    Short(T),
    /// Something that no launcher of this build sends.
    Garbled,
    Closed,
}

/// The daemon's end, which does not block, and the launcher's.
pub(super) fn socket_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (ours, launchers) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::io::ioctl_fionbio(&ours, true)?;
    Ok((ours, launchers))
}

/// Sends a message with at most [`DESCRIPTORS_MAX`] descriptors.
pub(super) fn hand_over(socket: impl AsFd, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(Errno::MSGSIZE);
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL)?;
    Ok(())
}

/// Takes a message, if there is one.
pub(super) fn receive_from<T: DeserializeOwned>(socket: impl AsFd) -> io::Result<Received<T>> {
    let mut bytes = [0_u8; MESSAGE_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    )?;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.bytes == 0 {
        return Ok(Received::Closed);
    }
    if received.flags.contains(ReturnFlags::TRUNC) {
        return Ok(Received::Garbled);
    }
    Ok(match palisade_launcher::decode(&bytes[..received.bytes]) {
        Ok(message) if received.flags.contains(ReturnFlags::CTRUNC) => Received::Short(message),
        Ok(message) => Received::Message(message, descriptors),
        Err(_) => Received::Garbled,
    })
}
