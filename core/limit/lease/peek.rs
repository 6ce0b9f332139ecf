//! How a budget stands that nobody asks for at the moment, for a list: read where it lies, and not taken up.

use std::{sync::Arc, time::SystemTime};

use super::{Account, Budgets, Read};
use crate::{
    config::{Budget, MOST_NANO_USD, Rule, Scope},
    limit::{
        budget::Balance,
        shared::{Counted, counter},
        window::Window,
    },
    store::counters::Standing,
};

impl Budgets {
    /// What the files say.
    pub fn configured(&self) -> Arc<Vec<Rule>> {
        self.configured.load_full()
    }

    /// One budget as the API shows it. What cannot be read has no balance.
    pub async fn peek(&self, (scope, name): (&Scope, &Arc<str>), budget: &Budget, now: SystemTime) -> Account {
        let held = self.current.get(&(scope.clone(), budget.per)).map(|purse| purse.clone());
        if held.is_some_and(|purse| purse.window.holds(now) && purse.is_loaded()) {
            return self.account((scope, name), budget, now);
        }
        let window = Window::of(budget.per, now);
        let raised = self.raises.of(scope, budget.per, now);
        let most = budget.nano_usd.saturating_add(raised).min(MOST_NANO_USD);
        let stands = self.stands(scope, budget, &window, now).await;
        let balance = stands.map(|Standing { used, reserved }| Balance {
            spent: used,
            reserved,
            left: most.saturating_sub(used).saturating_sub(reserved),
        });
        let past_soft = balance.zip(budget.soft_of(most)).is_some_and(|(balance, soft)| balance.spent >= soft);
        Account { scope: scope.clone(), name: name.clone(), budget: *budget, window, most, raised, balance, past_soft }
    }

    async fn stands(&self, scope: &Scope, budget: &Budget, window: &Window, now: SystemTime) -> Option<Standing> {
        if let Some(counters) = &self.counters {
            let counter = counter(scope, Counted::Money(budget.per), Some(window), now);
            let standing = counters.look(&counter).await.ok()?;
            if standing != Standing::default() {
                return Some(standing);
            }
            // A store that was moved here brought along what was spent.
            let row = self.row(scope, window).await.ok()?;
            return Some(Standing { used: row.map_or(0, |row| row.ceiling), reserved: 0 });
        }
        let Read { spent, lost, .. } = self.read(scope, window).await?;
        // What a killed gateway may have spent counts for a lease after the start.
        let lost = if self.epoch.elapsed() < self.lease { lost } else { 0 };
        Some(Standing { used: spent.saturating_add(lost), reserved: 0 })
    }
}
