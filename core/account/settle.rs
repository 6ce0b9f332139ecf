//! Behind the settle queue: each finished request becomes its record, its metrics and its log line, once.

use std::{panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt;

use tokio::sync::mpsc;

use crate::{
    context::Step,
    exchange::{SettleQueue, Settled},
    telemetry::{self, Ring, metrics},
};

/// Starts the queue. It ends when every sender is gone, with nothing left in it.
pub fn start(ring: Arc<Ring>) -> (SettleQueue, tokio::task::JoinHandle<()>) {
    let (queue, mut inbox) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.recv_many(&mut batch, BATCH).await > 0 {
            for settled in batch.drain(..) {
                // A fault in one record must not end all records.
                if AssertUnwindSafe(settle(settled, &ring)).catch_unwind().await.is_err() {
                    tracing::error!("a request could not be recorded");
                }
            }
        }
    });
    (queue, task)
}

async fn settle(settled: Settled, ring: &Ring) {
    let Settled { mut cx, mut chain, mut record } = settled;
    chain.log(&mut cx, &mut record).await;
    for step in &cx.trace.steps {
        if let Step::Attempt { outcome, .. } = step {
            metrics().attempt(outcome_label(outcome));
        }
    }
    telemetry::observe(&record);
    telemetry::request_line(&record);
    ring.push(record, cx.trace);
}

/// `next: too short` is a stage's free text: the label is its first word.
fn outcome_label(outcome: &str) -> &str {
    outcome.split(':').next().unwrap_or(outcome)
}

const BATCH: usize = 256;
