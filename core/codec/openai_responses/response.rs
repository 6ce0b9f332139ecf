//! Whole answers, both ways.

use serde_json::{Map, Value};

use super::{
    error,
    item::Items,
    namespace, search,
    wire::{
        CONTENT, F, MORE, answer_specific, beside, call_id, finish, item_fields, item_id, mark, marked, parts, refused,
        response_id, status, take_beside, upstream_shape, usage, usage_value,
    },
    write::{self, Thought},
};
use crate::{
    codec::{
        ClientView, codec,
        envelope::Envelope,
        json::{Fields, as_i64, parse_upstream},
        written,
    },
    error::{Error, Kind, Result},
    model::{Choice, Extra, Finish, Media, MediaKind, MediaSource, Part, Reasoning, Response, Usage},
};

pub fn decode(body: &[u8]) -> Result<Response> {
    let value = parse_upstream(without_defaults(body).as_deref().unwrap_or(body))?;
    failed(&value)?;
    answer(value).map_err(upstream_shape)
}

/// An answer with one note in place of all fields that say what `DEFAULTS` has: of those no tree is built, and who writes the
/// answer writes them again. `None`: it has none, or is no object.
pub fn without_defaults(body: &[u8]) -> Option<Vec<u8>> {
    let envelope = Envelope::fields(body).ok()?;
    let mut out = Vec::with_capacity(body.len());
    let mut said = 0u64;
    for entry in &envelope.fields {
        let (name, value) = (entry.name(body), &body[entry.value.clone()]);
        let default = DEFAULTS.iter().position(|(key, _)| key.as_bytes() == name);
        if let Some(at) = default.filter(|at| DEFAULTS[*at].1.as_bytes() == value) {
            said |= 1 << at;
            continue;
        }
        out.push(if out.is_empty() { b'{' } else { b',' });
        out.extend_from_slice(&body[entry.key.clone()]);
        out.push(b':');
        out.extend_from_slice(value);
    }
    if said == 0 || out.is_empty() {
        return None;
    }
    for piece in [",\"", SAID, "\":"] {
        out.extend_from_slice(piece.as_bytes());
    }
    written::number(said, &mut out);
    out.push(b'}');
    Some(out)
}

/// An answer that says of itself that it is none.
pub fn failed(value: &Value) -> Result<()> {
    let error = value.get("error").is_some_and(|e| !e.is_null());
    match value.get("status").and_then(Value::as_str) {
        Some("failed" | "cancelled") => Err(error::in_answer(value)),
        _ if error => Err(error::in_answer(value)),
        _ => Ok(()),
    }
}

fn answer(value: Value) -> Result<Response> {
    let mut f = Fields::new(value, "")?;
    let list = f.array("output")?.ok_or_else(|| Error::new(Kind::Upstream, "the upstream's answer has no output"))?;
    let (mut items, mut called) = (Items::default(), false);
    for (at, item) in list.into_iter().enumerate() {
        let path = format!("output[{at}]");
        called |= item.get("type").and_then(Value::as_str).is_some_and(super::wire::asks_client);
        items.read(item, &path)?;
    }
    let head = Head::take(&mut f)?;
    let refused = refused(&items.parts);
    let mut parts = std::mem::take(&mut items.parts);
    let mut extra = f.rest_map();
    parts.extend(take_beside(&mut extra));
    let finish = finish(&head.status, head.reason.as_deref(), called, refused);
    let choice = Choice { index: 0, parts, finish, logprobs: items.logprobs(), extra: Extra::default() };
    Ok(Response {
        id: head.id,
        model: head.model,
        created: head.created,
        choices: vec![choice],
        usage: head.usage,
        service_tier: None,
        extra: Extra::new(F, extra),
    })
}

/// The fields of an answer that the model has names for; what is left is kept.
pub struct Head {
    pub id: String,
    pub model: String,
    pub created: Option<i64>,
    pub status: String,
    pub reason: Option<String>,
    pub usage: Option<Usage>,
}

impl Head {
    pub fn take(f: &mut Fields) -> Result<Head> {
        for key in ["object", "error", "output"] {
            f.take(key);
        }
        let reason = match f.take("incomplete_details") {
            Some(Value::Object(details)) => details.get("reason").and_then(Value::as_str).map(str::to_owned),
            _ => None,
        };
        Ok(Head {
            id: f.string("id")?.unwrap_or_default(),
            model: f.string("model")?.unwrap_or_default(),
            created: f.take("created_at").as_ref().and_then(Value::as_number).and_then(as_i64).filter(|n| *n != 0),
            status: f.string("status")?.unwrap_or_default(),
            reason,
            usage: f.take("usage").as_ref().and_then(usage),
        })
    }
}

pub fn encode(response: &Response, view: &ClientView) -> Result<Vec<u8>> {
    let Response { id, model, created, choices, usage, service_tier, extra } = response;
    let id = response_id(id, &view.request_id);
    let parts = parts(response);
    let logprobs = choices.first().and_then(|c| c.logprobs.as_ref());
    let finish = choices.first().and_then(|c| c.finish.as_ref());
    let frame = Frame { id: &id, model, created: *created, service_tier: service_tier.as_deref(), extra, view };
    let items = Value::Array(output(parts, &id, logprobs, view.echo.as_deref()));
    let mut output = Vec::with_capacity(ROOM);
    written::value(&items, &mut output);
    let beside = parts.iter().filter_map(stray).collect();
    Ok(frame.over(output, finish, refused(parts), usage.as_ref(), beside).bytes())
}

/// What stands around an answer's output, whole or in a stream's lifecycle events.
pub struct Frame<'a> {
    pub id: &'a str,
    pub model: &'a str,
    pub created: Option<i64>,
    pub service_tier: Option<&'a str>,
    pub extra: &'a Extra,
    pub view: &'a ClientView,
}

impl Frame<'_> {
    /// While it runs: no output, no usage.
    pub fn running(&self) -> Told<'_> {
        self.write("in_progress", Value::Null, b"[]".to_vec(), Value::Null, None)
    }

    /// `output`: the items' list as it is written.
    pub fn over(
        &self,
        output: Vec<u8>,
        finish: Option<&Finish>,
        refused: bool,
        usage: Option<&Usage>,
        beside: Vec<Value>,
    ) -> Told<'_> {
        let (word, details) = status(finish, refused);
        let usage = usage.map_or(Value::Null, usage_value);
        self.write(word, details, output, usage, answer_specific(finish, beside))
    }

    fn write(
        &self,
        status: &'static str,
        details: Value,
        output: Vec<u8>,
        usage: Value,
        specific: Option<Value>,
    ) -> Told<'_> {
        let Frame { id, model, created, service_tier, extra, view } = *self;
        let began = created.unwrap_or(view.now);
        let over = status != "in_progress";
        let mut fields = Vec::with_capacity(32);
        let mut tell = |key, said| fields.push((key, said));
        tell("id", Said::Word(id));
        tell("object", Said::Word("response"));
        tell("created_at", Said::Made(began.into()));
        tell("status", Said::Word(status));
        tell("error", Said::Made(Value::Null));
        tell("incomplete_details", Said::Made(details));
        tell("model", Said::Word(if model.is_empty() { &view.model } else { model }));
        tell("output", Said::Written(output));
        tell("usage", Said::Made(usage));
        if let Some(tier) = service_tier {
            tell("service_tier", Said::Word(tier));
        }
        if let Some(specific) = specific {
            tell(super::wire::SPECIFIC, Said::Made(specific));
        }
        let mut told = Told { status, fields, said: mark(extra, SAID).and_then(Value::as_u64).unwrap_or(0) };
        for (key, value) in extra.of(F).into_iter().flatten() {
            if !key.starts_with('$') && !told.has(key) {
                told.fields.push((key, Said::Lent(value)));
            }
        }
        // What the request said comes back in every answer, and the SDKs' types require the rest.
        for (key, value) in view.echo.iter().flat_map(|echo| echo.iter()) {
            if !told.has(key) {
                let said = if key == "tools" { Said::Made(told_tools(value)) } else { Said::Lent(value) };
                told.fields.push((key, said));
            }
        }
        if !told.has("completed_at") {
            let at = if over { view.now.max(began).into() } else { Value::Null };
            told.fields.push(("completed_at", Said::Made(at)));
        }
        told
    }
}

/// An answer's fields. What nobody said stands in its bytes as `DEFAULTS` has it.
pub struct Told<'a> {
    pub status: &'static str,
    /// So few that looking through them is cheaper than a table.
    fields: Vec<(&'a str, Said<'a>)>,
    /// Which of `DEFAULTS` the answer itself said.
    said: u64,
}

enum Said<'a> {
    Word(&'a str),
    Made(Value),
    Lent(&'a Value),
    Written(Vec<u8>),
}

impl Told<'_> {
    fn has(&self, key: &str) -> bool {
        let default = || DEFAULTS.iter().position(|(name, _)| *name == key);
        self.said > 0 && default().is_some_and(|at| self.said & 1 << at > 0) || self.tells(key)
    }

    fn tells(&self, key: &str) -> bool {
        self.fields.iter().any(|(name, _)| *name == key)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let written = |(_, said): &(&str, Said<'_>)| if let Said::Written(bytes) = said { bytes.len() } else { 0 };
        let mut out = Vec::with_capacity(ROOM + self.fields.iter().map(written).sum::<usize>());
        for (key, said) in &self.fields {
            out.push(if out.is_empty() { b'{' } else { b',' });
            written::text(key, &mut out);
            out.push(b':');
            match said {
                Said::Word(word) => written::text(word, &mut out),
                Said::Made(value) => written::value(value, &mut out),
                Said::Lent(value) => written::value(value, &mut out),
                Said::Written(bytes) => out.extend_from_slice(bytes),
            }
        }
        for (key, value) in DEFAULTS.iter().filter(|(key, _)| !self.tells(key)) {
            for piece in [",\"", key, "\":", value] {
                out.extend_from_slice(piece.as_bytes());
            }
        }
        out.push(b'}');
        out
    }
}

/// Tools as answers repeat them: every field of a function, told or not.
fn told_tools(tools: &Value) -> Value {
    let Value::Array(tools) = tools else { return tools.clone() };
    let told = tools.iter().cloned().map(|mut tool| {
        if let Some(function) = tool.as_object_mut().filter(|t| t.get("type").is_some_and(|kind| kind == "function")) {
            for key in ["description", "parameters", "strict"] {
                function.entry(key).or_insert(Value::Null);
            }
        }
        tool
    });
    Value::Array(told.collect())
}

/// A note of which `DEFAULTS` an answer said, a bit each: what it said itself is not told by what was asked.
pub const SAID: &str = "$said";

/// What stands around an answer's output.
const ROOM: usize = 1500;

/// What an answer says where nobody said otherwise: clients check that every field is there.
const DEFAULTS: [(&str, &str); 22] = [
    ("background", "false"),
    ("frequency_penalty", "0.0"),
    ("instructions", "null"),
    ("max_output_tokens", "null"),
    ("max_tool_calls", "null"),
    ("metadata", "{}"),
    ("parallel_tool_calls", "true"),
    ("presence_penalty", "0.0"),
    ("previous_response_id", "null"),
    ("prompt_cache_key", "null"),
    ("reasoning", r#"{"effort":null,"summary":null}"#),
    ("safety_identifier", "null"),
    ("service_tier", "\"default\""),
    ("store", "false"),
    ("temperature", "1.0"),
    ("text", r#"{"format":{"type":"text"}}"#),
    ("tool_choice", "\"auto\""),
    ("tools", "[]"),
    ("top_logprobs", "0"),
    ("top_p", "1.0"),
    ("truncation", "\"disabled\""),
    ("user", "null"),
];

/// Parts that have no place in the output.
pub fn stray(part: &Part) -> Option<Value> {
    match part {
        Part::Native { .. } => beside(part),
        Part::Media(media) if !placed(media) => beside(part),
        _ => None,
    }
}

/// Pictures and sound whose bytes are at hand stand in the output.
pub fn placed(media: &Media) -> bool {
    matches!(media.kind, MediaKind::Image | MediaKind::Audio) && matches!(media.source, MediaSource::Base64(_))
}

/// An answer's items.
pub fn output(parts: &[Part], answer: &str, logprobs: Option<&Value>, echo: Option<&Map<String, Value>>) -> Vec<Value> {
    let mut w = Writer { answer, echo, out: Vec::new(), message: None, thought: None, logprobs: log_list(logprobs) };
    for part in parts {
        w.part(part);
    }
    w.close();
    w.out
}

pub fn log_list(logprobs: Option<&Value>) -> Option<Vec<Value>> {
    logprobs?.get("content")?.as_array().filter(|list| !list.is_empty()).cloned()
}

struct Writer<'a> {
    answer: &'a str,
    echo: Option<&'a Map<String, Value>>,
    out: Vec<Value>,
    /// The open message: its parts and its own fields.
    message: Option<(Vec<Value>, Map<String, Value>)>,
    thought: Option<Thought>,
    /// For the first text.
    logprobs: Option<Vec<Value>>,
}

impl Writer<'_> {
    fn part(&mut self, part: &Part) {
        match part {
            Part::Text(text) => {
                let item = item_fields(&text.extra).filter(|_| !marked(&text.extra, MORE));
                let logprobs = self.logprobs.take().unwrap_or_default();
                self.said(write::output_text(text, Some(logprobs)), item);
            }
            Part::Refusal(text) => self.said(write::refusal(text), None),
            Part::Media(media) if media.kind == MediaKind::Audio && placed(media) => {
                if let MediaSource::Base64(data) = &media.source {
                    self.said(write::output_audio(media, data), None);
                }
            }
            Part::Reasoning(reasoning) => self.thought(reasoning),
            Part::Media(media) => {
                let id = self.id("image_generation_call");
                if let Some(item) =
                    write::image(media, write::own_id(&media.extra, item_fields(&media.extra)).unwrap_or(&id))
                {
                    self.push(item);
                }
            }
            Part::ToolCall(call) => {
                let mut call = call.clone();
                namespace::tell(&call.name, &mut call.extra, self.echo);
                let custom = call.kind == crate::model::ToolKind::Custom;
                let id = self.id(if custom { "custom_tool_call" } else { "function_call" });
                let id = write::own_id(&call.extra, None).unwrap_or(&id).to_owned();
                let at = self.out.len();
                let call_id = call_id(&call.id, call.signature.as_ref(), self.answer, at, &call.name);
                let arguments = write::arguments(call.kind, &call.arguments);
                self.push(write::call(&call, Some(&id), &call_id, Some("completed"), arguments));
            }
            Part::Native { format: F, kind: _, value } => self.push(value.clone()),
            // What was searched for elsewhere is an item here too; else it is told beside the answer.
            Part::Native { format, kind, value } => {
                if let Some(query) = codec(*format).searched(kind, value) {
                    self.close();
                    self.push(search::item(query, self.answer, self.out.len()));
                }
            }
            Part::ToolResult(_) => {}
        }
    }

    fn id(&mut self, kind: &str) -> String {
        self.close();
        item_id(kind, self.answer, self.out.len())
    }

    fn push(&mut self, item: Value) {
        self.close();
        self.out.push(item);
    }

    /// A part of the message that is open, or of a new one.
    fn said(&mut self, part: Value, item: Option<&Map<String, Value>>) {
        self.end_thought();
        if item.is_some() {
            self.close();
        }
        let (content, _) = self.message.get_or_insert_with(|| (Vec::new(), item.cloned().unwrap_or_default()));
        content.push(part);
    }

    fn thought(&mut self, reasoning: &Reasoning) {
        self.end_message();
        let Reasoning { text, signature, sealed, extra } = reasoning;
        let begins = item_fields(extra).is_some() && !marked(extra, MORE);
        if begins || self.thought.as_ref().is_some_and(|t| t.sealed.is_some()) {
            self.end_thought();
        }
        let thought = self.thought.get_or_insert_with(|| Thought {
            fields: item_fields(extra).cloned().unwrap_or_default(),
            ..Thought::default()
        });
        if !text.is_empty() || signature.is_some() {
            // A signature without text stands on an empty text, and so differs from sealed reasoning.
            if marked(extra, CONTENT) { &mut thought.content } else { &mut thought.summary }.push(text.clone());
        }
        thought.sealed = signature.clone().or_else(|| sealed.clone());
    }

    fn close(&mut self) {
        self.end_thought();
        self.end_message();
    }

    fn end_message(&mut self) {
        let Some((content, mut fields)) = self.message.take() else { return };
        let made = item_id("message", self.answer, self.out.len());
        let id = match fields.shift_remove("id") {
            Some(Value::String(id)) => id,
            _ => made,
        };
        self.out.push(write::message(Some(&id), "completed", content, Some(&fields)));
    }

    fn end_thought(&mut self) {
        let Some(mut thought) = self.thought.take() else { return };
        let made = item_id("reasoning", self.answer, self.out.len());
        let id = match thought.fields.shift_remove("id") {
            Some(Value::String(id)) => id,
            _ => made,
        };
        self.out.push(thought.value(Some(&id), None));
    }
}
