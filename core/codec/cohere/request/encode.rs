//! The model to a chat body for an upstream. Refuses what the wire cannot say, drops knobs it does not have and says which.

use serde_json::{Map, Value, json};

use super::{
    super::{
        Dialect, Encoded,
        json::{self},
        wire::{self, FORMAT},
    },
    turns,
};
use crate::{
    codec::{anthropic_messages::knobs, calls, foreign, schema},
    error::{Error, Result},
    model::{Output, ReasoningAsk, Request, Sampling, Tool, ToolChoice, tool::Function},
};

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
    if n.is_some_and(|n| n > 1) {
        return Err(Error::unsupported("n", "this model gives one answer a request; leave out `n` or set it to 1"));
    }
    if logprobs.is_some() && dialect.lacks.contains(&"logprobs") {
        return Err(Error::unsupported("logprobs", "this model gives no log probabilities; leave them out"));
    }
    foreign::refuse(extra, FORMAT, &[])?;
    foreign::note(extra, FORMAT, &mut dropped);
    let written = turns::encode(messages, dialect, &mut dropped)?;
    let mut body = Map::new();
    body.insert("model".to_owned(), dialect.model.as_str().into());
    if *stream {
        body.insert("stream".to_owned(), true.into());
    }
    body.insert("messages".to_owned(), Value::Array(written.messages));
    if !written.documents.is_empty() {
        body.insert("documents".to_owned(), Value::Array(written.documents));
    }
    tool_fields(tools, tool_choice.as_ref(), dialect, &mut body)?;
    match output {
        None => {}
        Some(_) if dialect.lacks.contains(&"json_schema") && matches!(output, Some(Output::Schema { .. })) => {
            let message = "this model cannot bind its answer to a JSON schema; choose one that can";
            return Err(Error::unsupported("json_schema", message));
        }
        Some(Output::Text) => drop(body.insert("response_format".to_owned(), json!({"type": "text"}))),
        Some(Output::Json) => drop(body.insert("response_format".to_owned(), json!({"type": "json_object"}))),
        Some(Output::Schema { name: _, description, schema, strict: _ }) => {
            let schema = schema::told(schema, description.as_deref());
            let format = json!({"type": "json_object", "json_schema": schema});
            body.insert("response_format".to_owned(), format);
        }
    }
    knob("max_tokens", "max_tokens", max_tokens.map(Value::from), dialect, &mut dropped, &mut body);
    sampling_fields(sampling, dialect, &mut dropped, &mut body);
    let thinks = !dialect.lacks.contains(&"reasoning");
    if !thinks && reasoning.as_ref().is_some_and(|ask| !ask.is_off()) {
        dropped.push("reasoning_effort");
    }
    let thinking = reasoning.as_ref().filter(|_| thinks).and_then(thinking);
    knob("reasoning_effort", "thinking", thinking, dialect, &mut dropped, &mut body);
    if logprobs.is_some() {
        body.insert("logprobs".to_owned(), true.into());
    }
    for (name, given) in [
        ("top_logprobs", logprobs.as_ref().is_some_and(|ask| ask.top.is_some_and(|top| top > 0))),
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
    wire::give_back(&mut body, extra);
    dropped.sort_unstable();
    dropped.dedup();
    Ok(Encoded { body, dropped })
}

fn knob(
    name: &'static str,
    key: &str,
    value: Option<Value>,
    dialect: &Dialect,
    dropped: &mut Vec<&'static str>,
    body: &mut Map<String, Value>,
) {
    let Some(value) = value else { return };
    if dialect.refuses.contains(&name) {
        dropped.push(name);
    } else {
        body.insert(key.to_owned(), value);
    }
}

fn sampling_fields(
    sampling: &Sampling,
    dialect: &Dialect,
    dropped: &mut Vec<&'static str>,
    body: &mut Map<String, Value>,
) {
    let Sampling { temperature, top_p, top_k, frequency_penalty, presence_penalty, seed, stop, logit_bias } = sampling;
    // The wire's penalties are from 0 to 1; others go from -2 to 2.
    let bound = |told: &Option<f64>| told.map(|told| told.clamp(0.0, 1.0));
    let penalties = [("frequency_penalty", frequency_penalty), ("presence_penalty", presence_penalty)];
    dropped.extend(penalties.iter().filter(|(_, told)| bound(told) != **told).map(|(name, _)| *name));
    let stops = (!stop.is_empty()).then(|| stop.iter().map(|stop| Value::from(stop.as_str())).collect());
    for (name, key, value) in [
        ("temperature", "temperature", temperature.map(json::number)),
        ("top_p", "p", top_p.map(json::number)),
        ("top_k", "k", top_k.map(Value::from)),
        ("frequency_penalty", "frequency_penalty", bound(frequency_penalty).map(json::number)),
        ("presence_penalty", "presence_penalty", bound(presence_penalty).map(json::number)),
        ("seed", "seed", seed.map(Value::from)),
        ("stop", "stop_sequences", stops),
    ] {
        knob(name, key, value, dialect, dropped, body);
    }
    if logit_bias.is_some() {
        dropped.push("logit_bias");
    }
}

fn thinking(ask: &ReasoningAsk) -> Option<Value> {
    let budget = match (ask.budget, ask.effort.as_deref()) {
        (Some(0), _) | (None, Some("none")) => return Some(json!({"type": "disabled"})),
        (Some(budget), _) if budget > 0 => budget.unsigned_abs(),
        (Some(_), _) => return Some(json!({"type": "enabled"})),
        (None, Some(effort)) => knobs::budget_of(effort),
        (None, None) => return None,
    };
    Some(json!({"type": "enabled", "token_budget": budget}))
}

/// One of several, or a certain one: the others stay at home, and at least one call is asked for.
fn tool_fields(
    tools: &[Tool],
    choice: Option<&ToolChoice>,
    dialect: &Dialect,
    body: &mut Map<String, Value>,
) -> Result<()> {
    if tools.is_empty() {
        return Ok(());
    }
    if dialect.lacks.contains(&"tools") {
        return Err(Error::unsupported("tools", "this model takes no tools; choose one that does"));
    }
    let (mut list, mut strict) = (Vec::new(), None);
    for tool in tools {
        let function = match tool {
            Tool::Function(function) => function,
            Tool::Hosted { format: FORMAT, kind: _, value } => {
                list.push(value.clone());
                continue;
            }
            Tool::Hosted { format, kind, value: _ } => {
                let message = format!(
                    "the tool `{kind}` runs at {} models only; leave it out or choose such a model",
                    format.name()
                );
                return Err(Error::unsupported(kind, message));
            }
        };
        let left_out = match choice {
            Some(ToolChoice::Allowed { names, .. }) => !names.contains(&function.name),
            Some(ToolChoice::Tool { name, custom: _ }) => *name != function.name,
            _ => false,
        };
        if !left_out {
            strict = strict.max(function.strict);
            list.push(spec(function));
        }
    }
    body.insert("tools".to_owned(), Value::Array(list));
    if let Some(strict) = strict {
        body.insert("strict_tools".to_owned(), strict.into());
    }
    let word = match choice {
        None | Some(ToolChoice::Auto | ToolChoice::Allowed { required: false, .. }) => None,
        Some(ToolChoice::None) => Some("NONE"),
        Some(ToolChoice::Required | ToolChoice::Tool { .. } | ToolChoice::Allowed { required: true, .. }) => {
            Some("REQUIRED")
        }
    };
    if let Some(word) = word {
        body.insert("tool_choice".to_owned(), word.into());
    }
    Ok(())
}

fn spec(function: &Function) -> Value {
    let Function { name, description, parameters, strict: _, custom, cache: _, extra } = function;
    let mut inner = Map::new();
    inner.insert("name".to_owned(), name.as_str().into());
    if let Some(description) = description {
        inner.insert("description".to_owned(), description.as_str().into());
    }
    let parameters = match parameters {
        _ if *custom => calls::custom_schema(),
        None => json!({"type": "object", "properties": {}}),
        Some(given) => calls::rooted(given.clone()),
    };
    inner.insert("parameters".to_owned(), parameters);
    wire::give_back(&mut inner, extra);
    json!({"type": "function", "function": inner})
}
