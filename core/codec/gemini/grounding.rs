//! Sources: `groundingMetadata` and `citationMetadata` ⇄ citations. This wire counts bytes of UTF-8, the model counts
//! Unicode code points.

use serde_json::{Map, Value, json};

use crate::{codec::json::as_u64, model::Citation};

/// The citations that a candidate's metadata tell of `text`, which `before` code points of the answer precede.
pub fn decode(candidate: &Map<String, Value>, text: &str, before: u64) -> Vec<Citation> {
    let mut out = Vec::new();
    if let Some(Value::Object(metadata)) = candidate.get("groundingMetadata") {
        grounding(metadata, text, before, &mut out);
    }
    if let Some(Value::Object(metadata)) = candidate.get("citationMetadata") {
        let sources = metadata.get("citationSources").or_else(|| metadata.get("citations"));
        for source in sources.and_then(Value::as_array).into_iter().flatten() {
            let word = |key: &str| source.get(key).and_then(Value::as_str).map(str::to_owned);
            let (start, end) = span(source, text, before);
            out.push(Citation { url: word("uri"), title: word("title"), start, end, ..Citation::default() });
        }
    }
    out
}

fn grounding(metadata: &Map<String, Value>, text: &str, before: u64, out: &mut Vec<Citation>) {
    let list = |key: &str| metadata.get(key).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let chunks: Vec<Citation> = list("groundingChunks").iter().map(source).collect();
    let mut used = vec![false; chunks.len()];
    for support in list("groundingSupports") {
        let (start, end) = support.get("segment").map(|s| span(s, text, before)).unwrap_or_default();
        for index in support.get("groundingChunkIndices").and_then(Value::as_array).into_iter().flatten() {
            let Some(at) = index.as_number().and_then(as_u64).map(|i| i as usize).filter(|i| *i < chunks.len()) else {
                continue;
            };
            used[at] = true;
            out.push(Citation { start, end, ..chunks[at].clone() });
        }
    }
    out.extend(chunks.into_iter().zip(used).filter(|(_, used)| !used).map(|(chunk, _)| chunk));
}

fn source(chunk: &Value) -> Citation {
    let inner = ["web", "retrievedContext", "maps", "image"].iter().find_map(|k| chunk.get(*k));
    let word = |key: &str| inner.and_then(|i| i.get(key)).and_then(Value::as_str).map(str::to_owned);
    let cited_text = if chunk.get("retrievedContext").is_some() { word("text") } else { None };
    let (url, title) = (word("uri").or_else(|| word("sourceUri")), word("title"));
    Citation { url, title, file: word("documentName"), cited_text, ..Citation::default() }
}

/// Byte offsets as code points of the answer. An end without a start begins at 0: the wire leaves zeros out.
fn span(place: &Value, text: &str, before: u64) -> (Option<u64>, Option<u64>) {
    let byte = |key: &str| place.get(key).and_then(Value::as_number).and_then(as_u64).map(|b| b as usize);
    let points = |at: usize| {
        let mut at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        before + text[..at].chars().count() as u64
    };
    match (byte("startIndex"), byte("endIndex")) {
        (None, None) => (None, None),
        (start, end) => (Some(points(start.unwrap_or(0))), end.map(points)),
    }
}

/// A citation and the part it stands on, in code points of the answer.
pub struct Cited<'a> {
    pub citation: &'a Citation,
    pub part: (u64, u64),
}

/// `groundingMetadata` for an answer's text. A citation without a place covers its part.
pub fn encode(text: &str, cited: &[Cited<'_>]) -> Option<Value> {
    if cited.is_empty() {
        return None;
    }
    let mut chunks: Vec<Value> = Vec::new();
    let mut supports: Vec<(Value, Vec<usize>)> = Vec::new();
    for Cited { citation, part } in cited {
        let chunk = chunk(citation);
        let at = chunks.iter().position(|c| *c == chunk).unwrap_or_else(|| {
            chunks.push(chunk);
            chunks.len() - 1
        });
        let start = byte_of(text, citation.start.unwrap_or(part.0));
        let end = byte_of(text, citation.end.unwrap_or(part.1)).max(start);
        let mut segment = Map::new();
        if start > 0 {
            segment.insert("startIndex".to_owned(), json!(start));
        }
        segment.insert("endIndex".to_owned(), json!(end));
        segment.insert("text".to_owned(), json!(&text[start..end]));
        let segment = Value::Object(segment);
        match supports.iter_mut().find(|(s, _)| *s == segment) {
            Some((_, indices)) if !indices.contains(&at) => indices.push(at),
            Some(_) => {}
            None => supports.push((segment, vec![at])),
        }
    }
    let supports: Vec<Value> =
        supports.into_iter().map(|(segment, at)| json!({ "segment": segment, "groundingChunkIndices": at })).collect();
    Some(json!({ "groundingChunks": chunks, "groundingSupports": supports }))
}

fn chunk(citation: &Citation) -> Value {
    let mut inner = Map::new();
    let mut put = |key: &str, value: &Option<String>| {
        if let Some(value) = value {
            inner.insert(key.to_owned(), json!(value));
        }
    };
    put("uri", &citation.url);
    put("title", &citation.title);
    put("documentName", &citation.file);
    // A web source has no text of its own on this wire; a retrieved one has.
    let web = citation.url.is_some() && citation.cited_text.is_none() && citation.file.is_none();
    if !web {
        put("text", &citation.cited_text);
    }
    json!({ if web { "web" } else { "retrievedContext" }: inner })
}

/// Always a border between characters.
fn byte_of(text: &str, point: u64) -> usize {
    text.char_indices().nth(point as usize).map_or(text.len(), |(at, _)| at)
}
