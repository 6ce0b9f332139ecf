//! Closed by its provider: a target or a key that was told to wait, until when, and who finds out first whether it is over. What
//! a provider says is believed up to a bound; afterwards one attempt goes ahead of the others, so that they do not all come back
//! at once to a door that is still shut.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    frame::{Millis, millis},
    meter::Meters,
};

/// One owner: its quotas, and whether its provider closed it.
#[derive(Debug)]
pub struct Gate {
    pub meters: Meters,
    /// Until then nothing is sent; 0: it is open.
    until: AtomicU64,
    /// While somebody finds out: until when others wait for that.
    proving: AtomicU64,
    /// Whether somebody has to find out first, and whether the account is what is used up.
    flags: AtomicU64,
    /// Closings in a row, for providers that do not say how long.
    row: AtomicU64,
    /// The store says something else.
    stale: AtomicU64,
}

/// May an attempt pass?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    Open,
    /// It finds out whether the closing is over.
    Probe,
    Closed(Duration),
}

/// What a provider said of its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Told {
    pub wait: Duration,
    /// It said something that nobody should believe.
    pub absurd: bool,
}

impl Gate {
    pub fn new(meters: Meters) -> Gate {
        let zero = || AtomicU64::new(0);
        Gate { meters, until: zero(), proving: zero(), flags: zero(), row: zero(), stale: zero() }
    }

    /// The same owner with other quotas.
    pub fn with(&self, meters: Meters) -> Gate {
        let copy = |number: &AtomicU64| AtomicU64::new(number.load(Ordering::Relaxed));
        Gate {
            meters,
            until: copy(&self.until),
            proving: copy(&self.proving),
            flags: copy(&self.flags),
            row: copy(&self.row),
            stale: copy(&self.stale),
        }
    }

    /// Without a lock, and without taking the probe.
    pub fn look(&self, now: Millis) -> Pass {
        let until = self.until.load(Ordering::Acquire);
        if until == 0 {
            return Pass::Open;
        }
        if now < until {
            return Pass::Closed(Duration::from_millis(until - now));
        }
        if self.flags.load(Ordering::Relaxed) & PROVES == 0 {
            return Pass::Open;
        }
        match self.proving.load(Ordering::Relaxed) {
            // Nobody knows when it is answered.
            proving if proving > now => Pass::Closed(SOON),
            _ => Pass::Probe,
        }
    }

    /// An attempt is about to be made; of several that could find out one does.
    pub fn enter(&self, now: Millis) -> Pass {
        let before = self.proving.load(Ordering::Relaxed);
        match self.look(now) {
            Pass::Probe => {
                let mine = self.proving.compare_exchange(before, now + PROVING, Ordering::AcqRel, Ordering::Relaxed);
                if mine.is_ok() { Pass::Probe } else { Pass::Closed(SOON) }
            }
            other => other,
        }
    }

    /// The provider has taken an attempt: it is open.
    pub fn opened(&self) {
        if self.until.swap(0, Ordering::AcqRel) != 0 {
            self.stale.store(1, Ordering::Release);
        }
        self.proving.store(0, Ordering::Relaxed);
        self.row.store(0, Ordering::Relaxed);
    }

    /// The attempt found nothing out: the next one may.
    pub fn unproven(&self) {
        self.proving.store(0, Ordering::Relaxed);
    }

    /// The provider said to wait; without a time the wait doubles each time. Says until when it is closed.
    pub fn close(&self, told: Option<Told>, now: Millis) -> Millis {
        let row = self.row.fetch_add(1, Ordering::Relaxed).min(16) as u32;
        let wait = told.map_or_else(|| FIRST.saturating_mul(1 << row).min(LONGEST_GUESS), |told| told.wait);
        let until = now.saturating_add(millis(wait)).max(1);
        let long = wait > SHORT;
        let before = self.until.fetch_max(until, Ordering::AcqRel);
        if before < until {
            let flags = if long { PROVES } else { 0 } | if told.is_none() { UNPAID } else { 0 };
            self.flags.store(flags, Ordering::Release);
        }
        self.proving.store(0, Ordering::Relaxed);
        if before < until && long {
            self.stale.store(1, Ordering::Release);
        }
        until.max(before)
    }

    /// The provider said that the account has nothing left.
    pub fn is_unpaid(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & UNPAID != 0
    }

    /// As the store has it: another gateway's word, or an earlier life's. `None`: it is open.
    pub fn heard(&self, until: Option<Millis>, now: Millis) {
        match until {
            Some(until) => {
                let until = until.min(now.saturating_add(millis(LONGEST)));
                if self.until.fetch_max(until, Ordering::AcqRel) < until {
                    self.flags.fetch_or(PROVES, Ordering::Release);
                }
            }
            None => self.until.store(0, Ordering::Release),
        }
    }

    /// It is long enough to be in the store.
    pub fn is_kept(&self) -> bool {
        self.flags.load(Ordering::Relaxed) & PROVES != 0
    }

    pub fn until(&self) -> Option<Millis> {
        Some(self.until.load(Ordering::Acquire)).filter(|until| *until != 0)
    }

    /// Whether the row in the store is to be written; asked once for each change.
    pub fn unwritten(&self) -> bool {
        self.stale.swap(0, Ordering::AcqRel) != 0
    }

    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Acquire) != 0
    }

    pub fn spoiled(&self) {
        self.stale.store(1, Ordering::Release);
    }

    pub fn shift(&self, by: i64) {
        let until = self.until.load(Ordering::Acquire);
        if until != 0 {
            self.until.store(until.saturating_add_signed(by).max(1), Ordering::Release);
        }
    }
}

impl Told {
    /// What a provider says is believed up to a month; more is looked at again within the hour.
    pub fn of(wait: Duration) -> Told {
        let absurd = wait > LONGEST;
        Told { wait: if absurd { LONGEST_GUESS } else { wait }, absurd }
    }
}

/// The longest that a provider is believed.
pub const LONGEST: Duration = Duration::from_secs(32 * 86_400);
/// Without a word on how long: at first, and at most.
const FIRST: Duration = Duration::from_secs(60);
const LONGEST_GUESS: Duration = Duration::from_secs(3600);
/// An attempt that finds out whether it is open has this long, then another one may.
const PROVING: Millis = 30_000;
/// A closing that is not longer needs nobody to go ahead, and need not be remembered: retries are scattered and bounded.
const SHORT: Duration = Duration::from_secs(10);
const PROVES: u64 = 1;
const UNPAID: u64 = 2;
/// Others come back then.
const SOON: Duration = Duration::from_secs(1);
