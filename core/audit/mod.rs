//! What was done to the gateway, and what it refused for reasons of security: append-only rows, each bound to the one before
//! it. A row is durable before what it tells of is acknowledged. Requests that are served never come here; only refused
//! keys are counted, and written a minute's worth at a time.
//!
//! Each gateway has a chain of its own (`node`), so that several on one store need no common lock.

mod chain;
mod prune;
mod read;
mod refusals;
mod row;
mod unended;

use std::{
    collections::VecDeque,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use aws_lc_rs::hmac;
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

pub use self::{
    chain::{Broken, Fault, Head, Seen},
    read::{Page, Wanted, csv},
    refusals::Refusals,
    row::{Actor, ActorKind, Entry, Origin, Outcome},
    unended::STARTED,
};
use crate::store::{self, Op, Store, Table};

pub struct Audit {
    store: Arc<dyn Store>,
    node: String,
    /// Proves rows.
    key: hmac::Key,
    /// Hashes secrets.
    mask: hmac::Key,
    /// Held from reading the end of the chain to having written the next row.
    end: Mutex<End>,
    /// What the file beside the store names.
    noted: Mutex<Head>,
    refusals: Refusals,
    /// What was done and could not be written: tried again.
    owed: std::sync::Mutex<VecDeque<(SystemTime, Entry)>>,
    /// Seconds.
    keep: AtomicU64,
    clock: fn() -> SystemTime,
}

impl Audit {
    /// `secret`: derived from the master key for this purpose alone. A chain that lost its end is gone on with, and shows the
    /// gap for ever.
    pub async fn open(store: Arc<dyn Store>, secret: &[u8; 32], node: &str) -> store::Result<Arc<Audit>> {
        Audit::open_at(store, secret, node, SystemTime::now).await
    }

    pub async fn open_at(
        store: Arc<dyn Store>,
        secret: &[u8; 32],
        node: &str,
        clock: fn() -> SystemTime,
    ) -> store::Result<Arc<Audit>> {
        let root = hmac::Key::new(hmac::HMAC_SHA256, secret);
        let derive = |what: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&root, what).as_ref());
        let audit = Audit {
            store,
            node: node.to_owned(),
            key: derive(b"rows"),
            mask: derive(b"secrets"),
            end: Mutex::new(End { head: chain::NOTHING, held: None }),
            noted: Mutex::new(chain::NOTHING),
            refusals: Refusals::default(),
            owed: std::sync::Mutex::default(),
            keep: AtomicU64::new(KEEP.as_secs()),
            clock,
        };
        let mut end = audit.end().await?;
        if let Some(noted) = audit.note()? {
            *audit.noted.lock().await = noted;
            if noted.seq > end.head.seq {
                tracing::error!(
                    rows = noted.seq - end.head.seq,
                    "the audit log has lost its newest rows: `portcullis audit verify` names them"
                );
                // The numbers of what is gone are not given again.
                end.head = noted;
            }
        }
        *audit.end.lock().await = end;
        Ok(Arc::new(audit))
    }

    /// One that keeps nothing: for rehearsals, and for tests of other things.
    pub fn nowhere() -> Arc<Audit> {
        let key = || hmac::Key::new(hmac::HMAC_SHA256, &[0; 32]);
        Arc::new(Audit {
            store: store::memory(),
            node: "nowhere".to_owned(),
            key: key(),
            mask: key(),
            end: Mutex::new(End { head: chain::NOTHING, held: None }),
            noted: Mutex::new(chain::NOTHING),
            refusals: Refusals::default(),
            owed: std::sync::Mutex::default(),
            keep: AtomicU64::new(KEEP.as_secs()),
            clock: SystemTime::now,
        })
    }

    /// For how long rows are kept.
    pub fn set_keep(&self, keep: Duration) {
        self.keep.store(keep.as_secs(), Ordering::Relaxed);
    }

    pub fn refusals(&self) -> &Refusals {
        &self.refusals
    }

    /// A keyed hash of a secret, as rows show it.
    pub fn hash(&self, secret: &str) -> String {
        row::hash(secret, &self.mask)
    }

    /// Durable when it returns; gives the row's number.
    pub async fn record(&self, entry: Entry) -> store::Result<u64> {
        // Without further rows to be as expected it is always written.
        Ok(self.record_with(entry, Vec::new(), Vec::new()).await?.unwrap_or_default())
    }

    /// A row in one batch with the change that it tells of: both are kept, or neither is. `None`: the rows of `expected`
    /// were not so, and nothing was written.
    pub async fn record_with(&self, entry: Entry, expected: Vec<Op>, batch: Vec<Op>) -> store::Result<Option<u64>> {
        let at = (self.clock)();
        let mut end = self.end.lock().await;
        loop {
            let (next, rows) = self.rows(&entry, end.head, at);
            let mut held = expected.clone();
            held.push(Op { table: Table::Audit, key: mark_key(HEAD, &self.node), value: end.held.clone() });
            let mark = rows.last().and_then(|row| row.value.clone());
            let all = batch.iter().cloned().chain(rows).collect();
            if self.store.write_if(held, all).await? {
                *end = End { head: next, held: mark };
                return Ok(Some(next.seq));
            }
            // A write that nobody waited for was kept, or another process has this chain.
            let found = self.end().await?;
            if found.held == end.held {
                return Ok(None);
            }
            end.held = found.held;
            if found.head.seq > end.head.seq {
                end.head = found.head;
            }
        }
    }

    /// The same for what is done already and cannot be taken back: what the store does not take now it gets later.
    pub async fn record_done(&self, entry: Entry) {
        let at = (self.clock)();
        if let Err(error) = self.record(entry.clone()).await {
            tracing::error!(%error, action = entry.action, "a row of the audit log is kept in memory until the store takes it");
            let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
            if owed.len() < MOST_OWED {
                owed.push_back((at, entry));
            }
        }
    }

    /// The row, and behind it the one that names the end.
    fn rows(&self, entry: &Entry, head: Head, at: SystemTime) -> (Head, Vec<Op>) {
        let (bytes, next) = chain::link(&self.key, &self.node, head, &show(at), entry.fields(&self.mask));
        let mark = chain::mark(&self.key, HEAD, &self.node, next, "");
        let row = Op::put(Table::Audit, row_key(&self.node, next.seq), bytes);
        (next, vec![row, Op::put(Table::Audit, mark_key(HEAD, &self.node), mark)])
    }

    /// Where the chain ends in the store.
    async fn end(&self) -> store::Result<End> {
        let held = self.store.read(Table::Audit, &mark_key(HEAD, &self.node)).await?;
        let named = held.as_deref().and_then(|held| chain::read_mark(&self.key, HEAD, &self.node, held));
        let head = match named {
            Some(head) => head,
            // Damaged or taken away: no row that is there is written over.
            None => self.last_row(&self.node).await?,
        };
        Ok(End { head, held })
    }

    /// What the file beside the store says.
    fn note(&self) -> store::Result<Option<Head>> {
        let Some(directory) = self.store.directory() else { return Ok(None) };
        let text = directory.audit_head()?;
        Ok(text.and_then(|text| chain::read_mark(&self.key, HEAD, &self.node, text.trim().as_bytes())))
    }

    /// Writes the end of the chain where the store cannot lose it.
    pub async fn keep_head(&self) -> store::Result<()> {
        let head = self.end.lock().await.head;
        let mut noted = self.noted.lock().await;
        if let Some(directory) = self.store.directory().filter(|_| head.seq > noted.seq) {
            directory.keep_audit_head(&chain::mark(&self.key, HEAD, &self.node, head, &show((self.clock)())))?;
            *noted = head;
        }
        Ok(())
    }

    /// Writes what was counted and what is owed, keeps the file beside the store fresh, and lets old rows go, until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let (mut noted, mut prune) = (Instant::now(), Instant::now() + FIRST_PRUNE);
        loop {
            let ended = tokio::select! {
                () = tokio::time::sleep(TICK) => false,
                () = stop.cancelled() => true,
            };
            let now = Instant::now();
            self.flush(now, ended).await;
            if ended || now.duration_since(noted) >= NOTE {
                noted = now;
                if let Err(error) = self.keep_head().await {
                    tracing::warn!(%error, "the file audit.head could not be written");
                }
            }
            if ended {
                return;
            }
            if now >= prune {
                prune = now + PRUNE;
                if let Err(error) = self.prune().await {
                    tracing::warn!(%error, "old rows of the audit log could not be let go");
                }
            }
        }
    }

    /// Rows that are due. `all`: nobody will ask again.
    pub async fn flush(&self, now: Instant, all: bool) {
        let owed: Vec<_> = self.owed.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect();
        let mut owed = owed.into_iter();
        while let Some((at, mut entry)) = owed.next() {
            entry.after = serde_json::json!({ "late": show(at), "after": entry.after });
            if self.record(entry.clone()).await.is_err() {
                entry.after = entry.after["after"].take();
                let mut held = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
                held.push_front((at, entry));
                held.extend(owed);
                break;
            }
        }
        for entry in self.refusals.due(now, all) {
            if let Err(error) = self.record(entry).await {
                tracing::warn!(%error, "refusals could not be written to the audit log");
            }
        }
    }
}

/// Where a chain ends.
struct End {
    head: Head,
    /// The row that says so, as the store has it.
    held: Option<Vec<u8>>,
}

fn show(at: SystemTime) -> String {
    let at = jiff::Timestamp::try_from(at).unwrap_or_default();
    at.round(jiff::Unit::Millisecond).unwrap_or(at).to_string()
}

/// `r/NODE 0 SEQ`: rows of a chain stand in its order.
fn row_key(node: &str, seq: u64) -> Vec<u8> {
    let mut key = rows_of(node);
    key.extend_from_slice(&seq.to_be_bytes());
    key
}

fn rows_of(node: &str) -> Vec<u8> {
    format!("{ROWS}{node}\0").into_bytes()
}

fn mark_key(kind: &str, node: &str) -> Vec<u8> {
    format!("{}/{node}", &kind[..1]).into_bytes()
}

/// This gateway's chain, where the store is its own.
pub const LOCAL: &str = "local";
/// What the key that proves rows is made for.
pub const PURPOSE: &str = "audit log";
const ROWS: &str = "r/";
const HEAD: &str = "head";
const CHECKPOINT: &str = "checkpoint";
const KEEP: Duration = Duration::from_secs(365 * 86_400);
const TICK: Duration = Duration::from_secs(1);
/// Between two writes of the file beside the store.
const NOTE: Duration = Duration::from_secs(10);
const PRUNE: Duration = Duration::from_secs(3_600);
const FIRST_PRUNE: Duration = Duration::from_secs(60);
/// Rows that wait for a store which takes nothing.
const MOST_OWED: usize = 1_000;

#[cfg(test)]
mod tests;
