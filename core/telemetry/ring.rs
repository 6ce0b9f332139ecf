//! The last requests, in memory and bounded: what happened and why, kept as it was and formatted only when read.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use crate::{account::Record, context::Trace};

pub struct Ring {
    rows: Mutex<Rows>,
    capacity: usize,
}

#[derive(Default)]
struct Rows {
    /// Oldest first.
    rows: VecDeque<Arc<Row>>,
    /// Of the newest row; rows count up from 1.
    number: u64,
}

/// One settled request.
#[derive(Debug)]
pub struct Row {
    pub place: Place,
    /// When it was settled.
    pub at: SystemTime,
    pub record: Record,
    pub trace: Trace,
}

/// Where a request stands among all: what is smaller was settled before. Good across restarts, because the ledger's files
/// count on; `number` tells those apart that were not written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// Of the wall clock, since 1970.
    pub hour: u32,
    /// Bytes of that hour's lines before this one.
    pub at: u64,
    /// In this process.
    pub number: u64,
}

impl Default for Ring {
    fn default() -> Self {
        Ring::new(CAPACITY)
    }
}

impl Ring {
    pub fn new(capacity: usize) -> Ring {
        Ring { rows: Mutex::default(), capacity: capacity.max(1) }
    }

    /// Requests settled at one time, each with its place in that hour's lines.
    pub fn push(&self, settled: impl Iterator<Item = (Record, Trace, u64)>, hour: u32, at: SystemTime) {
        let mut gone = Vec::new();
        let mut rows = self.lock();
        for (record, trace, line) in settled {
            rows.number += 1;
            let place = Place { hour, at: line, number: rows.number };
            if rows.rows.len() >= self.capacity {
                gone.extend(rows.rows.pop_front());
            }
            rows.rows.push_back(Arc::new(Row { place, at, record, trace }));
        }
        drop(rows);
        // Freed outside the lock.
        drop(gone);
    }

    /// Newest first, those before `before`, at most `limit` that `wanted` accepts; and the place of the oldest row in here.
    pub fn page(
        &self,
        before: Option<Place>,
        limit: usize,
        wanted: impl Fn(&Row) -> bool,
    ) -> (Vec<Arc<Row>>, Option<Place>) {
        // Copied out before filtering: whoever settles waits for this lock.
        let rows: Vec<_> = self.lock().rows.iter().rev().cloned().collect();
        let oldest = rows.last().map(|row| row.place);
        let older = |row: &Arc<Row>| before.is_none_or(|before| row.place < before);
        (rows.into_iter().filter(older).filter(|row| wanted(row)).take(limit).collect(), oldest)
    }

    pub fn find(&self, id: &str) -> Option<Arc<Row>> {
        self.lock().rows.iter().rev().find(|row| &*row.record.id == id).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At about a kilobyte a row.
const CAPACITY: usize = 10_000;
