//! What the link writes, what it takes for a fault, and what becomes of each call.

use std::task::{Context, Waker};

use palisade_protocol::{ActionInfo, Progress, StreamKind, encode, split};

use super::*;
use crate::model::manifest::Manifest;
use crate::plugin::actions::Actions;
use crate::plugin::call::tests::{Heard, call, call_of};
use crate::plugin::call::{Counters, NewCall, Params};
use crate::plugin::host_calls::Payload;
use crate::plugin::inbox::{Outlet, inbox};

const GRACE: Duration = Duration::from_secs(2);

struct Bench {
    link: Link,
    counters: Arc<Counters>,
    now: Instant,
    /// The plugin has waited for processor time since then.
    throttled_since: Option<Instant>,
    _outlet: Outlet,
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl Bench {
    /// A link that is open, with the actions `echo`, `again` (idempotent), `once` (one at a time) and `forever` (endless).
    fn new(concurrency: usize, features: &[&str]) -> Self {
        let manifest = br#"{"id": "echo", "name": "Echo", "version": "1.0.0", "entry_point": "echo",
            "actions": [{"name": "again", "idempotent": true}, {"name": "once", "concurrency": 1},
                {"name": "forever", "endless": true}]}"#;
        let (manifest, _) = Manifest::parse(manifest).unwrap();
        let announced = ["echo", "again", "once", "forever"];
        let announced = announced.map(|name| ActionInfo { name: name.to_owned(), ..ActionInfo::default() });
        let actions = Actions::new(announced.to_vec(), &manifest).unwrap();
        let (sender, outlet) = inbox(64);
        let settings =
            LinkSettings { plugin: "echo".into(), call_limit: seconds(30), calls_max: 8, cancel_grace: GRACE };
        let mut link = Link::new(sender, settings);
        let features: Vec<_> = features.iter().map(|name| (*name).to_owned()).collect();
        link.agree(&features);
        link.open(Arc::new(actions), concurrency);
        Self { link, counters: Arc::default(), now: Instant::now(), throttled_since: None, _outlet: outlet }
    }

    fn all() -> Self {
        Self::new(16, &["streams", "continue"])
    }

    fn call(&mut self, action: &str) -> (Arc<Call>, Arc<Heard>) {
        let (call, heard) = call(action, &[0xc0], false, &self.counters);
        // A call looks at the clock itself when it is made.
        self.now = self.now.max(call.begun);
        self.link.take(call.clone(), self.now);
        (call, heard)
    }

    /// What was written since, as kinds and ids.
    fn written(&mut self) -> Vec<(Kind, u64)> {
        let mut bytes = Vec::new();
        let flushed = self.link.outbox.poll_flush(&mut Context::from_waker(Waker::noop()), &mut bytes);
        assert!(flushed.is_ready());
        let mut rest = &bytes[..];
        let mut frames = Vec::new();
        while let Some((frame, after)) = split(rest, FRAME_BYTES_MAX).unwrap() {
            frames.push((frame.kind().unwrap().unwrap(), frame.header.id));
            rest = after;
        }
        assert!(rest.is_empty());
        frames
    }

    fn hear<M: serde::Serialize>(
        &mut self,
        kind: Kind,
        flags: Flags,
        id: u64,
        message: &M,
        payload: &[u8],
    ) -> Result<(), Violation> {
        let mut bytes = Vec::new();
        encode(&mut bytes, kind, flags, id, message, payload);
        let (frame, _) = split(&bytes, FRAME_BYTES_MAX).unwrap().unwrap();
        self.link.heard(Incoming::Small(frame), self.now).map(|_| ())
    }

    fn ok(&mut self, id: u64) -> Result<(), Violation> {
        self.hear(Kind::Ok, Flags::NONE, id, &Empty {}, &[0xc0])
    }

    fn lapse(&mut self, after: Duration, paused: bool) -> usize {
        self.now += after;
        self.link.lapse(self.now, paused, |since| self.throttled_since == Some(since)).graces_missed
    }

    fn present(&self) -> (u32, u32) {
        let seen = self.counters.snapshot();
        (seen.waiting, seen.in_flight)
    }
}

fn open() -> StreamOpen {
    StreamOpen { kind: StreamKind::Bytes }
}

#[test]
fn answers_under_ids_that_are_none_are_faults() {
    let mut bench = Bench::all();
    let (_, heard) = bench.call("echo");
    for id in [0, 1, 4, 1_000_000] {
        let fault = bench.ok(id).unwrap_err();
        assert_eq!(fault, format!("an Ok frame for call {id}, which was never made"));
    }
    bench.ok(2).unwrap();
    assert_eq!(heard.kinds(), [(Kind::Ok, Ends::Yes)]);
    assert_eq!(bench.ok(2).unwrap_err(), "an Ok frame for call 2, which has ended");
    assert_eq!(bench.present(), (0, 0));
}

#[test]
fn every_kind_that_only_the_supervisor_sends_is_a_fault() {
    for kind in [Kind::Welcome, Kind::Drain, Kind::Call, Kind::Cancel, Kind::HostOk, Kind::HostErr] {
        let fault = Bench::all().hear(kind, Flags::NONE, 2, &Empty {}, &[]).unwrap_err();
        assert_eq!(fault, format!("{}, which only the supervisor sends", a_frame(kind)));
    }
    let mut bench = Bench::all();
    assert_eq!(
        bench.hear(Kind::Pong, Flags::NONE, 2, &Pong::default(), &[]).unwrap_err(),
        "a Pong under id 2, which no ping has"
    );
    bench.link.ping(false, false);
    bench.hear(Kind::Pong, Flags::NONE, 2, &Pong::default(), &[]).unwrap();
    assert!(bench.hear(Kind::Pong, Flags::NONE, 2, &Pong::default(), &[]).is_err(), "answered once");
}

#[test]
fn questions_of_the_plugins_have_odd_ids_that_grow() {
    let mut bench = Bench::all();
    let host_call = HostCall { op: "self", call: None };
    bench.hear(Kind::HostCall, Flags::NONE, 5, &host_call, &[]).unwrap();
    for id in [5, 3, 6, 0] {
        assert!(bench.hear(Kind::HostCall, Flags::NONE, id, &host_call, &[]).is_err(), "{id}");
    }
    assert!(bench.hear(Kind::HostCall, Flags::MORE, 7, &host_call, &[]).is_err());
}

/// Those beyond are answered at once; those that are answered count until the plugin reads.
#[test]
fn so_many_host_calls_may_be_under_way() {
    let mut bench = Bench::all();
    let host_call = HostCall { op: "self", call: None };
    let mut ids = (1..).step_by(2);
    for id in ids.by_ref().take(palisade_protocol::HOST_CALLS_MAX) {
        bench.hear(Kind::HostCall, Flags::NONE, id, &host_call, &[]).unwrap();
    }
    let beyond = ids.next().unwrap();
    bench.hear(Kind::HostCall, Flags::NONE, beyond, &host_call, &[]).unwrap();
    assert_eq!(bench.written(), [(Kind::HostErr, beyond)]);
    bench.link.answer(1, Ok(Payload::Plain(vec![0xc0])));
    bench.link.answer(3, Ok(Payload::Plain(vec![0xc0; LARGE_FRAME_BYTES])));
    let beyond = ids.next().unwrap();
    bench.hear(Kind::HostCall, Flags::NONE, beyond, &host_call, &[]).unwrap();
    let mut written = bench.written();
    written.sort_by_key(|(_, id)| *id);
    assert_eq!(written, [(Kind::HostOk, 1), (Kind::HostOk, 3), (Kind::HostErr, beyond)]);
    for _ in 0..2 {
        bench.hear(Kind::HostCall, Flags::NONE, ids.next().unwrap(), &host_call, &[]).unwrap();
    }
    assert_eq!(bench.written(), []);
}

#[test]
fn a_plugin_that_asks_and_reads_may_ask_without_end() {
    let mut bench = Bench::all();
    let mut id = 1;
    for _ in 0..3 * ANSWERS_UNREAD_MAX {
        bench.hear(Kind::Ping, Flags::NONE, id, &Ping::default(), &[]).unwrap();
        bench.written();
        id += 2;
    }
    let fault = (0..3 * ANSWERS_UNREAD_MAX).find_map(|_| {
        id += 2;
        bench.hear(Kind::Ping, Flags::NONE, id, &Ping::default(), &[]).err()
    });
    assert_eq!(fault.unwrap(), format!("asks, and does not read the answers: {ANSWERS_UNREAD_MAX} wait"));
}

#[test]
fn an_output_stream_is_opened_filled_and_ended_in_that_order() {
    let faults: [(&[Kind], &str); 6] = [
        (&[Kind::StreamData], "a StreamData frame on a stream that was not opened"),
        (&[Kind::StreamEnd], "a StreamEnd frame on a stream that was not opened"),
        (&[Kind::StreamOpen, Kind::StreamOpen], "a second output stream"),
        (&[Kind::StreamOpen, Kind::StreamEnd, Kind::StreamData], "a StreamData frame on a stream that has ended"),
        (&[Kind::StreamOpen, Kind::StreamEnd, Kind::StreamOpen], "a second output stream"),
        (&[Kind::StreamOpen, Kind::Ok], "an Ok frame while its output stream is open"),
    ];
    for (kinds, expected) in faults {
        let mut bench = Bench::all();
        let (_, heard) = bench.call("echo");
        let mut said = Ok(());
        for kind in kinds {
            assert_eq!(said, Ok(()));
            said = match kind {
                Kind::StreamOpen => bench.hear(*kind, Flags::NONE, 2, &open(), &[]),
                kind => bench.hear(*kind, Flags::NONE, 2, &Empty {}, &[]),
            };
        }
        assert_eq!(said.unwrap_err(), expected);
        assert!(heard.kinds().iter().all(|(_, ends)| *ends == Ends::No));
    }
    let mut bench = Bench::all();
    let (_, heard) = bench.call("echo");
    bench.hear(Kind::StreamOpen, Flags::NONE, 2, &open(), &[]).unwrap();
    bench.hear(Kind::StreamData, Flags::NONE, 2, &Empty {}, b"x").unwrap();
    bench.hear(Kind::Progress, Flags::NONE, 2, &Progress::default(), &[]).unwrap();
    bench.hear(Kind::StreamEnd, Flags::NONE, 2, &Empty {}, &[]).unwrap();
    bench.ok(2).unwrap();
    let kinds: Vec<_> = heard.kinds().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [Kind::StreamOpen, Kind::StreamData, Kind::Progress, Kind::StreamEnd, Kind::Ok]);
}

#[test]
fn a_result_goes_on_with_credit_and_is_not_interrupted() {
    let mut bench = Bench::all();
    let (_, heard) = bench.call("echo");
    assert!(bench.hear(Kind::Continue, Flags::NONE, 2, &Empty {}, b"x").unwrap_err().contains("nothing to continue"));
    bench.hear(Kind::Ok, Flags::MORE, 2, &Empty {}, b"x").unwrap();
    assert!(bench.ok(2).unwrap_err().contains("in the middle of a result"));
    bench.hear(Kind::Continue, Flags::MORE, 2, &Empty {}, b"y").unwrap();
    bench.hear(Kind::Continue, Flags::NONE, 2, &Empty {}, b"z").unwrap();
    assert_eq!(heard.kinds(), [(Kind::Ok, Ends::No), (Kind::Continue, Ends::No), (Kind::Continue, Ends::Yes)]);
    assert_eq!(bench.counters.snapshot().ok, 1);
}

#[test]
fn data_beyond_the_credit_is_a_fault_and_granted_credit_counts() {
    let piece = vec![0; 512 << 10];
    let mut bench = Bench::all();
    let (call, _) = bench.call("echo");
    bench.hear(Kind::StreamOpen, Flags::NONE, 2, &open(), &[]).unwrap();
    bench.hear(Kind::StreamData, Flags::NONE, 2, &Empty {}, &piece).unwrap();
    call.grant(2).unwrap();
    bench.link.poke(2, bench.now);
    // Two bodies of one byte are what was granted beyond a mebibyte.
    bench.hear(Kind::StreamData, Flags::NONE, 2, &Empty {}, &piece).unwrap();
    let fault = bench.hear(Kind::StreamData, Flags::NONE, 2, &Empty {}, &[]).unwrap_err();
    assert_eq!(fault, "a StreamData of 1 bytes with credit for 0");
}

#[test]
fn a_caller_cannot_have_the_plugin_told_of_more_credit_than_may_be() {
    let mut bench = Bench::all();
    let (call, _) = bench.call("echo");
    bench.written();
    for _ in 0..3 {
        call.grant(1 << 31).unwrap();
        bench.link.poke(2, bench.now);
    }
    assert_eq!(bench.link.calls[&2].credit, CREDIT_OUTSTANDING_MAX);
    assert_eq!(bench.written(), [(Kind::StreamCredit, 2)], "what is too much is not passed on");
}

#[test]
fn parameters_that_fill_a_frame_do_not_make_one_that_is_too_long() {
    let mut bench = Bench::all();
    let params = vec![0; FRAME_BYTES_MAX as usize - 40];
    let (call, heard) = call("echo", &params, false, &bench.counters);
    bench.link.take(call, bench.now);
    assert_eq!(heard.error().code, ErrorCode::InvalidParams);
    assert_eq!(bench.written(), [], "the plugin sees nothing of it");
}

#[test]
fn nothing_of_a_call_overtakes_the_call() {
    let mut bench = Bench::all();
    let (call, _) = call("echo", &vec![0; 100 << 10], true, &bench.counters);
    bench.link.take(call.clone(), bench.now);
    call.grant(5).unwrap();
    call.follow(Follow::Small(Kind::Continue, Flags::NONE, &[0x80])).unwrap();
    call.follow(Follow::Small(Kind::StreamOpen, Flags::NONE, &[0x80])).unwrap();
    call.cancel(CancelReason::Caller);
    bench.link.poke(2, bench.now);
    bench.link.ping(false, false);
    let expected = [
        (Kind::Ping, 4),
        (Kind::Call, 2),
        (Kind::StreamCredit, 2),
        (Kind::Continue, 2),
        (Kind::StreamOpen, 2),
        (Kind::Cancel, 2),
    ];
    assert_eq!(bench.written(), expected);
}

#[test]
fn a_call_whose_plugin_was_throttled_until_its_deadline_says_that_it_was() {
    // Answered in its grace, and not at all.
    for cancelled in [true, false] {
        let mut bench = Bench::all();
        let (call, heard) = bench.call("echo");
        let written = bench.now;
        bench.throttled_since = Some(written);
        bench.lapse(seconds(30), false);
        // What comes after the deadline does not matter.
        bench.throttled_since = None;
        if cancelled {
            bench.hear(Kind::Cancelled, Flags::NONE, 2, &palisade_protocol::Cancelled { message: None }, &[]).unwrap();
        } else {
            bench.lapse(GRACE, false);
        }
        let error = heard.error();
        assert_eq!(error.code, ErrorCode::ResourceExhausted, "{error}");
        let details = error.details.unwrap();
        assert_eq!((&details["limit"], &details["limited_by"]), (&"cpu".into(), &"plugin".into()));
        drop(call);
    }
}

#[test]
fn a_deadline_cancels_then_waits_then_answers_and_the_plugin_still_owes_its_own() {
    let mut bench = Bench::all();
    let (_, heard) = bench.call("echo");
    bench.written();
    assert_eq!(bench.lapse(seconds(29), false), 0);
    assert_eq!(bench.written(), []);
    assert_eq!(bench.lapse(seconds(1), false), 0);
    assert_eq!(bench.written(), [(Kind::Cancel, 2)]);
    assert_eq!(heard.kinds(), []);
    assert_eq!(bench.link.next_due(), Some(bench.now + GRACE));
    assert_eq!(bench.lapse(GRACE, false), 1);
    assert_eq!(heard.error().code, ErrorCode::Timeout);
    assert_eq!(bench.link.next_due(), None);
    assert_eq!((bench.link.in_flight(), bench.present()), (1, (0, 0)));
    bench.ok(2).unwrap();
    assert_eq!(heard.kinds().len(), 1, "the caller has its answer");
    assert_eq!(bench.link.in_flight(), 0);
}

#[test]
fn within_the_grace_an_answer_counts_and_a_cancellation_is_a_timeout() {
    let mut bench = Bench::all();
    let (_, first) = bench.call("echo");
    let (_, second) = bench.call("echo");
    bench.lapse(seconds(30), false);
    bench.ok(2).unwrap();
    bench.hear(Kind::Cancelled, Flags::NONE, 4, &Empty {}, &[]).unwrap();
    assert_eq!(first.kinds(), [(Kind::Ok, Ends::Yes)]);
    assert_eq!(second.error().code, ErrorCode::Timeout);
    assert_eq!(bench.counters.snapshot().timed_out, 1);
}

#[test]
fn a_pause_of_any_length_gives_a_cancelled_call_one_grace_and_no_more() {
    let mut bench = Bench::all();
    let (call, heard) = bench.call("echo");
    call.cancel(CancelReason::Caller);
    bench.link.poke(2, bench.now);
    bench.link.hold();
    for _ in 0..100 {
        assert_eq!(bench.lapse(seconds(60), true), 0);
    }
    assert_eq!(heard.kinds(), []);
    bench.link.go_on(bench.now);
    assert_eq!(bench.link.next_due(), Some(bench.now + GRACE));
    assert_eq!(bench.lapse(GRACE, false), 1);
    assert_eq!(heard.kinds(), [(Kind::Cancelled, Ends::Yes)]);
}

#[test]
fn while_it_stands_still_calls_wait_unwritten_and_their_deadlines_hold() {
    let mut bench = Bench::all();
    let (_, running) = bench.call("echo");
    bench.written();
    bench.link.hold();
    let (_, waiting) = bench.call("echo");
    assert_eq!(bench.written(), []);
    bench.lapse(seconds(30), true);
    assert_eq!(running.error().code, ErrorCode::Timeout);
    assert!(waiting.error().message.starts_with("echo is paused: not begun"), "{}", waiting.error().message);
    let (_, later) = bench.call("echo");
    bench.written();
    bench.link.go_on(bench.now);
    assert_eq!(bench.written(), [(Kind::Call, 4)]);
    bench.ok(4).unwrap();
    assert_eq!(later.kinds(), [(Kind::Ok, Ends::Yes)]);
}

#[test]
fn calls_beyond_the_concurrency_wait_in_their_order() {
    let mut bench = Bench::new(2, &[]);
    let heard: Vec<_> = (0..5).map(|_| bench.call("echo").1).collect();
    assert_eq!(bench.written(), [(Kind::Call, 2), (Kind::Call, 4)]);
    assert_eq!(bench.present(), (3, 2));
    bench.ok(4).unwrap();
    assert_eq!(bench.written(), [(Kind::Call, 6)]);
    for id in [2, 6, 8, 10] {
        bench.ok(id).unwrap();
    }
    assert!(heard.iter().all(|heard| heard.kinds() == [(Kind::Ok, Ends::Yes)]));
    assert_eq!(bench.present(), (0, 0));
}

#[test]
fn an_agent_that_fills_the_queue_makes_room_for_another_and_they_take_turns() {
    let mut bench = Bench::new(2, &[]);
    let [flood, neighbour] = [(); 2].map(|()| Arc::new(Heard::default()));
    let calls: Vec<_> = (0..8).map(|id| call_of(&flood, id, &bench.counters)).collect();
    bench.now = bench.now.max(calls[7].begun);
    for call in &calls {
        bench.link.take(call.clone(), bench.now);
    }
    let late: Vec<_> = (0..4).map(|id| call_of(&neighbour, id, &bench.counters)).collect();
    for call in &late {
        call.contend();
        bench.link.take(call.clone(), bench.now);
    }
    // Of its six that waited three are gone, and the fourth of the other would have been one too many.
    let overloaded = |heard: &Heard| {
        assert!(heard.kinds().iter().all(|kind| *kind == (Kind::Err, Ends::Yes)));
        assert_eq!(heard.error().code, ErrorCode::Overloaded);
        heard.kinds().len()
    };
    assert_eq!((overloaded(&flood), overloaded(&neighbour)), (3, 1));
    assert!(calls[5..].iter().all(|call| call.is_done()) && late[3].is_done());
    assert_eq!(bench.present(), (6, 2));
    for id in (2..=16).step_by(2) {
        bench.ok(id).unwrap();
    }
    let ended = |heard: &Heard| heard.kinds().iter().filter(|(kind, _)| *kind == Kind::Ok).count();
    assert_eq!((ended(&flood), ended(&neighbour)), (5, 3));
    assert_eq!(bench.present(), (0, 0));
}

#[test]
fn a_call_that_contends_for_room_that_there_is_by_now_displaces_nobody() {
    let mut bench = Bench::new(1, &[]);
    let [flood, neighbour] = [(); 2].map(|()| Arc::new(Heard::default()));
    for id in 0..7 {
        let call = call_of(&flood, id, &bench.counters);
        bench.link.take(call, bench.now);
    }
    let late = call_of(&neighbour, 0, &bench.counters);
    late.contend();
    bench.link.take(late, bench.now);
    assert_eq!((flood.kinds(), neighbour.kinds()), (vec![], vec![]));
    assert_eq!(bench.present(), (7, 1));
}

#[test]
fn an_action_with_a_limit_of_its_own_holds_up_nobody_else() {
    let mut bench = Bench::new(3, &[]);
    let heard: Vec<_> = ["once", "once", "echo", "once", "echo", "echo"].map(|action| bench.call(action).1).to_vec();
    // 2 is the first `once`, 4 and 6 are `echo`; what waits is once, once, echo.
    assert_eq!(bench.written(), [(Kind::Call, 2), (Kind::Call, 4), (Kind::Call, 6)]);
    bench.ok(4).unwrap();
    assert_eq!(bench.written(), [(Kind::Call, 8)], "the `echo` goes before two that may not");
    assert_eq!(heard[2].kinds().len() + heard[5].kinds().len(), 1);
    bench.ok(8).unwrap();
    assert_eq!(bench.written(), []);
    bench.ok(2).unwrap();
    assert_eq!(bench.written(), [(Kind::Call, 10)], "one at a time");
    bench.ok(10).unwrap();
    assert_eq!(bench.written(), [(Kind::Call, 12)]);
    bench.ok(12).unwrap();
    bench.ok(6).unwrap();
    assert!(heard.iter().all(|heard| heard.kinds() == [(Kind::Ok, Ends::Yes)]));
}

#[test]
fn calls_that_are_cancelled_while_they_wait_do_not_pile_up() {
    let mut bench = Bench::new(1, &[]);
    let (_, kept) = bench.call("echo");
    for _ in 0..10_000 {
        let (call, heard) = bench.call("echo");
        call.cancel(CancelReason::Caller);
        assert_eq!(heard.kinds(), [(Kind::Cancelled, Ends::Yes)]);
    }
    assert!(bench.link.waiting.len() <= SWEPT_FROM + 1, "{}", bench.link.waiting.len());
    assert_eq!(bench.present(), (0, 1));
    bench.ok(2).unwrap();
    assert_eq!(kept.kinds(), [(Kind::Ok, Ends::Yes)]);
}

#[test]
fn what_was_not_written_or_may_be_repeated_comes_back_and_the_rest_fails() {
    let crashed = |_: bool| ErrorBody::new(ErrorCode::Crashed, "killed by SIGSEGV");
    let mut bench = Bench::new(4, &["streams", "continue"]);
    let (_, written) = bench.call("echo");
    let (repeatable, unheard) = bench.call("again");
    let (answered, answered_heard) = bench.call("again");
    bench.written();
    bench.hear(Kind::StreamOpen, Flags::NONE, 6, &open(), &[]).unwrap();
    let (unwritten, _) = bench.call("echo");
    let (queued, _) = bench.call("echo");
    let returned = bench.link.dissolve(bench.now, crashed);
    let same =
        |a: &[Arc<Call>], b: &[&Arc<Call>]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b));
    assert!(same(&returned, &[&repeatable, &unwritten, &queued]));
    assert_eq!(written.error().code, ErrorCode::Crashed);
    assert_eq!(answered_heard.error().code, ErrorCode::Crashed);
    assert!(answered.is_done());
    assert_eq!(unheard.kinds(), []);
    assert_eq!(bench.present(), (3, 0));
    for call in returned {
        call.end(Kind::Ok, Flags::NONE, &[0x80], bench.now);
    }
    assert_eq!(bench.present(), (0, 0));
}

#[test]
fn an_idempotent_call_is_tried_three_times_and_not_four() {
    let counters = Arc::new(Counters::default());
    let (call, heard) = call("again", &[0xc0], false, &counters);
    for attempt in 1..=3 {
        let mut bench = Bench::all();
        bench.link.take(call.clone(), bench.now);
        bench.written();
        let returned = bench.link.dissolve(bench.now, |_| ErrorBody::new(ErrorCode::Crashed, "gone"));
        assert_eq!(returned.len(), usize::from(attempt < 3), "attempt {attempt}");
    }
    assert_eq!(heard.error().code, ErrorCode::Crashed);
}

#[test]
fn a_stream_for_a_plugin_without_streams_ends_the_call_once() {
    let mut bench = Bench::new(4, &[]);
    let (call, heard) = bench.call("echo");
    call.follow(Follow::Small(Kind::StreamOpen, Flags::NONE, &[0x80])).unwrap();
    bench.link.poke(2, bench.now);
    assert_eq!(heard.error().code, ErrorCode::StreamingNotSupported);
    assert_eq!(bench.written(), [(Kind::Call, 2), (Kind::Cancel, 2)]);
    bench.hear(Kind::Cancelled, Flags::NONE, 2, &Empty {}, &[]).unwrap();
    assert_eq!(heard.kinds().len(), 1);
}

#[test]
fn a_stream_can_be_aborted_from_both_sides() {
    let error = ErrorBody::new(ErrorCode::ExecutionFailed, "enough");
    let mut bench = Bench::all();
    let (call, heard) = bench.call("echo");
    bench.hear(Kind::StreamOpen, Flags::NONE, 2, &open(), &[]).unwrap();
    let abort = StreamAbort { by: StreamSide::Sender, error: error.clone() };
    bench.hear(Kind::StreamAbort, Flags::NONE, 2, &abort, &[]).unwrap();
    assert!(bench.hear(Kind::StreamData, Flags::NONE, 2, &Empty {}, b"x").unwrap_err().contains("has ended"));
    let refuse = StreamAbort { by: StreamSide::Receiver, error };
    bench.hear(Kind::StreamAbort, Flags::NONE, 2, &refuse, &[]).unwrap();
    bench.written();
    call.follow(Follow::Small(Kind::StreamData, Flags::NONE, &[0x80])).unwrap();
    bench.link.poke(2, bench.now);
    assert_eq!(bench.written(), [], "the plugin wants no more");
    bench.ok(2).unwrap();
    assert_eq!(heard.kinds().last(), Some(&(Kind::Ok, Ends::Yes)));
}

#[test]
fn a_plugin_that_does_not_read_is_not_handed_all_that_its_callers_sent() {
    let mut bench = Bench::new(4, &["streams", "continue"]);
    let calls: Vec<_> = (0..3).map(|_| bench.call("echo").0).collect();
    let most = CREDIT_BYTES as usize;
    for (call, id) in calls.iter().zip([2, 4, 6]) {
        call.follow(Follow::Small(Kind::StreamOpen, Flags::NONE, &[0x80])).unwrap();
        for _ in 0..most {
            call.follow(Follow::Small(Kind::StreamData, Flags::NONE, &[0x80])).unwrap();
        }
        call.follow(Follow::Small(Kind::StreamEnd, Flags::NONE, &[0x80])).unwrap();
        bench.link.poke(id, bench.now);
    }
    assert!(bench.link.outbox.bytes() <= 4 * FOLLOWING_BYTES, "{}", bench.link.outbox.bytes());
    assert!(!bench.link.can_catch_up());
    // What needs no room does not wait for it.
    calls[1].cancel(CancelReason::Caller);
    bench.link.poke(4, bench.now);
    calls[2].end(Kind::Ok, Flags::NONE, &[0x80], bench.now);
    bench.ok(6).unwrap();
    let mut frames = bench.written();
    assert!(frames.contains(&(Kind::Cancel, 4)));
    while bench.link.can_catch_up() {
        bench.link.catch_up(bench.now);
        assert!(bench.link.outbox.bytes() <= 4 * FOLLOWING_BYTES, "{}", bench.link.outbox.bytes());
        frames.extend(bench.written());
    }
    for id in [2, 4] {
        let kinds: Vec<_> = frames.iter().filter(|(_, of)| *of == id).map(|(kind, _)| *kind).collect();
        let data = kinds.iter().filter(|kind| **kind == Kind::StreamData).count();
        assert_eq!((data, kinds.last()), (most, Some(&Kind::StreamEnd)), "{id}");
    }
    assert_eq!(bench.link.lagging.len(), 0);
}

#[test]
fn a_stream_that_its_reader_refused_need_not_be_ended() {
    let mut bench = Bench::all();
    let (call, heard) = bench.call("echo");
    bench.hear(Kind::StreamOpen, Flags::NONE, 2, &open(), &[]).unwrap();
    assert!(bench.ok(2).unwrap_err().contains("while its output stream is open"));
    let error = ErrorBody::new(ErrorCode::Cancelled, "enough");
    let refuse = super::super::call::body(&StreamAbort { by: StreamSide::Receiver, error });
    call.follow(Follow::Small(Kind::StreamAbort, Flags::NONE, &refuse)).unwrap();
    bench.link.poke(2, bench.now);
    bench.ok(2).unwrap();
    assert_eq!(heard.kinds().last(), Some(&(Kind::Ok, Ends::Yes)));
}

#[test]
fn draining_cancels_what_has_no_end_of_its_own() {
    let mut bench = Bench::all();
    bench.call("echo");
    bench.call("forever");
    bench.written();
    bench.link.cancel_endless(bench.now);
    assert_eq!(bench.written(), [(Kind::Cancel, 4)]);
}

#[test]
fn what_draining_cancelled_may_be_called_again_and_what_the_caller_cancelled_not() {
    let unavailable = |heard: &Heard| {
        let error = heard.error();
        assert_eq!((error.code, error.retryable), (ErrorCode::Unavailable, true), "{error}");
    };
    let mut bench = Bench::all();
    let (_, in_time) = bench.call("forever");
    let (_, died) = bench.call("forever");
    let (unwanted, cancelled) = bench.call("forever");
    bench.link.cancel_endless(bench.now);
    unwanted.cancel(CancelReason::Caller);
    bench.link.poke(6, bench.now);
    bench.written();
    bench.hear(Kind::Cancelled, Flags::NONE, 2, &Empty {}, &[]).unwrap();
    unavailable(&in_time);
    bench.hear(Kind::Cancelled, Flags::NONE, 6, &Empty {}, &[]).unwrap();
    assert_eq!(cancelled.kinds(), [(Kind::Cancelled, Ends::Yes)]);
    assert!(bench.link.dissolve(bench.now, |_| ErrorBody::new(ErrorCode::Crashed, "gone")).is_empty());
    unavailable(&died);

    let mut bench = Bench::all();
    let (_, too_late) = bench.call("forever");
    bench.link.cancel_endless(bench.now);
    assert_eq!(bench.lapse(GRACE, false), 1);
    unavailable(&too_late);
}

#[test]
fn an_error_that_leaves_things_out_is_filled_in() {
    let mut bench = Bench::all();
    let (_, heard) = bench.call("echo");
    let short = serde_json::json!({ "code": "timeout", "message": "too slow" });
    bench.hear(Kind::Err, Flags::NONE, 2, &short, &[]).unwrap();
    assert_eq!(heard.error(), ErrorBody::new(ErrorCode::Timeout, "too slow"));
}

#[test]
fn a_caller_deadline_is_the_one_that_counts() {
    let mut bench = Bench::all();
    let heard = Arc::new(Heard::default());
    assert!(bench.counters.admit(1));
    let new = NewCall {
        action: "echo".into(),
        params: Params::Small([].into()),
        more: false,
        caller_limit: Some(seconds(5)),
        caller: "uid:0".into(),
        reply_to: (heard.clone(), 9),
    };
    let call = Call::new(new, seconds(30), bench.counters.clone());
    bench.link.take(call.clone(), bench.now);
    assert_eq!(bench.link.next_due(), Some(call.deadline()));
    bench.lapse(seconds(5) + GRACE, false);
    bench.lapse(GRACE, false);
    assert!(heard.error().message.contains("5000 ms, the caller's deadline"), "{}", heard.error().message);
    assert_eq!((bench.counters.snapshot().timed_out, bench.counters.faults()), (1, 0), "the plugin may take longer");
}

/// What speaks against a package is not what any caller can bring about.
#[test]
fn only_what_the_plugin_does_is_its_fault() {
    let mut bench = Bench::all();
    let error = |code| ErrorBody::new(code, "no");
    for (id, code) in [
        (2, ErrorCode::InvalidParams),
        (4, ErrorCode::ResourceNotFound),
        (6, ErrorCode::ExecutionFailed),
        (8, ErrorCode::Internal),
    ] {
        bench.call("echo");
        bench.hear(Kind::Err, Flags::NONE, id, &error(code), &[]).unwrap();
    }
    assert_eq!((bench.counters.snapshot().errors, bench.counters.faults()), (4, 2));
    // Who is asked to cancel may say so with an error.
    let (cancelled, _) = bench.call("echo");
    cancelled.cancel(CancelReason::Caller);
    bench.link.poke(10, bench.now);
    bench.hear(Kind::Err, Flags::NONE, 10, &error(ErrorCode::ExecutionFailed), &[]).unwrap();
    assert_eq!((bench.counters.snapshot().errors, bench.counters.faults()), (5, 2));
    // Its own limit has passed.
    bench.call("echo");
    bench.lapse(seconds(30), false);
    bench.hear(Kind::Err, Flags::NONE, 12, &error(ErrorCode::ExecutionFailed), &[]).unwrap();
    bench.call("echo");
    bench.lapse(seconds(30), false);
    bench.lapse(GRACE, false);
    assert_eq!((bench.counters.snapshot().timed_out, bench.counters.faults()), (1, 4));
    // Nor has it come to the second of these.
    bench.call("once");
    bench.call("once");
    bench.lapse(seconds(30), false);
    assert_eq!((bench.counters.snapshot().timed_out, bench.counters.faults()), (2, 5));
}
