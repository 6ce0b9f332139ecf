//! `logprobsResult` ⇄ the canonical (OpenAI-shaped) log probabilities.

use serde_json::{Map, Value, json};

/// One entry a step: the chosen token with its alternatives.
pub fn decode(result: &Value) -> Option<Value> {
    let chosen = result.get("chosenCandidates")?.as_array()?;
    let top = result.get("topCandidates").and_then(Value::as_array);
    let content: Vec<Value> = chosen
        .iter()
        .enumerate()
        .map(|(i, token)| {
            let mut entry = decode_token(token);
            let others = top.and_then(|t| t.get(i)).and_then(|t| t.get("candidates")).and_then(Value::as_array);
            let others = others.map(|o| o.iter().map(|t| Value::Object(decode_token(t))).collect()).unwrap_or_default();
            entry.insert("top_logprobs".to_owned(), Value::Array(others));
            Value::Object(entry)
        })
        .collect();
    Some(json!({ "content": content }))
}

fn decode_token(token: &Value) -> Map<String, Value> {
    let text = token.get("token").and_then(Value::as_str).unwrap_or_default();
    let mut out = Map::new();
    out.insert("token".to_owned(), json!(text));
    out.insert("logprob".to_owned(), token.get("logProbability").cloned().unwrap_or_else(|| json!(0)));
    out.insert("bytes".to_owned(), json!(text.as_bytes()));
    out
}

pub fn encode(logprobs: &Value) -> Option<Value> {
    let content = logprobs.get("content")?.as_array()?;
    let chosen: Vec<Value> = content.iter().map(encode_token).collect();
    let mut out = Map::new();
    let has_top =
        content.iter().any(|e| e.get("top_logprobs").and_then(Value::as_array).is_some_and(|t| !t.is_empty()));
    if has_top {
        let top: Vec<Value> = content
            .iter()
            .map(|entry| {
                let others = entry.get("top_logprobs").and_then(Value::as_array);
                json!({ "candidates": others.map(|o| o.iter().map(encode_token).collect::<Vec<_>>()).unwrap_or_default() })
            })
            .collect();
        out.insert("topCandidates".to_owned(), Value::Array(top));
    }
    out.insert("chosenCandidates".to_owned(), Value::Array(chosen));
    Some(Value::Object(out))
}

fn encode_token(entry: &Value) -> Value {
    let field = |key: &str| entry.get(key).cloned().unwrap_or(Value::Null);
    json!({ "token": field("token"), "logProbability": field("logprob") })
}
