//! Reading JSON objects field by field: what is known is taken, what is left is kept as `Extra`, and every error names
//! the path of the field at fault.

use std::borrow::Cow;

use serde_json::{Map, Number, Value};

use super::{
    long,
    surrogate::{self, Half},
};
use crate::{
    error::{Error, Kind, Result},
    model::{Extra, Format},
};

/// Parses a client's body. The error says line and column.
pub fn parse(body: &[u8]) -> Result<Value> {
    if let Some(tree) = long::parse(body) {
        return Ok(tree);
    }
    serde_json::from_slice(body).map_err(|e| {
        let what = if e.is_eof() { "it ends too early".to_owned() } else { e.to_string() };
        Error::new(
            Kind::InvalidRequest,
            format!("the body is not valid JSON: {what} (line {}, column {})", e.line(), e.column()),
        )
        .with_code("invalid_json")
    })
}

/// Parses what an upstream sent: an error here is the upstream's fault, and its text is not shown.
pub fn parse_upstream(body: &[u8]) -> Result<Value> {
    serde_json::from_slice(body)
        .or_else(|e| mended(body, None).unwrap_or(Err(e)))
        .map_err(|e| Error::new(Kind::Upstream, "the upstream's answer is not valid JSON").because(e))
}

/// The same for one event of a stream: a text may be cut in the middle of a character.
pub fn parse_event(data: &str, half: &mut Half) -> Result<Value> {
    serde_json::from_str(data)
        .or_else(|e| mended(data.as_bytes(), Some(half)).unwrap_or(Err(e)))
        .map_err(|e| Error::new(Kind::Upstream, "the upstream's stream has an event that is not valid JSON").because(e))
}

/// What a parser refused, read once more without halves of characters; `None`: there are none.
fn mended(json: &[u8], half: Option<&mut Half>) -> Option<serde_json::Result<Value>> {
    match surrogate::mended(json, half) {
        Cow::Borrowed(_) => None,
        Cow::Owned(json) => Some(serde_json::from_slice(&json)),
    }
}

/// An object being taken apart. Taken fields leave nothing behind; explicit nulls count as absent.
pub struct Fields {
    map: Map<String, Value>,
    path: String,
}

impl Fields {
    /// `path` is where this object stands in the body; empty at the top.
    pub fn new(value: Value, path: impl Into<String>) -> Result<Self> {
        let path = path.into();
        match value {
            Value::Object(map) => Ok(Fields { map, path }),
            other => Err(wrong_type(&path, "an object", &other)),
        }
    }

    pub fn path(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    pub fn own_path(&self) -> &str {
        &self.path
    }

    /// Any value that is present and not null.
    pub fn take(&mut self, key: &str) -> Option<Value> {
        self.map.get_mut(key).map(Value::take).filter(|v| !v.is_null())
    }

    /// The first of several spellings (`maxOutputTokens`, `max_output_tokens`).
    pub fn take_any(&mut self, keys: &[&str]) -> Option<Value> {
        keys.iter().find_map(|k| self.take(k))
    }

    /// Puts a value back, for `rest` to find.
    pub fn put(&mut self, key: &str, value: Value) {
        self.map.insert(key.to_owned(), value);
    }

    pub fn peek(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    pub fn peek_str(&self, key: &str) -> Option<&str> {
        self.peek(key).and_then(Value::as_str)
    }

    pub fn string(&mut self, key: &str) -> Result<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(s)) => Ok(Some(s)),
            Some(other) => Err(wrong_type(&self.path(key), "a string", &other)),
        }
    }

    pub fn required_string(&mut self, key: &str) -> Result<String> {
        self.string(key)?.ok_or_else(|| missing(&self.path(key)))
    }

    pub fn bool(&mut self, key: &str) -> Result<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(b)) => Ok(Some(b)),
            Some(other) => Err(wrong_type(&self.path(key), "a boolean", &other)),
        }
    }

    pub fn u64(&mut self, key: &str) -> Result<Option<u64>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(n)) if as_u64(&n).is_some() => Ok(as_u64(&n)),
            Some(other) => Err(wrong_type(&self.path(key), "a whole number of 0 or more", &other)),
        }
    }

    pub fn i64(&mut self, key: &str) -> Result<Option<i64>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(n)) if as_i64(&n).is_some() => Ok(as_i64(&n)),
            Some(other) => Err(wrong_type(&self.path(key), "a whole number", &other)),
        }
    }

    pub fn f64(&mut self, key: &str) -> Result<Option<f64>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Number(n)) if n.as_f64().is_some_and(f64::is_finite) => Ok(n.as_f64()),
            Some(other) => Err(wrong_type(&self.path(key), "a number", &other)),
        }
    }

    pub fn array(&mut self, key: &str) -> Result<Option<Vec<Value>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(a)) => Ok(Some(a)),
            Some(other) => Err(wrong_type(&self.path(key), "an array", &other)),
        }
    }

    pub fn object(&mut self, key: &str) -> Result<Option<Fields>> {
        let path = self.path(key);
        self.take(key).map(|v| Fields::new(v, path)).transpose()
    }

    pub fn map(&mut self, key: &str) -> Result<Option<Map<String, Value>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Object(m)) => Ok(Some(m)),
            Some(other) => Err(wrong_type(&self.path(key), "an object", &other)),
        }
    }

    /// What nobody asked for.
    pub fn rest(self, format: Format) -> Extra {
        Extra::new(format, self.rest_map())
    }

    pub fn rest_map(mut self) -> Map<String, Value> {
        self.map.retain(|_, v| !v.is_null());
        self.map
    }
}

/// The texts of a list, if it is one.
pub fn texts(list: Option<&Value>) -> Vec<String> {
    let items = list.and_then(Value::as_array).into_iter().flatten();
    items.filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Whole numbers, also when written `5.0`.
pub fn as_u64(n: &Number) -> Option<u64> {
    n.as_u64().or_else(|| n.as_f64().filter(|f| f.fract() == 0.0 && (0.0..9e15).contains(f)).map(|f| f as u64))
}

pub fn as_i64(n: &Number) -> Option<i64> {
    n.as_i64().or_else(|| n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i64))
}

/// A float as JSON; whole ones keep their `.0` away (`1`, not `1.0`).
pub fn number(f: f64) -> Value {
    if f.fract() == 0.0 && f.abs() < 9e15 {
        Value::from(f as i64)
    } else {
        Number::from_f64(f).map_or(Value::Null, Value::Number)
    }
}

pub fn missing(path: &str) -> Error {
    Error::invalid(path, format!("`{path}` is required and missing"))
}

pub fn wrong_type(path: &str, want: &str, got: &Value) -> Error {
    let place = if path.is_empty() { "the body" } else { path };
    // A number where another one is wanted: which kind it is tells nothing.
    match got {
        Value::Number(n) if want.contains("number") && n.as_str().len() < 24 => {
            Error::invalid(path, format!("`{place}` must be {want}, not {n}"))
        }
        _ => Error::invalid(path, format!("`{place}` must be {want}, not {}", kind(got))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}
