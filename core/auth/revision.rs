//! How keys, identities and tokens are written: each change takes the next revision and leaves a row that says which rows it
//! touched, in the same batch. So changes of several gateways on one store cannot be lost, and each of them can take up what
//! the others wrote.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};

use super::keys::failed;
use crate::{
    error::{Error, Kind, Result},
    store::{Op, Store, Table},
};

pub(super) struct Revisions {
    store: Arc<dyn Store>,
    /// Held from reading rows to writing them.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The store's, as far as this process knows.
    seen: u64,
    /// All changes up to here are in this process's tables.
    applied: u64,
}

/// The right to change rows.
pub(super) struct Turn<'a> {
    state: MutexGuard<'a, State>,
    store: &'a dyn Store,
}

impl Revisions {
    pub async fn open(store: Arc<dyn Store>) -> Result<Revisions> {
        let now = read(&*store).await?;
        Ok(Revisions { store, state: Mutex::new(State { seen: now, applied: now }) })
    }

    pub async fn turn(&self) -> Turn<'_> {
        Turn { state: self.state.lock().await, store: &*self.store }
    }
}

impl Turn<'_> {
    /// Writes rows, durable when it returns. `read`: rows that the change was made from, as they were read; if another
    /// gateway has changed one of them meanwhile nothing is written.
    pub async fn write(&mut self, read_before: &[Op], rows: Vec<Op>) -> Result<()> {
        for _ in 0..TRIES {
            let next = self.state.seen + 1;
            let mut expected = read_before.to_vec();
            expected.push(revision(self.state.seen));
            let mut batch = rows.clone();
            batch.push(revision(next));
            batch.push(Op::put(Table::Identities, change(next), touched(&rows)));
            if let Some(old) = next.checked_sub(KEPT) {
                batch.push(Op::remove(Table::Identities, change(old)));
            }
            if self.store.write_if(expected, batch).await.map_err(failed)? {
                if self.state.applied == self.state.seen {
                    self.state.applied = next;
                }
                self.state.seen = next;
                return Ok(());
            }
            let now = read(self.store).await?;
            if now == self.state.seen {
                break;
            }
            self.state.seen = now;
        }
        let message = "somebody else changed the same thing at the same moment: look at it again, then try again";
        Err(Error::new(Kind::InvalidRequest, message).with_status(409).with_code("conflict"))
    }

    /// Rows that others changed since this was asked last; `None`: too many to be told, so all must be read.
    pub async fn news(&mut self) -> Result<Option<Vec<(Table, Vec<u8>)>>> {
        let now = read(self.store).await?;
        let from = std::mem::replace(&mut self.state.applied, now);
        self.state.seen = now;
        let mut rows = Vec::new();
        for number in from + 1..=now {
            let told = self.store.read(Table::Identities, change(number).as_bytes()).await.map_err(failed)?;
            let Some(told) = told else { return Ok(None) };
            let named: Vec<(String, String)> = serde_json::from_slice(&told).unwrap_or_default();
            rows.extend(named.into_iter().filter_map(|(table, key)| Some((Table::named(&table)?, key.into_bytes()))));
        }
        rows.sort();
        rows.dedup();
        Ok(Some(rows))
    }

    /// What was taken up did not arrive: it will be told again.
    pub fn again(&mut self) {
        self.state.applied = 0;
    }
}

/// Of the store: 0 before the first change.
async fn read(store: &dyn Store) -> Result<u64> {
    let row = store.read(Table::Meta, REVISION).await.map_err(failed)?;
    let number = row.and_then(|row| std::str::from_utf8(&row).ok()?.parse().ok());
    Ok(number.unwrap_or(0))
}

fn revision(number: u64) -> Op {
    let value = (number > 0).then(|| number.to_string().into_bytes());
    Op { table: Table::Meta, key: REVISION.to_vec(), value }
}

fn change(number: u64) -> String {
    format!("{CHANGES}{number:016x}")
}

/// Keys of these tables are texts.
fn touched(rows: &[Op]) -> Vec<u8> {
    let shared = |op: &&Op| matches!(op.table, Table::Keys | Table::Identities | Table::Tokens);
    let named: Vec<_> =
        rows.iter().filter(shared).map(|op| (op.table.name(), String::from_utf8_lossy(&op.key))).collect();
    serde_json::to_vec(&named).unwrap_or_default()
}

/// Grows with each change of keys, identities and tokens, of whichever gateway.
pub const REVISION: &[u8] = b"identity/revision";
/// In the table of identities: what each of the last changes touched.
pub(super) const CHANGES: &str = "c/";
/// So many changes are told; who missed more reads all rows.
const KEPT: u64 = 4_096;
/// Each is lost only to another gateway's change.
const TRIES: usize = 64;
