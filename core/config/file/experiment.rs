//! The shape of `models.NAME.split` and `models.NAME.mirror`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Span;

/// Requests for this name are shared out among arms, which `GET /api/v1/experiments` compares.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// What keeps to the arm that it met first. Default: session.
    pub by: Option<SplitBy>,
    /// Two or more.
    pub arms: Vec<Arm>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SplitBy {
    /// Nothing: each request draws for itself.
    Request,
    /// A caller's session, where its requests name one; else each request for itself.
    Session,
    /// All requests of a key.
    Key,
    /// The end user that a request names; else the user that the key belongs to; else the key.
    User,
}

#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    /// As records and comparisons call it. Default: the same as `to`.
    pub name: Option<String>,
    /// Another public name, or `provider/model`.
    pub to: String,
    /// Its share, in proportion to the others' weights. Default: 1.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub weight: Option<u32>,
}

/// A share of requests is sent to another target, too. Its answers go nowhere, and no request waits for it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// Another public name, or `provider/model`.
    pub to: String,
    /// Of requests (0.05: one in twenty).
    #[schemars(range(min = 0, max = 1))]
    pub share: f64,
    /// Copies under way at one time; what finds no room is left out and counted. Default: 8.
    #[schemars(range(min = 1, max = 1_000))]
    pub concurrent: Option<u32>,
    /// What takes longer is given up. Default: 10m.
    pub timeout: Option<Span>,
    /// Whose limits and budgets copies count in. Default: nobody's; those of their provider, of the name `to` and of the
    /// tag `mirror=NAME` hold.
    pub charge: Option<Charge>,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Charge {
    Nobody,
    /// The caller of the request that is copied.
    Caller,
}
