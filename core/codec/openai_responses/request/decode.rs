//! A client's request to the model: items become turns, an assistant's items in a row one turn. Fields without a name in
//! the model stay with this format.

use std::collections::HashMap;

use serde_json::Value;

use super::{
    super::{
        content,
        item::{self, Items},
        wire::{F, INSTRUCTIONS, SAFETY_ID},
    },
    tools,
};
use crate::{
    codec::{
        json::{Fields, missing, parse, wrong_type},
        signature,
    },
    error::{Error, Result},
    model::{Extra, LogprobsAsk, Message, Output, Part, ReasoningAsk, Request, Role, Sampling, ToolKind, ToolResult},
};

pub fn decode(body: &[u8]) -> Result<Request> {
    let mut f = Fields::new(parse(body)?, "")?;
    let model = f.required_string("model")?;
    let mut messages = Vec::new();
    match f.take("instructions") {
        None => {}
        Some(Value::String(text)) => {
            let mut message = Message::text(Role::System, text);
            message.extra.insert(F, INSTRUCTIONS, true.into());
            messages.push(message);
        }
        Some(other) => return Err(wrong_type("instructions", "a string", &other)),
    }
    if let Some(prompt) = f.take("prompt") {
        // A template that lives at the vendor: a part of its own, so that others refuse it by name.
        let part = Part::Native { format: F, kind: "prompt".to_owned(), value: prompt };
        messages.push(Message::new(Role::System, vec![part]));
    }
    input(f.take("input"), &mut messages)?;
    let (verbosity, output, text) = text(&mut f)?;
    let reasoning = reasoning(f.peek("reasoning"));
    let logprobs = f.peek("include").and_then(Value::as_array).is_some_and(|list| list.iter().any(|v| v == LOGPROBS));
    let top = f.u64("top_logprobs")?;
    let (user, safety) = (f.string("user")?, f.string("safety_identifier")?);
    let (tool_choice, verbatim) = tools::choice(f.take("tool_choice"))?;
    let mut request = Request {
        model,
        stream: f.bool("stream")?.unwrap_or(false),
        messages,
        tools: tools::decode(f.array("tools")?.unwrap_or_default())?,
        tool_choice,
        parallel_tool_calls: f.bool("parallel_tool_calls")?,
        output,
        sampling: Sampling { temperature: f.f64("temperature")?, top_p: f.f64("top_p")?, ..Sampling::default() },
        max_tokens: f.u64("max_output_tokens")?,
        n: None,
        logprobs: (logprobs || top.is_some_and(|n| n > 0)).then_some(LogprobsAsk { top }),
        reasoning,
        user: user.clone().or_else(|| safety.clone()),
        metadata: f.map("metadata")?.unwrap_or_default(),
        service_tier: f.string("service_tier")?,
        verbosity,
        include_usage: false,
        extra: Extra::default(),
    };
    request.extra = f.rest(F);
    match (user, safety) {
        (None, Some(_)) => request.extra.insert(F, SAFETY_ID, true.into()),
        (Some(_), Some(safety)) => request.extra.insert(F, "safety_identifier", safety.into()),
        _ => {}
    }
    for (key, value) in [("$text", text), ("$tool_choice", verbatim)] {
        if let Some(value) = value {
            request.extra.insert(F, key, value);
        }
    }
    Ok(request)
}

/// `text{format, verbosity}`; what else stands in it is kept.
fn text(f: &mut Fields) -> Result<(Option<String>, Option<Output>, Option<Value>)> {
    let Some(mut text) = f.object("text")? else { return Ok((None, None, None)) };
    let verbosity = text.string("verbosity")?;
    let Some(mut format) = text.object("format")? else {
        let rest = text.rest_map();
        return Ok((verbosity, None, (!rest.is_empty()).then_some(Value::Object(rest))));
    };
    let kind = format.required_string("type")?;
    let output = match kind.as_str() {
        "text" => Some(Output::Text),
        "json_object" => Some(Output::Json),
        "json_schema" => Some(Output::Schema {
            name: format.string("name")?,
            description: format.string("description")?,
            schema: format.take("schema").ok_or_else(|| missing("text.format.schema"))?,
            strict: format.bool("strict")?,
        }),
        _ => {
            // A grammar, say: nobody else's business, and no knob.
            format.put("type", kind.into());
            text.put("format", Value::Object(format.rest_map()));
            None
        }
    };
    let rest = text.rest_map();
    Ok((verbosity, output, (!rest.is_empty()).then_some(Value::Object(rest))))
}

/// It stays with the unknown fields too, in its own words.
pub fn reasoning(value: Option<&Value>) -> Option<ReasoningAsk> {
    let map = value?.as_object()?;
    let text = |key: &str| map.get(key).and_then(Value::as_str);
    let effort = text("effort").map(str::to_owned);
    let show = text("summary").or_else(|| text("generate_summary")).map(|_| true);
    (effort.is_some() || show.is_some()).then_some(ReasoningAsk { effort, budget: None, show })
}

/// Names of calls by id: results have only the id.
type Names = HashMap<String, String>;

fn input(value: Option<Value>, messages: &mut Vec<Message>) -> Result<()> {
    let items = match value {
        Some(Value::String(text)) => {
            messages.push(Message::text(Role::User, text));
            return Ok(());
        }
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong_type("input", "a string or an array of items", &other)),
        None if messages.is_empty() => return Err(missing("input")),
        None => return Ok(()),
    };
    let mut names = Names::new();
    let mut said = Items::default();
    for (at, item) in items.into_iter().enumerate() {
        let path = format!("input[{at}]");
        if let Value::String(text) = item {
            release(&mut said, messages, &mut names);
            messages.push(Message::text(Role::User, text));
            continue;
        }
        let kind = item::kind(&item, &path)?;
        let role = item.get("role").and_then(Value::as_str).unwrap_or_default();
        if kind == "message" && role != "assistant" {
            release(&mut said, messages, &mut names);
            messages.push(message(item, &path)?);
        } else if let "function_call_output" | "custom_tool_call_output" = kind.as_str() {
            release(&mut said, messages, &mut names);
            messages.push(Message::new(Role::Tool, vec![result(item, &path, &kind, &names)?]));
        } else if answers(&kind) {
            release(&mut said, messages, &mut names);
            messages.push(Message::new(Role::User, vec![Part::Native { format: F, kind, value: item }]));
        } else {
            said.read(item, &path)?;
        }
    }
    release(&mut said, messages, &mut names);
    Ok(())
}

/// Items by which a client answers a hosted tool, or that are context from its side.
fn answers(kind: &str) -> bool {
    kind.ends_with("_output") || matches!(kind, "mcp_approval_response" | "additional_tools" | "item_reference")
}

/// The assistant's items up to here are one turn.
fn release(said: &mut Items, messages: &mut Vec<Message>, names: &mut Names) {
    let Items { parts, logprobs: _, called: _, searches: _ } = std::mem::take(said);
    if parts.is_empty() {
        return;
    }
    for part in &parts {
        if let Part::ToolCall(call) = part {
            names.insert(call.id.clone(), call.name.clone());
        }
    }
    messages.push(Message::new(Role::Assistant, parts));
}

fn message(item: Value, path: &str) -> Result<Message> {
    let mut f = Fields::new(item, path)?;
    f.take("type");
    let role = f.required_string("role")?;
    let role = match role.as_str() {
        "system" => Role::System,
        "developer" => Role::Developer,
        "user" => Role::User,
        _ => {
            let path = f.path("role");
            return Err(Error::invalid(path.clone(), format!("`{path}` must be user, assistant, system or developer")));
        }
    };
    let at = f.path("content");
    let parts = content::decode(f.take("content").ok_or_else(|| missing(&at))?, &at)?;
    Ok(Message { role, parts, name: None, extra: f.rest(F) })
}

fn result(item: Value, path: &str, kind: &str, names: &Names) -> Result<Part> {
    let mut f = Fields::new(item, path)?;
    f.take("type");
    let id = f.required_string("call_id")?;
    let call_id = signature::split_id(&id).0.to_owned();
    let at = f.path("output");
    let parts = match f.take("output") {
        None => return Err(missing(&at)),
        Some(value @ (Value::String(_) | Value::Array(_))) => content::decode(value, &at)?,
        // The object itself, as some clients send it.
        Some(value) => vec![Part::text(value.to_string())],
    };
    let mut extra = f.rest_map();
    extra.shift_remove("status");
    Ok(Part::ToolResult(ToolResult {
        name: names.get(&call_id).cloned(),
        call_id,
        kind: if kind == "custom_tool_call_output" { ToolKind::Custom } else { ToolKind::Function },
        parts,
        object: None,
        is_error: None,
        cache: None,
        extra: Extra::new(F, extra),
    }))
}

/// In `include`: asks for log probabilities.
pub const LOGPROBS: &str = "message.output_text.logprobs";
