//! What must outlive the process: one small trait and its backends. Ordered tables of small rows, batches that are
//! acknowledged only when they would survive a power cut. It must never be on a request's path: what requests need lives
//! in memory tables that are loaded from here.

use std::{path::PathBuf, sync::Arc};

use futures_util::future::BoxFuture;

use crate::config;

mod commit;
pub mod directory;
pub mod hex;
mod memory;
mod sled;
pub mod tables;

pub use directory::Directory;
pub use memory::Memory;
pub use tables::Table;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A row: its key inside the table, and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Ordered tables of small rows.
pub trait Store: Send + Sync {
    fn read(&self, table: Table, key: &[u8]) -> BoxFuture<'_, Result<Option<Vec<u8>>>>;

    /// Rows whose key begins with `prefix` and is greater than `after`, in key order, at most `limit`.
    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> BoxFuture<'_, Result<Vec<Row>>>;

    /// All of the batch or nothing. `Ok` only after the durable barrier. When the future is dropped, or the barrier itself
    /// fails, the batch may or may not have been kept.
    fn write(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<()>>;

    /// All of the batch or nothing, durable some time later: for hints that may be lost.
    fn write_soft(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<()>>;

    /// Writes everything out and lets the files go; later calls fail with `Closed`. A second close does nothing.
    fn close(&self) -> BoxFuture<'_, Result<()>>;

    /// The directory that the data lives in; `None` when nothing is kept.
    fn directory(&self) -> Option<&Directory>;
}

/// One change: `value: None` removes the row.
#[derive(Debug, Clone, PartialEq)]
pub struct Op {
    pub table: Table,
    pub key: Vec<u8>,
    pub value: Option<Vec<u8>>,
}

impl Op {
    pub fn put(table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Op {
        Op { table, key: key.into(), value: Some(value.into()) }
    }

    pub fn remove(table: Table, key: impl Into<Vec<u8>>) -> Op {
        Op { table, key: key.into(), value: None }
    }
}

/// Opens the configured store. Every error is a sentence that says what to do.
pub async fn open(config: &config::Store) -> Result<Arc<dyn Store>> {
    Ok(match config.kind {
        config::StoreKind::Sled => Arc::new(sled::Sled::open(&config.path).await?),
        config::StoreKind::Memory => Arc::new(Memory::default()),
    })
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "the store in {path} is in use by another process: stop it, or, if it is a running gateway, use its admin API \
         (portcullis keys --admin URL)"
    )]
    Locked { path: PathBuf },
    #[error(
        "the data directory {path} has version {found}, this gateway reads version {expected}: start the gateway version \
         that wrote it, or move the directory away to begin with an empty one"
    )]
    Version { path: PathBuf, found: String, expected: u32 },
    #[error(
        "the store in {path} is damaged ({reason}): restore the directory from a backup, or move it away to begin with an \
         empty one (keys made so far are then unknown)"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error(
        "the store in {path} did not open within {seconds} s: look at the disk and at other processes that use the \
         directory, then start again"
    )]
    Stuck { path: PathBuf, seconds: u64 },
    #[error("a row of {size} bytes is too large for the store: {limit} bytes are allowed")]
    TooLarge { size: usize, limit: usize },
    #[error("the disk that holds the store is full: free some space, then restart the gateway")]
    Full(#[source] std::io::Error),
    #[error("the store is closed")]
    Closed,
    #[error("the store in {path} failed: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("{path}: {message}")]
    File { path: PathBuf, message: String },
}

/// Rows stay small: sled never gives the space of large overwritten values back (PROMISES, last section).
pub const MAX_ROW: usize = 64 * 1024;

/// Refuses a batch that holds too large a row, before anything of it is written.
fn check(batch: &[Op]) -> Result<()> {
    for op in batch {
        let size = op.key.len() + op.value.as_ref().map_or(0, Vec::len);
        if size >= MAX_ROW {
            return Err(StoreError::TooLarge { size, limit: MAX_ROW - 1 });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
