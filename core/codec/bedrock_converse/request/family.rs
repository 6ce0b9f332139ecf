//! What models of different makers take beside the common fields, in `additionalModelRequestFields`: how much to think, and
//! `top_k`. A caller's own spelling stays as long as nobody changed what it means.

use serde_json::{Map, Value, json};

use super::super::Dialect;
use crate::{
    codec::anthropic_messages::knobs,
    model::{ReasoningAsk, Request},
};

/// Whose model it is, as far as its name tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    Claude,
    Nova,
    GptOss,
    Other,
}

impl Family {
    /// Names carry a region before them (`us.anthropic.claude-…`), or are an ARN that ends with one.
    pub fn of(model: &str) -> Family {
        let model = model.to_ascii_lowercase();
        if model.contains("claude") {
            Family::Claude
        } else if model.contains("amazon.nova") || model.starts_with("nova-") {
            Family::Nova
        } else if model.contains("gpt-oss") {
            Family::GptOss
        } else {
            Family::Other
        }
    }

    /// Does a cache point mean something to it? An unknown name may be a profile of anything.
    pub fn caches(self, model: &str) -> bool {
        match self {
            Family::Claude | Family::Nova => true,
            Family::GptOss => false,
            Family::Other => !OTHERS.iter().any(|maker| model.to_ascii_lowercase().contains(maker)),
        }
    }
}

/// Makers whose models refuse cache points.
const OTHERS: [&str; 9] =
    ["meta.", "mistral.", "cohere.", "ai21.", "deepseek.", "qwen.", "amazon.titan", "writer.", "openai."];

/// What these fields ask for that the canonical model has a name for.
#[derive(Debug, Default, PartialEq)]
pub struct Asked {
    pub reasoning: Option<ReasoningAsk>,
    pub top_k: Option<u64>,
}

pub fn read(fields: &Map<String, Value>) -> Asked {
    let number = |pointer: [&str; 2]| {
        let outer = fields.get(pointer[0])?;
        if pointer[1].is_empty() { outer.as_u64() } else { outer.get(pointer[1])?.as_u64() }
    };
    let top_k = [["top_k", ""], ["topK", ""], ["inferenceConfig", "topK"]].into_iter().find_map(number);
    Asked { reasoning: reasoning(fields), top_k }
}

fn reasoning(fields: &Map<String, Value>) -> Option<ReasoningAsk> {
    let text = |object: &Value, key: &str| object.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut ask = ReasoningAsk::default();
    if let Some(thinking) = fields.get("thinking").or_else(|| fields.get("reasoning_config")) {
        ask.budget = match thinking.get("type").and_then(Value::as_str) {
            Some("enabled") => thinking.get("budget_tokens").and_then(Value::as_i64),
            Some("adaptive") => Some(-1),
            Some("disabled") => Some(0),
            _ => None,
        };
        ask.show = text(thinking, "display").map(|display| display != "omitted");
    }
    let effort = fields.get("output_config").and_then(|config| text(config, "effort"));
    ask.effort = effort.or_else(|| fields.get("reasoning_effort").and_then(Value::as_str).map(str::to_owned));
    if let Some(config) = fields.get("reasoningConfig") {
        ask.effort = match config.get("type").and_then(Value::as_str) {
            Some("disabled") => Some("none".to_owned()),
            _ => text(config, "maxReasoningEffort").or(ask.effort),
        };
    }
    (ask != ReasoningAsk::default()).then_some(ask)
}

/// What is written for a target.
pub struct Written {
    pub fields: Map<String, Value>,
    /// A model of this maker is told to think, which binds other knobs.
    pub thinking: Option<knobs::Thinking>,
    /// For `outputConfig`, where nobody's own field is known.
    pub effort: Option<String>,
}

/// `kept`: the fields as a caller of this format sent them. `lacks_thinking`: see `knobs::thinking`.
pub fn write(
    request: &Request,
    kept: Map<String, Value>,
    dialect: &Dialect,
    lacks_thinking: bool,
    dropped: &mut Vec<&'static str>,
) -> Written {
    let (family, was, mut fields) = (Family::of(&dialect.model), read(&kept), kept);
    let (mut thinking, mut common) = (None, None);
    if was.reasoning != request.reasoning {
        for key in ["thinking", "reasoning_config", "reasoning_effort", "reasoningConfig"] {
            fields.shift_remove(key);
        }
        take_inner(&mut fields, "output_config", "effort");
        match (&request.reasoning, family) {
            (None, _) => {}
            (Some(ask), Family::Nova | Family::GptOss) if dialect.lacks.contains(&"reasoning") => {
                if !ask.is_off() {
                    dropped.push("reasoning_effort");
                }
            }
            (Some(_), Family::Claude) => {
                let asked = knobs::thinking(request, dialect, lacks_thinking, dropped);
                if let Some(thinking) = asked.thinking() {
                    fields.insert("thinking".to_owned(), thinking);
                }
                if let Some(effort) = asked.effort() {
                    put_inner(&mut fields, "output_config", "effort", effort.into());
                }
                thinking = Some(asked);
            }
            (Some(ask), Family::Nova | Family::GptOss) => match (effort(ask), family) {
                (Some("none"), Family::Nova) => {
                    fields.insert("reasoningConfig".to_owned(), json!({"type": "disabled"}));
                }
                (Some(effort), Family::Nova) => {
                    let config = json!({"type": "enabled", "maxReasoningEffort": effort});
                    fields.insert("reasoningConfig".to_owned(), config);
                }
                (Some(effort), _) if effort != "none" => {
                    fields.insert("reasoning_effort".to_owned(), effort.into());
                }
                _ => dropped.push("reasoning_effort"),
            },
            (Some(ask), Family::Other) => match effort(ask) {
                Some(word) if word != "none" && unknown(dialect) => common = Some(exact(ask, word)),
                _ => dropped.push("reasoning_effort"),
            },
        }
    }
    if was.top_k != request.sampling.top_k {
        fields.shift_remove("top_k");
        fields.shift_remove("topK");
        take_inner(&mut fields, "inferenceConfig", "topK");
        let blocked = dialect.no_sampling
            || dialect.refuses.contains(&"top_k")
            || thinking.as_ref().is_some_and(knobs::Thinking::is_on);
        match (request.sampling.top_k, family) {
            (None, _) => {}
            (Some(top_k), Family::Claude) if !blocked => drop(fields.insert("top_k".to_owned(), top_k.into())),
            (Some(top_k), Family::Nova) if !blocked => put_inner(&mut fields, "inferenceConfig", "topK", top_k.into()),
            (Some(_), _) => dropped.push("top_k"),
        }
    }
    Written { fields, thinking, effort: common }
}

/// Its name is no maker's, as a profile's is, and nothing is known of what it lacks.
fn unknown(dialect: &Dialect) -> bool {
    let made = ["imported-model", "custom-model", "."].iter().any(|what| dialect.model.contains(what));
    !made && !dialect.lacks.contains(&"reasoning")
}

/// The wire's common field has two words more.
fn exact(ask: &ReasoningAsk, word: &'static str) -> String {
    ask.effort.as_deref().filter(|effort| ["xhigh", "max"].contains(effort)).unwrap_or(word).to_owned()
}

/// One of the three words that these models know, or `none`.
fn effort(ask: &ReasoningAsk) -> Option<&'static str> {
    let word = match (&ask.effort, ask.budget) {
        (Some(effort), _) => effort.as_str(),
        (None, Some(0)) => "none",
        (None, Some(budget)) if budget > 0 => knobs::effort_of(budget),
        (None, Some(_)) => "medium",
        (None, None) => return None,
    };
    Some(match word {
        "none" => "none",
        "minimal" | "low" => "low",
        "high" | "xhigh" | "max" => "high",
        _ => "medium",
    })
}

fn take_inner(fields: &mut Map<String, Value>, outer: &str, key: &str) {
    if let Some(Value::Object(inner)) = fields.get_mut(outer) {
        inner.shift_remove(key);
        if inner.is_empty() {
            fields.shift_remove(outer);
        }
    }
}

fn put_inner(fields: &mut Map<String, Value>, outer: &str, key: &str, value: Value) {
    let inner = fields.entry(outer.to_owned()).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        inner.insert(key.to_owned(), value);
    }
}

/// For the common fields: may this sampling knob stand beside thinking?
pub fn beside_thinking(name: &str, value: f64, thinking: bool) -> bool {
    !thinking || (name == "temperature" && value == 1.0) || (name == "top_p" && value >= 0.95)
}
