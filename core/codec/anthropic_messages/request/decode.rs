//! A client's Messages body to the model. Strict about what the wire requires, tolerant of what it does not know.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::super::{
    Inbound, block,
    json::{self, Fields},
    wire::{self, FORMAT},
};
use crate::{
    error::{Error, Result},
    model::{Message, Output, Part, ReasoningAsk, Request, Role, Sampling, Tool, ToolChoice, tool::Function},
};

pub fn decode(body: &[u8], inbound: Inbound<'_>) -> Result<Request> {
    let mut body = json::tape(body)?;
    let mut f = Fields::new(body.item(), "")?;
    let named = f.string("model")?;
    let model = inbound.model.map(str::to_owned).or(named).ok_or_else(|| json::missing("model"))?;
    let max_tokens = f.u64("max_tokens")?;
    if max_tokens.is_none() && !inbound.counting {
        return Err(Error::invalid("max_tokens", "`max_tokens` is required: set the most tokens the answer may have"));
    }
    let mut messages = system(&mut f)?;
    turns(&mut f, &mut messages)?;
    let (tool_choice, parallel_tool_calls) = tool_choice(&mut f)?;
    let mut kept = Map::new();
    let (reasoning, output) = thinking_and_output(&mut f, &mut kept)?;
    let user = metadata(&mut f, &mut kept)?;
    let stream = f.bool("stream")?;
    let mut request = Request {
        model,
        stream: inbound.stream.or(stream).unwrap_or(false),
        messages,
        tools: tools(&mut f)?,
        tool_choice,
        parallel_tool_calls,
        output,
        sampling: Sampling {
            temperature: f.f64("temperature")?,
            top_p: f.f64("top_p")?,
            top_k: f.u64("top_k")?,
            stop: strings(&mut f, "stop_sequences")?,
            ..Sampling::default()
        },
        max_tokens,
        reasoning,
        user,
        service_tier: f.string("service_tier")?,
        ..Request::default()
    };
    request.extra = f.rest(FORMAT);
    for (key, value) in kept {
        request.extra.insert(FORMAT, &key, value);
    }
    Ok(request)
}

fn system(f: &mut Fields) -> Result<Vec<Message>> {
    let parts = match f.item("system") {
        None => return Ok(Vec::new()),
        Some(item) if item.text().is_some_and(|text| text.is_empty()) => return Ok(Vec::new()),
        Some(content) => block::decode_all(content, "system")?,
    };
    Ok(if parts.is_empty() { Vec::new() } else { vec![Message::new(Role::System, parts)] })
}

fn turns(f: &mut Fields, out: &mut Vec<Message>) -> Result<()> {
    let messages = f.items("messages")?.ok_or_else(|| json::missing("messages"))?;
    if messages.is_empty() {
        return Err(Error::invalid("messages", "`messages` must hold at least one message"));
    }
    let mut names = HashMap::new();
    for (i, message) in messages.into_iter().enumerate() {
        turn(Fields::new(message, json::nth("messages", i))?, &mut names, out)?;
    }
    Ok(())
}

/// One turn. A user turn with tool results becomes a tool turn, and a user turn for what stands beside them.
fn turn(mut f: Fields, names: &mut HashMap<String, String>, out: &mut Vec<Message>) -> Result<()> {
    let role = match f.required_string("role")?.as_str() {
        "user" => Role::User,
        "assistant" => Role::Assistant,
        "system" => Role::System,
        other => {
            let path = f.path("role");
            return Err(Error::invalid(
                &path,
                format!("`{path}` must be user, assistant or system, not `{}`", shown(other)),
            ));
        }
    };
    let path = f.path("content");
    let content = f.item("content").ok_or_else(|| json::missing(&path))?;
    let mut parts = block::decode_all(content, &path)?;
    for part in &parts {
        if let Part::ToolCall(call) = part {
            names.insert(call.id.clone(), call.name.clone());
        }
    }
    block::name_results(&mut parts, names);
    let mut extra = f.rest(FORMAT);
    let (results, rest): (Vec<Part>, Vec<Part>) = parts.into_iter().partition(|p| matches!(p, Part::ToolResult(_)));
    if !results.is_empty() {
        let extra = std::mem::take(&mut extra);
        out.push(Message { role: Role::Tool, parts: results, name: None, extra });
        if rest.is_empty() {
            return Ok(());
        }
    }
    out.push(Message { role, parts: rest, name: None, extra });
    Ok(())
}

fn tools(f: &mut Fields) -> Result<Vec<Tool>> {
    let tools = f.array("tools")?.unwrap_or_default();
    tools.into_iter().enumerate().map(|(i, tool)| one_tool(tool, &format!("tools[{i}]"))).collect()
}

/// A tool without a type, or of type `custom`, is the caller's own; every other type names one that the vendor knows.
fn one_tool(tool: Value, path: &str) -> Result<Tool> {
    match tool.get("type") {
        None | Some(Value::Null) => {}
        Some(Value::String(kind)) if kind == "custom" => {}
        Some(Value::String(kind)) => {
            return Ok(Tool::Hosted { format: FORMAT, kind: kind.clone(), value: tool });
        }
        Some(other) => return Err(json::wrong_type(&format!("{path}.type"), "a string", other)),
    }
    let mut f = Fields::new(tool, path)?;
    f.take("type");
    Ok(Tool::Function(Function {
        name: f.required_string("name")?,
        description: f.string("description")?,
        parameters: f.map("input_schema")?.map(Value::Object),
        strict: f.bool("strict")?,
        custom: false,
        cache: wire::take_cache(&mut f)?,
        extra: f.rest(FORMAT),
    }))
}

fn tool_choice(f: &mut Fields) -> Result<(Option<ToolChoice>, Option<bool>)> {
    let Some(mut choice) = f.object("tool_choice")? else { return Ok((None, None)) };
    let parallel = choice.bool("disable_parallel_tool_use")?.map(|disabled| !disabled);
    let choice = match choice.required_string("type")?.as_str() {
        "auto" => ToolChoice::Auto,
        "any" => ToolChoice::Required,
        "none" => ToolChoice::None,
        "tool" => ToolChoice::Tool { name: choice.required_string("name")?, custom: false },
        other => {
            let message = format!("`tool_choice.type` must be auto, any, tool or none, not `{}`", shown(other));
            return Err(Error::invalid("tool_choice.type", message));
        }
    };
    Ok((Some(choice), parallel))
}

/// `thinking` and `output_config`. What the model has no name for is kept as it stands, in `kept`.
fn thinking_and_output(
    f: &mut Fields,
    kept: &mut Map<String, Value>,
) -> Result<(Option<ReasoningAsk>, Option<Output>)> {
    let thinking = thinking(f, kept)?;
    let mut config = match f.object("output_config")? {
        Some(config) => config,
        None => Fields::new(Value::Object(Map::new()), "output_config")?,
    };
    let effort = config.string("effort")?;
    let format = match config.take("format") {
        Some(format) => Some((format, config.path("format"))),
        // The beta's older place for it.
        None => f.take("output_format").map(|format| (format, "output_format".to_owned())),
    };
    let mut rest = config.rest_map();
    if let Some(effort) = effort.as_deref().filter(|_| thinking.is_none()) {
        // Effort without thinking is this family's own knob: told apart from an ask for thinking on the way back.
        rest.insert("effort".to_owned(), effort.into());
    }
    if !rest.is_empty() {
        kept.insert("output_config".to_owned(), Value::Object(rest));
    }
    let reasoning = match (thinking, effort) {
        (None, None) => None,
        (None, Some(effort)) => Some(ReasoningAsk { effort: Some(effort), ..ReasoningAsk::default() }),
        (Some(ask), effort) => Some(ReasoningAsk { effort, ..ask }),
    };
    Ok((reasoning, format.map(|(format, path)| output(format, path)).transpose()?))
}

fn thinking(f: &mut Fields, kept: &mut Map<String, Value>) -> Result<Option<ReasoningAsk>> {
    let known = |kind: Option<&str>| matches!(kind, Some("enabled" | "adaptive" | "disabled"));
    match f.peek("thinking") {
        Some(Value::Object(map)) if !known(map.get("type").and_then(Value::as_str)) => {
            kept.extend(f.take("thinking").map(|thinking| ("thinking".to_owned(), thinking)));
            return Ok(None);
        }
        _ => {}
    }
    let Some(mut thinking) = f.object("thinking")? else { return Ok(None) };
    let kind = thinking.required_string("type")?;
    let budget = match kind.as_str() {
        "enabled" => {
            let path = thinking.path("budget_tokens");
            let budget = thinking.u64("budget_tokens")?.ok_or_else(|| json::missing(&path))?;
            i64::try_from(budget).map_err(|_| Error::invalid(&path, format!("`{path}` is too large")))?
        }
        "disabled" => 0,
        _ => -1,
    };
    let show = thinking.string("display")?.map(|display| display != "omitted");
    Ok(Some(ReasoningAsk { effort: None, budget: Some(budget), show }))
}

fn output(format: Value, path: String) -> Result<Output> {
    let mut format = Fields::new(format, path)?;
    match format.required_string("type")?.as_str() {
        "json_schema" => {
            let schema = format.map("schema")?.ok_or_else(|| json::missing(&format.path("schema")))?;
            let name = format.string("name")?;
            Ok(Output::Schema { name, description: None, schema: Value::Object(schema), strict: None })
        }
        other => {
            let path = format.path("type");
            Err(Error::invalid(&path, format!("`{path}` must be json_schema, not `{}`", shown(other))))
        }
    }
}

/// `metadata.user_id` is the end user; other keys are kept for this format.
fn metadata(f: &mut Fields, kept: &mut Map<String, Value>) -> Result<Option<String>> {
    let Some(mut metadata) = f.object("metadata")? else { return Ok(None) };
    let user = metadata.string("user_id")?;
    let rest = metadata.rest_map();
    if !rest.is_empty() {
        kept.insert("metadata".to_owned(), Value::Object(rest));
    }
    Ok(user)
}

fn strings(f: &mut Fields, key: &str) -> Result<Vec<String>> {
    let path = f.path(key);
    let items = f.array(key)?.unwrap_or_default();
    items
        .into_iter()
        .enumerate()
        .map(|(i, item)| match item {
            Value::String(text) => Ok(text),
            other => Err(json::wrong_type(&format!("{path}[{i}]"), "a string", &other)),
        })
        .collect()
}

/// A caller's word in a message: never more than a few characters of it.
fn shown(word: &str) -> String {
    word.chars().take(40).collect()
}
