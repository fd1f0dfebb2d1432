//! The daemon's configuration: where things are, and what the operator wants of plugins.
//!
//! Everything has a default, so that an ordinary user needs none. An unknown key is an error that names its line. What is given on
//! the command line goes before the file; a relative path in the file is relative to the file, one on the command line to the
//! folder in which the daemon was started. Every path that leaves this module is absolute: processes that are started from them
//! stand elsewhere.

mod checks;
pub mod egress;
mod permissions;
pub mod reload;
mod trust;

use std::collections::BTreeMap;
use std::env;
use std::io::{self, Read};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::model::check::Checks;
use crate::model::guarantee::Control;
use crate::model::ids::PluginId;
use crate::model::limits::{Allowance, PREPARED_LAUNCHERS_MAX};
use crate::model::permission::consent::Policy as Permissions;
use crate::model::permission::grants::Grants;
use crate::model::runtime::Runtime;
use crate::model::settle::QUIET_BOUNDS;
use crate::model::specifier::Specifier;
use crate::model::trust::Settings as Trust;
use crate::model::updates::Policy as UpdatePolicy;
use crate::vault::Place;

/// The user numbers that are lent to plugins unless the operator says otherwise: a part of what systemd calls unused, far
/// from people, services and containers.
const LENT_UIDS: RangeInclusive<u32> = 1_900_000_000..=1_900_004_095;

/// What is kept free unless the operator says otherwise.
const DISK_RESERVE_MIB: u64 = 256;

/// The credential that is the key of state and secrets.
const CREDENTIAL: &str = "palisade-state-key";

/// Largest configuration file.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Whether the daemon serves the system or one user. The paths follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Root, `/etc`, `/var/lib`, `/run`.
    System,
    /// An ordinary user, XDG folders.
    User,
}

/// Where everything is and what is wanted, decided.
#[derive(Debug, Clone)]
pub struct Config {
    /// System or user.
    pub mode: Mode,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    /// Where packages are looked for, in order of precedence.
    pub plugin_directories: Vec<PathBuf>,
    /// Of the usual ones, those that are there and cannot be used.
    pub unusable_directories: Vec<Unusable>,
    /// Snapshots, data of plugins.
    pub state_directory: PathBuf,
    /// What lives as long as the daemon runs.
    pub runtime_directory: PathBuf,
    /// The agent socket.
    pub socket: PathBuf,
    /// Users who may call besides root and the daemon's own.
    pub allowed_uids: Vec<u32>,
    /// Users who may stop, pause and restart besides root and the daemon's own. They still have to be let in.
    pub operators: Vec<u32>,
    /// What is said of all plugins.
    pub defaults: Defaults,
    /// The group whose members may call.
    pub socket_group: Option<u32>,
    /// The user numbers that are lent to plugins, where the daemon is root.
    pub lent_uids: RangeInclusive<u32>,
    /// What holds for every plugin that is granted a way out.
    pub egress: egress::Egress,
    /// So much is kept free on the state folder's file system.
    pub disk_reserve_mib: u64,
    /// Whether changes in plugin directories are looked at as they are made.
    pub watch: bool,
    /// What follows once a package has taken another one's place.
    pub reload: reload::Reload,
    /// What becomes of programs that are odd.
    pub checks: Checks,
    /// What is required of packages, and who may sign them.
    pub trust: Trust,
    /// What plugins are permitted without asking, and what they never are.
    pub permissions: Permissions,
    /// What becomes of newer versions that appear, unless something else is said of the plugin.
    pub update_policy: UpdatePolicy,
    /// Where the key is with which state and secrets are sealed, if there is one.
    pub state_key: Option<Place>,
    /// The interpreters that a manifest can name.
    pub runtimes: BTreeMap<String, Runtime>,
    /// So many launchers are made before they are needed.
    pub prepared_launchers: usize,
    /// What is said of single plugins.
    pub plugins: BTreeMap<PluginId, PluginConfig>,
}

/// One of the usual plugin directories that is passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unusable {
    /// Where it is.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

/// The file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    plugin_directories: Option<Vec<PathBuf>>,
    state_directory: Option<PathBuf>,
    runtime_directory: Option<PathBuf>,
    socket: Option<PathBuf>,
    #[serde(default)]
    allowed_uids: Vec<u32>,
    #[serde(default)]
    operators: Vec<u32>,
    socket_group: Option<Group>,
    lent_uids: Option<[u32; 2]>,
    disk_reserve_mib: Option<u64>,
    watch: Option<bool>,
    #[serde(default)]
    reload: reload::Reload,
    prepared_launchers: Option<usize>,
    #[serde(default)]
    defaults: Defaults,
    #[serde(default)]
    egress: egress::Table,
    #[serde(default)]
    trust: trust::Table,
    #[serde(default)]
    state: StateTable,
    #[serde(default)]
    updates: UpdatesTable,
    #[serde(default)]
    checks: checks::Table,
    #[serde(default)]
    permissions: permissions::Table,
    #[serde(default)]
    runtimes: BTreeMap<String, Runtime>,
    #[serde(default)]
    plugins: BTreeMap<ConfiguredId, PluginConfig>,
}

/// The table `[state]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct StateTable {
    key_file: Option<PathBuf>,
}

/// The table `[updates]`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdatesTable {
    #[serde(default)]
    policy: UpdatePolicy,
}

/// A plugin's id as a key of the file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
struct ConfiguredId(PluginId);

impl TryFrom<String> for ConfiguredId {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        PluginId::parse(&text).map(Self).map_err(|error| format!("`plugins.{text}`: {error}"))
    }
}

/// What the configuration says of every plugin for which it says nothing else.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    /// How much each may have.
    #[serde(default)]
    pub limits: Allowance,
    /// Controls without which none is to be started.
    #[serde(default)]
    pub require: Vec<Control>,
    /// How long a package has to be unchanged before it is looked at.
    #[serde(default, deserialize_with = "quiet")]
    pub settle_seconds: Option<Duration>,
}

/// A group, by its number or its name.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum Group {
    Number(u32),
    Name(String),
}

impl Group {
    fn number(&self) -> Result<u32, String> {
        match self {
            // With it, the file would keep the group that it has.
            Self::Number(u32::MAX) => Err(format!("`socket_group`: {} is the number of no group", u32::MAX)),
            Self::Number(number) => Ok(*number),
            Self::Name(name) => match nix::unistd::Group::from_name(name) {
                Ok(Some(group)) => Ok(group.gid.as_raw()),
                Ok(None) => {
                    Err(format!("`socket_group`: there is no group {name:?}; `groupadd --system {name}` makes it"))
                }
                Err(errno) => Err(format!("`socket_group`: the group {name:?} cannot be looked up: {errno}")),
            },
        }
    }
}

/// What the configuration says of one plugin.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PluginConfig {
    /// Handed to the plugin in its welcome.
    #[serde(default)]
    pub configuration: serde_json::Map<String, serde_json::Value>,
    /// How much it may have.
    #[serde(default)]
    pub limits: Allowance,
    /// Controls without which it is not to be started, beside those of the defaults.
    #[serde(default)]
    pub require: Vec<Control>,
    /// How long its package has to be unchanged before it is looked at, where that is another time than for all.
    #[serde(default, deserialize_with = "quiet")]
    pub settle_seconds: Option<Duration>,
    /// The versions of it that may serve; others take no calls.
    #[serde(default)]
    pub version: Option<Specifier>,
    /// What becomes of newer ones, where that is something else than for all.
    #[serde(default)]
    pub update_policy: Option<UpdatePolicy>,
    /// What follows once another package has taken its place, where that is something else than for all.
    #[serde(default)]
    pub reload: reload::Reload,
    /// What becomes of a start on a host that cannot confine the plugin as every start needs it, or as is required.
    #[serde(default)]
    pub on_degraded: OnDegraded,
    /// Whether each system call that it is refused is written down.
    #[serde(default)]
    pub trace_denials: bool,
    /// What it may do beyond the default, if that is decided here: nothing else then decides about it.
    #[serde(default, deserialize_with = "grants")]
    pub grant: Option<Grants>,
}

fn grants<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Grants>, D::Error> {
    Grants::parse(&Vec::deserialize(deserializer)?).map(Some).map_err(serde::de::Error::custom)
}

fn quiet<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let (least, most) = (QUIET_BOUNDS.0.as_secs_f64(), QUIET_BOUNDS.1.as_secs_f64());
    let seconds = f64::deserialize(deserializer)?;
    if !(least..=most).contains(&seconds) {
        let why = format!("settle_seconds is {seconds}; it can be from {least} to {most}");
        return Err(serde::de::Error::custom(why));
    }
    Ok(Some(Duration::from_secs_f64(seconds)))
}

/// What becomes of a start on a host that lacks something that every start needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDegraded {
    /// It is refused.
    #[default]
    Refuse,
    /// The plugin runs with what there is, and the log and `info` say what is missing.
    Warn,
}

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--user`
    pub user: bool,
    /// `--plugins`, in order
    pub plugins: Vec<PathBuf>,
    /// `--state-dir`
    pub state_directory: Option<PathBuf>,
    /// `--runtime-dir`
    pub runtime_directory: Option<PathBuf>,
    /// `--socket`
    pub socket: Option<PathBuf>,
}

impl Overrides {
    fn make_absolute(&mut self) -> Result<(), ConfigError> {
        let others = [&mut self.config, &mut self.state_directory, &mut self.runtime_directory, &mut self.socket];
        for path in self.plugins.iter_mut().chain(others.into_iter().flatten()) {
            *path = std::path::absolute(&*path).map_err(|source| ConfigError::NoPath { path: path.clone(), source })?;
        }
        Ok(())
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("the configuration {path} cannot be read: {source}", path = .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("the configuration {path} is wrong: {detail}", path = .path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// What and where.
        detail: String,
    },
    /// A path that was given is none, or the folder in which the daemon was started is gone.
    #[error("{path:?} cannot be made an absolute path: {source}", path = .path)]
    NoPath {
        /// As it was given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A path that follows from the environment does not.
    #[error("no {what} can be derived from the environment: set {variable}, or give {flag}")]
    NoHome {
        /// Which folder.
        what: &'static str,
        /// The variable that would tell.
        variable: &'static str,
        /// The flag that goes before it.
        flag: &'static str,
    },
}

impl Config {
    /// Reads the configuration, if there is one, and decides everything that it leaves open.
    ///
    /// # Errors
    /// [`ConfigError`]; a file that was named must exist, the default one need not.
    pub fn load(mut overrides: Overrides, uid: u32) -> Result<Self, ConfigError> {
        overrides.make_absolute()?;
        let mode = if uid == 0 && !overrides.user { Mode::System } else { Mode::User };
        let (named, path) = match &overrides.config {
            Some(path) => (true, Some(path.clone())),
            None => (false, default_config(mode)),
        };
        let found = match &path {
            // Where nothing is, there is nothing to keep to. A file that is there and cannot be had might say the opposite of the defaults.
            Some(path) => match read(path) {
                Err(ConfigError::Read { source, .. }) if !named && is_missing(path, &source) => None,
                found => Some(found?),
            },
            None => None,
        };
        let present = path.clone().filter(|_| found.is_some());
        let file = found.unwrap_or_default();
        let wrong = |detail| ConfigError::Wrong { path: path.clone().unwrap_or_default(), detail };
        if file.socket_group.is_some() && !file.allowed_uids.is_empty() {
            let detail = "`socket_group` and `allowed_uids` exclude each other: put those users into the group";
            return Err(wrong(detail.to_owned()));
        }
        let socket_group = file.socket_group.as_ref().map(Group::number).transpose().map_err(wrong)?;
        let egress = file.egress.understand().map_err(wrong)?;
        let base = path.as_deref().and_then(Path::parent).unwrap_or(Path::new(""));
        let trust = file.trust.understand(base).map_err(wrong)?;
        let permissions = file.permissions.understand(base, &trust).map_err(wrong)?;
        let (plugin_directories, unusable_directories) = match (overrides.plugins, file.plugin_directories) {
            (given, _) if !given.is_empty() => (given, Vec::new()),
            (_, Some(configured)) => (configured, Vec::new()),
            _ => usable(default_plugins(mode)),
        };
        let runtime_directory = match overrides.runtime_directory.or(file.runtime_directory) {
            Some(path) => path,
            None => default_runtime(mode, uid),
        };
        Ok(Self {
            mode,
            file: present,
            plugin_directories,
            unusable_directories,
            state_directory: match overrides.state_directory.or(file.state_directory) {
                Some(path) => path,
                None => default_state(mode)?,
            },
            socket: overrides.socket.or(file.socket).unwrap_or_else(|| runtime_directory.join("palisade.sock")),
            runtime_directory,
            allowed_uids: file.allowed_uids,
            operators: file.operators,
            defaults: file.defaults,
            egress,
            socket_group,
            lent_uids: file.lent_uids.map_or(LENT_UIDS, |[first, last]| first..=last),
            watch: file.watch.unwrap_or(true),
            reload: file.reload,
            disk_reserve_mib: file.disk_reserve_mib.unwrap_or(DISK_RESERVE_MIB),
            checks: file.checks.understand(),
            trust,
            permissions,
            update_policy: file.updates.policy,
            state_key: file.state.key_file.map(Place::File).or_else(credential),
            runtimes: file.runtimes,
            prepared_launchers: file.prepared_launchers.unwrap_or(PREPARED_LAUNCHERS_MAX),
            plugins: file.plugins.into_iter().map(|(id, plugin)| (id.0, plugin)).collect(),
        })
    }
}

impl Config {
    /// What follows once another package has taken the place of this plugin's.
    #[must_use]
    pub fn reload_of(&self, id: &PluginId) -> reload::Reload {
        self.plugins.get(id).map(|plugin| plugin.reload).unwrap_or_default().or(self.reload)
    }
}

/// Whether there is no such file, rather than a link to one that is gone.
fn is_missing(path: &Path, error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound && dangling(path).is_none()
}

/// The link on the way to the file that leads nowhere.
fn dangling(path: &Path) -> Option<&Path> {
    path.ancestors().find(|above| {
        let leads_nowhere = || std::fs::metadata(above).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        above.is_symlink() && leads_nowhere()
    })
}

fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
    let unreadable = |source: io::Error| {
        let source = match dangling(path).filter(|_| source.kind() == io::ErrorKind::NotFound) {
            Some(link) => io::Error::new(source.kind(), format!("{source}: {} is a link to nothing", link.display())),
            None => source,
        };
        ConfigError::Read { path: path.to_owned(), source }
    };
    let wrong = |detail: String| ConfigError::Wrong { path: path.to_owned(), detail };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // One byte more than allowed, so that a file that is too long is seen to be, and is not read in part.
    file.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut text).map_err(unreadable)?;
    if CONFIG_BYTES_MAX < text.len() as u64 {
        return Err(wrong(format!("it has more than {CONFIG_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(text).map_err(|error| wrong(format!("it is not UTF-8: {error}")))?;
    let mut file: ConfigFile = toml::from_str(&text).map_err(|error| wrong(error.to_string().trim_end().to_owned()))?;
    let allowances = file.plugins.iter().map(|(id, plugin)| (format!("plugins.{}", id.0), &plugin.limits));
    for (place, limits) in allowances.chain([("defaults".to_owned(), &file.defaults.limits)]) {
        limits.check().map_err(|why| wrong(format!("{place}.{why}")))?;
    }
    for (name, runtime) in &file.runtimes {
        runtime.check(name).map_err(|why| wrong(format!("runtimes.{name}: {why}")))?;
    }
    let base = path.parent().unwrap_or(Path::new(""));
    let paths = file.plugin_directories.iter_mut().flatten();
    let others = [&mut file.state_directory, &mut file.runtime_directory, &mut file.socket, &mut file.state.key_file];
    for place in paths.chain(others.into_iter().flatten()) {
        *place = base.join(&*place);
    }
    if let Some(wanted) = file.prepared_launchers.filter(|wanted| PREPARED_LAUNCHERS_MAX < *wanted) {
        return Err(wrong(format!(
            "prepared_launchers = {wanted}: at most {PREPARED_LAUNCHERS_MAX} are made before they are needed"
        )));
    }
    if let Some([first, last]) = file.lent_uids
        && (first == 0 || last < first || last == u32::MAX)
    {
        return Err(wrong(format!(
            "lent_uids = [{first}, {last}] is no range of ordinary users; give the first and the last of it, from 1 to {}",
            u32::MAX - 1
        )));
    }
    Ok(file)
}

/// The key that the service was given by systemd, if it was given one.
fn credential() -> Option<Place> {
    let path = folder("CREDENTIALS_DIRECTORY")?.join(CREDENTIAL);
    path.exists().then_some(Place::Credential(path))
}

/// A variable that holds an absolute path; others are ignored, as the XDG specification says.
fn folder(variable: &str) -> Option<PathBuf> {
    env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn home(below: &str) -> Option<PathBuf> {
    folder("HOME").map(|home| home.join(below))
}

fn default_config(mode: Mode) -> Option<PathBuf> {
    let folder = match mode {
        Mode::System => folder("CONFIGURATION_DIRECTORY").or_else(|| Some("/etc/palisade".into())),
        Mode::User => folder("XDG_CONFIG_HOME").or_else(|| home(".config")).map(|config| config.join("palisade")),
    };
    folder.map(|folder| folder.join("palisade.toml"))
}

fn default_plugins(mode: Mode) -> Vec<PathBuf> {
    let own = match mode {
        Mode::System => Some(PathBuf::from("/var/lib/palisade/plugins")),
        Mode::User => {
            folder("XDG_DATA_HOME").or_else(|| home(".local/share")).map(|data| data.join("palisade/plugins"))
        }
    };
    let shipped = ["/usr/local/lib/palisade/plugins", "/usr/lib/palisade/plugins"].map(PathBuf::from);
    own.into_iter().chain(shipped).collect()
}

/// Those of the usual plugin directories that are there, apart from those that cannot be used. Nobody has named them, so neither what is
/// missing nor what is wrong with one keeps the daemon from starting.
fn usable(usual: Vec<PathBuf>) -> (Vec<PathBuf>, Vec<Unusable>) {
    let (mut usable, mut unusable) = (Vec::new(), Vec::new());
    for path in usual {
        match std::fs::read_dir(&path) {
            Ok(_) => usable.push(path),
            Err(error) if is_missing(&path, &error) => {}
            Err(error) => {
                let reason = format!("cannot be read: {error}");
                unusable.push(Unusable { path, reason });
            }
        }
    }
    (usable, unusable)
}

fn default_state(mode: Mode) -> Result<PathBuf, ConfigError> {
    match mode {
        Mode::System => Ok(folder("STATE_DIRECTORY").unwrap_or_else(|| "/var/lib/palisade".into())),
        Mode::User => folder("XDG_STATE_HOME")
            .or_else(|| home(".local/state"))
            .map(|state| state.join("palisade"))
            .ok_or(ConfigError::NoHome { what: "state directory", variable: "HOME", flag: "--state-dir" }),
    }
}

fn default_runtime(mode: Mode, uid: u32) -> PathBuf {
    match mode {
        Mode::System => folder("RUNTIME_DIRECTORY").unwrap_or_else(|| "/run/palisade".into()),
        Mode::User => match folder("XDG_RUNTIME_DIR") {
            Some(runtime) => runtime.join("palisade"),
            None => PathBuf::from(format!("/tmp/palisade-{uid}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::check::{Code, Verdict};
    use crate::model::trust::Policy;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("palisade.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(Overrides { config: Some(path), ..Overrides::default() }, 0)
    }

    fn id(text: &str) -> PluginId {
        PluginId::parse(text).unwrap()
    }

    #[test]
    fn the_way_out_is_understood_or_the_entry_named() {
        let config = load(
            "[egress]\nhosts = { \"a.test\" = [\"127.0.0.1\"], \"gone.test\" = [] }\ndeny = [\"b.test\"]\n\
             allow_addresses = { \"a.test\" = [\"127.0.0.0/8\"] }\nlimits = { connections = 3 }\n",
        );
        let egress = config.unwrap().egress;
        assert_eq!((egress.hosts.len(), egress.limits.connections_max), (2, 3));
        assert!(egress.policy.grants_nothing());
        for (text, part) in [
            ("hosts = { \"a..test\" = [] }", "in egress.hosts, `a..test`: "),
            ("hosts = { \"a.test\" = [\"b\"] }", "line 2"),
            ("deny = [\"*\"]", "[egress]: in deny, `*`: "),
            (
                "allow_addresses = { \"a.test\" = [\"10.0.0.1/8\"] }",
                "[egress]: in allow_addresses, `a.test = 10.0.0.1/8`: ",
            ),
            ("limits = { connections = 0 }", "egress.limits.connections is 0; it can be from 1 to 1024"),
            ("limits = { speed = 0 }", "unknown field `speed`"),
        ] {
            let error = load(&format!("[egress]\n{text}\n")).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        let granted = "[plugins.one]\ngrant = [{ network_access = [\"api.example:443\", \"*.example\"] }]\n";
        let names = load(granted).unwrap().plugins[&id("one")].grant.as_ref().unwrap().names();
        assert_eq!(names, ["network_access:api.example:443", "network_access:*.example"]);
        let error = load("[plugins.one]\ngrant = [{ network_access = [\"*\"] }]\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("in network_access, `*`: "), "{error}");
    }

    #[test]
    fn whom_to_trust_is_understood_or_the_entry_named() {
        let public = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
        let key = format!("[trust.keys.release]\nmethod = \"ed25519\"\npublic_key = \"{public}\"\n");
        let shared = "[trust.keys.house]\nmethod = \"hmac-sha256\"\nkey_file = \"k/house\"\nids = [\"*\"]\n";
        let more = "[trust]\npolicy = \"signature\"\nmax_age_days = 2\n[trust.sources.p]\npolicy = \"none\"\n";
        let config = load(&format!("{more}{key}ids = [\"echo\"]\nrevoked = true\n{shared}")).unwrap();
        let base = config.file.as_deref().unwrap().parent().unwrap().to_owned();
        let trust = config.trust;
        assert_eq!(trust.policy_of(Path::new("/elsewhere")), Policy::Signature);
        assert_eq!(trust.policy_of(&base.join("p/echo")), Policy::None);
        assert_eq!((trust.age_max, trust.skew), (Some(Duration::from_secs(172_800)), Duration::from_secs(300)));
        assert_eq!(trust.key_files().collect::<Vec<_>>(), [base.join("k/house")]);
        let revoked: Vec<_> = trust.keys.iter().map(|(name, key)| (name.as_str(), key.revoked.is_some())).collect();
        assert_eq!(revoked, [("house", false), ("release", true)]);
        assert_eq!(load("").unwrap().trust, Trust::default());
        for (text, part) in [
            ("[trust]\npolicy = \"some\"\n".to_owned(), "unknown variant `some`"),
            ("[trust]\nmax_age = 1\n".to_owned(), "unknown field `max_age`"),
            ("[trust]\nmax_age_days = 0\n".to_owned(), "trust.max_age_days is 0; it can be from 1 to 36500"),
            ("[trust]\nclock_skew_seconds = 86401\n".to_owned(), "it can be from 0 to 86400"),
            (key.clone(), "missing field `ids`"),
            (format!("{key}ids = [\"A*\"]\n"), "\"A*\" is no id and no beginning"),
            (
                format!("{key}ids = []\nkey_file = \"x\"\n"),
                "trust.keys.release: a key for \"ed25519\" has a `public_key`",
            ),
            (shared.replace("key_file", "public_key"), "trust.keys.house: a key for \"hmac-sha256\" has a `key_file`"),
            (format!("{}ids = []\n", key.replace("11qY", "11q")), "`public_key` has to be 32 bytes in base64"),
            (
                format!("{}ids = []\n", key.replace("keys.release", "keys.\".x\"")),
                "trust.keys..x: it has to be the name",
            ),
            (format!("{key}ids = []\nsecret = \"x\"\n"), "unknown field `secret`"),
        ] {
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn what_becomes_of_a_finding_is_said_by_its_code() {
        for code in Code::ALL {
            let checks = load(&format!("[checks]\n{code} = \"warn\"\nlibraries = [\"a\", \"b*\"]\n")).unwrap().checks;
            assert_eq!(checks.verdicts, [(code, Verdict::Warn)]);
            let allowed = ["a", "ab", "b", "bc"].map(|name| checks.allow_library(name));
            assert_eq!(allowed, [true, false, true, true]);
        }
        assert_eq!(load("").unwrap().checks, Checks::default());
        let error = load("[checks]\nmalformed = \"ignore\"\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("unknown variant `ignore`"), "{error}");
        assert!(load("[checks]\nnone = \"warn\"\n").is_err());
    }

    #[test]
    fn what_is_no_id_is_an_error_with_its_line() {
        let error = load("allowed_uids = [1]\n[plugins.Bad_Id]\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("`plugins.Bad_Id`"), "{error}");
    }

    #[test]
    fn a_file_that_is_too_long_is_not_read_in_part() {
        let longest = format!("# {}\n", "x".repeat(usize::try_from(CONFIG_BYTES_MAX).unwrap() - 3));
        assert!(load(&longest).is_ok());
        let error = load(&format!("{longest}nonsense = 1\n")).unwrap_err().to_string();
        assert!(error.contains("more than 1048576 bytes"), "{error}");
    }

    #[test]
    fn what_the_command_line_gives_is_relative_to_the_folder_it_was_given_in() {
        let overrides = Overrides {
            plugins: vec!["p".into()],
            state_directory: Some("s".into()),
            runtime_directory: Some("./r".into()),
            socket: Some("socket".into()),
            ..Overrides::default()
        };
        let config = Config::load(overrides, 0).unwrap();
        let here = env::current_dir().unwrap();
        assert_eq!(config.plugin_directories, [here.join("p")]);
        assert_eq!(config.state_directory, here.join("s"));
        assert_eq!(config.runtime_directory, here.join("r"));
        assert_eq!(config.socket, here.join("socket"));
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_line() {
        let error = load("allowed_uids = [1]\nplugin_directory = \"/x\"\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("plugin_directory"), "{error}");
        let error = load("[plugins.echo]\nconfig = 1\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("config"), "{error}");
    }

    #[test]
    fn what_becomes_of_updates_is_said_of_all_and_of_each() {
        assert_eq!(load("").unwrap().update_policy, UpdatePolicy::Auto);
        let text = "[updates]\npolicy = \"notify\"\n[plugins.one]\nversion = \"~1.2\"\nupdate_policy = \"manual\"\n";
        let config = load(text).unwrap();
        let one = &config.plugins["one"];
        assert_eq!((config.update_policy, one.update_policy), (UpdatePolicy::Notify, Some(UpdatePolicy::Manual)));
        assert_eq!(one.version, Some(Specifier::parse("~1.2").unwrap()));
        for (text, line, part) in [
            (
                "[updates]\npolicy = \"always\"\n",
                "line 2",
                "unknown variant `always`, expected one of `auto`, `notify`, `manual`",
            ),
            ("[updates]\nwhen = \"auto\"\n", "line 2", "unknown field `when`"),
            ("[plugins.one]\nupdate_policy = 1\n", "line 2", "policy"),
            ("\n[plugins.one]\nversion = \"1.2.post1\"\n", "line 3", "post-release"),
            ("[plugins.one]\nversion = \"\"\n", "line 2", "a version specifier is missing"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(line) && error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn limits_are_checked_like_everything_else() {
        let config = load("[defaults.limits]\npids = 9\n[plugins.echo.limits]\nmemory_mib = 64\n").unwrap();
        assert_eq!((config.defaults.limits.pids, config.plugins["echo"].limits.memory_mib), (Some(9), Some(64)));
        let error = load("[plugins.echo.limits]\nmemory_mb = 64\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("memory_mb"), "{error}");
        let error = load("[plugins.echo.limits]\nopen_files = 1\n").unwrap_err().to_string();
        assert!(error.contains("plugins.echo.limits.open_files is 1"), "{error}");
    }

    #[test]
    fn paths_are_relative_to_the_file_and_the_rest_has_defaults() {
        let config = load("plugin_directories = [\"p\", \"/q\"]\n").unwrap();
        assert!(config.plugin_directories[0].is_absolute() && config.plugin_directories[0].ends_with("p"));
        assert_eq!(config.plugin_directories[1], Path::new("/q"));
        assert_eq!(config.socket, config.runtime_directory.join("palisade.sock"));
    }

    #[test]
    fn a_group_has_a_number_or_a_name_and_must_be_there() {
        assert_eq!(load("socket_group = 7\n").unwrap().socket_group, Some(7));
        assert_eq!(load("socket_group = \"root\"\n").unwrap().socket_group, Some(0));
        let error = load("socket_group = \"no such group\"\n").unwrap_err().to_string();
        assert!(error.contains("there is no group \"no such group\""), "{error}");
        let error = load("socket_group = 4294967295\n").unwrap_err().to_string();
        assert!(error.contains("4294967295 is the number of no group"), "{error}");
        let error = load("socket_group = 7\nallowed_uids = [1]\n").unwrap_err().to_string();
        assert!(error.contains("exclude each other"), "{error}");
    }

    #[test]
    fn the_lent_users_are_a_range_without_root() {
        assert_eq!(load("").unwrap().lent_uids, LENT_UIDS);
        assert_eq!(load("lent_uids = [7, 9]\n").unwrap().lent_uids, 7..=9);
        for wrong in [
            "lent_uids = [0, 9]\n",
            "lent_uids = [9, 7]\n",
            "lent_uids = [4294967295, 4294967295]\n",
            "lent_uids = [7, 4294967295]\n",
            "lent_uids = [4294967290, 4]\n",
            "lent_uids = [7, 4294967296]\n",
            "lent_uids = [-1, 9]\n",
            "lent_uids = [7]\n",
        ] {
            let error = load(wrong).unwrap_err().to_string();
            assert!(error.contains("lent_uids"), "{error}");
        }
    }

    #[test]
    fn a_host_that_cannot_confine_refuses_unless_told_otherwise() {
        let config = load("[plugins.one]\n[plugins.two]\non_degraded = \"warn\"\n").unwrap();
        assert_eq!(config.plugins[&id("one")].on_degraded, OnDegraded::Refuse);
        assert_eq!(config.plugins[&id("two")].on_degraded, OnDegraded::Warn);
        assert!(load("[plugins.one]\non_degraded = \"shrug\"\n").is_err());
    }

    #[test]
    fn how_long_a_package_settles_is_within_bounds() {
        let config = load("[defaults]\nsettle_seconds = 0.5\n[plugins.one]\nsettle_seconds = 30\n").unwrap();
        assert_eq!(config.defaults.settle_seconds, Some(Duration::from_millis(500)));
        assert_eq!(config.plugins[&id("one")].settle_seconds, Some(Duration::from_secs(30)));
        assert_eq!(load("").unwrap().defaults.settle_seconds, None);
        for wrong in ["0.001", "31", "-1", "nan"] {
            let error = load(&format!("[plugins.one]\nsettle_seconds = {wrong}\n")).unwrap_err().to_string();
            assert!(error.contains("it can be from 0.01 to 30"), "{error}");
        }
    }

    #[test]
    fn what_follows_a_reload_is_said_of_all_or_of_one() {
        let text = "[reload]\nbackups = 2\nprobation_seconds = 60\n[plugins.one.reload]\nprobation_seconds = 1\n";
        let config = load(text).unwrap();
        let of = |config: &Config, plugin: &str| {
            let reload = config.reload_of(&id(plugin));
            (reload.backups(), reload.probation().as_secs())
        };
        assert_eq!((of(&config, "one"), of(&config, "other")), ((2, 1), (2, 60)));
        assert_eq!(of(&load("").unwrap(), "one"), (5, 30));
        for (text, why) in [
            ("backups = 0", "backups is 0; it can be from 1 to 100"),
            ("backups = 101", "backups is 101; it can be from 1 to 100"),
            ("backups = 1.5", "expected i64"),
            ("probation_seconds = -1", "probation_seconds is -1; it can be from 1 to 86400"),
            ("probation_seconds = 86401", "probation_seconds is 86401; it can be from 1 to 86400"),
            ("probation = 3", "unknown field `probation`, expected `backups` or `probation_seconds`"),
        ] {
            for table in ["reload", "plugins.one.reload"] {
                let error = load(&format!("[{table}]\n{text}\n")).unwrap_err().to_string();
                assert!(error.contains(why) && error.contains("line 2"), "{error}");
            }
        }
    }

    #[test]
    fn what_is_required_is_a_control_that_there_is() {
        let config =
            load("[defaults]\nrequire = [\"landlock\"]\n[plugins.one]\nrequire = [\"memory\", \"cpu\"]\n").unwrap();
        let names = |controls: &[Control]| controls.iter().map(|control| control.as_str()).collect::<Vec<_>>();
        assert_eq!(names(&config.defaults.require), ["landlock"]);
        assert_eq!(names(&config.plugins[&id("one")].require), ["memory", "cpu"]);
        for wrong in ["[defaults]\nrequire = [\"magic\"]\n", "[plugins.one]\nrequire = [\"magic\"]\n"] {
            let error = load(wrong).unwrap_err().to_string();
            assert!(error.contains("line 2") && error.contains("there is no control \"magic\" to require"), "{error}");
        }
    }

    #[test]
    fn a_grant_is_of_something_that_is_offered() {
        let config = load("[plugins.one]\n[plugins.two]\ngrant = [\"execute_code\"]\n").unwrap();
        assert_eq!(config.plugins[&id("one")].grant, None);
        assert_eq!(config.plugins[&id("two")].grant, Some(Grants { execute_code: true, ..Grants::default() }));
        let files = "[plugins.one]\ngrant = [{ file_read = [\"/srv/data\"] }, { system_access = [\"meminfo\"] }]\n";
        let granted = load(files).unwrap().plugins[&id("one")].grant.clone();
        assert_eq!(granted.unwrap().names(), ["file_read:/srv/data", "system_access:meminfo"]);
        let error = load("[plugins.one]\ngrant = [{ file_read = [\"/proc\"] }]\n").unwrap_err().to_string();
        assert!(error.contains("line 2") && error.contains("/proc cannot be permitted"), "{error}");
        let error = load("[plugins.one]\ngrant = [\"everything\"]\n").unwrap_err().to_string();
        assert!(error.contains("there is no permission \"everything\""), "{error}");
    }

    #[test]
    fn a_usual_plugin_directory_that_is_there_and_cannot_be_used_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("folder")).unwrap();
        std::fs::write(at("file"), "").unwrap();
        std::os::unix::fs::symlink("nothing", at("link")).unwrap();
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        let usual = ["folder", "missing", "missing/beneath", "file", "file/beneath", "link", "loop"].map(at).into();
        let (there, unusable) = usable(usual);
        assert_eq!(there, [at("folder")]);
        let told: Vec<_> = unusable.iter().map(|unusable| unusable.path.clone()).collect();
        assert_eq!(told, ["file", "file/beneath", "link", "loop"].map(at));
        assert!(unusable[0].reason.starts_with("cannot be read: Not a directory"), "{unusable:?}");
    }

    #[test]
    fn a_file_that_was_named_must_exist() {
        let overrides = Overrides { config: Some("/nonexistent/palisade.toml".into()), ..Overrides::default() };
        assert!(matches!(Config::load(overrides, 0), Err(ConfigError::Read { .. })));
    }
}
