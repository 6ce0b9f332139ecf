//! The small words of the wire that requests, answers and streams share: stop reasons, usage, cache points, citations,
//! sealed reasoning, ids, media formats. Each in both directions, next to each other.

use serde_json::{Map, Value, json};

use crate::{
    codec::{
        calls,
        cited::{self, Place, Unit},
        draft::Draft,
        figures::{Figure, figures},
        json::whole,
        signature,
    },
    error::{Error, Kind},
    model::{CacheHint, Citation, Finish, FinishReason, Format, MediaKind, Signature, Usage},
};

pub const FORMAT: Format = Format::BedrockConverse;

/// An upstream that sends the wrong shape is the upstream's fault, not the caller's.
pub fn upstream_fault(error: Error) -> Error {
    if error.kind == Kind::InvalidRequest {
        Error::new(Kind::Upstream, format!("the upstream's answer has an unexpected shape: {}", error.message))
    } else {
        error
    }
}

/// A list's `cachePoint` stands behind what it marks.
pub fn read_cache_point(point: &Value) -> CacheHint {
    CacheHint { ttl: point.get("ttl").and_then(Value::as_str).map(str::to_owned) }
}

/// The wire knows 5m (its default) and 1h; a longer wish gets the longest there is.
pub fn write_cache_point(hint: &CacheHint) -> Value {
    match hint.ttl.as_deref() {
        None => json!({"cachePoint": {"type": "default"}}),
        Some("5m") => json!({"cachePoint": {"type": "default", "ttl": "5m"}}),
        Some(_) => json!({"cachePoint": {"type": "default", "ttl": "1h"}}),
    }
}

pub fn read_citation(value: Value) -> Citation {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).filter(|s| !s.is_empty());
    let is_url = |s: &&str| s.starts_with("http://") || s.starts_with("https://");
    let source = text("/source").filter(is_url);
    let file = text("/source").filter(|s| !is_url(s)).map(str::to_owned);
    let url = text("/location/web/url").or(source).map(str::to_owned);
    let title = text("/title").map(str::to_owned);
    let pieces = value.get("sourceContent").and_then(Value::as_array).into_iter().flatten();
    let cited: String = pieces.filter_map(|piece| piece.get("text").and_then(Value::as_str)).collect();
    let cited_text = Some(cited).filter(|c| !c.is_empty());
    Citation { url, title, file, cited_text, start: None, end: None, native: Some((FORMAT, value)) }
}

/// A citation's place in a document of the caller's.
pub fn cited_place(citation: &Value) -> Option<Place> {
    let (name, location) = citation.get("location")?.as_object()?.iter().next()?;
    let (_, unit) = PLACES.into_iter().find(|(known, _)| *known == name)?;
    let figure = |key: &str| location.get(key).and_then(whole);
    Some(Place { unit, document: figure("documentIndex")?, start: figure("start")?, end: figure("end")? })
}

const PLACES: [(&str, Unit); 3] =
    [("documentChar", Unit::Char), ("documentPage", Unit::Page), ("documentChunk", Unit::Block)];

/// Of another family: a source on the web or a place in a document, with what is known of it.
pub fn write_citation(citation: &Citation) -> Value {
    let Citation { url, title, file, cited_text, start: _, end: _, native } = citation;
    if let Some((FORMAT, value)) = native {
        return value.clone();
    }
    let mut out = Map::new();
    if let Some(title) = title {
        out.insert("title".to_owned(), title.as_str().into());
    }
    if let Some(file) = file {
        out.insert("source".to_owned(), file.as_str().into());
    }
    if let Some(cited) = cited_text {
        out.insert("sourceContent".to_owned(), json!([{"text": cited}]));
    }
    if let Some(url) = url {
        out.insert("location".to_owned(), json!({"web": {"url": url}}));
    } else if let Some(place) = cited::place(citation)
        && let Some((name, _)) = PLACES.into_iter().find(|(_, unit)| *unit == place.unit)
    {
        let Place { unit: _, document, start, end } = place;
        let told = json!({"documentIndex": document, "start": start, "end": end});
        out.insert("location".to_owned(), json!({ name: told }));
    }
    Value::Object(out)
}

/// Sealed reasoning is a blob on this wire: base64 of whatever its maker wrote. One of another family names its maker.
pub fn read_sealed(data: &str) -> Signature {
    signature::unwrap(data, "").unwrap_or_else(|| Signature { origin: FORMAT, data: data.to_owned() })
}

pub fn write_sealed(sealed: &Signature) -> String {
    if sealed.origin == FORMAT { sealed.data.clone() } else { signature::wrap(sealed, "") }
}

/// Some models end their turn although they call.
pub fn read_finish(raw: &str, called: bool) -> Finish {
    if called && raw == "end_turn" {
        return Finish::new(FinishReason::ToolCalls, raw);
    }
    let reason = WORDS.iter().find(|(word, _)| *word == raw).map_or(FinishReason::Other, |(_, reason)| *reason);
    Finish::new(reason, raw)
}

/// The vendor's own words come back as they were; others map by meaning and never make a new word.
pub fn stop_reason(finish: Option<&Finish>, called: bool, refused: bool) -> &'static str {
    let Some(finish) = finish else { return "end_turn" };
    if let Some((word, _)) = WORDS.iter().find(|(word, reason)| *word == finish.raw && *reason == finish.reason) {
        return word;
    }
    match finish.reason {
        _ if refused => "content_filtered",
        FinishReason::ContentFilter => "content_filtered",
        FinishReason::Length => "max_tokens",
        FinishReason::ToolCalls => "tool_use",
        // Some families end with "stop" although calls were made.
        FinishReason::Stop if called => "tool_use",
        FinishReason::Stop if finish.stop_sequence.is_some() => "stop_sequence",
        FinishReason::Malformed => "malformed_model_output",
        FinishReason::Stop | FinishReason::Other => "end_turn",
    }
}

const WORDS: [(&str, FinishReason); 9] = [
    ("end_turn", FinishReason::Stop),
    ("stop_sequence", FinishReason::Stop),
    ("max_tokens", FinishReason::Length),
    ("model_context_window_exceeded", FinishReason::Length),
    ("tool_use", FinishReason::ToolCalls),
    ("guardrail_intervened", FinishReason::ContentFilter),
    ("content_filtered", FinishReason::ContentFilter),
    ("malformed_model_output", FinishReason::Malformed),
    ("malformed_tool_use", FinishReason::Malformed),
];

/// The wire's `inputTokens` leaves cached ones out; the model's has them in.
pub fn read_usage(object: &[u8]) -> Option<Usage> {
    let mut out = Usage::default();
    figures(object, |outer, key, figure| match (outer, key) {
        (b"", b"inputTokens") => out.input_tokens = figure.whole(),
        (b"", b"outputTokens") => out.output_tokens = figure.whole(),
        (b"", b"cacheReadInputTokens") => out.cache_read_tokens = figure.whole(),
        (b"", b"cacheWriteInputTokens") => out.cache_write_tokens = figure.whole(),
        (b"", b"cacheDetails") => out.cache_write_1h_tokens = of_hour(figure),
        (outer, b"reasoningTokens") if outer == DETAILS.as_bytes() => out.reasoning_tokens = figure.whole(),
        _ => {}
    })?;
    let cached = out.cache_read_tokens.unwrap_or(0).saturating_add(out.cache_write_tokens.unwrap_or(0));
    out.input_tokens = out.input_tokens.map(|fresh| fresh.saturating_add(cached));
    Some(out)
}

/// Of what was written to the cache, that which stays for an hour.
fn of_hour(details: Figure<'_>) -> Option<u64> {
    let Figure::Other(list) = details else { return None };
    let details: Vec<Value> = serde_json::from_slice(list).ok()?;
    let hour = details.iter().filter(|detail| detail.get("ttl").is_some_and(|ttl| ttl == "1h"));
    Some(hour.filter_map(|detail| detail.get("inputTokens").and_then(Value::as_u64)).fold(0, u64::saturating_add))
}

/// The wire has no word for "unknown": clients require the counts, so they get 0 there and the record stays honest.
pub fn told_usage(usage: Option<&Usage>) -> Draft<'_> {
    let mut out = Draft::new();
    let unknown = Usage::default();
    if let Some(mut native) = usage.and_then(|usage| usage.native_of(FORMAT)) {
        out.take(&mut native);
        return out;
    }
    let usage = usage.unwrap_or(&unknown);
    let (read, written) = (usage.cache_read_tokens, usage.cache_write_tokens);
    let cached = read.unwrap_or(0).saturating_add(written.unwrap_or(0));
    let input = usage.input_tokens.unwrap_or(0);
    let output = usage.output_tokens.unwrap_or(0);
    out.put("inputTokens", input.saturating_sub(cached));
    out.put("outputTokens", output);
    out.put("totalTokens", input.max(cached).saturating_add(output));
    if let Some(read) = read {
        out.put("cacheReadInputTokens", read);
    }
    if let Some(written) = written {
        out.put("cacheWriteInputTokens", written);
    }
    if let Some(hour) = usage.cache_write_1h_tokens {
        let short = written.unwrap_or(0).saturating_sub(hour);
        out.put("cacheDetails", json!([{"ttl": "5m", "inputTokens": short}, {"ttl": "1h", "inputTokens": hour}]));
    }
    if let Some(reasoning) = usage.reasoning_tokens {
        out.put(DETAILS, json!({"reasoningTokens": reasoning}));
    }
    out
}

/// The same as a tree.
pub fn write_usage(usage: Option<&Usage>) -> Map<String, Value> {
    told_usage(usage).tree()
}

/// Not the vendor's: its clients pass over it, and the figure is not lost.
const DETAILS: &str = "outputTokensDetails";

/// Up to 64 letters, digits, `_` and `-`.
pub fn is_legal_id(id: &str) -> bool {
    id.len() <= 64 && calls::is_plain_id(id)
}

/// The union member and its words for a kind of media.
pub const fn member(kind: MediaKind) -> &'static str {
    match kind {
        MediaKind::Image => "image",
        MediaKind::Document => "document",
        MediaKind::Audio => "audio",
        MediaKind::Video => "video",
    }
}

/// The wire's `format` as a media type.
pub fn mime_of(kind: MediaKind, format: &str) -> String {
    known_mime(kind, format).map_or_else(|| format!("{}/{format}", member(kind)), str::to_owned)
}

pub fn known_mime(kind: MediaKind, format: &str) -> Option<&'static str> {
    FORMATS.iter().find(|(k, word, _)| *k == kind && *word == format).map(|(_, _, mime)| *mime)
}

/// A media type as the wire's `format`; `None` if it has no word for it.
pub fn format_of(kind: MediaKind, mime: &str) -> Option<&'static str> {
    FORMATS.iter().find(|(k, _, known)| *k == kind && *known == mime).map(|(_, word, _)| *word)
}

/// (kind, the wire's word, media type); of several words for a type the usual one stands first.
const FORMATS: [(MediaKind, &str, &str); 32] = [
    (MediaKind::Image, "png", "image/png"),
    (MediaKind::Image, "jpeg", "image/jpeg"),
    (MediaKind::Image, "gif", "image/gif"),
    (MediaKind::Image, "webp", "image/webp"),
    (MediaKind::Document, "pdf", "application/pdf"),
    (MediaKind::Document, "txt", "text/plain"),
    (MediaKind::Document, "md", "text/markdown"),
    (MediaKind::Document, "csv", "text/csv"),
    (MediaKind::Document, "html", "text/html"),
    (MediaKind::Document, "doc", "application/msword"),
    (MediaKind::Document, "docx", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    (MediaKind::Document, "xls", "application/vnd.ms-excel"),
    (MediaKind::Document, "xlsx", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    (MediaKind::Document, "md", "text/x-markdown"),
    // Plain text under other names.
    (MediaKind::Document, "txt", "application/json"),
    (MediaKind::Document, "txt", "application/xml"),
    (MediaKind::Document, "txt", "application/yaml"),
    (MediaKind::Video, "mp4", "video/mp4"),
    (MediaKind::Video, "mov", "video/quicktime"),
    (MediaKind::Video, "webm", "video/webm"),
    (MediaKind::Video, "mkv", "video/x-matroska"),
    (MediaKind::Video, "mpeg", "video/mpeg"),
    (MediaKind::Video, "mpg", "video/mpeg"),
    (MediaKind::Video, "flv", "video/x-flv"),
    (MediaKind::Video, "wmv", "video/x-ms-wmv"),
    (MediaKind::Video, "three_gp", "video/3gpp"),
    (MediaKind::Audio, "mp3", "audio/mpeg"),
    (MediaKind::Audio, "wav", "audio/wav"),
    (MediaKind::Audio, "flac", "audio/flac"),
    (MediaKind::Audio, "ogg", "audio/ogg"),
    (MediaKind::Audio, "aac", "audio/aac"),
    (MediaKind::Audio, "opus", "audio/opus"),
];
