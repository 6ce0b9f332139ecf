//! Whole answers, both ways.

use serde_json::{Map, Value};

use super::{
    error,
    frame::{self, Frame, ROOM},
    item::Items,
    namespace, search,
    wire::{
        CONTENT, F, MORE, beside, call_id, finish, item_fields, item_id, marked, parts, refused, response_id, searched,
        take_beside, upstream_shape, usage,
    },
    write::{self, Object, Thought},
};
use crate::{
    codec::{
        ClientView, codec,
        json::{Fields, Item, tape_upstream, wrong_type},
        signature, written,
    },
    error::{Error, Kind, Result},
    model::{Choice, Extra, Media, MediaKind, MediaSource, Part, Reasoning, Response, Usage},
};

pub fn decode(body: &[u8]) -> Result<Response> {
    let mut body = tape_upstream(body)?;
    answer(body.item()).map_err(upstream_shape)
}

/// An answer that says of itself that it is none is an error.
pub fn sound(f: Fields<'_>) -> Result<Fields<'_>> {
    if f.peek("error").is_some() || matches!(f.peek_str("status"), Some("failed" | "cancelled")) {
        return Err(error::in_answer(&Value::Object(f.rest_map())));
    }
    Ok(f)
}

fn answer(body: Item) -> Result<Response> {
    let mut f = sound(Fields::new(body, "")?)?;
    let list = match f.item("output").map(Item::items) {
        Some(Ok(list)) => list,
        Some(Err(other)) => return Err(wrong_type("output", "an array", &other.tree())),
        None => return Err(Error::new(Kind::Upstream, "the upstream's answer has no output")),
    };
    let mut items = Items::default();
    for (at, item) in list.into_iter().enumerate() {
        items.read_item(item, || format!("output[{at}]"))?;
    }
    let called = items.called;
    let mut head = Head::take(&mut f)?;
    searched(&mut head.usage, items.searches);
    let refused = refused(&items.parts);
    let mut parts = std::mem::take(&mut items.parts);
    let mut extra = frame::rest(f);
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
            f.skip(key);
        }
        let details = f.item("incomplete_details");
        let reason = details.and_then(|details| details.word("reason").map(|reason| reason.into_owned()));
        Ok(Head {
            id: f.string("id")?.unwrap_or_default(),
            model: f.string("model")?.unwrap_or_default(),
            created: f.item("created_at").and_then(|item| item.signed()).filter(|n| *n != 0),
            status: f.string("status")?.unwrap_or_default(),
            reason,
            usage: f.item("usage").and_then(usage),
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
    let output = output(parts, &id, logprobs, view.echo.as_deref());
    let beside = parts.iter().filter_map(stray).collect();
    Ok(frame.over(output, finish, refused(parts), usage.as_ref(), beside).bytes())
}

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

/// The list of an answer's items, as it is written.
fn output(parts: &[Part], answer: &str, logprobs: Option<&Value>, echo: Option<&Map<String, Value>>) -> Vec<u8> {
    let (out, logprobs) = (Vec::with_capacity(ROOM), log_list(logprobs));
    let mut w = Writer { answer, echo, out, items: 0, message: None, thought: None, logprobs };
    w.out.push(b'[');
    for part in parts {
        w.part(part);
    }
    w.close();
    w.out.push(b']');
    w.out
}

pub fn log_list(logprobs: Option<&Value>) -> Option<Vec<Value>> {
    logprobs?.get("content")?.as_array().filter(|list| !list.is_empty()).cloned()
}

struct Writer<'a> {
    answer: &'a str,
    echo: Option<&'a Map<String, Value>>,
    out: Vec<u8>,
    items: usize,
    /// The open message: its parts as they are written, and its own fields.
    message: Option<(Vec<u8>, Map<String, Value>)>,
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
                let part = self.said(item);
                let mut part = Object::open(part);
                write::output_text(text, Some(&logprobs), &mut part);
                part.close();
            }
            Part::Refusal(text) => written::value(&write::refusal(text), self.said(None)),
            Part::Media(media) if media.kind == MediaKind::Audio && placed(media) => {
                if let MediaSource::Base64(data) = &media.source {
                    written::value(&write::output_audio(media, data), self.said(None));
                }
            }
            Part::Reasoning(reasoning) => self.thought(reasoning),
            Part::Media(media) => {
                let id = self.id("image_generation_call");
                if let Some(item) =
                    write::image(media, write::own_id(&media.extra, item_fields(&media.extra)).unwrap_or(&id))
                {
                    self.push(&item);
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
                let call_id = call_id(&call.id, call.signature.as_ref(), self.answer, self.items, &call.name);
                let arguments = write::arguments(call.kind, &call.arguments);
                let mut item = Object::open(self.item());
                write::call(&call, Some(&id), &call_id, Some("completed"), arguments, &mut item);
                item.close();
            }
            Part::Native { format: F, kind: _, value } => self.push(value),
            // What was searched for elsewhere is an item here too; else it is told beside the answer.
            Part::Native { format, kind, value } => {
                if let Some(query) = codec(*format).searched(kind, value) {
                    self.close();
                    let item = search::item(query, self.answer, self.items);
                    self.push(&item);
                }
            }
            Part::ToolResult(_) => {}
        }
    }

    fn id(&mut self, kind: &str) -> String {
        self.close();
        item_id(kind, self.answer, self.items)
    }

    fn push(&mut self, item: &Value) {
        self.close();
        written::value(item, self.item());
    }

    /// Where the next item goes.
    fn item(&mut self) -> &mut Vec<u8> {
        if self.items > 0 {
            self.out.push(b',');
        }
        self.items += 1;
        &mut self.out
    }

    /// Where the next part goes of the message that is open, or of a new one.
    fn said(&mut self, item: Option<&Map<String, Value>>) -> &mut Vec<u8> {
        self.end_thought();
        if item.is_some() {
            self.close();
        }
        let (content, _) = self.message.get_or_insert_with(|| (Vec::new(), item.cloned().unwrap_or_default()));
        if !content.is_empty() {
            content.push(b',');
        }
        content
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
        let id = match fields.shift_remove("id") {
            Some(Value::String(id)) => id,
            _ => item_id("message", self.answer, self.items),
        };
        let mut item = Object::open(self.item());
        write::message_head(Some(&id), "completed", &mut item);
        let list = item.key("content");
        [&b"["[..], &content, b"]"].iter().for_each(|piece| list.extend_from_slice(piece));
        write::message_tail(Some(&fields), &mut item);
        item.close();
    }

    fn end_thought(&mut self) {
        let Some(mut thought) = self.thought.take() else { return };
        let id = match thought.fields.shift_remove("id") {
            Some(Value::String(id)) => id,
            _ => item_id("reasoning", self.answer, self.items),
        };
        written::value(&thought.value(Some(&id), None), self.item());
    }
}
