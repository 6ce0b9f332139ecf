//! Requests that are settled together, on their way into the ledger: each becomes a line as soon as it is settled, so that what it
//! was made of is free again, and lines wait for the disk instead of requests.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, mpsc},
    time::SystemTime,
};

use tokio::sync::oneshot;

use super::{Ledger, Record, bodies::Recording, hour::Hour};
use crate::{context::Trace, model::Format, telemetry::row};

/// Lines, not yet written.
pub struct Sheet {
    /// Under which its sums wait.
    pub(super) number: u64,
    pub(super) hour: Hour,
    stamp: row::Stamp,
    pub(super) lines: Vec<u8>,
    /// Where each line begins.
    pub(super) starts: Vec<usize>,
    pub(super) recorded: Vec<Recorded>,
}

/// What a request and its answer said, where that is kept.
pub(super) struct Recorded {
    pub id: Arc<str>,
    pub format: Format,
    pub bodies: Box<Recording>,
}

impl Sheet {
    /// `rows`: how many are expected. It takes more.
    pub(super) fn new(number: u64, at: SystemTime, rows: usize) -> Sheet {
        Sheet {
            number,
            hour: Hour::of(at),
            stamp: row::Stamp::of(at),
            lines: Vec::with_capacity(rows.min(ROWS) * LINE),
            starts: Vec::with_capacity(rows.min(ROWS)),
            recorded: Vec::new(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// So many lie in one piece of memory.
    pub fn is_full(&self) -> bool {
        self.starts.len() >= ROWS
    }

    pub(super) fn add(&mut self, record: &mut Record, trace: &Trace) {
        if let Some(bodies) = record.bodies.take() {
            self.recorded.push(Recorded { id: record.id.clone(), format: record.format, bodies });
        }
        self.starts.push(self.lines.len());
        row::write(record, Some(trace), &self.stamp, &mut self.lines);
        self.lines.push(b'\n');
    }
}

/// Who writes sheets: a thread of its own, because files block. One and always the same, whose memory stays near the processor.
pub struct Scribe(Option<mpsc::Sender<Job>>);

struct Job {
    ledger: Arc<Ledger>,
    sheets: Vec<Sheet>,
    written: oneshot::Sender<()>,
}

impl Scribe {
    /// It ends with this handle.
    pub fn start() -> Scribe {
        let (jobs, todo) = mpsc::channel::<Job>();
        let work = move || {
            while let Ok(Job { ledger, sheets, written }) = todo.recv() {
                // A fault in one sheet must not end all sheets.
                if catch_unwind(AssertUnwindSafe(|| ledger.write(sheets))).is_err() {
                    tracing::error!("records could not be written");
                }
                let _ = written.send(());
            }
        };
        match std::thread::Builder::new().name("records".into()).spawn(work) {
            Ok(_) => Scribe(Some(jobs)),
            Err(error) => {
                tracing::warn!(%error, "no thread for records: they are written in between");
                Scribe(None)
            }
        }
    }

    /// Ends when they are written, or lost.
    pub async fn write(&self, ledger: &Arc<Ledger>, sheets: Vec<Sheet>) {
        let Some(jobs) = self.0.as_ref().filter(|_| ledger.has_files()) else { return ledger.write(sheets) };
        let (written, done) = oneshot::channel();
        match jobs.send(Job { ledger: ledger.clone(), sheets, written }) {
            Ok(()) => drop(done.await),
            Err(mpsc::SendError(job)) => job.ledger.write(job.sheets),
        }
    }
}

/// Lines of a sheet: who keeps one in memory keeps them all.
const ROWS: usize = 64;
/// Bytes of a long one, of a request with a budget, a script and one attempt: a sheet is not copied as it grows.
const LINE: usize = 1280;
