//! Items as this format writes them, for an answer's `output` and for the history that an upstream gets: the one place
//! where their shapes stand. Answers and streams have them written straight onto the wire.

use serde_json::{Map, Value, json};

use super::wire::{F, SPECIFIC, annotation, code_points, plain, text_specific};
use crate::{
    codec::{signature, written},
    model::{Extra, Media, MediaSource, Signature, Text, ToolCall, ToolKind},
};

/// Where an object's fields go: into a tree, for what is put together further, or straight onto the wire.
pub trait Fields {
    fn text(&mut self, key: &'static str, text: &str);
    fn value(&mut self, key: &'static str, value: Value);
    /// Those of `fields` that were not told before; keys that begin with `$` are no fields, where `notes` are among them.
    fn more(&mut self, fields: Option<&Map<String, Value>>, notes: bool);
}

impl Fields for Map<String, Value> {
    fn text(&mut self, key: &'static str, text: &str) {
        self.insert(key.to_owned(), text.into());
    }

    fn value(&mut self, key: &'static str, value: Value) {
        self.insert(key.to_owned(), value);
    }

    fn more(&mut self, fields: Option<&Map<String, Value>>, notes: bool) {
        for (key, value) in fields.into_iter().flatten().filter(|(key, _)| !notes || !key.starts_with('$')) {
            if !self.contains_key(key) {
                self.insert(key.clone(), value.clone());
            }
        }
    }
}

/// An object on the wire.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    told: Vec<&'static str>,
}

impl<'a> Object<'a> {
    pub fn open(out: &'a mut Vec<u8>) -> Object<'a> {
        out.push(b'{');
        Object { out, told: Vec::with_capacity(8) }
    }

    /// What the key's value is written to.
    pub fn key(&mut self, key: &'static str) -> &mut Vec<u8> {
        if !self.told.is_empty() {
            self.out.push(b',');
        }
        self.told.push(key);
        for piece in ["\"", key, "\":"] {
            self.out.extend_from_slice(piece.as_bytes());
        }
        self.out
    }

    pub fn close(self) {
        self.out.push(b'}');
    }
}

impl Fields for Object<'_> {
    fn text(&mut self, key: &'static str, text: &str) {
        written::text(text, self.key(key));
    }

    fn value(&mut self, key: &'static str, value: Value) {
        written::value(&value, self.key(key));
    }

    /// Behind at least one field.
    fn more(&mut self, fields: Option<&Map<String, Value>>, notes: bool) {
        for (key, value) in fields.into_iter().flatten().filter(|(key, _)| !notes || !key.starts_with('$')) {
            if !self.told.contains(&key.as_str()) {
                self.out.push(b',');
                written::text(key, self.out);
                self.out.push(b':');
                written::value(value, self.out);
            }
        }
    }
}

/// An `output_text` part. `logprobs`: those that stand on it; answers have the list even when it is empty. Without a list it
/// is for an upstream, which knows no fields of ours.
pub fn output_text(text: &Text, logprobs: Option<&[Value]>, out: &mut impl Fields) {
    let Text { text, citations, cache: _, signature, extra } = text;
    out.text("type", "output_text");
    let length = if citations.is_empty() { 0 } else { code_points(text) };
    out.value("annotations", Value::Array(citations.iter().filter_map(|c| annotation(c, length)).collect()));
    if let Some(logprobs) = logprobs {
        out.value("logprobs", Value::Array(logprobs.to_vec()));
    }
    out.text("text", text);
    if logprobs.is_some()
        && let Some(specific) = text_specific(signature.as_ref(), citations)
    {
        out.value(SPECIFIC, specific);
    }
    out.more(extra.of(F), true);
}

pub fn refusal(text: &str) -> Value {
    json!({"type": "refusal", "refusal": text})
}

/// Sound has no item of its own: it is a part of the message.
pub fn output_audio(media: &Media, data: &str) -> Value {
    let mut out = Map::new();
    out.insert("type".into(), "output_audio".into());
    out.insert("data".into(), data.into());
    if let Some(mime) = &media.mime {
        out.insert("mime_type".into(), mime.as_str().into());
    }
    plain(&media.extra, &mut out);
    out.entry("transcript").or_insert_with(|| "".into());
    Value::Object(out)
}

/// A message up to its content, which its writer puts there under `content`.
pub fn message_head(id: Option<&str>, status: &str, out: &mut impl Fields) {
    if let Some(id) = id {
        out.text("id", id);
    }
    out.text("type", "message");
    if id.is_some() {
        out.text("status", status);
    }
}

/// The rest of it. `fields`: what its own format said of it.
pub fn message_tail(fields: Option<&Map<String, Value>>, out: &mut impl Fields) {
    out.text("role", "assistant");
    out.more(fields, false);
}

/// Reasoning that is being put together.
#[derive(Debug, Default)]
pub struct Thought {
    pub summary: Vec<String>,
    pub content: Vec<String>,
    pub sealed: Option<Signature>,
    pub fields: Map<String, Value>,
}

impl Thought {
    /// `status`: only answers tell one.
    pub fn value(&self, id: Option<&str>, status: Option<&str>) -> Value {
        let Thought { summary, content, sealed, fields } = self;
        let list = |kind: &str, texts: &[String]| {
            Value::Array(texts.iter().map(|text| json!({"type": kind, "text": text})).collect())
        };
        let mut out = Map::new();
        if let Some(id) = id {
            out.insert("id".into(), id.into());
        }
        out.insert("type".into(), "reasoning".into());
        out.insert("summary".into(), list("summary_text", summary));
        if !content.is_empty() {
            out.insert("content".into(), list("reasoning_text", content));
        }
        if let Some(sealed) = sealed {
            out.insert("encrypted_content".into(), signature::write(sealed, F).into());
        }
        if let Some(status) = status {
            out.insert("status".into(), status.into());
        }
        more(Some(fields), &mut out);
        Value::Object(out)
    }
}

/// A call. `call_id` and `arguments` as they are to be told.
pub fn call(
    call: &ToolCall,
    id: Option<&str>,
    call_id: &str,
    status: Option<&str>,
    arguments: &str,
    out: &mut impl Fields,
) {
    let ToolCall { id: _, name, kind, arguments: _, signature: _, cache: _, extra } = call;
    let (word, input) = match kind {
        ToolKind::Function => ("function_call", "arguments"),
        ToolKind::Custom => ("custom_tool_call", "input"),
    };
    if let Some(id) = id {
        out.text("id", id);
    }
    out.text("type", word);
    if let Some(status) = status {
        out.text("status", status);
    }
    out.text(input, arguments);
    out.text("call_id", call_id);
    out.text("name", name);
    out.more(extra.of(F), true);
}

/// Function arguments are JSON: nothing means `{}`.
pub fn arguments(kind: ToolKind, text: &str) -> &str {
    if kind == ToolKind::Function && text.trim().is_empty() { "{}" } else { text }
}

/// A picture as the hosted tool's call that makes them; `None` where its bytes are not at hand.
pub fn image(media: &Media, id: &str) -> Option<Value> {
    let MediaSource::Base64(data) = &media.source else { return None };
    let mut out = Map::new();
    out.insert("id".into(), id.into());
    out.insert("type".into(), "image_generation_call".into());
    out.insert("status".into(), "completed".into());
    out.insert("result".into(), data.as_str().into());
    let format = media.mime.as_deref().and_then(|mime| mime.strip_prefix("image/"));
    if let Some(format) = format {
        out.insert("output_format".into(), format.into());
    }
    more(super::wire::item_fields(&media.extra), &mut out);
    Some(Value::Object(out))
}

/// The id in an item's own fields.
pub fn own_id<'a>(extra: &'a Extra, fields: Option<&'a Map<String, Value>>) -> Option<&'a str> {
    fields.or_else(|| extra.of(F)).and_then(|fields| fields.get("id")).and_then(Value::as_str)
}

fn more(fields: Option<&Map<String, Value>>, out: &mut Map<String, Value>) {
    for (key, value) in fields.into_iter().flatten() {
        out.entry(key.clone()).or_insert_with(|| value.clone());
    }
}
