//! Checks a parsed gateway.toml against the schema made from `file`, and takes out what is wrong, so that the rest can
//! still be read: every mistake is found in one run. Knows shapes only; meaning is `resolve`'s.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue},
};

use super::{
    Problem, later,
    source::{Source, dotted, step},
    text,
};

/// What is left of the file when all that is misshapen is gone.
pub struct Sound<'t> {
    pub tree: Spanned<DeTable<'t>>,
    pub problems: Vec<Problem>,
    /// Dotted paths of what was taken out.
    pub removed: BTreeSet<String>,
    /// For lists that lost entries: the places in the file of those left.
    pub places: BTreeMap<String, Vec<usize>>,
}

pub fn check<'t>(source: &Source<'t>, schema: &Value) -> Sound<'t> {
    let mut walk = Walk {
        source,
        root: schema,
        path: Vec::new(),
        problems: Vec::new(),
        removed: BTreeSet::new(),
        places: BTreeMap::new(),
    };
    let table = walk.table(source.tree.get_ref(), schema).unwrap_or_default();
    Sound {
        tree: Spanned::new(source.tree.span(), table),
        problems: walk.problems,
        removed: walk.removed,
        places: walk.places,
    }
}

struct Walk<'w, 't> {
    source: &'w Source<'t>,
    root: &'w Value,
    path: Vec<String>,
    problems: Vec<Problem>,
    removed: BTreeSet<String>,
    places: BTreeMap<String, Vec<usize>>,
}

impl<'w, 't> Walk<'w, 't> {
    /// The table without its misshapen entries; `None` if it lacks something it cannot be without.
    fn table(&mut self, table: &DeTable<'t>, schema: &'w Value) -> Option<DeTable<'t>> {
        let schema = self.plain(schema);
        let mut kept = DeTable::new();
        for (key, value) in table.iter() {
            self.path.push(key.get_ref().to_string());
            match self.entry(value, schema) {
                Some(value) => drop(kept.insert(key.clone(), value)),
                None => drop(self.removed.insert(dotted(&self.path))),
            }
            self.path.pop();
        }
        let mut whole = true;
        for required in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if kept.contains_key(required) {
                continue;
            }
            whole = false;
            if !table.contains_key(required) {
                self.fault_at_key(format!("`{}` lacks `{required}`", dotted(&self.path)));
            }
        }
        whole.then_some(kept)
    }

    fn entry(&mut self, value: &Spanned<DeValue<'t>>, schema: &'w Value) -> Option<Spanned<DeValue<'t>>> {
        let name = self.path.last().cloned().unwrap_or_default();
        if later::key(&self.path) {
            self.fault_at_key(format!("`{}` is not built in this version: remove it", dotted(&self.path)));
            return None;
        }
        let known = schema["properties"].as_object();
        if let Some(shape) = known.and_then(|known| known.get(&name)) {
            return self.value(value, shape);
        }
        match &schema["additionalProperties"] {
            Value::Bool(false) => {
                let names: Vec<&str> = known.into_iter().flat_map(|known| known.keys()).map(String::as_str).collect();
                let hint = match text::nearest(&name, names.iter().copied()) {
                    Some(best) => format!("; did you mean `{best}`?"),
                    None => format!("; known here: {}", names.join(", ")),
                };
                self.fault_at_key(format!("unknown key `{}`{hint}", dotted(&self.path)));
                None
            }
            shape @ Value::Object(_) => self.value(value, shape),
            _ => Some(value.clone()),
        }
    }

    fn value(&mut self, value: &Spanned<DeValue<'t>>, schema: &'w Value) -> Option<Spanned<DeValue<'t>>> {
        let mut schema = self.plain(schema);
        if let Some(choices) = schema["anyOf"].as_array() {
            let Some(choice) = choices.iter().map(|c| self.plain(c)).find(|c| fits(value.get_ref(), c)) else {
                return self.wrong_type(value, schema);
            };
            schema = choice;
        }
        if let Some(words) = words(schema) {
            return self.word(value, &words);
        }
        if !fits(value.get_ref(), schema) {
            return self.wrong_type(value, schema);
        }
        match value.get_ref() {
            DeValue::Table(table) => {
                let kept = self.table(table, schema)?;
                Some(Spanned::new(value.span(), DeValue::Table(kept)))
            }
            DeValue::Array(items) => Some(Spanned::new(value.span(), DeValue::Array(self.list(items, schema)))),
            DeValue::Integer(_) | DeValue::Float(_) => self.number(value, schema),
            _ => Some(value.clone()),
        }
    }

    fn list(&mut self, items: &DeArray<'t>, schema: &'w Value) -> DeArray<'t> {
        let mut kept = DeArray::new();
        let mut places = Vec::new();
        for (at, item) in items.iter().enumerate() {
            self.path.push(step(at));
            if let Some(item) = self.value(item, &schema["items"]) {
                kept.push(item);
                places.push(at);
            }
            self.path.pop();
        }
        if places.len() < items.len() {
            self.places.insert(dotted(&self.path), places);
        }
        kept
    }

    fn word(&mut self, value: &Spanned<DeValue<'t>>, words: &[&str]) -> Option<Spanned<DeValue<'t>>> {
        let path = dotted(&self.path);
        let list = words.iter().map(|w| format!("{w:?}")).collect::<Vec<_>>().join(", ");
        let message = match value.get_ref().as_str() {
            Some(word) if words.contains(&word) => return Some(value.clone()),
            Some(word) if later::word(&self.path, word) => {
                format!("`{path}`: {word:?} is not built in this version; use one of {list}")
            }
            Some(word) => {
                format!("`{path}` must be one of {list}{}", text::hint(word, words.iter().copied()))
            }
            None => format!("`{path}` must be one of {list}, not {}", kind(value.get_ref())),
        };
        self.fault(message)
    }

    fn number(&mut self, value: &Spanned<DeValue<'t>>, schema: &Value) -> Option<Spanned<DeValue<'t>>> {
        let number = match value.get_ref() {
            DeValue::Integer(n) => i64::from_str_radix(n.as_str(), n.radix()).ok().map(|n| n as f64),
            DeValue::Float(n) => n.as_str().parse::<f64>().ok().filter(|n| n.is_finite()),
            _ => None,
        };
        let (low, high) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
        let high = high.or_else(|| (schema["format"] == "uint32").then_some(f64::from(u32::MAX)));
        let bounds = match (low, high) {
            (Some(low), Some(high)) => format!("between {low} and {high}"),
            (Some(low), None) => format!("at least {low}"),
            (None, Some(high)) => format!("at most {high}"),
            (None, None) => "a finite number".to_owned(),
        };
        match number {
            Some(n) if low.is_none_or(|low| n >= low) && high.is_none_or(|high| n <= high) => Some(value.clone()),
            _ => self.fault(format!("`{}` must be {bounds}", dotted(&self.path))),
        }
    }

    fn wrong_type(&mut self, value: &Spanned<DeValue<'t>>, schema: &Value) -> Option<Spanned<DeValue<'t>>> {
        let mut wanted: Vec<&str> = kinds(schema).into_iter().map(spoken).collect();
        wanted.dedup();
        let example = match &schema["examples"][0] {
            Value::Null => String::new(),
            Value::Object(fields) => {
                // As it is written in the file.
                let fields: Vec<String> = fields.iter().map(|(key, value)| format!("{key} = {value}")).collect();
                format!(" such as {{ {} }}", fields.join(", "))
            }
            example => format!(" such as {example}"),
        };
        let found = kind(value.get_ref());
        self.fault(format!("`{}` must be {}{example}, not {found}", dotted(&self.path), wanted.join(" or ")))
    }

    fn fault<T>(&mut self, message: String) -> Option<T> {
        self.problems.push(self.source.at_value(&self.path, message));
        None
    }

    fn fault_at_key(&mut self, message: String) {
        self.problems.push(self.source.at_key(&self.path, message));
    }

    /// Through references and "or null" to the schema itself.
    fn plain(&self, mut schema: &'w Value) -> &'w Value {
        loop {
            if let Some(pointer) = schema["$ref"].as_str().and_then(|r| r.strip_prefix('#')) {
                schema = self.root.pointer(pointer).unwrap_or(&Value::Null);
                continue;
            }
            let choices = schema["anyOf"].as_array();
            let mut real = choices.into_iter().flatten().filter(|c| c["type"] != "null");
            match (real.next(), real.next()) {
                (Some(only), None) => schema = only,
                _ => return schema,
            }
        }
    }
}

/// The words of an enumeration.
fn words(schema: &Value) -> Option<Vec<&str>> {
    let mut words = Vec::new();
    words.extend(schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str));
    for choice in schema["oneOf"].as_array().into_iter().flatten() {
        words.extend(choice["const"].as_str());
        words.extend(choice["enum"].as_array().into_iter().flatten().filter_map(Value::as_str));
    }
    (!words.is_empty()).then_some(words)
}

fn kinds(schema: &Value) -> Vec<&str> {
    let mut kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => schema["anyOf"].as_array().into_iter().flatten().flat_map(kinds).collect(),
    };
    kinds.retain(|kind| *kind != "null");
    kinds
}

fn fits(value: &DeValue<'_>, schema: &Value) -> bool {
    let kinds = kinds(schema);
    let named = |name: &str| kinds.contains(&name);
    kinds.is_empty()
        || match value {
            DeValue::String(_) => named("string"),
            DeValue::Integer(_) => named("integer") || named("number"),
            DeValue::Float(_) => named("number"),
            DeValue::Boolean(_) => named("boolean"),
            DeValue::Array(_) => named("array"),
            DeValue::Table(_) => named("object"),
            DeValue::Datetime(_) => false,
        }
}

fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a point",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

fn spoken(kind: &str) -> &'static str {
    match kind {
        "string" => "a text in quotes",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        _ => "a table",
    }
}
