//! How a version is installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use palisade_protocol::{ErrorBody, ErrorCode};
use serde::Serialize;
use serde_json::json;

use super::alone::Alone;
use super::record::{self, Record};
use super::reload::Candidate;
use super::source::{self, Source};
use super::{INSTALLED_MAX, Packages, lock, no_room, run};
use crate::archive::{self, ArchiveError};
use crate::events::{EventKind, unix_ms};
use crate::model::manifest::Manifest;
use crate::model::status::PluginState;
use crate::plugin::admission;
use crate::plugin::handle::Handle;
use crate::registry::{self, Found, Registry, Unread};
use crate::store::{Snapshot, Store, StoreError};
use crate::trust::Rules;

/// So many of the fields that are not as they have to be are named in a message; all mistakes are in its details.
const FIELDS_NAMED_MAX: usize = 16;

/// What an installation came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Installed {
    /// The plugin,
    pub id: String,
    /// its version,
    pub version: String,
    /// the digest of the snapshot,
    pub digest: String,
    /// and whether that was installed already.
    pub was_there: bool,
    /// The file with what the plugin kept before, where that was brought into another form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
}

/// A package that is in the store, and not installed yet.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub found: Found,
    pub snapshot: Snapshot,
    /// From where it was taken.
    pub source: PathBuf,
    /// Whether it is to take calls.
    pub enabled: bool,
}

impl Packages {
    /// Installs the package in this folder, or in this archive, by its path or a `file:` URL; it is not needed afterwards.
    ///
    /// Not cancel safe: the package may have been copied, or be installed and not started.
    ///
    /// # Errors
    /// `configuration_invalid` for a package that cannot be used, with all that is wrong with it; `invalid_params` where that version is
    /// there already in another form, the pin excludes it, or there is no folder or archive; `consent_required` for a new major version, unless
    /// `major` is given; `dependency_unavailable` where what it needs is not here, unless `force` is
    /// given; `resource_exhausted` where there is no room; what a process of it fails with, where it is to take the place of one that serves.
    pub async fn install(&self, from: &str, force: bool, major: bool, who: &str) -> Result<Installed, ErrorBody> {
        let taken = self.take_in(&source::path_of(from)?).await?;
        self.may_be_installed(&taken, major)?;
        let mut tried = self.try_first(&taken, force).await?;
        let one_change = self.changing.lock().await;
        let done = self.put_in(taken, &mut tried, force, who).await;
        drop(one_change);
        if let Some((candidate, _)) = tried {
            candidate.end().await;
        }
        done
    }

    /// Copies a package into the store, for good, and reads the copy. Nothing else waits for that.
    pub(super) async fn take_in(&self, source: &Path) -> Result<Taken, ErrorBody> {
        let (store, host, source) = (self.around.store.clone(), self.around.host.clone(), source.to_owned());
        run(move || take_in(&store, &host.rules, &source)).await?
    }

    /// Has a package that was copied be an installed one; if it was tried, with the process that it has then. The caller sees to it that
    /// nothing else changes meanwhile.
    pub(super) async fn put_in(
        &self,
        taken: Taken,
        tried: &mut Option<(Candidate, Handle)>,
        force: bool,
        who: &str,
    ) -> Result<Installed, ErrorBody> {
        let Taken { found, snapshot, source, enabled } = taken;
        let (id, version) = (found.manifest.id.clone(), found.manifest.version.clone());
        let mut answer = Installed {
            id: id.to_string(),
            version: version.to_string(),
            digest: snapshot.digest.clone(),
            was_there: false,
            kept: None,
        };
        let registry = self.registry()?;
        let there = registry.versions(&id).find(|(there, _)| **there == version).map(|(_, there)| there.clone());
        if let Some(there) = &there {
            let is_installed = self.around.store.has_made(&there.blueprint().source);
            let record = self.record_of(&id, &version);
            let mends = match there.blueprint().snapshot() {
                Ok(there) if there.digest == snapshot.digest => {
                    answer.was_there = true;
                    return Ok(answer);
                }
                Ok(_) => false,
                // What it ran from is damaged or gone, or did not hold; this is what it was.
                Err(_) => {
                    is_installed && run(move || record::digest_of(&record)).await?.as_ref() == Some(&snapshot.digest)
                }
            };
            if !mends {
                let place = there.blueprint().consent.source.display().to_string();
                let message = format!("{id} {version} is there already, from {place}, with other contents");
                let remove = match is_installed {
                    true => format!("remove that one: `palisade uninstall {id}@{version}`"),
                    false => format!(
                        "take that one out of there; with `palisade disable {id}@{version}` it only takes no calls"
                    ),
                };
                let hint = format!("give the package another version, or {remove}");
                return Err(ErrorBody::new(ErrorCode::InvalidParams, message).with_hint(hint));
            }
        }
        // One that is mended was let in before.
        if there.is_none()
            && !force
            && let Err(unmet) = registry.resolve(&found.manifest)
        {
            let message = format!("{id} {version} cannot be had with what is here: {unmet}");
            return Err(ErrorBody::new(ErrorCode::DependencyUnavailable, message)
                .with_hint("install or enable what is missing first, or use --force"));
        }
        let prepared = self.prepare_one((found.clone(), Ok(snapshot.clone())), Some(source.clone())).await?;
        // Before it is installed: a crash in between leaves nothing that anybody would have to be asked about.
        if registry.versions(&id).next().is_none() {
            self.agree_to_the_first(found, snapshot, who).await;
        }
        let written = Record {
            digest: answer.digest.clone(),
            source: source.display().to_string(),
            installed_unix_ms: unix_ms(SystemTime::now()),
            installed_by: who.to_owned(),
        };
        let alone = tried.as_ref().and_then(|(candidate, _)| candidate.alone.as_ref());
        let kept_in = alone.and_then(Alone::kept_name).map(|name| format!("; {}", self.kept_in(&id, &name)));
        let kept_in = kept_in.unwrap_or_default();
        let detail = format!("{} from {}{kept_in}", answer.digest, written.source);
        let entry = self.entry("install", who, &id, &version, detail);
        let (path, database) = (self.record_of(&id, &version), self.database.clone());
        let probation = tried.as_ref().and_then(|(candidate, after)| {
            let state = candidate.alone.as_ref().and_then(Alone::kept_name);
            self.probation_after(after, (&version, answer.digest.clone()), state)
        });
        let records = self.records.clone();
        run(move || {
            let there = fs::read_dir(&records).map_err(|error| no_room(&records, &error))?.count();
            if INSTALLED_MAX <= there {
                let message = format!("{INSTALLED_MAX} versions are installed, and no more can be");
                return Err(ErrorBody::new(ErrorCode::ResourceExhausted, message));
            }
            record::write(&path, &written).map_err(|error| no_room(&path, &error))?;
            database.installed(&entry, probation.as_ref()).map_err(|error| {
                // It is as if it had never been.
                let _ = fs::remove_file(&path);
                super::unwritten(&error)
            })
        })
        .await??;
        self.has_accepted(&id, &version);
        let before = there.map(|there| {
            // It is kept by who runs it from now on.
            drop(self.take_kept(&there));
            (lock(&self.tasks).remove(&(id.clone(), version.clone())), there)
        });
        let mut tried = tried.take();
        let mut alone = tried.as_mut().and_then(|(candidate, _)| candidate.alone.take());
        let state = match &mut alone {
            // It is installed, and no call has gone there.
            Some(alone) => alone.keep().await,
            None => None,
        };
        let (handle, mut after) = match tried {
            Some((candidate, after)) => (self.take_in_candidate(candidate), Some(after)),
            None => (self.make(prepared), None),
        };
        handle.set_enabled(before.as_ref().map_or(enabled, |(_, there)| there.is_enabled()));
        let mut registry = Registry::clone(&registry);
        let stood = alone.map(|alone| self.stand_again(&mut registry, alone));
        registry.put(handle.clone());
        registry.forgive(&id, &version);
        self.weigh(&registry, &id);
        self.live.replace(registry);
        if let Some(stood) = stood {
            after = Some(stood.again.clone());
            self.go_on_with(&handle, stood);
        }
        if let Some(after) = after {
            self.put_on_probation(&after, &handle, state);
            answer.kept = self.kept_before(&handle);
        }
        let from = before.as_ref().map_or(PluginState::Discovered, |(_, there)| there.state());
        if let Some((task, there)) = before {
            self.leave(there, task, Some(&handle));
        }
        self.tell_state(from, &handle);
        self.write_acceptance().await;
        self.tell(EventKind::PackageInstalled, &id, &version, None);
        self.set_off(&handle).await;
        Ok(answer)
    }
}

/// Copies a package into the store, for good, and reads the copy.
fn take_in(store: &Store, rules: &Rules, source: &Path) -> Result<Taken, ErrorBody> {
    let source = &*source::resolved(source)?;
    let (folder, unpacked) = match source::open(source)? {
        Source::Folder => (source.to_owned(), None),
        Source::Archive(file) => {
            let workspace = store.workspace().map_err(|error| not_stored(&error))?;
            let go_on = || store.is_open();
            let folder =
                archive::unpack(file, workspace.path(), &go_on).map_err(|error| not_unpacked(source, &error))?;
            (folder, Some(workspace))
        }
    };
    // Where it was unpacked tells nobody anything.
    let refused = |reason: String| {
        let reason = reason.replace(&folder.display().to_string(), &source.display().to_string());
        unusable(reason)
    };
    let unread = |unread: Unread| {
        let Unread { reason, mistakes, .. } = unread;
        if mistakes.is_empty() { refused(reason) } else { with_mistakes(source, mistakes) }
    };
    // What is wrong with the manifest is told before anything is copied.
    registry::read_with_text(&folder).map_err(unread)?;
    let snapshot = store.stage_durably(&folder).map_err(|error| match &error {
        StoreError::Write { .. } | StoreError::Closing => not_stored(&error),
        _ => refused(error.to_string()),
    })?;
    drop(unpacked);
    // The copy counts: the folder may have changed since.
    let (mut found, _) = registry::read_with_text(&snapshot.path).map_err(unread)?;
    let warnings = admission::vouch(&snapshot, rules, source, &found.manifest).map_err(|failure| {
        let code = failure.code.unwrap_or(ErrorCode::ConfigurationInvalid);
        let Manifest { id, version, .. } = &found.manifest;
        ErrorBody::new(code, format!("{id} {version}, from {}: {}", source.display(), failure.message))
    })?;
    found.warnings.extend(warnings);
    // One that can never run is not installed.
    let entry = found.manifest.entry_point.as_str();
    let there = match &found.manifest.runtime {
        Some(_) => snapshot.script(entry).map(drop),
        None => snapshot.entry_point(entry).map(drop),
    };
    there.map_err(|failure| refused(failure.message))?;
    let enabled = found.manifest.default_enabled;
    Ok(Taken { found, snapshot, source: source.to_owned(), enabled })
}

/// What is said of a package that cannot be used.
fn unusable(why: String) -> ErrorBody {
    ErrorBody::new(ErrorCode::ConfigurationInvalid, why)
}

/// The same of a manifest with several mistakes, each of which is a sentence of its own.
fn with_mistakes(source: &Path, mistakes: Vec<(Option<String>, String)>) -> ErrorBody {
    let (count, place) = (mistakes.len(), source.join("plugin.json"));
    let mut fields: Vec<_> = mistakes.iter().filter_map(|(field, _)| field.as_deref()).collect();
    fields.dedup();
    let more = if FIELDS_NAMED_MAX < fields.len() { " and others" } else { "" };
    fields.truncate(FIELDS_NAMED_MAX);
    let message = format!("{} has {count} mistakes: in {}{more}", place.display(), fields.join(", "));
    let mistakes: Vec<_> = mistakes.into_iter().map(|(_, mistake)| mistake).collect();
    unusable(message).with_details(json!({ "mistakes": mistakes }))
}

fn not_stored(error: &StoreError) -> ErrorBody {
    match error {
        StoreError::Closing => ErrorBody::new(ErrorCode::Unavailable, error.to_string()),
        _ => super::unwritten(error),
    }
}

fn not_unpacked(source: &Path, error: &ArchiveError) -> ErrorBody {
    let message = format!("{} {error}", source.display());
    match error {
        ArchiveError::Read(_) => ErrorBody::new(ErrorCode::InvalidParams, message),
        ArchiveError::Write { .. } => super::unwritten(&message),
        ArchiveError::GivenUp => ErrorBody::new(ErrorCode::Unavailable, message),
        _ => unusable(message),
    }
}
