//! What was agreed to of what plugins announce, as all versions of an id have it in common; and what of it is written down.
//!
//! What is announced first is agreed to by being used, and comes here from the plugin. It is written down soon after, and once more
//! looked for when the daemon ends; where it could not be, it stays here and is tried again when a version of that plugin is ready.

use std::sync::Arc;

use super::reload::OURSELVES;
use super::{Packages, lock, run};
use crate::model::ids::PluginId;
use crate::plugin::announced::{Agreed, First};
use crate::store::database::consents::Definitions;

impl Packages {
    /// What was agreed to of what versions of this id announce.
    pub(super) fn agreed(&self, id: &PluginId) -> Arc<Agreed> {
        let known = || lock(&self.consents).get(id).map(|known| known.announced.clone()).unwrap_or_default();
        let mut agreed = lock(&self.agreed);
        agreed.entry(id.clone()).or_insert_with(|| Arc::new(Agreed::new(known(), self.announced.clone()))).clone()
    }

    /// Writes down what is agreed to by being used, whenever there is something, until the daemon ends.
    ///
    /// Cancel safe but for what is being written, which is there or is not.
    pub async fn go_on_recording_announced(&self) {
        loop {
            self.announced.notified().await;
            self.record_announced().await;
        }
    }

    /// Writes down what is agreed to by being used.
    pub async fn record_announced(&self) {
        let all: Vec<_> = lock(&self.agreed).iter().map(|(id, agreed)| (id.clone(), agreed.clone())).collect();
        for (id, agreed) in all.into_iter().filter(|(_, agreed)| agreed.has_first()) {
            // Nobody is to be told that it is forgotten, and have it written down thereafter.
            let _one_change = self.changing.lock().await;
            if let Some(first) = agreed.take_first()
                && let Err(error) = self.record_first(&id, &first).await
            {
                tracing::error!(plugin = %id, %error, "what its actions were first is not written down");
                agreed.keep_first(first);
            }
        }
    }

    async fn record_first(&self, id: &PluginId, first: &First) -> Result<(), String> {
        let mut known = lock(&self.consents).get(id).cloned().unwrap_or_default();
        // Of a plugin that was not installed nobody has agreed to these either.
        let is_first =
            known.definitions.is_empty() || first.stated.iter().all(|stated| known.definitions.contains(stated));
        let stated = if is_first { first.stated.clone() } else { Vec::new() };
        known.definitions.extend(stated.iter().cloned());
        lock(&self.consents).insert(id.clone(), known);
        let detail = "its actions as it announced them first".to_owned();
        let entry = self.entry("agree", OURSELVES, id, &first.version, detail);
        let definitions = Definitions { stated, announced: first.announced.clone() };
        let database = self.database.clone();
        match run(move || database.consent(&[], &definitions, &entry)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.message),
        }
    }
}
