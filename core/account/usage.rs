//! Sums of the ledger: by hour, team, key, model and target, so that usage is answered without reading records. Kept in
//! memory and, in batches, in the store, each batch with how far in the ledger it goes: after a crash the rest is added from
//! there, and the sums are the ledger's to the last digit.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use serde::Deserialize;
use serde_json::Number;
use tokio::sync::RwLock;

use super::{Record, hour::Hour, sum::Sum};
use crate::{
    config::Scope,
    model::{Units, Usage},
    store::{Op, Result, Store, Table},
};

mod sweep;

/// What a sum is by, beside the hour. Empty: none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct By<'a> {
    pub hour: Hour,
    pub team: &'a str,
    pub key: &'a str,
    /// As it was asked for.
    pub model: &'a str,
    /// `provider/model`.
    pub target: &'a str,
}

pub struct Sums {
    state: Mutex<State>,
    store: Arc<dyn Store>,
    /// Held for writing while old rows become others.
    moving: RwLock<()>,
}

#[derive(Default)]
struct State {
    rows: HashMap<Box<[u8]>, Entry>,
    /// How many rows an hour has.
    sizes: HashMap<Hour, usize>,
    /// Older hours lie in the store alone.
    first: Hour,
    /// How far the sums go, in bytes of each hour's lines.
    covered: BTreeMap<Hour, u64>,
    /// The covering changed.
    moved: bool,
    /// Hours before this one are sums of teams.
    swept: Hour,
}

#[derive(Default)]
struct Entry {
    sum: Sum,
    dirty: bool,
}

impl Sums {
    /// With what the store holds of the last days.
    pub async fn open(store: Arc<dyn Store>, now: SystemTime) -> Result<Sums> {
        let first = Hour::of(now).minus(KEPT);
        let mut state = State { first, ..State::default() };
        if let Some(bytes) = store.read(Table::Usage, COVERED).await? {
            state.covered = covered(&bytes);
        }
        let sums = Sums { state: Mutex::new(state), store, moving: RwLock::default() };
        let mut after = Some(first.0.to_be_bytes().to_vec());
        while let Some(from) = after {
            let rows = sums.store.scan(Table::Usage, &[], Some(&from), PAGE).await?;
            after = rows.last().filter(|_| rows.len() == PAGE).map(|(key, _)| key.clone());
            let mut state = sums.lock();
            for (key, value) in rows {
                let Some((by, sum)) = split(&key).zip(Sum::parse(&value)) else { continue };
                *state.sizes.entry(by.hour).or_default() += 1;
                state.rows.insert(key.into(), Entry { sum, dirty: false });
            }
        }
        Ok(sums)
    }

    /// How far the sums go in that hour's lines. `None`: such hours were counted whole, long ago.
    pub fn covered(&self, hour: Hour) -> Option<u64> {
        let state = self.lock();
        match state.covered.get(&hour) {
            Some(to) => Some(*to),
            None => state.covered.first_key_value().is_none_or(|(first, _)| hour >= *first).then_some(0),
        }
    }

    /// Adds requests whose lines end at `to` in that hour's file; `None`: they could not be written.
    pub fn add<'r>(&self, records: impl Iterator<Item = &'r Record>, written: Option<(Hour, u64)>) {
        let mut state = self.lock();
        for record in records {
            let hour = Hour::of_id(&record.id).unwrap_or_default();
            let facts = Facts {
                team: record.team.as_deref().unwrap_or(""),
                key: &record.key_id,
                model: &record.model,
                target: record.target.as_deref().unwrap_or(""),
                error: record.status >= 400,
            };
            let attempts = record.ledger.iter().map(|a| (&*a.target, a.usage.as_ref(), a.cost_nano_usd));
            state.count(hour, &facts, attempts);
        }
        if let Some((hour, to)) = written {
            state.cover(hour, to);
        }
    }

    /// The same from lines of the ledger, after a crash.
    pub fn replay(&self, lines: &[u8], hour: Hour, to: u64) {
        let mut state = self.lock();
        for line in lines.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Line>(line) {
                Ok(line) => line.count(&mut state),
                Err(error) => tracing::warn!(%hour, %error, "a record cannot be read: usage goes without it"),
            }
        }
        state.cover(hour, to);
    }

    /// Writes what changed. An error leaves it to the next time.
    pub async fn checkpoint(&self) -> Result<()> {
        let (batch, keys) = {
            let mut state = self.lock();
            let mut keys = Vec::new();
            let mut batch = Vec::new();
            for (key, entry) in state.rows.iter_mut().filter(|(_, entry)| entry.dirty) {
                entry.dirty = false;
                keys.push(key.clone());
                batch.push(Op::put(Table::Usage, &**key, entry.sum.bytes()));
            }
            if batch.is_empty() && !state.moved {
                return Ok(());
            }
            state.moved = false;
            let oldest = state.covered.last_key_value().map_or(Hour(0), |(last, _)| last.minus(KEPT));
            state.covered = state.covered.split_off(&oldest);
            batch.push(Op::put(Table::Usage, COVERED, covered_bytes(&state.covered)));
            (batch, keys)
        };
        // One batch: sums and how far they go are never apart.
        let result = self.store.write_soft(batch).await;
        if result.is_err() {
            let mut state = self.lock();
            state.moved = true;
            for key in keys {
                if let Some(entry) = state.rows.get_mut(&key) {
                    entry.dirty = true;
                }
            }
        }
        result
    }

    /// Hours that nobody adds to any more are left to the store.
    pub fn let_go(&self, now: SystemTime) {
        let mut state = self.lock();
        let first = Hour::of(now).minus(KEPT);
        // A clock that goes back finds older hours still in memory.
        if first <= state.first {
            return;
        }
        let recent = |key: &[u8]| split(key).is_none_or(|by| by.hour >= first);
        if state.rows.iter().any(|(key, entry)| entry.dirty && !recent(key)) {
            return;
        }
        state.rows.retain(|key, _| recent(key));
        state.first = first;
        state.sizes.retain(|hour, _| *hour >= first);
    }

    /// Every sum of the hours from `from` up to and without `to`.
    pub async fn each(&self, from: Hour, to: Hour, mut f: impl FnMut(By<'_>, &Sum)) -> Result<()> {
        let _still = self.moving.read().await;
        let (first, mine) = {
            let state = self.lock();
            let within = |by: &By<'_>| by.hour >= from && by.hour < to && by.hour >= state.first;
            let rows = state.rows.iter().filter(|(key, _)| split(key).as_ref().is_some_and(within));
            (state.first, rows.map(|(key, entry)| (key.clone(), entry.sum)).collect::<Vec<_>>())
        };
        for (key, sum) in &mine {
            if let Some(by) = split(key) {
                f(by, sum);
            }
        }
        // Key order is time order.
        let end = to.min(first);
        let mut after = (from < end).then(|| from.0.to_be_bytes().to_vec());
        while let Some(start) = after {
            let rows = self.store.scan(Table::Usage, &[], Some(&start), PAGE).await?;
            after = rows.last().filter(|_| rows.len() == PAGE).map(|(key, _)| key.clone());
            for (key, value) in &rows {
                let Some((by, sum)) = split(key).zip(Sum::parse(value)) else { continue };
                if by.hour >= end {
                    return Ok(());
                }
                f(by, &sum);
            }
        }
        Ok(())
    }

    /// Nano-dollars of a scope's requests that began in the hours from that of `from` to that of `to`. `None`: these sums do not
    /// tell it apart.
    pub async fn spent(&self, scope: &Scope, from: SystemTime, to: Option<SystemTime>) -> Result<Option<u64>> {
        let told = |by: &By<'_>| match scope {
            Scope::Team(team) => by.team == &**team,
            Scope::Key(key) => by.key == &**key,
            Scope::Model(model) => by.model == &**model,
            _ => false,
        };
        if !matches!(scope, Scope::Team(_) | Scope::Key(_) | Scope::Model(_)) {
            return Ok(None);
        }
        let mut spent: u64 = 0;
        let end = to.map_or(Hour(u32::MAX), |to| Hour::of(to - std::time::Duration::from_nanos(1)).plus(1));
        self.each(Hour::of(from), end, |by, sum| {
            if told(&by) {
                spent = spent.saturating_add(sum.cost_nano_usd);
            }
        })
        .await?;
        Ok(Some(spent))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of one request.
struct Facts<'a> {
    team: &'a str,
    key: &'a str,
    model: &'a str,
    target: &'a str,
    error: bool,
}

impl State {
    fn count<'a>(
        &mut self,
        hour: Hour,
        facts: &Facts<'_>,
        attempts: impl Iterator<Item = (&'a str, Option<&'a Usage>, Option<i64>)>,
    ) {
        let hour = hour.max(self.first);
        // A name that reached nothing may be anything.
        let model = if facts.target.is_empty() { "" } else { facts.model };
        let by = By { hour, team: facts.team, key: facts.key, model, target: facts.target };
        let sum = self.sum(by);
        sum.requests += 1;
        sum.errors += u64::from(facts.error);
        let mut attempts = attempts.peekable();
        // Nearly every request is one attempt at its own target: one look is enough.
        while let Some((_, usage, cost)) = attempts.next_if(|(target, ..)| *target == facts.target) {
            sum.use_up(usage, cost);
        }
        for (target, usage, cost) in attempts {
            self.sum(By { target, ..by }).use_up(usage, cost);
        }
    }

    fn sum(&mut self, by: By<'_>) -> &mut Sum {
        let key = join(by);
        let key = match self.rows.contains_key(&*key) {
            true => key,
            false => self.fresh(by, key),
        };
        let entry = self.rows.entry(key.into()).or_default();
        entry.dirty = true;
        &mut entry.sum
    }

    /// The key of a row that is not there yet.
    fn fresh(&mut self, by: By<'_>, key: Vec<u8>) -> Vec<u8> {
        let size = self.sizes.entry(by.hour).or_default();
        *size += 1;
        // Names that callers make up must not fill the store: the rest of the hour's are counted together.
        if *size > MOST_ROWS { join(By { key: OTHER, model: OTHER, target: OTHER, ..by }) } else { key }
    }

    fn cover(&mut self, hour: Hour, to: u64) {
        self.covered.insert(hour, to);
        self.moved = true;
    }
}

/// A line of the ledger, as far as sums need it.
#[derive(Deserialize)]
struct Line {
    id: String,
    team: Option<String>,
    key_id: Option<String>,
    model: String,
    target: Option<String>,
    status: u16,
    ledger: Vec<LineAttempt>,
}

#[derive(Deserialize)]
struct LineAttempt {
    target: String,
    usage: Option<LineUsage>,
    cost_usd: Option<Number>,
}

#[derive(Deserialize)]
struct LineUsage {
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_tokens: Option<u64>,
    cache_write_tokens: Option<u64>,
    reasoning_tokens: Option<u64>,
    input_audio_tokens: Option<u64>,
    output_audio_tokens: Option<u64>,
    input_image_tokens: Option<u64>,
    output_image_tokens: Option<u64>,
    input_images: Option<u64>,
    output_images: Option<u64>,
    input_audio_ms: Option<u64>,
    output_audio_ms: Option<u64>,
    characters: Option<u64>,
    search_units: Option<u64>,
    web_searches: Option<u64>,
}

impl Line {
    fn count(&self, state: &mut State) {
        let facts = Facts {
            team: self.team.as_deref().unwrap_or(""),
            key: self.key_id.as_deref().unwrap_or(""),
            model: &self.model,
            target: self.target.as_deref().unwrap_or(""),
            error: self.status >= 400,
        };
        let usages: Vec<Option<Usage>> = self.ledger.iter().map(|a| a.usage.as_ref().map(LineUsage::usage)).collect();
        // The digits as they stand there: no float on the way.
        let cost = |a: &LineAttempt| crate::config::usd(&a.cost_usd.as_ref()?.to_string()).ok();
        let attempts = self.ledger.iter().zip(&usages).map(|(a, usage)| (a.target.as_str(), usage.as_ref(), cost(a)));
        state.count(Hour::of_id(&self.id).unwrap_or_default(), &facts, attempts);
    }
}

impl LineUsage {
    fn usage(&self) -> Usage {
        Usage {
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cache_read_tokens: self.cache_read_tokens,
            cache_write_tokens: self.cache_write_tokens,
            reasoning_tokens: self.reasoning_tokens,
            input_audio_tokens: self.input_audio_tokens,
            output_audio_tokens: self.output_audio_tokens,
            units: Units {
                input_image_tokens: self.input_image_tokens,
                output_image_tokens: self.output_image_tokens,
                input_images: self.input_images,
                output_images: self.output_images,
                input_audio_ms: self.input_audio_ms,
                output_audio_ms: self.output_audio_ms,
                characters: self.characters,
                search_units: self.search_units,
                web_searches: self.web_searches,
            }
            .boxed(),
            ..Usage::default()
        }
    }
}

/// The hour first, so that key order is time order.
fn join(by: By<'_>) -> Vec<u8> {
    let parts = [by.team, by.key, by.model, by.target];
    let mut key = Vec::with_capacity(8 + parts.iter().map(|part| part.len()).sum::<usize>());
    key.extend_from_slice(&by.hour.0.to_be_bytes());
    for (n, part) in parts.into_iter().enumerate() {
        if n > 0 {
            key.push(0);
        }
        // A NUL stands in hardly any name: in runs, not byte by byte.
        part.as_bytes().split(|b| *b == 0).for_each(|run| key.extend_from_slice(run));
    }
    key
}

fn split(key: &[u8]) -> Option<By<'_>> {
    let (hour, rest) = key.split_first_chunk::<4>()?;
    let mut parts = rest.split(|b| *b == 0).map(|part| std::str::from_utf8(part).unwrap_or(""));
    let by = By {
        hour: Hour(u32::from_be_bytes(*hour)),
        team: parts.next()?,
        key: parts.next()?,
        model: parts.next()?,
        target: parts.next()?,
    };
    Some(by)
}

fn covered_bytes(covered: &BTreeMap<Hour, u64>) -> Vec<u8> {
    covered.iter().flat_map(|(hour, to)| hour.0.to_be_bytes().into_iter().chain(to.to_be_bytes())).collect()
}

fn covered(bytes: &[u8]) -> BTreeMap<Hour, u64> {
    let pair = |b: &[u8]| {
        let (hour, to) = b.split_first_chunk::<4>()?;
        Some((Hour(u32::from_be_bytes(*hour)), u64::from_be_bytes(to.try_into().ok()?)))
    };
    bytes.chunks_exact(12).filter_map(pair).collect()
}

/// Before every hour.
const COVERED: &[u8] = b"\0\0\0\0";
/// Hours in memory: a stream may have begun long ago.
const KEPT: u32 = 48;
/// Rows an hour.
const MOST_ROWS: usize = 20_000;
const OTHER: &str = "(other)";
const PAGE: usize = 1_000;
