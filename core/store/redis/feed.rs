//! What others change is heard at once by a message, and found within a second by looking where none came. The same look is this
//! gateway's sign of life. The rows themselves are not carried: who wants one reads it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ::redis::Value;
use futures_util::StreamExt;
use tokio::sync::{Notify, broadcast};

use super::{
    Names, ROWS, Redis,
    link::Link,
    scripts::{SINCE, bytes, item, number},
};
use crate::store::{Directory, Table, changes::Told};

impl Redis {
    /// Starts to listen and to look, until the store is closed.
    pub(super) fn follow(&self) {
        let heard = Arc::new(Notify::new());
        tokio::spawn(listen(self.link.clone(), self.names.channel.clone(), heard.clone()));
        let names = &self.names;
        let feed = Feed {
            link: self.link.clone(),
            about: names.about.clone(),
            log: names.log.clone(),
            alive: names.alive.clone(),
            node: self.node.clone(),
            told: self.told.clone(),
            seen: self.opened,
            noted: self.opened,
            directory: self.directory.clone(),
            nodes: self.nodes.clone(),
        };
        tokio::spawn(feed.run(heard));
    }

    /// No sign of life any more.
    pub(super) async fn leave(&self) {
        if self.lock.get().is_none() {
            return;
        }
        let Names { alive, .. } = &self.names;
        let mut command = ::redis::cmd("ZREM");
        command.arg(alive).arg(&self.node);
        let _ = self.link.call(command, self.link.config.timeout).await;
    }
}

struct Feed {
    link: Arc<Link>,
    about: String,
    log: String,
    alive: String,
    node: String,
    told: broadcast::Sender<Told>,
    /// The newest commit whose changes were told.
    seen: u64,
    /// As it stands in the folder.
    noted: u64,
    directory: Directory,
    /// How many gateways live.
    nodes: Arc<AtomicU64>,
}

impl Feed {
    async fn run(mut self, heard: Arc<Notify>) {
        loop {
            self.look().await;
            tokio::select! {
                () = heard.notified() => {}
                () = tokio::time::sleep(EVERY) => {}
                () = self.link.closed.cancelled() => return self.note(),
            }
        }
    }

    async fn look(&mut self) {
        let seen = self.seen.to_string();
        let gone = GONE.as_millis().to_string();
        let keys = [&self.about, &self.log, &self.alive].map(|name| name.as_bytes());
        let lease = self.link.config.lease.as_millis().to_string();
        let asked = Instant::now();
        let expected = self.link.time.expected(asked).to_string();
        let args = [self.link.id(), &seen, &self.node, &gone, &lease, &expected].map(str::as_bytes);
        // What fails here fails for everybody, and is told by the link.
        let Ok(answer) = self.link.run(&SINCE, &keys, &args, ROWS.min(self.link.config.timeout * 2)).await else {
            return;
        };
        self.link.time.showed(number(&answer, 4), asked);
        let Some(commits) = number(&answer, 0) else { return };
        self.nodes.store(number(&answer, 1).unwrap_or(1).max(1), Ordering::Relaxed);
        if commits < self.seen {
            // What is in memory is the newer truth: a revocation is not taken back because a server forgot it.
            tracing::error!(
                redis = %self.link.at, lost = self.seen - commits,
                "the shared store has lost its last changes: this gateway goes on with what it knows; revoke again what was revoked"
            );
            self.seen = commits;
            return self.note();
        }
        if commits == self.seen {
            return;
        }
        let lost = number(&answer, 2) == Some(1);
        let rows: Vec<(Table, Vec<u8>)> = match item(&answer, 3) {
            Some(Value::Array(keys)) => keys.iter().filter_map(|key| row(bytes(key)?)).collect(),
            _ => Vec::new(),
        };
        self.seen = commits;
        if lost {
            let _ = self.told.send(Told::Anything);
        } else if !rows.is_empty() {
            let _ = self.told.send(Told::Rows(rows.into()));
        }
        if self.seen.saturating_sub(self.noted) >= NOTE_EVERY {
            self.note();
        }
    }

    /// How far the store was, for the next start.
    fn note(&mut self) {
        self.noted = self.seen;
        let _ = self.directory.set_shared(&format!("{} {}\n", self.link.id(), self.seen));
    }
}

fn row(key: &[u8]) -> Option<(Table, Vec<u8>)> {
    let (tag, key) = key.split_first()?;
    Some((Table::tagged(*tag)?, key.to_vec()))
}

/// Wakes the feed at each message; a connection that is lost is made anew, and what was missed meanwhile is found by looking.
async fn listen(link: Arc<Link>, channel: String, heard: Arc<Notify>) {
    let mut rest = RETRY;
    loop {
        let listening = async {
            let Ok(messages) = link.listen(&channel).await else { return };
            rest = RETRY;
            let mut messages = messages.into_on_message();
            heard.notify_one();
            while messages.next().await.is_some() {
                heard.notify_one();
            }
        };
        tokio::select! {
            () = listening => {}
            () = link.closed.cancelled() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(rest) => {}
            () = link.closed.cancelled() => return,
        }
        rest = (rest * 2).min(RETRY_MOST);
    }
}

/// Between two looks when no message came.
const EVERY: Duration = Duration::from_secs(1);
/// Without a sign of life for so long a gateway is gone.
pub(super) const GONE: Duration = Duration::from_secs(15);
/// Changes that are remembered for those who missed their messages.
pub(super) const MOST_TOLD: usize = 10_000;
/// Commits between two notes in the folder.
const NOTE_EVERY: u64 = 1_000;
const RETRY: Duration = Duration::from_millis(200);
const RETRY_MOST: Duration = Duration::from_secs(5);
