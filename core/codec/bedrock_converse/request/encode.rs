//! The model to a Converse body for an upstream. Refuses what the wire cannot say, drops knobs it does not have and says
//! which.

use serde_json::{Map, Value, json};

use super::{
    super::{
        Dialect, Encoded, block,
        json::{self},
        wire::FORMAT,
    },
    family, tools,
    turns::{self, Written},
};
use crate::{
    codec::{foreign, schema, standin},
    error::{Error, Result},
    model::{Output, Request, Sampling},
};

pub fn encode(request: &Request, dialect: &Dialect) -> Result<Encoded> {
    let Request {
        model: _,
        stream: _,
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
        written.system.push(json!({"text": JSON_ONLY}));
        dropped.push("response_format");
    }
    let kept = |key: &str| match extra.of(FORMAT).and_then(|kept| kept.get(key)) {
        Some(Value::Object(kept)) => kept.clone(),
        _ => Map::new(),
    };
    let mut tool_config = tools::encode(tools, tool_choice.as_ref(), &written, dialect, &mut dropped)?;
    if parallel_tool_calls == &Some(false) {
        dropped.push("parallel_tool_calls");
    }
    let stands_in = standin::wanted(request, dialect);
    if let (true, Some(Output::Schema { schema, description, .. })) = (stands_in, output) {
        let schema = schema::told(schema, description.as_deref());
        tools::stand_in(&mut tool_config, &schema, tool_choice.as_ref());
    }
    let Written { system, messages, lacks_thinking, .. } = written;
    // What is forced leaves no room for thinking.
    let silent = lacks_thinking || stands_in;
    let additional = family::write(request, kept("additionalModelRequestFields"), dialect, silent, &mut dropped);
    let thinking = additional.thinking.as_ref().filter(|thinking| thinking.is_on());

    let mut body = Map::new();
    let mut put = |key: &str, value: Map<String, Value>| {
        if !value.is_empty() {
            body.insert(key.to_owned(), Value::Object(value));
        }
    };
    let mut inference = kept("inferenceConfig");
    let bound = match (max_tokens, thinking) {
        (_, Some(thinking)) => Some(thinking.max_tokens(*max_tokens, dialect)),
        (bound, None) => *bound,
    };
    if let Some(bound) = bound {
        inference.insert("maxTokens".to_owned(), bound.into());
    }
    sampling_fields(sampling, thinking.is_some(), dialect, &mut dropped, &mut inference);
    put("inferenceConfig", inference);
    if !tool_config.is_empty() {
        tool_config.extend(kept("toolConfig"));
    }
    put("toolConfig", tool_config);
    put("additionalModelRequestFields", additional.fields);
    let mut config = output_config(output.as_ref().filter(|_| !stands_in), kept("outputConfig"), dialect)?;
    if let Some(effort) = additional.effort {
        config.insert("effort".to_owned(), effort.into());
    }
    put("outputConfig", config);
    put("requestMetadata", strings(metadata, &mut dropped));
    let mut tier = kept("serviceTier");
    match service_tier.as_deref() {
        Some(word @ ("default" | "priority" | "flex" | "reserved")) => {
            tier.insert("type".to_owned(), word.into());
        }
        None | Some("auto" | "standard") => {}
        Some(_) => dropped.push("service_tier"),
    }
    put("serviceTier", tier);
    for (name, given) in [("user", user.is_some()), ("verbosity", verbosity.is_some())] {
        if given {
            dropped.push(name);
        }
    }
    block::give_back(&mut body, extra);
    if !system.is_empty() {
        body.insert("system".to_owned(), Value::Array(system));
    }
    body.insert("messages".to_owned(), Value::Array(messages));
    dropped.sort_unstable();
    dropped.dedup();
    Ok(Encoded { body, dropped })
}

fn output_config(
    output: Option<&Output>,
    mut config: Map<String, Value>,
    dialect: &Dialect,
) -> Result<Map<String, Value>> {
    let Some(Output::Schema { name, description, schema, strict: _ }) = output else { return Ok(config) };
    if !dialect.native_schema || dialect.lacks.contains(&"json_schema") {
        let message = "this model cannot bind its answer to a JSON schema; choose one that can";
        return Err(Error::unsupported("json_schema", message));
    }
    let mut inner = Map::new();
    inner.insert("schema".to_owned(), schema.to_string().into());
    for (key, value) in [("name", name), ("description", description)] {
        if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
            inner.insert(key.to_owned(), value.into());
        }
    }
    let format = json!({"type": "json_schema", "structure": {"jsonSchema": inner}});
    config.insert("textFormat".to_owned(), format);
    Ok(config)
}

fn sampling_fields(
    sampling: &Sampling,
    thinking: bool,
    dialect: &Dialect,
    dropped: &mut Vec<&'static str>,
    out: &mut Map<String, Value>,
) {
    let Sampling { temperature, top_p, top_k: _, frequency_penalty, presence_penalty, seed, stop, logit_bias } =
        sampling;
    for (name, key, value) in [("temperature", "temperature", temperature), ("top_p", "topP", top_p)] {
        let Some(told) = value else { continue };
        // More is refused by the wire; other wires go up to 2.
        let value = &told.min(1.0);
        let refused = dialect.no_sampling || dialect.refuses.contains(&name);
        if refused || !family::beside_thinking(name, *value, thinking) {
            dropped.push(name);
        } else {
            out.insert(key.to_owned(), json::number(*value));
            dropped.extend((value != told).then_some(name));
        }
    }
    let stops: Vec<Value> = stop.iter().filter(|stop| !stop.is_empty()).map(|stop| stop.as_str().into()).collect();
    if dialect.refuses.contains(&"stop") && !stops.is_empty() {
        dropped.push("stop");
    } else if !stops.is_empty() {
        out.insert("stopSequences".to_owned(), Value::Array(stops));
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

/// `requestMetadata` takes texts only.
fn strings(metadata: &Map<String, Value>, dropped: &mut Vec<&'static str>) -> Map<String, Value> {
    let (texts, others): (Vec<_>, Vec<_>) = metadata.iter().partition(|(_, value)| value.is_string());
    if !others.is_empty() {
        dropped.push("metadata");
    }
    texts.into_iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// The wire has no word for "any JSON"; this line asks for it.
const JSON_ONLY: &str = "Answer with one JSON object and nothing else.";
