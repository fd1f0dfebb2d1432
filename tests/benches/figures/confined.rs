//! Starts of confined plugins, each kind beside its floor, and what the sandbox costs a call.
//!
//! A start counts from the beginning of the daemon's launch to the plugin's hello, as the daemon's status has it; the floors do the same
//! list and are waited for until the same hello. Everything is on one processor.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use palisade_launcher::Spec;
use palisade_protocol::SUPERVISOR_ID;
use palisade_tests::wire::Agent;
use serde_json::json;

use crate::agent::echo_frame;
use crate::confined_floor::{Bubblewrap, Floor, leaves_of};
use crate::floor::plugin_name;
use crate::measure::{Effort, Place, at, median, quantile};
use crate::subject::{Subject, plugin_binary, static_plugin_binary};
use crate::table::{Row, Target};

pub(crate) const NAMES: &[&str] = &[
    "start_sandboxed_p50",
    "start_sandboxed_bwrap",
    "start_prepared_p50",
    "start_back_to_back_p50",
    "start_bare_p50",
    "cold_call_p50",
    "cold_call_prepared_p50",
];
pub(crate) const CALL: &[&str] = &["call_sandboxed"];

/// After this much quiet a start meets nothing that an earlier one warmed or left to be cleared away.
const APART: Duration = Duration::from_millis(100);

/// So many launchers a daemon makes before they are needed.
const PREPARED: usize = 2;

/// So many starts in a row when they are back to back.
const BLOCK: usize = 10;

/// The warm calls that a cold one may take beside its start: hello and welcome, ready and the health check, the call itself.
const WARM_CALLS: f64 = 3.0;

/// Whether a call is faster with or without a sandbox is a matter of a few per cent, which takes more rounds than other figures.
const CALL_ROUNDS_MIN: usize = 10;

#[derive(Debug, Default)]
struct Starts {
    ours: Vec<f64>,
    prepared: Vec<f64>,
    bare: Vec<f64>,
    floor: Vec<f64>,
    bubblewrap: Vec<f64>,
    in_a_row: Vec<f64>,
    floor_in_a_row: Vec<f64>,
    cold: Vec<f64>,
    cold_prepared: Vec<f64>,
    warm: Vec<f64>,
}

pub(crate) fn run(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    if effort.floors_only {
        return Ok(Vec::new());
    }
    let starts = at(Place::OneCore, || measure(effort))?;
    let row = |name: &str, values: &[f64], floor: f64, target| Row {
        name: name.into(),
        value: median(values),
        unit: "µs",
        floor: Some(floor),
        target,
    };
    let (floor, ours) = (median(&starts.floor), median(&starts.ours));
    let mut rows = vec![row("start_sandboxed_p50", &starts.ours, floor, Target::RatioAtMost(1.5))];
    if !starts.bubblewrap.is_empty() {
        let bubblewrap = median(&starts.bubblewrap);
        rows.push(row("start_sandboxed_bwrap", &starts.ours, bubblewrap, Target::RatioAtMost(0.6)));
    }
    rows.push(row("start_prepared_p50", &starts.prepared, ours, Target::RatioAtMost(0.75)));
    rows.push(row(
        "start_back_to_back_p50",
        &starts.in_a_row,
        median(&starts.floor_in_a_row),
        Target::RatioAtMost(1.5),
    ));
    // No target: what of it is the daemon's, the plugin's and a process more than the floor has.
    rows.push(row("start_bare_p50", &starts.bare, floor, Target::None));
    let warm = WARM_CALLS * median(&starts.warm);
    rows.push(row("cold_call_p50", &starts.cold, ours + warm, Target::RatioAtMost(1.0)));
    // As the daemon is unless it is told otherwise: with launchers that were made before they are needed.
    rows.push(row("cold_call_prepared_p50", &starts.cold_prepared, ours + warm, Target::RatioAtMost(1.0)));
    Ok(rows)
}

fn measure(effort: &Effort) -> anyhow::Result<Starts> {
    let name = plugin_name(0);
    let program = static_plugin_binary();
    let bare = Subject::start_bare(1, &program)?;
    // One of them is started again and again, each of the others is called once.
    let subject = Subject::start_of(1 + effort.starts, &program)?;
    let ahead = Subject::start_prepared(1 + effort.starts, &program)?;
    let (mut agent, mut bare_agent) = (subject.daemon().agent(), bare.daemon().agent());
    let mut ahead_agent = ahead.daemon().agent();
    // The first start of each is for the files' sake.
    start(&mut bare_agent, &name)?;
    let kept = bare.daemon().path().join("state/data").join(&name).join("specification");
    let bytes = std::fs::read(&kept).with_context(|| format!("no specification was kept in {}", kept.display()))?;
    let spec: Spec = palisade_launcher::decode(&bytes).context("reading the specification")?;
    stop(&mut bare_agent, &name)?;
    start(&mut agent, &name)?;
    let leaves = leaves_of(subject.daemon().process_of(&name));
    stop(&mut agent, &name)?;
    ensure!(spec.leaf == leaves.is_some(), "leaf cgroups are where the daemon said");
    let mut floor = Floor::compile(&spec, leaves).context("the floor of a confined start")?;
    floor.start()?;
    let bubblewrap = match Bubblewrap::find(&spec).and_then(|found| found.start().map(|_| found)) {
        Ok(found) => Some(found),
        Err(error) => {
            eprintln!("NOT SHOWN HERE: start_sandboxed_bwrap: {error:#}");
            None
        }
    };

    let mut starts = Starts::default();
    for number in 1..=effort.starts {
        sleep(APART);
        starts.ours.push(start(&mut agent, &name)?);
        stop(&mut agent, &name)?;
        sleep(APART);
        starts.floor.push(floor.start()?);
        ahead.daemon().wait_for_prepared(PREPARED);
        sleep(APART);
        starts.prepared.push(start(&mut ahead_agent, &name)?);
        ensure!(ahead.daemon().status(&name).generations.iter().all(|one| one.prepared), "it was prepared");
        stop(&mut ahead_agent, &name)?;
        sleep(APART);
        starts.bare.push(start(&mut bare_agent, &name)?);
        stop(&mut bare_agent, &name)?;
        if let Some(bubblewrap) = &bubblewrap {
            sleep(APART);
            starts.bubblewrap.push(bubblewrap.start()?);
        }
        sleep(APART);
        let lazy = plugin_name(number);
        starts.cold.push(call(&mut agent, &lazy)?);
        // The first ones after a start are not warm yet.
        let warm = (0..20).map(|_| call(&mut agent, &lazy)).collect::<anyhow::Result<Vec<_>>>()?;
        starts.warm.push(median(&warm[10..]));
        stop(&mut agent, &lazy)?;
        ahead.daemon().wait_for_prepared(PREPARED);
        sleep(APART);
        starts.cold_prepared.push(call(&mut ahead_agent, &lazy)?);
        stop(&mut ahead_agent, &lazy)?;
    }
    for _ in 0..effort.starts.div_ceil(BLOCK) {
        for _ in 0..BLOCK {
            starts.in_a_row.push(start(&mut agent, &name)?);
            stop(&mut agent, &name)?;
        }
        for _ in 0..BLOCK {
            starts.floor_in_a_row.push(floor.start()?);
        }
    }
    drop((agent, bare_agent, ahead_agent));
    ahead.stop();
    bare.stop();
    subject.stop();
    Ok(starts)
}

/// Starts the plugin; from the beginning of its launch to its hello, in µs.
#[expect(clippy::cast_precision_loss, reason = "a figure")]
fn start(agent: &mut Agent, name: &str) -> anyhow::Result<f64> {
    agent.call(SUPERVISOR_ID, "start", &json!({ "plugin": name }))?;
    let status = agent.call(SUPERVISOR_ID, "status", &json!({ "plugin": name }))?;
    let took = status["generations"][0]["hello_after_us"].as_u64();
    Ok(took.with_context(|| format!("the status says nothing about the start: {status}"))? as f64)
}

fn stop(agent: &mut Agent, name: &str) -> anyhow::Result<()> {
    agent.call(SUPERVISOR_ID, "stop", &json!({ "plugin": name }))?;
    Ok(())
}

/// One call; how long it took, in µs.
fn call(agent: &mut Agent, name: &str) -> anyhow::Result<f64> {
    let begun = Instant::now();
    ensure!(agent.call(name, "echo", &json!(7))? == json!(7), "echo echoes");
    Ok(begun.elapsed().as_secs_f64() * 1e6)
}

/// The whole way of a call, to a plugin in its sandbox and to one without, whose launcher confines nothing.
pub(crate) fn calls(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    if effort.floors_only {
        return Ok(Vec::new());
    }
    let (bare, confined) = at(Place::OneCore, || {
        let mut frame = echo_frame(&plugin_name(0), 64);
        let (without, with) = (Subject::start_bare(1, &plugin_binary())?, Subject::start(1)?);
        let ((mut to_bare, _), (mut to_confined, _)) = (without.line()?, with.line()?);
        let (mut bare, mut confined) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds.max(CALL_ROUNDS_MIN) {
            for (line, p50) in [(&mut to_bare, &mut bare), (&mut to_confined, &mut confined)] {
                line.ping_pong(&mut frame, effort.calls / 10)?;
                p50.push(quantile(&mut line.ping_pong(&mut frame, effort.calls)?, 0.5));
            }
        }
        drop((to_bare, to_confined));
        without.stop();
        with.stop();
        Ok((bare, confined))
    })?;
    Ok(vec![Row {
        name: "call_sandboxed".into(),
        value: median(&confined),
        unit: "µs",
        floor: Some(median(&bare)),
        target: Target::RatioAtMost(1.05),
    }])
}
