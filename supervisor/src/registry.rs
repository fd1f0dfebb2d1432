//! Which plugins there are: finds packages in the plugin directories, and knows every version of every id.
//!
//! Directories are searched in the order in which they are given; the first to have an id at a version wins, and a later one is
//! shadowed with a warning. A package that cannot be used is remembered with the reason, so that whoever asks for it is told.
//!
//! Elsewhere: copying packages is `store`, running them `plugin`, choosing for a call `router`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use palisade_protocol::{ErrorBody, ErrorCode, SUPERVISOR_ID};
use rustix::fs::{Mode, OFlags};
use semver::Version;
use serde::Serialize;
use tokio::sync::watch;

use crate::model::dependency::{self, Graph};
use crate::model::ids::PluginId;
use crate::model::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError, Warning};
use crate::model::resolution::{self, Needs, Offers, Unresolvable};
use crate::model::specifier::Specifier;
use crate::model::status::{PassedOver, quoted};
use crate::plugin::handle::Handle;
use crate::plugin::needs::Offer;
use crate::store;

/// Most entries of one plugin directory.
pub const PACKAGES_MAX: usize = 10_000;

/// As many versions are named that would be there if they took calls.
const UNUSED_TOLD_MAX: usize = 8;

/// A package that was found.
#[derive(Debug, Clone)]
pub struct Found {
    /// What its manifest says.
    pub manifest: Manifest,
    /// Its folder.
    pub path: PathBuf,
    /// What was odd.
    pub warnings: Vec<String>,
    /// What lies in the folder instead, and is not used, where this is the package before.
    pub passed_over: Option<PassedOver>,
}

/// A folder that looks like a package and cannot be used as one, or the record of an installed version of which nothing else is left.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Rejected {
    /// The folder, or the record.
    pub path: PathBuf,
    /// Why.
    pub reason: String,
    /// Whether it could only not be looked at, which says nothing of what is there.
    #[serde(skip)]
    pub unseen: bool,
    /// Whether it could be used, but for another that comes first.
    #[serde(skip)]
    pub shadowed: bool,
}

impl Rejected {
    /// One that was looked at.
    #[must_use]
    pub fn new(path: PathBuf, reason: String) -> Self {
        Self { path, reason, unseen: false, shadowed: false }
    }

    /// One that could not be.
    #[must_use]
    pub fn unseen(path: PathBuf, reason: String) -> Self {
        Self { path, reason, unseen: true, shadowed: false }
    }

    /// The installed version whose record this is.
    fn installed(&self) -> Option<(PluginId, Version)> {
        let (id, version) = self.path.file_name()?.to_str()?.strip_suffix(".json")?.split_once('@')?;
        Some((PluginId::parse(id).ok()?, Version::parse(version).ok()?))
    }
}

/// Why something cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The reason, a sentence.
    pub reason: String,
    /// Whether that says nothing of what is there.
    pub unseen: bool,
    /// Where there are several: which field is not as it has to be, and why, a sentence.
    pub mistakes: Vec<(Option<String>, String)>,
}

impl Unread {
    fn at(path: &Path, error: &std::io::Error) -> Self {
        Self { reason: unreadable(path, error), unseen: says_nothing(error), mistakes: Vec::new() }
    }

    fn known(reason: String) -> Self {
        Self { reason, unseen: false, mistakes: Vec::new() }
    }

    pub(crate) fn rejected(self, path: PathBuf) -> Rejected {
        Rejected { unseen: self.unseen, ..Rejected::new(path, self.reason) }
    }
}

/// Whether what went wrong says nothing of what is there: it may not be read, or the daemon is short of something, or the disk fails.
#[must_use]
pub fn says_nothing(error: &std::io::Error) -> bool {
    use rustix::io::Errno;
    // Whatever else there may be is no proof that something is gone.
    !matches!(Errno::from_io_error(error), None | Some(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP))
}

/// The folders in the plugin directories that have a manifest.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// Those, in the order of their precedence.
    pub folders: Vec<PathBuf>,
    /// Those of which not even that much can be said.
    pub rejected: Vec<Rejected>,
}

/// Why a plugin directory cannot be searched.
#[derive(Debug, thiserror::Error)]
#[error("the plugin directory {path} {problem}; {hint}", path = .path.display())]
pub struct DirectoryError {
    /// Which.
    pub path: PathBuf,
    /// What is wrong with it.
    pub problem: String,
    /// What to do.
    pub hint: &'static str,
    /// Whether there is none, rather than one that cannot be read.
    pub is_missing: bool,
}

/// Looks for packages: folders with a `plugin.json`, directly below each directory. A directory that is itself a package counts
/// as one. The order is that of the directories, and of the names in each.
///
/// # Errors
/// [`DirectoryError`] for a directory that is missing or cannot be read.
pub fn list(directories: &[PathBuf]) -> Result<Listing, DirectoryError> {
    let mut listing = Listing::default();
    for directory in directories {
        listing.add(directory)?;
    }
    Ok(listing)
}

impl Listing {
    /// Adds what lies in one more directory.
    ///
    /// # Errors
    /// [`DirectoryError`], and nothing was added.
    pub fn add(&mut self, directory: &Path) -> Result<(), DirectoryError> {
        let problem =
            |problem: String, hint| DirectoryError { path: directory.to_owned(), problem, hint, is_missing: false };
        let unreadable = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::NotFound => DirectoryError {
                is_missing: true,
                ..problem("does not exist".to_owned(), "create it, or take it out of --plugins or plugin_directories")
            },
            std::io::ErrorKind::NotADirectory => {
                problem("is not a folder".to_owned(), "name the folder that holds plugin folders")
            }
            _ => problem(format!("cannot be read: {error}"), "see its permissions and those of the folders above it"),
        };
        // Before anything in it is looked at: what cannot be read is no package that is odd.
        let entries = fs::read_dir(directory).map_err(unreadable)?;
        match manifest_of(directory) {
            Ok(true) => {
                self.folders.push(directory.to_owned());
                return Ok(());
            }
            Ok(false) => {}
            Err(unread) => {
                self.rejected.push(unread.rejected(directory.to_owned()));
                return Ok(());
            }
        }
        let mut folders = Vec::new();
        for entry in entries {
            let path = entry.map_err(unreadable)?.path();
            if folders.len() == PACKAGES_MAX {
                return Err(problem(
                    format!("has more than {PACKAGES_MAX} entries"),
                    "name a folder that holds plugins alone",
                ));
            }
            folders.push(path);
        }
        folders.sort();
        for folder in folders {
            match manifest_of(&folder) {
                Ok(true) => self.folders.push(folder),
                Ok(false) => {}
                Err(unread) => self.rejected.push(unread.rejected(folder)),
            }
        }
        Ok(())
    }
}

/// Whether the folder has a manifest. What cannot be looked at, or is something else of that name, is told: nobody names it so by
/// chance. Anything but a file is no manifest: reading a pipe would wait for ever, and a link may lead out of the package.
fn manifest_of(folder: &Path) -> Result<bool, Unread> {
    let path = folder.join("plugin.json");
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_file() => Ok(true),
        Ok(metadata) => Err(Unread::known(no_manifest(&path, metadata.file_type()))),
        Err(error) if matches!(error.kind(), std::io::ErrorKind::NotADirectory | std::io::ErrorKind::NotFound) => {
            Ok(false)
        }
        Err(error) => Err(Unread::at(&path, &error)),
    }
}

/// What is said of something that has a manifest's name.
fn no_manifest(path: &Path, what: fs::FileType) -> String {
    if what.is_symlink() {
        format!("{} is a symbolic link; a package holds files and folders alone", path.display())
    } else {
        format!("{} is not a file", path.display())
    }
}

/// What is said of a manifest that is there, or may be, and cannot be read.
fn unreadable(path: &Path, error: &std::io::Error) -> String {
    let what = format!("{} cannot be read: {error}", path.display());
    match path.parent() {
        // The folder may be listed and not entered, which is easily overlooked.
        Some(folder) if error.kind() == std::io::ErrorKind::PermissionDenied => format!(
            "{what}; the daemon's user has to be able to read the file and to enter {} and the folders above it (`chmod +x` on a \
             folder)",
            folder.display()
        ),
        _ => what,
    }
}

/// Reads a package's manifest.
///
/// # Errors
/// What is wrong with it, all of it.
pub fn read(folder: &Path) -> Result<Found, String> {
    read_with_text(folder).map(|(found, _)| found).map_err(|unread| unread.reason)
}

/// Reads a package's manifest, and returns it as it is written too.
///
/// # Errors
/// As [`read`].
pub fn read_with_text(folder: &Path) -> Result<(Found, Vec<u8>), Unread> {
    let path = folder.join("plugin.json");
    // It may be something else by now, which is not followed and not waited for.
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(&path, flags, Mode::empty()).map_err(std::io::Error::from);
    let file = opened.map(fs::File::from).map_err(|error| Unread::at(&path, &error))?;
    let what = file.metadata().map_err(|error| Unread::at(&path, &error))?.file_type();
    if !what.is_file() {
        return Err(Unread::known(no_manifest(&path, what)));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the parser sees that it is too long.
    let read = file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Unread::at(&path, &error))?;
    let (manifest, warnings) = understand(folder, &bytes)?;
    let mut warnings: Vec<_> = warnings.into_iter().map(|warning| warning.to_string()).collect();
    for left_out in store::LEFT_OUT.iter().filter(|name| folder.join(name).is_dir()) {
        warnings.push(format!("the folder {left_out} is left out of the package; what it needs has to lie elsewhere"));
    }
    Ok((Found { manifest, path: folder.to_owned(), warnings, passed_over: None }, bytes))
}

/// What the manifest of the package in that folder says, which is this text.
///
/// # Errors
/// As [`read`].
pub fn understand(folder: &Path, text: &[u8]) -> Result<(Manifest, Vec<Warning>), Unread> {
    let path = folder.join("plugin.json");
    let (manifest, warnings) = Manifest::parse(text).map_err(|error| {
        let mistakes = match &error {
            ManifestError::Fields { errors } if errors.len() > 1 => {
                errors.iter().map(|one| (one.path().map(str::to_owned), one.to_string())).collect()
            }
            _ => Vec::new(),
        };
        Unread { mistakes, ..Unread::known(format!("{}: {error}", path.display())) }
    })?;
    if let Some(wanted) = manifest.host.as_ref().filter(|wanted| !wanted.admits(&own_version())) {
        let own = own_version();
        let why = format!("{}: dependencies.host wants palisaded {wanted}, and this is {own}", path.display());
        return Err(Unread::known(why));
    }
    Ok((manifest, warnings))
}

/// The daemon's own version, which a manifest may have a word on.
fn own_version() -> Version {
    let number = |text: &str| text.parse().unwrap_or_default();
    let (major, minor, patch) =
        (env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION_PATCH"));
    Version::new(number(major), number(minor), number(patch))
}

/// The registry as it is at a moment. Whoever looks gets a whole one, which stays as it is; who changes it puts another in its place.
#[derive(Debug, Default)]
pub struct Live {
    registry: RwLock<Option<Arc<Registry>>>,
    changes: watch::Sender<u64>,
}

impl Live {
    /// The present one; none before the plugins were found.
    #[must_use]
    pub fn now(&self) -> Option<Arc<Registry>> {
        self.registry.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts this one in its place. One change at a time: who makes it has to have looked at the present one before.
    pub fn replace(&self, registry: Registry) {
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(registry));
        self.has_changed();
    }

    /// Tells those that wait for what they depend on that something else can be had now: by `replace`, or as a plugin of it was
    /// enabled or disabled.
    pub fn has_changed(&self) {
        self.changes.send_modify(|number| *number += 1);
    }
}

impl Offer for Live {
    fn lacking(&self, manifest: &Manifest) -> Option<String> {
        self.now()?.lacking(manifest)
    }

    fn way_to_form(&self, id: &PluginId, form: u32) -> String {
        self.now().map(|registry| registry.way_to_form(id, form)).unwrap_or_default()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn has_changed(&self) {
        Self::has_changed(self);
    }
}

fn not_there(id: &str, version: &Version, versions: &BTreeMap<Version, Handle>) -> ErrorBody {
    let there = versions.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let message = format!("there is no version {version} of {id}");
    ErrorBody::new(ErrorCode::VersionNotFound, message).with_hint(format!("there is {there}"))
}

/// Every version of every plugin.
#[derive(Debug, Default, Clone)]
pub struct Registry {
    plugins: BTreeMap<PluginId, BTreeMap<Version, Handle>>,
    rejected: Vec<Rejected>,
}

impl Registry {
    /// How a plugin comes to a version that can use a state in this form, as it goes on from what is wrong.
    fn way_to_form(&self, id: &PluginId, form: u32) -> String {
        let knows = |(_, handle): &(&Version, &Handle)| {
            handle.blueprint().manifest.state_schema.is_some_and(|known| form <= known)
        };
        let serves = |handle: &Handle| (handle.is_enabled() && !handle.is_held(), handle.is_enabled());
        // One that takes calls, before one that could.
        let there = match self.versions(id).filter(knows).max_by_key(|(_, handle)| serves(handle)) {
            None => format!(
                "no version that knows it is there; install one, or return to a package that does, if `palisade backups {id}` has one"
            ),
            Some((version, handle)) => match serves(handle) {
                (true, _) => format!("{version} knows it, and takes calls"),
                (_, true) => {
                    let hint = handle.held().and_then(|held| held.hint).unwrap_or_default();
                    format!("{version} knows it, and is held: {hint}")
                }
                _ => format!("{version} knows it, and `palisade enable {id}@{version}` has it take calls"),
            },
        };
        format!(
            "{there}; `palisade state export {id}` and then `palisade state reset {id}` let one that does not begin anew"
        )
    }

    /// A registry of these.
    #[must_use]
    pub fn new(handles: Vec<Handle>, rejected: Vec<Rejected>) -> Self {
        let mut registry = Self { plugins: BTreeMap::new(), rejected };
        for handle in handles {
            registry.put(handle);
        }
        registry
    }

    /// Takes one in, in place of another of the same id and version.
    pub fn put(&mut self, handle: Handle) {
        self.plugins.entry(handle.id().clone()).or_default().insert(handle.version().clone(), handle);
    }

    /// Takes one out.
    pub fn take(&mut self, id: &PluginId, version: &Version) -> Option<Handle> {
        let versions = self.plugins.get_mut(id)?;
        let taken = versions.remove(version);
        if versions.is_empty() {
            self.plugins.remove(id);
        }
        taken
    }

    /// The versions of an id that there are, the lowest first.
    pub fn versions(&self, id: &PluginId) -> impl Iterator<Item = (&Version, &Handle)> {
        self.plugins.get(id).into_iter().flatten()
    }

    /// The plugin that a call with `id` and `specifier` is for: of the versions that fit, the highest that is enabled and waits for nobody's
    /// consent, and a deprecated one only if no other does.
    ///
    /// # Errors
    /// `plugin_not_found`, `version_not_found`, `unavailable` where what fits is disabled, `consent_required` where what it asks for has
    /// not been decided, `invalid_params` for a specifier that is none.
    pub fn find(&self, id: &str, specifier: Option<&str>) -> Result<&Handle, ErrorBody> {
        let versions = self.plugins.get(id).ok_or_else(|| self.unknown(id))?;
        // The usual case needs no parsing.
        if let (None, 1, Some(handle)) = (specifier, versions.len(), versions.values().next())
            && handle.is_in_use()
        {
            return Ok(handle);
        }
        self.choose(id, versions, specifier, true)
    }

    /// The same for an operator, who also sees what is disabled; an enabled version that fits goes before. A whole version means just that
    /// one: what concerns one version must not come to another.
    ///
    /// # Errors
    /// As [`Registry::find`], but for `unavailable` and `consent_required`.
    pub fn find_any(&self, id: &str, specifier: Option<&str>) -> Result<&Handle, ErrorBody> {
        let versions = self.plugins.get(id).ok_or_else(|| self.unknown(id))?;
        let whole = specifier.and_then(|text| Version::parse(text).ok());
        if let Some(whole) = whole {
            let lost = || self.lost(id, Some(&Specifier::exactly(&whole)));
            return versions.get(&whole).ok_or_else(|| lost().unwrap_or_else(|| not_there(id, &whole, versions)));
        }
        self.choose(id, versions, specifier, true).or_else(|_| self.choose(id, versions, specifier, false))
    }

    fn choose<'a>(
        &self,
        id: &str,
        versions: &'a BTreeMap<Version, Handle>,
        specifier: Option<&str>,
        enabled: bool,
    ) -> Result<&'a Handle, ErrorBody> {
        let there = || versions.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let specifier = match specifier {
            None => Specifier::any(),
            Some(text) => Specifier::parse(text).map_err(|error| {
                let hint = format!("write it as in {id}@1.2.3 or {id}@^1.2; there is {}", there());
                ErrorBody::new(ErrorCode::InvalidParams, format!("the version {}: {error}", quoted(text)))
                    .with_hint(hint)
            })?,
        };
        let usable = versions.iter().filter(|(_, handle)| handle.is_in_use() || !enabled).map(|(version, _)| version);
        let is_last = |version: &Version| versions.get(version).is_some_and(|handle| handle.deprecated().is_some());
        if let Some(found) = specifier.highest_but(usable, is_last).and_then(|version| versions.get(version)) {
            return Ok(found);
        }
        let misconfigured = versions
            .iter()
            .filter(|(_, handle)| handle.is_enabled() && !handle.is_held() && !handle.awaits_consent())
            .map(|(version, _)| version);
        if let Some(handle) = specifier.highest(misconfigured).and_then(|version| versions.get(version))
            && let Some(why) = handle.blueprint().misconfigured()
        {
            let message = format!("{id} {} takes no calls: {why}", handle.version());
            return Err(ErrorBody::new(ErrorCode::ConfigurationInvalid, message).with_hint(format!(
                "`palisade config {id}@{}` shows it, and `palisade config {id} KEY=VALUE` corrects it",
                handle.version()
            )));
        }
        let awaiting =
            versions.iter().filter(|(_, handle)| handle.is_enabled() && !handle.is_held()).map(|(version, _)| version);
        if let Some(handle) = specifier.highest(awaiting).and_then(|version| versions.get(version)) {
            let hint = format!("`palisade grant {id}` shows what it asks for, and why, and asks you");
            let error = ErrorBody::new(ErrorCode::ConsentRequired, handle.blueprint().awaits());
            return Err(error.with_details(handle.blueprint().asked()).with_hint(hint));
        }
        let held =
            versions.iter().filter(|(_, handle)| handle.is_enabled() && handle.is_held()).map(|(version, _)| version);
        if let Some(held) = specifier.highest(held).and_then(|version| versions.get(version)?.held()) {
            return Err(held);
        }
        if let Some(disabled) = specifier.highest(versions.keys()) {
            let message = format!("{id} {disabled} is disabled");
            let hint = format!("`palisade enable {id}@{disabled}` lets it take calls again");
            let error = ErrorBody::new(ErrorCode::Unavailable, message).with_hint(hint);
            return Err(ErrorBody { retryable: false, ..error });
        }
        if let Some(lost) = self.lost(id, Some(&specifier)) {
            return Err(lost);
        }
        let wanted = specifier.to_string();
        Err(ErrorBody::new(ErrorCode::VersionNotFound, format!("no version of {id} fits {wanted}"))
            .with_hint(format!("there is {}", there())))
    }

    /// What is said of an id of which an installed version is there by its record alone.
    fn lost(&self, id: &str, specifier: Option<&Specifier>) -> Option<ErrorBody> {
        let lost = self.rejected.iter().filter_map(|rejected| Some((rejected.installed()?, rejected)));
        let mut lost = lost.filter(|((other, version), _)| {
            other.as_str() == id
                && specifier.is_none_or(|specifier| specifier.matches(version))
                && self.plugins.get(other).is_none_or(|versions| !versions.contains_key(version))
        });
        let ((_, version), Rejected { path, reason, unseen, .. }) = lost.next()?;
        let message = format!("{id} {version} is installed and cannot be used: {} {reason}", path.display());
        let hint = match unseen {
            true => "`palisade rescan` looks at it again".to_owned(),
            false => format!("install it again, or `palisade uninstall {id}@={version}` forgets it"),
        };
        let code = if *unseen { ErrorCode::Unavailable } else { ErrorCode::IntegrityFailed };
        Some(ErrorBody::new(code, message).with_hint(hint))
    }

    /// Whether there are installed versions of this id that cannot be used at all.
    #[must_use]
    pub fn is_lost(&self, id: &PluginId) -> bool {
        self.lost(id.as_str(), None).is_some()
    }

    /// Whether it was said why this installed version cannot be used; from now on it is not any more.
    pub fn forgive(&mut self, id: &PluginId, version: &Version) -> bool {
        let before = self.rejected.len();
        self.rejected.retain(|one| one.installed().is_none_or(|(other, its)| other != *id || its != *version));
        self.rejected.len() < before
    }

    fn unknown(&self, id: &str) -> ErrorBody {
        if id == SUPERVISOR_ID {
            let message = format!("`{id}` is the daemon itself, and no plugin");
            return ErrorBody::new(ErrorCode::PluginNotFound, message).with_hint(
                "`palisade status` without a name shows the daemon, `palisade doctor` what is wrong with it",
            );
        }
        let rejected = self.rejected.iter().find(|rejected| rejected.path.file_name().is_some_and(|name| name == id));
        if let Some(rejected) = rejected {
            let message = format!("the package {} cannot be used: {}", rejected.path.display(), rejected.reason);
            return ErrorBody::new(ErrorCode::ConfigurationInvalid, message)
                .with_hint("correct it; `palisade rescan` looks at it again");
        }
        if let Some(lost) = self.lost(id, None) {
            return lost;
        }
        let error = ErrorBody::new(ErrorCode::PluginNotFound, format!("there is no plugin {}", quoted(id)));
        match crate::model::nearest::nearest(id, self.plugins.keys().map(PluginId::as_str)) {
            Some(near) => error.with_hint(format!("did you mean {near:?}?")),
            None => error.with_hint("`palisade list` lists those there are"),
        }
    }

    /// All of them, by id and version.
    pub fn all(&self) -> impl Iterator<Item = &Handle> {
        self.plugins.values().flat_map(BTreeMap::values)
    }

    /// The versions that go together with this one, of which the registry need not know yet.
    ///
    /// # Errors
    /// [`Unresolvable`], with the way to what is missing or in conflict.
    pub fn resolve(&self, manifest: &Manifest) -> Result<BTreeMap<PluginId, Version>, Unresolvable> {
        if manifest.dependencies.is_empty() {
            return Ok(BTreeMap::from([(manifest.id.clone(), manifest.version.clone())]));
        }
        let mut offers = Offers::new();
        let takes_calls = |handle: &&Handle| handle.is_enabled() && !handle.is_held();
        let enabled = self.all().filter(takes_calls).map(|handle| &handle.blueprint().manifest);
        for Manifest { id, version, dependencies, .. } in enabled.filter(|other| other.id != manifest.id) {
            offers.entry(id).or_default().insert(version, dependencies);
        }
        // Its other versions are none that it could go together with.
        offers.insert(&manifest.id, BTreeMap::from([(&manifest.version, &manifest.dependencies)]));
        let exactly = Specifier::exactly(&manifest.version);
        resolution::resolve(&offers, &BTreeMap::from([(manifest.id.clone(), exactly)]))
    }

    /// What the plugin of this manifest needs, near or far, and cannot have of what takes calls: a sentence, with the way to it. What is
    /// optional it does without.
    #[must_use]
    pub fn lacking(&self, manifest: &Manifest) -> Option<String> {
        let required = |needs: &Needs| -> Needs {
            needs.iter().filter(|(_, need)| !need.optional).map(|(id, need)| (id.clone(), need.clone())).collect()
        };
        // Only what can be reached has a say in it, and of its own versions this one.
        let (mut reached, mut open) = (BTreeSet::from([&manifest.id]), vec![&manifest.dependencies]);
        let (mut there, mut unused) =
            (vec![(&manifest.id, &manifest.version, required(&manifest.dependencies))], Vec::new());
        while let Some(needs) = open.pop() {
            for (id, _) in needs.iter().filter(|(_, need)| !need.optional) {
                if !reached.insert(id) {
                    continue;
                }
                for (version, handle) in self.versions(id) {
                    if handle.is_in_use() {
                        let needs = &handle.blueprint().manifest.dependencies;
                        there.push((handle.id(), version, required(needs)));
                        open.push(needs);
                    } else {
                        let why = match (handle.is_enabled(), handle.awaits_consent()) {
                            (false, _) => "is disabled",
                            _ if handle.is_held() => "is an update that waits",
                            (true, true) => "waits for its operator's consent",
                            (true, false) => "is not configured as its plugin.json has it",
                        };
                        unused.push(format!("{id} {version} {why}"));
                    }
                }
            }
        }
        let mut offers = Offers::new();
        for (id, version, needs) in &there {
            offers.entry(id).or_default().insert(version, needs);
        }
        let exactly = Specifier::exactly(&manifest.version);
        let unmet = resolution::resolve(&offers, &BTreeMap::from([(manifest.id.clone(), exactly)])).err()?;
        unused.truncate(UNUSED_TOLD_MAX);
        let reasons = [unmet.to_string()].into_iter().chain(unused);
        Some(reasons.collect::<Vec<_>>().join("; "))
    }

    /// Folders that look like packages and cannot be used.
    #[must_use]
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// Says anew which those are.
    pub fn set_rejected(&mut self, rejected: Vec<Rejected>) {
        self.rejected = rejected;
    }

    /// Who needs whom, by id, as far as both are here.
    fn graph(&self) -> Graph {
        let mut graph = Graph::new();
        for handle in self.all() {
            let needed = handle.blueprint().manifest.dependencies.keys().filter(|id| self.plugins.contains_key(*id));
            graph.entry(handle.id().clone()).or_default().extend(needed.cloned());
        }
        graph
    }

    /// Groups of plugins in the order in which they stop: each before those that it depends on.
    #[must_use]
    pub fn stop_order(&self) -> Vec<Vec<Handle>> {
        let all_at_once = || vec![self.plugins.keys().cloned().collect()];
        // A cycle has no order, and must not keep the daemon from stopping.
        let order: Vec<Vec<PluginId>> = dependency::stop_order(&self.graph()).unwrap_or_else(|_| all_at_once());
        let handles = |group: Vec<PluginId>| {
            group.iter().filter_map(|id| self.plugins.get(id)).flat_map(BTreeMap::values).cloned().collect()
        };
        order.into_iter().map(handles).collect()
    }

    /// Groups of plugins in the order in which they start, the reverse.
    #[must_use]
    pub fn start_order(&self) -> Vec<Vec<Handle>> {
        let mut order = self.stop_order();
        order.reverse();
        order
    }
}
