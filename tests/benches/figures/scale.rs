//! Whether plugins that do nothing slow a call down.

use anyhow::Context;

use crate::agent::echo_frame;
use crate::floor::plugin_name;
use crate::measure::{Effort, Place, at, median, quantile};
use crate::subject::Subject;
use crate::table::{Row, Target};

pub(crate) const NAMES: &[&str] = &["idle_1000"];

pub(crate) fn run(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let (one, many) = if effort.floors_only { (Vec::new(), Vec::new()) } else { measure(effort)? };
    Ok(vec![Row {
        name: "idle_1000".into(),
        value: median(&many),
        unit: "µs",
        floor: Some(median(&one)),
        target: Target::RatioAtMost(1.05),
    }])
}

fn measure(effort: &Effort) -> anyhow::Result<(Vec<f64>, Vec<f64>)> {
    at(Place::OneCore, || {
        let mut frame = echo_frame(&plugin_name(0), 64);
        let lonely = Subject::start(1)?;
        let crowded = Subject::start(effort.many)?;
        crowded.start_all().context("starting the idle plugins")?;
        let (mut to_lonely, _) = lonely.line()?;
        let (mut to_crowded, _) = crowded.line()?;
        let (mut one, mut many) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds {
            for (line, p50) in [(&mut to_lonely, &mut one), (&mut to_crowded, &mut many)] {
                line.ping_pong(&mut frame, effort.calls / 10)?;
                p50.push(quantile(&mut line.ping_pong(&mut frame, effort.calls)?, 0.5));
            }
        }
        drop((to_lonely, to_crowded));
        crowded.stop();
        lonely.stop();
        Ok((one, many))
    })
}
