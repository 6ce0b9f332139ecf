//! What was learned of prompts' sizes outlives the process: the ratios of targets, written down now and then, and read at the
//! start. A hint: what could not be written is learned again.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::estimate::Estimates;
use crate::store::{Op, Store, StoreError, Table};

/// Of the last process, or of another gateway on the same store.
pub async fn restore(estimates: &Estimates, store: &dyn Store) {
    match store.read(Table::Meta, ROW).await {
        Ok(None) => {}
        Ok(Some(row)) => match serde_json::from_slice::<BTreeMap<String, f32>>(&row) {
            Ok(ratios) => ratios.iter().for_each(|(target, ratio)| estimates.recall(target, *ratio)),
            Err(error) => tracing::warn!(%error, "ratios of prompts begin anew: their row is not right"),
        },
        Err(error) => tracing::warn!(%error, "ratios of prompts begin anew: they could not be read"),
    }
}

/// Until `stop`, and once more then.
pub async fn run(estimates: Arc<Estimates>, store: Arc<dyn Store>, stop: CancellationToken) {
    let mut known = estimates.learned();
    let mut failing = false;
    loop {
        let over = tokio::time::timeout(EVERY, stop.cancelled()).await.is_ok();
        let now = estimates.learned();
        if now != known {
            match keep(&now, &*store).await {
                Ok(()) => (known, failing) = (now, false),
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(%error, "ratios of prompts are kept in memory only until the store takes writes again");
                    }
                }
            }
        }
        if over {
            return;
        }
    }
}

pub(super) async fn keep(ratios: &BTreeMap<String, f32>, store: &dyn Store) -> Result<(), StoreError> {
    // Texts and finite numbers: there is nothing in it that JSON could not say.
    let row = serde_json::to_vec(ratios).unwrap_or_default();
    store.write_soft(vec![Op::put(Table::Meta, ROW, row)]).await
}

const ROW: &[u8] = b"estimates/ratios";
const EVERY: Duration = Duration::from_secs(30);
