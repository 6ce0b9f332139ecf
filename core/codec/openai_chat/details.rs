//! OpenRouter's `reasoning_details`, entry by entry: what they say of signatures and of reasoning that only its maker can
//! read. The list itself stays with the unknown fields; this is what clients of other formats are told of it, and how it
//! comes back from them. Pure values; where an entry belongs is the caller's.

use serde_json::{Value, json};

use super::wire::{F, FIELD};
use crate::model::{Extra, Format, Reasoning, Signature};

pub fn text(details: &Value) -> String {
    let one = |d: &Value| word(d, "text").or(word(d, "summary")).unwrap_or_default().to_owned();
    details.as_array().map_or(String::new(), |list| list.iter().map(one).collect())
}

/// The signature of an entry with a readable text. Of a vendor that this page does not know it travels as sealed data does.
pub fn signature(detail: &Value) -> Option<Signature> {
    let data = word(detail, "signature").filter(|s| !s.is_empty())?;
    if word(detail, "format").is_some_and(|format| format.starts_with("anthropic")) {
        return Some(Signature { origin: Format::AnthropicMessages, data: data.to_owned() });
    }
    Some(Signature { origin: F, data: tagged(detail, data) })
}

/// Data of an entry, behind its `format` and `id`.
fn tagged(detail: &Value, data: &str) -> String {
    let tag = |key: &str| word(detail, key).filter(|text| !text.contains(':')).unwrap_or_default();
    format!("{}:{}:{data}", tag("format"), tag("id"))
}

/// An entry whose reasoning is encrypted. It is good at the provider that gave it, together with its `format` and `id`:
/// both travel with the data.
pub fn sealed(detail: &Value) -> Option<Reasoning> {
    let data = word(detail, "data").filter(|data| !data.is_empty())?;
    if word(detail, "type") != Some(ENCRYPTED) {
        return None;
    }
    let sealed = Signature { origin: F, data: tagged(detail, data) };
    let mut extra = Extra::default();
    extra.insert(F, FIELD, "details".into());
    Some(Reasoning { sealed: Some(sealed), extra, ..Reasoning::default() })
}

/// Such an entry for the provider, of what `sealed` made of it.
pub fn unsealed(sealed: &Signature, index: usize) -> Option<Value> {
    untagged(sealed, json!({"type": ENCRYPTED}), "data", index)
}

/// The rest of an entry, its data under `key`.
fn untagged(told: &Signature, entry: Value, key: &str, index: usize) -> Option<Value> {
    let mut pieces = told.data.splitn(3, ':');
    let (format, id, data) = (pieces.next()?, pieces.next()?, pieces.next()?);
    let Value::Object(mut out) = entry else { return None };
    out.insert(key.to_owned(), data.into());
    for (key, value) in [("format", format), ("id", id)] {
        if !value.is_empty() {
            out.insert(key.to_owned(), value.into());
        }
    }
    out.insert("index".to_owned(), index.into());
    (told.origin == F).then_some(Value::Object(out))
}

/// Does the list, which goes back as it came, tell all of this?
pub fn told(reasoning: &Reasoning) -> bool {
    reasoning.sealed.iter().chain(&reasoning.signature).any(|told| told.origin == F)
}

/// An entry for the provider, of reasoning that it gave in another client's turn.
pub fn of(reasoning: &Reasoning, index: usize) -> Option<Value> {
    if let Some(sealed) = &reasoning.sealed {
        return unsealed(sealed, index);
    }
    let text = &reasoning.text;
    if let Some(own) = reasoning.signature.as_ref().filter(|s| s.origin == F) {
        return untagged(own, json!({"type": "reasoning.text", "text": text}), "signature", index);
    }
    let signed = reasoning.signature.as_ref().filter(|s| s.origin == Format::AnthropicMessages)?;
    let format = "anthropic-claude-v1";
    Some(json!({"type": "reasoning.text", "text": text, "signature": signed.data, "format": format, "index": index}))
}

fn word<'a>(detail: &'a Value, key: &str) -> Option<&'a str> {
    detail.get(key).and_then(Value::as_str)
}

const ENCRYPTED: &str = "reasoning.encrypted";
