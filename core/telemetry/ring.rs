//! The last requests, in memory and bounded: their lines as the ledger wrote them, read again only when somebody asks.
//!
//! Lines and not records, because a record is a dozen allocations: kept for ten thousand requests they would leave every new
//! request memory that no processor has near.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

pub struct Ring {
    rows: Mutex<Rows>,
    capacity: usize,
}

#[derive(Default)]
struct Rows {
    /// Oldest first.
    rows: VecDeque<Row>,
    /// Of the newest row; rows count up from 1.
    number: u64,
}

/// One settled request.
#[derive(Debug, Clone)]
pub struct Row {
    pub place: Place,
    /// See `row::write`; a piece of what was settled together.
    pub line: Bytes,
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

    /// Requests settled at one time: their lines, where each begins in them, and its place in that hour's lines. Who keeps a row keeps
    /// them all.
    pub fn push(&self, lines: Bytes, starts: &[usize], hour: u32, place: impl Fn(usize) -> u64) {
        let ends = starts.iter().skip(1).copied().chain([lines.len()]);
        let mut gone = Vec::with_capacity(starts.len());
        let mut rows = self.lock();
        for (start, end) in starts.iter().copied().zip(ends) {
            rows.number += 1;
            if rows.rows.len() >= self.capacity {
                gone.extend(rows.rows.pop_front());
            }
            let place = Place { hour, at: place(start), number: rows.number };
            rows.rows.push_back(Row { place, line: lines.slice(start..end) });
        }
        drop(rows);
        // Freed outside the lock.
        drop(gone);
    }

    /// Rows of this hour and of those before it are found in files from now on.
    pub fn forget(&self, hour: u32) {
        let mut rows = self.lock();
        let first = rows.rows.iter().position(|row| row.place.hour > hour).unwrap_or(rows.rows.len());
        let gone: Vec<Row> = rows.rows.drain(..first).collect();
        drop(rows);
        drop(gone);
    }

    /// Newest first, those before `before`, at most `limit` of which `read` makes something; and the place of the oldest row
    /// in here.
    pub fn page<T>(
        &self,
        before: Option<Place>,
        limit: usize,
        read: impl Fn(&[u8]) -> Option<T>,
    ) -> (Vec<(Place, T)>, Option<Place>) {
        // Copied out before reading: whoever settles waits for this lock.
        let rows: Vec<Row> = self.lock().rows.iter().rev().cloned().collect();
        let oldest = rows.last().map(|row| row.place);
        let older = rows.iter().filter(|row| before.is_none_or(|before| row.place < before));
        (older.filter_map(|row| Some((row.place, read(&row.line)?))).take(limit).collect(), oldest)
    }

    /// The line of that request.
    pub fn find(&self, id: &str) -> Option<Bytes> {
        let is = |line: &[u8]| {
            line.strip_prefix(super::row::HEAD).and_then(|line| line.strip_prefix(id.as_bytes()))?.first().copied()
        };
        self.lock().rows.iter().rev().find(|row| is(&row.line) == Some(b'"')).map(|row| row.line.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Rows> {
        self.rows.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// At about a kilobyte a row.
const CAPACITY: usize = 10_000;
