//! What can this host do? Found out by starting real children, for `doctor` and for the daemon's start.
//!
//! A probe's child is the launcher itself in its `--probe` mode, which exits with 0 exactly if it finds itself enclosed
//! as it should be; so the probe needs no other program, and what it tries is what a plugin's start will do.

use std::{ffi::CString, fmt, os::fd::AsFd, time::Duration};

use palisade_launcher::{Spec, UserMap};
use rustix::process::{Resource, getrlimit};

use super::{
    cgroup::{Tree, Unavailable},
    own_user_map, user_map,
};
use crate::process::{DESCRIPTORS_PER_CHILD, Exit, Exited, Launch, LauncherImage, Report, spawn};

/// A probe's child takes a millisecond; one that takes this long will not answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// What the daemon needs for itself: sockets, files, its runtime, and agents' connections.
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
    /// A user namespace with a map of one user.
    pub user_namespaces: Ability,
    /// A pid namespace, the way this daemon makes one: as root directly, otherwise within a user namespace.
    pub pid_namespaces: Ability,
    /// A leaf cgroup in which a child is born.
    pub cgroup: Ability,
    /// The controllers that plugins' cgroups have; none on a hybrid host.
    pub controllers: Vec<String>,
    /// Why plugins' cgroups have none of these, where they have none.
    pub uncontrolled: Option<String>,
    /// How many descriptors the daemon may have.
    pub descriptors: Descriptors,
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
    /// How many plugins fit under the hard limit, to which the daemon raises the soft one. `None`: no bound.
    pub fn plugins_max(self) -> Option<u64> {
        self.hard.map(|hard| hard.saturating_sub(DESCRIPTORS_OF_THE_DAEMON) / DESCRIPTORS_PER_CHILD)
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

/// Tries everything out. `tree` is the daemon's cgroup folder, or why it has none.
///
/// Dropping the future ends its children; nothing of them stays in any case.
pub async fn probe(image: &LauncherImage, tree: Result<&Tree, &Unavailable>) -> Host {
    let pid_namespaces = attempt(image, user_map(), None).await;
    let user_namespaces = match user_map() {
        // Without root the one goes through the other, so this has just been shown.
        Some(_) if pid_namespaces.is_yes() => Ability::Yes,
        _ => attempt(image, Some(own_user_map()), None).await,
    };
    let cgroup = match tree {
        Ok(tree) => attempt(image, user_map(), Some(tree)).await,
        Err(reason) => Ability::No(reason.to_string()),
    };
    let controllers = tree.ok().and_then(|tree| tree.controllers().ok()).unwrap_or_default();
    let uncontrolled = tree.ok().and_then(|tree| tree.controlled().err()).map(ToString::to_string);
    let limit = getrlimit(Resource::Nofile);
    let descriptors = Descriptors { soft: limit.current, hard: limit.maximum };
    Host { user_namespaces, pid_namespaces, cgroup, controllers, uncontrolled, descriptors }
}

/// Starts one child and waits for its answer.
async fn attempt(image: &LauncherImage, user_namespace: Option<UserMap>, tree: Option<&Tree>) -> Ability {
    let leaf = match tree.map(|tree| tree.leaf("probe", None)).transpose() {
        Ok(leaf) => leaf,
        Err(error) => return Ability::No(error.to_string()),
    };
    let mut spec = Spec::new(CString::from(c"/"));
    spec.arguments = vec![c"palisade-launcher".to_owned(), c"--probe".to_owned()];
    spec.user_namespace = user_namespace;
    let launch = Launch { spec, entry: image.as_fd(), interpreter: None, leaf };
    let mut child = match spawn(image, launch) {
        Ok(child) => child,
        Err(error) => return Ability::No(error.to_string()),
    };
    let last = async {
        loop {
            match child.control.next_report().await {
                Report::Started(_) => {}
                last => break last,
            }
        }
    };
    match tokio::time::timeout(ANSWER_WITHIN, last).await {
        Ok(Report::Exited(Exited { exit: Exit::Code(0), .. })) => Ability::Yes,
        Ok(Report::Exited(Exited { exit, .. })) => {
            Ability::No(format!("a trial child did not find itself in a pid namespace of its own: it {exit}"))
        }
        Ok(Report::Failed(failure)) => Ability::No(failure.to_string()),
        Ok(Report::Started(_)) | Err(_) => Ability::No("a trial child did not answer within 10 seconds".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(pid: bool, cgroup: bool, controllers: &[&str]) -> Host {
        let ability = |yes| if yes { Ability::Yes } else { Ability::No("not here".to_owned()) };
        Host {
            user_namespaces: Ability::Yes,
            pid_namespaces: ability(pid),
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
        let fit = |hard| Descriptors { soft: Some(64), hard }.plugins_max();
        assert_eq!(fit(Some(256 + 11 * 100)), Some(100));
        assert_eq!(fit(Some(100)), Some(0));
        assert_eq!(fit(None), None);
    }
}
