//! Start, stop, pause, restart, idleness, shutdown: the operator's side of a plugin's life.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use palisade_protocol::ErrorCode;
use palisade_tests::command::{built, command};
use palisade_tests::daemon::{Daemon, DaemonOptions, wait_for};
use palisade_tests::package::Package;
use palisade_tests::process;
use serde_json::json;

use crate::support::{
    daemon_with, error, expect_echo, expect_text, expect_tried, follow, hostile, mute, outwait_watchdog, short_watchdog,
};

/// Nothing runs until the first call; an eager one runs from the start.
#[test]
fn lazy_and_eager() {
    let daemon = daemon_with(hostile("tame").with("activation", json!("eager")));
    daemon.wait_until("hostile", "active", |now| now.is("active"));
    let echo = daemon.status("echo");
    assert!(echo.is("discovered") && echo.generation.is_none(), "{echo:?}");
    expect_echo(&daemon, "echo");
    assert!(daemon.status("echo").is("active"));
    daemon.stop_and_expect_no_orphans();
}

/// A lazy plugin that nobody calls for a while is stopped, and comes back with the next call.
#[test]
fn an_idle_plugin_rests() {
    let daemon = daemon_with(hostile("tame").with("activation", json!({"mode": "lazy", "idle_stop_seconds": 1})));
    expect_echo(&daemon, "hostile");
    let status = daemon.wait_until("hostile", "rest", |now| now.process_id().is_none() && !now.is("stopping"));
    assert!(status.is("stopped") || status.is("discovered"), "{status:?}");
    assert_eq!((status.restarts, status.last_failure), (0, None));
    expect_echo(&daemon, "hostile");
    assert_eq!(daemon.status("hostile").generation, Some(2));
    daemon.stop_and_expect_no_orphans();
}

/// What the operator stopped stays stopped until somebody starts it.
#[test]
fn a_stopped_plugin_refuses() {
    let daemon = daemon_with(hostile("tame"));
    expect_echo(&daemon, "hostile");
    let running = process::identity(daemon.process_of("hostile")).expect("it runs");
    daemon.operate("stop", &json!({"plugin": "hostile"})).expect("it can be stopped");
    assert!(!process::is_alive(running), "when stop returns, no process is left");
    let refused = error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::Unavailable);
    expect_text(refused.hint.as_deref().unwrap_or_default(), "palisade start hostile");
    daemon.operate("stop", &json!({"plugin": "hostile"})).expect("stopping what is stopped is no error");
    daemon.operate("start", &json!({"plugin": "hostile"})).expect("it can be started");
    assert!(daemon.status("hostile").is("active"), "when start returns, it takes calls");
    daemon.operate("start", &json!({"plugin": "hostile"})).expect("starting what runs is no error");
    assert_eq!(daemon.status("hostile").generation, Some(2));
    daemon.stop_and_expect_no_orphans();
}

/// A restart is a new generation, and counts as no failure.
#[test]
fn a_restart_is_a_new_generation() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    expect_echo(&daemon, "hostile");
    for generation in 2..5 {
        daemon.operate("restart", &json!({"plugin": "hostile"})).expect("it can be restarted");
        let status = daemon.status("hostile");
        assert!(status.is("active"));
        assert_eq!((status.generation, status.last_failure), (Some(generation), None));
    }
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// A call that goes down with what an operator stopped is not told that it cancelled itself, and nothing has failed.
#[test]
fn a_call_is_told_who_stopped_its_plugin() {
    let daemon = Daemon::with([Package::echo()]);
    let mut agent = daemon.agent();
    let call = agent.begin("echo", "slow", &json!({"ms": 60_000}));
    daemon.wait_until("echo", "a call in flight", |now| now.calls.in_flight == 1);
    daemon.operate("stop", &json!({"plugin": "echo", "force": true})).expect("it can be stopped");
    let ended = error(agent.finish(call), ErrorCode::Unavailable);
    expect_text(&ended.message, "stopped by the operator");
    assert_eq!(daemon.status("echo").last_failure, None);
    assert!(!daemon.log().contains("a generation failed"), "{}", daemon.log());
    daemon.stop_and_expect_no_orphans();
}

/// While the daemon stops, that is what callers are told, and those who follow get an end.
#[test]
fn who_calls_while_the_daemon_stops() {
    let mut daemon = daemon_with(hostile("tame"));
    let (mut agent, mut late) = (daemon.agent(), daemon.agent());
    expect_echo(&daemon, "hostile");
    let mut followers = ["events", "logs"].map(|what| {
        let mut agent = daemon.agent();
        let follow = agent.begin("palisade", what, &json!({"plugin": "hostile", "follow": true}));
        assert_eq!(agent.next_of(follow).kind, Some(palisade_protocol::Kind::StreamOpen));
        (agent, follow)
    });
    let call = agent.begin("hostile", "sleep-blocking", &json!(null));
    daemon.wait_until("hostile", "a call in flight", |now| now.calls.in_flight == 1);
    daemon.remember();
    daemon.terminate();
    daemon.wait_until("hostile", "the beginning of the end", |now| now.is("stopping"));
    for plugin in ["hostile", "echo"] {
        let refused = error(late.call(plugin, "echo", &json!(1)), ErrorCode::Unavailable);
        assert_eq!(refused.message, "the daemon is stopping");
    }
    let refused = error(late.call("palisade", "start", &json!({"plugin": "echo"})), ErrorCode::Unavailable);
    assert_eq!(refused.message, "the daemon is stopping");
    assert_eq!(agent.finish(call), Ok(json!(null)));
    for (agent, follow) in &mut followers {
        assert_eq!(agent.finish(*follow), Ok(json!({})));
    }
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
}

/// A number names one process, whichever daemon started it, and each event names the one that it is about.
#[test]
fn a_number_is_never_used_again() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let daemon = Daemon::start(DaemonOptions::with([hostile("tame")]).folder(folder));
    expect_echo(&daemon, "hostile");
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    daemon.operate("restart", &json!({"plugin": "hostile"})).expect("it can be restarted");
    let seen: Vec<_> = std::iter::from_fn(|| Some(agent.next_of(events).value()))
        .filter(|event| event["kind"] == "state_changed")
        .map(|event| (event["to"].as_str().map(str::to_owned).unwrap_or_default(), event["generation"].as_u64()))
        .take(5)
        .collect();
    let expected = [("stopping", 1), ("stopped", 1), ("loaded", 2), ("initialized", 2), ("active", 2)]
        .map(|(to, generation)| (to.to_owned(), Some(generation)));
    assert_eq!(seen, expected);
    drop(agent);
    let folder = daemon.kill_nine();
    let daemon = Daemon::start(DaemonOptions::with([hostile("tame")]).folder(folder));
    expect_echo(&daemon, "hostile");
    assert_eq!(daemon.status("hostile").generation, Some(3));
    daemon.stop_and_expect_no_orphans();
}

/// A call under way when its plugin is stopped may finish within the drain timeout.
#[test]
fn a_call_finishes_while_its_plugin_drains() {
    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    let call = agent.begin("hostile", "sleep-blocking", &json!(null));
    daemon.wait_until("hostile", "a call in flight", |now| now.calls.in_flight == 1);
    daemon.operate("stop", &json!({"plugin": "hostile"})).expect("it can be stopped");
    assert_eq!(agent.finish(call), Ok(json!(null)));
    daemon.stop_and_expect_no_orphans();
}

/// While a plugin is paused its calls wait, its process stands still, and its clocks do too.
#[test]
fn a_paused_plugin_stands_still() {
    let daemon = Daemon::with([Package::echo(), hostile("tame").with("watchdog", short_watchdog()), mute("mute")]);
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    expect_echo(&daemon, "hostile");
    daemon.operate("pause", &json!({"plugin": "hostile"})).expect("it can be paused");
    assert!(daemon.status("hostile").is("paused"));
    let waiting = agent.begin("hostile", "echo", &json!("later"));
    let late = daemon.agent().call_within("hostile", "echo", &json!(1), Duration::from_millis(100));
    error(late, ErrorCode::Timeout);
    outwait_watchdog(&daemon, "mute");
    daemon.operate("pause", &json!({"plugin": "hostile"})).expect("pausing what is paused is no error");
    daemon.operate("resume", &json!({"plugin": "hostile"})).expect("it can be resumed");
    assert_eq!(agent.finish(waiting), Ok(json!("later")));
    let status = daemon.status("hostile");
    assert!(status.is("active"));
    assert_eq!((status.generation, status.last_failure), (Some(1), None));
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// Calls to a paused plugin are refused, where the manifest says so.
#[test]
fn a_paused_plugin_refuses() {
    let daemon = daemon_with(hostile("tame").with("on_pause", json!("refuse")));
    expect_echo(&daemon, "hostile");
    daemon.operate("pause", &json!({"plugin": "hostile"})).expect("it can be paused");
    let refused = error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::Unavailable);
    expect_text(refused.hint.as_deref().unwrap_or_default(), "palisade resume hostile");
    daemon.operate("resume", &json!({"plugin": "hostile"})).expect("it can be resumed");
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// A frozen plugin can be stopped, and a daemon with one can end.
#[test]
fn a_paused_plugin_can_be_stopped() {
    let daemon = daemon_with(hostile("tame"));
    for _ in 0..2 {
        daemon.operate("start", &json!({"plugin": "hostile"})).expect("it can be started");
        daemon.operate("pause", &json!({"plugin": "hostile"})).expect("it can be paused");
        daemon.operate("stop", &json!({"plugin": "hostile"})).expect("it can be stopped");
        assert!(daemon.status("hostile").is("stopped"));
    }
    daemon.operate("start", &json!({"plugin": "hostile"})).expect("it can be started");
    daemon.operate("pause", &json!({"plugin": "hostile"})).expect("it can be paused");
    daemon.stop_and_expect_no_orphans();
}

/// Each state that users see is told as an event, in its order.
#[test]
fn every_state_is_an_event() {
    let daemon = daemon_with(hostile("tame"));
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    expect_echo(&daemon, "hostile");
    daemon.operate("pause", &json!({"plugin": "hostile"})).expect("it can be paused");
    daemon.operate("resume", &json!({"plugin": "hostile"})).expect("it can be resumed");
    daemon.operate("stop", &json!({"plugin": "hostile"})).expect("it can be stopped");
    let mut states = Vec::new();
    while states.last().is_none_or(|state| state != "stopped") {
        let event = agent.next_of(events).value();
        if let Some(to) = event["to"].as_str() {
            states.push(to.to_owned());
        }
    }
    assert_eq!(states, ["loaded", "initialized", "active", "paused", "active", "stopping", "stopped"]);
    agent.cancel(events);
    error(agent.finish(events), ErrorCode::Cancelled);
    daemon.stop_and_expect_no_orphans();
}

/// SIGTERM drains: a call under way is answered before the daemon ends. So does Ctrl-C, and the end of its terminal.
#[test]
fn shutdown_lets_calls_finish() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut daemon = daemon_with(hostile("tame"));
        let mut agent = daemon.agent();
        let call = agent.begin("hostile", "sleep-blocking", &json!(null));
        daemon.wait_until("hostile", "a call in flight", |now| now.calls.in_flight == 1);
        daemon.remember();
        daemon.signal(signal);
        if signal == Signal::SIGHUP {
            // A terminal says it twice, by the kernel and by its shell: that is no haste.
            daemon.wait_until("hostile", "the beginning of the end", |now| now.is("stopping"));
            daemon.signal(signal);
        }
        assert_eq!(agent.finish(call), Ok(json!(null)), "{signal}");
        let status = daemon.wait();
        assert_eq!(status.code(), Some(0), "{signal}: {}", daemon.log());
        assert!(!daemon.log().contains("killing what is left"), "{signal}: {}", daemon.log());
    }
}

/// One that was started with `nohup` is told of no terminal's end.
#[test]
fn a_hangup_that_was_ignored_stays_ignored() {
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).nohup());
    daemon.signal(Signal::SIGHUP);
    expect_echo(&daemon, "echo");
    assert!(!daemon.log().contains("SIGHUP"), "{}", daemon.log());
    daemon.stop_and_expect_no_orphans();
}

/// `shutdown` asked for by an agent is the same.
#[test]
fn shutdown_by_an_operation() {
    let mut daemon = daemon_with(hostile("stubborn"));
    expect_echo(&daemon, "hostile");
    let socket = daemon.socket();
    // The answer may come before the connection ends, or not.
    let mut agent = daemon.agent();
    agent.begin("palisade", "shutdown", &json!({}));
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.log());
    assert!(!socket.exists());
}

/// A second daemon on the same state or the same socket is refused, and the first one does not notice.
#[test]
fn a_second_daemon_is_refused() {
    let daemon = daemon_with(hostile("tame"));
    let neighbour = daemon.neighbour();
    let path = |name: &str| daemon.path().join(name).display().to_string();
    let run = |arguments: &[String]| {
        let user = palisade_tests::daemon::other_user();
        let program = built("palisaded");
        let mut command = match user {
            Some(uid) => palisade_tests::daemon::as_user(uid, &program),
            None => command(program),
        };
        let output = command.args(arguments).env("HOME", daemon.path()).output().expect("it can be executed");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let arguments = |state: &str, runtime: &str, socket: &str| {
        [
            "--state-dir",
            &path(state),
            "--runtime-dir",
            &path(runtime),
            "--socket",
            &path(socket),
            "--plugins",
            &path("plugins"),
        ]
        .map(String::from)
    };
    let (status, stderr) = run(&arguments("state", "run2", "other.sock"));
    assert_eq!(status, Some(8), "{stderr}");
    expect_text(&stderr, &path("state"));
    let (status, stderr) = run(&arguments("state2", "run2", "palisade.sock"));
    assert_eq!(status, Some(8), "{stderr}");
    expect_text(&stderr, &path("palisade.sock"));
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// A daemon that has no plugin folder, or one it may not read, or a configuration it does not understand, says so and ends.
#[test]
fn a_daemon_with_a_wrong_configuration() {
    for (arguments, configuration, sentences) in [
        (&["--plugins", "/nonexistent/plugins"][..], None, &["/nonexistent/plugins"][..]),
        (&[], Some("colour = \"red\"\n"), &["colour", "palisade.toml", "1"]),
        (&[], Some("this is not toml\n"), &["palisade.toml"]),
        (&[], Some("[plugins.Bad_Id]\n"), &["palisade.toml", "line 1", "Bad_Id"]),
    ] {
        let mut options = DaemonOptions::with([Package::echo()]).arguments(arguments);
        if let Some(text) = configuration {
            options = options.configuration(text);
        }
        match Daemon::try_start(options) {
            Ok(_) => panic!("a daemon came up with {arguments:?} {configuration:?}"),
            Err(failed) => {
                assert_eq!(failed.status.code(), Some(4), "{}", failed.log);
                for sentence in sentences {
                    expect_text(&failed.log, sentence);
                }
            }
        }
    }
}

/// The usual configuration need not be there. One that is there and cannot be had is not passed over.
#[test]
fn a_configuration_that_cannot_be_reached() {
    use std::os::unix::fs::{chown, symlink};
    type Prepare = fn(&Path);
    let hidden: Prepare = |config| {
        std::fs::write(config.join("palisade.toml"), "").expect("the folder is ours");
        std::fs::set_permissions(config, std::fs::Permissions::from_mode(0o000)).expect("the folder is ours");
    };
    let cases: [(Prepare, &str); 5] = [
        (|config| symlink("gone", config.join("palisade.toml")).expect("the folder is ours"), "is a link to nothing"),
        (
            |config| {
                std::fs::remove_dir(config).expect("it is empty");
                symlink("gone", config).expect("the folder is ours");
            },
            "is a link to nothing",
        ),
        (|config| symlink("palisade.toml", config.join("palisade.toml")).expect("the folder is ours"), "os error 40"),
        (|config| std::fs::create_dir(config.join("palisade.toml")).expect("the folder is ours"), "os error 21"),
        (hidden, "os error 13"),
    ];
    for (prepare, sentence) in cases {
        if sentence == "os error 13" && palisade_tests::daemon::runs_as_root() {
            println!(
                "SKIPPED: root may read every folder; the lane of an ordinary user shows a configuration out of reach"
            );
            continue;
        }
        let folder = tempfile::tempdir().expect("the temporary folder is writable");
        let config = folder.path().join("config/palisade");
        std::fs::create_dir_all(&config).expect("the folder is ours");
        prepare(&config);
        if let Some(uid) = palisade_tests::daemon::other_user().filter(|_| config.is_dir()) {
            chown(&config, Some(uid), Some(uid)).expect("root may");
        }
        let file = config.join("palisade.toml").display().to_string();
        let options = DaemonOptions::with([Package::echo()])
            .environment("XDG_CONFIG_HOME", &folder.path().join("config").display().to_string())
            .environment("CONFIGURATION_DIRECTORY", &config.display().to_string());
        let options = options.usual_configuration().folder(folder);
        let failed = Daemon::try_start(options).expect_err(sentence);
        assert_eq!(failed.status.code(), Some(4), "{}", failed.log);
        expect_text(&failed.log, &format!("palisaded: error: the configuration {file} cannot be read: "));
        expect_text(&failed.log, sentence);
        expect_text(&failed.log, "hint: ");
    }
    // Nothing at all is no error.
    let nowhere = "/nonexistent/configuration";
    let options = DaemonOptions::with([Package::echo()]);
    let options = options.environment("XDG_CONFIG_HOME", nowhere).environment("CONFIGURATION_DIRECTORY", nowhere);
    Daemon::start(options.usual_configuration()).stop_and_expect_no_orphans();
}

/// Where the daemon stands when it is started makes no difference to its plugins, whose launcher stands elsewhere.
#[test]
fn every_path_may_be_relative() {
    let options = DaemonOptions::with([Package::echo()]).relative().configuration("[plugins.echo]\n");
    let daemon = Daemon::start(options);
    expect_echo(&daemon, "echo");
    daemon.stop_and_expect_no_orphans();
}

/// A socket in a folder that is not there: the folder is named, and what to do.
#[test]
fn a_socket_in_a_folder_that_does_not_exist() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let (status, said) = run_to_its_end(&folder.path().join("state"), Path::new("/nonexistent/x.sock"), folder.path());
    assert_eq!(status, Some(4), "{said}");
    expect_text(
        &said,
        "palisaded: error: the socket /nonexistent/x.sock cannot be made: the folder /nonexistent does not exist; \
         create it, or give another --socket\n",
    );
}

/// A daemon that is stopped while it still copies packages does not finish them first.
#[test]
fn the_daemon_is_stopped_while_it_reads_packages() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let own = folder.path();
    let program = built("palisaded");
    // Empty space, so that it costs this machine little; enough of it that the reading is seen under way.
    for number in 0..4 {
        let id = format!("large-{number}");
        let package = own.join("plugins").join(&id);
        std::fs::create_dir_all(&package).expect("the folder is ours");
        let manifest = json!({"id": id, "name": "Large", "version": "1.0.0", "entry_point": "run"});
        std::fs::write(package.join("plugin.json"), manifest.to_string()).expect("the folder is ours");
        let blob = std::fs::File::create(package.join("blob")).expect("the folder is ours");
        blob.set_len(500 << 20).expect("a file may have holes");
    }
    let mut command = match palisade_tests::daemon::other_user() {
        Some(uid) => {
            std::os::unix::fs::chown(own, Some(uid), Some(uid)).expect("root may");
            palisade_tests::daemon::as_user(uid, &program)
        }
        None => command(program),
    };
    let state = own.join("state");
    command.arg("--state-dir").arg(&state).arg("--socket").arg(own.join("s")).arg("--runtime-dir").arg(own.join("run"));
    command.arg("--plugins").arg(own.join("plugins")).env("HOME", own).stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("it can be executed");
    let descriptors = format!("/proc/{}/fd", child.id());
    wait_for("a package that is read", || {
        let mut open = std::fs::read_dir(&descriptors).ok()?.flatten();
        open.any(|one| std::fs::read_link(one.path()).is_ok_and(|file| file.ends_with("blob"))).then_some(())
    });
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("it is a pid"));
    nix::sys::signal::kill(pid, Signal::SIGTERM).expect("it runs");
    let output = child.wait_with_output().expect("it is ours");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    expect_text(&said, "asked to stop before the plugins were there");
    assert!(!said.contains(" ready "), "{said}");
    assert!(
        std::fs::read_dir(state.join("store/staging")).is_ok_and(|mut left| left.next().is_none()),
        "a half copy is left"
    );
}

/// What lies where the socket, the state or the runtime folder should be is named and left alone.
#[test]
fn a_file_in_the_way() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").expect("the folder is ours");
    let name = file.display();
    let (state, socket) = (folder.path().join("state"), folder.path().join("x.sock"));
    for (state, socket, sentence, hint) in [
        (&state, &file, format!("{name} is there and is not a socket"), "give another --socket"),
        (
            &file,
            &socket,
            format!("the state directory {name} cannot be used: it is there and is no folder"),
            "--state-dir",
        ),
    ] {
        let (status, said) = run_to_its_end(state, socket, folder.path());
        assert_eq!(status, Some(4), "{said}");
        expect_text(&said, &format!("palisaded: error: {sentence}"));
        expect_text(&said, hint);
        assert_eq!(std::fs::read_to_string(&file).expect("it is there"), "mine");
    }
}

/// A launcher with which nothing can be started is told as that, and not as a host that cannot run plugins.
#[test]
fn a_launcher_that_is_none() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let program = std::fs::read(built("palisade-launcher")).expect("it was built");
    let id = command(built("palisade-launcher")).arg("--build-id").output().expect("it can be executed").stdout;
    let id = id.trim_ascii();
    assert!(!id.is_empty());
    let places: Vec<_> =
        (0..program.len() - id.len()).filter(|at| program[*at] == id[0] && program[*at..].starts_with(id)).collect();
    let mut other = program;
    for place in &places {
        other[*place..*place + id.len()].fill(b'0');
    }
    assert!(!places.is_empty());
    let mut no_program = b"\x7fELF".to_vec();
    no_program.resize(4096, 0);
    let exits = std::fs::read("/bin/true").expect("it is everywhere");
    for (name, bytes, sentence) in [
        ("other-build", other, "the launcher is of build 0000"),
        ("no-program", no_program, "the launcher could not be executed: Exec format error"),
        ("exits-at-once", exits, "the launcher ended before it said which build it is"),
    ] {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).expect("the folder is ours");
        for path in [folder.path(), &path] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        }
        let path = path.display().to_string();
        let options = DaemonOptions::with([Package::echo()]).arguments(&["--launcher", &path]);
        let failed = Daemon::try_start(options).expect_err(name);
        assert_eq!(failed.status.code(), Some(70), "{}", failed.log);
        expect_text(&failed.log, &format!("palisaded: error: {path} cannot be used as the launcher: {sentence}"));
        expect_text(&failed.log, "hint: install palisade-launcher and palisaded from the same build");
        assert!(!failed.log.contains("this host cannot"), "{}", failed.log);
    }
}

/// Nor is one whose path is too long for the kernel left to a number.
#[test]
fn a_socket_whose_path_is_too_long() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let socket = folder.path().join("s".repeat(120));
    let (status, said) = run_to_its_end(&folder.path().join("state"), &socket, folder.path());
    assert_eq!(status, Some(4), "{said}");
    expect_text(&said, &format!("has {} bytes, and 107 is the most that the kernel takes", socket.as_os_str().len()));
    expect_text(&said, "give a shorter --socket");
}

/// A folder of the daemon's user with these permissions, and what it lies in.
fn closed_folder(mode: u32) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let closed = folder.path().join("closed");
    std::fs::create_dir(&closed).expect("the folder is ours");
    std::fs::set_permissions(&closed, std::fs::Permissions::from_mode(mode)).expect("the folder is ours");
    if let Some(uid) = palisade_tests::daemon::other_user() {
        std::os::unix::fs::chown(&closed, Some(uid), Some(uid)).expect("root may");
    }
    let closed = closed.display().to_string();
    (folder, closed)
}

/// A plugin folder that this user may not look into is an error that says so, and no folder without plugins.
#[test]
fn a_plugin_folder_that_cannot_be_read() {
    if palisade_tests::daemon::runs_as_root() {
        println!(
            "SKIPPED: root may read every folder; the lane of an ordinary user shows what becomes of an unreadable one"
        );
        return;
    }
    let (folder, closed) = closed_folder(0o000);
    let options = DaemonOptions::with([Package::echo()]).folder(folder).arguments(&["--plugins", &closed]);
    let failed = Daemon::try_start(options).expect_err("it may not look into it");
    assert_eq!(failed.status.code(), Some(4), "{}", failed.log);
    let said = format!(
        "palisaded: error: the plugin directory {closed} cannot be read: Permission denied (os error 13); \
         see its permissions and those of the folders above it\n"
    );
    expect_text(&failed.log, &said);
}

/// One of the usual folders that is there and cannot be read is passed over, and not silently.
#[test]
fn a_usual_plugin_folder_that_cannot_be_read() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let data = folder.path().join("data");
    let usual = data.join("palisade/plugins");
    std::fs::create_dir_all(usual.parent().expect("it has one")).expect("the folder is ours");
    // Root may enter every folder.
    let why = if palisade_tests::daemon::runs_as_root() {
        std::os::unix::fs::symlink("plugins", &usual).expect("the folder is ours");
        "os error 40"
    } else {
        std::fs::create_dir(&usual).expect("the folder is ours");
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o000)).expect("the folder is ours");
        if let Some(uid) = palisade_tests::daemon::other_user() {
            std::os::unix::fs::chown(&data, Some(uid), Some(uid)).expect("root may");
        }
        "os error 13"
    };
    let options = DaemonOptions::default().arguments(&["--user"]).usual_plugins();
    let options = options.environment("XDG_DATA_HOME", &data.display().to_string());
    let daemon = Daemon::start(options.folder(folder));
    let log = daemon.log();
    let told =
        log.lines().find(|line| line.contains("a plugin directory is passed over")).unwrap_or_else(|| panic!("{log}"));
    let usual = usual.display().to_string();
    assert!(told.contains(&usual) && told.contains(why), "{told}");
    let doctor = daemon.operate("doctor", &json!({})).expect("it answers");
    let checks = doctor["checks"].as_array().expect("there are some");
    let about = |check: &&serde_json::Value| check["name"] == "plugin_directories" && check["state"] == "warn";
    let told: Vec<_> = checks.iter().filter(about).map(|check| check["summary"].as_str().unwrap_or_default()).collect();
    assert!(
        told.iter().any(|told| told.starts_with(&format!("{usual} cannot be read: ")) && told.contains(why)),
        "{told:?}"
    );
    daemon.stop_and_expect_no_orphans();
}

/// One that may be listed and not entered is told with what to do; the daemon has its other folders.
#[test]
fn a_plugin_folder_that_cannot_be_entered() {
    if palisade_tests::daemon::runs_as_root() {
        println!("SKIPPED: root may enter every folder; the lane of an ordinary user shows one that cannot be entered");
        return;
    }
    let (folder, closed) = closed_folder(0o444);
    let daemon =
        Daemon::start(DaemonOptions::with([Package::echo()]).folder(folder).arguments(&["--plugins", &closed]));
    let list = daemon.operate("list", &json!({})).expect("it answers");
    let reason = list["rejected"][0]["reason"].as_str().unwrap_or_default();
    expect_text(reason, &format!("{closed}/plugin.json cannot be read: Permission denied"));
    expect_text(reason, &format!("to enter {closed} and the folders above it (`chmod +x` on a folder)"));
    expect_echo(&daemon, "echo");
    daemon.stop_and_expect_no_orphans();
}

/// Folders that are not taken along are named, as a plugin that needs them would not find them.
#[test]
fn folders_that_are_left_out_of_a_package() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let package = folder.path().join("plugins/hostile");
    for name in [".git", "target", "node_modules", "inner/target"] {
        std::fs::create_dir_all(package.join(name)).expect("the folder is ours");
        std::fs::write(package.join(name).join("file"), "not needed").expect("the folder is ours");
    }
    let daemon = Daemon::start(DaemonOptions::with([Package::echo(), hostile("tame")]).folder(folder));
    let log = daemon.log();
    let info = daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known");
    let warning =
        |name: &str| format!("the folder {name} is left out of the package; what it needs has to lie elsewhere");
    let warnings: Vec<_> = [".git", "target", "node_modules"].map(warning).into();
    assert_eq!(info["warnings"], json!(warnings), "{info}");
    for warning in &warnings {
        assert_eq!(log.matches(warning).count(), 1, "{log}");
    }
    // It is copied when it is first used.
    expect_echo(&daemon, "hostile");
    let snapshot = Path::new(info["snapshot"]["path"].as_str().expect("it has been copied"));
    let mut there: Vec<_> = std::fs::read_dir(snapshot)
        .expect("it is there")
        .map(|entry| entry.expect("it can be read").file_name())
        .collect();
    there.sort();
    assert_eq!(there, ["inner", "main", "plugin.json"]);
    assert!(!snapshot.join("inner/target").exists(), "wherever in the package it lies");
    daemon.stop_and_expect_no_orphans();
}

/// Of what no version uses any more, and is none of the five that served before, the five that were staged last stay; what is in use always
/// does. A crash leaves nothing that the
/// next daemon does not clear away.
#[test]
fn the_store_does_not_only_grow() {
    let digest = |daemon: &Daemon, plugin: &str| {
        // Until it was tried, what served before goes on.
        expect_tried(daemon, plugin);
        let info = daemon.operate("info", &json!({"plugin": plugin})).expect("it is known");
        info["snapshot"]["digest"].as_str().expect("it has been copied").to_owned()
    };
    let names = |folder: &Path| -> BTreeSet<String> {
        let entries = std::fs::read_dir(folder).expect("the store is there");
        entries.map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned()).collect()
    };
    let mut folder = None;
    let mut staged = Vec::new();
    let mut used = None;
    for edition in 0..7 {
        let package = hostile("tame").with("description", json!(format!("edition {edition}")));
        let mut options = DaemonOptions::with([Package::echo(), package]);
        if let Some(folder) = folder.take() {
            options = options.folder(folder);
        }
        let daemon = Daemon::start(options);
        expect_echo(&daemon, "hostile");
        expect_echo(&daemon, "echo");
        staged.push(digest(&daemon, "hostile"));
        used = Some(digest(&daemon, "echo"));
        // What serves is noted a moment after it began, or when somebody looks again.
        daemon.operate("rescan", &json!({})).expect("the folders can be looked at");
        folder = Some(daemon.kill_nine());
    }
    let folder = folder.expect("there were daemons");
    let store = folder.path().join("state/store");
    // As if the last one had been killed while it copied, and while it removed.
    std::fs::create_dir(store.join("staging/half")).expect("the folder is there");
    std::fs::write(store.join("staging/half/file"), "half a copy").expect("the folder is there");
    if let Some(uid) = palisade_tests::daemon::other_user() {
        for path in [store.join("staging/half"), store.join("staging/half/file")] {
            std::os::unix::fs::chown(path, Some(uid), Some(uid)).expect("root may");
        }
    }
    // Now there is one that nobody has seen. The first is what the others took the place of, none of which was there for long enough to count.
    let package = hostile("tame").with("description", json!("the latest edition"));
    let daemon = Daemon::start(DaemonOptions::with([Package::echo(), package]).folder(folder));
    let mut expected: BTreeSet<String> = staged.split_off(2).into_iter().collect();
    expected.extend(staged.into_iter().take(1));
    expected.extend(used);
    expected.insert(digest(&daemon, "hostile"));
    let snapshots = store.join("snapshots");
    expect_echo(&daemon, "hostile");
    wait_for("the end of the sweep", || (names(&snapshots) == expected).then_some(()));
    assert_eq!(names(&store.join("staging")), BTreeSet::new());
    expect_echo(&daemon, "hostile");
    expect_echo(&daemon, "echo");
    // A daemon that has to go away again takes nothing from the one that is there.
    let other = tempfile::tempdir().expect("the temporary folder is writable");
    let (status, said) = run_to_its_end(&daemon.path().join("state"), &other.path().join("x.sock"), other.path());
    assert_eq!(status, Some(8), "{said}");
    assert_eq!(names(&snapshots), expected);
    daemon.stop_and_expect_no_orphans();
}

/// Runs a daemon that does not come up, in a folder that is its own but for the state. Its exit status and what it said.
fn run_to_its_end(state: &Path, socket: &Path, own: &Path) -> (Option<i32>, String) {
    let program = built("palisaded");
    let mut command = match palisade_tests::daemon::other_user() {
        Some(uid) => {
            std::os::unix::fs::chown(own, Some(uid), Some(uid)).expect("root may");
            palisade_tests::daemon::as_user(uid, &program)
        }
        None => command(program),
    };
    command.arg("--state-dir").arg(state).arg("--socket").arg(socket).arg("--plugins").arg(own);
    let output = command.arg("--runtime-dir").arg(own).env("HOME", own).output().expect("it can be executed");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// What the log is to hold is not guessed.
#[test]
fn a_log_filter_that_is_none() {
    let options = DaemonOptions::with([Package::echo()]).environment("PALISADE_LOG", "palisaded=loud");
    let failed = Daemon::try_start(options).expect_err("the filter is none");
    assert_eq!(failed.status.code(), Some(4), "{}", failed.log);
    expect_text(&failed.log, "PALISADE_LOG is \"palisaded=loud\"");
}

/// Configuration for a plugin that is not there is told, and is no error: it may come.
#[test]
fn configuration_for_nobody() {
    let options = DaemonOptions::with([Package::echo()]).configuration("[plugins.ehco]\n[plugins.echo]\n");
    let daemon = Daemon::start(options);
    expect_text(&daemon.log(), "speaks of a plugin that is not there");
    let report = daemon.operate("doctor", &json!({})).expect("there is a report").to_string();
    expect_text(&report, "the configuration speaks of ehco");
    assert!(!report.contains("speaks of echo"), "{report}");
    daemon.stop_and_expect_no_orphans();
}

/// A plugin folder that is broken is told, and costs the others nothing.
#[test]
fn a_broken_manifest_costs_the_others_nothing() {
    let folder = tempfile::tempdir().expect("the temporary folder is writable");
    let plugins = folder.path().join("plugins");
    for (name, manifest) in [
        ("not-json", "{ this is not JSON"),
        ("no-id", r#"{"name": "No id", "version": "1.0.0", "entry_point": "main"}"#),
        ("outside", r#"{"id": "outside", "name": "O", "version": "1.0.0", "entry_point": "../../bin/sh"}"#),
        ("reserved", r#"{"id": "palisade", "name": "O", "version": "1.0.0", "entry_point": "main"}"#),
    ] {
        std::fs::create_dir_all(plugins.join(name)).expect("the folder is ours");
        std::fs::write(plugins.join(name).join("plugin.json"), manifest).expect("the folder is ours");
    }
    // What stands where a manifest should is no manifest, and is not passed over either.
    std::fs::create_dir_all(plugins.join("a-pipe")).expect("the folder is ours");
    let made = command("mkfifo").arg(plugins.join("a-pipe/plugin.json")).status();
    assert!(made.is_ok_and(|status| status.success()));
    // A link may lead to what is never read to its end, or to another's manifest.
    let other = r#"{"id": "echo", "name": "E", "version": "9.0.0", "entry_point": "main"}"#;
    std::fs::write(folder.path().join("other.json"), other).expect("the folder is ours");
    let meant = folder.path().join("other.json").display().to_string();
    for (name, to) in [("a-link", "/nonexistent"), ("to-the-kernel", "/proc/kmsg"), ("to-another", &meant)] {
        std::fs::create_dir_all(plugins.join(name)).expect("the folder is ours");
        std::os::unix::fs::symlink(to, plugins.join(name).join("plugin.json")).expect("the folder is ours");
    }
    std::fs::create_dir(plugins.join("empty")).expect("the folder is ours");
    std::fs::write(plugins.join("a-file"), "nothing").expect("the folder is ours");
    let daemon = Daemon::start(DaemonOptions::with([Package::echo()]).folder(folder));
    expect_echo(&daemon, "echo");
    let list = daemon.operate("list", &json!({})).expect("there is a list");
    let ids: Vec<_> = list["plugins"].as_array().expect("a list").iter().map(|plugin| plugin["id"].clone()).collect();
    assert_eq!(ids, ["echo"]);
    let log = daemon.log();
    for name in ["not-json", "no-id", "outside", "reserved", "a-pipe"] {
        assert!(log.contains(&format!("{name}/plugin.json")), "{name} is named in the log:\n{log}");
    }
    for name in ["a-link", "to-the-kernel", "to-another"] {
        expect_text(&log, &format!("{name}/plugin.json is a symbolic link; a package holds files and folders alone"));
    }
    daemon.stop_and_expect_no_orphans();
}

/// A daemon that is to have a cgroup of its own, and for which nobody can make one, is not begun without.
#[test]
fn a_scope_that_cannot_be_had_ends_the_start() {
    if Path::new("/run/systemd/system").exists() {
        println!("SKIPPED: systemd runs this host; tests/vm shows the scope that it gives");
        return;
    }
    let ended =
        Daemon::try_start(DaemonOptions::with([]).arguments(&["--scope"])).expect_err("nobody makes scopes here");
    assert_eq!(ended.status.code(), Some(8), "{}", ended.log);
    expect_text(
        &ended.log,
        "error: no scope can be had: systemd does not run this host (/run/systemd/system is not there)",
    );
    expect_text(&ended.log, "hint: start it without --scope");
}

/// Its process runs from the store: changing the package beneath it changes nothing.
#[test]
fn a_process_runs_from_a_snapshot() {
    let daemon = daemon_with(hostile("tame"));
    expect_echo(&daemon, "hostile");
    let entry = daemon.plugins().join("hostile").join("main");
    std::fs::write(&entry, b"overwritten").expect("the package is not what runs, so it is not busy");
    expect_echo(&daemon, "hostile");
    let plugin = daemon.process_of("hostile");
    let program = wait_for("the program", || std::fs::read_link(format!("/proc/{plugin}/exe")).ok());
    assert!(!program.starts_with(daemon.plugins()), "{}", program.display());
    daemon.stop_and_expect_no_orphans();
}
