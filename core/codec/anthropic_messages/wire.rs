//! The small words of the wire that requests, answers and streams share: stop reasons, usage, cache hints, citations,
//! ids. Each in both directions, next to each other.

use serde_json::{Map, Value, json};

use super::json::Fields;
use crate::{
    codec::{
        cited::{self, Place, Unit},
        draft::Draft,
        figures::figures,
        json::whole,
        signature,
    },
    error::{Error, Kind, Result},
    model::{CacheHint, Citation, Finish, FinishReason, Format, ServiceTier, Signature, Units, Usage},
};

pub use crate::codec::calls::{is_plain_id as is_legal_id, made_id, tool_input};

pub const FORMAT: Format = Format::AnthropicMessages;

/// An upstream that sends the wrong shape is the upstream's fault, not the caller's.
pub fn upstream_fault(error: Error) -> Error {
    if error.kind == Kind::InvalidRequest {
        Error::new(Kind::Upstream, format!("the upstream's answer has an unexpected shape: {}", error.message))
    } else {
        error
    }
}

/// Takes `cache_control` out of a block or tool.
pub fn take_cache(fields: &mut Fields) -> Result<Option<CacheHint>> {
    let Some(mut control) = fields.object("cache_control")? else { return Ok(None) };
    Ok(Some(CacheHint { ttl: control.string("ttl")? }))
}

/// The wire knows 5m (its default) and 1h; a longer wish gets the longest there is.
pub fn put_cache(block: &mut Map<String, Value>, hint: Option<&CacheHint>) {
    let Some(CacheHint { ttl }) = hint else { return };
    let control = match ttl.as_deref() {
        None => json!({"type": "ephemeral"}),
        Some("5m") => json!({"type": "ephemeral", "ttl": "5m"}),
        Some(_) => json!({"type": "ephemeral", "ttl": "1h"}),
    };
    block.insert("cache_control".to_owned(), control);
}

/// Empty means unsigned: unsigned reasoning of other upstreams travels as `""`.
pub fn read_signature(text: Option<String>) -> Option<Signature> {
    text.filter(|t| !t.is_empty()).map(|t| signature::read(&t, FORMAT))
}

/// A citation as answers carry it. One with an empty `encrypted_index` was made here for a citation of another family:
/// it is read as what it was, and never sent to the vendor.
pub fn read_citation(value: Value) -> Citation {
    let text = |key: &str| value.get(key).and_then(Value::as_str).filter(|s| !s.is_empty()).map(str::to_owned);
    let made_here = value.get("encrypted_index").and_then(Value::as_str) == Some("");
    let source = || text("source").filter(|s| s.starts_with("http://") || s.starts_with("https://"));
    Citation {
        url: text("url").or_else(source),
        title: text("title").or_else(|| text("document_title")),
        file: text("file_id"),
        cited_text: text("cited_text"),
        start: made_here.then(|| value.get("start_index").and_then(Value::as_u64)).flatten(),
        end: made_here.then(|| value.get("end_index").and_then(Value::as_u64)).flatten(),
        native: (!made_here).then_some((FORMAT, value)),
    }
}

/// A citation's place in a document of the caller's.
pub fn cited_place(citation: &Value) -> Option<Place> {
    let kind = citation.get("type")?.as_str()?;
    let (_, unit, start, end) = PLACES.into_iter().find(|(name, ..)| *name == kind)?;
    let figure = |key: &str| citation.get(key).and_then(whole);
    Some(Place { unit, document: figure("document_index")?, start: figure(start)?, end: figure(end)? })
}

/// Kinds of places, and the fields that tell them.
const PLACES: [(&str, Unit, &str, &str); 3] = [
    ("char_location", Unit::Char, "start_char_index", "end_char_index"),
    ("page_location", Unit::Page, "start_page_number", "end_page_number"),
    ("content_block_location", Unit::Block, "start_block_index", "end_block_index"),
];

pub fn write_citation(citation: &Citation) -> Value {
    let Citation { url, title, file, cited_text, start, end, native } = citation;
    if let Some((FORMAT, value)) = native {
        return value.clone();
    }
    let place = cited::place(citation);
    let kind = place.and_then(|place| PLACES.into_iter().find(|(_, unit, ..)| *unit == place.unit));
    if let (Some(place), Some((kind, _, start, end))) = (place, kind) {
        return json!({
            "type": kind,
            "cited_text": cited_text.as_deref().unwrap_or_default(),
            "document_index": place.document,
            "document_title": title,
            start: place.start,
            end: place.end,
            "file_id": file,
            "encrypted_index": "",
        });
    }
    let mut out = Map::new();
    out.insert("type".to_owned(), "web_search_result_location".into());
    out.insert("url".to_owned(), url.as_deref().unwrap_or_default().into());
    out.insert("title".to_owned(), title.clone().map_or(Value::Null, Value::from));
    out.insert("cited_text".to_owned(), cited_text.as_deref().unwrap_or_default().into());
    out.insert("encrypted_index".to_owned(), "".into());
    if let Some(file) = file {
        out.insert("file_id".to_owned(), file.as_str().into());
    }
    for (key, place) in [("start_index", start), ("end_index", end)] {
        if let Some(place) = place {
            out.insert(key.to_owned(), (*place).into());
        }
    }
    Value::Object(out)
}

/// Some servers of this format end their turn although they call.
pub fn read_finish(raw: &str, called: bool, stop_sequence: Option<String>, details: Option<Value>) -> Finish {
    let reason = match reason(raw) {
        Some(FinishReason::Stop) if called && raw == "end_turn" => FinishReason::ToolCalls,
        known => known.unwrap_or(FinishReason::Other),
    };
    Finish { reason, raw: raw.to_owned(), stop_sequence, details }
}

/// The vendor's own words come back as they were; others map by meaning and never make a new word.
pub fn stop_reason(finish: &Finish, called: bool, refused: bool) -> &'static str {
    if let Some(word) = WORDS.iter().find(|(word, r)| *word == finish.raw && *r == finish.reason) {
        return word.0;
    }
    match finish.reason {
        _ if refused => "refusal",
        FinishReason::ContentFilter => "refusal",
        FinishReason::Length => "max_tokens",
        FinishReason::ToolCalls => "tool_use",
        // Some families end with "stop" although calls were made.
        FinishReason::Stop if called => "tool_use",
        FinishReason::Stop if finish.stop_sequence.is_some() => "stop_sequence",
        FinishReason::Stop | FinishReason::Malformed | FinishReason::Other => "end_turn",
    }
}

/// `stop_details` explains refusals: the vendor's own as they were, else what the other family said about it.
pub fn stop_details(finish: &Finish, word: &str) -> Value {
    match &finish.details {
        Some(Value::Object(own)) if own.contains_key("type") => Value::Object(own.clone()),
        Some(Value::String(text)) if word == "refusal" => {
            json!({"type": "refusal", "category": null, "explanation": text})
        }
        _ if word == "refusal" && finish.raw != "refusal" && !finish.raw.is_empty() => {
            json!({"type": "refusal", "category": null, "explanation": finish.raw})
        }
        _ => Value::Null,
    }
}

fn reason(raw: &str) -> Option<FinishReason> {
    WORDS.iter().find(|(word, _)| *word == raw).map(|(_, reason)| *reason)
}

const WORDS: [(&str, FinishReason); 8] = [
    ("end_turn", FinishReason::Stop),
    ("stop_sequence", FinishReason::Stop),
    ("pause_turn", FinishReason::Stop),
    ("max_tokens", FinishReason::Length),
    ("model_context_window_exceeded", FinishReason::Length),
    ("tool_use", FinishReason::ToolCalls),
    ("refusal", FinishReason::ContentFilter),
    ("compaction", FinishReason::Other),
];

/// The wire's `input_tokens` leaves cached ones out; the model's has them in.
pub fn read_usage(object: &[u8]) -> Option<Usage> {
    let (mut out, mut searches, mut speed, mut tier, mut within_us) = (Usage::default(), None, None, None, false);
    figures(object, |outer, key, figure| match (outer, key) {
        (b"", b"input_tokens") => out.input_tokens = figure.whole(),
        (b"", b"output_tokens") => out.output_tokens = figure.whole(),
        (b"", b"cache_read_input_tokens") => out.cache_read_tokens = figure.whole(),
        (b"", b"cache_creation_input_tokens") => out.cache_write_tokens = figure.whole(),
        (b"cache_creation", b"ephemeral_1h_input_tokens") => out.cache_write_1h_tokens = figure.whole(),
        (b"output_tokens_details", b"thinking_tokens") => out.reasoning_tokens = figure.whole(),
        (b"server_tool_use", b"web_search_requests") => searches = figure.whole(),
        (b"", b"speed") => speed = figure.word().map(ServiceTier::named),
        (b"", b"service_tier") => tier = figure.word().map(ServiceTier::named),
        (b"", b"inference_geo") => within_us = figure.word() == Some("us"),
        _ => {}
    })?;
    let service = speed.filter(|speed| *speed == ServiceTier::Fast).or(tier);
    out.service_tier = match within_us {
        true => Some(service.unwrap_or(ServiceTier::Standard).within_us()),
        false => service,
    };
    let cached = out.cache_read_tokens.unwrap_or(0).saturating_add(out.cache_write_tokens.unwrap_or(0));
    out.input_tokens = out.input_tokens.map(|fresh| fresh.saturating_add(cached));
    out.units = Units { web_searches: searches, ..Units::default() }.boxed();
    Some(out)
}

/// The service that it names, in its own word.
pub fn service_tier(object: &[u8]) -> Option<String> {
    let mut tier = None;
    figures(object, |outer, key, figure| {
        if (outer, key) == (b"", b"service_tier") {
            tier = figure.word().map(str::to_owned);
        }
    })?;
    tier
}

/// The wire has no word for "unknown": clients require both counts, so they get 0 there and the record stays honest.
pub fn told_usage(usage: Option<&Usage>) -> Draft<'_> {
    let mut out = Draft::new();
    let Some(usage) = usage else {
        out.put("input_tokens", 0u64);
        out.put("output_tokens", 0u64);
        return out;
    };
    let Usage {
        input_tokens,
        output_tokens,
        cache_read_tokens: read,
        cache_write_tokens: written,
        cache_write_1h_tokens: hour,
        reasoning_tokens,
        input_audio_tokens: _,
        output_audio_tokens: _,
        billed: _,
        service_tier: _,
        units,
        native,
    } = usage;
    if let Some(native) = native.as_ref().filter(|native| native.format == FORMAT) {
        out.take(&mut native.object());
        return out;
    }
    let cached = read.unwrap_or(0).saturating_add(written.unwrap_or(0));
    out.put("input_tokens", input_tokens.unwrap_or(0).saturating_sub(cached));
    if let Some(written) = written {
        out.put("cache_creation_input_tokens", *written);
    }
    if let Some(read) = read {
        out.put("cache_read_input_tokens", *read);
    }
    if let Some(hour) = hour {
        let short = written.unwrap_or(0).saturating_sub(*hour);
        out.put("cache_creation", json!({"ephemeral_5m_input_tokens": short, "ephemeral_1h_input_tokens": hour}));
    }
    out.put("output_tokens", output_tokens.unwrap_or(0));
    if let Some(thinking) = reasoning_tokens {
        out.put("output_tokens_details", json!({"thinking_tokens": thinking}));
    }
    if let Some(searches) = units.as_deref().and_then(|u| u.web_searches) {
        out.put("server_tool_use", json!({"web_search_requests": searches, "web_fetch_requests": 0}));
    }
    out
}

/// The same as a tree.
pub fn write_usage(usage: Option<&Usage>) -> Map<String, Value> {
    told_usage(usage).tree()
}

/// Message ids begin with `msg_`.
pub fn message_id(id: &str, request_id: &str) -> String {
    match id {
        "" => format!("msg_{}", request_id.trim_start_matches("msg_")),
        id if id.starts_with("msg_") => id.to_owned(),
        id => format!("msg_{id}"),
    }
}
