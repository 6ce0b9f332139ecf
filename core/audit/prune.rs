//! Old rows go, and the proof of what is left stays: in one batch with them a checkpoint is written that names the last one
//! that went, so that a chain can be followed from there.

use std::time::{Duration, SystemTime};

use serde_json::json;

use super::{Audit, CHECKPOINT, Entry, HEAD, Head, chain, mark_key, row_key, rows_of, show};
use crate::store::{Op, Result, Table};

impl Audit {
    /// Rows that are older than they are kept. The newest always stays. Says how many went.
    pub async fn prune(&self) -> Result<u64> {
        let keep = Duration::from_secs(self.keep.load(std::sync::atomic::Ordering::Relaxed));
        let Some(before) = (self.clock)().checked_sub(keep) else { return Ok(0) };
        let mut gone = 0;
        for node in self.nodes().await? {
            gone += self.prune_chain(&node, before).await?;
        }
        if gone > 0 {
            let told = json!({ "rows": gone, "older_than": show(before) });
            self.record(Entry::system("audit.prune").after(told)).await?;
        }
        Ok(gone)
    }

    async fn prune_chain(&self, node: &str, before: SystemTime) -> Result<u64> {
        let mut gone = 0;
        loop {
            let from = self.checkpoint(node).await?;
            let after = row_key(node, from.map_or(0, |from| from.seq));
            let rows = self.store.scan(Table::Audit, &rows_of(node), Some(&after), PAGE + 1).await?;
            // The newest is what the next one is bound to, and what says where the chain stands.
            let old = rows.iter().take(rows.len().saturating_sub(1)).take(PAGE);
            let mut last: Option<Head> = None;
            let mut batch = Vec::new();
            for (key, bytes) in old {
                let Some(row) = chain::checked(&self.key, bytes) else { break };
                let time = row["time"].as_str().and_then(|time| time.parse::<jiff::Timestamp>().ok());
                let seq = row["seq"].as_u64();
                let (Some(seq), true) = (seq, time.is_some_and(|time| SystemTime::from(time) < before)) else { break };
                last = Some(Head { seq, hash: chain::hash(bytes) });
                batch.push(Op::remove(Table::Audit, key.clone()));
            }
            let Some(last) = last else { return Ok(gone) };
            let rows = batch.len() as u64;
            let place = mark_key(CHECKPOINT, node);
            let held = self.store.read(Table::Audit, &place).await?;
            let mark = chain::mark(&self.key, CHECKPOINT, node, last, &show((self.clock)()));
            batch.push(Op::put(Table::Audit, place.clone(), mark));
            let expected = vec![Op { table: Table::Audit, key: place, value: held }];
            if !self.store.write_if(expected, batch).await? {
                // Another gateway is at it.
                return Ok(gone);
            }
            gone += rows;
        }
    }

    /// Up to where a chain was let go.
    pub(super) async fn checkpoint(&self, node: &str) -> Result<Option<Head>> {
        let held = self.store.read(Table::Audit, &mark_key(CHECKPOINT, node)).await?;
        Ok(held.and_then(|held| chain::read_mark(&self.key, CHECKPOINT, node, &held)))
    }

    /// Every node that has a chain here, this one included.
    pub(super) async fn nodes(&self) -> Result<Vec<String>> {
        let mut nodes = vec![self.node.clone()];
        for kind in [HEAD, CHECKPOINT] {
            let prefix = format!("{}/", &kind[..1]);
            let marks = self.store.scan(Table::Audit, prefix.as_bytes(), None, MOST_NODES).await?;
            nodes.extend(marks.iter().filter_map(|(key, _)| Some(std::str::from_utf8(key.get(2..)?).ok()?.to_owned())));
        }
        // Rows whose head was taken away still name their chain.
        let mut after: Option<Vec<u8>> = None;
        while let Some((key, _)) = self.store.scan(Table::Audit, b"r/", after.as_deref(), 1).await?.pop() {
            let Some(end) = key.get(2..).and_then(|rest| rest.iter().position(|byte| *byte == 0)) else { break };
            let Some(node) = key.get(2..2 + end).and_then(|node| std::str::from_utf8(node).ok()) else { break };
            nodes.push(node.to_owned());
            after = Some(row_key(node, u64::MAX));
        }
        nodes.sort();
        nodes.dedup();
        Ok(nodes)
    }
}

/// Rows that go in one batch.
const PAGE: usize = 500;
const MOST_NODES: usize = 10_000;
