//! The plugin on a supervisor in memory: what it keeps, and what becomes of that with the next version.

use counter::{Add, AddNamed, Count, first, second};
use palisade_sdk::ErrorCode;
use palisade_sdk::testing::TestHost;
use serde_json::json;

fn named(name: &str, by: u32) -> AddNamed {
    AddNamed { name: Some(name.to_owned()), by: Some(by) }
}

#[tokio::test(start_paused = true)]
async fn the_first_version_counts() {
    let host = TestHost::start(first()).await.unwrap();
    assert_eq!(host.call::<u64>("count", &()).await.unwrap(), 0);
    assert_eq!(host.call::<u64>("add", &()).await.unwrap(), 1);
    assert_eq!(host.call::<u64>("add", &Add { by: Some(41) }).await.unwrap(), 42);
    assert_eq!((host.call::<u64>("count", &()).await.unwrap(), host.kept("count")), (42, Some(json!(42))));
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

#[tokio::test(start_paused = true)]
async fn of_many_who_count_at_once_none_is_lost() {
    let host = TestHost::start(second()).await.unwrap();
    let add = || host.call::<u64>("add", &());
    let (one, two, three) = tokio::join!(add(), add(), add());
    let mut all = [one.unwrap(), two.unwrap(), three.unwrap()];
    all.sort_unstable();
    assert_eq!((all, host.kept("counts/all")), ([1, 2, 3], Some(json!(3))));
}

#[tokio::test(start_paused = true)]
async fn the_second_version_counts_by_name() {
    let host = TestHost::start(second()).await.unwrap();
    assert_eq!(host.call::<u64>("add", &named("pears", 2)).await.unwrap(), 2);
    assert_eq!(host.call::<u64>("add", &named("apples", 1)).await.unwrap(), 1);
    assert_eq!(host.call::<u64>("add", &named("pears", 3)).await.unwrap(), 5);
    let counts: Vec<Count> = host.call("counts", &()).await.unwrap();
    let expected = [("apples", 1), ("pears", 5)].map(|(name, count)| Count { name: name.to_owned(), count });
    assert_eq!(counts, expected);
    for name in ["", "a\nb", &"x".repeat(65)] {
        let refused = host.call::<u64>("add", &named(name, 1)).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidParams, "{name:?}");
    }
}

/// The second version goes on where the first was, once: what it has brought over is not brought over again.
#[tokio::test(start_paused = true)]
async fn the_second_version_brings_over_what_the_first_has_kept() {
    let host = TestHost::builder().state_schema(1).kept("count", 42).start(second()).await.unwrap();
    assert_eq!((host.kept("count"), host.kept("counts/all"), host.kept_schema()), (None, Some(json!(42)), Some(2)));
    assert_eq!(host.call::<u64>("add", &()).await.unwrap(), 43);
    let host = TestHost::builder().state_schema(2).kept("counts/all", 43).start(second()).await.unwrap();
    assert_eq!(host.call::<u64>("add", &()).await.unwrap(), 44);
    let host = TestHost::builder().state_schema(1).start(second()).await.unwrap();
    assert_eq!(host.call::<Vec<Count>>("counts", &()).await.unwrap(), []);
}
