//! A plugin as its author puts it together.

use std::ffi::OsStr;
use std::fmt;
use std::future::Future;
use std::io::Write;
use std::process::{ExitCode, Termination};
use std::sync::Arc;
use std::time::Duration;

use palisade_protocol::{Level, Limits};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::oneshot;

use crate::action::Action;
use crate::descriptors::{Sink, Source, take};
use crate::host::Host;
use crate::lifecycle::{ConfigureHook, Hook, Initialize, OnLoad, serve};
use crate::store::{Migrate, Store};
use crate::value::{Params, Reply};
use crate::wire::{ErrorHook, Failure};
use crate::{Call, Error, Result};

/// With this argument a plugin prints its identity and actions as JSON and ends.
const DESCRIBE: &str = "--palisade-describe";
/// With this one it prints what its code knows of its `plugin.json`. The daemon passes no argument that begins so.
const MANIFEST: &str = "--palisade-manifest";
/// How many calls at once unless said otherwise: as many as one connection carries by default.
pub(crate) const CONCURRENCY: u32 = 256;
/// How many threads for blocking handlers unless said otherwise.
const BLOCKING_THREADS: usize = 16;
/// An idle thread of a blocking handler ends after so long.
const THREAD_KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How long hooks and handlers have at the end unless said otherwise.
const SHUTDOWN_WITHIN: Duration = Duration::from_secs(5);

/// A plugin: its identity, its actions, its hooks. The crate's documentation opens with a complete one.
///
/// `S` is its state: what [`Plugin::with_state`] makes and every handler and hook can reach. It is shared, so what
/// changes in it needs a lock or an atomic.
#[must_use = "a plugin does nothing until it runs"]
pub struct Plugin<S = ()> {
    pub(crate) id: String,
    pub(crate) version: String,
    pub(crate) actions: Vec<Action<S>>,
    pub(crate) concurrency: u32,
    pub(crate) state_schema: Option<u32>,
    pub(crate) migrations: Vec<(u32, Migrate)>,
    pub(crate) log_level: Level,
    pub(crate) shutdown_within: Duration,
    pub(crate) initialize: Initialize<S>,
    pub(crate) on_load: Option<OnLoad>,
    pub(crate) health: Option<Hook<S>>,
    pub(crate) self_test: Option<Hook<S>>,
    pub(crate) configure: Option<ConfigureHook<S>>,
    pub(crate) drain: Option<Hook<S>>,
    pub(crate) shutdown: Option<Hook<S>>,
    pub(crate) on_unload: Option<Box<dyn FnOnce() + Send>>,
    pub(crate) on_error: Option<Box<ErrorHook>>,
    blocking_threads: usize,
}

impl<S> fmt::Debug for Plugin<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin")
            .field("id", &self.id)
            .field("version", &self.version)
            .field("actions", &self.actions)
            .finish_non_exhaustive()
    }
}

impl Plugin {
    /// A plugin without state. The id and the version must be those of its `plugin.json`; `env!("CARGO_PKG_VERSION")`
    /// keeps the version in one place.
    pub fn new(id: impl Into<String>, version: impl Into<String>) -> Self {
        // The operator's configuration is of no interest to a plugin that does not ask for it.
        Self::build(id.into(), version.into(), Box::new(|_, _| Box::pin(async { Ok(()) })))
    }
}

impl<S: Send + Sync + 'static> Plugin<S> {
    /// A plugin with state. `initialize` runs once, before any call, with the operator's configuration, and makes the
    /// state. A configuration that is not a `C` is refused with the path of what does not fit, and an absent one
    /// counts as empty. An error ends the plugin, and the operator reads its message and hint.
    ///
    /// The supervisor allows it only some time; [`Host::extend`] asks for more.
    ///
    /// ```
    /// use palisade_sdk::{Call, Host, Plugin, Result};
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct Config { #[serde(default)] greeting: Option<String> }
    ///
    /// struct State { greeting: String }
    ///
    /// async fn initialize(_host: Host, config: Config) -> Result<State> {
    ///     Ok(State { greeting: config.greeting.unwrap_or_else(|| "Hello".to_owned()) })
    /// }
    ///
    /// async fn greet(call: Call<State>, name: String) -> Result<String> {
    ///     Ok(format!("{}, {name}!", call.state().greeting))
    /// }
    ///
    /// let plugin = Plugin::with_state("greeter", "1.0.0", initialize).action("greet", "Greets.", greet);
    /// # let _ = plugin;
    /// ```
    pub fn with_state<C, I, F>(id: impl Into<String>, version: impl Into<String>, initialize: I) -> Self
    where
        C: DeserializeOwned,
        I: FnOnce(Host, C) -> F + Send + 'static,
        F: Future<Output = Result<S>> + Send + 'static,
    {
        let initialize: Initialize<S> =
            Box::new(move |host, configuration| match crate::lifecycle::read_configuration::<C>(&configuration) {
                Ok(configuration) => Box::pin(initialize(host, configuration)),
                Err(error) => Box::pin(async { Err(error) }),
            });
        Self::build(id.into(), version.into(), initialize)
    }

    fn build(id: String, version: String, initialize: Initialize<S>) -> Self {
        Self {
            id,
            version,
            actions: Vec::new(),
            concurrency: CONCURRENCY,
            state_schema: None,
            migrations: Vec::new(),
            log_level: Level::Info,
            shutdown_within: SHUTDOWN_WITHIN,
            initialize,
            on_load: None,
            health: None,
            self_test: None,
            configure: None,
            drain: None,
            shutdown: None,
            on_unload: None,
            on_error: None,
            blocking_threads: BLOCKING_THREADS,
        }
    }

    /// Adds an action with an asynchronous handler. Both schemas come from the handler's types.
    ///
    /// See [`ActionOptions::handler`](crate::ActionOptions::handler) for what such a handler should and should not do.
    pub fn action<H, F, P, R>(self, name: impl Into<String>, description: impl Into<String>, handler: H) -> Self
    where
        H: Fn(Call<S>, P) -> F + Send + Sync + 'static,
        F: Future<Output = Result<R>> + Send + 'static,
        P: Params,
        R: Reply,
    {
        self.with(Action::new(name, description).handler(handler))
    }

    /// Adds an action with a handler that blocks or computes; it runs on a thread of its own.
    ///
    /// See [`ActionOptions::blocking`](crate::ActionOptions::blocking).
    pub fn blocking_action<H, P, R>(self, name: impl Into<String>, description: impl Into<String>, handler: H) -> Self
    where
        H: Fn(Call<S>, P) -> Result<R> + Send + Sync + 'static,
        P: Params,
        R: Reply,
    {
        self.with(Action::new(name, description).blocking(handler))
    }

    /// Adds an action that was built with [`Action::new`].
    pub fn with(mut self, action: Action<S>) -> Self {
        self.actions.push(action);
        self
    }

    /// How many calls may be under way at once: 256 unless said otherwise. The supervisor keeps to it, and further
    /// calls end with `overloaded`.
    pub fn concurrency(mut self, calls_max: u32) -> Self {
        self.concurrency = calls_max.max(1);
        self
    }

    /// How many threads blocking handlers may use at once: 16 unless said otherwise. Further ones wait for a thread.
    pub fn blocking_threads(mut self, threads_max: usize) -> Self {
        self.blocking_threads = threads_max.max(1);
        self
    }

    /// The schema version of the state that the plugin keeps.
    pub fn state_schema(mut self, version: u32) -> Self {
        self.state_schema = Some(version);
        self
    }

    /// Brings what is kept from the schema version `from` to the next. Runs before the plugin is initialized, where that is what is there, and is
    /// followed by those of later versions, up to [`Plugin::state_schema`]. One that was interrupted runs again from its beginning, with what it has
    /// written there; what is to be changed as a whole is one [`Transaction`](crate::Transaction). From 0 leads what was written by a version that had no `state_schema`.
    ///
    /// ```
    /// use palisade_sdk::{Plugin, Transaction};
    ///
    /// let plugin = Plugin::new("counter", "2.0.0").state_schema(2).migration(1, |store| async move {
    ///     let Some(count) = store.get::<u64>("count").await? else { return Ok(()) };
    ///     let change = Transaction::new().put("counts/all", &count.value)?.delete("count");
    ///     store.transaction(change).await.map(drop)
    /// });
    /// ```
    pub fn migration<H, F>(mut self, from: u32, migrate: H) -> Self
    where
        H: FnOnce(Store) -> F + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.migrations.push((from, Box::new(move |store| Box::pin(migrate(store)))));
        self
    }

    /// The least level of log lines that are kept: `Info` unless said otherwise.
    pub fn log_level(mut self, level: Level) -> Self {
        self.log_level = level;
        self
    }

    /// How long handlers and hooks have at the end, together: 5 seconds unless said otherwise. The supervisor has a
    /// limit of its own.
    pub fn shutdown_within(mut self, within: Duration) -> Self {
        self.shutdown_within = within;
        self
    }

    /// Runs first, before the plugin is initialized: the process exists and is confined. An error ends it.
    pub fn on_load<H, F>(mut self, hook: H) -> Self
    where
        H: FnOnce(Host) -> F + Send + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.on_load = Some(Box::new(move |host| Box::pin(hook(host))));
        self
    }

    /// Runs when the supervisor asks whether the plugin is well: after its start, and every now and then. An error
    /// means that it is not, and its message is the reason. It has 5 seconds.
    pub fn health<H, F>(mut self, hook: H) -> Self
    where
        H: Fn(Arc<S>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.health = Some(boxed(hook));
        self
    }

    /// Runs after the start of a version that is tried beside the one that serves, before it is given a call: whether it can do its work.
    /// An error means that it cannot, and its message is the reason; then the version before goes on. It has 30 seconds, or less if
    /// `limits.start_timeout_seconds` of the plugin's `plugin.json` says so. What the plugin keeps is a copy meanwhile, which is thrown
    /// away, unless the version has to run alone: because it is `exclusive`, or has brought what is kept into another form.
    ///
    /// ```
    /// use palisade_sdk::{Error, Plugin};
    ///
    /// let plugin = Plugin::new("words", "1.0.0").self_test(|_| async {
    ///     if "one two".split(' ').count() == 2 { Ok(()) } else { Err(Error::failed("it cannot count")) }
    /// });
    /// # drop(plugin);
    /// ```
    pub fn self_test<H, F>(mut self, hook: H) -> Self
    where
        H: Fn(Arc<S>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.self_test = Some(boxed(hook));
        self
    }

    /// Runs when the operator has changed the configuration, with the whole of it; it fits the `configuration_schema` of the plugin's
    /// `plugin.json`. What it accepts holds from then on, without a new process. It has 10 seconds, while calls go on; it does not
    /// run twice at once, unless it was late.
    ///
    /// [`Configure::Decline`] has another process started with it. An error with the code `configuration_invalid`, as
    /// [`Error::configuration_invalid`] makes it and as there is one for a configuration that is not a `C`, says that no process
    /// would work with it: nothing is changed then, and the operator reads the message. Any other error declines. Without this hook
    /// there is another process for each change.
    ///
    /// ```
    /// use std::sync::atomic::{AtomicU64, Ordering};
    /// use palisade_sdk::{Configure, Host, Plugin, Result};
    /// use serde::Deserialize;
    ///
    /// #[derive(Deserialize)]
    /// struct Config { interval_ms: u64 }
    ///
    /// struct State { interval_ms: AtomicU64 }
    ///
    /// let plugin = Plugin::with_state("ticker", "1.0.0", |_: Host, config: Config| async move {
    ///     Ok(State { interval_ms: AtomicU64::new(config.interval_ms) })
    /// })
    /// .configure(|state, config: Config| async move {
    ///     state.interval_ms.store(config.interval_ms, Ordering::Relaxed);
    ///     Ok(Configure::Accept)
    /// });
    /// # let _ = plugin;
    /// ```
    pub fn configure<C, H, F>(mut self, hook: H) -> Self
    where
        C: DeserializeOwned,
        H: Fn(Arc<S>, C) -> F + Send + Sync + 'static,
        F: Future<Output = Result<Configure>> + Send + 'static,
    {
        self.configure = Some(Box::new(move |state, configuration| {
            match crate::lifecycle::read_configuration::<C>(&configuration) {
                Ok(configuration) => Box::pin(hook(state, configuration)),
                Err(error) => Box::pin(async { Err(error) }),
            }
        }));
        self
    }

    /// Runs when the plugin is drained and its last call has ended: the place to write down what has to last. It has as
    /// long as the supervisor said; [`Host::extend`] asks for more.
    pub fn drain<H, F>(mut self, hook: H) -> Self
    where
        H: Fn(Arc<S>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.drain = Some(boxed(hook));
        self
    }

    /// Runs when the plugin ends in an orderly way, whether it was drained or not, after its calls were cancelled. It
    /// does not run when initialization failed, as there is no state.
    pub fn shutdown<H, F>(mut self, hook: H) -> Self
    where
        H: Fn(Arc<S>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<()>> + Send + 'static,
    {
        self.shutdown = Some(boxed(hook));
        self
    }

    /// Runs last, just before the process ends, also when initialization failed. It should be quick.
    pub fn on_unload(mut self, hook: impl FnOnce() + Send + 'static) -> Self {
        self.on_unload = Some(Box::new(hook));
        self
    }

    /// Runs whenever a handler or a hook fails or panics; not for parameters that do not fit, nor for cancelled calls.
    /// It should be quick, and may run on any thread.
    pub fn on_error(mut self, hook: impl Fn(&Failure<'_>) + Send + Sync + 'static) -> Self {
        self.on_error = Some(Box::new(hook));
        self
    }

    /// Runs the plugin until its supervisor ends it, and returns what `main` should return.
    ///
    /// It takes over the descriptors 3 and 4, on which a supervisor talks with its plugins, and makes a runtime on this
    /// thread; call it once, from `main`. Started from a shell it says so on standard error and exits with status
    /// 64. With the argument `--palisade-describe` it prints the plugin's identity and actions as JSON and exits
    /// with status 0; with `--palisade-manifest` a `plugin.json`. Other statuses: 69 refused by the supervisor, 70 a mistake in the plugin's description, 74
    /// input or output failed, 76 the supervisor broke the protocol, 78 the plugin did not initialize.
    pub fn run(self) -> Exit {
        if let Err(error) = self.check() {
            eprintln!("{}: {}", self.id, error.message());
            return Exit(70);
        }
        let asked = std::env::args_os().nth(1);
        let answer = match asked.as_deref().and_then(OsStr::to_str) {
            Some(DESCRIBE) => Some(format!("{}\n", self.describe())),
            Some(MANIFEST) => Some(self.manifest()),
            _ => None,
        };
        if let Some(answer) = answer {
            return match std::io::stdout().write_all(answer.as_bytes()) {
                Ok(()) => Exit(0),
                Err(error) => {
                    eprintln!("{}: {error}", self.id);
                    Exit(74)
                }
            };
        }
        let Some(descriptors) = take() else {
            eprintln!(
                "this is a Palisade plugin; run it with `palisade run`, and call it with `palisade call {}`",
                self.id
            );
            return Exit(64);
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(self.blocking_threads)
            .thread_keep_alive(THREAD_KEEP_ALIVE)
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("{}: no event loop: {error}", self.id);
                return Exit(74);
            }
        };
        let exit = runtime.block_on(async move {
            let (from, to) = descriptors;
            match Source::new(from).and_then(|source| Ok((source, Sink::new(to)?))) {
                Ok((source, sink)) => serve(self, source, sink, terminated()).await,
                Err(error) => {
                    eprintln!("{}: the descriptors 3 and 4 cannot be used: {error}", self.id);
                    Exit(74)
                }
            }
        });
        // A blocking handler that does not end is not waited for.
        runtime.shutdown_background();
        exit
    }

    /// What `--palisade-describe` prints: identity and actions, as the supervisor is told.
    #[must_use]
    pub fn describe(&self) -> serde_json::Value {
        json!({
            "id": self.id,
            "version": self.version,
            "concurrency": self.concurrency,
            "state_schema": self.state_schema,
            "actions": self.actions.iter().map(Action::info).collect::<Vec<_>>(),
            "sdk": env!("CARGO_PKG_VERSION"),
        })
    }

    /// What `--palisade-manifest` prints: a `plugin.json` with all that this code knows, so that actions and schemas are
    /// written once. The rest is for its author to add.
    #[must_use]
    pub fn manifest(&self) -> String {
        crate::skeleton::manifest(self)
    }

    /// Finds the mistakes in a plugin's description that its types allow.
    pub(crate) fn check(&self) -> Result<()> {
        for (index, action) in self.actions.iter().enumerate() {
            action.options.check()?;
            if self.actions[..index].iter().any(|before| before.options.name() == action.options.name()) {
                let name = action.options.name();
                return Err(Error::configuration_invalid(format!("two actions have the name `{name}`")));
            }
        }
        if self.concurrency > Limits::default().calls_max.max(65_536) {
            return Err(Error::configuration_invalid("a concurrency above 65536 is surely a mistake"));
        }
        Ok(())
    }
}

fn boxed<S, H, F>(hook: H) -> Hook<S>
where
    H: Fn(Arc<S>) -> F + Send + Sync + 'static,
    F: Future<Output = Result<()>> + Send + 'static,
{
    Box::new(move |state| Box::pin(hook(state)))
}

/// Waits for SIGTERM, in a task of its own: it is asked once, and not again with each frame.
fn terminated() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (tell, told) = oneshot::channel();
    match signal(SignalKind::terminate()) {
        Ok(mut signal) => {
            tokio::spawn(async move {
                signal.recv().await;
                // Nobody is left to be told if the plugin is ending already.
                let _ = tell.send(());
            });
        }
        // Then the default action stays: the process ends at once.
        Err(_) => drop(tell),
    }
    async {
        if told.await.is_err() {
            std::future::pending().await
        }
    }
}

/// What a plugin says to another configuration; see [`Plugin::configure`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Configure {
    /// It has it from now on.
    Accept,
    /// This process cannot change it, for this reason: another one is started with it.
    Decline(String),
}

/// What `main` returns: the exit status of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exit(pub(crate) u8);

impl Exit {
    /// The status, as [`Plugin::run`] lists them.
    #[must_use]
    pub const fn status(self) -> u8 {
        self.0
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        ExitCode::from(self.0)
    }
}
