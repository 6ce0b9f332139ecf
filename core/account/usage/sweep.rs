//! Old sums: minutes become quarters of an hour, those become days, and what is older than `records.usage` becomes one sum a
//! team, key, model and so on, so that the store does not grow for ever and a budget of all time is still known. Each page
//! is one batch that is written only if the rows are as they were read: no sum is lost and none counts twice, wherever it
//! ends, and whichever gateway on a shared store was at it. Rows of gateways that are gone are put together by the others.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use super::{
    DAY, Kind, OTHER, PAGE, QUARTER, Sums,
    by::{self, Grain, Place},
    fine,
};
use crate::{
    account::{minute::Minute, sum::Sum},
    store::{Op, Result, Table},
};

/// What rows become.
#[derive(Clone, Copy)]
enum Into {
    Grain(Grain),
    Older,
}

impl Sums {
    /// Looks once an hour; an error leaves the rest to the next time.
    pub async fn sweep(&self, now: SystemTime, keep: Duration) -> Result<()> {
        let today = Minute::of(now);
        let before = {
            let mut state = self.lock();
            if today.hour() <= state.swept {
                return Ok(());
            }
            // What comes late is counted by the quarter from now on.
            state.fine = state.fine.max(fine(now));
            state.fine
        };
        self.fold(Grain::Minute, before, Into::Grain(Grain::Quarter)).await?;
        self.fold(Grain::Quarter, coarse(now), Into::Grain(Grain::Day)).await?;
        let kept = u32::try_from(keep.as_secs() / 60).unwrap_or(u32::MAX);
        for grain in Grain::ALL {
            self.fold(grain, today.minus(kept).within(QUARTER), Into::Older).await?;
        }
        self.lock().swept = today.hour();
        Ok(())
    }

    /// Rows before `before`, page by page: this gateway's own, and those of others once they are so old that nobody adds to
    /// them any more.
    async fn fold(&self, grain: Grain, before: Minute, into: Into) -> Result<()> {
        let mut after = (before > Minute(0)).then(|| by::begin(grain, Minute(0)));
        while let Some(start) = after {
            // Whoever adds sums up must not see a row neither here nor there.
            let _alone = self.moving.write().await;
            let rows = self.store.scan(Table::Reports, &[grain.byte()], Some(&start), PAGE).await?;
            after = rows.last().filter(|_| rows.len() == PAGE).map(|(key, _)| key.clone());
            let (mut there, mut batch) = (Vec::new(), Vec::new());
            let mut sums: BTreeMap<Vec<u8>, Sum> = BTreeMap::new();
            for (key, value) in &rows {
                let Some(Place { at, by, node, .. }) = by::split(key) else { continue };
                // A day is old when all of it is.
                if at.plus(grain.span()) > before {
                    after = None;
                    break;
                }
                let node = match *node == *self.node {
                    true => node,
                    false if at.plus(grain.span()) > before.minus(OTHERS) => continue,
                    false => NOBODY,
                };
                let Some(sum) = Sum::parse(value) else { continue };
                match into {
                    Into::Grain(grain) => {
                        let place = Place { grain, at: at.within(grain.span()), by, node };
                        sums.entry(by::join(place)).or_default().add(&sum);
                    }
                    Into::Older => {
                        for (kind, id) in by.each() {
                            sums.entry(by::older(kind, id, node)).or_default().add(&sum);
                        }
                    }
                }
                batch.push(Op::remove(Table::Reports, key.clone()));
                there.push(Op::put(Table::Reports, key.clone(), value.clone()));
            }
            if batch.is_empty() {
                continue;
            }
            self.add_up(sums, &mut there, &mut batch).await?;
            if !self.store.write_if(there, batch).await? {
                tracing::debug!("another gateway put old sums of usage together: the rest is left to the next time");
                return Ok(());
            }
        }
        Ok(())
    }

    /// What rows hold already is added to what comes to them.
    async fn add_up(&self, sums: BTreeMap<Vec<u8>, Sum>, as_read: &mut Vec<Op>, batch: &mut Vec<Op>) -> Result<()> {
        let tag = by::older_prefix(Kind::Tag);
        let mut room = None;
        let mut rest = Sum::default();
        for (key, mut sum) in sums {
            let there = self.store.read(Table::Reports, &key).await?;
            if key.starts_with(&tag) && there.is_none() {
                // Callers make tags up: for all time there is room for so many.
                let left = match room {
                    Some(left) => left,
                    None => MOST_OLD_TAGS
                        .saturating_sub(self.store.scan(Table::Reports, &tag, None, MOST_OLD_TAGS).await?.len()),
                };
                room = Some(left.saturating_sub(1));
                if left == 0 {
                    rest.add(&sum);
                    continue;
                }
            }
            sum.add(&there.as_deref().and_then(Sum::parse).unwrap_or_default());
            as_read.push(Op { table: Table::Reports, key: key.clone(), value: there });
            batch.push(Op::put(Table::Reports, key, sum.bytes()));
        }
        if rest != Sum::default() {
            let key = by::older(Kind::Tag, OTHER, &self.node);
            let there = self.store.read(Table::Reports, &key).await?;
            rest.add(&there.as_deref().and_then(Sum::parse).unwrap_or_default());
            as_read.push(Op { table: Table::Reports, key: key.clone(), value: there });
            batch.push(Op::put(Table::Reports, key, rest.bytes()));
        }
        Ok(())
    }
}

/// Before this, sums are kept by whole days, UTC.
pub fn coarse(now: SystemTime) -> Minute {
    Minute::of(now).minus(QUARTERS_KEPT).within(DAY)
}

/// Rows of other gateways are left alone for so long: one may still be settling a long stream.
const OTHERS: u32 = 3 * DAY;
/// Whose rows are put together for gateways that are gone.
const NOBODY: &str = "";
/// A quarter of a year, and a day: reports of the last three months are right in every zone.
const QUARTERS_KEPT: u32 = 94 * DAY;
/// Tags of all time; what is over is counted together.
const MOST_OLD_TAGS: usize = 10_000;
