//! Whole answers, both ways.

use serde_json::{Map, Value};

use super::{
    assistant::{self, Around},
    wire::{
        F, FIELD, LEGACY, MESSAGE, finish, finish_word, keep, mark, marked, native_finish, tier_word, told_usage,
        upstream_shape, usage,
    },
};
use crate::{
    codec::{
        ClientView,
        draft::{Draft, Said},
        json::{Fields, Item, as_i64, nth, tape_upstream},
    },
    error::{Error, Kind, Result},
    model::{Choice, Citation, Extra, Finish, Part, Response},
};

pub fn decode(body: &[u8]) -> Result<Response> {
    let mut body = tape_upstream(body)?;
    answer(body.item()).map_err(upstream_shape)
}

fn answer(body: Item) -> Result<Response> {
    let mut f = Fields::new(body, "")?;
    // Some servers answer 200 and put the error into the body.
    if f.peek("error").is_some() {
        return Err(super::error::in_answer(&Value::Object(f.rest_map())));
    }
    f.skip("object");
    let id = f.string("id")?.unwrap_or_default();
    let model = f.string("model")?.unwrap_or_default();
    let created = created(f.take("created"));
    let service_tier = f.string("service_tier")?.filter(|s| !s.is_empty());
    let usage = f.item("usage").and_then(usage).or_else(|| usage(f.peek("x_groq")?.get("usage")?.clone().into()));
    // An empty list is no answer either: other formats would tell their clients that it succeeded.
    let list = f.items("choices")?.filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| Error::new(Kind::Upstream, "the upstream's answer has no choices"))?;
    let mut choices = Vec::with_capacity(list.len());
    for (i, value) in list.into_iter().enumerate() {
        choices.push(choice(value, i)?);
    }
    if let Some(first) = choices.first_mut() {
        attach(first, sources(&f));
    }
    Ok(Response { id, model, created, choices, usage, service_tier, extra: f.rest(F) })
}

/// Unix seconds; 0 is how some servers say "unknown".
pub fn created(value: Option<Value>) -> Option<i64> {
    value.as_ref().and_then(Value::as_number).and_then(as_i64).filter(|n| *n != 0)
}

fn choice(value: Item, at: usize) -> Result<Choice> {
    let mut f = Fields::new(value, nth("choices", at))?;
    if let Some(error) = f.peek("error") {
        return Err(super::error::in_answer(error));
    }
    let index = f.item("index").and_then(|n| n.whole());
    let index = index.and_then(|n| u32::try_from(n).ok()).unwrap_or(at as u32);
    let raw = f.string("finish_reason")?;
    super::error::in_finish(raw.as_deref())?;
    let logprobs = f.take("logprobs").filter(tells);
    let mut message = f.object("message")?.unwrap_or(Fields::new(Value::Object(Map::new()), f.path("message"))?);
    message.skip("role");
    // Of a legacy completion the text stands in the choice itself.
    if let Some(text) = f.string("text")? {
        message.put("content", text.into());
    }
    drop_empty(&mut message);
    let parts = assistant::decode(&mut message)?;
    let has_calls = parts.iter().any(|p| matches!(p, Part::ToolCall(_)));
    let finish = raw.map(|raw| finish(&raw, has_calls));
    let mut extra = f.rest(F);
    keep(&mut extra, MESSAGE, message.rest_map());
    Ok(Choice { index, parts, finish, logprobs, extra })
}

/// `{"content": null, "refusal": null}` says nothing.
pub fn tells(logprobs: &Value) -> bool {
    logprobs.as_object().is_none_or(|m| m.values().any(|v| !v.is_null()))
}

/// Some servers write every field they know, with empty texts and zeros in it.
fn drop_empty(message: &mut Fields) {
    for key in ["audio", "function_call", "annotations", "images", "tool_calls", "reasoning", "reasoning_content"] {
        if message.peek(key).is_some_and(empty) {
            message.take(key);
        }
    }
}

pub fn empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(_) => false,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => s.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(empty),
    }
}

/// Perplexity's and xAI's list of source URLs beside the choices. The list itself goes back with the unknown fields, which
/// the native string in each citation tells.
fn sources(f: &Fields) -> Vec<Citation> {
    source_list(f.peek("citations"), f.peek("search_results"))
}

/// `search_results` tell the titles of the URLs in `citations`, and stand alone where a server has left those.
pub fn source_list(citations: Option<&Value>, results: Option<&Value>) -> Vec<Citation> {
    let (urls, results) = (entries(citations), entries(results));
    let text = |result: &Value, key: &str| result.get(key).and_then(Value::as_str).map(str::to_owned);
    let one = |url: String, title: Option<String>| Citation {
        native: Some((F, url.as_str().into())),
        url: Some(url),
        title,
        ..Citation::default()
    };
    if urls.is_empty() {
        return results.iter().filter_map(|r| Some(one(text(r, "url")?, text(r, "title")))).collect();
    }
    let hit = |url: &str| results.iter().find(|r| r.get("url").and_then(Value::as_str) == Some(url));
    let title = |url: &str| text(hit(url)?, "title");
    urls.iter().filter_map(|url| Some(one(url.as_str()?.to_owned(), title(url.as_str()?)))).collect()
}

fn entries(list: Option<&Value>) -> &[Value] {
    list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn attach(choice: &mut Choice, sources: Vec<Citation>) {
    let text = choice.parts.iter_mut().find_map(|p| if let Part::Text(t) = p { Some(t) } else { None });
    if let Some(text) = text {
        text.citations.extend(sources);
    }
}

pub fn encode(response: &Response, view: &ClientView) -> Result<Vec<u8>> {
    let Response { id, model, created, choices, usage, service_tier, extra } = response;
    let mut out = Draft::new();
    let id = if id.is_empty() { format!("chatcmpl-{}", view.request_id) } else { id.clone() };
    out.put("id", id.as_str());
    out.put("object", "chat.completion");
    let now = created.unwrap_or(view.now);
    out.put("created", Value::from(now));
    out.put("model", if model.is_empty() { view.model.as_str() } else { model.as_str() });
    out.put("choices", choices.iter().map(|c| choice_draft(c, &id, now).into()).collect::<Vec<Said<'_>>>());
    if let Some(usage) = usage.as_ref().and_then(told_usage) {
        out.put("usage", usage);
    }
    if let Some(tier) = service_tier {
        out.put("service_tier", tier_word(tier));
    }
    out.add_plain(extra.of(F));
    Ok(out.bytes())
}

fn choice_draft<'a>(choice: &'a Choice, answer: &'a str, now: i64) -> Draft<'a> {
    let Choice { index, parts, finish, logprobs, extra } = choice;
    let around = Around { answer, choice: *index, now, extra };
    let mut out = Draft::new();
    out.put("index", u64::from(*index));
    out.put("message", assistant::encode(parts, &around));
    out.put("logprobs", logprobs.as_ref().map_or(Said::Null, Said::Lent));
    put_finish(finish.as_ref(), legacy(parts), &mut out);
    out.add_plain(extra.of(F));
    out
}

fn legacy(parts: &[Part]) -> bool {
    parts.iter().any(|p| matches!(p, Part::ToolCall(call) if marked(&call.extra, LEGACY)))
}

pub fn write_finish(finish: Option<&Finish>, legacy: bool, out: &mut Map<String, Value>) {
    let mut told = Draft::new();
    put_finish(finish, legacy, &mut told);
    out.extend(told.tree());
}

fn put_finish<'a>(finish: Option<&'a Finish>, legacy: bool, out: &mut Draft<'a>) {
    let Some(finish) = finish else { return out.put("finish_reason", Value::Null) };
    let word = finish_word(finish, legacy);
    out.put("finish_reason", word);
    if let Some(native) = native_finish(finish, word) {
        out.put("native_finish_reason", native);
    }
    let mut specific = Map::new();
    if let Some(sequence) = &finish.stop_sequence {
        specific.insert("stop_sequence".into(), sequence.as_str().into());
    }
    if let Some(details) = &finish.details {
        specific.insert("stop_details".into(), details.clone());
    }
    if !specific.is_empty() {
        out.put("provider_specific_fields", Value::Object(specific));
    }
}

/// Was reasoning told under `reasoning` rather than `reasoning_content`?
pub fn reasoning_field(extra: &Extra) -> &'static str {
    match mark(extra, FIELD).and_then(Value::as_str) {
        Some("reasoning") => "reasoning",
        _ => "reasoning_content",
    }
}
