//! The small words of the wire that requests, answers and streams share: finish reasons, usage, citations, content, tool
//! calls. Each in both directions, next to each other.

use std::borrow::Cow;

use serde_json::{Map, Value, json};

use crate::{
    codec::{
        draft::{Draft, Said},
        figures::{Figure, figures},
        json::{self, Fields, Item},
        signature,
    },
    error::{Error, Kind, Result},
    model::{
        Billed, Citation, Extra, Finish, FinishReason, Format, Media, MediaKind, MediaSource, Part, Reasoning,
        Signature, Text, ToolCall, ToolKind, Usage,
    },
};

pub const FORMAT: Format = Format::Cohere;

/// An upstream that sends the wrong shape is the upstream's fault, not the caller's.
pub fn upstream_fault(error: Error) -> Error {
    if error.kind == Kind::InvalidRequest {
        Error::new(Kind::Upstream, format!("the upstream's answer has an unexpected shape: {}", error.message))
    } else {
        error
    }
}

/// `content`: a string or a list of `text`, `thinking` and `image_url`.
pub fn read_content<'t>(content: impl Into<Item<'t>>, path: &str) -> Result<Vec<Part>> {
    let items = match content.into().string() {
        Ok(text) => return Ok(vec![Part::text(text)]),
        Err(other) => other.items(),
    };
    let items = items.map_err(|other| json::wrong_type(path, "a string or an array of content", &other.tree()))?;
    items.into_iter().enumerate().map(|(i, item)| read_item(item, &json::nth(path, i))).collect()
}

fn read_item(item: Item, path: &str) -> Result<Part> {
    let item = match item.string() {
        Ok(text) => return Ok(Part::text(text)),
        Err(other) => other,
    };
    let kind = item.word("type").map(|kind| kind.into_owned());
    let kind = kind.ok_or_else(|| json::missing(&format!("{path}.type")))?;
    let mut f = match kind.as_str() {
        "text" | "thinking" | "image_url" | "document" => Fields::new(item, path)?,
        _ => return Ok(Part::Native { format: FORMAT, kind, value: item.tree() }),
    };
    f.skip("type");
    match kind.as_str() {
        "text" => {
            let signature = read_signature(f.string("signature")?);
            let text = f.required_string("text")?;
            Ok(Part::Text(Text { text, signature, extra: f.rest(FORMAT), ..Text::default() }))
        }
        "thinking" => {
            // The vendor signs nothing: these are other families', on their way back.
            let signature = read_signature(f.string("signature")?);
            let sealed = read_signature(f.string("data")?);
            let text = f.string("thinking")?.unwrap_or_default();
            Ok(Part::Reasoning(Reasoning { text, signature, sealed, extra: f.rest(FORMAT) }))
        }
        "image_url" => image(f),
        _ => document(f.take("document").unwrap_or_default()),
    }
}

pub fn read_signature(text: Option<String>) -> Option<Signature> {
    text.filter(|t| !t.is_empty()).map(|t| signature::read(&t, FORMAT))
}

fn image(mut f: Fields) -> Result<Part> {
    let path = f.path("image_url");
    let mut inner = f.object("image_url")?.ok_or_else(|| json::missing(&path))?;
    let url = inner.required_string("url")?;
    let (mime, source) = match url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,")) {
        Some((mime, data)) => (Some(mime.to_owned()), MediaSource::Base64(data.to_owned())),
        None => (None, MediaSource::Url(url)),
    };
    let mut media = Media::new(MediaKind::Image, mime, source);
    media.detail = inner.string("detail")?;
    media.extra = f.rest(FORMAT);
    Ok(Part::Media(media))
}

/// A document that an answer may cite: a text, or an object of texts. To every other format it is a document of text; what it
/// was stays with this one.
pub fn document(given: Value) -> Result<Part> {
    let field = |key: &str| given.pointer(&format!("/data/{key}")).and_then(Value::as_str);
    let data = || given.get("data").filter(|data| !data.is_null());
    let text = match (given.as_str(), field("text"), data()) {
        (Some(text), _, _) | (None, Some(text), _) => text.to_owned(),
        (None, None, Some(Value::String(text))) => text.clone(),
        (None, None, Some(data)) => data.to_string(),
        (None, None, None) => return Err(Error::invalid("documents", "a document must be a text or have `data`")),
    };
    let mut media = Media::new(MediaKind::Document, Some("text/plain".to_owned()), MediaSource::Text(text));
    media.name = field("title").map(str::to_owned);
    media.extra.insert(FORMAT, DOCUMENT, given);
    Ok(Part::Media(media))
}

/// The document as it came, if its text is still the same.
pub fn own_document(media: &Media) -> Option<Value> {
    let MediaSource::Text(text) = &media.source else { return None };
    own_words(text, &media.extra)
}

pub fn is_document(extra: &Extra) -> bool {
    extra.of(FORMAT).is_some_and(|kept| kept.contains_key(DOCUMENT))
}

/// The same of a text that `result` made.
pub fn own_words(text: &str, extra: &Extra) -> Option<Value> {
    let kept = extra.of(FORMAT)?.get(DOCUMENT)?;
    let Ok(Part::Media(again)) = document(kept.clone()) else { return None };
    matches!(again.source, MediaSource::Text(words) if words == text).then(|| kept.clone())
}

/// A document that answers a call is what the call gave: to every other format a text.
pub fn result(part: Part) -> Part {
    match part {
        Part::Media(Media { kind: MediaKind::Document, source: MediaSource::Text(text), extra, .. }) => {
            Part::Text(Text { text, extra, ..Text::default() })
        }
        other => other,
    }
}

/// Among the extra fields of a document.
const DOCUMENT: &str = "document";

/// Marks the text that a model wrote about the calls it was going to make.
pub const PLAN: &str = "tool_plan";

pub fn plan(text: String) -> Part {
    let mut extra = Extra::default();
    extra.insert(FORMAT, PLAN, true.into());
    Part::Text(Text { text, extra, ..Text::default() })
}

pub fn is_plan(extra: &Extra) -> bool {
    extra.of(FORMAT).is_some_and(|kept| kept.contains_key(PLAN))
}

pub fn read_call<'t>(value: impl Into<Item<'t>>, path: &str) -> Result<ToolCall> {
    let mut f = Fields::new(value, path)?;
    f.skip("type");
    let path = f.path("function");
    let mut function = f.object("function")?.ok_or_else(|| json::missing(&path))?;
    let id = f.string("id")?.unwrap_or_default();
    let (id, in_id) = signature::split_id(&id);
    let beside = f.string("signature")?.map(|text| signature::read(&text, FORMAT));
    let signature = in_id.or(beside);
    Ok(ToolCall {
        id: id.to_owned(),
        name: function.required_string("name")?,
        kind: ToolKind::Function,
        arguments: function.string("arguments")?.unwrap_or_default(),
        signature,
        cache: None,
        extra: f.rest(FORMAT),
    })
}

/// `signed`: this wire has no place for it, but for the call itself.
pub fn told_call<'a>(
    id: Cow<'a, str>,
    name: &'a str,
    arguments: Cow<'a, str>,
    signed: Option<&Signature>,
    extra: &'a Extra,
) -> Draft<'a> {
    let arguments = if arguments.trim().is_empty() { "{}".into() } else { arguments };
    let (mut out, mut function) = (Draft::new(), Draft::new());
    out.put("id", Said::Text(id));
    out.put("type", "function");
    function.put("name", name);
    function.put("arguments", Said::Text(arguments));
    out.put("function", function);
    if let Some(signed) = signed {
        out.put("signature", signature::write(signed, FORMAT));
    }
    out.add(extra.of(FORMAT));
    out
}

/// The same as a tree.
pub fn write_call(id: &str, name: &str, arguments: &str, signed: Option<&Signature>, extra: &Extra) -> Value {
    Value::Object(told_call(id.into(), name, arguments.into(), signed, extra).tree())
}

/// `start` and `end` count characters of the answer's text, as in the model.
/// Citations onto the texts that they stand on; `plans`: how many parts stand before the content.
pub fn place_citations(parts: &mut [Part], plans: usize, citations: Vec<Value>) {
    for value in citations {
        let said = value.get("content_index").and_then(Value::as_u64).map(|i| plans.saturating_add(i as usize));
        let on_plan = value.get("type").is_some_and(|kind| kind == "PLAN");
        let is_text = |at: &usize| matches!(parts.get(*at), Some(Part::Text(_)));
        let at = if on_plan { Some(0) } else { said.filter(is_text).or_else(|| (plans..parts.len()).find(is_text)) };
        if let Some(Part::Text(text)) = at.and_then(|at| parts.get_mut(at)) {
            text.citations.push(read_citation(value));
        }
    }
}

pub fn read_citation(value: Value) -> Citation {
    let place = |key: &str| value.get(key).and_then(Value::as_u64);
    let source = value.pointer("/sources/0");
    let text = |pointer: &str| source.and_then(|s| s.pointer(pointer)).and_then(Value::as_str).map(str::to_owned);
    Citation {
        url: text("/document/url").or_else(|| text("/tool_output/url")),
        title: text("/document/title").or_else(|| text("/tool_output/title")),
        file: text("/id"),
        cited_text: text("/document/text").or_else(|| text("/document/snippet")),
        start: place("start"),
        end: place("end"),
        native: Some((FORMAT, value)),
    }
}

/// `content`: the index of the text that it stands on, `before` what the answer's texts before that one count, `said` the text.
/// One that names no place stands on all of it.
pub fn write_citation(citation: &Citation, content: usize, before: u64, said: &str) -> Value {
    let Citation { url, title, file, cited_text, start, end, native } = citation;
    if let Some((FORMAT, value)) = native {
        return value.clone();
    }
    let mut document = Map::new();
    for (key, value) in [("url", url), ("title", title), ("text", cited_text)] {
        if let Some(value) = value {
            document.insert(key.to_owned(), value.as_str().into());
        }
    }
    let id = file.as_deref().or(url.as_deref()).or(title.as_deref()).unwrap_or("source");
    let (start, end) = match (start, end) {
        (Some(start), Some(end)) => (*start, *end),
        _ => (before, before + said.chars().count() as u64),
    };
    let (skip, length) = (start.saturating_sub(before) as usize, end.saturating_sub(start) as usize);
    let text: String = said.chars().skip(skip).take(length).collect();
    json!({
        "start": start,
        "end": end,
        "text": text,
        "sources": [{"type": "document", "id": id, "document": document}],
        "content_index": content,
        "type": "TEXT_CONTENT",
    })
}

/// An answer may be complete and hold calls.
pub fn read_finish(raw: &str, called: bool) -> Finish {
    if called && raw == "COMPLETE" {
        return Finish::new(FinishReason::ToolCalls, raw);
    }
    let reason = WORDS.iter().find(|(word, _)| *word == raw).map_or(FinishReason::Other, |(_, reason)| *reason);
    Finish::new(reason, raw)
}

/// The vendor's own words come back as they were; others map by meaning.
pub fn finish_reason(finish: Option<&Finish>, called: bool, refused: bool) -> &'static str {
    let Some(finish) = finish else { return "COMPLETE" };
    if let Some((word, _)) = WORDS.iter().find(|(word, reason)| *word == finish.raw && *reason == finish.reason) {
        return word;
    }
    match finish.reason {
        _ if refused => "ERROR_TOXIC",
        FinishReason::ContentFilter => "ERROR_TOXIC",
        FinishReason::Length => "MAX_TOKENS",
        FinishReason::ToolCalls => "TOOL_CALL",
        // Some families end with "stop" although calls were made.
        FinishReason::Stop if called => "TOOL_CALL",
        FinishReason::Stop if finish.stop_sequence.is_some() => "STOP_SEQUENCE",
        FinishReason::Malformed => "ERROR",
        FinishReason::Stop | FinishReason::Other => "COMPLETE",
    }
}

const WORDS: [(&str, FinishReason); 7] = [
    ("COMPLETE", FinishReason::Stop),
    ("STOP_SEQUENCE", FinishReason::Stop),
    ("MAX_TOKENS", FinishReason::Length),
    ("TOOL_CALL", FinishReason::ToolCalls),
    ("ERROR_TOXIC", FinishReason::ContentFilter),
    ("ERROR", FinishReason::Malformed),
    ("TIMEOUT", FinishReason::Other),
];

/// `tokens` are what was read and written, the vendor's own prompt around the caller's included, and `cached_tokens` are of
/// those; `billed_units` are what is paid for.
pub fn read_usage(object: &[u8]) -> Option<Usage> {
    let (mut out, mut billed) = (Usage::default(), None::<Billed>);
    figures(object, |outer, key, figure| match (outer, key) {
        (b"tokens", b"input_tokens") => out.input_tokens = figure.whole(),
        (b"tokens", b"output_tokens") => out.output_tokens = figure.whole(),
        (b"tokens", b"reasoning_tokens") => out.reasoning_tokens = figure.whole(),
        (b"", b"cached_tokens") => out.cache_read_tokens = figure.whole(),
        (b"", key) if key == WRITTEN.as_bytes() => out.cache_write_tokens = figure.whole(),
        (b"", b"billed_units") => billed = (figure == Figure::Object).then(Billed::default),
        (b"billed_units", b"input_tokens") => billed.get_or_insert_default().input_tokens = figure.whole(),
        (b"billed_units", b"output_tokens") => billed.get_or_insert_default().output_tokens = figure.whole(),
        _ => {}
    })?;
    out.input_tokens = out.input_tokens.or(billed.and_then(|billed| billed.input_tokens));
    out.output_tokens = out.output_tokens.or(billed.and_then(|billed| billed.output_tokens));
    out.billed = billed;
    Some(out)
}

pub fn told_usage(usage: &Usage) -> Draft<'_> {
    let mut out = Draft::new();
    if let Some(mut native) = usage.native_of(FORMAT) {
        out.take(&mut native);
        return out;
    }
    let (mut billed, mut tokens) = (Draft::new(), Draft::new());
    for counts in [&mut billed, &mut tokens] {
        counts.put("input_tokens", usage.input_tokens.unwrap_or(0));
        counts.put("output_tokens", usage.output_tokens.unwrap_or(0));
    }
    if let Some(reasoning) = usage.reasoning_tokens {
        tokens.put("reasoning_tokens", reasoning);
    }
    out.put("billed_units", billed);
    out.put("tokens", tokens);
    for (key, count) in [("cached_tokens", usage.cache_read_tokens), (WRITTEN, usage.cache_write_tokens)] {
        if let Some(count) = count {
            out.put(key, count);
        }
    }
    out
}

/// The same as a tree.
pub fn write_usage(usage: &Usage) -> Map<String, Value> {
    told_usage(usage).tree()
}

/// Not the vendor's, which has no figure for it.
const WRITTEN: &str = "portcullis_cache_write_tokens";

/// Gives unknown fields back to this format only.
pub fn give_back(out: &mut Map<String, Value>, extra: &Extra) {
    for (key, value) in extra.of(FORMAT).into_iter().flatten() {
        if !out.contains_key(key) {
            out.insert(key.clone(), value.clone());
        }
    }
}
