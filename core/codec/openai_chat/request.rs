//! Requests: the fields around the messages, both ways. What an upstream of this format lacks or refuses is its
//! `Dialect`'s to say: a refused knob is dropped and noted, a lacking feature is an error that names it.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{
    assistant, content, messages,
    wire::{F, FUNCTION, HOLLOW, LEGACY, RANDOM_SEED, SAFETY_ID, keep, mark, marked, plain, prefixed},
};
use crate::{
    codec::{
        Dialect, Encoded, custom, foreign,
        json::{Fields, Item, as_i64, missing, nth, number, tape, wrong_type},
        signature,
    },
    error::{Error, Result},
    model::{
        Extra, LogprobsAsk, Message, Output, Part, ReasoningAsk, Request, Role, Sampling, Tool, ToolChoice, ToolKind,
        ToolResult, tool::Function,
    },
};

pub fn decode(body: &[u8]) -> Result<Request> {
    let mut body = tape(body)?;
    let mut f = Fields::new(body.item(), "")?;
    let model = f.required_string("model")?;
    let messages = decode_messages(f.items("messages")?.ok_or_else(|| missing("messages"))?)?;
    let mut tools = decode_list(&mut f, "tools", decode_tool)?;
    tools.extend(decode_list(&mut f, "functions", legacy_tool)?);
    let tool_choice = tool_choice(&mut f)?;
    let mut sampling = decode_sampling(&mut f)?;
    // As one vendor of this format says it.
    let random = f.i64("random_seed")?.filter(|_| sampling.seed.is_none());
    sampling.seed = sampling.seed.or(random);
    let completion = f.u64("max_completion_tokens")?;
    let max_tokens = completion.or(f.u64("max_tokens")?);
    let (logprobs, stray_top) = logprobs(&mut f)?;
    let output = match f.peek("response_format") {
        Some(format) => output(format)?,
        None => None,
    };
    let effort = f.string("reasoning_effort")?;
    let reasoning = match effort {
        Some(effort) => Some(ReasoningAsk { effort: Some(effort), ..ReasoningAsk::default() }),
        None => told_loosely(|key| f.peek(key)),
    };
    let (user, safety) = (f.string("user")?, f.peek_str("safety_identifier").map(str::to_owned));
    let (include_usage, stream_options) = stream_options(&mut f)?;
    let mut request = Request {
        model,
        stream: f.bool("stream")?.unwrap_or(false),
        messages,
        tools,
        tool_choice,
        parallel_tool_calls: f.bool("parallel_tool_calls")?,
        output,
        sampling,
        max_tokens,
        n: f.u64("n")?,
        logprobs,
        reasoning,
        user: user.clone().or_else(|| safety.clone()),
        metadata: f.map("metadata")?.unwrap_or_default(),
        service_tier: f.string("service_tier")?,
        verbosity: f.string("verbosity")?,
        include_usage,
        extra: Extra::default(),
    };
    if user.is_none() && safety.is_some() {
        f.take("safety_identifier");
    }
    request.extra = f.rest(F);
    if user.is_none() && safety.is_some() {
        request.extra.insert(F, SAFETY_ID, true.into());
    }
    if random.is_some() {
        request.extra.insert(F, RANDOM_SEED, true.into());
    }
    if let Some(top) = stray_top {
        request.extra.insert(F, "top_logprobs", top.into());
    }
    if !stream_options.is_empty() {
        request.extra.insert(F, "stream_options", Value::Object(stream_options));
    }
    Ok(request)
}

fn decode_list<T>(f: &mut Fields, key: &str, each: fn(Value, String) -> Result<T>) -> Result<Vec<T>> {
    let items = f.array(key)?.unwrap_or_default();
    items.into_iter().enumerate().map(|(i, item)| each(item, format!("{key}[{i}]"))).collect()
}

fn decode_sampling(f: &mut Fields) -> Result<Sampling> {
    let stop = match f.take("stop") {
        None => Vec::new(),
        Some(Value::String(s)) => vec![s],
        Some(Value::Array(items)) => {
            let text = |(i, item)| match item {
                Value::String(s) => Ok(s),
                other => Err(wrong_type(&format!("stop[{i}]"), "a string", &other)),
            };
            items.into_iter().enumerate().map(text).collect::<Result<_>>()?
        }
        Some(other) => return Err(wrong_type("stop", "a string or an array of strings", &other)),
    };
    Ok(Sampling {
        temperature: f.f64("temperature")?,
        top_p: f.f64("top_p")?,
        top_k: match f.peek("top_k").and_then(Value::as_number).and_then(as_i64) {
            // -1 is how vLLM switches it off.
            Some(n) if n < 0 => None,
            _ => f.u64("top_k")?,
        },
        frequency_penalty: f.f64("frequency_penalty")?,
        presence_penalty: f.f64("presence_penalty")?,
        seed: f.i64("seed")?,
        stop,
        logit_bias: f.map("logit_bias")?,
    })
}

fn logprobs(f: &mut Fields) -> Result<(Option<LogprobsAsk>, Option<u64>)> {
    let (asked, top) = (f.bool("logprobs")?.unwrap_or(false), f.u64("top_logprobs")?);
    Ok(if asked { (Some(LogprobsAsk { top }), None) } else { (None, top) })
}

fn stream_options(f: &mut Fields) -> Result<(bool, Map<String, Value>)> {
    let Some(mut options) = f.object("stream_options")? else { return Ok((false, Map::new())) };
    Ok((options.bool("include_usage")?.unwrap_or(false), options.rest_map()))
}

/// Formats that only some servers know stay with the unknown fields, in their own words.
fn output(format: &Value) -> Result<Option<Output>> {
    let mut f = Fields::new(format.clone(), "response_format")?;
    let kind = f.required_string("type")?;
    Ok(match kind.as_str() {
        "text" => Some(Output::Text),
        "json_object" => match f.take("schema") {
            Some(schema) => Some(Output::Schema { name: None, description: None, schema, strict: None }),
            None => Some(Output::Json),
        },
        "json_schema" => {
            let mut f = f.object("json_schema")?.ok_or_else(|| missing("response_format.json_schema"))?;
            let (name, description, strict) = (f.string("name")?, f.string("description")?, f.bool("strict")?);
            let schema = f.take("schema").unwrap_or_else(|| json!({"type": "object"}));
            Some(Output::Schema { name, description, schema, strict })
        }
        _ => None,
    })
}

/// How much to think, as servers of this format say it beside the vendor's own word.
fn told_loosely<'a>(field: impl Fn(&str) -> Option<&'a Value>) -> Option<ReasoningAsk> {
    loose_reasoning(field("reasoning"), field("thinking")).or_else(|| {
        // Of models whose template has a switch (Qwen), bare or among what the template is told.
        let template = |key: &str| field("chat_template_kwargs")?.get(key);
        let switch =
            [field(SWITCH), template(SWITCH), template("thinking")].into_iter().flatten().find_map(Value::as_bool);
        let budget = if switch? { -1 } else { 0 };
        Some(ReasoningAsk { effort: None, budget: Some(budget), show: None })
    })
}

const SWITCH: &str = "enable_thinking";

/// OpenRouter's `reasoning` and the `thinking` of several servers. They stay with the unknown fields as well.
fn loose_reasoning(reasoning: Option<&Value>, thinking: Option<&Value>) -> Option<ReasoningAsk> {
    if let Some(Value::Object(map)) = reasoning {
        let number = |key: &str| map.get(key).and_then(Value::as_number).and_then(as_i64);
        let switch = match map.get("enabled").and_then(Value::as_bool) {
            Some(false) => Some(0),
            Some(true) => Some(-1),
            None => None,
        };
        let effort = map.get("effort").and_then(Value::as_str).map(str::to_owned);
        let budget = number("max_tokens").or(switch.filter(|_| effort.is_none()));
        let show = map.get("exclude").and_then(Value::as_bool).map(|hide| !hide);
        return Some(ReasoningAsk { effort, budget, show });
    }
    let thinking = thinking?.as_object()?;
    let budget = match thinking.get("type").and_then(Value::as_str)? {
        "disabled" => 0,
        "enabled" => thinking.get("budget_tokens").and_then(Value::as_number).and_then(as_i64).unwrap_or(-1),
        _ => -1,
    };
    Some(ReasoningAsk { effort: None, budget: Some(budget), show: None })
}

fn decode_tool(value: Value, path: String) -> Result<Tool> {
    let kind = match value.get("type").and_then(Value::as_str) {
        Some(kind) => kind.to_owned(),
        None if value.get("function").is_some() => "function".to_owned(),
        None => return Err(missing(&format!("{path}.type"))),
    };
    if kind != "function" && kind != "custom" {
        return Ok(Tool::Hosted { format: F, kind, value });
    }
    let custom = kind == "custom";
    let mut f = Fields::new(value, path)?;
    f.take("type");
    let cache = content::cache_hint(&f);
    let mut inner = f.object(&kind)?.ok_or_else(|| missing(&f.path(&kind)))?;
    let mut function = function(&mut inner, custom)?;
    function.cache = cache;
    function.extra = f.rest(F);
    keep(&mut function.extra, FUNCTION, inner.rest_map());
    Ok(Tool::Function(function))
}

fn function(f: &mut Fields, custom: bool) -> Result<Function> {
    Ok(Function {
        name: f.required_string("name")?,
        description: f.string("description")?,
        parameters: if custom { None } else { f.take("parameters") },
        strict: if custom { None } else { f.bool("strict")? },
        custom,
        cache: None,
        extra: Extra::default(),
    })
}

fn legacy_tool(value: Value, path: String) -> Result<Tool> {
    let mut f = Fields::new(value, path)?;
    let mut function = function(&mut f, false)?;
    keep(&mut function.extra, FUNCTION, f.rest_map());
    function.extra.insert(F, LEGACY, true.into());
    Ok(Tool::Function(function))
}

fn tool_choice(f: &mut Fields) -> Result<Option<ToolChoice>> {
    let (key, value) = match (f.take("tool_choice"), f.take("function_call")) {
        (Some(value), _) => ("tool_choice", value),
        (None, Some(value)) => ("function_call", value),
        (None, None) => return Ok(None),
    };
    let wrong = || {
        Error::invalid(key, format!("`{key}` must be \"none\", \"auto\", \"required\" or an object that names a tool"))
    };
    let name = |value: &Value| value.get("name").and_then(Value::as_str).map(str::to_owned);
    let named = |value: &Value, inner: &str| value.get(inner).unwrap_or(value).get("name")?.as_str().map(str::to_owned);
    Ok(Some(match &value {
        Value::String(word) => match word.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" | "any" => ToolChoice::Required,
            _ => return Err(wrong()),
        },
        Value::Object(_) if key == "function_call" => {
            ToolChoice::Tool { name: name(&value).ok_or_else(wrong)?, custom: false }
        }
        Value::Object(map) => match map.get("type").and_then(Value::as_str).unwrap_or("function") {
            "function" => ToolChoice::Tool { name: named(&value, "function").ok_or_else(wrong)?, custom: false },
            "custom" => ToolChoice::Tool { name: named(&value, "custom").ok_or_else(wrong)?, custom: true },
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" | "any" => ToolChoice::Required,
            "allowed_tools" => {
                let allowed = map.get("allowed_tools").unwrap_or(&value);
                let tools = allowed.get("tools").and_then(Value::as_array).ok_or_else(wrong)?;
                let names = tools.iter().map(|t| named(t, "function").or_else(|| named(t, "custom")).ok_or_else(wrong));
                let required = allowed.get("mode").and_then(Value::as_str) == Some("required");
                ToolChoice::Allowed { names: names.collect::<Result<_>>()?, required }
            }
            _ => return Err(wrong()),
        },
        _ => return Err(wrong()),
    }))
}

/// The calls seen so far: results name only the id, or in the legacy form only the function.
#[derive(Default)]
struct Calls {
    by_id: HashMap<String, (String, ToolKind)>,
    /// Legacy calls without an answer yet, as (name, id that was made).
    open: Vec<(String, String)>,
}

fn decode_messages(items: Vec<Item>) -> Result<Vec<Message>> {
    if items.is_empty() {
        return Err(Error::invalid("messages", "`messages` must hold at least one message"));
    }
    let mut calls = Calls::default();
    items.into_iter().enumerate().map(|(i, item)| decode_message(item, i, &mut calls)).collect()
}

fn decode_message(value: Item, at: usize, calls: &mut Calls) -> Result<Message> {
    let mut f = Fields::new(value, nth("messages", at))?;
    let role = f.required_string("role")?;
    let name = f.string("name")?;
    let hollow = HOLLOW.map(|(key, mark)| (f.peek_str(key) == Some("")).then_some(mark));
    let (role, parts) = match role.as_str() {
        "system" => (Role::System, required_content(&mut f)?),
        "developer" => (Role::Developer, required_content(&mut f)?),
        "user" => (Role::User, required_content(&mut f)?),
        "assistant" => (Role::Assistant, assistant_parts(&mut f, at, calls)?),
        "tool" => {
            let id = f.required_string("tool_call_id")?;
            (Role::Tool, vec![tool_result(&mut f, id, name.as_deref(), calls)?])
        }
        "function" => {
            let name = name.clone().ok_or_else(|| missing(&f.path("name")))?;
            (Role::Tool, vec![legacy_result(&mut f, name, calls)?])
        }
        _ => {
            let path = f.path("role");
            let text = format!("`{path}` must be system, developer, user, assistant, tool or function");
            return Err(Error::invalid(path, text));
        }
    };
    let mut extra = f.rest(F);
    for mark in hollow.into_iter().flatten().filter(|_| role == Role::Assistant) {
        extra.insert(F, mark, true.into());
    }
    Ok(Message { role, parts, name, extra })
}

fn required_content(f: &mut Fields) -> Result<Vec<Part>> {
    let path = f.path("content");
    content::decode(f.item("content").ok_or_else(|| missing(&path))?, &path)
}

fn assistant_parts(f: &mut Fields, at: usize, calls: &mut Calls) -> Result<Vec<Part>> {
    let mut parts = assistant::decode(f)?;
    for (i, part) in parts.iter_mut().enumerate() {
        let Part::ToolCall(call) = part else { continue };
        if marked(&call.extra, LEGACY) {
            call.id = super::wire::made_id(&[&at.to_string(), &i.to_string(), &call.name, &call.arguments]);
            calls.open.push((call.name.clone(), call.id.clone()));
        }
        calls.by_id.insert(call.id.clone(), (call.name.clone(), call.kind));
    }
    Ok(parts)
}

fn tool_result(f: &mut Fields, id: String, name: Option<&str>, calls: &Calls) -> Result<Part> {
    let call_id = signature::split_id(&id).0.to_owned();
    let (known, kind) = calls.by_id.get(&call_id).map_or((None, ToolKind::Function), |(n, k)| (Some(n.clone()), *k));
    let name = name.map(str::to_owned).or(known);
    result(f, call_id, name, kind, Extra::default())
}

fn legacy_result(f: &mut Fields, name: String, calls: &mut Calls) -> Result<Part> {
    let at = calls.open.iter().position(|(n, _)| *n == name);
    let call_id = match at {
        Some(at) => calls.open.remove(at).1,
        None => super::wire::made_id(&[&name]),
    };
    let mut extra = Extra::default();
    extra.insert(F, LEGACY, true.into());
    result(f, call_id, Some(name), ToolKind::Function, extra)
}

fn result(f: &mut Fields, call_id: String, name: Option<String>, kind: ToolKind, extra: Extra) -> Result<Part> {
    let parts = match f.take("content") {
        Some(value @ (Value::String(_) | Value::Array(_))) => content::decode(value, &f.path("content"))?,
        // Frameworks send a bare object now and then: its JSON is what the model is to see.
        Some(other) => vec![Part::text(other.to_string())],
        None => vec![Part::text("")],
    };
    Ok(Part::ToolResult(ToolResult { call_id, name, kind, parts, object: None, is_error: None, cache: None, extra }))
}

pub fn encode(request: &Request, dialect: &Dialect) -> Result<Encoded> {
    let mut w = Writer { dialect, body: Map::new(), dropped: Vec::new() };
    w.body.insert("model".into(), dialect.model.as_str().into());
    let (messages, dropped) = messages::encode(&request.messages, dialect)?;
    w.body.insert("messages".into(), Value::Array(messages));
    dropped.into_iter().for_each(|name| w.note(name));
    w.tools(request)?;
    w.output(request)?;
    w.sampling(request);
    w.rest(request)?;
    w.reasoning(request);
    if let Some(fields) = request.extra.of(F) {
        for key in ["reasoning", "thinking", SWITCH, "response_format"] {
            // Written above in these words if they still hold; else an edit took their place.
            if fields.contains_key(key) && !w.body.contains_key(key) {
                w.body.insert(key.into(), Value::Null);
            }
        }
    }
    plain(&request.extra, &mut w.body);
    w.of_others(&request.extra)?;
    w.stream(request);
    w.body.retain(|_, v| !v.is_null());
    Ok(Encoded { body: w.body, dropped: w.dropped })
}

struct Writer<'a> {
    dialect: &'a Dialect,
    body: Map<String, Value>,
    dropped: Vec<&'static str>,
}

impl Writer<'_> {
    fn note(&mut self, name: &'static str) {
        if !self.dropped.contains(&name) {
            self.dropped.push(name);
        }
    }

    /// What other families ask for in fields without a name in the model.
    fn of_others(&mut self, extra: &Extra) -> Result<()> {
        // Routers of models know answers with pictures; the vendor does not.
        let pictures = matches!(self.dialect.provider.as_str(), "" | "openrouter");
        foreign::refuse(extra, F, if pictures { &["image"] } else { &[] })?;
        if foreign::wants(extra, F, "image") {
            self.body.insert("modalities".into(), json!(["image", "text"]));
        }
        foreign::note(extra, F, &mut self.dropped);
        if vendor(self.dialect) {
            for (key, value) in foreign::shared(extra, F, &CACHING) {
                self.dropped.retain(|name| *name != key);
                self.body.entry(key).or_insert_with(|| value.clone());
            }
        }
        Ok(())
    }

    /// A knob: dropped and noted where the provider refuses it.
    fn knob(&mut self, name: &'static str, key: &'static str, value: Option<Value>) {
        match value {
            Some(_) if self.dialect.refuses.contains(&name) => self.note(name),
            Some(value) => drop(self.body.insert(key.into(), value)),
            None => {}
        }
    }

    fn lacks(&self, feature: &str) -> bool {
        self.dialect.lacks.contains(&feature)
    }

    fn need(&self, feature: &str, text: &str) -> Result<()> {
        if self.lacks(feature) { Err(Error::unsupported(feature, text)) } else { Ok(()) }
    }

    fn tools(&mut self, request: &Request) -> Result<()> {
        let Request { tools, tool_choice, parallel_tool_calls, .. } = request;
        if tools.is_empty() {
            if let Some(choice) = tool_choice.as_ref().filter(|c| !matches!(c, ToolChoice::Auto | ToolChoice::None)) {
                self.body.insert("tool_choice".into(), choice_value(choice, self.dialect));
            }
            return Ok(());
        }
        self.need("tools", "this target cannot call tools; leave `tools` out or choose another model")?;
        let legacy = |t: &Tool| matches!(t, Tool::Function(f) if marked(&f.extra, LEGACY));
        if tools.iter().all(legacy) {
            self.body.insert("functions".into(), tools.iter().filter_map(legacy_tool_value).collect());
            if let Some(choice) = tool_choice {
                self.body.insert("function_call".into(), legacy_choice(choice));
            }
            return Ok(());
        }
        let mut values = Vec::new();
        for tool in tools {
            if self.offered(tool, tool_choice.as_ref()) {
                values.push(self.tool(tool)?);
            }
        }
        self.body.insert("tools".into(), Value::Array(values));
        if let Some(choice) = tool_choice {
            self.body.insert("tool_choice".into(), choice_value(choice, self.dialect));
        }
        self.knob("parallel_tool_calls", "parallel_tool_calls", parallel_tool_calls.map(Value::Bool));
        Ok(())
    }

    /// Where `allowed_tools` is unknown, offering only those tools means the same.
    fn offered(&self, tool: &Tool, choice: Option<&ToolChoice>) -> bool {
        match (tool, choice) {
            (Tool::Function(f), Some(ToolChoice::Allowed { names, .. })) if !vendor(self.dialect) => {
                names.contains(&f.name)
            }
            _ => true,
        }
    }

    fn tool(&mut self, tool: &Tool) -> Result<Value> {
        let function = match tool {
            Tool::Hosted { format: F, kind: _, value } => return Ok(value.clone()),
            Tool::Hosted { format, kind, value: _ } => {
                let text =
                    format!("the tool `{kind}` runs at {} providers only; choose one of their models", format.name());
                return Err(Error::unsupported(kind, text));
            }
            Tool::Function(function) => function,
        };
        let Function { name: _, description: _, parameters: _, strict: _, custom, cache, extra } = function;
        let mut out = Map::new();
        let kind = if *custom { "custom" } else { "function" };
        out.insert("type".into(), kind.into());
        out.insert(kind.into(), Value::Object(function_value(function)));
        plain(extra, &mut out);
        if let Some(hint) = cache
            && !messages::says_cache(extra)
            && messages::cache_control(self.dialect)
        {
            out.insert("cache_control".into(), messages::ephemeral(hint));
        } else if cache.is_some() && !messages::says_cache(extra) && !messages::caches(self.dialect) {
            self.note("cache_control");
        }
        Ok(Value::Object(out))
    }

    fn output(&mut self, request: &Request) -> Result<()> {
        let told = mark(&request.extra, "response_format");
        let known = told.map(output).transpose()?.flatten();
        let Some(wanted) = &request.output else {
            if let Some(told) = told.filter(|_| known.is_none()) {
                self.body.insert("response_format".into(), told.clone());
            }
            return Ok(());
        };
        match wanted {
            Output::Text => {}
            Output::Json => {
                self.need("json_object", "this target has no JSON mode; ask for JSON in the prompt instead")?
            }
            Output::Schema { .. } => {
                self.need(
                    "json_schema",
                    "this target has no structured output; leave `response_format` out or choose another model",
                )?;
            }
        }
        let value = match told.filter(|_| known.as_ref() == Some(wanted)) {
            Some(told) => told.clone(),
            None => output_value(wanted),
        };
        self.body.insert("response_format".into(), value);
        Ok(())
    }

    fn sampling(&mut self, request: &Request) {
        let Sampling { temperature, top_p, top_k, frequency_penalty, presence_penalty, seed, stop, logit_bias } =
            &request.sampling;
        let bias = logit_bias.clone().map(Value::Object);
        let renamed = self.dialect.renames.iter().find(|(from, _)| *from == "seed").map(|(_, to)| *to);
        let own = if marked(&request.extra, RANDOM_SEED) { "random_seed" } else { "seed" };
        let seed_key = renamed.unwrap_or(own);
        let stop = (!stop.is_empty()).then(|| Value::from(stop.clone()));
        let knobs: [(&'static str, &'static str, Option<Value>); 8] = [
            ("temperature", "temperature", temperature.map(number)),
            ("top_p", "top_p", top_p.map(number)),
            ("top_k", "top_k", top_k.map(Value::from)),
            ("frequency_penalty", "frequency_penalty", frequency_penalty.map(number)),
            ("presence_penalty", "presence_penalty", presence_penalty.map(number)),
            ("seed", seed_key, seed.map(Value::from)),
            ("stop", "stop", stop),
            ("logit_bias", "logit_bias", bias),
        ];
        for (name, key, value) in knobs {
            let sampling = !matches!(name, "stop" | "seed");
            // OpenAI itself answers 400 to `top_k`.
            if value.is_some() && ((self.dialect.no_sampling && sampling) || (name == "top_k" && vendor(self.dialect)))
            {
                self.note(name);
            } else {
                self.knob(name, key, value);
            }
        }
    }

    fn rest(&mut self, request: &Request) -> Result<()> {
        let Request { max_tokens, n, logprobs, user, metadata, service_tier, verbosity, .. } = request;
        self.knob("max_tokens", self.dialect.max_tokens_field, max_tokens.map(Value::from));
        if n.is_some_and(|n| n > 1) {
            self.need("n", "this target gives one choice only; leave `n` out or choose another model")?;
        }
        if n.is_some_and(|n| n != 1) || !(self.lacks("n") || self.dialect.refuses.contains(&"n")) {
            self.knob("n", "n", n.map(Value::from));
        }
        if let Some(LogprobsAsk { top }) = logprobs {
            self.need("logprobs", "this target tells no logprobs; leave `logprobs` out or choose another model")?;
            self.knob("logprobs", "logprobs", Some(true.into()));
            self.knob("logprobs", "top_logprobs", top.map(Value::from));
        }
        let user_key = if marked(&request.extra, SAFETY_ID) { "safety_identifier" } else { "user" };
        self.knob("user", user_key, user.as_deref().map(Value::from));
        self.knob("metadata", "metadata", (!metadata.is_empty()).then(|| Value::Object(metadata.clone())));
        // Anthropic's word for "not the priority tier".
        let tier = service_tier.as_deref().map(|t| if t == "standard_only" { "default" } else { t });
        self.knob("service_tier", "service_tier", tier.map(Value::from));
        self.knob("verbosity", "verbosity", verbosity.as_deref().map(Value::from));
        Ok(())
    }

    fn reasoning(&mut self, request: &Request) {
        let Some(ask) = &request.reasoning else { return };
        if told_loosely(|key| mark(&request.extra, key)).as_ref() == Some(ask) {
            for key in ["reasoning", "thinking", SWITCH] {
                self.knob("reasoning", key, mark(&request.extra, key).cloned());
            }
            return;
        }
        if self.lacks("reasoning") || self.dialect.refuses.contains(&"reasoning") {
            self.note("reasoning_effort");
            return;
        }
        let effort = match (&ask.effort, ask.budget) {
            (Some(effort), _) => Some(effort.as_str()),
            (None, Some(budget @ 1..)) => Some(effort_of(budget)),
            (None, Some(0)) if knows_off(&self.dialect.model) => Some("none"),
            // Such a model may be one that does not think unless it is told to.
            (None, Some(..=-1)) if knows_off(&self.dialect.model) => Some("medium"),
            // "Off" has no word that every model takes; "as you like" is the default; showing cannot be asked.
            (None, Some(..=0)) | (None, None) => None,
        };
        if effort.is_none() && *ask != ReasoningAsk::default() {
            self.note("reasoning_effort");
        }
        self.knob("reasoning_effort", "reasoning_effort", effort.map(Value::from));
    }

    fn stream(&mut self, request: &Request) {
        self.body.shift_remove("stream_options");
        if !request.stream {
            return;
        }
        self.body.insert("stream".into(), true.into());
        if self.dialect.stream_options {
            let mut options = Map::new();
            // Always: the gateway counts. The client's encoder hides the chunk that was not asked for.
            options.insert("include_usage".into(), true.into());
            if let Some(Value::Object(more)) = mark(&request.extra, "stream_options") {
                options.extend(more.clone());
            }
            self.body.insert("stream_options".into(), Value::Object(options));
        }
    }
}

/// Fields that both formats of this vendor have. A safety identifier stands there only beside a user.
pub const CACHING: [&str; 4] =
    ["prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "safety_identifier"];

/// OpenAI's own servers, where its newest fields are known and unknown ones refused.
pub fn vendor(dialect: &Dialect) -> bool {
    matches!(dialect.provider.as_str(), "" | "openai" | "azure")
}

/// Models of which it is known that they can be told not to think.
fn knows_off(model: &str) -> bool {
    model.rsplit('/').next().is_some_and(|name| name.starts_with("gpt-5."))
}

/// A thinking budget as an effort: the borders are half of what the efforts are worth as budgets elsewhere.
fn effort_of(budget: i64) -> &'static str {
    match budget {
        ..=2048 => "low",
        2049..=8192 => "medium",
        _ => "high",
    }
}

fn function_value(function: &Function) -> Map<String, Value> {
    let Function { name, description, parameters, strict, custom: _, cache: _, extra } = function;
    let mut out = Map::new();
    out.insert("name".into(), name.as_str().into());
    if let Some(description) = description {
        out.insert("description".into(), description.as_str().into());
    }
    if let Some(parameters) = parameters {
        out.insert("parameters".into(), parameters.clone());
    }
    if let Some(strict) = strict {
        out.insert("strict".into(), (*strict).into());
    }
    prefixed(extra, FUNCTION, &mut out);
    if let Some(bound) = custom::bound(function, F) {
        out.insert("format".into(), custom::nested(bound));
    }
    out
}

fn legacy_tool_value(tool: &Tool) -> Option<Value> {
    if let Tool::Function(function) = tool { Some(Value::Object(function_value(function))) } else { None }
}

fn legacy_choice(choice: &ToolChoice) -> Value {
    match choice {
        ToolChoice::None => "none".into(),
        ToolChoice::Tool { name, custom: _ } => json!({ "name": name }),
        ToolChoice::Auto | ToolChoice::Required | ToolChoice::Allowed { .. } => "auto".into(),
    }
}

fn choice_value(choice: &ToolChoice, dialect: &Dialect) -> Value {
    let required = if dialect.provider == "mistral" { "any" } else { "required" };
    match choice {
        ToolChoice::Auto => "auto".into(),
        ToolChoice::None => "none".into(),
        ToolChoice::Required => required.into(),
        ToolChoice::Tool { name, custom: true } => json!({"type": "custom", "custom": {"name": name}}),
        ToolChoice::Tool { name, custom: false } => json!({"type": "function", "function": {"name": name}}),
        ToolChoice::Allowed { names, required: must } if vendor(dialect) => {
            let tools: Vec<Value> =
                names.iter().map(|n| json!({"type": "function", "function": {"name": n}})).collect();
            let mode = if *must { "required" } else { "auto" };
            json!({"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}})
        }
        ToolChoice::Allowed { names: _, required: true } => required.into(),
        ToolChoice::Allowed { names: _, required: false } => "auto".into(),
    }
}

fn output_value(output: &Output) -> Value {
    match output {
        Output::Text => json!({"type": "text"}),
        Output::Json => json!({"type": "json_object"}),
        Output::Schema { name, description, schema, strict } => {
            let mut inner = Map::new();
            inner.insert("name".into(), schema_name(name.as_deref()).into());
            if let Some(description) = description {
                inner.insert("description".into(), description.as_str().into());
            }
            inner.insert("schema".into(), schema.clone());
            if let Some(strict) = strict {
                inner.insert("strict".into(), (*strict).into());
            }
            json!({"type": "json_schema", "json_schema": inner})
        }
    }
}

/// Required here, 64 letters, digits, `_` and `-`.
fn schema_name(name: Option<&str>) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = name.unwrap_or_default().chars().map(legal).take(64).collect();
    if name.is_empty() { "response".to_owned() } else { name }
}
