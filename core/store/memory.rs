//! A store that keeps nothing: for tests and for gateways that take their keys from elsewhere. Same contract, but durable
//! only as long as the process.

use std::{
    collections::BTreeMap,
    ops::Bound,
    path::PathBuf,
    sync::{PoisonError, RwLock},
};

use futures_util::future::{BoxFuture, ready};

use super::{Directory, Exported, Op, Result, Row, Store, StoreError, Table, check};

#[derive(Default)]
pub struct Memory {
    rows: RwLock<State>,
}

#[derive(Default)]
struct State {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    closed: bool,
}

impl Memory {
    fn look<T>(&self, f: impl FnOnce(&BTreeMap<Vec<u8>, Vec<u8>>) -> T) -> Result<T> {
        let state = self.rows.read().unwrap_or_else(PoisonError::into_inner);
        if state.closed { Err(StoreError::Closed) } else { Ok(f(&state.rows)) }
    }

    fn apply(&self, expected: &[Op], batch: Vec<Op>) -> Result<bool> {
        check(&batch)?;
        let mut state = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        if state.closed {
            return Err(StoreError::Closed);
        }
        if expected.iter().any(|row| state.rows.get(&row.table.key(&row.key)) != row.value.as_ref()) {
            return Ok(false);
        }
        for op in batch {
            let key = op.table.key(&op.key);
            match op.value {
                Some(value) => state.rows.insert(key, value),
                None => state.rows.remove(&key),
            };
        }
        Ok(true)
    }
}

impl Store for Memory {
    fn read(&self, table: Table, key: &[u8]) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        Box::pin(ready(self.look(|rows| rows.get(&table.key(key)).cloned())))
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> BoxFuture<'_, Result<Vec<Row>>> {
        let prefix = table.key(prefix);
        let after = after.map(|key| table.key(key)).filter(|key| *key >= prefix);
        let from = after.map_or_else(|| Bound::Included(prefix.clone()), Bound::Excluded);
        Box::pin(ready(self.look(|rows| {
            rows.range((from, Bound::Unbounded))
                .take_while(|(key, _)| key.starts_with(&prefix))
                .take(limit)
                .map(|(key, value)| (key[1..].to_vec(), value.clone()))
                .collect()
        })))
    }

    fn write(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(self.apply(&[], batch).map(drop)))
    }

    fn write_if(&self, expected: Vec<Op>, batch: Vec<Op>) -> BoxFuture<'_, Result<bool>> {
        Box::pin(ready(self.apply(&expected, batch)))
    }

    fn write_soft(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<()>> {
        Box::pin(ready(self.apply(&[], batch).map(drop)))
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        let mut state = self.rows.write().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        state.rows.clear();
        Box::pin(ready(Ok(())))
    }

    fn directory(&self) -> Option<&Directory> {
        None
    }

    fn export(&self, to: Option<PathBuf>) -> BoxFuture<'_, Result<Exported>> {
        let message = "store.kind = \"memory\" keeps nothing that could be exported".to_owned();
        Box::pin(ready(Err(StoreError::File { path: to.unwrap_or_else(|| "export".into()), message })))
    }
}
