//! Prices that a function makes, where a table cannot say them: by the hour, by agreement, by steps of its own. What runs it
//! lies elsewhere; this is what prices need of it.

use std::{fmt, sync::Arc, time::SystemTime};

use super::Rates;
use crate::{
    config::PriceSheet,
    model::{ServiceTier, Units, Usage},
};

/// Pure and bounded: the same usage of the same time always costs the same.
pub trait Function: fmt::Debug + Send + Sync {
    /// Nano-dollars; `None`: it cannot say, which is never zero.
    fn price(&self, usage: &Usage, asked: Asked<'_>) -> Option<i64>;

    /// Its text, by which its results are told from those of another one.
    fn source(&self) -> &str;
}

/// What is known of a request besides what it used.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// `provider/model`.
    pub target: &'a str,
    /// When it began.
    pub at: Option<SystemTime>,
    /// So many requests together.
    pub requests: u64,
}

/// A function at one target.
#[derive(Debug, Clone)]
pub(super) struct Bound {
    function: Arc<dyn Function>,
    target: Arc<str>,
}

impl PartialEq for Bound {
    fn eq(&self, other: &Bound) -> bool {
        self.function.source() == other.function.source() && self.target == other.target
    }
}

impl Rates {
    /// As `function` says. `sheet`: what it may cost at most, and what stages see as its price; nothing of it is charged.
    pub fn by(function: &Arc<dyn Function>, sheet: &PriceSheet, target: &str) -> Rates {
        let rates = Rates::new(sheet);
        let version = rates.version.with(function.source());
        Rates { version, function: Some(Bound { function: function.clone(), target: target.into() }), ..rates }
    }
}

impl Bound {
    pub fn price(&self, usage: &Usage, at: Option<SystemTime>, requests: u64) -> Option<i64> {
        self.function.price(usage, Asked { target: &self.target, at, requests }).filter(|nano| *nano >= 0)
    }

    /// The dearest of the shapes that so many tokens can have: a function may treat each in its own way.
    pub fn most(&self, input: u64, output: u64, units: &Units, at: Option<SystemTime>) -> i64 {
        let plain =
            Usage { input_tokens: Some(input), output_tokens: Some(output), units: units.boxed(), ..Usage::default() };
        let shapes = [
            plain.clone(),
            Usage { cache_read_tokens: Some(input), ..plain.clone() },
            Usage { cache_write_tokens: Some(input), ..plain.clone() },
            Usage { cache_write_tokens: Some(input), cache_write_1h_tokens: Some(input), ..plain.clone() },
            Usage { reasoning_tokens: Some(output), ..plain.clone() },
            Usage { input_audio_tokens: Some(input), output_audio_tokens: Some(output), ..plain.clone() },
        ];
        let services = SERVICES.map(|service| Usage { service_tier: Some(service), ..plain.clone() });
        shapes.iter().chain(&services).filter_map(|usage| self.price(usage, at, 1)).max().unwrap_or(0)
    }
}

const SERVICES: [ServiceTier; 7] = [
    ServiceTier::Flex,
    ServiceTier::Priority,
    ServiceTier::Fast,
    ServiceTier::Batch,
    ServiceTier::Us,
    ServiceTier::UsFast,
    ServiceTier::UsBatch,
];
