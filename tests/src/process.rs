//! What /proc says about processes: their memory, processor time, descriptors, and who descends from whom.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;

/// A process, told apart from a later one with the same number by when it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Identity {
    pub pid: u32,
    pub started: u64,
}

/// Memory of one process in KiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct Memory {
    /// Shared pages count in proportion.
    pub pss: u64,
    /// Pages that only this process has.
    pub private: u64,
    /// Those of them that it has written to: others become private or shared as other processes of the same program come and go.
    pub dirty: u64,
}

/// The fields of `/proc/PID/stat` from the third on: the second may hold spaces and parentheses.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(')')?;
    Some(rest.split_whitespace().map(String::from).collect())
}

/// The process with that number now, unless there is none or it is a zombie.
#[must_use]
pub fn identity(pid: u32) -> Option<Identity> {
    let stat = stat(pid)?;
    if stat.first()? == "Z" {
        return None;
    }
    Some(Identity { pid, started: stat.get(19)?.parse().ok()? })
}

/// The one letter of its state: `R`, `S`, `T`, `Z`, …
#[must_use]
pub fn state(pid: u32) -> Option<char> {
    stat(pid)?.first()?.chars().next()
}

/// Whether that very process still runs.
#[must_use]
pub fn is_alive(process: Identity) -> bool {
    identity(process.pid) == Some(process)
}

/// The numbers of all processes.
#[must_use]
pub fn all() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// The children of `pid`, zombies included.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    all()
        .into_iter()
        .filter(|child| stat(*child).and_then(|stat| stat.get(1)?.parse::<u32>().ok()) == Some(pid))
        .collect()
}

/// All that descend from `pid` and are no zombies, nearest first, without itself.
#[must_use]
pub fn descendants(pid: u32) -> Vec<Identity> {
    let mut of: HashMap<u32, Vec<u32>> = HashMap::new();
    for child in all() {
        if let Some(parent) = stat(child).and_then(|stat| stat.get(1)?.parse::<u32>().ok()) {
            of.entry(parent).or_default().push(child);
        }
    }
    let mut found = Vec::new();
    let mut seen = HashSet::from([pid]);
    let mut next = vec![pid];
    while let Some(parent) = next.pop() {
        for child in of.remove(&parent).unwrap_or_default() {
            if seen.insert(child) {
                next.push(child);
                found.extend(identity(child));
            }
        }
    }
    found
}

/// Zombies among the children of `pid`.
#[must_use]
pub fn zombies(pid: u32) -> usize {
    children(pid).into_iter().filter(|child| state(*child) == Some('Z')).count()
}

/// Those whose environment or arguments contain `text`. A process whose environment may not be read is passed over.
#[must_use]
pub fn with_text(text: &str) -> Vec<Identity> {
    let holds = |path: String| {
        fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
    };
    all()
        .into_iter()
        .filter(|pid| holds(format!("/proc/{pid}/environ")) || holds(format!("/proc/{pid}/cmdline")))
        .filter_map(identity)
        .collect()
}

/// Memory of `pid`.
#[must_use]
pub fn memory(pid: u32) -> Option<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let mut memory = Memory::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(key), Some(Ok(kib))) = (words.next(), words.next().map(str::parse::<u64>)) else { continue };
        match key {
            "Pss:" => memory.pss = kib,
            "Private_Clean:" => memory.private += kib,
            "Private_Dirty:" | "Private_Hugetlb:" => {
                memory.private += kib;
                memory.dirty += kib;
            }
            _ => {}
        }
    }
    Some(memory)
}

/// The most memory that `pid` ever had in use at once, in KiB.
#[must_use]
pub fn peak_kib(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok())
}

/// The parent of `pid`.
#[must_use]
pub fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// Nanoseconds that all threads of `pid` have run so far.
#[must_use]
pub fn cpu_nanoseconds(pid: u32) -> Option<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
        sum += text.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum)
}

/// How many descriptors `pid` has open.
#[must_use]
pub fn descriptors(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count())
}

/// How many threads `pid` has.
#[must_use]
pub fn threads(pid: u32) -> Option<usize> {
    Some(fs::read_dir(format!("/proc/{pid}/task")).ok()?.count())
}

/// The folder of the unified cgroup hierarchy that `pid` is in, if that hierarchy is mounted.
#[must_use]
pub fn cgroup(pid: u32) -> Option<PathBuf> {
    let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::"))?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = mounts.lines().find_map(|line| {
        let (front, back) = line.split_once(" - ")?;
        back.starts_with("cgroup2 ").then(|| front.split(' ').nth(4))?
    })?;
    Some(PathBuf::from(mount).join(own.trim_start_matches('/')))
}
