//! One call after the other, everything on one processor.

use anyhow::Context;
use palisade_tests::process::cpu_nanoseconds;

use crate::agent::{Line, echo_frame};
use crate::floor::{Relay, Role, plugin_name};
use crate::measure::{Effort, Place, at, median, quantile};
use crate::subject::Subject;
use crate::table::{Row, Target};

pub(crate) const NAMES: &[&str] =
    &["call_64B_p50", "call_64B_p99", "call_1KiB_p50", "call_cpu", "call_64B_p50_codec", "call_cpu_codec"];

/// What one end yields, a value per round.
#[derive(Debug, Default)]
struct Rounds {
    p50: Vec<f64>,
    p99: Vec<f64>,
    large_p50: Vec<f64>,
    cpu: Vec<f64>,
}

impl Rounds {
    #[expect(clippy::cast_precision_loss, reason = "a figure")]
    fn take(&mut self, line: &mut Line, pid: u32, frames: &mut Frames, calls: usize) -> anyhow::Result<()> {
        line.ping_pong(&mut frames.small, calls / 10)?;
        let before = cpu_nanoseconds(pid).context("the processor time of the relay or daemon")?;
        let mut took = line.ping_pong(&mut frames.small, calls)?;
        let after = cpu_nanoseconds(pid).context("the processor time of the relay or daemon")?;
        self.cpu.push((after - before) as f64 / 1e3 / calls as f64);
        self.p50.push(quantile(&mut took, 0.5));
        self.p99.push(quantile(&mut took, 0.99));
        let mut took = line.ping_pong(&mut frames.large, calls)?;
        self.large_p50.push(quantile(&mut took, 0.5));
        Ok(())
    }
}

struct Frames {
    small: Vec<u8>,
    large: Vec<u8>,
}

pub(crate) fn run(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let (floor, codec, ours) = at(Place::OneCore, || {
        let mut frames = Frames { small: echo_frame(&plugin_name(0), 64), large: echo_frame(&plugin_name(0), 1024) };
        let relay = Relay::start(Role::BytesRelay, 1)?;
        let mut to_relay = Line::new(relay.connect()?, 1)?;
        to_relay.choose_child(0)?;
        // No target is set against this one; it shows what an event loop costs in any case.
        let codec_relay = Relay::start(Role::CodecRelay, 1)?;
        let mut to_codec = Line::new(codec_relay.connect()?, 1)?;
        let subject = if effort.floors_only { None } else { Some(Subject::start(1)?) };
        let mut to_daemon = subject.as_ref().map(Subject::line).transpose()?;
        let (mut floor, mut codec, mut ours) = (Rounds::default(), Rounds::default(), Rounds::default());
        for _ in 0..effort.rounds {
            floor.take(&mut to_relay, relay.pid(), &mut frames, effort.calls)?;
            codec.take(&mut to_codec, codec_relay.pid(), &mut frames, effort.calls)?;
            if let (Some(subject), Some((line, _))) = (&subject, &mut to_daemon) {
                ours.take(line, subject.pid(), &mut frames, effort.calls)?;
            }
        }
        drop(to_daemon);
        if let Some(subject) = subject {
            subject.stop();
        }
        Ok((floor, codec, ours))
    })?;
    let beside = |floor: &Rounds, name: &str, unit, of: fn(&Rounds) -> &Vec<f64>, target| Row {
        name: name.into(),
        value: median(of(&ours)),
        unit,
        floor: Some(median(of(floor))),
        target,
    };
    let row = |name, unit, of, target| beside(&floor, name, unit, of, target);
    Ok(vec![
        row("call_64B_p50", "µs", |rounds| &rounds.p50, Target::RatioAtMost(1.35)),
        row("call_64B_p99", "µs", |rounds| &rounds.p99, Target::RatioAtMost(2.0)),
        row("call_1KiB_p50", "µs", |rounds| &rounds.large_p50, Target::RatioAtMost(1.35)),
        row("call_cpu", "µs", |rounds| &rounds.cpu, Target::RatioAtMost(1.6)),
        beside(&codec, "call_64B_p50_codec", "µs", |rounds| &rounds.p50, Target::None),
        beside(&codec, "call_cpu_codec", "µs", |rounds| &rounds.cpu, Target::None),
    ])
}
