//! Many calls at once: on one connection, and from many agents. Not pinned.

use anyhow::Context;

use crate::agent::{self, Line, echo_frame};
use crate::floor::{Relay, Role, plugin_name};
use crate::measure::{Effort, Place, at, median};
use crate::subject::Subject;
use crate::table::{Row, Target};

pub(crate) const PIPELINED: &[&str] = &["pipelined_16", "pipelined_128", "pipelined_16_lean", "pipelined_128_lean"];
pub(crate) const AGENTS: &[&str] = &["agents_100"];

/// One depth, and what each of the three reached in each round.
struct Depth {
    name: &'static str,
    depth: usize,
    least: f64,
    codec: Vec<f64>,
    lean: Vec<f64>,
    ours: Vec<f64>,
}

pub(crate) fn pipelined(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let depth = |name, depth, least| Depth { name, depth, least, codec: vec![], lean: vec![], ours: vec![] };
    let depths = at(Place::Anywhere, || {
        let mut depths = [depth("pipelined_16", 16, 0.7), depth("pipelined_128", 128, 0.5)];
        let mut frame = echo_frame(&plugin_name(0), 64);
        let codec = Relay::start(Role::CodecRelay, 1)?;
        let mut to_codec = Line::new(codec.connect()?, 1)?;
        let lean = Relay::start(Role::FrameRelay, 1)?;
        let mut to_lean = Line::new(lean.connect()?, 1)?;
        let subject = if effort.floors_only { None } else { Some(Subject::start(1)?) };
        let mut to_daemon = subject.as_ref().map(Subject::line).transpose()?;
        for _ in 0..effort.rounds {
            for at in &mut depths {
                at.codec.push(to_codec.pipelined(&mut frame, at.depth, effort.span).context("the floor")?);
                at.lean.push(to_lean.pipelined(&mut frame, at.depth, effort.span).context("the lean relay")?);
                if let Some((line, _)) = &mut to_daemon {
                    at.ours.push(line.pipelined(&mut frame, at.depth, effort.span).context("the daemon")?);
                }
            }
        }
        drop(to_daemon);
        if let Some(subject) = subject {
            subject.stop();
        }
        Ok(depths)
    })?;
    let row = |name: String, at: &Depth, floor: &[f64], target| Row {
        name,
        value: median(&at.ours),
        unit: "calls/s",
        floor: Some(median(floor)),
        target,
    };
    let floors = depths.iter().map(|at| row(at.name.into(), at, &at.codec, Target::RatioAtLeast(at.least)));
    let lean = depths.iter().map(|at| row(format!("{}_lean", at.name), at, &at.lean, Target::None));
    Ok(floors.chain(lean).collect())
}

pub(crate) fn agents(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let (floor, ours) = at(Place::Anywhere, || {
        let count = effort.hundred;
        let mut frames: Vec<_> = (0..count).map(|number| echo_frame(&plugin_name(number), 64)).collect();
        let relay = Relay::start(Role::CodecRelay, count)?;
        let mut to_relay = (0..count).map(|_| Line::new(relay.connect()?, 1)).collect::<anyhow::Result<Vec<_>>>()?;
        let subject = if effort.floors_only { None } else { Some(Subject::start(count)?) };
        let mut to_daemon = Vec::new();
        if let Some(subject) = &subject {
            subject.start_all()?;
            for _ in 0..count {
                to_daemon.push(subject.line()?.0);
            }
        }
        let (mut floor, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            floor.push(agent::agents(&mut to_relay, &mut frames, effort.span).context("the floor")?);
            if subject.is_some() {
                ours.push(agent::agents(&mut to_daemon, &mut frames, effort.span).context("the daemon")?);
            }
        }
        drop(to_daemon);
        if let Some(subject) = subject {
            subject.stop();
        }
        Ok((floor, ours))
    })?;
    Ok(vec![Row {
        name: "agents_100".into(),
        value: median(&ours),
        unit: "calls/s",
        floor: Some(median(&floor)),
        target: Target::RatioAtLeast(0.6),
    }])
}
