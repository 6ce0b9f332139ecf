//! Answers that are given again: the same request of the same tenant under the same policy gets the answer that is there, and
//! such requests that come at the same time fly once. Keeps whole answers that ended well and nothing else, in memory and behind
//! it; what is kept says nothing to another tenant. Decides nothing about targets and sends nothing: the stage `builtin/cache`
//! asks it, and the gateway tells it how a flight ended.

mod behind;
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

use bytes::Bytes;
use zeroize::Zeroizing;

use self::{behind::Behind, shelf::Shelf};
pub use self::{
    flight::{Flight, Follower, Heard},
    key::{Key, Whose},
    shelf::{Given, Kept},
    stage::{CacheStage, own},
};
use crate::{
    clock, config,
    error::{Error, Result},
    store::Store,
    telemetry::metrics,
};

/// All that is kept, of every tenant, and what flies.
#[derive(Default)]
pub struct Cache {
    shelf: Shelf,
    /// What lies behind memory, once there is a stage that asks.
    behind: OnceLock<Arc<Behind>>,
    ground: OnceLock<Ground>,
    flights: Mutex<HashMap<Key, Arc<Flight>, foldhash::fast::RandomState>>,
    /// How often something was taken away: what was asked before that is not kept after it.
    flushed: AtomicU64,
    /// Requests are real: they may fly for one another, and are counted. In a rehearsal each stands alone.
    live: bool,
}

/// What answers lie on that outlive the process.
struct Ground {
    store: Arc<dyn Store>,
    secret: Zeroizing<[u8; 32]>,
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
    /// The same of what lies behind memory; `None`: nobody knows.
    mark: Option<u64>,
    /// Others may follow.
    shared: bool,
}

/// An answer that was just kept.
pub struct Landed {
    cache: Arc<Cache>,
    key: Key,
    kept: Arc<Kept>,
    mark: Option<u64>,
}

impl Cache {
    pub fn live() -> Cache {
        Cache { live: true, ..Cache::default() }
    }

    /// Answers may outlive the process from now on. `secret`: derived from the root key for this purpose alone.
    pub fn stand_on(&self, store: Arc<dyn Store>, secret: Zeroizing<[u8; 32]>) {
        let _ = self.ground.set(Ground { store, secret });
    }

    /// The configuration was read, or read anew. What lies behind memory is opened when the first stage asks for it; what cannot
    /// be opened is done without.
    pub async fn configure(self: &Arc<Self>, config: &config::Cache) {
        self.shelf.set_bound(config.memory);
        if let Some(behind) = self.behind.get() {
            return behind.configure(config);
        }
        let asked_for = config.listed || config.persist == config::Persist::Memory;
        let Some(Ground { store, secret }) = self.ground.get().filter(|_| asked_for) else { return };
        match Behind::open(config, &**store, secret).await {
            Ok(None) => {}
            Ok(Some(behind)) => {
                let behind = Arc::new(behind);
                behind.watch(Arc::downgrade(self));
                let _ = self.behind.set(behind);
            }
            Err(error) => tracing::warn!(%error, "kept answers lie in memory alone, and end with the process"),
        }
    }

    /// The answer to that, if it is younger than `most`; nobody gets one that is older than `ttl`.
    pub fn look(&self, key: &Key, most: Duration, ttl: Duration) -> Option<Arc<Kept>> {
        self.shelf.look(key, (most, ttl), clock::now())
    }

    /// The same of what lies behind memory, for who only looks.
    pub async fn peek(&self, key: &Key, most: Duration, ttl: Duration) -> Option<Arc<Kept>> {
        let kept = self.behind.get()?.look(key, ttl).await.kept?;
        (kept.age(clock::now()) < most).then(|| Arc::new(kept))
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
        Leading { cache: self.clone(), flight, flushed, mark: None, shared: false }
    }

    /// May requests fly for one another, and are they counted?
    pub fn is_live(&self) -> bool {
        self.live
    }

    /// Removes the answers of one tenant, or of all: how many, where most of them lay. Who asks from now on flies anew. An error:
    /// some may still lie behind memory.
    pub async fn flush(&self, whose: Option<&Whose>) -> Result<u64> {
        let gone = self.forget_all(whose);
        match self.behind.get() {
            Some(behind) => Ok(behind.flush(whose).await?.max(gone)),
            None => Ok(gone),
        }
    }

    /// The same in memory.
    fn forget_all(&self, whose: Option<&Whose>) -> u64 {
        // What is in the air was asked before: those who follow it hear it, nobody else does, and it is not kept.
        {
            let mut flights = self.flights();
            flights.retain(|key, _| whose.is_some_and(|whose| key.whose != *whose));
            self.flushed.fetch_add(1, Ordering::Relaxed);
        }
        let gone = self.shelf.flush(whose);
        if self.live {
            metrics().cache_memory().holds(self.shelf.bytes());
        }
        gone
    }

    /// What was kept so far outlives the process, unless that takes too long.
    pub async fn sync(&self) {
        if let Some(behind) = self.behind.get() {
            behind.sync().await;
        }
    }

    /// Answers and their bytes in memory.
    pub fn holds(&self) -> (usize, u64) {
        (self.shelf.count(), self.shelf.bytes())
    }

    /// As if nothing had been.
    pub fn clear(&self) {
        self.forget_all(None);
    }

    /// Not if something was taken away since `flushed` was read.
    fn put(&self, key: &Key, kept: &Arc<Kept>, flushed: u64) -> bool {
        // The lock is that of who takes away.
        let flights = self.flights();
        if flushed != self.flushed.load(Ordering::Relaxed) {
            return false;
        }
        let room = self.shelf.put(key.clone(), kept.clone());
        drop(flights);
        if self.live {
            let memory = metrics().cache_memory();
            memory.evicted(room.evicted);
            memory.holds(room.bytes);
        }
        true
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

    /// Looks behind memory, before it flies. `takes`: an answer that is younger than `most` will do, and is in memory from then on;
    /// those that follow have it, too.
    pub async fn search(&mut self, takes: bool, most: Duration, ttl: Duration) -> Option<Arc<Kept>> {
        let behind = self.cache.behind.get()?;
        let sought = behind.look(&self.flight.key, ttl).await;
        self.mark = sought.mark;
        let kept = Arc::new(sought.kept.filter(|kept| takes && kept.age(clock::now()) < most)?);
        if !self.cache.put(&self.flight.key, &kept, self.flushed) {
            return None;
        }
        self.flight.give(&kept);
        Some(kept)
    }

    /// Its answer is about to be delivered, whole and well: it is kept if it may be. `target`: who gave it. `bytes`: of an answer
    /// that no stage looks into.
    pub fn landed(self, target: &Arc<str>, bytes: Option<&Bytes>) -> Option<Landed> {
        let (given, size) = match bytes {
            Some(bytes) if bytes.len() > self.flight.most() => return None,
            // A copy: they may hold a share of the memory for bodies.
            Some(bytes) => (Given::Vectors(Bytes::copy_from_slice(bytes)), weight::of_bytes(bytes)),
            None => {
                let response = self.flight.keepable()?;
                let size = weight::weight(&response);
                (Given::Said(response), size)
            }
        };
        let (target, born) = (target.clone(), clock::now());
        let kept = Arc::new(Kept { given, target, born, earlier: Duration::ZERO, cost: OnceLock::new(), size });
        // Before it is forgotten, so that nobody finds neither.
        if !self.cache.put(&self.flight.key, &kept, self.flushed) {
            return None;
        }
        if self.cache.live {
            metrics().cache_memory().stored();
        }
        Some(Landed { cache: self.cache.clone(), key: self.flight.key.clone(), kept, mark: self.mark })
    }

    /// It failed. `error`: what its followers are told; `None`: nothing that concerns them.
    pub fn failed(self, error: Option<Error>) {
        self.cache.forget(&self.flight);
        self.flight.fail(error);
    }
}

impl Landed {
    /// Its request is settled, and what it cost is known, if anybody can: now it goes behind memory. Never waits.
    pub fn settled(self, cost: Option<i64>) {
        let Landed { cache, key, kept, mark } = self;
        let _ = kept.cost.set(cost);
        if let (Some(behind), Some(mark)) = (cache.behind.get(), mark) {
            behind.keep(key, kept, mark);
        }
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
