//! Items off the wire that the model made: messages, reasoning, calls, and those of hosted tools. The same in an answer's
//! `output` and in the history that a client sends back.

use serde_json::{Map, Value};

use super::{
    content::{self, LOGPROBS},
    plain::{self, Plain},
    wire::{CONTENT, F, ITEM, around, is_call, is_search, part_extra},
};
use crate::{
    codec::{
        json::{self, Fields, missing, wrong_type},
        signature,
    },
    error::Result,
    model::{Extra, Media, MediaKind, MediaSource, Part, Reasoning, Signature, Text, ToolCall, ToolKind},
};

/// Items and the parts they become, with the log probabilities that stood in them.
#[derive(Default)]
pub struct Items {
    pub parts: Vec<Part>,
    pub logprobs: Vec<Value>,
    /// There are calls that the client answers.
    pub called: bool,
    /// Searches of the web that are charged.
    pub searches: usize,
}

impl Items {
    /// The same: of an item that says no more than most do no tree is built.
    pub fn read_item(&mut self, item: json::Item, path: impl Fn() -> String) -> Result<()> {
        let plain = match &item {
            json::Item::Read(node) => plain::read(*node),
            json::Item::Tree(_) => None,
        };
        match plain {
            Some(Plain::Message { id, texts }) => {
                let mut item: Map<String, Value> = id.map(|id| ("id".to_owned(), id.into())).into_iter().collect();
                for (at, text) in texts.into_iter().enumerate() {
                    let extra = part_extra(std::mem::take(&mut item), at, Map::new());
                    self.parts.push(Part::Text(Text { text, extra, ..Text::default() }));
                }
            }
            Some(Plain::Call { id, call_id, name, arguments }) => {
                self.called = true;
                let fields = id.map(|id| ("id".to_owned(), id.into())).into_iter().collect();
                self.parts.push(Part::ToolCall(tool_call(&call_id, name, ToolKind::Function, arguments, fields)));
            }
            None => {
                self.read(item.tree(), &path())?;
            }
        }
        Ok(())
    }

    /// Appends what `item` holds.
    pub fn read(&mut self, item: Value, path: &str) -> Result<()> {
        let kind = kind(&item, path)?;
        self.called |= is_call(&kind);
        self.searches += usize::from(is_search(&item));
        match kind.as_str() {
            "message" => self.message(item, path)?,
            "reasoning" => self.parts.extend(reasoning(item, path)?),
            "function_call" | "custom_tool_call" => self.parts.push(call(item, path, &kind)?),
            "image_generation_call" if item.get("result").is_some_and(Value::is_string) => {
                self.parts.push(image(item, path)?);
            }
            _ => self.parts.push(Part::Native { format: F, kind, value: item }),
        }
        Ok(())
    }

    fn message(&mut self, item: Value, path: &str) -> Result<()> {
        let mut f = Fields::new(item, path)?;
        let content = f.take("content");
        let parts = content::decode(content.ok_or_else(|| missing(&f.path("content")))?, &f.path("content"))?;
        let mut item = around(f.rest_map());
        for (at, part) in parts.into_iter().enumerate() {
            self.content_part(part, std::mem::take(&mut item), at);
        }
        Ok(())
    }

    /// One part of a message, with the marks that hold the message together.
    fn content_part(&mut self, part: Part, item: Map<String, Value>, at: usize) {
        self.parts.push(match part {
            Part::Text(mut text) => {
                let mut own = text.extra.of(F).cloned().unwrap_or_default();
                if let Some(Value::Array(list)) = own.shift_remove(LOGPROBS) {
                    self.logprobs.extend(list);
                }
                text.extra = part_extra(item, at, own);
                Part::Text(text)
            }
            Part::Media(mut media) => {
                let own = media.extra.of(F).cloned().unwrap_or_default();
                media.extra = part_extra(Map::new(), at, own);
                Part::Media(media)
            }
            other => other,
        });
    }

    /// In the canonical shape, if there were any.
    pub fn logprobs(self) -> Option<Value> {
        (!self.logprobs.is_empty()).then(|| serde_json::json!({ "content": self.logprobs }))
    }
}

/// An item without a type is a message.
pub fn kind(item: &Value, path: &str) -> Result<String> {
    match item.get("type") {
        Some(Value::String(kind)) => Ok(kind.clone()),
        None | Some(Value::Null) if item.get("role").is_some() => Ok("message".to_owned()),
        None | Some(Value::Null) if item.is_object() => Err(missing(&format!("{path}.type"))),
        Some(other) => Err(wrong_type(&format!("{path}.type"), "a string", other)),
        None => Err(wrong_type(path, "an object", item)),
    }
}

/// A part for each piece of readable text; what is sealed goes with the last one, or stands alone.
fn reasoning(item: Value, path: &str) -> Result<Vec<Part>> {
    let mut f = Fields::new(item, path)?;
    let (summary, content) = (f.array("summary")?, f.array("content")?);
    let sealed = f.string("encrypted_content")?.filter(|s| !s.is_empty()).map(|s| signature::read(&s, F));
    let fields = around(f.rest_map());
    let mut parts = Vec::new();
    for (list, raw) in [(summary, false), (content, true)] {
        for entry in list.unwrap_or_default() {
            let text = entry.get("text").and_then(Value::as_str).unwrap_or_default().to_owned();
            parts.push(Reasoning { text, extra: reasoning_extra(&fields, parts.len(), raw), ..Reasoning::default() });
        }
    }
    seal(&mut parts, &fields, sealed);
    Ok(parts.into_iter().map(Part::Reasoning).collect())
}

fn seal(parts: &mut Vec<Reasoning>, fields: &Map<String, Value>, sealed: Option<Signature>) {
    match parts.last_mut() {
        Some(last) => last.signature = sealed,
        None => parts.push(Reasoning { sealed, extra: reasoning_extra(fields, 0, false), ..Reasoning::default() }),
    }
}

pub fn reasoning_extra(fields: &Map<String, Value>, at: usize, raw: bool) -> Extra {
    let mut own = Map::new();
    if raw {
        own.insert(CONTENT.to_owned(), true.into());
    }
    part_extra(fields.clone(), at, own)
}

fn call(item: Value, path: &str, kind: &str) -> Result<Part> {
    let mut f = Fields::new(item, path)?;
    let (kind, input) = call_kind(kind);
    let id = f.required_string("call_id")?;
    let name = f.required_string("name")?;
    let arguments = match f.take(input) {
        None => String::new(),
        Some(Value::String(text)) => text,
        // Some servers send the object itself.
        Some(value) => value.to_string(),
    };
    Ok(Part::ToolCall(tool_call(&id, name, kind, arguments, f.rest_map())))
}

/// The kind of a call and the field of its input.
pub fn call_kind(kind: &str) -> (ToolKind, &'static str) {
    if kind == "custom_tool_call" { (ToolKind::Custom, "input") } else { (ToolKind::Function, "arguments") }
}

pub fn tool_call(id: &str, name: String, kind: ToolKind, arguments: String, fields: Map<String, Value>) -> ToolCall {
    let (id, signature) = signature::split_id(id);
    ToolCall { id: id.to_owned(), name, kind, arguments, signature, cache: None, extra: Extra::new(F, around(fields)) }
}

/// A picture that the model made with its hosted tool.
fn image(item: Value, path: &str) -> Result<Part> {
    let mut f = Fields::new(item, path)?;
    let data = f.required_string("result")?;
    let mime = f.peek_str("output_format").map(|format| format!("image/{format}"));
    let mut media = Media::new(MediaKind::Image, mime, MediaSource::Base64(data));
    media.extra.insert(F, ITEM, Value::Object(around(f.rest_map())));
    Ok(Part::Media(media))
}
