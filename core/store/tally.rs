//! What the store knows of itself: how many batches it took, how many of them changed keys, and a sum over its rows. Kept in
//! one row that every batch rewrites, so that rows which vanish or change behind our back are noticed; the first two numbers
//! also stand in a file beside the store, so that a store which lost its last batches is noticed.

use std::collections::BTreeMap;

use aws_lc_rs::digest;

use super::{KEYRING, Table};

/// Of all rows but its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Batches so far.
    pub commits: u64,
    /// Those of them that changed virtual keys, secrets, or what they are sealed with.
    pub keys: u64,
    pub rows: u64,
    /// Of each row's hash, wrapping: the order does not matter, and a change needs no look at other rows.
    pub sum: u64,
}

/// The row as it was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stored {
    /// From before rows were summed up.
    Commits(u64),
    Whole(Tally),
}

/// What the file beside the store says. `keys` is unknown when it comes from before they were counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    pub commits: u64,
    pub keys: Option<u64>,
}

/// Rows by their whole key; `None` removes.
pub(super) type Changes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

impl Tally {
    /// After `changes`, of whose rows `before` holds the values until now.
    pub fn after(self, changes: &Changes, before: &Changes) -> Tally {
        let mut tally = Tally { commits: self.commits + 1, ..self };
        let mut keys = false;
        for (key, value) in changes {
            let table = key.first().copied().and_then(Table::tagged);
            keys |= matches!(table, Some(Table::Keys | Table::Secrets)) || *key == Table::Meta.key(KEYRING);
            if let Some(old) = before.get(key).and_then(Option::as_ref) {
                tally.rows = tally.rows.wrapping_sub(1);
                tally.sum = tally.sum.wrapping_sub(hash(key, old));
            }
            if let Some(new) = value {
                tally.add(key, new);
            }
        }
        tally.keys += u64::from(keys);
        tally
    }

    /// One more row.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows = self.rows.wrapping_add(1);
        self.sum = self.sum.wrapping_add(hash(key, value));
    }

    pub fn row(&self) -> Vec<u8> {
        format!("{} {} {} {:016x}", self.commits, self.keys, self.rows, self.sum).into_bytes()
    }

    /// Fixed width: overwritten in place.
    pub fn note(&self) -> String {
        let counts = format!("{:020} {:020}", self.commits, self.keys);
        format!("{counts} {:016x}\n", hash(counts.as_bytes(), b""))
    }
}

impl Stored {
    pub fn parse(row: &[u8]) -> Option<Stored> {
        let text = std::str::from_utf8(row).ok()?;
        let fields: Vec<&str> = text.split(' ').collect();
        match fields.as_slice() {
            [commits] => Some(Stored::Commits(commits.parse().ok()?)),
            [commits, keys, rows, sum] => Some(Stored::Whole(Tally {
                commits: commits.parse().ok()?,
                keys: keys.parse().ok()?,
                rows: rows.parse().ok()?,
                sum: u64::from_str_radix(sum, 16).ok()?,
            })),
            _ => None,
        }
    }
}

impl Note {
    pub fn parse(text: &str) -> Option<Note> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        match fields.as_slice() {
            [commits] => Some(Note { commits: commits.parse().ok()?, keys: None }),
            [commits, keys, _] => {
                let tally = Tally { commits: commits.parse().ok()?, keys: keys.parse().ok()?, ..Tally::default() };
                (tally.note() == text).then_some(Note { commits: tally.commits, keys: Some(tally.keys) })
            }
            _ => None,
        }
    }
}

/// The row's key in the store.
pub(super) fn key() -> Vec<u8> {
    Table::Meta.key(b"commits")
}

fn hash(key: &[u8], value: &[u8]) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&(key.len() as u64).to_be_bytes());
    context.update(key);
    context.update(value);
    let whole = context.finish();
    whole.as_ref().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}
