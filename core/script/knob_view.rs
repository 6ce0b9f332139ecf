//! The fields around a request's turns, one by one: read as the caller set them, written with the right types or refused
//! by name. Setting a field to what it is changes nothing.

use rhai::{Array, Dynamic, Map};
use serde_json::Value;

use super::{
    convert,
    desk::{Desk, Fail, fail},
    reference::Registrar,
    request_view::{RequestView, json, optional},
};
use crate::{
    codec::Field,
    model::{LogprobsAsk, Output, ReasoningAsk, Request, ToolChoice},
};

/// Where a value lies in the model: to read and to write it.
type Place<T> = (fn(&Request) -> &T, fn(&mut Request) -> &mut T);

macro_rules! at {
    ($($field:ident).+) => {
        (|request| &request.$($field).+, |request| &mut request.$($field).+)
    };
}

pub fn register(r: &mut Registrar<'_>) {
    use Field::{Logprobs, MaxTokens, Metadata, N, Output, Reasoning, Sampling, ServiceTier, ToolChoice, User};
    knob(
        r,
        "temperature",
        "a number, or () when the caller set none",
        Sampling,
        at!(sampling.temperature),
        float,
        read_number,
    );
    knob(r, "top_p", "a number, or ()", Sampling, at!(sampling.top_p), float, read_number);
    knob(r, "top_k", "a whole number, or ()", Sampling, at!(sampling.top_k), whole, read_count);
    knob(r, "frequency_penalty", "a number, or ()", Sampling, at!(sampling.frequency_penalty), float, read_number);
    knob(r, "presence_penalty", "a number, or ()", Sampling, at!(sampling.presence_penalty), float, read_number);
    knob(
        r,
        "seed",
        "a whole number, or ()",
        Sampling,
        at!(sampling.seed),
        |seed| seed.map_or(Dynamic::UNIT, Dynamic::from),
        |what, value, _| optional(value, what, |v| v.as_int().ok()),
    );
    knob(
        r,
        "stop",
        "an array of texts that end the answer; set it to an array, one text, or ()",
        Sampling,
        at!(sampling.stop),
        |stop| stop.iter().map(|s| convert::str(s)).collect::<Array>().into(),
        |_, value, _| names(value).ok_or_else(|| fail("request.stop is a text, an array of texts, or ()")),
    );
    knob(
        r,
        "logit_bias",
        "a map from token numbers to biases, or ()",
        Sampling,
        at!(sampling.logit_bias),
        |bias| bias.as_ref().map_or(Dynamic::UNIT, |map| convert::from_json(&Value::Object(map.clone()))),
        |_, value, _| match json("request.logit_bias", value)? {
            Value::Null => Ok(None),
            Value::Object(map) if map.values().all(Value::is_number) => Ok(Some(map)),
            _ => Err(fail("request.logit_bias is a map from token numbers to numbers, or ()")),
        },
    );
    let most = "the most tokens the answer may have, or ()";
    knob(r, "max_tokens", most, MaxTokens, at!(max_tokens), whole, read_positive);
    knob(r, "n", "how many answers are wanted, or ()", N, at!(n), whole, read_positive);
    knob(
        r,
        "logprobs",
        "() when they are not wanted, true, or how many alternatives a token are wanted",
        Logprobs,
        at!(logprobs),
        |ask| ask.as_ref().map_or(Dynamic::UNIT, |ask| ask.top.map_or(true.into(), convert::int)),
        |_, value, _| match (value.as_bool(), value.as_int().map(u64::try_from)) {
            (Ok(true), _) => Ok(Some(LogprobsAsk { top: None })),
            (Ok(false), _) => Ok(None),
            (_, Ok(Ok(top))) => Ok(Some(LogprobsAsk { top: Some(top) })),
            _ if value.is_unit() => Ok(None),
            _ => Err(fail("request.logprobs is true, a whole number from 0, or ()")),
        },
    );
    reasoning(r, Reasoning);
    tools(r, ToolChoice);
    knob(
        r,
        "response_format",
        "(), \"text\", \"json\", or a map `#{ schema: #{…}, name: \"…\", strict: true }`",
        Output,
        at!(output),
        output,
        read_output,
    );
    let levels = "low, medium or high, or ()";
    knob(r, "verbosity", levels, Output, at!(verbosity), text, |what, value, _| {
        one_of(what, value, &["low", "medium", "high"])
    });
    knob(r, "user", "the caller's own user, as it names it to the provider; or ()", User, at!(user), text, read_text);
    knob(r, "service_tier", "a text such as \"flex\", or ()", ServiceTier, at!(service_tier), text, read_text);
    knob(
        r,
        "metadata",
        "the caller's free key-value pairs, as a map",
        Metadata,
        at!(metadata),
        |map| convert::from_json(&Value::Object(map.clone())),
        |_, value, _| match json("request.metadata", value)? {
            Value::Null => Ok(serde_json::Map::new()),
            Value::Object(map) => Ok(map),
            _ => Err(fail("request.metadata must be a map")),
        },
    );
}

fn reasoning(r: &mut Registrar<'_>, field: Field) {
    knob(
        r,
        "reasoning_effort",
        "none, minimal, low, medium, high, xhigh or max; () when the caller set none",
        field,
        at!(reasoning),
        |ask| ask.as_ref().map_or(Dynamic::UNIT, |ask| text(&ask.effort)),
        |what, value, old| {
            let effort = one_of(what, value, &["none", "minimal", "low", "medium", "high", "xhigh", "max"])?;
            Ok(thinking(ReasoningAsk { effort, ..old.clone().unwrap_or_default() }))
        },
    );
    knob(
        r,
        "reasoning_budget",
        "tokens for thinking; 0 switches it off, -1 leaves it to the model; or ()",
        field,
        at!(reasoning),
        |ask| ask.as_ref().and_then(|ask| ask.budget).map_or(Dynamic::UNIT, Dynamic::from),
        |what, value, old| {
            let budget = optional(value, what, |v| v.as_int().ok().filter(|n| *n >= -1))?;
            Ok(thinking(ReasoningAsk { budget, ..old.clone().unwrap_or_default() }))
        },
    );
    knob(
        r,
        "reasoning_shown",
        "true: the thinking is to be shown in the answer; or ()",
        field,
        at!(reasoning),
        |ask| ask.as_ref().and_then(|ask| ask.show).map_or(Dynamic::UNIT, Dynamic::from),
        |what, value, old| {
            let show = optional(value, what, |v| v.as_bool().ok())?;
            Ok(thinking(ReasoningAsk { show, ..old.clone().unwrap_or_default() }))
        },
    );
}

fn tools(r: &mut Registrar<'_>, field: Field) {
    knob(
        r,
        "tool_choice",
        "\"auto\", \"none\", \"required\", `#{ name: \"…\" }` for one tool, `#{ allowed: [\"…\"], required: true }` for some; ()",
        field,
        at!(tool_choice),
        tool_choice,
        read_tool_choice,
    );
    knob(
        r,
        "parallel_tool_calls",
        "may the model call several tools at once? true, false, or ()",
        field,
        at!(parallel_tool_calls),
        |flag| flag.map_or(Dynamic::UNIT, Dynamic::from),
        |what, value, _| optional(value, what, |v| v.as_bool().ok()),
    );
}

/// One field: how it is shown, and how a value for it is read (of `request.NAME`, with the old one at hand).
fn knob<T: PartialEq + 'static>(
    r: &mut Registrar<'_>,
    name: &'static str,
    told: &'static str,
    field: Field,
    place: Place<T>,
    show: fn(&T) -> Dynamic,
    read: fn(&str, &Dynamic, &T) -> Result<T, Fail>,
) {
    let (of, within) = place;
    r.both::<RequestView>(
        name,
        told,
        move |v| v.0.request(|request| show(of(request))),
        move |v, value| {
            let new = v.0.request(|request| {
                let old = of(request);
                let new = read(name, &value, old)?;
                Ok::<_, Fail>((new != *old).then_some(new))
            })??;
            match new {
                Some(new) => set(&v.0, field, within, new),
                // Read through a method, a value comes back as it was.
                None => v.0.may_edit(),
            }
        },
    );
}

fn set<T>(desk: &Desk, field: Field, within: fn(&mut Request) -> &mut T, new: T) -> Result<(), Fail> {
    desk.edit(field, |request| {
        *within(request) = new;
        Ok(())
    })
}

fn float(value: &Option<f64>) -> Dynamic {
    value.map_or(Dynamic::UNIT, Dynamic::from)
}

fn whole(value: &Option<u64>) -> Dynamic {
    value.map_or(Dynamic::UNIT, convert::int)
}

fn text(value: &Option<String>) -> Dynamic {
    value.as_deref().map_or(Dynamic::UNIT, convert::str)
}

fn read_number(what: &str, value: &Dynamic, _: &Option<f64>) -> Result<Option<f64>, Fail> {
    optional(value, what, convert::number)
}

fn read_count(what: &str, value: &Dynamic, _: &Option<u64>) -> Result<Option<u64>, Fail> {
    optional(value, what, |v| v.as_int().ok().and_then(|n| u64::try_from(n).ok()))
}

fn read_positive(what: &str, value: &Dynamic, _: &Option<u64>) -> Result<Option<u64>, Fail> {
    optional(value, what, |v| v.as_int().ok().and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0))
}

fn read_text(what: &str, value: &Dynamic, _: &Option<String>) -> Result<Option<String>, Fail> {
    optional(value, what, convert::text)
}

fn one_of(what: &str, value: &Dynamic, words: &[&str]) -> Result<Option<String>, Fail> {
    let word = optional(value, what, convert::text)?;
    match word {
        Some(word) if !words.contains(&word.as_str()) => {
            Err(fail(format!("request.{what} is one of {}, or ()", words.join(", "))))
        }
        word => Ok(word),
    }
}

/// A text, several, or none.
fn names(value: &Dynamic) -> Option<Vec<String>> {
    if value.is_unit() {
        return Some(Vec::new());
    }
    match convert::text(value) {
        Some(one) => Some(vec![one]),
        None => value.as_array_ref().ok()?.iter().map(convert::text).collect(),
    }
}

/// Nothing asked is nothing said.
fn thinking(ask: ReasoningAsk) -> Option<ReasoningAsk> {
    (ask != ReasoningAsk::default()).then_some(ask)
}

fn tool_choice(choice: &Option<ToolChoice>) -> Dynamic {
    let word = |word: &str| convert::str(word);
    match choice {
        None => Dynamic::UNIT,
        Some(ToolChoice::Auto) => word("auto"),
        Some(ToolChoice::None) => word("none"),
        Some(ToolChoice::Required) => word("required"),
        Some(ToolChoice::Tool { name, .. }) => Map::from([("name".into(), word(name))]).into(),
        Some(ToolChoice::Allowed { names, required }) => {
            let names: Array = names.iter().map(|name| word(name)).collect();
            Map::from([("allowed".into(), names.into()), ("required".into(), (*required).into())]).into()
        }
    }
}

fn read_tool_choice(_: &str, value: &Dynamic, old: &Option<ToolChoice>) -> Result<Option<ToolChoice>, Fail> {
    let wrong = || {
        let shapes = "#{ name: \"…\" }, #{ allowed: [\"…\"] }";
        fail(format!("request.tool_choice is \"auto\", \"none\", \"required\", {shapes}, or ()"))
    };
    if value.is_unit() {
        return Ok(None);
    }
    if let Some(word) = convert::text(value) {
        return match word.as_str() {
            "auto" => Ok(Some(ToolChoice::Auto)),
            "none" => Ok(Some(ToolChoice::None)),
            "required" => Ok(Some(ToolChoice::Required)),
            _ => Err(wrong()),
        };
    }
    let map = value.as_map_ref().map_err(|_| wrong())?;
    if map.keys().any(|key| !matches!(key.as_str(), "name" | "allowed" | "required")) {
        return Err(wrong());
    }
    if let Some(name) = map.get("name").and_then(convert::text) {
        // The same tool stays of the kind that it was.
        let custom = matches!(old, Some(ToolChoice::Tool { name: known, custom: true }) if *known == name);
        return Ok(Some(ToolChoice::Tool { name, custom }));
    }
    let names = map.get("allowed").and_then(names).filter(|names| !names.is_empty()).ok_or_else(wrong)?;
    let required = map.get("required").is_some_and(|v| v.as_bool() == Ok(true));
    Ok(Some(ToolChoice::Allowed { names, required }))
}

fn output(output: &Option<Output>) -> Dynamic {
    match output {
        None => Dynamic::UNIT,
        Some(Output::Text) => convert::str("text"),
        Some(Output::Json) => convert::str("json"),
        Some(Output::Schema { name, description, schema, strict }) => {
            let mut map = Map::from([("schema".into(), convert::from_json(schema))]);
            let mut put = |key: &str, value: Option<Dynamic>| value.map(|value| map.insert(key.into(), value));
            put("name", name.as_deref().map(convert::str));
            put("description", description.as_deref().map(convert::str));
            put("strict", strict.map(Dynamic::from));
            map.into()
        }
    }
}

fn read_output(_: &str, value: &Dynamic, _: &Option<Output>) -> Result<Option<Output>, Fail> {
    let wrong = || fail("request.response_format is \"text\", \"json\", a map with a schema, or ()");
    if value.is_unit() {
        return Ok(None);
    }
    if let Some(word) = convert::text(value) {
        return match word.as_str() {
            "text" => Ok(Some(Output::Text)),
            "json" => Ok(Some(Output::Json)),
            _ => Err(wrong()),
        };
    }
    let map = value.as_map_ref().map_err(|_| wrong())?;
    if map.keys().any(|key| !matches!(key.as_str(), "schema" | "name" | "description" | "strict")) {
        return Err(wrong());
    }
    let schema = json("request.response_format", map.get("schema").ok_or_else(wrong)?)?;
    if !schema.is_object() && !schema.is_boolean() {
        return Err(wrong());
    }
    let word = |key: &str| map.get(key).and_then(convert::text);
    let strict = map.get("strict").and_then(|v| v.as_bool().ok());
    Ok(Some(Output::Schema { name: word("name"), description: word("description"), schema, strict }))
}
