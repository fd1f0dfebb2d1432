//! What plugins are answered, what is on the disk then, and what becomes of files that are not as they were left.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::*;
use crate::vault::Place;

struct Bench {
    folder: tempfile::TempDir,
    states: States,
}

fn id(name: &str) -> PluginId {
    PluginId::parse(name).unwrap()
}

fn vault(folder: &Path, byte: u8) -> Arc<Vault> {
    let path = folder.join(format!("key-{byte}"));
    if !path.exists() {
        Vault::generate(&path).unwrap();
    }
    Arc::new(Vault::open(&Place::File(path)).unwrap())
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let states = States::open(folder.path().join("state"), None, |_, _| false);
        Self { folder, states }
    }

    /// As a daemon that starts anew has them.
    async fn again(self, key: Option<u8>) -> Self {
        self.states.finish().await;
        let Self { folder, states } = self;
        drop(states);
        let states =
            States::open(folder.path().join("state"), key.map(|byte| vault(folder.path(), byte)), |_, _| false);
        Self { folder, states }
    }

    fn view(&self, plugin: &str) -> StateView {
        StateView::live(self.states.of(&id(plugin)), None)
    }

    fn file(&self, plugin: &str) -> PathBuf {
        self.folder.path().join("state").join(plugin).join(LIVE)
    }

    async fn call(&self, plugin: &str, operation: &str, params: Value) -> Result<Value, StateError> {
        call(&self.view(plugin), operation, params).await
    }

    async fn put(&self, plugin: &str, key: &str, value: Value) -> u64 {
        let put = self.call(plugin, "put", json!({"key": key, "value": value})).await.unwrap();
        put["revision"].as_u64().unwrap()
    }

    async fn get(&self, plugin: &str, key: &str) -> Value {
        let got = self.call(plugin, "get", json!({"key": key})).await.unwrap();
        got.get("value").cloned().unwrap_or_default()
    }
}

async fn call(view: &StateView, operation: &str, params: Value) -> Result<Value, StateError> {
    let operation = Operation::named(&format!("state.{operation}")).unwrap();
    let answer = view.call(operation, rmp_serde::to_vec_named(&params).unwrap()).await?;
    Ok(rmp_serde::from_slice(&answer).unwrap())
}

#[tokio::test]
async fn what_is_put_is_there_for_its_plugin_alone_until_it_is_deleted() {
    let bench = Bench::new();
    assert_eq!(bench.get("one", "a").await, Value::Null);
    assert!(!bench.file("one").exists(), "who has no state has no file");
    let value = json!({"deep": [1, -2, 3.5, true, null, "text"], "empty": {}});
    assert_eq!(bench.put("one", "a", value.clone()).await, 1);
    assert_eq!(bench.put("one", "b", Value::Null).await, 2);
    assert_eq!(bench.call("one", "get", json!({"key": "a"})).await.unwrap(), json!({"value": value, "revision": 1}));
    assert_eq!(bench.call("one", "get", json!({"key": "b"})).await.unwrap(), json!({"value": null, "revision": 2}));
    assert_eq!(bench.call("other", "get", json!({"key": "a"})).await.unwrap(), Value::Null);
    assert_eq!(bench.put("one", "a", json!("changed")).await, 3);
    for (key, revision) in [("a", json!(4)), ("a", Value::Null), ("never", Value::Null)] {
        let deleted = bench.call("one", "delete", json!({"key": key})).await.unwrap();
        assert_eq!(deleted, json!({"revision": revision}));
    }
    let bench = bench.again(None).await;
    assert_eq!(bench.get("one", "a").await, Value::Null);
    assert_eq!(bench.call("one", "get", json!({"key": "b"})).await.unwrap()["revision"], 2);
    assert_eq!(bench.put("one", "a", json!(1)).await, 5, "no revision is given twice");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&bench.file("one")), mode(bench.file("one").parent().unwrap())), (0o600, 0o700));
    assert_eq!(mode(&log_of(&bench.file("one"))), 0o600);
}

#[tokio::test]
async fn keys_are_listed_in_order_and_in_pieces() {
    let bench = Bench::new();
    for key in ["b/2", "a", "b/1", "b", "b/10", "c", "ä"] {
        bench.put("one", key, json!("x")).await;
    }
    let keys = |answer: &Value| -> Vec<String> {
        answer["keys"].as_array().unwrap().iter().map(|key| key["key"].as_str().unwrap().to_owned()).collect()
    };
    let all = bench.call("one", "list", Value::Null).await.unwrap();
    assert_eq!(keys(&all), ["a", "b", "b/1", "b/10", "b/2", "c", "ä"]);
    assert_eq!(all["keys"][0], json!({"key": "a", "revision": 2, "bytes": 2}));
    assert_eq!(all["more"], false);
    let some = bench.call("one", "list", json!({"prefix": "b/", "limit": 2})).await.unwrap();
    assert_eq!((keys(&some), &some["more"]), (vec!["b/1".to_owned(), "b/10".to_owned()], &json!(true)));
    let rest = bench.call("one", "list", json!({"prefix": "b/", "after": "b/10", "limit": 2})).await.unwrap();
    assert_eq!((keys(&rest), &rest["more"]), (vec!["b/2".to_owned()], &json!(false)));
}

#[tokio::test]
async fn a_transaction_is_made_whole_or_not_at_all() {
    let bench = Bench::new();
    let revision = bench.put("one", "a", json!(1)).await;
    let operations = json!([
        {"op": "check", "key": "a", "expected": revision}, {"op": "check", "key": "b", "expected": null},
        {"op": "put", "key": "b", "value": 2}, {"op": "delete", "key": "a"},
    ]);
    let done = bench.call("one", "transaction", json!({"operations": operations})).await.unwrap();
    assert_eq!(done, json!({"revision": 3}));
    let operations = json!([
        {"op": "put", "key": "c", "value": 3}, {"op": "delete", "key": "b"}, {"op": "check", "key": "b", "expected": 2},
    ]);
    let error = bench.call("one", "transaction", json!({"operations": operations})).await.unwrap_err();
    let StateError::Conflict { operation: 2, key, expected: Some(2), actual: None } = error.clone() else {
        panic!("{error}")
    };
    assert_eq!(key, "b");
    let body = error_body(&error);
    assert_eq!(body.details.unwrap(), json!({"operation": 2, "key": "b", "expected": 2, "actual": null}));
    assert_eq!((bench.get("one", "b").await, bench.get("one", "c").await), (json!(2), Value::Null));
    assert_eq!(bench.put("one", "d", json!(4)).await, 4, "what was taken back has used no number");
}

/// Many at once are written together, and each has its own answer: of all who expect the same, one is right.
#[tokio::test]
async fn of_those_who_expect_the_same_one_is_right() {
    let bench = Bench::new();
    let view = Arc::new(bench.view("one"));
    let one = |number: u32| {
        let view = view.clone();
        tokio::spawn(async move {
            let first = call(&view, "compare_and_set", json!({"key": "who", "expected": null, "value": number})).await;
            let own = call(&view, "put", json!({"key": format!("own-{number}"), "value": number})).await;
            (number, first, own)
        })
    };
    let all: Vec<_> = (0..200).map(one).collect();
    let (mut winners, mut revisions) = (Vec::new(), HashSet::new());
    for one in all {
        let (number, first, own) = one.await.unwrap();
        assert!(revisions.insert(own.unwrap()["revision"].as_u64().unwrap()));
        match first {
            Ok(_) => winners.push(number),
            Err(StateError::Conflict { expected: None, actual: Some(_), .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(winners.len(), 1);
    drop(view);
    let bench = bench.again(None).await;
    assert_eq!(bench.get("one", "who").await, json!(winners[0]));
    for number in 0..200 {
        assert_eq!(bench.get("one", &format!("own-{number}")).await, json!(number));
    }
}

/// What is taken back of one is not written with the others that are written together with it.
#[tokio::test]
async fn nothing_is_left_of_those_that_fail_among_others() {
    let bench = Bench::new();
    let view = Arc::new(bench.view("one"));
    let one = |number: u32| {
        let view = view.clone();
        let last = if number.is_multiple_of(2) {
            json!({"op": "delete", "key": "nothing"})
        } else {
            json!({"op": "check", "key": "nothing", "expected": 7})
        };
        let operations = json!([{"op": "put", "key": format!("{number}"), "value": number}, last]);
        tokio::spawn(async move { call(&view, "transaction", json!({ "operations": operations })).await })
    };
    let all: Vec<_> = (0..100).map(one).collect();
    for (number, one) in all.into_iter().enumerate() {
        assert_eq!(one.await.unwrap().is_ok(), number % 2 == 0, "{number}");
    }
    for number in 0..100 {
        let there = bench.get("one", &format!("{number}")).await;
        assert_eq!(there, if number % 2 == 0 { json!(number) } else { Value::Null });
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_named_and_does_nothing() {
    let bench = Bench::new();
    let long = "k".repeat(KEY_BYTES_MAX + 1);
    let much = "v".repeat(VALUE_BYTES_MAX);
    let many: Vec<_> = (0..=OPERATIONS_MAX).map(|_| json!({"op": "delete", "key": "a"})).collect();
    let rows = [
        ("get", Value::Null, "there is no `key`"),
        ("get", json!([1]), "not a map"),
        ("get", json!({"key": 1}), "`key` is not text"),
        ("get", json!({"key": ""}), "1 to 512 bytes"),
        ("get", json!({"key": long}), "1 to 512 bytes"),
        ("get", json!({"key": "a\nb"}), "control character"),
        ("get", json!({"key": "a", "keys": 1}), "no field \"keys\""),
        ("put", json!({"key": "a"}), "there is no `value`"),
        ("put", json!({"key": "a", "value": much}), "at most 524288 bytes"),
        ("compare_and_set", json!({"key": "a", "value": 1}), "there is no `expected`"),
        ("compare_and_set", json!({"key": "a", "value": 1, "expected": "x"}), "no revision"),
        ("list", json!({"limit": "all"}), "`limit` is not a number"),
        ("list", json!({"prefix": "\u{7}"}), "`prefix`"),
        ("transaction", json!({}), "there are no `operations`"),
        ("transaction", json!({"operations": {}}), "not a list"),
        ("transaction", json!({"operations": many}), "at most 128"),
        (
            "transaction",
            json!({"operations": [{"op": "put", "key": "a", "value": 1}, {"op": "burn", "key": "b"}]}),
            "operation 1: the `op` \"burn\"",
        ),
        ("migrated", json!({}), "there is no `schema`"),
        ("migrated", json!({"schema": -1}), "`schema` is not"),
    ];
    for (operation, params, sentence) in rows {
        let error = bench.call("one", operation, params.clone()).await.unwrap_err();
        assert!(matches!(error, StateError::Invalid(_)) && error.to_string().contains(sentence), "{error}");
        assert_eq!(error_body(&error).code, palisade_protocol::ErrorCode::InvalidParams);
    }
    let view = bench.view("one");
    let others: Vec<u8> = (0..15).flat_map(|one| [0xa1, b'a' + one, 0xc0]).collect();
    let many = [&[0xde, 0, 17][..], b"\xa3key\xa1a\xa5value\x07", &others].concat();
    let twice = [0x82, 0xa1, b'a', 0xc0, 0xa1, b'a', 0xc0];
    // Before any of them is compared with the others.
    let error = view.call(Operation::Put, many).await.unwrap_err();
    assert!(error.to_string().contains("not a map with few fields"), "{error}");
    for garbage in [&[0x81][..], &[0xc1], &[0xdf, 0xff, 0xff, 0xff, 0xff], &twice] {
        let error = view.call(Operation::Put, garbage.to_vec()).await.unwrap_err();
        assert!(matches!(error, StateError::Invalid(_)), "{error}");
    }
    assert!(!bench.file("one").exists());
    // A map may say its length at any length.
    for head in [&[0x82][..], &[0xde, 0, 2], &[0xdf, 0, 0, 0, 2]] {
        let put = [head, b"\xa3key\xa1a\xa5value\x07"].concat();
        bench.view("other").call(Operation::Put, put).await.unwrap();
    }
    assert_eq!(bench.get("other", "a").await, 7);
}

/// Bytes are kept as they are, which JSON cannot say.
#[tokio::test]
async fn a_value_is_any_messagepack() {
    let bench = Bench::new();
    let value = [0x93, 0xc4, 0x02, 0x00, 0xff, 0x81, 0x01, 0x02, 0xcf, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
    let params = [&[0x82, 0xa3][..], b"key", &[0xa1, b'a', 0xa5], b"value", &value].concat();
    let view = bench.view("one");
    view.call(Operation::Put, params).await.unwrap();
    let got = view.call(Operation::Get, [&[0x81, 0xa3][..], b"key", &[0xa1, b'a']].concat()).await.unwrap();
    assert_eq!(got, [&[0x82, 0xa5][..], b"value", &value, &[0xa8], b"revision", &[0x01]].concat());
}

#[tokio::test]
async fn who_has_as_much_as_it_may_have_is_told_and_can_make_room() {
    let bench = Bench::new();
    let value = json!("v".repeat(VALUE_BYTES_MAX - 8));
    let mut full = None;
    for number in 0..200 {
        let put = bench.call("one", "put", json!({"key": format!("{number:03}"), "value": value})).await;
        if let Err(error) = put {
            full = Some((number, error));
            break;
        }
    }
    let (number, error) = full.unwrap();
    let StateError::Quota { limit_bytes: BYTES_MAX, .. } = error else { panic!("{error}") };
    assert!((120..=127).contains(&number), "{number}");
    assert_eq!(error_body(&error).details.unwrap()["limit"], "state");
    // One that has no room takes nobody else's with it.
    let view = bench.view("one");
    let more =
        (0..3).map(|at| json!({"key": format!("more-{at}"), "value": if at == 1 { value.clone() } else { json!(1) }}));
    let more = futures(&view, more).await;
    assert_eq!(more.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true], "{more:?}");
    bench.call("one", "delete", json!({"key": "000"})).await.unwrap();
    bench.put("one", "again", value.clone()).await;
    assert_eq!(bench.get("one", "001").await, value);
    assert_eq!(bench.put("other", "a", json!(1)).await, 1);
}

/// Puts all of them at once.
async fn futures(view: &StateView, all: impl Iterator<Item = Value>) -> Vec<Result<Value, StateError>> {
    let (live, mut tasks) = (view.state().clone(), Vec::new());
    for params in all {
        let view = StateView::live(live.clone(), None);
        tasks.push(tokio::spawn(async move { call(&view, "put", params).await }));
    }
    let mut done = Vec::new();
    for task in tasks {
        done.push(task.await.unwrap());
    }
    done
}

#[tokio::test]
async fn a_damaged_file_is_told_and_left_and_harms_nobody_else() {
    let bench = Bench::new();
    bench.put("one", "a", json!("kept")).await;
    bench.put("other", "a", json!(1)).await;
    let copy = bench.folder.path().join("copy");
    bench.states.of(&id("one")).copy_to(&copy).unwrap();
    let bench = bench.again(None).await;
    let garbage = b"this is no database, whatever it was before".repeat(100);
    for beside in [log_of(&bench.file("one")), shared_of(&bench.file("one"))] {
        let _ = fs::remove_file(beside);
    }
    fs::write(bench.file("one"), &garbage).unwrap();
    for (operation, params) in
        [("get", json!({"key": "a"})), ("put", json!({"key": "a", "value": 1})), ("list", json!({}))]
    {
        let error = bench.call("one", operation, params).await.unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. }), "{error}");
        assert!(
            error.to_string().contains(&bench.file("one").display().to_string())
                && error.to_string().contains("move it away")
        );
        let body = error_body(&error);
        assert_eq!((body.code, body.retryable), (palisade_protocol::ErrorCode::DependencyUnavailable, false));
    }
    assert!(bench.states.of(&id("one")).trouble().unwrap().contains("damaged"));
    assert_eq!(fs::read(bench.file("one")).unwrap(), garbage);
    assert_eq!((bench.get("other", "a").await, bench.states.of(&id("other")).trouble()), (json!(1), None));
    // Somebody puts a copy in its place.
    fs::rename(copy, bench.file("one")).unwrap();
    assert_eq!((bench.get("one", "a").await, bench.states.of(&id("one")).trouble()), (json!("kept"), None));
}

#[tokio::test]
async fn a_file_of_another_plugins_or_program_is_not_taken() {
    let bench = Bench::new();
    bench.put("one", "a", json!(1)).await;
    fs::create_dir_all(bench.file("other").parent().unwrap()).unwrap();
    bench.states.of(&id("one")).copy_to(&bench.file("other")).unwrap();
    let bench = bench.again(None).await;
    let error = bench.call("other", "get", json!({"key": "a"})).await.unwrap_err();
    assert!(error.to_string().contains("it is the state of one, and not of other"), "{error}");
    fs::remove_file(bench.file("other")).unwrap();
    rusqlite::Connection::open(bench.file("other")).unwrap().execute_batch("CREATE TABLE theirs (a)").unwrap();
    let error = bench.call("other", "put", json!({"key": "a", "value": 1})).await.unwrap_err();
    assert!(error.to_string().contains("not a plugin's state"), "{error}");
}

fn lies_readable(bench: &Bench, text: &str) -> bool {
    let folder = bench.file("one").parent().unwrap().to_owned();
    let files = fs::read_dir(folder).unwrap().map(|entry| fs::read(entry.unwrap().path()).unwrap());
    files.into_iter().any(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}

#[tokio::test]
async fn with_a_key_values_are_sealed_and_open_with_that_key_alone() {
    let bench = Bench::new();
    bench.put("one", "before", json!("written-in-plain-text")).await;
    assert!(lies_readable(&bench, "written-in-plain-text"));
    let bench = bench.again(Some(1)).await;
    bench.put("one", "after", json!("written-with-a-key")).await;
    assert_eq!(bench.get("one", "before").await, json!("written-in-plain-text"));
    assert_eq!(bench.get("one", "after").await, json!("written-with-a-key"));
    let listed = bench.call("one", "list", json!({})).await.unwrap();
    assert_eq!(listed["keys"][0]["bytes"], 19, "as it was encoded, not as it was sealed");
    assert!(!lies_readable(&bench, "written-with-a-key") && !lies_readable(&bench, "written-in-plain-text"));
    let bench = bench.again(None).await;
    let error = bench.call("one", "get", json!({"key": "after"})).await.unwrap_err();
    assert!(error.to_string().contains("no key is configured"), "{error}");
    let bench = bench.again(Some(2)).await;
    let error = bench.call("one", "get", json!({"key": "after"})).await.unwrap_err();
    assert!(error.to_string().contains("it was sealed with the key "), "{error}");
    let bench = bench.again(Some(1)).await;
    assert_eq!(bench.get("one", "after").await, json!("written-with-a-key"));
}

/// The copies that are kept beside it as well, and they can still be had back.
#[tokio::test]
async fn copies_that_were_kept_before_there_was_a_key_are_sealed_too() {
    let bench = Bench::new();
    bench.put("one", "a", json!("written-in-plain-text")).await;
    let state = bench.states.of(&id("one"));
    let kept = state.keep(None, 5).unwrap().unwrap();
    let another = state.copy_of_kept(&kept).unwrap();
    let aside = state.replace_with(&another, 6).unwrap().unwrap();
    bench.call("one", "delete", json!({"key": "a"})).await.unwrap();
    drop(state);
    let bench = bench.again(Some(1)).await;
    assert!(lies_readable(&bench, "written-in-plain-text"));
    assert_eq!(bench.get("one", "a").await, Value::Null);
    bench.states.finish().await;
    assert!(!lies_readable(&bench, "written-in-plain-text"));
    let names: Vec<_> = fs::read_dir(bench.file("one").parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with(LIVE))
        .collect();
    assert_eq!(names.len(), 2, "nothing else is left: {names:?}");
    let state = bench.states.of(&id("one"));
    for copy in [state.copy_of_kept(&kept).unwrap(), aside] {
        state.replace_with(&copy, 7).unwrap().unwrap();
        assert_eq!(bench.get("one", "a").await, json!("written-in-plain-text"));
        bench.call("one", "delete", json!({"key": "a"})).await.unwrap();
        state.drop_aside(&state.folder.join("aside-7.sqlite3")).unwrap();
    }
}

#[tokio::test]
async fn of_what_is_put_aside_the_youngest_stay() {
    let bench = Bench::new();
    bench.put("one", "a", json!(1)).await;
    let state = bench.states.of(&id("one"));
    let kept = state.keep(None, 1).unwrap().unwrap();
    for moment in 8..15 {
        state.replace_with(&state.copy_of_kept(&kept).unwrap(), moment).unwrap().unwrap();
    }
    let mut asides: Vec<_> = fs::read_dir(&state.folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.starts_with(ASIDE))
        .collect();
    asides.sort();
    assert_eq!(
        asides,
        ["aside-10", "aside-11", "aside-12", "aside-13", "aside-14"].map(|name| format!("{name}.sqlite3"))
    );
}

#[tokio::test]
async fn what_a_candidate_writes_is_thrown_away_and_what_it_reads_was_there() {
    let bench = Bench::new();
    bench.put("one", "a", json!(1)).await;
    let state = bench.states.of(&id("one"));
    let candidate = state.scratch().unwrap();
    assert!(candidate.is_scratch());
    call(&candidate, "put", json!({"key": "a", "value": "tried"})).await.unwrap();
    assert_eq!(call(&candidate, "get", json!({"key": "a"})).await.unwrap()["value"], "tried");
    assert_eq!(bench.get("one", "a").await, json!(1));
    bench.put("one", "a", json!(2)).await;
    candidate.go_live();
    assert!(!candidate.is_scratch());
    assert_eq!(call(&candidate, "get", json!({"key": "a"})).await.unwrap()["value"], 2);
    call(&candidate, "put", json!({"key": "a", "value": 3})).await.unwrap();
    assert_eq!(bench.get("one", "a").await, json!(3));
    // Of one that was left by a daemon that died nothing is left by the next.
    let other = state.scratch().unwrap();
    call(&other, "put", json!({"key": "a", "value": "lost"})).await.unwrap();
    std::mem::forget(other);
    let bench = bench.again(None).await;
    let names: Vec<_> =
        fs::read_dir(bench.file("one").parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(names.iter().all(|name| name.to_str().unwrap().starts_with(LIVE)), "{names:?}");
}

#[tokio::test]
async fn a_copy_takes_the_place_of_what_there_was_which_is_kept_aside() {
    let bench = Bench::new();
    let state = bench.states.of(&id("one"));
    let (copy, empty) = (bench.folder.path().join("copy"), bench.folder.path().join("empty"));
    bench.states.of(&id("one")).copy_to(&empty).unwrap();
    bench.put("one", "a", json!("then")).await;
    let view = bench.view("one");
    view.set_about("1.0.0".to_owned(), "digest".to_owned(), Some(1)).await.unwrap();
    state.copy_to(&copy).unwrap();
    assert!(state.copy_to(&copy).is_err(), "no copy replaces another");
    bench.put("one", "a", json!("now")).await;
    view.set_about("2.0.0".to_owned(), "other".to_owned(), Some(2)).await.unwrap();
    let aside = state.replace_with(&copy, 7).unwrap().unwrap();
    assert_eq!(bench.get("one", "a").await, json!("then"));
    let about = view.about().await.unwrap().unwrap();
    assert_eq!(
        (about.version.as_deref(), about.digest.as_deref(), about.schema),
        (Some("1.0.0"), Some("digest"), Some(1))
    );
    assert!(!copy.exists());
    // Somebody wants that back.
    state.replace_with(&aside, 8).unwrap().unwrap();
    let bench = bench.again(None).await;
    assert_eq!(bench.get("one", "a").await, json!("now"));
    // What cannot be used takes nobody's place.
    let garbage = bench.folder.path().join("garbage");
    fs::write(&garbage, "garbage".repeat(1000)).unwrap();
    let state = bench.states.of(&id("one"));
    assert!(matches!(state.replace_with(&garbage, 9), Err(StateError::Damaged { .. })));
    assert_eq!(bench.get("one", "a").await, json!("now"));
    state.replace_with(&empty, 10).unwrap().unwrap();
    assert_eq!(bench.get("one", "a").await, Value::Null);
    state.remove().unwrap();
    assert!(!bench.file("one").parent().unwrap().exists() && !state.exists());
    state.remove().unwrap();
    assert_eq!(bench.put("one", "a", json!(1)).await, 1);
}

#[tokio::test]
async fn who_writes_first_says_the_form_and_who_migrates_another() {
    let bench = Bench::new();
    let first = StateView::live(bench.states.of(&id("one")), Some(3));
    assert_eq!(first.about().await.unwrap(), None);
    call(&first, "put", json!({"key": "a", "value": 1})).await.unwrap();
    assert_eq!(first.about().await.unwrap().unwrap().schema, Some(3));
    let later = StateView::live(bench.states.of(&id("one")), Some(4));
    call(&later, "put", json!({"key": "a", "value": 2})).await.unwrap();
    assert_eq!(later.about().await.unwrap().unwrap().schema, Some(3), "only who says so has migrated it");
    let operations = json!([{"op": "put", "key": "a", "value": 3}, {"op": "check", "key": "b", "expected": 7}]);
    call(&later, "transaction", json!({"operations": operations, "schema": 4})).await.unwrap_err();
    assert_eq!(later.about().await.unwrap().unwrap().schema, Some(3));
    call(&later, "transaction", json!({"operations": [{"op": "put", "key": "a", "value": 3}], "schema": 4}))
        .await
        .unwrap();
    assert_eq!(later.about().await.unwrap().unwrap().schema, Some(4));
    let earlier = StateView::live(bench.states.of(&id("one")), None);
    for (view, schema, sentence) in
        [(&later, 5, "`schema` is 5"), (&later, 0, "at least 1"), (&earlier, 1, "has no form")]
    {
        let error = call(view, "migrated", json!({"schema": schema})).await.unwrap_err();
        assert!(error.to_string().contains(sentence), "{error}");
    }
    call(&later, "migrated", json!({"schema": 3})).await.unwrap();
    assert_eq!(later.about().await.unwrap().unwrap().schema, Some(3));
    // Whatever was there, what is empty again has no form.
    later.state().request(Request::Write { steps: vec![Step::Clear], schema: None, form: None }).await.unwrap();
    assert_eq!(later.stored_schema().await.unwrap(), None);
    call(&earlier, "put", json!({"key": "a", "value": 1})).await.unwrap();
    assert_eq!(later.stored_schema().await.unwrap(), Some(0), "whoever wrote it did not say");
}

/// Whoever is killed while a copy is held is followed by a daemon that puts it back, or gives it the name by which it is to be kept.
#[tokio::test]
async fn what_is_held_is_put_back_by_the_next_daemon_or_kept_by_the_name_that_is_known() {
    for (known, begins) in [(None, None), (Some(BACKUP), Some(BACKUP)), (Some(ASIDE), Some(ASIDE))] {
        let bench = Bench::new();
        bench.put("one", "a", json!("before")).await;
        let held = bench.states.of(&id("one")).hold_copy(7).unwrap();
        assert_eq!((kept_name_of(&held), aside_name_of(&held)), ("backup-7.sqlite3".into(), "aside-7.sqlite3".into()));
        bench.put("one", "a", json!("after")).await;
        bench.states.finish().await;
        let Bench { folder, states } = bench;
        drop(states);
        let is_kept = |_: &PluginId, name: &str| known.is_some_and(|known| name.starts_with(known));
        let bench = Bench { states: States::open(folder.path().join("state"), None, is_kept), folder };
        let expected = if begins.is_some() { "after" } else { "before" };
        assert_eq!(bench.get("one", "a").await, expected, "{known:?}");
        let mut names: Vec<_> = fs::read_dir(bench.file("one").parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(LIVE))
            .collect();
        names.sort();
        assert_eq!(names, begins.map(|begins| format!("{begins}7.sqlite3")).into_iter().collect::<Vec<_>>());
    }
}
