//! What binds a team, and a key: limits and budgets, resolved. Plain data, carried by every principal.

/// What a key, or all keys of a team together, may use; `None`: without bound. Also how a key's row keeps them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_minute: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_minute: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrent: Option<u64>,
}

/// What a team may spend in each window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    pub nano_usd: u64,
    pub per: Per,
    /// What an attempt at a model without a price counts as.
    pub unpriced_nano_usd: u64,
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
    pub fn name(self) -> &'static str {
        match self {
            Per::Day => "day",
            Per::Week => "week",
            Per::Month => "month",
            Per::Total => "total",
        }
    }
}

impl Limits {
    /// Is there a bound at all?
    pub fn any(self) -> Option<Limits> {
        (self != Limits::default()).then_some(self)
    }
}
