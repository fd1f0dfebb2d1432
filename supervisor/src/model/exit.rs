//! How a process ended, as the daemon tells it.
//!
//! Elsewhere: `process` converts what the launcher reports into this, and adds what the kernel knows beside it.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The end of a plugin's main process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Exit {
    /// It ended by itself, or by a handler of its own.
    Code(i32),
    /// A signal ended it; `core` says that the kernel wrote, or would have written, a core dump.
    Signal { number: i32, core: bool },
    /// The kernel ended it with all that it had started, because together they had reached their memory limit.
    OutOfMemory,
    /// The launcher disappeared before it could report. The tree died with it; how the plugin ended is not known.
    LauncherLost,
}

impl Exit {
    /// Exit code zero: nothing went wrong, as far as the process is concerned.
    pub fn is_clean(self) -> bool {
        self == Self::Code(0)
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exited with code {code}"),
            Self::Signal { number, core } => {
                match signal_name(number) {
                    Some(name) => write!(f, "killed by {name}")?,
                    None => write!(f, "killed by signal {number}")?,
                }
                // It ends in this way by nothing else, unless somebody sends it.
                f.write_str(match number {
                    FILE_TOO_LARGE => ": a file would have become larger than its limit of file size",
                    _ if core => " (core dumped)",
                    _ => "",
                })
            }
            Self::OutOfMemory => f.write_str("reached its memory limit and was killed"),
            Self::LauncherLost => f.write_str("died together with its launcher"),
        }
    }
}

/// SIGXFSZ.
const FILE_TOO_LARGE: i32 = 25;

/// The name of a signal that can end a process. The numbers below 16 are the same on every Linux; of the others, those
/// of x86-64 and arm64, where they agree.
pub fn signal_name(number: i32) -> Option<&'static str> {
    Some(match number {
        1 => "SIGHUP",
        2 => "SIGINT",
        3 => "SIGQUIT",
        4 => "SIGILL",
        5 => "SIGTRAP",
        6 => "SIGABRT",
        7 => "SIGBUS",
        8 => "SIGFPE",
        9 => "SIGKILL",
        10 => "SIGUSR1",
        11 => "SIGSEGV",
        12 => "SIGUSR2",
        13 => "SIGPIPE",
        14 => "SIGALRM",
        15 => "SIGTERM",
        16 => "SIGSTKFLT",
        24 => "SIGXCPU",
        FILE_TOO_LARGE => "SIGXFSZ",
        26 => "SIGVTALRM",
        27 => "SIGPROF",
        29 => "SIGIO",
        30 => "SIGPWR",
        31 => "SIGSYS",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_a_sentence_and_survives_json() {
        for (exit, sentence, json) in [
            (Exit::Code(0), "exited with code 0", r#"{"code":0}"#),
            (Exit::Code(127), "exited with code 127", r#"{"code":127}"#),
            (
                Exit::Signal { number: 11, core: true },
                "killed by SIGSEGV (core dumped)",
                r#"{"signal":{"number":11,"core":true}}"#,
            ),
            (
                Exit::Signal { number: 40, core: false },
                "killed by signal 40",
                r#"{"signal":{"number":40,"core":false}}"#,
            ),
            (
                Exit::Signal { number: 25, core: true },
                "killed by SIGXFSZ: a file would have become larger than its limit of file size",
                r#"{"signal":{"number":25,"core":true}}"#,
            ),
            (Exit::OutOfMemory, "reached its memory limit and was killed", r#""out_of_memory""#),
            (Exit::LauncherLost, "died together with its launcher", r#""launcher_lost""#),
        ] {
            assert_eq!(exit.to_string(), sentence);
            assert_eq!(serde_json::to_string(&exit).unwrap(), json);
            assert_eq!(serde_json::from_str::<Exit>(json).unwrap(), exit);
        }
        assert!(Exit::Code(0).is_clean());
        assert!(!Exit::Code(1).is_clean() && !Exit::LauncherLost.is_clean());
        assert!(!Exit::Signal { number: 0, core: false }.is_clean());
    }
}
