//! Behind the settle queue: each finished request becomes its record, its metrics and its log line, once.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use tokio::sync::mpsc;

use super::{charge, estimate::Estimates, hooks::Hooks};
use crate::{
    context::Step,
    exchange::{Inner, SettleQueue, Settled},
    telemetry::{self, Ring, metrics},
};

/// Starts the queue. It ends when every sender is gone, with nothing left in it.
pub fn start(ring: Arc<Ring>, estimates: Arc<Estimates>) -> (SettleQueue, tokio::task::JoinHandle<()>) {
    let (queue, mut inbox) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let hooks = Hooks::default();
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.recv_many(&mut batch, BATCH).await > 0 {
            for settled in batch.drain(..) {
                // A fault in one record must not end all records.
                if catch_unwind(AssertUnwindSafe(|| settle(settled, &ring, &estimates, &hooks))).is_err() {
                    tracing::error!("a request could not be recorded");
                }
            }
            // Nobody waits for a record. While this sleeps, requests need not wake it one by one.
            if inbox.is_empty() && !inbox.is_closed() {
                tokio::time::sleep(REST).await;
            }
        }
        hooks.idle().await;
    });
    (queue, task)
}

fn settle(mut settled: Settled, ring: &Arc<Ring>, estimates: &Estimates, hooks: &Hooks) {
    let inner = &mut *settled.0;
    charge::count(&mut inner.record, &inner.size, estimates);
    if let Some(reservation) = inner.reservation.take() {
        charge::settle(*reservation, &mut inner.record, &inner.size);
    }
    if inner.chain.wants_log() {
        let ring = ring.clone();
        return hooks.run(settled, move |settled| finish(settled, &ring));
    }
    inner.chain.close(&mut inner.cx);
    finish(settled, ring);
}

fn finish(settled: Settled, ring: &Ring) {
    let Inner { cx, record, .. } = *settled.0;
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
/// Between two batches.
const REST: Duration = Duration::from_millis(5);
