//! Script values ⇄ JSON. Views of a request do not convert: nothing of one call outlives it.

use rhai::{Array, Dynamic, Map};
use serde_json::{Number, Value};

/// `Err` names the type that has no JSON form.
pub fn to_json(value: &Dynamic) -> Result<Value, String> {
    deep(value, 0)
}

fn deep(value: &Dynamic, depth: usize) -> Result<Value, String> {
    if depth > MAX_DEPTH {
        return Err(format!("a value nested deeper than {MAX_DEPTH}"));
    }
    if value.is_unit() {
        return Ok(Value::Null);
    }
    if let Ok(b) = value.as_bool() {
        return Ok(Value::Bool(b));
    }
    if let Ok(i) = value.as_int() {
        return Ok(Value::from(i));
    }
    if let Ok(f) = value.as_float() {
        return Number::from_f64(f).map(Value::Number).ok_or_else(|| "a number that is not finite".into());
    }
    if let Ok(s) = value.as_immutable_string_ref() {
        return Ok(Value::String(s.to_string()));
    }
    if let Ok(c) = value.as_char() {
        return Ok(Value::String(c.to_string()));
    }
    if let Ok(list) = value.as_array_ref() {
        return list.iter().map(|v| deep(v, depth + 1)).collect::<Result<_, _>>().map(Value::Array);
    }
    if let Ok(map) = value.as_map_ref() {
        let pairs = map.iter().map(|(k, v)| Ok((k.to_string(), deep(v, depth + 1)?)));
        return pairs.collect::<Result<_, String>>().map(Value::Object);
    }
    Err(format!("a value of type {}", value.type_name()))
}

pub fn from_json(value: &Value) -> Dynamic {
    match value {
        Value::Null => Dynamic::UNIT,
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => match n.as_i64() {
            Some(i) => i.into(),
            None => n.as_f64().map_or(Dynamic::UNIT, Dynamic::from),
        },
        Value::String(s) => s.as_str().into(),
        Value::Array(list) => list.iter().map(from_json).collect::<Array>().into(),
        Value::Object(map) => map.iter().map(|(k, v)| (k.as_str().into(), from_json(v))).collect::<Map>().into(),
    }
}

/// A whole or fractional number.
pub fn number(value: &Dynamic) -> Option<f64> {
    value.as_float().ok().or_else(|| value.as_int().ok().map(|i| i as f64)).filter(|f| f.is_finite())
}

/// A string value.
pub fn text(value: &Dynamic) -> Option<String> {
    value.as_immutable_string_ref().ok().map(|s| s.to_string())
}

/// Text as a script value.
pub fn str(text: &str) -> Dynamic {
    text.into()
}

/// A count as scripts see it: the largest integer stands for "no limit".
pub fn int(n: u64) -> Dynamic {
    i64::try_from(n).unwrap_or(i64::MAX).into()
}

const MAX_DEPTH: usize = 32;
