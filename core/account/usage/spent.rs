//! What scopes have spent: asked by budgets, once for each of them. The first question adds up all scopes at once and remembers
//! them for a minute, during which what comes is added as well: ten thousand keys with a budget read the sums once, not ten thousand
//! times. On a shared store nothing is remembered, because others add up, too.

use std::{
    collections::HashMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use super::{
    By, Kind, QUARTER, Sums,
    by::{self, Place},
};
use crate::{
    account::{minute::Minute, sum::Sum},
    config::Scope,
    store::Result,
};

/// Everybody's nano-dollars from one time to another.
pub(super) struct Memo {
    from: Minute,
    to: Minute,
    /// With all that is older than sums are kept.
    older: bool,
    made: Instant,
    number: u64,
    /// `false`: what is in the store is still being read, and only what came since stands here.
    whole: bool,
    spent: Spent,
}

/// Of each kind by its names.
#[derive(Default)]
struct Spent([HashMap<Box<str>, u64, foldhash::fast::RandomState>; 8]);

impl Sums {
    /// Nano-dollars of the requests of a scope that began from `from` up to `to`, by whole quarters of an hour. Of a tag that
    /// has more values than an hour may have, those that had no room are left out.
    pub async fn spent(&self, scope: &Scope, from: SystemTime, to: Option<SystemTime>) -> Result<u64> {
        let wanted = (Minute::of(from).within(QUARTER), to.map_or(Minute::MAX, Minute::not_before), from <= UNIX_EPOCH);
        let (kind, id) = (Kind::of(scope), &**scope.id());
        let _still = self.moving.read().await;
        let (mine, number) = {
            let mut state = self.lock();
            let now = Instant::now();
            state.memos.retain(|memo| memo.is_kept(now));
            let same = |memo: &&Memo| memo.whole && (memo.from, memo.to, memo.older) == wanted;
            if let Some(memo) = state.memos.iter().find(same) {
                return Ok(memo.spent.of(kind, id));
            }
            let within = |key: &[u8]| by::time(key).is_some_and(|at| at >= wanted.0 && at < wanted.1);
            let mine = state.unnoted().filter(|(key, _)| within(key)).map(|(key, sum)| (key.into(), *sum));
            let mine: Vec<(Box<[u8]>, Sum)> = mine.collect();
            state.asked += 1;
            let number = state.asked;
            if self.node.is_empty() && state.memos.len() < MOST {
                let (from, to, older) = wanted;
                state.memos.push(Memo { from, to, older, made: now, number, whole: false, spent: Spent::default() });
            }
            (mine, number)
        };
        let all = self.all_spent(&mine, wanted).await;
        let mut state = self.lock();
        let place = state.memos.iter().position(|memo| memo.number == number);
        let all = match (all, place) {
            (Ok(all), _) => all,
            (Err(error), place) => {
                place.map(|at| state.memos.swap_remove(at));
                return Err(error);
            }
        };
        let spent = all.of(kind, id);
        if let Some(at) = place {
            match all.len() <= MOST_SCOPES {
                true => state.memos[at].complete(all),
                false => drop(state.memos.swap_remove(at)),
            }
        }
        Ok(spent)
    }

    async fn all_spent(&self, mine: &[(Box<[u8]>, Sum)], (from, to, older): (Minute, Minute, bool)) -> Result<Spent> {
        let mut all = Spent::default();
        for (key, sum) in mine {
            if let Some(Place { by, .. }) = by::split(key) {
                all.add(&by, sum.cost_nano_usd);
            }
        }
        self.stored(from, to, |_, by, sum| all.add(by, sum.cost_nano_usd)).await?;
        if older {
            for kind in KINDS {
                self.older_still(kind, |id, sum| {
                    let id = if kind == Kind::Target { id.split('/').next().unwrap_or("") } else { id };
                    all.put(kind, id, sum.cost_nano_usd);
                })
                .await?;
            }
        }
        Ok(all)
    }
}

impl Memo {
    /// What came while it is kept.
    pub fn add(&mut self, at: Minute, by: &By<'_>, cost: Option<i64>) {
        if let Some(cost) = cost.and_then(|cost| u64::try_from(cost).ok()).filter(|_| at >= self.from && at < self.to) {
            self.spent.add(by, cost);
        }
    }

    pub fn is_kept(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.made) < KEPT
    }

    fn complete(&mut self, all: Spent) {
        for (mine, theirs) in self.spent.0.iter_mut().zip(all.0) {
            for (id, cost) in theirs {
                let sum = mine.entry(id).or_default();
                *sum = sum.saturating_add(cost);
            }
        }
        self.whole = true;
    }
}

impl Spent {
    fn of(&self, kind: Kind, id: &str) -> u64 {
        self.0[kind as usize].get(id).copied().unwrap_or(0)
    }

    fn len(&self) -> usize {
        self.0.iter().map(HashMap::len).sum()
    }

    /// A provider stands for its targets.
    fn add(&mut self, by: &By<'_>, cost: u64) {
        if cost == 0 {
            return;
        }
        for (kind, id) in by.each().filter(|(kind, id)| *kind != Kind::All && !id.is_empty()) {
            self.put(kind, if kind == Kind::Target { by.provider() } else { id }, cost);
        }
    }

    fn put(&mut self, kind: Kind, id: &str, cost: u64) {
        let names = &mut self.0[kind as usize];
        match names.get_mut(id) {
            Some(sum) => *sum = sum.saturating_add(cost),
            None => drop(names.insert(id.into(), cost)),
        }
    }
}

/// Those that scopes are.
const KINDS: [Kind; 7] = [Kind::Organisation, Kind::Team, Kind::User, Kind::Key, Kind::Model, Kind::Target, Kind::Tag];
/// Long enough for all budgets of a start.
const KEPT: Duration = Duration::from_secs(60);
/// Windows at a time.
const MOST: usize = 8;
/// More than these are not remembered.
const MOST_SCOPES: usize = 200_000;
