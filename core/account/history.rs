//! Reading the ledger: the ring first, then the files, newest first. Bounded: a look that finds little stops after so many
//! bytes and says where to go on.

use std::{sync::Arc, sync::PoisonError, time::SystemTime};

use serde_json::Value;

use super::{
    archive, bodies,
    hour::Hour,
    ledger::{Ledger, blocking},
};
use crate::{
    store::Result,
    telemetry::{record_json, ring::Place},
};

/// Which requests are wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    pub team: Option<String>,
    pub key: Option<String>,
    pub model: Option<String>,
    pub status: Option<u16>,
    /// Settled at or after `from` and before `to`.
    pub from: Option<SystemTime>,
    pub to: Option<SystemTime>,
}

/// Rows, and where the next page begins; `None`: there is none.
pub struct Page {
    pub rows: Vec<Value>,
    pub next: Option<Place>,
}

impl Ledger {
    /// The newest `limit` requests that are wanted and were settled before `before`. A page may be short, even empty, and
    /// still not the last.
    pub async fn page(self: &Arc<Self>, wanted: Wanted, before: Option<Place>, limit: usize) -> Result<Page> {
        let (mine, oldest) = self.ring.page(before, limit, |row| wanted.takes(&row.record, row.at));
        let mut rows: Vec<Value> = mine.iter().map(|row| record_json(&row.record, Some(&row.trace), row.at)).collect();
        if rows.len() >= limit {
            return Ok(Page { next: mine.last().map(|row| row.place), rows });
        }
        // What is older than the ring, or than the page before, lies in the files.
        let start = match (before, oldest) {
            (Some(before), Some(oldest)) => Some(before.min(oldest)),
            (before, oldest) => before.or(oldest),
        };
        let ledger = self.clone();
        let left = limit - rows.len();
        let (more, next) = blocking(move || ledger.older(&wanted, start, left)).await?;
        rows.extend(more);
        Ok(Page { rows, next })
    }

    /// One request, however old.
    pub async fn request(self: &Arc<Self>, id: &str) -> Result<Option<Value>> {
        if let Some(row) = self.ring.find(id) {
            return Ok(Some(record_json(&row.record, Some(&row.trace), row.at)));
        }
        let Some(began) = Hour::of_id(id) else { return Ok(None) };
        let (ledger, id) = (self.clone(), id.to_owned());
        blocking(move || ledger.in_files(&id, began)).await
    }

    /// What a request and its answer said, where it was kept.
    pub async fn bodies(self: &Arc<Self>, id: &str) -> Result<Option<Value>> {
        let Some(began) = Hour::of_id(id) else { return Ok(None) };
        let (ledger, id) = (self.clone(), id.to_owned());
        blocking(move || {
            let (Some(files), Some(sealer)) = (&ledger.files, ledger.sealer.get()) else { return Ok(None) };
            let around = |hour: &Hour| *hour >= began.minus(1) && *hour <= began.plus(LONGEST);
            for hour in archive::hours(files)?.into_iter().filter(around) {
                if let Some(sealed) = bodies::find(files, hour, &id)? {
                    return Ok(sealer.open(&id, &sealed));
                }
            }
            Ok(None)
        })
        .await
    }

    fn in_files(&self, id: &str, began: Hour) -> Result<Option<Value>> {
        let Some(files) = &self.files else { return Ok(None) };
        // It stands in the hour in which it ended: the same one, a later one, or, after a clock went back, the one before.
        let around = |hour: &Hour| *hour >= began.minus(1) && *hour <= began.plus(LONGEST);
        for hour in archive::hours(files)?.into_iter().filter(around) {
            let lines = {
                let _layout = self.layout.read().unwrap_or_else(PoisonError::into_inner);
                archive::Lines::open(files, hour)?
            };
            if let Some(line) = lines.find(id)? {
                return Ok(serde_json::from_slice(&line).ok());
            }
        }
        Ok(None)
    }

    fn older(&self, wanted: &Wanted, before: Option<Place>, limit: usize) -> Result<(Vec<Value>, Option<Place>)> {
        let mut found = Vec::new();
        let Some(files) = &self.files else { return Ok((found, None)) };
        let mut budget = MOST_READ;
        for hour in archive::hours(files)?.into_iter().rev() {
            let in_time = wanted.to.is_none_or(|to| hour.start() < to)
                && wanted.from.is_none_or(|from| hour.plus(1).start() > from);
            if before.is_some_and(|before| hour.0 > before.hour) || !in_time {
                continue;
            }
            let lines = {
                let _layout = self.layout.read().unwrap_or_else(PoisonError::into_inner);
                archive::Lines::open(files, hour)?
            };
            let mut to = match before {
                Some(before) if before.hour == hour.0 => before.at,
                _ => lines.end(),
            };
            while let Some((begins, piece)) = lines.before(to)? {
                for (start, line) in lines_back(&piece) {
                    let Ok(row) = serde_json::from_slice::<Value>(line) else { continue };
                    if wanted.takes_row(&row) {
                        found.push(row);
                    }
                    if found.len() == limit {
                        let place = Place { hour: hour.0, at: begins + start as u64, number: 0 };
                        return Ok((found, Some(place)));
                    }
                }
                to = begins;
                budget = budget.saturating_sub(piece.len());
                if budget == 0 {
                    return Ok((found, Some(Place { hour: hour.0, at: to, number: 0 })));
                }
            }
        }
        Ok((found, None))
    }
}

impl Wanted {
    fn takes(&self, record: &super::Record, at: SystemTime) -> bool {
        let same = |wanted: &Option<String>, value: &str| wanted.as_deref().is_none_or(|wanted| wanted == value);
        same(&self.team, record.team.as_deref().unwrap_or(""))
            && same(&self.key, &record.key_id)
            && same(&self.model, &record.model)
            && self.status.is_none_or(|status| status == record.status)
            && self.from.is_none_or(|from| at >= from)
            && self.to.is_none_or(|to| at < to)
    }

    fn takes_row(&self, row: &Value) -> bool {
        let same = |wanted: &Option<String>, field: &str| {
            wanted.as_deref().is_none_or(|wanted| row[field].as_str().unwrap_or("") == wanted)
        };
        let at = || row["time"].as_str()?.parse::<jiff::Timestamp>().ok().map(SystemTime::from);
        same(&self.team, "team")
            && same(&self.key, "key_id")
            && same(&self.model, "model")
            && self.status.is_none_or(|status| row["status"].as_u64() == Some(u64::from(status)))
            && self.from.is_none_or(|from| at().is_some_and(|at| at >= from))
            && self.to.is_none_or(|to| at().is_some_and(|at| at < to))
    }
}

/// Whole lines from the last to the first, and where each begins.
fn lines_back(lines: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut end = lines.len();
    std::iter::from_fn(move || {
        let line_end = end.checked_sub(1)?;
        let start = memchr::memrchr(b'\n', &lines[..line_end]).map_or(0, |at| at + 1);
        end = start;
        Some((start, &lines[start..line_end]))
    })
}

/// Hours that a request may take, as far as a look-up by id goes.
const LONGEST: u32 = 48;
/// Plain bytes that one page reads.
const MOST_READ: usize = 64 << 20;
