//! Why a generation was told to stop, and why it is gone, as `status`, logs and callers read it.

use std::fmt;
use std::time::Duration;

use palisade_protocol::ErrorCode;
use serde::{Deserialize, Serialize};

use super::Phase;
use crate::model::exit::Exit;
use crate::model::limits::Kind;

/// Why a generation was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopWhy {
    Operator,
    /// An operator has taken back something that it was granted.
    Withdrawn,
    /// An operator's restart.
    Restart,
    /// Another package is to have its plugin's calls, and cannot while it runs.
    Held,
    Idle,
    /// Its successor has the route.
    Replaced,
    /// Another package has its plugin's calls.
    Exchanged,
    /// The package of its plugin is gone.
    Removed,
    /// Too many cancelled calls did not end.
    Overdue {
        missed: u32,
    },
    /// It was a candidate, and is not wanted.
    Dropped,
    Shutdown,
    Unload,
    Dependency,
}

impl fmt::Display for StopWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Operator => f.write_str("stopped by the operator"),
            Self::Withdrawn => f.write_str("what it was granted was taken back"),
            Self::Restart => f.write_str("stopped to be restarted"),
            Self::Held => f.write_str("stopped so that another package can take its place"),
            Self::Idle => f.write_str("stopped after being idle"),
            Self::Replaced => f.write_str("replaced by its successor"),
            Self::Exchanged => f.write_str("another package took its place"),
            Self::Removed => f.write_str("its package is gone"),
            Self::Overdue { missed } => {
                write!(f, "replaced, as {missed} cancelled calls did not end within their grace")
            }
            Self::Dropped => f.write_str("a candidate that was not wanted any more"),
            Self::Shutdown => f.write_str("stopped with the daemon"),
            Self::Unload => f.write_str("unloaded"),
            Self::Dependency => f.write_str("stopped together with what it depends on"),
        }
    }
}

/// Why a generation is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It was told to stop.
    Stopped {
        why: StopWhy,
    },
    /// It was replaced because it did not end cancelled calls.
    Overdue {
        missed: u32,
    },
    /// It ended by itself, after it had been active. Exit code 0 is such an end too, and still ends its calls.
    Crashed {
        exit: Exit,
    },
    LaunchFailed {
        failure: LaunchFailure,
    },
    InitializationFailed {
        why: InitFailure,
    },
    ProtocolViolation {
        detail: String,
    },
    /// It did not answer the watchdog.
    Hung {
        timeout: Duration,
    },
    /// The daemon ended it, because it took more than it may have and nothing else would have held it.
    Exhausted {
        limit: Kind,
        /// A sentence.
        detail: String,
    },
    /// Killed on request, without being asked to stop first.
    Killed,
    /// SIGKILL was sent again and again, and nobody confirmed the end.
    Unconfirmed,
}

impl Reason {
    /// Whether the host could not start it for want of something, which says nothing about the plugin.
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::LaunchFailed { failure } if failure.outlook == Outlook::Shortage)
    }

    /// Whether it would end the same way again, as long as the package stays as it is.
    pub fn is_lasting(&self) -> bool {
        match self {
            Self::LaunchFailed { failure } => failure.outlook == Outlook::Lasting,
            Self::InitializationFailed { why } => {
                matches!(why, InitFailure::Disagreed { .. } | InitFailure::Unagreed { .. })
            }
            // What it has written is still there.
            Self::Exhausted { limit, .. } => *limit == Kind::Disk,
            Self::Stopped { .. }
            | Self::Overdue { .. }
            | Self::Crashed { .. }
            | Self::ProtocolViolation { .. }
            | Self::Hung { .. }
            | Self::Killed
            | Self::Unconfirmed => false,
        }
    }

    /// Whether an operator has to agree to something before it can be started.
    pub fn awaits_consent(&self) -> bool {
        match self {
            Self::LaunchFailed { failure } => failure.code == Some(ErrorCode::ConsentRequired),
            Self::InitializationFailed { why } => matches!(why, InitFailure::Unagreed { .. }),
            Self::Stopped { .. }
            | Self::Overdue { .. }
            | Self::Crashed { .. }
            | Self::ProtocolViolation { .. }
            | Self::Hung { .. }
            | Self::Exhausted { .. }
            | Self::Killed
            | Self::Unconfirmed => false,
        }
    }

    /// Whether something went wrong, as opposed to an end that was asked for, or clean.
    pub fn is_failure(&self) -> bool {
        match self {
            Self::Stopped { .. } | Self::Killed => false,
            Self::Crashed { exit } => !exit.is_clean(),
            Self::Overdue { .. }
            | Self::LaunchFailed { .. }
            | Self::InitializationFailed { .. }
            | Self::ProtocolViolation { .. }
            | Self::Hung { .. }
            | Self::Exhausted { .. }
            | Self::Unconfirmed => true,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stopped { why } => why.fmt(f),
            Self::Overdue { missed } => StopWhy::Overdue { missed: *missed }.fmt(f),
            Self::Crashed { exit } => exit.fmt(f),
            Self::LaunchFailed { failure } => write!(f, "could not be started: {}", failure.message),
            Self::InitializationFailed { why } => why.fmt(f),
            Self::ProtocolViolation { detail } => write!(f, "broke the protocol: {detail}"),
            Self::Hung { timeout } => write!(f, "hung: no answer to a ping within {timeout:?}"),
            Self::Exhausted { limit, detail } => write!(f, "{limit}: {detail}"),
            Self::Killed => f.write_str("killed on request"),
            Self::Unconfirmed => {
                f.write_str("does not end although it was killed; a process of it is stuck in the kernel")
            }
        }
    }
}

/// How a life ends that was told to.
pub(super) fn reason_of(why: StopWhy) -> Reason {
    match why {
        StopWhy::Overdue { missed } => Reason::Overdue { missed },
        StopWhy::Operator
        | StopWhy::Withdrawn
        | StopWhy::Restart
        | StopWhy::Held
        | StopWhy::Idle
        | StopWhy::Replaced
        | StopWhy::Exchanged
        | StopWhy::Removed
        | StopWhy::Dropped
        | StopWhy::Shutdown
        | StopWhy::Unload
        | StopWhy::Dependency => Reason::Stopped { why },
    }
}

/// Why there is no process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchFailure {
    /// A sentence about the step that failed.
    pub message: String,
    /// What the next attempt has to expect.
    pub outlook: Outlook,
    /// What it is called where it is told, if not `initialization_failed`.
    #[serde(default)]
    pub code: Option<ErrorCode>,
}

/// What a failed launch says about the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outlook {
    /// As it is it would fail again: the executable is missing, or for another machine.
    Lasting,
    /// It may go better.
    Passing,
    /// The host is short of descriptors, memory, processes or space. That is no fault of the plugin's.
    Shortage,
}

impl Outlook {
    /// What the kernel's error number says, or `otherwise` where that is not a shortage.
    pub fn of_errno(errno: i32, otherwise: Self) -> Self {
        // EAGAIN, ENOMEM, ENFILE, EMFILE, ENOSPC, ENOBUFS and EDQUOT, which have the same numbers on every machine that we run on.
        match errno {
            11 | 12 | 23 | 24 | 28 | 105 | 122 => Self::Shortage,
            _ => otherwise,
        }
    }
}

/// Why a process never became active.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InitFailure {
    /// It said so itself, with this sentence.
    Refused { error: String },
    /// It is not the program that its manifest speaks of.
    Disagreed { error: String },
    /// Its operator has not agreed to the actions that it announced.
    Unagreed { error: String },
    /// It did not get out of this phase in time.
    TimedOut { phase: Phase },
    /// It ended in this phase.
    Exited { phase: Phase, exit: Exit },
    /// It ended in this phase as shells and `env` do that cannot execute a second program, and it may not.
    ExecutedAnother { phase: Phase, exit: Exit },
    /// It was ready, but called itself unhealthy.
    Unhealthy { detail: Option<String> },
}

impl fmt::Display for InitFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { error } => write!(f, "refused to start: {error}"),
            Self::Disagreed { error } | Self::Unagreed { error } => f.write_str(error),
            Self::TimedOut { phase: Phase::Starting } => f.write_str("did not say hello in time"),
            Self::TimedOut { phase: Phase::Loaded } => f.write_str("did not become ready in time"),
            Self::TimedOut { .. } => f.write_str("did not answer the first health check in time"),
            Self::Exited { phase: Phase::Starting, exit } => write!(f, "{exit} before it said hello"),
            Self::Exited { exit, .. } => write!(f, "{exit} before it was active"),
            Self::ExecutedAnother { phase, exit } => write!(
                f,
                "{}, as a shell or env does that cannot execute another program: a plugin may execute one, itself, unless \
                 `execute_code` is asked for in plugin.json and granted; #!/usr/bin/python3 is one, and #!/usr/bin/env \
                 python3 is two",
                Self::Exited { phase: *phase, exit: *exit }
            ),
            Self::Unhealthy { detail: Some(detail) } => write!(f, "reported itself unhealthy at its start: {detail}"),
            Self::Unhealthy { detail: None } => f.write_str("reported itself unhealthy at its start"),
        }
    }
}
