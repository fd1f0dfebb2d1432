//! What a plugin keeps, by way of the SDK and the supervisor in memory.

use palisade_sdk::testing::TestHost;
use palisade_sdk::{Call, Conflict, ErrorCode, Plugin, Transaction};
use serde_json::{Value, json};

/// Counts, in a way that many may do at once.
fn counter() -> Plugin {
    Plugin::new("counter", "1.0.0").state_schema(1).action("add", "Adds.", |call: Call, number: u64| async move {
        call.store().update("count", |old: Option<u64>| Ok(old.unwrap_or(0) + number)).await
    })
}

#[tokio::test(start_paused = true)]
async fn of_many_who_count_at_once_none_is_lost() {
    let host = TestHost::builder().state_schema(1).kept("count", 40).start(counter()).await.unwrap();
    let (one, other) = tokio::join!(host.call::<u64>("add", &1), host.call::<u64>("add", &1));
    let mut both = [one.unwrap(), other.unwrap()];
    both.sort_unstable();
    assert_eq!((both, host.kept("count")), ([41, 42], Some(json!(42))));
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

#[tokio::test(start_paused = true)]
async fn what_is_put_is_there_and_what_was_expected_is_checked() {
    let plugin = Plugin::new("keeps", "1.0.0").action("all", "Tries it.", |call: Call, (): ()| async move {
        let store = call.store();
        assert_eq!(store.get::<String>("a").await?, None);
        let first = store.put("a", "one").await?;
        let entry = store.get::<String>("a").await?.expect("it was put");
        assert_eq!((entry.value.as_str(), entry.revision), ("one", first));
        assert!(store.get::<u64>("a").await.is_err(), "it is no number");
        let conflict = store.compare_and_set("a", None, "two").await?.expect_err("there is one");
        assert_eq!(conflict.actual, Some(first));
        let second = store.compare_and_set("a", Some(first), "two").await?.expect("it has that revision");
        let change = Transaction::new().check("a", Some(second)).put("b/1", &1)?.put("b/2", &2)?.delete("a");
        store.transaction(change).await?.expect("it has that revision");
        let late = Transaction::new().put("b/3", &3)?.check("a", Some(second));
        let conflict: Conflict = store.transaction(late).await?.expect_err("it is gone");
        assert_eq!((conflict.operation, conflict.actual), (1, None));
        let keys = store.list("b/", None).await?;
        assert_eq!(keys.keys.iter().map(|key| key.key.as_str()).collect::<Vec<_>>(), ["b/1", "b/2"]);
        assert!(store.list("b/", Some("b/2")).await?.keys.is_empty());
        assert!(store.delete("b/1").await? && !store.delete("b/1").await?);
        let error = store.put("a\nb", "x").await.expect_err("that is no key");
        assert_eq!(error.code(), ErrorCode::InvalidParams);
        Ok(())
    });
    let host = TestHost::start(plugin).await.unwrap();
    let done = host.call::<()>("all", &()).await;
    assert!(done.is_ok(), "{done:?}");
    assert_eq!((host.kept("a"), host.kept("b/2")), (None, Some(json!(2))));
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

/// From the form that is there to the plugin's own, each step noted before the next.
#[tokio::test(start_paused = true)]
async fn the_state_is_brought_into_the_plugins_form_step_by_step() {
    let plugin = || {
        counter()
            .state_schema(3)
            .migration(2, |store| async move {
                let count = store.get::<u64>("total").await?.map_or(0, |entry| entry.value);
                store.put("total", &json!({ "count": count })).await.map(drop)
            })
            .migration(1, |store| async move {
                let Some(count) = store.get::<u64>("count").await? else { return Ok(()) };
                let change = Transaction::new().put("total", &count.value)?.delete("count");
                store.transaction(change).await.map(drop)
            })
    };
    let host = TestHost::builder().state_schema(1).kept("count", 7).start(plugin()).await.unwrap();
    assert_eq!((host.kept("total"), host.kept("count")), (Some(json!({"count": 7})), None));
    assert_eq!(host.kept_schema(), Some(3));
    let host = TestHost::builder().state_schema(3).kept("total", json!({"count": 7})).start(plugin()).await.unwrap();
    assert_eq!(host.kept("total"), Some(json!({"count": 7})), "nothing is to be done");
    let host = TestHost::start(plugin()).await.unwrap();
    assert_eq!((host.kept("total"), host.kept_schema()), (None::<Value>, None), "nor where there is nothing");
}

#[tokio::test(start_paused = true)]
async fn without_a_way_from_there_or_with_one_that_fails_the_plugin_does_not_start() {
    let error = TestHost::builder().kept("count", 7).start(counter()).await.unwrap_err();
    assert!(error.message().contains("schema 0, and there is no migration from there to 1"), "{error:?}");
    let failing =
        counter().state_schema(2).migration(1, |store| async move { store.get::<String>("count").await.map(drop) });
    let error = TestHost::builder().state_schema(1).kept("count", 7).start(failing).await.unwrap_err();
    assert!(error.message().contains("the migration of its state from schema 1 to 2: "), "{error:?}");
}
