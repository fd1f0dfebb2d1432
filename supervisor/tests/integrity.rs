//! What `docs/integrity.md` says of checksums and signatures is enough to compute them: its Python programs are run as they stand there.

#![expect(clippy::unwrap_used, reason = "a test that finds something unexpected is to fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palisaded::model::trust::{KeyName, Method};
use palisaded::trust::keys::NamedKey;
use palisaded::trust::seal::seal;

const PAGE: &str = include_str!("../../docs/integrity.md");

/// Runs that program of the page.
#[expect(clippy::disallowed_methods, reason = "a test is not the daemon")]
fn python(number: usize, arguments: &[&Path]) -> String {
    let program = PAGE.split("```python\n").nth(number + 1).unwrap().split_once("```").unwrap().0;
    let python = std::env::var_os("PALISADE_PYTHON").unwrap_or("python3".into());
    let output = std::process::Command::new(python).arg("-c").arg(program).args(arguments).output();
    let output = output.expect("the test needs Python 3, in PATH or as PALISADE_PYTHON");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn whoever_reads_the_page_computes_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let package = folder.path().join("package");
    // Names that sort differently as paths and name by name, names that are no ASCII, and all that is left out or not.
    for name in
        ["a/b/c", "a-b", "a.b/plugin.json", "a/target/x", ".git/x", "é/ü", "a/zz", "node_modules", "targets", "A"]
    {
        let path = package.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, name).unwrap();
    }
    fs::create_dir(package.join("empty")).unwrap();
    for (name, mode) in [("a-b", 0o755), ("A", 0o601), ("a/zz", 0o600)] {
        fs::set_permissions(package.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let manifest = "{\"version\": \"1.0.0\", \"id\": \"some\", \"name\": \"S\u{f6}me \\u20ac\", \"description\": \"one\\ntwo \\\"three\\\"\",\n \"entry_point\": \"a-b\", \
                    \"limits\": {\"pids\": 8, \"memory_mib\": 64}}";
    let plugin_json = package.join("plugin.json");
    fs::write(&plugin_json, manifest).unwrap();
    let key_file = folder.path().join("house.key");
    let key = NamedKey::generate(KeyName::parse("house").unwrap(), Method::HmacSha256, &key_file).unwrap();
    let sealed = seal(&package, &key.key, &key.name, SystemTime::now()).unwrap();
    assert_eq!(python(0, &[&package]), sealed.checksum);
    assert_eq!(python(1, &[&plugin_json, &key_file]), STANDARD.encode(sealed.signature.value));
}
