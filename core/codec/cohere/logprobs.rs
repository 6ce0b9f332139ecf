//! `logprobs` ⇄ the canonical (OpenAI-shaped) log probabilities. This wire tells of pieces of text, each made of one or more
//! tokens, and of no others that might have stood there: a piece becomes one entry, as likely as all its tokens together.

use serde_json::{Value, json};

pub fn read(items: &[Value]) -> Option<Value> {
    let content: Vec<Value> = items.iter().map(entry).collect();
    (!content.is_empty()).then(|| json!({ "content": content }))
}

fn entry(item: &Value) -> Value {
    let text = item.get("text").and_then(Value::as_str).unwrap_or_default();
    let likely = match item.get("logprobs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default() {
        [only] => only.clone(),
        several => json!(several.iter().filter_map(Value::as_f64).sum::<f64>()),
    };
    json!({"token": text, "logprob": likely, "bytes": text.as_bytes(), "top_logprobs": []})
}

pub fn write(logprobs: &Value) -> Vec<Value> {
    let content = logprobs.get("content").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let item = |entry: &Value| json!({"token_ids": [], "text": entry.get("token"), "logprobs": [entry.get("logprob")]});
    content.iter().map(item).collect()
}

/// All of them as one piece, which is what an event of a stream has room for.
pub fn joined(logprobs: &Value) -> Option<Value> {
    let content = logprobs.get("content").and_then(Value::as_array).filter(|list| !list.is_empty())?;
    let text: String = content.iter().filter_map(|entry| entry.get("token").and_then(Value::as_str)).collect();
    let likely: Vec<&Value> = content.iter().filter_map(|entry| entry.get("logprob")).collect();
    Some(json!({"token_ids": [], "text": text, "logprobs": likely}))
}
