//! Redis behind the contract: the store that several gateways share. Rows lie in one hash, their keys in one sorted set beside
//! it, and every batch is one script, so that it is whole for everybody. Acknowledged means that Redis took it: whether that
//! outlives Redis's machine is Redis's own configuration, which is looked at when the store is opened.
//!
//! What is each gateway's own (records, stored answers, the history of its configuration) stays in its folder; the history's
//! rows lie under the gateway's name.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, atomic::AtomicU64},
    time::Duration,
};

use ::redis::Value;
use futures_util::future::BoxFuture;
use tokio::sync::broadcast;

use self::{
    link::Link,
    scripts::{BEGIN, SCAN, WRITE, bytes, number, text},
};
use super::{
    Changes, Counters, Directory, Exported, Op, Result, Row, Store, StoreError, Table, Volatile, changes::Told, check,
    hex,
};
use crate::config;

mod counters;
mod feed;
mod link;
mod moving;
mod promises;
mod scripts;
mod time;
mod volatile;

pub(super) use moving::import;

pub(super) struct Redis {
    link: Arc<Link>,
    names: Names,
    directory: Directory,
    /// This gateway among those that share the store.
    node: String,
    told: broadcast::Sender<Told>,
    /// How many gateways live, by their signs of life.
    nodes: Arc<AtomicU64>,
    /// Of the newest commit when it was opened: what changes after it is told.
    opened: u64,
    notices: Vec<String>,
    /// Held while this gateway serves from its folder.
    lock: OnceLock<File>,
}

/// What lies where in Redis. The prefix is a hash tag: in a cluster all of it lies together.
pub(super) struct Names {
    about: String,
    rows: String,
    order: String,
    log: String,
    alive: String,
    channel: String,
}

impl Names {
    fn new(prefix: &str) -> Names {
        let name = |what: &str| format!("{{{prefix}}}:{what}");
        Names {
            about: name("about"),
            rows: name("rows"),
            order: name("order"),
            log: name("log"),
            alive: name("alive"),
            channel: name("changes"),
        }
    }
}

impl Redis {
    pub async fn open(config: &Arc<config::Redis>, path: &Path) -> Result<Redis> {
        let directory = Directory::open(path)?;
        let names = Names::new(&config.prefix);
        let link = Arc::new(Link::new(config.clone(), names.about.clone())?);
        link.open().await?;
        let mut fresh = [0; 16];
        aws_lc_rs::rand::fill(&mut fresh).map_err(|_| directory.io(std::io::Error::other("no random numbers")))?;
        let fresh = hex::encode(&fresh);
        let keys = [names.about.as_bytes(), names.rows.as_bytes()];
        let answer = link.run(&BEGIN, &keys, &[scripts::LAYOUT.as_bytes(), fresh.as_bytes()], ROWS).await?;
        let id = text(&answer, 1).unwrap_or_default();
        let commits = number(&answer, 2).unwrap_or(0);
        link.known(id.clone());
        promises::refuse_age(&link).await?;
        promises::refuse_eviction(&link).await?;
        let mut notices = promises::look(&link).await;
        notices.extend(recognise(&directory, &link, &id, commits)?);
        for notice in &notices {
            tracing::warn!("{notice}");
        }
        tokio::spawn(link.clone().keep());
        let node = directory.node()?;
        let (told, _) = broadcast::channel(TOLD);
        Ok(Redis {
            link,
            names,
            directory,
            node,
            told,
            nodes: Arc::new(AtomicU64::new(1)),
            opened: commits,
            notices,
            lock: OnceLock::new(),
        })
    }

    async fn apply(&self, expected: Vec<Op>, batch: Vec<Op>) -> Result<bool> {
        check(&batch)?;
        let names = &self.names;
        let count = expected.len().to_string();
        let most = feed::MOST_TOLD.to_string();
        let told: Vec<u8> = Table::ALL.into_iter().filter(|table| table.is_told()).map(Table::tag).collect();
        let keys_tag = [Table::Keys.tag()];
        let mut args: Vec<Vec<u8>> = vec![
            self.link.id().into(),
            names.channel.as_bytes().into(),
            told,
            keys_tag.to_vec(),
            most.into_bytes(),
            count.into_bytes(),
        ];
        for op in expected.into_iter().chain(batch) {
            args.push(self.key(op.table, &op.key));
            args.push(if op.value.is_some() { b"1".to_vec() } else { b"0".to_vec() });
            args.push(op.value.unwrap_or_default());
        }
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        let keys = [&names.about, &names.rows, &names.order, &names.log].map(|name| name.as_bytes());
        let answer = self.link.run(&WRITE, &keys, &args, ROWS).await?;
        self.link.took();
        Ok(!matches!(answer, Value::Int(0)))
    }

    /// A row's whole key. Rows that each gateway has for itself carry its name.
    fn key(&self, table: Table, key: &[u8]) -> Vec<u8> {
        whole(table, &self.node, key)
    }

    async fn page(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>> {
        let own = self.key(table, b"").len();
        let prefix = self.key(table, prefix);
        let after = after.map(|key| self.key(table, key)).filter(|key| *key >= prefix);
        let mut from = match &after {
            Some(after) => [b"(", after.as_slice()].concat(),
            None => [b"[", prefix.as_slice()].concat(),
        };
        let to = behind(&prefix);
        let (rows, order) = (&self.names.rows, &self.names.order);
        let mut out: Vec<Row> = Vec::new();
        // A page of large rows comes in pieces, so that one answer is bounded.
        while out.len() < limit {
            let page = scan(&self.link, (rows, order), &from, &to, limit - out.len()).await?;
            let Some((last, _)) = page.last() else { break };
            from = [b"(", last.as_slice()].concat();
            out.extend(page.into_iter().map(|(mut key, value)| (key.split_off(own), value)));
        }
        Ok(out)
    }
}

/// One piece of a table.
async fn scan(link: &Link, (rows, order): (&str, &str), from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>> {
    let (most, size) = (limit.min(PIECE).to_string(), PIECE_SIZE.to_string());
    let args = [from, to, most.as_bytes(), size.as_bytes()];
    let answer = link.run(&SCAN, &[rows.as_bytes(), order.as_bytes()], &args, ROWS).await?;
    let Value::Array(items) = answer else { return Ok(Vec::new()) };
    let mut found = Vec::with_capacity(items.len() / 2);
    let mut items = items.into_iter();
    while let (Some(Value::BulkString(key)), Some(Value::BulkString(value))) = (items.next(), items.next()) {
        found.push((key, value));
    }
    Ok(found)
}

fn whole(table: Table, node: &str, key: &[u8]) -> Vec<u8> {
    if !table.is_own() {
        return table.key(key);
    }
    // A node's name holds no zero byte.
    table.key(&[node.as_bytes(), &[0], key].concat())
}

/// The end of all keys that begin with `prefix`, which begins with a table's tag and so is never all ones.
fn behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.last() == Some(&0xff) {
        end.pop();
    }
    match end.last_mut() {
        Some(last) => *last += 1,
        None => return b"+".to_vec(),
    }
    end.insert(0, b'(');
    end
}

/// Is it the store that this gateway's folder knows? What it lost since then is told.
fn recognise(directory: &Directory, link: &Link, id: &str, commits: u64) -> Result<Option<String>> {
    let known = directory.shared()?;
    let note = format!("{id} {commits}\n");
    let Some(known) = known else {
        directory.set_shared(&note)?;
        return Ok(None);
    };
    let mut fields = known.split_whitespace();
    let (was, seen) = (fields.next().unwrap_or(""), fields.next().and_then(|n| n.parse::<u64>().ok()).unwrap_or(0));
    if was != id {
        let message = format!(
            "{} is not the store that this folder was used with: it was emptied, replaced by an import, or is another one, and \
             keys made until then may be unknown there. If that is meant, remove this file and start again",
            link.at
        );
        return Err(StoreError::File { path: directory.shared_path(), message });
    }
    directory.set_shared(&note)?;
    let lost = seen.saturating_sub(commits);
    Ok((lost > 0).then(|| {
        format!(
            "{} has lost its last {lost} changes or more (a restart without a full append-only file, or a replica that took \
             over): look at `portcullis keys list`, and revoke again what was revoked",
            link.at
        )
    }))
}

impl Store for Redis {
    fn read(&self, table: Table, key: &[u8]) -> BoxFuture<'_, Result<Option<Vec<u8>>>> {
        let key = self.key(table, key);
        Box::pin(async move {
            let mut command = ::redis::cmd("HGET");
            command.arg(&self.names.rows).arg(&key);
            let answer = self.link.call(command, ROWS).await?;
            Ok(bytes(&answer).map(<[u8]>::to_vec))
        })
    }

    fn scan(&self, table: Table, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> BoxFuture<'_, Result<Vec<Row>>> {
        let (prefix, after) = (prefix.to_vec(), after.map(<[u8]>::to_vec));
        Box::pin(async move { self.page(table, &prefix, after.as_deref(), limit).await })
    }

    fn write(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move { self.apply(Vec::new(), batch).await.map(drop) })
    }

    fn write_if(&self, expected: Vec<Op>, batch: Vec<Op>) -> BoxFuture<'_, Result<bool>> {
        Box::pin(self.apply(expected, batch))
    }

    fn write_soft(&self, batch: Vec<Op>) -> BoxFuture<'_, Result<()>> {
        self.write(batch)
    }

    fn close(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            if !self.link.closed.is_cancelled() {
                self.leave().await;
                self.link.close();
                if let Some(lock) = self.lock.get() {
                    let _ = lock.unlock();
                }
            }
            Ok(())
        })
    }

    fn directory(&self) -> Option<&Directory> {
        Some(&self.directory)
    }

    fn export(&self, to: Option<PathBuf>) -> BoxFuture<'_, Result<Exported>> {
        Box::pin(moving::export(self, to))
    }

    fn trouble(&self) -> Option<&'static str> {
        self.link.fault().map(|error| error.trouble())
    }

    fn notices(&self) -> &[String] {
        &self.notices
    }

    fn node(&self) -> Option<&str> {
        Some(&self.node)
    }

    fn join(&self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let lock = self.directory.lock(LOCK_WAIT)?;
            let _ = self.lock.set(lock);
            self.directory.room()?;
            self.follow();
            Ok(())
        })
    }

    fn changes(&self) -> Option<Changes> {
        Some(Changes::new(self.told.subscribe()))
    }

    fn counters(&self) -> Option<Arc<dyn Counters>> {
        let (link, about) = (self.link.clone(), self.names.about.clone());
        Some(Arc::new(counters::Tally { link, about, nodes: self.nodes.clone() }))
    }

    fn volatile(&self) -> BoxFuture<'_, Result<Option<Arc<dyn Volatile>>>> {
        Box::pin(async move {
            let values: Arc<dyn Volatile> = Arc::new(volatile::Values::open(self.link.beside()?).await);
            Ok(Some(values))
        })
    }
}

/// Behind rows nobody waits with a request in hand: a server that is busy is given time.
const ROWS: Duration = Duration::from_secs(10);
const LOCK_WAIT: Duration = Duration::from_secs(5);
/// Changes that one who listens may be behind.
const TOLD: usize = 256;
/// Of one answer.
const PIECE: usize = 1_000;
const PIECE_SIZE: usize = 4 << 20;
