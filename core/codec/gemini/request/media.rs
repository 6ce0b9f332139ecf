//! Media of a request on their way upstream: bytes inline, files of this provider by name, URLs where the target takes
//! them. What the target cannot read is refused by name.

use serde_json::{Map, Value, json};

use super::{
    encode::{Writer, finish_part},
    parts::INNER,
};
use crate::{
    codec::gemini::wire::{GEMINI, base64_of_text, fill, is_gemini_3, mime_of_base64, mime_of_url},
    error::{Error, Result},
    model::{Media, MediaKind, MediaSource},
};

impl Writer<'_> {
    pub fn media(&mut self, media: &Media, index: usize, out: &mut Vec<Value>) -> Result<()> {
        // A name goes back only as `displayName` among the unknown fields: one dialect of this wire refuses it.
        let Media { kind, mime, source, name, detail, context, cite, cache, signature, extra } = media;
        let feature = match kind {
            MediaKind::Image => "images",
            MediaKind::Document => "documents",
            MediaKind::Audio => "audio",
            MediaKind::Video => "video",
        };
        if self.dialect.lacks.contains(&feature) {
            return Err(Error::unsupported(
                feature,
                format!(
                    "messages[{index}] holds {feature}, which this target cannot read; remove them or choose another model"
                ),
            ));
        }
        if cache.is_some() {
            self.note("cache_control");
        }
        if *cite == Some(true) {
            self.note("citations");
        }
        // The wire has no field for either; a name alone is a file's.
        if let Some(context) = context {
            let title = name.as_deref().map(|name| format!("\n{name}")).unwrap_or_default();
            out.push(json!({ "text": format!("{context}{title}") }));
        }
        let (key, mut data) = match source {
            MediaSource::Base64(data) => {
                let mime = mime.as_deref().unwrap_or_else(|| mime_of_base64(data, *kind));
                ("inlineData", json!({ "mimeType": mime, "data": data }))
            }
            MediaSource::Text(text) => (
                "inlineData",
                json!({ "mimeType": mime.as_deref().unwrap_or("text/plain"), "data": base64_of_text(text) }),
            ),
            MediaSource::Url(url) if self.dialect.media_urls => {
                ("fileData", file_data(mime.as_deref().or_else(|| mime_of_url(url)), url))
            }
            MediaSource::Url(_) => {
                return Err(Error::unsupported(
                    "media_url",
                    format!(
                        "messages[{index}] names media by URL, which this target cannot fetch; send the bytes as base64"
                    ),
                ));
            }
            MediaSource::File { format, id } if *format == GEMINI => ("fileData", file_data(mime.as_deref(), id)),
            MediaSource::File { .. } => {
                return Err(Error::unsupported(
                    "file_id",
                    format!("messages[{index}] names a file stored at another provider; send its bytes as base64"),
                ));
            }
            MediaSource::Parts(parts) => {
                for part in parts {
                    self.part(part, index, out)?;
                }
                return Ok(());
            }
        };
        let mut kept = extra.of(GEMINI).cloned();
        if let Value::Object(data) = &mut data
            && let Some(Value::Object(inner)) = kept.as_mut().and_then(|k| k.shift_remove(INNER))
        {
            fill(data, Some(&inner));
        }
        let mut part = Map::new();
        part.insert(key.to_owned(), data);
        let level = match detail.as_deref() {
            Some("low") => Some("MEDIA_RESOLUTION_LOW"),
            Some("high") => Some("MEDIA_RESOLUTION_HIGH"),
            _ => None,
        };
        let told =
            kept.as_ref().is_some_and(|k| k.contains_key("mediaResolution") || k.contains_key("media_resolution"));
        if let Some(level) = level.filter(|_| !told && is_gemini_3(&self.dialect.model)) {
            part.insert("mediaResolution".to_owned(), json!({ "level": level }));
        }
        out.push(finish_part(Value::Object(part), signature.as_ref(), kept.as_ref()));
        Ok(())
    }
}

fn file_data(mime: Option<&str>, uri: &str) -> Value {
    match mime {
        Some(mime) => json!({ "mimeType": mime, "fileUri": uri }),
        None => json!({ "fileUri": uri }),
    }
}
