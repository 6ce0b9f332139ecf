//! Old sums: what is older than `records.usage` becomes one sum a team, so that the store does not grow for ever and a
//! budget of all time is still known. Touches only hours that memory has let go.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{By, PAGE, Sums, join, split};
use crate::{
    account::{hour::Hour, sum::Sum},
    store::{Op, Result, Table},
};

impl Sums {
    /// Looks once an hour; an error leaves the rest to the next time.
    pub async fn sweep(&self, now: SystemTime, keep: Duration) -> Result<()> {
        let kept = u32::try_from(keep.as_secs().div_ceil(3600)).unwrap_or(u32::MAX);
        let before = {
            let state = self.lock();
            let before = Hour::of(now).minus(kept).min(state.first);
            if before <= state.swept.max(OLD) {
                return Ok(());
            }
            before
        };
        while self.fold(before).await? {}
        self.lock().swept = before;
        Ok(())
    }

    /// One page of hours before `before`. `false`: there was none left.
    async fn fold(&self, before: Hour) -> Result<bool> {
        // Whoever adds sums up must not see a row neither here nor there.
        let _alone = self.moving.write().await;
        let after = OLD.plus(1).0.to_be_bytes();
        let rows = self.store.scan(Table::Usage, &[], Some(&after), PAGE).await?;
        let old = rows.into_iter().take_while(|(key, _)| split(key).is_some_and(|by| by.hour < before));
        let mut batch = Vec::new();
        let mut teams: BTreeMap<Vec<u8>, Sum> = BTreeMap::new();
        for (key, value) in old {
            if let Some((by, sum)) = split(&key).zip(Sum::parse(&value)) {
                teams
                    .entry(join(By { hour: OLD, team: by.team, key: "", model: "", target: "" }))
                    .or_default()
                    .add(&sum);
            }
            batch.push(Op::remove(Table::Usage, key));
        }
        if batch.is_empty() {
            return Ok(false);
        }
        for (key, mut sum) in teams {
            let older = self.store.read(Table::Usage, &key).await?.and_then(|value| Sum::parse(&value));
            sum.add(&older.unwrap_or_default());
            batch.push(Op::put(Table::Usage, key, sum.bytes()));
        }
        // All of it or nothing: no sum is lost and none counts twice.
        self.store.write_soft(batch).await?;
        Ok(true)
    }
}

/// Where the sums of all older hours lie: behind the mark of how far sums go, before every hour that a request had.
const OLD: Hour = Hour(1);
