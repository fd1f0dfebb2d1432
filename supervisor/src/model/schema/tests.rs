use serde_json::json;

use super::*;

fn refused(schema: Value) -> String {
    match Schema::compile(&schema) {
        Err(SchemaError::Refused(why)) => why,
        other => panic!("{schema}: {other:?}"),
    }
}

#[test]
fn what_leads_out_of_a_schema_is_refused_by_name() {
    for to in ["https://example.com/schema.json", "http://127.0.0.1:1/x#/a", "file:///etc/passwd", "other.json"] {
        let expected = format!(
            "it refers to {to:?}, which lies outside of it; nothing is fetched, so write that into its `$defs`"
        );
        assert_eq!(refused(json!({ "properties": { "a": { "items": { "$ref": to } } } })), expected);
        assert_eq!(refused(json!({ "$dynamicRef": to })), expected);
    }
    // A property may be called as a keyword is whose value is data.
    let named = json!({ "properties": { "default": { "$ref": "https://example.com" } } });
    assert!(refused(named).contains("lies outside of it"));
    assert!(refused(json!({ "$schema": "https://example.com/dialect" })).contains("example.com"));
}

/// On an engine that backtracks each further letter doubles the time, and forty of them take hours.
#[test]
fn a_pattern_that_explodes_is_decided_at_once() {
    let schema = Schema::compile(&json!({ "type": "string", "pattern": "^(a+)+$" })).unwrap();
    assert!(schema.validator.is_valid(&json!("a".repeat(4000))));
    assert!(!schema.validator.is_valid(&json!("a".repeat(4000) + "!")));
    let keys = Schema::compile(&json!({ "patternProperties": { "^(a|a)*$": { "type": "number" } } })).unwrap();
    assert!(keys.validator.is_valid(&json!({ ("a".repeat(4000) + "!"): "text" })));
    assert!(!keys.validator.is_valid(&json!({ "a".repeat(4000): "text" })));
    assert_eq!(schema.values, 3 - 1 + PATTERN_VALUES);
}

#[test]
fn patterns_that_need_backtracking_or_too_much_room_are_refused() {
    for (pattern, reason) in [
        ("(?=a)b", "there is no look-around"),
        ("(?<!a)b", "there is no look-around"),
        ("(a)\\1", "there are no back-references"),
        ("(", "it is not well-formed, or repeats so much"),
        ("((((a{99}){99}){99}){99})", "it is not well-formed, or repeats so much"),
    ] {
        for schema in [
            json!({ "properties": { "p": { "pattern": pattern } } }),
            json!({ "patternProperties": { (pattern): {} } }),
        ] {
            let why = refused(schema);
            assert!(why.contains("attern") && why.contains(reason), "{pattern}: {why}");
        }
    }
    let many: serde_json::Map<String, Value> = (0..=PATTERNS_MAX).map(|n| (format!("^{n}$"), json!(true))).collect();
    assert_eq!(refused(json!({ "patternProperties": many })), "it has more than 64 patterns");
}

#[test]
fn what_is_no_schema_is_refused_with_its_place() {
    for (schema, part) in [
        (json!({ "type": "text" }), "/type: \"text\""),
        (json!({ "properties": { "a": { "minimum": "low" } } }), "/properties/a/minimum: \"low\""),
        (json!(7), "7"),
        (json!({ "properties": [] }), "/properties: []"),
    ] {
        let why = refused(schema);
        assert!(why.starts_with(part), "{why}");
    }
}

#[test]
fn a_schema_that_multiplies_itself_or_has_no_end_is_boundless() {
    let mut definitions = serde_json::Map::new();
    for n in 0..40 {
        let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
        definitions.insert(format!("d{n}"), json!({ "allOf": [next, next] }));
    }
    definitions.insert("d40".to_owned(), json!({ "type": "object" }));
    let bomb = json!({ "$ref": "#/$defs/d0", "$defs": definitions });
    for schema in [bomb, json!({ "$ref": "#" }), json!({ "properties": { "child": { "$ref": "#" } } })] {
        assert_eq!(Schema::compile(&schema).unwrap_err(), SchemaError::Boundless);
    }
}

/// Whoever followed it to its end would have no stack left.
#[test]
fn a_long_chain_of_references_is_boundless() {
    let chain = |length: usize| {
        let link = |n: usize| (n.to_string(), json!({ "$ref": format!("#/$defs/{}", n + 1) }));
        let mut definitions: serde_json::Map<String, Value> = (0..length).map(link).collect();
        definitions.insert(length.to_string(), json!(true));
        json!({ "$ref": "#/$defs/0", "$defs": definitions })
    };
    assert_eq!(Schema::compile(&chain(100_000)).unwrap_err(), SchemaError::Boundless);
    assert!(Schema::compile(&chain(REFERENCES_DEEP_MAX - 1)).is_ok());
}

#[test]
fn references_count_for_each_use() {
    assert_eq!(values(&json!({ "type": "object" })), Some(2));
    let twice = json!({
        "properties": { "a": { "$ref": "#/$defs/n" }, "b": { "$ref": "#/$defs/n" } },
        "$defs": { "n": { "type": "number" } },
    });
    assert_eq!(values(&twice), Some(1 + 1 + 2 * (1 + 2)));
}
