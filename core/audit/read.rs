//! The log as it is read: verified, listed newest first, exported oldest first. Changes nothing.

use std::{collections::BTreeMap, time::SystemTime};

use serde_json::Value;

use super::{Audit, Broken, HEAD, Head, Seen, chain, mark_key, row_key, rows_of};
use crate::store::{self, Table};

/// Which rows. What is absent takes all.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// `keys.create`, or all of `keys`.
    pub action: Option<String>,
    /// An actor's kind, id or name.
    pub actor: Option<String>,
    pub object: Option<String>,
    pub outcome: Option<String>,
    pub node: Option<String>,
    pub from: Option<SystemTime>,
    pub to: Option<SystemTime>,
}

/// Newest first.
#[derive(Debug, Default)]
pub struct Page {
    pub rows: Vec<Value>,
    /// Where the next page begins; a page may be short and not the last.
    pub next: Option<String>,
}

impl Audit {
    /// Follows every chain to its end, while others go on writing. The first fault of the first chain that has one.
    pub async fn verify(&self) -> store::Result<Result<Vec<Seen>, Broken>> {
        let mut all = Vec::new();
        for node in self.nodes().await? {
            let mut from = self.checkpoint(&node).await?;
            let found = loop {
                let found = self.verify_chain(&node, from.unwrap_or(chain::NOTHING)).await?;
                let now = self.checkpoint(&node).await?;
                // What is let go meanwhile is not missing.
                if found.is_ok() || now == from {
                    break found;
                }
                from = now;
            };
            match found {
                Ok(seen) if seen.last == 0 => {}
                Ok(seen) => all.push(seen),
                Err(broken) => return Ok(Err(broken)),
            }
        }
        Ok(Ok(all))
    }

    async fn verify_chain(&self, node: &str, from: Head) -> store::Result<Result<Seen, Broken>> {
        let noted = if node == self.node { self.note()? } else { None };
        let head = self.named_end(node).await?;
        let noted = [(noted, "the file audit.head"), (head, "the store's head")];
        let noted = noted.into_iter().filter_map(|(head, who)| Some((head?, who))).collect();
        let mut walk = chain::Walk::new(&self.key, node, from, noted);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.scan(Table::Audit, &rows_of(node), after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, bytes) in &page {
                if let Err(broken) = walk.next(seq_of(key).unwrap_or(0), bytes) {
                    return Ok(Err(broken));
                }
            }
        }
        let head = match self.named_end(node).await? {
            // A chain of which there is nothing at all.
            None if after.is_none() && from == chain::NOTHING => Some(chain::NOTHING),
            head => head,
        };
        Ok(walk.end(head))
    }

    /// `None`: there is no head, or none of ours.
    async fn named_end(&self, node: &str) -> store::Result<Option<Head>> {
        let held = self.store.read(Table::Audit, &mark_key(HEAD, node)).await?;
        Ok(held.and_then(|held| chain::read_mark(&self.key, HEAD, node, &held)))
    }

    /// Newest first, over all chains. `cursor`: of the page before.
    pub async fn page(&self, wanted: &Wanted, cursor: Option<&str>, limit: usize) -> store::Result<Option<Page>> {
        let Some(mut before) = places(cursor) else { return Ok(None) };
        let mut chains = Vec::new();
        for node in self.nodes().await?.into_iter().filter(|node| wanted.node.as_ref().is_none_or(|n| n == node)) {
            let end = match before.remove(&node) {
                Some(end) => end,
                None if cursor.is_some() => 0,
                None => self.last(&node).await? + 1,
            };
            chains.push(Back::of(node, end));
        }
        let mut page = Page::default();
        let mut looked = 0;
        let mut ended = false;
        while page.rows.len() < limit && looked < MOST_LOOKED {
            let mut newest: Option<(usize, String)> = None;
            for (at, chain) in chains.iter_mut().enumerate() {
                self.fill(chain).await?;
                let time = chain.rows.last().and_then(|(_, row)| row["time"].as_str().map(str::to_owned));
                if let Some(time) = time.filter(|time| newest.as_ref().is_none_or(|(_, best)| time > best)) {
                    newest = Some((at, time));
                }
            }
            let Some((at, _)) = newest else {
                ended = true;
                break;
            };
            looked += 1;
            if let Some((_, row)) = chains[at].pop() {
                if wanted.takes(&row) {
                    page.rows.push(row);
                } else if wanted.is_before(&row) {
                    // Rows of a chain stand in the order of time: nothing older is wanted.
                    chains[at].before = 0;
                    chains[at].rows.clear();
                }
            }
        }
        let left: Vec<String> = chains
            .iter()
            .filter(|chain| !ended && chain.before > 1)
            .map(|chain| format!("{}:{}", chain.node, chain.before))
            .collect();
        page.next = (!left.is_empty()).then(|| left.join(","));
        Ok(Some(page))
    }

    /// The rows before `chain.before`, oldest first, so that the newest is popped first.
    pub(super) async fn fill(&self, chain: &mut Back) -> store::Result<()> {
        while chain.rows.is_empty() && chain.before > 1 {
            let first = chain.before.saturating_sub(CHUNK).max(1);
            let after = row_key(&chain.node, first - 1);
            let count = usize::try_from(chain.before - first).unwrap_or(usize::MAX);
            let found = self.store.scan(Table::Audit, &rows_of(&chain.node), Some(&after), count).await?;
            let before = chain.before;
            let rows = found.into_iter().filter_map(|(key, bytes)| Some((seq_of(&key)?, bytes)));
            // What is no row of ours is shown as what it is, by `verify`.
            chain.rows = rows
                .filter(|(seq, _)| *seq < before)
                .filter_map(|(seq, bytes)| Some((seq, serde_json::from_slice(&bytes).ok()?)))
                .collect();
            if chain.rows.is_empty() {
                // Pruned, or a gap.
                let checkpoint = self.checkpoint(&chain.node).await?.map_or(0, |head| head.seq);
                chain.before = if first <= checkpoint + 1 { 0 } else { first };
            }
        }
        Ok(())
    }

    /// Rows as they are stored, oldest first, chain by chain: after `cursor`, about `limit` of them. The second: the next
    /// cursor.
    pub async fn export(
        &self,
        wanted: &Wanted,
        cursor: Option<&str>,
        limit: usize,
    ) -> store::Result<Option<(Vec<Vec<u8>>, Option<String>)>> {
        let Some(begin) = places(cursor) else { return Ok(None) };
        let begin = begin.into_iter().next();
        let mut rows = Vec::new();
        for node in self.nodes().await? {
            if wanted.node.as_ref().is_some_and(|wanted| *wanted != node) {
                continue;
            }
            let mut after = match &begin {
                Some((first, _)) if node < *first => continue,
                Some((first, seq)) if node == *first => Some(row_key(&node, *seq)),
                _ => None,
            };
            loop {
                let page = self.store.scan(Table::Audit, &rows_of(&node), after.as_deref(), PAGE).await?;
                let Some((last, _)) = page.last() else { break };
                let seq = seq_of(last).unwrap_or(0);
                after = Some(last.clone());
                rows.extend(page.into_iter().map(|(_, bytes)| bytes).filter(|bytes| {
                    let row = serde_json::from_slice::<Value>(bytes).unwrap_or_default();
                    wanted.takes(&row)
                }));
                if rows.len() >= limit {
                    return Ok(Some((rows, Some(format!("{node}:{seq}")))));
                }
            }
        }
        Ok(Some((rows, None)))
    }

    async fn last(&self, node: &str) -> store::Result<u64> {
        match self.named_end(node).await? {
            Some(head) => Ok(head.seq),
            // A head that is gone hides no row.
            None => Ok(self.last_row(node).await?.seq),
        }
    }

    /// By reading them all.
    pub(super) async fn last_row(&self, node: &str) -> store::Result<Head> {
        let mut last = self.checkpoint(node).await?.unwrap_or(chain::NOTHING);
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.scan(Table::Audit, &rows_of(node), after.as_deref(), PAGE).await?;
            let Some((key, bytes)) = page.last() else { return Ok(last) };
            if let Some(seq) = seq_of(key) {
                last = Head { seq, hash: chain::hash(bytes) };
            }
            after = Some(key.clone());
        }
    }
}

/// A chain on its way back.
pub(super) struct Back {
    node: String,
    before: u64,
    rows: Vec<(u64, Value)>,
}

impl Back {
    /// From the row before this one.
    pub fn of(node: String, before: u64) -> Back {
        Back { node, before, rows: Vec::new() }
    }

    /// The newest that is left of what was read.
    pub fn pop(&mut self) -> Option<(u64, Value)> {
        let (seq, row) = self.rows.pop()?;
        self.before = seq;
        Some((seq, row))
    }
}

impl Wanted {
    pub fn takes(&self, row: &Value) -> bool {
        let is = |wanted: &Option<String>, found: &Value| wanted.as_ref().is_none_or(|text| found == text.as_str());
        let action = row["action"].as_str().unwrap_or_default();
        let in_action = |wanted: &String| {
            action.strip_prefix(wanted.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let actor = |wanted: &String| ["kind", "id", "name"].iter().any(|part| row["actor"][part] == wanted.as_str());
        let time = time(row);
        self.action.as_ref().is_none_or(in_action)
            && self.actor.as_ref().is_none_or(actor)
            && is(&self.object, &row["object"])
            && is(&self.outcome, &row["outcome"])
            && is(&self.node, &row["node"])
            && self.from.is_none_or(|from| time.is_some_and(|time| time >= from))
            && self.to.is_none_or(|to| time.is_some_and(|time| time < to))
    }

    fn is_before(&self, row: &Value) -> bool {
        self.from.is_some_and(|from| time(row).is_some_and(|time| time < from))
    }
}

/// Rows as CSV, for tables: the first line names the columns. What a spreadsheet would take for a formula is quoted.
pub fn csv(rows: &[Vec<u8>], head: bool) -> String {
    let mut out = csv::Writer::from_writer(Vec::new());
    if head {
        let _ = out.write_record(COLUMNS.iter().map(|path| path.trim_start_matches('/').replace('/', "_")));
    }
    for row in rows {
        let row = serde_json::from_slice::<Value>(row).unwrap_or_default();
        let _ = out.write_record(COLUMNS.iter().map(|path| match row.pointer(path) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) if text.starts_with(['=', '+', '-', '@', '\t', '\r']) => format!("'{text}"),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }));
    }
    String::from_utf8(out.into_inner().unwrap_or_default()).unwrap_or_default()
}

fn time(row: &Value) -> Option<SystemTime> {
    row["time"].as_str()?.parse::<jiff::Timestamp>().ok().map(SystemTime::from)
}

fn seq_of(key: &[u8]) -> Option<u64> {
    let number = key.get(key.len().checked_sub(8)?..)?;
    Some(u64::from_be_bytes(number.try_into().ok()?))
}

/// `node:seq,node:seq`. `None`: this is no cursor of ours.
fn places(cursor: Option<&str>) -> Option<BTreeMap<String, u64>> {
    let parts = cursor.into_iter().flat_map(|cursor| cursor.split(','));
    parts.map(|part| part.rsplit_once(':').and_then(|(node, seq)| Some((node.to_owned(), seq.parse().ok()?)))).collect()
}

const COLUMNS: [&str; 19] = [
    "/seq",
    "/node",
    "/time",
    "/actor/kind",
    "/actor/id",
    "/actor/name",
    "/actor/role",
    "/from/peer",
    "/from/agent",
    "/action",
    "/object",
    "/outcome",
    "/code",
    "/of",
    "/count",
    "/before",
    "/after",
    "/prev",
    "/mac",
];
const PAGE: usize = 500;
/// Rows of a chain that are read at a time on the way back.
const CHUNK: u64 = 200;
/// Rows that one page may look at.
const MOST_LOOKED: usize = 20_000;
