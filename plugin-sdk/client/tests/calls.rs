//! The client against a supervisor that plays every part: good ones, slow ones, and those that break the rules.

#![allow(clippy::unwrap_used, reason = "helpers of tests, in which it is allowed")]

mod fake;

use std::collections::HashMap;
use std::time::Duration;

use fake::{Fake, nothing, welcome, within};
use palisade_client::{CallError, Client, ErrorCode, InputError, Piece, Raw, StreamKind};
use palisade_protocol::{ErrorBody, Flags, Kind, Limits};
use serde_json::{Value, json};

/// Grants credit as the supervisor does, so that a sender can go on.
async fn credit(agent: &mut fake::Agent, id: u64, bytes: u32) {
    agent.send(Kind::StreamCredit, id, &json!({ "bytes": bytes }), &[]).await;
}

#[tokio::test]
async fn a_call_brings_its_result() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let call = client.call::<f64>("calculator", "evaluate", json!({"expression": "2+3"}));
    let serve = async {
        let got = agent.expect(Kind::Call).await;
        assert_eq!(got.body, json!({"action": "evaluate", "plugin": "calculator"}));
        assert_eq!(rmp_serde::from_slice::<Value>(&got.payload).unwrap(), json!({"expression": "2+3"}));
        assert_eq!(got.id % 2, 1);
        agent.ok(got.id, &5.0).await;
    };
    let (result, ()) = tokio::join!(call, serve);
    assert_eq!(result, Ok(5.0));
    assert_eq!(client.supervisor().as_deref(), Some("palisaded/fake"));
}

#[tokio::test]
async fn many_calls_go_at_once_and_each_gets_its_own_answer() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let calls: Vec<_> = (0..100_u64)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.call::<u64>("echo", "echo", number).await })
        })
        .collect();
    let mut got = vec![];
    for _ in 0..100 {
        got.push(agent.expect(Kind::Call).await);
    }
    assert!(got.windows(2).all(|pair| pair[0].id < pair[1].id), "ids grow");
    for call in got.iter().rev() {
        agent.send(Kind::Ok, call.id, &nothing(), &call.payload).await;
    }
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(within(call).await.unwrap(), Ok(number as u64));
    }
}

#[tokio::test]
async fn every_bad_end_is_told_apart() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;

    let error = ErrorBody::new(ErrorCode::PluginNotFound, "no plugin `ehco`").with_hint("did you mean `echo`?");
    let (result, ()) = tokio::join!(client.call::<()>("ehco", "echo", ()), async {
        let got = agent.expect(Kind::Call).await;
        agent.send(Kind::Err, got.id, &error, &[]).await;
    });
    assert_eq!(result, Err(CallError::Remote(Box::new(error.clone()))));
    assert_eq!(result.unwrap_err().hint().as_deref(), Some("did you mean `echo`?"));

    let (result, ()) = tokio::join!(client.call::<()>("echo", "echo", ()), async {
        let got = agent.expect(Kind::Call).await;
        agent.send(Kind::Cancelled, got.id, &json!({"message": "as you wish"}), &[]).await;
    });
    assert_eq!(result, Err(CallError::Remote(Box::new(ErrorBody::new(ErrorCode::Cancelled, "as you wish")))));

    let (result, ()) = tokio::join!(client.call::<u8>("echo", "echo", ()), async {
        let got = agent.expect(Kind::Call).await;
        agent.send(Kind::Ok, got.id, &nothing(), &[0xa2, 0xff]).await;
    });
    assert!(matches!(result, Err(CallError::Decode { what: "result", .. })), "{result:?}");

    struct Unencodable;
    impl serde::Serialize for Unencodable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("not today"))
        }
    }
    let result = client.call::<()>("echo", "echo", Unencodable).await;
    assert_eq!(result, Err(CallError::Invalid { detail: "the value cannot be encoded: not today".into() }));

    let long = "x".repeat(70_000);
    let result = client.call::<()>("echo", &long, ()).await;
    assert!(matches!(result, Err(CallError::Invalid { .. })), "{result:?}");

    let result = client.call::<()>("echo", "echo", Raw::new(vec![0; (64 << 20) + 1])).await;
    assert!(matches!(result, Err(CallError::Invalid { .. })), "{result:?}");
}

#[tokio::test]
async fn dropping_a_call_sends_cancel_and_the_connection_lives_on() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let id = {
        let call = client.call::<()>("echo", "slow", ());
        let mut call = std::pin::pin!(call);
        tokio::select! {
            _ = &mut call => panic!("nobody answered"),
            got = agent.expect(Kind::Call) => got.id,
        }
    };
    let got = agent.expect(Kind::Cancel).await;
    assert_eq!((got.id, got.body), (id, json!({"reason": "caller"})));
    // The late answer of the cancelled call concerns nobody.
    agent.ok(id, &1).await;
    let (result, ()) = tokio::join!(client.call::<u8>("echo", "echo", 7), async {
        let got = agent.expect(Kind::Call).await;
        agent.ok(got.id, &7).await;
    });
    assert_eq!(result, Ok(7));
}

#[tokio::test]
async fn no_more_calls_are_under_way_than_the_supervisor_allows() {
    let fake = Fake::new();
    let limits = Limits { calls_max: 2, ..Limits::default() };
    let (client, mut agent) = fake.connect_with(welcome(limits)).await;
    let calls: Vec<_> = (0..5_u8)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.call::<u8>("echo", "echo", number).await })
        })
        .collect();
    let mut under_way = vec![agent.expect(Kind::Call).await, agent.expect(Kind::Call).await];
    for _ in 0..3 {
        // A third call sent too early would be here.
        assert_eq!(unless_quiet(&mut agent).await, None);
        let done = under_way.remove(0);
        agent.send(Kind::Ok, done.id, &nothing(), &done.payload).await;
        under_way.push(agent.expect(Kind::Call).await);
    }
    for done in under_way {
        agent.send(Kind::Ok, done.id, &nothing(), &done.payload).await;
    }
    for (number, call) in calls.into_iter().enumerate() {
        assert_eq!(within(call).await.unwrap(), Ok(number as u8));
    }
}

#[tokio::test]
async fn a_cancelled_call_keeps_its_place_until_it_is_answered() {
    let fake = Fake::new();
    let limits = Limits { calls_max: 1, ..Limits::default() };
    let (client, mut agent) = fake.connect_with(welcome(limits)).await;
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.call::<u8>("echo", "slow", 1).await }
    });
    let slow = agent.expect(Kind::Call).await;
    let second = tokio::spawn(async move { client.call::<u8>("echo", "echo", 2).await });
    first.abort();
    assert_eq!(agent.expect(Kind::Cancel).await.id, slow.id);
    agent.send(Kind::Cancelled, slow.id, &nothing(), &[]).await;
    let got = agent.expect(Kind::Call).await;
    agent.ok(got.id, &2).await;
    assert_eq!(within(second).await.unwrap(), Ok(2));
}

/// The next frame, if there is one once all tasks have done what they can, which takes them far fewer turns than these.
async fn unless_quiet(agent: &mut fake::Agent) -> Option<fake::Got> {
    for _ in 0..200 {
        tokio::task::yield_now().await;
    }
    tokio::time::timeout(Duration::ZERO, agent.next()).await.ok()
}

#[tokio::test]
async fn a_sender_without_credit_waits_for_more() {
    let fake = Fake::new();
    let limits = Limits { credit_bytes: 100_000, ..Limits::default() };
    let (client, mut agent) = fake.connect_with(welcome(limits)).await;
    let sent = Raw::encode(&"x".repeat(400_000)).unwrap();
    let call = tokio::spawn({
        let (client, sent) = (client.clone(), sent.clone());
        async move { client.call::<u8>("echo", "echo", &sent).await }
    });
    let call_frame = agent.expect(Kind::Call).await;
    let mut received = call_frame.payload.len();
    let mut granted = 100_000;
    loop {
        let mut more = true;
        let mut used = 0;
        while let Some(piece) = unless_quiet(&mut agent).await {
            assert_eq!(piece.kind, Kind::Continue);
            received += piece.payload.len();
            used += piece.payload.len() + 1;
            more = piece.more;
        }
        assert!(0 < used && used <= granted, "{used} of {granted}");
        if !more {
            break;
        }
        granted = used;
        credit(&mut agent, call_frame.id, used as u32).await;
    }
    assert_eq!(received, sent.bytes().len());
    agent.ok(call_frame.id, &7).await;
    assert_eq!(within(call).await.unwrap(), Ok(7));
}

/// Sends a payload as the result of a call, in pieces under credit; what was spent of it before is taken into account.
async fn large_result(agent: &mut fake::Agent, id: u64, payload: &[u8], mut allowance: i64) {
    let mut pieces = payload.chunks(10_000).peekable();
    let first = pieces.next().unwrap();
    agent.send_flagged(Kind::Ok, Flags::MORE, id, &nothing(), first).await;
    while let Some(piece) = pieces.next() {
        while allowance < piece.len() as i64 + 1 {
            let got = agent.next().await;
            if got.kind == Kind::StreamCredit {
                allowance += got.body["bytes"].as_i64().unwrap();
            }
        }
        allowance -= piece.len() as i64 + 1;
        let flags = if pieces.peek().is_some() { Flags::MORE } else { Flags::NONE };
        agent.send_flagged(Kind::Continue, flags, id, &nothing(), piece).await;
    }
}

#[tokio::test]
async fn a_large_result_of_a_cancelled_call_comes_to_its_end() {
    let fake = Fake::new();
    let limits = Limits { calls_max: 1, credit_bytes: 20_000, ..Limits::default() };
    let (client, mut agent) = fake.connect_with(welcome(limits)).await;
    let first = tokio::spawn({
        let client = client.clone();
        async move { client.call::<u8>("echo", "big", 1).await }
    });
    let call = agent.expect(Kind::Call).await;
    first.abort();
    agent.expect(Kind::Cancel).await;
    // It had streamed and finished before it heard of that.
    agent.send(Kind::StreamOpen, call.id, &json!({"kind": "bytes"}), &[]).await;
    agent.send(Kind::StreamData, call.id, &nothing(), &[0; 18_000]).await;
    agent.send(Kind::StreamEnd, call.id, &nothing(), &[]).await;
    large_result(&mut agent, call.id, &vec![0xc0; 100_000], 20_000 - 18_001).await;
    // Only with its end is there a place for the next.
    let (result, ()) = tokio::join!(client.call::<u8>("echo", "echo", ()), async {
        let got = agent.expect(Kind::Call).await;
        agent.ok(got.id, &7).await;
    });
    assert_eq!(result, Ok(7));
}

#[tokio::test]
async fn an_output_that_nobody_read_does_not_hold_up_the_result() {
    let fake = Fake::new();
    let limits = Limits { credit_bytes: 20_000, ..Limits::default() };
    let expected = Raw::encode(&"x".repeat(90_000)).unwrap();
    for is_read in [false, true] {
        let (client, mut agent) = fake.connect_with(welcome(limits)).await;
        let (running, call) =
            tokio::join!(async { client.request("echo", "both").start().await.unwrap() }, agent.expect(Kind::Call));
        let mut output = is_read.then(|| running.output());
        let serve = async {
            agent.send(Kind::StreamOpen, call.id, &json!({"kind": "bytes"}), &[]).await;
            agent.send(Kind::StreamData, call.id, &nothing(), &[5; 18_000]).await;
            agent.send(Kind::StreamEnd, call.id, &nothing(), &[]).await;
            large_result(&mut agent, call.id, expected.bytes(), 20_000 - 18_001).await;
        };
        let (result, ()) = tokio::join!(running.result::<Raw>(), serve);
        assert!(result.unwrap() == expected);
        if let Some(output) = &mut output {
            assert_eq!(output.next_bytes().await.unwrap().unwrap().len(), 18_000, "it is still there to be read");
            assert_eq!(output.next_bytes().await, None);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_forgets_the_deadline_is_not_waited_for() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let begun = tokio::time::Instant::now();
    let call = client.request("echo", "slow").timeout(Duration::from_secs(2)).call::<()>();
    let (result, got) = tokio::join!(call, agent.expect(Kind::Call));
    assert_eq!(result, Err(CallError::TimedOut { after: Duration::from_secs(2) }));
    let taken = begun.elapsed();
    assert!((Duration::from_secs(7)..Duration::from_secs(8)).contains(&taken), "timeout and grace: {taken:?}");
    let deadline = got.body["deadline_ms"].as_u64().unwrap();
    assert!((1900..=2000).contains(&deadline), "{deadline}");
    let cancel = agent.expect(Kind::Cancel).await;
    assert_eq!((cancel.id, cancel.body), (got.id, json!({"reason": "deadline"})));
}

#[tokio::test(start_paused = true)]
async fn a_timeout_is_told_as_it_was_asked_for_not_as_it_was_sent() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let begun = tokio::time::Instant::now();
    tokio::time::advance(Duration::from_millis(40)).await;
    for (by, message, named) in [
        ("caller", "no answer within 160 ms, the caller's deadline", "no answer within 200 ms, the caller's deadline"),
        ("action", "no answer within 160 ms, the action's limit", "no answer within 160 ms, the action's limit"),
    ] {
        let call = client.request("echo", "slow").timeout(Duration::from_millis(200)).counted_from(begun).call::<()>();
        let answer = async {
            let got = agent.expect(Kind::Call).await;
            assert!(got.body["deadline_ms"].as_u64().unwrap() <= 160, "what is left of it");
            let error = ErrorBody::new(ErrorCode::Timeout, message);
            let error = error.with_details(json!({ "limited_by": by, "limit_ms": 160 }));
            agent.send(Kind::Err, got.id, &error, &[]).await;
        };
        let (result, ()) = tokio::join!(call, answer);
        assert_eq!(result.unwrap_err().body().unwrap().message, named);
    }
}

#[tokio::test(start_paused = true)]
async fn a_shorter_timeout_is_not_held_up_by_a_longer_one() {
    let fake = Fake::new();
    let (client, mut agent) =
        tokio::join!(Client::builder().path(fake.path()).grace(Duration::ZERO).connect(), fake.accept());
    let client = client.unwrap();
    let begun = tokio::time::Instant::now();
    let long = client.request("echo", "slow").timeout(Duration::from_secs(20)).call::<()>();
    let short = client.request("echo", "slow").timeout(Duration::from_secs(1)).call::<()>();
    tokio::pin!(long);
    tokio::select! {
        biased;
        _ = &mut long => panic!("nobody answered"),
        // The longer one is under way, and waited for.
        _ = agent.expect(Kind::Call) => {}
    }
    assert_eq!(short.await, Err(CallError::TimedOut { after: Duration::from_secs(1) }));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(long.await, Err(CallError::TimedOut { after: Duration::from_secs(20) }));
}

#[tokio::test(start_paused = true)]
async fn a_silent_supervisor_is_asked_and_then_given_up() {
    let fake = Fake::new();
    let builder = Client::builder().path(fake.path()).keepalive(Some(Duration::from_secs(5)));
    let (client, mut agent) = tokio::join!(builder.connect(), fake.accept());
    let client = client.unwrap();
    let (result, ()) = tokio::join!(client.call::<()>("echo", "slow", ()), async {
        agent.expect(Kind::Call).await;
        // Answered once, it is heard; silent the next time, it is given up.
        let ping = agent.expect(Kind::Ping).await;
        assert_eq!(ping.id % 2, 1);
        agent.send(Kind::Pong, ping.id, &json!({"calls": 1}), &[]).await;
        agent.expect(Kind::Ping).await;
        assert_eq!(agent.try_next().await, None, "the connection is closed");
    });
    assert_eq!(result, Err(CallError::Lost { reason: "the daemon was silent for 10 s".into(), sent: true }));
}

#[tokio::test]
async fn a_large_payload_is_cut_and_joined_under_credit() {
    let fake = Fake::new();
    let limits = Limits { credit_bytes: 300_000, ..Limits::default() };
    let (client, mut agent) = fake.connect_with(welcome(limits)).await;
    let bytes: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let params = Raw::encode(&serde_bytes::Bytes::new(&bytes)).unwrap();
    let serve = async {
        let call = agent.expect(Kind::Call).await;
        assert!(call.more);
        let (mut joined, mut unpaid) = (call.payload, 0_usize);
        loop {
            let piece = agent.expect(Kind::Continue).await;
            assert_eq!(piece.id, call.id);
            assert!(piece.payload.len() <= 128 << 10);
            unpaid += piece.payload.len() + 1;
            assert!(unpaid <= 300_000, "no more is sent than was granted");
            joined.extend(piece.payload);
            if !piece.more {
                break;
            }
            if unpaid > 150_000 {
                credit(&mut agent, call.id, unpaid as u32).await;
                unpaid = 0;
            }
        }
        // Back the same way; the client has to grant for it.
        let mut pieces = joined.chunks(100_000).peekable();
        let first = pieces.next().unwrap();
        agent.send_flagged(Kind::Ok, Flags::MORE, call.id, &nothing(), first).await;
        let mut allowance = 300_000_i64;
        while let Some(piece) = pieces.next() {
            while allowance < piece.len() as i64 + 1 {
                let grant = agent.expect(Kind::StreamCredit).await;
                allowance += grant.body["bytes"].as_i64().unwrap();
            }
            allowance -= piece.len() as i64 + 1;
            let flags = if pieces.peek().is_some() { Flags::MORE } else { Flags::NONE };
            agent.send_flagged(Kind::Continue, flags, call.id, &nothing(), piece).await;
        }
        joined
    };
    let (result, joined) = tokio::join!(client.call::<Raw>("echo", "echo", &params), serve);
    assert!(params.bytes() == joined.as_slice(), "what arrived is what was sent");
    assert!(result.unwrap() == params, "what came back is what was sent");
}

#[tokio::test]
async fn large_frames_arrive_whole_however_they_are_cut() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    for size in [32 << 10, (32 << 10) + 1, 70_000, 1 << 19, (1 << 20) - 1] {
        let payload: Vec<u8> = (0..size).map(|n| (n % 249) as u8).collect();
        let (result, ()) = tokio::join!(client.call::<Raw>("echo", "echo", ()), async {
            let got = agent.expect(Kind::Call).await;
            let mut wire = vec![];
            palisade_protocol::encode(&mut wire, Kind::Progress, Flags::NONE, got.id, &nothing(), &[]);
            palisade_protocol::encode(&mut wire, Kind::Ok, Flags::NONE, got.id, &nothing(), &payload);
            palisade_protocol::encode(&mut wire, Kind::Pong, Flags::NONE, 99, &nothing(), &[]);
            for piece in wire.chunks(10_007) {
                agent.write(piece).await;
                tokio::task::yield_now().await;
            }
        });
        assert!(result.unwrap().bytes() == payload.as_slice(), "{size}");
    }
}

#[tokio::test]
async fn a_stream_of_items_is_read_and_credit_granted_as_it_is_consumed() {
    let fake = Fake::new();
    let limits = Limits { credit_bytes: 10_000, ..Limits::default() };
    let (client, mut agent) = fake.connect_with(welcome(limits)).await;
    let read = async {
        let mut items = client.request("echo", "count").items::<String>().await.unwrap();
        let mut count = 0;
        while let Some(item) = items.next().await {
            assert_eq!(item.unwrap(), format!("{count:0>997}"));
            count += 1;
        }
        assert_eq!(items.result::<u8>().await, Ok(9));
        count
    };
    let serve = async {
        let call = agent.expect(Kind::Call).await;
        agent.send(Kind::StreamOpen, call.id, &json!({"kind": "items"}), &[]).await;
        let mut allowance = 10_000_i64;
        for number in 0..50 {
            let payload = rmp_serde::to_vec(&format!("{number:0>997}")).unwrap();
            while allowance < payload.len() as i64 + 1 {
                let grant = agent.expect(Kind::StreamCredit).await;
                assert!(grant.body["bytes"].as_i64().unwrap() >= 5_000, "granted by halves");
                allowance += grant.body["bytes"].as_i64().unwrap();
                assert!(allowance <= 10_000, "never more outstanding than it began with");
            }
            allowance -= payload.len() as i64 + 1;
            agent.send(Kind::StreamData, call.id, &nothing(), &payload).await;
        }
        agent.send(Kind::StreamEnd, call.id, &nothing(), &[]).await;
        agent.ok(call.id, &9).await;
    };
    let (count, ()) = tokio::join!(read, serve);
    assert_eq!(count, 50);
}

#[tokio::test]
async fn a_reader_that_rests_stalls_its_own_stream_alone() {
    let fake = Fake::new();
    let limits = Limits { credit_bytes: 10_000, ..Limits::default() };
    let (client, mut agent) = fake.connect_with(welcome(limits)).await;
    let (mut items, call) =
        tokio::join!(async { client.request("echo", "count").items::<Raw>().await.unwrap() }, agent.expect(Kind::Call));
    agent.send(Kind::StreamOpen, call.id, &json!({"kind": "items"}), &[]).await;
    let item = rmp_serde::to_vec(&"x".repeat(4_990)).unwrap();
    for _ in 0..2 {
        agent.send(Kind::StreamData, call.id, &nothing(), &item).await;
    }
    // All credit is used and none comes back, but another call is answered.
    for number in 0..3 {
        let (result, ()) = tokio::join!(client.call::<u8>("echo", "echo", number), async {
            let got = agent.expect(Kind::Call).await;
            agent.ok(got.id, &number).await;
        });
        assert_eq!(result, Ok(number));
    }
    assert!(items.next().await.unwrap().is_ok());
    assert!(items.next().await.unwrap().is_ok());
    assert_eq!(agent.expect(Kind::StreamCredit).await.id, call.id);
}

#[tokio::test]
async fn items_larger_than_the_credit_are_joined() {
    let fake = Fake::new();
    let limits = Limits { credit_bytes: 100_000, ..Limits::default() };
    let (client, mut agent) = fake.connect_with(welcome(limits)).await;
    let item = rmp_serde::to_vec(&"x".repeat(350_000)).unwrap();
    let read = async {
        let mut items = client.request("echo", "big").items::<Raw>().await.unwrap();
        for _ in 0..3 {
            assert!(items.next().await.unwrap().unwrap().bytes() == item.as_slice());
        }
        assert_eq!(items.next().await, None);
    };
    let serve = async {
        let call = agent.expect(Kind::Call).await;
        agent.send(Kind::StreamOpen, call.id, &json!({"kind": "items"}), &[]).await;
        let mut allowance = 100_000_i64;
        for _ in 0..3 {
            let mut pieces = item.chunks(40_000).peekable();
            while let Some(piece) = pieces.next() {
                while allowance < piece.len() as i64 + 1 {
                    allowance += agent.expect(Kind::StreamCredit).await.body["bytes"].as_i64().unwrap();
                }
                allowance -= piece.len() as i64 + 1;
                let flags = if pieces.peek().is_some() { Flags::MORE } else { Flags::NONE };
                agent.send_flagged(Kind::StreamData, flags, call.id, &nothing(), piece).await;
            }
        }
        agent.send(Kind::StreamEnd, call.id, &nothing(), &[]).await;
    };
    tokio::join!(read, serve);
}

#[tokio::test]
async fn a_stream_each_way_at_once() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let serve = tokio::spawn(async move {
        let call = agent.expect(Kind::Call).await;
        assert_eq!(agent.expect(Kind::StreamOpen).await.body, json!({"kind": "bytes"}));
        agent.send(Kind::StreamOpen, call.id, &json!({"kind": "bytes"}), &[]).await;
        let mut total = 0;
        let mut since = 0;
        loop {
            let got = agent.next().await;
            match got.kind {
                Kind::StreamData => {
                    total += got.payload.len();
                    since += got.payload.len() as u32 + 1;
                    agent.send(Kind::StreamData, call.id, &nothing(), &got.payload.to_ascii_uppercase()).await;
                    if since > 512 << 10 {
                        credit(&mut agent, call.id, since).await;
                        since = 0;
                    }
                }
                Kind::StreamCredit => {}
                Kind::StreamEnd => break,
                other => panic!("{other:?}"),
            }
        }
        agent.send(Kind::StreamEnd, call.id, &nothing(), &[]).await;
        agent.ok(call.id, &total).await;
    });
    let running = client.request("echo", "upper").start().await.unwrap();
    let mut input = running.input(StreamKind::Bytes).unwrap();
    let mut output = running.output();
    let write = async {
        for _ in 0..100 {
            input.write(vec![b'a'; 50_000]).await.unwrap();
        }
        input.finish();
    };
    let read = async {
        let mut total = 0;
        while let Some(bytes) = output.next_bytes().await {
            let bytes = bytes.unwrap();
            assert!(bytes.iter().all(|byte| *byte == b'A'));
            total += bytes.len();
        }
        total
    };
    let ((), total) = within(async { tokio::join!(write, read) }).await;
    assert_eq!(total, 5_000_000);
    assert_eq!(running.result::<usize>().await, Ok(5_000_000));
    serve.await.unwrap();
}

#[tokio::test]
async fn small_calls_overtake_a_stream_that_is_stuck() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let (running, call) =
        tokio::join!(async { client.request("echo", "cat").start().await.unwrap() }, agent.expect(Kind::Call));
    let mut input = running.input(StreamKind::Bytes).unwrap();
    // More than socket, outbox and credit hold together.
    let write = tokio::spawn(async move { input.write(vec![0; 8 << 20]).await });
    agent.expect(Kind::StreamOpen).await;
    let small = tokio::spawn({
        let client = client.clone();
        async move { client.call::<u8>("echo", "echo", 5).await }
    });
    let mut data = 0;
    let got = loop {
        let got = agent.next().await;
        if got.kind == Kind::Call {
            break got;
        }
        data += got.payload.len();
    };
    assert!(data <= 1 << 20, "the call did not wait for more than the credit: {data}");
    agent.ok(got.id, &5).await;
    assert_eq!(within(small).await.unwrap(), Ok(5));
    // The receiver wants no more, which ends the writing and not the call.
    agent
        .send(
            Kind::StreamAbort,
            call.id,
            &json!({"by": "receiver", "error": ErrorBody::new(ErrorCode::Cancelled, "enough")}),
            &[],
        )
        .await;
    assert_eq!(within(write).await.unwrap(), Err(InputError::Closed));
    agent.ok(call.id, &"fine").await;
    assert_eq!(running.result::<String>().await.as_deref(), Ok("fine"));
}

#[tokio::test]
async fn what_nobody_reads_is_refused() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let (result, ()) = tokio::join!(client.call::<u8>("echo", "count", ()), async {
        let call = agent.expect(Kind::Call).await;
        agent.send(Kind::StreamOpen, call.id, &json!({"kind": "items"}), &[]).await;
        agent.send(Kind::StreamData, call.id, &nothing(), &[1]).await;
        let abort = agent.expect(Kind::StreamAbort).await;
        assert_eq!((abort.id, &abort.body["by"]), (call.id, &json!("receiver")));
        agent.ok(call.id, &3).await;
    });
    assert_eq!(result, Ok(3));
    // The same when the output is dropped half way.
    let serve = async {
        let call = agent.expect(Kind::Call).await;
        agent.send(Kind::StreamOpen, call.id, &json!({"kind": "items"}), &[]).await;
        agent.send(Kind::StreamData, call.id, &nothing(), &[1]).await;
        assert_eq!(agent.expect(Kind::StreamAbort).await.body["by"], "receiver");
        agent.send(Kind::StreamData, call.id, &nothing(), &[2]).await;
        agent.ok(call.id, &4).await;
    };
    let read = async {
        let mut items = client.request("echo", "count").items::<u8>().await.unwrap();
        assert_eq!(items.next().await, Some(Ok(1)));
        items.result::<u8>().await
    };
    assert_eq!(tokio::join!(read, serve).0, Ok(4));
}

#[tokio::test]
async fn a_failing_call_ends_its_streams() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let error = ErrorBody::new(ErrorCode::ExecutionFailed, "out of numbers");
    let serve = async {
        let call = agent.expect(Kind::Call).await;
        agent.expect(Kind::StreamOpen).await;
        agent.send(Kind::StreamOpen, call.id, &json!({"kind": "items"}), &[]).await;
        agent.send(Kind::StreamData, call.id, &nothing(), &[1]).await;
        agent.send(Kind::Err, call.id, &error, &[]).await;
    };
    let read = async {
        let running = client.request("echo", "count").start().await.unwrap();
        let mut input = running.input(StreamKind::Items).unwrap();
        let mut output = running.output();
        assert_eq!(output.next().await, Some(Ok(Piece::Item(Raw::new(vec![1])))));
        assert_eq!(output.next().await, Some(Err(CallError::Remote(Box::new(error.clone())))));
        assert_eq!(output.next().await, None);
        assert_eq!(input.send(1).await, Err(InputError::Closed));
        assert_eq!(running.result::<()>().await, Err(CallError::Remote(Box::new(error.clone()))));
    };
    tokio::join!(serve, read);
    // Aborted by its sender, the stream ends with that, and the call goes on.
    let serve = async {
        let call = agent.expect(Kind::Call).await;
        agent.send(Kind::StreamOpen, call.id, &json!({"kind": "bytes"}), &[]).await;
        agent.send(Kind::StreamAbort, call.id, &json!({"error": &error}), &[]).await;
        agent.ok(call.id, &1).await;
    };
    let read = async {
        let running = client.request("echo", "count").start().await.unwrap();
        let mut output = running.output();
        assert_eq!(output.next().await, Some(Err(CallError::Remote(Box::new(error.clone())))));
        assert_eq!(running.result::<u8>().await, Ok(1));
    };
    tokio::join!(serve, read);
}

#[tokio::test]
async fn dropping_what_runs_cancels_it_even_with_its_input_alive() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let (running, call) =
        tokio::join!(async { client.request("echo", "cat").start().await.unwrap() }, agent.expect(Kind::Call));
    let mut input = running.input(StreamKind::Items).unwrap();
    agent.expect(Kind::StreamOpen).await;
    drop(running);
    assert_eq!(agent.expect(Kind::Cancel).await.id, call.id);
    assert_eq!(input.send(1).await, Err(InputError::Closed));
}

#[tokio::test]
async fn cancelling_ends_an_input_that_waits_for_credit() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let (running, call) =
        tokio::join!(async { client.request("echo", "cat").start().await.unwrap() }, agent.expect(Kind::Call));
    let mut input = running.input(StreamKind::Bytes).unwrap();
    let write = tokio::spawn(async move { input.write(vec![0; 2 << 20]).await });
    while unless_quiet(&mut agent).await.is_some() {}
    running.canceller().cancel();
    assert_eq!(within(write).await.unwrap(), Err(InputError::Closed));
    assert_eq!(agent.expect(Kind::Cancel).await.id, call.id);
}

#[tokio::test]
async fn an_input_that_is_given_up_says_so() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let (running, call) =
        tokio::join!(async { client.request("echo", "cat").start().await.unwrap() }, agent.expect(Kind::Call));
    let mut input = running.input(StreamKind::Items).unwrap();
    agent.expect(Kind::StreamOpen).await;
    input.send("one").await.unwrap();
    assert_eq!(agent.expect(Kind::StreamData).await.payload, b"\xa3one");
    input.send(Raw::default()).await.unwrap();
    assert_eq!(agent.expect(Kind::StreamData).await.payload, [0xc0], "an empty value is nil");
    assert!(matches!(input.write("bytes").await, Err(InputError::Invalid(_))));
    drop(input);
    let abort = agent.expect(Kind::StreamAbort).await;
    assert_eq!(abort.id, call.id);
    assert_eq!(abort.body["error"]["code"], "cancelled");
    assert_eq!(abort.body.get("by"), None, "its sender says so");
}

#[tokio::test]
async fn of_progress_the_newest_is_kept() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let (running, call) =
        tokio::join!(async { client.request("echo", "slow").start().await.unwrap() }, agent.expect(Kind::Call));
    let mut progress = running.progress();
    agent.send(Kind::Progress, call.id, &json!({"percentage": 10.0}), &[]).await;
    assert_eq!(within(progress.next()).await.unwrap().percentage, Some(10.0));
    for percentage in [20.0, 30.0, 40.0] {
        agent.send(Kind::Progress, call.id, &json!({"percentage": percentage, "message": "on"}), &[]).await;
    }
    agent.ok(call.id, &()).await;
    running.result::<()>().await.unwrap();
    // Whether it was read in one piece or several, the last one is the newest.
    let mut last = None;
    while let Some(update) = progress.next().await {
        last = update.percentage;
    }
    assert!(last.is_none() || last == Some(40.0));
}

#[tokio::test]
async fn bytes_that_are_no_frames_end_the_connection_with_a_reason() {
    let frame = |kind, body: Value| {
        let mut bytes = vec![];
        palisade_protocol::encode(&mut bytes, kind, Flags::NONE, 1, &body, &[]);
        bytes
    };
    let garbage: Vec<(&str, Vec<u8>)> = vec![
        ("without a body", vec![0; 16]),
        ("more than the limit", [[0xff; 4].as_slice(), &[0x13; 12]].concat()),
        ("must be understood", [2, 0, 0, 0, 0x7f, 2, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x80, 0].to_vec()),
        ("not a map", [1, 0, 0, 0, 0x13, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0x90].to_vec()),
        ("Err:", frame(Kind::Err, json!({"code": 7}))),
        ("never gets", frame(Kind::Call, json!({"action": "x"}))),
        ("never gets", frame(Kind::Welcome, json!({}))),
        ("middle of a frame", vec![9, 0, 0, 0, 0x13]),
    ];
    for (expected, bytes) in garbage {
        let fake = Fake::new();
        let (client, mut agent) = fake.connect().await;
        let call = client.call::<Raw>("echo", "echo", ());
        let serve = async {
            agent.expect(Kind::Call).await;
            agent.write(&bytes).await;
            if expected == "middle of a frame" {
                drop(agent);
                return;
            }
            let refuse = agent.expect(Kind::Refuse).await;
            assert_eq!(refuse.body["error"]["code"], "protocol_violation", "{expected}");
            assert_eq!(agent.try_next().await, None);
        };
        match within(async { tokio::join!(call, serve) }).await.0 {
            Err(CallError::Lost { reason, sent: true }) => assert!(reason.contains(expected), "{expected}: {reason}"),
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn frames_out_of_order_fail_their_call_alone() {
    const NONE: Flags = Flags::NONE;
    fn frame(kind: Kind, flags: Flags, body: Value, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![];
        palisade_protocol::encode(&mut bytes, kind, flags, 1, &body, payload);
        bytes
    }
    let open = |kind: &str| frame(Kind::StreamOpen, NONE, json!({ "kind": kind }), &[]);
    let data = |flags, size: usize| frame(Kind::StreamData, flags, json!({}), &vec![0; size]);
    let end = || frame(Kind::StreamEnd, NONE, json!({}), &[]);
    let disorders: Vec<(&str, Vec<u8>)> = vec![
        ("outside of a stream", data(NONE, 1)),
        ("outside of a stream", [open("items"), end(), data(NONE, 1)].concat()),
        ("second output stream", [open("items"), open("items")].concat()),
        ("had not begun", frame(Kind::Continue, NONE, json!({}), &[1])),
        ("raises the credit", frame(Kind::StreamCredit, NONE, json!({"bytes": u32::MAX}), &[])),
        ("with a credit of", [open("bytes"), data(NONE, 600_000).repeat(2)].concat()),
        // An item that is next in the queue is paid for as it is joined, one behind another is not.
        ("with a credit of", [open("items"), data(NONE, 1), data(Flags::MORE, 600_000).repeat(2)].concat()),
        (
            "before another value",
            [frame(Kind::Ok, Flags::MORE, json!({}), &[1]), frame(Kind::Ok, NONE, json!({}), &[1])].concat(),
        ),
        (
            "before another value",
            [open("items"), data(Flags::MORE, 1), frame(Kind::Ok, NONE, json!({}), &[1])].concat(),
        ),
    ];
    for (expected, bytes) in disorders {
        let fake = Fake::new();
        let (client, mut agent) = fake.connect().await;
        let (running, _) =
            tokio::join!(async { client.request("echo", "echo").start().await.unwrap() }, agent.expect(Kind::Call));
        // Wanted and not read, so that its credit is not given back.
        let _output = running.output();
        let serve = async {
            agent.write(&bytes).await;
            let got = loop {
                let got = agent.next().await;
                if got.kind != Kind::StreamCredit {
                    break got;
                }
            };
            assert_eq!((got.kind, got.id), (Kind::Cancel, 1), "{expected}");
            agent.send(Kind::Cancelled, 1, &nothing(), &[]).await;
            let got = agent.expect(Kind::Call).await;
            agent.ok(got.id, &8).await;
        };
        let ask = async {
            let result = running.result::<Raw>().await;
            assert_eq!(client.call::<u8>("echo", "echo", ()).await, Ok(8), "{expected}: the neighbour did not notice");
            result
        };
        match within(async { tokio::join!(ask, serve) }).await.0 {
            Err(CallError::Remote(body)) => {
                assert_eq!(body.code, ErrorCode::ProtocolViolation);
                assert!(body.message.contains(expected), "{expected}: {}", body.message);
            }
            other => panic!("{expected}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn what_concerns_nobody_is_skipped() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let (result, ()) = tokio::join!(client.call::<u8>("echo", "echo", ()), async {
        let got = agent.expect(Kind::Call).await;
        for id in [0, 2, 12345] {
            agent.ok(id, &1).await;
            agent.send(Kind::StreamData, id, &nothing(), &[1]).await;
            agent.send(Kind::Cancelled, id, &nothing(), &[]).await;
        }
        // A kind from the future, and fields from the future.
        agent.write(&[1, 0, 0, 0, 0x7f, 0, 9, 9, 1, 0, 0, 0, 0, 0, 0, 0, 0xc1]).await;
        agent.send(Kind::Progress, got.id, &json!({"percentage": 1.0, "mood": "good"}), &[]).await;
        agent.ok(got.id, &7).await;
        agent.ok(got.id, &8).await;
    });
    assert_eq!(result, Ok(7));
}

#[tokio::test]
async fn a_supervisor_without_features_gets_none_used() {
    let fake = Fake::new();
    let mut plain = welcome(Limits::default());
    plain.features.clear();
    let (client, mut agent) = fake.connect_with(plain).await;
    let params = Raw::encode(&"x".repeat(500_000)).unwrap();
    let (running, call) = tokio::join!(
        async { client.request("echo", "echo").params(&params).start().await.unwrap() },
        agent.expect(Kind::Call)
    );
    assert!(!call.more && call.payload.len() == params.bytes().len(), "in one frame");
    assert!(matches!(running.input(StreamKind::Bytes), Err(CallError::Invalid { .. })));
    let too_large = Raw::encode(&"x".repeat(2_000_000)).unwrap();
    let result = client.call::<()>("echo", "echo", &too_large).await;
    assert!(matches!(result, Err(CallError::Invalid { .. })), "{result:?}");
    agent.ok(call.id, &1).await;
    assert_eq!(running.result::<u8>().await, Ok(1));
}

#[tokio::test]
async fn structs_travel_by_name() {
    #[derive(serde::Serialize)]
    struct Params<'a> {
        text: &'a str,
        more: Option<u8>,
    }
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let call = client.request("echo", "echo").version("^1.2").params(Params { text: "hi", more: None });
    let (result, ()) = tokio::join!(call.call::<HashMap<String, Value>>(), async {
        let got = agent.expect(Kind::Call).await;
        assert_eq!(got.body["version"], "^1.2");
        assert_eq!(rmp_serde::from_slice::<Value>(&got.payload).unwrap(), json!({"text": "hi", "more": null}));
        agent.send(Kind::Ok, got.id, &nothing(), &got.payload).await;
    });
    assert_eq!(result.unwrap()["text"], "hi");
}
