//! `palisade logs` and `palisade events`: lines as they come.

use palisade_client::admin::{Event, LogLine, Refused};
use palisade_client::{CallError, Items, Raw};
use palisade_protocol::{Level, SUPERVISOR_ID};
use serde::Serialize;
use serde_json::Value;

use crate::Context;
use crate::arguments;
use crate::attend::Attendant;
use crate::failure::Failure;
use crate::output::{Output, Reader};
use crate::plugins::{Target, target};
use crate::screen::{Screen, Tone, harmless, one_line};
use crate::times::stamp;
use crate::value::{self, Layout};

/// `palisade logs`
pub(crate) async fn logs(context: &Context, logs: &arguments::Logs) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Query<'a> {
        #[serde(flatten)]
        of: Option<Target<'a>>,
        lines: u32,
        follow: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        level: Option<&'a str>,
    }
    let query = Query {
        of: logs.plugin.as_deref().map(target),
        lines: logs.lines,
        follow: logs.follow,
        level: logs.level.as_deref(),
    };
    follow(context, "logs", &query, |item, screen| Ok(log_text(&item.decode()?, screen))).await
}

/// `palisade events`
pub(crate) async fn events(context: &Context, plugin: Option<&str>) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Query<'a> {
        #[serde(flatten)]
        of: Option<Target<'a>>,
    }
    follow(context, "events", &Query { of: plugin.map(target) }, |item, screen| Ok(event_text(&item.decode()?, screen)))
        .await
}

/// Prints an operation's items until it ends or the user has seen enough.
async fn follow(
    context: &Context,
    operation: &str,
    query: &impl Serialize,
    text: impl Fn(&Raw, &Screen) -> Result<String, Failure>,
) -> Result<(), Failure> {
    // Waiting for news is no reason to show that it takes long.
    let quiet = Screen { stderr_is_terminal: false, ..context.screen };
    let mut attendant = Attendant::new(&quiet, &context.interrupts, operation);
    let started = context.client.request(SUPERVISOR_ID, operation).params(query).items::<Raw>();
    let mut items: Items<Raw> = attendant.wait(started, || Ok(())).await??;
    let mut output = Output::new();
    // The next line may be long in coming, and there is nothing else to do.
    attendant.reader = Some(Reader::of_stdout());
    while let Some(item) = attendant.wait(items.next(), || output.flush()).await? {
        let item = match item {
            Ok(item) => item,
            Err(error) => {
                output.flush()?;
                return Err(ended(error, operation));
            }
        };
        let line = if context.json { value::to_json(&item, Layout::Line)? } else { text(&item, &context.screen)? };
        output.line(&line)?;
    }
    let end = attendant.wait(items.result::<Raw>(), || output.flush()).await?;
    output.flush()?;
    end.map_err(|error| ended(error, operation))?;
    Ok(())
}

/// Nothing was carried out, whatever else a lost connection may mean.
fn ended(error: CallError, operation: &str) -> Failure {
    let is_lost = matches!(error, CallError::Lost { .. });
    let failure = Failure::from(error);
    if !is_lost {
        return failure;
    }
    failure.with_hint(format!(
        "the daemon has ended, or was started anew; once `palisade status` answers, `palisade {operation}` goes on"
    ))
}

fn missed(count: u64, screen: &Screen) -> String {
    screen.tone(&format!("… {count} more that came too fast to be shown …"), Tone::Careful)
}

fn log_text(line: &LogLine, screen: &Screen) -> String {
    if let Some(count) = line.missed {
        return missed(count, screen);
    }
    let (level, tone) = match line.level {
        Some(Level::Trace) => ("trace", Tone::Faint),
        Some(Level::Debug) => ("debug", Tone::Faint),
        Some(Level::Info) | None => ("info", Tone::Plain),
        Some(Level::Warn) => ("warn", Tone::Careful),
        Some(Level::Error) => ("error", Tone::Bad),
    };
    let whose = match (&line.plugin, line.generation) {
        (Some(plugin), Some(generation)) => format!("{}[{generation}]", one_line(plugin)),
        (Some(plugin), None) => one_line(plugin),
        (None, _) => "palisaded".into(),
    };
    let mut text = format!(
        "{} {} {} {} {}",
        screen.tone(&stamp(line.time_unix_ms), Tone::Faint),
        screen.tone(&whose, Tone::Strong),
        // The protocol has another word for the daemon.
        screen.tone(&if line.stream == "supervisor" { "daemon".into() } else { one_line(&line.stream) }, Tone::Faint),
        screen.tone(&format!("{level:<5}"), tone),
        // One line of the log is one line here, whatever is in it.
        screen.tone(&one_line(&line.message), tone),
    );
    if let Some(Value::Object(fields)) = &line.fields {
        for (name, field) in fields {
            let field = field.as_str().map_or_else(|| field.to_string(), ToOwned::to_owned);
            text += &screen.tone(&format!(" {}={}", one_line(name), one_line(&field)), Tone::Faint);
        }
    }
    if let Some(call) = line.call {
        text += &screen.tone(&format!(" call={call}"), Tone::Faint);
    }
    text
}

fn event_text(event: &Event, screen: &Screen) -> String {
    if let Some(count) = event.missed {
        return missed(count, screen);
    }
    let mut text = format!("{} ", screen.tone(&stamp(event.time_unix_ms), Tone::Faint));
    if let Some(plugin) = &event.plugin {
        let version = event.version.as_ref().map(|version| format!(" {}", one_line(version))).unwrap_or_default();
        let generation = event.generation.map(|generation| format!("[{generation}]")).unwrap_or_default();
        text += &screen.tone(&format!("{}{generation}{version} ", one_line(plugin)), Tone::Strong);
    }
    text += &one_line(&event.kind);
    if let (Some(from), Some(to)) = (&event.from, &event.to) {
        let tone = |state: &str| screen.tone(&one_line(state), Tone::of_state(state));
        text += &format!(" {} → {}", tone(from), tone(to));
    }
    let short = |digest: &String| one_line(digest.get(..12).unwrap_or(digest));
    let before = [event.from_version.as_ref().map(|before| one_line(before)), event.from_digest.as_ref().map(short)];
    if before.iter().any(Option::is_some) {
        text += &format!(" from {}", before.into_iter().flatten().collect::<Vec<_>>().join(" "));
    }
    if let Some(digest) = &event.digest {
        text += &format!(" to {}", short(digest));
    }
    if let Some(Refused { version, digest }) = &event.refused {
        let digest = digest.get(..12).unwrap_or(digest);
        text += &format!(" instead of {} {}", one_line(version), one_line(digest));
    }
    if let Some(reason) = &event.reason {
        text += &format!(": {}", harmless(reason).replace('\n', " "));
    }
    for (name, more) in &event.more {
        let more = more.as_str().map_or_else(|| more.to_string(), ToOwned::to_owned);
        text += &screen.tone(&format!(" {}={}", one_line(name), one_line(&more)), Tone::Faint);
    }
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_log_line_is_one_line() {
        let line: LogLine = serde_json::from_value(json!({
            "time_unix_ms": 1_795_202_857_123_u64, "plugin": "echo", "generation": 3, "stream": "log", "level": "warn",
            "message": "two\nlines \u{1b}[2J", "fields": {"n": 1, "name": "x y"}, "call": 8, "from_tomorrow": true,
        }))
        .unwrap();
        assert_eq!(
            log_text(&line, &Screen::plain()),
            "2026-11-20T19:27:37.123Z echo[3] log warn  two\\nlines \\u{1b}[2J n=1 name=x y call=8"
        );
        let line: LogLine = serde_json::from_value(json!({"stream": "supervisor", "message": "up"})).unwrap();
        assert_eq!(log_text(&line, &Screen::plain()), "1970-01-01T00:00:00.000Z palisaded daemon info  up");
        let line: LogLine = serde_json::from_value(json!({"missed": 7})).unwrap();
        assert_eq!(log_text(&line, &Screen::plain()), "… 7 more that came too fast to be shown …");
    }

    #[test]
    fn an_event_says_what_happened_to_whom() {
        let event: Event = serde_json::from_value(json!({
            "time_unix_ms": 1_795_202_857_123_u64, "kind": "state_changed", "plugin": "echo", "version": "1.0.0",
            "generation": 3, "from": "active", "to": "failed", "reason": "killed by SIGKILL", "attempt": 2,
        }))
        .unwrap();
        assert_eq!(
            event_text(&event, &Screen::plain()),
            "2026-11-20T19:27:37.123Z echo[3] 1.0.0 state_changed active → failed: killed by SIGKILL attempt=2"
        );
        let event: Event = serde_json::from_value(json!({
            "kind": "package_kept", "plugin": "echo", "version": "1.0.0", "reason": "it hangs",
            "refused": {"version": "1.1.0", "digest": "0123456789abcdef"},
        }))
        .unwrap();
        assert_eq!(
            event_text(&event, &Screen::plain()),
            "1970-01-01T00:00:00.000Z echo 1.0.0 package_kept instead of 1.1.0 0123456789ab: it hangs"
        );
        let changed = json!({"kind": "package_changed", "plugin": "echo", "version": "1.1.0", "from_version": "1.0.0"});
        let event: Event = serde_json::from_value(changed).unwrap();
        assert_eq!(
            event_text(&event, &Screen::plain()),
            "1970-01-01T00:00:00.000Z echo 1.1.0 package_changed from 1.0.0"
        );
        let event =
            Event { from_digest: Some("0123456789abcdef".into()), digest: Some("fedcba9876543210".into()), ..event };
        assert_eq!(
            event_text(&event, &Screen::plain()),
            "1970-01-01T00:00:00.000Z echo 1.1.0 package_changed from 1.0.0 0123456789ab to fedcba987654"
        );
        let event: Event = serde_json::from_value(json!({"kind": "daemon_started"})).unwrap();
        assert_eq!(event_text(&event, &Screen::plain()), "1970-01-01T00:00:00.000Z daemon_started");
    }
}
