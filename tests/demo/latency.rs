//! `palisade-demo-latency SOCKET`: how long one call takes on a connection that stands, for `make demo`.
//!
//! Whoever wants figures to compare runs `make bench`, which has floors beside them; this one only shows the order.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, ensure};
use palisade_tests::wire::Agent;
use serde_json::{Value, json};

/// Enough for a median, and over at once.
const CALLS: usize = 1_000;

fn main() -> anyhow::Result<()> {
    let socket: PathBuf = std::env::args_os().nth(1).context("usage: palisade-demo-latency SOCKET")?.into();
    let mut agent = Agent::connect(&socket).with_context(|| format!("connecting to {}", socket.display()))?;
    let mut measure = |plugin: &str, action: &str, params: Value, expected: Value| -> anyhow::Result<()> {
        let mut times = Vec::with_capacity(CALLS);
        for _ in 0..CALLS {
            let began = Instant::now();
            let result = agent.call(plugin, action, &params)?;
            times.push(began.elapsed());
            ensure!(result == expected, "{plugin} {action} returned {result} instead of {expected}");
        }
        times.sort_unstable();
        let at = |share: usize| times.get(CALLS * share / 100).copied().unwrap_or_default().as_micros();
        println!("    {plugin:<10} {action:<8} {CALLS} calls, median {} µs, 99 of 100 within {} µs", at(50), at(99));
        Ok(())
    };
    measure("echo", "echo", json!("hello"), json!("hello"))?;
    measure("calculator", "evaluate", json!({"expression": "sqrt(16) + sin(pi/2)"}), json!(5))
}
