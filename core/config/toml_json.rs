//! Any TOML text as JSON: for files beside gateway.toml that other modules define (cases of scripts). Knows no keys.

use serde_json::{Map, Number, Value};
use toml::{Table, Value as Toml, de::Error};

/// `Err`: the line at fault and what is wrong there.
pub fn toml(text: &str) -> Result<Map<String, Value>, (u32, String)> {
    let table: Table = text.parse().map_err(|e: Error| {
        let at = e.span().map_or(0, |span| span.start.min(text.len()));
        let line = text.as_bytes()[..at].iter().filter(|b| **b == b'\n').count() as u32 + 1;
        (line, e.message().to_owned())
    })?;
    Ok(table.into_iter().map(|(key, value)| (key, json(value))).collect())
}

fn json(value: Toml) -> Value {
    match value {
        Toml::String(s) => Value::String(s),
        Toml::Integer(i) => Value::from(i),
        // JSON has no word for inf and nan.
        Toml::Float(f) => Number::from_f64(f).map_or(Value::Null, Value::Number),
        Toml::Boolean(b) => Value::Bool(b),
        Toml::Datetime(d) => Value::String(d.to_string()),
        Toml::Array(list) => list.into_iter().map(json).collect(),
        Toml::Table(table) => Value::Object(table.into_iter().map(|(key, value)| (key, json(value))).collect()),
    }
}
