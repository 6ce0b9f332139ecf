//! What the figures of two versions side by side say: wait, go on, or go back. Pure: counts and times in, verdict out.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use serde_json::{Value, json};

use crate::config;

/// One version's requests, or decisions, of one phase.
#[derive(Debug)]
pub struct Tally {
    requests: AtomicU64,
    errors: AtomicU64,
    /// Longer than `revert_on.p99_ms`.
    slow: AtomicU64,
    /// Times by powers of the square root of two, from a tenth of a millisecond.
    times: [AtomicU64; BUCKETS],
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Counts {
    pub requests: u64,
    pub errors: u64,
    pub slow: u64,
}

/// A phase of a rollout that is going on.
#[derive(Debug, Clone, Copy)]
pub struct Stretch {
    /// At least so long.
    pub time: Duration,
    pub elapsed: Duration,
    /// After it the new version serves all: not before enough was seen of it.
    pub last: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// For what.
    Wait(String),
    Next,
    /// Why.
    Revert(String),
}

impl Default for Tally {
    fn default() -> Self {
        let times = std::array::from_fn(|_| AtomicU64::new(0));
        Tally { requests: AtomicU64::new(0), errors: AtomicU64::new(0), slow: AtomicU64::new(0), times }
    }
}

impl Tally {
    pub fn add(&self, took: Duration, error: bool, slow_from: Option<Duration>) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.errors.fetch_add(u64::from(error), Ordering::Relaxed);
        self.slow.fetch_add(u64::from(slow_from.is_some_and(|most| took > most)), Ordering::Relaxed);
        self.times[bucket(took)].fetch_add(1, Ordering::Relaxed);
    }

    pub fn counts(&self) -> Counts {
        let [requests, errors, slow] =
            [&self.requests, &self.errors, &self.slow].map(|count| count.load(Ordering::Relaxed));
        Counts { requests, errors, slow }
    }

    /// Upper bound of the bucket in which the slowest hundredth begins.
    pub fn p99_ms(&self) -> Option<f64> {
        let times = self.times.each_ref().map(|n| n.load(Ordering::Relaxed));
        let total: u64 = times.iter().sum();
        let mut beyond = total / 100;
        for (n, count) in times.iter().enumerate().rev() {
            if *count > beyond {
                return Some((LEAST_MS * SQRT_2.powi(i32::try_from(n).unwrap_or(0) + 1) * 10.0).round() / 10.0);
            }
            beyond -= count;
        }
        None
    }

    pub fn json(&self) -> Value {
        let Counts { requests, errors, slow: _ } = self.counts();
        let rate = if requests > 0 { errors as f64 / requests as f64 } else { 0.0 };
        json!({ "requests": requests, "errors": errors, "error_rate": rate, "p99_ms": self.p99_ms() })
    }
}

/// May the new version go on? `what`: "requests" or "decisions".
pub fn judge(rules: &config::Rollout, stretch: Stretch, old: Counts, new: Counts, what: &str) -> Verdict {
    if let Some(reason) = breach(rules, old, new, what) {
        return Verdict::Revert(reason);
    }
    if stretch.elapsed < stretch.time {
        let left = (stretch.time - stretch.elapsed).as_secs_f64().ceil();
        return Verdict::Wait(format!("{left} s more of this phase"));
    }
    if stretch.last && new.requests < rules.min_requests {
        return Verdict::Wait(format!("{} more {what}", rules.min_requests - new.requests));
    }
    if over(rules, new) {
        return Verdict::Wait(format!("its {what} to fare better: the running version fares no better"));
    }
    Verdict::Next
}

/// Why the new version has to go: it is over a limit, for certain, and worse than the old one beside it. What ails both is
/// not its doing.
pub fn breach(rules: &config::Rollout, old: Counts, new: Counts, what: &str) -> Option<String> {
    let min = rules.min_requests;
    let percent = |share: f64| format!("{:.1} %", share * 100.0);
    if let Some(limit) = rules.error_rate
        && exceeds(new.errors, new.requests, limit, min)
        && share(new.errors, new.requests) > share(old.errors, old.requests)
    {
        return Some(format!(
            "{} of {} {what} failed ({}; allowed {}; the running version: {} of {})",
            new.errors,
            new.requests,
            percent(share(new.errors, new.requests)),
            percent(limit),
            old.errors,
            old.requests
        ));
    }
    if let Some(limit) = rules.p99
        && new.slow >= LEAST_SLOW
        && exceeds(new.slow, new.requests, SLOWEST, min)
        && share(new.slow, new.requests) > share(old.slow, old.requests)
    {
        return Some(format!(
            "p99 is above {} ms: {} of {} {what} took longer (the running version: {} of {})",
            limit.as_millis(),
            new.slow,
            new.requests,
            old.slow,
            old.requests
        ));
    }
    None
}

/// Over a limit, whoever else is.
fn over(rules: &config::Rollout, new: Counts) -> bool {
    let errors = rules.error_rate.is_some_and(|limit| exceeds(new.errors, new.requests, limit, rules.min_requests));
    let slow =
        rules.p99.is_some() && new.slow >= LEAST_SLOW && exceeds(new.slow, new.requests, SLOWEST, rules.min_requests);
    errors || slow
}

/// Is the share of bad ones above the limit, or will it be when `min` are seen even if all the others are good?
fn exceeds(bad: u64, all: u64, limit: f64, min: u64) -> bool {
    bad as f64 > limit * all.max(min) as f64
}

fn share(bad: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { bad as f64 / all as f64 }
}

fn bucket(took: Duration) -> usize {
    let ratio = took.as_secs_f64() * 1000.0 / LEAST_MS;
    if ratio <= 1.0 { 0 } else { ((ratio.ln() / SQRT_2.ln()) as usize).min(BUCKETS - 1) }
}

/// p99: of a hundred, one may be slower.
const SLOWEST: f64 = 0.01;
/// Fewer slow ones are chance: with fifty requests one alone would be two in a hundred.
const LEAST_SLOW: u64 = 3;
const LEAST_MS: f64 = 0.1;
const SQRT_2: f64 = std::f64::consts::SQRT_2;
/// The last one begins at three hours.
const BUCKETS: usize = 54;
