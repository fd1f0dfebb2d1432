//! `palisade validate` and `palisade new`, without a daemon.

#![expect(clippy::unwrap_used, reason = "a test that finds something unexpected is to fail")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

#[expect(clippy::disallowed_methods, reason = "the program under test")]
fn palisade(arguments: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_palisade")).args(arguments).env_clear().output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// A package beneath a folder that is gone with this.
struct Package {
    folder: tempfile::TempDir,
}

impl Package {
    /// One with a script for its entry point.
    fn new(manifest: &Value, script: &str) -> Self {
        let package = Self { folder: tempfile::tempdir().unwrap() };
        package.write("plugin.json", manifest.to_string(), 0o644);
        package.write("main", format!("#!/bin/sh\n{script}\n"), 0o755);
        package
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>, mode: u32) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), text).unwrap();
        fs::set_permissions(self.at(name), fs::Permissions::from_mode(mode)).unwrap();
    }

    fn validate(&self, more: &[&str]) -> (i32, Value) {
        let folder = self.folder.path().to_str().unwrap();
        let (status, stdout, stderr) = palisade(&[&["--json", "validate", folder], more].concat());
        assert_eq!(stderr, "");
        (status, serde_json::from_str(&stdout).unwrap())
    }

    /// Status, and each problem as severity, file, and path or else message.
    fn problems(&self, more: &[&str]) -> (i32, Vec<String>) {
        let (status, report) = self.validate(more);
        let problems = report["problems"].as_array().unwrap().iter();
        let line = |problem: &Value| {
            let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
            let path = if problem["path"].is_string() { text("path") } else { text("message") };
            format!("{} {}: {path}", text("severity"), text("file"))
        };
        (status, problems.map(line).collect())
    }
}

fn manifest(more: Value) -> Value {
    let mut manifest = json!({"id": "some", "name": "Some", "version": "1.0.0", "entry_point": "main"});
    manifest.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    manifest
}

#[test]
fn nothing_is_said_of_a_package_in_which_nothing_is_wrong() {
    let package = Package::new(&manifest(json!({})), "exit 1");
    let folder = package.folder.path().to_str().unwrap();
    assert_eq!(palisade(&["validate", folder]), (0, String::new(), String::new()));
    let expected = json!({
        "folder": folder, "id": "some", "version": "1.0.0", "valid": true, "problems": [], "left_out": 0,
    });
    assert_eq!(package.validate(&[]), (0, expected));
}

#[test]
fn every_mistake_is_reported_at_once() {
    let wrong = manifest(json!({
        "id": "Some", "version": "1", "limits": {"queue": -1, "pids": "many"}, "later": 1, "tags": ["A"],
        "actions": [{"name": "a", "timeout_seconds": 0}, {"name": "a"}],
    }));
    let package = Package::new(&wrong, "");
    symlink("/etc/passwd", package.at("link")).unwrap();
    let (status, mut problems) = package.problems(&[]);
    problems.sort();
    assert_eq!(status, 4);
    assert_eq!(
        problems,
        [
            "error link: is a symbolic link; a package holds files and folders alone",
            "error plugin.json: actions[0].timeout_seconds",
            "error plugin.json: actions[1].name",
            "error plugin.json: id",
            "error plugin.json: limits.pids",
            "error plugin.json: limits.queue",
            "error plugin.json: tags[0]",
            "error plugin.json: version",
        ]
    );
    let (status, stdout, stderr) = palisade(&["validate", package.folder.path().to_str().unwrap()]);
    assert_eq!((status, stdout.as_str()), (4, ""));
    assert_eq!(stderr.lines().count(), problems.len(), "{stderr}");
    let line = "palisade: error: plugin.json: `limits.queue` is -1; it has to be a whole number from 0 to 65536\n";
    assert!(stderr.contains(line), "{stderr}");
}

#[test]
fn files_that_are_none_or_odd_are_named() {
    let package = Package::new(&manifest(json!({"icon": "icon.svg"})), "");
    package.write("tool", "", 0o4755);
    package.write("open", "", 0o666);
    package.write("target/debug/main", "", 0o755);
    let pipe = rustix::fs::FileType::Fifo;
    fs::create_dir(package.at("lib")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, package.at("lib/pipe").as_path(), pipe, rustix::fs::Mode::RUSR, 0).unwrap();
    let (status, mut problems) = package.problems(&[]);
    problems.sort();
    assert_eq!(status, 4);
    assert_eq!(
        problems,
        [
            "error icon.svg: icon",
            "error lib/pipe: is a device, socket or pipe; a package holds files and folders alone",
            "warning open: may be written by everybody on this host",
            "warning target: is left out of the package; what it needs has to lie elsewhere",
            "warning tool: has a setuid or setgid bit, which no copy of it has",
        ]
    );
}

#[test]
fn an_entry_point_that_is_none_is_named() {
    let message = |package: &Package| {
        let (status, report) = package.validate(&[]);
        assert_eq!((status, report["problems"].as_array().unwrap().len()), (4, 1), "{report}");
        let problem = &report["problems"][0];
        assert_eq!((&problem["file"], &problem["path"]), (&json!("main"), &json!("entry_point")));
        problem["message"].as_str().unwrap().to_owned()
    };
    let package = Package::new(&manifest(json!({})), "");
    fs::set_permissions(package.at("main"), fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(message(&package), "the entry point is not executable; run `chmod +x main`");
    package.write("main", "#!/nonexistent/interpreter\n", 0o755);
    assert_eq!(
        message(&package),
        "the entry point is a script for /nonexistent/interpreter, which is not on this host"
    );
    package.write("main", "", 0o755);
    assert_eq!(message(&package), "the entry point is empty");
    fs::remove_file(package.at("main")).unwrap();
    assert_eq!(message(&package), "the entry point is not in the package");
    fs::create_dir(package.at("main")).unwrap();
    assert_eq!(message(&package), "the entry point is not a file");
}

#[test]
fn a_manifest_that_is_meant_to_harm_is_an_error_and_no_more() {
    let package = Package::new(&json!({}), "");
    let deep = format!("{{\"deep\": {}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let far = manifest(json!({"configuration_schema": {"$ref": "http://127.0.0.1:1/schema.json"}}));
    let slow = manifest(json!({"actions": [{
        "name": "a", "parameters": {"type": "string", "pattern": "^(a+)+$"},
        "examples": [{"parameters": "a".repeat(1000) + "!"}],
    }]}));
    for (text, expected) in [
        (" ".repeat(50_000_000), "the manifest has more than 1 MiB, which is the most that is allowed".to_owned()),
        (deep, "the manifest is not JSON: line 1, column 136: recursion limit exceeded".to_owned()),
        (
            format!("{{\"version\": \"7.0.0\", {}", &manifest(json!({})).to_string()[1..]),
            "`version` stands there twice; leave one of them out".to_owned(),
        ),
        (
            far.to_string(),
            "`configuration_schema` is a schema: it refers to \"http://127.0.0.1:1/schema.json\", which lies outside of it; nothing \
             is fetched, so write that into its `$defs`"
                .to_owned(),
        ),
        (slow.to_string(), "`actions[0].examples[0].parameters` is an example: it does not fit its schema: ".to_owned()),
    ] {
        package.write("plugin.json", &text, 0o644);
        let (status, report) = package.validate(&[]);
        let [problem] = &report["problems"].as_array().unwrap()[..] else { panic!("{report}") };
        let message = problem["message"].as_str().unwrap();
        assert!(message == expected || (expected.ends_with(": ") && message.starts_with(&expected)), "{message}");
        assert_eq!((status, &report["valid"]), (4, &json!(false)));
    }
    fs::remove_file(package.at("plugin.json")).unwrap();
    symlink("/dev/zero", package.at("plugin.json")).unwrap();
    let link = "error plugin.json: is a symbolic link; a package holds files and folders alone";
    assert_eq!(package.problems(&[]), (4, vec![link.to_owned(); 2]));
}

#[test]
fn a_program_that_differs_from_its_manifest_is_found_by_executing_it() {
    let described = json!({
        "id": "other", "version": "1.0.0",
        "actions": [{"name": "find", "parameters": {"type": "string"}}, {"name": "more"}],
    });
    let listed = manifest(json!({
        "actions": [{"name": "find", "parameters": {"type": "object"}}, {"name": "gone"}],
    }));
    let package =
        Package::new(&listed, &format!("touch \"$0.ran\"\n[ \"$1\" = --palisade-describe ] && echo '{described}'"));
    assert_eq!(package.problems(&[]), (0, vec![]));
    assert!(!package.at("main.ran").exists(), "nothing is executed unless that is asked for");
    let (status, report) = package.validate(&["--run"]);
    assert_eq!(status, 4);
    let messages: Vec<_> =
        report["problems"].as_array().unwrap().iter().map(|problem| problem["message"].as_str().unwrap()).collect();
    assert_eq!(
        messages,
        [
            "the program has the id \"other\", and the manifest \"some\"",
            "of the action find `parameters/type` is \"object\" in the manifest and \"string\" in the program",
            "the manifest names the action gone, which the program does not have",
            "the program has the action \"more\", which the manifest does not list",
        ]
    );
    let same = json!({"id": "some", "version": "1.0.0", "actions": [{"name": "find", "parameters": {"type": "object"}}, {"name": "gone"}]});
    package.write("main", format!("#!/bin/sh\necho '{same}'\n"), 0o755);
    assert_eq!(package.problems(&["--run"]), (0, vec![]));
    package.write("main", "#!/bin/sh\nexit 3\n", 0o755);
    let (status, problems) = package.problems(&["--run"]);
    assert_eq!((status, problems.len()), (0, 1));
    assert!(problems[0].starts_with("warning main: did not say what actions it has"), "{problems:?}");
}

/// The checksum is that of all files but the manifest, so it holds until one of them is another.
#[test]
fn a_checksum_that_does_not_hold_is_told() {
    let pinned = |value: &str| manifest(json!({"checksum": {"algorithm": "sha256", "value": value}}));
    let wrong = "0".repeat(64);
    let package = Package::new(&pinned(&wrong), "");
    assert_eq!(package.problems(&[]), (0, vec!["warning plugin.json: checksum".to_owned()]));
    let report = package.validate(&[]).1;
    let message = report["problems"][0]["message"].as_str().unwrap();
    let is_digest = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    let words = message.split(|letter: char| !letter.is_ascii_alphanumeric());
    let told: Vec<_> = words.filter(is_digest).collect();
    assert_eq!((told.len(), told[0]), (2, wrong.as_str()), "{message}");
    package.write("plugin.json", pinned(told[1]).to_string(), 0o644);
    assert_eq!(package.problems(&[]), (0, vec![]));
    package.write("more", "x", 0o644);
    assert_eq!(package.problems(&[]).1.len(), 1);
}

#[test]
fn what_is_no_folder_is_wrong_usage() {
    for path in ["/nonexistent", "/dev/null"] {
        let (status, stdout, stderr) = palisade(&["validate", path]);
        assert_eq!((status, stdout.as_str()), (2, ""), "{stderr}");
    }
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// That it builds and answers is tried by `tests/demo/new`.
#[test]
fn a_project_is_written_where_nothing_is() {
    let folder = tempfile::tempdir().unwrap();
    let project = folder.path().join("deep/project");
    let path = project.to_str().unwrap();
    let said = format!(
        "{path} is there; in it, from here to an answer:\n  cargo build\n  cargo test\n  palisade pack --program target/debug/word_count-2\n  \
         palisade install word_count-2-0.1.0.tar.zst\n  palisade call word_count-2 greet name=Ada\n"
    );
    assert_eq!(palisade(&["new", "word_count-2", "--path", path]), (0, said, String::new()));
    assert_eq!(files(&project), [".gitignore", "Cargo.toml", "README.md", "plugin.json", "src"]);
    let text = |name: &str| fs::read_to_string(project.join(name)).unwrap();
    assert!(text("Cargo.toml").contains("name = \"word_count-2\"\n"));
    assert!(text("Cargo.toml").contains("palisade-sdk = { path = \"../palisade/plugin-sdk\" }\n"));
    for name in ["Cargo.toml", "README.md", "plugin.json", "src/main.rs"] {
        assert!(!text(name).contains('@'), "{name}: {}", text(name));
    }
    let (manifest, warnings) = palisaded::model::manifest::Manifest::parse(text("plugin.json").as_bytes()).unwrap();
    assert_eq!((manifest.id.as_str(), manifest.name.as_str(), warnings.len()), ("word_count-2", "Word count 2", 0));

    let (status, _, stderr) = palisade(&["new", "other", "--path", path]);
    assert_eq!(status, 2);
    assert!(stderr.starts_with(&format!("palisade: error: {path} is not empty\nhint: ")), "{stderr}");
    assert!(text("Cargo.toml").contains("name = \"word_count-2\"\n"), "nothing is written over");
    for (name, said) in
        [("Bad", "begins with 'B'"), ("palisade", "the daemon's own id"), ("fn", "cargo builds no program")]
    {
        let (status, _, stderr) = palisade(&["new", name, "--path", folder.path().join(name).to_str().unwrap()]);
        assert_eq!(status, 4, "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
        assert!(!folder.path().join(name).exists());
    }
    let (status, _, _) =
        palisade(&["new", "some", "--sdk", path, "--path", folder.path().join("some").to_str().unwrap()]);
    assert_eq!(status, 0, "a folder with a Cargo.toml may be the SDK's");
    let (status, _, _) = palisade(&["new", "some", "--sdk", "/nonexistent"]);
    assert_eq!(status, 2);
}

/// The same package is the same file, wherever it lies and whenever it was written; and what is said of it is so.
#[test]
fn a_package_is_packed_the_same_again() {
    let packages = [1_000_000, 2_000_000].map(|seconds| {
        let package = Package::new(&manifest(json!({})), "exit 1");
        package.write("data/b", "b", if seconds == 1_000_000 { 0o600 } else { 0o644 });
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds);
        for name in ["data/b", "main", "plugin.json"] {
            fs::File::open(package.at(name)).unwrap().set_modified(time).unwrap();
        }
        package
    });
    let out = tempfile::tempdir().unwrap();
    let [one, other] = packages.map(|package| {
        let archive = out.path().join("some.tar.zst");
        let folder = package.folder.path().to_str().unwrap();
        let (status, stdout, stderr) = palisade(&["pack", folder, "--out", archive.to_str().unwrap()]);
        assert_eq!((status, stderr.as_str()), (0, ""));
        let bytes = fs::read(&archive).unwrap();
        let expected = format!("{}, {} bytes, sha256 ", archive.display(), bytes.len());
        assert!(stdout.starts_with(&expected), "{stdout}");
        let arguments = ["--json", "pack", folder, "--out", archive.to_str().unwrap()];
        let told: Value = serde_json::from_str(&palisade(&arguments).1).unwrap();
        assert_eq!((&told["id"], &told["version"], &told["entries"]), (&json!("some"), &json!("1.0.0"), &json!(4)));
        assert!(stdout.contains(told["digest"].as_str().unwrap()));
        (bytes, told["digest"].clone())
    });
    assert_eq!(one, other);
    assert_eq!(fs::read_dir(out.path()).unwrap().count(), 1);
}

#[test]
fn what_is_no_package_is_not_packed() {
    let package = Package::new(&manifest(json!({})), "exit 1");
    let folder = package.folder.path().to_str().unwrap().to_owned();
    let out = tempfile::tempdir().unwrap();
    let archive = out.path().join("some.tar.zst");
    let pack = |more: &[&str]| {
        let (status, stdout, stderr) =
            palisade(&[&["pack", &folder, "--out", archive.to_str().unwrap()], more].concat());
        assert_eq!((stdout.as_str(), fs::read_dir(out.path()).unwrap().count()), ("", 0));
        (status, stderr)
    };
    let refused = |more: &[&str], status, words: &str| {
        let (found, stderr) = pack(more);
        assert!(found == status && stderr.contains(words), "{found} {stderr}");
    };
    fs::remove_file(package.at("main")).unwrap();
    refused(&[], 4, "the entry point main is not in ");
    refused(&["--program", "/nonexistent"], 2, "/nonexistent cannot be copied: ");
    refused(&["--program", "/dev/zero"], 2, "/dev/zero cannot be copied: it is no file");
    package.write("main", "", 0o4755);
    refused(&[], 4, "main has a setuid or setgid bit");
    package.write("main", "", 0o755);
    symlink("/etc/passwd", package.at("link")).unwrap();
    refused(&[], 4, "link is a symbolic link");
    package.write("plugin.json", "{}", 0o644);
    refused(&[], 4, "plugin.json: ");
    fs::remove_file(package.at("plugin.json")).unwrap();
    refused(&[], 4, "plugin.json cannot be read: No such file");
    let within = package.at("some.tar.zst");
    package.write("plugin.json", manifest(json!({})).to_string(), 0o644);
    let (status, _, stderr) = palisade(&["pack", &folder, "--out", within.to_str().unwrap()]);
    assert!(status == 2 && stderr.contains("would lie in the package itself"), "{status} {stderr}");
}

/// Of a project with sources only what a package is made of is packed.
#[test]
fn a_program_that_is_built_elsewhere_is_packed() {
    let package = Package::new(&manifest(json!({"entry_point": "bin/main", "icon": "icon.svg"})), "exit 1");
    package.write("icon.svg", "<svg/>", 0o644);
    package.write("src/main.rs", "fn main() {}", 0o644);
    let archive = package.at("some.tar.zst");
    let (folder, program) = (package.folder.path().to_str().unwrap().to_owned(), package.at("main"));
    let arguments =
        ["--json", "pack", &folder, "--program", program.to_str().unwrap(), "--out", archive.to_str().unwrap()];
    let (status, stdout, stderr) = palisade(&arguments);
    assert_eq!((status, stderr.as_str()), (0, ""));
    // plugin.json, bin, bin/main, icon.svg
    assert_eq!(serde_json::from_str::<Value>(&stdout).unwrap()["entries"], 4);
}
