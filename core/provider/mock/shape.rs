//! A JSON value that fits a JSON Schema: tool arguments and structured answers of the mock. Bounded, whatever the schema.

use serde_json::{Map, Value, json};

/// `hint` is what strings say.
pub(super) fn fill(schema: &Value, hint: &str) -> Value {
    let mut left = MOST_VALUES;
    Filler { root: schema, hint }.value(schema, 0, &mut left)
}

struct Filler<'a> {
    root: &'a Value,
    hint: &'a str,
}

impl Filler<'_> {
    fn value(&self, schema: &Value, depth: usize, left: &mut usize) -> Value {
        if depth > MOST_DEPTH || *left == 0 {
            return Value::Null;
        }
        *left -= 1;
        let Value::Object(schema) = schema else { return Value::String(self.hint.to_owned()) };
        for fixed in ["const", "default"] {
            if let Some(value) = schema.get(fixed) {
                return value.clone();
            }
        }
        for list in ["enum", "examples"] {
            if let Some(first) = schema.get(list).and_then(Value::as_array).and_then(|l| l.first()) {
                return first.clone();
            }
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str) {
            return match self.root.pointer(target.trim_start_matches('#')) {
                Some(found) => self.value(found, depth + 1, left),
                None => Value::Null,
            };
        }
        for choice in ["anyOf", "oneOf"] {
            if let Some(options) = schema.get(choice).and_then(Value::as_array) {
                // Nothing is the least interesting choice.
                let some = options.iter().find(|o| o.get("type") != Some(&json!("null"))).or(options.first());
                return some.map_or(Value::Null, |o| self.value(o, depth + 1, left));
            }
        }
        if let Some(all) = schema.get("allOf").and_then(Value::as_array) {
            return self.all(schema, all, depth, left);
        }
        self.typed(schema, depth, left)
    }

    fn typed(&self, schema: &Map<String, Value>, depth: usize, left: &mut usize) -> Value {
        let kind = match schema.get("type") {
            Some(Value::String(kind)) => kind.to_ascii_lowercase(),
            Some(Value::Array(kinds)) => {
                let kinds: Vec<_> = kinds.iter().filter_map(Value::as_str).collect();
                kinds.iter().find(|k| **k != "null").or(kinds.first()).map_or(String::new(), |k| (*k).to_owned())
            }
            _ if schema.contains_key("properties") => "object".to_owned(),
            _ if schema.contains_key("items") => "array".to_owned(),
            _ => "string".to_owned(),
        };
        match kind.as_str() {
            "object" => self.object(schema, depth, left),
            "array" => self.array(schema, depth, left),
            "integer" => json!(number(schema).ceil() as i64),
            "number" => json!(number(schema)),
            "boolean" => Value::Bool(true),
            "null" => Value::Null,
            _ => Value::String(self.string(schema)),
        }
    }

    fn object(&self, schema: &Map<String, Value>, depth: usize, left: &mut usize) -> Value {
        let mut out = Map::new();
        let required: Vec<_> =
            schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
        let properties = schema.get("properties").and_then(Value::as_object);
        for (name, inner) in properties.into_iter().flatten() {
            // What is optional is left out deep down, so that a recursive schema ends.
            if depth < OPTIONAL_DEPTH || required.contains(&name.as_str()) {
                out.insert(name.clone(), self.value(inner, depth + 1, left));
            }
        }
        for name in required {
            if !out.contains_key(name) {
                out.insert(name.to_owned(), Value::String(self.hint.to_owned()));
            }
        }
        Value::Object(out)
    }

    fn array(&self, schema: &Map<String, Value>, depth: usize, left: &mut usize) -> Value {
        let most = bound(schema, "maxItems").unwrap_or(f64::MAX);
        let count = bound(schema, "minItems").unwrap_or(1.0).max(1.0).min(most).min(MOST_ITEMS) as usize;
        let any = json!({"type": "string"});
        let items = schema.get("items").unwrap_or(&any);
        if depth >= OPTIONAL_DEPTH && bound(schema, "minItems").is_none() {
            return json!([]);
        }
        Value::Array((0..count).map(|_| self.value(items, depth + 1, left)).collect())
    }

    fn all(&self, schema: &Map<String, Value>, all: &[Value], depth: usize, left: &mut usize) -> Value {
        let mut out = Map::new();
        let mut scalar = None;
        let mut own = schema.clone();
        own.remove("allOf");
        let own = Value::Object(own);
        for part in all.iter().chain(own.get("properties").map(|_| &own)) {
            match self.value(part, depth + 1, left) {
                Value::Object(fields) => out.extend(fields),
                other => scalar = Some(other),
            }
        }
        if out.is_empty() { scalar.unwrap_or(Value::Object(out)) } else { Value::Object(out) }
    }

    fn string(&self, schema: &Map<String, Value>) -> String {
        let text = match schema.get("format").and_then(Value::as_str) {
            Some("date") => "2026-01-01",
            Some("date-time") => "2026-01-01T00:00:00Z",
            Some("time") => "00:00:00Z",
            Some("email") => "mock@example.com",
            Some("uri" | "url") => "https://example.com/",
            Some("uuid") => "00000000-0000-4000-8000-000000000000",
            Some("ipv4") => "192.0.2.1",
            _ => self.hint,
        };
        let least = bound(schema, "minLength").unwrap_or(0.0).min(MOST_TEXT) as usize;
        let most = bound(schema, "maxLength").unwrap_or(MOST_TEXT).min(MOST_TEXT) as usize;
        let mut out: String = text.chars().take(most).collect();
        while out.chars().count() < least {
            out.push('.');
        }
        out
    }
}

fn number(schema: &Map<String, Value>) -> f64 {
    let step = bound(schema, "multipleOf").filter(|s| *s > 0.0);
    let least = bound(schema, "minimum").or_else(|| bound(schema, "exclusiveMinimum").map(|n| n + step.unwrap_or(1.0)));
    let most = bound(schema, "maximum").or_else(|| bound(schema, "exclusiveMaximum").map(|n| n - step.unwrap_or(1.0)));
    let wish = match (least, most) {
        (Some(least), _) => least.max(1.0).min(most.unwrap_or(f64::MAX)),
        (None, Some(most)) => most.min(1.0),
        (None, None) => 1.0,
    };
    step.map_or(wish, |s| (wish / s).ceil() * s)
}

fn bound(schema: &Map<String, Value>, key: &str) -> Option<f64> {
    schema.get(key).and_then(Value::as_f64)
}

const MOST_DEPTH: usize = 24;
const MOST_VALUES: usize = 2000;
const OPTIONAL_DEPTH: usize = 4;
const MOST_ITEMS: f64 = 16.0;
const MOST_TEXT: f64 = 4096.0;
