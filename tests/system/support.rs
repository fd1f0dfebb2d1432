//! What several of these files need.

use palisade_protocol::{ErrorBody, ErrorCode};
use palisade_tests::daemon::Daemon;
use palisade_tests::package::Package;
use serde_json::{Value, json};

/// Whether to take the time for what is shortened otherwise: `PALISADE_TEST_FULL=1`.
pub(crate) fn full() -> bool {
    std::env::var_os("PALISADE_TEST_FULL").is_some_and(|value| value == "1")
}

/// In the guest, which is emulated, everything takes ten times as long: less is done there of what is only much.
pub(crate) fn in_the_guest() -> bool {
    std::env::var_os("PALISADE_TEST_GUEST").is_some()
}

/// The hostile plugin with short times, so that no test waits long for what it provokes.
pub(crate) fn hostile(mode: &str) -> Package {
    let start = if in_the_guest() { 10 } else { 2 };
    Package::hostile("hostile", mode)
        .with("limits", json!({"start_timeout_seconds": start, "stop_grace_seconds": 1, "drain_timeout_seconds": 2}))
        .with("cancel_grace_seconds", json!(1))
        .with(
            "restart",
            json!({"policy": "on-failure", "backoff_initial_ms": 10, "backoff_max_ms": 10, "intensity": 50}),
        )
}

/// A daemon with the hostile plugin in that mode, and the neighbour.
pub(crate) fn daemon_with(hostile: Package) -> Daemon {
    Daemon::with([Package::echo(), hostile])
}

/// The plugin answers, whatever happened before.
pub(crate) fn expect_echo(daemon: &Daemon, plugin: &str) {
    assert_eq!(daemon.agent().call(plugin, "echo", &json!("well?")), Ok(json!("well?")), "log:\n{}", daemon.log());
}

/// What this call ended with, which is not well.
#[track_caller]
pub(crate) fn error(outcome: Result<Value, ErrorBody>, code: ErrorCode) -> ErrorBody {
    match outcome {
        Err(error) => {
            assert_eq!(error.code, code, "{error}");
            assert_eq!((error.class, error.fault), (code.class(), code.fault()), "{error}");
            error
        }
        Ok(value) => panic!("expected {code}, and the call brought {value}"),
    }
}

/// That the text holds the other one.
#[track_caller]
pub(crate) fn expect_text(text: &str, part: &str) {
    assert!(text.contains(part), "expected {part:?} in {text:?}");
}
