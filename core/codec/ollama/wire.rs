//! The small words of the wire that requests, answers and streams share: finish reasons, figures, messages, tool calls, times.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::{
    codec::{
        calls,
        draft::{self, Draft, Said},
        json::{self, Fields, Item},
        mime,
    },
    error::{Error, Kind, Result},
    model::{Finish, FinishReason, Format, Media, MediaKind, MediaSource, Part, Reasoning, ToolCall, ToolKind, Usage},
};

pub const FORMAT: Format = Format::Ollama;

/// An upstream that sends the wrong shape is the upstream's fault, not the caller's.
pub fn upstream_fault(error: Error) -> Error {
    if error.kind == Kind::InvalidRequest {
        Error::new(Kind::Upstream, format!("the upstream's answer has an unexpected shape: {}", error.message))
    } else {
        error
    }
}

/// What a message says, in the order in which a model says it. `seen`: calls before this message, for ids.
pub fn read_parts(f: &mut Fields, seen: usize) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    if let Some(text) = f.string("thinking")?.filter(|text| !text.is_empty()) {
        parts.push(Part::Reasoning(Reasoning { text, ..Reasoning::default() }));
    }
    if let Some(text) = f.string("content")?.filter(|text| !text.is_empty()) {
        parts.push(Part::text(text));
    }
    let path = f.path("images");
    for (i, image) in f.array("images")?.unwrap_or_default().into_iter().enumerate() {
        let Value::String(data) = image else {
            return Err(json::wrong_type(&format!("{path}[{i}]"), "base64 text", &image));
        };
        let mime = mime::sniffed(&data).map(str::to_owned);
        parts.push(Part::Media(Media::new(MediaKind::Image, mime, MediaSource::Base64(data))));
    }
    let path = f.path("tool_calls");
    for (i, call) in f.items("tool_calls")?.unwrap_or_default().into_iter().enumerate() {
        parts.push(Part::ToolCall(read_call(call, &json::nth(&path, i), seen + i)?));
    }
    Ok(parts)
}

/// Older servers give no ids: one is made that is the same each time.
pub fn read_call<'t>(value: impl Into<Item<'t>>, path: &str, ordinal: usize) -> Result<ToolCall> {
    let mut f = Fields::new(value, path)?;
    f.skip("type");
    let path = f.path("function");
    let mut function = f.object("function")?.ok_or_else(|| json::missing(&path))?;
    let name = function.required_string("name")?;
    let arguments = match function.take("arguments") {
        None => "{}".to_owned(),
        Some(Value::String(text)) => text,
        Some(value) => value.to_string(),
    };
    let id = f.string("id")?.filter(|id| !id.is_empty());
    let id = id.unwrap_or_else(|| calls::made_id("call_", &[&ordinal.to_string(), &name, &arguments]));
    Ok(ToolCall { id, name, kind: ToolKind::Function, arguments, signature: None, cache: None, extra: f.rest(FORMAT) })
}

/// Arguments are an object here.
pub fn told_call<'a>(id: Cow<'a, str>, name: &'a str, arguments: &'a str, kind: ToolKind) -> Draft<'a> {
    let custom = kind == ToolKind::Custom;
    let input = if custom { None } else { draft::input(arguments) };
    let (mut out, mut function) = (Draft::new(), Draft::new());
    out.put("id", Said::Text(id));
    out.put("type", "function");
    function.put("name", name);
    function.put("arguments", input.unwrap_or_else(|| calls::tool_input(arguments, custom).into()));
    out.put("function", function);
    out
}

/// The same as a tree.
pub fn write_call(id: &str, name: &str, arguments: &str, kind: ToolKind) -> Value {
    Value::Object(told_call(id.into(), name, arguments, kind).tree())
}

/// It says `stop` where calls were made.
pub fn read_finish(raw: &str, called: bool) -> Finish {
    let reason = match raw {
        "stop" if called => FinishReason::ToolCalls,
        // A model that is loaded or let go of has nothing to say.
        "stop" | "load" | "unload" => FinishReason::Stop,
        "length" => FinishReason::Length,
        // Not the vendor's: what other families say goes there and comes back.
        FILTERED => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    };
    Finish::new(reason, raw)
}

const FILTERED: &str = "content_filter";

pub fn done_reason(finish: Option<&Finish>, refused: bool) -> String {
    match finish.map(|finish| (finish.reason, finish.raw.as_str())) {
        Some((FinishReason::Length, _)) => "length".to_owned(),
        Some((FinishReason::ContentFilter, _)) => FILTERED.to_owned(),
        Some(_) if refused => FILTERED.to_owned(),
        // The wire's words for other ends are its own.
        Some((FinishReason::Other | FinishReason::Malformed, raw)) if !raw.is_empty() => raw.to_owned(),
        Some((FinishReason::Stop, raw @ ("load" | "unload"))) => raw.to_owned(),
        _ => "stop".to_owned(),
    }
}

/// Takes the figures of a last message out of it.
pub fn take_usage(f: &mut Fields) -> Option<Usage> {
    let mut native = Map::new();
    for key in FIGURES {
        if let Some(value) = f.take(key) {
            native.insert(key.to_owned(), value);
        }
    }
    (!native.is_empty()).then(|| read_usage(native))
}

pub fn read_usage(native: Map<String, Value>) -> Usage {
    let count = |key: &str| native.get(key).and_then(json::whole);
    let other = |key: &str| native.get(OTHERS).and_then(|o| o.get(key)).and_then(Value::as_u64);
    Usage {
        input_tokens: count("prompt_eval_count"),
        output_tokens: count("eval_count"),
        cache_read_tokens: other("cache_read"),
        cache_write_tokens: other("cache_write"),
        reasoning_tokens: other("reasoning"),
        native: Some(Box::new((FORMAT, native))),
        ..Usage::default()
    }
}

pub fn write_usage(usage: &Usage) -> Map<String, Value> {
    if let Some((FORMAT, native)) = usage.native.as_deref() {
        return native.clone();
    }
    let counts = |list: &[(&str, Option<u64>)]| -> Map<String, Value> {
        list.iter().filter_map(|(key, count)| Some(((*key).to_owned(), (*count)?.into()))).collect()
    };
    let mut out = counts(&[("prompt_eval_count", usage.input_tokens), ("eval_count", usage.output_tokens)]);
    let others = counts(&[
        ("cache_read", usage.cache_read_tokens),
        ("cache_write", usage.cache_write_tokens),
        ("reasoning", usage.reasoning_tokens),
    ]);
    if !others.is_empty() {
        out.insert(OTHERS.to_owned(), Value::Object(others));
    }
    out
}

/// Counts, and times in nanoseconds.
const FIGURES: [&str; 7] = [
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
    OTHERS,
];
/// Other families' figures, which this wire has no names for.
const OTHERS: &str = "portcullis_usage";

/// RFC 3339 to Unix seconds, and back.
pub fn seconds(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(|t| t.as_second())
}

pub fn time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap_or_default().to_string()
}

pub fn image(media: &Media) -> Option<Value> {
    match &media.source {
        MediaSource::Base64(data) if media.kind == MediaKind::Image => Some(data.as_str().into()),
        _ => None,
    }
}
