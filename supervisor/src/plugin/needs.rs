//! What a plugin depends on and cannot have: while there is any, it is not started.
//!
//! Asked when a process would be started, and not for calls that one takes: what serves goes on when its dependency goes.
//! Elsewhere: who fits whom is `registry`'s, which is the one that offers.

use std::fmt;
use std::sync::{Mutex, Weak};

use palisade_protocol::{ErrorBody, ErrorCode};
use tokio::sync::watch;

use crate::model::ids::PluginId;
use crate::model::manifest::Manifest;

/// Who knows of every plugin there is.
pub trait Offer: fmt::Debug + Send + Sync {
    /// What of that which the manifest's plugin depends on is not to be had: a sentence.
    fn lacking(&self, manifest: &Manifest) -> Option<String>;

    /// How a plugin comes to a version that can use a state in this form, and what else there is to be done: a sentence that goes on.
    fn way_to_form(&self, id: &PluginId, form: u32) -> String;

    /// Whether that can have changed: another number each time.
    fn changes(&self) -> watch::Receiver<u64>;

    /// Tells everybody who depends on something that it has.
    fn has_changed(&self);
}

/// What one plugin lacks, as far as it is known already.
#[derive(Debug)]
pub struct Needs {
    offer: Weak<dyn Offer>,
    known: Mutex<Option<(u64, Option<String>)>>,
}

impl Needs {
    /// Those of a plugin that has what is offered there.
    #[must_use]
    pub fn new(offer: Weak<dyn Offer>) -> Self {
        Self { offer, known: Mutex::default() }
    }

    /// What can be done about a state whose form this version cannot know: a sentence that goes on.
    #[must_use]
    pub fn way_to_form(&self, id: &PluginId, form: u32) -> Option<String> {
        Some(self.offer.upgrade()?.way_to_form(id, form))
    }

    /// What it lacks: a sentence. Looked for once for each change of what there is.
    pub fn lacking(&self, manifest: &Manifest) -> Option<String> {
        if manifest.dependencies.values().all(|dependency| dependency.optional) {
            return None;
        }
        let offer = self.offer.upgrade()?;
        let mut known = self.known.lock().expect("nothing panics while it holds this");
        // Read first: what changes while it is looked for is looked for again.
        let now = *offer.changes().borrow();
        match &*known {
            Some((then, lacking)) if *then == now => lacking.clone(),
            _ => {
                let lacking = offer.lacking(manifest);
                *known = Some((now, lacking.clone()));
                lacking
            }
        }
    }

    /// Tells the others that what they depend on may be had no more, or again.
    pub(super) fn tell_others(&self) {
        if let Some(offer) = self.offer.upgrade() {
            offer.has_changed();
        }
    }

    /// Tells when something has changed.
    pub(super) fn changes(&self) -> Option<watch::Receiver<u64>> {
        self.offer.upgrade().map(|offer| offer.changes())
    }
}

/// How it is told.
pub(super) fn refusal(manifest: &Manifest, lacking: &str) -> ErrorBody {
    let Manifest { id, version, .. } = manifest;
    ErrorBody::new(ErrorCode::DependencyUnavailable, message(manifest, lacking)).with_hint(format!(
        "install, enable or grant what is missing; `palisade info {id}@={version}` lists what it depends on"
    ))
}

/// The same as a sentence.
pub(super) fn message(Manifest { id, version, .. }: &Manifest, lacking: &str) -> String {
    format!("{id} {version} does not start without what it depends on: {lacking}")
}
