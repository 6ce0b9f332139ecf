//! Tool definitions and the choice among them, for an upstream of this format.

use serde_json::{Map, Value, json};

use super::{
    super::{Dialect, block, wire, wire::FORMAT},
    schema,
};
use crate::{
    codec::{
        calls::{custom_schema, rooted},
        standin,
    },
    error::{Error, Result},
    model::{Tool, ToolChoice, tool::Function},
};

pub fn encode(
    tools: &[Tool],
    choice: Option<&ToolChoice>,
    dialect: &Dialect,
    dropped: &mut Vec<&'static str>,
) -> Result<Vec<Value>> {
    if !tools.is_empty() && dialect.lacks.contains(&"tools") {
        return Err(Error::unsupported("tools", "this model takes no tools; choose one that does"));
    }
    let mut out = Vec::new();
    for (i, tool) in tools.iter().enumerate() {
        match tool {
            Tool::Function(function) => {
                // The wire has no "one of these": the others stay at home.
                if let Some(ToolChoice::Allowed { names, .. }) = choice
                    && !names.contains(&function.name)
                {
                    continue;
                }
                out.push(self::function(function, i, dialect, dropped)?);
            }
            Tool::Hosted { format: FORMAT, kind: _, value } => out.push(value.clone()),
            Tool::Hosted { format, kind, value: _ } => {
                let message = format!(
                    "the tool `{kind}` runs at {} models only; leave it out or choose such a model",
                    format.name()
                );
                return Err(Error::unsupported(kind, message));
            }
        }
    }
    Ok(out)
}

fn function(function: &Function, index: usize, dialect: &Dialect, dropped: &mut Vec<&'static str>) -> Result<Value> {
    let Function { name, description, parameters, strict, custom, cache, extra } = function;
    if !is_legal_name(name) {
        let message = "tool names here are 1 to 128 letters, digits, `_` or `-`; rename the tool";
        return Err(Error::unsupported("tool_name", message).at(format!("tools[{index}].name")));
    }
    let strict = strict.filter(|strict| *strict);
    let bound = strict.is_some() && dialect.native_schema;
    if strict.is_some() && !bound {
        dropped.push("strict");
    }
    let mut out = Map::new();
    out.insert("name".to_owned(), name.as_str().into());
    if let Some(description) = description {
        out.insert("description".to_owned(), description.as_str().into());
    }
    let input = match parameters {
        _ if *custom => custom_schema(),
        None => json!({"type": "object", "properties": {}}),
        Some(given) if bound => rooted(schema::lower(given)),
        Some(given) => rooted(given.clone()),
    };
    out.insert("input_schema".to_owned(), input);
    if bound {
        out.insert("strict".to_owned(), true.into());
    }
    wire::put_cache(&mut out, cache.as_ref());
    block::give_back(&mut out, extra);
    Ok(Value::Object(out))
}

fn is_legal_name(name: &str) -> bool {
    name.len() <= 128 && wire::is_legal_id(name)
}

/// The tool whose input is the answer (`codec::standin`).
pub fn answer(schema: &Value) -> Value {
    json!({
        "name": standin::NAME,
        "description": "Give the answer by calling this tool, once, at the end.",
        "input_schema": rooted(schema.clone()),
    })
}

/// Its choice: forced, unless the caller forces a tool of its own; beside free ones, one of them or the answer.
pub fn answer_choice(choice: Option<&ToolChoice>, parallel: Option<bool>, has_tools: bool) -> Option<Value> {
    match choice {
        Some(ToolChoice::Required | ToolChoice::Tool { .. } | ToolChoice::Allowed { required: true, .. }) => {
            self::choice(choice, parallel, true)
        }
        None | Some(ToolChoice::Auto | ToolChoice::Allowed { required: false, .. }) if has_tools => {
            self::choice(Some(&ToolChoice::Required), parallel, true)
        }
        _ => Some(json!({"type": "tool", "name": standin::NAME})),
    }
}

/// `tool_choice`, with parallel calls switched off inside it when the caller wants one at a time.
pub fn choice(choice: Option<&ToolChoice>, parallel: Option<bool>, has_tools: bool) -> Option<Value> {
    let one_by_one = parallel == Some(false);
    let mut out = match choice {
        // Without tools these two say nothing, and the wire refuses them.
        None | Some(ToolChoice::Auto | ToolChoice::None) if !has_tools => return None,
        None if one_by_one => json!({"type": "auto"}),
        None => return None,
        Some(ToolChoice::Auto | ToolChoice::Allowed { required: false, .. }) => json!({"type": "auto"}),
        Some(ToolChoice::Required | ToolChoice::Allowed { required: true, .. }) => json!({"type": "any"}),
        Some(ToolChoice::Tool { name, custom: _ }) => json!({"type": "tool", "name": name}),
        Some(ToolChoice::None) => return Some(json!({"type": "none"})),
    };
    if one_by_one {
        out["disable_parallel_tool_use"] = true.into();
    }
    Some(out)
}
