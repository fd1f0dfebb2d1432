//! The guarantee report: each control with what became of it on this host, by which mechanism, and how that is known.
//!
//! Evidence names its source. `launcher` and `daemon`: the step's own result, as a step that does not hold ends the start. `trial`: a
//! forbidden act that a child tried which was confined like a plugin, and what it met. `kernel`: what the kernel says of
//! the running process. Invariant: of a plugin that runs, a control is `enforced` only if there is evidence of one of these kinds; of one
//! that does not, `enforced` is what a start is held to.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use palisade_protocol::{Guarantee, GuaranteeState, Proof, ProofSource};

use super::spec::{Identity, Offer};
use crate::model::permission::grants::Grants;

/// What is known about this host since the daemon started.
#[derive(Clone, Debug)]
pub struct Facts {
    /// What there is to confine with.
    pub offer: Offer,
    /// Who plugins are on the host.
    pub users: Users,
    /// Why something is not offered: the control's name, and a sentence.
    pub reasons: Vec<(&'static str, String)>,
    /// What forbidden acts met: the act's name, and what came of it.
    pub trials: Vec<(String, String)>,
    /// Plugins are born in leaf cgroups.
    pub cgroup: bool,
    /// The kernel refuses a plugin what is more than it may have on the disk: that was tried.
    pub quotas: bool,
}

/// Who plugins are on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// The daemon's own user.
    Own,
    /// One of their own each, lent.
    Lent,
    /// One that they share.
    Shared {
        /// Its number.
        uid: u32,
    },
}

impl Users {
    /// Who a plugin is; `lent` is the number that it was lent, if any are.
    #[must_use]
    pub fn identity(self, lent: Option<u32>) -> Option<Identity> {
        match (self, lent) {
            (Self::Own, _) => Some(Identity::Own),
            (Self::Lent, lent) => lent.map(|uid| Identity::Lent { uid }),
            (Self::Shared { uid }, _) => Some(Identity::Shared { uid }),
        }
    }
}

/// What the kernel says of a running plugin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// Lines of its status file, by name.
    status: Vec<(String, String)>,
    /// Namespaces that are not the daemon's.
    namespaces: Vec<&'static str>,
    /// The quota of its data, or why it has none.
    quota: Option<Result<String, String>>,
    /// What RLIMIT_NPROC of the process is, and what it should be.
    processes: Option<(u64, u64)>,
    /// Files of its cgroup, and what stands in them.
    cgroup: Vec<(&'static str, String)>,
}

/// The files of a cgroup that hold a limit.
const LIMITS: [&str; 4] = ["memory.max", "memory.swap.max", "pids.max", "cpu.max"];

/// The fields of `/proc/PID/status` that say something about confinement.
const STATUS: [&str; 5] = ["Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"];

const NAMESPACES: [&str; 7] = ["user", "pid", "mnt", "net", "ipc", "uts", "cgroup"];

impl Observed {
    /// Looks at a process. What cannot be read is not in it.
    #[must_use]
    pub fn of(pid: u32) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let status = fields
            .filter(|(name, _)| STATUS.contains(name))
            .map(|(name, value)| (name.to_owned(), value.trim().replace('\t', " ")))
            .collect();
        let namespaces = NAMESPACES.into_iter().filter(|name| {
            let link = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{name}"));
            matches!((link("self"), link(&pid.to_string())), (Ok(own), Ok(other)) if own != other)
        });
        Self { status, namespaces: namespaces.collect(), quota: None, processes: None, cgroup: Vec::new() }
    }

    /// With the limits that its cgroup has, those that there are.
    #[must_use]
    pub fn with_cgroup(self, leaf: &Path) -> Self {
        let read = |file| Some((file, fs::read_to_string(leaf.join(file)).ok()?.trim().to_owned()));
        Self { cgroup: LIMITS.into_iter().filter_map(read).collect(), ..self }
    }

    /// With the number of processes that the kernel lets it have, which `wanted` may differ from since it was started.
    #[must_use]
    pub fn with_processes(self, pid: u32, wanted: u64) -> Self {
        let text = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("Max processes"));
        let held = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
        Self { processes: held.map(|held| (held, wanted)), ..self }
    }

    fn limit(&self, file: &str) -> Option<String> {
        let (file, value) = self.cgroup.iter().find(|(name, _)| *name == file)?;
        Some(format!("kernel: {value} in {file}"))
    }

    /// With what the kernel has as the quota of its data, or why that does not hold it to what it may have.
    #[must_use]
    pub fn with_quota(self, quota: Result<String, String>) -> Self {
        Self { quota: Some(quota), ..self }
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.status.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }
}

impl Facts {
    /// What the operator is told about what every start needs and this host does not have; empty where all is there.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let needed = [
            ("user_namespace", self.offer.user_namespaces),
            ("private_root", self.offer.private_root),
            ("network_namespace", self.offer.network),
            ("seccomp", self.offer.seccomp),
        ];
        let missing = needed.into_iter().filter(|(_, there)| !there);
        missing.map(|(name, _)| format!("{name}: {}", self.reason(name))).collect()
    }

    fn reason(&self, control: &str) -> &str {
        self.reasons.iter().find(|(name, _)| *name == control).map_or("not on this host", |(_, reason)| reason)
    }

    fn trial(&self, act: &str) -> Option<String> {
        self.trials.iter().find(|(name, _)| name == act).map(|(name, met)| format!("trial: {name} met \"{met}\""))
    }

    /// Every control, for a plugin with these grants. `observed` is what the kernel says of it, while it runs.
    #[must_use]
    pub fn guarantees(&self, grants: &Grants, observed: Option<&Observed>) -> Vec<Guarantee> {
        use GuaranteeState::{Absent, Degraded, Enforced, Monitored};
        let mut report = Report { facts: self, observed, guarantees: Vec::new() };
        let offer = &self.offer;
        report.offered(
            "private_root",
            offer.private_root,
            "pivot_root into a tree of its own",
            &["read-shadow", "write-outside"],
            Some("mnt"),
        );
        report.offered(
            "user_namespace",
            offer.user_namespaces,
            "a map of one user, 1000 inside",
            &["setuid0"],
            Some("user"),
        );
        let (state, mechanism) = match self.users {
            Users::Lent => (Enforced, "a user of the host of its own, lent while it runs; its data are mapped"),
            Users::Own => (Degraded, "the daemon's own user; only root can lend others"),
            Users::Shared { .. } => (Degraded, "one unprivileged user that all plugins share"),
        };
        let mut evidence = vec!["launcher: identity".to_owned()];
        if matches!(self.users, Users::Shared { .. }) {
            evidence.push(self.reason("own_user").to_owned());
        }
        evidence.extend(report.field("Uid"));
        report.push("own_user", state, mechanism, &evidence);
        report.offered(
            "pid_namespace",
            true,
            "pid 1 of a namespace, with which everything in it ends",
            &[],
            Some("pid"),
        );
        report.push(
            "kill_tree",
            Enforced,
            "the kernel ends a pid namespace with its pid 1",
            &["launcher: pid namespace".to_owned()],
        );
        report.offered("network_namespace", offer.network, "no device but loopback", &["udp-direct"], Some("net"));
        report.network_access(grants);
        report.offered("ipc_namespace", offer.ipc, "no System V objects or message queues of others", &[], Some("ipc"));
        report.offered("hostname", offer.hostname, "a name of its own", &[], Some("uts"));
        let watchers = offer.user_namespaces && offer.watchers;
        report.offered("watchers", watchers, "it has a few of the inotify descriptors of its user", &[], None);
        report.offered(
            "cgroup_namespace",
            offer.private_root,
            "its own cgroup is the root of what it sees",
            &[],
            Some("cgroup"),
        );
        report.confirmed("capabilities", "none, and an empty bounding set", &["mknod"], "CapBnd", "0000000000000000");
        report.confirmed("no_new_privs", "no program gives rights", &[], "NoNewPrivs", "1");
        if offer.landlock == 0 {
            report.push("landlock", Absent, "", &[self.reason("landlock").to_owned()]);
        } else {
            let mechanism = format!("every right of version {}", offer.landlock);
            let mut evidence = vec!["launcher: landlock".to_owned()];
            evidence.extend(self.trial("landlock-read"));
            report.push("landlock", Enforced, &mechanism, &evidence);
        }
        if offer.seccomp {
            let mechanism = "the calls of config/seccomp are allowed, and no others";
            report.confirmed("seccomp", mechanism, &["unshare-user"], "Seccomp", "2");
        } else {
            report.push("seccomp", Absent, "", &[self.reason("seccomp").to_owned()]);
        }
        if grants.execute_code {
            report.push("exec_once", Absent, "", &["execute_code is granted".to_owned()]);
        } else {
            report.offered("exec_once", offer.seccomp, "it executes nothing but itself, once", &["exec-again"], None);
        }
        if self.cgroup {
            report.push("cgroup", Enforced, "born in a leaf of its own", &["launcher: pid namespace".to_owned()]);
        } else {
            report.push("cgroup", Absent, "", &[self.reason("cgroup").to_owned()]);
        }
        let launcher = ["launcher: limits".to_owned()];
        if offer.controllers {
            let evidence = |files: &[&str]| {
                let read: Vec<_> = files.iter().filter_map(|file| observed?.limit(file)).collect();
                // Of one that does not run there is nothing to be read.
                if read.is_empty() {
                    vec!["daemon: written before the first process was born in it".to_owned()]
                } else {
                    read
                }
            };
            let mechanism = "memory.max of its cgroup, and no swap";
            report.push("memory", Enforced, mechanism, &evidence(&["memory.max", "memory.swap.max"]));
            report.push("pids", Enforced, "pids.max of its cgroup", &evidence(&["pids.max"]));
            report.push("cpu", Enforced, "cpu.max of its cgroup", &evidence(&["cpu.max"]));
        } else {
            let why = self.reason("controllers");
            let mechanism = format!(
                "RLIMIT_DATA of each process; the tree is looked at every second and ended where it has more: {why}"
            );
            report.push("memory", Monitored, &mechanism, &launcher);
            let counted = "they are counted every second, and the tree is ended where they are more";
            match observed.and_then(|observed| observed.processes) {
                _ if !offer.user_namespaces => report.push("pids", Monitored, &format!("{counted}: {why}"), &[]),
                Some((held, wanted)) if held != wanted => {
                    let why = format!("the limit was changed, and RLIMIT_NPROC is {held} until it is started anew");
                    report.push("pids", Monitored, &format!("{counted}: {why}"), &[]);
                }
                seen => {
                    let mut evidence = launcher.to_vec();
                    evidence.extend(seen.map(|(held, _)| format!("kernel: Max processes {held} in /proc/PID/limits")));
                    report.push("pids", Enforced, "RLIMIT_NPROC, counted in its user namespace", &evidence);
                }
            }
            let mechanism = format!("it is looked at every second, and not throttled: {why}");
            report.push("cpu", Monitored, &mechanism, &[]);
        }
        report.push("open_files", Enforced, "RLIMIT_NOFILE", &launcher);
        report.push("file_size", Enforced, "RLIMIT_FSIZE", &launcher);
        let temporary = if offer.private_root {
            "/tmp and /dev/shm are tmpfs of 64 MiB"
        } else {
            "/tmp and /dev/shm are the host's, and nothing bounds what is there"
        };
        let mechanism =
            &format!("its data are counted again and again, and it is ended where they are too much; {temporary}");
        match observed.and_then(|observed| observed.quota.as_ref()) {
            _ if !self.quotas => report.push("disk", Monitored, mechanism, &[]),
            Some(Err(reason)) => report.push("disk", Monitored, mechanism, std::slice::from_ref(reason)),
            seen => {
                let mechanism = &format!("the project quota of its data folder; {temporary}");
                let mut evidence = vec!["trial: a write beyond a quota was refused".to_owned()];
                evidence.extend(seen.and_then(|seen| seen.as_ref().ok()).map(|held| format!("kernel: {held}")));
                report.push("disk", Enforced, mechanism, &evidence);
            }
        }
        let mechanism = "so much of its output is read a second, and what is more waits in its pipes";
        report.push("logs", Enforced, mechanism, &["daemon: nothing else reads them".to_owned()]);
        report.guarantees
    }
}

/// The same for a plugin of which no process runs: what a start is held to. No step of one has been taken, so none of them is evidence.
#[must_use]
pub fn without_a_process(mut guarantee: Guarantee, why: &str) -> Guarantee {
    let is_a_step = |proof: &Proof| matches!(proof.source, ProofSource::Launcher | ProofSource::Daemon);
    if guarantee.proofs.iter().any(is_a_step) {
        guarantee.proofs.retain(|proof| !is_a_step(proof));
        let mut pieces = vec![guarantee.mechanism.clone()];
        if guarantee.reason != guarantee.mechanism {
            pieces.push(guarantee.reason.clone());
        }
        // All that is left was found by a trial.
        pieces.extend(guarantee.proofs.iter().map(|proof| format!("trial: {}", proof.found)));
        pieces.push(why.to_owned());
        pieces.retain(|piece| !piece.is_empty());
        guarantee.evidence = pieces.join("; ");
    }
    guarantee
}

/// A piece of evidence with its source in front; what has none is a reason.
fn proof(piece: &str) -> Option<Proof> {
    let (source, found) = piece.split_once(": ")?;
    let source = match source {
        "kernel" => ProofSource::Kernel,
        "launcher" => ProofSource::Launcher,
        "trial" => ProofSource::Trial,
        "daemon" => ProofSource::Daemon,
        _ => return None,
    };
    Some(Proof { source, found: found.to_owned() })
}

struct Report<'a> {
    facts: &'a Facts,
    observed: Option<&'a Observed>,
    guarantees: Vec<Guarantee>,
}

impl Report<'_> {
    /// What it can reach. A way out that is granted is enforced only where there is no other.
    fn network_access(&mut self, grants: &Grants) {
        /// The others are in `permissions`.
        const NAMED: usize = 8;
        const CONTROL: &str = "network_access";
        if !self.facts.offer.network {
            let reason = format!("it reaches whatever the host does: {}", self.facts.reason("network_namespace"));
            return self.push(CONTROL, GuaranteeState::Absent, "", &[reason]);
        }
        let hosts = &grants.network_access;
        if hosts.is_empty() {
            let evidence = ["launcher: network namespace".to_owned()];
            return self.push(
                CONTROL,
                GuaranteeState::Enforced,
                "no host is granted, and there is no way out",
                &evidence,
            );
        }
        let mut named: Vec<_> = hosts.iter().take(NAMED).map(ToString::to_string).collect();
        if NAMED < hosts.len() {
            named.push(format!("{} more", hosts.len() - NAMED));
        }
        let mechanism = format!("through the daemon's proxy alone, to {}", named.join(", "));
        let evidence = ["launcher: listener".to_owned(), "daemon: each connection is decided and recorded".to_owned()];
        self.push(CONTROL, GuaranteeState::Enforced, &mechanism, &evidence);
    }

    fn push(&mut self, control: &str, state: GuaranteeState, mechanism: &str, evidence: &[String]) {
        let mut text = mechanism.to_owned();
        let mut proofs = Vec::new();
        let mut reason = String::new();
        for piece in evidence {
            let _ = write!(text, "{}{piece}", if text.is_empty() { "" } else { "; " });
            match proof(piece) {
                Some(proof) => proofs.push(proof),
                None => {
                    let _ = write!(reason, "{}{piece}", if reason.is_empty() { "" } else { "; " });
                }
            }
        }
        if reason.is_empty() && state != GuaranteeState::Enforced {
            mechanism.clone_into(&mut reason);
        }
        let (control, mechanism) = (control.to_owned(), mechanism.to_owned());
        self.guarantees.push(Guarantee { control, state, evidence: text, mechanism, reason, required: false, proofs });
    }

    /// A control that is there wherever the probe could make it, and the namespace of the kernel that shows it.
    fn offered(&mut self, control: &str, there: bool, mechanism: &str, acts: &[&str], namespace: Option<&'static str>) {
        if !there {
            let reason = self.facts.reason(control).to_owned();
            return self.push(control, GuaranteeState::Absent, "", &[reason]);
        }
        let mut evidence = vec![format!("launcher: {}", control.replace('_', " "))];
        evidence.extend(acts.iter().filter_map(|act| self.facts.trial(act)));
        if let (Some(observed), Some(namespace)) = (self.observed, namespace)
            && observed.namespaces.contains(&namespace)
        {
            evidence.push(format!("kernel: /proc/PID/ns/{namespace} is not the daemon's"));
        }
        self.push(control, GuaranteeState::Enforced, mechanism, &evidence);
    }

    fn field(&self, name: &str) -> Option<String> {
        let value = self.observed?.field(name)?;
        Some(format!("kernel: {name}: {value} in /proc/PID/status"))
    }

    /// A control that every start has, and a field that shows it while the plugin runs. What the kernel says counts more
    /// than what was done.
    fn confirmed(&mut self, control: &str, mechanism: &str, acts: &[&str], field: &str, expected: &str) {
        let mut evidence = vec![format!("launcher: {}", control.replace('_', " "))];
        evidence.extend(acts.iter().filter_map(|act| self.facts.trial(act)));
        evidence.extend(self.field(field));
        let seen = self.observed.and_then(|observed| observed.field(field));
        let state =
            if seen.is_none_or(|seen| seen == expected) { GuaranteeState::Enforced } else { GuaranteeState::Absent };
        self.push(control, state, mechanism, &evidence);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::guarantee::CONTROLS;

    fn facts(offer: Offer) -> Facts {
        Facts {
            offer,
            users: Users::Lent,
            reasons: vec![("network_namespace", "this host allows no more".to_owned())],
            trials: vec![("read-shadow".to_owned(), "No such file or directory".to_owned())],
            cgroup: false,
            quotas: false,
        }
    }

    fn all() -> Offer {
        Offer {
            user_namespaces: true,
            private_root: true,
            network: true,
            ipc: true,
            hostname: true,
            watchers: true,
            landlock: 7,
            seccomp: true,
            ..Offer::default()
        }
    }

    fn state(guarantees: &[Guarantee], control: &str) -> (GuaranteeState, String) {
        let found = guarantees.iter().find(|guarantee| guarantee.control == control).unwrap();
        (found.state, found.evidence.clone())
    }

    #[test]
    fn a_layer_that_is_taken_away_is_absent_with_its_reason_and_missed() {
        let there = facts(all());
        assert!(there.missing().is_empty());
        let guarantees = there.guarantees(&Grants::default(), None);
        let (shown, evidence) = state(&guarantees, "private_root");
        assert_eq!(shown, GuaranteeState::Enforced);
        assert!(evidence.contains("trial: read-shadow met \"No such file or directory\""), "{evidence}");

        let gone = facts(Offer { network: false, ..all() });
        assert_eq!(gone.missing(), ["network_namespace: this host allows no more"]);
        let (shown, evidence) = state(&gone.guarantees(&Grants::default(), None), "network_namespace");
        assert_eq!((shown, evidence.as_str()), (GuaranteeState::Absent, "this host allows no more"));
        let gone = facts(Offer { landlock: 0, ..all() });
        assert!(gone.missing().is_empty(), "a start does not need it");
        assert_eq!(state(&gone.guarantees(&Grants::default(), None), "landlock").0, GuaranteeState::Absent);
    }

    #[test]
    fn a_way_out_is_reported_as_it_is() {
        use crate::model::permission::network::Scope;
        let hosts = (0..10).map(|n| Scope::parse(&format!("h{n}.example:443")).unwrap()).collect();
        let granted = Grants { network_access: hosts, ..Grants::default() };
        let shown = |offer: Offer, grants: &Grants| state(&facts(offer).guarantees(grants, None), "network_access");
        let (none, evidence) = shown(all(), &Grants::default());
        assert_eq!((none, evidence.contains("there is no way out")), (GuaranteeState::Enforced, true), "{evidence}");
        let (some, evidence) = shown(all(), &granted);
        assert_eq!(some, GuaranteeState::Enforced);
        assert!(evidence.starts_with("through the daemon's proxy alone, to h0.example:443, "), "{evidence}");
        assert!(evidence.contains("h7.example:443, 2 more; launcher: listener"), "{evidence}");
        for grants in [&granted, &Grants::default()] {
            let (state, evidence) = shown(Offer { network: false, ..all() }, grants);
            assert_eq!(state, GuaranteeState::Absent);
            assert_eq!(evidence, "it reaches whatever the host does: this host allows no more");
        }
    }

    #[test]
    fn every_control_can_be_required() {
        let landless = Offer { landlock: 0, seccomp: false, ..all() };
        for offer in [all(), landless, Offer::default(), Offer { controllers: true, ..all() }] {
            for guarantee in facts(offer).guarantees(&Grants::default(), None) {
                assert!(CONTROLS.contains(&guarantee.control.as_str()), "{guarantee:?}");
            }
        }
    }

    #[test]
    fn evidence_has_its_source_and_less_than_enforced_a_reason() {
        let mut facts = facts(Offer { network: false, ..all() });
        facts.reasons.push(("controllers", "somebody else's".to_owned()));
        let guarantees = facts.guarantees(&Grants::default(), None);
        let of = |control: &str| guarantees.iter().find(|guarantee| guarantee.control == control).unwrap();
        let proof = |source, found: &str| Proof { source, found: found.to_owned() };
        let root = of("private_root");
        assert_eq!((root.mechanism.as_str(), root.reason.as_str()), ("pivot_root into a tree of its own", ""));
        let tried = "read-shadow met \"No such file or directory\"";
        assert_eq!(root.proofs, [proof(ProofSource::Launcher, "private root"), proof(ProofSource::Trial, tried)]);
        let network = of("network_namespace");
        assert_eq!((network.mechanism.as_str(), network.reason.as_str()), ("", "this host allows no more"));
        assert!(network.proofs.is_empty());
        let memory = of("memory");
        assert!(memory.reason.contains("somebody else's") && memory.mechanism.starts_with("RLIMIT_DATA"), "{memory:?}");
        for guarantee in &guarantees {
            let enforced = guarantee.state == GuaranteeState::Enforced;
            assert_eq!(enforced, guarantee.reason.is_empty(), "{guarantee:?}");
            assert!(!enforced || !guarantee.proofs.is_empty(), "{guarantee:?}");
        }
    }

    #[test]
    fn of_a_plugin_that_does_not_run_no_step_is_claimed() {
        let mut facts = facts(Offer { network: false, ..all() });
        facts.reasons.push(("controllers", "somebody else's".to_owned()));
        for guarantee in facts.guarantees(&Grants::default(), None) {
            let before = guarantee.clone();
            let shown = without_a_process(guarantee, "not started yet");
            assert!(!shown.evidence.contains("launcher: ") && !shown.evidence.contains("daemon: "), "{shown:?}");
            assert!(shown.proofs.iter().all(|proof| proof.source == ProofSource::Trial), "{shown:?}");
            assert_eq!(shown.evidence.ends_with("not started yet"), shown.proofs != before.proofs, "{shown:?}");
            assert_eq!(
                (shown.state, &shown.mechanism, &shown.reason),
                (before.state, &before.mechanism, &before.reason)
            );
            assert!(shown.evidence.starts_with(&before.mechanism), "{shown:?}");
        }
        let root = facts.guarantees(&Grants::default(), None).swap_remove(0);
        assert_eq!(
            without_a_process(root, "not started yet").evidence,
            "pivot_root into a tree of its own; trial: read-shadow met \"No such file or directory\"; not started yet"
        );
    }

    #[test]
    fn limits_are_of_the_tree_where_there_are_controllers() {
        use GuaranteeState::{Enforced, Monitored};
        let states = |offer: Offer| {
            let facts = Facts { reasons: vec![("controllers", "somebody else's".to_owned())], ..facts(offer) };
            let guarantees = facts.guarantees(&Grants::default(), None);
            ["memory", "pids", "cpu"].map(|control| state(&guarantees, control))
        };
        let controlled = states(Offer { controllers: true, ..all() });
        assert!(controlled.iter().all(|(state, _)| *state == Enforced), "{controlled:?}");
        let without = states(all());
        assert_eq!(without.each_ref().map(|(state, _)| *state), [Monitored, Enforced, Monitored]);
        assert!(without[0].1.contains("somebody else's") && without[2].1.contains("somebody else's"), "{without:?}");
        let less = states(Offer { user_namespaces: false, ..all() });
        assert_eq!(less[1].0, Monitored);
    }

    #[test]
    fn a_limit_of_processes_that_was_changed_is_the_kernels_from_the_next_start_on() {
        let facts = Facts { reasons: vec![("controllers", "somebody else's".to_owned())], ..facts(all()) };
        let pids = |held: u64| {
            let observed = Observed { processes: Some((held, 11)), ..Observed::default() };
            let found = facts.guarantees(&Grants::default(), Some(&observed));
            let found = found.into_iter().find(|one| one.control == "pids").unwrap();
            (found.state, found.evidence)
        };
        let (state, evidence) = pids(11);
        assert_eq!(state, GuaranteeState::Enforced);
        assert!(evidence.ends_with("kernel: Max processes 11 in /proc/PID/limits"), "{evidence}");
        let (state, evidence) = pids(25);
        assert_eq!(state, GuaranteeState::Monitored);
        assert!(evidence.contains("RLIMIT_NPROC is 25 until it is started anew"), "{evidence}");
    }

    #[test]
    fn limits_are_those_that_stand_in_the_cgroup() {
        let leaf = tempfile::tempdir().unwrap();
        for (file, value) in [("memory.max", "67108864\n"), ("memory.swap.max", "0\n"), ("cpu.max", "50000 100000\n")] {
            fs::write(leaf.path().join(file), value).unwrap();
        }
        let facts = facts(Offer { controllers: true, ..all() });
        let observed = Observed::default().with_cgroup(leaf.path());
        let guarantees = facts.guarantees(&Grants::default(), Some(&observed));
        let evidence = |control: &str| {
            let found = guarantees.iter().find(|one| one.control == control).unwrap();
            found.evidence.split_once("; ").unwrap().1.to_owned()
        };
        assert_eq!(evidence("memory"), "kernel: 67108864 in memory.max; kernel: 0 in memory.swap.max");
        assert_eq!(evidence("cpu"), "kernel: 50000 100000 in cpu.max");
        assert_eq!(evidence("pids"), "daemon: written before the first process was born in it");
    }

    #[test]
    fn what_the_kernel_says_counts_more_than_what_was_done() {
        let facts = facts(all());
        let mut observed = Observed {
            status: vec![("NoNewPrivs".to_owned(), "1".to_owned())],
            namespaces: vec!["net"],
            ..Observed::default()
        };
        let (shown, evidence) = state(&facts.guarantees(&Grants::default(), Some(&observed)), "no_new_privs");
        assert_eq!(shown, GuaranteeState::Enforced);
        assert!(evidence.contains("kernel: NoNewPrivs: 1"), "{evidence}");
        observed.status[0].1 = "0".to_owned();
        assert_eq!(
            state(&facts.guarantees(&Grants::default(), Some(&observed)), "no_new_privs").0,
            GuaranteeState::Absent
        );
    }

    #[test]
    fn a_disk_is_held_by_a_quota_where_the_kernel_has_one() {
        let disk = |facts: &Facts, quota: Option<Result<String, String>>| {
            let observed = Observed { quota, ..Observed::default() };
            let guarantees = facts.guarantees(&Grants::default(), Some(&observed));
            guarantees.into_iter().find(|guarantee| guarantee.control == "disk").unwrap()
        };
        let counted = disk(&facts(all()), None);
        assert_eq!(counted.state, GuaranteeState::Monitored);
        let facts = Facts { quotas: true, ..facts(all()) };
        let held = disk(&facts, Some(Ok("8 MiB".to_owned())));
        assert_eq!((held.state, held.reason.as_str()), (GuaranteeState::Enforced, ""));
        assert_eq!(held.proofs.last(), Some(&Proof { source: ProofSource::Kernel, found: "8 MiB".to_owned() }));
        let lost = disk(&facts, Some(Err("it has none".to_owned())));
        assert_eq!((lost.state, lost.reason.as_str()), (GuaranteeState::Monitored, "it has none"));
    }

    #[test]
    fn what_bounds_tmp_is_said_where_it_is_the_plugins_own() {
        let disk = |offer| state(&facts(offer).guarantees(&Grants::default(), None), "disk").1;
        assert!(disk(all()).ends_with("/tmp and /dev/shm are tmpfs of 64 MiB"), "{}", disk(all()));
        let without = disk(Offer { private_root: false, ..all() });
        assert!(without.ends_with("/tmp and /dev/shm are the host's, and nothing bounds what is there"), "{without}");
    }

    #[test]
    fn this_process_is_seen_as_it_is() {
        let observed = Observed::of(std::process::id());
        assert_eq!(observed.namespaces, Vec::<&str>::new());
        assert!(observed.field("NoNewPrivs").is_some());
    }
}
