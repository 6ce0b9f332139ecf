//! Asking the same target again: for which failures, after which wait, and how often at all. Pure; `gateway.rs` waits.
//!
//! This is the only layer that retries (promise 33): the transport below replaces no call that may have been sent, and
//! answers that have gone out say `x-should-retry: false` to the clients above.

use std::time::Duration;

use super::{
    Target,
    cause::{Again, Cause},
    health::Flight,
};
use crate::error::Error;

/// Retries of a target where its model's `retries` is not set: one where no other target is left, none elsewhere.
pub const WHEN_LAST: u32 = 1;

/// What a retry may cost, kept for each target: a fifth of its first attempts, so that retries never add more than 20 %.
/// Counted in fifths.
#[derive(Debug)]
pub struct Budget {
    left: u32,
    /// A target that nobody knows yet is lent a few retries; its first attempts pay them back before they earn new ones.
    lent: u32,
}

impl Default for Budget {
    fn default() -> Self {
        Budget { left: LENT, lent: LENT }
    }
}

impl Budget {
    /// A first attempt was made.
    pub fn earn(&mut self) {
        match self.lent {
            0 => self.left = (self.left + 1).min(MOST),
            _ => self.lent -= 1,
        }
    }

    /// One retry, if there is one left.
    pub fn spend(&mut self) -> bool {
        let enough = self.left >= RETRY;
        if enough {
            self.left -= RETRY;
        }
        enough
    }
}

/// Whether, and after how long, `target` is asked again after its `tries`-th retry failed with `error` (0: its first
/// attempt). `others`: another target could be asked instead. Takes the retry from the target's budget.
pub fn again(
    target: &Target,
    flight: &Flight,
    error: &Error,
    tries: u32,
    others: impl FnOnce() -> bool,
    time_left: Duration,
) -> Option<Duration> {
    if !may_help(error) {
        return None;
    }
    let most = target.retries.unwrap_or_else(|| if others() { 0 } else { WHEN_LAST });
    let wait = (tries < most).then(|| wait(tries, error.retry_after, fastrand::f64())).flatten()?;
    (wait < time_left && flight.may_retry()).then_some(wait)
}

/// Failures that pass by themselves, as the table of causes has them.
pub fn may_help(error: &Error) -> bool {
    match Cause::of(error).rule().again {
        Again::Never => false,
        Again::Told => error.upstream.is_some() && error.retry_after.is_some(),
        Again::Undone => match &error.upstream {
            Some(fault) => matches!(fault.status, 500 | 502 | 503 | 504 | 529),
            None => matches!(error.code(), "connect_timeout" | "connection_refused"),
        },
    }
}

/// Exponential backoff with full jitter, on top of what the upstream asked for. `random`: of 0..1. `None`: it asked for
/// more than anybody should be kept waiting.
pub fn wait(tries: u32, asked: Option<Duration>, random: f64) -> Option<Duration> {
    let asked = asked.unwrap_or(Duration::ZERO);
    let window = (FIRST_WINDOW * 2u32.saturating_pow(tries)).min(LONGEST_WINDOW);
    (asked <= LONGEST_ASKED).then(|| asked + window.mul_f64(random))
}

/// Of a `retry-after` that is waited for; a client is told of a longer one.
pub const LONGEST_ASKED: Duration = Duration::from_secs(10);
/// The figures of the official SDKs.
const FIRST_WINDOW: Duration = Duration::from_millis(500);
const LONGEST_WINDOW: Duration = Duration::from_secs(8);

/// In fifths of a retry: what one costs, what a new target is lent (five), and what can be saved up (ten).
const RETRY: u32 = 5;
const LENT: u32 = 5 * RETRY;
const MOST: u32 = 10 * RETRY;
