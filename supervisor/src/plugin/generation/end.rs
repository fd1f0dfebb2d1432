//! The end of a generation: its last words, its dossier, its calls.

use std::sync::atomic::Ordering;
use std::time::{Instant, SystemTime};

use palisade_protocol::{ErrorBody, ErrorCode, Level};

use super::super::inbox::Message;
use super::super::logs::Source;
use super::{Ended, Listening, Task, Told};
use crate::events::unix_ms;
use crate::model::exit::Exit;
use crate::model::generation::{InitFailure, LaunchFailure, Reason, StopWhy};
use crate::model::limits::Kind;
use crate::model::status::{Dossier, StderrTail};

impl Task {
    /// The process is gone: its last words, its dossier, its calls.
    pub(super) async fn end(mut self: Box<Self>) {
        let now = Instant::now();
        self.child = None;
        self.watched = None;
        if let Some(pressure) = self.pressure.take() {
            pressure.abort();
        }
        if let Some(served) = self.served.take() {
            served.end().await;
        }
        let tail = match self.logs.take() {
            Some(Listening { task, gone }) => {
                drop(gone);
                task.await.unwrap_or_default()
            }
            None => StderrTail::default(),
        };
        let reason = self.machine.reason().cloned().unwrap_or(Reason::Unconfirmed);
        let reason = with_what_it_may_not(reason, self.blueprint.grants.execute_code);
        let exit = match &reason {
            // The kernel would have done the same, and called it that.
            Reason::Exhausted { limit: Kind::Memory, .. } => Some(Exit::OutOfMemory),
            _ => self.machine.exit(),
        };
        let in_flight = u32::try_from(self.link.in_flight()).unwrap_or(u32::MAX);
        let dossier = reason.is_failure().then(|| Dossier {
            generation: self.number,
            at_unix_ms: unix_ms(SystemTime::now()),
            reason: reason.to_string(),
            exit,
            last_stderr: tail.lines(),
            calls_in_flight: in_flight,
        });
        self.inbox.messages.close();
        while let Ok(message) = self.inbox.messages.try_recv() {
            if let Message::Call(call) = message {
                self.link.take(call, now);
            }
        }
        let cause = self.lost.take().unwrap_or_else(|| reason.clone());
        let plugin = self.voice.plugin.clone();
        let details = dossier.as_ref().and_then(|dossier| serde_json::to_value(dossier).ok());
        let returned =
            self.link.dissolve(now, |written| call_error(plugin.as_str(), &cause, exit, written, details.clone()));
        if let Some(dossier) = &dossier {
            self.voice.say(Source::Supervisor, Level::Error, &dossier.reason, None, None);
        }
        self.gauge.in_flight.store(0, Ordering::Relaxed);
        let stable_for = self.machine.active_for(now);
        let of_a_proposal = self.offer.is_some() || (self.is_given && stable_for.is_zero());
        self.tell(Told::Ended(Box::new(Ended { reason, stable_for, dossier, returned, of_a_proposal }))).await;
    }
}

/// What a caller is told whose call went down with its process.
fn call_error(
    plugin: &str,
    reason: &Reason,
    exit: Option<Exit>,
    written: bool,
    details: Option<serde_json::Value>,
) -> ErrorBody {
    let code = match reason {
        Reason::Stopped { .. } | Reason::Killed => ErrorCode::Unavailable,
        Reason::ProtocolViolation { .. } => ErrorCode::ProtocolViolation,
        Reason::LaunchFailed { failure: LaunchFailure { code: Some(code), .. } } => *code,
        Reason::LaunchFailed { .. } | Reason::InitializationFailed { .. } => ErrorCode::InitializationFailed,
        Reason::Crashed { exit: Exit::OutOfMemory } | Reason::Exhausted { .. } => ErrorCode::ResourceExhausted,
        Reason::Overdue { .. } | Reason::Crashed { .. } | Reason::Hung { .. } | Reason::Unconfirmed => {
            ErrorCode::Crashed
        }
    };
    let what = match (reason, exit) {
        (Reason::Crashed { exit }, _) => exit.to_string(),
        (reason, _) => reason.to_string(),
    };
    let during = if written { "during the call; the work may have been done" } else { "before it read the call" };
    let mut error = ErrorBody::new(code, format!("{plugin}: {what}, {during}"));
    if let Some(mut details) = details {
        if code == ErrorCode::ResourceExhausted
            && let Some(details) = details.as_object_mut()
        {
            let limit = if let Reason::Exhausted { limit, .. } = reason { *limit } else { Kind::Memory };
            details.insert("limit".to_owned(), limit.to_string().into());
        }
        error = error.with_details(details);
    }
    match (code, reason) {
        // There is nothing to be started.
        (
            _,
            Reason::Stopped {
                why:
                    StopWhy::Held
                    | StopWhy::Exchanged
                    | StopWhy::Replaced
                    | StopWhy::Dropped
                    | StopWhy::Removed
                    | StopWhy::Withdrawn,
            },
        ) => error,
        (ErrorCode::Unavailable, _) => error.with_hint(format!("`palisade start {plugin}` starts it again")),
        _ => error.with_hint(format!("`palisade logs {plugin}` and `palisade status {plugin}` say more")),
    }
}

/// POSIX's exit status for a program that was found and cannot be executed.
const NOT_EXECUTED: Exit = Exit::Code(126);

/// The reason of an end, and where it looks like a second program that may not be executed, that as well.
fn with_what_it_may_not(reason: Reason, may_execute: bool) -> Reason {
    match reason {
        Reason::InitializationFailed { why: InitFailure::Exited { phase, exit: NOT_EXECUTED } } if !may_execute => {
            Reason::InitializationFailed { why: InitFailure::ExecutedAnother { phase, exit: NOT_EXECUTED } }
        }
        reason => reason,
    }
}
