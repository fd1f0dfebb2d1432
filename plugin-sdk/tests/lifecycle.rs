//! A plugin's life over the in-memory supervisor: hooks and their order, initialization that fails, drain, end.
//!
//! Time is paused in every asynchronous test: it moves only when no task can go on, and then exactly to the next timer. So a sleep waits
//! for nobody; it is work that takes its time, or the hour at which the test looks.
#![expect(clippy::unwrap_used, reason = "a test ends at what it does not expect")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use palisade_sdk::testing::{ConfigureAnswer, Outcome, TestHost};
use palisade_sdk::{Action, Call, Configure, Context, Error, ErrorCode, Host, Plugin, Result, log};
use serde::Deserialize;
use serde_json::json;

/// So much of the paused time passes. Nobody is waited for with it: it is the length of some work, or the hour of a look.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

/// What happened, in order.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    fn read(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    #[serde(default)]
    name: Option<String>,
}

/// A plugin that notes everything it is told.
fn noting(diary: &Diary) -> Plugin<Diary> {
    let (load, unload, state, errors) = (diary.clone(), diary.clone(), diary.clone(), diary.clone());
    Plugin::with_state("noting", "1.0.0", move |_: Host, config: Config| async move {
        state.note(format!("initialize {:?}", config.name));
        Ok(state)
    })
    .on_load(move |host| async move {
        load.note(format!("on_load {} {}", host.id(), host.generation()));
        Ok(())
    })
    .health(|diary: Arc<Diary>| async move {
        diary.note("health");
        Ok(())
    })
    .drain(|diary: Arc<Diary>| async move {
        diary.note("drain");
        Ok(())
    })
    .shutdown(|diary: Arc<Diary>| async move {
        diary.note("shutdown");
        Ok(())
    })
    .on_unload(move || unload.note("on_unload"))
    .on_error(move |failure| errors.note(format!("error of {:?}: {}", failure.action, failure.error.message)))
    .action("wait", "Waits.", |call: Call<Diary>, seconds: u64| async move {
        let work = async { pass(seconds).await };
        tokio::select! {
            () = work => Ok(()),
            reason = call.cancelled() => {
                call.state().note(format!("cancelled: {reason:?}"));
                Err(Error::cancelled())
            }
        }
    })
    .with(Action::new("watch", "Never ends.").endless().handler(|_: Call<Diary>, (): ()| async move {
        std::future::pending::<()>().await;
        Ok(())
    }))
    .action("fail", "Fails.", |_: Call<Diary>, (): ()| async move { Err::<(), _>(Error::failed("as asked")) })
}

#[tokio::test(start_paused = true)]
async fn hooks_run_in_their_order() {
    let diary = Diary::default();
    let host = TestHost::builder().configuration(json!({ "name": "x" })).start(noting(&diary)).await.unwrap();
    host.call::<()>("fail", &()).await.unwrap_err();
    host.call::<()>("wait", "wrong").await.unwrap_err();
    host.drain(Duration::from_secs(10)).await.unwrap();
    assert_eq!(host.stop().await.status(), 0);
    let expected = [
        "on_load noting 1",
        "initialize Some(\"x\")",
        "health",
        "error of Some(\"fail\"): as asked",
        "drain",
        "shutdown",
        "on_unload",
    ];
    assert_eq!(diary.read(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_configuration_that_does_not_fit_is_refused_by_its_path() {
    let diary = Diary::default();
    let refused = TestHost::builder().configuration(json!({ "name": 3 })).start(noting(&diary)).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::ConfigurationInvalid);
    assert_eq!(refused.message(), "the configuration does not fit: name: invalid type: integer `3`, expected a string");
    assert_eq!(refused.hint(), Some("correct the plugin's configuration, then start it again"));
    let refused = TestHost::builder().configuration(json!({ "nam": "x" })).start(noting(&diary)).await.unwrap_err();
    assert!(refused.message().contains("unknown field `nam`"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn an_initialization_that_fails_ends_the_plugin_with_its_reason() {
    let diary = Diary::default();
    let unload = diary.clone();
    let plugin = Plugin::with_state("fails", "1.0.0", |_: Host, (): ()| async move {
        Err::<(), _>("x".parse::<u8>().context("the license is unreadable").unwrap_err().with_hint("renew it"))
    })
    .on_unload(move || unload.note("on_unload"));
    let refused = TestHost::start(plugin).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InitializationFailed);
    assert_eq!((refused.message(), refused.hint()), ("the license is unreadable", Some("renew it")));
    assert_eq!(diary.read(), ["on_unload"]);

    let plugin = Plugin::with_state("panics", "1.0.0", |_: Host, (): ()| async move {
        assert!(std::env::args().count() == 0, "no arguments");
        Ok(())
    });
    let refused = TestHost::start(plugin).await.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InitializationFailed);
    assert!(refused.message().starts_with("initialize panicked at "), "{refused}");
    assert!(refused.message().ends_with(": no arguments"), "{refused}");

    let plugin =
        Plugin::new("unloaded", "1.0.0").on_load(|_| async { Err(Error::dependency_unavailable("no network")) });
    let refused = TestHost::start(plugin).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (ErrorCode::DependencyUnavailable, "no network"));
}

#[tokio::test(start_paused = true)]
async fn a_slow_initialization_can_ask_for_time_and_log() {
    let plugin = Plugin::with_state("slow", "1.0.0", |host: Host, (): ()| async move {
        log::info!(host; "loading");
        host.extend(Duration::from_secs(90), "a large index");
        pass(80).await;
        Ok(())
    });
    let host = TestHost::builder().patience(Duration::from_secs(100)).start(plugin).await.unwrap();
    assert_eq!(host.logs()[0].message, "loading");
    assert_eq!((host.extends()[0].by_ms, &*host.extends()[0].reason), (90_000, "a large index"));
}

#[tokio::test(start_paused = true)]
async fn mistakes_in_the_description_are_found_before_anything_runs() {
    let twice = Plugin::new("twice", "1.0.0").action("a", "", |_: Call, (): ()| async { Ok(()) }).action(
        "a",
        "",
        |_: Call, (): ()| async { Ok(()) },
    );
    assert_eq!(TestHost::start(twice).await.unwrap_err().message(), "two actions have the name `a`");
    for name in ["", "a b", "é", &"x".repeat(65)] {
        let plugin = Plugin::new("named", "1.0.0").action(name, "", |_: Call, (): ()| async { Ok(()) });
        let error = TestHost::start(plugin).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::ConfigurationInvalid);
        assert!(error.message().starts_with(&format!("`{name}` cannot be an action's name")), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_version_that_is_tried_tests_itself() {
    let plugin = Plugin::with_state("ill", "1.0.0", |_: Host, (): ()| async { Ok(Mutex::new(0)) })
        .self_test(|tests: Arc<Mutex<u32>>| async move {
            let test = {
                let mut tests = tests.lock().unwrap();
                *tests += 1;
                *tests
            };
            match test {
                1 => Err(Error::unavailable("no disk")),
                2 => Ok(()),
                _ => {
                    pass(3600).await;
                    Ok(())
                }
            }
        })
        .action("fine", "", |_: Call<Mutex<u32>>, (): ()| async { Ok(()) });
    let host = TestHost::start(plugin).await.unwrap();
    assert_eq!(host.ping(true).await.unwrap().unhealthy, None, "it is not asked to");
    assert_eq!(host.self_test().await.unwrap().unhealthy.as_deref(), Some("its self-test failed: no disk"));
    assert_eq!(host.self_test().await.unwrap().unhealthy, None);
    let slow = host.self_test().await.unwrap().unhealthy.unwrap();
    assert_eq!(slow, "its self-test failed: self_test took longer than 30000 ms");
    host.stop().await;
}

#[tokio::test(start_paused = true)]
async fn health_says_what_is_wrong() {
    let plugin = Plugin::with_state("ill", "1.0.0", |_: Host, (): ()| async { Ok(Mutex::new(0)) })
        .health(|checks: Arc<Mutex<u32>>| async move {
            let check = {
                let mut checks = checks.lock().unwrap();
                *checks += 1;
                *checks
            };
            match check {
                1 => Ok(()),
                2 => Err(Error::unavailable("no more disk")),
                3 => panic!("really ill"),
                _ => {
                    pass(3600).await;
                    Ok(())
                }
            }
        })
        .action("fine", "", |_: Call<Mutex<u32>>, (): ()| async { Ok(()) });
    let host = TestHost::start(plugin).await.unwrap();
    assert_eq!(host.ping(true).await.unwrap().unhealthy.as_deref(), Some("no more disk"));
    let said = host.ping(true).await.unwrap().unhealthy.unwrap();
    assert!(said.starts_with("health panicked at ") && said.ends_with(": really ill"), "{said}");
    let (slow, beside) = tokio::join!(host.ping(true), host.ping(true));
    assert_eq!(slow.unwrap().unhealthy.as_deref(), Some("health took longer than 5000 ms"));
    assert_eq!(beside.unwrap().unhealthy.as_deref(), Some("the health check before this one is still running"));
    assert_eq!(host.ping(false).await.unwrap().unhealthy, None);
    host.call::<()>("fine", &()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn drain_lets_calls_end_and_refuses_new_ones() {
    let diary = Diary::default();
    let host = TestHost::start(noting(&diary)).await.unwrap();
    let (short, endless) = (host.begin("wait", &5), host.begin("watch", &()));
    host.ping(false).await.unwrap();
    host.begin_drain(Duration::from_secs(30));
    assert_eq!(endless.outcome().await.unwrap(), Outcome::Cancelled, "an endless call ends at once");
    let error = host.call::<()>("wait", &0).await.unwrap_err();
    assert_eq!((error.code, &*error.message), (ErrorCode::Unavailable, "the plugin is being drained"));
    assert_eq!(short.ended(), None);
    host.drained().await.unwrap();
    short.result::<()>().await.unwrap();
    assert_eq!(diary.read()[3..], ["drain"]);
    assert_eq!(host.stop().await.status(), 0);
    assert_eq!(diary.read()[4..], ["shutdown", "on_unload"]);
}

#[tokio::test(start_paused = true)]
async fn calls_that_outlast_a_drain_are_cancelled_before_its_end() {
    let diary = Diary::default();
    let host = TestHost::start(noting(&diary)).await.unwrap();
    let long = host.begin("wait", &3600);
    let begun = tokio::time::Instant::now();
    host.drain(Duration::from_secs(30)).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(27));
    assert_eq!(long.outcome().await.unwrap(), Outcome::Cancelled);
    assert_eq!(diary.read()[3..], ["cancelled: Draining", "drain"]);
}

#[tokio::test(start_paused = true)]
async fn the_end_of_input_cancels_what_is_under_way_and_ends_in_bounded_time() {
    let diary = Diary::default();
    let host = TestHost::start(noting(&diary)).await.unwrap();
    let _call = host.begin("wait", &3600);
    host.ping(false).await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(host.stop().await.status(), 0);
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert_eq!(diary.read()[3..], ["cancelled: Draining", "shutdown", "on_unload"]);
}

#[tokio::test(start_paused = true)]
async fn a_termination_is_like_the_end_of_input_even_while_starting() {
    let diary = Diary::default();
    let host = TestHost::start(noting(&diary)).await.unwrap();
    assert_eq!(host.terminate().await.status(), 0);
    assert_eq!(diary.read()[3..], ["shutdown", "on_unload"]);

    let diary = Diary::default();
    let unload = diary.clone();
    let plugin = Plugin::with_state("starting", "1.0.0", |_: Host, (): ()| std::future::pending::<Result<()>>())
        .on_unload(move || unload.note("on_unload"));
    let (_to_plugin, _from_plugin, life, terminate) = palisade_sdk::testing::spawn(plugin);
    terminate.send(()).unwrap();
    assert_eq!(life.await.unwrap().status(), 0);
    assert_eq!(diary.read(), ["on_unload"]);
}

#[tokio::test(start_paused = true)]
async fn handlers_and_hooks_that_do_not_end_are_left_behind() {
    let plugin = Plugin::new("stuck", "1.0.0")
        .shutdown_within(Duration::from_secs(8))
        .action("ignore", "Ignores its cancellation.", |call: Call, (): ()| async move {
            call.cancelled().await;
            std::future::pending::<()>().await;
            Ok(())
        })
        .shutdown(|_| std::future::pending())
        .on_unload(|| panic!("not even this"));
    let host = TestHost::start(plugin).await.unwrap();
    let _call = host.begin("ignore", &());
    host.ping(false).await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(host.stop().await.status(), 0);
    assert_eq!(begun.elapsed(), Duration::from_secs(8));
}

/// What the plugin says to another configuration is passed on; what it could not read, or refuses, is no reason for another process.
#[tokio::test(start_paused = true)]
async fn a_configuration_that_is_offered_is_accepted_declined_or_refused() {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        mood: String,
    }
    let diary = Diary::default();
    let heard = diary.clone();
    let plugin = Plugin::with_state("moody", "1.0.0", |_: Host, _: Config| async { Ok(()) })
        .on_error(move |failure| heard.note(failure.error.message.clone()))
        .configure(|_, config: Config| async move {
            match config.mood.as_str() {
                "calm" => Ok(Configure::Accept),
                "tired" => Ok(Configure::Decline("not today".into())),
                "absent" => Err(Error::configuration_invalid("there is no such mood")),
                "lost" => Err(Error::failed("no way")),
                _ => panic!("what a mood"),
            }
        })
        .action("idle", "Does nothing.", |_: Call<()>, (): ()| async { Ok(()) });
    let host = TestHost::start(plugin).await.unwrap();
    for (mood, answer, reason) in [
        (json!("calm"), ConfigureAnswer::Accepted, None),
        (json!("tired"), ConfigureAnswer::Declined, Some("not today")),
        (json!("absent"), ConfigureAnswer::Refused, Some("there is no such mood")),
        (json!(7), ConfigureAnswer::Refused, Some("mood")),
        (json!("lost"), ConfigureAnswer::Declined, Some("no way")),
        (json!("wild"), ConfigureAnswer::Declined, Some("what a mood")),
    ] {
        let said = host.configure(json!({ "mood": mood })).await.unwrap();
        assert_eq!(said.answer, answer, "{mood}: {said:?}");
        let expected = reason.unwrap_or_default();
        assert!(said.reason.unwrap_or_default().contains(expected), "{mood}");
    }
    // What is refused is no failure of the plugin's.
    assert_eq!(diary.read().len(), 2, "{:?}", diary.read());
    assert!(host.violations().is_empty());

    // Who has no hook is not asked, and declines all the same.
    let plain = Plugin::new("plain", "1.0.0").action("idle", "Does nothing.", |_: Call, (): ()| async { Ok(()) });
    let host = TestHost::start(plain).await.unwrap();
    assert_eq!(host.configure(json!({})).await.unwrap().answer, ConfigureAnswer::Declined);
}
