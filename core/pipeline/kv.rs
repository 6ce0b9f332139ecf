//! A stage's `kv`: a small memory per stage and tenant on this node, for hints and not for limits. It lives as long as
//! the process; it is bounded, so neither a script nor a plugin can eat the memory with it.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use dashmap::DashMap;
use serde_json::Value;

#[derive(Default)]
pub struct Kv {
    spaces: DashMap<String, Arc<Mutex<Space>>>,
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
}

#[derive(Clone)]
struct Entry {
    value: Value,
    until: Option<Instant>,
    mark: u64,
}

impl Kv {
    /// A memory that begins as `under` stands and never changes it.
    pub fn over(under: &Arc<Kv>) -> Kv {
        Kv { spaces: DashMap::new(), under: Some(under.clone()) }
    }

    fn copy(&self, key: &str) -> Option<Arc<Mutex<Space>>> {
        let space = self.spaces.get(key)?.clone();
        let copy = space.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(Arc::new(Mutex::new(copy)))
    }

    /// Forgets everything: for rehearsals, which begin empty.
    pub fn clear(&self) {
        self.spaces.clear();
    }

    /// Runs `f` on the space of a stage and tenant.
    pub fn space<T>(&self, stage: &str, tenant: &str, f: impl FnOnce(&mut Space) -> T) -> T {
        let key = format!("{stage}\0{tenant}");
        if !self.spaces.contains_key(&key) && self.spaces.len() >= MAX_SPACES {
            let victim = self.spaces.iter().next().map(|s| s.key().clone());
            victim.map(|v| self.spaces.remove(&v));
        }
        let begun = || self.under.as_ref().and_then(|under| under.copy(&key)).unwrap_or_default();
        let space = self.spaces.entry(key.clone()).or_insert_with(begun).clone();
        f(&mut space.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Space {
    pub fn get(&mut self, key: &str, now: Instant) -> Option<&Value> {
        if self.entries.get(key).is_some_and(|e| e.until.is_some_and(|t| t <= now)) {
            self.entries.remove(key);
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
        self.written += 1;
        self.order.push_back((self.written, key.to_owned()));
        let until = ttl.and_then(|t| now.checked_add(t));
        self.entries.insert(key.to_owned(), Entry { value, until, mark: self.written });
        self.shrink();
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
        }
        Ok(new)
    }

    pub fn remove(&mut self, key: &str) {
        self.entries.remove(key);
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The oldest writes make room.
    fn shrink(&mut self) {
        while self.entries.len() > MAX_ENTRIES || self.order.len() > 4 * MAX_ENTRIES {
            let Some((mark, key)) = self.order.pop_front() else { break };
            if self.entries.get(&key).is_some_and(|e| e.mark == mark) {
                self.entries.remove(&key);
            }
        }
    }
}

pub const MAX_ENTRIES: usize = 10_000;
const MAX_KEY: usize = 256;
const MAX_VALUE: usize = 4096;
const MAX_SPACES: usize = 1_000;
