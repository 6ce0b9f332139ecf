//! Tool calls on their way to wires that are strict about them: ids that are legal, unique and the same for a call and
//! its result; objects as arguments. What a wire calls legal is the codec's to say.

use serde_json::{Map, Value, json};

use super::signature::split_id;
use crate::model::{CacheHint, Part, ToolResult};

/// What stands in a history for a call's result that its client lost: wires that pair the two refuse a call without one.
pub const NO_RESULT: &str = "no result of this call was given";

/// Ids of calls as written, so that every result finds its call, also when the caller gave none or gave one twice.
pub struct Ids {
    prefix: &'static str,
    legal: fn(&str) -> bool,
    calls: Vec<Call>,
}

struct Call {
    given: String,
    name: String,
    written: String,
    answered: bool,
}

impl Ids {
    /// `prefix`: of ids that are made here; `legal`: may an id stay as it is?
    pub fn new(prefix: &'static str, legal: fn(&str) -> bool) -> Self {
        Ids { prefix, legal, calls: Vec::new() }
    }

    pub fn of_call(&mut self, id: &str, name: &str) -> String {
        let given = split_id(id).0;
        let ordinal = self.calls.len().to_string();
        let mut written = self.legal_or_made(given);
        if given.is_empty() || self.calls.iter().any(|call| call.written == written) {
            written = made_id(self.prefix, &[given, name, &ordinal]);
        }
        self.calls.push(Call {
            given: given.to_owned(),
            name: name.to_owned(),
            written: written.clone(),
            answered: false,
        });
        written
    }

    /// The oldest unanswered call of that id; without an id, of that name.
    pub fn of_result(&mut self, id: &str, name: Option<&str>) -> Option<String> {
        let given = split_id(id).0;
        let fits = |call: &Call| match given {
            "" => name.is_none_or(|name| call.name == name),
            given => call.given == given,
        };
        match self.calls.iter_mut().find(|call| !call.answered && fits(call)) {
            Some(call) => {
                call.answered = true;
                Some(call.written.clone())
            }
            // Answered twice or never made: the upstream decides, as long as the id says which.
            None => (!given.is_empty()).then(|| {
                self.calls
                    .iter()
                    .rev()
                    .find(|call| fits(call))
                    .map_or_else(|| self.legal_or_made(given), |call| call.written.clone())
            }),
        }
    }

    fn legal_or_made(&self, id: &str) -> String {
        if (self.legal)(id) { id.to_owned() } else { made_id(self.prefix, &[id]) }
    }
}

/// Letters, digits, `_` and `-`, and at least one of them.
pub fn is_plain_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// A legal id made from `seeds`: the same seeds make the same id, so that a replayed history matches.
pub fn made_id(prefix: &str, seeds: &[&str]) -> String {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for seed in seeds {
        hash.update(seed.as_bytes());
        hash.update(&[0]);
    }
    let mut id = prefix.to_owned();
    for byte in &hash.finish().as_ref()[..12] {
        let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
        id.extend([digit(byte >> 4), digit(byte & 15)]);
    }
    id
}

/// A call's arguments for a wire that takes objects only: free text and malformed arguments are kept inside one. Nothing, and the
/// `null` that some servers write for it, is an object without fields.
pub fn tool_input(arguments: &str, custom: bool) -> Value {
    if custom {
        return json!({"input": arguments});
    }
    if matches!(arguments.trim(), "" | "null") {
        return Value::Object(Map::new());
    }
    match serde_json::from_str(arguments) {
        Ok(Value::Object(map)) => Value::Object(map),
        _ => json!({"arguments": arguments}),
    }
}

/// Free text as the one field of an object, for calls whose arguments are written in pieces: what stands before the text, and
/// what behind it. The pieces themselves are escaped.
pub const CUSTOM_HEAD: &str = r#"{"input":""#;
pub const CUSTOM_TAIL: &str = r#""}"#;

/// The inside of a JSON string.
pub fn escape(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// The cache mark of a result where the wire has none inside of it: that of its last marked part marks as much.
pub fn mark(result: &ToolResult) -> Option<&CacheHint> {
    fn inner(part: &Part) -> Option<&CacheHint> {
        match part {
            Part::Text(text) => text.cache.as_ref(),
            Part::Media(media) => media.cache.as_ref(),
            _ => None,
        }
    }
    result.cache.as_ref().or_else(|| result.parts.iter().rev().find_map(inner))
}

/// The schema of a tool that takes free text, where the wire has no such tool.
pub fn custom_schema() -> Value {
    json!({"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]})
}

/// A schema for a wire that requires `type: object` at the root.
pub fn rooted(schema: Value) -> Value {
    match schema {
        Value::Object(map) if map.contains_key("type") => Value::Object(map),
        Value::Object(map) => {
            let mut out = Map::new();
            out.insert("type".to_owned(), "object".into());
            out.extend(map);
            Value::Object(out)
        }
        _ => json!({"type": "object", "properties": {}}),
    }
}
