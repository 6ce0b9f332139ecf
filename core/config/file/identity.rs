//! The shape of who there is: `[organisations.…]`, `[users.…]`, and what is common to them and to teams.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Budgets, Data, TeamLimits};

/// Teams under one roof; what stands here binds all of them together.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Organisation {
    /// `true`: the keys of all its members are refused. Default: false.
    pub disabled: Option<bool>,
    /// With `disabled = true`: what runs with them ends too. Default: false, it runs to its end.
    pub cut: Option<bool>,
    /// Models that its members may use, `*` standing for anything. Default: all.
    pub models: Option<Vec<String>>,
    /// Operations that they may use: `chat`, `embeddings`, `rerank`, … Default: all.
    pub operations: Option<Vec<String>>,
    /// Addresses that they may call from (`10.0.0.0/8`). Default: all.
    pub ip_ranges: Option<Vec<String>>,
    /// What all keys of the organisation together may use. Default: no limit.
    pub limits: Option<TeamLimits>,
    /// What all keys of the organisation together may spend. Default: no bound.
    pub budget: Option<Budgets>,
    /// Models that a request goes to when a budget refuses it. Default: it is refused.
    pub budget_fallback: Option<Vec<String>>,
    /// Parameters a request starts from where nobody else says anything.
    pub defaults: Option<Defaults>,
    /// What parameters are held to.
    pub caps: Option<Caps>,
    /// On every request.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What targets must promise about data (`"eu"`): others are never sent anything. Default: nothing.
    pub data: Option<Data>,
}

/// Somebody who calls or operates the gateway.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Whom to write to.
    pub email: Option<String>,
    /// `true`: a service account, no person. Default: false.
    pub service: Option<bool>,
    /// `true`: its keys and tokens are refused. Default: false.
    pub disabled: Option<bool>,
    /// With `disabled = true`: what runs with them ends too. Default: false, it runs to its end.
    pub cut: Option<bool>,
    /// Of a user who is in no team.
    pub organisation: Option<String>,
    /// Teams that it belongs to.
    pub teams: Option<Vec<String>>,
    /// `owner`, `admin`, `operator`, `developer`, `viewer`, `billing`: over the user's teams, or over what follows
    /// (`admin@team:NAME`, `@organisation:NAME`, `@everything`, `@self`). Default: developer.
    pub roles: Option<Vec<String>>,
    /// Models that it may use, `*` standing for anything. Default: all.
    pub models: Option<Vec<String>>,
    /// Operations that it may use. Default: all.
    pub operations: Option<Vec<String>>,
    /// Addresses that it may call from (`10.0.0.0/8`). Default: all.
    pub ip_ranges: Option<Vec<String>>,
    /// What all its keys together may use. Default: no limit.
    pub limits: Option<TeamLimits>,
    /// What all its keys together may spend. Default: no bound.
    pub budget: Option<Budgets>,
    /// Models that a request goes to when a budget refuses it. Default: it is refused.
    pub budget_fallback: Option<Vec<String>>,
    /// Parameters its requests start from.
    pub defaults: Option<Defaults>,
    /// What parameters are held to.
    pub caps: Option<Caps>,
    /// On every request.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// What targets must promise about data (`"eu"`): others are never sent anything. Default: nothing.
    pub data: Option<Data>,
}

/// What a request's parameters are held to; what is higher is lowered and named in `x-portcullis-capped-params`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Caps {
    /// The most tokens of an answer, also of requests that name no number.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub max_tokens: Option<u64>,
    /// Answers to one request.
    #[schemars(range(min = 1, max = 128))]
    pub n: Option<u64>,
    /// The lowest and the highest: `[0.0, 1.0]`.
    pub temperature: Option<Vec<f64>>,
    /// The lowest and the highest.
    pub top_p: Option<Vec<f64>>,
}

/// Parameters a request starts from where the caller says nothing.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Defaults {
    #[schemars(range(min = 0, max = 2))]
    pub temperature: Option<f64>,
    #[schemars(range(min = 0, max = 1))]
    pub top_p: Option<f64>,
    #[schemars(range(min = 1))]
    pub top_k: Option<u64>,
    /// The most tokens an answer may have.
    #[schemars(range(min = 1))]
    pub max_tokens: Option<u64>,
    #[schemars(range(min = -2, max = 2))]
    pub frequency_penalty: Option<f64>,
    #[schemars(range(min = -2, max = 2))]
    pub presence_penalty: Option<f64>,
    pub seed: Option<i64>,
    pub stop: Option<Vec<String>>,
}
