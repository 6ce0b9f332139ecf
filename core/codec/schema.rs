//! JSON Schema ⇄ the OpenAPI-like `Schema` subset that some targets take: `lower` narrows, `raise` widens. Narrowing
//! never makes an optional field required and keeps every description; what the subset cannot say is left out, and what
//! refers to itself becomes a plain object. Knows nothing about requests.

mod raise;
mod told;

pub use raise::raise;
pub use told::told;

use serde_json::{Map, Value, json};

use crate::error::{Error, Result};

/// JSON Schema narrowed to the subset. `path` names the schema in errors.
pub fn lower(schema: &Value, path: &str) -> Result<Value> {
    let mut lowering = Lowering { root: schema, refs: Vec::new(), nodes: 0, path };
    lowering.schema(schema, 0)
}

/// Is this the schema of "no parameters"?
pub fn is_empty_object(schema: &Value) -> bool {
    let Value::Object(map) = schema else { return false };
    map.iter().all(|(key, value)| match key.as_str() {
        "type" => value.as_str().is_some_and(|t| t.eq_ignore_ascii_case("object")),
        "properties" => value.as_object().is_some_and(Map::is_empty),
        "anyOf" | "oneOf" | "allOf" | "$ref" | "patternProperties" | "items" | "enum" | "const" => false,
        "additionalProperties" => value.is_boolean(),
        _ => true,
    })
}

struct Lowering<'a> {
    root: &'a Value,
    /// References being followed: one met again is a cycle.
    refs: Vec<String>,
    nodes: usize,
    path: &'a str,
}

impl Lowering<'_> {
    fn schema(&mut self, schema: &Value, depth: usize) -> Result<Value> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth > MAX_DEPTH {
            return Err(Error::invalid(
                self.path,
                format!(
                    "the schema at `{}` is too large once its references are followed; make it smaller or flatter",
                    self.path
                ),
            ));
        }
        let Value::Object(map) = schema else { return Ok(json!({})) };
        if let Some(Value::String(target)) = map.get("$ref") {
            return self.reference(target, map, depth);
        }
        let map = match map.get("allOf") {
            Some(Value::Array(all)) => self.merge_all(map, all, depth)?,
            _ => map.clone(),
        };
        self.object(&map, depth)
    }

    /// Follows a reference; words beside it win over the target's.
    fn reference(&mut self, target: &str, beside: &Map<String, Value>, depth: usize) -> Result<Value> {
        if self.refs.iter().any(|r| r == target) {
            let mut out = json!({ "type": "OBJECT" });
            if let Some(text) = beside.get("description") {
                out["description"] = text.clone();
            }
            return Ok(out);
        }
        let found = self.find(target)?;
        let Value::Object(mut map) = found else { return Ok(json!({})) };
        for (key, value) in beside {
            if key != "$ref" {
                map.insert(key.clone(), value.clone());
            }
        }
        self.refs.push(target.to_owned());
        let out = self.schema(&Value::Object(map), depth + 1);
        self.refs.pop();
        out
    }

    fn find(&self, target: &str) -> Result<Value> {
        let pointer =
            target.strip_prefix('#').and_then(|p| if p.is_empty() { Some(self.root) } else { self.root.pointer(p) });
        pointer.cloned().ok_or_else(|| {
            Error::invalid(
                self.path,
                format!("`$ref` \"{target}\" in the schema at `{}` points nowhere inside the schema", self.path),
            )
        })
    }

    /// `allOf` as one object: properties and required fields of all, else the first word counts.
    fn merge_all(&mut self, own: &Map<String, Value>, all: &[Value], depth: usize) -> Result<Map<String, Value>> {
        let mut out = own.clone();
        out.shift_remove("allOf");
        for part in all {
            let flat = self.flat(part, depth + 1)?;
            for (key, value) in flat {
                match (out.get_mut(&key), value) {
                    (Some(Value::Object(mine)), Value::Object(theirs)) if key == "properties" => {
                        for (name, schema) in theirs {
                            mine.entry(name).or_insert(schema);
                        }
                    }
                    (Some(Value::Array(mine)), Value::Array(theirs)) if key == "required" => {
                        for name in theirs {
                            if !mine.contains(&name) {
                                mine.push(name);
                            }
                        }
                    }
                    (Some(_), _) => {}
                    (None, value) => {
                        out.insert(key, value);
                    }
                }
            }
        }
        Ok(out)
    }

    /// A member of `allOf` with its own references and `allOf` resolved, not yet narrowed.
    fn flat(&mut self, schema: &Value, depth: usize) -> Result<Map<String, Value>> {
        self.nodes += 1;
        if self.nodes > MAX_NODES || depth > MAX_DEPTH {
            return Err(Error::invalid(
                self.path,
                format!("the schema at `{}` is nested too deeply; make it flatter", self.path),
            ));
        }
        let Value::Object(map) = schema else { return Ok(Map::new()) };
        let mut map = map.clone();
        if let Some(Value::String(target)) = map.shift_remove("$ref") {
            if self.refs.contains(&target) {
                return Ok(map);
            }
            let found = self.find(&target)?;
            self.refs.push(target);
            let under = self.flat(&found, depth + 1);
            self.refs.pop();
            for (key, value) in under? {
                map.entry(key).or_insert(value);
            }
        }
        match map.get("allOf").cloned() {
            Some(Value::Array(all)) => self.merge_all(&map, &all, depth),
            _ => Ok(map),
        }
    }

    fn object(&mut self, map: &Map<String, Value>, depth: usize) -> Result<Value> {
        let mut out = Map::new();
        let mut notes = Vec::new();
        let mut nullable = map.get("nullable").and_then(Value::as_bool).unwrap_or(false);
        let types = types(map, &mut nullable);
        if types.len() > 1 {
            return self.several_types(map, &types, nullable, depth);
        }
        let mut kind = types.first().cloned();
        for key in ["title", "description"] {
            if let Some(Value::String(text)) = map.get(key) {
                out.insert(key.to_owned(), Value::String(text.clone()));
            }
        }
        if let Some(options) = options(map) {
            kind = self.enumeration(options, kind, &mut nullable, &mut out);
        }
        let kind = kind.or_else(|| guess(map)).map(|k| k.to_ascii_uppercase());
        if let Some(kind) = &kind {
            out.insert("type".to_owned(), Value::String(kind.clone()));
        }
        format(map, kind.as_deref(), &mut out, &mut notes);
        self.children(map, kind.as_deref(), &mut out, depth)?;
        self.alternatives(map, &mut nullable, &mut out, depth)?;
        bounds(map, &mut out, &mut notes);
        for key in ["default", "example", "propertyOrdering"] {
            if let Some(value) = map.get(key).filter(|v| !v.is_null()) {
                out.insert(key.to_owned(), value.clone());
            }
        }
        if nullable {
            out.insert("nullable".to_owned(), Value::Bool(true));
        }
        note(&mut out, &notes);
        Ok(Value::Object(out))
    }

    /// `type: [A, B]` as a choice of whole schemas.
    fn several_types(
        &mut self,
        map: &Map<String, Value>,
        types: &[String],
        nullable: bool,
        depth: usize,
    ) -> Result<Value> {
        let mut choices = Vec::new();
        for kind in types {
            let mut one = map.clone();
            for word in ["title", "description", "nullable", "anyOf", "oneOf"] {
                one.shift_remove(word);
            }
            one.insert("type".to_owned(), Value::String(kind.clone()));
            choices.push(self.schema(&Value::Object(one), depth + 1)?);
        }
        let mut out = Map::new();
        for key in ["title", "description"] {
            if let Some(value) = map.get(key) {
                out.insert(key.to_owned(), value.clone());
            }
        }
        out.insert("anyOf".to_owned(), Value::Array(choices));
        if nullable {
            out.insert("nullable".to_owned(), Value::Bool(true));
        }
        Ok(Value::Object(out))
    }

    /// The subset's enums are strings. Returns the type that goes with them.
    fn enumeration(
        &self,
        options: Vec<Value>,
        kind: Option<String>,
        nullable: &mut bool,
        out: &mut Map<String, Value>,
    ) -> Option<String> {
        if options.iter().any(Value::is_null) {
            *nullable = true;
        }
        let words: Vec<Value> = options
            .into_iter()
            .filter(|v| !v.is_null())
            .map(|v| match v {
                Value::String(_) => v,
                other => Value::String(other.to_string()),
            })
            .collect();
        if words.is_empty() {
            return kind;
        }
        out.insert("enum".to_owned(), Value::Array(words));
        Some("string".to_owned())
    }

    fn children(
        &mut self,
        map: &Map<String, Value>,
        kind: Option<&str>,
        out: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<()> {
        if let Some(Value::Object(properties)) = map.get("properties") {
            let mut lowered = Map::new();
            for (name, schema) in properties {
                lowered.insert(name.clone(), self.schema(schema, depth + 1)?);
            }
            if let Some(Value::Array(required)) = map.get("required") {
                // A name without a property is refused by the target.
                let known: Vec<Value> =
                    required.iter().filter(|r| r.as_str().is_some_and(|r| lowered.contains_key(r))).cloned().collect();
                if !known.is_empty() {
                    out.insert("required".to_owned(), Value::Array(known));
                }
            }
            if !lowered.is_empty() {
                out.insert("properties".to_owned(), Value::Object(lowered));
            }
        }
        let tuple = match (map.get("prefixItems"), map.get("items")) {
            (Some(Value::Array(tuple)), _) | (None, Some(Value::Array(tuple))) => Some(tuple),
            _ => None,
        };
        if let Some(tuple) = tuple {
            let mut choices: Vec<Value> = Vec::new();
            for schema in tuple {
                let lowered = self.schema(schema, depth + 1)?;
                if !choices.contains(&lowered) {
                    choices.push(lowered);
                }
            }
            let items = if choices.len() == 1 { choices.remove(0) } else { json!({ "anyOf": choices }) };
            out.insert("items".to_owned(), items);
        } else if let Some(items @ Value::Object(_)) = map.get("items") {
            let items = self.schema(items, depth + 1)?;
            out.insert("items".to_owned(), items);
        } else if kind == Some("ARRAY") {
            // The target refuses arrays that say nothing of their items.
            out.insert("items".to_owned(), json!({ "type": "STRING" }));
        }
        Ok(())
    }

    /// `anyOf` and `oneOf`; a null among them is `nullable`, and a single choice that is left is the schema itself.
    fn alternatives(
        &mut self,
        map: &Map<String, Value>,
        nullable: &mut bool,
        out: &mut Map<String, Value>,
        depth: usize,
    ) -> Result<()> {
        let Some(Value::Array(given)) = map.get("anyOf").or_else(|| map.get("oneOf")) else { return Ok(()) };
        let mut choices = Vec::new();
        for schema in given {
            if schema.get("type").and_then(Value::as_str).is_some_and(|t| t.eq_ignore_ascii_case("null")) {
                *nullable = true;
            } else {
                choices.push(self.schema(schema, depth + 1)?);
            }
        }
        if let ([Value::Object(_)], false) = (choices.as_slice(), out.contains_key("properties")) {
            if let Some(Value::Object(only)) = choices.pop() {
                for (key, value) in only {
                    if key == "nullable" {
                        *nullable = true;
                    } else {
                        out.entry(key).or_insert(value);
                    }
                }
            }
        } else if !choices.is_empty() {
            // Beside `anyOf` the target takes no type of its own.
            out.shift_remove("type");
            out.insert("anyOf".to_owned(), Value::Array(choices));
        }
        Ok(())
    }
}

/// The types named, without null.
fn types(map: &Map<String, Value>, nullable: &mut bool) -> Vec<String> {
    let named: Vec<&str> = match map.get("type") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let mut out: Vec<String> = Vec::new();
    for name in named {
        if name.eq_ignore_ascii_case("null") {
            *nullable = true;
        } else if !out.iter().any(|t| t.eq_ignore_ascii_case(name)) {
            out.push(name.to_owned());
        }
    }
    out
}

fn options(map: &Map<String, Value>) -> Option<Vec<Value>> {
    match (map.get("const"), map.get("enum")) {
        (Some(one), _) => Some(vec![one.clone()]),
        (None, Some(Value::Array(many))) => Some(many.clone()),
        _ => None,
    }
}

fn guess(map: &Map<String, Value>) -> Option<String> {
    if map.contains_key("properties") {
        Some("object".to_owned())
    } else if map.contains_key("items") || map.contains_key("prefixItems") {
        Some("array".to_owned())
    } else {
        None
    }
}

/// Formats that the subset knows are kept; others are told in words.
fn format(map: &Map<String, Value>, kind: Option<&str>, out: &mut Map<String, Value>, notes: &mut Vec<String>) {
    let Some(Value::String(format)) = map.get("format") else { return };
    let known = match kind {
        Some("STRING") => matches!(format.as_str(), "date-time" | "enum"),
        Some("INTEGER") => matches!(format.as_str(), "int32" | "int64"),
        Some("NUMBER") => matches!(format.as_str(), "float" | "double"),
        _ => false,
    };
    if known {
        out.insert("format".to_owned(), Value::String(format.clone()));
    } else {
        notes.push(format!("format: {format}"));
    }
}

/// Limits that the subset has; exclusive ones are told in words.
fn bounds(map: &Map<String, Value>, out: &mut Map<String, Value>, notes: &mut Vec<String>) {
    for key in [
        "minItems",
        "maxItems",
        "minLength",
        "maxLength",
        "minProperties",
        "maxProperties",
        "minimum",
        "maximum",
        "pattern",
    ] {
        if let Some(value) = map.get(key).filter(|v| !v.is_null()) {
            out.insert(key.to_owned(), value.clone());
        }
    }
    for (key, words) in
        [("exclusiveMinimum", "greater than"), ("exclusiveMaximum", "less than"), ("multipleOf", "a multiple of")]
    {
        if let Some(Value::Number(n)) = map.get(key) {
            notes.push(format!("{words} {n}"));
        }
    }
    // What shapes an answer and has no word here is told to the model.
    if map.get("uniqueItems") == Some(&Value::Bool(true)) {
        notes.push("items differ from each other".to_owned());
    }
    for (key, words) in [
        ("additionalProperties", "any other property"),
        ("patternProperties", "properties by pattern"),
        ("not", "never"),
        ("contains", "contains"),
    ] {
        let said = map.get(key).filter(|v| v.as_object().is_some_and(|o| !o.is_empty()));
        if let Some(said) = said.map(Value::to_string).filter(|said| said.len() <= MAX_NOTE) {
            notes.push(format!("{words}: {said}"));
        }
    }
}

fn note(out: &mut Map<String, Value>, notes: &[String]) {
    if notes.is_empty() {
        return;
    }
    let words = format!("({})", notes.join("; "));
    let text = match out.get("description").and_then(Value::as_str) {
        Some(text) if !text.is_empty() => format!("{text} {words}"),
        _ => words,
    };
    out.insert("description".to_owned(), Value::String(text));
}

/// A schema of a few kilobytes can blow up without end by references that double at each step.
const MAX_NODES: usize = 20_000;
const MAX_DEPTH: usize = 64;
/// A part of a schema that is told in words.
const MAX_NOTE: usize = 400;

#[cfg(test)]
mod tests;
