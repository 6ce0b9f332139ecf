//! How targets fare: a breaker, a budget of retries, a smoothed latency and the number of requests in flight for each.
//! `State`: kept by the target's name, so a reload forgets nothing.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;

use super::{
    Target,
    cause::{Cause, Counts},
    probe::{self, Checks},
    retry::Budget,
};
use crate::{
    breaker::{Breaker, Circuit, Terms},
    error::Error,
    pipeline::Candidate,
};

#[derive(Debug, Default)]
pub struct Health {
    entries: DashMap<Arc<str>, Arc<Entry>, foldhash::quality::RandomState>,
    /// In a rehearsal: quotas by target, how many are left and when they come back.
    quotas: BTreeMap<Arc<str>, (u64, Option<Duration>)>,
    /// What active checks found.
    pub checks: Checks,
}

/// How a target fares when a rehearsal begins.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Fares {
    pub latency: Option<Duration>,
    pub in_flight: u64,
    /// Its breaker is open for so long; zero: half open.
    pub open: Option<Duration>,
    pub quota_left: Option<u64>,
    pub quota_resets_in: Option<Duration>,
}

#[derive(Debug, Default)]
struct Entry {
    in_flight: AtomicU64,
    live: std::sync::Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    breaker: Breaker,
    budget: Budget,
    /// Smoothed time to the first event.
    latency: Option<Duration>,
}

/// One visit to a target, from admission to its end.
#[derive(Debug)]
pub struct Flight {
    entry: Arc<Entry>,
    /// What it finds out decides over the breaker.
    probe: bool,
    /// Its first attempt is in the budget.
    earned: bool,
}

/// What is known of one target, for status pages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fare {
    pub circuit: Circuit,
    pub latency: Option<Duration>,
    pub in_flight: u64,
}

impl Health {
    /// Of targets that fare so, for a rehearsal.
    pub fn told<'a>(fares: impl IntoIterator<Item = (&'a Arc<str>, &'a Fares)>, now: Instant) -> Health {
        let mut health = Health::default();
        for (name, fares) in fares {
            let entry = health.entry(name, now);
            entry.in_flight.store(fares.in_flight, Ordering::Relaxed);
            let mut live = lock(&entry.live);
            live.latency = fares.latency;
            if let Some(rest) = fares.open {
                live.breaker = Breaker::opened(now + rest);
            }
            if let Some(left) = fares.quota_left {
                health.quotas.insert(name.clone(), (left, fares.quota_resets_in));
            }
        }
        health
    }

    /// May an attempt start now? Otherwise: wait so long.
    pub fn enter(&self, target: &Target, now: Instant) -> Result<Flight, Duration> {
        let entry = self.entry(&target.name, now);
        let probe = lock(&entry.live).breaker.enter(now)?;
        entry.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Flight { entry, probe, earned: false })
    }

    /// An active check of its provider failed.
    pub fn check_failed(&self, target: &Target, now: Instant) {
        let entry = self.entry(&target.name, now);
        let mut live = lock(&entry.live);
        if let Ok(probe) = live.breaker.enter(now) {
            live.breaker.failure(probe, now, &probe::TERMS);
        }
    }

    /// Neither ejected nor waiting for a probe.
    pub fn is_healthy(&self, name: &str, now: Instant) -> bool {
        self.entries.get(name).is_none_or(|e| lock(&e.live).breaker.lets_in(now))
    }

    pub fn fare(&self, name: &str, now: Instant) -> Fare {
        match self.entries.get(name) {
            None => Fare { circuit: Circuit::Closed, latency: None, in_flight: 0 },
            Some(entry) => {
                let live = lock(&entry.live);
                let in_flight = entry.in_flight.load(Ordering::Relaxed);
                Fare { circuit: live.breaker.circuit(now), latency: live.latency, in_flight }
            }
        }
    }

    /// Targets whose breaker is open or half open, by name.
    pub fn not_closed(&self, now: Instant) -> Vec<(Arc<str>, Fare)> {
        let open = self.entries.iter().filter(|e| !lock(&e.live).breaker.is_closed()).map(|e| e.key().clone());
        let mut names: Vec<Arc<str>> = open.collect();
        names.sort();
        names.into_iter().map(|name| (name.clone(), self.fare(&name, now))).collect()
    }

    /// What stages see of a target.
    pub fn candidate(&self, target: &Target, now: Instant) -> Candidate {
        let entry = self.entries.get(&target.name).map(|e| e.clone());
        let quota = self.quotas.get(&target.name);
        Candidate {
            name: target.name.clone(),
            provider: target.provider.name.clone(),
            model: target.model.clone(),
            healthy: self.is_healthy(&target.name, now),
            latency: entry.as_ref().and_then(|e| lock(&e.live).latency),
            in_flight: entry.map_or(0, |e| e.in_flight.load(Ordering::Relaxed)),
            price_input: target.rates.as_ref().and_then(|r| r.input_usd()),
            price_output: target.rates.as_ref().and_then(|r| r.output_usd()),
            quota_left: quota.map_or(u64::MAX, |(left, _)| *left),
            quota_resets_in: quota.and_then(|(_, resets)| *resets),
            context_window: target.limits.context,
            capabilities: target.limits.features,
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn entry(&self, name: &Arc<str>, now: Instant) -> Arc<Entry> {
        if let Some(entry) = self.entries.get(name) {
            return entry.clone();
        }
        if self.entries.len() >= MOST {
            self.forget(now);
        }
        self.entries.entry(name.clone()).or_default().clone()
    }

    /// Names can be callers' words (`provider/<anything>`): targets about which there is nothing to remember go first,
    /// then all that are not in use.
    fn forget(&self, now: Instant) {
        let idle = |e: &Entry| e.in_flight.load(Ordering::Relaxed) == 0;
        self.entries.retain(|_, e| !idle(e) || lock(&e.live).breaker.has_history(now));
        if self.entries.len() >= MOST {
            self.entries.retain(|_, e| !idle(e));
        }
    }
}

impl Flight {
    /// The first event, or the whole answer, arrived. For a probe that is enough: others need not wait for a long
    /// stream's end.
    pub fn answered(&mut self, latency: Duration) {
        let mut live = lock(&self.entry.live);
        if std::mem::take(&mut self.probe) {
            live.breaker.success(true);
        }
        live.latency = Some(match live.latency {
            // A fifth of the new to four of the old.
            Some(old) => (old * 4 + latency) / 5,
            None => latency,
        });
    }

    /// The answer is complete, or the upstream refused the request for the caller's own fault: it is well.
    pub fn succeeded(&mut self) {
        let mut live = lock(&self.entry.live);
        if !std::mem::replace(&mut self.earned, true) {
            live.budget.earn();
        }
        live.breaker.success(std::mem::take(&mut self.probe));
    }

    /// Counts only what says that the target itself is ill: not quotas, not keys, not the caller's faults.
    pub fn failed(&mut self, error: &Error, now: Instant) {
        match Cause::of(error).rule().breaker {
            Counts::Well => return self.succeeded(),
            Counts::Ill => {
                lock(&self.entry.live).breaker.failure(std::mem::take(&mut self.probe), now, &TERMS);
            }
            Counts::Nothing => {}
        }
        if !std::mem::replace(&mut self.earned, true) {
            lock(&self.entry.live).budget.earn();
        }
    }

    /// One more call to the target on this visit: its breaker must be closed, and its budget pays.
    pub fn may_retry(&self) -> bool {
        let mut live = lock(&self.entry.live);
        live.breaker.is_closed() && live.budget.spend()
    }

    /// Did the breaker stay closed while a retry waited?
    pub fn still_closed(&self) -> bool {
        lock(&self.entry.live).breaker.is_closed()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.entry.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.probe {
            lock(&self.entry.live).breaker.unproven();
        }
    }
}

/// A poisoned lock only means that another thread panicked between two assignments of plain numbers.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

const MOST: usize = 4096;
/// Of a target's breaker.
const TERMS: Terms = Terms {
    in_a_row: 5,
    enough: 20,
    lasting: Duration::ZERO,
    first_rest: Duration::from_secs(10),
    longest_rest: Duration::from_secs(300),
};
