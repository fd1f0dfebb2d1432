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
    /// Pages that only this process has. Those of its program are among them only while no other process runs the same.
    pub private: u64,
    /// Pages that come from no file: what it allocated. Nothing that other processes do changes it.
    pub anonymous: u64,
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

/// How much a process has mapped.
#[must_use]
pub fn size_kib(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
    line.split_whitespace().next()?.parse().ok()
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

/// Whether this is the process of a daemon that its launchers are copies of.
#[must_use]
pub fn is_zygote(pid: u32) -> bool {
    name(pid).is_some_and(|name| name == "palisade-zygote")
}

/// The name that a process has given itself.
#[must_use]
pub fn name(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
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
            "Private_Clean:" | "Private_Dirty:" | "Private_Hugetlb:" => memory.private += kib,
            "Anonymous:" => memory.anonymous = kib,
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

/// How many mounts `pid` sees.
#[must_use]
pub fn mounts(pid: u32) -> Option<usize> {
    Some(fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?.lines().count())
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

/// The soft limit on the descriptors of `pid`.
#[must_use]
pub fn descriptors_max(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    /// What the proofs of the system tests rest on: a survivor is found by what stands in its environment, and one that has
    /// ended is found neither while it is a zombie nor afterwards.
    #[test]
    fn a_survivor_is_found_until_it_ends() {
        let marker = format!("survivor-of-{}", std::process::id());
        let mut survivor = crate::command::command("sleep")
            .arg("1000")
            .env("TEST_MARKER", &marker)
            .stdin(Stdio::null())
            .spawn()
            .expect("sleep is everywhere");
        let found = crate::daemon::wait_for("the survivor", || with_text(&marker).first().copied());
        assert_eq!(found.pid, survivor.id());
        assert!(is_alive(found) && descendants(std::process::id()).contains(&found));
        assert_eq!(parent(found.pid), Some(std::process::id()));
        survivor.kill().expect("it is ours");
        crate::daemon::wait_for("a zombie", || (state(found.pid) == Some('Z')).then_some(()));
        assert!(!is_alive(found) && with_text(&marker).is_empty());
        assert_eq!(zombies(std::process::id()), 1);
        survivor.wait().expect("it is ours");
        assert_eq!((state(found.pid), zombies(std::process::id())), (None, 0));
    }

    #[test]
    fn this_process_has_memory_time_and_descriptors() {
        let own = std::process::id();
        let memory = memory(own).expect("it runs");
        assert!(memory.private > 0 && memory.pss >= memory.private);
        assert!(peak_kib(own).expect("it runs") >= memory.pss);
        assert!(cpu_nanoseconds(own).expect("it runs") > 0);
        assert!(descriptors(own).expect("it runs") >= 3 && threads(own).expect("it runs") >= 1);
    }
}
