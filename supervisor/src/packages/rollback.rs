//! The packages of a plugin that served before: which are kept, and how an operator returns to one.
//!
//! Invariant: what is returned to and what served until then are noted together, or neither is.
//! Elsewhere: a return is a reload, and made by `reload`; what leads back by itself is `probation`'s.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use palisade_protocol::{ErrorBody, ErrorCode};
use serde::Serialize;

use super::asked::{Exchanged, Reloaded, Reloads, returned_to};
use super::reload::{Switched, Wanted, short};
use super::{Packages, lock, refused, run};
use crate::events::EventKind;
use crate::model::ids::PluginId;
use crate::plugin::handle::Handle;
use crate::registry::{self, Found};
use crate::state::{KeptCopy, kept_name_of};
use crate::store::database::reloads::{Backup, Return};

/// Most files of a package whose sizes are added up.
const ENTRIES_MAX: usize = 100_000;

/// A package that served before, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Before {
    /// By which `rollback` knows it,
    pub number: u64,
    /// when another took its place,
    pub at_unix_ms: u64,
    /// its version,
    pub version: String,
    /// the digest of its snapshot,
    pub digest: String,
    /// why it serves no more,
    pub reason: String,
    /// how much its files have,
    pub bytes: u64,
    /// whether it is what serves now,
    pub serves: bool,
    /// and whether what the plugin kept then is there with it.
    pub with_state: bool,
    #[serde(skip)]
    state: Option<String>,
    #[serde(skip)]
    schema: Option<u32>,
}

/// A copy of what a plugin kept, as it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KeptState {
    /// By which `state show` and `state export` know it,
    pub name: String,
    /// where it is,
    pub path: PathBuf,
    /// when the plugin had it,
    pub at_unix_ms: u64,
    /// how long the file is,
    pub bytes: u64,
    /// and of which backup it is, by its number; of none where it was put aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backup: Option<u64>,
}

impl Packages {
    /// Keeps what served before in the store.
    pub(super) async fn hold_backups(&self) {
        let database = self.database.clone();
        let digests = run(move || database.backup_digests().map_err(|error| error.to_string())).await;
        match digests.map_err(|error| error.message).flatten() {
            Ok(digests) => {
                let held = digests.iter().filter_map(|digest| self.around.store.presume(digest, "")).collect();
                *lock(&self.backups) = held;
            }
            Err(error) => tracing::error!(%error, "what served before is not known, and may leave the store"),
        }
    }

    /// Notes what served before. With a held copy of the state it is over: no daemon puts that back any more.
    ///
    /// # Errors
    /// Why it is not noted; then everything is as it was.
    pub(super) async fn note_backup(
        &self,
        old: &Handle,
        new: &Handle,
        held: Option<PathBuf>,
        aside: Option<PathBuf>,
        (who, returned): (&str, Option<&Return>),
    ) -> Result<Option<String>, ErrorBody> {
        let (Ok(before), Ok(after)) = (old.blueprint().snapshot(), new.blueprint().snapshot()) else { return Ok(None) };
        let is_another = !before.is_presumed && before.digest != after.digest;
        if !is_another && held.is_none() && returned.is_none() {
            return Ok(None);
        }
        let mut detail = format!("{} after {}", after.digest, before.digest);
        if let Some((in_folder, _)) = returned.and_then(|returned| returned.instead_of.as_ref()) {
            detail = format!("{detail}; {in_folder}, which lies in its folder, is not used");
        }
        let what = if returned.is_some() { "rollback" } else { "reload" };
        let entry = self.entry(what, who, new.id(), new.version(), detail);
        let returned = returned.cloned();
        let serves =
            returned.as_ref().map(|Return { folder, digest, .. }| ((new.id().clone(), folder.clone()), digest.clone()));
        let aside = aside.map(|aside| format!("; what it had written is kept in {}", aside.display()));
        let reason = format!("{} {} took its place{}", new.version(), short(&after.digest), aside.unwrap_or_default());
        let schema = old.blueprint().manifest.state_schema;
        let (database, version, id) = (self.database.clone(), old.version().clone(), old.id().clone());
        let (state, kept_max) = (self.around.states.of(&id), self.around.config.reload_of(&id).backups());
        let noted = run(move || {
            // What was held is known by that name before it has it: with that everything has come to its end, and the daemon that follows one
            // which is killed in between gives it the name.
            let kept = match &held {
                Some(held) => Some(kept_name_of(held)),
                None => state.keep(None, entry.at_unix_ms).unwrap_or_else(|error| {
                    tracing::error!(plugin = %id, %error, "what it keeps is not kept with the package that served before");
                    None
                }),
            };
            let backup = Backup {
                number: 0,
                at_unix_ms: entry.at_unix_ms,
                version,
                bytes: bytes_in(&before.path),
                digest: before.digest,
                reason,
                state: kept.clone(),
                schema,
            };
            if let Some(returned) = returned.as_ref().filter(|_| !is_another) {
                database.note_return(returned, &entry).map_err(|error| error.to_string())?;
            }
            if is_another {
                database.note_backup(&backup, kept_max, returned.as_ref(), &entry).map_err(|error| error.to_string())?;
                match database.backups(&id) {
                    Ok(all) => state.keep_only(&all.into_iter().filter_map(|backup| backup.state).collect::<Vec<_>>()),
                    Err(error) => tracing::warn!(plugin = %id, %error, "copies of its state stay that are not kept any more"),
                }
            }
            if let Some(held) = &held
                && let Err(error) = state.keep(Some(held), entry.at_unix_ms)
            {
                tracing::error!(plugin = %id, %error, "what it kept before has its name once the daemon is started again");
            }
            Ok::<_, String>(kept)
        })
        .await?;
        let kept = noted.map_err(|error| {
            let message = format!("what served before cannot be noted: {error}");
            ErrorBody::new(ErrorCode::ResourceExhausted, message)
        })?;
        if let Some((place, digest)) = serves {
            lock(&self.serving).insert(place, digest);
        }
        Ok(kept)
    }

    /// The packages of a plugin that served before, the youngest first; whether one serves now is said of the version.
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found`; `resource_exhausted` where they cannot be looked up.
    pub async fn backups(&self, plugin: &str, version: Option<&str>) -> Result<Vec<Before>, ErrorBody> {
        let registry = self.registry()?;
        let handle = registry.find_any(plugin, version)?;
        let serves = handle.blueprint().snapshot().map(|snapshot| snapshot.digest).unwrap_or_default();
        let (database, id) = (self.database.clone(), handle.id().clone());
        let all = run(move || database.backups(&id)).await?;
        let all = all.map_err(|error| super::unwritten(&error))?;
        let told = |Backup { number, at_unix_ms, version, digest, reason, bytes, state, schema }| Before {
            number,
            at_unix_ms,
            version: version.to_string(),
            serves: digest == serves,
            digest,
            reason,
            bytes,
            with_state: state.is_some(),
            state,
            schema,
        };
        Ok(all.into_iter().map(told).collect())
    }

    /// The copies that there are of what a plugin kept, the youngest first; with the backups that they belong to.
    ///
    /// # Errors
    /// `plugin_not_found`; `resource_exhausted` where there is no thread to look with.
    pub async fn kept_states(
        &self,
        plugin: &str,
        version: Option<&str>,
        backups: &[Before],
    ) -> Result<Vec<KeptState>, ErrorBody> {
        let state = self.around.states.of(self.registry()?.find_any(plugin, version)?.id());
        let copies = run(move || state.kept_copies()).await?;
        let told = |KeptCopy { name, path, at_unix_ms, bytes }: KeptCopy| {
            let backup = backups.iter().find(|backup| backup.state.as_ref() == Some(&name)).map(|backup| backup.number);
            KeptState { name, path, at_unix_ms, bytes, backup }
        };
        Ok(copies.into_iter().map(told).collect())
    }

    /// Where the youngest copy is of what a plugin kept until another state took its place, or that was brought into another form.
    pub async fn aside_of(&self, id: &PluginId) -> Option<PathBuf> {
        let state = self.around.states.of(id);
        let copies = run(move || state.kept_copies()).await.unwrap_or_default();
        copies.into_iter().find(KeptCopy::is_aside).map(|copy| copy.path)
    }

    /// Returns from a version of a plugin to a package that served before: to the last one, or to that of this number.
    ///
    /// Not cancel safe.
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found`; `invalid_params` where there is none, or it is not kept any more; whatever it fails with, while what served goes
    /// on.
    pub async fn rollback(
        self: &Arc<Self>,
        (plugin, version): (&str, Option<&str>),
        to: Option<u64>,
        with_state: bool,
        who: &str,
    ) -> Result<Reloads, ErrorBody> {
        let all = self.backups(plugin, version).await?;
        let old = self.registry()?.find_any(plugin, version)?.clone();
        let id = old.id().clone();
        // What served last stands beside it, whatever its folder had before.
        if to.is_none()
            && let Some(done) = self.return_from_update(&old, with_state, who).await?
        {
            return Ok(done);
        }
        let wanted = match to {
            Some(number) => all.iter().find(|one| one.number == number),
            None => all.iter().find(|one| !one.serves),
        };
        let Some(wanted) = wanted else {
            let message = match to {
                Some(number) => format!("{id} has no backup {number}"),
                None => format!("{id} has no backup to return to"),
            };
            let mut hint = format!("`palisade backups {id}` lists them");
            let registry = self.registry()?;
            if registry.versions(&id).any(|(version, one)| version < old.version() && one.is_enabled()) {
                hint += &format!("; `palisade disable {id}@{}` returns to the version before", old.version());
            }
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message).with_hint(hint));
        };
        if wanted.serves {
            return Err(ErrorBody::new(
                ErrorCode::InvalidParams,
                format!("backup {} of {id} serves already", wanted.number),
            ));
        }
        let of = self.around.states.of(&id);
        let stored = run(move || of.stored_schema()).await?.map_err(|error| crate::state::error_body(&error))?;
        // What it cannot read it is not given.
        let state = (with_state || stored > Some(wanted.schema.unwrap_or(0))).then(|| wanted.state.clone());
        let Some(state) = state.map_or(Some(None), |state| state.map(Some)) else {
            let message = format!("no state is kept with backup {} of {id}", wanted.number);
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
        };
        let (store, digest) = (self.around.store.clone(), wanted.digest.clone());
        let taken = run(move || {
            let snapshot = store.take(&digest).map_err(|error| error.to_string())?;
            Ok::<_, String>((registry::read(&snapshot.path)?, snapshot))
        })
        .await?;
        let (found, snapshot) = taken.map_err(|error| {
            let message = format!("backup {} of {id} cannot be used: {error}", wanted.number);
            ErrorBody::new(ErrorCode::InvalidParams, message)
        })?;
        let reason = returned_to(who, &format!("{} {}", wanted.version, short(&wanted.digest)));
        let found = Found { path: old.blueprint().source.clone(), ..found };
        let prepared = self.prepare_one((found, Ok(snapshot.clone())), None).await?;
        let plan = self.plan(&old, &prepared, state.as_ref()).await;
        let left = refused(&old);
        let kept_at = state.is_some().then_some(wanted.at_unix_ms);
        let wanted = Wanted { old, prepared, state, who: who.to_owned(), returns: Some(reason.clone()) };
        let done = self.reload(wanted).await;
        let Switched { new, aside, .. } = done.map_err(|kept| kept.error().clone())?;
        // An operator's word is no trial.
        let over = lock(&self.probations).remove(new.id());
        if let Some(over) = over {
            self.forget_probation(&over.new).await;
        }
        new.put_on_probation(None);
        self.tell_refused(EventKind::PackageRolledBack, &new, left, reason);
        let state = kept_at.zip(aside).map(|(at_unix_ms, aside)| Exchanged { at_unix_ms, aside });
        Ok(Reloads { reloads: vec![Reloaded { state, ..self.told(&new, plan, true, None) }] })
    }
}

/// How much the files of a package have. Blocks.
fn bytes_in(folder: &Path) -> u64 {
    let (mut bytes, mut entries, mut folders) = (0_u64, 0, vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            entries += 1;
            match entry.metadata() {
                _ if ENTRIES_MAX < entries => return bytes,
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => bytes = bytes.saturating_add(found.len()),
                Err(_) => {}
            }
        }
    }
    bytes
}
