//! Content parts off the wire: what stands in a message's `content` of any role. Lenient about who may send what; strict
//! about types, with the path of the field at fault.

use serde_json::Value;

use super::wire::{F, FIELD, FUNCTION, INNER, TYPE, keep, kind_of, source, take_thought_signature};
use crate::{
    codec::{
        json::{Fields, Item, missing, nth, wrong_type},
        mime, signature,
    },
    error::Result,
    model::{CacheHint, Extra, Media, MediaKind, MediaSource, Part, Reasoning, Text, ToolCall, ToolKind},
};

/// A string, or an array of parts.
pub fn decode<'t>(value: impl Into<Item<'t>>, path: &str) -> Result<Vec<Part>> {
    let items = match value.into().string() {
        Ok(text) => return Ok(vec![Part::text(text)]),
        Err(other) => other.items(),
    };
    let items = items.map_err(|other| wrong_type(path, "a string or an array of parts", &other.tree()))?;
    items.into_iter().enumerate().map(|(i, item)| part(item, nth(path, i))).collect()
}

fn part(value: Item, path: String) -> Result<Part> {
    let value = match value.string() {
        Ok(text) => return Ok(Part::text(text)),
        Err(other) => other,
    };
    let kind = value.word("type").unwrap_or_default().into_owned();
    match kind.as_str() {
        "text" | "refusal" | "thinking" | "image_url" | "input_audio" | "file" | "file_url" | "video_url"
        | "audio_url" => {}
        "" => {
            let f = Fields::new(value, path)?;
            return Err(missing(&f.path("type")));
        }
        _ => return Ok(Part::Native { format: F, kind, value: value.tree() }),
    }
    let mut f = Fields::new(value, path)?;
    f.skip("type");
    match kind.as_str() {
        "text" => {
            let text = f.required_string("text")?;
            let cache = cache_hint(&f);
            Ok(Part::Text(Text { text, cache, extra: f.rest(F), ..Text::default() }))
        }
        "refusal" => Ok(Part::Refusal(f.required_string("refusal")?)),
        "thinking" => thinking(f),
        _ => media(f, &kind),
    }
}

/// Mistral's `{type: thinking, thinking: [{type: text, text}]}`; a plain string is read too.
fn thinking(mut f: Fields) -> Result<Part> {
    let text = match f.take("thinking") {
        Some(Value::String(text)) => text,
        Some(Value::Array(items)) => items.iter().filter_map(|i| i.get("text")?.as_str()).collect(),
        Some(other) => return Err(wrong_type(&f.path("thinking"), "a string or an array of texts", &other)),
        None => String::new(),
    };
    let signature = f.string("signature")?.filter(|s| !s.is_empty()).map(|s| signature::read(&s, F));
    let mut extra = Extra::default();
    extra.insert(F, FIELD, "chunk".into());
    Ok(Part::Reasoning(Reasoning { text, signature, sealed: None, extra }))
}

/// `cache_control` (the habit of OpenRouter and LiteLLM) and `prompt_cache_breakpoint` mean the same. They also stay in
/// the unknown fields, so that the caller's own word goes on.
pub fn cache_hint(f: &Fields) -> Option<CacheHint> {
    let hint = f.peek("prompt_cache_breakpoint").or_else(|| f.peek("cache_control"))?;
    Some(CacheHint { ttl: hint.get("ttl").and_then(Value::as_str).map(str::to_owned) })
}

pub fn media(mut f: Fields, kind: &str) -> Result<Part> {
    let cache = cache_hint(&f);
    // A null `text` beside the payload is what some clients write.
    f.take("text");
    let mut inner = match f.take(kind) {
        Some(Value::String(url)) => Fields::new(serde_json::json!({ "url": url }), f.path(kind))?,
        Some(value) => Fields::new(value, f.path(kind))?,
        None => return Err(missing(&f.path(kind))),
    };
    let mut media = match kind {
        "input_audio" => audio(&mut inner)?,
        "file" => file(&mut inner)?,
        _ => by_url(&mut inner, kind)?,
    };
    media.cache = cache;
    let mut extra = f.rest(F);
    if let Some((_, marks)) = media.extra.any() {
        for (key, value) in marks {
            extra.insert(F, key, value.clone());
        }
    }
    keep(&mut extra, INNER, inner.rest_map());
    media.extra = extra;
    Ok(Part::Media(media))
}

fn by_url(inner: &mut Fields, kind: &str) -> Result<Media> {
    let (source, mime) = match source(inner.required_string("url")?) {
        // Perplexity takes bare base64 here.
        (MediaSource::Url(data), _) if kind == "file_url" && !data.contains("://") => {
            let mime = mime::of(None, &data);
            (MediaSource::Base64(data), mime)
        }
        found => found,
    };
    let media_kind = match kind {
        "image_url" => MediaKind::Image,
        "video_url" => MediaKind::Video,
        "audio_url" => MediaKind::Audio,
        _ => MediaKind::Document,
    };
    let mut media = Media::new(media_kind, mime, source);
    media.detail = if kind == "image_url" { inner.string("detail")? } else { None };
    if kind != "image_url" {
        media.extra.insert(F, TYPE, kind.into());
    }
    Ok(media)
}

fn audio(inner: &mut Fields) -> Result<Media> {
    let (source, mime) = match source(inner.required_string("data")?) {
        (MediaSource::Url(data), _) => (MediaSource::Base64(data), None),
        found => found,
    };
    let mime = mime.or(match inner.string("format")?.as_deref() {
        Some("mpeg") => Some("audio/mpeg".to_owned()),
        Some(format) => Some(format!("audio/{format}")),
        None => None,
    });
    Ok(Media::new(MediaKind::Audio, mime, source))
}

fn file(inner: &mut Fields) -> Result<Media> {
    let name = inner.string("filename")?;
    let (source, mime) = match (inner.string("file_data")?, inner.string("file_id")?) {
        (Some(data), _) => match source(data) {
            (MediaSource::Url(url), _) if url.starts_with("http://") || url.starts_with("https://") => {
                (MediaSource::Url(url), None)
            }
            (MediaSource::Url(data), _) => {
                let mime = mime::of(name.as_deref(), &data);
                (MediaSource::Base64(data), mime)
            }
            found => found,
        },
        (None, Some(id)) => (MediaSource::File { format: F, id }, None),
        (None, None) => return Err(missing(&inner.path("file_data"))),
    };
    let mut media = Media::new(kind_of(mime.as_deref()), mime, source);
    media.name = name;
    if media.kind != MediaKind::Document {
        media.extra.insert(F, TYPE, "file".into());
    }
    Ok(media)
}

/// One entry of `tool_calls`.
pub fn tool_call<'t>(value: impl Into<Item<'t>>, path: String) -> Result<Part> {
    let value = value.into();
    let kind = value.word("type").unwrap_or("function".into()).into_owned();
    if kind != "function" && kind != "custom" && !value.has("function") {
        return Ok(Part::Native { format: F, kind, value: value.tree() });
    }
    let mut f = Fields::new(value, path)?;
    f.skip("type");
    f.skip("index");
    let id = f.string("id")?.unwrap_or_default();
    let (id, in_id) = signature::split_id(&id);
    let beside = take_thought_signature(&mut f);
    let (id, signature) = (id.to_owned(), in_id.or(beside));
    let kind = if kind == "custom" { ToolKind::Custom } else { ToolKind::Function };
    let (key, input) = match kind {
        ToolKind::Custom => ("custom", "input"),
        ToolKind::Function => ("function", "arguments"),
    };
    let mut inner = f.object(key)?.ok_or_else(|| missing(&f.path(key)))?;
    let name = inner.required_string("name")?;
    let arguments = arguments(inner.take(input));
    let mut extra = f.rest(F);
    keep(&mut extra, FUNCTION, inner.rest_map());
    Ok(Part::ToolCall(ToolCall { id, name, kind, arguments, signature, cache: None, extra }))
}

/// Arguments are text; some servers send the object itself.
pub fn arguments(value: Option<Value>) -> String {
    match value {
        None => String::new(),
        Some(Value::String(text)) => text,
        Some(value) => value.to_string(),
    }
}
