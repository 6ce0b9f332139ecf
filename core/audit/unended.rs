//! Actions of which only the beginning was written down: the gateway ended in between, and nobody knows whether they were done.
//! The next start says so in rows of its own, before it serves anybody.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Audit, Entry, Outcome, read::Back};
use crate::store;

impl Audit {
    /// Closes every row that says `intended` and has no end since the last start; says how many there were.
    pub async fn close_unended(&self) -> store::Result<usize> {
        let head = self.end.lock().await.head;
        let mut chain = Back::of(self.node.clone(), head.seq + 1);
        let (mut open, mut ended) = (BTreeMap::<u64, Value>::new(), Vec::<u64>::new());
        for _ in 0..MOST_LOOKED {
            self.fill(&mut chain).await?;
            let Some((seq, row)) = chain.pop() else { break };
            // What was open then was closed by that start.
            if row["action"] == STARTED {
                break;
            }
            ended.extend(row["of"].as_u64());
            if row["outcome"] == Outcome::Intended.name() {
                open.insert(seq, row);
            }
        }
        open.retain(|seq, _| !ended.contains(seq));
        let count = open.len();
        for (seq, row) in open {
            let mut entry = Entry::system(row["action"].as_str().unwrap_or_default()).outcome(Outcome::Unknown);
            entry.object = row["object"].as_str().map(str::to_owned);
            entry.code = Some(ENDED.to_owned());
            entry.of = Some(seq);
            self.record(entry).await?;
        }
        Ok(count)
    }
}

/// Written at each start, behind these.
pub const STARTED: &str = "gateway.start";
/// Why nobody knows.
const ENDED: &str = "gateway_ended";
/// Rows: refusals of a year of bad days.
const MOST_LOOKED: usize = 200_000;
