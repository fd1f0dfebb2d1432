//! How a command fails: what is said, and with which status it exits. `docs/cli.md` has the table, and a test compares the two.

use palisade_client::CallError;
use palisade_protocol::{ErrorBody, ErrorCode};
use serde_json::{Value, json};

use crate::screen::{Screen, harmless};

/// The command line itself is wrong: an unknown option, a file that cannot be read.
pub(crate) const USAGE: u8 = 2;
/// The daemon does not answer, or went away.
pub(crate) const NOT_REACHABLE: u8 = 9;
/// What is printed cannot be written.
pub(crate) const OUTPUT: u8 = 74;
/// Interrupted by Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;
/// Whoever read the output stopped reading.
pub(crate) const BROKEN_PIPE: u8 = 141;
/// Asked to end by SIGTERM.
pub(crate) const TERMINATED: u8 = 143;

/// Why a command ends with a status other than 0.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    pub(crate) status: u8,
    report: Option<Report>,
}

#[derive(Debug, Clone, PartialEq)]
struct Report {
    /// A code of the taxonomy, or `usage`, `not_reachable`, `output`.
    code: &'static str,
    message: String,
    hint: Option<String>,
    body: Option<Box<ErrorBody>>,
}

impl Failure {
    /// Nothing more needs to be said.
    pub(crate) fn silent(status: u8) -> Self {
        Self { status, report: None }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(USAGE, "usage", message)
    }

    pub(crate) fn code(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(code.exit_status(), code.name(), message)
    }

    /// Something that could not be written.
    pub(crate) fn output(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::silent(BROKEN_PIPE);
        }
        Self::new(OUTPUT, "output", format!("the output cannot be written: {error}"))
    }

    fn new(status: u8, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, report: Some(Report { code, message: message.into(), hint: None, body: None }) }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        if let Some(report) = &mut self.report {
            report.hint = Some(hint.into());
        }
        self
    }

    /// Puts before the message what it concerns.
    pub(crate) fn about(mut self, what: &str) -> Self {
        // What the daemon says of a plugin mostly begins with it.
        if let Some(report) = &mut self.report
            && !report.message.starts_with(&format!("{what}: "))
        {
            report.message = format!("{what}: {}", report.message);
        }
        self
    }

    /// Whether this program found that the answer cannot be read.
    pub(crate) fn is_unreadable(&self) -> bool {
        let code = ErrorCode::ProtocolViolation.name();
        self.report.as_ref().is_some_and(|report| report.body.is_none() && report.code == code)
    }

    #[cfg(test)]
    pub(crate) fn message(&self) -> &str {
        self.report.as_ref().map_or("", |report| &report.message)
    }

    #[cfg(test)]
    pub(crate) fn hint(&self) -> Option<&str> {
        self.report.as_ref()?.hint.as_deref()
    }

    /// Says on stderr what went wrong.
    pub(crate) fn print(&self, screen: &Screen, as_json: bool) {
        let Some(report) = &self.report else { return };
        // Where stderr cannot be written to either, the status has to do.
        if as_json {
            let _ = screen.error_line(&self.json(report).to_string());
            return;
        }
        let message = match report.message.trim() {
            "" => format!("{}, and nothing was said of why", report.code),
            message => harmless(message),
        };
        let _ = screen.error_line(&screen.labelled("error", &message));
        if let Some(hint) = &report.hint {
            let _ = screen.error_line(&screen.labelled("hint", &harmless(hint)));
        }
    }

    fn json(&self, report: &Report) -> Value {
        let mut error = match &report.body {
            Some(body) => serde_json::to_value(body).unwrap_or_default(),
            None => json!({"code": report.code}),
        };
        error["message"] = json!(report.message);
        if let Some(hint) = &report.hint {
            error["hint"] = json!(hint);
        }
        error["exit_status"] = json!(self.status);
        json!({ "error": error })
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let (status, code) = match &error {
            CallError::NotReachable { .. } if error.code() == ErrorCode::PermissionDenied => {
                (ErrorCode::PermissionDenied.exit_status(), ErrorCode::PermissionDenied.name())
            }
            CallError::NotReachable { .. } | CallError::Lost { .. } => (NOT_REACHABLE, "not_reachable"),
            _ => (error.code().exit_status(), error.code().name()),
        };
        let hint = match &error {
            // The library's hint is for programmers.
            CallError::Decode { .. } => None,
            CallError::TimedOut { .. } => Some("give it more time with --timeout, or see `palisade logs`".to_owned()),
            _ => error.hint(),
        };
        let body = error.body().cloned().map(Box::new);
        Self { status, report: Some(Report { code, message: error.to_string(), hint, body }) }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_documented_statuses_are_the_ones_in_use() {
        let page = include_str!("../../../docs/cli.md");
        let rows: Vec<(u8, Vec<&str>)> = page
            .lines()
            .filter_map(|line| {
                let mut cells = line.strip_prefix("| ")?.split(" | ");
                let status = cells.next()?.trim().parse().ok()?;
                Some((status, cells.next()?.split('`').skip(1).step_by(2).collect()))
            })
            .collect();
        for code in ErrorCode::ALL {
            let documented: Vec<u8> =
                rows.iter().filter(|(_, codes)| codes.contains(&code.name())).map(|(status, _)| *status).collect();
            assert_eq!(documented, [code.exit_status()], "{code} in docs/cli.md");
        }
        for (status, codes) in &rows {
            for name in codes {
                let known = ErrorCode::from_name(name).map(ErrorCode::exit_status).or(match *name {
                    "usage" => Some(USAGE),
                    "not_reachable" => Some(NOT_REACHABLE),
                    "output" => Some(OUTPUT),
                    _ => None,
                });
                assert_eq!(known, Some(*status), "{name} in docs/cli.md");
            }
        }
        for status in [0, USAGE, NOT_REACHABLE, OUTPUT, INTERRUPTED, BROKEN_PIPE, TERMINATED] {
            assert!(rows.iter().any(|(documented, _)| *documented == status), "{status} in docs/cli.md");
        }
    }

    #[test]
    fn each_error_of_the_client_has_its_status() {
        let lost = CallError::Lost { reason: "it was closed".into(), sent: true };
        let unknown = CallError::Remote(Box::new(ErrorBody::new(ErrorCode::PluginNotFound, "no plugin `x`")));
        let denied = CallError::NotReachable {
            path: "/x".into(),
            kind: std::io::ErrorKind::PermissionDenied,
            detail: String::new(),
        };
        for (error, status) in [
            (lost, 9),
            (unknown, 3),
            (denied, 5),
            (CallError::TimedOut { after: Duration::from_secs(1) }, 6),
            (CallError::Decode { what: "result", detail: "odd".into() }, 7),
            (CallError::Invalid { detail: "too large".into() }, 4),
        ] {
            assert_eq!(Failure::from(error.clone()).status, status, "{error}");
        }
    }

    #[test]
    fn as_json_an_error_keeps_what_the_plugin_said() {
        let body = ErrorBody::new(ErrorCode::ExecutionFailed, "no").with_hint("yes").with_details(json!({"at": 3}));
        let failure = Failure::from(CallError::Remote(Box::new(body)));
        let report = failure.report.as_ref().unwrap();
        assert_eq!(
            failure.json(report),
            json!({"error": {
                "code": "execution_failed", "class": "failed", "fault": "plugin", "retryable": false, "message": "no",
                "hint": "yes", "details": {"at": 3}, "exit_status": 1,
            }})
        );
        let failure = Failure::usage("exits: with code 1").about("exits").about("exits");
        assert_eq!(failure.message(), "exits: with code 1");
        let failure = Failure::usage("what?");
        let report = failure.report.as_ref().unwrap();
        assert_eq!(failure.json(report), json!({"error": {"code": "usage", "message": "what?", "exit_status": 2}}));
    }
}
