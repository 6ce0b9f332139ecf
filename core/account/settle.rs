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
    sheet::{Scribe, Sheet},
};
use crate::{
    context::{Step, Trace},
    exchange::{Inner, Settled},
    telemetry::{self, metrics},
};

/// The way to the ledger.
#[derive(Clone)]
struct Desk {
    ledger: Arc<Ledger>,
    sheets: Queue<Sheet>,
}

/// Starts the queue. It ends when every sender is gone, with nothing left in it.
pub fn start(ledger: Arc<Ledger>, estimates: Arc<Estimates>) -> (SettleQueue, tokio::task::JoinHandle<()>) {
    let (settling, mut inbox) = queue(BATCH);
    let task = tokio::spawn(async move {
        let (sheets, finished) = queue(SHEETS);
        let writing = tokio::spawn(write(finished, ledger.clone()));
        let desk = Desk { ledger, sheets };
        let hooks = Hooks::default();
        let mut batch = Vec::new();
        while inbox.take(&mut batch).await {
            let mut sheet = desk.ledger.sheet(batch.len());
            for settled in batch.drain(..) {
                // A fault in one record must not end all records.
                if catch_unwind(AssertUnwindSafe(|| settle(settled, &mut sheet, &desk, &estimates, &hooks))).is_err() {
                    tracing::error!("a request could not be recorded");
                }
                if sheet.is_full() {
                    desk.hand_in(std::mem::replace(&mut sheet, desk.ledger.sheet(0)));
                }
            }
            desk.hand_in(sheet);
            telemetry::requests_told();
            inbox.rest().await;
        }
        hooks.idle().await;
        drop(desk);
        let _ = writing.await;
    });
    (settling, task)
}

fn settle(mut settled: Settled, sheet: &mut Sheet, desk: &Desk, estimates: &Estimates, hooks: &Hooks) {
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
        let desk = desk.clone();
        return hooks.run(settled, move |settled| {
            let mut sheet = desk.ledger.sheet(1);
            finish(settled, &mut sheet, &desk.ledger);
            desk.hand_in(sheet);
            telemetry::requests_told();
        });
    }
    inner.chain.close(&mut inner.cx);
    finish(settled, sheet, &desk.ledger);
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

fn finish(Settled(mut inner): Settled, sheet: &mut Sheet, ledger: &Ledger) {
    let Inner { cx, record, part, .. } = &mut *inner;
    if let Some(part) = part.take() {
        part.ended(record, &cx.trace);
    }
    count(record, &cx.trace);
    telemetry::request_line(record);
    ledger.note(sheet, record, &cx.trace);
}

/// In the metrics.
fn count(record: &Record, trace: &Trace) {
    let mut tally = metrics().tally();
    for step in &trace.steps {
        match step {
            Step::Attempt { outcome, .. } => tally.attempt(outcome_label(outcome)),
            step => tally.stage(step),
        }
    }
    tally.request(record);
}

impl Desk {
    /// To who writes it.
    fn hand_in(&self, sheet: Sheet) {
        if !sheet.is_empty() {
            self.sheets.send(sheet);
        }
    }
}

async fn write(mut finished: Inbox<Sheet>, ledger: Arc<Ledger>) {
    let scribe = Scribe::start();
    let mut batch = Vec::new();
    while finished.take(&mut batch).await {
        scribe.write(&ledger, std::mem::take(&mut batch)).await;
        // What ends within a moment shares one write.
        finished.rest().await;
    }
}

/// `next: too short` is a stage's free text: the label is its first word.
fn outcome_label(outcome: &str) -> &str {
    outcome.split(':').next().unwrap_or(outcome)
}

/// Requests that are settled at one time, and sheets that are written. What waits here is memory that the next requests do not
/// have: as much as stays near the processor.
const BATCH: usize = 16;
const SHEETS: usize = 8;
