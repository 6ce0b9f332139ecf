//! What the writer, the reader and the callers of one sled store share: the open tree while there is one, what failed, and
//! the rows whose last acknowledged values are no longer what sled's memory holds. Reads run on one thread of their own,
//! because a damaged file can hang or panic in them, and a runtime's blocking thread that hangs would never let it end.

use std::{
    ops::Bound,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use tokio::sync::oneshot;

use super::{Directory, Result, Row, StoreError, Table, commit::failure, tally::Changes};

pub(super) struct Shared {
    pub directory: Directory,
    /// Empty once closed, and for the moment in which the store is opened again.
    pub db: ArcSwapOption<::sled::Db>,
    pub closed: AtomicBool,
    /// Why changes are refused.
    pub failed: ArcSwapOption<StoreError>,
    /// Of batches that failed at their barrier: what the rows held before. sled cannot take them back until it is opened
    /// again; readers must not take them for kept.
    pub undone: RwLock<Changes>,
}

/// A read, on the reader's thread.
pub(super) type Look = Box<dyn FnOnce(&Shared) + Send>;

/// Hands `work` to the reader.
pub(super) async fn look<T: Send + 'static>(
    shared: &Shared,
    reader: &mpsc::Sender<Look>,
    work: impl FnOnce(&::sled::Db, &Changes) -> Result<T, ::sled::Error> + Send + 'static,
) -> Result<T> {
    if shared.closed.load(Ordering::Acquire) {
        return Err(StoreError::Closed);
    }
    let (done, answer) = oneshot::channel();
    let look: Look = Box::new(move |shared| {
        let result = shared.open().and_then(|db| {
            let undone = shared.undone.read().unwrap_or_else(PoisonError::into_inner);
            work(&db, &undone).map_err(|e| failure(&shared.directory, e))
        });
        let _ = done.send(result);
    });
    reader.send(look).map_err(|_| StoreError::Closed)?;
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(result)) => result,
        Ok(Err(_panicked)) => Err(shared.directory.damaged("a read failed")),
        Err(_elapsed) => Err(shared.directory.stuck(ANSWER)),
    }
}

/// The reader: one look after the other until every sender is gone. A panic in sled costs that look.
pub(super) fn read(shared: &Shared, looks: &mpsc::Receiver<Look>) {
    while let Ok(look) = looks.recv() {
        let _ = catch_unwind(AssertUnwindSafe(|| look(shared)));
    }
}

impl Shared {
    /// The open tree, waiting out the moment in which it is opened again.
    fn open(&self) -> Result<Arc<::sled::Db>> {
        let deadline = Instant::now() + REOPENING;
        loop {
            if self.closed.load(Ordering::Acquire) {
                return Err(StoreError::Closed);
            }
            if let Some(db) = self.db.load_full() {
                return Ok(db);
            }
            if Instant::now() > deadline {
                let failed = self.failed.load_full();
                return Err(failed.map_or(StoreError::Closed, |e| e.again(&self.directory)));
            }
            std::thread::park_timeout(MOMENT);
        }
    }
}

pub(super) fn get(db: &::sled::Db, undone: &Changes, key: &[u8]) -> Result<Option<Vec<u8>>, ::sled::Error> {
    match undone.get(key) {
        Some(before) => Ok(before.clone()),
        None => Ok(db.get(key)?.map(|value| value.to_vec())),
    }
}

/// See `Store::scan`.
pub(super) fn scan(
    db: &::sled::Db,
    undone: &Changes,
    table: Table,
    prefix: &[u8],
    after: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Row>, ::sled::Error> {
    let prefix = table.key(prefix);
    let after = after.map(|key| table.key(key)).filter(|key| *key >= prefix);
    let from = after.map_or_else(|| Bound::Included(prefix.clone()), Bound::Excluded);
    let range = (from, Bound::Unbounded);
    // Each undone row can take one away from the page.
    let wanted = limit.saturating_add(undone.len());
    let mut rows = Vec::new();
    let mut more = false;
    for row in db.range::<Vec<u8>, _>(range.clone()) {
        let (key, value) = row?;
        if !key.starts_with(&prefix) {
            break;
        }
        if rows.len() == wanted {
            more = true;
            break;
        }
        rows.push((key.to_vec(), value.to_vec()));
    }
    if !undone.is_empty() {
        let end = rows.last().filter(|_| more).map(|(key, _)| key.clone());
        rows.retain(|(key, _)| !undone.contains_key(key));
        let back = undone.range(range).take_while(|(key, _)| key.starts_with(&prefix));
        let back = back.filter(|(key, _)| end.as_ref().is_none_or(|end| *key <= end));
        rows.extend(back.filter_map(|(key, value)| Some((key.clone(), value.clone()?))));
        rows.sort();
    }
    rows.truncate(limit);
    Ok(rows.into_iter().map(|(mut key, value)| (key.split_off(1), value)).collect())
}

/// Longer than any disk should take; above it a caller is told instead of left waiting.
pub(super) const ANSWER: Duration = Duration::from_secs(60);
const REOPENING: Duration = Duration::from_secs(5);
const MOMENT: Duration = Duration::from_millis(20);
