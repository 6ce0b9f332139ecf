//! The history of the policy: each set of configuration, scripts and plugins that went live, or was tried, is a version with
//! a number, a hash, a time and, when known, an author. Rows are small and lie in the store; what a version was made of lies
//! beside it, by content (`shelf`). Knows no runtime: what runs is `rollout`'s.
//!
//! The list is answered from memory. A store that takes no changes does not hold a version up: what could not be written is
//! tried again with the next change.

mod diff;
mod keep;
mod row;
mod shelf;
mod summary;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

pub use diff::{compare, show};
pub use row::{By, Cause, Pin, Row, State, id, now};

use self::shelf::Shelf;
use crate::{
    config::Content,
    error::{Error, Kind, Result},
    store::{self, Op, Store, StoreError, Table},
};

pub struct Versions {
    store: Arc<dyn Store>,
    shelf: Shelf,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    rows: BTreeMap<u64, Row>,
    pin: Option<Pin>,
    /// Rows, and the pin, that the store does not have as they are here.
    unsaved: BTreeSet<u64>,
    pin_unsaved: bool,
    /// The highest number that was ever given.
    taken: u64,
}

impl Versions {
    pub async fn open(store: Arc<dyn Store>) -> store::Result<Versions> {
        let mut known = Known::default();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = store.scan(Table::Versions, ROW, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in &page {
                let number = key.get(ROW.len()..).and_then(|number| number.try_into().ok()).map(u64::from_be_bytes);
                known.taken = known.taken.max(number.unwrap_or(0));
                // One that a later gateway wrote otherwise is left as it is.
                if let Ok(row) = serde_json::from_slice::<Row>(value) {
                    known.rows.insert(row.number, row);
                }
            }
        }
        let pin = store.read(Table::Versions, PIN).await?;
        known.pin = pin.and_then(|value| serde_json::from_slice(&value).ok());
        // A history is no reason not to start.
        let shelf = Shelf::open(store.directory()).unwrap_or_else(|error| {
            tracing::error!(%error, "what versions are made of is kept in memory only");
            Shelf::default()
        });
        Ok(Versions { store, shelf, known: Mutex::new(known) })
    }

    /// A new version. Its files are kept first: a row never names what is not there. Called by one at a time.
    pub async fn add(&self, content: &Content, by: By, state: State) -> Row {
        let kept = self.shelf.put(content);
        if let Err(error) = &kept {
            tracing::error!(%error, "what this version is made of could not be kept: it can run, and cannot be returned to");
        }
        let kept = kept.ok();
        let mut row = self.fresh(by, state);
        row.hash = content.hash();
        row.files = content.files.len() as u64;
        row.bytes = content.files.values().map(|bytes| bytes.len() as u64).sum();
        row.manifest = kept.as_ref().map(|kept| kept.manifest.clone());
        row.blobs = kept.map(|kept| kept.blobs).unwrap_or_default();
        self.insert(row).await
    }

    /// The same files once more, under a new number.
    pub async fn again(&self, of: &Row, by: By, state: State) -> Row {
        let mut row = self.fresh(by, state);
        row.of = Some(of.number);
        row.hash = of.hash.clone();
        (row.files, row.bytes) = (of.files, of.bytes);
        (row.manifest, row.blobs) = (of.manifest.clone(), of.blobs.clone());
        self.insert(row).await
    }

    /// Changes one row.
    pub async fn change(&self, number: u64, change: impl FnOnce(&mut Row)) {
        {
            let mut known = self.lock();
            let Some(row) = known.rows.get_mut(&number) else { return };
            change(row);
            known.unsaved.insert(number);
        }
        self.save().await;
    }

    /// From now on this one answers requests; the one before it does not.
    pub async fn went_live(&self, number: u64) {
        {
            let mut known = self.lock();
            let former: Vec<u64> = known
                .rows
                .values()
                .filter(|r| r.state == State::Live && r.number != number)
                .map(|r| r.number)
                .collect();
            for row in &former {
                if let Some(row) = known.rows.get_mut(row) {
                    row.state = State::Former;
                    row.ended = Some(now(SystemTime::now()));
                }
            }
            if let Some(row) = known.rows.get_mut(&number) {
                row.state = State::Live;
                row.live = Some(now(SystemTime::now()));
                row.was = former.last().copied().or(row.was);
            }
            known.unsaved.extend(former.into_iter().chain([number]));
        }
        self.save().await;
    }

    pub async fn set_pin(&self, pin: Option<Pin>) {
        {
            let mut known = self.lock();
            if known.pin == pin {
                return;
            }
            known.pin = pin;
            known.pin_unsaved = true;
        }
        self.save().await;
    }

    pub fn pin(&self) -> Option<Pin> {
        self.lock().pin.clone()
    }

    /// Is everything in the store that should be?
    pub fn saved(&self) -> bool {
        let known = self.lock();
        known.unsaved.is_empty() && !known.pin_unsaved
    }

    /// Tries again what the store did not take.
    pub async fn save(&self) -> bool {
        let (batch, numbers) = {
            let known = self.lock();
            let row = |number: &u64| match known.rows.get(number) {
                Some(row) => Op::put(Table::Versions, key(*number), serde_json::to_vec(row).unwrap_or_default()),
                None => Op::remove(Table::Versions, key(*number)),
            };
            let mut batch: Vec<Op> = known.unsaved.iter().map(row).collect();
            if known.pin_unsaved {
                batch.push(match &known.pin {
                    Some(pin) => Op::put(Table::Versions, PIN, serde_json::to_vec(pin).unwrap_or_default()),
                    None => Op::remove(Table::Versions, PIN),
                });
            }
            (batch, known.unsaved.clone())
        };
        if batch.is_empty() {
            return true;
        }
        match self.store.write(batch).await {
            Ok(()) => {
                let mut known = self.lock();
                known.unsaved.retain(|number| !numbers.contains(number));
                known.pin_unsaved = false;
                true
            }
            Err(StoreError::Closed) => false,
            Err(error) => {
                tracing::error!(%error, "the history of versions could not be written; it is tried again");
                false
            }
        }
    }

    /// Newest first, those before `before`.
    pub fn page(&self, before: Option<u64>, limit: usize) -> Vec<Row> {
        let known = self.lock();
        known.rows.range(..before.unwrap_or(u64::MAX)).rev().take(limit).map(|(_, row)| row.clone()).collect()
    }

    pub fn row(&self, number: u64) -> Option<Row> {
        self.lock().rows.get(&number).cloned()
    }

    pub fn last(&self) -> Option<Row> {
        self.lock().rows.values().next_back().cloned()
    }

    /// The one that runs, or ran last.
    pub fn live(&self) -> Option<Row> {
        self.lock().rows.values().rfind(|row| row.state == State::Live).cloned()
    }

    /// By number (`v12`, `12`) or by hash, or a beginning of it: the newest one.
    pub fn find(&self, text: &str) -> Result<Row> {
        let number = text.strip_prefix('v').unwrap_or(text).parse::<u64>().ok();
        let known = self.lock();
        if let Some(row) = number.and_then(|number| known.rows.get(&number)) {
            return Ok(row.clone());
        }
        let hash = text.len() >= LEAST_HASH && text.bytes().all(|b| b.is_ascii_hexdigit());
        let found = known.rows.values().rev().find(|row| hash && row.hash.starts_with(text));
        found.cloned().ok_or_else(|| {
            Error::new(Kind::NotFound, "there is no such version, or no more; GET /api/v1/versions lists them")
                .with_code("version_not_found")
        })
    }

    /// What a version was made of. Reads files: not for a thread that serves.
    pub fn content(&self, row: &Row) -> Result<Content> {
        let gone = |why: String| {
            let message = format!("the files of {} are not kept here: {why}", id(row.number));
            Error::new(Kind::NotFound, message).with_code("version_not_kept").with_status(409)
        };
        let Some(manifest) = &row.manifest else {
            return Err(gone("they could not be written when it went live".to_owned()));
        };
        let content = self.shelf.get(manifest).map_err(gone)?;
        if content.hash() != row.hash {
            return Err(gone("they are damaged".to_owned()));
        }
        Ok(content)
    }

    pub fn is_kept(&self, row: &Row) -> bool {
        row.manifest.as_ref().is_some_and(|manifest| self.shelf.has(manifest))
    }

    fn fresh(&self, by: By, state: State) -> Row {
        let mut known = self.lock();
        known.taken += 1;
        let was = known.rows.values().rfind(|row| row.state == State::Live).map(|row| row.number);
        Row::new(known.taken, by, state, was)
    }

    async fn insert(&self, row: Row) -> Row {
        {
            let mut known = self.lock();
            known.unsaved.insert(row.number);
            known.rows.insert(row.number, row.clone());
            let gone = keep::surplus(&known.rows, known.pin.as_ref(), &|blob| self.shelf.size(blob), self.shelf.most());
            for number in gone {
                known.rows.remove(&number);
                known.unsaved.insert(number);
            }
        }
        // First the rows, then what they named.
        if self.save().await {
            let used = keep::used(&self.lock().rows);
            self.shelf.retain(&used);
        }
        row
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(number: u64) -> Vec<u8> {
    [ROW, &number.to_be_bytes()].concat()
}

const ROW: &[u8] = b"v/";
const PIN: &[u8] = b"pin";
const PAGE: usize = 500;
/// Characters of a hash that stand for it.
const LEAST_HASH: usize = 6;

#[cfg(test)]
mod tests;
