//! The generic cell rate algorithm in its leaky-bucket form (ITU-T I.371, "continuous state"): what was taken lies in a
//! bucket that drains at the rate, and a taking is admitted if it fits. Pure: state, time and rate in, decision and state
//! out; no clock, so that a store shared by several gateways can run the same.
//!
//! The level is counted in units × one minute, so that no rate is rounded, and a rate that changes finds the level as it was.

use std::time::Duration;

/// What lies in a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Units taken and not yet drained, times `MINUTE`.
    level: u128,
    /// When it was last drained, nanoseconds.
    at: u64,
}

/// How fast it drains, and how much fits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// At least 1.
    pub per_minute: u64,
    /// At least 1: what may be taken at once when nothing was taken before.
    pub burst: u64,
}

/// Why a taking was not admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It would be, after this time, if nobody takes anything meanwhile.
    Wait(Duration),
    /// It is more than ever fits.
    TooMuch,
}

/// A bucket as headers tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    pub limit: u64,
    /// Whole units that fit now.
    pub left: u64,
    /// Until it is empty again.
    pub full_after: Duration,
}

impl Rate {
    /// A minute's worth at once, then as it drains.
    pub fn a_minute(count: u64) -> Rate {
        Rate { per_minute: count.max(1), burst: count.max(1) }
    }

    fn capacity(self) -> u128 {
        u128::from(self.burst) * MINUTE
    }
}

impl Bucket {
    /// Takes `cost` units if they fit.
    pub fn take(&mut self, now: u64, cost: u64, rate: Rate) -> Result<(), Refused> {
        self.drain(now, rate);
        let wanted = u128::from(cost) * MINUTE;
        let over = self.level.saturating_add(wanted).saturating_sub(rate.capacity());
        if over == 0 {
            self.level += wanted;
            return Ok(());
        }
        if wanted > rate.capacity() { Err(Refused::TooMuch) } else { Err(Refused::Wait(drained_in(over, rate))) }
    }

    /// What was taken turned out to be another amount: the rest goes back, or a debt is left that drains like the rest.
    pub fn correct(&mut self, taken: u64, used: u64) {
        let (taken, used) = (u128::from(taken) * MINUTE, u128::from(used) * MINUTE);
        self.level = self.level.saturating_sub(taken).saturating_add(used);
    }

    pub fn standing(&mut self, now: u64, rate: Rate) -> Standing {
        self.drain(now, rate);
        let left = rate.capacity().saturating_sub(self.level) / MINUTE;
        Standing {
            limit: rate.burst,
            left: u64::try_from(left).unwrap_or(u64::MAX),
            full_after: drained_in(self.level, rate),
        }
    }

    /// A clock that went back counts on from where it is: what the bucket holds neither drains by that nor waits for the
    /// time that was lost.
    fn drain(&mut self, now: u64, rate: Rate) {
        let passed = now.saturating_sub(self.at);
        self.at = now;
        self.level = self.level.saturating_sub(u128::from(passed) * u128::from(rate.per_minute));
    }
}

/// Rounded up: after it the amount has drained.
fn drained_in(amount: u128, rate: Rate) -> Duration {
    let nanos = amount.div_ceil(u128::from(rate.per_minute));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Nanoseconds.
const MINUTE: u128 = 60_000_000_000;
