//! The generic cell rate algorithm in its leaky-bucket form (ITU-T I.371, "continuous state"): what was taken lies in a
//! bucket that drains at the rate, and a taking is admitted if it fits. Pure: state, time and rate in, decision and state
//! out; no clock, so that a store shared by several gateways can run the same.
//!
//! The level is counted in units × the milliseconds of a minute, so that no rate is rounded, and a rate that changes finds the
//! level as it was. All quantities are whole numbers that a double holds exactly, none passes `MOST_LEVEL` by more than a
//! minute's worth: a script whose numbers are doubles does the same arithmetic, to the unit.

use std::time::Duration;

/// What lies in a bucket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bucket {
    /// Units taken and not yet drained, times `MINUTE`.
    level: u64,
    /// When it was last drained, milliseconds.
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
        let count = count.clamp(1, MOST_LEVEL / MINUTE);
        Rate { per_minute: count, burst: count }
    }

    fn capacity(self) -> u64 {
        level(self.burst)
    }
}

impl Bucket {
    /// Takes `cost` units if they fit.
    pub fn take(&mut self, now: u64, cost: u64, rate: Rate) -> Result<(), Refused> {
        self.fits(now, cost, rate)?;
        self.level += level(cost);
        Ok(())
    }

    /// Would they fit? Takes nothing.
    pub fn fits(&mut self, now: u64, cost: u64, rate: Rate) -> Result<(), Refused> {
        self.drain(now, rate);
        let (wanted, capacity) = (level(cost), rate.capacity());
        if wanted > capacity {
            return Err(Refused::TooMuch);
        }
        let over = self.level.saturating_sub(capacity - wanted);
        if over > 0 {
            return Err(Refused::Wait(drained_in(over, rate)));
        }
        Ok(())
    }

    /// What was taken turned out to be another amount: the rest goes back, or a debt is left that drains like the rest.
    pub fn correct(&mut self, taken: u64, used: u64) {
        self.level = (self.level.saturating_sub(level(taken)) + level(used)).min(MOST_LEVEL);
    }

    pub fn standing(&mut self, now: u64, rate: Rate) -> Standing {
        let left = self.left(now, rate);
        Standing { limit: rate.burst, left, full_after: drained_in(self.level, rate) }
    }

    /// Whole units that fit now.
    pub fn left(&mut self, now: u64, rate: Rate) -> u64 {
        self.drain(now, rate);
        rate.capacity().saturating_sub(self.level) / MINUTE
    }

    /// A clock that went back counts on from where it is: what the bucket holds neither drains by that nor waits for the
    /// time that was lost.
    pub fn drain(&mut self, now: u64, rate: Rate) {
        // A script cuts the time to what empties it, because its product would not be exact; here that comes to the same.
        let passed = now.saturating_sub(self.at);
        self.at = now;
        self.level = self.level.saturating_sub(passed.saturating_mul(rate.per_minute));
    }
}

/// Rounded up: after it the amount has drained.
fn drained_in(amount: u64, rate: Rate) -> Duration {
    Duration::from_millis(amount.div_ceil(rate.per_minute))
}

fn level(units: u64) -> u64 {
    units.saturating_mul(MINUTE).min(MOST_LEVEL)
}

/// Milliseconds.
const MINUTE: u64 = 60_000;
/// No bucket holds more, and no rate may have more in a minute (`config::MOST_TOKENS` has less).
pub const MOST_LEVEL: u64 = 9_000_000_000_000_000;
