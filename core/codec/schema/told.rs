//! What is said of an answer's schema, inside of it.

use serde_json::Value;

/// An answer's schema with what its caller says of it, for wires that have no field beside it.
pub fn told(schema: &Value, description: Option<&str>) -> Value {
    let mut out = schema.clone();
    if let (Some(text), Value::Object(map)) = (description, &mut out) {
        map.entry("description").or_insert_with(|| text.into());
    }
    out
}
