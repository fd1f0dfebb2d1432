//! What lies in the plugin directories, without reading again what an earlier look has read.
//!
//! A package whose stamp holds is presumed to be what it was: its manifest and its digests come from the database. Any other is read and
//! hashed. What is required of packages is asked anew each time, for the rules, the keys and the time may be others. Nothing is copied
//! before a plugin is first used; then its copy is checked for itself, so what is remembered can be wrong and costs time only.
//!
//! Invariants: what is found does not depend on the order in which a folder lists its entries, nor on what is remembered; a package that
//! cannot be used keeps no other from being used.
//! Elsewhere: whether a package has changed is `store::Stamp`'s answer; what is kept of it `store::database`'s.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use semver::Version;
use sha2::{Digest, Sha256};

use crate::blocking;
use crate::model::generation::{LaunchFailure, Outlook};
use crate::model::ids::PluginId;
use crate::model::manifest::Manifest;
use crate::plugin::admission::{self, Admitted};
use crate::registry::{self, DirectoryError, Found, Listing, Rejected, Unread, says_nothing};
use crate::store::database::{Database, Remembered};
use crate::store::{Snapshot, Stamp, Store, StoreError};
use crate::trust::Rules;
use crate::trust::tree::TreeError;

/// A package, and the copy that runs or why there is none.
pub type Staged = (Found, Result<Snapshot, LaunchFailure>);

/// What was found.
#[derive(Debug, Default)]
pub struct Looked {
    /// Packages, and of several with the same id and version the one that comes first.
    pub staged: Vec<Staged>,
    /// Folders that look like packages and cannot be used as one.
    pub rejected: Vec<Rejected>,
    /// Of the packages those of which something can only not be looked at. Who has used one until now may go on.
    pub unseen: Vec<Rejected>,
}

/// Finds the packages in these directories, those of the first before those of the next. Blocks.
///
/// # Errors
/// [`DirectoryError`] for a directory that cannot be searched.
pub fn look(
    directories: &[PathBuf],
    store: &Store,
    rules: &Rules,
    database: &Database,
) -> Result<Looked, DirectoryError> {
    Ok(look_at(registry::list(directories)?, store, rules, database))
}

/// The same in directories that were listed already.
pub(super) fn look_at(listing: Listing, store: &Store, rules: &Rules, database: &Database) -> Looked {
    look_at_some(listing, store, rules, database, None)
}

/// The same of some packages, where not everything is looked at.
pub(super) fn look_at_some(
    listing: Listing,
    store: &Store,
    rules: &Rules,
    database: &Database,
    present: Option<Present>,
) -> Looked {
    let form = form(rules);
    let remembered = form.as_deref().map_or(Ok(Vec::new()), |form| database.remembered(form));
    let remembered = remembered.unwrap_or_else(|error| {
        tracing::warn!(%error, "what was found earlier is not known, and every package is read");
        Vec::new()
    });
    look_through(listing, store, rules, remembered, form.map(|form| (form, database)), present.as_ref())
}

/// The same where nothing is believed of what was found earlier.
pub(super) fn look_anew(listing: Listing, store: &Store, rules: &Rules, database: &Database) -> Looked {
    look_through(listing, store, rules, Vec::new(), form(rules).map(|form| (form, database)), None)
}

/// What there is while only some packages are looked at. The others stay as they are, whatever state their folders may be in.
#[derive(Debug)]
pub(super) struct Present {
    /// The folders of those that are looked at.
    pub(super) looked_at: BTreeSet<PathBuf>,
    /// The plugins, by their folders.
    pub(super) used: HashMap<PathBuf, Staged>,
    /// What is not used.
    pub(super) rejected: HashMap<PathBuf, Rejected>,
}

/// What is known of a folder.
enum Known {
    /// It has to be read, and this came of it.
    Read(Result<Read, Unread>),
    /// It is as it was.
    Used(Staged),
    Rejected(Rejected),
    /// It is new, and is not looked at yet.
    Nothing,
}

impl Present {
    /// Lists those as well that are not looked at and of which just now there is nothing to be seen, as someone is changing them.
    pub(super) fn complete(&self, listing: &mut Listing, directories: &[PathBuf]) {
        let place = |path: &Path| {
            directories.iter().position(|directory| path == directory || path.parent() == Some(directory))
        };
        let there: HashSet<PathBuf> = listing.folders.iter().cloned().collect();
        let stays =
            |path: &&PathBuf| !self.looked_at.contains(*path) && !there.contains(*path) && place(path).is_some();
        let staying: Vec<PathBuf> = self.used.keys().filter(stays).cloned().collect();
        if staying.is_empty() {
            return;
        }
        listing.rejected.retain(|rejected| !staying.contains(&rejected.path));
        listing.folders.extend(staying);
        listing.folders.sort_by_cached_key(|path| (place(path), path.clone()));
    }

    fn of(&self, folder: &Path) -> Option<Known> {
        if self.looked_at.contains(folder) {
            return None;
        }
        match (self.used.get(folder), self.rejected.get(folder)) {
            (Some(used), _) => Some(Known::Used(used.clone())),
            // What comes before it may be gone.
            (None, Some(rejected)) if rejected.shadowed => None,
            (None, Some(rejected)) => Some(Known::Rejected(rejected.clone())),
            (None, None) => Some(Known::Nothing),
        }
    }
}

/// A package whose manifest is known.
struct Read {
    found: Found,
    text: Vec<u8>,
    /// As it was before it was read; nothing where that is not to be relied on.
    stamp: Option<Stamp>,
    /// What is presumed of it.
    admitted: Option<Admitted>,
    /// What there is of it already, where it is not looked at.
    used: Option<Result<Snapshot, LaunchFailure>>,
}

fn look_through(
    listing: Listing,
    store: &Store,
    rules: &Rules,
    remembered: Vec<Remembered>,
    into: Option<(String, &Database)>,
    present: Option<&Present>,
) -> Looked {
    let Listing { folders, mut rejected } = listing;
    let remembered: HashMap<_, _> = remembered.into_iter().map(|one| (one.path.clone(), one)).collect();
    let read = blocking::share(&folders, |folder| {
        let present = present.and_then(|present| present.of(folder));
        present.unwrap_or_else(|| Known::Read(read(folder, remembered.get(folder), store, rules)))
    });
    let mut first: HashMap<(PluginId, Version), PathBuf> = HashMap::new();
    let mut winners = Vec::new();
    for (folder, read) in folders.iter().zip(read) {
        let read = match read {
            Known::Read(Ok(read)) => read,
            Known::Used((found, snapshot)) => {
                Read { found, text: Vec::new(), stamp: None, admitted: None, used: Some(snapshot) }
            }
            Known::Read(Err(unread)) => {
                rejected.push(unread.rejected(folder.clone()));
                continue;
            }
            Known::Rejected(known) => {
                rejected.push(known);
                continue;
            }
            Known::Nothing => continue,
        };
        let Manifest { id, version, .. } = &read.found.manifest;
        match first.get(&(id.clone(), version.clone())) {
            Some(earlier) => rejected.push(shadowed(folder.clone(), &read.found.manifest, earlier)),
            None => {
                first.insert((id.clone(), version.clone()), folder.clone());
                winners.push(read);
            }
        }
    }
    // In the order of the folders, wherever it was noticed.
    let places: BTreeMap<_, _> = folders.iter().enumerate().map(|(place, folder)| (folder, place)).collect();
    rejected.sort_by_cached_key(|rejected| places.get(&rejected.path).copied());
    let admitted = blocking::share(&winners, |read| match (&read.admitted, &read.used) {
        (None, None) => Some(examine(read, store, rules)),
        _ => None,
    });
    let mut looked = Looked { staged: Vec::with_capacity(winners.len()), rejected, unseen: Vec::new() };
    let mut new = Vec::new();
    let mut known = HashSet::new();
    for (read, admitted) in winners.into_iter().zip(admitted) {
        let Read { mut found, text, stamp, admitted: presumed, used } = read;
        if let Some(used) = used {
            looked.staged.push((found, used));
            continue;
        }
        let is_new = admitted.is_some();
        let snapshot = match presumed.map(Ok).or(admitted) {
            Some(Ok(admitted)) => {
                if !is_new {
                    known.insert(found.path.clone());
                } else if let Some(stamp) = stamp {
                    known.insert(found.path.clone());
                    new.push(Remembered {
                        path: found.path.clone(),
                        stamp: stamp.bytes().to_vec(),
                        manifest: text,
                        digest: admitted.snapshot.digest.clone(),
                        checksum: admitted.snapshot.checksum.clone(),
                        warnings: Warnings::write(&found.warnings, &admitted.inspected),
                    });
                }
                let snapshot = admitted.snapshot.clone();
                found.warnings.extend(admitted.warnings());
                Ok(snapshot)
            }
            Some(Err((failure, is_unseen))) => {
                if is_unseen {
                    looked.unseen.push(Rejected::unseen(found.path.clone(), failure.message.clone()));
                }
                Err(failure)
            }
            None => continue,
        };
        looked.staged.push((found, snapshot));
    }
    let (packages, unchanged) = (looked.staged.len(), known.len() - new.len());
    match present {
        None => tracing::info!(packages, unchanged, "looked into the plugin directories"),
        Some(present) => tracing::debug!(packages = ?present.looked_at, "looked at packages that have changed"),
    }
    let is_looked_at = |path: &Path| present.is_none_or(|present| present.looked_at.contains(path));
    let is_gone = |path: &&Path| !known.contains(*path) && is_looked_at(path);
    let gone: Vec<_> = remembered.keys().map(PathBuf::as_path).filter(is_gone).collect();
    if let Some((form, database)) = into
        && !(new.is_empty() && gone.is_empty())
        && let Err(error) = database.remember(&form, &new, &gone)
    {
        tracing::warn!(%error, "what was found is not remembered, and the next start reads every package");
    }
    looked
}

fn read(folder: &Path, remembered: Option<&Remembered>, store: &Store, rules: &Rules) -> Result<Read, Unread> {
    if let Some(read) = remembered.and_then(|remembered| presume(folder, remembered, store, rules)) {
        return Ok(read);
    }
    let stamp = Stamp::take(folder);
    let (found, text) = registry::read_with_text(folder)?;
    Ok(Read { found, text, stamp, admitted: None, used: None })
}

/// What a package is that was not presumed; or why it is not used, and whether that says nothing of it.
fn examine(read: &Read, store: &Store, rules: &Rules) -> Result<Admitted, (LaunchFailure, bool)> {
    let path = &read.found.path;
    let snapshot = store.examine(path).map_err(|error| {
        let failure = admission::not_copied(&error);
        let is_unseen = is_unseen(&error) || failure.outlook != Outlook::Lasting;
        (failure, is_unseen)
    })?;
    let admitted = admission::examine(snapshot, rules, path, (&read.found.manifest, &read.text));
    admitted.map_err(|failure| {
        let is_short = failure.outlook != Outlook::Lasting;
        (failure, is_short)
    })
}

/// Whether a package or a snapshot could only not be looked at.
pub(super) fn is_unseen(error: &StoreError) -> bool {
    match error {
        StoreError::Tree(TreeError::Read { source, .. }) => says_nothing(source),
        StoreError::Closing => true,
        _ => false,
    }
}

/// What an earlier look has found, if the package is as it was and may be used as it may have been.
fn presume(folder: &Path, remembered: &Remembered, store: &Store, rules: &Rules) -> Option<Read> {
    if !Stamp::holds(&remembered.stamp, folder) {
        return None;
    }
    let (manifest, _) = registry::understand(folder, &remembered.manifest).ok()?;
    let Warnings(warnings, inspected) = Warnings::read(&remembered.warnings)?;
    let snapshot = store.presume(&remembered.digest, &remembered.checksum)?;
    let admitted = admission::presume(snapshot, inspected, rules, folder, (&manifest, &remembered.manifest)).ok()?;
    let found = Found { manifest, path: folder.to_owned(), warnings, passed_over: None };
    Some(Read { found, text: Vec::new(), stamp: None, admitted: Some(admitted), used: None })
}

/// What was odd about the manifest, and about the program.
#[derive(serde::Serialize, serde::Deserialize)]
struct Warnings(Vec<String>, Vec<String>);

impl Warnings {
    fn write(found: &[String], inspected: &[String]) -> String {
        serde_json::to_string(&(found, inspected)).unwrap_or_default()
    }

    fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }
}

/// What is said of a package that another of the same id and version goes before.
pub(super) fn shadowed(path: PathBuf, manifest: &Manifest, earlier: &Path) -> Rejected {
    let Manifest { id, version, .. } = manifest;
    let reason = format!("{id} {version} is shadowed by {}, which comes first", earlier.display());
    Rejected { shadowed: true, ..Rejected::new(path, reason) }
}

/// What is another wherever what was found may not be believed: by another build of the daemon, for another user, or where other checks
/// are asked for or the host has other libraries. Nothing where that cannot be told, and nothing is remembered then.
fn form(rules: &Rules) -> Option<String> {
    let own = std::fs::metadata("/proc/self/exe").ok()?;
    let own = (own.dev(), own.ino(), own.size(), own.mtime(), own.mtime_nsec(), own.ctime(), own.ctime_nsec());
    let user = rustix::process::geteuid().as_raw();
    let all = format!("{} {own:?} {user}\n{}", env!("CARGO_PKG_VERSION"), rules.inspection());
    Some(crate::trust::tree::hex(&Sha256::digest(all)))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rustix::io::Errno;

    use super::*;
    use crate::model::check::Checks;
    use crate::model::trust::Settings;

    const STEPS: usize = 150;

    /// By whatever error a file cannot be read, but where it is not there.
    #[test]
    fn what_cannot_be_read_is_not_taken_for_gone() {
        for (errno, unseen) in [
            (Errno::ACCESS, true),
            (Errno::IO, true),
            (Errno::MFILE, true),
            (Errno::NOMEM, true),
            (Errno::NOENT, false),
            (Errno::LOOP, false),
        ] {
            let error = TreeError::Read { path: "/somewhere".into(), source: errno.into() };
            assert_eq!(is_unseen(&StoreError::Tree(error)), unseen, "{errno}");
        }
        let odd = TreeError::Unusual { path: "/somewhere".into(), what: "a pipe" };
        assert!(!is_unseen(&StoreError::Tree(odd)));
        assert!(!is_unseen(&StoreError::Altered { path: "/somewhere".into() }));
    }

    /// What was found, with all that can be told of it.
    fn told(looked: &Looked) -> (Vec<String>, Vec<Rejected>) {
        let staged = looked.staged.iter().map(|(found, snapshot)| {
            let Manifest { id, version, description, .. } = &found.manifest;
            let snapshot = snapshot.as_ref().map(|snapshot| (&snapshot.digest, &snapshot.checksum));
            let snapshot = snapshot.map_err(|failure| &failure.message);
            format!("{id} {version} {description:?} {:?} {:?} {snapshot:?}", found.path, found.warnings)
        });
        (staged.collect(), looked.rejected.clone())
    }

    fn one_of<'a>(random: &mut fastrand::Rng, all: &[&'a str]) -> &'a str {
        all[random.usize(..all.len())]
    }

    /// One change of many kinds, to one of a few packages that often have the same id and version.
    fn change(random: &mut fastrand::Rng, directories: &[PathBuf]) {
        let directory = &directories[random.usize(..directories.len())];
        let folder = directory.join(one_of(random, &["a", "b", "c"]));
        let manifest = |random: &mut fastrand::Rng| {
            serde_json::json!({
                "id": one_of(random, &["one", "two"]), "name": "N", "entry_point": "main",
                "version": one_of(random, &["1.0.0", "1.1.0"]), "description": one_of(random, &["this", "that"]),
            })
            .to_string()
        };
        match random.usize(..9) {
            0 => drop(fs::remove_dir_all(&folder)),
            1 if folder.is_dir() => drop(fs::write(folder.join("plugin.json"), "{\"id\": ")),
            2 if folder.is_dir() => drop(fs::write(folder.join("more"), one_of(random, &["x", "y"]))),
            3 if folder.is_dir() => drop(std::os::unix::fs::symlink("/etc/passwd", folder.join("link"))),
            4 if folder.is_dir() => drop(fs::create_dir(folder.join("target"))),
            5 => {
                let other = directories[random.usize(..directories.len())].join(one_of(random, &["a", "b", "c"]));
                drop(fs::rename(&folder, other));
            }
            6 if folder.is_dir() => drop(fs::write(folder.join("plugin.json"), manifest(random))),
            _ => {
                let _ = fs::remove_dir_all(&folder);
                fs::create_dir_all(&folder).unwrap();
                fs::write(folder.join("plugin.json"), manifest(random)).unwrap();
                fs::write(folder.join("main"), "#!/bin/sh\n").unwrap();
                fs::set_permissions(folder.join("main"), fs::Permissions::from_mode(0o755)).unwrap();
            }
        }
    }

    /// Whatever becomes of the packages, who remembers finds what who remembers nothing finds.
    #[test]
    fn what_is_remembered_changes_nothing_that_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let directories = ["first", "second"].map(|name| folder.path().join(name));
        for directory in &directories {
            fs::create_dir(directory).unwrap();
        }
        let store = Store::open(folder.path().join("store"), tempfile::tempfile().unwrap()).unwrap();
        let rules = Rules::open(Settings::default(), Checks::default());
        let remembering = Database::open(&folder.path().join("registry.sqlite3"));
        // It is in memory alone.
        let forgetful = Database::open(&folder.path().join("gone/registry.sqlite3"));
        let mut random = fastrand::Rng::with_seed(11);
        for step in 0..STEPS {
            for _ in 0..random.usize(..3) {
                change(&mut random, &directories);
            }
            let looked = look(&directories, &store, &rules, &remembering).unwrap();
            let anew = look_anew(registry::list(&directories).unwrap(), &store, &rules, &forgetful);
            assert_eq!(told(&looked), told(&anew), "step {step}");
        }
        // And it does remember, once what was written is old enough.
        let folder = directories[0].join("z");
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("plugin.json"), r#"{"id": "z", "name": "Z", "version": "1.0.0", "entry_point": "z"}"#)
            .unwrap();
        let begun = std::time::Instant::now();
        loop {
            look(&directories, &store, &rules, &remembering).unwrap();
            let remembered = remembering.remembered(&form(&rules).unwrap()).unwrap();
            if remembered.iter().any(|one| one.path == folder) {
                break;
            }
            assert!(begun.elapsed().as_secs() < 60, "nothing is remembered");
        }
    }
}
