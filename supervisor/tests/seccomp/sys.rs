//! What safe Rust does not offer and these tests need: installing a filter, answering its listener, and making any system call.
//!
//! The rule that unsafe code lives in the launcher and the SDK is about what Palisade ships.
#![expect(unsafe_code, reason = "see above")]

use std::arch::asm;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Installs a filter for the calling thread, without a listener.
pub(crate) fn install(filter: &[u8]) -> io::Result<()> {
    set_filter(filter, 0).map(|_| ())
}

/// Installs a filter for the calling thread; what it asks is asked at the descriptor.
pub(crate) fn install_with_listener(filter: &[u8]) -> io::Result<OwnedFd> {
    let descriptor = set_filter(filter, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn set_filter(filter: &[u8], flags: libc::c_ulong) -> io::Result<i32> {
    let mut instructions: Vec<libc::sock_filter> = filter
        .as_chunks::<8>()
        .0
        .iter()
        .map(|&[c0, c1, jt, jf, k0, k1, k2, k3]| libc::sock_filter {
            code: u16::from_le_bytes([c0, c1]),
            jt,
            jf,
            k: u32::from_le_bytes([k0, k1, k2, k3]),
        })
        .collect();
    let program = libc::sock_fprog {
        len: instructions.len().try_into().map_err(|_| io::ErrorKind::InvalidInput)?,
        filter: instructions.as_mut_ptr(),
    };
    // SAFETY: this option takes numbers alone.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `program` tells pointer and length of `instructions`; both live until the kernel has copied them.
    let done = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, &raw const program) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done as i32) }
}

/// A call that a filter asks about.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    id: u64,
    pub(crate) number: u32,
    pub(crate) arguments: [u64; 6],
}

/// Waits for the next question.
pub(crate) fn next_question(listener: BorrowedFd<'_>) -> io::Result<Question> {
    // SAFETY: a structure of numbers, which the kernel wants zeroed.
    let mut question: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    let request = request(0, size_of::<libc::seccomp_notif>());
    // SAFETY: the request writes a structure of exactly this type, whose size is part of it.
    match unsafe { libc::ioctl(listener.as_raw_fd(), request, &raw mut question) } {
        0 => {
            let data = question.data;
            Ok(Question { id: question.id, number: data.nr as u32, arguments: data.args })
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// Answers it: lets the call through, or has it return an errno.
pub(crate) fn answer(listener: BorrowedFd<'_>, question: Question, errno: Option<u16>) -> io::Result<()> {
    let (error, flags) = match errno {
        Some(errno) => (-i32::from(errno), 0),
        None => (0, libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32),
    };
    let response = libc::seccomp_notif_resp { id: question.id, val: 0, error, flags };
    let request = request(1, size_of::<libc::seccomp_notif_resp>());
    // SAFETY: the request reads a structure of exactly this type, whose size is part of it.
    match unsafe { libc::ioctl(listener.as_raw_fd(), request, &raw const response) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// `SECCOMP_IOWR(number, size)`.
fn request(number: u64, size: usize) -> libc::Ioctl {
    3 << 30 | (size as u64) << 16 | u64::from(b'!') << 8 | number
}

/// Makes a system call; the errno if it fails.
///
/// The tests give only arguments with which no call can do anything even if it is made: null pointers, descriptors that are not
/// open, numbers that are refused.
pub(crate) fn call(number: u32, arguments: [u64; 6]) -> Result<i64, i32> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: see above; what the kernel is not told of, it does not touch.
    match unsafe { libc::syscall(i64::from(number), a, b, c, d, e, f) } {
        -1 => Err(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        done => Ok(done),
    }
}

/// The time, asked for by way of the page of old programs.
pub(crate) fn time_of_vsyscall() -> i64 {
    const TIME: usize = 0xffff_ffff_ff60_0400;
    // SAFETY: where the kernel has that page, this is a function of C's that takes a place for its result, or none; where it has not,
    // the process ends.
    let time: extern "C" fn(*mut i64) -> i64 = unsafe { std::mem::transmute(TIME) };
    time(std::ptr::null_mut())
}

/// Asks for its process number the way 32-bit programs do.
pub(crate) fn getpid_of_i386() -> i32 {
    let mut result: i32 = 20;
    // SAFETY: the call takes no argument and touches no memory; the registers that this way may change are named.
    unsafe {
        asm!("int 0x80", inlateout("eax") result, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
    }
    result
}
