//! Sees to it that plugins keep to their share of the disk, and that the daemon's file system keeps some room.
//!
//! The data folder of a plugin that has run since is counted again and again, the less often the longer it takes: never more than a
//! twentieth of the time. One that has more than it may is ended, and not started again by itself, since it would have as much
//! again. Where the file system has less room left than the operator wants to keep, the plugin goes whose data have grown most
//! since it was started; if none has grown, it was somebody else.
//!
//! Elsewhere: counting is `sandbox::extent`; who runs is known by `sampler`.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::blueprint::DATA_FILES_MAX as FILES_MAX;
use super::pressure::Met;
use super::sampler::{LOOK_EVERY, Sampler, Subject};
use crate::blocking;
use crate::model::limits::Kind;
use crate::sandbox::extent::{Bounds, End, Extent, measure};

/// So long counting may take.
const COUNT_WITHIN: Duration = Duration::from_secs(5);

/// Between two counts lies this many times what the first of them took, within bounds.
const REST: u32 = 20;
const REST_MAX: Duration = Duration::from_secs(60);

/// Of each MiB that a plugin may have, so much can be left where it has met the limit.
const SPARE_OF_A_MIB: u64 = 16 << 10;

/// One whose data have grown by less is not taken for the one that fills the disk.
const GROWN_BYTES_MIN: u64 = 1 << 20;

/// What is known of the data of a running process.
#[derive(Debug)]
struct Known {
    due: Instant,
    /// Processor time of its cgroup when they were counted last.
    used: Option<Duration>,
    first: u64,
    last: u64,
    /// It was said that it has as much as the kernel lets it have.
    said_full: bool,
}

impl Known {
    /// That it has as much as the kernel lets it have is said once, until it has less.
    fn news(&mut self, full: Option<String>) -> Option<String> {
        let said = std::mem::replace(&mut self.said_full, full.is_some());
        full.filter(|_| !said)
    }
}

/// Counts, for as long as the daemon runs. So much of the file system is to be kept free.
pub async fn run(sampler: Arc<Sampler>, reserve_bytes: u64) {
    let mut known: HashMap<u64, Known> = HashMap::new();
    let mut short = false;
    loop {
        let subjects = sampler.subjects().await;
        known.retain(|number, _| subjects.iter().any(|(running, _)| running == number));
        for (number, subject) in &subjects {
            let used = subject.used();
            let is_due = known.get(number).is_none_or(|known| {
                known.due <= Instant::now() && (used.is_none() || known.used.is_none() || used != known.used)
            });
            if is_due {
                look(*number, subject, &mut known).await;
            }
        }
        if let Some((_, subject)) = subjects.first() {
            let free = rustix::fs::statvfs(&subject.blueprint.host.data)
                .map_or(u64::MAX, |status| status.f_bavail.saturating_mul(status.f_frsize));
            if free < reserve_bytes {
                make_room(&subjects, &known, free, reserve_bytes, !short);
            }
            short = free < reserve_bytes;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Counts the data of one, and ends it if they are too much.
async fn look(number: u64, subject: &Arc<Subject>, known: &mut HashMap<u64, Known>) {
    let limit_mib = subject.blueprint.limits().disk_mib.value;
    let (used, began) = (subject.used(), Instant::now());
    let folder: PathBuf = subject.blueprint.data_folder();
    let bounds = Bounds { bytes: limit_mib.saturating_mul(1 << 20), files: FILES_MAX, until: began + COUNT_WITHIN };
    let extent = match blocking::run(move || measure(&folder, bounds)).await {
        Ok(extent) => extent,
        Err(error) => return tracing::warn!(plugin = %subject.voice.plugin, %error, "its data could not be counted"),
    };
    let due = Instant::now() + (began.elapsed() * REST).clamp(LOOK_EVERY, REST_MAX);
    let entry = known.entry(number).or_insert(Known { due, used, first: extent.bytes, last: 0, said_full: false });
    (entry.due, entry.used, entry.last) = (due, used, extent.bytes);
    if let Some(sentence) = too_much(&extent, limit_mib) {
        subject.end(Kind::Disk, sentence);
    } else if subject.blueprint.host.facts.quotas && extent.end == End::Whole {
        if let Some(sentence) = entry.news(full(&extent, limit_mib)) {
            subject.meet(&Met::new(Kind::Disk, sentence));
        }
    } else if extent.end == End::Unfinished {
        tracing::warn!(plugin = %subject.voice.plugin, files = extent.files, "its data could not be counted in time");
    }
}

/// Whether that is so much that the kernel refuses more: it does not tell, so one that has nearly all is taken for one that wants more.
fn full(extent: &Extent, limit_mib: u64) -> Option<String> {
    if FILES_MAX <= extent.files.saturating_add(1) {
        return Some(format!("{FILES_MAX} files are its limit, and more are refused"));
    }
    let nearly = limit_mib.saturating_mul((1 << 20) - SPARE_OF_A_MIB);
    (nearly <= extent.bytes).then(|| format!("{limit_mib} MiB are its limit, and more is refused"))
}

/// Why that is more than a plugin may have, if it is.
fn too_much(extent: &Extent, limit_mib: u64) -> Option<String> {
    Some(match extent.end {
        End::Whole | End::Unfinished => return None,
        End::Beyond if FILES_MAX < extent.files => {
            format!("its data are more than {FILES_MAX} files, which is as many as are counted")
        }
        End::Beyond => format!("its data are more than {limit_mib} MiB, which are its limit"),
        End::Deep => "its data are nested so deep that they cannot be counted".to_owned(),
        End::Closed => {
            "its data have a folder into which the daemon may not look, so they cannot be counted".to_owned()
        }
    })
}

/// Ends the one whose data have grown most.
fn make_room(subjects: &[(u64, Arc<Subject>)], known: &HashMap<u64, Known>, free: u64, reserve: u64, first: bool) {
    let grown = |number: &u64| known.get(number).map_or(0, |known| known.last.saturating_sub(known.first));
    let most = subjects.iter().max_by_key(|(number, _)| grown(number));
    let (free, reserve) = (free >> 20, reserve >> 20);
    match most {
        Some((number, subject)) if GROWN_BYTES_MIN <= grown(number) => {
            let by = grown(number) >> 20;
            subject.end(
                Kind::Disk,
                format!(
                    "{free} MiB are left on the disk and {reserve} MiB are kept free; of all plugins its data have grown most, by {by} MiB"
                ),
            );
        }
        _ if first => tracing::warn!(
            free,
            reserve,
            "less is left on the disk than is to be kept free, and no plugin's data have grown"
        ),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_counted_is_too_much_unless_time_was_short() {
        for (end, files, part) in [
            (End::Whole, 1, None),
            (End::Unfinished, 1, None),
            (End::Beyond, 1, Some("more than 8 MiB")),
            (End::Beyond, FILES_MAX + 1, Some("more than 131072 files")),
            (End::Deep, 1, Some("nested so deep")),
            (End::Closed, 1, Some("may not look")),
        ] {
            let said = too_much(&Extent { bytes: 0, files, end }, 8);
            assert_eq!(said.is_some(), part.is_some(), "{end:?}");
            assert!(said.is_none_or(|said| part.is_some_and(|part| said.contains(part))), "{end:?}");
        }
    }

    #[test]
    fn who_has_nearly_all_that_the_kernel_allows_is_full() {
        const MIB: u64 = 1 << 20;
        for (bytes, files, part) in [
            (0, 1, None),
            (8 * MIB - 8 * SPARE_OF_A_MIB - 1, FILES_MAX - 2, None),
            (8 * MIB - 8 * SPARE_OF_A_MIB, 1, Some("8 MiB are its limit")),
            (8 * MIB, 1, Some("8 MiB are its limit")),
            // The folder itself is a file of its project, and is not counted.
            (0, FILES_MAX - 1, Some("131072 files are its limit")),
        ] {
            let said = full(&Extent { bytes, files, end: End::Whole }, 8);
            assert_eq!(said.is_some(), part.is_some(), "{bytes} {files}");
            assert!(said.is_none_or(|said| part.is_some_and(|part| said.contains(part))), "{bytes} {files}");
        }
    }

    #[test]
    fn that_it_is_full_is_said_once_until_it_is_not() {
        let mut known = Known { due: Instant::now(), used: None, first: 0, last: 0, said_full: false };
        let full = || Some("full".to_owned());
        let said = [full(), full(), None, full(), full()].map(|now| known.news(now).is_some());
        assert_eq!(said, [true, false, false, true, false]);
    }
}
