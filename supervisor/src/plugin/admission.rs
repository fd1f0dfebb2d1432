//! Takes a package into the store, and lets it be used or not: as a daemon starts, and whenever one that failed is looked at again.
//!
//! When a package is found, its folder is looked at, or what an earlier daemon found is presumed. It is copied before it is first used.
//! Invariant: nothing runs but from a copy that was looked at itself; the folder may be another by then.
//! Elsewhere: what is required is `trust`'s business, and what a manifest says `model::manifest`'s.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::time::SystemTime;

use palisade_protocol::ErrorCode;

use crate::model::generation::{LaunchFailure, Outlook};
use crate::model::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::store::{self, Snapshot, Store, StoreError};
use crate::trust::tree::TreeError;
use crate::trust::{Candidate, Rules};

/// A package that may be used.
#[derive(Debug)]
pub struct Admitted {
    /// The copy that runs.
    pub snapshot: Snapshot,
    /// What is odd about it by what is required of it.
    pub held: Option<String>,
    /// What is odd about its program.
    pub inspected: Vec<String>,
}

impl Admitted {
    /// All that is odd about it.
    pub fn warnings(self) -> impl Iterator<Item = String> {
        self.held.into_iter().chain(self.inspected)
    }
}

/// Copies the package that was found at `source` with that manifest, and checks the copy. Blocks.
///
/// # Errors
/// Why it is not used.
pub fn admit(store: &Store, rules: &Rules, source: &Path, manifest: &Manifest) -> Result<Admitted, LaunchFailure> {
    look(copy(store, source)?, rules, source, manifest)
}

/// Copies the package at `source`, which has to be checked before it is used. Blocks.
///
/// # Errors
/// Why there is no copy.
pub fn copy(store: &Store, source: &Path) -> Result<Snapshot, LaunchFailure> {
    store.stage(source).map_err(|error| not_copied(&error))
}

/// Looks again at the copy at `place`, which was made of `source` and is installed. Blocks.
///
/// # Errors
/// Why it is not used.
pub fn readmit(
    store: &Store,
    rules: &Rules,
    place: &Path,
    source: &Path,
    manifest: &Manifest,
) -> Result<Admitted, LaunchFailure> {
    let digest = place.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let snapshot = store.take(digest).map_err(|error| not_copied(&error))?;
    look(snapshot, rules, source, manifest)
}

/// Looks at the package that was found with this text as its manifest, and was hashed where it lies; copies nothing yet. Blocks.
///
/// # Errors
/// Why it is not used.
pub fn examine(
    snapshot: Snapshot,
    rules: &Rules,
    source: &Path,
    (manifest, text): (&Manifest, &[u8]),
) -> Result<Admitted, LaunchFailure> {
    let held = check(&snapshot, rules, source, (manifest, text))?;
    let inspected = inspect(rules, source, manifest)?;
    Ok(Admitted { snapshot, held, inspected })
}

/// Lets the package be used that an earlier daemon has copied and checked, and that is as it was. What is required of it now, and what
/// time it is now, counts.
///
/// # Errors
/// Why it is not used.
pub fn presume(
    snapshot: Snapshot,
    inspected: Vec<String>,
    rules: &Rules,
    source: &Path,
    (manifest, bytes): (&Manifest, &[u8]),
) -> Result<Admitted, LaunchFailure> {
    let held = check(&snapshot, rules, source, (manifest, bytes))?;
    Ok(Admitted { snapshot, held, inspected })
}

/// Checks a copy that was made of `source`, by the rules for what lies there; and says what is odd about it. Blocks.
///
/// # Errors
/// Why it is not used.
pub fn vouch(
    snapshot: &Snapshot,
    rules: &Rules,
    source: &Path,
    manifest: &Manifest,
) -> Result<Vec<String>, LaunchFailure> {
    Ok(look(snapshot.clone(), rules, source, manifest)?.warnings().collect())
}

fn look(snapshot: Snapshot, rules: &Rules, source: &Path, manifest: &Manifest) -> Result<Admitted, LaunchFailure> {
    let unreadable = |error: &dyn std::fmt::Display| refused(None, format!("plugin.json: {error}"));
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the parser sees that it is too long.
    File::open(snapshot.path.join("plugin.json"))
        .and_then(|file| file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes))
        .map_err(|error| LaunchFailure { outlook: outlook(&error), ..unreadable(&error) })?;
    let (copied, _) = Manifest::parse(&bytes).map_err(|error| unreadable(&error))?;
    if copied != *manifest {
        // Whoever watches the folder is about to find that, and has the other package take its place.
        let message = "its plugin.json was changed; `palisade rescan` reads it anew";
        return Err(LaunchFailure { outlook: Outlook::Passing, ..refused(None, message.to_owned()) });
    }
    let held = check(&snapshot, rules, source, (manifest, &bytes))?;
    let inspected = inspect(rules, &snapshot.path, manifest)?;
    Ok(Admitted { snapshot, held, inspected })
}

/// Looks at the program of the package in that folder, and says what is odd about it.
fn inspect(rules: &Rules, package: &Path, manifest: &Manifest) -> Result<Vec<String>, LaunchFailure> {
    // What cannot be executed at all is refused with what to do about it where it would be; what a runtime executes is its own affair.
    let entry = manifest.entry_point.as_str();
    let program = match manifest.runtime {
        Some(_) => None,
        None => store::entry_point(package, entry).ok().map(|there| there.program),
    };
    let found = rules.inspect(package, manifest, program.as_ref()).map_err(|error| {
        let message = format!("its program cannot be looked at: {error}; the daemon is short of descriptors or memory");
        LaunchFailure { message, outlook: Outlook::Shortage, code: None }
    })?;
    match found.refused {
        Some(reason) => Err(refused(Some(ErrorCode::CheckFailed), reason)),
        None => Ok(found.warnings),
    }
}

/// Whether what is required of packages from there is so; and what is odd where it need not be.
fn check(
    snapshot: &Snapshot,
    rules: &Rules,
    source: &Path,
    (manifest, bytes): (&Manifest, &[u8]),
) -> Result<Option<String>, LaunchFailure> {
    let candidate = Candidate { manifest, bytes, checksum: &snapshot.checksum };
    let held = rules.check(candidate, rules.policy_of(source), SystemTime::now());
    Ok(held.map_err(|refusal| refused(Some(refusal.code()), refusal.to_string()))?.warning)
}

/// Why there is no copy. What the daemon is short of passes, and says nothing of the package.
#[must_use]
pub fn not_copied(error: &StoreError) -> LaunchFailure {
    let outlook = match error {
        StoreError::Tree(TreeError::Read { source, .. }) | StoreError::Write { source, .. } => outlook(source),
        _ => Outlook::Lasting,
    };
    let code = matches!(error, StoreError::Altered { .. }).then_some(ErrorCode::IntegrityFailed);
    LaunchFailure { outlook, ..refused(code, error.to_string()) }
}

fn outlook(error: &io::Error) -> Outlook {
    error.raw_os_error().map_or(Outlook::Lasting, |errno| Outlook::of_errno(errno, Outlook::Lasting))
}

fn refused(code: Option<ErrorCode>, message: String) -> LaunchFailure {
    LaunchFailure { message, outlook: Outlook::Lasting, code }
}
