//! How arms fare, by the hour: counts, times in buckets, costs, verdicts. Pure but for the lock: records in, sums out. Names that
//! callers or scripts make up are bounded; no text of a request is ever in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    account::{Record, minute::Minute},
    config::experiment::MIRROR,
    context::{Step, Trace, Verdict},
    exchange::CLIENT_GONE,
};

/// Hours since 1970, a model and its arm.
pub type Key = (u32, Arc<str>, Arc<str>);

#[derive(Default)]
pub struct Figures {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    hours: BTreeMap<Key, Tally>,
    /// What the store does not have yet.
    changed: BTreeSet<Key>,
}

/// What came of requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Tally {
    pub requests: u64,
    /// 5xx, broken streams, and providers out of quota.
    pub errors: u64,
    /// Other 4xx: the request's own fault, or its caller's limits.
    pub refused: u64,
    /// The client left before the end.
    pub left: u64,
    /// Answered, but by none of the arm's own targets.
    pub elsewhere: u64,
    pub attempts: u64,
    /// A stage wanted a better answer; and there was none.
    pub next: u64,
    pub unmet: u64,
    pub cost_nano_usd: u64,
    pub unknown_costs: u64,
    pub input_tokens: u64,
    pub output_tokens: u64,
    /// Of complete answers.
    pub took: Times,
    /// To the first output, where it was streamed.
    pub first_event: Times,
    pub codes: BTreeMap<String, u64>,
    pub notes: BTreeMap<String, Note>,
    /// Copies that were not sent, by the reason.
    pub left_out: BTreeMap<String, u64>,
    /// Milliseconds since 1970.
    pub begin: u64,
    pub end: u64,
}

/// What stages noted under one name.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Note {
    pub count: u64,
    /// How often it was a number, and those numbers.
    pub numbers: u64,
    pub sum: f64,
    pub least: f64,
    pub most: f64,
}

/// Times in buckets of a sixteenth of a power of two: a figure read from them is wrong by a thirtieth at most.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Times(pub BTreeMap<u16, u64>);

impl Figures {
    pub fn add(&self, (model, arm): (&Arc<str>, &Arc<str>), record: &Record, trace: &Trace, own: &[Arc<str>]) {
        self.change(model, arm, |tally| tally.add(record, trace, own));
    }

    pub fn left_out(&self, model: &Arc<str>, why: &str) {
        self.change(model, &MIRROR.into(), |tally| bounded(&mut tally.left_out, why, |count| *count += 1));
    }

    fn change(&self, model: &Arc<str>, arm: &Arc<str>, with: impl FnOnce(&mut Tally)) {
        let now = SystemTime::now();
        let key = (Minute::of(now).hour().0, model.clone(), arm.clone());
        let mut state = self.lock();
        if !state.hours.contains_key(&key) && state.hours.len() >= MOST {
            state.hours.pop_first();
        }
        let tally = state.hours.entry(key.clone()).or_default();
        let millis = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
        tally.begin = if tally.begin == 0 { millis } else { tally.begin.min(millis) };
        tally.end = tally.end.max(millis);
        with(tally);
        state.changed.insert(key);
    }

    /// Sums over these hours, by model and arm.
    pub fn sums(&self, hours: std::ops::Range<u32>) -> BTreeMap<(Arc<str>, Arc<str>), Tally> {
        let mut sums: BTreeMap<(Arc<str>, Arc<str>), Tally> = BTreeMap::new();
        for ((hour, model, arm), tally) in &self.lock().hours {
            if hours.contains(hour) {
                sums.entry((model.clone(), arm.clone())).or_default().merge(tally);
            }
        }
        sums
    }

    /// What changed since it was asked last.
    pub fn changes(&self) -> Vec<(Key, Tally)> {
        let mut state = self.lock();
        let changed = std::mem::take(&mut state.changed);
        changed.into_iter().filter_map(|key| state.hours.get(&key).cloned().map(|tally| (key, tally))).collect()
    }

    /// Those could not be kept.
    pub fn again(&self, keys: impl Iterator<Item = Key>) {
        self.lock().changed.extend(keys);
    }

    /// What was kept comes back.
    pub fn restore(&self, key: Key, kept: &Tally) {
        let mut state = self.lock();
        if state.hours.len() < MOST || state.hours.contains_key(&key) {
            state.hours.entry(key).or_default().merge(kept);
        }
    }

    /// Hours before this one are over and done with.
    pub fn forget(&self, before: u32) {
        let mut state = self.lock();
        state.hours.retain(|(hour, ..), _| *hour >= before);
        state.changed.retain(|(hour, ..)| *hour >= before);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    fn add(&mut self, record: &Record, trace: &Trace, own: &[Arc<str>]) {
        let code = record.error_code.as_deref();
        let broke_off = record.status < 400 && code.is_some();
        let error = record.status >= 500 || broke_off || code == Some("upstream_rate_limited");
        let left = record.status == CLIENT_GONE;
        self.requests += 1;
        self.attempts += u64::from(record.attempts);
        match () {
            () if left => self.left += 1,
            () if error => self.errors += 1,
            () if record.status >= 400 => self.refused += 1,
            () => {
                self.took.add(record.duration);
                if let Some(first) = record.first_event {
                    self.first_event.add(first);
                }
                let others = !own.is_empty() && record.target.as_ref().is_some_and(|target| !own.contains(target));
                self.elsewhere += u64::from(others);
            }
        }
        if let Some(code) = code {
            bounded(&mut self.codes, code, |count| *count += 1);
        }
        match record.cost_nano_usd.and_then(|cost| u64::try_from(cost).ok()) {
            Some(cost) => self.cost_nano_usd = self.cost_nano_usd.saturating_add(cost),
            None => self.unknown_costs += 1,
        }
        if record.cost_unknown && record.cost_nano_usd.is_some() {
            self.unknown_costs += 1;
        }
        let tokens = |of: fn(&crate::model::Usage) -> Option<u64>| record.usage.as_ref().and_then(of).unwrap_or(0);
        self.input_tokens += tokens(|usage| usage.input_tokens);
        self.output_tokens += tokens(|usage| usage.output_tokens);
        self.unmet += u64::from(record.tags.iter().any(|(name, _)| name == UNMET));
        for step in &trace.steps {
            match step {
                Step::Stage { verdict: Verdict::Next(_), .. } => self.next += 1,
                Step::Note { stage, text, .. } if is_file(stage) => self.note(text),
                _ => {}
            }
        }
    }

    /// `judge: 7` is a number under a name; anything else is counted as it stands.
    fn note(&mut self, text: &str) {
        let parts = text.split_once([':', '=']).map(|(name, value)| (name.trim(), value.trim()));
        let number = parts.and_then(|(name, value)| {
            let word = value.split_whitespace().next()?;
            Some((name, word.parse::<f64>().ok().filter(|n| n.is_finite())?))
        });
        let name = number.map_or(text, |(name, _)| name);
        let name: String = name.chars().take(LONGEST).collect();
        bounded(&mut self.notes, &name, |note| note.add(number.map(|(_, n)| n)));
    }

    pub fn merge(&mut self, other: &Tally) {
        let Tally {
            requests,
            errors,
            refused,
            left,
            elsewhere,
            attempts,
            next,
            unmet,
            cost_nano_usd,
            unknown_costs,
            input_tokens,
            output_tokens,
            took,
            first_event,
            codes,
            notes,
            left_out,
            begin,
            end,
        } = other;
        for (mine, theirs) in [
            (&mut self.requests, requests),
            (&mut self.errors, errors),
            (&mut self.refused, refused),
            (&mut self.left, left),
            (&mut self.elsewhere, elsewhere),
            (&mut self.attempts, attempts),
            (&mut self.next, next),
            (&mut self.unmet, unmet),
            (&mut self.cost_nano_usd, cost_nano_usd),
            (&mut self.unknown_costs, unknown_costs),
            (&mut self.input_tokens, input_tokens),
            (&mut self.output_tokens, output_tokens),
        ] {
            *mine = mine.saturating_add(*theirs);
        }
        self.took.merge(took);
        self.first_event.merge(first_event);
        codes.iter().for_each(|(code, n)| bounded(&mut self.codes, code, |count| *count += n));
        left_out.iter().for_each(|(why, n)| bounded(&mut self.left_out, why, |count| *count += n));
        notes.iter().for_each(|(name, note)| bounded(&mut self.notes, name, |mine| mine.merge(note)));
        self.begin = if self.begin == 0 || *begin == 0 { self.begin.max(*begin) } else { self.begin.min(*begin) };
        self.end = self.end.max(*end);
    }
}

impl Note {
    fn add(&mut self, number: Option<f64>) {
        let one = number.map_or(Note { count: 1, ..Note::default() }, |n| Note {
            count: 1,
            numbers: 1,
            sum: n,
            least: n,
            most: n,
        });
        self.merge(&one);
    }

    fn merge(&mut self, other: &Note) {
        if other.numbers > 0 {
            let none = self.numbers == 0;
            self.least = if none { other.least } else { self.least.min(other.least) };
            self.most = if none { other.most } else { self.most.max(other.most) };
        }
        self.count += other.count;
        self.numbers += other.numbers;
        self.sum += other.sum;
    }
}

impl Times {
    pub fn add(&mut self, time: Duration) {
        *self.0.entry(bucket(time)).or_default() += 1;
    }

    fn merge(&mut self, other: &Times) {
        other.0.iter().for_each(|(bucket, count)| *self.0.entry(*bucket).or_default() += count);
    }

    pub fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The time that so many of a thousand did not exceed.
    pub fn quantile(&self, per_mille: u64) -> Option<Duration> {
        let total = self.count();
        let wanted = (total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (bucket, count) in &self.0 {
            seen += count;
            if seen >= wanted {
                return Some(middle(*bucket));
            }
        }
        None
    }
}

/// In microseconds: four bits behind the highest one.
fn bucket(time: Duration) -> u16 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    let power = micros.ilog2();
    let part = if power >= FINE { (micros >> (power - FINE)) & PARTS } else { (micros << (FINE - power)) & PARTS };
    u16::try_from(u64::from(power) * (PARTS + 1) + part).unwrap_or(u16::MAX)
}

fn middle(bucket: u16) -> Duration {
    let (power, part) = (u32::from(bucket) / 16, u64::from(bucket) % 16);
    let low = ((PARTS + 1 + part) as f64) * 2f64.powi(i32::try_from(power).unwrap_or(0) - 4);
    let width = 2f64.powi(i32::try_from(power).unwrap_or(0) - 4);
    Duration::from_micros((low + width / 2.0) as u64)
}

/// A place by name, as long as there is room for names; what is over counts together.
fn bounded<T: Default>(map: &mut BTreeMap<String, T>, name: &str, with: impl FnOnce(&mut T)) {
    let name = if map.contains_key(name) || map.len() < MOST_NAMES { name } else { OTHER };
    match map.get_mut(name) {
        Some(place) => with(place),
        None => with(map.entry(name.to_owned()).or_default()),
    }
}

/// The gateway notes under words, stages under their files.
fn is_file(stage: &str) -> bool {
    stage.ends_with(".rhai") || stage.ends_with(".wasm") || stage.starts_with("builtin/")
}

/// The tag of an answer that a stage found wanting when no better one was left.
const UNMET: &str = "quality_unmet";
const FINE: u32 = 4;
const PARTS: u64 = 15;
/// Hours of arms, at most: a month of twenty arms.
const MOST: usize = 16_384;
const MOST_NAMES: usize = 32;
/// Characters of a note.
const LONGEST: usize = 64;
const OTHER: &str = "(other)";
