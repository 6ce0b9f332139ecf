//! What binds a scope: limits and budgets, resolved. Plain data, carried by every principal; it counts nothing.

use std::sync::Arc;

use super::{Rule, Scope, Secret, Team};

/// What everybody in a scope together may use; `None`: without bound. Also how a key's row keeps them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_tokens_per_minute: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output_tokens_per_minute: Option<u64>,
    /// Input and output together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_day: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_day: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u64>,
    /// They are only reported: nobody is refused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub shadow: bool,
}

/// What may be spent in each window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub nano_usd: u64,
    pub per: Per,
    /// What an attempt at a model without a price counts as.
    pub unpriced_nano_usd: u64,
    /// Past this part of it somebody is told: millionths.
    pub soft: Option<u32>,
}

/// A budget's window, UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Per {
    Day,
    Week,
    Month,
    Total,
}

impl Per {
    pub const ALL: [Per; 4] = [Per::Day, Per::Week, Per::Month, Per::Total];

    pub fn name(self) -> &'static str {
        match self {
            Per::Day => "day",
            Per::Week => "week",
            Per::Month => "month",
            Per::Total => "total",
        }
    }

    pub fn named(name: &str) -> Option<Per> {
        Per::ALL.into_iter().find(|per| per.name() == name)
    }
}

impl Limits {
    /// As messages and files call them, each with its bound and the most that one may be.
    pub fn named(&self) -> [(&'static str, Option<u64>, u64); 7] {
        [
            ("requests_per_minute", self.requests_per_minute, MOST_REQUESTS),
            ("input_tokens_per_minute", self.input_tokens_per_minute, MOST_TOKENS),
            ("output_tokens_per_minute", self.output_tokens_per_minute, MOST_TOKENS),
            ("tokens_per_minute", self.tokens_per_minute, MOST_TOKENS),
            ("requests_per_day", self.requests_per_day, MOST_TOKENS),
            ("tokens_per_day", self.tokens_per_day, MOST_A_DAY),
            ("concurrent", self.concurrent, MOST_REQUESTS),
        ]
    }

    /// Is there a bound at all?
    pub fn any(self) -> Option<Limits> {
        self.named().iter().any(|(_, bound, _)| bound.is_some()).then_some(self)
    }

    /// The name of a bound that no limit may have, and a sentence about it.
    pub fn absurd(&self) -> Option<(&'static str, String)> {
        let (name, bound, most) =
            self.named().into_iter().find(|(_, bound, most)| bound.is_some_and(|bound| bound == 0 || bound > *most))?;
        let bound = bound.unwrap_or(0);
        let message = if bound == 0 {
            format!("`{name}` must be at least 1; leave it out for no limit, or revoke or disable who may send nothing")
        } else {
            format!("`{name}` is {bound}, and may be {most} at most: so much bounds nothing; leave it out for no limit")
        };
        Some((name, message))
    }
}

impl Budget {
    /// Nano-dollars past which somebody is told, of `most` with all raises.
    pub fn soft_of(&self, most: u64) -> Option<u64> {
        let part = u128::from(most) * u128::from(self.soft?) / u128::from(WHOLE);
        Some(u64::try_from(part).unwrap_or(u64::MAX))
    }
}

/// `[alerts]`.
#[derive(Debug, Clone)]
pub struct Alerts {
    /// An address: it may hold a secret.
    pub webhook: Secret,
    pub token: Option<Secret>,
    /// It may live on a private address.
    pub private: bool,
}

impl Team {
    /// What binds all who are in it; `None`: nothing.
    pub fn rule(&self, name: &Arc<str>) -> Option<Rule> {
        Rule::falling_back(Scope::Team(name.clone()), name, self.limits, self.budgets.clone(), self.fallback.clone())
    }
}

/// What a budget without a word of its own counts an unpriced attempt as, nano-dollars: ten cents, more than nearly any single
/// answer costs.
pub const UNPRICED: u64 = 100_000_000;
/// The most that a budget may hold, nano-dollars: nine million dollars. Every sum of them is a whole number that a double
/// holds exactly, which is what a store's scripts reckon in.
pub const MOST_NANO_USD: u64 = 9_000_000_000_000_000;
/// Millionths of the whole.
pub const WHOLE: u32 = 1_000_000;
/// Of requests a minute, and at a time.
pub const MOST_REQUESTS: u64 = 1_000_000_000;
/// Of tokens a minute: times a minute's milliseconds they stay below what a double holds exactly.
pub const MOST_TOKENS: u64 = 100_000_000_000;
pub const MOST_A_DAY: u64 = 1_000_000_000_000_000;
