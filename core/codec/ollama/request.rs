//! Requests, both ways: `POST /api/chat`. A message holds one text, its pictures as bytes, and calls whose arguments are
//! objects; knobs stand in `options`.

use serde_json::{Map, Value, json};

use super::{
    Dialect, Encoded, Inbound, forced,
    json::{self, Fields},
    wire::{self, FORMAT},
};
use crate::{
    codec::{calls, foreign, schema},
    error::{Error, Result},
    model::{
        Extra, LogprobsAsk, Message, Output, Part, ReasoningAsk, Request, Role, Sampling, Tool, ToolChoice, ToolKind,
        ToolResult, tool::Function,
    },
};

pub fn decode(body: &[u8], inbound: Inbound<'_>) -> Result<Request> {
    let mut f = Fields::new(json::parse(body)?, "")?;
    let named = f.string("model")?;
    let model = inbound.model.map(str::to_owned).or(named).ok_or_else(|| json::missing("model"))?;
    let messages = messages(&mut f)?;
    let mut options = match f.object("options")? {
        Some(options) => options,
        None => Fields::new(Value::Object(Map::new()), "options")?,
    };
    let stops = match options.take("stop") {
        None => Vec::new(),
        Some(Value::String(stop)) => vec![stop],
        Some(Value::Array(list)) => list.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        Some(other) => return Err(json::wrong_type("options.stop", "a string or an array of strings", &other)),
    };
    let sampling = Sampling {
        temperature: options.f64("temperature")?,
        top_p: options.f64("top_p")?,
        top_k: options.u64("top_k")?,
        frequency_penalty: options.f64("frequency_penalty")?,
        presence_penalty: options.f64("presence_penalty")?,
        seed: options.i64("seed")?,
        stop: stops,
        logit_bias: None,
    };
    // Below zero means no bound.
    let max_tokens = options.i64("num_predict")?.and_then(|n| u64::try_from(n).ok());
    let rest = options.rest_map();
    // It streams unless told otherwise.
    let stream = f.bool("stream")?.unwrap_or(true);
    let choice = f.peek("format").and_then(forced::read_choice);
    if choice.is_some() {
        f.take("format");
    }
    let mut request = Request {
        tool_choice: choice,
        model,
        stream: inbound.stream.unwrap_or(stream),
        messages,
        tools: tools(&mut f)?,
        output: output(&mut f)?,
        sampling,
        max_tokens,
        reasoning: think(&mut f)?,
        logprobs: logprobs(&mut f)?,
        ..Request::default()
    };
    request.extra = f.rest(FORMAT);
    if !rest.is_empty() {
        request.extra.insert(FORMAT, "options", Value::Object(rest));
    }
    Ok(request)
}

fn messages(f: &mut Fields) -> Result<Vec<Message>> {
    let list = f.array("messages")?.ok_or_else(|| json::missing("messages"))?;
    let mut out = Vec::with_capacity(list.len());
    // Calls that no result has answered yet: (id, name).
    let (mut open, mut seen): (Vec<(String, String)>, usize) = (Vec::new(), 0);
    for (i, message) in list.into_iter().enumerate() {
        let mut f = Fields::new(message, format!("messages[{i}]"))?;
        let role = match f.required_string("role")?.as_str() {
            "system" => Role::System,
            "user" => Role::User,
            "assistant" => Role::Assistant,
            "tool" => Role::Tool,
            other => {
                let (path, word) = (f.path("role"), other.chars().take(40).collect::<String>());
                let message = format!("`{path}` must be system, user, assistant or tool, not `{word}`");
                return Err(Error::invalid(&path, message));
            }
        };
        let (given, name) = (f.string("tool_call_id")?, f.string("tool_name")?);
        let mut parts = wire::read_parts(&mut f, seen)?;
        for part in &parts {
            if let Part::ToolCall(call) = part {
                seen += 1;
                open.push((call.id.clone(), call.name.clone()));
            }
        }
        if role == Role::Tool {
            // By its id, else by its name, else in order.
            let fits = |(id, called): &(String, String)| match (&given, &name) {
                (Some(given), _) => id == given,
                (None, Some(name)) => called == name,
                (None, None) => true,
            };
            let found = open.iter().position(fits).map(|at| open.remove(at));
            let (call_id, name) = match found {
                Some((id, called)) => (id, Some(called)),
                None => (given.unwrap_or_default(), name),
            };
            let result = ToolResult {
                call_id,
                name,
                kind: ToolKind::Function,
                parts: std::mem::take(&mut parts),
                object: None,
                is_error: None,
                cache: None,
                extra: Extra::default(),
            };
            parts.push(Part::ToolResult(result));
        }
        out.push(Message { role, parts, name: None, extra: f.rest(FORMAT) });
    }
    Ok(out)
}

fn tools(f: &mut Fields) -> Result<Vec<Tool>> {
    let list = f.array("tools")?.unwrap_or_default();
    let one = |(i, tool): (usize, Value)| {
        let mut f = Fields::new(tool, format!("tools[{i}]"))?;
        f.take("type");
        let path = f.path("function");
        let mut inner = f.object("function")?.ok_or_else(|| json::missing(&path))?;
        Ok(Tool::Function(Function {
            name: inner.required_string("name")?,
            description: inner.string("description")?,
            parameters: inner.map("parameters")?.map(Value::Object),
            strict: None,
            custom: false,
            cache: None,
            extra: inner.rest(FORMAT),
        }))
    };
    list.into_iter().enumerate().map(one).collect()
}

fn output(f: &mut Fields) -> Result<Option<Output>> {
    match f.take("format") {
        None => Ok(None),
        Some(Value::String(word)) if word.is_empty() => Ok(None),
        Some(Value::String(word)) if word == "json" => Ok(Some(Output::Json)),
        Some(schema @ Value::Object(_)) => {
            Ok(Some(Output::Schema { name: None, description: None, schema, strict: None }))
        }
        Some(other) => Err(json::wrong_type("format", "\"json\" or a JSON schema", &other)),
    }
}

fn logprobs(f: &mut Fields) -> Result<Option<LogprobsAsk>> {
    let (asked, top) = (f.bool("logprobs")?, f.u64("top_logprobs")?);
    Ok((asked == Some(true)).then_some(LogprobsAsk { top }))
}

fn think(f: &mut Fields) -> Result<Option<ReasoningAsk>> {
    match f.take("think") {
        None => Ok(None),
        Some(Value::Bool(on)) => Ok(Some(ReasoningAsk { budget: Some(if on { -1 } else { 0 }), ..Default::default() })),
        Some(Value::String(level)) => Ok(Some(ReasoningAsk { effort: Some(level), ..Default::default() })),
        Some(other) => Err(json::wrong_type("think", "true, false or a level", &other)),
    }
}

pub fn encode(request: &Request, dialect: &Dialect) -> Result<Encoded> {
    let Request {
        model: _,
        stream,
        messages,
        tools,
        tool_choice,
        parallel_tool_calls,
        output,
        sampling,
        max_tokens,
        n,
        logprobs,
        reasoning,
        user,
        metadata,
        service_tier,
        verbosity,
        include_usage: _,
        extra,
    } = request;
    let mut dropped = Vec::new();
    let lacks_logprobs = logprobs.is_some() && dialect.lacks.contains(&"logprobs");
    for (feature, asked) in [("n", n.is_some_and(|n| n > 1)), ("logprobs", lacks_logprobs)] {
        if asked {
            return Err(Error::unsupported(feature, format!("this server has no `{feature}`; leave it out")));
        }
    }
    foreign::refuse(extra, FORMAT, &[])?;
    foreign::note(extra, FORMAT, &mut dropped);
    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    put("model", dialect.model.as_str().into());
    put("messages", Value::Array(super::turns::encode(messages, dialect, &mut dropped)?));
    // Said always: it streams unless told otherwise.
    put("stream", (*stream).into());
    let list = tool_list(tools, tool_choice.as_ref(), dialect)?;
    let shape = if forces(tool_choice.as_ref()) { Some(shape_of(&list, tool_choice.as_ref())?) } else { None };
    if !list.is_empty() {
        put("tools", Value::Array(list));
    }
    match output.as_ref().filter(|_| shape.is_none()) {
        None | Some(Output::Text) => {}
        Some(Output::Json) => drop(put("format", "json".into())),
        Some(Output::Schema { .. }) if dialect.lacks.contains(&"json_schema") => {
            let message = "this model cannot bind its answer to a JSON schema; choose one that can";
            return Err(Error::unsupported("json_schema", message));
        }
        Some(Output::Schema { schema, description, .. }) => {
            put("format", schema::told(schema, description.as_deref()));
        }
    }
    if let Some(shape) = shape {
        put("format", shape);
    }
    if let Some(ask) = logprobs {
        put("logprobs", true.into());
        ask.top.map(|top| put("top_logprobs", top.into()));
    }
    match reasoning.as_ref().and_then(|ask| thinking(ask, &dialect.model)) {
        // Thinking that is switched off is nothing that a model could lack.
        Some(_) if dialect.lacks.contains(&"reasoning") && reasoning.as_ref().is_some_and(|ask| ask.is_off()) => {}
        Some(_) if dialect.lacks.contains(&"reasoning") => dropped.push("reasoning_effort"),
        Some(_) if dialect.refuses.contains(&"reasoning_effort") => dropped.push("reasoning_effort"),
        Some(think) => drop(put("think", think)),
        None => {}
    }
    let mut options = options(sampling, *max_tokens, extra, dialect, &mut dropped);
    // Other servers of such models have them at the top.
    for (theirs, own) in [("min_p", "min_p"), ("repetition_penalty", "repeat_penalty")] {
        for (_, value) in foreign::shared(extra, FORMAT, &[theirs]) {
            dropped.retain(|name| *name != theirs);
            options.entry(own).or_insert_with(|| value.clone());
        }
    }
    if !options.is_empty() {
        put("options", Value::Object(options));
    }
    for (name, given) in [
        ("parallel_tool_calls", parallel_tool_calls == &Some(false)),
        ("user", user.is_some()),
        ("metadata", !metadata.is_empty()),
        ("service_tier", service_tier.is_some()),
        ("verbosity", verbosity.is_some()),
    ] {
        if given {
            dropped.push(name);
        }
    }
    for (key, value) in extra.of(FORMAT).into_iter().flatten() {
        body.entry(key).or_insert_with(|| value.clone());
    }
    dropped.sort_unstable();
    dropped.dedup();
    Ok(Encoded { body, dropped })
}

fn options(
    sampling: &Sampling,
    max_tokens: Option<u64>,
    extra: &Extra,
    dialect: &Dialect,
    dropped: &mut Vec<&'static str>,
) -> Map<String, Value> {
    let Sampling { temperature, top_p, top_k, frequency_penalty, presence_penalty, seed, stop, logit_bias } = sampling;
    let mut out = match extra.of(FORMAT).and_then(|kept| kept.get("options")) {
        Some(Value::Object(kept)) => kept.clone(),
        _ => Map::new(),
    };
    let stops = (!stop.is_empty()).then(|| stop.iter().map(|stop| Value::from(stop.as_str())).collect());
    for (name, key, value) in [
        ("temperature", "temperature", temperature.map(json::number)),
        ("top_p", "top_p", top_p.map(json::number)),
        ("top_k", "top_k", top_k.map(Value::from)),
        ("frequency_penalty", "frequency_penalty", frequency_penalty.map(json::number)),
        ("presence_penalty", "presence_penalty", presence_penalty.map(json::number)),
        ("seed", "seed", seed.map(Value::from)),
        ("stop", "stop", stops),
        ("max_tokens", "num_predict", max_tokens.map(Value::from)),
    ] {
        let Some(value) = value else { continue };
        if dialect.refuses.contains(&name) {
            dropped.push(name);
        } else {
            out.insert(key.to_owned(), value);
        }
    }
    if logit_bias.is_some() {
        dropped.push("logit_bias");
    }
    out
}

/// Levels are one family's; the others think or do not.
fn thinking(ask: &ReasoningAsk, model: &str) -> Option<Value> {
    match (ask.effort.as_deref(), ask.budget) {
        (Some("none"), _) | (None, Some(0)) => Some(false.into()),
        (Some(effort), _) if model.contains("gpt-oss") => Some(
            match effort {
                "minimal" | "low" => "low",
                "high" | "xhigh" | "max" => "high",
                _ => "medium",
            }
            .into(),
        ),
        (Some(_), _) | (None, Some(_)) => Some(true.into()),
        (None, None) => None,
    }
}

fn forces(choice: Option<&ToolChoice>) -> bool {
    matches!(choice, Some(ToolChoice::Required | ToolChoice::Tool { .. } | ToolChoice::Allowed { required: true, .. }))
}

fn called(tool: &Value) -> Option<(&str, &Value)> {
    Some((tool.pointer("/function/name")?.as_str()?, tool.pointer("/function/parameters")?))
}

/// The shape that makes an answer a call of one of these (see `forced`).
fn shape_of(list: &[Value], choice: Option<&ToolChoice>) -> Result<Value> {
    let tools: Vec<_> = list.iter().filter_map(called).collect();
    let only = match choice {
        Some(ToolChoice::Tool { name, .. }) => Some(tools.iter().find(|(own, _)| own == name).copied()),
        _ => None,
    };
    match only {
        Some(Some(tool)) => Ok(forced::shape_of(tool)),
        None if !tools.is_empty() => Ok(forced::shape(&tools)),
        _ => {
            let message = "a call is forced of a tool that is not among `tools`; offer it, or let the model choose";
            Err(Error::unsupported("tool_choice", message))
        }
    }
}

/// The wire has no choice: "none" leaves the tools out, "one of these" leaves the others out.
fn tool_list(tools: &[Tool], choice: Option<&ToolChoice>, dialect: &Dialect) -> Result<Vec<Value>> {
    if !tools.is_empty() && dialect.lacks.contains(&"tools") {
        return Err(Error::unsupported("tools", "this model takes no tools; choose one that does"));
    }
    let names = match choice {
        Some(ToolChoice::None) => return Ok(Vec::new()),
        Some(ToolChoice::Allowed { names, required: _ }) => Some(names),
        Some(ToolChoice::Auto | ToolChoice::Required | ToolChoice::Tool { .. }) | None => None,
    };
    let mut out = Vec::new();
    for tool in tools {
        let Function { name, description, parameters, strict: _, custom, cache: _, extra } = match tool {
            Tool::Function(function) => function,
            Tool::Hosted { format, kind, value: _ } => {
                let message = format!(
                    "the tool `{kind}` runs at {} models only; leave it out or choose such a model",
                    format.name()
                );
                return Err(Error::unsupported(kind, message));
            }
        };
        if names.is_some_and(|names| !names.contains(name)) {
            continue;
        }
        let schema = match parameters {
            _ if *custom => calls::custom_schema(),
            None => json!({"type": "object", "properties": {}}),
            Some(given) => calls::rooted(given.clone()),
        };
        let mut inner = Map::new();
        inner.insert("name".to_owned(), name.as_str().into());
        if let Some(description) = description {
            inner.insert("description".to_owned(), description.as_str().into());
        }
        inner.insert("parameters".to_owned(), schema);
        for (key, value) in extra.of(FORMAT).into_iter().flatten() {
            inner.entry(key).or_insert_with(|| value.clone());
        }
        out.push(json!({"type": "function", "function": inner}));
    }
    Ok(out)
}
