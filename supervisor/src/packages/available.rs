//! Which newer versions there are: those that lie here and wait, and those that can be had from where a plugin was installed.
//!
//! Nothing is copied or tried for that: of an archive its name is believed, of a folder its manifest.

use std::path::PathBuf;

use palisade_protocol::ErrorBody;
use semver::Version;
use serde::Serialize;

use super::update::{is_installed, newest_beside, version_in};
use super::{Packages, run};
use crate::model::ids::PluginId;
use crate::model::specifier::Specifier;
use crate::model::updates::{By, Kind, Policy, is_next};
use crate::plugin::handle::Handle;
use crate::registry::{self, Registry};

/// The newest version of a plugin that can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Available {
    /// The plugin,
    pub id: PluginId,
    /// the version that calls get which name none,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<Version>,
    /// the newest one, if there is a newer one,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub newest: Option<Version>,
    /// how far that is from what serves,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// where it is,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<PathBuf>,
    /// what becomes of newer versions,
    pub policy: Policy,
    /// which versions may serve, where that was said,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pin: Option<String>,
    /// by what the newest one is held back,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<&'static str>,
    /// and a sentence on that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// A newer version, where it is, and by what it is held back.
type Newer = (Version, PathBuf, Option<(&'static str, String)>);

impl Packages {
    /// The newest version of a plugin that can be had; or those of all plugins that have a newer one.
    ///
    /// # Errors
    /// `plugin_not_found`; `resource_exhausted` where there is no thread to look with.
    pub async fn available(&self, plugin: Option<&str>) -> Result<Vec<Available>, ErrorBody> {
        let registry = self.registry()?;
        let mut ids: Vec<PluginId> = match plugin {
            Some(plugin) => vec![registry.find_any(plugin, None)?.id().clone()],
            None => registry.all().map(|handle| handle.id().clone()).collect(),
        };
        ids.dedup();
        let mut all = Vec::with_capacity(ids.len());
        for id in ids {
            let available = self.available_of(&registry, &id).await?;
            if plugin.is_some() || available.newest.is_some() {
                all.push(available);
            }
        }
        Ok(all)
    }

    async fn available_of(&self, registry: &Registry, id: &PluginId) -> Result<Available, ErrorBody> {
        let serving = registry.find(id.as_str(), None).ok().map(|handle| handle.version().clone());
        let is_newer = |version: &Version| serving.as_ref().is_none_or(|serving| is_next(serving, version));
        let (policy, pin) = (self.update_policy_of(id), self.pin_of(id));
        let mut newer: Vec<Newer> = registry
            .versions(id)
            .filter(|(version, handle)| !handle.is_in_use() && is_newer(version))
            .map(|(version, handle)| {
                let source = handle.blueprint().consent.source.clone();
                (version.clone(), source, why_not(handle))
            })
            .collect();
        let installed: Vec<_> =
            registry.versions(id).filter(|(_, handle)| is_installed(handle)).map(|(_, handle)| handle).collect();
        if let Some(installed) = installed.last() {
            let (source, before) = (installed.blueprint().consent.source.clone(), installed.version().clone());
            let of = id.clone();
            // What cannot be looked at has nothing that could be had.
            if let Some((version, source)) = run(move || elsewhere(source, &of, &before)).await?
                && is_newer(&version)
                && newer.iter().all(|(there, ..)| *there != version)
            {
                let by = if pin.is_some_and(|pin| !pin.admits(&version)) {
                    (By::Pin.as_str(), self.why_held(By::Pin, id, serving.as_ref(), policy))
                } else if serving.as_ref().is_some_and(|serving| Kind::of(serving, &version) == Kind::Major) {
                    (By::Major.as_str(), self.why_held(By::Major, id, serving.as_ref(), policy))
                } else {
                    ("not_installed", "it is not installed: `palisade update` does that".to_owned())
                };
                newer.push((version, source, Some(by)));
            }
        }
        let highest = Specifier::any().highest(newer.iter().map(|(version, ..)| version).collect::<Vec<_>>()).cloned();
        let newest = newer.into_iter().find(|(version, ..)| Some(version) == highest.as_ref());
        let kind = newest.as_ref().zip(serving.as_ref()).map(|((newest, ..), serving)| Kind::of(serving, newest));
        let (newest, source, held) = match newest {
            Some((newest, source, held)) => (Some(newest), Some(source), held),
            None => (None, None, None),
        };
        let (held_by, reason) = held.unzip();
        let pin = pin.map(ToString::to_string);
        Ok(Available { id: id.clone(), serving, newest, kind, source, policy, pin, held_by, reason })
    }
}

/// Why a version takes no calls.
fn why_not(handle: &Handle) -> Option<(&'static str, String)> {
    if !handle.is_enabled() {
        return Some(("disabled", "it is disabled".to_owned()));
    }
    if let Some(held) = handle.updating().held {
        return Some((held.by.as_str(), held.reason));
    }
    if handle.awaits_consent() {
        return Some(("permission", handle.blueprint().awaits()));
    }
    handle.blueprint().misconfigured().map(|why| ("configuration", why))
}

/// The newest version that can be had from where one was installed. Blocks.
fn elsewhere(source: PathBuf, id: &PluginId, before: &Version) -> Option<(Version, PathBuf)> {
    if source.is_dir() {
        let found = registry::read(&source).ok()?.manifest;
        return (found.id == *id).then_some((found.version, source));
    }
    let archive = newest_beside(&source, id, before, true, &|_| true).ok()??;
    Some((version_in(archive.file_name()?.to_str()?, id)?, archive))
}
