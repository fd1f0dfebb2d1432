//! What every generation of one version of a plugin is made from: its manifest, its snapshot, and how this host runs it.

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use palisade_protocol::{Guarantee, GuaranteeState};

use crate::model::generation::{LaunchFailure, Outlook};
use crate::model::ids::Generation;
use crate::model::manifest::Manifest;
use crate::process::{Child, Launch, LauncherImage, Limit, Resource, SpawnError, Spec, UserMap, spawn};
use crate::sandbox::cgroup::Tree;
use crate::store::{EntryPoint, Program, Snapshot};

/// The descriptors that a plugin may open, unless its manifest says otherwise.
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
            guarantee("memory", Absent, later),
            guarantee("cpu", Absent, later),
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
}

impl Blueprint {
    /// Starts a process. Blocks for about as long as a small program takes to be executed.
    ///
    /// # Errors
    /// A sentence, and whether trying again can help.
    pub fn launch(&self, generation: Generation) -> Result<Child, LaunchFailure> {
        let snapshot = self.snapshot.as_ref().map_err(|error| lasting(error.clone()))?;
        let EntryPoint { file, path, program } = snapshot.entry_point(self.manifest.entry_point.as_str())?;
        let (arguments, interpreter) = arguments(&path, program)?;
        let data = self.host.data.join(self.manifest.id.as_str());
        std::fs::create_dir_all(&data).map_err(|error| {
            let message = format!("the data folder {} cannot be made: {error}", data.display());
            LaunchFailure { message, outlook: outlook(&error, Outlook::Passing) }
        })?;
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
            // Without its leaf the tree is still killed through its pid namespace.
            Some(tree) => tree
                .leaf(&format!("{}-{}-{generation}", self.manifest.id, self.manifest.version))
                .inspect_err(|error| tracing::warn!(plugin = %self.manifest.id, %generation, %error, "no cgroup"))
                .ok(),
            None => None,
        };
        let interpreter = interpreter.as_ref().map(AsFd::as_fd);
        spawn(&self.host.image, Launch { spec, entry: file.as_fd(), interpreter, leaf }).map_err(|error| {
            let message = error.to_string();
            let outlook = match error {
                SpawnError::Specification(_) => Outlook::Lasting,
                SpawnError::Resources { .. } => Outlook::Shortage,
                SpawnError::Launcher(error) => outlook(&error, Outlook::Passing),
            };
            LaunchFailure { message, outlook }
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
        let resources = &self.manifest.limits.resources;
        let both = |resource, value| Limit { resource, soft: Some(value), hard: Some(value) };
        let (_, most) = descriptor_limit();
        vec![both(Resource::Descriptors, resources.open_files.unwrap_or(OPEN_FILES).min(most)), both(Resource::Core, 0)]
    }
}

/// The daemon's own limit on descriptors: soft and hard.
#[must_use]
pub fn descriptor_limit() -> (u64, u64) {
    rlimit::Resource::NOFILE.get().unwrap_or((OPEN_FILES, OPEN_FILES))
}

/// What is executed and with which arguments: the program itself, or the interpreter of a script, as the kernel would.
fn arguments(path: &std::path::Path, program: Program) -> Result<(Vec<CString>, Option<OwnedFd>), LaunchFailure> {
    let path = c_string(path.as_os_str().as_encoded_bytes()).map_err(lasting)?;
    match program {
        Program::Elf => Ok((vec![path], None)),
        Program::Script { interpreter, argument } => {
            let file = File::open(&interpreter).map_err(|error| {
                let message = format!("the script's interpreter {interpreter} cannot be opened: {error}; install it, or correct the #! line");
                LaunchFailure { message, outlook: outlook(&error, Outlook::Lasting) }
            })?;
            let mut arguments = vec![c_string(interpreter).map_err(lasting)?];
            if let Some(argument) = argument {
                arguments.push(c_string(argument).map_err(lasting)?);
            }
            arguments.push(path);
            Ok((arguments, Some(file.into())))
        }
    }
}

fn lasting(message: String) -> LaunchFailure {
    LaunchFailure { message, outlook: Outlook::Lasting }
}

fn outlook(error: &std::io::Error, otherwise: Outlook) -> Outlook {
    error.raw_os_error().map_or(otherwise, |errno| Outlook::of_errno(errno, otherwise))
}

fn c_string(bytes: impl AsRef<[u8]>) -> Result<CString, String> {
    CString::new(bytes.as_ref())
        .map_err(|_| format!("{:?} has a NUL byte in it", String::from_utf8_lossy(bytes.as_ref())))
}
