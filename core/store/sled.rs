//! sled 0.34 behind the contract: opened on a thread of its own under a watchdog (damaged files can hang or panic),
//! read on blocking threads, written by one writer. The only file besides `commit.rs` that knows sled; the rules are the
//! last section of the project's promises.

use std::{
    fs::File,
    ops::Bound,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use super::{
    Directory, Op, Result, Row, Store, StoreError, Table, check,
    commit::{self, Job, Writer},
};

pub(super) struct Sled {
    directory: Directory,
    /// Empty once closed.
    db: ArcSwapOption<::sled::Db>,
    jobs: mpsc::Sender<Job>,
}

impl Sled {
    pub async fn open(path: &Path) -> Result<Sled> {
        Sled::open_within(path, LOCK_WAIT, WATCHDOG).await
    }

    pub async fn open_within(path: &Path, lock_wait: Duration, watchdog: Duration) -> Result<Sled> {
        let (send, opened) = oneshot::channel();
        let owned = path.to_owned();
        // Not `spawn_blocking`: a thread that hangs in there would keep the runtime from ever ending.
        let thread = std::thread::Builder::new().name("store-open".into()).spawn(move || {
            let _ = send.send(open_here(&owned, lock_wait));
        });
        thread.map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        match tokio::time::timeout(watchdog, opened).await {
            Ok(Ok(result)) => result,
            Ok(Err(_panicked)) => {
                Err(StoreError::Damaged { path: path.to_owned(), reason: "its files could not be read".into() })
            }
            Err(_elapsed) => Err(StoreError::Stuck { path: path.to_owned(), seconds: watchdog.as_secs() }),
        }
    }

    /// Runs `work` on a blocking thread.
    async fn on<T: Send + 'static>(
        &self,
        work: impl FnOnce(&::sled::Db) -> Result<T, ::sled::Error> + Send + 'static,
    ) -> Result<T> {
        let db = self.db.load_full().ok_or(StoreError::Closed)?;
        match tokio::task::spawn_blocking(move || work(&db)).await {
            Ok(result) => result.map_err(|e| commit::failure(&self.directory, e)),
            Err(_panicked) => Err(self.directory.damaged("a read failed")),
        }
    }

    async fn send(&self, batch: Vec<Op>, durable: bool) -> Result<()> {
        check(&batch)?;
        let (done, answer) = oneshot::channel();
        self.jobs.send(Job::Write { batch, durable, done }).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }
}

impl Store for Sled {
    fn read(&self, table: Table, key: &[u8]) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        let key = table.key(key);
        Box::pin(self.on(move |db| Ok(db.get(key)?.map(|value| value.to_vec()))))
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> BoxFuture<'_, Result<Vec<Row>>> {
        let prefix = table.key(prefix);
        let after = after.map(|key| table.key(key)).filter(|key| *key >= prefix);
        let from = after.map_or_else(|| Bound::Included(prefix.clone()), Bound::Excluded);
        Box::pin(self.on(move |db| {
            let mut rows = Vec::new();
            for row in db.range::<Vec<u8>, _>((from, Bound::Unbounded)).take(limit) {
                let (key, value) = row?;
                if !key.starts_with(&prefix) {
                    break;
                }
                rows.push((key[1..].to_vec(), value.to_vec()));
            }
            Ok(rows)
        }))
    }

    fn write(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.send(batch, true))
    }

    fn write_soft(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.send(batch, false))
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let Some(db) = self.db.swap(None) else { return Ok(()) };
            drop(db);
            let (done, answer) = oneshot::channel();
            self.jobs.send(Job::Close { done }).await.map_err(|_| StoreError::Closed)?;
            answer.await.map_err(|_| StoreError::Closed)?
        })
    }

    fn directory(&self) -> Option<&Directory> {
        Some(&self.directory)
    }
}

/// Everything that blocks, hangs or panics.
fn open_here(path: &Path, lock_wait: Duration) -> Result<Sled> {
    let directory = Directory::open(path)?;
    let noted = directory.commits()?;
    if noted.is_some_and(|n| n > 0) && !directory.sled().join("db").exists() {
        return Err(directory.damaged("the folder sled is missing or empty"));
    }
    let db = open_db(&directory, lock_wait)?;
    let commits = commit::commits(&db, &directory)?;
    // sled takes a damaged end of its log for the end: what was acknowledged must be there, or nothing starts.
    if let Some(noted) = noted.filter(|n| *n > commits) {
        return Err(directory.damaged(format!("{} acknowledged writes are missing", noted - commits)));
    }
    let file = File::open(directory.sled().join("db")).map_err(|e| directory.io(e))?;
    let commits_file = directory.commits_file()?;
    directory.sync()?;

    let (jobs, queue) = mpsc::channel(QUEUE);
    let writer = Writer { db: db.clone(), file, directory: directory.clone(), commits, commits_file };
    let thread = std::thread::Builder::new().name("store-write".into()).spawn(move || writer.run(queue));
    thread.map_err(|e| directory.io(e))?;
    Ok(Sled { directory, db: ArcSwapOption::new(Some(Arc::new(db))), jobs })
}

/// A killed process's lock can outlive it by a moment.
fn open_db(directory: &Directory, lock_wait: Duration) -> Result<::sled::Db> {
    let deadline = Instant::now() + lock_wait;
    loop {
        let opened = ::sled::Config::new().path(directory.sled()).cache_capacity(CACHE).open();
        match opened.map_err(|e| commit::failure(directory, e)) {
            Err(StoreError::Locked { .. }) if Instant::now() < deadline => std::thread::park_timeout(LOCK_RETRY),
            result => return result,
        }
    }
}

const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_RETRY: Duration = Duration::from_millis(50);
/// Above it the operator should look, not wait.
const WATCHDOG: Duration = Duration::from_secs(30);
const CACHE: u64 = 64 << 20;
/// Batches waiting for the writer; more wait in their callers.
const QUEUE: usize = 256;
