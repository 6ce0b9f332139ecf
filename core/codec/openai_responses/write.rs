//! Items as this format writes them, for an answer's `output` and for the history that an upstream gets: the one place
//! where their shapes stand. Streams build theirs with the same functions.

use serde_json::{Map, Value, json};

use super::wire::{F, annotation, code_points, plain, text_specific};
use crate::{
    codec::signature,
    model::{Extra, Media, MediaSource, Signature, Text, ToolCall, ToolKind},
};

/// An `output_text` part. `logprobs`: those that stand on it; answers have the list even when it is empty.
pub fn output_text(text: &Text, logprobs: Option<Vec<Value>>) -> Value {
    let Text { text, citations, cache: _, signature, extra } = text;
    let length = code_points(text);
    let annotations: Vec<Value> = citations.iter().filter_map(|c| annotation(c, length)).collect();
    let mut out = Map::new();
    out.insert("type".into(), "output_text".into());
    out.insert("annotations".into(), Value::Array(annotations));
    if let Some(logprobs) = logprobs {
        out.insert("logprobs".into(), Value::Array(logprobs));
    }
    out.insert("text".into(), text.as_str().into());
    if let Some(specific) = text_specific(signature.as_ref(), citations) {
        out.insert(super::wire::SPECIFIC.into(), specific);
    }
    plain(extra, &mut out);
    Value::Object(out)
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

/// A message. `fields`: what its own format said of it.
pub fn message(id: Option<&str>, status: &str, content: Vec<Value>, fields: Option<&Map<String, Value>>) -> Value {
    let mut out = Map::new();
    if let Some(id) = id {
        out.insert("id".into(), id.into());
    }
    out.insert("type".into(), "message".into());
    if id.is_some() {
        out.insert("status".into(), status.into());
    }
    out.insert("content".into(), Value::Array(content));
    out.insert("role".into(), "assistant".into());
    more(fields, &mut out);
    Value::Object(out)
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
pub fn call(call: &ToolCall, id: Option<&str>, call_id: &str, status: Option<&str>, arguments: &str) -> Value {
    let ToolCall { id: _, name, kind, arguments: _, signature: _, cache: _, extra } = call;
    let (word, input) = match kind {
        ToolKind::Function => ("function_call", "arguments"),
        ToolKind::Custom => ("custom_tool_call", "input"),
    };
    let mut out = Map::new();
    if let Some(id) = id {
        out.insert("id".into(), id.into());
    }
    out.insert("type".into(), word.into());
    if let Some(status) = status {
        out.insert("status".into(), status.into());
    }
    out.insert(input.into(), arguments.into());
    out.insert("call_id".into(), call_id.into());
    out.insert("name".into(), name.as_str().into());
    plain(extra, &mut out);
    Value::Object(out)
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
