//! What the daemon and idle plugins take.

use anyhow::Context;
use palisade_tests::process::{Memory, descendants, memory};

use crate::measure::{Effort, Place, at};
use crate::subject::Subject;
use crate::table::{Row, Target};

pub(crate) const NAMES: &[&str] = &["daemon_private_kib", "per_plugin_kib", "plugin_pss_kib", "launcher_pss_kib"];

#[expect(clippy::cast_precision_loss, reason = "figures")]
pub(crate) fn run(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut row = |name: &str, value, limit| {
        rows.push(Row { name: name.into(), value, unit: "KiB", floor: None, target: Target::AtMost(limit) });
    };
    if effort.floors_only {
        return Ok(rows);
    }
    at(Place::Anywhere, || {
        let empty = Subject::start(0)?;
        let alone = of(empty.pid())?.private as f64;
        empty.stop();
        row("daemon_private_kib", alone, 10_240.0);

        let crowded = Subject::start(effort.many)?;
        let before = of(crowded.pid())?.private as f64;
        crowded.start_all()?;
        let after = of(crowded.pid())?.private as f64;
        row("per_plugin_kib", (after - before.min(alone)) / effort.many as f64, 32.0);
        crowded.stop();

        let hundred = Subject::start(effort.hundred)?;
        hundred.start_all()?;
        let (mut all, mut ours) = (0, 0);
        for process in descendants(hundred.pid()) {
            let pss = of(process.pid)?.pss;
            all += pss;
            // Whatever descends from the daemon and is not the plugin itself.
            let name = std::fs::read_to_string(format!("/proc/{}/environ", process.pid)).unwrap_or_default();
            if !name.contains("BENCH_ID=") {
                ours += pss;
            }
        }
        row("plugin_pss_kib", all as f64 / effort.hundred as f64, 1800.0);
        row("launcher_pss_kib", ours as f64 / effort.hundred as f64, 250.0);
        hundred.stop();
        Ok(())
    })?;
    Ok(rows)
}

fn of(pid: u32) -> anyhow::Result<Memory> {
    memory(pid).with_context(|| format!("the memory of process {pid}"))
}
