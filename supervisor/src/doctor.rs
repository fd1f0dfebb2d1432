//! `palisade doctor`: what this host can do for plugins, what is wrong, and what to do about it.

use std::path::Path;

use semver::Version;
use serde::Serialize;

use crate::config::{self, Config};
use crate::model::ids::{PluginId, SecretName};
use crate::model::status::{PassedOver, PluginState, PreparedLaunchers};
use crate::model::updates::{By, Held};
use crate::registry::Registry;
use crate::sandbox::probe::{Ability, Host, Tier};

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// As it should be.
    Ok,
    /// It works, with less than there could be.
    Warn,
    /// It does not work.
    Fail,
}

/// One check.
#[derive(Debug, Clone, Serialize)]
pub struct Check {
    /// What was looked at.
    pub name: &'static str,
    /// How it came out.
    pub state: Outcome,
    /// What was found, a sentence.
    pub summary: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// All checks.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// In the order in which they matter.
    pub checks: Vec<Check>,
}

impl Report {
    /// Whether plugins can run at all.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.checks.iter().any(|check| check.state == Outcome::Fail)
    }
}

/// What is wrong of that which only some daemons have.
#[derive(Debug, Default)]
pub struct Known<'a> {
    /// Why launchers are no copies, if they are not.
    pub one_by_one: Option<&'a str>,
    /// What is wrong with the registry's database.
    pub forgets: Option<&'a str>,
    /// Which changes in plugin directories are not noticed.
    pub unwatched: Option<&'a str>,
    /// With which key secrets are sealed, or what is wrong with it.
    pub sealed_with: Option<Result<String, String>>,
}

/// What is known about this host and configuration.
#[must_use]
pub fn report(
    host: &Host,
    config: &Config,
    known: &Known<'_>,
    prepared: &PreparedLaunchers,
    registry: &Registry,
) -> Report {
    let ability = |name, ability: &Ability, missing: Outcome, what: &str| match ability {
        Ability::Yes => Check { name, state: Outcome::Ok, summary: what.to_owned(), hint: None },
        Ability::No(reason) => Check { name, state: missing, summary: reason.clone(), hint: None },
    };
    let root = rustix::process::geteuid().is_root();
    // What a child met that was confined like a plugin.
    let met: Vec<_> = host.trials.iter().map(ToString::to_string).collect();
    let confined = format!("a child was confined like a plugin ({})", met.join(", "));
    let landlock = format!("every right of version {} is denied, and was refused in a trial", host.landlock_version);
    let mut checks = vec![
        ability("pid_namespace", &host.pid_namespaces, Outcome::Fail, "plugins get a pid namespace of their own"),
        ability("user_namespace", &host.user_namespaces, Outcome::Fail, "a user namespace can be made"),
        ability("private_root", &host.private_root, Outcome::Fail, &confined),
        ability(
            "network_namespace",
            &host.network_namespaces,
            Outcome::Fail,
            "plugins get a network with nothing in it",
        ),
        ability("seccomp", &host.seccomp, Outcome::Fail, "plugins get a system call filter"),
        ability("way_out", &host.way_out, Outcome::Warn, "plugins that are granted hosts reach the daemon's proxy"),
        ability("ipc_namespace", &host.ipc_namespaces, Outcome::Warn, "plugins share no IPC objects with anybody"),
        ability("hostname", &host.host_names, Outcome::Warn, "plugins get a host name of their own"),
        ability("watchers", &host.watchers, Outcome::Warn, "a plugin's watchers of files can be bounded"),
        ability("landlock", &host.landlock, Outcome::Warn, &landlock),
        ability("cgroup", &host.cgroup, Outcome::Warn, "plugins are born in a cgroup of their own"),
    ];
    if root {
        let what = "each plugin is a user of the host of its own";
        checks.push(ability("lent_users", &host.lent_users, Outcome::Warn, what));
        let what = "the kernel refuses a plugin what is more than its disk_mib, as was tried";
        let quotas = ability("project_quota", &host.quotas, Outcome::Warn, what);
        let hint = "plugins' data are counted instead, and a plugin with too much is ended";
        checks.push(Check { hint: (!host.quotas.is_yes()).then(|| hint.to_owned()), ..quotas });
    }
    let missing: Vec<_> = ["memory", "pids", "cpu"]
        .into_iter()
        .filter(|name| !host.controllers.iter().any(|there| there == name))
        .collect();
    if host.cgroup.is_yes() {
        checks.push(match missing.as_slice() {
            [] => Check {
                name: "controllers",
                state: Outcome::Ok,
                summary: "memory, pids and cpu can be limited".to_owned(),
                hint: None,
            },
            missing => Check {
                name: "controllers",
                state: Outcome::Warn,
                summary: host.uncontrolled.clone().unwrap_or_else(|| format!("none for {}", missing.join(", "))),
                hint: Some(
                    "a host with pure cgroup v2 offers them to `palisaded --scope`, and to a service with Delegate=yes"
                        .to_owned(),
                ),
            },
        });
    }
    checks.push(tier(host));
    // Who is granted hosts can have so many connections.
    let granted = registry.all().any(|handle| !handle.blueprint().grants.network_access.is_empty());
    let connections = config.egress.limits.connections_max;
    checks.push(match host.descriptors.plugins_max(None) {
        Some(most) => {
            let (summary, least) = match host.descriptors.plugins_max(Some(connections)).filter(|_| granted) {
                None => (format!("{most} plugins fit under the descriptor limit"), most),
                Some(least) => {
                    let each = format!("{connections} connections each");
                    (
                        format!("{most} plugins fit under the descriptor limit, or {least} with a way out and {each}"),
                        least,
                    )
                }
            };
            Check {
                name: "descriptors",
                state: if most < 16 || least == 0 { Outcome::Warn } else { Outcome::Ok },
                summary,
                hint: (most < 16 || least == 0).then(|| "raise it with LimitNOFILE= or `ulimit -Hn`".to_owned()),
            }
        }
        None => Check {
            name: "descriptors",
            state: Outcome::Ok,
            summary: "the number of descriptors is not limited".to_owned(),
            hint: None,
        },
    });
    checks.push(launchers(known.one_by_one));
    checks.push(database(known.forgets));
    checks.push(watching(known.unwatched));
    checks.extend(known.sealed_with.as_ref().map(secrets));
    checks.push(prepared_launchers(prepared));
    let directories: Vec<_> = config.plugin_directories.iter().map(|path| path.display().to_string()).collect();
    checks.push(if directories.is_empty() {
        Check {
            name: "plugin_directories",
            state: Outcome::Warn,
            summary: "no plugin directory is configured".to_owned(),
            hint: Some("name one with --plugins, or `plugin_directories` in palisade.toml".to_owned()),
        }
    } else {
        Check { name: "plugin_directories", state: Outcome::Ok, summary: directories.join(", "), hint: None }
    });
    for config::Unusable { path, reason } in &config.unusable_directories {
        checks.push(Check {
            name: "plugin_directories",
            state: Outcome::Warn,
            summary: format!("{} {reason}", path.display()),
            hint: Some(
                "see its permissions and those of the folders above it; or name others with --plugins or \
                 `plugin_directories` in palisade.toml"
                    .to_owned(),
            ),
        });
    }
    // Of what something else goes on for that is told below.
    let is_told = |path: &Path| {
        registry.all().any(|one| one.blueprint().source == path && one.blueprint().passed_over().is_some())
    };
    for rejected in registry.rejected().iter().filter(|rejected| !is_told(&rejected.path)) {
        checks.push(Check {
            name: "package",
            state: Outcome::Warn,
            summary: format!("{}: {}", rejected.path.display(), rejected.reason),
            hint: Some("correct it; `palisade rescan` has it looked at, if that is not noticed".to_owned()),
        });
    }
    for handle in registry.all().filter(|handle| handle.is_enabled() && !handle.is_held()) {
        if let Some(lacking) = handle.blueprint().lacking() {
            checks.push(Check {
                name: "plugin",
                state: Outcome::Warn,
                summary: format!("{} {} lacks what it depends on: {lacking}", handle.id(), handle.version()),
                hint: Some(
                    "it is not started before that is there: install, enable or grant what is missing".to_owned(),
                ),
            });
        }
    }
    for handle in registry.all().filter(|handle| handle.is_enabled() && handle.is_held()) {
        if let Some(Held { by: By::Untried, reason }) = handle.updating().held {
            let (id, version) = (handle.id(), handle.version());
            checks.push(Check {
                name: "plugin",
                state: Outcome::Warn,
                summary: format!("{id} {version} is an update that waits: {reason}"),
                hint: Some(format!("`palisade update --to {version} {id}` tries it, and has it take calls")),
            });
        }
    }
    for handle in registry.all().filter(|handle| handle.is_enabled()) {
        let one = handle.blueprint().passed_over();
        checks.extend(one.map(|one| passed_over(handle.id(), handle.version(), one)));
    }
    for handle in registry.all().filter(|handle| handle.is_enabled() && !handle.is_held() && handle.awaits_consent()) {
        checks.push(Check {
            name: "plugin",
            state: Outcome::Warn,
            summary: handle.blueprint().awaits(),
            hint: Some(format!("`palisade grant {0}@{1}` shows it and asks you", handle.id(), handle.version())),
        });
    }
    for handle in registry.all().filter(|handle| handle.is_enabled() && !handle.is_held() && !handle.awaits_consent()) {
        let missing = handle.blueprint().host_calls.secrets().missing();
        if let [first, ..] = missing.as_slice() {
            let (id, version) = (handle.id(), handle.version());
            let names: Vec<_> = missing.iter().map(SecretName::as_str).collect();
            checks.push(Check {
                name: "plugin",
                state: Outcome::Warn,
                summary: format!("{id} {version} wants secrets that are not set: {}", names.join(", ")),
                hint: Some(format!("`palisade secret set {id} {first}` sets it, from stdin")),
            });
        }
    }
    for handle in registry.all().filter(|handle| handle.is_enabled() && !handle.is_held()) {
        if let Some(why) = handle.blueprint().misconfigured() {
            let (id, version) = (handle.id(), handle.version());
            checks.push(Check {
                name: "plugin",
                state: Outcome::Warn,
                summary: format!("{id} {version} takes no calls: {why}"),
                hint: Some(format!("`palisade config {id}@{version}` shows what comes from where")),
            });
        }
    }
    // Of those that wait, or are not configured as they have to be, everything is said.
    let failed = registry.all().filter(|one| one.state() == PluginState::Failed && !one.awaits_consent());
    for handle in failed.filter(|one| one.blueprint().misconfigured().is_none()) {
        let (id, reason) = (handle.id(), handle.last_reason());
        let (how, hint) = if handle.is_quarantined() {
            ("is quarantined", format!("see `palisade logs {id}`; `palisade reset {id}` ends the quarantine"))
        } else {
            ("has failed", format!("see `palisade status {id}`; `palisade start {id}` tries again"))
        };
        checks.push(Check {
            name: "plugin",
            state: Outcome::Warn,
            summary: format!("{id} {} {how}: {reason}", handle.version()),
            hint: Some(hint),
        });
    }
    for handle in registry.all() {
        let (id, shortfalls) = (handle.id(), handle.blueprint().shortfalls());
        if shortfalls.is_empty() {
            continue;
        }
        let (how, hint) = if handle.blueprint().degraded().is_empty() {
            ("cannot be started here", format!("require less, or set on_degraded = \"warn\" in [plugins.{id}]"))
        } else {
            ("is confined less than it should be", format!("on_degraded = \"warn\" in [plugins.{id}] bears that"))
        };
        checks.push(Check {
            name: "plugin",
            state: Outcome::Warn,
            summary: format!("{id} {} {how}: {}", handle.version(), shortfalls.join("; ")),
            hint: Some(hint),
        });
    }
    for id in config.plugins.keys().filter(|id| registry.all().all(|handle| handle.id() != *id)) {
        checks.push(Check {
            name: "configuration",
            state: Outcome::Warn,
            summary: format!("the configuration speaks of {id}, and there is no such plugin"),
            hint: Some(format!("correct the name, or take `plugins.{id}` out of palisade.toml")),
        });
    }
    Report { checks }
}

/// Whether launchers are copies, and why they are not.
fn launchers(one_by_one: Option<&str>) -> Check {
    let name = "launchers";
    match one_by_one {
        None => {
            let summary = "each is a copy of one that was executed".to_owned();
            Check { name, state: Outcome::Ok, summary, hint: None }
        }
        Some(reason) => Check {
            name,
            state: Outcome::Warn,
            summary: format!("each is executed by itself, as there is no process to copy: {reason}"),
            hint: Some(
                "starts are confined all the same, and take longer; the first after a minute tries for one again; if this \
                 stays, see what stops or kills palisade-zygote, a child of the daemon, and what the log says"
                    .to_owned(),
            ),
        },
    }
}

/// Whether what an operator changes of the packages is remembered.
fn database(forgets: Option<&str>) -> Check {
    let name = "database";
    match forgets {
        None => Check { name, state: Outcome::Ok, summary: "what is changed is remembered".to_owned(), hint: None },
        Some(problem) => Check {
            name,
            state: Outcome::Warn,
            summary: problem.to_owned(),
            hint: Some(
                "see registry.sqlite3 in the state folder; `palisade list` shows what is enabled, `palisade permissions` what is granted. Take \
                 a damaged one away when you have said again what was lost"
                    .to_owned(),
            ),
        },
    }
}

/// That the package in the folder of a plugin is not used. What kept it from that may be over, which nothing looks at unasked.
fn passed_over(id: &PluginId, version: &Version, passed_over: PassedOver) -> Check {
    let PassedOver { digest, reason, version: beside, .. } = passed_over;
    let what = match (&beside, digest.get(..12)) {
        (Some(beside), _) => format!("{beside} beside it is not used"),
        (None, Some(short)) => format!("the package {short} in its folder is not used"),
        (None, None) => "there is no package in its folder that can be used".to_owned(),
    };
    let hint = match &beside {
        Some(beside) => format!("`palisade status {id}@{beside}` says what it waits for"),
        None => format!("see `palisade status {id}`; `palisade reload {id}` tries what is in its folder again"),
    };
    Check {
        name: "package",
        state: Outcome::Warn,
        summary: format!("{id} {version} goes on as it was, and {what}: {reason}"),
        hint: Some(hint),
    }
}

fn watching(unwatched: Option<&str>) -> Check {
    let name = "watching";
    match unwatched {
        None => {
            let summary = "changes of plugin directories are noticed".to_owned();
            Check { name, state: Outcome::Ok, summary, hint: None }
        }
        Some(problem) => Check {
            name,
            state: Outcome::Warn,
            summary: problem.to_owned(),
            hint: Some("`palisade rescan` looks at what has changed".to_owned()),
        },
    }
}

/// With which key secrets are sealed.
fn secrets(sealed_with: &Result<String, String>) -> Check {
    let name = "secrets";
    match sealed_with {
        Ok(summary) => Check { name, state: Outcome::Ok, summary: summary.clone(), hint: None },
        Err(problem) => Check {
            name,
            state: Outcome::Warn,
            summary: format!("what was sealed with the key that was made for secrets cannot be opened: {problem}"),
            hint: Some(
                "put it right and restart the daemon; or take the file away, and set the secrets anew".to_owned(),
            ),
        },
    }
}

/// How many launchers wait for a start, and why there are no more.
fn prepared_launchers(PreparedLaunchers { wanted, ready, problem }: &PreparedLaunchers) -> Check {
    let name = "prepared_launchers";
    match problem {
        Some(reason) if ready < wanted => Check {
            name,
            state: Outcome::Warn,
            summary: format!("{ready} of {wanted} wait for a start; the last one could not be prepared: {reason}"),
            hint: Some("starts are confined all the same, and take longer".to_owned()),
        },
        _ => {
            let summary = match wanted {
                0 => "none is made before it is needed".to_owned(),
                wanted => format!("{ready} of {wanted} wait for a start"),
            };
            Check { name, state: Outcome::Ok, summary, hint: None }
        }
    }
}

/// How much of the isolation this host carries, in a sentence.
fn tier(host: &Host) -> Check {
    let needed = [&host.user_namespaces, &host.private_root, &host.network_namespaces, &host.seccomp];
    let (state, summary, hint) = match host.tier() {
        _ if needed.iter().any(|ability| !ability.is_yes()) => (
            Outcome::Fail,
            "none: this host lacks what every start needs, so each is refused that does not bear with less",
            Some("see the checks that failed above; on_degraded = \"warn\" in [plugins.ID] bears with less"),
        ),
        Tier::A => {
            (Outcome::Ok, "A: limits on memory, processes and cpu are the kernel's, for each plugin's whole tree", None)
        }
        Tier::B => (
            Outcome::Warn,
            "B: plugins are killed and frozen as a whole, but no tree's memory or cpu is limited",
            Some(
                "under systemd, start it with `palisaded --scope`, or as a service with Delegate=yes as palisaded.service is",
            ),
        ),
        Tier::C => (
            Outcome::Warn,
            "C: plugins have a pid namespace and no cgroup, so no tree's memory or cpu is limited",
            Some(
                "under systemd, start it with `palisaded --scope`, or as a service with Delegate=yes as palisaded.service is",
            ),
        ),
        Tier::None => (Outcome::Fail, "none: plugins cannot be enclosed here, so none is started", None),
    };
    Check { name: "tier", state, summary: summary.to_owned(), hint: hint.map(str::to_owned) }
}
