//! Which versions go when there are too many: the oldest, and never one that runs, ran just before, is being tried or is
//! pinned. Pure.

use std::collections::{BTreeMap, BTreeSet};

use super::row::{Pin, Row, State};

/// Rows that have to go. `size`: bytes of what the shelf keeps under a name; `most`: of all names together.
pub fn surplus(rows: &BTreeMap<u64, Row>, pin: Option<&Pin>, size: &dyn Fn(&str) -> u64, most: u64) -> Vec<u64> {
    let newest = rows.keys().next_back().copied();
    let before = rows.values().rfind(|row| row.state == State::Former).map(|row| row.number);
    let held = |row: &Row| {
        let tried = matches!(row.state, State::Live | State::Shadow | State::Canary);
        tried || [newest, before, pin.map(|pin| pin.version)].contains(&Some(row.number))
    };
    let mut users: BTreeMap<&str, u64> = BTreeMap::new();
    for name in rows.values().flat_map(names) {
        *users.entry(name).or_default() += 1;
    }
    let mut bytes: u64 = users.keys().map(|name| size(name)).sum();
    let (mut left, mut gone) = (rows.len(), Vec::new());
    for row in rows.values() {
        if left <= MOST && bytes <= most {
            break;
        }
        if held(row) {
            continue;
        }
        left -= 1;
        gone.push(row.number);
        for name in names(row) {
            let users = users.entry(name).or_default();
            *users = users.saturating_sub(1);
            if *users == 0 {
                bytes = bytes.saturating_sub(size(name));
            }
        }
    }
    gone
}

/// The shelf's names that rows still mention.
pub fn used(rows: &BTreeMap<u64, Row>) -> BTreeSet<String> {
    rows.values().flat_map(names).map(str::to_owned).collect()
}

fn names(row: &Row) -> impl Iterator<Item = &str> {
    row.manifest.iter().chain(&row.blobs).map(String::as_str)
}

pub const MOST: usize = 100;
