//! Tool definitions and the choice among them, for an upstream of this format: `toolConfig`.

use serde_json::{Map, Value, json};

use super::{
    super::{
        Dialect, block,
        wire::{self, FORMAT},
    },
    family::Family,
    turns::Written,
};
use crate::{
    codec::{
        calls::{custom_schema, rooted},
        standin,
    },
    error::{Error, Result},
    model::{Tool, ToolChoice, tool::Function},
};

/// Empty where nothing is to be said about tools.
pub fn encode(
    tools: &[Tool],
    choice: Option<&ToolChoice>,
    written: &Written,
    dialect: &Dialect,
    dropped: &mut Vec<&'static str>,
) -> Result<Map<String, Value>> {
    if !tools.is_empty() && dialect.lacks.contains(&"tools") {
        return Err(Error::unsupported("tools", "this model takes no tools; choose one that does"));
    }
    let mut out = Map::new();
    // The wire has no "none": without tools nothing is called. But past calls must stay explained.
    let none = matches!(choice, Some(ToolChoice::None));
    if none && written.called.is_empty() {
        return Ok(out);
    }
    let mut list = Vec::new();
    for (i, tool) in tools.iter().enumerate() {
        match tool {
            Tool::Function(function) => {
                // The wire has no "one of these": the others stay at home.
                if let Some(ToolChoice::Allowed { names, .. }) = choice
                    && !names.contains(&function.name)
                {
                    continue;
                }
                list.push(json!({"toolSpec": spec(function, i, dialect, dropped)?}));
                point(function, dialect, dropped, &mut list);
            }
            Tool::Hosted { format: FORMAT, kind: _, value } => list.push(value.clone()),
            Tool::Hosted { format, kind, value: _ } => {
                let message = format!(
                    "the tool `{kind}` runs at {} models only; leave it out or choose such a model",
                    format.name()
                );
                return Err(Error::unsupported(kind, message));
            }
        }
    }
    let undeclared = list.is_empty();
    if undeclared {
        // A conversation with calls is refused without declarations, and what the caller left out cannot be known.
        let plain = |name: &String| json!({"toolSpec": {"name": name, "inputSchema": {"json": {"type": "object"}}}});
        list.extend(written.called.iter().map(plain));
    }
    if list.is_empty() {
        return Ok(out);
    }
    out.insert("tools".to_owned(), Value::Array(list));
    let choice = match choice {
        None => None,
        Some(_) if undeclared => None,
        Some(ToolChoice::None) => {
            dropped.push("tool_choice");
            None
        }
        Some(ToolChoice::Auto | ToolChoice::Allowed { required: false, .. }) => Some(json!({"auto": {}})),
        Some(ToolChoice::Required | ToolChoice::Allowed { required: true, .. }) => Some(json!({"any": {}})),
        Some(ToolChoice::Tool { name, custom: _ }) => Some(json!({"tool": {"name": name}})),
    };
    if let Some(choice) = choice {
        out.insert("toolChoice".to_owned(), choice);
    }
    Ok(out)
}

/// A tool whose input is the answer, for a model that cannot bind it otherwise (`codec::standin`): forced, unless the caller
/// forces a tool of its own; beside free ones, one of them or the answer.
pub fn stand_in(config: &mut Map<String, Value>, schema: &Value, choice: Option<&ToolChoice>) {
    let mut list = match config.shift_remove("tools") {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let free = matches!(choice, None | Some(ToolChoice::Auto | ToolChoice::Allowed { required: false, .. }));
    let kept = match choice {
        Some(ToolChoice::Required | ToolChoice::Tool { .. } | ToolChoice::Allowed { required: true, .. }) => {
            config.shift_remove("toolChoice")
        }
        _ => None,
    };
    let forced = match kept {
        Some(own) => own,
        None if free && !list.is_empty() => json!({"any": {}}),
        None => json!({"tool": {"name": standin::NAME}}),
    };
    list.push(json!({"toolSpec": {
        "name": standin::NAME,
        "description": "Give the answer by calling this tool, once, at the end.",
        "inputSchema": {"json": rooted(schema.clone())},
    }}));
    config.insert("tools".to_owned(), Value::Array(list));
    config.insert("toolChoice".to_owned(), forced);
}

fn point(function: &Function, dialect: &Dialect, dropped: &mut Vec<&'static str>, list: &mut Vec<Value>) {
    let Some(hint) = &function.cache else { return };
    let family = Family::of(&dialect.model);
    // One maker's models take points in the conversation only.
    if family.caches(&dialect.model) && family != Family::Nova {
        list.push(wire::write_cache_point(hint));
    } else {
        dropped.push("cache_control");
    }
}

fn spec(
    function: &Function,
    index: usize,
    dialect: &Dialect,
    dropped: &mut Vec<&'static str>,
) -> Result<Map<String, Value>> {
    let Function { name, description, parameters, strict, custom, cache: _, extra } = function;
    if !wire::is_legal_id(name) {
        let message = "tool names here are 1 to 64 letters, digits, `_` or `-`; rename the tool";
        return Err(Error::unsupported("tool_name", message).at(format!("tools[{index}].name")));
    }
    let mut out = Map::new();
    out.insert("name".to_owned(), name.as_str().into());
    if let Some(description) = description.as_deref().filter(|text| !text.is_empty()) {
        out.insert("description".to_owned(), description.into());
    }
    let schema = match parameters {
        _ if *custom => custom_schema(),
        None => json!({"type": "object", "properties": {}}),
        Some(given) => rooted(given.clone()),
    };
    out.insert("inputSchema".to_owned(), json!({"json": schema}));
    match strict {
        Some(true) if dialect.native_schema => drop(out.insert("strict".to_owned(), true.into())),
        Some(true) => dropped.push("strict"),
        Some(false) | None => {}
    }
    block::give_back(&mut out, extra);
    Ok(out)
}
