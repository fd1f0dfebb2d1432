//! What can this host do? Found out by starting real children, for `doctor` and for the daemon's start.
//!
//! A probe's child is the launcher itself, in its `--probe` or `--trial` mode: it exits with 0 exactly if it finds itself
//! enclosed as it should be, and the latter tries what a plugin must not. So the probe needs no other program, and what it
//! tries is what a plugin's start will do.

use std::{
    ffi::CString,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    os::fd::AsFd,
    path::Path,
    time::Duration,
};

use palisade_launcher::{MadeUp, Spec, TRIAL_FILE, UserMap, Watchers};
use rustix::process::{Resource, getrlimit};

use super::{
    cgroup::{Tree, Unavailable},
    evidence::{Facts, Users},
    own_user_map, seccomp,
    spec::{self, Identity, Inside, Layout, Offer},
    user_map,
};
use crate::model::permission::grants::Grants;
use crate::process::{
    DESCRIPTORS_PER_CHILD, Exit, Exited, Launch, Launchers, NoLauncher, Report, SpawnError, quota, spawn,
};
use crate::sandbox::seccomp::policy::Denials;

/// A probe's child takes a millisecond; one that takes this long will not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// So many children are asked the same where one after the other is lost.
const ATTEMPTS_MAX: u32 = 3;

/// A trial child says less than a log pipe holds.
const ANSWER_BYTES_MAX: usize = 4096;

/// What the daemon holds for a way out: its listener, and the two ends of each connection.
const DESCRIPTORS_PER_LISTENER: u64 = 1;
const DESCRIPTORS_PER_CONNECTION: u64 = 2;

/// What the daemon needs for itself: sockets, files, its runtime, prepared launchers, and agents' connections.
const DESCRIPTORS_OF_THE_DAEMON: u64 = 256;

/// Whether something can be done here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ability {
    /// It was done.
    Yes,
    /// It was tried and failed, and this sentence says why.
    No(String),
}

impl Ability {
    /// Whether it can be done.
    pub fn is_yes(&self) -> bool {
        *self == Self::Yes
    }
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes => f.write_str("yes"),
            Self::No(reason) => write!(f, "no: {reason}"),
        }
    }
}

/// What a host can do, with the reasons for what it cannot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// The launcher can be executed, and is of this daemon's build. Where it is not, nothing else was tried.
    pub launcher: Ability,
    /// A user namespace with a map of one user.
    pub user_namespaces: Ability,
    /// A pid namespace, the way this daemon makes one: as root directly, otherwise within a user namespace.
    pub pid_namespaces: Ability,
    /// A root of the plugin's own, in a mount namespace.
    pub private_root: Ability,
    /// An empty network namespace.
    pub network_namespaces: Ability,
    /// A listener in such a network, handed out to the daemon: the only way out that a plugin can have.
    pub way_out: Ability,
    /// A namespace of System V objects and message queues.
    pub ipc_namespaces: Ability,
    /// A host name of the plugin's own.
    pub host_names: Ability,
    /// A bound of its own for the watchers of files.
    pub watchers: Ability,
    /// Landlock, entered and found to refuse.
    pub landlock: Ability,
    /// The version of Landlock's interface that this kernel offers, 0 without it.
    pub landlock_version: u32,
    /// A system call filter with a listener, installed and found to refuse.
    pub seccomp: Ability,
    /// Disk quotas of projects, on the file system of plugins' data. Only root can set one.
    pub quotas: Ability,
    /// Users of the host are lent to plugins by mapping ids. An ordinary user has none to lend.
    pub lent_users: Ability,
    /// What became of forbidden acts that a child tried which was confined like a plugin.
    pub trials: Vec<Trial>,
    /// A leaf cgroup in which a child is born.
    pub cgroup: Ability,
    /// The controllers that plugins' cgroups have; none on a hybrid host.
    pub controllers: Vec<String>,
    /// Why plugins' cgroups have none of these, where they have none.
    pub uncontrolled: Option<String>,
    /// How many descriptors the daemon may have.
    pub descriptors: Descriptors,
}

/// A forbidden act, and what it met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The act's name.
    pub act: String,
    /// The error number; 0 if nothing stopped it.
    pub errno: i32,
}

impl fmt::Display for Trial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            0 => write!(f, "{} succeeded", self.act),
            errno => write!(f, "{}: {}", self.act, std::io::Error::from_raw_os_error(errno)),
        }
    }
}

/// The daemon's descriptor limit. `None` is "unlimited".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// What holds now.
    pub soft: Option<u64>,
    /// How far the daemon may raise it.
    pub hard: Option<u64>,
}

impl Descriptors {
    /// How many plugins fit under the hard limit, to which the daemon raises the soft one; with a way out and so many
    /// connections each, if so. `None`: no bound.
    pub fn plugins_max(self, connections: Option<usize>) -> Option<u64> {
        let out = connections.map_or(0, |connections| {
            let connections = u64::try_from(connections).unwrap_or(u64::MAX);
            connections.saturating_mul(DESCRIPTORS_PER_CONNECTION).saturating_add(DESCRIPTORS_PER_LISTENER)
        });
        let each = DESCRIPTORS_PER_CHILD.saturating_add(out);
        self.hard.map(|hard| hard.saturating_sub(DESCRIPTORS_OF_THE_DAEMON) / each)
    }
}

/// How much of the isolation this host carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// cgroup2 with the controllers for memory, pids and cpu.
    A,
    /// cgroup2 without them: kill, freeze and accounting of the whole tree.
    B,
    /// A pid namespace only.
    C,
    /// Less: nothing is started.
    None,
}

impl Host {
    /// What there is to confine with.
    pub fn offer(&self, layout: Layout) -> Offer {
        Offer {
            layout,
            user_namespaces: self.user_namespaces.is_yes(),
            private_root: self.private_root.is_yes(),
            network: self.network_namespaces.is_yes(),
            ipc: self.ipc_namespaces.is_yes(),
            hostname: self.host_names.is_yes(),
            watchers: self.watchers.is_yes(),
            landlock: if self.landlock.is_yes() { self.landlock_version } else { 0 },
            seccomp: self.seccomp.is_yes(),
            controllers: self.tier() == Tier::A,
        }
    }

    /// What is known for the guarantee report. `users` is who plugins are.
    pub fn facts(&self, layout: Layout, users: Users) -> Facts {
        let reasons = [
            ("user_namespace", &self.user_namespaces),
            ("private_root", &self.private_root),
            ("network_namespace", &self.network_namespaces),
            ("ipc_namespace", &self.ipc_namespaces),
            ("hostname", &self.host_names),
            ("watchers", &self.watchers),
            ("cgroup_namespace", &self.private_root),
            ("landlock", &self.landlock),
            ("seccomp", &self.seccomp),
            ("exec_once", &self.seccomp),
            ("own_user", &self.lent_users),
            ("disk", &self.quotas),
            ("cgroup", &self.cgroup),
        ];
        let reasons = reasons.into_iter().filter_map(|(control, ability)| match ability {
            Ability::Yes => None,
            Ability::No(reason) => Some((control, reason.clone())),
        });
        let uncontrolled = match &self.cgroup {
            Ability::Yes => self.uncontrolled.clone(),
            Ability::No(reason) => Some(reason.clone()),
        };
        let reasons = reasons.chain(uncontrolled.map(|reason| ("controllers", reason)));
        let met = |trial: &Trial| match trial.errno {
            0 => "nothing".to_owned(),
            errno => std::io::Error::from_raw_os_error(errno).to_string(),
        };
        Facts {
            offer: self.offer(layout),
            users,
            reasons: reasons.collect(),
            trials: self.trials.iter().map(|trial| (trial.act.clone(), met(trial))).collect(),
            cgroup: self.cgroup.is_yes(),
            quotas: self.quotas.is_yes(),
        }
    }

    /// What a forbidden act met, if it was tried.
    pub fn trial(&self, act: &str) -> Option<&Trial> {
        self.trials.iter().find(|trial| trial.act == act)
    }

    /// The tier of what was found.
    pub fn tier(&self) -> Tier {
        let controlled = ["memory", "pids", "cpu"].iter().all(|name| self.controllers.iter().any(|have| have == name));
        match (self.pid_namespaces.is_yes(), self.cgroup.is_yes()) {
            (false, _) => Tier::None,
            (true, false) => Tier::C,
            (true, true) if controlled => Tier::A,
            (true, true) => Tier::B,
        }
    }
}

/// Where a trial takes place.
#[derive(Clone, Copy, Debug)]
pub struct Ground<'a> {
    /// A folder of the daemon's own, on the file system where plugins' data lie. Three folders are made in it.
    pub folder: &'a Path,
    /// The user of the host that the trial's child runs as, where this daemon can lend one.
    pub uid: u32,
}

/// Tries everything out. `tree` is the daemon's cgroup folder, or why it has none.
///
/// Dropping the future ends its children; nothing of them stays in any case.
pub async fn probe(launchers: &Launchers, tree: Result<&Tree, &Unavailable>, ground: Ground<'_>) -> Host {
    let (launcher, (pid_namespaces, said)) = match attempt_known(launchers, enclosed(user_map()), None).await {
        (true, answer) => (Ability::Yes, answer),
        // Not the host's doing, so it says nothing of the host.
        (false, (said_no, _)) => (said_no, (Ability::No("it was not tried".to_owned()), String::new())),
    };
    let is_known = launcher.is_yes();
    let landlock_version = value(&said, "landlock").unwrap_or(0).max(0).cast_unsigned();
    let cgroup = match tree {
        Ok(tree) if is_known => attempt(launchers, enclosed(user_map()), Some(tree)).await.0,
        Ok(_) => Ability::No("it was not tried".to_owned()),
        Err(reason) => Ability::No(reason.to_string()),
    };
    let controllers = tree.ok().and_then(|tree| tree.controllers().ok()).unwrap_or_default();
    let uncontrolled = tree.ok().and_then(|tree| tree.controlled().err()).map(ToString::to_string);
    let limit = getrlimit(Resource::Nofile);
    let descriptors = Descriptors { soft: limit.current, hard: limit.maximum };
    let not_tried = || Ability::No("it was not tried".to_owned());
    let mut host = Host {
        launcher,
        user_namespaces: not_tried(),
        pid_namespaces,
        private_root: not_tried(),
        network_namespaces: not_tried(),
        way_out: not_tried(),
        ipc_namespaces: not_tried(),
        host_names: not_tried(),
        watchers: not_tried(),
        landlock: match landlock_version {
            0 => Ability::No(
                "this kernel has no Landlock, or has it switched off; see the boot parameter lsm= and CONFIG_SECURITY_LANDLOCK"
                    .to_owned(),
            ),
            _ => not_tried(),
        },
        landlock_version,
        seccomp: not_tried(),
        quotas: not_tried(),
        lent_users: not_tried(),
        trials: Vec::new(),
        cgroup,
        controllers,
        uncontrolled,
        descriptors,
    };
    if is_known {
        confine_a_child(launchers, ground, &mut host).await;
        filter_a_child(launchers, &mut host).await;
        host.way_out = lead_out_a_child(launchers).await;
        host.quotas = exceed_a_quota(launchers, ground);
    }
    host
}

/// Whether a write beyond the quota of a folder is refused. It takes about as long as the start of one child.
fn exceed_a_quota(launchers: &Launchers, ground: Ground<'_>) -> Ability {
    if !rustix::process::geteuid().is_root() {
        return Ability::No("only root can set a disk quota".to_owned());
    }
    let folder = ground.folder.join("quota");
    match spec::make_data_folder(&folder, Identity::Own) {
        Ok(()) => match quota::attempt(launchers.image(), &folder) {
            Ok(()) => Ability::Yes,
            Err(error) => Ability::No(error.to_string()),
        },
        Err(error) => Ability::No(format!("the folder for the probe cannot be made: {error}")),
    }
}

/// Whether a child in a network with nothing in it has a listener there that reaches the daemon.
async fn lead_out_a_child(launchers: &Launchers) -> Ability {
    let mut spec = enclosed(user_map());
    spec.namespaces.network = true;
    spec.listener = Some(spec::PROXY_PORT);
    attempt(launchers, spec, None).await.0
}

/// The acts that only a filter refuses.
const FILTERED: [&str; 2] = ["unshare-user", "exec-again"];

/// Lets a child with the filter of an ordinary plugin, and as little else as possible, try what the filter refuses.
async fn filter_a_child(launchers: &Launchers, host: &mut Host) {
    let mut spec = enclosed(user_map());
    spec.arguments = vec![c"palisade-launcher".to_owned(), c"--trial-filter".to_owned()];
    let profile = spec::profile(&Grants::default(), Denials::Answered);
    spec.seccomp = Some(seccomp::compile(&profile));
    spec.exec_once = true;
    let (made, said) = attempt(launchers, spec, None).await;
    host.trials.extend(trials(&said));
    host.seccomp = match made {
        Ability::Yes => {
            let open = FILTERED.iter().find(|act| !refused(host, act, "").is_yes());
            open.map_or(Ability::Yes, |act| Ability::No(format!("a filter was installed, and did not refuse {act}")))
        }
        no => no,
    };
}

/// Confines a child as a plugin is, and lets it try what a plugin must not. Whatever cannot be made is looked for.
async fn confine_a_child(launchers: &Launchers, ground: Ground<'_>, host: &mut Host) {
    // The filter is found by itself, so that what the other fences refuse is not its doing.
    let all = Offer { seccomp: false, ..Offer::whole(host.landlock_version) };
    let root = rustix::process::geteuid().is_root();
    let mut identity = if root { Identity::Lent { uid: ground.uid } } else { Identity::Own };
    let mut made = attempt_confined(launchers, &all, identity, ground).await;
    host.lent_users = match &made {
        _ if !root => Ability::No("only root can lend users of the host; plugins run as the daemon's own".to_owned()),
        (Ability::No(reason), _) => {
            identity = Identity::Shared { uid: ground.uid };
            let reason = reason.clone();
            made = attempt_confined(launchers, &all, identity, ground).await;
            Ability::No(reason)
        }
        (Ability::Yes, _) => Ability::Yes,
    };
    if let (Ability::Yes, said) = made {
        host.trials = trials(&said);
        for ability in [
            &mut host.user_namespaces,
            &mut host.private_root,
            &mut host.network_namespaces,
            &mut host.ipc_namespaces,
            &mut host.host_names,
            &mut host.watchers,
        ] {
            *ability = Ability::Yes;
        }
        if all.landlock != 0 {
            host.landlock = refused(host, "landlock-read", "Landlock was entered, and did not refuse");
        }
        return;
    }
    // One after the other, so that each reason is its own.
    host.user_namespaces = attempt(launchers, enclosed(Some(own_user_map())), None).await.0;
    let base = || enclosed(user_map());
    let mut spec = base();
    spec.namespaces.network = true;
    host.network_namespaces = attempt(launchers, spec, None).await.0;
    let mut spec = base();
    spec.namespaces.ipc = true;
    host.ipc_namespaces = attempt(launchers, spec, None).await.0;
    let mut spec = base();
    spec.hostname = Some(c"probe".to_owned());
    host.host_names = attempt(launchers, spec, None).await.0;
    let mut spec = enclosed(Some(own_user_map()));
    spec.watchers = Some(Watchers { instances: 1, watches: 1 });
    host.watchers = attempt(launchers, spec, None).await.0;
    let root_alone = Offer { network: false, ipc: false, hostname: false, watchers: false, landlock: 0, ..all.clone() };
    let (private_root, said) = attempt_confined(launchers, &root_alone, identity, ground).await;
    if private_root.is_yes() {
        host.trials = trials(&said);
        if all.landlock != 0 {
            let with_landlock = Offer { landlock: all.landlock, ..root_alone };
            host.landlock = attempt_confined(launchers, &with_landlock, identity, ground).await.0;
        }
    } else if all.landlock != 0 {
        host.landlock = Ability::No("its rules are about a private root, which this host does not offer".to_owned());
    }
    host.private_root = private_root;
}

/// Yes if the act was refused.
fn refused(host: &Host, act: &str, otherwise: &str) -> Ability {
    match host.trial(act) {
        Some(Trial { errno: 1.., .. }) => Ability::Yes,
        _ => Ability::No(otherwise.to_owned()),
    }
}

/// A child in a pid namespace and without rights, which says what it finds. That the rights can be taken for good shows that they
/// were there: a user namespace can be granted and be worth nothing.
fn enclosed(user_namespace: Option<UserMap>) -> Spec {
    let mut spec = Spec::new(CString::from(c"/"));
    spec.arguments = vec![c"palisade-launcher".to_owned(), c"--probe".to_owned()];
    spec.user_namespace = user_namespace;
    spec.powerless = true;
    spec
}

async fn attempt_confined(
    launchers: &Launchers,
    offer: &Offer,
    identity: Identity,
    ground: Ground<'_>,
) -> (Ability, String) {
    let (package, data) = (ground.folder.join("package"), ground.folder.join("data"));
    let made = spec::make_data_folder(&package, Identity::Own).and_then(|()| spec::make_data_folder(&data, identity));
    if let Err(reason) = made {
        return (Ability::No(format!("the folder for the probe cannot be made: {reason}")), String::new());
    }
    let inside = Inside {
        identity,
        hostname: "probe",
        package: &package,
        data: &data,
        entry: None,
        interpreter: None,
        denials: Denials::Answered,
        grants: &Grants::default(),
        places: &[],
    };
    let mut spec = enclosed(None);
    spec.arguments = vec![c"palisade-launcher".to_owned(), c"--trial".to_owned()];
    spec::confine(&mut spec, offer, &inside);
    if let Some(root) = &mut spec.root {
        let path = CString::from_vec_with_nul(TRIAL_FILE.to_bytes_with_nul()[1..].to_vec()).unwrap_or_default();
        root.files.push(MadeUp { path, contents: c"not for you\n".to_owned() });
    }
    attempt(launchers, spec, None).await
}

/// Starts one child and waits for its answer: whether it was started and found itself enclosed, and what it said.
async fn attempt(launchers: &Launchers, spec: Spec, tree: Option<&Tree>) -> (Ability, String) {
    attempt_known(launchers, spec, tree).await.1
}

/// The same, and before it whether it was the launcher of this build that was started; otherwise the answer says why not.
async fn attempt_known(launchers: &Launchers, spec: Spec, tree: Option<&Tree>) -> (bool, (Ability, String)) {
    insist(async || attempt_once(launchers, spec.clone(), tree).await).await
}

/// Tries again where a child was lost on the way, for that says nothing about the host, and every plugin would be refused for it.
async fn insist<T>(mut attempt: impl AsyncFnMut() -> Answer<T>) -> T {
    let mut attempts = 1;
    loop {
        match attempt().await {
            Answer::Lost(_) if attempts < ATTEMPTS_MAX => attempts += 1,
            Answer::Lost(told) | Answer::Told(told) => return told,
        }
    }
}

/// What one trial child brought.
enum Answer<T> {
    Told(T),
    /// Something ended its tree before it had finished.
    Lost(T),
}

async fn attempt_once(launchers: &Launchers, spec: Spec, tree: Option<&Tree>) -> Answer<(bool, (Ability, String))> {
    let no = |reason: String| (Ability::No(reason), String::new());
    let leaf = match tree.map(|tree| tree.leaf("probe", None)).transpose() {
        Ok(leaf) => leaf,
        Err(error) => return Answer::Told((true, no(error.to_string()))),
    };
    let port = spec.listener;
    let launch = Launch { spec, entry: launchers.image().as_fd(), interpreter: None, leaf, lent: None };
    let started = launchers.attend(None).await.map_err(SpawnError::from).and_then(|waiting| spawn(waiting, launch));
    let mut child = match started {
        Ok(child) => child,
        Err(error) => {
            let no = no(error.to_string());
            return match error {
                SpawnError::Launcher(NoLauncher::Refused(_) | NoLauncher::NotExecuted(_)) => Answer::Told((false, no)),
                SpawnError::Launcher(NoLauncher::Lost(_)) => Answer::Lost((true, no)),
                SpawnError::Resources { .. } | SpawnError::Specification(_) => Answer::Told((true, no)),
            };
        }
    };
    let mut listener = None;
    let last = async {
        loop {
            match child.control.next_report().await {
                Report::Started(_) => listener = child.control.take_listener(),
                Report::Denied(_) => {}
                last => break last,
            }
        }
    };
    let last = tokio::time::timeout(ANSWER_WITHIN, last).await;
    // It has ended, so all that it said lies in the pipe, of which it fills a small part.
    let mut said = vec![0; ANSWER_BYTES_MAX];
    let length = child.stdout.try_read(&mut said).unwrap_or(0);
    let said = String::from_utf8_lossy(&said[..length]).into_owned();
    let is_known = child.control.launcher_is_known();
    let found = listener.and_then(|listener| listener.local_addr().ok());
    let wanted = port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    let lost = matches!(last, Ok(Report::Exited(Exited { exit: Exit::InitKilled { .. }, .. })));
    let answer = match last {
        Ok(Report::Exited(Exited { exit: Exit::Code(0), .. })) if found != wanted => {
            no(format!("a listener at {wanted:?} was asked for in a network of its own, and {found:?} was handed out"))
        }
        Ok(Report::Exited(Exited { exit: Exit::Code(0), .. })) => (Ability::Yes, said),
        Ok(Report::Exited(Exited { exit, .. })) => {
            no(format!("a trial child did not find itself in a pid namespace of its own: it {exit}"))
        }
        // Its sentence names what failed; the step before it would say so twice.
        Ok(Report::Failed(failure)) => no(failure.message),
        Ok(Report::Started(_) | Report::Denied(_)) | Err(_) if is_known => {
            no("a trial child did not answer within 10 seconds".to_owned())
        }
        Ok(Report::Started(_) | Report::Denied(_)) | Err(_) => {
            no("the launcher did not say within 10 seconds which build it is".to_owned())
        }
    };
    let told = (is_known, answer);
    if lost { Answer::Lost(told) } else { Answer::Told(told) }
}

/// The lines of a child's answer: a name and a number each.
fn lines(said: &str) -> impl Iterator<Item = (&str, i32)> {
    said.lines().filter_map(|line| {
        let (name, number) = line.split_once(' ')?;
        Some((name, number.parse().ok()?))
    })
}

fn value(said: &str, wanted: &str) -> Option<i32> {
    lines(said).find(|(name, _)| *name == wanted).map(|(_, number)| number)
}

fn trials(said: &str) -> Vec<Trial> {
    lines(said).map(|(act, errno)| Trial { act: act.to_owned(), errno }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_that_is_lost_is_not_the_hosts_answer() {
        for (losses, told) in [(0, 1), (1, 2), (2, 3), (3, 3), (99, 3)] {
            let mut attempt = 0;
            let answer = insist(async || {
                attempt += 1;
                if attempt <= losses { Answer::Lost(attempt) } else { Answer::Told(attempt) }
            });
            assert_eq!(answer.await, told, "{losses} are lost");
        }
    }

    fn host(pid: bool, cgroup: bool, controllers: &[&str]) -> Host {
        let ability = |yes| if yes { Ability::Yes } else { Ability::No("not here".to_owned()) };
        Host {
            launcher: Ability::Yes,
            user_namespaces: Ability::Yes,
            pid_namespaces: ability(pid),
            private_root: Ability::Yes,
            network_namespaces: Ability::Yes,
            way_out: Ability::Yes,
            ipc_namespaces: Ability::Yes,
            host_names: Ability::Yes,
            watchers: Ability::Yes,
            landlock: Ability::Yes,
            landlock_version: 7,
            seccomp: Ability::Yes,
            quotas: Ability::Yes,
            lent_users: Ability::Yes,
            trials: Vec::new(),
            cgroup: ability(cgroup),
            controllers: controllers.iter().map(|&name| name.to_owned()).collect(),
            uncontrolled: None,
            descriptors: Descriptors { soft: Some(1024), hard: Some(1024) },
        }
    }

    #[test]
    fn the_tier_follows_from_what_was_found() {
        let all = ["cpuset", "cpu", "io", "memory", "pids"];
        for (found, tier) in [
            (host(true, true, &all), Tier::A),
            (host(true, true, &["cpu", "memory"]), Tier::B),
            (host(true, true, &[]), Tier::B),
            (host(true, false, &[]), Tier::C),
            (host(false, true, &all), Tier::None),
        ] {
            assert_eq!(found.tier(), tier, "{found:?}");
        }
    }

    #[test]
    fn the_plugins_that_fit_follow_from_the_hard_limit() {
        let fit = |hard, connections| Descriptors { soft: Some(64), hard }.plugins_max(connections);
        assert_eq!(fit(Some(256 + 11 * 100), None), Some(100));
        assert_eq!(fit(Some(256 + (11 + 1 + 2 * 32) * 100), Some(32)), Some(100));
        assert_eq!(fit(Some(1024), Some(usize::MAX)), Some(0));
        assert_eq!(fit(Some(100), None), Some(0));
        assert_eq!(fit(None, Some(32)), None);
    }
}
