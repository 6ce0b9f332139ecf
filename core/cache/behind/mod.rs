//! What lies behind memory: answers in files of this gateway, or in a Redis that several share. Asked only when memory has none, and
//! never longer than a moment: what does not answer in time is a miss. Answers go there behind their requests, through a queue that
//! is bounded; what finds no room in it is dropped and counted. Sealed, and under names that tell nobody whose they are.

mod files;
mod pack;
mod shared;

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use self::{files::Files, shared::Shared};
use super::{Cache, Kept, Key, Whose};
use crate::{
    clock,
    config::{self, Persist},
    error::{Error, Kind, Result},
    lanes::Content,
    seal::{AtRest, Name, Thing},
    store::{Store, StoreError, hex},
    telemetry::metrics::{self, CacheTier},
};

/// Where answers lie behind memory.
pub struct Behind {
    tier: Arc<dyn Tier>,
    rest: Arc<AtRest>,
    jobs: mpsc::Sender<Job>,
    waiting: Arc<AtomicUsize>,
    /// In milliseconds.
    ttl: Arc<AtomicU64>,
    counts: Arc<CacheTier>,
}

/// One such place.
trait Tier: Send + Sync {
    /// What lies under that name, and the mark of this moment; within `PATIENCE`.
    fn look<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Look>;

    /// Unless something was taken away since `mark`.
    fn keep(&self, name: Name, content: Content, keep: Duration, mark: u64) -> BoxFuture<'_, Put>;

    /// What lies under that name is of no use.
    fn forget(&self, name: Name) -> BoxFuture<'_, ()>;

    /// Takes away what is of one tenant, or all: how many there were. Nobody is given any of it from the first moment on.
    fn flush(&self, whose: Option<Tag>) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Was something taken away by another gateway since this was asked last?
    fn flushed_elsewhere(&self) -> BoxFuture<'_, bool>;

    /// What was kept so far would outlive the process.
    fn sync(&self) -> BoxFuture<'_, ()>;

    fn configure(&self, config: &config::Cache);

    /// Do others write here?
    fn is_shared(&self) -> bool;
}

struct Look {
    /// `None`: nobody knows, and what comes of the request is not kept here.
    mark: Option<u64>,
    found: Found,
}

enum Found {
    Content(Content),
    Nothing,
    /// It lay there for its time.
    Expired,
    /// It lies there and is of no use.
    Damaged,
    /// Nobody answered in time, or said that it cannot.
    Failed,
}

enum Put {
    Kept,
    /// Something was taken away meanwhile.
    Emptied,
    NoRoom,
    Failed,
}

enum Job {
    Keep { name: Name, key: Key, kept: Arc<Kept>, mark: u64 },
    Sync(oneshot::Sender<()>),
}

/// What looking came to.
pub struct Sought {
    pub mark: Option<u64>,
    pub kept: Option<Kept>,
}

/// The first bytes of every name of a tenant. Two tenants may share them by chance.
type Tag = [u8; 4];

impl Behind {
    /// `secret`: derived from the root key for this purpose alone. `None`: memory is all there is.
    pub async fn open(
        config: &config::Cache,
        store: &dyn Store,
        secret: &[u8; 32],
    ) -> Result<Option<Behind>, StoreError> {
        let sealing = |error: Error| StoreError::Io { path: "the cache".into(), source: std::io::Error::other(error) };
        let rest = Arc::new(AtRest::new(secret).map_err(sealing)?);
        if let Some(directory) = store.directory().cloned().filter(|_| config.persist != Persist::Files) {
            tokio::task::spawn_blocking(move || Files::leave(&directory)).await.unwrap_or(Err(StoreError::Closed))?;
        }
        let (tier, counts): (Arc<dyn Tier>, _) = match config.persist {
            Persist::Memory => return Ok(None),
            Persist::Files => {
                let Some(directory) = store.directory().cloned() else { return Ok(None) };
                let counts = metrics::metrics().cache_tier("files");
                (Arc::new(Files::open(directory, rest.clone(), config, counts.clone()).await?), counts)
            }
            Persist::Redis => {
                let Some(values) = store.volatile().await? else { return Ok(None) };
                let counts = metrics::metrics().cache_tier("redis");
                (Arc::new(Shared::new(values, rest.clone(), config, counts.clone())), counts)
            }
        };
        // From here on it is noticed.
        tier.flushed_elsewhere().await;
        Ok(Some(Behind::of(tier, rest, config, counts)))
    }

    fn of(tier: Arc<dyn Tier>, rest: Arc<AtRest>, config: &config::Cache, counts: Arc<CacheTier>) -> Behind {
        let (jobs, todo) = mpsc::channel(MOST_JOBS);
        let (waiting, ttl) = (Arc::<AtomicUsize>::default(), Arc::<AtomicU64>::default());
        tokio::spawn(write(tier.clone(), todo, waiting.clone(), ttl.clone(), counts.clone()));
        let behind = Behind { tier, rest, jobs, waiting, ttl, counts };
        behind.configure(config);
        behind
    }

    pub fn configure(&self, config: &config::Cache) {
        self.ttl.store(u64::try_from(config.ttl.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.tier.configure(config);
    }

    /// The answer that lies there, unless it is as old as `ttl`.
    pub async fn look(&self, key: &Key, ttl: Duration) -> Sought {
        let name = self.name(key);
        let Look { mark, found } = self.tier.look(&name).await;
        let content = match found {
            Found::Content(content) => content,
            Found::Nothing => return self.missed(mark, "miss"),
            Found::Expired => return self.missed(mark, "expired"),
            Found::Damaged => return self.missed(mark, "damaged"),
            Found::Failed => return self.missed(mark, "failed"),
        };
        let kept = match pack::unpack(key, &content, clock::wall()) {
            Some(kept) if kept.age(clock::now()) < ttl => kept,
            useless => {
                let tier = self.tier.clone();
                tokio::spawn(async move { tier.forget(name).await });
                return self.missed(mark, if useless.is_some() { "expired" } else { "damaged" });
            }
        };
        self.counts.read("hit");
        Sought { mark, kept: Some(kept) }
    }

    /// Hands it over. Never waits.
    pub fn keep(&self, key: Key, kept: Arc<Kept>, mark: u64) {
        let (size, name) = (kept.size, self.name(&key));
        let before = self.waiting.fetch_add(size, Ordering::Relaxed);
        if before.saturating_add(size) <= MOST_WAITING
            && self.jobs.try_send(Job::Keep { name, key, kept, mark }).is_ok()
        {
            return;
        }
        self.waiting.fetch_sub(size, Ordering::Relaxed);
        self.counts.dropped("queue");
    }

    pub async fn flush(&self, whose: Option<&Whose>) -> Result<u64> {
        self.tier.flush(whose.map(|whose| self.tag(whose))).await.map_err(|error| {
            let text = "kept answers could not all be removed from behind memory: ask again";
            Error::new(Kind::Internal, text).with_code("store_failed").because(error)
        })
    }

    /// All that was handed over so far is there, unless that takes too long.
    pub async fn sync(&self) {
        let (done, synced) = oneshot::channel();
        let all = async {
            if self.jobs.send(Job::Sync(done)).await.is_ok() {
                let _ = synced.await;
            }
        };
        let _ = tokio::time::timeout(LAST, all).await;
    }

    /// What another gateway took away is not in this one's memory a second later.
    pub(super) fn watch(self: &Arc<Self>, cache: Weak<Cache>) {
        if !self.tier.is_shared() {
            return;
        }
        let tier = self.tier.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let flushed = tier.flushed_elsewhere().await;
                let Some(cache) = cache.upgrade() else { return };
                if flushed {
                    cache.forget_all(None);
                }
            }
        });
    }

    fn missed(&self, mark: Option<u64>, how: &'static str) -> Sought {
        self.counts.read(how);
        Sought { mark, kept: None }
    }

    fn name(&self, key: &Key) -> Name {
        let mut name = self.rest.name(Thing::Response, key.whose.tenant(), &hex::encode(&key.digest));
        name[..4].copy_from_slice(&self.tag(&key.whose));
        name
    }

    /// No digest is empty, so this is nobody's name.
    fn tag(&self, whose: &Whose) -> Tag {
        let [a, b, c, d, ..] = self.rest.name(Thing::Response, whose.tenant(), "");
        [a, b, c, d]
    }
}

/// One after the other, until nobody hands over any more.
async fn write(
    tier: Arc<dyn Tier>,
    mut jobs: mpsc::Receiver<Job>,
    waiting: Arc<AtomicUsize>,
    ttl: Arc<AtomicU64>,
    counts: Arc<CacheTier>,
) {
    while let Some(job) = jobs.recv().await {
        let (name, key, kept, mark) = match job {
            Job::Keep { name, key, kept, mark } => (name, key, kept, mark),
            Job::Sync(done) => {
                tier.sync().await;
                let _ = done.send(());
                continue;
            }
        };
        let size = kept.size;
        let keep = Duration::from_millis(ttl.load(Ordering::Relaxed)).saturating_sub(kept.age(clock::now()));
        // A long answer takes its time.
        let packing = tokio::task::spawn_blocking(move || pack::pack(&key, &kept, clock::wall()));
        let put = match packing.await {
            Ok(Ok(content)) => tier.keep(name, content, keep, mark).await,
            Ok(Err(_)) | Err(_) => Put::Failed,
        };
        waiting.fetch_sub(size, Ordering::Relaxed);
        match put {
            Put::Kept => {}
            Put::Emptied => counts.dropped("emptied"),
            Put::NoRoom => counts.dropped("room"),
            Put::Failed => counts.dropped("failed"),
        }
    }
}

/// At most so long does a request wait for what lies behind memory.
const PATIENCE: Duration = Duration::from_millis(250);
/// Answers that wait to be written, and their bytes.
const MOST_JOBS: usize = 1024;
const MOST_WAITING: usize = 64 << 20;
/// For what others took away.
const LOOK: Duration = Duration::from_secs(1);
/// At the end of the process.
const LAST: Duration = Duration::from_secs(10);
/// An administrator waits so long.
const ANSWER: Duration = Duration::from_secs(30);
