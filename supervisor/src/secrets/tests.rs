use serde_json::json;

use super::*;
use crate::vault;

const VALUE: &str = "correct horse battery staple";

fn id(text: &str) -> PluginId {
    PluginId::parse(text).unwrap()
}

fn name(text: &str) -> SecretName {
    SecretName::parse(text).unwrap()
}

fn secret(text: &str) -> Secret {
    Secret::new(Zeroizing::new(text.to_owned())).unwrap()
}

fn entry(id: &str) -> Entry {
    Entry {
        at_unix_ms: 7,
        who: "uid:0".into(),
        what: "secret_set".into(),
        id: id.into(),
        version: "1.0.0".into(),
        detail: "key".into(),
    }
}

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    /// As a daemon opens them, with a configured key or without.
    fn open(&self, key: Option<&str>) -> Arc<Secrets> {
        let folder = self.folder.path();
        let vault = key.map(|key| {
            let path = folder.join(key);
            Arc::new(Vault::generate(&path).or_else(|_| Vault::open(&Place::File(path))).unwrap())
        });
        Arc::new(Secrets::open(Arc::new(Database::open(&folder.join("registry.sqlite3"))), folder, vault))
    }

    /// Whether any file has this in it.
    fn shows(&self, text: &str) -> bool {
        let files = std::fs::read_dir(self.folder.path()).unwrap();
        let has = |path: PathBuf| std::fs::read(path).unwrap().windows(text.len()).any(|part| part == text.as_bytes());
        files.into_iter().any(|file| has(file.unwrap().path()))
    }
}

fn text(secrets: &Secrets, of: &str, called: &str) -> Option<String> {
    secrets.get(&id(of), &name(called)).unwrap().map(|plain| String::from_utf8(plain.to_vec()).unwrap())
}

#[test]
fn what_was_set_is_there_for_its_plugin_alone_and_lies_nowhere_in_the_open() {
    let bench = Bench::new();
    let secrets = bench.open(None);
    assert!(secrets.sealed_with().unwrap().contains("with the first secret one is made"));
    secrets.set(&id("one"), &name("key"), &secret(VALUE), &entry("one")).unwrap();
    assert_eq!(text(&secrets, "one", "key").as_deref(), Some(VALUE));
    assert_eq!((text(&secrets, "other", "key"), text(&secrets, "one", "word")), (None, None));
    assert!(secrets.is_set(&id("one"), &name("key")) && !secrets.is_set(&id("other"), &name("key")));
    drop(secrets);
    assert!(!bench.shows(VALUE));
    let key = bench.folder.path().join(KEY_FILE);
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&key).unwrap().permissions());
    assert_eq!(mode & 0o7777, 0o600);

    let secrets = bench.open(None);
    assert_eq!(text(&secrets, "one", "key").as_deref(), Some(VALUE));
    secrets.set(&id("one"), &name("key"), &secret("another"), &entry("one")).unwrap();
    assert_eq!(text(&secrets, "one", "key").as_deref(), Some("another"));
    secrets.remove(&id("one"), &name("key"), &entry("one")).unwrap();
    assert_eq!((text(&secrets, "one", "key"), secrets.is_set(&id("one"), &name("key"))), (None, false));
}

/// A key that is configured later seals from then on; the one that was made goes on opening what was sealed with it.
#[test]
fn keys_come_and_go_and_what_cannot_be_opened_says_so() {
    let bench = Bench::new();
    bench.open(None).set(&id("one"), &name("old"), &secret("old value"), &entry("one")).unwrap();
    let secrets = bench.open(Some("configured"));
    assert!(secrets.sealed_with().unwrap().contains("those set before it was configured"));
    secrets.set(&id("one"), &name("new"), &secret("new value"), &entry("one")).unwrap();
    assert_eq!(text(&secrets, "one", "old").as_deref(), Some("old value"));
    assert_eq!(text(&secrets, "one", "new").as_deref(), Some("new value"));

    drop(secrets);
    let secrets = bench.open(None);
    let error = secrets.get(&id("one"), &name("new")).unwrap_err();
    assert!(matches!(&error, SecretError::Vault { source: VaultError::OtherKey { .. }, .. }), "{error}");

    let key = bench.folder.path().join(KEY_FILE);
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    drop(secrets);
    let secrets = bench.open(None);
    let told = secrets.sealed_with().unwrap_err();
    assert!(told.contains("chmod 600") && told.contains(KEY_FILE), "{told}");
    let failed = [
        secrets.get(&id("one"), &name("old")).unwrap_err(),
        secrets.set(&id("one"), &name("old"), &secret("x"), &entry("one")).unwrap_err(),
    ];
    for error in failed {
        assert_eq!((error.body().code, error.to_string()), (ErrorCode::ConfigurationInvalid, told.clone()));
    }
    drop(secrets);
    std::fs::remove_file(&key).unwrap();
    let error = bench.open(None).get(&id("one"), &name("old")).unwrap_err().to_string();
    assert!(error.contains("is gone"), "{error}");
}

/// What was sealed for one place opens in no other, though somebody may write to the database.
#[test]
fn what_is_moved_in_the_database_does_not_open() {
    let bench = Bench::new();
    let secrets = bench.open(None);
    secrets.set(&id("one"), &name("key"), &secret(VALUE), &entry("one")).unwrap();
    let sealed = secrets.database.sealed_secret(&id("one"), &name("key")).unwrap().unwrap();
    assert!(vault::is_sealed(&sealed));
    for (of, called) in [("one", "word"), ("other", "key")] {
        secrets.database.set_secret(&name(called), &sealed, &entry(of)).unwrap();
        let error = secrets.get(&id(of), &name(called)).unwrap_err();
        assert!(matches!(&error, SecretError::Vault { source: VaultError::Changed, .. }), "{error}");
    }
}

#[tokio::test]
async fn a_plugin_is_given_what_it_names_was_granted_and_is_set() {
    let bench = Bench::new();
    let secrets = bench.open(None);
    secrets.set(&id("it"), &name("key"), &secret(VALUE), &entry("it")).unwrap();
    secrets.set(&id("it"), &name("denied"), &secret(VALUE), &entry("it")).unwrap();
    secrets.set(&id("it"), &name("unnamed"), &secret(VALUE), &entry("it")).unwrap();
    let named = [
        (name("key"), Need::Required),
        (name("denied"), Need::Required),
        (name("unset"), Need::Required),
        (name("spare"), Need::Optional),
    ];
    let granted = ["key", "unset", "spare"].map(name);
    let view = SecretsView::new(secrets, id("it"), named.to_vec(), granted.to_vec());
    assert_eq!(view.missing(), [name("unset")]);
    let ask = async |params: &serde_json::Value| view.call(&rmp_serde::to_vec_named(params).unwrap()).await;
    let given = ask(&json!({"name": "key"})).await.unwrap();
    assert_eq!(rmp_serde::from_slice::<serde_json::Value>(&given).unwrap(), json!({"value": VALUE}));
    for (params, code, message, hint) in [
        (json!({"name": "unnamed"}), ErrorCode::PermissionDenied, "names no secret \"unnamed\"", "in `secrets`"),
        (json!({"name": "no\nname"}), ErrorCode::PermissionDenied, r#"names no secret "no\nname""#, "in `secrets`"),
        (json!({"name": "denied"}), ErrorCode::PermissionDenied, "was not granted", "palisade grant it secret:denied"),
        (json!({"name": "unset"}), ErrorCode::ResourceNotFound, "is not set", "palisade secret set it unset"),
        (json!({"nam": "key"}), ErrorCode::InvalidParams, "nam", ""),
        (json!(null), ErrorCode::InvalidParams, "name", ""),
    ] {
        let error = ask(&params).await.unwrap_err();
        assert_eq!(error.code, code, "{error}");
        assert!(error.message.contains(message), "{error}");
        assert!(error.hint.as_deref().unwrap_or_default().contains(hint), "{error}");
    }
}

#[test]
fn it_is_a_text_of_some_length_and_nothing_shows_it() {
    let read = |value: serde_json::Value| {
        let bytes = rmp_serde::to_vec(&value).unwrap();
        rmp_serde::from_slice::<Secret>(&bytes).map_err(|error| error.to_string())
    };
    assert_eq!(read(json!(VALUE)), Ok(secret(VALUE)));
    assert!(read(json!("é".repeat(BYTES_MAX / 2))).is_ok());
    for (value, why) in [
        (json!(""), "a secret is not empty"),
        (json!("x".repeat(BYTES_MAX + 1)), "a secret has at most 16384 bytes, and this has 16385"),
        (json!(123_454_321), "a secret is a text"),
        (json!(-123_454_321), "a secret is a text"),
        (json!(12345.5), "a secret is a text"),
        (json!(true), "a secret is a text"),
    ] {
        assert_eq!(read(value).unwrap_err(), why);
    }
    assert!(!read(json!(["12345"])).unwrap_err().contains("12345"));
    assert_eq!(format!("{:?}", secret(VALUE)), "Secret(…)");
}
