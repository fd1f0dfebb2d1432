//! "Chaos": processes that die, hang or hide, at every stage. Whatever happens to one, its call learns it, its tree is gone, and its
//! neighbour does not notice.

use nix::sys::signal::Signal;
use palisade_protocol::{ErrorCode, Fault};
use palisade_tests::daemon::{Daemon, DaemonOptions, signal, wait_for};
use palisade_tests::package::Package;
use palisade_tests::process;
use serde_json::json;

use crate::support::{daemon_with, error, expect_echo, expect_text, hostile, mute, outwait_watchdog, short_watchdog};

/// A call that its plugin does not survive.
fn dies(row: &str, code: ErrorCode, sentence: &str, stderr: Option<&str>) {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    expect_echo(&daemon, "hostile");
    let error = error(agent.call("hostile", row, &json!(null)), code);
    expect_text(&error.message, sentence);
    let status = daemon.wait_until("hostile", "a dossier", |now| now.last_failure.is_some());
    let dossier = status.last_failure.expect("it is there");
    expect_text(&dossier.reason, sentence);
    assert_eq!((dossier.generation, dossier.calls_in_flight), (1, 1));
    assert!(dossier.exit.is_some(), "how it ended is known: {dossier:?}");
    if let Some(line) = stderr {
        assert_eq!(dossier.last_stderr.last().map(String::as_str), Some(line));
        assert!(dossier.last_stderr.len() <= 20);
    }
    assert_eq!(agent.call("hostile", "echo", &json!("next")), Ok(json!("next")), "the next call meets the successor");
    assert_eq!(daemon.status("hostile").generation, Some(2));
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

macro_rules! deaths {
    ($($test:ident: $row:literal, $sentence:literal, $stderr:expr;)*) => {
        $(#[test]
        fn $test() {
            dies($row, ErrorCode::Crashed, $sentence, $stderr);
        })*
    };
}

deaths! {
    it_aborts: "abort", "killed by SIGABRT", Some("about to abort");
    it_segfaults: "segfault", "killed by SIGSEGV", None;
    it_exits_with_three: "exit-three", "exited with code 3", Some("line 29 before the end");
    it_kills_itself: "kill-self", "killed by SIGKILL", None;
    it_closes_its_output: "close-output", "exited with code 5", None;
    it_streams_and_crashes: "stream-and-crash", "killed by SIGABRT", None;
    it_leaves_descendants_and_dies: "fork-and-die", "killed by SIGABRT", None;
}

/// Exit code 0 in the middle of a call is no failure of the process, and still the end of the call.
#[test]
fn it_exits_with_zero_during_a_call() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let error = error(daemon.agent().call("hostile", "exit-zero", &json!(null)), ErrorCode::Crashed);
    expect_text(&error.message, "exited with code 0");
    expect_echo(&daemon, "hostile");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// Its output is closed, it ignores SIGTERM and does not end: it is ended.
#[test]
fn it_closes_its_output_and_stays() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let call = daemon.agent().call("hostile", "close-and-linger", &json!(null));
    let error = error(call, ErrorCode::ProtocolViolation);
    expect_text(&error.message, "closed its protocol pipes and went on running");
    expect_echo(&daemon, "hostile");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// An idempotent call outlives the process it was given to, another one does not.
#[test]
fn idempotent_calls_are_repeated() {
    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    assert_eq!(agent.call("hostile", "crash-first-idempotent", &json!(null)), Ok(json!("second time lucky")));
    assert_eq!(daemon.status("hostile").generation, Some(2));
    daemon.stop_and_expect_no_orphans();

    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    error(agent.call("hostile", "crash-first", &json!(null)), ErrorCode::Crashed);
    assert_eq!(agent.call("hostile", "crash-first", &json!(null)), Ok(json!("second time lucky")));
    daemon.stop_and_expect_no_orphans();
}

/// Descendants in sessions of their own that ignore every signal they can die with their plugin.
#[test]
fn descendants_die_with_the_plugin() {
    let mut daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    assert_eq!(daemon.agent().call("hostile", "double-fork", &json!(null)), Ok(json!(null)));
    let plugin = daemon.process_of("hostile");
    let init = process::parent(plugin).expect("it runs");
    let tree = wait_for("all descendants", || {
        let tree = process::descendants(init);
        // The plugin and, for each of its two children, the grandchild that stays.
        (tree.len() == 3).then_some(tree)
    });
    daemon.remember();
    daemon.operate("stop", &json!({"plugin": "hostile"})).expect("it can be stopped");
    assert!(daemon.status("hostile").is("stopped"));
    for process in tree {
        assert!(!process::is_alive(process), "stopped means: no process is left, and {process:?} is");
    }
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// It ignores Drain, the end of its input and SIGTERM.
#[test]
fn a_stubborn_plugin_is_stopped() {
    let daemon = daemon_with(hostile("stubborn"));
    let neighbour = daemon.neighbour();
    expect_echo(&daemon, "hostile");
    let plugin = process::identity(daemon.process_of("hostile")).expect("it runs");
    let status = daemon.operate("stop", &json!({"plugin": "hostile"})).expect("it can be stopped");
    assert_eq!(status["state"], "stopped");
    assert!(!process::is_alive(plugin));
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// Ordered shutdown ends a stubborn one too.
#[test]
fn a_stubborn_plugin_does_not_keep_the_daemon() {
    let daemon = daemon_with(hostile("stubborn"));
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// Its loop is blocked by one call: pings go unanswered, and the watchdog tells hung from busy.
fn hangs(package: Package, row: &str) {
    let daemon = daemon_with(package.with("watchdog", json!({"interval_seconds": 1, "timeout_seconds": 1})));
    let neighbour = daemon.neighbour();
    let error = error(daemon.agent().call("hostile", row, &json!(null)), ErrorCode::Crashed);
    expect_text(&error.message, "no answer to a ping");
    let status = daemon.wait_until("hostile", "a dossier", |now| now.last_failure.is_some());
    expect_text(&status.last_failure.expect("it is there").reason, "hung");
    expect_echo(&daemon, "hostile");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn it_hangs_in_a_call() {
    hangs(hostile("tame"), "block");
}

#[test]
fn it_stops_itself() {
    hangs(hostile("tame"), "stop-self");
}

#[test]
fn it_answers_calls_but_no_pings() {
    let watchdog = json!({"interval_seconds": 1, "timeout_seconds": 1});
    let daemon = daemon_with(hostile("mute").with("watchdog", watchdog));
    let neighbour = daemon.neighbour();
    expect_echo(&daemon, "hostile");
    let status = daemon.wait_until("hostile", "the watchdog's verdict", |now| now.last_failure.is_some());
    expect_text(&status.last_failure.expect("it is there").reason, "hung");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// One that never reads again fills its pipe and nothing else; its calls end by their deadlines.
#[test]
fn it_never_reads() {
    let watchdog = json!({"interval_seconds": 1, "timeout_seconds": 1});
    let daemon = daemon_with(hostile("never-reads").with("watchdog", watchdog));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    let large = json!("x".repeat(100_000));
    let ids: Vec<u64> = (0..20).map(|_| agent.begin("hostile", "echo", &large)).collect();
    for id in ids {
        let error = agent.finish(id).expect_err("nobody reads it");
        assert!(matches!(error.code, ErrorCode::Crashed | ErrorCode::Timeout), "{error}");
    }
    assert!(process::peak_kib(daemon.pid()).expect("it runs") < 64 << 10);
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// One that reads a byte a second is as good as none, and costs as little.
#[test]
fn it_reads_a_byte_a_second() {
    let daemon = daemon_with(hostile("reads-slowly"));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    let limit = std::time::Duration::from_secs(1);
    let error = error(agent.call_within("hostile", "echo", &json!("x".repeat(1000)), limit), ErrorCode::Timeout);
    assert!(error.retryable);
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// The three processes of a plugin, nearest to the daemon first: launcher, pid 1, the plugin itself.
fn chain(daemon: &Daemon, plugin: &str) -> [process::Identity; 3] {
    let plugin = daemon.process_of(plugin);
    let init = process::parent(plugin).expect("it runs");
    let launcher = process::parent(init).expect("it runs");
    assert_eq!(process::parent(launcher), Some(daemon.pid()), "launcher, pid 1, plugin stand in one line");
    [launcher, init, plugin].map(|pid| process::identity(pid).expect("it runs"))
}

/// `kill -9` of any of the three, during a call.
fn is_killed(which: usize, sentence: &str) {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    expect_echo(&daemon, "hostile");
    let processes = chain(&daemon, "hostile");
    let call = agent.begin("hostile", "wait", &json!(null));
    daemon.wait_until("hostile", "a call in flight", |now| now.calls.in_flight == 1);
    signal(processes[which].pid, Signal::SIGKILL);
    let error = error(agent.finish(call), ErrorCode::Crashed);
    expect_text(&error.message, sentence);
    for process in processes {
        wait_for("the end of the whole tree", || (!process::is_alive(process)).then_some(()));
    }
    assert_eq!(agent.call("hostile", "echo", &json!("next")), Ok(json!("next")));
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn its_launcher_is_killed() {
    is_killed(0, "launcher");
}

#[test]
fn its_pid_1_is_killed() {
    is_killed(1, "killed");
}

#[test]
fn the_plugin_is_killed() {
    is_killed(2, "killed by SIGKILL");
}

fn zygotes(daemon: &Daemon) -> Vec<u32> {
    process::children(daemon.pid()).into_iter().filter(|pid| process::is_zygote(*pid)).collect()
}

/// What runs does not notice, and the next start has another zygote.
#[test]
fn the_zygote_is_killed() {
    let options = DaemonOptions::with([Package::echo(), hostile("tame")]).configuration("prepared_launchers = 0\n");
    let daemon = Daemon::start(options);
    let neighbour = daemon.neighbour();
    let first = zygotes(&daemon);
    assert_eq!(first.len(), 1);
    signal(first[0], Signal::SIGKILL);
    expect_echo(&daemon, "hostile");
    let second = zygotes(&daemon);
    assert!(second.len() == 1 && second != first, "{second:?}");
    assert!(daemon.status("hostile").last_failure.is_none());
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// One that is stopped is lost between a question and its answer: the start that asked is made again, and until there is another zygote
/// launchers are executed one by one, which the doctor says with its reason.
#[test]
fn the_zygote_is_stopped() {
    let options = DaemonOptions::with([Package::echo(), hostile("tame")]).configuration("prepared_launchers = 0\n");
    let daemon = Daemon::start(options);
    let neighbour = daemon.neighbour();
    let launchers = || {
        let report = daemon.operate("doctor", &json!({})).expect("it answers");
        let checks = report["checks"].as_array().expect("a list");
        checks.iter().find(|check| check["name"] == "launchers").expect("they are looked at").clone()
    };
    let copied = launchers();
    assert_eq!((&copied["state"], copied.get("hint")), (&json!("ok"), None), "{copied}");
    let zygote = zygotes(&daemon)[0];
    signal(zygote, Signal::SIGSTOP);
    wait_for("it to stand still", || (process::state(zygote) == Some('T')).then_some(()));
    expect_echo(&daemon, "hostile");
    let dossier = daemon.status("hostile").last_failure.expect("the first start brought no process");
    expect_text(&dossier.reason, "the process that it was to be a copy of did not answer in time");
    assert!(zygotes(&daemon).is_empty(), "the one that was stopped is gone, and there is no other");
    let executed = launchers();
    assert_eq!(executed["state"], "warn", "{executed}");
    expect_text(&executed["summary"].to_string(), "executed by itself");
    expect_text(&executed["summary"].to_string(), "the last one did not answer in time");
    expect_text(&executed["hint"].to_string(), "take longer");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// `kill -9` of each of the three while the plugin is frozen: nobody is left to notice but the daemon.
#[test]
fn they_are_killed_while_it_is_frozen() {
    for which in 0..3 {
        let daemon = daemon_with(hostile("tame"));
        expect_echo(&daemon, "hostile");
        let processes = chain(&daemon, "hostile");
        daemon.operate("pause", &json!({"plugin": "hostile"})).expect("it can be paused");
        assert!(daemon.status("hostile").is("paused"));
        signal(processes[which].pid, Signal::SIGKILL);
        for process in processes {
            wait_for("the end of the whole tree", || (!process::is_alive(process)).then_some(()));
        }
        // A paused plugin that dies has failed, and is brought back.
        daemon.wait_until("hostile", "a dossier", |now| now.last_failure.is_some());
        expect_echo(&daemon, "hostile");
        daemon.stop_and_expect_no_orphans();
    }
}

/// SIGSTOP of any of the three. One that does not run is told by the watchdog if it is the plugin; the others are not in the way of
/// calls. And none of them keeps the plugin from being stopped.
#[test]
fn they_are_stopped() {
    let watchdog = json!({"interval_seconds": 1, "timeout_seconds": 1});
    for which in 0..3 {
        let daemon = daemon_with(hostile("tame").with("watchdog", watchdog.clone()));
        let neighbour = daemon.neighbour();
        expect_echo(&daemon, "hostile");
        let processes = chain(&daemon, "hostile");
        let stopped = processes[which].pid;
        signal(stopped, Signal::SIGSTOP);
        wait_for("it to stand still", || (process::state(stopped) == Some('T')).then_some(()));
        if which == 2 {
            let error = error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::Crashed);
            expect_text(&error.message, "no answer to a ping");
        } else {
            expect_echo(&daemon, "hostile");
            daemon.operate("stop", &json!({"plugin": "hostile"})).expect("it can be stopped");
            daemon.operate("start", &json!({"plugin": "hostile"})).expect("it can be started");
        }
        for process in processes {
            wait_for("the end of the whole tree", || (!process::is_alive(process)).then_some(()));
        }
        expect_echo(&daemon, "hostile");
        neighbour.expect_unharmed(&daemon);
        daemon.stop_and_expect_no_orphans();
    }
}

/// `kill -9` of launcher and plugin before it has said hello.
#[test]
fn they_are_killed_while_it_starts() {
    for which in 0..3 {
        let limits = json!({"start_timeout_seconds": 60, "stop_grace_seconds": 1});
        let silent = hostile("silent").with("restart", json!("never")).with("limits", limits);
        // Launchers that wait for a start would stand beside the one that is looked for.
        let options = DaemonOptions::with([Package::echo(), silent]).configuration("prepared_launchers = 0\n");
        let daemon = Daemon::start(options);
        let mut agent = daemon.agent();
        let call = agent.begin("hostile", "echo", &json!(1));
        // Nothing serves yet, so the processes are found by descent: of the silent plugin's, there is one line of three.
        let processes = wait_for("launcher, pid 1 and plugin", || {
            let children =
                |pid| process::children(pid).into_iter().filter(|pid| !process::is_zygote(*pid)).collect::<Vec<_>>();
            let mut line = Vec::new();
            let mut next = daemon.pid();
            while let [child] = children(next)[..] {
                line.push(process::identity(child)?);
                next = child;
            }
            (line.len() == 3).then_some(line)
        });
        signal(processes[which].pid, Signal::SIGKILL);
        error(agent.finish(call), ErrorCode::InitializationFailed);
        for process in processes {
            wait_for("the end of the whole tree", || (!process::is_alive(process)).then_some(()));
        }
        daemon.stop_and_expect_no_orphans();
    }
}

/// `kill -9` of the daemon: nothing of a plugin survives, and the next daemon on the same folder starts as if nothing had been.
fn daemon_is_killed(prepare: impl FnOnce(&Daemon), package: Package) {
    let daemon = daemon_with(package.clone());
    prepare(&daemon);
    let folder = daemon.kill_nine();
    assert!(folder.path().join("palisade.sock").exists(), "a socket is left over, as it should be for this test");
    let daemon = Daemon::start(DaemonOptions::with([Package::echo(), hostile("tame")]).folder(folder));
    expect_echo(&daemon, "hostile");
    expect_echo(&daemon, "echo");
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn the_daemon_is_killed_while_idle() {
    daemon_is_killed(|daemon| expect_echo(daemon, "hostile"), hostile("tame"));
}

#[test]
fn the_daemon_is_killed_during_a_call() {
    let begin = |daemon: &Daemon| {
        let mut agent = daemon.agent();
        agent.begin("hostile", "ignore-cancel", &json!(null));
        daemon.wait_until("hostile", "a call in flight", |now| now.calls.in_flight == 1);
    };
    daemon_is_killed(begin, hostile("tame"));
}

#[test]
fn the_daemon_is_killed_while_descendants_hide() {
    let begin = |daemon: &Daemon| {
        assert_eq!(daemon.agent().call("hostile", "double-fork", &json!(null)), Ok(json!(null)));
    };
    daemon_is_killed(begin, hostile("tame"));
}

#[test]
fn the_daemon_is_killed_while_a_plugin_starts() {
    let begin = |daemon: &Daemon| {
        daemon.agent().begin("hostile", "echo", &json!(1));
        wait_for("the process", || (!process::with_text("HOSTILE_MODE=silent").is_empty()).then_some(()));
    };
    daemon_is_killed(begin, hostile("silent"));
}

#[test]
fn the_daemon_is_killed_while_a_plugin_is_frozen() {
    let begin = |daemon: &Daemon| {
        expect_echo(daemon, "hostile");
        daemon.operate("pause", &json!({"plugin": "hostile"})).expect("it can be paused");
    };
    daemon_is_killed(begin, hostile("tame"));
}

#[test]
fn the_daemon_is_killed_while_it_shuts_down() {
    let begin = |daemon: &Daemon| {
        expect_echo(daemon, "hostile");
        daemon.terminate();
    };
    daemon_is_killed(begin, hostile("stubborn"));
}

/// A daemon that is stopped for a while finds its plugins as they were.
#[test]
fn the_daemon_stands_still() {
    let daemon = daemon_with(hostile("tame").with("watchdog", short_watchdog()));
    let other = Daemon::with([Package::echo(), mute("mute")]);
    let mut agent = daemon.agent();
    expect_echo(&daemon, "hostile");
    expect_echo(&daemon, "echo");
    daemon.signal(Signal::SIGSTOP);
    wait_for("the daemon to stand still", || (process::state(daemon.pid()) == Some('T')).then_some(()));
    let call = agent.begin("hostile", "echo", &json!("meanwhile"));
    outwait_watchdog(&other, "mute");
    daemon.signal(Signal::SIGCONT);
    assert_eq!(agent.finish(call), Ok(json!("meanwhile")));
    assert_eq!(daemon.status("hostile").last_failure, None, "a daemon that slept blames nobody");
    daemon.stop_and_expect_no_orphans();
    other.stop_and_expect_no_orphans();
}

/// The daemon has no descriptors left for a process: that is the host's fault, and no restart of the plugin's. Once there are some again
/// the plugin is started, though its policy is never to restart it.
#[test]
fn the_daemon_is_out_of_descriptors() {
    let restart = json!({"policy": "never", "backoff_initial_ms": 10, "backoff_max_ms": 10});
    let daemon = daemon_with(hostile("tame").with("restart", restart));
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    assert_eq!(agent.call("echo", "echo", &json!(1)), Ok(json!(1)));
    let before = process::descriptors_max(daemon.pid()).expect("there is a limit");
    let open = process::descriptors(daemon.pid()).expect("it runs") as u64;
    daemon.limit_descriptors(open + 2);
    let error = agent.call("hostile", "echo", &json!(1)).expect_err("there is nothing to start it with");
    assert_eq!(
        (error.code, error.fault, error.retryable),
        (ErrorCode::ResourceExhausted, Fault::Host, true),
        "{error}"
    );
    daemon.limit_descriptors(before);
    // A call may still wait for a start that was begun while there were none, and has what that one fails with.
    let answer = wait_for("a start with descriptors", || {
        let answer = agent.call("hostile", "echo", &json!(2));
        (!answer.as_ref().is_err_and(|error| error.code == ErrorCode::ResourceExhausted)).then_some(answer)
    });
    assert_eq!(answer, Ok(json!(2)));
    let status = daemon.status("hostile");
    assert_eq!((status.restarts, status.quarantined, status.state.as_str()), (0, false, "active"));
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}
