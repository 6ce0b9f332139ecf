//! Images and documents as this wire takes them: four image types, PDF and plain text, by bytes, URL or the vendor's own
//! file id. What it does not take is refused by name; nothing is sent as something it is not.

use serde_json::{Map, Value, json};

use super::super::{
    Dialect, block,
    wire::{self, FORMAT},
};
use crate::{
    error::{Error, Result},
    model::{Media, MediaKind, MediaSource, Part},
};

pub fn media_block(media: &Media, dialect: &Dialect) -> Result<Value> {
    let Media { kind, mime, source, name, detail: _, context, cite, cache, signature: _, extra } = media;
    if let Some(mut found) = block::found(media) {
        wire::put_cache(&mut found, cache.as_ref());
        return Ok(Value::Object(found));
    }
    let (source, word) = match kind {
        MediaKind::Image => (image_source(mime.as_deref(), source, dialect)?, "image"),
        MediaKind::Document => (document_source(media, dialect)?, "document"),
        MediaKind::Audio => return Err(lacking("audio", "this model does not hear; choose one that takes audio")),
        MediaKind::Video => return Err(lacking("video", "this model does not watch; choose one that takes video")),
    };
    let mut out = Map::new();
    out.insert("type".to_owned(), word.into());
    out.insert("source".to_owned(), source);
    if word == "document" {
        for (key, value) in [("title", name), ("context", context)] {
            if let Some(value) = value {
                out.insert(key.to_owned(), value.as_str().into());
            }
        }
        if let Some(cite) = cite {
            out.insert("citations".to_owned(), json!({"enabled": cite}));
        }
    }
    wire::put_cache(&mut out, cache.as_ref());
    block::give_back(&mut out, extra);
    Ok(Value::Object(out))
}

fn image_source(mime: Option<&str>, source: &MediaSource, dialect: &Dialect) -> Result<Value> {
    if dialect.lacks.contains(&"images") {
        return Err(lacking("images", "this model does not see; choose one that takes images"));
    }
    match source {
        MediaSource::Base64(data) => {
            let mime = mime.or_else(|| sniffed(data)).unwrap_or_default();
            let mime = if mime == "image/jpg" { "image/jpeg" } else { mime };
            if !IMAGES.contains(&mime) {
                return Err(lacking("image_type", "this model takes JPEG, PNG, GIF and WebP images; convert this one"));
            }
            Ok(json!({"type": "base64", "media_type": mime, "data": data}))
        }
        MediaSource::Url(url) => url_source(url, dialect),
        MediaSource::File { format: FORMAT, id } => Ok(json!({"type": "file", "file_id": id})),
        MediaSource::File { .. } => Err(foreign_file()),
        MediaSource::Text(_) | MediaSource::Parts(_) => Err(lacking("images", "an image must come as bytes or by URL")),
    }
}

fn document_source(media: &Media, dialect: &Dialect) -> Result<Value> {
    if dialect.lacks.contains(&"documents") {
        return Err(lacking("documents", "this model reads no documents; choose one that does"));
    }
    match &media.source {
        MediaSource::Base64(data) => {
            let mime = media.mime.as_deref().map(|m| m.split(';').next().unwrap_or(m).trim());
            match mime.filter(|m| *m != "application/octet-stream").or_else(|| sniffed(data)) {
                Some("application/pdf") => Ok(json!({"type": "base64", "media_type": "application/pdf", "data": data})),
                Some(mime) if is_text(mime) => plain_text(data),
                _ => Err(lacking("document_type", "this model reads PDF and plain text; convert this document")),
            }
        }
        MediaSource::Text(text) => Ok(text_source(text)),
        MediaSource::Url(url) => url_source(url, dialect),
        MediaSource::File { format: FORMAT, id } => Ok(json!({"type": "file", "file_id": id})),
        MediaSource::File { .. } => Err(foreign_file()),
        MediaSource::Parts(parts) => {
            let mut content = Vec::new();
            for part in parts {
                match part {
                    Part::Text(text) => content.push(json!({"type": "text", "text": text.text})),
                    Part::Media(media) => content.push(media_block(media, dialect)?),
                    Part::Native { format: FORMAT, value, .. } => content.push(value.clone()),
                    _ => return Err(lacking("documents", "a document's parts must be text or images")),
                }
            }
            Ok(json!({"type": "content", "content": content}))
        }
    }
}

fn url_source(url: &str, dialect: &Dialect) -> Result<Value> {
    if !dialect.media_urls {
        return Err(lacking("media_urls", "this provider does not fetch media; send the bytes as base64"));
    }
    Ok(json!({"type": "url", "url": url}))
}

fn plain_text(data: &str) -> Result<Value> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let bytes = BASE64_STANDARD.decode(data).ok();
    match bytes.and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(text) => Ok(text_source(&text)),
        None => Err(Error::invalid("messages", "a text document is not valid base64 of UTF-8 text")),
    }
}

fn text_source(text: &str) -> Value {
    json!({"type": "text", "media_type": "text/plain", "data": text})
}

fn is_text(mime: &str) -> bool {
    mime.starts_with("text/") || TEXTS.contains(&mime)
}

/// The type that the first bytes tell, seen through their base64.
fn sniffed(data: &str) -> Option<&'static str> {
    HEADS.iter().find(|(head, _)| data.starts_with(head)).map(|(_, mime)| *mime)
}

fn lacking(feature: &str, message: &str) -> Error {
    Error::unsupported(feature, message)
}

fn foreign_file() -> Error {
    lacking("files", "a file that lives at one vendor cannot be read by another; send the bytes as base64")
}

const IMAGES: [&str; 4] = ["image/jpeg", "image/png", "image/gif", "image/webp"];
const TEXTS: [&str; 6] = [
    "application/json",
    "application/xml",
    "application/yaml",
    "application/x-yaml",
    "application/javascript",
    "application/toml",
];
const HEADS: [(&str, &str); 5] = [
    ("JVBERi0", "application/pdf"),
    ("iVBORw0KGgo", "image/png"),
    ("/9j/", "image/jpeg"),
    ("R0lGOD", "image/gif"),
    ("UklGR", "image/webp"),
];
