//! The handle of a call: what its handler knows and can do besides returning.

use std::any::TypeId;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use palisade_protocol::{CancelReason, ConfigureAnswer, Configured, ErrorCode, Level, Progress, StreamKind};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use crate::error::fits;
use crate::exchange::Exchange;
use crate::host::{About, Host};
use crate::lifecycle::{ConfigureHook, Hook, run_configure, run_hook};
use crate::log::{Fields, LogTarget};
use crate::secret::Secret;
use crate::store::Store;
use crate::stream::{BytesInput, BytesOutput, Input, Output};
use crate::text::truncate;
use crate::wire::Wire;
use crate::{Configure, Error, Result};

/// Longest reason why a configuration is not taken.
const REASON_BYTES_MAX: usize = 2 << 10;

/// Longest message of progress.
const PROGRESS_BYTES_MAX: usize = 4 << 10;

/// One call. It can be cloned and moved to other tasks and threads; what they do after the call has ended has no
/// effect.
///
/// `S` is the plugin's state, made by the function given to [`Plugin::with_state`](crate::Plugin::with_state).
pub struct Call<S = ()> {
    pub(crate) exchange: Arc<Exchange>,
    pub(crate) plugin: Arc<Shared<S>>,
}

/// What all calls of a plugin share.
pub(crate) struct Shared<S> {
    pub(crate) state: Arc<S>,
    pub(crate) about: Arc<About>,
    pub(crate) health: Option<Hook<S>>,
    pub(crate) self_test: Option<Hook<S>>,
    pub(crate) configure: Option<ConfigureHook<S>>,
}

impl<S> Shared<S> {
    /// Runs the health hook and says what is wrong, if something is.
    pub(crate) async fn unhealthy(&self, wire: &Wire, within: Duration) -> Option<String> {
        let hook = self.health.as_ref()?;
        match run_hook("health", wire, within, hook, &self.state).await {
            Ok(()) => None,
            Err(error) => Some(error.message().to_owned()),
        }
    }

    /// Runs the self-test hook and says what it has found, if something.
    pub(crate) async fn unfit(&self, wire: &Wire, within: Duration) -> Option<String> {
        let hook = self.self_test.as_ref()?;
        match run_hook("self_test", wire, within, hook, &self.state).await {
            Ok(()) => None,
            Err(error) => Some(format!("its self-test failed: {}", error.message())),
        }
    }
}

impl<S: Send + Sync + 'static> Shared<S> {
    /// Runs the configure hook and says what came of it.
    pub(crate) async fn configured(&self, wire: &Wire, configuration: serde_json::Value) -> Configured {
        let (answer, reason) = match &self.configure {
            None => (ConfigureAnswer::Declined, None),
            Some(hook) => match run_configure(wire, hook, &self.state, configuration).await {
                Ok(Configure::Accept) => (ConfigureAnswer::Accepted, None),
                Ok(Configure::Decline(reason)) => (ConfigureAnswer::Declined, Some(reason)),
                Err(error) => {
                    let answer = match error.code() {
                        ErrorCode::ConfigurationInvalid => ConfigureAnswer::Refused,
                        _ => ConfigureAnswer::Declined,
                    };
                    (answer, Some(error.message().to_owned()))
                }
            },
        };
        let reason = reason.map(|mut reason| {
            truncate(&mut reason, REASON_BYTES_MAX);
            reason
        });
        Configured { answer, reason }
    }
}

impl<S> Clone for Call<S> {
    fn clone(&self) -> Self {
        Self { exchange: Arc::clone(&self.exchange), plugin: Arc::clone(&self.plugin) }
    }
}

impl<S> fmt::Debug for Call<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("id", &self.id()).field("action", &self.action()).finish_non_exhaustive()
    }
}

impl<S> Call<S> {
    /// Its id, as in logs. Unique in this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.exchange.id
    }

    /// The action's name.
    #[must_use]
    pub fn action(&self) -> &str {
        self.exchange.action.as_deref().map_or("", |action| &action.name)
    }

    /// Who calls, as the supervisor established it: `uid:1000`.
    #[must_use]
    pub fn caller(&self) -> Option<&str> {
        self.exchange.caller.as_deref()
    }

    /// The plugin's state.
    #[must_use]
    pub fn state(&self) -> &S {
        &self.plugin.state
    }

    /// The plugin's supervisor.
    #[must_use]
    pub fn host(&self) -> Host {
        Host::new(Arc::clone(&self.exchange.wire), Arc::clone(&self.plugin.about), Some(self.exchange.id))
    }

    /// A secret that `plugin.json` names in `secrets`, that the operator granted, and that is set.
    ///
    /// # Errors
    /// As [`Host::secret`].
    pub async fn secret(&self, name: &str) -> Result<Secret> {
        self.host().secret(name).await
    }

    /// What the plugin keeps: it outlives this process and this version.
    #[must_use]
    pub fn store(&self) -> Store {
        self.host().store()
    }

    /// When its caller stops waiting; the supervisor cancels the call then. `None`: it waits for ever.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.exchange.deadline
    }

    /// How long until its deadline; zero when that has passed.
    #[must_use]
    pub fn remaining(&self) -> Option<Duration> {
        self.deadline().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    /// Whether the call was cancelled. From the first use on, the handler is trusted to end by itself, soon; usually
    /// with [`Error::cancelled`].
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.exchange.listen();
        self.exchange.cancel_reason().is_some()
    }

    /// Why the call was cancelled; `None` when it was not. As [`Call::is_cancelled`] otherwise.
    #[must_use]
    pub fn cancel_reason(&self) -> Option<CancelReason> {
        self.exchange.listen();
        self.exchange.cancel_reason()
    }

    /// `Ok` as long as the call was not cancelled, to be used with `?`. As [`Call::is_cancelled`] otherwise.
    ///
    /// # Errors
    /// [`Error::cancelled`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() { Err(Error::cancelled()) } else { Ok(()) }
    }

    /// Waits until the call is cancelled. Once this was called, the handler is trusted to end by itself, soon.
    ///
    /// Cancel safe.
    pub fn cancelled(&self) -> impl Future<Output = CancelReason> + Send + 'static {
        self.exchange.listen();
        let exchange = Arc::clone(&self.exchange);
        async move {
            loop {
                let news = exchange.cancel_news.notified();
                tokio::pin!(news);
                // Enabled before the look, so that a cancel between the two is not missed.
                news.as_mut().enable();
                if let Some(reason) = exchange.cancel_reason() {
                    return reason;
                }
                news.await;
            }
        }
    }

    /// Tells how far the call has come: from 0 to 100, and a sentence of up to 4 KiB (either may be left out: `None`,
    /// `""`).
    ///
    /// Progress is news, not data: it never waits, and what was not delivered yet is replaced by what is newer.
    pub fn progress(&self, percentage: impl Into<Option<f64>>, message: impl Into<String>) {
        self.tell(percentage.into(), message.into(), None);
    }

    /// As [`Call::progress`], with details for programs. Details that cannot be written as JSON, or are larger than a
    /// frame's body may be, are left out.
    pub fn progress_with(
        &self,
        percentage: impl Into<Option<f64>>,
        message: impl Into<String>,
        details: impl Serialize,
    ) {
        self.tell(percentage.into(), message.into(), serde_json::to_value(details).ok());
    }

    fn tell(&self, percentage: Option<f64>, mut message: String, details: Option<serde_json::Value>) {
        truncate(&mut message, PROGRESS_BYTES_MAX);
        let mut progress = Progress {
            percentage: percentage
                .filter(|percentage| !percentage.is_nan())
                .map(|percentage| percentage.clamp(0.0, 100.0)),
            message: if message.is_empty() { None } else { Some(message) },
            details,
        };
        if progress.details.is_some() && !fits(&progress) {
            progress.details = None;
        }
        self.exchange.progress(progress);
    }

    /// The call's input stream of items. The action must have declared it with the same type, and it can be taken once.
    ///
    /// # Errors
    /// `streaming_not_supported` when the action declared no such stream, `execution_failed` when it was taken before.
    pub fn input<T: DeserializeOwned + 'static>(&self) -> Result<Input<T>> {
        self.declared::<T>("input", StreamKind::Items)?;
        self.exchange.take_input()?;
        Ok(Input::new(Arc::clone(&self.exchange)))
    }

    /// The call's input stream of bytes, as [`Call::input`].
    ///
    /// # Errors
    /// As [`Call::input`].
    pub fn input_bytes(&self) -> Result<BytesInput> {
        self.declared::<()>("input", StreamKind::Bytes)?;
        self.exchange.take_input()?;
        Ok(BytesInput::new(Arc::clone(&self.exchange)))
    }

    /// Opens the call's output stream of items. The action must have declared it with the same type, and it can be
    /// opened once.
    ///
    /// # Errors
    /// `streaming_not_supported` when the action declared no such stream or the supervisor takes none,
    /// `execution_failed` when it was opened before, `cancelled` when the call has ended.
    pub fn output<T: Serialize + 'static>(&self) -> Result<Output<T>> {
        self.declared::<T>("output", StreamKind::Items)?;
        self.exchange.open_output(StreamKind::Items)?;
        Ok(Output::new(Arc::clone(&self.exchange)))
    }

    /// Opens the call's output stream of bytes, as [`Call::output`].
    ///
    /// # Errors
    /// As [`Call::output`].
    pub fn output_bytes(&self) -> Result<BytesOutput> {
        self.declared::<()>("output", StreamKind::Bytes)?;
        self.exchange.open_output(StreamKind::Bytes)?;
        Ok(BytesOutput::new(Arc::clone(&self.exchange)))
    }

    /// Compares what a handler asks for with what its action declared, so that the schema agents see is never
    /// another's.
    fn declared<T: 'static>(&self, direction: &str, kind: StreamKind) -> Result<()> {
        let Some(action) = &self.exchange.action else { return Ok(()) };
        let (declared, item) =
            if direction == "input" { (action.input, action.input_type) } else { (action.output, action.output_type) };
        let wrong = |message: String| Err(Error::new(ErrorCode::StreamingNotSupported, message));
        match (declared, kind, item) {
            (Some(StreamKind::Bytes), StreamKind::Bytes, _) => Ok(()),
            (Some(StreamKind::Items), StreamKind::Items, Some((id, _))) if id == TypeId::of::<T>() => Ok(()),
            (Some(StreamKind::Items), StreamKind::Items, Some((_, name))) => wrong(format!(
                "the action `{}` declares an {direction} of items of type {name}, and its handler asks for {}",
                action.name,
                std::any::type_name::<T>()
            )),
            (None, ..) => wrong(format!("the action `{}` declares no {direction} stream", action.name)),
            _ => wrong(format!("the action `{}` declares an {direction} stream of the other kind", action.name)),
        }
    }
}

impl<S> LogTarget for Call<S> {
    fn is_enabled(&self, level: Level) -> bool {
        level >= self.exchange.wire.log_level
    }

    fn log(&self, level: Level, message: String, fields: Fields) {
        self.exchange.wire.log(level, message, fields.into_value(), Some(self.exchange.id));
    }
}
