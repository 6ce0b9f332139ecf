//! Sums as they were kept before users, organisations and tags had any: by the hour, in a table of their own. They move once,
//! page by page, each in one batch with what it leaves.

use super::{
    Kind,
    by::{self, By, Grain, Place},
    covered_key,
};
use crate::{
    account::minute::Minute,
    store::{Op, Result, Store, Table},
};

pub(super) async fn moved(store: &dyn Store, node: &str) -> Result<()> {
    loop {
        let rows = store.scan(Table::Usage, &[], None, PAGE).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut batch = Vec::with_capacity(2 * rows.len());
        let mut there = Vec::with_capacity(rows.len());
        for (key, value) in rows {
            if let Some(fresh) = fresh(&key, node) {
                batch.push(Op::put(Table::Reports, fresh, value.clone()));
            }
            batch.push(Op::remove(Table::Usage, key.clone()));
            there.push(Op::put(Table::Usage, key, value));
        }
        // Another gateway on the same store may be at it, too: whoever comes second finds them gone.
        store.write_if(there, batch).await?;
    }
}

/// The place of a former row.
fn fresh(key: &[u8], node: &str) -> Option<Vec<u8>> {
    let (hour, rest) = key.split_first_chunk::<4>()?;
    let hour = u32::from_be_bytes(*hour);
    if hour == COVERED && rest.is_empty() {
        return Some(covered_key(node));
    }
    let mut parts = rest.split(|b| *b == 0).map(|part| std::str::from_utf8(part).unwrap_or(""));
    let (team, key, model, target) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if hour == OLD {
        return Some(by::older(Kind::Team, team, node));
    }
    let by = By { team, key, model, target, ..By::default() };
    Some(by::join(Place { grain: Grain::Quarter, at: Minute(hour.checked_mul(60)?), by, node }))
}

/// Hours that stood for something else.
const COVERED: u32 = 0;
const OLD: u32 = 1;
const PAGE: usize = 500;
