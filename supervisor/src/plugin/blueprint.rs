//! What every generation of one version of a plugin is made from: its manifest, its snapshot, and how this host runs it.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use palisade_protocol::{Guarantee, GuaranteeState};

use crate::model::generation::LaunchFailure;
use crate::model::ids::Generation;
use crate::model::limits::Limits;
use crate::model::manifest::Manifest;
use crate::process::{Child, Launch, LauncherImage, Limit, Resource, SpawnError, Spec, UserMap, spawn};
use crate::sandbox::cgroup::{LeafLimits, Tree};
use crate::store::{EntryPoint, Program, Snapshot};

/// What is taken for the daemon's own limit on descriptors where it cannot be read.
const OPEN_FILES: u64 = 1024;

/// Plugins go before the daemon when memory is short.
const OOM_SCORE_ADJ: i16 = 500;

/// How this host runs plugins; the same for all of them.
#[derive(Debug)]
pub struct Host {
    /// The launcher's program.
    pub image: LauncherImage,
    /// The cgroups of this daemon, where there are any.
    pub cgroups: Option<Tree>,
    /// The id map of a user namespace, where one is needed for a pid namespace.
    pub user_map: Option<UserMap>,
    /// Where each plugin's private data lie.
    pub data: PathBuf,
}

impl Host {
    /// What confines every plugin of this daemon, for the plugin's own information.
    #[must_use]
    pub fn guarantees(&self) -> Vec<Guarantee> {
        let guarantee = |control: &str, state, evidence: &str| Guarantee {
            control: control.to_owned(),
            state,
            evidence: evidence.to_owned(),
        };
        use GuaranteeState::{Absent, Enforced};
        let user_namespace = match self.user_map {
            Some(_) => (Enforced, "made by the launcher, or the start fails"),
            None => (Absent, "not needed by root for a pid namespace"),
        };
        let cgroup = match self.cgroups {
            Some(_) => (Enforced, "born in a leaf cgroup of its own"),
            None => (Absent, "no writable cgroup2 on this host"),
        };
        let later = "not built yet";
        let uncontrolled = match &self.cgroups {
            Some(tree) => tree.controlled().err().map(ToString::to_string),
            None => Some(cgroup.1.to_owned()),
        };
        use GuaranteeState::Degraded;
        let [memory, pids, cpu] = match &uncontrolled {
            None => [
                (Enforced, "memory.max and memory.swap.max=0 of its leaf cgroup".to_owned()),
                (Enforced, "pids.max of its leaf cgroup".to_owned()),
                (Enforced, "cpu.max of its leaf cgroup".to_owned()),
            ],
            Some(why) => [
                (Degraded, format!("RLIMIT_DATA for each process, not for all together: {why}")),
                (Absent, why.clone()),
                (Absent, why.clone()),
            ],
        };
        vec![
            guarantee("pid_namespace", Enforced, "made by the launcher, or the start fails"),
            guarantee("kill_tree", Enforced, "the kernel ends a pid namespace with its pid 1"),
            guarantee("user_namespace", user_namespace.0, user_namespace.1),
            guarantee("cgroup", cgroup.0, cgroup.1),
            guarantee("open_files", Enforced, "RLIMIT_NOFILE, set by the launcher, or the start fails"),
            guarantee("private_root", Absent, later),
            guarantee("network_namespace", Absent, later),
            guarantee("seccomp", Absent, later),
            guarantee("landlock", Absent, later),
            guarantee("memory", memory.0, &memory.1),
            guarantee("pids", pids.0, &pids.1),
            guarantee("cpu", cpu.0, &cpu.1),
            guarantee("file_size", Enforced, "RLIMIT_FSIZE, set by the launcher, or the start fails"),
        ]
    }
}

/// What the generations of one plugin version have in common.
#[derive(Debug)]
pub struct Blueprint {
    /// What the package says.
    pub manifest: Manifest,
    /// Where the package was found.
    pub source: PathBuf,
    /// What was found odd in the manifest.
    pub warnings: Vec<String>,
    /// The copy that runs, or why there is none.
    pub snapshot: Result<Snapshot, String>,
    /// How this host runs it.
    pub host: Arc<Host>,
    /// The operator's configuration for it.
    pub configuration: serde_json::Value,
    /// How much it may have.
    pub limits: Limits,
}

impl Blueprint {
    /// Starts a process. Blocks for about as long as a small program takes to be executed.
    ///
    /// # Errors
    /// A sentence, and whether trying again can help.
    pub fn launch(&self, generation: Generation) -> Result<Child, LaunchFailure> {
        let lasting = |message: String| LaunchFailure { message, lasting: true };
        let snapshot = self.snapshot.as_ref().map_err(|error| lasting(error.clone()))?;
        let EntryPoint { file, path, program } =
            snapshot.entry_point(self.manifest.entry_point.as_str()).map_err(lasting)?;
        let (arguments, interpreter) = arguments(&path, program).map_err(lasting)?;
        let transient = |message: String| LaunchFailure { message, lasting: false };
        let data = self.host.data.join(self.manifest.id.as_str());
        std::fs::create_dir_all(&data)
            .map_err(|error| transient(format!("the data folder {} cannot be made: {error}", data.display())))?;
        let folder = c_string(data.into_os_string().into_encoded_bytes()).map_err(lasting)?;
        let spec = Spec {
            arguments,
            environment: self.environment(&folder).map_err(lasting)?,
            user_namespace: self.host.user_map,
            limits: self.limits(),
            oom_score_adj: OOM_SCORE_ADJ,
            ..Spec::new(folder)
        };
        let leaf = match &self.host.cgroups {
            Some(tree) => {
                let name = format!("{}-{}-{generation}", self.manifest.id, self.manifest.version);
                match tree.leaf(&name, Some(&self.leaf_limits())) {
                    Ok(leaf) => Some(leaf),
                    // Its limits would be gone with it.
                    Err(error) if tree.controlled().is_ok() => return Err(transient(error.to_string())),
                    // Without its leaf the tree is still killed through its pid namespace.
                    Err(error) => {
                        tracing::warn!(plugin = %self.manifest.id, %generation, %error, "no cgroup");
                        None
                    }
                }
            }
            None => None,
        };
        let interpreter = interpreter.as_ref().map(AsFd::as_fd);
        spawn(&self.host.image, Launch { spec, entry: file.as_fd(), interpreter, leaf }).map_err(|error| {
            let message = error.to_string();
            match error {
                SpawnError::Specification(_) => lasting(message),
                SpawnError::Resources { .. } | SpawnError::Launcher(_) => transient(message),
            }
        })
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
        for (name, value) in &self.manifest.environment {
            environment.push(c_string(format!("{name}={value}"))?);
        }
        Ok(environment)
    }

    fn limits(&self) -> Vec<Limit> {
        let decided = self.limits.decided();
        let both = |resource, value| Limit { resource, soft: Some(value), hard: Some(value) };
        let (_, most) = descriptor_limit();
        let mut limits = vec![
            both(Resource::Descriptors, decided.open_files.min(most)),
            both(Resource::FileSize, bytes(decided.file_size_mib)),
            both(Resource::Core, 0),
        ];
        if self.host.cgroups.as_ref().is_none_or(|tree| tree.controlled().is_err()) {
            // Not the address space, of which some runtimes reserve far more than they ever use.
            limits.push(both(Resource::Data, bytes(decided.memory_mib)));
        }
        limits
    }

    fn leaf_limits(&self) -> LeafLimits {
        let decided = self.limits.decided();
        LeafLimits {
            memory_bytes: bytes(decided.memory_mib),
            // pid 1 of the tree is not the plugin's.
            pids: decided.pids.saturating_add(1),
            cpu_percent: decided.cpu_percent,
        }
    }
}

fn bytes(mebibytes: u64) -> u64 {
    mebibytes.saturating_mul(1 << 20)
}

/// The daemon's own limit on descriptors: soft and hard.
#[must_use]
pub fn descriptor_limit() -> (u64, u64) {
    rlimit::Resource::NOFILE.get().unwrap_or((OPEN_FILES, OPEN_FILES))
}

/// What is executed and with which arguments: the program itself, or the interpreter of a script, as the kernel would.
fn arguments(path: &std::path::Path, program: Program) -> Result<(Vec<CString>, Option<OwnedFd>), String> {
    let path = c_string(path.as_os_str().as_encoded_bytes())?;
    match program {
        Program::Elf => Ok((vec![path], None)),
        Program::Script { interpreter, argument } => {
            let file = File::open(&interpreter).map_err(|error| {
                format!("the script's interpreter {interpreter} cannot be opened: {error}; install it, or correct the #! line")
            })?;
            let mut arguments = vec![c_string(interpreter)?];
            if let Some(argument) = argument {
                arguments.push(c_string(argument)?);
            }
            arguments.push(path);
            Ok((arguments, Some(file.into())))
        }
    }
}

fn c_string(bytes: impl AsRef<[u8]>) -> Result<CString, String> {
    CString::new(bytes.as_ref())
        .map_err(|_| format!("{:?} has a NUL byte in it", String::from_utf8_lossy(bytes.as_ref())))
}
