//! What a schema from a plugin may cost.

use serde_json::json;

use super::*;
use crate::model::schema::CHECK_STEPS_MAX;

fn action(parameters: Value) -> Action {
    let info = ActionInfo { name: "act".to_owned(), parameters: Some(parameters), ..ActionInfo::default() };
    Action::new(&info, None)
}

fn bytes(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec(value).unwrap()
}

#[test]
fn a_schema_that_multiplies_itself_is_not_checked() {
    let mut definitions = serde_json::Map::new();
    for n in 0..64 {
        let next = json!({ "$ref": format!("#/$defs/d{}", n + 1) });
        definitions.insert(format!("d{n}"), json!({ "allOf": [next, next] }));
    }
    definitions.insert("d64".to_owned(), json!({ "type": "object" }));
    let bomb = json!({ "$ref": "#/$defs/d0", "$defs": definitions });
    // With the bound broken this goes on until long after everybody has lost patience.
    assert_eq!(action(bomb).check(&bytes(&json!(1))), Ok(()));
    assert_eq!(action(json!({ "$ref": "#" })).check(&bytes(&json!(1))), Ok(()));
}

#[test]
fn schemas_with_references_are_checked() {
    let twice = json!({
        "properties": { "a": { "$ref": "#/$defs/n" }, "b": { "$ref": "#/$defs/n" } },
        "$defs": { "n": { "type": "number" } },
    });
    let action = action(twice);
    assert_eq!(action.check(&bytes(&json!({ "a": 1, "b": 2 }))), Ok(()));
    let error = action.check(&bytes(&json!({ "a": 1, "b": "two" }))).unwrap_err();
    assert_eq!(error.code, ErrorCode::InvalidParams);
    assert!(error.message.starts_with("/b: "), "{}", error.message);
}

#[test]
fn parameters_too_long_for_their_schema_are_left_to_the_plugin() {
    let action = action(json!({ "type": "array", "items": { "type": "number" } }));
    assert!(action.check(&bytes(&json!(["no number"]))).is_err());
    let many = json!(vec!["no number"; 120_000]);
    assert!(bytes(&many).len() as u64 * 4 > CHECK_STEPS_MAX);
    assert_eq!(action.check(&bytes(&many)), Ok(()));
}
