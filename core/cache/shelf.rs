//! Answers in memory: a map in a few parts, bounded in bytes together, in which what was asked for since the hand came by last
//! stays (CLOCK). Pure: the time is the caller's.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;

use super::key::{Key, Whose};
use crate::model::Response;

/// An answer that is kept.
#[derive(Debug)]
pub struct Kept {
    pub given: Given,
    /// `provider/model` that gave it.
    pub target: Arc<str>,
    /// When it was given, or came here.
    pub born: Instant,
    /// How old it was when it came here.
    pub earlier: Duration,
    /// What it cost, known once its request is settled; `None`: nobody knows.
    pub cost: OnceLock<Option<i64>>,
    /// Bytes that it takes, about.
    pub size: usize,
}

/// What it says.
#[derive(Debug, Clone)]
pub enum Given {
    Said(Arc<Response>),
    /// Vectors, which no stage looks into: the caller's bytes.
    Vectors(Bytes),
}

impl Kept {
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.born).saturating_add(self.earlier)
    }

    /// What a hit saves.
    pub fn worth(&self) -> Option<i64> {
        self.cost.get().copied().flatten()
    }
}

/// What had to go, and what lies here now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Room {
    pub evicted: u64,
    pub bytes: u64,
}

pub struct Shelf {
    parts: [Mutex<Part>; PARTS],
    bytes: AtomicU64,
    /// The most of them.
    bound: AtomicU64,
}

#[derive(Default)]
struct Part {
    places: HashMap<Key, usize, foldhash::fast::RandomState>,
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    hand: usize,
}

struct Slot {
    key: Key,
    kept: Arc<Kept>,
    asked: bool,
}

impl Default for Shelf {
    fn default() -> Self {
        Shelf { parts: Default::default(), bytes: AtomicU64::new(0), bound: AtomicU64::new(BOUND) }
    }
}

impl Shelf {
    /// Room is made with the next answer.
    pub fn set_bound(&self, bytes: u64) {
        self.bound.store(bytes, Ordering::Relaxed);
    }

    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The answer, unless it is older than `most`. One that is older than `ttl` goes.
    pub fn look(&self, key: &Key, (most, ttl): (Duration, Duration), now: Instant) -> Option<Arc<Kept>> {
        let mut part = self.part(key);
        let at = *part.places.get(key)?;
        let slot = part.slots.get_mut(at)?.as_mut()?;
        let age = slot.kept.age(now);
        if age >= most.min(ttl) && age < ttl {
            return None;
        }
        if age >= ttl {
            let size = part.take(at);
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            return None;
        }
        slot.asked = true;
        Some(slot.kept.clone())
    }

    /// In place of one that is there already.
    pub fn put(&self, key: Key, kept: Arc<Kept>) -> Room {
        let size = kept.size as u64;
        let bound = self.bound.load(Ordering::Relaxed);
        let first = place_of(&key);
        if size > bound {
            return Room { evicted: 0, bytes: self.bytes() };
        }
        {
            let mut part = self.part(&key);
            let old = part.places.get(&key).copied();
            let freed = old.map_or(0, |at| part.take(at));
            // Added before the rest goes: two that are put at the same time see each other.
            self.bytes.fetch_sub(freed, Ordering::Relaxed);
            self.bytes.fetch_add(size, Ordering::Relaxed);
            part.put(Slot { key, kept, asked: false });
        }
        // One from each part in turn; the one that grew gives way last, because its newest was just asked for.
        let (mut evicted, mut turn, mut empty) = (0, first + 1, 0);
        while self.bytes() > bound && empty < PARTS {
            match lock(&self.parts[turn % PARTS]).evict() {
                Some(size) => {
                    self.bytes.fetch_sub(size, Ordering::Relaxed);
                    (evicted, empty) = (evicted + 1, 0);
                }
                None => empty += 1,
            }
            turn += 1;
        }
        Room { evicted, bytes: self.bytes() }
    }

    /// All of one tenant, or of all; how many there were.
    pub fn flush(&self, whose: Option<&Whose>) -> u64 {
        let mut gone = 0;
        for part in &self.parts {
            let mut part = lock(part);
            let mine = |key: &Key| whose.is_none_or(|whose| key.whose == *whose);
            let places: Vec<usize> = part.places.iter().filter(|(key, _)| mine(key)).map(|(_, at)| *at).collect();
            for at in places {
                self.bytes.fetch_sub(part.take(at), Ordering::Relaxed);
                gone += 1;
            }
        }
        gone
    }

    pub fn count(&self) -> usize {
        self.parts.iter().map(|part| lock(part).places.len()).sum()
    }

    fn part(&self, key: &Key) -> MutexGuard<'_, Part> {
        lock(&self.parts[place_of(key)])
    }
}

impl Part {
    fn put(&mut self, slot: Slot) {
        let key = slot.key.clone();
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at] = Some(slot);
                at
            }
            None => {
                self.slots.push(Some(slot));
                self.slots.len() - 1
            }
        };
        self.places.insert(key, at);
    }

    /// Bytes that it gives back.
    fn take(&mut self, at: usize) -> u64 {
        let Some(slot) = self.slots.get_mut(at).and_then(Option::take) else { return 0 };
        self.places.remove(&slot.key);
        self.free.push(at);
        slot.kept.size as u64
    }

    /// The hand goes on to the first that nobody asked for since it came by; `None`: there is none at all.
    fn evict(&mut self) -> Option<u64> {
        if self.places.is_empty() {
            return None;
        }
        loop {
            let at = self.hand % self.slots.len();
            self.hand = at + 1;
            match &mut self.slots[at] {
                Some(slot) if slot.asked => slot.asked = false,
                Some(_) => return Some(self.take(at)),
                None => {}
            }
        }
    }
}

fn place_of(key: &Key) -> usize {
    usize::from(key.digest[31]) % PARTS
}

fn lock(part: &Mutex<Part>) -> MutexGuard<'_, Part> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

const PARTS: usize = 8;
/// Until a configuration says otherwise.
const BOUND: u64 = 64 << 20;
