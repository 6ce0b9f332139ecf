//! Reading JSON: bodies parsed or looked through, numbers as they are meant, and the words for what is wrong.

use std::borrow::Cow;

use serde_json::{Number, Value};

pub use super::fields::{Fields, Item, nth};
use super::{
    long,
    surrogate::{self, Half},
    tape::Tape,
};
use crate::error::{Error, Kind, Result};

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

/// What an upstream sent, on a tape; what is not for one is parsed, and told by its tree.
pub fn tape_upstream(body: &[u8]) -> Result<Body<'_>> {
    match Tape::read(body) {
        Some(tape) => Ok(Body::Read(tape)),
        None => parse_upstream(body).map(Body::Tree),
    }
}

/// The same of a client's body.
pub fn tape(body: &[u8]) -> Result<Body<'_>> {
    match Tape::read(body) {
        Some(tape) => Ok(Body::Read(tape)),
        None => parse(body).map(Body::Tree),
    }
}

/// A body that was looked through.
pub enum Body<'a> {
    Read(Tape<'a>),
    Tree(Value),
}

impl Body<'_> {
    pub fn item(&mut self) -> Item<'_> {
        match self {
            Body::Read(tape) => Item::Read(tape.root()),
            Body::Tree(value) => Item::Tree(value.take()),
        }
    }
}

/// What a parser refused, read once more without halves of characters; `None`: there are none.
fn mended(json: &[u8], half: Option<&mut Half>) -> Option<serde_json::Result<Value>> {
    match surrogate::mended(json, half) {
        Cow::Borrowed(_) => None,
        Cow::Owned(json) => Some(serde_json::from_slice(&json)),
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

/// The same of a value; `None` of what is no number.
pub fn whole(value: &Value) -> Option<u64> {
    value.as_number().and_then(as_u64)
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
