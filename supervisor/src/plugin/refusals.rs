//! The system calls that a plugin was refused, where the operator wants to know: `trace_denials`.
//!
//! What is kept is of the youngest process alone, and bounded as the launcher bounds it. Elsewhere: pid 1 counts them.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Serialize;

use crate::model::ids::Generation;
use crate::process::Denied;
use crate::sandbox::seccomp::{self, Action};

/// What one plugin was refused.
#[derive(Debug, Default)]
pub struct Refusals {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    generation: Option<Generation>,
    /// By number and errno.
    lines: BTreeMap<(u32, u16), Denied>,
}

/// One line for the outside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refusal {
    /// The call's name, or its number where it has none; `others` for all that had no room.
    pub call: String,
    /// What it got.
    pub errno: String,
    /// How often.
    pub count: u64,
    /// Its arguments the first time, as registers.
    pub arguments: [u64; 6],
    /// The permission with which it would be allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permission: Option<&'static str>,
    /// Why it is refused.
    pub reason: &'static str,
}

impl Refusals {
    /// Takes down what a process was refused. What an older one was is forgotten, and its late news is passed over.
    pub fn note(&self, generation: Generation, denied: Denied) {
        let mut kept = self.kept.lock().expect("nothing panics while it holds the refusals");
        if kept.generation.is_none_or(|kept| kept < generation) {
            *kept = Kept { generation: Some(generation), lines: BTreeMap::new() };
        }
        if kept.generation == Some(generation) {
            kept.lines.insert((denied.number, denied.errno), denied);
        }
    }

    /// All there are, the most frequent first.
    #[must_use]
    pub fn list(&self) -> Vec<Refusal> {
        let kept = self.kept.lock().expect("nothing panics while it holds the refusals");
        let mut list: Vec<_> = kept.lines.values().map(told).collect();
        list.sort_by(|one, other| (other.count, &one.call).cmp(&(one.count, &other.call)));
        list
    }
}

fn told(denied: &Denied) -> Refusal {
    let Denied { number, errno, count, arguments } = *denied;
    if number == Denied::OTHERS {
        let reason = "further calls, for which there was no room in the list";
        return Refusal { call: "others".into(), errno: String::new(), count, arguments, permission: None, reason };
    }
    Refusal {
        call: seccomp::name(number).map_or_else(|| number.to_string(), str::to_owned),
        errno: Action::Errno(errno).to_string(),
        count,
        arguments,
        permission: seccomp::allowed_by(number).map(seccomp::Permission::as_str),
        reason: seccomp::reason(number),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(number: u32, errno: u16, count: u64) -> Denied {
        Denied { number, errno, count, arguments: [7; 6] }
    }

    #[test]
    fn the_last_word_on_each_counts_and_only_of_the_youngest_process() {
        let refusals = Refusals::default();
        refusals.note(Generation(1), denied(272, 1, 9));
        refusals.note(Generation(2), denied(272, 1, 1));
        refusals.note(Generation(2), denied(272, 1, 3));
        refusals.note(Generation(2), denied(59, 38, 4));
        refusals.note(Generation(2), denied(1_000_000, 38, 1));
        refusals.note(Generation(2), denied(Denied::OTHERS, 0, 2));
        refusals.note(Generation(1), denied(59, 38, 100));
        let list = refusals.list();
        let short: Vec<_> =
            list.iter().map(|one| (one.call.as_str(), one.errno.as_str(), one.count, one.permission)).collect();
        assert_eq!(
            short,
            [
                ("execve", "ENOSYS", 4, Some("execute_code")),
                ("unshare", "EPERM", 3, None),
                ("others", "", 2, None),
                ("1000000", "ENOSYS", 1, None)
            ]
        );
        assert!(list.iter().all(|one| !one.reason.is_empty()), "{list:?}");
    }
}
