//! What was counted by the day, kept across restarts: written every few seconds and at the end, read at the start. A gateway
//! that is killed forgets the last seconds of it, never the day. Meters that hold nothing any more are let go of here, too.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    meter::Meters,
    window::{Days, day_of},
};
use crate::{
    config::Scope,
    store::{Op, Store, StoreError, Table},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    requests: u64,
    tokens: u64,
}

/// What was written last.
pub(super) type Known = HashMap<(Scope, u32), Row>;

/// Of the days that still matter; others are removed.
pub async fn restore(meters: &Meters, store: &dyn Store) {
    if let Err(error) = restore_at(meters, store, day_of(SystemTime::now())).await {
        tracing::error!(%error, "limits by the day begin anew: what was counted could not be read");
    }
}

pub(super) async fn restore_at(meters: &Meters, store: &dyn Store, today: u32) -> Result<(), StoreError> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan(Table::Budgets, PREFIX.as_bytes(), after.as_deref(), PAGE).await?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.clone());
        let mut gone = Vec::new();
        for (key, value) in page {
            let read = || {
                let mut words = std::str::from_utf8(&key).ok()?.split('\0').skip(1);
                let scope = Scope::of(words.next()?, words.next()?)?;
                Some((scope, words.next()?.parse::<u32>().ok()?, serde_json::from_slice::<Row>(&value).ok()?))
            };
            match read() {
                Some((scope, day, row)) if day.saturating_add(KEEP) >= today => {
                    meters.restore(&scope, day, row.requests, row.tokens);
                }
                _ => gone.push(Op::remove(Table::Budgets, key)),
            }
        }
        if !gone.is_empty() {
            store.write_soft(gone).await?;
        }
    }
}

/// Until `stop`, and once more then.
pub async fn run(meters: Arc<Meters>, store: Arc<dyn Store>, stop: CancellationToken) {
    let mut known = Known::new();
    let (mut failing, mut swept) = (false, tokio::time::Instant::now());
    loop {
        let over = tokio::time::timeout(EVERY, stop.cancelled()).await.is_ok();
        if swept.elapsed() > SWEEP {
            // Who has not called for a while is as if he never had.
            meters.sweep(day_of(SystemTime::now()));
            swept = tokio::time::Instant::now();
        }
        let kept = keep(&meters, &*store, &mut known).await;
        if let Err(error) = &kept
            && !failing
        {
            tracing::warn!(%error, "what limits count by the day is kept in memory only until the store takes writes again");
        }
        failing = kept.is_err();
        if over {
            return;
        }
    }
}

pub(super) async fn keep(meters: &Meters, store: &dyn Store, known: &mut Known) -> Result<(), StoreError> {
    let mut fresh = Vec::new();
    for (scope, requests, tokens) in meters.days() {
        for day in both(&requests, &tokens) {
            let row = Row { requests: requests.of(day), tokens: tokens.of(day) };
            if known.get(&(scope.clone(), day)) != Some(&row) {
                fresh.push((scope.clone(), day, row));
            }
        }
    }
    if fresh.is_empty() {
        return Ok(());
    }
    let put = |(scope, day, row): &(Scope, u32, Row)| {
        // Two plain fields: there is nothing in it that JSON could not say.
        Op::put(Table::Budgets, key(scope, *day), serde_json::to_vec(row).unwrap_or_default())
    };
    store.write_soft(fresh.iter().map(put).collect()).await?;
    let newest = fresh.iter().map(|(_, day, _)| *day).max().unwrap_or(0);
    known.retain(|(_, day), _| day.saturating_add(KEEP) >= newest);
    known.extend(fresh.into_iter().map(|(scope, day, row)| ((scope, day), row)));
    Ok(())
}

fn both(requests: &Days, tokens: &Days) -> std::collections::BTreeSet<u32> {
    requests.all().chain(tokens.all()).map(|(day, _)| day).collect()
}

/// A NUL stands in no name.
fn key(scope: &Scope, day: u32) -> Vec<u8> {
    format!("{PREFIX}{}\0{}\0{day}", scope.kind(), scope.id()).into_bytes()
}

/// No scope's kind: rows of budgets begin with that.
const PREFIX: &str = "days\0";
const EVERY: Duration = Duration::from_secs(2);
const SWEEP: Duration = Duration::from_secs(60);
const PAGE: usize = 500;
/// Days before this one.
const KEEP: u32 = 2;
