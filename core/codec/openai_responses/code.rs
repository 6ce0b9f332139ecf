//! Code that this format's vendors run themselves: the tool, and the item of an answer that tells of it.

use serde_json::{Value, json};

use super::wire::{OURS, is_ours};
use crate::codec::{
    calls::made_id,
    ran::{self, Ran},
};

/// One that runs in a new container: a container or files of the caller's are at their own vendor.
pub fn is_tool(kind: &str, tool: &Value) -> bool {
    let files =
        |container: &Value| container.get("file_ids").and_then(Value::as_array).is_some_and(|ids| !ids.is_empty());
    kind == TOOL
        && match tool.get("container") {
            None | Some(Value::Null) => true,
            Some(container) => container.get("type").and_then(Value::as_str) == Some("auto") && !files(container),
        }
}

pub fn tool(kind: &str) -> Value {
    json!({"type": kind, "container": {"type": "auto"}})
}

/// Calls of the caller's own servers that the vendor made, and the list of what those offer.
pub fn past_call(kind: &str, item: &Value) -> Option<String> {
    let text = |name: &str| item.get(name).and_then(Value::as_str).unwrap_or_default();
    match kind {
        "mcp_call" => {
            let said = [text("output"), text("error")].into_iter().find(|said| !said.is_empty()).unwrap_or_default();
            Some(format!("{}\n{}", ran::called(text("name"), text("arguments")), ran::answered(said)))
        }
        "mcp_list_tools" => Some(String::new()),
        _ => None,
    }
}

pub fn read(kind: &str, item: &Value) -> Vec<Ran> {
    if kind != CALL {
        return Vec::new();
    }
    let text = |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (id, failed) = (text(item, "id"), text(item, "status") == "failed");
    let mut out = vec![Ran::Code { id: id.clone(), language: "python".to_owned(), code: text(item, "code") }];
    if let Some(outputs) = item.get("outputs").and_then(Value::as_array) {
        let said: Vec<String> = outputs
            .iter()
            .map(|output| match output.get("logs").and_then(Value::as_str) {
                Some(logs) => logs.to_owned(),
                // A picture: its address, unless it is the picture itself.
                None => text(output, "url").split(";base64,").next().unwrap_or_default().to_owned(),
            })
            .collect();
        out.push(Ran::Output { id, text: said.join("\n"), failed });
    }
    out
}

/// One item for the code and what came of it.
pub fn write(ran: &[Ran]) -> Vec<(String, Value)> {
    let (mut items, mut open): (Vec<Value>, bool) = (Vec::new(), false);
    for ran in ran {
        let (id, code) = match ran {
            Ran::Code { id, code, .. } => (id, code.as_str()),
            Ran::Output { id, .. } => (id, ""),
        };
        if !open || matches!(ran, Ran::Code { .. }) {
            let own = made_id(&format!("ci_{OURS}"), &[id, code]);
            items.push(json!({"id": own, "type": CALL, "status": "completed", "code": code, "container_id": "", "outputs": null}));
            open = true;
        }
        if let (Ran::Output { text, failed, .. }, Some(item)) = (ran, items.last_mut()) {
            item["outputs"] = json!([{"type": "logs", "logs": text}]);
            if *failed {
                item["status"] = "failed".into();
            }
            open = false;
        }
    }
    items.into_iter().map(|item| (CALL.to_owned(), item)).collect()
}

/// Is this item one that `write` made?
pub fn is_made(kind: &str, item: &Value) -> bool {
    kind == CALL && item.get("id").and_then(Value::as_str).is_some_and(is_ours)
}

pub const TOOL: &str = "code_interpreter";
/// In `include`: what was printed.
pub const OUTPUTS: &str = "code_interpreter_call.outputs";
const CALL: &str = "code_interpreter_call";
