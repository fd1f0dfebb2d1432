//! Each call ends once, whoever comes first, and the counters agree.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::plugin::inbox::{Outlet, inbox};

/// A frame: the caller's id, kind, flags, content, and whether it was the last.
type Told = (u64, Kind, Flags, Vec<u8>, Ends);

/// Keeps what the caller is told.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<Vec<Told>>);

impl Heard {
    /// The kinds so far, and whether each was the last of its call.
    pub(crate) fn kinds(&self) -> Vec<(Kind, Ends)> {
        self.0.lock().unwrap().iter().map(|(_, kind, _, _, ends)| (*kind, *ends)).collect()
    }

    /// The error that it ended with.
    pub(crate) fn error(&self) -> ErrorBody {
        let frames = self.0.lock().unwrap();
        let (_, kind, _, content, ends) = frames.last().expect("it was told something");
        assert_eq!((*kind, *ends), (Kind::Err, Ends::Yes));
        rmp_serde::from_slice(content).unwrap()
    }
}

impl Caller for Heard {
    fn frame(&self, id: u64, kind: Kind, flags: Flags, content: &[u8], ends: Ends) {
        self.0.lock().unwrap().push((id, kind, flags, content.to_vec(), ends));
    }

    fn large(&self, id: u64, frame: OwnedFrame, ends: Ends) {
        let header = frame.header();
        self.frame(id, Kind::from_number(header.kind).unwrap(), header.flags, frame.content(), ends);
    }

    fn calls_counted(&self, _counters: &Arc<Counters>) -> usize {
        0
    }
}

/// A call of that action under the caller's id 1, and what its caller hears.
pub(crate) fn call(action: &str, params: &[u8], more: bool, counters: &Arc<Counters>) -> (Arc<Call>, Arc<Heard>) {
    assert!(counters.admit(10_000));
    let heard = Arc::new(Heard::default());
    let new = NewCall {
        action: action.into(),
        params: Params::Small(params.into()),
        more,
        caller_limit: None,
        caller: "uid:0".into(),
        reply_to: (heard.clone(), 1),
    };
    (Call::new(new, Duration::from_secs(30), counters.clone()), heard)
}

/// A call of that agent's under its id.
pub(crate) fn call_of(agent: &Arc<Heard>, id: u64, counters: &Arc<Counters>) -> Arc<Call> {
    assert!(counters.admit(10_000));
    let new = NewCall {
        action: "echo".into(),
        params: Params::Small([0xc0][..].into()),
        more: false,
        caller_limit: None,
        caller: "uid:0".into(),
        reply_to: (agent.clone(), id),
    };
    Call::new(new, Duration::from_secs(30), counters.clone())
}

fn numbers(counters: &Counters) -> (u32, u32) {
    let seen = counters.snapshot();
    (seen.waiting, seen.in_flight)
}

fn messages(outlet: &mut Outlet) -> usize {
    let mut count = 0;
    while outlet.messages.try_recv().is_ok() {
        count += 1;
    }
    count
}

#[test]
fn whatever_the_order_a_call_has_one_end_and_is_counted_once() {
    type Step = (&'static str, fn(&Call, &Inbox));
    const STEPS: [Step; 6] = [
        ("begin", |call, inbox| {
            let _ = call.begin(inbox, 2);
        }),
        ("cancel", |call, _| call.cancel(CancelReason::Caller)),
        ("ok", |call, _| call.end(Kind::Ok, Flags::NONE, &[0x80, 0xc0], Instant::now())),
        ("fail", |call, _| call.fail(&ErrorBody::new(ErrorCode::Crashed, "gone"))),
        ("requeue", |call, _| {
            let _ = call.requeue(false);
        }),
        ("pass", |call, _| call.pass(Kind::Progress, Flags::NONE, &[0x80])),
    ];
    let tried = AtomicUsize::new(0);
    let all = STEPS.len();
    for number in 0..all.pow(5) {
        let order: Vec<_> = (0..5).map(|place| STEPS[number / all.pow(place) % all]).collect();
        let counters = Arc::new(Counters::default());
        let (call, heard) = call("echo", &[0xc0], false, &counters);
        let (inbox, _outlet) = inbox(16);
        for (_, step) in &order {
            step(&call, &inbox);
        }
        call.fail(&ErrorBody::new(ErrorCode::Unavailable, "the last word"));
        let names: Vec<_> = order.iter().map(|(name, _)| *name).collect();
        let kinds = heard.kinds();
        assert_eq!(kinds.iter().filter(|(_, ends)| *ends == Ends::Yes).count(), 1, "{names:?}");
        assert_eq!(kinds.last().map(|(_, ends)| *ends), Some(Ends::Yes), "nothing follows the end: {names:?}");
        assert_eq!(numbers(&counters), (0, 0), "{names:?}");
        let seen = counters.snapshot();
        let outcomes = seen.ok + seen.errors + seen.cancelled + seen.timed_out + seen.crashed + seen.refused;
        assert_eq!(outcomes, 1, "{names:?}");
        tried.fetch_add(1, Ordering::Relaxed);
    }
    assert_eq!(tried.into_inner(), all.pow(5));
}

#[test]
fn admission_counts_what_is_there_and_nothing_else() {
    let counters = Arc::new(Counters::default());
    let (first, _) = call("echo", &[], false, &counters);
    let (second, _) = call("echo", &[], false, &counters);
    assert!(!counters.admit(2));
    assert_eq!(numbers(&counters), (2, 0));
    let (inbox, _outlet) = inbox(4);
    assert!(first.begin(&inbox, 2).is_some());
    assert_eq!(numbers(&counters), (1, 1));
    assert!(!counters.admit(2));
    second.cancel(CancelReason::Caller);
    assert_eq!(numbers(&counters), (0, 1));
    assert!(second.begin(&inbox, 4).is_none(), "it has ended");
    assert!(first.requeue(true));
    assert_eq!(numbers(&counters), (1, 0));
    first.end(Kind::Ok, Flags::NONE, &[0x80], Instant::now());
    assert_eq!(numbers(&counters), (0, 0));
    assert!(counters.admit(1));
}

/// Only what the plugin has answered says how long it takes; when there was a call, every one of them.
#[test]
fn what_is_counted_says_how_long_answers_took_and_when_the_last_call_came() {
    let counters = Arc::new(Counters::default());
    let tally = || counters.tally(Instant::now(), 1_000_000);
    assert_eq!(tally(), Tally::default());
    let (answered, _) = call("echo", &[], false, &counters);
    answered.end(Kind::Ok, Flags::NONE, &[0x80], answered.begun + Duration::from_secs(2));
    let (wrong, _) = call("echo", &[], false, &counters);
    let error = ErrorBody::new(ErrorCode::ExecutionFailed, "it failed");
    wrong.end_with_error(&error, None, wrong.begun + Duration::from_millis(1));
    let (late, _) = call("echo", &[], false, &counters);
    late.fail(&ErrorBody::new(ErrorCode::Timeout, "too late"));
    let (unwanted, _) = call("echo", &[], false, &counters);
    unwanted.cancel(CancelReason::Caller);
    let last = counters.since + Duration::from_nanos(counters.last_used.load(Ordering::Relaxed));
    assert_eq!(last, unwanted.begun);
    let now = counters.tally(last + Duration::from_secs(5), 1_000_000);
    assert_eq!((now.ok, now.errors, now.timed_out, now.cancelled, now.calls()), (1, 1, 1, 1, 4));
    assert_eq!((now.latencies.count(), now.last_used_unix_ms), (2, Some(995_000)));
    let longest = now.latencies.longest().unwrap();
    assert!((2000..2251).contains(&longest.as_millis()), "{longest:?}");
}

#[test]
fn word_that_finds_no_room_is_not_lost() {
    let counters = Arc::new(Counters::default());
    let (inbox, mut outlet) = inbox(1);
    let (first, _) = call("echo", &[], false, &counters);
    let (second, _) = call("echo", &[], false, &counters);
    assert!(first.begin(&inbox, 2).is_some() && second.begin(&inbox, 4).is_some());
    first.grant(1).unwrap();
    first.grant(1).unwrap();
    assert!(!outlet.has_missed(), "one word for each call is enough");
    second.cancel(CancelReason::Caller);
    assert_eq!(messages(&mut outlet), 1);
    assert!(outlet.has_missed());
    assert!(!outlet.has_missed(), "it is said once");
    assert_eq!(second.take_followed(1).cancel, Some(CancelReason::Caller));
    assert_eq!(first.take_followed(1).grant, 2);
}

#[test]
fn a_caller_is_held_to_its_credit_to_the_byte() {
    let counters = Arc::new(Counters::default());
    let (call, _) = call("echo", &[], false, &counters);
    let many = vec![0x80; CREDIT_BYTES as usize];
    let data = |bytes: usize| Follow::Small(Kind::StreamData, Flags::NONE, &many[..bytes]);
    call.follow(data(many.len())).unwrap();
    assert_eq!(call.follow(data(1)), Err(FollowError::BeyondCredit { bytes: 1, allowance: 0 }));
    call.allow(10).unwrap();
    call.follow(data(10)).unwrap();
    call.follow(Follow::Small(Kind::StreamEnd, Flags::NONE, &[0x80])).unwrap();
    assert_eq!(call.follow(data(1)), Err(FollowError::BeyondCredit { bytes: 1, allowance: 0 }));
    assert_eq!(call.grant(0), Err(FollowError::Credit));
    assert_eq!(call.allow(0), Err(FollowError::Credit));
    let mut kinds = Vec::new();
    call.take_followed(usize::MAX).frames.for_each_while(|follow| {
        kinds.extend(follow.kind());
        true
    });
    assert_eq!(kinds, [Kind::StreamData, Kind::StreamData, Kind::StreamEnd]);
}

#[test]
fn an_error_of_any_size_fits_into_a_body() {
    for (message, details) in [
        ("x".repeat(STRING_BYTES_MAX + 1), None),
        ("\u{1b}[31m".repeat(20_000), None),
        ("small".to_owned(), Some(serde_json::json!({ "of": "y".repeat(2 * BODY_BYTES_MAX) }))),
        ("small".to_owned(), Some(serde_json::json!(vec![0; 10_000]))),
    ] {
        let mut error = ErrorBody::new(ErrorCode::InvalidParams, message);
        error.details = details;
        let bytes = error_body(&error);
        assert!(bytes.len() <= BODY_BYTES_MAX);
        assert_eq!(check_body(&bytes), Ok(bytes.len()));
        let read: ErrorBody = rmp_serde::from_slice(&bytes).unwrap();
        assert_eq!(read.code, ErrorCode::InvalidParams);
        assert!(read.message.starts_with(&error.message[..1]) || read.message.starts_with('\\'));
    }
    let small = ErrorBody::new(ErrorCode::Timeout, "too late").with_details(serde_json::json!({ "a": 1 }));
    assert_eq!(rmp_serde::from_slice::<ErrorBody>(&error_body(&small)).unwrap(), small);
}
