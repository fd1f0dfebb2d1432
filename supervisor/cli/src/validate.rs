//! `palisade validate`: everything that is wrong with a package, without a daemon.
//!
//! The manifest is read by the daemon's own parser, the entry point by what the daemon's store has for that, so both say the same.
//! With `--run` the entry point is executed, as this user and without a sandbox, and asked what actions it has; nothing else
//! executes anything.

use std::fs::{self, File, Metadata};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use palisade_protocol::{ActionInfo, ErrorCode};
use palisaded::model::check::Checks;
use palisaded::model::drift::drift;
use palisaded::model::manifest::{MANIFEST_BYTES_MAX, Manifest, ManifestError};
use palisaded::model::trust::{Policy, Settings};
use palisaded::store::Program;
use palisaded::trust::tree::{self, LEFT_OUT, PACKAGE_BYTES_MAX, PACKAGE_FILES_MAX};
use palisaded::trust::{Candidate, Held, Rules};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::io::AsyncReadExt;

use crate::failure::Failure;
use crate::output::print;
use crate::screen::{Label, Screen, harmless};

/// As deep as the store copies.
const DEPTH_MAX: usize = 32;

/// So many problems of files are named.
const PROBLEMS_MAX: usize = 100;

/// A program has so long to say what actions it has.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

/// And so many bytes.
const ANSWER_BYTES_MAX: u64 = 8 << 20;

const MANIFEST: &str = "plugin.json";

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Severity {
    Error,
    Warning,
}

/// Something that is wrong with the package.
#[derive(Debug, Serialize)]
struct Problem {
    severity: Severity,
    /// Which file, beneath the package's folder.
    file: String,
    /// The place in it, if it is the manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    message: String,
}

/// What was found so far.
#[derive(Debug, Default)]
struct Report {
    problems: Vec<Problem>,
    left_out: usize,
}

impl Report {
    fn add(&mut self, severity: Severity, file: &Path, path: Option<String>, message: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            let file = file.to_string_lossy().into_owned();
            self.problems.push(Problem { severity, file, path, message: message.into() });
        } else {
            self.left_out += 1;
        }
    }

    fn error(&mut self, file: &Path, message: impl Into<String>) {
        self.add(Severity::Error, file, None, message);
    }

    fn warn(&mut self, file: &Path, message: impl Into<String>) {
        self.add(Severity::Warning, file, None, message);
    }
}

/// `palisade validate`
pub(crate) fn validate(
    folder: &Path,
    program: Option<&Path>,
    run: bool,
    screen: &Screen,
    as_json: bool,
) -> Result<u8, Failure> {
    match fs::metadata(folder) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Err(Failure::usage(format!("{} is no folder", folder.display()))),
        Err(error) => return Err(Failure::usage(format!("{} cannot be read: {error}", folder.display()))),
    }
    // As `pack` takes it, wherever a link leads.
    let program = program.map(|program| {
        let unreadable = |error| Failure::usage(format!("{} cannot be read: {error}", program.display()));
        fs::canonicalize(program).map_err(unreadable)
    });
    let program = program.transpose()?;
    let mut report = Report::default();
    let read = look_at_manifest(folder, &mut report);
    if let Some((manifest, text)) = read.as_ref().filter(|_| program.is_none()) {
        look_at_checksum(folder, manifest, text, &mut report);
    }
    let manifest = read.map(|(manifest, _)| manifest);
    // What else lies in the folder is no part of a package whose program lies elsewhere.
    if program.is_none() {
        look_at_files(folder, &mut report);
    }
    if let Some(manifest) = &manifest {
        let program = program.unwrap_or_else(|| folder.join(manifest.entry_point.as_str()));
        let executable = look_at_entry_point(&program, manifest, &mut report);
        look_at_icon(folder, manifest, &mut report);
        if run && executable {
            look_at_program(&program, manifest, &mut report)?;
        }
    }
    let failed = report.left_out > 0 || report.problems.iter().any(|problem| problem.severity == Severity::Error);
    if as_json {
        let document = json!({
            "folder": folder.to_string_lossy(),
            "id": manifest.as_ref().map(|manifest| manifest.id.as_str()),
            "version": manifest.as_ref().map(|manifest| manifest.version.to_string()),
            "valid": !failed,
            "problems": report.problems,
            "left_out": report.left_out,
        });
        print(&format!("{document}\n"))?;
    } else {
        for problem in &report.problems {
            let label = if problem.severity == Severity::Error { Label::Error } else { Label::Warning };
            let text = harmless(&format!("{}: {}", problem.file, problem.message));
            let _ = screen.error_line(&screen.labelled(label, &text));
        }
        if report.left_out > 0 {
            let text = format!("there are {} more problems than these", report.left_out);
            let _ = screen.error_line(&screen.labelled(Label::Error, &text));
        }
    }
    Ok(if failed { ErrorCode::ConfigurationInvalid.exit_status() } else { 0 })
}

/// Opens a file that is one: a link is not followed, and a pipe not waited for.
fn open(path: &Path) -> Result<(File, Metadata), String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, Mode::empty()).map_err(std::io::Error::from);
    let file = opened.map(File::from).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            "is not in the package".to_owned()
        } else if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) {
            "is a symbolic link; a package holds files and folders alone".to_owned()
        } else {
            format!("cannot be opened: {error}")
        }
    })?;
    let metadata = file.metadata().map_err(|error| format!("cannot be read: {error}"))?;
    if metadata.is_file() { Ok((file, metadata)) } else { Err("is not a file".to_owned()) }
}

/// Whether what is in the package is what its manifest says was signed. The daemon says the same, and where a checksum is required it does not use
/// the package.
fn look_at_checksum(folder: &Path, manifest: &Manifest, bytes: &[u8], report: &mut Report) {
    // What cannot be read is told by what looks at the files.
    let (Some(_), Ok(checksum)) = (&manifest.checksum, tree::checksum(folder)) else { return };
    let candidate = Candidate { manifest, bytes, checksum: &checksum };
    let rules = Rules::open(Settings::default(), Checks::default());
    if let Ok(Held { warning: Some(warning), .. }) = rules.check(candidate, Policy::None, SystemTime::now()) {
        report.add(Severity::Warning, Path::new(MANIFEST), Some("checksum".to_owned()), warning);
    }
}

fn look_at_manifest(folder: &Path, report: &mut Report) -> Option<(Manifest, Vec<u8>)> {
    let name = Path::new(MANIFEST);
    let (file, metadata) = open(&folder.join(name)).map_err(|what| report.error(name, what)).ok()?;
    let mut bytes = Vec::new();
    let parsed = match MANIFEST_BYTES_MAX as u64 {
        most if most < metadata.len() => Err(ManifestError::TooLarge),
        _ => {
            let read = file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
            read.map_err(|error| report.error(name, format!("cannot be read: {error}"))).ok()?;
            Manifest::parse(&bytes)
        }
    };
    match parsed {
        Ok((manifest, warnings)) => {
            for warning in warnings {
                report.add(Severity::Warning, name, Some(warning.path.clone()), warning.to_string());
            }
            Some((manifest, bytes))
        }
        Err(ManifestError::Fields { errors }) => {
            for error in errors {
                report.add(Severity::Error, name, error.path().map(str::to_owned), error.to_string());
            }
            None
        }
        Err(error) => {
            report.error(name, error.to_string());
            None
        }
    }
}

/// Every file of the package, as the store would copy it.
fn look_at_files(folder: &Path, report: &mut Report) {
    let (mut entries, mut bytes) = (0_usize, 0_u64);
    let mut folders = vec![(PathBuf::new(), 0_usize)];
    while let Some((relative, depth)) = folders.pop() {
        let names: std::io::Result<Vec<_>> = fs::read_dir(folder.join(&relative)).and_then(|list| {
            // One more than allowed, which is enough to know.
            list.take(PACKAGE_FILES_MAX + 1).map(|entry| entry.map(|entry| entry.file_name())).collect()
        });
        let mut names = match names {
            Ok(names) => names,
            Err(error) => {
                report.error(&relative, format!("cannot be read: {error}"));
                continue;
            }
        };
        names.sort();
        for name in names {
            let relative = relative.join(&name);
            if LEFT_OUT.iter().any(|left_out| name == *left_out) {
                report.warn(&relative, "is left out of the package; what it needs has to lie elsewhere");
                continue;
            }
            entries += 1;
            if entries > PACKAGE_FILES_MAX {
                report.error(Path::new("."), format!("holds more than {PACKAGE_FILES_MAX} files and folders"));
                return;
            }
            let metadata = match fs::symlink_metadata(folder.join(&relative)) {
                Ok(metadata) => metadata,
                Err(error) => {
                    report.error(&relative, format!("cannot be read: {error}"));
                    continue;
                }
            };
            if metadata.is_dir() && depth + 1 >= DEPTH_MAX {
                report.error(&relative, format!("lies deeper than {DEPTH_MAX} folders"));
            } else if metadata.is_dir() {
                folders.push((relative, depth + 1));
            } else if metadata.is_file() {
                bytes = bytes.saturating_add(metadata.len());
                look_at_file(folder, &relative, &metadata, report);
            } else if metadata.is_symlink() {
                report.error(&relative, "is a symbolic link; a package holds files and folders alone");
            } else {
                report.error(&relative, "is a device, socket or pipe; a package holds files and folders alone");
            }
        }
    }
    if bytes > PACKAGE_BYTES_MAX {
        report.error(Path::new("."), format!("holds more than {} MiB", PACKAGE_BYTES_MAX >> 20));
    }
}

fn look_at_file(folder: &Path, relative: &Path, metadata: &Metadata, report: &mut Report) {
    let mode = metadata.permissions().mode();
    if mode & 0o6000 != 0 {
        report.warn(relative, "has a setuid or setgid bit, which no copy of it has");
    }
    if mode & 0o002 != 0 {
        report.warn(relative, "may be written by everybody on this host");
    }
    if std::str::from_utf8(relative.as_os_str().as_bytes()).is_err() {
        report.warn(relative, "has a name that is not UTF-8");
    }
    if let Err(error) = File::open(folder.join(relative)) {
        report.error(relative, format!("cannot be read: {error}"));
    }
}

/// Whether it can be executed.
fn look_at_entry_point(program: &Path, manifest: &Manifest, report: &mut Report) -> bool {
    let entry = Path::new(manifest.entry_point.as_str());
    let place = || Some("entry_point".to_owned());
    let refuse = |report: &mut Report, what: String| {
        report.add(Severity::Error, entry, place(), format!("the entry point {what}"));
    };
    let (mut file, metadata) = match open(program) {
        Ok(opened) => opened,
        Err(what) => {
            refuse(report, what);
            return false;
        }
    };
    if let Some(runtime) = &manifest.runtime {
        let what = format!(
            "is executed by the runtime {runtime:?}, which the daemon's configuration has; it is not looked into"
        );
        report.add(Severity::Warning, entry, place(), format!("the entry point {what}"));
        return false;
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        refuse(report, format!("is not executable; run `chmod +x {}`", entry.display()));
        return false;
    }
    match Program::read(&mut file) {
        Ok(Program::Script { interpreter, .. }) if !Path::new(&interpreter).exists() => {
            refuse(report, format!("is a script for {interpreter}, which is not on this host"));
            false
        }
        Ok(_) => true,
        Err(what) => {
            refuse(report, what);
            false
        }
    }
}

fn look_at_icon(folder: &Path, manifest: &Manifest, report: &mut Report) {
    if let Some(icon) = &manifest.about.icon
        && let Err(what) = open(&folder.join(icon.as_str()))
    {
        report.add(Severity::Error, Path::new(icon.as_str()), Some("icon".to_owned()), format!("the icon {what}"));
    }
}

/// What a program with the SDK says of itself.
#[derive(Debug, Deserialize)]
struct Described {
    id: String,
    version: String,
    actions: Vec<ActionInfo>,
}

/// Executes the program and holds what it says against the manifest.
fn look_at_program(program: &Path, manifest: &Manifest, report: &mut Report) -> Result<(), Failure> {
    let entry = Path::new(manifest.entry_point.as_str());
    let described: Described = match ask(program)? {
        Ok(described) => described,
        Err(why) => {
            report.warn(
                entry,
                format!("did not say what actions it has ({why}), as programs with the SDK do; they are compared when it is started"),
            );
            return Ok(());
        }
    };
    let name = Path::new(MANIFEST);
    for (field, told, stated) in
        [("id", &described.id, manifest.id.to_string()), ("version", &described.version, manifest.version.to_string())]
    {
        if *told != stated {
            let message = format!("the program has the {field} {told:?}, and the manifest {stated:?}");
            report.add(Severity::Error, name, Some(field.to_owned()), message);
        }
    }
    for difference in drift(&described.actions, manifest) {
        report.add(Severity::Error, name, Some(difference.path()), difference.to_string());
    }
    Ok(())
}

fn ask(program: &Path) -> Result<Result<Described, String>, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::code(ErrorCode::Internal, error.to_string()))?;
    // It may lie in the current folder, and is not to be looked for in PATH.
    let program = std::path::absolute(program).unwrap_or_else(|_| program.to_owned());
    Ok(runtime.block_on(async {
        #[expect(clippy::disallowed_methods, reason = "it was asked for, and is no plugin of a daemon's")]
        let mut command = Command::new(program);
        command.arg("--palisade-describe").env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin");
        // A group of its own, so that what it starts ends with it.
        command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        let mut child =
            command.kill_on_drop(true).spawn().map_err(|error| format!("it cannot be executed: {error}"))?;
        let group = child.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?));
        let mut answer = Vec::new();
        let answered = tokio::time::timeout(ANSWER_WITHIN, async {
            if let Some(output) = child.stdout.take() {
                output.take(ANSWER_BYTES_MAX + 1).read_to_end(&mut answer).await?;
            }
            Ok::<_, std::io::Error>(())
        });
        let answered = answered.await;
        // It has said what it had to say, or has had its time. Until it is waited for, its number is nobody else's.
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        child.wait().await.map_err(|error| error.to_string())?;
        match answered {
            Err(_) => return Err(format!("within {} seconds", ANSWER_WITHIN.as_secs())),
            Ok(Err(error)) => return Err(error.to_string()),
            Ok(Ok(())) => {}
        }
        if answer.len() as u64 > ANSWER_BYTES_MAX {
            return Err(format!("within {} MiB", ANSWER_BYTES_MAX >> 20));
        }
        serde_json::from_slice(&answer).map_err(|_| "its answer to --palisade-describe is none".to_owned())
    }))
}
