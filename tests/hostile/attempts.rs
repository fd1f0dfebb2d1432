//! One attempt of one row of the table (`palisade_tests::rows`), by name. What it met is a word: `ok`, an error's name, or what it saw.
//!
//! The test hands over what an attempt needs to know of the host: files, sockets, numbers. Whether the outcome is right is the
//! table's to say. Nothing here is held back for safety: what may be tried where is the tests' care.

use std::ffi::c_long;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::inside::{c_string, name, threads_until_refused};
use crate::sys;

/// What a test lets an attempt know.
struct World<'a>(&'a Value);

impl World<'_> {
    fn text(&self, what: &str) -> &str {
        self.0[what].as_str().unwrap_or_else(|| panic!("the test does not say {what}"))
    }

    fn number(&self, what: &str) -> i64 {
        self.0[what].as_i64().unwrap_or_else(|| panic!("the test does not say {what}"))
    }

    /// A path in its own data folder.
    fn data(&self, name: &str) -> String {
        format!("{}/{name}", self.text("data"))
    }
}

/// Makes the attempt that the parameters name, and says what it met.
pub(crate) fn make(parameters: &Value) -> String {
    let (row, what) = (parameters["row"].as_str().unwrap_or_default(), parameters["what"].as_str().unwrap_or_default());
    match attempt(row, what, &World(&parameters["world"])) {
        Ok(seen) if seen.is_empty() => "ok".to_owned(),
        Ok(seen) => seen,
        Err(error) => name(Err(error)),
    }
}

/// What it saw, empty if there was nothing to see.
fn attempt(row: &str, what: &str, world: &World<'_>) -> io::Result<String> {
    let done = |result: io::Result<()>| result.map(|()| String::new());
    match (row, what) {
        ("read-shadow", "/etc/shadow") => done(open("/etc/shadow")),
        ("read-shadow", "a file for everybody") => done(open(world.text("secret"))),
        ("read-shadow", "/home") => done(open("/home")),
        ("write-outside", "its package") => done(create(&format!("{}/x", world.text("package")))),
        ("write-outside", "/usr") => done(create("/usr/x")),
        ("write-outside", "/") => done(create("/x")),
        ("write-outside", "/etc") => done(create("/etc/x")),
        ("write-outside", "/dev") => done(create("/dev/x")),
        ("dotdot", "out of its data") => {
            done(open(&format!("{}/../../../../../../../..{}", world.text("data"), world.text("secret"))))
        }
        ("symlink-out", "its own link") => {
            let link = world.data("link");
            let _ = fs::remove_file(&link);
            std::os::unix::fs::symlink(world.text("secret"), &link)?;
            done(open(&link))
        }
        ("mknod", "character 1:1") => done(sys::mknod(&world.data("memory"), libc::S_IFCHR, 1, 1)),
        ("mknod", "character 1:3") => done(sys::mknod(&world.data("null"), libc::S_IFCHR, 1, 3)),
        ("mknod", "block 8:0") => done(sys::mknod(&world.data("disk"), libc::S_IFBLK, 8, 0)),
        ("dev-open", path) => done(open(path)),
        ("fd-inherit", "list") => Ok(descriptors()),
        ("fd-cwd", "cwd") => Ok(fs::read_link("/proc/self/cwd")?.display().to_string()),
        ("fd-cwd", "out of it") => {
            std::env::set_current_dir(world.text("data"))?;
            done(open(&format!("/proc/self/cwd/../../../../../../../..{}", world.text("secret"))))
        }
        ("proc-1", file) => {
            let path = format!("/proc/{}/{file}", world.number("first"));
            match file {
                "exe" | "root" | "cwd" => done(fs::read_link(path).map(drop)),
                "fd" => done(fs::read_dir(path).map(drop)),
                _ => {
                    done(fs::File::open(path).and_then(|mut file| file.read(&mut [0; 16])).map(drop).or_else(readable))
                }
            }
        }
        ("self-exe-write", path) => done(write_open(path)),
        ("sysrq", "/proc/meminfo" | "/sys/kernel") => done(open(what)),
        ("sysrq", path) => done(write_open(path)),
        ("cgroup-escape", "one that anybody may write") => done(write_open(world.text("writable"))),
        ("cgroup-escape", path) => done(write_open(path)),

        ("mount", "mount") => done(sys::mount("none", "/tmp", "tmpfs")),
        ("mount", "umount2") => done(sys::unmount("/dev/shm")),
        ("mount", "fsopen") => call(libc::SYS_fsopen, [address(&c_string("tmpfs")), 0, 0, 0, 0, 0]),
        ("mount", "open_tree") => {
            let clone = 1; // OPEN_TREE_CLONE
            call(libc::SYS_open_tree, [libc::AT_FDCWD.into(), address(&c_string("/tmp")), clone, 0, 0, 0])
        }
        ("mount", "move_mount") => {
            let (from, to) = (c_string("/dev/shm"), c_string("/tmp"));
            let at = libc::AT_FDCWD.into();
            call(libc::SYS_move_mount, [at, address(&from), at, address(&to), 0, 0])
        }
        ("pivot/chroot", "pivot_root") => done(sys::pivot_root("/tmp", "/tmp")),
        ("pivot/chroot", "chroot") => done(sys::chroot("/tmp")),
        ("unshare", "user") => done(sys::unshare(libc::CLONE_NEWUSER)),
        ("unshare", "mount") => done(sys::unshare(libc::CLONE_NEWNS)),
        ("unshare", "net") => done(sys::unshare(libc::CLONE_NEWNET)),
        ("clone3", "a process") => done(sys::clone3()),
        ("setns", "its own mount namespace") => done(sys::setns("/proc/self/ns/mnt")),
        ("ptrace-sib", "a child of its own") => with_child(sys::ptrace_seize),
        ("ptrace-sib", "the supervisor") => done(sys::ptrace_seize(world.number("supervisor") as i32)),
        ("vm-readv", "a child of its own") => with_child(sys::read_memory_of),
        ("kill-all", "the supervisor") => done(sys::kill(world.number("supervisor") as i32, 0)),
        ("kill-all", "pid 1") => {
            // Whether the kernel refuses or passes it over, pid 1 lives, or this would not be answered.
            let _ = sys::kill(1, libc::SIGKILL);
            Ok(String::new())
        }
        ("kill-all", "everybody") => with_child(|_| sys::kill(-1, libc::SIGKILL)),
        ("int80", "socket") => sys::int80_socket().map(|()| String::new()),
        ("x32", "getpid") => call(libc::SYS_getpid | X32, [0; 6]),
        ("x32", "ptrace") => call(libc::SYS_ptrace | X32, [0; 6]),
        ("io-uring", "io_uring_setup") => {
            let parameters = [0_u64; 15];
            call(libc::SYS_io_uring_setup, [1, parameters.as_ptr() as i64, 0, 0, 0, 0])
        }
        ("bpf, userfaultfd / perf", "bpf") => {
            // A map of one entry: BPF_MAP_CREATE of an array.
            let attributes = [2_u32, 4, 4, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            call(libc::SYS_bpf, [0, attributes.as_ptr() as i64, 64, 0, 0, 0])
        }
        ("bpf, userfaultfd / perf", "userfaultfd") => call(libc::SYS_userfaultfd, [1, 0, 0, 0, 0, 0]),
        ("bpf, userfaultfd / perf", "perf_event_open") => {
            // A software counter of its own processor time, without the kernel's.
            let mut attributes = [0_u64; 16];
            attributes[0] = 1 | (128 << 32);
            attributes[5] = (1 << 5) | (1 << 6);
            call(libc::SYS_perf_event_open, [attributes.as_ptr() as i64, 0, -1, -1, 0, 0])
        }
        ("keyctl", "add_key") => {
            let (kind, name) = (c_string("user"), c_string("palisade-test"));
            let process_keyring = -2;
            let arguments = [address(&kind), address(&name), name.as_ptr() as i64, 4, process_keyring, 0];
            call(libc::SYS_add_key, arguments)
        }
        ("keyctl", "keyctl") => call(libc::SYS_keyctl, [0, -2, 1, 0, 0, 0]),
        ("keyctl", "a sibling's key") => done(sys::read_key(world.number("key"))),
        ("keyctl", "a sibling's keyring") => done(sys::read_key(world.number("keyring"))),
        ("keyctl", "request_key") => {
            let (kind, name) = (c_string("user"), c_string("palisade-nobody-has-it"));
            call(libc::SYS_request_key, [address(&kind), address(&name), 0, 0, 0, 0])
        }
        ("fork-bomb", "processes") => match sys::fork_until_refused(BOMB, false) {
            (_, Some(refused)) => Err(refused),
            _ => Ok(String::new()),
        },
        ("fork-bomb", "threads") => match threads_until_refused(BOMB) {
            (_, Some(refused)) => Err(refused),
            _ => Ok(String::new()),
        },
        // The helper says by its exit whether it is somebody else than whoever executed it.
        ("setuid-bin", "a helper") => {
            done(sys::execute(&format!("{}/helper", world.text("package")), &["who", "null"]))
        }
        ("setuid0", "setresuid") => done(sys::become_root()),
        ("setuid0", "capset") => done(sys::capset_all()),
        ("tty", "TIOCSCTTY") => {
            sys::new_session();
            call(libc::SYS_ioctl, [0, libc::TIOCSCTTY as i64, 0, 0, 0, 0])
        }
        ("tty", "TIOCSTI") => call(libc::SYS_ioctl, [0, libc::TIOCSTI as i64, b"x".as_ptr() as i64, 0, 0, 0]),
        ("tty", path) => done(open(path)),
        ("af-families", "all") => Ok(families()),

        ("tcp-direct", address) => done(TcpStream::connect(given(world, address)).map(drop)),
        ("udp/icmp/raw/packet", "udp") => done(udp(world.text("udp"))),
        ("udp/icmp/raw/packet", "tcp fast open") => sys::fast_open(world.text("tcp4")).map(|()| String::new()),
        ("udp/icmp/raw/packet", "raw") => socket(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        ("udp/icmp/raw/packet", "packet") => socket(libc::AF_PACKET, libc::SOCK_RAW, 0),
        ("udp/icmp/raw/packet", "icmp") => socket(libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
        ("mptcp", "socket") => socket(libc::AF_INET, libc::SOCK_STREAM, 262),
        ("unix-abstract", "of somebody else") => {
            let address = SocketAddr::from_abstract_name(world.text("abstract"))?;
            done(UnixStream::connect_addr(&address).map(drop))
        }
        ("unix-path", "for everybody") => done(UnixStream::connect(world.text("socket")).map(drop)),
        ("unix-path", "the control socket") => done(UnixStream::connect(world.text("control")).map(drop)),
        ("unix-path", path) => done(UnixStream::connect(path).map(drop)),

        ("mlock, shm, mq, aio, timers, inotify", "mlock") => done(sys::lock_memory(64 << 20)),
        ("mlock, shm, mq, aio, timers, inotify", "shmget") => call(libc::SYS_shmget, [0, 4096, 0o600, 0, 0, 0]),
        ("mlock, shm, mq, aio, timers, inotify", "/dev/shm") => done(fill("/dev/shm/big")),
        ("mlock, shm, mq, aio, timers, inotify", "mq_open") => {
            until_refused(100, |number| sys::message_queue(&format!("q{number}")))
        }
        ("mlock, shm, mq, aio, timers, inotify", "io_setup") => {
            let mut context = 0_u64;
            call(libc::SYS_io_setup, [128, &raw mut context as i64, 0, 0, 0, 0])
        }
        ("mlock, shm, mq, aio, timers, inotify", "timer_create") => {
            let mut held = Vec::new();
            let met = until_refused(1 << 14, |_| {
                let mut timer = 0_i32;
                sys::call(libc::SYS_timer_create, [0, 0, &raw mut timer as i64, 0, 0, 0]).map(|_| held.push(timer))
            });
            held.into_iter().for_each(|timer| drop(sys::call(libc::SYS_timer_delete, [timer.into(), 0, 0, 0, 0, 0])));
            met
        }
        ("mlock, shm, mq, aio, timers, inotify", "inotify_init") => {
            let mut held = Vec::new();
            until_refused(1 << 16, |_| sys::inotify().map(|descriptor| held.push(descriptor)))
        }
        ("fd-exhaust", "open") => {
            let mut held = Vec::new();
            let refused = loop {
                match fs::File::open("/dev/null") {
                    Ok(file) if held.len() < 1 << 16 => held.push(file),
                    Ok(_) => return Ok(String::new()),
                    Err(error) => break error,
                }
            };
            drop(held);
            Err(refused)
        }
        ("disk-fill", "a file") => done(fill(&world.data("big"))),
        ("disk-fill", "a sparse file") => done(sparse(&world.data("sparse"))),
        ("disk-fill", "/tmp") => done(fill("/tmp/big")),
        ("disk-fill", "files in /tmp") => done(many_files("/tmp")),
        ("memfd-exec", "fexecve") => done(sys::execute_memory_file(&fs::read("/proc/self/exe")?)),
        ("ld-so-exec", "the loader") => {
            evil(world)?;
            done(sys::execute("/lib64/ld-linux-x86-64.so.2", &[&world.data("evil"), sys::NOTHING[0], sys::NOTHING[1]]))
        }
        ("ld-so-exec", "itself") => {
            evil(world)?;
            done(sys::execute(&world.data("evil"), &sys::NOTHING))
        }
        ("landlock-again", "one more") => done(sys::landlock_domain()),
        ("landlock-again", "seventeen") => done((0..17).try_for_each(|_| sys::landlock_domain())),
        ("time", "clock_settime") => {
            // Even where it is let through, the second changes nothing to speak of: what is set is what is.
            let mut now = [0_i64; 2];
            sys::call(libc::SYS_clock_gettime, [0, now.as_mut_ptr() as i64, 0, 0, 0, 0])?;
            call(libc::SYS_clock_settime, [0, now.as_ptr() as i64, 0, 0, 0, 0])
        }
        ("time", "settimeofday") => {
            // No time and an invalid zone: nothing can be set by it.
            let zone = [i32::MAX, 0];
            call(libc::SYS_settimeofday, [0, zone.as_ptr() as i64, 0, 0, 0, 0])
        }
        ("sibling-data", "a file for everybody") => done(open(world.text("sibling"))),
        ("vsyscall/speculation", "vsyscall") => done(sys::vsyscall_time()),
        ("vsyscall/speculation", "PR_GET_SPECULATION_CTRL") => {
            call(libc::SYS_prctl, [libc::PR_GET_SPECULATION_CTRL.into(), 0, 0, 0, 0, 0])
        }
        ("vsyscall/speculation", "PR_SET_SPECULATION_CTRL") => {
            let enable = 2;
            call(libc::SYS_prctl, [libc::PR_SET_SPECULATION_CTRL.into(), 0, enable, 0, 0, 0])
        }
        ("core-dump", "setrlimit") => {
            let none = [0_i64, 0];
            call(libc::SYS_setrlimit, [libc::RLIMIT_CORE.into(), none.as_ptr() as i64, 0, 0, 0, 0])
        }
        ("core-dump", "prlimit64") => {
            let none = [0_i64, 0];
            call(libc::SYS_prlimit64, [0, libc::RLIMIT_CORE.into(), none.as_ptr() as i64, 0, 0, 0])
        }
        ("core-dump", "abort") => std::process::abort(),
        _ => panic!("there is no attempt {what:?} in {row:?}"),
    }
}

/// More processes or threads than any plugin of the tests may have, and no more than a small machine carries.
const BOMB: usize = 300;

/// The bit with which the calls of x32 are told apart.
const X32: c_long = 0x4000_0000;

fn address(text: &std::ffi::CStr) -> i64 {
    text.as_ptr() as i64
}

fn call(number: c_long, arguments: [i64; 6]) -> io::Result<String> {
    sys::call(number, arguments).map(|_| String::new())
}

fn socket(family: i32, kind: i32, protocol: i32) -> io::Result<String> {
    call(libc::SYS_socket, [family.into(), kind.into(), protocol.into(), 0, 0, 0])
}

fn given<'a>(world: &'a World<'_>, what: &'a str) -> &'a str {
    match what {
        "127.0.0.1" => world.text("tcp4"),
        "an address of a network namespace" => world.text("tcp_elsewhere"),
        "::1" => world.text("tcp6"),
        address => address,
    }
}

fn open(path: &str) -> io::Result<()> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).map(drop)
}

/// Opened for writing, and nothing written.
fn write_open(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).map(drop)
}

/// What has no byte at 0, as a process's memory, was opened all the same.
fn readable(error: io::Error) -> io::Result<()> {
    if error.raw_os_error() == Some(libc::EIO) { Ok(()) } else { Err(error) }
}

fn create(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?;
    fs::remove_file(path)
}

fn descriptors() -> String {
    let numbers = (0..1024).filter(|number| fs::read_link(format!("/proc/self/fd/{number}")).is_ok());
    numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(" ")
}

/// The families of which a socket can be had, whatever its kind.
fn families() -> String {
    let can = |family: &i32| {
        [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_RAW, libc::SOCK_SEQPACKET]
            .into_iter()
            .any(|kind| socket(*family, kind, 0).is_ok())
    };
    (0..46).filter(can).map(|family| family.to_string()).collect::<Vec<_>>().join(" ")
}

/// How long a datagram or an error about it is waited for: both come at their own time, as the kernel hands them on in the background.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// Sends until somebody answers or the kernel says that nobody is there. What is sent may get lost, on loopback too.
fn udp(address: &str) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let end = Instant::now() + ANSWER_WITHIN;
    while Instant::now() < end {
        socket.send(b"x")?;
        match socket.recv(&mut [0]) {
            Ok(_) => return Ok(()),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::from_raw_os_error(libc::ETIMEDOUT))
}

/// Does something to a child that only waits, and ends it.
fn with_child(act: impl FnOnce(i32) -> io::Result<()>) -> io::Result<String> {
    let child = sys::waiting_child()?;
    let met = act(child);
    sys::end(child);
    met.map(|()| String::new())
}

/// Until it may not, or so many.
fn until_refused(most: u32, mut take: impl FnMut(u32) -> io::Result<()>) -> io::Result<String> {
    (0..most).try_for_each(&mut take).map(|()| String::new())
}

fn fill(path: &str) -> io::Result<()> {
    sys::ignore(libc::SIGXFSZ);
    let mut file = fs::File::create(path)?;
    let block = vec![b'd'; 1 << 20];
    let result = (0..256).try_for_each(|_| file.write_all(&block));
    fs::remove_file(path)?;
    result
}

/// A byte at the end of what it never wrote.
fn sparse(path: &str) -> io::Result<()> {
    sys::ignore(libc::SIGXFSZ);
    let mut file = fs::File::create(path)?;
    let result = file.seek(io::SeekFrom::Start(1 << 40)).and_then(|_| file.write_all(b"x"));
    fs::remove_file(path)?;
    result
}

fn many_files(folder: &str) -> io::Result<()> {
    let folder = format!("{folder}/many");
    fs::create_dir(&folder)?;
    let result = (0..100_000).try_for_each(|number| fs::File::create(format!("{folder}/{number}")).map(drop));
    fs::remove_dir_all(&folder)?;
    result
}

/// A copy of itself in its data.
fn evil(world: &World<'_>) -> io::Result<()> {
    let path = world.data("evil");
    fs::copy("/proc/self/exe", &path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))
}
