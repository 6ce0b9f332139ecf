//! Embeddings: `embedContent` (one content) and `batchEmbedContents` (a list). To an upstream it is always the list, under
//! `:batchEmbedContents`. A content that holds more than text is one vector of this wire alone.

use serde_json::{Map, Value, json};

use super::{
    usage,
    wire::{GEMINI, bare_model, fill, list, model_path, object, spelling, string_any, take_array},
};
use crate::{
    codec::{
        ClientView, Dialect, Encoded, Inbound,
        json::{Fields, missing, parse, parse_upstream},
    },
    error::{Error, Kind, Result},
    model::{EmbeddingInput, EmbeddingRequest, EmbeddingResponse, Encoding, Extra, Usage},
};

pub fn decode(body: &[u8], inbound: Inbound<'_>) -> Result<EmbeddingRequest> {
    let mut fields = Fields::new(parse(body)?, "")?;
    let single = fields.peek("requests").is_none();
    let mut asked = Vec::new();
    let mut top = Map::new();
    if single {
        asked.push(one(fields)?);
    } else {
        for (i, request) in list(&mut fields, &["requests"])?.into_iter().enumerate() {
            asked.push(one(Fields::new(request, format!("requests[{i}]"))?)?);
        }
        fields.take("model");
        top = fields.rest_map();
    }
    let Some(first) = asked.first() else {
        return Err(Error::invalid("requests", "`requests` is empty: send at least one content"));
    };
    if let Some(at) = asked.iter().position(|a| a.knobs != first.knobs) {
        return Err(Error::unsupported(
            "requests",
            format!(
                "requests[{at}] asks for another model, task, title or size than requests[0]; send them as separate calls"
            ),
        ));
    }
    let Knobs { model, task, title, dimensions, rest } = first.knobs.clone();
    let model = match (inbound.model, model) {
        (Some(path), _) => bare_model(path).to_owned(),
        (None, Some(name)) => name,
        (None, None) => return Err(missing("model")),
    };
    fill(&mut top, Some(&rest));
    Ok(EmbeddingRequest {
        model,
        inputs: asked.into_iter().map(|a| a.input).collect(),
        single,
        dimensions,
        encoding: Encoding::Float,
        task,
        title,
        user: None,
        extra: Extra::new(GEMINI, top),
    })
}

struct Asked {
    input: EmbeddingInput,
    knobs: Knobs,
}

#[derive(Clone, PartialEq)]
struct Knobs {
    model: Option<String>,
    task: Option<String>,
    title: Option<String>,
    dimensions: Option<u64>,
    rest: Map<String, Value>,
}

fn one(mut fields: Fields) -> Result<Asked> {
    let model = fields.string("model")?.map(|m| bare_model(&m).to_owned());
    let task = string_any(&mut fields, &["taskType", "task_type"])?;
    let title = fields.string("title")?;
    let dimensions = fields.u64(spelling(&fields, &["outputDimensionality", "output_dimensionality"]))?;
    let path = fields.path("content");
    let content = fields.take("content").ok_or_else(|| missing(&path))?;
    let input = match content {
        Value::String(text) => EmbeddingInput::Text(text),
        content => input(content, path)?,
    };
    Ok(Asked { input, knobs: Knobs { model, task, title, dimensions, rest: fields.rest_map() } })
}

/// One vector a content: a single text is everybody's, anything richer stays as it is.
fn input(content: Value, path: String) -> Result<EmbeddingInput> {
    let mut fields = Fields::new(content.clone(), path)?;
    let parts = list(&mut fields, &["parts"])?;
    match parts.as_slice() {
        [] => Err(missing(&fields.path("parts"))),
        [Value::Object(part)] if part.len() == 1 && part.get("text").is_some_and(Value::is_string) => {
            Ok(EmbeddingInput::Text(part["text"].as_str().unwrap_or_default().to_owned()))
        }
        _ => Ok(EmbeddingInput::Native { format: GEMINI, value: content }),
    }
}

pub fn encode(request: &EmbeddingRequest, dialect: &Dialect) -> Result<Encoded> {
    let EmbeddingRequest { model: _, inputs, single: _, dimensions, encoding: _, task, title, user, extra } = request;
    let mut requests = Vec::with_capacity(inputs.len());
    for (i, input) in inputs.iter().enumerate() {
        let content = match input {
            EmbeddingInput::Text(text) => json!({ "parts": [{ "text": text }] }),
            EmbeddingInput::Native { format, value } if *format == GEMINI => value.clone(),
            EmbeddingInput::Native { .. } => {
                return Err(Error::unsupported(
                    "input",
                    format!("input[{i}] holds more than text, which this target cannot read"),
                ));
            }
            EmbeddingInput::Tokens(_) => {
                return Err(Error::unsupported(
                    "token_input",
                    format!("input[{i}] is a list of tokens; this target reads text only"),
                ));
            }
        };
        let mut one = Map::new();
        one.insert("model".to_owned(), json!(model_path(&dialect.model)));
        one.insert("content".to_owned(), content);
        for (key, word) in [("taskType", task), ("title", title)] {
            if let Some(word) = word {
                one.insert(key.to_owned(), json!(word));
            }
        }
        if let Some(dimensions) = dimensions {
            one.insert("outputDimensionality".to_owned(), json!(dimensions));
        }
        fill(&mut one, extra.of(GEMINI));
        requests.push(Value::Object(one));
    }
    let mut body = Map::new();
    body.insert("requests".to_owned(), Value::Array(requests));
    Ok(Encoded { body, dropped: if user.is_some() { vec!["user"] } else { Vec::new() } })
}

pub fn decode_response(body: &[u8]) -> Result<EmbeddingResponse> {
    let mut answer = object(parse_upstream(body)?);
    if answer.contains_key("error") {
        return Err(super::error::decode_value(&Value::Object(answer), None));
    }
    let mut vectors: Vec<Vec<f32>> = Vec::new();
    if let Some(one) = answer.shift_remove("embedding") {
        vectors.push(vector(&one)?);
    }
    for one in take_array(&mut answer, "embeddings") {
        vectors.push(vector(&one)?);
    }
    if vectors.is_empty() {
        return Err(Error::new(Kind::Upstream, "the upstream's answer holds no embeddings"));
    }
    let usage =
        answer.shift_remove("usageMetadata").map(object).map(|native| usage::decode(Value::Object(native).into()));
    Ok(EmbeddingResponse { model: String::new(), vectors, usage, extra: Extra::new(GEMINI, answer) })
}

fn vector(embedding: &Value) -> Result<Vec<f32>> {
    let broken = || Error::new(Kind::Upstream, "the upstream's embedding is not a list of numbers");
    let values = embedding.get("values").and_then(Value::as_array).ok_or_else(broken)?;
    values.iter().map(|v| v.as_f64().map(|f| f as f32).ok_or_else(broken)).collect()
}

pub fn encode_response(response: &EmbeddingResponse, view: &ClientView) -> Result<Vec<u8>> {
    let EmbeddingResponse { model: _, vectors, usage, extra } = response;
    let mut out = Map::new();
    let mut embeddings: Vec<Value> = vectors.iter().map(|v| json!({ "values": v })).collect();
    if view.single && embeddings.len() == 1 {
        out.insert("embedding".to_owned(), embeddings.remove(0));
    } else {
        out.insert("embeddings".to_owned(), Value::Array(embeddings));
    }
    if let Some(usage) = usage {
        out.insert("usageMetadata".to_owned(), usage_of(usage));
    }
    fill(&mut out, extra.of(GEMINI));
    serde_json::to_vec(&out)
        .map_err(|e| Error::new(Kind::Internal, "the answer could not be written as JSON").because(e))
}

fn usage_of(usage: &Usage) -> Value {
    match usage.native_of(GEMINI) {
        Some(native) => Value::Object(native),
        None => usage
            .input_tokens
            .map_or_else(|| json!({}), |tokens| json!({ "promptTokenCount": tokens, "totalTokenCount": tokens })),
    }
}
