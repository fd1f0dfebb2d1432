//! Secrets, by way of the SDK and the supervisor in memory.

use palisade_sdk::testing::TestHost;
use palisade_sdk::{Call, ErrorCode, Plugin};

#[tokio::test(start_paused = true)]
async fn a_secret_is_given_to_whoever_asks_and_shown_to_nobody() {
    let plugin = Plugin::new("keeper", "1.0.0").action("use", "Uses it.", |call: Call, name: String| async move {
        let secret = call.secret(&name).await?;
        assert_eq!(secret.expose(), "hunter2");
        Ok(format!("{secret:?} {:?}", secret.clone()))
    });
    let host = TestHost::builder().secret("key", "hunter2").start(plugin).await.unwrap();
    assert_eq!(host.call::<String>("use", "key").await.unwrap(), "Secret(…) Secret(…)");
    let unset = host.call::<String>("use", "other").await.unwrap_err();
    assert_eq!(unset.code, ErrorCode::ResourceNotFound, "{unset:?}");
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

/// Many of them at once, between other answers, however they are cut.
#[tokio::test(start_paused = true)]
async fn what_is_wiped_takes_nothing_else_with_it() {
    let long = "x".repeat(16 << 10);
    let plugin = Plugin::new("keeper", "1.0.0").action("all", "Asks for all.", |call: Call, (): ()| async move {
        let store = call.store();
        let mut bytes = 0;
        for _ in 0..20 {
            let text = "y".repeat(5_000);
            let (put, secret, got, other) = tokio::join!(
                store.put("a", &text),
                call.secret("long"),
                store.get::<String>("a"),
                call.secret("short"),
            );
            put?;
            assert!(got?.is_none_or(|entry| entry.value == text));
            assert!(secret?.expose().bytes().all(|byte| byte == b'x'));
            bytes += other?.expose().len();
        }
        Ok(bytes)
    });
    let host = TestHost::builder().secret("long", &long).secret("short", "z").start(plugin).await.unwrap();
    assert_eq!(host.call::<usize>("all", &()).await.unwrap(), 20);
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}
