//! A launcher that confines nothing, so that the benchmark can tell what confinement costs a running plugin.
//!
//! It speaks the launcher's side of the socket and starts the benchmark's plugin as it is. What the daemon tries out when it begins is
//! left to the real launcher, which lies beside the daemon. The specification that it was sent goes into the plugin's data folder: from
//! it the floor of a start is made.
//!
//! It is a part of the benchmark alone and is never installed.
#![forbid(unsafe_code)]

use std::ffi::CString;
use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, ensure};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use nix::sys::wait::{WaitStatus, waitpid};
use palisade_launcher::{
    BUILD_ID, Command, DESCRIPTORS_MAX, End, MESSAGE_BYTES_MAX, MODE_VARIABLE, Report, Source, Spec, Usage, decode,
    encode,
};
use palisade_tests::command::command;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType, recv, recvmsg, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

fn main() -> anyhow::Result<()> {
    // It makes no copies of itself, and is executed for each start.
    ensure!(std::env::var_os(MODE_VARIABLE).is_none(), "this launcher only launches");
    let stdin = std::io::stdin();
    let control = stdin.as_fd();
    let mut bytes = vec![0; MESSAGE_BYTES_MAX];
    let (length, descriptors) = receive(control, &mut bytes)?;
    let spec: Spec = decode(&bytes[..length]).context("reading the specification")?;
    if !spec.environment.iter().any(|variable| variable.as_bytes().starts_with(b"BENCH_ID=")) {
        return stand_between(control, &mut bytes, length, descriptors);
    }
    if let Some(data) = data_of(&spec) {
        std::fs::write(data.join("specification"), &bytes[..length]).context("keeping the specification")?;
    }
    say(control, &Report::Hello { build_id: BUILD_ID.to_owned(), pid: std::process::id() })?;
    let (child, pidfd) = start(&spec, &descriptors)?;
    drop(descriptors);
    send(control, &encode(&Report::Started).context("a report")?, &[pidfd.as_fd(), pidfd.as_fd()])?;
    watch(control, &pidfd, &mut bytes);
    let end = match waitpid(child, None).context("waiting for the plugin")? {
        WaitStatus::Signaled(_, signal, core_dumped) => End::Signal { number: signal as i32, core_dumped },
        WaitStatus::Exited(_, code) => End::Code(code),
        _ => End::Code(0),
    };
    // A daemon that is gone needs no report.
    let _ = say(control, &Report::Exited { end, usage: Usage::default() });
    Ok(())
}

/// Leaves a trial to the real launcher, and passes on what it and the daemon say. What the daemon tries to start is its launcher; that
/// has to be the real one as well.
fn stand_between(
    control: BorrowedFd<'_>,
    bytes: &mut [u8],
    length: usize,
    mut descriptors: Vec<OwnedFd>,
) -> anyhow::Result<()> {
    // The one beside the daemon, which is this process's parent.
    let daemon = rustix::process::getppid().context("a daemon")?.as_raw_nonzero();
    let program = std::fs::read_link(format!("/proc/{daemon}/exe")).context("the daemon's program")?;
    let launcher = program.with_file_name("palisade-launcher");
    descriptors[0] = in_memory(&std::fs::read(&launcher).context("reading the real launcher")?)?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .context("a pair of sockets")?;
    // It is to end with this process: left alone, it would take the daemon for dead and clear away the cgroups that it finds.
    let mut real = command("setpriv");
    real.args(["--pdeathsig", "KILL"]).arg(&launcher);
    let mut real = real.stdin(theirs).spawn().context("starting the real launcher")?;
    let pass = |to: BorrowedFd<'_>, length: usize, descriptors: Vec<OwnedFd>, bytes: &[u8]| {
        let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        send(to, &bytes[..length], &borrowed)
    };
    pass(ours.as_fd(), length, descriptors, bytes)?;
    loop {
        let mut ready = [PollFd::new(&control, PollFlags::IN), PollFd::new(&ours, PollFlags::IN)];
        poll(&mut ready, None).context("waiting")?;
        let (from, to) = if ready[1].revents().is_empty() { (control, ours.as_fd()) } else { (ours.as_fd(), control) };
        match receive(from, bytes) {
            Ok((length, descriptors)) if length > 0 => pass(to, length, descriptors, bytes)?,
            // The end of one is the end of both.
            _ => break,
        }
    }
    drop(ours);
    real.wait().context("waiting for the real launcher")?;
    Ok(())
}

/// A program in memory that can be executed.
fn in_memory(program: &[u8]) -> anyhow::Result<OwnedFd> {
    let file = rustix::fs::memfd_create("palisade-launcher", MemfdFlags::CLOEXEC | MemfdFlags::EXEC);
    let mut file = File::from(file.context("a file in memory")?);
    file.write_all(program).context("a file in memory")?;
    // A descriptor that was opened for writing keeps it from being executed.
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(File::open(path).context("a file in memory")?.into())
}

fn data_of(spec: &Spec) -> Option<&Path> {
    let mounts = &spec.root.as_ref()?.mounts;
    mounts.iter().find_map(|mount| match &mount.source {
        Source::Bind { path, .. } if mount.target.as_bytes() == b"data" => {
            Some(Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())))
        }
        _ => None,
    })
}

fn say(control: BorrowedFd<'_>, report: &Report) -> anyhow::Result<()> {
    send(control, &encode(report).context("a report")?, &[])
}

fn send(to: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> anyhow::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() {
        ensure!(ancillary.push(SendAncillaryMessage::ScmRights(descriptors)), "too many descriptors");
    }
    sendmsg(to, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL).context("sending")?;
    Ok(())
}

/// A message, and what came along.
fn receive(from: BorrowedFd<'_>, bytes: &mut [u8]) -> anyhow::Result<(usize, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(from, &mut [IoSliceMut::new(bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    let length = received.context("receiving")?.bytes;
    let mut descriptors = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    Ok((length, descriptors))
}

/// Starts the plugin as it would be started without a sandbox: the same program, arguments, environment and pipes.
fn start(spec: &Spec, descriptors: &[OwnedFd]) -> anyhow::Result<(nix::unistd::Pid, OwnedFd)> {
    let [entry, input, output, stdout, stderr, ..] = descriptors else { anyhow::bail!("descriptors are missing") };
    // What was received may lie where the plugin's own descriptors go; these do not.
    let above = |descriptor: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(descriptor, 10).context("a descriptor");
    let places = [above(stdout)?, above(stderr)?, above(input)?, above(output)?];
    let mut actions = PosixSpawnFileActions::init().context("posix_spawn")?;
    for (number, descriptor) in (1..).zip(&places) {
        actions.add_dup2(descriptor.as_raw_fd(), number).context("posix_spawn")?;
    }
    let entry = above(entry)?;
    let program = CString::new(format!("/proc/self/fd/{}", entry.as_raw_fd())).context("a path")?;
    let attributes = PosixSpawnAttr::init().context("posix_spawn")?;
    let child = posix_spawn(program.as_c_str(), &actions, &attributes, &spec.arguments, &spec.environment)
        .context("starting the plugin")?;
    let pid = Pid::from_raw(child.as_raw()).context("a process number")?;
    Ok((child, pidfd_open(pid, PidfdFlags::empty()).context("a pidfd")?))
}

/// Until the plugin has ended; a daemon that wants that, or is gone, ends it.
fn watch(control: BorrowedFd<'_>, pidfd: &OwnedFd, bytes: &mut [u8]) {
    loop {
        let mut ready = [PollFd::new(&control, PollFlags::IN), PollFd::new(pidfd, PollFlags::IN)];
        if poll(&mut ready, None).is_err() || !ready[1].revents().is_empty() {
            return;
        }
        let wish = recv(control, &mut *bytes, RecvFlags::empty());
        match wish.map(|(length, _)| decode::<Command>(&bytes[..length])) {
            Ok(Ok(Command::Freeze | Command::Thaw)) => {}
            Ok(_) | Err(_) => {
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
                let mut ended = [PollFd::new(pidfd, PollFlags::IN)];
                let _ = poll(&mut ended, None);
                return;
            }
        }
    }
}
