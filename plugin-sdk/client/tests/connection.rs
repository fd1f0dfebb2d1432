//! Connecting, losing the connection, and connecting again.

mod fake;

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use fake::{Fake, nothing, welcome, within};
use palisade_client::{CallError, Client, ErrorCode, blocking};
use palisade_protocol::{ErrorBody, Kind, Limits, Refuse};
use serde_json::json;

async fn answer_one(agent: &mut fake::Agent) {
    let got = agent.expect(Kind::Call).await;
    agent.send(Kind::Ok, got.id, &nothing(), &got.payload).await;
}

#[tokio::test]
async fn nobody_there_says_so_and_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let absent = folder.path().join("absent.sock");
    let error = Client::connect(&absent).await.unwrap_err();
    assert!(matches!(&error, CallError::NotReachable { path, .. } if *path == absent), "{error:?}");
    assert_eq!(error.to_string(), format!("no daemon is running: there is no socket at {}", absent.display()));
    assert!(error.hint().unwrap().contains("palisaded --user"));
    assert_eq!((error.code(), error.is_retryable()), (ErrorCode::Unavailable, true));

    let fake = Fake::new();
    let path = fake.path();
    let _folder = fake.die();
    let error = Client::connect(&path).await.unwrap_err();
    assert!(error.to_string().contains("which a dead one may have left behind"), "{error}");

    // What cannot be a socket is told as such; a socket may yet take the place of something else.
    let long = folder.path().join("x".repeat(108));
    let rows = [(folder.path(), "it is no socket", true), (&long, "a socket's path has at most 107 bytes", false)];
    for (path, detail, may_change) in rows {
        let error = Client::connect(path).await.unwrap_err();
        let told = format!("{} cannot be the daemon's socket: {detail}", path.display());
        assert_eq!((error.to_string(), error.is_retryable()), (told, may_change));
        assert!(error.hint().unwrap().contains("--socket"));
    }
}

#[tokio::test]
async fn a_socket_of_others_is_a_matter_of_permission() {
    if rustix::process::geteuid().is_root() {
        println!("SKIPPED: root may use every socket");
        return;
    }
    let fake = Fake::new();
    std::fs::set_permissions(fake.path(), std::fs::Permissions::from_mode(0o000)).unwrap();
    let error = Client::connect(fake.path()).await.unwrap_err();
    assert_eq!((error.code(), error.is_retryable()), (ErrorCode::PermissionDenied, false));
}

#[tokio::test]
async fn a_refusal_is_handed_on_with_its_reason() {
    let fake = Fake::new();
    let error = ErrorBody::new(ErrorCode::PermissionDenied, "uid 7 may not use this daemon").with_hint("ask root");
    let refuse = Refuse { error: error.clone() };
    let (result, ()) = tokio::join!(Client::connect(fake.path()), async {
        let mut agent = fake.accept_silently().await;
        // Before a frame is read, and gone at once: the agent's own hello may fail.
        agent.send(Kind::Refuse, 0, &refuse, &[]).await;
    });
    assert_eq!(result.unwrap_err(), CallError::Refused(Box::new(error.clone())));

    // The same later: every call in flight is told.
    let (client, mut agent) = fake.connect().await;
    let (result, ()) = tokio::join!(client.call::<()>("echo", "echo", ()), async {
        agent.expect(Kind::Call).await;
        agent.send(Kind::Refuse, 0, &refuse, &[]).await;
    });
    assert_eq!(result, Err(CallError::Refused(Box::new(error))));
}

#[tokio::test]
async fn an_answer_that_is_no_handshake_is_an_error() {
    let strange = |protocol: u16, limits: Limits| {
        let mut strange = welcome(limits);
        strange.protocol = protocol;
        strange
    };
    let tiny = Limits { frame_bytes_max: 16, ..Limits::default() };
    for (welcome, expected) in
        [(strange(7, Limits::default()), "speaks version 7"), (strange(1, tiny), "leave nothing to work with")]
    {
        let fake = Fake::new();
        let (result, _agent) = tokio::join!(Client::connect(fake.path()), fake.accept_with(welcome));
        let error = result.unwrap_err();
        assert!(matches!(error, CallError::Lost { sent: false, .. }), "{error:?}");
        assert!(error.to_string().contains(expected), "{error}");
    }
    for (bytes, expected) in [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), "broke the protocol"),
        (&[1, 0, 0, 0, 0x13, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x80], "with Ok"),
        (b"", "during the handshake"),
    ] {
        let fake = Fake::new();
        let (result, ()) = tokio::join!(Client::connect(fake.path()), async {
            let mut agent = fake.accept_silently().await;
            agent.expect(Kind::Hello).await;
            agent.write(bytes).await;
        });
        let error = result.unwrap_err();
        assert!(error.to_string().contains(expected), "{expected}: {error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_supervisor_that_says_nothing_is_given_up() {
    let fake = Fake::new();
    let error = Client::connect(fake.path()).await.unwrap_err();
    let said = error.to_string();
    assert!(said.contains("the daemon listens and did not answer the handshake within 10 s"), "{said}");
    assert!(said.contains("it is still starting, as while it copies packages"), "{said}");
    assert!(error.hint().unwrap().contains("safe to repeat"));
}

#[tokio::test]
async fn losing_the_connection_fails_what_was_sent_and_the_next_call_connects_again() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let (result, ()) = tokio::join!(client.call::<()>("echo", "echo", ()), async {
        agent.expect(Kind::Call).await;
        drop(agent);
    });
    assert_eq!(result, Err(CallError::Lost { reason: "the daemon closed it".into(), sent: true }));
    let error = result.unwrap_err();
    assert!(error.hint().unwrap().contains("may have been carried out"));
    assert!(!error.is_retryable());

    let (result, ()) = tokio::join!(client.call::<u8>("echo", "echo", 7), async {
        answer_one(&mut fake.accept().await).await;
    });
    assert_eq!(result, Ok(7));
}

#[tokio::test]
async fn a_call_waits_for_a_supervisor_that_is_being_restarted() {
    let fake = Fake::new();
    let (client, agent) = fake.connect().await;
    drop(agent);
    let folder = fake.die();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call::<u8>("echo", "echo", 7).await }
    });
    // Whether it tries before, while or after the socket is replaced makes no difference.
    tokio::task::yield_now().await;
    let fake = Fake::revive(folder);
    answer_one(&mut fake.accept().await).await;
    assert_eq!(within(call).await.unwrap(), Ok(7));
}

#[tokio::test(start_paused = true)]
async fn reconnecting_is_bounded_and_shared() {
    let fake = Fake::new();
    let (client, agent) = fake.connect().await;
    drop(agent);
    let _folder = fake.die();
    let begun = tokio::time::Instant::now();
    let calls: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.call::<()>("echo", "echo", ()).await })
        })
        .collect();
    for call in calls {
        let result = call.await.unwrap();
        assert!(matches!(result, Err(CallError::NotReachable { .. })), "{result:?}");
    }
    assert!(begun.elapsed() < Duration::from_secs(7), "not twenty times three seconds: {:?}", begun.elapsed());
    // A call's own timeout is kept as well.
    let begun = tokio::time::Instant::now();
    let result = client.request("echo", "echo").timeout(Duration::from_millis(300)).call::<()>().await;
    assert_eq!(result, Err(CallError::TimedOut { after: Duration::from_millis(300) }));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn what_was_never_written_is_sent_anew() {
    let fake = Fake::new();
    // So small a window that calls wait for their place when the connection is lost.
    let limits = Limits { calls_max: 1, ..Limits::default() };
    let (client, mut agent) = fake.connect_with(welcome(limits)).await;
    let calls: Vec<_> = (0..3_u8)
        .map(|number| {
            let client = client.clone();
            tokio::spawn(async move { client.call::<u8>("echo", "echo", number).await })
        })
        .collect();
    let sent = rmp_serde::from_slice::<u8>(&agent.expect(Kind::Call).await.payload).unwrap();
    drop(agent);
    let mut agent = fake.accept().await;
    answer_one(&mut agent).await;
    answer_one(&mut agent).await;
    for (number, call) in calls.into_iter().enumerate() {
        let result = within(call).await.unwrap();
        if number as u8 == sent {
            assert!(matches!(result, Err(CallError::Lost { sent: true, .. })), "{result:?}");
        } else {
            assert_eq!(result, Ok(number as u8));
        }
    }
}

#[tokio::test]
async fn frames_that_wait_in_the_outbox_are_sent_anew_and_none_twice() {
    let fake = Fake::new();
    let limits = Limits { calls_max: 64, ..Limits::default() };
    let (client, agent) = fake.connect_with(welcome(limits)).await;
    // 64 times 100 KiB are more than the socket takes while nobody reads: the last of them stay behind.
    let params = palisade_client::Raw::encode(&"x".repeat(100 << 10)).unwrap();
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let (client, params) = (client.clone(), params.clone());
            tokio::spawn(async move { client.call::<palisade_client::Raw>("echo", "echo", params).await })
        })
        .collect();
    // Everything that can be written has been when the tasks have nothing more to do.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    drop(agent);
    let mut agent = fake.accept().await;
    let mut sent_anew = 0;
    let serve = async {
        while let Some(got) = agent.try_next().await {
            sent_anew += 1;
            agent.send(Kind::Ok, got.id, &nothing(), &got.payload).await;
        }
    };
    let outcomes = async {
        let mut lost = 0;
        for call in calls {
            match call.await.unwrap() {
                Ok(result) => assert!(result == params),
                Err(CallError::Lost { sent: true, .. }) => lost += 1,
                Err(other) => panic!("{other:?}"),
            }
        }
        drop(client);
        lost
    };
    let (lost, ()) = within(async { tokio::join!(outcomes, serve) }).await;
    assert!(lost > 0 && sent_anew > 0, "{lost} and {sent_anew}: the socket should have taken some and not all");
    assert_eq!(lost + sent_anew, 64);
}

#[tokio::test]
async fn a_first_connection_may_be_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("palisade.sock");
    std::fs::write(&path, "").unwrap();
    let connect = Client::builder().path(&path).connect_within(fake::BOUND).connect();
    let serve = async {
        let fake = Fake::revive(folder);
        let agent = fake.accept().await;
        (fake, agent)
    };
    let (client, _kept) = within(async { tokio::join!(connect, serve) }).await;
    assert!(client.is_ok(), "{client:?}");
}

#[tokio::test]
async fn the_connection_is_closed_with_its_last_user() {
    let fake = Fake::new();
    let (client, mut agent) = fake.connect().await;
    let (running, call) =
        tokio::join!(async { client.request("echo", "slow").start().await.unwrap() }, agent.expect(Kind::Call));
    drop(client);
    agent.ok(call.id, &3).await;
    assert_eq!(running.result::<u8>().await, Ok(3), "a call keeps its connection");
    assert_eq!(agent.try_next().await, None);
}

#[tokio::test]
async fn what_came_with_the_handshake_is_not_lost() {
    let fake = Fake::new();
    let (client, agent) = tokio::join!(Client::connect(fake.path()), async {
        let mut agent = fake.accept_silently().await;
        agent.expect(Kind::Hello).await;
        let mut bytes = vec![];
        palisade_protocol::encode(
            &mut bytes,
            Kind::Welcome,
            palisade_protocol::Flags::NONE,
            0,
            &welcome(Limits::default()),
            &[],
        );
        let error = ErrorBody::new(ErrorCode::Unavailable, "shutting down");
        let refuse = Refuse { error };
        palisade_protocol::encode(&mut bytes, Kind::Refuse, palisade_protocol::Flags::NONE, 0, &refuse, &[]);
        agent.write(&bytes).await;
        agent
    });
    let client = client.unwrap();
    let result = client.call::<()>("echo", "echo", ()).await;
    // Told at once if the call was quicker than the refusal; else it finds the connection closed and makes another.
    drop(agent);
    match result {
        Err(CallError::Refused(body)) => assert_eq!(body.message, "shutting down"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_program_without_a_runtime_calls_all_the_same() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let guard = runtime.enter();
    let fake = Fake::new();
    drop(guard);
    let path = fake.path();
    let serve = std::thread::spawn(move || {
        runtime.block_on(async {
            let mut agent = fake.accept().await;
            answer_one(&mut agent).await;
            answer_one(&mut agent).await;
        });
    });
    let client = blocking::Client::connect(path).unwrap();
    assert_eq!(client.call("echo", "echo", json!({"a": [1, 2]})), Ok(json!({"a": [1, 2]})));
    assert_eq!(client.block_on(client.request("echo", "echo").params(8).call::<u8>()), Ok(8));
    serve.join().unwrap();
}
