//! What operators are asked about plugins, and what follows from their answers.
//!
//! A version about which something has to be said takes no calls; others of its plugin do. What was said holds for the plugin, so that
//! an update is asked about for what grew. An answer takes effect at once: the plugin is made anew with what it may do now.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

use palisade_protocol::{ErrorBody, ErrorCode};
use rustix::fs::OFlags;
use serde::Serialize;
use serde_json::Value;

use super::{Packages, lock, record, run, the_one};
use crate::events::{EventKind, unix_ms};
use crate::model::generation::StopWhy;
use crate::model::ids::PluginId;
use crate::model::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::model::permission::consent::{
    Answer, Case, Change, Consent, Decision, Definitions, Origin, Said, Verdict, Word, items,
};
use crate::model::permission::grants::Grants;
use crate::model::permission::item::Item;
use crate::model::status::{PluginState, quoted};
use crate::plugin::handle::{Handle, Operation};
use crate::registry::{Found, Registry};
use crate::store::Snapshot;
use crate::store::database::consents::Consents;
use crate::trust::{Candidate, canonical};

/// More are not asked about at once.
const ITEMS_MAX: usize = 256;

/// What a plugin may do, and what an operator has to say about it.
#[derive(Debug, Clone, Serialize)]
pub struct Permissions {
    /// The plugin,
    pub plugin: String,
    /// its version,
    pub version: String,
    /// the digest of its snapshot, where there is one,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// the folder that it lies in, or that it was installed from,
    pub source: String,
    /// the key that signed it,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// whether it takes no calls before an operator has said something,
    pub awaits_consent: bool,
    /// what it asks for,
    pub permissions: Vec<Permission>,
    /// and the actions that are new, or defined otherwise than what was agreed to, where that is asked about.
    pub definitions: Vec<Definition>,
}

/// One thing that it asks for.
#[derive(Debug, Clone, Serialize)]
pub struct Permission {
    /// As `file_read:/srv/data`.
    pub permission: String,
    pub decision: Decision,
    /// Who decided: an operator, as `uid:0`, or the place in the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_unix_ms: Option<u64>,
    /// Why the plugin wants it, in its own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One action that is asked about.
#[derive(Debug, Clone, Serialize)]
pub struct Definition {
    pub action: String,
    pub change: Change,
    /// In the plugin's own words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// What an operator grants.
#[derive(Debug, Clone, Default)]
pub struct Grant {
    pub plugin: String,
    pub version: Option<String>,
    /// If it does not say, all that is asked, and every definition.
    pub permissions: Option<Vec<String>>,
    /// Whether every action is agreed to as it is defined.
    pub definitions: bool,
    /// The digest of the snapshot that the operator was shown.
    pub digest: Option<String>,
}

/// What an operator takes back, or refuses.
#[derive(Debug, Clone, Default)]
pub struct Revocation {
    pub plugin: String,
    pub version: Option<String>,
    /// If it does not say, all of it.
    pub permissions: Option<Vec<String>>,
    /// Whether the plugin is to stay stopped.
    pub stop: bool,
    /// Whether all that was said of it is forgotten instead, so that it is asked for again.
    pub forget: bool,
}

/// What is shown of a version.
#[must_use]
pub fn permissions(handle: &Handle) -> Permissions {
    let blueprint = handle.blueprint();
    let consent = &blueprint.consent;
    let permission = |one: &crate::model::permission::consent::Decided| Permission {
        permission: one.item.to_string(),
        decision: one.decision,
        by: one.by.clone(),
        at_unix_ms: one.at_unix_ms,
        reason: one.reason.clone(),
    };
    let description = |action: &str| {
        let stated = blueprint.manifest.actions.iter().find(|(name, _)| name.as_str() == action);
        stated.and_then(|(_, stated)| stated.description.clone())
    };
    let definition = |(action, change): &(String, Change)| Definition {
        action: action.clone(),
        change: *change,
        description: description(action),
    };
    Permissions {
        plugin: handle.id().to_string(),
        version: handle.version().to_string(),
        digest: blueprint.snapshot().ok().map(|snapshot| snapshot.digest.clone()),
        source: consent.source.display().to_string(),
        key: consent.signer.as_ref().map(ToString::to_string),
        awaits_consent: handle.awaits_consent(),
        permissions: consent.verdict.items.iter().map(permission).collect(),
        definitions: consent.changed.iter().map(definition).collect(),
    }
}

impl Packages {
    /// Decides what a plugin may do.
    pub(super) fn consent_of(&self, found: &Found, snapshot: Option<&Snapshot>) -> Consent {
        let manifest = &found.manifest;
        let config = &self.around.config;
        let installed = record::source_of(&self.record_of(&manifest.id, &manifest.version))
            .filter(|_| self.around.store.has_made(&found.path));
        let is_installed = installed.is_some();
        let source = installed.unwrap_or_else(|| found.path.clone());
        let asks = match config.permissions.definitions {
            None => is_installed,
            Some(definitions) => definitions == Definitions::Ask,
        };
        let wants_bytes = manifest.signature.is_some() || (asks && !manifest.actions.is_empty());
        let bytes = snapshot.filter(|_| wants_bytes).and_then(|snapshot| manifest_bytes(found, snapshot));
        let signer = snapshot.zip(bytes.as_deref()).and_then(|(snapshot, bytes)| {
            let candidate = Candidate { manifest, bytes, checksum: &snapshot.checksum };
            self.around.host.rules.signer(candidate, SystemTime::now())
        });
        let definitions = if asks { bytes.as_deref().map(definitions).unwrap_or_default() } else { Vec::new() };
        let known = lock(&self.consents).get(&manifest.id).cloned().unwrap_or_default();
        let changed = definitions
            .iter()
            // Of a plugin that nobody has seen before everything is new.
            .filter(|definition| !known.definitions.is_empty() && !known.definitions.contains(*definition))
            .map(|(action, _)| {
                let was_there = known.definitions.iter().any(|(there, _)| there == action);
                (action.clone(), if was_there { Change::Changed } else { Change::New })
            })
            .collect();
        let verdict = self.verdict(manifest, &source, signer.as_ref(), &known.said);
        Consent { verdict, changed, definitions, signer, source }
    }

    fn verdict(
        &self,
        manifest: &Manifest,
        source: &std::path::Path,
        signer: Option<&crate::model::trust::KeyName>,
        said: &[Said],
    ) -> Verdict {
        let config = &self.around.config;
        let case = Case {
            id: &manifest.id,
            requests: &manifest.permission_requests,
            asked: &manifest.permissions,
            origin: Origin { source, signer },
            configured: config.plugins.get(&manifest.id).and_then(|configured| configured.grant.as_ref()),
            policy: &config.permissions,
            said,
        };
        case.decide()
    }

    /// Every version about which an operator has to say something, or all that ask for anything.
    ///
    /// # Errors
    /// `unavailable` while the daemon looks for its plugins; `plugin_not_found`, `version_not_found`, `invalid_params` for a version that
    /// is none.
    pub fn permissions(
        &self,
        plugin: Option<&str>,
        version: Option<&str>,
        awaiting: bool,
    ) -> Result<Vec<Permissions>, ErrorBody> {
        let registry = self.registry()?;
        let Some(plugin) = plugin else {
            let asks = |handle: &&Handle| {
                handle.awaits_consent() || (!awaiting && !handle.blueprint().consent.verdict.items.is_empty())
            };
            return Ok(registry.all().filter(asks).map(permissions).collect());
        };
        if version.is_some() {
            return Ok(vec![permissions(registry.find_any(plugin, version)?)]);
        }
        let id = registry.find_any(plugin, None)?.id().clone();
        Ok(registry.versions(&id).map(|(_, handle)| permissions(handle)).collect())
    }

    /// Notes what an operator grants, and lets the plugin have it: it is made anew, and takes calls.
    ///
    /// Not cancel safe: it may be noted and not have taken effect yet.
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found`; `invalid_params` for what it does not ask for, or asks for without saying for what, where
    /// several versions fit, the configuration decides, or the package is another than was shown; `permission_denied` for what a rule
    /// denies; `resource_exhausted` where it cannot be noted.
    pub async fn grant(&self, grant: &Grant, who: &str) -> Result<Handle, ErrorBody> {
        let _one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let handle = self.decidable(&registry, &grant.plugin, grant.version.as_deref())?;
        let (id, version) = (handle.id().clone(), handle.version().clone());
        let blueprint = handle.blueprint();
        let digest = blueprint.snapshot().ok().map(|snapshot| snapshot.digest.clone()).unwrap_or_default();
        if grant.digest.as_ref().is_some_and(|shown| *shown != digest) {
            let message = format!("{id} {version} is another package now than the one that was asked about");
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message)
                .with_hint(format!("see `palisade permissions {id}@{version}`, and grant it then")));
        }
        let consent = &blueprint.consent;
        let requests: Vec<Item> =
            items(&blueprint.manifest.permission_requests).into_iter().map(|(item, _)| item).collect();
        let wanted = match &grant.permissions {
            Some(named) => parsed(named)?,
            None => consent.verdict.asked().cloned().collect(),
        };
        let mut said = Vec::new();
        for item in &wanted {
            self.grantable(item, &requests, &handle)?;
            said.push((item.clone(), Word::Granted));
        }
        for request in requests.iter().filter(|request| !wanted.contains(request)) {
            let is_granted = consent
                .verdict
                .items
                .iter()
                .any(|decided| decided.item == *request && decided.decision == Decision::Granted);
            if !is_granted && wanted.iter().any(|item| request.covers(item)) {
                said.push((request.clone(), Word::Narrowed));
            }
        }
        let agreed =
            if grant.definitions || grant.permissions.is_none() { consent.definitions.clone() } else { Vec::new() };
        self.say(&handle, "grant", said, agreed, &digest, who).await?;
        let running = handle.state() == PluginState::Active;
        let anew = self.renew(&registry, &handle, false).await;
        if running && !anew.awaits_consent() {
            self.go_on(&anew);
        }
        Ok(anew)
    }

    /// Notes that an operator refuses something, or takes it back. A plugin that runs is ended at once, and goes on without.
    ///
    /// Not cancel safe: it may be noted and not have taken effect yet.
    ///
    /// # Errors
    /// As [`Packages::grant`], but for `permission_denied`; `invalid_params` also for a part of something that was granted as a whole.
    pub async fn revoke(&self, revocation: &Revocation, who: &str) -> Result<Handle, ErrorBody> {
        let _one_change = self.changing.lock().await;
        let registry = self.registry()?;
        let handle = self.decidable(&registry, &revocation.plugin, revocation.version.as_deref())?;
        let blueprint = handle.blueprint();
        let digest = blueprint.snapshot().ok().map(|snapshot| snapshot.digest.clone()).unwrap_or_default();
        if revocation.forget {
            self.forget_consents(handle.id(), handle.version(), who).await?;
            return Ok(self.renew(&registry, &handle, true).await);
        }
        let decided = &blueprint.consent.verdict.items;
        let requests = items(&blueprint.manifest.permission_requests);
        let mut all: Vec<Item> = decided.iter().map(|one| one.item.clone()).collect();
        all.extend(
            requests.into_iter().map(|(item, _)| item).filter(|item| decided.iter().all(|one| one.item != *item)),
        );
        let mut said: Vec<(Item, Word)> = Vec::new();
        match &revocation.permissions {
            None => said.extend(all.into_iter().map(|item| (item, Word::Denied))),
            Some(named) => {
                for item in parsed(named)? {
                    let meant: Vec<_> = all.iter().filter(|one| item.covers(one)).cloned().collect();
                    if meant.is_empty() {
                        return Err(not_to_be_taken(&item, &all, &handle));
                    }
                    said.extend(meant.into_iter().map(|item| (item, Word::Denied)));
                }
            }
        }
        self.say(&handle, "revoke", said, Vec::new(), &digest, who).await?;
        let running = handle.state() == PluginState::Active;
        let anew = self.renew(&registry, &handle, true).await;
        if revocation.stop {
            anew.operate(Operation::Stop { force: true, why: StopWhy::Operator }).await?;
        } else if running && !anew.awaits_consent() {
            self.go_on(&anew);
        }
        Ok(anew)
    }

    /// The version that is meant, if an operator may decide about it.
    fn decidable(&self, registry: &Registry, plugin: &str, version: Option<&str>) -> Result<Handle, ErrorBody> {
        let handle = match version {
            Some(_) => the_one(registry, plugin, version)?,
            None => {
                let id = registry.find_any(plugin, None)?.id();
                let mut awaiting = registry.versions(id).map(|(_, handle)| handle).filter(|one| one.awaits_consent());
                match (awaiting.next(), awaiting.next()) {
                    (Some(only), None) => only.clone(),
                    _ => the_one(registry, plugin, None)?,
                }
            }
        };
        let id = handle.id();
        if self.around.config.plugins.get(id).is_some_and(|configured| configured.grant.is_some()) {
            let message = format!("what {id} may do is decided by `plugins.{id}.grant` in palisade.toml");
            return Err(ErrorBody::new(ErrorCode::InvalidParams, message)
                .with_hint("change it there, or take it out, and restart the daemon"));
        }
        Ok(handle)
    }

    /// Whether an operator may grant this.
    fn grantable(&self, item: &Item, requests: &[Item], handle: &Handle) -> Result<(), ErrorBody> {
        let (id, version) = (handle.id(), handle.version());
        let invalid = |message: String| ErrorBody::new(ErrorCode::InvalidParams, message);
        if item.is_open() {
            let example = match item.permission() {
                "network_access" => "api.example.com",
                "system_access" => "meminfo",
                _ => "/srv/data",
            };
            let message = format!("{id} asks for {item} and leaves it to you for what");
            return Err(invalid(message).with_hint(format!("say it, as in `palisade grant {id} {item}:{example}`")));
        }
        if !requests.iter().any(|request| request.covers(item)) {
            let asked: Vec<_> = requests.iter().map(ToString::to_string).collect();
            let asked = if asked.is_empty() { "nothing".to_owned() } else { asked.join(", ") };
            return Err(invalid(format!("{id} {version} does not ask for {}", quoted(&item.to_string())))
                .with_hint(format!("it asks for {asked}")));
        }
        let consent = &handle.blueprint().consent;
        let origin = Origin { source: &consent.source, signer: consent.signer.as_ref() };
        let ruling = self.around.config.permissions.ruling(item, origin);
        if ruling.answer == Answer::Deny {
            let message = format!("{item} is denied by `{}` in palisade.toml", ruling.by);
            return Err(ErrorBody::new(ErrorCode::PermissionDenied, message)
                .with_hint("change it there, and restart the daemon"));
        }
        Ok(())
    }

    /// Writes down what was said, in the database and for the plugins that are made from now on.
    async fn say(
        &self,
        handle: &Handle,
        what: &str,
        words: Vec<(Item, Word)>,
        definitions: Vec<(String, String)>,
        digest: &str,
        who: &str,
    ) -> Result<(), ErrorBody> {
        let (id, version) = (handle.id().clone(), handle.version().clone());
        let consent = &handle.blueprint().consent;
        let at_unix_ms = unix_ms(SystemTime::now());
        let said: Vec<_> = words
            .into_iter()
            .map(|(item, word)| Said {
                item,
                word,
                key: consent.signer.clone(),
                at_unix_ms,
                who: who.to_owned(),
                version: version.to_string(),
                digest: digest.to_owned(),
            })
            .collect();
        let mut known = lock(&self.consents).get(&id).cloned().unwrap_or_default();
        known.add(&said, &definitions);
        // Each is right; together they may be more than a plugin can have.
        let granted: Vec<_> =
            known.said.iter().filter(|said| said.word == Word::Granted).map(|said| said.item.value()).collect();
        Grants::parse(&granted).map_err(|error| ErrorBody::new(ErrorCode::InvalidParams, error.to_string()))?;
        let told = |said: &Said| format!("{} {}", said.word.as_str(), said.item);
        let mut detail = said.iter().map(told).collect::<Vec<_>>().join(", ");
        if !definitions.is_empty() {
            detail += if detail.is_empty() { "its actions as they are" } else { ", its actions as they are" };
        }
        let entry = self.entry(what, who, &id, &version, format!("{detail} ({digest})"));
        let database = self.database.clone();
        let noted = run(move || database.consent(&said, &definitions, &entry)).await?;
        noted.map_err(|error| ErrorBody::new(ErrorCode::ResourceExhausted, error.to_string()))?;
        lock(&self.consents).insert(id.clone(), known);
        self.tell(EventKind::PermissionsChanged, &id, &version, Some(detail));
        Ok(())
    }

    /// Agrees to the actions of a plugin that was installed, as nothing of it was known before.
    pub(super) async fn agree_to_the_first(&self, handle: &Handle, who: &str) {
        let (id, consent) = (handle.id(), &handle.blueprint().consent);
        let is_first = lock(&self.consents).get(id).is_none_or(|known| known.definitions.is_empty());
        if !is_first || consent.definitions.is_empty() {
            return;
        }
        let mut known = lock(&self.consents).get(id).cloned().unwrap_or_default();
        known.add(&[], &consent.definitions);
        let entry = self.entry("agree", who, id, handle.version(), "its actions as they are".to_owned());
        let (database, definitions) = (self.database.clone(), consent.definitions.clone());
        match run(move || database.consent(&[], &definitions, &entry)).await {
            Ok(Ok(())) => drop(lock(&self.consents).insert(id.clone(), known)),
            Ok(Err(error)) => tracing::error!(plugin = %id, %error, "how its actions are defined is not remembered"),
            Err(error) => {
                tracing::error!(plugin = %id, error = %error.message, "how its actions are defined is not remembered");
            }
        }
    }

    /// Forgets all that was said of a plugin.
    ///
    /// # Errors
    /// `resource_exhausted` where the database cannot be written.
    pub(super) async fn forget_consents(
        &self,
        id: &PluginId,
        version: &semver::Version,
        who: &str,
    ) -> Result<(), ErrorBody> {
        let entry = self.entry("forget", who, id, version, "all that was granted".to_owned());
        let database = self.database.clone();
        let forgotten = run(move || database.forget_consents(&entry)).await?;
        forgotten.map_err(|error| ErrorBody::new(ErrorCode::ResourceExhausted, error.to_string()))?;
        lock(&self.consents).remove(id);
        self.tell(EventKind::PermissionsChanged, id, version, Some("all that was said is forgotten".to_owned()));
        Ok(())
    }

    /// Makes a version anew from its snapshot, with what holds for it now, and ends the one before. Calls go to the new one from the
    /// moment at which the old one takes none any more.
    async fn renew(&self, registry: &Registry, handle: &Handle, force: bool) -> Handle {
        let (id, version) = (handle.id().clone(), handle.version().clone());
        let blueprint = handle.blueprint();
        let found = Found {
            manifest: blueprint.manifest.clone(),
            path: blueprint.source.clone(),
            warnings: blueprint.found_warnings.clone(),
        };
        let task = lock(&self.tasks).remove(&(id, version));
        let anew = self.make(found, blueprint.snapshot());
        anew.set_enabled(handle.is_enabled());
        let mut changed = Registry::clone(registry);
        changed.put(anew.clone());
        self.live.replace(changed);
        if force {
            // What it runs with is what was taken back.
            let _ = handle.operate(Operation::Stop { force: true, why: StopWhy::Operator }).await;
        }
        self.end(handle, task).await;
        self.set_off(&anew).await;
        anew
    }

    /// Has one that ran before run again, as it would with its next call; nobody waits for it.
    fn go_on(&self, handle: &Handle) {
        let handle = handle.clone();
        tokio::spawn(async move {
            if let Err(error) = handle.describe().await {
                tracing::warn!(plugin = %handle.id(), error = %error.message, "it does not go on with what it may do now");
            }
        });
    }
}

fn parsed(named: &[String]) -> Result<Vec<Item>, ErrorBody> {
    if ITEMS_MAX < named.len() {
        let message = format!("{} permissions are named; at most {ITEMS_MAX} can be at once", named.len());
        return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
    }
    let parse = |text: &String| {
        Item::parse(text).map_err(|error| {
            ErrorBody::new(ErrorCode::InvalidParams, format!("{}: {error}", quoted(text)))
                .with_hint("write it as execute_code, file_read:/srv/data, network_access:api.example.com")
        })
    };
    named.iter().map(parse).collect()
}

fn not_to_be_taken(item: &Item, all: &[Item], handle: &Handle) -> ErrorBody {
    let id = handle.id();
    let invalid = |message: String| ErrorBody::new(ErrorCode::InvalidParams, message);
    if let Some(whole) = all.iter().find(|one| one.covers(item)) {
        let hint = format!("`palisade revoke {id} {whole}`, and grant what is left");
        return invalid(format!("{item} is a part of {whole}, which is granted or refused as a whole")).with_hint(hint);
    }
    let all: Vec<_> = all.iter().map(ToString::to_string).collect();
    let asked = if all.is_empty() { "nothing".to_owned() } else { all.join(", ") };
    invalid(format!("{id} {} does not ask for {}", handle.version(), quoted(&item.to_string())))
        .with_hint(format!("it asks for {asked}"))
}

/// The bytes that the manifest was read from: in the snapshot, or where none is made yet, in what it will be made from.
fn manifest_bytes(found: &Found, snapshot: &Snapshot) -> Option<Vec<u8>> {
    let folder = if snapshot.is_presumed { &found.path } else { &snapshot.path };
    let mut bytes = Vec::new();
    // It may be something else by now, which is not followed and not waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(folder.join("plugin.json")).ok()?;
    file.take(MANIFEST_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
    // Another one by now says nothing of this one.
    Manifest::parse(&bytes).is_ok_and(|(read, _)| read == found.manifest).then_some(bytes)
}

/// Each action of a manifest by its name, with the digest of what agents are told of it. How long it may take and how often it may run
/// at once is no part of that.
fn definitions(manifest: &[u8]) -> Vec<(String, String)> {
    let Ok(Value::Object(mut manifest)) = palisade_protocol::parse_json(manifest) else { return Vec::new() };
    let Some(Value::Array(actions)) = manifest.remove("actions") else { return Vec::new() };
    let definition = |action: Value| {
        let Value::Object(mut action) = action else { return None };
        for operational in ["timeout", "concurrency"] {
            action.remove(operational);
        }
        let name = action.get("name")?.as_str()?.to_owned();
        Some((name, canonical::digest_of(&Value::Object(action))))
    };
    actions.into_iter().filter_map(definition).collect()
}

impl Consents {
    /// Takes in what was said, of each thing the last word.
    fn add(&mut self, said: &[Said], definitions: &[(String, String)]) {
        self.said.retain(|before| said.iter().all(|now| now.item != before.item));
        self.said.extend(said.iter().cloned());
        self.definitions.extend(definitions.iter().cloned());
    }
}
