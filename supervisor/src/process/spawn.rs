//! Starts a child: pipes, and the specification on its way to a launcher that waits for one.
//!
//! Nothing here waits for the child: its first report comes through `Control`.

use std::{
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child as Process, Command, Stdio},
    time::{Duration, Instant},
};

use palisade_launcher::{MessageError, Spec};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{PipeFlags, fcntl_setpipe_size, pipe_with},
    process::{Pid, PidfdFlags, pidfd_open},
};
use tokio::net::unix::pipe;

use super::{
    Control, LauncherImage,
    launchers::{NoLauncher, Waiting},
    message::hand_over,
};
use crate::sandbox::{cgroup::Leaf, lend::Lent};

/// The descriptors that the daemon holds for a running child: four pipes, the control socket, three pidfds (pid 1, the
/// plugin, the launcher), the folder of its leaf cgroup and two files in it that are watched. `doctor` computes from it how
/// many plugins fit.
pub const DESCRIPTORS_PER_CHILD: u64 = 11;

/// A log pipe holds one page: what a plugin prints is read at once, and an ordinary user's pipes are few and small.
const LOG_PIPE_BYTES: usize = 4096;

/// An answer is a few numbers or a sentence.
const ANSWER_BYTES_MAX: u64 = 4096;

/// A launcher gives itself five seconds and then says so; one that takes this long is stopped, or the file system does not answer it.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// One that was killed ends at once, unless it is within a system call that cannot be interrupted.
const DEAD_WITHIN: Duration = Duration::from_secs(1);

/// What to start.
#[derive(Debug)]
pub struct Launch<'a> {
    /// What the child is to be. `leaf` and `interpreter` in it are set here, by what is given below.
    pub spec: Spec,
    /// The verified entry point, opened for reading. It is the program that is executed, unless an interpreter is.
    pub entry: BorrowedFd<'a>,
    /// The interpreter of a script, which is executed in place of the entry point; the arguments of `spec` must name the
    /// script then, as the kernel would.
    pub interpreter: Option<BorrowedFd<'a>>,
    /// The cgroup in which the child is born. It is removed with the child's `Control`.
    pub leaf: Option<Leaf>,
    /// The user of the host that the child runs as, if one was lent. It is given back when nothing of the child is left.
    pub lent: Option<Lent>,
}

/// A child on its way, and the daemon's ends of what connects it.
#[derive(Debug)]
pub struct Child {
    /// Goes to the plugin's descriptor 3.
    pub input: pipe::Sender,
    /// Comes from the plugin's descriptor 4.
    pub output: pipe::Receiver,
    /// Comes from the plugin's descriptor 1.
    pub stdout: pipe::Receiver,
    /// Comes from the plugin's descriptor 2.
    pub stderr: pipe::Receiver,
    /// What becomes of it. Dropping this kills the child.
    pub control: Control,
}

/// Why a child could not even be attempted. Nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The daemon is out of descriptors, memory or processes.
    #[error("{what} could not be made: {source}; the daemon is short of descriptors, memory or processes")]
    Resources {
        /// What was to be made.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// The specification does not fit into a message.
    #[error("the plugin's arguments and environment cannot be handed to the launcher: {0}")]
    Specification(#[from] MessageError),
    /// There is no launcher.
    #[error(transparent)]
    Launcher(#[from] NoLauncher),
}

impl SpawnError {
    fn resources(what: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self::Resources { what, source: errno.into() }
    }
}

/// Starts a child. It runs, or does not, when `Control::next_report` says so.
///
/// Must be called within a tokio runtime whose I/O is enabled. It waits for nothing.
pub fn spawn(waiting: Waiting, launch: Launch<'_>) -> Result<Child, SpawnError> {
    let Launch { mut spec, entry, interpreter, leaf, lent } = launch;
    let listens = spec.listener.is_some();
    spec.leaf = leaf.is_some();
    spec.interpreter = interpreter.is_some();
    let message = palisade_launcher::encode(&spec)?;

    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(SpawnError::resources("a pipe"));
    let (plugin_input, input) = pipe()?;
    let (output, plugin_output) = pipe()?;
    let (stdout, plugin_stdout) = pipe()?;
    let (stderr, plugin_stderr) = pipe()?;
    for log in [&stdout, &stderr] {
        // A pipe that stays large works as well; it only counts more against the user's share.
        let _ = fcntl_setpipe_size(log, LOG_PIPE_BYTES);
    }
    let mut descriptors =
        vec![entry, plugin_input.as_fd(), plugin_output.as_fd(), plugin_stdout.as_fd(), plugin_stderr.as_fd()];
    descriptors.extend(leaf.as_ref().map(AsFd::as_fd));
    descriptors.extend(interpreter);
    let Waiting { socket, launcher, greeting } = waiting;
    match hand_over(&socket, &message, &descriptors) {
        // One that has ended meanwhile is found out by its control, with what it said before.
        Ok(()) | Err(Errno::PIPE | Errno::CONNRESET) => {}
        Err(errno) => return Err(SpawnError::resources("the message to the launcher")(errno)),
    }
    drop((plugin_input, plugin_output, plugin_stdout, plugin_stderr));

    let tokio_end = |what| move |source| SpawnError::Resources { what, source };
    let input = pipe::Sender::from_owned_fd(input).map_err(tokio_end("the plugin's input"))?;
    let output = pipe::Receiver::from_owned_fd(output).map_err(tokio_end("the plugin's output"))?;
    let stdout = pipe::Receiver::from_owned_fd(stdout).map_err(tokio_end("the plugin's stdout"))?;
    let stderr = pipe::Receiver::from_owned_fd(stderr).map_err(tokio_end("the plugin's stderr"))?;
    let control = Control::new(socket, launcher, greeting, leaf, lent, listens);
    Ok(Child { input, output, stdout, stderr, control })
}

/// Has a launcher answer one question about a folder, waits for it within a bound, and returns its words.
#[expect(clippy::disallowed_methods, reason = "this and `launchers` are where the daemon starts a process")]
pub(super) fn ask_launcher(image: &LauncherImage, folder: OwnedFd, words: &[String]) -> io::Result<Vec<u8>> {
    let mut command = Command::new(image.path());
    command.arg("--quota").args(words).arg0("palisade-launcher").env_clear().process_group(0);
    command.stdin(Stdio::from(folder)).stdout(Stdio::piped()).stderr(Stdio::inherit());
    answer_of(command.spawn()?, ANSWER_WITHIN)
}

/// What a process has said when it has ended, which fits into its pipe. One that has not ended by then is killed.
fn answer_of(mut process: Process, within: Duration) -> io::Result<Vec<u8>> {
    let end = match pidfd_open(Pid::from_child(&process), PidfdFlags::empty()) {
        Ok(end) => end,
        Err(errno) => {
            process.kill()?;
            process.wait()?;
            return Err(errno.into());
        }
    };
    let ended = has_ended(&end, within);
    if !matches!(ended, Ok(true)) {
        process.kill()?;
        if !has_ended(&end, DEAD_WITHIN)? {
            // It stays a child of this process, and is not waited for: that could take as long as the system call.
            let reason = format!("it did not answer within {within:?}, was killed, and does not end");
            return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
        }
    }
    let status = process.wait()?;
    if !ended? {
        let reason = format!("it did not answer within {within:?}, and was killed");
        return Err(io::Error::new(io::ErrorKind::TimedOut, reason));
    }
    let mut answer = Vec::new();
    if let Some(output) = process.stdout.take() {
        output.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
    }
    if status.success() { Ok(answer) } else { Err(io::Error::other(format!("it ended with {status}"))) }
}

/// Whether the process behind a pidfd ends within this time.
fn has_ended(pidfd: &OwnedFd, within: Duration) -> io::Result<bool> {
    let until = Instant::now() + within;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout)) {
            Ok(ready) => return Ok(ready != 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[expect(clippy::disallowed_methods, reason = "a test is not the daemon")]
    fn shell(script: &str) -> Process {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    }

    #[test]
    fn an_answer_is_what_was_said_by_one_that_ended_well() {
        let patience = Duration::from_secs(60);
        assert_eq!(answer_of(shell("echo yes"), patience).unwrap(), b"yes\n");
        let error = answer_of(shell("echo yes; exit 3"), patience).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
    }

    /// It says something, even, and goes on until its input ends, which is when it is waited for.
    #[test]
    fn one_that_does_not_end_is_killed_and_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let lived = folder.path().join("lived");
        let process = shell(&format!("echo yes; read line; echo >{}", lived.display()));
        let pid = Pid::from_child(&process);
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn(move || tell.send(answer_of(process, Duration::from_millis(50))));
        let error = told.recv_timeout(Duration::from_secs(60)).expect("it is bounded").unwrap_err();
        assert!(!lived.exists(), "it was not killed");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "it did not answer within 50ms, and was killed");
        assert_eq!(rustix::process::test_kill_process(pid), Err(Errno::SRCH));
    }
}
