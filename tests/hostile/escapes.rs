//! What it tries to get at from inside. Each row answers with what it tried and what that met: `ok`, or an error's name.
//!
//! The outcome is the tests' to judge. An attempt that would harm the host without a sandbox is left to be tried inside alone.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::Path;

use serde_json::Value;

use crate::{proxy, sys};

/// What was tried, and what it met.
pub(crate) type Outcomes = BTreeMap<String, String>;

/// Every row there is; the names are those of the list of attempts.
pub(crate) const ROWS: &[&str] = &[
    "read-shadow",
    "write-outside",
    "write-inside",
    "dotdot",
    "mknod",
    "dev-open",
    "fd-inherit",
    "fd-cwd",
    "proc-1",
    "self-exe-write",
    "sysrq",
    "cgroup-escape",
    "mount",
    "pivot",
    "chroot",
    "unshare",
    "setns",
    "kill-all",
    "setuid0",
    "tty",
    "tcp-direct",
    "udp-direct",
    "unix-abstract",
    "unix-path",
    "fork-bomb",
    "mem-anon",
    "mem-tree",
    "mem-memfd",
    "cpu-spin-one",
    "forks-held",
    "fds-held",
    "data-held",
    "memory-files",
    "mlock",
    "fd-exhaust",
    "disk-fill",
    "exec-data",
    "sibling-data",
    "landlock-again",
    "files",
    "leave-file",
    "look",
];

/// Makes the attempts of a row. `None`: there is no such row.
pub(crate) fn attempt(row: &str, parameters: &Value) -> Option<Outcomes> {
    let mut outcomes = Outcomes::new();
    let mut met = |what: &str, result: io::Result<()>| drop(outcomes.insert(what.to_owned(), name(result)));
    let given = || parameters.as_array().into_iter().flatten().filter_map(Value::as_str);
    match row {
        "read-shadow" => {
            for path in
                ["/etc/shadow", "/root/.ssh", "/root/.bashrc", "/home", "/etc/palisade"].into_iter().chain(given())
            {
                met(path, open(path));
            }
        }
        "sibling-data" | "unix-path" if given().next().is_none() => {}
        "sibling-data" => given().for_each(|path| met(path, open(path))),
        "write-outside" => {
            for path in ["/usr/x", "/x", "/plugin/x", "/etc/x", "/dev/x", "/bin/x"] {
                met(path, create(path));
            }
        }
        "write-inside" => {
            for path in ["/data/x", "/tmp/x", "/dev/shm/x", "x"] {
                met(path, create(path));
            }
        }
        "leave-file" => given().for_each(|path| met(path, fs::write(path, "left"))),
        // What is said to it: a verb and a path each.
        "files" => {
            for one in given() {
                let result = match one.split_once(' ') {
                    Some(("read", path)) => read(path),
                    Some(("list", path)) => fs::read_dir(path).map(drop),
                    Some(("write", path)) => OpenOptions::new().append(true).open(path).map(drop),
                    Some(("create", path)) => create(path),
                    Some(("remove", path)) => fs::remove_file(path),
                    Some(("execute", path)) => sys::execute(path, &[]),
                    Some(("device", path)) => sys::mknod(path, libc::S_IFCHR, 1, 3),
                    _ => continue,
                };
                met(one, result);
            }
        }
        "dotdot" => {
            met("/data/../../../etc/shadow", open("/data/../../../etc/shadow"));
            met("../../../home", open("../../../home"));
        }
        "mknod" => {
            met("char 1:1", sys::mknod("/tmp/mem", libc::S_IFCHR, 1, 1));
            met("block 8:0", sys::mknod("/tmp/disk", libc::S_IFBLK, 8, 0));
        }
        "dev-open" => {
            for path in
                ["/dev/mem", "/dev/kmsg", "/dev/fuse", "/dev/kvm", "/dev/tty", "/dev/vda", "/dev/null", "/dev/urandom"]
            {
                met(path, open(path));
            }
        }
        "fd-inherit" => {
            for number in 0..1024 {
                if let Ok(target) = fs::read_link(format!("/proc/self/fd/{number}")) {
                    outcomes.insert(number.to_string(), target.display().to_string());
                }
            }
        }
        "fd-cwd" => {
            let cwd = fs::read_link("/proc/self/cwd").map(|path| path.display().to_string());
            outcomes.insert("cwd".into(), cwd.unwrap_or_else(|error| error.to_string()));
            let mut names: Vec<_> = fs::read_dir("..")
                .into_iter()
                .flatten()
                .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
                .collect();
            names.sort();
            outcomes.insert("..".into(), names.join(" "));
        }
        "proc-1" => {
            for file in ["exe", "root", "environ", "mem", "maps", "cwd", "fd"] {
                let path = format!("/proc/1/{file}");
                met(
                    file,
                    if matches!(file, "exe" | "root" | "cwd") { fs::read_link(path).map(drop) } else { read(&path) },
                );
            }
        }
        "self-exe-write" => {
            for path in ["/proc/self/exe", "/proc/1/exe"] {
                met(path, OpenOptions::new().write(true).open(path).map(drop));
            }
        }
        "sysrq" => {
            for path in
                ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/kcore", "/proc/meminfo", "/sys/kernel"]
            {
                met(path, open(path));
            }
        }
        "cgroup-escape" => {
            for path in ["/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/unified/cgroup.procs", "/sys"] {
                met(path, open(path));
            }
        }
        "mount" => {
            met("mount", sys::mount("none", "/tmp", "tmpfs"));
            met("umount", sys::unmount("/data"));
        }
        "pivot" => met("pivot_root", sys::pivot_root("/tmp", "/tmp")),
        "chroot" => met("chroot", sys::chroot("/tmp")),
        "unshare" => {
            // The user namespace last: in one of its own it may make all the others.
            met("mount", sys::unshare(libc::CLONE_NEWNS));
            met("net", sys::unshare(libc::CLONE_NEWNET));
            met("user", sys::unshare(libc::CLONE_NEWUSER));
        }
        "setns" => met("mnt", sys::setns("/proc/self/ns/mnt")),
        "kill-all" => {
            for number in given().filter_map(|number| number.parse::<i32>().ok()) {
                met(&number.to_string(), sys::kill(number, 0));
            }
            met("1", sys::kill(1, libc::SIGKILL));
        }
        "setuid0" => {
            met("setresuid", sys::become_root());
            met("keep", sys::capset_all());
        }
        "tty" => met("/dev/tty", open("/dev/tty")),
        "tcp-direct" => given().for_each(|address| met(address, TcpStream::connect(address).map(drop))),
        "udp-direct" => {
            for address in given() {
                let socket = UdpSocket::bind("0.0.0.0:0");
                met(address, socket.and_then(|socket| socket.send_to(b"x", address)).map(drop));
            }
        }
        "unix-abstract" => {
            for name in given() {
                let address = SocketAddr::from_abstract_name(name);
                met(name, address.and_then(|address| UnixStream::connect_addr(&address)).map(drop));
            }
        }
        "unix-path" => given().for_each(|path| met(path, UnixStream::connect(path).map(drop))),
        "fork-bomb" => {
            let (made, error) = sys::fork_until_refused(4096, false);
            outcomes.insert("made".into(), made.to_string());
            outcomes.insert("error".into(), error.map_or("none".into(), |error| name(Err(error))));
        }
        "mem-anon" => {
            let mebibytes = parameters.as_u64().unwrap_or(0) as usize;
            met("allocate", sys::touch_memory(mebibytes << 20));
        }
        // Each has less than a process may have, and all have more; they stay.
        "mem-tree" => {
            let number = |name: &str| parameters[name].as_u64().unwrap_or(0) as usize;
            for child in 0..number("children") {
                let ready = sys::fork_holding(number("mib") << 20);
                outcomes.insert(child.to_string(), ready.map_or_else(|error| name(Err(error)), |()| "ok".into()));
            }
        }
        // Mapped nowhere, so no process has it.
        "mem-memfd" => {
            let mebibytes = parameters.as_u64().unwrap_or(0);
            let written = sys::memfd().and_then(|mut file| {
                for _ in 0..mebibytes {
                    file.write_all(&[1; 1 << 20])?;
                }
                std::mem::forget(file);
                Ok(())
            });
            met("write", written);
        }
        "cpu-spin-one" => {
            if sys::fork() {
                let begun = std::time::Instant::now();
                while begun.elapsed().as_secs() < 60 {
                    std::hint::spin_loop();
                }
                std::process::exit(0);
            }
        }
        "forks-held" => {
            let (made, _) = sys::fork_until_refused(parameters.as_u64().unwrap_or(0) as usize, true);
            outcomes.insert("made".into(), made.to_string());
        }
        "fds-held" => {
            let held = std::iter::from_fn(|| fs::File::open("/dev/null").map(std::mem::forget).ok()).take(4096).count();
            outcomes.insert("held".into(), held.to_string());
        }
        "data-held" => {
            let mebibytes = parameters.as_u64().unwrap_or(0) as usize;
            met("/data/held", fs::write("/data/held", vec![1; mebibytes << 20]));
        }
        // Until there is no room, and then empty ones until there are no names.
        "memory-files" => {
            for folder in given() {
                let mut bytes = 0_usize;
                let mut large = fs::File::create(format!("{folder}/large"));
                let full = loop {
                    match large.as_mut().map(|file| file.write(&[1; 1 << 16])) {
                        Ok(Ok(count)) => bytes += count,
                        Ok(Err(error)) => break error,
                        Err(error) => break io::Error::from(error.kind()),
                    }
                };
                drop(large);
                let _ = fs::remove_file(format!("{folder}/large"));
                let mut files = 0;
                let none = loop {
                    match fs::File::create(format!("{folder}/{files}")) {
                        Ok(_) => files += 1,
                        Err(error) => break error,
                    }
                };
                for file in 0..files {
                    let _ = fs::remove_file(format!("{folder}/{file}"));
                }
                outcomes.insert(folder.to_owned(), format!("{bytes} {} {files} {}", name(Err(full)), name(Err(none))));
            }
        }
        "mlock" => met("64 MiB", sys::lock_memory(64 << 20)),
        "fd-exhaust" => {
            let mut held = Vec::new();
            let error = loop {
                match fs::File::open("/dev/null") {
                    Ok(file) => held.push(file),
                    Err(error) => break error,
                }
            };
            outcomes.insert("open".into(), held.len().to_string());
            drop(held);
            outcomes.insert("error".into(), name(Err(error)));
        }
        "disk-fill" => {
            sys::ignore(libc::SIGXFSZ);
            for path in given() {
                met(path, fill(path));
            }
        }
        "exec-data" => {
            let made = fs::copy("/proc/self/exe", "/data/evil")
                .and_then(|_| fs::set_permissions("/data/evil", std::os::unix::fs::PermissionsExt::from_mode(0o755)));
            met("/data/evil", made.and_then(|()| sys::execute("/data/evil", &sys::NOTHING)));
        }
        "landlock-again" => met("no_new_privs", sys::no_new_privs()),
        "look" => look(&mut outcomes),
        _ => return proxy::attempt(row, parameters),
    }
    Some(outcomes)
}

/// What it sees of itself.
fn look(outcomes: &mut Outcomes) {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines() {
        if let Some((name, value)) = line.split_once(':')
            && ["Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "NSpid"]
                .contains(&name)
        {
            outcomes.insert(name.to_owned(), value.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    let mut put = |what: &str, text: io::Result<String>| {
        drop(outcomes.insert(what.to_owned(), text.unwrap_or_else(|error| name(Err(error)))))
    };
    let names = |path: &str| {
        let mut names: Vec<_> = fs::read_dir(path)?
            .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
            .collect();
        names.sort();
        Ok(names.join(" "))
    };
    put("/", names("/"));
    put("/dev", names("/dev"));
    put("/etc", names("/etc"));
    put(
        "processes",
        names("/proc")
            .map(|all| all.split(' ').filter(|name| name.parse::<u32>().is_ok()).collect::<Vec<_>>().join(" ")),
    );
    put("hostname", sys::host_name());
    put("cgroup", fs::read_to_string("/proc/self/cgroup"));
    let devices = fs::read_to_string("/proc/self/net/dev");
    put(
        "devices",
        devices.map(|text| {
            text.lines().filter_map(|line| Some(line.split_once(':')?.0.trim())).collect::<Vec<_>>().join(" ")
        }),
    );
    put("umask", Ok(format!("{:o}", sys::umask())));
}

fn open(path: impl AsRef<Path>) -> io::Result<()> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path).map(drop)
}

fn read(path: &str) -> io::Result<()> {
    if fs::metadata(path)?.is_dir() {
        return fs::read_dir(path).map(drop);
    }
    fs::File::open(path)?.read(&mut [0; 16]).map(drop)
}

fn create(path: &str) -> io::Result<()> {
    OpenOptions::new().write(true).create_new(true).open(path)?;
    fs::remove_file(path)
}

/// Writes until it may not.
fn fill(path: &str) -> io::Result<()> {
    let mut file = fs::File::create(path)?;
    let block = vec![b'd'; 1 << 20];
    let result = (0..4096).try_for_each(|_| file.write_all(&block));
    fs::remove_file(path)?;
    result
}

pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// `ok`, or the error's name.
pub(crate) fn name(result: io::Result<()>) -> String {
    let Err(error) = result else { return "ok".to_owned() };
    match error.raw_os_error() {
        Some(number) => {
            nix::errno::Errno::from_raw(number).to_string().split(':').next().unwrap_or_default().to_owned()
        }
        None => error.to_string(),
    }
}
