//! A client's Converse body to the model. Strict about what the wire requires, tolerant of what it does not know. Model and
//! streaming stand in the path.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::{
    super::{
        Inbound,
        block::{self, Turn},
        json::{self, Fields},
        wire::{self, FORMAT},
    },
    family,
};
use crate::{
    error::{Error, Result},
    model::{Message, Output, Part, Request, Role, Sampling, Tool, ToolChoice, tool::Function},
};

pub fn decode(body: &[u8], inbound: Inbound<'_>) -> Result<Request> {
    let mut f = Fields::new(json::parse(body)?, "")?;
    let model = inbound.model.map(str::to_owned).ok_or_else(|| json::missing("modelId"))?;
    // SDKs send it in the path; what is left in the body says nothing.
    f.take("modelId");
    let mut messages = system(&mut f)?;
    turns(&mut f, &mut messages)?;
    let mut kept = Map::new();
    let (sampling, max_tokens) = inference(&mut f, &mut kept)?;
    let (tools, tool_choice) = tool_config(&mut f, &mut kept)?;
    let (output, effort) = output_config(&mut f, &mut kept)?;
    let fields = f.map("additionalModelRequestFields")?.unwrap_or_default();
    let mut asked = family::read(&fields);
    if let Some(effort) = effort {
        asked.reasoning.get_or_insert_default().effort.get_or_insert(effort);
    }
    if !fields.is_empty() {
        kept.insert("additionalModelRequestFields".to_owned(), Value::Object(fields));
    }
    let mut request = Request {
        model,
        stream: inbound.stream.unwrap_or(false),
        messages,
        tools,
        tool_choice,
        output,
        sampling: Sampling { top_k: asked.top_k, ..sampling },
        max_tokens,
        reasoning: asked.reasoning,
        metadata: f.map("requestMetadata")?.unwrap_or_default(),
        service_tier: service_tier(&mut f, &mut kept)?,
        ..Request::default()
    };
    request.extra = f.rest(FORMAT);
    for (key, value) in kept {
        request.extra.insert(FORMAT, &key, value);
    }
    Ok(request)
}

fn system(f: &mut Fields) -> Result<Vec<Message>> {
    let Some(content) = f.take("system") else { return Ok(Vec::new()) };
    let parts = block::decode_all(content, "system", Turn::Caller)?;
    Ok(if parts.is_empty() { Vec::new() } else { vec![Message::new(Role::System, parts)] })
}

fn turns(f: &mut Fields, out: &mut Vec<Message>) -> Result<()> {
    let messages = f.array("messages")?.ok_or_else(|| json::missing("messages"))?;
    if messages.is_empty() {
        return Err(Error::invalid("messages", "`messages` must hold at least one message"));
    }
    let mut names = HashMap::new();
    for (i, message) in messages.into_iter().enumerate() {
        turn(Fields::new(message, format!("messages[{i}]"))?, &mut names, out)?;
    }
    Ok(())
}

/// One turn. A user turn with tool results becomes a tool turn, and a user turn for what stands beside them.
fn turn(mut f: Fields, names: &mut HashMap<String, String>, out: &mut Vec<Message>) -> Result<()> {
    let (role, whose) = match f.required_string("role")?.as_str() {
        "user" => (Role::User, Turn::Caller),
        "assistant" => (Role::Assistant, Turn::Model),
        other => {
            let path = f.path("role");
            let word: String = other.chars().take(40).collect();
            return Err(Error::invalid(&path, format!("`{path}` must be user or assistant, not `{word}`")));
        }
    };
    let path = f.path("content");
    let content = f.take("content").ok_or_else(|| json::missing(&path))?;
    let mut parts = block::decode_all(content, &path, whose)?;
    for part in &mut parts {
        match part {
            Part::ToolCall(call) => drop(names.insert(call.id.clone(), call.name.clone())),
            Part::ToolResult(result) => result.name = names.get(&result.call_id).cloned(),
            _ => {}
        }
    }
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

fn inference(f: &mut Fields, kept: &mut Map<String, Value>) -> Result<(Sampling, Option<u64>)> {
    let Some(mut config) = f.object("inferenceConfig")? else { return Ok((Sampling::default(), None)) };
    let path = config.path("stopSequences");
    let stop = config.array("stopSequences")?.unwrap_or_default().into_iter().enumerate();
    let stop = stop.map(|(i, item)| match item {
        Value::String(text) => Ok(text),
        other => Err(json::wrong_type(&format!("{path}[{i}]"), "a string", &other)),
    });
    let sampling = Sampling {
        temperature: config.f64("temperature")?,
        top_p: config.f64("topP")?,
        stop: stop.collect::<Result<_>>()?,
        ..Sampling::default()
    };
    let max_tokens = config.u64("maxTokens")?;
    keep(kept, "inferenceConfig", config.rest_map());
    Ok((sampling, max_tokens))
}

fn tool_config(f: &mut Fields, kept: &mut Map<String, Value>) -> Result<(Vec<Tool>, Option<ToolChoice>)> {
    let Some(mut config) = f.object("toolConfig")? else { return Ok((Vec::new(), None)) };
    let path = config.path("tools");
    let mut tools: Vec<Tool> = Vec::new();
    for (i, tool) in config.array("tools")?.unwrap_or_default().into_iter().enumerate() {
        if let (Some(point), Some(Tool::Function(before))) =
            (tool.get("cachePoint").filter(|p| p.is_object()), tools.last_mut())
            && before.cache.is_none()
        {
            before.cache = Some(wire::read_cache_point(point));
            continue;
        }
        tools.push(one_tool(tool, &format!("{path}[{i}]"))?);
    }
    let choice = config.object("toolChoice")?.map(tool_choice).transpose()?;
    keep(kept, "toolConfig", config.rest_map());
    Ok((tools, choice))
}

fn one_tool(tool: Value, path: &str) -> Result<Tool> {
    let mut f = Fields::new(tool.clone(), path)?;
    let Some(mut spec) = f.object("toolSpec")? else {
        let kind = tool.pointer("/systemTool/name").and_then(Value::as_str).map(str::to_owned);
        let member = || tool.as_object().and_then(|map| map.keys().next().cloned());
        let kind = kind.or_else(member).ok_or_else(|| json::missing(&f.path("toolSpec")))?;
        return Ok(Tool::Hosted { format: FORMAT, kind, value: tool });
    };
    let schema = spec.object("inputSchema")?.and_then(|mut schema| schema.take("json"));
    Ok(Tool::Function(Function {
        name: spec.required_string("name")?,
        description: spec.string("description")?,
        parameters: schema,
        strict: spec.bool("strict")?,
        custom: false,
        cache: None,
        extra: spec.rest(FORMAT),
    }))
}

fn tool_choice(mut choice: Fields) -> Result<ToolChoice> {
    if choice.peek("auto").is_some() {
        Ok(ToolChoice::Auto)
    } else if choice.peek("any").is_some() {
        Ok(ToolChoice::Required)
    } else if let Some(mut tool) = choice.object("tool")? {
        Ok(ToolChoice::Tool { name: tool.required_string("name")?, custom: false })
    } else {
        let path = choice.own_path();
        Err(Error::invalid(path, format!("`{path}` must have one of `auto`, `any` and `tool`")))
    }
}

/// The schema travels as text here.
fn output_config(f: &mut Fields, kept: &mut Map<String, Value>) -> Result<(Option<Output>, Option<String>)> {
    let Some(mut config) = f.object("outputConfig")? else { return Ok((None, None)) };
    let effort = config.string("effort")?;
    let mut output = None;
    if let Some(mut format) = config.object("textFormat")? {
        let path = format.path("structure");
        let mut structure = format.object("structure")?.ok_or_else(|| json::missing(&path))?;
        let path = structure.path("jsonSchema");
        let mut schema = structure.object("jsonSchema")?.ok_or_else(|| json::missing(&path))?;
        let path = schema.path("schema");
        let text = schema.required_string("schema")?;
        let parsed = serde_json::from_str(&text)
            .map_err(|e| Error::invalid(&path, format!("`{path}` must be a JSON schema as text: {e}")))?;
        output = Some(Output::Schema {
            name: schema.string("name")?,
            description: schema.string("description")?,
            schema: parsed,
            strict: None,
        });
    }
    keep(kept, "outputConfig", config.rest_map());
    Ok((output, effort))
}

fn service_tier(f: &mut Fields, kept: &mut Map<String, Value>) -> Result<Option<String>> {
    let Some(mut tier) = f.object("serviceTier")? else { return Ok(None) };
    let kind = tier.string("type")?;
    keep(kept, "serviceTier", tier.rest_map());
    Ok(kind)
}

/// What an inner object holds beside what is known.
fn keep(kept: &mut Map<String, Value>, key: &str, rest: Map<String, Value>) {
    if !rest.is_empty() {
        kept.insert(key.to_owned(), Value::Object(rest));
    }
}
