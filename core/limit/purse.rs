//! One budget in one window, as requests meet it: they reserve from memory, and wait only when the block that is leased
//! does not reach. The arithmetic is `budget`'s, the leasing `lease`'s.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::Notify;

use super::{
    alert::{Alarm, Alert, Mark},
    budget::{Balance, Counter, Short},
    moment,
    window::Window,
};
use crate::{
    config::{Budget, MOST_NANO_USD, Per, Scope},
    error::{Error, Kind, Result},
    telemetry::metrics,
};

mod held;
mod words;

pub use held::{Held, Owner};

#[derive(Debug)]
pub struct Purse {
    pub scope: Scope,
    /// As messages call it.
    pub name: Arc<str>,
    pub per: Per,
    pub window: Window,
    state: Mutex<State>,
    /// Of the counter, as it was when somebody had the lock last: what is spent, reserved or may be. For whoever only looks.
    taken: AtomicU64,
    /// A block was leased, or the counter was read.
    granted: Notify,
    /// Where the keeper hears of it.
    wanted: Arc<Wanted>,
    /// It stands in line there.
    queued: AtomicBool,
    own: Weak<Purse>,
    /// What it is raised by for now, nano-dollars.
    raised: AtomicU64,
    alarm: Arc<Alarm>,
    lease: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// `None` until it was read.
    counter: Option<Counter<Weak<Owner>>>,
    /// As last configured; and its bound, with what it is raised by.
    budget: Option<Budget>,
    limit: u64,
    /// What was told in this window; what of it somebody has for good; and that this is not written down yet.
    told: Mark,
    noted: Mark,
    unwritten: bool,
    /// What all who wait for a block need together: one block serves them all, however slowly it is made.
    waiting: u64,
    /// When somebody asked last.
    asked: u64,
}

/// Purses whose keeper has something to do: with many of them he does not look at all for the sake of one.
#[derive(Debug, Default)]
pub struct Wanted {
    pub notify: Notify,
    purses: Mutex<Vec<Weak<Purse>>>,
}

impl Wanted {
    pub fn take(&self) -> Vec<Arc<Purse>> {
        let asked = std::mem::take(&mut *self.purses.lock().unwrap_or_else(PoisonError::into_inner));
        let asked = asked.iter().filter_map(Weak::upgrade);
        // From here on it may ask again.
        asked.inspect(|purse| purse.queued.store(false, Ordering::Release)).collect()
    }
}

/// What the keeper writes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub ceiling: u64,
    /// A block may be in use. After a clean end `ceiling` is what was spent.
    pub open: bool,
    pub told: Mark,
}

impl Purse {
    pub fn new(
        (scope, name): (Scope, Arc<str>),
        (per, window): (Per, Window),
        (wanted, alarm): (Arc<Wanted>, Arc<Alarm>),
        lease: Duration,
    ) -> Arc<Purse> {
        Arc::new_cyclic(|own| Purse {
            scope,
            name,
            per,
            window,
            state: Mutex::default(),
            taken: AtomicU64::new(0),
            granted: Notify::new(),
            wanted,
            queued: false.into(),
            own: own.clone(),
            raised: AtomicU64::new(0),
            alarm,
            lease,
        })
    }

    /// What it holds now, raises included.
    pub fn most(&self, budget: &Budget) -> u64 {
        budget.nano_usd.saturating_add(self.raised.load(Ordering::Relaxed)).min(MOST_NANO_USD)
    }

    pub fn raised(&self) -> u64 {
        self.raised.load(Ordering::Relaxed)
    }

    pub fn raise(&self, by: u64) {
        let before = self.raised.swap(by, Ordering::Relaxed);
        if before != by {
            // Whoever waits sees the other bound, and the keeper leases by it.
            let mut state = self.lock();
            state.limit = state.limit.saturating_sub(before).saturating_add(by);
            drop(state);
            self.granted.notify_waiters();
            self.ask();
        }
    }

    /// Its keeper has something to do: a counter to read, a block to lease, a row to write.
    pub fn ask(&self) {
        if !self.queued.swap(true, Ordering::AcqRel) {
            self.wanted.purses.lock().unwrap_or_else(PoisonError::into_inner).push(self.own.clone());
        }
        self.wanted.notify.notify_one();
    }

    /// Reserves `amount`, or raises `held` to it. Waits for a block when the leased one is too small, which is seldom.
    pub async fn hold(
        &self,
        (held, owner): (&mut Option<Held>, &Arc<Owner>),
        amount: u64,
        budget: &Budget,
        (now, moment): (SystemTime, u64),
    ) -> Result<()> {
        // Nearly always there is enough: no clock, and no place in the line of those who wait.
        match self.try_hold((held, owner), amount, budget, moment) {
            Ok(()) => return Ok(()),
            Err(Short::Block) => {}
            Err(short) => return Err(self.refused(budget, now, short)),
        }
        Box::pin(self.wait_and_hold((held, owner), amount, budget, now)).await
    }

    async fn wait_and_hold(
        &self,
        (held, owner): (&mut Option<Held>, &Arc<Owner>),
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
            match self.try_hold((held, owner), amount, budget, self.now()) {
                Ok(()) => return Ok(()),
                Err(Short::Block) => {}
                Err(short) => return Err(self.refused(budget, now, short)),
            }
            self.want(amount);
            if tokio::time::timeout_at(until.into(), granted).await.is_err() {
                let message = format!("the budget of {} cannot be reached right now; try again shortly", self.whose());
                return Err(Error::new(Kind::Overloaded, message).retry_after(Duration::from_secs(1)));
            }
        }
    }

    /// Asks for a block that also holds this.
    fn want(&self, amount: u64) {
        let mut state = self.lock();
        state.waiting = state.waiting.saturating_add(amount);
        drop(state);
        self.ask();
    }

    fn try_hold(
        &self,
        (held, owner): (&mut Option<Held>, &Arc<Owner>),
        amount: u64,
        budget: &Budget,
        now: u64,
    ) -> std::result::Result<(), Short> {
        let limit = self.most(budget);
        let until = now.saturating_add(as_nanos(self.lease));
        let mut state = self.lock();
        state.budget = Some(*budget);
        let State { counter, limit: known, asked, .. } = &mut *state;
        (*known, *asked) = (limit, now);
        let Some(counter) = counter else { return Err(Short::Block) };
        counter.hold_of((owner.id, held.is_none(), || Arc::downgrade(owner)), amount, limit, now, until)?;
        let low = counter.wants(limit, now, 0).is_some();
        self.taken.store(counter.taken(now), Ordering::Relaxed);
        match held {
            Some(held) => held.amount = held.amount.max(amount),
            None => *held = Some(Held { amount, soft: budget.soft_of(limit) }),
        }
        drop(state);
        if low {
            self.ask();
        }
        Ok(())
    }

    /// What `hold` would say now, as far as that is known. Holds nothing and counts nothing.
    pub fn would_hold(&self, amount: u64, budget: &Budget, now: SystemTime) -> Result<()> {
        let Some(Balance { left, reserved, .. }) = self.balance(budget) else { return Ok(()) };
        match amount > left {
            false => Ok(()),
            // What is reserved may come back.
            true if amount <= left.saturating_add(reserved) => Err(self.exceeded(budget, now, Short::Held)),
            true => Err(self.exceeded(budget, now, Short::Spent)),
        }
    }

    pub fn balance(&self, budget: &Budget) -> Option<Balance> {
        let (limit, now) = (self.most(budget), self.now());
        self.lock().counter.as_ref().map(|counter| counter.balance(limit, now))
    }

    /// Nano-dollars that are left, as far as can be seen without the lock. Not read yet: all, until `hold` waits for it and then
    /// knows.
    pub fn left(&self, budget: &Budget) -> u64 {
        self.most(budget).saturating_sub(self.taken.load(Ordering::Relaxed))
    }

    /// Has so much of it been spent that somebody was to be told?
    pub fn past_soft(&self, budget: &Budget) -> bool {
        let soft = budget.soft_of(self.most(budget));
        soft.is_some_and(|soft| self.lock().counter.as_ref().is_some_and(|counter| counter.spent() >= soft))
    }

    pub fn is_loaded(&self) -> bool {
        self.lock().counter.is_some()
    }

    /// As the store that counts for several gateways has it, for whoever looks.
    pub fn observe(&self, spent: u64, reserved: u64) {
        let mut state = self.lock();
        state.counter = Some(Counter::observed(spent, reserved));
        self.taken.store(spent.saturating_add(reserved), Ordering::Relaxed);
        let (limit, budget) = (state.limit, state.budget);
        drop(state);
        if budget.and_then(|budget| budget.soft_of(limit)).is_some_and(|soft| spent >= soft) {
            self.tell(Mark::SOFT, limit);
        }
    }

    /// What the ledger and the last lease say. The first of several readers wins.
    pub fn load(&self, spent: u64, lost: u64, told: Mark) {
        let now = self.now();
        let until = now.saturating_add(as_nanos(self.lease));
        let mut state = self.lock();
        (state.told, state.noted) = (state.told.and(told), state.noted.and(told));
        let counter = state.counter.get_or_insert_with(|| Counter::begun(spent, Some((lost, until))));
        self.taken.store(counter.taken(now), Ordering::Relaxed);
    }

    /// The end of the block that should be leased now, if one should.
    pub fn wants(&self) -> Option<u64> {
        let now = self.now();
        let State { counter, limit, waiting, .. } = &*self.lock();
        counter.as_ref()?.wants(*limit, now, *waiting)
    }

    /// What is to be written down: the end of the block that should be leased now, or that somebody was told.
    pub fn unwritten(&self) -> Option<Written> {
        let wants = self.wants();
        let mut state = self.lock();
        let told = std::mem::take(&mut state.unwritten);
        let ceiling = state.counter.as_ref()?.ceiling();
        (wants.is_some() || told).then(|| Written {
            ceiling: ceiling.max(wants.unwrap_or(0)),
            open: true,
            told: state.noted,
        })
    }

    /// The budget, as last configured: the keeper may look before the first request does.
    pub fn foresee(&self, budget: &Budget) {
        let mut state = self.lock();
        (state.budget, state.limit) = (Some(*budget), self.most(budget));
    }

    pub fn budget(&self) -> Option<Budget> {
        self.lock().budget
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
        let Some(counter) = &mut state.counter else { return 0 };
        let ended = counter.expire_but(now, until, |owner| owner.strong_count() > 0);
        self.taken.store(counter.taken(now), Ordering::Relaxed);
        ended
    }

    /// How the row reads when nothing is in use any more; `None` while something is.
    pub fn at_rest(&self) -> Option<Written> {
        let state = self.lock();
        let counter = state.counter.as_ref()?;
        counter.at_rest().then(|| Written { ceiling: counter.spent(), open: false, told: state.noted })
    }

    /// Nobody asked for so long, and nothing is in use: its block is given back, and what comes of that is to be written down.
    pub fn rest(&self, idle: Duration) -> Option<Written> {
        let mut state = self.lock();
        let quiet = state.asked.saturating_add(as_nanos(idle)) < self.now();
        let State { counter, noted, .. } = &mut *state;
        let counter = counter.as_mut().filter(|counter| quiet && counter.at_rest())?;
        counter.close();
        Some(Written { ceiling: counter.spent(), open: false, told: *noted })
    }

    /// A request is turned away: counted, and told once a window when nothing but a new window or a raise will help.
    pub(super) fn refused(&self, budget: &Budget, now: SystemTime, short: Short) -> Error {
        metrics().limited(self.scope.kind(), "budget");
        if short == Short::Spent {
            self.tell(Mark::EXHAUSTED, self.most(budget));
        }
        self.exceeded(budget, now, short)
    }

    /// Once a window.
    fn tell(&self, mark: Mark, bound: u64) {
        let mut state = self.lock();
        let Some(spent) = state.counter.as_ref().map(Counter::spent).filter(|_| !state.told.has(mark)) else { return };
        state.told = state.told.and(mark);
        drop(state);
        let (scope, name, window, per) = (self.scope.clone(), self.name.clone(), self.window.clone(), self.per);
        self.alarm.ring(Alert { scope, name, per, window, mark, spent, bound, purse: self.own.clone() });
    }

    /// Somebody has that alert for good: it is to be written down.
    pub(super) fn noted(&self, mark: Mark) {
        let mut state = self.lock();
        (state.noted, state.unwritten) = (state.noted.and(mark), true);
        drop(state);
        self.ask();
    }

    /// Budgets keep the real time, in a rehearsal too.
    fn now(&self) -> u64 {
        moment::nanos(Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Dollars, without zeros that say nothing.
pub fn usd(nano: u64) -> String {
    let text = format!("{}.{:09}", nano / NANO, nano % NANO);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn as_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How long a request waits for a block: a disk that syncs slowly, not one that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);
const NANO: u64 = 1_000_000_000;
