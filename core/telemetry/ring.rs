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
    pub number: u64,
    /// When it was settled.
    pub at: SystemTime,
    pub record: Record,
    pub trace: Trace,
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

    pub fn push(&self, record: Record, trace: Trace) {
        let at = SystemTime::now();
        let mut rows = self.lock();
        rows.number += 1;
        let number = rows.number;
        let oldest = if rows.rows.len() >= self.capacity { rows.rows.pop_front() } else { None };
        rows.rows.push_back(Arc::new(Row { number, at, record, trace }));
        drop(rows);
        // Freed outside the lock.
        drop(oldest);
    }

    /// Newest first, those with a smaller number than `before`, at most `limit` that `wanted` accepts.
    pub fn page(&self, before: Option<u64>, limit: usize, wanted: impl Fn(&Record) -> bool) -> Vec<Arc<Row>> {
        // Copied out before filtering: requests in flight wait for this lock.
        let rows: Vec<_> = self.lock().rows.iter().rev().cloned().collect();
        let older = |row: &Arc<Row>| before.is_none_or(|before| row.number < before);
        rows.into_iter().filter(older).filter(|row| wanted(&row.record)).take(limit).collect()
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
