//! Behind the settle queue: each finished request becomes its record, its metrics, its log line and its place in the
//! ledger, once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;

use super::{Ledger, Record, charge, estimate::Estimates, hooks::Hooks};
use crate::{
    context::{Step, Trace},
    exchange::{Inner, SettleQueue, Settled},
    telemetry::{self, metrics},
};

/// Records on their way to the ledger.
type Rows = mpsc::UnboundedSender<(Record, Trace)>;

/// Starts the queue. It ends when every sender is gone, with nothing left in it.
pub fn start(ledger: Arc<Ledger>, estimates: Arc<Estimates>) -> (SettleQueue, tokio::task::JoinHandle<()>) {
    let (queue, mut inbox) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let (rows, finished) = mpsc::unbounded_channel();
        let writing = tokio::spawn(write(finished, ledger));
        let hooks = Hooks::default();
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.recv_many(&mut batch, BATCH).await > 0 {
            for settled in batch.drain(..) {
                // A fault in one record must not end all records.
                if catch_unwind(AssertUnwindSafe(|| settle(settled, &rows, &estimates, &hooks))).is_err() {
                    tracing::error!("a request could not be recorded");
                }
            }
            // Nobody waits for a record. While this sleeps, requests need not wake it one by one.
            if inbox.is_empty() && !inbox.is_closed() {
                tokio::time::sleep(REST).await;
            }
        }
        hooks.idle().await;
        drop(rows);
        let _ = writing.await;
    });
    (queue, task)
}

fn settle(mut settled: Settled, rows: &Rows, estimates: &Estimates, hooks: &Hooks) {
    let inner = &mut *settled.0;
    charge::count(&mut inner.record, &inner.size, estimates);
    if let Some(reservation) = inner.reservation.take() {
        charge::settle(*reservation, &mut inner.record);
    }
    if inner.chain.wants_log() {
        let rows = rows.clone();
        return hooks.run(settled, move |settled| finish(settled, &rows));
    }
    inner.chain.close(&mut inner.cx);
    finish(settled, rows);
}

/// One request by itself: what a rehearsal ends with. Nothing is counted, logged or kept.
pub async fn alone(mut settled: Settled, estimates: &Estimates) -> (Record, Trace) {
    let inner = &mut *settled.0;
    charge::count(&mut inner.record, &inner.size, estimates);
    if let Some(reservation) = inner.reservation.take() {
        charge::settle(*reservation, &mut inner.record);
    }
    inner.chain.log(&mut inner.cx, &mut inner.record).await;
    let Inner { cx, record, .. } = *settled.0;
    (record, cx.trace)
}

fn finish(settled: Settled, rows: &Rows) {
    let Inner { cx, record, .. } = *settled.0;
    for step in &cx.trace.steps {
        match step {
            Step::Attempt { outcome, .. } => metrics().attempt(outcome_label(outcome)),
            step => metrics().stage(step),
        }
    }
    telemetry::observe(&record);
    telemetry::request_line(&record);
    // The writer ends after the last of these.
    let _ = rows.send((record, cx.trace));
}

async fn write(mut finished: mpsc::UnboundedReceiver<(Record, Trace)>, ledger: Arc<Ledger>) {
    let mut batch = Vec::with_capacity(BATCH);
    while finished.recv_many(&mut batch, BATCH).await > 0 {
        ledger.settle(std::mem::take(&mut batch)).await;
        // What ends within a moment shares one write.
        tokio::time::sleep(LINGER).await;
    }
}

/// `next: too short` is a stage's free text: the label is its first word.
fn outcome_label(outcome: &str) -> &str {
    outcome.split(':').next().unwrap_or(outcome)
}

const BATCH: usize = 1024;
/// Between two batches.
const REST: Duration = Duration::from_millis(5);
/// The same for the ledger's writes.
const LINGER: Duration = Duration::from_millis(5);
