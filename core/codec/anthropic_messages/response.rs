//! Whole answers, both ways. The wire has one choice, no log probabilities, and content blocks of known types only:
//! parts that no block can say travel beside the content in `portcullis_native`, where SDKs do not trip over them.

use serde_json::{Map, Value, json};

use super::{
    ClientView, block,
    json::{self, Fields},
    wire::{self, FORMAT},
};
use crate::{
    codec::{signature, written},
    error::{Error, Kind, Result},
    model::{Choice, Extra, Media, MediaSource, Part, Reasoning, Response, Signature, Text, ToolCall, ToolKind},
};

pub fn decode(body: &[u8]) -> Result<Response> {
    let value = json::parse_upstream(body)?;
    if value.get("type").and_then(Value::as_str) == Some("error") {
        return Err(super::error::decode_event(&value));
    }
    message(value).map_err(wire::upstream_fault)
}

fn message(value: Value) -> Result<Response> {
    let mut f = Fields::new(value, "")?;
    if !matches!(f.peek_str("type"), Some("message") | None) || f.peek("content").is_none() {
        return Err(Error::new(Kind::Upstream, "the upstream's answer is not a message"));
    }
    f.take("type");
    f.take("role");
    let content = f.take("content").unwrap_or_default();
    let stop_reason = f.string("stop_reason")?;
    let stop_sequence = f.string("stop_sequence")?;
    let details = f.take("stop_details");
    let usage = f.map("usage")?.map(wire::read_usage);
    let parts = block::decode_all(content, "content")?;
    let called = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    let choice = Choice {
        index: 0,
        parts,
        finish: stop_reason.map(|raw| wire::read_finish(&raw, called, stop_sequence, details)),
        logprobs: None,
        extra: Extra::default(),
    };
    Ok(Response {
        id: f.string("id")?.unwrap_or_default(),
        model: f.string("model")?.unwrap_or_default(),
        created: None,
        choices: vec![choice],
        service_tier: usage.as_ref().and_then(service_tier),
        usage,
        extra: f.rest(FORMAT),
    })
}

/// The wire tells the tier inside the usage.
pub fn service_tier(usage: &crate::model::Usage) -> Option<String> {
    usage.native.as_deref()?.1.get("service_tier")?.as_str().map(str::to_owned)
}

pub fn encode(response: &Response, view: &ClientView) -> Result<Vec<u8>> {
    let Response { id, model, created: _, choices, usage, service_tier: _, extra } = response;
    let id = wire::message_id(id, &view.request_id);
    let choice = choices.first();
    let (mut content, mut beside) = (Vec::new(), Vec::new());
    for (index, part) in choice.map(|c| c.parts.as_slice()).unwrap_or_default().iter().enumerate() {
        encode_part(part, &call_seed(&id, index), &mut content, &mut beside);
    }
    let mut out = Map::new();
    out.insert("id".to_owned(), id.into());
    out.insert("type".to_owned(), "message".into());
    out.insert("role".to_owned(), "assistant".into());
    out.insert("model".to_owned(), if model.is_empty() { view.model.as_str() } else { model.as_str() }.into());
    out.insert("content".to_owned(), Value::Array(content));
    stop_fields(choice, &mut out);
    out.insert("usage".to_owned(), Value::Object(wire::write_usage(usage.as_ref())));
    if !beside.is_empty() {
        out.insert(BESIDE.to_owned(), Value::Array(beside));
    }
    block::give_back(&mut out, extra);
    Ok(written::object(&out))
}

fn stop_fields(choice: Option<&Choice>, out: &mut Map<String, Value>) {
    let parts = choice.map(|c| c.parts.as_slice()).unwrap_or_default();
    let called = parts.iter().any(|p| matches!(p, Part::ToolCall(_)));
    let refused = parts.iter().any(|p| matches!(p, Part::Refusal(_)));
    let finish = choice.and_then(|c| c.finish.as_ref());
    let word = finish.map(|finish| wire::stop_reason(finish, called, refused));
    out.insert("stop_reason".to_owned(), word.map_or(Value::Null, Value::from));
    let sequence = finish.and_then(|f| f.stop_sequence.clone());
    out.insert("stop_sequence".to_owned(), sequence.map_or(Value::Null, Value::from));
    if let (Some(finish), Some(word)) = (finish, word) {
        out.insert("stop_details".to_owned(), wire::stop_details(finish, word));
    }
}

fn encode_part(part: &Part, seed: &str, content: &mut Vec<Value>, beside: &mut Vec<Value>) {
    match part {
        Part::Text(text) if text.text.is_empty() && text.citations.is_empty() && text.signature.is_none() => {}
        Part::Text(text) => content.push(text_block(text)),
        Part::Refusal(text) => content.push(json!({"type": "text", "text": text})),
        Part::Reasoning(reasoning) => content.extend(reasoning_blocks(reasoning)),
        Part::ToolCall(call) => {
            if let Some(sealed) = signature::beside_call(&call.id, call.signature.as_ref()) {
                content.push(sealed_block(sealed));
            }
            content.push(call_block(call, seed));
        }
        Part::Native { format: FORMAT, kind: _, value } => content.push(value.clone()),
        Part::Native { .. } | Part::Media(_) | Part::ToolResult(_) => beside.extend(beside_content(part)),
    }
}

fn text_block(text: &Text) -> Value {
    let Text { text, citations, cache: _, signature, extra } = text;
    let mut block = Map::new();
    block.insert("type".to_owned(), "text".into());
    block.insert("text".to_owned(), text.as_str().into());
    if !citations.is_empty() {
        block.insert("citations".to_owned(), citations.iter().map(wire::write_citation).collect());
    }
    if let Some(signature) = signature {
        block.insert("signature".to_owned(), signature::write(signature, FORMAT).into());
    }
    block::give_back(&mut block, extra);
    Value::Object(block)
}

/// Readable thinking, then sealed thinking: two block types of this wire.
fn reasoning_blocks(reasoning: &Reasoning) -> Vec<Value> {
    let Reasoning { text, signature, sealed, extra } = reasoning;
    let mut blocks = Vec::new();
    if sealed.is_none() || !text.is_empty() || signature.is_some() {
        let signature = signature.as_ref().map(|s| signature::write(s, FORMAT)).unwrap_or_default();
        blocks.push(json!({"type": "thinking", "thinking": text, "signature": signature}));
    }
    if let Some(sealed) = sealed {
        blocks.push(sealed_block(sealed));
    }
    if let Some(Value::Object(first)) = blocks.first_mut() {
        block::give_back(first, extra);
    }
    blocks
}

fn sealed_block(sealed: &Signature) -> Value {
    json!({"type": "redacted_thinking", "data": signature::write(sealed, FORMAT)})
}

fn call_block(call: &ToolCall, seed: &str) -> Value {
    let ToolCall { id, name, kind, arguments, signature, cache: _, extra } = call;
    let mut block = Map::new();
    block.insert("type".to_owned(), "tool_use".into());
    block.insert("id".to_owned(), call_id(id, seed, signature.as_ref()).into());
    block.insert("name".to_owned(), name.as_str().into());
    block.insert("input".to_owned(), wire::tool_input(arguments, *kind == ToolKind::Custom));
    block::give_back(&mut block, extra);
    Value::Object(block)
}

/// What an id is made from when the upstream gave none: whole and streamed answers make the same.
pub fn call_seed(message_id: &str, index: usize) -> String {
    format!("{message_id}/{index}")
}

/// The id as the client sees it; a thought signature that belongs to the call rides in it.
pub fn call_id(id: &str, seed: &str, signature: Option<&Signature>) -> String {
    match id {
        "" => signature::join_id(&wire::made_id("toolu_", &[seed]), signature),
        id => signature::told_id(id, signature),
    }
}

/// A part that this wire has no block for.
pub fn beside_content(part: &Part) -> Option<Value> {
    match part {
        Part::Native { format, kind, value } => Some(json!({"format": format.name(), "type": kind, "value": value})),
        Part::Media(Media { kind, mime, source, name, .. }) => {
            let kind = format!("{kind:?}").to_lowercase();
            let mut out = json!({"type": kind, "media_type": mime, "name": name});
            let (key, value) = match source {
                MediaSource::Base64(data) => ("data", data),
                MediaSource::Url(url) => ("url", url),
                MediaSource::File { id, .. } => ("file_id", id),
                MediaSource::Text(text) => ("text", text),
                MediaSource::Parts(_) => return None,
            };
            out[key] = value.as_str().into();
            Some(out)
        }
        _ => None,
    }
}

pub const BESIDE: &str = "portcullis_native";
