//! Embeddings, both ways: `POST /v2/embed`. The wire wants to be told what the vectors are for; who does not say stores
//! documents. A caller of another format says it as `input_type`, or as its own format's task.

use serde_json::{Map, Value, json};

use super::{
    ClientView, Dialect, Encoded,
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
    let mut inputs = Vec::new();
    for (i, text) in f.array("texts")?.unwrap_or_default().into_iter().enumerate() {
        match text {
            Value::String(text) => inputs.push(EmbeddingInput::Text(text)),
            other => return Err(json::wrong_type(&format!("texts[{i}]"), "a string", &other)),
        }
    }
    for key in ["images", "inputs"] {
        let list = f.array(key)?.unwrap_or_default();
        inputs.extend(list.into_iter().map(|value| match value {
            Value::String(image) => native(json!({"content": [{"type": "image_url", "image_url": {"url": image}}]})),
            value => native(value),
        }));
    }
    if inputs.is_empty() {
        return Err(Error::invalid("texts", "`texts`, `images` or `inputs` must hold at least one entry"));
    }
    Ok(EmbeddingRequest {
        model,
        inputs,
        dimensions: f.u64("output_dimension")?,
        task: Some(f.required_string("input_type")?),
        extra: f.rest(FORMAT),
        ..EmbeddingRequest::default()
    })
}

fn native(value: Value) -> EmbeddingInput {
    EmbeddingInput::Native { format: FORMAT, value }
}

pub fn encode(request: &EmbeddingRequest, dialect: &Dialect) -> Result<Encoded> {
    let EmbeddingRequest { model: _, inputs, single: _, dimensions, encoding: _, task, title, user, extra } = request;
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    put("model", dialect.model.as_str().into());
    let said = extra.any().and_then(|(_, fields)| fields.get("input_type")).and_then(Value::as_str);
    put("input_type", input_type(task.as_deref().or(said)).into());
    let (mut texts, mut others) = (Vec::new(), Vec::new());
    for input in inputs {
        match input {
            EmbeddingInput::Text(text) => texts.push(text),
            EmbeddingInput::Native { format: FORMAT, value } => others.push(value.clone()),
            EmbeddingInput::Native { .. } => {
                return Err(Error::unsupported("embedding_media", "this target embeds text; send the words"));
            }
            EmbeddingInput::Tokens(_) => {
                let message = "this target counts tokens in its own way; send text instead of token numbers";
                return Err(Error::unsupported("embedding_tokens", message));
            }
        }
    }
    if others.is_empty() {
        put("texts", json!(texts));
    } else {
        // In one list, in the caller's order of kinds.
        let lines = texts.into_iter().map(|text| json!({"content": [{"type": "text", "text": text}]}));
        put("inputs", lines.chain(others).collect());
    }
    // Vectors of numbers are what every other format can carry.
    put("embedding_types", json!(["float"]));
    if let Some(dimensions) = dimensions {
        put("output_dimension", (*dimensions).into());
    }
    let given = [("title", title.is_some()), ("user", user.is_some())];
    let dropped = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
    wire::give_back(&mut body, extra);
    Ok(Encoded { body, dropped })
}

/// The wire's word; those of Gemini's tasks in it.
fn input_type(task: Option<&str>) -> String {
    match task {
        None => "search_document".to_owned(),
        Some("RETRIEVAL_QUERY" | "QUESTION_ANSWERING" | "FACT_VERIFICATION" | "CODE_RETRIEVAL_QUERY" | "query") => {
            "search_query".to_owned()
        }
        Some("RETRIEVAL_DOCUMENT" | "SEMANTIC_SIMILARITY" | "TASK_TYPE_UNSPECIFIED" | "document") => {
            "search_document".to_owned()
        }
        Some(word) => word.to_ascii_lowercase(),
    }
}

pub fn decode_response(body: &[u8]) -> Result<EmbeddingResponse> {
    let mut f = Fields::new(json::parse_upstream(body)?, "").map_err(wire::upstream_fault)?;
    let none = || Error::new(Kind::Upstream, "the upstream's answer has no embeddings of numbers");
    let lists = match f.take("embeddings") {
        // By type, or, in the older interface, the one list.
        Some(Value::Object(mut map)) => map.remove("float"),
        other => other,
    };
    let Some(Value::Array(lists)) = lists else { return Err(none()) };
    let vector = |list: &Value| -> Result<Vec<f32>> {
        let items = list.as_array().ok_or_else(none)?;
        items.iter().map(|n| n.as_f64().map(|n| n as f32).ok_or_else(none)).collect()
    };
    let vectors = lists.iter().map(vector).collect::<Result<_>>()?;
    let billed = f.peek("meta").and_then(|meta| meta.pointer("/billed_units/input_tokens")).and_then(Value::as_u64);
    let usage = billed.map(|tokens| Usage { input_tokens: Some(tokens), ..Usage::default() });
    // The texts come back with their vectors: nobody needs them twice.
    f.take("texts");
    Ok(EmbeddingResponse { vectors, usage, extra: f.rest(FORMAT), ..EmbeddingResponse::default() })
}

pub fn encode_response(response: &EmbeddingResponse, view: &ClientView) -> Result<Vec<u8>> {
    let EmbeddingResponse { model: _, vectors, usage, extra } = response;
    let mut out = Map::new();
    out.insert("id".to_owned(), view.request_id.as_str().into());
    out.insert("embeddings".to_owned(), json!({"float": vectors}));
    let own = extra.of(FORMAT).cloned().unwrap_or_default();
    if let Some(tokens) = usage.as_ref().and_then(|u| u.input_tokens).filter(|_| !own.contains_key("meta")) {
        let meta = json!({"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}});
        out.insert("meta".to_owned(), meta);
    }
    out.insert("response_type".to_owned(), "embeddings_by_type".into());
    out.extend(own);
    serde_json::to_vec(&out).map_err(|e| Error::new(Kind::Internal, "an embedding could not be written").because(e))
}
