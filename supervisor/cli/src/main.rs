//! `palisade`: the command line of Palisade.
//!
//! It speaks to the daemon through `palisade-client` like any other agent. Silent on success; with `--json`, JSON and nothing else;
//! an error is a sentence with a hint on stderr, and an exit status that `docs/cli.md` explains.
#![forbid(unsafe_code)]

mod arguments;
mod attend;
mod audit;
mod call;
mod configuration;
mod doctor;
mod failure;
mod follow;
mod limits;
mod new;
mod output;
mod pack;
mod packages;
mod params;
mod permissions;
mod plugins;
mod registry;
mod reload;
mod run;
mod screen;
mod secrets;
mod state;
mod times;
mod trust;
mod validate;
mod value;

use std::process::ExitCode;
use std::time::Duration;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Parser};
use palisade_client::admin::Change;
use palisade_client::{CallError, Client, FromPayload, Raw, Request};
use palisade_protocol::{ErrorCode, SUPERVISOR_ID};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::arguments::{Arguments, Command};
use crate::attend::{Attendant, Interrupts};
use crate::failure::Failure;
use crate::output::Output;
use crate::screen::{Label, Screen, harmless};

/// What every command needs.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) screen: Screen,
    pub(crate) interrupts: Interrupts,
    pub(crate) json: bool,
}

/// Operations whose answer may say that what was said ends with the daemon.
const SAYING: [&str; 5] = ["grant", "revoke", "enable", "disable", "deprecate"];

/// Of an answer, what is said of that.
#[derive(Deserialize)]
struct Kept {
    #[serde(default)]
    not_kept: Option<String>,
}

impl Context {
    /// Warns where what was said is not kept; whoever reads JSON finds it there.
    pub(crate) fn warn(&self, operation: &str, answer: &Raw) {
        if SAYING.contains(&operation)
            && !self.json
            && let Ok(Kept { not_kept: Some(why) }) = answer.decode()
        {
            let _ = self.screen.error_line(&self.screen.labelled(Label::Warning, &harmless(&why)));
        }
    }

    /// Performs an operation of the daemon's.
    pub(crate) async fn operate(&self, operation: &str, params: &impl Serialize) -> Result<Raw, Failure> {
        let mut attendant = Attendant::new(&self.screen, &self.interrupts, "waiting for the daemon");
        let call = operate(&self.client, operation, params, None);
        let answer: Raw = attendant.wait(call, || Ok(())).await??;
        self.warn(operation, &answer);
        Ok(answer)
    }
}

/// For so long an operation is repeated that the daemon turns away for a moment, as while it looks for its plugins.
const PATIENCE: Duration = Duration::from_secs(10);

/// When it says to come back later than this, it is told to the user instead.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How long a command may take, and since when.
pub(crate) type Limit = (Instant, Duration);

/// Performs an operation of the daemon's, again after the pause that it asks for if it was turned away.
pub(crate) async fn operate<R: FromPayload>(
    client: &Client,
    operation: &str,
    params: &impl Serialize,
    limit: Option<Limit>,
) -> Result<R, CallError> {
    patiently(limit, || client.request(SUPERVISOR_ID, operation).params(params)).await
}

/// The same of a request however it is made.
pub(crate) async fn patiently<'a, R: FromPayload>(
    limit: Option<Limit>,
    request: impl Fn() -> Request<'a>,
) -> Result<R, CallError> {
    let patience = Instant::now() + PATIENCE;
    let give_up = limit.and_then(|(begun, timeout)| begun.checked_add(timeout)).map_or(patience, |at| at.min(patience));
    loop {
        let mut request = request();
        if let Some((begun, timeout)) = limit {
            request = request.timeout(timeout).counted_from(begun);
        }
        let error = match request.call().await {
            Err(CallError::Remote(body)) => body,
            outcome => return outcome,
        };
        // Both are said before anything was done.
        let turned_away = matches!(error.code, ErrorCode::Unavailable | ErrorCode::Overloaded);
        match error.retry_after_ms.map(Duration::from_millis) {
            Some(pause) if turned_away && pause <= PAUSE_MAX && Instant::now() + pause < give_up => sleep(pause).await,
            _ => return Err(CallError::Remote(error)),
        }
    }
}

fn main() -> ExitCode {
    let screen = Screen::new();
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return usage(&error, &screen),
    };
    let as_json = arguments.json;
    let outcome = match arguments.command {
        // None of these needs a daemon.
        Command::Run(run) => {
            let named = || std::env::var_os(palisade_client::SOCKET_VARIABLE).map(std::path::PathBuf::from);
            Err(run::run(run.arguments, arguments.socket.or_else(named).as_deref()))
        }
        Command::Completions { shell } => completions(shell),
        Command::Validate { folder, program, run } => {
            validate::validate(&folder, program.as_deref(), run, &screen, as_json)
        }
        Command::Pack(pack) => pack::pack(&pack, &screen, as_json).map(|()| 0),
        Command::New(new) => new::new(&new, as_json),
        Command::Keygen(keygen) => trust::keygen(keygen, as_json).map(|()| 0),
        Command::Sign(sign) => trust::sign(&sign, as_json).map(|()| 0),
        Command::Verify(verify) => trust::verify(verify, &screen, as_json).map(|()| 0),
        _ => on_runtime(arguments, screen),
    };
    let status = match outcome {
        Ok(status) => status,
        Err(failure) => {
            failure.print(&screen, as_json);
            failure.status
        }
    };
    ExitCode::from(status)
}

/// What clap says, in the manner of all other errors. Help and version are no errors.
fn usage(error: &clap::Error, screen: &Screen) -> ExitCode {
    if !error.use_stderr() {
        return match error.print() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => ExitCode::from(Failure::output(&error).status),
        };
    }
    // The arguments cannot be read, but what this one of them means is plain.
    let as_json =
        std::env::args_os().skip(1).take_while(|argument| argument != "--").any(|argument| argument == "--json");
    if !as_json
        && matches!(error.kind(), ErrorKind::MissingSubcommand | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand)
    {
        // Nothing was asked for, so this is how to ask.
        let _ = screen.error_line(help_of(error).trim_end());
        return ExitCode::from(failure::USAGE);
    }
    let text = error.render().to_string();
    let (text, rest) = text.split_once("\n\n").unwrap_or((&text, ""));
    let text = text.strip_prefix("error: ").unwrap_or(text);
    if as_json {
        let one_line = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let failure = Failure::usage(one_line(text));
        // What clap suggests, or else how the command is used; the rest only says that there is help.
        let lines = || rest.lines().map(str::trim);
        let tip =
            lines().find_map(|line| line.strip_prefix("tip: ")).or(lines().find(|line| line.starts_with("Usage: ")));
        let failure = if let Some(tip) = tip { failure.with_hint(tip) } else { failure };
        failure.print(screen, true);
        return ExitCode::from(failure::USAGE);
    }
    let _ = screen.error_line(&screen.labelled(Label::Error, &harmless(text.trim_end())));
    let _ = screen.error_line(&harmless(rest.trim_end()));
    ExitCode::from(failure::USAGE)
}

/// The help of the command of which something is missing, or of all where that is the whole line.
fn help_of(error: &clap::Error) -> String {
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return error.render().to_string();
    }
    let mut command = Arguments::command();
    command.build();
    // As it is called, such as `palisade state`.
    let called = match error.get(ContextKind::InvalidSubcommand) {
        Some(ContextValue::String(called)) => called.as_str(),
        _ => "",
    };
    for name in called.split_whitespace().skip(1) {
        match command.find_subcommand(name) {
            Some(found) => command = found.clone(),
            None => break,
        }
    }
    command.render_help().to_string()
}

fn completions(shell: clap_complete::Shell) -> Result<u8, Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "palisade", &mut script);
    let mut output = Output::new();
    output.write(&script)?;
    output.flush()?;
    Ok(0)
}

fn on_runtime(arguments: Arguments, screen: Screen) -> Result<u8, Failure> {
    // The second thread drives the connection and listens for signals while the first may be stuck writing.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::code(ErrorCode::Internal, error.to_string()))?;
    let outcome = runtime.block_on(async {
        let interrupts = Interrupts::listen().map_err(|error| Failure::code(ErrorCode::Internal, error.to_string()))?;
        let mut builder = Client::builder();
        if let Some(socket) = arguments.socket.filter(|socket| !socket.as_os_str().is_empty()) {
            builder = builder.path(socket);
        }
        let context = Context { client: builder.build(), screen, interrupts, json: arguments.json };
        dispatch(&context, arguments.command).await
    });
    // A thread may be stuck reading a terminal; nothing is left for it to do.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(context: &Context, command: Command) -> Result<u8, Failure> {
    match command {
        Command::Call(call) => call::call(context, *call).await?,
        Command::List => plugins::list(context).await?,
        Command::Status { plugin: None } => plugins::daemon_status(context).await?,
        Command::Status { plugin: Some(plugin) } => plugins::status(context, &plugin).await?,
        Command::Info { plugin, sandbox: true, .. } => plugins::sandbox(context, &plugin).await?,
        Command::Info { plugin, denied: true, .. } => plugins::denied(context, &plugin).await?,
        Command::Info { plugin, action: None, .. } => plugins::info(context, &plugin).await?,
        Command::Info { plugin, action: Some(action), .. } => plugins::action_info(context, &plugin, &action).await?,
        Command::Logs(logs) => follow::logs(context, &logs).await?,
        Command::Events { plugin, follow: _ } => follow::events(context, plugin.as_deref()).await?,
        Command::Start(targets) => plugins::change(context, Change::Start, targets.plugins).await?,
        Command::Stop(stop) => {
            let change = if stop.force { Change::ForceStop } else { Change::Stop };
            plugins::change(context, change, stop.targets.plugins).await?;
        }
        Command::Restart(targets) => plugins::change(context, Change::Restart, targets.plugins).await?,
        Command::Pause(targets) => plugins::change(context, Change::Pause, targets.plugins).await?,
        Command::Resume(targets) => plugins::change(context, Change::Resume, targets.plugins).await?,
        Command::Limit { plugin, changes } => limits::limit(context, &plugin, changes).await?,
        Command::Reset(targets) => plugins::change(context, Change::Reset, targets.plugins).await?,
        Command::Install { source, yes, load, major, force } => {
            packages::install(context, &source, load, packages::Leave { major, force, yes }).await?;
        }
        Command::Uninstall { targets, force, purge } => {
            packages::uninstall(context, &targets.plugins, force, purge).await?;
        }
        Command::Enable(targets) => plugins::change(context, Change::Enable, targets.plugins).await?,
        Command::Disable(targets) => plugins::change(context, Change::Disable, targets.plugins).await?,
        Command::Update { plugin, check: true, .. } => packages::check(context, plugin.as_deref()).await?,
        Command::Update { plugin, check: false, to, from, major, force, yes } => {
            let leave = packages::Leave { major, force, yes };
            packages::update(context, plugin.as_deref(), to.as_deref(), from.as_deref(), leave).await?;
        }
        Command::Permissions { plugin } => permissions::permissions(context, plugin.as_deref()).await?,
        Command::Pending => permissions::pending(context).await?,
        Command::Grant { plugin, permissions, yes, definitions } => {
            permissions::grant(context, &plugin, &permissions, yes, definitions).await?;
        }
        Command::Revoke { plugin, permissions, stop, forget } => {
            permissions::revoke(context, &plugin, &permissions, stop, forget).await?;
        }
        Command::Search(search) => registry::search(context, &search).await?,
        Command::Capabilities { plugin } => registry::capabilities(context, plugin.as_deref()).await?,
        Command::Deprecate { plugin, reason, undo } => {
            registry::deprecate(context, &plugin, reason.as_deref(), undo).await?;
        }
        Command::Stats { plugin } => registry::stats(context, plugin.as_deref()).await?,
        Command::Config(config) => configuration::config(context, &config).await?,
        Command::State { command } => state::state(context, &command).await?,
        Command::Secret { command } => secrets::secret(context, &command).await?,
        Command::Rescan => packages::rescan(context).await?,
        Command::Reload { plugin, all: _, dry_run } => reload::reload(context, plugin.as_deref(), dry_run).await?,
        Command::Backups { plugin } => reload::backups(context, &plugin).await?,
        Command::Rollback { plugin, to, with_state } => reload::rollback(context, &plugin, to, with_state).await?,
        Command::Audit(which) => audit::audit(context, &which).await?,
        Command::Doctor => return doctor::doctor(context).await,
        Command::Version => doctor::version(context).await?,
        Command::Run(_)
        | Command::Completions { .. }
        | Command::Validate { .. }
        | Command::Pack(_)
        | Command::New(_)
        | Command::Keygen(_)
        | Command::Sign(_)
        | Command::Verify(_) => {
            unreachable!("handled before there was a runtime")
        }
    }
    Ok(0)
}
