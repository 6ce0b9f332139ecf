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
    codec::{
        calls,
        draft::{self, Draft, Said},
        figures, mime,
        openai_chat::wire::tier_word,
        signature,
    },
    error::{Error, Kind, Result},
    model::{
        Choice, Extra, Media, MediaKind, MediaSource, Part, Reasoning, Response, Signature, Text, ToolCall, ToolKind,
    },
};

pub fn decode(body: &[u8]) -> Result<Response> {
    let mut body = json::tape_upstream(body)?;
    message(body.item()).map_err(wire::upstream_fault)
}

fn message(body: json::Item) -> Result<Response> {
    let mut f = Fields::new(body, "")?;
    let Some(mut output) = f.object("output")? else {
        return Err(Error::new(Kind::Upstream, "the upstream's answer has no `output`"));
    };
    let mut message = output.object("message")?.ok_or_else(|| json::missing("output.message"))?;
    let content = message.item("content").ok_or_else(|| json::missing("output.message.content"))?;
    let parts = block::decode_all(content, "output.message.content", Turn::Model)?;
    let called = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    let choice = Choice {
        index: 0,
        parts,
        finish: f.string("stopReason")?.map(|raw| wire::read_finish(&raw, called)),
        logprobs: None,
        extra: Extra::default(),
    };
    let usage = f.written("usage")?.map(|usage| figures::usage(FORMAT, usage, wire::read_usage));
    Ok(Response { choices: vec![choice], usage, extra: f.rest(FORMAT), ..Response::default() })
}

pub fn encode(response: &Response, view: &ClientView) -> Result<Vec<u8>> {
    let Response { id, model: _, created: _, choices, usage, service_tier, extra } = response;
    let choice = choices.first();
    let parts = choice.map(|c| c.parts.as_slice()).unwrap_or_default();
    let (mut content, mut beside) = (Vec::new(), Vec::new());
    for (index, part) in parts.iter().enumerate() {
        encode_part(part, &|| call_seed(id, view, index), &mut content, &mut beside);
    }
    let called = parts.iter().any(|p| matches!(p, Part::ToolCall(_)));
    let refused = parts.iter().any(|p| matches!(p, Part::Refusal(_)));
    let finish = choice.and_then(|c| c.finish.as_ref());
    let (mut out, mut output, mut message) = (Draft::new(), Draft::new(), Draft::new());
    message.put("role", "assistant");
    message.put("content", content);
    output.put("message", message);
    out.put("output", output);
    out.put("stopReason", wire::stop_reason(finish, called, refused));
    out.put("usage", wire::told_usage(usage.as_ref()));
    out.add(extra.of(FORMAT));
    if !beside.is_empty() {
        let own = extra.of(FORMAT).and_then(|own| own.get(FIELDS));
        let mut fields = own.map(|own| (FIELDS.to_owned(), own.clone())).into_iter().collect();
        add_beside(&mut fields, beside);
        out.take(&mut fields);
    }
    // Clients require it; a codec has no clock.
    if !out.has("metrics") {
        out.put("metrics", Said::Raw(r#"{"latencyMs":0}"#));
    }
    if let Some(tier) = service_tier.as_deref().filter(|_| !out.has("serviceTier")) {
        out.put("serviceTier", json!({"type": tier_word(tier)}));
    }
    Ok(out.bytes())
}

pub fn put_tier(out: &mut Map<String, Value>, tier: Option<&str>) {
    if let Some(tier) = tier.filter(|_| !out.contains_key("serviceTier")) {
        out.insert("serviceTier".to_owned(), json!({"type": tier_word(tier)}));
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

fn encode_part<'a>(part: &'a Part, seed: &dyn Fn() -> String, content: &mut Vec<Said<'a>>, beside: &mut Vec<Value>) {
    match part {
        Part::Text(text) => match plain_text(text) {
            Some(block) => content.push(block.into()),
            None => content.extend(text_blocks(text).into_iter().map(Said::from)),
        },
        Part::Refusal(text) => content.push(json!({"text": text}).into()),
        Part::Reasoning(reasoning) => content.extend(reasoning_blocks(reasoning).into_iter().map(Said::from)),
        Part::ToolCall(call) => {
            if let Some(sealed) = signature::beside_call(&call.id, call.signature.as_ref()) {
                content.push(sealed_block(sealed).into());
            }
            content.push(call_block(call, seed).into());
        }
        Part::Media(media) => match image(media) {
            Some((format, data)) => {
                content.push(json!({"image": {"format": format, "source": {"bytes": data}}}).into());
            }
            None => beside.extend(beside_content(part)),
        },
        Part::Native { format: FORMAT, kind: _, value } => content.push(Said::Lent(value)),
        Part::Native { .. } | Part::ToolResult(_) => beside.extend(beside_content(part)),
    }
}

/// The block of a text that has nothing with it.
fn plain_text(text: &Text) -> Option<Draft<'_>> {
    let Text { text, citations, cache: _, signature, extra } = text;
    let mut block = Draft::new();
    block.put("text", text.as_str());
    (!text.is_empty() && citations.is_empty() && signature.is_none() && extra.of(FORMAT).is_none()).then_some(block)
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

fn call_block<'a>(call: &'a ToolCall, seed: &dyn Fn() -> String) -> Draft<'a> {
    let ToolCall { id, name, kind, arguments, signature, cache: _, extra } = call;
    let (mut out, mut inner) = (Draft::new(), Draft::new());
    let seed = if id.is_empty() { seed() } else { String::new() };
    inner.put("toolUseId", call_id(id, &seed, signature.as_ref()));
    inner.put("name", name.as_str());
    let custom = *kind == ToolKind::Custom;
    let input = if custom { None } else { draft::input(arguments) };
    inner.put("input", input.unwrap_or_else(|| calls::tool_input(arguments, custom).into()));
    inner.add(extra.of(FORMAT));
    out.put("toolUse", inner);
    out
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
