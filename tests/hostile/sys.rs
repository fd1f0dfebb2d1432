//! What safe Rust does not offer and a hostile program does: taking over descriptors, forking, dying badly.
//!
//! The rule that unsafe code lives in the launcher and the SDK is about what Palisade ships; this is its opponent.
#![expect(unsafe_code, reason = "see above")]

use std::fs::File;
use std::io;
use std::os::fd::FromRawFd;

use crate::inside::c_string;

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

/// A process that takes so much memory, writes to it and stays. Returns when it has it.
pub(crate) fn fork_holding(bytes: usize) -> io::Result<()> {
    let (mut told, mut tells) = io::pipe()?;
    if fork() {
        drop(told);
        let outcome = map(bytes).map(|place| {
            // SAFETY: the mapping is of that size, writable, and nobody else's.
            unsafe { std::ptr::write_bytes(place.cast::<u8>(), 1, bytes) };
        });
        let number = outcome.map_or_else(|error| error.raw_os_error().unwrap_or(255), |()| 0);
        let _ = io::Write::write_all(&mut tells, &[number as u8]);
        loop {
            // SAFETY: no memory is involved.
            unsafe { libc::pause() };
        }
    }
    drop(tells);
    let mut number = [0];
    io::Read::read_exact(&mut told, &mut number)?;
    if number == [0] { Ok(()) } else { Err(io::Error::from_raw_os_error(number[0].into())) }
}

/// Fills memory that it shares with nobody else, of which its own tables know only the last page: all pages stay, as the mapping does.
pub(crate) fn fill_shared_memory(bytes: usize) -> io::Result<()> {
    const PIECE: usize = 1 << 20;
    // SAFETY: a new mapping at an address of the kernel's choice, which is never unmapped.
    let mapped = unsafe {
        libc::mmap(std::ptr::null_mut(), bytes, libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS, -1, 0)
    };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    for piece in (0..bytes).step_by(PIECE) {
        // SAFETY: the piece lies within the mapping, and no reference to it is ever made.
        unsafe {
            let piece = mapped.byte_add(piece);
            std::ptr::write_bytes(piece.cast::<u8>(), 1, PIECE);
            checked(libc::madvise(piece, PIECE, libc::MADV_DONTNEED).into())?;
        }
    }
    Ok(())
}

/// A file in memory.
pub(crate) fn memfd() -> io::Result<File> {
    // SAFETY: the name is a C string that outlives the call.
    let descriptor = unsafe { libc::memfd_create(c"held".as_ptr(), libc::MFD_CLOEXEC) };
    checked(descriptor.into())?;
    // SAFETY: it was opened just now, and nobody else has it.
    Ok(unsafe { File::from_raw_fd(descriptor) })
}

/// Makes sleeping processes until the kernel refuses, and ends them again unless they are to be held.
pub(crate) fn fork_until_refused(most: usize, held: bool) -> (usize, Option<io::Error>) {
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
    for child in children.iter().filter(|_| !held) {
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

/// The exit code with which this program, executed by itself, says that it ran.
pub(crate) const RAN: i32 = 64;

/// With these it does nothing and exits with `RAN`.
pub(crate) const NOTHING: [&str; 2] = ["no-such-row", "null"];

/// Becomes that program in a child, and says how the attempt went: the child's exit is the error's number, or `RAN`.
pub(crate) fn execute(path: &str, arguments: &[&str]) -> io::Result<()> {
    let path = c_string(path);
    let arguments: Vec<_> = arguments.iter().map(|text| c_string(text)).collect();
    let mut pointers: Vec<_> =
        std::iter::once(path.as_ptr()).chain(arguments.iter().map(|text| text.as_ptr())).collect();
    pointers.push(std::ptr::null());
    // SAFETY: the path and the array of arguments are C strings that live until the child has executed or exited.
    in_a_child(|| unsafe { libc::execv(path.as_ptr(), pointers.as_ptr()) })
}

/// The same with a program that is only in memory.
pub(crate) fn execute_memory_file(program: &[u8]) -> io::Result<()> {
    // SAFETY: the name is a C string, and the descriptor is new, so that `File` owns it alone.
    let mut file = unsafe {
        let descriptor = libc::memfd_create(c"evil".as_ptr(), 0);
        checked(descriptor.into())?;
        File::from_raw_fd(descriptor)
    };
    io::Write::write_all(&mut file, program)?;
    let arguments = [c_string("evil"), c_string("no-such-row"), c_string("null")];
    let pointers = [arguments[0].as_ptr(), arguments[1].as_ptr(), arguments[2].as_ptr(), std::ptr::null()];
    let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
    let environment = [std::ptr::null::<libc::c_char>()];
    // SAFETY: as above; the descriptor is open.
    in_a_child(|| unsafe { libc::fexecve(descriptor, pointers.as_ptr(), environment.as_ptr()) })
}

/// Forks, lets the child execute, and says what came of it.
fn in_a_child(execute: impl FnOnce() -> i32) -> io::Result<()> {
    // SAFETY: this program has one thread; the child executes or exits.
    let status = unsafe {
        match libc::fork() {
            -1 => return Err(io::Error::last_os_error()),
            0 => {
                execute();
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
        RAN => Ok(()),
        // The loader's own, which is no error of the kernel's.
        127 => Err(io::Error::other("exit 127")),
        number => Err(io::Error::from_raw_os_error(number)),
    }
}

/// A system call by its number.
pub(crate) fn call(number: libc::c_long, [a, b, c, d, e, f]: [i64; 6]) -> io::Result<i64> {
    // SAFETY: the callers pass numbers, and addresses of what outlives the call and is as large as the kernel expects.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    checked(result).map(|()| result)
}

/// A new watcher of files.
pub(crate) fn inotify() -> io::Result<std::os::fd::OwnedFd> {
    let descriptor = call(libc::SYS_inotify_init, [0; 6])?;
    // SAFETY: the descriptor is new, so that `OwnedFd` owns it alone.
    Ok(unsafe { std::os::fd::OwnedFd::from_raw_fd(descriptor as i32) })
}

/// A process by `clone3`, which ends at once.
pub(crate) fn clone3() -> io::Result<()> {
    // The kernel's `struct clone_args` of its first version; the signal is the fifth field.
    let mut arguments = [0_u64; 8];
    arguments[4] = libc::SIGCHLD as u64;
    let child = call(libc::SYS_clone3, [arguments.as_ptr() as i64, 64, 0, 0, 0, 0])?;
    if child == 0 {
        // SAFETY: the child of a process with one thread; it does nothing else.
        unsafe { libc::_exit(0) };
    }
    end(child as i32);
    Ok(())
}

/// A child that waits for a signal.
pub(crate) fn waiting_child() -> io::Result<i32> {
    // SAFETY: this program has one thread, and the child only waits until it is killed.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => loop {
            // SAFETY: no memory is involved.
            unsafe { libc::pause() };
        },
        child => Ok(child),
    }
}

/// Ends a child.
pub(crate) fn end(child: i32) {
    let _ = kill(child, libc::SIGKILL);
    // SAFETY: a null status is allowed; the child is ours and was killed.
    unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
}

pub(crate) fn ptrace_seize(process: i32) -> io::Result<()> {
    call(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), process.into(), 0, 0, 0, 0]).map(drop)
}

/// Reads a byte of another process, from where this one has its program.
pub(crate) fn read_memory_of(process: i32) -> io::Result<()> {
    let mut byte = 0_u8;
    let local = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: read_memory_of as *mut libc::c_void, iov_len: 1 };
    let arguments = [process.into(), &raw const local as i64, 1, &raw const remote as i64, 1, 0];
    call(libc::SYS_process_vm_readv, arguments).map(drop)
}

/// A socket by the i386 way of calling the kernel.
#[cfg(target_arch = "x86_64")]
pub(crate) fn int80_socket() -> io::Result<()> {
    const SYS_SOCKET_I386: i64 = 359;
    let result: i64;
    // SAFETY: the call takes three numbers. rbx is kept by hand, as the compiler may need it.
    unsafe {
        std::arch::asm!(
            "xchg {family}, rbx", "int 0x80", "xchg {family}, rbx",
            family = inout(reg) i64::from(libc::AF_INET) => _,
            inlateout("rax") SYS_SOCKET_I386 => result,
            in("rcx") i64::from(libc::SOCK_STREAM), in("rdx") 0_i64,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    // Only the lower half is the result's.
    let result = result as i32;
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn int80_socket() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Connects by sending, as TCP Fast Open does.
pub(crate) fn fast_open(address: &str) -> io::Result<()> {
    let address: std::net::SocketAddrV4 = address.parse().map_err(io::Error::other)?;
    let socket = call(libc::SYS_socket, [libc::AF_INET.into(), libc::SOCK_STREAM.into(), 0, 0, 0, 0])?;
    // SAFETY: the descriptor is new, so that `OwnedFd` owns it alone.
    let _socket = unsafe { std::os::fd::OwnedFd::from_raw_fd(socket as i32) };
    let to = libc::sockaddr_in {
        sin_family: libc::AF_INET as u16,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from(*address.ip()).to_be() },
        sin_zero: [0; 8],
    };
    let bytes = b"x";
    let flags = libc::MSG_FASTOPEN | libc::MSG_NOSIGNAL;
    call(libc::SYS_sendto, [socket, bytes.as_ptr() as i64, 1, flags.into(), &raw const to as i64, 16]).map(drop)
}

/// Enters one more Landlock domain, in which no device can be made.
pub(crate) fn landlock_domain() -> io::Result<()> {
    no_new_privs()?;
    let make_char = 1_u64 << 6;
    let set = call(libc::SYS_landlock_create_ruleset, [&raw const make_char as i64, 8, 0, 0, 0, 0])?;
    // SAFETY: the descriptor is new, so that `OwnedFd` owns it alone.
    let _set = unsafe { std::os::fd::OwnedFd::from_raw_fd(set as i32) };
    call(libc::SYS_landlock_restrict_self, [set, 0, 0, 0, 0, 0]).map(drop)
}

/// Whether executing this program has given it another user than that of whoever did.
pub(crate) fn is_somebody_else() -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::geteuid() != libc::getuid() }
}

pub(crate) fn no_new_privs() -> io::Result<()> {
    // SAFETY: no memory is involved.
    checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())
}

/// A system call that is refused to whoever becomes a program.
struct Refusal {
    call: i64,
    /// What it answers.
    errno: i32,
    /// Which argument decides, what is looked at of it, and what that must be; any call without.
    when: Option<(u32, u32, Is)>,
}

enum Is {
    /// Some bit of the mask is set.
    Set,
    /// None is.
    Clear,
    /// These bits and no other.
    Exactly(u32),
}

/// Becomes a program for which the kernel has no Landlock, and returns only if that failed.
pub(crate) fn execute_without_landlock(program: &str, arguments: &[String]) -> io::Error {
    let refused = [Refusal { call: libc::SYS_landlock_create_ruleset, errno: libc::ENOSYS, when: None }];
    execute_refused(&refused, program, arguments)
}

/// Becomes a program for which the kernel has no system call filters, and returns only if that failed.
pub(crate) fn execute_without_filters(program: &str, arguments: &[String]) -> io::Error {
    let refused = [Refusal { call: libc::SYS_seccomp, errno: libc::EINVAL, when: None }];
    execute_refused(&refused, program, arguments)
}

/// Becomes a program that may make user namespaces and has no rights in them, as an ordinary user's has that AppArmor restricts, and
/// returns only if that failed. There every right is refused with EPERM and what mounts with EACCES, and what needs none goes on. An
/// ordinary user has no rights outside either, so it does not matter where a call is made.
///
/// `only_mounts`: the last right that a plugin's start needs in a namespace without a root of its own is left.
pub(crate) fn execute_without_rights(only_mounts: bool, program: &str, arguments: &[String]) -> io::Error {
    const SIOCSIFFLAGS: u32 = 0x8914;
    let all = |call, errno| Refusal { call, errno, when: None };
    let some = |call, argument, mask, is| Refusal { call, errno: libc::EPERM, when: Some((argument, mask, is)) };
    let mut refused = vec![
        all(libc::SYS_mount, libc::EACCES),
        all(libc::SYS_umount2, libc::EACCES),
        all(libc::SYS_pivot_root, libc::EACCES),
        all(libc::SYS_fsopen, libc::EPERM),
        all(libc::SYS_fsmount, libc::EPERM),
        all(libc::SYS_move_mount, libc::EPERM),
        all(libc::SYS_mount_setattr, libc::EPERM),
        some(libc::SYS_open_tree, 2, libc::OPEN_TREE_CLONE, Is::Set),
    ];
    if !only_mounts {
        refused.extend([
            all(libc::SYS_sethostname, libc::EPERM),
            all(libc::SYS_setdomainname, libc::EPERM),
            all(libc::SYS_setgroups, libc::EPERM),
            all(libc::SYS_chroot, libc::EPERM),
            some(libc::SYS_prctl, 0, u32::MAX, Is::Exactly(libc::PR_CAPBSET_DROP as u32)),
            some(libc::SYS_ioctl, 1, u32::MAX, Is::Exactly(SIOCSIFFLAGS)),
            // What is made together with a user namespace is made by somebody who has the rights still.
            some(libc::SYS_unshare, 0, libc::CLONE_NEWUSER as u32, Is::Clear),
        ]);
    }
    execute_refused(&refused, program, arguments)
}

fn execute_refused(refused: &[Refusal], program: &str, arguments: &[String]) -> io::Error {
    use std::os::unix::process::CommandExt;
    let code = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let load = |offset| code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset);
    let answer = |answer| code(libc::BPF_RET | libc::BPF_K, 0, 0, answer);
    let mut filter = Vec::new();
    for Refusal { call, errno, when } in refused {
        let refuse = answer(libc::SECCOMP_RET_ERRNO | *errno as u32);
        // The numbers are one of a call, then arguments of eight bytes each, of which the lower half comes first.
        filter.push(load(0));
        match when {
            None => filter.push(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, *call as u32)),
            Some((argument, mask, is)) => {
                let (wanted, equal, unequal) = match is {
                    Is::Set => (0, 1, 0),
                    Is::Clear => (0, 0, 1),
                    Is::Exactly(wanted) => (*wanted, 0, 1),
                };
                filter.push(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 4, *call as u32));
                filter.push(load(16 + 8 * argument));
                filter.push(code(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, 0, *mask));
                filter.push(code(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, equal, unequal, wanted));
            }
        }
        filter.push(refuse);
    }
    filter.push(answer(libc::SECCOMP_RET_ALLOW));
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

/// Locks so much memory, and keeps it.
pub(crate) fn lock_and_keep(bytes: usize) -> io::Result<()> {
    let place = map(bytes)?;
    // SAFETY: the mapping is of that size, and stays.
    checked(unsafe { libc::mlock(place, bytes) }.into())
}

/// Takes so much memory, writes to every page of it, and keeps it.
pub(crate) fn keep_memory(bytes: usize) -> io::Result<()> {
    let place = map(bytes)?;
    // SAFETY: the mapping is of that size, writable, and nobody else's.
    unsafe { std::ptr::write_bytes(place.cast::<u8>(), 1, bytes) };
    Ok(())
}

/// A timer that is never set, and stays.
pub(crate) fn timer() -> io::Result<()> {
    let mut timer = 0_i32;
    call(libc::SYS_timer_create, [0, 0, &raw mut timer as i64, 0, 0, 0]).map(drop)
}

/// A queue for messages, which stays open.
pub(crate) fn message_queue(name: &str) -> io::Result<()> {
    let name = c_string(name);
    // Flags, most messages, most bytes of one.
    let attributes = [0_i64, 10, 1024, 0, 0, 0, 0, 0];
    let flags = i64::from(libc::O_CREAT | libc::O_RDWR);
    let arguments = [name.as_ptr() as i64, flags, 0o600, attributes.as_ptr() as i64, 0, 0];
    call(libc::SYS_mq_open, arguments).map(drop)
}

/// The time by way of the page of old programs, which no `syscall` instruction of theirs is in.
#[cfg(target_arch = "x86_64")]
pub(crate) fn vsyscall_time() -> io::Result<()> {
    const TIME: usize = 0xffff_ffff_ff60_0400;
    // SAFETY: where the kernel has that page, this is a function of C's that takes a place for its result, or none. Where it has
    // not, this process ends, as it would without confinement.
    let time: extern "C" fn(*mut i64) -> i64 = unsafe { std::mem::transmute(TIME) };
    let seconds = time(std::ptr::null_mut());
    if seconds < 0 { Err(io::Error::from_raw_os_error(-seconds as i32)) } else { Ok(()) }
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn vsyscall_time() -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// A key in this process's keyring that anybody may read who is let, and that ring: their numbers.
pub(crate) fn key_for_everybody() -> io::Result<(i64, i64)> {
    let (kind, name) = (c_string("user"), c_string("palisade-sibling"));
    let process_keyring = -2;
    let key = call(
        libc::SYS_add_key,
        [kind.as_ptr() as i64, name.as_ptr() as i64, b"secret".as_ptr() as i64, 6, process_keyring, 0],
    )?;
    let (get_keyring, set_permissions) = (0, 5);
    let ring = call(libc::SYS_keyctl, [get_keyring, process_keyring, 0, 0, 0, 0])?;
    for number in [key, ring] {
        call(libc::SYS_keyctl, [set_permissions, number, 0x3f3f_3f3f, 0, 0, 0])?;
    }
    Ok((key, ring))
}

/// Reads a key, or which keys a ring has.
pub(crate) fn read_key(number: i64) -> io::Result<()> {
    let mut place = [0_u8; 64];
    let read = 11;
    call(libc::SYS_keyctl, [read, number, place.as_mut_ptr() as i64, 64, 0, 0]).map(drop)
}
