//! Behind the settle queue: each finished request becomes its record, its metrics and its log line, once.

use std::sync::Arc;

use tokio::sync::mpsc;

use crate::{
    exchange::{Settled, SettleQueue},
    telemetry::{self, Ring},
};

/// Starts the queue. It ends when every sender is gone, with nothing left in it.
pub fn start(ring: Arc<Ring>) -> (SettleQueue, tokio::task::JoinHandle<()>) {
    let (queue, mut inbox) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        let mut batch = Vec::with_capacity(BATCH);
        while inbox.recv_many(&mut batch, BATCH).await > 0 {
            for settled in batch.drain(..) {
                settle(settled, &ring).await;
            }
        }
    });
    (queue, task)
}

async fn settle(settled: Settled, ring: &Ring) {
    let Settled { mut cx, mut chain, mut record } = settled;
    chain.log(&mut cx, &mut record).await;
    telemetry::observe(&record);
    telemetry::request_line(&record);
    ring.push(record, cx.trace);
}

const BATCH: usize = 256;
