//! The shape of `[store]`: where keys, counters and sums are kept, by one gateway or by several together.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Span;

#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// A change needs a restart.
    pub kind: Option<StoreKind>,
    /// The folder of the `sled` store, and of what is each gateway's own with `redis`. Default: data.
    pub path: Option<String>,
    /// How long the part of a budget that was in use when the gateway was killed counts as spent, after the next start. With
    /// `redis`: for how long what a gateway has reserved is its own if nobody hears of it. Default: 60s.
    pub budget_lease: Option<Span>,
    /// Where Redis answers: `redis://host:6379/0`, `rediss://` with TLS, `redis+cluster://a:6379,b:6379` and
    /// `rediss+cluster://` for a cluster, `redis+unix:///run/redis.sock`; a user's name may stand before `@`, a password
    /// never.
    pub url: Option<String>,
    /// Redis's password: `env:NAME` or `file:PATH`.
    pub password: Option<String>,
    /// What every name in Redis begins with: gateways with the same one share everything. Default: portcullis.
    pub prefix: Option<String>,
    /// PEM file with the authority of Redis's certificate. Default: those of the system.
    pub ca: Option<String>,
    /// How long one question to Redis may take. Default: 1s.
    pub timeout: Option<Span>,
    /// What requests meet that have a limit or a budget, while Redis does not answer. Default: refuse.
    pub on_outage: Option<OnOutage>,
    /// With `on_outage = "lease"`: the share of what was left when Redis answered last that all gateways together may give
    /// out. Default: 0.1.
    #[schemars(range(min = 0, max = 1))]
    pub lease_share: Option<f64>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// On disk, beside the gateway.
    Sled,
    /// Shared by several gateways.
    Redis,
    /// Forgotten at exit.
    Memory,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnOutage {
    /// 503, with the time after which to try again.
    Refuse,
    /// A bounded part of what was left.
    Lease,
}
