//! How a plugin gets a newer version, from where it was installed or from elsewhere.
//!
//! The version before stays, for whoever names it, and goes on taking all calls where the new one has to wait for its operator's consent.

use std::path::Path;

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;
use serde::Serialize;
use serde_json::json;

use super::install::Taken;
use super::{Packages, run, source};
use crate::model::ids::PluginId;
use crate::plugin::handle::Handle;

/// What an update came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Updated {
    /// The plugin,
    pub id: String,
    /// the version that it had,
    pub from: String,
    /// the one that it has now, which is the same where there is no newer one,
    pub version: String,
    /// the digest of its snapshot,
    pub digest: String,
    /// from where it came,
    pub source: String,
    /// and whether anything was installed.
    pub updated: bool,
}

/// What updates came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Updates {
    /// Each plugin,
    pub updates: Vec<Updated>,
    /// and those of which no newer version could be had, where all were to be updated.
    pub failed: Vec<Failed>,
}

/// Why a plugin was not updated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failed {
    /// Which,
    pub id: String,
    /// the name of the error,
    pub code: ErrorCode,
    /// and a sentence.
    pub message: String,
}

/// What an update may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leave {
    /// The new version may break whoever uses the plugin.
    pub major: bool,
    /// What it depends on need not be here.
    pub force: bool,
}

impl Packages {
    /// Updates a plugin, or each that was installed, one after the other.
    ///
    /// Not cancel safe: as [`Packages::update`].
    ///
    /// # Errors
    /// As [`Packages::update`] where a plugin is named; `invalid_params` for a place without a plugin.
    pub async fn updates(
        &self,
        plugin: Option<String>,
        from: Option<String>,
        leave: Leave,
        who: &str,
    ) -> Result<Updates, ErrorBody> {
        let mut all = Updates::default();
        match (plugin, from) {
            (Some(plugin), from) => all.updates.push(self.update(&plugin, from.as_deref(), leave, who).await?),
            (None, Some(_)) => {
                let message = "a place to update from is that of one plugin, and none is named";
                return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
            }
            (None, None) => {
                for id in self.installed_ids()? {
                    match self.update(&id, None, leave, who).await {
                        Ok(updated) => all.updates.push(updated),
                        Err(ErrorBody { code, message, .. }) => all.failed.push(Failed { id, code, message }),
                    }
                }
            }
        }
        Ok(all)
    }

    /// Installs a newer version of a plugin from `from`, or from where its highest installed version came. It takes calls if that one does.
    ///
    /// Not cancel safe: the new version may be installed and not started.
    ///
    /// # Errors
    /// `plugin_not_found`; `invalid_params` where no version was installed, or another plugin is found there; `consent_required` for a new
    /// major version, unless `leave.major`; whatever an installation can end with.
    pub async fn update(
        &self,
        plugin: &str,
        from: Option<&str>,
        leave: Leave,
        who: &str,
    ) -> Result<Updated, ErrorBody> {
        let present = self.highest_installed(plugin)?;
        let id = present.id().clone();
        let source = match from {
            Some(from) => source::path_of(from)?,
            None => present.blueprint().consent.source.clone(),
        };
        let taken = match self.take_in(&source).await {
            Ok(taken) => taken,
            Err(error) if from.is_some() || error.hint.is_some() => return Err(error),
            Err(error) => {
                let (id, source) = (id.clone(), source.clone());
                return Err(run(move || named(error, &id, &source)).await?);
            }
        };
        if taken.found.manifest.id != id {
            let message = format!("in {} is {} and not {id}", source.display(), taken.found.manifest.id);
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message).with_hint("say where it is: `--from`"));
        }
        let _one_change = self.changing.lock().await;
        // Something may have changed while it was copied.
        let present = self.highest_installed(plugin)?;
        let (before, version) = (present.version().clone(), taken.found.manifest.version.clone());
        let mut answer = Updated {
            id: id.to_string(),
            from: before.to_string(),
            version: before.to_string(),
            digest: present.blueprint().snapshot().map(|snapshot| snapshot.digest).unwrap_or_default(),
            source: taken.source.display().to_string(),
            updated: false,
        };
        if version <= before {
            return Ok(answer);
        }
        if !leave.major && !is_compatible(&before, &version) {
            let message =
                format!("{id} {version} is a new major version after {before}, and may break whoever uses it");
            let details = json!({ "id": id.as_str(), "from": before.to_string(), "version": version.to_string() });
            return Err(ErrorBody::new(ErrorCode::ConsentRequired, message).with_details(details).with_hint(
                match from {
                    Some(from) => format!("`palisade update --major {id} --from {from}` installs it"),
                    None => format!("`palisade update --major {id}` installs it"),
                },
            ));
        }
        let enabled = present.is_enabled() && taken.enabled;
        let installed = self.put_in(Taken { enabled, ..taken }, leave.force, who).await?;
        answer.version = installed.version;
        answer.digest = installed.digest;
        answer.updated = !installed.was_there;
        Ok(answer)
    }

    /// The highest version of a plugin that was installed.
    fn highest_installed(&self, plugin: &str) -> Result<Handle, ErrorBody> {
        let registry = self.registry()?;
        let any = registry.find_any(plugin, None)?;
        let id = any.id();
        let installed = registry.versions(id).map(|(_, handle)| handle).filter(|handle| is_installed(handle));
        installed.last().cloned().ok_or_else(|| {
            let place = any.blueprint().source.display();
            let message = format!("no version of {id} was installed: it lies in {place}");
            ErrorBody::new(ErrorCode::InvalidParams, message)
                .with_hint("change it there, which is noticed; or install a version")
        })
    }

    /// The ids of everything that was installed.
    fn installed_ids(&self) -> Result<Vec<String>, ErrorBody> {
        let registry = self.registry()?;
        let mut ids: Vec<_> =
            registry.all().filter(|handle| is_installed(handle)).map(|handle| handle.id().to_string()).collect();
        ids.dedup();
        Ok(ids)
    }
}

fn is_installed(handle: &Handle) -> bool {
    handle.blueprint().consent.is_installed
}

/// Whether whoever uses the one can use the other, as SemVer has it and as `^` means it.
fn is_compatible(before: &Version, after: &Version) -> bool {
    match (before.major, before.minor) {
        (0, 0) => (after.major, after.minor, after.patch) == (0, 0, before.patch),
        (0, minor) => (after.major, after.minor) == (0, minor),
        (major, _) => after.major == major,
    }
}

/// What is said where a plugin came from a place that has nothing any more. Blocks.
fn named(error: ErrorBody, id: &PluginId, source: &Path) -> ErrorBody {
    if source.exists() {
        return error;
    }
    error.with_hint(format!("{id} was installed from there, and that is gone; say where a newer version is: `--from`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_break_somebody_is_a_new_major_version() {
        for (before, after, compatible) in [
            ("1.2.3", "1.2.4", true),
            ("1.2.3", "1.9.0-rc.1", true),
            ("1.2.3", "2.0.0-rc.1", false),
            ("1.2.3", "2.0.0", false),
            ("0.2.3", "0.2.4", true),
            ("0.2.3", "0.3.0", false),
            ("0.2.3", "1.2.3", false),
            ("0.0.3", "0.0.4", false),
            ("0.0.3", "0.0.3+build.2", true),
        ] {
            let version = |text: &str| Version::parse(text).unwrap();
            assert_eq!(is_compatible(&version(before), &version(after)), compatible, "{before} to {after}");
        }
    }
}
