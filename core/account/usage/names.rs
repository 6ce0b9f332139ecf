//! How many names an hour may have: those that callers make up must not fill the store. What is over is counted together,
//! under `(other)`, the finest names first; whose team and organisation it was is never lost.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use super::by::{self, By, Grain, Place, TAG_END};
use crate::account::{hour::Hour, minute::Minute};

/// What the newest hours have seen.
#[derive(Default)]
pub(super) struct Names {
    hours: BTreeMap<Hour, Seen>,
    hasher: RandomState,
}

#[derive(Default)]
struct Seen {
    /// What rows are by.
    sets: HashSet<u64>,
    /// Values by tag.
    tags: HashMap<Box<str>, HashSet<u64>>,
    rows: usize,
}

impl Names {
    /// A request's tags as a row has them: in order, each once, and no more values than an hour may have.
    pub fn tags<'t>(&mut self, hour: Hour, tags: impl Iterator<Item = (&'t str, &'t str)>, out: &mut String) {
        out.clear();
        let seen = seen(&mut self.hours, hour);
        let mut all: Vec<String> = Vec::new();
        for (name, value) in tags.take(MOST_TAGS).filter(|(name, _)| !name.is_empty()) {
            let (name, value) = (plain(name, MOST_NAME).replace('=', " "), plain(value, MOST_LONG));
            let count = seen.tags.len();
            let values = match seen.tags.get_mut(&*name) {
                Some(values) => values,
                None if count < MOST_NAMES => seen.tags.entry(name.as_str().into()).or_default(),
                None => {
                    all.push(OTHER.to_owned());
                    continue;
                }
            };
            let hash = self.hasher.hash_one(&value);
            let known = values.contains(&hash) || values.len() < MOST_VALUES && values.insert(hash);
            all.push(format!("{name}={}", if known { &value } else { OTHER }));
        }
        all.sort_unstable();
        all.dedup();
        for tag in all {
            out.push_str(&tag);
            out.push(TAG_END);
        }
    }

    /// The key of a row that is not there yet, as fine as there is room for.
    pub fn key(&mut self, grain: Grain, at: Minute, by: By<'_>, node: &str) -> Vec<u8> {
        let hour = at.hour();
        let seen = seen(&mut self.hours, hour);
        seen.rows += 1;
        let grain = if seen.rows > MOST_ROWS { grain.max(Grain::Quarter) } else { grain };
        let at = at.within(grain.span());
        let join = |by: By<'_>| by::join(Place { grain, at, by, node });
        let mut takes = |by: &By<'_>, most: usize| {
            let hash = self.hasher.hash_one(by);
            seen.sets.contains(&hash) || seen.sets.len() < most && seen.sets.insert(hash)
        };
        if takes(&by, MOST_SETS) {
            return join(by);
        }
        let tags = format!("{OTHER}{TAG_END}");
        let by = By { tags: if by.tags.is_empty() { "" } else { &tags }, ..by };
        if takes(&by, 2 * MOST_SETS) {
            return join(by);
        }
        let target = format!("{}/{OTHER}", by.provider());
        let by = By { model: other(by.model), target: if by.target.is_empty() { "" } else { &target }, ..by };
        if takes(&by, 3 * MOST_SETS) {
            return join(by);
        }
        join(By { user: other(by.user), key: other(by.key), ..by })
    }

    /// A row that is there already, from before a start.
    pub fn found(&mut self, at: Minute, by: &By<'_>) {
        let seen = seen(&mut self.hours, at.hour());
        seen.rows += 1;
        seen.sets.insert(self.hasher.hash_one(by));
        for (name, value) in by.tags().filter_map(|tag| tag.split_once('=')) {
            seen.tags.entry(name.into()).or_default().insert(self.hasher.hash_one(value));
        }
    }
}

fn seen(hours: &mut BTreeMap<Hour, Seen>, hour: Hour) -> &mut Seen {
    while hours.len() > HOURS && !hours.contains_key(&hour) {
        hours.pop_first();
    }
    hours.entry(hour).or_default()
}

fn other(name: &str) -> &str {
    if name.is_empty() { "" } else { OTHER }
}

/// Without what takes rows apart, and not longer than it may be.
fn plain(text: &str, most: usize) -> String {
    text.chars().filter(|c| !matches!(*c, '\0' | TAG_END)).take(most).collect()
}

/// The name of what there was no room for.
pub const OTHER: &str = "(other)";
/// Hours that are remembered: a long stream may end in a later one.
const HOURS: usize = 3;
/// An hour, without tags once it has them; twice as many without models, three times without keys.
const MOST_SETS: usize = 10_000;
/// Rows of minutes an hour; what comes later is counted by the quarter.
const MOST_ROWS: usize = 60_000;
/// Names of tags an hour, and values of each.
pub(super) const MOST_NAMES: usize = 64;
pub(super) const MOST_VALUES: usize = 200;
/// Of one request, as the header allows; a script may set more.
const MOST_TAGS: usize = 16;
const MOST_NAME: usize = 64;
const MOST_LONG: usize = 256;
