//! `palisade pack`: a package in one file, the same bytes for the same package. It needs no daemon; what is refused is what the daemon
//! would refuse.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use palisade_protocol::ErrorCode;
use palisaded::archive::{self, PackError, Packed};
use palisaded::model::manifest::Manifest;
use palisaded::registry;
use palisaded::trust::tree::{LEFT_OUT, TreeError};
use serde_json::json;

use crate::arguments::Pack;
use crate::failure::Failure;
use crate::output::print;
use crate::screen::{Label, Screen, harmless};

/// `palisade pack [FOLDER]`
pub(crate) fn pack(pack: &Pack, screen: &Screen, as_json: bool) -> Result<(), Failure> {
    let folder = &pack.folder;
    let invalid = |why: String| Failure::code(ErrorCode::ConfigurationInvalid, why);
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(Failure::usage(format!("{} is no folder", folder.display()))),
        Err(error) => return Err(Failure::usage(format!("{} cannot be read: {error}", folder.display()))),
    }
    let found = registry::read(folder).map_err(invalid)?;
    let manifest = &found.manifest;
    let name = format!("{}-{}", manifest.id, manifest.version);
    let out = pack.out.clone().unwrap_or_else(|| PathBuf::from(format!("{name}.tar.zst")));
    let gathered = pack.program.as_deref().map(|program| Gathered::gather(folder, manifest, program)).transpose()?;
    let source = gathered.as_ref().map_or(folder.as_path(), |gathered| gathered.path.as_path());
    if gathered.is_none() {
        // What is left out is of interest where all of the folder is taken.
        for warning in &found.warnings {
            let _ = screen.error_line(&screen.labelled(Label::Warning, &harmless(warning)));
        }
        if is_packed_with(folder, &out) {
            let message = format!("{} would lie in the package itself, and be a part of the next one", out.display());
            return Err(Failure::usage(message).with_hint("name another place with --out"));
        }
    }
    let entry = manifest.entry_point.as_str();
    if !source.join(entry).is_file() {
        let message = format!("the entry point {entry} is not in {}", folder.display());
        return Err(invalid(message).with_hint("build it; where it lies elsewhere, say where with --program"));
    }
    let Written { packed, bytes } = write(source, &name, &out)?;
    let Packed { digest, entries, bytes: unpacked } = packed;
    let out = std::path::absolute(&out).unwrap_or(out);
    if as_json {
        let told = json!({
            "archive": out.to_string_lossy(), "id": manifest.id.as_str(), "version": manifest.version, "bytes": bytes,
            "unpacked_bytes": unpacked, "entries": entries, "digest": digest,
        });
        return print(&format!("{told}\n"));
    }
    print(&format!("{}, {bytes} bytes, sha256 {digest}\n", harmless(&out.to_string_lossy())))
}

/// A package that lies nowhere as such: a manifest, a program that was built elsewhere, an icon. Gone with this.
struct Gathered {
    path: PathBuf,
}

impl Gathered {
    fn gather(folder: &Path, manifest: &Manifest, program: &Path) -> Result<Self, Failure> {
        let path = std::env::temp_dir().join(format!("palisade-pack-{}", std::process::id()));
        let made = DirBuilder::new().mode(0o700).create(&path);
        made.map_err(|error| Failure::usage(format!("{} cannot be made: {error}", path.display())))?;
        let gathered = Self { path };
        let entry = manifest.entry_point.as_str();
        gathered.put(&folder.join("plugin.json"), "plugin.json")?;
        gathered.put(program, entry)?;
        if let Some(icon) = &manifest.about.icon {
            gathered.put(&folder.join(icon.as_str()), icon.as_str())?;
        }
        Ok(gathered)
    }

    fn put(&self, from: &Path, name: &str) -> Result<(), Failure> {
        let to = self.path.join(name);
        // A pipe would be waited for.
        let readable = fs::metadata(from)
            .and_then(|found| if found.is_file() { Ok(()) } else { Err(io::Error::other("it is no file")) });
        let above = || to.parent().map_or(Ok(()), fs::create_dir_all);
        readable
            .and_then(|()| above())
            .and_then(|()| fs::copy(from, &to))
            .map_err(|error| Failure::usage(format!("{} cannot be copied: {error}", from.display())))?;
        Ok(())
    }
}

impl Drop for Gathered {
    fn drop(&mut self) {
        // It is in the folder for what is temporary.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Whether a file of that name would be packed with the folder.
fn is_packed_with(folder: &Path, out: &Path) -> bool {
    let above = out.parent().filter(|above| !above.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let (Ok(folder), Ok(above)) = (fs::canonicalize(folder), fs::canonicalize(above)) else { return false };
    above.strip_prefix(&folder).is_ok_and(|within| within.iter().all(|part| LEFT_OUT.iter().all(|out| part != *out)))
}

/// An archive that was written.
struct Written {
    packed: Packed,
    bytes: u64,
}

/// Writes it beside its place, so that it is there whole or as it was.
fn write(source: &Path, top: &str, out: &Path) -> Result<Written, Failure> {
    let unwritable = |error: &io::Error| Failure::usage(format!("{} cannot be written: {error}", out.display()));
    let mut beside = out.as_os_str().to_owned();
    beside.push(format!(".new-{}", std::process::id()));
    let beside = PathBuf::from(beside);
    let mut file = OpenOptions::new().write(true).create_new(true).open(&beside).map_err(|error| unwritable(&error))?;
    let written = fill(&mut file, source, top).and_then(|written| {
        fs::rename(&beside, out).map_err(|error| unwritable(&error))?;
        Ok(written)
    });
    written.inspect_err(|_| {
        // The first error is the one worth telling.
        let _ = fs::remove_file(&beside);
    })
}

fn fill(file: &mut File, source: &Path, top: &str) -> Result<Written, Failure> {
    let packed = archive::pack(source, top, file).map_err(|error| match &error {
        PackError::Tree(TreeError::Read { .. } | TreeError::Changed { .. }) => Failure::usage(error.to_string()),
        PackError::Write(error) => Failure::output(error),
        _ => Failure::code(ErrorCode::ConfigurationInvalid, error.to_string()),
    })?;
    file.sync_all().map_err(|error| Failure::output(&error))?;
    let bytes = file.metadata().map_err(|error| Failure::output(&error))?.len();
    Ok(Written { packed, bytes })
}
