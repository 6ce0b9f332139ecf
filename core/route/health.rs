//! How targets fare: a breaker, a smoothed latency and the number of requests in flight for each. `State`: kept by the
//! target's name, so a reload forgets nothing.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;

use super::Target;
use crate::{
    error::{Error, Kind},
    pipeline::Candidate,
};

#[derive(Debug, Default)]
pub struct Health {
    entries: DashMap<Arc<str>, Arc<Entry>>,
}

#[derive(Debug, Default)]
struct Entry {
    in_flight: AtomicU64,
    breaker: std::sync::Mutex<Breaker>,
}

#[derive(Debug, Default)]
struct Breaker {
    /// Failures since the last success.
    failures: u32,
    /// Ejections since the last success: each is twice as long.
    ejections: u32,
    ejected_until: Option<Instant>,
    /// After the rest one request goes ahead; the others wait for what it finds.
    probing: bool,
    /// Smoothed time to the first event.
    latency: Option<Duration>,
}

/// One attempt at a target, from admission to its end.
#[derive(Debug)]
pub struct Flight {
    entry: Arc<Entry>,
    probe: bool,
    told: bool,
}

impl Health {
    /// May an attempt start now? Otherwise: wait so long.
    pub fn enter(&self, target: &Target, now: Instant) -> Result<Flight, Duration> {
        let entry = self.entry(&target.name, now);
        let mut probe = false;
        {
            let mut breaker = lock(&entry.breaker);
            if let Some(until) = breaker.ejected_until {
                if until > now {
                    return Err(until - now);
                }
                if breaker.probing {
                    return Err(PROBE_WAIT);
                }
                breaker.probing = true;
                probe = true;
            }
        }
        entry.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Flight { entry, probe, told: false })
    }

    /// Neither ejected nor waiting for a probe.
    pub fn is_healthy(&self, name: &str, now: Instant) -> bool {
        self.entries.get(name).is_none_or(|e| {
            let breaker = lock(&e.breaker);
            breaker.ejected_until.is_none_or(|until| until <= now && !breaker.probing)
        })
    }

    /// What stages see of a target.
    pub fn candidate(&self, target: &Target, now: Instant) -> Candidate {
        let can = target.provider.capability(&target.model);
        let entry = self.entries.get(&target.name).map(|e| e.clone());
        Candidate {
            name: target.name.clone(),
            provider: target.provider.name.clone(),
            model: target.model.clone(),
            healthy: self.is_healthy(&target.name, now),
            latency: entry.as_ref().and_then(|e| lock(&e.breaker).latency),
            in_flight: entry.map_or(0, |e| e.in_flight.load(Ordering::Relaxed)),
            price_input: None,
            price_output: None,
            quota_left: u64::MAX,
            quota_resets_in: None,
            context_window: can.context,
            capabilities: can.features,
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
        self.entries.retain(|_, e| {
            let breaker = lock(&e.breaker);
            !idle(e) || breaker.failures > 0 || breaker.ejected_until.is_some_and(|until| until > now)
        });
        if self.entries.len() >= MOST {
            self.entries.retain(|_, e| !idle(e));
        }
    }
}

impl Flight {
    /// The first event, or the whole answer, arrived. For a probe that is enough: others need not wait for a long
    /// stream's end.
    pub fn answered(&mut self, latency: Duration) {
        let mut breaker = lock(&self.entry.breaker);
        if std::mem::take(&mut self.probe) {
            (breaker.failures, breaker.ejected_until, breaker.probing) = (0, None, false);
        }
        breaker.latency = Some(match breaker.latency {
            // A fifth of the new to four of the old.
            Some(old) => (old * 4 + latency) / 5,
            None => latency,
        });
    }

    /// The answer is complete, or the upstream refused the request for the caller's own fault: it is well.
    pub fn succeeded(&mut self) {
        self.told = true;
        let mut breaker = lock(&self.entry.breaker);
        let latency = breaker.latency;
        *breaker = Breaker { latency, ..Breaker::default() };
    }

    /// Counts only what says that the target itself is ill: not quotas, not keys, not the caller's faults.
    pub fn failed(&mut self, error: &Error, now: Instant) {
        match error.kind {
            Kind::Upstream | Kind::UpstreamOverloaded | Kind::UpstreamTimeout => self.ill(now),
            Kind::UpstreamRefused => self.succeeded(),
            _ => {}
        }
    }

    fn ill(&mut self, now: Instant) {
        self.told = true;
        let mut breaker = lock(&self.entry.breaker);
        breaker.failures = breaker.failures.saturating_add(1);
        // What was in flight when the target was ejected says nothing new.
        let resting = breaker.ejected_until.is_some_and(|until| until > now);
        if resting || !(self.probe || breaker.failures >= FAILURES) {
            return;
        }
        let rest = (FIRST_REST * 2u32.saturating_pow(breaker.ejections.min(8))).min(LONGEST_REST);
        breaker.ejections = breaker.ejections.saturating_add(1);
        breaker.ejected_until = Some(now + rest);
        breaker.probing = false;
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.entry.in_flight.fetch_sub(1, Ordering::Relaxed);
        if self.probe && !self.told {
            // The probe found nothing out (the client left): the next request may probe.
            lock(&self.entry.breaker).probing = false;
        }
    }
}

/// A poisoned lock only means that another thread panicked between two assignments of plain numbers.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Consecutive failures that eject a target.
const FAILURES: u32 = 5;
const FIRST_REST: Duration = Duration::from_secs(10);
const LONGEST_REST: Duration = Duration::from_secs(300);
/// While a probe is out.
const PROBE_WAIT: Duration = Duration::from_secs(1);
const MOST: usize = 4096;
