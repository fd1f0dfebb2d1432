//! Takes over the two descriptors on which a plugin talks with its supervisor. The only unsafe code of this crate is
//! here.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use rustix::fs::{FileType, OFlags};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;

use crate::connection::Channel;

/// Frames from the supervisor come on this one.
const FROM_SUPERVISOR: RawFd = 3;
/// Frames to the supervisor go on this one.
const TO_SUPERVISOR: RawFd = 4;
/// A pipe through which large payloads pass: as large as an ordinary user may make one.
const LARGE_PIPE_BYTES: usize = 1 << 20;
/// A pipe as it comes.
const PIPE_BYTES: usize = 64 << 10;

/// The two ends, checked: a pipe or a socket each. `None` when they are not those of a plugin: the program was started
/// by hand.
pub(crate) fn take() -> Option<(OwnedFd, OwnedFd)> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::AcqRel) {
        return None;
    }
    #[expect(unsafe_code, reason = "descriptors that a parent passed by number cannot be had otherwise")]
    // SAFETY: whoever starts a plugin passes these two numbers for it alone, so nothing else in this process owns them,
    // and this runs at most once. If a number is not open, which `fstat` below finds out before anything else is
    // done with it, the value is given up without being closed.
    let (from, to) = unsafe { (OwnedFd::from_raw_fd(FROM_SUPERVISOR), OwnedFd::from_raw_fd(TO_SUPERVISOR)) };
    let source = identity(from.as_fd(), OFlags::WRONLY);
    let sink = identity(to.as_fd(), OFlags::RDONLY);
    match (source, sink) {
        // One and the same pipe is some other program's.
        (Some((FileType::Fifo, from)), Some((FileType::Fifo, to))) if from == to => {}
        (Some(_), Some(_)) => return Some((from, to)),
        _ => {}
    }
    for descriptor in [from, to] {
        let _ = descriptor.into_raw_fd();
    }
    None
}

/// What kind of file a descriptor is, and which; `None` when it is no pipe or socket or cannot be used in that
/// direction.
fn identity(descriptor: BorrowedFd<'_>, wrong: OFlags) -> Option<(FileType, u64)> {
    let stat = rustix::fs::fstat(descriptor).ok()?;
    let flags = rustix::fs::fcntl_getfl(descriptor).ok()?;
    match FileType::from_raw_mode(stat.st_mode) {
        kind @ (FileType::Fifo | FileType::Socket) if flags & OFlags::RWMODE != wrong => Some((kind, stat.st_ino)),
        _ => None,
    }
}

/// The end that frames come from.
pub(crate) enum Source {
    Pipe(pipe::Receiver),
    Socket(UnixStream),
}

/// The end that frames go to.
pub(crate) enum Sink {
    Pipe(pipe::Sender),
    Socket(UnixStream),
}

impl Source {
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        if is_socket(&descriptor)? {
            socket(descriptor).map(Self::Socket)
        } else {
            pipe::Receiver::from_owned_fd(descriptor).map(Self::Pipe)
        }
    }
}

impl Sink {
    pub(crate) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        if is_socket(&descriptor)? {
            socket(descriptor).map(Self::Socket)
        } else {
            pipe::Sender::from_owned_fd(descriptor).map(Self::Pipe)
        }
    }
}

fn is_socket(descriptor: &OwnedFd) -> io::Result<bool> {
    Ok(FileType::from_raw_mode(rustix::fs::fstat(descriptor)?.st_mode) == FileType::Socket)
}

fn socket(descriptor: OwnedFd) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(descriptor);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

impl Channel for Source {
    fn resize(&self, large: bool) {
        if let Self::Pipe(pipe) = self {
            resize(pipe.as_fd(), large);
        }
    }
}

impl Channel for Sink {
    fn resize(&self, large: bool) {
        if let Self::Pipe(pipe) = self {
            resize(pipe.as_fd(), large);
        }
    }
}

fn resize(pipe: BorrowedFd<'_>, large: bool) {
    let wanted = if large { LARGE_PIPE_BYTES } else { PIPE_BYTES };
    // A user may have only so many large pipes, and a pipe that is full cannot shrink: it works at any size.
    if rustix::pipe::fcntl_getpipe_size(pipe).is_ok_and(|size| (size < wanted) == large && size != wanted) {
        let _ = rustix::pipe::fcntl_setpipe_size(pipe, wanted);
    }
}

impl AsyncRead for Source {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Pipe(pipe) => Pin::new(pipe).poll_read(context, buffer),
            Self::Socket(socket) => Pin::new(socket).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Sink {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Pipe(pipe) => Pin::new(pipe).poll_write(context, bytes),
            Self::Socket(socket) => Pin::new(socket).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Pipe(pipe) => Pin::new(pipe).poll_write_vectored(context, slices),
            Self::Socket(socket) => Pin::new(socket).poll_write_vectored(context, slices),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
