//! Content parts off the wire: what stands in a message's `content`, in a tool's `output`, in an answer. Lenient about who
//! may send what; strict about types, with the path of the field at fault.

use serde_json::{Map, Value};

use super::wire::{self, F, citation, join_citations, kind_of, source};
use crate::{
    codec::{
        json::{Fields, missing, wrong_type},
        mime,
    },
    error::Result,
    model::{CacheHint, Citation, Media, MediaKind, MediaSource, Part, Text},
};

/// A string, or an array of parts.
pub fn decode(value: Value, path: &str) -> Result<Vec<Part>> {
    match value {
        Value::String(text) => Ok(vec![Part::text(text)]),
        Value::Array(items) => {
            items.into_iter().enumerate().map(|(i, item)| part(item, format!("{path}[{i}]"))).collect()
        }
        other => Err(wrong_type(path, "a string or an array of parts", &other)),
    }
}

pub fn part(value: Value, path: String) -> Result<Part> {
    if let Value::String(text) = value {
        return Ok(Part::text(text));
    }
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    match kind.as_str() {
        "input_text" | "output_text" | "text" | "summary_text" => text(Fields::new(value, path)?).map(Part::Text),
        "refusal" => Fields::new(value, path)?.required_string("refusal").map(Part::Refusal),
        "input_image" => image(Fields::new(value, path)?),
        "input_file" => file(Fields::new(value, path)?),
        "input_audio" => audio(Fields::new(value, path)?),
        "output_audio" => output_audio(Fields::new(value, path)?),
        "" => {
            let f = Fields::new(value, path)?;
            Err(missing(&f.path("type")))
        }
        _ => Ok(Part::Native { format: F, kind, value }),
    }
}

/// Log probabilities stay in the unknown fields: who reads an answer takes them from there.
fn text(mut f: Fields) -> Result<Text> {
    f.take("type");
    let text = f.required_string("text")?;
    let mut citations: Vec<Citation> = f.array("annotations")?.unwrap_or_default().into_iter().map(citation).collect();
    let (signature, others) = wire::take_specific(&mut f);
    join_citations(&mut citations, &others);
    if f.peek(LOGPROBS).is_some_and(|v| v.as_array().is_none_or(Vec::is_empty)) {
        f.take(LOGPROBS);
    }
    let cache = cache_hint(&f);
    Ok(Text { text, citations, cache, signature, extra: f.rest(F) })
}

/// The hint also stays in the unknown fields, so that the caller's own word goes on.
pub fn cache_hint(f: &Fields) -> Option<CacheHint> {
    let hint = f.peek("prompt_cache_breakpoint").or_else(|| f.peek("cache_control"))?;
    Some(CacheHint { ttl: hint.get("ttl").and_then(Value::as_str).map(str::to_owned) })
}

fn image(mut f: Fields) -> Result<Part> {
    f.take("type");
    let (source, mime) = match (f.take("image_url"), f.string("file_id")?) {
        // The chat form is a habit that many clients carry over.
        (Some(Value::Object(inner)), _) => {
            source(Fields::new(Value::Object(inner), f.path("image_url"))?.required_string("url")?)
        }
        (Some(Value::String(url)), _) => source(url),
        (Some(other), _) => return Err(wrong_type(&f.path("image_url"), "a string", &other)),
        (None, Some(id)) => (MediaSource::File { format: F, id }, None),
        (None, None) => return Err(missing(&f.path("image_url"))),
    };
    let mut media = Media::new(MediaKind::Image, mime, source);
    media.detail = f.string("detail")?;
    media.cache = cache_hint(&f);
    media.extra = f.rest(F);
    Ok(Part::Media(media))
}

fn file(mut f: Fields) -> Result<Part> {
    f.take("type");
    let name = f.string("filename")?;
    let (source, mime) = match (f.string("file_data")?, f.string("file_url")?, f.string("file_id")?) {
        (Some(data), ..) => match source(data) {
            (MediaSource::Url(data), _) => {
                let mime = mime::of(name.as_deref(), &data);
                (MediaSource::Base64(data), mime)
            }
            found => found,
        },
        (None, Some(url), _) => source(url),
        (None, None, Some(id)) => (MediaSource::File { format: F, id }, None),
        (None, None, None) => return Err(missing(&f.path("file_data"))),
    };
    let kind = match (&source, &mime) {
        // An address tells by its ending what it is, at best.
        (MediaSource::Url(url), None) => by_ending(url),
        (_, mime) => kind_of(mime.as_deref()),
    };
    let mut media = Media::new(kind, mime, source);
    media.name = name;
    media.detail = f.string("detail")?;
    media.cache = cache_hint(&f);
    media.extra = f.rest(F);
    media.extra.insert(F, FILE, true.into());
    Ok(Part::Media(media))
}

fn audio(mut f: Fields) -> Result<Part> {
    f.take("type");
    let mut inner = match f.object("input_audio")? {
        Some(inner) => inner,
        None => Fields::new(Value::Object(Map::new()), f.path("input_audio"))?,
    };
    let data = inner.string("data")?.ok_or_else(|| missing(&f.path("input_audio.data")))?;
    let (source, mime) = match source(data) {
        (MediaSource::Url(data), _) => (MediaSource::Base64(data), None),
        found => found,
    };
    let mime = mime.or(match inner.string("format")?.as_deref() {
        Some("mpeg") => Some("audio/mpeg".to_owned()),
        Some(format) => Some(format!("audio/{format}")),
        None => None,
    });
    let mut media = Media::new(MediaKind::Audio, mime, source);
    media.extra = f.rest(F);
    Ok(Part::Media(media))
}

fn output_audio(mut f: Fields) -> Result<Part> {
    f.take("type");
    let data = f.string("data")?.unwrap_or_default();
    let mime = f.string("mime_type")?;
    let mut media = Media::new(MediaKind::Audio, mime, MediaSource::Base64(data));
    media.extra = f.rest(F);
    Ok(Part::Media(media))
}

fn by_ending(url: &str) -> MediaKind {
    let path = url.split(['?', '#']).next().unwrap_or(url);
    match path.rsplit('.').next().map(str::to_ascii_lowercase).as_deref() {
        Some("png" | "jpg" | "jpeg" | "gif" | "webp") => MediaKind::Image,
        Some("mp3" | "wav" | "ogg" | "flac" | "m4a") => MediaKind::Audio,
        Some("mp4" | "mov" | "webm") => MediaKind::Video,
        _ => MediaKind::Document,
    }
}

pub const LOGPROBS: &str = "logprobs";
/// The media came as `input_file`.
pub const FILE: &str = "$file";
