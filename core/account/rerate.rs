//! Usage priced again: what rows of the ledger would have cost by other prices, and how that differs from what was charged.
//! Changes nothing by itself (`write` does). Pure: lines and prices in, differences and other lines out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::SystemTime,
};

use serde_json::{Number, Value};

use super::{
    minute::Minute,
    price::{Rates, usd_text},
    report::Dimension,
    usage::{
        line::{Line, LineAttempt},
        recost::{self, Recost},
    },
};

pub mod write;

/// What came of it, by the names that were asked for.
#[derive(Debug, Default)]
pub struct Rerated {
    pub groups: BTreeMap<Vec<String>, Difference>,
    /// Rows of batches: sums of many requests, which cannot be priced one by one.
    pub batches: u64,
    /// Lines that are no record.
    pub unread: u64,
}

/// Of one group, in nano-dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    pub attempts: u64,
    /// Charged by prices that say the same.
    pub unchanged: u64,
    pub was: i128,
    pub now: i128,
    /// Attempts whose cost nobody knew, and whose cost nobody knows now.
    pub unknown_was: u64,
    pub unknown_now: u64,
}

/// A line at other prices.
#[derive(Debug)]
pub(super) struct Rewritten {
    pub line: Vec<u8>,
    /// What it changes of the sums, by where an attempt counts.
    pub changes: Vec<(Vec<u8>, Recost)>,
}

impl Rewritten {
    /// One of its attempts counts there.
    pub fn is_in(&self, places: &BTreeSet<Vec<u8>>) -> bool {
        self.changes.iter().any(|(place, _)| places.contains(place))
    }
}

/// `None`: it stays as it is. An attempt that has no price now keeps what it was charged.
pub(super) fn rewritten(line: &[u8], prices: &mut Prices<'_>) -> Option<Rewritten> {
    let read: Line = serde_json::from_slice(line).ok()?;
    let mut row: Value = serde_json::from_slice(line).ok()?;
    let at = began(&read);
    let mut changes = Vec::new();
    let mut costs: Vec<Option<i64>> = Vec::new();
    for (n, attempt) in read.ledger.iter().enumerate() {
        let was = attempt.cost_nano_usd();
        let rates = prices(&attempt.target).filter(|_| !attempt.is_batch());
        let now = rates.and_then(|rates| Some((rates.cost_at(&attempt.usage()?, at)?, rates.version.to_string())));
        let Some((now, version)) = now else {
            costs.push(was);
            continue;
        };
        costs.push(Some(now));
        if was == Some(now) && attempt.price.as_ref() == Some(&version) {
            continue;
        }
        let own = row.get_mut("ledger")?.get_mut(n)?;
        own["cost_usd"] = usd(now)?;
        own["price"] = version.into();
        let nano = |cost: Option<i64>| cost.and_then(|cost| u64::try_from(cost).ok());
        let change = Recost {
            was: nano(was).unwrap_or(0),
            now: nano(Some(now)).unwrap_or(0),
            unknown: u64::from(nano(was).is_none()),
        };
        changes.push((recost::place(&read, &attempt.target), change));
    }
    if changes.is_empty() {
        return None;
    }
    let known = costs.iter().flatten().copied().reduce(i64::saturating_add);
    row["cost_usd"] = usd(known.unwrap_or(0))?;
    row["cost_unknown"] = costs.iter().any(Option::is_none).into();
    Some(Rewritten { line: serde_json::to_vec(&row).ok()?, changes })
}

fn usd(nano: i64) -> Option<Value> {
    usd_text(nano).parse::<Number>().ok().map(Value::Number)
}

/// When the request did.
fn began(line: &Line) -> SystemTime {
    Minute::of_id(&line.id).map_or(SystemTime::UNIX_EPOCH, Minute::start)
}

/// The prices of a target, by its name.
pub type Prices<'a> = dyn FnMut(&str) -> Option<Arc<Rates>> + 'a;

impl Rerated {
    /// One line of the ledger.
    pub fn add(&mut self, line: &[u8], by: &[Dimension], prices: &mut Prices<'_>) {
        let Ok(line) = serde_json::from_slice::<Line>(line) else {
            self.unread += 1;
            return;
        };
        let at = began(&line);
        for attempt in &line.ledger {
            if attempt.is_batch() {
                self.batches += 1;
                continue;
            }
            let rates = prices(&attempt.target);
            let names = by.iter().map(|dimension| name(*dimension, &line, attempt)).collect();
            self.groups.entry(names).or_default().count(attempt, rates.as_deref(), at);
        }
    }

    pub fn total(&self) -> Difference {
        self.groups.values().fold(Difference::default(), |mut sum, one| {
            let Difference { attempts, unchanged, was, now, unknown_was, unknown_now } = *one;
            sum.attempts += attempts;
            sum.unchanged += unchanged;
            (sum.was, sum.now) = (sum.was + was, sum.now + now);
            (sum.unknown_was, sum.unknown_now) = (sum.unknown_was + unknown_was, sum.unknown_now + unknown_now);
            sum
        })
    }
}

impl Difference {
    fn count(&mut self, attempt: &LineAttempt, rates: Option<&Rates>, at: SystemTime) {
        self.attempts += 1;
        let was = attempt.cost_nano_usd();
        let version = rates.map(|rates| rates.version.to_string());
        let now = match attempt.usage() {
            // Turned away, or taken without a word on what it used: no price changes that.
            None => was.filter(|_| attempt.price.is_none() && !attempt.estimated),
            Some(usage) => rates.and_then(|rates| rates.cost_at(&usage, at)),
        };
        self.unchanged += u64::from(was == now && (attempt.price.is_none() || attempt.price == version));
        self.was += i128::from(was.unwrap_or(0));
        self.now += i128::from(now.unwrap_or(0));
        self.unknown_was += u64::from(was.is_none());
        self.unknown_now += u64::from(now.is_none());
    }

    /// What would have been charged more, or less.
    pub fn difference(&self) -> i128 {
        self.now - self.was
    }
}

fn name(dimension: Dimension, line: &Line, attempt: &LineAttempt) -> String {
    let maybe = |name: &Option<String>| name.clone().unwrap_or_default();
    match dimension {
        Dimension::Organisation => maybe(&line.organisation),
        Dimension::Team => maybe(&line.team),
        Dimension::User => maybe(&line.user),
        Dimension::Key => maybe(&line.key_id),
        Dimension::Model => line.model.clone(),
        Dimension::Target => attempt.target.clone(),
        Dimension::Provider => attempt.target.split('/').next().unwrap_or("").to_owned(),
        Dimension::Tag => line.tags().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(","),
    }
}
