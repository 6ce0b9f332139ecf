//! Rows into the table: all of them at the start, and afterwards those that other gateways on the same store wrote.

use std::sync::{Arc, PoisonError};

use super::{
    Keys,
    identities::parse_identity,
    keys::{MAX_SECRETS, damaged, failed, hashes, parse},
    row::TokenRow,
    table::Hash,
};
use crate::{
    error::Result,
    store::{self, Told, hex},
};

impl Keys {
    /// What others change in a shared store goes into the table, until the store is closed. `None`: nobody else writes there.
    pub fn follow(self: &Arc<Self>) -> Option<impl Future<Output = ()> + Send + 'static> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let keys = self.clone();
        Some(async move {
            while let Some(told) = changes.next().await {
                let done = match &told {
                    Told::Rows(rows) => keys.refresh(rows).await,
                    Told::Anything => keys.load().await,
                };
                // What could not be read now is read with the next change, or after the next start.
                if let Err(error) = done {
                    tracing::error!(%error, "changes of keys by other gateways could not be read");
                }
            }
        })
    }

    /// Rows as they are now: one that was changed here meanwhile is not taken back.
    pub(super) async fn refresh(&self, rows: &[(store::Table, Vec<u8>)]) -> Result<()> {
        for (table, key) in rows {
            if !matches!(table, store::Table::Keys | store::Table::Identities | store::Table::Tokens) {
                continue;
            }
            let _turn = self.revisions.turn().await;
            let value = self.store.read(*table, key).await.map_err(failed)?;
            self.apply(*table, key, value.as_deref())?;
        }
        Ok(())
    }

    /// Takes a row up, whoever wrote it; `None`: it was removed. What is neither a key, an identity nor a token is left alone.
    pub fn apply(&self, table: store::Table, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        match (table, value) {
            (store::Table::Keys, Some(value)) => {
                let (id, mut row) = parse(key, value)?;
                // What another gateway wrote meanwhile does not let a revoked key in.
                self.unwritten.over(id, &mut row);
                // Of the oldest secrets it may have dropped another than this gateway knows of.
                let dropped = if row.secrets.len() < MAX_SECRETS { Vec::new() } else { self.table.hashes_of(id) };
                let hashes = hashes(id, &row)?;
                let dropped: Vec<Hash> = dropped.into_iter().filter(|hash| !hashes.contains(hash)).collect();
                self.table.set(id, &row, &hashes, &dropped)
            }
            (store::Table::Identities, value) => {
                let (sort, name, identity) = parse_identity(key, value)?;
                self.table.set_identity(sort, name, identity);
                Ok(())
            }
            (store::Table::Tokens, value) => {
                let id = std::str::from_utf8(key).map_err(|e| damaged("token", key, &e.to_string()))?;
                match value {
                    None => self.table.drop_token(id),
                    Some(value) => {
                        let row: TokenRow =
                            serde_json::from_slice(value).map_err(|e| damaged("token", key, &e.to_string()))?;
                        let hash = hex::decode(&row.hash).ok_or_else(|| damaged("token", key, "hash"))?;
                        self.table.set_token(id, row, hash);
                    }
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// All rows of all tables: identities first, so that each key is bound once.
    pub(super) async fn load(&self) -> Result<()> {
        for table in [store::Table::Identities, store::Table::Keys, store::Table::Tokens] {
            let mut after: Option<Vec<u8>> = None;
            loop {
                let page = self.store.scan(table, b"", after.as_deref(), PAGE).await.map_err(failed)?;
                for (key, value) in &page {
                    self.apply(table, key, Some(value))?;
                }
                match page.into_iter().last() {
                    Some((last, _)) => after = Some(last),
                    None => break,
                }
            }
        }
        Ok(())
    }
}

const PAGE: usize = 1_000;
