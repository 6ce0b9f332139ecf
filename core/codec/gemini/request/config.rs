//! `generationConfig`, both ways: sampling, limits, the answer's shape, thinking. What the model has no word for, and the
//! caller's own spelling of what it has, stays in `extra.generationConfig` and goes back to this wire alone.

use serde_json::{Map, Value, json};

use super::encode::note;
use crate::{
    codec::{
        Dialect,
        gemini::wire::{GEMINI, fill, generation, is_gemini_3, object, spelling},
        json::{Fields, number},
        schema,
    },
    error::{Error, Result},
    model::{LogprobsAsk, Output, ReasoningAsk, Request},
};

pub fn decode(fields: &mut Fields, out: &mut Request, extra: &mut Map<String, Value>) -> Result<()> {
    let key = spelling(fields, &["generationConfig", "generation_config"]);
    let Some(mut config) = fields.object(key)? else { return Ok(()) };
    let mut kept = Map::new();
    let s = &mut out.sampling;
    s.temperature = config.f64("temperature")?;
    s.top_p = config.f64(spelling(&config, &["topP", "top_p"]))?;
    s.top_k = config.u64(spelling(&config, &["topK", "top_k"]))?;
    s.presence_penalty = config.f64(spelling(&config, &["presencePenalty", "presence_penalty"]))?;
    s.frequency_penalty = config.f64(spelling(&config, &["frequencyPenalty", "frequency_penalty"]))?;
    s.seed = config.i64("seed")?;
    let key = spelling(&config, &["stopSequences", "stop_sequences"]);
    let path = config.path(key);
    for (i, stop) in config.array(key)?.unwrap_or_default().into_iter().enumerate() {
        match stop {
            Value::String(stop) => s.stop.push(stop),
            other => return Err(crate::codec::json::wrong_type(&format!("{path}[{i}]"), "a string", &other)),
        }
    }
    out.n = config.u64(spelling(&config, &["candidateCount", "candidate_count"]))?;
    out.max_tokens = config.u64(spelling(&config, &["maxOutputTokens", "max_output_tokens"]))?;
    let asked = config.bool(spelling(&config, &["responseLogprobs", "response_logprobs"]))?;
    let top = config.u64("logprobs")?;
    if asked == Some(true) {
        out.logprobs = Some(LogprobsAsk { top });
    } else {
        if let Some(asked) = asked {
            kept.insert("responseLogprobs".to_owned(), json!(asked));
        }
        if let Some(top) = top {
            kept.insert("logprobs".to_owned(), json!(top));
        }
    }
    out.output = output(&mut config, &mut kept)?;
    out.reasoning = reasoning(&mut config, &mut kept)?;
    fill(&mut kept, Some(&config.rest_map()));
    if !kept.is_empty() {
        extra.insert("generationConfig".to_owned(), Value::Object(kept));
    }
    Ok(())
}

fn output(config: &mut Fields, kept: &mut Map<String, Value>) -> Result<Option<Output>> {
    let mime = config.string(spelling(config, &["responseMimeType", "response_mime_type"]))?;
    let plain = config.take_any(&["responseJsonSchema", "response_json_schema", "_responseJsonSchema"]);
    let own = config.take_any(&["responseSchema", "response_schema"]);
    let shape = |schema: Value| Output::Schema { name: None, description: None, schema, strict: None };
    Ok(match mime.as_deref() {
        // `text/x.enum` and whatever comes next: this wire's own.
        Some(other) if other != "application/json" && other != "text/plain" => {
            kept.insert("responseMimeType".to_owned(), json!(other));
            for (key, value) in [("responseJsonSchema", plain), ("responseSchema", own)] {
                if let Some(value) = value {
                    kept.insert(key.to_owned(), value);
                }
            }
            None
        }
        mime => match (plain, own) {
            (Some(plain), _) => Some(shape(plain)),
            (None, Some(own)) => {
                let raised = schema::raise(&own);
                kept.insert("responseSchema".to_owned(), own);
                Some(shape(raised))
            }
            (None, None) => mime.map(|m| if m == "text/plain" { Output::Text } else { Output::Json }),
        },
    })
}

fn reasoning(config: &mut Fields, kept: &mut Map<String, Value>) -> Result<Option<ReasoningAsk>> {
    let key = spelling(config, &["thinkingConfig", "thinking_config"]);
    let Some(mut thinking) = config.object(key)? else { return Ok(None) };
    // Absent means "do not show": said aloud, so that no default of another format steps in.
    let show = Some(thinking.bool(spelling(&thinking, &["includeThoughts", "include_thoughts"]))?.unwrap_or(false));
    let budget = thinking.i64(spelling(&thinking, &["thinkingBudget", "thinking_budget"]))?;
    let level = thinking.string(spelling(&thinking, &["thinkingLevel", "thinking_level"]))?;
    let mut rest = thinking.rest_map();
    let effort = level.as_deref().map(str::to_ascii_lowercase).filter(|l| l != "thinking_level_unspecified");
    if let Some(level) = level {
        rest.insert("thinkingLevel".to_owned(), Value::String(level));
    }
    if !rest.is_empty() {
        kept.insert("thinkingConfig".to_owned(), Value::Object(rest));
    }
    Ok(Some(ReasoningAsk { effort, budget, show }))
}

/// `generationConfig` for an upstream.
pub fn encode(request: &Request, dialect: &Dialect, dropped: &mut Vec<&'static str>) -> Result<Map<String, Value>> {
    let kept =
        request.extra.of(GEMINI).and_then(|e| e.get("generationConfig")).cloned().map(object).unwrap_or_default();
    let mut out = Map::new();
    sampling(request, dialect, &mut out, dropped);
    if let Some(max) = request.max_tokens {
        out.insert("maxOutputTokens".to_owned(), json!(max));
    }
    if let Some(n) = request.n {
        if n > 1 && dialect.lacks.contains(&"n") {
            return Err(lacking("n", "several answers to one request (`n`)"));
        }
        out.insert("candidateCount".to_owned(), json!(n));
    }
    if let Some(LogprobsAsk { top }) = &request.logprobs {
        if dialect.lacks.contains(&"logprobs") {
            return Err(lacking("logprobs", "log probabilities"));
        }
        out.insert("responseLogprobs".to_owned(), json!(true));
        if let Some(top) = top {
            out.insert("logprobs".to_owned(), json!(top));
        }
    }
    shape(request, dialect, &kept, &mut out)?;
    let thinking = thinking(request.reasoning.as_ref(), &dialect.model, kept.get("thinkingConfig"), dropped);
    if !thinking.is_empty() {
        out.insert("thinkingConfig".to_owned(), Value::Object(thinking));
    }
    let mut rest = kept;
    for handled in ["responseSchema", "thinkingConfig"] {
        // A schema that came with a MIME type of its own is nobody else's.
        if handled != "responseSchema" || request.output.is_some() {
            rest.shift_remove(handled);
        }
    }
    fill(&mut out, Some(&rest));
    Ok(out)
}

fn lacking(feature: &str, words: &str) -> Error {
    Error::unsupported(feature, format!("this target has no {words}; leave it out or choose another model"))
}

fn sampling(request: &Request, dialect: &Dialect, out: &mut Map<String, Value>, dropped: &mut Vec<&'static str>) {
    let s = &request.sampling;
    let knobs: [(&'static str, &str, Option<Value>); 6] = [
        ("temperature", "temperature", s.temperature.map(number)),
        ("top_p", "topP", s.top_p.map(number)),
        ("top_k", "topK", s.top_k.map(Value::from)),
        ("presence_penalty", "presencePenalty", s.presence_penalty.map(number)),
        ("frequency_penalty", "frequencyPenalty", s.frequency_penalty.map(number)),
        ("seed", "seed", s.seed.map(Value::from)),
    ];
    for (name, key, value) in knobs {
        let Some(value) = value else { continue };
        let refused = dialect.refuses.contains(&name)
            || (dialect.no_sampling && matches!(name, "temperature" | "top_p" | "top_k"));
        if refused {
            note(dropped, name);
        } else {
            out.insert(key.to_owned(), value);
        }
    }
    if !s.stop.is_empty() {
        if dialect.refuses.contains(&"stop") {
            note(dropped, "stop");
        } else {
            out.insert("stopSequences".to_owned(), json!(s.stop));
        }
    }
    if s.logit_bias.as_ref().is_some_and(|b| !b.is_empty()) {
        note(dropped, "logit_bias");
    }
}

fn shape(request: &Request, dialect: &Dialect, kept: &Map<String, Value>, out: &mut Map<String, Value>) -> Result<()> {
    let mut mime = |word: &str| {
        out.insert("responseMimeType".to_owned(), json!(word));
    };
    match &request.output {
        None => {}
        Some(Output::Text) => mime("text/plain"),
        Some(Output::Json) => mime("application/json"),
        Some(Output::Schema { name: _, description, schema: given, strict: _ }) => {
            if dialect.lacks.contains(&"json_schema") {
                return Err(lacking("json_schema", "answers by JSON Schema"));
            }
            mime("application/json");
            let original = kept.get("responseSchema").filter(|own| schema::raise(own) == *given);
            if let Some(original) = original {
                out.insert("responseSchema".to_owned(), original.clone());
                return Ok(());
            }
            let given = schema::told(given, description.as_deref());
            if dialect.json_schema {
                out.insert("responseJsonSchema".to_owned(), given);
            } else {
                out.insert("responseSchema".to_owned(), schema::lower(&given, "response_format")?);
            }
        }
    }
    Ok(())
}

fn thinking(
    ask: Option<&ReasoningAsk>,
    model: &str,
    kept: Option<&Value>,
    dropped: &mut Vec<&'static str>,
) -> Map<String, Value> {
    let kept = kept.cloned().map(object).unwrap_or_default();
    let mut out = Map::new();
    let Some(ReasoningAsk { effort, budget, show }) = ask else { return out };
    let thinks = generation(model).is_none_or(|g| g >= 2.5);
    if !thinks && (effort.is_some() || budget.is_some()) {
        note(dropped, "reasoning_effort");
        return out;
    }
    // "Let the model decide" beside a word for how much: the word says more.
    let budget = &budget.filter(|b| *b != -1 || effort.is_none());
    let said = kept.get("thinkingLevel").and_then(Value::as_str);
    match (effort.as_deref(), budget) {
        (Some(effort), _) if said.is_some_and(|level| level.eq_ignore_ascii_case(effort)) => {
            out.insert("thinkingLevel".to_owned(), json!(said));
            if let Some(budget) = budget {
                out.insert("thinkingBudget".to_owned(), json!(budget));
            }
        }
        (_, Some(budget)) => {
            out.insert("thinkingBudget".to_owned(), json!(budget));
        }
        (Some("none"), None) => {
            out.insert("thinkingBudget".to_owned(), json!(0));
        }
        (Some(effort), None) if is_gemini_3(model) => {
            out.insert("thinkingLevel".to_owned(), json!(level_of(effort)));
        }
        (Some(effort), None) => {
            out.insert("thinkingBudget".to_owned(), json!(budget_of(effort)));
        }
        (None, None) => {}
    }
    let off = effort.as_deref() == Some("none") || *budget == Some(0);
    match show {
        Some(true) => {
            out.insert("includeThoughts".to_owned(), json!(true));
        }
        // Formats that know no such switch show what was thought.
        None if !off && (effort.is_some() || budget.is_some()) => {
            out.insert("includeThoughts".to_owned(), json!(true));
        }
        _ => {}
    }
    let mut rest = kept;
    rest.shift_remove("thinkingLevel");
    fill(&mut out, Some(&rest));
    out
}

/// Gemini 3 has four levels that all its models know the upper ones of.
fn level_of(effort: &str) -> &'static str {
    match effort {
        "minimal" => "minimal",
        "low" => "low",
        "medium" => "medium",
        _ => "high",
    }
}

/// Google's own table for effort words on Gemini 2.5 (ai.google.dev, OpenAI compatibility).
fn budget_of(effort: &str) -> i64 {
    match effort {
        "minimal" | "low" => 1024,
        "medium" => 8192,
        _ => 24576,
    }
}
