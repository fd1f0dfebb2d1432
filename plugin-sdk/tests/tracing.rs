//! The `tracing` layer: events become log lines of their call.
#![cfg(feature = "tracing")]

use palisade_sdk::testing::TestHost;
use palisade_sdk::{Call, Host, Level, Plugin, TracingLayer};
use serde_json::json;
use tracing_subscriber::layer::SubscriberExt;

#[tokio::test(start_paused = true)]
async fn events_become_log_lines_of_their_call() {
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(TracingLayer::new())).unwrap();
    let plugin = Plugin::with_state("traced", "1.0.0", |_: Host, (): ()| async {
        tracing::warn!("starting");
        Ok(())
    })
    .action("trace", "Traces.", |_: Call, (): ()| async move {
        tracing::info!(rows = 3, name = "x", "copied {}", 3);
        // Paused time: what comes after it is logged in another poll of the handler.
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        tracing::debug!("below the level");
        tracing::error!(ok = true, "later");
        Ok(())
    });
    let host = TestHost::start(plugin).await.unwrap();
    let call = host.begin("trace", &());
    call.result::<()>().await.unwrap();
    let logs: Vec<_> =
        host.logs().into_iter().map(|log| (log.level, log.message, log.fields.unwrap(), log.call)).collect();
    let expected = [
        (Level::Warn, "starting".to_owned(), json!({ "target": "tracing" }), None),
        (Level::Info, "copied 3".to_owned(), json!({ "target": "tracing", "rows": 3, "name": "x" }), Some(call.id())),
        (Level::Error, "later".to_owned(), json!({ "target": "tracing", "ok": true }), Some(call.id())),
    ];
    assert_eq!(logs, expected);
}
