//! How an installed version is removed.

use std::fs;
use std::path::PathBuf;

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;
use serde::Serialize;

use super::record::sync_parent;
use super::{Packages, lock, no_room, run, the_one};
use crate::blocking;
use crate::events::EventKind;
use crate::model::ids::PluginId;
use crate::model::manifest::Manifest;
use crate::registry::Registry;

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The plugin,
    pub id: String,
    /// its version,
    pub version: String,
    /// plugins that depended on it and are without it now,
    pub broken: Vec<String>,
    /// and the folder of its data, which stays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
}

impl Packages {
    /// Removes an installed version: its calls end as at a stop, and its data stay.
    ///
    /// Not cancel safe: it may be removed, and not stopped yet.
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found`; `invalid_params` where it lies in a plugin directory, where several fit, or where others
    /// depend on it, unless `force` is given.
    pub async fn uninstall(
        &self,
        plugin: &str,
        version: Option<&str>,
        force: bool,
        who: &str,
    ) -> Result<Removed, ErrorBody> {
        let _one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let handle = the_one(&registry, plugin, version)?;
        let (id, version) = (handle.id().clone(), handle.version().clone());
        let record = self.record_of(&id, &version);
        if !record.exists() {
            let place = handle.blueprint().source.display().to_string();
            let message = format!("{id} {version} was not installed: it lies in {place}");
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message)
                .with_hint(format!("take it out of there, or `palisade disable {id}@{version}`")));
        }
        let broken = dependants(&registry, &id, &version);
        if !broken.is_empty() && !force {
            let message = format!("{} on {id} {version}", depend(&broken));
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message)
                .with_hint("remove those first, or use --force, and they are without it"));
        }
        let entry = self.entry("uninstall", who, &id, &version, String::new());
        let database = self.database.clone();
        run(move || {
            fs::remove_file(&record).and_then(|()| sync_parent(&record)).map_err(|error| no_room(&record, &error))?;
            // The version is gone, whether that was noted or not.
            if let Err(error) = database.removed(&entry) {
                tracing::error!(%error, "that a version was removed is not in the audit trail");
            }
            Ok::<_, ErrorBody>(())
        })
        .await??;
        let mut without = Registry::clone(&registry);
        without.take(&id, &version);
        self.live.replace(without);
        drop(registry);
        self.deprecations.forget(&id, &version);
        self.tell(EventKind::PackageRemoved, &id, &version, None);
        let task = lock(&self.tasks).remove(&(id.clone(), version.clone()));
        self.end(&handle, task).await;
        let data = handle.blueprint().data_folder();
        // Versions share it. One that was made beforehand and never used is nothing to be kept.
        let is_shared = self.registry()?.versions(&id).next().is_some();
        let stays = is_shared
            || run({
                let data = data.clone();
                move || fs::remove_dir(&data).is_err() && data.is_dir()
            })
            .await?;
        drop(handle);
        let store = self.around.store.clone();
        // In its own time: what is kept for a return is decided there.
        tokio::spawn(async move {
            if let Err(error) = blocking::run(move || store.sweep()).await {
                tracing::warn!(%error, "superfluous snapshots stay until the next start");
            }
        });
        Ok(Removed { id: id.to_string(), version: version.to_string(), broken, data: stays.then_some(data) })
    }
}

/// The plugins that no other version of `id` would do for, as `id version` each.
fn dependants(registry: &Registry, id: &PluginId, version: &Version) -> Vec<String> {
    let left: Vec<_> = registry.versions(id).map(|(there, _)| there).filter(|there| *there != version).collect();
    let needs = |manifest: &Manifest| {
        manifest.dependencies.get(id).is_some_and(|wanted| {
            !wanted.optional
                && wanted.version.matches(version)
                && wanted.version.highest(left.iter().copied()).is_none()
        })
    };
    let all = registry.all().filter(|handle| handle.id() != id && needs(&handle.blueprint().manifest));
    all.map(|handle| format!("{} {}", handle.id(), handle.version())).collect()
}

fn depend(broken: &[String]) -> String {
    match broken {
        [one] => format!("{one} depends"),
        several => format!("{} depend", several.join(", ")),
    }
}
