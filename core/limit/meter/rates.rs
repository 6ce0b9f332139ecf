//! What is left of limits, as headers tell it: of each kind the one that has least left. Takes nothing.

use super::Today;
use crate::limit::{
    gcra::{Bucket, Rate, Standing},
    window::Days,
};

/// The tightest of a caller's scopes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    pub requests: Option<Standing>,
    pub input_tokens: Option<Standing>,
    pub output_tokens: Option<Standing>,
    pub tokens: Option<Standing>,
}

impl Rates {
    /// The tighter of each.
    pub fn and(self, other: Rates) -> Rates {
        Rates {
            requests: tighter(self.requests, other.requests),
            input_tokens: tighter(self.input_tokens, other.input_tokens),
            output_tokens: tighter(self.output_tokens, other.output_tokens),
            tokens: tighter(self.tokens, other.tokens),
        }
    }
}

fn tighter(a: Option<Standing>, b: Option<Standing>) -> Option<Standing> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.left < a.left { b } else { a }),
        (a, b) => a.or(b),
    }
}

/// Only the tightest is asked when it will be whole again, which takes a division.
pub fn minute(tightest: &mut Option<Standing>, bucket: &mut Bucket, now: u64, count: Option<u64>) {
    let Some(count) = count else { return };
    let rate = Rate::a_minute(count);
    let left = bucket.left(now, rate);
    if tightest.is_none_or(|tightest| left < tightest.left) {
        *tightest = Some(bucket.standing(now, rate));
    }
}

pub fn day(tightest: &mut Option<Standing>, days: &Days, today: Today, count: Option<u64>) {
    let Some(limit) = count else { return };
    let left = limit.saturating_sub(days.of(today.day));
    if tightest.is_none_or(|tightest| left < tightest.left) {
        *tightest = Some(Standing { limit, left, full_after: today.ends_in });
    }
}
