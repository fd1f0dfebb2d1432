//! What the daemon makes of somebody who works in its plugin directories: one change of just the plugin that has changed, once it has settled.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal;
use palisade_protocol::{ErrorCode, Kind};
use palisade_tests::command::command;
use palisade_tests::daemon::{Daemon, DaemonOptions, as_user, other_user, wait_for};
use palisade_tests::package::{Entry, Package};
use palisade_tests::wire::Agent;
use serde_json::{Value, json};

use crate::support::{can_change_the_host, error, expect_echo};

/// A daemon that looks at what has been quiet for so long.
fn settling(seconds: f64, packages: impl IntoIterator<Item = Package>) -> Daemon {
    let configuration = format!("[defaults]\nsettle_seconds = {seconds}\n");
    Daemon::start(DaemonOptions::with(packages).configuration(&configuration))
}

/// What becomes of packages, one after the other.
struct Changes {
    agent: Agent,
    follow: u64,
}

impl Changes {
    fn of(daemon: &Daemon) -> Self {
        let mut agent = daemon.agent();
        let follow = agent.begin("palisade", "events", &json!({"follow": true}));
        assert_eq!(agent.next_of(follow).kind, Some(Kind::StreamOpen));
        Self { agent, follow }
    }

    /// The next: what, and of which plugin.
    fn next(&mut self) -> (String, String) {
        loop {
            let event = self.agent.next_of(self.follow).value();
            let text = |field: &str| event[field].as_str().unwrap_or_default().to_owned();
            if ["package_added", "package_changed", "package_removed"].contains(&text("kind").as_str()) {
                return (text("kind"), text("plugin"));
            }
        }
    }

    fn expect(&mut self, kind: &str, plugin: &str) {
        assert_eq!(self.next(), (kind.to_owned(), plugin.to_owned()));
    }

    /// All until one of this plugin, counted.
    fn until(&mut self, plugin: &str) -> BTreeMap<(String, String), usize> {
        let mut counted = BTreeMap::new();
        loop {
            let next = self.next();
            if next.1 == plugin {
                return counted;
            }
            *counted.entry(next).or_default() += 1;
        }
    }
}

fn run(program: &str, arguments: &[&str]) {
    let ended = command(program).args(arguments).stdin(Stdio::null()).output().expect("it can be started");
    assert!(ended.status.success(), "{program} {arguments:?}: {ended:?}");
}

fn is_there(program: &str) -> bool {
    let there = command(program).arg("--version").output().is_ok_and(|ended| ended.status.success());
    if !there {
        println!("SKIPPED: {program} is not installed, so what it does to a package is not tried");
    }
    there
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a test's paths are text")
}

fn description(daemon: &Daemon, plugin: &str) -> Value {
    daemon.operate("info", &json!({ "plugin": plugin })).expect("it is known")["description"].clone()
}

fn expect_settled(daemon: &Daemon) {
    let rescanned = daemon.operate("rescan", &json!({})).expect("it looks");
    let changes = ["added", "changed", "removed"].map(|list| rescanned[list].clone());
    assert_eq!(changes, [json!([]), json!([]), json!([])], "everything has been looked at");
}

/// Nothing was copied of what has never run: a call that comes before the changed package was looked at waits for it.
#[test]
fn a_call_waits_for_a_package_that_was_changed_before_its_first_start() {
    let daemon = Daemon::with([Package::echo()]);
    Package::echo().with("description", json!("changed")).write(&daemon.plugins(), daemon.marker());
    expect_echo(&daemon, "echo");
    assert_eq!(description(&daemon, "echo"), "changed");
    daemon.stop_and_expect_no_orphans();
}

/// And for the whole of one whose program is just being written, of which no half is run.
#[test]
fn a_call_waits_for_a_package_that_is_being_written_before_its_first_start() {
    let daemon = settling(0.2, [Package::echo()]);
    let program = daemon.plugins().join("echo/main");
    let whole = [fs::read(&program).expect("it is there"), b"and more".to_vec()].concat();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o777)).expect("it is ours");
    let writer = Writer::of(&program, whole);
    let mut agent = daemon.agent();
    let call = agent.begin("echo", "echo", &json!("whole"));
    wait_for("a start that was tried", || {
        let status = daemon.operate("status", &json!({"plugin": "echo"})).expect("it is known");
        (!status["reason"].is_null() || status["state"] == "active").then_some(())
    });
    writer.end();
    assert_eq!(agent.finish(call), Ok(json!("whole")));
    expect_settled(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// The manifest of the next version in place of the present one, as an editor does it that keeps the old one for a moment.
fn edit(next: &Path, package: &Path) {
    let (manifest, old) = (package.join("plugin.json"), package.join("plugin.json~"));
    let text = fs::read(next.join("plugin.json")).expect("it is there");
    fs::write(package.join(".plugin.json.swp"), &text).expect("it is ours");
    fs::rename(&manifest, &old).expect("it is ours");
    fs::write(&manifest, &text).expect("it is ours");
    fs::remove_file(old).expect("it is ours");
    fs::remove_file(package.join(".plugin.json.swp")).expect("it is ours");
}

/// The same by one that writes beside and puts in place.
fn save(next: &Path, package: &Path) {
    let beside = package.join(".plugin.json.tmp");
    let mut file = fs::File::create(&beside).expect("it is ours");
    file.write_all(&fs::read(next.join("plugin.json")).expect("it is there")).expect("there is room");
    file.sync_all().expect("there is a disk");
    fs::rename(beside, package.join("plugin.json")).expect("it is ours");
}

fn copy(next: &Path, package: &Path) {
    run("cp", &["-r", &format!("{}/.", text(next)), text(package)]);
}

fn synchronize(next: &Path, package: &Path) {
    run("rsync", &["-a", "--delete", &format!("{}/", text(next)), text(package)]);
}

fn extract(next: &Path, package: &Path) {
    let archive = next.with_extension("tar");
    run("tar", &["-C", text(next), "-cf", text(&archive), "."]);
    run("tar", &["-C", text(package), "-xf", text(&archive)]);
}

/// A program that is written beside, deep in `target`, and put in place as a hard link.
fn build(next: &Path, package: &Path) {
    let deps = package.join("target/debug/deps");
    fs::create_dir_all(&deps).expect("it is ours");
    for number in 0..20 {
        fs::write(deps.join(format!("part-{number}.o")), [number; 1000]).expect("it is ours");
    }
    let (built, program) = (deps.join("main-0123456789abcdef"), package.join("main"));
    fs::copy(next.join("main"), &built).expect("it is ours");
    fs::OpenOptions::new().append(true).open(&built).expect("it is ours").write_all(b"\0").expect("there is room");
    fs::remove_file(&program).expect("it is ours");
    fs::hard_link(&built, &program).expect("it is one file system");
}

/// Another branch, whose repository lies elsewhere.
fn check_out(next: &Path, package: &Path) {
    let repository = next.with_extension("git");
    let git = |tree: &Path, arguments: &[&str]| {
        let (repository, tree) = (format!("--git-dir={}", text(&repository)), format!("--work-tree={}", text(tree)));
        let own = [repository.as_str(), &tree, "-c", "user.name=a", "-c", "user.email=a@example.org"];
        run("git", &own.iter().chain(arguments).copied().collect::<Vec<_>>());
    };
    run("git", &["init", "-q", "--bare", text(&repository)]);
    for (tree, branch) in [(package, "first"), (next, "second")] {
        git(tree, &["add", "-A"]);
        git(tree, &["commit", "-q", "-m", branch]);
        git(tree, &["branch", branch]);
    }
    git(next, &["symbolic-ref", "HEAD", "refs/heads/first"]);
    git(next, &["read-tree", "first"]);
    git(package, &["checkout", "-q", "-f", "second"]);
}

/// A folder in place of the folder.
fn exchange(next: &Path, package: &Path) {
    let old = next.with_extension("old");
    fs::rename(package, old).expect("it is one file system");
    fs::rename(next, package).expect("it is one file system");
}

/// However a package is written, that is one change of just that plugin, and what is there then is used.
#[test]
fn each_way_to_write_is_one_change_of_just_that_plugin() {
    type Way = fn(&Path, &Path);
    let mut ways: Vec<(&str, Way)> = vec![
        ("edit", edit),
        ("save", save),
        ("copy", copy),
        ("extract", extract),
        ("build", build),
        ("exchange", exchange),
    ];
    if is_there("rsync") {
        ways.push(("synchronize", synchronize));
    }
    if is_there("git") {
        ways.push(("checkout", check_out));
    }
    let packages = ways.iter().map(|(way, _)| Package::hostile(way, "tame"));
    // Long enough for none of them to pause so long.
    let daemon = settling(2.0, packages.chain([Package::echo(), Package::hostile("last", "tame")]));
    expect_echo(&daemon, "echo");
    let bystander = daemon.process_of("echo");
    let staging = daemon.path().join("staging");
    let next = |way: &str| {
        let next = Package::hostile(way, "tame").with("description", json!("next")).write(&staging, daemon.marker());
        fs::create_dir_all(next.join("resources/deep")).expect("it is ours");
        for number in 0..100 {
            fs::write(next.join(format!("resources/deep/{number}")), vec![number; 5000]).expect("it is ours");
        }
        next
    };
    let nexts: Vec<_> = ways.iter().map(|(way, _)| next(way)).collect();
    let mut changes = Changes::of(&daemon);
    for ((way, write), next) in ways.iter().zip(nexts) {
        write(&next, &daemon.plugins().join(way));
    }
    // What settles after all of them is told after all of them.
    Package::hostile("last", "tame").with("description", json!("next")).write(&daemon.plugins(), daemon.marker());
    let counted = changes.until("last");
    let expected = ways.iter().map(|(way, _)| (("package_changed".to_owned(), (*way).to_owned()), 1)).collect();
    assert_eq!(counted, expected);
    for (way, _) in ways.iter().filter(|(way, _)| *way != "build") {
        assert_eq!(description(&daemon, way), "next", "{way}");
    }
    expect_settled(&daemon);
    assert_eq!(daemon.process_of("echo"), bystander, "it is none of its business");
    daemon.stop_and_expect_no_orphans();
}

/// Somebody who has a file open for writing, as the daemon's user, and has written half of it.
struct Writer {
    process: Child,
    rest: Vec<u8>,
}

impl Writer {
    fn of(file: &Path, mut text: Vec<u8>) -> Self {
        let shell = Path::new("/bin/sh");
        let mut command = other_user().map_or_else(|| command(shell), |user| as_user(user, shell));
        command.args(["-c", r#"exec >"$1" && echo open >&2 && cat"#, "sh"]).arg(file);
        let started = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut process = started.expect("there is a shell");
        let mut said = [0; 5];
        std::io::Read::read_exact(process.stderr.as_mut().expect("it is a pipe"), &mut said).expect("it says so");
        let rest = text.split_off(text.len() / 2);
        let mut writer = Self { process, rest: text };
        writer.write();
        Self { rest, ..writer }
    }

    fn write(&mut self) {
        let stdin = self.process.stdin.as_mut().expect("it is a pipe");
        stdin.write_all(&self.rest).expect("it reads");
    }

    fn end(mut self) {
        self.write();
        drop(self.process.stdin.take());
        assert!(self.process.wait().expect("it is ours").success());
    }
}

/// A package in which somebody has a file open for writing is not looked at, be it new or one that runs; others are.
#[test]
fn who_still_writes_is_waited_for() {
    let daemon = settling(0.2, [Package::hostile("old", "tame"), Package::echo()]);
    // Of one that was not used yet there is no copy.
    expect_echo(&daemon, "old");
    let plugins = daemon.plugins();
    let mut changes = Changes::of(&daemon);
    // Where the daemon is another user's, that user writes.
    let writable = |path: &Path, mode| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).expect("it is ours");
    };
    let cut = |package: &Path| {
        let manifest = package.join("plugin.json");
        let mut whole: Value = serde_json::from_slice(&fs::read(&manifest).expect("it is there")).expect("it is one");
        whole["description"] = json!("whole");
        writable(&manifest, 0o666);
        Writer::of(&manifest, whole.to_string().into_bytes())
    };
    let staged = Package::hostile("new", "tame").write(&daemon.path().join("staging"), daemon.marker());
    let new = cut(&staged);
    fs::rename(&staged, plugins.join("new")).expect("it is one file system");
    let old = cut(&plugins.join("old"));
    for said in ["one", "two"] {
        Package::echo().with("description", json!(said)).write(&plugins, daemon.marker());
        changes.expect("package_changed", "echo");
        // Both had been quiet when this one was not.
        let list = daemon.operate("list", &json!({})).expect("there is a list");
        assert_eq!(list["rejected"], json!([]), "no half of a package is looked at");
        error(daemon.agent().call("new", "echo", &json!(1)), ErrorCode::PluginNotFound);
        expect_echo(&daemon, "old");
    }
    new.end();
    changes.expect("package_added", "new");
    old.end();
    changes.expect("package_changed", "old");
    for plugin in ["new", "old"] {
        assert_eq!(description(&daemon, plugin), "whole");
        expect_echo(&daemon, plugin);
    }
    expect_settled(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// How long a package has to be quiet can be said of one plugin.
#[test]
fn a_plugin_can_settle_in_its_own_time() {
    let configuration = "[defaults]\nsettle_seconds = 0.05\n[plugins.careful]\nsettle_seconds = 30\n";
    let packages = [Package::hostile("careful", "tame"), Package::echo()];
    let daemon = Daemon::start(DaemonOptions::with(packages).configuration(configuration));
    let mut changes = Changes::of(&daemon);
    let next = |package: Package| package.with("description", json!("next")).write(&daemon.plugins(), daemon.marker());
    next(Package::hostile("careful", "tame"));
    next(Package::echo());
    changes.expect("package_changed", "echo");
    assert_ne!(description(&daemon, "careful"), "next");
    // Who asks is not made to wait.
    let rescanned = daemon.operate("rescan", &json!({})).expect("it looks");
    assert_eq!(rescanned["changed"], json!(["careful 0.1.0"]));
    changes.expect("package_changed", "careful");
    daemon.stop_and_expect_no_orphans();
}

/// Packages that come, are moved and go, each by itself; and a plugin directory that goes and comes back.
#[test]
fn what_comes_moves_and_goes() {
    let daemon = settling(0.05, [Package::echo()]);
    let plugins = daemon.plugins();
    let aside = |name: &str| daemon.path().join(name);
    let mut changes = Changes::of(&daemon);
    Package::hostile("guest", "tame").write(&aside("staging"), daemon.marker());
    fs::rename(aside("staging").join("guest"), plugins.join("guest")).expect("it is one file system");
    changes.expect("package_added", "guest");
    fs::rename(plugins.join("guest"), plugins.join("visitor")).expect("it is one file system");
    changes.expect("package_changed", "guest");
    expect_echo(&daemon, "guest");
    fs::rename(plugins.join("visitor"), aside("gone")).expect("it is one file system");
    changes.expect("package_removed", "guest");
    std::os::unix::fs::symlink(aside("gone"), plugins.join("linked")).expect("it is ours");
    changes.expect("package_added", "guest");
    // Where the link leads something changes.
    Package::hostile("guest", "tame").with("description", json!("next")).write(&aside("made"), daemon.marker());
    save(&aside("made").join("guest"), &aside("gone"));
    changes.expect("package_changed", "guest");
    fs::remove_file(plugins.join("linked")).expect("it is ours");
    changes.expect("package_removed", "guest");

    fs::rename(&plugins, aside("moved")).expect("it is one file system");
    changes.expect("package_removed", "echo");
    wait_for("a word on it", || {
        daemon.log().contains("is gone, and its plugins end; it is waited for in").then_some(())
    });
    fs::rename(aside("moved"), &plugins).expect("it is one file system");
    changes.expect("package_added", "echo");
    expect_echo(&daemon, "echo");
    assert!(daemon.log().contains("is there again, and is looked at"));
    expect_settled(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// More than the kernel keeps for the daemon happens while it does not look: then it looks at everything, and says so.
#[test]
fn what_overflows_is_found_all_the_same() {
    let daemon = settling(0.05, [Package::echo(), Package::hostile("guest", "tame")]);
    let mut changes = Changes::of(&daemon);
    daemon.signal(Signal::SIGSTOP);
    let package = daemon.plugins().join("echo");
    for number in 0..20_000 {
        fs::write(package.join(format!("file-{}", number % 5000)), "x").expect("it is ours");
    }
    for number in 0..5000 {
        fs::remove_file(package.join(format!("file-{number}"))).expect("it is ours");
    }
    Package::hostile("guest", "tame").with("description", json!("next")).write(&daemon.plugins(), daemon.marker());
    daemon.signal(Signal::SIGCONT);
    changes.expect("package_changed", "guest");
    assert!(daemon.log().contains("; all plugin directories are looked at"), "{}", daemon.log());
    expect_settled(&daemon);
    daemon.stop_and_expect_no_orphans();
}

/// Of thousands of packages the one that changes is looked at, and no other.
#[test]
fn one_of_thousands_is_looked_at_alone() {
    let many = (0..2000).map(|number| Package::new(&format!("many-{number}"), Entry::Missing));
    let log = "palisaded::packages::discovery=debug,info";
    let options = DaemonOptions::with(many).configuration("[defaults]\nsettle_seconds = 0.05\n");
    let daemon = Daemon::start(options.environment("PALISADE_LOG", log));
    let mut changes = Changes::of(&daemon);
    let next = |number: usize| {
        let package = Package::new(&format!("many-{number}"), Entry::Missing);
        package.with("description", json!("next")).write(&daemon.plugins(), daemon.marker())
    };
    let looks = || {
        let log = daemon.log();
        let told = log.lines().filter(|line| line.contains("looked at packages that have changed"));
        told.map(|line| line.split_once("packages=").map_or(line, |(_, packages)| packages).to_owned())
            .collect::<Vec<_>>()
    };
    for number in [0, 1234, 1999] {
        let package = next(number);
        changes.expect("package_changed", &format!("many-{number}"));
        let of = |package: PathBuf| format!("{{{package:?}}}");
        assert_eq!(looks().last(), Some(&of(package)));
    }
    fs::remove_dir_all(daemon.plugins().join("many-77")).expect("it is ours");
    changes.expect("package_removed", "many-77");
    let report = daemon.operate("doctor", &json!({})).expect("there is a report");
    let checks = report["checks"].as_array().expect("a list");
    let watching = checks.iter().find(|check| check["name"] == "watching").expect("it is one of them");
    assert_eq!(watching["state"], "ok", "{watching}");
    daemon.stop_and_expect_no_orphans();
}

/// A file system that is mounted where a package lies, and taken away again, which no watch of a folder tells.
#[test]
fn what_is_mounted_is_noticed() {
    if !can_change_the_host("what is mounted on a plugin directory") {
        return;
    }
    let daemon = settling(0.05, [Package::echo(), Package::hostile("guest", "tame")]);
    let mut changes = Changes::of(&daemon);
    let place = daemon.plugins().join("guest");
    let staged = Package::hostile("guest", "tame")
        .with("description", json!("mounted"))
        .write(&daemon.path().join("staging"), daemon.marker());
    run("mount", &["--bind", text(&staged), text(&place)]);
    let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| changes.expect("package_changed", "guest")));
    let said = changed.is_ok().then(|| description(&daemon, "guest"));
    run("umount", &[text(&place)]);
    changed.expect("it is noticed");
    assert_eq!(said, Some(json!("mounted")));
    changes.expect("package_changed", "guest");
    assert_ne!(description(&daemon, "guest"), "mounted");
    assert!(daemon.log().contains("is another folder than it was, by what is mounted"));
    daemon.stop_and_expect_no_orphans();
}
