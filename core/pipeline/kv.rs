//! A stage's `kv`: a small memory per stage and tenant on this node, for hints and not for limits. Entries and bytes are
//! bounded, by tenant and by stage, so neither a script nor a plugin can eat the memory with it. What is over a bound makes
//! room: the oldest first, and of a stage's tenants the one that holds most. Small values outlive the process: what changed
//! is noted here, and `hints` writes it some time later. No request waits for that.

mod kept;

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use dashmap::DashMap;
use serde_json::Value;

pub use self::kept::Change;
use super::effects;

#[derive(Default)]
pub struct Kv {
    spaces: DashMap<String, Arc<Mutex<Space>>>,
    /// Bytes of all spaces of a stage.
    held: DashMap<String, AtomicUsize>,
    /// Somebody writes down what changes.
    lasts: bool,
    /// Written down, of spaces that made room: to be taken out there too.
    orphans: Mutex<Vec<Change>>,
    /// Where a rehearsal finds what it has not written itself.
    under: Option<Arc<Kv>>,
}

/// One stage's entries for one tenant.
#[derive(Default, Clone)]
pub struct Space {
    entries: HashMap<String, Entry>,
    /// Keys by age; may name keys that are gone.
    order: VecDeque<(u64, String)>,
    written: u64,
    /// Of keys and values.
    bytes: usize,
    /// Entries that made room since somebody asked.
    dropped: u64,
    /// It was taken out and counts no more.
    gone: bool,
    /// What is to be written down; `None`: nobody does.
    changed: Option<HashSet<String>>,
    /// Bytes that are written down.
    written_down: usize,
}

#[derive(Clone)]
struct Entry {
    value: Value,
    until: Option<Instant>,
    mark: u64,
    bytes: usize,
    /// It is written down, or will be.
    lasts: bool,
}

impl Kv {
    /// Whose changes somebody writes down.
    pub fn lasting() -> Kv {
        Kv { lasts: true, ..Kv::default() }
    }

    /// A memory that begins as `under` stands and never changes it.
    pub fn over(under: &Arc<Kv>) -> Kv {
        Kv { under: Some(under.clone()), ..Kv::default() }
    }

    fn begun(&self, stage: &str, key: &str) -> Arc<Mutex<Space>> {
        let Some(under) = self.under.as_ref().and_then(|under| under.spaces.get(key).map(|space| space.clone())) else {
            let changed = self.lasts.then(HashSet::new);
            return Arc::new(Mutex::new(Space { changed, ..Space::default() }));
        };
        let copy = Space { changed: None, ..locked(&under).clone() };
        self.count(stage, 0, copy.bytes);
        Arc::new(Mutex::new(copy))
    }

    /// Forgets everything: for rehearsals, which begin empty.
    pub fn clear(&self) {
        self.spaces.clear();
        self.held.clear();
    }

    /// Runs `f` on the space of a stage and tenant.
    pub fn space<T>(&self, stage: &str, tenant: &str, f: impl FnOnce(&mut Space) -> T) -> T {
        let key = format!("{stage}\0{tenant}");
        if !self.spaces.contains_key(&key) && self.spaces.len() >= MAX_SPACES {
            self.forget_one();
        }
        let begun = || self.begun(stage, &key);
        let space = self.spaces.entry(key.clone()).or_insert_with(begun).clone();
        let mut space = locked(&space);
        let before = space.bytes;
        let outcome = f(&mut space);
        let dropped = std::mem::take(&mut space.dropped);
        // Counted under the space's lock: what is taken out was put in before.
        let full = space.bytes != before && !space.gone && self.count(stage, before, space.bytes) > MAX_OF_STAGE;
        drop(space);
        if full {
            self.make_room(stage);
        }
        if dropped > 0 {
            effects::left_out(stage, "kv", dropped, FULL);
        }
        outcome
    }

    /// Gives the stage's bytes as they are now.
    fn count(&self, stage: &str, before: usize, after: usize) -> usize {
        if !self.held.contains_key(stage) {
            self.held.entry(stage.to_owned()).or_default();
        }
        let Some(held) = self.held.get(stage) else { return 0 };
        match after.checked_sub(before) {
            Some(more) => held.fetch_add(more, Ordering::Relaxed) + more,
            None => held.fetch_sub(before - after, Ordering::Relaxed) - (before - after),
        }
    }

    /// Halves the largest spaces of a stage until an eighth of its bytes is free.
    fn make_room(&self, stage: &str) {
        let own = |key: &str| key.strip_prefix(stage).is_some_and(|rest| rest.starts_with('\0'));
        let spaces: Vec<_> = self.spaces.iter().filter(|s| own(s.key())).map(|s| s.value().clone()).collect();
        let mut by_size: Vec<_> = spaces.iter().map(|space| (locked(space).bytes, space)).collect();
        by_size.sort_by_key(|(bytes, _)| Reverse(*bytes));
        let mut dropped = 0;
        for (_, space) in by_size {
            let mut space = locked(space);
            let before = space.bytes;
            space.keep(before / 2);
            dropped += std::mem::take(&mut space.dropped);
            if !space.gone && self.count(stage, before, space.bytes) <= MAX_OF_STAGE / 8 * 7 {
                break;
            }
        }
        effects::left_out(stage, "kv", dropped, FULL);
    }

    /// Any: which one holds what somebody will ask for, nobody knows.
    fn forget_one(&self) {
        let Some(key) = self.spaces.iter().next().map(|space| space.key().clone()) else { return };
        let Some((_, space)) = self.spaces.remove(&key) else { return };
        let mut space = locked(&space);
        space.gone = true;
        self.orphan(&key, &space);
        self.count(key.split('\0').next().unwrap_or_default(), space.bytes, 0);
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self, stage: &str) -> usize {
        self.held.get(stage).map_or(0, |held| held.load(Ordering::Relaxed))
    }
}

fn locked(space: &Mutex<Space>) -> MutexGuard<'_, Space> {
    space.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Space {
    pub fn get(&mut self, key: &str, now: Instant) -> Option<&Value> {
        if self.entries.get(key).is_some_and(|e| e.until.is_some_and(|t| t <= now)) {
            self.remove(key);
        }
        self.entries.get(key).map(|e| &e.value)
    }

    /// `Err`: the key or value is too large.
    pub fn set(&mut self, key: &str, value: Value, ttl: Option<Duration>, now: Instant) -> Result<(), String> {
        if key.len() > MAX_KEY {
            return Err(format!("a kv key may have {MAX_KEY} bytes"));
        }
        let size = value.to_string().len();
        if size > MAX_VALUE {
            return Err(format!("a kv value may have {MAX_VALUE} bytes as JSON, this one has {size}"));
        }
        self.remove(key);
        self.written += 1;
        self.order.push_back((self.written, key.to_owned()));
        let until = ttl.and_then(|t| now.checked_add(t));
        // The key stands in the table, and in the order of age up to twice.
        let bytes = 3 * key.len() + size + OVERHEAD;
        self.bytes += bytes;
        let lasts = self.lasts(key, size);
        self.entries.insert(key.to_owned(), Entry { value, until, mark: self.written, bytes, lasts });
        self.keep(MAX_BYTES);
        Ok(())
    }

    /// Adds to a whole number; an absent one counts as 0 and gets the `ttl`.
    pub fn incr(&mut self, key: &str, by: i64, ttl: Option<Duration>, now: Instant) -> Result<i64, String> {
        let old = match self.get(key, now) {
            None => {
                self.set(key, Value::from(by), ttl, now)?;
                return Ok(by);
            }
            Some(value) => value.as_i64().ok_or("incr needs a whole number under that key")?,
        };
        let new = old.saturating_add(by);
        if let Some(entry) = self.entries.get_mut(key) {
            entry.value = Value::from(new);
            if entry.lasts {
                self.note(key);
            }
        }
        Ok(new)
    }

    pub fn remove(&mut self, key: &str) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.bytes;
            if entry.lasts {
                self.written_down = self.written_down.saturating_sub(entry.bytes);
                self.note(key);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The oldest writes make room.
    fn keep(&mut self, bytes: usize) {
        while self.entries.len() > MAX_ENTRIES || self.bytes > bytes {
            let Some((mark, key)) = self.order.pop_front() else { break };
            if self.entries.get(&key).is_some_and(|e| e.mark == mark) {
                self.remove(&key);
                self.dropped += 1;
            }
        }
        if self.order.len() > 2 * self.entries.len() + SLACK {
            let entries = &self.entries;
            self.order.retain(|(mark, key)| entries.get(key).is_some_and(|e| e.mark == *mark));
        }
    }
}

pub const MAX_ENTRIES: usize = 10_000;
const MAX_KEY: usize = 256;
const MAX_VALUE: usize = 4096;
const MAX_SPACES: usize = 1_000;
/// Of one tenant, and of all tenants of a stage.
pub const MAX_BYTES: usize = 8 << 20;
pub const MAX_OF_STAGE: usize = 64 << 20;
/// What the tables take for an entry, about.
const OVERHEAD: usize = 128;
/// Keys that are gone, in the order of age of a small space.
const SLACK: usize = 64;
const FULL: &str = "its kv is full: the oldest entries make room";

#[cfg(test)]
mod tests;
