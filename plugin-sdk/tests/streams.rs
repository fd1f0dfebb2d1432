//! Streams over the in-memory supervisor: both ways, items and bytes, credit, ends of all kinds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use palisade_sdk::testing::{Outcome, TestHost};
use palisade_sdk::{Action, Call, Error, ErrorCode, Plugin, Result, log};
use serde_json::json;

/// So much of the paused time passes. Nobody is waited for with it: it is the length of some work.
async fn pass(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

fn streams() -> Plugin {
    Plugin::new("streams", "1.0.0")
        .with(Action::new("count", "Counts.").output::<u64>().handler(|call: Call, to: u64| async move {
            let mut numbers = call.output::<u64>()?;
            for number in 1..=to {
                numbers.send(number).await?;
            }
            Ok("counted")
        }))
        .with(Action::new("sum", "Adds up.").input::<u64>().handler(|call: Call, (): ()| async move {
            let mut numbers = call.input::<u64>()?;
            let mut sum = 0;
            while let Some(number) = numbers.next().await? {
                sum += number;
            }
            Ok(sum)
        }))
        .with(Action::new("cat", "Passes bytes on.").input_bytes().output_bytes().handler(
            |call: Call, (): ()| async move {
                let (mut input, mut output) = (call.input_bytes()?, call.output_bytes()?);
                while let Some(bytes) = input.next().await? {
                    output.send(bytes).await?;
                }
                Ok(())
            },
        ))
        .with(Action::new("blocking", "Passes items on, on a thread.").input::<String>().output::<String>().blocking(
            |call: Call, (): ()| {
                let (mut input, mut output) = (call.input::<String>()?, call.output::<String>()?);
                while let Some(text) = input.blocking_next()? {
                    output.blocking_send(text.to_uppercase())?;
                }
                Ok(())
            },
        ))
}

#[tokio::test(start_paused = true)]
async fn items_go_out_in_order_and_end_before_the_result() {
    let host = TestHost::start(streams()).await.unwrap();
    let call = host.begin("count", &1000);
    for number in 1..=1000_u64 {
        assert_eq!(call.next().await.unwrap(), Some(number));
    }
    assert_eq!(call.next::<u64>().await.unwrap(), None);
    assert_eq!(call.result::<String>().await.unwrap(), "counted");
    let info = host.ready().actions.iter().find(|action| action.name == "count").unwrap().output.clone().unwrap();
    assert_eq!(info.item.unwrap()["type"], "integer");
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

#[tokio::test(start_paused = true)]
async fn items_come_in_whatever_their_size() {
    let plugin = streams().with(Action::new("sizes", "Measures.").input::<String>().output::<usize>().handler(
        |call: Call, (): ()| async move {
            let (mut texts, mut sizes) = (call.input::<String>()?, call.output::<usize>()?);
            while let Some(text) = texts.next().await? {
                sizes.send(text.len()).await?;
            }
            Ok(())
        },
    ));
    let host = TestHost::start(plugin).await.unwrap();
    let call = host.begin("sum", &());
    for number in 1..=100_u64 {
        call.send(&number).await.unwrap();
    }
    call.end_input();
    assert_eq!(call.result::<u64>().await.unwrap(), 5050);
    let call = host.begin("sizes", &());
    let sizes = [0, 1, 100_000, 200_000, 1 << 20, 3 << 20];
    let feed = async {
        for size in sizes {
            call.send(&"x".repeat(size)).await.unwrap();
        }
        call.end_input();
    };
    let read = async {
        for size in sizes {
            assert_eq!(call.next().await.unwrap(), Some(size));
        }
        assert_eq!(call.next::<usize>().await.unwrap(), None);
    };
    tokio::join!(feed, read);
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

#[tokio::test(start_paused = true)]
async fn bytes_pass_both_ways_beyond_any_window() {
    let host = TestHost::start(streams()).await.unwrap();
    let call = host.begin("cat", &());
    let bytes: Vec<u8> = (0..4_000_000_u32).map(|number| number.to_le_bytes()[0] ^ number.to_le_bytes()[2]).collect();
    let feed = async {
        for piece in bytes.chunks(333_333) {
            call.send_bytes(piece.to_vec()).await.unwrap();
        }
        call.end_input();
    };
    let read = async {
        let mut got = Vec::new();
        while let Some(piece) = call.next_bytes().await.unwrap() {
            got.extend_from_slice(&piece);
        }
        got
    };
    let ((), got) = tokio::join!(feed, read);
    assert_eq!(got, bytes);
    call.result::<()>().await.unwrap();
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

// Without paused time, which stands still while a thread is at work, so that a hang would not be noticed.
#[tokio::test]
async fn threads_use_the_same_streams() {
    let host = TestHost::start(streams()).await.unwrap();
    let call = host.begin("blocking", &());
    for text in ["a", "b", "c"] {
        call.send(text).await.unwrap();
        assert_eq!(call.next::<String>().await.unwrap(), Some(text.to_uppercase()));
    }
    call.end_input();
    call.result::<()>().await.unwrap();
    // A thread that waits for its input ends when the call is cancelled.
    let call = host.begin("blocking", &());
    call.send("d").await.unwrap();
    assert_eq!(call.next::<String>().await.unwrap().as_deref(), Some("D"));
    call.cancel();
    assert_eq!(call.outcome().await.unwrap(), Outcome::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_stalls_its_own_stream_alone() {
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&sent);
    let plugin = streams().with(Action::new("pour", "Sends until it is stopped.").output_bytes().handler(
        move |call: Call, (): ()| {
            let sent = Arc::clone(&counted);
            async move {
                let mut output = call.output_bytes()?;
                loop {
                    output.send(vec![7; 64 << 10]).await?;
                    sent.fetch_add(64 << 10, Ordering::Relaxed);
                }
                #[expect(unreachable_code, reason = "the type of the result")]
                Ok(())
            }
        },
    ));
    let host = TestHost::start(plugin).await.unwrap();
    let stalled = host.begin("pour", &());
    let other = host.begin("pour", &());
    // Nobody reads the first; the second and all other calls go on.
    for _ in 0..200 {
        assert!(other.next_bytes().await.unwrap().is_some());
    }
    let call = host.begin("count", &100);
    for number in 1..=100_u64 {
        assert_eq!(call.next().await.unwrap(), Some(number));
    }
    // One window and the queue of each is all that the stalled one got rid of.
    let first = stalled.next_bytes().await.unwrap().unwrap();
    assert!(first.len() <= 128 << 10);
    assert!(sent.load(Ordering::Relaxed) < 201 * (128 << 10) + 4 * (1 << 20));
    stalled.stop_output(Error::cancelled());
    let Outcome::Err(error) = stalled.outcome().await.unwrap() else { panic!() };
    assert_eq!(error.code, ErrorCode::Cancelled, "the handler fails with what the receiver said");
    other.cancel();
    assert_eq!(other.outcome().await.unwrap(), Outcome::Cancelled);
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

#[tokio::test(start_paused = true)]
async fn an_unread_input_is_bounded_by_its_credit() {
    let plugin = Plugin::new("lazy", "1.0.0").with(Action::new("lazy", "Reads late.").input_bytes().handler(
        |call: Call, (): ()| async move {
            let mut input = call.input_bytes()?;
            pass(10).await;
            let mut bytes = 0;
            while let Some(piece) = input.next().await? {
                bytes += piece.len();
            }
            Ok(bytes)
        },
    ));
    let host = TestHost::start(plugin).await.unwrap();
    let call = host.begin("lazy", &());
    let begun = tokio::time::Instant::now();
    call.send_bytes(vec![1; 1_000_000]).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::ZERO, "what fits into the window goes at once");
    call.send_bytes(vec![1; 1_000_000]).await.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(10), "the rest waits for the reader");
    call.end_input();
    assert_eq!(call.result::<usize>().await.unwrap(), 2_000_000);
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

#[tokio::test(start_paused = true)]
async fn ends_of_all_kinds() {
    let plugin = streams()
        .with(Action::new("finish", "Ends its stream early.").output::<u8>().handler(|call: Call, (): ()| async move {
            let mut output = call.output::<u8>()?;
            output.send(1).await?;
            output.finish();
            pass(1).await;
            Ok(())
        }))
        .with(Action::new("abort", "Aborts its stream.").output::<u8>().handler(|call: Call, (): ()| async move {
            let mut output = call.output::<u8>()?;
            output.send(1).await?;
            output.abort(Error::failed("no more"));
            Ok(())
        }))
        .with(Action::new("fail", "Fails within its stream.").output::<u8>().handler(|call: Call, (): ()| async move {
            let mut output = call.output::<u8>()?;
            output.send(1).await?;
            Err::<(), _>(Error::failed("broken"))
        }))
        .with(Action::new("first", "Reads one item only.").input::<u8>().handler(|call: Call, (): ()| async move {
            let mut input = call.input::<u8>()?;
            let first = input.next().await?;
            drop(input);
            pass(1).await;
            Ok(first)
        }))
        .with(Action::new("wrong", "Tells wrong items.").input::<u8>().handler(|call: Call, (): ()| async move {
            let mut input = call.input::<u8>()?;
            let error = input.next().await.expect_err("the item is wrong");
            log::info!(call; "{}", error.message());
            input.next().await
        }));
    let host = TestHost::start(plugin).await.unwrap();

    let call = host.begin("finish", &());
    assert_eq!(call.next::<u8>().await.unwrap(), Some(1));
    assert_eq!(call.next::<u8>().await.unwrap(), None);
    assert_eq!(call.ended(), None);
    call.result::<()>().await.unwrap();

    let call = host.begin("abort", &());
    assert_eq!(call.next::<u8>().await.unwrap(), Some(1));
    assert_eq!(call.next::<u8>().await.unwrap_err().message, "no more");
    call.result::<()>().await.unwrap();

    let call = host.begin("fail", &());
    assert_eq!(call.next::<u8>().await.unwrap(), Some(1), "what was sent before the error arrives before it");
    assert_eq!(call.next::<u8>().await.unwrap_err().message, "broken");

    let call = host.begin("first", &());
    call.send(&5).await.unwrap();
    let stopped = loop {
        if let Err(error) = call.send(&6).await {
            break error;
        }
        host.ping(false).await.unwrap();
    };
    assert_eq!(stopped.message(), "the action reads no further");
    assert_eq!(call.result::<Option<u8>>().await.unwrap(), Some(5));

    let call = host.begin("wrong", &());
    call.send("text").await.unwrap();
    call.send(&7).await.unwrap();
    assert_eq!(call.result::<Option<u8>>().await.unwrap(), Some(7));
    host.log("invalid type: string \"text\", expected u8").await.unwrap();

    let call = host.begin("sum", &());
    call.send(&1).await.unwrap();
    call.abort_input(Error::not_found("the rest is lost"));
    let error = call.result::<u64>().await.unwrap_err();
    assert_eq!((error.code, &*error.message), (ErrorCode::ResourceNotFound, "the rest is lost"));
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

#[tokio::test(start_paused = true)]
async fn streams_that_were_not_declared_are_refused() {
    let plugin = streams()
        .action("undeclared", "Opens what it did not declare.", |call: Call, (): ()| async move {
            call.output::<u8>().map(|_| ())
        })
        .with(
            Action::new("mistyped", "Opens another type.")
                .output::<u8>()
                .handler(|call: Call, (): ()| async move { call.output::<u16>().map(|_| ()) }),
        )
        .with(
            Action::new("kind", "Opens the other kind.")
                .output_bytes()
                .handler(|call: Call, (): ()| async move { call.output::<u8>().map(|_| ()) }),
        )
        .with(Action::new("twice", "Opens it twice.").output::<u8>().input::<u8>().handler(
            |call: Call, input: bool| async move {
                if input {
                    let _first = call.input::<u8>()?;
                    call.input::<u8>().map(|_| ())
                } else {
                    let _first = call.output::<u8>()?;
                    call.output::<u8>().map(|_| ())
                }
            },
        ))
        .action("patient", "Waits.", |_: Call, (): ()| async move {
            pass(1).await;
            Ok(())
        });
    let host = TestHost::start(plugin).await.unwrap();
    let cases = [
        ("undeclared", json!(null), "the action `undeclared` declares no output stream"),
        (
            "mistyped",
            json!(null),
            "the action `mistyped` declares an output of items of type u8, and its handler asks for u16",
        ),
        ("kind", json!(null), "the action `kind` declares an output stream of the other kind"),
        ("twice", json!(true), "the call's input was taken before"),
        ("twice", json!(false), "the call's output was opened before"),
    ];
    for (action, params, message) in cases {
        assert_eq!(host.call::<()>(action, &params).await.unwrap_err().message, message);
    }
    // The caller's side of it.
    let call = host.begin("patient", &());
    let refused = loop {
        if let Err(error) = call.send(&1).await {
            break error;
        }
        host.ping(false).await.unwrap();
    };
    assert_eq!(
        (refused.code(), refused.message()),
        (ErrorCode::StreamingNotSupported, "the action `patient` reads no stream")
    );
    call.result::<()>().await.unwrap();
    let call = host.begin("cat", &());
    call.send(&1).await.unwrap();
    let error = call.result::<()>().await.unwrap_err();
    assert_eq!(
        (error.code, &*error.message),
        (ErrorCode::StreamingNotSupported, "the action `cat` reads a stream of bytes, not of items")
    );
    // A supervisor without streams.
    let host = TestHost::builder().features(["continue"]).start(streams()).await.unwrap();
    let error = host.call::<()>("count", &3).await.unwrap_err();
    assert_eq!((error.code, &*error.message), (ErrorCode::StreamingNotSupported, "the supervisor takes no streams"));
    assert!(host.violations().is_empty(), "{:?}", host.violations());
}

#[tokio::test(start_paused = true)]
async fn what_a_handler_leaves_behind_has_no_effect() -> Result<()> {
    let plugin = Plugin::new("leak", "1.0.0").with(
        Action::new("leak", "Leaks.").output::<u64>().input::<u64>().handler(|call: Call, (): ()| async move {
            let (mut output, mut input) = (call.output::<u64>()?, call.input::<u64>()?);
            tokio::spawn(async move {
                pass(1).await;
                assert_eq!(output.send(1).await.unwrap_err().code(), ErrorCode::Cancelled);
                assert_eq!(input.next().await.unwrap_err().code(), ErrorCode::Cancelled);
                log::info!(call; "both ended");
            });
            Ok(())
        }),
    );
    let host = TestHost::start(plugin).await?;
    let call = host.begin("leak", &());
    call.result::<()>().await?;
    host.log("both ended").await?;
    assert_eq!(call.next::<u64>().await?, None);
    assert!(host.violations().is_empty());
    Ok(())
}
