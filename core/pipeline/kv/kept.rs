//! What of a stage's memory outlives the process: small values, up to a bound for each tenant. Changes are noted by key and taken
//! by whoever writes them down; what it read at the start is put back here. Knows no store.

use std::{
    sync::PoisonError,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use super::{Kv, OVERHEAD, Space, locked};

/// An entry as it is to be written down.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    pub stage: String,
    pub tenant: String,
    pub key: String,
    /// Its value and when it ends; `None`: it is gone.
    pub now: Option<(Value, Option<SystemTime>)>,
}

impl Kv {
    /// What changed since the last look, at most about `most`. Called by one at a time.
    pub fn changes(&self, most: usize) -> Vec<Change> {
        let mut changes = std::mem::take(&mut *self.orphans.lock().unwrap_or_else(PoisonError::into_inner));
        let (now, wall) = (Instant::now(), SystemTime::now());
        for space in &self.spaces {
            if changes.len() >= most {
                break;
            }
            let Some((stage, tenant)) = space.key().split_once('\0') else { continue };
            let mut space = locked(space.value());
            let Some(changed) = space.changed.as_mut().filter(|changed| !changed.is_empty()) else { continue };
            for key in std::mem::take(changed) {
                let entry = space.entries.get(&key).filter(|entry| entry.lasts);
                let ends = |until: Instant| wall + until.saturating_duration_since(now);
                let value = entry.map(|entry| (entry.value.clone(), entry.until.map(ends)));
                changes.push(Change { stage: stage.to_owned(), tenant: tenant.to_owned(), key, now: value });
            }
        }
        changes
    }

    /// They could not be written: whatever stands there then is written later.
    pub fn again(&self, changes: Vec<Change>) {
        for Change { stage, tenant, key, .. } in changes {
            self.space(&stage, &tenant, |space| space.note(&key));
        }
    }

    /// As it was written down. `false`: it is over, or does not fit any more.
    pub fn restore(&self, change: Change) -> bool {
        let Change { stage, tenant, key, now: Some((value, until)) } = change else { return false };
        let left = until.map(|until| until.duration_since(SystemTime::now()).ok().filter(|left| !left.is_zero()));
        let ttl: Option<Duration> = match left {
            None => None,
            Some(Some(left)) => Some(left),
            Some(None) => return false,
        };
        self.space(&stage, &tenant, |space| {
            let fits = space.set(&key, value, ttl, Instant::now()).is_ok();
            let lasts = space.entries.get(&key).is_some_and(|entry| entry.lasts);
            if let Some(changed) = &mut space.changed {
                changed.remove(&key);
            }
            fits && lasts
        })
    }

    /// A space goes: what of it was written down goes too.
    pub(super) fn orphan(&self, key: &str, space: &Space) {
        let Some((stage, tenant)) = key.split_once('\0') else { return };
        let Some(changed) = &space.changed else { return };
        let lasting = space.entries.iter().filter(|(_, entry)| entry.lasts).map(|(key, _)| key);
        let gone =
            |key: &String| Change { stage: stage.to_owned(), tenant: tenant.to_owned(), key: key.clone(), now: None };
        let mut orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST_ORPHANS.saturating_sub(orphans.len());
        orphans.extend(lasting.chain(changed).map(gone).take(room));
    }
}

impl Space {
    /// Will a new entry be written down? Then it is noted, and counted.
    pub(super) fn lasts(&mut self, key: &str, size: usize) -> bool {
        let bytes = 3 * key.len() + size + OVERHEAD;
        if self.changed.is_none() || size > MOST_VALUE || self.written_down + bytes > MOST_OF_TENANT {
            return false;
        }
        self.written_down += bytes;
        self.note(key);
        true
    }

    /// Its entry is not what is written down.
    pub(super) fn note(&mut self, key: &str) {
        if let Some(changed) = self.changed.as_mut().filter(|changed| !changed.contains(key)) {
            changed.insert(key.to_owned());
        }
    }
}

/// Bytes as JSON of a value that outlives the process, and of all of one stage and tenant.
pub const MOST_VALUE: usize = 1024;
const MOST_OF_TENANT: usize = 512 << 10;
/// Rows that are forgotten rather than removed one by one: they go with the next start, when their time is over.
const MOST_ORPHANS: usize = 50_000;
