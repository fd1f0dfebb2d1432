//! What a process tree uses right now, on demand, for status.
//!
//! The tree is found by walking down from its pid 1: whatever loses its parent becomes a child of pid 1, so nothing of
//! the tree is elsewhere. Processes come and go meanwhile; one that vanished is simply not counted.

use std::{collections::HashSet, time::Duration};

use procfs::{ProcResult, process::Process};

/// No more processes than this are looked at; a tree that is larger is reported as this large.
const PROCESSES_MAX: usize = 4096;

/// What a tree uses, as far as procfs tells it cheaply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TreeUsage {
    /// Processes, pid 1 included.
    pub processes: usize,
    /// Threads of all of them.
    pub threads: u64,
    /// Resident memory; what several processes share is counted in each.
    pub rss_bytes: u64,
    /// Processor time of the living and of those they have waited for.
    pub cpu: Duration,
}

/// Looks at the tree below `init_pid`. Cheap: one small file per process, and one per thread for its children.
///
/// Blocks for as long as the kernel takes to answer; for a large tree it belongs onto a blocking thread.
pub fn tree_usage(init_pid: u32) -> ProcResult<TreeUsage> {
    let page = procfs::page_size();
    let ticks = procfs::ticks_per_second().max(1);
    let mut usage = TreeUsage::default();
    for process in processes(init_pid, PROCESSES_MAX)? {
        let Ok(stat) = process.stat() else { continue };
        usage.processes += 1;
        usage.threads += u64::try_from(stat.num_threads).unwrap_or(0);
        usage.rss_bytes += stat.rss.saturating_mul(page);
        let waited = u64::try_from(stat.cutime).unwrap_or(0) + u64::try_from(stat.cstime).unwrap_or(0);
        let spent = stat.utime + stat.stime + waited;
        usage.cpu += Duration::from_nanos(spent.saturating_mul(1_000_000_000 / ticks));
    }
    Ok(usage)
}

/// The proportional share of the tree's memory, in which what `n` processes share counts `1/n` in each. Dearer than
/// `tree_usage`: the kernel walks all page tables. `None`: this user may not look into one of the processes.
pub fn proportional_bytes(init_pid: u32) -> ProcResult<Option<u64>> {
    let mut bytes = 0;
    for process in processes(init_pid, PROCESSES_MAX)? {
        match process.smaps_rollup() {
            Ok(rollup) => {
                let maps = rollup.memory_map_rollup;
                bytes += maps.iter().filter_map(|map| map.extension.map.get("Pss")).sum::<u64>();
            }
            Err(procfs::ProcError::PermissionDenied(_)) => return Ok(None),
            // It ended meanwhile.
            Err(_) => {}
        }
    }
    Ok(Some(bytes))
}

/// pid 1 and everything below it, by their numbers; nobody if it has ended.
pub(super) fn below(init_pid: u32, most: usize) -> Vec<u32> {
    let found = processes(init_pid, most).unwrap_or_default();
    found.iter().filter_map(|process| u32::try_from(process.pid).ok()).collect()
}

/// pid 1 and everything below it.
fn processes(init_pid: u32, most: usize) -> ProcResult<Vec<Process>> {
    let number = |pid: u32| i32::try_from(pid).unwrap_or(i32::MAX);
    let mut found = vec![Process::new(number(init_pid))?];
    // A number can come twice if its process moves to another parent while this looks.
    let mut seen = HashSet::from([init_pid]);
    let mut next = 0;
    while let Some(process) = found.get(next) {
        let mut children = Vec::new();
        if let Ok(tasks) = process.tasks() {
            for task in tasks.flatten() {
                children.extend(task.children().unwrap_or_default());
            }
        }
        for child in children {
            if found.len() < most && seen.insert(child) {
                found.extend(Process::new(number(child)).ok());
            }
        }
        next += 1;
    }
    Ok(found)
}
