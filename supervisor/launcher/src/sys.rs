//! The system calls that have no safe form, each behind a function that cannot be misused within this program.
//!
//! Facts that all of it relies on: this process, and each that it makes, has exactly one thread; nothing here shares
//! memory between two processes (`CLONE_VM` is never given), so a child's writes and its exit touch only its own copy.

use rustix::{io::Errno, ioctl, mount::MountAttrFlags, process::Pid, thread::UnshareFlags};
use std::{
    ffi::{CString, c_char, c_int, c_long, c_uint},
    marker::PhantomData,
    mem::MaybeUninit,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

/// `CLONE_INTO_CGROUP` as the kernel defines it; the C library's binding gives 0 on some targets.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// The highest signal number of Linux.
const SIGNAL_MAX: c_int = 64;

/// The bytes of the kernel's signal set (not the C library's, which is larger).
const SIGNAL_SET_BYTES: usize = 8;

fn errno() -> Errno {
    // The kernel sets it on every failed call; 0 cannot follow one.
    let number = std::io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO);
    Errno::from_raw_os_error(number)
}

fn checked(result: c_long) -> Result<c_long, Errno> {
    if result < 0 { Err(errno()) } else { Ok(result) }
}

/// Gives every signal its default effect and blocks none, whatever this process inherited.
pub(crate) fn reset_signals() {
    // Handler, flags, restorer and mask of the kernel's `sigaction`, all zero: SIG_DFL without flags.
    let default = [0_u64; 4];
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: `default` outlives the call and is as large as the kernel's structure; no old action is asked for.
        // SIGKILL and SIGSTOP are refused with EINVAL, and have their default effect anyway.
        unsafe {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null_mut::<u64>(), SIGNAL_SET_BYTES)
        };
    }
    set_blocked(0);
}

/// Blocks SIGCHLD and nothing else, so that a signal descriptor can report it.
pub(crate) fn block_child_signal() {
    set_blocked(1 << (libc::SIGCHLD - 1));
}

/// Blocks no signal.
pub(crate) fn unblock_signals() {
    set_blocked(0);
}

fn set_blocked(mask: u64) {
    // SAFETY: `mask` outlives the call and has the size that is given; no old mask is asked for. The call cannot fail
    // with these arguments.
    unsafe {
        libc::syscall(
            libc::SYS_rt_sigprocmask,
            libc::SIG_SETMASK,
            ptr::from_ref(&mask),
            ptr::null_mut::<u64>(),
            SIGNAL_SET_BYTES,
        )
    };
}

/// A descriptor that is readable while a SIGCHLD is pending.
pub(crate) fn child_signal_descriptor() -> Result<OwnedFd, Errno> {
    let mask: u64 = 1 << (libc::SIGCHLD - 1);
    // SAFETY: `mask` outlives the call and has the size that is given.
    let made = unsafe {
        libc::syscall(
            libc::SYS_signalfd4,
            -1,
            ptr::from_ref(&mask),
            SIGNAL_SET_BYTES,
            libc::SFD_CLOEXEC | libc::SFD_NONBLOCK,
        )
    };
    let descriptor = checked(made)? as RawFd;
    // SAFETY: the kernel has just made this descriptor, and nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Closes every descriptor from `first` on. Only for a process that owns none of them as an `OwnedFd` it will drop.
pub(crate) fn close_from(first: c_uint) {
    // SAFETY: the callers are the beginning of this program and of a copy of the zygote, which own no descriptor that they will drop (a copy
    // has forgotten the two it had), and pid 1 and a holder of a namespace, which never return into code that would drop one; so no number is closed twice.
    unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, 0) };
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(crate) fn close_from_on_exec(first: c_uint) -> Result<(), Errno> {
    // SAFETY: this closes nothing in this process; it takes effect in exec, which tears down all that uses them.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) })?;
    Ok(())
}

/// Takes over a descriptor that this program was started with.
///
/// # Safety
/// `number` must be open, and nothing else in this process may own it.
pub(crate) unsafe fn take(number: RawFd) -> OwnedFd {
    // SAFETY: the caller vouches for the number.
    unsafe { OwnedFd::from_raw_fd(number) }
}

/// Makes `number` refer to what `descriptor` refers to, and stay open over exec. Only for a process that is about to
/// exec, or that never returns: the number's old owner, if any, would otherwise close the new descriptor.
pub(crate) fn install(descriptor: BorrowedFd<'_>, number: RawFd) -> Result<(), Errno> {
    // SAFETY: the callers are children that never return, and a copy of the zygote, which forgets the `OwnedFd` of the old number; so none
    // of it is ever dropped.
    checked(c_long::from(unsafe { libc::dup2(descriptor.as_raw_fd(), number) }))?;
    Ok(())
}

/// What `clone3` reads, in the kernel's words.
#[repr(C, align(8))]
#[derive(Default)]
struct CloneArguments {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl CloneArguments {
    /// A child of this process's parent. Its signal is that of the process that makes it, and none may be named.
    fn be_a_sibling(&mut self) {
        self.flags |= libc::CLONE_PARENT as u64;
        self.exit_signal = 0;
    }

    fn born_in(&mut self, leaf: Option<BorrowedFd<'_>>) {
        if let Some(leaf) = leaf {
            self.flags |= CLONE_INTO_CGROUP;
            self.cgroup = leaf.as_raw_fd() as u64;
        }
    }
}

/// Which of the two processes this is after `clone`.
pub(crate) enum Cloned {
    Child,
    Parent { pid: i32, pidfd: OwnedFd },
}

/// What a clone is to be, beside a copy of this process.
#[derive(Clone, Copy)]
pub(crate) enum Kind<'a> {
    /// pid 1 of a new pid namespace, in other new namespaces as well.
    Init(Birth<'a>),
    /// A process born in this cgroup that makes pid 1 and ends. The parent sleeps until it is gone.
    Passage { leaf: Option<BorrowedFd<'a>> },
    /// A process that executes a program at once. The parent sleeps until it has, or is gone; unless the child `asks` the parent about
    /// it, which then finds out by its gate.
    Program { asks: bool },
    /// A process that holds new namespaces until somebody else has opened them.
    Holder { namespaces: UnshareFlags },
    /// A launcher, which is a child of this process's parent.
    Launcher,
}

/// Whose child pid 1 is, and where it is born.
#[derive(Clone, Copy)]
pub(crate) enum Birth<'a> {
    /// This process's, in this cgroup.
    Child { leaf: Option<BorrowedFd<'a>>, namespaces: UnshareFlags },
    /// Its parent's, in this process's cgroup.
    Sibling { namespaces: UnshareFlags },
}

/// Makes a copy of this process.
pub(crate) fn clone(kind: Kind<'_>) -> Result<Cloned, Errno> {
    let mut pidfd: RawFd = -1;
    let mut arguments = CloneArguments {
        flags: libc::CLONE_PIDFD as u64,
        pidfd: ptr::from_mut(&mut pidfd) as u64,
        exit_signal: libc::SIGCHLD as u64,
        ..CloneArguments::default()
    };
    match kind {
        Kind::Init(Birth::Child { leaf, namespaces }) => {
            // The kernel makes the user namespace first, and the others belong to it.
            arguments.flags |= libc::CLONE_NEWPID as u64 | u64::from(namespaces.bits());
            arguments.born_in(leaf);
        }
        Kind::Init(Birth::Sibling { namespaces }) => {
            arguments.be_a_sibling();
            arguments.flags |= libc::CLONE_NEWPID as u64 | u64::from(namespaces.bits());
        }
        Kind::Launcher => arguments.be_a_sibling(),
        Kind::Passage { leaf } => {
            arguments.flags |= libc::CLONE_VFORK as u64;
            arguments.born_in(leaf);
        }
        // Without CLONE_VM this shares no memory: it only orders the two, so that what the parent says next is said
        // after whatever the child had to say about its exec.
        Kind::Program { asks: false } => arguments.flags |= libc::CLONE_VFORK as u64,
        Kind::Program { asks: true } => {}
        Kind::Holder { namespaces } => arguments.flags |= u64::from(namespaces.bits()),
    }
    // SAFETY: the structure and `pidfd` outlive the call. Without CLONE_VM and with a null stack this is a fork: the
    // child goes on with a copy of this stack. There is one thread, so no other can hold a lock that the copy would
    // wait for.
    let pid = checked(unsafe {
        libc::syscall(libc::SYS_clone3, ptr::from_mut(&mut arguments), size_of::<CloneArguments>())
    })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: CLONE_PIDFD made the kernel store a new descriptor here, in the parent only.
    Ok(Cloned::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// A null-terminated array of pointers to strings, as exec wants it, that lives no longer than the strings.
pub(crate) struct Pointers<'a> {
    pointers: Vec<*const c_char>,
    strings: PhantomData<&'a [CString]>,
}

impl<'a> Pointers<'a> {
    pub(crate) fn to(strings: &'a [CString]) -> Self {
        let mut pointers = Vec::with_capacity(strings.len() + 1);
        pointers.extend(strings.iter().map(|string| string.as_ptr()));
        pointers.push(ptr::null());
        Self { pointers, strings: PhantomData }
    }
}

/// Executes the file behind a descriptor; returns only if that failed.
pub(crate) fn execute(program: BorrowedFd<'_>, arguments: &Pointers<'_>, environment: &Pointers<'_>) -> Errno {
    // SAFETY: both arrays end in a null pointer, and the borrow in their type keeps the strings alive over the call;
    // this process has one thread, so no other can hold a lock or a descriptor that exec would tear down.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    errno()
}

/// Asks for an exec of a file that there is not, and says how that failed.
pub(crate) fn execute_nothing() -> Errno {
    // SAFETY: the path is a string, and an array that is not there stands for an empty one.
    unsafe {
        libc::syscall(
            libc::SYS_execve,
            c"/palisade-trial".as_ptr(),
            ptr::null::<*const c_char>(),
            ptr::null::<*const c_char>(),
        )
    };
    errno()
}

/// Reaps one child that has ended, if there is one.
pub(crate) fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` outlives the call.
    let pid = unsafe { libc::waitpid(-1, &mut status, libc::WNOHANG | libc::__WALL) };
    (0 < pid).then_some((pid, status))
}

/// Waits until there is no child left.
pub(crate) fn wait_for_all() {
    loop {
        // SAFETY: nothing is asked for that the call would write.
        let waited = unsafe { libc::waitpid(-1, ptr::null_mut(), libc::__WALL) };
        match checked(c_long::from(waited)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Waits for the child `pid`, which must not have been reaped, and says how it ended and what it used.
pub(crate) fn wait_for(pid: i32) -> Result<(i32, libc::rusage), Errno> {
    let mut status = 0;
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    loop {
        // SAFETY: both places outlive the call and have the types that it writes.
        let waited = unsafe { libc::wait4(pid, &mut status, libc::__WALL, usage.as_mut_ptr()) };
        match checked(c_long::from(waited)) {
            // SAFETY: it began as zeros, which are a valid value of this plain structure of numbers.
            Ok(_) => return Ok((status, unsafe { usage.assume_init() })),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Sends a signal to every process of this pid namespace but the caller, which must be its pid 1.
pub(crate) fn signal_everyone(signal: c_int) {
    // SAFETY: the call reads no memory. From pid 1, "everyone" is the namespace that ends with it; nothing outside is
    // visible there, so nothing outside can be hit. That nobody is left to be hit is no failure.
    unsafe { libc::kill(-1, signal) };
}

/// Moves the calling process into new namespaces (for a pid namespace: its children).
pub(crate) fn unshare(namespaces: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: this does not unshare the descriptor table, which is what could surprise another thread; there is none.
    unsafe { rustix::thread::unshare_unsafe(namespaces) }
}

/// How much of a tree an attribute is set on.
#[derive(Clone, Copy)]
pub(crate) enum Extent {
    Single,
    Recursive,
}

/// Sets attributes of a mount, and how it maps ids.
pub(crate) fn set_mount_attributes(
    mount: BorrowedFd<'_>,
    extent: Extent,
    attributes: MountAttrFlags,
    idmap: Option<BorrowedFd<'_>>,
) -> Result<(), Errno> {
    let mut set =
        libc::mount_attr { attr_set: u64::from(attributes.bits()), attr_clr: 0, propagation: 0, userns_fd: 0 };
    if let Some(namespace) = idmap {
        set.attr_set |= libc::MOUNT_ATTR_IDMAP;
        set.userns_fd = namespace.as_raw_fd() as u64;
    }
    let flags = match extent {
        Extent::Single => libc::AT_EMPTY_PATH,
        Extent::Recursive => libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
    };
    // SAFETY: path and structure outlive the call, the size given is the structure's, and the borrowed descriptors are
    // open over it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(&set),
            size_of::<libc::mount_attr>(),
        )
    };
    checked(result)?;
    Ok(())
}

/// Brings up the loopback device of this process's network namespace.
pub(crate) fn bring_up_loopback() -> Result<(), Errno> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: the structure is made of numbers and a union of numbers, for all of which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = libc::IFF_UP as libc::c_short;
    // SAFETY: this request reads an `ifreq` whose name ends in a null byte; the structure outlives the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, ptr::from_ref(&request)) };
    checked(c_long::from(result))?;
    Ok(())
}

/// A listener on loopback at this port. So many connections may wait for the daemon as are served at once at the most.
pub(crate) fn listen_on_loopback(port: u16) -> Result<OwnedFd, Errno> {
    const WAITING_MAX: i32 = 128;
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    let address = std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port);
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, WAITING_MAX)?;
    Ok(socket)
}

/// What the kernel reads to make a Landlock rule set; older ones know the beginning and want zeros behind it.
#[repr(C)]
struct LandlockRuleSet {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// What the kernel reads for a rule about a path.
#[repr(C, packed)]
struct LandlockPathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

/// What the kernel reads for a rule about a port.
#[repr(C)]
struct LandlockNetPort {
    allowed_access: u64,
    port: u64,
}

const LANDLOCK_CREATE_RULESET_VERSION: c_uint = 1;
const LANDLOCK_RULE_PATH_BENEATH: c_int = 1;
const LANDLOCK_RULE_NET_PORT: c_int = 2;

/// The version of Landlock's interface that this kernel offers.
pub(crate) fn landlock_version() -> Result<u32, Errno> {
    // SAFETY: asked for its version, the call reads no memory.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::null::<u8>(), 0_usize, LANDLOCK_CREATE_RULESET_VERSION)
    };
    Ok(checked(version)? as u32)
}

/// A Landlock rule set that denies all of this.
pub(crate) fn landlock_rule_set(fs: u64, net: u64, scoped: u64) -> Result<OwnedFd, Errno> {
    let set = LandlockRuleSet { handled_access_fs: fs, handled_access_net: net, scoped };
    // SAFETY: the structure outlives the call and has the size that is given.
    let made = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, ptr::from_ref(&set), size_of::<LandlockRuleSet>(), 0)
    };
    let descriptor = checked(made)? as RawFd;
    // SAFETY: the kernel has just made this descriptor, and nothing else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Adds a rule: these rights beneath that folder.
pub(crate) fn landlock_allow(set: BorrowedFd<'_>, folder: BorrowedFd<'_>, rights: u64) -> Result<(), Errno> {
    let rule = LandlockPathBeneath { allowed_access: rights, parent_fd: folder.as_raw_fd() };
    // SAFETY: the structure outlives the call and is of the kind that is named; both descriptors are open over it.
    let result = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, set.as_raw_fd(), LANDLOCK_RULE_PATH_BENEATH, ptr::from_ref(&rule), 0)
    };
    checked(result)?;
    Ok(())
}

/// Adds a rule: these rights over that port.
pub(crate) fn landlock_allow_port(set: BorrowedFd<'_>, port: u16, rights: u64) -> Result<(), Errno> {
    let rule = LandlockNetPort { allowed_access: rights, port: u64::from(port) };
    // SAFETY: the structure outlives the call and is of the kind that is named; the descriptor is open over it.
    let result = unsafe {
        libc::syscall(libc::SYS_landlock_add_rule, set.as_raw_fd(), LANDLOCK_RULE_NET_PORT, ptr::from_ref(&rule), 0)
    };
    checked(result)?;
    Ok(())
}

/// Enters the domain of a rule set; there is no way out.
pub(crate) fn landlock_enter(set: BorrowedFd<'_>) -> Result<(), Errno> {
    // SAFETY: the call reads no memory.
    checked(unsafe { libc::syscall(libc::SYS_landlock_restrict_self, set.as_raw_fd(), 0) })?;
    Ok(())
}

/// What the kernel reads of a system call filter.
#[repr(C)]
struct FilterProgram {
    length: u16,
    instructions: *const u64,
}

/// Installs a system call filter. Each number is one of the kernel's instructions, as it lies in memory. `Answers::Listener` gives
/// the descriptor on which the filter asks.
pub(crate) fn install_filter(filter: &[u64], answers: Answers) -> Result<Option<OwnedFd>, Errno> {
    let Ok(length) = u16::try_from(filter.len()) else { return Err(Errno::INVAL) };
    let program = FilterProgram { length, instructions: filter.as_ptr() };
    let flags = match answers {
        Answers::Kernel => 0,
        Answers::Listener => libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
    };
    // SAFETY: an instruction is eight bytes, so `length` of them lie where the pointer leads, and they outlive the call,
    // which copies and checks them.
    let result =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, ptr::from_ref(&program)) };
    let number = checked(result)?;
    Ok(match answers {
        Answers::Kernel => None,
        // SAFETY: with that flag a call that succeeds gives a new descriptor, which nobody else knows.
        Answers::Listener => Some(unsafe { OwnedFd::from_raw_fd(number as RawFd) }),
    })
}

/// Who answers what a filter does not decide.
#[derive(Clone, Copy)]
pub(crate) enum Answers {
    /// Nothing is left open.
    Kernel,
    /// Whoever holds the listener.
    Listener,
}

/// What the kernel shows of a call, in words: the number, the architecture, two of where it was made, two of each argument.
pub(crate) const DATA_WORDS: usize = 16;

/// A question that waits for its answer.
pub(crate) struct Question {
    id: u64,
    pub(crate) data: [u32; DATA_WORDS],
}

/// Takes the next question from a listener that has one.
pub(crate) fn next_question(listener: BorrowedFd<'_>) -> Result<Question, Errno> {
    // SAFETY: the structure is made of numbers, for which zeros are values; the kernel wants them to be zero.
    let mut asked: libc::seccomp_notif = unsafe { MaybeUninit::zeroed().assume_init() };
    // SAFETY: the kernel writes one such structure, which outlives the call.
    checked(c_long::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_RECV, ptr::from_mut(&mut asked))
    }))?;
    let libc::seccomp_data { nr, arch, instruction_pointer, args } = asked.data;
    let mut data = [0; DATA_WORDS];
    (data[0], data[1]) = (nr.cast_unsigned(), arch);
    for (at, long) in [instruction_pointer].into_iter().chain(args).enumerate() {
        (data[2 + 2 * at], data[3 + 2 * at]) = (long as u32, (long >> 32) as u32);
    }
    Ok(Question { id: asked.id, data })
}

/// Lets the call go on as if there were no filter.
pub(crate) fn let_through(listener: BorrowedFd<'_>, question: Question) -> Result<(), Errno> {
    let flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
    answer(listener, libc::seccomp_notif_resp { id: question.id, val: 0, error: 0, flags })
}

/// Lets the call fail with that errno.
pub(crate) fn refuse(listener: BorrowedFd<'_>, question: &Question, errno: u16) -> Result<(), Errno> {
    answer(listener, libc::seccomp_notif_resp { id: question.id, val: 0, error: -i32::from(errno), flags: 0 })
}

fn answer(listener: BorrowedFd<'_>, mut answer: libc::seccomp_notif_resp) -> Result<(), Errno> {
    // SAFETY: the kernel reads one such structure, which outlives the call.
    checked(c_long::from(unsafe {
        libc::ioctl(listener.as_raw_fd(), libc::SECCOMP_IOCTL_NOTIF_SEND, ptr::from_mut(&mut answer))
    }))?;
    Ok(())
}

/// Waits for the signal that ends it, which comes at the latest when `parent` ends.
pub(crate) fn sleep_until_killed(parent: Pid) -> ! {
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
    // A parent that ended before the line above sends no signal any more; somebody else has taken its place then.
    if rustix::process::getppid() != Some(parent) {
        exit(1);
    }
    loop {
        // SAFETY: it takes no memory.
        unsafe { libc::pause() };
    }
}

/// Ends this process at once, running nothing that was registered for its exit.
pub(crate) fn exit(code: c_int) -> ! {
    // SAFETY: it takes no memory and does not return.
    unsafe { libc::_exit(code) }
}

const _: () = assert!(size_of::<LandlockPathBeneath>() == 12, "packed, as the kernel has it");
const _: () = assert!(size_of::<libc::sock_filter>() == size_of::<u64>(), "an instruction is eight bytes");
const _: () = assert!(size_of::<CloneArguments>() == 88, "the kernel's structure of Linux 5.7");

/// A folder's attribute by which whatever is made in it gets its project: `FS_XFLAG_PROJINHERIT`.
pub(crate) const INHERITED: u32 = 0x200;

/// The kernel's `struct fsxattr`.
#[repr(C)]
#[derive(Clone, Copy)]
pub(crate) struct Attributes {
    pub(crate) flags: u32,
    extent_size: u32,
    extents: u32,
    pub(crate) project: u32,
    extent_size_to_copy: u32,
    unused: [u8; 8],
}

/// What a file has beside its mode: `FS_IOC_FSGETXATTR`.
pub(crate) fn attributes(file: BorrowedFd<'_>) -> Result<Attributes, Errno> {
    const GET: ioctl::Opcode = ioctl::opcode::read::<Attributes>(b'X', 31);
    // SAFETY: this request writes one `struct fsxattr`, any bytes of which are one, and does nothing else.
    unsafe { ioctl::ioctl(file, ioctl::Getter::<GET, Attributes>::new()) }
}

/// Puts a file into a project, and with a folder whatever is made in it afterwards.
pub(crate) fn set_project(file: BorrowedFd<'_>, project: u32) -> Result<(), Errno> {
    const SET: ioctl::Opcode = ioctl::opcode::write::<Attributes>(b'X', 32);
    let is_folder =
        rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode) == rustix::fs::FileType::Directory;
    let before = attributes(file)?;
    let flags = before.flags | if is_folder { INHERITED } else { 0 };
    // SAFETY: this request reads one `struct fsxattr`, which the kernel checks, and writes no memory.
    unsafe { ioctl::ioctl(file, ioctl::Setter::<SET, Attributes>::new(Attributes { flags, project, ..before })) }
}

/// The kernel's `struct if_dqblk`, and `struct if_nextdqblk`, whose last field is where the other ends in padding.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub(crate) struct Kept {
    pub(crate) hard_kib: u64,
    soft_kib: u64,
    pub(crate) used_bytes: u64,
    pub(crate) hard_files: u64,
    soft_files: u64,
    pub(crate) used_files: u64,
    grace_kib: u64,
    grace_files: u64,
    valid: u32,
    id: u32,
}

const Q_GETQUOTA: c_int = 0x80_0007;
const Q_SETQUOTA: c_int = 0x80_0008;
const Q_GETNEXTQUOTA: c_int = 0x80_0009;

/// `PRJQUOTA`, in the lowest byte of a command.
const OF_PROJECTS: c_int = 2;

/// `QIF_LIMITS`: the limits of a `struct if_dqblk` hold, and nothing else in it.
const LIMITS: u32 = 5;

/// What a project of the folder's file system may have, and has.
pub(crate) fn quota(folder: BorrowedFd<'_>, project: u32) -> Result<Kept, Errno> {
    let mut kept = Kept::default();
    quotactl(folder, Q_GETQUOTA, project, &mut kept)?;
    Ok(kept)
}

/// The first project from this number on of which anything is kept.
pub(crate) fn next_quota(folder: BorrowedFd<'_>, project: u32) -> Result<(u32, Kept), Errno> {
    let mut kept = Kept::default();
    quotactl(folder, Q_GETNEXTQUOTA, project, &mut kept)?;
    Ok((kept.id, kept))
}

/// Limits a project of the folder's file system; 0 is no limit.
pub(crate) fn set_quota(folder: BorrowedFd<'_>, project: u32, kib: u64, files: u64) -> Result<(), Errno> {
    let mut kept = Kept { hard_kib: kib, hard_files: files, valid: LIMITS, ..Kept::default() };
    quotactl(folder, Q_SETQUOTA, project, &mut kept)
}

fn quotactl(folder: BorrowedFd<'_>, command: c_int, project: u32, kept: &mut Kept) -> Result<(), Errno> {
    // SAFETY: the three commands above read or write one structure that is no larger than `Kept`, which outlives the call
    // and which nobody else looks at meanwhile.
    let done = unsafe {
        libc::syscall(
            libc::SYS_quotactl_fd,
            folder.as_raw_fd(),
            command << 8 | OF_PROJECTS,
            project,
            ptr::from_mut(kept),
        )
    };
    checked(done)?;
    Ok(())
}
