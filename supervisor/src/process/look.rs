//! What a whole tree has at one moment, as procfs tells it: for limits that no controller holds.
//!
//! Memory is what nobody else has: anonymous pages, what was swapped out of them, and files that exist in memory only, whether
//! their pages are mapped at the moment or not (`/tmp`, `/dev/shm`, memfds, shared mappings of nothing). What processes share counts
//! in each of them at first; only where that is more than is allowed the kernel is asked for the shares, which is dear. A file in memory
//! that no process holds or maps, since it lies in a socket on its way, is not seen.
//!
//! Invariants: the work of a look is bounded, however large the tree is; what may not be seen is `None` and never zero.
//! Elsewhere: what follows is decided in `model::sampled`; how often is looked, in `plugin::sampler`.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::MemfdFlags;

/// So many processes are looked at; of a larger tree it is known that it is this large.
pub const PROCESSES_MAX: usize = 1024;

/// So many descriptors of all its processes are looked at for memory that they hold.
const DESCRIPTORS_MAX: usize = 16 * 1024;

/// No file that is read here is longer, but for the maps of a process: it has 65,530 at the most, of a hundred bytes or so.
const FILE_BYTES_MAX: u64 = 64 << 10;
const MAPS_BYTES_MAX: u64 = 8 << 20;

/// Where a tree is found.
#[derive(Debug, Clone)]
pub struct Whereabouts {
    /// pid 1 of it, as the host counts.
    pub init_pid: u32,
    /// Its cgroup, which lists its processes; without one they are found from parent to child.
    pub leaf: Option<PathBuf>,
    /// Whether it has a root of its own, so that the file systems in memory that it sees are its own.
    pub private_root: bool,
}

/// What a tree has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Look {
    /// In bytes.
    pub memory: Option<u64>,
    /// Processes and threads, pid 1 not among them.
    pub pids: u64,
    /// Of the process that has most.
    pub open_files: Option<u64>,
    /// Processor time of the living and of those they have waited for.
    pub cpu: Option<Duration>,
    /// Of the plugin's own file systems in memory, one in which there is no room left.
    pub full: Option<&'static str>,
}

/// The processes of a tree, as many as are looked at.
#[must_use]
pub fn processes(tree: &Whereabouts) -> Vec<u32> {
    let Some(leaf) = &tree.leaf else { return super::usage::below(tree.init_pid, PROCESSES_MAX) };
    let text = read(&leaf.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).take(PROCESSES_MAX).collect()
}

/// Looks at these processes of a tree. `limit` is how much memory it may have: up to there it need not be known exactly.
/// Takes some microseconds for each process and descriptor; where the limit seems to be exceeded, milliseconds.
#[must_use]
pub fn look(tree: &Whereabouts, processes: &[u32], limit: u64) -> Look {
    let mut seen = Look::default();
    let (mut anonymous, mut shared) = (0, 0);
    let mut held = Held::default();
    let mut mapped = Mapped::default();
    // In another order each time, so that a descriptor for which there was no room in one look is seen in another.
    let mut processes = processes.to_vec();
    fastrand::shuffle(&mut processes);
    for pid in &processes {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        // It ended meanwhile.
        let Some(status) = read(&folder.join("status")) else { continue };
        let number = |name: &str| field(&status, name).unwrap_or(0);
        anonymous += (number("RssAnon") + number("VmSwap")) << 10;
        shared += number("RssShmem") << 10;
        if *pid != tree.init_pid {
            seen.pids += number("Threads");
        }
        if let Some(files) = held.add(&folder.join("fd")) {
            seen.open_files = Some(seen.open_files.unwrap_or(0).max(files));
        }
        mapped.add(&folder);
        seen.cpu = Some(seen.cpu.unwrap_or_default() + spent(&folder));
    }
    if processes.is_empty() {
        return seen;
    }
    let (in_file_systems, full) =
        if tree.private_root { in_file_systems(tree.init_pid, &processes) } else { (0, None) };
    seen.full = full;
    let in_files = held.bytes + mapped.beside(&held) + in_file_systems;
    let mut memory = anonymous + shared.max(in_files);
    if limit < memory {
        // What is shared was counted in each; unless that may not be known, it is known better now.
        if let Some((anonymous, shared)) = shares(&processes) {
            memory = anonymous + shared.max(in_files);
        }
    }
    seen.memory = Some(memory);
    seen
}

/// Memory that is held through descriptors.
#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    seen: HashSet<u64>,
    looked_at: usize,
}

impl Held {
    /// How many descriptors there are; `None` if that may not be known.
    fn add(&mut self, folder: &Path) -> Option<u64> {
        let mut files = 0;
        for entry in std::fs::read_dir(folder).ok()?.flatten() {
            files += 1;
            if self.looked_at == DESCRIPTORS_MAX {
                continue;
            }
            self.looked_at += 1;
            if let Ok(metadata) = std::fs::metadata(entry.path())
                && memory_device() == Some(metadata.dev())
                && self.seen.insert(metadata.ino())
            {
                self.bytes += metadata.blocks() * 512;
            }
        }
        Some(files)
    }
}

/// Memory that is held through shared mappings. Its pages need not be in any process's own tables: `MADV_DONTNEED` takes them out of
/// there, and leaves them in the file.
#[derive(Debug, Default)]
struct Mapped {
    /// By the number of the file.
    bytes: HashMap<u64, u64>,
}

impl Mapped {
    fn add(&mut self, folder: &Path) {
        let Some(device) = memory_device() else { return };
        let device = (rustix::fs::major(device), rustix::fs::minor(device));
        let Some(text) = read_at_most(&folder.join("maps"), MAPS_BYTES_MAX) else { return };
        for mapping in text.lines().filter_map(Mapping::read).filter(|mapping| mapping.device == device) {
            // Root may look at the file itself. To anybody else it is as long as it must be for this mapping to end in it.
            let blocks =
                std::fs::metadata(folder.join("map_files").join(mapping.range)).map(|file| file.blocks() * 512);
            let bytes = blocks.unwrap_or(mapping.end_in_file);
            let known = self.bytes.entry(mapping.inode).or_default();
            *known = bytes.max(*known);
        }
    }

    /// What was not counted as held by a descriptor.
    fn beside(&self, held: &Held) -> u64 {
        self.bytes.iter().filter(|(inode, _)| !held.seen.contains(inode)).map(|(_, bytes)| bytes).sum()
    }
}

/// A shared mapping of a file.
#[derive(Debug, PartialEq, Eq)]
struct Mapping<'a> {
    range: &'a str,
    /// Where in the file it ends.
    end_in_file: u64,
    device: (u32, u32),
    inode: u64,
}

impl<'a> Mapping<'a> {
    /// Of a line `START-END rw-s OFFSET MAJOR:MINOR INODE PATH`; one that is private is none.
    fn read(line: &'a str) -> Option<Self> {
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let mut fields = line.split_ascii_whitespace();
        let (range, access, offset) = (fields.next()?, fields.next()?, hex(fields.next()?)?);
        if !access.ends_with('s') {
            return None;
        }
        let (major, minor) = fields.next()?.split_once(':')?;
        let device = (u32::from_str_radix(major, 16).ok()?, u32::from_str_radix(minor, 16).ok()?);
        let inode = fields.next()?.parse().ok()?;
        let (start, end) = range.split_once('-')?;
        let end_in_file = hex(end)?.checked_sub(hex(start)?)?.saturating_add(offset);
        Some(Self { range, end_in_file, device, inode })
    }
}

/// The kernel's own file system in memory, on which every memfd lies.
fn memory_device() -> Option<u64> {
    static DEVICE: OnceLock<Option<u64>> = OnceLock::new();
    *DEVICE.get_or_init(|| {
        let file = rustix::fs::memfd_create("device", MemfdFlags::CLOEXEC).ok()?;
        Some(rustix::fs::fstat(&file).ok()?.st_dev)
    })
}

/// What lies in the plugin's own file systems in memory, and one of them that is full. An ordinary user may not look into pid 1, but
/// into those that came from it, which have the same root.
fn in_file_systems(init_pid: u32, processes: &[u32]) -> (u64, Option<&'static str>) {
    let (mut bytes, mut full) = (0, None);
    for path in ["/tmp", "/dev/shm"] {
        let mut looks = std::iter::once(&init_pid).chain(processes);
        let Some(status) = looks.find_map(|pid| rustix::fs::statvfs(format!("/proc/{pid}/root{path}")).ok()) else {
            continue;
        };
        bytes += status.f_blocks.saturating_sub(status.f_bfree).saturating_mul(status.f_frsize);
        if status.f_bfree == 0 || status.f_ffree == 0 {
            full.get_or_insert(path);
        }
    }
    (bytes, full)
}

/// Anonymous and shared memory, in which what `n` processes share counts `1/n` in each.
fn shares(processes: &[u32]) -> Option<(u64, u64)> {
    let (mut anonymous, mut shared) = (0, 0);
    for pid in processes {
        let path = format!("/proc/{pid}/smaps_rollup");
        match std::fs::read_to_string(path) {
            Ok(text) => {
                anonymous += (field(&text, "Pss_Anon")? + field(&text, "SwapPss").unwrap_or(0)) << 10;
                shared += field(&text, "Pss_Shmem")? << 10;
            }
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return None,
            // It ended meanwhile.
            Err(_) => {}
        }
    }
    Some((anonymous, shared))
}

/// Processor time of a process and of those it has waited for.
fn spent(folder: &Path) -> Duration {
    let ticks = procfs::ticks_per_second().max(1);
    // The name of the program stands in parentheses, and may hold any.
    let text = read(&folder.join("stat")).unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
    // The first of these is the third of the line; utime, stime, cutime and cstime are 14 to 17.
    let spent: u64 = fields.skip(11).take(4).filter_map(|number| number.parse::<u64>().ok()).sum();
    Duration::from_nanos(spent.saturating_mul(1_000_000_000 / ticks))
}

/// The number of a line `Name: number kB`.
fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

fn read(path: &Path) -> Option<String> {
    read_at_most(path, FILE_BYTES_MAX)
}

fn read_at_most(path: &Path, bytes: u64) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(bytes).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn own(limit: u64) -> Look {
        let pid = std::process::id();
        look(&Whereabouts { init_pid: 1, leaf: None, private_root: false }, &[pid], limit)
    }

    #[test]
    fn this_process_is_seen_with_what_it_takes() {
        const BYTES: usize = 48 << 20;
        let before = own(u64::MAX);
        let touched = vec![1_u8; BYTES];
        let mut unmapped = File::from(rustix::fs::memfd_create("held", MemfdFlags::CLOEXEC).unwrap());
        unmapped.write_all(&touched).unwrap();
        let again = unmapped.try_clone().unwrap();
        for limit in [u64::MAX, 0] {
            let after = own(limit);
            let grown = after.memory.unwrap() - before.memory.unwrap();
            let expected = 2 * BYTES as u64;
            assert!((expected * 9 / 10..expected * 11 / 10).contains(&grown), "{grown} with the limit {limit}");
            assert!(after.open_files > before.open_files && after.pids >= 1 && after.cpu >= before.cpu);
        }
        drop((touched, again));
    }

    #[test]
    fn a_shared_mapping_is_read_and_a_private_one_is_none() {
        let line = "7f5e4a000000-7f5e4c000000 rw-s 00001000 00:01 4711                      /dev/zero (deleted)";
        let mapping =
            Mapping { range: "7f5e4a000000-7f5e4c000000", end_in_file: (32 << 20) + 4096, device: (0, 1), inode: 4711 };
        assert_eq!(Mapping::read(line), Some(mapping));
        assert_eq!(Mapping::read("7f5e4a000000-7f5e4c000000 rw-p 00000000 00:01 4711 /x"), None);
        for odd in
            ["", "7f", "7f-7e rw-s 0 00:01 1", "z-7e rw-s 0 00:01 1", "7f-80 rw-s 0 0001 1", "7f-80 rw-s 0 00:01"]
        {
            assert_eq!(Mapping::read(odd), None, "{odd}");
        }
    }

    #[test]
    fn who_is_not_there_has_nothing() {
        let gone = Whereabouts { init_pid: u32::MAX, leaf: None, private_root: true };
        assert!(processes(&gone).is_empty());
        assert_eq!(look(&gone, &[], 0), Look::default());
    }

    #[test]
    fn numbers_are_read_by_their_whole_name() {
        let text = "VmRSS:\t 100 kB\nRssAnon:\t   20 kB\nThreads:\t3\n";
        assert_eq!((field(text, "RssAnon"), field(text, "Threads"), field(text, "Rss")), (Some(20), Some(3), None));
    }
}
