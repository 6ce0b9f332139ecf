//! Figures of experiments outlive the process: hours that changed are written behind, each gateway's own under its name, and read
//! again at the start. A kill loses the last seconds of them; requests and charges are elsewhere.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{
    Experiments,
    figures::{Key, Tally},
};
use crate::{
    account::minute::Minute,
    store::{Op, Result, Store, Table},
};

impl Experiments {
    /// Takes up what the last process left.
    pub async fn read(&self, store: &dyn Store) {
        let node = store.node().unwrap_or("");
        let outcome = each(store, |of, key, tally| {
            if of == node {
                self.figures.restore(key, &tally);
            }
        });
        if let Err(error) = outcome.await {
            tracing::warn!(%error, "figures of experiments cannot be read: they begin with nothing");
        }
    }

    /// Writes what changes until `stop`, and then once more.
    pub async fn run(self: Arc<Self>, store: Arc<dyn Store>, stop: CancellationToken) {
        let mut told = false;
        loop {
            let over = tokio::select! {
                () = tokio::time::sleep(PAUSE) => false,
                () = stop.cancelled() => true,
            };
            if let Err(error) = self.write(&*store).await
                && !std::mem::replace(&mut told, true)
            {
                tracing::warn!(%error, "figures of experiments are not written down for now; they stay in memory");
            }
            if over {
                return;
            }
        }
    }

    async fn write(&self, store: &dyn Store) -> Result<()> {
        let oldest = oldest();
        self.figures.forget(oldest);
        let changes = self.figures.changes();
        if changes.is_empty() {
            return Ok(());
        }
        let node = store.node().unwrap_or("");
        let put = |(key, tally): &(Key, Tally)| {
            Some(Op::put(Table::Experiments, row(key, node), serde_json::to_vec(tally).ok()?))
        };
        let mut batch: Vec<Op> = changes.iter().filter_map(put).collect();
        // Rows begin with their hour: the oldest come first.
        for (key, _) in store.scan(Table::Experiments, &[], None, SWEEP).await? {
            if parsed(&key).is_none_or(|(_, (hour, ..))| hour < oldest) {
                batch.push(Op::remove(Table::Experiments, key));
            }
        }
        let outcome = store.write_soft(batch).await;
        if outcome.is_err() {
            self.figures.again(changes.into_iter().map(|(key, _)| key));
        }
        outcome.map(|_| ())
    }
}

/// Every row, with the gateway that it is of.
pub(super) async fn each(store: &dyn Store, mut f: impl FnMut(&str, Key, Tally)) -> Result<()> {
    let mut after = None;
    loop {
        let rows = store.scan(Table::Experiments, &[], after.as_deref(), PAGE).await?;
        let last = rows.len() < PAGE;
        for (key, value) in rows {
            if let (Some((node, of)), Ok(tally)) = (parsed(&key), serde_json::from_slice(&value)) {
                f(node, of, tally);
            }
            after = Some(key);
        }
        if last {
            return Ok(());
        }
    }
}

/// The first hour that is still of interest.
fn oldest() -> u32 {
    Minute::of(std::time::SystemTime::now()).hour().0.saturating_sub(KEEP_HOURS)
}

/// `hour 0 node 0 model 0 arm`, the hour in hexadecimal digits.
fn row((hour, model, arm): &Key, node: &str) -> String {
    format!("{hour:08x}\0{node}\0{model}\0{arm}")
}

fn parsed(row: &[u8]) -> Option<(&str, Key)> {
    let mut parts = std::str::from_utf8(row).ok()?.splitn(4, '\0');
    let hour = u32::from_str_radix(parts.next()?, 16).ok()?;
    let (node, model, arm) = (parts.next()?, parts.next()?, parts.next()?);
    Some((node, (hour, model.into(), arm.into())))
}

const PAUSE: Duration = Duration::from_secs(5);
const KEEP_HOURS: u32 = 31 * 24;
const PAGE: usize = 1_000;
/// Old rows that a write takes along.
const SWEEP: usize = 100;
