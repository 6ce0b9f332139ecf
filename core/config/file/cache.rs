//! `[cache]` as it stands in gateway.toml.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Size, Span};

/// Answers that are given again. Nothing is kept unless `builtin/cache` stands among the stages.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cache {
    /// How long an answer is given again. Default: 1h.
    pub ttl: Option<Span>,
    /// The most bytes of answers in memory; those that nobody asks for make room. Default: 64MiB.
    pub memory: Option<Size>,
    /// The most bytes of one answer that is kept. Default: 1MiB.
    pub max_answer: Option<Size>,
    /// Whether answers are kept that leave room for chance: all but those of `temperature = 0`. Default: true.
    pub sampled: Option<bool>,
    /// Whether equal requests that come at the same time are sent once. Default: true.
    pub single_flight: Option<bool>,
}
