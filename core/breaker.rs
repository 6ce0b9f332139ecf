//! A breaker: closed while what it guards is well, open for a while after failures, then half open for a single probe.
//! Targets (`route::health`) and stages (`pipeline::parking`) have one each; what counts as a failure is said there. Pure: time
//! comes in, decisions go out.

use std::time::{Duration, Instant};

#[derive(Debug, Default)]
pub struct Breaker {
    /// Failures since the last success, and when the first of them was.
    failures: u32,
    since: Option<Instant>,
    recent: Recent,
    /// Times it opened since it was last closed: each rest is twice as long.
    ejections: u32,
    /// Open until then, half open afterwards; `None`: closed.
    open_until: Option<Instant>,
    /// After the rest one request goes ahead; the others wait for what it finds.
    probing: bool,
    /// When it opened, or somebody went ahead before the rest was over.
    asked: Option<Instant>,
}

/// When it opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// Consecutive failures that open it.
    pub in_a_row: u32,
    /// Outcomes from which on a half of failures opens it, of the last 64 at most.
    pub enough: u32,
    /// Failures that came within a shorter time than this are a burst, and open nothing.
    pub lasting: Duration,
    pub first_rest: Duration,
    pub longest_rest: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    Closed,
    /// Nothing is sent for so long.
    Open(Duration),
    /// One probe may go; `true`: it is out.
    HalfOpen(bool),
}

impl Breaker {
    /// One that opened once, until then.
    pub fn opened(until: Instant) -> Breaker {
        Breaker { open_until: Some(until), ejections: 1, ..Breaker::default() }
    }

    pub fn circuit(&self, now: Instant) -> Circuit {
        match self.open_until {
            None => Circuit::Closed,
            Some(until) if until > now => Circuit::Open(until - now),
            Some(_) => Circuit::HalfOpen(self.probing),
        }
    }

    pub fn is_closed(&self) -> bool {
        self.open_until.is_none()
    }

    /// Neither open nor waiting for a probe.
    pub fn lets_in(&self, now: Instant) -> bool {
        self.is_closed() || self.circuit(now) == Circuit::HalfOpen(false)
    }

    /// Is there something that must not be forgotten?
    pub fn has_history(&self, now: Instant) -> bool {
        self.failures > 0 || matches!(self.circuit(now), Circuit::Open(_))
    }

    /// May an attempt start? `true`: as the probe. Otherwise: wait so long.
    pub fn enter(&mut self, now: Instant) -> Result<bool, Duration> {
        if self.is_closed() {
            return Ok(false);
        }
        match self.circuit(now) {
            Circuit::Open(wait) => Err(wait),
            Circuit::HalfOpen(true) => Err(PROBE_WAIT),
            Circuit::HalfOpen(false) | Circuit::Closed => {
                self.probing = true;
                Ok(true)
            }
        }
    }

    /// Before its rest is over, for who has nobody else to ask: as a probe, one a second. One that fails says nothing new.
    pub fn enter_early(&mut self, now: Instant) -> bool {
        let quiet = self.asked.is_none_or(|at| now.saturating_duration_since(at) >= EARLY);
        let free = quiet && !self.probing && matches!(self.circuit(now), Circuit::Open(_));
        if free {
            (self.probing, self.asked) = (true, Some(now));
        }
        free
    }

    pub fn success(&mut self, probe: bool) {
        if probe {
            *self = Breaker::default();
        } else if self.is_closed() {
            (self.failures, self.since) = (0, None);
            self.recent.push(false);
        }
        // What was in flight when the breaker opened says nothing new: only the probe closes it.
    }

    pub fn failure(&mut self, probe: bool, now: Instant, terms: &Terms) {
        if !probe && !self.is_closed() {
            return;
        }
        self.failures = self.failures.saturating_add(1);
        self.recent.failed(now);
        let lasts = |since: Option<Instant>| since.is_some_and(|at| now.saturating_duration_since(at) >= terms.lasting);
        self.since.get_or_insert(now);
        let in_a_row = self.failures >= terms.in_a_row && lasts(self.since);
        if !(probe || in_a_row || (self.recent.mostly_failed(terms.enough) && lasts(self.recent.first_failure))) {
            return;
        }
        let rest = (terms.first_rest * 2u32.saturating_pow(self.ejections.min(8))).min(terms.longest_rest);
        self.ejections = self.ejections.saturating_add(1);
        self.open_until = Some(now + rest);
        self.asked = Some(now);
        self.probing = false;
        self.since = None;
        self.recent = Recent::default();
    }

    /// Failures since the last success.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// The probe found nothing out (the client left, a quota was met): the next request may probe.
    pub fn unproven(&mut self) {
        self.probing = false;
    }
}

/// The last outcomes, one bit each: no clock for what goes well.
#[derive(Debug, Default)]
struct Recent {
    /// The youngest lowest; 1: failed.
    outcomes: u64,
    count: u32,
    first_failure: Option<Instant>,
    last_failure: Option<Instant>,
}

impl Recent {
    fn push(&mut self, failed: bool) {
        self.outcomes = self.outcomes << 1 | u64::from(failed);
        self.count = (self.count + 1).min(u64::BITS);
    }

    fn failed(&mut self, now: Instant) {
        // Failures that lie far apart are no rate.
        if self.last_failure.is_none_or(|at| now.saturating_duration_since(at) > APART) {
            *self = Recent::default();
        }
        self.first_failure.get_or_insert(now);
        self.last_failure = Some(now);
        self.push(true);
    }

    fn mostly_failed(&self, enough: u32) -> bool {
        self.count >= enough.min(u64::BITS) && self.outcomes.count_ones() * 2 >= self.count
    }
}

const APART: Duration = Duration::from_secs(60);
/// Between two who go ahead before the rest is over.
const EARLY: Duration = Duration::from_secs(1);
/// While a probe is out.
pub const PROBE_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms {
        in_a_row: 2,
        enough: 20,
        lasting: Duration::ZERO,
        first_rest: Duration::from_secs(10),
        longest_rest: Duration::from_secs(300),
    };

    #[test]
    fn who_goes_ahead_early_does_so_once_a_second_and_lengthens_no_rest() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        let at = |ms: u64| start + Duration::from_millis(ms);
        assert!(!breaker.enter_early(at(0)), "it is closed");
        breaker.failure(false, at(0), &TERMS);
        breaker.failure(false, at(0), &TERMS);
        assert!(!breaker.enter_early(at(999)), "it has just opened");
        assert!(breaker.enter_early(at(1000)));
        assert!(!breaker.enter_early(at(2500)), "one is on its way");
        breaker.unproven();
        assert!(breaker.enter_early(at(2500)));
        breaker.unproven();
        assert_eq!(breaker.circuit(at(3000)), Circuit::Open(Duration::from_secs(7)));
        assert_eq!(breaker.enter(at(10_000)), Ok(true));
        assert!(!breaker.enter_early(at(10_000)), "the rest is over");
        breaker.success(true);
        assert!(breaker.is_closed());
    }
}
