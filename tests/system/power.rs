//! What plugins keep after a loss of power: what was acknowledged is there, whole, whatever the disk had come to write.
//!
//! The daemon is traced while it writes, and what a loss of power could have left at many moments is opened by the code that a daemon opens
//! it with. What that must be able to bear is in `palisade_tests::power`.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use palisade_tests::daemon::{Daemon, DaemonOptions, other_user, wait_for};
use palisade_tests::power::{Change, Image, Part, Recording};
use palisade_tests::steps::Traced;
use palisade_tests::wire::Agent;
use palisaded::model::ids::PluginId;
use palisaded::state::{Reply, Request, States, Step};
use palisaded::store::database::Database;
use serde_json::{Value, json};

use crate::reload::{digest, keeping_one, kept_state, migrating};
use crate::state::{ask, put};
use crate::support::{daemon_with, expect_echo, expect_tried, hostile, in_the_guest};

/// More images of one recording are not opened.
const IMAGES_MAX: usize = 2000;

/// About so many moments of one recording are looked at where something has become certain, and so many others, beside those at which anything
/// but the log is changed.
const MOMENTS: (usize, usize) = (60, 30);

/// What is in a plugin's state.
type Pairs = BTreeMap<String, Value>;

/// A write, and what is there after it.
struct Write {
    ask: Value,
    after: Pairs,
}

/// Writes, one after the other.
#[derive(Default)]
struct Writes(Vec<Write>);

impl Writes {
    fn then(mut self, ask: Value, change: impl FnOnce(&mut Pairs)) -> Self {
        let mut after = self.0.last().map(|write| write.after.clone()).unwrap_or_default();
        change(&mut after);
        self.0.push(Write { ask, after });
        self
    }

    fn put(self, key: &str, value: Value) -> Self {
        self.then(put(key, &value), |pairs| drop(pairs.insert(key.to_owned(), value)))
    }

    /// All of them, or none.
    fn together(self, pairs: &[(&str, Value)]) -> Self {
        let operations: Vec<_> =
            pairs.iter().map(|(key, value)| json!({"op": "put", "key": key, "value": value})).collect();
        let ask = json!({"op": "state.transaction", "params": {"operations": operations}});
        self.then(ask, |all| all.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone()))))
    }
}

/// Says that it is over, however it ends.
pub(crate) struct Over<'a>(pub(crate) &'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Records what the daemon changes while an agent has something done; false where a daemon cannot be traced. It is killed, and not reaped.
fn recorded(daemon: &Daemon, recording: &Recording, work: impl FnOnce(&mut Agent) + Send) -> bool {
    let mut agent = daemon.agent();
    let Some(traced) = Traced::unless_skipped(daemon.pid()) else { return false };
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let over = &over;
        scope.spawn(move || {
            let _over = Over(over);
            work(&mut agent);
        });
        traced.record(recording, || over.load(Ordering::SeqCst));
    });
    true
}

/// What of the changes that are not certain may be on the disk: none, all, some alone, any, and one of them torn.
fn choices(sectors: &[usize], random: &mut fastrand::Rng) -> Vec<Vec<Part>> {
    let count = sectors.len();
    let mut all = vec![vec![Part::Nothing; count]];
    if count == 0 {
        return all;
    }
    all.push(vec![Part::All; count]);
    let alone: Vec<usize> = if count <= 3 { (0..count).collect() } else { random.choose_multiple(0..count, 3) };
    for one in alone {
        let part = |at| if at == one { Part::All } else { Part::Nothing };
        all.push((0..count).map(part).collect());
    }
    for _ in 0..3 {
        all.push((0..count).map(|_| if random.bool() { Part::All } else { Part::Nothing }).collect());
    }
    let long: Vec<usize> = (0..count).filter(|at| sectors[*at] > 1).collect();
    for others in [Part::All, Part::Nothing] {
        if let Some(torn) = random.choice(&long) {
            let at = random.usize(1..sectors[*torn]);
            let mut parts = vec![others; count];
            parts[*torn] = if random.bool() { Part::First(at) } else { Part::Behind(at) };
            all.push(parts);
        }
    }
    all
}

/// Opens what may be left at many moments of the recording, each with how much had been acknowledged by then; how often a log was begun.
fn at_each_moment(recording: Recording, mut open: impl FnMut(&Image, usize, &str)) -> usize {
    let seed = std::env::var("PALISADE_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| fastrand::u64(..));
    println!("PALISADE_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut disk, changes) = recording.finish();
    let certain = |at: usize| matches!(changes.get(at), Some(Change::Synced { .. } | Change::Acknowledged { .. }));
    let is_log = |path: &Path| path.to_string_lossy().ends_with("-wal");
    let rare = |at: usize| match changes.get(at) {
        Some(Change::Wrote { path, at, .. }) => !is_log(path) || *at == 0,
        Some(Change::Synced { .. } | Change::Acknowledged { .. }) | None => false,
        Some(_) => true,
    };
    // In the guest each image takes its time.
    let part = if in_the_guest() { 0.1 } else { 1.0 };
    let (mut seen, mut acknowledged, mut moments, mut torn) = (HashSet::new(), 0, 0, 0);
    let boundaries = (0..changes.len()).filter(|at| certain(*at) || certain(at + 1)).count();
    let share = |wanted: usize, of: usize| wanted as f64 / of.max(1) as f64;
    for (at, change) in changes.iter().enumerate() {
        disk.apply(change);
        if let Change::Acknowledged { count } = change {
            acknowledged = *count;
        }
        let wanted = match () {
            () if rare(at) || rare(at + 1) => 1.0,
            () if certain(at) || certain(at + 1) => share(MOMENTS.0, boundaries),
            () => share(MOMENTS.1, changes.len()),
        };
        if part * wanted <= random.f64() {
            continue;
        }
        moments += 1;
        for parts in choices(&disk.uncertain(), &mut random) {
            let image = disk.image(&parts);
            if seen.len() < IMAGES_MAX && seen.insert((image.digest(), acknowledged)) {
                torn += usize::from(parts.iter().any(|part| !matches!(part, Part::Nothing | Part::All)));
                open(
                    &image,
                    acknowledged,
                    &format!("after change {at} ({change}), {acknowledged} acknowledged, seed {seed}"),
                );
            }
        }
    }
    let begins = |change: &&Change| matches!(change, Change::Wrote { path, at: 0, .. } if is_log(path));
    let logs = changes.iter().filter(begins).count();
    println!("{logs} logs, {} changes, {moments} moments, {} images, {torn} of them torn", changes.len(), seen.len());
    disk.expect_same("-shm");
    assert!(seen.len() < IMAGES_MAX, "so many that the last moments were not looked at");
    assert!(in_the_guest() || (torn > 0 && seen.len() > 50), "{} images, {torn} torn", seen.len());
    logs
}

/// Writes it to a folder of its own, where what SQLite shares in memory may be anything.
fn written(image: &Image) -> tempfile::TempDir {
    // What is only looked at need not wait for a disk.
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    let folder = folder.expect("there is room");
    let shared = |path: &Path| path.to_string_lossy().ends_with("-shm").then(|| vec![0xa5; 32 << 10]);
    image.write(folder.path(), shared);
    folder
}

fn plugin() -> PluginId {
    PluginId::parse("hostile").expect("it is an id")
}

/// Of what the database of that folder says, if it is one of those that are recorded: the kept copies of the state, and whether the package in
/// the plugin's folder is not used.
fn noted(folder: &Path) -> Option<(Vec<String>, bool)> {
    let file = folder.join("registry.sqlite3");
    let database = file.exists().then(|| Database::open(&file))?;
    let backups = database.backups(&plugin()).expect("it can be read");
    let is_returned = !database.bad().expect("it can be read").is_empty();
    Some((backups.into_iter().filter_map(|backup| backup.state).collect(), is_returned))
}

/// What is there, and the number of the last write; what follows has a higher one, and the file is sound.
fn kept(image: &Image, told: &str) -> (Pairs, u64, Option<u32>) {
    let folder = written(image);
    // As a daemon opens it, which knows what has come to its end, where that is recorded.
    let known = noted(folder.path()).map(|noted| noted.0).unwrap_or_default();
    let states = States::open(folder.path().join("state"), None, |_, name| known.iter().any(|known| known == name));
    let state = states.of(&plugin());
    let (about, pairs) = state.all().unwrap_or_else(|error| panic!("{told}: {error}"));
    let value = |bytes: &[u8]| rmp_serde::from_slice(bytes).unwrap_or_else(|error| panic!("{told}: {error}"));
    let pairs = pairs.into_iter().map(|(key, bytes, _)| (key, value(&bytes))).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("there is room");
    let steps = vec![Step::Put { key: "again".to_owned(), value: vec![0xc0] }];
    let again = runtime.block_on(async {
        let again = state.request(Request::Write { steps, schema: None, form: None }).await;
        states.finish().await;
        again
    });
    match again.unwrap_or_else(|error| panic!("{told}: {error}")) {
        Reply::Written { revision: Some(revision) } => assert!(about.revision < revision, "{told}"),
        other => panic!("{told}: {other:?}"),
    }
    drop((state, states));
    // Whoever has used it may have it for himself a little longer.
    let copy = tempfile::tempdir_in(folder.path()).expect("there is room");
    for name in ["state.sqlite3", "state.sqlite3-wal"] {
        match std::fs::copy(folder.path().join("state/hostile").join(name), copy.path().join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("{told}: {error}"),
            _ => {}
        }
    }
    let file = rusqlite::Connection::open(copy.path().join("state.sqlite3")).expect("it is there");
    let sound: String = file.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("it is looked at");
    assert_eq!(sound, "ok", "{told}");
    (pairs, about.revision, about.schema)
}

/// Whatever a loss of power leaves, at many moments of these writes, has what was acknowledged, whole.
fn outlives_a_loss_of_power(Writes(writes): &Writes, logs_min: usize) {
    let daemon = daemon_with(hostile("tame"));
    expect_echo(&daemon, "hostile");
    let recording = Recording::of(&daemon.path().join("state"), &["state"]);
    let mut revisions = Vec::new();
    let is_recorded = recorded(&daemon, &recording, |agent| {
        for (count, write) in (1..).zip(writes) {
            let answer = agent.call("hostile", "ask", &json!({ "asks": [write.ask] })).expect("it asks");
            recording.note(Change::Acknowledged { count });
            revisions.push(answer[0]["ok"]["revision"].as_u64().unwrap_or_else(|| panic!("write {count}: {answer}")));
        }
    });
    if !is_recorded {
        return;
    }
    let folder = daemon.kill_nine();
    let nothing = Pairs::new();
    let after = |count: usize| count.checked_sub(1).map_or(&nothing, |last| &writes[last].after);
    let logs = at_each_moment(recording, |image, acknowledged, told| {
        let (there, revision, _) = kept(image, told);
        // What was written and not acknowledged may be there as well: no more than one, as each waits for the one before.
        let last = writes.len().min(acknowledged + 1);
        let known = (acknowledged..=last).any(|count| *after(count) == there);
        assert!(known, "{told}: there are {:?}", there.keys().collect::<Vec<_>>());
        let least = acknowledged.checked_sub(1).map_or(0, |last| revisions[last]);
        assert!(least <= revision, "{told}: at revision {revision}, and {least} was given");
    });
    assert!(logs_min <= logs, "the log was begun {logs} times");
    Daemon::start(DaemonOptions::with([]).folder(folder)).stop_and_expect_no_orphans();
}

#[test]
fn what_was_acknowledged_outlives_a_loss_of_power() {
    let delete = json!({"op": "state.delete", "params": {"key": "two"}});
    let set = json!({"op": "state.compare_and_set", "params": {"key": "three", "expected": 3, "value": "other"}});
    let writes = Writes::default()
        .put("one", json!("first"))
        .together(&[("two", json!("x".repeat(9_000))), ("three", json!(3))])
        .put("one", json!("second"))
        .then(delete, |pairs| drop(pairs.remove("two")))
        .then(set, |pairs| drop(pairs.insert("three".to_owned(), json!("other"))))
        .together(&[("four", json!("y".repeat(20_000))), ("one", json!("third"))]);
    outlives_a_loss_of_power(&writes, 1);
}

/// So much that the log is written back into the file, and begins anew.
#[test]
fn a_log_that_is_written_back_outlives_a_loss_of_power() {
    let mut writes = Writes::default();
    for round in 0..45 {
        // The same pages are in the log again and again, so that a mixture would show; what is as it was SQLite does not write.
        let letter = char::from(b'a' + round % 26);
        let text = json!(format!("{round} {}", letter.to_string().repeat(21_000)));
        writes = writes.together(&["one", "two", "three", "four", "five"].map(|key| (key, text.clone())));
    }
    outlives_a_loss_of_power(&writes.put("six", json!(6)), 2);
}

/// A package that brings what is kept into another form: afterwards it is there in the old form or in the new one, whole, also where the copy
/// that was made of it had to be put back.
#[test]
fn what_is_brought_into_another_form_outlives_a_loss_of_power() {
    let daemon = keeping_one("");
    daemon.operate("rescan", &json!({})).expect("it looks");
    migrating().write(&daemon.plugins(), daemon.marker());
    let (state, plugin) = (daemon.path().join("state"), daemon.path().join("state/state/hostile"));
    let recording = Recording::of(&state, &["state"]);
    let is_recorded = recorded(&daemon, &recording, |agent| {
        let found = agent.call("palisade", "rescan", &json!({})).expect("it looks");
        assert_eq!(found["changed"], json!(["hostile 0.1.0"]), "{found}");
        recording.note(Change::Acknowledged { count: 1 });
        // The copy of the state has the name that is noted of it a moment later.
        wait_for("nothing that would have to be undone", || {
            let mut files = std::fs::read_dir(&plugin).expect("it is there").flatten();
            (!files.any(|file| file.file_name().to_string_lossy().starts_with("undo-"))).then_some(())
        });
        recording.note(Change::Acknowledged { count: 2 });
    });
    if !is_recorded {
        return;
    }
    let folder = daemon.kill_nine();
    let mut forms = [0; 2];
    at_each_moment(recording, |image, acknowledged, told| {
        let (pairs, _, schema) = kept(image, told);
        let form = match (pairs["a"].as_str(), schema) {
            (Some("one"), Some(1)) => 0,
            (Some("two"), Some(2)) => 1,
            other => panic!("{told}: {other:?}"),
        };
        forms[form] += 1;
        assert!(acknowledged < 2 || form == 1, "{told}: it is in the old form");
    });
    println!("so many have the old form, and so many the new one: {forms:?}");
    assert!(in_the_guest() || forms.iter().all(|images| *images > 0), "{forms:?}");
    Daemon::start(DaemonOptions::with([]).folder(folder)).stop_and_expect_no_orphans();
}

/// Puts what is left in the place of what is there.
fn lay(image: &Image, state: &Path) {
    std::fs::remove_dir_all(state.join("state")).expect("it is there");
    let files = || std::fs::read_dir(state).expect("it is there").flatten().map(|entry| entry.path());
    let is_registry =
        |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("registry."));
    files().filter(|path| is_registry(path)).for_each(|path| std::fs::remove_file(path).expect("it is ours"));
    image.write(state, |_| None);
    let mut owned: Vec<_> = files().filter(|path| is_registry(path) || path.ends_with("state")).collect();
    while let (Some(path), Some(user)) = (owned.pop(), other_user()) {
        std::os::unix::fs::chown(&path, Some(user), Some(user)).expect("root may");
        owned.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
    }
}

/// A return to a package with what was kept with it: either is there afterwards, whole and with the package that it is of, and a daemon serves it.
#[test]
fn what_is_returned_to_outlives_a_loss_of_power() {
    let daemon = keeping_one("");
    daemon.operate("rescan", &json!({})).expect("it looks");
    let good = digest(&daemon);
    migrating().write(&daemon.plugins(), daemon.marker());
    let found = daemon.operate("rescan", &json!({})).expect("it looks");
    assert_eq!(found["changed"], json!(["hostile 0.1.0"]), "{found}");
    ask(&daemon, "hostile", &[put("a", &json!("later"))]);
    let state = daemon.path().join("state");
    let recording = Recording::of(&state, &["state", "registry.sqlite3"]);
    let is_recorded = recorded(&daemon, &recording, |agent| {
        agent.call("palisade", "rollback", &json!({"plugin": "hostile"})).expect("it is kept");
        recording.note(Change::Acknowledged { count: 1 });
    });
    if !is_recorded {
        return;
    }
    let mut folder = daemon.kill_nine();
    let (mut counts, mut last) = ([0; 2], [None, None]);
    at_each_moment(recording, |image, acknowledged, told| {
        let (pairs, _, schema) = kept(image, told);
        let written = written(image);
        let (_, is_returned) = noted(written.path()).unwrap_or_else(|| panic!("{told}: there is no database"));
        match (pairs["a"].as_str(), schema, is_returned) {
            (Some("later"), Some(2), false) | (Some("one"), Some(1), true) => {}
            other => panic!("{told}: {other:?}"),
        }
        assert!(acknowledged < 1 || is_returned, "{told}: it was returned");
        counts[usize::from(is_returned)] += 1;
        last[usize::from(is_returned)] = Some((image.clone(), told.to_owned()));
    });
    println!("so many have what was there, and so many what was returned to: {counts:?}");
    assert!(in_the_guest() || counts.iter().all(|images| *images > 0), "{counts:?}");
    for (is_returned, left) in [false, true].into_iter().zip(last) {
        let Some((image, told)) = left else { continue };
        lay(&image, &folder.path().join("state"));
        let daemon = Daemon::start(DaemonOptions::with([]).folder(folder).configuration("watch = false\n"));
        expect_tried(&daemon, "hostile");
        // The other one writes that whenever it starts.
        let expected = if is_returned { "one" } else { "two" };
        assert_eq!((digest(&daemon) == good, kept_state(&daemon)), (is_returned, json!(expected)), "{told}");
        folder = daemon.kill_nine();
    }
    Daemon::start(DaemonOptions::with([]).folder(folder)).stop_and_expect_no_orphans();
}
