//! `palisade call`: parameters in, streams and result out, Ctrl-C in between.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use palisade_client::admin::{Dossier, PluginStatus, Target};
use palisade_client::{CallError, Input, InputError, Piece, Raw, Running, StreamKind};
use palisade_protocol::{ActionInfo, ErrorBody, ErrorCode, Fault, PAYLOAD_BYTES_MAX};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::arguments::{self, split_target};
use crate::attend::Attendant;
use crate::failure::Failure;
use crate::output::{Output, Reader};
use crate::plugins::{Describe, Described};
use crate::screen::{Label, Screen, harmless};
use crate::times::now_unix_ms;
use crate::value::{self, Layout};
use crate::{Context, Limit, operate, params};

/// Input is read in pieces of this size, so many ahead of what the action takes.
const INPUT_PIECE_BYTES: usize = 64 << 10;
const INPUT_PIECES_AHEAD: usize = 4;

/// How long the daemon is asked, after the time is over, what became of the plugin.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Calls an action and prints what comes of it.
pub(crate) async fn call(context: &Context, arguments: arguments::Call) -> Result<(), Failure> {
    let limit = arguments.timeout.map(|timeout| (Instant::now(), timeout));
    let began_unix_ms = now_unix_ms();
    let (plugin, version) = split_target(&arguments.plugin);
    let stdin_twice = arguments.params.as_deref() == Some("-") && arguments.input.as_deref() == Some(Path::new("-"));
    if stdin_twice {
        return Err(Failure::usage("--params and --input cannot both read stdin"));
    }
    // What can be wrong without a daemon is said without one.
    let what = format!("{plugin} {}", arguments.action);
    let base = match arguments.params.clone() {
        Some(params) => {
            let name = params::name(&params).to_owned();
            Some(aside(context, limit, &what, &format!("{name} has not ended"), move || params::read(&params)).await?)
        }
        None => None,
    };
    let source = match arguments.input.clone() {
        Some(path) => {
            let waits = format!("nobody has opened {} for writing", path.display());
            Some(aside(context, limit, &what, &waits, move || open(&path)).await?)
        }
        None => None,
    };

    let mut attendant = Attendant::new(&context.screen, &context.interrupts, what);
    let described = describe(context, plugin, version, &arguments.action, limit);
    let action = match attendant.wait(described, || Ok(())).await? {
        Ok(action) => action,
        Err(error) if error.code() == ErrorCode::Timeout && reached(&error) => {
            let known = attendant
                .wait(does_not_start(context, plugin, version, &arguments.action, began_unix_ms), || Ok(()))
                .await?;
            return Err(known.unwrap_or_else(|| not_ready(plugin, &arguments.action, limit)));
        }
        Err(error) => return Err(error.into()),
    };
    let params = params::assemble(base, &arguments.assignments, action.parameters.as_ref())?;
    let input_kind = input_kind(&action, source.is_some())?;

    let mut request = context.client.request(plugin, &arguments.action);
    if let Some(params) = &params {
        request = request.params(value::from_json(params)?);
    }
    if let Some(version) = version {
        request = request.version(version);
    }
    if let Some((begun, timeout)) = limit {
        request = request.timeout(timeout).counted_from(begun);
    }
    let running = attendant.wait(request.start(), || Ok(())).await??;
    attendant.canceller = Some(running.canceller());
    attendant.progress = Some(running.progress());
    let feeder = match input_kind {
        Some(kind) => Some(tokio::spawn(feed(running.input(kind)?, kind, source))),
        None => None,
    };
    let outcome = print_all(context, &mut attendant, running, feeder).await.map_err(|failure| {
        if failure.is_unreadable() { failure.about(&format!("{plugin} {}", arguments.action)) } else { failure }
    });
    match (outcome, attendant.interrupted()) {
        // Whatever it says of having been cancelled, the user knows.
        (Err(_), Some(status)) => Err(Failure::silent(status)),
        // The actions are known of a plugin that ran before, so that the call itself may be what waited for its start.
        (Err(failure), None) if failure.status == ErrorCode::Timeout.exit_status() && attendant.reader.is_none() => {
            let known = does_not_start(context, plugin, version, &arguments.action, began_unix_ms);
            Err(attendant.wait(known, || Ok(())).await?.unwrap_or(failure))
        }
        (outcome, _) => outcome,
    }
}

/// Does on a thread what may block for as long as somebody else likes: a terminal, a pipe and a FIFO cannot be read in any other way.
/// An interruption or the end of the time ends the wait, and the thread ends with the program.
async fn aside<T: Send + 'static>(
    context: &Context,
    limit: Option<Limit>,
    what: &str,
    waits: &str,
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    // Nothing is drawn over what is being typed.
    let screen = Screen { stderr_is_terminal: false, ..context.screen };
    let mut attendant = Attendant::new(&screen, &context.interrupts, what);
    let task = tokio::task::spawn_blocking(work);
    let end = limit.and_then(|(begun, timeout)| Some((begun.checked_add(timeout)?, timeout)));
    let done = async {
        match end {
            Some((at, after)) => tokio::time::timeout_at(at, task).await.map_err(|_| after),
            None => Ok(task.await),
        }
    };
    match attendant.wait(done, || Ok(())).await? {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(Failure::code(ErrorCode::Internal, error.to_string())),
        },
        Err(after) => {
            let message = format!("nothing was called: {waits} within {}", humantime::format_duration(after));
            let body = ErrorBody::new(ErrorCode::Timeout, message).with_fault(Fault::Caller);
            Err(CallError::Remote(Box::new(body.with_hint("--timeout bounds this wait as well"))).into())
        }
    }
}

/// Which stream the action reads, if it reads one: it has to be opened even if there is nothing to put in.
fn input_kind(action: &ActionInfo, is_given: bool) -> Result<Option<StreamKind>, Failure> {
    match &action.input {
        Some(input) => Ok(Some(input.kind)),
        None if is_given => {
            let message = format!("`{}` reads no input stream", action.name);
            Err(Failure::code(ErrorCode::StreamingNotSupported, message).with_hint("leave --input out"))
        }
        None => Ok(None),
    }
}

/// What the plugin says of the action.
async fn describe(
    context: &Context,
    plugin: &str,
    version: Option<&str>,
    action: &str,
    limit: Option<Limit>,
) -> Result<ActionInfo, CallError> {
    let params = Describe { plugin, version, action };
    let Described { actions, deprecated } = operate(&context.client, "describe", &params, limit).await?;
    if let Some(warning) = deprecated.filter(|_| !context.json) {
        let _ = context.screen.error_line(&context.screen.labelled(Label::Warning, &harmless(&warning)));
    }
    // One that is not described is called all the same; the plugin decides.
    Ok(actions
        .into_iter()
        .find(|info| info.name == action)
        .unwrap_or_else(|| ActionInfo { name: action.to_owned(), ..ActionInfo::default() }))
}

/// Whether it was the daemon that ran out of time, rather than the way to it.
fn reached(error: &CallError) -> bool {
    matches!(error, CallError::Remote(_) | CallError::TimedOut { .. })
}

/// What is said when the time was over because the plugin does not start, if the daemon knows that.
async fn does_not_start(
    context: &Context,
    plugin: &str,
    version: Option<&str>,
    action: &str,
    began_unix_ms: u64,
) -> Option<Failure> {
    let target = Target { plugin: Some(plugin), version };
    let asked = context.client.admin().request("status", &target).timeout(LAST_WORD).call::<PluginStatus>();
    let status = tokio::time::timeout(LAST_WORD, asked).await.ok()?.ok()?;
    let failure = start_failure(&status, began_unix_ms)?;
    let message = format!("`{plugin}` does not start, so `{action}` was not called: {}", failure.reason);
    let hint = format!("`palisade status {plugin}` and `palisade logs {plugin}` show more");
    let body = ErrorBody::new(ErrorCode::InitializationFailed, message).with_hint(hint);
    Some(CallError::Remote(Box::new(body)).into())
}

/// What is said when the time was over before the action was even called.
fn not_ready(plugin: &str, action: &str, limit: Option<Limit>) -> Failure {
    let after = limit.map(|(_, after)| format!(": {}", CallError::TimedOut { after })).unwrap_or_default();
    let message = format!("`{plugin}` was not ready for `{action}`{after}");
    let hint = format!("give it more time with --timeout, or see `palisade status {plugin}`");
    CallError::Remote(Box::new(ErrorBody::new(ErrorCode::Timeout, message).with_hint(hint))).into()
}

/// The failure that keeps a plugin from running: one since the command began, or one after which it has not come up again.
fn start_failure(status: &PluginStatus, began_unix_ms: u64) -> Option<&Dossier> {
    let failure = status.last_failure.as_ref().filter(|_| !status.is_active())?;
    let stays_down = status.state == "failed" || status.restart_in_ms.is_some();
    (stays_down || began_unix_ms <= failure.at_unix_ms).then_some(failure)
}

async fn print_all(
    context: &Context,
    attendant: &mut Attendant,
    running: Running,
    feeder: Option<JoinHandle<Result<(), Failure>>>,
) -> Result<(), Failure> {
    let mut output = Output::new();
    let mut stream = running.output();
    let mut feeder = Feeder(feeder);
    loop {
        let next = async {
            tokio::select! {
                biased;
                piece = stream.next() => Ok(piece),
                failure = feeder.failure() => Err(failure),
            }
        };
        let Some(piece) = attendant.wait(next, || output.flush()).await?? else { break };
        attendant.hide();
        // Only of what streams it is known that somebody should be reading it.
        if piece.is_ok() {
            attendant.reader.get_or_insert_with(Reader::of_stdout);
        }
        match piece {
            Ok(Piece::Bytes(bytes)) => output.write(&bytes)?,
            Ok(Piece::Item(item)) => output.line(&value::to_json(&item, Layout::Line)?)?,
            // The call's own outcome says the same, or more.
            Err(_) => break,
        }
    }
    drop(stream);
    let end = async {
        tokio::select! {
            biased;
            result = running.result::<Raw>() => Ok(result),
            failure = feeder.failure() => Err(failure),
        }
    };
    let result = attendant.wait(end, || output.flush()).await??;
    attendant.hide();
    // What came before an error is printed before it.
    output.flush()?;
    let result = result?;
    if context.json {
        output.line(&value::to_json(&result, Layout::Line)?)?;
    } else if let Some(text) = value::as_string(&result) {
        output.line(&if context.screen.stdout_is_terminal { harmless(&text) } else { text })?;
    } else if !value::is_nil(&result) {
        output.line(&value::to_json(&result, Layout::Indented)?)?;
    }
    output.flush()
}

/// The task that feeds the input stream; it is of interest only if it fails.
struct Feeder(Option<JoinHandle<Result<(), Failure>>>);

impl Feeder {
    async fn failure(&mut self) -> Failure {
        if let Some(task) = &mut self.0 {
            let ended = task.await;
            self.0 = None;
            if let Ok(Err(failure)) = ended {
                return failure;
            }
        }
        std::future::pending().await
    }
}

impl Drop for Feeder {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Where input comes from.
struct Source {
    name: String,
    reader: Box<dyn Read + Send>,
}

fn open(path: &Path) -> Result<Source, Failure> {
    if path == Path::new("-") {
        return Ok(Source { name: "stdin".into(), reader: Box::new(std::io::stdin()) });
    }
    let name = path.display().to_string();
    match std::fs::File::open(path) {
        Ok(file) => Ok(Source { name, reader: Box::new(file) }),
        Err(error) => Err(Failure::usage(format!("the input file {name} cannot be read: {error}"))
            .with_hint("--input FILE names a file to feed the action's input stream from, and `-` is stdin")),
    }
}

/// Feeds the input stream until the source ends or the action wants no more.
async fn feed(mut input: Input, kind: StreamKind, source: Option<Source>) -> Result<(), Failure> {
    let Some(source) = source else {
        input.finish();
        return Ok(());
    };
    let (sender, mut pieces) = mpsc::channel(INPUT_PIECES_AHEAD);
    // A thread, as reading a terminal or a pipe cannot be interrupted. It ends with its source, with the call or with the program.
    std::thread::spawn(move || match kind {
        StreamKind::Bytes => read_bytes(source, &sender),
        StreamKind::Items => read_items(source, &sender),
    });
    while let Some(piece) = pieces.recv().await {
        let sent = match piece? {
            Piece::Bytes(bytes) => input.write(bytes).await,
            Piece::Item(item) => input.send(item).await,
        };
        match sent {
            Ok(()) => {}
            // The action has enough, or is over; how the call ends says the rest.
            Err(InputError::Closed) => return Ok(()),
            Err(InputError::Invalid(error)) => return Err(error.into()),
        }
    }
    input.finish();
    Ok(())
}

type Pieces = mpsc::Sender<Result<Piece, Failure>>;

fn unreadable(name: &str, error: &std::io::Error) -> Failure {
    Failure::usage(format!("the input {name} cannot be read: {error}"))
}

fn read_bytes(mut source: Source, pieces: &Pieces) {
    loop {
        let mut piece = vec![0; INPUT_PIECE_BYTES];
        let piece = match source.reader.read(&mut piece) {
            Ok(0) => return,
            Ok(count) => {
                piece.truncate(count);
                Ok(Piece::Bytes(Bytes::from(piece)))
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => Err(unreadable(&source.name, &error)),
        };
        let failed = piece.is_err();
        if pieces.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

fn read_items(source: Source, pieces: &Pieces) {
    let mut reader = BufReader::new(source.reader);
    let mut number = 0_u64;
    loop {
        let mut line = Vec::new();
        number += 1;
        // One more than allowed tells a line that is too long from one that just fits.
        let item = match (&mut reader).take(PAYLOAD_BYTES_MAX + 1).read_until(b'\n', &mut line) {
            Ok(0) => return,
            Ok(_) if line.len() as u64 > PAYLOAD_BYTES_MAX => {
                let message = format!("{} line {number} is longer than a value may be", source.name);
                Err(Failure::code(ErrorCode::InvalidParams, message)
                    .with_hint(format!("a line may have {} MiB", PAYLOAD_BYTES_MAX >> 20)))
            }
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) => params::parse_line(&line, &source.name, number)
                .map_err(|failure| failure.with_hint_if_none("this action reads one JSON value a line"))
                .and_then(|item| value::from_json(&item))
                .map(Piece::Item),
            Err(error) => Err(unreadable(&source.name, &error)),
        };
        let failed = item.is_err();
        if pieces.blocking_send(item).is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_failure_of_a_plugin_that_is_starting_is_not_blamed() {
        let failure = |at_unix_ms| Some(Dossier { at_unix_ms, ..Dossier::default() });
        let status = |state: &str, at| PluginStatus {
            state: state.into(),
            last_failure: failure(at),
            ..PluginStatus::default()
        };
        assert_eq!(start_failure(&status("loaded", 99), 100), None);
        assert_eq!(start_failure(&status("active", 100), 100), None);
        assert!(start_failure(&status("loaded", 100), 100).is_some());
        assert!(start_failure(&status("failed", 1), 100).is_some());
        let waiting = PluginStatus { restart_in_ms: Some(500), ..status("loaded", 1) };
        assert!(start_failure(&waiting, 100).is_some());
        assert_eq!(start_failure(&PluginStatus { last_failure: None, ..waiting }, 100), None);
    }
}
