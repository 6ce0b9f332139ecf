//! Behind the settle queue: each finished request becomes its record, its metrics, its log line and its place in the
//! ledger, once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{
    Ledger, Record, SettleQueue, charge,
    estimate::Estimates,
    hooks::Hooks,
    queue::{Inbox, Queue, queue},
};
use crate::{
    context::{Step, Trace},
    exchange::{Inner, Settled},
    telemetry::{self, metrics},
};

/// Records on their way to the ledger.
type Rows = Queue<(Record, Trace)>;

/// Starts the queue. It ends when every sender is gone, with nothing left in it.
pub fn start(ledger: Arc<Ledger>, estimates: Arc<Estimates>) -> (SettleQueue, tokio::task::JoinHandle<()>) {
    let (settling, mut inbox) = queue(BATCH);
    let task = tokio::spawn(async move {
        let (rows, finished) = queue(LINES);
        let writing = tokio::spawn(write(finished, ledger));
        let hooks = Hooks::default();
        let mut batch = Vec::new();
        while inbox.take(&mut batch).await {
            for settled in batch.drain(..) {
                // A fault in one record must not end all records.
                if catch_unwind(AssertUnwindSafe(|| settle(settled, &rows, &estimates, &hooks))).is_err() {
                    tracing::error!("a request could not be recorded");
                }
            }
            telemetry::requests_told();
            inbox.rest().await;
        }
        hooks.idle().await;
        drop(rows);
        let _ = writing.await;
    });
    (settling, task)
}

fn settle(mut settled: Settled, rows: &Rows, estimates: &Estimates, hooks: &Hooks) {
    let inner = &mut *settled.0;
    charge::count(&mut inner.record, &inner.size, estimates);
    charge::warn(&inner.record);
    charge::quotas(std::mem::take(&mut inner.taken), &inner.record);
    if let Some(reservation) = inner.reservation.take() {
        charge::settle(*reservation, &mut inner.record);
    }
    if let Some(kept) = inner.kept.take() {
        let known = !inner.record.cost_unknown;
        kept.settled(inner.record.cost_nano_usd.filter(|_| known));
    }
    if inner.chain.wants_log() {
        let rows = rows.clone();
        return hooks.run(settled, move |settled| {
            finish(settled, &rows);
            telemetry::requests_told();
        });
    }
    inner.chain.close(&mut inner.cx);
    finish(settled, rows);
}

/// One request by itself: what a rehearsal ends with. Nothing is counted, logged or kept.
pub async fn alone(mut settled: Settled, estimates: &Estimates) -> (Record, Trace) {
    let inner = &mut *settled.0;
    charge::count(&mut inner.record, &inner.size, estimates);
    charge::quotas(std::mem::take(&mut inner.taken), &inner.record);
    if let Some(reservation) = inner.reservation.take() {
        charge::settle(*reservation, &mut inner.record);
    }
    inner.chain.log(&mut inner.cx, &mut inner.record).await;
    let Inner { cx, record, .. } = *settled.0;
    (record, cx.trace)
}

fn finish(settled: Settled, rows: &Rows) {
    let Inner { cx, record, part, .. } = *settled.0;
    if let Some(part) = part {
        part.ended(&record, &cx.trace);
    }
    for step in &cx.trace.steps {
        match step {
            Step::Attempt { outcome, .. } => metrics().attempt(outcome_label(outcome)),
            step => metrics().stage(step),
        }
    }
    telemetry::observe(&record);
    telemetry::request_line(&record);
    // The writer ends after the last of these.
    rows.send((record, cx.trace));
}

async fn write(mut finished: Inbox<(Record, Trace)>, ledger: Arc<Ledger>) {
    let mut batch = Vec::new();
    while finished.take(&mut batch).await {
        batch = ledger.settle(batch).await;
        // Here and not where they were written: memory goes back to the thread that it came from.
        batch.clear();
        // What ends within a moment shares one write.
        finished.rest().await;
    }
}

/// `next: too short` is a stage's free text: the label is its first word.
fn outcome_label(outcome: &str) -> &str {
    outcome.split(':').next().unwrap_or(outcome)
}

/// Requests that are settled at one time, and lines that are written. What waits here is memory that the next requests do not
/// have: as much as stays near the processor.
const BATCH: usize = 16;
const LINES: usize = 128;
