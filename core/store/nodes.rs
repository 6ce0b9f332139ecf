//! The gateways that share a store: each leaves a row with its name and where its operators' port is, and marks the ids of
//! requests that it answers. So any of them can say where a record lies; it cannot say what is in it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::{Op, Result, Store, Table};

/// A gateway, as the others know it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Node {
    #[serde(skip)]
    pub name: String,
    /// Its operators' port.
    pub admin: String,
    /// When it last started, in seconds since 1970.
    pub since: u64,
}

/// Says to the others that this gateway serves, and forgets those that have not been started for long.
pub async fn register(store: &dyn Store, admin: String, now: SystemTime) -> Result<()> {
    let Some(name) = store.node() else { return Ok(()) };
    let since = now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    let own = Node { name: name.to_owned(), admin, since };
    let mut batch = vec![Op::put(Table::Nodes, name, serde_json::to_vec(&own).unwrap_or_default())];
    let old = all(store).await?.into_iter().filter(|node| node.name != name && node.since + KEPT.as_secs() < since);
    batch.extend(old.map(|node| Op::remove(Table::Nodes, node.name)));
    store.write_soft(batch).await
}

/// Who may have answered this request: the others whose mark its id carries.
pub async fn of_request(store: &dyn Store, mark: u16) -> Result<Vec<Node>> {
    let Some(own) = store.node() else { return Ok(Vec::new()) };
    let mut found = all(store).await?;
    found.retain(|node| node.name != own && self::mark(&node.name) == Some(mark));
    Ok(found)
}

async fn all(store: &dyn Store) -> Result<Vec<Node>> {
    let rows = store.scan(Table::Nodes, b"", None, MOST).await?;
    let read = |(name, row): (Vec<u8>, Vec<u8>)| {
        let node: Node = serde_json::from_slice(&row).ok()?;
        Some(Node { name: String::from_utf8(name).ok()?, ..node })
    };
    Ok(rows.into_iter().filter_map(read).collect())
}

/// The part of a gateway's name that ids carry: never zero, which is no mark.
pub fn mark(name: &str) -> Option<u16> {
    u16::from_str_radix(name.get(..3)?, 16).ok().filter(|mark| *mark != 0)
}

/// Longer than records are kept by default.
const KEPT: Duration = Duration::from_secs(60 * 86_400);
const MOST: usize = 10_000;
