//! Media as a part of what the model reads, for an upstream of this format.

use base64::Engine;
use serde_json::{Map, Value};

use super::super::{
    content::FILE,
    wire::{F, data_url_of, marked, plain, sniff},
};
use crate::{
    codec::{Dialect, mime, openai_chat::wire::BASE64},
    error::{Error, Result},
    model::{Media, MediaKind, MediaSource},
};

/// Errors: a kind or a source that this target does not take.
pub fn part(media: &Media, dialect: &Dialect) -> Result<Map<String, Value>> {
    let mut out = match as_text(media) {
        Some(text) => {
            let mut out = Map::new();
            out.insert("type".into(), "input_text".into());
            out.insert("text".into(), text.into());
            return Ok(out);
        }
        None => Map::new(),
    };
    let (feature, what) = match media.kind {
        MediaKind::Image => ("images", "images"),
        MediaKind::Document => ("documents", "documents"),
        MediaKind::Audio => ("audio", "audio"),
        MediaKind::Video => ("video", "video"),
    };
    if dialect.lacks.contains(&feature) {
        let text = format!("this target takes no {what}; leave them out or choose another model");
        return Err(Error::unsupported(feature, text));
    }
    let file = media.kind == MediaKind::Document || marked(&media.extra, FILE);
    match (&media.source, media.kind, file) {
        (MediaSource::File { format: F, id }, ..) => {
            out.insert("type".into(), if file { "input_file" } else { "input_image" }.into());
            out.insert("file_id".into(), id.as_str().into());
        }
        (MediaSource::File { .. }, ..) => {
            return Err(Error::unsupported("files", "this file lives at another provider; send its bytes"));
        }
        (MediaSource::Url(url), _, true) | (MediaSource::Url(url), MediaKind::Document, false) => {
            web(url, dialect)?;
            out.insert("type".into(), "input_file".into());
            out.insert("file_url".into(), url.as_str().into());
        }
        (MediaSource::Base64(data), kind, true) | (MediaSource::Base64(data), kind @ MediaKind::Document, false) => {
            out.insert("type".into(), "input_file".into());
            out.insert("filename".into(), name(media).into());
            out.insert("file_data".into(), bytes(media, kind, data).into());
        }
        (MediaSource::Url(url), MediaKind::Image, false) => {
            web(url, dialect)?;
            out.insert("type".into(), "input_image".into());
            out.insert("image_url".into(), url.as_str().into());
        }
        (MediaSource::Base64(data), MediaKind::Image, false) => {
            out.insert("type".into(), "input_image".into());
            out.insert("image_url".into(), bytes(media, MediaKind::Image, data).into());
        }
        (MediaSource::Base64(data), MediaKind::Audio, false) => {
            let mut inner = Map::new();
            inner.insert("data".into(), data.as_str().into());
            inner.insert("format".into(), audio_format(media.mime.as_deref()).into());
            out.insert("type".into(), "input_audio".into());
            out.insert("input_audio".into(), Value::Object(inner));
        }
        (MediaSource::Url(_), MediaKind::Audio, false) => {
            return Err(Error::unsupported("audio_urls", "this target takes audio as base64 only"));
        }
        (_, MediaKind::Video, false) => return Err(Error::unsupported("video", "this target takes no video")),
        (MediaSource::Text(_) | MediaSource::Parts(_), ..) => {
            return Err(Error::unsupported("documents", "this target takes no such document; send it as base64"));
        }
    }
    let levels = ["auto", "low", "high", "original"];
    let detail = media.detail.as_deref().filter(|d| levels.contains(d));
    if let Some(detail) = detail.filter(|_| file || media.kind == MediaKind::Image) {
        out.insert("detail".into(), detail.into());
    }
    plain(&media.extra, &mut out);
    Ok(out)
}

/// A document that is text needs no file, which many servers lack.
fn as_text(media: &Media) -> Option<String> {
    let text = match &media.source {
        MediaSource::Text(text) => text.clone(),
        MediaSource::Base64(data) if !marked(&media.extra, FILE) && is_text(media) => {
            String::from_utf8(BASE64.decode(data).ok()?).ok()?
        }
        _ => return None,
    };
    Some(match &media.name {
        Some(name) => format!("{name}\n\n{text}"),
        None => text,
    })
}

fn is_text(media: &Media) -> bool {
    media.kind == MediaKind::Document && media.mime.as_deref().is_some_and(|m| m.starts_with("text/"))
}

/// Servers tell by the ending what they have before them.
fn name(media: &Media) -> String {
    let ending = media.mime.as_deref().and_then(mime::ending).unwrap_or("pdf");
    media.name.clone().unwrap_or_else(|| format!("document.{ending}"))
}

fn bytes(media: &Media, kind: MediaKind, data: &str) -> String {
    data_url_of(media.mime.as_deref().unwrap_or_else(|| sniff(data, kind)), data)
}

fn web(url: &str, dialect: &Dialect) -> Result<()> {
    if dialect.media_urls && (url.starts_with("https://") || url.starts_with("http://")) {
        return Ok(());
    }
    Err(Error::unsupported("media_urls", "this target takes no media by this URL; send it as base64"))
}

fn audio_format(mime: Option<&str>) -> &str {
    match mime.and_then(|m| m.split(';').next()).unwrap_or("audio/wav") {
        "audio/mpeg" | "audio/mp3" => "mp3",
        "audio/wav" | "audio/x-wav" | "audio/wave" => "wav",
        other => other.rsplit('/').next().unwrap_or("wav"),
    }
}
