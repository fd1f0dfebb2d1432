//! Installed versions of which there is nothing but the record: the snapshot is damaged or gone, or the record is none.

use palisade_protocol::ErrorBody;
use semver::Version;

use super::{Leaving, Packages, Removed, lock, run};
use crate::events::EventKind;
use crate::model::ids::PluginId;
use crate::plugin::handle::Handle;
use crate::registry::Registry;
use crate::store::Snapshot;

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
        let purged = leaving == Leaving::Purged && !is_shared;
        if purged {
            self.purge(&id, &version, &data, who).await?;
        }
        let data = run(move || (!purged && data.is_dir()).then_some(data)).await?;
        Ok(Some(Removed {
            id: id.to_string(),
            version: version.to_string(),
            broken: Vec::new(),
            data,
            archive: None,
            purged,
        }))
    }
}
