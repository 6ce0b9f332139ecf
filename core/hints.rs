//! What stages keep in `kv` outlives the process: changes are written behind, some seconds later and without the barrier, and read
//! again at the start. For hints: what a crash or a full disk takes is gone, and no request ever waits. Bounds are `kv`'s own.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    pipeline::kv::{Change, Kv},
    store::{Op, Store, Table},
};

/// Both hosts' memories: scripts' and plugins'.
pub struct Hints {
    store: Arc<dyn Store>,
    scripts: Arc<Kv>,
    plugins: Arc<Kv>,
}

impl Hints {
    pub fn new(store: Arc<dyn Store>, scripts: Arc<Kv>, plugins: Arc<Kv>) -> Hints {
        Hints { store, scripts, plugins }
    }

    /// Reads what the last process left for these stages. What is over, does not fit or is of another stage is taken out.
    pub async fn read(&self, stages: &BTreeSet<&str>) {
        let (mut after, mut count) = (None, 0);
        loop {
            let rows = match self.store.scan(Table::Kv, &[], after.as_deref(), PAGE).await {
                Ok(rows) => rows,
                Err(error) => return tracing::warn!(%error, "what stages kept cannot be read: they begin with nothing"),
            };
            let last = rows.len() < PAGE;
            let mut old = Vec::new();
            for (key, value) in rows {
                after = Some(key.clone());
                match change(&key, &value).filter(|change| stages.contains(change.stage.as_str())) {
                    Some(change) if count < MOST_ROWS && self.kv(&change.stage).restore(change.clone()) => count += 1,
                    _ => old.push(Op::remove(Table::Kv, key)),
                }
            }
            if !old.is_empty() && self.store.write_soft(old).await.is_err() {
                return;
            }
            if last {
                return tracing::debug!(count, "what stages kept is there again");
            }
        }
    }

    /// Writes what changes until `stop`, and then once more.
    pub async fn run(self, stop: CancellationToken) {
        let mut told = false;
        loop {
            let over = tokio::select! {
                () = tokio::time::sleep(PAUSE) => false,
                () = stop.cancelled() => true,
            };
            for kv in [&self.scripts, &self.plugins] {
                if let Err(error) = self.write(kv).await
                    && !std::mem::replace(&mut told, true)
                {
                    tracing::warn!(%error, "what stages keep is not written down for now; it stays in memory");
                }
            }
            if over {
                return;
            }
        }
    }

    async fn write(&self, kv: &Kv) -> crate::store::Result<()> {
        loop {
            let changes = kv.changes(BATCH);
            if changes.is_empty() {
                return Ok(());
            }
            for batch in changes.chunks(BATCH) {
                let outcome = self.store.write_soft(batch.iter().map(op).collect()).await;
                if let Err(error) = outcome {
                    kv.again(changes);
                    return Err(error);
                }
            }
        }
    }

    fn kv(&self, stage: &str) -> &Arc<Kv> {
        if stage.ends_with(".wasm") { &self.plugins } else { &self.scripts }
    }
}

/// `stage 0 tenant 0 key`, and `{ v, until }`: milliseconds since 1970.
fn op(change: &Change) -> Op {
    let Change { stage, tenant, key, now } = change;
    let row = format!("{stage}\0{tenant}\0{key}");
    let Some((value, until)) = now else { return Op::remove(Table::Kv, row) };
    let millis = |until: &SystemTime| until.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_millis() as u64);
    let body = json!({ "v": value, "until": until.as_ref().map(millis) });
    Op::put(Table::Kv, row, body.to_string())
}

/// `None`: not a row of ours.
fn change(key: &[u8], body: &[u8]) -> Option<Change> {
    let mut parts = std::str::from_utf8(key).ok()?.splitn(3, '\0');
    let (stage, tenant, key) = (parts.next()?, parts.next()?, parts.next()?);
    let mut body: Value = serde_json::from_slice(body).ok()?;
    let until = body["until"].as_u64().map(|millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis));
    let now = Some((body["v"].take(), until));
    Some(Change { stage: stage.to_owned(), tenant: tenant.to_owned(), key: key.to_owned(), now })
}

const PAUSE: Duration = Duration::from_secs(2);
/// Rows of one batch, and of one look.
const BATCH: usize = 500;
const PAGE: usize = 1_000;
/// That are read again at a start.
const MOST_ROWS: usize = 200_000;

#[cfg(test)]
mod tests;
