//! Calls over the in-memory supervisor: parameters, results, errors, panics, cancellation, progress, logs, limits.
//!
//! Time is paused in every asynchronous test: it moves only when no task can go on, and then exactly to the next timer. So a sleep waits
//! for nobody; it is work that takes its time, or the hour at which the test looks.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use palisade_sdk::testing::{Outcome, TestHost};
use palisade_sdk::{Action, Call, CancelReason, Context, Error, ErrorCode, Fault, Level, Plugin, Raw, Result, log};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// So much of the paused time passes. Nobody is waited for with it: it is the length of some work, or the hour of a look.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[derive(Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
struct Order {
    /// What to buy.
    items: Vec<Item>,
    #[serde(default)]
    note: Option<String>,
}

#[derive(Debug, Serialize, Deserialize, JsonSchema, PartialEq)]
struct Item {
    name: String,
    count: u32,
}

fn shop() -> Plugin {
    Plugin::new("shop", "1.2.3")
        .action("total", "Counts items.", |_: Call, order: Order| async move {
            Ok(order.items.iter().map(|item| item.count).sum::<u32>())
        })
        .action("nothing", "Takes and gives nothing.", |_: Call, (): ()| async { Ok(()) })
        .action("raw", "Gives back what it gets.", |_: Call, raw: Raw| async { Ok(raw) })
        .blocking_action("wait", "Blocks.", |_: Call, text: String| Ok(text.to_uppercase()))
}

#[tokio::test(start_paused = true)]
async fn parameters_and_results_have_their_types() {
    let host = TestHost::start(shop()).await.unwrap();
    let order =
        Order { items: vec![Item { name: "pen".into(), count: 3 }, Item { name: "ink".into(), count: 4 }], note: None };
    assert_eq!(host.call::<u32>("total", &order).await.unwrap(), 7);
    assert_eq!(host.call::<String>("wait", "slow").await.unwrap(), "SLOW");
    for nothing in [json!(null), json!({})] {
        host.call::<()>("nothing", &nothing).await.unwrap();
    }
    assert!(host.violations().is_empty());
    assert_eq!(host.stop().await.status(), 0);
}

#[tokio::test(start_paused = true)]
async fn schemas_come_from_the_types() {
    let host = TestHost::start(shop()).await.unwrap();
    let ready = host.ready();
    assert_eq!((&*ready.id, &*ready.version, ready.concurrency), ("shop", "1.2.3", 256));
    let total = ready.actions.iter().find(|action| action.name == "total").unwrap();
    let schema = total.parameters.as_ref().unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema["required"], json!(["items"]));
    assert_eq!(schema["properties"]["items"]["description"], "What to buy.");
    assert_eq!(total.result.as_ref().unwrap()["type"], "integer");
    let nothing = ready.actions.iter().find(|action| action.name == "nothing").unwrap();
    assert_eq!(nothing.parameters, Some(json!({ "type": ["null", "object"], "maxProperties": 0 })));
    let raw = ready.actions.iter().find(|action| action.name == "raw").unwrap();
    assert_eq!((&raw.parameters, &raw.result), (&None, &None));
}

#[tokio::test(start_paused = true)]
async fn raw_payloads_pass_unchanged_at_any_size() {
    let host = TestHost::start(shop()).await.unwrap();
    for bytes in [0, 1, 8 << 10, (8 << 10) + 1, 128 << 10, (128 << 10) + 1, 1 << 20, 5 << 20] {
        let value = json!("x".repeat(bytes));
        let raw = Raw::encode(&value).unwrap();
        let outcome = host.begin_raw("raw", raw.bytes().clone(), None, None).outcome().await.unwrap();
        assert_eq!(outcome, Outcome::Ok(raw), "{bytes}");
    }
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

#[tokio::test(start_paused = true)]
async fn wrong_parameters_name_their_path_and_run_nothing() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let plugin = shop().action("typed", "Counts its runs.", move |_: Call, _: Order| {
        counted.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }
    });
    let host = TestHost::start(plugin).await.unwrap();
    let wrong = json!({ "items": [{ "name": "pen", "count": 1 }, { "name": "ink", "count": "many" }] });
    let error = host.call::<()>("typed", &wrong).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidParams);
    assert_eq!(error.message, "items[1].count: invalid type: string \"many\", expected u32");
    assert_eq!(error.details, Some(json!({ "path": "items[1].count" })));
    let error = host.call::<()>("typed", &()).await.unwrap_err();
    assert_eq!((error.code, &*error.message), (ErrorCode::InvalidParams, "missing field `items`"));
    let error = host.call::<String>("wait", &7).await.unwrap_err();
    assert_eq!(error.message, "invalid type: integer `7`, expected a string");
    for garbage in [&[0xc1][..], &[0x93, 0x01], &[0x01, 0x02]] {
        let outcome = host.begin_raw("raw", garbage.to_vec().into(), None, None).outcome().await.unwrap();
        let Outcome::Err(error) = outcome else { panic!("{outcome:?}") };
        assert_eq!(error.code, ErrorCode::InvalidParams, "{garbage:?}");
    }
    assert_eq!(runs.load(Ordering::Relaxed), 0);
}

/// As the first example of the documentation says.
#[tokio::test(start_paused = true)]
async fn parameters_that_a_strict_type_does_not_have_are_refused() {
    #[derive(Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Greet {
        name: String,
    }
    let plugin =
        Plugin::new("greeter", "1.0.0").action("greet", "Greets.", |_: Call, greet: Greet| async { Ok(greet.name) });
    let host = TestHost::start(plugin).await.unwrap();
    assert_eq!(host.ready().actions[0].parameters.as_ref().unwrap()["additionalProperties"], false);
    assert_eq!(host.call::<String>("greet", &json!({"name": "Eva"})).await.unwrap(), "Eva");
    let error = host.call::<String>("greet", &json!({"name": "Eva", "nmae": "Ada"})).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidParams);
    assert!(error.message.contains("unknown field `nmae`"), "{}", error.message);
}

#[tokio::test(start_paused = true)]
async fn an_unknown_action_is_answered_with_those_there_are() {
    let host = TestHost::start(shop()).await.unwrap();
    let error = host.call::<()>("sell", &()).await.unwrap_err();
    assert_eq!((error.code, &*error.message), (ErrorCode::ActionNotFound, "there is no action `sell`"));
    assert_eq!(error.hint.as_deref(), Some("the plugin has: nothing, raw, total, wait"));
}

#[derive(Debug)]
struct Outer(std::num::ParseIntError);

impl std::fmt::Display for Outer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the count cannot be read")
    }
}

impl std::error::Error for Outer {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.0)
    }
}

#[tokio::test(start_paused = true)]
async fn errors_keep_code_hint_details_and_causes() {
    let plugin =
        Plugin::new("errors", "1.0.0")
            .action("standard", "Fails by `?`.", |_: Call, text: String| async move {
                Ok(text.parse::<u8>().map_err(Outer)?)
            })
            .action("context", "Fails with a sentence in front.", |_: Call, text: String| async move {
                text.parse::<u8>().context("the order is wrong")
            })
            .action("full", "Fails with everything.", |_: Call, (): ()| async move {
                let error = Error::dependency_unavailable("the shop is closed")
                    .with_hint("come back at nine")
                    .with_details(json!({ "opens": 9 }))
                    .with_retry_after(Duration::from_secs(5))
                    .with_fault(Fault::Plugin)
                    .with_cause(Outer("x".parse::<u8>().unwrap_err()));
                Err::<(), _>(error)
            })
            .action("huge", "Fails at length.", |_: Call, (): ()| async move {
                Err::<(), _>(Error::failed("x".repeat(100_000)).with_details("y".repeat(100_000)))
            });
    let host = TestHost::start(plugin).await.unwrap();
    let error = host.call::<u8>("standard", "x").await.unwrap_err();
    assert_eq!((error.code, &*error.message), (ErrorCode::ExecutionFailed, "the count cannot be read"));
    assert_eq!(error.details, Some(json!({ "causes": ["invalid digit found in string"] })));
    let error = host.call::<u8>("context", "x").await.unwrap_err();
    assert_eq!(error.message, "the order is wrong");
    assert_eq!(error.details, Some(json!({ "causes": ["invalid digit found in string"] })));
    let error = host.call::<()>("full", &()).await.unwrap_err();
    assert_eq!(
        (error.code, error.fault, error.retry_after_ms),
        (ErrorCode::DependencyUnavailable, Fault::Plugin, Some(5000))
    );
    assert_eq!(error.hint.as_deref(), Some("come back at nine"));
    let causes = ["the count cannot be read", "invalid digit found in string"];
    assert_eq!(error.details, Some(json!({ "opens": 9, "causes": causes })));
    let error = host.call::<()>("huge", &()).await.unwrap_err();
    assert_eq!(error.message.len(), 8 << 10);
    assert_eq!(error.details, Some(json!({ "left_out": "the details were larger or deeper than an error may be" })));
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("on drop");
    }
}

#[tokio::test(start_paused = true)]
async fn a_panic_fails_its_call_with_message_and_place_and_nothing_else() {
    let reported = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&reported);
    let plugin = Plugin::new("panics", "1.0.0")
        .action("now", "Panics at once.", |_: Call, (): ()| async move {
            if true {
                panic!("no {}", "way");
            }
            Ok(())
        })
        .action("later", "Panics after a while.", |_: Call, (): ()| async move {
            pass(1).await;
            Err::<(), _>(Error::failed(format!("{}", [1][std::hint::black_box(3)])))
        })
        .action("early", "Panics before its future.", |_: Call, fail: bool| {
            assert!(!fail, "before");
            async { Ok(()) }
        })
        .action("dropping", "Panics when it is dropped.", |_: Call, (): ()| async move {
            let _guard = PanicsOnDrop;
            std::future::pending::<()>().await;
            Ok(())
        })
        .blocking_action("thread", "Panics on a thread.", |_: Call, (): ()| -> Result<()> { panic!("on a thread") })
        .action("fine", "Does not panic.", |_: Call, (): ()| async { Ok("fine") })
        .on_error(move |failure| {
            assert_eq!(failure.error.code, ErrorCode::ExecutionFailed);
            counted.fetch_add(1, Ordering::Relaxed);
        });
    let host = TestHost::start(plugin).await.unwrap();
    let cases = [
        ("now", json!(null), "no way"),
        ("later", json!(null), "index out of bounds: the len is 1 but the index is 3"),
        ("early", json!(true), "before"),
        ("thread", json!(null), "on a thread"),
    ];
    for (action, params, message) in cases {
        let bystander = host.begin("later", &());
        let error = host.call::<()>(action, &params).await.unwrap_err();
        assert_eq!(error.code, ErrorCode::ExecutionFailed);
        let place = error.details.as_ref().unwrap()["panic"]["place"].as_str().unwrap().to_owned();
        assert!(place.contains("tests/calls.rs:"), "{place}");
        assert_eq!(error.message, format!("the handler panicked at {place}: {message}"));
        let log = host.log(&error.message).await.unwrap();
        assert_eq!(log.level, Level::Error);
        assert!(log.call.is_some());
        assert_eq!(host.call::<String>("fine", &()).await.unwrap(), "fine");
        bystander.result::<()>().await.unwrap_err();
    }
    let dropping = host.begin("dropping", &());
    host.ping(false).await.unwrap();
    dropping.cancel();
    let Outcome::Err(error) = dropping.outcome().await.unwrap() else { panic!() };
    assert!(error.message.ends_with(": on drop"), "{}", error.message);
    assert_eq!(reported.load(Ordering::Relaxed), 9, "every failure once");
    assert!(host.violations().is_empty());
    assert_eq!(host.stop().await.status(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_call_is_dropped_unless_it_listens() {
    let dropped = Arc::new(AtomicUsize::new(0));
    struct Count(Arc<AtomicUsize>);
    impl Drop for Count {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let counted = Arc::clone(&dropped);
    let plugin = Plugin::new("cancels", "1.0.0")
        .action("deaf", "Never listens.", move |_: Call, (): ()| {
            let count = Count(Arc::clone(&counted));
            async move {
                let _count = count;
                std::future::pending::<()>().await;
                Ok(())
            }
        })
        .action("polite", "Listens, and tidies up.", |call: Call, (): ()| async move {
            let reason = call.cancelled().await;
            pass(1).await;
            log::info!(call; "tidied up after {reason:?}");
            Err::<(), _>(Error::cancelled())
        })
        .action("stubborn", "Listens, and answers all the same.", |call: Call, (): ()| async move {
            call.cancelled().await;
            Ok("finished")
        })
        .blocking_action("thread", "Looks now and then.", |call: Call, (): ()| -> Result<()> {
            while !call.is_cancelled() {
                std::thread::yield_now();
            }
            Err(Error::cancelled())
        });
    let host = TestHost::start(plugin).await.unwrap();
    for action in ["deaf", "polite", "thread"] {
        let call = host.begin(action, &());
        host.ping(false).await.unwrap();
        assert_eq!(call.ended(), None);
        call.cancel();
        assert_eq!(call.outcome().await.unwrap(), Outcome::Cancelled, "{action}");
        // A second cancel crosses with the end.
        call.cancel();
    }
    assert_eq!(dropped.load(Ordering::Relaxed), 1);
    host.log("tidied up after Caller").await.unwrap();
    let call = host.begin("stubborn", &());
    call.cancel();
    assert_eq!(call.result::<String>().await.unwrap(), "finished");
    assert_eq!(host.ping(false).await.unwrap().calls, 0);
    assert!(host.violations().is_empty());
    assert_eq!(host.stop().await.status(), 0);
}

#[test]
fn a_call_that_waits_for_a_thread_is_cancelled_at_once() {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    // Tokio's paused time stands still while a thread is at work, so that a hang would not be noticed.
    let runtime = builder.enable_all().max_blocking_threads(1).build().unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let plugin =
        Plugin::new("queue", "1.0.0").blocking_action("wait", "Waits for the test.", move |_: Call, (): ()| {
            wait.lock().expect("nobody panics").recv()?;
            Ok(())
        });
    runtime.block_on(async {
        let host = TestHost::start(plugin).await.unwrap();
        let (first, second) = (host.begin("wait", &()), host.begin("wait", &()));
        assert_eq!(host.ping(false).await.unwrap().calls, 2);
        second.cancel();
        assert_eq!(second.outcome().await.unwrap(), Outcome::Cancelled);
        go.send(()).unwrap();
        first.result::<()>().await.unwrap();
        assert!(host.violations().is_empty());
    });
}

#[tokio::test(start_paused = true)]
async fn a_deadline_is_known_and_cancels() {
    let plugin = Plugin::new("late", "1.0.0").action("sleep", "Sleeps.", |call: Call, (): ()| async move {
        let cancelled = call.cancelled();
        log::info!(call, remaining = call.remaining().map(|left| left.as_secs()); "sleeping");
        let reason = cancelled.await;
        assert_eq!(call.remaining(), Some(Duration::ZERO));
        assert_eq!(reason, CancelReason::Deadline);
        Err::<(), _>(Error::cancelled())
    });
    let host = TestHost::builder().patience(Duration::from_secs(3 * 3600)).start(plugin).await.unwrap();
    let call = host.begin_within("sleep", &(), Duration::from_secs(3600));
    assert_eq!(call.outcome().await.unwrap(), Outcome::Cancelled);
    assert_eq!(host.log("sleeping").await.unwrap().fields, Some(json!({ "remaining": 3600 })));
}

#[tokio::test(start_paused = true)]
async fn calls_run_at_once_and_know_themselves() {
    let plugin =
        Plugin::new("many", "1.0.0").action("sleep", "Sleeps for seconds.", |call: Call, seconds: u64| async move {
            pass(seconds).await;
            Ok(format!("{} {} {:?} {:?}", call.id(), call.action(), call.caller(), call.deadline().is_some()))
        });
    let host = TestHost::start(plugin).await.unwrap();
    let begun = tokio::time::Instant::now();
    let calls: Vec<_> = (1..=20).map(|seconds| host.begin("sleep", &seconds)).collect();
    let pong = host.ping(false).await.unwrap();
    assert_eq!(pong.calls, 20);
    for call in &calls {
        let said = call.result::<String>().await.unwrap();
        assert_eq!(said, format!("{} sleep Some(\"uid:1000\") false", call.id()));
    }
    assert_eq!(begun.elapsed().as_secs(), 20);
    let anonymous = host.begin_with("sleep", &0, Some(Duration::from_secs(9)), None);
    assert_eq!(anonymous.result::<String>().await.unwrap(), format!("{} sleep None true", anonymous.id()));
}

#[tokio::test(start_paused = true)]
async fn a_pong_tells_the_age_of_the_oldest_call() {
    let plugin = Plugin::new("old", "1.0.0").action("wait", "Waits.", |_: Call, seconds: u64| async move {
        pass(seconds).await;
        Ok(())
    });
    let host = TestHost::start(plugin).await.unwrap();
    let old = host.begin("wait", &50);
    host.ping(false).await.unwrap();
    pass(7).await;
    let young = host.begin("wait", &10);
    let pong = host.ping(false).await.unwrap();
    assert_eq!((pong.calls, pong.oldest_call_ms), (2, 7000));
    young.result::<()>().await.unwrap();
    old.result::<()>().await.unwrap();
    let pong = host.ping(false).await.unwrap();
    assert_eq!((pong.calls, pong.oldest_call_ms), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn more_calls_than_announced_are_overloaded() {
    let plugin = Plugin::new("small", "1.0.0").concurrency(2).action("wait", "Waits.", |_: Call, (): ()| async move {
        pass(1).await;
        Ok(())
    });
    let host = TestHost::start(plugin).await.unwrap();
    assert_eq!(host.ready().concurrency, 2);
    let calls: Vec<_> = (0..3).map(|_| host.begin("wait", &())).collect();
    let error = calls[2].result::<()>().await.unwrap_err();
    assert_eq!((error.code, error.retry_after_ms), (ErrorCode::Overloaded, Some(100)));
    for call in &calls[..2] {
        call.result::<()>().await.unwrap();
    }
    host.call::<()>("wait", &()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn progress_is_the_newest_and_never_after_the_end() {
    let plugin = Plugin::new("progress", "1.0.0")
        .action("steps", "Tells each step.", |call: Call, (): ()| async move {
            for step in 0..3 {
                call.progress_with(f64::from(step) * 50.0, format!("step {step}"), json!({ "step": step }));
                pass(1).await;
            }
            call.progress(None, "nearly");
            Ok(())
        })
        .action("flood", "Tells far too much.", |call: Call, (): ()| async move {
            for step in 0..100_000 {
                call.progress(f64::from(step), "x".repeat(10_000));
            }
            call.progress(f64::NAN, "");
            let late = call.clone();
            tokio::spawn(async move {
                pass(5).await;
                late.progress(1.0, "late");
            });
            Ok(())
        });
    let host = TestHost::start(plugin).await.unwrap();
    let call = host.begin("steps", &());
    for step in 0..3 {
        let progress = call.progress().await.unwrap().unwrap();
        assert_eq!(progress.percentage, Some(f64::from(step) * 50.0));
        assert_eq!((progress.message, progress.details), (Some(format!("step {step}")), Some(json!({ "step": step }))));
    }
    assert_eq!(call.progress().await.unwrap().unwrap().message.as_deref(), Some("nearly"));
    assert_eq!(call.progress().await.unwrap(), None);
    let call = host.begin("flood", &());
    call.result::<()>().await.unwrap();
    let last = call.progress().await.unwrap().unwrap();
    assert_eq!((last.percentage, last.message), (None, None));
    pass(10).await;
    host.ping(false).await.unwrap();
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

#[tokio::test(start_paused = true)]
async fn logs_are_tied_to_their_call_filtered_and_bounded() {
    let plugin = Plugin::new("logs", "1.0.0")
        .log_level(Level::Debug)
        .action("log", "Logs.", |call: Call, (): ()| async move {
            log::trace!(call; "unseen {}", { call.progress(99.0, "formatted"); 1 });
            log::debug!(call, size = 3, name = "x"; "one of {}", 2);
            log::warn!(call.host(), deep = json!({ "a": [1] }); "from the host");
            log::error!(call, huge = "y".repeat(100_000); "{}", "z".repeat(100_000));
            Ok(())
        })
        .action("flood", "Logs far too much.", |call: Call, lines: u32| async move {
            for line in 0..lines {
                log::info!(call; "line {line} {}", "x".repeat(1000));
            }
            Ok(())
        });
    let host = TestHost::start(plugin).await.unwrap();
    let call = host.begin("log", &());
    call.result::<()>().await.unwrap();
    assert_eq!(call.progress().await.unwrap(), None, "what is not logged is not formatted");
    let logs = host.logs();
    assert_eq!(logs.len(), 3);
    assert_eq!((logs[0].level, &*logs[0].message, logs[0].call), (Level::Debug, "one of 2", Some(call.id())));
    assert_eq!(logs[0].fields, Some(json!({ "size": 3, "name": "x" })));
    assert_eq!((logs[1].level, logs[1].call), (Level::Warn, Some(call.id())));
    assert_eq!(logs[2].message.len(), 8 << 10);
    assert_eq!(
        logs[2].fields,
        Some(json!({ "left_out": "the fields were larger or deeper than a log line's may be" }))
    );
    host.call::<()>("flood", &2000).await.unwrap();
    host.ping(false).await.unwrap();
    let logs = host.logs();
    let kept = logs.iter().filter(|log| log.message.starts_with("line ")).count();
    let dropped = format!("{} log lines were dropped: they came faster than the supervisor takes them", 2000 - kept);
    assert!((200..300).contains(&kept), "{kept}");
    host.log(&dropped).await.unwrap();
    host.call::<()>("flood", &1).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn state_is_shared_and_the_host_answers() {
    struct State {
        count: AtomicUsize,
    }
    let plugin =
        Plugin::with_state(
            "state",
            "1.0.0",
            |_, start: usize| async move { Ok(State { count: AtomicUsize::new(start) }) },
        )
        .action("next", "Counts.", |call: Call<State>, (): ()| async move {
            Ok(call.state().count.fetch_add(1, Ordering::Relaxed))
        })
        .action("self", "Asks the supervisor.", |call: Call<State>, (): ()| async move {
            let about = call.host().describe_self().await?;
            assert_eq!(call.host().permissions(), ["network_access"]);
            Ok(format!("{} {}", about.id, about.generation))
        })
        .action("ask", "Asks for anything.", |call: Call<State>, op: String| async move {
            call.host().request::<u32>(&op, &()).await
        });
    let host = TestHost::builder().configuration(7).permissions(["network_access"]).start(plugin).await.unwrap();
    assert_eq!(host.call::<usize>("next", &()).await.unwrap(), 7);
    assert_eq!(host.call::<usize>("next", &()).await.unwrap(), 8);
    assert_eq!(host.call::<String>("self", &()).await.unwrap(), "test 1");
    let error = host.call::<u32>("ask", "fly").await.unwrap_err();
    assert_eq!((error.code, &*error.message), (ErrorCode::ActionNotFound, "there is no operation `fly`"));
    assert!(host.violations().is_empty());
}

#[tokio::test(start_paused = true)]
async fn host_calls_are_bounded_and_may_be_large() {
    let plugin = Plugin::new("asks", "1.0.0").action("ask", "Asks often.", |call: Call, count: usize| async move {
        let host = call.host();
        let mut answers = tokio::task::JoinSet::new();
        for _ in 0..count {
            let host = host.clone();
            answers.spawn(async move { host.request::<serde_json::Value>("none", "x".repeat(2_000).as_str()).await });
        }
        let mut codes = Vec::new();
        while let Some(answer) = answers.join_next().await {
            codes.push(answer?.expect_err("there is no such operation").code());
        }
        let large = host.request::<serde_json::Value>("none", "x".repeat(1_000_000).as_str()).await;
        codes.push(large.expect_err("there is no such operation").code());
        let larger = host.request::<serde_json::Value>("none", "x".repeat(1 << 20).as_str()).await;
        assert_eq!(larger.expect_err("it fits into no frame").code(), ErrorCode::ResourceExhausted);
        let overloaded = codes.iter().filter(|code| **code == ErrorCode::Overloaded).count();
        let unknown = codes.iter().filter(|code| **code == ErrorCode::ActionNotFound).count();
        Ok((overloaded, unknown))
    });
    let host = TestHost::start(plugin).await.unwrap();
    assert_eq!(host.call::<(usize, usize)>("ask", &64).await.unwrap(), (0, 65));
    assert_eq!(host.call::<(usize, usize)>("ask", &70).await.unwrap(), (6, 65));
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

#[tokio::test(start_paused = true)]
async fn results_beyond_the_limits_are_errors() {
    let plugin = || {
        Plugin::new("large", "1.0.0")
            .action("make", "Makes text.", |_: Call, bytes: usize| async move { Ok("x".repeat(bytes)) })
            .with(
                Action::new("raw", "Takes anything.").handler(|_: Call, raw: Raw| async move { Ok(raw.bytes().len()) }),
            )
    };
    let host = TestHost::builder().limits(1 << 20, 2 << 20, 1 << 20).start(plugin()).await.unwrap();
    assert_eq!(host.call::<String>("make", &(1 << 20)).await.unwrap().len(), 1 << 20);
    let error = host.call::<String>("make", &(2 << 20)).await.unwrap_err();
    assert_eq!(
        (error.code, error.hint.as_deref()),
        (ErrorCode::ResourceExhausted, Some("send it as an output stream"))
    );
    let error = host.call::<usize>("raw", &"x".repeat(2 << 20)).await.unwrap_err();
    assert_eq!(
        (error.code, &*error.message),
        (ErrorCode::ResourceExhausted, "the parameters have more than 2097152 bytes")
    );
    // Without continuations, a result has to fit into one frame.
    let host = TestHost::builder().features(["streams"]).start(plugin()).await.unwrap();
    assert_eq!(host.call::<String>("make", &1_000_000).await.unwrap().len(), 1_000_000);
    let error = host.call::<String>("make", &(1 << 20)).await.unwrap_err();
    assert_eq!(error.code, ErrorCode::ResourceExhausted);
    assert!(host.violations().is_empty());
}
