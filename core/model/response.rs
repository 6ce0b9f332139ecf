//! A whole answer in canonical form.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Extra, Part, Usage};

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// The upstream's id; empty when it gave none.
    pub id: String,
    /// The model as the upstream names it.
    pub model: String,
    /// Unix seconds.
    pub created: Option<i64>,
    pub choices: Vec<Choice>,
    pub usage: Option<Usage>,
    pub service_tier: Option<String>,
    pub extra: Extra,
}

impl Response {
    /// Of output that an upstream counts.
    pub fn text_bytes(&self) -> u64 {
        self.choices.iter().flat_map(|choice| &choice.parts).map(Part::text_bytes).sum()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    pub index: u32,
    pub parts: Vec<Part>,
    pub finish: Option<Finish>,
    /// OpenAI's shape: `{"content": [{token, logprob, bytes, top_logprobs}], "refusal": …}`.
    pub logprobs: Option<Value>,
    pub extra: Extra,
}

/// Why the model stopped: the unified reason and the upstream's own word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finish {
    pub reason: FinishReason,
    /// As the upstream wrote it (`pause_turn`, `RECITATION`).
    pub raw: String,
    /// Which stop sequence was met, where the wire tells.
    pub stop_sequence: Option<String>,
    /// Anthropic `stop_details`, Gemini `finishMessage` or `promptFeedback`.
    pub details: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FinishReason {
    Stop,
    Length,
    ToolCalls,
    ContentFilter,
    /// The model produced something unusable (Gemini MALFORMED_*).
    Malformed,
    Other,
}

impl Finish {
    pub fn new(reason: FinishReason, raw: impl Into<String>) -> Self {
        Finish { reason, raw: raw.into(), stop_sequence: None, details: None }
    }
}

impl Response {
    /// A complete answer of one text.
    pub fn of_text(text: impl Into<String>) -> Self {
        let choice = Choice {
            index: 0,
            parts: vec![Part::text(text)],
            finish: Some(Finish::new(FinishReason::Stop, "stop")),
            ..Choice::default()
        };
        Response { choices: vec![choice], ..Response::default() }
    }

    /// Visible text of the first choice.
    pub fn text(&self) -> String {
        self.choices.first().map(|c| c.text()).unwrap_or_default()
    }
}

impl Choice {
    pub fn text(&self) -> String {
        self.parts.iter().filter_map(|p| if let Part::Text(t) = p { Some(t.text.as_str()) } else { None }).collect()
    }
}

impl FinishReason {
    /// The unified word, as scripts and records show it.
    pub const fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ToolCalls => "tool_calls",
            FinishReason::ContentFilter => "content_filter",
            FinishReason::Malformed => "malformed",
            FinishReason::Other => "other",
        }
    }
}
