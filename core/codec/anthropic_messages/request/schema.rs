//! JSON Schema as this vendor's structured output takes it. Keywords it refuses are not lost: they go into the
//! description, where the model reads them; objects are closed, as it requires.

use serde_json::{Map, Value, json};

pub fn lower(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => Value::Object(lower_map(map)),
        other => other.clone(),
    }
}

fn lower_map(map: &Map<String, Value>) -> Map<String, Value> {
    let mut out = Map::new();
    let mut told = Vec::new();
    for (key, value) in map {
        match key.as_str() {
            "properties" | "$defs" | "definitions" => {
                out.insert(key.clone(), each_value(value));
            }
            "items" => {
                out.insert(key.clone(), lower(value));
            }
            "anyOf" | "allOf" => {
                out.insert(key.clone(), each_item(value));
            }
            // Exactly one and at least one are the same to a generator.
            "oneOf" if !map.contains_key("anyOf") => {
                out.insert("anyOf".to_owned(), each_item(value));
            }
            "format" if value.as_str().is_some_and(|format| FORMATS.contains(&format)) => {
                out.insert(key.clone(), value.clone());
            }
            "minItems" if matches!(value.as_u64(), Some(0 | 1)) => {
                out.insert(key.clone(), value.clone());
            }
            // The word of OpenAPI; told below.
            "nullable" if value.is_boolean() => {}
            "additionalProperties" if value.is_boolean() => {}
            "$schema" | "$id" => {}
            key if KEPT.contains(&key) => {
                out.insert(key.to_owned(), value.clone());
            }
            key => told.push(format!("{key}: {value}")),
        }
    }
    if map.get("nullable") == Some(&Value::Bool(true)) {
        may_be_null(&mut out);
    }
    if is_object(map) {
        out.insert("additionalProperties".to_owned(), false.into());
    }
    if !told.is_empty() {
        let told = format!("({})", told.join(", "));
        let description = match out.get("description").and_then(Value::as_str) {
            Some(text) if !text.is_empty() => format!("{text} {told}"),
            _ => told,
        };
        out.insert("description".to_owned(), description.into());
    }
    out
}

/// Null beside the type that there is, and among the values.
fn may_be_null(out: &mut Map<String, Value>) {
    if let Some(kind @ Value::String(_)) = out.get_mut("type").filter(|kind| *kind != "null") {
        *kind = json!([kind.take(), "null"]);
    }
    if let Some(Value::Array(values)) =
        out.get_mut("enum").filter(|values| !values.as_array().is_some_and(|v| v.contains(&Value::Null)))
    {
        values.push(Value::Null);
    }
}

fn is_object(map: &Map<String, Value>) -> bool {
    match map.get("type") {
        Some(Value::String(kind)) => kind == "object",
        Some(Value::Array(kinds)) => kinds.iter().any(|k| k == "object"),
        _ => map.contains_key("properties"),
    }
}

fn each_value(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(map.iter().map(|(name, schema)| (name.clone(), lower(schema))).collect()),
        other => other.clone(),
    }
}

fn each_item(value: &Value) -> Value {
    match value {
        Value::Array(items) => items.iter().map(lower).collect(),
        other => other.clone(),
    }
}

const KEPT: [&str; 8] = ["type", "enum", "const", "required", "description", "title", "default", "$ref"];
const FORMATS: [&str; 10] =
    ["date-time", "time", "date", "duration", "email", "hostname", "uri", "ipv4", "ipv6", "uuid"];
