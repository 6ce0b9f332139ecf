//! Tools and the choice among them, both ways. Functions are flat here; tools that the vendor runs stay as they are and
//! are refused for others.

use serde_json::{Map, Value, json};

use super::super::{
    content, namespace,
    wire::{F, IMPLICIT_STRICT, mark, marked, plain},
};
use crate::{
    codec::{
        Dialect, custom,
        json::{Fields, missing},
    },
    error::{Error, Result},
    model::{Request, Tool, ToolChoice, tool::Function},
};

pub fn decode(items: Vec<Value>) -> Result<Vec<Tool>> {
    // A name says which function is called: one that two have is their vendor's own affair.
    let mut taken: Vec<String> = items.iter().filter_map(own_name).collect();
    let mut tools = Vec::with_capacity(items.len());
    for (i, item) in items.into_iter().enumerate() {
        let path = format!("tools[{i}]");
        let functions = namespace::functions(&item);
        let names: Vec<String> = functions.iter().flatten().filter_map(own_name).collect();
        match functions.filter(|_| !names.iter().any(|name| taken.contains(name))) {
            None => tools.push(tool(item, path)?),
            Some(functions) => {
                taken.extend(names);
                for (n, function) in functions.into_iter().enumerate() {
                    tools.push(tool(function, format!("{path}.tools[{n}]"))?);
                }
            }
        }
    }
    Ok(tools)
}

fn own_name(tool: &Value) -> Option<String> {
    let named = matches!(tool.get("type").and_then(Value::as_str), Some("function" | "custom"));
    tool.get("name").filter(|_| named).and_then(Value::as_str).map(str::to_owned)
}

fn tool(value: Value, path: String) -> Result<Tool> {
    let kind = match value.get("type").and_then(Value::as_str) {
        Some(kind) => kind.to_owned(),
        None => return Err(missing(&format!("{path}.type"))),
    };
    if kind != "function" && kind != "custom" {
        return Ok(Tool::Hosted { format: F, kind, value });
    }
    let custom = kind == "custom";
    let mut f = Fields::new(value, path.clone())?;
    f.take("type");
    // The chat form, nested, is a habit of some clients.
    if let Some(mut inner) = if f.peek("name").is_none() { f.object(&kind)? } else { None } {
        for key in ["name", "description", "parameters", "strict", "format"] {
            if let Some(value) = inner.take(key) {
                f.put(key, value);
            }
        }
    }
    let cache = content::cache_hint(&f);
    let strict = if custom { None } else { f.bool("strict")? };
    let mut function = Function {
        name: f.required_string("name")?,
        description: f.string("description")?,
        parameters: if custom { None } else { f.take("parameters") },
        strict,
        custom,
        cache,
        extra: f.rest(F),
    };
    if !custom && strict.is_none() {
        function.extra.insert(F, IMPLICIT_STRICT, true.into());
    }
    Ok(Tool::Function(function))
}

/// The choice, and its own words where the model says less.
pub fn choice(value: Option<Value>) -> Result<(Option<ToolChoice>, Option<Value>)> {
    let Some(value) = value else { return Ok((None, None)) };
    let wrong = || {
        Error::invalid(
            "tool_choice",
            "`tool_choice` must be \"none\", \"auto\", \"required\" or an object that names a tool",
        )
    };
    let name = |value: &Value| {
        let inner = value.get("function").or_else(|| value.get("custom")).unwrap_or(value);
        inner.get("name").and_then(Value::as_str).map(str::to_owned)
    };
    let choice = match &value {
        Value::String(word) => match word.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" | "any" => ToolChoice::Required,
            _ => return Err(wrong()),
        },
        Value::Object(map) => match map.get("type").and_then(Value::as_str).ok_or_else(wrong)? {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" => ToolChoice::Required,
            "function" => ToolChoice::Tool { name: name(&value).ok_or_else(wrong)?, custom: false },
            "custom" => ToolChoice::Tool { name: name(&value).ok_or_else(wrong)?, custom: true },
            "allowed_tools" => {
                let tools = map.get("tools").and_then(Value::as_array).ok_or_else(wrong)?;
                let names: Vec<String> = tools.iter().filter_map(name).collect();
                let required = map.get("mode").and_then(Value::as_str) == Some("required");
                let all = names.len() == tools.len() && tools.iter().all(|t| t.get("server_label").is_none());
                let verbatim = (!all).then(|| value.clone());
                return Ok((Some(ToolChoice::Allowed { names, required }), verbatim));
            }
            // One of the vendor's own tools: which one stands beside.
            _ => return Ok((Some(ToolChoice::Required), Some(value))),
        },
        _ => return Err(wrong()),
    };
    Ok((Some(choice), None))
}

/// Tools and choice for an upstream. `notes` names what was dropped.
pub fn encode(
    request: &Request,
    dialect: &Dialect,
    body: &mut Map<String, Value>,
    notes: &mut Vec<&'static str>,
) -> Result<()> {
    let Request { tools, tool_choice, parallel_tool_calls, extra, .. } = request;
    if !tools.is_empty() {
        if dialect.lacks.contains(&"tools") {
            let text = "this target cannot call tools; leave `tools` out or choose another model";
            return Err(Error::unsupported("tools", text));
        }
        let values: Result<Vec<Value>> = tools.iter().map(|tool| write(tool, dialect, notes)).collect();
        body.insert("tools".into(), Value::Array(namespace::regroup(tools, values?)));
    }
    if let Some(choice) = tool_choice.as_ref().filter(|c| !tools.is_empty() || matches!(c, ToolChoice::None)) {
        let told = mark(extra, "$tool_choice").filter(|told| same(told, choice));
        body.insert("tool_choice".into(), told.cloned().unwrap_or_else(|| choice_value(choice, tools)));
    }
    if let Some(parallel) = parallel_tool_calls.filter(|_| !tools.is_empty()) {
        if dialect.refuses.contains(&"parallel_tool_calls") {
            notes.push("parallel_tool_calls");
        } else {
            body.insert("parallel_tool_calls".into(), parallel.into());
        }
    }
    Ok(())
}

/// Does what the client wrote still say what is wanted?
fn same(told: &Value, choice: &ToolChoice) -> bool {
    self::choice(Some(told.clone())).is_ok_and(|(known, _)| known.as_ref() == Some(choice))
}

fn write(tool: &Tool, dialect: &Dialect, notes: &mut Vec<&'static str>) -> Result<Value> {
    let function = match tool {
        Tool::Hosted { format: F, kind: _, value } => return Ok(value.clone()),
        Tool::Hosted { format, kind, value: _ } => {
            let text =
                format!("the tool `{kind}` runs at {} providers only; choose one of their models", format.name());
            return Err(Error::unsupported(kind, text));
        }
        Tool::Function(function) => function,
    };
    let Function { name, description, parameters, strict, custom, cache, extra } = function;
    let mut out = Map::new();
    out.insert("type".into(), if *custom { "custom" } else { "function" }.into());
    out.insert("name".into(), name.as_str().into());
    if let Some(description) = description {
        out.insert("description".into(), description.as_str().into());
    }
    if !*custom {
        out.insert(
            "parameters".into(),
            parameters.clone().unwrap_or_else(|| json!({"type": "object", "properties": {}})),
        );
        // Silence means "strict" here and "not strict" everywhere else, and strict makes every field required.
        if strict.is_some() || !marked(extra, IMPLICIT_STRICT) {
            out.insert("strict".into(), strict.unwrap_or(false).into());
        }
    }
    plain(extra, &mut out);
    if let Some(bound) = custom::bound(function, F) {
        out.insert("format".into(), Value::Object(bound));
    }
    if cache.is_some() && extra.of(F).is_none() && dialect.provider != "openai" {
        notes.push("cache_control");
    }
    Ok(Value::Object(out))
}

fn choice_value(choice: &ToolChoice, tools: &[Tool]) -> Value {
    let one = |name: &str, custom: bool| json!({"type": if custom { "custom" } else { "function" }, "name": name});
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Required => "required".into(),
        ToolChoice::Tool { name, custom } => one(name, *custom),
        ToolChoice::Allowed { names, required } => {
            let custom =
                |name: &str| tools.iter().any(|t| matches!(t, Tool::Function(f) if f.custom && f.name == name));
            let list: Vec<Value> = names.iter().map(|name| one(name, custom(name))).collect();
            json!({"type": "allowed_tools", "mode": if *required { "required" } else { "auto" }, "tools": list})
        }
    }
}
