//! What one scope (a key, a team) has taken of its limits, and the scopes of one caller, which must all agree. In memory
//! and exact for this process; the arithmetic is `gcra`'s. Knows nothing of money.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use dashmap::DashMap;

use super::gcra::{Bucket, Rate, Refused, Standing};
use crate::{
    auth::Principal,
    clock,
    config::{Limits, Scope},
    error::{Error, Kind, Result},
    telemetry::metrics,
};

/// The meters by scope: they outlive reloads, and those that nobody needs are forgotten.
#[derive(Debug)]
pub struct Meters {
    by_scope: DashMap<Scope, Arc<Meter>, foldhash::quality::RandomState>,
    /// Time is counted from here.
    epoch: Instant,
}

#[derive(Debug, Default)]
pub struct Meter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    requests: Bucket,
    tokens: Bucket,
    in_flight: u64,
    /// As last asked for: to know when nothing is held any more.
    limits: Limits,
}

/// One scope of a caller that has a limit.
#[derive(Debug, Clone)]
pub struct Bound {
    pub scope: Scope,
    /// As messages call it.
    name: Arc<str>,
    pub limits: Limits,
    meter: Arc<Meter>,
    epoch: Instant,
}

/// The tightest of a caller's scopes, for headers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rates {
    pub requests: Option<Standing>,
    pub tokens: Option<Standing>,
}

impl Default for Meters {
    fn default() -> Self {
        Meters { by_scope: DashMap::default(), epoch: clock::now() }
    }
}

impl Meters {
    /// The caller's scopes that have a limit; looks up nothing for the others.
    pub fn of(&self, caller: &Principal) -> Vec<Bound> {
        let limited = caller.rules.iter().filter_map(|rule| Some((rule, rule.limits?)));
        limited.map(|(rule, limits)| self.bound(rule.scope.clone(), rule.name.clone(), limits)).collect()
    }

    fn bound(&self, scope: Scope, name: Arc<str>, limits: Limits) -> Bound {
        let found = self.by_scope.get(&scope).map(|meter| meter.clone());
        let meter = found.unwrap_or_else(|| self.by_scope.entry(scope.clone()).or_default().clone());
        Bound { scope, name, limits, meter, epoch: self.epoch }
    }

    /// Forgets meters that hold nothing: nobody could tell them from new ones.
    pub fn sweep(&self) {
        let now = nanos(self.epoch);
        self.by_scope.retain(|_, meter| Arc::strong_count(meter) > 1 || !meter.lock().idle(now));
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.by_scope.len()
    }
}

impl Bound {
    /// Takes a place and a request, or says which limit is in the way.
    pub fn enter(&self) -> Result<()> {
        self.take(true)
    }

    /// The same without a place: for what is asked within a request that has one.
    pub fn pass(&self) -> Result<()> {
        self.take(false)
    }

    fn take(&self, place: bool) -> Result<()> {
        let Limits { requests_per_minute, tokens_per_minute, concurrent } = self.limits;
        let mut state = self.meter.lock();
        let now = nanos(self.epoch);
        state.limits = self.limits;
        if let Some(most) = concurrent.filter(|most| place && state.in_flight >= *most) {
            metrics().limited(self.scope.kind(), "concurrent");
            return Err(self.crowded(most));
        }
        // Who has tokens left to pay back would be refused when they are reserved: better before the body is read.
        if let Some(count) = tokens_per_minute {
            self.admitted(state.tokens.take(now, 0, Rate::a_minute(count)), "tokens_per_minute", count)?;
        }
        if let Some(count) = requests_per_minute {
            self.admitted(state.requests.take(now, 1, Rate::a_minute(count)), "requests_per_minute", count)?;
        }
        state.in_flight += u64::from(place);
        Ok(())
    }

    /// Another scope refused: as if it had not entered, or passed.
    pub fn undo(&self, place: bool) {
        let mut state = self.meter.lock();
        state.in_flight = state.in_flight.saturating_sub(u64::from(place));
        if self.limits.requests_per_minute.is_some() {
            state.requests.correct(1, 0);
        }
    }

    /// The request ended.
    pub fn leave(&self) {
        let mut state = self.meter.lock();
        state.in_flight = state.in_flight.saturating_sub(1);
    }

    /// Takes tokens, of which the request `has` some already: `input` is what the prompt is thought to have, `output` the
    /// most that may come. What would never fit with its whole output waits for an empty bucket; a prompt that would never
    /// fit is refused. Gives what was taken.
    pub fn take_tokens(&self, input: u64, output: u64, has: u64) -> Result<u64> {
        let Some((count, cost)) = self.cost(input, output, has)? else { return Ok(0) };
        let mut state = self.meter.lock();
        let taken = state.tokens.take(nanos(self.epoch), cost, Rate::a_minute(count));
        self.admitted(taken, "tokens_per_minute", count).map(|()| cost)
    }

    /// The limit, and the tokens that would be taken from it; `None`: nothing.
    fn cost(&self, input: u64, output: u64, has: u64) -> Result<Option<(u64, u64)>> {
        let Some(count) = self.limits.tokens_per_minute else { return Ok(None) };
        if input > count {
            let message = format!(
                "this request needs about {input} tokens, and {} may use {count} a minute (`tokens_per_minute`); send less at \
                 once, or ask the gateway's operator for more",
                self.whose()
            );
            return Err(Error::new(Kind::RateLimited, message));
        }
        let cost = input.saturating_add(output).min(count).saturating_sub(has);
        Ok((cost > 0).then_some((count, cost)))
    }

    /// What `enter` would say now. Takes nothing and counts nothing.
    pub fn would_enter(&self) -> Result<()> {
        let Limits { requests_per_minute, tokens_per_minute, concurrent } = self.limits;
        let (mut requests, mut tokens, in_flight) = {
            let state = self.meter.lock();
            (state.requests, state.tokens, state.in_flight)
        };
        let now = nanos(self.epoch);
        if let Some(most) = concurrent.filter(|most| in_flight >= *most) {
            return Err(self.crowded(most));
        }
        if let Some(count) = tokens_per_minute {
            self.judge(tokens.take(now, 0, Rate::a_minute(count)), "tokens_per_minute", count)?;
        }
        match requests_per_minute {
            Some(count) => self.judge(requests.take(now, 1, Rate::a_minute(count)), "requests_per_minute", count),
            None => Ok(()),
        }
    }

    /// What `take_tokens` would say now. Takes nothing and counts nothing.
    pub fn would_take(&self, input: u64, output: u64) -> Result<()> {
        let Some((count, cost)) = self.cost(input, output, 0)? else { return Ok(()) };
        let mut tokens = self.meter.lock().tokens;
        self.judge(tokens.take(nanos(self.epoch), cost, Rate::a_minute(count)), "tokens_per_minute", count)
    }

    pub fn in_flight(&self) -> u64 {
        self.meter.lock().in_flight
    }

    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Of `taken` tokens, `used` were used.
    pub fn correct_tokens(&self, taken: u64, used: u64) {
        if self.limits.tokens_per_minute.is_some() {
            self.meter.lock().tokens.correct(taken, used);
        }
    }

    pub fn rates(&self) -> Rates {
        let mut state = self.meter.lock();
        let now = nanos(self.epoch);
        let mut standing = |bucket: fn(&mut State) -> &mut Bucket, count: Option<u64>| {
            count.map(|count| bucket(&mut state).standing(now, Rate::a_minute(count)))
        };
        Rates {
            requests: standing(|s| &mut s.requests, self.limits.requests_per_minute),
            tokens: standing(|s| &mut s.tokens, self.limits.tokens_per_minute),
        }
    }

    fn admitted(&self, taken: std::result::Result<(), Refused>, limit: &'static str, count: u64) -> Result<()> {
        self.judge(taken, limit, count).inspect_err(|_| metrics().limited(self.scope.kind(), limit))
    }

    fn judge(&self, taken: std::result::Result<(), Refused>, limit: &'static str, count: u64) -> Result<()> {
        let what = if limit == "tokens_per_minute" { "tokens" } else { "requests" };
        match taken {
            Ok(()) => Ok(()),
            Err(Refused::Wait(wait)) => {
                Err(self.refusal(&format!("used its {count} {what} a minute (`{limit}`)"), wait))
            }
            // One request, or what was cut to fit: it always fits a whole bucket.
            Err(Refused::TooMuch) => Err(self.refusal(&format!("a limit of {count} {what} (`{limit}`)"), A_MOMENT)),
        }
    }

    fn crowded(&self, most: u64) -> Error {
        self.refusal(&format!("{most} requests in flight, as many as it may have (`concurrent`)"), A_MOMENT)
    }

    fn refusal(&self, words: &str, wait: Duration) -> Error {
        let message = format!("{} has {words}; try again in {} s", self.whose(), wait.as_secs_f64().ceil().max(1.0));
        Error::new(Kind::RateLimited, message).retry_after(wait)
    }

    fn whose(&self) -> String {
        format!("{} `{}`", self.scope.kind(), self.name)
    }
}

impl Rates {
    /// The tighter of each.
    pub fn and(self, other: Rates) -> Rates {
        let tighter = |a: Option<Standing>, b: Option<Standing>| match (a, b) {
            (Some(a), Some(b)) => Some(if b.left < a.left { b } else { a }),
            (a, b) => a.or(b),
        };
        Rates { requests: tighter(self.requests, other.requests), tokens: tighter(self.tokens, other.tokens) }
    }
}

impl Meter {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn idle(&mut self, now: u64) -> bool {
        let Limits { requests_per_minute, tokens_per_minute, concurrent: _ } = self.limits;
        let mut empty = |bucket: fn(&mut State) -> &mut Bucket, count: Option<u64>| {
            count.is_none_or(|count| bucket(self).standing(now, Rate::a_minute(count)).full_after.is_zero())
        };
        empty(|s| &mut s.requests, requests_per_minute)
            && empty(|s| &mut s.tokens, tokens_per_minute)
            && self.in_flight == 0
    }
}

/// Read under a meter's lock, so that it never goes back from one caller to the next.
fn nanos(epoch: Instant) -> u64 {
    u64::try_from(clock::since(epoch).as_nanos()).unwrap_or(u64::MAX)
}

/// Nobody knows when a running request ends.
const A_MOMENT: Duration = Duration::from_secs(1);
