//! One child, decided: what the launcher is to start, and how.
//!
//! Everything here was chosen by the daemon; the launcher asks no file and no environment variable for more. The
//! descriptors that belong to a `Spec` travel beside it in this order: the entry point, the child's descriptor 3, its
//! descriptor 4, its stdout, its stderr, then the leaf cgroup's folder if `leaf`, then the interpreter if `interpreter`.
//!
//! Elsewhere: steps of the confinement add their part here and their code to the launcher.

use crate::{BUILD_ID, MessageError};
use serde::{Deserialize, Serialize};
use std::ffi::CString;

/// What the launcher is to start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// `BUILD_ID` of the sender; a launcher of another build refuses.
    pub build_id: String,
    /// The argument vector, the name of the program included.
    pub arguments: Vec<CString>,
    /// The whole environment, as `NAME=value`; nothing is added to it.
    pub environment: Vec<CString>,
    /// The working directory.
    pub directory: CString,
    /// A user namespace of its own with this map, or the daemon's.
    pub user_namespace: Option<UserMap>,
    /// Resource limits, set in this order.
    pub limits: Vec<Limit>,
    /// The least `oom_score_adj` that the child gets; an inherited higher one stays.
    pub oom_score_adj: i16,
    /// A leaf cgroup's folder is among the descriptors, and the child is to be born in it.
    pub leaf: bool,
    /// An interpreter is among the descriptors and is executed in place of the entry point, which it reads as a file.
    pub interpreter: bool,
}

impl Spec {
    /// A child without arguments, environment, limits or namespaces beyond the pid namespace, in `directory`.
    pub fn new(directory: CString) -> Self {
        Self {
            build_id: BUILD_ID.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory,
            user_namespace: None,
            limits: Vec::new(),
            oom_score_adj: 0,
            leaf: false,
            interpreter: false,
        }
    }

    /// How many descriptors travel with this.
    pub fn descriptors(&self) -> usize {
        5 + usize::from(self.leaf) + usize::from(self.interpreter)
    }

    /// The build id of a specification whose other fields this build may not understand.
    pub fn build_id_of(bytes: &[u8]) -> Result<String, MessageError> {
        #[derive(Deserialize)]
        struct Head {
            build_id: String,
        }
        crate::decode::<Head>(bytes).map(|head| head.build_id)
    }
}

/// One user and one group on both sides of a user namespace; an ordinary user can map no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserMap {
    /// The user id that the child sees as its own.
    pub inside_uid: u32,
    /// The user id that it has on the host.
    pub outside_uid: u32,
    /// The group id that the child sees as its own.
    pub inside_gid: u32,
    /// The group id that it has on the host.
    pub outside_gid: u32,
}

/// A resource limit; `None` is "unlimited".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What is limited.
    pub resource: Resource,
    /// The limit that the kernel applies.
    pub soft: Option<u64>,
    /// How far the child itself may raise it.
    pub hard: Option<u64>,
}

/// What `setrlimit` limits, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Resource {
    /// `RLIMIT_AS`: address space, in bytes.
    AddressSpace,
    /// `RLIMIT_CORE`: a core file, in bytes.
    Core,
    /// `RLIMIT_CPU`: processor time, in seconds.
    CpuSeconds,
    /// `RLIMIT_DATA`: private writable memory, in bytes.
    Data,
    /// `RLIMIT_NOFILE`: open descriptors.
    Descriptors,
    /// `RLIMIT_FSIZE`: a file written, in bytes.
    FileSize,
    /// `RLIMIT_MEMLOCK`: locked memory, in bytes.
    LockedMemory,
    /// `RLIMIT_MSGQUEUE`: POSIX message queues, in bytes.
    MessageQueues,
    /// `RLIMIT_NPROC`: processes of the user (not of the tree).
    Processes,
    /// `RLIMIT_SIGPENDING`: queued signals.
    QueuedSignals,
    /// `RLIMIT_RTPRIO`: real-time priority.
    RealtimePriority,
    /// `RLIMIT_STACK`: the main thread's stack, in bytes.
    Stack,
}
