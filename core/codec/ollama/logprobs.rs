//! The `logprobs` of an answer or a line ⇄ the canonical (OpenAI-shaped) log probabilities: a list of tokens, each with those
//! that might have stood there.

use serde_json::{Value, json};

use super::json::Fields;
use crate::error::Result;

pub fn take(f: &mut Fields) -> Result<Option<Value>> {
    let tokens = f.array("logprobs")?.unwrap_or_default();
    let content: Vec<Value> = tokens.iter().map(step).collect();
    Ok((!content.is_empty()).then(|| json!({ "content": content })))
}

fn step(entry: &Value) -> Value {
    let others = entry.get("top_logprobs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let mut out = token(entry);
    out["top_logprobs"] = others.iter().map(token).collect();
    out
}

fn token(entry: &Value) -> Value {
    let text = entry.get("token").and_then(Value::as_str).unwrap_or_default();
    let bytes = entry.get("bytes").filter(|bytes| bytes.is_array()).cloned();
    let bytes = bytes.unwrap_or_else(|| json!(text.as_bytes()));
    json!({"token": text, "logprob": entry.get("logprob").cloned().unwrap_or_default(), "bytes": bytes})
}

pub fn write(logprobs: &Value) -> Option<Value> {
    logprobs.get("content").filter(|content| content.as_array().is_some_and(|list| !list.is_empty())).cloned()
}
