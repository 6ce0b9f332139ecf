//! Durable blocks of budgets: taken ahead of need by a task of its own, so that a request waits for the store only when
//! little is left. After a crash a block counts as spent until its lease ends; then the ledger decides.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use dashmap::DashMap;
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    purse::{Purse, Written},
    window::Window,
};
use crate::{
    config::{Budget, Per, Team},
    store::{Op, Store, StoreError, Table},
    telemetry::metrics,
};

/// The records, as budgets need them.
pub trait Ledger: Send + Sync {
    /// Nano-dollars of `team`'s requests that began in `from..to`. `None`: no records are kept.
    fn spent<'a>(
        &'a self,
        team: &'a str,
        from: SystemTime,
        to: Option<SystemTime>,
    ) -> BoxFuture<'a, anyhow::Result<Option<u64>>>;
}

/// Every budget's counters.
pub struct Budgets {
    /// In force for a team: asked first, because nearly every request falls into it.
    current: DashMap<(Arc<str>, Per), Arc<Purse>, foldhash::quality::RandomState>,
    all: DashMap<(Arc<str>, String), Arc<Purse>>,
    teams: ArcSwap<BTreeMap<Arc<str>, Budget>>,
    store: Arc<dyn Store>,
    ledger: Option<Arc<dyn Ledger>>,
    wanted: Arc<Notify>,
    epoch: Instant,
    lease: Duration,
    /// The last write failed: said once.
    failing: AtomicBool,
}

/// As it lies in the store.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    ceiling: u64,
    open: bool,
    /// Of the window, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<u64>,
}

impl Budgets {
    pub fn new(store: Arc<dyn Store>, ledger: Option<Arc<dyn Ledger>>, lease: Duration) -> Arc<Budgets> {
        Arc::new(Budgets {
            current: DashMap::default(),
            all: DashMap::new(),
            teams: ArcSwap::default(),
            store,
            ledger,
            wanted: Arc::new(Notify::new()),
            epoch: Instant::now(),
            lease,
            failing: false.into(),
        })
    }

    /// Takes over what is configured; counters stay.
    pub fn set_teams(&self, teams: &BTreeMap<String, Team>) {
        let budgets = teams.iter().filter_map(|(name, team)| Some((Arc::from(name.as_str()), team.budget?)));
        self.teams.store(Arc::new(budgets.collect()));
        self.wanted.notify_one();
    }

    /// The counter that a request of this moment meets.
    pub fn purse(&self, team: &Arc<str>, per: Per, now: SystemTime) -> Arc<Purse> {
        let key = (team.clone(), per);
        if let Some(purse) = self.current.get(&key).filter(|purse| purse.window.holds(now)) {
            return purse.clone();
        }
        let purse = self.in_window(team, per, Window::of(per, now));
        self.current.insert(key, purse.clone());
        purse
    }

    fn in_window(&self, team: &Arc<str>, per: Per, window: Window) -> Arc<Purse> {
        let make = || Purse::new(team.clone(), per, window.clone(), self.wanted.clone(), self.epoch, self.lease);
        self.all.entry((team.clone(), window.id.clone())).or_insert_with(make).clone()
    }

    /// Reads the counters of every configured budget and leases their first blocks, so that no request has to wait.
    pub async fn prepare(&self) {
        self.tidy().await;
        self.look_ahead();
        self.tend().await;
    }

    /// Until `stop`: leases what is wanted, looks ahead to the next window, lets go what was left behind.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tidied = Instant::now();
        loop {
            tokio::select! {
                () = self.wanted.notified() => {}
                _ = tick.tick() => {
                    self.look_ahead();
                    self.expire();
                    self.show();
                    if tidied.elapsed() > TIDY {
                        self.tidy().await;
                        tidied = Instant::now();
                    }
                }
                () = stop.cancelled() => return,
            }
            self.tend().await;
        }
    }

    /// At the end, when everything is settled: the next start finds what was spent, and no block in use.
    pub async fn close(&self) {
        let purses: Vec<Arc<Purse>> = self.all.iter().map(|purse| purse.clone()).collect();
        let rows = purses.iter().filter_map(|purse| Some(put(purse, purse.at_rest()?))).collect::<Vec<_>>();
        if !rows.is_empty()
            && let Err(error) = self.store.write(rows).await
        {
            tracing::warn!(%error, "budgets could not be closed: their blocks count as spent for a while after the next start");
        }
    }

    /// Of one team's budget now: spent, reserved, left; `None` before it was read.
    pub fn balance(&self, team: &Arc<str>, budget: &Budget, now: SystemTime) -> (Window, Option<super::Balance>) {
        let purse = self.purse(team, budget.per, now);
        (purse.window.clone(), purse.balance(budget.nano_usd))
    }

    /// Counters of this moment and of the next minute exist.
    fn look_ahead(&self) {
        let now = SystemTime::now();
        for (team, budget) in &**self.teams.load() {
            self.purse(team, budget.per, now);
            let next = Window::of(budget.per, now + AHEAD);
            if !next.holds(now) {
                self.in_window(team, budget.per, next);
            }
        }
    }

    /// Reads counters that are new, and leases a block for each that wants one: all of them in one write.
    async fn tend(&self) {
        let purses: Vec<Arc<Purse>> = self.all.iter().map(|purse| purse.clone()).collect();
        for purse in purses.iter().filter(|purse| !purse.is_loaded()) {
            self.load(purse).await;
        }
        let asked: Vec<(Arc<Purse>, u64)> = purses.into_iter().filter_map(|p| Some((p.clone(), p.wants()?))).collect();
        if asked.is_empty() {
            return;
        }
        let rows = asked.iter().map(|(purse, ceiling)| put(purse, Written { ceiling: *ceiling, open: true }));
        match self.store.write(rows.collect()).await {
            Ok(()) => {
                if self.failing.swap(false, Ordering::Relaxed) {
                    tracing::info!("budgets are leased from the store again");
                }
            }
            // The bound holds all the same for as long as this process lives: serving goes on (promise 35).
            Err(error) => {
                metrics().lease_failed();
                if !self.failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "budgets are kept in memory only until the store takes writes again");
                }
            }
        }
        for (purse, ceiling) in asked {
            purse.grant(ceiling);
        }
    }

    async fn load(&self, purse: &Purse) {
        let limit = self.teams.load().get(&purse.team).map_or(0, |budget| budget.nano_usd);
        let row = match self.row(purse).await {
            Ok(row) => row,
            // Not silently open: without its counter no request of the team goes on.
            Err(error) => return tracing::error!(%error, team = %purse.team, "a budget could not be read"),
        };
        let spent = match &self.ledger {
            None => None,
            Some(ledger) => match ledger.spent(&purse.team, purse.window.start, purse.window.end).await {
                Ok(spent) => spent,
                Err(error) => {
                    tracing::warn!(%error, team = %purse.team, "records could not be summed: the budget counts its last block as spent");
                    None
                }
            },
        };
        let ceiling = row.as_ref().map_or(0, |row| row.ceiling);
        let spent = spent.unwrap_or(ceiling);
        let lost = row.filter(|row| row.open).map_or(0, |row| row.ceiling.saturating_sub(spent));
        if lost > 0 {
            let usd = super::purse::usd(lost);
            tracing::info!(team = %purse.team, usd, lease = ?self.lease, "a block was in use when the gateway ended: it counts as spent for a while");
        }
        purse.load(limit, spent, lost);
    }

    async fn row(&self, purse: &Purse) -> anyhow::Result<Option<Row>> {
        let Some(value) = self.store.read(Table::Budgets, &key(purse)).await? else { return Ok(None) };
        Ok(Some(serde_json::from_slice(&value)?))
    }

    fn expire(&self) {
        for purse in &self.all {
            let count = purse.expire();
            if count > 0 {
                tracing::warn!(team = %purse.team, count, "reservations were never settled; they were let go");
            }
        }
    }

    /// Gauges.
    fn show(&self) {
        let now = SystemTime::now();
        for (team, budget) in &**self.teams.load() {
            if let (_, Some(balance)) = self.balance(team, budget, now) {
                metrics().budget(team, budget.nano_usd, balance.spent, balance.reserved);
            }
        }
    }

    /// Counters of windows long past go: out of the memory when nobody needs them, out of the store a little later. A clock
    /// that goes back finds them in the ledger.
    async fn tidy(&self) {
        let now = SystemTime::now();
        let past = |end: Option<SystemTime>, by: Duration| end.is_some_and(|end| end + by < now);
        self.all.retain(|_, purse| !(past(purse.window.end, KEEP) && purse.at_rest().is_some()));
        self.current.retain(|_, purse| !past(purse.window.end, KEEP));
        if let Err(error) = self.remove_past(&past).await {
            tracing::warn!(%error, "rows of past budgets could not be removed");
        }
    }

    async fn remove_past(
        &self,
        past: &(dyn Fn(Option<SystemTime>, Duration) -> bool + Sync),
    ) -> Result<(), StoreError> {
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.scan(Table::Budgets, b"", after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = Some(last.clone());
            let end = |value: &[u8]| {
                let seconds = serde_json::from_slice::<Row>(value).ok()?.end?;
                Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds))
            };
            let gone = page.into_iter().filter(|(_, value)| past(end(value), KEEP_ROWS));
            let gone: Vec<Op> = gone.map(|(key, _)| Op::remove(Table::Budgets, key)).collect();
            if !gone.is_empty() {
                self.store.write_soft(gone).await?;
            }
        }
    }
}

fn put(purse: &Purse, written: Written) -> Op {
    let end = purse.window.end.and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok()).map(|d| d.as_secs());
    let row = Row { ceiling: written.ceiling, open: written.open, end };
    // Three plain fields: there is nothing in it that JSON could not say.
    Op::put(Table::Budgets, key(purse), serde_json::to_vec(&row).unwrap_or_default())
}

/// `team`, its name, the window: a NUL stands in none of them.
fn key(purse: &Purse) -> Vec<u8> {
    ["team", &purse.team, &purse.window.id].join("\0").into_bytes()
}

const TICK: Duration = Duration::from_secs(1);
/// Before a window begins its counter is ready.
const AHEAD: Duration = Duration::from_secs(60);
const TIDY: Duration = Duration::from_secs(3600);
const KEEP: Duration = Duration::from_secs(3600);
const KEEP_ROWS: Duration = Duration::from_secs(2 * 86_400);
const PAGE: usize = 500;
