//! What providers grant, resolved: bounds in windows, by target and by key. Plain data; it counts nothing.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::Per;

/// One bound in one kind of window.
#[derive(Debug, Clone, PartialEq)]
pub struct Quota {
    pub unit: Unit,
    /// In units; dollars in nano-dollars.
    pub bound: u64,
    pub every: Every,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Unit {
    Requests,
    InputTokens,
    OutputTokens,
    Tokens,
    Usd,
}

/// When it begins anew.
#[derive(Debug, Clone, PartialEq)]
pub enum Every {
    /// So long after the first use.
    Use(Duration),
    /// So long, end to end from a moment.
    Grid(Duration, SystemTime),
    /// With the calendar of a zone.
    Calendar(Per, jiff::tz::TimeZone),
}

/// All that are configured.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Quotas {
    /// By `provider/model`: they bind whatever name led there.
    pub targets: BTreeMap<Arc<str>, Arc<[Quota]>>,
    /// By provider: each of its keys by itself.
    pub keys: BTreeMap<Arc<str>, Arc<[Quota]>>,
}

impl Unit {
    pub const ALL: [Unit; 5] = [Unit::Requests, Unit::InputTokens, Unit::OutputTokens, Unit::Tokens, Unit::Usd];

    pub fn name(self) -> &'static str {
        match self {
            Unit::Requests => "requests",
            Unit::InputTokens => "input_tokens",
            Unit::OutputTokens => "output_tokens",
            Unit::Tokens => "tokens",
            Unit::Usd => "usd",
        }
    }

    pub fn named(name: &str) -> Option<Unit> {
        Unit::ALL.into_iter().find(|unit| unit.name() == name)
    }
}

impl Every {
    /// One window, about; `None`: it has no end.
    pub fn lasts(&self) -> Option<Duration> {
        match self {
            Every::Use(length) | Every::Grid(length, _) => Some(*length),
            Every::Calendar(Per::Day, _) => Some(Duration::from_secs(86_400)),
            Every::Calendar(Per::Week, _) => Some(Duration::from_secs(7 * 86_400)),
            Every::Calendar(Per::Month, _) => Some(Duration::from_secs(30 * 86_400)),
            Every::Calendar(Per::Total, _) => None,
        }
    }

    /// As files write it, with what belongs to it: no two that differ have the same.
    pub fn name(&self) -> String {
        match self {
            Every::Use(length) => span(*length),
            Every::Grid(length, anchor) => {
                let from = anchor.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
                format!("{}@{from}", span(*length))
            }
            Every::Calendar(per, zone) => match zone.iana_name() {
                None | Some("UTC") => per.name().to_owned(),
                Some(zone) => format!("{} {zone}", per.name()),
            },
        }
    }
}

impl Quotas {
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.keys.is_empty()
    }
}

/// In the largest unit that says it exactly.
fn span(length: Duration) -> String {
    let millis = length.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s")];
    let fits = units.into_iter().find(|(size, _)| millis >= *size && millis.is_multiple_of(*size));
    fits.map_or_else(|| format!("{millis}ms"), |(size, unit)| format!("{}{unit}", millis / size))
}
