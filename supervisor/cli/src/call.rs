//! `palisade call`: parameters in, streams and result out, Ctrl-C in between.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use palisade_client::{CallError, Input, InputError, Piece, Raw, Running, StreamKind};
use palisade_protocol::{ActionInfo, ErrorCode, PAYLOAD_BYTES_MAX};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::arguments::{self, split_target};
use crate::attend::Attendant;
use crate::failure::Failure;
use crate::output::Output;
use crate::screen::harmless;
use crate::value::{self, Layout};
use crate::{Context, Limit, operate, params};

/// Input is read in pieces of this size, so many ahead of what the action takes.
const INPUT_PIECE_BYTES: usize = 64 << 10;
const INPUT_PIECES_AHEAD: usize = 4;

/// Calls an action and prints what comes of it.
pub(crate) async fn call(context: &Context, arguments: arguments::Call) -> Result<(), Failure> {
    let limit = arguments.timeout.map(|timeout| (Instant::now(), timeout));
    let (plugin, version) = split_target(&arguments.plugin);
    let stdin_twice = arguments.params.as_deref() == Some("-") && arguments.input.as_deref() == Some(Path::new("-"));
    if stdin_twice {
        return Err(Failure::usage("--params and --input cannot both read stdin"));
    }
    // What can be wrong without a daemon is said without one.
    let base = arguments.params.as_deref().map(params::read).transpose()?;
    let source = arguments.input.as_deref().map(open).transpose()?;

    let what = format!("{plugin} {}", arguments.action);
    let mut attendant = Attendant::new(&context.screen, &context.interrupts, what);
    let described = describe(context, plugin, version, &arguments.action, limit);
    let action = attendant.wait(described, || Ok(())).await??;
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
    let outcome = print_all(context, &mut attendant, running, feeder).await;
    match (outcome, attendant.interrupted()) {
        // Whatever it says of having been cancelled, the user knows.
        (Err(_), Some(status)) => Err(Failure::silent(status)),
        (outcome, _) => outcome,
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
    #[derive(Serialize)]
    struct Describe<'a> {
        plugin: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        version: Option<&'a str>,
        action: &'a str,
    }
    #[derive(Deserialize)]
    struct Described {
        #[serde(default)]
        actions: Vec<ActionInfo>,
    }
    let params = Describe { plugin, version, action };
    let Described { actions } = operate(&context.client, "describe", &params, limit).await?;
    // One that is not described is called all the same; the plugin decides.
    Ok(actions
        .into_iter()
        .find(|info| info.name == action)
        .unwrap_or_else(|| ActionInfo { name: action.to_owned(), ..ActionInfo::default() }))
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
        Err(error) => Err(Failure::usage(format!("the input file {name} cannot be read: {error}"))),
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
                Err(Failure::code(ErrorCode::InvalidParams, format!("{} line {number} is too long", source.name)))
            }
            Ok(_) if line.trim_ascii().is_empty() => continue,
            Ok(_) => serde_json::from_slice(&line)
                .map_err(|error| {
                    let what = error.to_string();
                    let what = what.split(" at line ").next().unwrap_or(&what);
                    let place = format!("line {number}, column {}", error.column());
                    let message = format!("{} is not JSON: {place}: {what}", source.name);
                    Failure::code(ErrorCode::InvalidParams, message)
                        .with_hint("this action reads one JSON value a line")
                })
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
