//! What every generation of one version of a plugin is made from: its manifest, its snapshot, and how this host runs it.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use super::refusals::Refusals;
use palisade_protocol::{ErrorCode, Guarantee, GuaranteeState};
use serde_json::{Value, json};

use super::actions::Actions;
use super::admission;
use super::announced::Announced;
use super::configuration::Configuration;
use super::gate::Gate;
use super::host_calls::HostCalls;
use super::needs::{self, Needs};
use super::network::{self, Network};

use super::sampler::Sampler;
use crate::blocking;
use crate::model::generation::{LaunchFailure, Outlook};
use crate::model::guarantee::Required;
use crate::model::ids::Generation;
use crate::model::ids::PluginId;
use crate::model::limits::{Allowance, Limits};
use crate::model::manifest::Manifest;
use crate::model::permission::consent::{Change, Consent, Decided, Decision};
use crate::model::permission::grants::Grants;
use crate::model::status::PassedOver;
use crate::process::quota::{self, QuotaError};
use crate::process::{Child, Launch, Launchers, NoLauncher, SpawnError, Spec, Stock, spawn};
use crate::sandbox::cgroup::{LeafError, Tree};
use crate::sandbox::evidence::{Facts, Observed, Users, without_a_process};
use crate::sandbox::granted::{self, Reserved};
use crate::sandbox::lend::{Lender, Lent};
use crate::sandbox::runtime::{Found as Runtime, Runtimes};
use crate::sandbox::seccomp::policy::Denials;
use crate::sandbox::spec::{self, Identity, Inside};
use crate::store::writers::{Root, written};
use crate::store::{self, EntryPoint, Program, Snapshot, Store};
use crate::trust::Rules;

/// What is taken for the daemon's own limit on descriptors where it cannot be read.
const OPEN_FILES: u64 = 1024;

/// So many files and folders a plugin may have: more cannot be counted in time.
pub(super) const DATA_FILES_MAX: u64 = 131_072;

/// So many of the things that wait for consent are named in a sentence; the list has them all.
const AWAITED_NAMED_MAX: usize = 64;

/// Plugins go before the daemon when memory is short.
const OOM_SCORE_ADJ: i16 = 500;

/// How this host runs plugins; the same for all of them.
#[derive(Debug)]
pub struct Host {
    /// Who starts launchers.
    pub launchers: Arc<Launchers>,
    /// Launchers that are made before they are needed.
    pub stock: Arc<Stock>,
    /// The cgroups of this daemon, where there are any.
    pub cgroups: Option<Tree>,
    /// What confines plugins here, and how that is known.
    pub facts: Facts,
    /// The users that are lent to plugins; none where plugins run as the daemon's own.
    pub lender: Option<Lender>,
    /// Where each plugin's private data lie.
    pub data: PathBuf,
    /// What is the daemon's own, of which no plugin is granted anything.
    pub reserved: Reserved,
    /// The interpreters that a manifest can name.
    pub runtimes: Runtimes,
    /// Who looks at what no controller holds.
    pub sampler: Arc<Sampler>,
    /// What is required of packages.
    pub rules: Rules,
}

/// What the generations of one plugin version have in common.
#[derive(Debug)]
pub struct Blueprint {
    /// What the package says.
    pub manifest: Manifest,
    /// Where the package was found.
    pub source: PathBuf,
    /// What was found odd in the package.
    pub found_warnings: Vec<String>,
    /// That, and what is odd about it here.
    pub warnings: Vec<String>,
    /// The copy that runs, or why there is none.
    pub snapshot: Mutex<Result<Snapshot, LaunchFailure>>,
    /// What lies in its folder instead, and is not used.
    pub passed_over: Mutex<Option<PassedOver>>,
    /// Whether this host could execute what is in it when that was looked at.
    pub executable: Result<(), LaunchFailure>,
    /// Where copies are made.
    pub store: Arc<Store>,
    /// How this host runs it.
    pub host: Arc<Host>,
    /// The operator's configuration for it.
    pub configuration: Configuration,
    /// How much it may have, by its manifest and the configuration.
    pub configured_limits: Limits,
    /// What an operator has said about that since.
    pub said_limits: Mutex<Allowance>,
    /// What the operator wants where this host cannot confine it as every start needs it.
    pub on_degraded: OnDegraded,
    /// Whether what it is refused is written down.
    pub trace_denials: bool,
    /// What it was refused, where that is written down.
    pub denials: Refusals,
    /// Controls without which it is not to be started.
    pub require: Vec<Required>,
    /// What was decided about what it asks for.
    pub consent: Consent,
    /// And whether the actions that it announces are those that were agreed to.
    pub announced: Announced,
    /// What it was granted of that.
    pub grants: Grants,
    /// Something of that was taken back: no process is to have it any more.
    pub withdrawn: AtomicBool,
    /// What it depends on, as far as it lacks it.
    pub needs: Needs,
    /// Who answers what it asks of the supervisor.
    pub host_calls: HostCalls,
    /// Where its starts wait while another package may take its place.
    pub gate: Gate,
    /// It is being tried, and tests itself when it starts.
    pub on_trial: AtomicBool,
    /// What serves its way out, which it has if hosts are granted.
    pub network: Network,
}

/// What becomes of a start that this host cannot confine as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDegraded {
    /// It is refused.
    Refuse,
    /// It is made with what there is, and the log says what is missing.
    Warn,
}

/// Whether there is a program in the package that this host can execute. Blocks.
///
/// # Errors
/// Why not.
pub fn executable(
    host: &Host,
    manifest: &Manifest,
    source: &Path,
    snapshot: &Result<Snapshot, LaunchFailure>,
) -> Result<(), LaunchFailure> {
    let snapshot = snapshot.as_ref().map_err(Clone::clone)?;
    // Where there is no copy yet, it is what would be copied.
    let package = if snapshot.is_presumed { source } else { &snapshot.path };
    let entry = manifest.entry_point.as_str();
    if let Some(name) = &manifest.runtime {
        let runtime = host.runtimes.named(name).map_err(lasting)?;
        store::script(package, entry)?;
        return open_runtime(manifest, runtime).map(drop);
    }
    let EntryPoint { path, program, .. } = store::entry_point(package, entry)?;
    arguments(&path, program).map(|_| ())
}

fn open_runtime(manifest: &Manifest, runtime: &Runtime) -> Result<OwnedFd, LaunchFailure> {
    let name = manifest.runtime.as_deref().unwrap_or_default();
    runtime.open().map_err(|why| lasting(format!("the runtime {name:?} cannot be used: {why}")))
}

/// Makes the folder of a plugin's data beforehand: to make one takes ten times as long as to find it, and the first start is waited for.
/// Where that fails, the start says so. Blocks.
pub fn make_data_folder(host: &Host, id: &PluginId) {
    let _ = spec::make_data_folder(&host.data.join(id.as_str()), Identity::Own);
}

impl Blueprint {
    /// The copy that runs, or why there is none.
    ///
    /// # Errors
    /// That.
    pub fn snapshot(&self) -> Result<Snapshot, LaunchFailure> {
        self.snapshot.lock().expect("nothing panics while it holds the snapshot").clone()
    }

    /// Has it run from this copy, which is of what was found.
    pub fn hold(&self, copy: Snapshot) {
        let mut snapshot = self.snapshot.lock().expect("nothing panics while it holds the snapshot");
        if snapshot.as_ref().is_ok_and(|now| now.digest == copy.digest) {
            *snapshot = Ok(copy);
        }
    }

    /// What lies in its folder instead, and is not used.
    #[must_use]
    pub fn passed_over(&self) -> Option<PassedOver> {
        self.passed_over.lock().expect("nothing panics while it holds this").clone()
    }

    /// Says that.
    pub fn pass_over(&self, passed_over: Option<PassedOver>) {
        *self.passed_over.lock().expect("nothing panics while it holds this") = passed_over;
    }

    /// How much it may have.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.configured_limits.changed(&self.said_limits.lock().expect("nothing panics while it holds them"))
    }

    /// Takes in what an operator says about that, and returns what was said before.
    pub(super) fn say_limits(&self, said: &Allowance) -> Allowance {
        let mut all = self.said_limits.lock().expect("nothing panics while it holds them");
        let before = *all;
        *all = before.and(said);
        before
    }

    /// Takes over what an operator said of the one before.
    pub(crate) fn take_over_limits(&self, before: &Self) {
        if std::ptr::eq(self, before) {
            return;
        }
        let said = *before.said_limits.lock().expect("nothing panics while it holds them");
        *self.said_limits.lock().expect("nothing panics while it holds them") = said;
    }

    /// Takes back what an operator said.
    pub(super) fn restore_limits(&self, before: Allowance) {
        *self.said_limits.lock().expect("nothing panics while it holds them") = before;
    }

    /// Where its private data lie.
    #[must_use]
    pub fn data_folder(&self) -> PathBuf {
        self.host.data.join(self.manifest.id.as_str())
    }

    /// The name of a process's cgroup.
    pub(super) fn leaf_name(&self, generation: Generation) -> String {
        format!("{}-{}-{generation}", self.manifest.id, self.manifest.version)
    }

    /// What executes its entry point, if the manifest names anything.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn runtime(&self) -> Result<Option<&Runtime>, String> {
        self.manifest.runtime.as_deref().map(|name| self.host.runtimes.named(name)).transpose()
    }

    /// Copies the package anew, as it may have been mended. Blocks. What its manifest says is read by a rescan, or the next daemon.
    pub fn look_again(&self) {
        let before = self.snapshot();
        if self.passed_over().is_some() && before.is_ok() {
            // What lies in its folder is another one.
            return;
        }
        let staged = staged(&self.store, &self.host.rules, (&self.source, &self.consent.source), &self.manifest);
        // There is one more than before, perhaps.
        let more = staged.is_ok() && staged != before;
        *self.snapshot.lock().expect("nothing panics while it holds the snapshot") = staged;
        drop(before);
        if more {
            self.store.sweep();
        }
    }

    /// The copy that runs, once this daemon has seen for itself that it is the package, and that it still is: what has changed since it
    /// was hashed is hashed again.
    async fn seen(&self) -> Result<Snapshot, LaunchFailure> {
        let snapshot = self.snapshot()?;
        let (store, host, before) = (self.store.clone(), self.host.clone(), snapshot.clone());
        let (source, origin, manifest) = (self.source.clone(), self.consent.source.clone(), self.manifest.clone());
        let look = move || {
            if !before.is_presumed
                && let Ok(same) = store.take(&before.digest)
            {
                return Ok(same);
            }
            let staged = staged(&store, &host.rules, (&source, &origin), &manifest);
            let is_what_was_found = staged.as_ref().is_ok_and(|staged| staged.digest == before.digest);
            if !is_what_was_found && Root::package(&source).is_some_and(|root| !written(&[root]).is_empty()) {
                // It may be half of another one. What settles takes the place of this one, and has the calls that wait.
                let message = "somebody writes into its folder".to_owned();
                return Err(LaunchFailure { message, outlook: Outlook::Passing, code: None });
            }
            staged
        };
        let seen = blocking::run(look).await.map_err(|error| {
            let message = format!("there is no thread to look at the package: {error}");
            LaunchFailure { message, outlook: Outlook::Shortage, code: None }
        })?;
        let seen = seen.and_then(|seen| {
            // What was granted was granted to what was found then.
            if seen.digest != snapshot.digest && !self.consent.verdict.items.is_empty() {
                return Err(lasting(
                    "the package is not the one that was found and asked about; `palisade rescan` looks again"
                        .to_owned(),
                ));
            }
            Ok(seen)
        });
        // What the daemon is short of says nothing of the package.
        if !matches!(&seen, Err(failure) if failure.outlook != Outlook::Lasting) {
            self.snapshot.lock().expect("nothing panics while it holds the snapshot").clone_from(&seen);
        }
        seen
    }

    /// Starts a process. Blocks for about as long as a small program takes to be executed. Whoever has the child holds the snapshot
    /// that it runs from.
    ///
    /// # Errors
    /// A sentence, and whether trying again can help.
    pub async fn launch(&self, generation: Generation) -> Result<(Child, Snapshot), LaunchFailure> {
        self.accept_consent()?;
        self.accept_what_there_is()?;
        self.accept_the_host()?;
        let snapshot = self.seen().await?;
        // First of all: many starts may wait for their launchers at once, and none is to keep much meanwhile.
        let waiting = self.host.launchers.attend(self.host.stock.take()).await;
        let waiting = waiting.map_err(|error| not_spawned(error.into()))?;
        let entry = self.manifest.entry_point.as_str();
        let runtime = self.runtime().map_err(lasting)?;
        let (file, path, executed) = match runtime {
            Some(runtime) => {
                let (path, file) = snapshot.script(entry)?;
                (file, path, Execution::Runtime(runtime, open_runtime(&self.manifest, runtime)?))
            }
            None => {
                let EntryPoint { file, path, program } = snapshot.entry_point(entry)?;
                (file, path, Execution::Itself(program))
            }
        };
        let binds = runtime.map(Runtime::binds).unwrap_or_default();
        let places = granted::places(&self.grants, binds, &self.host.reserved).map_err(lasting)?;
        let offer = &self.host.facts.offer;
        let lent = self.host.lender.as_ref().and_then(Lender::lend);
        let identity = self.host.facts.users.identity(lent.as_ref().map(Lent::uid)).ok_or_else(|| {
            let message = "every user number that may be lent is; widen `lent_uids` in palisade.toml".to_owned();
            LaunchFailure { message, outlook: Outlook::Shortage, code: None }
        })?;
        let data = self.data_folder();
        spec::make_data_folder(&data, identity).map_err(|error| {
            let message = format!("the data folder {} cannot be made: {error}", data.display());
            LaunchFailure { message, outlook: outlook(&error, Outlook::Passing), code: None }
        })?;
        // As the plugin sees them, which is as the host does only where there is no private root.
        let (path, folder) = if offer.private_root {
            (spec::inside_package(entry), c_string(spec::DATA))
        } else {
            (path, c_string(data.as_os_str().as_encoded_bytes()))
        };
        let folder = folder.map_err(lasting)?;
        let Executed { arguments, interpreter } = match executed {
            Execution::Itself(program) => arguments(&path, program)?,
            Execution::Runtime(runtime, file) => {
                let exec = runtime.exec();
                let named = [exec.as_str().as_bytes(), path.as_os_str().as_encoded_bytes()];
                Executed {
                    arguments: named.map(c_string).into_iter().collect::<Result<_, _>>().map_err(lasting)?,
                    interpreter: Some((exec.as_path().to_owned(), file)),
                }
            }
        };
        let mut arguments = arguments;
        for argument in &self.manifest.args {
            arguments.push(c_string(argument).map_err(lasting)?);
        }
        let decided = self.limits().decided();
        let mut spec = Spec {
            arguments,
            environment: self.environment(&folder).map_err(lasting)?,
            limits: spec::limits(&decided, offer, descriptor_limit().1),
            oom_score_adj: OOM_SCORE_ADJ,
            ..Spec::new(folder)
        };
        let inside = Inside {
            identity,
            hostname: hostname(self.manifest.id.as_str()),
            package: &snapshot.path,
            data: &data,
            entry: Some(entry),
            interpreter: interpreter.as_ref().map(|(path, _)| path.as_path()),
            denials: if self.trace_denials { Denials::Traced } else { Denials::Answered },
            grants: &self.grants,
            places: &places,
        };
        spec::confine(&mut spec, offer, &inside);
        let leaf = match &self.host.cgroups {
            Some(tree) => {
                match tree.leaf(&self.leaf_name(generation), Some(&spec::leaf_limits(&decided))) {
                    Ok(leaf) => Some(leaf),
                    // Its limits would be gone with it.
                    Err(error) if tree.controlled().is_ok() => {
                        let outlook = match &error {
                            LeafError::Refused { source, .. } => outlook(source, Outlook::Passing),
                            LeafError::Name(_) => Outlook::Lasting,
                        };
                        // A host that is short of something for a while confines as well as ever.
                        let (code, short) = match outlook {
                            Outlook::Shortage => (None, "; the daemon is short of descriptors, memory or processes"),
                            Outlook::Passing | Outlook::Lasting => (Some(ErrorCode::SandboxUnavailable), ""),
                        };
                        return Err(LaunchFailure { message: format!("{error}{short}"), outlook, code });
                    }
                    Err(error) if self.on_degraded == OnDegraded::Refuse && self.requires("cgroup") => {
                        let message = format!("cgroup: it is required, and there is none: {error}");
                        return Err(LaunchFailure {
                            message,
                            outlook: Outlook::Passing,
                            code: Some(ErrorCode::SandboxUnavailable),
                        });
                    }
                    // Without its leaf the tree is still killed through its pid namespace.
                    Err(error) => {
                        tracing::warn!(plugin = %self.manifest.id, %generation, %error, "no cgroup");
                        None
                    }
                }
            }
            None => None,
        };
        let interpreter = interpreter.as_ref().map(|(_, file)| file.as_fd());
        let launch = Launch { spec, entry: file.as_fd(), interpreter, leaf, lent };
        spawn(waiting, launch).map(|child| (child, snapshot)).map_err(not_spawned)
    }

    /// Exactly what the plugin sees; nothing of the daemon's own environment.
    fn environment(&self, home: &CString) -> Result<Vec<CString>, String> {
        let mut environment = vec![
            c"PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
            c"TMPDIR=/tmp".to_owned(),
            c"LANG=C.UTF-8".to_owned(),
            c"TZ=UTC".to_owned(),
        ];
        environment.push(c_string([b"HOME=", home.to_bytes()].concat())?);
        environment.push(c_string(format!("PALISADE_PLUGIN={}", self.manifest.id))?);
        environment.push(c_string(format!("PALISADE_VERSION={}", self.manifest.version))?);
        let proxy = network::variables(spec::proxy_port(&self.host.facts.offer, &self.grants));
        for (name, value) in &proxy {
            environment.push(c_string(format!("{name}={value}"))?);
        }
        for (name, value) in &self.manifest.environment {
            // Of two with the same name programs take the one or the other.
            if proxy.iter().any(|(proxy, _)| proxy == name) {
                continue;
            }
            environment.push(c_string(format!("{name}={value}"))?);
        }
        Ok(environment)
    }

    /// Has the kernel hold the plugin to its share of the disk, where it can. Blocks.
    ///
    /// # Errors
    /// Why it does not, although it can.
    pub(super) fn hold_to_disk(&self) -> Result<(), LaunchFailure> {
        let facts = &self.host.facts;
        if !facts.quotas {
            return Ok(());
        }
        let failed = |error: QuotaError| {
            let outlook = match &error {
                QuotaError::Refused(_) => Outlook::Lasting,
                QuotaError::Unasked(error) => outlook(error, Outlook::Passing),
            };
            LaunchFailure { message: format!("disk: {error}"), outlook, code: Some(ErrorCode::SandboxUnavailable) }
        };
        let data = self.data_folder();
        // Whose it is, is seen to by each start.
        spec::make_data_folder(&data, Identity::Own).map_err(|error| failed(error.into()))?;
        quota::hold(self.host.launchers.image(), &data, self.disk_kib(), DATA_FILES_MAX).map(drop).map_err(failed)
    }

    fn disk_kib(&self) -> u64 {
        self.limits().disk_mib.value.saturating_mul(1024)
    }

    /// What the kernel says of the running plugin. Blocks.
    #[must_use]
    pub fn observe(&self, process: u32) -> Observed {
        let wanted = spec::processes(self.limits().pids.value);
        let mut observed = Observed::of(process).with_processes(process, wanted);
        if let Some(leaf) = self.leaf_of(process) {
            observed = observed.with_cgroup(&leaf);
        }
        if !self.host.facts.quotas {
            return observed;
        }
        let mib = self.limits().disk_mib.value;
        observed.with_quota(match quota::read(self.host.launchers.image(), &self.data_folder()) {
            Ok(kept) if kept.kib != 0 && kept.kib <= self.disk_kib() && kept.files != 0 => Ok(format!(
                "project {} may have {} KiB and {} files, and has {} KiB and {}",
                kept.project,
                kept.kib,
                kept.files,
                kept.used_bytes.div_ceil(1024),
                kept.used_files
            )),
            Ok(kept) => Err(format!("the quota of its data folder is {} KiB and not {mib} MiB", kept.kib)),
            Err(error) => Err(error.to_string()),
        })
    }

    /// The leaf that this process is in, as the kernel names it.
    fn leaf_of(&self, process: u32) -> Option<PathBuf> {
        let text = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
        let named = Path::new(text.lines().find_map(|line| line.strip_prefix("0::"))?).file_name()?;
        let leaves = self.host.sampler.trees_of(self).into_iter().filter_map(|tree| tree.leaf);
        leaves.into_iter().find(|leaf| leaf.file_name() == Some(named))
    }

    /// What confines this plugin. `observed` is what the kernel says of it, while it runs.
    #[must_use]
    pub fn guarantees(&self, observed: Option<&Observed>) -> Vec<Guarantee> {
        let mut guarantees = self.host.facts.guarantees(&self.grants, observed);
        for guarantee in &mut guarantees {
            guarantee.required = self.require.iter().any(|required| required.control.as_str() == guarantee.control);
        }
        guarantees
    }

    /// The same while no process runs: what a start is held to, without claiming that one has taken its steps.
    #[must_use]
    pub fn intended_guarantees(&self, has_run: bool) -> Vec<Guarantee> {
        let why = if has_run { "not running now" } else { "not started yet" };
        self.guarantees(None).into_iter().map(|guarantee| without_a_process(guarantee, why)).collect()
    }

    /// What this host lacks of that which every start needs, or is required of this plugin: a sentence for each control.
    #[must_use]
    pub fn shortfalls(&self) -> Vec<String> {
        let mut missing = self.host.facts.missing();
        if self.require.is_empty() {
            return missing;
        }
        let guarantees = self.guarantees(None);
        for Required { control, by } in &self.require {
            let found = guarantees.iter().find(|guarantee| guarantee.control == control.as_str());
            let (state, reason) = match found {
                Some(Guarantee { state: GuaranteeState::Enforced, .. }) => continue,
                Some(Guarantee { state, reason, .. }) => (*state, reason.as_str()),
                None => (GuaranteeState::Absent, "this version of palisaded has no such control"),
            };
            // What every start needs has been named already.
            if !missing.iter().any(|sentence| sentence.starts_with(&format!("{control}: "))) {
                missing.push(format!("{control}: {by} requires it, and it is {}: {reason}", state.as_str()));
            }
        }
        missing
    }

    fn requires(&self, control: &str) -> bool {
        self.require.iter().any(|required| required.control.as_str() == control)
    }

    /// Without these a plugin of root's would be the host's root, or could not reach its data: that is never borne.
    fn needs_root_confined(&self) -> bool {
        let facts = &self.host.facts;
        facts.users != Users::Own && !(facts.offer.user_namespaces && facts.offer.private_root)
    }

    /// Whether the operator bears with less than there should be, and that can be borne.
    fn bears_less(&self) -> bool {
        self.on_degraded == OnDegraded::Warn && !self.needs_root_confined()
    }

    /// What it runs without, where the operator bears that.
    #[must_use]
    pub fn degraded(&self) -> Vec<String> {
        if self.bears_less() { self.shortfalls() } else { Vec::new() }
    }

    /// The configuration that a process gets which is started now.
    ///
    /// # Errors
    /// What of it does not fit.
    pub fn configured(&self) -> Result<Arc<Value>, LaunchFailure> {
        self.configuration.now(&self.manifest).map_err(|unfit| LaunchFailure {
            message: not_to_be_had(&unfit.to_string()),
            outlook: Outlook::Lasting,
            code: Some(ErrorCode::ConfigurationInvalid),
        })
    }

    /// Why no process can have its configuration, if none can.
    #[must_use]
    pub fn misconfigured(&self) -> Option<String> {
        self.configuration.unfit(&self.manifest).map(|unfit| not_to_be_had(&unfit))
    }

    /// Whether nothing has to be said about what it asks for.
    fn accept_consent(&self) -> Result<(), LaunchFailure> {
        if self.is_withdrawn() {
            return Err(LaunchFailure {
                message: "something was taken back of what it may do; it is made anew without".to_owned(),
                outlook: Outlook::Passing,
                code: Some(ErrorCode::Unavailable),
            });
        }
        if !self.is_awaiting_consent() {
            return Ok(());
        }
        Err(LaunchFailure { message: self.awaits(), outlook: Outlook::Lasting, code: Some(ErrorCode::ConsentRequired) })
    }

    /// Whether there is anything about which an operator has to say something.
    #[must_use]
    pub fn is_awaiting_consent(&self) -> bool {
        self.consent.is_awaited() || self.announced.is_awaited()
    }

    /// Lets no more process be started with what it was granted.
    pub fn withdraw(&self) {
        self.withdrawn.store(true, Ordering::Relaxed);
    }

    /// Whether none is.
    #[must_use]
    pub fn is_withdrawn(&self) -> bool {
        self.withdrawn.load(Ordering::Relaxed)
    }

    /// Whether there is what it depends on.
    fn accept_what_there_is(&self) -> Result<(), LaunchFailure> {
        let Some(lacking) = self.lacking() else { return Ok(()) };
        let message = needs::message(&self.manifest, &lacking);
        // It is nothing that the plugin has done, and may be over the next time.
        Err(LaunchFailure { message, outlook: Outlook::Shortage, code: Some(ErrorCode::DependencyUnavailable) })
    }

    /// What it depends on and cannot have, a sentence.
    #[must_use]
    pub fn lacking(&self) -> Option<String> {
        self.needs.lacking(&self.manifest)
    }

    /// What an operator has to say something about, a sentence.
    #[must_use]
    pub fn awaits(&self) -> String {
        let Manifest { id, version, .. } = &self.manifest;
        let mut awaited = self.consent.awaited();
        awaited.extend(self.announced.changes().iter().map(|(action, change)| change.of(action)));
        let more = awaited.len().saturating_sub(AWAITED_NAMED_MAX);
        awaited.truncate(AWAITED_NAMED_MAX);
        let more = if more == 0 { String::new() } else { format!(" and {more} more") };
        format!("{id} {version} waits for its operator's consent to {}{more}", awaited.join(", "))
    }

    /// The same for programs: what is asked about, by the names that it has where permissions are shown.
    #[must_use]
    pub fn asked(&self) -> Value {
        let Manifest { id, version, .. } = &self.manifest;
        let items: Vec<_> = self.consent.verdict.items.iter().filter(|one| one.decision == Decision::Asked).collect();
        let mut changes = self.consent.changed.clone();
        changes.extend(self.announced.changes());
        let permission = |one: &&Decided| match &one.reason {
            Some(reason) => json!({ "permission": one.item.to_string(), "reason": reason }),
            None => json!({ "permission": one.item.to_string() }),
        };
        let named = AWAITED_NAMED_MAX;
        let definition = |(action, change): &(String, Change)| json!({ "action": action, "change": change });
        let mut asked = json!({
            "plugin": id.as_str(),
            "version": version.to_string(),
            "permissions": items.iter().take(named).map(permission).collect::<Vec<_>>(),
            "definitions": changes.iter().take(named).map(definition).collect::<Vec<_>>(),
        });
        let more = items.len().saturating_sub(named) + changes.len().saturating_sub(named);
        if 0 < more {
            asked["more"] = json!(more);
        }
        if let Ok(snapshot) = self.snapshot() {
            asked["digest"] = json!(snapshot.digest);
        }
        asked
    }

    /// Holds the actions of a process that is ready against those that were agreed to.
    ///
    /// # Errors
    /// The sentence that says what an operator has to agree to.
    pub(super) fn accept_announced(&self, actions: &Actions) -> Result<(), String> {
        if self.announced.accept(actions, &self.manifest, &self.consent.definitions) {
            Ok(())
        } else {
            // It takes no calls from now on, so it is nothing to depend on.
            self.needs.tell_others();
            Err(self.awaits())
        }
    }

    /// Whether this host has what every start needs, or the operator bears with less.
    fn accept_the_host(&self) -> Result<(), LaunchFailure> {
        let missing = self.shortfalls();
        if missing.is_empty() {
            return Ok(());
        }
        let id = &self.manifest.id;
        let missing = missing.join("; ");
        let root = self.needs_root_confined();
        if !self.bears_less() {
            let unrequired = if self.require.is_empty() { "" } else { ", or require less" };
            let degraded = if root { "" } else { ", or set on_degraded = \"warn\" for it in palisade.toml" };
            let hint = format!("{unrequired}{degraded}");
            let message = format!("this host cannot confine it: {missing}; see `palisade doctor`{hint}");
            return Err(LaunchFailure {
                message,
                outlook: Outlook::Lasting,
                code: Some(ErrorCode::SandboxUnavailable),
            });
        }
        tracing::warn!(plugin = %id, %missing, "the plugin is confined less than it should be, as configured");
        Ok(())
    }
}

fn not_to_be_had(unfit: &str) -> String {
    format!("its configuration is not as its plugin.json has it: {unfit}")
}

/// The copy of the package that lies there; of an installed one, which is a copy itself, that one, if it is what it was. Blocks.
fn staged(
    store: &Store,
    rules: &Rules,
    (source, origin): (&Path, &Path),
    manifest: &Manifest,
) -> Result<Snapshot, LaunchFailure> {
    let admitted = match store.has_made(source) {
        // It stays what was installed, and is judged by where that came from.
        true => admission::readmit(store, rules, source, origin, manifest),
        false => admission::admit(store, rules, source, manifest),
    };
    admitted.map(|admitted| admitted.snapshot)
}

/// A plugin's id as a host's name, which the kernel wants no longer than this.
fn hostname(id: &str) -> &str {
    const BYTES_MAX: usize = 64;
    id.get(..BYTES_MAX).unwrap_or(id)
}

/// The daemon's own limit on descriptors: soft and hard.
#[must_use]
pub fn descriptor_limit() -> (u64, u64) {
    rlimit::Resource::NOFILE.get().unwrap_or((OPEN_FILES, OPEN_FILES))
}

/// What is executed.
struct Executed {
    /// The argument vector.
    arguments: Vec<CString>,
    /// The interpreter of a script by its path on the host, and the file that was found there.
    interpreter: Option<(PathBuf, OwnedFd)>,
}

/// By what an entry point is executed.
enum Execution<'a> {
    /// By the kernel, as what it is.
    Itself(Program),
    /// By a configured runtime.
    Runtime(&'a Runtime, OwnedFd),
}

/// What is executed and with which arguments: the program itself, or the interpreter of a script, as the kernel would.
fn arguments(path: &Path, program: Program) -> Result<Executed, LaunchFailure> {
    let path = c_string(path.as_os_str().as_encoded_bytes()).map_err(lasting)?;
    match program {
        Program::Elf => Ok(Executed { arguments: vec![path], interpreter: None }),
        Program::Script { interpreter, argument } => {
            let file = File::open(&interpreter).map_err(|error| {
                let message = format!("the script's interpreter {interpreter} cannot be opened: {error}; install it, or correct the #! line");
                LaunchFailure { message, outlook: outlook(&error, Outlook::Lasting), code: None }
            })?;
            let mut arguments = vec![c_string(&interpreter).map_err(lasting)?];
            if let Some(argument) = argument {
                arguments.push(c_string(argument).map_err(lasting)?);
            }
            arguments.push(path);
            Ok(Executed { arguments, interpreter: Some((interpreter.into(), file.into())) })
        }
    }
}

fn not_spawned(error: SpawnError) -> LaunchFailure {
    let outlook = match &error {
        SpawnError::Specification(_) => Outlook::Lasting,
        SpawnError::Resources { .. } => Outlook::Shortage,
        SpawnError::Launcher(NoLauncher::Refused(error) | NoLauncher::NotExecuted(error)) => {
            outlook(error, Outlook::Passing)
        }
        SpawnError::Launcher(NoLauncher::Lost(_)) => Outlook::Passing,
    };
    LaunchFailure { message: error.to_string(), outlook, code: None }
}

fn lasting(message: String) -> LaunchFailure {
    LaunchFailure { message, outlook: Outlook::Lasting, code: None }
}

fn outlook(error: &std::io::Error, otherwise: Outlook) -> Outlook {
    error.raw_os_error().map_or(otherwise, |errno| Outlook::of_errno(errno, otherwise))
}

fn c_string(bytes: impl AsRef<[u8]>) -> Result<CString, String> {
    CString::new(bytes.as_ref())
        .map_err(|_| format!("{:?} has a NUL byte in it", String::from_utf8_lossy(bytes.as_ref())))
}
