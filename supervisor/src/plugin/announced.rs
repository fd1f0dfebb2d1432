//! Whether the actions that a process announces are those that were agreed to.
//!
//! What agents are told of an action is compared by its digest, with what was agreed to of this plugin's id in any version. What is
//! announced first is agreed to by being used; it is written down by whoever holds the other end of `news`, and nothing waits for that.
//! The manifest's word on an action goes before the program's, and was asked about before there was a process: so an action is the same
//! also where its program says the same and its manifest has changed.
//!
//! Invariant: what is compared does not depend on an order, on how long an action may take, or on how often it may run at once.
//! Elsewhere: the digests of manifests, and all that operators say, are `packages`' business.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use palisade_protocol::ActionInfo;
use semver::Version;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::actions::Actions;
use crate::model::manifest::{ActionSettings, Json, Manifest, Streaming};
use crate::model::permission::consent::{self, Change};
use crate::model::status::clip;
use crate::trust::canonical::digest_of;

/// As much of a description is kept for the operator who is asked.
const DESCRIPTION_BYTES_MAX: usize = 1 << 10;

/// What was agreed to of one plugin's id, for all of its versions.
#[derive(Debug)]
pub struct Agreed {
    state: Mutex<State>,
    news: Arc<Notify>,
}

#[derive(Debug, Default)]
struct State {
    known: consent::Agreed,
    /// What has to be written down.
    first: Option<First>,
}

/// What was agreed to as nothing was known before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct First {
    /// Who announced it,
    pub version: Version,
    /// that,
    pub announced: Vec<(String, String)>,
    /// and what its manifest says of its actions.
    pub stated: Vec<(String, String)>,
}

impl Agreed {
    /// `known` was agreed to earlier; `news` is told when there is something to write down.
    #[must_use]
    pub fn new(known: consent::Agreed, news: Arc<Notify>) -> Self {
        Self { state: Mutex::new(State { known, first: None }), news }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds what was agreed to")
    }

    /// Takes in what an operator has agreed to.
    pub fn add(&self, definitions: &[(String, String)]) {
        self.state().known.extend(definitions.iter().cloned());
    }

    /// Forgets everything; what is announced next is the first again.
    pub fn forget(&self) {
        *self.state() = State::default();
    }

    /// Whether there is anything that has to be written down.
    #[must_use]
    pub fn has_first(&self) -> bool {
        self.state().first.is_some()
    }

    /// What has to be written down, which whoever takes it does.
    #[must_use]
    pub fn take_first(&self) -> Option<First> {
        self.state().first.take()
    }

    /// Keeps what could not be written down, for the next time.
    pub fn keep_first(&self, first: First) {
        self.state().first.get_or_insert(first);
    }

    /// What of this was not agreed to; if nothing is known, all of it is from now on.
    fn judge(&self, told: &[Told], version: &Version, stated: &[(String, String)]) -> Vec<(String, Change)> {
        let mut state = self.state();
        let changes = changes(&state.known, told);
        if state.known.is_empty() && !told.is_empty() {
            let announced: Vec<_> = told.iter().flat_map(Told::definitions).collect();
            state.known.extend(announced.iter().cloned());
            state.first = Some(First { version: version.clone(), announced, stated: stated.to_vec() });
        }
        if state.first.is_some() {
            self.news.notify_one();
        }
        changes
    }
}

fn changes(known: &consent::Agreed, told: &[Told]) -> Vec<(String, Change)> {
    let change = |one: &Told| Some((one.action.clone(), consent::change(known, &one.action, &one.digests)?));
    told.iter().filter_map(change).collect()
}

/// One action that is announced.
#[derive(Debug, Clone)]
struct Told {
    action: String,
    description: String,
    /// Of what agents are told, and, where the manifest has a word on it, of what is the program's part in that.
    digests: Vec<String>,
}

impl Told {
    fn new(info: &ActionInfo, stated: Option<&ActionSettings>) -> Self {
        let mut digests = vec![digest(info, &[])];
        if let Some((own, stated)) = stated.map(|stated| without(info, stated)).filter(|(_, stated)| !stated.is_empty())
        {
            digests.push(digest(&own, &stated));
        }
        Self { action: info.name.clone(), description: clip(&info.description, DESCRIPTION_BYTES_MAX), digests }
    }

    fn definitions(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.digests.iter().map(|digest| (self.action.clone(), digest.clone()))
    }
}

/// Of what an action is, apart from what the manifest states. That it does so is part of it, or a program that says nothing would be as
/// good as any manifest.
fn digest(info: &ActionInfo, stated: &[&str]) -> String {
    let info = ActionInfo { timeout_ms: None, ..info.clone() };
    let mut value = json!(info);
    if let Value::Object(fields) = &mut value
        && !stated.is_empty()
    {
        fields.insert("stated".to_owned(), json!(stated));
    }
    digest_of(&value)
}

/// What the program says, and the names of what the manifest says in its place or as well.
fn without(info: &ActionInfo, stated: &ActionSettings) -> (ActionInfo, Vec<&'static str>) {
    let mut own = info.clone();
    let mut parts = Vec::new();
    let same = |stated: &Option<Json>, told: &Option<Value>| stated.as_ref().map(Json::value).as_ref() == told.as_ref();
    if stated.description.is_some() {
        own.description.clear();
        parts.push("description");
    }
    // A schema that is written otherwise is the program's, although it means the same.
    if stated.parameters.is_some() && same(&stated.parameters, &info.parameters) {
        own.parameters = None;
        parts.push("parameters");
    }
    if stated.returns.is_some() && same(&stated.returns, &info.result) {
        own.result = None;
        parts.push("result");
    }
    if stated.streaming != Streaming::default() {
        for (part, stated, told) in
            [("input", &stated.streaming.input, &mut own.input), ("output", &stated.streaming.output, &mut own.output)]
        {
            if let (Some(stated), Some(stream)) = (stated, &*told)
                && stated.kind == stream.kind
                && same(&stated.item, &stream.item)
            {
                *told = None;
                parts.push(part);
            }
        }
    }
    if stated.idempotent {
        own.idempotent = false;
        parts.push("idempotent");
    }
    if stated.endless {
        own.endless = false;
        parts.push("endless");
    }
    (own, parts)
}

/// What one version announces, against what was agreed to.
#[derive(Debug, Default)]
pub struct Announced {
    /// None where nobody asks.
    agreed: Option<Arc<Agreed>>,
    awaited: Mutex<Awaited>,
    /// Whether there is any change in that; every call asks.
    is_awaited: AtomicBool,
}

/// What was announced when a start was refused for it.
#[derive(Debug, Clone, Default)]
struct Awaited {
    told: Vec<Told>,
    changes: Vec<(String, Change)>,
}

impl Announced {
    /// Compared with this, or with nothing.
    #[must_use]
    pub fn new(agreed: Option<Arc<Agreed>>) -> Self {
        Self { agreed, ..Self::default() }
    }

    fn awaited(&self) -> MutexGuard<'_, Awaited> {
        self.awaited.lock().expect("nothing panics while it holds what is awaited")
    }

    fn wait_for(&self, awaited: Awaited) {
        let mut there = self.awaited();
        self.is_awaited.store(!awaited.changes.is_empty(), Ordering::Relaxed);
        *there = awaited;
    }

    /// Whether a process with these actions may serve. If not, this is remembered until somebody has agreed to them.
    pub(super) fn accept(&self, actions: &Actions, manifest: &Manifest, stated: &[(String, String)]) -> bool {
        let Some(agreed) = &self.agreed else { return true };
        let told = |info: &ActionInfo| Told::new(info, manifest.actions.get(info.name.as_str()));
        let told: Vec<_> = actions.infos().iter().map(told).collect();
        let changes = agreed.judge(&told, &manifest.version, stated);
        let is_accepted = changes.is_empty();
        if !is_accepted {
            self.wait_for(Awaited { told, changes });
        }
        is_accepted
    }

    /// Goes on waiting for what is left to agree to of what another one of the same package waited for.
    pub fn take_over(&self, before: &Self) {
        let Some(agreed) = &self.agreed else { return };
        let told = before.awaited().told.clone();
        let changes = changes(&agreed.state().known, &told);
        self.wait_for(Awaited { told, changes });
    }

    /// Whether there is anything that an operator has to agree to.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.is_awaited.load(Ordering::Relaxed)
    }

    /// What that is.
    #[must_use]
    pub fn changes(&self) -> Vec<(String, Change)> {
        self.awaited().changes.clone()
    }

    /// What such an action is for, in the plugin's own words.
    #[must_use]
    pub fn description(&self, action: &str) -> Option<String> {
        let awaited = self.awaited();
        let told = awaited.told.iter().find(|told| told.action == action)?;
        Some(told.description.clone()).filter(|description| !description.is_empty())
    }

    /// What is agreed to by whoever agrees to it.
    #[must_use]
    pub fn definitions(&self) -> Vec<(String, String)> {
        let all: BTreeSet<_> = self.awaited().told.iter().flat_map(Told::definitions).collect();
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests;
