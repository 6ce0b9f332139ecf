//! How keys, identities and tokens are written: each change takes the next revision, in the same batch, if the rows that it was
//! made from are still what they were. So changes of several gateways on one store cannot be lost.

use std::sync::Arc;

use tokio::sync::{Mutex, MutexGuard};

use super::keys::failed;
use crate::{
    error::{Error, Kind, Result},
    store::{Op, Store, Table},
};

pub(super) struct Revisions {
    store: Arc<dyn Store>,
    /// The store's, as far as this process knows. Held from reading rows to writing them.
    seen: Mutex<u64>,
}

/// The right to change rows.
pub(super) struct Turn<'a> {
    seen: MutexGuard<'a, u64>,
    store: &'a dyn Store,
}

impl Revisions {
    pub async fn open(store: Arc<dyn Store>) -> Result<Revisions> {
        let seen = Mutex::new(read(&*store).await?);
        Ok(Revisions { store, seen })
    }

    pub async fn turn(&self) -> Turn<'_> {
        Turn { seen: self.seen.lock().await, store: &*self.store }
    }
}

impl Turn<'_> {
    /// Writes rows, durable when it returns. `read`: rows that the change was made from, as they were read; if another
    /// gateway has changed one of them meanwhile nothing is written.
    pub async fn write(&mut self, read_before: &[Op], rows: Vec<Op>) -> Result<()> {
        for _ in 0..TRIES {
            let next = *self.seen + 1;
            let mut expected = read_before.to_vec();
            expected.push(revision(*self.seen));
            let mut batch = rows.clone();
            batch.push(revision(next));
            if self.store.write_if(expected, batch).await.map_err(failed)? {
                *self.seen = next;
                return Ok(());
            }
            let now = read(self.store).await?;
            if now == *self.seen {
                break;
            }
            *self.seen = now;
        }
        let message = "somebody else changed the same thing at the same moment: look at it again, then try again";
        Err(Error::new(Kind::InvalidRequest, message).with_status(409).with_code(CONFLICT))
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

/// Grows with each change of keys, identities and tokens, of whichever gateway.
pub const REVISION: &[u8] = b"identity/revision";
/// Each is lost only to another gateway's change.
const TRIES: usize = 64;
/// The code of a change that was overtaken.
pub(super) const CONFLICT: &str = "conflict";
