//! The order in which targets are tried. Pure: the same plan, seed and health give the same order.

use std::{collections::HashSet, sync::Arc, time::Instant};

use super::{Group, Health, Plan, Target};
use crate::config::Strategy;

/// Targets in the order of trial, each once. Ejected ones stand last: they are tried only if their rest is over by then.
pub type Order = Vec<Arc<Target>>;

impl Plan {
    pub fn order(&self, seed: u64, health: &Health, now: Instant) -> Order {
        if let [Group { targets, .. }] = self.groups.as_slice()
            && let [only] = targets.as_slice()
        {
            return vec![only.clone()];
        }
        let mut seen = HashSet::new();
        let mut out = Vec::new();
        let mut ejected = Vec::new();
        for (turn, group) in self.groups.iter().enumerate() {
            let (well, ill): (Vec<_>, Vec<_>) = group
                .targets
                .iter()
                .filter(|t| seen.insert(t.name.clone()))
                .cloned()
                .partition(|t| health.is_healthy(&t.name, now));
            // Each group draws for itself, so that two aliases of the same weights do not always agree.
            out.extend(arrange(group.strategy, well, seed.wrapping_add(turn as u64)));
            ejected.extend(ill);
        }
        out.append(&mut ejected);
        out
    }

    /// Every target of the plan, in the order of writing.
    pub fn targets(&self) -> impl Iterator<Item = &Arc<Target>> {
        self.groups.iter().flat_map(|g| &g.targets)
    }

    pub fn is_empty(&self) -> bool {
        self.forks.is_empty() && self.groups.iter().all(|g| g.targets.is_empty())
    }

    pub(super) fn push(&mut self, strategy: Strategy, targets: Vec<Arc<Target>>) {
        if !targets.is_empty() {
            self.groups.push(Group { strategy, targets });
        }
    }
}

fn arrange(strategy: Strategy, mut targets: Vec<Arc<Target>>, seed: u64) -> Vec<Arc<Target>> {
    match strategy {
        Strategy::First => targets,
        Strategy::Weighted => {
            if let Some(at) = draw(&targets, seed) {
                let chosen = targets.remove(at);
                // The rest stands by for failover, the heaviest first; equal ones as they were written.
                targets.sort_by_key(|t| std::cmp::Reverse(t.weight));
                targets.insert(0, chosen);
            }
            targets
        }
    }
}

/// Which one the seed falls on; a weight of 0 is never drawn.
fn draw(targets: &[Arc<Target>], seed: u64) -> Option<usize> {
    let total: u64 = targets.iter().map(|t| u64::from(t.weight)).sum();
    if total == 0 {
        return None;
    }
    let mut mark = fastrand::Rng::with_seed(seed).u64(..total);
    targets.iter().position(|t| {
        let weight = u64::from(t.weight);
        let here = mark < weight;
        mark = mark.saturating_sub(weight);
        here
    })
}
