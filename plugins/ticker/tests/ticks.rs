//! The plugin on a supervisor in memory, in paused time: an hour of ticks takes none.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::time::Duration;

use palisade_sdk::testing::{ConfigureAnswer, TestCall, TestHost, TestHostBuilder};
use serde_json::json;
use ticker::Tick;
use tokio::time::Instant;

/// An hour is little here.
fn patient() -> TestHostBuilder {
    TestHost::builder().patience(Duration::from_secs(7_200))
}

async fn after(ticks: &TestCall) -> u64 {
    ticks.next::<Tick>().await.unwrap().expect("it ticks on").after_ms
}

#[tokio::test(start_paused = true)]
async fn it_ticks_until_it_is_cancelled() {
    let host = patient().configuration(json!({"interval_ms": 60_000})).start(ticker::plugin()).await.unwrap();
    let ticks = host.begin("ticks", &());
    for number in 1..=60 {
        let tick: Tick = ticks.next().await.unwrap().expect("it ticks on");
        assert_eq!(tick, Tick { number, after_ms: 60_000 });
    }
    ticks.cancel();
    assert_eq!(ticks.outcome().await.unwrap(), palisade_sdk::testing::Outcome::Cancelled);
    assert_eq!(host.stop().await.status(), 0);
}

#[tokio::test(start_paused = true)]
async fn its_interval_changes_while_it_ticks() {
    let host = patient().start(ticker::plugin()).await.unwrap();
    assert_eq!(host.call::<u64>("interval", &()).await.unwrap(), 1000);
    let ticks = host.begin("ticks", &());
    assert_eq!(after(&ticks).await, 1000);
    let configured = host.configure(json!({"interval_ms": 10})).await.unwrap();
    assert_eq!((configured.answer, configured.reason), (ConfigureAnswer::Accepted, None));
    assert_eq!(host.call::<u64>("interval", &()).await.unwrap(), 10);
    assert_eq!((after(&ticks).await, after(&ticks).await), (10, 10));
    // It waits for an hour, and is told that it need not.
    host.configure(json!({"interval_ms": 3_600_000})).await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), ticks.next::<Tick>()).await.expect_err("it waits");
    host.configure(json!({"interval_ms": 120_000})).await.unwrap();
    assert_eq!(after(&ticks).await, 120_000);

    let refused = host.configure(json!({"interval_ms": "soon"})).await.unwrap();
    assert_eq!(refused.answer, ConfigureAnswer::Refused);
    assert!(refused.reason.unwrap().contains("interval_ms"));
    assert_eq!(host.call::<u64>("interval", &()).await.unwrap(), 120_000, "it has what it had");
    assert!(host.violations().is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_drains_it_ends_it() {
    let host = TestHost::start(ticker::plugin()).await.unwrap();
    let ticks = host.begin("ticks", &());
    after(&ticks).await;
    let begun = Instant::now();
    host.drain(Duration::from_secs(30)).await.unwrap();
    assert_eq!(ticks.outcome().await.unwrap(), palisade_sdk::testing::Outcome::Cancelled);
    // Of the time in which others may end it took nothing.
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}
