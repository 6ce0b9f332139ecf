//! Whole answers, both ways. Decoding folds the stream machine's events over one chunk, so a stream and its whole answer
//! mean the same: adjacent plain text parts are one part.

use serde_json::{Map, Value, json};

use super::{
    grounding::{self, Cited},
    logprobs,
    request::{
        encode::{function_call, is_told},
        parts::INNER,
    },
    stream::decode::Machine,
    usage,
    wire::{GEMINI, fill, finish_word, time, write_sealed, write_signature},
};
use crate::{
    codec::{
        ClientView,
        draft::{self, Draft, Said},
        json::{Item, tape_upstream},
    },
    error::Result,
    model::{
        Choice, Extra, Finish, FinishReason, Media, MediaSource, Part, Reasoning, Response, Signature, Text, ToolCall,
        ToolKind, fold::Fold,
    },
};

pub fn decode(body: &[u8]) -> Result<Response> {
    let mut body = tape_upstream(body)?;
    // A list of chunks: what the streaming path answers without `alt=sse`.
    whole(body.item().items().unwrap_or_else(|one| vec![one]))
}

fn whole(chunks: Vec<Item>) -> Result<Response> {
    let mut machine = Machine::default();
    let mut events = Vec::new();
    for chunk in chunks {
        machine.chunk(chunk, &mut events)?;
    }
    machine.finish_whole(&mut events)?;
    let mut fold = Fold::default();
    events.into_iter().for_each(|event| fold.push(event));
    let mut response = fold.finish();
    if response.choices.is_empty() {
        response.choices.push(Choice::default());
    }
    Ok(response)
}

pub fn encode(response: &Response, view: &ClientView) -> Result<Vec<u8>> {
    let Response { id, model, created, choices, usage, service_tier: _, extra } = response;
    let mut out = Draft::new();
    let blocked = choices.iter().find_map(prompt_feedback).filter(|_| choices.iter().all(|c| c.parts.is_empty()));
    if let Some(feedback) = blocked {
        out.put("promptFeedback", Said::Lent(feedback));
    } else {
        out.put("candidates", choices.iter().map(|choice| candidate(choice).into()).collect::<Vec<Said<'_>>>());
    }
    if let Some(usage) = usage {
        out.put("usageMetadata", usage::told(usage));
    }
    let id = if id.is_empty() { &view.request_id } else { id };
    let model = if model.is_empty() { &view.model } else { model };
    let created = created.and_then(time);
    put_head(id, model, created.as_deref(), extra, &mut out);
    Ok(out.bytes())
}

/// The feedback of a prompt that was refused before any candidate was made.
pub fn prompt_feedback(choice: &Choice) -> Option<&Value> {
    feedback_of(choice.finish.as_ref()?)
}

pub fn feedback_of(finish: &Finish) -> Option<&Value> {
    finish.details.as_ref()?.get("promptFeedback")
}

fn candidate(choice: &Choice) -> Draft<'_> {
    let Choice { index, parts, finish, logprobs, extra } = choice;
    let mut out = Draft::new();
    let mut written = Vec::new();
    let mut natives = Vec::new();
    for part in parts {
        match foreign_native(part) {
            Some(native) => natives.push(native),
            None => tell_part(part, &mut written),
        }
    }
    out.put("content", content(written));
    if let Some(finish) = finish {
        let refused = parts.iter().any(|part| matches!(part, Part::Refusal(_)));
        put_finish(finish, refused, &mut out);
    }
    out.put("index", u64::from(*index));
    let kept = extra.of(GEMINI);
    if !has_sources(kept)
        && let Some(metadata) = sources(parts)
    {
        out.put("groundingMetadata", metadata);
    }
    if let Some(logprobs) = logprobs.as_ref().and_then(logprobs::encode) {
        out.put("logprobsResult", logprobs);
    }
    out.add(kept);
    if !natives.is_empty() {
        out.put(NATIVE, Value::Array(natives));
    }
    out
}

/// A part of an answer for a Gemini client.
pub fn tell_part<'a>(part: &'a Part, out: &mut Vec<Said<'a>>) {
    match short(part) {
        Some(short) => out.push(short.into()),
        None => {
            let mut long = Vec::new();
            write_part(part, &mut long);
            out.extend(long.into_iter().map(Said::from));
        }
    }
}

/// A part that says a text or makes a call, and nothing more.
fn short(part: &Part) -> Option<Draft<'_>> {
    let mut out = Draft::new();
    match part {
        Part::Text(Text { text, signature: None, extra, .. }) if !text.is_empty() && extra.of(GEMINI).is_none() => {
            out.put("text", text.as_str());
        }
        Part::ToolCall(ToolCall {
            id,
            name,
            kind: ToolKind::Function,
            arguments,
            signature: None,
            cache: _,
            extra,
        }) if extra.of(GEMINI).is_none() => {
            let mut call = Draft::new();
            if is_told(id) {
                call.put("id", id.as_str());
            }
            call.put("name", name.as_str());
            call.put("args", draft::input(arguments)?);
            out.put("functionCall", call);
        }
        _ => return None,
    }
    Some(out)
}

/// The candidate's field for parts of other formats: official SDKs leave out candidate fields they do not know.
pub const NATIVE: &str = "portcullisNative";

/// A part that only another format knows.
pub fn foreign_native(part: &Part) -> Option<Value> {
    match part {
        Part::Native { format, kind, value } if *format != GEMINI => {
            Some(json!({ "format": format.name(), "kind": kind, "value": value }))
        }
        _ => None,
    }
}

/// Did the upstream's own metadata, which go back as they came, hold the sources?
pub fn has_sources(kept: Option<&Map<String, Value>>) -> bool {
    kept.is_some_and(|k| k.contains_key("groundingMetadata") || k.contains_key("citationMetadata"))
}

pub fn content(parts: Vec<Said<'_>>) -> Draft<'_> {
    let mut out = Draft::new();
    out.put_list("parts", parts);
    out.put("role", "model");
    out
}

/// The wire has no refusal parts: a refused answer says so in its reason, or it would pass for an ordinary one.
pub fn put_finish<'a>(finish: &'a Finish, refused: bool, out: &mut Draft<'a>) {
    let Finish { reason, raw, stop_sequence: _, details } = finish;
    let reason = if refused && *reason == FinishReason::Stop { FinishReason::ContentFilter } else { *reason };
    out.put("finishReason", finish_word(reason, raw));
    if let Some(message) = details.as_ref().and_then(|d| d.get("finishMessage")) {
        out.put("finishMessage", Said::Lent(message));
    }
}

fn sources(parts: &[Part]) -> Option<Value> {
    if !parts.iter().any(|part| matches!(part, Part::Text(text) if !text.citations.is_empty())) {
        return None;
    }
    let mut text = String::new();
    let mut points = 0;
    let mut cited = Vec::new();
    for part in parts {
        if let Part::Text(t) = part {
            let start = points;
            points += t.text.chars().count() as u64;
            text.push_str(&t.text);
            cited.extend(t.citations.iter().map(|citation| Cited { citation, part: (start, points) }));
        }
    }
    grounding::encode(&text, &cited)
}

/// The same of one that says more. Foreign signatures travel tagged; a sealed block is a thought without text.
fn write_part(part: &Part, out: &mut Vec<Value>) {
    match part {
        Part::Text(Text { text, citations: _, cache: _, signature, extra }) => {
            if !text.is_empty() || signature.is_some() || extra.of(GEMINI).is_some() {
                out.push(signed(json!({ "text": text }), signature.as_ref(), extra));
            }
        }
        Part::Refusal(text) => out.push(json!({ "text": text })),
        Part::Reasoning(Reasoning { text, signature, sealed, extra }) => {
            if !text.is_empty() || signature.is_some() || sealed.is_none() {
                out.push(signed(json!({ "text": text, "thought": true }), signature.as_ref(), extra));
            }
            if let Some(sealed) = sealed {
                out.push(json!({ "text": "", "thought": true, "thoughtSignature": write_sealed(sealed) }));
            }
        }
        Part::ToolCall(call) => {
            let mut value = function_call(call, &call.id, None);
            if let Some(signature) = &call.signature {
                value["thoughtSignature"] = json!(write_signature(signature));
            }
            out.push(value);
        }
        Part::Media(media) => write_media(media, out),
        Part::Native { value, .. } => out.push(value.clone()),
        // Answers hold none.
        Part::ToolResult(_) => {}
    }
}

fn signed(mut part: Value, signature: Option<&Signature>, extra: &Extra) -> Value {
    if let Some(signature) = signature {
        part["thoughtSignature"] = json!(write_signature(signature));
    }
    if let Value::Object(part) = &mut part {
        fill(part, extra.of(GEMINI));
        part.shift_remove(INNER);
    }
    part
}

fn write_media(media: &Media, out: &mut Vec<Value>) {
    let kind = media.kind;
    let mut value = match &media.source {
        MediaSource::Base64(data) => {
            let mime = media.mime.as_deref().unwrap_or_else(|| super::wire::mime_of_base64(data, kind));
            json!({ "inlineData": { "mimeType": mime, "data": data } })
        }
        MediaSource::Url(uri) | MediaSource::File { id: uri, .. } => match &media.mime {
            Some(mime) => json!({ "fileData": { "mimeType": mime, "fileUri": uri } }),
            None => json!({ "fileData": { "fileUri": uri } }),
        },
        MediaSource::Text(text) => json!({ "text": text }),
        MediaSource::Parts(parts) => return parts.iter().for_each(|p| write_part(p, out)),
    };
    if let Some(Value::Object(inner)) = media.extra.of(GEMINI).and_then(|k| k.get(INNER))
        && let Some(data) = value.as_object_mut().and_then(|v| v.values_mut().next()).and_then(Value::as_object_mut)
    {
        fill(data, Some(inner));
    }
    out.push(signed(value, media.signature.as_ref(), &media.extra));
}

fn put_head<'a>(id: &'a str, model: &'a str, created: Option<&'a str>, extra: &'a Extra, out: &mut Draft<'a>) {
    out.put("modelVersion", model);
    let own = extra.of(GEMINI);
    if let Some(created) = created.filter(|_| !own.is_some_and(|k| k.contains_key("createTime"))) {
        out.put("createTime", created);
    }
    if !id.is_empty() {
        out.put("responseId", id);
    }
    out.add(own);
}

/// What every chunk says of the answer as a whole.
#[derive(Debug, Clone, Default)]
pub struct Head {
    id: String,
    model: String,
    /// As this wire writes it.
    created: Option<String>,
    extra: Extra,
}

impl Head {
    pub fn new(id: &str, model: &str, created: Option<i64>, extra: &Extra, view: &ClientView) -> Self {
        let or = |own: &str, other: &str| if own.is_empty() { other.to_owned() } else { own.to_owned() };
        let (id, model) = (or(id, &view.request_id), or(model, &view.model));
        Head { id, model, created: created.and_then(time), extra: extra.clone() }
    }

    pub fn put<'a>(&'a self, out: &mut Draft<'a>) {
        put_head(&self.id, &self.model, self.created.as_deref(), &self.extra, out);
    }
    /// Fields that arrived late: later chunks tell them.
    pub fn add(&mut self, extra: &Extra) {
        for (key, value) in extra.of(GEMINI).into_iter().flatten() {
            self.extra.insert(GEMINI, key, value.clone());
        }
    }
}
