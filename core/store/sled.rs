//! sled 0.34 behind the contract: opened under a watchdog (`recover.rs`, `open.rs`), read on one thread (`shared.rs`),
//! written by one writer (`commit.rs`). No other folder of the gateway knows sled; the rules are the last section of the
//! project's promises.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::AtomicBool, mpsc},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, oneshot};

use super::{
    Directory, Exported, Op, Result, Row, Store, StoreError, Table, check,
    commit::{self, Job, Writer},
    exports::Exports,
    open::Limits,
    recover::{self, Started},
    shared::{self, Look, Shared},
};

pub(super) struct Sled {
    shared: Arc<Shared>,
    jobs: mpsc::Sender<Job>,
    looks: mpsc::Sender<Look>,
    /// Bounds the writer's queue; more wait in their callers.
    seats: Arc<Semaphore>,
    notices: Vec<String>,
}

impl Sled {
    pub async fn open(path: &Path) -> Result<Sled> {
        Sled::open_within(path, LIMITS).await
    }

    pub async fn open_within(path: &Path, limits: Limits) -> Result<Sled> {
        let (send, opened) = oneshot::channel();
        let owned = path.to_owned();
        // Not `spawn_blocking`: a thread that hangs in there would keep the runtime from ever ending.
        let thread = std::thread::Builder::new().name("store-start".into()).spawn(move || {
            let _ = send.send(recover::start(&owned, limits).and_then(|started| run(started, limits)));
        });
        thread.map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
        let stuck = || StoreError::Stuck { path: path.to_owned(), seconds: limits.watchdog.as_secs() };
        // Each look at sled's files has its own watchdog; this one is for the disk itself.
        match tokio::time::timeout(limits.watchdog * ATTEMPTS + limits.lock_wait, opened).await {
            Ok(Ok(result)) => result,
            Ok(Err(_panicked)) => {
                Err(StoreError::Damaged { path: path.to_owned(), reason: "its files could not be read".into() })
            }
            Err(_elapsed) => Err(stuck()),
        }
    }

    async fn send(&self, expected: Vec<Op>, batch: Vec<Op>, durable: bool) -> Result<bool> {
        check(&batch)?;
        let (done, answer) = oneshot::channel();
        let seat = self.seats.clone().acquire_owned().await.map_err(|_| StoreError::Closed)?;
        let write = commit::Write { expected, batch, durable, done, _seat: seat };
        self.ask(Job::Write(write), answer).await
    }

    async fn ask<T>(&self, job: Job, answer: oneshot::Receiver<Result<T>>) -> Result<T> {
        self.jobs.send(job).map_err(|_| StoreError::Closed)?;
        match tokio::time::timeout(shared::ANSWER, answer).await {
            Ok(answer) => answer.map_err(|_| StoreError::Closed)?,
            Err(_elapsed) => Err(self.shared.directory.stuck(shared::ANSWER)),
        }
    }
}

impl Store for Sled {
    fn read(&self, table: Table, key: &[u8]) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        let key = table.key(key);
        Box::pin(shared::look(&self.shared, &self.looks, move |db, undone| shared::get(db, undone, &key)))
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> BoxFuture<'_, Result<Vec<Row>>> {
        let (prefix, after) = (prefix.to_vec(), after.map(<[u8]>::to_vec));
        Box::pin(shared::look(&self.shared, &self.looks, move |db, undone| {
            shared::scan(db, undone, table, &prefix, after.as_deref(), limit)
        }))
    }

    fn write(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.send(Vec::new(), batch, true).await.map(drop) })
    }

    fn write_if(&self, expected: Vec<Op>, batch: Vec<Op>) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.send(expected, batch, true))
    }

    fn write_soft(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.send(Vec::new(), batch, false).await.map(drop) })
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let (done, answer) = oneshot::channel();
            match self.ask(Job::Close { done }, answer).await {
                Err(StoreError::Closed) => Ok(()),
                result => result,
            }
        })
    }

    fn directory(&self) -> Option<&Directory> {
        Some(&self.shared.directory)
    }

    fn export(&self, to: Option<PathBuf>) -> BoxFuture<'_, Result<Exported>> {
        Box::pin(async move {
            let (done, answer) = oneshot::channel();
            self.ask(Job::Export { to, done }, answer).await
        })
    }

    fn trouble(&self) -> Option<&'static str> {
        self.shared.failed.load().as_ref().map(|error| error.trouble())
    }

    fn notices(&self) -> &[String] {
        &self.notices
    }
}

/// Starts the writer and the reader of an open store.
fn run(started: Started, limits: Limits) -> Result<Sled> {
    let Started { directory, opened, lock, notices } = started;
    for notice in &notices {
        tracing::warn!("{notice}");
    }
    let commits_file = directory.commits_file(&opened.tally)?;
    directory.sync()?;
    let open = commit::Open::new(&directory, opened.db)?;
    let shared = Arc::new(Shared {
        directory: directory.clone(),
        db: ArcSwapOption::new(Some(open.db.clone())),
        closed: AtomicBool::new(false),
        failed: ArcSwapOption::empty(),
        undone: Default::default(),
    });
    let writer = Writer {
        shared: shared.clone(),
        open: Some(open),
        tally: opened.tally,
        acknowledged: opened.tally.commits,
        commits_file,
        exports: Exports::new(&directory, opened.tally),
        limits,
        tried: None,
        unsynced: 0,
        broken: false,
        lock,
    };
    let (jobs, queue) = mpsc::channel();
    let (looks, asked) = mpsc::channel();
    let reader = shared.clone();
    let spawn = |name: &str, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new().name(name.into()).spawn(work).map_err(|e| directory.io(e))
    };
    spawn("store-write", Box::new(move || writer.run(queue)))?;
    spawn("store-read", Box::new(move || shared::read(&reader, &asked)))?;
    Ok(Sled { shared, jobs, looks, seats: Arc::new(Semaphore::new(QUEUE)), notices })
}

pub(super) const LIMITS: Limits =
    Limits { lock_wait: Duration::from_secs(5), watchdog: Duration::from_secs(30), spare: SPARE };
/// Below what `Directory::room` asks for, so that a store that is well again stays so.
const SPARE: u64 = 1 << 20;
/// The files as they are, without the snapshot, an export built and opened again.
const ATTEMPTS: u32 = 6;
/// Batches waiting for the writer.
const QUEUE: usize = 256;
