//! Many calls at once: on one connection, and from many agents. Not pinned.

use anyhow::Context;

use crate::agent::{self, Line, echo_frame};
use crate::floor::{Relay, Role, plugin_name};
use crate::measure::{Effort, Place, at, median};
use crate::subject::Subject;
use crate::table::{Row, Target};

pub(crate) const PIPELINED: &[&str] = &["pipelined_16", "pipelined_128"];
pub(crate) const AGENTS: &[&str] = &["agents_100"];

pub(crate) fn pipelined(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    const DEPTHS: [(&str, usize, f64); 2] = [("pipelined_16", 16, 0.7), ("pipelined_128", 128, 0.5)];
    let figures = at(Place::Anywhere, || {
        let mut frame = echo_frame(&plugin_name(0), 64);
        let relay = Relay::start(Role::FrameRelay, 1)?;
        let mut to_relay = Line::new(relay.connect()?, 1)?;
        let subject = if effort.floors_only { None } else { Some(Subject::start(1)?) };
        let mut to_daemon = subject.as_ref().map(Subject::line).transpose()?;
        let mut figures = vec![(Vec::new(), Vec::new()); DEPTHS.len()];
        for _ in 0..effort.rounds {
            for ((_, depth, _), (floor, ours)) in DEPTHS.iter().zip(&mut figures) {
                floor.push(to_relay.pipelined(&mut frame, *depth, effort.span).context("the floor")?);
                if let Some((line, _)) = &mut to_daemon {
                    ours.push(line.pipelined(&mut frame, *depth, effort.span).context("the daemon")?);
                }
            }
        }
        drop(to_daemon);
        if let Some(subject) = subject {
            subject.stop();
        }
        Ok(figures)
    })?;
    Ok(DEPTHS
        .iter()
        .zip(figures)
        .map(|((name, _, least), (floor, ours))| Row {
            name: (*name).into(),
            value: median(&ours),
            unit: "calls/s",
            floor: Some(median(&floor)),
            target: Target::RatioAtLeast(*least),
        })
        .collect())
}

pub(crate) fn agents(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let (floor, ours) = at(Place::Anywhere, || {
        let count = effort.hundred;
        let mut frames: Vec<_> = (0..count).map(|number| echo_frame(&plugin_name(number), 64)).collect();
        let relay = Relay::start(Role::FrameRelay, count)?;
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
