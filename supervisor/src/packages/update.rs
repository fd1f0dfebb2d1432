//! How a plugin gets a newer version: one that is there and is held, or else from where it was installed, or from elsewhere.
//!
//! The version before stays, for whoever names it, and goes on taking all calls where the new one has to wait for its operator's consent.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;
use serde::Serialize;
use serde_json::json;

use super::available::why_not;
use super::install::Taken;
use super::reload::Candidate;
use super::{Packages, run, source};
use crate::model::ids::PluginId;
use crate::model::specifier::Specifier;
use crate::model::updates::{By, Present, Said, is_compatible};
use crate::plugin::handle::Handle;
use crate::registry::Registry;

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
    /// where a newer one was looked for,
    pub source: String,
    /// the version that is there,
    pub found: String,
    /// whether the version is another,
    pub updated: bool,
    /// and was installed for it, rather than there already.
    pub installed: bool,
    /// The file with what the plugin kept before, where that was brought into another form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
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

/// So many of the versions that are there are named.
const VERSIONS_NAMED_MAX: usize = 16;

/// Most entries of a folder in which archives are looked for.
const BESIDE_MAX: usize = 100_000;

/// With what the names of archives end, as `palisade pack` writes them and as others do.
const ARCHIVE_ENDS: [&str; 2] = [".tar.zst", ".tar.gz"];

/// What an update may do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Leave {
    /// The new version may break whoever uses the plugin.
    pub major: bool,
    /// What it depends on need not be here.
    pub force: bool,
}

impl Packages {
    /// Updates a plugin, or each that was installed or of which a newer version is held, one after the other.
    ///
    /// Not cancel safe: as [`Packages::update`].
    ///
    /// # Errors
    /// As [`Packages::update`] where a plugin is named; `invalid_params` for a place without a plugin.
    pub async fn updates(
        &self,
        plugin: Option<String>,
        (version, to): (Option<&str>, Option<&str>),
        from: Option<String>,
        leave: Leave,
        who: &str,
    ) -> Result<Updates, ErrorBody> {
        let mut all = Updates::default();
        match (plugin, from) {
            (Some(plugin), from) => {
                all.updates.push(self.update(&plugin, (version, to), from.as_deref(), leave, who).await?);
            }
            (None, None) if version.or(to).is_some() => {
                let message = "a version is that of one plugin, and none is named";
                return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
            }
            (None, Some(_)) => {
                let message = "a place to update from is that of one plugin, and none is named";
                return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
            }
            (None, None) => {
                for id in self.updatable_ids()? {
                    match self.update(&id, (None, None), None, leave, who).await {
                        Ok(updated) => all.updates.push(updated),
                        Err(ErrorBody { code, message, .. }) => all.failed.push(Failed { id, code, message }),
                    }
                }
            }
        }
        Ok(all)
    }

    /// Has a newer version of a plugin take calls that is there and is held; or else installs one from `from`, or from where its highest
    /// installed version came, of those that `wanted` specifies. That takes calls if the one before does. With `to` it is just that version.
    ///
    /// Not cancel safe: the new version may be installed and not started.
    ///
    /// # Errors
    /// `plugin_not_found`; `invalid_params` where there is no newer version and none was installed, where the pin excludes it, or another
    /// plugin is found there; `version_not_found` where it is not the one that was named; `consent_required` for a new major version, unless
    /// `leave.major`; whatever an installation can end with.
    pub async fn update(
        &self,
        plugin: &str,
        (wanted, to): (Option<&str>, Option<&str>),
        from: Option<&str>,
        leave: Leave,
        who: &str,
    ) -> Result<Updated, ErrorBody> {
        let to = to.map(Version::parse).transpose().map_err(|error| {
            ErrorBody::new(ErrorCode::InvalidParams, format!("`to_version` has to be a whole version: {error}"))
        })?;
        let mut refused = None;
        if from.is_none() {
            match self.waiting(plugin, wanted, to.as_ref(), leave)? {
                Some(Waiting::Taken(update)) => return self.take_waiting(&update, who).await,
                Some(Waiting::Serves(updated)) => return Ok(updated),
                Some(Waiting::Refused(error)) => refused = Some(error),
                None => {}
            }
        }
        // What it is held back by is told where there is nothing else to be had.
        let is_installed = self.highest_installed(plugin, wanted);
        if let (Some(to), None, Err(_), None) = (&to, from, &is_installed, &refused) {
            let registry = self.registry()?;
            let id = registry.find_any(plugin, wanted)?.id();
            let message = format!("there is no {id} {to}: {}", there_are(&registry, id));
            return Err(ErrorBody::new(ErrorCode::VersionNotFound, message)
                .with_hint("`palisade install` takes it from a folder, an archive or a URL"));
        }
        if let (Some(refused), Err(_)) = (&refused, &is_installed) {
            return Err(refused.clone());
        }
        is_installed?;
        let updated = self.update_from(plugin, (wanted, to.as_ref()), from, leave, who).await;
        match (updated, refused) {
            (Ok(updated), Some(refused)) if !updated.updated => Err(refused),
            (Err(error), Some(refused)) if error.code == ErrorCode::VersionNotFound => Err(refused),
            (updated, _) => updated,
        }
    }

    /// The newer version of a plugin that is there, and is held.
    fn waiting(
        &self,
        plugin: &str,
        wanted: Option<&str>,
        to: Option<&Version>,
        leave: Leave,
    ) -> Result<Option<Waiting>, ErrorBody> {
        let registry = self.registry()?;
        let any = registry.find_any(plugin, wanted)?;
        let id = any.id();
        let wanted = specified(wanted)?;
        let there: Vec<_> =
            registry.versions(id).map(|(version, handle)| Present { version, enabled: handle.is_enabled() }).collect();
        let accepted = self.accepted_of(id);
        let said = Said { accepted: &accepted, pin: self.pin_of(id), policy: self.update_policy_of(id) };
        let before = said.before(&there);
        let is_meant = |version: &Version| to.is_none_or(|to| to == version) && wanted.admits(version);
        let meant: Vec<_> =
            registry.versions(id).filter(|(version, handle)| is_meant(version) && handle.is_enabled()).collect();
        let named = to.and_then(|to| registry.versions(id).find(|(version, _)| *version == to));
        if let Some((version, handle)) = named
            && !handle.is_held()
        {
            let serving = registry.find(id.as_str(), None).ok();
            return match serving {
                Some(serving) if serving.version() == version => {
                    Ok(Some(Waiting::Serves(self.as_it_is(serving, serving))))
                }
                _ => Err(self.no_update(handle, serving)),
            };
        }
        let held = || meant.iter().filter(|(_, handle)| handle.is_held());
        let (mut taken, mut refused) = (Vec::new(), None);
        for (version, _) in held() {
            match said.asked(version, &there, leave.major) {
                Ok(()) => taken.push(*version),
                Err(By::Major) => refused = Some(not_confirmed(id, before, version, self.again(id, version, true))),
                Err(by) if to.is_some() => {
                    let message =
                        format!("{id} {version} is not taken: {}", self.why_held(by, id, before, said.policy));
                    let hint = format!("`plugins.{id}.version` of palisade.toml says which versions may serve");
                    refused = Some(ErrorBody::new(ErrorCode::InvalidParams, message).with_hint(hint));
                }
                Err(_) => {}
            }
        }
        let highest = Specifier::any().highest(taken);
        let taken =
            held().find(|(version, _)| Some(*version) == highest).map(|(_, handle)| Waiting::Taken((*handle).clone()));
        Ok(taken.or(refused.map(Waiting::Refused)))
    }

    /// Why there is nothing to be done for a version to take calls that is there and is not held, and how it comes to it: it is older than what
    /// serves, or its operator or its consent keeps it from that.
    fn no_update(&self, named: &Handle, serving: Option<&Handle>) -> ErrorBody {
        let (id, version) = (named.id(), named.version());
        let invalid = |message: String, hint: String| ErrorBody::new(ErrorCode::InvalidParams, message).with_hint(hint);
        if !named.is_enabled() {
            let hint = format!("`palisade enable {id}@{version}` has it take calls");
            return invalid(format!("{id} {version} is there, and disabled"), hint);
        }
        let Some(serving) = serving.filter(|_| named.is_in_use()) else {
            let (by, why) = why_not(named).unwrap_or_else(|| ("", "something that it needs is not there".to_owned()));
            let hint = match by {
                "permission" => format!("`palisade grant {id}@{version}` answers what it asks"),
                _ => format!("`palisade status {id}@{version}` says more"),
            };
            return invalid(format!("{id} {version} is there, and takes no calls: {why}"), hint);
        };
        let now = serving.version();
        let message = format!("{id} {version} is no update: {now} serves, and goes before it");
        let form = |handle: &Handle| handle.blueprint().manifest.state_schema;
        let way = if self.leads_back_to(serving, version) {
            format!("`palisade rollback {id}` returns to it")
        } else if form(named) < form(serving) {
            format!(
                "{version} does not know the form of what {now} keeps: `palisade state export {id}`, `palisade disable {id}@{now}` and `palisade state reset {id}`, in this order, have it begin anew"
            )
        } else {
            format!(
                "`version = \"={version}\"` in `[plugins.{id}]` of palisade.toml has it serve from the next start of the daemon on; `palisade disable {id}@{now}` leaves the calls to the next one at once"
            )
        };
        invalid(message, format!("{way}; `palisade call {id}@={version}` calls it as it is"))
    }

    /// Has a version that is held take calls.
    async fn take_waiting(&self, update: &Handle, who: &str) -> Result<Updated, ErrorBody> {
        let serving = self.registry()?.find(update.id().as_str(), None).ok().cloned();
        let done = self.take_update(update, who).await;
        // Others may be free now, or have to be tried no more.
        if let Some(registry) = self.live.now() {
            self.weigh_all(&registry, [update.id().clone()]).await;
        }
        let new = done?;
        let updated = self.as_it_is(&new, serving.as_ref().unwrap_or(&new));
        Ok(Updated { updated: true, kept: self.kept_before(&new), ..updated })
    }

    fn as_it_is(&self, now: &Handle, before: &Handle) -> Updated {
        let blueprint = now.blueprint();
        Updated {
            id: now.id().to_string(),
            from: before.version().to_string(),
            version: now.version().to_string(),
            digest: blueprint.snapshot().map(|snapshot| snapshot.digest).unwrap_or_default(),
            source: blueprint.consent.source.display().to_string(),
            found: now.version().to_string(),
            updated: false,
            installed: false,
            kept: None,
        }
    }

    /// How it is said again so that it is done.
    fn again(&self, id: &PluginId, version: &Version, is_there: bool) -> String {
        let to = if is_there { format!(" --to {version}") } else { String::new() };
        format!("`palisade update --major{to} {id}` has it take calls")
    }

    /// Installs a newer version from somewhere.
    async fn update_from(
        &self,
        plugin: &str,
        (wanted, to): (Option<&str>, Option<&Version>),
        from: Option<&str>,
        leave: Leave,
        who: &str,
    ) -> Result<Updated, ErrorBody> {
        let present = self.highest_installed(plugin, wanted)?;
        let id = present.id().clone();
        let pin = self.pin_of(&id).cloned();
        let source = match from {
            Some(from) => source::path_of(from)?,
            None => {
                let (source, id) = (present.blueprint().consent.source.clone(), id.clone());
                let (before, to, pin) = (present.version().clone(), to.cloned(), pin.clone());
                let is_meant = move |version: &Version| match &to {
                    Some(to) => to == version,
                    None => pin.as_ref().is_none_or(|pin| pin.admits(version)),
                };
                run(move || {
                    newest_beside(&source, &id, &before, leave.major, &is_meant).map(|found| found.unwrap_or(source))
                })
                .await??
            }
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
        let found = &taken.found.manifest.version;
        if to.is_some_and(|to| to != found) {
            let wanted = to.map(ToString::to_string).unwrap_or_default();
            let there = self.registry().map(|registry| there_are(&registry, &id)).unwrap_or_default();
            let message =
                format!("there is no {id} {wanted} to be had: in {} is {found}, and {there}", source.display());
            return Err(ErrorBody::new(ErrorCode::VersionNotFound, message).with_hint("say where it is: `--from`"));
        }
        if present.version() < found {
            self.keep_to(&id, found)?;
        }
        let is_newer = |taken: &Taken, present: &Handle| *present.version() < taken.found.manifest.version;
        let mut tried = None;
        if is_newer(&taken, &present) && may_be(&present, &taken, leave) {
            let enabled = present.is_enabled() && taken.enabled;
            tried = self.try_first(&Taken { enabled, ..taken.clone() }, leave.force).await?;
        }
        let one_change = self.changing.lock().await;
        let done = self.update_to(plugin, wanted, from, taken, (&mut tried, leave), who).await;
        drop(one_change);
        if let Some((candidate, _)) = tried {
            candidate.end().await;
        }
        done
    }

    /// The same, once the package is here and was tried. The caller sees to it that nothing else changes meanwhile.
    async fn update_to(
        &self,
        plugin: &str,
        wanted: Option<&str>,
        from: Option<&str>,
        taken: Taken,
        (tried, leave): (&mut Option<(Candidate, Handle)>, Leave),
        who: &str,
    ) -> Result<Updated, ErrorBody> {
        // Something may have changed while it was copied.
        let present = self.highest_installed(plugin, wanted)?;
        let id = present.id().clone();
        let (before, version) = (present.version().clone(), taken.found.manifest.version.clone());
        let mut answer = Updated {
            id: id.to_string(),
            from: before.to_string(),
            version: before.to_string(),
            digest: present.blueprint().snapshot().map(|snapshot| snapshot.digest).unwrap_or_default(),
            source: taken.source.display().to_string(),
            found: version.to_string(),
            updated: false,
            installed: false,
            kept: None,
        };
        if version <= before {
            return Ok(answer);
        }
        if !may_be(&present, &taken, leave) {
            let wanted = wanted.map(|wanted| format!("@{wanted}")).unwrap_or_default();
            let from = from.map(|from| format!(" --from {}", word(from))).unwrap_or_default();
            let hint = format!("`palisade update --major {}{from}` installs it", word(&format!("{id}{wanted}")));
            return Err(not_confirmed(&id, Some(&before), &version, hint));
        }
        let enabled = present.is_enabled() && taken.enabled;
        let installed = self.put_in(Taken { enabled, ..taken }, tried, leave.force, who).await?;
        answer.version = installed.version;
        answer.digest = installed.digest;
        answer.updated = !installed.was_there;
        answer.installed = answer.updated;
        answer.kept = installed.kept;
        Ok(answer)
    }

    /// The highest version of a plugin that was installed, of those that are meant: a whole version means just that one.
    fn highest_installed(&self, plugin: &str, wanted: Option<&str>) -> Result<Handle, ErrorBody> {
        let registry = self.registry()?;
        let any = registry.find_any(plugin, wanted)?;
        let id = any.id();
        let specifier = specified(wanted)?;
        let installed = || registry.versions(id).filter(|(_, handle)| is_installed(handle));
        let highest = specifier.highest(installed().map(|(version, _)| version).collect::<Vec<_>>());
        if let Some((_, handle)) = installed().find(|(version, _)| Some(*version) == highest) {
            return Ok(handle.clone());
        }
        let place = any.blueprint().source.display();
        let message = format!("no version of {id} was installed: {} lies in {place}", any.version());
        Err(ErrorBody::new(ErrorCode::InvalidParams, message)
            .with_hint("change it there, which is noticed; or install a version"))
    }

    /// The ids of everything that was installed, or of which a version is held that can be had.
    fn updatable_ids(&self) -> Result<Vec<String>, ErrorBody> {
        let registry = self.registry()?;
        let waits = |handle: &Handle| handle.updating().held.is_some_and(|held| held.by != By::Pin);
        let mut ids: Vec<_> = registry
            .all()
            .filter(|handle| is_installed(handle) || waits(handle))
            .map(|handle| handle.id().to_string())
            .collect();
        ids.dedup();
        Ok(ids)
    }

    /// Refuses what the pin excludes.
    pub(super) fn keep_to(&self, id: &PluginId, version: &Version) -> Result<(), ErrorBody> {
        match self.pin_of(id).filter(|pin| !pin.admits(version)) {
            None => Ok(()),
            Some(pin) => {
                let message = format!("{id} {version} is not taken: {id} is pinned to {pin}");
                let hint = format!("`plugins.{id}.version` of palisade.toml says which versions may serve");
                Err(ErrorBody::new(ErrorCode::InvalidParams, message).with_hint(hint))
            }
        }
    }

    /// Refuses to have a package be installed that the pin excludes, or that is a new major version after what serves, unless that is
    /// confirmed.
    pub(super) fn may_be_installed(&self, taken: &Taken, major: bool) -> Result<(), ErrorBody> {
        let (id, version) = (&taken.found.manifest.id, &taken.found.manifest.version);
        let registry = self.registry()?;
        let there: Vec<_> = registry
            .versions(id)
            .map(|(version, handle)| Present { version, enabled: handle.is_enabled() && !handle.is_held() })
            .collect();
        // What is there is not installed again.
        if there.iter().any(|one| one.version == version) {
            return Ok(());
        }
        self.keep_to(id, version)?;
        let accepted = self.accepted_of(id);
        let said = Said { accepted: &accepted, pin: self.pin_of(id), policy: self.update_policy_of(id) };
        if there.is_empty() || said.asked(version, &there, major).is_ok() {
            return Ok(());
        }
        let source = word(&taken.source.display().to_string());
        let hint = format!("`palisade install --major {source}` installs it");
        Err(not_confirmed(id, said.before(&there), version, hint))
    }
}

/// The versions of a plugin that are there, as it goes on from what is not.
fn there_are(registry: &Registry, id: &PluginId) -> String {
    let mut all: Vec<_> = registry.versions(id).map(|(version, _)| version.to_string()).collect();
    let more = all.len().saturating_sub(VERSIONS_NAMED_MAX);
    // The highest of them.
    all.drain(..more);
    let more = if more == 0 { String::new() } else { format!("{more} others, ") };
    match all.as_slice() {
        [one] => format!("there is {one}"),
        [before @ .., last] => format!("there are {more}{} and {last}", before.join(", ")),
        [] => "there is none".to_owned(),
    }
}

/// A newer version that is there already.
enum Waiting {
    /// It is to take calls.
    Taken(Handle),
    /// It does.
    Serves(Updated),
    /// It is not to.
    Refused(ErrorBody),
}

/// The versions that are meant: a whole one means just that.
fn specified(wanted: Option<&str>) -> Result<Specifier, ErrorBody> {
    let Some(text) = wanted else { return Ok(Specifier::any()) };
    match Version::parse(text) {
        Ok(whole) => Ok(Specifier::exactly(&whole)),
        Err(_) => Specifier::parse(text)
            .map_err(|error| ErrorBody::new(ErrorCode::InvalidParams, format!("the version: {error}"))),
    }
}

/// What is said where nobody has confirmed a new major version.
fn not_confirmed(id: &PluginId, before: Option<&Version>, version: &Version, hint: String) -> ErrorBody {
    let before = before.map(ToString::to_string).unwrap_or_default();
    let message = format!("{id} {version} is a new major version after {before}, and may break whoever uses it");
    let details = json!({ "id": id.as_str(), "from": before, "version": version.to_string() });
    ErrorBody::new(ErrorCode::ConsentRequired, message).with_details(details).with_hint(hint)
}

pub(super) fn is_installed(handle: &Handle) -> bool {
    handle.blueprint().consent.is_installed
}

/// Whether that may take its place without anybody's word.
fn may_be(present: &Handle, taken: &Taken, leave: Leave) -> bool {
    leave.major || is_compatible(present.version(), &taken.found.manifest.version)
}

/// The archive that an update is to come from, where the plugin came from one whose name has its version: the newest in the same folder by
/// such a name. A new major version is chosen if it is wanted, or if there is nothing else that is newer; a pre-release if the version before
/// is one.
///
/// An archive that belongs to somebody else than the folder, or the archive that was installed, may have been put there by anybody.
pub(super) fn newest_beside(
    source: &Path,
    id: &PluginId,
    before: &Version,
    major: bool,
    is_meant: &dyn Fn(&Version) -> bool,
) -> Result<Option<PathBuf>, ErrorBody> {
    let named = |path: &Path| path.file_name()?.to_str().and_then(|name| version_in(name, id));
    let (Some(folder), Some(_)) = (source.parent(), named(source)) else { return Ok(None) };
    let unreadable = |error: io::Error| {
        let message = format!("{} cannot be read: {error}", folder.display());
        let hint = format!("{id} was installed from there; say where a newer version is: `--from`");
        ErrorBody::new(ErrorCode::InvalidParams, message).with_hint(hint)
    };
    let owner = |path: &Path| fs::symlink_metadata(path).ok().map(|found| found.uid());
    let owners = [Some(0), Some(rustix::process::geteuid().as_raw()), owner(folder), owner(source)];
    let mut found = Vec::new();
    for (count, entry) in fs::read_dir(folder).map_err(unreadable)?.enumerate() {
        if BESIDE_MAX <= count {
            let message = format!("{} has more than {BESIDE_MAX} entries, too many to look through", folder.display());
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message).with_hint("say which archive: `--from`"));
        }
        let path = entry.map_err(unreadable)?.path();
        let Some(version) = named(&path).filter(is_meant) else { continue };
        let is_trusted = |found: &fs::Metadata| found.is_file() && owners.contains(&Some(found.uid()));
        let wanted = version.pre.is_empty() || !before.pre.is_empty();
        if wanted && fs::symlink_metadata(&path).is_ok_and(|found| is_trusted(&found)) {
            found.push((version, path));
        }
    }
    let compatible = |version: &Version| major || (before < version && is_compatible(before, version));
    let best = found.iter().filter(|(version, _)| compatible(version)).max().or_else(|| found.iter().max());
    Ok(best.map(|(_, path)| path.clone()))
}

/// The version in the name of an archive of a plugin, as `palisade pack` writes it.
pub(super) fn version_in(name: &str, id: &PluginId) -> Option<Version> {
    let rest = name.strip_prefix(id.as_str())?.strip_prefix('-')?;
    ARCHIVE_ENDS.iter().find_map(|end| Version::parse(rest.strip_suffix(end)?).ok())
}

/// A word as a shell takes it.
pub(super) fn word(text: &str) -> String {
    let is_plain = |letter: char| letter.is_alphanumeric() || "@%+=:,./-_^".contains(letter);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
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

    fn touch(folder: &Path, names: &[&str]) {
        for name in names {
            fs::write(folder.join(name), "").unwrap();
        }
    }

    #[test]
    fn the_newest_archive_beside_is_that_of_the_same_plugin() {
        let folder = tempfile::tempdir().unwrap();
        let id: PluginId = "word".parse().unwrap();
        let newest = |from: &str, before: &str, major: bool| {
            let found =
                newest_beside(&folder.path().join(from), &id, &Version::parse(before).unwrap(), major, &|_| true)
                    .unwrap();
            found.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        };
        assert_eq!(newest("word-1.0.0.tar.zst", "1.0.0", false), None, "nothing is there");
        touch(
            folder.path(),
            &["word-1.0.0.tar.zst", "word-1.2.0.tar.gz", "word-1.10.0.tar.zst", "word-1.11.0-rc.1.tar.zst"],
        );
        touch(
            folder.path(),
            &["word-count-1.20.0.tar.zst", "words-1.20.0.tar.zst", "word-1.20.0.zip", "word-1.20.tar.zst"],
        );
        touch(folder.path(), &["word-2.0.0.tar.zst", "other.tar.zst"]);
        fs::create_dir(folder.path().join("word-3.0.0.tar.zst")).unwrap();
        std::os::unix::fs::symlink("other.tar.zst", folder.path().join("word-1.30.0.tar.zst")).unwrap();
        let of = |name: &str| Some(name.to_owned());
        assert_eq!(newest("word-1.0.0.tar.zst", "1.0.0", false), of("word-1.10.0.tar.zst"));
        assert_eq!(newest("word-0.9.0.tar.gz", "1.0.0", false), of("word-1.10.0.tar.zst"), "its own is gone");
        assert_eq!(newest("word-1.0.0.tar.zst", "1.0.0", true), of("word-2.0.0.tar.zst"));
        assert_eq!(newest("word-1.0.0.tar.zst", "1.10.0", false), of("word-2.0.0.tar.zst"), "the only newer one");
        assert_eq!(newest("word-1.0.0.tar.zst", "1.10.0-rc.1", false), of("word-1.11.0-rc.1.tar.zst"));
        assert_eq!(newest("word-1.0.0.tar.zst", "4.0.0", false), of("word-2.0.0.tar.zst"), "what there is");
        assert_eq!(newest("other.tar.zst", "1.0.0", false), None, "its name says nothing");
    }

    #[test]
    fn an_archive_of_a_stranger_is_not_taken() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("not tried: only root can give a file away");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (mine, strange) = ("word-1.0.0.tar.zst", "word-1.1.0.tar.zst");
        touch(folder.path(), &[mine, strange]);
        let stranger = Some(65533);
        std::os::unix::fs::chown(folder.path().join(strange), stranger, None).unwrap();
        let newest = || {
            let id = "word".parse().unwrap();
            newest_beside(&folder.path().join(mine), &id, &Version::new(1, 0, 0), false, &|_| true).unwrap().unwrap()
        };
        assert_eq!(newest(), folder.path().join(mine));
        std::os::unix::fs::chown(folder.path().join(mine), stranger, None).unwrap();
        assert_eq!(newest(), folder.path().join(strange), "it comes from whom the first came");
    }

    #[test]
    fn hints_can_be_given_to_a_shell() {
        for (text, expected) in
            [("a@=1.0", "a@=1.0"), ("a@>=1", "'a@>=1'"), ("it's", r"'it'\''s'"), ("", "''"), ("~", "'~'")]
        {
            assert_eq!(word(text), expected);
        }
    }

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
