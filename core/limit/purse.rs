//! One budget in one window, as requests meet it: they reserve from memory, and wait only when the block that is leased
//! does not reach. The arithmetic is `budget`'s, the leasing `lease`'s.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;

use super::{
    budget::{Balance, Counter, Short},
    window::Window,
};
use crate::{
    config::{Budget, Per},
    error::{Error, Kind, Result},
    telemetry::metrics,
};

#[derive(Debug)]
pub struct Purse {
    pub team: Arc<str>,
    pub per: Per,
    pub window: Window,
    state: Mutex<State>,
    /// A block was leased, or the counter was read.
    granted: Notify,
    /// Asks the keeper for a block.
    wanted: Arc<Notify>,
    epoch: Instant,
    lease: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// `None` until it was read.
    counter: Option<Counter>,
    /// Of the budget, as last configured.
    limit: u64,
    /// The largest amount that a request waits for.
    waiting: u64,
    /// Who holds a reservation: as long as they live it is renewed.
    owners: HashMap<u64, Weak<()>>,
}

/// Money that a request holds until it is settled. Dropped without that, it comes back when its lease ends.
#[derive(Debug)]
pub struct Held {
    purse: Arc<Purse>,
    id: u64,
    amount: u64,
    _owner: Arc<()>,
}

/// What the keeper writes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub ceiling: u64,
    /// A block may be in use. After a clean end `ceiling` is what was spent.
    pub open: bool,
}

impl Purse {
    pub fn new(
        team: Arc<str>,
        per: Per,
        window: Window,
        wanted: Arc<Notify>,
        epoch: Instant,
        lease: Duration,
    ) -> Arc<Purse> {
        Arc::new(Purse { team, per, window, state: Mutex::default(), granted: Notify::new(), wanted, epoch, lease })
    }

    /// Reserves `amount`, or raises `held` to it. Waits for a block when the leased one is too small, which is seldom.
    pub async fn hold(
        self: &Arc<Self>,
        held: &mut Option<Held>,
        amount: u64,
        budget: &Budget,
        now: SystemTime,
    ) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let granted = self.granted.notified();
            tokio::pin!(granted);
            // From here on no grant is missed.
            granted.as_mut().enable();
            match self.try_hold(held, amount, budget.nano_usd) {
                Ok(()) => return Ok(()),
                Err(Short::Block) => {}
                Err(short) => {
                    metrics().limited("team", "budget");
                    return Err(self.exceeded(budget, now, short));
                }
            }
            self.wanted.notify_one();
            if tokio::time::timeout_at(until.into(), granted).await.is_err() {
                let message =
                    format!("the budget of team `{}` cannot be reached right now; try again shortly", self.team);
                return Err(Error::new(Kind::Overloaded, message).retry_after(Duration::from_secs(1)));
            }
        }
    }

    fn try_hold(self: &Arc<Self>, held: &mut Option<Held>, amount: u64, limit: u64) -> std::result::Result<(), Short> {
        let now = self.now();
        let until = now.saturating_add(as_nanos(self.lease));
        let mut state = self.lock();
        let State { counter, limit: known, waiting, owners } = &mut *state;
        *known = limit;
        let Some(counter) = counter else { return Err(Short::Block) };
        let id = held.as_ref().map_or_else(next_id, |held| held.id);
        counter.hold(id, amount, limit, now, until).inspect_err(|short| {
            if *short == Short::Block {
                *waiting = (*waiting).max(amount);
            }
        })?;
        let low = counter.wants(limit, now, 0).is_some();
        match held {
            Some(held) => held.amount = held.amount.max(amount),
            None => {
                let owner = Arc::new(());
                owners.insert(id, Arc::downgrade(&owner));
                *held = Some(Held { purse: self.clone(), id, amount, _owner: owner });
            }
        }
        drop(state);
        if low {
            self.wanted.notify_one();
        }
        Ok(())
    }

    /// What `hold` would say now, as far as that is known. Holds nothing and counts nothing.
    pub fn would_hold(&self, amount: u64, budget: &Budget, now: SystemTime) -> Result<()> {
        let Some(Balance { left, reserved, .. }) = self.balance(budget.nano_usd) else { return Ok(()) };
        match amount > left {
            false => Ok(()),
            // What is reserved may come back.
            true if amount <= left.saturating_add(reserved) => Err(self.exceeded(budget, now, Short::Held)),
            true => Err(self.exceeded(budget, now, Short::Spent)),
        }
    }

    pub fn balance(&self, limit: u64) -> Option<Balance> {
        self.lock().counter.as_ref().map(|counter| counter.balance(limit, self.now()))
    }

    pub fn is_loaded(&self) -> bool {
        self.lock().counter.is_some()
    }

    /// What the ledger and the last lease say. The first of several readers wins.
    pub fn load(&self, limit: u64, spent: u64, lost: u64) {
        let until = self.now().saturating_add(as_nanos(self.lease));
        let mut state = self.lock();
        state.limit = limit;
        state.counter.get_or_insert_with(|| Counter::opened(spent, Some((lost, until))));
    }

    /// The end of the block that should be leased now, if one should.
    pub fn wants(&self) -> Option<u64> {
        let now = self.now();
        let State { counter, limit, waiting, owners: _ } = &*self.lock();
        counter.as_ref()?.wants(*limit, now, *waiting)
    }

    /// The block was leased: whoever waits tries again.
    pub fn grant(&self, ceiling: u64) {
        let mut state = self.lock();
        state.waiting = 0;
        if let Some(counter) = &mut state.counter {
            counter.granted(ceiling);
        }
        drop(state);
        self.granted.notify_waiters();
    }

    /// Renews what somebody still holds and lets go the rest whose lease ended; says how many those were.
    pub fn expire(&self) -> usize {
        let now = self.now();
        let until = now.saturating_add(as_nanos(self.lease));
        let mut state = self.lock();
        let State { counter, owners, .. } = &mut *state;
        let Some(counter) = counter else { return 0 };
        for id in counter.open().collect::<Vec<_>>() {
            if owners.get(&id).is_some_and(|owner| owner.strong_count() > 0) {
                counter.renew(id, until);
            }
        }
        owners.retain(|_, owner| owner.strong_count() > 0);
        counter.expire(now)
    }

    /// How the row reads when nothing is in use any more; `None` while something is.
    pub fn at_rest(&self) -> Option<Written> {
        let state = self.lock();
        let counter = state.counter.as_ref()?;
        counter.at_rest().then(|| Written { ceiling: counter.spent(), open: false })
    }

    fn exceeded(&self, budget: &Budget, now: SystemTime, short: Short) -> Error {
        let word = match self.per {
            Per::Day => "today's budget",
            Per::Week => "this week's budget",
            Per::Month => "this month's budget",
            Per::Total => "the budget",
        };
        let (team, usd) = (&self.team, usd(budget.nano_usd));
        if short == Short::Held {
            let message = format!(
                "requests under way hold what is left of {word} of team `{team}` ({usd} USD); try again shortly"
            );
            return Error::new(Kind::BudgetExceeded, message).retry_after(Duration::from_secs(1));
        }
        let spent = format!("{word} of team `{team}` ({usd} USD) is spent, or less is left than this request may cost");
        match self.window.end {
            Some(end) => {
                let seconds = end.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
                let message = format!("{spent}; it starts anew at {}", crate::auth::expiry::show(seconds));
                Error::new(Kind::BudgetExceeded, message).retry_after(self.window.ends_in(now).unwrap_or_default())
            }
            None => Error::new(Kind::BudgetExceeded, format!("{spent}; ask the gateway's operator for more")),
        }
    }

    fn now(&self) -> u64 {
        as_nanos(self.epoch.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    pub fn amount(&self) -> u64 {
        self.amount
    }

    /// The reservation ends; `used` was spent.
    pub fn settle(self, used: u64) {
        let mut state = self.purse.lock();
        if let Some(counter) = &mut state.counter {
            counter.settle(self.id, used);
        }
        state.owners.remove(&self.id);
    }
}

/// Dollars, without zeros that say nothing.
pub fn usd(nano: u64) -> String {
    let text = format!("{}.{:09}", nano / NANO, nano % NANO);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn next_id() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn as_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How long a request waits for a block: a disk that syncs slowly, not one that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
const NANO: u64 = 1_000_000_000;
