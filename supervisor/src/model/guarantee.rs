//! The controls that confine a plugin, by name, and which of them a start is to depend on.
//!
//! Elsewhere: what became of each on this host is reported by `sandbox::evidence`.

use std::fmt;

use palisade_protocol::{Guarantee, GuaranteeState};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::status::NotEnforced;

/// Every control that can be required, in the order in which they are reported.
pub const CONTROLS: [&str; 24] = [
    "private_root",
    "user_namespace",
    "own_user",
    "pid_namespace",
    "kill_tree",
    "network_namespace",
    "network_access",
    "ipc_namespace",
    "hostname",
    "watchers",
    "cgroup_namespace",
    "capabilities",
    "no_new_privs",
    "landlock",
    "seccomp",
    "exec_once",
    "cgroup",
    "memory",
    "pids",
    "cpu",
    "open_files",
    "file_size",
    "disk",
    "logs",
];

/// A control that a start depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Control(&'static str);

/// There is no control of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no control {name:?} to require; there are {}", CONTROLS.join(", "))]
pub struct UnknownControl {
    name: String,
}

impl Control {
    /// The control of that name.
    ///
    /// # Errors
    /// [`UnknownControl`]
    pub fn named(name: &str) -> Result<Self, UnknownControl> {
        let found = CONTROLS.iter().find(|control| **control == name);
        found.map(|control| Self(control)).ok_or_else(|| UnknownControl { name: name.to_owned() })
    }

    pub fn as_str(self) -> &'static str {
        self.0
    }
}

impl<'de> Deserialize<'de> for Control {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::named(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl fmt::Display for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0)
    }
}

/// A control that a start depends on, and who said so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Required {
    pub control: Control,
    /// `plugin.json` or `palisade.toml`.
    pub by: &'static str,
}

/// What a manifest, the operator's defaults and the operator's word on this plugin require together; each once.
#[must_use]
pub fn required(manifest: &[Control], defaults: &[Control], plugin: &[Control]) -> Vec<Required> {
    let operator = plugin.iter().chain(defaults).map(|control| Required { control: *control, by: "palisade.toml" });
    let author = manifest.iter().map(|control| Required { control: *control, by: "plugin.json" });
    let mut all: Vec<Required> = Vec::new();
    for one in operator.chain(author) {
        if all.iter().all(|there| there.control != one.control) {
            all.push(one);
        }
    }
    all
}

/// Those that are not enforced, with their reasons.
#[must_use]
pub fn not_enforced(all: Vec<Guarantee>) -> Vec<NotEnforced> {
    let lesser = all.into_iter().filter(|one| one.state != GuaranteeState::Enforced);
    lesser.map(|Guarantee { control, state, reason, .. }| NotEnforced { control, state, reason }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_has_a_name_that_there_is() {
        for name in CONTROLS {
            assert_eq!(Control::named(name).unwrap().as_str(), name);
        }
        let error = Control::named("magic").unwrap_err().to_string();
        assert!(
            error.starts_with("there is no control \"magic\" to require; there are private_root, user_"),
            "{error}"
        );
    }

    #[test]
    fn what_is_enforced_is_not_among_those_that_are_not() {
        let one = |control: &str, state| Guarantee { control: control.into(), state, ..Guarantee::default() };
        let all = vec![
            one("landlock", GuaranteeState::Enforced),
            Guarantee { reason: "no controller".into(), ..one("memory", GuaranteeState::Monitored) },
        ];
        let memory =
            NotEnforced { control: "memory".into(), state: GuaranteeState::Monitored, reason: "no controller".into() };
        assert_eq!(not_enforced(all), [memory]);
    }

    #[test]
    fn each_is_required_once_and_by_the_operator_first() {
        let of = |names: &[&str]| names.iter().map(|name| Control::named(name).unwrap()).collect::<Vec<_>>();
        let all = required(&of(&["memory", "landlock"]), &of(&["landlock", "cpu"]), &of(&["cpu"]));
        let all: Vec<_> = all.iter().map(|one| (one.control.as_str(), one.by)).collect();
        assert_eq!(all, [("cpu", "palisade.toml"), ("landlock", "palisade.toml"), ("memory", "plugin.json")]);
    }
}
