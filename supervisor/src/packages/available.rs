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
    /// the newest one that the pin admits, or of all if it admits none, if there is a newer one,
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
    /// the newest one beyond it, where that is another,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub excluded: Option<Version>,
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
            let admitting = pin.cloned();
            // What cannot be looked at has nothing that could be had.
            let found = run(move || {
                let any = elsewhere(source.clone(), &of, &before, &|_| true);
                // Beside the newest of all there may be one that can be taken.
                let admitted =
                    admitting.and_then(|pin| elsewhere(source, &of, &before, &|version| pin.admits(version)));
                any.into_iter().chain(admitted).collect::<Vec<_>>()
            });
            for (version, source) in found.await? {
                if !is_newer(&version) || newer.iter().any(|(there, ..)| *there == version) {
                    continue;
                }
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
        let (newest, excluded) = shown(newer.iter().map(|(version, ..)| version), pin);
        let (newest, excluded) = (newest.cloned(), excluded.cloned());
        let newest = newer.into_iter().find(|(version, ..)| Some(version) == newest.as_ref());
        let kind = newest.as_ref().zip(serving.as_ref()).map(|((newest, ..), serving)| Kind::of(serving, newest));
        let (newest, source, held) = match newest {
            Some((newest, source, held)) => (Some(newest), Some(source), held),
            None => (None, None, None),
        };
        let (held_by, reason) = held.unzip();
        let pin = pin.map(ToString::to_string);
        Ok(Available { id: id.clone(), serving, newest, kind, source, policy, pin, excluded, held_by, reason })
    }
}

/// Of the versions that are newer the one that is shown, and the newest that the pin excludes beside it.
fn shown<'a>(
    newer: impl Iterator<Item = &'a Version>,
    pin: Option<&Specifier>,
) -> (Option<&'a Version>, Option<&'a Version>) {
    let (admitted, beyond): (Vec<_>, Vec<_>) =
        newer.partition(|version: &&Version| pin.is_none_or(|pin| pin.admits(version)));
    let [admitted, beyond] = [admitted, beyond].map(|versions| Specifier::any().highest(versions));
    match (admitted, beyond) {
        (Some(admitted), Some(beyond)) => (Some(admitted), is_next(admitted, beyond).then_some(beyond)),
        (admitted, beyond) => (admitted.or(beyond), None),
    }
}

/// Why a version takes no calls.
pub(super) fn why_not(handle: &Handle) -> Option<(&'static str, String)> {
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
fn elsewhere(
    source: PathBuf,
    id: &PluginId,
    before: &Version,
    is_meant: &dyn Fn(&Version) -> bool,
) -> Option<(Version, PathBuf)> {
    if source.is_dir() {
        let found = registry::read(&source).ok()?.manifest;
        return (found.id == *id && is_meant(&found.version)).then_some((found.version, source));
    }
    let archive = newest_beside(&source, id, before, true, is_meant).ok()??;
    Some((version_in(archive.file_name()?.to_str()?, id)?, archive))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_taken_is_shown_before_what_the_pin_excludes() {
        let of = |newer: &[&str], pin: Option<&str>| {
            let newer: Vec<_> = newer.iter().map(|text| Version::parse(text).unwrap()).collect();
            let pin = pin.map(|pin| Specifier::parse(pin).unwrap());
            let (newest, excluded) = shown(newer.iter(), pin.as_ref());
            [newest, excluded].map(|version| version.map(ToString::to_string).unwrap_or_default())
        };
        assert_eq!(of(&[], None), ["", ""]);
        assert_eq!(of(&["1.1.0", "2.0.0"], None), ["2.0.0", ""]);
        assert_eq!(of(&["1.1.0", "1.2.0", "1.3.0", "2.0.0"], Some("<1.3")), ["1.2.0", "2.0.0"]);
        assert_eq!(of(&["1.1.0"], Some("~1.0")), ["1.1.0", ""], "there is no other");
        assert_eq!(of(&["1.1.0", "2.0.0"], Some(">=2")), ["2.0.0", ""], "what is older is nothing beyond");
    }
}
