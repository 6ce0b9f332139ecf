//! What a search of the caller's own found, where a wire has blocks for it: a text with its title and source. It is a document of
//! text to every other wire; between those that have the blocks it stays what it is. Knows no vendor: both say it in the same
//! fields.

use serde_json::{Map, Value, json};

use super::json::Fields;
use crate::{
    error::Result,
    model::{Format, Media, MediaKind, MediaSource},
};

/// A block that holds `source`, `title`, `content` and `citations`. It is kept whole under its name.
pub fn read(format: Format, fields: Fields) -> Result<Media> {
    let word = |key: &str| fields.peek_str(key).map(str::to_owned);
    let (name, context) = (word("title"), word("source"));
    let cite = fields.peek("citations").and_then(|c| c.get("enabled")).and_then(Value::as_bool);
    let source = MediaSource::Text(joined(fields.peek("content")));
    let mut media = Media::new(MediaKind::Document, Some("text/plain".to_owned()), source);
    (media.name, media.context, media.cite) = (name, context, cite);
    media.extra.insert(format, KEPT, Value::Object(fields.rest_map()));
    Ok(media)
}

/// The same for a wire whose pieces of text look as `piece` says, with the words as they are now. `None`: nothing was found.
pub fn write(media: &Media, format: Format, piece: impl Fn(&str) -> Value) -> Option<Map<String, Value>> {
    let (origin, fields) = media.extra.any()?;
    let kept = fields.get(KEPT)?.as_object()?;
    let MediaSource::Text(text) = &media.source else { return None };
    let same = joined(kept.get("content")) == *text;
    if same && origin == format {
        return Some(kept.clone());
    }
    let mut out: Map<String, Value> = match origin == format {
        true => kept.clone(),
        false => {
            kept.iter().filter(|(key, _)| SHARED.contains(&key.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect()
        }
    };
    let content = if same { texts(kept.get("content")).map(&piece).collect() } else { json!([piece(text)]) };
    out.insert("content".to_owned(), content);
    Some(out)
}

fn joined(content: Option<&Value>) -> String {
    texts(content).collect::<Vec<_>>().join("\n")
}

fn texts(content: Option<&Value>) -> impl Iterator<Item = &str> {
    let pieces = content.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    pieces.iter().filter_map(|piece| piece.get("text")?.as_str())
}

/// Among the extra fields of a document.
const KEPT: &str = "$found";
const SHARED: [&str; 3] = ["source", "title", "citations"];
