//! What it costs that parameters are checked: a call with ten fields that have a schema, beside the same call where nobody looks.

use anyhow::ensure;
use palisade_protocol::ErrorCode;
use serde_json::json;

use crate::agent::call_frame;
use crate::floor::plugin_name;
use crate::measure::{Effort, Place, at, median, quantile};
use crate::subject::Subject;
use crate::table::{Row, Target};

pub(crate) const NAMES: &[&str] = &["call_with_schema"];

pub(crate) fn run(effort: &Effort) -> anyhow::Result<Vec<Row>> {
    let (unchecked, checked) = at(Place::OneCore, || {
        let (mut unchecked, mut checked) = (Vec::new(), Vec::new());
        if effort.floors_only {
            // Both need the daemon.
            return Ok((unchecked, checked));
        }
        let form = json!({
            "title": "On the measuring of calls", "author": "Somebody", "pages": 320, "price": 12.5, "is_public": true,
            "language": "finnish", "tags": ["calls", "schemas", "figures"], "size": {"bytes": 4096}, "note": "second edition",
            "revision": 2,
        });
        let subject = Subject::start(1)?;
        let (mut line, _) = subject.line()?;
        let refused = subject.daemon().agent().call(&plugin_name(0), "register", &json!({"title": ""}));
        let by_daemon = refused.is_err_and(|error| {
            error.code == ErrorCode::InvalidParams
                && error.details.is_some_and(|details| details["violations"].is_array())
        });
        ensure!(by_daemon, "the daemon checks the parameters");
        let mut frames = ["accept", "register"].map(|action| call_frame(&plugin_name(0), action, &form));
        for _ in 0..effort.rounds {
            for (frame, figures) in frames.iter_mut().zip([&mut unchecked, &mut checked]) {
                line.ping_pong(frame, effort.calls / 10)?;
                figures.push(quantile(&mut line.ping_pong(frame, effort.calls)?, 0.5));
            }
        }
        drop(line);
        subject.stop();
        Ok((unchecked, checked))
    })?;
    Ok(vec![Row {
        name: NAMES[0].into(),
        value: median(&checked),
        unit: "µs",
        floor: Some(median(&unchecked)),
        target: Target::RatioAtMost(1.5),
    }])
}
