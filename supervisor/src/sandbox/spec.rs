//! What confines every plugin, decided: a host's offer and one plugin's needs become the launcher's specification.
//!
//! Invariants: nothing here acts, but for one look at the host when the daemon starts (`Layout::of_this_host`); what a
//! host does not offer is left out here and reported by `guarantees`, and whether that is borne is decided elsewhere.
//! Elsewhere: performing it is the launcher; what the host offers is found by `probe`; system call filters are `seccomp`.

use std::{
    ffi::{CStr, CString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use palisade_launcher::{
    Attributes, BoundBy, IdMap, Landlock, Limit, MadeUp, Mount, PathRule, PortRule, Resource, Root, Setting, Source,
    Spec, UserMap, Watchers,
};

use super::{
    PLUGIN_UID,
    cgroup::LeafLimits,
    granted::{Access, Kind, Place},
    own_user_map,
    seccomp::{
        self, Profile,
        policy::{Denials, Execution},
    },
};
use crate::model::limits::Decided;
use crate::model::permission::grants::Grants;
use crate::model::permission::system::SystemFile;
use crate::model::runtime::BESIDE_USR;

/// Memory that cannot be paged out: enough for a key or two.
const LOCKED_BYTES: u64 = 1 << 20;

/// Of a user's inotify descriptors, often 128, a program needs one or two; of the files that can be watched it has as many as a source
/// tree of some size.
const WATCHERS: Watchers = Watchers { instances: 8, watches: 4096 };

/// POSIX message queues and queued signals; hardly anybody needs any, and they are kernel memory.
const MESSAGE_QUEUE_BYTES: u64 = 64 << 10;
const QUEUED_SIGNALS: u64 = 1024;

/// A core of one byte: too small for a file, and the value at which the kernel starts no program to read one either. With 0 it would.
const CORE_BYTES: u64 = 1;

/// The main thread's stack: what everybody expects, and how far a program may raise it for itself.
const STACK_BYTES: u64 = 8 << 20;
const STACK_BYTES_MAX: u64 = 64 << 20;

/// The file systems in memory, in bytes and in files. The root holds a few made-up lines.
const ROOT_SIZE: (&CStr, &CStr) = (c"256k", c"256");
const TMP_SIZE: (&CStr, &CStr) = (c"64m", c"8192");
const SHM_SIZE: (&CStr, &CStr) = (c"64m", c"1024");

/// What of /etc is the host's own: what TLS trusts, the time zone, where the loader looks, and where links of programs lead.
const FROM_ETC: [&str; 11] = [
    "etc/ssl/certs",
    "etc/ssl/openssl.cnf",
    "etc/ssl/cert.pem",
    "etc/pki/tls/certs",
    "etc/pki/ca-trust/extracted",
    "etc/ca-certificates/extracted",
    "etc/localtime",
    "etc/ld.so.cache",
    "etc/ld-musl-x86_64.path",
    "etc/ld-musl-aarch64.path",
    "etc/alternatives",
];

/// The devices that every program takes for granted.
const DEVICES: [&str; 5] = ["null", "zero", "full", "random", "urandom"];

/// What is made up in /etc: one user, one group, and no name that leads anywhere.
const MADE_UP: [(&CStr, &CStr); 5] = [
    (c"etc/passwd", c"plugin:x:1000:1000:plugin:/data:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"),
    (c"etc/group", c"plugin:x:1000:\nnogroup:x:65534:\n"),
    (c"etc/hosts", c"127.0.0.1 localhost\n::1 localhost\n"),
    (c"etc/nsswitch.conf", c"passwd: files\ngroup: files\nhosts: files\n"),
    (c"etc/resolv.conf", c""),
];

/// What programs expect in /dev beside devices.
const DEVICE_LINKS: [(&CStr, &CStr); 4] = [
    (c"dev/fd", c"/proc/self/fd"),
    (c"dev/stdin", c"/proc/self/fd/0"),
    (c"dev/stdout", c"/proc/self/fd/1"),
    (c"dev/stderr", c"/proc/self/fd/2"),
];

/// Where a plugin finds its package and its data.
pub const PACKAGE: &str = "/plugin";
/// Its working directory and home.
pub const DATA: &str = "/data";

/// Where the proxy listens on a plugin's loopback. Nothing else is there, so any number would do; this is the one that proxies have.
pub const PROXY_PORT: u16 = 3128;

/// Something of the host that a plugin sees.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Shown {
    /// A symbolic link that the host has as well: its path, and where it leads.
    Link(CString, CString),
    /// A folder of programs and libraries, by its path without the slash in front.
    Programs(CString),
    /// A file or folder that is only read.
    Read(CString),
    /// A device.
    Device(CString),
}

/// What of this host's tree a plugin sees.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    shown: Vec<Shown>,
    /// Folders in which something is mounted, those above others first.
    folders: Vec<CString>,
}

impl Layout {
    /// Looks at what the host has of that which plugins are shown.
    #[must_use]
    pub fn of_this_host() -> Self {
        Self::beneath(Path::new("/"))
    }

    fn beneath(root: &Path) -> Self {
        let mut layout = Self::default();
        layout.show(Shown::Programs(c"usr".to_owned()));
        // On most hosts these are links into it.
        for name in BESIDE_USR {
            let path = root.join(name);
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if metadata.is_dir() {
                layout.show(Shown::Programs(of(name)));
            } else if let Ok(target) = path.read_link() {
                layout.show(Shown::Link(of(name), of_path(&target)));
            }
        }
        for name in FROM_ETC {
            // A link is followed: what is bound is what it leads to.
            if root.join(name).exists() {
                layout.show(Shown::Read(of(name)));
            }
        }
        for name in DEVICES {
            if root.join("dev").join(name).exists() {
                layout.show(Shown::Device(of(&format!("dev/{name}"))));
            }
        }
        for folder in ["dev", "etc"] {
            layout.make_folder(of(folder));
        }
        layout
    }

    fn show(&mut self, shown: Shown) {
        let (Shown::Link(path, _) | Shown::Programs(path) | Shown::Read(path) | Shown::Device(path)) = &shown;
        let bytes = path.to_bytes();
        let slashes: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at] == b'/').collect();
        for end in slashes {
            self.make_folder(CString::new(&bytes[..end]).unwrap_or_default());
        }
        self.shown.push(shown);
    }

    fn make_folder(&mut self, folder: CString) {
        if !self.folders.contains(&folder) {
            self.folders.push(folder);
        }
    }
}

/// Who a plugin is on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The daemon's own user, which is all that an ordinary user can give.
    Own,
    /// A user of the host that nobody else is at the time; what the daemon's user owns on the disk is the plugin's while
    /// it is mounted.
    Lent {
        /// Its number, and that of its group.
        uid: u32,
    },
    /// A user of the host that all plugins share, to whom their data belong: where ids cannot be mapped.
    Shared {
        /// Its number, and that of its group.
        uid: u32,
    },
}

/// What this host offers to confine with. What is missing is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// What of the host's tree is shown.
    pub layout: Layout,
    /// User namespaces.
    pub user_namespaces: bool,
    /// A root of the plugin's own. It needs a user namespace.
    pub private_root: bool,
    /// Network namespaces.
    pub network: bool,
    /// Namespaces of System V objects and message queues.
    pub ipc: bool,
    /// UTS namespaces.
    pub hostname: bool,
    /// How many watchers of files a user namespace has can be bounded.
    pub watchers: bool,
    /// The version of Landlock's interface, 0 without it.
    pub landlock: u32,
    /// System call filters, and listeners on which they ask.
    pub seccomp: bool,
    /// The cgroups of plugins have controllers, which hold the whole tree to its memory, processes and processor time.
    pub controllers: bool,
}

impl Offer {
    /// A host that has everything but controllers, with the rights of that version of Landlock.
    #[must_use]
    pub fn whole(landlock: u32) -> Self {
        Self {
            layout: Layout::of_this_host(),
            user_namespaces: true,
            private_root: true,
            network: true,
            ipc: true,
            hostname: true,
            watchers: true,
            landlock,
            seccomp: true,
            controllers: false,
        }
    }
}

/// What is to be confined.
#[derive(Clone, Copy, Debug)]
pub struct Inside<'a> {
    /// Who it is on the host.
    pub identity: Identity,
    /// Its host name.
    pub hostname: &'a str,
    /// The snapshot of its package.
    pub package: &'a Path,
    /// Its data folder.
    pub data: &'a Path,
    /// The entry point in the package; without one, the file that is handed over is executed wherever it lies.
    pub entry: Option<&'a str>,
    /// The path of the interpreter, if the entry point is a script.
    pub interpreter: Option<&'a Path>,
    /// Whether what it is refused is written down.
    pub denials: Denials,
    /// What it was granted.
    pub grants: &'a Grants,
    /// The files among it, and those of its runtime, as they were found.
    pub places: &'a [Place],
}

/// Which system calls a plugin with these grants may make, and who refuses the others.
#[must_use]
pub fn profile(grants: &Grants, denials: Denials) -> Profile {
    let execution = if grants.execute_code { Execution::Any } else { Execution::Once };
    Profile { execution, denials }
}

/// Puts everything that confines into a specification.
pub fn confine(spec: &mut Spec, offer: &Offer, inside: &Inside<'_>) {
    let own = own_user_map();
    let host = match inside.identity {
        Identity::Own => (own.outside_uid, own.outside_gid),
        Identity::Lent { uid } | Identity::Shared { uid } => (uid, uid),
    };
    spec.namespaces.network = offer.network;
    spec.listener = proxy_port(offer, inside.grants);
    spec.namespaces.ipc = offer.ipc;
    spec.hostname = offer.hostname.then(|| of(inside.hostname));
    spec.watchers = (offer.user_namespaces && offer.watchers).then_some(WATCHERS);
    spec.powerless = true;
    if offer.seccomp {
        let profile = profile(inside.grants, inside.denials);
        spec.seccomp = Some(seccomp::compile(&profile));
        if profile.denials == Denials::Traced {
            spec.denials = Some(seccomp::compile(&Profile { denials: Denials::Answered, ..profile }));
        }
        spec.exec_once = profile.execution == Execution::Once;
    }
    if offer.user_namespaces {
        spec.user_namespace =
            Some(UserMap { inside_uid: PLUGIN_UID, outside_uid: host.0, inside_gid: PLUGIN_UID, outside_gid: host.1 });
    }
    if offer.private_root {
        spec.namespaces.cgroup = true;
        let idmap = match inside.identity {
            Identity::Lent { .. } => {
                Some(IdMap { disk_uid: own.outside_uid, host_uid: host.0, disk_gid: own.outside_gid, host_gid: host.1 })
            }
            Identity::Own | Identity::Shared { .. } => None,
        };
        spec.root = Some(root(&offer.layout, inside, idmap));
        spec.directory = of(DATA);
        spec.landlock = landlock(offer.landlock, &offer.layout, inside, spec.listener);
    }
}

/// Where a plugin with these grants finds its way out. None where it has none to find: nothing is granted, or its network is not
/// its own.
#[must_use]
pub fn proxy_port(offer: &Offer, grants: &Grants) -> Option<u16> {
    (offer.network && !grants.network_access.is_empty()).then_some(PROXY_PORT)
}

fn root(layout: &Layout, inside: &Inside<'_>, idmap: Option<IdMap>) -> Root {
    let read_only = Attributes { read_only: true, no_dev: true, ..Attributes::default() };
    let private = Attributes { no_exec: true, no_dev: true, ..Attributes::default() };
    let bind = |path: CString, target: &CStr, attributes, idmap| Mount {
        target: target.to_owned(),
        source: Source::Bind { path, idmap },
        attributes,
        optional: false,
    };
    let mut mounts = vec![
        bind(of_path(inside.package), c"plugin", read_only, None),
        bind(of_path(inside.data), c"data", private, idmap),
    ];
    let mut links: Vec<_> = DEVICE_LINKS.map(|(path, target)| made_up(path, target)).into();
    for shown in &layout.shown {
        let from_root = |path: &CStr| CString::new([b"/", path.to_bytes()].concat()).unwrap_or_default();
        match shown {
            Shown::Link(path, target) => links.push(made_up(path, target)),
            Shown::Programs(path) => mounts.push(bind(from_root(path), path, read_only, None)),
            Shown::Read(path) => {
                let attributes = Attributes { no_exec: true, ..read_only };
                // It was there when the daemon started; should it be gone, that is no reason not to start.
                mounts.push(Mount { optional: true, ..bind(from_root(path), path, attributes, None) });
            }
            Shown::Device(path) => {
                let attributes = Attributes { no_exec: true, ..Attributes::default() };
                mounts.push(bind(from_root(path), path, attributes, None));
            }
        }
    }
    let new = |kind: &CStr, target: &CStr, options: Vec<Setting>| Mount {
        target: target.to_owned(),
        source: Source::New { kind: kind.to_owned(), options },
        attributes: private,
        optional: false,
    };
    mounts.push(new(c"tmpfs", c"tmp", memory(TMP_SIZE, c"1777")));
    mounts.push(new(c"tmpfs", c"dev/shm", memory(SHM_SIZE, c"1777")));
    // Processes and nothing about the host: system-wide files of /proc are a permission of their own.
    mounts.push(new(c"proc", c"proc", vec![setting(c"subset", c"pid")]));
    granted(&mut mounts, inside);
    let within = |path: &Path| of_path(path.strip_prefix("/").unwrap_or(path));
    Root {
        options: memory(ROOT_SIZE, c"755"),
        folders: layout.folders.clone(),
        files: MADE_UP.map(|(path, contents)| made_up(path, contents)).into(),
        links,
        mounts,
        bound_by: match inside.identity {
            Identity::Own => BoundBy::Init,
            Identity::Lent { .. } | Identity::Shared { .. } => BoundBy::Launcher,
        },
        entry: inside.entry.map(|entry| of(&format!("plugin/{entry}"))),
        interpreter: inside.interpreter.map(within),
    }
}

/// What of the host the operator granted, or configured for its runtime, at the same path: those that lie in others behind them.
fn granted(mounts: &mut Vec<Mount>, inside: &Inside<'_>) {
    let target = |path: &str| of(path.trim_start_matches('/'));
    let owner = match inside.identity {
        Identity::Lent { uid } => Some((uid, uid)),
        Identity::Own | Identity::Shared { .. } => None,
    };
    for Place { path, access, .. } in inside.places {
        let executed = *access == Access::Execute;
        // What is executed stays its owner's: strangers may read it.
        let owner = owner.filter(|_| !executed);
        mounts.push(Mount {
            target: target(path.as_str()),
            source: Source::Granted { path: of(path.as_str()), owner },
            attributes: Attributes { read_only: *access != Access::Write, no_exec: !executed, no_dev: true },
            optional: false,
        });
    }
    for file in &inside.grants.system_access {
        mounts.push(Mount {
            target: target(file.inside()),
            source: Source::Granted { path: of(file.on_the_host()), owner: None },
            attributes: Attributes { read_only: true, no_exec: true, no_dev: true },
            optional: false,
        });
    }
}

fn memory((size, inodes): (&CStr, &CStr), mode: &CStr) -> Vec<Setting> {
    vec![setting(c"size", size), setting(c"nr_inodes", inodes), setting(c"mode", mode)]
}

fn setting(name: &CStr, value: &CStr) -> Setting {
    Setting { name: name.to_owned(), value: value.to_owned() }
}

fn made_up(path: &CStr, contents: &CStr) -> MadeUp {
    MadeUp { path: path.to_owned(), contents: contents.to_owned() }
}

/// Rights of Landlock, in the kernel's bits.
mod right {
    pub(super) const EXECUTE: u64 = 1;
    pub(super) const WRITE_FILE: u64 = 1 << 1;
    pub(super) const READ_FILE: u64 = 1 << 2;
    pub(super) const READ_DIR: u64 = 1 << 3;
    pub(super) const REMOVE_DIR: u64 = 1 << 4;
    pub(super) const REMOVE_FILE: u64 = 1 << 5;
    pub(super) const MAKE_CHAR: u64 = 1 << 6;
    pub(super) const MAKE_DIR: u64 = 1 << 7;
    pub(super) const MAKE_REG: u64 = 1 << 8;
    pub(super) const MAKE_SOCK: u64 = 1 << 9;
    pub(super) const MAKE_FIFO: u64 = 1 << 10;
    pub(super) const MAKE_BLOCK: u64 = 1 << 11;
    pub(super) const MAKE_SYM: u64 = 1 << 12;
    pub(super) const REFER: u64 = 1 << 13;
    pub(super) const TRUNCATE: u64 = 1 << 14;
    pub(super) const IOCTL_DEV: u64 = 1 << 15;

    pub(super) const BIND_TCP: u64 = 1;
    pub(super) const CONNECT_TCP: u64 = 1 << 1;

    pub(super) const ABSTRACT_UNIX_SOCKET: u64 = 1;
    pub(super) const SIGNAL: u64 = 1 << 1;
}

/// The rights that a version of the interface knows: over files, over the network, and what it keeps within.
fn known(version: u32) -> (u64, u64, u64) {
    use right::*;
    let mut files = EXECUTE
        | WRITE_FILE
        | READ_FILE
        | READ_DIR
        | REMOVE_DIR
        | REMOVE_FILE
        | MAKE_CHAR
        | MAKE_DIR
        | MAKE_REG
        | MAKE_SOCK
        | MAKE_FIFO
        | MAKE_BLOCK
        | MAKE_SYM;
    for (since, right) in [(2, REFER), (3, TRUNCATE), (5, IOCTL_DEV)] {
        if since <= version {
            files |= right;
        }
    }
    let network = if 4 <= version { BIND_TCP | CONNECT_TCP } else { 0 };
    let scoped = if 6 <= version { ABSTRACT_UNIX_SOCKET | SIGNAL } else { 0 };
    (files, network, scoped)
}

/// The second fence, for exactly the rights of the version that the probe found.
fn landlock(version: u32, layout: &Layout, inside: &Inside<'_>, proxy: Option<u16>) -> Option<Landlock> {
    use right::*;
    if version == 0 {
        return None;
    }
    let (files, network, scoped) = known(version);
    let read = READ_FILE | READ_DIR;
    let own = files & !(EXECUTE | MAKE_CHAR | MAKE_BLOCK | IOCTL_DEV);
    let rule = |path: &str, rights: u64| PathRule { path: of(path), rights: rights & files, optional: false };
    let mut rules = vec![
        // Whatever stands there may be listed; what may be read is said by the others.
        rule("/", READ_DIR),
        rule(PACKAGE, read | EXECUTE),
        rule(DATA, own),
        rule("/tmp", own),
        rule("/dev/shm", own),
        rule("/dev", read | WRITE_FILE | TRUNCATE | IOCTL_DEV),
        rule("/etc", read),
        rule("/proc", read | WRITE_FILE | TRUNCATE),
    ];
    for shown in &layout.shown {
        if let Shown::Programs(path) = shown {
            rules.push(rule(&format!("/{}", path.to_string_lossy()), read | EXECUTE));
        }
    }
    for Place { path, kind, access } in inside.places {
        let rights = match (kind, access) {
            (Kind::Folder, Access::Read) => read,
            (Kind::Folder, Access::Execute) => read | EXECUTE,
            (Kind::Folder, Access::Write) => own,
            // The kernel refuses a rule about a file with rights that only a folder can give.
            (Kind::File, Access::Read) => READ_FILE,
            (Kind::File, Access::Execute) => READ_FILE | EXECUTE,
            (Kind::File, Access::Write) => READ_FILE | WRITE_FILE | TRUNCATE,
        };
        rules.push(rule(path.as_str(), rights));
    }
    for file in &inside.grants.system_access {
        let rights = if *file == SystemFile::Cpu { read } else { READ_FILE };
        rules.push(rule(file.inside(), rights));
    }
    // A rule about a right that is not handled is refused.
    let rights = CONNECT_TCP & network;
    let ports = proxy.filter(|_| rights != 0).map(|port| PortRule { port, rights }).into_iter().collect();
    Some(Landlock { handled_fs: files, handled_net: network, scoped, rules, ports })
}

/// What a plugin may use, as far as the kernel counts it by process. `descriptors_max` is the daemon's own hard limit.
#[must_use]
pub fn limits(decided: &Decided, offer: &Offer, descriptors_max: u64) -> Vec<Limit> {
    let both = |resource, value| Limit { resource, soft: Some(value), hard: Some(value) };
    let mut limits = vec![
        both(Resource::Descriptors, decided.open_files.min(descriptors_max)),
        both(Resource::Core, CORE_BYTES),
        both(Resource::FileSize, bytes(decided.file_size_mib)),
        both(Resource::LockedMemory, LOCKED_BYTES),
        both(Resource::MessageQueues, MESSAGE_QUEUE_BYTES),
        both(Resource::QueuedSignals, QUEUED_SIGNALS),
        both(Resource::RealtimePriority, 0),
        Limit { resource: Resource::Stack, soft: Some(STACK_BYTES), hard: Some(STACK_BYTES_MAX) },
    ];
    if !offer.controllers {
        // Not address space: runtimes reserve much of it that they never use.
        limits.push(both(Resource::Data, bytes(decided.memory_mib)));
    }
    // Beside a controller it would refuse first, and nobody would be told.
    if offer.user_namespaces && !offer.controllers {
        // Counted within the user namespace, so of this tree alone.
        limits.push(both(Resource::Processes, processes(decided.pids)));
    }
    limits
}

/// What a plugin may use, as its cgroup counts it where there are controllers.
#[must_use]
pub fn leaf_limits(decided: &Decided) -> LeafLimits {
    LeafLimits {
        memory_bytes: bytes(decided.memory_mib),
        pids: processes(decided.pids),
        cpu_percent: decided.cpu_percent,
    }
}

fn bytes(mebibytes: u64) -> u64 {
    mebibytes.saturating_mul(1 << 20)
}

/// How many processes the kernel lets a tree have where no controller counts them: pid 1 of the tree is not the plugin's.
pub fn processes(pids: u64) -> u64 {
    pids.saturating_add(1)
}

/// The folder of a plugin's data, made for its user alone.
///
/// # Errors
/// What the system says.
pub fn make_data_folder(path: &Path, identity: Identity) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        made => made?,
    }
    match identity {
        Identity::Shared { uid } => std::os::unix::fs::chown(path, Some(uid), Some(uid)),
        Identity::Own | Identity::Lent { .. } => Ok(()),
    }
}

fn of(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}

fn of_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).unwrap_or_default()
}

/// A path as the plugin sees it.
#[must_use]
pub fn inside_package(entry: &str) -> PathBuf {
    Path::new(PACKAGE).join(entry)
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;
    use crate::model::limits::BUILT_IN;
    use crate::model::permission::network::Scope;
    use crate::model::permission::path::HostPath;

    fn offer(landlock: u32) -> Offer {
        Offer::whole(landlock)
    }

    static NOTHING: LazyLock<Grants> = LazyLock::new(Grants::default);

    fn inside(identity: Identity) -> Inside<'static> {
        Inside {
            identity,
            hostname: "plugin",
            package: Path::new("/store/x"),
            data: Path::new("/state/data/x"),
            entry: Some("bin/main"),
            interpreter: None,
            denials: Denials::Answered,
            grants: &NOTHING,
            places: &[],
        }
    }

    fn confined(offer: &Offer, identity: Identity) -> Spec {
        let mut spec = Spec::new(c"/".to_owned());
        confine(&mut spec, offer, &inside(identity));
        spec
    }

    #[test]
    fn nothing_but_data_and_memory_can_be_written_and_nothing_written_executed() {
        let spec = confined(&offer(7), Identity::Lent { uid: 7 });
        let root = spec.root.unwrap();
        for mount in &root.mounts {
            let writable = !mount.attributes.read_only && !mount.target.to_bytes().starts_with(b"dev/n");
            assert!(!writable || mount.attributes.no_exec, "{mount:?}");
            let own = [&b"data"[..], b"tmp", b"dev/shm", b"proc"];
            let device = mount.target.to_bytes().starts_with(b"dev/") && !mount.attributes.no_dev;
            assert!(
                mount.attributes.read_only || device || own.contains(&mount.target.to_bytes()),
                "{mount:?} is writable"
            );
        }
    }

    #[test]
    fn a_lent_user_is_mapped_and_never_the_hosts_root() {
        let spec = confined(&offer(0), Identity::Lent { uid: 1_900_000_007 });
        let map = spec.user_namespace.unwrap();
        assert_eq!((map.inside_uid, map.outside_uid), (1000, 1_900_000_007));
        assert_eq!((map.inside_gid, map.outside_gid), (1000, 1_900_000_007));
        let root = spec.root.unwrap();
        assert_eq!(root.bound_by, BoundBy::Launcher);
        let mapped: Vec<_> = root
            .mounts
            .iter()
            .filter_map(|mount| match &mount.source {
                Source::Bind { idmap: Some(map), .. } => Some((mount.target.to_bytes(), map.host_uid)),
                _ => None,
            })
            .collect();
        assert_eq!(mapped, [(&b"data"[..], 1_900_000_007)]);
        assert!(spec.landlock.is_none());
    }

    #[test]
    fn a_way_out_is_there_where_it_is_granted_and_the_network_is_its_own() {
        let granted = Grants { network_access: vec![Scope::parse("a.example").unwrap()], ..Grants::default() };
        assert_eq!(proxy_port(&offer(7), &granted), Some(PROXY_PORT));
        assert_eq!(proxy_port(&offer(7), &Grants::default()), None);
        assert_eq!(proxy_port(&Offer { network: false, ..offer(7) }, &granted), None);
        assert_eq!(confined(&offer(7), Identity::Own).listener, None);
    }

    #[test]
    fn landlock_asks_for_exactly_what_a_version_knows() {
        let sets: Vec<_> = (1..=7).map(known).collect();
        assert_eq!(sets[0], ((1 << 13) - 1, 0, 0));
        assert_eq!(sets[1], ((1 << 14) - 1, 0, 0));
        assert_eq!(sets[2], ((1 << 15) - 1, 0, 0));
        assert_eq!(sets[3], ((1 << 15) - 1, 3, 0));
        assert_eq!(sets[4], ((1 << 16) - 1, 3, 0));
        assert_eq!(sets[5], ((1 << 16) - 1, 3, 3));
        assert_eq!(sets[6], sets[5]);
        for version in 1..=7 {
            let rules = landlock(version, &Layout::of_this_host(), &inside(Identity::Own), Some(3128)).unwrap();
            let port = PortRule { port: 3128, rights: right::CONNECT_TCP };
            assert_eq!(rules.ports, if version < 4 { vec![] } else { vec![port] });
            let without = landlock(version, &Layout::of_this_host(), &inside(Identity::Own), None).unwrap();
            assert_eq!(without.ports, []);
            // The kernel refuses a rule with a right that is not handled.
            assert!(rules.rules.iter().all(|rule| rule.rights & !rules.handled_fs == 0 && rule.rights != 0));
        }
    }

    #[test]
    fn what_is_granted_is_mounted_behind_all_else_and_never_executable() {
        let place = |path: &str, kind, access| Place { path: HostPath::parse(path).unwrap(), kind, access };
        let places = [
            place("/srv", Kind::Folder, Access::Read),
            place("/srv/out", Kind::Folder, Access::Write),
            place("/srv/out/one", Kind::File, Access::Write),
        ];
        let grants = Grants { system_access: vec![SystemFile::Cpu, SystemFile::Meminfo], ..NOTHING.clone() };
        for (identity, owner) in [(Identity::Lent { uid: 7 }, Some((7, 7))), (Identity::Own, None)] {
            let mut spec = Spec::new(c"/".to_owned());
            confine(&mut spec, &offer(7), &Inside { grants: &grants, places: &places, ..inside(identity) });
            let mounts = spec.root.unwrap().mounts;
            let last: Vec<_> = mounts[mounts.len() - 5..].to_vec();
            assert!(last.iter().all(|mount| mount.attributes.no_exec && mount.attributes.no_dev && !mount.optional));
            let read_only = last.iter().map(|mount| mount.attributes.read_only).collect::<Vec<_>>();
            assert_eq!(read_only, [true, false, false, true, true]);
            let targets: Vec<_> = last.iter().map(|mount| mount.target.to_str().unwrap()).collect();
            assert_eq!(targets, ["srv", "srv/out", "srv/out/one", "sys/devices/system/cpu", "host/proc/meminfo"]);
            assert_eq!(last[0].source, Source::Granted { path: c"/srv".to_owned(), owner });
            let landlock = spec.landlock.unwrap();
            let rights = |path: &CStr| landlock.rules.iter().find(|rule| *rule.path == *path).unwrap().rights;
            let changing = right::WRITE_FILE | right::TRUNCATE | right::MAKE_REG | right::REMOVE_FILE;
            assert_eq!(rights(c"/srv"), right::READ_FILE | right::READ_DIR);
            assert_eq!(rights(c"/srv/out") & changing, changing);
            assert_eq!(rights(c"/srv/out") & right::EXECUTE, 0);
            assert_eq!(rights(c"/srv/out/one"), right::READ_FILE | right::WRITE_FILE | right::TRUNCATE);
            assert_eq!(rights(c"/host/proc/meminfo"), right::READ_FILE);
        }
    }

    #[test]
    fn a_host_is_shown_as_it_is() {
        let host = tempfile::tempdir().unwrap();
        let at = |path: &str| host.path().join(path);
        for folder in ["usr/bin", "lib64", "etc/ssl/certs", "dev"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        std::fs::write(at("etc/shadow"), "").unwrap();
        std::os::unix::fs::symlink("usr/bin", at("bin")).unwrap();
        let layout = Layout::beneath(host.path());
        assert_eq!(
            layout.shown,
            [
                Shown::Programs(c"usr".to_owned()),
                Shown::Link(c"bin".to_owned(), c"usr/bin".to_owned()),
                Shown::Programs(c"lib64".to_owned()),
                Shown::Read(c"etc/ssl/certs".to_owned()),
            ]
        );
        assert_eq!(layout.folders, [c"etc".to_owned(), c"etc/ssl".to_owned(), c"dev".to_owned()]);
    }

    #[test]
    fn without_controllers_each_process_is_held_to_the_limit() {
        let decided = Decided { memory_mib: 10, pids: 3, ..BUILT_IN };
        let has = |offer: &Offer, resource| {
            limits(&decided, offer, 500).into_iter().find(|limit| limit.resource == resource).map(|limit| limit.hard)
        };
        assert_eq!(has(&offer(0), Resource::Data), Some(Some(10 << 20)));
        assert_eq!(has(&offer(0), Resource::Processes), Some(Some(4)));
        let controlled = Offer { controllers: true, ..offer(0) };
        assert_eq!([Resource::Data, Resource::Processes].map(|resource| has(&controlled, resource)), [None, None]);
        let leaf = LeafLimits { memory_bytes: 10 << 20, pids: 4, cpu_percent: BUILT_IN.cpu_percent };
        assert_eq!(leaf_limits(&decided), leaf);
        assert_eq!(has(&offer(0), Resource::Descriptors), Some(Some(500)));
        assert_eq!(has(&offer(0), Resource::AddressSpace), None);
    }
}
