//! A chat request in canonical form.

use serde_json::{Map, Value};

use super::{Extra, Message, Tool, ToolChoice};

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Request {
    pub model: String,
    pub stream: bool,
    pub messages: Vec<Message>,
    pub tools: Vec<Tool>,
    pub tool_choice: Option<ToolChoice>,
    pub parallel_tool_calls: Option<bool>,
    pub output: Option<Output>,
    pub sampling: Sampling,
    /// The most tokens the answer may have, reasoning included where the format counts it so.
    pub max_tokens: Option<u64>,
    pub n: Option<u64>,
    pub logprobs: Option<LogprobsAsk>,
    pub reasoning: Option<ReasoningAsk>,
    /// End-user id (OpenAI `user`/`safety_identifier`, Anthropic `metadata.user_id`).
    pub user: Option<String>,
    /// Free key-value pairs.
    pub metadata: Map<String, Value>,
    pub service_tier: Option<String>,
    /// `low | medium | high` (OpenAI `verbosity`).
    pub verbosity: Option<String>,
    /// The caller asked for a usage chunk in its stream (OpenAI `stream_options.include_usage`).
    pub include_usage: bool,
    pub extra: Extra,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Sampling {
    pub temperature: Option<f64>,
    pub top_p: Option<f64>,
    pub top_k: Option<u64>,
    pub frequency_penalty: Option<f64>,
    pub presence_penalty: Option<f64>,
    pub seed: Option<i64>,
    pub stop: Vec<String>,
    pub logit_bias: Option<Map<String, Value>>,
}

/// Shape asked of the answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    Text,
    Json,
    Schema { name: Option<String>, description: Option<String>, schema: Value, strict: Option<bool> },
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogprobsAsk {
    pub top: Option<u64>,
}

/// How much thinking is asked. `effort`: none, minimal, low, medium, high, xhigh, max.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ReasoningAsk {
    pub effort: Option<String>,
    /// Tokens; 0 switches thinking off, -1 lets the model decide (Gemini's dynamic, Anthropic's adaptive).
    pub budget: Option<i64>,
    /// Show the thinking in the answer (Gemini `includeThoughts`, Anthropic `display`).
    pub show: Option<bool>,
}

impl ReasoningAsk {
    /// No thinking is asked for, or none at all: a model that cannot think does so anyway.
    pub fn is_off(&self) -> bool {
        match self.budget {
            Some(budget) => budget == 0,
            None => self.effort.as_deref().is_none_or(|effort| effort == "none"),
        }
    }
}
