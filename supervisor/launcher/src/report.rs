//! What the launcher says: that it is the right one, that the child runs, why it does not, how it ended.
//!
//! `Hello` comes first and alone has to be understood by every build. `Failed` and `Exited` are final, and are sent
//! after pid 1 has been waited for: at that moment no process of the tree is left.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One message of the launcher.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The first message, sent before anything is read.
    Hello {
        /// `BUILD_ID` of the sender.
        build_id: String,
        /// Its process number.
        #[serde(default)]
        pid: u32,
    },
    /// What can be done before there is a specification is done. Only a launcher that was started to prepare says it, once.
    Prepared,
    /// The child has executed its program. With it travel the pidfd of pid 1 and the pidfd of the child, in this order,
    /// and behind them the listener, if the specification asked for one.
    Started,
    /// The child was refused a system call, once more or for the first time. It may be said again with a higher count.
    Denied(Denied),
    /// The child could not be started; nothing of it is left.
    Failed(Failure),
    /// The child ran and is gone, with everything it started.
    Exited {
        /// How its main process ended.
        end: End,
        /// What the whole tree used.
        usage: Usage,
    },
}

/// A system call that was refused, and how often so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denied {
    /// Its number, or [`Denied::OTHERS`].
    pub number: u32,
    /// What it got.
    pub errno: u16,
    /// How often.
    pub count: u64,
    /// Its arguments the first time.
    pub arguments: [u64; 6],
}

impl Denied {
    /// The number of all those together for which there was no room.
    pub const OTHERS: u32 = u32::MAX;
}

/// Why a child could not be started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The step that did not hold.
    pub step: Step,
    /// The error number of the system call behind it, 0 where there was none.
    pub errno: i32,
    /// A sentence that says what happened and what can be done about it.
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.message)
    }
}

/// The steps on the way to a running child, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Step {
    /// Reading what is to be done, and recognising who asks.
    Specification,
    /// Descriptors 0 to 4 in place, and no other.
    Descriptors,
    /// A user namespace with its map.
    UserNamespace,
    /// pid 1 of a new pid namespace, in the leaf cgroup where there is one.
    PidNamespace,
    /// A mount namespace.
    MountNamespace,
    /// A network namespace with its loopback device.
    NetworkNamespace,
    /// A listener of the daemon's in that namespace.
    Listener,
    /// A namespace of System V objects and message queues.
    IpcNamespace,
    /// A host name of its own.
    Hostname,
    /// The bound of its watchers of files.
    Watchers,
    /// A folder or file of the host that is to be bound, taken from its tree.
    Bind,
    /// pid 1's own preparations.
    Init,
    /// The user and group that the plugin runs as.
    Identity,
    /// A cgroup namespace.
    CgroupNamespace,
    /// The file system that the private root stands in, and what is made up in it.
    PrivateRoot,
    /// Something mounted in the private root.
    Mount,
    /// The exchange of the old root for the private one.
    PivotRoot,
    /// The entry point and its interpreter, found again beneath the private root.
    EntryPoint,
    /// The process that becomes the plugin.
    Process,
    /// A session and a process group of its own.
    Session,
    /// The preference of the kernel when memory runs out.
    OomScore,
    /// The working directory.
    Directory,
    /// Resource limits.
    Limits,
    /// The end of all capabilities.
    Capabilities,
    /// `no_new_privs`.
    NoNewPrivileges,
    /// Landlock rules.
    Landlock,
    /// The system call filter.
    Seccomp,
    /// Execution of the verified file.
    Exec,
}

impl Step {
    /// Every step, at the index that is its number.
    pub const ALL: [Self; 28] = [
        Self::Specification,
        Self::Descriptors,
        Self::UserNamespace,
        Self::PidNamespace,
        Self::MountNamespace,
        Self::NetworkNamespace,
        Self::Listener,
        Self::IpcNamespace,
        Self::Hostname,
        Self::Watchers,
        Self::Bind,
        Self::Init,
        Self::Identity,
        Self::CgroupNamespace,
        Self::PrivateRoot,
        Self::Mount,
        Self::PivotRoot,
        Self::EntryPoint,
        Self::Process,
        Self::Session,
        Self::OomScore,
        Self::Directory,
        Self::Limits,
        Self::Capabilities,
        Self::NoNewPrivileges,
        Self::Landlock,
        Self::Seccomp,
        Self::Exec,
    ];

    /// The step with this number, as it travels between the launcher's own processes.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Whether a failure of it means that this host does not confine as was asked; the others are about the program.
    pub fn is_confinement(self) -> bool {
        match self {
            Self::UserNamespace
            | Self::PidNamespace
            | Self::MountNamespace
            | Self::NetworkNamespace
            | Self::Listener
            | Self::IpcNamespace
            | Self::Hostname
            | Self::Watchers
            | Self::Bind
            | Self::Identity
            | Self::CgroupNamespace
            | Self::PrivateRoot
            | Self::Mount
            | Self::PivotRoot
            | Self::Capabilities
            | Self::NoNewPrivileges
            | Self::Landlock
            | Self::Seccomp => true,
            Self::Specification
            | Self::Descriptors
            | Self::Init
            | Self::EntryPoint
            | Self::Process
            | Self::Session
            | Self::OomScore
            | Self::Directory
            | Self::Limits
            | Self::Exec => false,
        }
    }

    /// The name used in logs, status and documentation.
    pub fn name(self) -> &'static str {
        match self {
            Self::Specification => "specification",
            Self::Descriptors => "descriptors",
            Self::UserNamespace => "user namespace",
            Self::PidNamespace => "pid namespace",
            Self::MountNamespace => "mount namespace",
            Self::NetworkNamespace => "network namespace",
            Self::Listener => "listener",
            Self::IpcNamespace => "ipc namespace",
            Self::Hostname => "hostname",
            Self::Watchers => "watchers",
            Self::Bind => "bind",
            Self::Init => "init",
            Self::Identity => "identity",
            Self::CgroupNamespace => "cgroup namespace",
            Self::PrivateRoot => "private root",
            Self::Mount => "mount",
            Self::PivotRoot => "pivot root",
            Self::EntryPoint => "entry point",
            Self::Process => "process",
            Self::Session => "session",
            Self::OomScore => "oom score",
            Self::Directory => "working directory",
            Self::Limits => "limits",
            Self::Capabilities => "capabilities",
            Self::NoNewPrivileges => "no new privileges",
            Self::Landlock => "landlock",
            Self::Seccomp => "seccomp",
            Self::Exec => "exec",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the main process of a tree ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether a core was dumped.
        core_dumped: bool,
    },
    /// pid 1 was gone before it could say how the main process ended, and took the tree with it.
    InitLost {
        /// The signal that ended pid 1, 0 if it was none.
        signal: i32,
        /// The code with which it ended, 0 if a signal did it.
        code: i32,
    },
}

/// What a tree used, as the kernel accounted it to the waiting parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Processor time in user mode, in microseconds.
    pub user_us: u64,
    /// Processor time in the kernel, in microseconds.
    pub system_us: u64,
    /// The largest resident set that any one process of the tree had.
    pub rss_bytes_max: u64,
}
