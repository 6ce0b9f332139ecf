//! Tools that this cloud runs for its own models: their searches and their code, as a tool and as blocks of an answer. Reads
//! only: other families' tools never become these.

use serde_json::Value;

use crate::codec::{hosted::Search, ran::Ran};

pub fn search(kind: &str) -> Option<Search> {
    (kind == GROUNDING).then(Search::default)
}

pub fn is_code_tool(kind: &str) -> bool {
    kind == INTERPRETER
}

/// What was searched for.
pub fn query<'a>(kind: &str, block: &'a Value) -> Option<&'a str> {
    let call = block.get("toolUse").filter(|_| kind == CALL)?;
    let searches = call.get("name").and_then(Value::as_str) == Some(GROUNDING);
    searches.then(|| call.pointer("/input/query").and_then(Value::as_str).unwrap_or_default())
}

pub fn is_search(kind: &str, block: &Value) -> bool {
    kind == "nova_grounding_result" || query(kind, block).is_some()
}

pub fn ran(kind: &str, block: &Value) -> Vec<Ran> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(call) = block.get("toolUse").filter(|_| kind == CALL) {
        if text(call, "name") != INTERPRETER {
            return Vec::new();
        }
        let code = call.get("input").map(|input| text(input, "snippet")).unwrap_or_default();
        return vec![Ran::Code { id: text(call, "toolUseId"), language: "python".to_owned(), code }];
    }
    let Some(result) = block.get("toolResult").filter(|_| kind == "nova_code_interpreter_result") else {
        return Vec::new();
    };
    let told = result.pointer("/content/0/json").cloned().unwrap_or_default();
    let failed = told.get("isError") == Some(&Value::Bool(true));
    let said = [text(&told, "stdOut"), text(&told, "stdErr")].concat();
    vec![Ran::Output { id: text(result, "toolUseId"), text: said, failed }]
}

const CALL: &str = "server_tool_use";
const GROUNDING: &str = "nova_grounding";
const INTERPRETER: &str = "nova_code_interpreter";
