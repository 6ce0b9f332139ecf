//! Code that this vendor runs itself: the tool, and the blocks of an answer that tell of it.

use serde_json::{Map, Value, json};

use crate::codec::ran::{self, Ran};

/// The tool has a dated type, and takes nothing of the caller's.
pub fn is_tool(kind: &str) -> bool {
    kind.starts_with("code_execution_")
}

pub fn tool(kind: &str) -> Value {
    json!({"type": kind, "name": CODE})
}

pub fn read(kind: &str, block: &Value) -> Vec<Ran> {
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    if kind == "server_tool_use" {
        let input = block.get("input").cloned().unwrap_or_default();
        let (language, code) = match text(block, "name").as_str() {
            CODE => ("python", text(&input, "code")),
            BASH => ("bash", text(&input, "command")),
            EDIT => ("text_editor", input.to_string()),
            _ => return Vec::new(),
        };
        return vec![Ran::Code { id: text(block, "id"), language: language.to_owned(), code }];
    }
    if !kind.ends_with("code_execution_tool_result") {
        return Vec::new();
    }
    let (id, content) = (text(block, "tool_use_id"), block.get("content").cloned().unwrap_or_default());
    if text(&content, "type").ends_with("_error") {
        let said = [text(&content, "error_message"), text(&content, "error_code")];
        let text = said.into_iter().find(|said| !said.is_empty()).unwrap_or_default();
        return vec![Ran::Output { id, text, failed: true }];
    }
    let failed = content.get("return_code").and_then(Value::as_i64).is_some_and(|code| code != 0);
    let said = [text(&content, "stdout"), text(&content, "stderr")].concat();
    // An edit tells of a file, not of an output.
    let said = if content.get("stdout").is_none() { content.to_string() } else { said };
    vec![Ran::Output { id, text: said, failed }]
}

/// Calls of the caller's own servers that this vendor made, and tools that it found.
pub fn past_call(kind: &str, block: &Value) -> Option<String> {
    let text = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default();
    match kind {
        "mcp_tool_use" => {
            let input = block.get("input").map(Value::to_string).unwrap_or_default();
            Some(ran::called(text("name"), &input))
        }
        "mcp_tool_result" => {
            let pieces = match block.get("content") {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Array(list)) => {
                    list.iter().filter_map(|piece| piece.get("text")?.as_str()).collect::<Vec<_>>().join("\n")
                }
                _ => String::new(),
            };
            Some(ran::answered(&pieces))
        }
        "tool_reference" => Some(text("tool_name").to_owned()),
        _ => None,
    }
}

pub fn write(ran: &[Ran]) -> Vec<(String, Value)> {
    let mut bash = false;
    let mut block = |ran: &Ran| match ran {
        Ran::Code { id, language, code } => {
            bash = language == "bash";
            let (name, field) = if bash { (BASH, "command") } else { (CODE, "code") };
            let input = Map::from_iter([(field.to_owned(), code.as_str().into())]);
            let kind = "server_tool_use";
            (kind.to_owned(), json!({"type": kind, "id": own_id(id), "name": name, "input": input}))
        }
        Ran::Output { id, text, failed } => {
            let (kind, inner) = match bash {
                true => ("bash_code_execution_tool_result", "bash_code_execution_result"),
                false => ("code_execution_tool_result", "code_execution_result"),
            };
            let (stdout, stderr) = if *failed { ("", text.as_str()) } else { (text.as_str(), "") };
            let content = json!({"type": inner, "stdout": stdout, "stderr": stderr, "return_code": i32::from(*failed), "content": []});
            (kind.to_owned(), json!({"type": kind, "tool_use_id": own_id(id), "content": content}))
        }
    };
    ran.iter().map(&mut block).collect()
}

/// Ids of what this vendor's servers ran begin alike.
fn own_id(id: &str) -> String {
    if id.starts_with(HEAD) {
        return id.to_owned();
    }
    let plain: String = id.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    format!("{HEAD}{plain}")
}

const HEAD: &str = "srvtoolu_";
const CODE: &str = "code_execution";
const BASH: &str = "bash_code_execution";
const EDIT: &str = "text_editor_code_execution";
