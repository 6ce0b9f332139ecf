//! Embeddings, four ways. Vectors travel as numbers or as base64 of little-endian f32, which the official Python client
//! asks for unless told otherwise.

use std::io::Write;

use base64::Engine;
use serde_json::{Map, Value};

use super::wire::{BASE64, F, plain, upstream_shape, usage, usage_value};
use crate::{
    codec::{
        ClientView, Dialect, Encoded,
        json::{Fields, as_u64, missing, parse, parse_upstream, wrong_type},
    },
    error::{Error, Kind, Result},
    model::{EmbeddingInput, EmbeddingRequest, EmbeddingResponse, Encoding},
};

pub fn decode(body: &[u8]) -> Result<EmbeddingRequest> {
    let mut f = Fields::new(parse(body)?, "")?;
    let model = f.required_string("model")?;
    let (inputs, single) = inputs(f.take("input").ok_or_else(|| missing("input"))?)?;
    let dimensions = f.u64("dimensions")?;
    let asked = f.string("encoding_format")?;
    // Some servers of this format have more of them: theirs to read, and no other format's.
    let (encoding, other) = match asked.as_deref() {
        None | Some("float") => (Encoding::Float, None),
        Some("base64") => (Encoding::Base64, None),
        Some(_) => (Encoding::Float, asked),
    };
    let user = f.string("user")?;
    let mut extra = f.rest(F);
    if let Some(other) = other {
        extra.insert(F, "encoding_format", other.into());
    }
    Ok(EmbeddingRequest { model, inputs, single, dimensions, encoding, task: None, title: None, user, extra })
}

fn inputs(value: Value) -> Result<(Vec<EmbeddingInput>, bool)> {
    match value {
        Value::String(text) => Ok((vec![EmbeddingInput::Text(text)], true)),
        Value::Array(items) if items.is_empty() => {
            Err(Error::invalid("input", "`input` must hold at least one text or token list"))
        }
        Value::Array(items) if items[0].is_number() => {
            Ok((vec![EmbeddingInput::Tokens(tokens(items, "input")?)], true))
        }
        Value::Array(items) => {
            let item = |(i, item)| match item {
                Value::String(text) => Ok(EmbeddingInput::Text(text)),
                Value::Array(items) => Ok(EmbeddingInput::Tokens(tokens(items, &format!("input[{i}]"))?)),
                other => Err(wrong_type(&format!("input[{i}]"), "a string or a list of tokens", &other)),
            };
            Ok((items.into_iter().enumerate().map(item).collect::<Result<_>>()?, false))
        }
        other => Err(wrong_type("input", "a string, a list of strings or lists of tokens", &other)),
    }
}

fn tokens(items: Vec<Value>, path: &str) -> Result<Vec<u64>> {
    let token = |(i, item): (usize, &Value)| {
        item.as_number().and_then(as_u64).ok_or_else(|| wrong_type(&format!("{path}[{i}]"), "a token number", item))
    };
    items.iter().enumerate().map(token).collect()
}

pub fn encode(request: &EmbeddingRequest, dialect: &Dialect) -> Result<Encoded> {
    let EmbeddingRequest { model: _, inputs, single, dimensions, encoding, task, title, user, extra } = request;
    let mut body = Map::new();
    let mut dropped = Vec::new();
    let refused = |name: &'static str| dialect.refuses.contains(&name);
    body.insert("model".into(), dialect.model.as_str().into());
    let mut values = inputs.iter().map(input).collect::<Result<Vec<Value>>>()?;
    let input = if *single && values.len() == 1 { values.remove(0) } else { Value::Array(values) };
    body.insert("input".into(), input);
    if let Some(dimensions) = dimensions {
        if dialect.lacks.contains(&"dimensions") {
            return Err(Error::unsupported(
                "dimensions",
                "this target cannot choose the number of dimensions; leave `dimensions` out",
            ));
        }
        body.insert("dimensions".into(), (*dimensions).into());
    }
    if *encoding == Encoding::Base64 && !refused("encoding_format") {
        body.insert("encoding_format".into(), "base64".into());
    }
    match user {
        Some(_) if refused("user") => dropped.push("user"),
        Some(user) => drop(body.insert("user".into(), user.as_str().into())),
        None => {}
    }
    if task.is_some() {
        dropped.push("task");
    }
    if title.is_some() {
        dropped.push("title");
    }
    plain(extra, &mut body);
    Ok(Encoded { body, dropped })
}

fn input(input: &EmbeddingInput) -> Result<Value> {
    match input {
        EmbeddingInput::Text(text) => Ok(text.as_str().into()),
        EmbeddingInput::Tokens(tokens) => Ok(tokens.clone().into()),
        EmbeddingInput::Native { format: F, value } => Ok(value.clone()),
        EmbeddingInput::Native { format, value: _ } => {
            let text = format!("this target embeds text only; choose a model that speaks {}", format.name());
            Err(Error::unsupported("embedding_media", text))
        }
    }
}

pub fn decode_response(body: &[u8]) -> Result<EmbeddingResponse> {
    let value = parse_upstream(body)?;
    if value.get("error").is_some_and(|e| !e.is_null()) {
        return Err(super::error::in_answer(&value));
    }
    let mut f = Fields::new(value, "").map_err(upstream_shape)?;
    f.take("object");
    let model = f.string("model").map_err(upstream_shape)?.unwrap_or_default();
    let usage = f.item("usage").and_then(usage);
    let data = f.array("data").map_err(upstream_shape)?;
    let data = data.ok_or_else(|| Error::new(Kind::Upstream, "the upstream's answer has no embeddings"))?;
    let mut rows = Vec::with_capacity(data.len());
    for (at, row) in data.iter().enumerate() {
        let index = row.get("index").and_then(Value::as_number).and_then(as_u64).unwrap_or(at as u64);
        rows.push((index, vector(row.get("embedding"))?));
    }
    rows.sort_by_key(|(index, _)| *index);
    let vectors = rows.into_iter().map(|(_, vector)| vector).collect();
    Ok(EmbeddingResponse { model, vectors, usage, extra: f.rest(F) })
}

fn vector(value: Option<&Value>) -> Result<Vec<f32>> {
    let bad = || Error::new(Kind::Upstream, "the upstream sent an embedding in an unknown encoding");
    match value {
        Some(Value::Array(items)) => items.iter().map(|v| v.as_f64().map(|f| f as f32).ok_or_else(bad)).collect(),
        Some(Value::String(text)) => {
            let bytes = BASE64.decode(text).map_err(|_| bad())?;
            let (words, rest) = bytes.as_chunks::<4>();
            let vector: Vec<f32> = words.iter().map(|w| f32::from_le_bytes(*w)).collect();
            // Some servers put int8 or bits into base64: read as f32 those give absurd magnitudes.
            let sane = rest.is_empty() && vector.iter().all(|f| f.is_finite() && f.abs() < 1e6);
            if sane { Ok(vector) } else { Err(bad()) }
        }
        _ => Err(bad()),
    }
}

pub fn encode_response(response: &EmbeddingResponse, view: &ClientView) -> Result<Vec<u8>> {
    let EmbeddingResponse { model, vectors, usage, extra } = response;
    let failed = |e: serde_json::Error| Error::new(Kind::Internal, "an embedding could not be written").because(e);
    let mut out = br#"{"object":"list","data":["#.to_vec();
    for (index, vector) in vectors.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        out.extend_from_slice(format!(r#"{comma}{{"object":"embedding","index":{index},"embedding":"#).as_bytes());
        if view.base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|f| f.to_le_bytes()).collect();
            out.push(b'"');
            out.extend_from_slice(BASE64.encode(bytes).as_bytes());
            out.push(b'"');
        } else {
            serde_json::to_writer(&mut out, vector).map_err(failed)?;
        }
        out.push(b'}');
    }
    let mut rest = Map::new();
    if view.strict_sdk {
        rest.insert("id".into(), format!("embd-{}", view.request_id).into());
    }
    let model = if model.is_empty() { &view.model } else { model };
    rest.insert("model".into(), model.as_str().into());
    if let Some(usage) = usage.as_ref().and_then(embedding_usage) {
        rest.insert("usage".into(), usage);
    }
    plain(extra, &mut rest);
    let rest = Value::Object(rest).to_string();
    // `rest` is an object with at least `model`: its opening brace becomes the comma after the array.
    write!(out, "],{}", &rest[1..]).map_err(|e| failed(serde_json::Error::io(e)))?;
    Ok(out)
}

/// `total_tokens` is part of this shape even though nothing is generated, and no figure says that.
fn embedding_usage(usage: &crate::model::Usage) -> Option<Value> {
    let mut value = usage_value(usage)?;
    let map = value.as_object_mut()?;
    if usage.output_tokens.is_none() {
        map.shift_remove("completion_tokens");
    }
    if let Some(prompt) = map.get("prompt_tokens").cloned()
        && !map.contains_key("total_tokens")
    {
        map.insert("total_tokens".into(), prompt);
    }
    Some(value)
}
