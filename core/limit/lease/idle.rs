//! Budgets that nobody asks for any more leave the memory: a million keys with a budget each are not all in use.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{Budgets, PAGE, put};
use crate::{
    config::Scope,
    limit::purse::{Purse, Written},
};

impl Budgets {
    /// Budgets of keys, users and others that no file names and nobody has asked for of late leave the memory. Their next
    /// request waits for the store, as the first one did. Blocks are given back before that is written down, so whoever asks
    /// meanwhile waits for another one, which is written down later.
    pub(in crate::limit) async fn let_go(&self, idle: Duration) {
        self.known.forget();
        let named: HashSet<Scope> = self.configured.load().iter().map(|rule| rule.scope.clone()).collect();
        let idle: Vec<(Arc<Purse>, Written)> = self
            .all
            .iter()
            .filter(|purse| !named.contains(&purse.scope))
            .filter_map(|purse| Some((purse.clone(), purse.rest(idle)?)))
            .collect();
        let kept_here = self.counters.is_none();
        for some in idle.chunks(PAGE).filter(|_| kept_here) {
            let rows = some.iter().map(|(purse, written)| put(purse, *written));
            if self.store.write(rows.collect()).await.is_err() {
                // They stay, and lease again.
                return;
            }
        }
        for (purse, written) in idle {
            let (scope, per, window) = (purse.scope.clone(), purse.per, purse.window.id.clone());
            self.current.remove_if(&(scope.clone(), per), |_, held| Arc::ptr_eq(held, &purse));
            // The map's and this one: nobody else has it, and nobody can get it while the map is locked.
            let alone = |held: &Arc<Purse>| Arc::strong_count(held) == 2 && held.at_rest() == Some(written);
            self.all.remove_if(&(scope, window), |_, held| alone(held));
        }
    }

    #[cfg(test)]
    pub(in crate::limit) fn in_memory(&self) -> usize {
        self.all.len()
    }
}
