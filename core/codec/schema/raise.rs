//! The subset widened to plain JSON Schema, for every other format.

use serde_json::{Map, Value, json};

use super::MAX_DEPTH;

/// The subset as plain JSON Schema: lower-case types, `nullable` as a type beside null.
pub fn raise(schema: &Value) -> Value {
    raise_at(schema, 0)
}

fn raise_at(schema: &Value, depth: usize) -> Value {
    let Value::Object(map) = schema else { return schema.clone() };
    if depth > MAX_DEPTH {
        return json!({});
    }
    let mut out = Map::new();
    for (key, value) in map {
        let key = camel(key);
        let value = match (key, value) {
            ("type", Value::String(kind)) if kind == "TYPE_UNSPECIFIED" => continue,
            ("type", Value::String(kind)) => Value::String(kind.to_ascii_lowercase()),
            ("properties" | "$defs" | "defs", Value::Object(all)) => {
                Value::Object(all.iter().map(|(name, s)| (name.clone(), raise_at(s, depth + 1))).collect())
            }
            ("items" | "additionalProperties", s) => raise_at(s, depth + 1),
            ("anyOf" | "oneOf" | "allOf" | "prefixItems", Value::Array(all)) => {
                Value::Array(all.iter().map(|s| raise_at(s, depth + 1)).collect())
            }
            // int64 limits are written as strings on this wire.
            (
                "minItems" | "maxItems" | "minLength" | "maxLength" | "minProperties" | "maxProperties",
                Value::String(n),
            ) => serde_json::from_str::<serde_json::Number>(n).map_or_else(|_| value.clone(), Value::Number),
            ("format", Value::String(f)) if f == "enum" => continue,
            ("propertyOrdering" | "nullable", _) => continue,
            ("example", v) => {
                out.insert("examples".to_owned(), json!([v]));
                continue;
            }
            (_, v) => v.clone(),
        };
        out.insert(
            if key == "defs" {
                "$defs"
            } else if key == "ref" {
                "$ref"
            } else {
                key
            }
            .to_owned(),
            value,
        );
    }
    if map.get("nullable") == Some(&Value::Bool(true)) {
        allow_null(&mut out);
    }
    Value::Object(out)
}

fn allow_null(out: &mut Map<String, Value>) {
    match out.get_mut("type") {
        Some(kind @ Value::String(_)) => {
            let named = kind.take();
            *kind = json!([named, "null"]);
        }
        Some(_) => {}
        None => {
            if let Some(Value::Array(choices)) = out.get_mut("anyOf") {
                choices.push(json!({ "type": "null" }));
            }
        }
    }
    if let Some(Value::Array(words)) = out.get_mut("enum") {
        words.push(Value::Null);
    }
}

/// Two-word keys come in either spelling.
fn camel(key: &str) -> &str {
    match key {
        "any_of" => "anyOf",
        "min_items" => "minItems",
        "max_items" => "maxItems",
        "min_length" => "minLength",
        "max_length" => "maxLength",
        "min_properties" => "minProperties",
        "max_properties" => "maxProperties",
        "property_ordering" => "propertyOrdering",
        "additional_properties" => "additionalProperties",
        "prefix_items" => "prefixItems",
        other => other,
    }
}
