//! Whole answers, both ways.

use serde_json::{Map, Value};

use super::{
    error,
    item::Items,
    namespace, search,
    wire::{
        CONTENT, F, MORE, answer_specific, beside, call_id, finish, is_search, item_fields, item_id, marked, parts,
        plain, refused, response_id, searched, status, take_beside, upstream_shape, usage, usage_value,
    },
    write::{self, Thought},
};
use crate::{
    codec::{
        ClientView, codec,
        json::{Fields, as_i64, parse_upstream},
        signature, written,
    },
    error::{Error, Kind, Result},
    model::{Choice, Extra, Finish, Media, MediaKind, MediaSource, Part, Reasoning, Response, Usage},
};

pub fn decode(body: &[u8]) -> Result<Response> {
    let value = parse_upstream(body)?;
    failed(&value)?;
    answer(value).map_err(upstream_shape)
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
    let searches = list.iter().filter(|item| is_search(item)).count();
    for (at, item) in list.into_iter().enumerate() {
        let path = format!("output[{at}]");
        called |= item.get("type").and_then(Value::as_str).is_some_and(super::wire::is_call);
        items.read(item, &path)?;
    }
    let mut head = Head::take(&mut f)?;
    searched(&mut head.usage, searches);
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
    Ok(answer_value(response, view).bytes())
}

fn answer_value(response: &Response, view: &ClientView) -> Told {
    let Response { id, model, created, choices, usage, service_tier, extra } = response;
    let id = response_id(id, &view.request_id);
    let parts = parts(response);
    let logprobs = choices.first().and_then(|c| c.logprobs.as_ref());
    let finish = choices.first().and_then(|c| c.finish.as_ref());
    let frame = Frame { id: &id, model, created: *created, service_tier: service_tier.as_deref(), extra, view };
    let items = Value::Array(output(parts, &id, logprobs, view.echo.as_deref()));
    let mut output = Vec::with_capacity(ROOM);
    written::value(&items, &mut output);
    frame.over(output, finish, refused(parts), usage.as_ref(), parts.iter().filter_map(stray).collect())
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
    pub fn running(&self) -> Told {
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
    ) -> Told {
        let (word, details) = status(finish, refused);
        let usage = usage.map_or(Value::Null, usage_value);
        self.write(word, details, output, usage, answer_specific(finish, beside))
    }

    fn write(&self, status: &str, details: Value, output: Vec<u8>, usage: Value, specific: Option<Value>) -> Told {
        let Frame { id, model, created, service_tier, extra, view } = self;
        let mut out = Map::with_capacity(32);
        out.insert("id".into(), (*id).into());
        out.insert("object".into(), "response".into());
        let began = created.unwrap_or(view.now);
        out.insert("created_at".into(), began.into());
        out.insert("status".into(), status.into());
        out.insert("error".into(), Value::Null);
        out.insert("incomplete_details".into(), details);
        out.insert("model".into(), if model.is_empty() { &*view.model } else { *model }.into());
        // Its place; it is long, and written already.
        out.insert(OUTPUT.into(), Value::Null);
        out.insert("usage".into(), usage);
        if let Some(tier) = service_tier {
            out.insert("service_tier".into(), (*tier).into());
        }
        if let Some(specific) = specific {
            out.insert(super::wire::SPECIFIC.into(), specific);
        }
        plain(extra, &mut out);
        // What the request said comes back in every answer, and the SDKs' types require the rest.
        for (key, value) in view.echo.iter().flat_map(|echo| echo.iter()) {
            if !out.contains_key(key) {
                out.insert(key.clone(), if key == "tools" { told_tools(value) } else { value.clone() });
            }
        }
        let over = status != "in_progress";
        out.entry("completed_at").or_insert_with(|| if over { view.now.max(began).into() } else { Value::Null });
        Told { fields: out, output }
    }
}

/// An answer's fields. What nobody said stands in its bytes as `DEFAULTS` has it.
pub struct Told {
    fields: Map<String, Value>,
    output: Vec<u8>,
}

const OUTPUT: &str = "output";

impl Told {
    pub fn status(&self) -> Option<&str> {
        self.fields.get("status").and_then(Value::as_str)
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.output.len() + ROOM);
        for (key, value) in &self.fields {
            out.push(if out.is_empty() { b'{' } else { b',' });
            written::text(key, &mut out);
            out.push(b':');
            match key == OUTPUT {
                true => out.extend_from_slice(&self.output),
                false => written::value(value, &mut out),
            }
        }
        for (key, value) in DEFAULTS.iter().filter(|(key, _)| !self.fields.contains_key(*key)) {
            out.extend_from_slice(b",\"");
            out.extend_from_slice(key.as_bytes());
            out.extend_from_slice(b"\":");
            out.extend_from_slice(value.as_bytes());
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
                if let Some(sealed) = signature::beside_call(&call.id, call.signature.as_ref()) {
                    self.close();
                    self.thought(&Reasoning { sealed: Some(sealed.clone()), ..Reasoning::default() });
                }
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
