//! Embeddings, both ways: `POST /api/embed`.

use serde_json::{Map, Value, json};

use super::{
    ClientView, Dialect, Encoded, error,
    json::{self, Fields},
    wire::{self, FORMAT},
};
use crate::{
    error::{Error, Kind, Result},
    model::{EmbeddingInput, EmbeddingRequest, EmbeddingResponse, Usage},
};

pub fn decode(body: &[u8], model: Option<&str>) -> Result<EmbeddingRequest> {
    let mut f = Fields::new(json::parse(body)?, "")?;
    let named = f.string("model")?;
    let model = model.map(str::to_owned).or(named).ok_or_else(|| json::missing("model"))?;
    let (texts, single) = match f.take("input").ok_or_else(|| json::missing("input"))? {
        Value::String(text) => (vec![Value::String(text)], true),
        Value::Array(list) => (list, false),
        other => return Err(json::wrong_type("input", "a string or an array of strings", &other)),
    };
    let input = |(i, text): (usize, Value)| match text {
        Value::String(text) => Ok(EmbeddingInput::Text(text)),
        other => Err(json::wrong_type(&format!("input[{i}]"), "a string", &other)),
    };
    Ok(EmbeddingRequest {
        model,
        inputs: texts.into_iter().enumerate().map(input).collect::<Result<_>>()?,
        single,
        dimensions: f.u64("dimensions")?,
        extra: f.rest(FORMAT),
        ..EmbeddingRequest::default()
    })
}

pub fn encode(request: &EmbeddingRequest, dialect: &Dialect) -> Result<Encoded> {
    let EmbeddingRequest { model: _, inputs, single: _, dimensions, encoding: _, task, title, user, extra } = request;
    let text = |input: &EmbeddingInput| match input {
        EmbeddingInput::Text(text) => Ok(Value::from(text.as_str())),
        EmbeddingInput::Tokens(_) => {
            let message = "this server counts tokens in its own way; send text instead of token numbers";
            Err(Error::unsupported("embedding_tokens", message))
        }
        EmbeddingInput::Native { .. } => {
            Err(Error::unsupported("embedding_media", "this server embeds text; send the words"))
        }
    };
    let mut body = Map::new();
    body.insert("model".to_owned(), dialect.model.as_str().into());
    body.insert("input".to_owned(), inputs.iter().map(text).collect::<Result<_>>()?);
    if let Some(dimensions) = dimensions {
        body.insert("dimensions".to_owned(), (*dimensions).into());
    }
    for (key, value) in extra.of(FORMAT).into_iter().flatten() {
        body.entry(key).or_insert_with(|| value.clone());
    }
    let given = [("task", task.is_some()), ("title", title.is_some()), ("user", user.is_some())];
    let dropped = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
    Ok(Encoded { body, dropped })
}

pub fn decode_response(body: &[u8]) -> Result<EmbeddingResponse> {
    let value = json::parse_upstream(body)?;
    if value.get("error").is_some_and(|e| !e.is_null()) {
        return Err(error::decode_line(&value));
    }
    let none = || Error::new(Kind::Upstream, "the upstream's answer has no embeddings of numbers");
    let mut f = Fields::new(value, "").map_err(wire::upstream_fault)?;
    let lists = f.array("embeddings").map_err(wire::upstream_fault)?.ok_or_else(none)?;
    let vector = |list: &Value| -> Result<Vec<f32>> {
        let items = list.as_array().ok_or_else(none)?;
        items.iter().map(|n| n.as_f64().map(|n| n as f32).ok_or_else(none)).collect()
    };
    let vectors = lists.iter().map(vector).collect::<Result<_>>()?;
    let usage = wire::take_usage(&mut f).map(|usage| Usage { input_tokens: usage.input_tokens, ..Usage::default() });
    let model = f.string("model").map_err(wire::upstream_fault)?.unwrap_or_default();
    Ok(EmbeddingResponse { model, vectors, usage, extra: f.rest(FORMAT) })
}

pub fn encode_response(response: &EmbeddingResponse, view: &ClientView) -> Result<Vec<u8>> {
    let EmbeddingResponse { model, vectors, usage, extra: _ } = response;
    let model = if model.is_empty() { &view.model } else { model };
    let mut out = json!({"model": model, "embeddings": vectors});
    if let Some(tokens) = usage.as_ref().and_then(|u| u.input_tokens) {
        out["prompt_eval_count"] = tokens.into();
    }
    Ok(out.to_string().into_bytes())
}
