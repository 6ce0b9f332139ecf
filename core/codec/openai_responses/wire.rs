//! Names, marks and small readers that requests, answers and streams of this format share: finish words, usage, citations,
//! ids, logprobs. Knows nothing of whole bodies.
//!
//! Keys of an `Extra` that begin with `$` are this codec's notes to itself and never reach a wire as they are: `$item` holds
//! the fields of an item around its first part, `$more` marks a further part of the same item, the others are named below.

use serde_json::{Map, Value, json};

pub use crate::codec::openai_chat::wire::{code_points, data_url_of, kind_of, sniff, source, upstream_shape};
use crate::{
    codec::{
        draft::Draft,
        figures::{self, figures},
        json::{Fields, Item, as_u64},
        openai_chat::wire::{made_id, output_tokens},
        signature,
    },
    model::{Citation, Extra, Finish, FinishReason, Format, Part, Response, Signature, Usage},
};

pub const F: Format = Format::OpenaiResponses;

pub const ITEM: &str = "$item";
pub const MORE: &str = "$more";
/// Reasoning that stood in `content`, not in `summary`.
pub const CONTENT: &str = "$content";
/// The message is the request's `instructions`.
pub const INSTRUCTIONS: &str = "$instructions";
/// The end-user id came as `safety_identifier`.
pub const SAFETY_ID: &str = "$safety_identifier";
/// A tool of this format that says nothing of `strict`: here that means "if you can".
pub const IMPLICIT_STRICT: &str = "$implicit_strict";
/// What other formats say beside a text or an answer.
pub const SPECIFIC: &str = "provider_specific_fields";

/// A mark or an unknown field.
pub fn mark<'a>(extra: &'a Extra, key: &str) -> Option<&'a Value> {
    extra.of(F).and_then(|fields| fields.get(key))
}

pub fn marked(extra: &Extra, key: &str) -> bool {
    mark(extra, key).is_some()
}

/// Unknown fields that go back as they are.
pub fn plain(extra: &Extra, out: &mut Map<String, Value>) {
    for (key, value) in extra.of(F).into_iter().flatten() {
        if !key.starts_with('$') && !out.contains_key(key) {
            out.insert(key.clone(), value.clone());
        }
    }
}

/// The fields of the item around a part.
pub fn item_fields(extra: &Extra) -> Option<&Map<String, Value>> {
    mark(extra, ITEM).and_then(Value::as_object)
}

/// What every item has, and what is written anew: the rest stays with its first part.
pub fn around(mut fields: Map<String, Value>) -> Map<String, Value> {
    fields.retain(|key, value| !value.is_null() && !AROUND.contains(&key.as_str()));
    fields
}

/// Marks for the part at `at` of an item.
pub fn part_extra(item: Map<String, Value>, at: usize, own: Map<String, Value>) -> Extra {
    let mut extra = Extra::new(F, own);
    if at > 0 {
        extra.insert(F, MORE, true.into());
    } else if !item.is_empty() {
        extra.insert(F, ITEM, Value::Object(item));
    }
    extra
}

const AROUND: [&str; 7] = ["type", "role", "status", "content", "summary", "encrypted_content", "object"];

/// Items that are calls of the caller's tools. What else a client answers (`computer_call`, `mcp_approval_request`) has a tool of this
/// format behind it: who speaks another one would look for a call and find none.
pub fn is_call(kind: &str) -> bool {
    matches!(kind, "function_call" | "custom_tool_call")
}

/// Is it a search of the web that its vendor charges? Pages that were opened or looked through are not, nor what failed.
pub fn is_search(item: &Value) -> bool {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let action = item.get("action").and_then(|action| text(action, "type"));
    text(item, "type").as_deref() == Some("web_search_call")
        && action.is_none_or(|action| action == "search")
        && text(item, "status").as_deref() != Some("failed")
}

/// Its usage object does not count them.
pub fn searched(usage: &mut Option<Usage>, searches: usize) {
    if let (Some(usage), 1..) = (usage, searches) {
        usage.units_mut().web_searches = Some(searches as u64);
    }
}

/// `status` and `incomplete_details.reason` to a finish; `None` while the answer is not over.
pub fn finish(status: &str, reason: Option<&str>, called: bool, refused: bool) -> Option<Finish> {
    let (reason, raw) = match (status, reason) {
        ("queued" | "in_progress", _) => return None,
        ("incomplete", Some(raw @ ("max_output_tokens" | "max_tokens"))) => (FinishReason::Length, raw),
        ("incomplete", Some(raw @ "content_filter")) => (FinishReason::ContentFilter, raw),
        ("incomplete", Some(raw)) => (FinishReason::Other, raw),
        ("incomplete", None) => (FinishReason::Length, "incomplete"),
        ("completed" | "", _) if called => (FinishReason::ToolCalls, "completed"),
        ("completed" | "", _) if refused => (FinishReason::ContentFilter, "completed"),
        ("completed" | "", _) => (FinishReason::Stop, "completed"),
        (other, _) => (FinishReason::Other, other),
    };
    Some(Finish::new(reason, raw))
}

/// `status` and `incomplete_details` of an answer that ended so. A refusal in its own part needs no other word.
pub fn status(finish: Option<&Finish>, refused: bool) -> (&'static str, Value) {
    let incomplete = |reason: &str| ("incomplete", json!({ "reason": reason }));
    match finish.map(|f| f.reason) {
        Some(FinishReason::Length) => incomplete("max_output_tokens"),
        Some(FinishReason::ContentFilter) if !refused => incomplete("content_filter"),
        _ => ("completed", Value::Null),
    }
}

/// Words of this format, which need not be told beside it.
pub fn native_finish(finish: &Finish) -> Option<&str> {
    let own = ["", "completed", "incomplete", "max_output_tokens", "content_filter"];
    (!own.contains(&finish.raw.as_str())).then_some(finish.raw.as_str())
}

pub fn refused(parts: &[Part]) -> bool {
    parts.iter().any(|p| matches!(p, Part::Refusal(_)))
}

/// Reads a usage object. `None` when it tells nothing.
pub fn usage(item: Item) -> Option<Usage> {
    let object = Some(item).filter(Item::is_object)?.written();
    figures::tells(&object).then(|| figures::usage(F, object, read_usage))
}

pub fn read_usage(object: &[u8]) -> Option<Usage> {
    let (mut out, mut total) = (Usage::default(), None);
    figures(object, |outer, key, figure| match (outer, key) {
        (b"", b"input_tokens") => out.input_tokens = figure.whole(),
        (b"", b"output_tokens") => out.output_tokens = figure.whole(),
        (b"", b"total_tokens") => total = figure.whole(),
        (b"input_tokens_details", b"cached_tokens") => out.cache_read_tokens = figure.whole(),
        (b"input_tokens_details", b"cache_write_tokens") => out.cache_write_tokens = figure.whole(),
        (b"input_tokens_details", b"audio_tokens") => out.input_audio_tokens = figure.whole(),
        (b"output_tokens_details", b"reasoning_tokens") => out.reasoning_tokens = figure.whole(),
        (b"output_tokens_details", b"audio_tokens") => out.output_audio_tokens = figure.whole(),
        _ => {}
    })?;
    let (input, cached) = (out.input_tokens, out.cache_read_tokens);
    out.output_tokens = output_tokens(input, out.output_tokens, out.reasoning_tokens, total);
    out.input_tokens = input.map(|all| if cached.is_some_and(|c| c > all) { all + cached.unwrap_or(0) } else { all });
    Some(out)
}

/// A usage object: the native one as it was, else with every field that the SDKs' types require.
pub fn told_usage(usage: &Usage) -> Draft<'_> {
    let mut out = Draft::new();
    if let Some(mut native) = usage.native_of(F) {
        out.take(&mut native);
        return out;
    }
    let (input, output) = (usage.input_tokens.unwrap_or(0), usage.output_tokens.unwrap_or(0));
    let (mut read, mut written) = (Draft::new(), Draft::new());
    read.put("cached_tokens", usage.cache_read_tokens.unwrap_or(0));
    read.put("cache_write_tokens", usage.cache_write_tokens.unwrap_or(0));
    written.put("reasoning_tokens", usage.reasoning_tokens.unwrap_or(0));
    for (details, figure) in [(&mut written, usage.output_audio_tokens), (&mut read, usage.input_audio_tokens)] {
        if let Some(figure) = figure {
            details.put("audio_tokens", figure);
        }
    }
    out.put("input_tokens", input);
    out.put("input_tokens_details", read);
    out.put("output_tokens", output);
    out.put("output_tokens_details", written);
    out.put("total_tokens", input.saturating_add(output));
    out
}

/// An annotation of an answer's text.
pub fn citation(value: Value) -> Citation {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let number = |key: &str| value.get(key).and_then(Value::as_number).and_then(as_u64);
    Citation {
        url: text("url"),
        title: text("title").or_else(|| text("filename")),
        file: text("file_id"),
        cited_text: None,
        start: number("start_index"),
        end: number("end_index"),
        native: Some((F, value)),
    }
}

/// A citation as an annotation, if this format can say it. `length`: code points of the text it stands on.
pub fn annotation(citation: &Citation, length: u64) -> Option<Value> {
    if let Some((F, native)) = &citation.native {
        return Some(native.clone());
    }
    let url = citation.url.as_deref()?;
    Some(json!({
        "type": "url_citation",
        "start_index": citation.start.unwrap_or(0),
        "end_index": citation.end.unwrap_or(length),
        "url": url,
        "title": citation.title.as_deref().filter(|t| !t.is_empty()).unwrap_or(url),
    }))
}

/// Does this citation say what an annotation cannot: a place without an address, or the words that it cites?
pub fn says_more(citation: &Citation) -> bool {
    !matches!(citation.native, Some((F, _))) && (citation.url.is_none() || citation.cited_text.is_some())
}

/// What the annotations do not say of a text's citations: those without an address, and each one's own form.
pub fn other_citations(citations: &[Citation]) -> Vec<Value> {
    let mut out = Vec::new();
    for citation in citations {
        let Citation { url, title, file: _, cited_text, start: _, end: _, native } = citation;
        let native = native.as_ref().filter(|(format, _)| *format != F);
        if native.is_none() && (url.is_some() || cited_text.is_none()) {
            continue;
        }
        let mut entry = Map::new();
        for (key, text) in [("url", url), ("title", title), ("cited_text", cited_text)] {
            if let Some(text) = text {
                entry.insert(key.into(), text.as_str().into());
            }
        }
        if let Some((format, value)) = native {
            entry.insert("format".into(), format.name().into());
            entry.insert("native".into(), value.clone());
        }
        out.push(Value::Object(entry));
    }
    out
}

/// Reads what `other_citations` wrote: natives go to the annotations they belong to, the rest behind them.
pub fn join_citations(known: &mut Vec<Citation>, others: &[Value]) {
    for entry in others {
        let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
        let format = text("format").and_then(|name| Format::parse(&name));
        let native = format.and_then(|format| Some((format, entry.get("native")?.clone())));
        let url = text("url");
        let mut same = known.iter_mut().filter(|c| c.url == url && matches!(c.native, Some((F, _))));
        match same.next() {
            Some(mine) if url.is_some() => (mine.native, mine.cited_text) = (native, text("cited_text")),
            _ => known.push(Citation {
                url,
                title: text("title"),
                cited_text: text("cited_text"),
                native,
                ..Citation::default()
            }),
        }
    }
}

/// What stands in `provider_specific_fields` of a text: a signature and citations of other formats.
pub fn text_specific(signature: Option<&Signature>, citations: &[Citation]) -> Option<Value> {
    let mut specific = Map::new();
    if let Some(signature) = signature {
        specific.insert("signature".into(), signature::write(signature, F).into());
    }
    let others = other_citations(citations);
    if !others.is_empty() {
        specific.insert("citations".into(), Value::Array(others));
    }
    (!specific.is_empty()).then_some(Value::Object(specific))
}

/// Takes it back out of a content part.
pub fn take_specific(fields: &mut Fields) -> (Option<Signature>, Vec<Value>) {
    let Some(Value::Object(mut specific)) = fields.take(SPECIFIC) else { return (None, Vec::new()) };
    let signature = match specific.shift_remove("signature") {
        Some(Value::String(text)) => Some(signature::read(&text, F)),
        _ => None,
    };
    let citations = match specific.shift_remove("citations") {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    if !specific.is_empty() {
        fields.put(SPECIFIC, Value::Object(specific));
    }
    (signature, citations)
}

/// An id for an item that has none. The gateway knows its own ids again: they stand for nothing at an upstream.
pub fn item_id(kind: &str, answer: &str, at: usize) -> String {
    let prefix = match kind {
        "message" => "msg",
        "reasoning" => "rs",
        "custom_tool_call" => "ctc",
        "image_generation_call" => "ig",
        _ => "fc",
    };
    format!("{prefix}_{OURS}{}", &made_id(&[answer, kind, &at.to_string()])[5..])
}

/// The same for a search.
pub fn search_id(answer: &str, at: usize) -> String {
    format!("ws_{OURS}{}", &made_id(&[answer, "web_search_call", &at.to_string()])[5..])
}

/// Stands in the ids that `item_id` makes, behind the kind.
pub const OURS: &str = "pc_";

pub fn is_ours(id: &str) -> bool {
    id.split_once('_').is_some_and(|(_, rest)| rest.starts_with(OURS))
}

/// The id of a call that the upstream gave none: the same place and name give the same one.
pub fn call_id(id: &str, signature: Option<&Signature>, answer: &str, at: usize, name: &str) -> String {
    if !id.is_empty() {
        return signature::told_id(id, signature);
    }
    signature::join_id(&made_id(&[answer, &at.to_string(), name]), signature)
}

/// Ids of answers begin with `resp` here. One of another format need not be the only one of its name, and the gateway
/// finds stored answers by it: the request's own id stands in its place.
pub fn response_id(id: &str, request_id: &str) -> String {
    if id.starts_with("resp") { id.to_owned() } else { format!("resp_{}", request_id.trim_start_matches("req_")) }
}

/// Parts that this format has no place for travel beside the answer.
pub fn beside(part: &Part) -> Option<Value> {
    use crate::model::{Media, MediaKind, MediaSource};
    match part {
        Part::Native { format, kind, value } if *format != F => {
            Some(json!({"format": format.name(), "kind": kind, "value": value}))
        }
        Part::Media(Media { kind, mime, source, .. }) => {
            let kind_word = match kind {
                MediaKind::Image => "image",
                MediaKind::Document => "document",
                MediaKind::Audio => "audio",
                MediaKind::Video => "video",
            };
            let url = match source {
                MediaSource::Base64(data) => data_url_of(mime.as_deref().unwrap_or_else(|| sniff(data, *kind)), data),
                MediaSource::Url(url) => url.clone(),
                MediaSource::File { id, .. } => id.clone(),
                MediaSource::Text(text) => return Some(json!({"kind": kind_word, "text": text})),
                MediaSource::Parts(_) => return None,
            };
            Some(json!({"kind": kind_word, "media": url}))
        }
        _ => None,
    }
}

pub fn read_beside(entry: &Value) -> Option<Part> {
    use crate::model::{Media, MediaKind, MediaSource};
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    let kind = || match text("kind") {
        Some("video") => MediaKind::Video,
        Some("audio") => MediaKind::Audio,
        Some("image") => MediaKind::Image,
        _ => MediaKind::Document,
    };
    if let Some(url) = text("media") {
        let (source, mime) = source(url.to_owned());
        return Some(Part::Media(Media::new(kind(), mime, source)));
    }
    if let Some(text) = text("text") {
        return Some(Part::Media(Media::new(kind(), None, MediaSource::Text(text.to_owned()))));
    }
    let format = Format::parse(text("format")?)?;
    Some(Part::Native { format, kind: text("kind")?.to_owned(), value: entry.get("value")?.clone() })
}

/// What of an answer other formats say and this one has no field for.
pub fn answer_specific(finish: Option<&Finish>, beside: Vec<Value>) -> Option<Value> {
    let mut specific = Map::new();
    if let Some(finish) = finish {
        if let Some(word) = native_finish(finish) {
            specific.insert("native_finish_reason".into(), word.into());
        }
        if let Some(sequence) = &finish.stop_sequence {
            specific.insert("stop_sequence".into(), sequence.as_str().into());
        }
        if let Some(details) = &finish.details {
            specific.insert("stop_details".into(), details.clone());
        }
    }
    if !beside.is_empty() {
        specific.insert("native".into(), Value::Array(beside));
    }
    (!specific.is_empty()).then_some(Value::Object(specific))
}

/// The parts beside an answer, and what is left of that field.
pub fn take_beside(fields: &mut Map<String, Value>) -> Vec<Part> {
    let Some(Value::Object(specific)) = fields.get_mut(SPECIFIC) else { return Vec::new() };
    let Some(Value::Array(entries)) = specific.shift_remove("native") else { return Vec::new() };
    if specific.is_empty() {
        fields.shift_remove(SPECIFIC);
    }
    entries.iter().filter_map(read_beside).collect()
}

/// Only the first choice has a place here.
pub fn parts(response: &Response) -> &[Part] {
    response.choices.first().map_or(&[], |choice| choice.parts.as_slice())
}
