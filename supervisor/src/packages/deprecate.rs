//! How a version is deprecated: it goes on taking calls, whoever uses it is told, and others are chosen before it.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::SystemTime;

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;

use super::{Packages, Said, lock, run, the_one};
use crate::events::{EventKind, unix_ms};
use crate::model::ids::PluginId;
use crate::model::status::Deprecation;
use crate::plugin::handle::Handle;
use crate::store::database::Database;

/// As much is said against a version.
const REASON_BYTES_MAX: usize = 512;

/// What was said against versions, whether they are there or not.
#[derive(Debug, Default)]
pub(super) struct Deprecations(Mutex<BTreeMap<(PluginId, Version), Deprecation>>);

impl Deprecations {
    pub(super) fn read(database: &Database) -> Self {
        Self(Mutex::new(database.deprecated().unwrap_or_else(|error| {
            tracing::error!(%error, "which versions are deprecated is not known; all are taken for good");
            BTreeMap::new()
        })))
    }

    /// Has a version that was made have what was said against it.
    pub(super) fn apply(&self, handle: &Handle) {
        let of = (handle.id().clone(), handle.version().clone());
        handle.set_deprecated(lock(&self.0).get(&of).cloned());
        if let Some(warning) = handle.warning() {
            tracing::warn!(plugin = %handle.id(), "{warning}");
        }
    }

    /// Forgets what was said against any version of an id.
    pub(super) fn forget_all(&self, id: &PluginId) {
        lock(&self.0).retain(|(other, _), _| other != id);
    }

    /// Forgets what was said against one that is gone.
    pub(super) fn forget(&self, id: &PluginId, version: &Version) {
        lock(&self.0).remove(&(id.clone(), version.clone()));
    }
}

impl Packages {
    /// Deprecates a version, or takes that back (`undo`).
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found`, `invalid_params` where several fit or the reason is too long; `resource_exhausted` where
    /// it cannot be noted.
    pub async fn deprecate(
        &self,
        plugin: &str,
        version: Option<&str>,
        reason: Option<String>,
        undo: bool,
        who: &str,
    ) -> Result<Said, ErrorBody> {
        if let Some(bytes) = reason.as_ref().map(String::len).filter(|bytes| REASON_BYTES_MAX < *bytes) {
            let message = format!("the reason has {bytes} bytes; at most {REASON_BYTES_MAX} are kept");
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
        }
        if undo && reason.is_some() {
            return Err(ErrorBody::new(ErrorCode::InvalidParams, "what is undone has no reason that could be kept"));
        }
        let _one_change = self.changing.lock().await;
        let handle = the_one(&*self.registry()?, plugin, version)?;
        let (id, version) = (handle.id().clone(), handle.version().clone());
        if undo && handle.deprecated().is_none() {
            return Ok(self.said(handle));
        }
        let what = if undo { "undeprecate" } else { "deprecate" };
        let entry = self.entry(what, who, &id, &version, reason.clone().unwrap_or_default());
        let at_unix_ms = unix_ms(SystemTime::now());
        let deprecation = (!undo).then(|| Deprecation { at_unix_ms, by: who.to_owned(), reason: reason.clone() });
        let (database, noted) = (self.database.clone(), deprecation.clone());
        let noted = run(move || database.deprecate(noted.as_ref(), &entry)).await?;
        noted.map_err(|error| super::unwritten(&error))?;
        let of = (id.clone(), version.clone());
        match deprecation {
            Some(deprecation) => drop(lock(&self.deprecations.0).insert(of, deprecation)),
            None => drop(lock(&self.deprecations.0).remove(&of)),
        }
        self.deprecations.apply(&handle);
        let kind = if undo { EventKind::PackageUndeprecated } else { EventKind::PackageDeprecated };
        self.tell(kind, &id, &version, reason);
        Ok(self.said(handle))
    }
}
