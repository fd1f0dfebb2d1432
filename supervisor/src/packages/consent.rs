//! What operators are asked about plugins, and what follows from their answers.
//!
//! A version about which something has to be said takes no calls; others of its plugin do. What was said holds for the plugin, so that
//! an update is asked about for what grew. An answer takes effect at once: the plugin is made anew with what it may do now.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use palisade_protocol::{ErrorBody, ErrorCode};
use serde::Serialize;
use tokio::task::JoinSet;

use super::prepare::{self, Evidence, Prepared};
use super::reload::{OURSELVES, is_of};
use super::{Packages, lock, run, the_one};
use crate::events::{EventKind, unix_ms};
use crate::model::generation::StopWhy;
use crate::model::ids::PluginId;
use crate::model::manifest::Manifest;
use crate::model::permission::consent::{
    self, Answer, Case, Change, Consent, Decision, Origin, Said, Verdict, Word, items,
};
use crate::model::permission::grants::{Grants, NAMES};
use crate::model::permission::item::Item;
use crate::model::specifier::Specifier;
use crate::model::status::{PluginState, quoted};
use crate::plugin::handle::{Handle, Operation};
use crate::registry::{Found, Registry};
use crate::store::Snapshot;
use crate::store::database::consents::{Consents, Definitions};
use crate::store::database::{Condition, DatabaseError};

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

/// What an answer is about, as the configuration may have a word on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decidable {
    Permissions,
    Definitions,
}

/// What is shown of a version.
#[must_use]
pub fn permissions(handle: &Handle) -> Permissions {
    let blueprint = handle.blueprint();
    let consent = &blueprint.consent;
    let permission = |one: &consent::Decided| Permission {
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
    let announced = |(action, change): (String, Change)| Definition {
        change,
        description: blueprint.announced.description(&action),
        action,
    };
    let mut definitions: Vec<_> = consent.changed.iter().map(definition).collect();
    definitions.extend(blueprint.announced.changes().into_iter().map(announced));
    Permissions {
        plugin: handle.id().to_string(),
        version: handle.version().to_string(),
        digest: blueprint.snapshot().ok().map(|snapshot| snapshot.digest.clone()),
        source: consent.source.display().to_string(),
        key: consent.signer.as_ref().map(ToString::to_string),
        awaits_consent: handle.awaits_consent(),
        permissions: consent.verdict.items.iter().map(permission).collect(),
        definitions,
    }
}

impl Packages {
    /// Decides what a plugin may do, by what was read of it and by what was said until now.
    pub(super) fn decide(&self, manifest: &Manifest, evidence: Evidence) -> Consent {
        let Evidence { is_installed, source, signer, definitions } = evidence;
        let asks = prepare::asks(self.policy.definitions, is_installed);
        let known = lock(&self.consents).get(&manifest.id).cloned().unwrap_or_default();
        // What was installed was agreed to when it was, or that is not known any more; what lies in a directory is its first.
        let is_lost = *self.database.condition() != Condition::Good;
        let is_unknown = asks && is_installed && !is_lost && !known.definitions.contains(&installed_once());
        let changed = definitions
            .iter()
            .filter_map(|(action, digest)| {
                let change = match is_unknown {
                    true => Change::New,
                    false => consent::change(&known.definitions, action, std::slice::from_ref(digest))?,
                };
                Some((action.clone(), change))
            })
            .collect();
        let verdict = self.verdict(manifest, &source, signer.as_ref(), &known.said);
        Consent {
            verdict,
            changed,
            is_unknown,
            definitions,
            asks_about_definitions: asks,
            is_installed,
            signer,
            source,
        }
    }

    /// Decides anew about a plugin that there is.
    fn decide_again(&self, handle: &Handle) -> Consent {
        let blueprint = handle.blueprint();
        self.decide(&blueprint.manifest, Evidence::of(&blueprint.consent))
    }

    fn verdict(
        &self,
        manifest: &Manifest,
        source: &Path,
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
            policy: &self.policy,
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
            let waiting: Vec<_> = lock(&self.awaiting).values().cloned().collect();
            return Ok(registry.all().chain(&waiting).filter(asks).map(permissions).collect());
        };
        let waits = |id: &PluginId| lock(&self.awaiting).get(id).cloned();
        let id = self.known(&registry, plugin)?.id().clone();
        if version.is_some() {
            let waiting = waits(&id).filter(|one| Some(one.version().to_string().as_str()) == version);
            // The package that it is to be may have the version of the one that there is.
            let there = registry.find_any(plugin, version);
            let there = if waiting.is_some() { there.ok() } else { Some(there?) };
            return Ok(there.into_iter().chain(&waiting).map(permissions).collect());
        }
        let waiting = waits(&id);
        Ok(registry.versions(&id).map(|(_, handle)| handle).chain(&waiting).map(permissions).collect())
    }

    /// Notes what an operator grants, and lets the plugin have it: it is made anew, and takes calls.
    ///
    /// Not cancel safe: it may be noted and not have taken effect yet.
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found`; `invalid_params` for what it does not ask for, or asks for without saying for what, where
    /// several versions fit, the configuration decides, or the package is another than was shown; `permission_denied` for what a rule
    /// denies; `resource_exhausted` where it cannot be noted.
    pub async fn grant(self: &Arc<Self>, grant: &Grant, who: &str) -> Result<super::Said, ErrorBody> {
        let one_word = self.consenting.lock().await;
        let registry = self.registry()?;
        let names = grant.permissions.as_ref().is_some_and(|named| !named.is_empty());
        let what = if names { Decidable::Permissions } else { Decidable::Definitions };
        let handle = self.decidable(&registry, &grant.plugin, grant.version.as_deref(), what)?;
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
        let agreed = if grant.definitions || grant.permissions.is_none() {
            let stated = consent.definitions.iter().cloned().chain([installed_once()]).collect();
            Definitions { stated, announced: blueprint.announced.definitions() }
        } else {
            Definitions::default()
        };
        self.say(&handle, "grant", said, agreed, &digest, who).await?.map_err(not_written)?;
        drop(one_word);
        self.renew_all(&id, &running(&registry, &id)).await?;
        self.try_awaiting(&id, who).await?;
        Ok(self.said(self.now(&handle)?))
    }

    /// Notes that an operator refuses something, or takes it back. A plugin that runs is ended at once, and goes on without.
    ///
    /// Not cancel safe: it may be noted and not have taken effect yet.
    ///
    /// # Errors
    /// As [`Packages::grant`], but for `permission_denied`; `invalid_params` also for a part of something that was granted as a whole.
    pub async fn revoke(self: &Arc<Self>, revocation: &Revocation, who: &str) -> Result<super::Said, ErrorBody> {
        let one_word = self.consenting.lock().await;
        let registry = self.registry()?;
        let (plugin, version) = (&revocation.plugin, revocation.version.as_deref());
        // What is taken back is taken from the plugin, so that it need not be said from which version.
        let handle = match version {
            Some(_) => the_one(&registry, plugin, version)?,
            None => self.known(&registry, plugin)?,
        };
        let id = handle.id().clone();
        self.refuse_if_configured(&id)?;
        let running = running(&registry, &id);
        // What is taken back is gone, whatever there is no room for.
        let written = if revocation.forget {
            self.forget_consents(&id, handle.version(), who).await?
        } else {
            let meant = |(there, _): &(&semver::Version, &Handle)| version.is_none() || *there == handle.version();
            let mut all: Vec<Item> = Vec::new();
            let waiting = lock(&self.awaiting).get(&id).cloned();
            let waiting = waiting.iter().map(|waiting| (waiting.version(), waiting));
            for (_, one) in registry.versions(&id).chain(waiting).filter(meant) {
                let decided = one.blueprint().consent.verdict.items.iter().map(|decided| decided.item.clone());
                let asked = items(&one.blueprint().manifest.permission_requests).into_iter().map(|(item, _)| item);
                for item in decided.chain(asked) {
                    if !all.contains(&item) {
                        all.push(item);
                    }
                }
            }
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
            let digest = handle.blueprint().snapshot().map(|snapshot| snapshot.digest).unwrap_or_default();
            self.say(&handle, "revoke", said, Definitions::default(), &digest, who).await?
        };
        self.withdraw(&registry, &id).await;
        drop(one_word);
        let none = BTreeSet::new();
        self.renew_all(&id, if revocation.stop { &none } else { &running }).await?;
        self.try_awaiting(&id, who).await?;
        let anew = self.now(&handle)?;
        if revocation.stop {
            let registry = self.registry()?;
            for (_, one) in registry.versions(&id).filter(|(version, _)| running.contains(version)) {
                one.operate(Operation::Stop { force: true, why: StopWhy::Operator }).await?;
            }
        }
        Ok(match written {
            Ok(()) => self.said(anew),
            Err(error) => Self::said_and_not_kept(anew, &error),
        })
    }

    /// Ends every version of a plugin that has more than it may have now, and lets none of them start again. Nobody is waited for who
    /// changes something else meanwhile.
    async fn withdraw(&self, registry: &Registry, id: &PluginId) {
        let mut ending = JoinSet::new();
        for (_, handle) in registry.versions(id) {
            let now = self.decide_again(handle);
            if now == handle.blueprint().consent {
                continue;
            }
            handle.blueprint().withdraw();
            let handle = handle.clone();
            ending.spawn(async move {
                let _ = handle.operate(Operation::Stop { force: true, why: StopWhy::Withdrawn }).await;
            });
        }
        while ending.join_next().await.is_some() {}
    }

    /// Makes each version of a plugin anew about which something else is decided now, and ends the ones before; those that ran go on, and what
    /// its operator has said of it holds.
    async fn renew_all(&self, id: &PluginId, running: &BTreeSet<semver::Version>) -> Result<(), ErrorBody> {
        let mut renewed = Vec::new();
        {
            let _one_change = self.changing.lock().await;
            let registry = self.registry()?;
            let mut changed = Registry::clone(&registry);
            for (version, handle) in registry.versions(id) {
                let blueprint = handle.blueprint();
                let now = self.decide_again(handle);
                if now == blueprint.consent && !handle.awaits_consent() && !blueprint.is_withdrawn() {
                    continue;
                }
                // Nothing of it is read: it is the same package.
                let Some(numbers) = lock(&self.numbers).get(id).cloned() else { continue };
                let evidence = Evidence::of(&blueprint.consent);
                let (found, snapshot) = (found_of(handle), blueprint.snapshot());
                let task = lock(&self.tasks).remove(&(id.clone(), version.clone()));
                let anew = self.make(Prepared {
                    found,
                    snapshot,
                    executable: blueprint.executable.clone(),
                    evidence,
                    numbers,
                });
                anew.carry_over(handle);
                anew.blueprint().announced.take_over(&blueprint.announced);
                changed.put(anew.clone());
                renewed.push((handle.clone(), task, anew));
            }
            self.live.replace(changed);
        }
        let leave = |(handle, task, anew): (Handle, _, Handle)| {
            let leaving = self.leave(handle.clone(), task, Some(&anew));
            self.tell_state(handle.state(), &anew);
            (leaving, anew)
        };
        let renewed: Vec<_> = renewed.into_iter().map(leave).collect();
        for (leaving, anew) in renewed {
            leaving.ended().await;
            self.set_off(&anew).await;
            if running.contains(anew.version()) && anew.is_in_use() {
                self.go_on(&anew);
            }
        }
        Ok(())
    }

    /// What there is now of the version that this was.
    fn now(&self, handle: &Handle) -> Result<Handle, ErrorBody> {
        let registry = self.registry()?;
        let is_same = |one: &&Handle| handle.blueprint().snapshot().is_ok_and(|snapshot| is_of(one, &snapshot.digest));
        if let Some(waiting) = lock(&self.awaiting).get(handle.id()).filter(is_same) {
            return Ok(waiting.clone());
        }
        let id = handle.id().as_str();
        // What was said may have had another version of the same folder take its place.
        let same = registry.find_any(id, Some(&format!("={}", handle.version())));
        same.or_else(|_| registry.find_any(id, None)).cloned()
    }

    /// A version of that plugin, or what waits in another one's folder and is not among the plugins yet.
    fn known(&self, registry: &Registry, plugin: &str) -> Result<Handle, ErrorBody> {
        registry.find_any(plugin, None).cloned().or_else(|unknown| {
            let waiting = PluginId::parse(plugin).ok().and_then(|id| lock(&self.awaiting).get(&id).cloned());
            waiting.ok_or(unknown)
        })
    }

    /// The version that is meant, if an operator may decide about it.
    fn decidable(
        &self,
        registry: &Registry,
        plugin: &str,
        version: Option<&str>,
        what: Decidable,
    ) -> Result<Handle, ErrorBody> {
        let id = self.known(registry, plugin)?.id().clone();
        let waiting = lock(&self.awaiting).get(&id).cloned();
        let wanted = version.and_then(|version| Specifier::parse(version).ok());
        let named = waiting.as_ref().filter(|one| wanted.as_ref().is_some_and(|wanted| wanted.matches(one.version())));
        let handle = match (version, named) {
            (Some(_), Some(waiting)) => waiting.clone(),
            (Some(_), None) => the_one(registry, plugin, version)?,
            (None, _) => {
                let all = registry.versions(&id).map(|(_, handle)| handle).chain(&waiting);
                let mut awaiting = all.filter(|one| one.awaits_consent());
                match (awaiting.next(), awaiting.next()) {
                    (Some(only), None) => only.clone(),
                    _ => the_one(registry, plugin, None)?,
                }
            }
        };
        // Its actions are agreed to nowhere else.
        if what != Decidable::Definitions || !handle.awaits_consent() {
            self.refuse_if_configured(handle.id())?;
        }
        Ok(handle)
    }

    fn refuse_if_configured(&self, id: &PluginId) -> Result<(), ErrorBody> {
        if self.around.config.plugins.get(id).is_none_or(|one| one.grant.is_none()) {
            return Ok(());
        }
        let message = format!("what {id} may do is decided by `plugins.{id}.grant` in palisade.toml");
        Err(ErrorBody::new(ErrorCode::InvalidParams, message)
            .with_hint("change it there, or take it out, and restart the daemon"))
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
        let ruling = self.policy.ruling(item, origin);
        if ruling.answer == Answer::Deny {
            let message = format!("{item} is denied by `{}` in palisade.toml", ruling.by);
            return Err(ErrorBody::new(ErrorCode::PermissionDenied, message)
                .with_hint("change it there, and restart the daemon"));
        }
        Ok(())
    }

    /// Takes in what was said, for the plugins that are made from now on, and writes it down. The inner error is that it was not: what
    /// was refused holds all the same, and what was granted does not.
    async fn say(
        &self,
        handle: &Handle,
        what: &str,
        words: Vec<(Item, Word)>,
        definitions: Definitions,
        digest: &str,
        who: &str,
    ) -> Result<Result<(), DatabaseError>, ErrorBody> {
        let (id, version) = (handle.id().clone(), handle.version().clone());
        let consent = &handle.blueprint().consent;
        let at_unix_ms = unix_ms(SystemTime::now());
        let said: Vec<_> = words
            .into_iter()
            .map(|(item, word)| Said {
                item,
                word,
                key: consent.signer.clone(),
                place: Origin { source: &consent.source, signer: None }.place().to_owned(),
                at_unix_ms,
                who: who.to_owned(),
                version: version.to_string(),
                digest: digest.to_owned(),
            })
            .collect();
        let mut known = lock(&self.consents).get(&id).cloned().unwrap_or_default();
        known.add(&said, &definitions.stated);
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
        let announced = definitions.announced.clone();
        let refuses = said.iter().all(|said| said.word == Word::Denied) && definitions.is_empty();
        let noted = run(move || database.consent(&said, &definitions, &entry)).await?;
        if noted.is_err() && !refuses {
            return Ok(noted);
        }
        lock(&self.consents).insert(id.clone(), known);
        if !announced.is_empty() {
            self.agreed(&id).add(&announced);
        }
        self.tell(EventKind::PermissionsChanged, &id, &version, Some(detail));
        Ok(noted)
    }

    /// Agrees to the actions of a plugin that is installed and of which there is no other version, as they are.
    pub(super) async fn agree_to_the_first(&self, found: Found, snapshot: Snapshot, who: &str) {
        let (id, version) = (&found.manifest.id.clone(), found.manifest.version.clone());
        let mut known = lock(&self.consents).get(id).cloned().unwrap_or_default();
        if !known.definitions.is_empty() {
            return;
        }
        let mut stated = match self.definitions_of(found, snapshot).await {
            Ok(stated) => stated,
            Err(error) => {
                tracing::error!(plugin = %id, error = %error.message, "how its actions are defined is not known");
                return;
            }
        };
        stated.push(installed_once());
        known.add(&[], &stated);
        let entry = self.entry("agree", who, id, &version, "its actions as they are".to_owned());
        let agreed = Definitions { stated, announced: Vec::new() };
        let database = self.database.clone();
        match run(move || database.consent(&[], &agreed, &entry)).await {
            Ok(Ok(())) => drop(lock(&self.consents).insert(id.clone(), known)),
            Ok(Err(error)) => tracing::error!(plugin = %id, %error, "how its actions are defined is not remembered"),
            Err(error) => {
                tracing::error!(plugin = %id, error = %error.message, "how its actions are defined is not remembered");
            }
        }
    }

    /// Where the database has forgotten who agreed to what, the actions of what is installed are agreed to as they are now: a loss must not
    /// take plugins away, and what is changed after it is asked about.
    pub(super) async fn agree_to_what_is_left(&self, registry: &Registry) {
        if *self.database.condition() == Condition::Good {
            return;
        }
        for handle in registry.all() {
            let found = found_of(handle);
            let Ok(snapshot) = handle.blueprint().snapshot() else { continue };
            if found.path == snapshot.path {
                self.agree_to_the_first(found, snapshot, OURSELVES).await;
            }
        }
    }

    /// Forgets all that was said of a plugin. The inner error is that this is not written down, and ends with the daemon.
    ///
    /// # Errors
    /// When there is no thread to be had for it.
    pub(super) async fn forget_consents(
        &self,
        id: &PluginId,
        version: &semver::Version,
        who: &str,
    ) -> Result<Result<(), DatabaseError>, ErrorBody> {
        let entry = self.entry("forget", who, id, version, "all that was granted".to_owned());
        let database = self.database.clone();
        let forgotten = run(move || database.forget_consents(&entry)).await?;
        lock(&self.consents).remove(id);
        self.agreed(id).forget();
        self.tell(EventKind::PermissionsChanged, id, version, Some("all that was said is forgotten".to_owned()));
        Ok(forgotten)
    }

    /// Takes in that the database has nothing any more of a plugin of which no version is there.
    pub(super) fn know_no_consents(&self, id: &PluginId) {
        lock(&self.consents).remove(id);
        if let Some(agreed) = lock(&self.agreed).remove(id) {
            agreed.forget();
        }
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

/// What a version was made from.
pub(super) fn found_of(handle: &Handle) -> Found {
    let blueprint = handle.blueprint();
    Found {
        manifest: blueprint.manifest.clone(),
        path: blueprint.source.clone(),
        warnings: blueprint.found_warnings.clone(),
        passed_over: blueprint.passed_over(),
    }
}

fn not_written(error: DatabaseError) -> ErrorBody {
    super::unwritten(&error)
}

/// The versions of a plugin that run.
fn running(registry: &Registry, id: &PluginId) -> BTreeSet<semver::Version> {
    let active = registry.versions(id).filter(|(_, handle)| handle.state() == PluginState::Active);
    active.map(|(version, _)| version.clone()).collect()
}

/// Stands among the definitions of a plugin whose actions were agreed to, whatever they are; no action has such a name.
fn installed_once() -> (String, String) {
    (String::new(), "installed".to_owned())
}

fn parsed(named: &[String]) -> Result<Vec<Item>, ErrorBody> {
    if ITEMS_MAX < named.len() {
        let message = format!("{} permissions are named; at most {ITEMS_MAX} can be at once", named.len());
        return Err(ErrorBody::new(ErrorCode::InvalidParams, message));
    }
    let parse = |text: &String| {
        Item::parse(text).map_err(|error| {
            let invalid = ErrorBody::new(ErrorCode::InvalidParams, format!("{}: {error}", quoted(text)));
            // Where only the scope is wrong, the error says how.
            if NAMES.iter().any(|name| text.starts_with(&format!("{name}:"))) {
                return invalid;
            }
            invalid.with_hint("write it as execute_code, file_read:/srv/data, network_access:api.example.com")
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

impl Consents {
    /// Takes in what was said, of each thing the last word.
    fn add(&mut self, said: &[Said], definitions: &[(String, String)]) {
        self.said.retain(|before| said.iter().all(|now| now.item != before.item));
        self.said.extend(said.iter().cloned());
        self.definitions.extend(definitions.iter().cloned());
    }
}
