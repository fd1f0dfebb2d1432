//! What a plugin may have, and what becomes of one that wants more. Shown by the kernel's counters, never by time.
//!
//! Where plugins' cgroups have controllers, as in the guest of `tests/vm`, all of this is shown; elsewhere each test shows what
//! holds there, and says SKIPPED for the rest. A plugin that forks or spins without a limit does not run on such a host.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use palisade_launcher::Quota;
use palisade_protocol::ErrorCode;
use palisade_tests::command::{built, command};
use palisade_tests::daemon::{Daemon, DaemonOptions, QuotaDisk, quota_disk, wait_for};
use palisade_tests::package::Package;
use palisade_tests::process;
use palisade_tests::wire::Agent;
use serde_json::{Value, json};

use crate::support::{error, expect_echo, expect_text, follow, hostile, in_the_guest, next_event};

/// Whether the kernel limits whole trees here, as the daemon says. In the guest it has to.
pub(crate) fn controlled(daemon: &Daemon) -> bool {
    let report = daemon.operate("doctor", &json!({})).expect("it answers");
    let tier = report["checks"].as_array().and_then(|checks| checks.iter().find(|check| check["name"] == "tier"));
    let controlled = tier.and_then(|tier| tier["summary"].as_str()).is_some_and(|tier| tier.starts_with("A:"));
    assert!(controlled || std::env::var_os("PALISADE_TEST_GUEST").is_none(), "{report}");
    controlled
}

/// The hostile plugin with these limits in its manifest.
fn limited(limits: Value) -> Package {
    hostile("tame").with("limits", limits)
}

/// Where the plugin's cgroup is.
pub(crate) fn leaf(daemon: &Daemon, plugin: &str) -> PathBuf {
    process::cgroup(daemon.process_of(plugin)).expect("with controllers there are cgroups")
}

fn read(leaf: &Path, file: &str) -> String {
    fs::read_to_string(leaf.join(file)).unwrap_or_else(|error| panic!("{file}: {error}")).trim().to_owned()
}

/// A number of one of the kernel's files of keys and numbers.
pub(crate) fn counter(leaf: &Path, file: &str, key: &str) -> u64 {
    let text = read(leaf, file);
    let number = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
    number.unwrap_or_else(|| panic!("no {key} in {text}"))
}

/// The reason in the next event of that kind.
fn reason_of_next(agent: &mut Agent, follow: u64, kind: &str) -> String {
    next_event(agent, follow, kind)["reason"].as_str().unwrap_or_default().to_owned()
}

/// What the daemon decided is what the kernel was told, before the plugin ran.
#[test]
fn limits_are_those_of_the_cgroup() {
    let daemon = Daemon::with([limited(json!({"memory_mib": 64, "cpu_percent": 30, "pids": 9, "open_files": 77}))]);
    expect_echo(&daemon, "hostile");
    let own = fs::read_to_string(format!("/proc/{}/limits", daemon.process_of("hostile"))).expect("it runs");
    let row = own.lines().find(|line| line.starts_with("Max open files")).expect("the kernel lists it");
    assert_eq!(row.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["77", "77"]);
    if controlled(&daemon) {
        let leaf = leaf(&daemon, "hostile");
        assert_eq!(read(&leaf, "memory.max"), (64 << 20).to_string());
        assert_eq!(read(&leaf, "memory.oom.group"), "1");
        if leaf.join("memory.swap.max").exists() {
            assert_eq!(read(&leaf, "memory.swap.max"), "0");
        }
        // pid 1 of the tree is not the plugin's.
        assert_eq!(read(&leaf, "pids.max"), "10");
        assert_eq!(read(&leaf, "cpu.max"), "30000 100000");
        assert!(own.contains("Max data size             unlimited"), "{own}");
    } else {
        let row = own.lines().find(|line| line.starts_with("Max data size")).expect("the kernel lists it");
        assert_eq!(row.split_whitespace().nth(3), Some((64 << 20).to_string().as_str()));
        eprintln!("SKIPPED: limits of a whole tree: plugins' cgroups have no controllers on this host");
    }
    daemon.stop_and_expect_no_orphans();
}

/// Row `mem-anon`: with a memory controller the plugin is killed and its end is known for what it was; without one the plugin is
/// refused the memory.
#[test]
fn mem_anon() {
    let daemon = Daemon::with([Package::echo(), limited(json!({"memory_mib": 64}))]);
    let neighbour = daemon.neighbour();
    expect_echo(&daemon, "hostile");
    let answer = daemon.agent().call("hostile", "mem-anon", &json!(128));
    if controlled(&daemon) {
        let refused = error(answer, ErrorCode::ResourceExhausted);
        expect_text(&refused.message, "reached its memory limit");
        let details = refused.details.expect("they say which limit");
        assert_eq!((&details["limit"], &details["exit"]), (&json!("memory"), &json!("out_of_memory")));
        let dossier = daemon.status("hostile").last_failure.expect("it did not end well");
        assert_eq!((dossier.exit, dossier.calls_in_flight), (Some(json!("out_of_memory")), 1));
        // Its successor is as good as new.
        expect_echo(&daemon, "hostile");
        assert_eq!(counter(&leaf(&daemon, "hostile"), "memory.events", "oom_kill "), 0);
    } else {
        assert_eq!(answer, Ok(json!({"allocate": "ENOMEM"})), "and it lives on");
        eprintln!("SKIPPED: the end for want of memory: plugins' cgroups have no memory controller on this host");
    }
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// A tree that has too much although none of its processes has: with a controller the kernel kills it, without one the daemon does
/// when it looks, and both are told the same way.
fn too_much_memory(action: &str, parameters: &Value) {
    let daemon = Daemon::with([Package::echo(), limited(json!({"memory_mib": 64}))]);
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    let mut caller = daemon.agent();
    let waiting = caller.begin("hostile", "wait", &json!(null));
    let _ = daemon.agent().call("hostile", action, parameters);
    let refused = error(caller.finish(waiting), ErrorCode::ResourceExhausted);
    let details = refused.details.expect("they say which limit");
    assert_eq!(
        (&details["limit"], &details["exit"]),
        (&json!("memory"), &json!("out_of_memory")),
        "{}",
        refused.message
    );
    let dossier = daemon.status("hostile").last_failure.expect("it did not end well");
    assert_eq!(dossier.exit, Some(json!("out_of_memory")));
    let reason = reason_of_next(&mut agent, events, "generation_failed");
    assert_eq!(reason, dossier.reason);
    let by = if controlled(&daemon) { "reached its memory limit" } else { "memory: its processes were seen to have" };
    expect_text(&reason, by);
    expect_echo(&daemon, "hostile");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

#[test]
fn mem_tree() {
    too_much_memory("mem-tree", &json!({"children": 4, "mib": 24}));
}

#[test]
fn mem_memfd() {
    too_much_memory("mem-memfd", &json!(96));
}

#[test]
fn mem_shared() {
    too_much_memory("mem-shared", &json!(96));
}

/// Descriptors and, where no controller counts them, processes: that a plugin has all that it may have is told, once, and it lives on.
#[test]
fn what_is_met_is_told() {
    let daemon = Daemon::with([limited(json!({"pids": 6, "open_files": 64}))]);
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    let held = daemon.agent().call("hostile", "fds-held", &json!(null)).expect("it lives on");
    assert_ne!(held["held"], json!("0"));
    expect_text(&reason_of_next(&mut agent, events, "limit_reached"), "open_files: 64 descriptors are the limit");
    daemon.operate("restart", &json!({"plugin": "hostile"})).expect("it can be");
    // One more than it may have with a controller, which counts the refusal; else as many as it may have.
    let forks = if controlled(&daemon) { 6 } else { 5 };
    assert_eq!(daemon.agent().call("hostile", "forks-held", &json!(forks)), Ok(json!({"made": "5"})));
    expect_text(&reason_of_next(&mut agent, events, "limit_reached"), "pids: 6 processes and threads are its limit");
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// Row `disk-fill`: a plugin whose data are too much is ended and stays so; one that fills the disk more than is to be kept free as well.
#[test]
fn disk_fill() {
    for (configuration, reason) in [
        ("[plugins.hostile.limits]\ndisk_mib = 8\n", "disk: its data are more than 8 MiB, which are its limit"),
        ("disk_reserve_mib = 1073741824\n", "of all plugins its data have grown most"),
    ] {
        let daemon = Daemon::start(
            DaemonOptions::with([Package::echo(), limited(json!({"disk_mib": 512}))]).configuration(configuration),
        );
        let neighbour = daemon.neighbour();
        let mut agent = daemon.agent();
        let events = follow(&mut agent);
        let mut caller = daemon.agent();
        let waiting = caller.begin("hostile", "wait", &json!(null));
        let mut mib = 0;
        wait_for("an end", || {
            mib += 1;
            let _ = daemon.agent().call("hostile", "data-held", &json!(mib));
            daemon.status("hostile").last_failure
        });
        let refused = error(caller.finish(waiting), ErrorCode::ResourceExhausted);
        assert_eq!(refused.details.expect("they say which limit")["limit"], json!("disk"));
        expect_text(&reason_of_next(&mut agent, events, "generation_failed"), reason);
        let dossier = daemon.status("hostile").last_failure.expect("it did not end well");
        expect_text(&dossier.reason, reason);
        // What it has written is still there, so it is not tried again by itself.
        let refused = error(daemon.agent().call("hostile", "echo", &json!(1)), ErrorCode::ResourceExhausted);
        assert_eq!(refused.details.expect("they say which limit")["limit"], json!("disk"));
        neighbour.expect_unharmed(&daemon);
        daemon.stop_and_expect_no_orphans();
    }
}

fn quota_disk_or_skip(kind: QuotaDisk, folder: &Path) -> Option<PathBuf> {
    match quota_disk(kind, folder) {
        Ok(image) => Some(image),
        Err(reason) => {
            assert!(!in_the_guest(), "{reason}");
            println!("SKIPPED {kind:?}: {reason}");
            None
        }
    }
}

#[test]
fn disk_quota() {
    is_held_by_a_quota(QuotaDisk::Ext4);
}

#[test]
fn disk_quota_on_xfs() {
    is_held_by_a_quota(QuotaDisk::Xfs);
}

/// What the launcher answers about a folder of such a disk: everything in the folder becomes its project's, which then has as many files
/// as it may, and one more is refused. What is too much to go through is refused by name, and left as it is.
fn answers_for_a_folder(kind: QuotaDisk) {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let Some(image) = quota_disk_or_skip(kind, folder.path()) else { return };
    let disk = folder.path().join("disk");
    fs::copy(image, &disk).expect("there is room for a small disk");
    let [at, said] = ["at", "said"].map(|name| folder.path().join(name));
    for folder in [&at, &said] {
        fs::create_dir(folder).expect("the folder is ours");
    }
    // Links and pipes take no room and cannot be put into a project; a link is not followed.
    let script = r#"
        set -e
        mount -o "$0" "$1" "$2"
        launcher=$3 said=$4
        cd "$2"
        mkdir -p -m 777 plugin plugin/inner many deep outside
        echo 1 >plugin/one; echo 2 >plugin/inner/two; echo 3 >outside/three
        ln -s ../outside/three plugin/link; ln -s ../outside plugin/folder; mkfifo plugin/pipe
        "$launcher" --quota read <plugin >"$said/before"
        "$launcher" --quota hold 1024 16 <plugin >"$said/held"
        setpriv --reuid=65534 --clear-groups sh -c 'made=0; while [ $made -lt 40 ] && true >plugin/inner/new$made; do made=$((made+1)); done; echo $made'             >"$said/made" 2>"$said/refused" || true
        "$launcher" --quota read <plugin >"$said/full"
        "$launcher" --quota hold 2048 20 <plugin >"$said/more"
        "$launcher" --quota read <outside >"$said/outside"
        for number in 1 2 3 4 5 6 7 8; do true >many/$number; done
        "$launcher" --quota hold 1024 7 <many >"$said/many"
        "$launcher" --quota read <many >"$said/many-after"
        (cd deep; for number in $(seq 70); do mkdir in; cd in; done)
        "$launcher" --quota hold 1024 100 <deep >"$said/deep"
        rm -r plugin; sync
        "$launcher" --quota clear <. >"$said/cleared"
        "$launcher" --quota clear <. >"$said/cleared-again"
    "#;
    let mut apart = command("unshare");
    apart.args(["--mount", "--propagation", "private", "sh", "-c", script, kind.options()]).arg(&disk).arg(&at);
    let output = apart.arg(built("palisade-launcher")).arg(&said).output().expect("it can be executed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = |name: &str| fs::read_to_string(said.join(name)).expect("it was written");
    let answer = |name: &str| -> Result<Quota, String> {
        palisade_launcher::decode(&fs::read(said.join(name)).expect("it was written")).expect("it is an answer")
    };
    assert_eq!(answer("before"), Err("its data folder is in no project of its own".to_owned()));
    let held = answer("held").expect("it can be held");
    // The two folders and the two files in them.
    assert_eq!((held.kib, held.files, held.used_files), (1024, 16, 4), "{held:?}");
    assert!(held.used_bytes > 0 && held.project > 1 << 31, "{held:?}");
    assert_eq!(text("made").trim(), "12", "{}", text("refused"));
    let refused = match kind {
        QuotaDisk::Ext4 => "Disk quota exceeded",
        QuotaDisk::Xfs => "No space left on device",
    };
    expect_text(&text("refused"), refused);
    assert_eq!(answer("full").map(|full| (full.files, full.used_files)), Ok((16, 16)));
    assert_eq!(answer("more").map(|more| (more.kib, more.files, more.used_files)), Ok((2048, 20, 16)));
    assert!(answer("outside").is_err(), "a link was followed");
    assert_eq!(answer("many"), Err("its data are more than 7 files, which is its limit".to_owned()));
    assert!(answer("many-after").is_err());
    assert_eq!(answer("deep"), Err("its data are nested too deep to be put into a project".to_owned()));
    let cleared = |name: &str| -> Result<u64, String> {
        palisade_launcher::decode(&fs::read(said.join(name)).expect("it was written")).expect("it is an answer")
    };
    assert_eq!((cleared("cleared"), cleared("cleared-again")), (Ok(1), Ok(0)));
}

#[test]
fn quota_of_a_folder() {
    answers_for_a_folder(QuotaDisk::Ext4);
}

#[test]
fn quota_of_a_folder_on_xfs() {
    answers_for_a_folder(QuotaDisk::Xfs);
}

/// Where the file system has project quotas, the kernel holds a plugin to its share, with what was there before: it is refused more
/// and lives on, and what is said of that is what the kernel says.
fn is_held_by_a_quota(kind: QuotaDisk) {
    let folder = tempfile::tempdir().expect("there is room for a folder");
    let Some(image) = quota_disk_or_skip(kind, folder.path()) else { return };
    let refused = match kind {
        QuotaDisk::Ext4 => "EDQUOT",
        QuotaDisk::Xfs => "ENOSPC",
    };
    let options = DaemonOptions::with([Package::echo(), limited(json!({"disk_mib": 8}))]).quota_disk(kind, &image);
    // The disk is smaller than what is kept free otherwise.
    let daemon = Daemon::start(options.configuration("disk_reserve_mib = 0\n"));
    let report = daemon.operate("doctor", &json!({})).expect("it answers");
    let checks = report["checks"].as_array().expect("a list");
    let check = checks.iter().find(|check| check["name"] == "project_quota").expect("it was looked for");
    assert_eq!(check["state"], "ok", "{check}");
    expect_text(&daemon.log(), "the disk quotas of folders that are gone were cleared folders=1");
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    // Six are there already, from before there was a quota.
    assert_eq!(daemon.agent().call("hostile", "data-held", &json!(4)), Ok(json!({"/data/held": refused})));
    // XFS refuses a write as a whole, so its data need not come near enough to the limit for the event.
    if kind == QuotaDisk::Ext4 {
        let reason = reason_of_next(&mut agent, events, "limit_reached");
        expect_text(&reason, "disk: 8 MiB are its limit, and more is refused");
    }
    expect_echo(&daemon, "hostile");
    neighbour.expect_unharmed(&daemon);
    let disk = || {
        let info = daemon.operate("info", &json!({"plugin": "hostile"})).expect("it answers");
        let guarantees = info["guarantees"].as_array().expect("a list");
        guarantees.iter().find(|guarantee| guarantee["control"] == "disk").expect("it is listed").clone()
    };
    let before = disk();
    assert_eq!(before["state"], "enforced", "{before}");
    expect_text(before["mechanism"].as_str().expect("a sentence"), "project quota");
    expect_text(&before["proofs"].to_string(), "may have 8192 KiB and 131072 files, and has ");
    assert!(before["proofs"].as_array().expect("a list").iter().any(|proof| proof["source"] == "kernel"), "{before}");
    daemon.operate("limit", &json!({"plugin": "hostile", "disk_mib": 12})).expect("it can be changed");
    assert_eq!(daemon.agent().call("hostile", "data-held", &json!(4)), Ok(json!({"/data/held": "ok"})));
    expect_text(&disk()["proofs"].to_string(), "may have 12288 KiB");
    assert_eq!(daemon.agent().call("hostile", "data-held", &json!(7)), Ok(json!({"/data/held": refused})));
    assert!(daemon.status("hostile").last_failure.is_none(), "it lives on");
    daemon.stop_and_expect_no_orphans();
}

/// Files without bytes fill a disk as well: one who makes them without end is ended for it, long before there are a million.
#[test]
fn names_without_end() {
    if in_the_guest() {
        println!(
            "SKIPPED: names without end: an emulated machine does not count so many within the time that a count may take"
        );
        return;
    }
    let limits = json!({"disk_mib": 512, "call_timeout_seconds": 240});
    let watchdog = json!({"interval_seconds": 240, "timeout_seconds": 240});
    let package = limited(limits).with("watchdog", watchdog).with("restart", json!("never"));
    let daemon = Daemon::with([Package::echo(), package]);
    let neighbour = daemon.neighbour();
    expect_echo(&daemon, "hostile");
    let mut agent = daemon.agent();
    // So many names take their time on a slow disk.
    agent.patience = Duration::from_secs(240);
    let refused = error(agent.call("hostile", "data-names", &json!(null)), ErrorCode::ResourceExhausted);
    assert_eq!(refused.details.expect("they say which limit")["limit"], json!("disk"));
    let dossier = daemon.status("hostile").last_failure.expect("it did not end well");
    expect_text(&dossier.reason, "disk: its data are more than 131072 files");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// A file system in memory that is full is told, once, and the plugin lives on.
#[test]
fn a_full_tmp_is_told() {
    let daemon = Daemon::with([limited(json!({}))]);
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    let met = daemon.agent().call("hostile", "charge", &json!({"what": "tmpfs", "mib": 70}));
    assert_eq!(met, Ok(json!({"hold": "ENOSPC"})));
    assert_eq!(reason_of_next(&mut agent, events, "limit_reached"), "disk: /tmp is full, in bytes or in files");
    expect_echo(&daemon, "hostile");
    daemon.stop_and_expect_no_orphans();
}

/// The file systems in memory are bounded in bytes and in files.
#[test]
fn files_in_memory_are_bounded() {
    let daemon = Daemon::with([limited(json!({}))]);
    let met = daemon.agent().call("hostile", "memory-files", &json!(["/tmp", "/dev/shm"])).expect("it lives on");
    // The folder itself is one of the files.
    let expected = |files: u32| format!("{} ENOSPC {} ENOSPC", 64 << 20, files - 1);
    assert_eq!(met, json!({"/tmp": expected(8192), "/dev/shm": expected(1024)}));
    daemon.stop_and_expect_no_orphans();
}

/// What takes less than its limit is not hindered: without this the test above would show nothing.
#[test]
fn memory_within_the_limit_is_had() {
    let daemon = Daemon::with([limited(json!({"memory_mib": 64}))]);
    assert_eq!(daemon.agent().call("hostile", "mem-anon", &json!(32)), Ok(json!({"allocate": "ok"})));
    daemon.stop_and_expect_no_orphans();
}

/// Row `fork-bomb`: the plugin is refused processes beyond its limit, with controllers an event says so, and nothing of it is left.
#[test]
fn fork_bomb() {
    is_refused("fork-bomb");
}

/// Threads are counted with the processes.
#[test]
fn thread_bomb() {
    is_refused("thread-bomb");
}

fn is_refused(bomb: &str) {
    let daemon = Daemon::with([Package::echo(), limited(json!({"pids": 8}))]);
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    // The eighth is the plugin itself; pid 1 of its tree is not counted.
    let answer = daemon.agent().call("hostile", bomb, &json!(null));
    assert_eq!(answer, Ok(json!({"made": "7", "error": "EAGAIN"})));
    if controlled(&daemon) {
        expect_text(&reason_of_next(&mut agent, events, "limit_reached"), "pids: 8 processes and threads");
        assert!(counter(&leaf(&daemon, "hostile"), "pids.events", "max ") > 0);
    } else {
        eprintln!("SKIPPED: the event for want of processes: plugins' cgroups have no pids controller on this host");
    }
    // It has what it was allowed and is otherwise alive.
    expect_echo(&daemon, "hostile");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// Row `cpu-spin`: the plugin is throttled, an event says so when it lasts, and a neighbour's calls are answered meanwhile.
#[test]
fn cpu_spin() {
    let daemon = Daemon::with([Package::echo(), limited(json!({"cpu_percent": 20}))]);
    if !controlled(&daemon) {
        eprintln!("SKIPPED: cpu-spin: plugins' cgroups have no cpu controller on this host");
        return daemon.stop_and_expect_no_orphans();
    }
    let neighbour = daemon.neighbour();
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    assert_eq!(daemon.agent().call("hostile", "cpu-spin", &json!(null)), Ok(json!(null)));
    expect_text(&reason_of_next(&mut agent, events, "cpu_saturated"), "20 % of a processor");
    let leaf = leaf(&daemon, "hostile");
    let (all, throttled) = (counter(&leaf, "cpu.stat", "nr_periods "), counter(&leaf, "cpu.stat", "nr_throttled "));
    assert!(throttled > 0 && all < 2 * throttled, "throttled in {throttled} of {all} periods");
    neighbour.expect_unharmed(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// A call whose time is over because its plugin was throttled is told so; one whose plugin had nothing to do is told of its time.
#[test]
fn a_call_without_processor_time_says_so() {
    let daemon = Daemon::with([limited(json!({"cpu_percent": 10}))]);
    let deadline = Duration::from_secs(5);
    error(daemon.agent().call_within("hostile", "wait", &json!(null), deadline), ErrorCode::Timeout);
    if !controlled(&daemon) {
        eprintln!("SKIPPED: a throttled call: plugins' cgroups have no cpu controller on this host");
        return daemon.stop_and_expect_no_orphans();
    }
    assert_eq!(daemon.agent().call("hostile", "cpu-spin", &json!(null)), Ok(json!(null)));
    let answer = daemon.agent().call_within("hostile", "wait", &json!(null), deadline);
    let refused = error(answer, ErrorCode::ResourceExhausted);
    expect_text(&refused.message, "within 5000 ms, the caller's deadline; hostile was waiting for processor time");
    let details = refused.details.expect("they say which limit");
    assert_eq!((&details["limit"], &details["limited_by"]), (&json!("cpu"), &json!("caller")));
    daemon.stop_and_expect_no_orphans();
}

/// Where nothing throttles a plugin, the operator has said what becomes of one that uses more than it may.
#[test]
fn too_much_processor_time_without_a_controller() {
    let limits = json!({"cpu_percent": 5, "call_timeout_seconds": 120});
    let other = Package::hostile("other", "tame").with("limits", limits);
    let options = DaemonOptions::with([limited(json!({"cpu_percent": 5})), other])
        .configuration("[plugins.other.limits]\ncpu_over = \"restart\"\n");
    let daemon = Daemon::start(options);
    if controlled(&daemon) {
        println!("not shown: a controller throttles here, and `cpu_spin` shows it");
        return daemon.stop_and_expect_no_orphans();
    }
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    let mut caller = daemon.agent();
    let waiting = caller.begin("other", "wait", &json!(null));
    for plugin in ["hostile", "other"] {
        assert_eq!(daemon.agent().call(plugin, "cpu-spin-one", &json!(null)), Ok(json!({})));
    }
    let reason = reason_of_next(&mut agent, events, "cpu_saturated");
    expect_text(&reason, "more than its limit of 5 % of a processor");
    expect_text(&reason, "nothing here throttles it");
    let refused = error(caller.finish(waiting), ErrorCode::ResourceExhausted);
    assert_eq!(refused.details.expect("they say which limit")["limit"], json!("cpu"));
    let dossier = daemon.status("other").last_failure.expect("it did not end well");
    expect_text(&dossier.reason, "cpu: for ");
    assert!(daemon.status("hostile").last_failure.is_none(), "it was only warned of");
    expect_echo(&daemon, "other");
    daemon.stop_and_expect_no_orphans();
}

/// The operator's word goes before the manifest's, and `info` says whose word each limit is.
#[test]
fn the_configuration_decides() {
    let options = DaemonOptions::with([limited(json!({"memory_mib": 4096, "pids": 5, "cpu_percent": 90}))])
        .configuration(
            "[defaults.limits]\ncpu_percent = 40\nmemory_mib = 128\n[plugins.hostile.limits]\nmemory_mib = 96\n",
        );
    let daemon = Daemon::start(options);
    let info = daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known");
    assert_eq!(
        info["limits"]["resources"],
        json!({
            "memory_mib": {"value": 96, "by": "plugin", "asked": 4096},
            "cpu_percent": {"value": 40, "by": "defaults", "asked": 90},
            "pids": {"value": 5, "by": "manifest"},
            "open_files": {"value": 1024, "by": "built_in"},
            "file_size_mib": {"value": 1024, "by": "built_in"},
            "disk_mib": {"value": 1024, "by": "built_in"},
            "log_kib_per_second": {"value": 256, "by": "built_in"},
            "cpu_over": "warn",
        })
    );
    let warnings = info["warnings"].to_string();
    expect_text(&warnings, "limits.memory_mib asks for 4096 and gets 96");
    expect_text(&warnings, "limits.cpu_percent asks for 90 and gets 40");
    daemon.stop_and_expect_no_orphans();
}

/// What an operator says while the daemon runs holds at once where the kernel allows it, and for the next process; the rest is refused.
#[test]
fn an_operator_changes_limits_while_the_daemon_runs() {
    let daemon = Daemon::with([limited(json!({"memory_mib": 256}))]);
    let held = daemon.agent().call("hostile", "mem-tree", &json!({"children": 3, "mib": 24}));
    assert_eq!(held, Ok(json!({"0": "ok", "1": "ok", "2": "ok"})));
    let mut agent = daemon.agent();
    let events = follow(&mut agent);
    let limit = |change: Value| {
        let mut parameters = json!({"plugin": "hostile"});
        let all = parameters.as_object_mut().expect("it is one");
        all.extend(change.as_object().expect("it is one").clone());
        daemon.operate("limit", &parameters)
    };
    for (change, refusal) in [
        (json!({}), "no limit was given"),
        (json!({"memory_mib": 1}), "it has to be from 8"),
        (json!({"open_files": 64}), "open_files is given to a process when it starts"),
        (json!({"memory_mib": 64, "pids": 50}), "would be killed with 64 MiB"),
    ] {
        let refused = error(limit(change), ErrorCode::InvalidParams);
        expect_text(&refused.message, refusal);
    }
    let resources =
        || daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known")["limits"]["resources"].clone();
    assert_eq!(
        (&resources()["memory_mib"]["value"], &resources()["pids"]["value"]),
        (&json!(256), &json!(64)),
        "as it was"
    );

    let answer = limit(json!({"memory_mib": 128, "cpu_percent": 70, "pids": 20})).expect("the kernel allows it");
    assert_eq!(answer["limits"], resources());
    if controlled(&daemon) {
        // What stands in the kernel now, and not what was once written.
        let info = daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known").to_string();
        expect_text(&info, "kernel: 134217728 in memory.max");
        expect_text(&info, "kernel: 70000 100000 in cpu.max");
    }
    assert_eq!(resources()["memory_mib"], json!({"value": 128, "by": "operator"}));
    assert_eq!(reason_of_next(&mut agent, events, "limits_changed"), "memory_mib = 128, cpu_percent = 70, pids = 20");
    let generation = daemon.status("hostile").generation;
    let told = |expected: &str| {
        if controlled(&daemon) {
            let leaf = leaf(&daemon, "hostile");
            assert_eq!(read(&leaf, "memory.max"), (128 << 20).to_string(), "{expected}");
            assert_eq!((read(&leaf, "cpu.max"), read(&leaf, "pids.max")), ("70000 100000".into(), "21".into()));
        }
    };
    told("at once");
    daemon.operate("restart", &json!({"plugin": "hostile"})).expect("it can be");
    assert_ne!(daemon.status("hostile").generation, generation);
    told("and for the next");
    if !controlled(&daemon) {
        let own = fs::read_to_string(format!("/proc/{}/limits", daemon.process_of("hostile"))).expect("it runs");
        let row = own.lines().find(|line| line.starts_with("Max data size")).expect("the kernel lists it");
        assert_eq!(row.split_whitespace().nth(3), Some((128 << 20).to_string().as_str()));
    }
    // The new limit is the one that it is held to.
    let mut caller = daemon.agent();
    let waiting = caller.begin("hostile", "wait", &json!(null));
    let _ = daemon.agent().call("hostile", "mem-tree", &json!({"children": 6, "mib": 24}));
    assert_eq!(
        error(caller.finish(waiting), ErrorCode::ResourceExhausted).details.expect("which")["limit"],
        json!("memory")
    );
    daemon.stop_and_expect_no_orphans();
}

/// What is said while a changed package is tried is said of what has its place then, too: its process runs already, and is held to it when
/// calls go there.
#[test]
fn a_limit_that_is_said_while_a_package_is_tried_holds_for_its_process() {
    let package = |mode: &str| {
        let limits = json!({"memory_mib": 256, "pids": 40, "start_timeout_seconds": 600});
        hostile(mode).with("limits", limits)
    };
    let daemon = Daemon::start(DaemonOptions::with([package("tame")]).configuration("watch = false\n"));
    expect_echo(&daemon, "hostile");
    let before = daemon.status("hostile");
    let data = daemon.path().join("state/data/hostile");
    package("ready-once-told").write(&daemon.plugins(), daemon.marker());
    let resources =
        || daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known")["limits"]["resources"].clone();
    let is_controlled = controlled(&daemon);
    std::thread::scope(|scope| {
        let looks = scope.spawn(|| daemon.operate("rescan", &json!({})).expect("it looks"));
        wait_for("a process that is tried", || data.join("waits").exists().then_some(()));
        let said = json!({"plugin": "hostile", "memory_mib": 128, "cpu_percent": 70, "pids": 20});
        daemon.operate("limit", &said).expect("the kernel allows it");
        assert_eq!(daemon.status("hostile").process_id(), before.process_id(), "it serves still");
        if is_controlled {
            assert_eq!(read(&leaf(&daemon, "hostile"), "memory.max"), (128 << 20).to_string(), "what serves");
        }
        fs::write(data.join("told"), "").expect("it is ours");
        assert_eq!(looks.join().expect("it looks")["changed"], json!(["hostile 0.1.0"]));
    });
    expect_echo(&daemon, "hostile");
    let now = daemon.status("hostile");
    assert!(before.generation < now.generation && before.process_id() != now.process_id(), "{now:?}");
    for (limit, value) in [("memory_mib", 128), ("cpu_percent", 70), ("pids", 20)] {
        assert_eq!(resources()[limit], json!({"value": value, "by": "operator"}), "{limit}");
    }
    if is_controlled {
        let leaf = leaf(&daemon, "hostile");
        let kernel = ["memory.max", "cpu.max", "pids.max"].map(|file| read(&leaf, file));
        assert_eq!(kernel, [(128 << 20).to_string(), "70000 100000".into(), "21".into()], "of the one that was tried");
    } else {
        eprintln!("SKIPPED: limits of a running process: plugins' cgroups have no controllers on this host");
    }
    daemon.stop_and_expect_no_orphans();
}

/// What is said about limits follows from what the host has.
#[test]
fn guarantees_say_what_holds_here() {
    let daemon = Daemon::with([limited(json!({}))]);
    let info = daemon.operate("info", &json!({"plugin": "hostile"})).expect("it is known");
    let guarantees = info["guarantees"].as_array().expect("a list");
    let state = |control: &str| {
        let found = guarantees.iter().find(|guarantee| guarantee["control"] == control);
        found.unwrap_or_else(|| panic!("no {control} in {info}"))["state"].as_str().unwrap_or_default().to_owned()
    };
    let states = ["memory", "pids", "cpu", "open_files", "file_size"].map(state);
    if controlled(&daemon) {
        assert_eq!(states, ["enforced"; 5]);
    } else {
        assert_eq!(states, ["monitored", "enforced", "monitored", "enforced", "enforced"]);
    }
    daemon.stop_and_expect_no_orphans();
}
