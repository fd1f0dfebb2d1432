use serde_json::{Value, json};

use super::*;

struct Plugin {
    requests: Vec<PermissionRequest>,
    asked: Asked,
    policy: Policy,
    said: Vec<Said>,
    configured: Option<Grants>,
    signer: Option<KeyName>,
}

fn item(text: &str) -> Item {
    Item::parse(text).unwrap()
}

fn key(name: &str) -> KeyName {
    KeyName::parse(name).unwrap()
}

fn said(text: &str, word: Word) -> Said {
    Said {
        item: item(text),
        word,
        key: None,
        place: "/srv/plugins".into(),
        at_unix_ms: 7,
        who: "uid:0".into(),
        version: "1.0.0".into(),
        digest: "00".into(),
    }
}

fn rule(answer: Answer, about: &[&str]) -> Rule {
    Rule { about: about.iter().map(|text| item(text)).collect(), source: None, key: None, answer }
}

impl Plugin {
    /// One that asks for these.
    fn asking(items: &[&str]) -> Self {
        let items: Vec<_> = items.iter().map(|text| item(text)).collect();
        let requests = items.iter().map(|item| PermissionRequest {
            permission: item.permission(),
            scope: item.scope().map(|scope| vec![scope]),
            reason: Some(format!("for {item}")),
        });
        let values: Vec<Value> = items.iter().map(Item::value).collect();
        Self {
            requests: requests.collect(),
            asked: Asked::parse(&values).unwrap(),
            policy: Policy::default(),
            said: Vec::new(),
            configured: None,
            signer: None,
        }
    }

    fn verdict(&self) -> Verdict {
        Case {
            id: &PluginId::parse("echo").unwrap(),
            requests: &self.requests,
            asked: &self.asked,
            origin: Origin { source: Path::new("/srv/plugins/echo"), signer: self.signer.as_ref() },
            configured: self.configured.as_ref(),
            policy: &self.policy,
            said: &self.said,
        }
        .decide()
    }

    /// Each thing with what became of it and by whom.
    fn decided(&self) -> Vec<String> {
        let verdict = self.verdict();
        let granted = verdict.items.iter().filter(|one| one.decision == Decision::Granted);
        let granted: Vec<_> = granted.map(|one| one.item.to_string()).collect();
        assert_eq!(verdict.grants.names(), sorted(granted), "what is granted is what is shown");
        let text = |one: &Decided| {
            let decision = serde_json::to_value(one.decision).unwrap();
            format!("{} {} {}", one.item, decision.as_str().unwrap(), one.by.as_deref().unwrap_or("-"))
        };
        verdict.items.iter().map(text).collect()
    }
}

/// In the order of the grants: by permission, and as they came.
fn sorted(mut names: Vec<String>) -> Vec<String> {
    names.sort_by_key(|name| name.split(':').next().map(str::to_owned));
    names
}

#[test]
fn what_nobody_has_decided_is_asked() {
    let mut plugin = Plugin::asking(&["execute_code", "file_read:/srv/data", "file_write"]);
    assert_eq!(plugin.decided(), ["execute_code asked -", "file_read:/srv/data asked -", "file_write asked -"]);
    assert_eq!(plugin.verdict().items[1].reason.as_deref(), Some("for file_read:/srv/data"));
    plugin.policy.answer = Answer::Deny;
    let by = "denied permissions.policy";
    assert_eq!(
        plugin.decided(),
        [format!("execute_code {by}"), format!("file_read:/srv/data {by}"), format!("file_write {by}")]
    );
    plugin.policy.answer = Answer::Allow;
    let by = "granted permissions.policy";
    assert_eq!(
        plugin.decided(),
        [format!("execute_code {by}"), format!("file_read:/srv/data {by}"), "file_write asked -".to_owned()],
        "nobody has said for what"
    );
    assert!(Plugin::asking(&[]).decided().is_empty());
}

#[test]
fn an_update_is_asked_about_for_what_grew() {
    let said = vec![
        said("file_read:/srv/data", Word::Granted),
        said("network_access:*.example.com", Word::Granted),
        said("execute_code", Word::Denied),
        said("file_write:/srv/out", Word::Denied),
    ];
    let mut plugin = Plugin::asking(&[
        "execute_code",
        "file_read:/srv/data",
        "file_read:/srv/data/deeper",
        "file_read:/srv",
        "file_write:/srv/out/deeper",
        "network_access:api.example.com:443",
        "network_access:api.example.com:8443",
        "system_access:meminfo",
    ]);
    plugin.said = said;
    assert_eq!(
        plugin.decided(),
        [
            "execute_code denied uid:0",
            "file_read:/srv/data granted uid:0",
            "file_read:/srv/data/deeper granted uid:0",
            "file_read:/srv asked -",
            "file_write:/srv/out/deeper denied uid:0",
            "network_access:api.example.com:443 granted uid:0",
            "network_access:api.example.com:8443 asked -",
            "system_access:meminfo asked -",
        ]
    );
}

#[test]
fn less_than_was_asked_for_is_an_answer_to_just_that() {
    let mut plugin = Plugin::asking(&["file_read", "file_write:/srv"]);
    plugin.said = vec![
        said("file_read", Word::Narrowed),
        said("file_read:/srv/data", Word::Granted),
        said("file_read:/srv/logs", Word::Granted),
        said("file_write:/srv", Word::Narrowed),
        said("file_write:/srv/out", Word::Granted),
        said("file_write:/opt/out", Word::Granted),
    ];
    let granted =
        ["file_read:/srv/data granted uid:0", "file_read:/srv/logs granted uid:0", "file_write:/srv/out granted uid:0"];
    assert_eq!(plugin.decided(), granted);
    // The policy of today goes before what was said once.
    plugin.policy.rules = vec![rule(Answer::Deny, &["file_read:/srv/logs"])];
    assert_eq!(plugin.decided()[1], "file_read:/srv/logs denied permissions.rules[0]");
    plugin.policy = Policy::default();
    plugin.requests = Plugin::asking(&["file_write:/srv", "file_write:/srv/in"]).requests;
    plugin.asked = Plugin::asking(&["file_write:/srv", "file_write:/srv/in"]).asked;
    assert_eq!(plugin.decided(), ["file_write:/srv/out granted uid:0", "file_write:/srv/in asked -"]);
    // All that was granted of it was taken back.
    plugin.said = vec![said("file_write:/srv", Word::Narrowed), said("file_write:/srv/in", Word::Denied)];
    assert_eq!(plugin.decided(), ["file_write:/srv denied uid:0", "file_write:/srv/in denied uid:0"]);
}

#[test]
fn what_was_granted_to_one_who_signed_is_granted_to_no_other() {
    let mut plugin = Plugin::asking(&["execute_code", "file_read:/srv"]);
    plugin.said = vec![
        Said { key: Some(key("acme")), ..said("execute_code", Word::Granted) },
        Said { key: Some(key("acme")), ..said("file_read:/srv", Word::Denied) },
    ];
    let decided = |plugin: &Plugin| plugin.decided().remove(0);
    assert_eq!(decided(&plugin), "execute_code asked -");
    assert_eq!(plugin.decided()[1], "file_read:/srv denied uid:0");
    plugin.signer = Some(key("other"));
    assert_eq!(decided(&plugin), "execute_code asked -");
    plugin.signer = Some(key("acme"));
    assert_eq!(decided(&plugin), "execute_code granted uid:0");
    plugin.said[0].key = None;
    plugin.signer = None;
    assert_eq!(decided(&plugin), "execute_code granted uid:0");
    plugin.said[0].place = "/srv/elsewhere".into();
    assert_eq!(decided(&plugin), "execute_code asked -", "another package of that id");
    plugin.said[1].place = "/srv/elsewhere".into();
    assert_eq!(plugin.decided()[1], "file_read:/srv denied uid:0");
}

#[test]
fn the_first_rule_that_fits_decides() {
    let mut plugin =
        Plugin::asking(&["execute_code", "file_read:/srv", "file_read:/opt/a", "network_access:a.example"]);
    plugin.policy.rules = vec![
        rule(Answer::Deny, &["file_read:/srv/secret"]),
        Rule { source: Some("/srv/plugins".into()), ..rule(Answer::Allow, &["file_read"]) },
        Rule { source: Some("/usr/lib".into()), ..rule(Answer::Allow, &[]) },
        Rule { key: Some(key("acme")), ..rule(Answer::Allow, &["execute_code"]) },
        rule(Answer::Ask, &["network_access:a.example:443"]),
        rule(Answer::Allow, &["network_access"]),
    ];
    let expected = [
        "execute_code asked -",
        "file_read:/srv denied permissions.rules[0]",
        "file_read:/opt/a granted permissions.rules[1]",
        "network_access:a.example asked -",
    ];
    assert_eq!(plugin.decided(), expected);
    plugin.signer = Some(key("acme"));
    assert_eq!(plugin.decided()[0], "execute_code granted permissions.rules[3], for the key acme");
    // What an operator said goes before a rule that allows, and after one that denies.
    plugin.said = vec![said("file_read:/opt/a", Word::Denied), said("file_read:/srv", Word::Granted)];
    assert_eq!(plugin.decided()[1..3], ["file_read:/srv denied permissions.rules[0]", "file_read:/opt/a denied uid:0"]);
}

#[test]
fn a_rule_says_for_what_where_the_plugin_does_not() {
    let mut plugin = Plugin::asking(&["file_read"]);
    plugin.policy.rules = vec![
        rule(Answer::Deny, &["file_read:/srv/secret"]),
        rule(Answer::Allow, &["file_read:/srv/data", "file_read:/srv/secret/x", "file_write:/srv"]),
    ];
    assert_eq!(plugin.decided(), ["file_read:/srv/data granted permissions.rules[1]"]);
    plugin.policy.rules = vec![rule(Answer::Allow, &["file_read"])];
    assert_eq!(plugin.decided(), ["file_read asked -"], "everything is not to be had by accident");
    plugin.policy.rules = vec![rule(Answer::Deny, &["file_read"])];
    assert_eq!(plugin.decided(), ["file_read denied permissions.rules[0]"]);
}

#[test]
fn the_table_of_the_plugin_has_the_last_word() {
    let mut plugin = Plugin::asking(&["execute_code", "file_read:/srv", "system_access:meminfo"]);
    plugin.policy = Policy { answer: Answer::Deny, ..Policy::default() };
    plugin.said = vec![said("system_access:meminfo", Word::Granted)];
    plugin.configured = Some(Grants::parse(&[json!({"file_read": ["/srv/data"]}), json!("execute_code")]).unwrap());
    let by = "plugins.echo.grant";
    assert_eq!(
        plugin.decided(),
        [
            format!("execute_code granted {by}"),
            format!("file_read:/srv/data granted {by}"),
            format!("system_access:meminfo denied {by}"),
        ]
    );
    assert_eq!(plugin.verdict().items[1].reason.as_deref(), Some("for file_read:/srv"));
    plugin.configured = Some(Grants::default());
    assert_eq!(plugin.verdict().asked().count(), 0);
    assert_eq!(plugin.verdict().grants, Grants::default());
}
