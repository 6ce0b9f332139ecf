//! What an answer that is kept says, item by item: the turns that a later request begins with, and its input in pages. JSON in,
//! JSON out; knows nothing of who keeps it, or where.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{
    codec::document::Document,
    error::{Error, Result},
};

/// A request as it went on, with the turns before it, and its answer as the client got it. Read only when asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct Turn {
    pub request: Bytes,
    pub answer: Bytes,
}

impl Turn {
    pub fn size(&self) -> usize {
        self.request.len() + self.answer.len()
    }

    /// Its input, with the turns before it.
    pub fn items(&self) -> Result<Vec<Value>> {
        Ok(input_items(object(&self.request)?.shift_remove("input")))
    }

    /// The conversation up to and with its answer, as an upstream takes it back: thoughts that nobody can read any more are
    /// left out.
    fn turns(&self) -> Result<Vec<Value>> {
        let mut items = self.items()?;
        if let Some(Value::Array(output)) = object(&self.answer)?.shift_remove("output") {
            items.extend(output.into_iter().filter(|item| !is_empty_thought(item)));
        }
        Ok(items)
    }

    /// The same request with these turns in front of its own.
    pub fn resumed(&self, document: &Document) -> Result<Document> {
        let mut body = object(document.bytes())?;
        body.shift_remove("previous_response_id");
        let mut items = self.turns()?;
        items.extend(input_items(body.shift_remove("input")));
        body.insert("input".to_owned(), Value::Array(items));
        document.reopened(Value::Object(body).to_string().into())
    }
}

pub fn object(bytes: &[u8]) -> Result<Map<String, Value>> {
    serde_json::from_slice(bytes).map_err(|e| {
        Error::invalid("input", format!("the body cannot be read: line {}, column {}", e.line(), e.column()))
    })
}

pub fn input_items(input: Option<Value>) -> Vec<Value> {
    match input {
        Some(Value::Array(items)) => items,
        Some(Value::String(text)) => {
            vec![json!({"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]})]
        }
        _ => Vec::new(),
    }
}

/// Reasoning that stands at nobody any more and cannot be sent again.
pub fn is_empty_thought(item: &Value) -> bool {
    let none = |key: &str| match item.get(key) {
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::String(text)) => text.is_empty(),
        _ => true,
    };
    item.get("type").is_some_and(|kind| kind == "reasoning") && none("encrypted_content") && none("content")
}

/// A page of items, the newest first unless asked otherwise.
pub fn page(items: &[Value], query: &str) -> Result<Value> {
    let asked = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let limit = match asked("limit").map(str::parse::<usize>) {
        None => 20,
        Some(Ok(limit @ 1..=100)) => limit,
        Some(_) => return Err(Error::invalid("limit", "`limit` must be a number from 1 to 100")),
    };
    let mut list: Vec<Value> = items.iter().enumerate().map(|(at, item)| named(item, at)).collect();
    if asked("order") != Some("asc") {
        list.reverse();
    }
    let from = match asked("after") {
        None => 0,
        Some(after) => list
            .iter()
            .position(|item| item["id"] == after)
            .map(|at| at + 1)
            .ok_or_else(|| Error::invalid("after", "`after` is the id of no item of this response"))?,
    };
    let rest = &list[from..];
    let data = &rest[..rest.len().min(limit)];
    let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
    Ok(json!({
        "object": "list",
        "data": data,
        "first_id": id(data.first()),
        "last_id": id(data.last()),
        "has_more": rest.len() > data.len(),
    }))
}

/// Items in a list have a type and an id.
fn named(item: &Value, at: usize) -> Value {
    let mut item = item.as_object().cloned().unwrap_or_default();
    item.entry("type").or_insert_with(|| "message".into());
    if item.get("id").is_none_or(Value::is_null) {
        item.insert("id".to_owned(), format!("item_{at}").into());
    }
    Value::Object(item)
}
