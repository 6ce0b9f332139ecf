//! A client's chat body to the model. Strict about what the wire requires, tolerant of what it does not know.

use std::collections::HashMap;

use serde_json::Value;

use super::super::{
    Inbound,
    json::{self, Fields},
    wire::{self, FORMAT},
};
use crate::{
    error::{Error, Result},
    model::{
        LogprobsAsk, Message, Output, Part, ReasoningAsk, Request, Role, Sampling, Tool, ToolChoice, ToolKind,
        ToolResult, tool::Function,
    },
};

pub fn decode(body: &[u8], inbound: Inbound<'_>) -> Result<Request> {
    let mut f = Fields::new(json::parse(body)?, "")?;
    let named = f.string("model")?;
    let model = inbound.model.map(str::to_owned).or(named).ok_or_else(|| json::missing("model"))?;
    let mut messages = turns(&mut f)?;
    documents(&mut f, &mut messages)?;
    let strict = f.bool("strict_tools")?;
    let stream = f.bool("stream")?;
    Ok(Request {
        model,
        stream: inbound.stream.or(stream).unwrap_or(false),
        messages,
        tools: tools(&mut f, strict)?,
        tool_choice: tool_choice(&mut f)?,
        output: output(&mut f)?,
        sampling: Sampling {
            temperature: f.f64("temperature")?,
            top_p: f.f64("p")?,
            top_k: f.u64("k")?,
            frequency_penalty: f.f64("frequency_penalty")?,
            presence_penalty: f.f64("presence_penalty")?,
            seed: f.i64("seed")?,
            stop: stops(&mut f)?,
            logit_bias: None,
        },
        max_tokens: f.u64("max_tokens")?,
        reasoning: thinking(&mut f)?,
        logprobs: (f.bool("logprobs")? == Some(true)).then(LogprobsAsk::default),
        extra: f.rest(FORMAT),
        ..Request::default()
    })
}

fn turns(f: &mut Fields) -> Result<Vec<Message>> {
    let messages = f.array("messages")?.ok_or_else(|| json::missing("messages"))?;
    if messages.is_empty() {
        return Err(Error::invalid("messages", "`messages` must hold at least one message"));
    }
    let (mut out, mut names) = (Vec::with_capacity(messages.len()), HashMap::new());
    for (i, message) in messages.into_iter().enumerate() {
        out.push(turn(Fields::new(message, format!("messages[{i}]"))?, &mut names)?);
    }
    Ok(out)
}

fn turn(mut f: Fields, names: &mut HashMap<String, String>) -> Result<Message> {
    let path = f.path("content");
    let content = |f: &mut Fields| f.take("content").map(|content| wire::read_content(content, &path)).transpose();
    let required = |parts: Option<Vec<Part>>| parts.ok_or_else(|| json::missing(&path));
    let (role, parts) = match f.required_string("role")?.as_str() {
        "system" | "developer" => (Role::System, required(content(&mut f)?)?),
        "user" => (Role::User, required(content(&mut f)?)?),
        "tool" => {
            let id = f.required_string("tool_call_id")?;
            let call_id = crate::codec::signature::split_id(&id).0.to_owned();
            let result = ToolResult {
                name: names.get(&call_id).cloned(),
                call_id,
                kind: ToolKind::Function,
                parts: required(content(&mut f)?)?.into_iter().map(wire::result).collect(),
                object: None,
                is_error: None,
                cache: None,
                extra: Default::default(),
            };
            (Role::Tool, vec![Part::ToolResult(result)])
        }
        "assistant" => {
            let content = content(&mut f)?.unwrap_or_default();
            (Role::Assistant, assistant(&mut f, content, names)?)
        }
        other => {
            let (path, word) = (f.path("role"), other.chars().take(40).collect::<String>());
            let message = format!("`{path}` must be system, user, assistant or tool, not `{word}`");
            return Err(Error::invalid(&path, message));
        }
    };
    Ok(Message { role, parts, name: None, extra: f.rest(FORMAT) })
}

/// What a model said: its plan, its content, its calls.
fn assistant(f: &mut Fields, content: Vec<Part>, names: &mut HashMap<String, String>) -> Result<Vec<Part>> {
    let plan = f.string("tool_plan")?.filter(|plan| !plan.is_empty());
    let mut parts: Vec<Part> = plan.map(wire::plan).into_iter().collect();
    let plans = parts.len();
    parts.extend(content);
    wire::place_citations(&mut parts, plans, f.array("citations")?.unwrap_or_default());
    let path = f.path("tool_calls");
    for (i, call) in f.array("tool_calls")?.unwrap_or_default().into_iter().enumerate() {
        let call = wire::read_call(call, &format!("{path}[{i}]"))?;
        names.insert(call.id.clone(), call.name.clone());
        parts.push(Part::ToolCall(call));
    }
    Ok(parts)
}

/// Texts that an answer may cite, beside the conversation: they belong to the turn that asks about them.
fn documents(f: &mut Fields, messages: &mut Vec<Message>) -> Result<()> {
    let given = f.array("documents")?.unwrap_or_default();
    let parts = given.into_iter().enumerate().map(|(i, document)| {
        wire::document(document).map_err(|e| Error::invalid(format!("documents[{i}]"), e.message.clone()))
    });
    let parts = parts.collect::<Result<Vec<Part>>>()?;
    if parts.is_empty() {
        return Ok(());
    }
    match messages.iter_mut().rev().find(|m| m.role == Role::User) {
        Some(turn) => turn.parts.extend(parts),
        None => messages.push(Message::new(Role::User, parts)),
    }
    Ok(())
}

fn tools(f: &mut Fields, strict: Option<bool>) -> Result<Vec<Tool>> {
    let tools = f.array("tools")?.unwrap_or_default();
    let one = |(i, tool): (usize, Value)| {
        let path = format!("tools[{i}]");
        if let Some(kind) = tool.get("type").and_then(Value::as_str).filter(|kind| *kind != "function") {
            return Ok(Tool::Hosted { format: FORMAT, kind: kind.to_owned(), value: tool });
        }
        let mut f = Fields::new(tool, path)?;
        f.take("type");
        let path = f.path("function");
        let mut inner = f.object("function")?.ok_or_else(|| json::missing(&path))?;
        Ok(Tool::Function(Function {
            name: inner.required_string("name")?,
            description: inner.string("description")?,
            parameters: inner.map("parameters")?.map(Value::Object),
            strict,
            custom: false,
            cache: None,
            extra: inner.rest(FORMAT),
        }))
    };
    tools.into_iter().enumerate().map(one).collect()
}

fn tool_choice(f: &mut Fields) -> Result<Option<ToolChoice>> {
    match f.string("tool_choice")?.as_deref() {
        None => Ok(None),
        Some("REQUIRED") => Ok(Some(ToolChoice::Required)),
        Some("NONE") => Ok(Some(ToolChoice::None)),
        Some(_) => Err(Error::invalid("tool_choice", "`tool_choice` must be REQUIRED or NONE")),
    }
}

fn output(f: &mut Fields) -> Result<Option<Output>> {
    let Some(mut format) = f.object("response_format")? else { return Ok(None) };
    let path = format.path("type");
    let schema = format.map("json_schema")?.or(format.map("schema")?);
    match (format.required_string("type")?.as_str(), schema) {
        ("json_object", Some(schema)) => {
            let schema = Value::Object(schema);
            Ok(Some(Output::Schema { name: None, description: None, schema, strict: None }))
        }
        ("json_object", None) => Ok(Some(Output::Json)),
        ("text", _) => Ok(Some(Output::Text)),
        _ => Err(Error::invalid(&path, format!("`{path}` must be text or json_object"))),
    }
}

fn thinking(f: &mut Fields) -> Result<Option<ReasoningAsk>> {
    let Some(mut thinking) = f.object("thinking")? else { return Ok(None) };
    let path = thinking.path("type");
    let budget = match thinking.required_string("type")?.as_str() {
        "enabled" => thinking.i64("token_budget")?.unwrap_or(-1),
        "disabled" => 0,
        _ => return Err(Error::invalid(&path, format!("`{path}` must be enabled or disabled"))),
    };
    Ok(Some(ReasoningAsk { budget: Some(budget), ..ReasoningAsk::default() }))
}

fn stops(f: &mut Fields) -> Result<Vec<String>> {
    let items = f.array("stop_sequences")?.unwrap_or_default().into_iter().enumerate();
    items
        .map(|(i, item)| match item {
            Value::String(text) => Ok(text),
            other => Err(json::wrong_type(&format!("stop_sequences[{i}]"), "a string", &other)),
        })
        .collect()
}
