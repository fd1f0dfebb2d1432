//! The shipped filters in the real kernel: each kind of answer, and that programs of every kind live under them.
//!
//! A test starts this very executable again, which installs a filter for itself and then tries a call or becomes another program.
//! What the calls are given cannot do anything even where nothing stops it. Where a toolchain is missing, a test says SKIPPED.
//! Elsewhere: what each number is answered with is held by the unit tests of `sandbox::seccomp`; the launcher's use of a filter is
//! shown by the tests of `process` and the system tests.

#![expect(clippy::unwrap_used, reason = "a test that finds something unexpected is to fail")]

mod sys;

use std::ffi::OsStr;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use palisaded::sandbox::seccomp::policy::{Denials, Execution};
use palisaded::sandbox::seccomp::{Action, Data, Profile, compile, decide, numbers};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};

const BASE: Profile = Profile { execution: Execution::Once, denials: Denials::Answered };
const EXECUTE: Profile = Profile { execution: Execution::Any, denials: Denials::Answered };
const TRACE: Profile = Profile { execution: Execution::Any, denials: Denials::Traced };

const EPERM: i32 = 1;
const EBADF: i32 = 9;
const EFAULT: i32 = 14;
const EINVAL: i32 = 22;
const ENOSYS: i32 = 38;
const EPROTONOSUPPORT: i32 = 93;
const EAFNOSUPPORT: i32 = 97;
const SIGSEGV: i32 = 11;
const SIGSYS: i32 = 31;

// ---------------------------------------------------------------------------------------------------------------------
// Each kind of answer.

#[test]
fn what_is_allowed_is_made() {
    assert_eq!(tried(Some(BASE), "getppid", [0; 6]), Outcome::Done);
    // It reaches the kernel, which has its own objections.
    assert_eq!(tried(Some(BASE), "close", [u64::from(u32::MAX); 6]), Outcome::Errno(EBADF));
    assert_eq!(tried(Some(BASE), "socket", [1, 1, 0, 0, 0, 0]), Outcome::Done);
    assert_eq!(tried(Some(BASE), "personality", [0xffff_ffff, 0, 0, 0, 0, 0]), Outcome::Done);
}

#[test]
fn what_is_refused_returns_its_errno_and_would_return_another_without_the_filter() {
    for (name, arguments, refused, otherwise) in [
        ("unshare", [0; 6], EPERM, None),
        ("keyctl", [999, 0, 0, 0, 0, 0], EPERM, Some(95)),
        ("sync", [0; 6], EPERM, None),
        ("fchmod", [u64::MAX, 0o4755, 0, 0, 0, 0], EPERM, Some(EBADF)),
        ("ioctl", [u64::MAX, 0x1_0000_5412, 0, 0, 0, 0], EPERM, Some(EBADF)),
        ("clone3", [0; 6], ENOSYS, Some(EINVAL)),
        ("openat2", [0; 6], ENOSYS, Some(EINVAL)),
        ("seccomp", [1, 8, 0, 0, 0, 0], EPERM, Some(EFAULT)),
        ("prlimit64", [1, 0, 0, 0, 0, 0], EPERM, None),
        ("prctl", [0xffff, 0, 0, 0, 0, 0], EINVAL, Some(EINVAL)),
    ] {
        // `sync` is too much for a neighbour, and the others' outcome depends on who asks.
        if let Some(otherwise) = otherwise {
            assert_eq!(tried(None, name, arguments), Outcome::Errno(otherwise), "{name} without a filter");
        }
        assert_eq!(tried(Some(BASE), name, arguments), Outcome::Errno(refused), "{name}");
    }
    assert_eq!(tried(Some(BASE), "socket", [2, 1, 262, 0, 0, 0]), Outcome::Errno(EPROTONOSUPPORT));
    assert_eq!(tried(Some(BASE), "socket", [40, 1, 0, 0, 0, 0]), Outcome::Errno(EAFNOSUPPORT));
    assert_eq!(tried(Some(BASE), "socket", [17, 3, 0, 0, 0, 0]), Outcome::Errno(EPERM));
}

#[test]
fn a_number_newer_than_the_table_is_not_implemented() {
    assert_eq!(tried_number(Some(BASE), numbers::highest_known() + 1, [0; 6]), Outcome::Errno(ENOSYS));
    assert_eq!(tried_number(Some(BASE), 100_000, [0; 6]), Outcome::Errno(ENOSYS));
}

#[test]
fn what_is_never_legitimate_kills() {
    for (name, arguments, otherwise) in [
        ("setns", [u64::from(u32::MAX), 0, 0, 0, 0, 0], EBADF),
        ("bpf", [9999, 0, 0, 0, 0, 0], EINVAL),
        ("move_mount", [u64::from(u32::MAX), 0, u64::from(u32::MAX), 0, 0xffff_0000, 0], EINVAL),
    ] {
        // Of an ordinary user the kernel wants to know first whether it may.
        let without = tried(None, name, arguments);
        assert!([Outcome::Errno(otherwise), Outcome::Errno(EPERM)].contains(&without), "{name}: {without:?}");
        assert_eq!(tried(Some(BASE), name, arguments), Outcome::Killed(SIGSYS), "{name}");
    }
    for name in ["mount", "ptrace", "clock_settime", "settimeofday", "userfaultfd", "pivot_root"] {
        assert_eq!(tried(Some(BASE), name, [0; 6]), Outcome::Killed(SIGSYS), "{name}");
    }
}

#[test]
fn other_ways_to_call_kill() {
    let getpid = numbers::number("getpid").unwrap();
    assert_eq!(tried_number(Some(BASE), getpid | numbers::X32_BIT, [0; 6]), Outcome::Killed(SIGSYS));
    match outcome(&inside(None, "i386")) {
        Outcome::Done => assert_eq!(outcome(&inside(Some(BASE), "i386")), Outcome::Killed(SIGSYS)),
        Outcome::Killed(SIGSEGV) => {
            println!("SKIPPED: this kernel has no 32-bit calls, so there are none to be refused")
        }
        other => panic!("int 0x80 without a filter: {other:?}"),
    }
}

/// Three calls can be made by a page that the kernel gives every process, without an instruction of the program's own. That a filter is
/// asked about them too is shown by one that refuses one of them, as ours allow them.
#[test]
fn calls_by_the_page_of_old_programs_are_filtered() {
    match outcome(&inside(None, "vsyscall")) {
        Outcome::Done => {
            assert_eq!(outcome(&inside(None, "refuse-time vsyscall")), Outcome::Killed(SIGSYS));
            assert_eq!(outcome(&inside(Some(BASE), "vsyscall")), Outcome::Done);
        }
        Outcome::Killed(SIGSEGV) => println!("SKIPPED: this kernel has no such page"),
        other => panic!("a vsyscall without a filter: {other:?}"),
    }
}

#[test]
fn without_a_listener_nothing_is_executed() {
    let output = inside(Some(BASE), "exec /bin/true");
    assert_eq!(outcome(&output), Outcome::Errno(ENOSYS));
    let output = inside(Some(EXECUTE), "exec /bin/true");
    assert_eq!(output.status.code(), Some(0));
}

/// The listener lets the first exec through and is closed; from then on there is none, also not for a plugin that would like to
/// answer itself.
#[test]
fn a_program_is_executed_once() {
    // A later one by the shell, by a loader, and by an interpreter that tries to make a listener of its own first.
    for (script, says) in [
        ("/bin/true || echo status $?", "status 126\n"),
        ("exec /lib64/ld-linux-x86-64.so.2 /bin/true", ""),
        ("echo before; /bin/echo after", "before\n"),
    ] {
        let (output, questions) =
            answered(again(Some(BASE), &format!("exec /bin/sh -c {script}")), |question, first| {
                assert_eq!(question.number, numbers::number("execve").unwrap());
                assert!(first, "only the first is asked about");
                (None, After::Close)
            });
        assert_eq!(questions, 1);
        assert!(String::from_utf8_lossy(&output.stdout).ends_with(says), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(error.contains("Function not implemented") || error.contains("not found"), "{output:?}");
    }
}

/// Where ours asks and nobody listens, a plugin could listen in our place: the rule about listeners is what prevents it.
#[test]
fn a_plugin_cannot_listen_in_place_of_pid_1() {
    let with_the_rule = inside(Some(BASE), "listen");
    assert_eq!(outcome(&with_the_rule), Outcome::Errno(EPERM));
    // A filter that only asks about execve lets the listener be made, and the kernel asks there: it was executed.
    let without = inside(None, "ask listen");
    let stdout = String::from_utf8_lossy(&without.stdout);
    assert!(without.status.success() && stdout.ends_with("executed\n"), "{without:?}");
}

#[test]
fn traced_denials_are_asked_about_and_end_as_they_would_have() {
    let unshare = numbers::number("unshare").unwrap();
    let (output, questions) =
        answered(again(Some(TRACE), &format!("call {unshare} 268435456 7 0 0 0 0")), |question, _| {
            assert_eq!((question.number, &question.arguments[..2]), (unshare, &[0x1000_0000, 7][..]));
            let Action::Errno(errno) = decide(&EXECUTE, &Data::new(question.number, question.arguments)) else {
                panic!("{question:?} is not refused");
            };
            (Some(errno), After::Listen)
        });
    assert_eq!((outcome(&output), questions), (Outcome::Errno(EPERM), 1));
}

// ---------------------------------------------------------------------------------------------------------------------
// Programs.

#[test]
fn c_programs_live() {
    let source = programs().join("program.c");
    for (name, flags) in [("c-dynamic", &[][..]), ("c-static", &["-static"][..])] {
        let built = work().join(name);
        let mut compiler = command("gcc");
        compiler.args(["-O1", "-Wall", "-Werror", "-pthread", "-o"]).arg(&built).arg(&source).args(flags);
        if ran(&mut compiler, "gcc and the C library's development files (gcc, libc6-dev)").is_none() {
            return;
        }
        lives(&[built.as_os_str()]);
    }
}

#[test]
fn rust_programs_live() {
    let source = programs().join("program.rs");
    for (name, flags) in [("rust-dynamic", &[][..]), ("rust-static", &["-C", "target-feature=+crt-static"][..])] {
        let built = work().join(name);
        let mut compiler = command("rustc");
        compiler.args(["--edition=2024", "-o"]).arg(&built).arg(&source).args(flags);
        if ran(&mut compiler, "rustc").is_none() {
            return;
        }
        lives(&[built.as_os_str()]);
    }
}

#[test]
fn go_programs_live() {
    let built = work().join("go-static");
    let cache = work().join("go-cache");
    let mut compiler = command("go");
    compiler.args(["build", "-o"]).arg(&built).arg(programs().join("program.go"));
    compiler.env("CGO_ENABLED", "0").env("GO111MODULE", "off").env("GOCACHE", &cache).env("GOPATH", work().join("go"));
    if ran(&mut compiler, "Go (golang-go)").is_some() {
        lives(&[built.as_os_str()]);
    }
}

#[test]
fn python_lives() {
    if ran(command("/usr/bin/python3").arg("--version"), "Python 3 (python3)").is_some() {
        lives(&[OsStr::new("/usr/bin/python3"), programs().join("program.py").as_os_str()]);
    }
}

#[test]
fn node_lives() {
    // By its path, as the one exec must not be spent on looking in the wrong folder.
    let mut node = command("node");
    node.args(["-p", "process.execPath"]);
    if let Some(path) = ran(&mut node, "Node (nodejs)") {
        lives(&[OsStr::new(path.trim()), programs().join("program.js").as_os_str()]);
    }
}

/// No test of time, but the place where it can be seen.
#[test]
fn what_a_filter_costs() {
    const CALLS: u32 = 100_000;
    let getppid = numbers::number("getppid").unwrap();
    let call = move || {
        let before = Instant::now();
        for _ in 0..CALLS {
            sys::call(getppid, [0; 6]).unwrap();
        }
        before.elapsed().as_nanos() / u128::from(CALLS)
    };
    println!("an allowed call without a filter: {} ns", call());
    for profile in Profile::ALL {
        let filter = compile(&profile);
        let mut micros: Vec<u128> = (0..31)
            .map(|_| {
                let filter = filter.clone();
                // A filter is of a thread, and ends with it.
                let thread = std::thread::spawn(move || {
                    let before = Instant::now();
                    sys::install(&filter).unwrap();
                    before.elapsed().as_micros()
                });
                thread.join().unwrap()
            })
            .collect();
        micros.sort_unstable();
        let filtered = filter.clone();
        let thread = std::thread::spawn(move || {
            sys::install(&filtered).unwrap();
            call()
        });
        let nanos = thread.join().unwrap();
        println!(
            "{profile:?}: {} instructions, {} µs to install (median of 31), {nanos} ns for an allowed call",
            filter.len() / 8,
            micros[15]
        );
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// This executable again.

/// Says to this executable what it is to do, when a test starts it again.
const TASK: &str = "PALISADE_TEST_TASK";
/// And under which filter.
const PROFILE: &str = "PALISADE_TEST_PROFILE";
/// A listener is to be sent over standard input.
const LISTENER: &str = "PALISADE_TEST_LISTENER";

/// Not a test by itself: what the others start.
#[test]
#[ignore = "the other tests start it"]
fn inside_the_filter() {
    let Ok(task) = std::env::var(TASK) else { return };
    let filter = std::env::var(PROFILE).ok().map(|number| compile(&Profile::ALL[number.parse::<usize>().unwrap()]));
    if std::env::var_os(LISTENER).is_some() {
        let listener = sys::install_with_listener(&filter.unwrap()).unwrap();
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let descriptors = [listener.as_fd()];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)));
        let bytes = [std::io::IoSlice::new(b"l")];
        sendmsg(std::io::stdin(), &bytes, &mut ancillary, SendFlags::empty()).unwrap();
    } else if let Some(filter) = filter {
        sys::install(&filter).unwrap();
    }
    let words: Vec<&str> = task.splitn(4, ' ').collect();
    let errno = match words[..] {
        ["exec", program] => command(program).exec().raw_os_error().unwrap(),
        ["exec", program, "-c", script] => command(program).args(["-c", script]).exec().raw_os_error().unwrap(),
        ["exec", program, argument] => command(program).arg(argument).exec().raw_os_error().unwrap(),
        ["ask", "listen"] => {
            sys::install(&asking_about_execve()).unwrap();
            listen_and_execute()
        }
        ["listen"] => listen_and_execute(),
        ["vsyscall"] | ["refuse-time", "vsyscall"] => {
            if words.len() == 2 {
                sys::install(&answering("time", Action::Kill)).unwrap();
            }
            assert!(sys::time_of_vsyscall() > 0);
            0
        }
        ["i386"] => {
            assert!(sys::getpid_of_i386() > 0);
            0
        }
        ["call", ..] => {
            let numbers: Vec<u64> = task.split(' ').skip(1).map(|word| word.parse().unwrap()).collect();
            let [number, arguments @ ..] = <[u64; 7]>::try_from(numbers).unwrap();
            sys::call(number.try_into().unwrap(), arguments).err().unwrap_or(0)
        }
        _ => panic!("{task}?"),
    };
    // Alone in a line, whatever the test runner has written before.
    println!("\n{RESULT}{errno}");
}

const RESULT: &str = "errno ";

/// A filter that asks about execve and allows the rest.
fn asking_about_execve() -> Vec<u8> {
    answering("execve", Action::Notify)
}

/// A filter that answers one call so and allows the rest.
fn answering(name: &str, action: Action) -> Vec<u8> {
    let instruction = |code: u16, no: u8, k: u32| [&code.to_le_bytes()[..], &[0, no], &k.to_le_bytes()].concat();
    let number = numbers::number(name).unwrap();
    let [answers, allows] = [action, Action::Allow].map(|action| instruction(0x06, 0, action.to_kernel()));
    [instruction(0x20, 0, 0), instruction(0x15, 1, number), answers, allows].concat()
}

/// Installs a filter of its own that asks about execve, lets every one through, and executes; the errno of what failed.
fn listen_and_execute() -> i32 {
    let (sender, receiver) = std::sync::mpsc::sync_channel::<OwnedFd>(1);
    // Of this thread nothing is asked, as a filter is of the thread that installs it.
    std::thread::spawn(move || {
        let listener = receiver.recv().unwrap();
        while let Ok(question) = sys::next_question(listener.as_fd()) {
            sys::answer(listener.as_fd(), question, None).unwrap();
        }
    });
    match sys::install_with_listener(&asking_about_execve()) {
        Ok(listener) => {
            sender.send(listener).unwrap();
            command("/bin/echo").arg("executed").exec().raw_os_error().unwrap()
        }
        Err(error) => error.raw_os_error().unwrap(),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Errno(i32),
    Killed(i32),
}

fn tried(profile: Option<Profile>, name: &str, arguments: [u64; 6]) -> Outcome {
    tried_number(profile, numbers::number(name).unwrap(), arguments)
}

fn tried_number(profile: Option<Profile>, number: u32, arguments: [u64; 6]) -> Outcome {
    let arguments = arguments.map(|argument| argument.to_string()).join(" ");
    outcome(&inside(profile, &format!("call {number} {arguments}")))
}

fn outcome(output: &Output) -> Outcome {
    if let Some(signal) = output.status.signal() {
        return Outcome::Killed(signal);
    }
    let stdout = String::from_utf8_lossy(&output.stdout);
    match stdout.lines().find_map(|line| line.strip_prefix(RESULT)) {
        Some("0") => Outcome::Done,
        Some(errno) => Outcome::Errno(errno.parse().unwrap()),
        None => panic!("no result: {output:?}"),
    }
}

fn again(profile: Option<Profile>, task: &str) -> Command {
    let mut again = command(std::env::current_exe().unwrap());
    again.args(["--exact", "--ignored", "--nocapture", "--test-threads=1", "inside_the_filter"]).env(TASK, task);
    if let Some(profile) = profile {
        again.env(PROFILE, Profile::ALL.iter().position(|one| *one == profile).unwrap().to_string());
    }
    again
}

fn inside(profile: Option<Profile>, task: &str) -> Output {
    again(profile, task).stdin(Stdio::null()).output().unwrap()
}

/// What becomes of the listener after an answer.
#[derive(PartialEq, Eq)]
enum After {
    Listen,
    Close,
}

/// Runs a child whose filter asks here, as it would ask pid 1; and how often it did.
fn answered(
    mut child: Command,
    mut answer: impl FnMut(sys::Question, bool) -> (Option<u16>, After),
) -> (Output, usize) {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).unwrap();
    child.env(LISTENER, "1").stdin(Stdio::from(theirs)).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = child.spawn().unwrap();
    // Its copy of the other end would keep this one from ending with the child.
    drop(child);
    let listener = received(&ours);
    let mut questions = 0;
    // An error means that whoever could ask is gone.
    while let Ok(question) = sys::next_question(listener.as_fd()) {
        questions += 1;
        let (errno, after) = answer(question, questions == 1);
        sys::answer(listener.as_fd(), question, errno).unwrap();
        if after == After::Close {
            break;
        }
    }
    drop(listener);
    (started.wait_with_output().unwrap(), questions)
}

fn received(socket: &OwnedFd) -> OwnedFd {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let received = recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut ancillary, RecvFlags::CMSG_CLOEXEC).unwrap();
    assert_eq!(received.bytes, 1, "the child has sent its listener");
    let rights = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    rights.unwrap()
}

/// The program does what it does, says `lives` and ends well: without a filter, with one that lets it execute others, and with the
/// base's, where it alone is executed.
fn lives(program: &[&OsStr]) {
    let words: Vec<&str> = program.iter().map(|word| word.to_str().unwrap()).collect();
    let task = format!("exec {}", words.join(" "));
    let shows = |how: &str, output: &Output| {
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && stdout.ends_with("lives\n"),
            "{program:?} {how}: {} {stdout}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    };
    for (how, profile) in [("without a filter", None), ("with execute_code", Some(EXECUTE))] {
        let folder = tempfile::tempdir().unwrap();
        let mut child = again(profile, &task);
        shows(how, &child.stdin(Stdio::null()).current_dir(folder.path()).output().unwrap());
    }
    let folder = tempfile::tempdir().unwrap();
    let mut child = again(Some(BASE), &task);
    child.current_dir(folder.path()).env("ONCE", "1");
    let (output, questions) = answered(child, |_, _| (None, After::Close));
    shows("with the base alone", &output);
    assert_eq!(questions, 1);
}

/// What the command printed once it did what it should; if there is no such program, the test shows nothing.
fn ran(tool: &mut Command, needed: &str) -> Option<String> {
    match tool.output() {
        Ok(output) if output.status.success() => Some(String::from_utf8(output.stdout).unwrap()),
        Ok(output) => panic!("{tool:?}: {}{}", output.status, String::from_utf8_lossy(&output.stderr)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            println!("SKIPPED: {needed} is needed to see its programs under the filter");
            None
        }
        Err(error) => panic!("{tool:?}: {error}"),
    }
}

fn programs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/seccomp/programs")
}

/// What was built once stays for the next time.
fn work() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

#[expect(clippy::disallowed_methods, reason = "the ban is the daemon's; this test starts programs here alone")]
fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}
