//! The small words of the wire that requests, answers and streams share: finish reasons, figures, messages, tool calls, times.

use std::borrow::Cow;

use serde_json::Value;

use crate::{
    codec::{
        ClientView, calls,
        draft::{self, Draft, Said},
        figures::{self, figures},
        json::{self, Fields, Item},
        mime,
    },
    error::{Error, Kind, Result},
    model::{
        Extra, Finish, FinishReason, Format, Media, MediaKind, MediaSource, Part, Reasoning, ToolCall, ToolKind, Usage,
    },
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
    let mut object = String::with_capacity(256);
    for key in FIGURES {
        if let Some(figure) = f.item(key) {
            object.push(if object.is_empty() { '{' } else { ',' });
            for piece in ["\"", key, "\":", &figure.written()] {
                object.push_str(piece);
            }
        }
    }
    if object.is_empty() {
        return None;
    }
    object.push('}');
    Some(figures::usage(FORMAT, object.into(), read_usage))
}

fn read_usage(object: &[u8]) -> Option<Usage> {
    let mut out = Usage::default();
    figures(object, |outer, key, figure| match (outer, key) {
        (b"", b"prompt_eval_count") => out.input_tokens = figure.whole(),
        (b"", b"eval_count") => out.output_tokens = figure.whole(),
        (outer, b"cache_read") if outer == OTHERS.as_bytes() => out.cache_read_tokens = figure.whole(),
        (outer, b"cache_write") if outer == OTHERS.as_bytes() => out.cache_write_tokens = figure.whole(),
        (outer, b"reasoning") if outer == OTHERS.as_bytes() => out.reasoning_tokens = figure.whole(),
        _ => {}
    })?;
    Some(out)
}

pub fn tell_usage(usage: &Usage, out: &mut Draft<'_>) {
    if let Some(mut native) = usage.native_of(FORMAT) {
        return out.take(&mut native);
    }
    let count = |out: &mut Draft<'_>, key: &'static str, count: Option<u64>| {
        if let Some(count) = count {
            out.put(key, count);
        }
    };
    count(out, "prompt_eval_count", usage.input_tokens);
    count(out, "eval_count", usage.output_tokens);
    let mut others = Draft::new();
    count(&mut others, "cache_read", usage.cache_read_tokens);
    count(&mut others, "cache_write", usage.cache_write_tokens);
    count(&mut others, "reasoning", usage.reasoning_tokens);
    if !others.is_empty() {
        out.put(OTHERS, others);
    }
}

/// What a line begins with.
pub fn head<'a>(model: &'a str, created: Option<i64>, view: &'a ClientView) -> Draft<'a> {
    let mut out = Draft::new();
    out.put("model", if model.is_empty() { view.model.as_str() } else { model });
    out.put("created_at", time(created.unwrap_or(view.now)));
    out
}

/// What the last one ends with.
pub fn end<'a>(reason: String, usage: Option<&'a Usage>, extra: &'a Extra, out: &mut Draft<'a>) {
    out.put("done", Value::Bool(true));
    out.put("done_reason", reason);
    if let Some(usage) = usage {
        tell_usage(usage, out);
    }
    out.add(extra.of(FORMAT));
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
