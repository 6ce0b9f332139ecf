//! The model list, token counts: small bodies of the wire that carry no conversation.

use serde_json::{Map, Value, json};

use super::{request, wire::model_path};
use crate::{
    codec::{
        Dialect, Encoded, ModelCard,
        json::{as_u64, parse_upstream},
    },
    error::{Error, Kind, Result},
    model::Request,
};

pub fn encode_list(models: &[ModelCard]) -> Vec<u8> {
    serde_json::to_vec(&json!({ "models": models.iter().map(card).collect::<Vec<_>>() })).unwrap_or_default()
}

pub fn encode_one(model: &ModelCard) -> Vec<u8> {
    serde_json::to_vec(&card(model)).unwrap_or_default()
}

fn card(model: &ModelCard) -> Value {
    let ModelCard { id, owner: _, created: _, context_window, max_output } = model;
    let mut out = Map::new();
    out.insert("name".to_owned(), json!(format!("models/{id}")));
    out.insert("displayName".to_owned(), json!(id));
    for (key, limit) in [("inputTokenLimit", context_window), ("outputTokenLimit", max_output)] {
        if let Some(limit) = limit {
            out.insert(key.to_owned(), json!(limit));
        }
    }
    // A card does not say what a model is for; embedding models say it in their names.
    let methods: &[&str] = if id.contains("embed") {
        &["embedContent", "batchEmbedContents"]
    } else {
        &["generateContent", "countTokens"]
    };
    out.insert("supportedGenerationMethods".to_owned(), json!(methods));
    Value::Object(out)
}

/// `countTokens` with the whole request, so that system text and tools are counted too.
pub fn encode_count(given: &Request, dialect: &Dialect) -> Result<Encoded> {
    let Encoded { body, dropped } = request::encode::request(given, dialect)?;
    let mut inner = Map::new();
    inner.insert("model".to_owned(), json!(model_path(&dialect.model)));
    inner.extend(body);
    let mut body = Map::new();
    body.insert("generateContentRequest".to_owned(), Value::Object(inner));
    Ok(Encoded { body, dropped })
}

pub fn decode_count(body: &[u8]) -> Result<u64> {
    let answer = parse_upstream(body)?;
    let total = answer.get("totalTokens").and_then(Value::as_number).and_then(as_u64);
    total.ok_or_else(|| Error::new(Kind::Upstream, "the upstream's token count holds no `totalTokens`"))
}

pub fn encode_count_response(tokens: u64) -> Vec<u8> {
    json!({ "totalTokens": tokens }).to_string().into_bytes()
}
