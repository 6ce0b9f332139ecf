//! The model to a Messages body for an upstream. Refuses what the wire cannot say, drops knobs it does not have and
//! says which.

use serde_json::{Map, Value, json};

use super::{
    super::{Dialect, Encoded, block, wire::FORMAT},
    knobs, schema, tools, turns,
};
use crate::{
    codec::{foreign, schema::told, standin},
    error::{Error, Result},
    model::{Extra, Output, Request, Sampling},
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
        reasoning: _,
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
    if logprobs.is_some() {
        return Err(Error::unsupported("logprobs", "this model gives no log probabilities; leave them out"));
    }
    foreign::refuse(extra, FORMAT, &[])?;
    foreign::note(extra, FORMAT, &mut dropped);
    let mut written = turns::encode(messages, dialect, &mut dropped)?;
    if matches!(output, Some(Output::Json)) {
        written.system.push(json!({"type": "text", "text": JSON_ONLY}));
        dropped.push("response_format");
    }
    let mut tools_out = tools::encode(tools, tool_choice.as_ref(), dialect, &mut dropped)?;
    // A model that cannot bind its answer to a schema can fill in a tool.
    let stands_in = standin::wanted(request, dialect);
    let choice = match output {
        Some(Output::Schema { schema, description, .. }) if stands_in => {
            let choice = tools::answer_choice(tool_choice.as_ref(), *parallel_tool_calls, !tools_out.is_empty());
            tools_out.push(tools::answer(&told(schema, description.as_deref())));
            choice
        }
        _ => tools::choice(tool_choice.as_ref(), *parallel_tool_calls, !tools_out.is_empty()),
    };
    let has_tools = !tools_out.is_empty();
    let thinking = knobs::thinking(request, dialect, written.lacks_thinking || stands_in, &mut dropped);

    let mut body = Map::new();
    let mut put = |key: &str, value: Value| body.insert(key.to_owned(), value);
    put("model", dialect.model.as_str().into());
    put("max_tokens", thinking.max_tokens(*max_tokens, dialect).into());
    if *stream {
        put("stream", true.into());
    }
    match written.system.as_slice() {
        [] => {}
        [one] if is_plain(one) => {
            put("system", one["text"].clone());
        }
        _ => {
            put("system", Value::Array(written.system));
        }
    }
    if has_tools {
        put("tools", Value::Array(tools_out));
    }
    put("messages", Value::Array(written.messages));
    choice.map(|choice| put("tool_choice", choice));
    thinking.thinking().map(|thinking| put("thinking", thinking));
    let output = output.as_ref().filter(|_| !stands_in);
    let config = output_config(output, thinking.effort(), extra, dialect)?;
    config.map(|config| put("output_config", config));
    sampling_fields(sampling, thinking.is_on(), dialect, &mut dropped, &mut body);
    if let Some(metadata) = metadata_field(user.as_deref(), extra) {
        body.insert("metadata".to_owned(), metadata);
    }
    if !metadata.is_empty() {
        dropped.push("metadata");
    }
    match service_tier.as_deref() {
        Some(tier @ ("auto" | "standard_only")) => {
            body.insert("service_tier".to_owned(), tier.into());
        }
        Some(_) => dropped.push("service_tier"),
        None => {}
    }
    if verbosity.is_some() {
        dropped.push("verbosity");
    }
    for (name, key) in REFUSABLE {
        if dialect.refuses.contains(&name) && body.shift_remove(key).is_some() {
            dropped.push(name);
        }
    }
    block::give_back(&mut body, extra);
    dropped.sort_unstable();
    dropped.dedup();
    Ok(Encoded { body, dropped })
}

fn output_config(
    output: Option<&Output>,
    effort: Option<String>,
    extra: &Extra,
    dialect: &Dialect,
) -> Result<Option<Value>> {
    let mut config = match extra.of(FORMAT).and_then(|kept| kept.get("output_config")) {
        Some(Value::Object(kept)) => kept.clone(),
        _ => Map::new(),
    };
    config.remove("effort");
    if let Some(effort) = effort {
        config.insert("effort".to_owned(), effort.into());
    }
    if let Some(Output::Schema { name: _, description, schema, strict: _ }) = output {
        if !dialect.native_schema || dialect.lacks.contains(&"json_schema") {
            let message = "this model cannot bind its answer to a JSON schema; choose one that can";
            return Err(Error::unsupported("json_schema", message));
        }
        config.insert(
            "format".to_owned(),
            json!({"type": "json_schema", "schema": schema::lower(&told(schema, description.as_deref()))}),
        );
    }
    Ok((!config.is_empty()).then_some(Value::Object(config)))
}

fn sampling_fields(
    sampling: &Sampling,
    thinking: bool,
    dialect: &Dialect,
    dropped: &mut Vec<&'static str>,
    body: &mut Map<String, Value>,
) {
    let Sampling { temperature, top_p, top_k, frequency_penalty, presence_penalty, seed, stop, logit_bias } = sampling;
    // What other wires call 2 is 1 here, and more is refused.
    let temperature = &temperature.map(|told| told.min(1.0));
    if *temperature != sampling.temperature {
        dropped.push("temperature");
    }
    let refused = |name: &str| dialect.no_sampling || dialect.refuses.contains(&name);
    let mut knob = |name: &'static str, value: Option<Value>, allowed: bool| {
        let Some(value) = value else { return };
        if allowed && !refused(name) {
            body.insert(name.to_owned(), value);
        } else {
            dropped.push(name);
        }
    };
    // While thinking the wire takes temperature 1 only, top_p from 0.95, and no top_k.
    let number = super::super::json::number;
    knob("temperature", temperature.map(number), !thinking || *temperature == Some(1.0));
    knob("top_p", top_p.map(number), !thinking || top_p.is_some_and(|p| p >= 0.95));
    knob("top_k", top_k.map(Value::from), !thinking);
    // The wire refuses blank stop sequences.
    let (kept, blank): (Vec<&String>, Vec<&String>) = stop.iter().partition(|s| !s.trim().is_empty());
    if !blank.is_empty() {
        dropped.push("stop");
    }
    if !kept.is_empty() {
        body.insert("stop_sequences".to_owned(), kept.into_iter().map(|s| Value::from(s.as_str())).collect());
    }
    for (name, given) in [
        ("frequency_penalty", frequency_penalty.is_some()),
        ("presence_penalty", presence_penalty.is_some()),
        ("seed", seed.is_some()),
        ("logit_bias", logit_bias.is_some()),
    ] {
        if given {
            dropped.push(name);
        }
    }
}

fn metadata_field(user: Option<&str>, extra: &Extra) -> Option<Value> {
    let mut out = match extra.of(FORMAT).and_then(|kept| kept.get("metadata")) {
        Some(Value::Object(kept)) => kept.clone(),
        _ => Map::new(),
    };
    if let Some(user) = user {
        out.insert("user_id".to_owned(), user.into());
    }
    (!out.is_empty()).then_some(Value::Object(out))
}

fn is_plain(block: &Value) -> bool {
    block.as_object().is_some_and(|block| block.len() == 2)
}

/// The wire has no word for "any JSON"; this line asks for it.
const JSON_ONLY: &str = "Answer with one JSON object and nothing else.";

/// Knobs that a provider of this format may refuse, and where they stand on the wire.
const REFUSABLE: [(&str, &str); 4] = [
    ("stop", "stop_sequences"),
    ("user", "metadata"),
    ("service_tier", "service_tier"),
    ("reasoning_effort", "thinking"),
];
