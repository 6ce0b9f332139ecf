//! Embeddings of models at Bedrock, as upstream: `POST /model/{model}/invoke`, whose body is each maker's own. Amazon's Titan
//! takes one text a request; Cohere's take a list and want to be told what it is for.

use serde_json::{Map, Value, json};

use super::{
    Dialect, Encoded,
    json::{self, Fields},
    wire,
};
use crate::{
    error::{Error, Kind, Result},
    model::{EmbeddingInput, EmbeddingRequest, EmbeddingResponse, Usage},
};

pub fn encode(request: &EmbeddingRequest, dialect: &Dialect) -> Result<Encoded> {
    let EmbeddingRequest { model: _, inputs, single: _, dimensions, encoding: _, task, title, user, extra } = request;
    let mut texts = Vec::with_capacity(inputs.len());
    for input in inputs {
        match input {
            EmbeddingInput::Text(text) => texts.push(text.as_str()),
            EmbeddingInput::Tokens(_) => {
                let message = "this model counts tokens in its own way; send text instead of token numbers";
                return Err(Error::unsupported("embedding_tokens", message));
            }
            EmbeddingInput::Native { .. } => {
                return Err(Error::unsupported("embedding_media", "this model embeds text here; send the words"));
            }
        }
    }
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    let mut dropped = Vec::new();
    if dialect.model.contains("cohere.") {
        let said = extra.any().and_then(|(_, fields)| fields.get("input_type")).and_then(Value::as_str);
        let kind = match task.as_deref().or(said) {
            None | Some("RETRIEVAL_DOCUMENT" | "document") => "search_document".to_owned(),
            Some("RETRIEVAL_QUERY" | "query") => "search_query".to_owned(),
            Some(word) => word.to_ascii_lowercase(),
        };
        put("texts", json!(texts));
        put("input_type", kind.into());
        put("embedding_types", json!(["float"]));
        if let Some(dimensions) = dimensions {
            put("output_dimension", (*dimensions).into());
        }
    } else {
        let [text] = texts[..] else {
            let message = "this model embeds one text a request; send them one by one, or choose another model";
            return Err(Error::unsupported("input", message));
        };
        put("inputText", text.into());
        if let Some(dimensions) = dimensions {
            put("dimensions", (*dimensions).into());
        }
        if task.is_some() {
            dropped.push("task");
        }
    }
    for (name, given) in [("title", title.is_some()), ("user", user.is_some())] {
        if given {
            dropped.push(name);
        }
    }
    Ok(Encoded { body, dropped })
}

/// By the shape of the answer: who made it is not said.
pub fn decode_response(body: &[u8]) -> Result<EmbeddingResponse> {
    let none = || Error::new(Kind::Upstream, "the upstream's answer has no embeddings of numbers");
    let mut f = Fields::new(json::parse_upstream(body)?, "").map_err(wire::upstream_fault)?;
    let lists = match (f.take("embedding"), f.take("embeddings")) {
        (Some(one), _) => vec![one],
        (None, Some(Value::Array(lists))) => lists,
        (None, Some(Value::Object(mut by_type))) => match by_type.remove("float") {
            Some(Value::Array(lists)) => lists,
            _ => return Err(none()),
        },
        _ => return Err(none()),
    };
    let vector = |list: &Value| -> Result<Vec<f32>> {
        let items = list.as_array().ok_or_else(none)?;
        items.iter().map(|n| n.as_f64().map(|n| n as f32).ok_or_else(none)).collect()
    };
    let vectors = lists.iter().map(vector).collect::<Result<_>>()?;
    let tokens = f.u64("inputTextTokenCount").map_err(wire::upstream_fault)?;
    let usage = tokens.map(|tokens| Usage { input_tokens: Some(tokens), ..Usage::default() });
    Ok(EmbeddingResponse { vectors, usage, ..EmbeddingResponse::default() })
}
