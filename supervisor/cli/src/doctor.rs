//! `palisade doctor` and `palisade version`.
//!
//! The daemon knows best what this host can do, as it tries; what can be read without it is said when it does not run, as that may
//! be why it does not.

use std::fs;
use std::path::Path;

use palisade_client::admin::{Check, CheckState};
use palisade_client::{CallError, Raw};
use palisade_protocol::SUPERVISOR_ID;
use serde::Deserialize;
use serde_json::json;

use crate::attend::Attendant;
use crate::failure::Failure;
use crate::output::print;
use crate::run::daemon_program;
use crate::screen::{Cell, Screen, Tone, harmless, one_line};
use crate::{Context, operate};

/// The exit status when something fails.
const FAILED: u8 = 1;

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// `palisade doctor`
pub(crate) async fn doctor(context: &Context) -> Result<u8, Failure> {
    #[derive(Deserialize)]
    struct Report {
        #[serde(default)]
        checks: Vec<Check>,
    }
    let mut checks = vec![programs()];
    let mut attendant = Attendant::new(&context.screen, &context.interrupts, "waiting for the daemon");
    let report = operate::<Report>(&context.client, "doctor", &(), None);
    match attendant.wait(report, || Ok(())).await? {
        Ok(report) => {
            let software = context.client.supervisor().unwrap_or_default();
            checks.push(reachable(&software, context.client.path()));
            let failed = report.checks.iter().any(|check| check.state == CheckState::Fail);
            checks.extend(report.checks);
            // It says what is in its way; how to let it through depends on where its program lies.
            checks.extend(apparmor().filter(|_| failed));
        }
        Err(error) => {
            checks.push(unreachable(&error));
            checks.extend(host());
            checks.extend(apparmor());
        }
    }
    let failed = checks.iter().any(|check| check.state == CheckState::Fail);
    if context.json {
        print(&format!("{}\n", json!({ "checks": checks })))?;
    } else {
        print(&text(&checks, &context.screen))?;
    }
    Ok(if failed { FAILED } else { 0 })
}

fn text(checks: &[Check], screen: &Screen) -> String {
    let mut rows = Vec::new();
    for check in checks {
        let (state, tone) = match check.state {
            CheckState::Ok => ("ok", Tone::Good),
            CheckState::Warn => ("warn", Tone::Careful),
            CheckState::Fail => ("fail", Tone::Bad),
        };
        rows.push(vec![Cell::new(state, tone), (&check.name).into(), (&check.summary).into()]);
        if let Some(hint) = &check.hint {
            rows.push(vec!["".into(), "".into(), format!("hint: {hint}").into()]);
        }
    }
    screen.wrapping_table(&["STATE", "CHECK", "SUMMARY"], &rows)
}

fn check(name: &str, state: CheckState, summary: impl Into<String>, hint: Option<&str>) -> Check {
    Check { name: name.into(), state, summary: summary.into(), hint: hint.map(Into::into) }
}

fn programs() -> Check {
    const NAME: &str = "programs";
    match daemon_program() {
        Some(program) => check(NAME, CheckState::Ok, format!("palisaded is {}", program.display()), None),
        None => check(
            NAME,
            CheckState::Warn,
            "palisaded is neither beside this program nor in PATH",
            Some("`palisade run` needs it; a daemon that runs already does not"),
        ),
    }
}

fn reachable(software: &str, socket: &Path) -> Check {
    let summary = format!("{} answers at {}", one_line(software), socket.display());
    if software == format!("palisaded/{VERSION}") {
        return check("daemon", CheckState::Ok, summary, None);
    }
    let hint = format!("this is palisade {VERSION}; restart the daemon after an update");
    check("daemon", CheckState::Warn, summary, Some(&hint))
}

fn unreachable(error: &CallError) -> Check {
    check("daemon", CheckState::Fail, harmless(&error.to_string()), error.hint().as_deref())
}

/// What can be read of this host.
fn host() -> Vec<Check> {
    vec![user_namespaces(), cgroup(), seccomp(), landlock(), descriptors()]
}

fn number(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Where the profile of the daemon belongs.
const APPARMOR_PROFILE: &str = "/etc/apparmor.d/palisaded";

/// What AppArmor has against user namespaces here; nothing if it has not.
fn apparmor() -> Option<Check> {
    if rustix::process::geteuid().is_root() || number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns")? == 0 {
        return None;
    }
    Some(restricted_by_apparmor(daemon_program().as_deref(), Path::new(APPARMOR_PROFILE).exists()))
}

fn restricted_by_apparmor(program: Option<&Path>, has_profile: bool) -> Check {
    const NAME: &str = "apparmor";
    let load = format!("sudo apparmor_parser -r {APPARMOR_PROFILE}");
    let restricts =
        "kernel.apparmor_restrict_unprivileged_userns is 1: whoever makes a user namespace has no rights in it";
    if has_profile {
        let hint =
            format!("it is loaded by `{load}`, and must name the file that is executed; then start the daemon anew");
        let summary = format!("{restricts}, unless {APPARMOR_PROFILE} is loaded and lets palisaded");
        return check(NAME, CheckState::Warn, summary, Some(&hint));
    }
    // What else there can be in a path has a meaning to AppArmor, or to the shell.
    let plain = |path: &&str| path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c));
    let program = program.and_then(Path::to_str).filter(plain).unwrap_or("/usr/local/bin/palisaded");
    let profile = format!(
        "abi <abi/4.0>, include <tunables/global> profile palisaded {program} flags=(unconfined) {{ userns, include if exists \
         <local/palisaded> }}"
    );
    let hint = format!(
        "give palisaded a profile: `echo '{profile}' | sudo tee {APPARMOR_PROFILE}`, then `{load}`; or run the daemon as root"
    );
    check(NAME, CheckState::Fail, format!("{restricts}, and there is no {APPARMOR_PROFILE}"), Some(&hint))
}

fn user_namespaces() -> Check {
    const NAME: &str = "user_namespace";
    if !Path::new("/proc/self/ns/user").exists() {
        return check(NAME, CheckState::Fail, "this kernel has no user namespaces", Some("they are CONFIG_USER_NS"));
    }
    if number("/proc/sys/user/max_user_namespaces") == Some(0) {
        let hint = "allow some: sysctl user.max_user_namespaces=15000";
        return check(NAME, CheckState::Fail, "user.max_user_namespaces is 0", Some(hint));
    }
    if rustix::process::geteuid().is_root() {
        return check(NAME, CheckState::Ok, "there are user namespaces, and root needs no leave for them", None);
    }
    if number("/proc/sys/kernel/unprivileged_userns_clone") == Some(0) {
        let hint = "sysctl kernel.unprivileged_userns_clone=1, or run the daemon as root";
        return check(NAME, CheckState::Fail, "kernel.unprivileged_userns_clone is 0", Some(hint));
    }
    check(NAME, CheckState::Ok, "ordinary users may make user namespaces, as far as can be read", None)
}

fn cgroup() -> Check {
    const NAME: &str = "cgroup";
    let of = |path: &str| fs::read_to_string(path).ok();
    if let Some(controllers) = of("/sys/fs/cgroup/cgroup.controllers") {
        let missing: Vec<_> = ["memory", "pids", "cpu"]
            .into_iter()
            .filter(|wanted| !controllers.split_whitespace().any(|there| there == *wanted))
            .collect();
        return if missing.is_empty() {
            check(NAME, CheckState::Ok, "cgroup v2 with memory, pids and cpu", None)
        } else {
            check(NAME, CheckState::Warn, format!("cgroup v2 lacks {}", missing.join(", ")), None)
        };
    }
    if Path::new("/sys/fs/cgroup/unified/cgroup.procs").exists() {
        return check(
            NAME,
            CheckState::Warn,
            "cgroup v2 is there beside v1, without controllers",
            Some("limits of memory and cpu are enforced on a host that boots with pure cgroup v2"),
        );
    }
    check(
        NAME,
        CheckState::Warn,
        "there is no cgroup v2",
        Some("trees of processes are ended through their pid namespace alone"),
    )
}

fn seccomp() -> Check {
    const NAME: &str = "seccomp";
    let actions = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if actions.split_whitespace().any(|action| action == "user_notif") {
        check(NAME, CheckState::Ok, "seccomp filters, with user notification", None)
    } else {
        check(NAME, CheckState::Fail, "this kernel has no seccomp filters with user notification", None)
    }
}

fn landlock() -> Check {
    const NAME: &str = "landlock";
    match fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(modules) if modules.trim().split(',').any(|module| module == "landlock") => {
            check(NAME, CheckState::Ok, "landlock is active", None)
        }
        Ok(_) => check(NAME, CheckState::Warn, "landlock is not active", Some("add it to the kernel's lsm= parameter")),
        Err(_) => check(NAME, CheckState::Warn, "whether landlock is active cannot be read here", None),
    }
}

fn descriptors() -> Check {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    match limit {
        Some(limit) if limit < 1024 => check(
            "descriptors",
            CheckState::Warn,
            format!("at most {limit} descriptors may be open"),
            Some("raise the hard limit: `ulimit -Hn`, or LimitNOFILE= of the service"),
        ),
        Some(limit) => check("descriptors", CheckState::Ok, format!("{limit} descriptors may be open"), None),
        None => check("descriptors", CheckState::Ok, "the number of descriptors is not limited", None),
    }
}

/// `palisade version`
pub(crate) async fn version(context: &Context) -> Result<(), Failure> {
    let mut attendant = Attendant::new(&context.screen, &context.interrupts, "waiting for the daemon");
    let daemon = context.client.call::<Raw>(SUPERVISOR_ID, "version", ());
    let daemon = attendant.wait(daemon, || Ok(())).await?;
    let daemon = daemon.ok().and_then(|raw| raw.decode::<serde_json::Value>().ok());
    if context.json {
        return print(&format!("{}\n", json!({ "palisade": VERSION, "palisaded": daemon })));
    }
    let running = daemon.as_ref().map(|daemon| daemon["version"].as_str().unwrap_or("of an unknown version"));
    let daemon = match running {
        Some(version) => format!("palisaded {}\n", one_line(version)),
        None => "palisaded is not reachable\n".to_owned(),
    };
    print(&format!("palisade {VERSION}\n{daemon}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_stand_beneath_what_they_belong_to() {
        let checks = [
            check("daemon", CheckState::Fail, "no daemon is running", Some("start it")),
            check("cgroup", CheckState::Ok, "cgroup v2", None),
        ];
        insta::assert_snapshot!(text(&checks, &Screen::plain()), @r"
        STATE  CHECK   SUMMARY
        fail   daemon  no daemon is running
                       hint: start it
        ok     cgroup  cgroup v2
        ");
    }

    #[test]
    fn another_version_of_the_daemon_is_noticed() {
        let socket = Path::new("/run/x");
        assert_eq!(reachable(&format!("palisaded/{VERSION}"), socket).state, CheckState::Ok);
        assert_eq!(reachable("palisaded/9.9.9", socket).state, CheckState::Warn);
    }

    #[test]
    fn a_restriction_by_apparmor_comes_with_the_profile_that_lifts_it() {
        let check = restricted_by_apparmor(Some(Path::new("/home/a/palisade-0.1/palisaded")), false);
        assert_eq!((check.name.as_str(), check.state), ("apparmor", CheckState::Fail));
        let hint = check.hint.unwrap_or_default();
        // As apparmor_parser of AppArmor 4 takes it, where a profile is one line.
        let profile = "abi <abi/4.0>, include <tunables/global> profile palisaded /home/a/palisade-0.1/palisaded \
                       flags=(unconfined) { userns, include if exists <local/palisaded> }";
        assert!(hint.contains(&format!("`echo '{profile}' | sudo tee /etc/apparmor.d/palisaded`")), "{hint}");
        assert!(hint.contains("`sudo apparmor_parser -r /etc/apparmor.d/palisaded`"), "{hint}");
        // A path that would end the quotation, or be a pattern, is not repeated.
        for path in ["/tmp/a'b", "/tmp/{a,b}", "/tmp/a b"] {
            let hint = restricted_by_apparmor(Some(Path::new(path)), false).hint.unwrap_or_default();
            assert!(hint.contains("profile palisaded /usr/local/bin/palisaded flags"), "{hint}");
        }
        // Whether it is loaded only root can see.
        let check = restricted_by_apparmor(Some(Path::new("/usr/bin/palisaded")), true);
        assert_eq!(check.state, CheckState::Warn);
    }

    #[test]
    fn this_host_can_be_looked_at() {
        assert_eq!(host().len(), 5);
    }
}
