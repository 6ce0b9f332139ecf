//! Kept answers in files of the data directory, for this gateway alone: sealed records in lanes, by tenant. Where each one stands
//! is known in memory, by heads that are read at the start.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::timeout;

use super::{ANSWER, Found, Look, PATIENCE, Put, Tag, Tier};
use crate::{
    config,
    lanes::{self, Bounds, Content, Lanes, Place},
    seal::{AtRest, Name},
    store::{Directory, StoreError},
    telemetry::metrics::CacheTier,
};

pub struct Files {
    lanes: Lanes,
    index: Arc<Mutex<Index>>,
    /// A disk that did not answer in time is not asked until then, in seconds since 1970.
    rests: AtomicU64,
}

struct Index {
    bounds: Bounds,
    places: HashMap<Name, Place>,
    /// On their way to the disk, each with the number that it was put down under.
    pending: HashMap<Name, u64>,
    serial: u64,
    /// How often something was taken away.
    mark: u64,
    bytes: u64,
    counts: Arc<CacheTier>,
}

impl Files {
    pub async fn open(
        directory: Directory,
        rest: Arc<AtRest>,
        config: &config::Cache,
        counts: Arc<CacheTier>,
    ) -> Result<Files, StoreError> {
        let index = Arc::new(Mutex::new(Index {
            bounds: Bounds { keep: config.ttl, max_size: config.max_size },
            places: HashMap::new(),
            pending: HashMap::new(),
            serial: 0,
            mark: 0,
            bytes: 0,
            counts,
        }));
        let known = index.clone();
        let open = move || Lanes::open(directory.files(FOLDER)?, FOLDER, rest, known, lanes::now);
        let lanes = tokio::task::spawn_blocking(open).await.unwrap_or(Err(StoreError::Closed))?;
        let files = Files { lanes, index, rests: AtomicU64::new(0) };
        files.lock().told();
        Ok(files)
    }

    /// Answers are to lie elsewhere now: what an earlier configuration kept here goes.
    pub fn leave(directory: &Directory) -> Result<(), StoreError> {
        if !directory.path().join(FOLDER).is_dir() {
            return Ok(());
        }
        let folder = directory.files(FOLDER)?;
        let ours = |name: &String| name.bytes().all(|byte| byte.is_ascii_digit());
        folder.names()?.iter().filter(|name| ours(name)).try_for_each(|name| folder.remove(name))
    }

    async fn read(&self, name: &Name) -> Look {
        let (mark, place) = {
            let mut index = self.lock();
            let place = index.places.get(name).copied();
            if place.is_some_and(|place| place.expires <= lanes::now()) {
                // Its bytes go with their file.
                index.take(name);
                return Look { mark: Some(index.mark), found: Found::Expired };
            }
            (Some(index.mark), place)
        };
        let Some(place) = place else { return Look { mark, found: Found::Nothing } };
        if lanes::now() < self.rests.load(Ordering::Relaxed) {
            return Look { mark, found: Found::Failed };
        }
        let found = match timeout(PATIENCE, self.lanes.read(*name, place)).await {
            Ok(Ok(Some(content))) => Found::Content(content),
            Ok(Ok(None)) => {
                self.remove(name, Some(place));
                Found::Damaged
            }
            Ok(Err(_)) => Found::Failed,
            Err(_) => {
                self.rests.store(lanes::now().saturating_add(REST), Ordering::Relaxed);
                Found::Failed
            }
        };
        Look { mark, found }
    }

    async fn write(&self, name: Name, content: Content, keep: Duration, mark: u64) -> Put {
        let written = {
            let mut index = self.lock();
            if index.mark != mark {
                return Put::Emptied;
            }
            // What would push out most others is not kept.
            if content.size() as u64 > index.bounds.max_size / 4 || !self.lanes.takes(content.size()) {
                return Put::NoRoom;
            }
            let replaces = index.take(&name);
            index.serial += 1;
            let serial = index.serial;
            index.pending.insert(name, serial);
            let [a, b, c, d, ..] = name;
            let lane = u32::from_le_bytes([a, b, c, d]);
            let expires = lanes::now().saturating_add(lanes::seconds(keep));
            // Under the lock: what is put first is written first.
            self.lanes.put(lanes::Put { lane, name, serial, expires, content, replaces })
        };
        // What the disk did not take was told to the index.
        let _ = written.await;
        Put::Kept
    }

    /// `only`: if it still stands there.
    fn remove(&self, name: &Name, only: Option<Place>) {
        let gone = {
            let mut index = self.lock();
            let stands = index.places.get(name).copied();
            if only.is_some() && only != stands {
                return;
            }
            index.take(name)
        };
        // Nobody waits for it: it is known nowhere any more.
        drop(self.lanes.erase(gone.into_iter().collect()));
    }

    async fn empty(&self, whose: Option<Tag>) -> Result<u64, StoreError> {
        let (count, erased) = {
            let mut index = self.lock();
            let (count, gone) = index.empty(whose);
            let erased = match whose {
                Some(_) => self.lanes.erase(gone),
                None => self.lanes.clear(),
            };
            (count, erased)
        };
        match timeout(ANSWER, erased).await {
            Ok(Ok(done)) => done.map(|()| count),
            Ok(Err(_)) => Err(StoreError::Closed),
            Err(_) => {
                let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
                Err(StoreError::Io { path: FOLDER.into(), source })
            }
        }
    }

    /// Nothing that is done under the lock can leave it half done.
    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tier for Files {
    fn look<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Look> {
        Box::pin(self.read(name))
    }

    fn keep(&self, name: Name, content: Content, keep: Duration, mark: u64) -> BoxFuture<'_, Put> {
        Box::pin(self.write(name, content, keep, mark))
    }

    fn forget(&self, name: Name) -> BoxFuture<'_, ()> {
        self.remove(&name, None);
        Box::pin(std::future::ready(()))
    }

    fn flush(&self, whose: Option<Tag>) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(self.empty(whose))
    }

    fn flushed_elsewhere(&self) -> BoxFuture<'_, bool> {
        Box::pin(std::future::ready(false))
    }

    fn sync(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let _ = self.lanes.sync().await;
        })
    }

    fn configure(&self, config: &config::Cache) {
        self.lock().bounds = Bounds { keep: config.ttl, max_size: config.max_size };
    }

    fn is_shared(&self) -> bool {
        false
    }
}

impl Index {
    fn insert(&mut self, name: Name, place: Place) -> Option<Place> {
        let old = self.places.insert(name, place);
        self.bytes = (self.bytes + place.size()).saturating_sub(old.map_or(0, |old| old.size()));
        self.told();
        old
    }

    fn take(&mut self, name: &Name) -> Option<Place> {
        self.pending.remove(name);
        let gone = self.places.remove(name);
        self.bytes = self.bytes.saturating_sub(gone.map_or(0, |gone| gone.size()));
        self.told();
        gone
    }

    /// How many there were, and where they stand.
    fn empty(&mut self, whose: Option<Tag>) -> (u64, Vec<Place>) {
        self.mark += 1;
        let mine = |name: &Name| whose.is_none_or(|tag| name.starts_with(&tag));
        let mut names: Vec<Name> = self.places.keys().chain(self.pending.keys()).copied().filter(mine).collect();
        names.sort_unstable();
        names.dedup();
        let gone = names.iter().filter_map(|name| self.take(name)).collect();
        (names.len() as u64, gone)
    }

    fn told(&self) {
        self.counts.holds(self.bytes);
    }
}

impl lanes::Index for Index {
    fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn found(&mut self, name: Name, place: Place) -> Option<Place> {
        self.insert(name, place)
    }

    fn written(&mut self, name: Name, serial: u64, place: Place) -> bool {
        let mine = self.pending.get(&name) == Some(&serial);
        if mine {
            self.pending.remove(&name);
            self.insert(name, place);
            self.counts.stored();
        }
        mine
    }

    fn unwritten(&mut self, name: &Name, serial: u64) {
        if self.pending.get(name) == Some(&serial) {
            self.pending.remove(name);
        }
    }

    fn segment_gone(&mut self, segment: u32, names: &[Name]) {
        let now = lanes::now();
        for name in names {
            let stood = self.places.get(name).copied().filter(|place| place.segment == segment);
            if let Some(place) = stood {
                // One that is put down anew meanwhile stays on its way.
                self.places.remove(name);
                self.bytes = self.bytes.saturating_sub(place.size());
                if place.expires > now {
                    self.counts.evicted(1);
                }
            }
        }
        self.told();
    }

    fn sweep(&mut self, _now: u64) {}

    fn unwritable(&self) {
        self.counts.dropped("failed");
    }

    fn damaged(&self) {
        self.counts.read("damaged");
    }
}

/// Below the data directory.
const FOLDER: &str = "cache";
/// Seconds.
const REST: u64 = 3;
