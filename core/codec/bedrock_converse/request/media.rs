//! Media of a request on their way upstream: bytes inline, files in S3 by their address. The wire fetches no URLs. Documents
//! get names that the wire takes, each once.

use serde_json::{Map, Value, json};

use super::super::{
    Dialect, block,
    wire::{self, FORMAT},
};
use crate::{
    codec::mime,
    error::{Error, Result},
    model::{Media, MediaKind, MediaSource, Part},
};

/// Document names that are taken in this request.
#[derive(Default)]
pub struct Names(Vec<String>);

impl Names {
    /// Letters, digits, spaces one at a time, `-`, brackets; two documents of one name are refused upstream.
    fn legal(&mut self, given: Option<&str>) -> String {
        let mut name = String::new();
        for c in given.unwrap_or_default().chars() {
            match c {
                c if c.is_ascii_alphanumeric() || "-()[]".contains(c) => name.push(c),
                c if c.is_whitespace() => {
                    if !name.ends_with(' ') {
                        name.push(' ');
                    }
                }
                _ => name.push('-'),
            }
        }
        let mut name: String = name.trim().chars().take(LONGEST_NAME).collect();
        if name.is_empty() {
            name = format!("Document {}", self.0.len() + 1);
        }
        let (plain, mut count) = (name.clone(), 1);
        while self.0.contains(&name) {
            count += 1;
            name = format!("{plain} ({count})");
        }
        self.0.push(name.clone());
        name
    }
}

pub fn media_block(media: &Media, dialect: &Dialect, names: &mut Names) -> Result<Value> {
    let Media { kind, mime, source, name, detail: _, context, cite, cache: _, signature: _, extra } = media;
    let member = wire::member(*kind);
    let feature = match kind {
        MediaKind::Image => "images",
        MediaKind::Document => "documents",
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
    };
    if dialect.lacks.contains(&feature) {
        return Err(Error::unsupported(feature, format!("this model reads no {feature}; choose one that does")));
    }
    let mime = mime.as_deref().and_then(mime::bare);
    let mime = match source {
        MediaSource::Base64(data) => mime.or_else(|| mime::sniffed(data)),
        MediaSource::Text(_) | MediaSource::Parts(_) => Some(mime.unwrap_or("text/plain")),
        MediaSource::Url(address) | MediaSource::File { id: address, .. } => mime.or_else(|| by_ending(*kind, address)),
    };
    let kept = block::wrapping(extra, "guardContent").or_else(|| extra.of(FORMAT));
    let mut kept = kept.cloned().unwrap_or_default();
    let source = source_of(media, &mut kept)?;
    let format = mime.and_then(|mime| wire::format_of(*kind, mime).or_else(|| other_text(*kind, mime)));
    let Some(format) = format else {
        let what = format!("{member}_type");
        return Err(Error::unsupported(&what, format!("this model does not read {member}s of that type; convert it")));
    };
    let mut out = Map::new();
    out.insert("format".to_owned(), format.into());
    if *kind == MediaKind::Document {
        out.insert("name".to_owned(), names.legal(name.as_deref()).into());
    }
    out.insert("source".to_owned(), source);
    if let Some(context) = context {
        out.insert("context".to_owned(), context.as_str().into());
    }
    if let Some(cite) = cite {
        out.insert("citations".to_owned(), json!({"enabled": cite}));
    }
    for (key, value) in kept {
        out.entry(key).or_insert(value);
    }
    let mut inner = Map::new();
    inner.insert(member.to_owned(), Value::Object(out));
    if block::wrapping(extra, "guardContent").is_some() {
        return Ok(json!({"guardContent": inner}));
    }
    Ok(Value::Object(inner))
}

/// Any other kind of text reads as plain text.
fn other_text(kind: MediaKind, mime: &str) -> Option<&'static str> {
    (kind == MediaKind::Document && mime.starts_with("text/")).then_some("txt")
}

/// `kept`: this format's own fields; the owner of a bucket stands inside.
fn source_of(media: &Media, kept: &mut Map<String, Value>) -> Result<Value> {
    let mut s3 = |uri: &str| {
        let mut place = Map::new();
        place.insert("uri".to_owned(), uri.into());
        if let Some(owner) = kept.shift_remove("bucketOwner") {
            place.insert("bucketOwner".to_owned(), owner);
        }
        json!({"s3Location": place})
    };
    Ok(match &media.source {
        MediaSource::Base64(data) => json!({"bytes": data}),
        MediaSource::File { format: FORMAT, id } => s3(id),
        MediaSource::Url(url) if url.starts_with("s3://") => s3(url),
        MediaSource::File { .. } => {
            let message = "a file that lives at one vendor cannot be read by another; send the bytes as base64";
            return Err(Error::unsupported("files", message));
        }
        MediaSource::Url(_) => {
            let message = "this provider does not fetch media; send the bytes as base64";
            return Err(Error::unsupported("media_urls", message));
        }
        MediaSource::Text(text) if media.kind == MediaKind::Document => json!({"text": text}),
        MediaSource::Parts(parts) if media.kind == MediaKind::Document => {
            let mut content = Vec::new();
            for part in parts {
                match part {
                    Part::Text(text) => content.push(json!({"text": text.text})),
                    Part::Native { format: FORMAT, value, .. } => content.push(value.clone()),
                    _ => return Err(Error::unsupported("documents", "a document's parts must be text here")),
                }
            }
            json!({"content": content})
        }
        MediaSource::Text(_) | MediaSource::Parts(_) => {
            let member = wire::member(media.kind);
            return Err(Error::unsupported(member, format!("media of the kind {member} must come as bytes")));
        }
    })
}

/// The type that an address ends with.
fn by_ending(kind: MediaKind, address: &str) -> Option<&'static str> {
    let ending = address.rsplit('.').next()?.to_ascii_lowercase();
    let ending = match ending.as_str() {
        "jpg" => "jpeg",
        "htm" => "html",
        "3gp" => "three_gp",
        ending => ending,
    };
    wire::known_mime(kind, ending)
}

const LONGEST_NAME: usize = 180;
