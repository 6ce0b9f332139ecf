//! What one scope has taken of its limits. In memory and exact for this process; the arithmetic is `gcra`'s and `window`'s.
//! Knows nothing of money, and nothing of the other scopes of a caller.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use dashmap::DashMap;

use super::{
    denial::{A_MOMENT, Denied},
    gcra::{Bucket, Rate, Refused, Standing},
    moment,
    shared::Counted,
    window::Days,
};
use crate::{
    clock,
    config::{Limits, Scope},
};

mod rates;

pub use rates::Rates;

/// The meters by scope: they outlive reloads, and those that nobody needs are forgotten.
#[derive(Debug, Default)]
pub struct Meters {
    by_scope: DashMap<Scope, Arc<Meter>, foldhash::quality::RandomState>,
}

/// Its time is that of `moment::millis`.
#[derive(Debug, Default)]
pub struct Meter {
    state: Mutex<State>,
    /// Places that are taken: more only under the lock, so that no two take the last one; fewer at any time.
    in_flight: AtomicU64,
}

#[derive(Debug, Clone, Copy, Default)]
struct State {
    requests: Bucket,
    input: Bucket,
    output: Bucket,
    tokens: Bucket,
    day_requests: Days,
    day_tokens: Days,
    /// Of them what requests under way hold and nobody has used yet.
    day_held: Days,
    /// When somebody last looked, milliseconds.
    latest: u64,
    /// As last asked for: to know when nothing is held any more.
    limits: Limits,
}

/// When a request began, as far as days are concerned: all that it takes counts in that day.
#[derive(Debug, Clone, Copy)]
pub struct Today {
    pub day: u32,
    pub ends_in: Duration,
}

/// Tokens that a request holds of one scope's limits, or is to hold.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Taken {
    pub input: u64,
    pub output: u64,
    pub tokens: u64,
    pub day_tokens: u64,
}

impl Meters {
    pub fn of(&self, scope: &Scope) -> Arc<Meter> {
        let found = self.by_scope.get(scope).map(|meter| meter.clone());
        found.unwrap_or_else(|| self.by_scope.entry(scope.clone()).or_default().clone())
    }

    /// Forgets meters that hold nothing: nobody could tell them from new ones. What is counted by the day stays for the day.
    pub fn sweep(&self, today: u32) {
        self.by_scope.retain(|_, meter| Arc::strong_count(meter) > 1 || !meter.idle(today));
    }

    /// What was counted by the day and is still of interest: requests, and tokens that were used. What requests under way hold is
    /// nothing that another process should find.
    pub fn days(&self) -> Vec<(Scope, Days, Days)> {
        let counted = self.by_scope.iter().map(|entry| {
            let state = entry.value().lock();
            (entry.key().clone(), state.day_requests, state.day_tokens.without(&state.day_held))
        });
        counted.filter(|(_, requests, tokens)| requests.all().chain(tokens.all()).next().is_some()).collect()
    }

    /// What an earlier process counted.
    pub fn restore(&self, scope: &Scope, day: u32, requests: u64, tokens: u64) {
        let meter = self.of(scope);
        let mut state = meter.lock();
        state.day_requests.correct(day, 0, requests);
        state.day_tokens.correct(day, 0, tokens);
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        self.by_scope.len()
    }
}

impl Meter {
    /// One that nobody enters: so much of each was used.
    pub(super) fn holding(limits: &Limits, today: Today, used: impl Iterator<Item = (Counted, u64)>) -> Meter {
        let (mut state, mut in_flight) = (State { limits: *limits, ..State::default() }, 0);
        for (counted, used) in used {
            match counted {
                Counted::Requests => state.requests.correct(0, used),
                Counted::InputTokens => state.input.correct(0, used),
                Counted::OutputTokens => state.output.correct(0, used),
                Counted::Tokens => state.tokens.correct(0, used),
                Counted::DayRequests => state.day_requests.correct(today.day, 0, used),
                Counted::DayTokens => state.day_tokens.correct(today.day, 0, used),
                Counted::Places => in_flight = used,
                Counted::Money(_) | Counted::Quota(_) => {}
            }
        }
        Meter { state: Mutex::new(state), in_flight: in_flight.into() }
    }

    /// Takes a request, and a place if it is to have one; or says which limit is in the way. Shadow limits are in nobody's way:
    /// the place is taken and the request is not.
    pub fn enter(&self, limits: &Limits, now: u64, today: Today, place: bool) -> Result<(), Denied> {
        let mut state = self.lock();
        let now = state.at(now);
        let outcome = state.enter(limits, now, today, place.then(|| self.in_flight()));
        if place && (outcome.is_ok() || limits.shadow) {
            self.in_flight.fetch_add(1, Ordering::Relaxed);
        }
        outcome
    }

    /// Whoever enters from here on is held to these. What was taken before has drained as the limits before let it.
    pub(super) fn bind(&self, limits: &Limits) {
        let mut state = self.lock();
        if state.limits != *limits {
            let now = state.at(moment::millis(clock::now()));
            state.drain(now);
            state.limits = *limits;
        }
    }

    /// What `enter` would say now. Takes nothing.
    pub fn would_enter(&self, limits: &Limits, now: u64, today: Today) -> Result<(), Denied> {
        let mut state = *self.lock();
        let now = state.at(now);
        state.enter(limits, now, today, Some(self.in_flight()))
    }

    /// Another scope refused: as if it had not entered. `request`: it had taken one.
    pub fn undo(&self, limits: &Limits, today: Today, place: bool, request: bool) {
        if place {
            self.leave();
        }
        let mut state = self.lock();
        if request && limits.requests_per_minute.is_some() {
            state.requests.correct(1, 0);
        }
        if request && limits.requests_per_day.is_some() {
            state.day_requests.correct(today.day, 1, 0);
        }
    }

    /// The request ended.
    pub fn leave(&self) {
        let _ = self.in_flight.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |places| places.checked_sub(1));
    }

    /// Takes so many tokens of each limit, or nothing. What is left then is noted where it is the tightest so far.
    pub fn take(
        &self,
        limits: &Limits,
        now: u64,
        today: Today,
        more: Taken,
        tightest: &mut Rates,
    ) -> Result<(), Denied> {
        let mut state = self.lock();
        let now = state.at(now);
        state.take(limits, now, today, more)?;
        if !limits.shadow {
            state.tighten(tightest, limits, now, today);
        }
        Ok(())
    }

    /// What `take` would say now. Takes nothing.
    pub fn would_take(&self, limits: &Limits, now: u64, today: Today, more: Taken) -> Result<(), Denied> {
        let mut state = *self.lock();
        let now = state.at(now);
        state.take(limits, now, today, more)
    }

    /// Of what was `taken`, so much was `used`.
    pub fn correct(&self, limits: &Limits, day: u32, taken: Taken, used: Taken) {
        if !counts_tokens(limits) {
            return;
        }
        let mut state = self.lock();
        if limits.input_tokens_per_minute.is_some() {
            state.input.correct(taken.input, used.input);
        }
        if limits.output_tokens_per_minute.is_some() {
            state.output.correct(taken.output, used.output);
        }
        if limits.tokens_per_minute.is_some() {
            state.tokens.correct(taken.tokens, used.tokens);
        }
        if limits.tokens_per_day.is_some() {
            state.day_tokens.correct(day, taken.day_tokens, used.day_tokens);
            state.day_held.correct(day, taken.day_tokens, 0);
        }
    }

    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// What is left of each, where it is less than `tightest` says.
    pub fn tighten(&self, tightest: &mut Rates, limits: &Limits, now: u64, today: Today) {
        let mut state = self.lock();
        let now = state.at(now);
        state.tighten(tightest, limits, now, today);
    }

    /// Each limit by its name, for decisions that are shown.
    pub fn standings(&self, limits: &Limits, today: Today) -> Vec<(&'static str, Standing)> {
        let mut state = *self.lock();
        let now = state.at(moment::millis(clock::now()));
        let mut all = Vec::new();
        for (name, count, _) in limits.named() {
            let Some(count) = count else { continue };
            let day =
                |used: u64| Standing { limit: count, left: count.saturating_sub(used), full_after: today.ends_in };
            let bucket = match name {
                "requests_per_minute" => &mut state.requests,
                "input_tokens_per_minute" => &mut state.input,
                "output_tokens_per_minute" => &mut state.output,
                "tokens_per_minute" => &mut state.tokens,
                "requests_per_day" => {
                    all.push((name, day(state.day_requests.of(today.day))));
                    continue;
                }
                "tokens_per_day" => {
                    all.push((name, day(state.day_tokens.of(today.day))));
                    continue;
                }
                _ => continue,
            };
            all.push((name, bucket.standing(now, Rate::a_minute(count))));
        }
        all
    }

    fn idle(&self, today: u32) -> bool {
        let mut state = *self.lock();
        let (now, limits) = (state.at(moment::millis(clock::now())), state.limits);
        let empty = |bucket: &mut Bucket, count: Option<u64>| {
            count.is_none_or(|count| bucket.standing(now, Rate::a_minute(count)).full_after.is_zero())
        };
        empty(&mut state.requests, limits.requests_per_minute)
            && empty(&mut state.input, limits.input_tokens_per_minute)
            && empty(&mut state.output, limits.output_tokens_per_minute)
            && empty(&mut state.tokens, limits.tokens_per_minute)
            && state.day_requests.all().chain(state.day_tokens.all()).all(|(day, _)| day < today)
            && self.in_flight() == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// A request reads the clock before it has this lock: it never goes back from one caller to the next.
    fn at(&mut self, now: u64) -> u64 {
        self.latest = self.latest.max(now);
        self.latest
    }

    /// By the limits that have held until now.
    fn drain(&mut self, now: u64) {
        let minutes = [
            (&mut self.requests, self.limits.requests_per_minute),
            (&mut self.input, self.limits.input_tokens_per_minute),
            (&mut self.output, self.limits.output_tokens_per_minute),
            (&mut self.tokens, self.limits.tokens_per_minute),
        ];
        for (bucket, count) in minutes {
            if let Some(count) = count {
                bucket.drain(now, Rate::a_minute(count));
            }
        }
    }

    /// `places`: so many are taken, where one more is wanted.
    fn enter(&mut self, limits: &Limits, now: u64, today: Today, places: Option<u64>) -> Result<(), Denied> {
        if let Some(most) = limits.concurrent.filter(|most| places.is_some_and(|places| places >= *most)) {
            return Err(Denied::new("concurrent", most, Refused::Wait(A_MOMENT)));
        }
        // Who has tokens left to pay back would be refused when they are reserved: better before the body is read.
        self.take(limits, now, today, Taken::default())?;
        // The last that may refuse takes first: nothing has to be put back.
        if let Some(count) = limits.requests_per_day.filter(|count| !self.day_requests.fits(today.day, 1, *count)) {
            return Err(Denied::new("requests_per_day", count, Refused::Wait(today.ends_in)));
        }
        if let Some(count) = limits.requests_per_minute {
            let taken = self.requests.take(now, 1, Rate::a_minute(count));
            taken.map_err(|refused| Denied::new("requests_per_minute", count, refused))?;
        }
        if limits.requests_per_day.is_some() {
            self.day_requests.correct(today.day, 0, 1);
        }
        Ok(())
    }

    /// All of it, or nothing: each is asked before any is taken.
    fn take(&mut self, limits: &Limits, now: u64, today: Today, more: Taken) -> Result<(), Denied> {
        let mut minutes = [
            ("input_tokens_per_minute", limits.input_tokens_per_minute, &mut self.input, more.input),
            ("output_tokens_per_minute", limits.output_tokens_per_minute, &mut self.output, more.output),
            ("tokens_per_minute", limits.tokens_per_minute, &mut self.tokens, more.tokens),
        ];
        for (limit, count, bucket, cost) in &mut minutes {
            let Some(count) = *count else { continue };
            let fits = bucket.fits(now, *cost, Rate::a_minute(count));
            fits.map_err(|refused| Denied::new(limit, count, refused))?;
        }
        if let Some(count) = limits.tokens_per_day.filter(|c| !self.day_tokens.fits(today.day, more.day_tokens, *c)) {
            return Err(Denied::new("tokens_per_day", count, Refused::Wait(today.ends_in)));
        }
        if more == Taken::default() {
            return Ok(());
        }
        for (_, count, bucket, cost) in minutes {
            if count.is_some() {
                bucket.correct(0, cost);
            }
        }
        if limits.tokens_per_day.is_some() {
            self.day_tokens.correct(today.day, 0, more.day_tokens);
            self.day_held.correct(today.day, 0, more.day_tokens);
        }
        Ok(())
    }

    fn tighten(&mut self, tightest: &mut Rates, limits: &Limits, now: u64, today: Today) {
        let Rates { requests, input_tokens, output_tokens, tokens } = tightest;
        rates::minute(requests, &mut self.requests, now, limits.requests_per_minute);
        rates::day(requests, &self.day_requests, today, limits.requests_per_day);
        rates::minute(input_tokens, &mut self.input, now, limits.input_tokens_per_minute);
        rates::minute(output_tokens, &mut self.output, now, limits.output_tokens_per_minute);
        rates::minute(tokens, &mut self.tokens, now, limits.tokens_per_minute);
        rates::day(tokens, &self.day_tokens, today, limits.tokens_per_day);
    }
}

impl Taken {
    /// What a request is to hold: `input` is what its prompt is thought to have, `output` the most that may come. What would
    /// never fit with its whole output waits for an empty bucket; a prompt that would never fit is the limit's name and bound.
    pub fn of(limits: &Limits, input: u64, output: u64) -> Result<Taken, (&'static str, u64)> {
        let both = input.saturating_add(output);
        let cut = |limit: &'static str, count: Option<u64>, all: u64, least: u64| match count {
            None => Ok(0),
            Some(count) if least > count => Err((limit, count)),
            Some(count) => Ok(all.min(count)),
        };
        Ok(Taken {
            input: cut("input_tokens_per_minute", limits.input_tokens_per_minute, input, input)?,
            output: cut("output_tokens_per_minute", limits.output_tokens_per_minute, output, 0)?,
            tokens: cut("tokens_per_minute", limits.tokens_per_minute, both, input)?,
            day_tokens: cut("tokens_per_day", limits.tokens_per_day, both, input)?,
        })
    }

    /// What was used in the end.
    pub fn used(input: u64, output: u64) -> Taken {
        let both = input.saturating_add(output);
        Taken { input, output, tokens: both, day_tokens: both }
    }

    pub fn beyond(self, has: Taken) -> Taken {
        Taken {
            input: self.input.saturating_sub(has.input),
            output: self.output.saturating_sub(has.output),
            tokens: self.tokens.saturating_sub(has.tokens),
            day_tokens: self.day_tokens.saturating_sub(has.day_tokens),
        }
    }

    pub fn and(self, more: Taken) -> Taken {
        Taken {
            input: self.input + more.input,
            output: self.output + more.output,
            tokens: self.tokens + more.tokens,
            day_tokens: self.day_tokens + more.day_tokens,
        }
    }
}

pub fn counts_tokens(limits: &Limits) -> bool {
    limits.input_tokens_per_minute.is_some()
        || limits.output_tokens_per_minute.is_some()
        || limits.tokens_per_minute.is_some()
        || limits.tokens_per_day.is_some()
}
