//! The one writer: takes batches in order, applies what has queued up as one group, and acknowledges each only after the
//! durable barrier. sled's own `flush` is `sync_file_range` on Linux, which is no barrier: the file is synced through a
//! handle of our own after it, and so are sled's files for large values, which it never syncs.
//!
//! sled refuses everything after its first failed write until it is opened again, and a page that it was splitting then
//! cannot be read either. So the writer refuses changes before the disk is full, and takes them again once there is room.
//! When somebody else was quicker in filling it, the store is then opened anew, and what was not acknowledged is taken back.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::{Arc, PoisonError, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::{
    Directory, Exported, Op, Result, StoreError,
    blobs::Blobs,
    exports::Exports,
    open::{self, Limits},
    shared::Shared,
    tally::{self, Changes, Tally},
};

/// What the writer is asked for.
pub(super) enum Job {
    Write(Write),
    Export { to: Option<PathBuf>, done: oneshot::Sender<Result<Exported>> },
    Close { done: oneshot::Sender<Result<()>> },
}

pub(super) struct Write {
    /// Rows as they must be, or nothing is written.
    pub expected: Vec<Op>,
    pub batch: Vec<Op>,
    pub durable: bool,
    /// `false`: the rows were not as expected.
    pub done: oneshot::Sender<Result<bool>>,
    /// Bounds the queue.
    pub _seat: OwnedSemaphorePermit,
}

/// The writer, on a thread of its own.
pub(super) struct Writer {
    pub shared: Arc<Shared>,
    /// Empty while the store is opened again.
    pub open: Option<Open>,
    pub tally: Tally,
    /// Batches that were acknowledged: the store may never know of fewer.
    pub acknowledged: u64,
    pub commits_file: File,
    pub exports: Exports,
    pub limits: Limits,
    /// When the store was last opened again, or tried to be.
    pub tried: Option<Instant>,
    /// What sled was given since the last barrier, in bytes.
    pub unsynced: u64,
    /// sled itself failed.
    pub broken: bool,
    /// Held to the end.
    pub lock: File,
}

/// The files.
pub(super) struct Open {
    pub db: Arc<::sled::Db>,
    /// Our own handle to the file that sled writes.
    pub file: File,
    pub blobs: Blobs,
}

impl Writer {
    /// Runs until it is closed or every sender is gone.
    pub fn run(mut self, jobs: mpsc::Receiver<Job>) {
        loop {
            let first = match self.idle_for() {
                None => jobs.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected),
                Some(rest) => jobs.recv_timeout(rest),
            };
            let first = match first {
                Ok(job) => job,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    self.rest();
                    continue;
                }
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            };
            let mut group = Group::default();
            let mut other = self.take(first, &mut group);
            // While a barrier runs others queue up: they share the next one, and nobody waits for company.
            while other.is_none() && group.size < MAX_GROUP {
                let Ok(job) = jobs.try_recv() else { break };
                other = self.take(job, &mut group);
            }
            self.settle(group);
            match other {
                Some(Job::Export { to, done }) => drop(done.send(self.export(to))),
                Some(Job::Close { done }) => {
                    let result = self.close();
                    let _ = done.send(result);
                    return;
                }
                _ => {}
            }
        }
        let _ = self.close();
    }

    /// How long the writer may sleep without being asked: it heals and exports by itself.
    fn idle_for(&self) -> Option<Duration> {
        if self.shared.failed.load().is_some() { Some(HEAL_EVERY) } else { self.exports.due_in() }
    }

    /// Nobody asks for anything.
    fn rest(&mut self) {
        if self.shared.failed.load().is_some() {
            let _ = self.well();
        } else if self.exports.due() {
            let _ = self.export(None);
        }
    }

    /// Applies one write; any other job comes back.
    fn take(&mut self, job: Job, group: &mut Group) -> Option<Job> {
        let Job::Write(write) = job else { return Some(job) };
        group.size += 1;
        let Write { expected, batch, durable, done, _seat } = write;
        if let Err(error) = self.well().and_then(|()| self.spares(&batch)) {
            let _ = done.send(Err(error));
            return None;
        }
        match self.guarded(|writer| writer.apply(&expected, batch, durable, group)) {
            Ok(true) if durable => group.waiting.push(done),
            result => drop(done.send(result)),
        }
        None
    }

    /// Room for a batch, before sled hears of it.
    fn spares(&mut self, batch: &[Op]) -> Result<()> {
        let size = |op: &Op| op.key.len() + op.value.as_ref().map_or(0, Vec::len);
        let bytes = batch.iter().map(size).sum::<usize>() as u64;
        let wanted = self.unsynced.saturating_add(bytes).saturating_mul(PAGES);
        let spared = self.shared.directory.spares(wanted, self.limits.spare);
        match &spared {
            Ok(()) => self.unsynced += bytes,
            Err(error) => self.fail(error),
        }
        spared
    }

    fn apply(&mut self, expected: &[Op], batch: Vec<Op>, durable: bool, group: &mut Group) -> Result<bool> {
        let directory = self.shared.directory.clone();
        let db = self.db()?;
        for row in expected {
            let held = db.get(row.table.key(&row.key)).map_err(|e| failure(&directory, e))?;
            if held.as_deref() != row.value.as_deref() {
                return Ok(false);
            }
        }
        let changes: Changes = batch.into_iter().map(|op| (op.table.key(&op.key), op.value)).collect();
        let keys = self.tally.keys;
        let before = self.write(&changes)?;
        if durable {
            group.remember(before);
        }
        if self.tally.keys != keys {
            self.exports.keys_changed();
        }
        Ok(true)
    }

    /// One batch with its tally. When it fails half-way, its rows' former values are kept for readers.
    fn write(&mut self, changes: &Changes) -> Result<Changes> {
        let directory = self.shared.directory.clone();
        let db = self.db()?;
        let mut before = Changes::new();
        for key in changes.keys() {
            let held = db.get(key).map_err(|e| failure(&directory, e))?;
            before.insert(key.clone(), held.map(|value| value.to_vec()));
        }
        let tally = self.tally.after(changes, &before);
        let mut batch = ::sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        batch.insert(tally::key(), tally.row());
        if let Err(e) = db.apply_batch(batch) {
            let mut undone = self.shared.undone.write().unwrap_or_else(PoisonError::into_inner);
            for (key, value) in before {
                undone.entry(key).or_insert(value);
            }
            return Err(failure(&directory, e));
        }
        self.tally = tally;
        Ok(before)
    }

    fn settle(&mut self, group: Group) {
        if group.waiting.is_empty() {
            return;
        }
        let result = self.guarded(Writer::barrier);
        if result.is_err() {
            // Older than what a batch that failed half-way has put there.
            self.shared.undone.write().unwrap_or_else(PoisonError::into_inner).extend(group.before);
        }
        for done in group.waiting {
            let _ = done.send(match &result {
                Ok(()) => Ok(true),
                Err(e) => Err(e.again(&self.shared.directory)),
            });
        }
    }

    fn barrier(&mut self) -> Result<()> {
        let directory = self.shared.directory.clone();
        let note = self.tally.note();
        let failed = self.shared.failed.load_full().filter(|_| self.broken);
        if let Some(failed) = failed {
            return Err(failed.again(&directory));
        }
        let open = self.open.as_mut().ok_or(StoreError::Closed)?;
        open.db.flush().map_err(|e| failure(&directory, e))?;
        open.blobs.sync().map_err(|e| directory.io(e))?;
        open.file.sync_all().map_err(|e| directory.io(e))?;
        // After the barrier, so that the note is never ahead of the store. Fixed width: overwritten in place.
        self.commits_file.write_all_at(note.as_bytes(), 0).map_err(|e| directory.io(e))?;
        self.acknowledged = self.tally.commits;
        self.unsynced = 0;
        Ok(())
    }

    /// Runs `work`; a failure or a panic in it ends all changes until the store is opened again.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Writer) -> Result<T>) -> Result<T> {
        let result = catch_unwind(AssertUnwindSafe(|| work(self)));
        let result = result.unwrap_or_else(|_| Err(self.shared.directory.damaged("a write failed")));
        if let Err(error) = &result {
            self.broken = true;
            self.fail(error);
        }
        result
    }

    /// No changes from here on.
    fn fail(&self, error: &StoreError) {
        if self.shared.failed.load().is_none() {
            tracing::error!(%error, "the store takes no changes; what is in memory is served on");
            self.shared.failed.store(Some(Arc::new(error.again(&self.shared.directory))));
        }
    }

    /// Fine, or fine again: only a full disk is waited out, everything else needs a look at the machine and a restart.
    fn well(&mut self) -> Result<()> {
        let Some(failed) = self.shared.failed.load_full() else { return Ok(()) };
        let directory = self.shared.directory.clone();
        let early = self.tried.is_some_and(|at| at.elapsed() < HEAL_EVERY);
        if early || !matches!(*failed, StoreError::Full(_)) {
            return Err(failed.again(&directory));
        }
        let healed = catch_unwind(AssertUnwindSafe(|| self.heal()));
        self.tried = Some(Instant::now());
        match healed.unwrap_or_else(|_| Err(directory.damaged("opening it again failed"))) {
            Ok(()) => Ok(()),
            Err(StoreError::Full(_) | StoreError::NoRoom { .. }) => Err(failed.again(&directory)),
            Err(error) => {
                tracing::error!(%error, "the store could not be opened again");
                self.shared.failed.store(Some(Arc::new(error.again(&directory))));
                Err(error)
            }
        }
    }

    /// There must be room; where sled failed, opens the store anew and takes back what was never acknowledged.
    fn heal(&mut self) -> Result<()> {
        let directory = self.shared.directory.clone();
        directory.room()?;
        if self.broken {
            self.reopen(&directory)?;
            self.broken = false;
        }
        self.shared.failed.store(None);
        tracing::info!("there is room again: the store takes changes");
        Ok(())
    }

    fn reopen(&mut self, directory: &Directory) -> Result<()> {
        self.let_go();
        let opened = open::attempt(directory, &directory.sled(), self.limits)?;
        if opened.tally.commits < self.acknowledged {
            return Err(directory
                .damaged(format!("{} acknowledged writes are missing", self.acknowledged - opened.tally.commits)));
        }
        self.tally = opened.tally;
        self.open = Some(Open::new(directory, opened.db)?);
        let undone = self.shared.undone.read().unwrap_or_else(PoisonError::into_inner).clone();
        self.shared.failed.store(None);
        let taken_back = match undone.is_empty() {
            true => self.barrier(),
            false => self.write(&undone).and_then(|_| self.barrier()),
        };
        if let Err(error) = taken_back {
            self.shared.failed.store(Some(Arc::new(error.again(directory))));
            return Err(error);
        }
        self.shared.undone.write().unwrap_or_else(PoisonError::into_inner).clear();
        self.shared.db.store(self.open.as_ref().map(|open| open.db.clone()));
        Ok(())
    }

    /// Drops the files; readers under way are waited for, a moment.
    fn let_go(&mut self) {
        drop(self.open.take());
        if let Some(mut db) = self.shared.db.swap(None) {
            let deadline = Instant::now() + READERS;
            while Instant::now() < deadline {
                match Arc::try_unwrap(db) {
                    Ok(whole) => return drop(whole),
                    Err(held) => db = held,
                }
                std::thread::park_timeout(Duration::from_millis(2));
            }
        }
    }

    fn export(&mut self, to: Option<PathBuf>) -> Result<Exported> {
        let directory = self.shared.directory.clone();
        if let Some(failed) = self.shared.failed.load_full() {
            return Err(failed.again(&directory));
        }
        // An export may never know of more than a kill leaves in the store.
        self.guarded(Writer::barrier)?;
        let db = self.db()?;
        let tally = self.tally;
        let result = catch_unwind(AssertUnwindSafe(|| self.exports.write(&directory, &db, tally, to)));
        let result = result.unwrap_or_else(|_| Err(directory.damaged("reading it for an export failed")));
        if let Err(error) = &result {
            tracing::warn!(%error, "the store could not be exported");
        }
        result
    }

    fn close(&mut self) -> Result<()> {
        // The last chance to take back what was refused: the next process would find it in the log.
        self.tried = None;
        let _ = self.well();
        if self.shared.failed.load().is_none() && self.exports.pending() {
            let _ = self.export(None);
        }
        let result = self.guarded(Writer::barrier);
        self.shared.closed.store(true, std::sync::atomic::Ordering::Release);
        // Dropped before the acknowledgement: who hears it may open the store again.
        let _ = catch_unwind(AssertUnwindSafe(|| self.let_go()));
        let _ = self.lock.unlock();
        result
    }

    fn db(&self) -> Result<Arc<::sled::Db>> {
        self.open.as_ref().map(|open| open.db.clone()).ok_or(StoreError::Closed)
    }
}

impl Open {
    pub fn new(directory: &Directory, db: ::sled::Db) -> Result<Open> {
        let file = File::open(directory.sled().join("db")).map_err(|e| directory.io(e))?;
        Ok(Open { db: Arc::new(db), file, blobs: Blobs::new(directory.sled().join("blobs")) })
    }
}

/// Batches applied but not yet durable.
#[derive(Default)]
struct Group {
    size: usize,
    waiting: Vec<oneshot::Sender<Result<bool>>>,
    /// What their rows held before the first of them.
    before: Changes,
}

impl Group {
    fn remember(&mut self, before: Changes) {
        for (key, value) in before {
            self.before.entry(key).or_insert(value);
        }
    }
}

pub(super) fn failure(directory: &Directory, error: ::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Io(e) if e.to_string().contains("could not acquire lock") => {
            StoreError::Locked { path: directory.path().to_owned() }
        }
        // sled wraps the cause into its own text when it clones an error.
        ::sled::Error::Io(e) if FULL.iter().any(|text| e.to_string().contains(text)) => StoreError::Full(e),
        ::sled::Error::Io(e) => directory.io(e),
        ::sled::Error::Corruption { at, .. } => directory.damaged(format!("corruption at {at:?}")),
        other => directory.damaged(other.to_string()),
    }
}

/// ENOSPC and EDQUOT, as `io::Error` writes them.
const FULL: [&str; 4] = ["os error 28)", "StorageFull", "os error 122)", "QuotaExceeded"];
/// What a row may cost in sled's log, whose pages are written anew as they split.
const PAGES: u64 = 4;
/// Bounds how long the first of a group waits.
const MAX_GROUP: usize = 256;
/// Between two looks at whether a full disk has room again.
const HEAL_EVERY: Duration = Duration::from_secs(1);
const READERS: Duration = Duration::from_secs(5);
