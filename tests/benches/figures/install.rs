//! How long it takes to install a package of ten mebibytes, beside copying, hashing and syncing the same bytes.
//!
//! Everything is checked on the way: the package's checksum, its program, and what it asks for, which nobody is asked about. Each round
//! installs a version with other contents, so that nothing of it is in the store, and removes it again without a trace.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, anyhow, ensure};
use palisade_protocol::SUPERVISOR_ID;
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisaded::trust::tree;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::measure::{Effort, Place, at, median};
use crate::table::{Row, Target};

pub(crate) const NAMES: &[&str] = &["install_10MiB"];

/// Of all files together but the manifest.
const PACKAGE_BYTES: usize = 10 << 20;

/// The files beside the manifest, and which part of what the program leaves each is: so many sixteenths.
const FILES: [(&str, usize); 5] =
    [("README.md", 1), ("model.bin", 8), ("table.csv", 4), ("words.txt", 2), ("icon.svg", 1)];

/// An installation is short, and how long a disk takes varies: so many of each in one round.
const ROUNDS: usize = 4;

/// The program: one of the host's that needs libraries.
const PROGRAM: &str = "/usr/bin/env";

const CONFIGURATION: &str = "[trust]\npolicy = \"checksum\"\n[permissions]\npolicy = \"deny\"\n";

pub(crate) fn run(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let folder = tempfile::Builder::new().prefix("palisade-bench-").tempdir().context("a folder")?;
    let (package, copied) = (folder.path().join("package"), folder.path().join("copy"));
    let (ours, floor) = at(Place::Anywhere, || {
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        let daemon = if effort.floors_only { None } else { Some(daemon()?) };
        for round in 0..effort.rounds * ROUNDS {
            write(&package, round).context("writing a package")?;
            floor.push(copy(&package, &copied)?);
            let Some(daemon) = &daemon else { continue };
            let mut agent = daemon.agent();
            let begun = Instant::now();
            let installed = agent.call(SUPERVISOR_ID, "install", &json!({ "path": package }))?;
            ours.push(begun.elapsed().as_secs_f64() * 1e3);
            ensure!(installed["was_there"] == false, "it is another package each time");
            let removed = agent.call(SUPERVISOR_ID, "uninstall", &json!({"plugin": "large", "purge": true}))?;
            ensure!(removed["purged"] == true, "nothing of it is left");
        }
        if let Some(daemon) = daemon {
            daemon.stop_and_expect_no_orphans();
        }
        Ok((ours, floor))
    })?;
    Ok(vec![Row {
        name: NAMES[0].into(),
        value: median(&ours),
        unit: "ms",
        floor: Some(median(&floor)),
        target: Target::RatioAtMost(2.0),
    }])
}

fn daemon() -> anyhow::Result<Daemon> {
    Daemon::try_start(DaemonOptions::with([]).configuration(CONFIGURATION).quiet())
        .map_err(|failed| anyhow!("palisaded did not come up ({})", failed.status))
}

/// Writes the package of that round, on the disk too so that nothing of it is left to be written.
fn write(folder: &Path, round: usize) -> anyhow::Result<()> {
    fs::create_dir_all(folder)?;
    let mut program = fs::read(PROGRAM).with_context(|| format!("reading {PROGRAM}"))?;
    // What comes after what is loaded is nobody's, and makes it another program each time.
    write!(program, "{round}")?;
    let rest = PACKAGE_BYTES.checked_sub(program.len()).context("the program is too large")?;
    fs::write(folder.join("main"), &program)?;
    fs::set_permissions(folder.join("main"), fs::Permissions::from_mode(0o755))?;
    for (name, part) in FILES {
        let length = rest.div_ceil(16) * part;
        let mut contents = Vec::with_capacity(length + 128);
        while contents.len() < length {
            writeln!(contents, "{name} of {round} at {} {}", contents.len(), "x".repeat(64))?;
        }
        contents.truncate(length);
        fs::write(folder.join(name), &contents)?;
    }
    let mut manifest = json!({
        "id": "large", "name": "Large", "version": format!("1.0.{round}"), "entry_point": "main",
        "description": "One of ten mebibytes.", "license": "MIT", "tags": ["bench"], "kind": "tool",
        "actions": [
            {"name": "first", "description": "Does the first with a text."},
            {"name": "second", "description": "Does the second with a text."},
        ],
        "permissions_required": [
            {"permission": "execute_code", "reason": "it runs a program"},
            {"permission": "file_read", "reason": "it reads its tables"},
        ],
    });
    let manifest_path = folder.join("plugin.json");
    fs::write(&manifest_path, manifest.to_string())?;
    manifest["checksum"] = json!({"algorithm": "sha256", "value": tree::checksum(folder)?});
    fs::write(&manifest_path, serde_json::to_vec_pretty(&manifest)?)?;
    let mut bytes = 0;
    for path in files(folder)? {
        let file = File::open(&path)?;
        file.sync_all()?;
        bytes += file.metadata()?.len();
    }
    ensure!(PACKAGE_BYTES as u64 <= bytes, "the package is too small");
    Ok(())
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files: Vec<_> =
        fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    files.sort();
    Ok(files)
}

/// Copies the files of the folder, hashes what is copied, and has each and the folder on the disk when it returns; in ms.
fn copy(from: &Path, to: &Path) -> anyhow::Result<f64> {
    let begun = Instant::now();
    fs::create_dir(to).context("a folder")?;
    let mut buffer = vec![0; 128 << 10];
    for path in files(from)? {
        let mut source = File::open(&path).with_context(|| format!("opening {}", path.display()))?;
        let name = path.file_name().context("a file has a name")?;
        let mut target = File::create(to.join(name)).context("a file")?;
        let mut hasher = Sha256::new();
        loop {
            let count = source.read(&mut buffer).context("reading")?;
            if count == 0 {
                break;
            }
            hasher.update(&buffer[..count]);
            target.write_all(&buffer[..count]).context("writing")?;
        }
        std::hint::black_box(hasher.finalize());
        target.sync_all().context("syncing a file")?;
    }
    File::open(to).and_then(|folder| folder.sync_all()).context("syncing a folder")?;
    let took = begun.elapsed().as_secs_f64() * 1e3;
    fs::remove_dir_all(to).context("removing the copy")?;
    Ok(took)
}
