//! A forced call on a wire that has no choice of tools: the answer is bound to the shape of a call, as an output schema binds
//! it, and what comes back in that shape is read as the call. Nothing else is read so: the first key's name is ours.

use serde_json::{Map, Value, json};

use crate::{
    codec::calls,
    model::{ToolCall, ToolChoice, ToolKind},
};

/// The shape of a call of any of these: names, and the schemas of their arguments.
pub fn shape(tools: &[(&str, &Value)]) -> Value {
    let one = |(name, schema): &(&str, &Value)| {
        json!({
            "type": "object",
            "properties": {NAME: {"type": "string", "enum": [name]}, ARGUMENTS: schema},
            "required": [NAME, ARGUMENTS],
        })
    };
    json!({"anyOf": tools.iter().map(one).collect::<Vec<_>>()})
}

/// The shape of a call of this one.
pub fn shape_of(tool: (&str, &Value)) -> Value {
    shape(&[tool]).get_mut("anyOf").and_then(|list| list.get_mut(0)).map(Value::take).unwrap_or_default()
}

/// The choice that such a shape stands for.
pub fn read_choice(shape: &Value) -> Option<ToolChoice> {
    let name = |shape: &Value| shape.pointer(&format!("/properties/{NAME}/enum/0"))?.as_str().map(str::to_owned);
    match shape.get("anyOf").and_then(Value::as_array) {
        Some(several) if !several.is_empty() && several.iter().all(|one| name(one).is_some()) => {
            Some(ToolChoice::Required)
        }
        Some(_) => None,
        None => name(shape).map(|name| ToolChoice::Tool { name, custom: false }),
    }
}

/// Does an answer that begins so have that shape? `None`: too little of it is there.
pub fn begins(text: &str) -> Option<bool> {
    let mut wanted = BEGINNING.chars();
    for c in text.chars().filter(|c| !c.is_ascii_whitespace()) {
        match wanted.next() {
            Some(w) if w == c => {}
            Some(_) => return Some(false),
            None => return Some(true),
        }
    }
    if wanted.next().is_none() { Some(true) } else { None }
}

/// The call, if the text is a whole one. `ordinal`: calls before it, for its id.
pub fn read(text: &str, ordinal: usize) -> Option<ToolCall> {
    if begins(text) != Some(true) {
        return None;
    }
    let mut call: Map<String, Value> = serde_json::from_str(text).ok()?;
    let Some(Value::String(name)) = call.shift_remove(NAME) else { return None };
    let arguments = call.shift_remove(ARGUMENTS).filter(Value::is_object)?.to_string();
    let id = calls::made_id("call_", &[&ordinal.to_string(), &name, &arguments]);
    Some(ToolCall {
        id,
        name,
        kind: ToolKind::Function,
        arguments,
        signature: None,
        cache: None,
        extra: Default::default(),
    })
}

const NAME: &str = "portcullis_tool";
const ARGUMENTS: &str = "arguments";
const BEGINNING: &str = "{\"portcullis_tool\"";
