//! Stages that fail too often are parked: skipped, or their requests refused, until a probe finds them well. One breaker a
//! stage and version: it survives reloads that leave the stage as it was, and a new version begins anew. A request meets it
//! twice, at its beginning and at its end, and looks no further than one flag while nothing failed.
//!
//! A burst is not enough: failures must go on for a while (`park.lasting`), so that one caller with hostile requests does not
//! take a guard from all the others.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use crate::{
    breaker::{Breaker, Circuit, Terms},
    config,
};

/// Every stage's standing, for as long as something runs it. One a process.
#[derive(Default)]
pub struct Parking {
    known: Mutex<HashMap<String, Weak<Standing>>>,
}

/// How one version of a stage fares.
pub struct Standing {
    /// `None`: it is never parked.
    terms: Option<Terms>,
    /// Something failed since it was last known to be well.
    troubled: AtomicBool,
    breaker: Mutex<Breaker>,
}

/// What a request finds at its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    Free,
    /// It finds out whether the stage is well again.
    Probe,
    /// For so long.
    Parked(Duration),
}

impl Parking {
    /// The standing of a stage as it is listed, with a file of this hash.
    pub fn of(&self, stage: &config::Stage, hash: &str) -> Arc<Standing> {
        // Another configuration may be the cure as well as another file.
        let version = format!("{} {hash} {:?} {:?} {:?}", stage.uses, stage.limits, stage.config, stage.park);
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(standing) = known.get(&version).and_then(Weak::upgrade) {
            return standing;
        }
        known.retain(|_, standing| standing.strong_count() > 0);
        let standing = Arc::new(Standing::new(stage.park));
        known.insert(version, Arc::downgrade(&standing));
        standing
    }
}

impl Standing {
    pub fn new(park: Option<config::Park>) -> Standing {
        let terms = park.map(|park| Terms {
            in_a_row: park.failures,
            enough: u64::BITS,
            lasting: park.lasting,
            first_rest: park.rest,
            longest_rest: LONGEST_REST.max(park.rest),
        });
        Standing { terms, troubled: AtomicBool::new(false), breaker: Mutex::default() }
    }

    /// A request begins.
    pub fn enter(&self, now: Instant) -> Admission {
        match self.lock().enter(now) {
            Ok(false) => Admission::Free,
            Ok(true) => Admission::Probe,
            Err(wait) => Admission::Parked(wait),
        }
    }

    /// Must `enter` be asked at all?
    pub fn is_troubled(&self) -> bool {
        self.troubled.load(Ordering::Relaxed)
    }

    /// Parked now, and until the next try; changes nothing.
    pub fn parked(&self, now: Instant) -> Option<Duration> {
        if !self.is_troubled() {
            return None;
        }
        match self.lock().circuit(now) {
            Circuit::Closed => None,
            Circuit::Open(wait) => Some(wait),
            Circuit::HalfOpen(_) => Some(Duration::ZERO),
        }
    }

    /// It failed. `true`: with this it is parked.
    pub fn failed(&self, probe: bool, now: Instant) -> bool {
        let Some(terms) = &self.terms else { return false };
        let mut breaker = self.lock();
        let closed = breaker.is_closed();
        breaker.failure(probe, now, terms);
        self.troubled.store(true, Ordering::Relaxed);
        !breaker.is_closed() && (closed || probe)
    }

    /// A request went through it. `true`: with this it is back.
    pub fn succeeded(&self, probe: bool) -> bool {
        if !self.is_troubled() {
            return false;
        }
        let mut breaker = self.lock();
        breaker.success(probe);
        if probe {
            self.troubled.store(false, Ordering::Relaxed);
        }
        probe
    }

    /// The probe was not called.
    pub fn unproven(&self) {
        self.lock().unproven();
    }

    fn lock(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Each rest is twice as long as the one before, up to this.
const LONGEST_REST: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests;
