//! How a child ended, as precisely as the daemon can know it.
//!
//! Elsewhere: `model::exit` has the smaller type on which the state machines decide.

use std::fmt;

use palisade_launcher::{End, Usage};

use crate::model;

/// The end of a child and its whole tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exited {
    /// How the main process ended.
    pub exit: Exit,
    /// What the tree used, by the kernel's accounts; nothing if the launcher was lost.
    pub usage: Usage,
}

/// How the main process of a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It exited with this code.
    Code(i32),
    /// A signal ended it.
    Signal {
        /// The signal's number.
        number: i32,
        /// Whether a core was dumped.
        core_dumped: bool,
    },
    /// The daemon killed the tree.
    Killed,
    /// Something else ended pid 1 of the tree, and with it the tree: the kernel for want of memory, or an operator.
    InitKilled {
        /// The signal that did it, 0 if it was none.
        signal: i32,
        /// The code with which pid 1 ended by itself.
        code: i32,
    },
    /// The kernel ended the tree because it had reached its memory limit.
    OutOfMemory,
    /// The launcher disappeared before it could report, and took the tree with it.
    LauncherLost {
        /// The signal that ended the launcher, if it was one.
        signal: Option<i32>,
        /// Whether the tree was seen to be empty afterwards. It is not if the launcher was lost so early that nothing
        /// of the tree was known yet.
        tree_gone: bool,
    },
}

impl Exit {
    /// From the launcher's report; `killed` says that the daemon had asked for it, `out_of_memory` that the kernel says it killed.
    pub(super) fn of(end: End, killed: bool, out_of_memory: bool) -> Self {
        /// What the kernel kills with.
        const SIGKILL: i32 = 9;
        match end {
            // It kills the tree as a whole, pid 1 included; either of them may be seen to end first.
            End::InitLost { signal: SIGKILL, .. } | End::Signal { number: SIGKILL, .. } if out_of_memory && !killed => {
                Self::OutOfMemory
            }
            End::Code(code) => Self::Code(code),
            End::Signal { number, core_dumped } => Self::Signal { number, core_dumped },
            End::InitLost { .. } if killed => Self::Killed,
            End::InitLost { signal, code } => Self::InitKilled { signal, code },
        }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal { number, core_dumped } => {
                write!(f, "killed by {}", Signal(number))?;
                f.write_str(if core_dumped { ", core dumped" } else { "" })
            }
            Self::Killed => f.write_str("killed with its whole process tree by the daemon"),
            Self::InitKilled { signal: 0, code } => {
                write!(f, "lost pid 1 of its process tree, which ended with code {code} and without a report")
            }
            Self::InitKilled { signal, .. } => {
                write!(f, "lost pid 1 of its process tree, which was killed by {}", Signal(signal))
            }
            Self::OutOfMemory => f.write_str("reached its memory limit and was killed with its whole process tree"),
            Self::LauncherLost { signal, .. } => {
                f.write_str("lost its launcher")?;
                if let Some(signal) = signal {
                    write!(f, ", which was killed by {}", Signal(signal))?;
                }
                Ok(())
            }
        }
    }
}

impl From<Exit> for model::exit::Exit {
    fn from(exit: Exit) -> Self {
        /// What a tree is killed with.
        const SIGKILL: i32 = 9;
        match exit {
            Exit::Code(code) => Self::Code(code),
            Exit::Signal { number, core_dumped } => Self::Signal { number, core: core_dumped },
            // pid 1 takes its tree along with SIGKILL, whatever ended pid 1 itself.
            Exit::Killed | Exit::InitKilled { .. } => Self::Signal { number: SIGKILL, core: false },
            Exit::OutOfMemory => Self::OutOfMemory,
            Exit::LauncherLost { .. } => Self::LauncherLost,
        }
    }
}

/// A signal by name and number.
struct Signal(i32);

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match model::exit::signal_name(self.0) {
            Some(name) => write!(f, "{name} (signal {})", self.0),
            None => write!(f, "signal {}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_a_sentence_and_one_of_the_models() {
        use model::exit::Exit as Model;
        let killed = Model::Signal { number: 9, core: false };
        for (exit, sentence, decided) in [
            (Exit::Code(0), "exited with code 0", Model::Code(0)),
            (Exit::Code(139), "exited with code 139", Model::Code(139)),
            (
                Exit::Signal { number: 11, core_dumped: true },
                "killed by SIGSEGV (signal 11), core dumped",
                Model::Signal { number: 11, core: true },
            ),
            (
                Exit::Signal { number: 40, core_dumped: false },
                "killed by signal 40",
                Model::Signal { number: 40, core: false },
            ),
            (Exit::Killed, "killed with its whole process tree by the daemon", killed),
            (
                Exit::InitKilled { signal: 9, code: 0 },
                "lost pid 1 of its process tree, which was killed by SIGKILL (signal 9)",
                killed,
            ),
            (
                Exit::OutOfMemory,
                "reached its memory limit and was killed with its whole process tree",
                Model::OutOfMemory,
            ),
            (
                Exit::InitKilled { signal: 0, code: 3 },
                "lost pid 1 of its process tree, which ended with code 3 and without a report",
                killed,
            ),
            (
                Exit::LauncherLost { signal: Some(6), tree_gone: true },
                "lost its launcher, which was killed by SIGABRT (signal 6)",
                Model::LauncherLost,
            ),
            (Exit::LauncherLost { signal: None, tree_gone: false }, "lost its launcher", Model::LauncherLost),
        ] {
            assert_eq!(exit.to_string(), sentence);
            assert_eq!(Model::from(exit), decided);
        }
    }

    #[test]
    fn only_the_daemons_own_kill_is_called_that() {
        assert_eq!(Exit::of(End::InitLost { signal: 9, code: 0 }, true, false), Exit::Killed);
        assert_eq!(
            Exit::of(End::InitLost { signal: 9, code: 0 }, false, false),
            Exit::InitKilled { signal: 9, code: 0 }
        );
        assert_eq!(Exit::of(End::Code(3), true, false), Exit::Code(3));
        let segfault = End::Signal { number: 11, core_dumped: false };
        assert_eq!(Exit::of(segfault, true, false), Exit::Signal { number: 11, core_dumped: false });
    }

    #[test]
    fn an_end_is_for_want_of_memory_if_the_kernel_killed_for_that() {
        let killed = End::Signal { number: 9, core_dumped: false };
        assert_eq!(Exit::of(End::InitLost { signal: 9, code: 0 }, false, true), Exit::OutOfMemory);
        assert_eq!(Exit::of(killed, false, true), Exit::OutOfMemory);
        // What ended otherwise did not end by it, even if a descendant was killed before.
        assert_eq!(Exit::of(End::Code(3), false, true), Exit::Code(3));
        assert_eq!(Exit::of(End::InitLost { signal: 9, code: 0 }, true, true), Exit::Killed);
    }
}
