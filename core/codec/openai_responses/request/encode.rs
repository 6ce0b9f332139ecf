//! The model to an upstream's body: the fields around the conversation. A knob that this format has no word for is dropped
//! and noted; a feature is an error that names it.

use serde_json::{Map, Value, json};

use super::{
    super::{
        code,
        wire::{F, SAFETY_ID, mark, marked, plain},
    },
    decode::{self, LOGPROBS},
    tools, turns,
};
use crate::{
    codec::{
        Dialect, Encoded, foreign,
        json::number,
        openai_chat::request::{CACHING, vendor},
    },
    error::{Error, Result},
    model::{LogprobsAsk, Output, ReasoningAsk, Request, Sampling, Tool},
};

pub fn encode(request: &Request, dialect: &Dialect) -> Result<Encoded> {
    let mut w = Writer { dialect, body: Map::new(), notes: Vec::new() };
    w.put("model", dialect.model.as_str());
    let turns = turns::encode(&request.messages, dialect, &mut w.notes)?;
    if let Some(text) = turns.instructions {
        w.put("instructions", text);
    }
    if let Some(prompt) = turns.prompt {
        w.body.insert("prompt".into(), prompt);
    }
    w.body.insert("input".into(), Value::Array(turns.items));
    tools::encode(request, dialect, &mut w.body, &mut w.notes)?;
    w.text(request)?;
    w.knobs(request)?;
    w.reasoning(request);
    w.keeping(request);
    plain(&request.extra, &mut w.body);
    // Pictures are drawn by a tool here.
    let draws = dialect.runs(PICTURES);
    foreign::refuse(&request.extra, F, if draws { &["image"] } else { &[] })?;
    if foreign::wants(&request.extra, F, "image")
        && let Value::Array(tools) = w.body.entry("tools").or_insert_with(|| json!([]))
        && !tools.iter().any(|tool| tool["type"] == PICTURES)
    {
        tools.push(json!({"type": PICTURES}));
    }
    foreign::note(&request.extra, F, &mut w.notes);
    if vendor(dialect) {
        for (key, value) in foreign::shared(&request.extra, F, &CACHING) {
            w.notes.retain(|name| *name != key);
            w.body.entry(key).or_insert_with(|| value.clone());
        }
    }
    w.body.retain(|_, v| !v.is_null());
    Ok(Encoded { body: w.body, dropped: w.notes })
}

struct Writer<'a> {
    dialect: &'a Dialect,
    body: Map<String, Value>,
    notes: Vec<&'static str>,
}

impl Writer<'_> {
    fn put(&mut self, key: &str, value: impl Into<Value>) {
        self.body.insert(key.to_owned(), value.into());
    }

    fn note(&mut self, name: &'static str) {
        if !self.notes.contains(&name) {
            self.notes.push(name);
        }
    }

    fn knob(&mut self, name: &'static str, key: &'static str, value: Option<Value>) {
        match value {
            Some(_) if self.dialect.refuses.contains(&name) => self.note(name),
            Some(value) => self.put(key, value),
            None => {}
        }
    }

    fn need(&self, feature: &str, text: &str) -> Result<()> {
        if self.dialect.lacks.contains(&feature) { Err(Error::unsupported(feature, text)) } else { Ok(()) }
    }

    fn text(&mut self, request: &Request) -> Result<()> {
        let mut text = match mark(&request.extra, "$text") {
            Some(Value::Object(kept)) => kept.clone(),
            _ => Map::new(),
        };
        match &request.output {
            None => {}
            Some(Output::Text) => drop(text.insert("format".into(), json!({"type": "text"}))),
            Some(Output::Json) => {
                self.need("json_object", "this target has no JSON mode; ask for JSON in the prompt instead")?;
                text.insert("format".into(), json!({"type": "json_object"}));
            }
            Some(Output::Schema { name, description, schema, strict }) => {
                let lacking =
                    "this target has no structured output; leave the output schema out or choose another model";
                self.need("json_schema", lacking)?;
                let mut format = Map::new();
                format.insert("type".into(), "json_schema".into());
                format.insert("name".into(), schema_name(name.as_deref()).into());
                if let Some(description) = description {
                    format.insert("description".into(), description.as_str().into());
                }
                format.insert("schema".into(), schema.clone());
                if let Some(strict) = strict {
                    format.insert("strict".into(), (*strict).into());
                }
                text.insert("format".into(), Value::Object(format));
            }
        }
        match &request.verbosity {
            Some(_) if self.dialect.refuses.contains(&"verbosity") => self.note("verbosity"),
            Some(verbosity) => drop(text.insert("verbosity".into(), verbosity.as_str().into())),
            None => {}
        }
        if !text.is_empty() {
            self.body.insert("text".into(), Value::Object(text));
        }
        Ok(())
    }

    fn knobs(&mut self, request: &Request) -> Result<()> {
        let Sampling { temperature, top_p, top_k, frequency_penalty, presence_penalty, seed, stop, logit_bias } =
            &request.sampling;
        for (name, value) in [("temperature", temperature), ("top_p", top_p)] {
            match value {
                Some(_) if self.dialect.no_sampling => self.note(name),
                value => self.knob(name, name, value.map(number)),
            }
        }
        let wordless = [
            ("top_k", top_k.is_some()),
            ("frequency_penalty", frequency_penalty.is_some()),
            ("presence_penalty", presence_penalty.is_some()),
            ("seed", seed.is_some()),
            ("stop", !stop.is_empty()),
            ("logit_bias", logit_bias.is_some()),
        ];
        wordless.into_iter().filter(|(_, said)| *said).for_each(|(name, _)| self.note(name));
        if request.n.is_some_and(|n| n > 1) {
            return Err(Error::unsupported(
                "n",
                "this target gives one choice only; leave `n` out or choose another model",
            ));
        }
        let own = matches!(self.dialect.provider.as_str(), "openai" | "azure");
        let bound = request.max_tokens.map(|most| if own { most.max(LEAST_OUTPUT) } else { most });
        if bound != request.max_tokens {
            self.note("max_tokens");
        }
        self.knob("max_tokens", "max_output_tokens", bound.map(Value::from));
        if let Some(LogprobsAsk { top }) = &request.logprobs {
            self.need("logprobs", "this target tells no logprobs; leave `logprobs` out or choose another model")?;
            self.include(&request.extra, LOGPROBS);
            self.knob("logprobs", "top_logprobs", top.map(Value::from));
        }
        let user = if marked(&request.extra, SAFETY_ID) { "safety_identifier" } else { "user" };
        self.knob("user", user, request.user.as_deref().map(Value::from));
        let metadata = (!request.metadata.is_empty()).then(|| Value::Object(request.metadata.clone()));
        self.knob("metadata", "metadata", metadata);
        let tier = request.service_tier.as_deref().map(|t| if t == "standard_only" { "default" } else { t });
        self.knob("service_tier", "service_tier", tier.map(Value::from));
        if request.stream {
            self.put("stream", true);
        }
        Ok(())
    }

    /// Asks for one more thing in the answer.
    fn include(&mut self, extra: &crate::model::Extra, what: &str) {
        let list = self.body.entry("include").or_insert_with(|| match mark(extra, "include") {
            Some(Value::Array(list)) => Value::Array(list.clone()),
            _ => json!([]),
        });
        if let Value::Array(list) = list
            && !list.iter().any(|v| v == what)
        {
            list.push(what.into());
        }
    }

    fn reasoning(&mut self, request: &Request) {
        let told = mark(&request.extra, "reasoning");
        let Some(ask) = &request.reasoning else {
            // Only fields without a name in the model, or an edit took it out.
            if told.is_some() && decode::reasoning(told).is_some() {
                self.body.insert("reasoning".into(), Value::Null);
            }
            return;
        };
        if self.dialect.lacks.contains(&"reasoning") || self.dialect.refuses.contains(&"reasoning") {
            self.body.insert("reasoning".into(), Value::Null);
            return self.note("reasoning_effort");
        }
        if decode::reasoning(told).as_ref() == Some(ask) {
            return self.knob("reasoning", "reasoning", told.cloned());
        }
        let ReasoningAsk { effort, budget, show } = ask;
        let mut out = Map::new();
        match (effort, budget) {
            (Some(effort), _) => drop(out.insert("effort".into(), effort.as_str().into())),
            (None, Some(budget @ 1..)) => drop(out.insert("effort".into(), effort_of(*budget).into())),
            (None, Some(0)) if knows_off(&self.dialect.model) => drop(out.insert("effort".into(), "none".into())),
            // Such a model may be one that does not think unless it is told to; so may any at a server that no row names.
            (None, Some(..=-1)) if knows_off(&self.dialect.model) || self.dialect.assumed => {
                drop(out.insert("effort".into(), "medium".into()));
            }
            // "Off" has no word that every model takes; "as you like" is the default.
            (None, Some(..=0)) => self.note("reasoning_effort"),
            (None, None) => {}
        }
        if *show == Some(true) {
            out.insert("summary".into(), "auto".into());
        }
        let value = if out.is_empty() { Value::Null } else { Value::Object(out) };
        self.body.insert("reasoning".into(), value);
    }

    /// Conversations of other formats are kept by nobody: the vendor would keep them unasked, and would not give thoughts
    /// back in a form that can be sent again.
    fn keeping(&mut self, request: &Request) {
        if request.extra.of(F).is_some_and(|own| own.contains_key("store")) {
            return;
        }
        self.put("store", false);
        if self.dialect.reasons || request.reasoning.is_some() && !self.dialect.lacks.contains(&"reasoning") {
            self.include(&request.extra, SEALED);
        }
        // What code prints is told to who asks for it; others are told unasked.
        let runs = |tool: &Tool| matches!(tool, Tool::Hosted { format: F, kind, .. } if kind == code::TOOL);
        if request.extra.of(F).is_none() && request.tools.iter().any(runs) {
            self.include(&request.extra, code::OUTPUTS);
        }
    }
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

/// Required here, 64 letters, digits, `_` and `-`.
fn schema_name(name: Option<&str>) -> String {
    let legal = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let name: String = name.unwrap_or_default().chars().map(legal).take(64).collect();
    if name.is_empty() { "response".to_owned() } else { name }
}

/// The tool that draws.
const PICTURES: &str = "image_generation";
/// In `include`: thoughts come in a form that can be sent again.
pub const SEALED: &str = "reasoning.encrypted_content";
/// The vendor answers 400 to a smaller bound.
const LEAST_OUTPUT: u64 = 16;
