//! The shape of what a model, or a provider, says of targets that falter.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Span;

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Timeouts {
    /// To reach the upstream. Default: 5s.
    pub connect: Option<Span>,
    /// Streams: from the request's end to the first model output. Default: 60s.
    pub first_event: Option<Span>,
    /// The longest silence in an answer. Default: 60s.
    pub idle: Option<Span>,
    /// Unstreamed answers whole, and streams up to their first output. Default: 10m.
    pub whole: Option<Span>,
}

/// How fast a stream must come.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MinSpeed {
    /// Tokens a second, of text, thoughts and calls of tools.
    #[schemars(range(min = 1, max = 10_000))]
    pub tokens_per_second: u32,
    /// Measured over this time, from the first output on. Default: 5s.
    pub over: Option<Span>,
}

/// When another target is asked at the same time.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hedge {
    /// The first one has given no output for this time (`800ms`), or for longer than all but its slowest answers take (`p95`).
    pub after: Span,
    /// So many may be asked beside it. Default: 1.
    #[schemars(range(min = 1, max = 3))]
    pub max: Option<u32>,
}

/// A cheap call of the gateway's own: for the list of the provider's models, or for one word of a model.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// How often.
    pub every: Span,
    /// What takes longer has failed. Default: 5s.
    pub timeout: Option<Span>,
}
