//! What safe Rust does not offer and a hostile program does: taking over descriptors, forking, dying badly.
//!
//! The rule that unsafe code lives in the launcher and the SDK is about what Palisade ships; this is its opponent.
#![expect(unsafe_code, reason = "see above")]

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

use crate::escapes::c_string;

/// Descriptor 3, from the supervisor, and 4, to it.
///
/// Called once, at the start.
pub(crate) fn pipes() -> (File, File) {
    // SAFETY: the supervisor starts a plugin with exactly these descriptors open, and nothing else in this process has
    // taken them, as `main` calls this first and once.
    unsafe { (File::from_raw_fd(3), File::from_raw_fd(4)) }
}

/// Makes a second process; `true` in it.
pub(crate) fn fork() -> bool {
    // SAFETY: this program has one thread, so the child finds every lock free.
    match unsafe { libc::fork() } {
        -1 => panic!("fork: {}", io::Error::last_os_error()),
        child => child == 0,
    }
}

/// Ignores a signal from now on, as do all processes forked afterwards.
pub(crate) fn ignore(signal: i32) {
    // SAFETY: setting a disposition to `SIG_IGN` runs no code of ours.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Sends itself a signal.
pub(crate) fn raise(signal: i32) {
    // SAFETY: no memory is involved.
    unsafe { libc::raise(signal) };
}

/// Becomes the leader of a session of its own, out of reach of whoever signals the old one.
pub(crate) fn new_session() {
    // SAFETY: no memory is involved; a leader already is told so by an error, which changes nothing.
    unsafe { libc::setsid() };
}

/// Writes where nothing is.
pub(crate) fn segfault() -> ! {
    // The handler of the runtime would only print; without it the kernel's own verdict stands.
    // SAFETY: the default disposition runs no code of ours.
    unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
    raise(libc::SIGSEGV);
    unreachable!("the signal is not blocked")
}

/// The result of a system call that returns -1 on failure.
fn checked(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

pub(crate) fn mknod(path: &str, kind: libc::mode_t, major: u32, minor: u32) -> io::Result<()> {
    // SAFETY: the path is a C string that outlives the call.
    checked(unsafe { libc::mknod(c_string(path).as_ptr(), kind | 0o600, libc::makedev(major, minor)) }.into())
}

pub(crate) fn mount(source: &str, target: &str, kind: &str) -> io::Result<()> {
    let (source, target, kind) = (c_string(source), c_string(target), c_string(kind));
    // SAFETY: all three are C strings that outlive the call; no data is given.
    checked(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) }.into())
}

pub(crate) fn unmount(target: &str) -> io::Result<()> {
    // SAFETY: a C string that outlives the call.
    checked(unsafe { libc::umount2(c_string(target).as_ptr(), libc::MNT_DETACH) }.into())
}

pub(crate) fn pivot_root(new: &str, old: &str) -> io::Result<()> {
    let (new, old) = (c_string(new), c_string(old));
    // SAFETY: both are C strings that outlive the call.
    checked(unsafe { libc::syscall(libc::SYS_pivot_root, new.as_ptr(), old.as_ptr()) })
}

pub(crate) fn chroot(path: &str) -> io::Result<()> {
    // SAFETY: a C string that outlives the call.
    checked(unsafe { libc::chroot(c_string(path).as_ptr()) }.into())
}

pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: no memory is involved, and the descriptor table stays shared.
    checked(unsafe { libc::unshare(flags) }.into())
}

pub(crate) fn setns(path: &str) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: the descriptor is open.
    checked(unsafe { libc::setns(std::os::fd::AsRawFd::as_raw_fd(&file), 0) }.into())
}

pub(crate) fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::kill(pid, signal) }.into())
}

pub(crate) fn become_root() -> io::Result<()> {
    // SAFETY: no memory is involved, and there is one thread.
    checked(unsafe { libc::syscall(libc::SYS_setresuid, 0, 0, 0) })
}

/// Asks for every capability.
pub(crate) fn capset_all() -> io::Result<()> {
    // The kernel's header (its third version, this process) and two triples of effective, permitted, inheritable.
    let header = [0x2008_0522_u32, 0];
    let sets = [u32::MAX; 6];
    // SAFETY: both arrays outlive the call and are as long as that version says.
    checked(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) })
}

/// Makes sleeping processes until the kernel refuses, and ends them again.
pub(crate) fn fork_until_refused(most: usize) -> (usize, Option<io::Error>) {
    let mut children = Vec::new();
    let mut refused = None;
    while children.len() < most {
        // SAFETY: this program has one thread, and the child only sleeps until it is killed.
        match unsafe { libc::fork() } {
            -1 => {
                refused = Some(io::Error::last_os_error());
                break;
            }
            0 => loop {
                // SAFETY: no memory is involved.
                unsafe { libc::pause() };
            },
            child => children.push(child),
        }
    }
    for child in &children {
        let _ = kill(*child, libc::SIGKILL);
        // SAFETY: a null status is allowed; the child is ours and was killed.
        unsafe { libc::waitpid(*child, std::ptr::null_mut(), 0) };
    }
    (children.len(), refused)
}

/// Memory of its own, of that many bytes.
fn map(bytes: usize) -> io::Result<*mut libc::c_void> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: the kernel chooses a place where nothing is.
    let place =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) };
    if place == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(place) }
}

/// Takes that much memory and writes to every page of it.
pub(crate) fn touch_memory(bytes: usize) -> io::Result<()> {
    let place = map(bytes)?;
    // SAFETY: the mapping is of that size, writable, and nobody else's.
    unsafe {
        std::ptr::write_bytes(place.cast::<u8>(), 1, bytes);
        libc::munmap(place, bytes);
    }
    Ok(())
}

pub(crate) fn lock_memory(bytes: usize) -> io::Result<()> {
    let place = map(bytes)?;
    // SAFETY: the mapping is of that size; unmapping it unlocks it.
    unsafe {
        let result = checked(libc::mlock(place, bytes).into());
        libc::munmap(place, bytes);
        result
    }
}

/// Becomes that program in a child, and says how the attempt went: the child's exit is the error's number.
pub(crate) fn execute(path: &str) -> io::Result<()> {
    let path = c_string(path);
    // SAFETY: this program has one thread; the child executes or exits, with arrays that live until then.
    let status = unsafe {
        match libc::fork() {
            -1 => return Err(io::Error::last_os_error()),
            0 => {
                libc::execv(path.as_ptr(), [path.as_ptr(), std::ptr::null()].as_ptr());
                libc::_exit(io::Error::last_os_error().raw_os_error().unwrap_or(255));
            }
            child => {
                let mut status = 0;
                libc::waitpid(child, &mut status, 0);
                status
            }
        }
    };
    match libc::WEXITSTATUS(status) {
        0 => Ok(()),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

pub(crate) fn no_new_privs() -> io::Result<()> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())
}

/// Becomes a program for which the kernel has no Landlock, and returns only if that failed.
pub(crate) fn execute_without_landlock(program: &str, arguments: &[String]) -> io::Error {
    use std::os::unix::process::CommandExt;
    // The number of the call; whether it is the one; what it gets; or what all others get.
    let code = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let filter = [
        code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_landlock_create_ruleset as u32),
        code(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        code(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program_of_filter = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    let installed = no_new_privs().and_then(|()| {
        // SAFETY: the filter and the structure outlive the call, which copies them.
        checked(unsafe {
            libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program_of_filter)
        })
    });
    match installed {
        Ok(()) => {
            #[expect(clippy::disallowed_methods, reason = "this program becomes it")]
            let mut command = std::process::Command::new(program);
            command.args(arguments).exec()
        }
        Err(error) => error,
    }
}

pub(crate) fn host_name() -> io::Result<String> {
    let mut name = [0_u8; 256];
    // SAFETY: the buffer is of the size that is given, and its last byte stays null.
    checked(unsafe { libc::gethostname(name.as_mut_ptr().cast(), name.len() - 1) }.into())?;
    Ok(String::from_utf8_lossy(name.split(|byte| *byte == 0).next().unwrap_or_default()).into_owned())
}

pub(crate) fn umask() -> u32 {
    // SAFETY: no memory is involved; it is set back at once, and there is one thread.
    unsafe {
        let mask = libc::umask(0);
        libc::umask(mask);
        mask
    }
}
