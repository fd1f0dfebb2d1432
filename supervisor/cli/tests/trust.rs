//! `keygen`, `sign` and `verify` by the built program: what they print, leave behind and exit with. No daemon runs.

#![expect(clippy::unwrap_used, reason = "a test that finds something unexpected is to fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        fs::create_dir(place.at("search")).unwrap();
        fs::write(place.at("search/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(place.at("search/run"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(place.at("search/plugin.json"), MANIFEST).unwrap();
        fs::set_permissions(place.at("search/plugin.json"), fs::Permissions::from_mode(0o640)).unwrap();
        place
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The status, stdout and stderr of the program, run in that place with nothing of this machine's environment.
    fn palisade(&self, line: &str) -> (i32, String, String) {
        #[expect(clippy::disallowed_methods, reason = "the program under test")]
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_palisade"));
        command.args(line.split(' ')).env_clear().env("HOME", self.0.path()).current_dir(self.0.path());
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }

    fn well(&self, line: &str) -> String {
        let (status, stdout, stderr) = self.palisade(line);
        assert_eq!((status, stderr.as_str()), (0, ""), "{line}");
        stdout
    }

    /// The error that the command ends with, as JSON.
    fn badly(&self, line: &str) -> Value {
        let (status, stdout, stderr) = self.palisade(&format!("{line} --json"));
        let error: Value =
            serde_json::from_str(&stderr).unwrap_or_else(|_| panic!("{line}: {status} {stdout}{stderr}"));
        assert_eq!((error["error"]["exit_status"].as_i64(), stdout.as_str()), (Some(status.into()), ""), "{line}");
        error["error"].clone()
    }

    fn manifest(&self) -> String {
        fs::read_to_string(self.at("search/plugin.json")).unwrap()
    }
}

const MANIFEST: &str = "{\n    \"id\": \"search\",   \"name\": \"Search\",\n    \"version\": \"1.4.0\",\n    \"entry_point\": \"run\"\n}\n";

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn what_was_signed_is_verified_with_what_keygen_printed() {
    for method in ["ed25519", "hmac-sha256"] {
        let place = Place::new();
        let printed = place.well(&format!("keygen release.1 --method {method}"));
        assert!(printed.starts_with("[trust.keys.\"release.1\"]\n") && printed.contains("ids = [\"*\"]"), "{printed}");
        assert_eq!(mode(&place.at("release.1.key")), 0o600);
        let secret = fs::read_to_string(place.at("release.1.key")).unwrap();
        assert!(!printed.contains(secret.split_whitespace().last().unwrap()), "the secret stays where it is");
        fs::write(place.at("palisade.toml"), format!("[trust]\npolicy = \"signature\"\n{printed}")).unwrap();

        assert_eq!(place.well("sign search --key release.1.key"), "");
        let text = place.manifest();
        assert!(text.starts_with(MANIFEST.trim_end_matches("\n}\n")), "what stood there stands there: {text}");
        assert_eq!(mode(&place.at("search/plugin.json")), 0o640);
        assert_eq!(fs::read_dir(place.at("search")).unwrap().count(), 2, "nothing is left beside it");
        let told: Value = serde_json::from_str(&place.well("verify search --config palisade.toml --json")).unwrap();
        let signature = json!({
            "method": method, "key_id": "release.1", "signed_at": told["signature"]["signed_at"],
        });
        let script = json!({
            "code": "unlisted_interpreter", "where": "run", "severity": "info",
            "detail": "is a script for /bin/sh, and plugin.json names no `runtime` that palisade.toml lists",
        });
        let checksum = serde_json::from_str::<Value>(&text).unwrap()["checksum"]["value"].clone();
        assert_eq!(
            told,
            json!({"id": "search", "version": "1.4.0", "policy": "signature", "checksum": checksum, "pinned": true,
                "signature": signature, "warning": null, "findings": [script]})
        );
        let table = place.well("verify search --config palisade.toml");
        assert!(table.contains("by \"release.1\"") && table.contains(checksum.as_str().unwrap()), "{table}");
        // Without that configuration nobody is trusted.
        assert_eq!(place.badly("verify search --policy signature")["code"], "key_unknown");
        // Signed once more, there is one signature.
        place.well("sign search --key release.1.key --key-id other");
        assert_eq!(place.manifest().matches("\"signature\"").count(), 1);
        assert_eq!(place.badly("verify search --config palisade.toml")["code"], "key_unknown");
    }
}

#[test]
fn what_does_not_hold_has_a_status_and_a_code() {
    let place = Place::new();
    let told = place.well("verify search");
    assert!(told.contains("nothing is required of it"), "{told}");
    let missing = place.badly("verify search --policy checksum");
    assert_eq!(
        (&missing["code"], &missing["class"], &missing["exit_status"]),
        (&json!("checksum_missing"), &json!("denied"), &json!(5))
    );
    place.well("keygen house --out k");
    place.well("sign search --key k");
    place.well("verify search --policy checksum");
    // A program that is none, and one whose interpreter is not there.
    for (program, why) in [
        ("text", "is neither an ELF program nor a script"),
        ("#!/usr/bin/none\n", "interpreter /usr/bin/none is not there"),
    ] {
        let before = fs::read(place.at("search/run")).unwrap();
        fs::write(place.at("search/run"), program).unwrap();
        let error = place.badly("verify search");
        assert_eq!(error["code"], "check_failed");
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
        fs::write(place.at("search/run"), before).unwrap();
    }
    // One that the kernel executes: this test's own.
    fs::copy("/proc/self/exe", place.at("search/run")).unwrap();
    fs::write(place.at("checks.toml"), "[checks]\nlibraries = [\"libz*\"]\n").unwrap();
    let error = place.badly("verify search --config checks.toml");
    assert_eq!(error["code"], "check_failed");
    assert!(error["message"].as_str().unwrap().contains("forbidden_library: run needs the library libc"), "{error}");
    fs::write(place.at("checks.toml"), "[checks]\nlibraries = []\nforbidden_library = \"warn\"\n").unwrap();
    let told: Value = serde_json::from_str(&place.palisade("verify search --config checks.toml --json").1).unwrap();
    assert_eq!(
        (&told["findings"][0]["code"], &told["findings"][0]["where"]),
        (&json!("forbidden_library"), &json!("run"))
    );
    fs::write(place.at("search/run"), "#!/bin/bash\n").unwrap();
    let modified = place.badly("verify search --policy checksum");
    assert_eq!((&modified["code"], &modified["exit_status"]), (&json!("integrity_failed"), &json!(5)));
    let (status, table, stderr) = place.palisade("verify search --policy none");
    assert!(
        status == 0 && table.contains("differs") && stderr.contains("warning: the files are not those"),
        "{table}{stderr}"
    );
}

#[test]
fn what_cannot_be_done_is_told_and_changes_nothing() {
    let place = Place::new();
    place.well("keygen release");
    let before = fs::read(place.at("release.key")).unwrap();
    let again = place.badly("keygen release");
    assert_eq!((&again["code"], &again["exit_status"]), (&json!("usage"), &json!(2)));
    assert_eq!(fs::read(place.at("release.key")).unwrap(), before);
    fs::set_permissions(place.at("release.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let open = place.badly("sign search --key release.key");
    assert_eq!(open["code"], "key_unusable");
    assert!(open["message"].as_str().unwrap().contains("run `chmod 600` on it"), "{open}");
    fs::set_permissions(place.at("release.key"), fs::Permissions::from_mode(0o600)).unwrap();
    for (line, code) in [
        ("sign search --key none.key", "usage"),
        ("sign search --key search/plugin.json", "key_unusable"),
        ("sign none --key release.key", "usage"),
        ("keygen .hidden", "usage"),
        ("keygen name --method rsa", "usage"),
        ("verify search --policy some", "usage"),
        ("verify none", "usage"),
        ("verify release.key", "usage"),
        ("sign release.key --key release.key", "usage"),
        ("verify search --config none.toml", "configuration_invalid"),
    ] {
        assert_eq!(place.badly(line)["code"], code, "{line}");
    }
    fs::write(place.at("search-1.4.0.tar.zst"), "an archive").unwrap();
    for (line, command) in
        [("verify search-1.4.0.tar.zst", "verify"), ("sign search-1.4.0.tar.zst --key release.key", "sign")]
    {
        let error = place.badly(line);
        let message = format!("search-1.4.0.tar.zst is a file; `{command}` takes the folder of a package");
        assert_eq!(error["message"], message, "{line}");
        assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("tar -xf")), "{error}");
    }
    std::os::unix::fs::symlink("run", place.at("search/link")).unwrap();
    assert_eq!(place.badly("sign search --key release.key")["code"], "configuration_invalid");
    fs::remove_file(place.at("search/link")).unwrap();
    assert_eq!(place.manifest(), MANIFEST);
    for wrong in [MANIFEST.replace("1.4.0", "1"), MANIFEST.replace("{\n", "{\n\"n\": 9007199254740993,")] {
        fs::write(place.at("search/plugin.json"), &wrong).unwrap();
        assert_eq!(place.badly("sign search --key release.key")["code"], "configuration_invalid");
        assert_eq!(place.manifest(), wrong);
    }
}
