//! Why a call brought no result: one variant per thing the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use palisade_protocol::{ErrorBody, ErrorCode};

/// What the system has room for in a socket's address.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Why a call, or a connection, failed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// Nobody answers at the socket: the daemon does not run, or listens elsewhere. Nothing was sent.
    #[error("{}", NotReachable { path, kind: *kind, detail, absent })]
    NotReachable {
        /// The socket that was tried.
        path: PathBuf,
        /// What the system said, in kind.
        kind: io::ErrorKind,
        /// What the system said, in words.
        detail: String,
        /// Where else it would have been looked for, and no socket is: nobody had said which.
        absent: Vec<PathBuf>,
    },
    /// The supervisor would not go on with this connection.
    #[error("the daemon refused the connection: {}", .0.message)]
    Refused(Box<ErrorBody>),
    /// The call reached the supervisor and ended with this error.
    #[error("{}", .0.message)]
    Remote(Box<ErrorBody>),
    /// No answer came within the call's time and the grace after it. The supervisor was asked to cancel, unless nothing had
    /// been sent.
    #[error("no answer within {}", Seconds(*after))]
    TimedOut {
        /// How long the call could take.
        after: Duration,
    },
    /// The connection ended before the answer came.
    #[error("the connection to the daemon was lost: {reason}")]
    Lost {
        /// What ended it.
        reason: String,
        /// Whether the call had been sent, so that its work may have been done.
        sent: bool,
    },
    /// The answer is not what the caller asked for, or no MessagePack at all.
    #[error("the {what} cannot be read: {detail}")]
    Decode {
        /// What was to be decoded: `result`, `item`.
        what: &'static str,
        /// What is wrong with it.
        detail: String,
    },
    /// The request cannot be sent as it is: parameters that MessagePack cannot hold, or that are too large. Nothing was sent.
    #[error("{detail}")]
    Invalid {
        /// What is wrong with it.
        detail: String,
    },
}

impl CallError {
    /// The code of the taxonomy that comes closest; for errors of the supervisor and of plugins, their own.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::NotReachable { kind: io::ErrorKind::PermissionDenied, .. } => ErrorCode::PermissionDenied,
            Self::NotReachable { .. } | Self::Lost { .. } => ErrorCode::Unavailable,
            Self::Refused(body) | Self::Remote(body) => body.code,
            Self::TimedOut { .. } => ErrorCode::Timeout,
            Self::Decode { .. } => ErrorCode::ProtocolViolation,
            Self::Invalid { .. } => ErrorCode::InvalidParams,
        }
    }

    /// What the person at the keyboard can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotReachable { path, kind, .. } => Some(reach_hint(path, *kind)),
            Self::Refused(body) | Self::Remote(body) => body.hint.clone(),
            Self::TimedOut { .. } => Some("give it more time, or look at what the plugin is doing in its logs".into()),
            Self::Lost { sent: true, .. } => {
                Some("the call may have been carried out; check before repeating it".into())
            }
            Self::Lost { sent: false, .. } => Some("nothing had been sent; it is safe to repeat".into()),
            Self::Decode { .. } => Some("take the result as `Raw` to see what came".into()),
            Self::Invalid { .. } => None,
        }
    }

    /// The error as the supervisor or the plugin gave it, if one of them did.
    #[must_use]
    pub fn body(&self) -> Option<&ErrorBody> {
        match self {
            Self::Refused(body) | Self::Remote(body) => Some(body),
            _ => None,
        }
    }

    /// Whether the same request may succeed later without change, as far as is known. A call that may have been carried out
    /// counts as not retryable: only its caller knows whether twice is as good as once.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NotReachable { kind, .. } => {
                !matches!(kind, io::ErrorKind::PermissionDenied | io::ErrorKind::InvalidInput)
            }
            Self::Refused(body) | Self::Remote(body) => body.retryable,
            Self::Lost { sent, .. } => !sent,
            Self::TimedOut { .. } => true,
            Self::Decode { .. } | Self::Invalid { .. } => false,
        }
    }

    pub(crate) fn not_reachable(path: &Path, error: &io::Error) -> Self {
        // For the system a folder is a socket that nobody listens at.
        let is_something_else =
            || path.metadata().is_ok_and(|found| !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()));
        let (kind, detail) = match error.kind() {
            io::ErrorKind::InvalidInput if SOCKET_PATH_BYTES_MAX < path.as_os_str().len() => {
                (error.kind(), format!("a socket's path has at most {SOCKET_PATH_BYTES_MAX} bytes"))
            }
            io::ErrorKind::ConnectionRefused if is_something_else() => {
                // A socket may yet take its place.
                (io::ErrorKind::AddrInUse, "it is no socket".to_owned())
            }
            kind => (kind, error.to_string()),
        };
        Self::NotReachable { path: path.to_owned(), kind, detail, absent: Vec::new() }
    }

    /// The same where there was no socket at any of these.
    pub(crate) fn nor_at(mut self, others: &[PathBuf]) -> Self {
        if let Self::NotReachable { absent, .. } = &mut self {
            others.clone_into(absent);
        }
        self
    }

    pub(crate) fn invalid(detail: impl Into<String>) -> Self {
        Self::Invalid { detail: detail.into() }
    }
}

struct NotReachable<'a> {
    path: &'a Path,
    kind: io::ErrorKind,
    detail: &'a str,
    absent: &'a [PathBuf],
}

impl std::fmt::Display for NotReachable<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = self.path.display();
        match self.kind {
            io::ErrorKind::NotFound => {
                write!(f, "no daemon is running: there is no socket at {path}")?;
                return self.absent.iter().try_for_each(|other| write!(f, ", nor at {}", other.display()));
            }
            io::ErrorKind::ConnectionRefused => {
                write!(f, "no daemon is running: nobody listens at {path}, which a dead one may have left behind")
            }
            io::ErrorKind::InvalidInput | io::ErrorKind::AddrInUse => {
                write!(f, "{path} cannot be the daemon's socket: {}", self.detail)
            }
            io::ErrorKind::PermissionDenied => write!(f, "this user may not use the socket {path}"),
            _ => write!(f, "cannot reach the daemon at {path}: {}", self.detail),
        }?;
        self.absent.iter().try_for_each(|other| write!(f, "; there is no socket at {}", other.display()))
    }
}

fn reach_hint(path: &Path, kind: io::ErrorKind) -> String {
    match kind {
        io::ErrorKind::PermissionDenied => format!(
            "run as the user who started the daemon, or as a member of the socket's group (`ls -l {}`)",
            path.display()
        ),
        io::ErrorKind::InvalidInput | io::ErrorKind::AddrInUse => {
            "name the daemon's socket with `--socket` or PALISADE_SOCKET".into()
        }
        _ => "start it with `palisaded --user`, or as a service with `systemctl start palisaded`; \
              if it listens elsewhere, name the socket with `--socket` or PALISADE_SOCKET"
            .into(),
    }
}

/// A duration as people say it: `5 s`, `250 ms`.
struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = self.0.as_millis();
        if ms < 1000 { write!(f, "{ms} ms") } else { write!(f, "{} s", self.0.as_millis() as f64 / 1000.0) }
    }
}
