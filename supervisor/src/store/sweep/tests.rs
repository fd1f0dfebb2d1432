use std::collections::BTreeSet;
use std::time::Duration;

use super::*;
use crate::store::Snapshot;

/// A store, and packages to put into it.
struct Bench {
    folder: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = opened(&folder);
        Self { folder, store }
    }

    /// The next daemon on the same store.
    fn again(self) -> Self {
        let Self { folder, store } = self;
        drop(store);
        let store = opened(&folder);
        Self { folder, store }
    }

    /// Stages a package of that plugin with a file of that content, as if so many seconds after the epoch.
    fn stage(&self, id: &str, content: &str, second: u64) -> Snapshot {
        self.stage_files(&[("plugin.json", &format!(r#"{{"id": "{id}"}}"#)), ("inner/data", content)], second)
    }

    fn stage_files(&self, files: &[(&str, &str)], second: u64) -> Snapshot {
        let source = tempfile::tempdir().unwrap();
        for (name, content) in files {
            let path = source.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let snapshot = self.store.stage(source.path()).unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
        File::open(&snapshot.path).unwrap().set_modified(at).unwrap();
        snapshot
    }

    fn sweep(&self) -> (usize, usize, usize) {
        let Swept { snapshots, files, failed, .. } = self.store.sweep();
        assert_eq!(fs::read_dir(self.store.staging()).map_or(0, Iterator::count), 0, "something half removed is left");
        (snapshots, files, failed)
    }

    fn snapshots(&self) -> BTreeSet<String> {
        fs::read_dir(self.store.snapshots())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    fn files(&self) -> usize {
        fs::read_dir(self.store.files()).unwrap().count()
    }
}

fn opened(folder: &tempfile::TempDir) -> Store {
    Store::open(folder.path().join("store"), tempfile::tempfile().unwrap()).unwrap()
}

fn digests(snapshots: impl IntoIterator<Item = Snapshot>) -> BTreeSet<String> {
    snapshots.into_iter().map(|snapshot| snapshot.digest).collect()
}

#[test]
fn of_each_plugin_what_is_held_and_the_newest_of_the_others_stay() {
    let bench = Bench::new();
    let held = bench.stage("one", "oldest of all, and held", 1);
    let gone = digests((2..5).map(|second| bench.stage("one", &format!("one {second}"), second)));
    let kept = digests((5..10).map(|second| bench.stage("one", &format!("one {second}"), second)));
    let other = bench.stage("two", "of another plugin", 0).digest;
    assert_eq!(bench.sweep(), (3, 3, 0));
    let mut expected = kept;
    expected.extend([held.digest.clone(), other]);
    assert_eq!(bench.snapshots(), expected);
    assert!(expected.is_disjoint(&gone));
    // Two manifests and seven contents.
    assert_eq!(bench.files(), 9);
    assert_eq!(fs::read_to_string(held.path.join("inner/data")).unwrap(), "oldest of all, and held");
    assert_eq!(bench.sweep(), (0, 0, 0), "it has come to rest");
}

#[test]
fn it_is_held_until_the_last_who_has_it_lets_go() {
    let bench = Bench::new();
    let first = bench.stage("one", "in use", 0);
    for second in 1..=5 {
        bench.stage("one", &format!("{second}"), second);
    }
    // Staged a second time, and put down by one of the two; a process has a copy of the other's.
    let again = bench.stage("one", "in use", 0);
    let process = again.clone();
    drop((first, again));
    assert_eq!(bench.sweep(), (0, 0, 0));
    assert!(process.path.exists());
    let path = process.path.clone();
    drop(process);
    assert_eq!(bench.sweep(), (1, 1, 0));
    assert!(!path.exists());
}

#[test]
fn what_is_staged_again_is_the_newest() {
    let bench = Bench::new();
    let source = tempfile::tempdir().unwrap();
    fs::write(source.path().join("plugin.json"), r#"{"id": "one", "name": "it came back"}"#).unwrap();
    let back = bench.store.stage(source.path()).unwrap().digest;
    for second in 1..=5 {
        bench.stage("one", &format!("{second}"), second);
    }
    File::open(bench.store.snapshots().join(&back)).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    bench.store.stage(source.path()).unwrap();
    assert_eq!(bench.sweep().0, 1);
    assert!(bench.snapshots().contains(&back));
}

#[test]
fn what_was_swept_can_be_staged_again_by_the_same_daemon() {
    let bench = Bench::new();
    let source = tempfile::tempdir().unwrap();
    // No manifest, so no plugin can return to it.
    fs::write(source.path().join("data"), "comes back").unwrap();
    let first = bench.store.stage(source.path()).unwrap().digest;
    assert_eq!(bench.sweep(), (1, 1, 0));
    let again = bench.store.stage(source.path()).unwrap();
    assert_eq!(again.digest, first);
    assert_eq!(fs::read_to_string(again.path.join("data")).unwrap(), "comes back");
}

#[test]
fn a_crash_in_the_middle_of_anything_leaves_what_the_next_daemon_clears_away() {
    let bench = Bench::new();
    let doomed = bench.stage("one", "on its way out", 0);
    let whole = bench.stage("one", "stays", 1);
    // A copy that was half made, one that was half removed, and one that was made writable for it and no further.
    fs::write(bench.store.staging().join("0"), "half a file").unwrap();
    let half = bench.store.staging().join("1");
    fs::set_permissions(&doomed.path, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&doomed.path, &half).unwrap();
    fs::set_permissions(half.join("inner"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_file(half.join("inner/data")).unwrap();
    fs::set_permissions(&whole.path, fs::Permissions::from_mode(0o755)).unwrap();
    // And the file of a copy that never came to be.
    let orphan = bench.store.files().join(format!("{}-r", "0".repeat(64)));
    fs::write(&orphan, "of no snapshot").unwrap();
    let bench = bench.again();
    assert_eq!(fs::read_dir(bench.store.staging()).unwrap().count(), 0);
    assert_eq!(bench.sweep(), (0, 2, 0), "the content of the one that went, and the orphan");
    assert_eq!(bench.snapshots(), BTreeSet::from([whole.digest.clone()]));
    let again = bench.stage("one", "stays", 1);
    assert_eq!(again.digest, whole.digest);
    assert_eq!(fs::metadata(&again.path).unwrap().permissions().mode() & 0o777, 0o555, "read-only again");
}

#[test]
fn what_cannot_be_removed_is_told_and_stays_whole() {
    let bench = Bench::new();
    let stuck = bench.stage_files(&[("data", "no manifest"), ("inner/more", "text")], 0).path;
    // Nothing can be moved into what is no folder, whoever asks.
    fs::remove_dir(bench.store.staging()).unwrap();
    fs::write(bench.store.staging(), "").unwrap();
    let swept = bench.store.sweep();
    assert_eq!((swept.snapshots, swept.files, swept.failed), (0, 0, 1));
    let problem = swept.problem.unwrap().to_string();
    assert!(problem.contains(&stuck.display().to_string()), "{problem}");
    assert_eq!(fs::read_to_string(stuck.join("inner/more")).unwrap(), "text");
    fs::remove_file(bench.store.staging()).unwrap();
    let bench = bench.again();
    assert_eq!(bench.sweep(), (1, 2, 0), "the next one can");
}

#[test]
fn what_is_not_named_as_the_store_names_things_is_left_alone() {
    let bench = Bench::new();
    fs::create_dir(bench.store.snapshots().join("notes")).unwrap();
    fs::write(bench.store.snapshots().join("f".repeat(64)), "a file").unwrap();
    fs::write(bench.store.files().join("notes"), "mine").unwrap();
    assert_eq!(bench.sweep(), (0, 0, 0));
    assert_eq!((bench.snapshots().len(), bench.files()), (2, 1));
}

#[test]
fn copies_can_be_made_while_it_sweeps() {
    let bench = Bench::new();
    std::thread::scope(|scope| {
        let copying = scope.spawn(|| {
            for round in 0..200 {
                // Without a manifest each goes with the next sweep; the file is the same, and may go between the two.
                let files = [("data", "shared"), ("more", if round % 2 == 0 { "even" } else { "odd" })];
                let snapshot = bench.stage_files(&files, 0);
                assert_eq!(fs::read_to_string(snapshot.path.join("data")).unwrap(), "shared");
                assert_eq!(fs::read_to_string(snapshot.path.join("more")).unwrap(), files[1].1);
            }
        });
        while !copying.is_finished() {
            let swept = bench.store.sweep();
            assert_eq!(swept.failed, 0, "{:?}", swept.problem);
        }
    });
    bench.sweep();
    assert_eq!((bench.snapshots().len(), bench.files()), (0, 0));
}

#[test]
fn one_that_was_told_to_end_removes_nothing_more() {
    let bench = Bench::new();
    bench.stage_files(&[("data", "no manifest")], 0);
    bench.store.close();
    assert_eq!(bench.sweep(), (0, 0, 0));
    assert_eq!((bench.snapshots().len(), bench.files()), (1, 1));
}
