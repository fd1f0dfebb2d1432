//! What of a package has to be read before there is a plugin of it: who vouches for it, how its actions are defined, from where it was
//! installed; and what has to lie on the disk for its first start.
//!
//! That is done once for each plugin that is made, on a thread that may block, as a manifest may be long, a signature takes time, and the folder
//! may lie on a file system that does not answer. Whatever an operator says later is decided by what was read then.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use palisade_protocol::ErrorBody;
use rustix::fs::OFlags;
use serde_json::Value;

use super::{Packages, lock, record, run};
use crate::model::generation::LaunchFailure;
use crate::model::ids::PluginId;
use crate::model::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::model::permission::consent::{Consent, Definitions};
use crate::model::trust::KeyName;
use crate::plugin::blueprint::{self, Host};
use crate::plugin::numbers::{Numbers, Reserve};
use crate::registry::Found;
use crate::store::{Snapshot, Store};
use crate::trust::{Candidate, Rules, canonical};

/// A package and its snapshot, or why there is none.
pub(super) type Staged = (Found, Result<Snapshot, LaunchFailure>);

/// A package of which a plugin can be made.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub found: Found,
    pub snapshot: Result<Snapshot, LaunchFailure>,
    /// Whether this host can execute what is in it.
    pub executable: Result<(), LaunchFailure>,
    pub evidence: Evidence,
    pub numbers: Arc<Numbers>,
}

/// What is known of a package, for whoever decides what it may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Evidence {
    pub is_installed: bool,
    /// The folder that it lies in, or that it was installed from.
    pub source: PathBuf,
    /// Whose good signature it has.
    pub signer: Option<KeyName>,
    /// Each action with the digest of its definition, where an operator is asked about them.
    pub definitions: Vec<(String, String)>,
}

impl Evidence {
    /// That on which was decided before.
    pub(super) fn of(consent: &Consent) -> Self {
        Self {
            is_installed: consent.is_installed,
            source: consent.source.clone(),
            signer: consent.signer.clone(),
            definitions: consent.definitions.clone(),
        }
    }

    /// Blocks.
    fn read(
        found: &Found,
        snapshot: Option<&Snapshot>,
        installed_from: Option<PathBuf>,
        wanted: Option<Definitions>,
        rules: &Rules,
    ) -> Self {
        let manifest = &found.manifest;
        let is_installed = installed_from.is_some();
        // Where it was installed from was looked up then. What is found in a plugin directory belongs to it, wherever a link leads.
        let source = installed_from.unwrap_or_else(|| match (found.path.parent(), found.path.file_name()) {
            (Some(parent), Some(name)) => real(parent).join(name),
            _ => found.path.clone(),
        });
        let asks = asks(wanted, is_installed);
        let wants_bytes = manifest.signature.is_some() || (asks && !manifest.actions.is_empty());
        let bytes = snapshot.filter(|_| wants_bytes).and_then(|snapshot| manifest_bytes(found, snapshot));
        let signer = snapshot.zip(bytes.as_deref()).and_then(|(snapshot, bytes)| {
            let candidate = Candidate { manifest, bytes, checksum: &snapshot.checksum };
            rules.signer(candidate, SystemTime::now())
        });
        let definitions = if asks { bytes.as_deref().map(definitions).unwrap_or_default() } else { Vec::new() };
        Self { is_installed, source, signer, definitions }
    }
}

/// All that is needed to prepare packages.
struct Bench {
    store: Arc<Store>,
    host: Arc<Host>,
    reserve: Arc<Reserve>,
    records: PathBuf,
    wanted: Option<Definitions>,
    numbers: HashMap<PluginId, Arc<Numbers>>,
}

impl Bench {
    /// Blocks.
    fn prepare(&mut self, (found, snapshot): Staged, installed_from: Option<PathBuf>) -> Prepared {
        let Self { store, host, reserve, records, wanted, numbers } = self;
        let Manifest { id, version, .. } = &found.manifest;
        let recorded = || record::source_of(&record::path(records, id, version));
        let installed_from = installed_from.or_else(|| store.has_made(&found.path).then(recorded).flatten());
        let numbers =
            numbers.entry(id.clone()).or_insert_with(|| Arc::new(Numbers::open(reserve, id.as_str()))).clone();
        blueprint::make_data_folder(host, id);
        let executable = blueprint::executable(host, &found.manifest, &found.path, &snapshot);
        let evidence = Evidence::read(&found, snapshot.as_ref().ok(), installed_from, *wanted, &host.rules);
        Prepared { found, snapshot, executable, evidence, numbers }
    }
}

impl Packages {
    /// Reads what has to be known of these, and makes what has to be there.
    ///
    /// # Errors
    /// `resource_exhausted` where there is no thread for it.
    pub(super) async fn prepare(&self, staged: Vec<Staged>) -> Result<Vec<Prepared>, ErrorBody> {
        if staged.is_empty() {
            return Ok(Vec::new());
        }
        let mut bench = self.bench();
        let prepared = run(move || staged.into_iter().map(|one| bench.prepare(one, None)).collect::<Vec<_>>()).await?;
        Ok(prepared.into_iter().map(|one| self.with_shared_numbers(one)).collect())
    }

    /// The same of one; it may be that it was installed from there, and that this is not written down yet.
    pub(super) async fn prepare_one(&self, staged: Staged, from: Option<PathBuf>) -> Result<Prepared, ErrorBody> {
        let mut bench = self.bench();
        let prepared = run(move || bench.prepare(staged, from)).await?;
        Ok(self.with_shared_numbers(prepared))
    }

    fn bench(&self) -> Bench {
        Bench {
            store: self.around.store.clone(),
            host: self.around.host.clone(),
            reserve: self.reserve.clone(),
            records: self.records.clone(),
            wanted: self.policy.definitions,
            numbers: lock(&self.numbers).clone(),
        }
    }

    /// All versions of an id have the same, whoever was the first to look.
    fn with_shared_numbers(&self, mut prepared: Prepared) -> Prepared {
        let id = prepared.found.manifest.id.clone();
        prepared.numbers = lock(&self.numbers).entry(id).or_insert(prepared.numbers).clone();
        prepared
    }

    /// The digests of a package's actions as they are defined.
    ///
    /// # Errors
    /// `resource_exhausted` where there is no thread to read with.
    pub(super) async fn definitions_of(
        &self,
        found: Found,
        snapshot: Snapshot,
    ) -> Result<Vec<(String, String)>, ErrorBody> {
        run(move || manifest_bytes(&found, &snapshot).as_deref().map(definitions).unwrap_or_default()).await
    }
}

/// Whether an operator is asked about actions that are new or defined otherwise.
pub(super) fn asks(wanted: Option<Definitions>, is_installed: bool) -> bool {
    wanted.map_or(is_installed, |definitions| definitions == Definitions::Ask)
}

/// Where a path leads, or itself.
pub(super) fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

/// The bytes that the manifest was read from: in the snapshot, or where none is made yet, in what it will be made from.
fn manifest_bytes(found: &Found, snapshot: &Snapshot) -> Option<Vec<u8>> {
    let folder = if snapshot.is_presumed { &found.path } else { &snapshot.path };
    let mut bytes = Vec::new();
    // It may be something else by now, which is not followed and not waited for.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(folder.join("plugin.json")).ok()?;
    file.take(MANIFEST_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
    // Another one by now says nothing of this one. A snapshot stays what it was.
    let is_same = || Manifest::parse(&bytes).is_ok_and(|(read, _)| read == found.manifest);
    (!snapshot.is_presumed || is_same()).then_some(bytes)
}

/// Each action of a manifest by its name, with the digest of what agents are told of it. How long it may take and how often it may run
/// at once is no part of that.
fn definitions(manifest: &[u8]) -> Vec<(String, String)> {
    let Ok(Value::Object(mut manifest)) = palisade_protocol::parse_json(manifest) else { return Vec::new() };
    let Some(Value::Array(actions)) = manifest.remove("actions") else { return Vec::new() };
    let definition = |action: Value| {
        let Value::Object(mut action) = action else { return None };
        for operational in ["timeout_seconds", "concurrency"] {
            action.remove(operational);
        }
        let name = action.get("name")?.as_str()?.to_owned();
        Some((name, canonical::digest_of(&Value::Object(action))))
    };
    actions.into_iter().filter_map(definition).collect()
}
