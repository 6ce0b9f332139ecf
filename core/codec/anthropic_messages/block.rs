//! Content blocks to parts, for requests and answers alike. What the canonical model has no name for stays whole as
//! `Part::Native`, so that it can be given back as it was.

use serde_json::Value;

use super::{
    json::{self, Fields, Item},
    wire::{self, FORMAT},
};
use crate::{
    codec::{found, signature},
    error::Result,
    model::{Extra, Media, MediaKind, MediaSource, Part, Reasoning, Text, ToolCall, ToolKind, ToolResult},
};

/// `content`: a string or a list of blocks.
pub fn decode_all<'t>(content: impl Into<Item<'t>>, path: &str) -> Result<Vec<Part>> {
    let blocks = match content.into().string() {
        Ok(text) => return Ok(vec![Part::text(text)]),
        Err(other) => other.items(),
    };
    let blocks =
        blocks.map_err(|other| json::wrong_type(path, "a string or an array of content blocks", &other.tree()))?;
    blocks.into_iter().enumerate().map(|(i, block)| decode(block, &json::nth(path, i))).collect()
}

pub fn decode<'t>(block: impl Into<Item<'t>>, path: &str) -> Result<Part> {
    let block = block.into();
    match block.word("type").as_deref() {
        Some("text") => return text(Fields::new(block, path)?).map(Part::Text),
        Some("tool_use") => return tool_use(Fields::new(block, path)?).map(Part::ToolCall),
        Some("tool_result") => return tool_result(Fields::new(block, path)?).map(Part::ToolResult),
        _ => {}
    }
    let block = block.tree();
    let kind = match block.get("type") {
        Some(Value::String(kind)) => kind.clone(),
        None if block.is_object() => return Err(json::missing(&format!("{path}.type"))),
        Some(other) => return Err(json::wrong_type(&format!("{path}.type"), "a string", other)),
        None => return Err(json::wrong_type(path, "a content block", &block)),
    };
    let known_source =
        || block.pointer("/source/type").and_then(Value::as_str).is_some_and(|source| SOURCES.contains(&source));
    match kind.as_str() {
        "thinking" => thinking(Fields::new(block, path)?).map(Part::Reasoning),
        "redacted_thinking" => redacted(Fields::new(block, path)?).map(Part::Reasoning),
        "image" if known_source() => media(Fields::new(block, path)?, MediaKind::Image).map(Part::Media),
        "document" if known_source() => media(Fields::new(block, path)?, MediaKind::Document).map(Part::Media),
        "search_result" => search_result(Fields::new(block, path)?).map(Part::Media),
        "image" | "document" if block.get("source").is_none_or(Value::is_null) => {
            Err(json::missing(&format!("{path}.source")))
        }
        _ => Ok(Part::Native { format: FORMAT, kind, value: block }),
    }
}

fn text(mut fields: Fields) -> Result<Text> {
    fields.skip("type");
    let citations = match fields.peek("citations") {
        Some(Value::Array(_)) => fields.array("citations")?.unwrap_or_default(),
        _ => Vec::new(),
    };
    Ok(Text {
        text: fields.required_string("text")?,
        citations: citations.into_iter().map(wire::read_citation).collect(),
        cache: wire::take_cache(&mut fields)?,
        signature: wire::read_signature(fields.string("signature")?),
        extra: fields.rest(FORMAT),
    })
}

fn thinking(mut fields: Fields) -> Result<Reasoning> {
    fields.take("type");
    Ok(Reasoning {
        text: fields.required_string("thinking")?,
        signature: wire::read_signature(fields.string("signature")?),
        sealed: None,
        extra: fields.rest(FORMAT),
    })
}

fn redacted(mut fields: Fields) -> Result<Reasoning> {
    fields.take("type");
    Ok(Reasoning {
        text: String::new(),
        signature: None,
        sealed: Some(signature::read(&fields.required_string("data")?, FORMAT)),
        extra: fields.rest(FORMAT),
    })
}

fn tool_use(mut fields: Fields) -> Result<ToolCall> {
    fields.skip("type");
    let id = fields.required_string("id")?;
    let (id, signature) = signature::split_id(&id);
    Ok(ToolCall {
        id: id.to_owned(),
        name: fields.required_string("name")?,
        kind: ToolKind::Function,
        arguments: fields.take("input").map(|input| input.to_string()).unwrap_or_default(),
        signature,
        cache: wire::take_cache(&mut fields)?,
        extra: fields.rest(FORMAT),
    })
}

fn tool_result(mut fields: Fields) -> Result<ToolResult> {
    fields.skip("type");
    let id = fields.required_string("tool_use_id")?;
    let path = fields.path("content");
    Ok(ToolResult {
        call_id: signature::split_id(&id).0.to_owned(),
        name: None,
        kind: ToolKind::Function,
        parts: fields.item("content").map(|content| decode_all(content, &path)).transpose()?.unwrap_or_default(),
        object: None,
        is_error: fields.bool("is_error")?,
        cache: wire::take_cache(&mut fields)?,
        extra: fields.rest(FORMAT),
    })
}

/// A found text is a document of text to every other format.
fn search_result(mut fields: Fields) -> Result<Media> {
    let cache = wire::take_cache(&mut fields)?;
    let media = found::read(FORMAT, fields)?;
    Ok(Media { cache, ..media })
}

/// The block that `search_result` read.
pub fn found(media: &Media) -> Option<serde_json::Map<String, Value>> {
    let mut block = found::write(media, FORMAT, |text| serde_json::json!({"type": "text", "text": text}))?;
    block.entry("type").or_insert_with(|| "search_result".into());
    Some(block)
}

fn media(mut fields: Fields, kind: MediaKind) -> Result<Media> {
    fields.take("type");
    let source = fields.object("source")?.ok_or_else(|| json::missing(&fields.path("source")))?;
    let (mime, source) = media_source(source, kind)?;
    let document = kind == MediaKind::Document;
    let cite = match document.then(|| fields.object("citations")).transpose()?.flatten() {
        Some(mut citations) => citations.bool("enabled")?,
        None => None,
    };
    Ok(Media {
        kind,
        mime,
        source,
        name: if document { fields.string("title")? } else { None },
        detail: None,
        context: if document { fields.string("context")? } else { None },
        cite,
        cache: wire::take_cache(&mut fields)?,
        signature: None,
        extra: fields.rest(FORMAT),
    })
}

fn media_source(mut source: Fields, kind: MediaKind) -> Result<(Option<String>, MediaSource)> {
    let url_mime = (kind == MediaKind::Document).then(|| "application/pdf".to_owned());
    Ok(match source.required_string("type")?.as_str() {
        "base64" => {
            let mime = source.required_string("media_type")?;
            (Some(mime), MediaSource::Base64(source.required_string("data")?))
        }
        "url" => match source.required_string("url")? {
            url if url.starts_with("data:") => data_url(&url, &source.path("url"))?,
            url => (url_mime, MediaSource::Url(url)),
        },
        "file" => (None, MediaSource::File { format: FORMAT, id: source.required_string("file_id")? }),
        "text" => {
            let mime = source.string("media_type")?.unwrap_or_else(|| "text/plain".to_owned());
            (Some(mime), MediaSource::Text(source.required_string("data")?))
        }
        _ => {
            let path = source.path("content");
            let content = source.take("content").ok_or_else(|| json::missing(&path))?;
            (None, MediaSource::Parts(decode_all(content, &path)?))
        }
    })
}

/// A data URL is base64 in disguise; only the bytes go on.
fn data_url(url: &str, path: &str) -> Result<(Option<String>, MediaSource)> {
    let parts = url.strip_prefix("data:").and_then(|rest| rest.split_once(','));
    let Some((head, data)) = parts.filter(|(head, _)| head.ends_with(";base64")) else {
        return Err(crate::error::Error::invalid(path, format!("`{path}` is a data URL without base64 data")));
    };
    let mime = head.split(';').next().filter(|m| !m.is_empty()).map(str::to_owned);
    Ok((mime, MediaSource::Base64(data.to_owned())))
}

/// Puts the call's name on every result that answers it: other families want the name, this wire has only the id.
pub fn name_results(parts: &mut [Part], names: &std::collections::HashMap<String, String>) {
    for part in parts {
        if let Part::ToolResult(result) = part {
            result.name = names.get(&result.call_id).cloned();
        }
    }
}

/// Gives unknown fields back to this format only.
pub fn give_back(block: &mut serde_json::Map<String, Value>, extra: &Extra) {
    for (key, value) in extra.of(FORMAT).into_iter().flatten() {
        if !block.contains_key(key) {
            block.insert(key.clone(), value.clone());
        }
    }
}

const SOURCES: [&str; 5] = ["base64", "url", "file", "text", "content"];
