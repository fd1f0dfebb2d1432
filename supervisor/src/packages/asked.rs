//! Reloads as an operator asks for them: which plugins are looked at, what would be done, and what came of it.
//!
//! Invariant: a plan that is told comes from what a reload performs.
//! Elsewhere: how a package comes to serve is `reload`'s; what has changed is found by `rescan`; an operator's return is `rollback`'s.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use palisade_protocol::ErrorBody;
use serde::Serialize;

use super::reload::{Wanted, paused};
use super::rescan::{Followed, Only, Rescanned, Scope, Trusting, name};
use super::{Packages, run};
use crate::model::reload_plan::{Fit, Plan, Step, Undo, Untried};
use crate::model::status::PassedOver;
use crate::plugin::handle::Handle;
use crate::registry::Found;

/// What became of a reload, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reloaded {
    /// The plugin,
    pub id: String,
    /// the version that serves, or would,
    pub version: String,
    /// the digest of the snapshot that it runs from, or would,
    pub digest: String,
    /// the steps, done or to be done,
    pub steps: &'static [Step],
    /// what takes those of them back that leave something, where a later one fails,
    pub undo: BTreeMap<Step, Undo>,
    /// why it is not tried first, where it is not,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untried: Option<Untried>,
    /// and whether the package that was looked at is the plugin's now. It is not where that is only a plan.
    pub reloaded: bool,
    /// Why it takes no calls, where it takes none: a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle: Option<String>,
    /// What became of the state, where it was exchanged as well.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<Exchanged>,
    /// Why not, if not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether that is because an operator has returned from the package in its folder: it is not tried unless somebody names the plugin.
    pub returned: bool,
    /// What else there is to know of a plan: sentences.
    pub notes: Vec<String>,
}

/// A state that was put in the place of another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exchanged {
    /// When it was the plugin's,
    pub at_unix_ms: u64,
    /// and where the other one is kept: the path of a file.
    pub aside: PathBuf,
}

/// What reloads came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Reloads {
    /// Each plugin, in the order in which they were reloaded.
    pub reloads: Vec<Reloaded>,
}

impl Packages {
    /// Looks at the packages of plugins anew, and gives them those; also one that failed earlier, or is as it was.
    ///
    /// Not cancel safe.
    ///
    /// # Errors
    /// `plugin_not_found`; `resource_exhausted` where there is no thread to look with.
    pub async fn reloads(
        self: &Arc<Self>,
        (plugin, version): (Option<&str>, Option<&str>),
        is_dry: bool,
        who: &str,
    ) -> Result<Reloads, ErrorBody> {
        let registry = self.registry()?;
        let handles: Vec<Handle> = match plugin {
            Some(plugin) => vec![registry.find_any(plugin, version)?.clone()],
            None => registry.start_order().into_iter().flatten().filter(Handle::is_in_use).collect(),
        };
        let mut reloads = Vec::new();
        for old in handles {
            let only = Only {
                id: old.id().clone(),
                version: old.version().clone(),
                who: who.to_owned(),
                is_dry,
                forgives: is_dry && plugin.is_some(),
            };
            if !is_dry && plugin.is_some() {
                let (database, id) = (self.database.clone(), old.id().clone());
                let forgiven = run(move || database.forgive(&id, None)).await?;
                forgiven.map_err(|error| super::unwritten(&error))?;
                self.forgive_updates(old.id());
            }
            let followed = self.follow(Trusting::Nothing, &Scope::Everything, Some(&only)).await?;
            if is_dry {
                reloads.push(self.foretold(&old, &followed).await);
                continue;
            }
            match self.followed(&old, followed).await {
                Ok(told) => reloads.push(told),
                Err(error) if plugin.is_some() => return Err(error),
                // It has gone meanwhile.
                Err(_) => {}
            }
        }
        Ok(Reloads { reloads })
    }

    /// Does what is to be done of a plugin that was looked at by itself, and tells what came of it.
    ///
    /// # Errors
    /// It is not there any more.
    async fn followed(self: &Arc<Self>, old: &Handle, followed: Followed) -> Result<Reloaded, ErrorBody> {
        let why_rejected = why_rejected(old, &followed);
        let exchanged = followed.exchanged.iter().find(|(other, _)| other.is(old)).map(|(_, plan)| plan.clone());
        let plan = match followed.wanted.iter().find(|one| one.old.is(old)) {
            Some(one) => self.plan(&one.old, &one.prepared, None).await,
            None => exchanged.unwrap_or_else(Plan::nothing),
        };
        let rescanned = self.settle(followed).await;
        let kept = rescanned.kept.into_iter().find(|kept| kept.plugin == name(old)).map(|kept| kept.reason);
        let mut now = old.clone();
        while let Some(next) = now.successor() {
            now = next;
        }
        let registry = self.registry()?;
        if !registry.versions(old.id()).any(|(_, there)| there.is(&now)) {
            match registry.find_any(old.id().as_str(), Some(&old.version().to_string())) {
                Ok(there) => now = there.clone(),
                Err(error) => {
                    // Another plugin has the folder.
                    let source = &old.blueprint().source;
                    if let Some(there) = registry.all().find(|one| one.blueprint().source == *source) {
                        return Ok(self.told(there, plan, true, None));
                    }
                    let why = why_rejected.map(|why| format!("; what is in its folder is not used: {why}"));
                    let message = format!("{}{}", error.message, why.unwrap_or_default());
                    return Err(ErrorBody { message, ..error });
                }
            }
        }
        let reason = kept.or_else(|| why_passed_over(&now)).or(why_rejected);
        let is_another = reason.is_none() && !now.is(old);
        Ok(self.told(&now, plan, is_another, reason))
    }

    /// What would be done of it.
    async fn foretold(&self, old: &Handle, followed: &Followed) -> Reloaded {
        let Some(Wanted { prepared, .. }) = followed.wanted.iter().find(|one| one.old.is(old)) else {
            let Rescanned { kept, removed, .. } = &followed.rescanned;
            let kept = kept.iter().find(|kept| kept.plugin == name(old)).map(|kept| kept.reason.clone());
            let gone = || removed.contains(&name(old)).then(|| "its folder is gone, and it ends with that".to_owned());
            let reason = kept.or_else(gone).or_else(|| why_passed_over(old)).or_else(|| why_rejected(old, followed));
            return self.told(old, Plan::nothing(), false, reason);
        };
        let plan = self.plan(old, prepared, None).await;
        let Found { manifest, .. } = &prepared.found;
        let digest = prepared.snapshot.as_ref().map(|snapshot| snapshot.digest.clone()).unwrap_or_default();
        let mut reason = match plan.untried {
            Some(Untried::NewIsUnused) => {
                Some(self.waits_for(&self.inspected(prepared.clone(), old).await, old.id()).message)
            }
            Some(Untried::OldIsPaused) => Some(paused(old).error().message.clone()),
            Some(Untried::OldIsUnused | Untried::NothingToReturnTo) | None => None,
        };
        let mut notes = Vec::new();
        match self.fit(&prepared.found).await {
            Fit::Newer { stored, known } => {
                let why = format!(
                    "what it keeps has schema {stored}, and {} knows schema {known}: it does not start with that",
                    manifest.version
                );
                if plan.steps.contains(&Step::Start) { reason = reason.or(Some(why)) } else { notes.push(why) }
            }
            Fit::Older { stored, known } => notes.push(format!(
                "what it keeps has schema {stored}, and {} is to bring it into schema {known}: whether it can shows when it does",
                manifest.version
            )),
            Fit::Same => {}
        }
        if let Some(failed) = old.blueprint().passed_over().filter(|passed| passed.digest == digest) {
            notes.push(format!("it was not used before: {}", failed.reason));
        }
        if self.is_being_reloaded(&manifest.id, &digest).is_some() {
            notes.push("it is being tried already, which is waited for".to_owned());
        }
        let version = manifest.version.to_string();
        Reloaded { version, digest, notes, ..self.told(old, plan, false, reason) }
    }

    pub(super) fn told(&self, handle: &Handle, plan: Plan, reloaded: bool, reason: Option<String>) -> Reloaded {
        Reloaded {
            id: handle.id().to_string(),
            version: handle.version().to_string(),
            digest: handle.blueprint().snapshot().map(|snapshot| snapshot.digest).unwrap_or_default(),
            steps: plan.steps,
            undo: plan.undoes(),
            untried: plan.untried,
            reloaded,
            idle: handle.idle(),
            state: None,
            returned: reason.as_deref().is_some_and(is_return),
            reason,
            notes: Vec::new(),
        }
    }
}

/// Why the package in its folder is not used, which was looked at earlier.
fn why_passed_over(handle: &Handle) -> Option<String> {
    handle.blueprint().passed_over().filter(PassedOver::is_in_its_folder).map(|passed| passed.reason)
}

/// Why what lies in its folder is no package that could be used.
fn why_rejected(handle: &Handle, followed: &Followed) -> Option<String> {
    let source = &handle.blueprint().source;
    followed.rescanned.rejected.iter().find(|one| one.path == *source).map(|one| one.reason.clone())
}

/// Between who has returned and to what.
const RETURNED: &str = " has returned to ";

/// Why a package is not used from which somebody has returned to that one.
pub(super) fn returned_to(who: &str, before: &str) -> String {
    format!("{who}{RETURNED}{before}")
}

/// Whether that is why it is not used: an operator's word, and no failure.
fn is_return(reason: &str) -> bool {
    let who = reason.split_once(RETURNED).and_then(|(who, _)| who.strip_prefix("uid:"));
    who.is_some_and(|uid| !uid.is_empty() && uid.bytes().all(|byte| byte.is_ascii_digit()))
}
