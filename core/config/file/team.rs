//! The shape of what binds a team: `limits`, `budget` and `priority`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Usd;

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TeamLimits {
    /// A minute's worth may come at once; then as many as the time that passed allows.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub requests_per_minute: Option<u64>,
    /// Input and output together: reserved before a request is sent, corrected by what it used.
    #[schemars(range(min = 1, max = 1_000_000_000_000_u64))]
    pub tokens_per_minute: Option<u64>,
    /// Requests in flight at a time.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub concurrent: Option<u64>,
}

/// A hard bound: before each attempt the most that it may cost is reserved.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Budget {
    /// US dollars, as a number or as text ("0.05").
    pub usd: Usd,
    /// The window, in UTC: weeks begin on Monday, `total` never ends.
    pub per: Per,
    /// What an attempt at a model without a known price counts as. Default: 0.1.
    pub unpriced_usd: Option<Usd>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    Day,
    Week,
    Month,
    Total,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    Low,
    Normal,
    High,
}
