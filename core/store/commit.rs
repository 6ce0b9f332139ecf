//! The one writer: takes batches in order, applies what has queued up as one group, and acknowledges each only after the
//! durable barrier. sled's own `flush` is `sync_file_range` on Linux, which is no barrier: the file is synced through a
//! handle of our own after it.

use std::{fs::File, io, os::unix::fs::FileExt};

use tokio::sync::{mpsc, oneshot};

use super::{Directory, Op, Result, StoreError, Table, tables};

/// What the writer is asked for.
pub(super) enum Job {
    Write { batch: Vec<Op>, durable: bool, done: oneshot::Sender<Result<()>> },
    Close { done: oneshot::Sender<Result<()>> },
}

/// The writer, on a thread of its own.
pub(super) struct Writer {
    pub db: ::sled::Db,
    /// Our own handle to the file that sled writes.
    pub file: File,
    pub directory: Directory,
    /// Acknowledged batches so far: kept in the store and, after the barrier, beside it.
    pub commits: u64,
    pub commits_file: File,
}

impl Writer {
    /// Runs until it is closed or every sender is gone.
    pub fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(first) = jobs.blocking_recv() {
            let mut group = Group::default();
            let mut closing = self.take(first, &mut group);
            // While a barrier runs others queue up: they share the next one, and nobody waits for company.
            while closing.is_none() && group.size < MAX_GROUP {
                let Ok(job) = jobs.try_recv() else { break };
                closing = self.take(job, &mut group);
            }
            self.settle(group);
            if let Some(done) = closing {
                let result = self.barrier();
                // Dropped before the acknowledgement: who hears it may open the store again.
                drop(self);
                let _ = done.send(result);
                return;
            }
        }
        let _ = self.barrier();
    }

    /// Applies one job; a close comes back.
    fn take(&mut self, job: Job, group: &mut Group) -> Option<oneshot::Sender<Result<()>>> {
        let (batch, durable, done) = match job {
            Job::Write { batch, durable, done } => (batch, durable, done),
            Job::Close { done } => return Some(done),
        };
        group.size += 1;
        match self.apply(batch) {
            Ok(()) if durable => group.waiting.push(done),
            result => drop(done.send(result)),
        }
        None
    }

    fn apply(&mut self, batch: Vec<Op>) -> Result<()> {
        let mut changes = ::sled::Batch::default();
        for op in batch {
            let key = op.table.key(&op.key);
            match op.value {
                Some(value) => changes.insert(key, value),
                None => changes.remove(key),
            }
        }
        let commits = self.commits + 1;
        changes.insert(tables::Table::Meta.key(COMMITS), commits.to_string().as_bytes());
        self.db.apply_batch(changes).map_err(|e| failure(&self.directory, e))?;
        self.commits = commits;
        Ok(())
    }

    fn settle(&self, group: Group) {
        if group.waiting.is_empty() {
            return;
        }
        let result = self.barrier();
        for done in group.waiting {
            let _ = done.send(match &result {
                Ok(()) => Ok(()),
                Err(e) => Err(again(e, &self.directory)),
            });
        }
    }

    fn barrier(&self) -> Result<()> {
        self.db.flush().map_err(|e| failure(&self.directory, e))?;
        self.file.sync_all().map_err(|e| self.directory.io(e))?;
        // After the barrier, so that the note is never ahead of the store. Fixed width: overwritten in place.
        let note = format!("{:020}\n", self.commits);
        self.commits_file.write_all_at(note.as_bytes(), 0).map_err(|e| self.directory.io(e))
    }
}

/// Batches applied but not yet durable.
#[derive(Default)]
struct Group {
    size: usize,
    waiting: Vec<oneshot::Sender<Result<()>>>,
}

/// How many batches the store knows of.
pub(super) fn commits(db: &::sled::Db, directory: &Directory) -> Result<u64> {
    let row = db.get(Table::Meta.key(COMMITS)).map_err(|e| failure(directory, e))?;
    let Some(row) = row else { return Ok(0) };
    let count = std::str::from_utf8(&row).ok().and_then(|text| text.parse().ok());
    count.ok_or_else(|| directory.damaged("the count of commits is unreadable"))
}

pub(super) fn failure(directory: &Directory, error: ::sled::Error) -> StoreError {
    match error {
        ::sled::Error::Io(e) if e.to_string().contains("could not acquire lock") => {
            StoreError::Locked { path: directory.path().to_owned() }
        }
        // sled wraps the cause into its own text when it clones an error.
        ::sled::Error::Io(e) if e.to_string().contains("os error 28") || e.to_string().contains("StorageFull") => {
            StoreError::Full(e)
        }
        ::sled::Error::Io(e) => directory.io(e),
        ::sled::Error::Corruption { at, .. } => directory.damaged(format!("corruption at {at:?}")),
        other => directory.damaged(other.to_string()),
    }
}

/// The same failure for everyone in the group.
fn again(error: &StoreError, directory: &Directory) -> StoreError {
    match error {
        StoreError::Full(e) => StoreError::Full(io::Error::new(e.kind(), e.to_string())),
        StoreError::Damaged { path, reason } => StoreError::Damaged { path: path.clone(), reason: reason.clone() },
        other => directory.io(io::Error::other(other.to_string())),
    }
}

const COMMITS: &[u8] = b"commits";
/// Bounds how long the first of a group waits.
const MAX_GROUP: usize = 256;
