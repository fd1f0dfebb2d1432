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
    /// A user namespace of its own with this map, in which the child has the inner ids; or the daemon's.
    pub user_namespace: Option<UserMap>,
    /// Further namespaces of its own.
    pub namespaces: Namespaces,
    /// The host's name in a UTS namespace of its own, or the daemon's namespace.
    pub hostname: Option<CString>,
    /// How many watchers of files (inotify) its user namespace may have, of those that the daemon's user may have; or all of them.
    pub watchers: Option<Watchers>,
    /// A port on loopback in its own network namespace at which the daemon listens. The listener is handed over as soon as
    /// the child has started; nothing of the tree keeps it.
    pub listener: Option<u16>,
    /// A root of its own in a mount namespace of its own, or the daemon's.
    pub root: Option<Root>,
    /// Resource limits, set in this order.
    pub limits: Vec<Limit>,
    /// The least `oom_score_adj` that the child gets; an inherited higher one stays.
    pub oom_score_adj: i16,
    /// All capabilities are given up, for good: the bounding set is emptied, and no program gives any back.
    pub powerless: bool,
    /// The Landlock rules that the child enters, or none.
    pub landlock: Option<Landlock>,
    /// A system call filter, installed last: an array of the kernel's `struct sock_filter` as it lies in memory.
    #[serde(with = "bytes")]
    pub seccomp: Option<Vec<u8>>,
    /// The filter asks about each exec; the one that makes the child the plugin is let through, and no other.
    pub exec_once: bool,
    /// Where refused system calls are written down: the filter that refuses by itself what `seccomp` asks about. pid 1 gives each
    /// the errno that this one gives.
    #[serde(with = "bytes")]
    pub denials: Option<Vec<u8>>,
    /// A leaf cgroup's folder is among the descriptors, and the child is to be born in it.
    pub leaf: bool,
    /// An interpreter is among the descriptors and is executed in place of the entry point, which it reads as a file.
    pub interpreter: bool,
}

impl Spec {
    /// A child without arguments, environment, limits or any confinement beyond a pid namespace, in `directory`.
    pub fn new(directory: CString) -> Self {
        Self {
            build_id: BUILD_ID.to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory,
            user_namespace: None,
            namespaces: Namespaces::default(),
            hostname: None,
            watchers: None,
            listener: None,
            root: None,
            limits: Vec::new(),
            oom_score_adj: 0,
            powerless: false,
            landlock: None,
            seccomp: None,
            exec_once: false,
            denials: None,
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

/// How much of inotify a user namespace may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watchers {
    /// So many descriptors.
    pub instances: u32,
    /// So many files and folders that are watched.
    pub watches: u32,
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

/// Namespaces that need nothing said about them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// A network with nothing in it but a loopback device, which is up.
    pub network: bool,
    /// System V objects and POSIX message queues.
    pub ipc: bool,
    /// The cgroup that the child is in is the root of what it sees.
    pub cgroup: bool,
}

/// A root file system made for one child. All paths in it are relative to the new root, without a slash in front.
///
/// The root itself is a small file system in memory, read-only once everything stands in it. It is put together in this
/// order: folders, files, links, mounts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Options of the `tmpfs` that everything stands in.
    pub options: Vec<Setting>,
    /// Folders, each after the one that it lies in.
    pub folders: Vec<CString>,
    /// Made-up files.
    pub files: Vec<MadeUp>,
    /// Symbolic links, whose contents are where they lead.
    pub links: Vec<MadeUp>,
    /// What is mounted, in this order. Where something is mounted is made first, if it is not there.
    pub mounts: Vec<Mount>,
    /// Who takes what is bound from the host's tree.
    pub bound_by: BoundBy,
    /// Where the entry point lies. It is opened there again, and must be the very file that the descriptor leads to.
    /// `None`: the file behind the descriptor is executed, wherever it lies.
    pub entry: Option<CString>,
    /// Where the interpreter lies, if there is one; it is held to the same.
    pub interpreter: Option<CString>,
}

/// A file or link that the launcher makes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MadeUp {
    /// Where.
    pub path: CString,
    /// What stands in it.
    pub contents: CString,
}

/// An option of a file system, as in `size=1m`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// Its name.
    pub name: CString,
    /// Its value.
    pub value: CString,
}

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Where.
    pub target: CString,
    /// What.
    pub source: Source,
    /// What cannot be done there.
    pub attributes: Attributes,
    /// It is left out if its source does not exist.
    pub optional: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A folder or file of the host, with all that is mounted beneath it.
    Bind {
        /// Where it is on the host.
        path: CString,
        /// Its owner on the disk (the first of the two), seen and written as another user of the host: what is mounted
        /// beneath is left out then.
        idmap: Option<IdMap>,
    },
    /// A folder or file of the host that the operator granted. No symbolic link is followed on the way to it, and what is
    /// mounted beneath is left out. Where it is to stand is made first, with all the folders above it.
    Granted {
        /// Where it is on the host.
        path: CString,
        /// Whoever owns it on the disk is this user and group of the host while it is mounted: the two numbers.
        owner: Option<(u32, u32)>,
    },
    /// A new file system.
    New {
        /// Which kind, as in `tmpfs`.
        kind: CString,
        /// Its options.
        options: Vec<Setting>,
    },
}

/// One user and one group of a file system, and who they are while it is mounted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    /// The owner on the disk.
    pub disk_uid: u32,
    /// Who that is, as the host counts.
    pub host_uid: u32,
    /// The group on the disk.
    pub disk_gid: u32,
    /// Which that is, as the host counts.
    pub host_gid: u32,
}

/// Attributes of a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes {
    /// Nothing can be written.
    pub read_only: bool,
    /// Nothing can be executed.
    pub no_exec: bool,
    /// Devices are not devices.
    pub no_dev: bool,
}

/// Who takes what is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BoundBy {
    /// The launcher, with the rights of root over the host's mounts, before there is a namespace.
    Launcher,
    /// pid 1, in its namespaces: it reaches what the daemon's user reaches, and cannot map ids.
    Init,
}

/// A Landlock rule set, in the kernel's own bits: what the probe found this kernel to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Landlock {
    /// The rights over files that are denied unless a rule gives them.
    pub handled_fs: u64,
    /// The rights over the network that are denied.
    pub handled_net: u64,
    /// What does not leave the child's domain.
    pub scoped: u64,
    /// Rights over what lies beneath a path of the child's own tree.
    pub rules: Vec<PathRule>,
    /// Rights over single ports.
    pub ports: Vec<PortRule>,
}

/// Rights over everything beneath a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRule {
    /// A folder as the child sees it, with a slash in front.
    pub path: CString,
    /// What is given.
    pub rights: u64,
    /// It is left out if there is no such path.
    pub optional: bool,
}

/// Rights over one TCP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRule {
    /// Which.
    pub port: u16,
    /// What is given.
    pub rights: u64,
}

/// Bytes as MessagePack has them, not as a list of numbers.
mod bytes {
    use serde::{
        Deserializer, Serialize, Serializer,
        de::{Error, Visitor},
    };
    use std::fmt;

    struct Raw<'a>(&'a [u8]);

    impl Serialize for Raw<'_> {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_bytes(self.0)
        }
    }

    pub(super) fn serialize<S: Serializer>(value: &Option<Vec<u8>>, serializer: S) -> Result<S::Ok, S::Error> {
        value.as_deref().map(Raw).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<u8>>, D::Error> {
        struct Optional;
        impl<'de> Visitor<'de> for Optional {
            type Value = Option<Vec<u8>>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes, or nothing")
            }

            fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(None)
            }

            fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
                deserializer.deserialize_bytes(self)
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
                Ok(Some(bytes.to_vec()))
            }

            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Self::Value, E> {
                Ok(Some(bytes))
            }
        }
        deserializer.deserialize_option(Optional)
    }
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
