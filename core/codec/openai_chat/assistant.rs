//! An assistant's message as clients of this format see it, both ways: in answers, and in the history they send back.
//! What the wire has no field for is written where clients of other gateways look for it (`reasoning_content`,
//! `thinking_blocks`, `provider_specific_fields`) and read back from there. Upstream requests are `messages.rs`.

use std::{borrow::Cow, collections::VecDeque};

use serde_json::{Map, Value, json};

use super::{
    content, details,
    wire::{
        F, FIELD, FUNCTION, LEGACY, MESSAGE, annotation, citation, code_points, data_url_of, made_id, mark, marked,
        plain, sniff, source, thought_signature,
    },
};
use crate::{
    codec::{
        draft::{Draft, Said},
        json::{Fields, as_u64, nth},
        signature,
    },
    error::Result,
    model::{
        Citation, Extra, Format, Media, MediaKind, MediaSource, Part, Reasoning, Signature, Text, ToolCall, ToolKind,
    },
};

/// Takes the parts out of a message; unknown fields stay in `f`.
pub fn decode(f: &mut Fields) -> Result<Vec<Part>> {
    let mut specific = specific_of(f);
    let mut parts = reasoning(f)?;
    let mut texts = Vec::new();
    if let Some(value) = f.item("content") {
        for part in content::decode(value, &f.path("content"))? {
            match part {
                Part::Text(text) if text.text.is_empty() => {}
                Part::Text(text) => texts.push(text),
                other => parts.push(other),
            }
        }
    }
    let mut texts = split_texts(texts, specific.remove("text_blocks"));
    let signed = specific.remove("text_signatures").or_else(|| joined_signature(&mut specific));
    text_signatures(&mut texts, f, signed);
    citations(&mut texts, f.take("annotations"), specific.remove("citations"));
    parts.extend(texts.into_iter().map(Part::Text));
    if let Some(text) = f.string("refusal")?.filter(|t| !t.is_empty()) {
        parts.push(Part::Refusal(text));
    }
    images(f, &mut parts);
    for (i, call) in f.items("tool_calls")?.unwrap_or_default().into_iter().enumerate() {
        let path = nth(&f.path("tool_calls"), i);
        parts.push(content::tool_call(call, path)?);
    }
    legacy_call(f, &mut parts)?;
    audio(f, &mut parts);
    natives(specific.remove("native"), &mut parts);
    let order = specific.remove("order");
    if !specific.is_empty() {
        f.put("provider_specific_fields", Value::Object(specific));
    }
    Ok(reorder(parts, order))
}

/// Ours are objects; another gateway's own are left alone.
fn specific_of(f: &mut Fields) -> Map<String, Value> {
    match f.take("provider_specific_fields") {
        Some(Value::Object(map)) => map,
        Some(other) => Map::from_iter([("value".to_owned(), other)]),
        None => Map::new(),
    }
}

fn reasoning(f: &mut Fields) -> Result<Vec<Part>> {
    let plain_text = text_field(f, "reasoning_content");
    let other_text = text_field(f, "reasoning");
    let field = match (&plain_text, &other_text) {
        (Some(_), Some(_)) => Some("both"),
        (None, Some(_)) => Some("reasoning"),
        _ => None,
    };
    let text = plain_text.or(other_text);
    let mut parts: Vec<Reasoning> = Vec::new();
    for block in f.array("thinking_blocks")?.unwrap_or_default() {
        parts.extend(thinking_block(&block));
    }
    let in_blocks = parts.iter().any(|r| !r.text.is_empty());
    match text {
        Some(text) if !in_blocks => parts.insert(0, from_details(text, f)),
        None if parts.is_empty() => {
            let text = f.peek("reasoning_details").map(details::text).unwrap_or_default();
            if !text.is_empty() {
                let mut part = from_details(text, f);
                part.extra.insert(F, FIELD, "details".into());
                parts.push(part);
            }
        }
        _ => {}
    }
    if let (Some(field), Some(first)) = (field, parts.first_mut()) {
        first.extra.insert(F, FIELD, field.into());
    }
    // LiteLLM and others repeat sealed blocks in both lists.
    if parts.iter().all(|r| r.sealed.is_none()) {
        let list = f.peek("reasoning_details").and_then(Value::as_array);
        parts.extend(list.into_iter().flatten().filter_map(details::sealed));
    }
    Ok(parts.into_iter().map(Part::Reasoning).collect())
}

fn text_field(f: &mut Fields, key: &str) -> Option<String> {
    f.peek_str(key)?;
    match f.take(key) {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    }
}

/// `{type: thinking, thinking, signature}` or `{type: redacted_thinking, data}`.
pub fn thinking_block(block: &Value) -> Option<Reasoning> {
    let text = |key: &str| block.get(key).and_then(Value::as_str).filter(|t| !t.is_empty());
    let (thinking, sealed) = (text("thinking"), text("data"));
    if thinking.is_none() && sealed.is_none() && text("signature").is_none() {
        return None;
    }
    Some(Reasoning {
        text: thinking.unwrap_or_default().to_owned(),
        signature: text("signature").map(|s| signature::read(s, F)),
        sealed: sealed.map(|s| signature::read(s, F)),
        extra: Extra::default(),
    })
}

/// OpenRouter's `reasoning_details` tell the signature; the list itself stays with the unknown fields.
fn from_details(text: String, f: &Fields) -> Reasoning {
    let signature = f.peek("reasoning_details").and_then(|d| d.as_array()?.iter().rev().find_map(details::signature));
    Reasoning { text, signature, ..Reasoning::default() }
}

/// Restores the borders between text blocks: `lengths` counts code points.
fn split_texts(texts: Vec<Text>, lengths: Option<Value>) -> Vec<Text> {
    let lengths: Option<Vec<usize>> = lengths.as_ref().and_then(Value::as_array).and_then(|list| {
        list.iter().map(|n| n.as_number().and_then(as_u64).and_then(|n| usize::try_from(n).ok())).collect()
    });
    let (Some(lengths), [only]) = (lengths, texts.as_slice()) else { return texts };
    let total = lengths.iter().try_fold(0usize, |sum, n| sum.checked_add(*n));
    if total != Some(only.text.chars().count()) || lengths.len() > MAX_BLOCKS {
        return texts;
    }
    let mut rest = only.text.chars();
    lengths.iter().map(|n| Text { text: rest.by_ref().take(*n).collect(), ..Text::default() }).collect()
}

/// A stream tells a signature in a delta of its own: so it stands in a message that a client joined from deltas.
fn joined_signature(specific: &mut Map<String, Value>) -> Option<Value> {
    let block = specific.remove("text_block");
    let signature = specific.remove("text_signature")?;
    Some(json!([{"text_block": block, "signature": signature}]))
}

fn text_signatures(texts: &mut Vec<Text>, f: &Fields, ours: Option<Value>) {
    for entry in ours.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let at = entry.get("text_block").and_then(Value::as_u64).unwrap_or(0) as usize;
        let Some(data) = entry.get("signature").and_then(Value::as_str) else { continue };
        if texts.is_empty() {
            texts.push(Text::default());
        }
        if let Some(text) = texts.get_mut(at) {
            text.signature = Some(signature::read(data, F));
        }
    }
    if let (Some(signature), Some(last)) = (thought_signature(f), texts.last_mut()) {
        last.signature.get_or_insert(signature);
    }
}

/// `annotations`, and what of the citations they cannot say.
fn citations(texts: &mut Vec<Text>, annotations: Option<Value>, ours: Option<Value>) {
    let annotations = match annotations {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let mut found: Vec<(Option<usize>, Citation)> =
        annotations.into_iter().filter(Value::is_object).map(|a| (None, citation(a))).collect();
    for entry in ours.as_ref().and_then(Value::as_array).into_iter().flatten() {
        let Some((block, annotation, mine)) = specific_citation(entry) else { continue };
        match annotation.and_then(|at| found.get_mut(at)) {
            Some((place, known)) => {
                *place = Some(block);
                known.native = mine.native;
            }
            None => found.push((Some(block), mine)),
        }
    }
    if !found.is_empty() && texts.is_empty() {
        texts.push(Text::default());
    }
    for (place, citation) in found {
        let at = place.filter(|at| *at < texts.len()).unwrap_or_else(|| block_at(texts, citation.start));
        texts[at].citations.push(citation);
    }
}

/// `(text block, index of its annotation, citation)`.
pub fn specific_citation(entry: &Value) -> Option<(usize, Option<usize>, Citation)> {
    let block = entry.get("text_block")?.as_u64()? as usize;
    let text = |key: &str| entry.get(key).and_then(Value::as_str).map(str::to_owned);
    let format = text("format").and_then(|f| Format::parse(&f));
    let native = format.and_then(|format| Some((format, entry.get("native")?.clone())));
    let annotation = entry.get("annotation").and_then(Value::as_u64).map(|n| n as usize);
    let citation = Citation { title: text("title"), cited_text: text("cited_text"), native, ..Citation::default() };
    Some((block, annotation, citation))
}

/// The text block in which code point `start` of the whole text stands.
fn block_at(texts: &[Text], start: Option<u64>) -> usize {
    let Some(start) = start else { return texts.len().saturating_sub(1) };
    let mut end = 0;
    let inside = |text: &Text| {
        end += code_points(&text.text);
        start < end
    };
    texts.iter().position(inside).unwrap_or(texts.len().saturating_sub(1))
}

/// OpenRouter's `images`, and media that no field of this format fits.
fn images(f: &mut Fields, parts: &mut Vec<Part>) {
    for value in f.array("images").unwrap_or_default().unwrap_or_default() {
        parts.extend(image(&value).map(Part::Media));
    }
}

pub fn image(value: &Value) -> Option<Media> {
    let url = value.pointer("/image_url/url").or_else(|| value.get("url"))?.as_str()?;
    let (source, mime) = source(url.to_owned());
    let mut media = Media::new(MediaKind::Image, mime, source);
    let signed = value.pointer("/extra_content/google/thought_signature").and_then(Value::as_str);
    media.signature = signed.map(|data| Signature { origin: Format::Gemini, data: data.to_owned() });
    Some(media)
}

fn legacy_call(f: &mut Fields, parts: &mut Vec<Part>) -> Result<()> {
    let Some(mut call) = f.object("function_call")? else { return Ok(()) };
    let name = call.string("name")?.unwrap_or_default();
    let arguments = content::arguments(call.take("arguments"));
    if !name.is_empty() {
        parts.push(Part::ToolCall(legacy_tool_call(name, arguments)));
    }
    Ok(())
}

pub fn legacy_tool_call(name: String, arguments: String) -> ToolCall {
    let mut extra = Extra::default();
    extra.insert(F, LEGACY, true.into());
    ToolCall { id: String::new(), name, kind: ToolKind::Function, arguments, signature: None, cache: None, extra }
}

/// An answer's `audio{id, data, expires_at, transcript}`, or the `audio{id}` by which history refers to it.
fn audio(f: &mut Fields, parts: &mut Vec<Part>) {
    if let Some(value) = f.take("audio") {
        parts.extend(audio_part(value));
    }
}

pub fn audio_part(value: Value) -> Option<Part> {
    let Value::Object(mut map) = value else { return None };
    let mut text = |key: &str| match map.shift_remove(key) {
        Some(Value::String(s)) if !s.is_empty() => Some(s),
        _ => None,
    };
    let (data, mime) = (text("data"), text("mime_type"));
    let mut media = match data {
        Some(data) => Media::new(MediaKind::Audio, mime, MediaSource::Base64(data)),
        None => Media::new(MediaKind::Audio, mime, MediaSource::File { format: F, id: text("id")? }),
    };
    map.retain(|_, v| !v.is_null());
    media.extra = Extra::new(F, map);
    Some(Part::Media(media))
}

fn natives(ours: Option<Value>, parts: &mut Vec<Part>) {
    for entry in ours.as_ref().and_then(Value::as_array).into_iter().flatten() {
        parts.extend(native(entry));
    }
}

/// A piece of another format, or media that this one has no field for.
pub fn native(entry: &Value) -> Option<Part> {
    let text = |key: &str| entry.get(key).and_then(Value::as_str);
    if let Some(url) = text("media") {
        let (source, mime) = source(url.to_owned());
        let kind = match text("kind") {
            Some("video") => MediaKind::Video,
            Some("audio") => MediaKind::Audio,
            Some("image") => MediaKind::Image,
            _ => MediaKind::Document,
        };
        return Some(Part::Media(Media::new(kind, mime, source)));
    }
    let format = Format::parse(text("format")?)?;
    Some(Part::Native { format, kind: text("kind")?.to_owned(), value: entry.get("value")?.clone() })
}

/// Puts parts back in the order in which they were made, if `order` fits them.
fn reorder(parts: Vec<Part>, order: Option<Value>) -> Vec<Part> {
    let Some(Value::Array(order)) = order else { return parts };
    if order.len() != parts.len() {
        return parts;
    }
    let mut left: VecDeque<Option<Part>> = parts.into_iter().map(Some).collect();
    let mut out = Vec::with_capacity(left.len());
    for kind in &order {
        let next = left.iter_mut().find(|p| p.as_ref().is_some_and(|p| Some(kind_name(p)) == kind.as_str()));
        out.extend(next.and_then(Option::take));
    }
    out.extend(left.into_iter().flatten());
    out
}

/// The order in which `decode` finds parts.
const KINDS: [&str; 7] = ["reasoning", "text", "refusal", "image", "tool_call", "audio", "native"];

pub fn kind_name(part: &Part) -> &'static str {
    match part {
        Part::Reasoning(_) => "reasoning",
        Part::Text(_) => "text",
        Part::Refusal(_) => "refusal",
        Part::Media(Media { kind: MediaKind::Image, .. }) => "image",
        Part::ToolCall(_) => "tool_call",
        Part::Media(Media { kind: MediaKind::Audio, .. }) => "audio",
        Part::Media(_) | Part::ToolResult(_) | Part::Native { .. } => "native",
    }
}

/// `None` when reading back finds this order anyway.
pub fn order(kinds: &[&'static str]) -> Option<Value> {
    let rank = |kind: &&'static str| KINDS.iter().position(|k| k == kind);
    if kinds.is_sorted_by_key(rank) { None } else { Some(kinds.into()) }
}

/// What `encode` needs to know of the answer around the message.
pub struct Around<'a> {
    /// The answer's id: calls without an id get one made of it.
    pub answer: &'a str,
    pub choice: u32,
    pub now: i64,
    /// The choice's unknown fields.
    pub extra: &'a Extra,
}

/// The message of a choice.
pub fn encode<'a>(parts: &'a [Part], around: &Around<'a>) -> Draft<'a> {
    let mut out = Draft::new();
    let (mut more, mut specific) = (Map::new(), Map::new());
    out.put("role", "assistant");
    let texts: Vec<&Text> = parts.iter().filter_map(|p| if let Part::Text(t) = p { Some(t) } else { None }).collect();
    let refusal: String =
        parts.iter().filter_map(|p| if let Part::Refusal(t) = p { Some(t.as_str()) } else { None }).collect();
    let bare = texts.is_empty() && parts.iter().any(|p| !matches!(p, Part::Reasoning(_)));
    match texts.as_slice() {
        [] if bare => out.put("content", Value::Null),
        [only] => out.put("content", only.text.as_str()),
        texts => out.put("content", texts.iter().map(|t| t.text.as_str()).collect::<String>()),
    }
    out.put("refusal", if refusal.is_empty() { Said::Null } else { refusal.into() });
    write_reasoning(parts, &mut more);
    write_texts(&texts, around.extra, &mut more, &mut specific);
    out.take(&mut more);
    write_calls(parts, around, &mut out);
    write_media(parts, around, &mut more, &mut specific);
    out.take(&mut more);
    let kinds: Vec<&str> = parts.iter().map(kind_name).collect();
    if let Some(order) = order(&kinds) {
        specific.insert("order".into(), order);
    }
    if let Some(Value::Object(theirs)) = mark(around.extra, "$message.provider_specific_fields") {
        for (key, value) in theirs {
            specific.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    if !specific.is_empty() {
        out.put("provider_specific_fields", Value::Object(specific));
    }
    out.add_behind(MESSAGE, around.extra.of(F));
    out
}

fn write_reasoning(parts: &[Part], out: &mut Map<String, Value>) {
    let all: Vec<&Reasoning> =
        parts.iter().filter_map(|p| if let Part::Reasoning(r) = p { Some(r) } else { None }).collect();
    let Some(first) = all.first() else { return };
    let text: String = all.iter().map(|r| r.text.as_str()).collect();
    let field = mark(&first.extra, FIELD).and_then(Value::as_str);
    if !text.is_empty() && field != Some("details") {
        if field != Some("reasoning") {
            out.insert("reasoning_content".into(), text.as_str().into());
        }
        if matches!(field, Some("reasoning" | "both")) {
            out.insert("reasoning".into(), text.as_str().into());
        }
    }
    let from_details =
        |r: &Reasoning| matches!(mark(&r.extra, FIELD).and_then(Value::as_str), Some("reasoning" | "details"));
    let proven = |r: &Reasoning| r.signature.is_some() || r.sealed.is_some();
    // OpenRouter's own list carries the proof where the answer came from there.
    let told: Vec<&&Reasoning> = all.iter().filter(|r| !details::told(r)).collect();
    if told.len() > 1 || told.first().is_some_and(|first| proven(first) && !from_details(first)) {
        out.insert("thinking_blocks".into(), told.into_iter().flat_map(|r| blocks(r)).collect());
    }
}

pub fn blocks(r: &Reasoning) -> Vec<Value> {
    let mut out = Vec::new();
    if !r.text.is_empty() || r.signature.is_some() {
        let signature = r.signature.as_ref().map(|s| signature::write(s, F)).unwrap_or_default();
        out.push(json!({"type": "thinking", "thinking": r.text, "signature": signature}));
    }
    if let Some(sealed) = &r.sealed {
        out.push(json!({"type": "redacted_thinking", "data": signature::write(sealed, F)}));
    }
    out
}

fn write_texts(texts: &[&Text], extra: &Extra, out: &mut Map<String, Value>, specific: &mut Map<String, Value>) {
    let (mut annotations, mut rest, mut signatures) = (Vec::new(), Vec::new(), Vec::new());
    let mut start = 0;
    for (block, text) in texts.iter().enumerate() {
        let end = start + code_points(&text.text);
        for citation in &text.citations {
            let at = annotation(citation, (start, end)).map(|value| {
                annotations.push(value);
                annotations.len() - 1
            });
            rest.extend(citation_rest(citation, block, at));
        }
        let known = marked(extra, "$message.extra_content");
        if let Some(s) = text.signature.as_ref().filter(|_| !known) {
            signatures.push(json!({"text_block": block, "signature": signature::write(s, F)}));
        }
        start = end;
    }
    if texts.len() > 1 {
        specific.insert("text_blocks".into(), texts.iter().map(|t| Value::from(code_points(&t.text))).collect());
    }
    for (key, list) in [("text_signatures", signatures), ("citations", rest)] {
        if !list.is_empty() {
            specific.insert(key.into(), Value::Array(list));
        }
    }
    if !annotations.is_empty() {
        out.insert("annotations".into(), Value::Array(annotations));
    }
}

/// What an annotation does not say of a citation of another format.
pub fn citation_rest(citation: &Citation, block: usize, annotation: Option<usize>) -> Option<Value> {
    let Citation { url: _, title, file: _, cited_text, start: _, end: _, native } = citation;
    let mut out = json!({ "text_block": block });
    match native {
        Some((F, _)) => return None,
        Some((format, value)) => {
            out["format"] = format.name().into();
            out["native"] = value.clone();
        }
        None if annotation.is_some() => return None,
        None => {}
    }
    match annotation {
        Some(at) => out["annotation"] = at.into(),
        None => {
            out["title"] = title.as_deref().into();
            out["cited_text"] = cited_text.as_deref().into();
        }
    }
    Some(out)
}

fn write_calls<'a>(parts: &'a [Part], around: &Around<'_>, out: &mut Draft<'a>) {
    let (mut calls, mut old) = (Vec::new(), false);
    for part in parts {
        match part {
            Part::ToolCall(call) if marked(&call.extra, LEGACY) && !old => {
                old = true;
                out.put("function_call", json!({"name": call.name, "arguments": call.arguments}));
            }
            Part::ToolCall(call) => {
                let id = call_id(call, around.answer, around.choice, calls.len());
                calls.push(call_told(call, id.into(), arguments(call)).into());
            }
            Part::Native { format: F, kind: _, value } if value.get("id").is_some() => calls.push(Said::Lent(value)),
            _ => {}
        }
    }
    if !calls.is_empty() {
        out.put("tool_calls", calls);
    }
}

/// The id that a client sees: made where the upstream gave none, and then with a thought signature in it.
pub fn call_id(call: &ToolCall, answer: &str, choice: u32, at: usize) -> String {
    let signature = call.signature.as_ref().filter(|_| !is_signed(call));
    if call.id.is_empty() {
        return signature::join_id(&made_id(&[answer, &choice.to_string(), &at.to_string(), &call.name]), signature);
    }
    signature::told_id(&call.id, signature)
}

/// Its signature stands in the fields that it came with.
fn is_signed(call: &ToolCall) -> bool {
    marked(&call.extra, "extra_content") || marked(&call.extra, "provider_specific_fields")
}

/// Function arguments are JSON: nothing means `{}`.
pub fn arguments(call: &ToolCall) -> &str {
    match call.kind {
        ToolKind::Function if call.arguments.trim().is_empty() => "{}",
        _ => &call.arguments,
    }
}

/// `id` and `arguments` as they are to be told.
fn call_draft<'a>(call: &'a ToolCall, id: Cow<'a, str>, arguments: &'a str) -> Draft<'a> {
    let mut inner = Draft::new();
    inner.put("name", call.name.as_str());
    let (kind, input) = match call.kind {
        ToolKind::Function => ("function", "arguments"),
        ToolKind::Custom => ("custom", "input"),
    };
    inner.put(input, arguments);
    inner.add_behind(FUNCTION, call.extra.of(F));
    let mut out = Draft::new();
    out.put("id", Said::Text(id));
    out.put("type", kind);
    out.put(kind, inner);
    out.add_plain(call.extra.of(F));
    out
}

pub fn call_value(call: &ToolCall, id: &str, arguments: &str) -> Map<String, Value> {
    call_draft(call, id.into(), arguments).tree()
}

/// The same as clients see it: a thought signature that is not in its id stands where its vendor's compatible API has it.
fn call_told<'a>(call: &'a ToolCall, id: Cow<'a, str>, arguments: &'a str) -> Draft<'a> {
    let mut out = call_draft(call, id, arguments);
    if let Some(signed) = signature::beside_call(&call.id, call.signature.as_ref()).filter(|_| !is_signed(call)) {
        out.put("extra_content", json!({"google": {"thought_signature": signed.data}}));
    }
    out
}

pub fn told_call(call: &ToolCall, id: &str, arguments: &str) -> Map<String, Value> {
    call_told(call, id.into(), arguments).tree()
}

fn write_media(parts: &[Part], around: &Around<'_>, out: &mut Map<String, Value>, specific: &mut Map<String, Value>) {
    let (mut images, mut natives) = (Vec::new(), Vec::new());
    for part in parts {
        match part {
            Part::Media(media) => match media_value(media, around) {
                (Place::Image, value) => images.push(value),
                (Place::Audio, value) if !out.contains_key("audio") => drop(out.insert("audio".into(), value)),
                (_, value) => natives.push(value),
            },
            Part::Native { format: F, kind: _, value } if value.get("id").is_some() => {}
            Part::Native { .. } => natives.extend(native_value(part)),
            _ => {}
        }
    }
    if !images.is_empty() {
        out.insert("images".into(), Value::Array(images));
    }
    if !natives.is_empty() {
        specific.insert("native".into(), Value::Array(natives));
    }
}

pub fn native_value(part: &Part) -> Option<Value> {
    let Part::Native { format, kind, value } = part else { return None };
    Some(json!({"format": format.name(), "kind": kind, "value": value}))
}

/// Where a piece of media stands in an answer of this format.
#[derive(PartialEq, Eq)]
pub enum Place {
    Image,
    Audio,
    Native,
}

pub fn media_value(media: &Media, around: &Around<'_>) -> (Place, Value) {
    let mime = |data: &str| media.mime.clone().unwrap_or_else(|| sniff(data, media.kind).to_owned());
    let url = match &media.source {
        MediaSource::Base64(data) => data_url_of(&mime(data), data),
        MediaSource::Url(url) => url.clone(),
        MediaSource::File { format: _, id } => id.clone(),
        MediaSource::Text(text) => format!(
            "data:text/plain,{}",
            percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
        ),
        MediaSource::Parts(_) => String::new(),
    };
    match (media.kind, &media.source) {
        (MediaKind::Image, _) => {
            let mut out = json!({"type": "image_url", "image_url": {"url": url}});
            if let Some(signed) = media.signature.as_ref().filter(|s| s.origin == Format::Gemini) {
                out["extra_content"] = json!({"google": {"thought_signature": signed.data}});
            }
            (Place::Image, out)
        }
        (MediaKind::Audio, MediaSource::Base64(data)) => {
            let mut out = Map::new();
            plain(&media.extra, &mut out);
            out.entry("id").or_insert_with(|| format!("audio_{}", &made_id(&[around.answer, "audio"])[5..]).into());
            out.insert("data".into(), data.as_str().into());
            // The gateway keeps no audio: the reference is no longer good when it arrives.
            out.entry("expires_at").or_insert_with(|| around.now.into());
            out.entry("transcript").or_insert_with(|| "".into());
            if let Some(mime) = &media.mime {
                out.insert("mime_type".into(), mime.as_str().into());
            }
            (Place::Audio, Value::Object(out))
        }
        (kind, _) => {
            let kind = match kind {
                MediaKind::Video => "video",
                MediaKind::Audio => "audio",
                MediaKind::Image => "image",
                MediaKind::Document => "document",
            };
            (Place::Native, json!({"kind": kind, "media": url}))
        }
    }
}

const MAX_BLOCKS: usize = 10_000;
