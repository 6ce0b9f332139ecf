//! What a decision stood on, as the trace keeps it: only for requests that are explained, so that nobody else pays for it.
//! Plain values; nothing here looks anything up.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

/// One target as it stood when the request was planned.
#[derive(Debug, Clone)]
pub struct Weighed {
    pub target: Arc<str>,
    /// Among targets that are drawn by weight.
    pub weight: u32,
    /// `closed`, `half_open` or `open`.
    pub circuit: &'static str,
    /// An open breaker lets nobody in for so long.
    pub retry_in: Option<Duration>,
    /// Smoothed time to the first event; `None` until measured.
    pub latency: Option<Duration>,
    pub in_flight: u64,
    /// Of its provider; and how many of them rest for every model.
    pub keys: usize,
    pub keys_resting: usize,
    /// USD a million tokens; `None`: nobody knows.
    pub price_input: Option<f64>,
    pub price_output: Option<f64>,
    pub context_window: Option<u64>,
    pub capabilities: &'static [&'static str],
}

/// Why a target stands where it does.
#[derive(Debug, Clone)]
pub struct Rank {
    pub target: Arc<str>,
    pub strategy: &'static str,
    pub why: String,
}

/// What one of the caller's scopes has left.
#[derive(Debug, Clone)]
pub struct Allowance {
    /// `key`, `team`, `model`, …
    pub scope: &'static str,
    pub name: Arc<str>,
    /// By the limit's name in files, as in `requests_per_minute`.
    pub shares: Vec<(&'static str, Share)>,
    /// As many at once, and as many are under way.
    pub concurrent: Option<(u64, Option<u64>)>,
    /// It only reports.
    pub shadow: bool,
    /// Why it would refuse a request now.
    pub refuses: Option<String>,
}

/// Of a limit a minute or a day.
#[derive(Debug, Clone, Copy)]
pub struct Share {
    pub limit: u64,
    /// `None`: only the running gateway knows.
    pub left: Option<u64>,
    pub full_after: Option<Duration>,
}

/// A budget in its window, nano-dollars.
#[derive(Debug, Clone)]
pub struct Funds {
    /// `team`, `key`, `model`, …
    pub scope: &'static str,
    pub name: Arc<str>,
    pub nano_usd: u64,
    pub per: &'static str,
    /// `None`: only the running gateway knows.
    pub spent: Option<u64>,
    pub reserved: Option<u64>,
    pub left: Option<u64>,
    pub resets: Option<SystemTime>,
}

/// What an attempt may use at most, and so what is reserved for it.
#[derive(Debug, Clone)]
pub struct Reserve {
    pub target: Arc<str>,
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// `None` without a budget: no money is reserved.
    pub nano_usd: Option<u64>,
    /// The bound that is set on the answer.
    pub max_tokens: Option<u64>,
}
