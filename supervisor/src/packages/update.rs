//! How a plugin gets a newer version, from where it was installed or from elsewhere.
//!
//! The version before stays, for whoever names it, and goes on taking all calls where the new one has to wait for its operator's consent.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;
use serde::Serialize;
use serde_json::json;

use super::install::Taken;
use super::reload::Candidate;
use super::{Packages, run, source};
use crate::model::ids::PluginId;
use crate::model::specifier::Specifier;
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
    /// where a newer one was looked for,
    pub source: String,
    /// the version that is there,
    pub found: String,
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
    /// Updates a plugin, or each that was installed, one after the other.
    ///
    /// Not cancel safe: as [`Packages::update`].
    ///
    /// # Errors
    /// As [`Packages::update`] where a plugin is named; `invalid_params` for a place without a plugin.
    pub async fn updates(
        &self,
        plugin: Option<String>,
        version: Option<&str>,
        from: Option<String>,
        leave: Leave,
        who: &str,
    ) -> Result<Updates, ErrorBody> {
        let mut all = Updates::default();
        match (plugin, from) {
            (Some(plugin), from) => {
                all.updates.push(self.update(&plugin, version, from.as_deref(), leave, who).await?);
            }
            (None, None) if version.is_some() => {
                let message = "a version is that of one plugin, and none is named";
                return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
            }
            (None, Some(_)) => {
                let message = "a place to update from is that of one plugin, and none is named";
                return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
            }
            (None, None) => {
                for id in self.installed_ids()? {
                    match self.update(&id, None, None, leave, who).await {
                        Ok(updated) => all.updates.push(updated),
                        Err(ErrorBody { code, message, .. }) => all.failed.push(Failed { id, code, message }),
                    }
                }
            }
        }
        Ok(all)
    }

    /// Installs a newer version of a plugin from `from`, or from where its highest installed version came, of those that `wanted` specifies. It
    /// takes calls if that one does.
    ///
    /// Not cancel safe: the new version may be installed and not started.
    ///
    /// # Errors
    /// `plugin_not_found`; `invalid_params` where no version was installed, or another plugin is found there; `consent_required` for a new
    /// major version, unless `leave.major`; whatever an installation can end with.
    pub async fn update(
        &self,
        plugin: &str,
        wanted: Option<&str>,
        from: Option<&str>,
        leave: Leave,
        who: &str,
    ) -> Result<Updated, ErrorBody> {
        let present = self.highest_installed(plugin, wanted)?;
        let id = present.id().clone();
        let source = match from {
            Some(from) => source::path_of(from)?,
            None => {
                let (source, id) = (present.blueprint().consent.source.clone(), id.clone());
                let before = present.version().clone();
                run(move || newest_beside(&source, &id, &before, leave.major).map(|found| found.unwrap_or(source)))
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
        };
        if version <= before {
            return Ok(answer);
        }
        if !may_be(&present, &taken, leave) {
            let message =
                format!("{id} {version} is a new major version after {before}, and may break whoever uses it");
            let details = json!({ "id": id.as_str(), "from": before.to_string(), "version": version.to_string() });
            let wanted = wanted.map(|wanted| format!("@{wanted}")).unwrap_or_default();
            let from = from.map(|from| format!(" --from {}", word(from))).unwrap_or_default();
            let hint = format!("`palisade update --major {}{from}` installs it", word(&format!("{id}{wanted}")));
            return Err(ErrorBody::new(ErrorCode::ConsentRequired, message).with_details(details).with_hint(hint));
        }
        let enabled = present.is_enabled() && taken.enabled;
        let installed = self.put_in(Taken { enabled, ..taken }, tried, leave.force, who).await?;
        answer.version = installed.version;
        answer.digest = installed.digest;
        answer.updated = !installed.was_there;
        Ok(answer)
    }

    /// The highest version of a plugin that was installed, of those that are meant: a whole version means just that one.
    fn highest_installed(&self, plugin: &str, wanted: Option<&str>) -> Result<Handle, ErrorBody> {
        let registry = self.registry()?;
        let any = registry.find_any(plugin, wanted)?;
        let id = any.id();
        let specifier = match wanted {
            None => Specifier::any(),
            Some(text) => match Version::parse(text) {
                Ok(whole) => Specifier::exactly(&whole),
                Err(_) => Specifier::parse(text)
                    .map_err(|error| ErrorBody::new(ErrorCode::InvalidParams, format!("the version: {error}")))?,
            },
        };
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

/// Whether that may take its place without anybody's word.
fn may_be(present: &Handle, taken: &Taken, leave: Leave) -> bool {
    leave.major || is_compatible(present.version(), &taken.found.manifest.version)
}

/// Whether whoever uses the one can use the other, as SemVer has it and as `^` means it.
fn is_compatible(before: &Version, after: &Version) -> bool {
    match (before.major, before.minor) {
        (0, 0) => (after.major, after.minor, after.patch) == (0, 0, before.patch),
        (0, minor) => (after.major, after.minor) == (0, minor),
        (major, _) => after.major == major,
    }
}

/// The archive that an update is to come from, where the plugin came from one whose name has its version: the newest in the same folder by
/// such a name. A new major version is chosen if it is wanted, or if there is nothing else that is newer; a pre-release if the version before
/// is one.
///
/// An archive that belongs to somebody else than the folder, or the archive that was installed, may have been put there by anybody.
fn newest_beside(source: &Path, id: &PluginId, before: &Version, major: bool) -> Result<Option<PathBuf>, ErrorBody> {
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
        let Some(version) = named(&path) else { continue };
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
fn version_in(name: &str, id: &PluginId) -> Option<Version> {
    let rest = name.strip_prefix(id.as_str())?.strip_prefix('-')?;
    ARCHIVE_ENDS.iter().find_map(|end| Version::parse(rest.strip_suffix(end)?).ok())
}

/// A word as a shell takes it.
fn word(text: &str) -> String {
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
            let found = newest_beside(&folder.path().join(from), &id, &Version::parse(before).unwrap(), major).unwrap();
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
            newest_beside(&folder.path().join(mine), &id, &Version::new(1, 0, 0), false).unwrap().unwrap()
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
