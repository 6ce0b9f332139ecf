use serde_json::json;

use super::{is_empty_object, lower, raise};

#[test]
fn references_are_inlined_and_cycles_end() {
    let given = json!({
        "type": "object",
        "properties": { "root": { "$ref": "#/$defs/Node" } },
        "required": ["root"],
        "$defs": { "Node": { "type": "object", "description": "A node", "properties": {
            "name": { "type": "string" }, "next": { "$ref": "#/$defs/Node", "description": "The next" } } } }
    });
    assert_eq!(
        lower(&given, "x").unwrap(),
        json!({ "type": "OBJECT", "properties": { "root": { "description": "A node", "type": "OBJECT", "properties": {
            "name": { "type": "STRING" }, "next": { "type": "OBJECT", "description": "The next" } } } }, "required": ["root"] })
    );
}

#[test]
fn optional_fields_stay_optional_and_descriptions_stay() {
    let given = json!({ "$schema": "x", "type": "object", "additionalProperties": false, "description": "All",
        "properties": { "a": { "type": "string", "description": "First" }, "b": { "type": ["integer", "null"] } }, "required": ["a", "ghost"] });
    assert_eq!(
        lower(&given, "x").unwrap(),
        json!({ "description": "All", "type": "OBJECT", "properties": {
            "a": { "description": "First", "type": "STRING" }, "b": { "type": "INTEGER", "nullable": true } }, "required": ["a"] })
    );
}

#[test]
fn constants_and_enums_become_strings() {
    assert_eq!(lower(&json!({ "const": 5 }), "x").unwrap(), json!({ "enum": ["5"], "type": "STRING" }));
    assert_eq!(
        lower(&json!({ "type": ["string", "null"], "enum": ["a", null] }), "x").unwrap(),
        json!({ "enum": ["a"], "type": "STRING", "nullable": true })
    );
}

#[test]
fn alternatives_lose_their_null_and_one_choice_is_the_schema_itself() {
    let one = json!({ "description": "D", "anyOf": [{ "type": "string", "minLength": 2 }, { "type": "null" }] });
    assert_eq!(
        lower(&one, "x").unwrap(),
        json!({ "description": "D", "type": "STRING", "minLength": 2, "nullable": true })
    );
    let two = json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] });
    assert_eq!(lower(&two, "x").unwrap(), json!({ "anyOf": [{ "type": "STRING" }, { "type": "NUMBER" }] }));
    assert_eq!(
        lower(&json!({ "type": ["string", "number"] }), "x").unwrap(),
        json!({ "anyOf": [{ "type": "STRING" }, { "type": "NUMBER" }] })
    );
}

#[test]
fn all_of_is_one_object() {
    let given = json!({ "allOf": [{ "$ref": "#/definitions/A" }, { "properties": { "b": { "type": "integer" } }, "required": ["b"] }],
        "definitions": { "A": { "type": "object", "properties": { "a": { "type": "string" } }, "required": ["a"] } } });
    assert_eq!(
        lower(&given, "x").unwrap(),
        json!({ "type": "OBJECT", "properties": { "a": { "type": "STRING" }, "b": { "type": "INTEGER" } }, "required": ["a", "b"] })
    );
}

#[test]
fn what_the_subset_cannot_say_is_told_in_words() {
    let given = json!({ "type": "string", "format": "email", "description": "Mail" });
    assert_eq!(lower(&given, "x").unwrap(), json!({ "description": "Mail (format: email)", "type": "STRING" }));
}

#[test]
fn a_reference_bomb_and_a_dangling_reference_are_refused() {
    let mut defs = serde_json::Map::new();
    for i in 0..40 {
        let next = format!("#/$defs/d{}", i + 1);
        defs.insert(format!("d{i}"), json!({ "properties": { "l": { "$ref": next }, "r": { "$ref": next } } }));
    }
    defs.insert("d40".into(), json!({ "type": "string" }));
    let bomb = json!({ "$ref": "#/$defs/d0", "$defs": defs });
    assert_eq!(lower(&bomb, "tools[0]").unwrap_err().param.as_deref(), Some("tools[0]"));
    let lost = lower(&json!({ "properties": { "a": { "$ref": "#/$defs/none" } } }), "x").unwrap_err();
    assert!(lost.message.contains("#/$defs/none"));
}

#[test]
fn the_subset_widens_to_plain_json_schema() {
    let own = json!({ "type": "OBJECT", "properties": {
        "type": { "type": "STRING", "nullable": true, "enum": ["a"], "format": "enum" }, "list": { "type": "ARRAY", "items": { "type": "NUMBER" }, "minItems": "1" } },
        "propertyOrdering": ["type"], "required": ["list"] });
    assert_eq!(
        raise(&own),
        json!({ "type": "object", "properties": {
            "type": { "type": ["string", "null"], "enum": ["a", null] }, "list": { "type": "array", "items": { "type": "number" }, "minItems": 1 } },
            "required": ["list"] })
    );
}

#[test]
fn an_object_without_fields_is_recognised() {
    assert!(is_empty_object(
        &json!({ "type": "object", "properties": {}, "additionalProperties": false, "required": [] })
    ));
    assert!(!is_empty_object(&json!({ "type": "object", "additionalProperties": { "type": "string" } })));
    assert!(!is_empty_object(&json!({ "type": "object", "properties": { "a": {} } })));
}
