//! What a case tells of upstreams and of the world before its request: `answers`, `targets`, `live`. Read into what a
//! rehearsal takes.

use std::time::Duration;

use serde_json::{Map, Value};

use super::fields::{Bad, Book, Fields, Read};
use crate::{
    model::{Delta, Event, FinishReason, Usage},
    rehearse::{
        Answer, Answers, Fault,
        answers::{reasoning_part, text_part, tool_part},
    },
    route::{Fares, Own},
};

/// Keys of an answer, as they stand in the reference.
pub const ANSWER: &[&str] = &[
    "text",
    "reasoning",
    "tool_calls",
    "events",
    "finish",
    "usage",
    "model",
    "status",
    "message",
    "retry_after",
    "headers",
    "latency",
    "pace",
    "timeout",
    "refused",
    "cut",
    "stall",
    "body",
    "vectors",
];
pub const TARGET: &[&str] = &[
    "name",
    "healthy",
    "breaker",
    "resting",
    "latency_ms",
    "in_flight",
    "price_input",
    "price_output",
    "quota_left",
    "quota_resets_in",
    "context_window",
];
const USAGE: &[&str] = &["input", "output", "cached", "cache_write", "reasoning"];
const CALL: &[&str] = &["name", "arguments", "id"];
const EVENT: &[&str] = &["text", "reasoning", "tool", "id", "arguments"];
const REASONS: [FinishReason; 4] =
    [FinishReason::Stop, FinishReason::Length, FinishReason::ToolCalls, FinishReason::ContentFilter];

/// `answers = [ by attempt ]` or `answers = { "provider/model" = one or several, "*" = others }`.
pub fn answers(value: Value, book: Book<'_>) -> Read<Answers> {
    match value {
        Value::Array(list) => {
            let by_attempt = list.into_iter().map(|one| answer(one, book)).collect::<Read<_>>()?;
            Ok(Answers { by_attempt, ..Answers::default() })
        }
        Value::Object(map) => {
            let mut answers = Answers::default();
            for (name, value) in map {
                let list = match value {
                    Value::Array(list) => list,
                    one => vec![one],
                };
                let mut list = list.into_iter().map(|one| answer(one, book)).collect::<Read<Vec<_>>>()?;
                match name.as_str() {
                    "*" if list.len() == 1 => answers.others = list.pop(),
                    "*" => return Err(book.bad("*", "answers.\"*\" is one answer, for every target without its own")),
                    _ => drop(answers.by_target.insert(name, list)),
                }
            }
            Ok(answers)
        }
        _ => Err(book.bad("answers", "answers is an array (one an attempt) or a table (by target)")),
    }
}

fn answer(value: Value, book: Book<'_>) -> Read<Answer> {
    if let Value::String(text) = &value {
        return Ok(Answer::text(text));
    }
    let mut fields = Fields::new(value, "an answer", ANSWER, book)?;
    let fault = fault(&mut fields)?;
    let finish = match fields.text("finish")? {
        None => None,
        Some(word) => {
            let known = REASONS.iter().find(|reason| reason.name() == word);
            Some(*known.ok_or_else(|| fields.wrong("finish", "stop, length, tool_calls or content_filter"))?)
        }
    };
    Ok(Answer {
        latency: fields.time("latency")?.unwrap_or_default(),
        pace: fields.time("pace")?.unwrap_or_default(),
        headers: fields.pairs("headers")?,
        model: fields.text("model")?,
        usage: fields.take("usage").map(|value| usage(value, book)).transpose()?,
        vectors: vectors(&mut fields)?,
        events: events(&mut fields)?,
        fault,
        finish,
    })
}

/// `{ word = [0.1, …] }`, all of one length.
fn vectors(fields: &mut Fields<'_>) -> Read<Vec<(String, Vec<f32>)>> {
    let mut vectors: Vec<(String, Vec<f32>)> = Vec::new();
    for (word, value) in fields.table("vectors")?.unwrap_or_default() {
        let list = value.as_array().filter(|list| !list.is_empty());
        let numbers =
            list.and_then(|list| list.iter().map(|n| n.as_f64().map(|n| n as f32)).collect::<Option<Vec<_>>>());
        let fits = numbers.filter(|numbers| vectors.first().is_none_or(|(_, first)| first.len() == numbers.len()));
        let vector = fits.ok_or_else(|| fields.wrong("vectors", "a table of arrays of numbers, all of one length"))?;
        vectors.push((word, vector));
    }
    Ok(vectors)
}

fn fault(fields: &mut Fields<'_>) -> Read<Option<Fault>> {
    let status = fields.count("status")?;
    let (message, retry_after) = (fields.text("message")?, wait(fields)?);
    let mut faults = Vec::new();
    match status {
        Some(200) | None => {}
        Some(status @ 400..=599) => faults.push(Fault::Status { status: status as u16, message, retry_after }),
        Some(_) => return Err(fields.wrong("status", "200, or 400 to 599")),
    }
    if fields.flag("refused")? {
        faults.push(Fault::Refused);
    }
    if fields.flag("timeout")? {
        faults.push(Fault::Silent);
    }
    faults.extend(fields.count("cut")?.map(|n| Fault::Cut(n as usize)));
    faults.extend(fields.count("stall")?.map(|n| Fault::Stall(n as usize)));
    faults.extend(fields.text("body")?.map(Fault::Bytes));
    if faults.len() > 1 {
        let text = "an answer fails in one way: status, refused, timeout, cut, stall or body";
        return Err(fields.book().bad("answers", text));
    }
    Ok(faults.pop())
}

/// `retry_after`: seconds, or a duration.
fn wait(fields: &mut Fields<'_>) -> Read<Option<Duration>> {
    match fields.take("retry_after") {
        None => Ok(None),
        Some(Value::String(text)) => crate::config::duration(&text)
            .map(Some)
            .map_err(|why| fields.book().bad("retry_after", format!("retry_after: {why}"))),
        Some(value) => match value.as_u64() {
            Some(seconds) => Ok(Some(Duration::from_secs(seconds))),
            None => Err(fields.wrong("retry_after", "seconds, or a duration such as \"2s\"")),
        },
    }
}

fn usage(value: Value, book: Book<'_>) -> Read<Usage> {
    let mut fields = Fields::new(value, "usage", USAGE, book)?;
    Ok(Usage {
        input_tokens: fields.count("input")?,
        output_tokens: fields.count("output")?,
        cache_read_tokens: fields.count("cached")?,
        cache_write_tokens: fields.count("cache_write")?,
        reasoning_tokens: fields.count("reasoning")?,
        ..Usage::default()
    })
}

/// `reasoning`, then `text`, then `tool_calls`; or `events`, in their own order.
fn events(fields: &mut Fields<'_>) -> Read<Vec<Event>> {
    let mut out = Parts::default();
    let mut whole = false;
    if let Some(text) = fields.text("reasoning")? {
        out.push(|n| reasoning_part(n, &text));
        whole = true;
    }
    if let Some(text) = fields.text("text")? {
        out.push(|n| text_part(n, &text));
        whole = true;
    }
    for call in fields.list("tool_calls")?.unwrap_or_default() {
        let mut call = Fields::new(call, "a tool call", CALL, fields.book())?;
        let name = call.text("name")?.ok_or_else(|| call.wrong("name", "given"))?;
        let id = call.text("id")?.unwrap_or_else(|| format!("call_{}", out.next));
        let arguments = match call.take("arguments") {
            None => "{}".to_owned(),
            Some(Value::String(text)) => text,
            Some(value) => value.to_string(),
        };
        out.push(|n| tool_part(n, &id, &name, &arguments));
        whole = true;
    }
    let Some(list) = fields.list("events")? else { return Ok(out.events) };
    if whole {
        return Err(fields.book().bad("events", "an answer has either events, or text, reasoning and tool_calls"));
    }
    for item in list {
        event(item, fields.book(), &mut out)?;
    }
    out.close();
    Ok(out.events)
}

/// One event: `"text"`, `{ text }`, `{ reasoning }`, `{ tool, arguments }`, or `{ arguments }` for more of the last call's.
fn event(item: Value, book: Book<'_>, out: &mut Parts) -> Read<()> {
    if let Value::String(text) = item {
        out.more("text", &text, |n| text_part(n, ""));
        return Ok(());
    }
    let mut fields = Fields::new(item, "an event", EVENT, book)?;
    let (text, reasoning, tool) = (fields.text("text")?, fields.text("reasoning")?, fields.text("tool")?);
    let arguments = match fields.take("arguments") {
        None => None,
        Some(Value::String(text)) => Some(text),
        Some(value) => Some(value.to_string()),
    };
    match (text, reasoning, tool, arguments) {
        (Some(text), None, None, None) => out.more("text", &text, |n| text_part(n, "")),
        (None, Some(text), None, None) => out.more("reasoning", &text, |n| reasoning_part(n, "")),
        (None, None, Some(name), arguments) => {
            out.close();
            let id = fields.text("id")?.unwrap_or_else(|| format!("call_{}", out.next));
            out.more("tool", &arguments.unwrap_or_default(), |n| tool_part(n, &id, &name, ""));
        }
        (None, None, None, Some(arguments)) if out.open == Some("tool") => out.more("tool", &arguments, |_| Vec::new()),
        (None, None, None, Some(_)) => return Err(book.bad("arguments", "these arguments follow no tool's event")),
        _ => return Err(book.bad("events", "an event is one of text, reasoning, tool (with arguments) or arguments")),
    }
    Ok(())
}

/// Events of an answer, part by part.
#[derive(Default)]
struct Parts {
    events: Vec<Event>,
    next: u32,
    open: Option<&'static str>,
}

impl Parts {
    fn push(&mut self, make: impl FnOnce(u32) -> Vec<Event>) {
        let part = make(self.next);
        self.next += 1;
        self.events.extend(part);
    }

    /// More of the open part, or the beginning of another.
    fn more(&mut self, kind: &'static str, text: &str, make: impl FnOnce(u32) -> Vec<Event>) {
        if self.open != Some(kind) {
            self.close();
            let start = make(self.next).into_iter().next();
            self.events.extend(start);
            self.next += 1;
            self.open = Some(kind);
        }
        if !text.is_empty() {
            let delta = Delta::Text(text.to_owned());
            self.events.push(Event::Delta { choice: 0, index: self.next - 1, delta });
        }
    }

    fn close(&mut self) {
        if self.open.take().is_some() {
            self.events.push(Event::PartEnd { choice: 0, index: self.next - 1 });
        }
    }
}

/// A target's figures; `name`: where the key of a table says it.
pub fn target(value: Value, name: Option<&str>, book: Book<'_>) -> Read<(Own, bool)> {
    let mut fields = Fields::new(value, "a target", TARGET, book)?;
    let own = fields.text("name")?;
    let name = name.map(str::to_owned).or(own).ok_or_else(|| book.bad("targets", "a target needs a name"))?;
    let healthy = !fields.has("healthy") || fields.flag("healthy")?;
    let open = match fields.text("breaker")?.as_deref() {
        None if healthy => None,
        None | Some("open") => Some(REST),
        Some("half_open") => Some(Duration::ZERO),
        Some("closed") => None,
        Some(_) => return Err(fields.wrong("breaker", "open, half_open or closed")),
    };
    let fares = Fares {
        latency: fields.count("latency_ms")?.map(Duration::from_millis),
        in_flight: fields.count("in_flight")?.unwrap_or(0),
        open,
        quota_left: fields.count("quota_left")?,
        quota_resets_in: fields.count("quota_resets_in")?.map(Duration::from_secs),
    };
    let own = Own {
        name: name.into(),
        fares,
        price_input: fields.money("price_input")?,
        price_output: fields.money("price_output")?,
        context_window: fields.count("context_window")?,
    };
    let resting = fields.flag("resting")?;
    Ok((own, resting))
}

/// `live = { "provider/model" = { … } }`.
pub fn live(map: Map<String, Value>, book: Book<'_>) -> Read<Vec<(Own, bool)>> {
    map.into_iter().map(|(name, value)| target(value, Some(&name), book)).collect::<Result<_, Bad>>()
}

/// Of a breaker that is open when a case begins.
const REST: Duration = Duration::from_secs(60);
