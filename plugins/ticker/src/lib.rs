//! The plugin `ticker`: an action that goes on until it is cancelled, with an interval that its operator can change meanwhile.

use std::time::Duration;

use palisade_sdk::{Action, Call, Configure, Host, Plugin, Result, log};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// What an operator can say. The same, with its bounds, is the `configuration_schema` of `plugin.json`: whatever comes here fits that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How long it is from one tick to the next, in milliseconds.
    #[serde(default = "second")]
    pub interval_ms: u64,
}

fn second() -> u64 {
    1000
}

/// What all calls share: the interval, and news of each change of it.
#[derive(Debug)]
pub struct Ticker {
    interval: watch::Sender<Duration>,
}

/// One tick.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Tick {
    /// Which of this call's, from 1.
    pub number: u64,
    /// How long it was after the one before it, in milliseconds.
    pub after_ms: u64,
}

/// The plugin.
pub fn plugin() -> Plugin<Ticker> {
    Plugin::with_state("ticker", env!("CARGO_PKG_VERSION"), initialize)
        .configure(configure)
        .with(
            Action::new("ticks", "Ticks, until it is cancelled.")
                .idempotent()
                .endless()
                .output::<Tick>()
                .handler(ticks),
        )
        .action("interval", "How many milliseconds it is from one tick to the next.", interval)
}

fn interval_of(config: Config) -> Duration {
    Duration::from_millis(config.interval_ms.max(1))
}

async fn initialize(_host: Host, config: Config) -> Result<Ticker> {
    Ok(Ticker { interval: watch::Sender::new(interval_of(config)) })
}

/// Every call under way has the new interval from its last tick on, so there is no reason for another process.
async fn configure(ticker: std::sync::Arc<Ticker>, config: Config) -> Result<Configure> {
    ticker.interval.send_replace(interval_of(config));
    Ok(Configure::Accept)
}

/// Waiting for room in the stream ends with the call, and so does the future that waits for the next tick.
async fn ticks(call: Call<Ticker>, (): ()) -> Result<()> {
    let mut output = call.output::<Tick>()?;
    let mut interval = call.state().interval.subscribe();
    let mut last = Instant::now();
    for number in 1.. {
        loop {
            let due = last + *interval.borrow_and_update();
            tokio::select! {
                () = sleep_until(due) => break,
                changed = interval.changed() => {
                    if changed.is_ok() {
                        log::info!(call; "the interval was changed");
                    } else {
                        // Whoever could change it is gone, and the plugin with it.
                        return Ok(());
                    }
                }
            }
        }
        let now = Instant::now();
        let after_ms = u64::try_from(now.duration_since(last).as_millis()).unwrap_or(u64::MAX);
        last = now;
        output.send(Tick { number, after_ms }).await?;
    }
    Ok(())
}

async fn interval(call: Call<Ticker>, (): ()) -> Result<u64> {
    let interval = *call.state().interval.borrow();
    Ok(u64::try_from(interval.as_millis()).unwrap_or(u64::MAX))
}
