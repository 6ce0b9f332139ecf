//! Whole answers, both ways. The wire has one choice, no log probabilities, and blocks of known kinds only: parts that no
//! block can say travel in `additionalModelResponseFields`, which clients hand out as it is.

use serde_json::{Map, Value, json};

use super::{
    ClientView,
    block::{self, Turn},
    json::{self, Fields},
    wire::{self, FORMAT},
};
use crate::{
    codec::{calls, mime, signature, written},
    error::{Error, Kind, Result},
    model::{
        Choice, Extra, Media, MediaKind, MediaSource, Part, Reasoning, Response, Signature, Text, ToolCall, ToolKind,
    },
};

pub fn decode(body: &[u8]) -> Result<Response> {
    message(json::parse_upstream(body)?).map_err(wire::upstream_fault)
}

fn message(value: Value) -> Result<Response> {
    let mut f = Fields::new(value, "")?;
    let Some(mut output) = f.object("output")? else {
        return Err(Error::new(Kind::Upstream, "the upstream's answer has no `output`"));
    };
    let mut message = output.object("message")?.ok_or_else(|| json::missing("output.message"))?;
    let content = message.take("content").ok_or_else(|| json::missing("output.message.content"))?;
    let parts = block::decode_all(content, "output.message.content", Turn::Model)?;
    let called = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    let choice = Choice {
        index: 0,
        parts,
        finish: f.string("stopReason")?.map(|raw| wire::read_finish(&raw, called)),
        logprobs: None,
        extra: Extra::default(),
    };
    let usage = f.map("usage")?.map(wire::read_usage);
    Ok(Response { choices: vec![choice], usage, extra: f.rest(FORMAT), ..Response::default() })
}

pub fn encode(response: &Response, view: &ClientView) -> Result<Vec<u8>> {
    let Response { id, model: _, created: _, choices, usage, service_tier, extra } = response;
    let choice = choices.first();
    let parts = choice.map(|c| c.parts.as_slice()).unwrap_or_default();
    let (mut content, mut beside) = (Vec::new(), Vec::new());
    for (index, part) in parts.iter().enumerate() {
        encode_part(part, &call_seed(id, view, index), &mut content, &mut beside);
    }
    let called = parts.iter().any(|p| matches!(p, Part::ToolCall(_)));
    let refused = parts.iter().any(|p| matches!(p, Part::Refusal(_)));
    let finish = choice.and_then(|c| c.finish.as_ref());
    let mut out = Map::new();
    out.insert("output".to_owned(), json!({"message": {"role": "assistant", "content": content}}));
    out.insert("stopReason".to_owned(), wire::stop_reason(finish, called, refused).into());
    out.insert("usage".to_owned(), Value::Object(wire::write_usage(usage.as_ref())));
    block::give_back(&mut out, extra);
    add_beside(&mut out, beside);
    // Clients require it; a codec has no clock.
    out.entry("metrics").or_insert_with(|| json!({"latencyMs": 0}));
    put_tier(&mut out, service_tier.as_deref());
    Ok(written::object(&out))
}

pub fn put_tier(out: &mut Map<String, Value>, tier: Option<&str>) {
    if let Some(tier) = tier.filter(|_| !out.contains_key("serviceTier")) {
        out.insert("serviceTier".to_owned(), json!({"type": tier}));
    }
}

/// Adds parts that no block can say.
pub fn add_beside(out: &mut Map<String, Value>, beside: Vec<Value>) {
    if beside.is_empty() {
        return;
    }
    let fields = out.entry(FIELDS).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(fields) = fields {
        fields.insert("portcullis_native".to_owned(), Value::Array(beside));
    }
}

fn encode_part(part: &Part, seed: &str, content: &mut Vec<Value>, beside: &mut Vec<Value>) {
    match part {
        Part::Text(text) => content.extend(text_blocks(text)),
        Part::Refusal(text) => content.push(json!({"text": text})),
        Part::Reasoning(reasoning) => content.extend(reasoning_blocks(reasoning)),
        Part::ToolCall(call) => {
            if let Some(sealed) = signature::beside_call(&call.id, call.signature.as_ref()) {
                content.push(sealed_block(sealed));
            }
            content.push(call_block(call, seed));
        }
        Part::Media(media) => match image(media) {
            Some((format, data)) => {
                content.push(json!({"image": {"format": format, "source": {"bytes": data}}}));
            }
            None => beside.extend(beside_content(part)),
        },
        Part::Native { format: FORMAT, kind: _, value } => content.push(value.clone()),
        Part::Native { .. } | Part::ToolResult(_) => beside.extend(beside_content(part)),
    }
}

fn text_blocks(text: &Text) -> Vec<Value> {
    let Text { text, citations, cache: _, signature, extra } = text;
    let mut blocks = Vec::new();
    if !citations.is_empty() || block::wrapping(extra, "citationsContent").is_some() {
        let citations: Vec<Value> = citations.iter().map(wire::write_citation).collect();
        let content = if text.is_empty() { json!([]) } else { json!([{"text": text}]) };
        blocks.push(json!({"citationsContent": {"content": content, "citations": citations}}));
    } else if !text.is_empty() || extra.of(FORMAT).is_some() {
        blocks.push(json!({"text": text}));
    }
    // A block has one member: the text's own signature stands in a block behind it.
    blocks.extend(signature.as_ref().map(|signature| reasoning_text("", Some(signature))));
    blocks
}

/// Readable reasoning, then what is sealed: two blocks of this wire.
fn reasoning_blocks(reasoning: &Reasoning) -> Vec<Value> {
    let Reasoning { text, signature, sealed, extra } = reasoning;
    let mut blocks = Vec::new();
    if sealed.is_none() || !text.is_empty() || signature.is_some() {
        let mut block = reasoning_text(text, signature.as_ref());
        if let Some(Value::Object(inner)) = block.pointer_mut("/reasoningContent/reasoningText") {
            block::give_back(inner, extra);
        }
        blocks.push(block);
    }
    if let Some(sealed) = sealed {
        blocks.push(sealed_block(sealed));
    }
    blocks
}

fn sealed_block(sealed: &Signature) -> Value {
    json!({"reasoningContent": {"redactedContent": wire::write_sealed(sealed)}})
}

fn reasoning_text(text: &str, signature: Option<&Signature>) -> Value {
    let mut inner = Map::new();
    inner.insert("text".to_owned(), text.into());
    if let Some(signature) = signature {
        inner.insert("signature".to_owned(), signature::write(signature, FORMAT).into());
    }
    json!({"reasoningContent": {"reasoningText": inner}})
}

fn call_block(call: &ToolCall, seed: &str) -> Value {
    let ToolCall { id, name, kind, arguments, signature, cache: _, extra } = call;
    let mut out = Map::new();
    out.insert("toolUseId".to_owned(), call_id(id, seed, signature.as_ref()).into());
    out.insert("name".to_owned(), name.as_str().into());
    out.insert("input".to_owned(), calls::tool_input(arguments, *kind == ToolKind::Custom));
    block::give_back(&mut out, extra);
    json!({"toolUse": out})
}

/// What an id is made from when the upstream gave none: whole and streamed answers make the same.
pub fn call_seed(id: &str, view: &ClientView, index: usize) -> String {
    let id = if id.is_empty() { &view.request_id } else { id };
    format!("{id}/{index}")
}

/// The id as the client sees it; a thought signature that belongs to the call rides in it.
pub fn call_id(id: &str, seed: &str, signature: Option<&Signature>) -> String {
    match id {
        "" => signature::join_id(&calls::made_id("tooluse_", &[seed]), signature),
        id => signature::told_id(id, signature),
    }
}

/// An image that a block can hold: its format and its bytes.
pub fn image(media: &Media) -> Option<(&'static str, &str)> {
    let MediaSource::Base64(data) = &media.source else { return None };
    let mime = media.mime.as_deref().and_then(mime::bare).or_else(|| mime::sniffed(data))?;
    let format = wire::format_of(MediaKind::Image, mime).filter(|_| media.kind == MediaKind::Image)?;
    Some((format, data))
}

/// A part that this wire has no block for.
pub fn beside_content(part: &Part) -> Option<Value> {
    match part {
        Part::Native { format, kind, value } => Some(json!({"format": format.name(), "type": kind, "value": value})),
        Part::Media(Media { kind, mime, source, name, .. }) => {
            let mut out = json!({"type": wire::member(*kind), "media_type": mime, "name": name});
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

pub const FIELDS: &str = "additionalModelResponseFields";
