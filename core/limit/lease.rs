//! Durable blocks of budgets: taken ahead of need by a task of its own, so that a request waits for the store only when
//! little is left. After a crash a block counts as spent until its lease ends; then the ledger decides.

use std::{
    collections::HashSet,
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
use tokio_util::sync::CancellationToken;

use super::{
    alert::{Alarm, Mark},
    bound::Known,
    purse::{Purse, Wanted, Written},
    raise::Raises,
    window::Window,
};
use crate::{
    config::{Budget, Per, Rule, Scope},
    store::{Counters, Op, Store, StoreError, Table},
    telemetry::metrics,
};

mod idle;
mod peek;
mod shared;

/// The records, as budgets need them.
pub trait Ledger: Send + Sync {
    /// Nano-dollars of the scope's requests that began in `from..to`; of a provider those of its attempts. `None`: nobody keeps
    /// them by that.
    fn spent<'a>(
        &'a self,
        scope: &'a Scope,
        from: SystemTime,
        to: Option<SystemTime>,
    ) -> BoxFuture<'a, anyhow::Result<Option<u64>>>;
}

/// Every budget's counters.
pub struct Budgets {
    /// In force for a scope: asked first, because nearly every request falls into it.
    current: DashMap<(Scope, Per), Arc<Purse>, foldhash::quality::RandomState>,
    all: DashMap<(Scope, String), Arc<Purse>>,
    /// What the files say: read before anybody asks. Others (of keys, of users) are read when they are first met.
    configured: ArcSwap<Vec<Rule>>,
    /// What requests met last; nobody is let go while it is known there.
    known: Arc<Known>,
    store: Arc<dyn Store>,
    ledger: Option<Arc<dyn Ledger>>,
    raises: Raises,
    alarm: Arc<Alarm>,
    wanted: Arc<Wanted>,
    epoch: Instant,
    lease: Duration,
    /// The last write failed: said once.
    failing: AtomicBool,
    /// Who counts instead, where several gateways share a store: budgets are only looked at here.
    counters: Option<Arc<dyn Counters>>,
}

/// One budget as the API shows it.
#[derive(Debug, Clone)]
pub struct Account {
    pub scope: Scope,
    pub name: Arc<str>,
    pub budget: Budget,
    pub window: Window,
    /// With raises, nano-dollars.
    pub most: u64,
    pub raised: u64,
    /// `None` before it was read.
    pub balance: Option<super::Balance>,
    pub past_soft: bool,
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
    /// Who was told of it already.
    #[serde(default, skip_serializing_if = "Mark::is_none")]
    told: Mark,
}

/// What the store and the ledger say of one window, nano-dollars.
struct Read {
    spent: u64,
    /// What a killed gateway may have spent beyond it.
    lost: u64,
    told: Mark,
}

impl Budgets {
    pub fn new(store: Arc<dyn Store>, ledger: Option<Arc<dyn Ledger>>, lease: Duration) -> Arc<Budgets> {
        Arc::new(Budgets {
            current: DashMap::default(),
            all: DashMap::new(),
            configured: ArcSwap::default(),
            known: Arc::default(),
            raises: Raises::default(),
            alarm: Arc::default(),
            counters: store.counters(),
            store,
            ledger,
            wanted: Arc::default(),
            epoch: Instant::now(),
            lease,
            failing: false.into(),
        })
    }

    /// Takes over what is configured; counters stay.
    pub fn configure(&self, rules: impl Iterator<Item = Rule>) {
        self.configured.store(Arc::new(rules.filter(|rule| !rule.budgets.is_empty()).collect()));
        self.wanted.notify.notify_one();
    }

    /// The counter that a request of this moment meets.
    pub fn purse(&self, (scope, name): (&Scope, &Arc<str>), budget: &Budget, now: SystemTime) -> Arc<Purse> {
        let key = (scope.clone(), budget.per);
        if let Some(purse) = self.current.get(&key).filter(|purse| purse.window.holds(now)) {
            return purse.clone();
        }
        let purse = self.in_window((scope, name), budget, Window::of(budget.per, now));
        self.current.insert(key, purse.clone());
        purse
    }

    fn in_window(&self, (scope, name): (&Scope, &Arc<str>), budget: &Budget, window: Window) -> Arc<Purse> {
        let make = || {
            let (owner, span) = ((scope.clone(), name.clone()), (budget.per, window.clone()));
            let purse = Purse::new(owner, span, (self.wanted.clone(), self.alarm.clone()), self.lease);
            purse.raise(self.raises.of(scope, budget.per, SystemTime::now()));
            purse.foresee(budget);
            purse.ask();
            purse
        };
        self.all.entry((scope.clone(), window.id.clone())).or_insert_with(make).clone()
    }

    pub(super) fn known(&self) -> &Arc<Known> {
        &self.known
    }

    pub fn raises(&self) -> &Raises {
        &self.raises
    }

    pub fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// After a change of them, and as they end.
    pub fn raise(&self) {
        let now = SystemTime::now();
        for purse in &self.all {
            purse.raise(self.raises.of(&purse.scope, purse.per, now));
        }
    }

    /// Reads the counters of every configured budget and leases their first blocks, so that no request has to wait.
    pub async fn prepare(&self) {
        if let Err(error) = self.raises.load(&*self.store).await {
            tracing::error!(%error, "raises of budgets could not be read: none of them counts");
        }
        self.tidy().await;
        self.look_ahead();
        self.watch().await;
        self.tend(self.purses()).await;
    }

    fn purses(&self) -> Vec<Arc<Purse>> {
        self.all.iter().map(|purse| purse.clone()).collect()
    }

    /// Until `stop`: leases what is wanted, looks ahead to the next window, lets go what was left behind.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tidied = Instant::now();
        loop {
            let asked = tokio::select! {
                () = self.wanted.notify.notified() => self.wanted.take(),
                _ = tick.tick() => {
                    self.look_ahead();
                    self.raise();
                    self.expire();
                    self.watch().await;
                    self.show();
                    if tidied.elapsed() > TIDY {
                        self.let_go(IDLE).await;
                        self.tidy().await;
                        tidied = Instant::now();
                    }
                    self.purses()
                }
                () = stop.cancelled() => return,
            };
            self.tend(asked).await;
        }
    }

    /// At the end, when everything is settled: the next start finds what was spent, and no block in use.
    pub async fn close(&self) {
        if self.counters.is_some() {
            return;
        }
        let purses = self.purses();
        let rows = purses.iter().filter_map(|purse| Some(put(purse, purse.at_rest()?))).collect::<Vec<_>>();
        if !rows.is_empty()
            && let Err(error) = self.store.write(rows).await
        {
            tracing::warn!(%error, "budgets could not be closed: their blocks count as spent for a while after the next start");
        }
    }

    /// Of one budget now.
    pub fn account(&self, (scope, name): (&Scope, &Arc<str>), budget: &Budget, now: SystemTime) -> Account {
        let purse = self.purse((scope, name), budget, now);
        Account {
            scope: scope.clone(),
            name: name.clone(),
            budget: *budget,
            window: purse.window.clone(),
            most: purse.most(budget),
            raised: purse.raised(),
            balance: purse.balance(budget),
            past_soft: purse.past_soft(budget),
        }
    }

    /// Of every budget that is configured, and of those that requests met in this window.
    pub fn accounts(&self, now: SystemTime) -> Vec<Account> {
        let configured = self.configured.load();
        let each = configured.iter().flat_map(|rule| rule.budgets.iter().map(move |budget| (rule, budget)));
        let mut all: Vec<Account> =
            each.map(|(rule, budget)| self.account((&rule.scope, &rule.name), budget, now)).collect();
        let known: HashSet<&Scope> = configured.iter().map(|rule| &rule.scope).collect();
        let met = self.current.iter().filter(|purse| purse.window.holds(now) && !known.contains(&purse.scope));
        let mut met: Vec<Arc<Purse>> = met.map(|purse| purse.clone()).collect();
        met.sort_by(|a, b| (&a.scope, a.per).cmp(&(&b.scope, b.per)));
        all.extend(met.iter().filter_map(|purse| {
            let budget = purse.budget()?;
            Some(self.account((&purse.scope, &purse.name), &budget, now))
        }));
        all
    }

    /// Might a raise of this scope concern anybody? Keys, users and organisations may be met later.
    pub fn knows(&self, scope: &Scope) -> bool {
        matches!(scope, Scope::Key(_) | Scope::User(_) | Scope::Organisation(_))
            || self.configured.load().iter().any(|rule| rule.scope == *scope)
    }

    /// Counters of this moment and of the next minute exist.
    fn look_ahead(&self) {
        let now = SystemTime::now();
        for rule in &**self.configured.load() {
            for budget in rule.budgets.iter() {
                let owner = (&rule.scope, &rule.name);
                self.purse(owner, budget, now).foresee(budget);
                let next = Window::of(budget.per, now + AHEAD);
                if !next.holds(now) {
                    self.in_window(owner, budget, next).foresee(budget);
                }
            }
        }
    }

    /// Reads counters that are new, and leases a block for each that wants one: all of them in one write.
    async fn tend(&self, purses: Vec<Arc<Purse>>) {
        if self.counters.is_some() {
            return;
        }
        for purse in purses.iter().filter(|purse| !purse.is_loaded()) {
            self.load(purse).await;
        }
        let asked = purses.into_iter().filter_map(|purse| purse.unwritten().map(|written| (purse, written)));
        let asked: Vec<(Arc<Purse>, Written)> = asked.collect();
        if asked.is_empty() {
            return;
        }
        let rows = asked.iter().map(|(purse, written)| put(purse, *written));
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
        for (purse, written) in asked {
            purse.grant(written.ceiling);
        }
    }

    async fn load(&self, purse: &Purse) {
        let Some(Read { spent, lost, told }) = self.read(&purse.scope, &purse.window).await else { return };
        if lost > 0 {
            let usd = super::purse::usd(lost);
            tracing::info!(scope = %purse.scope, usd, lease = ?self.lease, "a block was in use when the gateway ended: it counts as spent for a while");
        }
        purse.load(spent, lost, told);
    }

    async fn read(&self, scope: &Scope, window: &Window) -> Option<Read> {
        let row = match self.row(scope, window).await {
            Ok(row) => row,
            // Not silently open: without its counter no request of the scope goes on.
            Err(error) => {
                tracing::error!(%error, %scope, "a budget could not be read");
                return None;
            }
        };
        let spent = match &self.ledger {
            None => None,
            Some(ledger) => match ledger.spent(scope, window.start, window.end).await {
                Ok(spent) => spent,
                Err(error) => {
                    tracing::warn!(%error, %scope, "records could not be summed: the budget counts its last block as spent");
                    None
                }
            },
        };
        let ceiling = row.as_ref().map_or(0, |row| row.ceiling);
        let told = row.as_ref().map(|row| row.told).unwrap_or_default();
        // What a clean end wrote down is exact; records may be kept for less time than the window is long.
        let closed = row.as_ref().filter(|row| !row.open).map_or(0, |row| row.ceiling);
        let spent = spent.unwrap_or(ceiling).max(closed);
        let lost = row.filter(|row| row.open).map_or(0, |row| row.ceiling.saturating_sub(spent));
        Some(Read { spent, lost, told })
    }

    async fn row(&self, scope: &Scope, window: &Window) -> anyhow::Result<Option<Row>> {
        let Some(value) = self.store.read(Table::Budgets, &key(scope, window)).await? else { return Ok(None) };
        Ok(Some(serde_json::from_slice(&value)?))
    }

    fn expire(&self) {
        for purse in &self.all {
            let count = purse.expire();
            if count > 0 {
                tracing::warn!(scope = %purse.scope, count, "reservations were never settled; they were let go");
            }
        }
    }

    /// Gauges.
    fn show(&self) {
        for Account { scope, name, budget, most, balance, .. } in self.accounts(SystemTime::now()) {
            if let Some(balance) = balance {
                metrics().budget(scope.kind(), &name, budget.per.name(), [most, balance.spent, balance.reserved]);
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
        let ended = self.raises.forget_past(now);
        let gone = ended.iter().map(|id| Op::remove(Table::Raises, id.as_bytes()));
        if !ended.is_empty()
            && let Err(error) = self.store.write_soft(gone.collect()).await
        {
            tracing::warn!(%error, "rows of raises that have ended could not be removed");
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
    let row = Row { ceiling: written.ceiling, open: written.open, end, told: written.told };
    // Plain fields: there is nothing in it that JSON could not say.
    Op::put(Table::Budgets, key(&purse.scope, &purse.window), serde_json::to_vec(&row).unwrap_or_default())
}

/// The scope's kind, its id, the window: a NUL stands in none of them.
fn key(scope: &Scope, window: &Window) -> Vec<u8> {
    [scope.kind(), &**scope.id(), &window.id].join("\0").into_bytes()
}

const TICK: Duration = Duration::from_secs(1);
/// Before a window begins its counter is ready.
const AHEAD: Duration = Duration::from_secs(60);
const TIDY: Duration = Duration::from_secs(600);
/// After its last request.
const IDLE: Duration = Duration::from_secs(3600);
const KEEP: Duration = Duration::from_secs(3600);
const KEEP_ROWS: Duration = Duration::from_secs(2 * 86_400);
const PAGE: usize = 500;
