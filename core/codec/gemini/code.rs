//! Code that this vendor runs itself: the tool, and the parts of an answer that tell of it.

use serde_json::{Map, Value, json};

use super::wire::GEMINI;
use crate::{
    codec::ran::{self, Ran},
    model::Signature,
};

pub fn is_tool(kind: &str) -> bool {
    kind == "codeExecution"
}

pub fn tool(kind: &str) -> Value {
    Value::Object(Map::from_iter([(kind.to_owned(), json!({}))]))
}

pub fn read(part: &Value) -> Vec<Ran> {
    let inner = |names: [&str; 2]| names.iter().find_map(|name| part.get(name));
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(code) = inner(["executableCode", "executable_code"]) {
        let language = text(code, "language").to_ascii_lowercase();
        return vec![Ran::Code { id: text(code, "id"), language, code: text(code, "code") }];
    }
    let Some(result) = inner(["codeExecutionResult", "code_execution_result"]) else { return Vec::new() };
    let failed = !matches!(text(result, "outcome").as_str(), "" | "OUTCOME_OK" | "OUTCOME_UNSPECIFIED");
    vec![Ran::Output { id: text(result, "id"), text: text(result, "output"), failed }]
}

pub fn signature(part: &Value) -> Option<Signature> {
    let data = part.get("thoughtSignature").or_else(|| part.get("thought_signature")).and_then(Value::as_str);
    data.filter(|data| !data.is_empty()).map(|data| Signature { origin: GEMINI, data: data.to_owned() })
}

/// Calls of other tools that the vendor made.
pub fn past_call(part: &Value) -> Option<String> {
    let inner = |names: [&str; 2]| names.iter().find_map(|name| part.get(name));
    let json = |value: &Value, name: &str| value.get(name).filter(|v| !v.is_null()).map(Value::to_string);
    if let Some(call) = inner(["toolCall", "tool_call"]) {
        let name = call.get("toolType").or_else(|| call.get("tool_type")).and_then(Value::as_str).unwrap_or("tool");
        return Some(ran::called(&name.to_ascii_lowercase(), &json(call, "args").unwrap_or_default()));
    }
    let response = inner(["toolResponse", "tool_response"])?;
    Some(ran::answered(&json(response, "response").unwrap_or_default()))
}

pub fn write(ran: &[Ran]) -> Vec<(String, Value)> {
    let part = |ran: &Ran| {
        let (kind, id, mut inner) = match ran {
            Ran::Code { id, language, code } => {
                let language = if language == "python" { "PYTHON" } else { "LANGUAGE_UNSPECIFIED" };
                ("executableCode", id, json!({"language": language, "code": code}))
            }
            Ran::Output { id, text, failed } => {
                let outcome = if *failed { "OUTCOME_FAILED" } else { "OUTCOME_OK" };
                ("codeExecutionResult", id, json!({"outcome": outcome, "output": text}))
            }
        };
        if !id.is_empty() {
            inner["id"] = id.as_str().into();
        }
        (kind.to_owned(), Value::Object(Map::from_iter([(kind.to_owned(), inner)])))
    };
    ran.iter().map(part).collect()
}
