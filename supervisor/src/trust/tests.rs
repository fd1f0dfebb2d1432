//! Every package that is not what it should be, and what is said of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::seal::{read_manifest, seal};
use super::signature::SigningKey;
use super::*;
use crate::model::trust::{Ids, Trusted};

struct Bench {
    folder: tempfile::TempDir,
    settings: Settings,
    now: SystemTime,
}

fn name(text: &str) -> KeyName {
    KeyName::parse(text).unwrap()
}

fn secret(byte: u8, method: Method) -> SigningKey {
    SigningKey::new(method, &[byte; 32].into())
}

/// A package that is signed by a key that is trusted.
impl Bench {
    fn new(method: Method) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let package = folder.path().join("package");
        fs::create_dir_all(package.join("bin/empty")).unwrap();
        fs::write(package.join("bin/run"), "#!/bin/sh\n").unwrap();
        fs::set_permissions(package.join("bin/run"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(package.join("bin-data"), "data").unwrap();
        let manifest = "{\n  \"id\": \"some\", \"name\": \"Some\",\n  \"version\": \"1.0.0\",\n  \"entry_point\": \"bin/run\"\n}\n";
        fs::write(package.join("plugin.json"), manifest).unwrap();
        let mut bench = Self { folder, settings: Settings::default(), now: SystemTime::now() };
        bench.settings.age_max = Some(Duration::from_secs(24 * 3600));
        bench.trust("release", 1, method, &["some"]);
        bench.seal("release", 1, method);
        bench
    }

    fn package(&self) -> PathBuf {
        self.folder.path().join("package")
    }

    fn trust(&mut self, key: &str, byte: u8, method: Method, ids: &[&str]) {
        let material = match secret(byte, method).public() {
            Some(public) => Material::Public(public),
            None => {
                let path = self.folder.path().join(key);
                let text = format!("palisade-key-1 {method} {key} {}\n", STANDARD.encode([byte; 32]));
                let _ = fs::remove_file(&path);
                fs::write(&path, text).unwrap();
                fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
                Material::File(path)
            }
        };
        let ids = Ids::try_from(ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>()).unwrap();
        self.settings.keys.insert(name(key), Trusted { material, ids, revoked: None });
    }

    fn seal(&self, key: &str, byte: u8, method: Method) {
        seal(&self.package(), &secret(byte, method), &name(key), self.now).unwrap();
    }

    fn edit(&self, change: impl FnOnce(&mut Value)) {
        let path = self.package().join("plugin.json");
        let mut manifest: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        change(&mut manifest);
        fs::write(&path, manifest.to_string()).unwrap();
    }

    fn check(&self, policy: Policy) -> Result<Held, Refusal> {
        let (bytes, manifest) = read_manifest(&self.package()).unwrap();
        let checksum = tree::checksum(&self.package()).unwrap();
        let candidate = Candidate { manifest: &manifest, bytes: &bytes, checksum: &checksum };
        Rules::open(self.settings.clone(), Checks::default()).check(candidate, policy, self.now)
    }

    fn refused(&self) -> Refusal {
        self.check(Policy::Signature).unwrap_err()
    }

    fn code(&self) -> ErrorCode {
        self.refused().code()
    }
}

const METHODS: [Method; 2] = [Method::Ed25519, Method::HmacSha256];

#[test]
fn a_package_that_was_signed_holds_and_nothing_else_is_required_of_others() {
    for method in METHODS {
        let bench = Bench::new(method);
        let held = bench.check(Policy::Signature).unwrap();
        assert_eq!(held.signature.unwrap().key_id, name("release"));
        assert_eq!((held.policy, held.warning), (Policy::Signature, None));
        let text = fs::read_to_string(bench.package().join("plugin.json")).unwrap();
        assert!(text.starts_with("{\n  \"id\": \"some\", \"name\": \"Some\",\n"), "{text}");
        assert!(text.contains("\n  \"signature\": {"), "{text}");
        // Signed again it holds again, with one signature.
        bench.seal("release", 1, method);
        assert!(bench.check(Policy::Signature).is_ok());
        bench.edit(|manifest| drop(manifest.as_object_mut().unwrap().remove("signature")));
        assert_eq!(bench.refused(), Refusal::NoSignature);
        assert_eq!(bench.code(), ErrorCode::SignatureMissing);
        assert!(bench.check(Policy::Checksum).is_ok());
        bench.edit(|manifest| drop(manifest.as_object_mut().unwrap().remove("checksum")));
        let missing = bench.check(Policy::Checksum).unwrap_err();
        assert_eq!(missing, Refusal::NoChecksum { policy: Policy::Checksum });
        assert_eq!((missing.code(), bench.code()), (ErrorCode::ChecksumMissing, ErrorCode::ChecksumMissing));
        assert_eq!(bench.check(Policy::None).unwrap().warning, None);
    }
}

/// Contents, names, modes, folders: each is pinned. What is left out of packages is not.
#[test]
fn a_file_that_is_not_what_it_was_is_noticed() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 8] = [
        ("contents", |package| fs::write(package.join("bin/run"), "#!/bin/sh\n\n").unwrap()),
        ("executable", |package| {
            fs::set_permissions(package.join("bin-data"), fs::Permissions::from_mode(0o755)).unwrap();
        }),
        ("not executable", |package| {
            fs::set_permissions(package.join("bin/run"), fs::Permissions::from_mode(0o644)).unwrap();
        }),
        ("renamed", |package| fs::rename(package.join("bin-data"), package.join("bin-date")).unwrap()),
        ("added", |package| fs::write(package.join("new"), "").unwrap()),
        ("removed", |package| fs::remove_file(package.join("bin-data")).unwrap()),
        ("an empty folder", |package| fs::remove_dir(package.join("bin/empty")).unwrap()),
        ("another manifest", |package| fs::write(package.join("bin/plugin.json"), "").unwrap()),
    ];
    for (what, change) in changes {
        let bench = Bench::new(Method::Ed25519);
        change(&bench.package());
        for policy in [Policy::Checksum, Policy::Signature] {
            let refusal = bench.check(policy).unwrap_err();
            assert!(matches!(refusal, Refusal::Modified { .. }), "{what}: {refusal}");
            assert_eq!(refusal.code(), ErrorCode::IntegrityFailed);
        }
        let warning = bench.check(Policy::None).unwrap().warning.unwrap();
        assert!(warning.starts_with("the files are not those that plugin.json pins"), "{warning}");
    }
    let bench = Bench::new(Method::Ed25519);
    fs::create_dir_all(bench.package().join("bin/target/debug")).unwrap();
    fs::set_permissions(bench.package().join("bin/run"), fs::Permissions::from_mode(0o701)).unwrap();
    assert!(bench.check(Policy::Signature).is_ok());
}

/// Every field of the manifest, and every one of the signature, is signed.
#[test]
fn a_manifest_that_is_not_what_was_signed_is_noticed() {
    for method in METHODS {
        for (pointer, value) in [
            ("/name", json!("Other")),
            ("/version", json!("1.0.1")),
            ("/limits", json!({"memory_mib": 64})),
            ("/unknown", json!([0.1])),
            ("/signature/signed_at", json!("2026-01-01T00:00:00Z")),
            ("/signature/value", json!(STANDARD.encode([9; 64]))),
            ("/signature/value", json!(STANDARD.encode([0; 64]))),
            ("/signature/value", json!(STANDARD.encode([9; 3]))),
        ] {
            let bench = Bench::new(method);
            bench.edit(|manifest| {
                let (place, field) = pointer.rsplit_once('/').unwrap();
                manifest.pointer_mut(place).unwrap()[field] = value.clone();
            });
            assert_eq!(bench.refused(), Refusal::Wrong { key: name("release") }, "{pointer}");
            assert_eq!(bench.code(), ErrorCode::SignatureInvalid);
        }
        // Layout and order are not signed.
        let bench = Bench::new(method);
        bench.edit(|_| ());
        assert!(bench.check(Policy::Signature).is_ok());
        // What cannot be held exactly is no manifest that can be signed.
        bench.edit(|manifest| manifest["unknown"] = json!(u64::MAX));
        assert_eq!(bench.code(), ErrorCode::SignatureInvalid);
        assert!(bench.refused().to_string().contains("18446744073709551615"), "{}", bench.refused());
    }
}

#[test]
fn a_key_that_is_not_trusted_for_it_signs_nothing() {
    for method in METHODS {
        let mut bench = Bench::new(method);
        // Another key of the same name.
        bench.seal("release", 2, method);
        assert_eq!(bench.refused(), Refusal::Wrong { key: name("release") });
        // One that nobody knows; and the signature of one that is trusted, under the name of another that is.
        bench.seal("other", 1, method);
        let known = "\"release\"".to_owned();
        assert_eq!(bench.refused(), Refusal::UnknownKey { key: name("other"), known });
        assert_eq!(bench.code(), ErrorCode::KeyUnknown);
        bench.seal("release", 1, method);
        bench.trust("second", 1, method, &["*"]);
        bench.edit(|manifest| manifest["signature"]["key_id"] = json!("second"));
        assert_eq!(bench.refused(), Refusal::Wrong { key: name("second") });
        // One that was revoked, with and without a reason, whether or not it can be read.
        bench.seal("release", 1, method);
        for reason in ["", "it leaked"] {
            bench.settings.keys.get_mut(&name("release")).unwrap().revoked = Some(reason.to_owned());
            let reason = Some(reason.to_owned()).filter(|reason| !reason.is_empty());
            assert_eq!(bench.refused(), Refusal::RevokedKey { key: name("release"), reason });
            assert_eq!(bench.code(), ErrorCode::KeyRevoked);
        }
        // One for other plugins.
        bench.trust("release", 1, method, &["someone", "so-*"]);
        let (key, id) = (name("release"), PluginId::parse("some").unwrap());
        assert_eq!(bench.refused(), Refusal::NotAllowed { key, id, ids: "someone, so-*".to_owned() });
        assert_eq!(bench.code(), ErrorCode::KeyNotAllowed);
    }
}

/// A public key is known to all: taken for a shared one it would let anybody sign.
#[test]
fn a_signature_says_the_method_of_its_key() {
    let mut bench = Bench::new(Method::Ed25519);
    let public = secret(1, Method::Ed25519).public().unwrap();
    let forged = SigningKey::new(Method::HmacSha256, &public.into());
    seal(&bench.package(), &forged, &name("release"), bench.now).unwrap();
    let (said, method) = (Method::HmacSha256, Method::Ed25519);
    assert_eq!(bench.refused(), Refusal::Method { key: name("release"), said, method });
    assert_eq!(bench.code(), ErrorCode::SignatureMethodMismatch);
    bench.trust("release", 1, Method::HmacSha256, &["*"]);
    bench.seal("release", 1, Method::Ed25519);
    assert_eq!(bench.refused(), Refusal::Method { key: name("release"), said: method, method: said });
    // Said to be the other, it is still none of it.
    bench.edit(|manifest| manifest["signature"]["method"] = json!("hmac-sha256"));
    assert_eq!(bench.refused(), Refusal::Wrong { key: name("release") });
}

#[test]
fn a_signature_of_another_time_does_not_count() {
    for method in METHODS {
        let mut bench = Bench::new(method);
        let (signed, day, skew) = (bench.now, Duration::from_secs(24 * 3600), bench.settings.skew);
        bench.now = signed + day + skew + Duration::from_secs(2);
        assert!(matches!(bench.refused(), Refusal::TooOld { days: 1, .. }), "{}", bench.refused());
        assert_eq!(bench.code(), ErrorCode::SignatureExpired);
        bench.now = signed + day;
        assert!(bench.check(Policy::Signature).is_ok());
        bench.now = signed - skew;
        assert!(bench.check(Policy::Signature).is_ok());
        bench.now = signed - skew - Duration::from_secs(2);
        assert!(matches!(bench.refused(), Refusal::InTheFuture { .. }));
        assert_eq!(bench.code(), ErrorCode::SignatureNotYetValid);
        bench.settings.age_max = None;
        bench.now = signed + 10_000 * day;
        assert!(bench.check(Policy::Signature).is_ok());
    }
}

/// One that others may read could be anybody's, and a private key is none of the daemon's affair.
#[test]
fn a_key_that_cannot_be_had_verifies_nothing() {
    let bench = Bench::new(Method::HmacSha256);
    let file = bench.folder.path().join("release");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let refusal = bench.refused().to_string();
    assert!(refusal.contains("has the mode 0644, and others may use it; run `chmod 600` on it"), "{refusal}");
    assert_eq!(bench.code(), ErrorCode::KeyUnusable);
    assert_eq!(Rules::open(bench.settings.clone(), Checks::default()).unusable().count(), 1);
    fs::remove_file(&file).unwrap();
    assert_eq!(bench.code(), ErrorCode::KeyUnusable);
    fs::write(&file, format!("palisade-key-1 ed25519 release {}", STANDARD.encode([1; 32]))).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(bench.code(), ErrorCode::KeyUnusable);
    let why = "holds a private key, which belongs to whoever signs alone";
    assert!(bench.refused().to_string().contains(why), "{}", bench.refused());
    let mut bench = Bench::new(Method::Ed25519);
    for (public, why) in [([0; 32], "a weak key"), ([2; 32], "no Ed25519 public key")] {
        bench.settings.keys.get_mut(&name("release")).unwrap().material = Material::Public(public);
        assert!(bench.refused().to_string().contains(why), "{}", bench.refused());
        assert_eq!(bench.code(), ErrorCode::KeyUnusable);
    }
    bench.settings.keys.clear();
    assert_eq!(bench.refused(), Refusal::UnknownKey { key: name("release"), known: "none".to_owned() });
}

#[test]
fn a_source_may_be_named_by_a_link_and_holds_what_is_found_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("strict/one")).unwrap();
    fs::create_dir_all(at("lax/two")).unwrap();
    std::os::unix::fs::symlink("strict", at("link")).unwrap();
    std::os::unix::fs::symlink("../lax/two", at("strict/two")).unwrap();
    let sources = [(at("link"), Policy::Signature), (at("lax"), Policy::None)].into();
    let rules = Rules::open(Settings { policy: Policy::Checksum, sources, ..Settings::default() }, Checks::default());
    for (package, policy) in [
        ("link/one", Policy::Signature),
        ("strict/one", Policy::Signature),
        ("strict/two", Policy::Signature),
        ("lax/two", Policy::None),
        ("other/three", Policy::Checksum),
    ] {
        let found = rules.policy_of(&at(package));
        // What is not found through the link alone is held to the stricter of the two.
        assert_eq!(
            found,
            policy.max(if package.starts_with("strict") { Policy::Checksum } else { policy }),
            "{package}"
        );
    }
}
