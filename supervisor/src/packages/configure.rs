//! How a plugin's configuration is changed while the daemon runs, and shown.
//!
//! What is said goes over what `palisade.toml` says, for all versions of a plugin, and is kept with each change before it, so that it
//! can be taken back. A process that serves is asked whether it can go on with it. If it cannot, it is replaced by one with the new configuration,
//! and goes on serving if that one does not get so far: then nothing was changed. What does not run has it with its next start.
//!
//! Invariants: one change of a plugin at a time; what is said holds for no process that is started later unless it was noted.
//! Elsewhere: what fits is `model::configuration`; what was noted, `store::database::configured`.

use std::sync::Arc;

use palisade_protocol::{ErrorBody, ErrorCode};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{Packages, lock, run, the_one};
use crate::events::EventKind;
use crate::model::configuration::{Misplaced, Overrides, PLACES_MAX, Place, Unfit, effective};
use crate::model::ids::PluginId;
use crate::model::status::PluginState;
use crate::plugin::configuration::Configured;
use crate::plugin::generation::{CONFIGURE_WITHIN, Offered};
use crate::plugin::handle::{Handle, Operation, Standing};
use crate::registry::Registry;
use crate::store::database::configured;

/// So many places are named in an event or in the trail.
const PLACES_TOLD_MAX: usize = 20;

/// What is to be changed.
#[derive(Debug, Default)]
pub struct Change {
    /// Of which plugin,
    pub plugin: String,
    /// by which version's schema,
    pub version: Option<String>,
    /// what is set, by place,
    pub set: Map<String, Value>,
    /// what is taken back,
    pub unset: Vec<String>,
    /// or whether the last change is.
    pub undo: bool,
}

/// How a plugin is configured.
#[derive(Debug, Serialize)]
pub struct Configuration {
    /// Which plugin,
    pub id: String,
    /// and the version by whose schema.
    pub version: String,
    /// What its processes get that are started now: all that was said, with the schema's defaults. Where that does not fit, what was said.
    pub configuration: Value,
    /// What of it does not fit: then none is started.
    pub unfit: Vec<Violation>,
    /// What `palisade.toml` says.
    pub file: Value,
    /// What an operator has said since, by place.
    pub said: Overrides,
    /// What it has to fit, if there is anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schema: Option<Value>,
    /// The changes, the first first.
    pub history: Vec<Past>,
}

/// What does not fit.
#[derive(Debug, Serialize)]
pub struct Violation {
    /// Where, a JSON pointer.
    pub at: String,
    /// What is wrong there, and what is allowed.
    pub problem: String,
}

/// A change that was made.
#[derive(Debug, Serialize)]
pub struct Past {
    /// Which, from 1,
    pub number: u64,
    /// when
    pub at_unix_ms: u64,
    /// and by whom.
    pub by: String,
    /// The places that it changed.
    pub places: Vec<String>,
    /// What was said before of these.
    pub was: Overrides,
    /// What was said after it.
    pub said: Overrides,
    /// Whether it was taken back.
    pub undone: bool,
}

/// What a change came to.
#[derive(Debug, Serialize)]
pub struct Reconfigured {
    /// Which plugin,
    pub id: String,
    /// and the version by whose schema.
    pub version: String,
    /// What its processes get from now on.
    pub configuration: Value,
    /// The places that were changed.
    pub places: Vec<String>,
    /// How it came about.
    pub applied: Applied,
    /// What there is to know about it: sentences.
    pub notes: Vec<String>,
}

/// How a change came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Applied {
    /// It was said already, and nothing was done.
    Unchanged,
    /// Nothing of it runs.
    NothingRuns,
    /// What serves goes on with it, as it can, or as it had this already.
    Accepted,
    /// Another process serves.
    Restarted,
}

impl Packages {
    /// What is said of a plugin.
    pub(super) fn configured(&self, id: &PluginId) -> Arc<Configured> {
        let base = || {
            let configured = self.around.config.plugins.get(id).cloned().unwrap_or_default();
            Value::Object(configured.configuration)
        };
        let mut all = lock(&self.configured);
        all.entry(id.clone()).or_insert_with(|| Arc::new(Configured::new(base(), Overrides::default()))).clone()
    }

    /// Takes in what the database has, when there is no plugin yet.
    pub(super) fn recall_configured(&self) {
        match self.database.configured() {
            Ok(all) => all.into_iter().for_each(|(id, said)| self.configured(&id).say(said)),
            Err(error) => {
                tracing::error!(%error, "how plugins were configured is not known; palisade.toml alone holds")
            }
        }
    }

    /// Takes in that the database has nothing any more of a plugin of which no version is there.
    pub(super) fn know_no_configuration(&self, id: &PluginId) {
        if let Some(configured) = lock(&self.configured).remove(id) {
            configured.say(Overrides::default());
        }
    }

    /// How a plugin is configured, and how it was.
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found`; `resource_exhausted` where the database cannot be read.
    pub async fn configuration(&self, plugin: &str, version: Option<&str>) -> Result<Configuration, ErrorBody> {
        let handle = meant(&*self.registry()?, plugin, version)?;
        let (id, database) = (handle.id().clone(), self.database.clone());
        let manifest = &handle.blueprint().manifest;
        let changes = run(move || database.configured_of(&id)).await?;
        let changes = changes.map_err(|error| super::unwritten(&error))?;
        let of = handle.blueprint().configuration.of();
        let said = of.said();
        let (configuration, unfit) = match handle.blueprint().configuration.now(manifest) {
            Ok(configuration) => (Value::clone(&configuration), Vec::new()),
            Err(unfit) => (said.over(of.base()).unwrap_or_else(|_| of.base().clone()), violations(&unfit)),
        };
        let past = |change: configured::Change| {
            let places = change.before.changed(&change.after);
            Past {
                number: change.number,
                at_unix_ms: change.at_unix_ms,
                by: change.who,
                was: change.before.only(&places),
                places,
                said: change.after,
                undone: change.undone,
            }
        };
        Ok(Configuration {
            id: handle.id().to_string(),
            version: handle.version().to_string(),
            configuration,
            unfit,
            file: of.base().clone(),
            said: Overrides::clone(&said),
            schema: manifest.configuration_schema.as_ref().map(|schema| schema.value()),
            history: changes.into_iter().map(past).collect(),
        })
    }

    /// Changes it, or changes nothing.
    ///
    /// Not cancel safe: another process may serve, and nothing be noted.
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found`; `invalid_params` for places that are none, or where there is nothing to be taken back;
    /// `configuration_invalid` for what does not fit the schema, and where no process starts with it; `unavailable` for a plugin that is paused;
    /// `resource_exhausted` where it cannot be noted.
    pub async fn configure(&self, change: Change, who: &str) -> Result<Reconfigured, ErrorBody> {
        let target = meant(&*self.registry()?, &change.plugin, change.version.as_deref())?;
        let id = target.id().clone();
        let of = self.configured(&id);
        let _one_change = of.changing.lock().await;
        let before = of.said();
        let undone = if change.undo { Some(self.last_change(&change, &id).await?) } else { None };
        let after = match &undone {
            Some(last) => last.before.clone(),
            None => changed(&before, change)?,
        };
        let manifest = &target.blueprint().manifest;
        let wanted = effective(manifest, of.base(), &after).map_err(|unfit| not_fitting(&target, &unfit))?;
        let mut answer = Reconfigured {
            id: id.to_string(),
            version: target.version().to_string(),
            configuration: wanted,
            places: before.changed(&after),
            applied: Applied::NothingRuns,
            notes: Vec::new(),
        };
        if answer.places.is_empty() && undone.is_none() {
            answer.applied = Applied::Unchanged;
            return Ok(answer);
        }
        if manifest.configuration_schema.is_none() && undone.is_none() {
            let told = "has no `configuration_schema`: whether it reads any of this is not known";
            answer.notes.push(format!("{id} {} {told}", target.version()));
        }
        // Those that run have to bear it before it holds.
        let registry = self.registry()?;
        let mut borne = Vec::new();
        for (version, handle) in registry.versions(&id) {
            let wanted = match effective(&handle.blueprint().manifest, of.base(), &after) {
                Ok(wanted) => Arc::new(wanted),
                Err(unfit) => {
                    answer.notes.push(format!("{id} {version} takes no calls with it: {unfit}"));
                    continue;
                }
            };
            match bring(handle, &wanted, &mut answer.notes).await {
                Ok(applied) => {
                    answer.applied = answer.applied.max(applied);
                    borne.push(handle.clone());
                }
                Err(error) => {
                    self.bring_back(&borne).await;
                    return Err(error);
                }
            }
        }
        drop(registry);
        if let Err(error) = self.note(&target, (&before, &after), undone.as_ref(), &answer.places, who).await {
            self.bring_back(&borne).await;
            return Err(error);
        }
        of.say(after);
        self.live.has_changed();
        self.tell(EventKind::ConfigurationChanged, &id, target.version(), Some(named(&answer.places)));
        self.catch_up(&id, &mut answer.notes).await;
        Ok(answer)
    }

    /// The change that is to be taken back.
    async fn last_change(&self, change: &Change, id: &PluginId) -> Result<configured::Change, ErrorBody> {
        if !change.set.is_empty() || !change.unset.is_empty() {
            let message = "a change is taken back as a whole, and by itself";
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
        }
        let (database, of) = (self.database.clone(), id.clone());
        let changes = run(move || database.configured_of(&of)).await?;
        let changes = changes.map_err(|error| super::unwritten(&error))?;
        configured::last(&changes).cloned().ok_or_else(|| {
            let message = format!("no change of the configuration of {id} is left that could be taken back");
            ErrorBody::new(ErrorCode::InvalidParams, message)
                .with_hint(format!("`palisade config {id} --history` shows them"))
        })
    }

    /// Notes a change, or that one was taken back.
    async fn note(
        &self,
        target: &Handle,
        (before, after): (&Overrides, &Overrides),
        undone: Option<&configured::Change>,
        places: &[String],
        who: &str,
    ) -> Result<(), ErrorBody> {
        let what = if undone.is_some() { "unconfigure" } else { "configure" };
        // Only where: what is said there need not be for whoever reads the trail.
        let entry = self.entry(what, who, target.id(), target.version(), named(places));
        let (database, undone) = (self.database.clone(), undone.map(|change| change.number));
        let (before, after) = (before.clone(), after.clone());
        let noted = run(move || match undone {
            Some(number) => database.unconfigure(number, &entry),
            None => database.configure(&before, &after, &entry).map(drop),
        });
        noted.await?.map_err(|error| super::unwritten(&error))
    }

    /// Has those serve with what holds that were brought to something else.
    async fn bring_back(&self, handles: &[Handle]) {
        for handle in handles {
            let Ok(holds) = handle.blueprint().configured() else { continue };
            if let Err(error) = bring(handle, &holds, &mut Vec::new()).await {
                tracing::error!(
                    plugin = %handle.id(), version = %handle.version(), error = %error.message,
                    "it runs with a configuration that was not kept, until it is started again"
                );
            }
        }
    }

    /// Sees to those that were started while it was changed, and to those that failed before it was.
    async fn catch_up(&self, id: &PluginId, notes: &mut Vec<String>) {
        let Ok(registry) = self.registry() else { return };
        for (version, handle) in registry.versions(id).filter(|(_, handle)| handle.is_in_use()) {
            let Ok(holds) = handle.blueprint().configured() else { continue };
            if handle.state() == PluginState::Failed {
                // It may have failed for what was wrong with it.
                notes.push(format!("{id} {version} had failed, and is tried again"));
                if let Err(error) = handle.operate(Operation::Reset).await {
                    notes.push(error.message);
                }
            }
            // It also counts as failed until the next process has said what it is, which may have what there was before.
            if let Err(error) = bring(handle, &holds, notes).await {
                notes.push(format!("{id} {version} runs with what it had before: {}", error.message));
            }
        }
    }
}

/// Has whatever serves of this version serve with a configuration.
async fn bring(handle: &Handle, wanted: &Arc<Value>, notes: &mut Vec<String>) -> Result<Applied, ErrorBody> {
    let (id, version) = (handle.id(), handle.version());
    let mut standing = handle.standing().await;
    if standing == Standing::Starting {
        // It is known soon whether there is anything to be changed.
        let _ = handle.operate(Operation::Start).await;
        standing = handle.standing().await;
    }
    match standing {
        Standing::Absent | Standing::Starting => Ok(Applied::NothingRuns),
        Standing::Serving(Some(has)) if has == *wanted => Ok(Applied::Accepted),
        Standing::Paused => {
            let message = format!("{id} {version} is paused, and cannot be asked");
            let error = ErrorBody::new(ErrorCode::Unavailable, message);
            Err(ErrorBody { retryable: false, ..error }
                .with_hint(format!("`palisade resume {id}` first, or `palisade stop {id}`")))
        }
        Standing::Serving(_) => {
            if offer(handle, wanted, notes).await? == Applied::Accepted {
                return Ok(Applied::Accepted);
            }
            let not_started = |error: ErrorBody| {
                let message =
                    format!("{id} {version} does not start with it, and goes on as it was: {}", error.message);
                let refused = ErrorBody::new(ErrorCode::ConfigurationInvalid, message);
                ErrorBody { hint: error.hint, ..refused }
            };
            let Err(error) = handle.reconfigure(wanted.clone()).await else { return Ok(Applied::Restarted) };
            if handle.blueprint().manifest.exclusive
                && !handle.is_stopped()
                // What it was is not there any more, and calls wait for it.
                && let Err(error) = handle.operate(Operation::Start).await
            {
                notes.push(format!("{id} {version} does not start with what it had before either: {}", error.message));
            }
            Err(not_started(error))
        }
    }
}

/// Asks what serves whether it can go on with a configuration: `Restarted` where another process has to be started for that.
async fn offer(handle: &Handle, wanted: &Arc<Value>, notes: &mut Vec<String>) -> Result<Applied, ErrorBody> {
    let (id, version) = (handle.id(), handle.version());
    let because = |reason: Option<String>| reason.map(|reason| format!(": {reason}")).unwrap_or_default();
    match handle.offer(wanted.clone()).await {
        Offered::Accepted => return Ok(Applied::Accepted),
        Offered::Refused(reason) => {
            let message = format!("{id} {version} refuses it, and goes on as it was{}", because(reason));
            return Err(ErrorBody::new(ErrorCode::ConfigurationInvalid, message));
        }
        Offered::Unsupported => {}
        Offered::Declined(reason) => {
            notes.extend(reason.map(|reason| format!("{id} {version} is another process now: {reason}")));
        }
        Offered::Late => {
            let message =
                format!("{id} {version} did not answer within {CONFIGURE_WITHIN:?}, and is another process now");
            notes.push(message);
        }
        Offered::Gone => {
            // As it was, before it is tried with anything else.
            handle.operate(Operation::Start).await.map_err(|error| {
                let message = format!("{id} {version} ended when it was offered it: {}", error.message);
                ErrorBody::new(ErrorCode::ConfigurationInvalid, message)
            })?;
            notes.push(format!("{id} {version} ended when it was offered it, and was started again"));
        }
    }
    Ok(Applied::Restarted)
}

/// The version whose schema counts: the one that is named, or else the highest that would take calls if its configuration fits.
fn meant(registry: &Registry, plugin: &str, version: Option<&str>) -> Result<Handle, ErrorBody> {
    if version.is_some() {
        return the_one(registry, plugin, version);
    }
    let any = registry.find_any(plugin, None)?;
    let takes_calls = |handle: &Handle| handle.is_enabled() && !handle.is_held() && !handle.awaits_consent();
    let usable = registry.versions(any.id()).filter(|(_, handle)| takes_calls(handle));
    Ok(usable.last().map_or(any, |(_, handle)| handle).clone())
}

/// What is said after a change.
fn changed(before: &Overrides, change: Change) -> Result<Overrides, ErrorBody> {
    let wrong = |misplaced: Misplaced| ErrorBody::new(ErrorCode::InvalidParams, misplaced.to_string());
    if change.set.is_empty() && change.unset.is_empty() {
        return Err(ErrorBody::new(ErrorCode::InvalidParams, "nothing is to be changed")
            .with_hint("say what, as KEY=VALUE, --unset KEY or --undo"));
    }
    let mut after = before.clone();
    for text in &change.unset {
        let place = Place::parse(text).map_err(wrong)?;
        if !after.unset(&place) {
            let message = format!("{place}: nothing was said of it that could be taken back");
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message)
                .with_hint("what palisade.toml says is changed there; `palisade config` shows what comes from where"));
        }
    }
    for (text, value) in change.set {
        let place = Place::parse(&text).map_err(wrong)?;
        after.set(&place, value).map_err(wrong)?;
    }
    if PLACES_MAX < after.len() {
        let message = format!("{} places would be set, and at most {PLACES_MAX} can be", after.len());
        return Err(
            ErrorBody::new(ErrorCode::InvalidParams, message).with_hint("set what holds several of them at once")
        );
    }
    Ok(after)
}

fn violations(unfit: &Unfit) -> Vec<Violation> {
    unfit.0.iter().map(|one| Violation { at: one.at.clone(), problem: one.problem.clone() }).collect()
}

fn not_fitting(handle: &Handle, unfit: &Unfit) -> ErrorBody {
    let (id, version) = (handle.id(), handle.version());
    let details = json!({ "violations": violations(unfit) });
    ErrorBody::new(ErrorCode::ConfigurationInvalid, format!("{id} {version} cannot have it: {unfit}"))
        .with_details(details)
        .with_hint(format!("`palisade config {id}` shows what it has; nothing was changed"))
}

fn named(places: &[String]) -> String {
    let more = places.len().saturating_sub(PLACES_TOLD_MAX);
    let told = places.iter().take(PLACES_TOLD_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    if more == 0 { told } else { format!("{told} and {more} more") }
}
