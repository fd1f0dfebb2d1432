//! How long a plugin waits until what it puts into its state is on the disk, beside appending the same bytes to a file and syncing it.
//!
//! The whole way of a put: from the plugin to the daemon, into the file, onto the disk, and back; the plugin takes the times. The keys are
//! the same again and again, as a plugin has them that keeps how far it came.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, anyhow, ensure};
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::{Entry, Package};
use serde_json::json;

use crate::floor::plugin_name;
use crate::measure::{Effort, Place, at, median};
use crate::subject::plugin_binary;
use crate::table::{Row, Target};

pub(crate) const NAMES: &[&str] = &["state_put_p50"];

/// So much is put at once.
const BYTES: usize = 1024;

/// Puts in one turn; floor and daemon take so many turns in a round, as how long a disk takes varies.
const PUTS: usize = 25;
const TURNS: usize = 8;

pub(crate) fn run(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let folder = tempfile::Builder::new().prefix("palisade-bench-").tempdir().context("a folder")?;
    let (ours, floor) = at(Place::Anywhere, || {
        let (mut ours, mut floor) = (Vec::new(), Vec::new());
        let name = plugin_name(0);
        let daemon = if effort.floors_only { None } else { Some(daemon(&name)?) };
        // On the disk that the state lies on.
        let place = daemon.as_ref().map_or(folder.path(), Daemon::path).join("appended");
        for _ in 0..effort.rounds * TURNS {
            floor.extend(append(&place)?);
            let Some(daemon) = &daemon else { continue };
            let taken = daemon.agent().call(&name, "keep", &json!({"bytes": BYTES, "times": PUTS}))?;
            let taken: Vec<f64> = serde_json::from_value(taken).context("times")?;
            ensure!(taken.len() == PUTS, "each put has its time");
            ours.extend(taken);
        }
        if let Some(daemon) = daemon {
            daemon.stop_and_expect_no_orphans();
        }
        Ok((ours, floor))
    })?;
    Ok(vec![Row {
        name: NAMES[0].into(),
        value: median(&ours),
        unit: "µs",
        floor: Some(median(&floor)),
        target: Target::RatioAtMost(2.0),
    }])
}

fn daemon(name: &str) -> anyhow::Result<Daemon> {
    let package = Package::new(name, Entry::File(plugin_binary())).environment("BENCH_ID", name);
    Daemon::try_start(DaemonOptions::with([package]).quiet())
        .map_err(|failed| anyhow!("palisaded did not come up ({})", failed.status))
}

/// Appends as often as a plugin puts in one turn, and syncs each time.
fn append(path: &Path) -> anyhow::Result<Vec<f64>> {
    let mut file = File::options().create(true).append(true).open(path).context("a file to append to")?;
    let bytes = [b'v'; BYTES];
    let mut taken = Vec::with_capacity(PUTS);
    for _ in 0..PUTS {
        let begun = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        taken.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(taken)
}
