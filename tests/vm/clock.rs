//! The clock jumps, by an hour forwards and back: deadlines, watchdogs and restarts go by another clock. It is the machine's, so this is
//! for the guest.

use palisade_tests::command::command;
use palisade_tests::daemon::Daemon;
use palisade_tests::package::Package;
use serde_json::json;

fn jump(by: &str) {
    let now = command("date").args(["+%s"]).output().expect("date is everywhere");
    let now: i64 = String::from_utf8_lossy(&now.stdout).trim().parse().expect("a number");
    let then = now + by.parse::<i64>().expect("a number of seconds");
    let set = command("date").args(["--set", &format!("@{then}")]).output().expect("date is everywhere");
    assert!(set.status.success(), "{set:?}");
}

#[test]
#[ignore = "for the guest: it sets the machine's clock"]
fn the_clock_jumps() {
    assert!(std::env::var_os("PALISADE_TEST_GUEST").is_some(), "this is for the guest of tests/vm alone");
    let watchdog = json!({"interval_seconds": 1, "timeout_seconds": 5});
    let daemon = Daemon::with([Package::echo(), Package::hostile("hostile", "tame").with("watchdog", watchdog)]);
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    let call = agent.begin("hostile", "wait", &json!(null));
    daemon.wait_until("hostile", "a call in flight", |now| now.calls.in_flight == 1);
    for by in ["3600", "-7200", "3600"] {
        jump(by);
        assert_eq!(daemon.agent().call("hostile", "echo", &json!(by)), Ok(json!(by)));
        daemon.wait_until("hostile", "the call still in flight", |now| now.calls.in_flight == 1);
    }
    agent.cancel(call);
    agent.finish(call).expect_err("it was cancelled, and by nobody else");
    let status = daemon.status("hostile");
    assert_eq!((status.generation, status.last_failure), (Some(1), None));
    assert_eq!(status.calls.timed_out, 0);
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}
