//! Names, marks and small readers that both directions of this format share. Knows nothing of whole requests, answers
//! or streams.
//!
//! Keys of an `Extra` that begin with `$` are this codec's notes to itself and never reach a wire as they are:
//! `$message.<key>` holds an unknown field of an answer's message beside those of its choice, `$function.<key>` one of a
//! call's or tool's inner object, `$inner.<key>` one of a part's inner object, the others are marks named below.

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use serde_json::{Map, Value};

use crate::{
    codec::{
        Dialect,
        draft::Draft,
        figures,
        json::{Fields, Item, as_u64},
    },
    error::{Error, Kind},
    model::{Citation, Extra, Finish, FinishReason, Format, MediaKind, MediaSource, Signature, Usage},
};

pub const F: Format = Format::OpenaiChat;

pub const MESSAGE: &str = "$message.";
pub const FUNCTION: &str = "$function.";
pub const INNER: &str = "$inner.";
/// The legacy `functions` / `function_call` spelling was used.
pub const LEGACY: &str = "$legacy";
/// Where reasoning text stood when not in `reasoning_content`: `reasoning`, `both`, `details` or `chunk`.
pub const FIELD: &str = "$field";
/// An assistant's fields that came as empty texts: servers that think want theirs back even so, and no text is not `null`.
pub const HOLLOW: [(&str, &str); 2] =
    [("content", "$hollow.content"), ("reasoning_content", "$hollow.reasoning_content")];
/// The part's type on the wire where the canonical kind would choose another (`file_url`, `file`).
pub const TYPE: &str = "$type";
/// The end-user id came as `safety_identifier`.
pub const SAFETY_ID: &str = "$safety_identifier";
/// The seed came as `random_seed`.
pub const RANDOM_SEED: &str = "$random_seed";

/// Unknown fields that go back as they are.
pub fn plain(extra: &Extra, out: &mut Map<String, Value>) {
    let Some(fields) = extra.of(F) else { return };
    for (key, value) in fields {
        if !key.starts_with('$') && !out.contains_key(key) {
            out.insert(key.clone(), value.clone());
        }
    }
}

/// Unknown fields that were kept under `prefix`.
pub fn prefixed(extra: &Extra, prefix: &str, out: &mut Map<String, Value>) {
    let Some(fields) = extra.of(F) else { return };
    for (key, value) in fields {
        if let Some(key) = key.strip_prefix(prefix)
            && !out.contains_key(key)
        {
            out.insert(key.to_owned(), value.clone());
        }
    }
}

/// Keeps what is left of an inner object under `prefix`.
pub fn keep(extra: &mut Extra, prefix: &str, rest: Map<String, Value>) {
    for (key, value) in rest {
        extra.insert(F, &format!("{prefix}{key}"), value);
    }
}

/// A mark or an unknown field.
pub fn mark<'a>(extra: &'a Extra, key: &str) -> Option<&'a Value> {
    extra.of(F).and_then(|m| m.get(key))
}

pub fn marked(extra: &Extra, key: &str) -> bool {
    mark(extra, key).is_some()
}

/// May the cache be marked in OpenAI's word? Its own servers know it; of others that no row names, whoever says it to one of its
/// formats is taken at his word.
pub fn marks_cache(extra: &Extra, dialect: &Dialect) -> bool {
    let ours = |format| matches!(format, Format::OpenaiChat | Format::OpenaiResponses);
    let said = || extra.any().is_some_and(|(format, f)| ours(format) && f.contains_key("prompt_cache_breakpoint"));
    dialect.provider == "openai" || dialect.assumed && said()
}

/// Shape errors found in what an upstream sent are the upstream's fault.
pub fn upstream_shape(error: Error) -> Error {
    if error.kind != Kind::InvalidRequest {
        return error;
    }
    Error::new(Kind::Upstream, format!("the upstream's answer has an unexpected shape: {}", error.message))
}

/// `stop` with calls means `tool_calls`: several servers write it so. `raw` keeps their word.
pub fn finish(raw: &str, has_calls: bool) -> Finish {
    let reason = match raw {
        "stop" | "" | "end_turn" | "stop_sequence" | "eos" | "complete" | "completed" => FinishReason::Stop,
        "length" | "max_tokens" | "model_length" | "max_output_tokens" => FinishReason::Length,
        "tool_calls" | "function_call" | "tool_use" | "tool_call" => FinishReason::ToolCalls,
        "content_filter" | "safety" | "refusal" => FinishReason::ContentFilter,
        _ => FinishReason::Other,
    };
    let reason = if reason == FinishReason::Stop && has_calls { FinishReason::ToolCalls } else { reason };
    Finish::new(reason, raw)
}

/// The five words that clients of this format know; never another.
pub fn finish_word(finish: &Finish, legacy: bool) -> &'static str {
    match finish.reason {
        FinishReason::Stop | FinishReason::Malformed | FinishReason::Other => "stop",
        FinishReason::Length => "length",
        FinishReason::ToolCalls if legacy => "function_call",
        FinishReason::ToolCalls => "tool_calls",
        FinishReason::ContentFilter => "content_filter",
    }
}

/// What the origin wrote, when it was another word (OpenRouter's `native_finish_reason`).
pub fn native_finish<'a>(finish: &'a Finish, word: &str) -> Option<&'a str> {
    (!finish.raw.is_empty() && finish.raw != word).then_some(finish.raw.as_str())
}

/// Reads a usage object. `None` when it tells nothing.
pub fn usage(item: Item) -> Option<Usage> {
    let object = Some(item).filter(Item::is_object)?.written();
    figures::tells(&object).then(|| figures::usage(F, object, super::usage::read))
}

/// Completion tokens include reasoning at OpenAI; xAI and Google's compatible API leave it out, which the total shows.
pub fn output_tokens(
    input: Option<u64>,
    output: Option<u64>,
    reasoning: Option<u64>,
    total: Option<u64>,
) -> Option<u64> {
    let (Some(input), Some(output), Some(total)) = (input, output, total) else { return output };
    let hidden = total.saturating_sub(input.saturating_add(output));
    let explained = reasoning.is_none_or(|r| r == hidden);
    Some(if hidden > 0 && explained { output + hidden } else { output })
}

/// A usage object: the native one as it was, else built from what is known.
pub fn told_usage(usage: &Usage) -> Option<Draft<'_>> {
    let mut out = Draft::new();
    if let Some(mut native) = usage.native_of(F) {
        out.take(&mut native);
        return Some(out);
    }
    let put = |out: &mut Draft<'_>, key: &'static str, value: Option<u64>| {
        if let Some(value) = value {
            out.put(key, value);
        }
    };
    // The SDKs' types want all three, also of a prompt that was refused.
    let (input, output) = (usage.input_tokens, usage.output_tokens);
    if input.is_some() || output.is_some() {
        let (input, output) = (input.unwrap_or(0), output.unwrap_or(0));
        out.put("prompt_tokens", input);
        out.put("completion_tokens", output);
        out.put("total_tokens", input.saturating_add(output));
    }
    let mut details = Draft::new();
    put(&mut details, "cached_tokens", usage.cache_read_tokens);
    put(&mut details, "cache_write_tokens", usage.cache_write_tokens);
    put(&mut details, "audio_tokens", usage.input_audio_tokens);
    put(&mut details, "image_tokens", usage.units().input_image_tokens);
    if !details.is_empty() {
        out.put("prompt_tokens_details", details);
    }
    let mut details = Draft::new();
    put(&mut details, "reasoning_tokens", usage.reasoning_tokens);
    put(&mut details, "audio_tokens", usage.output_audio_tokens);
    put(&mut details, "image_tokens", usage.units().output_image_tokens);
    if !details.is_empty() {
        out.put("completion_tokens_details", details);
    }
    (!out.is_empty()).then_some(out)
}

/// Anthropic's word for the usual tier in OpenAI's and Bedrock's.
pub fn tier_word(tier: &str) -> &str {
    if tier == "standard" { "default" } else { tier }
}

/// The same as a tree.
pub fn usage_value(usage: &Usage) -> Option<Value> {
    told_usage(usage).map(|told| Value::Object(told.tree()))
}

/// The source in a URL field: a `data:` URL becomes its bytes and its mime type.
pub fn source(mut url: String) -> (MediaSource, Option<String>) {
    let Some((head, data)) = data_url(&url) else { return (MediaSource::Url(url), None) };
    let mut words = head.split(';').map(str::trim);
    let mime = words.next().filter(|m| !m.is_empty()).map(str::to_ascii_lowercase);
    if !words.any(|w| w.eq_ignore_ascii_case("base64")) {
        let data = BASE64.encode(percent_encoding::percent_decode_str(data).collect::<Vec<u8>>());
        return (MediaSource::Base64(data), mime);
    }
    // In place: such a text may be as large as the whole body.
    let head = url.len() - data.len();
    url.drain(..head);
    (MediaSource::Base64(url), mime)
}

fn data_url(url: &str) -> Option<(&str, &str)> {
    let head = url.get(..5)?;
    if head.eq_ignore_ascii_case("data:") { url[5..].split_once(',') } else { None }
}

pub fn data_url_of(mime: &str, data: &str) -> String {
    format!("data:{mime};base64,{data}")
}

/// The mime type of base64 bytes by their first ones, where the sender named none.
pub fn sniff(data: &str, kind: MediaKind) -> &'static str {
    const HEADS: [(&str, &str); 7] = [
        ("iVBORw0K", "image/png"),
        ("/9j/", "image/jpeg"),
        ("R0lGOD", "image/gif"),
        ("UklGR", "image/webp"),
        ("JVBERi", "application/pdf"),
        ("SUQz", "audio/mpeg"),
        ("AAAAGGZ0eXA", "video/mp4"),
    ];
    HEADS.iter().find(|(head, _)| data.starts_with(head)).map_or(
        match kind {
            MediaKind::Image => "image/png",
            MediaKind::Document => "application/pdf",
            MediaKind::Audio => "audio/wav",
            MediaKind::Video => "video/mp4",
        },
        |(_, mime)| mime,
    )
}

pub fn kind_of(mime: Option<&str>) -> MediaKind {
    match mime.and_then(|m| m.split('/').next()) {
        Some("image") => MediaKind::Image,
        Some("audio") => MediaKind::Audio,
        Some("video") => MediaKind::Video,
        _ => MediaKind::Document,
    }
}

/// An annotation of an answer. `content` is OpenRouter's name for the cited passage.
pub fn citation(value: Value) -> Citation {
    let inner = value.get("url_citation").unwrap_or(&value);
    let text = |key: &str| inner.get(key).and_then(Value::as_str).map(str::to_owned);
    let number = |key: &str| inner.get(key).and_then(Value::as_number).and_then(as_u64);
    Citation {
        url: text("url"),
        title: text("title"),
        file: None,
        cited_text: text("content"),
        start: number("start_index"),
        end: number("end_index"),
        native: Some((F, value)),
    }
}

/// A citation as an annotation, if this format can say it. `span` is the cited text in code points of the answer's text.
pub fn annotation(citation: &Citation, span: (u64, u64)) -> Option<Value> {
    match &citation.native {
        Some((F, Value::Object(native))) => return Some(Value::Object(native.clone())),
        // It stands in a list of its own (`citations`), which goes back with the unknown fields.
        Some((F, _)) => return None,
        _ => {}
    }
    let url = citation.url.as_deref()?;
    let mut inner = Map::new();
    inner.insert("url".into(), url.into());
    inner.insert("title".into(), citation.title.as_deref().unwrap_or(url).into());
    inner.insert("start_index".into(), citation.start.unwrap_or(span.0).into());
    inner.insert("end_index".into(), citation.end.unwrap_or(span.1).into());
    if let Some(text) = &citation.cited_text {
        inner.insert("content".into(), text.as_str().into());
    }
    let mut out = Map::new();
    out.insert("type".into(), "url_citation".into());
    out.insert("url_citation".into(), Value::Object(inner));
    Some(Value::Object(out))
}

/// Google's compatible API and LiteLLM put a thought signature beside a call or a message.
pub fn thought_signature(fields: &Fields) -> Option<Signature> {
    let google = fields.peek("extra_content").and_then(|v| v.pointer("/google/thought_signature"));
    let specific = fields.peek("provider_specific_fields").and_then(|v| v.get("thought_signature"));
    let data = google.or(specific)?.as_str().filter(|s| !s.is_empty())?;
    Some(Signature { origin: Format::Gemini, data: data.to_owned() })
}

/// The same, and what holds nothing else is not kept: it is written anew.
pub fn take_thought_signature(fields: &mut Fields) -> Option<Signature> {
    let signature = thought_signature(fields)?;
    let alone = serde_json::json!({"google": {"thought_signature": signature.data}});
    if fields.peek("extra_content") == Some(&alone) {
        fields.take("extra_content");
    }
    Some(signature)
}

/// An id for a call that has none: the same place and name give the same id.
pub fn made_id(seed: &[&str]) -> String {
    format!("call_{:016x}", hash(seed))
}

/// Exactly nine letters or digits, as some servers demand; an id that is so already stays.
pub fn short_id(id: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    if id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return id.to_owned();
    }
    let mut rest = hash(&[id]);
    (0..9)
        .map(|_| {
            let digit = DIGITS[(rest % 62) as usize];
            rest /= 62;
            char::from(digit)
        })
        .collect()
}

/// FNV-1a, 64 bits: stable over versions, since ids live in callers' histories.
fn hash(words: &[&str]) -> u64 {
    let mut state = 0xcbf2_9ce4_8422_2325u64;
    for word in words {
        for byte in word.bytes().chain([0xff]) {
            state = (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    state
}

pub fn code_points(text: &str) -> u64 {
    text.chars().count() as u64
}

/// Standard alphabet; padding may be missing.
pub const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
