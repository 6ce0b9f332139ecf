//! Errors, both ways. The vendor's other format has the same body, so what is read and written there holds here; only
//! answers and events that turn out to be errors have shapes of their own.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use crate::{codec::openai_chat::error as chat, error::Error};

pub fn decode(status: u16, header: &dyn Fn(&str) -> Option<String>, body: &Bytes) -> Error {
    chat::decode(status, header, body)
}

pub fn encode(error: &Error) -> Vec<u8> {
    chat::encode(error)
}

/// An answer of the status `failed`, or an error under a good HTTP status. The code says what the type does elsewhere.
pub fn in_answer(value: &Value) -> Error {
    let error = value.get("error").filter(|e| !e.is_null());
    let mut fields = match error {
        Some(Value::Object(fields)) => fields.clone(),
        Some(Value::String(text)) => Map::from_iter([("message".to_owned(), Value::from(text.as_str()))]),
        _ => Map::new(),
    };
    fields.entry("code").or_insert_with(|| value.get("code").cloned().unwrap_or_else(|| "server_error".into()));
    if fields["code"].as_str().is_some_and(|code| INVALID.contains(&code)) {
        fields.entry("type").or_insert_with(|| "invalid_request_error".into());
    }
    chat::in_answer(&json!({ "error": fields }))
}

/// The event `error`: flat.
pub fn in_event(value: &Value) -> Error {
    if value.get("error").is_some_and(Value::is_object) {
        return in_answer(value);
    }
    in_answer(&json!({ "error": value }))
}

/// The event that ends a stream that dies.
pub fn event(error: &Error, sequence: u64) -> Value {
    json!({
        "type": "error",
        "code": error.code(),
        "message": error.message,
        "param": error.param,
        "sequence_number": sequence,
    })
}

/// Codes of failed answers that are the request's fault.
const INVALID: [&str; 6] = [
    "invalid_prompt",
    "invalid_image",
    "invalid_image_format",
    "invalid_base64_image",
    "invalid_image_url",
    "image_content_policy_violation",
];
