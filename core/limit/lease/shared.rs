//! Budgets whose store counts for several gateways: no block is leased here. How they stand is looked at, and raises that others
//! made are taken up.

use std::{sync::Arc, time::SystemTime};

use super::{Budgets, Row};
use crate::{
    limit::{Purse, shared},
    store::{
        Counters, Table,
        counters::{Counter, Id, Settled, Standing},
    },
};

impl Budgets {
    /// How the budgets stand in a store that counts for several gateways: for headers, gauges and the API, a moment old.
    pub(super) async fn watch(&self) {
        let Some(counters) = &self.counters else { return };
        let now = SystemTime::now();
        let current: Vec<Arc<Purse>> = self.current.iter().take(MOST_WATCHED).map(|purse| purse.clone()).collect();
        for purse in current.iter().filter(|purse| purse.window.holds(now)) {
            let counter = shared::money(purse, now);
            // It is away, for all of them.
            let Ok(mut standing) = counters.look(&counter).await else { return };
            if standing == Standing::default() && !purse.is_loaded() {
                standing.used = self.moved(&**counters, counter, purse).await;
            }
            purse.observe(standing.used, standing.reserved);
        }
    }

    /// A store that was moved here brought along what its gateway had spent: it counts, once.
    async fn moved(&self, counters: &dyn Counters, counter: Counter, purse: &Purse) -> u64 {
        let Ok(Some(Row { ceiling, .. })) = self.row(&purse.scope, &purse.window).await else { return 0 };
        let sender = format!("moved:{}", counter.name);
        let moved = Settled { id: NOBODY, counter, had: 0, used: Some(ceiling) };
        match counters.settle(&sender, 1, &[moved]).await {
            Ok(()) => ceiling,
            Err(_) => 0,
        }
    }

    /// Raises that other gateways on the same store made or ended: these rows, or any.
    pub async fn take_up(&self, rows: Option<&[(Table, Vec<u8>)]>) {
        let done = async {
            match rows {
                None => self.raises.load(&*self.store).await?,
                Some(rows) => {
                    for (_, key) in rows.iter().filter(|(table, _)| *table == Table::Raises) {
                        self.raises.refresh(&*self.store, key).await?;
                    }
                }
            }
            anyhow::Ok(())
        };
        if let Err(error) = done.await {
            tracing::error!(%error, "raises of budgets by other gateways could not be read");
        }
        self.raise();
    }
}

/// Of what was spent before there were claims.
const NOBODY: Id = Id(0);
/// In one look.
const MOST_WATCHED: usize = 500;
