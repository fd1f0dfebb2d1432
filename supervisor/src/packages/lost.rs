//! Installed versions of which there is nothing but the record: the snapshot is damaged or gone, or the record is none. And plugins of which
//! no version is there, and something that they left.

use std::fs;
use std::path::Path;

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;

use super::{Leaving, Packages, Removed, archived, lock, run};
use crate::events::EventKind;
use crate::model::ids::PluginId;
use crate::plugin::handle::Handle;
use crate::registry::Registry;
use crate::store::Snapshot;
use crate::store::database::forget::STATISTICS;

impl Packages {
    /// The snapshot of a version that may not be used, which from here on is the caller's to keep.
    pub(super) fn take_kept(&self, handle: &Handle) -> Option<Snapshot> {
        let source = &handle.blueprint().source;
        let mut kept = lock(&self.kept);
        let place = kept.iter().position(|snapshot| snapshot.path == *source)?;
        Some(kept.swap_remove(place))
    }

    /// Forgets exactly this version, if it is no plugin and there is a record of it. The caller sees to it that nothing else changes.
    pub(super) async fn forget_record(
        &self,
        registry: &Registry,
        (plugin, version): (&str, Option<&str>),
        leaving: Leaving,
        who: &str,
    ) -> Result<Option<Removed>, ErrorBody> {
        let exactly = version.map(|version| version.trim_start_matches('='));
        let (Ok(id), Some(Ok(version))) = (PluginId::parse(plugin), exactly.map(Version::parse)) else {
            return Ok(None);
        };
        let record = self.record_of(&id, &version);
        if registry.versions(&id).any(|(there, _)| *there == version) {
            return Ok(None);
        }
        let is_installed = run({
            let record = record.clone();
            move || record.exists()
        });
        if !is_installed.await? {
            return Ok(None);
        }
        let entry = self.entry("uninstall", who, &id, &version, "it could not be used".to_owned());
        self.remove_record(record, entry).await?;
        let mut without = Registry::clone(registry);
        without.forgive(&id, &version);
        self.live.replace(without);
        self.deprecations.forget(&id, &version);
        self.tell(EventKind::PackageRemoved, &id, &version, None);
        let data = self.around.host.data.join(id.as_str());
        // Other versions have it too.
        let is_shared = registry.versions(&id).next().is_some() || self.registry()?.is_lost(&id);
        let purged = leaving == Leaving::Purged && !is_shared && !self.is_leaving(&id);
        let gone = if purged { self.purge(&id, Some(&version), who).await? } else { Vec::new() };
        self.sweep(purged.then(|| id.clone()));
        let data = run(move || (!purged && data.is_dir()).then_some(data)).await?;
        Ok(Some(Removed {
            id: id.to_string(),
            version: Some(version.to_string()),
            broken: Vec::new(),
            data,
            archive: None,
            purged,
            gone,
        }))
    }

    /// Removes all that is left of a plugin of which no version is there, where that is wanted; `unknown` is what is said of it otherwise,
    /// with what is left of it. The caller sees to it that nothing else changes.
    pub(super) async fn forget_rest(
        &self,
        (plugin, version): (&str, Option<&str>),
        leaving: Leaving,
        who: &str,
        unknown: ErrorBody,
    ) -> Result<Removed, ErrorBody> {
        let Ok(id) = PluginId::parse(plugin) else { return Err(unknown) };
        if unknown.code != ErrorCode::PluginNotFound {
            return Err(unknown);
        }
        if self.is_leaving(&id) {
            let message = format!("{id} is removed, and still ends the calls that it has");
            return Err(ErrorBody::new(ErrorCode::Unavailable, message).with_hint("try again once it has ended"));
        }
        // A record that was put there and not looked at yet is one all the same.
        let records = self.records.clone();
        let prefix = format!("{id}@");
        let installed = run(move || has_entry(&records, &prefix)).await?;
        let left = if installed { Vec::new() } else { self.left_of(&id).await? };
        if left.is_empty() {
            return Err(unknown);
        }
        if leaving == Leaving::Kept || version.is_some() {
            let message = format!("there is no plugin {plugin:?} any more; of it there is left: {}", left.join(", "));
            return Err(ErrorBody::new(ErrorCode::PluginNotFound, message)
                .with_hint(format!("`palisade uninstall --purge {id}` removes all of that")));
        }
        let gone = self.purge(&id, None, who).await?;
        self.sweep(Some(id.clone()));
        Ok(Removed {
            id: id.to_string(),
            version: None,
            broken: Vec::new(),
            data: None,
            archive: None,
            purged: true,
            gone,
        })
    }

    /// What there is of an id apart from its versions: a few words for each.
    ///
    /// # Errors
    /// `resource_exhausted` where that cannot be looked at.
    pub(super) async fn left_of(&self, id: &PluginId) -> Result<Vec<String>, ErrorBody> {
        let (data, numbers) = (self.around.host.data.join(id.as_str()), self.generations.join(id.as_str()));
        let (archived, accounts, database) = (self.archived.clone(), self.accounts.clone(), self.database.clone());
        let unread = |what: String| ErrorBody::new(ErrorCode::ResourceExhausted, what);
        let id = id.clone();
        run(move || {
            let mut left = Vec::new();
            // One that was made beforehand and never used is nothing.
            if fs::read_dir(&data).map_or_else(|_| data.exists(), |mut entries| entries.next().is_some()) {
                left.push(format!("its data in {}", data.display()));
            }
            let kept = archived::of(&archived, &id);
            let kept = kept.map_err(|error| unread(format!("{} cannot be read: {error}", archived.display())))?;
            if !kept.is_empty() {
                let versions: Vec<_> = kept.keys().map(ToString::to_string).collect();
                left.push(format!("the archives of {}", versions.join(", ")));
            }
            if numbers.exists() {
                left.push("the numbers of its processes".to_owned());
            }
            let known = database.has_of(&id).map_err(|error| unread(error.to_string()))?;
            left.extend(known.iter().copied().map(str::to_owned));
            if !known.contains(&STATISTICS) && accounts.owes(&id) {
                left.push(STATISTICS.to_owned());
            }
            Ok(left)
        })
        .await?
    }
}

/// Whether the folder has something whose name begins so; it counts as having it where that cannot be seen.
fn has_entry(folder: &Path, prefix: &str) -> bool {
    let Ok(mut entries) = fs::read_dir(folder) else { return true };
    entries.any(|entry| entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(prefix)))
}
