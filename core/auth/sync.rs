//! Rows into the table: all of them at the start, and afterwards those that other gateways on the same store wrote.

use super::{
    Keys,
    identities::parse_identity,
    keys::{damaged, failed, hashes, parse},
    revision::{CHANGES, Turn},
    row::TokenRow,
};
use crate::{
    error::Result,
    store::{self, hex},
};

impl Keys {
    /// Takes up what other gateways on the same store changed since the last time.
    pub async fn catch_up(&self) -> Result<()> {
        let mut turn = self.revisions.turn().await;
        let done = self.take_up(&mut turn).await;
        if done.is_err() {
            turn.again();
        }
        done
    }

    async fn take_up(&self, turn: &mut Turn<'_>) -> Result<()> {
        let Some(rows) = turn.news().await? else { return self.load().await };
        for (table, key) in rows {
            let value = self.store.read(table, &key).await.map_err(failed)?;
            self.apply(table, &key, value.as_deref())?;
        }
        Ok(())
    }

    /// Takes a row up, whoever wrote it; `None`: it was removed. What is neither a key, an identity nor a token is left alone.
    pub fn apply(&self, table: store::Table, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        match (table, value) {
            (store::Table::Keys, Some(value)) => {
                let (id, row) = parse(key, value)?;
                self.table.set(id, &row, &hashes(id, &row)?, &[])
            }
            (store::Table::Identities, value) if !key.starts_with(CHANGES.as_bytes()) => {
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
