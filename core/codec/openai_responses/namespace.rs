//! Tools in namespaces. Other formats have none: their functions stand among the others there, under their own names, and
//! a call of one is told the caller with its namespace again.

use serde_json::{Map, Value};

use super::wire::{F, mark, marked};
use crate::model::{Extra, Tool};

/// On a function: its namespace without its tools.
const NAMESPACE: &str = "$namespace";

/// The functions of a namespace, if it holds nothing else; what else it may hold only its own vendor runs.
pub fn functions(tool: &Value) -> Option<Vec<Value>> {
    let mut around = tool.as_object().filter(|_| kind(tool) == Some("namespace"))?.clone();
    let Some(Value::Array(mut functions)) = around.shift_remove("tools") else { return None };
    if functions.is_empty() || functions.iter().any(|f| kind(f) != Some("function")) {
        return None;
    }
    for function in functions.iter_mut().filter_map(Value::as_object_mut) {
        function.insert(NAMESPACE.to_owned(), Value::Object(around.clone()));
    }
    Some(functions)
}

/// The tools as an upstream of this format gets them: what came out of a namespace goes back into it.
pub fn regroup(tools: &[Tool], values: Vec<Value>) -> Vec<Value> {
    let mut out: Vec<Value> = Vec::with_capacity(values.len());
    let mut open: Option<&Value> = None;
    for (tool, value) in tools.iter().zip(values) {
        let own = match tool {
            Tool::Function(function) => mark(&function.extra, NAMESPACE),
            Tool::Hosted { .. } => None,
        };
        let last = out.last_mut().filter(|_| own.is_some() && own == open).and_then(|last| last.get_mut("tools"));
        match (own.and_then(Value::as_object), last.and_then(Value::as_array_mut)) {
            (_, Some(tools)) => tools.push(value),
            (Some(own), None) => {
                let mut whole = own.clone();
                whole.insert("tools".to_owned(), vec![value].into());
                out.push(whole.into());
            }
            (None, None) => out.push(value),
        }
        open = own;
    }
    out
}

/// Says of a call in which of the request's namespaces its function is, where the upstream could not.
pub fn tell(name: &str, extra: &mut Extra, echo: Option<&Map<String, Value>>) {
    if marked(extra, "namespace") {
        return;
    }
    let tools = echo.and_then(|echo| echo.get("tools")).and_then(Value::as_array);
    let named = |tool: &Value| tool.get("name").and_then(Value::as_str) == Some(name);
    let plain = |tool: &&Value| named(tool) && kind(tool) == Some("function");
    if tools.is_none_or(|tools| tools.iter().any(|tool| plain(&tool))) {
        return;
    }
    let holds = |tool: &&Value| {
        let inside = tool.get("tools").and_then(Value::as_array);
        kind(tool) == Some("namespace") && inside.is_some_and(|tools| tools.iter().any(named))
    };
    if let Some(namespace) = tools.into_iter().flatten().find(holds).and_then(|found| found.get("name")) {
        extra.insert(F, "namespace", namespace.clone());
    }
}

fn kind(tool: &Value) -> Option<&str> {
    tool.get("type").and_then(Value::as_str)
}
