//! Answers that are given again: the same request of the same tenant under the same policy gets the answer that is there, and
//! such requests that come at the same time fly once. Keeps whole answers that ended well and nothing else; what is kept says
//! nothing to another tenant. Decides nothing about targets and sends nothing: the stage `builtin/cache` asks it, and the
//! gateway tells it how a flight ended.

mod flight;
mod key;
mod shelf;
mod stage;
mod weight;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use self::shelf::Shelf;
pub use self::{
    flight::{Flight, Follower, Heard},
    key::{Key, Whose},
    shelf::Kept,
    stage::{CacheStage, own},
};
use crate::{clock, config, error::Error, telemetry::metrics};

/// All that is kept, of every tenant, and what flies.
#[derive(Default)]
pub struct Cache {
    shelf: Shelf,
    flights: Mutex<HashMap<Key, Arc<Flight>, foldhash::fast::RandomState>>,
    /// How often something was taken away: what was asked before that is not kept after it.
    flushed: AtomicU64,
    /// Requests are real: they may fly for one another, and are counted. In a rehearsal each stands alone.
    live: bool,
}

/// Who asked for what nobody has yet.
pub enum Boarding {
    /// It flies, for itself and for those that come.
    Lead(Leading),
    Follow(Follower),
}

/// The right to end a flight. Dropped without a word, the flight has failed.
pub struct Leading {
    cache: Arc<Cache>,
    flight: Arc<Flight>,
    flushed: u64,
    /// Others may follow.
    shared: bool,
}

impl Cache {
    pub fn live() -> Cache {
        Cache { live: true, ..Cache::default() }
    }

    /// The configuration was read anew.
    pub fn configure(&self, bounds: &config::Cache) {
        self.shelf.set_bound(bounds.memory);
    }

    /// The answer to that, if it is younger than `most`; nobody gets one that is older than `ttl`.
    pub fn look(&self, key: &Key, most: Duration, ttl: Duration) -> Option<Arc<Kept>> {
        self.shelf.look(key, (most, ttl), clock::now())
    }

    /// A flight of its own where none is under way.
    pub fn board(self: &Arc<Self>, key: &Key, most: usize) -> Boarding {
        let mut flights = self.flights();
        if let Some(follower) = flights.get(key).and_then(Flight::join) {
            return Boarding::Follow(follower);
        }
        let mut leading = self.alone(key, most);
        leading.shared = true;
        flights.insert(key.clone(), leading.flight.clone());
        Boarding::Lead(leading)
    }

    /// A flight that nobody joins.
    pub fn alone(self: &Arc<Self>, key: &Key, most: usize) -> Leading {
        let (flight, flushed) = (Flight::new(key.clone(), most), self.flushed.load(Ordering::Relaxed));
        Leading { cache: self.clone(), flight, flushed, shared: false }
    }

    /// May requests fly for one another, and are they counted?
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Removes the answers of one tenant, or of all: how many. Who asks from now on flies anew.
    pub fn flush(&self, whose: Option<&Whose>) -> u64 {
        // What is in the air was asked before: those who follow it hear it, nobody else does, and it is not kept.
        {
            let mut flights = self.flights();
            flights.retain(|key, _| whose.is_some_and(|whose| key.whose != *whose));
            self.flushed.fetch_add(1, Ordering::Relaxed);
        }
        let gone = self.shelf.flush(whose);
        if self.live {
            metrics().cache_holds(self.shelf.bytes());
        }
        gone
    }

    /// Answers and their bytes in memory.
    pub fn holds(&self) -> (usize, u64) {
        (self.shelf.count(), self.shelf.bytes())
    }

    /// As if nothing had been.
    pub fn clear(&self) {
        self.flush(None);
    }

    fn forget(&self, flight: &Arc<Flight>) {
        let mut flights = self.flights();
        if flights.get(&flight.key).is_some_and(|known| Arc::ptr_eq(known, flight)) {
            flights.remove(&flight.key);
        }
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Arc<Flight>, foldhash::fast::RandomState>> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leading {
    pub fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// May others wait for it? Else it needs no task of its own.
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Its answer is about to be delivered, whole and well: it is kept if it may be. `target`: who gave it.
    pub fn landed(self, target: &Arc<str>) -> Option<Arc<Kept>> {
        let response = self.flight.keepable()?;
        let size = weight::weight(&response);
        let kept = Arc::new(Kept { response, target: target.clone(), born: clock::now(), cost: OnceLock::new(), size });
        // Before it is forgotten, so that nobody finds neither; and not at all if it was flushed meanwhile.
        let flights = self.cache.flights();
        if self.flushed != self.cache.flushed.load(Ordering::Relaxed) {
            return None;
        }
        let room = self.cache.shelf.put(self.flight.key.clone(), kept.clone());
        drop(flights);
        if self.cache.live {
            metrics().cache_kept(room.evicted, room.bytes);
        }
        Some(kept)
    }

    /// It failed. `error`: what its followers are told; `None`: nothing that concerns them.
    pub fn failed(self, error: Option<Error>) {
        self.cache.forget(&self.flight);
        self.flight.fail(error);
    }
}

impl fmt::Debug for Leading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Leading")
    }
}

impl Drop for Leading {
    fn drop(&mut self) {
        self.cache.forget(&self.flight);
        self.flight.fail(None);
    }
}
