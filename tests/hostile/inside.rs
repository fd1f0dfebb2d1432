//! What it takes, holds and sees inside. Each row answers with what it tried and what that met: `ok`, or an error's name.
//!
//! The outcome is the tests' to judge. Elsewhere: the attempts of the table are `attempts`.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use serde_json::Value;

use crate::{proxy, sys};

/// What was tried, and what it met.
pub(crate) type Outcomes = BTreeMap<String, String>;

/// Every row there is.
pub(crate) const ROWS: &[&str] = &[
    "tcp-direct",
    "fork-bomb",
    "thread-bomb",
    "mem-anon",
    "mem-tree",
    "mem-memfd",
    "mem-shared",
    "cpu-spin-one",
    "forks-held",
    "fds-held",
    "data-held",
    "data-names",
    "memory-files",
    "take",
    "charge",
    "harm",
    "write-inside",
    "files",
    "leave-file",
    "look",
];

/// Makes the attempts of a row. `None`: there is no such row.
pub(crate) fn attempt(row: &str, parameters: &Value) -> Option<Outcomes> {
    let mut outcomes = Outcomes::new();
    let mut met = |what: &str, result: io::Result<()>| drop(outcomes.insert(what.to_owned(), name(result)));
    let given = || parameters.as_array().into_iter().flatten().filter_map(Value::as_str);
    let number = |name: &str| parameters[name].as_u64().unwrap_or(0) as usize;
    match row {
        "tcp-direct" => given().for_each(|address| met(address, TcpStream::connect(address).map(drop))),
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
        "fork-bomb" => {
            let (made, error) = sys::fork_until_refused(4096, false);
            outcomes.insert("made".into(), made.to_string());
            outcomes.insert("error".into(), error.map_or("none".into(), |error| name(Err(error))));
        }
        // All of them wait until the last one has been refused; then they end.
        "thread-bomb" => {
            let (made, error) = threads_until_refused(4096);
            outcomes.insert("made".into(), made.to_string());
            outcomes.insert("error".into(), error.map_or("none".into(), |error| name(Err(error))));
        }
        "mem-anon" => {
            let mebibytes = parameters.as_u64().unwrap_or(0) as usize;
            met("allocate", sys::touch_memory(mebibytes << 20));
        }
        // Each has less than a process may have, and all have more; they stay.
        "mem-tree" => {
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
        "mem-shared" => {
            let mebibytes = parameters.as_u64().unwrap_or(0) as usize;
            met("fill", sys::fill_shared_memory(mebibytes << 20));
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
        // Without a byte, until it may not: a file has as many names as the file systems allow, which is quicker than as many files.
        "data-names" => met("names", (0..1_000_000).try_for_each(one_more_name)),
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
        // One more each time, and all are kept.
        "take" => {
            let what = parameters["what"].as_str().unwrap_or_default();
            let mut taken = 0;
            let refused = (0..number("most")).find_map(|number| match take(what, number) {
                Ok(()) => {
                    taken += 1;
                    None
                }
                Err(error) => Some(error),
            });
            outcomes.insert("taken".into(), taken.to_string());
            outcomes.insert("met".into(), refused.map_or("ok".into(), |error| name(Err(error))));
        }
        // So many mebibytes in it, kept.
        "charge" => met("hold", charge(parameters["what"].as_str().unwrap_or_default(), number("mib"))),
        "harm" => harm(number("memory_mib")),
        "look" => look(&mut outcomes),
        _ => return proxy::attempt(row, parameters),
    }
    Some(outcomes)
}

/// Threads that wait, until the kernel refuses one; then all end.
pub(crate) fn threads_until_refused(most: usize) -> (usize, Option<io::Error>) {
    let gate = std::sync::Arc::new(std::sync::RwLock::new(()));
    let closed = gate.write();
    let mut threads = Vec::new();
    let mut refused = None;
    while threads.len() < most {
        let gate = std::sync::Arc::clone(&gate);
        match std::thread::Builder::new().stack_size(64 << 10).spawn(move || drop(gate.read())) {
            Ok(thread) => threads.push(thread),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }
    drop(closed);
    let made = threads.len();
    threads.into_iter().for_each(|thread| drop(thread.join()));
    (made, refused)
}

fn one_more_name(number: u32) -> io::Result<()> {
    const NAMES_OF_ONE: u32 = 50_000;
    let path = |number: u32| format!("/data/{number}");
    match number % NAMES_OF_ONE {
        0 => fs::File::create(path(number)).map(drop),
        beyond => fs::hard_link(path(number - beyond), path(number)),
    }
}

/// Takes one more of something and keeps it.
fn take(what: &str, number: usize) -> io::Result<()> {
    match what {
        "locked memory" => sys::lock_and_keep(64 << 10),
        "descriptors" => fs::File::open("/dev/null").map(std::mem::forget),
        "timers" => sys::timer(),
        "message queues" => sys::message_queue(&format!("taken-{number}")),
        "watchers" => sys::inotify().map(std::mem::forget),
        "shared memory" => {
            let mut file = OpenOptions::new().create(true).append(true).open("/dev/shm/taken")?;
            file.write_all(&[1; 1 << 20])
        }
        "pipes" => {
            let (reads, writes) = io::pipe()?;
            rustix::pipe::fcntl_setpipe_size(&writes, 1 << 20)?;
            std::mem::forget((reads, writes));
            Ok(())
        }
        "descriptors on their way" => {
            let (from, to) = UnixStream::pair()?;
            let sent = [&from; 64].map(std::os::fd::AsFd::as_fd);
            let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
            let mut rights = rustix::net::SendAncillaryBuffer::new(&mut space);
            rights.push(rustix::net::SendAncillaryMessage::ScmRights(&sent));
            let data = [io::IoSlice::new(b"x")];
            rustix::net::sendmsg(&from, &data, &mut rights, rustix::net::SendFlags::empty())?;
            std::mem::forget((from, to));
            Ok(())
        }
        _ => panic!("there is no {what:?} to be taken"),
    }
}

/// Has the kernel keep that many mebibytes for it.
fn charge(what: &str, mebibytes: usize) -> io::Result<()> {
    let block = vec![1; 1 << 20];
    match what {
        "tmpfs" => {
            let mut file = OpenOptions::new().create(true).append(true).open("/tmp/charged")?;
            (0..mebibytes).try_for_each(|_| file.write_all(&block))
        }
        "memfd" => {
            let mut file = sys::memfd()?;
            (0..mebibytes).try_for_each(|_| file.write_all(&block))?;
            std::mem::forget(file);
            Ok(())
        }
        "pipes" => (0..mebibytes).try_for_each(|_| {
            let (reads, mut writes) = io::pipe()?;
            rustix::pipe::fcntl_setpipe_size(&writes, block.len())?;
            writes.write_all(&block)?;
            std::mem::forget((reads, writes));
            Ok(())
        }),
        "sockets" => {
            let mut written = 0;
            while written < mebibytes << 20 {
                let (mut from, to) = UnixStream::pair()?;
                from.set_nonblocking(true)?;
                while let Ok(bytes) = from.write(&block[..4 << 10]) {
                    written += bytes;
                }
                std::mem::forget((from, to));
            }
            Ok(())
        }
        _ => panic!("nothing is charged for {what:?}"),
    }
}

/// Does everything at once, for as long as it lives: spins, forks to its limit, floods its log, has its memory and more.
fn harm(memory_mib: usize) {
    for _ in 0..2 {
        if sys::fork() {
            loop {
                std::hint::spin_loop();
            }
        }
    }
    if sys::fork() {
        let line = [&[b'h'; 1023][..], b"\n"].concat();
        loop {
            let _ = io::stderr().write_all(&line);
        }
    }
    if sys::fork() {
        // What is written to files is charged as well, and is given up for more of the same: so the limit is met again and again,
        // and nobody is killed for it.
        let Ok(()) = sys::keep_memory(memory_mib << 20) else { std::process::exit(1) };
        let block = vec![1; 1 << 20];
        let mut file = fs::File::create("/data/harm").unwrap_or_else(|error| panic!("/data/harm: {error}"));
        loop {
            let _ = file.rewind();
            let _ = (0..64).try_for_each(|_| file.write_all(&block));
        }
    }
    if sys::fork() {
        loop {
            let _ = sys::fork_until_refused(4096, false);
        }
    }
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
