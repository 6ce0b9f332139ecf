//! Sums after other prices: the rows that hold what attempts cost, with what they cost now. Each gateway's own rows only; what
//! comes meanwhile is added to them afterwards.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Sums,
    by::{self, By, Grain, Place},
    covered, covered_bytes, covered_key,
    line::Line,
    names::Names,
};
use crate::{
    account::{hour::Hour, minute::Minute, sum::Sum},
    store::{Op, Result, Table},
};

/// What other prices change of one sum, nano-dollars.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recost {
    pub was: u64,
    pub now: u64,
    /// Attempts whose cost nobody knew.
    pub unknown: u64,
}

impl Recost {
    pub fn add(&mut self, more: &Recost) {
        self.was = self.was.saturating_add(more.was);
        self.now = self.now.saturating_add(more.now);
        self.unknown += more.unknown;
    }
}

/// Rows as they were read, and as they are to be.
#[derive(Debug, Default)]
pub struct Recosted {
    as_read: Vec<Op>,
    batch: Vec<Op>,
    /// Whose rows were not found: too many names in its hour, or too long ago.
    pub lost: BTreeSet<Vec<u8>>,
}

/// What an attempt of a line counts under, as far as a line tells.
pub fn place(line: &Line, target: &str) -> Vec<u8> {
    let at = Minute::of_id(&line.id).unwrap_or_default();
    let mut tags = String::new();
    Names::default().tags(at.hour(), line.tags(), &mut tags);
    let text = |name: &'_ Option<String>| name.clone().unwrap_or_default();
    let (organisation, team, user, key) =
        (text(&line.organisation), text(&line.team), text(&line.user), text(&line.key_id));
    let by = By {
        organisation: &organisation,
        team: &team,
        user: &user,
        key: &key,
        model: if line.target.as_deref().unwrap_or("").is_empty() { "" } else { &line.model },
        target,
        tags: &tags,
    };
    by::join(Place { grain: Grain::Minute, at, by, node: "" })
}

impl Sums {
    /// Changes nothing yet.
    pub async fn recost(&self, changes: &BTreeMap<Vec<u8>, Recost>) -> Result<Recosted> {
        let mut found = Recosted::default();
        // Rows that several changes meet in are changed by all of them.
        let mut rows: BTreeMap<Vec<u8>, Sum> = BTreeMap::new();
        'changes: for (place, change) in changes {
            for key in self.candidates(place) {
                if !rows.contains_key(&key) {
                    let Some(value) = self.store.read(Table::Reports, &key).await? else { continue };
                    let Some(sum) = Sum::parse(&value) else { continue };
                    found.as_read.push(Op::put(Table::Reports, key.clone(), value));
                    rows.insert(key.clone(), sum);
                }
                let Some(sum) = rows.get_mut(&key) else { continue };
                let (Some(cost), Some(unknown)) =
                    (sum.cost_nano_usd.checked_sub(change.was), sum.unknown_costs.checked_sub(change.unknown))
                else {
                    continue;
                };
                (sum.cost_nano_usd, sum.unknown_costs) = (cost.saturating_add(change.now), unknown);
                continue 'changes;
            }
            found.lost.insert(place.clone());
        }
        found.batch = rows.into_iter().map(|(key, sum)| Op::put(Table::Reports, key, sum.bytes())).collect();
        Ok(found)
    }

    /// By minute, by the quarter of an hour, by day; this gateway's, or nobody's any more.
    fn candidates(&self, place: &[u8]) -> Vec<Vec<u8>> {
        let Some(Place { at, by, .. }) = by::split(place) else { return Vec::new() };
        let nodes = [&*self.node, ""];
        let nodes = if self.node.is_empty() { &nodes[..1] } else { &nodes[..] };
        let each = Grain::ALL.into_iter().flat_map(|grain| nodes.iter().map(move |node| (grain, *node)));
        each.map(|(grain, node)| by::join(Place { grain, at: at.within(grain.span()), by, node })).collect()
    }

    /// The same changes as they were found before, for good; `false`: the sums are not where they were, and nothing was done.
    pub async fn recosted(&self, changes: &BTreeMap<Vec<u8>, Recost>, hour: Hour, end: u64) -> Result<bool> {
        // No note is made and no sum goes anywhere from reading the rows to writing them.
        let _alone = self.moving.write().await;
        let recosted = self.recost(changes).await?;
        if !recosted.lost.is_empty() {
            return Ok(false);
        }
        self.commit_rerated(recosted, hour, end).await
    }

    /// All of it at once: the sums, how long the hour's lines are now, and that its new file takes the old one's place. `false`:
    /// somebody else changed the sums meanwhile, and nothing was done.
    pub async fn commit_rerated(&self, recosted: Recosted, hour: Hour, end: u64) -> Result<bool> {
        let Recosted { mut as_read, mut batch, .. } = recosted;
        // As it was noted: lines that came since are not in the sums of the store.
        let noted = self.store.read(Table::Reports, &covered_key(&self.node)).await?;
        let mut covered = noted.as_deref().map(covered).unwrap_or_default();
        as_read.push(Op { table: Table::Reports, key: covered_key(&self.node), value: noted });
        // What is not there was counted whole, long ago.
        covered.entry(hour).and_modify(|to| *to = end);
        batch.push(Op::put(Table::Reports, covered_key(&self.node), covered_bytes(&covered)));
        batch.push(Op::put(Table::Reports, self.rerated_key(), hour.0.to_be_bytes()));
        let done = self.store.write_if(as_read, batch).await?;
        if done {
            let mut state = self.lock();
            state.covered.entry(hour).and_modify(|to| *to = end);
            // What was remembered of rows is not so any more.
            state.known.clear();
            state.memos.clear();
        }
        Ok(done)
    }

    /// The hour whose new file is to take the old one's place.
    pub async fn rerated(&self) -> Result<Option<Hour>> {
        let row = self.store.read(Table::Reports, &self.rerated_key()).await?;
        Ok(row.and_then(|row| row.try_into().ok()).map(u32::from_be_bytes).map(Hour))
    }

    /// It has.
    pub async fn rerated_done(&self) -> Result<()> {
        self.store.write(vec![Op::remove(Table::Reports, self.rerated_key())]).await
    }

    fn rerated_key(&self) -> Vec<u8> {
        [RERATED, self.node.as_bytes()].concat()
    }
}

const RERATED: &[u8] = b"\0rerated\0";
