//! Content blocks to parts, for requests and answers alike. A block is an object with one member, whose name is its kind.
//! What the canonical model has no name for stays whole as `Part::Native`, so that it can be given back as it was.

use serde_json::{Map, Value};

use super::{
    json::{self, Fields, Item},
    wire::{self, FORMAT},
};
use crate::{
    codec::{found, signature},
    error::{Error, Result},
    model::{
        CacheHint, Extra, Media, MediaKind, MediaSource, Part, Reasoning, Signature, Text, ToolCall, ToolKind,
        ToolResult,
    },
};

/// Whose turn the blocks stand in: results inside a model's own turn are those of tools that the vendor runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Caller,
    Model,
}

/// A list of blocks. Cache points become hints on what stands before them.
pub fn decode_all<'t>(content: impl Into<Item<'t>>, path: &str, turn: Turn) -> Result<Vec<Part>> {
    let blocks = content.into().items();
    let blocks = blocks.map_err(|other| json::wrong_type(path, "an array of content blocks", &other.tree()))?;
    let mut parts: Vec<Part> = Vec::with_capacity(blocks.len());
    for (i, block) in blocks.into_iter().enumerate() {
        if let Some(part) = short(&block, &json::nth(path, i), turn)? {
            parts.push(part);
            continue;
        }
        let block = block.tree();
        if let Some(point) = block.get("cachePoint").filter(|point| point.is_object())
            && let Some(slot) = parts.last_mut().and_then(cache_slot).filter(|slot| slot.is_none())
        {
            *slot = Some(wire::read_cache_point(point));
            continue;
        }
        parts.push(decode(block, &format!("{path}[{i}]"), turn)?);
    }
    Ok(parts)
}

/// A block of one member that says a text or makes a call, straight from the tape.
fn short(block: &Item, path: &str, turn: Turn) -> Result<Option<Part>> {
    let Item::Read(block) = block else { return Ok(None) };
    let mut members = block.members();
    Ok(match (members.next(), members.next()) {
        (Some(("text", text)), None) => text.text().map(Part::text),
        (Some(("toolUse", call)), None) if turn == Turn::Model && call.member("type").is_none() => {
            Some(Part::ToolCall(tool_use(Fields::new(call, [path, ".toolUse"].concat())?)?))
        }
        _ => None,
    })
}

fn cache_slot(part: &mut Part) -> Option<&mut Option<CacheHint>> {
    match part {
        Part::Text(text) => Some(&mut text.cache),
        Part::Media(media) => Some(&mut media.cache),
        Part::ToolCall(call) => Some(&mut call.cache),
        Part::ToolResult(result) => Some(&mut result.cache),
        Part::Refusal(_) | Part::Reasoning(_) | Part::Native { .. } => None,
    }
}

pub fn decode(block: Value, path: &str, turn: Turn) -> Result<Part> {
    let Value::Object(map) = &block else { return Err(json::wrong_type(path, "a content block", &block)) };
    let mut members = map.iter().filter(|(_, value)| !value.is_null()).map(|(kind, _)| kind.clone());
    let (Some(kind), None) = (members.next(), members.next()) else {
        let message = format!("`{path}` must have exactly one member, such as `text` or `image`");
        return Err(Error::invalid(path, message));
    };
    let inner = |block: Value| match block {
        Value::Object(mut map) => map.get_mut(&kind).map(Value::take).unwrap_or_default(),
        _ => Value::Null,
    };
    let path = format!("{path}.{kind}");
    let hosted = |word: &str| block.pointer(word).and_then(Value::as_str).map(str::to_owned);
    let hosted_call = hosted("/toolUse/type").filter(|kind| kind == "server_tool_use");
    let hosted_result = || hosted("/toolResult/type").unwrap_or_else(|| "toolResult".to_owned());
    match kind.as_str() {
        "text" => match inner(block) {
            Value::String(text) => Ok(Part::text(text)),
            other => Err(json::wrong_type(&path, "a string", &other)),
        },
        "toolUse" if hosted_call.is_some() => {
            Ok(Part::Native { format: FORMAT, kind: hosted_call.unwrap_or_default(), value: block })
        }
        "toolResult" if turn == Turn::Model => Ok(Part::Native { format: FORMAT, kind: hosted_result(), value: block }),
        "toolUse" => tool_use(Fields::new(inner(block), path)?).map(Part::ToolCall),
        "toolResult" => tool_result(Fields::new(inner(block), path)?).map(Part::ToolResult),
        "reasoningContent" => reasoning(Fields::new(inner(block), path)?).map(Part::Reasoning),
        "citationsContent" => cited(Fields::new(inner(block), path)?).map(Part::Text),
        "guardContent" => guarded(inner(block), block_of(&kind), &path),
        "searchResult" => found::read(FORMAT, Fields::new(inner(block), path)?).map(Part::Media),
        "image" => media(Fields::new(inner(block), path)?, MediaKind::Image).map(Part::Media),
        "document" => media(Fields::new(inner(block), path)?, MediaKind::Document).map(Part::Media),
        "video" => media(Fields::new(inner(block), path)?, MediaKind::Video).map(Part::Media),
        "audio" => media(Fields::new(inner(block), path)?, MediaKind::Audio).map(Part::Media),
        _ => Ok(Part::Native { format: FORMAT, kind, value: block }),
    }
}

/// Puts what is left of an inner object under its own block's name, for `give_back`.
fn block_of(kind: &str) -> impl Fn(Value) -> Extra {
    move |rest| {
        let mut extra = Extra::default();
        extra.insert(FORMAT, kind, rest);
        extra
    }
}

fn tool_use(mut fields: Fields) -> Result<ToolCall> {
    let id = fields.required_string("toolUseId")?;
    let (id, signature) = signature::split_id(&id);
    Ok(ToolCall {
        id: id.to_owned(),
        name: fields.required_string("name")?,
        kind: ToolKind::Function,
        arguments: fields.take("input").map(|input| input.to_string()).unwrap_or_default(),
        signature,
        cache: None,
        extra: fields.rest(FORMAT),
    })
}

fn tool_result(mut fields: Fields) -> Result<ToolResult> {
    let id = fields.required_string("toolUseId")?;
    let path = fields.path("content");
    let mut parts = Vec::new();
    let mut objects = Vec::new();
    for (i, item) in fields.array("content")?.unwrap_or_default().into_iter().enumerate() {
        match item.get("json").filter(|json| !json.is_null()) {
            Some(json) => {
                parts.push(Part::Text(Text {
                    text: json.to_string(),
                    extra: block_of("json")(json.clone()),
                    ..Text::default()
                }));
                objects.extend(json.as_object().cloned());
            }
            None => parts.push(decode(item, &format!("{path}[{i}]"), Turn::Caller)?),
        }
    }
    let object = if parts.len() == 1 { objects.pop() } else { None };
    let is_error = fields.string("status")?.map(|status| status == "error");
    Ok(ToolResult {
        call_id: signature::split_id(&id).0.to_owned(),
        name: None,
        kind: ToolKind::Function,
        parts,
        object,
        is_error,
        cache: None,
        extra: fields.rest(FORMAT),
    })
}

fn reasoning(mut fields: Fields) -> Result<Reasoning> {
    if let Some(data) = fields.string("redactedContent")? {
        let sealed = Some(wire::read_sealed(&data));
        return Ok(Reasoning { sealed, extra: fields.rest(FORMAT), ..Reasoning::default() });
    }
    let path = fields.path("reasoningText");
    let mut inner = fields.object("reasoningText")?.ok_or_else(|| json::missing(&path))?;
    let text = inner.string("text")?.unwrap_or_default();
    let signature = read_signature(inner.string("signature")?);
    Ok(Reasoning { text, signature, sealed: None, extra: inner.rest(FORMAT) })
}

pub fn read_signature(text: Option<String>) -> Option<Signature> {
    text.filter(|t| !t.is_empty()).map(|t| signature::read(&t, FORMAT))
}

fn cited(mut fields: Fields) -> Result<Text> {
    let citations = fields.array("citations")?.unwrap_or_default();
    let text = texts(fields.array("content")?.unwrap_or_default());
    let mut extra = fields.rest(FORMAT);
    if citations.is_empty() {
        extra.insert(FORMAT, "citationsContent", Value::Object(Map::new()));
    }
    Ok(Text { text, citations: citations.into_iter().map(wire::read_citation).collect(), extra, ..Text::default() })
}

fn texts(content: Vec<Value>) -> String {
    content.iter().filter_map(|piece| piece.get("text").and_then(Value::as_str)).collect()
}

/// What a guardrail looks at is the caller's text or image like any other; that it does stays with this format.
fn guarded(mut inner: Value, keep: impl Fn(Value) -> Extra, path: &str) -> Result<Part> {
    if let Some(text) = inner.get_mut("text").filter(|text| text.is_object()) {
        let mut fields = Fields::new(text.take(), format!("{path}.text"))?;
        let said = fields.required_string("text")?;
        let rest = Value::Object(fields.rest_map());
        return Ok(Part::Text(Text { text: said, extra: keep(rest), ..Text::default() }));
    }
    if let Some(image) = inner.get_mut("image").filter(|image| image.is_object()) {
        let mut media = media(Fields::new(image.take(), format!("{path}.image"))?, MediaKind::Image)?;
        media.extra = keep(Value::Object(media.extra.of(FORMAT).cloned().unwrap_or_default()));
        return Ok(Part::Media(media));
    }
    let mut block = Map::new();
    block.insert("guardContent".to_owned(), inner);
    Ok(Part::Native { format: FORMAT, kind: "guardContent".to_owned(), value: Value::Object(block) })
}

fn media(mut fields: Fields, kind: MediaKind) -> Result<Media> {
    let path = fields.path("source");
    let mut source = fields.object("source")?.ok_or_else(|| json::missing(&path))?;
    let mime = fields.string("format")?.map(|format| wire::mime_of(kind, &format));
    let mut rest = Map::new();
    let source = if let Some(bytes) = source.string("bytes")? {
        MediaSource::Base64(bytes)
    } else if let Some(mut place) = source.object("s3Location")? {
        let id = place.required_string("uri")?;
        if let Some(owner) = place.take("bucketOwner") {
            rest.insert("bucketOwner".to_owned(), owner);
        }
        MediaSource::File { format: FORMAT, id }
    } else if let Some(text) = source.string("text")? {
        MediaSource::Text(text)
    } else if let Some(content) = source.take("content") {
        MediaSource::Parts(decode_all(content, &source.path("content"), Turn::Caller)?)
    } else {
        let message = format!("`{path}` must have `bytes` or `s3Location`");
        return Err(Error::invalid(&path, message));
    };
    let mut media = Media::new(kind, mime, source);
    if kind == MediaKind::Document {
        media.name = fields.string("name")?;
        media.context = fields.string("context")?;
        if let Some(mut citations) = fields.object("citations")? {
            media.cite = citations.bool("enabled")?;
        }
    }
    rest.extend(fields.rest_map());
    media.extra = Extra::new(FORMAT, rest);
    Ok(media)
}

/// Gives unknown fields back to this format only.
pub fn give_back(out: &mut Map<String, Value>, extra: &Extra) {
    for (key, value) in extra.of(FORMAT).into_iter().flatten() {
        if !out.contains_key(key) {
            out.insert(key.clone(), value.clone());
        }
    }
}

/// What a text was wrapped in when it came, if in anything.
pub fn wrapping<'a>(extra: &'a Extra, kind: &str) -> Option<&'a Map<String, Value>> {
    extra.of(FORMAT)?.get(kind)?.as_object()
}
