//! JSON Schemas: is this text, or value, one of them, and what is wrong with it. A schema may come from a caller, so it is
//! looked at before it is compiled: no references that leave it, none that go round in circles, and a bound on how much
//! work it can make of one value.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

/// A compiled schema; cheap to clone.
#[derive(Clone)]
pub struct Schema {
    compiled: Arc<Validator>,
    /// Parts of it that may apply to one value.
    weight: u64,
}

impl Schema {
    /// Compiles a schema, or takes one that was compiled before. Errors say what is wrong with it.
    pub fn of(schema: &Value) -> Result<Schema, String> {
        static KNOWN: LazyLock<Mutex<HashMap<String, Schema>>> = LazyLock::new(Mutex::default);
        let text = schema.to_string();
        if text.len() > MOST_SCHEMA {
            return Err(format!("a schema may have {} KiB", MOST_SCHEMA >> 10));
        }
        if let Some(found) = KNOWN.lock().unwrap_or_else(PoisonError::into_inner).get(&text) {
            return Ok(found.clone());
        }
        let weight = Sight::of(schema)?;
        let patterns = PatternOptions::regex().size_limit(PATTERN_SIZE).dfa_size_limit(PATTERN_TABLE);
        let built = jsonschema::options().with_pattern_options(patterns).should_validate_formats(false).build(schema);
        let compiled = Arc::new(built.map_err(|error| short(&error.to_string()))?);
        let new = Schema { compiled, weight };
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_CACHED {
            known.clear();
        }
        known.insert(text, new.clone());
        Ok(new)
    }

    /// What is wrong with a text that should be JSON of this schema; nothing when it is.
    pub fn faults_of(&self, text: &str) -> Vec<String> {
        if text.len() > MOST_TEXT {
            return vec![format!("the text is longer than the {} KiB that are looked at", MOST_TEXT >> 10)];
        }
        match serde_json::from_str(text) {
            Ok(value) => self.faults(&value),
            Err(error) => vec![format!("not JSON: {error}")],
        }
    }

    /// The same of a value.
    pub fn faults(&self, value: &Value) -> Vec<String> {
        if nodes(value).saturating_mul(self.weight) > MOST_WORK {
            return vec!["the value is too large for a schema of so many parts".to_owned()];
        }
        let told = |error: jsonschema::ValidationError<'_>| {
            let at = error.instance_path().to_string();
            let at = if at.is_empty() { "/" } else { &at };
            short(&format!("at {at}: {error}"))
        };
        self.compiled.iter_errors(value).take(MOST_FAULTS).map(told).collect()
    }
}

fn nodes(value: &Value) -> u64 {
    match value {
        Value::Array(list) => list.iter().map(nodes).sum::<u64>() + 1,
        Value::Object(map) => map.values().map(nodes).sum::<u64>() + 1,
        _ => 1,
    }
}

fn short(text: &str) -> String {
    let cut = text.floor_char_boundary(MOST_FAULT);
    if cut < text.len() { format!("{}…", &text[..cut]) } else { text.to_owned() }
}

/// A look at a schema before it is compiled.
struct Sight<'s> {
    root: &'s Value,
    /// By address: how much of the schema is applied to one value, references followed.
    weights: HashMap<*const Value, u64>,
    open: HashSet<*const Value>,
}

impl<'s> Sight<'s> {
    /// The most that applies to one value.
    fn of(root: &'s Value) -> Result<u64, String> {
        let mut sight = Sight { root, weights: HashMap::new(), open: HashSet::new() };
        sight.all(root, 0)?;
        Ok(sight.weights.values().copied().max().unwrap_or(1))
    }

    /// Every schema in it, by itself.
    fn all(&mut self, value: &'s Value, depth: usize) -> Result<(), String> {
        if depth > DEEPEST {
            return Err(format!("the schema is nested deeper than {DEEPEST}"));
        }
        match value {
            Value::Object(map) => {
                let foreign = |word: &&&str| map.get(**word).is_some_and(Value::is_string);
                let words = if depth == 0 { &FOREIGN[..2] } else { &FOREIGN[..] };
                if let Some(word) = words.iter().find(foreign) {
                    return Err(format!(
                        "the schema uses {word}; references within it are written {{\"$ref\": \"#/…\"}}"
                    ));
                }
                if self.weight(value)? > MOST_WEIGHT {
                    return Err("the schema applies too many of its parts to one value".to_owned());
                }
                let schemas = map.iter().filter(|(key, _)| !PLAIN.contains(&key.as_str()));
                schemas.map(|(_, inner)| inner).try_for_each(|inner| self.all(inner, depth + 1))
            }
            Value::Array(list) => list.iter().try_for_each(|inner| self.all(inner, depth + 1)),
            _ => Ok(()),
        }
    }

    /// What is applied to the same value: the schema itself, its alternatives and what they refer to.
    fn weight(&mut self, value: &'s Value) -> Result<u64, String> {
        let Value::Object(map) = value else { return Ok(1) };
        let key = std::ptr::from_ref(value);
        if let Some(known) = self.weights.get(&key) {
            return Ok(*known);
        }
        if !self.open.insert(key) {
            return Err("the schema refers to itself without going deeper".to_owned());
        }
        let mut sum: u64 = 1;
        for list in ["patternProperties", "enum"] {
            let count = map
                .get(list)
                .map_or(0, |v| v.as_object().map_or(0, |m| m.len()) + v.as_array().map_or(0, Vec::len) / 8);
            sum = sum.saturating_add(count as u64);
        }
        if let Some(name) = map.get("$ref").and_then(Value::as_str) {
            let target = name.strip_prefix('#').filter(|at| at.is_empty() || at.starts_with('/'));
            let at = target.ok_or_else(|| "the schema refers to something outside it".to_owned())?;
            let found = self
                .root
                .pointer(&plain(at))
                .ok_or_else(|| "the schema refers to a part it does not have".to_owned())?;
            sum = sum.saturating_add(self.weight(found)?);
        }
        for word in IN_PLACE {
            match map.get(word) {
                Some(Value::Array(list)) => {
                    for inner in list {
                        sum = sum.saturating_add(self.weight(inner)?);
                    }
                }
                Some(Value::Object(inner)) if word == "dependentSchemas" => {
                    for inner in inner.values() {
                        sum = sum.saturating_add(self.weight(inner)?);
                    }
                }
                Some(inner) => sum = sum.saturating_add(self.weight(inner)?),
                None => {}
            }
        }
        self.open.remove(&key);
        self.weights.insert(key, sum);
        Ok(sum)
    }
}

/// A pointer as it stands in a URI: `%25` for `%`.
fn plain(pointer: &str) -> String {
    let bytes = pointer.as_bytes();
    let (mut out, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = pointer.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| pointer.to_owned())
}

/// References whose meaning depends on more than the place they name; the last two may stand at the top.
const FOREIGN: [&str; 4] = ["$dynamicRef", "$recursiveRef", "$id", "id"];
/// Words that hold values, not schemas.
const PLAIN: [&str; 4] = ["const", "enum", "default", "examples"];
/// Words whose schemas apply to the value at hand and not to something in it.
const IN_PLACE: [&str; 8] = ["allOf", "anyOf", "oneOf", "not", "if", "then", "else", "dependentSchemas"];
const DEEPEST: usize = 64;
const MOST_SCHEMA: usize = 64 << 10;
const MOST_WEIGHT: u64 = 2_000;
/// Parts of the schema times pieces of the value.
const MOST_WORK: u64 = 5_000_000;
const MOST_TEXT: usize = 1 << 20;
const MOST_FAULTS: usize = 20;
const MOST_FAULT: usize = 300;
const MOST_CACHED: usize = 128;
const PATTERN_SIZE: usize = 64 << 10;
const PATTERN_TABLE: usize = 1 << 20;
