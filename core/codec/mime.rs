//! Media types as several wires need them: what the first bytes tell, seen through their base64; documents that are text.

use base64::{Engine, prelude::BASE64_STANDARD};

use crate::model::{Media, MediaSource};

/// The type of base64 data, by how it begins.
pub fn sniffed(data: &str) -> Option<&'static str> {
    HEADS.iter().find(|(head, _)| data.starts_with(head)).map(|(_, mime)| *mime)
}

/// The bare type: no parameters, in the usual spelling; `application/octet-stream` says nothing.
pub fn bare(mime: &str) -> Option<&str> {
    let bare = mime.split(';').next().unwrap_or(mime).trim();
    match bare {
        "" | "application/octet-stream" => None,
        "image/jpg" => Some("image/jpeg"),
        "audio/mp3" => Some("audio/mpeg"),
        bare => Some(bare),
    }
}

/// The words of a document, where they are plain text.
pub fn text_of(media: &Media) -> Option<String> {
    match &media.source {
        MediaSource::Text(text) => Some(text.clone()),
        MediaSource::Base64(data) => {
            let mime = media.mime.as_deref().and_then(bare)?;
            let text = mime.starts_with("text/") || TEXTS.contains(&mime);
            String::from_utf8(BASE64_STANDARD.decode(data).ok().filter(|_| text)?).ok()
        }
        _ => None,
    }
}

/// Plain text under other names.
const TEXTS: [&str; 5] =
    ["application/json", "application/xml", "application/yaml", "application/x-yaml", "application/toml"];

const HEADS: [(&str, &str); 6] = [
    ("JVBERi0", "application/pdf"),
    ("iVBORw0KGgo", "image/png"),
    ("/9j/", "image/jpeg"),
    ("R0lGOD", "image/gif"),
    ("UklGR", "image/webp"),
    ("SUQz", "audio/mpeg"),
];
