//! What the start of a confined plugin is compared with: a program that makes the same system calls and nothing else, and bubblewrap.
//!
//! Both are given the very specification that a daemon sent to its launcher (`bare_launcher.rs` kept it), so that the namespaces, binds,
//! limits, Landlock rules and filter are the same. The program is C (`tests/benches/floor/start.c`), compiled with the specification in it.

use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, posix_spawn};
use palisade_launcher::{Attributes, BoundBy, MadeUp, Resource, Root, Setting, Source, Spec};
use palisade_tests::command::command;

use crate::start::{above_standard, pipe, read_hello};

/// The floor's source, and the C compiler's words for a program without a C library.
const SOURCE: &str = include_str!("../floor/start.c");
const COMPILER: [&str; 9] = [
    "-O2",
    "-static",
    "-nostdlib",
    "-ffreestanding",
    "-fno-pie",
    "-no-pie",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fcf-protection=none",
];

/// The kernel's numbers for attributes of mounts.
const READ_ONLY: u32 = 1;
const NO_SETUID: u32 = 2;
const NO_DEVICES: u32 = 4;
const NO_EXEC: u32 = 8;

/// How often the removal of a leaf is tried whose last process ended a moment ago.
const REMOVAL_ATTEMPTS: usize = 1000;

/// The program, compiled for one specification.
#[derive(Debug)]
pub(crate) struct Floor {
    program: CString,
    /// Where leaf cgroups are made, if the daemon has any.
    cgroup: Option<PathBuf>,
    started: u32,
    _folder: tempfile::TempDir,
}

impl Floor {
    /// Compiles it. An error says what is missing.
    pub(crate) fn compile(spec: &Spec, cgroup: Option<PathBuf>) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("a folder")?;
        let (source, program) = (folder.path().join("start.c"), folder.path().join("start"));
        std::fs::write(&source, SOURCE).context("writing the floor's source")?;
        std::fs::write(folder.path().join("specification.h"), header(spec)?).context("writing its specification")?;
        let output = command("gcc").args(COMPILER).arg("-o").arg(&program).arg(&source).output();
        let output = output.context("there is no gcc")?;
        if !output.status.success() {
            bail!("gcc: {}", String::from_utf8_lossy(&output.stderr));
        }
        let program = CString::new(program.as_os_str().as_bytes()).context("a path")?;
        Ok(Self { program, cgroup, started: 0, _folder: folder })
    }

    /// Starts the plugin, waits for its hello and then for its end; how long it took until the hello, in µs.
    pub(crate) fn start(&mut self) -> anyhow::Result<f64> {
        self.started += 1;
        let leaf = self.cgroup.as_ref().map(|cgroup| cgroup.join(format!("leaf.floor-{}", self.started)));
        let begun = Instant::now();
        let folder = match &leaf {
            Some(leaf) => {
                std::fs::create_dir(leaf).context("making a leaf cgroup")?;
                Some(File::open(leaf).context("opening a leaf cgroup")?)
            }
            None => None,
        };
        let took = run(begun, &self.program, &[self.program.as_c_str()], folder.map(OwnedFd::from));
        if let Some(leaf) = leaf {
            remove(&leaf)?;
        }
        took
    }
}

/// bubblewrap with the same namespaces and binds.
#[derive(Debug)]
pub(crate) struct Bubblewrap {
    program: CString,
    arguments: Vec<CString>,
}

impl Bubblewrap {
    /// An error says what is missing.
    pub(crate) fn find(spec: &Spec) -> anyhow::Result<Self> {
        let program = ["/usr/bin/bwrap", "/usr/local/bin/bwrap"].into_iter().find(|path| Path::new(path).exists());
        let program = program.context("there is no bwrap (Debian's package bubblewrap)")?;
        let root = spec.root.as_ref().context("the specification has no root")?;
        let mut arguments: Vec<CString> = Vec::new();
        let mut add = |words: &[&CStr]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
        add(&[c"bwrap", c"--unshare-all", c"--uid", c"1000", c"--gid", c"1000", c"--hostname", c"plugin"]);
        add(&[c"--die-with-parent", c"--new-session", c"--cap-drop", c"ALL", c"--clearenv", c"--chdir", c"/data"]);
        for variable in &spec.environment {
            let text = variable.to_str().context("a variable")?;
            let (name, value) = text.split_once('=').context("a variable")?;
            add(&[c"--setenv", &c_string(name)?, &c_string(value)?]);
        }
        for folder in &root.folders {
            add(&[c"--dir", &inside(folder)?]);
        }
        for MadeUp { path, contents } in &root.links {
            add(&[c"--symlink", contents, &inside(path)?]);
        }
        for mount in &root.mounts {
            let target = inside(&mount.target)?;
            match &mount.source {
                Source::Bind { path, .. } => {
                    let how = match (mount.attributes.read_only, mount.attributes.no_dev, mount.optional) {
                        (true, _, false) => c"--ro-bind",
                        (true, _, true) => c"--ro-bind-try",
                        (false, true, _) => c"--bind",
                        (false, false, _) => c"--dev-bind",
                    };
                    add(&[how, path, &target]);
                }
                Source::Granted { .. } => bail!("the plugin that is measured is granted no files"),
                Source::New { kind, .. } if kind.as_bytes() == b"proc" => add(&[c"--proc", &target]),
                Source::New { .. } => add(&[c"--tmpfs", &target]),
            }
        }
        add(&[&inside(root.entry.as_ref().context("the specification names no entry point")?)?]);
        Ok(Self { program: c_string(program)?, arguments })
    }

    /// As `Floor::start`.
    pub(crate) fn start(&self) -> anyhow::Result<f64> {
        run(Instant::now(), &self.program, &self.arguments, None)
    }
}

/// Starts a program that becomes a plugin, with the plugin's descriptors and the leaf as descriptor 5.
fn run(begun: Instant, program: &CStr, arguments: &[impl AsRef<CStr>], leaf: Option<OwnedFd>) -> anyhow::Result<f64> {
    let null = above_standard(5)?;
    let (their_input, our_output) = pipe()?;
    let (our_input, their_output) = pipe()?;
    let mut actions = PosixSpawnFileActions::init().context("posix_spawn")?;
    for standard in 0..2 {
        actions.add_dup2(null[0].as_raw_fd(), standard).context("posix_spawn")?;
    }
    // First, as it was opened before the others and may lie where they go.
    if let Some(leaf) = &leaf {
        actions.add_dup2(leaf.as_fd().as_raw_fd(), 5).context("posix_spawn")?;
    }
    actions.add_dup2(their_input.as_raw_fd(), 3).context("posix_spawn")?;
    actions.add_dup2(their_output.as_raw_fd(), 4).context("posix_spawn")?;
    let attributes = PosixSpawnAttr::init().context("posix_spawn")?;
    let none: [&CStr; 0] = [];
    let child = posix_spawn(program, &actions, &attributes, arguments, &none).context("starting")?;
    drop((their_input, their_output, leaf));
    let mut input = File::from(our_input);
    let said = read_hello(&mut input);
    let took = begun.elapsed().as_secs_f64() * 1e6;
    // The end of its input is the plugin's end.
    drop((input, our_output));
    nix::sys::wait::waitpid(child, None).context("waiting for the floor")?;
    said.map(|()| took)
}

/// Removes a leaf cgroup that is about to be empty.
pub(crate) fn remove(leaf: &Path) -> anyhow::Result<()> {
    for _ in 0..REMOVAL_ATTEMPTS {
        match std::fs::remove_dir(leaf) {
            Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => std::thread::yield_now(),
            result => return result.context("removing a leaf cgroup"),
        }
    }
    bail!("{} does not become empty", leaf.display())
}

/// The folder with the daemon's leaf cgroups, found by one of its plugins.
pub(crate) fn leaves_of(plugin: u32) -> Option<PathBuf> {
    let cgroups = std::fs::read_to_string(format!("/proc/{plugin}/cgroup")).ok()?;
    let path = cgroups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (target, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then_some(target)
    })?;
    let leaf = Path::new(mount).join(path.trim_start_matches('/'));
    leaf.file_name()?.as_bytes().starts_with(b"leaf.").then(|| leaf.parent().map(Path::to_owned))?
}

fn c_string(text: &str) -> anyhow::Result<CString> {
    CString::new(text).context("a string")
}

fn inside(path: &CStr) -> anyhow::Result<CString> {
    CString::new([b"/", path.to_bytes()].concat()).context("a path")
}

/// The specification as C.
fn header(spec: &Spec) -> anyhow::Result<String> {
    let root = spec.root.as_ref().context("this host offers no private root, without which there is no such floor")?;
    let map = spec.user_namespace.context("this host offers no user namespaces")?;
    ensure!(spec.interpreter || spec.root.is_some(), "a program");
    let mut text = String::new();
    let mut flags = 0x1000_0000_u64 | 0x0002_0000; // user, mount
    for (wanted, flag) in [
        (spec.namespaces.network, 0x4000_0000),
        (spec.namespaces.ipc, 0x0800_0000),
        (spec.hostname.is_some(), 0x0400_0000),
    ] {
        flags |= if wanted { flag } else { 0 };
    }
    let hostname = spec.hostname.clone().unwrap_or_default();
    let entry = root.entry.as_ref().context("the specification names no entry point")?;
    writeln!(text, "#define NAMESPACES {flags:#x}UL")?;
    writeln!(text, "#define LEAF {}", u8::from(spec.leaf))?;
    writeln!(text, "#define EXEC_ONCE {}", u8::from(spec.exec_once))?;
    writeln!(text, "#define BOUND_BY_LAUNCHER {}", u8::from(root.bound_by == BoundBy::Launcher))?;
    writeln!(text, "#define INSIDE {}", map.inside_uid)?;
    writeln!(text, "#define MAP_USER \"{} {} 1\\n\"", map.inside_uid, map.outside_uid)?;
    writeln!(text, "#define MAP_GROUP \"{} {} 1\\n\"", map.inside_gid, map.outside_gid)?;
    writeln!(text, "#define HOSTNAME {}", c(&hostname))?;
    writeln!(text, "#define ENTRY {}", c(entry))?;
    writeln!(text, "#define DIRECTORY {}", c(&spec.directory))?;
    writeln!(text, "#define OOM_SCORE_ADJ \"{}\"", spec.oom_score_adj)?;
    if let Some(watchers) = spec.watchers {
        writeln!(text, "#define WATCHER_INSTANCES \"{}\"", watchers.instances)?;
        writeln!(text, "#define WATCHES \"{}\"", watchers.watches)?;
    }
    strings(&mut text, "ARGUMENTS", &spec.arguments)?;
    strings(&mut text, "ENVIRONMENT", &spec.environment)?;
    mounts(&mut text, root)?;
    writeln!(text, "static const struct limit LIMITS[] = {{")?;
    for limit in &spec.limits {
        let value = |value: Option<u64>| value.unwrap_or(u64::MAX);
        writeln!(text, "\t{{ {}, {}UL, {}UL }},", number(limit.resource), value(limit.soft), value(limit.hard))?;
    }
    writeln!(text, "}};")?;
    let landlock = spec.landlock.as_ref();
    let handled = landlock.map_or((0, 0, 0), |all| (all.handled_fs, all.handled_net, all.scoped));
    writeln!(text, "#define LANDLOCK_FILES {}UL", handled.0)?;
    writeln!(text, "#define LANDLOCK_NETWORK {}UL", handled.1)?;
    writeln!(text, "#define LANDLOCK_SCOPED {}UL", handled.2)?;
    writeln!(text, "static const struct path_rule RULES[] = {{")?;
    for rule in landlock.iter().flat_map(|all| &all.rules) {
        writeln!(text, "\t{{ {}, {}UL }},", c(&rule.path), rule.rights)?;
    }
    writeln!(text, "\t{{ 0, 0 }},\n}};")?;
    let (filter, _) = spec.seccomp.as_deref().unwrap_or_default().as_chunks();
    writeln!(text, "static const uint64_t FILTER[{}] = {{", filter.len())?;
    for instruction in filter {
        writeln!(text, "\t{:#x}UL,", u64::from_ne_bytes(*instruction))?;
    }
    writeln!(text, "}};")?;
    Ok(text)
}

fn mounts(text: &mut String, root: &Root) -> anyhow::Result<()> {
    options(text, "BASE_OPTIONS", &root.options)?;
    writeln!(text, "static const char *const FOLDERS[] = {{")?;
    for folder in &root.folders {
        writeln!(text, "\t{},", c(folder))?;
    }
    writeln!(text, "\t0,\n}};")?;
    for (name, all) in [("FILES", &root.files), ("LINKS", &root.links)] {
        writeln!(text, "static const struct made_up {name}[] = {{")?;
        for MadeUp { path, contents } in all {
            writeln!(text, "\t{{ {}, {} }},", c(path), c(contents))?;
        }
        writeln!(text, "\t{{ 0, 0 }},\n}};")?;
    }
    writeln!(text, "static const struct bind BINDS[] = {{")?;
    for mount in &root.mounts {
        let Source::Bind { path, idmap } = &mount.source else { continue };
        let folder = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes())).is_dir();
        writeln!(
            text,
            "\t{{ {}, {}, {}, {}, {}, {} }},",
            c(path),
            c(&mount.target),
            bits(mount.attributes),
            u8::from(idmap.is_some()),
            u8::from(mount.optional),
            u8::from(folder)
        )?;
    }
    writeln!(text, "}};")?;
    let mapped = root.mounts.iter().find_map(|mount| match &mount.source {
        Source::Bind { idmap, .. } => *idmap,
        Source::Granted { .. } | Source::New { .. } => None,
    });
    if let Some(map) = mapped {
        writeln!(text, "#define IDMAP_USER \"{} {} 1\\n\"", map.disk_uid, map.host_uid)?;
        writeln!(text, "#define IDMAP_GROUP \"{} {} 1\\n\"", map.disk_gid, map.host_gid)?;
    }
    let mut news = String::new();
    for (index, mount) in root.mounts.iter().enumerate() {
        let Source::New { kind, options: all } = &mount.source else { continue };
        options(text, &format!("OPTIONS_{index}"), all)?;
        let bits = bits(mount.attributes);
        writeln!(news, "\t{{ {}, {}, OPTIONS_{index}, {bits} }},", c(kind), c(&mount.target))?;
    }
    writeln!(text, "static const struct fresh NEWS[] = {{\n{news}}};")?;
    Ok(())
}

fn options(text: &mut String, name: &str, all: &[Setting]) -> anyhow::Result<()> {
    writeln!(text, "static const struct setting {name}[] = {{")?;
    for Setting { name, value } in all {
        writeln!(text, "\t{{ {}, {} }},", c(name), c(value))?;
    }
    writeln!(text, "\t{{ 0, 0 }},\n}};")?;
    Ok(())
}

fn strings(text: &mut String, name: &str, all: &[CString]) -> anyhow::Result<()> {
    writeln!(text, "static const char *const {name}[] = {{")?;
    for string in all {
        writeln!(text, "\t{},", c(string))?;
    }
    writeln!(text, "\t0,\n}};")?;
    Ok(())
}

/// A string as C writes it.
fn c(string: &CStr) -> String {
    let mut quoted = String::from("\"");
    for byte in string.to_bytes() {
        // Whatever could mean something to the compiler is a number of three digits.
        if byte.is_ascii_alphanumeric() || b" /-_.:=".contains(byte) {
            quoted.push(char::from(*byte));
        } else {
            let _ = write!(quoted, "\\{byte:03o}");
        }
    }
    quoted + "\""
}

fn bits(attributes: Attributes) -> u32 {
    let mut bits = NO_SETUID;
    for (wanted, bit) in
        [(attributes.read_only, READ_ONLY), (attributes.no_exec, NO_EXEC), (attributes.no_dev, NO_DEVICES)]
    {
        bits |= if wanted { bit } else { 0 };
    }
    bits
}

/// The kernel's number of a resource.
fn number(resource: Resource) -> u32 {
    match resource {
        Resource::CpuSeconds => 0,
        Resource::FileSize => 1,
        Resource::Data => 2,
        Resource::Stack => 3,
        Resource::Core => 4,
        Resource::Processes => 6,
        Resource::Descriptors => 7,
        Resource::LockedMemory => 8,
        Resource::AddressSpace => 9,
        Resource::QueuedSignals => 11,
        Resource::MessageQueues => 12,
        Resource::RealtimePriority => 14,
    }
}
