//! How targets fare: a breaker, a budget of retries, what was measured (`stats`), the number of requests in flight, and since
//! when each warms up. `State`: kept by the target's name, so a reload forgets nothing. A choice among targets reads it
//! without a lock.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use dashmap::DashMap;

use super::{
    Target,
    cause::{Cause, Counts},
    probe::{self, Checks},
    retry::Budget,
    stats::{Moment, Stats, nanos},
};
use crate::{
    breaker::{Breaker, Circuit, PROBE_WAIT, Terms},
    error::{Error, Kind},
    pipeline::Candidate,
    queue::Place,
    quota::{Outlook, Quotas},
};

#[derive(Debug)]
pub struct Health {
    /// Tells it from others: a target remembers its entry for one of them.
    id: u64,
    /// Moments count from here.
    origin: Instant,
    /// Targets that are heard of from now on are new.
    begun: AtomicBool,
    entries: DashMap<Arc<str>, Arc<Entry>, foldhash::quality::RandomState>,
    /// What providers grant, and what they closed.
    pub quotas: Arc<Quotas>,
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

/// Where a target keeps its entry, so that nobody looks for it by name.
#[derive(Debug, Default)]
pub struct Slot(OnceLock<(u64, Arc<Entry>)>);

/// What a choice among many targets reads of it lies in one cache line.
#[derive(Debug)]
#[repr(C, align(64))]
struct Entry {
    in_flight: AtomicU64,
    /// When its warm-up began; zero: it is warm.
    warming: AtomicU64,
    /// Its breaker is not closed: only then the lock is worth taking.
    ill: AtomicBool,
    /// It warms up because it was ill, not because it is new.
    healed: AtomicBool,
    stats: Stats,
    origin: Instant,
    live: std::sync::Mutex<Live>,
}

#[derive(Debug, Default)]
struct Live {
    breaker: Breaker,
    budget: Budget,
}

/// One visit to a target, from admission to its end.
#[derive(Debug)]
pub struct Flight {
    entry: Arc<Entry>,
    entered: Instant,
    /// What it finds out decides over the breaker.
    probe: bool,
    /// The target should still have rested.
    early: bool,
    /// Its first attempt is in the budget.
    earned: bool,
    /// The one that it has at a target with a bound, until its end.
    place: Option<Place>,
}

/// What is known of one target, for status pages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fare {
    pub circuit: Circuit,
    /// Smoothed time to the first event.
    pub latency: Option<Duration>,
    /// Tokens a second of its streams.
    pub speed: Option<f32>,
    pub in_flight: u64,
    pub warming: Option<Warming>,
}

/// A target that is new or well again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Warming {
    pub since: Duration,
    /// It was ill.
    pub healed: bool,
}

/// What a choice among targets reads of one.
#[derive(Debug, Clone, Copy)]
pub struct Glance {
    pub healthy: bool,
    pub in_flight: u64,
    /// Seconds that the answer is expected to take.
    pub expected: Option<f32>,
    /// Tokens that its answers have, on the average.
    pub output: Option<f32>,
    pub warming: Option<Warming>,
}

/// One moment, also as targets' figures count it: for who looks at many of them.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    pub instant: Instant,
    moment: Moment,
}

/// What the answer would be like that a choice is made for; `None` where nobody asks for the time it takes.
pub type Answer = Option<(bool, f32)>;

impl Default for Health {
    fn default() -> Self {
        Health::since(Instant::now())
    }
}

impl Health {
    pub fn with(quotas: Arc<Quotas>) -> Health {
        Health { quotas, ..Health::default() }
    }

    /// May its provider be asked now, how much is left, when does it return? Pure, and without a lock.
    pub fn outlook(&self, target: &Target) -> Outlook {
        self.quotas.look(target.at())
    }

    /// Why its provider may not be asked now; `None`: it may. The same for who wants to know no more.
    pub fn closed(&self, target: &Target, now: Instant) -> Option<Outlook> {
        self.quotas.closed(target.at(), now)
    }

    /// Of targets that fare so, for a rehearsal.
    pub fn told<'a>(
        fares: impl IntoIterator<Item = (&'a Arc<str>, &'a Fares)> + Clone,
        now: (Instant, SystemTime),
    ) -> Health {
        let told =
            fares.clone().into_iter().filter_map(|(name, own)| Some((name, own.quota_left?, own.quota_resets_in)));
        let quotas = Arc::new(Quotas::told(told, now));
        let now = now.0;
        let health = Health { quotas, ..Health::since(now) };
        for (name, fares) in fares {
            let entry = health.entry(name, now);
            entry.in_flight.store(fares.in_flight, Ordering::Relaxed);
            entry.stats.set_latency(fares.latency, entry.at(now));
            if let Some(rest) = fares.open {
                let mut live = lock(&entry.live);
                live.breaker = Breaker::opened(now + rest);
                entry.mark(&live);
            }
        }
        health
    }

    /// May an attempt start now? Otherwise: wait so long.
    pub fn enter(&self, target: &Target, now: Instant) -> Result<Flight, Duration> {
        let entry = self.entry_of(target, now);
        let probe = entry.ill.load(Ordering::Relaxed) && lock(&entry.live).breaker.enter(now)?;
        entry.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Flight { entry, entered: now, probe, early: false, earned: false, place: None })
    }

    /// The same for a request that has nobody else to ask: while the target rests one a second may see whether it is well again.
    pub fn enter_alone(&self, target: &Target, now: Instant) -> Result<Flight, Duration> {
        self.enter(target, now).or_else(|wait| {
            let entry = self.entry_of(target, now);
            if !lock(&entry.live).breaker.enter_early(now) {
                return Err(wait);
            }
            entry.in_flight.fetch_add(1, Ordering::Relaxed);
            Ok(Flight { entry, entered: now, probe: true, early: true, earned: false, place: None })
        })
    }

    /// May a copy of a request be sent there now? What becomes of copies is no news of those who wait for answers, and the other
    /// way round: copies have an entry of their own, with its own breaker, and a target that is ill for others is spared them.
    pub fn enter_copy(&self, target: &Target, now: Instant) -> Result<Flight, Duration> {
        let others = self.entry_of(target, now);
        if others.ill.load(Ordering::Relaxed) {
            let circuit = lock(&others.live).breaker.circuit(now);
            return Err(if let Circuit::Open(wait) = circuit { wait } else { PROBE_WAIT });
        }
        let entry = self.entry(&format!("{} {COPIES}", target.name).into(), now);
        let probe = entry.ill.load(Ordering::Relaxed) && lock(&entry.live).breaker.enter(now)?;
        entry.in_flight.fetch_add(1, Ordering::Relaxed);
        Ok(Flight { entry, entered: now, probe, early: false, earned: false, place: None })
    }

    /// The configuration names these targets. All are warm when the process begins; those that come later warm up.
    pub fn welcome<'a>(&self, targets: impl Iterator<Item = &'a Arc<Target>>, now: Instant) {
        let later = self.begun.swap(true, Ordering::Relaxed);
        for target in targets {
            let new = later && !self.entries.contains_key(&target.name);
            let entry = self.entry_of(target, now);
            if new {
                entry.warming.store(entry.at(now), Ordering::Relaxed);
            }
        }
    }

    pub fn now(&self, instant: Instant) -> Now {
        Now { instant, moment: moment(instant, self.origin) }
    }

    /// What a choice among targets asks of one. Takes a lock only where a breaker is not closed.
    #[inline]
    pub fn glance(&self, target: &Target, answer: Answer, now: Now) -> Glance {
        match target.at_hand.slot.0.get() {
            Some((id, entry)) if *id == self.id => entry.glance(answer, now),
            _ => self.glance_by_name(target, answer, now),
        }
    }

    #[cold]
    fn glance_by_name(&self, target: &Target, answer: Answer, now: Now) -> Glance {
        let nothing = Glance { healthy: true, in_flight: 0, expected: None, output: None, warming: None };
        self.entries.get(&target.name).map_or(nothing, |entry| entry.glance(answer, now))
    }

    /// An active check of its provider failed.
    pub fn check_failed(&self, target: &Target, now: Instant) {
        let entry = self.entry(&target.name, now);
        let mut live = lock(&entry.live);
        if let Ok(probe) = live.breaker.enter(now) {
            live.breaker.failure(probe, now, &probe::TERMS);
            entry.mark(&live);
        }
    }

    /// Neither ejected nor waiting for a probe.
    pub fn is_healthy(&self, name: &str, now: Instant) -> bool {
        self.entries.get(name).is_none_or(|e| e.lets_in(now))
    }

    pub fn fare(&self, name: &str, now: Instant) -> Fare {
        match self.entries.get(name) {
            None => Fare { circuit: Circuit::Closed, latency: None, speed: None, in_flight: 0, warming: None },
            Some(entry) => Fare {
                circuit: lock(&entry.live).breaker.circuit(now),
                latency: entry.stats.latency(),
                speed: entry.stats.speed(),
                in_flight: entry.in_flight.load(Ordering::Relaxed),
                warming: entry.warming(entry.at(now)),
            },
        }
    }

    /// Targets whose breaker is open or half open, by name.
    pub fn not_closed(&self, now: Instant) -> Vec<(Arc<str>, Fare)> {
        let open = self.entries.iter().filter(|e| e.ill.load(Ordering::Relaxed)).map(|e| e.key().clone());
        let mut names: Vec<Arc<str>> = open.collect();
        names.sort();
        names.into_iter().map(|name| (name.clone(), self.fare(&name, now))).collect()
    }

    /// What stages see of a target.
    pub fn candidate(&self, target: &Target, now: Instant) -> Candidate {
        let entry = self.entries.get(&target.name).map(|e| e.clone());
        let quota = self.outlook(target);
        Candidate {
            name: target.name.clone(),
            provider: target.provider.name.clone(),
            model: target.model.clone(),
            healthy: self.is_healthy(&target.name, now),
            latency: entry.as_ref().and_then(|e| e.stats.latency()),
            speed: entry.as_ref().and_then(|e| e.stats.speed()),
            in_flight: entry.map_or(0, |e| e.in_flight.load(Ordering::Relaxed)),
            price_input: target.rates.as_ref().and_then(|r| r.input_usd()),
            price_output: target.rates.as_ref().and_then(|r| r.output_usd()),
            quota_left: quota.left,
            quota_resets_in: quota.resets_in,
            context_window: target.limits.context,
            capabilities: target.limits.features,
            region: target.handling.region.clone(),
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    fn since(origin: Instant) -> Health {
        static IDS: AtomicU64 = AtomicU64::new(0);
        Health {
            id: IDS.fetch_add(1, Ordering::Relaxed),
            origin,
            begun: AtomicBool::new(false),
            entries: DashMap::default(),
            quotas: Arc::default(),
            checks: Checks::default(),
        }
    }

    fn entry_of(&self, target: &Target, now: Instant) -> Arc<Entry> {
        match target.at_hand.slot.0.get() {
            Some((id, entry)) if *id == self.id => entry.clone(),
            _ => {
                let entry = self.entry(&target.name, now);
                let _ = target.at_hand.slot.0.set((self.id, entry.clone()));
                entry
            }
        }
    }

    fn entry(&self, name: &Arc<str>, now: Instant) -> Arc<Entry> {
        if let Some(entry) = self.entries.get(name) {
            return entry.clone();
        }
        if self.entries.len() >= MOST {
            self.forget(now);
        }
        self.entries.entry(name.clone()).or_insert_with(|| Arc::new(Entry::new(self.origin))).clone()
    }

    /// Names can be callers' words (`provider/<anything>`): targets about which there is nothing to remember go first,
    /// then all that are not in use.
    fn forget(&self, now: Instant) {
        let idle = |e: &Entry| e.in_flight.load(Ordering::Relaxed) == 0;
        // What a target holds is in use, too.
        let held = |e: &Arc<Entry>| Arc::strong_count(e) > 1;
        self.entries.retain(|_, e| !idle(e) || held(e) || lock(&e.live).breaker.has_history(now));
        if self.entries.len() >= MOST {
            self.entries.retain(|_, e| !idle(e));
        }
    }
}

impl Entry {
    fn new(origin: Instant) -> Entry {
        Entry {
            origin,
            in_flight: AtomicU64::default(),
            stats: Stats::default(),
            warming: AtomicU64::default(),
            healed: AtomicBool::default(),
            ill: AtomicBool::default(),
            live: std::sync::Mutex::default(),
        }
    }

    fn at(&self, now: Instant) -> Moment {
        moment(now, self.origin)
    }

    #[inline]
    fn lets_in(&self, now: Instant) -> bool {
        !self.ill.load(Ordering::Relaxed) || lock(&self.live).breaker.lets_in(now)
    }

    #[inline]
    fn warming(&self, now: Moment) -> Option<Warming> {
        let began = Some(self.warming.load(Ordering::Relaxed)).filter(|began| *began > 0)?;
        let since = Duration::from_nanos(now.saturating_sub(began));
        Some(Warming { since, healed: self.healed.load(Ordering::Relaxed) })
    }

    #[inline]
    fn glance(&self, answer: Answer, now: Now) -> Glance {
        let in_flight = self.in_flight.load(Ordering::Relaxed);
        Glance {
            healthy: self.lets_in(now.instant),
            in_flight,
            expected: answer
                .and_then(|(stream, tokens)| self.stats.expected(stream, tokens, now.moment, in_flight > 0)),
            output: self.stats.output(),
            warming: self.warming(now.moment),
        }
    }

    /// After each change of the breaker, under its lock.
    fn mark(&self, live: &Live) {
        self.ill.store(!live.breaker.is_closed(), Ordering::Relaxed);
    }

    /// A probe found it well: it gets its share by and by.
    fn healed(&self, live: &mut Live, at: Moment) {
        live.breaker.success(true);
        self.warming.store(at, Ordering::Relaxed);
        self.healed.store(true, Ordering::Relaxed);
        self.mark(live);
    }
}

impl Flight {
    /// It has this place as long as it lasts.
    pub fn at(mut self, place: Option<Place>) -> Flight {
        self.place = place;
        self
    }

    /// The upstream has said all of an answer that is not streamed: what is still done with it needs no place there.
    pub fn vacate(&mut self, took: Duration) {
        if let Some(place) = self.place.take() {
            place.answered(1, took);
        }
    }

    /// A stream's first event arrived. For a probe that is enough: others need not wait for a long stream's end.
    pub fn answered(&mut self, latency: Duration) {
        self.began(latency, true);
    }

    /// An answer that was not streamed is there, with so many tokens.
    pub fn answered_whole(&mut self, took: Duration, tokens: u64) {
        self.began(took, false);
        self.entry.stats.wrote(tokens, None);
    }

    /// A stream came to its end, so long after its first event.
    pub fn streamed(&self, tokens: u64, lasted: Duration) {
        self.entry.stats.wrote(tokens, Some(lasted));
    }

    fn began(&mut self, latency: Duration, stream: bool) {
        if let Some(place) = &self.place {
            place.answered(usize::from(!stream), latency);
        }
        let at = self.entry.at(self.entered + latency);
        self.entry.stats.answered(latency, stream, at);
        if std::mem::take(&mut self.probe) {
            self.entry.healed(&mut lock(&self.entry.live), at);
        }
    }

    /// The answer is complete, or the upstream refused the request for the caller's own fault: it is well.
    pub fn succeeded(&mut self) {
        let mut live = lock(&self.entry.live);
        if !std::mem::replace(&mut self.earned, true) {
            live.budget.earn();
        }
        match std::mem::take(&mut self.probe) {
            true => self.entry.healed(&mut live, self.entry.at(self.entered)),
            false => live.breaker.success(false),
        }
    }

    /// Counts only what says that the target itself is ill: not quotas, not keys, not the caller's faults.
    pub fn failed(&mut self, error: &Error, now: Instant) {
        let full = matches!(Cause::of(error), Cause::Overload | Cause::Timeout | Cause::RateLimit);
        if let Some(place) = self.place.as_ref().filter(|_| full) {
            place.troubled();
        }
        match Cause::of(error).rule().breaker {
            Counts::Well => return self.succeeded(),
            Counts::Ill => {
                let mut live = lock(&self.entry.live);
                match (std::mem::take(&mut self.probe), std::mem::take(&mut self.early)) {
                    (true, true) => live.breaker.unproven(),
                    (probe, _) => live.breaker.failure(probe, now, &TERMS),
                }
                self.entry.mark(&live);
                self.entry.stats.failed(self.entry.at(now));
            }
            Counts::Nothing if error.kind == Kind::UpstreamRateLimited => {
                self.entry.stats.failed(self.entry.at(now));
            }
            Counts::Nothing => {}
        }
        if !std::mem::replace(&mut self.earned, true) {
            lock(&self.entry.live).budget.earn();
        }
    }

    /// What a check of the target itself found: a call like others, but two failures in a row are enough.
    pub fn checked(mut self, well: bool, now: Instant) {
        if well {
            return self.succeeded();
        }
        let mut live = lock(&self.entry.live);
        live.breaker.failure(std::mem::take(&mut self.probe), now, &probe::TERMS);
        self.entry.mark(&live);
        drop(live);
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

/// Never zero.
fn moment(now: Instant, origin: Instant) -> Moment {
    nanos(now.saturating_duration_since(origin)).max(1)
}

/// A poisoned lock only means that another thread panicked between two assignments of plain numbers.
fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

const MOST: usize = 4096;
/// What a target's name has behind it where copies of requests are meant: no target has a name with a space and brackets.
const COPIES: &str = "(copies)";
/// Of a target's breaker.
const TERMS: Terms = Terms {
    in_a_row: 5,
    enough: 20,
    lasting: Duration::ZERO,
    first_rest: Duration::from_secs(10),
    longest_rest: Duration::from_secs(300),
};
