//! Host calls as its caller wants them made.

use std::collections::VecDeque;

use palisade_protocol::{ErrorBody, Flags, Frame, Header, HostCall, Kind, Pong};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::wire::Wire;

/// What is to be asked.
#[derive(Debug, Deserialize)]
pub(crate) struct Asks {
    asks: Vec<Ask>,
    /// So many may be under way at once; the supervisor says what it thinks of that.
    #[serde(default = "one")]
    at_once: usize,
}

#[derive(Debug, Deserialize)]
struct Ask {
    op: String,
    #[serde(default)]
    params: Value,
    /// With a `value` of so many bytes, which is more than a call brings in one piece.
    #[serde(default)]
    fill: usize,
    /// This many times.
    #[serde(default = "one")]
    times: usize,
}

fn one() -> usize {
    1
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Ok(Value),
    Error(ErrorBody),
}

/// Asks, and returns the answers in the order of the questions. `next` is a number for an exchange of its own.
pub(crate) fn ask(wire: &mut Wire, asks: &Asks, mut next: impl FnMut() -> u64) -> Vec<Answer> {
    let mut asked = VecDeque::new();
    let mut answers = Vec::new();
    for ask in asks.asks.iter().flat_map(|ask| std::iter::repeat_n(ask, ask.times)) {
        while asked.len() >= asks.at_once {
            hear(wire, &mut asked, &mut answers);
        }
        let id = next();
        let mut params = ask.params.clone();
        if let Some(params) = params.as_object_mut().filter(|_| ask.fill > 0) {
            params.insert("value".to_owned(), "v".repeat(ask.fill).into());
        }
        let params = rmp_serde::to_vec_named(&params).unwrap_or_else(|error| panic!("a value: {error}"));
        wire.send(Kind::HostCall, Flags::NONE, id, &HostCall { op: &ask.op, call: None }, &params);
        asked.push_back((id, answers.len()));
        answers.push(None);
    }
    while !asked.is_empty() {
        hear(wire, &mut asked, &mut answers);
    }
    answers.into_iter().map(|answer| answer.unwrap_or_else(|| panic!("a host call without an answer"))).collect()
}

/// Takes one frame. What is none of these waits while it asks.
fn hear(wire: &mut Wire, asked: &mut VecDeque<(u64, usize)>, answers: &mut [Option<Answer>]) {
    let Some((kind, id, content)) = wire.read_next() else { std::process::exit(0) };
    let answer = match kind {
        Some(kind @ Kind::HostOk) => {
            let frame =
                Frame { header: Header { len: 0, kind: kind as u8, flags: Flags::NONE, id }, content: &content };
            let (_, payload) =
                frame.parts(kind).unwrap_or_else(|error| panic!("the supervisor's frames are sound: {error}"));
            Answer::Ok(rmp_serde::from_slice(payload).unwrap_or_else(|error| panic!("a result: {error}")))
        }
        Some(Kind::HostErr) => {
            Answer::Error(rmp_serde::from_slice(&content).unwrap_or_else(|error| panic!("an error: {error}")))
        }
        Some(Kind::Ping) => return wire.send(Kind::Pong, Flags::NONE, id, &Pong::default(), &[]),
        Some(Kind::Refuse) => panic!("refused: {}", String::from_utf8_lossy(&content)),
        kind => return wire.later.push_back((kind, id, content)),
    };
    let place = asked.iter().position(|(there, _)| *there == id);
    let place = place.unwrap_or_else(|| panic!("an answer to {id}, which was not asked"));
    if let Some((_, answer_at)) = asked.remove(place) {
        answers[answer_at] = Some(answer);
    }
}
