//! Whole answers, both ways. The wire has one message with a plan, content, calls and citations; what it has no place for
//! travels beside them in `portcullis_native`, where SDKs do not trip over it.

use serde_json::{Map, Value, json};

use super::{
    ClientView,
    json::{self, Fields},
    logprobs,
    wire::{self, FORMAT},
};
use crate::{
    codec::{
        calls,
        draft::{Draft, Said},
        figures, signature,
    },
    error::{Error, Kind, Result},
    model::{Choice, Extra, Media, MediaSource, Part, Reasoning, Response, Text, ToolCall, ToolKind},
};

pub fn decode(body: &[u8]) -> Result<Response> {
    let mut body = json::tape_upstream(body)?;
    message(body.item()).map_err(wire::upstream_fault)
}

fn message(body: json::Item) -> Result<Response> {
    let mut f = Fields::new(body, "")?;
    let Some(message) = f.item("message").filter(json::Item::is_object) else {
        return Err(Error::new(Kind::Upstream, "the upstream's answer holds no message"));
    };
    let mut message = Fields::new(message, "message")?;
    let plan = message.string("tool_plan")?.filter(|plan| !plan.is_empty());
    let mut parts: Vec<Part> = plan.map(wire::plan).into_iter().collect();
    let plans = parts.len();
    if let Some(content) = message.item("content") {
        parts.extend(wire::read_content(content, "message.content")?);
    }
    wire::place_citations(&mut parts, plans, message.array("citations")?.unwrap_or_default());
    for (i, call) in message.items("tool_calls")?.unwrap_or_default().into_iter().enumerate() {
        let mut call = wire::read_call(call, &json::nth("message.tool_calls", i))?;
        if call.arguments.is_empty() {
            call.arguments = "{}".to_owned();
        }
        parts.push(Part::ToolCall(call));
    }
    // The list itself goes back with the unknown fields.
    let pieces = f.peek("logprobs").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let logprobs = logprobs::read(pieces);
    let called = parts.iter().any(|part| matches!(part, Part::ToolCall(_)));
    let finish = f.string("finish_reason")?.map(|raw| wire::read_finish(&raw, called));
    let choice = Choice { parts, finish, logprobs, ..Choice::default() };
    let usage = f.written("usage")?.map(|usage| figures::usage(FORMAT, usage, wire::read_usage));
    let id = f.string("id")?.unwrap_or_default();
    Ok(Response { id, choices: vec![choice], usage, extra: f.rest(FORMAT), ..Response::default() })
}

pub fn encode(response: &Response, view: &ClientView) -> Result<Vec<u8>> {
    let Response { id, model: _, created: _, choices, usage, service_tier: _, extra } = response;
    let id = answer_id(id, view);
    let choice = choices.first();
    let parts = choice.map(|c| c.parts.as_slice()).unwrap_or_default();
    let (mut content, mut calls, mut citations, mut beside) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut plan, mut before) = (String::new(), 0);
    for (index, part) in parts.iter().enumerate() {
        match part {
            Part::Text(text) if wire::is_plan(&text.extra) && content.is_empty() => {
                plan.push_str(&text.text);
                citations.extend(text.citations.iter().map(|c| wire::write_citation(c, 0, 0, &text.text)));
            }
            Part::Text(text) => {
                let cite = |c| wire::write_citation(c, content.len(), before, &text.text);
                citations.extend(text.citations.iter().map(cite));
                before += text.text.chars().count() as u64;
                content.push(text_item(text).into());
            }
            Part::Refusal(text) => content.push(json!({"type": "text", "text": text}).into()),
            Part::Reasoning(reasoning) => content.push(thinking_item(reasoning).into()),
            Part::ToolCall(call) => calls.push(call_item(call, &|| call_seed(&id, index)).into()),
            Part::Native { format: FORMAT, kind: _, value } => content.push(Said::Lent(value)),
            other => beside.extend(beside_content(other)),
        }
    }
    let mut message = Draft::new();
    message.put("role", "assistant");
    if !plan.is_empty() {
        message.put("tool_plan", plan);
    }
    let called = !calls.is_empty();
    message.put_list("content", content);
    message.put_list("tool_calls", calls);
    for (key, list) in [("citations", citations), (BESIDE, beside)] {
        if !list.is_empty() {
            message.put(key, Value::Array(list));
        }
    }
    let refused = parts.iter().any(|p| matches!(p, Part::Refusal(_)));
    let word = wire::finish_reason(choice.and_then(|c| c.finish.as_ref()), called, refused);
    let mut out = Draft::new();
    out.put("id", id.as_str());
    out.put("message", message);
    out.put("finish_reason", word);
    if let Some(usage) = usage {
        out.put("usage", wire::told_usage(usage));
    }
    out.add(extra.of(FORMAT));
    if let Some(logprobs) = choice.and_then(|c| c.logprobs.as_ref()).filter(|_| !out.has("logprobs")) {
        out.put("logprobs", Value::Array(logprobs::write(logprobs)));
    }
    Ok(out.bytes())
}

fn text_item(text: &Text) -> Draft<'_> {
    let mut out = Draft::new();
    out.put("type", "text");
    out.put("text", text.text.as_str());
    if let Some(signed) = &text.signature {
        out.put("signature", signature::write(signed, FORMAT));
    }
    out.add(text.extra.of(FORMAT));
    out
}

fn thinking_item(reasoning: &Reasoning) -> Value {
    let mut out = Map::new();
    out.insert("type".to_owned(), "thinking".into());
    out.insert("thinking".to_owned(), reasoning.text.as_str().into());
    for (key, signed) in [("signature", &reasoning.signature), ("data", &reasoning.sealed)] {
        if let Some(signed) = signed {
            out.insert(key.to_owned(), signature::write(signed, FORMAT).into());
        }
    }
    wire::give_back(&mut out, &reasoning.extra);
    Value::Object(out)
}

fn call_item<'a>(call: &'a ToolCall, seed: &dyn Fn() -> String) -> Draft<'a> {
    let ToolCall { id, name, kind, arguments, signature, cache: _, extra } = call;
    let seed = if id.is_empty() { seed() } else { String::new() };
    let made = call_id(id, &seed, signature.as_ref());
    let beside = signature::beside_call(id, signature.as_ref());
    let arguments = match kind {
        ToolKind::Custom => json!({"input": arguments}).to_string().into(),
        ToolKind::Function => arguments.as_str().into(),
    };
    wire::told_call(made.into(), name, arguments, beside, extra)
}

pub fn answer_id(id: &str, view: &ClientView) -> String {
    if id.is_empty() { view.request_id.clone() } else { id.to_owned() }
}

/// What an id is made from when the upstream gave none: whole and streamed answers make the same.
pub fn call_seed(id: &str, index: usize) -> String {
    format!("{id}/{index}")
}

/// The id as the client sees it; a thought signature that belongs to the call rides in it.
pub fn call_id(id: &str, seed: &str, signature: Option<&crate::model::Signature>) -> String {
    match id {
        "" => signature::join_id(&calls::made_id("call_", &[seed]), signature),
        id => signature::told_id(id, signature),
    }
}

/// A part that this wire has no place for.
pub fn beside_content(part: &Part) -> Option<Value> {
    match part {
        Part::Native { format, kind, value } => Some(json!({"format": format.name(), "type": kind, "value": value})),
        Part::Media(Media { kind, mime, source, name, .. }) => {
            let kind = format!("{kind:?}").to_lowercase();
            let mut out = json!({"type": kind, "media_type": mime, "name": name});
            let (key, value) = match source {
                MediaSource::Base64(data) => ("data", data),
                MediaSource::Url(url) => ("url", url),
                MediaSource::File { id, .. } => ("file_id", id),
                MediaSource::Text(text) => ("text", text),
                MediaSource::Parts(_) => return None,
            };
            out[key] = value.as_str().into();
            Some(out)
        }
        _ => None,
    }
}

pub const BESIDE: &str = "portcullis_native";

/// Of the whole answer, in a stream.
pub fn own(extra: &Extra) -> Map<String, Value> {
    extra.of(FORMAT).cloned().unwrap_or_default()
}
