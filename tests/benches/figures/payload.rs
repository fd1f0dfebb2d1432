//! Large payloads: a stream of 16 MiB out of a plugin and into one, and a result of 1 MiB. Whoever receives touches every cache line.

use anyhow::Context;

use crate::agent::Line;
use crate::floor::{Relay, Role, plugin_name};
use crate::measure::{Effort, Place, at, median};
use crate::subject::Subject;
use crate::table::{Row, Target};

pub(crate) const NAMES: &[&str] = &["stream_16MiB", "stream_in_16MiB", "result_1MiB"];

const STREAM: usize = 16 << 20;
const RESULT: usize = 1 << 20;

pub(crate) fn run(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let (floor, ours) = at(Place::Anywhere, || {
        let plugin = plugin_name(0);
        let relay = Relay::start(Role::LargeRelay, 1)?;
        let mut source = Line::new(relay.connect()?, 1)?;
        source.choose_child(1)?;
        let mut sink = Line::new(relay.connect()?, 1)?;
        sink.choose_child(2)?;
        let subject = if effort.floors_only { None } else { Some(Subject::start(1)?) };
        let mut to_daemon = subject.as_ref().map(Subject::line).transpose()?;
        let (mut floor, mut ours) = (vec![Vec::new(); 3], vec![Vec::new(); 3]);
        for _ in 0..effort.rounds {
            for _ in 0..effort.payloads {
                // In turns, one by one: these take long enough for the machine to change its mind in between.
                floor[0].push(source.floor_payload(STREAM).context("the floor")?);
                floor[1].push(sink.floor_sink(STREAM).context("the floor")?);
                floor[2].push(source.floor_payload(RESULT).context("the floor")?);
                if let Some((line, credit)) = &mut to_daemon {
                    ours[0].push(line.daemon_payload(&plugin, "pour", STREAM).context("the daemon's stream")?);
                    ours[1].push(line.daemon_sink(&plugin, "drink", STREAM, *credit).context("the daemon's input")?);
                    ours[2].push(line.daemon_payload(&plugin, "blob", RESULT).context("the daemon's result")?);
                }
            }
        }
        drop(to_daemon);
        if let Some(subject) = subject {
            subject.stop();
        }
        Ok((floor, ours))
    })?;
    Ok((0..3)
        .map(|row| Row {
            name: NAMES[row].into(),
            value: median(&ours[row]),
            unit: "ms",
            floor: Some(median(&floor[row])),
            target: Target::RatioAtMost(1.5),
        })
        .collect())
}
