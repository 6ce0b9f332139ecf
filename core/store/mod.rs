//! What must outlive the process: one small trait and its backends. Ordered tables of small rows, batches that are
//! acknowledged only when they would survive a power cut. It must never be on a request's path: what requests need lives
//! in memory tables that are loaded from here.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::future::BoxFuture;

use crate::config;

mod blobs;
mod changes;
mod commit;
mod compiled;
pub mod counters;
pub mod directory;
mod export;
mod exports;
pub mod files;
mod folders;
pub mod hex;
mod memory;
mod migrate;
pub mod nodes;
mod open;
mod recover;
mod redis;
mod shared;
mod sled;
pub mod tables;
mod tally;
pub mod volatile;

pub use changes::{Changes, Told};
pub use compiled::{Compiled, compiled};
pub use counters::Counters;
pub use directory::Directory;
pub use export::Header;
pub use files::Files;
pub use memory::Memory;
pub use open::{quiet_panics, reserve_statistics};
pub use tables::Table;
pub use volatile::Volatile;

pub type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A row: its key inside the table, and its value.
pub type Row = (Vec<u8>, Vec<u8>);

/// Ordered tables of small rows.
pub trait Store: Send + Sync {
    fn read(&self, table: Table, key: &[u8]) -> BoxFuture<'_, Result<Option<Vec<u8>>>>;

    /// Rows whose key begins with `prefix` and is greater than `after`, in key order, at most `limit`.
    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> BoxFuture<'_, Result<Vec<Row>>>;

    /// All of the batch or nothing. `Ok` only after the durable barrier. An error means that it was not kept, unless the
    /// process ends before the store works again: then it may have been. When the future is dropped it may have been, too; and
    /// of a shared store that gave no answer nobody knows.
    fn write(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<()>>;

    /// As `write`, if every row of `expected` has just that value (`None`: is absent) at this moment; `false`: nothing was
    /// written. With it several writers can share a counter, or take leases from it.
    fn write_if(&self, expected: Vec<Op>, batch: Vec<Op>) -> BoxFuture<'_, Result<bool>>;

    /// All of the batch or nothing, durable some time later: for hints that may be lost.
    fn write_soft(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<()>>;

    /// Writes everything out and lets the files go; later calls fail with `Closed`. A second close does nothing.
    fn close(&self) -> BoxFuture<'_, Result<()>>;

    /// The directory that the data lives in; `None` when nothing is kept.
    fn directory(&self) -> Option<&Directory>;

    /// All rows as they are at one moment, as a file: `to`, or one in the data directory.
    fn export(&self, to: Option<PathBuf>) -> BoxFuture<'_, Result<Exported>>;

    /// Why it takes no changes at the moment, in words that anybody may read; `None` when all is well.
    fn trouble(&self) -> Option<&'static str> {
        None
    }

    /// Sentences on what had to be done to open it.
    fn notices(&self) -> &[String] {
        &[]
    }

    /// This gateway's name among those that share the store; `None`: nobody else uses it.
    fn node(&self) -> Option<&str> {
        None
    }

    /// For a gateway that serves: its folder is its own from now on, others see that it lives, and it hears of their changes.
    fn join(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// What others change from now on, in tables that gateways hold in memory; `None`: nobody else writes here.
    fn changes(&self) -> Option<Changes> {
        None
    }

    /// Where several gateways count limits and budgets together; `None`: each counts for itself.
    fn counters(&self) -> Option<Arc<dyn Counters>> {
        None
    }

    /// Where several gateways share what may be lost, over a connection of its own; `None`: nowhere.
    fn volatile(&self) -> BoxFuture<'_, Result<Option<Arc<dyn Volatile>>>> {
        Box::pin(std::future::ready(Ok(None)))
    }
}

/// A finished export.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Exported {
    pub path: PathBuf,
    pub rows: u64,
    pub bytes: u64,
    pub created: String,
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

/// One that keeps nothing.
pub fn memory() -> Arc<dyn Store> {
    Arc::new(Memory::default())
}

/// Opens the configured store. Every error is a sentence that says what to do.
pub async fn open(config: &config::Store) -> Result<Arc<dyn Store>> {
    Ok(match &config.kind {
        config::StoreKind::Sled => Arc::new(sled::Sled::open(&config.path).await?),
        config::StoreKind::Redis(redis) => Arc::new(redis::Redis::open(redis, &config.path).await?),
        config::StoreKind::Memory => Arc::new(Memory::default()),
    })
}

/// Puts the export `file` in the place of what the store holds, which nobody may use meanwhile. `fits` judges whether its keys
/// can be checked with the master key that is here. Says what it did.
pub async fn import(
    config: &config::Store,
    file: &Path,
    replace: bool,
    fits: &(dyn Fn(&Directory, &Header) -> Result<()> + Sync),
) -> Result<Vec<String>> {
    match &config.kind {
        config::StoreKind::Redis(redis) => redis::import(redis, &config.path, file, replace, fits).await,
        _ => recover::import(&config.path, file, replace, fits, sled::LIMITS),
    }
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
    #[error("{what}. Start again")]
    Recovered { what: String },
    #[error("the store in {path} did not answer within {seconds} s: look at the disk")]
    Slow { path: PathBuf, seconds: u64 },
    #[error("a row of {size} bytes is too large for the store: {limit} bytes are allowed")]
    TooLarge { size: usize, limit: usize },
    #[error(
        "the disk that holds the store is full, so nothing was changed: free some space, and changes work again within \
         seconds"
    )]
    Full(#[source] io::Error),
    #[error(
        "the disk that holds {path} is full, and the store cannot be opened without 2 MiB of room: free some space"
    )]
    NoRoom { path: PathBuf, source: io::Error },
    #[error("the store is closed")]
    Closed,
    #[error("the store in {path} failed: {source}")]
    Io { path: PathBuf, source: io::Error },
    // Not `source`: the command line tells that after the sentence, and it stands in it already.
    #[error("the export could not be written to {path}: {why}: {hint}")]
    Export { path: PathBuf, why: io::Error, hint: &'static str },
    #[error("{path}: {message}")]
    File { path: PathBuf, message: String },
    #[error("{at} cannot be reached ({why}): changes are refused until it answers")]
    Unreachable { at: String, why: String },
    #[error("{at} gave no answer ({why}), and nobody knows whether it did what it was asked for: look, and ask again")]
    Unanswered { at: String, why: String },
    #[error("{at} is full, so nothing was changed: give it more memory, and changes work again at once")]
    SharedFull { at: String },
    #[error(
        "{at} holds another store than before: it was emptied, or an import took its place. What is in memory is served on; \
         start the gateways again, one by one, if that is meant"
    )]
    Replaced { at: String },
    #[error("{at}: {why}")]
    Shared { at: String, why: String },
}

impl StoreError {
    /// Something else than these files might still be whole.
    fn is_damage(&self) -> bool {
        matches!(self, StoreError::Damaged { .. } | StoreError::Stuck { .. })
    }

    /// Of damage, in a few words.
    fn reason(&self) -> String {
        match self {
            StoreError::Damaged { reason, .. } => reason.clone(),
            StoreError::Stuck { seconds, .. } => format!("it did not open within {seconds} s"),
            other => other.to_string(),
        }
    }

    /// As the control plane answers a change that was not kept: full, away for now, or a fault.
    pub fn status(&self) -> u16 {
        match self {
            StoreError::Full(_) | StoreError::NoRoom { .. } | StoreError::SharedFull { .. } => 507,
            StoreError::TooLarge { .. } => 400,
            StoreError::Closed
            | StoreError::Unreachable { .. }
            | StoreError::Unanswered { .. }
            | StoreError::Replaced { .. } => 503,
            _ => 500,
        }
    }

    /// Why a change was not kept, as a part of a sentence.
    pub fn why(&self) -> String {
        match self {
            StoreError::Full(_) | StoreError::NoRoom { .. } => "the disk that holds the store is full".to_owned(),
            StoreError::SharedFull { at } => format!("{at} is full"),
            StoreError::Unreachable { at, why } => format!("{at} cannot be reached ({why})"),
            other => other.to_string(),
        }
    }

    /// What it means for changes, without a path or a cause.
    fn trouble(&self) -> &'static str {
        match self {
            StoreError::Full(_) | StoreError::NoRoom { .. } => {
                "the disk is full: changes are refused until there is room"
            }
            StoreError::Unreachable { .. } | StoreError::Unanswered { .. } => {
                "redis cannot be reached: changes are refused until it answers"
            }
            StoreError::SharedFull { .. } => "redis is full: changes are refused until it has room",
            StoreError::Replaced { .. } => "redis holds another store than before: changes are refused",
            StoreError::Shared { .. } => "redis refuses: the log says why",
            _ => "it failed: changes are refused until a restart, and the log says why",
        }
    }

    /// The same failure of a shared store, for the next one who asks.
    fn copy(&self) -> StoreError {
        match self {
            StoreError::Unreachable { at, why } => StoreError::Unreachable { at: at.clone(), why: why.clone() },
            StoreError::Unanswered { at, why } => StoreError::Unanswered { at: at.clone(), why: why.clone() },
            StoreError::SharedFull { at } => StoreError::SharedFull { at: at.clone() },
            StoreError::Replaced { at } => StoreError::Replaced { at: at.clone() },
            StoreError::Shared { at, why } => StoreError::Shared { at: at.clone(), why: why.clone() },
            StoreError::Closed => StoreError::Closed,
            other => StoreError::Shared { at: "the shared store".to_owned(), why: other.to_string() },
        }
    }

    /// The same failure, for the next one who asks.
    fn again(&self, directory: &Directory) -> StoreError {
        match self {
            StoreError::Full(e) => StoreError::Full(io::Error::new(e.kind(), e.to_string())),
            StoreError::NoRoom { path, source } => {
                StoreError::NoRoom { path: path.clone(), source: io::Error::new(source.kind(), source.to_string()) }
            }
            StoreError::Damaged { path, reason } => StoreError::Damaged { path: path.clone(), reason: reason.clone() },
            StoreError::Io { source, .. } => directory.io(io::Error::new(source.kind(), source.to_string())),
            StoreError::Closed => StoreError::Closed,
            other => directory.io(io::Error::other(other.to_string())),
        }
    }
}

/// Rows stay small: sled never gives the space of large overwritten values back (PROMISES, last section).
pub const MAX_ROW: usize = 64 * 1024;

/// A hash under the master key, in `Table::Meta`: shows whether the file still fits the rows.
pub const MASTER_CHECK: &[u8] = b"keys/master";

/// The keys that everything is hashed and sealed with, wrapped by the master key, in `Table::Meta`: `keyring::ring`.
pub const KEYRING: &[u8] = b"keyring";

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
pub(crate) mod tests;
