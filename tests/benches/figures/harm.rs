//! Plugins that do harm: how fast one is got rid of, and what its neighbour feels.

use std::time::Instant;

use anyhow::{Context, ensure};
use palisade_protocol::SUPERVISOR_ID;
use palisade_tests::command::command;
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::{Entry, Package};
use palisade_tests::wire::Agent;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde_json::json;

use crate::agent::{Line, echo_frame};
use crate::measure::{Effort, Place, at, median, quantile};
use crate::subject::plugin_binary;
use crate::table::{Row, Target};

pub(crate) const KILL: &[&str] = &["kill_tree_p50"];
pub(crate) const NEIGHBOUR: &[&str] =
    &["neighbour_p99", "neighbour_spin_p99", "neighbour_fork_p99", "neighbour_log_p99", "neighbour_memory_p99"];

/// Each kind of harm alone, in the order of the names behind the first; without a kind it is all of them.
const KINDS: [Option<&str>; 5] = [None, Some("spin"), Some("fork"), Some("log"), Some("memory")];

/// Descendants of a killed plugin. The hostile plugin makes two with each call, each in a session of its own, its parent gone.
const DESCENDANTS: usize = 20;

/// What a plugin that does harm may have: enough to hurt with, and small enough to be reached again and again.
const HARM_MEMORY_MIB: u64 = 128;

/// Rounds, and calls in each, of the neighbour: the harm is the same all the time, so more calls show no more.
const CALLS: usize = 2000;

/// From asking for the kill to the answer, which comes when the tree is known to be empty; beside as many processes of one's own that
/// are killed and waited for.
pub(crate) fn kill(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    if effort.floors_only {
        return Ok(Vec::new());
    }
    let (floor, ours) = at(Place::Anywhere, || {
        let daemon = daemon(vec![Package::hostile("hostile", "tame")])?;
        let mut agent = daemon.agent();
        let (mut floor, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..effort.starts {
            agent.call(SUPERVISOR_ID, "start", &json!({"plugin": "hostile"}))?;
            for _ in 0..DESCENDANTS / 2 {
                agent.call("hostile", "double-fork", &json!(null))?;
            }
            let begun = Instant::now();
            agent.call(SUPERVISOR_ID, "stop", &json!({"plugin": "hostile", "force": true}))?;
            ours.push(begun.elapsed().as_secs_f64() * 1e3);
            floor.push(kill_directly()?);
        }
        drop(agent);
        daemon.stop_and_expect_no_orphans();
        Ok((floor, ours))
    })?;
    Ok(vec![Row {
        name: KILL[0].into(),
        value: median(&ours),
        unit: "ms",
        floor: Some(median(&floor)),
        target: Target::AtMost(10.0),
    }])
}

fn kill_directly() -> anyhow::Result<f64> {
    let mut children = (0..=DESCENDANTS)
        .map(|_| command("/bin/sleep").arg("1000").spawn().context("starting a process"))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let begun = Instant::now();
    for child in &mut children {
        child.kill().context("killing a process")?;
    }
    for child in &mut children {
        child.wait().context("waiting for a process")?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// The calls of one plugin, with agent and daemon on its processor, while another one on the other processor does what harm it can.
pub(crate) fn neighbour(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    // What a kind of harm costs alone has no target: it tells where the whole comes from.
    let row = |at: usize, value, floor| Row {
        name: NEIGHBOUR[at].into(),
        value,
        unit: "µs",
        floor: Some(floor),
        target: if at == 0 { Target::RatioAtMost(3.0) } else { Target::None },
    };
    if effort.floors_only {
        return Ok(Vec::new());
    }
    let all = sched_getaffinity(None).context("asking for the affinity")?;
    if all.count() < 2 {
        eprintln!("NOT SHOWN HERE: {}: there is one processor", NEIGHBOUR[0]);
        return Ok(vec![row(0, f64::NAN, f64::NAN)]);
    }
    let (quiet, harmed) = at(Place::OneCore, || {
        let good = Package::new("good", Entry::File(plugin_binary())).environment("BENCH_ID", "good");
        let bad = Package::new("bad", Entry::File(plugin_binary()))
            .environment("BENCH_ID", "bad")
            .with("limits", json!({"memory_mib": HARM_MEMORY_MIB, "pids": 16}));
        let daemon = daemon(vec![good, bad])?;
        let mut agent = daemon.agent();
        let mut line = line(&daemon)?;
        let mut frame = echo_frame("good", 64);
        let (mut quiet, mut harmed) = (Vec::new(), KINDS.map(|_| Vec::new()));
        for _ in 0..effort.rounds {
            for (only, harmed) in KINDS.iter().zip(&mut harmed) {
                line.ping_pong(&mut frame, CALLS / 10)?;
                quiet.push(quantile(&mut line.ping_pong(&mut frame, CALLS)?, 0.99));
                agent.call(SUPERVISOR_ID, "start", &json!({"plugin": "bad"}))?;
                move_away(daemon.process_of("bad"), &all)?;
                agent.call("bad", "misbehave", &json!({"bytes": HARM_MEMORY_MIB << 20, "only": only}))?;
                line.ping_pong(&mut frame, CALLS / 10)?;
                harmed.push(quantile(&mut line.ping_pong(&mut frame, CALLS)?, 0.99));
                agent.call(SUPERVISOR_ID, "stop", &json!({"plugin": "bad", "force": true}))?;
            }
        }
        drop((agent, line));
        daemon.stop_and_expect_no_orphans();
        Ok((quiet, harmed))
    })?;
    let floor = median(&quiet);
    Ok(harmed.iter().enumerate().map(|(at, harmed)| row(at, median(harmed), floor)).collect())
}

/// Puts every thread of a process, and so whatever it starts, on a processor that the calling thread is not on.
fn move_away(process: u32, all: &CpuSet) -> anyhow::Result<()> {
    let own = sched_getaffinity(None).context("asking for the affinity")?;
    let mut others = CpuSet::new();
    for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu) && !own.is_set(*cpu)) {
        others.set(cpu);
    }
    for thread in std::fs::read_dir(format!("/proc/{process}/task")).context("the threads of a plugin")? {
        let number = thread.context("a thread")?.file_name().to_string_lossy().parse().context("a thread's number")?;
        sched_setaffinity(rustix::process::Pid::from_raw(number), &others).context("moving a plugin")?;
    }
    Ok(())
}

fn daemon(packages: Vec<Package>) -> anyhow::Result<Daemon> {
    Daemon::try_start(DaemonOptions::with(packages).quiet())
        .map_err(|failed| anyhow::anyhow!("palisaded did not come up ({})", failed.status))
}

fn line(daemon: &Daemon) -> anyhow::Result<Line> {
    let mut agent = Agent::connect(&daemon.socket()).context("connecting to the daemon")?;
    ensure!(agent.call("good", "echo", &json!("warm"))? == json!("warm"), "echo echoes");
    let next_id = agent.new_id();
    Line::new(agent.stream().try_clone().context("duplicating a socket")?, next_id)
}
