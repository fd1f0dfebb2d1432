//! Sentences for the steps that can fail: what happened, and what the operator can do about it.

use crate::root::INTERPRETER;
use palisade_launcher::{Failure, Mount, Source, Spec, Step};
use rustix::io::Errno;
use std::io;

/// Whether AppArmor takes all rights from who makes a user namespace, and has no profile that says otherwise; then it reads 1.
const APPARMOR_RESTRICTS: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";

/// A step that did not hold, before it is put into words.
#[derive(Debug)]
pub(crate) struct Failed {
    step: Step,
    errno: Option<Errno>,
    /// Which part of the step, where it has several.
    detail: u8,
    /// A sentence of its own, where the error number says nothing.
    reason: Option<String>,
}

/// A step that did not hold, in as few bytes as travel between the launcher's own processes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stumble {
    pub(crate) step: Step,
    /// Which part of the step, where it has several.
    pub(crate) detail: u8,
    pub(crate) errno: Errno,
}

impl Stumble {
    /// A system call of this step failed.
    pub(crate) fn at(step: Step) -> impl Fn(Errno) -> Self {
        move |errno| Self { step, detail: 0, errno }
    }

    /// A system call for one of many things of this step failed.
    pub(crate) fn at_index(step: Step, index: usize) -> impl Fn(Errno) -> Self {
        move |errno| Self { step, detail: u8::try_from(index).unwrap_or(u8::MAX), errno }
    }
}

impl From<Stumble> for Failed {
    fn from(Stumble { step, detail, errno }: Stumble) -> Self {
        Self { step, errno: Some(errno), detail, reason: None }
    }
}

impl Failed {
    /// A system call of this step failed.
    pub(crate) fn at(step: Step, errno: Errno) -> Self {
        Self { step, errno: Some(errno), detail: 0, reason: None }
    }

    /// The step was refused for a reason that no system call gave.
    pub(crate) fn because(step: Step, reason: String) -> Self {
        Self { step, errno: None, detail: 0, reason: Some(reason) }
    }

    /// Puts it into words; the specification, if there is one, gives the names.
    pub(crate) fn describe(&self, spec: Option<&Spec>) -> Failure {
        let message = match (&self.reason, self.errno) {
            (Some(reason), _) => reason.clone(),
            (None, Some(errno)) => self.sentence(errno, spec),
            (None, None) => "it failed without a reason".to_owned(),
        };
        Failure { step: self.step, errno: self.errno.map_or(0, Errno::raw_os_error), message }
    }

    fn sentence(&self, errno: Errno, spec: Option<&Spec>) -> String {
        let error = io::Error::from(errno);
        if let Some(restriction) = self.restriction(errno, spec) {
            return match self.step {
                Step::UserNamespace => {
                    format!("this host does not let this user make a user namespace ({error}): {restriction}")
                }
                step => format!(
                    "this host lets this user make a user namespace and gives no rights in it ({step}: {error}): {restriction}"
                ),
            };
        }
        match (self.step, errno) {
            (Step::Specification, _) => format!("the daemon's specification could not be received: {error}"),
            (Step::Descriptors, _) => format!("the plugin's descriptors could not be put in place: {error}"),
            (Step::UserNamespace, Errno::NOSPC | Errno::USERS) => {
                "this host allows no more user namespaces; raise the sysctl user.max_user_namespaces".to_owned()
            }
            (Step::UserNamespace, Errno::PERM | Errno::ACCESS) => format!(
                "this host does not let this user make a user namespace ({error}); see the sysctls \
                 kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns, or the container \
                 that this runs in"
            ),
            (Step::UserNamespace, Errno::INVAL | Errno::NOSYS) => {
                format!("this kernel has no user namespaces ({error}); it must be built with CONFIG_USER_NS")
            }
            (Step::UserNamespace, _) => format!("a user namespace could not be set up: {error}"),
            (Step::PidNamespace, Errno::NOSPC | Errno::USERS) => {
                "this host allows no more pid namespaces; raise the sysctl user.max_pid_namespaces".to_owned()
            }
            (Step::PidNamespace, Errno::PERM) if spec.is_none_or(|spec| spec.user_namespace.is_none()) => {
                format!("a pid namespace needs root, or a user namespace, which this start did not ask for ({error})")
            }
            (Step::PidNamespace, Errno::PERM) => format!(
                "this host lets this user make a user namespace but no pid namespace in it ({error}); see the sysctl \
                 kernel.apparmor_restrict_unprivileged_userns, or the container that this runs in"
            ),
            (Step::PidNamespace, Errno::INVAL) => {
                format!("this kernel has no pid namespaces ({error}); it must be built with CONFIG_PID_NS")
            }
            (Step::PidNamespace, Errno::NOSYS) => {
                format!(
                    "this host does not offer the system call clone3 ({error}); Linux 5.7 or later is needed, and \
                     a container must not filter it out"
                )
            }
            (Step::PidNamespace | Step::Process, Errno::AGAIN | Errno::NOMEM) => format!(
                "no further process can be made ({error}); see the limits on processes (ulimit -u, the sysctl \
                 kernel.pid_max, pids.max of the daemon's cgroup) and on memory"
            ),
            (Step::PidNamespace, _) if spec.is_some_and(|spec| spec.leaf) => {
                format!("pid 1 of the plugin could not be born in its leaf cgroup: {error}")
            }
            (Step::PidNamespace, _) => format!("a pid namespace could not be made: {error}"),
            (
                Step::MountNamespace | Step::NetworkNamespace | Step::IpcNamespace | Step::Hostname,
                Errno::NOSPC | Errno::USERS,
            ) => format!("this host allows no further {} ({error}); raise its limit beneath /proc/sys/user", self.step),
            (Step::MountNamespace | Step::NetworkNamespace | Step::IpcNamespace, Errno::INVAL) => {
                format!("this kernel has no {0}s ({error}); it must be built with {0}s", self.step)
            }
            (Step::MountNamespace | Step::NetworkNamespace | Step::IpcNamespace, _) => format!(
                "this host does not let the daemon make a {} ({error}); see the sysctl \
                 kernel.apparmor_restrict_unprivileged_userns, or the container that this runs in",
                self.step
            ),
            (Step::Listener, Errno::MFILE) => {
                "the launcher is out of descriptors and could not take over the listener of the plugin's way out"
                    .to_owned()
            }
            (Step::Listener, _) => {
                format!("the listener of the plugin's way out could not be made in its network namespace: {error}")
            }
            (Step::Hostname, _) => format!("the plugin could not be given a host name of its own: {error}"),
            (Step::Watchers, _) => format!(
                "the plugin's watchers of files could not be bounded beneath /proc/sys/user ({error}); it must be there and \
                 writable for the daemon"
            ),
            (Step::Bind, _) => match self.mount(spec) {
                Some(Mount { source: Source::Bind { path, idmap: Some(_) }, .. }) => format!(
                    "{} could not be bound with its owner mapped ({error}); the file system that it lies on must \
                     support idmapped mounts (ext4, xfs, btrfs, and tmpfs since Linux 6.3, do)",
                    path.to_string_lossy()
                ),
                Some(Mount { source: Source::Bind { path, .. }, .. }) => {
                    format!("{} could not be bound: {error}", path.to_string_lossy())
                }
                Some(Mount { source: Source::Granted { path, owner }, .. }) => {
                    granted_sentence(&path.to_string_lossy(), owner.is_some(), errno, &error)
                }
                _ => format!("something of the host could not be bound: {error}"),
            },
            (Step::Identity, _) => format!("the plugin could not be given a user and group of its own: {error}"),
            (Step::CgroupNamespace, _) => format!("a cgroup namespace could not be made: {error}"),
            (Step::PrivateRoot, _) => format!("the private root could not be made: {error}"),
            (Step::Mount, Errno::PERM) if self.mount(spec).is_some_and(|mount| mount.target.to_bytes() == b"proc") => {
                format!(
                    "a new /proc may not be mounted ({error}): the host's is partly covered, by a container or by \
                     ProtectKernelTunables= and its like in the daemon's unit; take those away"
                )
            }
            (Step::Mount, _) => match self.mount(spec) {
                Some(mount) => format!("/{} could not be mounted: {error}", mount.target.to_string_lossy()),
                None => format!("a part of the private root could not be mounted: {error}"),
            },
            (Step::PivotRoot, _) => format!("the private root could not be entered: {error}"),
            (Step::EntryPoint, _) => self.entry_sentence(errno, &error, spec),
            (Step::Capabilities, _) => format!("the plugin's capabilities could not be given up: {error}"),
            (Step::NoNewPrivileges, _) => format!("no_new_privs could not be set: {error}"),
            (Step::Landlock, _) => {
                let rules = spec.and_then(|spec| spec.landlock.as_ref()).map(|landlock| landlock.rules.as_slice());
                match rules.and_then(|rules| rules.get(usize::from(self.detail))) {
                    Some(rule) => format!("Landlock refused the rule for {}: {error}", rule.path.to_string_lossy()),
                    None => format!(
                        "Landlock could not be entered ({error}), though this host offered it when the daemon started"
                    ),
                }
            }
            (Step::Seccomp, _) => format!("the system call filter could not be installed: {error}"),
            (Step::Init, _) => format!("pid 1 of the plugin could not prepare itself: {error}"),
            (Step::Process, Errno::MFILE) => {
                "the launcher is out of descriptors and could not take over the plugin's".to_owned()
            }
            (Step::Process, _) => format!("the plugin's process could not be made: {error}"),
            (Step::Session, _) => format!("the plugin could not be given a session of its own: {error}"),
            (Step::Limits, _) => {
                let limit = spec.and_then(|spec| spec.limits.get(usize::from(self.detail)));
                match limit {
                    Some(limit) => format!(
                        "the limit {:?} could not be set to {}: {error}; an ordinary user cannot raise a limit above \
                         the daemon's own",
                        limit.resource,
                        limit.hard.map_or("unlimited".to_owned(), |value| value.to_string())
                    ),
                    None => format!("a resource limit could not be set: {error}"),
                }
            }
            (Step::OomScore, _) => format!("/proc/self/oom_score_adj could not be written: {error}"),
            (Step::Directory, _) => match spec {
                Some(spec) => {
                    format!("the working directory {} cannot be entered: {error}", spec.directory.to_string_lossy())
                }
                None => format!("the working directory cannot be entered: {error}"),
            },
            (Step::Exec, _) => {
                let name = spec.and_then(|spec| spec.arguments.first()).map(|name| name.to_string_lossy());
                let name = name.as_deref().unwrap_or("the program");
                exec_sentence(name, errno, &error)
            }
        }
    }
}

impl Failed {
    /// Why a user namespace is refused or worth nothing, if that is how this step failed: it needs no right but those of the namespace.
    fn restriction(&self, errno: Errno, spec: Option<&Spec>) -> Option<&'static str> {
        spec?.user_namespace?;
        // Whoever has rights on the host has them in the namespace.
        if rustix::process::geteuid().is_root() || !matches!(errno, Errno::PERM | Errno::ACCESS) {
            return None;
        }
        let restricted = std::fs::read_to_string(APPARMOR_RESTRICTS).is_ok_and(|text| text.trim() == "1");
        match self.step {
            // A file can be out of reach for other reasons.
            Step::Bind if errno != Errno::PERM => None,
            Step::UserNamespace
            | Step::Bind
            | Step::Hostname
            | Step::Watchers
            | Step::NetworkNamespace
            | Step::CgroupNamespace
            | Step::PrivateRoot
            | Step::Mount
            | Step::PivotRoot
            | Step::Capabilities
                if restricted =>
            {
                Some(
                    "AppArmor restricts it, as the sysctl kernel.apparmor_restrict_unprivileged_userns is 1; palisaded needs an \
                     AppArmor profile with `userns,` as /etc/apparmor.d/palisaded, of which `palisade doctor` has the text",
                )
            }
            // Nothing but a right in the namespace is asked for.
            Step::Capabilities => Some(
                "that is what AppArmor does where the sysctl kernel.apparmor_restrict_unprivileged_userns is 1, which it is not \
                 here, or cannot be read; see the security module of this host, or the container that this runs in",
            ),
            _ => None,
        }
    }

    /// The mount that this is about.
    fn mount<'a>(&self, spec: Option<&'a Spec>) -> Option<&'a Mount> {
        spec?.root.as_ref()?.mounts.get(usize::from(self.detail))
    }

    fn entry_sentence(&self, errno: Errno, error: &io::Error, spec: Option<&Spec>) -> String {
        let root = spec.and_then(|spec| spec.root.as_ref());
        let (what, path) = if self.detail == INTERPRETER {
            ("interpreter", root.and_then(|root| root.interpreter.as_ref()))
        } else {
            ("entry point", root.and_then(|root| root.entry.as_ref()))
        };
        let path = path.map(|path| path.to_string_lossy()).unwrap_or_default();
        match errno {
            Errno::STALE => format!(
                "the {what} /{path} in the private root is not the file that was verified; it was replaced meanwhile"
            ),
            Errno::NOENT if self.detail == INTERPRETER => format!(
                "the {what} /{path} does not exist in the private root ({error}); plugins find /usr there and nothing \
                 else of the host, so the interpreter must be installed beneath /usr, or be a runtime that plugin.json \
                 names (`runtimes` in palisade.toml)"
            ),
            _ => format!("the {what} /{path} cannot be opened in the private root: {error}"),
        }
    }
}

/// Why a place that the operator granted could not be taken.
fn granted_sentence(path: &str, mapped: bool, errno: Errno, error: &io::Error) -> String {
    match errno {
        Errno::LOOP => format!("{path} could not be bound: a symbolic link stands in it, and none is followed"),
        Errno::OPNOTSUPP => format!("{path} could not be bound: it is neither a folder nor a regular file"),
        Errno::INVAL if !mapped => format!(
            "{path} could not be bound ({error}): something else is mounted beneath it, which an ordinary user cannot \
             leave out; grant what lies beside that by name"
        ),
        Errno::INVAL | Errno::PERM if mapped => format!(
            "{path} could not be bound with its owner mapped ({error}); the file system that it lies on must support \
             idmapped mounts (ext4, xfs, btrfs, and tmpfs since Linux 6.3, do)"
        ),
        _ => format!("{path} could not be bound: {error}"),
    }
}

fn exec_sentence(name: &str, errno: Errno, error: &io::Error) -> String {
    match errno {
        Errno::NOENT => format!(
            "{name} cannot be executed: what should load it does not exist ({error}); for a binary that is its dynamic \
             loader, for a script the interpreter behind #!"
        ),
        Errno::ACCESS => format!(
            "{name} may not be executed ({error}); it must be a regular file with the execute permission (chmod +x), \
             on a file system that is not mounted noexec"
        ),
        Errno::NOEXEC => format!(
            "{name} is no program for this machine ({error}); build it for {}, or begin a script with #!",
            std::env::consts::ARCH
        ),
        Errno::TXTBSY => {
            format!("{name} is still being written by another process after a second ({error}); close it first")
        }
        Errno::TOOBIG => format!("the arguments and the environment of {name} are too long ({error})"),
        Errno::LIBBAD => format!("the interpreter or loader of {name} is damaged ({error})"),
        Errno::NOMEM | Errno::AGAIN => format!("there is not enough memory left to execute {name} ({error})"),
        _ => format!("{name} cannot be executed: {error}"),
    }
}
