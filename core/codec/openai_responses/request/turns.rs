//! The conversation as items. Content is never dropped silently: what a place cannot hold is refused with the feature's
//! name, and reasoning that only another vendor can read is left out and noted.

use serde_json::{Map, Value, json};

use super::{
    super::{
        search,
        wire::{CONTENT, F, INSTRUCTIONS, MORE, is_ours, item_fields, marked, plain, says_more},
        write::{self, Thought},
    },
    media,
};
use crate::{
    codec::{Dialect, openai_chat::wire::marks_cache, signature},
    error::{Error, Result},
    model::{
        CacheHint, Extra, Media, MediaKind, MediaSource, Message, Part, Reasoning, Role, Text, ToolCall, ToolKind,
        ToolResult,
    },
};

/// The conversation for an upstream.
#[derive(Default)]
pub struct Turns {
    pub instructions: Option<String>,
    pub prompt: Option<Value>,
    pub items: Vec<Value>,
}

pub fn encode(messages: &[Message], dialect: &Dialect, notes: &mut Vec<&'static str>) -> Result<Turns> {
    let mut w = Writer { dialect, turns: Turns::default(), notes, at: 0, calls: Vec::new() };
    for (at, message) in messages.iter().enumerate() {
        w.at = at;
        w.message(message)?;
    }
    Ok(w.turns)
}

struct Writer<'a> {
    dialect: &'a Dialect,
    turns: Turns,
    notes: &'a mut Vec<&'static str>,
    at: usize,
    /// Calls without an id, as (name, id that was made), for results that have none either.
    calls: Vec<(String, String)>,
}

impl Writer<'_> {
    fn note(&mut self, name: &'static str) {
        if !self.notes.contains(&name) {
            self.notes.push(name);
        }
    }

    fn push(&mut self, item: Value) {
        self.turns.items.push(item);
    }

    fn message(&mut self, message: &Message) -> Result<()> {
        if message.name.is_some() {
            self.note("name");
        }
        match message.role {
            Role::System if marked(&message.extra, INSTRUCTIONS) && self.turns.items.is_empty() => {
                self.turns.instructions = Some(message.joined_text());
                Ok(())
            }
            Role::System => self.said_to("system", message),
            Role::Developer => self.said_to(if self.dialect.developer_role { "developer" } else { "system" }, message),
            Role::User | Role::Tool => self.said_to("user", message),
            Role::Assistant => self.assistant(message),
        }
    }

    /// A message to the model, with the results in it before the rest.
    fn said_to(&mut self, role: &str, message: &Message) -> Result<()> {
        let mut content = Vec::new();
        for part in &message.parts {
            if let Part::ToolResult(result) = part {
                self.result(result)?;
            }
        }
        for part in &message.parts {
            match part {
                Part::ToolResult(_) => {}
                Part::Native { format: F, kind, value } if kind == "prompt" => self.turns.prompt = Some(value.clone()),
                // An item of its own.
                Part::Native { format: F, kind: _, value } if value.get("role").is_none() && whole_item(value) => {
                    self.push(value.clone());
                }
                part => content.extend(self.input(part)?),
            }
        }
        if content.is_empty() {
            return Ok(());
        }
        let mut out = Map::new();
        out.insert("role".into(), role.into());
        out.insert("content".into(), flat(content));
        plain(&message.extra, &mut out);
        self.push(Value::Object(out));
        Ok(())
    }

    /// A part of what the model reads; documents of parts become several.
    fn input(&mut self, part: &Part) -> Result<Vec<Value>> {
        Ok(match part {
            Part::Text(text) => vec![self.text(text)],
            Part::Refusal(text) => vec![json!({"type": "input_text", "text": text})],
            Part::Media(media) => self.media(media)?,
            Part::Native { format: F, kind: _, value } => vec![value.clone()],
            Part::Native { format: _, kind, value: _ } => return Err(foreign(kind)),
            Part::Reasoning(_) => {
                self.note("reasoning");
                Vec::new()
            }
            Part::ToolCall(_) => {
                let text = "a tool call stands in a user message; only assistants call tools";
                return Err(Error::invalid(format!("messages[{}]", self.at), text));
            }
            Part::ToolResult(_) => Vec::new(),
        })
    }

    fn text(&mut self, text: &Text) -> Value {
        let mut out = Map::new();
        out.insert("type".into(), "input_text".into());
        out.insert("text".into(), text.text.as_str().into());
        self.cache(text.cache.as_ref(), &text.extra, &mut out);
        plain(&text.extra, &mut out);
        Value::Object(out)
    }

    /// A hint from another format in this one's words; the caller's own go with the unknown fields.
    fn cache(&mut self, hint: Option<&CacheHint>, extra: &Extra, out: &mut Map<String, Value>) {
        let own = ["prompt_cache_breakpoint", "cache_control"];
        let Some(hint) = hint.filter(|_| own.iter().all(|key| !marked(extra, key))) else { return };
        if !marks_cache(extra, self.dialect) {
            return self.note("cache_control");
        }
        let mut point = Map::new();
        point.insert("mode".into(), "explicit".into());
        // The nearest one that is not shorter.
        let ttl = match hint.ttl.as_deref() {
            Some("5m" | "30m") => Some("30m"),
            Some("1h" | "12h") => Some("12h"),
            _ => None,
        };
        if let Some(ttl) = ttl {
            point.insert("ttl".into(), ttl.into());
        }
        out.insert("prompt_cache_breakpoint".into(), Value::Object(point));
    }

    fn media(&mut self, media: &Media) -> Result<Vec<Value>> {
        let mut out = Vec::new();
        if let Some(context) = &media.context {
            out.push(json!({"type": "input_text", "text": context}));
        }
        if media.cite == Some(true) {
            self.note("citations");
        }
        if let MediaSource::Parts(parts) = &media.source {
            for part in parts {
                out.extend(self.input(part)?);
            }
            return Ok(out);
        }
        let mut value = media::part(media, self.dialect).map_err(|e| match e.param {
            Some(_) => e,
            None => e.at(format!("messages[{}]", self.at)),
        })?;
        self.cache(media.cache.as_ref(), &media.extra, &mut value);
        out.push(Value::Object(value));
        Ok(out)
    }

    fn result(&mut self, result: &ToolResult) -> Result<()> {
        let ToolResult { call_id, name, kind, parts, object, is_error, cache: _, extra } = result;
        let mut content = Vec::new();
        for part in parts {
            content.extend(self.input(part)?);
        }
        if content.is_empty()
            && let Some(object) = object
        {
            content.push(json!({"type": "input_text", "text": Value::Object(object.clone()).to_string()}));
        }
        if *is_error == Some(true) {
            self.note("tool_result.is_error");
        }
        let id = if call_id.is_empty() { self.made_for(name.as_deref()) } else { call_id.clone() };
        let word = match kind {
            ToolKind::Function => "function_call_output",
            ToolKind::Custom => "custom_tool_call_output",
        };
        let mut out = Map::new();
        out.insert("type".into(), word.into());
        out.insert("call_id".into(), self.call_id(&id).into());
        out.insert("output".into(), flat(content));
        plain(extra, &mut out);
        self.push(Value::Object(out));
        Ok(())
    }

    fn made_for(&mut self, name: Option<&str>) -> String {
        let at = self.calls.iter().position(|(n, _)| name.is_none_or(|name| n == name));
        at.map_or_else(String::new, |at| self.calls.remove(at).1)
    }

    /// An id as this format takes it: at most 64 characters; the same one gives the same one.
    fn call_id(&self, id: &str) -> String {
        let id = signature::split_id(id).0;
        if id.len() > MAX_ID || id.is_empty() { crate::codec::openai_chat::wire::made_id(&[id]) } else { id.to_owned() }
    }

    fn assistant(&mut self, message: &Message) -> Result<()> {
        let (mut open, mut thought) = (Open::default(), None::<Thought>);
        for part in &message.parts {
            if let Part::Reasoning(reasoning) = part {
                open.close(&mut self.turns.items);
                self.thought(reasoning, &mut thought);
                continue;
            }
            self.end_thought(&mut thought);
            match part {
                Part::Text(text) => {
                    if !marked(&text.extra, MORE) && item_fields(&text.extra).is_some() {
                        open.close(&mut self.turns.items);
                    }
                    open.fields = open.fields.take().or_else(|| item_fields(&text.extra).cloned());
                    if text.citations.iter().any(says_more) {
                        self.note("citations");
                    }
                    let mut part = Map::new();
                    write::output_text(text, None, &mut part);
                    open.content.push(Value::Object(part));
                }
                Part::Refusal(text) => open.content.push(write::refusal(text)),
                Part::Media(media) => {
                    open.close(&mut self.turns.items);
                    self.assistant_media(media)?;
                }
                Part::ToolCall(call) => {
                    open.close(&mut self.turns.items);
                    let call = self.call(call);
                    self.push(call);
                }
                // A search that another family's model made is no item that this upstream knows.
                Part::Native { format: F, kind: _, value } if search::is_made(value) => self.note("past_searches"),
                Part::Native { format: F, kind: _, value } => {
                    open.close(&mut self.turns.items);
                    self.push(value.clone());
                }
                Part::Native { format: _, kind, value: _ } => return Err(foreign(kind)),
                Part::ToolResult(result) => {
                    open.close(&mut self.turns.items);
                    self.result(result)?;
                }
                Part::Reasoning(_) => {}
            }
        }
        self.end_thought(&mut thought);
        open.close(&mut self.turns.items);
        Ok(())
    }

    /// Reasoning goes back to who made it: with its seal, or in the clear where the provider takes that.
    fn thought(&mut self, reasoning: &Reasoning, thought: &mut Option<Thought>) {
        let Reasoning { text, signature, sealed, extra } = reasoning;
        let begins = !marked(extra, MORE) && item_fields(extra).is_some();
        if begins || thought.as_ref().is_some_and(|t| t.sealed.is_some()) {
            self.end_thought(thought);
        }
        let mine = thought.get_or_insert_with(|| Thought {
            fields: item_fields(extra).cloned().unwrap_or_default(),
            ..Thought::default()
        });
        if !text.is_empty() || signature.is_some() {
            if marked(extra, CONTENT) { &mut mine.content } else { &mut mine.summary }.push(text.clone());
        }
        mine.sealed = signature.clone().or_else(|| sealed.clone());
    }

    fn end_thought(&mut self, thought: &mut Option<Thought>) {
        let Some(mut thought) = thought.take() else { return };
        let own_id = thought.fields.get("id").and_then(Value::as_str).filter(|id| !is_ours(id)).map(str::to_owned);
        let sealed_here = thought.sealed.as_ref().is_some_and(|s| s.origin == F);
        let open = thought.sealed.is_none() && self.dialect.reasoning_field.is_some();
        // What stood at the upstream by its id alone is its own business.
        let kept_there = thought.sealed.is_none() && own_id.is_some();
        if !(sealed_here || open || kept_there) {
            return self.note("reasoning");
        }
        thought.fields.shift_remove("id");
        if open && own_id.is_none() && thought.content.is_empty() {
            // Other servers' own thoughts stand in the clear.
            thought.content = std::mem::take(&mut thought.summary);
        }
        self.push(thought.value(own_id.as_deref(), None));
    }

    fn assistant_media(&mut self, media: &Media) -> Result<()> {
        if media.kind == MediaKind::Image
            && let Some(id) = write::own_id(&media.extra, item_fields(&media.extra))
            && let Some(item) = write::image(media, id)
        {
            self.push(item);
            return Ok(());
        }
        // A picture of another vendor: the model sees it as something that was shown to it.
        let content = self.media(media)?;
        self.push(json!({"role": "user", "content": content}));
        Ok(())
    }

    fn call(&mut self, call: &ToolCall) -> Value {
        let id = if call.id.is_empty() {
            let at = self.turns.items.len().to_string();
            let id = crate::codec::openai_chat::wire::made_id(&[&at, &call.name, &call.arguments]);
            self.calls.push((call.name.clone(), id.clone()));
            id
        } else {
            self.call_id(&call.id)
        };
        let own = write::own_id(&call.extra, None).filter(|id| !is_ours(id)).map(str::to_owned);
        let mut item = Map::new();
        write::call(call, own.as_deref(), &id, None, write::arguments(call.kind, &call.arguments), &mut item);
        if own.is_none() {
            item.shift_remove("id");
        }
        Value::Object(item)
    }
}

/// The message that texts in a row make.
#[derive(Default)]
struct Open {
    content: Vec<Value>,
    fields: Option<Map<String, Value>>,
}

impl Open {
    fn close(&mut self, items: &mut Vec<Value>) {
        let Open { content, fields } = std::mem::take(self);
        if content.is_empty() {
            return;
        }
        let mut fields = fields.unwrap_or_default();
        let id = match fields.shift_remove("id") {
            Some(Value::String(id)) if !is_ours(&id) => Some(id),
            _ => None,
        };
        let bare = |v: &Value| {
            v.get("type").is_some_and(|t| t == "output_text") && v.as_object().is_some_and(|m| m.len() == 3)
        };
        let plain = id.is_none() && content.len() == 1 && content[0]["annotations"] == json!([]) && bare(&content[0]);
        if plain && fields.is_empty() {
            // Every server knows this form.
            items.push(json!({"role": "assistant", "content": content[0]["text"]}));
        } else {
            let mut item = Map::new();
            write::message_head(id.as_deref(), "completed", &mut item);
            item.insert("content".to_owned(), Value::Array(content));
            write::message_tail(Some(&fields), &mut item);
            items.push(Value::Object(item));
        }
    }
}

/// Items have an id, a call or a status; parts of a message have none.
fn whole_item(value: &Value) -> bool {
    ["id", "call_id", "status", "approval_request_id", "tools"].iter().any(|key| value.get(key).is_some())
}

fn foreign(kind: &str) -> Error {
    Error::unsupported(
        kind,
        format!("this target does not know `{kind}`; leave it out or choose a model of the provider that made it"),
    )
}

/// One plain text is a string.
fn flat(mut content: Vec<Value>) -> Value {
    let text =
        |v: &Value| v.as_object().is_some_and(|m| m.len() == 2 && m.get("type").is_some_and(|t| t == "input_text"));
    match content.as_mut_slice() {
        [] => "".into(),
        [only] if text(only) => only["text"].take(),
        _ => Value::Array(content),
    }
}

/// The vendor takes no longer id of a call.
const MAX_ID: usize = 64;
