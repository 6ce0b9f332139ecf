//! Whole answers, both ways. The wire has one choice, no log probabilities, and content blocks of known types only:
//! parts that no block can say travel beside the content in `portcullis_native`, where SDKs do not trip over them.

use serde_json::{Value, json};

use super::{
    ClientView, block,
    json::{self, Fields},
    wire::{self, FORMAT},
};
use crate::{
    codec::{
        draft::{self, Draft, Said},
        figures, signature,
    },
    error::{Error, Kind, Result},
    model::{Choice, Extra, Media, MediaSource, Part, Reasoning, Response, Signature, Text, ToolCall, ToolKind},
};

pub fn decode(body: &[u8]) -> Result<Response> {
    let mut body = json::tape_upstream(body)?;
    message(body.item()).map_err(wire::upstream_fault)
}

fn message(body: json::Item) -> Result<Response> {
    let mut f = Fields::new(body, "")?;
    let no_message = || Error::new(Kind::Upstream, "the upstream's answer is not a message");
    match f.peek_str("type") {
        Some("error") => return Err(super::error::decode_event(&Value::Object(f.rest_map()))),
        Some("message") | None => {}
        Some(_) => return Err(no_message()),
    }
    f.skip("type");
    f.skip("role");
    let content = f.item("content").ok_or_else(no_message)?;
    let stop_reason = f.string("stop_reason")?;
    let stop_sequence = f.string("stop_sequence")?;
    let details = f.take("stop_details");
    let usage = f.written("usage")?;
    let service_tier = usage.as_ref().and_then(|usage| wire::service_tier(usage.as_bytes()));
    let usage = usage.map(|usage| figures::usage(FORMAT, usage, wire::read_usage));
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
        service_tier,
        usage,
        extra: f.rest(FORMAT),
    })
}

pub fn encode(response: &Response, view: &ClientView) -> Result<Vec<u8>> {
    let Response { id, model, created: _, choices, usage, service_tier: _, extra } = response;
    let id = wire::message_id(id, &view.request_id);
    let choice = choices.first();
    let (mut content, mut beside) = (Vec::new(), Vec::new());
    for (index, part) in choice.map(|c| c.parts.as_slice()).unwrap_or_default().iter().enumerate() {
        encode_part(part, &|| call_seed(&id, index), &mut content, &mut beside);
    }
    let mut out = Draft::new();
    out.put("id", id.as_str());
    out.put("type", "message");
    out.put("role", "assistant");
    out.put("model", if model.is_empty() { view.model.as_str() } else { model.as_str() });
    out.put("content", content);
    stop_fields(choice, &mut out);
    out.put("usage", wire::told_usage(usage.as_ref()));
    if !beside.is_empty() {
        out.put(BESIDE, Value::Array(beside));
    }
    out.add(extra.of(FORMAT));
    Ok(out.bytes())
}

fn stop_fields<'a>(choice: Option<&'a Choice>, out: &mut Draft<'a>) {
    let parts = choice.map(|c| c.parts.as_slice()).unwrap_or_default();
    let called = parts.iter().any(|p| matches!(p, Part::ToolCall(_)));
    let refused = parts.iter().any(|p| matches!(p, Part::Refusal(_)));
    let finish = choice.and_then(|c| c.finish.as_ref());
    let word = finish.map(|finish| wire::stop_reason(finish, called, refused));
    out.put("stop_reason", word);
    out.put("stop_sequence", finish.and_then(|f| f.stop_sequence.as_deref()));
    if let (Some(finish), Some(word)) = (finish, word) {
        out.put("stop_details", wire::stop_details(finish, word));
    }
}

fn encode_part<'a>(part: &'a Part, seed: &dyn Fn() -> String, content: &mut Vec<Said<'a>>, beside: &mut Vec<Value>) {
    match part {
        Part::Text(text) if text.text.is_empty() && text.citations.is_empty() && text.signature.is_none() => {}
        Part::Text(text) => content.push(text_block(text).into()),
        Part::Refusal(text) => {
            let mut block = Draft::new();
            block.put("type", "text");
            block.put("text", text.as_str());
            content.push(block.into());
        }
        Part::Reasoning(reasoning) => content.extend(reasoning_blocks(reasoning).into_iter().map(Said::from)),
        Part::ToolCall(call) => {
            if let Some(sealed) = signature::beside_call(&call.id, call.signature.as_ref()) {
                content.push(sealed_block(sealed).into());
            }
            content.push(call_block(call, seed).into());
        }
        Part::Native { format: FORMAT, kind: _, value } => content.push(Said::Lent(value)),
        Part::Native { .. } | Part::Media(_) | Part::ToolResult(_) => beside.extend(beside_content(part)),
    }
}

fn text_block(text: &Text) -> Draft<'_> {
    let Text { text, citations, cache: _, signature, extra } = text;
    let mut block = Draft::new();
    block.put("type", "text");
    block.put("text", text.as_str());
    if !citations.is_empty() {
        block.put("citations", Value::Array(citations.iter().map(wire::write_citation).collect()));
    }
    if let Some(signature) = signature {
        block.put("signature", signature::write(signature, FORMAT));
    }
    block.add(extra.of(FORMAT));
    block
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

fn call_block<'a>(call: &'a ToolCall, seed: &dyn Fn() -> String) -> Draft<'a> {
    let ToolCall { id, name, kind, arguments, signature, cache: _, extra } = call;
    let mut block = Draft::new();
    block.put("type", "tool_use");
    let seed = if id.is_empty() { seed() } else { String::new() };
    block.put("id", call_id(id, &seed, signature.as_ref()));
    block.put("name", name.as_str());
    let custom = *kind == ToolKind::Custom;
    let input = if custom { None } else { draft::input(arguments) };
    block.put("input", input.unwrap_or_else(|| wire::tool_input(arguments, custom).into()));
    block.add(extra.of(FORMAT));
    block
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
