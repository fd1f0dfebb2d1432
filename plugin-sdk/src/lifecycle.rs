//! A plugin's life: greets the supervisor, initializes, serves, drains, ends. Each step is bounded.
//!
//! `serve` is the one place that decides what follows from an event; `connection` and `dispatch` only report.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use palisade_protocol::{
    CancelReason, Drain, Drained, ErrorBody, ErrorCode, FEATURES, FRAME_BYTES_MIN, Feature, Hello, Kind, Level,
    PROTOCOL, PluginWelcome, Ready, Refuse, Welcome,
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};

use crate::call::Shared;
use crate::connection::{Channel, Connection, Event};
use crate::dispatch::{Dispatch, Phase};
use crate::handler::Handlers;
use crate::host::{About, Host};
use crate::panic::{Panicked, guard};
use crate::plugin::{Configure, Exit, Plugin};
use crate::store::migrate;
use crate::wire::{Terms, Wire};
use crate::{Error, Result};

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;
pub(crate) type OnLoad = Box<dyn FnOnce(Host) -> BoxFuture<Result<()>> + Send>;
pub(crate) type Hook<S> = Box<dyn Fn(Arc<S>) -> BoxFuture<Result<()>> + Send + Sync>;
pub(crate) type ConfigureHook<S> = Box<dyn Fn(Arc<S>, Value) -> BoxFuture<Result<Configure>> + Send + Sync>;
pub(crate) type Initialize<S> = Box<dyn FnOnce(Host, Value) -> BoxFuture<Result<S>> + Send>;

/// How long the supervisor has to take the last frames of a plugin that ends.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);
/// The least credit that makes sense.
const CREDIT_BYTES_MIN: u32 = 64;

/// Why a plugin ends.
enum End {
    /// The supervisor closed the connection, or sent SIGTERM.
    Asked,
    /// It refused the plugin.
    Refused(Box<ErrorBody>),
    /// Reading or writing failed.
    Broken(std::io::Error),
    /// It broke a rule.
    Violation(String),
    /// The plugin did not initialize.
    Uninitialized(Error),
}

impl End {
    fn exit(&self, id: &str) -> Exit {
        match self {
            Self::Asked => Exit(0),
            Self::Refused(error) => {
                let hint = error.hint.as_deref().map(|hint| format!(" ({hint})")).unwrap_or_default();
                eprintln!("{id}: the supervisor refused the plugin: {}{hint}", error.message);
                Exit(69)
            }
            Self::Broken(error) => {
                eprintln!("{id}: the connection to the supervisor broke: {error}");
                Exit(74)
            }
            Self::Violation(sentence) => {
                eprintln!("{id}: the supervisor broke the protocol: {sentence}");
                Exit(76)
            }
            Self::Uninitialized(error) => {
                eprintln!("{id}: did not initialize: {error:?}");
                Exit(78)
            }
        }
    }
}

/// Reads the operator's configuration; none counts as an empty one.
pub(crate) fn read_configuration<C: DeserializeOwned>(configuration: &Value) -> Result<C> {
    let mut bytes = Vec::new();
    let read = palisade_protocol::encode_value(&mut bytes, configuration).map_err(Error::from).and_then(|()| {
        palisade_protocol::decode_value(&bytes)
            .map_err(|error| Error::configuration_invalid(format!("the configuration does not fit: {error}")))
    });
    read.map_err(|error| error.with_hint("correct the plugin's configuration, then start it again"))
}

/// Lives the whole life of a plugin on this connection. `terminated` is the wish to end that does not come by the
/// connection.
pub(crate) async fn serve<S, R, W>(plugin: Plugin<S>, source: R, sink: W, terminated: impl Future<Output = ()>) -> Exit
where
    S: Send + Sync + 'static,
    R: AsyncRead + Channel + Unpin,
    W: AsyncWrite + Channel + Unpin,
{
    crate::panic::install();
    let Plugin {
        id,
        version,
        actions,
        concurrency,
        state_schema,
        migrations,
        log_level,
        shutdown_within,
        initialize,
        on_load,
        health,
        self_test,
        configure,
        drain,
        shutdown,
        on_unload,
        on_error,
        ..
    } = plugin;
    let wire = Wire::new(log_level, on_error);
    #[cfg(feature = "tracing")]
    crate::tracing_layer::connect(&wire);
    let mut infos = Vec::with_capacity(actions.len());
    let mut handlers: Handlers<S> = BTreeMap::new();
    for action in actions {
        infos.push(action.info());
        let facts = Arc::new(action.options.facts());
        handlers.insert(facts.name.clone(), (facts, action.handler));
    }
    let dispatch = Dispatch::new(Arc::clone(&wire), handlers, usize::try_from(concurrency).unwrap_or(usize::MAX));
    let mut connection = Connection::new(dispatch, source, sink);
    let mut terminated = pin!(terminated);

    let life = async |connection: &mut Connection<S, R, W>| -> End {
        let (about, configuration) = match greet(connection, terminated.as_mut(), configure.is_some()).await {
            Ok(greeted) => greeted,
            Err(end) => return end,
        };
        let about = Arc::new(about);
        let host = Host::new(Arc::clone(&wire), Arc::clone(&about), None);
        let starting = async {
            if let Some(on_load) = on_load {
                guarded("on_load", || on_load(host.clone())).await?;
            }
            let (kept, stored) = (host.store(), host.state_schema());
            let migrate = async move { migrate(&kept, stored, state_schema, migrations).await };
            guarded("migration", || Box::pin(migrate)).await?;
            guarded("initialize", || initialize(host.clone(), configuration)).await
        };
        let mut asked_to_drain = None;
        let state = {
            let mut starting = pin!(starting);
            loop {
                tokio::select! {
                    biased;
                    () = &mut terminated => return End::Asked,
                    event = connection.next() => match ending(event) {
                        Ok(drain) => asked_to_drain = Some(drain),
                        Err(end) => return end,
                    },
                    state = &mut starting => break state,
                }
            }
        };
        let state = match state {
            Ok(state) => Arc::new(state),
            Err(error) => {
                wire.report(None, None, &brief(&error));
                return End::Uninitialized(error);
            }
        };
        let ready = Ready { id: id.clone(), version, actions: infos, concurrency, state_schema };
        wire.send(Kind::Ready, 0, &ready);
        drop(ready);
        let plugin = Arc::new(Shared { state: Arc::clone(&state), about, health, self_test, configure });
        connection.dispatch.plugin = Some(plugin);
        connection.dispatch.phase = Phase::Serving;

        let end = {
            let mut draining: Option<BoxFuture<()>> = None;
            let drain = drain.map(Arc::new);
            loop {
                if let Some(asked) = asked_to_drain.take()
                    && connection.dispatch.phase == Phase::Serving
                {
                    connection.dispatch.phase = Phase::Draining;
                    draining = Some(Box::pin(drained(Arc::clone(&wire), asked, drain.clone(), Arc::clone(&state))));
                }
                tokio::select! {
                    biased;
                    () = &mut terminated => break End::Asked,
                    event = connection.next() => match ending(event) {
                        Ok(drain) => asked_to_drain = Some(drain),
                        Err(end) => break end,
                    },
                    () = async { if let Some(draining) = &mut draining { draining.await } }, if draining.is_some() => {
                        draining = None;
                    }
                }
            }
        };
        if let End::Violation(sentence) = &end {
            refuse(&wire, ErrorBody::new(ErrorCode::ProtocolViolation, sentence.clone()));
        }
        // Handlers first, as they use the state that `shutdown` puts away.
        connection.stop_reading();
        let until = Instant::now() + shutdown_within;
        for call in wire.calls() {
            call.cancel(CancelReason::Draining);
        }
        let half = Instant::now() + shutdown_within / 2;
        let _ = beside(connection, timeout_at(half, wire.until_idle())).await;
        if let Some(shutdown) = shutdown {
            let left = until.saturating_duration_since(Instant::now());
            let ran = beside(connection, run_hook("shutdown", &wire, left, &shutdown, &state)).await;
            if let Err(error) = ran {
                eprintln!("{id}: {}", error.message());
            }
        }
        end
    };
    let end = life(&mut connection).await;
    match &end {
        End::Uninitialized(error) => refuse(&wire, brief_initialization(error)),
        End::Violation(sentence) if connection.dispatch.plugin.is_none() => {
            refuse(&wire, ErrorBody::new(ErrorCode::ProtocolViolation, sentence.clone()));
        }
        _ => {}
    }
    if let Some(on_unload) = on_unload
        && let Err(panicked) = guard(on_unload)
    {
        eprintln!("{id}: {}", panicked.into_error("on_unload").message());
    }
    let _ = timeout(FLUSH_WITHIN, connection.flush()).await;
    wire.close();
    connection.dispatch.tasks.abort_all();
    end.exit(&id)
}

/// Says hello and waits for the supervisor's answer.
async fn greet<S, R, W>(
    connection: &mut Connection<S, R, W>,
    mut terminated: Pin<&mut impl Future<Output = ()>>,
    configures: bool,
) -> Result<(About, Value), End>
where
    S: Send + Sync + 'static,
    R: AsyncRead + Channel + Unpin,
    W: AsyncWrite + Channel + Unpin,
{
    let hello = Hello {
        protocol: PROTOCOL,
        features: FEATURES
            .iter()
            // Without a hook there is nothing to ask.
            .filter(|feature| configures || **feature != Feature::Configure)
            .map(|feature| feature.name().to_owned())
            .collect(),
        software: concat!("palisade-sdk/", env!("CARGO_PKG_VERSION")).to_owned(),
    };
    connection.dispatch.wire.send(Kind::Hello, 0, &hello);
    let welcome = tokio::select! {
        biased;
        () = &mut terminated => return Err(End::Asked),
        event = connection.next() => match event {
            Event::Welcome(welcome) => *welcome,
            event => match ending(event) {
                Ok(_) => return Err(End::Violation("Drain came before Welcome".to_owned())),
                Err(end) => return Err(end),
            },
        },
    };
    let (terms, welcome) = agreed(welcome).map_err(End::Violation)?;
    connection.dispatch.wire.agree(terms);
    connection.dispatch.phase = Phase::Starting;
    connection.set_frame_bytes_max(terms.limits.frame_bytes_max);
    Ok(About::new(welcome))
}

/// Checks what the supervisor decided.
fn agreed(welcome: Welcome) -> Result<(Terms, PluginWelcome), String> {
    let Welcome { protocol, features, limits, plugin, .. } = welcome;
    if !(PROTOCOL.min..=PROTOCOL.max).contains(&protocol) {
        return Err(format!(
            "Welcome chose protocol version {protocol}, and this plugin speaks {} to {}",
            PROTOCOL.min, PROTOCOL.max
        ));
    }
    if limits.frame_bytes_max < FRAME_BYTES_MIN || limits.credit_bytes < CREDIT_BYTES_MIN {
        return Err("Welcome set limits below the protocol's least ones".to_owned());
    }
    let has = |feature: Feature| features.iter().any(|name| name == feature.name());
    let terms = Terms { limits, streams: has(Feature::Streams), continues: has(Feature::Continue) };
    let plugin = plugin.ok_or("Welcome lacks `plugin`: this end was taken for an agent")?;
    Ok((terms, plugin))
}

/// Whether an event is a wish to drain, or an end.
fn ending(event: Event) -> Result<Drain, End> {
    match event {
        Event::Drain(drain) => Ok(drain),
        Event::End => Err(End::Asked),
        Event::Refused(error) => Err(End::Refused(error)),
        Event::Broken(error) => Err(End::Broken(error)),
        Event::Violation(sentence) => Err(End::Violation(sentence)),
        Event::Welcome(_) => Err(End::Violation("a second Welcome".to_owned())),
    }
}

/// Lets the calls under way end, runs the hook, and says when all is done.
async fn drained<S>(wire: Arc<Wire>, drain: Drain, hook: Option<Arc<Hook<S>>>, state: Arc<S>) {
    let within = Duration::from_millis(drain.within_ms);
    for call in wire.calls() {
        if call.action.as_ref().is_some_and(|action| action.endless) {
            call.cancel(CancelReason::Draining);
        }
    }
    // The last tenth is for calls to end as cancelled, which is better than being cut off.
    if timeout(within / 10 * 9, wire.until_idle()).await.is_err() {
        for call in wire.calls() {
            call.cancel(CancelReason::Draining);
        }
        wire.until_idle().await;
    }
    if let Some(hook) = hook {
        // How long it may take, with all extensions, is the supervisor's business, which ends it by closing the
        // connection.
        if let Err(error) = run_hook("drain", &wire, Duration::MAX, &hook, &state).await {
            wire.log(Level::Error, error.message().to_owned(), None, None);
        }
    }
    wire.send(Kind::Drained, 0, &Drained {});
}

/// Awaits `work` while the connection goes on writing.
async fn beside<S, R, W, T>(connection: &mut Connection<S, R, W>, work: impl Future<Output = T>) -> T
where
    S: Send + Sync + 'static,
    R: AsyncRead + Channel + Unpin,
    W: AsyncWrite + Channel + Unpin,
{
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            // Nothing is read any more, so this is at most one failed write.
            _ = connection.next() => {}
        }
    }
}

fn refuse(wire: &Wire, error: ErrorBody) {
    wire.send(Kind::Refuse, 0, &Refuse { error });
}

/// An error of initialization as the operator reads it: with a code that says which step failed.
fn brief_initialization(error: &Error) -> ErrorBody {
    let body = brief(error);
    match body.code {
        ErrorCode::ExecutionFailed => ErrorBody {
            hint: body.hint,
            details: body.details,
            ..ErrorBody::new(ErrorCode::InitializationFailed, body.message)
        },
        _ => body,
    }
}

fn brief(error: &Error) -> ErrorBody {
    error.clone_body()
}

/// Runs a hook: bounded, and its panics caught. Its failure is reported.
pub(crate) async fn run_hook<S>(
    name: &str,
    wire: &Wire,
    within: Duration,
    hook: &Hook<S>,
    state: &Arc<S>,
) -> Result<()> {
    let ran = match timeout(within, guarded(name, || hook(Arc::clone(state)))).await {
        Ok(ran) => ran,
        Err(_) => Err(Error::timeout(format!("{name} took longer than {} ms", within.as_millis()))),
    };
    if let Err(error) = &ran {
        wire.report(None, None, &brief(error));
    }
    ran
}

/// Runs the configure hook: its panics caught. Its failure is reported, but for what it refuses.
pub(crate) async fn run_configure<S>(
    wire: &Wire,
    hook: &ConfigureHook<S>,
    state: &Arc<S>,
    configuration: Value,
) -> Result<Configure> {
    let ran = guarded("configure", || hook(Arc::clone(state), configuration)).await;
    if let Err(error) = &ran
        && error.code() != ErrorCode::ConfigurationInvalid
    {
        wire.report(None, None, &brief(error));
    }
    ran
}

/// Runs author's code with its panics caught.
async fn guarded<T>(name: &str, begin: impl FnOnce() -> BoxFuture<Result<T>>) -> Result<T> {
    let said = |panicked: Panicked| panicked.into_error(name);
    let mut future = guard(begin).map_err(said)?;
    let polled = poll_fn(|context| match guard(|| future.as_mut().poll(context)) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
        Err(panicked) => Poll::Ready(Err(panicked)),
    })
    .await;
    // Its destructor is the author's as well.
    let dropped = guard(move || drop(future));
    let done = polled.map_err(said)?;
    dropped.map_err(said)?;
    done
}
