//! What the daemon and its launcher say to each other.
//!
//! The daemon decides everything about a child beforehand and sends it as one `Spec`, with the descriptors the child
//! needs; the launcher performs it and answers with `Report`s. Both travel as MessagePack maps, one datagram each, over
//! a `SOCK_SEQPACKET` pair whose launcher end is descriptor 0. The closing of the daemon's end is the lifeline: a
//! launcher that sees it kills the tree and leaves. A zygote, of which launchers are copies, has a socket of the same kind
//! for `Wanted` and `Born`.
//!
//! Invariants: no message exceeds `MESSAGE_BYTES_MAX`; daemon and launcher of different sources refuse each other by
//! `BUILD_ID` before either believes anything else the other says.
//! Elsewhere: performing a `Spec` is the program beside this library; deciding one is the daemon's `sandbox`.

#![forbid(unsafe_code)]

mod report;
mod spec;

pub use report::{Denied, End, Failure, Report, Step, Usage};
pub use spec::{
    Attributes, BoundBy, IdMap, Landlock, Limit, MadeUp, Mount, Namespaces, PathRule, PortRule, Resource, Root,
    Setting, Source, Spec, UserMap, Watchers,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::fmt;

/// Version and hash of the sources that this was built from.
pub const BUILD_ID: &str = env!("PALISADE_LAUNCHER_BUILD_ID");

/// No message is larger: a datagram of this size fits into a socket's buffer as every Linux sets it up by default.
pub const MESSAGE_BYTES_MAX: usize = 128 * 1024;

/// A file that the daemon's probe puts where nothing but Landlock keeps it from being read.
pub const TRIAL_FILE: &std::ffi::CStr = c"/trial";

/// In the environment of a launcher that is to be a zygote, with [`MODE_ZYGOTE`]. Copies have its arguments, which people see when they
/// list processes.
pub const MODE_VARIABLE: &str = "PALISADE_LAUNCHER";
/// See [`MODE_VARIABLE`].
pub const MODE_ZYGOTE: &str = "zygote";

/// The most descriptors that travel with one message.
pub const DESCRIPTORS_MAX: usize = 8;

/// How long the news of a refused system call may wait for more of it.
pub const REFUSALS_TOLD_WITHIN: std::time::Duration = std::time::Duration::from_millis(50);

/// The disk quota of a folder, as the kernel has it: what a launcher answers that was started with `--quota`, or a sentence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// The project of its file system that the folder is.
    pub project: u32,
    /// How much it may take.
    pub kib: u64,
    /// How many files and folders there may be, itself among them.
    pub files: u64,
    /// How much it takes.
    pub used_bytes: u64,
    /// How many there are.
    pub used_files: u64,
}

/// What the daemon asks of a running launcher.
///
/// `Freeze` and `Thaw` are for hosts without a cgroup: with one, the daemon freezes the leaf itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Stop every process of the tree.
    Freeze,
    /// Let every process of the tree run on.
    Thaw,
    /// Kill the whole tree, frozen or not.
    Kill,
}

/// What the daemon asks of a zygote: a copy of itself, to which the socket belongs that travels with this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// A launcher that waits for its specification.
    Launcher,
    /// One that prepares what it can before it waits.
    Prepared,
}

/// What a zygote answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Born {
    /// There is a copy, a child of the daemon. Its pidfd travels with this.
    Launcher {
        /// Its number.
        pid: u32,
    },
    /// There is none.
    Nobody {
        /// Why the kernel refused one.
        errno: i32,
    },
}

/// A message that cannot be sent, or was not understood.
#[derive(Debug)]
pub enum MessageError {
    /// It exceeds `MESSAGE_BYTES_MAX`.
    TooLong {
        /// Its size in bytes.
        bytes: usize,
    },
    /// It cannot be put into bytes, or the bytes are no such message.
    Malformed(String),
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong { bytes } => write!(f, "a message of {bytes} bytes exceeds the {MESSAGE_BYTES_MAX} allowed"),
            Self::Malformed(reason) => write!(f, "malformed message: {reason}"),
        }
    }
}

impl std::error::Error for MessageError {}

/// Puts a message into the bytes of one datagram.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, MessageError> {
    let bytes = rmp_serde::to_vec_named(message).map_err(|error| MessageError::Malformed(error.to_string()))?;
    if MESSAGE_BYTES_MAX < bytes.len() {
        return Err(MessageError::TooLong { bytes: bytes.len() });
    }
    Ok(bytes)
}

/// Reads the message in the bytes of one datagram.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, MessageError> {
    if MESSAGE_BYTES_MAX < bytes.len() {
        return Err(MessageError::TooLong { bytes: bytes.len() });
    }
    rmp_serde::from_slice(bytes).map_err(|error| MessageError::Malformed(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> Spec {
        let mut spec = Spec::new(c"/".to_owned());
        spec.arguments = vec![c"plugin".to_owned(), c"--flag".to_owned()];
        spec.environment = vec![c"HOME=/data".to_owned()];
        spec.user_namespace = Some(UserMap { inside_uid: 1000, outside_uid: 65534, inside_gid: 1000, outside_gid: 7 });
        spec.limits = vec![Limit { resource: Resource::Descriptors, soft: Some(1024), hard: None }];
        spec.namespaces.network = true;
        spec.listener = Some(3128);
        spec.hostname = Some(c"plugin".to_owned());
        spec.watchers = Some(Watchers { instances: 8, watches: 4096 });
        let setting =
            |name: &std::ffi::CStr, value: &std::ffi::CStr| Setting { name: name.to_owned(), value: value.to_owned() };
        spec.root = Some(Root {
            options: vec![setting(c"size", c"1m")],
            folders: vec![c"etc".to_owned()],
            files: vec![MadeUp { path: c"etc/hosts".to_owned(), contents: c"127.0.0.1 localhost\n".to_owned() }],
            links: vec![],
            mounts: vec![Mount {
                target: c"data".to_owned(),
                source: Source::Bind {
                    path: c"/var/lib/palisade/data/x".to_owned(),
                    idmap: Some(IdMap { disk_uid: 0, host_uid: 7, disk_gid: 0, host_gid: 8 }),
                },
                attributes: Attributes { no_exec: true, ..Attributes::default() },
                optional: false,
            }],
            bound_by: BoundBy::Launcher,
            entry: Some(c"plugin/main".to_owned()),
            interpreter: None,
        });
        spec.landlock = Some(Landlock {
            handled_fs: 1,
            handled_net: 2,
            scoped: 3,
            rules: vec![PathRule { path: c"/usr".to_owned(), rights: 5, optional: false }],
            ports: vec![PortRule { port: 3128, rights: 2 }],
        });
        spec
    }

    #[test]
    fn a_spec_arrives_as_it_was_sent() {
        let mut sent = spec();
        for filter in [None, Some(vec![0, 0xff, 7])] {
            sent.seccomp = filter;
            let bytes = encode(&sent).unwrap();
            assert_eq!(decode::<Spec>(&bytes).unwrap(), sent);
        }
    }

    /// The longest filter that a kernel takes, as bytes and not as a list of numbers, leaves room for the rest.
    #[test]
    fn the_longest_filter_fits_into_a_message() {
        let mut sent = spec();
        sent.seccomp = Some(vec![0xff; 4096 * 8]);
        assert!(encode(&sent).unwrap().len() < 34 * 1024);
    }

    /// The build id must be readable even where the rest of the message has another shape.
    #[test]
    fn the_build_id_is_found_in_a_spec_of_another_shape() {
        #[derive(Serialize)]
        struct Foreign {
            build_id: &'static str,
            arguments: u8,
            novelty: [u8; 3],
        }
        let bytes = encode(&Foreign { build_id: "another", arguments: 1, novelty: [1, 2, 3] }).unwrap();
        assert!(decode::<Spec>(&bytes).is_err());
        assert_eq!(Spec::build_id_of(&bytes).unwrap(), "another");
    }

    #[test]
    fn a_message_beyond_the_bound_is_refused_on_both_sides() {
        let mut long = spec();
        long.arguments = vec![std::ffi::CString::new(vec![b'a'; MESSAGE_BYTES_MAX]).unwrap()];
        assert!(matches!(encode(&long), Err(MessageError::TooLong { .. })));
        assert!(matches!(decode::<Spec>(&vec![0; MESSAGE_BYTES_MAX + 1]), Err(MessageError::TooLong { .. })));
    }

    #[test]
    fn garbage_is_an_error_and_not_a_message() {
        for bytes in [&b""[..], b"\xc1", b"\x80", b"\xdf\xff\xff\xff\xff", b"\xa6Freeze\x00trailing"] {
            assert!(decode::<Spec>(bytes).is_err());
        }
        assert!(decode::<Command>(b"\xa4Melt").is_err());
        assert_eq!(decode::<Command>(&encode(&Command::Thaw).unwrap()).unwrap(), Command::Thaw);
    }

    #[test]
    fn an_argument_with_a_nul_byte_is_refused() {
        #[derive(Serialize)]
        struct Loose {
            build_id: &'static str,
            arguments: Vec<String>,
        }
        let bytes = encode(&Loose { build_id: BUILD_ID, arguments: vec!["a\0b".into()] }).unwrap();
        assert!(decode::<Spec>(&bytes).is_err());
    }

    #[test]
    fn every_step_has_a_number_of_its_own() {
        for (index, step) in Step::ALL.iter().enumerate() {
            assert_eq!(*step as usize, index, "{step}");
            assert_eq!(Step::from_number(index as u8), Some(*step));
        }
        assert_eq!(Step::from_number(Step::ALL.len() as u8), None);
    }

    #[test]
    fn the_descriptors_are_counted_with_the_optional_ones() {
        let mut spec = spec();
        assert_eq!(spec.descriptors(), 5);
        spec.leaf = true;
        spec.interpreter = true;
        assert_eq!(spec.descriptors(), 7);
        assert!(spec.descriptors() <= DESCRIPTORS_MAX);
    }
}
