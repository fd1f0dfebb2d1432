//! Why calls get no route, and why a request does nothing: what their senders are told.

use std::fmt;

use super::RETIRED_MAX;
use crate::model::generation::Reason;
use crate::model::ids::PluginId;
use crate::model::status::PluginState;

/// Why calls get no route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    Stopped,
    /// The daemon stops.
    Shutdown,
    Unloaded,
    Paused,
    /// It failed, and is not started again by itself, or told us that it cannot work.
    Failed {
        reason: Reason,
    },
    Quarantined {
        reason: Reason,
    },
}

impl Refusal {
    /// The sentence for the caller.
    pub fn message(&self, id: &PluginId) -> String {
        match self {
            Self::Stopped => format!("plugin `{id}` was stopped"),
            Self::Shutdown => "the daemon is stopping".to_owned(),
            Self::Unloaded => format!("plugin `{id}` was unloaded"),
            Self::Paused => format!("plugin `{id}` is paused, and refuses calls meanwhile"),
            // It says which plugin, and nothing has failed.
            Self::Failed { reason } if reason.awaits_consent() => reason.to_string(),
            Self::Failed { reason } => format!("plugin `{id}` failed: {reason}"),
            Self::Quarantined { reason } => {
                format!("plugin `{id}` failed too often and is quarantined; the last failure: {reason}")
            }
        }
    }

    /// What can be done about it.
    pub fn hint(&self, id: &PluginId) -> String {
        match self {
            Self::Stopped => format!("start it with `palisade start {id}`"),
            Self::Shutdown => "call again once the daemon is back".to_owned(),
            Self::Unloaded => "load it again, or call another version".to_owned(),
            Self::Paused => format!("resume it with `palisade resume {id}`"),
            Self::Failed { reason } if reason.is_shortage() => {
                "it is tried again by itself; `palisade doctor` says what this host has".to_owned()
            }
            Self::Failed { reason } if reason.awaits_consent() => {
                format!("`palisade grant {id}` shows what it asks for, and why, and asks you")
            }
            Self::Failed { .. } => format!("see `palisade status {id}`, and start it with `palisade start {id}`"),
            Self::Quarantined { .. } => {
                format!("see `palisade status {id}` and `palisade logs {id}`; `palisade start {id}` resets it")
            }
        }
    }
}

/// Why a request does nothing: of an operator, or of whoever asks for candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decline {
    NotActive(PluginState),
    Paused,
    CandidateExists,
    NoSuchCandidate,
    TooManyRetired,
    Unloaded,
}

impl fmt::Display for Decline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotActive(state) => write!(f, "the plugin is {state}, not active"),
            Self::Paused => f.write_str("the plugin is paused; resume it first"),
            Self::CandidateExists => f.write_str("another generation is already on its way to replace the serving one"),
            Self::NoSuchCandidate => f.write_str("there is no such candidate that could take the route"),
            Self::TooManyRetired => {
                write!(f, "{RETIRED_MAX} older generations are still finishing their calls; wait for one of them")
            }
            Self::Unloaded => f.write_str("the plugin is being unloaded"),
        }
    }
}
