//! The socket between the launcher and pid 1: what became of the plugin goes out of the namespace, two orders go in.
//!
//! A record is a few bytes, so that pid 1 and the process on its way to exec can send one without touching the heap.

use crate::failure::Stumble;
use palisade_launcher::{Denied, Step};
use rustix::{
    io::{Errno, IoSlice, IoSliceMut},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, SocketFlags, SocketType, recv, recvmsg, send, sendmsg, socketpair,
    },
};
use std::{
    mem::MaybeUninit,
    os::fd::{BorrowedFd, OwnedFd},
};

const RECORD_BYTES: usize = 8;

/// One about a refused system call: its number, its count and six arguments follow.
const DENIED_BYTES: usize = RECORD_BYTES + 7 * size_of::<u64>();

const STARTED: u8 = 1;
const FAILED: u8 = 2;
const ENDED: u8 = 3;
const LISTENING: u8 = 4;
const DENIED: u8 = 5;

const STOP: u8 = 1;
const CONTINUE: u8 = 2;
const BEGIN: u8 = 3;

/// What pid 1, or the plugin before its exec, has to say.
pub(crate) enum Record {
    /// The plugin exists. If its exec failed, a `Failed` came before.
    Started,
    /// A step did not hold; `detail` counts within it.
    Failed(Stumble),
    /// The listener that comes along stands in the plugin's network namespace. It comes before `Started`.
    Listening,
    /// The plugin's main process ended with this wait status.
    Ended { status: i32 },
    /// A system call was refused.
    Denied(Denied),
}

/// What the launcher asks of pid 1.
#[derive(Clone, Copy)]
pub(crate) enum Order {
    /// Its user namespace has its map; before that it is nobody and can do nothing.
    Begin,
    Stop,
    Continue,
}

/// What there was to read.
pub(crate) enum Read<T> {
    Message(T),
    Nothing,
    Closed,
}

/// Both ends: the launcher's, then pid 1's.
pub(crate) fn pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
}

/// Sends a record, and says whether it was. A failure means that the launcher is gone, and pid 1 with it in a moment.
pub(crate) fn tell(channel: BorrowedFd<'_>, record: &Record, descriptor: Option<BorrowedFd<'_>>) -> bool {
    let mut bytes = [0_u8; DENIED_BYTES];
    let mut length = RECORD_BYTES;
    let value = match record {
        Record::Denied(Denied { number, errno, count, arguments }) => {
            bytes[0] = DENIED;
            bytes[2..4].copy_from_slice(&errno.to_le_bytes());
            let (words, _) = bytes[RECORD_BYTES..].as_chunks_mut();
            for (to, from) in words.iter_mut().zip([count].into_iter().chain(arguments)) {
                *to = from.to_le_bytes();
            }
            length = DENIED_BYTES;
            number.cast_signed()
        }
        Record::Started => {
            bytes[0] = STARTED;
            0
        }
        Record::Listening => {
            bytes[0] = LISTENING;
            0
        }
        Record::Failed(Stumble { step, detail, errno }) => {
            bytes[..3].copy_from_slice(&[FAILED, *step as u8, *detail]);
            errno.raw_os_error()
        }
        Record::Ended { status } => {
            bytes[0] = ENDED;
            *status
        }
    };
    bytes[4..RECORD_BYTES].copy_from_slice(&value.to_le_bytes());

    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let descriptors = descriptor.map(|descriptor| [descriptor]);
    if let Some(descriptors) = &descriptors {
        ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
    }
    loop {
        match sendmsg(channel, &[IoSlice::new(&bytes[..length])], &mut ancillary, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            sent => return sent.is_ok(),
        }
    }
}

/// Reads a record, and the descriptor that came along, without waiting.
pub(crate) fn hear(channel: BorrowedFd<'_>) -> Read<(Record, Option<OwnedFd>)> {
    let mut bytes = [0_u8; DENIED_BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let mut receive = || recvmsg(channel, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, flags);
    let received = match receive() {
        // A pid 1 that ended with an order unread: the kernel tells that once, and first, and what it had said lies there still.
        Err(Errno::CONNRESET) => receive(),
        received => received,
    };
    match received {
        Ok(received) if received.bytes == DENIED_BYTES && bytes[0] == DENIED => {}
        Ok(received) if received.bytes == RECORD_BYTES && bytes[0] != DENIED => {}
        Err(Errno::AGAIN | Errno::INTR) => return Read::Nothing,
        Ok(_) | Err(_) => return Read::Closed,
    }
    let descriptor = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut rights) => rights.next(),
        _ => None,
    });
    let [kind, step, detail, high, v0, v1, v2, v3, rest @ ..] = bytes;
    let value = i32::from_le_bytes([v0, v1, v2, v3]);
    let record = match (kind, Step::from_number(step)) {
        (STARTED, _) => Record::Started,
        (LISTENING, _) => Record::Listening,
        (FAILED, Some(step)) => Record::Failed(Stumble { step, detail, errno: Errno::from_raw_os_error(value) }),
        (ENDED, _) => Record::Ended { status: value },
        (DENIED, _) => {
            let (words, _) = rest.as_chunks();
            let word = |at: usize| words.get(at).map_or(0, |word| u64::from_le_bytes(*word));
            let (number, errno) = (value.cast_unsigned(), u16::from_le_bytes([detail, high]));
            Record::Denied(Denied { number, errno, count: word(0), arguments: std::array::from_fn(|at| word(1 + at)) })
        }
        _ => return Read::Closed,
    };
    Read::Message((record, descriptor))
}

/// Gives pid 1 an order. It is not waited for: a pid 1 that does not listen can still be killed.
pub(crate) fn order(channel: BorrowedFd<'_>, order: Order) {
    let byte = match order {
        Order::Begin => BEGIN,
        Order::Stop => STOP,
        Order::Continue => CONTINUE,
    };
    let _ = send(channel, &[byte], SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
}

/// Waits for the order to begin. `false`: the launcher is gone.
pub(crate) fn wait_to_begin(channel: BorrowedFd<'_>) -> bool {
    let mut byte = [0_u8; 1];
    loop {
        match recv(channel, &mut byte[..], RecvFlags::empty()) {
            Ok((_, 1)) if byte[0] == BEGIN => return true,
            // Nobody asks for a tree to be stopped that has not been reported; should somebody, it is begun first.
            Ok((_, 1)) | Err(Errno::INTR) => {}
            Ok(_) | Err(_) => return false,
        }
    }
}

/// Reads an order without waiting.
pub(crate) fn next_order(channel: BorrowedFd<'_>) -> Read<Order> {
    let mut byte = [0_u8; 1];
    match recv(channel, &mut byte[..], RecvFlags::DONTWAIT) {
        Ok((_, 1)) if byte[0] == BEGIN => Read::Message(Order::Begin),
        Ok((_, 1)) if byte[0] == STOP => Read::Message(Order::Stop),
        Ok((_, 1)) if byte[0] == CONTINUE => Read::Message(Order::Continue),
        Err(Errno::AGAIN | Errno::INTR) => Read::Nothing,
        Ok(_) | Err(_) => Read::Closed,
    }
}
