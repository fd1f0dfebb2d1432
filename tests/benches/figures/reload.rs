//! What exchanging a plugin's package costs: whoever calls it, the time until the new one serves, and what is left over.
//!
//! A package is another one each time by its description; its program is the same, so that it is in the store. What is beyond the start-up
//! of the plugin, and beyond copying and hashing the package once, is what a reload adds; both are measured in turn with it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail, ensure};
use palisade_protocol::SUPERVISOR_ID;
use palisade_tests::daemon::{Daemon, DaemonOptions};
use palisade_tests::package::{Entry, Package};
use palisade_tests::process;
use palisade_tests::wire::{Agent, decode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::floor::plugin_name;
use crate::measure::{Effort, Place, at, median, quantile};
use crate::start::directly;
use crate::subject::plugin_binary;
use crate::table::{Row, Target};

pub(crate) const LOSS: &[&str] = &["reload_no_loss"];
pub(crate) const TIMES: &[&str] = &["reload_p50", "rollback_p50"];
pub(crate) const LATENCY: &[&str] = &["reload_latency_p99"];
pub(crate) const LEAK: &[&str] = &["reload_1000_leak", "reload_1000_leak_memory"];

/// Agents that call while packages are exchanged.
const AGENTS: usize = 8;

/// Calls that each has under way.
const PIPELINED: usize = 8;

const CONFIGURATION: &str = "watch = false\n";

/// Reloads of one round of times.
const RELOADS: usize = 6;

fn daemon(package: &Package) -> anyhow::Result<Daemon> {
    daemon_in(package, &[])
}

/// With these variables in its environment.
fn daemon_in(package: &Package, environment: &[(&str, &str)]) -> anyhow::Result<Daemon> {
    let options = DaemonOptions::with([package.clone()]).configuration(CONFIGURATION).quiet();
    let options = environment.iter().fold(options, |options, (name, value)| options.environment(name, value));
    Daemon::try_start(options).map_err(|failed| anyhow!("palisaded did not come up ({})", failed.status))
}

fn hostile(edition: usize) -> Package {
    let limits = json!({"concurrency": 2, "queue": 1000, "drain_timeout_seconds": 10});
    Package::hostile("counting", "tame").with("limits", limits).with("description", json!(format!("edition {edition}")))
}

fn plain(edition: usize) -> Package {
    let name = plugin_name(0);
    let package = Package::new(&name, Entry::File(plugin_binary())).environment("BENCH_ID", &name);
    package.with("description", json!(format!("edition {edition}")))
}

fn reload(agent: &mut Agent, plugin: &str) -> anyhow::Result<()> {
    let done = agent.call(SUPERVISOR_ID, "reload", &json!({ "plugin": plugin }))?;
    ensure!(done["reloads"][0]["reloaded"] == true, "{done}");
    Ok(())
}

/// What one agent was answered: numbers of calls by generation, and how many calls failed.
type Answers = (Vec<(u64, u64)>, usize);

/// Calls without end, each fifth with a stream.
fn count(daemon: &Daemon, stop: &AtomicBool) -> anyhow::Result<Answers> {
    let mut agent = daemon.agent();
    let (mut answers, mut failed) = (Vec::new(), 0);
    let mut calls = VecDeque::new();
    let mut begun = 0_usize;
    let mut begin = |agent: &mut Agent, calls: &mut VecDeque<(u64, bool)>| {
        begun += 1;
        let streams = begun.is_multiple_of(5);
        let action = if streams { "bytes-out" } else { "count" };
        calls.push_back((agent.begin("counting", action, &json!(null)), streams));
    };
    for _ in 0..PIPELINED {
        begin(&mut agent, &mut calls);
    }
    while let Some((next, streams)) = calls.pop_front() {
        if streams {
            let got = agent.collect(next);
            let is_whole = got.bytes.len() == 100_000;
            failed += usize::from(got.outcome.is_err() || !is_whole);
            if let Err(error) = got.outcome {
                eprintln!("a stream failed: {}", error.message);
            }
        } else {
            match agent.finish(next) {
                Ok(answer) => answers.push(serde_json::from_value(answer).context("two numbers")?),
                Err(error) => {
                    eprintln!("a call failed: {}", error.message);
                    failed += 1;
                }
            }
        }
        if !stop.load(Ordering::Relaxed) {
            begin(&mut agent, &mut calls);
        }
    }
    Ok((answers, failed))
}

/// Writes without end, one key after the other; how many were acknowledged.
fn write_state(daemon: &Daemon, stop: &AtomicBool) -> anyhow::Result<(usize, usize)> {
    let mut agent = daemon.agent();
    let (mut acknowledged, mut failed) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let put = json!({"op": "state.put", "params": {"key": format!("key-{acknowledged}"), "value": acknowledged}});
        match agent.call("counting", "ask", &json!({"asks": [put], "at_once": 1})) {
            Ok(answer) if answer[0]["ok"]["revision"].is_u64() => acknowledged += 1,
            other => {
                eprintln!("a write failed: {other:?}");
                failed += 1;
            }
        }
    }
    Ok((acknowledged, failed))
}

pub(crate) fn loss(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let mut wrong = f64::NAN;
    if !effort.floors_only {
        wrong = at(Place::Anywhere, || {
            let daemon = daemon(&hostile(0))?;
            daemon.agent().call("counting", "echo", &json!(null))?;
            let stop = AtomicBool::new(false);
            let (answers, mut wrong, acknowledged) = std::thread::scope(|scope| {
                let agents: Vec<_> = (1..AGENTS).map(|_| scope.spawn(|| count(&daemon, &stop))).collect();
                let writer = scope.spawn(|| write_state(&daemon, &stop));
                let exchanged = (1..=effort.hundred).try_for_each(|edition| {
                    hostile(edition).write(&daemon.plugins(), daemon.marker());
                    let found = daemon.operate("rescan", &json!({}))?;
                    ensure!(found["changed"] == json!(["counting 0.1.0"]), "{found}");
                    Ok(())
                });
                stop.store(true, Ordering::Relaxed);
                let panicked = |_| anyhow!("an agent panicked");
                let (mut answers, mut wrong) = (Vec::new(), 0);
                for agent in agents {
                    let (answered, failed) = agent.join().map_err(panicked)??;
                    answers.extend(answered);
                    wrong += failed;
                }
                let (acknowledged, failed) = writer.join().map_err(panicked)??;
                exchanged?;
                Ok::<_, anyhow::Error>((answers, wrong + failed, acknowledged))
            })?;
            let mut each: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
            for (generation, number) in &answers {
                // Done twice, or answered twice.
                wrong += usize::from(!each.entry(*generation).or_default().insert(*number));
            }
            // Done, and answered to nobody.
            wrong += each
                .values()
                .map(|numbers| numbers.last().map_or(0, |last| *last as usize) - numbers.len())
                .sum::<usize>();
            for number in 0..acknowledged {
                let get = json!({"op": "state.get", "params": {"key": format!("key-{number}")}});
                let answer = daemon.agent().call("counting", "ask", &json!({"asks": [get], "at_once": 1}))?;
                wrong += usize::from(answer[0]["ok"]["value"] != json!(number));
            }
            ensure!(effort.hundred < each.len() && 0 < acknowledged, "there was load all the time");
            daemon.stop_and_expect_no_orphans();
            Ok(count_of(wrong))
        })?;
    }
    Ok(vec![Row { name: LOSS[0].into(), value: wrong, unit: "calls", floor: None, target: Target::AtMost(0.0) }])
}

/// Copies and hashes what is in that folder once; in ms.
fn copied(folder: &Path) -> anyhow::Result<f64> {
    let copy = tempfile::Builder::new().prefix("palisade-bench-").tempdir().context("a folder")?;
    let begun = Instant::now();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let bytes = fs::read(entry.path())?;
        std::hint::black_box(Sha256::digest(&bytes));
        fs::write(copy.path().join(entry.file_name()), bytes)?;
    }
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}

/// Waits for the next event of that kind.
fn next_event(agent: &mut Agent, id: u64, kind: &str) -> anyhow::Result<()> {
    loop {
        let frame = agent.next_of(id);
        if frame.payload.is_empty() {
            continue;
        }
        let event: Value = decode(&frame.payload);
        if event["kind"] == kind {
            return Ok(());
        }
    }
}

pub(crate) fn times(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let (reloads, rollbacks, floor, starts) = at(Place::Anywhere, || {
        let (mut reloads, mut rollbacks, mut floor, mut starts) = (vec![], vec![], vec![], vec![]);
        let name = plugin_name(0);
        for _ in 0..effort.rounds {
            starts.push(directly(1)?);
            if effort.floors_only {
                continue;
            }
            let daemon = daemon(&plain(0))?;
            daemon.agent().call(&name, "echo", &json!(null))?;
            let mut watcher = daemon.agent();
            let events = watcher.begin(SUPERVISOR_ID, "events", &json!({"plugin": name, "follow": true}));
            watcher.next_of(events);
            let mut agent = daemon.agent();
            for edition in 1..=RELOADS {
                plain(edition).write(&daemon.plugins(), daemon.marker());
                let start = directly(1)?;
                floor.push(start + copied(&daemon.plugins().join(&name))?);
                starts.push(start);
                let begun = Instant::now();
                let rescan = agent.begin(SUPERVISOR_ID, "rescan", &json!({}));
                next_event(&mut watcher, events, "package_changed")?;
                reloads.push(begun.elapsed().as_secs_f64() * 1e3);
                agent.finish(rescan)?;
                // It fails soon after.
                let status = daemon.status(&name);
                let process = status.process_id().context("it runs")?;
                let begun = Instant::now();
                palisade_tests::daemon::signal(process, nix::sys::signal::Signal::SIGKILL);
                next_event(&mut watcher, events, "package_rolled_back")?;
                ensure!(agent.call(&name, "echo", &json!(1))? == json!(1), "the old one serves");
                rollbacks.push(begun.elapsed().as_secs_f64() * 1e3);
            }
            daemon.stop_and_expect_no_orphans();
        }
        Ok((reloads, rollbacks, floor, starts))
    })?;
    let beyond = |values: &[f64], floor: &[f64]| median(values) - median(floor);
    let row = |name: &str, value, floor: &[f64]| Row {
        name: name.into(),
        value,
        unit: "ms beyond",
        floor: Some(median(floor)),
        target: Target::AtMost(20.0),
    };
    Ok(vec![row(TIMES[0], beyond(&reloads, &floor), &floor), row(TIMES[1], beyond(&rollbacks, &starts), &starts)])
}

/// How long each of the calls took that could be made in that time, one after the other; in µs.
fn latencies(daemon: &Daemon, name: &str, span: Duration) -> anyhow::Result<Vec<f64>> {
    let mut agent = daemon.agent();
    let (mut took, end) = (Vec::new(), Instant::now() + span);
    while Instant::now() < end {
        let begun = Instant::now();
        agent.call(name, "echo", &json!("x"))?;
        took.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(took)
}

pub(crate) fn latency(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let (mut ours, mut quiet) = (Vec::new(), Vec::new());
    if !effort.floors_only {
        at(Place::Anywhere, || {
            let name = plugin_name(0);
            let daemon = daemon(&plain(0))?;
            daemon.agent().call(&name, "echo", &json!(null))?;
            for _ in 0..effort.rounds {
                quiet.push(quantile(&mut latencies(&daemon, &name, 3 * effort.span)?, 0.99));
                let stop = AtomicBool::new(false);
                let took = std::thread::scope(|scope| {
                    let reloading = scope.spawn(|| {
                        let mut agent = daemon.agent();
                        while !stop.load(Ordering::Relaxed) {
                            let begun = Instant::now();
                            reload(&mut agent, &name)?;
                            std::thread::sleep(effort.span.saturating_sub(begun.elapsed()));
                        }
                        Ok::<_, anyhow::Error>(())
                    });
                    let took = latencies(&daemon, &name, 3 * effort.span);
                    stop.store(true, Ordering::Relaxed);
                    reloading.join().map_err(|_| anyhow!("the operator panicked"))??;
                    took
                });
                ours.push(quantile(&mut took?, 0.99));
            }
            daemon.stop_and_expect_no_orphans();
            Ok(())
        })?;
    }
    Ok(vec![Row {
        name: LATENCY[0].into(),
        value: median(&ours),
        unit: "µs",
        floor: Some(median(&quiet)),
        target: Target::RatioAtMost(2.0),
    }])
}

/// Exchanges that precede a count of what is left over: fewer leave allocators, caches and the database smaller than they come to be.
const WARM_UP: usize = 100;

/// The packages that are exchanged in turn: more than are kept of those that served before.
const EDITIONS: usize = 8;

/// What the daemon is started by as a service.
const UNIT: &str = include_str!("../../../systemd/palisaded.service");

/// So many launchers a daemon makes before they are needed.
const PREPARED: usize = 2;

/// Gives the plugin the package of another edition.
fn exchange(daemon: &Daemon, agent: &mut Agent, edition: usize) -> anyhow::Result<()> {
    plain(1 + edition % EDITIONS).write(&daemon.plugins(), daemon.marker());
    reload(agent, &plugin_name(0))
}

/// What the daemon has: descriptors, threads, cgroups, mounts.
fn held(daemon: &Daemon) -> anyhow::Result<[usize; 4]> {
    let pid = daemon.pid();
    let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo"))?.lines().count();
    // Those of its plugins, in a folder that it holds open.
    let links = fs::read_dir(format!("/proc/{pid}/fd"))?.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    let is_tree = |path: &PathBuf| {
        path.starts_with("/sys/fs/cgroup")
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("palisade-"))
    };
    let beneath = links.filter(is_tree).map(|folder| folders(&folder)).max().unwrap_or(0);
    let descriptors = process::descriptors(pid).context("it runs")?;
    Ok([descriptors, process::threads(pid).context("it runs")?, beneath, mounts])
}

/// To what its descriptors lead, and how many to each: for whoever looks for a leak.
fn descriptors(pid: u32) -> BTreeMap<String, usize> {
    let mut targets = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let target = fs::read_link(entry.path()).unwrap_or_default().display().to_string();
        let kind = target.split_once('[').map_or(target.as_str(), |(kind, _)| kind).to_owned();
        *targets.entry(kind).or_default() += 1;
    }
    targets
}

fn folders(folder: &Path) -> usize {
    let there = fs::read_dir(folder).into_iter().flatten().flatten();
    there
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| 1 + folders(&entry.path()))
        .sum()
}

pub(crate) fn leak(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let (mut more, mut memory) = (f64::NAN, f64::NAN);
    if !effort.floors_only {
        (more, memory) = at(Place::Anywhere, || {
            let name = plugin_name(0);
            // As a service has it: how often a thread begins while another allocates is a matter of chance.
            let environment: Vec<_> =
                UNIT.lines().filter_map(|line| line.strip_prefix("Environment=")?.split_once('=')).collect();
            let daemon = daemon_in(&plain(0), &environment)?;
            let mut agent = daemon.agent();
            agent.call(&name, "echo", &json!(null))?;
            // What is made once is there then, and so many packages that served before as are kept, with one on probation.
            for edition in 0..WARM_UP {
                exchange(&daemon, &mut agent, edition)?;
            }
            let bytes = || process::memory(daemon.pid()).map(|memory| memory.anonymous).context("it runs");
            // The launchers that wait for a start are part of what it has.
            daemon.wait_for_prepared(PREPARED);
            let targets = descriptors(daemon.pid());
            let (before, bytes_before) = (held(&daemon)?, bytes()?);
            for edition in WARM_UP..WARM_UP + effort.many {
                exchange(&daemon, &mut agent, edition)?;
            }
            // What goes by itself has gone, and what was used is made again.
            daemon.wait_for_prepared(PREPARED);
            let mut after = held(&daemon)?;
            for _ in 0..50 {
                if after.iter().zip(before).all(|(after, before)| *after <= before) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
                after = held(&daemon)?;
            }
            if after.iter().zip(before).any(|(after, before)| before < *after) {
                eprintln!("descriptors, threads, cgroups, mounts: {before:?} before, {after:?} after");
                eprintln!("descriptors before {targets:?}, after {:?}", descriptors(daemon.pid()));
            }
            let more = after.iter().zip(before).map(|(after, before)| after.saturating_sub(before)).sum::<usize>();
            let grown = bytes()?.saturating_sub(bytes_before);
            let Some(percent) = (100 * grown).checked_div(bytes_before) else { bail!("it has no memory") };
            daemon.stop_and_expect_no_orphans();
            Ok((count_of(more), count_of(usize::try_from(percent)?)))
        })?;
    }
    Ok(vec![
        Row { name: LEAK[0].into(), value: more, unit: "things", floor: None, target: Target::AtMost(0.0) },
        Row { name: LEAK[1].into(), value: memory, unit: "%", floor: None, target: Target::AtMost(5.0) },
    ])
}

/// A count as a figure.
fn count_of(number: usize) -> f64 {
    u32::try_from(number).map_or(f64::INFINITY, f64::from)
}
