//! How a command fails: what is said, and with which status it exits. `docs/cli.md` has the table, and a test compares the two.

use palisade_client::CallError;
use palisade_protocol::{Class, ErrorBody, ErrorCode, Fault};
use serde_json::{Value, json};

use crate::screen::{Label, Screen, harmless, short};

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
    class: Class,
    fault: Fault,
    retryable: bool,
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
        let (class, fault) = (Class::Invalid, Fault::Caller);
        Self::new(USAGE, Report { class, fault, retryable: false, ..Report::new("usage", message) })
    }

    pub(crate) fn code(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(code.exit_status(), Report::of(code, message))
    }

    /// Something that could not be written.
    pub(crate) fn output(error: &std::io::Error) -> Self {
        if error.kind() == std::io::ErrorKind::BrokenPipe {
            return Self::silent(BROKEN_PIPE);
        }
        // What was called has been done; the same again would do it twice.
        Self::new(OUTPUT, Report::new("output", format!("the output cannot be written: {error}")))
    }

    fn new(status: u8, report: Report) -> Self {
        Self { status, report: Some(report) }
    }

    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        if let Some(report) = &mut self.report {
            report.hint = Some(hint.into());
        }
        self
    }

    /// Whether it is an error of this code.
    pub(crate) fn is(&self, code: ErrorCode) -> bool {
        self.report.as_ref().is_some_and(|report| report.code == code.name())
    }

    /// Whether whatever comes next would end the same way: nobody answers, or somebody has interrupted.
    pub(crate) fn is_the_end(&self) -> bool {
        matches!(self.status, NOT_REACHABLE | INTERRUPTED | TERMINATED | BROKEN_PIPE | OUTPUT)
    }

    /// Calls by this name what the message calls by another one.
    pub(crate) fn naming(mut self, other: &str, name: &str) -> Self {
        if let Some(report) = &mut self.report {
            report.message = report.message.replace(other, name);
        }
        self
    }

    /// What is wrong, as a sentence with an end.
    pub(crate) fn sentence(&self) -> String {
        self.report.as_ref().map(|report| format!("{}.", report.message)).unwrap_or_default()
    }

    /// The same, unless it has one already.
    pub(crate) fn with_hint_if_none(self, hint: &str) -> Self {
        let has_one = self.report.as_ref().is_some_and(|report| report.hint.is_some());
        if has_one { self } else { self.with_hint(hint) }
    }

    /// Puts before the message what it concerns, cut as [`short`] does.
    pub(crate) fn about(mut self, what: &str) -> Self {
        let what = short(what);
        // What the daemon says of a plugin mostly names it.
        let named = |message: &str| {
            message.starts_with(&format!("{what}: "))
                || [format!("`{what}`"), format!("\"{what}\"")].iter().any(|quoted| message.contains(quoted))
        };
        if let Some(report) = &mut self.report
            && !named(&report.message)
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
        let _ = screen.error_line(&screen.labelled(Label::Error, &message));
        for mistake in report.mistakes() {
            let _ = screen.error_line(&screen.labelled(Label::Error, &harmless(mistake)));
        }
        if let Some(hint) = &report.hint {
            let _ = screen.error_line(&screen.labelled(Label::Hint, &harmless(hint)));
        }
    }

    fn json(&self, report: &Report) -> Value {
        let mut error = match &report.body {
            Some(body) => serde_json::to_value(body).unwrap_or_default(),
            None => json!({
                "code": report.code, "class": report.class, "fault": report.fault, "retryable": report.retryable,
            }),
        };
        error["message"] = json!(report.message);
        if let Some(hint) = &report.hint {
            error["hint"] = json!(hint);
        }
        error["exit_status"] = json!(self.status);
        json!({ "error": error })
    }
}

impl Report {
    /// What is wrong with a package, each a sentence, where there are several.
    fn mistakes(&self) -> impl Iterator<Item = &str> {
        let body = self.body.as_ref().filter(|_| self.code == ErrorCode::ConfigurationInvalid.name());
        let mistakes = body.and_then(|body| body.details.as_ref()?.get("mistakes")?.as_array());
        mistakes.into_iter().flatten().filter_map(Value::as_str)
    }

    /// Of something that is none of the taxonomy's: this machine cannot do it.
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        let (class, fault) = (Class::Unavailable, Fault::Host);
        Self { code, class, fault, retryable: false, message: message.into(), hint: None, body: None }
    }

    fn of(code: ErrorCode, message: impl Into<String>) -> Self {
        let (class, fault, retryable) = (code.class(), code.fault(), code.retryable());
        Self { class, fault, retryable, ..Self::new(code.name(), message) }
    }
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let message = error.to_string();
        let (status, report) = match &error {
            CallError::NotReachable { .. } if error.code() == ErrorCode::PermissionDenied => {
                (ErrorCode::PermissionDenied.exit_status(), Report::of(ErrorCode::PermissionDenied, message))
            }
            CallError::NotReachable { .. } | CallError::Lost { .. } => {
                let retryable = error.is_retryable();
                (NOT_REACHABLE, Report { retryable, ..Report::new("not_reachable", message) })
            }
            _ => (error.code().exit_status(), Report::of(error.code(), message)),
        };
        let hint = match &error {
            // The library's hint is for programmers.
            CallError::Decode { .. } => None,
            CallError::TimedOut { .. } => Some("give it more time with --timeout, or see `palisade logs`".to_owned()),
            _ => error.hint(),
        };
        let body = error.body().cloned().map(Box::new);
        Self::new(status, Report { hint, body, ..report })
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
            absent: Vec::new(),
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
    fn as_json_every_error_says_what_kind_it_is() {
        let lost = |sent| Failure::from(CallError::Lost { reason: "it was closed".into(), sent });
        for (failure, class, fault, retryable) in [
            (Failure::usage("what?"), "invalid", "caller", false),
            (Failure::code(ErrorCode::InvalidParams, "no"), "invalid", "caller", false),
            (Failure::output(&std::io::Error::other("full")), "unavailable", "host", false),
            (lost(true), "unavailable", "host", false),
            (lost(false), "unavailable", "host", true),
            (CallError::Invalid { detail: "too large".into() }.into(), "invalid", "caller", false),
        ] {
            let error = &failure.json(failure.report.as_ref().unwrap())["error"];
            assert_eq!((&error["class"], &error["fault"]), (&json!(class), &json!(fault)), "{error}");
            assert_eq!(error["retryable"], retryable, "{error}");
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
        for message in ["there is no plugin \"exits\"", "plugin `exits` was stopped"] {
            assert_eq!(Failure::usage(message).about("exits").message(), message, "once is enough");
        }
        assert_eq!(Failure::usage("it exits").about("exits").message(), "exits: it exits");
        let (long, shown) = ("x".repeat(30_000), "x".repeat(200));
        let told = format!("there is no plugin \"{shown}…\"");
        assert_eq!(Failure::usage(told.as_str()).about(&long).message(), told);
        assert_eq!(Failure::usage("no").about(&long).message(), format!("{shown}…: no"));
        let failure = Failure::usage("what?");
        let report = failure.report.as_ref().unwrap();
        assert_eq!(
            failure.json(report),
            json!({"error": {
                "code": "usage", "class": "invalid", "fault": "caller", "retryable": false, "message": "what?",
                "exit_status": 2,
            }})
        );
    }
}
