//! How an installed version is removed.

use std::fmt::Display;
use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use palisade_protocol::{ErrorBody, ErrorCode};
use semver::Version;
use serde::Serialize;

use super::record::sync_parent;
use super::{Packages, archived, lock, no_room, run, the_one};
use crate::blocking;
use crate::events::{EventKind, unix_ms};
use crate::model::ids::PluginId;
use crate::model::manifest::Manifest;
use crate::plugin::handle::Handle;
use crate::registry::Registry;
use crate::store::database::Entry;
use crate::store::remove_tree;

/// So often a copy is tried that was purged: who watched its process may hold it a little longer than that was there,
const SWEEPS_MAX: usize = 30;

/// and is given so long each time.
const SWEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// What was removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// The plugin,
    pub id: String,
    /// its version; none where none was there, and only what it had left was removed,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// plugins that depended on it and are without it now,
    pub broken: Vec<String>,
    /// the folder of its data, where that stays,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<PathBuf>,
    /// the archive of it that is kept,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub archive: Option<PathBuf>,
    /// whether everything of the plugin is gone,
    pub purged: bool,
    /// and what that was, beside the version: a few words for each.
    pub gone: Vec<String>,
}

/// What becomes of what a version leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaving {
    /// It is kept: an archive of the version, and the plugin's data.
    Kept,
    /// It goes, the data too unless other versions have them.
    Purged,
}

impl Packages {
    /// Removes an installed version: its calls end as at a stop. Where no version of the plugin is there, what is left of it can be purged.
    ///
    /// Not cancel safe: it may be removed, and not stopped yet.
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found`; `invalid_params` where it lies in a plugin directory, where several fit, or where others
    /// depend on it, unless `force` is given; `resource_exhausted` where it cannot be removed, or what it leaves cannot, as it then says.
    pub async fn uninstall(
        &self,
        plugin: &str,
        version: Option<&str>,
        force: bool,
        leaving: Leaving,
        who: &str,
    ) -> Result<Removed, ErrorBody> {
        let one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let handle = match the_one(&registry, plugin, version) {
            Ok(handle) => handle,
            Err(error) => {
                return match self.forget_record(&registry, (plugin, version), leaving, who).await? {
                    Some(removed) => Ok(removed),
                    None => self.forget_rest((plugin, version), leaving, who, error).await,
                };
            }
        };
        let (id, version) = (handle.id().clone(), handle.version().clone());
        let record = self.record_of(&id, &version);
        let is_installed = run({
            let record = record.clone();
            move || record.exists()
        });
        if !is_installed.await? {
            let place = handle.blueprint().source.display().to_string();
            let message = format!("{id} {version} was not installed: it lies in {place}");
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message)
                .with_hint(format!("take it out of there, or `palisade disable {id}@{version}`")));
        }
        let broken = dependants(&registry, &id, &version, |_| true);
        if !broken.is_empty() && !force {
            let message = format!("{} on {id} {version}", depend(&broken));
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message)
                .with_hint("remove those first, or use --force, and they are without it"));
        }
        let entry = self.entry("uninstall", who, &id, &version, String::new());
        // Held until it is archived, so that no sweep takes it.
        let snapshot = handle.blueprint().snapshot().ok().or_else(|| self.take_kept(&handle));
        let copy = snapshot.as_ref().map(|snapshot| snapshot.digest.clone());
        self.remove_record(record, entry).await?;
        let mut without = Registry::clone(&registry);
        without.take(&id, &version);
        self.begin_anew_without(&without, &id).await;
        let freed = self.weigh(&without, &id).freed;
        self.live.replace(without);
        self.write_acceptance().await;
        for handle in freed {
            self.set_off(&handle).await;
        }
        drop(registry);
        self.deprecations.forget(&id, &version);
        self.tell(EventKind::PackageRemoved, &id, &version, None);
        let task = lock(&self.tasks).remove(&(id.clone(), version.clone()));
        // Its calls may take their time; nobody else waits for them.
        let departure = self.leave(handle.clone(), task, None);
        drop(one_change);
        departure.ended().await;
        let _one_change = self.alone_with(&id).await;
        let data = handle.blueprint().data_folder();
        // Versions share it. One that was made beforehand and never used is nothing to be kept.
        let registry = self.registry()?;
        let is_shared = registry.versions(&id).next().is_some() || registry.is_lost(&id);
        drop(registry);
        let (mut archive, mut purged, mut gone) = (None, false, Vec::new());
        match (leaving, snapshot) {
            (Leaving::Purged, _) if !is_shared => {
                gone = self.purge(&id, Some(&version), who).await?;
                purged = true;
            }
            (Leaving::Kept, Some(snapshot)) => {
                let (folder, name) = (self.archived.clone(), format!("{id}-{version}"));
                let kept = run(move || archived::keep(&folder, &snapshot.path, &name)).await?;
                // It is gone all the same, as was wanted.
                archive = kept
                    .inspect_err(|error| tracing::warn!(plugin = %id, %error, "no archive is kept of what was removed"))
                    .ok();
            }
            _ => {}
        }
        let stays = is_shared
            || run({
                let data = data.clone();
                move || fs::remove_dir(&data).is_err() && data.is_dir()
            })
            .await?;
        drop(handle);
        self.sweep(purged.then(|| (id.clone(), copy)));
        let data = stays.then_some(data);
        Ok(Removed { id: id.to_string(), version: Some(version.to_string()), broken, data, archive, purged, gone })
    }

    /// Removes superfluous snapshots from the store, and all of one that was purged, the copy that it ran from once nobody looks at it any
    /// more. In its own time: what is kept for a return is decided there.
    pub(super) fn sweep(&self, purged: Option<(PluginId, Option<String>)>) {
        let store = self.around.store.clone();
        tokio::spawn(async move {
            for _ in 0..SWEEPS_MAX {
                let (store, purged) = (store.clone(), purged.clone());
                let swept = move || match purged {
                    Some((id, copy)) => {
                        store.sweep_all_of(&id);
                        copy.is_some_and(|copy| store.has(&copy))
                    }
                    None => {
                        store.sweep();
                        false
                    }
                };
                match blocking::run(swept).await {
                    Ok(false) => return,
                    Ok(true) => tokio::time::sleep(SWEPT_AGAIN_AFTER).await,
                    Err(error) => {
                        return tracing::warn!(%error, "superfluous snapshots stay until the next start");
                    }
                }
            }
        });
    }

    /// Removes the record of a version, for good: the version is gone then, whether that was noted or not.
    ///
    /// # Errors
    /// `resource_exhausted` where that cannot be.
    pub(super) async fn remove_record(&self, record: PathBuf, entry: Entry) -> Result<(), ErrorBody> {
        let database = self.database.clone();
        run(move || {
            fs::remove_file(&record).and_then(|()| sync_parent(&record)).map_err(|error| no_room(&record, &error))?;
            if let Err(error) = database.removed(&entry) {
                tracing::error!(%error, "that a version was removed is not in the audit trail");
            }
            Ok(())
        })
        .await?
    }

    /// Removes whatever is kept of an id of which no version is there any more, of which `version` may have been the last, and says what that
    /// was: its data, its state, the numbers of its generations, its archives, and all that the database has of it, which `Database::forget` names.
    pub(super) async fn purge(
        &self,
        id: &PluginId,
        version: Option<&Version>,
        who: &str,
    ) -> Result<Vec<String>, ErrorBody> {
        let left = |what: &str, error: &dyn Display| {
            let message = match version {
                Some(version) => format!("{id} {version} is removed, and {what} cannot be: {error}"),
                None => format!("of what is left of {id}, {what} cannot be removed: {error}"),
            };
            ErrorBody::new(ErrorCode::ResourceExhausted, message)
        };
        let gone = self.left_of(id).await.map_err(|error| left("what it leaves", &error.message))?;
        // In this daemon's life the numbers go on.
        let (data, numbers) = (self.around.host.data.join(id.as_str()), self.generations.join(id.as_str()));
        let entry = Entry {
            at_unix_ms: unix_ms(SystemTime::now()),
            who: who.to_owned(),
            what: "purge".to_owned(),
            id: id.to_string(),
            version: version.map(ToString::to_string).unwrap_or_default(),
            detail: gone.join(", "),
        };
        let (database, accounts, archived) = (self.database.clone(), self.accounts.clone(), self.archived.clone());
        let state = self.around.states.of(id);
        let of = id.clone();
        let done = run(move || {
            remove_tree(&data).map_err(|error| ("its data", error.to_string()))?;
            state.remove().map_err(|error| ("its state", error.to_string()))?;
            match fs::remove_file(&numbers) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(("the numbers of its processes", error.to_string()));
                }
                _ => {}
            }
            archived::forget(&archived, &of).map_err(|error| ("an archive of it", error.to_string()))?;
            let forgotten = database.forget(&entry).and_then(|()| accounts.forget(&of, &database));
            forgotten.map_err(|error| ("what the database has of it", error.to_string()))
        })
        .await?;
        done.map_err(|(what, error)| left(what, &error))?;
        self.know_no_consents(id);
        self.know_no_configuration(id);
        self.secrets.forget(id);
        self.deprecations.forget_all(id);
        self.forget_acceptance(id);
        lock(&self.serving).retain(|(of, _), _| of != id);
        if let Some(over) = lock(&self.probations).remove(id) {
            over.new.put_on_probation(None);
        }
        // What served before is kept no longer.
        self.hold_backups().await;
        Ok(gone)
    }
}

/// The plugins that no other version of `id` would do for, of those that count, as `id version` each.
pub(super) fn dependants(
    registry: &Registry,
    id: &PluginId,
    version: &Version,
    counts: impl Fn(&Handle) -> bool,
) -> Vec<String> {
    let others = registry.versions(id).filter(|(there, handle)| *there != version && counts(handle));
    let left: Vec<_> = others.map(|(there, _)| there).collect();
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
