//! The shape of `[rollout]`: how a new version of configuration, scripts and plugins takes over from the running one.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Span;

/// How a saved change takes over: first in shadow, then for a share of requests, then for all. The rules of the running
/// version hold, not those of the new one.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// For so long the new version decides about copies of requests, and nothing is sent. Default: no shadow.
    pub shadow: Option<Span>,
    /// Then it serves this share of requests (0.05: one in twenty). Default: all at once.
    #[schemars(range(min = 0, max = 1))]
    pub canary: Option<f64>,
    /// For at least so long. Default: 10m.
    pub canary_time: Option<Span>,
    /// Fewer requests are no ground for a judgement, neither for going on nor, as long as it could still change, for going
    /// back. Default: 50.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub min_requests: Option<u32>,
    /// What keeps to the version that it met first. Default: session.
    pub sticky: Option<Sticky>,
    /// When the new version goes, provided that it fares worse than the running one beside it. Default: never by itself.
    pub revert_on: Option<RevertOn>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Sticky {
    /// A caller's session, where its requests name one in a header; else each request for itself.
    Session,
    /// All requests of a key.
    Key,
}

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevertOn {
    /// More than this share of its requests ended in a 5xx or broke off (0.02: one in fifty).
    #[schemars(range(min = 0, max = 1))]
    pub error_rate: Option<f64>,
    /// More than one in a hundred waited longer than so many milliseconds for the first output, or for a whole answer.
    #[schemars(range(min = 1, max = 3_600_000))]
    pub p99_ms: Option<u64>,
}
